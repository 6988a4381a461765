"""jit, vmap, their compositions, one bad lane in a batch, and compiling once."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import zoo

import jaxgame as jg
from jaxgame.solvers import Newton

NAMES = [
    "boundary_pairwise",
    "directed_network",
    "concave_mean",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("quadratic_scaled_nash", "quadratic_agents_dense", "matching_pennies")
    ),
]
SOLVERS = ("OptimisticGradient", "GoldenRatio", "Newton")


@pytest.mark.parametrize("name", NAMES)
def test_jit(name):
    """Under jit the same equilibrium, with everything that is reported about it."""
    entry = zoo.GAMES[name]()
    game = entry.game()
    found = jax.jit(jg.solve)(game)
    eager = jg.solve(game)
    assert bool(found.converged) and isinstance(found.message, str)
    np.testing.assert_allclose(found.profile, entry.solution, atol=1e-8)
    for field in ("profile", "representation", "signed", "multipliers"):
        np.testing.assert_allclose(getattr(found, field), getattr(eager, field), atol=1e-9)
    assert int(found.status) == int(eager.status) == 0


def test_jit_with_the_game_built_inside():
    spec = zoo.GAMES["common_weights"]().spec
    parts = [jnp.asarray(x) for x in (spec.targets, spec.kernel, spec.appeal)]

    @jax.jit
    def share(targets, kernel, appeal, alpha):
        return jg.solve(jg.AlignmentGame(targets, kernel, appeal, attractiveness=alpha, diversity=0.3)).representation

    twin = spec.replace(attractiveness=0.45)
    wanted = ref.solution(twin).mean(axis=0)
    np.testing.assert_allclose(share(*parts, 0.45), wanted, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_jit_of_every_kind_of_solver(solver):
    entry = zoo.GAMES["boundary_pairwise"]()
    found = jax.jit(lambda g: jg.solve(g, getattr(jg, solver)()))(entry.game())
    np.testing.assert_allclose(found.profile, entry.solution, atol=1e-8)


def stacked(specs):
    """One game whose leaves carry a batch axis."""
    return jax.tree.map(lambda *x: jnp.stack(x), *[zoo.to_game(spec) for spec in specs])


def family(kind, size=4, n=4):
    rng = np.random.default_rng(1)
    if kind == "alignment":
        return [ref.random_alignment(rng, n, 3, attractiveness=a) for a in np.linspace(0.1, 1.2, size)]
    if kind == "network":
        return [ref.random_alignment(rng, n, 3, weights=ref.random_network(rng, n)) for _ in range(size)]
    return [ref.random_mean_field(rng, n, 3, 30.0, symmetric=False) for _ in range(size)]


@pytest.mark.parametrize(
    "kind",
    [pytest.param("alignment", marks=pytest.mark.slow), pytest.param("network", marks=pytest.mark.slow), "quadratic"],
)
def test_vmap_is_the_loop(kind):
    specs = family(kind)
    found = jax.vmap(jg.solve)(stacked(specs))
    assert found.profile.shape == (4, *specs[0].shape) and found.converged.shape == found.status.shape == (4,)
    for k, spec in enumerate(specs):
        np.testing.assert_allclose(found.profile[k], ref.solution(spec), atol=1e-8)
        alone = jg.solve(zoo.to_game(spec))
        np.testing.assert_allclose(found.profile[k], alone.profile, atol=1e-9)
        assert bool(found.converged[k])
    messages = np.asarray(found.message)
    assert messages.shape == (4,) and all(isinstance(m, str) and m.endswith(".") for m in messages.tolist())


@pytest.mark.slow
def test_vmap_of_jit_and_jit_of_vmap():
    specs = family("quadratic")
    batch = stacked(specs)
    wanted = np.stack([ref.solution(spec) for spec in specs])
    for transformed in (jax.vmap(jax.jit(jg.solve)), jax.jit(jax.vmap(jg.solve))):
        found = transformed(batch)
        np.testing.assert_allclose(found.profile, wanted, atol=1e-8)
        assert found.converged.all()


def test_vmap_over_one_parameter():
    """Only the swept number is batched; everything else is shared."""
    spec = zoo.GAMES["common_weights"]().spec
    parts = [jnp.asarray(x) for x in (spec.targets, spec.kernel, spec.appeal)]
    alphas = np.array([0.0, 0.3, 2.0])
    found = jax.vmap(lambda a: jg.solve(jg.AlignmentGame(*parts, attractiveness=a, diversity=0.3)))(jnp.asarray(alphas))
    for k, alpha in enumerate(alphas):
        twin = spec.replace(attractiveness=alpha)
        np.testing.assert_allclose(found.profile[k], ref.solution(twin), atol=1e-8)


@pytest.mark.slow
def test_nested_vmap():
    batch = jax.tree.map(lambda x: jnp.stack([x, x]), stacked(family("alignment", 3)))
    found = jax.vmap(jax.vmap(jg.solve))(batch)
    assert found.profile.shape == (2, 3, 4, 3) and found.converged.all()
    assert np.shape(found.message) == (2, 3)
    np.testing.assert_array_equal(found.profile[0], found.profile[1])


@pytest.mark.parametrize("solver", [None, "ProjectedGradient", "Newton", "AggregativeNewton"])
def test_one_bad_lane(solver):
    """NaN in one lane: that lane says so, the others do not notice."""
    specs = family("alignment")
    batch = stacked(specs)
    poisoned = batch.appeal.at[2, 1, 0].set(jnp.nan)
    leaves = [poisoned if leaf is batch.appeal else leaf for leaf in jax.tree.leaves(batch)]
    batch = jax.tree.unflatten(jax.tree.structure(batch), leaves)
    chosen = None if solver is None else getattr(jg, solver)()
    found = jax.vmap(lambda g: jg.solve(g, chosen))(batch)
    assert found.converged.tolist() == [True, True, False, True]
    assert [int(s) == 0 for s in found.status] == [True, True, False, True]
    for k in (0, 1, 3):
        np.testing.assert_allclose(found.profile[k], ref.solution(specs[k]), atol=1e-8)
    messages = np.asarray(found.message).tolist()
    assert messages[2] != messages[0] and "finite" in messages[2].lower()
    assert (
        np.isfinite(np.asarray(found.profile[2])).all() and ref.feasibility_error(np.asarray(found.profile[2])) < 1e-14
    )


def test_one_slow_lane():
    """A lane that runs out of steps leaves the status of the others alone."""
    rng = np.random.default_rng(2)
    specs = [ref.random_mean_field(rng, 4, 3, kappa) for kappa in (2.0, 1e6, 3.0)]
    found = jax.vmap(lambda g: jg.solve(g, jg.ProjectedGradient(), max_steps=400))(stacked(specs))
    assert found.converged.tolist() == [True, False, True]
    assert int(found.steps[1]) == 400 and int(found.steps[0]) < 400 and int(found.steps[2]) < 400
    assert np.asarray(found.message).tolist()[1] != np.asarray(found.message).tolist()[0]


TRACES = []


def counted(params, mixture, others):
    TRACES.append(1)  # runs when traced, not when executed
    return params["scale"] * (params["linear"] @ mixture - 0.5 * mixture @ mixture - 0.3 * mixture @ others)


def counted_game(seed):
    linear = np.random.default_rng(seed).normal(size=(5, 3))
    return jg.ConcaveGame(counted, dict(linear=jnp.asarray(linear), scale=jnp.ones(5)), 3)


@pytest.mark.parametrize("solver", [None, "ProjectedGradient", "Newton"])
def test_new_numbers_do_not_retrace(solver):
    """A second solve with other numbers in the leaves compiles and traces nothing."""
    games = [counted_game(seed) for seed in range(3)]
    make = (lambda: None) if solver is None else getattr(jg, solver)
    first = jg.solve(games[0], make())
    assert TRACES
    count = len(TRACES)
    for game in games[1:]:
        other = jg.solve(game, make())
        assert np.abs(np.asarray(other.profile) - np.asarray(first.profile)).max() > 1e-3
    assert len(TRACES) == count


@pytest.mark.parametrize("kind", ["alignment", "quadratic"])
def test_second_eager_call_does_not_compile(kind, caplog):
    spec = family(kind, size=1, n=5)[0]  # a shape of its own, so that nothing is compiled yet
    games = [zoo.to_game(s) for s in (spec, spec.scaled(2.0), spec.scaled(3.0))]

    def compilations(game):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
            found = jg.solve(game)
            _ = found.signed, found.multipliers, found.message, found.stats
        return [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]

    assert compilations(games[0])  # the probe sees compilations
    assert not compilations(games[1])
    assert not compilations(games[2])


def test_numbers_of_a_call_do_not_recompile(caplog):
    """tol, max_steps and init are numbers, too: a loop over tolerances compiles once."""
    entry = zoo.GAMES["condition_10"]()
    game, starts = entry.game(), np.random.default_rng(3).dirichlet(np.ones(8), (3, 10))
    jg.solve(game, jg.OptimisticGradient(), tol=1e-3, max_steps=500, init=jnp.asarray(starts[0]))
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        for tol, steps, start in zip((1e-4, 1e-6), (600, 900), starts[1:], strict=True):
            found = jg.solve(game, jg.OptimisticGradient(), tol=tol, max_steps=steps, init=jnp.asarray(start))
            assert float(found.residual) <= tol
    assert not [r for r in caplog.records if "Compiling" in r.getMessage()]


def test_equilibrium_crosses_jit():
    """An equilibrium is a pytree: it goes into and out of compiled functions."""
    found = jg.solve(zoo.GAMES["common_weights"]().game())
    again = jax.jit(lambda e: e)(found)
    np.testing.assert_array_equal(again.profile, found.profile)
    assert again.message == found.message and int(again.status) == int(found.status)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(lambda f: f, id="plain"),
        pytest.param(jax.jit, id="jit", marks=pytest.mark.slow),
        pytest.param(jax.vmap, id="vmap", marks=pytest.mark.slow),
    ],
)
def test_first_order_steps_take_over_where_newton_gives_up(how, monkeypatch, rng):
    """Newton may make no step: GoldenRatio goes on, counts what it spends, and its profile has the certificate."""
    monkeypatch.setattr(Newton, "max_steps", 0)
    n, D = 7, 5  # of no other test: programs are compiled for a value of max_steps
    spec = ref.Alignment(
        kernel=np.eye(D) + 0.1,
        targets=rng.dirichlet(np.ones(D), n),
        appeal=rng.normal(size=(n, D)),
        attractiveness=0.5,
        diversity=0.3,
    )
    game = zoo.to_game(spec)
    batch = how is jax.vmap
    equilibrium = how(jg.solve)(jax.tree.map(lambda x: jnp.stack([x, x]), game) if batch else game)
    if batch:
        equilibrium = jax.tree.map(lambda x: x[1], equilibrium)
    assert equilibrium.converged and int(equilibrium.steps) > 10 and int(equilibrium.evaluations) > 10
    reference = np.asarray(jg.solve(game, jg.OptimisticGradient()).profile)
    np.testing.assert_allclose(equilibrium.profile, reference, atol=1e-8)
    np.testing.assert_allclose(equilibrium.representation, reference.mean(0), atol=1e-8)
    assert 0 <= float(equilibrium.gap) < 1e-8
