"""Games on sparse networks beyond the size of an elimination: products by rows, iterations, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from jax.experimental.sparse import BCOO

import jaxgame as jg
from jaxgame.games import linearise
from jaxgame.games.affine import Edges
from jaxgame.games.rows import factor
from jaxgame.solvers import kkt, krylov

N, D, EDGES = 60, 4, 240
NETWORKS = ["even", "power_law", "isolated", "disconnected", "ring", "complete_row"]


def network(kind, rng, n=N, most=EDGES):
    """Averaging weights (n, n), dense, with at most `most` edges."""
    reach = np.zeros((n, n), bool)
    if kind == "ring":
        reach[np.arange(n), (np.arange(n) + 1) % n] = True
    elif kind == "complete_row":
        reach[0] = True
        reach[np.arange(1, n), 0] = True
    else:
        degree = np.full(n, 3) if kind != "power_law" else np.minimum(1 + rng.pareto(1.2, n), 20).astype(int)
        while degree.sum() > most:
            degree[np.argmax(degree)] -= 1
        for i in range(n):
            others = np.delete(np.arange(n), i)
            if kind == "disconnected":
                others = others[others % 3 == i % 3]
            reach[i, rng.choice(others, degree[i], replace=False)] = True
        if kind == "isolated":
            reach[:5] = False
            reach[:, 3:8] = False
    np.fill_diagonal(reach, False)
    return reach / np.maximum(reach.sum(1, keepdims=True), 1)


def sparse(weights, rng=None, most=EDGES):
    """As BCOO with `most` entries, the missing ones padding, in random order."""
    rows, columns = np.nonzero(weights)
    n = len(weights)
    indices = np.full((most, 2), n)
    indices[: len(rows)] = np.stack([rows, columns], 1)
    data = np.zeros(most)
    data[: len(rows)] = weights[rows, columns]
    order = np.arange(most) if rng is None else rng.permutation(most)
    return BCOO((jnp.asarray(data[order]), jnp.asarray(indices[order])), shape=(n, n))


@pytest.fixture
def iterative(monkeypatch):
    """Small games by iterations, too."""
    jax.clear_caches()
    monkeypatch.setattr("jaxgame.solvers.kkt.DENSE_LIMIT", 0)
    yield
    jax.clear_caches()


# --- products --------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", NETWORKS)
def test_product(kind, rng):
    weights, x = network(kind, rng), rng.normal(size=(N, D))
    game = jg.Network(sparse(weights, rng))
    np.testing.assert_allclose(game.factor @ jnp.asarray(x), weights @ x, rtol=1e-14, atol=1e-14)
    np.testing.assert_array_equal(game.weights.todense(), weights)


def test_product_of_repeated_edges_and_none(rng):
    x = rng.normal(size=(3, 2))
    indices = jnp.asarray([[2, 0], [0, 1], [2, 0], [2, 1]])
    weights = BCOO((jnp.asarray([1.0, 2.0, 3.0, 4.0]), indices), shape=(3, 3))
    np.testing.assert_allclose(jg.Network(weights).factor @ jnp.asarray(x), np.asarray(weights.todense()) @ x)
    none = BCOO((jnp.zeros(0), jnp.zeros((0, 2), int)), shape=(3, 3))
    np.testing.assert_array_equal(jg.Network(none).factor @ jnp.asarray(x), np.zeros((3, 2)))


def test_product_composes(rng):
    """jit, vmap and both derivatives; the network built while it is traced."""
    weights, x, y = network("power_law", rng), rng.normal(size=(N, D)), rng.normal(size=(N, D))
    edges = sparse(weights, rng)

    def paired(data, x):
        return (jg.Network(BCOO((data, edges.indices), shape=edges.shape)).factor @ x * jnp.asarray(y)).sum()

    by_data, by_x = jax.jit(jax.grad(paired, (0, 1)))(edges.data, jnp.asarray(x))
    np.testing.assert_allclose(by_x, weights.T @ y, atol=1e-14)
    rows, columns = np.asarray(edges.indices).T
    inside = rows < N
    wanted = np.where(inside, (y[np.where(inside, rows, 0)] * x[np.where(inside, columns, 0)]).sum(1), 0)
    np.testing.assert_allclose(by_data, wanted, atol=1e-13)
    batch = jnp.asarray(rng.normal(size=(3, EDGES)))
    out = jax.vmap(paired, (0, None))(batch, jnp.asarray(x))
    np.testing.assert_allclose(out, np.asarray(batch) @ wanted, rtol=1e-12)


@pytest.mark.parametrize("own", [False, True])
def test_transpose(own, rng):
    weights = jg.Network(sparse(network("power_law", rng), rng)).weights
    left = jnp.asarray(rng.normal(size=(N, D, D))) if own else None
    B = None if own else jnp.asarray(rng.normal(size=(D, D)))
    edges = Edges(jnp.asarray(rng.normal(size=N)), weights, factor(weights), B, left)
    size = N * D
    dense = np.asarray(edges.dense(N, D)).reshape(size, size)
    x = jnp.asarray(rng.normal(size=(N, D)))
    np.testing.assert_allclose(edges.apply(x).reshape(-1), dense @ np.ravel(x), atol=1e-12)
    np.testing.assert_allclose(edges.T.apply(x).reshape(-1), dense.T @ np.ravel(x), atol=1e-12)
    np.testing.assert_allclose(np.asarray(edges.T.dense(N, D)).reshape(size, size), dense.T, atol=1e-14)


# --- linear systems --------------------------------------------------------------------------------
@pytest.mark.parametrize("turn", [0.0, 1.0, 20.0])
def test_krylov(turn, rng):
    """Symmetric, and with eigenvalues far from the real axis."""
    A = rng.normal(size=(40, 40))
    A = np.eye(40) + A @ A.T / 40 + turn * (A - A.T) / 20
    b, own = rng.normal(size=40), 1 / np.diag(A)
    for precision in (1e-2, 1e-14):
        x, found = krylov.solve(lambda x: jnp.asarray(A) @ x, lambda x: jnp.asarray(own) * x, jnp.asarray(b), precision)
        left = np.linalg.norm(own * (b - A @ np.asarray(x)))
        assert left <= max(precision, 1e-13 * np.linalg.cond(A)) * np.linalg.norm(own * b)
        assert found or precision < 1e-2


def test_krylov_without_an_answer():
    def solve(b):
        return krylov.solve(lambda x: jnp.asarray([[0.0, 1.0], [0.0, 0.0]]) @ x, lambda x: x, jnp.asarray(b), 1e-12)

    x, found = solve([1.0, 1.0])
    assert np.isfinite(x).all() and not found
    x, found = solve([0.0, 0.0])
    assert (x == 0).all() and found
    x, found = solve([1.0, np.nan])
    assert np.isnan(x).any() and not found


# --- equilibria ------------------------------------------------------------------------------------
def quadratic(rng, weights, B=None):
    B = 0.4 * rng.normal(size=(D, D)) / D**0.5 if B is None else B
    linear, q = 0.6 * rng.normal(size=(N, D)), rng.uniform(1, 2, N)
    return jg.QuadraticGame(jnp.asarray(linear), jnp.asarray(q), coupling=jg.Network(weights, jnp.asarray(B)))


def alignment(rng, weights, metric, form):
    X = rng.normal(size=(D, D + 2))
    K = X @ X.T / D
    return jg.AlignmentGame(
        rng.dirichlet(np.ones(D), N),
        K,
        0.5 * rng.normal(size=(N, D)),
        consistency=rng.uniform(1, 2, N) * (1 if metric == "response" else np.linalg.norm(K, 2)),
        diversity=rng.uniform(0, 0.3, N),
        consistency_metric=metric,
        diversity_form=form,
        coupling=jg.Network(weights),
    )


def assert_equilibrium(game, profile, tol=1e-12):
    """The natural residual, from the dense Jacobian and numpy's own projection."""
    W = np.asarray(profile)
    affine = linearise(game, profile)
    J, a = np.asarray(affine.dense()), np.asarray(affine.linear)

    def game_map(W):
        return (J @ W.ravel()).reshape(W.shape) - a

    assert ref.residual(game_map(W), W, ref.scale(game_map, W.shape, np.linalg.norm(J, 2))) < tol


@pytest.mark.parametrize(("game", "cycles"), [("easy", 100), ("easy", 0), ("turning", 100)])
def test_iterations_with_elimination_to_fall_back_on(game, cycles, rng, monkeypatch):
    """As by elimination alone, also where iterations get nowhere; `turning`: next to no curvature, and opposed
    interests, on which rough steps fail.
    """
    if game == "easy":
        game = quadratic(rng, sparse(network("even", rng), rng))
    else:
        skew = network("even", rng)
        curvature, meeting = jnp.full(N, 1e-3), jg.Network(jnp.asarray(3 * (skew - skew.T)))
        game = jg.QuadraticGame(jnp.asarray(rng.normal(size=(N, D))), curvature, coupling=meeting)
    u = jnp.asarray(rng.normal(size=D))

    def value(linear):
        out = jg.solve(game.replace(linear=linear))
        return u @ out.representation, out

    def found(few):
        monkeypatch.setattr(kkt, "FEW", few)
        jax.clear_caches()
        (_, out), slope = jax.value_and_grad(value, has_aux=True)(game.linear)
        assert out.converged, out.message
        return out.profile, slope

    monkeypatch.setattr(krylov, "MOST_CYCLES", cycles)
    profile, slope = found(100)
    assert_equilibrium(game, profile, tol=1e-10)
    wanted, exact = found(4096)
    jax.clear_caches()
    np.testing.assert_allclose(profile, wanted, atol=1e-9)
    np.testing.assert_allclose(slope, exact, atol=1e-9 * float(jnp.abs(exact).max()))


def test_batches_are_eliminated_one_by_one(rng, monkeypatch):
    """Where iterations get nowhere; two batched eliminations at a time might wait for each other for ever."""
    weights = jnp.asarray(np.stack([network("even", rng) for _ in range(3)]))
    linear = jnp.asarray(0.6 * rng.normal(size=(3, N, D)))

    def shown(weights, linear):
        game = jg.QuadraticGame(linear, 1.0, coupling=jg.Network(weights, 0.4 * jnp.eye(D)))
        return jg.solve(game).representation @ jnp.arange(1.0, D + 1)

    def found(few, cycles):
        monkeypatch.setattr(kkt, "FEW", few)
        monkeypatch.setattr(krylov, "MOST_CYCLES", cycles)
        jax.clear_caches()
        return jax.vmap(jax.value_and_grad(shown, argnums=1))(weights, linear)

    value, slope = found(100, 0)
    wanted, exact = found(4096, 100)
    jax.clear_caches()
    np.testing.assert_allclose(value, wanted, atol=1e-12)
    np.testing.assert_allclose(slope, exact, atol=1e-12)


@pytest.mark.usefixtures("iterative")
def test_equilibria_and_gradients_equal_those_by_elimination(rng, monkeypatch):
    u = jnp.asarray(rng.normal(size=D))
    games = [quadratic(rng, sparse(network(kind, rng), rng)) for kind in NETWORKS]

    def found(game):
        value = jax.value_and_grad(lambda linear: u @ jg.solve(game.replace(linear=linear)).representation)
        return jg.solve(game), value(game.linear)[1]

    iterated = [found(game) for game in games]
    monkeypatch.setattr("jaxgame.solvers.kkt.DENSE_LIMIT", 4096)
    jax.clear_caches()
    for game, (by_iteration, slope) in zip(games, iterated, strict=True):
        by_elimination, wanted = found(game)
        assert by_iteration.converged and by_elimination.converged
        assert_equilibrium(game, by_iteration.profile)
        np.testing.assert_allclose(by_iteration.profile, by_elimination.profile, atol=1e-12)
        np.testing.assert_allclose(slope, wanted, atol=1e-12 * float(jnp.abs(wanted).max()))


@pytest.mark.usefixtures("iterative")
@pytest.mark.parametrize(
    ("metric", "form"),
    [
        ("response", "pairwise"),
        pytest.param("response", "centroid", marks=pytest.mark.slow),
        ("mixture", "centroid"),
        pytest.param("mixture", "pairwise", marks=pytest.mark.slow),
    ],
)
def test_alignment(metric, form, rng):
    for kind in NETWORKS:
        game = alignment(rng, sparse(network(kind, rng), rng), metric, form)
        equilibrium = jg.solve(game)
        assert equilibrium.converged
        assert_equilibrium(game, equilibrium.profile)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(256, 16), (257, 16)])
def test_no_cliff_between_elimination_and_iterations(shape, rng):
    n, size = shape
    weights = network("power_law", rng, n, 4 * n)
    S = rng.normal(size=(size, size))
    B = 0.1 * (S - S.T) / np.linalg.norm(S - S.T, 2)
    game = jg.QuadraticGame(
        jnp.asarray(rng.normal(size=shape)), 1.0, coupling=jg.Network(sparse(weights, rng, 4 * n), jnp.asarray(B))
    )
    equilibrium = jg.solve(game)
    assert equilibrium.converged and equilibrium.steps < 20
    assert_equilibrium(game, equilibrium.profile)


@pytest.mark.slow
@pytest.mark.float32
def test_single_precision(dtype, rng):
    weights = network("power_law", rng, 2000, 8000)
    rows, columns = np.nonzero(weights)
    edges = BCOO(
        (jnp.asarray(weights[rows, columns], dtype), jnp.asarray(np.stack([rows, columns], 1))), shape=(2000,) * 2
    )
    linear, B = rng.normal(size=(2000, D)).astype(dtype), (0.2 * np.eye(D)).astype(dtype)
    equilibrium = jg.solve(jg.QuadraticGame(linear, dtype.type(1), coupling=jg.Network(edges, B)))
    assert equilibrium.profile.dtype == dtype and equilibrium.converged
    W = np.asarray(equilibrium.profile, float)
    F = W + weights @ W @ B.T - linear
    assert ref.residual(F, W, 2.0) < (1e-5 if dtype == np.float32 else 1e-11)
