"""`jaxgame …` on the command line.

Exit codes: 0 done; 1 not converged or not certified; 2 bad input, in one line on stderr; 130 interrupted.
Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from jaxgame import usage
from jaxgame.alignment.command import align
from jaxgame.config import StudyOptions
from jaxgame.shell import (
    BAD_INPUT,
    FAILED,
    INTERRUPTED,
    bad_input,
    complain,
    console,
    file_name,
    heed_interrupts,
    prepare_jax,
    progress,
    run_command,
)
from jaxgame.sweep_command import sweep


class _Group(TyperGroup):
    """Errors of usage in one line, like all others."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        standalone = kwargs.pop("standalone_mode", True)
        if not standalone:
            return super().main(*args, standalone_mode=False, **kwargs)
        try:
            code = super().main(*args, standalone_mode=False, **kwargs)
        except typer.TyperException as error:
            if message := error.format_message():  # empty where the help was shown for want of a command
                complain(message)
            code = BAD_INPUT
        except typer.Abort:
            code = INTERRUPTED
        if code == INTERRUPTED:
            complain("interrupted; no file is left half-written")
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Equilibria of populations of language models that choose which human groups to align with.",
    epilog="Start with [bold]jaxgame study[/bold]. `jaxgame COMMAND --help` explains a command.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from jaxgame.report.write import version

        typer.echo(f"jaxgame {version()}")
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


def _option(about: str, *, of: str | None = None) -> Any:
    """A flag with its help; `of`: the option whose default is shown."""
    return typer.Option(help=about if of is None else f"{about} (default {StudyOptions.model_fields[of].default})")


@app.command(epilog=usage.STUDY)
def study(
    survey: Annotated[
        str | None, _option("A name from `jaxgame surveys`, or a .json or .csv file", of="survey")
    ] = None,
    group: Annotated[str | None, _option("CSV: the column with each person's group")] = None,
    questions: Annotated[str | None, _option("CSV: columns with numeric answers, separated by commas")] = None,
    weight: Annotated[str | None, _option("CSV: the column with survey weights")] = None,
    attractiveness: Annotated[
        float | None, _option("α ≥ 0: weight of what the audience likes", of="attractiveness")
    ] = None,
    consistency: Annotated[
        float | None, _option("γ > 0: weight of what agents were aligned to", of="consistency")
    ] = None,
    diversity: Annotated[float | None, _option("δ: weight of being different from the others", of="diversity")] = None,
    diversity_form: Annotated[str | None, _option("pairwise or centroid", of="diversity_form")] = None,
    metric: Annotated[
        str | None, _option("Consistent in what is said (response) or in shares (mixture)", of="metric")
    ] = None,
    kernel: Annotated[str | None, _option("How alike groups are: gaussian or match", of="kernel")] = None,
    agents: Annotated[int | None, _option("How many agents", of="agents")] = None,
    heterogeneity: Annotated[
        float | None, _option("0: aligned to the population; to 1: to one group each", of="heterogeneity")
    ] = None,
    solver: Annotated[str | None, _option("auto, or a solver's name, as in GoldenRatio", of="solver")] = None,
    precision: Annotated[str | None, _option("float64 or float32", of="precision")] = None,
    seed: Annotated[int | None, _option("Of the draws and of heterogeneous targets", of="seed")] = None,
    draws: Annotated[int | None, _option("Posterior draws of the survey, for the intervals", of="draws")] = None,
    config: Annotated[Path | None, _option("A TOML file with these options")] = None,
    out: Annotated[Path | None, _option("The folder to write to (default results/ and the survey's name)")] = None,
) -> None:
    """From a survey to who is represented, who is left out, at which point and how surely: report and figures."""
    started = time.perf_counter()
    flags: dict[str, Any] = dict(
        survey=survey,
        group=group,
        questions=None if questions is None else [name.strip() for name in questions.split(",")],
        weight=weight,
        attractiveness=attractiveness,
        consistency=consistency,
        diversity=diversity,
        diversity_form=diversity_form,
        metric=metric,
        kernel=kernel,
        agents=agents,
        heterogeneity=heterogeneity,
        solver=solver,
        precision=precision,
        seed=seed,
        draws=draws,
    )
    prepare_jax()
    from jaxgame.config import study_options
    from jaxgame.report.files import staged
    from jaxgame.report.terminal import show_study
    from jaxgame.report.write import write_study
    from jaxgame.study import load_survey, run

    with bad_input(ValueError, OSError):
        options = study_options(config, flags)
        people = load_survey(options)
    folder = Path("results") / file_name(people.name) if out is None else out
    with bad_input(OSError), staged(folder) as unfinished, progress() as begin:
        done = run(options, people, begin)
        begin("drawing figures")
        write_study(done, unfinished, started)
    show_study(console(), done, folder, time.perf_counter() - started)
    if not done.certified:
        raise typer.Exit(FAILED)


@app.command(epilog=usage.SOLVE)
def solve(
    game: Annotated[Path, typer.Argument(help="A .toml or .npz file.")],
    out: Annotated[Path | None, typer.Option(help="Write report.json and profile.npz into this folder.")] = None,
    solver: Annotated[str, typer.Option(help="auto, or a solver's name, as in GoldenRatio.")] = "auto",
    limit: Annotated[int, typer.Option(help="Most bytes that the arrays of the file may take.", min=1)] = 1 << 30,
) -> None:
    """Solve a game of your own and prove the answer. Precision is that of the file's arrays."""
    prepare_jax()
    from jaxgame import gamefile, solvers
    from jaxgame.certificate.certify import certify
    from jaxgame.config import SOLVERS, suggestion
    from jaxgame.report.files import staged
    from jaxgame.report.terminal import show_solution
    from jaxgame.report.write import write_solution
    from jaxgame.solving import solve as find

    with bad_input(ValueError, OSError):
        if solver not in ("auto", *SOLVERS):
            raise ValueError(f"--solver is {solver!r}; {suggestion(solver, ('auto', *SOLVERS))}")
        chosen = None if solver == "auto" else getattr(solvers, solver)()
        loaded, names = gamefile.load(game, limit=limit)
        if (check := getattr(chosen, "check", None)) is not None:
            check(loaded)
    with bad_input(OSError), _nowhere() if out is None else staged(out) as unfinished, progress() as begin:
        begin(f"solving the game of {loaded.n_agents:,} agents")
        found = find(loaded, chosen)
        begin("certifying the equilibrium")
        proof = certify(loaded, found.profile)
        if unfinished is not None:
            write_solution(game, names, found, proof, unfinished)
    show_solution(console(), names, found, proof)
    if not (bool(found.converged) and float(found.gap) < float("inf")):
        raise typer.Exit(FAILED)


@app.command(epilog=usage.STREAM)
def stream(
    folder: Annotated[Path, typer.Argument(help="population.json and .npy files with a row an agent.")],
    out: Annotated[Path | None, typer.Option(help="Write report.json into this folder.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="With --out: profile.npy, all mixtures, too.")] = False,
    tol: Annotated[float | None, typer.Option(help="Residual (default 1e-6 in float32, 1e-10 in float64).")] = None,
    max_passes: Annotated[int, typer.Option(help="Most passes over all agents.", min=1)] = 50,
    block: Annotated[int | None, typer.Option(help="Agents read at a time (default 16 MiB of them).", min=1)] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Where it stands (default FOLDER/checkpoint).")] = None,
) -> None:
    """Solve a population larger than memory, from files that are read in blocks; resumed where it was stopped."""
    prepare_jax()
    from jaxgame.report.files import staged
    from jaxgame.report.terminal import show_streamed
    from jaxgame.report.write import write_streamed
    from jaxgame.streaming import open_stream, solve_stream

    with bad_input(ValueError, OSError):
        if profile and out is None:
            raise ValueError("--profile needs --out, the folder to write profile.npy to")
        population = open_stream(folder, block_agents=block)
        try:
            found = solve_stream(
                population,
                tol=tol,
                max_passes=max_passes,
                checkpoint=folder / "checkpoint" if checkpoint is None else checkpoint,
                progress=True,
            )
            heed_interrupts()
        except KeyboardInterrupt as stop:
            complain(str(stop) or "interrupted")
            raise typer.Exit(INTERRUPTED) from None
        if out is not None:
            with staged(out) as unfinished:
                write_streamed(folder, found, unfinished)
                if profile:
                    found.write_profile(unfinished / "profile.npy")
    show_streamed(console(), found)
    if not found.converged:
        raise typer.Exit(FAILED)


@app.command(epilog=usage.STEER)
def steer(
    lever: Annotated[str, typer.Option(help="price, common, appeal or targets")] = "common",
    share: Annotated[
        float | None, typer.Option(help="What every group gets at least, of its share of the people (default 0.5)")
    ] = None,
    minimise: Annotated[str, typer.Option(help="complementarity or norm; for price and common")] = "complementarity",
    survey: Annotated[
        str | None, _option("A name from `jaxgame surveys`, or a .json or .csv file", of="survey")
    ] = None,
    agents: Annotated[int | None, _option("How many agents", of="agents")] = None,
    attractiveness: Annotated[
        float | None, _option("α ≥ 0: weight of what the audience likes", of="attractiveness")
    ] = None,
    consistency: Annotated[
        float | None, _option("γ > 0: weight of what agents were aligned to", of="consistency")
    ] = None,
    diversity: Annotated[float | None, _option("δ: weight of being different from the others", of="diversity")] = None,
    config: Annotated[Path | None, _option("A TOML file with options of `jaxgame study`")] = None,
    game: Annotated[Path | None, _option("A game of your own, as for `jaxgame solve`, in place of a survey")] = None,
    floor: Annotated[float | None, _option("With --game: the least representation of every group")] = None,
    out: Annotated[Path | None, _option("Write report.html, report.json, plan.npz and a figure here")] = None,
) -> None:
    """The smallest change of a population that brings every group to a floor, with proof and in plain words."""
    population: dict[str, Any] = dict(
        survey=survey,
        agents=agents,
        attractiveness=attractiveness,
        consistency=consistency,
        diversity=diversity,
    )
    prepare_jax()
    from jaxgame import gamefile
    from jaxgame.config import study_options
    from jaxgame.report.files import staged
    from jaxgame.report.write import write_plan
    from jaxgame.steering.floor import steer_to_floor
    from jaxgame.study import game_of, load_survey, map_of

    with bad_input(ValueError, OSError):
        if game is None:
            if floor is not None:
                raise ValueError(
                    "--floor is for --game; with a survey, --share says how much of its share a group gets"
                )
            options = study_options(config, population)
            people = load_survey(options)
            players, names, source = game_of(options, people), people.groups, people.source or people.name
            least = (0.5 if share is None else share) * people.shares
            mapped: Any = map_of(options, people), people.shares
        else:
            if config is not None or any(value is not None for value in population.values()):
                raise ValueError("--game brings its own population: leave out --config, --survey and its options")
            if share is not None:
                raise ValueError("--share is for a survey; with --game, --floor is the least representation")
            if floor is None:
                raise ValueError("--game needs --floor, the least representation of every group")
            players, names = gamefile.load(game)
            least, source, mapped = floor, game.name, None
    with (
        bad_input(ValueError, OSError),
        _nowhere() if out is None else staged(out) as unfinished,
        progress() as begin,
    ):
        begin(f"looking for a plan for {players.n_agents:,} agents")
        plan = steer_to_floor(players, least, lever=lever, minimise=minimise)
        begin("putting it into words")
        words = plan.guidance(names)
        if unfinished is not None:
            note = f"{source}; {players.n_agents:,} agents, lever {lever}."
            write_plan(plan, names, note, unfinished, mapped)
    console().print(words, markup=False)
    if not plan.success:
        raise typer.Exit(FAILED)


app.command(epilog=usage.SWEEP)(sweep)
app.command(epilog=usage.ALIGN)(align)


@app.command()
def surveys() -> None:
    """List the surveys that come with the package."""
    from rich.table import Table
    from rich.text import Text

    from jaxgame.surveys import load, names

    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("name", "groups", "people", "questions", "about"):
        table.add_column(title, justify="right" if title in ("groups", "people", "questions") else "left")
    for name in names():
        one = load(name)
        about = f"{one.title}: {', '.join(one.groups)}. {one.source}."
        sizes = (len(one.groups), int(one.people.sum()), len(one.questions))
        table.add_row(name, *(f"{size:,}" for size in sizes), Text(about))
    console().print(table)


@contextmanager
def _nowhere() -> Iterator[None]:
    yield None


def command() -> None:
    """What the command `jaxgame` runs."""
    run_command(app)
