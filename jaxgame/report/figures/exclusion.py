"""How far every group is from the edge: the α/γ at which it falls out, and what letting it in again would take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from jaxgame.report.figures.style import BLUE, GREY, VERMILLION, new, styled, wrapped
from jaxgame.report.text import interval, left_out, number, provenance, uncertainty

if TYPE_CHECKING:
    from jaxgame.study import Study


def draw(study: Study) -> Figure:
    """The figure."""
    with styled():
        return _draw(study)


def _draw(study: Study) -> Figure:
    groups = study.survey.groups
    alike = "Critical ratios: the same population, but all agents aligned to its shares. "
    whose = alike if study.options.heterogeneity else ""
    if study.critical is not None and not study.critical.all():
        whose += "Arrows to the left: out even at α = 0. "
    figure = new(0.9 + 0.26 * len(groups), _title(study), f"{uncertainty(study)} {whose}{provenance(study)}")
    if study.critical is None:
        price = figure.subplots()
        left = price
    else:
        left, price = figure.subplots(1, 2, sharey=True, width_ratios=(1.35, 1))
        _critical(left, study, study.critical)
    _price(price, study)
    left.set_yticks(np.arange(len(groups)), wrapped(groups))
    left.set_ylim(len(groups) - 0.5, -0.6)
    for axes in {left, price}:
        axes.tick_params(axis="y", length=0)
        axes.set_axisbelow(True)
        axes.grid(axis="x", color="#EEEEEE", lw=0.6)
    return figure


def _title(study: Study) -> str:
    groups = study.survey.groups
    if study.critical is None:
        return "What it would take to let each group in"
    near = [d for d in np.argsort(study.critical) if not study.excluded[d] and np.isfinite(study.critical[d])]
    # With different targets the critical ratios are those of another population.
    near = [] if study.options.heterogeneity else [d for d in near if study.critical[d] > study.ratio][:1]
    after = f"; {groups[near[0]]} is next, at {number(float(study.critical[near[0]]))}" if near else ""
    return f"α/γ = {study.ratio:.3g} leaves out {left_out(study)}{after}"


def _critical(axes: Axes, study: Study, critical: np.ndarray) -> None:
    rows = np.arange(len(critical))
    low, high = critical, critical
    if study.draws.critical is not None:
        low, high = interval(study.draws.critical)
    finite = np.concatenate([x[np.isfinite(x) & (x > 0)] for x in (critical, low, high, np.array([study.ratio]))])
    first, last = (finite.min() / 1.6, finite.max() * 1.6) if finite.size else (0.1, 10.0)
    edge = last * 1.25
    colours = [VERMILLION if gone else BLUE for gone in study.excluded]
    axes.hlines(rows, np.clip(low, first, edge), np.clip(high, first, edge), colors=colours, lw=1)
    within = np.isfinite(critical) & (critical > 0)
    axes.scatter(critical[within], rows[within], c=[colours[d] for d in np.flatnonzero(within)], s=20, zorder=3)
    for d in np.flatnonzero(~np.isfinite(critical)).tolist():
        axes.plot(edge, d, ">", color=BLUE, ms=4.5, clip_on=False)
        # left of the draws in which it does fall out
        axes.text(min(edge / 1.15, low[d] / 1.08), d, "never", color=BLUE, ha="right", va="center", fontsize=6)
    for d in np.flatnonzero(critical == 0).tolist():
        axes.plot(first, d, "<", color=colours[d], ms=4.5, clip_on=False)
    axes.set_xscale("log")
    axes.set_xlim(first, edge)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if edge < 200 * first else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if study.ratio > 0:
        axes.axvline(study.ratio, color=GREY, lw=0.9, ls=(0, (4, 2)), zorder=1)
        right = study.ratio < np.sqrt(first * edge)
        axes.annotate(
            f"now {study.ratio:.3g}",
            (study.ratio, 1),
            (3 if right else -3, -1),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="left" if right else "right",
            va="top",
            fontsize=6,
            color=GREY,
        )
    axes.set_xlabel("α/γ at which it falls out")


def _price(axes: Axes, study: Study) -> None:
    rows, out = np.arange(len(study.price)), study.excluded
    axes.barh(rows[out], study.price[out], height=0.5, color=VERMILLION, alpha=0.85)
    if study.price[out].any():
        low, high = interval(study.draws.price)
        axes.hlines(rows[out], low[out], high[out], color="black", lw=0.9)
        for d in np.flatnonzero(out).tolist():
            text = f" {number(study.price[d])}"
            axes.text(max(high[d], study.price[d]), d, text, va="center", ha="left", fontsize=6, color=VERMILLION)
        axes.set_xlim(0, 1.45 * max(high[out].max(), study.price[out].max()))
        axes.xaxis.set_major_locator(MaxNLocator(2, min_n_ticks=2))
    else:
        axes.set_xlim(0, 1)
        axes.set_xticks([0])
    for d in np.flatnonzero(~out).tolist():
        axes.text(0.03, d, "represented", transform=axes.get_yaxis_transform(), va="center", fontsize=6, color=BLUE)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_xlabel("price of inclusion\n(utility a unit)")
