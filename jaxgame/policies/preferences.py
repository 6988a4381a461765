"""Preferences between two responses whose DPO optimum is the mixture."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxgame import _checks


def prefer(rewards: Any, key: Array) -> Array:
    """(N,) whether the first response of each pair is preferred, by Bradley–Terry on the rewards (N, 2).

    With r_w of `mixture_reward` and the same β, and responses drawn from the reference, preferences drawn so have π_w as
    the optimum of DPO: its model of a preference, σ(β log π(y)/π_ref(y) − β log π(y′)/π_ref(y′)), is then exact at π_w.
    Raises ValueError for rewards that are not finite.
    """
    rewards = _checks.array("rewards", rewards, _checks.float_dtype(rewards), ("N", 2))
    chance = jax.nn.sigmoid(rewards[:, 0] - rewards[:, 1])
    return jax.random.uniform(key, chance.shape, chance.dtype) < chance


def weighted_examples(counts: int, weights: Any, key: Array) -> Array:
    """(counts,) groups from which to take training examples, drawn with the weights (D,): supervised, their optimum is
    π_w.
    """
    weights = _checks.shares(
        "weights", _checks.array("weights", weights, _checks.float_dtype(weights), ("D",)), weights
    )
    return jax.random.categorical(key, jnp.log(weights), shape=(counts,))
