"""Rosen's weights: factors on the agents' utilities under which a game map may be strongly monotone (theory §1)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.linalg

from jaxgame.certificate.spectrum import edges
from jaxgame.games.affine import AffineMap, Aggregate, Full
from jaxgame.games.potential import potential_weights

ASCENT_LIMIT = 200  # n·(D − 1) up to which weights are searched for, by some eigenvalue problems of that size
ASCENT_STEPS = 40
FAINT = 0.1  # strength of an agent without any, relative to the weakest of the others


def candidates(affine: AffineMap) -> Iterator[np.ndarray]:
    """Weights (n,) worth trying, of mean one: the potential's, then by how agents answer to others and act on them."""
    response, influence = _response(affine), _influence(affine)
    potential = np.asarray(potential_weights(affine), np.float64)
    for weights in (potential, influence / response, 1 / response, influence):
        if np.isfinite(weights).all() and (weights > 0).all():
            yield weights / weights.mean()


def ascent(jacobian: np.ndarray, n: int) -> np.ndarray:
    """Weights r that raise the smallest eigenvalue of diag(r) J's symmetric part, which is concave in r; J (n·d, n·d).

    Multiplicative subgradient steps from weights that make the traces of the own blocks equal, until it is positive.
    """
    d = len(jacobian) // n
    trace = np.trace(jacobian.reshape(n, d, n, d)[np.arange(n), :, np.arange(n), :], axis1=1, axis2=2)
    weights = 1 / np.where(trace > 0, trace, np.abs(trace).max() or 1)
    for step in range(ASCENT_STEPS):
        weights = weights / weights.mean()
        rows = np.repeat(weights, d)[:, None] * jacobian
        value, vector = scipy.linalg.eigh((rows + rows.T) / 2, subset_by_index=[0, 0])
        slope = weights * (vector[:, 0] * (jacobian @ vector[:, 0])).reshape(n, d).sum(1)
        if value[0] > 0 or not slope.any():
            break
        weights = weights * np.exp(slope / np.abs(slope).max() / np.sqrt(step + 1))
    return weights


def _response(affine: AffineMap) -> np.ndarray:
    """How strongly the marginals of each agent answer to the others' mixtures, (n,), no zeros."""
    others = affine.others
    if isinstance(others, Full):
        return _positive(np.sqrt((np.asarray(others.B, np.float64) ** 2).sum((1, 2, 3))))
    if others.left is not None:
        return _positive(np.linalg.norm(np.asarray(others.left, np.float64), axis=(1, 2)))
    scale = others.sensitivity if isinstance(others, Aggregate) else others.scale
    return _positive(np.abs(np.asarray(scale, np.float64)))


def _influence(affine: AffineMap) -> np.ndarray:
    """How much the others see of each agent, (n,), no zeros."""
    others = affine.others
    if isinstance(others, Aggregate):
        return _positive(np.asarray(others.reach, np.float64))
    if isinstance(others, Full):
        return _positive(np.sqrt((np.asarray(others.B, np.float64) ** 2).sum((0, 2, 3))))
    _, columns, entries = edges(others.weights)
    return _positive(np.bincount(columns, np.abs(entries), len(affine.linear)))


def _positive(strength: np.ndarray) -> np.ndarray:
    on = strength > 0
    return np.where(on, strength, FAINT * strength[on].min()) if on.any() else np.ones_like(strength)
