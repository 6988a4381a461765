"""Strong monotonicity and Lipschitz constant of an affine game map on the tangent space (theory §1, §2).

In an orthonormal basis of {Σ y = 0} the weighted Jacobian diag(r) J acts on (n, d) arrays, d = D − 1. Wanted: the
smallest eigenvalue of its symmetric part, and its largest singular value. Three ways, by what the game allows:

* small games: dense;
* agents that meet through an aggregate: `secular`, exact and never n × n;
* the rest: `lanczos`, with an error bound that holds for all but a vanishing share of starting vectors.

On the host, in float64 whatever the dtype of the game.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from jax.experimental.sparse import BCOO

from jaxgame.certificate.lanczos import extremes
from jaxgame.certificate.secular import Matrices, Shared, lowest_eigenvalue
from jaxgame.games.affine import AffineMap, Aggregate, Full

DENSE_LIMIT = 1000  # n·(D − 1) up to which eigenvalues of the whole Jacobian take about a second
MATRICES_LIMIT = 25_000_000  # numbers in n own blocks d × d that have no eigenbasis in common
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Spectrum:
    """c and L as computed, and the safe side of both: rounding, and the error of Lanczos, taken off and put on."""

    monotonicity: float
    lipschitz: float
    lower: float
    upper: float
    proved: bool  # False: by Lanczos


def spectrum(affine: AffineMap, weights: np.ndarray, *, dtype: Any) -> Spectrum:
    """Constants of diag(weights) F for a game whose numbers were computed in `dtype`."""
    n, n_groups = affine.linear.shape
    if n_groups == 1:  # one mixture only: no direction in which anything could fail
        return Spectrum(np.inf, 0.0, np.inf, 0.0, True)
    parts = _Parts(affine, weights)
    size = parts.size()
    if not np.isfinite(size):
        return Spectrum(np.nan, np.inf, -np.inf, np.inf, True)
    if size == 0:
        return Spectrum(0.0, 0.0, 0.0, 0.0, True)
    rounding = (16 * float(np.finfo(dtype).eps) + 8 * n_groups * EPS) * size
    proved = True
    if n * (n_groups - 1) <= DENSE_LIMIT:
        jacobian = parts.dense()
        low = float(scipy.linalg.eigvalsh((jacobian + jacobian.T) / 2, subset_by_index=[0, 0])[0])
        high = float(np.linalg.norm(jacobian, 2))
        error = (8 * EPS * len(jacobian) ** 0.5 * high,) * 2
    elif isinstance(affine.others, Aggregate) and (blocks := parts.blocks(affine.others)) is not None:
        low, high, error = _secular(blocks)
    else:
        low, high, error = extremes(affine, weights)
        proved = False
    return Spectrum(low, high, low - rounding - error[0], high + rounding + error[1], proved)


def dense_jacobian(affine: AffineMap) -> np.ndarray:
    """The Jacobian on the tangent space, (n·d, n·d)."""
    return _Parts(affine, np.ones(len(affine.linear))).dense()


class _Parts:
    """The pieces of diag(r) J in numpy."""

    def __init__(self, affine: AffineMap, weights: np.ndarray):
        self.affine, self.weights = affine, weights
        self.n, n_groups = affine.linear.shape
        self.d = n_groups - 1
        self.basis = scipy.linalg.helmert(n_groups).T  # (D, d)
        self.diagonal = _numpy(affine.own.diagonal)
        self.terms = [(_numpy(coefficient), _numpy(matrix)) for coefficient, matrix in affine.own.terms]

    def reduced(self, matrix: Any) -> np.ndarray:
        """A matrix (…, D, D) on the tangent space."""
        return self.basis.T @ _numpy(matrix) @ self.basis

    def size(self) -> float:
        """A bound on ‖diag(r) J‖ that adds up the parts, uncentred: what rounding errors scale with."""
        own = np.abs(self.diagonal).max(1)
        for coefficient, matrix in self.terms:
            own = own + np.abs(coefficient) * np.linalg.norm(matrix)
        if self.affine.own.dense is not None:
            own = own + np.linalg.norm(_numpy(self.affine.own.dense), axis=(1, 2))
        return float((self.weights * own).max() + self._coupling_size())

    def _coupling_size(self) -> float:
        others = self.affine.others
        if isinstance(others, Full):
            return float(np.linalg.norm(self.weights * np.sqrt((_numpy(others.B) ** 2).sum((1, 2, 3)))))
        if others.left is not None:
            strength = np.linalg.norm(_numpy(others.left), axis=(1, 2))
        else:
            strength = np.abs(_numpy(others.sensitivity if isinstance(others, Aggregate) else others.scale))
        strength = self.weights * strength * (1.0 if others.B is None else np.linalg.norm(_numpy(others.B)))
        if isinstance(others, Aggregate):
            return float(np.linalg.norm(strength) * np.linalg.norm(_numpy(others.reach)))
        rows, columns, entries = edges(others.weights)
        entries = strength[rows] * np.abs(entries)
        out, into = np.bincount(rows, entries, self.n), np.bincount(columns, entries, self.n)
        return float(np.sqrt(out.max() * into.max()))  # ‖A‖₂² ≤ ‖A‖₁ ‖A‖_∞

    def matrices(self) -> np.ndarray:
        """Own blocks on the tangent space, unweighted, (n, d, d)."""
        n, d = self.n, self.d
        if self.diagonal.shape[1] == 1:
            out = np.broadcast_to(self.diagonal[:, :, None] * np.eye(d), (n, d, d)).copy()
        else:
            diagonal = np.broadcast_to(self.diagonal, (n, d + 1))
            out = np.einsum("da,id,db->iab", self.basis, diagonal, self.basis)
        for coefficient, matrix in self.terms:
            out += coefficient[:, None, None] * self.reduced(matrix)
        return out if self.affine.own.dense is None else out + self.reduced(self.affine.own.dense)

    def dense(self) -> np.ndarray:
        """diag(r) J on the tangent space, (n·d, n·d)."""
        n, d = self.n, self.d
        jacobian = _numpy(self.affine.others.dense(n, d + 1))
        jacobian = np.einsum("da,idje,eb->iajb", self.basis, jacobian, self.basis, optimize=True)
        agents = np.arange(n)
        jacobian[agents, :, agents, :] += self.matrices()
        return (self.weights[:, None, None, None] * jacobian).reshape(n * d, n * d)

    def blocks(self, others: Aggregate) -> Shared | Matrices | None:
        """Own blocks and the factors of the aggregate, or None where they would take too much memory."""
        r, reach = self.weights, _numpy(others.reach)
        if others.B is not None and (shared := self._common_basis(others.B)) is not None:
            rotation, values = shared
            B = rotation.T @ self.reduced(others.B) @ rotation
            if _is_diagonal(B):
                B = np.diag(np.diag(B))
            return Shared(r[:, None] * values, B, r * _numpy(others.sensitivity), reach)
        if self.n * self.d**2 > MATRICES_LIMIT:
            return None
        left = self.reduced(others.columns())
        return Matrices(r[:, None, None] * self.matrices(), r[:, None, None] * left, reach)

    def _common_basis(self, B: Any) -> tuple[np.ndarray, np.ndarray] | None:
        """A basis (d, d) in which all own blocks are diagonal, B too if possible, and the blocks' diagonals (n, d)."""
        if self.affine.own.dense is not None or min(self.diagonal.shape) > 1:
            return None
        pairs = [(coefficient, self.reduced(matrix)) for coefficient, matrix in self.terms]
        if self.diagonal.shape[1] == 1:
            pairs.append((np.broadcast_to(self.diagonal[:, 0], (self.n,)), np.eye(self.d)))
        else:
            pairs.append((np.ones(self.n), self.reduced(np.diag(self.diagonal[0]))))
        pairs.append((np.zeros(self.n), self.reduced(B)))
        # A generic mix of matrices that commute has no other eigenvectors than they all have.
        mix = np.zeros((self.d, self.d))
        for k, (_, matrix) in enumerate(pairs):
            mix += matrix / (np.linalg.norm(matrix) or 1) / np.sqrt(k + 2)
        rotation = np.linalg.eigh((mix + mix.T) / 2)[1]
        values = np.zeros((self.n, self.d))
        for coefficient, matrix in pairs:
            rotated = rotation.T @ matrix @ rotation
            if coefficient.any() and not _is_diagonal(rotated):
                return None
            values += coefficient[:, None] * np.diag(rotated)
        return rotation, values


def edges(weights: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and entries of a network, dense or BCOO."""
    if not isinstance(weights, BCOO):
        rows, columns = np.nonzero(np.asarray(weights))
        return rows, columns, _numpy(weights)[rows, columns]
    rows, columns = np.asarray(weights.indices).T
    kept = rows < weights.shape[0]  # it pads with indices out of range
    return rows[kept], columns[kept], _numpy(weights.data)[kept]


def _numpy(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64)


def _is_diagonal(matrix: np.ndarray) -> bool:
    """Up to rounding."""
    off = np.abs(matrix - np.diag(np.diag(matrix))).max()
    return bool(off <= 8 * len(matrix) * EPS * np.linalg.norm(matrix))


def _secular(blocks: Shared | Matrices) -> tuple[float, float, tuple[float, float]]:
    """Smallest eigenvalue of the symmetric part, largest singular value, and bounds on the errors of both."""
    found = []
    for part in blocks.split():
        size = part.size() or 1.0
        scaled = part.scaled(1 / size)
        low, low_error = lowest_eigenvalue(scaled.symmetric_part())
        square, square_error = lowest_eigenvalue(scaled.negative_square())
        square = max(-square, 0.0)
        found.append([size * x for x in (low, low - low_error, square**0.5, (square + square_error) ** 0.5)])
    low, lower, high, upper = np.array(found).T
    return float(low.min()), float(high.max()), (float(low.min() - lower.min()), float(upper.max() - high.max()))
