"""Every public solver on every game it can treat, a user's own solver, and what a solver says when it fails."""

import inspect
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import zoo

import jaxgame as jg
from jaxgame.games import linearise

SOLVERS = {
    name: getattr(jg, name)
    for name in (
        "ProjectedGradient",
        "Extragradient",
        "OptimisticGradient",
        "GoldenRatio",
        "MirrorProx",
        "AcceleratedGradient",
        "Newton",
        "AggregativeNewton",
    )
}
FIRST_ORDER = [name for name in SOLVERS if "Newton" not in name]

# few structures, for each is compiled once a solver: mean field, network, pairwise, general concave; the rest is slow
GAMES = (
    "symmetric_pairwise",
    "boundary_pairwise",
    "common_weights",
    "conformists_among_contrarians",
    "directed_network",
    "quadratic_agents_dense",
    "condition_10",
    "condition_10_nonsymmetric",
    "concave_mean",
)
MORE_GAMES = (
    "heterogeneous_centroid",
    "two_groups_boundary",
    "kink",
    "tied_appeals",
    "quadratic_scaled_nash",
    "quadratic_agents_wardrop",
    "quadratic_scalar_others",
    "concave_network",
    "concave_profile",
)


def treats(solver, name):
    entry = zoo.GAMES[name]()
    if solver == "AcceleratedGradient":
        return entry.potential
    if solver == "MirrorProx" and name == "kink":
        return False  # weak complementarity: a zero weight is approached like 1/steps
    return solver != "AggregativeNewton" or entry.mean_field


PAIRS = [(solver, name) for solver in SOLVERS for name in GAMES if treats(solver, name)]
PAIRS += [
    pytest.param(solver, name, marks=pytest.mark.slow)
    for solver in SOLVERS
    for name in MORE_GAMES
    if treats(solver, name)
]


@pytest.mark.parametrize(("solver", "name"), PAIRS)
def test_solver_on_game(solver, name):
    entry = zoo.GAMES[name]()
    found = jg.solve(entry.game(), SOLVERS[solver]())
    assert bool(found.converged) and int(found.status) == 0, found.message
    assert float(found.residual) <= 1e-10
    W = np.asarray(found.profile)
    F = entry.spec.game_map(W)
    assert ref.feasibility_error(W) < 1e-14
    assert ref.kkt_error(F, W, zoo.sigma(entry.spec)) <= 1e-9
    np.testing.assert_allclose(W, entry.solution, atol=1e-8)


@pytest.mark.parametrize("name", ["boundary_centroid", "directed_network"])
def test_each_agent_has_a_unit_of_utility_of_its_own(name):
    """Multiplying one agent's utility changes no equilibrium, nor how well a small agent's mixture is found."""
    entry = zoo.GAMES[name]()
    units = np.array([1e4, 1e-4, 1.0, 1e-2])
    weights = {name: units * getattr(entry.spec, name) for name in ("attractiveness", "consistency", "diversity")}
    found = jg.solve(zoo.to_game(entry.spec.replace(**weights)))
    assert bool(found.converged), found.message
    np.testing.assert_allclose(found.profile, entry.solution, atol=1e-10)


@pytest.mark.parametrize("solver", ["Extragradient", "OptimisticGradient", "GoldenRatio", "Newton"])
def test_merely_monotone(solver):
    """Bilinear zero-sum games, where the plain projected gradient circles outwards."""
    for name in ("matching_pennies", "uneven_pennies", "rock_paper_scissors"):
        entry = zoo.GAMES[name]()
        start = jnp.asarray(np.random.default_rng(1).dirichlet(np.ones(entry.spec.shape[1]), 2))
        found = jg.solve(entry.game(), SOLVERS[solver](), init=start, max_steps=20_000)
        assert bool(found.converged), f"{name}: {found.message}"
        np.testing.assert_allclose(found.profile, entry.solution, atol=1e-8)


@pytest.mark.parametrize("name", ["condition_10_nonsymmetric", "quadratic_agents_dense", "directed_network"])
def test_accelerated_gradient_refuses_games_without_potential(name):
    with pytest.raises(ValueError, match="(?i)potential"):
        jg.solve(zoo.GAMES[name]().game(), jg.AcceleratedGradient())


@pytest.mark.parametrize(
    "name", ["directed_network", "quadratic_agents_network", "quadratic_scalar_dense", "concave_profile"]
)
def test_aggregative_newton_refuses_networks(name):
    with pytest.raises(ValueError, match="AggregativeNewton|mean.field|aggregat"):
        jg.solve(zoo.GAMES[name]().game(), jg.AggregativeNewton())


@pytest.mark.parametrize("solver", FIRST_ORDER)
def test_too_few_steps(solver):
    entry = zoo.GAMES["condition_1e4"]()
    found = jg.solve(entry.game(), SOLVERS[solver](), max_steps=3)
    assert not bool(found.converged) and int(found.status) != 0
    assert int(found.steps) == 3 and float(found.residual) > 1e-10
    assert np.abs(np.asarray(found.profile) - entry.solution).max() > 1e-8
    sentence(found.message)
    assert ref.feasibility_error(np.asarray(found.profile)) < 1e-14


@pytest.mark.parametrize("solver", ["Newton", "AggregativeNewton"])
def test_too_few_newton_steps(solver):
    """A Newton method may be done at once; whatever it says must be true."""
    entry = zoo.GAMES["condition_1e4_nonsymmetric"]()
    found = jg.solve(entry.game(), SOLVERS[solver](), max_steps=1)
    error = np.abs(np.asarray(found.profile) - entry.solution).max()
    assert bool(found.converged) == (int(found.status) == 0) == (error < 1e-8)
    sentence(found.message)
    assert ref.feasibility_error(np.asarray(found.profile)) < 1e-14


def sentence(message):
    assert (
        isinstance(message, str) and message[0].isupper() and message.rstrip().endswith(".") and message.count(" ") >= 3
    ), message


def test_messages_are_sentences():
    converged = jg.solve(zoo.GAMES["common_weights"]().game()).message
    short = jg.solve(zoo.GAMES["condition_1e4"]().game(), jg.ProjectedGradient(), max_steps=1).message
    sentence(converged)
    sentence(short)
    assert converged != short and "max_steps" in short  # what to try next


@pytest.mark.parametrize("solver", ["ProjectedGradient", "OptimisticGradient", "Newton"])
def test_history(solver):
    """A record of the residual: one number a step, the last of them the one reported."""
    entry = zoo.GAMES["condition_10"]()
    found = jg.solve(entry.game(), SOLVERS[solver](), history=True)
    record = np.asarray(found.history)
    steps = int(found.steps)
    assert bool(found.converged) and record.ndim == 1 and len(record) >= steps >= 1
    assert np.isfinite(record[:steps]).all() and (record[:steps] >= 0).all()
    assert record[:steps].min() >= 0.999 * float(found.residual)  # a polish may follow the last step
    if solver != "Newton":
        assert record[0] > 1e3 * record[steps - 1]
        assert np.diff(np.log(record[:steps:10] + 1e-300)).mean() < 0


def slack(spec, W):
    F = spec.game_map(W)
    return F - F.min(axis=1, keepdims=True)


def test_stats():
    entry = zoo.GAMES["condition_10"]()
    found = jg.solve(entry.game(), jg.Extragradient())
    assert {"steps", "evaluations", "margin"} <= set(found.stats)
    assert int(found.stats["steps"]) == int(found.steps) > 0
    assert int(found.stats["evaluations"]) >= 2 * int(found.steps)  # two gradients a step
    margin = np.maximum(entry.solution, slack(entry.spec, entry.solution)).min()
    assert float(found.stats["margin"]) == pytest.approx(margin, rel=1e-6)
    assert float(jg.solve(zoo.GAMES["kink"]().game()).stats["margin"]) < 1e-9


def test_a_trace_of_weight_is_not_representation():
    """Multiplicative steps never reach zero: what is left of an excluded group still shows how far it is from entry."""
    entry = zoo.GAMES["boundary_pairwise"]()
    found = jg.solve(entry.game(), jg.MirrorProx(), max_steps=200, tol=1e-14)
    nu = slack(entry.spec, entry.solution)
    out = nu > 0.05
    assert out.any() and np.asarray(found.profile)[out].max() < 1e-3
    np.testing.assert_allclose(np.asarray(found.signed)[out], -nu[out], atol=0.01)


def test_solvers_take_no_unknown_options():
    for solver in SOLVERS.values():
        with pytest.raises(TypeError):
            solver(stepsize_typo=1.0)


def test_no_solver_passes_for_another():
    """The structure is what jit tells solvers by; that of a `jax.tree_util.register_dataclass` ignores the class."""
    structures = [jax.tree.structure(make()) for make in SOLVERS.values()]
    assert all(a != b for a, b in itertools.combinations(structures, 2))


@pytest.mark.parametrize("solver", SOLVERS)
def test_conformance(solver):
    """Documented, built without arguments, a pytree; a step keeps the state's structure, shapes and dtypes."""
    make = SOLVERS[solver]
    assert inspect.getdoc(make)
    game = zoo.GAMES["condition_10"]().game()
    instance = make()
    leaves, structure = jax.tree.flatten(instance)
    assert type(jax.tree.unflatten(structure, leaves)) is make
    state = instance.init(game, jnp.full((10, 8), 1 / 8))
    after = instance.step(game, state)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for before, now in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert jnp.shape(before) == jnp.shape(now) and jnp.asarray(before).dtype == jnp.asarray(now).dtype


class Bare:
    """A user's solver: the state is the profile itself."""

    def init(self, game, profile):
        return profile

    def step(self, game, state):
        return jg.simplex.project(state + 0.1 * game.marginals(state))


class Record(NamedTuple):
    velocity: jax.Array
    profile: jax.Array


class WithMomentum:
    """Another: a NamedTuple with a field `profile`, which is not its first."""

    def init(self, game, profile):
        return Record(jnp.zeros_like(profile), profile)

    def step(self, game, state):
        velocity = 0.5 * state.velocity + 0.05 * game.marginals(state.profile)
        moved = jg.simplex.project(state.profile + velocity)
        return Record(moved - state.profile, moved)


@pytest.mark.parametrize("solver", [Bare(), WithMomentum()], ids=["bare", "record"])
def test_own_solver(solver):
    for name in ("condition_10", "concave_profile"):
        entry = zoo.GAMES[name]()
        found = jg.solve(entry.game(), solver, max_steps=20_000)
        assert bool(found.converged), found.message
        assert int(found.steps) > 5
        np.testing.assert_allclose(found.profile, entry.solution, atol=1e-8)
    inside = jax.jit(lambda g: jg.solve(g, solver, max_steps=20_000).profile)(entry.game())
    np.testing.assert_allclose(inside, entry.solution, atol=1e-8)


def test_own_solver_that_diverges():
    """What becomes NaN is not returned: the best profile before it is, with a status and a message."""

    class Diverging:
        def init(self, game, profile):
            return profile

        def step(self, game, state):
            return state * jnp.nan

    found = jg.solve(zoo.GAMES["condition_10"]().game(), Diverging())
    assert not bool(found.converged) and int(found.status) != 0
    assert np.isfinite(found.profile).all() and ref.feasibility_error(np.asarray(found.profile)) < 1e-14
    sentence(found.message)


def test_best_responses_are_as_precise_as_the_residual_asks(rng):
    """Nobody meets anyone, so the best response is known by construction: Q w + μ1 − ν = b with w∘ν = 0.

    Responses as rough near a solution as far from it would propose the same wrong faces for ever.
    """
    n, D = 20, 8
    basis = np.linalg.qr(rng.normal(size=(D, D)))[0]
    Q = basis * np.logspace(0, 3, D) @ basis.T
    w = rng.random((n, D)) * (rng.random((n, D)) < 0.5)
    w[:, 0] += 0.1
    w /= w.sum(1, keepdims=True)
    b = w @ Q - np.where(w > 0, 0, rng.uniform(1, 10, (n, D)))
    game = jg.QuadraticGame(b, jg.Scaled(np.ones(n), (Q + Q.T) / 2), coupling=jg.MeanField(np.zeros((D, D))))
    start = jnp.full((n, D), 1 / D)
    _, near = jg.AggregativeNewton().guess(linearise(game, start), start, jnp.asarray(1e-6))
    assert np.abs(np.asarray(near) - w).max() < 1e-3
