"""What a study and a solve say on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxgame.report.text import findings, interval, number, percent, proof, spread, uncertainty

if TYPE_CHECKING:
    from jaxgame.certificate.certify import Certificate
    from jaxgame.equilibrium import Equilibrium
    from jaxgame.maps import Sweep
    from jaxgame.streaming import Streamed
    from jaxgame.study import Study


def show_study(console: Console, study: Study, out: Path, seconds: float) -> None:
    """Who is represented and who is not, why, how sure that is, and where the rest is."""
    survey = study.survey
    weighting = "weighted" if survey.weighted else "unweighted"
    console.print(Text(survey.title or survey.name, "bold"))
    console.print(Text(f"{survey.source or survey.name}; {int(survey.people.sum()):,} people, {weighting}.", "dim"))
    console.print(_groups(study))
    for sentence in findings(study):
        console.print(Text(f"• {sentence}"), soft_wrap=False)
    console.print()
    bound = proof(study)
    console.print(Text(f"{bound[0].upper()}{bound[1:]}.", "" if study.certified else "bold red"))
    if not study.equilibrium.converged:
        console.print(Text(str(study.equilibrium.message), "bold red"))
    if study.draws.unconverged:
        console.print(Text(f"{study.draws.unconverged} of {study.options.draws} draws did not converge.", "bold red"))
    noise = "Draws add sampling noise to the answers, so they need not be centred on the estimates."
    console.print(Text(f"{uncertainty(study).replace('Bars', '90 %')} {noise}", "dim"))
    price = "of inclusion, the utility that a unit of an excluded group would have to gain."
    console.print(Text(f"Price: {price}", "dim"))
    console.print(Text(f"{seconds:.1f} s. report.html and the rest are in {out}"))


def _groups(study: Study) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("group", max_width=22)
    for title in ("people %", "shown %", "90 %"):
        table.add_column(title, justify="right")
    if study.critical is not None:
        table.add_column("out at α/γ" if study.options.heterogeneity == 0 else "if all were alike", justify="right")
        table.add_column("90 %", justify="right")
    table.add_column("price", justify="right")
    shares, shown = np.asarray(study.survey.shares), np.asarray(study.equilibrium.representation)
    low, high = interval(study.draws.representation)
    for d, group in enumerate(study.survey.groups):
        row = [group, _percent(shares[d]), _percent(shown[d]), f"{_percent(low[d])}–{_percent(high[d])}"]
        if study.excluded[d]:
            row[2:] = ["excluded", f"in {percent(study.draws.excluded[:, d].mean())}"]
        if study.critical is not None:
            row += [number(study.critical[d]), spread(study, d).strip(" []").replace(", ", "–")]
        row.append(number(study.price[d]) if study.excluded[d] else "")
        style = "bold red" if study.excluded[d] else ""
        table.add_row(*(Text(cell, style) for cell in row))
    return table


def _percent(share: float) -> str:
    return percent(float(share)).removesuffix(" %")


def show_solution(console: Console, names: tuple[str, ...], found: Equilibrium, certificate: Certificate) -> None:
    """The equilibrium of a game and its proof."""
    game = found.game
    console.print(Text(f"{type(game).__name__}: {game.n_agents:,} agents, {game.n_groups} groups", "bold"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("group")
    table.add_column("representation", justify="right")
    table.add_column("largest in a mixture", justify="right")
    largest = np.asarray(found.profile).max(0)
    for name, shown, most in zip(names, np.asarray(found.representation), largest, strict=True):
        style = "bold red" if most <= 0 else ""
        table.add_row(
            *(Text(cell, style) for cell in (name, f"{shown:.6f}", f"{most:.6f}" if most > 0 else "excluded"))
        )
    console.print(table)
    console.print(Text(str(found.message)))
    console.print(Text(certificate.message))


def show_streamed(console: Console, found: Streamed) -> None:
    """The equilibrium of a population that was read in blocks."""
    stream = found.stream
    console.print(Text(f"{stream.n_agents:,} agents ({stream.kind}), {stream.n_groups} groups", "bold"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("group")
    table.add_column("representation", justify="right")
    for name, shown in zip(stream.names, found.representation, strict=True):
        excluded = shown <= 0
        table.add_row(*(Text(cell, "bold red" if excluded else "") for cell in (name, f"{shown:.6f}")))
    console.print(table)
    console.print(Text(found.message))


def show_sweep(console: Console, found: Sweep, out: Path, seconds: float) -> None:
    """What a sweep found, and in how much of it each group is left out."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("group")
    for title in ("left out in", "shown, most"):
        table.add_column(title, justify="right")
    solved = found.excluded.reshape(-1, len(found.groups))[found.converged.reshape(-1)]
    for d, name in enumerate(found.groups):
        shown = found.representation[..., d]
        most = percent(float(np.nanmax(shown))) if len(solved) else ""
        table.add_row(Text(name), percent(float(solved[:, d].mean())) if len(solved) else "", most)
    console.print(table)
    console.print(Text(found.message))
    console.print(Text(f"{seconds:.1f} s. report.html, sweep.npz and the rest are in {out}"))
