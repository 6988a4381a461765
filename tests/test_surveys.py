"""Surveys against recomputation from the raw files in numpy, distributions from scipy, and brute-force counting."""

import csv
import itertools
import json
import os
from collections import Counter
from pathlib import Path

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings

from jaxgame import surveys
from jaxgame.surveys import Survey, kernels, load, names

FOLDER = Path(surveys.__file__).parent / "data"
PEOPLE = {"anes1996-party": 944, "gss2018-ideology": 2247, "gss2018-ideology-age": 2241, "gss2018-party": 2238}
ROWS = [
    ("party", "age", "vote", "weight"),
    ("left", "1", "yes", "2"),
    ("left", "3", "no", "1"),
    ("right", "10", "no", "0.5"),
    ("right", "NA", "no", "1"),
    ("", "3", "yes", "1"),
    ("left", "3", "", "1"),
    ("right", "1", "yes", "4"),
]


def raw(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def tables_of(data, prior):
    """{question: (D, options)} by the definition."""
    out = {}
    for question in data["questions"]:
        counts = np.array(question["counts"], float) + prior
        out[question["id"]] = counts / counts.sum(1, keepdims=True)
    return out


def positions_of(data, tables):
    columns = []
    for question in data["questions"]:
        value = np.array(question["values"])
        columns.append(tables[question["id"]] @ ((value - min(value)) / (max(value) - min(value))))
    return np.stack(columns, 1)


def gaussian_of(phi):
    D = len(phi)
    distance = np.array([[np.linalg.norm(phi[d] - phi[e]) for e in range(D)] for d in range(D)])
    h = np.median([distance[d, e] for d, e in itertools.combinations(range(D), 2)])
    return np.exp(-(distance**2) / (2 * h**2))


def match_of(tables):
    D = len(next(iter(tables.values())))
    return np.array([[np.mean([p[d] @ p[e] for p in tables.values()]) for e in range(D)] for d in range(D)])


def variation(tables):
    """(D, D) total variation between groups, averaged over questions."""
    return np.mean([np.abs(p[:, None] - p[None]).sum(-1) / 2 for p in tables.values()], axis=0)


def write(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def sample(tmp_path):
    return write(tmp_path / "sample.csv", ROWS)


# --- the surveys that come with the package ---------------------------------------------------------------------------


@pytest.mark.float32
@pytest.mark.parametrize("name", PEOPLE)
@pytest.mark.parametrize("prior", [0.0, 0.5])
def test_definitions(name, prior, dtype):
    data, survey = raw(name), load(name, prior=prior)
    tables = tables_of(data, prior)
    eps = float(jnp.finfo(dtype).eps)
    assert survey.dtype == dtype and survey.kernel.dtype == dtype and survey.spread.dtype == dtype
    assert all(survey.answers[key].dtype == dtype for key in tables)
    assert survey.groups == tuple(data["groups"]) and list(survey.people) == data["people"]
    assert sum(data["people"]) == PEOPLE[name] and survey.source == data["source"] and survey.note and survey.title
    assert not survey.weighted
    np.testing.assert_allclose(survey.shares, np.array(data["people"]) / PEOPLE[name], rtol=2 * eps)
    assert set(survey.answers) == set(tables) == set(survey.counts) == {q.id for q in survey.questions}
    for question in data["questions"]:
        key = question["id"]
        np.testing.assert_allclose(survey.answers[key], tables[key], rtol=2 * eps)
        np.testing.assert_array_equal(survey.counts[key], question["counts"])
        assert survey.dropped[key] == PEOPLE[name] - np.sum(question["counts"])
    phi = positions_of(data, tables)
    np.testing.assert_allclose(survey.mean_answers, phi, atol=20 * eps)
    np.testing.assert_allclose(survey.kernel, gaussian_of(phi), atol=200 * eps)
    np.testing.assert_allclose(survey.similarity("match"), match_of(tables), atol=20 * eps)
    np.testing.assert_array_equal(survey.spread, np.ones(len(survey.groups)))


def test_names():
    assert names() == tuple(sorted(PEOPLE))
    assert load().name == "gss2018-ideology"
    assert load("gss2018-party").name == "gss2018-party"
    with pytest.raises(ValueError, match="'gss'.*anes1996-party, gss2018-ideology, "):
        load("gss")


def test_known_numbers():
    """Facts about the data that were computed elsewhere, at prior 0."""
    survey = load("gss2018-ideology", prior=0)
    assert np.round(survey.shares, 3).tolist() == [0.054, 0.124, 0.114, 0.381, 0.126, 0.158, 0.044]
    party = load("gss2018-party")
    assert np.round(party.shares, 3).tolist() == [0.169, 0.157, 0.137, 0.185, 0.116, 0.122, 0.114]
    assert np.linalg.cond(survey.kernel) == pytest.approx(404, abs=0.5)
    assert np.linalg.cond(load("anes1996-party", prior=0).kernel) == pytest.approx(37_000, rel=2e-3)
    conditions = [np.linalg.cond(load(name, prior=0).similarity("match")) for name in names()]
    assert min(conditions) == pytest.approx(1_300, rel=0.03) and max(conditions) == pytest.approx(4_800, rel=0.01)
    between = variation({key: np.asarray(p) for key, p in survey.answers.items()})
    assert between[np.triu_indices(7, 1)].mean() == pytest.approx(0.150, abs=5e-4)
    assert between[0, 1] == pytest.approx(0.045, abs=6e-4) and between[5, 6] == pytest.approx(0.055, abs=6e-4)


@pytest.mark.parametrize("name, shares", [("gss2018-ideology", [0.94]), ("gss2018-ideology-age", [0.80, 0.12])])
def test_dimensions(name, shares):
    """Classical scaling: shares of the first axes in the sum of squared coordinates."""
    phi = np.asarray(load(name, prior=0).mean_answers)
    values = np.linalg.svd(phi - phi.mean(0), compute_uv=False) ** 2
    np.testing.assert_allclose(values[: len(shares)] / values.sum(), shares, atol=5e-3)


def test_noise_floor(rng):
    """With labels permuted the mean total variation between ideology groups is about .049: the noise in the .150."""
    counts = load().counts

    def permuted():
        out = {}
        for key, table in counts.items():
            labels = np.repeat(np.arange(len(table)), table.sum(1))
            answers = np.repeat(np.arange(table.shape[1]), table.sum(0))
            shuffled = np.zeros(table.shape)
            np.add.at(shuffled, (labels, rng.permutation(answers)), 1)
            out[key] = shuffled / shuffled.sum(1, keepdims=True)
        return variation(out)[np.triu_indices(7, 1)].mean()

    assert np.mean([permuted() for _ in range(20)]) == pytest.approx(0.049, abs=1e-3)


@pytest.mark.float32
def test_dtype(dtype):
    assert load().dtype == dtype
    small = load(dtype=jnp.float32)
    assert small.dtype == small.kernel.dtype == small.similarity("match").dtype == jnp.float32
    assert small.posterior(0, 2).kernel.dtype == small.bootstrap(0, 2).kernel.dtype == jnp.float32
    assert small.game(3).kernel.dtype == jnp.float32
    if dtype == np.float32:
        with pytest.raises(ValueError, match="dtype is float64.*jax_enable_x64"):
            load(dtype="float64")
    with pytest.raises(ValueError, match="dtype is int32"):
        load(dtype="int32")


@pytest.mark.parametrize("prior", [-0.1, np.inf, np.nan, "half", None])
def test_bad_prior(prior):
    with pytest.raises(ValueError, match="prior is"):
        load(prior=prior)


# --- kernels ----------------------------------------------------------------------------------------------------------


@pytest.mark.float32
def test_gaussian_of_coinciding_groups(dtype):
    """The limit h → 0, and derivatives that stay finite."""
    same = jnp.full((4, 3), 0.3, dtype)
    np.testing.assert_array_equal(kernels.gaussian(same), np.ones((4, 4)))
    blocks = jnp.asarray([[0.1], [0.1], [0.1], [0.1], [0.7]], dtype)
    expected = np.zeros((5, 5))
    expected[:4, :4], expected[4, 4] = 1, 1
    np.testing.assert_array_equal(kernels.gaussian(blocks), expected)
    pair = jnp.asarray([[0.1], [0.1], [0.4], [0.9]], dtype)
    for positions in (same, blocks, pair):
        assert np.isfinite(jax.grad(lambda x: kernels.gaussian(x).sum())(positions)).all()


def test_kernel_derivative(rng):
    """Against central differences, through tables, mean answers and the median."""
    logits = rng.normal(size=(5, 3))
    value = np.array([0.0, 1.0, 4.0])

    def total(x, kind):
        table = jax.nn.softmax(x, axis=-1)
        kernel = kernels.match([table]) if kind == "match" else kernels.gaussian(kernels.mean_answers([table], [value]))
        return jnp.sum(kernel * jnp.arange(25.0).reshape(5, 5))

    for kind in ("gaussian", "match"):
        gradient = jax.grad(total)(jnp.asarray(logits), kind)
        for index in np.ndindex(5, 3):
            step = np.zeros((5, 3))
            step[index] = 1e-6
            central = (total(jnp.asarray(logits + step), kind) - total(jnp.asarray(logits - step), kind)) / 2e-6
            assert gradient[index] == pytest.approx(float(central), rel=1e-6, abs=1e-7)


# --- games ------------------------------------------------------------------------------------------------------------


@pytest.mark.float32
@pytest.mark.parametrize("kind", ["gaussian", "match"])
def test_game(kind, dtype):
    survey = load()
    game = survey.game(5, kernel=kind, attractiveness=0.3, diversity=0.1, consistency_metric="mixture")
    eps = float(jnp.finfo(dtype).eps)
    tables = tables_of(raw(survey.name), 0.5)
    kernel = match_of(tables) if kind == "match" else gaussian_of(positions_of(raw(survey.name), tables))
    shares = np.array(raw(survey.name)["people"]) / PEOPLE[survey.name]
    assert (game.n_agents, game.n_groups) == (5, 7) and game.kernel.dtype == dtype
    np.testing.assert_allclose(game.targets, np.tile(shares, (5, 1)), rtol=4 * eps)
    np.testing.assert_allclose(game.kernel, kernel, atol=200 * eps)
    np.testing.assert_allclose(game.appeal, np.tile(kernel @ shares, (5, 1)), atol=200 * eps)
    np.testing.assert_array_equal(game.spread, np.ones(7))
    np.testing.assert_allclose(game.attractiveness, 0.3, rtol=eps)
    assert game.consistency_metric == "mixture"


def test_game_with_own_arrays(rng):
    survey = load()
    kernel, appeal, targets = np.diag(np.arange(1.0, 8.0)), rng.normal(size=(3, 7)), rng.dirichlet(np.ones(7), size=3)
    game = survey.game(3, kernel=kernel, appeal=appeal, targets=targets)
    np.testing.assert_array_equal(game.kernel, kernel)
    np.testing.assert_array_equal(game.spread, np.arange(1.0, 8.0))
    np.testing.assert_array_equal(game.appeal, appeal)
    np.testing.assert_allclose(game.targets, targets, rtol=1e-15)
    np.testing.assert_allclose(survey.game(3, kernel=kernel).appeal[0], kernel @ survey.shares, rtol=1e-14)
    np.testing.assert_allclose(survey.game(2, targets=targets[0]).targets, np.tile(targets[0], (2, 1)), rtol=1e-15)
    np.testing.assert_array_equal(survey.game(2, spread=np.full(7, 2.0)).spread, np.full(7, 2.0))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(n_agents=0), "n_agents is 0"),
        (dict(n_agents=2.5), "n_agents is 2.5"),
        (dict(kernel="rbf"), "kernel is 'rbf', expected 'gaussian', 'match'"),
        (dict(kernel=np.eye(6)), r"kernel has shape \(6, 6\), expected \(7, 7\)"),
        (dict(appeal=np.ones(6)), r"appeal has shape \(6,\), expected \(7,\) or \(3, 7\)"),
        (dict(targets=np.ones((4, 7)) / 7), r"targets has shape \(4, 7\), expected \(7,\) or \(3, 7\)"),
        (dict(targets=np.ones(7)), "targets"),
    ],
)
def test_bad_game(options, message):
    with pytest.raises(ValueError, match=message):
        load().game(**({"n_agents": 3} | options))


# --- uncertainty ------------------------------------------------------------------------------------------------------


def beta_agrees(draws, a, total):
    """Marginals of a Dirichlet are Beta(a, total − a): the Kolmogorov–Smirnov test."""
    return scipy.stats.kstest(np.asarray(draws), scipy.stats.beta(a, total - a).cdf).pvalue > 1e-4


def test_posterior():
    survey, draws = load("anes1996-party"), 3000
    drawn = survey.posterior(3, draws)
    assert drawn.shares.shape == (draws, 7) and drawn.kernel.shape == (draws, 7, 7) and drawn.spread.shape == (draws, 7)
    assert drawn.groups == survey.groups and drawn.counts.keys() == survey.counts.keys()
    people = survey.people
    for d in range(7):
        assert beta_agrees(drawn.shares[:, d], people[d], people.sum())
    for key, counts in survey.counts.items():
        a = counts + 0.5
        total = a.sum(1, keepdims=True)
        mean = a / total
        variance = mean * (1 - mean) / (total + 1)
        samples = np.asarray(drawn.answers[key])
        assert samples.shape == (draws, *counts.shape)
        np.testing.assert_allclose(samples.sum(-1), 1, atol=1e-14)
        assert (np.abs(samples.mean(0) - mean) < 5 * np.sqrt(variance / draws)).all()
        np.testing.assert_allclose(mean, survey.answers[key], rtol=1e-14)
        kurtosis = scipy.stats.beta(a, total - a).stats(moments="k")
        spread = np.sqrt((kurtosis + 2) / draws)  # relative standard error of a sample variance
        assert (np.abs(samples.var(0) / variance - 1) < 5 * spread).all()
        assert beta_agrees(samples[:, 3, 0], a[3, 0], total[3, 0])
        # the options of one group go down when another goes up: Cov = −m_0 m_1 / (A + 1)
        covariance = np.cov(samples[:, 3, 0], samples[:, 3, 1])[0, 1]
        assert covariance == pytest.approx(-mean[3, 0] * mean[3, 1] / (total[3, 0] + 1), abs=0.1 * variance[3, 0])
    across = np.corrcoef(drawn.answers["selfLR"][:, 0, 0], drawn.answers["ClinLR"][:, 0, 0])[0, 1]
    assert abs(across) < 5 / np.sqrt(draws)


def test_bootstrap():
    survey, draws = load("anes1996-party"), 3000
    drawn = survey.bootstrap(4, draws)
    assert drawn.shares.shape == (draws, 7) and drawn.kernel.shape == (draws, 7, 7)
    n, share = survey.people.sum(), survey.people / survey.people.sum()
    resampled = np.asarray(drawn.shares) * n
    np.testing.assert_allclose(resampled, np.rint(resampled), atol=1e-9)
    assert (np.abs(resampled.mean(0) - n * share) < 5 * np.sqrt(n * share * (1 - share) / draws)).all()
    for key, counts in survey.counts.items():
        size, options = counts.sum(1), counts.shape[1]
        frequency = counts / size[:, None]
        again = np.asarray(drawn.answers[key]) * (size + 0.5 * options)[None, :, None] - 0.5
        np.testing.assert_allclose(again, np.rint(again), atol=1e-9)
        np.testing.assert_allclose(again.sum(-1), np.broadcast_to(size, (draws, 7)), atol=1e-9)
        variance = size[:, None] * frequency * (1 - frequency)
        assert (np.abs(again.mean(0) - counts) <= 5 * np.sqrt(variance / draws) + 1e-9).all()
        frequent = variance > 5  # where the sample variance is nearly normal
        np.testing.assert_allclose(again.var(0)[frequent], variance[frequent], rtol=5 * np.sqrt(2.5 / draws))


def test_zero_cells_without_prior():
    """A cell nobody chose stays at zero in every draw when there is no prior."""
    survey = load("anes1996-party", prior=0)
    empty = survey.counts["selfLR"] == 0
    assert empty.any()
    for drawn in (survey.posterior(0, 20), survey.bootstrap(0, 20)):
        assert (np.asarray(drawn.answers["selfLR"])[:, empty] == 0).all()
        assert np.isfinite(drawn.kernel).all()


@pytest.mark.float32
@pytest.mark.parametrize("method", ["posterior", "bootstrap"])
def test_draws_through_transformations(method, dtype):
    survey = load("anes1996-party")
    drawn = getattr(survey, method)(7, 4)
    assert drawn.dtype == drawn.answers["vote"].dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    for kind in ("gaussian", "match"):
        mapped = jax.vmap(lambda one, kind=kind: one.game(3, kernel=kind))(drawn)
        batch = jax.jit(lambda many, kind=kind: many.similarity(kind))(drawn)
        assert mapped.targets.shape == (4, 3, 7) and mapped.kernel.dtype == dtype
        for k in range(4):
            tables = {key: np.asarray(p, np.float64)[k] for key, p in drawn.answers.items()}
            data = raw(survey.name)
            expected = match_of(tables) if kind == "match" else gaussian_of(positions_of(data, tables))
            np.testing.assert_allclose(mapped.kernel[k], expected, atol=200 * eps)
            np.testing.assert_allclose(batch[k], expected, atol=200 * eps)
            np.testing.assert_allclose(mapped.appeal[k, 2], expected @ np.asarray(drawn.shares[k]), atol=500 * eps)
    for refused in (lambda: drawn.game(3), lambda: drawn.posterior(0, 2), lambda: drawn.bootstrap(0, 2)):
        with pytest.raises(ValueError, match="holds 4 draws"):
            refused()


@pytest.mark.parametrize("method", ["posterior", "bootstrap"])
def test_seeds(method):
    draw = getattr(load("anes1996-party"), method)
    key = jax.random.key(7)
    for seed in (7, np.int32(7), key):
        np.testing.assert_array_equal(draw(seed, 2).shares, draw(seed, 2).shares)
    np.testing.assert_array_equal(draw(7, 2).shares, draw(np.int32(7), 2).shares)
    np.testing.assert_array_equal(draw(key, 2).answers["vote"], draw(jax.random.PRNGKey(7), 2).answers["vote"])
    seeds = [7, 8, key, *jax.random.split(key)]
    shares = [np.asarray(draw(seed, 1).shares) for seed in seeds]
    assert all(not np.array_equal(a, b) for a, b in itertools.combinations(shares, 2))
    for seed in (-1, 0.5, "7", None):
        with pytest.raises(ValueError, match="seed is"):
            draw(seed, 2)
    with pytest.raises(ValueError, match="seed is .*not traced"):
        jax.jit(lambda traced: draw(traced, 2).shares)(key)
    for draws in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"draws is {draws}"):
            draw(0, draws)


def test_static_parts_are_equal():
    """Two loads of one survey share a trace."""
    traces = []

    @jax.jit
    def kernel(survey):
        traces.append(survey.name)
        return survey.kernel

    kernel(load("gss2018-party"))
    kernel(load("gss2018-party"))
    assert traces == ["gss2018-party"]


# --- microdata --------------------------------------------------------------------------------------------------------


def test_csv_by_hand(sample):
    survey = Survey.from_csv(sample, "party", {"age": "numeric", "vote": ["no", "yes"]}, prior=1)
    assert survey.groups == ("left", "right") and list(survey.people) == [3, 3]
    assert survey.questions[0].options == ("1", "3", "10") and survey.questions[0].values == (1.0, 3.0, 10.0)
    assert survey.counts["age"].tolist() == [[1, 2, 0], [1, 0, 1]]
    assert survey.counts["vote"].tolist() == [[1, 1], [2, 1]]
    assert survey.dropped == {"age": 1, "vote": 1} and survey.dropped_rows == 1
    np.testing.assert_allclose(survey.answers["age"], [[2 / 6, 3 / 6, 1 / 6], [2 / 5, 1 / 5, 2 / 5]], rtol=1e-15)
    np.testing.assert_allclose(survey.mean_answers[:, 0], [(3 / 6) * (2 / 9) + 1 / 6, (1 / 5) * (2 / 9) + 2 / 5])
    assert survey.name == "sample" and survey.source == "sample.csv" and not survey.weighted


def test_csv_weights_by_hand(sample):
    survey = Survey.from_csv(sample, "party", {"vote": ["no", "yes"]}, weight="weight", name="n", title="t", source="s")
    assert (survey.name, survey.title, survey.source, survey.weighted) == ("n", "t", "s", True)
    assert "weight" in survey.note
    assert list(survey.people) == [3, 3] and survey.dropped == {"vote": 1}
    assert survey.counts["vote"].tolist() == [[1, 2], [1.5, 4]]
    np.testing.assert_allclose(survey.shares, [4 / 9.5, 5.5 / 9.5], rtol=1e-15)
    kish = np.array([9 / 5, 5.5**2 / (0.25 + 1 + 16)])
    frequency = np.array([[1 / 3, 2 / 3], [1.5 / 5.5, 4 / 5.5]])
    expected = (kish[:, None] * frequency + 0.5) / (kish[:, None] + 1)
    np.testing.assert_allclose(survey.answers["vote"], expected, rtol=1e-15)
    everyone = 9.5**2 / (4 + 1 + 0.25 + 1 + 1 + 16)
    drawn = survey.posterior(0, 3000)
    for d in range(2):
        assert beta_agrees(drawn.shares[:, d], everyone * float(survey.shares[d]), everyone)
        assert beta_agrees(drawn.answers["vote"][:, d, 0], kish[d] * frequency[d, 0] + 0.5, kish[d] + 1)


def test_weights_of_two_are_duplicated_rows(tmp_path, rng):
    body = [(f"g{rng.integers(3)}", str(rng.integers(4)), str(rng.integers(1, 3))) for _ in range(300)]
    twice = [row for row in body for _ in range(int(row[2]))]
    weighted = Survey.from_csv(write(tmp_path / "w.csv", [("g", "q", "w"), *body]), "g", ["q"], weight="w", prior=0)
    repeated = Survey.from_csv(write(tmp_path / "r.csv", [("g", "q", "w"), *twice]), "g", ["q"], prior=0)
    np.testing.assert_array_equal(weighted.counts["q"], repeated.counts["q"])
    np.testing.assert_allclose(weighted.shares, repeated.shares, rtol=1e-15)
    np.testing.assert_allclose(weighted.answers["q"], repeated.answers["q"], rtol=1e-14)
    np.testing.assert_allclose(weighted.kernel, repeated.kernel, rtol=1e-13)
    # but the sample has not grown: the posterior is wider than that of twice the rows
    assert weighted.people.sum() == 300 and repeated.people.sum() == len(twice)
    assert (np.std(weighted.posterior(0, 500).shares, 0) > np.std(repeated.posterior(0, 500).shares, 0)).all()


@pytest.mark.parametrize("constant", ["1", "0.001", "7"])
def test_constant_weights_change_nothing(tmp_path, rng, constant):
    body = [(f"g{rng.integers(3)}", str(rng.integers(4)), constant) for _ in range(200)]
    path = write(tmp_path / "c.csv", [("g", "q", "w"), *body])
    plain, weighted = Survey.from_csv(path, "g", ["q"]), Survey.from_csv(path, "g", ["q"], weight="w")
    np.testing.assert_allclose(weighted.answers["q"], plain.answers["q"], rtol=1e-12)
    np.testing.assert_allclose(weighted.shares, plain.shares, rtol=1e-12)
    np.testing.assert_allclose(weighted.posterior(1, 5).kernel, plain.posterior(1, 5).kernel, rtol=1e-9)
    np.testing.assert_allclose(weighted.bootstrap(1, 5).kernel, plain.bootstrap(1, 5).kernel, rtol=1e-9)


text = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters=',"\n;'), min_size=1, max_size=6)
label = text.map(str.strip).filter(lambda x: x not in ("", "NA", "NaN", "nan"))


@settings(max_examples=60)
@given(st.data())
def test_csv_counts(tmp_path_factory, data):
    """Any file of any labels: counts, people and missing answers as counted one by one."""
    groups = data.draw(st.lists(label, min_size=2, max_size=4, unique=True))
    options = data.draw(st.lists(label, min_size=2, max_size=4, unique=True))
    absent = st.sampled_from(["", "NA", "NaN", "nan"])
    row = st.tuples(st.sampled_from(groups) | absent, st.sampled_from(options) | absent, st.integers(-3, 3).map(str))
    rows = data.draw(st.lists(row, max_size=40))
    rows += [(group, options[0], str(k)) for group in groups for k in range(2)]
    path = write(tmp_path_factory.mktemp("csv") / "any.csv", [("group, so", "the\nquestion", "n"), *rows])
    survey = Survey.from_csv(path, "group, so", {"the\nquestion": options, "n": "numeric"}, groups=groups)
    known = [r for r in rows if r[0] in groups]
    tally, numbers = Counter((r[0], r[1]) for r in known), Counter((r[0], r[2]) for r in known)
    assert survey.groups == tuple(groups) and survey.questions[0].options == tuple(options)
    assert survey.counts["the\nquestion"].tolist() == [[tally[g, o] for o in options] for g in groups]
    values = sorted({int(r[2]) for r in known})
    assert survey.questions[1].values == tuple(values)
    assert survey.counts["n"].tolist() == [[numbers[g, str(v)] for v in values] for g in groups]
    assert list(survey.people) == [sum(r[0] == g for r in known) for g in groups]
    assert survey.dropped == {"the\nquestion": sum(r[1] not in options for r in known), "n": 0}
    assert survey.dropped_rows == len(rows) - len(known)
    copy = path.with_suffix(".json")
    survey.to_json(copy)
    assert Survey.from_json(copy).table == survey.table


def test_csv_forms_of_questions(sample):
    def question(form, **options):
        survey = Survey.from_csv(sample, "party", {"age": form}, **options)
        return survey.questions[0], survey.counts["age"].tolist()

    found, counts = question([10, 3, 1])
    assert found.values == (10.0, 3.0, 1.0) and counts == [[0, 2, 1], [1, 0, 1]]
    found, counts = question(["1", "3", "10", "20"])
    assert found.values == (0.0, 1.0, 2.0, 3.0) and counts == [[1, 2, 0, 0], [1, 0, 1, 0]]
    found, counts = question({"3": -1.5, "1": 2, "10": 0})
    assert found.options == ("3", "1", "10") and found.values == (-1.5, 2.0, 0.0) and counts == [[2, 1, 0], [0, 1, 1]]
    found, counts = question(None)
    assert found.options == ("1", "10", "3") and found.values is None
    found, counts = question("numeric", missing=[3.0, "NA"], groups=["right", "left"])
    assert found.options == ("1", "10") and counts == [[1, 1], [1, 0]]


def test_unordered_options(sample):
    survey = Survey.from_csv(sample, "party", {"vote": None})
    np.testing.assert_allclose(survey.similarity("match"), match_of({"vote": np.asarray(survey.answers["vote"])}))
    assert survey.game(2, kernel="match").n_groups == 2
    for needs_values in (lambda: survey.kernel, lambda: survey.game(2)):
        with pytest.raises(ValueError, match="question 'vote' has options without values"):
            needs_values()


def test_csv_groups(tmp_path):
    rows = [("g", "q"), ("10", "1"), ("9", "2"), ("10", "2"), ("other", "oops")]
    path = write(tmp_path / "g.csv", rows[:4])
    assert Survey.from_csv(path, "g", ["q"]).groups == ("9", "10")
    path = write(tmp_path / "g.csv", rows)
    survey = Survey.from_csv(path, "g", ["q"], groups=[10, 9])
    assert survey.groups == ("10", "9") and list(survey.people) == [2, 1] and survey.dropped_rows == 0


def test_csv_with_byte_order_mark_and_blank_lines(tmp_path):
    path = tmp_path / "bom.csv"
    path.write_bytes(b"\xef\xbb\xbfg, q \r\na,1\r\n\r\n b ,2\r\na,2\r\n\r\n")
    assert Survey.from_csv(path, "g", ["q"]).counts["q"].tolist() == [[1, 1], [0, 1]]
    path.write_text("g,q\na,1\n\nb,x\n")
    with pytest.raises(ValueError, match="row 4, column 'q': the answer is 'x'"):
        Survey.from_csv(path, "g", ["q"])


@pytest.mark.parametrize(
    "content, options, message",
    [
        (b"", {}, "is empty, expected a header"),
        (b"g,q,w\n", {}, "holds the groups []"),
        (b"g,q\na,1\nb,2\n", dict(group="h"), "no column is named 'h'; the header has 'g', 'q'"),
        (b"g,q\na,1\nb,2\n", dict(questions=["q", "r"]), "no column is named 'r'"),
        (b"g,q\na,1\nb,2\n", dict(weight="w"), "no column is named 'w'"),
        (b"g,q,g\na,1,a\n", {}, "two columns of the header are named 'g'"),
        (b"g,q\na,1\nb\n", {}, "row 3 has 1 cells, the header 2"),
        (b"g,q\na,1\nb,1,2\n", {}, "row 3 has 3 cells, the header 2"),
        (b"g,q\na,1\nb,\xff2\n", {}, "line 3 is not UTF-8 text (byte 0xff)"),
        (b'g,q\na,1\nb,"2\n', {}, "is not valid CSV"),
        (b"g,q\na,1\na,2\n", {}, "holds the groups ['a'], expected at least two"),
        (b"g,q\na,1\nb,2\n", dict(groups=["a", "c"]), "group 'c' is empty: no row has it in column 'g'"),
        (
            b"g,q,w\na,1,1\nb,2,0\n",
            dict(weight="w"),
            "group 'b' is empty: no row has it in column 'g' and a weight > 0",
        ),
        (b"g,q\na,1\nb,1\n", {}, "column 'q' holds the answers [1.0], expected at least two"),
        (b"g,q\na,1\na,2\nb,\n", {}, "nobody in group 'b' answered column 'q'"),
        (b"g,q\na,1\nb,yes\n", {}, "row 3, column 'q': the answer is 'yes', expected a number"),
        (b"g,q\na,1\nb,inf\n", {}, "row 3, column 'q': the answer is 'inf', expected a number"),
        (
            b"g,q\na,x\nb,y\n",
            dict(questions={"q": ["x", "z"]}),
            "row 3, column 'q': the answer is 'y', expected one of",
        ),
        (b"g,q\na,1\nb,2\n", dict(questions={"q": [1, 3]}), "row 3, column 'q': the answer is '2', expected one of"),
        *(
            (f"g,q,w\na,1,1\nb,2,{bad}\n".encode(), dict(weight="w"), f"row 3, column 'w': the weight is '{bad}'")
            for bad in ("x", "-1", "NaN", "inf", "", "1e300")
        ),
        (b"g,q\na,1\nb,2\n", dict(group="q"), "column 'q' is used twice"),
        (b"g,q\na,1\nb,2\n", dict(weight="q"), "column 'q' is used twice"),
        (b"g,q\na,1\nb,2\n", dict(questions=["q", "q"]), "questions: 'q' appears twice"),
        (b"g,q\na,1\nb,2\n", dict(questions=[]), "questions is empty"),
        (b"g,q\na,1\nb,2\n", dict(questions="q"), "questions is 'q', expected a list or a dict"),
        (b"g,q\na,1\nb,2\n", dict(questions=None), "questions is None, expected a list or a dict"),
        (b"g,q\na,1\nb,2\n", dict(groups="ab"), "groups is 'ab', expected a list"),
        (b"g,q\na,1\nb,2\n", dict(missing=99), "missing is 99, expected a list"),
        (b"g,q\na,1\nb,2\n", dict(dtype="foo"), "dtype is 'foo', expected a floating type"),
        (b"g,q\na,1\nb,2\n", dict(questions={"q": "ordered"}), "questions['q'] is 'ordered'"),
        (b"g,q\na,1\nb,2\n", dict(questions={"q": ["1"]}), "questions['q'] has the options ['1']"),
        (b"g,q\na,1\nb,2\n", dict(questions={"q": ["1", "1"]}), "questions['q']: '1' appears twice"),
        (b"g,q\na,1\nb,2\n", dict(questions={"q": [1, "2"]}), "questions['q']: '2' stands among numbers"),
        (b"g,q\na,1\nb,2\n", dict(questions={"q": {"1": 0, "2": "?"}}), "questions['q']: the value of '2' is '?'"),
        (b"g,q\na,1\nb,2\n", dict(questions={"q": {"1": 3, "2": 3}}), "at least two different numbers"),
        (b"g,q\na,1\nb,2\n", dict(questions={"q": [1, 2]}, missing=["2.0"]), "the option 2.0 is also in missing"),
        (b"g,q\na,1\nb,2\n", dict(missing="NA"), "missing is 'NA', expected a list"),
        (b"g,q\na,1\nb,2\n", dict(groups=["a", "a"]), "groups: 'a' appears twice"),
    ],
)
def test_bad_csv(tmp_path, content, options, message):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    arguments = {"group": "g", "questions": ["q"]} | options
    with pytest.raises(ValueError) as error:
        Survey.from_csv(path, **arguments)
    assert message in str(error.value)
    of_arguments = ("questions", "missing", "groups", "dtype", "column 'q' is used")
    assert str(error.value).startswith((str(path), *of_arguments))


def test_missing_files(tmp_path):
    for read in (lambda p: Survey.from_csv(p, "g", ["q"]), Survey.from_json, load):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "nowhere.json")


# --- files of counts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [None, "weight"])
def test_json_round_trip(sample, tmp_path, weight):
    survey = Survey.from_csv(sample, "party", {"age": "numeric", "vote": None}, weight=weight)
    path = tmp_path / "kept.json"
    path.write_text("old")
    survey.to_json(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["kept.json", "sample.csv"]
    for again in (Survey.from_json(path), load(path), load(str(path))):
        assert again.table == survey.table
        np.testing.assert_array_equal(again.shares, survey.shares)
        np.testing.assert_array_equal(again.answers["age"], survey.answers["age"])
    assert Survey.from_json(path, prior=0, dtype="float32").dtype == np.float32


@pytest.mark.parametrize("name", PEOPLE)
def test_embedded_format(name, tmp_path):
    """What to_json writes of an embedded survey says the same as the embedded file."""
    load(name).to_json(tmp_path / "copy.json")
    copy, original = json.loads((tmp_path / "copy.json").read_text(encoding="utf-8")), raw(name)
    assert {key: copy[key] for key in original} == original
    assert set(copy) - set(original) == {"dropped_rows"}


def test_json_is_written_whole_or_not_at_all(sample, tmp_path, monkeypatch):
    survey = Survey.from_csv(sample, "party", {"vote": None})
    path = tmp_path / "kept.json"
    path.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        survey.to_json(path)
    assert path.read_text() == "old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["kept.json", "sample.csv"]
    with pytest.raises(ValueError, match="to_json: this survey holds 2 draws"):
        survey.posterior(0, 2).to_json(path)


def edited(*path, value=None, drop=False):
    """The small valid table with one entry set or dropped."""
    table = {
        "name": "t",
        "groups": ["a", "b"],
        "people": [5, 6],
        "questions": [{"id": "q", "options": ["x", "y"], "values": [0, 1], "counts": [[1, 2], [3, 3]]}],
    }
    place = table
    for key in path[:-1]:
        place = place[key]
    if drop:
        del place[path[-1]]
    elif path:
        place[path[-1]] = value
    return table


def weighted(**changes):
    table = edited("weighted", value=True) | {"weights": [1.5, 2.0], "effective": 7.5}
    table["questions"][0] |= {"effective": [2.5, 5.0], "dropped": 1}
    for key, value in changes.items():
        place = table["questions"][0] if key in ("dropped", "rows") else table
        place["effective" if key == "rows" else key] = value
    return table


def test_small_table(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(json.dumps(edited()))
    assert load(path).dropped == {"q": 2}
    path.write_text(json.dumps(weighted()))
    survey = load(path)
    np.testing.assert_allclose(survey.shares, [1.5 / 3.5, 2 / 3.5])
    np.testing.assert_allclose(survey.answers["q"], [[(2.5 / 3 + 0.5) / 3.5, (5 / 3 + 0.5) / 3.5], [0.5, 0.5]])


QUESTION = ("questions", 0)


@pytest.mark.parametrize(
    "table, message",
    [
        ([1], "is [1], expected an object"),
        (edited("groups", drop=True), "'groups' is missing"),
        (edited("wieghted", value=True), "unknown entry 'wieghted'; known are dropped_rows, groups"),
        (edited("weighted", value=1), "weighted is 1, expected true or false"),
        (edited("weights", value=[1, 1]), "unknown entry 'weights'"),
        (edited("name", value=""), "name is '', expected a text that is not empty"),
        (edited("title", value=3), "title is 3, expected a text"),
        (edited("groups", value=["a"]), "groups is ['a'], expected a list of at least two texts"),
        (edited("groups", value="ab"), "groups is 'ab', expected a list"),
        (edited("groups", 1, value="a"), "groups[1] is 'a', expected texts that differ"),
        (edited("groups", 1, value=2), "groups[1] is 2, expected a text"),
        (edited("people", value=[5]), "people is [5], expected a list of 2 numbers"),
        (edited("people", 0, value=0), "people[0] is 0, expected a whole number > 0"),
        (edited("people", 0, value=5.5), "people[0] is 5.5, expected a whole number > 0"),
        (edited("people", 0, value=True), "people[0] is True"),
        (edited("people", 0, value=float("nan")), "people[0] is nan"),
        (edited("people", 0, value=10**400), "people[0] is 1000"),
        (edited("dropped_rows", value=-1), "dropped_rows is -1"),
        (edited("questions", value=[]), "questions is [], expected a list of at least one"),
        (edited("questions", value=edited()["questions"] * 2), "two questions have the id 'q'"),
        (edited(*QUESTION, value=7), "questions[0] is 7, expected an object"),
        (edited(*QUESTION, "counts", drop=True), "questions[0]: 'counts' is missing"),
        (edited(*QUESTION, "id", value=1), "questions[0].id is 1"),
        (edited(*QUESTION, "options", value=["x"]), "questions[0] ('q'): options is ['x']"),
        (edited(*QUESTION, "values", value=[0]), "questions[0] ('q'): values is [0], expected a list of 2 numbers"),
        (edited(*QUESTION, "values", value=[2, 2]), "values is [2.0, 2.0], expected at least two different numbers"),
        (edited(*QUESTION, "values", 1, value=float("inf")), "values[1] is inf"),
        (edited(*QUESTION, "counts", value=[[1, 2]]), "counts is [[1, 2]], expected 2 rows, one a group"),
        (edited(*QUESTION, "counts", 1, value=[1, 2, 3]), "counts[1] is [1, 2, 3], expected a list of 2 numbers"),
        (edited(*QUESTION, "counts", 1, 0, value=-1), "counts[1][0] is -1, expected a whole number ≥ 0"),
        (edited(*QUESTION, "counts", 1, 0, value=1.5), "counts[1][0] is 1.5, expected a whole number ≥ 0"),
        (edited(*QUESTION, "counts", 1, 0, value="1"), "counts[1][0] is '1'"),
        (edited(*QUESTION, "counts", 1, value=[0, 0]), "nobody in group 'b' answered"),
        (
            edited(*QUESTION, "counts", 1, value=[4, 3]),
            "the sum of counts[1] is 7, expected from 1 to the number of people, 6",
        ),
        (edited("weighted", value=True), "'effective' is missing"),
        (weighted(weights=[1, 0]), "weights[1] is 0, expected a number > 0"),
        (weighted(effective=12), "effective is 12, expected from 1 to the number of people, 11"),
        (weighted(rows=[2.5, 7]), "effective[1] is 7, expected from 1 to the number of people, 6"),
        (weighted(dropped=0.5), "dropped is 0.5, expected a whole number"),
    ],
)
def test_bad_json(tmp_path, table, message):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(table))
    with pytest.raises(ValueError) as error:
        load(path)
    assert message in str(error.value) and str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    "content, message", [(b"{", "not a JSON file"), (b"\xff", "not UTF-8 text"), (b"[" * 10**5, "not a")]
)
def test_not_json(tmp_path, content, message):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        load(path)
    assert message in str(error.value) and str(error.value).startswith(str(path))
