"""Learning: fixed points, cycles and speeds that are known otherwise."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxgame as jg
from jaxgame.dynamics import RULES
from jaxgame.solvers.scale import measure


def aligned(rng, n=4, D=3, **options):
    X = rng.normal(size=(D, D))
    return jg.AlignmentGame(
        rng.dirichlet(np.ones(D), n), X @ X.T / D + 0.3 * np.eye(D), rng.normal(size=(n, D)), **options
    )


def pull(n, strength):
    """Agents pushed away from the mean of the others: best responses w_i = Π(½ − strength (s̄_i − ½))."""
    weights = (np.ones((n, n)) - np.eye(n)) / (n - 1)
    coupling = jg.Network(weights, strength * np.eye(2))
    return jg.QuadraticGame(np.full((n, 2), strength / 2), 1.0, coupling=coupling)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_stays_on_the_simplex_and_rests_where_it_should(rng, rule):
    game = aligned(rng, attractiveness=0.2, diversity=0.1)
    options: Any = dict(temperature=1.0, step=0.2) if rule == "logit" else {}
    found = jg.simulate(game, rule, rounds=3000 if rule in ("gradient", "replicator") else 200, **options)
    assert (found.profiles >= 0).all()
    np.testing.assert_allclose(found.profiles.sum(-1), 1, atol=1e-12)
    np.testing.assert_allclose(found.representations, found.profiles.mean(1), atol=1e-12)
    if rule == "logit":  # a quantal response: w = softmax(g / τ)
        last = found.profiles[-1]
        slope = np.exp(np.asarray(game.marginals(jnp.asarray(last))))
        np.testing.assert_allclose(last, slope / slope.sum(1, keepdims=True), atol=1e-9)
    else:
        assert found.distances[-1] < 1e-4 and found.arrival is not None
        assert (found.distances[found.arrival :] <= 1e-3).all()
    assert found.radius < 1 and found.stability == 1 and "stable" in found.message


def test_one_round_of_best_responses_is_a_best_response(rng):
    game = aligned(rng, attractiveness=0.4, diversity=0.3)
    start = rng.dirichlet(np.ones(3), 4)
    after = jg.simulate(game, "best-response", rounds=2, init=start).profiles[1]
    for i in range(4):
        mixed = start.copy()
        mixed[i] = after[i]
        gain = jg.certify(game, jnp.asarray(mixed)).exploitability[i]
        assert gain < 1e-9
    after = jg.simulate(game, "sequential", rounds=2, init=start).profiles[1]
    mixed = start.copy()
    for i in range(4):  # each answers those before it
        mixed[i] = after[i]
        assert jg.certify(game, jnp.asarray(mixed)).exploitability[i] < 1e-9


def test_simultaneous_best_responses_cycle_where_one_at_a_time_do_not():
    # Against strength 2 everyone overshoots by 2: simultaneous answers jump between the ends.
    game = pull(3, 1.6)
    start = np.tile([0.6, 0.4], (3, 1))
    both = jg.simulate(game, "best-response", rounds=60, init=start)
    assert not both.converged and both.period == 2 and both.radius == pytest.approx(1.6, rel=1e-6)
    np.testing.assert_allclose(both.profiles[-1], both.profiles[-3], atol=1e-12)
    assert both.arrival is None and "A cycle of 2 rounds" in both.message
    mild = jg.simulate(pull(3, 0.7), "best-response", rounds=200, init=start)
    assert mild.converged and mild.period == 0 and mild.radius == pytest.approx(0.7, rel=1e-6)
    # Distances shrink by the radius a round.
    assert mild.distances[10] == pytest.approx(0.1 * 0.7**10, rel=1e-6)
    assert mild.arrival == int(np.ceil(np.log(1e-3 / 0.1) / np.log(0.7)))
    one = jg.simulate(game, "sequential", rounds=200, init=start)
    assert one.converged


def test_an_unstable_equilibrium_repels():
    # Two agents that gain from being apart, more than from staying (δ > γ): the middle is an equilibrium, a saddle.
    game = jg.AlignmentGame(np.full((2, 2), 0.5), np.eye(2), np.zeros(2), diversity=3.0)
    start = np.array([[0.501, 0.499], [0.499, 0.501]])
    found = jg.simulate(game, "gradient", rounds=400, init=start)
    assert found.stability == -1 and found.growth > 0
    assert found.converged and found.distances[-1] > 0.4 and "unstable" in found.message


def test_a_group_at_zero_that_would_invade_makes_the_replicator_s_point_repel():
    game = jg.AlignmentGame(np.full((2, 2), 0.5), np.eye(2), np.array([3.0, 0.0]))
    found = jg.simulate(game, "replicator", rounds=50, init=[[0.0, 1.0], [0.5, 0.5]])
    assert found.converged and (found.profiles[:, 0, 0] == 0).all()
    # At a corner a share that appears grows by the factor exp(step (g_1 − g_2)) a round: agent 1's, who is not there.
    g = np.asarray(game.marginals(jnp.asarray(found.profiles[-1])))[0]
    step = 1 / float(measure(game, jnp.float64).sigma)
    assert found.radius == pytest.approx(np.exp(step * (g[0] - g[1])), rel=1e-9) and found.radius > 10
    assert "point of rest does not attract" in found.message
    fast = jg.simulate(game, "replicator", rounds=50, init=[[0.0, 1.0], [0.5, 0.5]], step=1e4)
    assert fast.radius > 1e100  # and not an overflow


def test_what_is_no_equilibrium_is_not_called_stable(rng):
    found = jg.simulate(aligned(rng), "gradient", rounds=50)
    assert "The equilibrium that it is compared with is stable" in found.message
    failed = dataclasses.replace(found.equilibrium, converged=jnp.zeros((), bool))
    message = dataclasses.replace(found, equilibrium=failed).message
    assert "is no equilibrium" in message and "stable" not in message


def test_replicator_keeps_zeros_and_noise_is_repeatable(rng):
    game = aligned(rng)
    start = np.tile([0.5, 0.5, 0.0], (4, 1))
    found = jg.simulate(game, "replicator", rounds=50, init=start)
    assert (found.profiles[..., 2] == 0).all()
    noisy = [jg.simulate(game, "logit", rounds=20, temperature=0.5, noise=0.1, seed=s).profiles for s in (0, 0, 1)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert np.abs(noisy[0] - noisy[2]).max() > 1e-4


@pytest.mark.parametrize(
    ("rule", "options", "words"),
    [
        ("hope", {}, "rule is 'hope', expected one of"),
        ("gradient", {"rounds": 1}, "rounds is 1, expected an integer ≥ 2"),
        ("gradient", {"rounds": 10**9}, "MiB, expected at most"),
        ("gradient", {"step": -1.0}, "step is -1.0, expected a positive number"),
        ("gradient", {"noise": 0.1}, "for logit"),
        ("logit", {"step": 1.5}, "step is 1.5, expected at most 1 for logit"),
        ("gradient", {"tolerance": float("nan")}, "tolerance is nan, expected a number"),
        ("gradient", {"tolerance": -1e-3}, "tolerance is -0.001, expected a number"),
        ("logit", {"temperature": 0.0}, "temperature is 0.0"),
        ("best-response", {"step": 0.1}, "which best-response does not have"),
        ("gradient", {"init": np.full((4, 3), 0.5)}, r"init\[0\] sums to 1.5"),
    ],
)
def test_bad_input(rng, rule, options, words):
    with pytest.raises(ValueError, match=words):
        jg.simulate(aligned(rng), rule, **options)


def test_best_responses_need_quadratic_concave_utilities(rng):
    with pytest.raises(ValueError, match="needs concave utilities"):
        jg.simulate(aligned(rng, diversity_form="centroid", diversity=3.0))
    concave = jg.ConcaveGame(lambda p, w, o: p @ w - (w**4).sum(), rng.normal(size=(4, 3)), 3)
    with pytest.raises(ValueError, match="needs a quadratic game"):
        jg.simulate(concave)
    assert jg.simulate(concave, "gradient", rounds=2000, step=0.02).converged


@pytest.mark.float32
def test_in_single_precision(dtype):
    game = jg.AlignmentGame(np.full((3, 2), 0.5, dtype), np.eye(2, dtype=dtype), np.asarray([0.3, 0], dtype))
    found = jg.simulate(game, rounds=20)
    assert found.profiles.dtype == dtype and found.converged
    np.testing.assert_allclose(found.profiles[-1], np.tile([0.65, 0.35], (3, 1)), atol=1e-5)


def test_the_figure_shows_the_plane_of_most_movement(rng, tmp_path):
    from jaxgame.report.figures.style import save
    from jaxgame.report.figures.trajectories import draw, principal_plane

    game = aligned(rng, attractiveness=0.3, diversity=0.2)
    found = jg.simulate(game, "gradient", rounds=300, init=rng.dirichlet(np.ones(3), 4))
    figure = draw(found, ["a", "b", "c"], "Title", "note")
    assert save(figure, tmp_path, "ways") == "Title" and (tmp_path / "ways.png").stat().st_size > 10_000
    assert {"a", "b", "c"} <= {text.get_text() for text in figure.axes[0].texts}
    rows = found.profiles.reshape(-1, 3)
    centre, axes, shares = principal_plane(found.profiles)
    np.testing.assert_allclose(shares.sum(), 1, atol=1e-12)  # three groups have a plane of mixtures
    np.testing.assert_allclose(((rows - centre) @ axes.T) @ axes, rows - centre, atol=1e-12)
