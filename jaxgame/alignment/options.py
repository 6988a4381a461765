"""Options of the experiment, and the groups it pools where it is asked to."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jaxgame.surveys import Survey

# Neighbouring groups say nearly the same, and no text of reasonable length tells them apart: taken together, it does.
POOLS: dict[str, dict[str, tuple[str, ...]]] = {
    "gss2018-ideology": {
        "liberal": ("extremely liberal", "liberal", "slightly liberal"),
        "moderate": ("moderate",),
        "conservative": ("slightly conservative", "conservative", "extremely conservative"),
    },
    "gss2018-ideology-age": {
        "liberal": ("liberal, 18-34", "liberal, 35-54", "liberal, 55+"),
        "moderate": ("moderate, 18-34", "moderate, 35-54", "moderate, 55+"),
        "conservative": ("conservative, 18-34", "conservative, 35-54", "conservative, 55+"),
    },
    **{
        name: {
            "Democrat": ("strong Democrat", "weak Democrat"),
            "independent": ("independent, near Democrat", "independent", "independent, near Republican"),
            "Republican": ("weak Republican", "strong Republican"),
        }
        for name in ("gss2018-party", "anes1996-party")
    },
}


class AlignOptions(BaseModel):
    """What the experiment does. The same names are flags of `jaxgame align`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    survey: str = "gss2018-ideology"
    groups: Literal["pooled", "all"] = "pooled"
    agents: int = Field(default=3, ge=1, le=100)
    attractiveness: float | None = Field(default=None, ge=0)  # None: 1.1 × the least at which a group is excluded
    consistency: float = Field(default=1.0, gt=0)
    diversity: float = 0.1
    lean: float = Field(default=0.3, ge=0, lt=1)
    floor: float = Field(default=0.5, ge=0, le=1)  # of its share: what the plan brings every group to
    model: Literal["flax", "smollm2"] = "flax"
    steps: int | None = Field(default=None, ge=1)  # of training the group models; None: 1200, smollm2 60
    student_steps: int = Field(default=600, ge=1)
    responses: int = Field(default=40_000, ge=100)  # at most, an agent
    answers: int = Field(default=60_000, ge=100)  # to single questions, an agent and model
    standard_error: float = Field(default=0.009, gt=0)  # of a weight, for which responses are drawn
    seed: int = Field(default=0, ge=0, lt=2**32)


def align_options(flags: dict[str, Any]) -> AlignOptions:
    """Defaults, overridden by the flags that were given (not None). ValueError, one line."""
    try:
        return AlignOptions(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        expected = first["msg"].replace("Input should be", "expected")
        raise ValueError(
            f"--{str(first['loc'][0]).replace('_', '-')} is {first['input']!r}, {expected[0].lower()}{expected[1:]}"
        ) from None


def people(options: AlignOptions) -> Survey:
    """The survey, pooled if it is asked for. ValueError where it is not known how."""
    from jaxgame.surveys import load
    from jaxgame.surveys.pooling import pooled

    survey = load(options.survey)
    if options.groups == "all":
        return survey
    if (pool := POOLS.get(survey.name)) is None:
        raise ValueError(f"it is not known how to pool the groups of {survey.name}; use --groups all")
    return pooled(survey, pool)
