"""Small dense linear algebra in plain JAX operations.

LAPACK is called once a matrix, and two batched LAPACK calls at a time can wait for each other for ever on a CPU with
few threads (XLA's runtime shares one pool between them). Under `vmap` everything is batched: so the small systems of
a solve are eliminated here, in loops that vectorise over the batch.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jax import Array, lax


def dot(a: Array, b: Array) -> Array:
    """a @ b in full precision: accelerators round the factors of products to fewer digits unless asked not to."""
    return jnp.matmul(a, b, precision="highest")


def einsum(subscripts: str, *factors: Array) -> Array:
    """jnp.einsum in full precision, as `dot`."""
    return jnp.einsum(subscripts, *factors, precision="highest")


def inverse_positive(matrices: Array) -> Array:
    """Inverses of (…, D, D) matrices with a positive definite symmetric part: Gauss–Jordan sweeps without pivoting."""
    n_groups = matrices.shape[-1]
    groups = jnp.arange(n_groups).reshape(-1, *(1,) * (matrices.ndim - 2))

    def sweep(k: Array, a: Array) -> Array:
        here = groups == k
        row, column = (lax.dynamic_index_in_dim(a, k, axis, keepdims=False) for axis in (0, 1))
        row = (jnp.where(here, 1, row) / lax.dynamic_index_in_dim(row, k, 0))[None]
        column = jnp.where(here, 0, column)[:, None]
        return jnp.where(here[:, None], row, jnp.where(here[None], 0, a) - column * row)

    # The batch comes last in memory, where it vectorises whatever D is.
    return jnp.moveaxis(lax.fori_loop(0, n_groups, sweep, jnp.moveaxis(matrices, (-2, -1), (0, 1))), (0, 1), (-2, -1))


def inverse(matrix: Array) -> Array:
    """Inverse of any nonsingular (D, D) matrix: Gauss–Jordan, each row once the pivot; not finite where singular."""
    size = matrix.shape[0]
    rows = jnp.arange(size)

    def sweep(k: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        a, unused, order = carry
        column = lax.dynamic_index_in_dim(a, k, 1, keepdims=False)
        pivot = jnp.argmax(jnp.where(unused, jnp.abs(column), -1))
        here = rows == pivot
        row = (a[pivot] / column[pivot])[None]
        a = jnp.where(here[:, None], row, a - column[:, None] * row)
        return a, unused & ~here, jnp.where(rows == k, pivot, order)

    start = jnp.concatenate([matrix, jnp.eye(size, dtype=matrix.dtype)], 1), jnp.ones(size, bool), rows
    a, _, order = lax.fori_loop(0, size, sweep, start)
    return a[order, size:]


def is_positive_semidefinite(matrices: Array, tolerance: Array) -> Array:
    """Whether the symmetric part of (…, D, D), plus `tolerance` (…) times the identity, is positive definite on Σx = 0.

    By the signs of the pivots of the elimination.
    """
    n_groups = matrices.shape[-1]
    if n_groups == 1:
        return jnp.ones(matrices.shape[:-2], bool)
    symmetric = (matrices + jnp.swapaxes(matrices, -1, -2)) / 2
    # Differences to the last group are coordinates of the tangent space.
    reduced = symmetric[..., :-1, :-1] - symmetric[..., -1:, :-1] - symmetric[..., :-1, -1:] + symmetric[..., -1:, -1:]
    metric = jnp.eye(n_groups - 1, dtype=matrices.dtype) + 1
    tolerance = jnp.maximum(tolerance, jnp.finfo(matrices.dtype).tiny)  # for a matrix of zeros, which is semidefinite
    reduced = reduced + tolerance[..., None, None] * metric.reshape((1,) * (matrices.ndim - 2) + metric.shape)

    return has_positive_pivots(reduced)


def has_positive_pivots(matrices: Array) -> Array:
    """Whether every pivot of the elimination of symmetric (…, D, D) is positive: of positive definite ones they are."""

    def sweep(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        a, positive = carry
        row = lax.dynamic_index_in_dim(a, k, -2)
        pivot = lax.dynamic_index_in_dim(row, k, -1)
        good = pivot > 0
        a = a - lax.dynamic_index_in_dim(a, k, -1) * (row / jnp.where(good, pivot, 1))
        return a, positive & good[..., 0, 0]

    return lax.fori_loop(0, matrices.shape[-1], sweep, (matrices, jnp.ones(matrices.shape[:-2], bool)))[1]


def norm_bound(matrices: Array) -> Array:
    """An upper bound on the spectral norm of (…, D, D), at most D^(1/64) too large: repeated squaring of AᵀA."""
    scaled, largest = _unit(matrices)

    def squared(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        power, log = carry
        size = _frobenius(power)
        power = power / size[..., None, None]
        return dot(power, power), 2 * (log + jnp.log(size))

    start = dot(jnp.swapaxes(scaled, -1, -2), scaled), jnp.zeros_like(largest)
    power, log = lax.fori_loop(0, 5, squared, start)
    return largest * jnp.exp((log + jnp.log(_frobenius(power))) / 64)


def quick_norm_bound(matrices: Array) -> Array:
    """The same by one product, at most D^(1/4) too large: ‖AᵀA‖_F^½."""
    scaled, largest = _unit(matrices)
    return largest * (einsum("...de,...df->...ef", scaled, scaled) ** 2).sum((-1, -2)) ** 0.25


def frobenius(matrices: Array) -> Array:
    """Norms of (…, D, D), at any magnitude."""
    scaled, largest = _unit(matrices)
    return largest * jnp.sqrt((scaled**2).sum((-1, -2)))


def tangent(matrix: Array) -> Array:
    """(…, D, D) between tangent vectors: columns and rows centred.

    Columns first: what rounding of a large mean leaves of one is alike for all groups, and moves no mixture.
    """
    centred = matrix - matrix.mean(-2, keepdims=True)
    return centred - centred.mean(-1, keepdims=True)


def generic(shape: tuple[int, ...], dtype: Any) -> Array:
    """Quasi-random numbers in [−½, ½): no symmetry of a game makes them orthogonal to a direction that matters."""
    steps = jnp.arange(math.prod(shape), dtype=dtype).reshape(shape)
    return jnp.modf(steps * 0.6180339887498949)[0] - 0.5


def _unit(matrices: Array) -> tuple[Array, Array]:
    """(…, D, D) over their largest entries, of which squares neither overflow nor vanish; and these (…)."""
    largest = jnp.abs(matrices).max((-1, -2))
    return matrices / jnp.where(largest > 0, largest, 1)[..., None, None], largest


def _frobenius(matrices: Array) -> Array:
    """Of (…, D, D); 1 for a zero matrix."""
    size = jnp.sqrt((matrices**2).sum((-1, -2)))
    return jnp.where(size > 0, size, 1)
