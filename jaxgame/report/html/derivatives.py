"""What a small change of each lever does to every group, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxgame.report.html.elements import Part, Table
from jaxgame.steering.sensitivity import STEP, Sensitivity


def derivatives(found: Sensitivity, levers: Mapping[str, tuple[Any, Any]], groups: Sequence[str]) -> list[Part]:
    """levers: name -> derivatives (D,) of the representation, and of the distance to entry, as `found` has them."""
    out = np.asarray(found.excluded)
    rows = []
    for name, (moved, nearer) in levers.items():
        cells = zip(out, np.asarray(moved), np.asarray(nearer), strict=True)
        rows.append([name, *(f"[{STEP * n:+.2g}]" if gone else f"{100 * STEP * m:+.3g}" for gone, m, n in cells)])
    words = f"By how many percentage points each group's representation moves if a level grows by {STEP:g}."
    if out.any():
        words += (
            " A group that is excluded does not move; in brackets, by how much it comes nearer to entry, in utility "
            "per unit of mixture."
        )
    caption = f"Change of representation, in points, per {STEP:g} of a level"
    return [words, Table(caption, ["level", *groups], rows)]


def by_group(moved: Any, nearer: Any, names: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """The levers of an array with a number a group, from derivatives (D, D); names: of the levers."""
    moved, nearer = np.asarray(moved), np.asarray(nearer)
    return {name: (moved[:, d], nearer[:, d]) for d, name in enumerate(names)}
