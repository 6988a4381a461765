"""Extragradient (Korpelevich 1976; theory §6)."""

from __future__ import annotations

from typing import Any, ClassVar

from jax import Array

from jaxgame import simplex
from jaxgame._pytree import pytree
from jaxgame.solvers.first_order import initial_slope
from jaxgame.solvers.projected_gradient import GradientState


@pytree()
class Extragradient:
    """Look ahead v = Π(w − η F(w)), then w ← Π(w − η F(v)), η = 1/(2L). Two evaluations a step.

    Converges for every monotone game, κ log 1/ε for strongly monotone ones.
    """

    evaluations_per_step: ClassVar[int] = 2

    def init(self, game: Any, profile: Array) -> GradientState:
        return GradientState(profile, game.marginals(profile), initial_slope(game, profile))

    def step(self, game: Any, state: GradientState) -> GradientState:
        step = 0.5 / state.slope.L
        ahead = simplex.project(state.profile + step * state.marginals)
        beyond = game.marginals(ahead)
        slope = state.slope.updated(ahead - state.profile, state.marginals - beyond)
        profile = simplex.project(state.profile + step * beyond)
        return GradientState(profile, game.marginals(profile), slope)
