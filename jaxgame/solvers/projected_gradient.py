"""Projected gradient: the baseline (theory §6)."""

from __future__ import annotations

from typing import Any

from jax import Array

from jaxgame import simplex
from jaxgame._pytree import pytree
from jaxgame.solvers.first_order import Slope, initial_slope


@pytree()
class GradientState:
    profile: Array
    marginals: Array
    slope: Slope


@pytree()
class ProjectedGradient:
    """w ← Π(w − β F(w)), β the co-coercivity of the game map seen so far (1/L in potential games, at least c/L² else).

    One evaluation a step; κ log 1/ε evaluations in potential games, κ² log 1/ε in strongly monotone ones.
    """

    def init(self, game: Any, profile: Array) -> GradientState:
        return GradientState(profile, game.marginals(profile), initial_slope(game, profile))

    def step(self, game: Any, state: GradientState) -> GradientState:
        profile = simplex.project(state.profile + state.slope.cocoercivity * state.marginals)
        marginals = game.marginals(profile)
        slope = state.slope.updated(profile - state.profile, state.marginals - marginals)
        return GradientState(profile, marginals, slope)
