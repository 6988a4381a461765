"""Shared bounds on the representation: the variational equilibrium's own conditions, checked in numpy (theory §5)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import zoo

import jaxgame as jg
from jaxgame.games import subsidised

FLOOR = 0.2


def violations(spec, W, prices, *, lower=-np.inf, upper=np.inf, matrix=None, exposure=None):
    """The largest violation of the agents' conditions with the prices paid, and of the bounds with theirs."""
    n, D = spec.shape
    matrix = np.eye(D) if matrix is None else matrix
    S = spec.representation(W)
    exposure = (
        exposure if exposure is not None else np.array([spec.representation(np.eye(n)[:, [i]])[0] for i in range(n)])
    )
    F = spec.game_map(W) - np.outer(exposure, matrix.T @ prices)
    room, price = np.stack([matrix @ S - lower, upper - matrix @ S]), np.stack([prices, -prices])
    price = np.maximum(price, 0) * exposure.max()
    return ref.kkt_error(F, W), np.abs(np.minimum(room, price)).max()


def conditions_hold(spec, found, atol=1e-9, **bounds):
    agents, shared = violations(spec, np.asarray(found.profile, float), np.asarray(found.prices, float), **bounds)
    return bool(found.converged) and agents < atol and shared < atol


ENTRIES = [
    "boundary_pairwise",
    "unequal_reach",
    "directed_network",
    "concave_mean",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "boundary_centroid_mixture",
            "conformists_among_contrarians",
            "concave_network",
            "concave_profile",
            "quadratic_scaled_nash",
            "quadratic_agents_dense",
            "condition_1e4_nonsymmetric",
        )
    ),
]


@pytest.mark.parametrize("name", ENTRIES)
def test_floors(name):
    spec = zoo.GAMES[name]().spec
    floor = 0.8 / spec.shape[1]
    found = jg.solve(zoo.to_game(spec), bounds=jg.Bounds(lower=floor))
    assert conditions_hold(spec, found, lower=floor, atol=1e-8)
    assert float(found.gap) < 1e-7 and "prices" in found.message
    free = jg.solve(zoo.to_game(spec))
    if float(free.representation.min()) < floor - 1e-6:
        assert float(found.prices.max()) > 1e-6  # it does bind


@pytest.fixture(scope="module")
def population():
    rng = np.random.default_rng(5)
    spec = ref.random_alignment(rng, 6, 4, reach=rng.dirichlet(np.full(6, 3.0)), attractiveness=rng.uniform(0.5, 2, 6))
    return spec, zoo.to_game(spec)


def test_prices_are_what_an_ordinary_solve_needs(population):
    """Paid the prices, the agents meet the floors by themselves; so it is for a solver that knows of no floors."""
    spec, game = population
    found = jg.solve(game, bounds=jg.Bounds(lower=0.15))
    paid = subsidised(game, np.outer(np.asarray(spec.reach), np.asarray(found.prices)))
    for solver in (None, jg.GoldenRatio()):
        np.testing.assert_allclose(jg.solve(paid, solver).profile, found.profile, atol=1e-8)
    assert float(jg.certify(paid, found.profile).exploitability.max()) < 1e-12
    np.testing.assert_allclose(found.representation, spec.representation(np.asarray(found.profile)), atol=1e-14)
    np.testing.assert_allclose(np.maximum(found.signed, 0), found.profile, atol=1e-12)


def test_caps_segments_and_what_does_not_bind(population):
    spec, game = population
    matrix = np.array([[1.0, 1, 0, 0], [0, 0, 1, 0], [1, -1, 0.5, 0]])
    free = np.asarray(jg.solve(game).representation) @ matrix.T
    for lower, upper in (
        (free - 1, free + 1),
        (free + [0.1, -1, -1], np.full(3, np.inf)),
        (np.full(3, -np.inf), free - [0.1, -0.2, 0.05]),
        (free + [0.05, -np.inf, 0.02], free + [0.05, 0.01, np.inf]),
    ):
        found = jg.solve(game, bounds=jg.Bounds(lower, upper, matrix=matrix))
        assert conditions_hold(spec, found, lower=lower, upper=upper, matrix=matrix)
        within = (lower < free).all() and (free < upper).all()
        assert (np.asarray(found.prices) == 0).all() == within


def test_exposure_gives_one_addition_to_everyones_appeal(population):
    spec, game = population
    alpha = np.asarray(spec.attractiveness)
    found = jg.solve(game, bounds=jg.Bounds(lower=0.15, exposure=alpha))
    assert conditions_hold(spec, found, lower=0.15, exposure=alpha)
    changed = spec.replace(appeal=spec.appeal + np.asarray(found.prices))
    np.testing.assert_allclose(ref.solution(changed), found.profile, atol=1e-8)


def test_two_groups_by_hand():
    """Theory §3.3 with λ/n paid for the second group: w_1 = ½ + (γ(t_1−t_2) + α(a_1−a_2) − λ/n) / 2(γ + δ(1−ρ))."""
    n, gamma, delta, rho, alpha = 5, 1.3, 0.4, 0.3, 2.0
    game = jg.AlignmentGame(
        np.tile([0.6, 0.4], (n, 1)),
        np.array([[1, rho], [rho, 1]]),
        np.array([1.0, 0.2]),
        attractiveness=alpha,
        consistency=gamma,
        diversity=delta,
        consistency_metric="mixture",
    )
    assert bool(jg.excluded(jg.solve(game))[1])
    found = jg.solve(game, bounds=jg.Bounds(lower=np.array([0.0, 0.1])))
    price = n * (gamma * 0.2 + alpha * 0.8 - 0.8 * (gamma + delta * (1 - rho)))
    np.testing.assert_allclose(found.prices, [0, price], rtol=1e-10)
    np.testing.assert_allclose(found.profile, np.tile([0.9, 0.1], (n, 1)), atol=1e-12)


def test_floors_that_leave_no_choice(population):
    spec, game = population
    floor = np.array([0.4, 0.3, 0.2, 0.1])
    found = jg.solve(game, bounds=jg.Bounds(lower=floor))
    np.testing.assert_allclose(found.representation, floor, atol=1e-8)
    assert conditions_hold(spec, found, lower=floor, atol=1e-7)


def degenerate():
    """Two groups that no agent tells apart; utilities that are linear."""
    rng = np.random.default_rng(7)
    alike = np.array([[1.0, 1, 1], [1, 1, 1], [1, 1, 2]])
    flat = dict(consistency=0.0, diversity=0.0, attractiveness=3.0)
    return {
        "alike": (ref.Alignment(np.full((4, 3), 1 / 3), alike, np.array([1.0, 1, -1]), attractiveness=3.0), 0.1),
        "linear": (ref.random_alignment(rng, 4, 3, **flat), 0.3),
    }


@pytest.mark.parametrize("name", ["alike", "linear"])
def test_games_with_many_equilibria(name):
    """Singular on their faces, and yet solved to the default tolerance."""
    spec, floor = degenerate()[name]
    found = jg.solve(zoo.to_game(spec), bounds=jg.Bounds(lower=floor))
    assert conditions_hold(spec, found, lower=floor, atol=1e-9)
    assert float(found.residual) < 1e-10 and float(found.prices.max()) > 0.1


@pytest.mark.float32
def test_bounds_that_cannot_be_met_are_not_called_met(dtype):
    """Under jit, where nothing is checked beforehand: the prices grow, and rounding must not grow with them."""
    spec = ref.random_alignment(np.random.default_rng(5), 6, 4)
    game = zoo.to_game(spec, dtype)
    solved = jax.jit(lambda floor: jg.solve(game, bounds=jg.Bounds(lower=floor)))
    for floor in (0.26, 0.3, 0.9):
        found = solved(jnp.asarray(floor, dtype))
        assert not bool(found.converged) and np.isfinite(np.asarray(found.profile)).all()
        message = found.replace(game=game).message
        assert "try another solver" not in message and "no representation satisfies" in message


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_scaling_utilities_scales_prices_alone(population, scale):
    spec, game = population
    found = jg.solve(game, bounds=jg.Bounds(lower=0.15))
    again = jg.solve(zoo.to_game(spec.scaled(scale)), bounds=jg.Bounds(lower=0.15))
    assert int(again.status) == 0
    np.testing.assert_allclose(again.profile, found.profile, atol=1e-9)
    np.testing.assert_allclose(np.asarray(again.prices) / scale, found.prices, rtol=1e-7, atol=1e-9)


def test_large_population_of_unlike_agents():
    rng = np.random.default_rng(2)
    n, D = 3000, 8
    game = jg.AlignmentGame(
        rng.dirichlet(np.ones(D), n),
        ref.random_kernel(rng, D),
        rng.normal(size=D) + 0.3 * rng.normal(size=(n, D)),
        attractiveness=rng.uniform(0.5, 3, n),
        consistency=rng.uniform(1, 2, n),
        diversity=0.2,
        reach=rng.dirichlet(np.ones(n)),
    )
    found = jg.solve(game, bounds=jg.Bounds(lower=0.05))
    assert bool(found.converged) and int((np.asarray(found.prices) > 0).sum()) >= 2
    W, prices, reach = (np.asarray(x) for x in (found.profile, found.prices, game.reach))
    slope = np.asarray(game.marginals(found.profile)) + np.outer(reach, prices)
    assert ref.kkt_error(-slope, W) < 1e-9 and (reach @ W).min() > 0.05 - 1e-10
    np.testing.assert_allclose((reach @ W)[prices > 0], 0.05, atol=1e-10)


def test_derivative_of_profile_and_prices(population):
    """Against central differences: in the floors and caps, in the game, and together through a scalar."""
    spec, game = population
    lower, upper = jnp.asarray([0.15, 0.1, 0.12, 0.0]), jnp.asarray([1.0, 1, 1, 0.35])
    rng = np.random.default_rng(0)
    weights, along = rng.normal(size=spec.shape), rng.normal(size=spec.shape)
    tilt = jnp.asarray(rng.normal(size=4))

    @jax.jit
    def found(lower, upper, appeal, alpha):
        e = jg.solve(game.replace(appeal=appeal, attractiveness=alpha), bounds=jg.Bounds(lower, upper))
        return (weights * e.profile).sum() + tilt @ e.prices, e.stats["margin"]

    point = lower, upper, game.appeal, game.attractiveness
    slopes = jax.jit(jax.grad(lambda *p: found(*p)[0], argnums=(0, 1, 2, 3)))(*point)
    assert float(found(*point)[1]) > 1e-3
    h = 1e-5
    moves = [np.eye(4)[0], np.eye(4)[2], np.eye(4)[3]], [np.eye(4)[3]], [along], [np.ones(6), np.arange(6.0)]
    for k, directions in enumerate(moves):
        for d in directions:
            ahead, behind = ([x + s * h * d if j == k else x for j, x in enumerate(point)] for s in (1, -1))
            difference = float(found(*ahead)[0] - found(*behind)[0]) / (2 * h)
            np.testing.assert_allclose((np.asarray(slopes[k]) * d).sum(), difference, rtol=1e-6, atol=1e-6)
    assert abs(float(slopes[0][0])) > 1e-3 and abs(float(slopes[1][3])) > 1e-3  # these two bind


def test_batch_with_a_lane_that_cannot_be(population):
    _, game = population
    found = jax.vmap(lambda floor: jg.solve(game, bounds=jg.Bounds(lower=floor)))(jnp.asarray([0.05, 0.15, 0.3]))
    assert found.prices.shape == (3, 4) and found.converged.tolist() == [True, True, False]
    alone = jg.solve(game, bounds=jg.Bounds(lower=0.15))
    np.testing.assert_allclose(found.prices[1], alone.prices, atol=1e-9)
    assert np.isfinite(np.asarray(found.profile)).all() and found.signed.shape == (3, 6, 4)


def test_gradients_of_a_failed_solve_are_nan(population):
    """Backwards, too, where a bound is not met at a price, and without a word about singular conditions."""
    _, game = population

    def paid(floor):
        return jg.solve(game, bounds=jg.Bounds(lower=floor)).prices.sum()

    floors = jnp.asarray([0.05, 0.15, 0.3, 0.9])
    slopes = np.asarray(jax.vmap(jax.grad(paid))(floors))
    assert np.isfinite(slopes).tolist() == [True, True, False, False]
    h = 1e-5
    ahead, behind = (np.asarray(jax.vmap(paid)(floors[:2] + step)) for step in (h, -h))
    np.testing.assert_allclose(slopes[:2], (ahead - behind) / (2 * h), rtol=1e-6)
    assert (slopes[:2] > 1).all()
    assert np.isnan(float(jax.grad(paid)(jnp.asarray(0.3)))) and np.isnan(float(jax.jit(jax.grad(paid))(0.3)))

    def shown(appeal, floor):
        return jg.solve(game.replace(appeal=appeal), bounds=jg.Bounds(lower=floor)).representation[0]

    by_appeal = jax.vmap(jax.grad(shown), in_axes=(None, 0))(game.appeal, floors)
    assert np.isfinite(by_appeal[:2]).all() and np.isnan(by_appeal[2:]).all()


@pytest.mark.float32
def test_single_precision(dtype):
    rng = np.random.default_rng(5)
    spec = ref.random_alignment(rng, 6, 4, attractiveness=rng.uniform(0.5, 2, 6))
    found = jg.solve(zoo.to_game(spec, np.float32), bounds=jg.Bounds(lower=0.15))
    assert found.prices.dtype == found.profile.dtype == found.representation.dtype == np.float32
    assert conditions_hold(spec, found, lower=0.15, atol=1e-5)


def test_bad_bounds(population):
    _, game = population
    nan = np.array([0.1, np.nan, 0, 0])
    cases = [
        (dict(), "both None"),
        (dict(lower=nan), r"lower\[1\] is nan"),
        (dict(lower=np.nan), "lower is nan, expected a number, or -inf for no limit"),
        (dict(lower=np.array([np.inf, 0, 0, 0])), r"lower\[0\] is inf"),
        (dict(upper=-np.inf), "upper is -inf, expected a number, or inf for no limit"),
        (dict(lower=-0.2, matrix=np.zeros((0, 4))), r"matrix has shape \(0, 4\), expected at least one row"),
        (dict(lower=0.3), "no representation satisfies .* sum to 1.2, above 1"),
        (dict(upper=0.2), "no representation satisfies"),
        (dict(lower=np.full(4, 0.2), upper=np.array([1, 1, 0.1, 1])), r"lower\[2\] is 0.2, above .*upper\[2\] = 0.1"),
        (dict(lower=0.1, matrix=np.eye(3)), r"matrix has shape \(3, 3\), expected \(p, 4\)"),
        (dict(lower=np.zeros(3)), r"lower has shape \(3,\), expected \(\) or \(4,\)"),
        (dict(lower=np.zeros(3), matrix=np.eye(4)), r"lower has shape \(3,\)"),
        (dict(lower=0.1, exposure=-np.ones(6)), r"exposure\[0\] is -1"),
        (dict(lower=0.1, exposure=np.ones(5)), r"exposure has shape \(5,\), expected \(6,\)"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            jg.solve(game, bounds=jg.Bounds(**arguments))
    with pytest.raises(ValueError, match="bounds must be a Bounds, got float"):
        jg.solve(game, bounds=0.1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="solver is Newton, expected none with bounds"):
        jg.solve(game, jg.Newton(), bounds=jg.Bounds(lower=0.1))
