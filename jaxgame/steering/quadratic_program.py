"""Convex quadratic programs on the host: an interior point, then one exact solve on the constraints that bind."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import clarabel
import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import MatrixRankWarning, splu

_clarabel: Any = clarabel  # compiled: a type checker finds no names in it

TOLERANCE = 1e-10  # of the interior point, relative
ACCEPTED = 1e-7  # violation of the optimality conditions up to which a point counts as a solution
REGULARISATION = 1e-9  # of the exact solve: binding constraints may depend on each other
REFINEMENTS = 8
ROUNDS = 4  # exact solves, each on the constraints that bind at the one before
EXACT = 1e-13  # violation at which there is nothing to gain

_SYMMETRIC = dict(permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=dict(SymmetricMode=True))

SOLVED, INFEASIBLE, FAILED = "solved", "infeasible", "failed"

_NO_POINT = (_clarabel.SolverStatus.PrimalInfeasible, _clarabel.SolverStatus.AlmostPrimalInfeasible)


@dataclasses.dataclass(frozen=True)
class Solution:
    """point x; multipliers y and slacks b − A x of all rows; value of the objective; status."""

    status: str
    point: np.ndarray
    multipliers: np.ndarray
    slack: np.ndarray
    value: float

    @property
    def solved(self) -> bool:
        return self.status == SOLVED


def minimise(
    curvature: np.ndarray, linear: np.ndarray, matrix: sp.csr_matrix, bound: np.ndarray, equal: np.ndarray
) -> Solution:
    """min ½ Σ curvature x² + linear·x subject to matrix x = bound in the rows `equal`, ≤ bound in the others.

    curvature ≥ 0 and linear (N,), matrix (R, N), bound (R,), equal (R,) bool. A multiplier y has
    curvature x + linear + matrixᵀ y = 0, and y ≥ 0 in the rows that are no equations. INFEASIBLE is proved by a
    certificate of the interior point (Clarabel); FAILED means that neither a solution nor that proof was found.
    """
    order = np.argsort(~equal, kind="stable")
    n_equal = int(equal.sum())
    cones = [_clarabel.ZeroConeT(n_equal), _clarabel.NonnegativeConeT(len(bound) - n_equal)]
    quadratic = sp.csc_matrix(sp.diags(curvature))
    found = _clarabel.DefaultSolver(
        quadratic, linear, sp.csc_matrix(matrix[order]), bound[order], cones, _settings()
    ).solve()
    point, multipliers = np.asarray(found.x), np.empty(len(bound))
    multipliers[order] = np.asarray(found.z)
    if found.status in _NO_POINT or not np.isfinite(point).all():
        status = INFEASIBLE if found.status in _NO_POINT else FAILED
        return Solution(status, point, multipliers, bound - matrix @ point, np.inf)
    problem = (curvature, linear, matrix, bound, equal)
    miss = _violation(*problem, point, multipliers)
    for _ in range(ROUNDS):
        exact = _on_active(*problem, point, multipliers)
        if exact is None or not (left := _violation(*problem, *exact)) < miss:
            break
        (point, multipliers), miss = exact, left
        if miss < EXACT:
            break
    value = float(point @ (curvature * point) / 2 + linear @ point)
    return Solution(SOLVED if miss <= ACCEPTED else FAILED, point, multipliers, bound - matrix @ point, value)


def _settings() -> Any:
    settings = _clarabel.DefaultSettings()
    settings.verbose = False
    settings.max_threads = 1
    settings.tol_feas = settings.tol_gap_abs = settings.tol_gap_rel = TOLERANCE
    return settings


def _on_active(curvature, linear, matrix, bound, equal, point, multipliers) -> tuple[np.ndarray, np.ndarray] | None:
    """The point and multipliers that solve the optimality conditions with the binding constraints as equations."""
    active = np.flatnonzero(equal | (bound - matrix @ point < multipliers))
    binding = matrix[active]
    exact = sp.block_array([[sp.diags(curvature), binding.T], [binding, None]], format="csc")
    signs = np.concatenate([np.ones(len(point)), -np.ones(len(active))])
    right = np.concatenate([-linear, bound[active]])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", MatrixRankWarning)
            factors = splu(exact + sp.diags(REGULARISATION * signs, format="csc"), **_SYMMETRIC)
    except (RuntimeError, MatrixRankWarning):
        return None
    unknowns = np.concatenate([point, multipliers[active]])
    for _ in range(REFINEMENTS):
        unknowns = unknowns + factors.solve(right - exact @ unknowns)
    full = np.zeros_like(multipliers)
    full[active] = unknowns[len(point) :]
    return unknowns[: len(point)], full


def _violation(curvature, linear, matrix, bound, equal, point, multipliers) -> float:
    """The largest violation of the optimality conditions; ∞ for numbers that are not finite."""
    if not (np.isfinite(point).all() and np.isfinite(multipliers).all()):
        return np.inf
    slack = bound - matrix @ point
    size = 1 + max(np.abs(multipliers).max(initial=0), np.abs(linear).max(initial=0))
    stationary = np.abs(curvature * point + linear + matrix.T @ multipliers).max(initial=0) / size
    feasible = max(np.abs(slack[equal]).max(initial=0), -slack[~equal].min(initial=0))
    signed = -multipliers[~equal].min(initial=0) / size
    complementary = np.abs(slack * multipliers / size)[~equal].max(initial=0)
    return float(max(stationary, feasible, signed, complementary))
