"""Eigenvalues of a block-diagonal matrix plus one of low rank, without the big matrix.

A game in which agents meet through an aggregate has J = blockdiag(M_i) + U Vᵀ with U = (L_i), V = (reach_i I): its symmetric
part and JᵀJ are H = blockdiag(A_i) + W C Wᵀ with W of 2d columns. By Haynsworth's inertia formula

    #{eigenvalues of H below λ} = #{of A below λ} + #{positive ones of S(λ)} − d,    S(λ) = C⁻¹ + Σ_i W_iᵀ (A_i − λ)⁻¹ W_i,

(C⁻¹ has d positive ones), so that the smallest eigenvalue of H is found by bracketing, with a 2d × 2d matrix a step.
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
    coupling: float  # bound on ‖W C Wᵀ‖


def lowest_eigenvalue(H: Modified) -> tuple[float, float]:
    """The smallest eigenvalue of H of about size one, and a bound on its error."""
    d = H.values.shape[1]
    flat = H.values.reshape(-1)
    order = np.partition(flat, min(d, flat.size - 1))
    bottom, top = float(order[: d + 1].min()), float(order[min(d, flat.size - 1)])

    def crossing(level: float) -> float:
        """The eigenvalue of S that turns positive where the first eigenvalue of H is passed, below all those of A."""
        return float(np.linalg.eigvalsh(H.inverse + H.gram(level))[d - 1])

    def passed(level: float) -> bool:
        positive = int((np.linalg.eigvalsh(H.inverse + H.gram(level)) > 0).sum())
        return int((flat < level).sum()) + positive > d

    # Own eigenvalues are poles of S; TOLERANCE keeps away from them.
    below = bottom - TOLERANCE
    if passed(below):
        low = bottom - H.coupling - 1e-3
        found = scipy.optimize.brentq(crossing, low, below, xtol=TOLERANCE / 4, rtol=1e-15)
        return float(found), 2 * TOLERANCE
    # Interlacing: at most d eigenvalues of A lie below the first one of H.
    low, high = below, top + TOLERANCE
    while high - low > 2 * TOLERANCE:
        middle = (low + high) / 2
        low, high = (low, middle) if passed(middle) else (middle, high)
    return (low + high) / 2, 4 * TOLERANCE


def _saddle(d: int, corner: np.ndarray, off: float) -> np.ndarray:
    return np.block([[corner, off * np.eye(d)], [off * np.eye(d), np.zeros((d, d))]])


@dataclass(frozen=True)
class Shared:
    """Own blocks that are diagonal in one basis, `values` (n, d), and coupling U_i = left_i B, V_i = reach_i I."""

    values: np.ndarray
    B: np.ndarray
    left: np.ndarray
    reach: np.ndarray

    def split(self) -> list[Shared]:
        """One problem a direction where B is diagonal, too: no direction then suffers from the rounding of another."""
        diagonal = np.diag(self.B)
        if not np.array_equal(self.B, np.diag(diagonal)):
            return [self]
        return [Shared(self.values[:, [k]], diagonal[[k]][None], self.left, self.reach) for k in range(len(diagonal))]

    def size(self) -> float:
        return float(np.abs(self.values).max() + np.linalg.norm(self.left) * np.linalg.norm(self.B, 2) * np.linalg.norm(self.reach))

    def scaled(self, factor: float) -> Shared:
        """Times a factor, and with U and V of like size."""
        balance = _balance(np.linalg.norm(self.left) * np.linalg.norm(self.B, 2) * factor, np.linalg.norm(self.reach))
        return Shared(self.values * factor, self.B, self.left * (factor * balance), self.reach / balance)

    def symmetric_part(self) -> Modified:
        return self._modified(self.values, 1.0, 2.0, np.zeros_like(self.B))

    def negative_square(self) -> Modified:
        """−JᵀJ."""
        return self._modified(-(self.values**2), self.values, -1.0, (self.left @ self.left) * self.B.T @ self.B)

    def _modified(self, own: np.ndarray, factor: Any, off: float, corner: np.ndarray) -> Modified:
        """W_i = [diag(factor_i) left_i B, reach_i I]."""
        d = own.shape[1]
        first = np.broadcast_to(self.left[:, None] * factor, own.shape)
        weights = first**2, first * self.reach[:, None], np.broadcast_to((self.reach**2)[:, None], own.shape)

        def gram(level: float) -> np.ndarray:
            resolvent = _resolvent(own, level)
            uu, uv, vv = (np.einsum("id,id->d", resolvent, weight) for weight in weights)
            cross = self.B.T * uv
            return np.block([[self.B.T @ (uu[:, None] * self.B), cross], [cross.T, np.diag(vv)]])

        rank = np.linalg.norm(self.left) * np.linalg.norm(self.B, 2) * np.linalg.norm(self.reach)
        size = rank if np.ndim(factor) == 0 else rank * (2 * np.abs(self.values).max() + rank)
        return Modified(own, gram, _saddle(d, corner, off), float(size))


@dataclass(frozen=True)
class Matrices:
    """Any own blocks M (n, d, d), and coupling U_i = left_i (n, d, d), V_i = reach_i I."""

    own: np.ndarray
    left: np.ndarray
    reach: np.ndarray

    def split(self) -> list[Matrices]:
        return [self]

    def size(self) -> float:
        return float(np.abs(self.own).max() * self.own.shape[1] + np.linalg.norm(self.left) * np.linalg.norm(self.reach))

    def scaled(self, factor: float) -> Matrices:
        """Times a factor, and with U and V of like size."""
        balance = _balance(np.linalg.norm(self.left) * factor, np.linalg.norm(self.reach))
        return Matrices(self.own * factor, self.left * (factor * balance), self.reach / balance)

    def symmetric_part(self) -> Modified:
        own = (self.own + np.swapaxes(self.own, 1, 2)) / 2
        return self._modified(own, self.left, 2.0, np.zeros(own.shape[1:]))

    def negative_square(self) -> Modified:
        """−JᵀJ."""
        transposed = np.swapaxes(self.own, 1, 2)
        corner = np.einsum("iab,iac->bc", self.left, self.left)
        return self._modified(-transposed @ self.own, transposed @ self.left, -1.0, corner)

    def _modified(self, own: np.ndarray, first: np.ndarray, off: float, corner: np.ndarray) -> Modified:
        """W_i = [first_i, reach_i I]."""
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

        rank = np.linalg.norm(self.left) * np.linalg.norm(self.reach)
        size = rank * max(1.0, 2 * np.abs(values).max() ** 0.5 + rank)
        return Modified(values, gram, _saddle(d, corner, off), float(size))


def _resolvent(values: np.ndarray, level: float) -> np.ndarray:
    """1 / (a − λ); at a pole as if a were just above λ, which is how `lowest_eigenvalue` counts it."""
    return 1 / np.where(values == level, TOLERANCE / 1000, values - level)


def _balance(left: float, right: float) -> float:
    """b such that b·left = right / b; 1 where one is zero."""
    return float(np.sqrt(right / left)) if left > 0 and right > 0 else 1.0
