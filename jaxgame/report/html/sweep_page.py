"""The page of a sweep."""

from __future__ import annotations

from pathlib import Path

from jaxgame.maps import Boundaries, Sweep
from jaxgame.report.html.diagram import diagram, left_out
from jaxgame.report.html.elements import Section, Table
from jaxgame.report.html.methods import closing
from jaxgame.report.html.page import write


def write_page(found: Sweep, edges: Boundaries | None, title: str, note: str, path: Path, version: str) -> None:
    """The page of a sweep over one or two axes."""
    sections = [
        Section("Who is left out" if len(found.axes) == 2 else "Who is shown", diagram(found, edges)),
        Section("Certificates", [found.message, _certificates(found)]),
        *closing(
            version,
            [
                "Every point is an equilibrium of its own with its own certificate; points that failed stay empty and "
                "are never interpolated over.",
                "Where uniqueness is not proved, points were also solved along every axis both ways and from other "
                "starts; the page says where these lead elsewhere.",
                "Boundaries are found by bisection between neighbouring points, and drawn only where the equilibrium "
                "is proved to be the only one.",
            ],
        ),
    ]
    write(path, title, sections, lead=left_out(found), source=note)


def _certificates(found: Sweep) -> Table:
    solved = found.converged
    rows = [
        ("points", int(found.status.size)),
        ("solved", int(solved.sum())),
        ("proved to be the only equilibrium", int(found.unique.sum())),
        ("largest natural residual", float(found.residual[solved].max()) if solved.any() else None),
        ("largest bound on an agent's gain", float(found.exploitability[solved].max()) if solved.any() else None),
        ("share that counts as excluded, at most", float(found.tolerance)),
    ]
    return Table("Over all points", ("what", "value"), rows)
