"""Group models: D transformers trained on what the groups of a survey answered, and how well they do it."""

from __future__ import annotations
from typing import Any
import jax, jax.numpy as jnp, numpy as np
from jax import Array
from jaxgame.policies import transformer
from jaxgame.policies.questionnaire import START
from jaxgame.policies.model import token_scores


def response_loss(of: Any, params: Any, data: Any, shared: Any, key: Array) -> Array:
    """Mean negative log-likelihood of a token"""
    (log_answers,) = data  # (Q, O)
    qn = shared_q
    a, b = jax.random.split(key)
    answers = jax.random.categorical(a, log_answers[None], shape=(BATCH, log_answers.shape[0]))
    first = jax.random.randint(b, (BATCH,), 0, log_answers.shape[0])
    seqs = qn.responses(answers, first)
    ll = jax.vmap(lambda t: jnp.where(t != START, token_scores(transformer.log_probs(of, params, t), t), 0.0).sum())(
        seqs
    )
    return -ll.mean() / log_answers.shape[0]
