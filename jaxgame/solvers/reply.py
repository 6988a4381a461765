"""How best responses move with marginals, at fixed faces (theory §7): dw_i = G_i dg_i, agents last in memory.

G_i is the inverse, on the tangent of agent i's face, of its curvature and of what its own share of the aggregate adds.
Diagonal curvature: a formula, and corrections for the own share, or conjugate gradients where an agent is too large for
them. Matrices: conjugate gradients, and corrections for what is not symmetric in the own share.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from jaxgame.games.affine import Aggregate, Blocks
from jaxgame.games.members import Members
from jaxgame.solvers.columns import over_groups, tree
from jaxgame.solvers.faces import conjugate, inner, product
from jaxgame.solvers.own_blocks import own_blocks
from jaxgame.solvers.respond import is_closed

ROUNDS = 60  # of corrections, after which a reply counts as not found


def reply(members: Members, change: Array, mixture: Array) -> Array:
    """G_i applied to changes of the marginals (D, b), at mixtures (D, b).

    Linear in the changes, for transposition as well. NaN for an agent for which it is not found.
    """
    apply, on = product(members.affine().own), jnp.where(mixture > 0, jnp.ones_like(mixture), 0)
    count = tree(jnp.add, on)

    def tangent(x: Array) -> Array:
        """As `projection`, whose sums JAX does not know to be linear."""
        return on * (x - (tree(jnp.add, on * x) / count)[None])

    def operator(x: Array) -> Array:
        along = tangent(x)
        return tangent(apply(along)) + (x - along)

    def solver(members: Members) -> Callable:
        return lambda _, rhs: _found(members, tangent(rhs), mixture) + (rhs - tangent(rhs))

    turned = members if members.matrix is None else members.replace(matrix=members.matrix.T)
    found = lax.custom_linear_solve(operator, tangent(change), solver(members), solver(turned))
    return tangent(found)


def _found(members: Members, rhs: Array, mixture: Array) -> Array:
    if not is_closed(members):
        return _thorough(members, rhs, mixture)
    u = _slopes(members, mixture)
    mass = tree(jnp.add, u)

    def alone(rhs: Array) -> Array:
        return u * (rhs - (tree(jnp.add, u * rhs) / mass)[None])

    if members.own is None or members.matrix is None:
        return alone(rhs)
    quick, settled = _corrected(alone, rhs, members.own, members.matrix)
    return lax.cond(settled.all(), lambda: quick, lambda: _thorough(members, rhs, mixture))


def _thorough(members: Members, rhs: Array, mixture: Array) -> Array:
    blocks = members.curvature
    if members.own is None or members.matrix is None:
        return conjugate(blocks, rhs, mixture)
    even, odd = (members.matrix + members.matrix.T) / 2, (members.matrix - members.matrix.T) / 2
    alone = functools.partial(
        conjugate, Blocks(blocks.diagonal, (*blocks.terms, (members.own, even)), blocks.dense), mixture=mixture
    )
    found, settled = _corrected(alone, rhs, members.own, odd)
    return jnp.where(settled, found, jnp.nan)


def _corrected(alone: Callable[[Array], Array], rhs: Array, own: Array, matrix: Array) -> tuple[Array, Array]:
    """x = alone(rhs − own O x), and which agents (b,) have settled."""
    least = jnp.finfo(rhs.dtype).eps ** 2 * inner(rhs, rhs)

    def missing(x: Array, counted: Array) -> tuple[Array, Array]:
        felt = own[None] * (matrix @ x)
        off = felt - counted
        return felt, ~(inner(off, off) > least)

    def again(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        _, felt, _, k = carry
        new = alone(rhs - felt)
        return new, *missing(new, felt), k + 1

    x = alone(rhs)
    begin = x, *missing(x, jnp.zeros_like(x)), jnp.zeros((), int)
    x, _, settled, _ = lax.while_loop(lambda carry: ~carry[2].all() & (carry[3] < ROUNDS), again, begin)
    return x, settled


def _slopes(members: Members, mixture: Array) -> Array:
    return jnp.where(mixture > 0, 1 / jnp.broadcast_to(members.curvature.diagonal.T, mixture.shape), 0)


def own_part(members: Members) -> Array:
    """How much, at most, an agent's own share adds to its curvature, relative to that; for diagonal curvature."""
    assert members.own is not None and members.matrix is not None
    return (jnp.abs(members.own) * jnp.linalg.norm(members.matrix) / members.curvature.diagonal.min(1)).max()


def to_aggregate(members: Members, mixture: Array, weight: Array) -> Array:
    """Σ weight_i sensitivity_i G_i, (D, D), for mixtures (b, D).

    Exact for matrix curvature; for diagonal up to the square of `own_part`.
    """
    if not is_closed(members):
        n_groups = mixture.shape[1]
        every = Aggregate(members.sensitivity, jnp.eye(n_groups, dtype=mixture.dtype), weight, None, members.held, None)
        return own_blocks(members.affine(), jnp.zeros_like(mixture), mixture > 0).to_aggregate(every)
    u = _slopes(members, mixture.T)
    share = 1 / over_groups(jnp.add, u)
    strength = weight * members.sensitivity
    out = jnp.diag((strength[None] * u).sum(1)) - ((strength * share)[None] * u) @ u.T
    if members.own is None or members.matrix is None:
        return out
    # G less G own O G, with G = diag(u) − u uᵀ / Σ u.
    strength = strength * members.own
    ahead, back = members.matrix @ u, members.matrix.T @ u
    level = inner(u, ahead) * share
    rows = (strength * share)[None] * u
    first = members.matrix * ((strength[None] * u) @ u.T)
    return out - (first - (rows * (ahead - level[None])) @ u.T - rows @ (u * back).T)
