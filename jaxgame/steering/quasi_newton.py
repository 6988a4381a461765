"""Curvature learnt from gradients, and steps by its model on a set that one can only project on.

The projected quasi-Newton method (Schmidt, van den Berg, Friedlander & Murphy 2009) is made for functions that cost
more than projections, and an equilibrium does: the limited-memory BFGS model is minimised over the allowed levers by
spectral projected gradient steps (Birgin, Martínez & Raydan 2000), which need no equilibrium.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

PAIRS = 20
INNER_STEPS = 300
INNER_TOLERANCE = 1e-3  # of the first inner step

Project = Callable[[np.ndarray], np.ndarray]


class Curvature:
    """A positive definite matrix B with B s = y for the last of the pairs (s, y).

    Compact limited-memory BFGS (Byrd, Nocedal & Schnabel 1994): B = σ I − W M⁻¹ Wᵀ with W = [σ S, Y].
    """

    def __init__(self, sigma: float):
        self.sigma = sigma
        self._pairs: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=PAIRS)
        self._wide = self._middle = None

    @property
    def learnt(self) -> bool:
        """Whether it is more than a multiple of the identity."""
        return bool(self._pairs)

    def learn(self, s: np.ndarray, y: np.ndarray) -> None:
        """Take in a step and the change of the gradient along it; a pair without positive curvature is left out."""
        along = float(s @ y)
        if not along > 1e-10 * float(np.linalg.norm(s) * np.linalg.norm(y)):
            return
        self._pairs.append((s, y))
        self.sigma = float(y @ y) / along
        steps, changes = (np.array(column) for column in zip(*self._pairs, strict=True))
        cross = steps @ changes.T
        self._wide = np.concatenate([self.sigma * steps, changes])
        lower = np.tril(cross, -1)
        self._middle = np.block([[self.sigma * steps @ steps.T, lower], [lower.T, -np.diag(np.diag(cross))]])

    def product(self, v: np.ndarray) -> np.ndarray:
        """B v."""
        if self._wide is None or self._middle is None:
            return self.sigma * v
        return self.sigma * v - self._wide.T @ np.linalg.solve(self._middle, self._wide @ v)

    def inverse(self, v: np.ndarray) -> np.ndarray:
        """B⁻¹ v."""
        if self._wide is None or self._middle is None:
            return v / self.sigma
        inner = self._middle - self._wide @ self._wide.T / self.sigma
        return v / self.sigma + self._wide.T @ np.linalg.solve(inner, self._wide @ v) / self.sigma**2


def step(project: Project, theta: np.ndarray, gradient: np.ndarray, curvature: Curvature) -> np.ndarray:
    """The move from θ to about the minimiser of g·d + ½ dᵀBd over what the projection allows.

    Without a constraint it is −B⁻¹g at once. Falls back on a projected gradient step where rounding spoils the model.
    """
    plain = project(theta - gradient / curvature.sigma) - theta
    if not curvature.learnt:
        return plain

    def model(move: np.ndarray) -> tuple[float, np.ndarray]:
        bent = curvature.product(move)
        return float(gradient @ move + move @ bent / 2), gradient + bent

    move = project(theta - curvature.inverse(gradient)) - theta
    value, slope = model(move)
    if not np.isfinite(value):
        return plain
    best, lowest, recent = move, value, deque([value], 10)
    length, first = 1 / curvature.sigma, float(np.linalg.norm(plain))
    for _ in range(INNER_STEPS):
        ahead = project(theta + move - length * slope) - theta - move
        if np.linalg.norm(ahead) <= INNER_TOLERANCE * first:
            break
        share, down = 1.0, float(slope @ ahead)
        new, ascent = model(move + ahead)
        while new > max(recent) + 1e-4 * share * down and share > 1e-6:
            share /= 2
            new, ascent = model(move + share * ahead)
        s, y = share * ahead, ascent - slope
        move, value, slope = move + s, new, ascent
        recent.append(value)
        if value < lowest:
            best, lowest = move, value
        length = float(s @ s) / max(float(s @ y), np.finfo(float).tiny)
    return best if gradient @ best < 0 else plain
