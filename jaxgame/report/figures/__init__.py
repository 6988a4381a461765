"""The figures of a study, a file each: `draw(study)` gives the figure, `TITLE` what it is about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jaxgame.report.figures import convergence, exclusion, groups, representation
from jaxgame.report.figures.style import save

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
    return {name: save(draw(study), folder, name) for name, draw in FIGURES.items()}
