"""The figures of a study, a file each: `draw(study)` gives the figure, `TITLE` what it is about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from jaxgame.report.figures import convergence, exclusion, groups, plan, representation
from jaxgame.report.figures.style import save
from jaxgame.report.text import interval, provenance, uncertainty
from jaxgame.study import FLOOR

if TYPE_CHECKING:
    from jaxgame.study import Study

FIGURES = {
    "representation": representation.draw,
    "exclusion": exclusion.draw,
    "map": groups.draw,
    "convergence": convergence.draw,
}


def draw_all(study: Study, folder: Path) -> dict[str, str]:
    """Write every figure as PNG and SVG into the folder; name -> title."""
    figures = {name: save(draw(study), folder, name) for name, draw in FIGURES.items()}
    if study.plan is not None:
        figures["plan"] = save(_plan(study), folder, "plan")
    return figures


def _plan(study: Study) -> Figure:
    assert study.plan is not None and study.draws.after is not None
    title = f"One change of everyone's appeal brings every group to {FLOOR:.0%} of its share"
    if not study.plan.success:
        title = f"No change was found that brings every group to {FLOOR:.0%} of its share"
    note = f"{uncertainty(study)} {provenance(study)}"
    return plan.draw(study.plan, study.survey.groups, title, note, interval(study.draws.after))
