"""Three ways to make one model be the mixture π_w: supervised, by distillation, by RLHF (theory §8).

Each trains n models at once, one an agent, from one model to start with, on replies to single questions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame import _checks
from jaxgame.policies import transformer
from jaxgame.policies.groups import answer_law, divergence, total_variation
from jaxgame.policies.mixing import mixture_reward
from jaxgame.policies.mixture import MixturePolicy
from jaxgame.policies.model import token_scores
from jaxgame.policies.questionnaire import START, Questionnaire
from jaxgame.policies.training import Report, train
from jaxgame.policies.transformer import Architecture
from jaxgame.policies.transformers import Transformer, Transformers, draw

STEPS, LEARNING_RATE = 600, 2e-3
REPLIES = 16  # to each question, a step


def supervised(*arguments: Any, **options: Any) -> Transformers:
    """Maximum likelihood of examples from group d with probability w_d: their optimum is π_w. Arguments: `_realise`."""
    return _realise(SupervisedLoss, *arguments, **options)


def distilled(*arguments: Any, **options: Any) -> Transformers:
    """The law of the next token of π_w, with its Bayes-updated weights, taught at each token. Arguments: `_realise`."""
    return _realise(DistillationLoss, *arguments, **options)


def rlhf(*arguments: Any, beta: float = 1.0, **options: Any) -> Transformers:
    """Policy gradient on E r_w − β KL(π ‖ π_ref), r_w = β (log π_w − log π_ref), the reference being the start: the
    optimum is π_w. Arguments: `_realise`.
    """
    return _realise(partial(PolicyLoss, beta=beta), *arguments, **options)


def _realise(
    loss: Callable[..., Any],
    models: Transformers,
    weights: Any,
    start: Transformer,
    questionnaire: Questionnaire,
    key: Array,
    *,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    replies: int = REPLIES,
    checkpoint: Path | None = None,
    report: Report = lambda line: None,
) -> Transformers:
    """n models: models (D groups), weights (n, D) rows on the simplex, start the model that all begin as.

    checkpoint: a folder (`train`). Raises ValueError for weights off the simplex and a start of another architecture.
    """
    weights = jnp.asarray(weights)
    if weights.ndim != 2 or weights.shape[1] != len(models):
        raise ValueError(f"weights has shape {weights.shape}, expected (n, {len(models)})")
    weights = _checks.shares("weights", weights).astype(jnp.float32)
    if start.architecture != models.architecture:
        raise ValueError(f"start is a model of {start.architecture}, expected {models.architecture}, the groups'")
    students = Transformers(
        jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(weights), *leaf.shape)), start.params),
        models.architecture,
    )
    shared = {"groups": models.params, "reference": start.params}
    return train(
        students,
        loss(questionnaire, replies),
        weights,
        shared,
        key,
        steps=steps,
        learning_rate=learning_rate,
        checkpoint=checkpoint,
        report=report,
    )[0]


@dataclass(frozen=True)
class Fidelity:
    """How near n models are to their mixtures, exactly, over the replies to each question: means over questions, (n,).

    total_variation; divergence: KL(π_w ‖ model) in nats.
    """

    total_variation: np.ndarray
    divergence: np.ndarray


def fidelity(students: Transformers, models: Transformers, weights: Any, questionnaire: Questionnaire) -> Fidelity:
    """Of students (n) to the mixtures of models (D) with weights (n, D), by enumeration of the replies."""
    said = answer_law(students, questionnaire)
    wanted = np.einsum("nd,dqo->nqo", np.asarray(weights, float), answer_law(models, questionnaire))
    return Fidelity(total_variation(said, wanted).mean(-1), divergence(wanted, said).mean(-1))


@dataclass(frozen=True)
class SupervisedLoss:
    """Negative log-likelihood of replies from the groups, drawn with the agent's weights (D,)."""

    questionnaire: Questionnaire
    replies: int

    def __call__(self, of: Architecture, params: Any, weights: Array, shared: Any, key: Array) -> Array:
        texts = _from_groups(self, of, shared["groups"], weights, key)
        return -jnp.mean(_reply_scores(of, params, texts))


@dataclass(frozen=True)
class DistillationLoss:
    """KL(π_w ‖ model) of the next token, summed over the tokens of replies drawn from π_w."""

    questionnaire: Questionnaire
    replies: int

    def __call__(self, of: Architecture, params: Any, weights: Array, shared: Any, key: Array) -> Array:
        texts = _from_groups(self, of, shared["groups"], weights, key)
        groups = Transformers(shared["groups"], of)

        def one(tokens: Array) -> Array:
            wanted = MixturePolicy(groups, weights).next_log_probs(tokens, start=2)[1:-1]
            said = transformer.log_probs(of, params, tokens)[1:-1]
            possible = wanted > -jnp.inf
            apart = jnp.sum(jnp.where(possible, jnp.exp(wanted) * (wanted - jnp.where(possible, said, 0)), 0), -1)
            return jnp.sum(jnp.where(tokens[2:] != START, apart, 0))

        return jnp.mean(jax.vmap(one)(texts))


@dataclass(frozen=True)
class PolicyLoss:
    """A loss whose gradient is the policy gradient of reward less KL penalty, with the other replies as a baseline."""

    questionnaire: Questionnaire
    replies: int
    beta: float

    def __call__(self, of: Architecture, params: Any, weights: Array, shared: Any, key: Array) -> Array:
        texts = _replies(self, of, jax.lax.stop_gradient(params), key)
        said = _reply_scores(of, params, texts)
        groups = jax.vmap(lambda group: _reply_scores(of, group, texts), out_axes=-1)(shared["groups"])
        reference = _reply_scores(of, shared["reference"], texts)
        reward = mixture_reward(groups, reference, weights, beta=self.beta)
        worth = reward - self.beta * (jax.lax.stop_gradient(said) - reference)
        worth = worth.reshape(-1, self.replies)
        others = (jnp.sum(worth, 1, keepdims=True) - worth) / (self.replies - 1)
        return -jnp.mean((worth - others).ravel() * said)


def _replies(loss: Any, of: Architecture, params: Any, key: Array) -> Array:
    """(Q · replies, T) texts: each prompt and some replies of a model, cut after the first full stop."""
    asked = loss.questionnaire
    prompts = jnp.repeat(jnp.asarray(asked.prompts), loss.replies, axis=0)
    keys = jax.random.split(key, len(prompts))
    new = jax.vmap(lambda key, prompt: draw(of, params, key, prompt, asked.reply_length)[0])(keys, prompts)
    return jnp.concatenate([prompts, cut(asked, new)], 1)


def cut(questionnaire: Questionnaire, new: Array) -> Array:
    """New tokens (N, R) up to the first that ends a sentence, start tokens thereafter."""
    stops = jnp.asarray(questionnaire.stops)[new].astype(int)
    return jnp.where(jnp.cumsum(stops, 1) - stops > 0, jnp.full_like(new, START), new)


def _from_groups(loss: Any, of: Architecture, groups: Any, weights: Array, key: Array) -> Array:
    """Such texts, each from one group, drawn with the weights."""
    which, key = jax.random.split(key)
    texts = jax.vmap(lambda params, key: _replies(loss, of, params, key))(
        groups, jax.random.split(key, weights.shape[0])
    )
    chosen = jax.random.categorical(which, jnp.log(weights), shape=(texts.shape[1],))
    return texts[chosen, jnp.arange(texts.shape[1])]


def _reply_scores(of: Architecture, params: Any, texts: Array) -> Array:
    """(N,) log-probability of each reply given its prompt."""

    def one(tokens: Array) -> Array:
        said = token_scores(transformer.log_probs(of, params, tokens), tokens)
        return jnp.sum(jnp.where(tokens != START, said, jnp.zeros_like(said))[2:])

    return jax.vmap(one)(texts)
