"""`solve` with its defaults on every game of the zoo, judged by numpy: KKT, independent solutions, scaling."""

import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgame as jg

TOL = 1e-10
FACTORS = (1.0, 1e-8, 1e8)  # units of utility
# Every shape and structure costs a compilation: what another entry covers but for the storage of a curvature (see
# test_games for the marginals of all) or for the size runs with --all only.
SLOW = (
    "two_groups_interior",
    "two_groups_boundary",
    "boundary_centroid_mixture",
    "one_agent_one_group",
    "hundred_unknowns",
    "quadratic_agent_nash",
    "quadratic_shared_nash",
    "quadratic_diagonal_nash",
    "quadratic_scaled_nash",
    "quadratic_scalar_wardrop",
    "quadratic_scalar_others",
    "quadratic_agents_others",
    "quadratic_scalar_network",
    "quadratic_scalar_network_identity",
    "quadratic_scalar_dense",
    "unreached_agents",
    "concave_network",
)
MONOTONE = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in zoo.names(lambda e: e.monotone)
]
WITHOUT_GUARANTEE = zoo.names(lambda e: not e.monotone)


def check(spec, found, tol=TOL):
    """A profile that numpy, too, calls an equilibrium at that tolerance, and everything reported about it."""
    W = np.asarray(found.profile)
    F, sigma = spec.game_map(W), zoo.sigma(spec)
    spacing = 50 * np.finfo(W.dtype).eps * (1 + np.abs(F).max() / max(sigma, 1e-300))  # rounding, ours and the game's
    assert ref.feasibility_error(W) <= 4 * np.finfo(W.dtype).eps * np.sqrt(W.shape[1])
    assert ref.residual(F, W, sigma) <= 2 * tol + spacing
    assert ref.kkt_error(F, W, sigma) <= 4 * tol + spacing
    assert float(found.residual) <= tol + spacing
    np.testing.assert_allclose(found.representation, spec.representation(W), atol=1e-13)
    rounding = 200 * np.finfo(W.dtype).eps * (sigma + np.abs(F).max())
    if np.isfinite(float(found.gap)):
        np.testing.assert_allclose(float(found.gap), ref.gap(F, W).max(), rtol=1e-5, atol=rounding)
    mu, nu = -F.min(axis=1), F - F.min(axis=1, keepdims=True)
    assert np.abs(np.asarray(found.multipliers) - mu).max() <= rounding
    # z = w - ν; a solver leaves a residue in the smaller of σw and ν, which need not be carried along
    residue = np.where(sigma * W >= nu, nu, W)
    assert (np.abs(np.asarray(found.signed) - (W - nu)) <= residue + rounding + 1e-15).all()


@pytest.mark.parametrize("name", zoo.GAMES)
def test_declared_properties(name):
    """What the zoo says of its games is true, by numbers of numpy."""
    entry = zoo.GAMES[name]()
    spec = entry.spec
    if entry.solution is not None:
        assert entry.solution.shape == spec.shape and entry.solution.min() >= 0
        # the data are rounded: a planted solution is exact up to a few eps of the largest utility
        assert ref.kkt_error(spec.game_map(entry.solution), entry.solution, zoo.sigma(spec)) < 1e-12
    if isinstance(spec, zoo.Concave):
        return
    monotonicity, lipschitz = ref.constants(spec.affine[0], spec.shape)
    assert (monotonicity >= -1e-12 * lipschitz) == entry.monotone
    if monotonicity > 1e-9 * lipschitz:
        assert entry.unique


@pytest.mark.parametrize("name", MONOTONE)
def test_default_solve(name):
    """Converged, confirmed, and right, whatever the unit of utility."""
    entry = zoo.GAMES[name]()
    for factor in FACTORS:
        spec = entry.spec.scaled(factor)
        found = jg.solve(zoo.to_game(spec))
        assert bool(found.converged) and int(found.status) == 0, found.message
        check(spec, found)
        if entry.solution is not None:
            np.testing.assert_allclose(found.profile, entry.solution, atol=1e-8)


@pytest.mark.parametrize("name", ["isolated_agent", pytest.param("concave_network", marks=pytest.mark.slow)])
def test_default_solve_on_sparse_networks(name):
    entry = zoo.GAMES[name]()
    found = jg.solve(entry.game(sparse=True))
    assert bool(found.converged), found.message
    check(entry.spec, found)
    np.testing.assert_allclose(found.profile, entry.solution, atol=1e-8)


@pytest.mark.parametrize("factor", [1e-8, 1e8])
def test_a_wrong_profile_is_wrong_in_every_unit(factor):
    """The verdict on a bad point is scale-free, too: one step from a vertex does not pass at any scale."""
    entry = zoo.GAMES["condition_10"]()
    start = jnp.zeros(entry.spec.shape).at[:, 0].set(1.0)
    found = jg.solve(zoo.to_game(entry.spec.scaled(factor)), jg.ProjectedGradient(), init=start, max_steps=1)
    assert not bool(found.converged) and int(found.status) != 0
    assert float(found.residual) > 1e-4


@pytest.mark.parametrize("name", WITHOUT_GUARANTEE)
def test_games_without_guarantee_are_honest(name):
    """An equilibrium that numpy confirms, or a status that says it is none; never NaN, always feasible."""
    entry = zoo.GAMES[name]()
    found = jg.solve(entry.game())
    W = np.asarray(found.profile)
    assert np.isfinite(W).all() and ref.feasibility_error(W) < 1e-14
    assert bool(found.converged) == (int(found.status) == 0)
    if bool(found.converged):
        check(entry.spec, found)
    else:
        assert ref.residual(entry.spec.game_map(W), W, zoo.sigma(entry.spec)) > TOL / 10
    assert isinstance(found.message, str) and " " in found.message


def test_coordination_and_conformism_still_have_equilibria():
    """Potential games without uniqueness: ascent of the potential does find one of the equilibria."""
    for name in ("coordination", "strong_conformism", "many_equilibria"):
        entry = zoo.GAMES[name]()
        assert bool(jg.solve(entry.game()).converged), name


def test_convex_utilities_bound_nothing():
    """Where an agent's utility is not concave the gap is no bound: infinite (theory §1)."""
    found = jg.solve(zoo.GAMES["convex_utilities"]().game())
    assert np.isinf(float(found.gap))


@pytest.mark.parametrize("name", ["boundary_pairwise", "condition_10", "directed_network", "cubic_cost"])
def test_start_is_irrelevant(name):
    entry = zoo.GAMES[name]()
    game, rng = entry.game(), np.random.default_rng(1)
    vertices = np.eye(entry.spec.shape[1])[rng.integers(entry.spec.shape[1], size=entry.spec.shape[0])]
    for start in (vertices, rng.dirichlet(np.ones(entry.spec.shape[1]), entry.spec.shape[0]), entry.solution):
        found = jg.solve(game, init=jnp.asarray(start))
        assert bool(found.converged), found.message
        np.testing.assert_allclose(found.profile, entry.solution, atol=1e-8)


def test_looser_tolerance_is_honoured():
    entry = zoo.GAMES["condition_1e4_nonsymmetric"]()
    found = jg.solve(entry.game(), jg.Extragradient(), tol=1e-4)
    assert bool(found.converged) and float(found.residual) <= 1e-4
    check(entry.spec, found, tol=1e-4)


@pytest.mark.slow
def test_large_ill_conditioned():
    rng = np.random.default_rng(2)
    spec, W = ref.planted(rng, ref.random_mean_field(rng, 40, 8, 1e6, False))
    found = jg.solve(zoo.to_game(spec))
    assert bool(found.converged), found.message
    np.testing.assert_allclose(found.profile, W, atol=1e-8)


SEEDS = st.integers(0, 2**32 - 1)
# few shapes, many numbers: each new shape compiles anew
ALIGNMENT_SHAPES, QUADRATIC_SHAPES = [(1, 3), (4, 3)], [(6, 5)]
ALL_SHAPES = [(1, 2), (2, 2), (3, 4), (5, 1), (2, 5), (6, 5)]


def random_alignment(shape, seed, attractiveness):
    spec = ref.random_alignment(np.random.default_rng(seed), *shape, attractiveness=attractiveness)
    if ref.constants(spec.affine[0], shape)[0] < 1e-3:
        spec = spec.replace(diversity=0.2)
    found = jg.solve(zoo.to_game(spec))
    assert bool(found.converged), found.message
    np.testing.assert_allclose(found.profile, ref.solution(spec), atol=1e-8)


def random_quadratic(shape, seed, digits, rounded):
    rng = np.random.default_rng(seed)
    spec = ref.random_mean_field(rng, shape[0], shape[1], 10.0**digits, symmetric=False)
    linear, curvature, B = spec.linear, spec.curvature, spec.coupling.B / 4
    if rounded:
        linear = np.round(linear)
        curvature = ref.Scaled(np.ones(shape[0]), np.diag(np.round(np.geomspace(1, 10.0**digits, shape[1]))))
    sensitivity = rng.uniform(0.2, 1.0, shape[0])
    spec = ref.Quadratic(linear, curvature, ref.MeanField(B, sensitivity))
    if ref.constants(spec.affine[0], shape)[0] < 0.05:
        spec = ref.Quadratic(linear, curvature, ref.MeanField(np.zeros_like(B), sensitivity))
    found = jg.solve(zoo.to_game(spec))
    assert bool(found.converged), found.message
    np.testing.assert_allclose(found.profile, ref.solution(spec), atol=1e-8)


@settings(max_examples=40)
@given(st.sampled_from(ALIGNMENT_SHAPES), SEEDS, st.floats(0.0, 2.0))
def test_random_alignment_games(shape, seed, attractiveness):
    """Random appeals from none to strong: zero, one or most of the groups excluded."""
    random_alignment(shape, seed, attractiveness)


@settings(max_examples=40)
@given(st.sampled_from(QUADRATIC_SHAPES), SEEDS, st.floats(0.0, 6.0), st.booleans())
def test_random_quadratic_games(shape, seed, digits, rounded):
    """Condition numbers 1 … 1e6, nonsymmetric interaction; rounded data make ties and weak complementarity."""
    random_quadratic(shape, seed, digits, rounded)


@pytest.mark.slow
@settings(max_examples=200)
@given(st.sampled_from(ALL_SHAPES), SEEDS, st.floats(0.0, 6.0), st.booleans())
def test_random_games_of_all_shapes(shape, seed, digits, rounded):
    random_quadratic(shape, seed, digits, rounded)
    random_alignment(shape, seed, digits / 3)


def test_potential_games_minimise_the_potential():
    """Where the weighted game is symmetric, no profile that SLSQP finds has a lower potential."""
    spec = ref.random_alignment(
        np.random.default_rng(5), 4, 3, consistency_metric="mixture", diversity=np.array([0.2, 0.5, 1.0, 0.3])
    )
    weights = 1 / spec.diversity
    M, q = spec.affine
    lowest, potential = ref.potential_minimum(M, q, spec.shape, weights)
    found = np.asarray(jg.solve(zoo.to_game(spec)).profile)
    assert potential(found.ravel()) <= potential(lowest.ravel()) + 1e-10
    np.testing.assert_allclose(found, lowest, atol=1e-5)
