"""Strong monotonicity and Lipschitz constant of an affine game map on the tangent space (theory §1, §2).

With Z an orthonormal basis of {Σ y = 0}, J = Z'ᵀ(diag(r) Jacobian)Z' acts on (n, d) arrays, d = D − 1. Wanted: the smallest
eigenvalue of its symmetric part, and its largest singular value. Three ways, by what the game allows:

* small games: dense;
* agents that meet through an aggregate: `secular`, exact and never n × n;
* the rest: Lanczos, whose error bound holds for all but a vanishing share of starting vectors: "numerically".

On the host, in float64 whatever the dtype of the game.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jax.experimental.sparse import BCOO

from jaxgame.certificate.lanczos import extremes
from jaxgame.certificate.secular import Matrices, Shared, lowest_eigenvalue
from jaxgame.games.affine import AffineMap, Aggregate, Edges, Full

DENSE_LIMIT = 1000  # n·(D − 1) up to which eigenvalues of the whole Jacobian take about a second
MATRICES_LIMIT = 20_000_000  # numbers, for n blocks d × d that have no eigenbasis in common
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Spectrum:
    """c and L as computed, and safe sides of both: rounding, or the error of Lanczos, taken off and put on."""

    monotonicity: float
    lipschitz: float
    lower: float
    upper: float
    proved: bool  # False: by Lanczos


def spectrum(affine: AffineMap, weights: np.ndarray, *, dtype) -> Spectrum:
    """Constants of diag(weights) F for a game whose numbers were computed in `dtype`."""
    n, n_groups = affine.linear.shape
    if n_groups == 1:  # one mixture only: no direction in which anything could fail
        return Spectrum(np.inf, 0.0, np.inf, 0.0, True)
    parts = _Parts(affine, weights)
    if not np.isfinite(parts.size):
        return Spectrum(np.nan, np.inf, -np.inf, np.inf, True)
    if parts.size == 0:
        return Spectrum(0.0, 0.0, 0.0, 0.0, True)
    rounding = (16 * float(np.finfo(dtype).eps) + 8 * n_groups * EPS) * parts.size
    if n * (n_groups - 1) <= DENSE_LIMIT:
        jacobian = parts.dense()
        low = scipy.linalg.eigvalsh((jacobian + jacobian.T) / 2, subset_by_index=[0, 0])[0]
        high = np.linalg.norm(jacobian, 2)
        rounding += 8 * EPS * np.sqrt(len(jacobian)) * high
        return Spectrum(low, high, low - rounding, high + rounding, True)
    if isinstance(affine.others, Aggregate) and (blocks := parts.blocks()) is not None:
        low, high, error = _secular(blocks)
        proved = True
    else:
        low, high, error = extremes(affine, weights)
        proved = False
    return Spectrum(low, high, low - rounding - error[0], high + rounding + error[1], proved)


def dense_jacobian(affine: AffineMap) -> np.ndarray:
    """The Jacobian on the tangent space, (n·d, n·d)."""
    return _Parts(affine, np.ones(len(affine.linear))).dense()


class _Parts:
    """The pieces of diag(r) J in numpy, reduced to the tangent space."""

    def __init__(self, affine: AffineMap, weights: np.ndarray):
        self.n, n_groups = affine.linear.shape
        self.d = n_groups - 1
        self.basis = scipy.linalg.helmert(n_groups).T  # (D, d)
        self.weights = weights
        self.own, self.others = affine.own, affine.others
        self.diagonal = np.asarray(affine.own.diagonal, np.float64)
        self.terms = [(np.asarray(c, np.float64), np.asarray(Q, np.float64)) for c, Q in affine.own.terms]
        self.size = self._size()

    def reduced(self, matrix) -> np.ndarray:
        """ZᵀMZ over the last two axes."""
        matrix = np.asarray(matrix, np.float64)
        return self.basis.T @ matrix @ self.basis

    def _size(self) -> float:
        """A bound on ‖diag(r) J‖ that adds up the parts, uncentred: what rounding errors scale with."""
        own = np.abs(self.diagonal).max(1)
        for coefficient, matrix in self.terms:
            own = own + np.abs(coefficient) * np.linalg.norm(matrix)
        if self.own.dense is not None:
            own = own + np.linalg.norm(np.asarray(self.own.dense, np.float64), axis=(1, 2))
        return float((self.weights * own).max() + self.coupling_size())

    def coupling_size(self) -> float:
        """A bound on the norm of the part that comes from the others."""
        others = self.others
        if isinstance(others, Full):
            return float(np.sqrt((self.weights[:, None, None, None] ** 2 * np.asarray(others.B, np.float64) ** 2).sum()))
        if isinstance(others, Aggregate):
            left = np.abs(others.sensitivity) if others.left is None else np.linalg.norm(np.asarray(others.left), axis=(1, 2))
            inner = 1.0 if others.B is None else float(np.linalg.norm(others.B))
            return float(np.linalg.norm(self.weights * left) * np.linalg.norm(others.reach) * inner)
        left = np.abs(others.scale) if others.left is None else np.linalg.norm(np.asarray(others.left), axis=(1, 2))
        inner = 1.0 if others.B is None else float(np.linalg.norm(others.B))
        sparse = isinstance(others.weights, BCOO)
        entries = np.asarray(others.weights.data if sparse else others.weights, np.float64)
        rows, columns = np.asarray(others.weights.indices).T if sparse else np.indices(entries.shape).reshape(2, -1)
        kept = rows < self.n  # BCOO pads with indices out of range
        rows, columns, entries = rows[kept], columns[kept], np.abs(entries.reshape(-1)[kept])
        entries = entries * (self.weights * left)[rows]
        # ‖A‖₂² ≤ ‖A‖₁ ‖A‖_∞
        out, into = np.bincount(rows, entries, minlength=1), np.bincount(columns, entries, minlength=1)
        return float(np.sqrt(out.max() * into.max()) * inner)

    def matrices(self) -> np.ndarray:
        """Own blocks on the tangent space, unweighted, (n, d, d)."""
        n, d = self.n, self.d
        if self.diagonal.shape[1] == 1:
            out = np.broadcast_to(self.diagonal[:, :, None] * np.eye(d), (n, d, d)).copy()
        else:
            out = np.einsum("da,id,db->iab", self.basis, np.broadcast_to(self.diagonal, (n, d + 1)), self.basis)
        for coefficient, matrix in self.terms:
            out += coefficient[:, None, None] * self.reduced(matrix)
        return out if self.own.dense is None else out + self.reduced(self.own.dense)

    def dense(self) -> np.ndarray:
        n, d = self.n, self.d
        jacobian = np.asarray(self.others.dense(n, d + 1), np.float64)
        jacobian = np.einsum("da,idje,eb->iajb", self.basis, jacobian, self.basis, optimize=True)
        agents = np.arange(n)
        jacobian[agents, :, agents, :] += self.matrices()
        return (self.weights[:, None, None, None] * jacobian).reshape(n * d, n * d)

    def blocks(self) -> Shared | Matrices | None:
        """Own blocks and the aggregate's factors, or None where they take too much memory."""
        others, r = self.others, self.weights
        reach = np.asarray(others.reach, np.float64)
        shared = self._common_basis()
        if shared is not None and others.B is not None:
            rotation, values = shared
            B = rotation.T @ self.reduced(others.B) @ rotation
            if self._is_diagonal(B):
                B = np.diag(np.diag(B))
            return Shared(r[:, None] * values, B, r * np.asarray(others.sensitivity, np.float64), reach)
        if self.n * self.d**2 > MATRICES_LIMIT:
            return None
        left = self.reduced(others.columns())
        return Matrices(r[:, None, None] * self.matrices(), r[:, None, None] * left, reach)

    @staticmethod
    def _is_diagonal(matrix: np.ndarray) -> bool:
        """Up to rounding."""
        return bool(np.abs(matrix - np.diag(np.diag(matrix))).max() <= 8 * len(matrix) * EPS * np.linalg.norm(matrix))

    def _common_basis(self) -> tuple[np.ndarray, np.ndarray] | None:
        """A basis (d, d) in which all own blocks are diagonal, and their diagonals (n, d)."""
        if self.own.dense is not None:
            return None
        pairs = [(coefficient, self.reduced(matrix)) for coefficient, matrix in self.terms]
        if self.diagonal.shape[0] == 1 and self.diagonal.shape[1] > 1:
            pairs.append((np.ones(self.n), self.reduced(np.diag(self.diagonal[0]))))
        elif self.diagonal.shape[1] > 1:
            return None
        else:
            pairs.append((np.broadcast_to(self.diagonal[:, 0], (self.n,)), np.eye(self.d)))
        if self.others.B is not None:
            pairs.append((np.zeros(self.n), self.reduced(self.others.B)))
        # A generic mix of matrices that commute has no other eigenvectors than they all have.
        mix = sum(matrix / (np.linalg.norm(matrix) or 1) / np.sqrt(k + 2) for k, (_, matrix) in enumerate(pairs))
        rotation = np.linalg.eigh((mix + mix.T) / 2)[1]
        values = np.zeros((self.n, self.d))
        for coefficient, matrix in pairs:
            rotated = rotation.T @ matrix @ rotation
            if coefficient.any() and not self._is_diagonal(rotated):
                return None
            values += coefficient[:, None] * np.diag(rotated)
        return rotation, values


def _secular(blocks: Shared | Matrices) -> tuple[float, float, tuple[float, float]]:
    """Smallest eigenvalue of the symmetric part, largest singular value, and bounds on the errors of both."""
    found = []
    for part in blocks.split():
        size = part.size() or 1.0
        scaled = part.scaled(1 / size)
        low, low_error = lowest_eigenvalue(scaled.symmetric_part())
        square, square_error = lowest_eigenvalue(scaled.negative_square())
        high = np.sqrt(max(-square, 0))
        found.append([size * x for x in (low, low - low_error, high, np.sqrt(max(-square, 0) + square_error))])
    low, lower, high, upper = np.array(found).T
    return low.min(), high.max(), (low.min() - lower.min(), upper.max() - high.max())
