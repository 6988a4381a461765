"""Conjugate gradients on the faces of many agents at once, agents last in memory (theory §3.4, §7).

Where its curvature is positive definite between the mixtures of its face, they end after as many steps as that has
groups, but for rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from jaxgame.games.affine import Blocks
from jaxgame.linalg import dot, einsum
from jaxgame.solvers.columns import over_groups
from jaxgame.solvers.sizes import sizes

Product = Callable[[Array], Array]
PATIENCE = 10  # steps a group, after which a solution counts as not found


def product(blocks: Blocks) -> Product:
    """w (D, b) ↦ M_i w_i, (D, b)."""

    def apply(mixture: Array) -> Array:
        out = blocks.diagonal.T * mixture
        for coefficient, matrix in blocks.terms:
            out = out + coefficient[None] * dot(matrix, mixture)
        return out if blocks.dense is None else out + einsum("bde,eb->db", blocks.dense, mixture)

    return apply


def inner(x: Array, y: Array) -> Array:
    """Of columns, (b,)."""
    return over_groups(jnp.add, [a * b for a, b in zip(x, y, strict=True)])


def projection(mixture: Array) -> Product:
    """x (D, b) ↦ its part that is tangent to the faces of mixtures."""
    on = jnp.where(mixture > 0, jnp.ones_like(mixture), 0)
    count = over_groups(jnp.add, on)
    return lambda x: on * (x - (inner(x, on) / count)[None])


def advance(apply: Product, tangent: Product, slope: Array, noise: Array, steps: int) -> Array:
    """The move (D, b) along faces on which a slope is tangent, towards the best points of their planes, by so many
    steps; none for what is left of the slope at `noise` (b,), which may lead far where curvature is small.
    """
    step = functools.partial(_step, apply, tangent, noise**2)
    return lax.fori_loop(0, steps, lambda _, carry: step(carry), _begin(slope), unroll=steps <= 4)[0]


def conjugate(blocks: Blocks, rhs: Array, mixture: Array) -> Array:
    """x (D, b), tangent to the faces of mixtures, with M_i x_i = rhs_i but for what is normal to them, M_i symmetric.

    NaN for an agent for which it is not found.
    """
    count, together = rhs.shape[1], sizes().lot
    if count <= together:
        return _to_rounding(blocks, rhs, mixture)

    def lot(k: Array, out: Array) -> Array:
        # The last lot overlaps the one before.
        first = jnp.minimum(k * together, count - together)
        part = functools.partial(lax.dynamic_slice_in_dim, start_index=first, slice_size=together)
        new = _to_rounding(blocks.rows(part), part(rhs, axis=1), part(mixture, axis=1))
        return lax.dynamic_update_slice_in_dim(out, new, first, 1)

    return lax.fori_loop(0, -(-count // together), lot, jnp.zeros_like(rhs))


def _to_rounding(blocks: Blocks, rhs: Array, mixture: Array) -> Array:
    tangent = projection(mixture)
    eps = jnp.finfo(rhs.dtype).eps
    least = eps**2 * inner(rhs, rhs)
    step = functools.partial(_step, product(blocks), tangent, least)
    most = PATIENCE * rhs.shape[0]

    def unfinished(carry: tuple[tuple[Array, ...], Array]) -> Array:
        (_, _, _, square), k = carry
        return (square > least).any() & (k < most)

    def again(carry: tuple[tuple[Array, ...], Array]) -> tuple[tuple[Array, ...], Array]:
        return step(step(carry[0])), carry[1] + 2

    (x, _, _, square), _ = lax.while_loop(unfinished, again, (_begin(tangent(rhs)), jnp.zeros((), int)))
    return jnp.where(square <= least / eps, x, jnp.nan)


def _begin(left: Array) -> tuple[Array, Array, Array, Array]:
    return jnp.zeros_like(left), left, left, inner(left, left)


def _step(apply: Product, tangent: Product, least: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
    """Of the solution so far, what it leaves, the direction ahead, and the square of what it leaves, at `least` of
    which there is nothing to do.
    """
    found, left, ahead, square = carry
    image = apply(ahead)
    bend = inner(ahead, image)
    length = (jnp.where((bend > 0) & (square > least), square, 0) / jnp.where(bend > 0, bend, 1))[None]
    left = left - length * tangent(image)
    new = inner(left, left)
    onward = left + (new / jnp.where(square > 0, square, 1))[None] * ahead
    return found + length * ahead, left, onward, new
