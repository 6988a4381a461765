"""What notebooks show of results: a sentence, a table, a picture."""

from __future__ import annotations

import base64
import html
import io
from typing import Any


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
    from jaxgame.report.figures.style import styled

    title = " and ".join(sweep.axes)
    figure, file = draw(sweep, f"Who is left out, by {title}", ""), io.BytesIO()
    with styled():
        figure.savefig(file, format="png", dpi=150)
    text = html.escape(f"Phase diagram: number of groups left out, by {title}. {sweep.message}", quote=True)
    return f"<img alt='{text}' src='data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'>"
