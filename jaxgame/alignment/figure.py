"""Predicted mixtures beside those measured in the text, agent by agent, before and after the plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from jaxgame.report.figures.style import BLACK, BLUE, GREEN, ORANGE, PALE, new, styled, wrapped

if TYPE_CHECKING:
    from jaxgame.alignment.experiment import Alignment, Round

LABELS = 22  # points that the labels of an axis take
COLOURS = {"distilled": ORANGE, "rlhf": GREEN}


def draw(alignment: Alignment, title: str, note: str) -> Figure:
    """The figure."""
    with styled():
        groups, agents = alignment.survey.groups, len(alignment.before.weights)
        figure = new(0.5 + agents * (0.35 + 0.22 * len(groups)), title, note)
        panels = figure.subplots(agents, 2, sharex=True, sharey=True, squeeze=False)
        for column, (name, one) in enumerate((("before", alignment.before), ("after the plan", alignment.after))):
            for i in range(agents):
                _agent(panels[i, column], one, i)
                panels[i, column].set_title(f"agent {i + 1}, {name}", fontsize=6.5, loc="left")
                panels[i, column].set_yticks(np.arange(len(groups)), wrapped(groups))
            panels[-1, column].set_xlabel("share of the text (%)\n")
        panels[0, 0].set_ylim(len(groups) - 0.5, -0.5)
        below = panels[-1, 0].transAxes + ScaledTranslation(0, -LABELS / 72, figure.dpi_scale_trans)
        legend = panels[-1, 0].legend(
            loc="upper center",
            bbox_to_anchor=(0.9, 0.0),
            bbox_transform=below,
            ncols=4,
            handletextpad=0.2,
            columnspacing=1.0,
        )
        legend.set_in_layout(False)  # it is as wide as both columns; the empty line below the labels is its place
        return figure


def _agent(axes, one: Round, i: int) -> None:
    rows = np.arange(one.weights.shape[1])
    axes.hlines(rows, 0, 100, color=PALE, lw=0.4, zorder=1)
    axes.plot(100 * one.weights[i], rows, "|", color=BLACK, ms=10, mew=1.4, label="predicted", zorder=4)
    estimate = one.mixtures[i].estimate
    low, high = 100 * np.asarray(estimate.lower), 100 * np.asarray(estimate.upper)
    axes.hlines(rows - 0.15, low, high, color=BLUE, lw=1.2)
    axes.plot(100 * np.asarray(estimate.weights), rows - 0.15, "o", color=BLUE, ms=3, label="mixture", zorder=3)
    for k, (way, realised) in enumerate(one.realised.items()):
        found = 100 * np.asarray(realised.readings[i].estimate.weights)
        axes.plot(found, rows + 0.12 + 0.15 * k, "D", color=COLOURS[way], ms=2.5, label=f"{way} model", zorder=3)
    axes.set_xlim(-2, 102)
    axes.tick_params(axis="y", length=0)
