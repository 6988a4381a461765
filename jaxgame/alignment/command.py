"""`jaxgame align` on the command line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from jaxgame.alignment.options import AlignOptions
from jaxgame.shell import FAILED, bad_input, console, prepare_jax, progress


def _option(about: str, of: str) -> Any:
    default = AlignOptions.model_fields[of].default
    return typer.Option(help=about if default is None else f"{about} (default {default})")


def _work(work: Path | None, out: Path) -> Path:
    return out / "work" if work is None else work


def align(
    survey: Annotated[str | None, _option("A name from `jaxgame surveys`, or a .json file", "survey")] = None,
    groups: Annotated[str | None, _option("pooled to three, or all", "groups")] = None,
    agents: Annotated[int | None, _option("How many agents", "agents")] = None,
    attractiveness: Annotated[
        float | None, _option("α ≥ 0; default just beyond where a group is excluded", "attractiveness")
    ] = None,
    consistency: Annotated[float | None, _option("γ > 0", "consistency")] = None,
    diversity: Annotated[float | None, _option("δ", "diversity")] = None,
    lean: Annotated[float | None, _option("How far agents after the first lean to one group each", "lean")] = None,
    floor: Annotated[float | None, _option("What the plan brings every group to, of its share", "floor")] = None,
    model: Annotated[str | None, _option("flax, or smollm2: a real language model with adapters", "model")] = None,
    steps: Annotated[int | None, _option("Of training the group models (1200; smollm2 60)", "steps")] = None,
    student_steps: Annotated[int | None, _option("Of training each agent's model", "student_steps")] = None,
    responses: Annotated[int | None, _option("Most responses to all questions, an agent", "responses")] = None,
    answers: Annotated[int | None, _option("Answers to single questions, an agent's model", "answers")] = None,
    standard_error: Annotated[
        float | None, _option("Of a weight, for which responses are drawn", "standard_error")
    ] = None,
    seed: Annotated[int | None, _option("Of everything that is drawn", "seed")] = None,
    work: Annotated[Path | None, typer.Option(help="Where unfinished work is kept (default OUT/work)")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write to (default results/align)")] = None,
) -> None:
    """From a survey to language models that play the equilibrium, and from their text back to the prediction."""
    flags = {name: value for name, value in locals().items() if name in AlignOptions.model_fields}
    started = time.perf_counter()
    prepare_jax()
    from jaxgame.alignment.experiment import run
    from jaxgame.alignment.options import align_options, people
    from jaxgame.alignment.report import write_alignment
    from jaxgame.alignment.terminal import show_alignment
    from jaxgame.alignment.verdict import kept
    from jaxgame.report.files import staged

    folder = Path("results/align") if out is None else out
    with bad_input(ValueError, OSError):
        options = align_options(flags)
        if options.model == "smollm2":
            from jaxgame.alignment.smollm2 import command

            if not command(options, people(options), folder, _work(work, folder)):
                raise typer.Exit(FAILED)
            return
        with progress() as begin:
            done = run(options, people(options), _work(work, folder), begin)
        with staged(folder) as unfinished:
            write_alignment(done, unfinished, started)
    show_alignment(console(), done, folder, time.perf_counter() - started)
    if not kept(done):
        raise typer.Exit(FAILED)
