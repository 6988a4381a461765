"""The experiment end to end, small; its statistics against simulation, its files, and how it goes on."""

import json
import re
import types
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import jaxgame
from jaxgame.alignment import experiment, report, society, text, verdict
from jaxgame.alignment.options import POOLS, align_options, people
from jaxgame.cli import app
from jaxgame.policies.estimate import estimate_mixture

jg: Any = jaxgame
SMALL = dict(agents=2, steps=120, student_steps=60, responses=400, answers=1800, standard_error=0.04, seed=3)


@pytest.fixture
def law(rng):
    return rng.dirichlet(np.ones(3), (3, 6))  # (D, Q, options)


def test_bound_is_the_spread_of_estimates(rng, law):
    """Cramér–Rao against the spread of maximum likelihood over 200 simulated sets of answers."""
    weights, n = np.array([0.5, 0.3, 0.2]), 3000
    mixed = np.einsum("d,dqo->qo", weights, law)
    cells = np.log(law.transpose(1, 2, 0).reshape(-1, 3))  # (Q · options, D)
    found = []
    for _ in range(200):
        counts = np.concatenate([rng.multinomial(n // 6, mixed[q]) for q in range(6)])
        found.append(np.asarray(estimate_mixture(np.repeat(cells, counts, 0)).weights))
    exact = society.answer_bound(law, weights) / np.sqrt(n)
    np.testing.assert_allclose(np.std(found, 0), exact, rtol=0.2)
    seen = rng.choice(18, n, p=mixed.reshape(-1) / 6)
    np.testing.assert_allclose(society.bound(cells[seen], weights) / np.sqrt(n), exact, rtol=0.15)


def test_limit_is_the_estimate_from_endless_text(law):
    weights = np.array([0.5, 0.0, 0.5])
    exact = society.limit(np.einsum("d,dqo->qo", weights, law), law)
    np.testing.assert_allclose(exact, weights, atol=1e-3)
    off = 0.9 * np.einsum("d,dqo->qo", weights, law) + 0.1 / 3
    many = np.repeat(np.log(law.transpose(1, 2, 0).reshape(-1, 3)), np.round(4000 * off.reshape(-1)).astype(int), 0)
    np.testing.assert_allclose(society.limit(off, law), np.asarray(estimate_mixture(many).weights), atol=2e-3)


def test_population_leaves_a_group_out_and_reads_its_text_by_reach():
    options = align_options(dict(agents=3))
    survey = people(options)
    assert survey.groups == ("liberal", "moderate", "conservative")
    game = society.population(survey, options)
    alpha = float(np.max(game.attractiveness))
    assert (
        jg.excluded(jg.solve(game)).any() and not jg.excluded(jg.solve(game.replace(attractiveness=alpha / 1.2))).any()
    )
    np.testing.assert_allclose(np.asarray(game.targets).sum(1), 1)
    np.testing.assert_allclose(game.targets[0], survey.shares)
    uneven = game.replace(reach=np.array([0.5, 0.25, 0.25]))
    rows = society.together([np.full((100, 3), k) for k in range(3)], uneven)
    assert np.bincount(rows[:, 0].astype(int)).tolist() == [100, 50, 50]


def test_every_survey_can_be_pooled():
    for name in jg.surveys.names():
        assert len(people(align_options({"survey": name})).groups) == 3 and name in POOLS


def test_bad_options_are_one_line(tmp_path):
    for flags, words in (
        (["--groups", "some"], "--groups is 'some', expected 'pooled' or 'all'"),
        (["--agents", "0"], "--agents is 0"),
        (["--survey", "nowhere"], "no survey is named 'nowhere'"),
        (["--lean", "1"], "--lean is 1.0"),
    ):
        done = CliRunner().invoke(app, ["align", *flags, "--out", str(tmp_path / "out")])
        assert done.exit_code == 2 and words in done.output and done.output.count("\n") == 1, done.output
    assert not (tmp_path / "out").exists()


def test_texts_are_kept_whole_or_not_at_all(tmp_path):
    made = text.Texts(np.ones((2, 3)), np.array(["a", "b"]))
    first = text.kept(tmp_path / "x" / "t.npz", lambda: made)
    again = text.kept(tmp_path / "x" / "t.npz", lambda: pytest.fail("made again"))
    np.testing.assert_array_equal(first.scores, again.scores)
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["t.npz"]


@pytest.mark.slow
def test_from_a_survey_to_text_and_back(tmp_path):
    options = align_options(SMALL)
    survey = people(options)
    said = []

    def stop(line):
        said.append(line)
        if "rlhf models, step 25" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiment.run(options, survey, tmp_path / "work", stop)
    again: list[str] = []
    done = experiment.run(options, survey, tmp_path / "work", again.append)
    assert not any("training models of 3 groups: step" in line for line in again)  # they were there already
    assert any("rlhf models, step 50" in line for line in again)
    for one in (done.before, done.after):
        for weights, reading in zip(one.weights, one.mixtures, strict=True):
            estimate = reading.estimate
            assert (np.abs(np.asarray(estimate.weights) - weights) < 4 * np.asarray(estimate.standard_errors)).all()
        for realised in one.realised.values():
            assert (realised.fidelity.total_variation < realised.start.total_variation).all()
    assert done.before.excluded.any() and not done.after.excluded.any()
    assert (done.after.representation >= done.floor - 1e-6).all()

    report.write_alignment(done, tmp_path, 0.0)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["schema"] == "jaxgame.align"
    np.testing.assert_allclose(written["before"]["weights"], done.before.weights)
    words = (tmp_path / "report.md").read_text()
    assert done.before.mixtures[0].examples[0] in words and report.headline(done) in words
    assert (tmp_path / "text.png").stat().st_size > 10_000
    # A text is a response of a person to 18 questions.
    assert len(re.findall(r"the country's spending is", done.before.mixtures[0].examples[0])) == 18


class _Promises:
    """An experiment that keeps what it promised, of two agents and three groups, the last of which is excluded before
    the plan; `spoil` changes one number of it.
    """

    def __init__(self):
        self.weights = np.array([[0.7, 0.3, 0.0], [0.4, 0.6, 0.0]])
        self.parts: dict[str, Any] = {name: self._round() for name in ("before", "after")}
        self.parts["before"]["excluded"][2] = True

    def _round(self):
        reading = lambda w: dict(  # noqa: E731
            weights=w.copy(), standard_errors=np.full(3, 0.005), lower=np.zeros(3), upper=np.full(3, 0.02)
        )
        return dict(
            mixtures=[reading(w) for w in self.weights],
            shown=reading(np.array([0.5, 0.4, 0.1])),
            excluded=np.zeros(3, bool),
            students=[reading(w) for w in self.weights],
            total_variation=np.full(2, 0.01),
        )

    def alignment(self, groups="pooled") -> Any:
        space = types.SimpleNamespace

        def one(part):
            readings = lambda each: space(estimate=space(**each))  # noqa: E731
            student = space(
                readings=list(map(readings, part["students"])), fidelity=space(total_variation=part["total_variation"])
            )
            return space(
                weights=self.weights,
                excluded=part["excluded"],
                mixtures=list(map(readings, part["mixtures"])),
                shown=readings(part["shown"]),
                realised={"distilled": student},
            )

        return space(
            options=space(groups=groups),
            survey=space(groups=("a", "b", "c")),
            floor=np.array([0.1, 0.1, 0.1]),
            before=one(self.parts["before"]),
            after=one(self.parts["after"]),
        )


@pytest.mark.parametrize(
    ("part", "where", "at", "value", "failing"),
    [
        ("after", ("mixtures", 1, "weights"), 0, 0.43, {"after: largest error of a weight in text of the mixtures"}),
        ("after", ("mixtures", 0, "weights"), 1, np.nan, {"after: largest error of a weight in text of the mixtures"}),
        ("before", ("mixtures", 1, "standard_errors"), 2, 0.011, {"before: largest standard error"}),
        (
            "before",
            ("mixtures", 1, "standard_errors"),
            2,
            np.nan,
            {"before: largest error of a weight in text of the mixtures", "before: largest standard error"},
        ),
        ("before", ("shown", "lower"), 2, 0.001, {"before: c is excluded; lower"}),
        ("before", ("shown", "upper"), 2, 0.04, {"before: c is excluded; upper"}),
        ("after", ("students", 0, "weights"), 0, 0.76, {"after: largest error of a weight in text of distilled"}),
        ("after", ("students", 0, "weights"), 0, np.nan, {"after: largest error of a weight in text of distilled"}),
        ("before", ("total_variation",), 1, 0.016, {"before: largest total variation"}),
        ("before", ("total_variation",), 0, np.nan, {"before: largest total variation"}),
        ("after", ("shown", "weights"), 0, 0.08, {"after: largest shortfall"}),
        ("after", ("shown", "standard_errors"), 1, np.nan, {"after: largest shortfall"}),
    ],
)
def test_each_promise_can_be_broken(part, where, at, value, failing):
    promises = _Promises()
    assert verdict.kept(promises.alignment())
    array: Any = promises.parts[part]
    for step in where:
        array = array[step]
    array[at] = value
    broken = promises.alignment()
    failed = [check.what for check in verdict.checks(broken) if not check.holds]
    assert len(failed) == len(failing) and all(any(f.startswith(word) for word in failing) for f in failed), failed
    assert not verdict.kept(broken)
    assert verdict.kept(promises.alignment("all"))  # of which nothing was promised


def test_adapters_are_kept_apart(tmp_path):
    from jaxgame.alignment.smollm2 import adapters_folder

    options = align_options({})
    every = [options, *(align_options(x) for x in (dict(seed=1), dict(steps=5), dict(groups="all")))]
    folders = {adapters_folder(one, people(one), tmp_path) for one in every}
    parties = align_options(dict(survey="gss2018-party"))
    assert len(folders | {adapters_folder(options, people(parties), tmp_path)}) == 5
    assert adapters_folder(options, people(options), tmp_path) in folders
