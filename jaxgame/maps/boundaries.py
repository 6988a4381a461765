"""Where groups fall out, by bisection: the edges of a grid that a boundary crosses, and thresholds on a line.

For parameters on which the equilibrium depends smoothly, as the weights γ and δ, where `path` and `regions` do not
apply. What is bisected is max_i z_id − tolerance, signed representation, which changes its sign at the boundary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxgame.maps.follow import Follower
from jaxgame.maps.result import Sweep

PRECISION = 1e-10  # of a crossing, as a share of the distance between the points beside it, and absolutely
START = 33  # points of a line at first
DEPTH = 12  # how often an interval without a change of sign is halved that may hide two


@dataclasses.dataclass(frozen=True, eq=False)
class Boundaries:
    """Where each group's exclusion begins or ends in a sweep over two axes.

    crossings: (m, 2) points a group where a boundary crosses an edge between neighbours of the grid, to 1e-10 in
    float64; in float32 to its rounding. segments: (k, 2, 2) a group, which join the crossings of every cell. Edges at
    which an end or a point on the way failed or the equilibrium is not proved to be unique have none.
    """

    axes: dict[str, np.ndarray]
    crossings: list[np.ndarray]
    segments: list[np.ndarray]


class Threshold(NamedTuple):
    """At s the last agent drops a group, or the first picks it up; kind: "enters" or "leaves"."""

    s: float
    group: int
    kind: str


def boundaries(build: Callable[..., Any], sweep: Sweep) -> Boundaries:
    """The boundaries of exclusion in a sweep over two axes, each crossing of an edge of the grid found by bisection.

    build: that of the sweep. Raises ValueError for a sweep that has not two axes.
    """
    if len(sweep.axes) != 2:
        raise ValueError(f"boundaries needs a sweep over two axes, this one has {len(sweep.axes)}")
    follower = Follower(build, sweep.axes, None, None, None, 0)
    sure, excluded = sweep.unique & sweep.converged, sweep.excluded
    D = sweep.signed.shape[-1]
    first, second = sweep.axes.values()
    ends, groups, places = [], [], []
    for axis in (0, 1):
        near, far = ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:]))[axis]
        flips = excluded[near] != excluded[far]
        flips &= (sure[near] & sure[far])[..., None]
        i, j, d = np.nonzero(flips)
        step = np.eye(2, dtype=int)[axis]
        ends.append(
            np.stack([np.stack([first[i], second[j]], 1), np.stack([first[i + step[0]], second[j + step[1]]], 1)], 1)
        )
        groups.append(d)
        places.append(np.stack([np.full(len(i), axis), i, j], 1))
    ends, group, place = np.concatenate(ends), np.concatenate(groups), np.concatenate(places)
    out_at_first = excluded[place[:, 1], place[:, 2], group]
    found = _bisected(follower, ends, group, out_at_first, sweep.tolerance)
    sound = np.isfinite(found).all(1)
    found, group, place = found[sound], group[sound], place[sound]
    known = {(int(d), *map(int, p)): x for d, p, x in zip(group, place, found, strict=True)}
    crossings = [found[group == d] for d in range(D)]
    segments = [np.array(_segments(d, known, sweep)).reshape(-1, 2, 2) for d in range(D)]
    return Boundaries(sweep.axes, crossings, segments)


def thresholds(build: Callable[[float], Any], start: float, end: float, *, tolerance: float = 0.0) -> list[Threshold]:
    """Where groups fall out or come back as one parameter s of `build(s)` grows, to 1e-10 in float64 (in float32 to
    its rounding), by adaptive refinement.

    For any parameter, also those on which the equilibrium depends nonlinearly (γ, δ). Intervals in which the signed
    representation bends so much that two crossings may hide are halved. tolerance: largest share of an excluded group,
    which must be positive for games whose equilibria are interior. Raises ValueError for ends out of order, a tolerance
    that is no number ≥ 0, and where a point on the way has no equilibrium or is not proved to have only one: there the
    answer would depend on how one got there.
    """
    start, end = float(start), float(end)
    if not (np.isfinite(start) and np.isfinite(end) and start < end):
        raise ValueError(f"start is {start} and end {end}, expected finite numbers, the first below the second")
    tolerance = float(tolerance)
    if not (np.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance is {tolerance}, expected a number ≥ 0")
    if not callable(build):
        raise ValueError(f"build is {build!r}, expected a function build(s) -> game")
    points = np.linspace(start, end, START)
    follower = Follower(lambda s: build(s), {"s": points}, None, None, None, 0)
    if not (unique := follower.unique()).all():
        raise ValueError(
            f"at s = {points[int(np.argmin(unique))]:.6g} the equilibrium is not proved to be the only one; sweep "
            "shows what is found from several sides"
        )

    def evaluated(s: np.ndarray) -> np.ndarray:
        peaks = follower.peaks({"s": s})
        _found(np.asarray(np.isfinite(peaks).all(1)), s)
        return peaks - tolerance

    values = evaluated(points)
    for _ in range(DEPTH):
        middles = (points[:-1] + points[1:]) / 2
        doubtful = _may_hide(points, values)
        if not doubtful.any():
            break
        points = np.concatenate([points, middles[doubtful]])
        values = np.concatenate([values, evaluated(middles[doubtful])])
        order = np.argsort(points)
        points, values = points[order], values[order]
    out = values <= 0
    k, group = np.nonzero(out[:-1] != out[1:])
    ends = np.stack([points[k], points[k + 1]], 1)[..., None]
    found = _bisected(follower, ends, group, out[k, group], tolerance)
    _found(np.asarray(np.isfinite(found).all(1)), points[k])
    kinds = np.where(out[k, group], "enters", "leaves")
    return sorted(Threshold(float(s), int(d), str(kind)) for (s,), d, kind in zip(found, group, kinds, strict=True))


def _found(sound: np.ndarray, s: np.ndarray) -> None:
    if not sound.all():
        raise ValueError(f"no equilibrium was found near s = {s[int(np.argmin(sound))]:.6g}")


def _may_hide(points: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Intervals without a change of sign whose extrapolated neighbours meet zero inside them, (points − 1,)."""
    same = (values[:-1] <= 0) == (values[1:] <= 0)
    slopes = np.diff(values, axis=0) / np.diff(points)[:, None]
    width = np.diff(points)[:, None]
    before = np.concatenate([slopes[:1], slopes[:-1]])
    after = np.concatenate([slopes[1:], slopes[-1:]])
    # From each end with the slope next to it: how far either goes towards zero and beyond.
    left, right = values[:-1] + before * width / 2, values[1:] - after * width / 2
    beyond = ((left <= 0) != (values[:-1] <= 0)) | ((right <= 0) != (values[1:] <= 0))
    return (same & beyond).any(1)


def _bisected(
    follower: Follower, ends: np.ndarray, group: np.ndarray, out_at_first: np.ndarray, tolerance: float
) -> np.ndarray:
    """Points (m, p) between ends (m, 2, p) at which a group's exclusion changes; NaN where one on the way failed."""
    failed = np.zeros(len(ends), bool)
    low, high = np.zeros(len(ends)), np.ones(len(ends))
    size = np.abs(ends[:, 1] - ends[:, 0]).max(1, initial=0)
    while len(ends) and ((high - low) * np.maximum(size, 1) > PRECISION).any():
        middle = (low + high) / 2
        at = ends[:, 0] + middle[:, None] * (ends[:, 1] - ends[:, 0])
        peaks = follower.peaks(dict(zip(follower.axes, at.T, strict=True)))
        peak = peaks[np.arange(len(ends)), group]
        failed |= np.isnan(peak)
        same = (peak <= tolerance) == out_at_first
        low, high = np.where(same, middle, low), np.where(same, high, middle)
        if (middle == low).all() and (middle == high).all():
            break
    middle = np.where(failed, np.nan, (low + high) / 2)[:, None]
    return ends[:, 0] + middle * (ends[:, 1] - ends[:, 0])


def _segments(group: int, known: dict[tuple[int, ...], np.ndarray], sweep: Sweep) -> list[np.ndarray]:
    """Joined crossings of every cell with two or four of them."""
    cells: dict[tuple[int, int], list[tuple[int, np.ndarray]]] = {}
    rows, columns = sweep.shape
    for (d, axis, i, j), x in known.items():
        if d != group:
            continue
        # An edge along the first axis is a side of the cells below and above it on the second, and the reverse.
        beside = [(i, j), (i, j - 1)] if axis == 0 else [(i, j), (i - 1, j)]
        for side, cell in enumerate(beside):
            if 0 <= cell[0] < rows - 1 and 0 <= cell[1] < columns - 1:
                cells.setdefault(cell, []).append((2 * side + axis, x))
    segments = []
    for (i, j), sides in cells.items():
        if len(sides) == 2:
            segments.append(np.stack([sides[0][1], sides[1][1]]))
        elif len(sides) == 4:  # a saddle: by the corners, which are in or out across
            by_side = dict(sides)
            middle = sweep.signed[i : i + 2, j : j + 2, group].mean() <= sweep.tolerance
            alike = bool(sweep.signed[i, j, group] <= sweep.tolerance) == middle
            pairs = ((0, 3), (1, 2)) if alike else ((0, 1), (2, 3))
            segments += [np.stack([by_side[a], by_side[b]]) for a, b in pairs]
    return segments
