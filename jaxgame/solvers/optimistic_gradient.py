"""Optimistic gradient = forward-reflected-backward splitting (Malitsky & Tam 2020, arXiv 1808.04162; theory §6)."""

from __future__ import annotations

from typing import Any

from jax import Array

from jaxgame import simplex
from jaxgame._pytree import pytree
from jaxgame.solvers.first_order import Slope, initial_slope


@pytree()
class OptimisticState:
    profile: Array
    marginals: Array
    previous: Array
    step_size: Array
    slope: Slope


@pytree()
class OptimisticGradient:
    """w ← Π(w − η F_k − η' (F_k − F_{k−1})), η = .45/L, η' the step before. One evaluation and one projection a step.

    Converges for every monotone game, κ log 1/ε for strongly monotone ones.
    """

    def init(self, game: Any, profile: Array) -> OptimisticState:
        marginals = game.marginals(profile)
        slope = initial_slope(game, profile)
        return OptimisticState(profile, marginals, marginals, 0.45 / slope.L, slope)

    def step(self, game: Any, state: OptimisticState) -> OptimisticState:
        step = 0.45 / state.slope.L
        reflected = step * state.marginals + state.step_size * (state.marginals - state.previous)
        profile = simplex.project(state.profile + reflected)
        marginals = game.marginals(profile)
        slope = state.slope.updated(profile - state.profile, state.marginals - marginals)
        return OptimisticState(profile, marginals, state.marginals, step, slope)
