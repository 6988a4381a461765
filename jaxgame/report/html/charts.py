"""Charts as the `data` and `layout` of plotly.js: plain dicts.

plotly.js reads tags in texts; names come in escaped. Colours are those of the figures.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.colors import to_hex

from jaxgame.maps.result import APART, Sweep
from jaxgame.report.figures.phase import LINES, connected, shades
from jaxgame.report.figures.style import BLACK, BLUE, GREY, PALE, VERMILLION

FONT = {"family": 'system-ui, "Segoe UI", "DejaVu Sans", sans-serif', "size": 12, "color": "#1a1a1a"}
CURSOR = {"bgcolor": "white", "bordercolor": GREY, "font": {**FONT, "size": 13}, "align": "left"}
LEGEND = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.01, "yanchor": "bottom", "font": {**FONT, "size": 11}}
NARROW = 320  # pixels across a chart on a small screen, for which names are placed
BUBBLE, LEAST = 44.0, 4.0  # pixels across a group that is everyone; the smallest
NAME = (0.22, 0.06)  # half of what a name takes of a diagram, along each axis, on a small screen
ROUNDS = 3  # in which every name may move out of the way of those placed since
MARKS = 1200  # marks at most that show where uniqueness is not proved
DASH_NAMES = ("solid", "dash", "dashdot", "dot")


@dataclasses.dataclass(frozen=True)
class Series:
    """Shares (D,) of the groups, with intervals (low, high) where they are uncertain, and how they are marked."""

    name: str
    values: np.ndarray
    symbol: str
    colour: str
    size: int = 9
    interval: tuple[np.ndarray, np.ndarray] | None = None
    offset: float = 0.0  # in rows


def shares(
    groups: Sequence[str], series: Sequence[Series], joined: tuple[Series, Series] | None = None
) -> dict[str, Any]:
    """A row a group with a mark for each series, in percent; joined: two between which lines are drawn."""
    rows = np.arange(len(groups), dtype=float)
    data: list[dict[str, Any]] = []
    if joined is not None:
        first, second = joined
        x = np.stack([100 * first.values, 100 * second.values, np.full(len(rows), np.nan)], 1).reshape(-1)
        y = np.stack([rows + first.offset, rows + second.offset, rows], 1).reshape(-1)
        data.append(
            {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": {"color": PALE, "width": 2}, **_silent()}
        )
    for one in series:
        known = np.isfinite(one.values)
        trace = {
            "type": "scatter",
            "mode": "markers",
            "name": escape(one.name, quote=False),
            "x": 100 * one.values[known],
            "y": rows[known] + one.offset,
            "customdata": [[escape(groups[d], quote=False)] for d in np.flatnonzero(known).tolist()],
            "marker": {
                "symbol": one.symbol,
                "size": one.size,
                "color": one.colour,
                "line": {"width": 1.5, "color": one.colour},
            },
            "hovertemplate": "%{customdata[0]}<br>" + escape(one.name, quote=False) + ": %{x:.2f} %<extra></extra>",
            "cliponaxis": False,
        }
        if one.interval is not None:
            low, high = one.interval
            trace["error_x"] = {
                "type": "data",
                "symmetric": False,
                "array": 100 * (high - one.values)[known],
                "arrayminus": 100 * (one.values - low)[known],
                "color": one.colour,
                "thickness": 1.2,
                "width": 0,
            }
        data.append(trace)
    layout = _layout(height=120 + 42 * len(groups))
    ends = [one.values if one.interval is None else np.maximum(one.values, one.interval[1]) for one in series]
    widest = 100 * float(np.nanmax(np.concatenate(ends)))
    layout["xaxis"] |= {
        "title": {"text": "share (%)"},
        "range": [-0.04 * widest, 1.05 * widest],
        "gridcolor": "#eeeeee",
        "showgrid": True,
    }
    layout["yaxis"] |= {
        "tickvals": rows,
        "ticktext": [_wrapped(group, 15) for group in groups],
        "range": [len(groups) - 0.5, -0.6],
        "ticks": "",
        "showline": False,
    }
    return {"data": data, "layout": layout}


def groups_map(
    groups: Sequence[str],
    positions: np.ndarray,
    explained: np.ndarray,
    people: np.ndarray,
    shown: np.ndarray,
    excluded: np.ndarray,
    agents: Sequence[tuple[str, np.ndarray, str]],
) -> dict[str, Any]:
    """Groups (D, 2) by what they answer, sized by their shares; agents: (name, positions (m, 2), colour) to add."""
    names = [escape(group, quote=False) for group in groups]
    kept = ~excluded
    said = [
        f"{name}<br>of the people: {100 * share:.1f} %<br>of what is shown: "
        + ("nothing, excluded" if gone else f"{100 * part:.1f} %")
        for name, share, part, gone in zip(names, people, shown, excluded, strict=True)
    ]
    sizes, inner = _across(people), _across(shown)

    def bubbles(label: str, which: np.ndarray, **marker: Any) -> dict[str, Any]:
        chosen = np.flatnonzero(which)
        marker = {key: value[chosen] if isinstance(value, np.ndarray) else value for key, value in marker.items()}
        return {
            "type": "scatter",
            "mode": "markers",
            "name": label,
            "x": positions[chosen, 0],
            "y": positions[chosen, 1],
            "marker": marker,
            "text": [said[d] for d in chosen],
            "hovertemplate": "%{text}<extra></extra>",
        }

    everyone = np.ones(len(groups), bool)
    data = [
        bubbles("share of what is shown", kept, size=inner, color=BLUE, opacity=0.75, line={"width": 0}),
        bubbles("share of the people", everyone, size=sizes, color=GREY, symbol="circle-open", line={"width": 1.5}),
    ]
    if excluded.any():
        data.append(bubbles("excluded", excluded, size=9, color=VERMILLION, symbol="x", line={"width": 0}))
    symbols = ("diamond", "square")
    for (label, places, colour), symbol in zip(agents, symbols, strict=False):
        places = np.unique(np.round(places, 6), axis=0)
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": escape(label, quote=False),
                "x": places[:, 0],
                "y": places[:, 1],
                "marker": {"symbol": symbol, "size": 9, "color": colour, "line": {"width": 1, "color": BLACK}},
                "hovertemplate": escape(label, quote=False) + "<extra></extra>",
            }
        )
    middle = people @ positions
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "what the people say",
            "x": [middle[0]],
            "y": [middle[1]],
            "marker": {"symbol": "cross-thin", "size": 12, "line": {"width": 2, "color": BLACK}},
            "hovertemplate": "what the people say<extra></extra>",
        }
    )
    span = np.ptp(positions, axis=0)
    span = np.maximum(span, 0.35 * (span.max() or 1.0))
    texts = [_wrapped(group, 14) for group in groups]
    wanted = _beside(texts, positions, np.maximum(sizes, inner) / 2, NARROW / (1.5 * span[0]))
    data.append(
        {
            "type": "scatter",
            "mode": "markers+text",  # unseen marks, by whose size the texts keep away
            "x": positions[:, 0],
            "y": positions[:, 1],
            "text": texts,
            "textposition": wanted,
            "textfont": {"size": 11, "color": [VERMILLION if gone else BLACK for gone in excluded]},
            "marker": {"size": np.maximum(sizes, inner), "color": "rgba(0,0,0,0)", "line": {"width": 0}},
            "cliponaxis": False,
            **_silent(),
        }
    )
    centre = (positions.max(0) + positions.min(0)) / 2
    layout = _layout(height=int(np.clip(150 + NARROW * 1.4 * span[1] / (1.5 * span[0]), 380, 560)))
    for name, k, which in (("xaxis", 0, "first"), ("yaxis", 1, "second")):
        layout[name] |= {
            "title": {"text": f"{which} principal coordinate ({100 * explained[k]:.0f} % of the variation)"},
            "range": [centre[k] - 0.75 * span[k], centre[k] + 0.75 * span[k]],
            "showticklabels": False,
            "ticks": "",
        }
    layout["yaxis"] |= {"scaleanchor": "x"}
    layout["yaxis"]["title"]["text"] = f"second ({100 * explained[1]:.0f} %)"
    return {"data": data, "layout": layout}


def phase(
    sweep: Sweep, groups: Sequence[str], labels: Sequence[str], boundaries: Sequence[np.ndarray] | None = None
) -> dict[str, Any]:
    """A sweep over two axes: how many groups are left out, with segments (k, 2, 2) of each group's boundary."""
    x, y = sweep.axes.values()
    counts = np.where(sweep.converged, sweep.excluded.sum(-1), -1)
    levels = [int(level) for level in np.unique(counts) if level >= 0]
    colours = [to_hex(colour) for colour in shades(len(levels))]
    z = np.full(counts.shape, np.nan)
    for k, level in enumerate(levels):
        z[counts == level] = k
    steps = [[k / max(len(levels), 1), colour] for k, colour in enumerate(colours) for k in (k, k + 1)]
    data: list[dict[str, Any]] = [
        {
            "type": "heatmap",
            "x": x,
            "y": y,
            "z": z.T,
            "zmin": -0.5,
            "zmax": max(len(levels), 1) - 0.5,
            "colorscale": steps or [[0, "#000000"], [1, "#000000"]],
            "showscale": False,
            "hovertemplate": "%{x:.4g}, %{y:.4g}<extra></extra>",
        }
    ]
    for level, colour in zip(levels, colours, strict=True):
        data.append(_key(f"{level or 'none'} left out", {"symbol": "square", "size": 13, "color": colour}))
    if (counts < 0).any():
        data.append(_key("no equilibrium found", {"symbol": "square", "size": 13, "color": BLACK}))
    several = np.nan_to_num(sweep.disagreement) > APART
    for where, label, symbol in (
        (~sweep.unique & ~several, "uniqueness not proved", "line-ne-open"),
        (several, "several equilibria found", "x-thin-open"),
    ):
        if where.any():
            data.append(_marked(sweep, where, label, symbol))
    annotations = []
    for d, segments in enumerate(boundaries or ()):
        if not len(segments):
            continue
        gaps = np.concatenate([segments, np.full((len(segments), 1, 2), np.nan)], 1).reshape(-1, 2)
        line = {"color": BLACK, "width": 1.6}
        data.append({"type": "scatter", "mode": "lines", "x": gaps[:, 0], "y": gaps[:, 1], "line": line, **_silent()})
        annotations += _named(escape(groups[d], quote=False), segments, (x, y), annotations)
    layout = _layout(height=470)
    layout["plot_bgcolor"] = BLACK  # what was not found shows as a hole
    layout["annotations"] = annotations
    for name, label, axis in (("xaxis", labels[0], x), ("yaxis", labels[1], y)):
        layout[name] |= {"title": {"text": escape(label, quote=False)}, "range": [axis[0], axis[-1]], "showgrid": False}
    return {"data": data, "layout": layout}


def curves(sweep: Sweep, groups: Sequence[str], label: str) -> dict[str, Any]:
    """A sweep over one axis: the representation of every group, in percent."""
    (x,) = sweep.axes.values()
    data: list[dict[str, Any]] = []
    for d, group in enumerate(groups):
        name = escape(group, quote=False)
        look = {"color": LINES[d % len(LINES)], "dash": DASH_NAMES[d // len(LINES) % len(DASH_NAMES)], "width": 2}
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": x,
                "y": 100 * sweep.representation[:, d],
                "line": look,
                "customdata": [[name]] * len(x),
                "hovertemplate": "%{customdata[0]}: %{y:.2f} %<extra></extra>",
            }
        )
    edges = np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])
    layout = _layout(height=200 + 300 + 11 * len(groups))
    layout["shapes"] = [
        {"type": "rect", "xref": "x", "yref": "paper", "x0": edges[k], "x1": edges[k + 1], "y0": 0, "y1": 1,
         "fillcolor": "#eeeeee", "line": {"width": 0}, "layer": "below"}
        for k in np.flatnonzero(~sweep.unique)
    ]  # fmt: skip
    if layout["shapes"]:
        data.append(_key("uniqueness not proved", {"symbol": "square", "size": 13, "color": "#eeeeee"}))
    layout["xaxis"] |= {"title": {"text": escape(label, quote=False)}, "range": [x[0], x[-1]]}
    layout["yaxis"] |= {"title": {"text": "share of what is shown (%)"}, "rangemode": "tozero"}
    layout["hovermode"] = "x"
    return {"data": data, "layout": layout}


def _layout(height: int) -> dict[str, Any]:
    axis = {"automargin": True, "zeroline": False, "showline": True, "linecolor": "#999999", "ticks": "outside",
            "showgrid": False, "fixedrange": False}  # fmt: skip
    return {
        "height": height,
        "font": FONT,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "hoverlabel": CURSOR,
        "hovermode": "closest",
        "dragmode": False,  # a finger on the chart scrolls the page
        "legend": LEGEND,
        "modebar": {"orientation": "v", "bgcolor": "rgba(255,255,255,0.6)"},
        "xaxis": dict(axis),
        "yaxis": dict(axis),
    }


def _silent() -> dict[str, Any]:
    return {"hoverinfo": "skip", "showlegend": False}


def _key(label: str, marker: dict[str, Any]) -> dict[str, Any]:
    """An entry of the legend that stands for nothing drawn as points."""
    marker = {**marker, "line": {"width": 1, "color": GREY}}
    return {"type": "scatter", "mode": "markers", "x": [None], "y": [None], "name": label, "marker": marker}


def _marked(sweep: Sweep, where: np.ndarray, label: str, symbol: str) -> dict[str, Any]:
    """Small marks on a lattice of the points where something holds."""
    x, y = sweep.axes.values()
    stride = max(1, int(np.ceil(np.sqrt(where.size / MARKS))))
    lattice = np.zeros_like(where)
    lattice[stride // 2 :: stride, stride // 2 :: stride] = True
    i, j = np.nonzero(where & lattice)
    if not len(i):
        i, j = np.nonzero(where)
    marker = {"symbol": symbol, "size": 5, "color": BLACK, "line": {"width": 1, "color": BLACK}}
    return {"type": "scatter", "mode": "markers", "name": label, "x": x[i], "y": y[j], "marker": marker,
            "hoverinfo": "skip"}  # fmt: skip


def _named(
    name: str, segments: np.ndarray, axes: tuple[np.ndarray, np.ndarray], others: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """A group's name on the longest part of its boundary, away from the edges and the names before."""
    low = np.array([axis[0] for axis in axes])
    size = np.array([axis[-1] - axis[0] for axis in axes])
    part = max(connected(segments, size), key=lambda one: np.linalg.norm(np.diff(one / size, axis=1), axis=-1).sum())
    middles = (part.mean(1) - low) / size
    room = np.minimum(np.minimum(middles, 1 - middles) / NAME, 1).min(1)
    if others:
        taken = np.array([[(one[key] - low[k]) / size[k] for k, key in enumerate("xy")] for one in others])
        away = np.linalg.norm((middles[:, None] - taken[None]) * [0.7, 2], axis=2).min(1)
        room += np.minimum(away, 0.5) - (away < 0.15)
    chosen = int(np.argmax(room))
    at, across = part.mean(1)[chosen], middles[chosen, 0]
    side = "left" if across < NAME[0] else "right" if across > 1 - NAME[0] else "center"
    look = {
        "showarrow": False,
        "font": {"size": 11, "color": BLACK},
        "bgcolor": "rgba(255,255,255,0.8)",
        "borderpad": 1,
    }
    return [{"x": at[0], "y": at[1], "xanchor": side, "text": name, **look}]


def _across(part: np.ndarray) -> np.ndarray:
    return np.maximum(LEAST, BUBBLE * np.sqrt(np.maximum(part, 0)))


def _wrapped(name: str, width: int) -> str:
    return "<br>".join(escape(line, quote=False) for line in textwrap.wrap(name, width) or [""])


def _beside(texts: Sequence[str], positions: np.ndarray, radii: np.ndarray, scale: float) -> list[str]:
    """Where to write each name, so that on a small screen none covers another or a bubble, as far as that goes."""
    centres = positions * scale * [1, -1]
    boxes = [np.concatenate([c - r, c + r]) for c, r in zip(centres, radii, strict=True)]
    written: dict[int, tuple[str, np.ndarray]] = {}
    order: list[int] = np.argsort(-radii).tolist()
    for d in order * ROUNDS:
        lines = texts[d].split("<br>")
        half = np.array([max(map(len, lines)) * 6.2, len(lines) * 14.0]) / 2
        others = [box for k, box in enumerate(boxes) if k != d] + [box for k, (_, box) in written.items() if k != d]
        best = np.inf
        for place, way in _PLACES.items():
            middle = centres[d] + np.array(way) * (half + radii[d] + 2)
            box = np.concatenate([middle - half, middle + half])
            cost = sum(_overlap(box, other) for other in others)
            if cost < best:
                best, written[d] = cost, (place, box)
    return [written[d][0] for d in range(len(texts))]


_PLACES = {
    "top center": (0, -1),
    "bottom center": (0, 1),
    "middle right": (1, 0),
    "middle left": (-1, 0),
    "top right": (1, -1),
    "top left": (-1, -1),
    "bottom right": (1, 1),
    "bottom left": (-1, 1),
}


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)))
