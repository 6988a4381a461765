"""Descent on objective + cost without tuning, and by a given optimiser."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from jaxgame.steering.problem import EXACT, Merit, Point
from jaxgame.steering.quasi_newton import Curvature, step
from jaxgame.steering.search import Proof, Search
from jaxgame.steering.stationarity import examine

SUFFICIENT = 1e-4  # of the descent that the slope promises
ENOUGH = 0.9  # of the slope may be left after a step
LINE_TRIALS = 30
PATIENCE = 10  # steps without an improvement worth the name
LONGEST = 100.0  # a step, in units of the search's length scale
WIDEST = 0.1  # radius around a kink, in the same units
OPTIMISER_SHARE = 0.8  # of the steps; the rest is for the proof
OPTIMISER_PATIENCE = 50  # steps without an improvement worth the name

Until = Callable[[Point], bool]


def never(point: Point) -> bool:
    """Go on until nothing is left to gain."""
    return False


def minimise(search: Search, point: Point, merit: Merit = EXACT) -> tuple[Point, Proof]:
    """Down to a stationary point: quasi-Newton steps while the merit is smooth, and past its kinks by `examine`."""
    finest = search.eps ** (1 / 3)  # 6e-6 in float64, 5e-3 in float32
    while True:
        point = descend(search, point, merit)
        verdict = examine(search, point, merit, finest * search.size)
        if isinstance(verdict, Proof):
            return point, verdict
        search.step(point, verdict, merit)
        point, radius = verdict, WIDEST
        while radius >= finest:
            verdict = examine(search, point, merit, radius * search.size)
            if isinstance(verdict, Proof):
                radius /= 10
                continue
            verdict = _further(search, point, verdict, merit)
            search.step(point, verdict, merit)
            point = verdict


def _further(search: Search, point: Point, lower: Point, merit: Merit) -> Point:
    """Twice as far, as long as that is lower still."""
    while True:
        theta = search.problem.project(2 * lower.theta - point.theta)
        if np.array_equal(theta, lower.theta):
            return lower
        trial = search.evaluate(theta, lower, merit)
        if not trial.usable or trial.value >= lower.value:
            return lower
        lower = trial


def descend(search: Search, point: Point, merit: Merit, until: Until = never, limit: int | None = None) -> Point:
    """Projected quasi-Newton steps (`steering.quasi_newton`) until they make no progress.

    The first step has the search's natural length, so that nothing depends on units. `limit`: on the steps.
    """
    if not point.gradient.any():
        return point
    natural = search.natural(point, merit)
    search.size = search.size or natural
    curvature = Curvature(float(np.linalg.norm(point.gradient)) / natural)
    values, steps = deque([point.value], PATIENCE + 1), 0
    highest = point.value
    while not until(point) and (limit is None or steps < limit):
        move = step(search.problem.project, point.theta, point.gradient, curvature)
        trial = _line_search(search, point, merit, move)
        if trial is None and curvature.learnt:  # what was learnt misleads here
            curvature = Curvature(curvature.sigma)
            continue
        if trial is None:
            break
        search.step(point, trial, merit)
        curvature.learn(trial.theta - point.theta, trial.gradient - point.gradient)
        point, steps = trial, steps + 1
        values.append(point.value)
        # Sooner than necessary: along kinks quasi-Newton steps jam, and `examine` finds the descent they miss.
        settled = 0.1 * search.eps ** (1 / 3) * (highest - point.value) + 4 * search.eps * abs(point.value)
        if not point.gradient.any() or len(values) > PATIENCE and values[0] - point.value <= settled:
            break
    return point


def _line_search(search: Search, point: Point, merit: Merit, move: np.ndarray) -> Point | None:
    """A point along a move that is low enough and, where it is not the end of what is allowed, far enough (weak Wolfe
    conditions, by the bisection of Lewis & Overton 2013, which kinks do not mislead); None if there is none to be had.
    """
    slope, length = float(point.gradient @ move), float(np.linalg.norm(move))
    t, low, high, best = 1.0, 0.0, np.inf, None
    for _ in range(LINE_TRIALS):
        if t * length <= search.eps ** (2 / 3) * search.size:
            break
        trial = search.evaluate(point.theta + t * move, point, merit)
        if not trial.usable or trial.value > point.value + SUFFICIENT * t * slope:
            high = t
        elif trial.gradient @ move < ENOUGH * slope and t * length < LONGEST * search.size:
            low, best = t, trial
            if search.problem.constraint is not None and t >= 1:
                break
        else:
            return trial
        if best is not None and high < 1.5 * low:
            break
        t = 2 * low if high == np.inf else (low + high) / 2
    return best


def optimise(search: Search, point: Point, optimiser: optax.GradientTransformation, state: Any) -> tuple[Point, Any]:
    """Steps of an optax optimiser, each followed by the projection; returns the best point and the optimiser's state.

    Stops where it stops improving, or after four fifths of the steps. A step to levers without an equilibrium is
    halved.
    """
    levers, update = search.problem.levers, optax.with_extra_args_support(optimiser).update
    if state is None:
        state = optimiser.init(levers.unpack(point.theta))
    best, since, highest = point, 0, point.total
    while len(search.rows) < OPTIMISER_SHARE * search.max_steps and since < OPTIMISER_PATIENCE:
        theta = levers.unpack(point.theta)
        with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic needs it
            updates, state = update(levers.unpack(point.gradient), state, theta, value=point.total)
        move = search.problem.project(point.theta + levers.pack(updates)) - point.theta
        trial = search.evaluate(point.theta + move, point)
        for _ in range(LINE_TRIALS):
            if trial.usable:
                break
            move = move / 2
            trial = search.evaluate(point.theta + move, point)
        if not trial.usable:
            break
        search.step(point, trial, EXACT)
        highest = max(highest, trial.total)
        worth = 1e-6 * (highest - best.total)
        since = 0 if trial.total < best.total - worth else since + 1
        best = trial if trial.total < best.total else best
        point = trial
    if search.size == 0 and point.gradient.any():
        search.size = search.natural(point, EXACT)
    return best, state
