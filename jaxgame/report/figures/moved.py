"""The map of the groups with what agents say before and after a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxgame.exclusion import excluded
from jaxgame.report.figures.groups import bubbles, framed, labelled, legend, mark, spoken
from jaxgame.report.figures.style import ORANGE, PURPLE, styled
from jaxgame.report.groups import Map
from jaxgame.steering.plan import Plan


def draw(plan: Plan, groups: Sequence[str], chart: Map, shares: Any, note: str) -> Figure:
    """The figure. shares (D,): of the people."""
    people = np.asarray(shares, float)
    shown = np.asarray(plan.equilibrium.representation, float)
    out = np.asarray(excluded(plan.equilibrium.profile))
    before, after = (spoken(e.profile, chart.positions) for e in (plan.before, plan.equilibrium))
    away = float(np.linalg.norm(after.mean(0) - before.mean(0)))
    title = (
        f"The plan moves what agents say by {away:.2g}; groups are up to {np.ptp(chart.positions, 0).max():.2g} apart"
    )
    with styled():
        figure, axes = framed(chart, title, f"Size: area in proportion to the share, after the plan. {note}")
        bubbles(axes, chart.positions, people, shown, out)
        for agents, marker, colour in ((before, "D", ORANGE), (after, "s", PURPLE)):
            axes.plot(*agents.T, marker, ms=3, color=colour, mec="black", mew=0.4, zorder=5, ls="")
        middle = people @ chart.positions
        axes.plot(*middle, "+", ms=7, mec="black", mew=1.1, zorder=5)
        handles = legend(bool(out.any()), "what an agent says, before")
        handles.append(mark("what an agent says, after", "s", ms=3.2, mfc=PURPLE, mec="black", mew=0.4))
        marks = np.vstack([np.unique(before.round(6), axis=0), np.unique(after.round(6), axis=0), middle])
        return labelled(figure, axes, chart, groups, (people, shown), out, marks, handles)
