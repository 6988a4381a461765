"""How much of what is shown represents each group, beside its share of the people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from jaxgame.report.figures.style import BLUE, GREY, PALE, VERMILLION, new, styled, wrapped
from jaxgame.report.text import headline, interval, percent, provenance, uncertainty

if TYPE_CHECKING:
    from jaxgame.study import Study

OFFSET = 0.17  # rows of people and of representation, above and below a group's line


def draw(study: Study) -> Figure:
    """The figure."""
    with styled():
        return _draw(study)


def _draw(study: Study) -> Figure:
    groups = study.survey.groups
    shares, shown = 100 * np.asarray(study.survey.shares), 100 * np.asarray(study.equilibrium.representation)
    rows = np.arange(len(groups))
    note = f"{uncertainty(study)} {provenance(study)}"
    figure = new(0.75 + 0.3 * len(groups), headline(study), note)
    axes = figure.subplots()
    axes.hlines(rows, np.minimum(shares, shown), np.maximum(shares, shown), color=PALE, lw=0.8, zorder=1)
    low, high = interval(100 * study.draws.shares)
    axes.hlines(rows - OFFSET, low, high, color=GREY, lw=1)
    axes.plot(shares, rows - OFFSET, "o", mfc="white", mec=GREY, ms=4.5, label="people", zorder=3)
    low, high = interval(100 * study.draws.representation)
    colours = [VERMILLION if gone else BLUE for gone in study.excluded]
    axes.hlines(rows + OFFSET, low, high, colors=colours, lw=1)
    kept, out = ~study.excluded, study.excluded
    axes.plot(shown[kept], rows[kept] + OFFSET, "o", color=BLUE, ms=4.5, label="shown by agents", zorder=3)
    if out.any():
        axes.plot(
            shown[out], rows[out] + OFFSET, "X", color=VERMILLION, ms=5.5, label="excluded", zorder=3, clip_on=False
        )
    right = 1.02 * max(np.max(interval(100 * study.draws.shares)[1]), high.max(), shares.max(), shown.max())
    if out.any():
        right = max(right, high[out].max() / 0.55)  # room for the words beside
    probability = study.draws.excluded.mean(0)
    for d in np.flatnonzero(out):
        text = f"excluded in {percent(probability[d])} of draws"
        # beside the interval of the people, which is the longer one where nobody represents a group
        axes.text(high[d] + 0.025 * right, rows[d] + OFFSET, text, color=VERMILLION, va="center", fontsize=6)
    axes.set_xlim(-0.02 * right, right)
    axes.set_ylim(len(groups) - 0.5, -0.6)
    axes.set_yticks(rows, wrapped(groups))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("share (%)")
    axes.grid(axis="x", color="#EEEEEE", lw=0.6)
    axes.set_axisbelow(True)
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, handletextpad=0.2, columnspacing=1.2, borderpad=0
    )
    return figure
