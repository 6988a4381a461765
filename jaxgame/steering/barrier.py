"""Equilibria smoothed by a logarithmic barrier: every group stays in, so that no gradient dies (theory §9).

With utilities U_i + τ Σ_d log w_id an excluded group keeps a share of about τ/ν_d, and what moves its price ν_d moves
that share. The smoothed equilibrium is the point w∘ν = τ of the central path of the game's complementarity problem.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxgame._pytree import Carried
from jaxgame.equilibrium import Equilibrium
from jaxgame.games import dtype_of, linearise, representation
from jaxgame.solvers import kkt
from jaxgame.solvers.loop import CONVERGED, MAX_STEPS
from jaxgame.solvers.newton import longest
from jaxgame.solvers.scale import measure

MAX_NEWTON = 100


def smoothed(game: Any, temperature: Array, start: Array) -> Equilibrium:
    """The equilibrium of the game with utilities U_i + τ Σ_d log w_id, τ > 0 in units of utility; `start` (n, D).

    Differentiable in the game and in τ. Its `residual` is that of the game itself, which τ keeps from 0; its `gap` the
    bound D τ on what an agent of a concave game can gain by leaving it.
    """
    profile, converged, steps = _smoothed(Carried.wrap(game), temperature, start)
    scale = measure(game, profile.dtype)
    return Equilibrium(
        game=game,
        profile=profile,
        representation=representation(game, profile),
        residual=scale.residual(profile, game.marginals(profile)),
        gap=profile.shape[-1] * temperature,
        converged=converged,
        status=jnp.where(converged, CONVERGED, MAX_STEPS),
        steps=steps,
        evaluations=steps,
        tol=_tolerance(profile),
    )


def _tolerance(profile: Array) -> Array:
    return jnp.sqrt(jnp.finfo(profile.dtype).eps) * jnp.ones((), profile.dtype)


@jax.custom_jvp
def _smoothed(carried: Carried, temperature: Array, start: Array) -> tuple[Array, Array, Array]:
    """Primal-dual Newton steps (as in `solvers.newton`) towards w∘ν = τ: profile, whether it got there, and steps."""
    game = carried.unwrap()
    sigma = measure(game, dtype_of(game)).sigma
    goal = temperature / sigma
    everywhere = jnp.ones(start.shape, bool)
    mixture = 0.5 * start + 0.5 / start.shape[-1]
    tolerance = _tolerance(start)

    def unfinished(carry: tuple[Array, ...]) -> Array:
        _, _, left, k = carry
        return (left > tolerance) & (k < MAX_NEWTON)

    def body(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        w, dual, _, k = carry
        affine = linearise(game, w).scaled(1 / sigma)
        target = jnp.maximum(goal, 0.2 * (w * dual).mean())
        solve = kkt.factorise(affine, dual / w, everywhere)
        dw, _ = solve(target / w - affine(w), 1 - w.sum(1))
        dd = (target - dual * (w + dw)) / w
        length = jnp.minimum(1, 0.995 * jnp.minimum(longest(w, dw), longest(dual, dd)))
        left = jnp.maximum(jnp.abs(dw / w).max(), jnp.abs(w * dual / goal - 1).max())
        return w + length * dw, dual + length * dd, left, k + 1

    start_dual = jnp.broadcast_to(jnp.maximum(goal, 1) / mixture, mixture.shape)
    carry = (mixture, start_dual, jnp.full((), jnp.inf, start.dtype), jnp.zeros((), int))
    mixture, _, left, steps = lax.while_loop(unfinished, body, carry)
    return mixture / mixture.sum(1, keepdims=True), left <= tolerance, steps


@_smoothed.defjvp
def _smoothed_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    """(J + τ/w²) dW + dμ = dg + dτ/w with Σ_d dW = 0, dg the change of the marginals with W held."""
    carried, temperature, _ = primals
    profile, converged, steps = _smoothed(*primals)
    game, change = carried.unwrap(), tangents[0].unwrap()
    _, direct = jax.jvp(lambda g: g.marginals(profile), (game,), (change,))
    solve = kkt.factorise(linearise(game, profile), temperature / profile**2, jnp.ones(profile.shape, bool))
    moved, _ = solve(direct + tangents[1] / profile, jnp.zeros_like(profile[:, 0]))
    moved = jnp.where(converged, moved, jnp.nan)
    none = tuple(np.zeros(x.shape, jax.dtypes.float0) for x in (converged, steps))
    return (profile, converged, steps), (moved, *none)
