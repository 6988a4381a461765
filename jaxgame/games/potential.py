"""Weighted potential games: where scaling the agents' utilities makes the game map a gradient (theory §2)."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.sparse import BCOO

from jaxgame.games.affine import AffineMap, Aggregate, Edges, Full


def potential_weights(affine: AffineMap) -> Array:
    """Weights r (n,) for which diag(r) J is symmetric if any do, mean 1; what they are in other games means nothing."""
    n = affine.linear.shape[0]
    ones = jnp.ones(n, affine.linear.dtype)
    others = affine.others
    if isinstance(others, Aggregate) and others.left is None:
        active = others.sensitivity != 0
        weights = jnp.where(active, others.reach / jnp.where(active, others.sensitivity, 1), 0)
        weights = jnp.where(active.any(), weights, ones)
    elif isinstance(others, Edges) and others.left is None:
        active = others.scale != 0
        weights = jnp.where(active.all(), 1 / jnp.where(active, others.scale, 1), ones)
    else:
        return ones
    return weights * jnp.sign(weights.sum()) * n / jnp.abs(weights).sum()


def why_no_potential(affine: AffineMap) -> str | None:
    """Why diag(r) J is not symmetric positive-weighted for `potential_weights`, or None where it is. Concrete values
    only.
    """
    weights = np.asarray(potential_weights(affine))
    if not (weights > 0).all():
        i = int(np.argmin(weights))
        return f"agent {i} responds to the others with another sign, or strength zero, than they do to it"
    for coefficient, matrix in affine.own.terms:
        if np.asarray(coefficient).any() and not _symmetric(np.asarray(matrix)):
            return "the coupling matrix B is not symmetric"
    if affine.own.dense is not None and not _symmetric(np.asarray(affine.own.dense)):
        return "an agent's own block is not symmetric"
    others = affine.others
    if isinstance(others, Full):
        B = np.asarray(others.B)
        return None if _close(B, B.transpose(1, 0, 3, 2)) else "B_ij is not the transpose of B_ji"
    if others.left is not None:
        n, n_groups = affine.linear.shape
        return (
            None
            if _symmetric(np.asarray(others.dense(n, n_groups)).reshape(n * n_groups, -1))
            else "the marginals' Jacobian is not symmetric"
        )
    if others.B is not None and not _symmetric(np.asarray(others.B)):
        return "the coupling matrix B is not symmetric"
    if isinstance(others, Edges):
        matrix = others.weights.todense() if isinstance(others.weights, BCOO) else others.weights
        if not _symmetric(weights[:, None] * np.asarray(others.scale)[:, None] * np.asarray(matrix)):
            return "the network is not symmetric"
    return None


def _symmetric(x: np.ndarray) -> bool:
    return _close(x, np.swapaxes(x, -1, -2))


def _close(x: np.ndarray, y: np.ndarray) -> bool:
    return bool(np.abs(x - y).max(initial=0) <= 100 * np.finfo(x.dtype).eps * np.abs(x).max(initial=0))
