"""The road to a plan: points tried, steps taken, the best so far."""

from __future__ import annotations

import dataclasses
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.status import Status

from jaxgame.steering.problem import EXACT, Merit, Point, Problem
from jaxgame.steering.scenarios import holds, met

QUIET_SECONDS = 2.0  # a search that is over sooner says nothing
EVALUATIONS_PER_STEP = 20
START_EVALUATIONS = 100
NATURAL_MOVE = 0.1  # of a mixture: what a step of natural length moves
COLUMNS = ("objective", "cost", "total", "step", "residual", "phase", "goal")


class OutOfSteps(Exception):
    """The budget is spent."""


@dataclasses.dataclass(frozen=True)
class Proof:
    """Why a point counts as stationary, or what is missing.

    measure: how far the best convex combination of the gradients near the point carries the levers, in units of the
    radius within which they were taken; stationary: it is at most the tolerance. gradients: how many they are; smooth:
    the gradient at the point alone suffices. radius: in units of the search's length scale.
    """

    stationary: bool
    measure: float
    radius: float
    gradients: int
    smooth: bool


class Search:
    """What all phases of a search share: the budget, the history, the scale of the levers, the best point so far."""

    def __init__(
        self,
        problem: Problem,
        start: Point,
        max_steps: int,
        *,
        goal: Callable | None = None,
        required: float = 1.0,
        progress: Callable[[int, float], None] = lambda steps, total: None,
    ):
        self.problem, self.goal, self.required, self.progress = problem, goal, required, progress
        self.max_steps = max_steps
        self.max_evaluations = EVALUATIONS_PER_STEP * max_steps + START_EVALUATIONS
        self.evaluations = self.failures = 0
        self.rows: list[tuple] = []
        self.size = 0.0  # the scale of the levers: a natural step's length, or the way gone so far
        self.best = start
        self._verdicts: weakref.WeakKeyDictionary[Point, bool] = weakref.WeakKeyDictionary()
        self.proven: tuple[Point, Proof] | None = None
        self.origin = problem.levers.start

    @property
    def eps(self) -> float:
        """The rounding of the coarsest levers or of the game, whichever is coarser."""
        return float(max(np.finfo(self.problem.levers.dtype).eps, np.finfo(self.problem.start.dtype).eps))

    def evaluate(self, theta: np.ndarray, near: Point | None = None, merit: Merit = EXACT) -> Point:
        """Try levers, from the equilibrium of a point nearby."""
        if self.evaluations >= self.max_evaluations:
            raise OutOfSteps
        point = self.problem.evaluate(theta, None if near is None else near.equilibrium.profile, merit)
        if not point.usable and near is not None:  # a start that misleads must not end a search
            point = self.problem.evaluate(theta, None, merit)
        self.evaluations += 1
        self.failures += not point.usable
        return point

    def again(self, point: Point, merit: Merit) -> Point:
        """The same levers, judged by another merit."""
        return self.evaluate(point.theta, point, merit)

    def step(self, before: Point, point: Point, merit: Merit) -> None:
        """Go from one point to the next, or raise OutOfSteps."""
        if len(self.rows) >= self.max_steps:
            raise OutOfSteps
        self.size = max(self.size, float(np.linalg.norm(point.theta - self.origin)))
        reached = False
        if merit.temperature is None:
            reached = self.reaches(point)
            if (not reached, point.total) < (not self.reaches(self.best), self.best.total):
                self.best = point
        moved = float(np.linalg.norm(point.theta - before.theta))
        residual = float(np.max(np.asarray(point.equilibrium.residual)))
        self.rows.append((point.objective, point.cost, point.total, moved, residual, merit.phase, reached))
        self.progress(len(self.rows), point.total)

    def reaches(self, point: Point) -> bool:
        """Whether the goal is met, in as many of the scenarios as required; False without a goal."""
        if point not in self._verdicts:
            self._verdicts[point] = self._asked(point)
        return self._verdicts[point]

    def known(self, point: Point) -> bool:
        """Whether the goal is known to be met."""
        return self._verdicts.get(point, False)

    def _asked(self, point: Point) -> bool:
        if self.goal is None:
            return False
        if self.problem.scenarios is None:
            return met(self.goal, point.equilibrium)
        return bool(holds(self.goal, point.equilibrium).mean() >= self.required)

    def better(self, point: Point, than: Point) -> bool:
        """Whether a point meets the goal where the other does not, or meets it as well at a lower total."""
        slack = 100 * self.eps * max(abs(point.total), abs(than.total))
        reached, before = self.reaches(point), self.reaches(than)
        return reached and not before or reached == before and point.total < than.total - slack

    def prove(self, point: Point, proof: Proof) -> None:
        """Remember a stationary point of objective + cost, if it is the best of them."""
        if proof.stationary and (self.proven is None or self.better(point, self.proven[0])):
            self.proven = point, proof

    def natural(self, point: Point, merit: Merit) -> float:
        """The length of a step against the gradient that moves signed representation by a tenth of a mixture.

        This is what makes steering scale-free: it depends neither on the units of the levers nor on those of the
        objective. By secants, as signed representation is piecewise smooth.
        """
        slope = float(np.linalg.norm(point.gradient))
        length = self.size or 0.1 * float(np.linalg.norm(point.theta)) or 1.0
        here = self.problem.signed(point)
        for _ in range(8):
            theta = self.problem.project(point.theta - length / slope * point.gradient)
            far = float(np.linalg.norm(theta - point.theta))
            if far == 0:
                return length
            trial = self.evaluate(theta, point, merit)
            if not trial.usable:
                length /= 10
                continue
            moved = float(np.abs(self.problem.signed(trial) - here).max())
            if moved == 0:
                return length
            length = far * float(np.clip(NATURAL_MOVE / moved, 1e-3, 1e3))
            if NATURAL_MOVE / 10 < moved < 4 * NATURAL_MOVE:
                break
        return length

    def history(self) -> dict[str, np.ndarray]:
        """The steps as columns."""
        columns = zip(*self.rows, strict=True) if self.rows else ([] for _ in COLUMNS)
        kinds = (float, float, float, float, float, str, bool)
        return {
            name: np.array(list(column), kind)
            for name, column, kind in zip(COLUMNS, columns, kinds, strict=True)
            if name != "goal" or self.goal is not None
        }


class Ticker:
    """A line on the terminal about a search that lasts; silent where standard error is none."""

    def __init__(self, max_steps: int):
        self.console, self.begin, self.max_steps = Console(stderr=True), time.monotonic(), max_steps
        self.line: Status | None = None

    def __call__(self, steps: int, total: float) -> None:
        if not self.console.is_terminal or time.monotonic() - self.begin < QUIET_SECONDS:
            return
        if self.line is None:
            self.line = self.console.status("")
            self.line.start()
        self.line.update(f"steering: step {steps} of at most {self.max_steps}, objective + cost {total:.6g}")

    def __enter__(self) -> Ticker:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.line is not None:
            self.line.stop()
