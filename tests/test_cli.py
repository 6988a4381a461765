"""The command line: what it writes and says, its exit codes, and that nothing is ever half-written."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import jaxgame.study
from jaxgame.cli import app
from jaxgame.config import SOLVERS, StudyOptions, study_options
from jaxgame.gamefile import load as load_game

SMALL = ["study", "--agents", "5", "--draws", "20"]
FILES = {"report.html", "report.json", "profile.npz", "survey.json"} | {
    f"{name}.{kind}"
    for name in ("representation", "exclusion", "plan", "map", "convergence")
    for kind in ("png", "svg")
}
GAME = """kind = "quadratic"
linear = [[1.0, 0.5, 0.0], [0.0, 0.2, 0.1]]
curvature = 1.0
groups = ["a", "b", "c"]
[coupling]
kind = "mean-field"
B = [[0, 0, 0], [0, 0, 0], [0, 0, 0]]
"""


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    """A narrow terminal without colours, no cache of the user's, and a folder of its own."""
    monkeypatch.setenv(
        "JAX_COMPILATION_CACHE_DIR", os.environ.get("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    )
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def refused(*words):
    """Its one line on stderr."""
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert result.stdout == "" and result.stderr.startswith("jaxgame: ") and result.stderr.count("\n") == 1
    return result.stderr


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_study_writes_everything_and_again_the_same(tmp_path):
    first = run(*SMALL)
    folder = tmp_path / "results" / "gss2018-ideology"
    assert first.exit_code == 0
    assert set(contents(folder)) == FILES
    finding = "No agent represents 2 of 7 groups: extremely liberal and extremely conservative."
    assert finding in " ".join(first.stdout.split())
    assert "unweighted" in first.stdout and "No agent can gain more than" in first.stdout
    report = json.loads((folder / "report.json").read_text())
    for row in report["groups"]:
        if row["critical_ratio"] is not None:
            assert f"{row['critical_ratio']:.3g}" in first.stdout
    # The command in the report, on the survey beside it, gives the same numbers.
    words = report["reproduce"].split()
    assert words[:4] == ["jaxgame", "study", "--survey", "survey.json"]
    again = run("study", "--survey", folder / "survey.json", *words[4:], "--out", "again")
    assert again.exit_code == 0
    one, other = contents(folder), contents(tmp_path / "again")
    assert all(one[name] == other[name] for name in FILES - {"report.json"})
    repeated = json.loads(other["report.json"])
    for both in (report, repeated):
        both["options"].pop("survey")
        assert both.pop("timings")["total"] > 0
    assert repeated == report


def test_flags_override_the_file_and_the_file_the_defaults(tmp_path):
    config = tmp_path / "study.toml"
    config.write_text('attractiveness = 2.0\ndiversity-form = "centroid"\ndraws = 30\n')
    options = study_options(config, {"attractiveness": 3.0, "draws": None})
    assert (options.attractiveness, options.draws, options.diversity_form) == (3.0, 30, "centroid")
    assert options.consistency == StudyOptions().consistency


def test_bad_options_are_one_line(tmp_path):
    config = tmp_path / "study.toml"
    config.write_text("attractivness = 1\n")
    assert "unknown option 'attractivness'; did you mean 'attractiveness'" in refused("study", "--config", config)
    config.write_text("agents = 0\n")
    assert re.search(
        r"study.toml: agents is 0, expected greater than or equal to 1", refused("study", "--config", config)
    )
    config.write_text("agents = \n")
    assert "not a TOML file" in refused("study", "--config", config)
    assert "none.toml: No such file" in refused("study", "--config", "none.toml")
    assert "--diversity-form is 'x'" in refused("study", "--diversity-form", "x")
    assert "--attractiveness is nan" in refused("study", "--attractiveness", "nan")
    assert "--agents" in refused("study", "--agents", "many")
    assert "--attractivness" in refused("study", "--attractivness", "1")
    assert "no survey is named 'x'; choose from" in refused("study", "--survey", "x")
    assert "none.json: No such file" in refused("study", "--survey", "none.json")
    assert "needs --group" in refused("study", "--survey", "people.csv")
    (tmp_path / "people.csv").write_text("party,q\nleft,1\nright,2\n")
    line = refused("study", "--survey", "people.csv", "--group", "Party", "--questions", "q")
    assert "no column is named 'Party'" in line
    assert "stduy" in refused("stduy")


def test_without_a_command_the_help_is_all_there_is():
    result = run()
    assert result.exit_code == 2 and "jaxgame COMMAND --help" in result.stdout and result.stderr == ""


def test_unwritable_folders_are_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(jaxgame.study, "run", lambda *_: pytest.fail("the study was run"))
    (tmp_path / "file").write_text("mine")
    assert "file" in refused("study", "--out", tmp_path / "file")
    assert "file" in refused("study", "--out", tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


def test_interrupted_study_changes_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(jaxgame.study, "run", interrupted)
    old = tmp_path / "old"
    old.mkdir()
    (old / "report.json").write_text("before")
    for out in ("old", "new"):
        result = run("study", "--out", out)
        assert result.exit_code == 130
        assert result.stderr == "jaxgame: interrupted; no file is left half-written\n"
    assert contents(old) == {"report.json": b"before"} and not (tmp_path / "new").exists()


def test_interrupt_from_outside(tmp_path):
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        "from jaxgame.cli import command; command()",
        *SMALL,
        "--out",
        "out",
    ]
    root = str(Path(jaxgame.study.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(1200):
            if (tmp_path / "out").exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    # Before it, Python may complain of a file that the interrupt kept from being closed: -W error shows that.
    assert said.endswith("jaxgame: interrupted; no file is left half-written\n")
    assert not (tmp_path / "out").exists()


def test_an_interrupt_lost_in_a_finalizer_still_ends_it(tmp_path):
    code = """if True:
        import signal, sys
        import jaxgame.study
        from jaxgame.cli import command
        class Losing:
            def __del__(self):
                signal.raise_signal(signal.SIGINT)
        def run(options, people, begin):
            Losing()
            begin("solving")
            print("went on")
        jaxgame.study.run = run
        sys.unraisablehook = lambda *_: print("lost")
        command()
    """
    command = [sys.executable, "-c", code, *SMALL, "--out", "out"]
    environment = os.environ | {"PYTHONPATH": str(Path(jaxgame.study.__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (130, "lost\n")
    assert not (tmp_path / "out").exists()


def test_uncertified_study_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(jaxgame.study, "COMPARED", ())  # saves compiling them for this game, too
    result = run(*SMALL, "--diversity-form", "centroid", "--diversity", "3", "--out", "out")
    assert result.exit_code == 1
    assert "NOT CERTIFIED" in result.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["certificate"]["unique"] is False and report["equilibrium"]["gap"] is None
    assert "concave" in report["critical_ratios"]["missing"]
    assert all("critical_ratio" not in row for row in report["groups"])


def test_solve_prints_and_writes_the_equilibrium(tmp_path):
    (tmp_path / "game.toml").write_text(GAME)
    result = run("solve", "game.toml", "--out", "out")
    assert result.exit_code == 0
    # No one meets anyone: each row is the projection of `linear` on the simplex.
    expected = np.array([[0.75, 0.25, 0], [0.7 / 3, 1.3 / 3, 1 / 3]])
    with np.load(tmp_path / "out" / "profile.npz", allow_pickle=False) as arrays:
        assert np.allclose(arrays["profile"], expected, atol=1e-12)
        assert arrays["groups"].tolist() == ["a", "b", "c"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["schema"], report["version"]) == ("jaxgame.solve", 1)
    assert np.allclose([row["representation"] for row in report["groups"]], expected.mean(0))
    assert report["certificate"]["unique"] is True and report["equilibrium"]["gap"] < 1e-12
    assert f"{expected.mean(0)[0]:.6f}" in result.stdout and "unique" in result.stdout
    assert "game.toml" == report["game"]["file"] and report["game"]["agents"] == 2


def test_solve_without_out_writes_nothing(tmp_path):
    (tmp_path / "game.toml").write_text(GAME)
    assert run("solve", "game.toml", "--solver", "Newton").exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} <= {"game.toml", "cache"}


def test_solve_of_what_is_not_concave_is_not_certified(tmp_path):
    (tmp_path / "game.toml").write_text(GAME.replace("curvature = 1.0", "curvature = -1.0"))
    result = run("solve", "game.toml")
    assert result.exit_code == 1 and "not concave" in result.stdout


def test_solve_refuses_in_one_line(tmp_path):
    (tmp_path / "game.toml").write_text(GAME)
    assert "did you mean 'Newton'" in refused("solve", "game.toml", "--solver", "newton")
    assert "limit of 5 bytes" in refused("solve", "game.toml", "--limit", 5)
    assert "none.npz: No such file" in refused("solve", "none.npz")
    assert "Missing argument 'game'" in refused("solve")
    (tmp_path / "file").write_text("")
    assert "file" in refused("solve", "game.toml", "--out", "file")
    network = GAME.replace('"mean-field"', '"network"').replace("[[0, 0, 0], [0, 0, 0], [0, 0, 0]]", "[[1, 0, 0]]")
    (tmp_path / "game.toml").write_text(network)
    assert "coupling.weights is missing" in refused("solve", "game.toml")


def test_solver_that_cannot_treat_the_game_is_bad_input(tmp_path):
    text = GAME.replace(
        'kind = "mean-field"\nB = [[0, 0, 0], [0, 0, 0], [0, 0, 0]]', 'kind = "network"\nweights = [[0, 1], [2, 0]]'
    )
    (tmp_path / "game.toml").write_text(text)
    assert load_game(tmp_path / "game.toml")[0].n_agents == 2
    assert "AggregativeNewton needs agents that meet through a mean" in refused(
        "solve", "game.toml", "--solver", "AggregativeNewton"
    )


def test_steer_prints_and_writes_a_plan(tmp_path):
    (tmp_path / "game.toml").write_text(GAME)
    result = run("steer", "--game", "game.toml", "--floor", "0.25", "--lever", "price", "--out", "plan")
    assert result.exit_code == 0 and result.stdout.startswith("This plan works.")
    assert set(contents(tmp_path / "plan")) == {"report.html", "report.json", "plan.npz", "plan.png", "plan.svg"}
    report = json.loads((tmp_path / "plan" / "report.json").read_text())
    assert report["schema"] == "jaxgame.steer" and report["plan"]["success"]
    assert [row["group"] for row in report["groups"]] == ["a", "b", "c"]
    with np.load(tmp_path / "plan" / "plan.npz", allow_pickle=False) as file:
        theta, profile = file["theta"], file["profile"]
    # No coupling: w_i is the projection of linear_i + λ/2, and so everyone can check it.
    linear = np.array([[1.0, 0.5, 0.0], [0.0, 0.2, 0.1]])
    for w, g in zip(profile, linear + theta / 2 - profile, strict=True):
        assert (np.where(w > 0, np.abs(g - g.max()), np.maximum(g - g[w > 0].max(), 0)) < 1e-9).all()
    assert np.allclose(profile.mean(0)[theta > 0], 0.25) and (theta > 0).any() and profile.mean(0).min() > 0.25 - 1e-9


def test_steer_on_a_survey_without_files(tmp_path):
    result = run("steer", "--agents", "5", "--attractiveness", "0.8", "--share", "0.3")
    assert result.exit_code == 0 and list(tmp_path.iterdir()) == []
    assert "Add to every agent's appeal:" in result.stdout and "extremely liberal" in result.stdout


def test_steer_by_targets(tmp_path):
    result = run("steer", "--lever", "targets", "--agents", "3", "--share", "0.2", "--out", "plan")
    assert result.exit_code in (0, 1) and "Traceback" not in result.output
    figures = {f"{name}.{kind}" for name in ("plan", "map") for kind in ("png", "svg")}
    assert set(contents(tmp_path / "plan")) == figures | {"report.html", "report.json", "plan.npz"}
    assert "Move the alignment targets of single agents:" in result.stdout or "Nothing has to" in result.stdout


def test_steer_refuses_in_one_line(tmp_path):
    (tmp_path / "game.toml").write_text(GAME)
    assert "--game needs --floor" in refused("steer", "--game", "game.toml")
    assert "--floor is for --game" in refused("steer", "--floor", "0.1")
    assert "--share is for a survey" in refused("steer", "--game", "game.toml", "--floor", "0.3", "--share", "0.9")
    assert "leave out --config, --survey" in refused("steer", "--game", "game.toml", "--floor", "0.1", "--agents", "3")
    over = refused("steer", "--game", "game.toml", "--floor", "0.5", "--out", "plan")
    assert "floor sums to 1.5, expected at most 1" in over
    assert "lever is 'tax'" in refused("steer", "--game", "game.toml", "--floor", "0.1", "--lever", "tax")
    assert not (tmp_path / "plan").exists()


def test_surveys_are_listed():
    result = run("surveys")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for word in ("gss2018-ideology", "gss2018-ideology-age", "gss2018-party", "anes1996-party", "2,247", "944"):
        assert word in text


def test_help_teaches():
    assert run("--version").stdout.startswith("jaxgame ")
    assert "study" in run("--help").stdout
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", run("study", "--help").stdout).split())
    for word in (
        "α/γ",
        "attractiveness",
        "critical ratio",
        "jaxgame study --config study.toml",
        "(default 0.5)",
        "Exit code",
    ):
        assert word in text
    for name in StudyOptions.model_fields:
        if name not in ("groups", "missing"):  # lists, for the file only
            assert f"--{name.replace('_', '-')}" in text
    text = " ".join(run("solve", "--help").stdout.split())
    for word in ("targets (n, D)", "mean-field", "edges (m, 3", "jaxgame solve game.toml"):
        assert word in text
    text = " ".join(run("steer", "--help").stdout.split())
    for word in ("price", "common", "targets", "jaxgame steer --game game.toml", "share of the people"):
        assert word in text


def test_every_solver_can_be_named():
    import jaxgame

    for name in SOLVERS:
        assert hasattr(jaxgame, name)
        StudyOptions(solver=name)  # pyright: ignore[reportArgumentType]


def test_results_are_never_written_outside_results(tmp_path):
    from jaxgame.shell import file_name

    assert file_name("../../etc/x") == "etc-x" and file_name("..") == "survey" and file_name("a b") == "a-b"
