"""`jaxgame sweep`: what it writes and says, and its exit codes."""

import json
import os

import numpy as np
import pytest
from typer.testing import CliRunner

import jaxgame as jg
from jaxgame.cli import app


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    """A narrow terminal without colours, no cache of the user's, and a folder of its own."""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    for name, value in dict(JAX_COMPILATION_CACHE_DIR=cache, COLUMNS="100", NO_COLOR="1").items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


def run(*words):
    result = CliRunner().invoke(app, ["sweep", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_map_is_written_with_its_boundaries(tmp_path):
    options = ("--agents", 4, "--x", "attractiveness=0:1:9", "--y", "diversity=0:0.5:5")
    done = run(*options)
    assert done.exit_code == 0
    folder = tmp_path / "results" / "sweep-gss2018-ideology"
    assert {path.name for path in folder.iterdir()} == {
        "sweep.npz",
        "report.html",
        "report.json",
        "phase.png",
        "phase.svg",
    }
    found = jg.Sweep.load(folder / "sweep.npz")
    assert found.shape == (9, 5) and found.tolerance == 0
    survey = jg.surveys.load("gss2018-ideology")
    np.testing.assert_allclose(
        found.sel(attractiveness=0.5, diversity=0.25).representation,
        jg.solve(survey.game(4, attractiveness=0.5, diversity=0.25)).representation,
        atol=1e-9,
    )
    report = json.loads((folder / "report.json").read_text())
    assert report["schema"] == "jaxgame.sweep" and report["points"] == 45 and report["failed"] == 0
    ratios = np.asarray(jg.critical_ratios(survey.game(4, diversity=0.0)))
    on_axis = [point[0] for point in report["crossings"]["extremely conservative"] if point[1] == 0]
    assert on_axis == pytest.approx([ratios[6]], abs=1e-9)
    assert "45 points (9 attractiveness × 5 diversity)" in " ".join(done.stdout.split())
    before = (folder / "sweep.npz").stat().st_mtime_ns
    run(*options)
    assert json.loads((folder / "report.json").read_text())["message"] == report["message"]
    assert np.array_equal(jg.Sweep.load(folder / "sweep.npz").signed, found.signed)
    assert (folder / "sweep.npz").stat().st_mtime_ns == before  # known, not solved anew


def test_one_axis_gives_curves(tmp_path):
    done = run("--agents", 2, "--x", "diversity=0:0.5:4", "--attractiveness", 0.3, "--out", tmp_path / "a b")
    assert done.exit_code == 0 and json.loads((tmp_path / "a b" / "report.json").read_text())["crossings"] is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--x", "attractivness=0:1:9"), "'attractivness' is no axis; did you mean 'attractiveness'?"),
        (("--x", "attractiveness=0:1"), "expected NAME=FROM:TO:POINTS"),
        (("--x", "attractiveness=0:1:1"), "attractiveness has 1 points, expected 2 to"),
        (("--x", "attractiveness=0:1:1000000000000"), "attractiveness has 1,000,000,000,000 points"),
        (("--x", "attractiveness=0:1:1000000", "--y", "diversity=0:1:1000000"), "1,000,000,000,000 points"),
        (("--x", "attractiveness=0:nan:5"), "is nan, expected a finite number"),
        (("--x", "attractiveness=1:0:5"), "expected increasing values"),
        (("--x", "attractiveness=-1:1:5"), "attractiveness begins at -1, expected at least 0"),
        (("--x", "diversity=0:1:5", "--y", "diversity=0:1:5"), "--x and --y are both diversity"),
        (("--x", "diversity=0:1:5", "--diversity", "0.1"), "--diversity is an axis"),
        (("--survey", "nobody"), "nobody"),
    ],
)
def test_bad_axes_are_one_line(words, told):
    done = run(*words)
    assert done.exit_code == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("jaxgame: ") and told in done.stderr


def test_help_teaches():
    text = run("--help").stdout
    for words in ("How to read the map", "attractiveness=0:1:200", "Exit code", "--heterogeneity"):
        assert words in text
