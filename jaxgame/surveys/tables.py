"""Tables of counts, the form in which surveys are kept: embedded in the package or in a JSON file of the same format.

A file holds one object:

    name, groups (D texts), people (D respondents), questions; optionally title, source, note (texts),
    dropped_rows (respondents without a group, default 0), weighted (default false)
    a question: id, options (texts), counts (D rows of one number an option); optionally text, values (one number an
    option, or null where the options have no order)
    where weighted is true, counts are sums of weights and sample sizes have to be said:
    weights (D sums of weights) and effective (number of equally weighted people that tell as much) at the top,
    effective (D) and dropped (respondents without an answer) in each question
"""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

DEFAULT = "gss2018-ideology"
_LARGEST = 1e15  # whole numbers are exact as floats up to here, and sums of many cannot overflow
_DATA = resources.files("jaxgame.surveys") / "data"


@dataclass(frozen=True)
class Question:
    """One question: `counts` has a row a group and a column an option; `effective` holds each row's sample size."""

    id: str
    text: str
    options: tuple[str, ...]
    values: tuple[float, ...] | None
    counts: tuple[tuple[float, ...], ...]
    effective: tuple[float, ...]
    dropped: int


@dataclass(frozen=True)
class Table:
    """A survey's counts and description. Hashable, so that it can be static metadata of a pytree."""

    name: str
    title: str
    source: str
    note: str
    weighted: bool
    groups: tuple[str, ...]
    people: tuple[int, ...]
    weights: tuple[float, ...]
    effective: float
    dropped_rows: int
    questions: tuple[Question, ...]


def names() -> tuple[str, ...]:
    """Names of the surveys that come with the package."""
    return tuple(sorted(entry.name.removesuffix(".json") for entry in _DATA.iterdir() if entry.name.endswith(".json")))


def find(name: str | os.PathLike[str]) -> Table:
    """The embedded table of that name, or the file at a path that ends in `.json`.

    Raises ValueError for an unknown name or an invalid file, OSError for a file that cannot be read.
    """
    if os.fspath(name).endswith(".json"):
        return read(name)
    if name not in names():
        known = ", ".join(names())
        raise ValueError(f"no survey is named {name!r}; choose from {known}, or give a path that ends in .json")
    return parse(json.loads((_DATA / f"{name}.json").read_text(encoding="utf-8")), str(name))


def read(path: str | os.PathLike[str]) -> Table:
    """The table in a JSON file. Raises ValueError naming the file and the entry that is wrong."""
    where = os.fspath(path)
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 text (byte {error.start})") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where}: not a JSON file ({error})") from None
    return parse(data, where)


def write(table: Table, path: str | os.PathLike[str]) -> None:
    """Write the table as JSON, whole or not at all: to a temporary name, then renamed."""
    text = json.dumps(_plain(table), ensure_ascii=False, indent=1) + "\n"
    temporary = Path(f"{os.fspath(path)}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _plain(table: Table) -> dict[str, Any]:
    questions = []
    for question in table.questions:
        entry = {key: getattr(question, key) for key in ("id", "text", "options", "values", "counts")}
        if table.weighted:
            entry |= dict(effective=question.effective, dropped=question.dropped)
        questions.append(entry)
    keys = ["name", "title", "source", "note", "weighted", "groups", "people", "dropped_rows"]
    keys += ["weights", "effective"] if table.weighted else []
    return {key: getattr(table, key) for key in keys} | dict(questions=questions)


def parse(data: Any, where: str) -> Table:
    """The table that `data`, read from JSON, describes; ValueError naming `where`, the entry, and what was expected."""
    weighted = data.get("weighted", False) if isinstance(data, dict) else False
    if not isinstance(weighted, bool):
        _fail(f"{where}: weighted", weighted, "true or false")
    sizes = {"weights", "effective"} if weighted else set()
    optional = {"title", "source", "note", "weighted", "dropped_rows"}
    top = _object(where, data, {"name", "groups", "people", "questions"} | sizes, optional)
    groups = _texts(f"{where}: groups", top["groups"])
    people = _numbers(f"{where}: people", top["people"], len(groups), whole=True, positive=True)
    weights, effective = people, sum(people)
    if weighted:
        weights = _numbers(f"{where}: weights", top["weights"], len(groups), positive=True)
        effective = _number(f"{where}: effective", top["effective"], positive=True)
        _between(f"{where}: effective", effective, sum(people))
    if not isinstance(top["questions"], list) or not top["questions"]:
        _fail(f"{where}: questions", top["questions"], "a list of at least one question")
    questions = tuple(
        _question(f"{where}: questions[{k}]", entry, groups, people, weighted)
        for k, entry in enumerate(top["questions"])
    )
    ids = [question.id for question in questions]
    if repeated := [name for k, name in enumerate(ids) if name in ids[:k]]:
        raise ValueError(f"{where}: two questions have the id {repeated[0]!r}")
    return Table(
        name=_text(f"{where}: name", top["name"]),
        **{key: _text(f"{where}: {key}", top.get(key, ""), empty=True) for key in ("title", "source", "note")},
        weighted=weighted,
        groups=groups,
        people=people,
        weights=weights,
        effective=effective,
        dropped_rows=_number(f"{where}: dropped_rows", top.get("dropped_rows", 0), whole=True),
        questions=questions,
    )


def _question(where: str, data: Any, groups: tuple[str, ...], people: tuple[int, ...], weighted: bool) -> Question:
    sizes = {"effective", "dropped"} if weighted else set()
    entry = _object(where, data, {"id", "options", "counts"} | sizes, {"text", "values"})
    name = _text(f"{where}.id", entry["id"])
    where = f"{where} ({name!r})"
    options = _texts(f"{where}: options", entry["options"])
    values = entry.get("values")
    if values is not None:
        values = tuple(float(value) for value in _numbers(f"{where}: values", values, len(options), signed=True))
        if len(set(values)) == 1:
            _fail(f"{where}: values", list(values), "at least two different numbers")
    rows = entry["counts"]
    if not isinstance(rows, list | tuple) or len(rows) != len(groups):
        _fail(f"{where}: counts", rows, f"{len(groups)} rows, one a group")
    counts = tuple(
        _numbers(f"{where}: counts[{d}]", row, len(options), whole=not weighted) for d, row in enumerate(rows)
    )
    for group, row in zip(groups, counts, strict=True):
        if not sum(row) > 0:
            raise ValueError(f"{where}: nobody in group {group!r} answered; leave out the question or the group")
    if weighted:
        effective = _numbers(f"{where}: effective", entry["effective"], len(groups), positive=True)
        dropped = _number(f"{where}: dropped", entry["dropped"], whole=True)
    else:
        effective = tuple(sum(row) for row in counts)
        dropped = sum(people) - sum(effective)
    for d, (size, most) in enumerate(zip(effective, people, strict=True)):
        _between(f"{where}: effective[{d}]" if weighted else f"{where}: the sum of counts[{d}]", size, most)
    text = _text(f"{where}: text", entry.get("text", ""), empty=True)
    return Question(name, text, options, values, counts, effective, dropped)


def _fail(where: str, found: Any, expected: str) -> None:
    raise ValueError(f"{where} is {reprlib.repr(found)}, expected {expected}")


def _between(where: str, size: float, people: int) -> None:
    slack = 1e-9  # effective sizes are quotients of floating-point sums
    if not 1 - slack <= size <= people * (1 + slack):
        _fail(where, size, f"from 1 to the number of people, {people}")


def _object(where: str, data: Any, required: set[str], optional: set[str]) -> dict[str, Any]:
    if not isinstance(data, dict):
        _fail(where, data, "an object")
    if lacking := required - set(data):
        raise ValueError(f"{where}: {sorted(lacking)[0]!r} is missing")
    if unknown := set(data) - required - optional:
        known = ", ".join(sorted(required | optional))
        raise ValueError(f"{where}: unknown entry {sorted(unknown)[0]!r}; known are {known}")
    return data


def _text(where: str, data: Any, *, empty: bool = False) -> str:
    if not isinstance(data, str) or not (data or empty):
        _fail(where, data, "a text" if empty else "a text that is not empty")
    return data


def _texts(where: str, data: Any) -> tuple[str, ...]:
    if not isinstance(data, list | tuple) or len(data) < 2:
        _fail(where, data, "a list of at least two texts")
    texts = tuple(_text(f"{where}[{k}]", text) for k, text in enumerate(data))
    for k, text in enumerate(texts):
        if text in texts[:k]:
            _fail(f"{where}[{k}]", text, "texts that differ from each other")
    return texts


def _numbers(where: str, data: Any, length: int, **rules: bool) -> tuple[Any, ...]:
    if not isinstance(data, Sequence) or isinstance(data, str) or len(data) != length:
        _fail(where, data, f"a list of {length} numbers")
    return tuple(_number(f"{where}[{k}]", value, **rules) for k, value in enumerate(data))


def _number(where: str, data: Any, *, whole: bool = False, positive: bool = False, signed: bool = False) -> Any:
    expected = (
        f"a {'whole ' if whole else ''}number{'' if signed else ' > 0' if positive else ' ≥ 0'} up to {_LARGEST:g}"
    )
    if isinstance(data, bool) or not isinstance(data, int | float) or not abs(data) <= _LARGEST:
        _fail(where, data, expected)
    if (whole and data != int(data)) or (not signed and data < 0) or (positive and data == 0):
        _fail(where, data, expected)
    return int(data) if whole else data
