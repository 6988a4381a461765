"""The page of a plan for floors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgame.exclusion import excluded, inclusion_price
from jaxgame.neighbourhood import LARGEST
from jaxgame.report.figures.style import BLACK, BLUE, GREY, ORANGE, PURPLE, VERMILLION
from jaxgame.report.groups import Map
from jaxgame.report.html import charts
from jaxgame.report.html.derivatives import by_group, derivatives
from jaxgame.report.html.elements import Figure, Items, Part, Section, Table
from jaxgame.report.html.methods import certificates, closing
from jaxgame.report.html.page import write
from jaxgame.report.text import listed, percent
from jaxgame.steering.guidance import WHAT, alone, costs, levers, said, verdict
from jaxgame.steering.plan import Plan
from jaxgame.steering.sensitivity import sensitivity

MOST = 20  # changes that are listed


def write_page(
    plan: Plan, groups: Sequence[str], note: str, path: Path, version: str, people: tuple[Map, Any] | None = None
) -> None:
    """The page of a plan. people: the map of the groups and their shares (D,), where they come from a survey."""
    sections = [
        Section("The plan", [*guidance(plan, groups), before_and_after(plan, groups)]),
        *([] if people is None else [Section("Where groups and agents stand", [_map(plan, groups, *people)])]),
        Section("What inclusion costs", [_prices(plan, groups)]),
        Section("What a small change of it does", _sensitivity(plan, groups)),
        certificates(plan.equilibrium, plan.certificate, "Certificates of the population after the change"),
        *closing(
            version,
            [
                "Prices of floors and common additions come from one variational equilibrium; changes of single agents "
                "from convex quadratic programs over supports.",
                "What stands here after the change is a fresh solve of the changed game, not what the plan hoped for.",
            ],
        ),
    ]
    title = "What the plan does" if plan.success else "The plan falls short"
    write(path, title, sections, lead=plan.message, source=note)


def guidance(plan: Plan, groups: Sequence[str]) -> list[Part]:
    """What `Plan.guidance` says, its changes as a table."""
    found = levers(plan, groups)
    sentences = [verdict(plan), *costs(plan, found), *alone(plan, found, groups)]
    if not found:
        return [Items([*sentences, "Nothing has to change." if plan.success else "The levers are as they were."])]
    rows = [(lever.name, said(lever, groups)) for lever in found[:MOST]]
    caption = WHAT[plan.lever] + (f" (the largest {MOST} of {len(found):,} changes)" if len(found) > MOST else "")
    return [Items(sentences), Table(caption, ("for", "change"), rows)]


def before_and_after(
    plan: Plan, groups: Sequence[str], interval: tuple[np.ndarray, np.ndarray] | None = None
) -> Figure:
    """Representation before and after, beside the floor. interval: of the latter, where it is uncertain."""
    before, after = (np.asarray(e.representation, float) for e in (plan.before, plan.equilibrium))
    floor = np.broadcast_to(np.asarray(plan.details["floor"], float), before.shape)
    out = np.asarray(excluded(plan.before.profile))
    series = [
        charts.Series("before", np.where(out, np.nan, before), "circle-open", GREY, offset=-0.1),
        charts.Series("after", after, "circle", BLUE, interval=interval, offset=0.1),
        charts.Series("floor", floor, "line-ns-open", BLACK, size=12),
    ]
    joined = [charts.Series("", before, "", GREY, offset=-0.1), series[1]]
    if out.any():
        series.append(charts.Series("was excluded", np.where(out, before, np.nan), "x", VERMILLION, offset=-0.1))
    chart = charts.shares(groups, series, (joined[0], joined[1]))
    words = listed(
        [
            f"{name} from {'nothing' if gone else percent(float(a))} to {percent(float(b))}"
            for name, gone, a, b in zip(groups, out, before, after, strict=True)
        ]
    )
    reached = (
        "Every group is at its floor after it." if (after >= floor - 1e-6).all() else "Not every floor is reached."
    )
    rows = [
        (name, f"{100 * a:.2f}", f"{100 * b:.2f}", f"{100 * c:.2f}", f"{100 * (b - a):+.2f}")
        for name, a, b, c in zip(groups, before, after, floor, strict=True)
    ]
    table = Table("Representation, in percent", ("group", "before", "after", "floor", "change"), rows, out.tolist())
    caption = (
        "" if interval is None else "Bars: central 90 % of posterior draws, under the plan made for the estimates."
    )
    return Figure(
        "plan", "Representation before and after.", f"The change takes {words}. {reached}", chart, caption, table
    )


def _map(plan: Plan, groups: Sequence[str], chart: Map, shares: Any) -> Figure:
    profiles: list[Any] = [np.asarray(e.profile, float) @ chart.positions for e in (plan.before, plan.equilibrium)]
    out = np.asarray(excluded(plan.before.profile))
    shown = np.asarray(plan.equilibrium.representation, float)
    agents = [
        ("what an agent says before", profiles[0], ORANGE),
        ("what an agent says after", profiles[1], PURPLE),
    ]
    still = np.asarray(excluded(plan.equilibrium.profile))
    people = np.asarray(shares, float)
    drawn = charts.groups_map(groups, chart.positions, chart.explained, people, shown, still, agents)
    way = float(np.linalg.norm(profiles[1].mean(0) - profiles[0].mean(0)))
    gone = [groups[d] for d in np.flatnonzero(out & ~still).tolist()]
    words = (
        f"Map of {len(groups)} groups by their answers. The change moves what agents say on average by {way:.2g}; the "
        f"groups are up to {np.ptp(chart.positions, axis=0).max():.2g} apart."
        + (f" It brings in {listed(gone)}." if gone else "")
    )
    rows = [(name, float(x), float(y)) for name, (x, y) in zip(groups, chart.positions, strict=True)]
    table = Table("Where groups stand", ("group", "first", "second"), rows)
    caption = "Blue: what is shown after the change. Area: share."
    return Figure("map", "Groups by what they answer, and agents by what they say.", words, drawn, caption, table)


def _sensitivity(plan: Plan, groups: Sequence[str]) -> list[Part]:
    """Of the plan's levers, where they are a number a group."""
    if plan.rebuild is None or np.shape(plan.theta) != (len(groups),):
        return ["Derivatives are listed for plans with one number a group; these change single agents."]
    if plan.equilibrium.game.n_agents * len(groups) > LARGEST:
        return [f"{plan.equilibrium.game.n_agents:,} agents are too many for every report: see jaxgame.sensitivity."]
    try:
        found = sensitivity(plan.rebuild, plan.theta)
    except ArithmeticError as error:
        return [f"No derivatives: {error}."]
    what = "price of" if plan.lever == "price" else "appeal of"
    levers = by_group(found.representation, found.entry, [f"{what} {group}" for group in groups])
    return derivatives(found, levers, groups)


def _prices(plan: Plan, groups: Sequence[str]) -> Table:
    before = np.asarray(inclusion_price(plan.before.game, plan.before), float)
    after = np.asarray(inclusion_price(plan.equilibrium.game, plan.equilibrium), float)
    rows = [(name, float(a), float(b)) for name, a, b in zip(groups, before, after, strict=True)]
    caption = (
        "Price of inclusion, before and after: the utility per unit of mixture that a group would have to gain before "
        "any agent takes it up; 0 where it is represented"
    )
    return Table(caption, ("group", "before", "after"), rows, (before > 0).tolist())
