"""Accelerated projected gradient (FISTA) with adaptive restart, for potential games (theory §2, §6)."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jaxgame import _checks, simplex
from jaxgame._pytree import pytree
from jaxgame.games import dtype_of, linearise
from jaxgame.games.potential import potential_weights, why_no_potential
from jaxgame.solvers.first_order import Slope, initial_slope
from jaxgame.solvers.scale import uniform


@pytree()
class AcceleratedState:
    profile: Array
    marginals: Array
    ahead: Array
    weights: Array
    momentum: Array
    slope: Slope


@pytree()
class AcceleratedGradient:
    """Nesterov's method on the weighted potential, restarted when momentum points uphill (O'Donoghue & Candès 2015).

    √κ log 1/ε evaluations, one a step (and one for the residual). Raises ValueError before the start for a game that is
    not a weighted potential game: there it need not converge.
    """

    evaluations_per_step: ClassVar[int] = 2

    def check(self, game: Any) -> None:
        profile = uniform(game, dtype_of(game))
        affine = linearise(game, profile)
        if _checks.concrete(affine.linear) and (reason := why_no_potential(affine)):
            raise ValueError(
                f"AcceleratedGradient needs a potential game, but {reason}; "
                "use OptimisticGradient, Newton, or no solver argument"
            )

    def init(self, game: Any, profile: Array) -> AcceleratedState:
        weights = potential_weights(linearise(game, profile))
        return AcceleratedState(
            profile=profile,
            marginals=game.marginals(profile),
            ahead=profile,
            weights=weights,
            momentum=jnp.ones((), profile.dtype),
            slope=initial_slope(game, profile, weights),
        )

    def step(self, game: Any, state: AcceleratedState) -> AcceleratedState:
        weights = state.weights[:, None]
        uphill_marginals = weights * game.marginals(state.ahead)
        profile = simplex.project(state.ahead + uphill_marginals / state.slope.L)
        marginals = game.marginals(profile)
        onward = profile - state.profile
        restart = ((state.ahead - profile) * onward).sum() > 0
        momentum = (1 + jnp.sqrt(1 + 4 * state.momentum**2)) / 2
        return AcceleratedState(
            profile=profile,
            marginals=marginals,
            ahead=profile + jnp.where(restart, 0, (state.momentum - 1) / momentum) * onward,
            weights=state.weights,
            momentum=jnp.where(restart, 1, momentum),
            slope=state.slope.updated(profile - state.ahead, uphill_marginals - weights * marginals),
        )
