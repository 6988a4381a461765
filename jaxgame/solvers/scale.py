"""Constants of the game map on the tangent space, and the scale-free natural residual (theory §1)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.sparse import BCOO

from jaxgame import linalg, simplex
from jaxgame._pytree import pytree
from jaxgame.games import linearise
from jaxgame.games.affine import AffineMap, Aggregate, Edges, transposed_apply
from jaxgame.games.rational import Rational
from jaxgame.solvers.entropic import response
from jaxgame.solvers.parts import largest, total

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


@pytree()
class LogitScale(Scale):
    """The same for a game with rationality ϱ (n,): residual max |w − softmax(ϱ g⁰)| (theory §9).

    Where rounding of g⁰ would blur the softmax (ϱ beyond `resolved`) max |w − r| instead, r the entropic response to
    g⁰/σ near w: the natural residual in the limit ϱ = ∞.
    """

    rationality: Array

    @property
    def resolved(self) -> Array:
        return jnp.finfo(self.sigma.dtype).eps ** -0.5 / self.sigma

    @property
    def temperature(self) -> Array:
        """1/(ϱσ), (n, 1): of the scaled game, within what its precision can tell from 0 and from ∞."""
        eps = float(jnp.finfo(self.sigma.dtype).eps)
        return 1 / jnp.clip(self.rationality * self.sigma, 1e-3 * eps, 1e3 / eps)[:, None]

    def residual(self, profile: Array, marginals: Array) -> Array:
        rationality = self.rationality[:, None]
        heated = jnp.where((rationality > 0) & (rationality < jnp.inf), rationality, 1)
        entropic = jnp.where(profile > 0, jnp.log(jnp.where(profile > 0, profile, 1)) + 1, 0)
        own = marginals + jnp.where(rationality < jnp.inf, entropic / heated, 0)
        soft = rationality <= self.resolved
        logit = jax.nn.softmax(jnp.where(soft & (rationality > 0), rationality * own, 0), -1)
        near = response(profile + own / self.sigma, jnp.ones_like(rationality), self.temperature)
        return jnp.abs(profile - jnp.where(soft, logit, near)).max()

    def floor(self, marginals: Array) -> Array:
        soft = jnp.where(self.rationality <= self.resolved, self.rationality, 0)
        return 4 * jnp.finfo(marginals.dtype).eps * (2 + soft.max() * (self.curvature + self.sigma))


def uniform(game: Any, dtype) -> Array:
    """The profile in which every agent represents every group alike."""
    return jnp.full((game.n_agents, game.n_groups), 1 / game.n_groups, dtype)


def measure(game: Any, dtype) -> Scale:
    """The scale of a game. For games that are not quadratic L is local, at the uniform profile."""
    if isinstance(game, Rational):
        scale = measure(game.game, dtype)
        return LogitScale(scale.sigma, scale.curvature, game.rationalities)
    start = uniform(game, dtype)
    affine = linearise(game, start)
    marginals = simplex.project_tangent(game.marginals(start))
    L, own = norms(affine)
    sigma = jnp.maximum(L, jnp.abs(marginals).max())
    return Scale(jnp.where(sigma > 0, sigma, 1), own)


def norms(affine: AffineMap, axis: str | None = None) -> tuple[Array, Array]:
    """Upper bounds on L and on the largest own block: exact parts and the triangle inequality; L where agents do not
    meet through one matrix by the power method, from below. axis: over which the agents of a mean field are spread.
    """
    own, others = affine.own, affine.others
    met, reached = [], None
    if isinstance(others, Aggregate) and others.B is not None:
        felt, weight = (jnp.sqrt(total((x**2).sum(), axis)) for x in (others.sensitivity, others.reach))
        met, reached = [others.B], felt * weight
    elif isinstance(others, Edges) and isinstance(others.weights, BCOO) and others.left is None:
        met, reached = [] if others.B is None else [others.B], network_norm(others)
    matrices = [matrix for _, matrix in own.terms] + met
    sizes = linalg.norm_bound(linalg.tangent(jnp.stack(matrices))) if matrices else []
    norm = jnp.abs(own.diagonal).max(1)
    for (coefficient, _), size in zip(own.terms, sizes, strict=False):
        norm = norm + jnp.abs(coefficient) * size
    if own.dense is not None:
        norm = norm + linalg.frobenius(own.dense)
    norm = largest(norm.max(), axis)
    return (lipschitz(affine) if reached is None else norm + reached * (sizes[-1] if met else 1)), norm


def network_norm(others: Edges) -> Array:
    """The spectral norm of the weights, rows times `scale`, from below: power method, until it grows by 0.1 % no more.

    On one number an agent, where the power method on J would take D.
    """
    weights, n = others.weights, others.scale.shape[0]
    rows, columns = weights.indices[:, 0], weights.indices[:, 1]

    def body(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        x, norm, _, k = carry
        y = others.scale * (others.factor @ (x / _safe(jnp.linalg.norm(x)))[:, None])[:, 0]
        felt = (others.scale * y).at[rows].get(mode="fill", fill_value=0)
        return jnp.zeros(n, x.dtype).at[columns].add(weights.data * felt, mode="drop"), jnp.linalg.norm(y), norm, k + 1

    def growing(carry: tuple[Array, ...]) -> Array:
        _, norm, before, k = carry
        return (k < 2) | ((norm > 1.001 * before) & (k < POWER_STEPS))

    none = jnp.zeros((), others.scale.dtype)
    start = 1 + linalg.generic((n,), none.dtype), none, none, jnp.zeros((), int)
    return lax.while_loop(growing, body, start)[1]


def lipschitz(affine: AffineMap, weights: Array | None = None) -> Array:
    """The spectral norm of J, rows weighted by (n,), on the tangent space: power method on JᵀJ, from below."""
    start = simplex.project_tangent(linalg.generic(affine.linear.shape, affine.linear.dtype))
    apply, transpose = affine.apply, transposed_apply(affine)

    def weighted(x: Array) -> Array:
        return x if weights is None else weights[:, None] * x

    def body(_, carry):
        x, _ = carry
        y = simplex.project_tangent(weighted(apply(x / _safe(jnp.linalg.norm(x)))))
        return simplex.project_tangent(transpose(weighted(y))), jnp.linalg.norm(y)

    _, norm = lax.fori_loop(0, POWER_STEPS, body, (start, jnp.zeros((), start.dtype)))
    return norm


def _safe(x: Array) -> Array:
    return jnp.where(x > 0, x, 1)
