"""Every agent's own part of the system of `kkt`: one small system an agent on its face, without what the others do.

    (M_i x_i)_d + θ_id x_id + μ_i = rhs_id  for d in A_i,    x_id = 0 off A_i,    Σ_d x_id = total_i.

x_i = G_i rhs_i + (…) total_i with G_i the agent's own response on the tangent of its face. For matrix curvature the
G_i are n·D² numbers: kept where they are few, else found anew for each block of agents, which stays in cache and costs
no memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxgame import linalg
from jaxgame._pytree import pytree
from jaxgame.games.affine import AffineMap, Aggregate
from jaxgame.solvers.blocked import mapped, summed

Solve = Callable[[Array, Array], tuple[Array, Array]]
KEPT = 2**25  # numbers n·D² up to which all responses are kept: 268 MB in float64
BLOCK = 128  # agents whose responses are found at a time, in cache


@pytree()
class Responses:
    """Of agents: x = inverse·rhs − μ·right, μ = (left·rhs − total) / mass, and lift·total more."""

    inverse: Array  # (n, D, D), zero off the faces
    right: Array  # (n, D)
    left: Array
    mass: Array  # (n,)
    lift: Array

    def solve(self, rhs: Array, total: Array) -> tuple[Array, Array]:
        mu = ((self.left * rhs).sum(1) - total) / self.mass
        return jnp.einsum("ide,ie->id", self.inverse, rhs) - mu[:, None] * self.right, mu + self.lift * total

    def tangents(self) -> Array:
        """G_i, (n, D, D)."""
        return self.inverse - self.right[:, :, None] * (self.left / self.mass[:, None])[:, None, :]


class OwnBlocks:
    """The factorised systems of all agents."""

    def __init__(self, affine: AffineMap, theta: Array, face: Array):
        n, n_groups = theta.shape
        self.own = affine.own
        self.agents = self.own.agents(n, n_groups), theta, face
        self.kept = mapped(self._responses, self.agents, BLOCK) if n * n_groups**2 <= KEPT else None

    def solve(self, rhs: Array, total: Array) -> tuple[Array, Array]:
        """(rhs (n, D), total (n,)) -> (x, μ)."""
        if self.kept is not None:
            return self.kept.solve(rhs, total)
        return mapped(lambda part: self._responses(part[2]).solve(part[0], part[1]), (rhs, total, self.agents), BLOCK)

    def to_aggregate(self, others: Aggregate) -> Array:
        """Σ_i reach_i G_i L_i, (D, D): how the aggregate answers to itself."""

        def tangents(agents: Any) -> Array:
            return (agents if self.kept is not None else self._responses(agents)).tangents()

        responses = self.agents if self.kept is None else self.kept
        if others.B is not None:
            weight = others.reach * others.sensitivity
            return (
                summed(lambda x: jnp.einsum("i,ide->de", x[1], tangents(x[0])), (responses, weight), BLOCK) @ others.B
            )
        parts = responses, others.reach, others.left
        return summed(lambda x: jnp.einsum("i,ide,ief->df", x[1], tangents(x[0]), x[2]), parts, BLOCK)

    def _responses(self, agents: tuple) -> Responses:
        """By a bordered inverse. A multiple of 11ᵀ on the face moves only μ, and makes a block invertible that is so on
        the tangent space alone.
        """
        blocks, theta, face = agents
        matrices = jax.vmap(self.own.block)(blocks)
        lift = jnp.abs(jnp.diagonal(matrices, axis1=1, axis2=2)).mean(1)
        lift = jnp.where(lift > 0, lift, 1)
        both = face[:, :, None] & face[:, None, :]
        alone = jax.vmap(jnp.diag)(jnp.where(face, theta, 1))
        matrices = jnp.where(both, matrices + lift[:, None, None], 0) + alone
        inverse = jnp.where(both, linalg.inverse_positive(matrices), 0)
        right, left = inverse.sum(2), inverse.sum(1)
        return Responses(inverse, right, left, right.sum(1), lift)


class OwnDiagonals:
    """The same for diagonal curvature: G_i = diag(s) − s sᵀ / Σ s."""

    def __init__(self, affine: AffineMap, theta: Array, face: Array):
        self.slopes = jnp.where(face, 1 / (affine.own.diagonal + theta), 0)
        self.mass = self.slopes.sum(1)

    def solve(self, rhs: Array, total: Array) -> tuple[Array, Array]:
        mu = ((self.slopes * rhs).sum(1) - total) / self.mass
        return self.slopes * (rhs - mu[:, None]), mu

    def to_aggregate(self, others: Aggregate) -> Array:
        if others.B is None:

            def total(agents: tuple) -> Array:
                slopes, weight, left = agents
                mean = jnp.einsum("id,ide->ie", slopes, left) / slopes.sum(1, keepdims=True)
                return jnp.einsum("i,id,ide->de", weight, slopes, left - mean[:, None, :])

            return summed(total, (self.slopes, others.reach, others.left), BLOCK)
        weight = (others.reach * others.sensitivity)[:, None] * self.slopes
        return (jnp.diag(weight.sum(0)) - (weight / self.mass[:, None]).T @ self.slopes) @ others.B


def own_blocks(affine: AffineMap, theta: Array, face: Array) -> OwnBlocks | OwnDiagonals:
    """The systems for θ (n, D) and faces (n, D) bool, none empty."""
    return (OwnDiagonals if affine.own.is_diagonal else OwnBlocks)(affine, theta, face)
