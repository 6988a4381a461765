"""A sweep: over two axes a phase diagram by who is left out, over one the representation of every group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from jaxgame.maps.result import APART, Sweep
from jaxgame.report.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, new, styled

LINES = (BLACK, VERMILLION, BLUE, ORANGE, GREEN, PURPLE, SKY)
DASHES = ("-", "--", "-.", (0, (1, 1.2)))
CLOSE, BESIDE = 9, 5  # points: boundaries too close for a name on a line; how far beside it is written then
SYMBOLS = {
    "attractiveness": "attractiveness α",
    "consistency": "consistency γ",
    "diversity": "diversity δ",
    "rationality": "rationality ϱ",
}


def draw(
    sweep: Sweep, title: str, note: str, boundaries: Sequence[np.ndarray] | None = None, labels: Any = ()
) -> Figure:
    """The figure of a sweep over one or two axes.

    boundaries: (k, 2, 2) segments for every group, drawn over the grid; labels: axis name -> what to write beside it.
    """
    named = SYMBOLS | dict(labels)
    names = tuple(sweep.groups) or tuple(f"group {d}" for d in range(sweep.representation.shape[-1]))
    if len(sweep.axes) not in (1, 2):
        raise ValueError(f"a figure needs a sweep over one or two axes, this one has {len(sweep.axes)}: use sel")
    with styled():
        if len(sweep.axes) == 1:
            return _curves(sweep, names, title, note, named)
        return _map(sweep, names, title, note, boundaries, named)


def _map(
    sweep: Sweep, names: tuple[str, ...], title: str, note: str, boundaries: Sequence[np.ndarray] | None, named: Any
) -> Figure:
    figure = new(3.35, title, note)
    axes = figure.subplots()
    (first, x), (second, y) = sweep.axes.items()
    counts = np.where(sweep.converged, sweep.excluded.sum(-1), np.nan)
    most = int(np.nanmax(counts)) if np.isfinite(counts).any() else 0
    least = int(np.nanmin(counts)) if np.isfinite(counts).any() else 0
    levels = np.arange(least, most + 1)
    colours = ListedColormap(shades(len(levels)))
    axes.set_facecolor("black")  # what was not found shows as a hole
    masked = np.ma.masked_invalid(counts.T)
    axes.pcolormesh(
        x, y, masked, cmap=colours, norm=BoundaryNorm(np.arange(least - 0.5, most + 1), len(levels)), rasterized=True
    )
    handles = [Patch(fc=colours(k), ec=GREY, lw=0.4, label=_counted(int(n))) for k, n in enumerate(levels)]
    doubtful = ~sweep.unique
    if doubtful.any():
        with matplotlib.rc_context({"hatch.linewidth": 0.4, "hatch.color": BLACK}):
            _hatched(axes, x, y, doubtful, "/////")
            handles.append(Patch(fc="white", ec=BLACK, lw=0.4, hatch="/////", label="uniqueness not proved"))
            several = np.nan_to_num(sweep.disagreement) > APART
            if several.any():
                _hatched(axes, x, y, several, "\\\\\\\\\\")
                handles.append(Patch(fc="white", ec=BLACK, lw=0.4, hatch="xxxxx", label="several equilibria found"))
    if not sweep.converged.all():
        handles.append(Patch(fc="black", label="no equilibrium found"))
    if boundaries is not None:
        for segments in boundaries:
            axes.add_collection(LineCollection(list(segments), colors=BLACK, linewidths=0.8, capstyle="round"))
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    axes.set_xlabel(named.get(first, first))
    axes.set_ylabel(named.get(second, second))
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.47, -0.14), ncols=3, columnspacing=1.0, handlelength=1.4,
        handletextpad=0.5,
    )  # fmt: skip
    if boundaries is not None:
        figure.draw_without_rendering()  # so that the slopes of lines on the page are known
        _name(axes, names, boundaries)
    return figure


def _counted(count: int) -> str:
    return "everyone represented" if count == 0 else f"{count} left out"


def shades(count: int) -> list[Any]:
    """From light to dark, in an order that survives a copy in grey."""
    return [matplotlib.colormaps["YlGnBu"](v) for v in np.linspace(0.04, 0.8, count)]


def _hatched(axes: Axes, x: np.ndarray, y: np.ndarray, where: np.ndarray, hatch: str) -> None:
    field = where.T.astype(float)
    axes.contourf(x, y, field, levels=[0.5, 1.5], hatches=[hatch], colors="none")
    axes.contour(x, y, field, levels=[0.5], colors=BLACK, linewidths=0.5, linestyles=":")


def _name(axes: Axes, names: tuple[str, ...], boundaries: Sequence[np.ndarray]) -> None:
    """A group's name along its boundary, each at another place of the map, so that they do not meet."""
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    size = np.array([x1 - x0, y1 - y0])
    parts = [(d, part) for d, segments in enumerate(boundaries) for part in connected(segments, size)]
    taken: list[np.ndarray] = []
    for d, segments in sorted(parts, key=lambda part: len(part[1])):  # the short ones have the first choice
        if np.ptp(segments.reshape(-1, 2) / size, axis=0).max() < 0.12:
            continue  # no room for a name
        middles = (segments.mean(1) - [x0, y0]) / size
        # Far from other names, and from the edge, which would cut it off.
        room = np.minimum(middles, 1 - middles).min(1)
        if taken:
            away = np.abs(middles[:, None] - np.array(taken)[None]) * [1, 2]
            room = np.minimum(room + 0.1, np.linalg.norm(away, axis=2).min(1))
        k = int(np.argmax(room))
        taken.append(middles[k])
        near = np.linalg.norm(middles - middles[k], axis=1) < 0.08
        way = axes.transData.transform(segments[near].reshape(-1, 2))
        direction = np.linalg.svd(way - way.mean(0))[2][0]
        direction = direction * (1 if direction[0] >= 0 else -1)
        at = segments[k].mean(0)
        others = [part.mean(1) for e, part in parts if e != d]
        aside = _aside(axes, at, direction, np.concatenate(others) if others else np.zeros((0, 2)))
        axes.annotate(
            names[d], (float(at[0]), float(at[1])), aside, textcoords="offset points", fontsize=5.5, ha="center",
            va="center", rotation_mode="anchor", rotation=float(np.degrees(np.arctan2(direction[1], direction[0]))),
            path_effects=[withStroke(linewidth=1.8, foreground="white")],
        )  # fmt: skip


def _aside(axes: Axes, at: np.ndarray, direction: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """In points: beside the line, away from another one that is too close for a name on the line; else on it."""
    point = axes.figure.dpi / 72
    away = (axes.transData.transform(others.reshape(-1, 2)) - axes.transData.transform(at)) / point
    normal = np.array([-direction[1], direction[0]])
    across = away[np.abs(away @ direction) < 30] @ normal
    above, below = across[across > 0].min(initial=np.inf), -across[across <= 0].max(initial=-np.inf)
    if min(above, below) > CLOSE:
        return 0.0, 0.0
    x, y = (BESIDE if above > below else -BESIDE) * normal
    return float(x), float(y)


def connected(segments: np.ndarray, size: np.ndarray) -> list[np.ndarray]:
    """Segments (k, 2, 2) by what hangs together."""
    if not len(segments):
        return []
    _, ends = np.unique(np.round(segments.reshape(-1, 2) / size, 7), axis=0, return_inverse=True)
    ends = ends.reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(ends.max() + 1,) * 2)
    part = connected_components(graph, directed=False)[1][ends[:, 0]]
    return [segments[part == k] for k in np.unique(part)]


def _curves(sweep: Sweep, names: tuple[str, ...], title: str, note: str, named: Any) -> Figure:
    figure = new(2.6, title, note)
    axes = figure.subplots()
    ((name, x),) = sweep.axes.items()
    for d, group in enumerate(names):
        looks: Any = dict(color=LINES[d % len(LINES)], ls=DASHES[d // len(LINES) % len(DASHES)])
        axes.plot(x, 100 * sweep.representation[:, d], label=group, **looks)
    if (~sweep.unique).any():
        edges = np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])
        for k in np.flatnonzero(~sweep.unique):
            axes.axvspan(edges[k], edges[k + 1], fc="#EEEEEE", lw=0, zorder=0)
        axes.plot([], [], color="#EEEEEE", lw=5, label="uniqueness not proved")
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(0, None)
    axes.set_xlabel(named.get(name, name))
    axes.set_ylabel("share of what is shown (%)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=2, columnspacing=1.0)
    return figure
