"""Is a quadratic game strongly monotone? In JAX operations, for many games at once (theory §1).

For agents that meet through an aggregate diag(r) J has a symmetric part H + ½ (P Qᵀ + Q Pᵀ) with H the agents' own
blocks and P, Q of rank d: positive definite if every block is, and I + Lᵀ C L is, with L Lᵀ = [P Q]ᵀ H⁻¹ [P Q] and
C the exchange of its halves, over 2. Both by the signs of pivots, less a margin that is far above their rounding.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import Array

from jaxgame import linalg
from jaxgame.games.affine import AffineMap, Aggregate
from jaxgame.games.potential import potential_weights
from jaxgame.linalg import dot, einsum


def is_monotone(affine: AffineMap) -> Array:
    """True: strongly monotone for equal weights of the agents or the weights of a potential, so that there is one
    equilibrium; False: not proved.

    Only for agents that meet through an aggregate.
    """
    ones = jnp.ones(affine.linear.shape[0], affine.linear.dtype)
    weights = potential_weights(affine)
    weights = jnp.where((weights > 0).all() & jnp.isfinite(weights).all(), weights, ones)
    return _weighted(affine, ones) | _weighted(affine, weights)


def _weighted(affine: AffineMap, weights: Array) -> Array:
    others, dtype = affine.others, affine.linear.dtype
    assert isinstance(others, Aggregate)
    n, n_groups = affine.linear.shape
    if n_groups == 1:
        return jnp.ones((), bool)
    margin = float(np.sqrt(np.finfo(dtype).eps)) / 16
    basis = jnp.asarray(scipy.linalg.helmert(n_groups).T, dtype)
    own = _symmetric(weights[:, None, None] * dot(dot(basis.T, affine.own.matrices(n, n_groups)), basis))
    left = weights[:, None, None] * dot(dot(basis.T, others.columns()), basis)
    size = jnp.abs(own).max() + jnp.abs(left).max()
    size = jnp.where(size > 0, size, 1)
    d = n_groups - 1
    own = own / size - margin * jnp.eye(d, dtype=dtype)[None]
    left = left / size
    reach = others.reach
    inverse = linalg.inverse_positive(own)
    answered = einsum("ide,ief->idf", inverse, left)
    corner = einsum("ied,ief->df", left, answered)
    side = einsum("i,idf->df", reach, answered)  # Qᵀ H⁻¹ P
    last = einsum("i,ide->de", reach**2, inverse)
    gram = _symmetric(jnp.block([[corner, side.T], [side, last]]))
    both = jnp.arange(2 * d)
    scale = jnp.sqrt(jnp.maximum(jnp.diagonal(gram), jnp.finfo(dtype).tiny))
    unit = gram / (scale[:, None] * scale[None]) + margin * jnp.eye(2 * d, dtype=dtype)
    swapped = jnp.roll(both, d)
    # C in the scaled coordinates: (C x)_k = ½ x_(k ± d).
    exchange = jnp.zeros((2 * d, 2 * d), dtype).at[both, swapped].set(scale * scale[swapped] / 2)
    tested = _symmetric(unit * (1 - margin) + dot(dot(unit, exchange), unit))
    good = linalg.has_positive_pivots(own).all() & linalg.has_positive_pivots(tested)
    return good & jnp.isfinite(gram).all()


def _symmetric(matrices: Array) -> Array:
    return (matrices + jnp.swapaxes(matrices, -1, -2)) / 2
