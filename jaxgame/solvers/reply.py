"""How best responses move with marginals, at fixed faces (theory §7): dw_i = G_i dg_i, rows of (b, D).

G_i is the inverse, on the tangent of agent i's face, of its curvature and of what its own share of the aggregate adds.
Diagonal curvature: a formula, and corrections for the own share, or conjugate gradients where an agent is too large for
them. Matrices: conjugate gradients, and corrections for what is not symmetric in the own share. Rows are summed by
products with a vector of ones: XLA reduces a short last axis far more slowly.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from jaxgame.games.affine import Aggregate, Blocks
from jaxgame.games.members import Members
from jaxgame.solvers.faces import conjugate
from jaxgame.solvers.own_blocks import own_blocks
from jaxgame.solvers.respond import is_closed

MODEST = 0.1  # the `own_part` up to which corrections converge fast
ROUNDS = 60  # of corrections, after which a reply counts as not found


def reply(members: Members, change: Array, mixture: Array) -> Array:
    """G_i applied to changes of the marginals (b, D), at mixtures (b, D).

    Linear in the changes, for transposition as well. NaN for an agent for which it is not found.
    """
    if is_closed(members) and members.own is None:
        return _found(members, change, mixture)
    apply, on = members.affine().own.apply, jnp.where(mixture > 0, jnp.ones_like(mixture), 0)
    share = 1 / _sums(on)

    def tangent(x: Array) -> Array:
        return on * (x - (share * _sums(on * x))[:, None])

    def operator(x: Array) -> Array:
        along = tangent(x)
        return tangent(apply(along)) + (x - along)

    def solver(members: Members) -> Callable:
        return lambda _, rhs: _found(members, rhs, mixture)

    turned = members if members.matrix is None else members.replace(matrix=members.matrix.T)
    # What is normal to the face is lost on G_i: no need to project the changes first.
    return lax.custom_linear_solve(operator, change, solver(members), solver(turned))


def _sums(x: Array) -> Array:
    return x @ jnp.ones(x.shape[1], x.dtype)


def _found(members: Members, rhs: Array, mixture: Array) -> Array:
    if not is_closed(members):
        return _thorough(members, rhs, mixture)
    u = _slopes(members, mixture)
    share = 1 / _sums(u)

    def alone(rhs: Array) -> Array:
        return u * (rhs - (share * _sums(u * rhs))[:, None])

    if members.own is None or members.matrix is None:
        return alone(rhs)
    own, matrix, size = members.own[:, None], members.matrix, own_part(members)
    few = jnp.ceil(jnp.log(jnp.finfo(size.dtype).eps) / jnp.log(jnp.clip(size, jnp.finfo(size.dtype).tiny, MODEST)))

    def quick() -> Array:
        return lax.fori_loop(1, few.astype(int), lambda _, x: alone(rhs - own * (x @ matrix.T)), alone(rhs))

    return lax.cond(size <= MODEST, quick, lambda: _thorough(members, rhs, mixture))


def _thorough(members: Members, rhs: Array, mixture: Array) -> Array:
    blocks, own, matrix = members.curvature, members.own, members.matrix

    def alone(rhs: Array) -> Array:
        return conjugate(blocks, rhs.T, mixture.T).T

    if own is None or matrix is None:
        return alone(rhs)
    even, odd = (matrix + matrix.T) / 2, (matrix - matrix.T) / 2
    blocks = Blocks(blocks.diagonal, (*blocks.terms, (own, even)), blocks.dense)
    found, settled = _corrected(alone, rhs, own, odd)
    return jnp.where(settled[:, None], found, jnp.nan)


def _corrected(alone: Callable[[Array], Array], rhs: Array, own: Array, matrix: Array) -> tuple[Array, Array]:
    """x = alone(rhs − own O x), and which agents (b,) have settled."""
    least = jnp.finfo(rhs.dtype).eps ** 2 * _sums(rhs * rhs)

    def missing(x: Array, counted: Array) -> tuple[Array, Array]:
        felt = own[:, None] * (x @ matrix.T)
        off = felt - counted
        return felt, ~(_sums(off * off) > least)

    def again(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        _, felt, _, k = carry
        new = alone(rhs - felt)
        return new, *missing(new, felt), k + 1

    x = alone(rhs)
    begin = x, *missing(x, jnp.zeros_like(x)), jnp.zeros((), int)
    x, _, settled, _ = lax.while_loop(lambda carry: ~carry[2].all() & (carry[3] < ROUNDS), again, begin)
    return x, settled


def _slopes(members: Members, mixture: Array) -> Array:
    return jnp.where(mixture > 0, 1 / jnp.broadcast_to(members.curvature.diagonal, mixture.shape), 0)


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
    u = _slopes(members, mixture)
    share = 1 / _sums(u)
    strength = weight * members.sensitivity
    out, rows = jnp.diag(strength @ u), (strength * share)[:, None] * u
    if members.own is None or members.matrix is None:
        return out - rows.T @ u
    # G less G own O G, with G = diag(u) − u uᵀ / Σ u.
    own, matrix = members.own[:, None], members.matrix
    ahead, back = own * (u @ matrix.T), own * (u @ matrix)
    level = share * _sums(u * ahead)
    straight = matrix * (((strength[:, None] * own) * u).T @ u)
    return out - straight + (rows * (ahead - level[:, None] - 1)).T @ u + rows.T @ (u * back)
