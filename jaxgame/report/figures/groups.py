"""A map of the groups by what they answer, with what the agents make of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from jaxgame.report.figures.labels import place
from jaxgame.report.figures.style import BLUE, GREY, ORANGE, PALE, VERMILLION, new, styled, wrapped
from jaxgame.report.groups import Map
from jaxgame.report.text import left_out, percent, provenance

if TYPE_CHECKING:
    from jaxgame.study import Study

LARGEST = 26  # diameter in points of the bubble of a group that is everyone
LEAST = 3
INSIDE = 2.146  # standard deviations (two dimensions) around 90 % of a normal distribution
MOST_AGENTS = 2000  # positions drawn


def draw(study: Study) -> Figure:
    """The figure."""
    with styled():
        return _draw(study)


def _draw(study: Study) -> Figure:
    positions, out = study.map.positions, study.excluded
    shares, shown = np.asarray(study.survey.shares, float), np.asarray(study.equilibrium.representation, float)
    note = f"Size: area in proportion to the share. {provenance(study)}"
    figure, axes = framed(study.map, _title(study), note)
    for d, cloud in enumerate(np.swapaxes(study.draws.positions, 0, 1)):
        axes.add_patch(_ellipse(cloud, VERMILLION if out[d] else PALE))
    bubbles(axes, positions, shares, shown, out)
    agents = spoken(study.equilibrium.profile, positions)
    small = len(agents) < 2 or np.ptp(agents) == 0
    axes.plot(*agents.T, "D", ms=3.2 if small else 2.4, color=ORANGE, mec="black", mew=0.4, zorder=5, ls="")
    people = shares @ positions
    axes.plot(*people, "+", ms=7, mec="black", mew=1.1, zorder=5)
    handles = legend(bool(study.excluded.any()))
    handles.append(Line2D([], [], color=PALE, lw=0.8, ls=(0, (2, 1.5)), label="90 % of posterior draws"))
    marks = np.vstack([np.unique(agents.round(6), axis=0), people])
    return labelled(figure, axes, study.map, study.survey.groups, (shares, shown), out, marks, handles)


def framed(chart: Map, title: str, note: str) -> tuple[Figure, Axes]:
    """A figure with axes for a map, in its proportions."""
    positions = chart.positions
    span = np.ptp(positions, axis=0).max() or 1.0
    half = max(np.ptp(positions[:, 1]) / 2 + 0.2 * span, 0.3 * span)
    wide = np.ptp(positions[:, 0]) + 0.36 * span
    figure = new(0.95 + 3.2 * 2 * half / wide, title, note)
    axes = figure.subplots()
    axes.set_aspect("equal", anchor="N")
    axes.set_xlim(positions[:, 0].min() - 0.18 * span, positions[:, 0].max() + 0.18 * span)
    middle = (positions[:, 1].min() + positions[:, 1].max()) / 2
    axes.set_ylim(middle - half, middle + half)
    axes.set_xticks([])
    axes.set_yticks([])
    first, second = chart.explained
    axes.set_xlabel(f"first principal coordinate ({percent(first)} of the variation)")
    axes.set_ylabel(f"second ({percent(second)})")
    return figure, axes


def bubbles(axes: Axes, positions: np.ndarray, shares: np.ndarray, shown: np.ndarray, out: np.ndarray) -> None:
    """Of groups: a ring for the share of the people, a disc for that of what is shown, a cross where it is nothing."""
    for d, at in enumerate(positions):
        axes.plot(*at, "o", ms=_diameter(shares[d]), mfc="none", mec=GREY, mew=0.8, zorder=3)
        if out[d]:
            axes.plot(*at, "x", ms=4.5, mec=VERMILLION, mew=1.3, zorder=4)
        else:
            axes.plot(*at, "o", ms=_diameter(shown[d]), mfc=BLUE, mec="none", alpha=0.75, zorder=2)


def spoken(profile: Any, positions: np.ndarray) -> np.ndarray:
    """Where some of the agents stand by what they say."""
    profile = np.asarray(profile, float)
    return profile[np.linspace(0, len(profile) - 1, min(len(profile), MOST_AGENTS)).astype(int)] @ positions


def labelled(
    figure: Figure,
    axes: Axes,
    chart: Map,
    groups: Sequence[str],
    shares: tuple[np.ndarray, np.ndarray],
    out: np.ndarray,
    marks: np.ndarray,
    handles: list[Line2D],
) -> Figure:
    """With names and a legend. shares: of the people and of what is shown; marks (k, 2): what names must not cover."""
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.48, -0.1),
        ncols=2,
        columnspacing=0.8,
        handletextpad=0.4,
    )
    radii = [max(_diameter(a), _diameter(b)) / 2 for a, b in zip(*shares, strict=True)]
    colours = [VERMILLION if gone else "black" for gone in out]
    names = wrapped(tuple(groups), 14)
    order = np.argsort(-shares[0])  # the large ones have the first choice
    chosen = [[column[d] for d in order] for column in (names, radii, colours)]
    place(figure, axes, chosen[0], chart.positions[order], chosen[1], chosen[2], marks)
    return figure


def _diameter(share: float) -> float:
    return max(LEAST, LARGEST * float(np.sqrt(max(share, 0.0))))


def _title(study: Study) -> str:
    out = int(study.excluded.sum())
    distance = "Agents speak from the middle of the map" if _inward(study) else "Where groups stand and what agents say"
    return f"{distance}; {left_out(study)} {'is' if out == 1 else 'are'} left out" if out else distance


def _inward(study: Study) -> bool:
    """Whether the represented mixture of groups is less spread out than the people."""

    def spread(weights: np.ndarray) -> float:
        away = study.map.positions - weights @ study.map.positions
        return float(weights @ (away**2).sum(1))

    shown = np.asarray(study.equilibrium.representation, float)
    return spread(shown) < 0.8 * spread(np.asarray(study.survey.shares, float))


def _ellipse(cloud: np.ndarray, colour: str) -> Ellipse:
    """What holds about 90 % of a group's draws."""
    values, vectors = np.linalg.eigh(np.cov(cloud.T))
    width, height = 2 * INSIDE * np.sqrt(np.maximum(values[::-1], 0))
    angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
    x, y = cloud.mean(0)
    return Ellipse((x, y), width, height, angle=angle, fc="none", ec=colour, lw=0.6, ls=(0, (2, 1.5)), zorder=1)


def legend(out: bool, said: str = "what an agent says") -> list[Line2D]:
    """What the marks mean. out: whether a group is excluded."""
    handles = [
        mark("share of the people", "o", ms=6, mfc="none", mec=GREY),
        mark("share of what is shown", "o", ms=6, mfc=BLUE, mec="none", alpha=0.75),
        mark(said, "D", ms=3.2, mfc=ORANGE, mec="black", mew=0.4),
        mark("what the people say", "+", ms=6, mec="black"),
    ]
    return handles + [mark("excluded", "x", ms=4.5, mec=VERMILLION, mew=1.3)] * bool(out)


def mark(label: str, marker: str, **style: Any) -> Line2D:
    return Line2D([], [], ls="", marker=marker, label=label, **style)
