"""Eigenvalues of a block-diagonal matrix plus one of low rank, without the big matrix.

Where agents meet through an aggregate, J = blockdiag(M_i) + U Vᵀ with blocks U_i = L_i and V_i = reach_i I. Its
symmetric part and JᵀJ are H = blockdiag(A_i) + W C Wᵀ, W with 2d columns. By Haynsworth's inertia formula

    #{eigenvalues of H below λ} = #{eigenvalues of the A_i below λ} + #{positive eigenvalues of S(λ)} − d,
    S(λ) = C⁻¹ + Σ_i W_iᵀ (A_i − λ)⁻¹ W_i

(d eigenvalues of C⁻¹ are positive), so that bracketing finds the smallest one with a 2d × 2d matrix a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize

TOLERANCE = 1e-12  # of eigenvalues, for matrices of size one
CHUNK = 8192


@dataclass(frozen=True)
class Modified:
    """H: eigenvalues (n, d) of the A_i, λ -> Σ_i W_iᵀ (A_i − λ)⁻¹ W_i, and C⁻¹ with d positive eigenvalues."""

    values: np.ndarray
    gram: Callable[[float], np.ndarray]
    inverse: np.ndarray
    coupling: float  # a bound on ‖W C Wᵀ‖


def lowest_eigenvalue(H: Modified) -> tuple[float, float]:
    """The smallest eigenvalue of H of about size one, and a bound on its error."""
    d = H.values.shape[1]
    flat = H.values.reshape(-1)
    last = min(d, flat.size - 1)
    order = np.partition(flat, last)
    bottom, top = float(order[: last + 1].min()), float(order[last])

    def crossing(level: float) -> float:
        """The eigenvalue of S that turns positive as λ passes the first eigenvalue of H, below all those of the A_i."""
        return float(np.linalg.eigvalsh(H.inverse + H.gram(level))[d - 1])

    def passed(level: float) -> bool:
        positive = int((np.linalg.eigvalsh(H.inverse + H.gram(level)) > 0).sum())
        return int((flat < level).sum()) + positive > d

    below = bottom - TOLERANCE  # eigenvalues of the A_i are poles of S
    if passed(below):
        low = bottom - H.coupling - 1e-3
        found: Any = scipy.optimize.brentq(crossing, low, below, xtol=TOLERANCE / 4)
        return float(found), 2 * TOLERANCE
    # Interlacing: at most d of the A_i's eigenvalues lie below the first one of H.
    low, high = below, top + TOLERANCE
    while high - low > 2 * TOLERANCE:
        middle = (low + high) / 2
        low, high = (low, middle) if passed(middle) else (middle, high)
    return (low + high) / 2, 4 * TOLERANCE


@dataclass(frozen=True)
class Shared:
    """Own blocks that are diagonal in one basis, `values` (n, d), and coupling U_i = left_i B, V_i = reach_i I."""

    values: np.ndarray
    B: np.ndarray
    left: np.ndarray
    reach: np.ndarray

    def split(self) -> list[Shared]:
        """One problem a direction where B is diagonal, too: none then suffers from the rounding of another."""
        diagonal = np.diag(self.B)
        if not np.array_equal(self.B, np.diag(diagonal)):
            return [self]
        return [Shared(self.values[:, [k]], diagonal[[k]][None], self.left, self.reach) for k in range(len(diagonal))]

    def rank_size(self) -> float:
        """A bound on ‖U Vᵀ‖."""
        return float(np.linalg.norm(self.left) * np.linalg.norm(self.B, 2) * np.linalg.norm(self.reach))

    def size(self) -> float:
        return float(np.abs(self.values).max()) + self.rank_size()

    def scaled(self, factor: float) -> Shared:
        """Times a factor, and with U and V of like size."""
        balance = _balance(np.linalg.norm(self.left) * np.linalg.norm(self.B, 2) * factor, np.linalg.norm(self.reach))
        return Shared(self.values * factor, self.B, self.left * (factor * balance), self.reach / balance)

    def symmetric_part(self) -> Modified:
        inverse = _saddle(np.zeros_like(self.B), 2.0)
        return Modified(self.values, self._gram(self.values, 1.0), inverse, self.rank_size())

    def negative_square(self) -> Modified:
        """−JᵀJ, W_i = [M_iᵀ U_i, V_i]."""
        rank, top, own = self.rank_size(), float(np.abs(self.values).max()), -(self.values**2)
        inverse = _saddle((self.left @ self.left) * self.B.T @ self.B, -1.0)
        return Modified(own, self._gram(own, self.values), inverse, rank * (2 * top + rank))

    def _gram(self, own: np.ndarray, factor: np.ndarray | float) -> Callable[[float], np.ndarray]:
        """For W_i = [diag(factor_i) U_i, V_i]."""
        first = np.broadcast_to(self.left[:, None] * factor, own.shape)
        weights = first**2, first * self.reach[:, None], np.broadcast_to((self.reach**2)[:, None], own.shape)

        def gram(level: float) -> np.ndarray:
            resolvent = _resolvent(own, level)
            uu, uv, vv = (np.einsum("id,id->d", resolvent, weight) for weight in weights)
            cross = self.B.T * uv
            return np.block([[self.B.T @ (uu[:, None] * self.B), cross], [cross.T, np.diag(vv)]])

        return gram


@dataclass(frozen=True)
class Matrices:
    """Any own blocks M (n, d, d), and coupling U_i = left_i (d, d), V_i = reach_i I."""

    own: np.ndarray
    left: np.ndarray
    reach: np.ndarray

    def split(self) -> list[Matrices]:
        return [self]

    def rank_size(self) -> float:
        """A bound on ‖U Vᵀ‖."""
        return float(np.linalg.norm(self.left) * np.linalg.norm(self.reach))

    def own_size(self) -> float:
        return float(np.linalg.norm(self.own, axis=(1, 2)).max())

    def size(self) -> float:
        return self.own_size() + self.rank_size()

    def scaled(self, factor: float) -> Matrices:
        """Times a factor, and with U and V of like size."""
        balance = _balance(np.linalg.norm(self.left) * factor, np.linalg.norm(self.reach))
        return Matrices(self.own * factor, self.left * (factor * balance), self.reach / balance)

    def symmetric_part(self) -> Modified:
        own = (self.own + np.swapaxes(self.own, 1, 2)) / 2
        values, gram = self._gram(own, self.left)
        return Modified(values, gram, _saddle(np.zeros(own.shape[1:]), 2.0), self.rank_size())

    def negative_square(self) -> Modified:
        """−JᵀJ, W_i = [M_iᵀ U_i, V_i]."""
        rank, transposed = self.rank_size(), np.swapaxes(self.own, 1, 2)
        values, gram = self._gram(-transposed @ self.own, transposed @ self.left)
        corner = np.tensordot(self.left, self.left, ((0, 1), (0, 1)))
        return Modified(values, gram, _saddle(corner, -1.0), rank * (2 * self.own_size() + rank))

    def _gram(self, own: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, Callable[[float], np.ndarray]]:
        """Eigenvalues of the own blocks, and the sum for W_i = [first_i, V_i]."""
        n, d, _ = own.shape
        values, vectors = np.linalg.eigh(own)
        rows = np.swapaxes(vectors, 1, 2)
        left, right = (rows @ first).reshape(n * d, d), (self.reach[:, None, None] * rows).reshape(n * d, d)
        flat = values.reshape(-1)

        def gram(level: float) -> np.ndarray:
            uu, uv, vv = np.zeros((3, d, d))
            for start in range(0, n * d, CHUNK):
                part = slice(start, start + CHUNK)
                resolvent = _resolvent(flat[part], level)[:, None]
                a, b = left[part], right[part]
                uu += a.T @ (resolvent * a)
                uv += a.T @ (resolvent * b)
                vv += b.T @ (resolvent * b)
            return np.block([[uu, uv], [uv.T, vv]])

        return values, gram


def _saddle(corner: np.ndarray, off: float) -> np.ndarray:
    identity = off * np.eye(len(corner))
    return np.block([[corner, identity], [identity, np.zeros_like(corner)]])


def _resolvent(values: np.ndarray, level: float) -> np.ndarray:
    """1 / (a − λ); at a pole as if a were just above λ, which is how `lowest_eigenvalue` counts it."""
    return 1 / np.where(values == level, TOLERANCE / 1000, values - level)


def _balance(left: Any, right: Any) -> float:
    """b such that b·left = right / b; 1 where one of them is zero."""
    return float(np.sqrt(right / left)) if left > 0 and right > 0 else 1.0
