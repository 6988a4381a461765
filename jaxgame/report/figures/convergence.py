"""How fast solvers get there: natural residual against evaluations of the marginal utilities."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from jaxgame.report.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, new, styled
from jaxgame.report.text import provenance

if TYPE_CHECKING:
    from jaxgame.study import Curve, Study

LOOKS = (
    (BLACK, "-"),
    (BLUE, "--"),
    (ORANGE, "-."),
    (VERMILLION, ":"),
    (GREEN, (0, (6, 1.5))),
    (PURPLE, (0, (3, 1, 1, 1, 1, 1))),
    (SKY, "-"),
)
SMALLEST = 1e-17  # a residual of exactly 0 on a logarithmic axis


def draw(study: Study) -> Figure:
    """The figure."""
    with styled():
        return _draw(study)


def _draw(study: Study) -> Figure:
    stopped = {math.ceil(curve.evaluations[-1]) for curve in study.curves if not curve.converged}
    counts = " or ".join(f"{count:,}" for count in sorted(stopped))
    stop = f"* Stopped short of the tolerance, after {counts} evaluations. " if stopped else ""
    note = f"{stop}A Newton step also solves linear systems. {provenance(study)}"
    figure = new(2.55, _title(study.curves), note)
    axes = figure.subplots()
    tol = float(study.equilibrium.tol)
    for k, curve in enumerate(study.curves):
        colour, dashes = LOOKS[k % len(LOOKS)]
        residuals = np.maximum(curve.residuals, SMALLEST)
        marker: dict[str, Any] = dict(marker="o", ms=3.5) if len(residuals) < 30 else {}
        label = _words(curve.solver) + ("" if curve.converged else " *")
        axes.plot(curve.evaluations, residuals, color=colour, ls=dashes, label=label, **marker)
    axes.axhline(tol, color=GREY, lw=0.8, ls=(0, (1, 1.5)))
    axes.annotate(
        "tolerance",
        (1, tol),
        (-1, -2),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=6,
        color=GREY,
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("evaluations of the marginal utilities")
    axes.set_ylabel("natural residual")
    axes.grid(color="#EEEEEE", lw=0.6)
    axes.set_xlim(1, None)
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.25), ncols=2, columnspacing=1.2, handlelength=2.8)
    return figure


def _title(curves: list[Curve]) -> str:
    sentence = _finding(curves)
    return sentence[0].upper() + sentence[1:]


def _finding(curves: list[Curve]) -> str:
    own, rivals = curves[0], [curve for curve in curves[1:] if curve.converged]
    if not own.converged:
        return f"{_words(own.solver)} did not converge"
    used = (
        f"{_words(own.solver)} needs {own.evaluations[-1]:.0f} evaluations"
        if len(own.evaluations)
        else _words(own.solver)
    )
    if not rivals:
        return f"{used}; no other solver gets there in {max(c.evaluations[-1] for c in curves):,.0f}"
    best = min(rivals, key=lambda curve: curve.evaluations[-1])
    return f"{used}, the best of the others ({_words(best.solver)}) {best.evaluations[-1]:.0f}"


def _words(name: str) -> str:
    """AcceleratedGradient -> accelerated gradient."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return words.replace("newton", "Newton")
