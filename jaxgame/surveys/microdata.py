"""A table of counts from microdata: a CSV file with one row a respondent.

Survey weights are not numbers of people: a respondent of weight 2 stands for more people, but is one observation.
Weighted counts give the shares; how much the sample tells is Kish's effective size (Σw)² / Σw² ≤ n, which does not
change when all weights are multiplied by a constant. It covers the loss from unequal weights only, not clustering.
"""

from __future__ import annotations

import csv
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from jaxgame.surveys.tables import Table, parse

MISSING = ("", "NA", "NaN", "nan")


@dataclass
class _Sample:
    """Running sums over respondents."""

    people: int = 0
    weight: float = 0.0
    square: float = 0.0

    def add(self, weight: float) -> None:
        self.people += 1
        self.weight += weight
        self.square += weight**2

    @property
    def effective(self) -> float:
        # rounding alone could lift the quotient above n
        return min(self.weight**2 / self.square, float(self.people))


@dataclass
class _Column:
    """What is asked of a question's column, and what was found: one sample for each (group, answer)."""

    name: str
    numeric: bool
    options: list[Any] | None  # None: whatever is found
    values: list[float] | None  # None: the numeric options themselves, or no order at all
    cells: dict[tuple[str, Any], _Sample] = field(default_factory=lambda: defaultdict(_Sample))
    answered: dict[str, _Sample] = field(default_factory=lambda: defaultdict(_Sample))


def tabulate(
    path: str | os.PathLike[str],
    group: str,
    questions: Sequence[str] | Mapping[str, Any],
    *,
    weight: str | None,
    groups: Sequence[Any] | None,
    missing: Sequence[Any],
    name: str | None,
    title: str,
    source: str | None,
) -> Table:
    """The table of a CSV file; the arguments are those of `Survey.from_csv`."""
    where = os.fspath(path)
    columns = _columns(questions)
    wanted = None if groups is None else _distinct("groups", [str(entry) for entry in _listed("groups", groups)])
    absent = _Missing(missing)
    for column in columns.values():
        for option in column.options or ():
            if str(option) in absent:
                raise ValueError(f"questions[{column.name!r}]: the option {option!r} is also in missing")
    people: dict[str, _Sample] = defaultdict(_Sample)
    dropped_rows = 0
    for row, cells in _rows(where, [group, *columns, *([] if weight is None else [weight])]):
        label = cells[group]
        if label in absent:
            dropped_rows += 1
            continue
        if wanted is not None and label not in wanted:
            continue
        w = 1 if weight is None else _weight(f"{where}: row {row}, column {weight!r}", cells[weight])
        people[label].add(w)
        for column in columns.values():
            cell = cells[column.name]
            if cell not in absent:
                answer = _answer(f"{where}: row {row}, column {column.name!r}", column, cell)
                column.cells[label, answer].add(w)
                column.answered[label].add(w)
    labels = wanted if wanted is not None else _sorted(people)
    for label in labels:
        if not people[label].weight > 0:
            positive = "" if weight is None else " and a weight > 0"
            raise ValueError(f"{where}: group {label!r} is empty: no row has it in column {group!r}{positive}")
    if len(labels) < 2:
        raise ValueError(f"{where}: column {group!r} holds the groups {labels}, expected at least two")
    weighting = f"Counts are weighted by {weight}, sample sizes are Kish's effective sizes."
    data: dict[str, Any] = dict(
        name=Path(where).stem if name is None else name,
        title=title,
        source=Path(where).name if source is None else source,
        note="Unweighted counts of respondents." if weight is None else weighting,
        weighted=weight is not None,
        groups=labels,
        people=[people[label].people for label in labels],
        dropped_rows=dropped_rows,
        questions=[_tally(where, column, labels, people, weight is not None) for column in columns.values()],
    )
    if weight is not None:
        everyone = _Sample()
        for label in labels:
            everyone.people += people[label].people
            everyone.weight += people[label].weight
            everyone.square += people[label].square
        data |= dict(weights=[people[label].weight for label in labels], effective=everyone.effective)
    return parse(data, where)


class _Missing:
    """The cells that count as no answer: equal to an entry as text or, both being numbers, as numbers."""

    def __init__(self, entries: Sequence[Any]):
        self.texts = {"", *(str(entry).strip() for entry in _listed("missing", entries))}
        self.numbers = {_finite(text) for text in self.texts} - {None}

    def __contains__(self, cell: str) -> bool:
        return cell in self.texts or (bool(self.numbers) and _finite(cell) in self.numbers)


def _columns(questions: Sequence[str] | Mapping[str, Any]) -> dict[str, _Column]:
    if isinstance(questions, Mapping):
        columns = {str(name): _column(str(name), form) for name, form in questions.items()}
    else:
        columns = {name: _column(name, "numeric") for name in _distinct("questions", _listed("questions", questions))}
    if not columns:
        raise ValueError("questions is empty, expected at least one column")
    return columns


def _column(name: str, form: Any) -> _Column:
    where = f"questions[{name!r}]"
    if form is None:
        return _Column(name, numeric=False, options=None, values=None)
    if isinstance(form, str):
        if form != "numeric":
            expected = "a list of options, a dict option -> value, 'numeric', or None for options without an order"
            raise ValueError(f"{where} is {form!r}, expected {expected}")
        return _Column(name, numeric=True, options=None, values=None)
    if isinstance(form, Mapping):
        options = _distinct(where, [str(option).strip() for option in form])
        values = [_finite(value) for value in form.values()]
        for option, value, given in zip(options, values, form.values(), strict=True):
            if value is None:
                raise ValueError(f"{where}: the value of {option!r} is {given!r}, expected a finite number")
    else:
        options, values = list(form), None
        if not all(isinstance(option, str) for option in options):
            numbers = [None if isinstance(option, str) else _finite(option) for option in options]
            if None in numbers:
                stray = options[numbers.index(None)]
                raise ValueError(f"{where}: {stray!r} stands among numbers, expected only texts or only finite numbers")
            return _Column(name, numeric=True, options=_several(where, _distinct(where, numbers)), values=None)
        options = _distinct(where, [option.strip() for option in options])
        values = [float(k) for k in range(len(options))]
    return _Column(name, numeric=False, options=_several(where, options), values=values)


def _several(where: str, options: list[Any]) -> list[Any]:
    if len(options) < 2:
        raise ValueError(f"{where} has the options {options}, expected at least two")
    return options


def _listed(name: str, entries: Any) -> list[Any]:
    if isinstance(entries, str) or not isinstance(entries, Iterable):
        raise ValueError(f"{name} is {entries!r}, expected a list{' or a dict' if name == 'questions' else ''}")
    return list(entries)


def _distinct(where: str, entries: Sequence[Any]) -> list[Any]:
    for k, entry in enumerate(entries):
        if entry in entries[:k]:
            raise ValueError(f"{where}: {entry!r} appears twice")
    return list(entries)


def _rows(where: str, needed: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(row number, needed cells) for each row; the header is row 1, blank rows are counted and passed over."""
    row, header, positions = 0, [], {}
    try:
        with open(where, encoding="utf-8-sig", newline="") as file:
            # strict: a quote that is never closed would otherwise swallow the rest of the file
            for row, record in enumerate(csv.reader(file, strict=True), 1):
                cells = [cell.strip() for cell in record]
                if row == 1:
                    header, positions = cells, _positions(where, cells, needed)
                elif not any(cells) and len(cells) < 2:
                    continue
                elif len(cells) != len(header):
                    raise ValueError(f"{where}: row {row} has {len(cells)} cells, the header {len(header)}")
                else:
                    yield row, {name: cells[k] for name, k in positions.items()}
    except UnicodeDecodeError:
        _undecodable(where)
    except csv.Error as error:
        raise ValueError(f"{where}: row {row + 1} is not valid CSV ({error})") from None
    if row == 0:
        raise ValueError(f"{where} is empty, expected a header and one row a respondent")


def _positions(where: str, header: list[str], needed: list[str]) -> dict[str, int]:
    for k, name in enumerate(header):
        if name and name in header[:k]:
            raise ValueError(f"{where}: two columns of the header are named {name!r}")
    for k, name in enumerate(needed):
        if name in needed[:k]:
            raise ValueError(f"column {name!r} is used twice among group, questions and weight")
        if name not in header:
            raise ValueError(f"{where}: no column is named {name!r}; the header has {', '.join(map(repr, header))}")
    return {name: header.index(name) for name in needed}


def _undecodable(where: str) -> NoReturn:
    with open(where, "rb") as file:
        for line, content in enumerate(file, 1):
            try:
                content.decode("utf-8")
            except UnicodeDecodeError as error:
                found = f"line {line} is not UTF-8 text (byte {content[error.start]:#04x})"
                raise ValueError(f"{where}: {found}; save the file as UTF-8") from None
    raise ValueError(f"{where}: not UTF-8 text")


def _weight(where: str, cell: str) -> float:
    weight = _finite(cell)
    # the bounds keep sums and squares of weights far from overflow and underflow
    if weight is None or not (weight == 0 or 1e-9 <= weight <= 1e9):
        raise ValueError(f"{where}: the weight is {cell!r}, expected 0 or a number from 1e-9 to 1e9")
    return weight


def _answer(where: str, column: _Column, cell: str) -> Any:
    answer = _finite(cell) if column.numeric else cell
    if answer is None:
        raise ValueError(
            f"{where}: the answer is {cell!r}, expected a number; name it in missing=, or give the texts in order, "
            f"questions={{{column.name!r}: [...]}}, or None for options without an order"
        )
    if column.options is not None and answer not in column.options:
        raise ValueError(f"{where}: the answer is {cell!r}, expected one of {column.options}; add it, or to missing=")
    return answer


def _finite(text: Any) -> float | None:
    try:
        number = float(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _sorted(labels: Mapping[str, Any]) -> list[str]:
    """Numbers by size, texts by alphabet."""
    numbers = [_finite(label) for label in labels]
    if None in numbers:
        return sorted(labels)
    return [label for _, label in sorted(zip(numbers, labels, strict=True))]  # pyright: ignore[reportArgumentType]


def _tally(
    where: str, column: _Column, groups: list[str], people: Mapping[str, _Sample], weighted: bool
) -> dict[str, Any]:
    options = column.options if column.options is not None else sorted({answer for _, answer in column.cells})
    if len(options) < 2:
        raise ValueError(f"{where}: column {column.name!r} holds the answers {options}, expected at least two")
    for group in groups:
        if not column.answered[group].weight > 0:
            nobody = f"nobody in group {group!r} answered column {column.name!r}"
            raise ValueError(f"{where}: {nobody}; leave out the question or the group")
    samples = [[column.cells.get((group, option), _Sample()) for option in options] for group in groups]
    entry = dict(
        id=column.name,
        text=column.name,
        options=[repr(option).removesuffix(".0") for option in options] if column.numeric else options,
        values=options if column.numeric else column.values,
        counts=[[sample.weight if weighted else sample.people for sample in row] for row in samples],
    )
    if weighted:
        entry |= dict(
            effective=[column.answered[group].effective for group in groups],
            dropped=sum(people[group].people - column.answered[group].people for group in groups),
        )
    return entry
