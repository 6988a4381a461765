"""Nonlinear least squares, on the host: Levenberg–Marquardt with Marquardt's scaling, which no units of a parameter
change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.optimize

MAX_STEPS = 200
SIMPLEX_LIMIT = 6  # parameters up to which a search without derivatives pays
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-3, 1e-15, 1e12
STATIONARY = 1e-5  # cosine between the residual and what parameters can do about it


@dataclass(frozen=True)
class Minimum:
    """Where the search ended: parameters (p,), residual (N,), Jacobian (N, p), and half of whose squares were left."""

    theta: np.ndarray
    residual: np.ndarray
    jacobian: np.ndarray
    steps: int

    @property
    def squares(self) -> float:
        return float(self.residual @ self.residual)

    @property
    def stationary(self) -> bool:
        """Whether no parameter promises less; False at a kink that is a minimum, and where the search got stuck."""
        sizes = np.linalg.norm(self.jacobian, axis=0) * np.linalg.norm(self.residual)
        slopes = np.abs(self.jacobian.T @ self.residual)
        return bool((slopes <= STATIONARY * sizes + 1e-30).all())


def minimise(
    residual: Callable[[np.ndarray], np.ndarray],
    jacobian: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    resolution: float,
) -> Minimum | None:
    """A local minimum of ‖residual(θ)‖²; None if the residual is not finite at the start.

    residual may be NaN where it does not exist: such steps are shortened. resolution: of θ, relative; eps of what the
    functions compute in.
    """
    theta, left = start, residual(start)
    if not np.isfinite(left).all():
        return None
    slopes, damping, steps = jacobian(theta), FIRST_DAMPING, 0
    while steps < MAX_STEPS and damping < MOST_DAMPING:
        curvature, slope = slopes.T @ slopes, slopes.T @ left
        diagonal = np.diag(curvature)
        scale = np.where(diagonal > 0, diagonal, 1)
        move = -np.linalg.solve(curvature + damping * np.diag(scale), slope)
        steps += 1
        ahead = theta + move
        found = residual(ahead)
        before, after = left @ left, found @ found
        if np.isfinite(after) and after < before:
            small = np.abs(move).max() <= 4 * resolution * np.abs(ahead).max()
            theta, left, slopes = ahead, found, jacobian(ahead)
            damping = max(damping / 10, LEAST_DAMPING)
            if small or after <= 0 or before - after <= 1e-12 * before:
                break
        elif np.abs(move).max() <= resolution * np.abs(theta).max():
            break
        else:
            damping *= 8
    return Minimum(theta, left, slopes, steps)


def descend_kinks(
    residual: Callable[[np.ndarray], np.ndarray],
    jacobian: Callable[[np.ndarray], np.ndarray],
    stuck: Minimum,
    reach: np.ndarray,
) -> Minimum:
    """From where derivatives lead nowhere, on by the simplex of Nelder & Mead; reach (p,): its first size."""
    size = len(stuck.theta)
    if size > SIMPLEX_LIMIT:
        return stuck

    def squares(theta: np.ndarray) -> float:
        left = residual(theta)
        return float(left @ left) if np.isfinite(left).all() else np.inf

    corners = stuck.theta + np.vstack([np.zeros((1, size)), np.diag(reach)])
    options = dict(initial_simplex=corners, maxfev=100 * size, xatol=1e-6 * reach.min(), fatol=1e-12 * stuck.squares)
    found = scipy.optimize.minimize(squares, stuck.theta, method="Nelder-Mead", options=options)
    if not found.fun < stuck.squares:
        return stuck
    return Minimum(found.x, residual(found.x), jacobian(found.x), stuck.steps + int(found.nit))
