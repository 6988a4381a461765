"""Text drawn from policies, and what the group models make of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgame.policies.mixture import MixturePolicy
from jaxgame.policies.questionnaire import START, Questionnaire
from jaxgame.policies.realise import cut
from jaxgame.policies.transformers import BATCH, Transformer, Transformers

EXAMPLES = 5
Report = Callable[[str], None]


@dataclass(frozen=True)
class Texts:
    """scores (N, D): log p_d of each response under each group's model. examples: a few of the texts."""

    scores: np.ndarray
    examples: np.ndarray


def spoken(
    models: Transformers, weights: np.ndarray, questionnaire: Questionnaire, key: Any, n: int, report: Report
) -> Texts:
    """n responses to all questions from π_w, written down and read again."""
    policy, prompt = MixturePolicy(models, jnp.asarray(weights, jnp.float32)), jnp.zeros(1, jnp.int32) + START
    scores, examples = [], []
    for begin in range(0, n, BATCH):
        report(f"response {begin:,} of {n:,}")
        size = min(BATCH, n - begin)
        new = policy.sample(jax.random.fold_in(key, begin), questionnaire.length - 1, size, prompt=prompt)
        texts = [questionnaire.decode(row) for row in np.asarray(new)]
        scores.append(models.scores(_read(questionnaire, texts)))
        examples += texts[: EXAMPLES - len(examples)]
    return Texts(np.concatenate(scores), np.array(examples))


def asked(model: Transformer, models: Transformers, questionnaire: Questionnaire, key: Any, n: int) -> Texts:
    """Replies of one model to single questions, n in all and equally many to each, read by the group models."""
    each, scores, examples = -(-n // len(questionnaire.stems)), [], []
    for q, prompt in enumerate(questionnaire.prompts):
        prompt = jnp.asarray(prompt)
        new = model.sample(jax.random.fold_in(key, q), questionnaire.reply_length, each, prompt=prompt)
        replies, back, counts = np.unique(
            np.asarray(cut(questionnaire, new)), axis=0, return_inverse=True, return_counts=True
        )
        texts = [questionnaire.decode([*prompt.tolist(), *reply]) for reply in replies]
        scores.append(models.scores(_read(questionnaire, texts), start=2)[back.reshape(-1)])
        examples.append(texts[int(np.argmax(counts))])
    return Texts(np.concatenate(scores), np.array(examples[:EXAMPLES]))


def _read(questionnaire: Questionnaire, texts: list[str]) -> np.ndarray:
    """(N, T) tokens of texts, filled up."""
    rows = np.full((len(texts), questionnaire.length), START, np.int32)
    for row, text in zip(rows, texts, strict=True):
        tokens = questionnaire.encode(text)
        row[: len(tokens)] = tokens
    return rows


def kept(path: Path, make: Callable[[], Texts]) -> Texts:
    """What is in the file, or what is made now and then put there, whole or not at all."""
    if path.exists():
        with np.load(path) as found:
            return Texts(found["scores"], found["examples"])
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp.npz")
    try:
        np.savez_compressed(temporary, scores=made.scores, examples=made.examples)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return made
