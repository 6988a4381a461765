"""Rosen's weights: positive factors on the agents' utilities under which a game map may be strongly monotone (theory §1)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.linalg
from jax.experimental.sparse import BCOO

from jaxgame.games.affine import AffineMap, Aggregate, Full
from jaxgame.games.potential import potential_weights

ASCENT_LIMIT = 200  # n·(D − 1) up to which weights are also searched for, some eigenvalue problems of that size
ASCENT_STEPS = 40
REACH = 10.0  # weight of an agent that answers to no one, relative to those that do


def candidates(affine: AffineMap) -> Iterator[np.ndarray]:
    """Weights (n,) worth trying, of mean one: those of the potential, then by how agents answer to and act on others."""
    response, influence = _response(affine), _influence(affine)
    for weights in (np.asarray(potential_weights(affine), np.float64), influence / response, 1 / response, influence):
        if np.isfinite(weights).all() and (weights > 0).all():
            yield weights / weights.mean()


def ascent(jacobian: np.ndarray, n: int) -> np.ndarray:
    """Weights that raise the smallest eigenvalue of the symmetric part of diag(r) J, J (n·d, n·d): it is concave in r.

    Multiplicative subgradient steps on the mean-one simplex, after scaling every agent's own block to trace one.
    """
    d = len(jacobian) // n
    trace = np.trace(jacobian.reshape(n, d, n, d)[np.arange(n), :, np.arange(n), :], axis1=1, axis2=2)
    start = 1 / np.where(trace > 0, trace, 1)
    weights = best = start / start.mean()
    top = -np.inf
    for step in range(ASCENT_STEPS):
        rows = np.repeat(weights, d)[:, None] * jacobian
        value, vector = scipy.linalg.eigh((rows + rows.T) / 2, subset_by_index=[0, 0])
        # Relative to the weights: a common factor alone would raise or lower the eigenvalue for nothing.
        if value[0] > top:
            top, best = value[0], weights
        slope = (vector[:, 0] * (jacobian @ vector[:, 0])).reshape(n, d).sum(1)
        length = np.abs(slope * weights).max()
        if top > 0 or length == 0:
            break
        weights = weights * np.exp(slope * weights / length / np.sqrt(step + 1))
        weights = weights / weights.mean()
    return best


def _response(affine: AffineMap) -> np.ndarray:
    """How strongly each agent's marginals answer to the others' mixtures, (n,), no zeros."""
    others = affine.others
    if isinstance(others, Full):
        strength = np.sqrt((np.asarray(others.B, np.float64) ** 2).sum((1, 2, 3)))
    elif others.left is not None:
        strength = np.linalg.norm(np.asarray(others.left, np.float64), axis=(1, 2))
    else:
        strength = np.abs(np.asarray(others.sensitivity if isinstance(others, Aggregate) else others.scale, np.float64))
    return _positive(strength)


def _influence(affine: AffineMap) -> np.ndarray:
    """How much others see of each agent, (n,), no zeros."""
    others = affine.others
    if isinstance(others, Aggregate):
        return _positive(np.asarray(others.reach, np.float64))
    if isinstance(others, Full):
        return _positive(np.sqrt((np.asarray(others.B, np.float64) ** 2).sum((0, 2, 3))))
    if isinstance(others.weights, BCOO):
        rows, columns = np.asarray(others.weights.indices).T
        kept = rows < len(affine.linear)
        total = np.bincount(columns[kept], np.abs(np.asarray(others.weights.data, np.float64))[kept], len(affine.linear))
        return _positive(total)
    return _positive(np.abs(np.asarray(others.weights, np.float64)).sum(0))


def _positive(strength: np.ndarray) -> np.ndarray:
    on = strength > 0
    return np.where(on, strength, strength[on].min() / REACH) if on.any() else np.ones_like(strength)
