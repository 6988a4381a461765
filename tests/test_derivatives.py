"""Derivatives of an equilibrium (theory §7) against central differences, an unrolled iteration and closed forms.

For quadratic games the differences are of the numpy solutions of `reference`, for others of precise solves. Every array
leaf of a game has a direction of its own, so that no leaf can hide behind another.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import zoo
from jax import Array
from jax.experimental.sparse import BCOO

import jaxgame as jg

STEP = 1e-5
ENOUGH = 100  # steps of the default solver
SLOW = pytest.mark.slow


# --- the arrays of a specification and of its game, by the same names ------------------------------
def arrays(spec: Any) -> dict[str, np.ndarray]:
    """The arrays that a game has as leaves, named as there."""
    if isinstance(spec, zoo.Concave):  # whose differences are of solves, on the leaves of the game
        found = {f"params.{name}": np.asarray(value) for name, value in spec.params.items()}
        return found | ({} if isinstance(spec.coupling, str) else {"network.weights": spec.coupling})
    found = {}
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if dataclasses.is_dataclass(value):
            found |= {f"{field.name}.{name}": inner for name, inner in arrays(value).items()}
        elif isinstance(value, (float, np.ndarray)):
            name = "coupling.weights" if (isinstance(spec, ref.Alignment) and field.name == "weights") else field.name
            found[name] = np.asarray(value)
    return found


def changed(spec: Any, name: str, value: np.ndarray) -> Any:
    """The specification with one of its arrays replaced."""
    if isinstance(spec, ref.Alignment):
        return spec.replace(**{name.removeprefix("coupling."): value})
    head, _, rest = name.partition(".")
    if rest:
        return dataclasses.replace(spec, **{head: changed(getattr(spec, head), rest, value)})
    return dataclasses.replace(spec, **{name: value})


def direction(rng: np.random.Generator, spec: Any, name: str, at: np.ndarray) -> np.ndarray:
    """A random change that leaves a mixture a mixture, a symmetric matrix symmetric, an average an average."""
    move = rng.normal(size=at.shape)
    if name == "targets":
        return move - move.mean(-1, keepdims=True)
    if name in ("kernel", "curvature.Q") or name == "curvature" and at.ndim >= 2:
        return (move + np.swapaxes(move, -1, -2)) / 2
    if name == "coupling.B" and at.ndim == 4:
        move[np.arange(len(at)), np.arange(len(at))] = 0
    if name.endswith("weights") and isinstance(spec, ref.Quadratic):
        np.fill_diagonal(move, 0)
    elif name.endswith("weights"):
        met = at != 0
        move = np.where(met, move, 0)
        move = np.where(met, move - move.sum(-1, keepdims=True) / np.maximum(met.sum(-1, keepdims=True), 1), 0)
    return move


def split(game: Any) -> tuple[dict[str, Array], Callable[[dict[str, Array]], Any]]:
    """The floating leaves of a game by name, and how to put the game together from them."""
    keyed, structure = jax.tree_util.tree_flatten_with_path(game)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in keyed]
    leaves = [leaf for _, leaf in keyed]
    floats = {n: x for n, x in zip(names, leaves, strict=True) if jnp.issubdtype(x.dtype, jnp.floating)}

    def build(floats: dict[str, Array]) -> Any:
        return jax.tree.unflatten(structure, [floats.get(n, x) for n, x in zip(names, leaves, strict=True)])

    return floats, build


def as_leaf(game: Any, name: str, move: np.ndarray) -> tuple[str, np.ndarray]:
    """The leaf that holds this array, and the change of it; only the data of a sparse matrix are one."""
    sparse = [x for x in jax.tree.leaves(game, is_leaf=lambda x: isinstance(x, BCOO)) if isinstance(x, BCOO)]
    if sparse and name.endswith("weights"):
        return f"{name}.0", move[tuple(np.asarray(sparse[0].indices).T)]
    return name, move


# --- what is compared ------------------------------------------------------------------------------
def outcome(game: Any, **options: Any) -> dict[str, Array]:
    found = jg.solve(game, **options)
    return dict(profile=found.profile, representation=found.representation, signed=found.signed)


def weighted(out: dict[str, Any], weights: dict[str, Array]) -> Array:
    return sum(((out[name] * weights[name]).sum() for name in weights), jnp.zeros((), out["profile"].dtype))


@jax.jit
def derivatives(game: Any, moves: dict, weights: dict, max_steps: int) -> tuple[dict, dict, dict]:
    """The outcome, its derivative along each of the moves, and the gradient of its weighted sum: in one compilation."""
    floats, build = split(game)
    out, push = jax.linearize(lambda floats: outcome(build(floats), max_steps=max_steps), floats)
    return out, jax.vmap(push)(moves), jax.linear_transpose(push, floats)(weights)[0]


def numpy_outcome(spec: Any) -> dict[str, np.ndarray]:
    """Profile, representation and signed representation of a quadratic game without the library."""
    W = ref.solution(spec)
    F = spec.game_map(W)
    return dict(
        profile=W,
        representation=spec.representation(W),
        signed=np.where(W > 0, W, F.min(-1, keepdims=True) - F),
    )


def differences(function: Callable[[Any], dict], plus: Any, minus: Any, step: float = STEP) -> dict[str, np.ndarray]:
    up, down = function(plus), function(minus)
    return {name: (np.asarray(up[name]) - np.asarray(down[name])) / (2 * step) for name in up}


def assert_close(got: dict, wanted: dict, label: str, tol: float = 1e-6) -> None:
    """Relative to the largest entry of all that is wanted; nothing smaller than rounding of the differences counts."""
    size = max(np.abs(x).max() for x in wanted.values())
    for name, value in wanted.items():
        error = np.abs(np.asarray(got[name]) - value).max()
        assert error <= tol * size + 1e-9, f"{name} along {label}: error {error:.2e}, size {size:.2e}"


def random_like(tree: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), tree)


@dataclasses.dataclass(frozen=True)
class Study:
    """A game, a direction for each of its arrays, and the derivatives as the library computes them."""

    spec: Any
    game: Any
    directions: dict[str, np.ndarray]
    out: dict[str, np.ndarray]
    along: dict[str, dict[str, np.ndarray]]  # the derivative of the outcome, by array
    weights: dict[str, Array]
    gradient: dict[str, np.ndarray]  # of the outcome's weighted sum, by leaf
    moves: dict[str, Array]
    again: Callable[[Any], dict[str, Array]]  # the outcome of another game of the same shape, nothing compiled

    def differences(self, name: str) -> dict[str, np.ndarray]:
        if isinstance(self.spec, zoo.Concave):
            leaf, change = as_leaf(self.game, name, self.directions[name])
            floats, build = split(self.game)
            plus, minus = (build(floats | {leaf: floats[leaf] + s * change}) for s in (STEP, -STEP))
            return differences(self.again, plus, minus)
        at, move = arrays(self.spec)[name], self.directions[name]
        plus, minus = (changed(self.spec, name, at + s * move) for s in (STEP, -STEP))
        return differences(numpy_outcome, plus, minus)


@functools.cache
def study(name: str, sparse: bool = False, dtype: Any = np.float64) -> Study:
    spec = zoo.spelled_out(zoo.GAMES[name]().spec)
    rng = np.random.default_rng(7)
    game = zoo.to_game(spec, dtype, sparse)
    floats, _ = split(game)
    given = arrays(spec)
    directions = {name: direction(rng, spec, name, at) for name, at in given.items()}
    moves = {name: np.zeros((len(given), *x.shape), dtype) for name, x in floats.items()}
    for k, (name, move) in enumerate(directions.items()):
        leaf, change = as_leaf(game, name, move)
        moves[leaf][k] = change
    assert all(np.abs(move).max() > 0.1 for move in moves.values())  # no leaf is left out
    n, n_groups = spec.shape
    like = dict(profile=jnp.zeros((n, n_groups), dtype), representation=jnp.zeros(n_groups, dtype))
    weights = random_like(like | dict(signed=like["profile"]), 8)
    moves = jax.tree.map(jnp.asarray, moves)
    out, moved, gradient = jax.tree.map(np.asarray, derivatives(game, moves, weights, ENOUGH))
    along = {name: {key: x[k] for key, x in moved.items()} for k, name in enumerate(directions)}

    def again(game: Any) -> dict[str, Array]:
        return derivatives(game, moves, weights, ENOUGH)[0]

    return Study(spec, game, directions, out, along, weights, gradient, moves, again)


# --- every leaf of every kind of game --------------------------------------------------------------
MEETINGS = ("wardrop", "others", "plain", "network", "network_identity", "dense")
CURVATURES = ("scalar", "agent", "shared", "agents", "diagonal", "diagonals", "scaled")
FAST = [("boundary_pairwise", False), ("boundary_centroid_mixture", False), ("directed_network", True)]
FAST += [("quadratic_scalar_wardrop", False), ("quadratic_agents_dense", False), ("concave_mean", False)]
REST = [(name, False) for name in ("boundary_pairwise_mixture", "boundary_centroid", "conformists_among_contrarians")]
REST += [("directed_network", False), ("isolated_agent", False), ("isolated_agent", True), ("unequal_reach", False)]
REST += [("hundred_unknowns", False), ("symmetric_centroid", False), ("condition_10_nonsymmetric", False)]
REST += [("one_agent", False), ("two_by_two", False), ("unreached_agents", False), ("insensitive_agents", False)]
REST += [(f"quadratic_{curvature}_nash", False) for curvature in CURVATURES]
REST += [(f"quadratic_{curvature}_{meeting}", False) for curvature in ("scalar", "agents") for meeting in MEETINGS]
REST += [("quadratic_agents_network", True), ("quadratic_scalar_network_identity", True)]
REST += [("concave_network", False), ("concave_network", True), ("concave_profile", False), ("logit", False)]
REST += [("quantal_response", False), ("shifted_logarithm", False), ("coupled_logarithm", False)]
REST += [("cubic_cost", False)]
GAMES = [pytest.param(*case, id=f"{case[0]}{'_sparse' * case[1]}") for case in FAST]
GAMES += [pytest.param(*case, id=f"{case[0]}{'_sparse' * case[1]}", marks=SLOW) for case in REST if case not in FAST]


@pytest.mark.parametrize("name, sparse", GAMES)
def test_every_leaf(name, sparse):
    """Profile, representation and signed representation move as differences say, forwards and backwards."""
    seen = study(name, sparse)
    if (name, sparse) in FAST:
        assert (seen.out["signed"] < 0).any()
    for array, moved in seen.along.items():
        assert (np.abs(seen.out["signed"]) > 2 * STEP * np.abs(moved["signed"])).all()  # differences stay on the faces
        assert_close(moved, seen.differences(array), array)
    backwards = [np.tensordot(seen.moves[leaf], slope, slope.ndim) for leaf, slope in seen.gradient.items()]
    forwards = [float(weighted(moved, seen.weights)) for moved in seen.along.values()]
    np.testing.assert_allclose(np.sum(backwards, 0), forwards, rtol=1e-9, atol=1e-9)


def test_the_differences_see_an_error():
    """A derivative that is wrong in one leaf by a millionth and a bit does not pass."""
    seen = study("boundary_pairwise")
    wrong = {k: np.asarray(x) * (1 + 3e-6) for k, x in seen.along["diversity"].items()}
    with pytest.raises(AssertionError):
        assert_close(wrong, seen.differences("diversity"), "diversity")


# --- through the loop ------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["boundary_pairwise", pytest.param("concave_profile", marks=SLOW)])
def test_unrolled(name):
    """The gradient in every leaf is that of projected gradient steps, differentiated step by step."""
    seen = study(name)
    step = 0.5 / zoo.sigma(seen.spec)

    @jax.jit
    def unrolled(floats: dict[str, Array]) -> dict[str, Array]:
        game = split(seen.game)[1](floats)
        start = jnp.full(seen.spec.shape, 1 / seen.spec.shape[1])
        profile, _ = jax.lax.scan(
            lambda w, _: (jg.simplex.project(w + step * game.marginals(w)), None), start, None, length=1500
        )
        slope = game.marginals(profile)
        signed = jnp.where(profile > 0, profile, slope - slope.max(-1, keepdims=True))
        reach = getattr(game, "reach", None)
        shown = profile.mean(0) if reach is None else reach @ profile
        return dict(profile=profile, representation=shown, signed=signed)

    floats, _ = split(seen.game)
    assert np.abs(np.asarray(unrolled(floats)["profile"]) - seen.out["profile"]).max() < 1e-12
    slopes = jax.grad(lambda floats: weighted(unrolled(floats), seen.weights))(floats)
    for leaf, slope in slopes.items():
        np.testing.assert_allclose(seen.gradient[leaf], slope, rtol=1e-6, atol=1e-9, err_msg=leaf)


# --- second derivatives ----------------------------------------------------------------------------
def gradient_differences(seen: Study, leaf: str, move: np.ndarray) -> dict[str, np.ndarray]:
    """Of the whole gradient, where one leaf moves."""
    floats, build = split(seen.game)
    plus, minus = (build(floats | {leaf: floats[leaf] + s * move}) for s in (STEP, -STEP))
    return differences(lambda game: derivatives(game, seen.moves, seen.weights, ENOUGH)[2], plus, minus)


def test_hessian():
    seen = study("boundary_pairwise")
    floats, build = split(seen.game)
    levers = {name: floats[name] for name in ("consistency", "diversity")}
    value = jax.jit(jax.hessian(lambda levers: weighted(outcome(build(floats | levers)), seen.weights)))(levers)
    for name, i in (("consistency", 0), ("consistency", 3), ("diversity", 1)):
        wanted = gradient_differences(seen, name, np.eye(4)[i])
        assert np.abs(wanted["diversity"]).max() > 1e-2
        assert_close({k: value[k][name][:, i] for k in levers}, {k: wanted[k] for k in levers}, f"{name}[{i}]")


@SLOW
@pytest.mark.parametrize("name", ["directed_network", "quadratic_agents_nash", "concave_profile", "coupled_logarithm"])
def test_second_derivative_in_every_leaf(name):
    seen = study(name)
    floats, build = split(seen.game)
    slope = jax.grad(lambda floats: weighted(outcome(build(floats)), seen.weights))
    second = jax.jit(lambda move: jax.jvp(slope, (floats,), (move,))[1])
    for array, move in seen.directions.items():
        still = jax.tree.map(jnp.zeros_like, floats)
        got = second(still | {array: jnp.asarray(move)})
        assert_close(got, gradient_differences(seen, array, move), array, tol=2e-6)


# --- transformations -------------------------------------------------------------------------------
def test_vmap_of_grad():
    seen = study("boundary_pairwise")
    rng = np.random.default_rng(9)
    appeals = np.asarray(seen.game.appeal)[None] + 0.3 * rng.normal(size=(3, 4, 3))
    move = rng.normal(size=(4, 3))
    game, weights = seen.game, dict(signed=seen.weights["signed"])

    @jax.jit
    @jax.vmap
    def slopes(appeal: Array) -> Array:
        return jax.grad(lambda appeal: weighted(outcome(game.replace(appeal=appeal)), weights))(appeal)

    for appeal, slope in zip(appeals, np.asarray(slopes(jnp.asarray(appeals))), strict=True):
        plus, minus = (seen.spec.replace(appeal=appeal + s * move) for s in (STEP, -STEP))
        moved = differences(numpy_outcome, plus, minus)["signed"]
        assert (slope * move).sum() == pytest.approx((np.asarray(weights["signed"]) * moved).sum(), rel=1e-6)


SOLVERS = ("OptimisticGradient", "GoldenRatio", "Extragradient", "AcceleratedGradient", "MirrorProx", "Newton")


@pytest.mark.parametrize("solver", [name if name == SOLVERS[0] else pytest.param(name, marks=SLOW) for name in SOLVERS])
def test_neither_solver_nor_start_matters(solver):
    seen = study("boundary_pairwise")
    floats, build = split(seen.game)
    start = jnp.asarray(np.random.default_rng(3).dirichlet(np.ones(3), 4))

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def slopes(floats: dict[str, Array], start: Array) -> Array:
        return weighted(outcome(build(floats), solver=getattr(jg, solver)(), init=start), seen.weights)

    slope, of_start = slopes(floats, start)
    np.testing.assert_array_equal(of_start, np.zeros((4, 3)))
    for leaf, wanted in seen.gradient.items():
        np.testing.assert_allclose(slope[leaf], wanted, rtol=1e-8, atol=1e-10, err_msg=leaf)


# --- precision -------------------------------------------------------------------------------------
@pytest.mark.float32
@pytest.mark.parametrize("name", ["boundary_pairwise", pytest.param("quadratic_agents_dense", marks=SLOW)])
def test_float32(name):
    """As good as the arithmetic allows, and float32 throughout."""
    seen = study(name, dtype=np.float32)
    assert {x.dtype for x in jax.tree.leaves((seen.along, seen.gradient))} == {np.dtype(np.float32)}
    for array, moved in seen.along.items():
        assert_close(moved, seen.differences(array), array, tol=1e-4)


# --- large games, whose Jacobian is never formed ---------------------------------------------------
@SLOW
def test_large_sparse_network():
    """A ring of 1100 agents, 4400 unknowns: Krylov iterations."""
    rng = np.random.default_rng(5)
    n, n_groups = 1100, 4
    agents = np.arange(n)
    indices = np.concatenate([np.stack([agents, (agents + s) % n], 1) for s in (1, 2, 5)])
    data = jnp.asarray(0.2 * rng.normal(size=3 * n))
    spread, B = rng.normal(size=(n, n_groups)), rng.normal(size=(n_groups, n_groups))
    network = jg.Network(BCOO((data, jnp.asarray(indices)), shape=(n, n)), jnp.asarray(B))
    game = jg.QuadraticGame(jnp.asarray(spread), jnp.asarray(rng.uniform(1.5, 2.5, n)), coupling=network)
    floats, build = split(game)
    moves = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=(1, *x.shape))), floats)
    like = dict(profile=spread, representation=spread[0], signed=spread)
    weights = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), like)
    out, moved, gradient = derivatives(game, moves, weights, ENOUGH)
    assert (np.asarray(out["profile"]) == 0).mean() > 0.1
    step = 1e-7  # so that next to none of the 4400 changes its face
    plus, minus = (build({k: floats[k] + s * moves[k][0] for k in floats}) for s in (step, -step))
    wanted = differences(lambda game: derivatives(game, moves, weights, ENOUGH)[0], plus, minus, step)
    assert_close({k: x[0] for k, x in moved.items()}, wanted, "all leaves", tol=1e-5)
    backwards = sum(float((gradient[k] * moves[k][0]).sum()) for k in floats)
    assert backwards == pytest.approx(sum(float((weights[k] * moved[k][0]).sum()) for k in weights), rel=1e-9)


# --- at the edge of what has a derivative ----------------------------------------------------------
def test_distance_to_entry():
    """Groups 0 and 1 tie, so that weights on the utility's parts move nobody; by hand, how near group 2 comes.

    g_d = α a_d − γ(w_d − ⅓) + δ(½ − w_d + …), w = (½, ½, 0), a = (1, 1, −2): ν_2 = g_0 − g_2 = 3α − ½γ − ½δ.
    """
    seen = study("tied_appeals")
    for array, slope in (("attractiveness", 3.0), ("consistency", -0.5), ("diversity", -0.5)):
        moved = seen.along[array]
        np.testing.assert_allclose(moved["signed"][:, 2], -slope * seen.directions[array], rtol=1e-12)
        assert np.abs(moved["profile"]).max() < 1e-14  # the desert


def test_kink():
    """Everybody at a target without one group, which is neither wanted: the derivative is that of one side."""
    seen = study("equal_appeals")
    spec = seen.spec
    assert np.abs(seen.out["profile"] - spec.targets).max() < 1e-14 and np.abs(seen.out["signed"]).min() < 1e-14
    for i, row in enumerate(spec.targets):
        force = spec.attractiveness[i] * seen.directions["appeal"][i]
        sides = []
        for face in (row > 0, np.ones(3, bool)):
            Z = np.zeros((3, face.sum() - 1))
            Z[face] = ref.tangent_basis(face.sum())
            sides.append(Z @ np.linalg.solve(spec.consistency[i] * Z.T @ spec.kernel @ Z, Z.T @ force))
        got = seen.along["appeal"]["profile"][i]
        assert min(np.abs(got - side).max() for side in sides) < 1e-12


def test_singular_game():
    """Two groups that answer alike, both represented: how a change is shared between them is not determined."""
    seen = study("identical_groups")
    assert (seen.out["profile"][:, :2].min(1) > 0).any()
    for moved in (seen.along["appeal"]["profile"], seen.gradient["appeal"]):
        assert np.isnan(moved).any() and not (moved == 0).all()


def test_failed_solve():
    """What is not an equilibrium has no derivative."""
    seen = study("boundary_pairwise")
    _, moved, gradient = derivatives(seen.game, seen.moves, seen.weights, 0)
    assert np.isnan(moved["profile"]).all() and np.isnan(moved["representation"]).all()
    assert np.isnan(gradient["appeal"]).all()
