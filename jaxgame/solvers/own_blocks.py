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
from jax import Array, lax

from jaxgame import linalg
from jaxgame._pytree import pytree
from jaxgame.games.affine import AffineMap, Aggregate

Solve = Callable[[Array, Array], tuple[Array, Array]]
KEPT = 2**20  # numbers n·D² up to which all responses are kept
BLOCK = 128  # agents, else


@pytree()
class Response:
    """Of one agent: x = inverse·rhs − μ·right, μ = (left·rhs − total) / mass, less lift·total."""

    inverse: Array  # (D, D), zero off the face
    right: Array
    left: Array
    mass: Array
    lift: Array

    def solve(self, rhs: Array, total: Array) -> tuple[Array, Array]:
        mu = (self.left @ rhs - total) / self.mass
        return self.inverse @ rhs - mu * self.right, mu - self.lift * total

    def tangent(self) -> Array:
        """G, (D, D)."""
        return self.inverse - jnp.outer(self.right, self.left) / self.mass


class OwnBlocks:
    """The factorised systems of all agents."""

    def __init__(self, affine: AffineMap, theta: Array, face: Array):
        n, n_groups = theta.shape
        self.own = affine.own
        self.agents = self.own.agents(n, n_groups), theta, face
        self.kept = jax.vmap(self._response)(self.agents) if n * n_groups**2 <= KEPT else None

    def solve(self, rhs: Array, total: Array) -> tuple[Array, Array]:
        """(rhs (n, D), total (n,)) -> (x, μ)."""
        if self.kept is not None:
            return jax.vmap(Response.solve)(self.kept, rhs, total)
        parts = rhs, total, self.agents
        return lax.map(lambda x: self._response(x[2]).solve(x[0], x[1]), parts, batch_size=BLOCK)

    def to_aggregate(self, others: Aggregate) -> Array:
        """Σ_i reach_i G_i L_i, (D, D): how the aggregate answers to itself."""

        def one(agent: tuple) -> Array:
            response, weight, left = agent
            response = response if self.kept is not None else self._response(response)
            return weight * (response.tangent() if left is None else response.tangent() @ left)

        responses = self.agents if self.kept is None else self.kept
        if others.B is not None:
            return _summed(one, (responses, others.reach * others.sensitivity, None)) @ others.B
        return _summed(one, (responses, others.reach, others.left))

    def _response(self, agent: tuple) -> Response:
        """By a bordered inverse. A multiple of 11ᵀ on the face moves only μ, and makes a block invertible that is so on
        the tangent space alone.
        """
        block, theta, face = agent
        matrix = self.own.block(block)
        lift = jnp.abs(jnp.diagonal(matrix)).mean()
        lift = jnp.where(lift > 0, lift, 1)
        both = face[:, None] & face[None, :]
        block = jnp.where(both, matrix + lift, 0) + jnp.diag(jnp.where(face, theta, 1))
        inverse = jnp.where(both, linalg.inverse_positive(block), 0)
        right, left = inverse.sum(1), inverse.sum(0)
        return Response(inverse, right, left, right.sum(), lift)


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

            def one(agent: tuple) -> Array:
                slopes, weight, left = agent
                return weight * (slopes[:, None] * left - jnp.outer(slopes, slopes @ left) / slopes.sum())

            return _summed(one, (self.slopes, others.reach, others.left))
        weight = (others.reach * others.sensitivity)[:, None] * self.slopes
        return (jnp.diag(weight.sum(0)) - (weight / self.mass[:, None]).T @ self.slopes) @ others.B


def own_blocks(affine: AffineMap, theta: Array, face: Array) -> OwnBlocks | OwnDiagonals:
    """The systems for θ (n, D) and faces (n, D) bool, none empty."""
    return (OwnDiagonals if affine.own.is_diagonal else OwnBlocks)(affine, theta, face)


def _summed(function: Callable[[Any], Array], agents: Any) -> Array:
    """Σ_i function(agent i), a block of agents at a time."""
    n = jax.tree.leaves(agents)[0].shape[0]
    whole = n - n % BLOCK
    blocks = jax.tree.map(lambda x: x[:whole].reshape(-1, BLOCK, *x.shape[1:]), agents)
    rest = jax.vmap(function)(jax.tree.map(lambda x: x[whole:], agents)).sum(0)
    if not whole:
        return rest
    total, _ = lax.scan(lambda total, block: (total + jax.vmap(function)(block).sum(0), None), rest, blocks)
    return total
