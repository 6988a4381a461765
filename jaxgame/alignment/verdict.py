"""What the experiment promised, and whether the text keeps it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxgame.alignment.experiment import Alignment, Realised, Round

ERRORS, STANDARD_ERROR = 3.0, 0.01  # of weights estimated from text of the mixtures
WEIGHT, ANSWERS = 0.05, 0.015  # of single models: error of a weight, total variation of answers
EXCLUDED = 0.03  # upper end of the interval of a group that no agent represents


@dataclasses.dataclass(frozen=True)
class Check:
    """One promise: what was measured, and what it had to be. scored: whether it counts; on groups that text can hardly
    tell apart the numbers are reported, beside their bound, and nothing was promised.
    """

    what: str
    value: float
    limit: float
    holds: bool
    scored: bool


def checks(alignment: Alignment) -> list[Check]:
    """All of them."""
    scored = alignment.options.groups == "pooled"
    found: list[Check] = []

    def check(what: str, value: float, limit: float) -> None:
        found.append(Check(what, float(value), float(limit), bool(value <= limit), scored))

    for name, one in (("before", alignment.before), ("after", alignment.after)):
        check(f"{name}: largest error of a weight in text of the mixtures, standard errors", _errors(one), ERRORS)
        largest = np.max([np.max(reading.estimate.standard_errors) for reading in one.mixtures])
        check(f"{name}: largest standard error in text of the mixtures", largest, STANDARD_ERROR)
        for d in np.flatnonzero(one.excluded):
            group = alignment.survey.groups[d]
            lower, upper = float(one.shown.estimate.lower[d]), float(one.shown.estimate.upper[d])
            check(f"{name}: {group} is excluded; lower end of the 95 % interval of its representation", lower, 0.0)
            check(f"{name}: {group} is excluded; upper end", upper, EXCLUDED)
        for way, realised in one.realised.items():
            check(f"{name}: largest error of a weight in text of {way} models", _weight_error(one, realised), WEIGHT)
            distance = float(realised.fidelity.total_variation.max())
            check(f"{name}: largest total variation of the answers of {way} models", distance, ANSWERS)
    missing, error = _missing(alignment)
    what = "after: largest shortfall of a group's representation in the text from its floor, standard errors"
    check(what, missing / error, ERRORS)
    return found


def _errors(one: Round) -> float:
    weights = np.stack([np.asarray(reading.estimate.weights, float) for reading in one.mixtures])
    errors = np.stack([np.asarray(reading.estimate.standard_errors, float) for reading in one.mixtures])
    return float(np.max(np.abs(weights - one.weights) / errors))  # NaN if any is, and then no promise is kept


def _weight_error(one: Round, realised: Realised) -> float:
    estimated = np.stack([np.asarray(reading.estimate.weights) for reading in realised.readings])
    return float(np.abs(estimated - one.weights).max())


def _missing(alignment: Alignment) -> tuple[float, float]:
    """The largest shortfall from a floor, in units of its standard error, as (shortfall, standard error)."""
    shown = alignment.after.shown.estimate
    short = alignment.floor - np.asarray(shown.weights, float)
    errors = np.asarray(shown.standard_errors, float)
    d = int(np.argmax(short / errors))
    return float(np.maximum(short[d], 0.0)), float(errors[d])


def kept(alignment: Alignment) -> bool:
    """Whether every promise that counts was kept."""
    return all(check.holds for check in checks(alignment) if check.scored)
