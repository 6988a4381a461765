"""report.html of the experiment: what was predicted, what the text says, and what the plan changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxgame.alignment.verdict import checks
from jaxgame.report.figures.style import BLUE, GREY, VERMILLION
from jaxgame.report.html import charts
from jaxgame.report.html.elements import Figure, Part, Section, Table, Verbatim
from jaxgame.report.html.methods import certificates, closing
from jaxgame.report.html.page import write
from jaxgame.report.html.plan_page import before_and_after, guidance
from jaxgame.report.text import listed, percent
from jaxgame.report.write import version

if TYPE_CHECKING:
    from jaxgame.alignment.experiment import Alignment, Round


def write_page(alignment: Alignment, title: str, note: str, path: Path) -> None:
    """The page of an experiment."""
    groups = alignment.survey.groups
    sections = [
        Section("Promises", [_promises(alignment)]),
        Section("As it is", _round("before", groups, alignment.before)),
        Section("The plan", [*guidance(alignment.plan, groups), before_and_after(alignment.plan, groups)]),
        Section("After the plan", _round("after", groups, alignment.after)),
        Section("Group models against the survey", [_quality(alignment)]),
        Section("Samples", _samples(alignment)),
        certificates(
            alignment.after.equilibrium, alignment.plan.certificate, "Certificates of the population after the plan"
        ),
        *closing(
            version(),
            [
                "A language model was taught the answers of each group; mixtures speak as the equilibrium says.",
                "Weights are read back from the text alone, by maximum likelihood under the group models; intervals "
                "are those of the estimate, and the Fisher bound is the least error that so much text allows.",
            ],
        ),
    ]
    write(path, title, sections, lead=alignment.plan.message, source=note)


def _promises(alignment: Alignment) -> Table:
    found = checks(alignment)
    rows = [
        (one.what, one.value, one.limit, ("yes" if one.holds else "no") if one.scored else "not scored")
        for one in found
    ]
    broken = [one.scored and not one.holds for one in found]
    return Table("What the text had to keep to", ("what", "measured", "limit", "kept"), rows, broken)


def _round(name: str, groups: tuple[str, ...], one: Round) -> list[Part]:
    shown, out = one.shown.estimate, np.asarray(one.excluded)
    predicted = np.asarray(one.representation, float)
    told, ends = np.asarray(shown.weights, float), (np.asarray(shown.lower, float), np.asarray(shown.upper, float))
    series = [
        charts.Series("predicted", np.where(out, np.nan, predicted), "circle-open", GREY, offset=-0.12),
        charts.Series("in the text", told, "circle", BLUE, interval=ends, offset=0.12),
    ]
    if out.any():
        series.append(charts.Series("excluded", np.where(out, predicted, np.nan), "x", VERMILLION, offset=-0.12))
    words = listed(
        [
            f"{group}: {'excluded' if gone else f'predicted {percent(float(a))}'}, in the text {percent(float(b))}"
            for group, gone, a, b in zip(groups, out, predicted, told, strict=True)
        ]
    )
    table = Table(
        "Representation", ("group", "predicted", "in the text", "95 %"),
        [(group, f"{a:.4f}", f"{b:.4f}", f"{low:.4f}–{high:.4f}")
         for group, a, b, low, high in zip(groups, predicted, told, *ends, strict=True)], out.tolist(),
    )  # fmt: skip
    figure = Figure(
        f"{name}-text", "Representation, predicted and in the text.", f"{words}.", charts.shares(groups, series),
        "Bars: 95 % intervals of what the text of all agents says.", table,
    )  # fmt: skip
    return [figure, _agents(groups, one)]


def _agents(groups: tuple[str, ...], one: Round) -> Table:
    titles = ["agent and group", "predicted", "in the text", "standard error", "Fisher bound"]
    titles += [f"{way} model" for way in one.realised]
    rows = []
    for i, reading in enumerate(one.mixtures):
        estimate = reading.estimate
        for d, group in enumerate(groups):
            numbers = [one.weights[i, d], estimate.weights[d], estimate.standard_errors[d], reading.bound[d]]
            numbers += [realised.readings[i].estimate.weights[d] for realised in one.realised.values()]
            rows.append((f"{i + 1}, {group}", *(f"{float(x):.4f}" for x in numbers)))
    return Table("Mixtures of the agents", titles, rows)


def _quality(alignment: Alignment) -> Table:
    q, h = alignment.quality, alignment.held_out
    titles = ("group", "model", "uniform", "everyone's mean", "held out: model", "uniform", "everyone's mean")
    columns = (q.models, q.uniform, q.group_mean, h.models, h.uniform, h.group_mean)
    rows = [
        (group, *(f"{float(column[d]):.3f}" for column in columns)) for d, group in enumerate(alignment.survey.groups)
    ]
    return Table("Mean total variation of the answers; held out: questions of a second training", titles, rows)


def _samples(alignment: Alignment) -> list[Part]:
    parts: list[Part] = []
    for name, one in (("as it is", alignment.before), ("after the plan", alignment.after)):
        for i, reading in enumerate(one.mixtures):
            parts += [f"Agent {i + 1}, {name}:", Verbatim("\n\n".join(str(text) for text in reading.examples[:2]))]
    return parts
