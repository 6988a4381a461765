"""Logit responses: every kind of game from uniform to Nash, against numpy, scipy, closed forms and differences."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import scipy.optimize
import zoo

import jaxgame as jg

KINDS = ("boundary_pairwise", "quadratic_agents_dense", "rock_paper_scissors", "concave_mean")
MORE = (
    "boundary_centroid_mixture",
    "directed_network",
    "isolated_agent",
    "conformists_among_contrarians",
    "quadratic_diagonals_nash",
    "quadratic_scalar_nash",
    "quadratic_agents_wardrop",
    "quadratic_agents_network",
    "uneven_pennies",
    "concave_network",
    "concave_profile",
    "one_group",
)


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def away(spec, profile, rationality):
    """max |w − softmax(ϱ g⁰)| by numpy."""
    profile = np.asarray(profile, float)
    rationality = np.broadcast_to(rationality, len(profile))[:, None]
    return np.abs(profile - softmax(-rationality * spec.game_map(profile))).max()


@pytest.mark.parametrize("name", [*KINDS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_fixed_points_of_the_response(name):
    """From nearly uniform to nearly Nash, by an independent evaluation of the response."""
    entry = zoo.GAMES[name]()
    game, spec = entry.game(), entry.spec
    size = max(1.0, np.abs(spec.game_map(np.full(spec.shape, 1 / spec.shape[1]))).max())
    for rationality in (0.0, 0.3, 5.0, 200.0, 1e4, 1e6):
        found = jg.solve(jg.with_rationality(game, rationality))
        assert bool(found.converged), found.message
        assert (np.asarray(found.profile) > 0).all()
        rounding = 100 * np.finfo(float).eps * (1 + rationality * size)
        assert away(spec, found.profile, rationality) < 1e-10 + rounding
        assert float(found.residual) < 1e-10 + rounding


@pytest.mark.parametrize("name", ["boundary_pairwise", "uneven_pennies"])
def test_ends_are_uniform_and_nash(name):
    entry = zoo.GAMES[name]()
    game = entry.game()
    n, D = entry.spec.shape
    none, full = (jg.solve(jg.with_rationality(game, r)) for r in (0.0, jnp.inf))
    assert np.abs(np.asarray(none.profile) - 1 / D).max() < 1e-15
    nash = np.asarray(jg.solve(game).profile)
    assert np.abs(np.asarray(full.profile) - nash).max() < 1e-9
    assert ((np.asarray(full.profile) > 0) == (nash > 1e-12)).all()
    mixed = np.resize([0.0, 3.0, np.inf], n)
    found = np.asarray(jg.solve(jg.with_rationality(game, mixed)).profile)
    assert np.abs(found[0] - 1 / D).max() < 1e-15
    response = softmax(-3.0 * entry.spec.game_map(found))
    assert np.abs(found[1] - response[1]).max() < 1e-10


def test_agrees_with_a_root_finder(rng):
    """Small games: scipy's hybrid method on the logits."""
    for seed, rationality in ((0, 1.0), (1, 8.0), (2, np.array([0.5, 4.0, 20.0]))):
        spec = ref.Quadratic(
            rng.normal(size=(3, 3)),
            np.eye(3) + 0.2,
            ref.Network(np.array([[0, 1, 0.5], [1, 0, 0], [0.2, 2, 0]]), np.eye(3)),
        )
        column = np.broadcast_to(rationality, 3)[:, None]

        def equations(logits, spec=spec, column=column):
            logits = logits.reshape(3, 3)
            return (logits + column * spec.game_map(softmax(logits))).ravel()

        root = scipy.optimize.root(equations, np.zeros(9), tol=1e-12)
        assert root.success, seed
        found = jg.solve(jg.with_rationality(zoo.to_game(spec), rationality))
        assert np.abs(np.asarray(found.profile) - softmax(root.x.reshape(3, 3))).max() < 1e-9


def test_closed_form_where_no_one_matters(rng):
    """Marginals that depend on no mixture: w = softmax(ϱ α a), in one step (theory §3.5)."""
    appeal = rng.normal(size=(6, 5))
    game = jg.AlignmentGame(np.full((6, 5), 0.2), np.eye(5), appeal, attractiveness=0.7, consistency=0.0)
    rationality = np.array([0.0, 0.1, 1.0, 10.0, 100.0, 500.0])
    found = jg.solve(jg.with_rationality(game, rationality))
    assert np.allclose(found.profile, softmax(0.7 * rationality[:, None] * appeal), rtol=1e-9, atol=1e-300)


def test_excluded_groups_decay_as_theory_says():
    """log w_d falls like −ϱ ν_d, and the profile is within √(n log D / ϱ c) of Nash (theory §9)."""
    entry = zoo.GAMES["boundary_pairwise"]()
    game = entry.game()
    nash = jg.solve(game)
    out = np.asarray(nash.profile) == 0
    price = np.where(out, -np.asarray(nash.signed), 0)
    c = float(jg.certify(game, nash).monotonicity)
    n, D = out.shape
    for rationality in (10.0, 100.0, 300.0):
        found = np.asarray(jg.solve(jg.with_rationality(game, rationality)).profile)
        assert np.linalg.norm(found - np.asarray(nash.profile)) <= (n * np.log(D) / (rationality * c)) ** 0.5
    rate = -np.log(found[out]) / 300
    assert np.abs(rate - price[out]).max() < 0.02 * price[out].max() + 0.02
    assert not np.asarray(jg.excluded(jg.solve(jg.with_rationality(game, 0.0)))).any()


def test_shares_far_below_the_smallest_number():
    """ν ϱ of thousands: positive, solved, and finite marginals."""
    game = zoo.GAMES["boundary_pairwise"]().game()
    found = jg.solve(jg.with_rationality(game, 1e7))
    assert bool(found.converged) and (np.asarray(found.profile) > 0).all()
    assert np.isfinite(found.game.marginals(found.profile)).all()
    assert float(found.gap) < 1e-8
    assert np.isfinite(jax.grad(lambda r: jg.solve(jg.with_rationality(game, r)).representation[0])(1e7))


def weighted(game, rationality, seed=1):
    profile = jg.solve(jg.with_rationality(game, rationality)).profile
    return (jnp.asarray(np.random.default_rng(seed).normal(size=profile.shape)) * profile).sum()


@pytest.mark.parametrize(
    "name",
    [
        "boundary_pairwise",
        "quadratic_agents_dense",
        pytest.param("directed_network", marks=pytest.mark.slow),
        pytest.param("concave_profile", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("level", [0.5, 30.0])
def test_derivative_is_that_of_differences(rng, name, level):
    game = zoo.GAMES[name]().game()
    n, D = game.n_agents, game.n_groups
    rationality = jnp.asarray(level * rng.uniform(0.5, 2, n))
    leaves, structure = jax.tree.flatten(game)
    at = next(k for k, leaf in enumerate(leaves) if leaf.shape == (n, D))
    # Tangent, for the rows of targets sum to 1.
    direction = rng.normal(size=(n, D))
    direction -= direction.mean(1, keepdims=True)
    turn = rng.normal(size=n)

    def value(t, s):
        moved = [leaf + t * direction if k == at else leaf for k, leaf in enumerate(leaves)]
        return weighted(jax.tree.unflatten(structure, moved), rationality + s * turn)

    h = 1e-6
    differences = [(value(h, 0.0) - value(-h, 0.0)) / (2 * h), (value(0.0, h) - value(0.0, -h)) / (2 * h)]
    exact = jax.grad(value, argnums=(0, 1))(0.0, 0.0)
    assert np.allclose(exact, differences, rtol=1e-6, atol=1e-7)
    forward = jax.jvp(lambda t: value(t, 0.0), (0.0,), (1.0,))[1]
    assert np.allclose(forward, exact[0], rtol=1e-9)


def test_derivatives_at_the_ends():
    """At ϱ = 0, d w/dϱ = w (g − ḡ); at ϱ = ∞ nothing moves with ϱ, and all else as in the Nash game."""
    entry = zoo.GAMES["boundary_pairwise"]()
    game, spec = entry.game(), entry.spec
    D = spec.shape[1]
    slope = jax.jacfwd(lambda r: jg.solve(jg.with_rationality(game, r)).profile)(0.0)
    uniform = -spec.game_map(np.full(spec.shape, 1 / D)) / D
    assert np.allclose(slope, uniform - uniform.mean(1, keepdims=True), atol=1e-12)
    assert np.abs(jax.jacfwd(lambda r: jg.solve(jg.with_rationality(game, r)).profile)(jnp.inf)).max() < 1e-12
    nash = jax.grad(lambda a: jg.solve(game.replace(attractiveness=a)).representation[0])(game.attractiveness)
    far = jax.grad(lambda a: weightless(game.replace(attractiveness=a)))(game.attractiveness)
    assert np.allclose(nash, far, atol=1e-8)


def weightless(game):
    return jg.solve(jg.with_rationality(game, jnp.inf)).representation[0]


def test_second_derivative_and_logarithm_of_a_small_share():
    game = zoo.GAMES["boundary_pairwise"]().game()

    def smallest(r):
        return jnp.log(jg.solve(jg.with_rationality(game, r)).profile).min()

    slope = jax.grad(smallest)
    assert np.isclose(slope(40.0), (smallest(40.001) - smallest(39.999)) / 0.002, rtol=1e-6)
    assert np.isclose(jax.grad(slope)(40.0), (slope(40.01) - slope(39.99)) / 0.02, rtol=1e-4)


def test_batches(rng):
    """vmap of jit, solve_many and one by one, over ϱ from 0 to ∞."""
    game = zoo.GAMES["boundary_pairwise"]().game()
    grid = jnp.asarray([0.0, 1.0, 30.0, 1e4, np.inf])
    each = np.stack([jg.solve(jg.with_rationality(game, r)).profile for r in grid])
    batch = jax.vmap(jax.jit(lambda r: jg.solve(jg.with_rationality(game, r))))(grid)
    assert np.asarray(batch.converged).all()
    assert np.abs(np.asarray(batch.profile) - each).max() < 1e-9
    many = jg.solve_many(jax.vmap(lambda r: jg.with_rationality(game, r))(grid))
    assert np.abs(np.asarray(many.profile) - each).max() < 1e-9
    assert np.asarray(jg.excluded(batch, tolerance=1e-3)).shape == (5, game.n_groups)


def test_new_rationality_does_not_compile(caplog):
    game = zoo.GAMES["quadratic_scalar_nash"]().game()
    jg.solve(jg.with_rationality(game, 1.0))
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        for r in (0.0, 7.0, 1e5, np.inf):
            jg.solve(jg.with_rationality(game, r))
    assert not [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]


def test_another_solver_finds_the_same():
    game = jg.with_rationality(zoo.GAMES["boundary_pairwise"]().game(), 6.0)
    other = jg.solve(game, jg.MirrorProx())
    assert bool(other.converged)
    assert np.abs(np.asarray(other.profile) - np.asarray(jg.solve(game).profile)).max() < 1e-8


@pytest.mark.parametrize("rationality", [0.5, 20.0, 1e5])
def test_certificate(rng, rationality):
    game = jg.with_rationality(zoo.GAMES["boundary_pairwise"]().game(), rationality)
    found = jg.solve(game)
    proof = jg.certify(game, found)
    assert proof.unique and proof.concave
    assert float(proof.exploitability.max()) < 1e-12 and float(proof.distance) < 1e-9
    assert float(proof.residual) < 1e-9
    assert "only equilibrium" not in found.message
    for step in (1e-6, 1e-2):  # the bound holds for profiles that are off by a known amount
        off = np.asarray(found.profile) * np.exp(step * rng.normal(size=found.profile.shape))
        off /= off.sum(1, keepdims=True)
        bound = float(jg.certify(game, off).distance)
        assert np.linalg.norm(off - np.asarray(found.profile)) <= bound


def test_rough_agents_have_one_equilibrium_where_nash_is_not_unique():
    """Beyond the uniqueness boundary of theory §2 entropies restore uniqueness, and the certificate knows."""
    game = jg.AlignmentGame(np.full((2, 2), 0.5), np.eye(2), np.zeros(2), diversity=1.5)
    assert not jg.certify(game, np.full((2, 2), 0.5)).unique
    rough, sharp = (jg.with_rationality(game, r) for r in (1.0, 100.0))
    assert jg.certify(rough, np.full((2, 2), 0.5)).unique
    assert not jg.certify(sharp, np.full((2, 2), 0.5)).unique
    assert np.allclose(jg.solve(rough).profile, 0.5, atol=1e-10)


def test_utilities_and_marginals_belong_together(rng):
    game = jg.with_rationality(zoo.GAMES["concave_mean"]().game(), np.array([0.0, 0.5, 3.0, np.inf]))
    profile = jnp.asarray(rng.dirichlet(np.ones(game.n_groups), size=game.n_agents))
    gradient = jax.jacfwd(game.utilities)(profile)
    own = gradient[jnp.arange(game.n_agents), jnp.arange(game.n_agents)]
    assert np.allclose(own, game.marginals(profile), atol=1e-12)
    assert np.allclose(
        -jax.jacfwd(game.marginals)(profile).reshape(profile.size, profile.size),
        game.linearise(profile).dense(),
        atol=1e-10,
    )


def test_bad_input():
    game = zoo.GAMES["boundary_pairwise"]().game()
    with pytest.raises(ValueError, match=r"rationality is -1.0, expected a number ≥ 0"):
        jg.with_rationality(game, -1.0)
    with pytest.raises(ValueError, match=r"rationality\[1\] is nan"):
        jg.with_rationality(game, np.where(np.arange(game.n_agents) == 1, np.nan, 1.0))
    with pytest.raises(ValueError, match="shape"):
        jg.with_rationality(game, np.ones(game.n_agents + 1))
    rational = jg.with_rationality(game, 1.0)
    with pytest.raises(ValueError, match="has a rationality already"):
        jg.with_rationality(rational, 1.0)
    with pytest.raises(ValueError, match="MirrorProx"):
        jg.solve(rational, jg.Newton())
    with pytest.raises(ValueError, match="bounds are not offered"):
        jg.solve(rational, bounds=jg.Bounds(lower=0.01))
    assert float(rational.replace(rationality=2.0).rationality) == 2.0


@pytest.mark.float32
@pytest.mark.parametrize("rationality", [0.0, 5.0, 300.0, 1e4, np.inf])
def test_single_precision(rationality):
    entry = zoo.GAMES["boundary_pairwise"]()
    game = zoo.to_game(entry.spec, np.float32)
    found = jg.solve(jg.with_rationality(game, rationality))
    assert found.profile.dtype == jnp.float32 and bool(found.converged), found.message
    assert (np.asarray(found.profile) > 0).all() or np.isinf(rationality)
    slope = jax.grad(lambda r: jg.solve(jg.with_rationality(game, r)).representation[0])(jnp.float32(rationality))
    assert slope.dtype == jnp.float32 and np.isfinite(slope)
    if np.isfinite(rationality):
        assert away(entry.spec, found.profile, rationality) < 1e-5 + 1e-5 * rationality


@pytest.mark.slow
def test_steering_brings_a_group_back():
    """Rough agents leave no desert: the least share is raised, and another solver confirms it."""
    game = jg.surveys.load("gss2018-ideology").game(4, attractiveness=0.6)
    plan = jg.steer(
        lambda theta: jg.with_rationality(game.replace(appeal=game.appeal + theta[None]), 50.0),
        jnp.zeros(7),
        objective=lambda e: -e.representation.min(),
        cost=lambda theta: (theta**2).sum(),
        goal=lambda e: e.representation.min() > 0.02,
        max_steps=60,
    )
    assert float(plan.before.representation.min()) < 0.02 < float(plan.equilibrium.representation.min())
    fresh = jg.solve(jg.with_rationality(game.replace(appeal=game.appeal + plan.theta[None]), 50.0), jg.MirrorProx())
    assert np.abs(np.asarray(fresh.representation) - np.asarray(plan.equilibrium.representation)).max() < 1e-7
