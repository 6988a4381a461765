"""Every agent's own part of the system of `kkt`: one small system an agent on its face, without what the others do.

    (M_i x_i)_d + θ_id x_id + μ_i = rhs_id  for d in A_i,    x_id = 0 off A_i,    Σ_d x_id = total_i.

x_i = G_i rhs_i + (…) total_i with G_i the agent's own response on the tangent of its face. For matrix curvature the
G_i are n·D² numbers: kept where they are few, else found anew for each block of agents, which stays in cache and costs
no memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxgame import linalg
from jaxgame._pytree import pytree
from jaxgame.games.affine import AffineMap, Aggregate
from jaxgame.linalg import dot, einsum
from jaxgame.solvers.blocked import mapped, summed
from jaxgame.solvers.sizes import sizes

Solve = Callable[[Array, Array], tuple[Array, Array]]
KEPT = 2**25  # numbers n·D² up to which all responses are kept: 268 MB in float64


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
        return einsum("ide,ie->id", self.inverse, rhs) - mu[:, None] * self.right, mu + self.lift * total

    def tangents(self) -> Array:
        """G_i, (n, D, D)."""
        return self.inverse - self.right[:, :, None] * (self.left / self.mass[:, None])[:, None, :]


class OwnBlocks:
    """The factorised systems of all agents.

    A population of several blocks is taken in the order of the sizes of the faces: blocks of small faces, which are
    most where many groups are left out, are inverted at half or three quarters of D.
    """

    def __init__(self, affine: AffineMap, theta: Array, face: Array):
        n, n_groups = theta.shape
        self.own = affine.own
        self.agents = self.own.agents(n, n_groups), theta, face
        if n <= sizes().inverses:
            self.sizes, self.place, self.order = [n_groups], slice(None), slice(None)
            self.kept = self._responses(self.order)
            return
        self.sizes = sorted({-(-n_groups // 2), -(-3 * n_groups // 4), n_groups})
        self.place = _by_size(face, self.sizes)
        self.order = jnp.zeros(n, int).at[self.place].set(jnp.arange(n), unique_indices=True)
        self.kept = mapped(self._responses, self.order, sizes().inverses) if n * n_groups**2 <= KEPT else None

    def solve(self, rhs: Array, total: Array) -> tuple[Array, Array]:
        """(rhs (n, D), total (n,)) -> (x, μ)."""
        rhs, total = rhs[self.order], total[self.order]
        if self.kept is not None:
            x, mu = self.kept.solve(rhs, total)
        else:
            parts = self.order, rhs, total
            x, mu = mapped(lambda part: self._responses(part[0]).solve(*part[1:]), parts, sizes().inverses)
        return x[self.place], mu[self.place]

    def to_aggregate(self, others: Aggregate) -> Array:
        """Σ_i reach_i G_i L_i, (D, D): how the aggregate answers to itself."""

        def tangents(responses: Any) -> Array:
            return (responses if self.kept is not None else self._responses(responses)).tangents()

        responses = self.order if self.kept is None else self.kept
        if others.B is not None:
            weight = (others.reach * others.sensitivity)[self.order]
            felt = summed(lambda x: einsum("i,ide->de", x[1], tangents(x[0])), (responses, weight), sizes().inverses)
            return dot(felt, others.B)
        assert others.left is not None
        left = others.left

        def answers(part: tuple) -> Array:
            responses, agents = part
            return einsum("i,ide,ief->df", others.reach[agents], tangents(responses), left[agents])

        return summed(answers, (responses, jnp.arange(len(others.reach))[self.order]), sizes().inverses)

    def _responses(self, index: Array | slice) -> Responses:
        """Of the agents at `index`, by a bordered inverse.

        A multiple of 11ᵀ on the face moves only μ, and makes a block invertible that is so on the tangent space alone.
        """
        blocks, theta, face = jax.tree.map(lambda x: x[index], self.agents)
        matrices = jax.vmap(self.own.block)(blocks)
        lift = jnp.abs(jnp.diagonal(matrices, axis1=1, axis2=2)).mean(1)
        lift = jnp.where(lift > 0, lift, 1)
        matrices = matrices + lift[:, None, None] + jax.vmap(jnp.diag)(theta)
        largest = face.sum(1).max()
        which = sum((largest > size).astype(int) for size in self.sizes[:-1])
        inverses = [functools.partial(_inverse_on, size) for size in self.sizes]
        inverse, right, left, mass = lax.switch(which, inverses, matrices, face)
        return Responses(inverse, right, left, mass, lift)


def _by_size(face: Array, sizes: list[int]) -> Array:
    """The places of agents in an order by how many of `sizes` their faces exceed."""
    exceeds = (face.sum(1)[:, None] > jnp.asarray(sizes[:-1], int)[None]).sum(1)
    mine = exceeds[:, None] == jnp.arange(len(sizes))[None]
    counts = jnp.cumsum(mine, 0)
    before = jnp.cumsum(counts[-1]) - counts[-1]
    return jnp.where(mine, counts - 1 + before[None], 0).sum(1)


def _inverse_on(size: int, matrices: Array, face: Array) -> tuple[Array, Array, Array, Array]:
    """Inverses (n, D, D) on faces (n, D) of at most `size` groups, zero off them; sums of their rows, columns, all."""
    n, n_groups = face.shape
    if size == n_groups:
        both = face[:, :, None] & face[:, None, :]
        inverse = linalg.inverse_positive(jnp.where(both, matrices, _identity(matrices)))
        inverse = jnp.where(both, inverse, 0)
        right, left = inverse.sum(2), inverse.sum(1)
        return inverse, right, left, right.sum(1)
    slot = jnp.cumsum(face, 1) - 1
    slots = jnp.arange(size)[None]
    here = (slot[:, None, :] == slots[:, :, None]) & face[:, None, :]
    group = jnp.where(here, jnp.arange(n_groups)[None, None], 0).sum(2)
    filled = slots <= slot[:, -1:]
    both = filled[:, :, None] & filled[:, None, :]
    agents = jnp.arange(n)[:, None]
    matrices = matrices[agents[:, :, None], group[:, :, None], group[:, None, :]]
    inverse = linalg.inverse_positive(jnp.where(both, matrices, _identity(matrices)))
    inverse = jnp.where(both, inverse, 0)
    right, left = inverse.sum(2), inverse.sum(1)
    # Each back in its place; off the face the slot is another group's.
    slot = jnp.clip(slot, 0, size - 1)
    right, left, mass = jnp.where(face, right[agents, slot], 0), jnp.where(face, left[agents, slot], 0), right.sum(1)
    inverse = inverse[agents[:, :, None], slot[:, :, None], slot[:, None, :]]
    return jnp.where(face[:, :, None] & face[:, None, :], inverse, 0), right, left, mass


def _identity(matrices: Array) -> Array:
    return jnp.eye(matrices.shape[-1], dtype=matrices.dtype)[None]


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
                mean = einsum("id,ide->ie", slopes, left) / slopes.sum(1, keepdims=True)
                return einsum("i,id,ide->de", weight, slopes, left - mean[:, None, :])

            return summed(total, (self.slopes, others.reach, others.left), sizes().inverses)
        weight = (others.reach * others.sensitivity)[:, None] * self.slopes
        return dot(jnp.diag(weight.sum(0)) - dot((weight / self.mass[:, None]).T, self.slopes), others.B)


def own_blocks(affine: AffineMap, theta: Array, face: Array) -> OwnBlocks | OwnDiagonals:
    """The systems for θ (n, D) and faces (n, D) bool, none empty."""
    return (OwnDiagonals if affine.own.is_diagonal else OwnBlocks)(affine, theta, face)
