"""What the experiment leaves behind: report.html, report.json, report.md with samples of the text, and the figure.

report.json ("jaxgame.align", version 1): options, versions, survey; quality of the group models, on held-out questions
too; for "before" and "after" the prediction (weights, representation, excluded), what the text says (weights, standard
errors, interval, Cramér–Rao bound, responses, message), and each way of making single models (fidelity at the start and
at the end, weights in the text, limit for endless text); the plan; checks; samples; seconds a stage.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxgame.alignment.verdict import checks
from jaxgame.report.files import write_json
from jaxgame.report.write import origin

if TYPE_CHECKING:
    from jaxgame.alignment.experiment import Alignment, Reading, Round
    from jaxgame.policies.groups import Quality


def write_alignment(alignment: Alignment, folder: Path, started: float) -> None:
    """All files, into a folder. started: `time.perf_counter()` at the beginning, for the timings."""
    from jaxgame.alignment.figure import draw
    from jaxgame.alignment.page import write_page
    from jaxgame.report.figures.style import save

    note = f"{alignment.survey.source}. Templated text; {provenance(alignment)}"
    save(draw(alignment, headline(alignment), note), folder, "text")
    write_page(alignment, headline(alignment), note, folder / "report.html")
    (folder / "report.md").write_text(markdown(alignment), encoding="utf-8")
    seconds = alignment.timings | {"total": time.perf_counter() - started}
    write_json(folder / "report.json", _report(alignment) | {"timings": seconds})


def headline(alignment: Alignment) -> str:
    """What happened, in one line."""
    out = [alignment.survey.groups[d] for d in np.flatnonzero(alignment.before.excluded)]
    if not out:
        return "No group is excluded, neither in the prediction nor in the plan"
    back = bool((~alignment.after.excluded[alignment.before.excluded]).all())
    return f"No agent's text speaks for {' or '.join(out)}; after the plan {'it does' if back else 'none does, either'}"


def provenance(alignment: Alignment) -> str:
    """How it was made."""
    options, game = alignment.options, alignment.before.game
    alpha = float(np.max(np.asarray(game.attractiveness)))
    levels = f"attractiveness {alpha:.3g}, consistency {options.consistency:g}, diversity {options.diversity:g}"
    return f"{len(alignment.before.weights)} agents, {levels}, seed {options.seed}."


def markdown(alignment: Alignment) -> str:
    """The report for people."""
    groups, q, h = alignment.survey.groups, alignment.quality, alignment.held_out
    lines = [f"# {headline(alignment)}", "", provenance(alignment), "", "## Promises", ""]
    lines += ["| what | measured | limit | kept |", "| --- | --- | --- | --- |"]
    for check in checks(alignment):
        kept = ("yes" if check.holds else "**no**") if check.scored else "not scored"
        lines.append(f"| {check.what} | {check.value:.4g} | {check.limit:.4g} | {kept} |")
    lines += ["", "## Group models against the survey (mean total variation of the answers)", ""]
    lines += ["| group | model | uniform answers | everyone's mean | held out: model | uniform | everyone's mean |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    for d, group in enumerate(groups):
        row = (q.models[d], q.uniform[d], q.group_mean[d], h.models[d], h.uniform[d], h.group_mean[d])
        lines.append(f"| {group} | " + " | ".join(f"{x:.3f}" for x in row) + " |")
    lines += ["", f"Distances between pairs of groups correlate {q.correlation:.3f} with the survey's. Held out were "]
    lines[-1] += f"{len(h.questions)} questions of a second training: there the models know nothing and say so badly."
    for name, one in (("As it is", alignment.before), ("After the plan", alignment.after)):
        lines += ["", f"## {name}", "", *_round(alignment, one)]
    lines += ["", "## Samples", ""]
    for name, one in (("as it is", alignment.before), ("after the plan", alignment.after)):
        for i, reading in enumerate(one.mixtures):
            lines += [f"Agent {i + 1}, {name}:", "", *(f"> {text}\n" for text in reading.examples[:2])]
    return "\n".join(lines) + "\n"


def _round(alignment: Alignment, one: Round) -> list[str]:
    groups = alignment.survey.groups
    lines = ["| agent | group | predicted | text of the mixture | standard error | Fisher bound |"]
    lines[0] += "".join(f" {way} model | its limit |" for way in one.realised)
    lines.append("| --- " * (6 + 2 * len(one.realised)) + "|")
    for i, reading in enumerate(one.mixtures):
        for d, group in enumerate(groups):
            estimate = reading.estimate
            row = [one.weights[i, d], estimate.weights[d], estimate.standard_errors[d], reading.bound[d]]
            for realised in one.realised.values():
                row += [realised.readings[i].estimate.weights[d], realised.limits[i, d]]
            lines.append(f"| {i + 1} | {group} | " + " | ".join(f"{float(x):.4f}" for x in row) + " |")
    lines.append("")
    for d, group in enumerate(groups):
        shown = one.shown.estimate
        interval = f"[{float(shown.lower[d]):.4f}, {float(shown.upper[d]):.4f}]"
        word = ", excluded" if one.excluded[d] else ""
        lines.append(f"* Representation of {group}: predicted {one.representation[d]:.4f}{word}; in the text ")
        lines[-1] += f"{float(shown.weights[d]):.4f}, 95 % {interval}."
    for way, realised in one.realised.items():
        tv = ", ".join(
            f"{a:.4f} → {b:.5f}"
            for a, b in zip(realised.start.total_variation, realised.fidelity.total_variation, strict=True)
        )
        lines.append(f"* {way} models, total variation of the answers to their mixtures, at the start and after: {tv}.")
    for i, reading in enumerate(one.mixtures):
        if len(reading.estimate.directions):
            lines.append(f"* Agent {i + 1}: {reading.estimate.message}")
    return lines


def _report(alignment: Alignment) -> dict[str, Any]:
    survey = alignment.survey
    return {
        "schema": "jaxgame.align",
        **origin("float32 models, " + str(survey.dtype) + " game"),
        "options": alignment.options.model_dump(),
        "survey": {"name": survey.name, "source": survey.source, "groups": survey.groups},
        "headline": headline(alignment),
        "quality": _quality(alignment.quality),
        "held_out": _quality(alignment.held_out),
        "before": _described(alignment.before),
        "plan": {
            "message": alignment.plan.message,
            "addition_to_appeal": alignment.plan.theta,
            "floor": alignment.floor,
            "cost": alignment.plan.cost,
        },
        "after": _described(alignment.after),
        "checks": [vars(check) for check in checks(alignment)],
    }


def _quality(one: Quality) -> dict[str, Any]:
    return dict(vars(one))


def _described(one: Round) -> dict[str, Any]:
    return {
        "attractiveness": one.game.attractiveness,
        "weights": one.weights,
        "representation": one.representation,
        "excluded": one.excluded,
        "equilibrium": one.equilibrium.message,
        "mixtures": [_read(reading) for reading in one.mixtures],
        "shown": _read(one.shown),
        "realised": {
            way: {
                "start": dict(vars(realised.start)),
                "fidelity": dict(vars(realised.fidelity)),
                "limits": realised.limits,
                "readings": [_read(reading) for reading in realised.readings],
            }
            for way, realised in one.realised.items()
        },
    }


def _read(reading: Reading) -> dict[str, Any]:
    names = ("weights", "standard_errors", "lower", "upper", "identified", "directions", "responses", "message")
    return {name: getattr(reading.estimate, name) for name in names} | {
        "bound": reading.bound,
        "examples": [str(text) for text in reading.examples],
    }
