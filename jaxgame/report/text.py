"""The findings of a study in sentences: for the terminal, for figures, and for report.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxgame.report.groups import INDISTINCT
from jaxgame.steering.guidance import levers
from jaxgame.study import FLOOR

if TYPE_CHECKING:
    from jaxgame.study import Study

INTERVAL = (0.05, 0.95)  # of the posterior draws
FEW = 3  # names that fit into a title
LARGE = 1.1  # a group shown this much more than its share is named in the text


def interval(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The central 90 % of draws (leading axis); order statistics, so that ∞ is allowed."""
    low, high = np.quantile(draws, INTERVAL, axis=0, method="inverted_cdf")
    return low, high


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def number(x: float) -> str:
    """Three digits; never for ∞."""
    return "never" if math.isinf(x) else f"{x:.3g}"


def percent(x: float) -> str:
    """A share, with a digit more where it is small."""
    return f"{100 * x:.0f} %" if x >= 0.1 or x == 0 else f"{100 * x:.1f} %"


def left_out(study: Study) -> str:
    """The excluded groups: by name if they are few, else how many."""
    out = [study.survey.groups[d] for d in np.flatnonzero(study.excluded)]
    if not out:
        return "no group"
    return listed(out) if len(out) <= FEW else f"{len(out)} of {len(study.survey.groups)} groups"


def headline(study: Study) -> str:
    """Who is left out."""
    total, out = len(study.survey.groups), int(study.excluded.sum())
    if not out:
        return f"All {total} groups are represented"
    nobody = "No agent represents" if study.options.agents > 1 else "The agent does not represent"
    return f"{nobody} {out} of {total} groups" + (f": {left_out(study)}" if out <= FEW else "")


def findings(study: Study) -> list[str]:
    """What a person wants to know first, most important first."""
    sentences = [f"{headline(study)}.", _who_gains(study), *_why(study)]
    if study.alike:
        pairs = [f"{study.survey.groups[d]} from {study.survey.groups[e]}" for d, e in study.alike]
        if len(pairs) > FEW:
            pairs[FEW:] = [f"{len(pairs) - FEW} other pairs (report.json names them)"]
        sentences.append(
            f"The survey cannot tell {'; '.join(pairs)} (χ² test, p > {INDISTINCT:.0%}): where their fates differ, "
            "it is for their shares and sampling noise, not because they are known to think differently."
        )
    return [sentence for sentence in (*sentences, *remedy(study)) if sentence]


def _who_gains(study: Study) -> str:
    shares, shown = np.asarray(study.survey.shares), np.asarray(study.equilibrium.representation)
    most = int(np.argmax(shown - shares))
    if shown[most] < LARGE * shares[most]:
        return ""
    group = study.survey.groups[most]
    return f"{group}: {percent(shown[most])} of what is shown, {percent(shares[most])} of the people."


def _why(study: Study) -> list[str]:
    if study.critical is None:
        return [f"Critical ratios do not exist here: {study.why_not_critical}."]
    ratio, order = study.ratio, np.argsort(study.critical)

    def named(d: int) -> str:
        return f"{study.survey.groups[d]} at {number(critical[d])}{spread(study, d)}"

    critical = study.critical
    if study.options.heterogeneity:
        gone = [named(d) for d in order if critical[d] <= ratio]
        if not gone:
            return [
                f"Even if all agents were aligned to the population's shares, nobody would fall out before {ratio:.3g}."
            ]
        return [f"If all agents were aligned to the population's shares, groups would fall out: {listed(gone)}."]
    gone = [named(d) for d in order if study.excluded[d] and critical[d] <= ratio]
    near = [named(d) for d in order if not study.excluded[d] and ratio < critical[d] < math.inf]
    sentences = []
    if gone:
        past = f"Attractiveness over consistency is {ratio:.3g}; past its critical ratio a group is left out"
        sentences.append(f"{past}: {listed(gone)}.")
    if near:
        sentences.append(f"The next to fall out is {near[0]}.")
    return sentences


def remedy(study: Study) -> list[str]:
    """What brings every group to the study's floor, and what becomes of the others."""
    wish = f"every group to {FLOOR:.0%} of its share of the people"
    plan, groups = study.plan, study.survey.groups
    if plan is None:
        return [f"No plan to bring {wish}: {study.why_no_plan}."]
    changes = levers(plan, groups)
    if not plan.success:
        return [f"To bring {wish}: {plan.message}"]
    if not changes:
        return [f"Nothing is needed to bring {wish}."]
    named = [f"{change.change:+.3g} for {change.name}" for change in changes]
    before, after = (np.asarray(e.representation) for e in (plan.before, plan.equilibrium))
    loser = int(np.argmin(after - before))
    reached = study.draws.reached
    weakest = int(np.argmin(reached.mean(0)))
    return [
        f"One change of everyone's appeal brings {wish}: {listed(named)}. {groups[loser]} then goes from "
        f"{percent(before[loser])} to {percent(after[loser])} of what is shown.",
        f"Made for the estimates and kept on the posterior draws, it brings all groups there in "
        f"{percent(reached.all(1).mean())} of them; {groups[weakest]} least often, in "
        f"{percent(reached[:, weakest].mean())}.",
    ]


def spread(study: Study, d: int) -> str:
    """The interval of a group's critical ratio, in brackets."""
    if study.draws.critical is None:
        return ""
    low, high = (number(float(x)) for x in interval(study.draws.critical[:, d]))
    return "" if low == high == "never" else f" [{low}, {high}]"


def proof(study: Study) -> str:
    """What is certified."""
    gap, distance = float(study.equilibrium.gap), float(study.certificate.distance)
    parts = [
        f"no agent can gain more than {gap:.2g}"
        if math.isfinite(gap)
        else "NOT CERTIFIED: not all utilities are concave"
    ]
    if math.isfinite(distance):
        parts.append(f"the profile is within {distance:.2g} of the equilibrium")
    parts.append("which is the only one" if study.certificate.unique else "uniqueness is not proved")
    return ", ".join(parts)


def provenance(study: Study) -> str:
    """Source and options: what belongs under every figure."""
    o, survey = study.options, study.survey
    weighting = "weighted" if survey.weighted else "unweighted"
    people = f"{int(survey.people.sum()):,} people"
    settings = [
        f"{o.agents} agent{'' if o.agents == 1 else 's'}",
        f"α = {o.attractiveness:g}",
        f"γ = {o.consistency:g}",
        f"δ = {o.diversity:g} ({o.diversity_form})",
        f"{o.metric} metric",
        f"{o.kernel} kernel",
    ]
    if o.heterogeneity:
        settings.append(f"heterogeneity {o.heterogeneity:g}")
    if o.precision != "float64":
        settings.append(o.precision)
    source = survey.source or survey.name
    return f"{source}; {people}, {weighting}. {', '.join(settings)}; seed {o.seed}."


def uncertainty(study: Study) -> str:
    """What the intervals are."""
    return f"Bars: central 90 % of {study.options.draws} posterior draws of the survey."
