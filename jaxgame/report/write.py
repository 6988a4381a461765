"""What a study and a solve leave behind: report.html, report.json, profile.npz, survey.json and the figures.

report.json of a study, version 1. Numbers are those of the run's precision; null stands for ∞ (a group that never falls
out, a bound that does not exist).

    schema, version       "jaxgame.study", 1
    jaxgame, versions     of the package, and of Python, JAX and NumPy
    device, dtype, seed   where and how it was computed
    options               all of them; `reproduce` is the command that repeats the study from survey.json
    survey                name, title, source, note, weighted, people, questions, sha256 of survey.json
    findings              sentences, most important first
    equilibrium           converged, status, steps, evaluations, residual, gap, tol, message
    certificate           gap, exploitability, distance, monotonicity, lipschitz, unique, concave, message
    ratio                 attractiveness / consistency
    critical_ratios       of: "this population" or "all agents aligned to the population shares"; or missing: why
    groups                for each: people, share, representation, excluded, price_of_inclusion, critical_ratio, and for
                          each of these its interval over the posterior draws; excluded_in: the share of draws
    plan                  lever "common": success, message, cost, floor of each group's share, and for each group the
                          addition to everyone's appeal, representation after it with its interval over the draws, and
                          the share of draws in which it is at its floor; reached_in: in which all are; or missing: why
    indistinct            pairs of groups that the survey cannot tell apart
    draws                 number, interval (quantiles), unconverged, with_critical_ratios
    map                   positions of the groups, share of the variation on each axis
    solvers               for each: converged, evaluations, residual
    figures               file name -> title
    timings               seconds a stage; the only part that differs between two runs of one study
"""

from __future__ import annotations

import hashlib
import platform
import shlex
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxgame.report.files import write_json
from jaxgame.report.text import INTERVAL, findings, interval
from jaxgame.study import FLOOR

if TYPE_CHECKING:
    from jaxgame.certificate.certify import Certificate
    from jaxgame.config import StudyOptions
    from jaxgame.equilibrium import Equilibrium
    from jaxgame.maps import Boundaries, Sweep
    from jaxgame.report.groups import Map
    from jaxgame.steering.plan import Plan
    from jaxgame.streaming import Streamed
    from jaxgame.study import Study
    from jaxgame.surveys import Survey

VERSION = 1


def write_study(study: Study, folder: Path, started: float) -> None:
    """All files of a study, into a folder. started: `time.perf_counter()` at the beginning, for the timings."""
    from jaxgame.report.figures import draw_all  # matplotlib takes a second to import
    from jaxgame.report.html.study_page import write_page

    study.survey.to_json(folder / "survey.json")
    np.savez_compressed(folder / "profile.npz", **_arrays(study))
    begin = time.perf_counter()
    figures = draw_all(study, folder)
    write_page(study, folder / "report.html", version(), _command(study.options))
    end = time.perf_counter()
    timings = study.timings | {"figures": end - begin, "total": end - started}
    digest = hashlib.sha256((folder / "survey.json").read_bytes()).hexdigest()
    write_json(folder / "report.json", _report(study, digest, figures) | {"timings": timings})


def write_solution(
    game_file: Path, names: tuple[str, ...], found: Equilibrium, proof: Certificate, folder: Path
) -> None:
    """report.json ("jaxgame.solve", version 1) and profile.npz of a solved game."""
    np.savez_compressed(
        folder / "profile.npz",
        profile=found.profile,
        representation=found.representation,
        signed=found.signed,
        multipliers=found.multipliers,
        groups=np.array(names),
    )
    shown = np.asarray(found.representation)
    report = {
        "schema": "jaxgame.solve",
        **origin(str(shown.dtype)),
        "game": {
            "file": game_file.name,
            "sha256": hashlib.sha256(game_file.read_bytes()).hexdigest(),
            "agents": found.game.n_agents,
        },
        "equilibrium": _equilibrium(found),
        "certificate": _certificate(proof),
        "groups": [
            {"group": name, "representation": share, "largest_in_a_mixture": largest}
            for name, share, largest in zip(names, shown, np.asarray(found.profile).max(0), strict=True)
        ],
    }
    write_json(folder / "report.json", report)


def write_streamed(population: Path, found: Streamed, folder: Path) -> None:
    """report.json ("jaxgame.stream", version 1) of a population that was read in blocks."""
    stream = found.stream
    report = {
        "schema": "jaxgame.stream",
        **origin(str(stream.dtype)),
        "population": {"folder": population.name, "kind": stream.kind, "agents": stream.n_agents},
        "equilibrium": {
            name: getattr(found, name)
            for name in ("converged", "passes", "residual", "tol", "gap", "message", "history", "aggregate")
        },
        "groups": [
            {"group": name, "representation": share}
            for name, share in zip(stream.names, found.representation, strict=True)
        ],
    }
    write_json(folder / "report.json", report)


def write_plan(
    plan: Plan, names: tuple[str, ...], note: str, folder: Path, people: tuple[Map, Any] | None = None
) -> None:
    """report.json ("jaxgame.steer", version 1), report.html, plan.npz and the figures of a plan for floors.

    people: the map of the groups and their shares (D,), where they come from a survey.
    """
    from jaxgame.report.figures import moved
    from jaxgame.report.figures.plan import draw
    from jaxgame.report.figures.style import save
    from jaxgame.report.html.plan_page import write_page

    before, after = plan.before, plan.equilibrium
    np.savez_compressed(
        folder / "plan.npz",
        theta=plan.theta,
        floor=plan.details["floor"],
        groups=np.array(names),
        before=before.profile,
        profile=after.profile,
    )
    title = "What the plan does" if plan.success else "The plan falls short"
    save(draw(plan, names, title, note), folder, "plan")
    if people is not None:
        save(moved.draw(plan, names, *people, note), folder, "map")
    write_page(plan, names, note, folder / "report.html", version(), people)
    report = {
        "schema": "jaxgame.steer",
        **origin(str(after.profile.dtype)),
        "plan": {name: getattr(plan, name) for name in ("lever", "success", "message", "cost")},
        "details": {name: value for name, value in plan.details.items() if isinstance(value, bool | int | float | str)},
        "certificate": _certificate(plan.certificate),
        "groups": [
            {"group": name, "floor": least, "before": old, "after": new}
            for name, least, old, new in zip(
                names, plan.details["floor"], before.representation, after.representation, strict=True
            )
        ],
        "guidance": plan.guidance(names),
    }
    write_json(folder / "report.json", report)


def write_sweep(found: Sweep, edges: Boundaries | None, options: StudyOptions, survey: Survey, folder: Path) -> None:
    """report.json ("jaxgame.sweep", version 1), report.html and the figure of a sweep over one or two levels."""
    from jaxgame.report.figures.phase import draw
    from jaxgame.report.figures.style import save
    from jaxgame.report.html.sweep_page import write_page

    levels = ("attractiveness", "consistency", "diversity")
    fixed = {name: getattr(options, name) for name in levels if name not in found.axes}
    kept = ", ".join(f"{name} = {value:g}" for name, value in fixed.items())
    form = f"{options.diversity_form} diversity, {options.metric} metric"
    unlike = f", heterogeneity {options.heterogeneity:g}" if options.heterogeneity else ""
    note = f"{survey.source or survey.name}; {options.agents:,} agents{unlike}; {kept}; {form}."
    out = found.excluded.any(-1)
    share = f"{100 * np.asarray(out)[found.converged].mean():.0f} %" if found.converged.any() else "no part"
    title = f"Some group is left out in {share} of this map"
    if len(found.axes) == 1:
        title = f"Who is shown, by {next(iter(found.axes))}"
    one = fixed.get("consistency") == 1
    labels = {"attractiveness": "attractiveness, α/γ", "diversity": "diversity, δ/γ"} if one else {}
    save(draw(found, title, note, None if edges is None else edges.segments, labels), folder, "phase")
    write_page(found, edges, title, note, folder / "report.html", version())
    report = {
        "schema": "jaxgame.sweep",
        **origin(str(found.representation.dtype)),
        "options": options.model_dump(),
        "axes": {name: {"from": axis[0], "to": axis[-1], "points": len(axis)} for name, axis in found.axes.items()},
        "message": found.message,
        "points": found.status.size,
        "failed": (~found.converged).sum(),
        "not_proved_unique": (~found.unique).sum(),
        "tolerance": found.tolerance,
        "groups": [
            {"group": name, "excluded_in": found.excluded[..., d].sum() / max(found.converged.sum(), 1)}
            for d, name in enumerate(found.groups)
        ],
        "crossings": None
        if edges is None
        else {name: points for name, points in zip(found.groups, edges.crossings, strict=True)},
    }
    write_json(folder / "report.json", report)


def version() -> str:
    """Of the installed package."""
    try:
        return metadata.version("jaxgame")
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"


def origin(dtype: str) -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "version": VERSION,
        "jaxgame": version(),
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "numpy": np.__version__},
        "device": {"platform": device.platform, "kind": device.device_kind},
        "dtype": dtype,
    }


def _equilibrium(found: Equilibrium) -> dict[str, Any]:
    names = ("converged", "status", "steps", "evaluations", "residual", "gap", "tol")
    return {name: getattr(found, name) for name in names} | {"message": found.message}


def _certificate(proof: Certificate) -> dict[str, Any]:
    return {
        "gap": proof.gap.max(),
        "exploitability": proof.exploitability.max(),
        "distance": proof.distance,
        "monotonicity": proof.monotonicity,
        "lipschitz": proof.lipschitz,
        "unique": proof.unique,
        "concave": proof.concave,
        "message": proof.message,
    }


def _report(study: Study, digest: str, figures: dict[str, str]) -> dict[str, Any]:
    survey, draws, options = study.survey, study.draws, study.options
    of = "all agents aligned to the population shares" if options.heterogeneity else "this population"
    pairs = [[survey.groups[d], survey.groups[e]] for d, e in study.alike]
    valid = 0 if draws.critical is None else len(draws.critical)
    return {
        "schema": "jaxgame.study",
        **origin(options.precision),
        "seed": options.seed,
        "options": options.model_dump(),
        "reproduce": _command(options),
        "survey": {
            **{name: getattr(survey, name) for name in ("name", "title", "source", "note", "weighted")},
            "people": survey.people.sum(),
            "questions": len(survey.questions),
            "sha256": digest,
        },
        "findings": findings(study),
        "equilibrium": _equilibrium(study.equilibrium),
        "certificate": _certificate(study.certificate),
        "ratio": study.ratio,
        "critical_ratios": {"of": of} if study.critical is not None else {"missing": study.why_not_critical},
        "groups": _groups(study),
        "plan": _study_plan(study),
        "indistinct": pairs,
        "draws": {
            "number": options.draws,
            "interval": INTERVAL,
            "unconverged": draws.unconverged,
            "with_critical_ratios": valid,
        },
        "map": {
            "explained": study.map.explained,
            "positions": dict(zip(survey.groups, study.map.positions, strict=True)),
        },
        "solvers": [
            {
                "solver": curve.solver,
                "converged": curve.converged,
                "evaluations": round(float(curve.evaluations[-1])) if len(curve.evaluations) else 1,
                "residual": curve.residuals[-1] if len(curve.residuals) else study.equilibrium.residual,
            }
            for curve in study.curves
        ],
        "figures": {f"{name}{suffix}": title for name, title in figures.items() for suffix in (".png", ".svg")},
    }


def _study_plan(study: Study) -> dict[str, Any]:
    plan, draws = study.plan, study.draws
    if plan is None or draws.after is None:
        return {"missing": study.why_no_plan}
    reached, after = draws.reached, np.asarray(plan.equilibrium.representation)
    return {
        **{name: getattr(plan, name) for name in ("lever", "success", "message", "cost")},
        "floor": FLOOR,
        "reached_in": reached.all(1).mean(),
        "groups": [
            {
                "group": group,
                "addition": plan.theta[d],
                "representation": after[d],
                "representation_interval": np.array(interval(draws.after[:, d])),
                "reached_in": reached[:, d].mean(),
            }
            for d, group in enumerate(study.survey.groups)
        ],
    }


def _groups(study: Study) -> list[dict[str, Any]]:
    draws = study.draws
    columns: dict[str, tuple[Any, Any]] = {
        "share": (study.survey.shares, draws.shares),
        "representation": (study.equilibrium.representation, draws.representation),
        "price_of_inclusion": (study.price, draws.price),
    }
    if study.critical is not None:
        columns["critical_ratio"] = (study.critical, draws.critical)
    rows = [
        {"group": group, "people": people, "excluded": gone, "excluded_in": often}
        for group, people, gone, often in zip(
            study.survey.groups, study.survey.people, study.excluded, draws.excluded.mean(0), strict=True
        )
    ]
    for name, (values, drawn) in columns.items():
        for d, row in enumerate(rows):
            row[name] = np.asarray(values)[d]
            if drawn is not None:
                row[f"{name}_interval"] = np.array(interval(drawn[:, d]))
    return rows


def _command(options: StudyOptions) -> str:
    """The command that repeats the study from its own survey.json."""
    from_csv = {"group", "questions", "weight", "groups", "missing"}
    flags = options.model_dump(exclude=from_csv | {"survey"})
    words = ["jaxgame", "study", "--survey", "survey.json"]
    for name, value in flags.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _arrays(study: Study) -> dict[str, Any]:
    found, draws = study.equilibrium, study.draws
    arrays = dict(
        groups=np.array(study.survey.groups),
        profile=found.profile,
        representation=found.representation,
        signed=found.signed,
        multipliers=found.multipliers,
        shares=study.survey.shares,
        targets=study.game.targets,
        kernel=study.game.kernel,
        appeal=study.game.appeal,
        excluded=study.excluded,
        price_of_inclusion=study.price,
        map=study.map.positions,
        draws_shares=draws.shares,
        draws_representation=draws.representation,
        draws_excluded=draws.excluded,
        draws_price_of_inclusion=draws.price,
    )
    if study.critical is not None:
        arrays["critical_ratios"] = study.critical
    if study.plan is not None:
        arrays |= dict(
            plan_addition=study.plan.theta,
            plan_profile=study.plan.equilibrium.profile,
            draws_plan_representation=draws.after,
        )
    if draws.critical is not None:
        arrays["draws_critical_ratios"] = draws.critical
    for curve in study.curves:
        arrays[f"residuals_{curve.solver}"] = curve.residuals
        arrays[f"evaluations_{curve.solver}"] = curve.evaluations
    return arrays
