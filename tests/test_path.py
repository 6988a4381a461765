"""Paths: against dense solves, critical ratios, closed forms, and where many things happen at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgame as jg


def alignment(rng, n=5, D=4, **options):
    X = rng.normal(size=(D, D))
    kernel = X @ X.T / D + 0.1 * np.eye(D)
    return jg.AlignmentGame(rng.dirichlet(np.ones(D), n), kernel, rng.normal(size=(n, D)), diversity=0.3, **options)


def replayed(path, s):
    """The support at s, from that at the start and the events."""
    support = path.support.copy()
    for event in path.events:
        if event.s < s:
            assert support[event.agent, event.group] == (event.kind == "leaves")
            support[event.agent, event.group] = event.kind == "enters"
    return support


def agrees(path, build, count):
    s = np.linspace(path.start, path.end, count)
    dense = jg.solve_many(jax.vmap(build)(jnp.asarray(s)))
    assert np.asarray(dense.converged).all()
    profile = np.asarray(dense.profile)
    np.testing.assert_allclose(path.profile_at(s), profile, atol=1e-10)
    np.testing.assert_allclose(path.at(s), dense.representation, atol=1e-10)
    edges = np.array([event.s for event in path.events])
    step = s[1] - s[0]
    for at, here in zip(s, profile, strict=True):
        if edges.size == 0 or np.abs(edges - at).min() > 1e-3 * step:
            np.testing.assert_array_equal(replayed(path, at), here > 1e-12)
    return dense


@pytest.mark.parametrize("seed", range(3))
def test_the_path_is_that_of_dense_solves(seed):
    game = alignment(np.random.default_rng(seed))
    build = lambda s: game.replace(attractiveness=s)  # noqa: E731
    path = jg.path(build, 0.0, 1.5)
    assert len(path.events) > 5 and path.events == sorted(path.events)
    assert {event.kind for event in path.events} <= {"enters", "leaves"}
    agrees(path, build, 300)
    for before, after in zip(path.breaks[:-1], path.breaks[1:], strict=True):  # affine in between
        middle = path.profile_at((before + after) / 2)
        np.testing.assert_allclose(middle, (path.profile_at(before) + path.profile_at(after)) / 2, atol=1e-14)


def test_along_targets_and_on_other_couplings(rng):
    game, other = alignment(rng), rng.dirichlet(0.3 * np.ones(4), 5)
    build = lambda s: game.replace(targets=(1 - s) * game.targets + s * other)  # noqa: E731
    agrees(jg.path(build), build, 101)
    weights = np.roll(np.eye(5), 1, 1)
    linear = rng.normal(size=(2, 5, 4))
    coupling = jg.Network(weights, np.array(0.3 * np.eye(4)))
    build = lambda s: jg.QuadraticGame((1 - s) * linear[0] + s * linear[1], 1.0, coupling=coupling)  # noqa: E731
    path = jg.path(build)
    assert {event.kind for event in path.events} == {"enters", "leaves"}
    agrees(path, build, 101)


def test_identical_agents_drop_a_group_at_once_at_its_critical_ratio(rng):
    survey = jg.surveys.load("gss2018-ideology")
    build = lambda s: survey.game(20, diversity=0.3, attractiveness=s)  # noqa: E731
    path = jg.path(build, 0, 3)
    ratios = np.asarray(jg.critical_ratios(build(1.0)))
    assert len(path.events) == 20 * len(path.exclusions)
    for s, group, kind in path.exclusions:
        assert kind == "leaves"
        assert s == pytest.approx(ratios[group], rel=1e-10)
        assert sorted(e.agent for e in path.events if e.s == s and e.group == group) == list(range(20))
    assert sorted(group for _, group, _ in path.exclusions) == np.flatnonzero(ratios < 3).tolist()


@pytest.mark.slow
def test_the_survey_against_ten_thousand_solves():
    survey = jg.surveys.load("gss2018-ideology")
    targets = np.random.default_rng(0).dirichlet(20 * np.asarray(survey.shares), 20)
    build = lambda s: survey.game(20, targets=targets, diversity=0.1, attractiveness=s)  # noqa: E731
    path = jg.path(build, 0, 2)
    assert len(path.events) > 50
    agrees(path, build, 10_000)


def test_ties():
    # Three groups, alike for everyone: two leave together, for all agents, at a formula (theory §3.3).
    appeal = np.array([1.0, 0.0, 0.0])
    build = lambda s: jg.AlignmentGame(np.full((4, 3), 1 / 3), np.eye(3), appeal * s)  # noqa: E731
    path = jg.path(build, 0, 2)
    assert len(path.events) == 8 and len({e.s for e in path.events}) == 1
    # w_2 = w_3 = 1/3 − s/3: out at s = 1.
    assert path.events[0].s == pytest.approx(1, abs=1e-14)
    assert [(e.agent, e.group) for e in path.events] == [(i, d) for i in range(4) for d in (1, 2)]
    np.testing.assert_allclose(path.at(0.5), [2 / 3, 1 / 6, 1 / 6], atol=1e-14)
    np.testing.assert_allclose(path.at(np.array([1.5, 2.0])), [[1, 0, 0]] * 2, atol=1e-14)


def test_events_at_both_ends_count_and_touching_is_none():
    build = lambda s: jg.AlignmentGame(np.full((1, 2), 0.5), np.eye(2), np.array([s, 0.0]))  # noqa: E731
    # w_2 = (1 − s)/2: zero at 1.
    assert [(e.s, e.group, e.kind) for e in jg.path(build, 0, 1).events] == [(1.0, 1, "leaves")]
    down = jg.path(lambda s: build(1 - s), 0, 1)
    assert [(e.s, e.group, e.kind) for e in down.events] == [(0.0, 1, "enters")]
    # A target that only reaches the face of group 3, and turns: nothing leaves.
    turn = lambda s: jg.AlignmentGame(np.array([[0.5, 0.5, 0.0]]), np.eye(3), np.array([0.0, s, -s]))  # noqa: E731
    path = jg.path(turn, -0.2, 0.2)
    assert [(e.group, e.kind) for e in path.events] == [(2, "leaves")]
    assert path.events[0].s == pytest.approx(0, abs=1e-12)


def test_one_group_and_one_agent():
    path = jg.path(lambda s: jg.AlignmentGame(np.ones((2, 1)), np.eye(1), np.array([s])))
    assert path.events == [] and path.at(0.3) == pytest.approx([1])


def test_scale_of_the_utilities_does_not_matter(rng):
    game = alignment(rng)
    plain = jg.path(lambda s: game.replace(attractiveness=s), 0, 1)
    for factor in (1e-8, 1e7):
        scaled = game.replace(consistency=factor, diversity=0.3 * factor)
        other = jg.path(lambda s, g=scaled, f=factor: g.replace(attractiveness=s * f), 0, 1)
        assert [e[1:] for e in other.events] == [e[1:] for e in plain.events]
        np.testing.assert_allclose([e.s for e in other.events], [e.s for e in plain.events], rtol=1e-8)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda g, s: g.replace(attractiveness=s, appeal=g.appeal * s), "affine in the parameter"),
        (lambda g, s: g.replace(consistency=1 + s), "do not depend on the parameter"),
        (lambda g, s: g.replace(diversity=s), "do not depend on the parameter"),
        (lambda g, s: g.replace(diversity=30.0, attractiveness=s), "not proved to have one equilibrium"),
        (lambda g, s: jg.ConcaveGame(lambda p, w, o: -((w - p) ** 2).sum(), g.targets, 4), "needs quadratic games"),
    ],
)
def test_what_is_not_affine_is_refused(rng, build, words):
    game = alignment(rng)
    with pytest.raises(ValueError, match=words):
        jg.path(lambda s: build(game, s), 0, 1)


def test_what_is_alike_at_both_ends_only_is_refused():
    net = jg.Network(np.array([[0, 1.0], [1.0, 0]]), 0.1 * np.eye(3))
    linear = np.array([[0.3, 0, 0.1], [0, 0.2, 0.1]])
    with pytest.raises(ValueError, match="do not depend on the parameter"):
        jg.path(lambda s: jg.QuadraticGame(linear, 1 + 4 * s * (1 - s), coupling=net))
    targets = np.array([[0.8, 0.2], [0.2, 0.8]])
    with pytest.raises(ValueError, match="a reach that does not depend on the parameter"):
        jg.path(lambda s: jg.AlignmentGame(targets, np.eye(2), np.zeros(2), reach=[1 - s, s]))


def test_ends_must_be_in_order(rng):
    game = alignment(rng)
    with pytest.raises(ValueError, match="the first below the second"):
        jg.path(lambda s: game.replace(attractiveness=s), 1, 0)
    with pytest.raises(ValueError, match="build is 3, expected a function"):
        jg.path(3)  # pyright: ignore[reportArgumentType]
    path = jg.path(lambda s: game.replace(attractiveness=s))
    with pytest.raises(ValueError, match=r"expected values in \[0, 1\]"):
        path.at(1.1)


@pytest.mark.float32
def test_numbers_take_on_the_precision_of_the_game(dtype):
    given = []
    appeal = jnp.asarray([1, 0], dtype)

    def build(s):
        given.append(s)
        return jg.AlignmentGame(jnp.full((1, 2), 0.5, dtype), jnp.eye(2, dtype=dtype), appeal * s)

    assert jg.path(build).profiles.dtype == dtype
    assert {type(s) for s in given} == {float}


@pytest.mark.float32
def test_in_single_precision(dtype):
    survey = jg.surveys.load("gss2018-ideology", dtype=dtype)
    build = lambda s: survey.game(3, consistency_metric="mixture", attractiveness=s)  # noqa: E731
    path = jg.path(build, 0, 2)
    assert path.profiles.dtype == dtype and len(path.events) >= 3
    for s in (0.3, 1.1, 1.9):
        np.testing.assert_allclose(path.at(s), jg.solve(build(s)).representation, atol=1e-4)
