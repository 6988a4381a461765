"""Group models: D transformers trained on what the groups of a survey answered, and how well they say it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame.policies import transformer
from jaxgame.policies.model import group_log_probs, token_scores
from jaxgame.policies.questionnaire import START, Questionnaire
from jaxgame.policies.training import Report, train
from jaxgame.policies.transformer import Architecture
from jaxgame.policies.transformers import Transformer, Transformers
from jaxgame.surveys import Survey

WIDTH, HEADS = 32, 2
STEPS, LEARNING_RATE, BATCH = 1200, 5e-3, 24


def train_groups(
    survey: Survey,
    key: Array,
    *,
    questionnaire: Questionnaire | None = None,
    steps: int = STEPS,
    checkpoint: Path | None = None,
    report: Report = lambda line: None,
) -> tuple[Transformers, Transformer]:
    """A model a group, and one of everyone, trained at once on responses to all questions, one after the other, from
    any of them on.

    A response is one group member's: their answers are drawn independently from the group's (`survey.answers`), for a
    table of counts does not tell how one person's answers go together. questionnaire: default that of the survey; of
    fewer questions to hold some out. checkpoint: a folder (`train`). Raises ValueError.
    """
    asked = Questionnaire.of(survey) if questionnaire is None else questionnaire
    of = Architecture(len(asked.vocabulary), asked.length, WIDTH, HEADS)
    begin, go = jax.random.split(key)
    answers = answer_table(survey, asked)
    everyone = np.einsum("d,dqo->qo", np.asarray(survey.shares, float), answers)
    answers = jnp.asarray(np.concatenate([answers, everyone[None]]), jnp.float32)
    models = Transformers.fresh(of, len(answers), begin)
    loss = ResponseLoss(asked, BATCH)
    options: Any = dict(steps=steps, learning_rate=LEARNING_RATE, checkpoint=checkpoint, report=report)
    trained = train(models, loss, jnp.log(answers), None, go, **options)[0]
    return trained[np.arange(len(survey.groups))], trained[len(survey.groups)]


@dataclass(frozen=True)
class ResponseLoss:
    """Negative log-likelihood an answer of responses drawn from a group's log answers (Q, options)."""

    questionnaire: Questionnaire
    batch: int

    def __call__(self, of: Architecture, params: Any, log_answers: Array, shared: None, key: Array) -> Array:
        n_questions = log_answers.shape[0]
        of_answers, of_first = jax.random.split(key)
        answers = jax.random.categorical(of_answers, log_answers, shape=(self.batch, n_questions))
        first = jax.random.randint(of_first, (self.batch,), 0, n_questions)

        def score(tokens: Array) -> Array:
            said = token_scores(transformer.log_probs(of, params, tokens), tokens)
            return jnp.sum(jnp.where(tokens != START, said, jnp.zeros_like(said)))

        return -jnp.mean(jax.vmap(score)(self.questionnaire.responses(answers, first))) / n_questions


def answer_law(models: Any, questionnaire: Questionnaire) -> np.ndarray:
    """(D, Q, options) probability of each reply to each question alone, by scoring all of them: the exact law.

    What is missing to 1 goes to texts that are no answer. models: `Transformers`, or a sequence of models.
    """
    sentences = questionnaire.sentences
    sequences = np.concatenate([np.full_like(sentences[..., :1], START), sentences], -1)
    flat = sequences.reshape(-1, sequences.shape[-1])
    if isinstance(models, Transformers):
        scores = models.scores(flat, start=2)
    else:
        scores = np.stack([_scored(models, jnp.asarray(tokens)) for tokens in flat])
    law = np.exp(scores.astype(float)).T.reshape(-1, *sentences.shape[:2])
    return np.where(sentences[None, :, :, 1] != START, law, 0)


def _scored(models: Any, tokens: Array) -> np.ndarray:
    said = token_scores(group_log_probs(models, tokens), tokens)
    return np.asarray(jnp.where((tokens != START)[None], said, 0)[:, 2:].sum(-1))


@dataclass(frozen=True)
class Quality:
    """How well group models say what their groups answered: mean total variation over the questions, (D,) each.

    uniform, group_mean: what saying nothing of a group scores: all answers alike, or everyone's mean (by share).
    correlation: of the distances between pairs of groups (mean total variation) with the survey's.
    """

    models: np.ndarray
    uniform: np.ndarray
    group_mean: np.ndarray
    correlation: float
    questions: tuple[str, ...]


def quality(models: Transformers, survey: Survey, questionnaire: Questionnaire) -> Quality:
    """Of the models' answers to the questions of the questionnaire, against the survey's."""
    truth, law = answer_table(survey, questionnaire), answer_law(models, questionnaire)
    there = truth > 0
    uniform = there / there.sum(-1, keepdims=True)
    mean = np.einsum("d,dqo->qo", np.asarray(survey.shares, float), truth)[None]
    pairs = np.triu_indices(len(truth), 1)
    distances = [total_variation(x[pairs[0]], x[pairs[1]]).mean(-1) for x in (law, truth)]
    return Quality(
        models=total_variation(law, truth).mean(-1),
        uniform=total_variation(uniform, truth).mean(-1),
        group_mean=total_variation(np.broadcast_to(mean, truth.shape), truth).mean(-1),
        correlation=float(np.corrcoef(distances)[0, 1]) if len(pairs[0]) > 1 else float("nan"),
        questions=questionnaire.stems,
    )


def total_variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Between laws over the last axis, what is missing to 1 being one more outcome."""
    return 0.5 * (np.abs(p - q).sum(-1) + np.abs(p.sum(-1) - q.sum(-1)))


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p ‖ q), likewise; ∞ where q rules out what p does not."""
    full_p, full_q = (np.concatenate([x, np.clip(1 - x.sum(-1, keepdims=True), 0, None)], -1) for x in (p, q))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(full_p > 0, full_p * np.log(full_p / full_q), 0).sum(-1)


def measured(survey: Survey, law: np.ndarray) -> Survey:
    """The survey with the models' answers in place of its own: what the game is measured from."""
    answers = {}
    for q, question in enumerate(survey.questions):
        said = law[:, q, : len(question.options)]
        answers[question.id] = jnp.asarray(said / said.sum(-1, keepdims=True), survey.dtype)
    return replace(survey, answers=answers)


def answer_table(survey: Survey, questionnaire: Questionnaire) -> np.ndarray:
    """(D, Q, options) what the groups answered to the questions of the questionnaire, 0 for options there are not."""
    stems = Questionnaire.of(survey).stems
    table = np.zeros((len(survey.groups), *questionnaire.sentences.shape[:2]))
    for k, stem in enumerate(questionnaire.stems):
        question = survey.questions[stems.index(stem)]
        table[:, k, : len(question.options)] = np.asarray(survey.answers[question.id], float)
    return table
