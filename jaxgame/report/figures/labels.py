"""Names beside points, so that none covers another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from jaxgame.report.figures.style import GREY

DISTANCES = (2, 6, 12, 20, 30)  # points from the edge of a bubble
ANGLES = np.radians([90, 270, 45, 315, 135, 225, 0, 180])
FAR = 8  # points beyond which a line leads from the name to its point


def place(
    figure: Figure,
    axes: Axes,
    names: Sequence[str],
    positions: np.ndarray,
    radii: Sequence[float],
    colours: Sequence[str],
    marks: np.ndarray,
) -> None:
    """Name the bubbles at positions (D, 2) with radii in points, earlier ones first.

    Each name goes to the first place around its bubble where it covers nothing, or the least of bubbles, marks (m, 2)
    and the patches of the axes. A name that would cover another one is left out.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    point = figure.dpi / 72
    centres, others = axes.transData.transform(positions), axes.transData.transform(marks)
    taken = [_around(centre, radius * point) for centre, radius in zip(centres, radii, strict=True)]
    taken += [_around(mark, 2.5 * point) for mark in others]
    outlines = [patch.get_window_extent(renderer) for patch in axes.patches]
    frame = axes.get_window_extent(renderer)
    written: list[Bbox] = []
    for d, name in enumerate(names):
        best, least = None, np.inf
        for far in DISTANCES:
            for angle in ANGLES:
                label = _annotation(axes, name, positions[d], angle, radii[d], far)
                box = _extent(label, renderer)
                cost = sum(_overlap(box, other) for other in taken) + 10 * (_area(box) - _overlap(box, frame))
                cost += 0.2 * sum(_overlap(box, outline) for outline in outlines)
                cost += 1e6 * sum(_overlap(box, other) > 0 for other in written)
                if cost < least:
                    best, label = label, best
                    least = cost
                if label is not None:
                    label.remove()
            if least == 0:
                break
        assert best is not None
        if least >= 1e6:
            best.remove()
        else:
            best.set_color(colours[d])
            written.append(_extent(best, renderer))


def _annotation(axes: Axes, name: str, at: np.ndarray, angle: float, radius: float, far: float) -> Annotation:
    x, y = np.cos(angle), np.sin(angle)
    return axes.annotate(
        name,
        (at[0], at[1]),
        ((radius + far) * x, (radius + far) * y),
        textcoords="offset points",
        ha="center" if abs(x) < 0.1 else "left" if x > 0 else "right",
        va="center" if abs(y) < 0.1 else "bottom" if y > 0 else "top",
        fontsize=6,
        linespacing=0.95,
        arrowprops=dict(arrowstyle="-", lw=0.4, color=GREY, shrinkA=0, shrinkB=radius) if far > FAR else None,
        zorder=6,
    )


def _extent(label: Annotation, renderer) -> Bbox:
    """Of the text alone."""
    label.update_positions(renderer)
    return Text.get_window_extent(label, renderer)


def _around(centre: np.ndarray, radius: float) -> Bbox:
    return Bbox([centre - radius, centre + radius])


def _area(box: Bbox) -> float:
    return box.width * box.height


def _overlap(a: Bbox, b: Bbox) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0.0) * max(height, 0.0)
