"""Options of a study: their defaults, their limits, and a TOML file that sets them."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SOLVERS = (
    "ProjectedGradient",
    "Extragradient",
    "OptimisticGradient",
    "GoldenRatio",
    "MirrorProx",
    "AcceleratedGradient",
    "Newton",
    "AggregativeNewton",
)
FEWEST_DRAWS = 20


class StudyOptions(BaseModel):
    """What is studied. The same names are flags of `jaxgame study` and keys of its TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    survey: str = "gss2018-ideology"
    group: str | None = None
    questions: list[str] | dict[str, Any] | None = None
    weight: str | None = None
    groups: list[str | int | float] | None = None
    missing: list[str | int | float] | None = None
    agents: int = Field(default=100, ge=1, le=1_000_000)
    attractiveness: float = Field(default=0.5, ge=0)
    consistency: float = Field(default=1.0, gt=0)
    diversity: float = 0.1
    diversity_form: Literal["pairwise", "centroid"] = "pairwise"
    metric: Literal["response", "mixture"] = "response"
    kernel: Literal["gaussian", "match"] = "gaussian"
    heterogeneity: float = Field(default=0.0, ge=0, lt=1)
    solver: Literal["auto", *SOLVERS] = "auto"  # pyright: ignore[reportInvalidTypeForm]
    precision: Literal["float64", "float32"] = "float64"
    seed: int = Field(default=0, ge=0, lt=2**32)
    draws: int = Field(default=200, ge=FEWEST_DRAWS, le=100_000)


def study_options(config: Path | None, flags: dict[str, Any]) -> StudyOptions:
    """Defaults, overridden by the TOML file, overridden by the flags that were given (not None).

    Raises ValueError, one line, naming the option and what was expected; OSError where the file cannot be read.
    """
    given = {} if config is None else _read(config)
    origin = dict.fromkeys(given, f"{config}: ")
    flags = {name: value for name, value in flags.items() if value is not None}
    origin |= {name: "--" for name in flags}
    try:
        return StudyOptions(**(given | flags))
    except ValidationError as error:
        raise ValueError(_line(error, origin)) from None


def read_toml(path: Path) -> dict[str, Any]:
    """ValueError, one line, for a file that is not TOML; OSError for one that cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a TOML file ({error})") from None


def _read(path: Path) -> dict[str, Any]:
    data = {key.replace("-", "_"): value for key, value in read_toml(path).items()}
    for key in data:
        if key not in StudyOptions.model_fields:
            raise ValueError(f"{path}: unknown option {key!r}; {suggestion(key, StudyOptions.model_fields)}")
    return data


def suggestion(key: str, known: Any) -> str:
    """What was perhaps meant, or all there is."""
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


def _line(error: ValidationError, origin: dict[str, str]) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0])
    shown = origin.get(name, "") + (name.replace("_", "-") if origin.get(name) == "--" else name)
    message = first["msg"].replace("Input should be", "expected")
    return f"{shown} is {first['input']!r}, {message[0].lower()}{message[1:]}"
