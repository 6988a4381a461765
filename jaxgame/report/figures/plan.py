"""What a plan does to every group: representation before and after, beside the floor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from jaxgame.report.figures.style import BLACK, BLUE, GREY, PALE, VERMILLION, new, styled, wrapped
from jaxgame.steering.plan import Plan

EXCLUDED = 1e-3  # as in `excluded`


def draw(
    plan: Plan, groups: Sequence[str], title: str, note: str, interval: tuple[np.ndarray, np.ndarray] | None = None
) -> Figure:
    """The figure. interval: (D,) lower and upper ends of the representation after the plan, where it is uncertain."""
    with styled():
        return _draw(plan, groups, title, note, interval)


def _draw(
    plan: Plan, groups: Sequence[str], title: str, note: str, interval: tuple[np.ndarray, np.ndarray] | None
) -> Figure:
    before, after = (100 * np.asarray(e.representation, float) for e in (plan.before, plan.equilibrium))
    floor = 100 * np.broadcast_to(np.asarray(plan.details["floor"], float), before.shape)
    rows = np.arange(len(groups))
    figure = new(0.75 + 0.3 * len(groups), title, note)
    axes = figure.subplots()
    axes.hlines(rows, before, after, color=PALE, lw=1.6, zorder=1)
    if interval is not None:
        low, high = (100 * np.asarray(end, float) for end in interval)
        axes.hlines(rows + 0.17, low, high, color=BLUE, lw=1)
    out = np.asarray(plan.before.profile).max(0) <= EXCLUDED
    axes.plot(before[~out], rows[~out], "o", mfc="white", mec=GREY, ms=4.5, label="before", zorder=3)
    if out.any():
        axes.plot(before[out], rows[out], "X", color=VERMILLION, ms=5.5, label="excluded", zorder=3, clip_on=False)
    axes.plot(after, rows, "o", color=BLUE, ms=4.5, label="after", zorder=4)
    axes.plot(floor, rows, "|", color=BLACK, ms=9, mew=1.2, label="floor", zorder=5)
    widest = max(before.max(), after.max(), floor.max(), 0 if interval is None else high.max())
    axes.set_xlim(-0.02 * widest, 1.04 * widest)
    axes.set_ylim(len(groups) - 0.5, -0.6)
    axes.set_yticks(rows, wrapped(tuple(groups)))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("share of what is shown (%)")
    axes.grid(axis="x", color="#EEEEEE", lw=0.6)
    axes.set_axisbelow(True)
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, handletextpad=0.2, columnspacing=1.0, borderpad=0
    )
    return figure
