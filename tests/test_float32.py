"""Single precision: float32 in, float32 out, with x64 off and on, and answers as good as the arithmetic allows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import zoo

import jaxgame as jg

pytestmark = pytest.mark.float32

SINGLE = np.float32
EPS = float(np.finfo(SINGLE).eps)
NAMES = (
    "symmetric_centroid",
    "heterogeneous_pairwise",
    "two_groups_boundary",
    "boundary_pairwise",
    "boundary_centroid_mixture",
    "conformists_among_contrarians",
    "directed_network",
    "isolated_agent",
    "one_agent",
    "one_group",
    "kink",
    "tied_appeals",
    "zero_kernel",
    "quadratic_scalar_nash",
    "quadratic_agents_wardrop",
    "quadratic_diagonals_nash",
    "quadratic_scaled_nash",
    "quadratic_agents_network",
    "quadratic_agents_dense",
    "matching_pennies",
    "condition_10",
    "condition_10_nonsymmetric",
    "concave_mean",
    "concave_network",
    "concave_profile",
    "logit",
    "quantal_response",
    "shifted_logarithm",
)


def check(spec, found, solution=None, tol=1e-6, atol=2e-4):
    W = np.asarray(found.profile)
    assert bool(found.converged) and int(found.status) == 0, found.message
    assert W.dtype == SINGLE and found.representation.dtype == SINGLE and found.signed.dtype == SINGLE
    assert found.residual.dtype == SINGLE and found.gap.dtype == SINGLE and found.multipliers.dtype == SINGLE
    assert ref.feasibility_error(W.astype(float)) <= 4 * EPS * np.sqrt(W.shape[1])
    F = spec.game_map(W.astype(float))
    assert ref.kkt_error(F, W.astype(float), zoo.sigma(spec)) <= 10 * tol + 50 * EPS
    if solution is not None:
        np.testing.assert_allclose(W, solution, atol=atol)


@pytest.mark.parametrize("name", NAMES)
def test_default_solve(name):
    entry = zoo.GAMES[name]()
    check(entry.spec, jg.solve(entry.game(SINGLE)), entry.solution)


@pytest.mark.parametrize("name", ["directed_network", "quadratic_agents_network"])
def test_sparse_network(name):
    entry = zoo.GAMES[name]()
    check(entry.spec, jg.solve(entry.game(SINGLE, sparse=True)), entry.solution)


@pytest.mark.parametrize("factor", [1e-8, 1e8])
@pytest.mark.parametrize("name", ["boundary_pairwise", "condition_10_nonsymmetric", "directed_network", "concave_mean"])
def test_unit_of_utility_is_irrelevant(name, factor):
    entry = zoo.GAMES[name]()
    found = jg.solve(zoo.to_game(entry.spec.scaled(factor), SINGLE))
    check(entry.spec.scaled(factor), found, entry.solution)


@pytest.mark.parametrize(
    "solver",
    [
        "ProjectedGradient",
        "Extragradient",
        "OptimisticGradient",
        "GoldenRatio",
        "MirrorProx",
        "AcceleratedGradient",
        "Newton",
        "AggregativeNewton",
    ],
)
def test_solvers(solver):
    entry = zoo.GAMES["common_weights"]()
    check(entry.spec, jg.solve(entry.game(SINGLE), getattr(jg, solver)()), entry.solution)


@pytest.mark.parametrize("name", ["condition_1e4", "condition_1e4_nonsymmetric", "condition_1e6"])
def test_ill_conditioned_games_are_honest(name):
    """Beyond what float32 resolves: a residual at the tolerance or the floor, or a status; never NaN."""
    entry = zoo.GAMES[name]()
    found = jg.solve(entry.game(SINGLE))
    W = np.asarray(found.profile).astype(float)
    assert np.isfinite(W).all() and ref.feasibility_error(W) <= 4 * EPS * np.sqrt(W.shape[1])
    assert bool(found.converged) == (int(found.status) == 0)
    if bool(found.converged):
        lipschitz = ref.constants(entry.spec.affine[0], entry.spec.shape)[1]
        assert ref.residual(entry.spec.game_map(W), W, lipschitz) <= 1e-6 + 50 * EPS


@pytest.mark.parametrize("name", ["boundary_pairwise", "quadratic_agents_nash", "concave_profile", "directed_network"])
def test_dtypes_of_games(name):
    """Every float32 argument gives a float32 leaf; Python numbers follow the arrays."""
    entry = zoo.GAMES[name]()
    game = entry.game(SINGLE)
    W = jnp.full(entry.spec.shape, 1 / entry.spec.shape[1], SINGLE)
    assert game.utilities(W).dtype == SINGLE and game.marginals(W).dtype == SINGLE
    assert all(leaf.dtype == SINGLE for leaf in jax.tree.leaves(game) if jnp.issubdtype(leaf.dtype, jnp.floating))
    np.testing.assert_allclose(game.marginals(W), -entry.spec.game_map(np.asarray(W, float)), rtol=2e-5, atol=2e-5)


def test_python_numbers_follow_the_arrays():
    spec = zoo.GAMES["common_weights"]().spec
    parts = [jnp.asarray(x, SINGLE) for x in (spec.targets, spec.kernel, spec.appeal)]
    game = jg.AlignmentGame(*parts, attractiveness=0.7, consistency=1, diversity=0.3)
    check(spec, jg.solve(game), zoo.GAMES["common_weights"]().solution)
    quadratic = jg.QuadraticGame(parts[2], 2.0, coupling=jg.MeanField(parts[1], sensitivity=0.5))
    twin = ref.Quadratic(spec.appeal, 2.0, ref.MeanField(spec.kernel, 0.5))
    check(twin, jg.solve(quadratic), ref.solution(twin))


def wide(jaxpr):
    """Float64 arrays in a jaxpr and in those inside it; weakly typed Python numbers do not count."""
    for equation in jaxpr.eqns:
        for v in equation.outvars:
            if getattr(v.aval, "dtype", None) == np.float64 and not getattr(v.aval, "weak_type", False):
                yield f"{equation.primitive}: {v.aval}"
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from wide(inner)


@pytest.mark.parametrize(
    "solver", [None, "GoldenRatio", "OptimisticGradient", "MirrorProx", "Newton", "AggregativeNewton"]
)
def test_nothing_is_computed_in_float64(solver):
    """With x64 on, too, a float32 solve contains no float64 array: no silent promotion, no double cost."""
    game = zoo.GAMES["common_weights"]().game(SINGLE)
    chosen = None if solver is None else getattr(jg, solver)()
    jaxpr = jax.make_jaxpr(lambda g: jg.solve(g, chosen))(game)
    assert not list(wide(jaxpr.jaxpr))


def test_the_float64_probe_sees_float64():
    if jnp.zeros(()).dtype == SINGLE:
        return
    jaxpr = jax.make_jaxpr(jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y * 2.0, x.astype(np.float64))))
    assert list(wide(jaxpr(jnp.ones(3, SINGLE)).jaxpr))


def test_gradients_are_float32():
    game = zoo.GAMES["boundary_pairwise"]().game(SINGLE)
    slope = jax.grad(lambda a: jg.solve(game.replace(attractiveness=a)).representation[0])(game.attractiveness)
    assert slope.dtype == SINGLE and np.isfinite(slope).all()


def test_projection_is_feasible_inside_a_fused_computation():
    """A compiler may compute an argument twice, rounded differently (fused multiply-add): the sum must not notice."""

    @jax.jit
    def moved(start, other, marginals, step):
        return jg.simplex.project((start + 0.5 * other) / 1.5 + step * marginals)

    rng = np.random.default_rng(1)
    for groups in (3, 8):
        for _ in range(20):
            start, other = (jnp.asarray(rng.dirichlet(np.ones(groups), 4), SINGLE) for _ in range(2))
            marginals = jnp.asarray(rng.normal(size=(4, groups)) + 1000, SINGLE)
            W = np.asarray(moved(start, other, marginals, jnp.asarray(rng.uniform(0.1, 2), SINGLE)))
            assert ref.feasibility_error(W.astype(float)) <= 4 * EPS * np.sqrt(groups)


def test_large_constant_in_float32():
    """A common constant of 1e3 in the appeal costs digits but no feasibility and no honesty."""
    spec = zoo.GAMES["common_weights"]().spec
    shifted = spec.replace(appeal=np.asarray(np.asarray(spec.appeal + 1000.0, SINGLE), float))
    found = jg.solve(zoo.to_game(shifted, SINGLE))
    W = np.asarray(found.profile).astype(float)
    assert ref.feasibility_error(W) <= 4 * EPS * np.sqrt(3)
    np.testing.assert_allclose(W, ref.solution(shifted), atol=5e-3)
