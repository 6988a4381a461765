"""What the experiment says on the terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxgame.alignment.experiment import Alignment
from jaxgame.alignment.report import headline, provenance
from jaxgame.alignment.verdict import checks


def show_alignment(console: Console, alignment: Alignment, out: Path, seconds: float) -> None:
    """Prediction and text side by side, and which promises were kept."""
    console.print(Text(headline(alignment), "bold"))
    console.print(Text(provenance(alignment), "dim"))
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("representation of")
    for title in ("people %", "predicted %", "in the text %", "predicted after %", "in the text after %"):
        table.add_column(title, justify="right")
    for d, group in enumerate(alignment.survey.groups):
        row = [group, f"{100 * float(alignment.survey.shares[d]):.1f}"]
        for one in (alignment.before, alignment.after):
            error = 100 * float(one.shown.estimate.standard_errors[d])
            row += [f"{100 * one.representation[d]:.1f}"]
            row += [f"{100 * float(one.shown.estimate.weights[d]):.1f} ± {error:.1f}"]
        table.add_row(*(Text(cell, "bold red" if alignment.before.excluded[d] else "") for cell in row))
    console.print(table)
    found = checks(alignment)
    broken = [check for check in found if check.scored and not check.holds]
    for check in broken:
        console.print(Text(f"Not kept: {check.what}: {check.value:.4g}, limit {check.limit:.4g}.", "bold red"))
    if not found[0].scored:
        console.print(Text("Groups that text can hardly tell apart: errors are reported, and not scored.", "dim"))
    elif not broken:
        console.print(Text(f"All {len(found)} promises were kept."))
    tv = {way: np.max(one.fidelity.total_variation) for way, one in alignment.after.realised.items()}
    words = ", ".join(f"{way} {value:.4f}" for way, value in tv.items())
    console.print(Text(f"Total variation of single models to their mixtures, at most: {words}."))
    console.print(Text(f"{seconds:.0f} s. report.md, report.json and the figure are in {out}"))
