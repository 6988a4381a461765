"""A sweep as parts of a page: the diagram with its cursor, or curves over one axis, and who is left out how often."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxgame.maps import Boundaries, Sweep
from jaxgame.report.html import charts
from jaxgame.report.html.elements import Figure, Part, Table
from jaxgame.report.html.readout import pack, thinned
from jaxgame.report.text import listed, percent

SYMBOLS = {"attractiveness": "attractiveness α", "consistency": "consistency γ", "diversity": "diversity δ"}


def diagram(sweep: Sweep, edges: Boundaries | None, at: Sequence[float] | None = None) -> list[Part]:
    """Figure and table. at: where the cursor stands at first, in the sweep's parameters; default the middle."""
    names = sweep.groups or tuple(f"group {d}" for d in range(sweep.representation.shape[-1]))
    labels = [SYMBOLS.get(name, name) for name in sweep.axes]
    start = [float(axis[len(axis) // 2]) for axis in sweep.axes.values()] if at is None else at
    shown = thinned(sweep)
    caption = ""
    if shown is not sweep:
        caption = f"The page holds {' × '.join(f'{length:,}' for length in shown.shape)} of the points."
    if len(sweep.axes) == 1:
        title, chart = "Representation of every group", charts.curves(shown, names, labels[0])
    else:
        title = "Who is left out"
        chart = charts.phase(shown, names, labels, None if edges is None else edges.segments)
        if edges is not None:
            caption = (
                f"Lines: where a group falls out or comes back, exact to 1e-10 where they cross the grid. {caption}"
            )
    words = f"Diagram over {' and '.join(labels)}. {left_out(sweep)}"
    figure = Figure(
        "phase", title, words, chart, caption, _table(sweep, names, edges), pack(shown, names, labels, start)
    )
    return [figure]


def left_out(sweep: Sweep) -> str:
    """In how much of a sweep each group is left out, in a sentence."""
    names = sweep.groups or tuple(f"group {d}" for d in range(sweep.representation.shape[-1]))
    if not sweep.converged.any():
        return "No equilibrium was found at any point."
    solved = sweep.excluded.reshape(-1, len(names))[sweep.converged.reshape(-1)]
    often = solved.mean(0)
    some = [f"{names[d]} in {percent(float(often[d]))}" for d in np.argsort(-often, kind="stable") if often[d] > 0]
    if not some:
        return "Every group is represented at every point."
    return f"Of the points solved, some group is left out in {percent(float(solved.any(1).mean()))}: {listed(some)}."


def _table(sweep: Sweep, names: Sequence[str], edges: Boundaries | None) -> Table:
    solved = sweep.converged.reshape(-1)
    shown = sweep.representation.reshape(-1, len(names))[solved]
    out = sweep.excluded.reshape(-1, len(names))[solved]
    rows = []
    for d, name in enumerate(names):
        row = [name, *((_percent(out[:, d].mean()), _percent(shown[:, d].min()), _percent(shown[:, d].max()))
                       if len(shown) else (None,) * 3)]  # fmt: skip
        rows.append(row if edges is None else [*row, len(edges.crossings[d])])
    titles = ["group", "left out in", "shown, least", "shown, most"] + ["crossings found"] * (edges is not None)
    return Table("Every group over the whole diagram", titles, rows)


def _percent(x: float) -> str:
    return percent(float(x))
