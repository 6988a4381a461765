"""The least of all complementary prices where floors leave no choice (theory §5)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame import simplex
from jaxgame.equilibrium import Equilibrium


def least_price(game: Any, exposure: Array, found: Equilibrium) -> Array:
    """The least prices λ ≥ 0 (D,), in every entry, at which the profile of `found` stays an equilibrium.

    For an agent that shows group d, no other group e may pay more: λ_d ≥ λ_e + (g_ie − g_id) / exposure_i. Such
    constraints on differences have a least solution, the fixed point of raising every price to what it must be at
    least, from 0 (Bellman–Ford); it is complementary where every group is held at its floor.
    """
    paid = np.asarray(found.prices, np.float64)
    slopes, face = np.asarray(game.marginals(found.profile), np.float64), np.asarray(simplex.face(found.profile))
    felt = np.asarray(exposure, np.float64)
    moved = felt > 0
    over = slopes[moved] / felt[moved, None]
    n_groups = len(paid)
    lead = np.full((n_groups, n_groups), -np.inf)  # of e over d
    for d in range(n_groups):
        show = face[moved, d]
        if show.any():
            lead[:, d] = (over[show] - over[show, d : d + 1]).max(0)
    prices = np.zeros(n_groups)
    for _ in range(n_groups):
        prices = np.maximum(prices, (prices[:, None] + lead).max(0))
    # Rounding may go round in circles, but no further than to the prices that were found.
    prices, rounding = np.minimum(prices, paid), 100 * float(jnp.finfo(found.profile.dtype).eps) * np.abs(paid).max()
    return jnp.asarray(np.where(prices > rounding, prices, 0), found.profile.dtype)
