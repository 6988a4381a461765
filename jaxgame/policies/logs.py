"""Logs of responses: who said what, to which prompt, and how much it engaged.

A file has one response a row, in one of two formats, UTF-8:

* `.jsonl`: one JSON object a line;  * `.csv`: commas, with a header.

    prompt      text, what was asked (required; "" where everything answers the same)
    response    text, what was said (required)
    agent       text: the agent that said it; left out for the reference responses of a group
    group       text: the group that it is known to come from; left out where that is to be found out
    engagement  number: how much the audience did with it (clicks, seconds, a rating …)

Each row needs an agent, a group, or both. Other columns are ignored.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

TEXTS = ("prompt", "response", "agent", "group")


@dataclass(frozen=True, eq=False)
class Log:
    """N responses: arrays (N,) of texts, "" where there is none, and engagement (N,), NaN where there is none."""

    prompt: np.ndarray
    response: np.ndarray
    agent: np.ndarray
    group: np.ndarray
    engagement: np.ndarray
    name: str = "log"

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Log:
        """From a `.jsonl` or `.csv` file. ValueError names the file, the line and what is wrong with it."""
        path = Path(path)
        if path.suffix.lower() not in (".jsonl", ".csv"):
            raise ValueError(f"{path.name}: expected a file that ends in .jsonl or .csv")
        rows = _json_lines(path) if path.suffix.lower() == ".jsonl" else _csv_lines(path)
        return _gathered(((f"{path.name}, line {line}", row) for line, row in rows), path.name)

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]], name: str = "records") -> Log:
        """From dicts with the entries of a row. ValueError names the record that is wrong."""
        return _gathered(((f"{name}[{k}]", record) for k, record in enumerate(records)), name)

    def __len__(self) -> int:
        return len(self.prompt)


def interview(
    models: Any,
    prompts: Mapping[str, Any],
    *,
    groups: Iterable[str],
    responses: int,
    length: int,
    seed: int = 0,
    decode: Any = None,
) -> Log:
    """What group models answer, as reference responses for `measure`.

    models: D of them, see `LanguageModel`. prompts: name -> tokens (P,). groups: D names. responses: of each model to
    each prompt, of `length` new tokens. decode: tokens (length,) -> text, default the tokens themselves.
    """
    from jaxgame.policies.mixture import MixturePolicy

    names, key, records = list(groups), jax.random.key(seed), []
    if len(names) != len(models):
        raise ValueError(f"groups has {len(names)} names, expected {len(models)}, one a model")
    for prompt, tokens in prompts.items():
        for group, model in zip(names, models, strict=True):
            key, use = jax.random.split(key)
            for said in np.asarray(MixturePolicy([model], np.ones(1)).sample(use, length, responses, prompt=tokens)):
                text = " ".join(map(str, said)) if decode is None else decode(said)
                records.append(dict(prompt=prompt, response=text, group=group))
    return Log.of(records, "interview")


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    for line, text in _text_lines(path):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:  # a number of too many digits is a ValueError alone
            raise ValueError(f"{path.name}, line {line}: not JSON ({error})") from None
        yield line, row


def _csv_lines(path: Path) -> Iterator[tuple[int, Any]]:
    last = 1  # line that was read; csv counts those that it has understood

    def texts() -> Iterator[str]:
        nonlocal last
        for line, text in _text_lines(path):
            last = line
            yield text

    rows = csv.DictReader(texts(), strict=True)
    try:
        missing = {"prompt", "response"} - set(rows.fieldnames or ())
        if missing:
            raise ValueError(f"{path.name}, line 1: the header lacks the column {sorted(missing)[0]!r}")
        for row in rows:
            if None in row or None in row.values():
                raise ValueError(f"{path.name}, line {rows.line_num}: not as many cells as the header")
            yield (
                rows.line_num,
                {name: cell for name, cell in row.items() if cell or name in ("prompt", "response")},
            )
    except csv.Error as error:
        raise ValueError(f"{path.name}, line {last}: not CSV ({error})") from None


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers from 1, ends and all; a byte order mark is left out."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        for line, text in enumerate(file, 1):
            try:
                text.encode()
            except UnicodeEncodeError as error:  # a byte that could not be read, kept as half a pair
                byte = ord(text[error.start]) - 0xDC00
                raise ValueError(f"{path.name}, line {line}: not UTF-8 (byte 0x{byte:02x})") from None
            yield line, text


def _gathered(rows: Iterable[tuple[str, Any]], name: str) -> Log:
    columns: dict[str, list[Any]] = {column: [] for column in (*TEXTS, "engagement")}
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise ValueError(f"{where}: expected an object with a prompt and a response, got {type(row).__name__}")
        for column in TEXTS:
            value = row.get(column)
            if value is None and column in ("prompt", "response"):
                raise ValueError(f"{where}: {column!r} is missing")
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{where}: {column!r} is {value!r}, expected a text")
            columns[column].append(value or "")
        if not (row.get("agent") or row.get("group")):
            raise ValueError(f"{where}: has neither an agent nor a group, expected one or both")
        columns["engagement"].append(_engagement(where, row.get("engagement")))
    if not columns["prompt"]:
        raise ValueError(f"{name}: has no responses")
    texts = {column: np.asarray(columns[column], object) for column in TEXTS}
    return Log(**texts, engagement=np.asarray(columns["engagement"], np.float64), name=name)


def _engagement(where: str, value: Any) -> float:
    if value is None:
        return math.nan
    try:
        number = float(value) if not isinstance(value, bool) else math.inf
    except (TypeError, ValueError, OverflowError):
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{where}: 'engagement' is {value!r}, expected a finite number")
    return number
