"""Floors by a price or a common change: the changed game is solved by references that know of no floors (theory §5)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import zoo
from scipy.optimize import linprog

import jaxgame as jg
from jaxgame.games import subsidised
from jaxgame.steering.floor import steer_to_floor

FLOOR = 0.05


def population(n=12, D=6, alike=False):
    """Agents that by and large like the same groups, so that two are excluded by everyone."""
    rng = np.random.default_rng(11)
    appeal = np.array([0.4, -1.5, 0.2, 0.0, -1.2, 0.3])[:D] + 0.1 * rng.normal(size=(n, D))
    options: dict[str, Any] = (
        dict(attractiveness=1.0)
        if alike
        else dict(attractiveness=rng.uniform(0.6, 2, n), reach=rng.dirichlet(np.full(n, 4.0)))
    )
    targets = rng.dirichlet(np.full(D, 20.0), n)
    return ref.Alignment(
        targets, ref.random_kernel(rng, D), appeal, consistency=rng.uniform(1, 2, n), diversity=0.2, **options
    )


@pytest.fixture(scope="module", params=["unlike", "alike"])
def spec(request):
    return population(alike=request.param == "alike")


@pytest.fixture(scope="module")
def plans(spec):
    game = zoo.to_game(spec)
    return {lever: steer_to_floor(game, FLOOR, lever=lever) for lever in ("price", "common")}


def test_price_brings_the_excluded_to_exactly_their_floor(spec, plans):
    plan, n = plans["price"], spec.shape[0]
    out = np.asarray(jg.excluded(plan.before))
    assert plan.success and out.sum() == 2 and "strongly monotone" in plan.message
    prices = np.asarray(plan.theta)
    np.testing.assert_allclose(np.asarray(plan.equilibrium.representation)[prices > 0], FLOOR, atol=1e-11)
    assert (prices[out] > 0).all() and (prices[np.asarray(plan.equilibrium.representation) > FLOOR + 1e-9] == 0).all()
    reach = np.full(n, 1 / n) if spec.reach is None else spec.reach
    W = np.asarray(plan.equilibrium.profile)
    assert ref.kkt_error(spec.game_map(W) - np.outer(reach, prices), W) < 1e-10
    np.testing.assert_allclose(plan.cost, prices @ (reach @ W), rtol=1e-12)
    np.testing.assert_allclose(plan.before.profile, ref.solution(spec), atol=1e-8)


def test_common_change_of_appeal(spec, plans):
    plan = plans["common"]
    assert plan.success and plan.lever == "common"
    W = ref.solution(spec.replace(appeal=spec.appeal + np.asarray(plan.theta)))
    np.testing.assert_allclose(plan.equilibrium.profile, W, atol=1e-8)
    assert spec.representation(W).min() > FLOOR - 1e-8
    np.testing.assert_allclose(plan.cost, np.linalg.norm(plan.theta), rtol=1e-12)
    assert float(plan.certificate.distance) < 1e-6


def test_with_equal_reach_and_attractiveness_both_levers_are_one(spec, plans):
    price, common = np.asarray(plans["price"].theta), np.asarray(plans["common"].theta)
    if spec.reach is None:
        np.testing.assert_allclose(price, spec.shape[0] * common, rtol=1e-9)
    else:
        assert np.abs(price / np.linalg.norm(price) - common / np.linalg.norm(common)).max() > 1e-3


def test_the_next_point_is_the_plan_for_a_floor_a_point_higher(spec, plans):
    plan = plans["price"]
    floor = np.where(np.asarray(plan.theta) > 0, FLOOR + 0.01, FLOOR)
    higher = steer_to_floor(zoo.to_game(spec), floor)
    np.testing.assert_allclose(plan.details["next_point"], higher.cost - plan.cost, rtol=1e-8)


@pytest.mark.slow
def test_least_norm_against_a_grid():
    """n = 3, D = 3: all common changes of a fine grid, without a constant that moves no one."""
    rng = np.random.default_rng(4)
    spec = ref.Alignment(
        rng.dirichlet(np.ones(3), 3),
        ref.random_kernel(rng, 3, 0.1),
        np.array([1.0, 0.3, -1.0]) + 0.2 * rng.normal(size=(3, 3)),
        attractiveness=np.array([0.8, 1.0, 1.4]),
    )
    game = zoo.to_game(spec)
    complementary, least = (steer_to_floor(game, 0.1, lever="common", minimise=m) for m in ("complementarity", "norm"))
    assert complementary.success and least.success and least.cost < 0.95 * complementary.cost
    assert (np.diff(least.history["norm"]) <= 0).all() and "least norm" in least.message
    assert "no other equilibrium" in least.message and "complementary" not in least.message
    radius = np.linspace(0.5, 1.2, 36) * least.cost
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], -1) @ ref.tangent_basis(3).T
    tried = jnp.asarray((radius[:, None, None] * ring).reshape(-1, 3))
    shown = jax.jit(jax.vmap(lambda t: jg.solve(game.replace(appeal=game.appeal + t[None])).representation))(tried)
    enough = np.asarray(shown).min(1) >= 0.1
    smallest = np.linalg.norm(np.asarray(tried)[enough], axis=1).min()
    assert least.cost <= smallest * (1 + 1e-3)


def test_games_of_other_kinds():
    """A network of agents; a utility of the user's, where a common change enters the marginals themselves."""
    for name in ("directed_network", "concave_mean"):
        game = zoo.GAMES[name]().game()
        floor = 0.8 / game.n_groups
        plan = steer_to_floor(game, floor, lever="common")
        assert plan.success and float(plan.equilibrium.representation.min()) > floor - 1e-9
        if name == "concave_mean":
            changed = subsidised(game, np.asarray(plan.theta))
            np.testing.assert_allclose(jg.solve(changed).profile, plan.equilibrium.profile, atol=1e-9)
            assert "not proved" in plan.message


def least_by_linear_program(spec, W):
    """Prices λ ≥ 0 of least sum at which W stays an equilibrium, where the marginals are −F + λ/n (theory §3.2)."""
    slopes, n, D = -spec.game_map(W), *spec.shape
    rows, least = [], []
    for i, d in zip(*np.nonzero(W > 1e-9), strict=True):
        for e in range(D):
            rows.append((np.eye(D)[e] - np.eye(D)[d]) / n)
            least.append(slopes[i, d] - slopes[i, e])
    return linprog(np.ones(D), A_ub=np.array(rows), b_ub=np.array(least) + 1e-9).x


NO_CHOICE = [[1 / 3, 1 / 3, 1 / 3], [0.3, 0.5, 0.2], [0.0, 0.0, 1.0], [0.0, 0.5, 0.5], [1 / 3 + 1e-9] * 3]


@pytest.mark.float32
@pytest.mark.parametrize("floor", NO_CHOICE)
def test_floors_that_leave_no_choice_cost_the_least(floor, dtype):
    spec = ref.random_alignment(np.random.default_rng(3), 4, 3, attractiveness=2.5)
    single = dtype == np.float32
    plan = steer_to_floor(zoo.to_game(spec, dtype), np.asarray(floor, dtype))
    assert plan.success and plan.theta.dtype == dtype, plan.message
    prices = np.asarray(plan.theta, float)
    assert prices.min() == 0 and not prices[np.asarray(floor) == 0].any()
    W = ref.solution(spec.replace(appeal=spec.appeal + prices / 4 / 2.5))
    np.testing.assert_allclose(spec.representation(W), floor, atol=1e-4 if single else 1e-8)
    if not single:
        # Where an agent gives up a group just so, its share is 0 only to the precision of the reference.
        np.testing.assert_allclose(prices, least_by_linear_program(spec, np.where(W < 1e-7, 0, W)), atol=1e-5)
    assert "One more percentage point for every group held at its floor cannot be had" in plan.guidance()


def test_nothing_to_do():
    game = zoo.GAMES["common_weights"]().game()
    plan = steer_to_floor(game, 0.0)
    assert plan.success and plan.cost == 0 and not np.asarray(plan.theta).any()
    text = plan.guidance()
    assert "Nothing has to change." in text and "no change is needed" in text
    assert "by a price" not in text and "percentage point" not in text


def test_only_outside_of_transformations():
    game = zoo.GAMES["boundary_pairwise"]().game()
    for transformed in (jax.jit, jax.vmap):
        with pytest.raises(ValueError, match="steer_to_floor works outside jit"):
            transformed(lambda floor: steer_to_floor(game, floor).theta)(jnp.full(3, 0.1))


def test_guidance_says_what_to_do(spec, plans):
    plan = plans["common"]
    names = [f"party {k}" for k in range(6)]
    text = plan.guidance(names, rows=1)
    top = int(np.argmax(np.abs(plan.theta)))
    assert text.startswith("This plan works.\nAdd to every agent's appeal:")
    assert f"party {top}  {float(plan.theta[top]):+.4g}" in text and "smaller changes" in text
    assert f"The norm of the change is {plan.cost:.4g}." in text
    alone = np.zeros(6)
    alone[top] = float(plan.theta[top])
    shown = spec.representation(ref.solution(spec.replace(appeal=spec.appeal + alone)))
    short = [names[d] for d in np.flatnonzero(shown < FLOOR - 1e-6)]
    assert f"still below their floor: {', '.join(short)}" in text
    with pytest.raises(ValueError, match="groups has 2 names, expected 6"):
        plan.guidance(["a", "b"])


@pytest.mark.float32
def test_single_precision():
    game = zoo.to_game(population(), np.float32)
    plan = steer_to_floor(game, FLOOR)
    assert plan.success and plan.theta.dtype == plan.equilibrium.profile.dtype == np.float32
    assert float(plan.equilibrium.representation.min()) > FLOOR - 1e-4


def test_bad_input():
    game = zoo.GAMES["boundary_pairwise"]().game()
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        (dict(floor=0.5), "floor sums to 1.5, expected at most 1"),
        (dict(floor=-0.1), "floor is -0.1"),
        (dict(floor=[0.1, 0.2]), r"floor has shape \(2,\), expected \(\) or \(3,\)"),
        (dict(floor=0.1, lever="tax"), "lever is 'tax', expected one of"),
        (dict(floor=0.1, minimise="regret"), "minimise is 'regret'"),
        (dict(floor=0.1, lever="appeal", minimise="norm"), "it is for the levers 'price' and 'common'"),
        (dict(floor=0.1, weights=1.0), "weights are for the levers 'appeal' and 'targets'"),
    )
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            steer_to_floor(game, **arguments)
    with pytest.raises(ValueError, match="the attractiveness of every agent is 0; use 'price'"):
        steer_to_floor(game.replace(attractiveness=0.0), 0.1, lever="common")


def test_a_game_that_is_not_monotone_gets_no_promise():
    """Conformists that reinforce each other: a plan counts only if the ordinary solve agrees, and nothing is proved."""
    game = zoo.GAMES["strong_conformism"]().game()
    plan = steer_to_floor(game, 0.9 / game.n_groups)
    assert "not proved to be monotone" in plan.message
    shown = np.asarray(plan.equilibrium.representation)
    assert plan.success == (bool(plan.equilibrium.converged) and shown.min() > 0.9 / game.n_groups - 1e-8)
    assert plan.success == plan.guidance().startswith("This plan works.")
