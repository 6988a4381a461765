"""induce: the profile becomes an equilibrium, and no cheaper change makes it one."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import scipy.optimize
import zoo

import jaxgame as jg
from jaxgame.steering.induce import induce, inducement

pytestmark = pytest.mark.float32

N, D = 4, 3


def alignment(seed=0, **options):
    rng = np.random.default_rng(seed)
    options = dict(attractiveness=rng.uniform(0.4, 2.0, N), reach=rng.dirichlet(np.ones(N))) | options
    return zoo.spelled_out(ref.random_alignment(rng, N, D, **options))


def quadratic(seed=1):
    rng = np.random.default_rng(seed)
    return ref.Quadratic(
        rng.normal(size=(N, D)), ref.Diagonal(rng.uniform(0.5, 2, (N, D))), ref.MeanField(0.4 * np.eye(D))
    )


PROFILES = {
    "interior": np.array([[0.2, 0.3, 0.5], [0.4, 0.4, 0.2], [0.1, 0.1, 0.8], [0.3, 0.5, 0.2]]),
    "faces": np.array([[0.0, 0.25, 0.75], [0.5, 0.5, 0.0], [0.2, 0.0, 0.8], [0.3, 0.3, 0.4]]),
    "vertices": np.eye(3)[[0, 2, 1, 0]],
}


def tolerance(dtype):
    return 2e-5 if dtype == np.float32 else 1e-12


def changed(spec, lever, change):
    """The specification after the change, in numpy."""
    if isinstance(spec, ref.Quadratic):
        return ref.Quadratic(spec.linear + change, spec.curvature, spec.coupling)
    return spec.replace(**{lever: getattr(spec, lever) + change})


def kkt(spec, W):
    return ref.kkt_error(spec.game_map(W), W, zoo.sigma(spec))


def by_slsqp(effect, marginal, face, weights, kept=None):
    """min Σ weights Δ² with marginal + effect Δ level on the face and no higher off it; `kept`: the targets."""
    size = len(marginal)

    def gap(x):
        return x[-1] - marginal - effect @ x[:size]

    # With their derivatives: differences in place of them end in a search along lines of noise.
    slope = np.hstack([-effect, np.ones((size, 1))])
    constraints: list[Any] = [{"type": "eq", "fun": lambda x: gap(x)[face], "jac": lambda x: slope[face]}]
    if not face.all():
        constraints.append({"type": "ineq", "fun": lambda x: gap(x)[~face], "jac": lambda x: slope[~face]})
    if kept is not None:
        moves = np.eye(size, size + 1)
        constraints += [
            {"type": "eq", "fun": lambda x: x[:size].sum(), "jac": lambda x: moves.sum(0)},
            {"type": "ineq", "fun": lambda x: kept + x[:size], "jac": lambda x: moves},
        ]
    start = np.append(np.zeros(size), marginal.max())
    return scipy.optimize.minimize(
        lambda x: (weights * x[:size] ** 2).sum(),
        start,
        jac=lambda x: np.append(2 * weights * x[:size], 0.0),
        constraints=constraints,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("make", [alignment, quadratic])
def test_appeal_makes_the_profile_an_equilibrium(make, name, dtype):
    spec, W = make(), PROFILES[name]
    change = induce(zoo.to_game(spec, dtype), jnp.asarray(W, dtype))
    assert change.dtype == dtype
    assert kkt(changed(spec, "appeal", np.asarray(change, np.float64)), W) < tolerance(dtype)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", PROFILES)
def test_appeal_is_the_cheapest(name, weighted, dtype):
    spec, W = alignment(), PROFILES[name]
    weights = np.random.default_rng(5).uniform(0.2, 3.0, (N, D)) if weighted else np.ones((N, D))
    given = jnp.asarray(weights, dtype) if weighted else None
    change = np.asarray(induce(zoo.to_game(spec, dtype), jnp.asarray(W, dtype), weights=given), np.float64)
    marginals = -spec.game_map(W)
    for i in range(N):
        found = by_slsqp(spec.attractiveness[i] * np.eye(D), marginals[i], W[i] > 0, weights[i])
        assert found.success
        assert (weights[i] * change[i] ** 2).sum() == pytest.approx(
            found.fun, rel=1e-4 if dtype == np.float32 else 1e-7
        )


def test_random_feasible_changes_cost_more(rng, dtype):
    spec = quadratic()
    for _ in range(20):
        W = rng.dirichlet(np.ones(D), N) * (rng.random((N, D)) < 0.6)
        W[W.sum(1) == 0, 0] = 1
        W /= W.sum(1, keepdims=True)
        change = np.asarray(induce(zoo.to_game(spec, dtype), jnp.asarray(W, dtype)), np.float64)
        marginals = -spec.game_map(W)
        for _ in range(50):
            level = marginals.mean(1, keepdims=True) + rng.normal(size=(N, 1))
            other = np.where(W > 0, level - marginals, np.minimum(level - marginals, 0))
            assert (other**2).sum() > (change**2).sum() * (1 - 1e-4)


def test_two_groups_by_hand(dtype):
    # g = (1, 0) at the profile. Both represented: level at ½. Only the second: the first may stay as high, μ = ½, too.
    # Only the first: nothing to do.
    game = jg.QuadraticGame(
        jnp.asarray([[1.5, 0.5], [1.0, 1.0], [2.0, 0.0]], dtype), jnp.asarray(1.0, dtype),
        coupling=jg.MeanField(jnp.zeros((2, 2), dtype)),
    )  # fmt: skip
    W = jnp.asarray([[0.5, 0.5], [0.0, 1.0], [1.0, 0.0]], dtype)
    expected = [[-0.5, 0.5], [-0.5, 0.5], [0.0, 0.0]]
    np.testing.assert_allclose(induce(game, W), expected, atol=1e-6)
    # Weight 3 on the first group: the level is nearer to its marginal utility, ¾.
    expected = [[-0.25, 0.75], [-0.25, 0.75], [0.0, 0.0]]
    np.testing.assert_allclose(induce(game, W, weights=jnp.asarray([3.0, 1.0], dtype)), expected, atol=1e-6)


def test_concave_game_gets_an_addition(dtype):
    entry = zoo.GAMES["logit"]()
    game = entry.game(dtype)
    W = jnp.asarray([[0.2, 0.3, 0.5], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8], [0.3, 0.5, 0.2]], dtype)
    found = inducement(game, W)
    after = -entry.spec.game_map(np.asarray(W, np.float64)) + np.asarray(found.change, np.float64)
    assert np.ptp(after, axis=1).max() < tolerance(dtype)
    assert found.success and float(found.certificate.residual) < tolerance(dtype)


def test_jit_vmap_and_no_change_at_an_equilibrium(dtype):
    game = zoo.to_game(alignment(), dtype)
    own = jg.solve(game).profile
    batch = jnp.stack([own, *(jnp.asarray(W, dtype) for W in PROFILES.values())])
    found = jax.jit(jax.vmap(functools.partial(induce, game)))(batch)
    for W, row in zip(batch, found, strict=True):
        np.testing.assert_allclose(row, induce(game, W), atol=1e-5 if dtype == np.float32 else 1e-12)
    assert np.abs(found[0]).max() < (1e-5 if dtype == np.float32 else 1e-12)


def test_derivative_of_the_cost_is_that_of_a_least_squares_problem(dtype):
    """Interior profile: Δ = mean(g) − g for every agent, so dΔ/db = centring in each row."""
    game = zoo.to_game(quadratic(), dtype)
    W = jnp.asarray(PROFILES["interior"], dtype)
    jacobian = jax.jacobian(lambda b: induce(game.replace(linear=b), W))(game.linear)
    centring = np.eye(D) / 1 - 1 / D
    expected = -np.einsum("ij,de->idje", np.eye(N), centring)
    np.testing.assert_allclose(jacobian, expected, atol=1e-5 if dtype == np.float32 else 1e-12)


@functools.cache
def target_games():
    """Games and profiles near their equilibria, all of which targets can induce; and the profile of one that cannot."""
    spec = alignment(3, attractiveness=0.3, consistency=2.0)
    rng = np.random.default_rng(8)
    moved = 0.7 * spec.targets + 0.3 * rng.dirichlet(np.ones(D), N)
    W = ref.solution(spec.replace(targets=moved))
    return spec, W


def test_targets_make_the_profile_an_equilibrium_at_least_cost(dtype):
    spec, W = target_games()
    found = inducement(zoo.to_game(spec, dtype), jnp.asarray(W, dtype), lever="targets")
    assert found.success
    change = np.asarray(found.change, np.float64)
    after = changed(spec, "targets", change)
    assert np.abs(change.sum(1)).max() < tolerance(dtype) and (spec.targets + change).min() > -tolerance(dtype)
    assert kkt(after, W) < 5 * tolerance(dtype)
    marginals = -spec.game_map(W)
    for i in range(N):
        best = by_slsqp(spec.consistency[i] * spec.kernel, marginals[i], W[i] > 1e-12, np.ones(D), spec.targets[i])
        assert best.success
        assert (change[i] ** 2).sum() == pytest.approx(best.fun, rel=1e-2 if dtype == np.float32 else 1e-6, abs=1e-9)
    assert found.cost == pytest.approx(np.linalg.norm(change), rel=1e-5)
    np.testing.assert_array_equal(
        induce(zoo.to_game(spec, dtype), jnp.asarray(W, dtype), lever="targets"), found.change
    )


def test_targets_that_cannot_are_said_so_with_the_nearest_profile(dtype):
    """One agent, Q = I, no diversity: it plays Π(t + α a/γ), so it can induce exactly Π(simplex + α a/γ)."""
    push = np.array([0.9, 0.0, -0.3])
    spec = ref.Alignment(np.array([[0.2, 0.3, 0.5]]), np.eye(3), push[None], consistency_metric="mixture")
    game = zoo.to_game(spec, dtype)
    wanted = np.array([0.1, 0.2, 0.7])
    grid = np.array([(i, j, 200 - i - j) for i in range(201) for j in range(201 - i)]) / 200
    reachable = np.array([ref.project(t + push) for t in grid])
    distance = np.linalg.norm(reachable - wanted, axis=1).min()
    found = inducement(game, jnp.asarray(wanted[None], dtype), lever="targets")
    assert not found.success and "agent 0" in found.message
    away = np.linalg.norm(np.asarray(found.profile[0], np.float64) - wanted)
    assert distance - 0.01 < away < distance + 1e-4
    after = changed(spec, "targets", np.asarray(found.change, np.float64))
    assert kkt(after, np.asarray(found.profile, np.float64)) < 1e-5
    assert float(found.certificate.residual) < 1e-5
    with pytest.raises(ValueError, match=r"agent 0.*distance 0\.[0-9]+.*`inducement`"):
        induce(game, jnp.asarray(wanted[None], dtype), lever="targets")


def test_agents_without_attractiveness(dtype):
    alpha = np.array([1.0, 0.0, 0.7, 1.2])
    spec = alignment(4, attractiveness=alpha)
    game = zoo.to_game(spec, dtype)
    own = np.asarray(jg.solve(game).profile)
    np.testing.assert_allclose(induce(game, jnp.asarray(own))[1], np.zeros(D), atol=0)
    wanted = own.copy()
    wanted[1] = np.roll(own[1], 1)
    with pytest.raises(ValueError, match=r"attractiveness\[1\] is 0"):
        induce(game, jnp.asarray(wanted))
    traced = jax.jit(functools.partial(induce, game))(jnp.asarray(wanted))
    assert np.isnan(traced[1]).all() and np.isfinite(np.delete(traced, 1, 0)).all()


def test_units_of_utility_do_not_matter(dtype):
    spec, W = target_games()
    profile = jnp.asarray(W, dtype)
    base = induce(zoo.to_game(spec, dtype), profile, lever="targets")
    for factor in (1e-8, 1e8):
        game = zoo.to_game(spec.scaled(factor), dtype)
        np.testing.assert_allclose(
            induce(game, profile, lever="targets"), base, atol=1e-3 if dtype == np.float32 else 1e-9
        )


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(lever="kernel"), "lever is 'kernel'"),
        (dict(weights=np.array([1.0, 0.0, 1.0])), r"weights\[1\] is 0"),
        (dict(weights=np.ones((D, N))), r"weights has shape \(3, 4\)"),
        (dict(profile=np.ones((N, D))), "profile.*sums to 3"),
        (dict(profile=np.ones((N, 2)) / 2), r"profile has shape \(4, 2\)"),
        (dict(profile=np.full((N, D), np.nan)), "profile.*nan"),
    ],
)
def test_bad_input(options, message, dtype):
    game = zoo.to_game(alignment(), dtype)
    arguments: dict[str, Any] = dict(profile=PROFILES["interior"]) | options
    given: dict[str, Any] = {k: jnp.asarray(v, dtype) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    for function in (induce, inducement):
        with pytest.raises(ValueError, match=message):
            function(game, **given)


def test_targets_need_an_alignment_game(dtype):
    with pytest.raises(ValueError, match="AlignmentGame, got QuadraticGame"):
        induce(zoo.to_game(quadratic(), dtype), jnp.asarray(PROFILES["interior"], dtype), lever="targets")
