"""What notebooks show of results: a sentence, a table, a picture."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

import numpy as np

from jaxgame import _checks
from jaxgame.report.html.elements import Table, rendered

MOST = 50  # groups of which a row is shown


def equilibrium_html(found: Any) -> str | None:
    """An equilibrium: its message and the share of every group, or how far it is from entry; of a batch, how it went.

    None, for the text instead, where the arrays are traced.
    """
    if not _checks.concrete(found.profile):
        return None
    if np.ndim(found.profile) > 2:
        solved, residual = np.asarray(found.converged), np.asarray(found.residual)
        text = (
            f"{solved.size:,} equilibria, {int(solved.sum()):,} converged, natural residual up to {residual.max():.3g}."
        )
        return f"<div>{rendered(text)}</div>"
    largest, signed = np.asarray(found.profile, float).max(0), np.asarray(found.signed, float).max(0)
    rows = [
        (f"group {d}", f"{100 * share:.2f} %", f"{100 * most:.2f} %", None if z > 0 else -z)
        for d, (share, most, z) in enumerate(zip(np.asarray(found.representation, float), largest, signed, strict=True))
    ]
    titles = ("group", "representation", "largest in a mixture", "distance to entry (utility)")
    return f"<div>{rendered(str(found.message))}{_table('Representation', titles, rows, signed <= 0)}</div>"


def plan_html(plan: Any) -> str:
    """A plan: whether it works and what it costs, representation before and after, and a figure where it has floors."""
    from jaxgame.steering.guidance import costs, levers, verdict

    before, after = (np.asarray(e.representation, float) for e in (plan.before, plan.equilibrium))
    if before.ndim > 1:  # scenarios: their mean, as in the guidance
        before, after = (x.reshape(-1, x.shape[-1]).mean(0) for x in (before, after))
    names = [f"group {d}" for d in range(len(before))]
    floor = plan.details.get("floor")
    least = [None] * len(names) if floor is None else np.broadcast_to(np.asarray(floor, float), before.shape).tolist()
    rows = [
        (name, f"{100 * a:.2f} %", f"{100 * b:.2f} %", None if c is None else f"{100 * c:.2f} %")
        for name, a, b, c in zip(names, before, after, least, strict=True)
    ]
    text = rendered(" ".join([verdict(plan), *costs(plan, levers(plan, names)), plan.message]))
    table = _table("Representation", ("group", "before", "after", "floor"), rows, before <= 0)
    return f"<div>{text}{table}{'' if floor is None else _plan_picture(plan, names)}</div>"


def _table(caption: str, titles: tuple[str, ...], rows: list[Any], emphasised: np.ndarray) -> str:
    more = f", the first {MOST} of {len(rows):,} groups" if len(rows) > MOST else ""
    return rendered(Table(caption + more, titles, rows[:MOST], emphasised[:MOST].tolist()))


def _plan_picture(plan: Any, names: list[str]) -> str:
    from jaxgame.report.figures.plan import draw

    if len(names) > MOST:
        return ""
    text = "Representation of every group before and after the plan, beside its floor."
    return _image(draw(plan, names, "What the plan does" if plan.success else "The plan falls short", ""), text)


def sweep_html(sweep: Any) -> str:
    """A sweep: its message, its axes, in how many points each group is left out, and a figure where there is one."""
    names = sweep.groups or tuple(f"group {d}" for d in range(sweep.representation.shape[-1]))
    axes = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{axis[0]:.4g} … {axis[-1]:.4g}</td><td>{len(axis):,} points</td></tr>"
        for name, axis in sweep.axes.items()
    )
    solved = max(int(sweep.converged.sum()), 1)
    out = sweep.excluded.reshape(-1, len(names)).sum(0) / solved
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td style='text-align:right'>{100 * share:.1f} %</td></tr>"
        for name, share in zip(names, out, strict=True)
    )
    return (
        f"<div><p><b>Sweep</b>: {html.escape(sweep.message)}</p><table>{axes}</table>"
        f"<table><tr><th>group</th><th>left out in</th></tr>{rows}</table>{_picture(sweep)}</div>"
    )


def _picture(sweep: Any) -> str:
    if len(sweep.axes) not in (1, 2) or not sweep.converged.any():
        return ""
    from jaxgame.report.figures.phase import draw

    title = " and ".join(sweep.axes)
    text = f"Phase diagram: number of groups left out, by {title}. {sweep.message}"
    return _image(draw(sweep, f"Who is left out, by {title}", ""), text)


def _image(figure: Any, text: str) -> str:
    from jaxgame.report.figures.style import styled

    file = io.BytesIO()
    with styled():
        figure.savefig(file, format="png", dpi=150)
    text = html.escape(text, quote=True)
    return f"<img alt='{text}' src='data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'>"
