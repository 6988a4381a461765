"""One self-contained page: its style, its script, plotly.js and all numbers are in it; it loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from plotly.offline import get_plotlyjs

from jaxgame.report.html.elements import Figure, Section, rendered

# What a browser may do with the page: its own scripts and styles, pictures made on the spot, no network.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def write(path: Path, title: str, sections: Sequence[Section], *, lead: str = "", source: str = "") -> None:
    """Write the page. lead: what was found, in a sentence or two, below the title; source: what it was found in.

    Texts may hold anything, they are escaped. Raises ValueError for two figures of one name.
    """
    names = [part.name for section in sections for part in section.parts if isinstance(part, Figure)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"sections has two figures named {twice[0]!r}, expected a name of its own for each")
    path.write_text(_page(title, sections, lead, source, bool(names)), encoding="utf-8")


def _page(title: str, sections: Sequence[Section], lead: str, source: str, drawn: bool) -> str:
    contents = "".join(f'<li><a href="#part-{k}">{escape(one.title)}</a></li>' for k, one in enumerate(sections))
    body = "".join(
        f'<section id="part-{k}" aria-labelledby="head-{k}"><h2 id="head-{k}">{escape(one.title)}</h2>'
        f"{''.join(map(rendered, one.parts))}</section>\n"
        for k, one in enumerate(sections)
    )
    intro = "".join(
        f'<p class="{kind}">{escape(text)}</p>' for kind, text in (("lead", lead), ("source", source)) if text
    )
    scripts = f"<script>{get_plotlyjs()}</script>\n<script>{_own('page.js')}</script>" if drawn else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="generator" content="jaxgame">
<title>{escape(title)}</title>
<style>{_own("style.css")}</style>
</head>
<body>
<a class="skip" href="#report">Skip to the report</a>
<header><h1>{escape(title)}</h1>{intro}</header>
<nav aria-label="Contents"><ol>{contents}</ol></nav>
<main id="report">
{body}</main>
{scripts}
</body>
</html>
"""


def _own(name: str) -> str:
    return (files("jaxgame.report.html") / name).read_text(encoding="utf-8")
