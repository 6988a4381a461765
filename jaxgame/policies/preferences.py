"""Preferences between two responses whose DPO optimum is the mixture."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array

from jaxgame import _checks


def prefer(rewards: Any, key: Array) -> Array:
    """(N,) whether the first response of each pair is preferred, by Bradley–Terry on the rewards (N, 2).

    With r_w of `mixture_reward` and the same β, and responses drawn from the reference, preferences drawn so have π_w
    as the optimum of DPO: its model of a preference, σ(β log π(y)/π_ref(y) − β log π(y′)/π_ref(y′)), is exact there.
    Raises ValueError for rewards that are not finite.
    """
    rewards = _checks.array("rewards", rewards, _checks.float_dtype(rewards), ("N", 2))
    chance = jax.nn.sigmoid(rewards[:, 0] - rewards[:, 1])
    return jax.random.uniform(key, chance.shape, chance.dtype) < chance
