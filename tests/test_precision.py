"""Every matrix product asks for full precision: accelerators would round the factors of others to fewer digits."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO
from jax.extend.core import ClosedJaxpr, Jaxpr

import jaxgame as jg
from jaxgame import batch, dynamics, linalg, simplex
from jaxgame._pytree import Carried
from jaxgame.certificate import certify, exploitability, lanczos, uniqueness
from jaxgame.games import linearise, representation, subsidised
from jaxgame.games.affine import Aggregate
from jaxgame.maps import line
from jaxgame.maps.regions import _beyond, _planes
from jaxgame.solvers.scale import uniform
from jaxgame.steering import scenarios
from jaxgame.streaming import passes
from jaxgame.streaming.form import Form
from jaxgame.surveys import kernels

SMALL = 6, 3  # agents, groups
IN_BETWEEN = 100, 3  # too large for elimination to come first
LARGE = 8192, 8  # solved through the aggregate
HIGHEST = jax.lax.Precision.HIGHEST


def equations(jaxpr):
    """Of a jaxpr and of all those within it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: isinstance(x, Jaxpr)):
            if isinstance(inner, ClosedJaxpr | Jaxpr):
                yield from equations(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)


def precisions(function, *arguments):
    """What each product of floating-point numbers in a function asks for."""
    found = []
    for equation in equations(jax.make_jaxpr(function)(*arguments).jaxpr):
        if equation.primitive.name == "bcoo_dot_general":
            found.append(None)  # it asks for nothing
        if "precision" in equation.params and jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating):
            found.append(equation.params["precision"])
    return found


def check(function, *arguments):
    """How many products there are, all in full precision."""
    found = precisions(function, *arguments)
    assert all(precision in (HIGHEST, (HIGHEST, HIGHEST)) for precision in found), found
    return len(found)


def cast(x):
    return jnp.asarray(np.asarray(x), np.float32)


def entropic(params, mixture, others):
    return params["linear"] @ mixture - (jnp.log(1 + jnp.exp(mixture)) + mixture * others / 2).sum()


def pairwise(params, mixture, others):
    return params["linear"] @ mixture - (mixture**2).sum() / 2 - (others @ mixture).sum() / 20


def couplings(rng, n, n_groups):
    B = rng.normal(size=(n_groups, n_groups))
    B = B @ B.T / n_groups
    ring = np.roll(np.eye(n), 1, 0)
    return {
        "nash": lambda: jg.MeanField(cast(B)),
        "wardrop": lambda: jg.MeanField(cast(B), atomic=False),
        "others": lambda: jg.MeanField(cast(B), include_self=False),
        "network": lambda: jg.Network(cast(ring), cast(B)),
        "sparse": lambda: jg.Network(BCOO.fromdense(cast(ring)), cast(B)),
        "dense": lambda: jg.Dense(cast(np.broadcast_to(B / n, (n, n, n_groups, n_groups)))),
    }


def quadratic(curvature, coupling, shape=SMALL):
    rng = np.random.default_rng(0)
    n, n_groups = shape
    Q = np.eye(n_groups) + 0.1
    matrix = {
        "scalar": lambda: cast(1.0),
        "diagonal": lambda: jg.Diagonal(cast(rng.uniform(1, 2, shape))),
        "scaled": lambda: jg.Scaled(cast(rng.uniform(1, 2, n)), cast(Q)),
        "matrices": lambda: cast(np.broadcast_to(Q, (n, n_groups, n_groups))),
    }[curvature]()
    return jg.QuadraticGame(cast(rng.normal(size=shape)), matrix, coupling=couplings(rng, n, n_groups)[coupling]())


def alignment(metric, form="pairwise", coupling=None, shape=SMALL):
    rng = np.random.default_rng(0)
    n, n_groups = shape
    return jg.AlignmentGame(
        cast(np.full(shape, 1 / n_groups)),
        cast(np.eye(n_groups) + 0.1),
        cast(rng.normal(size=shape)),
        diversity=cast(0.2),
        consistency_metric=metric,
        diversity_form=form,
        coupling=None if coupling is None else jg.Network(couplings(rng, n, n_groups)[coupling]().weights),
    )


def concave(coupling="mean", shape=SMALL):
    """Of utilities with products that do not say how precise they are to be."""
    rng = np.random.default_rng(0)
    met: Any = jg.Network(couplings(rng, *shape)["network"]().weights) if coupling == "network" else coupling
    params = {"linear": cast(rng.normal(size=shape))}
    return jg.ConcaveGame(pairwise if coupling == "profile" else entropic, params, shape[1], coupling=met)


GAMES = {
    **{
        f"{curvature}, {coupling}": functools.partial(quadratic, curvature, coupling)
        for curvature, coupling in [
            ("scalar", "nash"),
            ("diagonal", "wardrop"),
            ("diagonal", "others"),
            ("scaled", "nash"),
            ("matrices", "nash"),
            ("scalar", "network"),
            ("matrices", "sparse"),
            ("scaled", "dense"),
        ]
    },
    "alignment, response": functools.partial(alignment, "response"),
    "alignment, mixture, centroid": functools.partial(alignment, "mixture", "centroid"),
    "alignment, network": functools.partial(alignment, "response", "pairwise", "network"),
    "concave, mean": concave,
    "concave, network": functools.partial(concave, "network"),
    "concave, profile": functools.partial(concave, "profile"),
    "rationality": lambda: jg.with_rationality(quadratic("scaled", "nash"), cast(3.0)),
}
LARGER = {
    "diagonal, network": functools.partial(quadratic, "diagonal", "network", IN_BETWEEN),
    "matrices, sparse": functools.partial(quadratic, "matrices", "sparse", IN_BETWEEN),
    "scalar, nash": functools.partial(quadratic, "scalar", "nash", LARGE),
    "diagonal, others": functools.partial(quadratic, "diagonal", "others", LARGE),
    "scaled, nash": functools.partial(quadratic, "scaled", "nash", LARGE),
    "matrices, wardrop": functools.partial(quadratic, "matrices", "wardrop", LARGE),
    "alignment, response": functools.partial(alignment, "response", shape=LARGE),
    "alignment, mixture": functools.partial(alignment, "mixture", shape=LARGE),
    "concave": functools.partial(concave, shape=LARGE),
}


def with_derivatives(function):
    """A function of a game with a scalar value, its gradient in all arrays and its derivative along them."""

    def all_three(game):
        change = jax.tree.map(
            lambda x: x if jnp.issubdtype(x.dtype, jnp.floating) else np.zeros(x.shape, jax.dtypes.float0), game
        )
        return jax.value_and_grad(function, allow_int=True)(game), jax.jvp(function, (game,), (change,))

    return all_three


def spread(found):
    return (found.profile**2).sum() + found.gap


@pytest.mark.parametrize("name", GAMES)
def test_solve(name):
    assert check(with_derivatives(lambda game: spread(jg.solve(game))), GAMES[name]()) > 0


@pytest.mark.parametrize("name", LARGER)
def test_solve_larger(name):
    assert check(with_derivatives(lambda game: spread(jg.solve(game))), LARGER[name]()) > 0


def test_solve_larger_in_double_precision():
    """Its derivative takes another way."""
    game = jax.tree.map(lambda x: x.astype(np.float64), quadratic("scalar", "nash", LARGE))
    assert check(with_derivatives(lambda game: spread(jg.solve(game))), game) > 0


def test_solve_from_a_start():
    game = quadratic("scalar", "nash", LARGE)
    assert check(lambda game, start: jg.solve(game, init=start).profile, game, uniform(game, np.float32)) > 0


class Opaque:
    """A game of which only marginals are known."""

    n_agents, n_groups = SMALL

    def __init__(self, linear):
        self.linear = linear

    def marginals(self, profile):
        return self.linear - profile - profile.mean(0, keepdims=True)

    def utilities(self, profile):
        return ((self.linear - profile / 2) * profile).sum(1)


jax.tree_util.register_pytree_node(Opaque, lambda game: ((game.linear,), None), lambda _, leaves: Opaque(*leaves))


def test_solve_of_a_game_of_marginals():
    game = Opaque(cast(np.random.default_rng(0).normal(size=SMALL)))
    assert check(with_derivatives(lambda game: spread(jg.solve(game))), game) > 0


@pytest.mark.parametrize("name", ["scaled, nash", "alignment, network", "concave, network"])
@pytest.mark.parametrize("bounds", [dict(lower=0.2), dict(lower=0.1, upper=0.6, matrix=np.eye(3)[:2])])
def test_bounded_solve(name, bounds):
    bounds = jg.Bounds(**{key: cast(value) for key, value in bounds.items()})

    def value(game):
        found = jg.solve(game, bounds=bounds)
        return spread(found) + found.prices.sum()

    assert check(with_derivatives(value), GAMES[name]()) > 0


FIRST_ORDER = "AcceleratedGradient", "Extragradient", "GoldenRatio", "MirrorProx", "OptimisticGradient", "Newton"


@pytest.mark.parametrize("solver", FIRST_ORDER)
def test_solvers(solver):
    game = alignment("response", "centroid")
    assert check(lambda game: jg.solve(game, getattr(jg, solver)()).profile, game) > 0


@pytest.mark.parametrize("name", ["scaled, nash", "matrices, sparse", "alignment, network", "concave, mean"])
def test_batches(name):
    games = jax.tree.map(lambda x: jnp.stack([x, x]), GAMES[name]())
    assert check(lambda games: jg.solve_many(games).profile, games) > 0
    solver = Carried.wrap(batch.default_solver(GAMES[name]()))
    assert check(lambda games: batch._solved(batch.Lane.of(games), None, solver, 1e-6, 50, 2, 2), games) > 0


@pytest.mark.parametrize("name", GAMES)
def test_games(name):
    """The game itself, and what it looks like near a profile."""
    game = GAMES[name]()

    def everything(game, profile):
        affine = linearise(game, profile)
        felt = affine(profile), affine.own_curvature().apply(profile), affine.dense()
        return game.utilities(profile), game.marginals(profile), representation(game, profile), felt

    assert check(everything, game, uniform(game, np.float32)) > 0
    if name != "rationality":
        assert check(lambda game, x: subsidised(game, x).utilities(x), game, uniform(game, np.float32)) > 0


@pytest.mark.parametrize("name", GAMES)
def test_certificate(name):
    """What `certify` computes on the device."""
    game = GAMES[name]()
    quadratic = hasattr(game, "affine")

    def everything(game):
        profile = uniform(game, np.float32)
        at = exploitability.position(game, profile)
        if quadratic:
            gains = exploitability._interior(at.own, profile, at.marginals)
        else:
            gains = exploitability._concave_gains(Carried.wrap(game), profile)
        ends = [lanczos._run(at.affine, profile[:, 0], profile, steps=4, squared=squared) for squared in (False, True)]
        unique = quadratic and isinstance(at.affine.others, Aggregate) and uniqueness.is_monotone(at.affine)
        return at, gains, ends, certify._errors(at, profile[:, 0]), unique

    assert check(everything, game) > 0


@pytest.mark.parametrize("rule", dynamics.RULES)
@pytest.mark.parametrize("name", ["scalar, nash", "scaled, nash", "alignment, network"])
def test_simulate(name, rule):
    """The rounds, and their derivative."""
    game = GAMES[name]()
    levels = dict.fromkeys(("step", "temperature", "noise"), cast(0.1))

    def everything(game):
        carried, start, keys = Carried.wrap(game), uniform(game, np.float32), jax.random.split(jax.random.key(0), 3)
        play = dynamics._play(carried, start, keys, levels, rule)
        return play, dynamics._slope(carried, start, keys[0], levels, rule)

    assert check(everything, game) > 0


def box(games, direction):
    """What `path` and `regions` compute on the device."""
    corner, one = line.start_corner(games), direction[0]
    value, slope = _planes(games, corner.face)
    beyond = _beyond(games, corner.face, value, slope, direction, direction)
    return beyond, line.onward(games.line(direction, direction), corner, one, one)


def test_maps():
    affine = quadratic("scaled", "nash").affine()
    two = jnp.stack([affine.linear, affine.linear])
    family = line.Family(affine, two, affine.linear, affine.linear[:, 0], cast(1.0), cast(1e-4))
    assert check(box, family, cast([0.5, 0.5])) > 0


def kernel_of(tables):
    positions = kernels.mean_answers(tables, [np.arange(3)] * len(tables))
    return kernels.gaussian(positions), kernels.match(tables)


@pytest.mark.parametrize("curvature", ["curvature.diagonal", "curvature.matrix"])
def test_streams(curvature):
    """What a pass computes on the device."""
    n, n_groups = SMALL
    form = Form("quadratic", n, (("coupling.atomic", True),))
    shared = {curvature: cast(np.ones(n_groups) if curvature.endswith("diagonal") else np.eye(n_groups))}
    shared["coupling.B"] = cast(np.eye(n_groups))
    rows = {"linear": cast(np.ones(SMALL))}
    if curvature.endswith("matrix"):
        rows["curvature.scale"] = cast(np.ones(n))
    mean, one = cast(np.ones(n_groups)), cast(1.0)

    def everything(shared, rows):
        search = passes._from_sample(form, shared, rows, mean)
        found = passes.answered(form, shared, rows, jnp.asarray(n), mean, one, one)
        ground = passes.ground_of(shared["coupling.B"], one, one, mean)
        return (
            search,
            found,
            ground,
            passes.mixtures(form, shared, rows, mean, one),
            passes.facts(form, shared, rows, n),
        )

    assert check(everything, shared, rows) > 0


@pytest.mark.parametrize("metric", ["response", "mixture"])
def test_closed_forms(metric):
    game = alignment(metric)
    assert check(lambda game: jg.closed_form(game).profile, game) > 0
    assert check(with_derivatives(lambda game: (jg.closed_form(game).profile ** 2).sum()), game) > 0
    assert check(lambda game: jg.critical_ratios(game), game) > 0
    assert check(lambda game: jg.critical_ratios(game, interior=True), game) > 0
    assert check(lambda game: jg.inclusion_price(game, jg.solve(game)), game) > 0


@pytest.mark.parametrize("axis", [0, -1])
def test_simplex(axis):
    """Needs no products today."""
    x = cast(np.random.default_rng(0).normal(size=(5, 5)))
    functions = simplex.project, simplex.project_tangent, simplex.face
    for function in [functools.partial(f, axis=axis) for f in functions]:
        check(function, x)
    for function in [functools.partial(f, axis=axis) for f in (simplex.entropic_step, simplex.waterfill)]:
        check(function, jnp.abs(x), jnp.abs(x))
    check(jax.grad(lambda x: (simplex.waterfill(x, jnp.ones_like(x), axis=axis) ** 2).sum()), x)


def test_objectives_and_kernels():
    game, tables = alignment("response"), [cast(np.full((4, 3), 1 / 3))] * 2
    welfare = jg.objectives.nash_welfare()
    assert check(lambda game: welfare(jg.solve(game)), game) > 0
    assert check(lambda values: scenarios.CVaR(0.5)(values), cast(np.arange(4))) > 0
    assert check(kernel_of, tables) > 0
    assert check(linalg.norm_bound, cast(np.eye(3))) > 0
