"""What all figures share: colours that the colour-blind can tell apart, the size of a paper's column, title, source."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

# Okabe & Ito, Color universal design (2008)
BLUE, VERMILLION, ORANGE, GREEN, PURPLE, SKY, BLACK = (
    "#0072B2",
    "#D55E00",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#000000",
)
GREY, PALE = "#767676", "#BBBBBB"

WIDTH = 3.5  # inches: one column
_STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that figures are the same everywhere
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "lines.linewidth": 1.1,
    "svg.hashsalt": "jaxgame",  # the same study gives the same bytes
}


def styled() -> Any:
    """The context in which figures are drawn and saved."""
    return rc_context(_STYLE)


def new(height: float, title: str, footnote: str) -> Figure:
    """A figure of one column: the finding on top, `height` inches for what is drawn, source and options below."""
    heading = textwrap.fill(title, 52)
    note = textwrap.fill(footnote.replace(" = ", "\u00a0=\u00a0"), 92)
    height += 0.14 * (1 + heading.count("\n")) + 0.09 * (1 + note.count("\n"))
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(heading, x=0.01, ha="left", fontsize=8, fontweight="bold")
    figure.supxlabel(note, x=0.01, ha="left", fontsize=5, color=GREY, linespacing=1.3)
    return figure


def wrapped(names: tuple[str, ...], width: int = 20) -> list[str]:
    """Names broken into lines that fit beside an axis."""
    return [textwrap.fill(name, width) for name in names]


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write `name`.png and `name`.svg; the figure's title on one line."""
    with styled():
        figure.savefig(folder / f"{name}.png", dpi=300, metadata={"Software": None})
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    return " ".join(figure.get_suptitle().split())
