"""Searching the patterns of a program with complementarity: pivots, flips, and branch and bound."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxgame.steering.complementarity import Goal, Point, Program
from jaxgame.steering.quadratic_program import FAILED

ZERO = 1e-8  # shares and (scaled) slacks up to this count as zero
BETTER = 1e-7  # relative improvement that counts as one
RETRIES = 4  # single pivots tried where all together bring nothing
FLIP_LIMIT = 128  # n·D up to which single pairs are flipped
TWO_FLIP_LIMIT = 36  # n·D up to which two at a time are, n·D·(n + D)/2 of them
COMPLETE_LIMIT = 16  # n·D up to which the search is complete unless asked otherwise
RELAXATIONS = 2000  # of a complete search; a few seconds where n·D is small
MOST_RELAXATIONS = 100_000  # of one that was asked for


def support(equilibrium: Any) -> np.ndarray:
    """The pairs (n, D) of agents and groups that an equilibrium represents."""
    return np.asarray(equilibrium.signed > 0)


@dataclasses.dataclass
class Search:
    """Patterns of one program for one goal; counts the programs solved as `tried`; the goal's value `along` the way to
    the best pattern.
    """

    program: Program
    goal: Goal
    tried: int = 0
    along: list[float] = dataclasses.field(default_factory=list)
    known: dict[bytes, Point] = dataclasses.field(default_factory=dict)

    def best(self, starts: Iterable[np.ndarray], complete: bool | None = None) -> tuple[Point | None, bool]:
        """The best point found from patterns `starts`, and whether it is proved to be the best of all; None: there is
        none.

        By pivots from every start and flips; where there are many pairs, by pivots from the best start
        only; and by a complete search if there are very few, or `complete` is True, and not if it is False.
        """
        size = int(np.prod(self.program.shape))
        starts = sorted(starts, key=lambda on: self.at(on).value)
        ways = [way for on in starts[: None if size <= FLIP_LIMIT else 1] if (way := self.descend(on))]
        way = min(ways, key=lambda way: way[-1].value, default=[])
        if not way and size <= FLIP_LIMIT:
            first, _ = self.complete(None, 4 * size, first=True)
            way = [] if first is None else [first]
        if way and size <= FLIP_LIMIT:
            way = way[:-1] + self.flipped(way[-1])
        point, proved = way[-1] if way else None, False
        if complete or complete is None and size <= COMPLETE_LIMIT:
            point, proved = self.complete(point, MOST_RELAXATIONS if complete else RELAXATIONS)
            way = way if point is None or way and point is way[-1] else [*way, point]
        self.along = [point.value for point in way]
        return point, proved

    def at(self, on: np.ndarray, off: np.ndarray | None = None) -> Point:
        """The optimum on a pattern, solved for once."""
        key = on.tobytes() + (b"" if off is None else off.tobytes())
        if key not in self.known:
            self.tried += 1
            self.known[key] = self.program.solve(self.goal, on, off)
        return self.known[key]

    def improves(self, candidate: Point, on: Point) -> bool:
        return candidate.value < on.value - BETTER * abs(on.value) - ZERO**2

    def descend(self, on: np.ndarray) -> list[Point]:
        """From a pattern to one that is B-stationary: the optima of the patterns on the way, each better than the one
        before.

        Pairs with w = s = 0 may be on or off; one whose multiplier has the wrong sign changes sides, and the point
        stays feasible. Empty if nothing is feasible on the pattern.
        """
        path = [self.at(on)]
        if not np.isfinite(path[0].value):
            return []
        while (better := self._pivoted(path[-1])) is not None:
            path.append(better)
        return path

    def _pivoted(self, point: Point) -> Point | None:
        size = max(np.abs(point.entering).max(), np.abs(point.leaving).max(), ZERO)
        tied = (point.profile <= ZERO) & (point.slack <= ZERO)
        wrong = np.where(tied, -np.where(point.on, point.leaving, point.entering) / size, 0)
        pairs = np.argwhere(wrong > ZERO)
        if not len(pairs):
            return None
        together = wrong > ZERO
        worst = pairs[np.argsort(-wrong[tuple(pairs.T)])][:RETRIES] if len(pairs) > 1 else []
        for flips in [together, *(_single(point.on.shape, pair) for pair in worst)]:
            if self.improves(candidate := self.at(point.on ^ flips), point):
                return candidate
        return None

    def flipped(self, point: Point) -> list[Point]:
        """The way from a point to one that no flip (see `_flips`), followed by pivots, improves."""
        path, fruitless = [point], 0
        flips = _flips(point.on.shape)
        for flip in itertools.cycle(flips):
            if fruitless == len(flips):
                break
            on = path[-1].on ^ flip
            way = self.descend(on) if on.any(1).all() else []
            if way and self.improves(way[-1], path[-1]):
                path, fruitless = [*path, way[-1]], 0
            else:
                fruitless += 1
        return path

    def complete(self, best: Point | None, limit: int, first: bool = False) -> tuple[Point | None, bool]:
        """The optimum over all patterns, by branch and bound on the pair that breaks complementarity most, and whether
        it is proved within `limit` relaxations.

        best: a known point, to be improved on. first: go deep and return the first point found.
        """
        nothing = np.zeros(self.program.shape, bool)
        proved, order = True, itertools.count()
        queue: list[tuple[float, float, int, np.ndarray, np.ndarray]] = [(0, -np.inf, next(order), nothing, nothing)]
        for _ in range(limit):
            if not queue:
                return best, proved
            depth, _, _, on, off = heapq.heappop(queue)
            node = self.at(on, off)
            proved &= node.status != FAILED
            if not np.isfinite(node.value) or best is not None and not self.improves(node, best):
                continue
            broken = np.where(on | off, 0, np.minimum(node.profile, node.slack))
            if broken.max() <= ZERO:
                way = self.descend(on | (node.profile > ZERO) & ~off)
                proved &= bool(way)
                if way and (best is None or self.improves(way[-1], best)):
                    best = way[-1]
                    if first:
                        return best, False
                continue
            depth -= first
            pair = _single(on.shape, np.unravel_index(np.argmax(broken), on.shape))
            heapq.heappush(queue, (depth, node.value, next(order), on | pair, off))
            if (~(off | pair)).any(1).all():
                heapq.heappush(queue, (depth, node.value, next(order), on, off | pair))
        return best, proved and not queue


def _flips(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Changes of a pattern: of single pairs, and where there are few of two that share an agent or a group."""
    single = [_single(shape, pair) for pair in np.ndindex(shape)]
    if len(single) > TWO_FLIP_LIMIT:
        return single
    two = [
        a | b for a, b in itertools.combinations(single, 2) if (a | b).any(0).sum() == 1 or (a | b).any(1).sum() == 1
    ]
    return single + two


def _single(shape: tuple[int, ...], pair) -> np.ndarray:
    out = np.zeros(shape, bool)
    out[tuple(pair)] = True
    return out
