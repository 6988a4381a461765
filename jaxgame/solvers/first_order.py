"""What the first-order methods share: constants of the game map for step sizes, kept up to date along the way."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxgame import simplex
from jaxgame._pytree import pytree
from jaxgame.games import is_quadratic, linearise
from jaxgame.solvers.scale import lipschitz


@pytree()
class Slope:
    """Lipschitz constant L of the game map, and its co-coercivity β: ⟨ΔF, Δw⟩ ≥ β ‖ΔF‖² for the changes seen so far.

    β is 1/L in a potential game and at least c/L² in a strongly monotone one, so that steps of β are safe in both.
    """

    L: Array
    cocoercivity: Array

    def updated(self, change: Array, map_change: Array) -> Slope:
        """With the last change of the profile and of the game map."""
        map_change = simplex.project_tangent(map_change)
        length, rise = jnp.linalg.norm(change), jnp.linalg.norm(map_change)
        # Below this length rounding dominates both differences.
        reliable = (length > jnp.sqrt(jnp.finfo(change.dtype).eps * change.shape[0])) & (rise > 0) & jnp.isfinite(rise)
        L = rise / jnp.where(reliable, length, 1)
        cocoercivity = (change * map_change).sum() / jnp.where(reliable, rise, 1) ** 2
        grown = jnp.where(reliable, jnp.maximum(self.L, L), self.L)
        lowered = jnp.where(reliable, jnp.minimum(self.cocoercivity, cocoercivity), self.cocoercivity)
        return Slope(grown, jnp.clip(lowered, 1e-6 / grown, 1 / grown))


def initial_slope(game: Any, profile: Array, weights: Array | None = None) -> Slope:
    """From the Jacobian at a profile (rows weighted): it holds everywhere in quadratic games, elsewhere it is a
    start.
    """
    L = lipschitz(linearise(game, profile), weights)
    L = jnp.where(L > 0, L, 1) * (1.02 if is_quadratic(game) else 1.2)  # the power method errs from below
    return Slope(L, 1 / L)
