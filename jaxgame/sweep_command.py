"""`jaxgame sweep`: phase diagrams of a survey's population from the command line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from jaxgame.shell import FAILED, INTERRUPTED, bad_input, complain, console, file_name, heed_interrupts, prepare_jax

AXES = ("attractiveness", "consistency", "diversity")
MOST = 10_000_000  # points of one axis


def sweep(
    x: Annotated[str, typer.Option(help="First axis: NAME=FROM:TO:POINTS")] = "attractiveness=0:1:100",
    y: Annotated[str | None, typer.Option(help="Second axis; without one, curves instead of a map")] = None,
    survey: Annotated[str | None, typer.Option(help="A name from `jaxgame surveys`, or a .json or .csv file")] = None,
    agents: Annotated[int | None, typer.Option(help="How many agents (default 100)")] = None,
    attractiveness: Annotated[float | None, typer.Option(help="α ≥ 0 where it is no axis")] = None,
    consistency: Annotated[float | None, typer.Option(help="γ > 0 where it is no axis")] = None,
    diversity: Annotated[float | None, typer.Option(help="δ where it is no axis")] = None,
    diversity_form: Annotated[str | None, typer.Option(help="pairwise or centroid")] = None,
    metric: Annotated[str | None, typer.Option(help="Consistent in what is said (response) or mixture")] = None,
    heterogeneity: Annotated[float | None, typer.Option(help="0: all aligned to the people; 1: to one group")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with options of `jaxgame study`")] = None,
    tolerance: Annotated[float, typer.Option(help="Largest share of a group that counts as left out", min=0)] = 0.0,
    starts: Annotated[int, typer.Option(help="Further starts where uniqueness is not proved", min=0)] = 3,
    out: Annotated[Path | None, typer.Option(help="The folder to write to (default results/sweep-SURVEY)")] = None,
) -> None:  # fmt: skip
    """Who is left out, over a grid of one or two levels: a phase diagram with its boundaries, every point certified."""
    started = time.perf_counter()
    given = {
        name: value
        for name, value in dict(
            survey=survey,
            agents=agents,
            attractiveness=attractiveness,
            consistency=consistency,
            diversity=diversity,
            diversity_form=diversity_form,
            metric=metric,
            heterogeneity=heterogeneity,
        ).items()
        if value is not None
    }
    prepare_jax()
    from jaxgame.config import study_options
    from jaxgame.maps import boundaries
    from jaxgame.maps import sweep as solve_grid
    from jaxgame.report.files import staged
    from jaxgame.report.terminal import show_sweep
    from jaxgame.report.write import write_sweep
    from jaxgame.study import game_of, load_survey

    with bad_input(ValueError, OSError):
        axes = dict(_axis("--x", x) for x in ([x] if y is None else [x, y]))
        if y is not None and len(axes) == 1:
            raise ValueError(f"--x and --y are both {next(iter(axes))}")
        if taken := sorted(set(axes) & set(given)):
            raise ValueError(f"--{taken[0]} is an axis: leave the option out")
        options = study_options(config, given)
        people = load_survey(options)
        base = game_of(options, people)
        for name, least in (("attractiveness", 0.0), ("consistency", 0.0)):
            if name in axes and axes[name][0] < least:
                raise ValueError(f"{name} begins at {axes[name][0]:g}, expected at least {least:g}")
        folder = Path("results") / f"sweep-{file_name(people.name)}" if out is None else out

        def build(**levels: Any) -> Any:
            return base.replace(**levels)

        try:
            found = solve_grid(
                build, axes, tolerance=tolerance, starts=starts, groups=people.groups, out=folder, progress=True
            )
            heed_interrupts()
        except KeyboardInterrupt:
            complain(f"interrupted; the same command goes on from what is in {folder}")
            raise typer.Exit(INTERRUPTED) from None
        edges = boundaries(build, found) if len(axes) == 2 else None
        with staged(folder) as unfinished:
            write_sweep(found, edges, options, people, unfinished)
    show_sweep(console(), found, folder, time.perf_counter() - started)
    if not found.converged.all():
        raise typer.Exit(FAILED)


def _axis(flag: str, text: str) -> tuple[str, np.ndarray]:
    """NAME=FROM:TO:POINTS as name and values. ValueError that says what was expected."""
    from jaxgame.config import suggestion

    name, _, levels = text.partition("=")
    parts = levels.split(":")
    try:
        low, high, count = float(parts[0]), float(parts[1]), int(parts[2])
        if len(parts) != 3:
            raise ValueError
    except (ValueError, IndexError):
        raise ValueError(f"{flag} is {text!r}, expected NAME=FROM:TO:POINTS, as in attractiveness=0:1:200") from None
    if name not in AXES:
        raise ValueError(f"{flag}: {name!r} is no axis; {suggestion(name, AXES)}")
    if not 2 <= count <= MOST:
        raise ValueError(f"{flag}: {name} has {count:,} points, expected 2 to {MOST:,}")
    return name, np.linspace(low, high, count)
