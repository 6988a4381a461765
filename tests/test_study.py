"""The study against numbers computed here, in NumPy, from the counts of the survey."""

import dataclasses
import itertools
import json
import os
import signal

import jax
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from scipy.stats import chi2, chi2_contingency

from jaxgame import study as studies
from jaxgame.config import StudyOptions
from jaxgame.report.figures import FIGURES
from jaxgame.report.figures.style import styled
from jaxgame.report.files import staged
from jaxgame.report.groups import draw_map, indistinct
from jaxgame.report.text import findings, headline, interval, provenance
from jaxgame.report.write import write_study
from jaxgame.surveys import load

OPTIONS = StudyOptions(agents=5, draws=20)
ALPHA, GAMMA, DELTA = 0.5, 1.0, 0.1  # the defaults, repeated so that a change of them is noticed


@pytest.fixture(scope="module")
def survey():
    return studies.load_survey(OPTIONS)


@pytest.fixture(scope="module")
def study(survey):
    return studies.run(OPTIONS, survey)


@pytest.fixture(scope="module")
def results(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_study(study, folder, 0.0)
    return folder


def model(answers, values, shares):
    """Kernel and appeal of tables of answers (question, D, options), by the definitions of the documentation."""
    unit = (values - values.min()) / (values.max() - values.min())
    means = np.stack([table @ unit for table in answers], 1)
    squared = ((means[:, None] - means[None]) ** 2).sum(-1)
    width = np.median(np.sqrt(squared[np.triu_indices(len(means), 1)]))
    kernel = np.exp(-squared / (2 * width**2))
    return kernel, kernel @ shares


def posterior_mean(survey):
    tables = [(np.asarray(question.counts) + 0.5) for question in survey.questions]
    return [table / table.sum(1, keepdims=True) for table in tables], np.array(survey.questions[0].values)


def marginals(w, kernel, appeal, shares, alpha, delta=DELTA):
    """Of an agent who plays w while all others do, in the response metric with pairwise diversity and spread 1."""
    return alpha * appeal - GAMMA * kernel @ (w - shares) + delta / 2 * (1 - 2 * kernel @ w)


def symmetric_equilibrium(kernel, appeal, shares, alpha, delta=DELTA):
    """By trying every support: the only one on which the optimality conditions hold."""
    n_groups = len(shares)
    for support in itertools.product([False, True], repeat=n_groups):
        on = np.flatnonzero(support)
        if not len(on):
            continue
        system = np.zeros((len(on) + 1, len(on) + 1))
        system[:-1, :-1] = (GAMMA + delta) * kernel[np.ix_(on, on)]
        system[:-1, -1] = system[-1, :-1] = 1
        right = np.append((alpha * appeal + GAMMA * kernel @ shares)[on], 1)
        solution = np.linalg.solve(system, right)
        w = np.zeros(n_groups)
        w[on] = solution[:-1]
        g = marginals(w, kernel, appeal, shares, alpha, delta)
        if (w >= 0).all() and (g - g[on].mean() <= 1e-9).all():
            return w
    raise AssertionError("no equilibrium")


def test_default_study_is_the_documented_one():
    o = StudyOptions()
    assert (o.attractiveness, o.consistency, o.diversity) == (ALPHA, GAMMA, DELTA)
    assert (o.survey, o.agents, o.draws, o.precision, o.metric) == ("gss2018-ideology", 100, 200, "float64", "response")


def test_equilibrium_and_price_against_every_support(study, survey):
    answers, values = posterior_mean(survey)
    shares = survey.people / survey.people.sum()
    kernel, appeal = model(answers, values, shares)
    w = symmetric_equilibrium(kernel, appeal, shares, ALPHA)
    assert np.allclose(study.equilibrium.profile, w, atol=1e-9)  # all agents alike
    assert np.allclose(study.equilibrium.representation, w, atol=1e-9)
    g = marginals(w, kernel, appeal, shares, ALPHA)
    price = np.where(w > 0, 0, g.max() - g)
    assert np.allclose(study.price, price, atol=1e-9)
    assert study.excluded.tolist() == (w <= 1e-3).tolist()
    assert {survey.groups[d] for d in np.flatnonzero(study.excluded)} == {"extremely liberal", "extremely conservative"}
    assert study.certified and study.certificate.unique


def test_groups_leave_at_their_critical_ratios(study, survey):
    answers, values = posterior_mean(survey)
    shares = survey.people / survey.people.sum()
    kernel, appeal = model(answers, values, shares)
    for d, ratio in enumerate(study.critical):
        if np.isinf(ratio):
            assert symmetric_equilibrium(kernel, appeal, shares, 50.0)[d] > 0
        else:
            assert symmetric_equilibrium(kernel, appeal, shares, GAMMA * ratio * (1 - 1e-4))[d] > 0
            assert symmetric_equilibrium(kernel, appeal, shares, GAMMA * ratio * (1 + 1e-4))[d] == 0


def test_published_critical_ratios_without_diversity(survey):
    # Found by two independent computations when the survey was added.
    known = {"mixture": [0.4747, 1.3125, 13.230, np.inf, 12.487, 1.6379, 0.3331]}
    known["response"] = [0.1488, 0.4246, 0.7606, np.inf, 1.1373, 0.6208, 0.1002]
    for metric, ratios in known.items():
        options = StudyOptions(agents=5, diversity=0, metric=metric)  # pyright: ignore[reportArgumentType]
        found = studies._critical(survey, studies._levels(options, survey), studies._design(options))
        assert np.allclose(found, ratios, rtol=2e-4)


def test_draws_are_solved_like_the_survey_itself(study, survey):
    drawn = survey.posterior(OPTIONS.seed, OPTIONS.draws)
    values = np.array(survey.questions[0].values)
    for k in (0, 7, 19):
        shares = np.asarray(drawn.shares)[k]
        kernel, appeal = model([np.asarray(drawn.answers[q.id])[k] for q in survey.questions], values, shares)
        w = symmetric_equilibrium(kernel, appeal, shares, ALPHA)
        assert np.allclose(study.draws.representation[k], w, atol=1e-8)
        assert study.draws.excluded[k].tolist() == (w <= 1e-3).tolist()
        first = int(np.argmin(study.draws.critical[k]))
        ratio = study.draws.critical[k, first]
        assert symmetric_equilibrium(kernel, appeal, shares, GAMMA * ratio * 0.9999)[first] > 0
        assert symmetric_equilibrium(kernel, appeal, shares, GAMMA * ratio * 1.0001)[first] == 0
    assert study.draws.unconverged == 0


def test_plan_brings_every_group_to_half_its_share(study, survey):
    answers, values = posterior_mean(survey)
    shares = survey.people / survey.people.sum()
    kernel, appeal = model(answers, values, shares)
    addition = np.asarray(study.plan.theta)
    w = symmetric_equilibrium(kernel, appeal + addition, shares, ALPHA)
    assert study.plan.success and np.allclose(study.plan.equilibrium.representation, w, atol=1e-8)
    assert (w >= 0.5 * shares - 1e-9).all()
    # Complementary: nothing is added for a group that is above its floor.
    assert (
        (addition >= 0).all()
        and (addition[w > 0.5 * shares + 1e-6] == 0).all()
        and (addition[study.excluded] > 0).all()
    )
    drawn = survey.posterior(OPTIONS.seed, OPTIONS.draws)
    k = 7
    there = np.asarray(drawn.shares)[k]
    kernel, appeal = model([np.asarray(drawn.answers[q.id])[k] for q in survey.questions], values, there)
    w = symmetric_equilibrium(kernel, appeal + addition, there, ALPHA)
    assert np.allclose(study.draws.after[k], w, atol=1e-8)
    assert study.draws.reached[k].tolist() == (w >= 0.5 * there).tolist()


def test_plan_is_told(study, survey, results):
    plan = json.loads((results / "report.json").read_text())["plan"]
    assert plan["lever"] == "common" and plan["success"] and plan["floor"] == 0.5
    assert [row["addition"] for row in plan["groups"]] == np.asarray(study.plan.theta).tolist()
    assert plan["reached_in"] == study.draws.reached.all(1).mean()
    told = " ".join(findings(study))
    top = int(np.argmax(study.plan.theta))
    assert f"{float(study.plan.theta[top]):+.3g} for {survey.groups[top]}" in told
    bare = dataclasses.replace(study, plan=None, why_no_plan="there is no lever")
    assert "No plan to bring every group to 50% of its share of the people: there is no lever." in findings(bare)


def test_intervals_allow_infinity():
    draws = np.array([[1.0, 1.0]] * 10 + [[2.0, np.inf]] * 90)
    low, high = interval(draws)
    assert low.tolist() == [1.0, 1.0] and high.tolist() == [2.0, np.inf]


def test_report_agrees_with_profile_and_study(study, survey, results):
    report = json.loads((results / "report.json").read_text())
    with np.load(results / "profile.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert (report["schema"], report["version"]) == ("jaxgame.study", 1)
    assert report["options"]["attractiveness"] == ALPHA and report["ratio"] == ALPHA / GAMMA
    rows = report["groups"]
    assert [row["group"] for row in rows] == list(survey.groups) == arrays["groups"].tolist()
    assert np.allclose([row["representation"] for row in rows], arrays["profile"].mean(0), atol=1e-12)
    assert np.allclose([row["share"] for row in rows], survey.people / 2247)
    draws = np.sort(arrays["draws_representation"], 0)
    for d, row in enumerate(rows):
        assert np.allclose(row["representation_interval"], [draws[0, d], draws[18, d]])  # 5 % and 95 % of 20
        assert row["excluded_in"] == np.mean([mixture[d] <= 1e-3 for mixture in arrays["draws_representation"]])
        assert row["critical_ratio"] == (
            None if np.isinf(arrays["critical_ratios"][d]) else arrays["critical_ratios"][d]
        )
    assert not any(np.isnan(arrays[name]).any() for name in arrays if arrays[name].dtype.kind == "f")
    assert {"solve", "draws", "figures", "total"} <= set(report["timings"])
    assert set(report["figures"]) == {path.name for path in results.iterdir() if path.suffix in (".png", ".svg")}
    again = load(results / "survey.json")
    assert again.counts.keys() == survey.counts.keys()
    assert all(np.array_equal(again.counts[key], survey.counts[key]) for key in again.counts)


def test_residual_curves_end_where_the_report_says(study, results):
    report = json.loads((results / "report.json").read_text())
    assert [entry["solver"] for entry in report["solvers"]] == ["AggregativeNewton", *studies.COMPARED]
    for entry, curve in zip(report["solvers"], study.curves, strict=True):
        assert entry["residual"] == curve.residuals[-1]
        assert np.all(np.diff(curve.evaluations) > 0)
        assert curve.converged == (curve.residuals[-1] <= 1e-10)
    # The last iterate of the first-order methods has the residual that the definition gives it.
    extragradient = next(curve for curve in study.curves if curve.solver == "Extragradient")
    assert extragradient.evaluations[-1] == 1 + 2 * len(extragradient.residuals)


def test_indistinct_pairs_are_those_of_a_chi_square_test():
    for name in ("gss2018-ideology", "anes1996-party"):
        survey = load(name)
        expected = []
        for d, e in itertools.combinations(range(len(survey.groups)), 2):
            tests = []
            for counts in survey.counts.values():
                pair = counts[[d, e]]
                tests.append(chi2_contingency(pair[:, pair.sum(0) > 0], correction=False))
            if chi2.sf(sum(t.statistic for t in tests), sum(t.dof for t in tests)) > 0.01:  # pyright: ignore
                expected.append((d, e))
        assert indistinct(survey) == expected
    assert indistinct(load("gss2018-ideology")) == [(0, 1), (5, 6)]  # as permuting labels finds, too


def test_what_cannot_be_told_apart_is_said(study):
    text = " ".join(findings(study))
    assert "cannot tell extremely liberal from liberal; conservative from extremely conservative" in text
    assert "unweighted" in provenance(study) and "General Social Survey 2018" in provenance(study)


def test_map_is_classical_multidimensional_scaling(rng):
    responses = rng.normal(size=(6, 9)) * np.array([3, 2, 1, 1, 1, 1, 1, 1, 1])
    chart = draw_map(responses)
    squared = ((responses[:, None] - responses[None]) ** 2).sum(-1)
    centring = np.eye(6) - 1 / 6
    values, vectors = np.linalg.eigh(-centring @ squared @ centring / 2)
    expected = vectors[:, [-1, -2]] * np.sqrt(values[[-1, -2]])
    assert np.allclose(np.abs(chart.positions), np.abs(expected))
    assert np.allclose(chart.explained, values[[-1, -2]] / values.sum())
    mixture = rng.dirichlet(np.ones(6))
    assert np.allclose(chart.place(mixture @ responses), mixture @ chart.positions)
    assert chart.positions[0, 0] < 0
    assert draw_map(np.ones((3, 1))).positions.tolist() == [[0, 0]] * 3  # nothing to tell apart, no axis to speak of


def test_heterogeneous_targets_scatter_around_the_shares(survey):
    options = StudyOptions(agents=4000, heterogeneity=0.2)
    game = studies._built(survey, studies._levels(options, survey), design=studies._design(options))
    targets, shares = np.asarray(game.targets), np.asarray(survey.shares)
    assert np.allclose(targets.sum(1), 1) and (targets >= 0).all()
    assert np.allclose(targets.mean(0), shares, atol=4 * np.sqrt(0.2 * shares * (1 - shares) / 4000).max())
    assert np.allclose(targets.var(0), 0.2 * shares * (1 - shares), rtol=0.2)


def test_heterogeneity_is_labelled_and_its_ratios_are_those_of_the_shares(study, survey):
    options = StudyOptions(agents=5, draws=20, heterogeneity=0.1)
    found = studies._critical(survey, studies._levels(options, survey), studies._design(options))
    assert np.allclose(found, study.critical, rtol=1e-10)
    varied = dataclasses.replace(study, options=options)
    assert any("all agents were aligned to the population's shares" in sentence for sentence in findings(varied))
    assert not any("next to fall out" in sentence for sentence in findings(varied))
    assert "heterogeneity 0.1" in provenance(varied)


def test_no_critical_ratios_is_a_finding_not_a_failure(study):
    without = dataclasses.replace(
        study, critical=None, why_not_critical="for a reason", draws=dataclasses.replace(study.draws, critical=None)
    )
    assert "Critical ratios do not exist here: for a reason." in findings(without)
    for draw in FIGURES.values():
        assert draw(without).get_suptitle()


def test_everyone_represented_is_said(study):
    nobody = np.zeros_like(study.excluded)
    assert headline(dataclasses.replace(study, excluded=nobody)) == "All 7 groups are represented"


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off_and_no_two_texts_overlap(study, name, monkeypatch):
    drawn = {}
    draw = Text.draw

    def recording(self, renderer, *args, **kwargs):
        if self.get_text().strip():
            drawn[self] = Text.get_window_extent(self, renderer)
        draw(self, renderer, *args, **kwargs)

    with styled():
        figure = FIGURES[name](study)
        monkeypatch.setattr(Text, "draw", recording)  # only what is drawn: ticks beyond an axis exist, but are not
        figure.draw(FigureCanvasAgg(figure).get_renderer())
    width, height = figure.bbox.width, figure.bbox.height
    assert len(drawn) > 5
    for text, box in drawn.items():
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
        assert inside, f"{text.get_text()!r} is cut off"
    for (one, a), (other, b) in itertools.combinations(drawn.items(), 2):
        overlap = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(overlap) <= 1, f"{one.get_text()!r} covers {other.get_text()!r}"


def test_figures_have_both_formats_and_sources(results):
    for name in FIGURES:
        assert (results / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (results / f"{name}.svg").read_text()[:400]


def test_survey_options_belong_to_csv_files(tmp_path):
    with pytest.raises(ValueError, match="group is for a survey in a .csv file"):
        studies.load_survey(StudyOptions(group="party"))
    with pytest.raises(ValueError, match="needs --group"):
        studies.load_survey(StudyOptions(survey=str(tmp_path / "people.csv")))


def test_kernel_that_the_survey_cannot_give_is_refused_before_the_study(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text("who,q\na,yes\na,no\nb,no\nb,no\n")
    options = dict(survey=str(path), group="who", questions={"q": "unordered"})
    with pytest.raises(ValueError, match="kernel 'match'"):
        studies.load_survey(StudyOptions(**options))  # pyright: ignore[reportArgumentType]
    survey = studies.load_survey(StudyOptions(**options, kernel="match"))  # pyright: ignore[reportArgumentType]
    assert survey.groups == ("a", "b")


def test_float32_stays_float32():
    options = StudyOptions(precision="float32")
    survey = studies.load_survey(options)
    shape = jax.eval_shape(
        lambda s, levels: studies._solve(s, levels, design=studies._design(options)),
        survey,
        studies._levels(options, survey),
    )
    kinds = {leaf.dtype for leaf in jax.tree.leaves(shape) if leaf.dtype.kind == "f"}
    assert kinds == {np.dtype(np.float32)}


def test_staged_files_replace_all_or_none(tmp_path):
    out = tmp_path / "deep" / "results"
    with staged(out) as folder:
        (folder / "a").write_text("new")
        assert list(out.iterdir()) == [folder]
    assert {path.name for path in out.iterdir()} == {"a"}
    (out / "kept").write_text("mine")
    with pytest.raises(RuntimeError), staged(out) as folder:
        (folder / "a").write_text("half")
        raise RuntimeError
    assert {path.name: path.read_text() for path in out.iterdir()} == {"a": "new", "kept": "mine"}


def test_a_failed_first_run_leaves_no_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "x" / "y"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_interrupt_waits_for_the_last_rename(tmp_path, monkeypatch):
    real = os.replace

    def interrupted(source, target):
        signal.raise_signal(signal.SIGINT)
        real(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "out") as folder:
        for name in ("report.json", "a", "z"):
            (folder / name).write_text(name)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.json", "a", "z"}


def test_long_lists_are_counted(study):
    many = dataclasses.replace(study, excluded=np.arange(7) < 5, alike=[(0, e) for e in range(1, 7)])
    assert headline(many) == "No agent represents 5 of 7 groups"
    assert "3 other pairs (report.json names them)" in " ".join(findings(many))
    alone = dataclasses.replace(study, options=OPTIONS.model_copy(update={"agents": 1}))
    assert headline(alone).startswith("The agent does not represent 2 of 7 groups: extremely liberal")
