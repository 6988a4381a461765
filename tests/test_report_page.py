"""report.html: read back with html.parser against the numbers, and opened, hovered and clicked in a browser."""

import base64
import dataclasses
import json
import os
import re
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import jaxgame as jg
from jaxgame.alignment.page import write_page as write_align_page
from jaxgame.cli import app
from jaxgame.report.html import charts, readout
from jaxgame.report.html.diagram import diagram
from jaxgame.report.html.elements import Figure, Items, Section, Table, Verbatim, cell
from jaxgame.report.html.page import write
from jaxgame.report.html.plan_page import write_page as write_plan_page
from jaxgame.report.html.sweep_page import write_page as write_sweep_page

NASTY = ("</script><script>alert(1)</script>", "a & b <i>c</i>", "\"q\" 'r' %{x}", "plain")


class Page(HTMLParser):
    """Elements in order, headings, and what is embedded."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.headings, self.data, self.text = [], [], {}, []
        self._open, self._name = None, None
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self._open, self._name = tag, attrs.get("id")
        if tag in ("h1", "h2", "title"):
            self.headings.append([tag, ""])

    def handle_endtag(self, tag):
        if tag in ("h1", "h2", "title", "script", "style"):
            self._open = None

    def handle_data(self, data):
        if self._open in ("h1", "h2", "title"):
            self.headings[-1][1] += data
        elif self._open == "script":
            if self._name:

                def refuse(word):
                    raise AssertionError(f"{word} is no JSON")

                self.data[self._name] = json.loads(data, parse_constant=refuse)
        elif self._open != "style":
            self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def made(shape=(6, 5), groups=NASTY, seed=0):
    """A sweep with everything that can happen: failures, excluded groups, doubtful points."""
    rng = np.random.default_rng(seed)
    representation = rng.dirichlet(np.ones(len(groups)), shape)
    signed = np.where(rng.random(representation.shape) < 0.3, -0.1, representation)
    status = np.zeros(shape, int)
    status[0, 0], status[2, 3] = 3, 1
    representation[status != 0] = signed[status != 0] = np.nan
    disagreement = np.zeros(shape)
    disagreement[1, 1:4] = 0.25, np.nan, 1e-9
    return jg.Sweep(
        axes={"attractiveness": np.linspace(0, 1, shape[0]), "x < y": np.linspace(-2, 2, shape[1])},
        representation=representation,
        signed=signed,
        residual=np.full(shape, 1e-12),
        exploitability=np.full(shape, np.inf),
        status=status,
        steps=np.ones(shape, int),
        unique=disagreement == 0,
        disagreement=disagreement,
        groups=groups,
    )


def edges_of(sweep):
    segments = [np.array([[[0.1, -2.0], [0.9, 2.0]]])] + [np.zeros((0, 2, 2))] * (len(sweep.groups) - 1)
    return jg.Boundaries(sweep.axes, [s.reshape(-1, 2) for s in segments], segments)


def written(tmp_path, sweep):
    path = tmp_path / "report.html"
    write_sweep_page(sweep, edges_of(sweep), "Title <b>", "note & source", path, "0")
    return path


def unpacked(data):
    """The shares (points, D), exclusion, status and certainty, decoded independently of the page's script."""
    groups = len(data["groups"])
    raw = {name: base64.b64decode(data[name]) for name in ("shares", "excluded", "status", "certainty")}
    codes = np.frombuffer(raw["shares"], "<u2").reshape(-1, groups)
    shares = np.where(codes == data["missing"], np.nan, codes / data["unit"])
    width = data["width"]
    out = np.zeros(shares.shape, bool)
    for point in range(len(shares)):
        for d in range(groups):
            out[point, d] = raw["excluded"][point * width + d // 8] >> (7 - d % 8) & 1
    return shares, out, list(raw["status"]), list(raw["certainty"])


def test_the_readout_holds_every_point(tmp_path):
    sweep = made(groups=tuple(f"g{d}" for d in range(11)))
    data = Page(written(tmp_path, sweep)).data["data-phase"]["readout"]
    shares, out, status, certainty = unpacked(data)
    np.testing.assert_allclose(shares, sweep.representation.reshape(-1, 11), atol=0.5 / 65534)
    assert np.array_equal(out, sweep.excluded.reshape(-1, 11)) and out.any() and not out.all()
    assert status == sweep.status.reshape(-1).tolist()
    said = [data["certainties"][k] for k in certainty]
    assert said[6].startswith("Several") and "nothing is known" in said[7] and "no other was found" in said[8]
    assert all(text.startswith("Proved") for k, text in enumerate(said) if k not in (6, 7, 8))
    assert [axis["values"] for axis in data["axes"]] == [axis.tolist() for axis in sweep.axes.values()]


def test_the_diagram_counts_and_leaves_holes(tmp_path):
    sweep = made()
    data = Page(written(tmp_path, sweep)).data["data-phase"]["chart"]["data"]
    heat, levels = data[0], np.unique(sweep.excluded.sum(-1)[sweep.converged])
    z = np.array([[np.nan if value is None else levels[value] for value in map(_whole, row)] for row in heat["z"]])
    np.testing.assert_array_equal(z.T, np.where(sweep.converged, sweep.excluded.sum(-1), np.nan))
    names = [trace.get("name") for trace in data]
    assert {"no equilibrium found", "uniqueness not proved", "several equilibria found"} <= set(names)
    line = next(trace for trace in data if trace.get("mode") == "lines")
    assert line["x"] == [0.1, 0.9, None] and line["y"] == [-2.0, 2.0, None]


def _whole(value):
    return None if value is None else int(value)


def test_large_sweeps_are_thinned_and_say_so(monkeypatch, tmp_path):
    sweep = made()
    monkeypatch.setattr(readout, "MOST", 60)
    (figure,) = diagram(sweep, None)
    assert isinstance(figure, Figure) and figure.readout is not None
    assert readout.thinned(sweep).shape == (3, 3) and "3 × 3 of the points" in figure.caption
    shares = unpacked(figure.readout)[0]
    np.testing.assert_allclose(shares, sweep.representation[::2, ::2].reshape(-1, 4), atol=0.5 / 65534)
    monkeypatch.setattr(readout, "MOST", 6 * 5 * 4)
    assert readout.thinned(sweep) is sweep


def test_names_are_escaped_and_the_page_is_whole(tmp_path):
    page = Page(written(tmp_path, made()))
    scripts = page.all("script")
    assert [attrs.get("type") for attrs in scripts] == ["application/json", None, None]
    assert not page.all("i") and not page.all("b")
    assert all(attrs.get("href", "#").startswith("#") for attrs in page.all("a"))
    assert not [attrs for _, attrs in page.tags if "src" in attrs or "onerror" in attrs] and not page.all("link")
    assert [text for tag, text in page.headings if tag in ("title", "h1")] == ["Title <b>", "Title <b>"]
    for name in NASTY:
        assert name in page.text
    assert "default-src 'none'" in page.all("meta")[2]["content"]


def test_headings_contents_and_alternatives(tmp_path):
    page = Page(written(tmp_path, made()))
    sections = [attrs["id"] for attrs in page.all("section")]
    assert [attrs["href"] for attrs in page.all("a")] == ["#report", *(f"#{name}" for name in sections)]
    assert [text for tag, text in page.headings if tag == "h2"][-2:] == ["Methods", "Citation"]
    chart = next(attrs for attrs in page.all("div") if attrs.get("class") == "chart")
    assert chart["role"] == "img" and re.search(r"left out in \d+ %", chart["aria-label"])
    assert all("min" in attrs for attrs in page.all("input")) and len(page.all("label")) == 2


def test_text_alternative_gives_the_shares(tmp_path):
    sweep = made()
    out = sweep.excluded[sweep.converged]
    (figure,) = diagram(sweep, None)
    assert f"some group is left out in {100 * out.any(1).mean():.0f} %" in figure.text  # pyright: ignore
    assert f"plain in {100 * out[:, 3].mean():.0f} %" in figure.text  # pyright: ignore


def test_charts_are_what_plotly_takes():
    from plotly import graph_objects

    sweep, names = made(), NASTY
    many = np.linspace(0, 1, 4)
    drawn = [
        charts.phase(sweep, names, ("a", "b"), edges_of(sweep).segments),
        charts.curves(sweep.sel(**{"x < y": 0.0}), names, "a"),
        charts.shares(names, [charts.Series("s", many, "circle", "#000", interval=(many - 0.1, many + 0.1))]),
        charts.groups_map(names, np.eye(4)[:, :2], np.array([0.7, 0.3]), np.full(4, 0.25), many, many == 0,
                          [("agent", np.zeros((3, 2)), "#000")]),
    ]  # fmt: skip
    for chart in drawn:
        graph_objects.Figure(chart["data"], chart["layout"])  # raises ValueError for what it does not know
        assert "<i>" not in json.dumps(chart, default=np.ndarray.tolist)


def test_a_plan_shows_its_numbers(tmp_path):
    survey = jg.surveys.load("gss2018-ideology", dtype=np.float64)
    plan = jg.steer_to_floor(survey.game(3, attractiveness=0.5), survey.shares / 2, lever="common")
    write_plan_page(plan, survey.groups, "note", tmp_path / "report.html", "0")
    page = Page(tmp_path / "report.html")
    data = {trace.get("name"): trace for trace in page.data["data-plan"]["chart"]["data"]}
    np.testing.assert_allclose(data["after"]["x"], 100 * plan.equilibrium.representation, rtol=1e-12)
    np.testing.assert_allclose(data["floor"]["x"], 50 * survey.shares, rtol=1e-12)
    gone = np.asarray(plan.before.profile).max(0) <= 1e-3
    assert len(data["was excluded"]["x"]) == gone.sum() > 0
    assert data["before"]["y"] == [d - 0.1 for d in np.flatnonzero(~gone)]
    for d in np.flatnonzero(np.abs(plan.theta) > 1e-6):
        assert f"{float(plan.theta[d]):+.4g}" in page.text
    # A small change of the first lever, by differences.
    step, d = np.eye(7)[0] * 1e-5, 3
    assert plan.rebuild is not None
    ends = [jg.solve(plan.rebuild(plan.theta + sign * step)).representation[d] for sign in (1, -1)]
    assert f"{float(ends[0] - ends[1]) / 2e-5:+.3g}" in page.text[page.text.index("appeal of extremely liberal") :]


@pytest.mark.parametrize(
    ("value", "text"),
    [(np.inf, "∞"), (-np.inf, "−∞"), (np.nan, "NaN"), (0.12345, "0.123"), (-2.0, "−2"), (12345, "12,345"), (None, ""),
     (True, "yes"), ("a", "a"), (np.float64(0.5), "0.5")],
)  # fmt: skip
def test_cells(value, text):
    assert cell(value) == text


def test_parts_and_refusals(tmp_path):
    path = tmp_path / "page.html"
    table = Table("c", ("a", "b"), [("x", np.inf), ("y", np.nan)], [False, True])
    write(path, "t", [Section("s", ["p <1>", Items(["i"]), Verbatim("  v\n w"), table])], lead="l", source="s")
    page = Page(path)
    assert "p <1>" in page.text and "∞" in page.text and "NaN" in page.text and "  v\n w" in page.text
    assert not page.all("script") and [attrs.get("class") for attrs in page.all("tr")] == [None, None, "out"]
    figure = Figure("f", "t", "w", {"data": [], "layout": {}})
    with pytest.raises(ValueError, match="two figures named 'f'"):
        write(path, "t", [Section("a", [figure]), Section("b", [figure])])


def test_an_experiment_shows_prediction_and_text(rng, tmp_path):
    survey: Any = jg.surveys.load("gss2018-ideology", dtype=np.float64)
    plan = jg.steer_to_floor(survey.game(2, attractiveness=0.5), survey.shares / 2, lever="common")

    def reading(told):
        ends = dict(lower=np.clip(told - 0.01, 0, 1), upper=told + 0.02)
        estimate = SimpleNamespace(weights=told, standard_errors=np.full(7, 0.01), **ends)
        return SimpleNamespace(estimate=estimate, bound=np.full(7, 0.009), examples=["</pre><b>text"])

    def one(found):
        weights = np.asarray(found.profile)
        told = rng.dirichlet(np.ones(7), 3)
        realised = SimpleNamespace(
            readings=[reading(x) for x in told[:2]], fidelity=SimpleNamespace(total_variation=np.array([0.01, 0.02]))
        )
        return SimpleNamespace(
            equilibrium=found, weights=weights, representation=weights.mean(0), excluded=np.asarray(jg.excluded(found)),
            mixtures=[reading(x) for x in told[:2]], shown=reading(told[2]), realised={"dpo": realised},
        )  # fmt: skip

    quality = SimpleNamespace(models=rng.random(7), uniform=rng.random(7), group_mean=rng.random(7))
    alignment: Any = SimpleNamespace(
        options=SimpleNamespace(groups="all"), survey=survey, quality=quality, held_out=quality, plan=plan,
        before=one(plan.before), after=one(plan.equilibrium), floor=np.asarray(survey.shares) / 2,
    )  # fmt: skip
    write_align_page(alignment, "headline", "note", tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert {f"data-{name}" for name in ("before-text", "plan", "after-text")} <= set(page.data)
    for name, round_ in (("before", alignment.before), ("after", alignment.after)):
        traces = {trace["name"]: trace for trace in page.data[f"data-{name}-text"]["chart"]["data"]}
        np.testing.assert_allclose(traces["in the text"]["x"], 100 * round_.shown.estimate.weights)
        np.testing.assert_allclose(traces["in the text"]["error_x"]["array"], 2.0)
        kept = round_.representation[~round_.excluded]
        np.testing.assert_allclose(traces["predicted"]["x"], 100 * kept)
        assert ("excluded" in traces) == round_.excluded.any()
        assert f"{round_.mixtures[1].estimate.weights[3]:.4f}" in page.text
    assert page.text.count("</pre><b>text") == 4 and not page.all("b")


# In a browser


def _browser():
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium, where one is installed."""
    if (executable := _browser()) is None:
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    """Opens a page, waits until its charts are drawn; complains of errors, and of anything asked from elsewhere."""
    complaints, pages = [], []

    def open_page(path, width):
        page = chromium.new_page(viewport={"width": width, "height": 900})
        pages.append(page)
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: complaints.append(asked.url) if asked.url.startswith("http") else None)
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto(path.as_uri())
        page.wait_for_function("[...document.querySelectorAll('.chart')].every((chart) => chart.dataset.drawn)")
        return page

    yield open_page
    for page in pages:
        page.close()
    assert complaints == []


def panel(page):
    """What the panel says: where, the share of each group, and the status."""
    shown = page.locator(".panel td.share").all_inner_texts()
    return page.locator(".panel .where").inner_text(), shown, page.locator(".panel .status").inner_text()


def expected(sweep, *at):
    if sweep.status[at] != 0:
        return ["not found"] * len(sweep.groups)
    return [
        "excluded" if gone else f"{100 * share:.2f} %"
        for gone, share in zip(sweep.excluded[at], sweep.representation[at], strict=True)
    ]


def close(shown, wanted):
    assert len(shown) == len(wanted)
    for a, b in zip(shown, wanted, strict=True):
        assert a == b or abs(float(a.split()[0]) - float(b.split()[0])) < 0.011, (a, b)


@pytest.mark.slow
def test_the_cursor_reads_out_points(opened, tmp_path):
    sweep = made()
    page = opened(written(tmp_path, sweep), 1400)
    area = page.locator(".chart .nsewdrag").first.bounding_box()

    def at(i, j):  # the axes run from the first to the last point, which are half a cell from the edges of theirs
        x = min(max(i / 5, 0.02), 0.98)
        y = min(max(j / 4, 0.02), 0.98)
        return area["x"] + x * area["width"], area["y"] + (1 - y) * area["height"]

    for i, j in ((3, 1), (2, 3), (0, 0), (1, 1)):
        page.mouse.move(*at(i, j))
        page.wait_for_function(
            "([x, y]) => document.querySelector('.where').textContent.endsWith(`${x}, x < y = ${y}`)",
            arg=[_short(sweep.axes["attractiveness"][i]), _short(sweep.axes["x < y"][j])],
        )
        _, shown, status = panel(page)
        close(shown, expected(sweep, i, j))
        assert readout.STATUSES[sweep.status[i, j]] in status
        assert ("Proved to be the only" in status) == bool(sweep.unique[i, j])
    page.mouse.click(*at(3, 1))
    page.wait_for_function("document.querySelector('.where').textContent.includes('held')")
    page.mouse.move(*at(4, 3))
    page.wait_for_timeout(200)
    close(panel(page)[1], expected(sweep, 3, 1))
    page.locator(".panel input").first.focus()
    page.keyboard.press("ArrowRight")
    close(panel(page)[1], expected(sweep, 4, 1))
    assert page.locator("details").first.get_attribute("open") is None
    page.locator("summary").first.click()
    assert page.locator("figure table").last.is_visible()


@pytest.mark.slow
def test_the_cursor_reads_out_curves(opened, tmp_path):
    sweep = made().sel(**{"x < y": 1.0})
    write(tmp_path / "page.html", "t", [Section("s", diagram(sweep, None))])
    page = opened(tmp_path / "page.html", 500)
    area = page.locator(".chart .nsewdrag").first.bounding_box()
    page.mouse.move(area["x"] + 0.6 * area["width"], area["y"] + 0.5 * area["height"])
    page.wait_for_function("document.querySelector('.where').textContent.endsWith('= 0.6')")
    _, shown, status = panel(page)
    close(shown, expected(sweep, 3))
    assert "converged" in status


def _short(value):
    return f"{float(f'{value:.4g}'):g}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A page of each command."""
    folder = tmp_path_factory.mktemp("runs")
    options = {
        "study": ["--agents", "5", "--draws", "20"],
        "steer": ["--agents", "3", "--attractiveness", "0.8"],
        "sweep": ["--agents", "2", "--x", "attractiveness=0:1:7", "--y", "diversity=0:0.5:5"],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ.get("JAX_COMPILATION_CACHE_DIR", str(folder / "cache")))
        for command, words in options.items():
            done = CliRunner().invoke(app, [command, *words, "--out", str(folder / command)])
            assert done.exit_code == 0, done.output
    return folder


FIGURES = {
    "study": ["chart-representation", "chart-map", "chart-plan", "chart-phase"],
    "steer": ["chart-plan", "chart-map"],
    "sweep": ["chart-phase"],
}


@pytest.mark.slow
@pytest.mark.parametrize("width", [380, 1600])
@pytest.mark.parametrize("command", FIGURES)
def test_no_page_is_wider_than_the_screen(opened, runs, command, width):
    page = opened(runs / command / "report.html", width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        "[...document.querySelectorAll('main *')].filter((e) => e.checkVisibility()"
        " && !e.closest('.scroll, pre, svg')"
        " && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.className)"
    )
    assert wide == []
    assert page.locator(".chart").evaluate_all("charts => charts.map((chart) => chart.id)") == FIGURES[command]
    for name in FIGURES[command]:
        assert page.locator(f"#{name} svg.main-svg").first.bounding_box()["width"] <= width
        assert "moderate" in page.locator(f"#{name}").text_content() or name == "chart-phase"


@pytest.mark.slow
def test_a_study_opens_at_its_own_point(opened, runs):
    """The cursor on the diagram, which was solved by `sweep`, stands at the study, which was not."""
    page = opened(runs / "study" / "report.html", 1000)
    with np.load(runs / "study" / "profile.npz") as arrays:
        wanted = ["excluded" if gone else f"{100 * share:.2f} %" for gone, share in
                  zip(arrays["excluded"], arrays["representation"], strict=True)]  # fmt: skip
    where, shown, _ = panel(page)
    assert where == "attractiveness α = 0.5, diversity δ = 0.1"
    close(shown, wanted)
    page.locator("#chart-map").scroll_into_view_if_needed()
    area = page.locator("#chart-map .nsewdrag").first.bounding_box()
    bubble = page.locator("#chart-map .scatterlayer .trace").first.locator("path.point").nth(2).bounding_box()
    page.mouse.move(area["x"] + 3, area["y"] + 3)
    page.mouse.move(bubble["x"] + bubble["width"] / 2, bubble["y"] + bubble["height"] / 2)
    page.wait_for_selector("#chart-map .hoverlayer .hovertext")
    assert "of the people: 38.1 %" in page.locator("#chart-map .hoverlayer .hovertext").first.text_content()


@pytest.mark.slow
def test_pages_print(opened, runs, tmp_path):
    page = opened(runs / "study" / "report.html", 1000)
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible() and page.locator("h2").first.is_visible()
    assert len(page.pdf(format="A4")) > 50_000


@pytest.mark.slow
def test_markup_in_names_is_shown_as_text(opened, tmp_path):
    sweep = dataclasses.replace(made(), groups=("<b>bold</b>", "<img src=x onerror=alert(1)>", "c", "d"))
    page = opened(written(tmp_path, sweep), 800)
    assert "<b>bold</b>" in page.locator("#chart-phase .annotation").first.text_content()
    assert page.locator(".panel tbody th").nth(1).inner_text() == "<img src=x onerror=alert(1)>"
