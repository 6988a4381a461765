"""In which order the points of a grid are solved, and from where each is started.

A route takes some lanes side by side through a few points each. The main route cuts the lines along the last axis into
short pieces, so that most points start from a neighbour while many lanes go together. Where the equilibrium is not
proved to be unique a warm start could lead along a branch and draw its end as a boundary: there the main route starts
from the uniform profile, and further routes tell whether other ways lead elsewhere: along every axis, both ways, on
through whatever branch is met, and from a few other profiles.
"""

from __future__ import annotations

import dataclasses

import numpy as np

PIECE = 16  # points of a line that one lane takes: of them one starts cold


@dataclasses.dataclass(frozen=True)
class Route:
    """Flat indices of points (lanes, steps); `warm` (lanes, steps): from the point before; `counts` (lanes, steps):
    whether the result is wanted; start: which profile the others start from (0 the uniform one).
    """

    kind: str
    points: np.ndarray
    warm: np.ndarray
    counts: np.ndarray
    start: int = 0

    def split(self, most: int) -> list[Route]:
        """Routes of as good as equal numbers of lanes, at most so many each."""
        lanes = len(self.points)
        size = -(-lanes // -(-lanes // most))
        parts = []
        for first in range(0, lanes, size):
            lane = np.minimum(np.arange(first, first + size), lanes - 1)
            counts = self.counts[lane] & (np.arange(first, first + size) < lanes)[:, None]
            parts.append(Route(self.kind, self.points[lane], self.warm[lane], counts, self.start))
        return parts


def main_route(shape: tuple[int, ...], unique: np.ndarray) -> Route:
    """Every point once, warm where its equilibrium is unique (flat bool)."""
    length = shape[-1]
    piece = -(-length // -(-length // PIECE))
    pieces = -(-length // piece)
    along = np.arange(pieces * piece).reshape(pieces, piece)
    inside = along < length
    lines = np.arange(int(np.prod(shape[:-1], dtype=int)))[:, None, None] * length
    points = (lines + np.minimum(along, length - 1)[None]).reshape(-1, piece)
    counts = np.broadcast_to(inside, (len(lines), pieces, piece)).reshape(-1, piece)
    warm = unique[points]
    warm[:, 0] = False
    return Route("main", points, warm, counts)


def branch_routes(shape: tuple[int, ...], unique: np.ndarray, starts: int) -> list[Route]:
    """The points whose equilibrium is not proved unique, from both ends of every axis and from other profiles."""
    doubtful = ~unique.reshape(shape)
    if not doubtful.any():
        return []
    flat = np.arange(doubtful.size).reshape(shape)
    routes = []
    for axis in range(len(shape)):
        lines = np.moveaxis(flat, axis, -1).reshape(-1, shape[axis])
        wanted = np.moveaxis(doubtful, axis, -1).reshape(-1, shape[axis])
        for backward in (False, True):
            step = -1 if backward else 1
            kind = f"axis {axis} {'down' if backward else 'up'}"
            routes.append(_through(kind, lines[:, ::step], wanted[:, ::step]))
    points = flat[doubtful][:, None]
    for start in range(1, starts + 1):
        routes.append(Route(f"start {start}", points, np.zeros_like(points, bool), np.ones_like(points, bool), start))
    return routes


def _through(kind: str, lines: np.ndarray, wanted: np.ndarray) -> Route:
    """Along lines, one lane a run of wanted points, from the point before it where there is one."""
    edges = np.diff(np.pad(wanted, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, first = np.nonzero(edges == 1)
    last = np.nonzero(edges == -1)[1] - 1  # the same rows: starts and ends take turns
    begin = np.maximum(first - 1, 0)
    order = np.argsort(begin - last, kind="stable")  # the longest first, so that those that go together are alike
    row, first, last, begin = row[order], first[order], last[order], begin[order]
    along = begin[:, None] + np.arange(int((last - begin).max()) + 1)[None]
    points = lines[row[:, None], np.minimum(along, last[:, None])]
    warm = np.ones_like(points, bool)
    warm[:, 0] = False
    return Route(kind, points, warm, (along >= first[:, None]) & (along <= last[:, None]))
