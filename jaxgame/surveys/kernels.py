"""Similarity of groups from their answers: pure functions of arrays, leading axes are batches.

A table is p(answer | group), shape (…, D, options); one a question.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxgame.linalg import einsum


def mean_answers(tables: Sequence[jax.Array], values: Sequence[np.ndarray]) -> jax.Array:
    """φ (…, D, Q): each group's mean answer to each of the Q questions, the options' values scaled to [0, 1].

    `values` holds one (options,) array a question, not all equal.
    """
    means = []
    for table, value in zip(tables, values, strict=True):
        unit = (value - value.min()) / (value.max() - value.min())
        means.append(einsum("...do,o->...d", table, jnp.asarray(unit, table.dtype)))
    return jnp.stack(means, axis=-1)


@jax.jit
def gaussian(positions: jax.Array) -> jax.Array:
    """K_de = exp(−‖φ_d − φ_e‖² / 2h²), (…, D, D), of positions φ (…, D, Q); h is the median distance over pairs d < e.

    Positive semidefinite, diagonal 1. Where at least half of the pairs coincide h is 0 and the kernel is the limit
    h → 0: 1 between groups at the same position, 0 between others (all groups alike: all ones).
    """
    gaps = positions[..., :, None, :] - positions[..., None, :, :]
    squared = jnp.sum(gaps**2, axis=-1)
    pairs = squared[..., *np.triu_indices(positions.shape[-2], 1)]
    apart = pairs > 0
    # the inner `where` keeps the derivative of the square root finite at coinciding groups
    distances = jnp.where(apart, jnp.sqrt(jnp.where(apart, pairs, 1)), 0)
    width = jnp.median(distances, axis=-1)[..., None, None]
    kernel = jnp.exp(-squared / jnp.where(width > 0, 2 * width**2, 1))
    return jnp.where(width > 0, kernel, (squared == 0).astype(kernel.dtype))


@jax.jit
def match(tables: Sequence[jax.Array]) -> jax.Array:
    """K_de, (…, D, D): probability that a person of d and one of e give the same answer, averaged over questions.

    Exactly the Gram matrix of the groups' mean one-hot answers, so the order of the options plays no role.
    """
    agreement = [einsum("...do,...eo->...de", table, table) for table in tables]
    return sum(agreement[1:], agreement[0]) / len(agreement)
