"""The adaptive golden ratio algorithm, aGRAAL (Malitsky 2020, arXiv 1803.08832; theory §6)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxgame import simplex
from jaxgame._pytree import pytree
from jaxgame.solvers.scale import measure

PHI = 1.5
RHO = 1 / PHI + 1 / PHI**2


@pytree()
class GoldenState:
    profile: Array
    marginals: Array
    average: Array
    previous: Array
    previous_marginals: Array
    step_size: Array
    ratio: Array
    longest: Array


@pytree()
class GoldenRatio:
    """Steps from the local slope of the game map alone: no constant is needed. One evaluation a step.

    Converges for every monotone game, even where the map is Lipschitz only locally.
    """

    def init(self, game: Any, profile: Array) -> GoldenState:
        marginals = game.marginals(profile)
        sigma = measure(game, profile.dtype).sigma
        # A first step short enough to stay near, long enough to see the slope.
        nearby = simplex.project(profile + 1e-3 * marginals / sigma)
        nearby_marginals = game.marginals(nearby)
        rise = jnp.linalg.norm(simplex.project_tangent(nearby_marginals - marginals))
        length = jnp.linalg.norm(nearby - profile)
        step = jnp.where((rise > 0) & (length > 0), length / jnp.where(rise > 0, rise, 1), 1 / sigma)
        return GoldenState(
            nearby, nearby_marginals, nearby, profile, marginals, step, jnp.ones((), profile.dtype), 1e6 / sigma
        )

    def step(self, game: Any, state: GoldenState) -> GoldenState:
        change = ((state.profile - state.previous) ** 2).sum()
        rise = (simplex.project_tangent(state.marginals - state.previous_marginals) ** 2).sum()
        local = PHI * state.ratio / (4 * state.step_size) * change / jnp.where(rise > 0, rise, 1)
        local = jnp.where((rise > 0) & (change > 0), local, state.longest)
        step = jnp.minimum(jnp.minimum(RHO * state.step_size, local), state.longest)
        average = ((PHI - 1) * state.profile + state.average) / PHI
        profile = simplex.project(average + step * state.marginals)
        return GoldenState(
            profile=profile,
            marginals=game.marginals(profile),
            average=average,
            previous=state.profile,
            previous_marginals=state.marginals,
            step_size=step,
            ratio=PHI * step / state.step_size,
            longest=state.longest,
        )
