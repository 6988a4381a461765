"""The maximum of a mixture likelihood over the simplex, on the host in float64.

f(w) = mean_k log Σ_d w_d L_kd − Σ_d w_d is concave, and its maximum over w ≥ 0 lies on the simplex by itself. EM steps
find the neighbourhood; quadratic steps with an active set (sequential quadratic programming as in Kim, Carbonetto,
Stephens & Anitescu 2020, arXiv 1806.01412) and a line search do the rest; Newton steps on the support that is found
end at rounding.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import nnls

EM_STEPS = 5
MAX_STEPS = 100
RIDGE = 1e-12  # of a quadratic step, relative: keeps it defined where the data cannot tell groups apart
ROUNDING = 1e-14


def scaled(log_probs: np.ndarray) -> np.ndarray:
    """Likelihoods (N, D) with the largest of every response 1, whatever their magnitude."""
    return np.exp(log_probs - log_probs.max(1, keepdims=True))


def log_likelihood(likelihood: np.ndarray, weights: np.ndarray) -> float:
    """Σ_k log Σ_d w_d L_kd."""
    with np.errstate(divide="ignore"):
        return float(np.log(likelihood @ weights).sum())


def responsibilities(likelihood: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """L_kd / Σ_e w_e L_ke, (N, D): their means are the gradient, their mean squares the curvature."""
    return likelihood / (likelihood @ weights)[:, None]


def optimality(likelihood: np.ndarray, weights: np.ndarray) -> float:
    """By how much the conditions of the maximum fail: slopes are 1 where a group is represented, at most 1 elsewhere.

    Times N it bounds how far the log-likelihood is from its maximum.
    """
    slope = responsibilities(likelihood, weights).mean(0) - 1
    return float(np.where(weights > 0, np.abs(slope), np.maximum(slope, 0)).max())


def maximum(likelihood: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """The weights (D,) that maximise the likelihood, exactly 0 for excluded groups; each response has a group that
    gives it a positive one. start: where to look first.
    """
    n_groups = likelihood.shape[1]
    weights = np.full(n_groups, 1 / n_groups)
    if start is not None and (likelihood @ start).min() > 0:
        weights = start
    for _ in range(EM_STEPS):
        weights = weights * responsibilities(likelihood, weights).mean(0)
    for _ in range(MAX_STEPS):
        ahead = _quadratic_step(likelihood, weights)
        if ahead is None:
            break
        weights = ahead
    return _polished(likelihood, weights / weights.sum())


def _quadratic_step(likelihood: np.ndarray, weights: np.ndarray) -> np.ndarray | None:
    """The next weights; None where no more is to be gained.

    The step is halved until the likelihood rises and does not fall again steeply at its end (strong Wolfe conditions):
    a group without which some responses are all but impossible would be lost for good, its slope beyond all numbers.
    """
    shares = responsibilities(likelihood, weights)
    slope = shares.mean(0)
    curvature = shares.T @ shares / len(shares)
    ridge = RIDGE * np.trace(curvature)
    # min ½ yᵀHy − cᵀy over y ≥ 0, as a least-squares problem.
    root = cholesky(curvature + ridge * np.eye(len(weights)))
    target = solve_triangular(root, 2 * slope - 1 + ridge * weights, trans=1)
    step = nnls(root, target)[0] - weights
    promised = step @ (slope - 1)
    if not promised > ROUNDING:
        return None
    before, length = _objective(likelihood, weights), 1.0
    while length > 1e-10:
        ahead = np.maximum(weights + length * step, 0)
        ahead[(weights + step == 0) & (length == 1)] = 0
        if _objective(likelihood, ahead) >= before + 1e-4 * length * promised:
            beyond = step @ (responsibilities(likelihood, ahead).mean(0) - 1)
            if beyond >= -0.9 * promised:
                return ahead / ahead.sum()
        length /= 2
    return None


def _objective(likelihood: np.ndarray, weights: np.ndarray) -> float:
    return log_likelihood(likelihood, weights) / len(likelihood) - weights.sum()


def _polished(likelihood: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Newton steps on the support, as long as they come nearer to the conditions of the maximum."""
    error = optimality(likelihood, weights)
    for _ in range(5):
        face = weights > 0
        shares = responsibilities(likelihood[:, face], weights[face])
        curvature = shares.T @ shares / len(shares)
        step = np.linalg.lstsq(curvature, shares.mean(0) - 1, rcond=RIDGE)[0]
        ahead = weights.copy()
        ahead[face] += step
        ahead /= ahead.sum()
        if not (ahead[face] > 0).all():
            break
        left = optimality(likelihood, ahead)
        if not left < error:
            break
        weights, error = ahead, left
    return weights
