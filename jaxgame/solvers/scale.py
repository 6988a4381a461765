"""Constants of the game map on the tangent space, and the scale-free natural residual (theory §1)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxgame import linalg, simplex
from jaxgame._pytree import pytree
from jaxgame.games import linearise
from jaxgame.games.affine import AffineMap, Aggregate

POWER_STEPS = 30  # within a few per cent of the norm for the steps of first-order methods


@pytree()
class Scale:
    """What makes a residual scale-free: σ = max(L, spread of the marginals at the uniform profile), and its floor."""

    sigma: Array
    curvature: Array  # largest own curvature, for the floor of finite precision

    def residual(self, profile: Array, marginals: Array) -> Array:
        """max |w − Π(w + g/σ)|."""
        return jnp.abs(profile - simplex.project(profile + marginals / self.sigma)).max()

    def floor(self, marginals: Array) -> Array:
        """The residual that rounding alone leaves."""
        centred = jnp.abs(simplex.project_tangent(marginals)).max()
        return 8 * jnp.finfo(marginals.dtype).eps * (1 + (self.curvature + centred) / self.sigma)


def uniform(game: Any, dtype) -> Array:
    """The profile in which every agent represents every group alike."""
    return jnp.full((game.n_agents, game.n_groups), 1 / game.n_groups, dtype)


def measure(game: Any, dtype) -> Scale:
    """The scale of a game. For games that are not quadratic L is local, at the uniform profile."""
    start = uniform(game, dtype)
    affine = linearise(game, start)
    marginals = simplex.project_tangent(game.marginals(start))
    sigma = jnp.maximum(lipschitz_bound(affine), jnp.abs(marginals).max())
    return Scale(jnp.where(sigma > 0, sigma, 1), _own_norm(affine))


def lipschitz_bound(affine: AffineMap) -> Array:
    """An upper bound on L: exact parts and the triangle inequality for aggregates, the power method elsewhere."""
    if isinstance(affine.others, Aggregate) and affine.others.B is not None:
        weight = jnp.linalg.norm(affine.others.sensitivity) * jnp.linalg.norm(affine.others.reach)
        return _own_norm(affine) + weight * tangent_norm(affine.others.B)
    return lipschitz(affine)


def lipschitz(affine: AffineMap, weights: Array | None = None) -> Array:
    """The spectral norm of J, rows weighted by (n,), on the tangent space: power method on JᵀJ, from below."""
    start = linalg.generic(affine.linear.shape, affine.linear.dtype)

    def forward(x: Array) -> Array:
        out = affine.apply(simplex.project_tangent(x))
        return simplex.project_tangent(out if weights is None else weights[:, None] * out)

    transpose = jax.linear_transpose(forward, start)

    def body(_, carry):
        x, _ = carry
        x = x / _safe(jnp.linalg.norm(x))
        y = forward(x)
        return transpose(y)[0], jnp.linalg.norm(y)

    _, norm = lax.fori_loop(0, POWER_STEPS, body, (simplex.project_tangent(start), jnp.zeros((), start.dtype)))
    return norm


def tangent_norm(matrix: Array) -> Array:
    """Spectral norm of a (D, D) matrix between tangent vectors, a few per cent from above."""
    return linalg.norm_bound(linalg.tangent(matrix))


def _own_norm(affine: AffineMap) -> Array:
    own = affine.own
    norm = jnp.abs(own.diagonal).max(1)
    for coefficient, matrix in own.terms:
        norm = norm + jnp.abs(coefficient) * tangent_norm(matrix)
    if own.dense is not None:
        norm = norm + jnp.sqrt((own.dense**2).sum((1, 2)))
    return norm.max()


def _safe(x: Array) -> Array:
    return jnp.where(x > 0, x, 1)
