"""Floors by one change an agent: what the plan claims holds in numpy, and no cheaper change exists."""

import functools
import itertools
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import zoo

import jaxgame as jg
from jaxgame.steering.agent_lever import AgentLever
from jaxgame.steering.complementarity import Program
from jaxgame.steering.per_agent import floor_by_agent
from jaxgame.steering.supports import Search

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import floor_plans  # noqa: E402  # pyright: ignore[reportMissingImports]


def specification(case):
    return ref.Alignment(
        case.targets,
        case.kernel,
        case.appeal,
        case.attractiveness,
        case.consistency,
        case.diversity,
        reach=case.reach,
    )


def checked(spec, plan, lever, floor, tolerance=1e-9):
    """The plan's equilibrium holds in the changed game, by numpy, and has the floors."""
    change = np.asarray(plan.theta, np.float64)
    after = spec.replace(**{lever: np.broadcast_to(getattr(spec, lever), spec.shape) + change})
    if lever == "targets":
        assert np.abs(change.sum(1)).max() < tolerance and after.targets.min() > -tolerance
    W = np.asarray(plan.equilibrium.profile, np.float64)
    assert ref.kkt_error(after.game_map(W), W, zoo.sigma(after)) < tolerance
    assert (after.representation(W) >= np.asarray(floor) - tolerance).all()


@functools.cache
def sample():
    """Games of two agents and three groups, 49 joint supports; every other one is heterogeneous."""
    drawn = floor_plans.cases(8, shape=(2, 3))
    assert [np.ptp(case.reach) > 0 for case in drawn] == 4 * [False, True]
    return drawn


@pytest.mark.parametrize("lever", ["appeal", "targets"])
def test_cheapest_against_enumeration(lever):
    outcomes = []
    for case in sample():
        best = floor_plans.optimum(case, lever)
        local = floor_by_agent(case.game(), case.floor, lever=lever, complete=False)
        plan = floor_by_agent(case.game(), case.floor, lever=lever)
        outcomes.append(np.isfinite(best))
        assert plan.success == np.isfinite(best)
        if not plan.success:
            assert not local.success and "proved by a complete search" in plan.message
            assert plan.details["shortfall"].max() > 1e-4
            continue
        assert plan.details["globally_optimal"] and not local.details["globally_optimal"]
        assert plan.cost == pytest.approx(best, rel=1e-5)
        assert local.success and best * (1 - 1e-5) < local.cost < 1.1 * best
        assert plan.cost <= plan.details["upper_bound"] * (1 + 1e-6)
        assert (np.diff(local.history["cost"]) < 0).all() and local.history["cost"][-1] == pytest.approx(local.cost)
        assert plan.cost == pytest.approx(np.linalg.norm(plan.theta))
        for made in (plan, local):
            checked(specification(case), made, lever, case.floor)
            np.testing.assert_allclose(made.details["planned"], made.equilibrium.profile, atol=1e-9)
    assert any(outcomes) and (lever == "appeal" or not all(outcomes))


def test_pivots_end_where_no_support_of_the_point_is_cheaper():
    """B-stationary: however the pairs with neither share nor slack are assigned, by enumeration."""
    pivoted = 0
    for case in sample():
        program = Program(case.game(), AgentLever.of(case.game(), "appeal"), case.floor)
        way = Search(program, program.cheapest()).descend(np.ones((2, 3), bool))
        pivoted += len(way) > 1
        end = way[-1]
        represented, open_to = end.profile > 1e-7, end.slack < 1e-7
        faces = [
            [face for face in itertools.product(*([True] if r else [False, True] if o else [False] for r, o in rows))]
            for rows in (zip(*rows, strict=True) for rows in zip(represented, open_to, strict=True))
        ]
        joint = [tuple(tuple(np.flatnonzero(face)) for face in pair) for pair in itertools.product(*faces)]
        cheapest = min(floor_plans.cheapest_on(case, "appeal", pattern) for pattern in joint)
        assert program.cost(end.value) == pytest.approx(cheapest, rel=1e-5)
    assert pivoted


@pytest.mark.slow
@pytest.mark.parametrize("lever", ["appeal", "targets"])
def test_goal_of_the_benchmark_on_a_fixed_sample(lever):
    records = [floor_plans.measured(case, lever) for case in floor_plans.cases(40, seed=1)]
    result = floor_plans.summary(records, "local")
    assert result["within_1_percent"] >= 0.95 and result["within_10_percent"] == 1
    assert result["claimed_though_infeasible"] == 0 and result["smallest_excess"] > -1e-5


def two_groups(dtype, appeal=(1.0, -1.0), target=(0.5, 0.5), n=1, **options):
    """Without diversity and with Q = I: w_1 = clip(t_1 + α (a_1 − a_2) / 2γ)."""
    spec = ref.Alignment(
        np.tile([target], (n, 1)), np.eye(2), np.tile([appeal], (n, 1)), consistency_metric="mixture", **options
    )
    return spec, zoo.to_game(spec, dtype)


@pytest.mark.float32
def test_two_groups_by_hand(dtype):
    # w_1 = ½ + 1 → 1: the second group is out by ½. To show ¼ of it, a_1 − a_2 has to fall from 2 to ½: Δ = (−¾, ¾).
    spec, game = two_groups(dtype)
    plan = floor_by_agent(game, jnp.asarray([0.0, 0.25], dtype), lever="appeal")
    np.testing.assert_allclose(plan.theta, [[-0.75, 0.75]], atol=1e-5)
    assert plan.success and plan.theta.dtype == dtype
    assert plan.cost == pytest.approx(0.75 * 2**0.5, rel=1e-5)
    np.testing.assert_allclose(plan.before.representation, [1, 0], atol=1e-6)
    checked(spec, plan, "appeal", [0, 0.25], 1e-5)
    # Attractiveness 2 halves what is needed once the appeal is halved.
    _, game = two_groups(dtype, appeal=(0.5, -0.5), attractiveness=2.0)
    plan = floor_by_agent(game, jnp.asarray([0.0, 0.25], dtype), lever="appeal")
    np.testing.assert_allclose(plan.theta, [[-0.375, 0.375]], atol=1e-5)


@pytest.mark.float32
def test_two_groups_by_targets_by_hand(dtype):
    # w_1 = t_1 + ½ where that is at most 1: to show ¼ of the second group, t_1 = ¼.
    spec, game = two_groups(dtype, appeal=(0.5, -0.5), target=(0.8, 0.2))
    plan = floor_by_agent(game, jnp.asarray([0.0, 0.25], dtype), lever="targets")
    assert plan.success
    np.testing.assert_allclose(plan.theta, [[-0.55, 0.55]], atol=1e-5)
    checked(spec, plan, "targets", [0, 0.25], 1e-5)
    # At most w_2 = 1 − ½ can be had, by t = (0, 1).
    plan = floor_by_agent(game, jnp.asarray([0.0, 0.6], dtype), lever="targets")
    assert not plan.success and "in total 0.1 is missing" in plan.message
    np.testing.assert_allclose(plan.equilibrium.representation, [0.5, 0.5], atol=1e-4)
    np.testing.assert_allclose(plan.details["shortfall"], [0, 0.1], atol=1e-4)


@pytest.mark.float32
def test_weights_choose_who_changes(dtype):
    # Two agents alike show a group together; an agent whose change weighs 3 does a third of what the other does.
    _, game = two_groups(dtype, appeal=(0.1, -0.1), n=2)
    weights = jnp.asarray([[1.0, 1.0], [3.0, 3.0]], dtype)
    plan = floor_by_agent(game, jnp.asarray([0.0, 0.5], dtype), lever="appeal", weights=weights)
    np.testing.assert_allclose(plan.theta, [[-0.15, 0.15], [-0.05, 0.05]], atol=1e-5)
    assert plan.cost == pytest.approx((2 * 0.15**2 + 3 * 2 * 0.05**2) ** 0.5, rel=1e-4)


@pytest.mark.float32
def test_units_of_utility_do_not_matter(dtype):
    case = sample()[1]
    spec = specification(case)
    base = floor_by_agent(zoo.to_game(spec, dtype), jnp.asarray(case.floor, dtype), lever="appeal")
    assert base.success
    for factor in (1e-8, 1e8):
        game = zoo.to_game(spec.scaled(factor), dtype)
        plan = floor_by_agent(game, jnp.asarray(case.floor, dtype), lever="appeal")
        assert plan.success
        np.testing.assert_allclose(plan.theta, base.theta, atol=1e-8 if dtype == np.float64 else 1e-3)


@pytest.mark.parametrize("kind", ["network", "dense", "mean field"])
def test_other_couplings(kind):
    rng = np.random.default_rng(3)
    n, D = 3, 3
    coupling = {
        "network": ref.Network(ref.random_network(rng, n) * 0.4, np.eye(D)),
        "dense": ref.Dense(0.2 * rng.normal(size=(n, n, D, D))),
        "mean field": ref.MeanField(0.3 * np.eye(D), reach=np.array([0.6, 0.3, 0.1])),
    }[kind]
    spec = ref.Quadratic(rng.normal(size=(n, D)) + np.array([1.5, 0, -1.5]), 1.5, coupling)
    game = zoo.to_game(spec)
    floor = np.full(D, 0.3)
    plan = floor_by_agent(game, floor, lever="appeal")
    assert plan.success and plan.details["globally_optimal"] and float(plan.before.representation.min()) < 0.2
    W = np.asarray(plan.equilibrium.profile)
    after = ref.Quadratic(spec.linear + np.asarray(plan.theta), spec.curvature, coupling)
    assert ref.kkt_error(after.game_map(W), W, zoo.sigma(after)) < 1e-9
    assert (after.representation(W) >= floor - 1e-9).all()
    # No cheaper: random changes of the same size leave a group below its floor.
    for _ in range(30):
        other = np.asarray(plan.theta) + 0.3 * plan.cost * rng.normal(size=(n, D))
        other *= 0.98 * plan.cost / np.linalg.norm(other)
        shown = spec.representation(ref.solution(ref.Quadratic(spec.linear + other, spec.curvature, coupling)))
        assert (shown < floor).any()


def test_a_hundred_agents():
    """A game beyond the complete search: verified, far below the convex bound, and as good as its own refinements."""
    game = jg.surveys.load("gss2018-ideology").game(100, attractiveness=2.0, diversity=0.1)
    noise = np.random.default_rng(0).normal(size=(100, 7))
    game = game.replace(appeal=game.appeal + 0.3 * jnp.asarray(noise))
    floor = jnp.asarray(jg.surveys.load("gss2018-ideology").shares) / 2
    plan = floor_by_agent(game, floor, lever="appeal")
    assert plan.success and not plan.details["globally_optimal"]
    assert (plan.equilibrium.representation >= floor - 1e-9).all()
    assert not (plan.before.representation >= floor).all()
    assert plan.cost < 0.1 * plan.details["upper_bound"]
    assert "are not excluded" in plan.message


@pytest.mark.slow
def test_agents_are_divided_among_groups():
    """Sixteen groups, the last of which no one shows if all agents are drawn alike to those below their floor."""
    rng, n, D = np.random.default_rng(0), 100, 16
    spec = ref.Alignment(
        kernel=ref.random_kernel(rng, D),
        targets=rng.dirichlet(np.ones(D), n),
        appeal=0.5 * rng.normal(size=(n, D)) + np.linspace(0.7, -0.7, D),
        attractiveness=rng.uniform(0.5, 1.5, n),
        diversity=0.1,
    )
    plan = floor_by_agent(zoo.to_game(spec), 0.4 / D, lever="targets")
    assert plan.success and plan.details["upper_bound"] == np.inf
    assert float(plan.before.representation[-1]) < 1e-3
    checked(spec, plan, "targets", np.full(D, 0.4 / D))


@pytest.mark.float32
def test_floors_that_leave_no_choice(dtype):
    """Also where they sum to 1 only up to rounding."""
    spec = ref.random_alignment(np.random.default_rng(3), 4, 3, attractiveness=2.5)
    for excess in (0.0, 1e-9):
        plan = floor_by_agent(zoo.to_game(spec, dtype), np.full(3, 1 / 3 + excess, dtype), lever="appeal")
        assert plan.success, plan.message
        W = ref.solution(spec.replace(appeal=spec.appeal + np.asarray(plan.theta, float)))
        np.testing.assert_allclose(spec.representation(W), 1 / 3, atol=1e-4 if dtype == np.float32 else 1e-8)
        assert "confirms. A complete search of the supports proves it the cheapest." in plan.message


def test_no_change_where_none_is_needed():
    spec, game = two_groups(np.dtype(float), appeal=(0.1, -0.1))
    plan = floor_by_agent(game, 0.2, lever="targets")
    assert plan.success and plan.cost == 0 and not np.asarray(plan.theta).any()
    assert "no change is needed" in plan.message


def test_agents_that_no_appeal_moves():
    """Attractiveness 0 for one agent: the other carries the floor alone, and the convex bound does not exist."""
    spec = ref.Alignment(
        np.array([[0.9, 0.1], [0.8, 0.2]]),
        np.eye(2),
        np.array([[0.2, 0.0], [0.2, 0.0]]),
        attractiveness=np.array([1.0, 0.0]),
        consistency_metric="mixture",
    )
    plan = floor_by_agent(zoo.to_game(spec), np.array([0.0, 0.4]), lever="appeal")
    # w_2 of the second stays at 0.2, so the first needs 0.6 where t + α (a_2 − a_1)/2 is 0.1 + (a_2 − a_1)/2.
    np.testing.assert_allclose(plan.theta, [[-0.6, 0.6], [0, 0]], atol=1e-9)
    assert plan.success
    plan = floor_by_agent(zoo.to_game(spec), np.array([0.0, 0.7]), lever="appeal")
    assert not plan.success and "in total 0.1 is missing" in plan.message


@pytest.mark.parametrize(
    "floor, options, message",
    [
        (0.6, {}, "floor sums to 1.2, expected at most 1"),
        ([-0.1, 0.5], {}, r"floor\[0\] is -0.1"),
        ([0.1, 0.2, 0.3], {}, r"floor has shape \(3,\)"),
        (0.3, dict(lever="price"), "lever is 'price'"),
        (0.3, dict(weights=[1.0, -1.0]), r"weights\[1\] is -1"),
    ],
)
def test_bad_input(floor, options, message):
    _, game = two_groups(np.dtype(float))
    with pytest.raises(ValueError, match=message):
        floor_by_agent(game, jnp.asarray(floor, float), **(dict(lever="appeal") | options))


def test_games_that_cannot_be_treated():
    game = zoo.GAMES["logit"]().game()
    with pytest.raises(ValueError, match="quadratic game, got ConcaveGame; use steer"):
        floor_by_agent(game, 0.1, lever="appeal")
    with pytest.raises(ValueError, match="AlignmentGame, got QuadraticGame"):
        floor_by_agent(zoo.GAMES["plain_projection"]().game(), 0.1, lever="targets")
