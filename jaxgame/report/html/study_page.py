"""The page of a study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxgame.report.figures.style import BLUE, GREY, ORANGE, PURPLE, VERMILLION
from jaxgame.report.html import charts
from jaxgame.report.html.derivatives import by_group, derivatives
from jaxgame.report.html.diagram import diagram
from jaxgame.report.html.elements import Figure, Items, Part, Section, Table
from jaxgame.report.html.methods import certificates, closing
from jaxgame.report.html.page import write
from jaxgame.report.html.plan_page import before_and_after, guidance
from jaxgame.report.text import findings, headline, interval, listed, number, percent, proof, provenance, spread
from jaxgame.study import FLOOR

if TYPE_CHECKING:
    from jaxgame.study import Study


def write_page(study: Study, path: Path, version: str, reproduce: str) -> None:
    """The page of a study; reproduce: the command that repeats it."""
    bound = proof(study)
    sections = [
        Section("Findings", [Items(findings(study)), f"{bound[0].upper()}{bound[1:]}."]),
        Section("Who is represented", _represented(study)),
        Section("Where groups and agents stand", [_map(study)]),
        Section("What would bring everyone in", _plan(study)),
        Section("At other levels", _phase(study)),
        Section("What a small change does", _sensitivity(study)),
        certificates(study.equilibrium, study.certificate),
        *closing(version, _how(study), reproduce),
    ]
    survey = study.survey
    write(path, survey.title or survey.name, sections, lead=f"{headline(study)}.", source=provenance(study))


def _represented(study: Study) -> list[Part]:
    groups, draws, out = study.survey.groups, study.draws, study.excluded
    people, shown = np.asarray(study.survey.shares, float), np.asarray(study.equilibrium.representation, float)
    ends, low_high = interval(draws.representation), interval(draws.shares)
    kept = np.where(out, np.nan, shown)
    series = [
        charts.Series("people", people, "circle-open", GREY, interval=low_high, offset=-0.16),
        charts.Series("shown", kept, "circle", BLUE, interval=ends, offset=0.16),
    ]
    if out.any():
        gone = np.where(out, shown, np.nan)
        series.append(charts.Series("excluded", gone, "x", VERMILLION, interval=ends, offset=0.16))
    words = "Of what is shown: " + listed(
        [
            f"{name} {'nothing' if gone else percent(float(part))} (of the people {percent(float(share))})"
            for name, gone, part, share in zip(groups, out, shown, people, strict=True)
        ]
    )
    caption = "Bars: central 90 % of posterior draws of the survey."
    figure = Figure("representation", "Representation beside population share.", f"{words}.",
                    charts.shares(groups, series), caption)  # fmt: skip
    return [figure, _groups(study)]


def _groups(study: Study) -> Table:
    draws, critical = study.draws, study.critical
    low, high = interval(draws.representation)
    titles = ["group", "people %", "shown %", "90 % of draws", "excluded in", "price of inclusion"]
    if critical is not None:
        titles += ["falls out at α/γ" if study.options.heterogeneity == 0 else "if all were alike, at α/γ", "90 %"]
    rows = []
    for d, group in enumerate(study.survey.groups):
        row = [
            group,
            f"{100 * float(study.survey.shares[d]):.2f}",
            "excluded" if study.excluded[d] else f"{100 * float(study.equilibrium.representation[d]):.2f}",
            f"{100 * low[d]:.2f}–{100 * high[d]:.2f}",
            f"{percent(float(draws.excluded[:, d].mean()))} of draws",
            float(study.price[d]) if study.excluded[d] else None,
        ]
        if critical is not None:
            row += [number(float(critical[d])), spread(study, d).strip(" []").replace(", ", "–")]
        rows.append(row)
    caption = (
        "Price of inclusion: the utility per unit of mixture that an excluded group would have to gain before any "
        "agent takes it up"
    )
    return Table(caption, titles, rows, study.excluded.tolist())


def _map(study: Study) -> Figure:
    groups, chart = study.survey.groups, study.map
    people, shown = np.asarray(study.survey.shares, float), np.asarray(study.equilibrium.representation, float)
    agents = [("what an agent says", np.asarray(study.equilibrium.profile, float) @ chart.positions, ORANGE)]
    if study.plan is not None:
        agents.append(("what an agent says under the plan", _after(study) @ chart.positions, PURPLE))
    first, second = chart.explained
    at = shown @ chart.positions
    centre = people @ chart.positions
    near = groups[int(np.argmin(np.linalg.norm(chart.positions - at, axis=1)))]
    out = [groups[d] for d in np.flatnonzero(study.excluded)]
    words = (
        f"Map of {len(groups)} groups by their answers, on two coordinates that hold {percent(float(first + second))} "
        f"of the variation. What is shown lies nearest to {near}, {np.linalg.norm(at - centre):.2g} from what the "
        f"people say; the groups are up to {np.ptp(chart.positions, axis=0).max():.2g} apart. "
        + (f"Left out: {listed(out)}." if out else "Nobody is left out.")
    )
    rows = [
        (name, float(x), float(y), f"{100 * a:.2f}", f"{100 * b:.2f}")
        for name, (x, y), a, b in zip(groups, chart.positions, people, shown, strict=True)
    ]
    table = Table("Where groups stand", ("group", "first", "second", "people %", "shown %"), rows)
    drawn = charts.groups_map(groups, chart.positions, chart.explained, people, shown, study.excluded, agents)
    caption = "What a mixture of groups says on average lies, exactly, at the mean of their places. Area: share."
    return Figure("map", "Groups by what they answer, and agents by what they say.", words, drawn, caption, table)


def _after(study: Study) -> np.ndarray:
    assert study.plan is not None
    return np.asarray(study.plan.equilibrium.profile, float)


def _plan(study: Study) -> list[Part]:
    plan = study.plan
    wish = f"every group to {FLOOR:.0%} of its share of the people"
    if plan is None or study.draws.after is None:
        return [f"No plan to bring {wish}: {study.why_no_plan}."]
    figure = before_and_after(plan, study.survey.groups, interval(study.draws.after))
    return [*guidance(plan, study.survey.groups), figure]


def _phase(study: Study) -> list[Part]:
    around, options = study.around, study.options
    if around.diagram is None:
        return [f"No diagram: {around.missing['diagram']}."]
    here = (
        f"The study is at attractiveness {options.attractiveness:g} and diversity {options.diversity:g}; consistency "
        f"is {options.consistency:g}."
    )
    if around.agents != options.agents:
        here += f" Agents who are all alike do what {around.agents} of them do, for which the diagram was solved."
    return [here, *diagram(around.diagram, around.edges, (options.attractiveness, options.diversity))]


def _sensitivity(study: Study) -> list[Part]:
    found = study.around.derivatives
    if found is None:
        return [f"No derivatives: {study.around.missing['derivatives']}."]
    shown, entry, groups = found.representation, found.entry, study.survey.groups
    levers = {name: (shown["levels"][name], entry["levels"][name]) for name in shown["levels"]}
    levers |= by_group(shown["appeal"], entry["appeal"], [f"appeal of {group}" for group in groups])
    return derivatives(found, levers, groups)


def _how(study: Study) -> list[str]:
    options = study.options
    curve = study.curves[0]
    return [
        f"Groups, shares and similarities are estimated from the survey; intervals come from {options.draws} draws of "
        "its posterior, each solved anew.",
        f"The equilibrium was found by {curve.solver} in {options.precision}; the certificates hold whatever found it.",
        "Critical ratios follow the equilibrium exactly, by homotopy, from α = 0 until each group falls out.",
        "The plan is the variational equilibrium under floors, its prices paid as one addition to everyone's appeal, "
        "and confirmed by a fresh solve.",
        "Derivatives are those of the equilibrium by the implicit function theorem on its active face.",
    ]
