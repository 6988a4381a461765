"""Extreme eigenvalues of the Jacobian of a large game from products with vectors alone, in memory O(n D)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import Array, lax

from jaxgame import simplex
from jaxgame.games.affine import AffineMap, transposed_apply

FAILURE = 1e-12  # share of starting vectors for which the error bound may fail
WORK = 3e8  # numbers that all products together go through
FEWEST, MOST = 60, 600


def extremes(affine: AffineMap, weights: np.ndarray) -> tuple[float, float, tuple[float, float]]:
    """Smallest eigenvalue of the symmetric part of diag(r) J on the tangent space and largest singular value.

    As Lanczos finds them; and bounds on how much too high the first and too low the second may be. After k steps from a
    random vector the error, relative to the spread of the spectrum of a symmetric N × N matrix, exceeds ε with
    probability at most 1.648 √N exp(−√ε (2k − 1)) (Kuczyński & Woźniakowski 1992, in exact arithmetic).
    """
    n, n_groups = affine.linear.shape
    size = n * (n_groups - 1)
    steps = int(min(size - 1, np.clip(WORK // size, FEWEST, MOST)))
    share = (np.log(1.648 * np.sqrt(size) / FAILURE) / (2 * steps - 1)) ** 2
    dtype = affine.linear.dtype
    start = jnp.asarray(np.random.default_rng(0).normal(size=(n, n_groups)), dtype)
    rows = jnp.asarray(weights, dtype)
    low, top = _ends(_run(affine, rows, start, steps=steps, squared=False))
    high = max(_ends(_run(affine, rows, start, steps=steps, squared=True))[1], 0.0) ** 0.5
    spread = (top - low) / (1 - 2 * share) if share < 0.25 else np.inf
    too_low = high * (1 / np.sqrt(1 - share) - 1) if share < 1 else np.inf
    return low, high, (float(share * spread), float(too_low))


def _ends(tridiagonal: tuple[Array, Array]) -> tuple[float, float]:
    diagonal, off = (np.asarray(x, np.float64) for x in tridiagonal)
    if not (np.isfinite(diagonal).all() and np.isfinite(off).all()):
        return -np.inf, np.inf
    size = max(np.abs(diagonal).max(), 1e-300)
    # After an invariant subspace comes noise.
    stops = np.flatnonzero(off <= 10 * float(jnp.finfo(tridiagonal[0].dtype).eps) * size)
    count = int(stops[0]) + 1 if stops.size else len(diagonal)
    values = scipy.linalg.eigvalsh_tridiagonal(diagonal[:count], off[: count - 1])
    return float(values[0]), float(values[-1])


@functools.partial(jax.jit, static_argnames=("steps", "squared"))
def _run(affine: AffineMap, weights: Array, start: Array, *, steps: int, squared: bool) -> tuple[Array, Array]:
    """Diagonal and off-diagonal of Lanczos' tridiagonal matrix for the symmetric part of J, or for JᵀJ."""

    def forward(x: Array) -> Array:
        return simplex.project_tangent(weights[:, None] * affine.apply(simplex.project_tangent(x)))

    apply_transpose = transposed_apply(affine)

    def transpose(x: Array) -> Array:
        return simplex.project_tangent(apply_transpose(weights[:, None] * simplex.project_tangent(x)))

    def operator(x: Array) -> Array:
        return transpose(forward(x)) if squared else (forward(x) + transpose(x)) / 2

    def body(k, state):
        before, now, beta, diagonal, off = state
        image = operator(now) - beta * before
        alpha = (now * image).sum()
        image = simplex.project_tangent(image - alpha * now)
        beta = jnp.linalg.norm(image)
        ahead = image / jnp.where(beta > 0, beta, 1)
        return now, ahead, beta, diagonal.at[k].set(alpha), off.at[k].set(beta)

    first = simplex.project_tangent(start)
    zeros = jnp.zeros(steps, start.dtype)
    state = jnp.zeros_like(start), first / jnp.linalg.norm(first), jnp.zeros((), start.dtype), zeros, zeros
    *_, diagonal, off = lax.fori_loop(0, steps, body, state)
    return diagonal, off
