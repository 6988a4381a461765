"""Is this point stationary, and if not, which way down? For functions with kinks.

Where the faces of an equilibrium change, or an objective has a maximum in it, objective + cost has kinks: the gradient
jumps and need not vanish at a minimum. What vanishes there is a convex combination of the gradients nearby: a point
is stationary in the sense of Clarke if, within every radius, the hull of these gradients contains 0 (up to the normal
cone of the constraint). Gradient sampling (Burke, Lewis & Overton 2005) draws the nearby points at random, at least as
many as there are levers. Here they are found one by one where the descent that the others promise fails to come (Gebken
& Peitz 2021; Mahdavi-Amiri & Yousefpour 2012): deterministic, and as many as there are pieces that meet, not levers.
"""

from __future__ import annotations

import numpy as np

from jaxgame.steering.problem import Merit, Point
from jaxgame.steering.search import Proof, Search

GRADIENTS = 60  # at most, around one point
HALVINGS = 25
SUFFICIENT = 0.1  # of the promised descent
COMBINING = 400  # steps of the search for the best combination


def examine(search: Search, point: Point, merit: Merit, radius: float) -> Proof | Point:
    """A proof that the point is stationary within the radius (a length of levers), or that nothing is known, or a
    point lower down.

    The radius also fixes the scale of the proof: gradients count as small in comparison with the largest one within it.
    """
    project, gradients = search.problem.project, [point.gradient]
    tolerance = search.eps**0.125  # 1 % in float64, 14 % in float32
    measure, relative = np.inf, radius / search.size if search.size else 0.0
    for _ in range(GRADIENTS):
        top = max(float(np.linalg.norm(g)) for g in gradients)
        if top == 0 or radius == 0:
            stationary = top == 0
            return Proof(stationary, 0.0 if stationary else np.inf, relative, len(gradients), stationary)
        length = radius / top
        move = combine(project, point.theta, np.array(gradients), length, tolerance * radius)
        far = float(np.linalg.norm(move))
        measure = far / radius
        if measure <= tolerance:
            alone = project(point.theta - length * point.gradient) - point.theta
            smooth = bool(np.linalg.norm(alone) <= tolerance * radius)
            return Proof(True, measure, relative, len(gradients), smooth)
        promised = SUFFICIENT * far**2 / length
        trial = search.evaluate(point.theta + move, point, merit)
        if trial.usable and trial.value < point.value - promised:
            return trial
        found = _disagreeing(search, point, merit, move, promised, trial)
        if found is None:
            break
        gradients.append(found)
    return Proof(False, measure, relative, len(gradients), False)


def combine(project, theta: np.ndarray, gradients: np.ndarray, length: float, enough: float) -> np.ndarray:
    """The move to project(θ − length · Σ λ_j g_j) for the convex combination λ that moves least.

    With no constraint this is the shortest vector in the hull of the gradients. In general λ minimises the Moreau
    envelope's dual, ½‖v‖² − ½ dist²(θ − v, C) with v = length · Σ λ_j g_j, convex with gradient θ − project(θ − v).
    Accelerated projected gradient steps; stops once the move is no longer than `enough`, or goes down along every
    gradient by half of what the best move would.
    """
    scaled = length * gradients
    lipschitz = max(float(np.linalg.norm(scaled @ scaled.T, 2)), np.finfo(float).tiny)
    weights = ahead = np.full(len(scaled), 1 / len(scaled))
    momentum, move = 1.0, np.zeros_like(theta)
    for _ in range(COMBINING):
        move = project(theta - ahead @ scaled) - theta
        if np.linalg.norm(move) <= enough or (scaled @ move).max() <= -0.5 * move @ move:
            break
        new = onto_simplex(ahead + scaled @ move / lipschitz)
        if (ahead - new) @ (new - weights) > 0:
            momentum = 1.0
        grown = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        weights, ahead, momentum = new, onto_simplex(new + (momentum - 1) / grown * (new - weights)), grown
    return move


def onto_simplex(x: np.ndarray) -> np.ndarray:
    """Euclidean projection of a vector on the simplex; in numpy, since its length changes from call to call."""
    falling = np.sort(x)[::-1]
    levels = (np.cumsum(falling) - 1) / np.arange(1, len(x) + 1)
    return np.maximum(x - levels[np.flatnonzero(falling > levels)[-1]], 0)


def _disagreeing(
    search: Search, point: Point, merit: Merit, move: np.ndarray, promised: float, trial: Point
) -> np.ndarray | None:
    """A gradient on the way along `move` that promises less descent than `promised`; None if there is none to see.

    By bisection for a stretch over which the merit falls short of the promise: there its slope must do so, too.
    """

    def shortfall(t: float, at: Point) -> float:
        return at.value - point.value + t * promised if at.usable else np.inf

    low, high, short = 0.0, 1.0, shortfall(1.0, trial)
    for _ in range(HALVINGS):
        if trial.usable and trial.gradient @ move > -promised:
            return trial.gradient
        middle = (low + high) / 2
        trial = search.evaluate(point.theta + middle * move, point, merit)
        here = shortfall(middle, trial)
        if here < short:
            low = middle
        else:
            high, short = middle, here
    return None
