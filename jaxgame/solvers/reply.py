"""How best responses move with marginals, at fixed faces (theory §7): dw_i = G_i dg_i, rows of (b, D).

G_i is the inverse, on the tangent of agent i's face, of its curvature and of what its own share of the aggregate adds.
Diagonal curvature: a formula, and corrections for an own share that is small. Matrices: conjugate gradients, and
corrections for what is not symmetric in the own share. Inverses where that does not do. Rows are summed by products
with a vector of ones: XLA reduces a short last axis far more slowly.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from jaxgame import linalg
from jaxgame.games.affine import Aggregate, Blocks
from jaxgame.games.members import Members
from jaxgame.linalg import dot
from jaxgame.solvers.faces import conjugate
from jaxgame.solvers.own_blocks import own_blocks
from jaxgame.solvers.respond import is_closed

MODEST = 0.1  # the `own_part` up to which corrections converge fast
TINY = 128  # units of rounding: an own part so small need be known roughly only, the better the more blocks there are
SPARSE = 16  # which then one agent in so many tells
ROUNDS = 20  # of corrections, after which inverses are cheaper


def reply(members: Members, change: Array, mixture: Array) -> Array:
    """G_i applied to changes of the marginals (b, D), at mixtures (b, D).

    Linear in the changes, for transposition as well. Not finite for an agent whose G_i does not exist.
    """
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
    return dot(x, jnp.ones(x.shape[1], x.dtype))


def _found(members: Members, rhs: Array, mixture: Array) -> Array:
    own, matrix = members.own, members.matrix

    def exact() -> Array:
        still = jnp.zeros_like(rhs)
        return own_blocks(members.affine(), still, mixture > 0).solve(rhs, still[:, 0])[0]

    if not is_closed(members):
        found, settled = _by_gradients(members, rhs, mixture)
        return lax.cond(settled.all(), lambda: found, exact)
    u = _slopes(members, mixture)
    share = 1 / _sums(u)

    def alone(rhs: Array) -> Array:
        return u * (rhs - (share * _sums(u * rhs))[:, None])

    if own is None or matrix is None:
        return alone(rhs)
    size, tiny = own_part(members), jnp.finfo(rhs.dtype).tiny
    few = jnp.ceil(jnp.log(jnp.finfo(rhs.dtype).eps) / jnp.log(jnp.clip(size, tiny, MODEST))).astype(int)

    def corrected() -> Array:
        return lax.fori_loop(1, few, lambda _, x: alone(rhs - own[:, None] * dot(x, matrix.T)), alone(rhs))

    return lax.cond(size <= MODEST, corrected, exact)


def _by_gradients(members: Members, rhs: Array, mixture: Array) -> tuple[Array, Array]:
    """x = G rhs for matrix curvature, and for which agents (b,) it is found."""
    blocks, own, matrix = members.curvature, members.own, members.matrix
    size = jnp.abs(rhs).max(1, keepdims=True)
    size = jnp.where(size > 0, size, 1)
    rhs = rhs / size  # squares of what is small would be nothing

    def alone(rhs: Array) -> Array:
        return conjugate(blocks, rhs.T, mixture.T).T

    if own is None or matrix is None:
        found = alone(rhs)
        return size * found, jnp.isfinite(found).all(1)
    even, odd = (matrix + matrix.T) / 2, (matrix - matrix.T) / 2
    blocks = Blocks(blocks.diagonal, (*blocks.terms, (own, even)), blocks.dense)
    found, settled = _corrected(alone, rhs, own, odd)
    return size * found, settled


def _corrected(alone: Callable[[Array], Array], rhs: Array, own: Array, matrix: Array) -> tuple[Array, Array]:
    """x = alone(rhs − own O x), and which agents (b,) have settled."""
    least = jnp.finfo(rhs.dtype).eps ** 2 * _sums(rhs * rhs)

    def missing(x: Array, counted: Array) -> tuple[Array, Array]:
        felt = own[:, None] * dot(x, matrix.T)
        off = felt - counted
        return felt, _sums(off * off) <= least

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
    """How much, at most, an agent's own share adds to its curvature, relative to that; for diagonal curvature, and ∞
    where that is not positive.
    """
    assert members.own is not None and members.matrix is not None
    least = members.curvature.diagonal.min(1)
    added = jnp.abs(members.own) * linalg.frobenius(members.matrix)
    return jnp.where(least > 0, added / jnp.where(least > 0, least, 1), jnp.inf).max()


def to_aggregate(members: Members, mixture: Array, weight: Array, most: float = MODEST) -> Array:
    """Σ weight_i sensitivity_i G_i, (D, D), for mixtures (b, D).

    Exact for matrix curvature, and where the `own_part` is more than `most`; else up to its square.
    """

    def exact() -> Array:
        every = Aggregate(members.sensitivity, jnp.eye(mixture.shape[1], dtype=mixture.dtype), weight, None)
        return own_blocks(members.affine(), jnp.zeros_like(mixture), mixture > 0).to_aggregate(every)

    if not is_closed(members):
        return exact()
    u = _slopes(members, mixture)
    strength = weight * members.sensitivity
    rows = (strength / _sums(u))[:, None] * u
    straight = jnp.diag(dot(strength, u)) - dot(rows.T, u)
    if members.own is None or members.matrix is None:
        return straight
    own, matrix = members.own, members.matrix

    def first_order(every: int) -> Array:
        """By one agent in so many."""
        some, mine = u[::every], (strength * own)[::every]
        counted = mine.sum()
        scale = (strength * own).sum() / jnp.where(counted != 0, counted, 1)
        return straight - scale * _of_shares(some, mine, matrix)

    size = own_part(members)
    few = size <= TINY * jnp.finfo(mixture.dtype).eps
    kind = jnp.where(few, 0, jnp.where(size <= most, 1, 2))
    return lax.switch(kind, [lambda: first_order(SPARSE), lambda: first_order(1), exact])


def _of_shares(u: Array, strength: Array, matrix: Array) -> Array:
    """Σ strength_i G_i O G_i, with G_i = diag(u) − u uᵀ / Σ u of the rows of u."""
    share = 1 / _sums(u)
    rows = (strength * share)[:, None] * u
    ahead, back = dot(u, matrix.T), dot(u, matrix)
    level = share * _sums(u * ahead)
    turned = matrix * dot((strength[:, None] * u).T, u)
    return turned - dot((rows * (ahead - level[:, None])).T, u) - dot(rows.T, u * back)
