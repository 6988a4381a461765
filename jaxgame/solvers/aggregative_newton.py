"""Newton on the D-dimensional fixed point of the aggregate, whatever the number of agents (theory §6)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jaxgame import linalg, simplex
from jaxgame._pytree import pytree
from jaxgame.games import is_aggregative
from jaxgame.games.affine import AffineMap, Blocks
from jaxgame.solvers.blocked import mapped
from jaxgame.solvers.newton import Newton
from jaxgame.solvers.sizes import sizes

RESPONSE_STEPS = 200
RESPONSE_TOL = 1e-3  # the last change of a mixture, at first; the Newton step corrects what is left
RESPONSE_PRECISION = 0.1  # later: the same relative to the residual, or wrong faces would repeat themselves


@pytree()
class AggregativeNewton(Newton):
    """Newton for games in which agents meet only through S = Σ reach_j w_j: faces from best responses to S.

    Every agent responds to the aggregate (in closed form where its curvature is diagonal), the responses fix the
    faces, and on these the aggregate solves a D × D system. O(n D²) a step for scalar and diagonal curvature, O(n D³)
    for matrices; never n × n. Raises ValueError before the start for a game on a network or with pairwise couplings.
    """

    def check(self, game: Any) -> None:
        if not is_aggregative(game):
            raise ValueError(
                "AggregativeNewton needs agents that meet through a mean (MeanField, AlignmentGame's default coupling, "
                "or a ConcaveGame with coupling 'mean'); use Newton, or no solver argument"
            )

    def guess(self, affine: AffineMap, base: Array, residual: Array) -> tuple[Array, Array]:
        return response_guess(affine, base, residual)


def response_guess(affine: AffineMap, base: Array, residual: Array) -> tuple[Array, Array]:
    """The faces of the best responses to the others at `base`, as exact as the natural residual asks, and these."""
    met = affine.linear - affine.others.apply(base)
    rounding = 4 * jnp.finfo(residual.dtype).eps  # below it mixtures change for ever
    tol = jnp.clip(RESPONSE_PRECISION * residual, rounding, RESPONSE_TOL)
    tol = jnp.where(jnp.isposinf(residual), jnp.inf, tol)
    mixture = best_response(affine, met, simplex.project(base), tol)
    return mixture > 0, mixture


def best_response(affine: AffineMap, linear: Array, start: Array, tol: Array) -> Array:
    """Maximisers of linear_i·w − ½ wᵀ M_i w on the simplex, (n, D), until a step changes no weight by more than tol.

    Accelerated proximal steps in a diagonal metric that dominates M_i (FISTA with restart, an agent each): one step,
    and exact, for diagonal blocks; √κ of them for matrices, each a matrix product and a water-filling.
    """
    metric, own = _majoriser(affine), affine.own
    if own.is_diagonal:
        return simplex.waterfill(linear, metric)
    agents = own.agents(*linear.shape), linear, metric, start

    def responses(part: tuple) -> Array:
        blocks, linear, metric, start = part
        return _accelerated(own.of(blocks), linear, metric, start, tol)

    return mapped(responses, agents, sizes().responses)


def _accelerated(own: Blocks, linear: Array, metric: Array, start: Array, tol: Array) -> Array:
    def unsettled(carry: tuple[Array, ...]) -> Array:
        _, _, _, moved, k = carry
        return (moved > tol) & (k < RESPONSE_STEPS)

    def body(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        mixture, ahead, momentum, _, k = carry
        new = simplex.waterfill(linear - own.apply(ahead) + metric * ahead, metric)
        onward = new - mixture
        uphill = (metric * (ahead - new) * onward).sum(1, keepdims=True) > 0
        grown = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + jnp.where(uphill, 0, (momentum - 1) / grown) * onward
        return new, ahead, jnp.where(uphill, 1, grown), jnp.abs(onward).max(), k + 1

    ones = jnp.ones_like(start[:, :1])
    carry = (start, start, ones, jnp.full((), jnp.inf, start.dtype), jnp.zeros((), int))
    return lax.while_loop(unsettled, body, carry)[0]


def _majoriser(affine: AffineMap) -> Array:
    """A positive diagonal (n, D) that dominates every own block between mixtures, whose differences are tangent."""
    size = jnp.abs(affine.own.diagonal)
    for coefficient, matrix in affine.own.terms:
        size = size + (jnp.abs(coefficient) * linalg.quick_norm_bound(linalg.tangent(matrix)))[:, None]
    if affine.own.dense is not None:
        size = size + linalg.quick_norm_bound(linalg.tangent(affine.own.dense))[:, None]
    size = jnp.broadcast_to(size, affine.linear.shape)
    return size + 1e-6 * size.max(1, keepdims=True) + jnp.finfo(size.dtype).tiny
