"""What a page is made of, each as HTML; every text is escaped here, and nowhere else.

A part of a section is a str (a paragraph), `Items`, `Verbatim`, `Table` or `Figure`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from html import escape
from typing import Any

from jaxgame.report.files import plain

LONG = 24  # letters of a cell; a column with a longer one holds sentences, which are broken into lines
Cell = str | float | int | bool | None


@dataclasses.dataclass(frozen=True)
class Items:
    """A list of sentences."""

    texts: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Verbatim:
    """Text whose lines and columns matter."""

    text: str


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under titles; numbers to three digits, ∞ and NaN as such. emphasised: rows to set off."""

    caption: str
    titles: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    emphasised: Sequence[bool] = ()


@dataclasses.dataclass(frozen=True)
class Figure:
    """A chart (`data` and `layout` of plotly.js), its title, and in `text` what it shows, for those who do not see it.

    name: unique on the page. table: the numbers, to be unfolded below. readout: what `readout.pack` returns, for a
    panel that follows the cursor. wide: as wide as the page.
    """

    name: str
    title: str
    text: str
    chart: dict[str, Any]
    caption: str = ""
    table: Table | None = None
    readout: dict[str, Any] | None = None


Part = str | Items | Verbatim | Table | Figure


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading with what stands under it."""

    title: str
    parts: Sequence[Part]


def rendered(part: Part) -> str:
    """A part as HTML."""
    match part:
        case Items(texts):
            return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"
        case Verbatim(text):
            return f"<pre>{escape(text)}</pre>"
        case Table():
            return table(part)
        case Figure():
            return figure(part)
    return f"<p>{escape(part)}</p>"


def cell(value: Cell) -> str:
    """A value as text: numbers to three digits."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float) or hasattr(value, "dtype"):
        value = float(value)
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "∞" if value > 0 else "−∞"
        return f"{value:.3g}".replace("-", "−", 1) if value < 0 else f"{value:.3g}"
    return value


def table(part: Table) -> str:
    """In a frame of its own that scrolls, so that the page need not."""
    rows = [[cell(value) for value in row] for row in part.rows]
    kinds = [' class="words"' if any(len(text) > LONG for text in column) else "" for column in zip(*rows, strict=True)]
    kinds = kinds or [""] * len(part.titles)
    head = "".join(
        f'<th scope="col"{kind}>{escape(title)}</th>' for title, kind in zip(part.titles, kinds, strict=True)
    )
    body = []
    for k, (first, *rest) in enumerate(rows):
        cells = f'<th scope="row">{escape(first)}</th>'
        cells += "".join(f"<td{kind}>{escape(text)}</td>" for text, kind in zip(rest, kinds[1:], strict=True))
        marked = ' class="out"' if k < len(part.emphasised) and part.emphasised[k] else ""
        body.append(f"<tr{marked}>{cells}</tr>")
    label = escape(part.caption, quote=True)
    return (
        f'<p class="caption">{escape(part.caption)}</p><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{label}"><table aria-label="{label}">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def figure(part: Figure) -> str:
    """The place of a chart, its words and numbers, and the data that the page's script draws it from."""
    name, words = escape(part.name, quote=True), escape(part.text, quote=True)
    chart = f'<div class="chart" id="chart-{name}" role="img" aria-label="{words}"></div>'
    if part.readout is not None:
        chart = f'<div class="beside">{chart}{_panel(name, part.readout)}</div>'
    numbers = "" if part.table is None else table(part.table)
    caption = f"<strong>{escape(part.title)}</strong> {escape(part.caption)}"
    return (
        f'<figure id="{name}">{chart}<figcaption>{caption}</figcaption>'
        f"<details><summary>In words and numbers</summary><p>{escape(part.text)}</p>{numbers}</details>"
        f"{embedded(f'data-{part.name}', {'chart': part.chart, 'readout': part.readout})}</figure>"
    )


def embedded(name: str, data: dict[str, Any]) -> str:
    """Numbers for the page's script: JSON in which no text can end the element; ∞ and NaN are null."""
    text = json.dumps(plain(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return f'<script type="application/json" id="{escape(name, quote=True)}">{text}</script>'


def _panel(name: str, readout: dict[str, Any]) -> str:
    """What is known at the cursor; sliders move it without a mouse. Filled in by the page's script."""
    sliders = "".join(
        f'<label>{escape(axis["label"])} <output></output><input type="range" min="0" max="{len(axis["values"]) - 1}" '
        f'step="1" data-axis="{k}"></label>'
        for k, axis in enumerate(readout["axes"])
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(group)}</th><td class="share"></td><td class="bar"><span></span></td></tr>'
        for group in readout["groups"]
    )
    return (
        f'<div class="panel" id="panel-{name}"><p class="hint">Point at the chart, tap it, or move the sliders; a '
        f"click holds the point.</p>{sliders}"
        f'<table aria-live="polite"><caption class="where"></caption><thead><tr><th scope="col">group</th>'
        f'<th scope="col">shown</th><th></th></tr></thead><tbody>{rows}</tbody></table><p class="status"></p></div>'
    )
