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


def inverse_positive(matrices: Array) -> Array:
    """Inverses of (…, D, D) matrices with a positive definite symmetric part: Gauss–Jordan sweeps without pivoting."""
    n_groups = matrices.shape[-1]

    def sweep(k: Array, a: Array) -> Array:
        here = jnp.arange(n_groups) == k
        row = lax.dynamic_index_in_dim(a, k, -2)
        pivot = 1 / lax.dynamic_index_in_dim(row, k, -1)
        row = jnp.where(_across(here, a), 1, row) * pivot
        rest = jnp.where(_down(here, a), 0, lax.dynamic_index_in_dim(a, k, -1))
        kept = jnp.where(_across(here, a), 0, a)
        return jnp.where(_down(here, a), row, kept - rest * row)

    return lax.fori_loop(0, n_groups, sweep, matrices)


def inverse(matrix: Array) -> Array:
    """Inverse of any nonsingular (D, D) matrix: Gauss–Jordan with row pivoting; not finite where singular."""
    size = matrix.shape[0]

    def sweep(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        a, out = carry
        column = lax.dynamic_index_in_dim(a, k, 1, keepdims=False)
        pivot = jnp.argmax(jnp.where(jnp.arange(size) >= k, jnp.abs(column), -1))
        a, out = _swapped(a, k, pivot), _swapped(out, k, pivot)
        row, right = a[k] / a[k, k], out[k] / a[k, k]
        here = (jnp.arange(size) == k)[:, None]
        rest = jnp.where(here, 0, lax.dynamic_index_in_dim(a, k, 1))
        return jnp.where(here, row[None], a - rest * row[None]), jnp.where(here, right[None], out - rest * right[None])

    return lax.fori_loop(0, size, sweep, (matrix, jnp.eye(size, dtype=matrix.dtype)))[1]


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

    def sweep(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        a, positive = carry
        row = lax.dynamic_index_in_dim(a, k, -2)
        pivot = lax.dynamic_index_in_dim(row, k, -1)
        good = pivot > 0
        a = a - lax.dynamic_index_in_dim(a, k, -1) * row / jnp.where(good, pivot, 1)
        return a, positive & good[..., 0, 0]

    return lax.fori_loop(0, n_groups - 1, sweep, (reduced, jnp.ones(matrices.shape[:-2], bool)))[1]


def norm_bound(matrices: Array) -> Array:
    """An upper bound on the spectral norm of (…, D, D), at most D^(1/64) too large: repeated squaring of AᵀA."""
    largest = jnp.abs(matrices).max((-1, -2))
    scaled = matrices / jnp.where(largest > 0, largest, 1)[..., None, None]  # squares neither overflow nor vanish

    def squared(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        power, log = carry
        size = _frobenius(power)
        power = power / size[..., None, None]
        return power @ power, 2 * (log + jnp.log(size))

    start = jnp.swapaxes(scaled, -1, -2) @ scaled, jnp.zeros_like(largest)
    power, log = lax.fori_loop(0, 5, squared, start)
    return largest * jnp.exp((log + jnp.log(_frobenius(power))) / 64)


def tangent(matrix: Array) -> Array:
    """(…, D, D) between tangent vectors: rows and columns centred."""
    centred = matrix - matrix.mean(-1, keepdims=True)
    return centred - centred.mean(-2, keepdims=True)


def generic(shape: tuple[int, ...], dtype: Any) -> Array:
    """Quasi-random numbers in [−½, ½): no symmetry of a game makes them orthogonal to a direction that matters."""
    steps = jnp.arange(math.prod(shape), dtype=dtype).reshape(shape)
    return jnp.modf(steps * 0.6180339887498949)[0] - 0.5


def _frobenius(matrices: Array) -> Array:
    """Of (…, D, D); 1 for a zero matrix."""
    size = jnp.sqrt((matrices**2).sum((-1, -2)))
    return jnp.where(size > 0, size, 1)


def _across(here: Array, a: Array) -> Array:
    return here.reshape((1,) * (a.ndim - 1) + here.shape)


def _down(here: Array, a: Array) -> Array:
    return here.reshape((1,) * (a.ndim - 2) + here.shape + (1,))


def _swapped(a: Array, k: Array, j: Array) -> Array:
    row, other = a[k], a[j]
    return a.at[k].set(other).at[j].set(row)
