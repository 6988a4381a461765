"""regions(): the exact polygons of a phase diagram in two parameters that enter linearly, by who is excluded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame.homotopy import Corner
from jaxgame.linalg import einsum
from jaxgame.maps.axes import named
from jaxgame.maps.line import Family, family, onward, piece_on, settle, start_corner

MOST = 20_000  # polygons
SLIVER = 1e-9  # length of an edge, in units of the box, that is not looked beyond
ROUNDING = 8 * float(np.finfo(float).eps)  # distance of corners, in units of the box, that are one


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """A polygon with one support. corners (k, 2), counterclockwise; support (n, D) bool: who represents whom in it;
    excluded: the groups that no one does.
    """

    corners: np.ndarray
    support: np.ndarray
    excluded: tuple[int, ...]

    @property
    def area(self) -> float:
        x, y = self.corners.T
        return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


@dataclasses.dataclass(frozen=True, eq=False)
class Regions:
    """A box of two parameters, cut into polygons on each of which the equilibrium is one affine function.

    axes: name -> (low, high). boundaries: (k, 2, 2) segments a group, at which its exclusion begins or ends.
    covered: which share of the box the polygons cover, 1 but for rounding.
    """

    axes: dict[str, tuple[float, float]]
    regions: list[Region]
    boundaries: list[np.ndarray]
    covered: float

    def excluded_at(self, points: Any) -> np.ndarray:
        """(m, D) bool at points (m, 2): by the polygon that holds each, or comes nearest to."""
        points = np.asarray(points, float)
        low, high = np.array(list(self.axes.values())).T
        nearest, best = np.zeros(len(points), int), np.full(len(points), np.inf)
        for k, region in enumerate(self.regions):
            corners = (region.corners - low) / (high - low)
            along = np.roll(corners, -1, 0) - corners
            length = np.linalg.norm(along, axis=1)
            long = length > SLIVER  # no shorter edge has a direction
            if not long.any():
                continue
            corners, along = corners[long], along[long]
            outward = np.stack([along[:, 1], -along[:, 0]], 1) / length[long, None]
            away = (((points - low) / (high - low)) @ outward.T - (corners * outward).sum(1)).max(1)
            better = away < best
            nearest[better], best[better] = k, away[better]
        out = np.array([~region.support.any(0) for region in self.regions])
        return out[nearest]


def regions(build: Callable[..., Any], axes: Mapping[str, Any]) -> Regions:
    """Cut the box that two parameters span into the polygons on which the equilibrium is affine.

    build: the names of the axes as keyword arguments -> a quadratic, strongly monotone game, of which only the linear
    term depends on them, affinely (both enter it side by side, not as a product). axes: two names -> (low, high).

    From one polygon over every edge to the next, by parametric pivoting: where many groups or agents change at an edge,
    that is settled exactly. There may be very many polygons where agents differ.

    Raises ValueError for axes that are no two intervals or not what build takes, for what `path` raises it, and for
    more than 20,000 polygons.
    """
    if not isinstance(axes, Mapping):
        raise ValueError(f"axes is {axes!r}, expected a dict of two names, each with (low, high)")
    if len(axes) != 2:
        raise ValueError(f"axes has {len(axes)} names, expected two, each with (low, high)")
    box = {}
    for name, ends in axes.items():
        ends = np.asarray(ends, float)
        if ends.shape != (2,) or not np.isfinite(ends).all() or not ends[0] < ends[1]:
            raise ValueError(f"axis {name!r} is {ends.tolist()}, expected (low, high) with low < high")
        box[str(name)] = (float(ends[0]), float(ends[1]))
    named(build, box)
    names, low = list(box), np.array([ends[0] for ends in box.values()])
    size = np.array([ends[1] - ends[0] for ends in box.values()])
    corners = np.stack([low, low + size * [1, 0], low + size * [0, 1]])
    games = family("regions", lambda *x: build(**dict(zip(names, x, strict=True))), corners)
    return _Search(games).run(box, low, size)


@jax.jit
def _planes(games: Family, face: Array) -> tuple[Array, Array]:
    """value (n, D) and slope (2, n, D) with value + u·slope the shares on a face and the multipliers off it."""
    zero = jnp.zeros(2, games.start.dtype)
    first, second = (piece_on(games.line(zero, unit), face, zero[0]) for unit in jnp.eye(2, dtype=zero.dtype))
    slopes = [jnp.where(face, piece.dw, piece.dnu) for piece in (first, second)]
    return jnp.where(face, first.w, first.nu), jnp.stack(slopes)


@jax.jit
def _beyond(games: Family, face: Array, value: Array, slope: Array, at: Array, outward: Array) -> tuple[Array, Array]:
    """The face on the other side of an edge, from a point on it; and whether it was found."""
    here = value + einsum("k,kid->id", at, slope)
    none = jnp.zeros_like(face)
    corner = Corner(jnp.zeros((), value.dtype), face, jnp.abs(here) <= 8 * games.tolerance, none, none[0, 0])
    one = jnp.ones((), value.dtype)
    corner, done = settle(games.line(at, outward), corner, one, games.tolerance)
    return corner.face, done


class _Search:
    """Over the edges of polygons, in coordinates in which the box is the unit square."""

    def __init__(self, games: Family):
        self.games, self.tolerance = games, float(games.tolerance)
        self.index: dict[bytes, int] = {}
        self.faces: list[np.ndarray] = []
        self.polygons: list[np.ndarray] = []
        self.planes: list[tuple[np.ndarray, np.ndarray]] = []
        self.crossed: list[tuple[int, int, np.ndarray]] = []

    def run(self, box: dict[str, tuple[float, float]], low: np.ndarray, size: np.ndarray) -> Regions:
        self.add(self._inside())
        done = 0
        while done < len(self.polygons):
            self._look_beyond(done)
            done += 1
            if done > MOST:
                raise ValueError(f"regions: more than {MOST:,} polygons; a smaller box, fewer agents, or sweep")
        found = [
            Region(low + size * polygon, face, tuple(np.flatnonzero(~face.any(0)).tolist()))
            for polygon, face in zip(self.polygons, self.faces, strict=True)
            if len(polygon) > 2
        ]
        covered = sum(region.area for region in found) / float(size.prod())
        D = self.faces[0].shape[1]
        segments: list[list[np.ndarray]] = [[] for _ in range(D)]
        for one, other, segment in self.crossed:
            if one < other:  # seen from both sides
                out, then = ~self.faces[one].any(0), ~self.faces[other].any(0)
                for d in np.flatnonzero(out != then).tolist():
                    segments[d].append(low + size * segment)
        return Regions(box, found, [np.array(part).reshape(-1, 2, 2) for part in segments], covered)

    def _inside(self) -> np.ndarray:
        """The face at a point in general position."""
        dtype = self.games.start.dtype
        line = self.games.line(jnp.zeros(2, dtype), jnp.asarray([0.4871393, 0.5238746], dtype))
        corner, one = start_corner(self.games), jnp.ones((), dtype)
        while True:
            corner, done = settle(line, corner, one, self.games.tolerance)
            face = np.asarray(corner.face)
            if not bool(done):
                raise ValueError("regions: no end of events on the way into the box; use sweep")
            corner = onward(line, corner, one, self.games.tolerance)
            if bool(corner.over):
                return face

    def add(self, face: np.ndarray) -> int:
        """The number of the polygon of a face."""
        key = face.tobytes()
        if key not in self.index:
            value, slope = (np.asarray(x, float) for x in _planes(self.games, jnp.asarray(face)))
            self.index[key] = len(self.polygons)
            self.faces.append(face)
            self.planes.append((value.reshape(-1), slope.reshape(2, -1)))
            self.polygons.append(_clipped(value.reshape(-1), slope.reshape(2, -1), self.tolerance))
        return self.index[key]

    def _look_beyond(self, k: int) -> None:
        """Over all edges of a polygon that are not the box's own, and over all of their length."""
        polygon = self.polygons[k]
        if len(polygon) < 3:
            return
        left = [(p, q) for p, q in zip(polygon, np.roll(polygon, -1, 0), strict=True)]
        while left:
            p, q = left.pop()
            length = float(np.linalg.norm(q - p))
            if length < SLIVER or _on_box(p, q):
                continue
            outward = np.array([q[1] - p[1], p[0] - q[0]]) / length
            middle = p + (q - p) * 0.5127
            other = self._over(k, middle, outward)
            if other is None or other == k:
                continue
            begin, end = self._shared(other, p, q)
            begin, end = min(begin, 0.5126), max(end, 0.5128)
            self.crossed.append((k, other, np.stack([p + begin * (q - p), p + end * (q - p)])))
            left += [(p, p + begin * (q - p)), (p + end * (q - p), q)]

    def _over(self, k: int, at: np.ndarray, outward: np.ndarray) -> int | None:
        value, slope = self.planes[k]
        face, dtype = self.faces[k], self.games.start.dtype
        arrays = (value.reshape(face.shape), slope.reshape(2, *face.shape), at, outward)
        new, done = _beyond(self.games, jnp.asarray(face), *(jnp.asarray(x, dtype) for x in arrays))
        return self.add(np.asarray(new)) if bool(done) else None

    def _shared(self, other: int, p: np.ndarray, q: np.ndarray) -> tuple[float, float]:
        """Which part of an edge p + t (q − p), t in [0, 1], belongs to another polygon as well."""
        value, slope = self.planes[other]
        first, pace = value + p @ slope + 8 * self.tolerance, (q - p) @ slope
        rising, falling = pace > 0, pace < 0
        begin = (-first[rising] / pace[rising]).max(initial=0)
        end = (-first[falling] / pace[falling]).min(initial=1)
        return float(begin), float(end)


def _on_box(p: np.ndarray, q: np.ndarray) -> bool:
    return any((abs(p[k] - edge) < 1e-12) and (abs(q[k] - edge) < 1e-12) for k in (0, 1) for edge in (0.0, 1.0))


def _clipped(value: np.ndarray, slope: np.ndarray, tolerance: float) -> np.ndarray:
    """The part of the unit square on which value + u·slope ≥ 0, as corners counterclockwise, or nothing."""
    polygon = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    while True:
        heights = value + polygon @ slope
        worst = heights.min(0)
        violated = worst < -tolerance
        if not violated.any():
            apart = np.linalg.norm(polygon - np.roll(polygon, 1, 0), axis=1) > ROUNDING
            return polygon[apart] if apart.sum() > 2 else polygon[:0]
        depth = worst / np.maximum(np.abs(slope).max(0), tolerance)
        constraint = int(np.argmin(np.where(violated, depth, np.inf)))
        h = heights[:, constraint]
        kept = []
        for k in range(len(polygon)):
            nxt = (k + 1) % len(polygon)
            if h[k] >= 0:
                kept.append(polygon[k])
            if (h[k] > 0) != (h[nxt] > 0) and h[k] != h[nxt] and h[k] * h[nxt] < 0:
                kept.append(polygon[k] + h[k] / (h[k] - h[nxt]) * (polygon[nxt] - polygon[k]))
        polygon = np.array(kept).reshape(-1, 2)
        if len(polygon) < 3:
            return polygon[:0]
