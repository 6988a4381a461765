"""Utilities and marginals of every kind of game against the formulas in numpy and against automatic differentiation."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import zoo

import jaxgame as jg

N, D = 4, 3


def alignments():
    rng = np.random.default_rng(1)
    network, lonely = ref.random_network(rng, N), ref.random_network(rng, N, isolated=(0, 2))
    for form, metric in itertools.product(("pairwise", "centroid"), ("response", "mixture")):
        options = dict(diversity_form=form, consistency_metric=metric)
        yield f"{form}-{metric}", ref.random_alignment(rng, N, D, **options)
        yield f"{form}-{metric}-network", ref.random_alignment(rng, N, D, weights=lonely, **options)
        yield f"{form}-{metric}-one-agent", ref.random_alignment(rng, 1, D, **options)
    spread = 9.0 + rng.uniform(size=D)
    yield "spread", ref.random_alignment(rng, N, D, spread=spread, weights=network)
    yield "shared-appeal", ref.random_alignment(rng, N, D).replace(appeal=rng.normal(size=D), attractiveness=0.4)
    yield (
        "conformists",
        ref.random_alignment(rng, N, D, diversity=np.array([0.5, -0.4, 0.0, -1.0]), reach=rng.dirichlet(np.ones(N))),
    )
    yield "one-group", ref.random_alignment(rng, N, 1)


def quadratics():
    rng = np.random.default_rng(2)
    linear = rng.normal(size=(N, D))
    curvatures, couplings = zoo.curvatures(rng, N, D), zoo.couplings(rng, N, D)
    for (a, curvature), (b, coupling) in itertools.product(curvatures.items(), couplings.items()):
        if b in ("nash", "dense") or a in ("scalar", "agents"):
            yield f"{a}-{b}", ref.Quadratic(linear, curvature, coupling)
    unused_diagonal = rng.normal(size=(N, N, D, D))
    yield "dense-diagonal-blocks", ref.Quadratic(linear, 1.0, ref.Dense(unused_diagonal))
    square = ref.Quadratic(
        rng.normal(size=(D, D)), zoo.spd(rng, D), couplings["plain"]
    )  # n = D: a matrix is the shared one
    yield "shared-n-equals-D", square


SPECS: dict[str, Any] = dict(alignments()) | dict(quadratics())
CONCAVE = ("concave_mean", "concave_network", "concave_profile", "quantal_response", "coupled_logarithm", "cubic_cost")


def profiles(shape, k=3):
    return np.random.default_rng(3).dirichlet(np.ones(shape[1]), (k, shape[0]))


def own_gradient(game, profile):
    """∂U_i/∂w_i by automatic differentiation of the utilities."""
    jacobian = jax.jacrev(game.utilities)(profile)  # (n, n, D)
    return jnp.stack([jacobian[i, i] for i in range(len(profile))])


@pytest.mark.parametrize("name", SPECS)
def test_reference_is_consistent(name):
    """The reference: its game map is minus the derivative of its utilities (Wardrop aside), its affine form agrees."""
    spec, h = SPECS[name], 1e-5
    W = profiles(spec.shape)[0]
    F, (M, q) = spec.game_map(W), spec.affine
    np.testing.assert_allclose(M @ W.ravel() + q, F.ravel(), atol=1e-12)
    if name.endswith("wardrop"):
        return
    for i, d in np.ndindex(*spec.shape):
        up, down = W.copy(), W.copy()
        up[i, d] += h
        down[i, d] -= h
        slope = (spec.utilities(up)[i] - spec.utilities(down)[i]) / (2 * h)
        assert abs(slope + F[i, d]) < 1e-8


@pytest.mark.parametrize("name", SPECS)
def test_utilities_and_marginals(name):
    spec = SPECS[name]
    game = zoo.to_game(spec, as_given=True)
    assert (game.n_agents, game.n_groups) == spec.shape
    for W in profiles(spec.shape):
        np.testing.assert_allclose(game.utilities(jnp.asarray(W)), spec.utilities(W), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(game.marginals(jnp.asarray(W)), -spec.game_map(W), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in SPECS if not name.endswith("wardrop")])
def test_marginals_are_gradients(name):
    game = zoo.to_game(SPECS[name])
    W = jnp.asarray(profiles(SPECS[name].shape)[0])
    np.testing.assert_allclose(game.marginals(W), own_gradient(game, W), rtol=1e-12, atol=1e-13)


def test_wardrop_holds_the_aggregate_fixed():
    """Marginals keep S; the gradient of the utilities differs by the agent's own share of it."""
    spec = SPECS["agents-wardrop"]
    game, W = zoo.to_game(spec), profiles(spec.shape)[0]
    c = spec.coupling
    S = c.reach @ W
    fixed = [spec.linear[i] - spec.curvature[i] @ w - c.sensitivity[i] * c.B @ S for i, w in enumerate(W)]
    np.testing.assert_allclose(game.marginals(jnp.asarray(W)), fixed, rtol=1e-12)
    own = [c.sensitivity[i] * c.reach[i] * c.B.T @ w for i, w in enumerate(W)]
    np.testing.assert_allclose(game.marginals(jnp.asarray(W)) - own_gradient(game, jnp.asarray(W)), own, rtol=1e-11)


@pytest.mark.parametrize("name", CONCAVE)
def test_concave_games(name):
    spec = zoo.GAMES[name]().spec
    game, W = zoo.to_game(spec), profiles(spec.shape)[0]
    assert (game.n_agents, game.n_groups) == spec.shape
    np.testing.assert_allclose(game.marginals(jnp.asarray(W)), -spec.game_map(W), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(
        game.marginals(jnp.asarray(W)), own_gradient(game, jnp.asarray(W)), rtol=1e-12, atol=1e-13
    )


def test_concave_utilities_are_the_quadratic_ones():
    rng = np.random.default_rng(4)
    linear, C, B = rng.normal(size=(N, D)), np.array([zoo.spd(rng, D) for _ in range(N)]), rng.normal(size=(D, D))
    params = dict(
        linear=jnp.asarray(linear), curvature=jnp.asarray(C), B=jnp.asarray(np.tile(B, (N, 1, 1))), scale=jnp.ones(N)
    )
    twin = ref.Quadratic(linear, C, ref.MeanField(N / (N - 1) * B, include_self=False))
    W = profiles((N, D))[0]
    game = jg.ConcaveGame(zoo.linear_quadratic, params, D)
    np.testing.assert_allclose(game.utilities(jnp.asarray(W)), twin.utilities(W), rtol=1e-12)


def test_concave_profile_hides_the_own_row():
    """With "profile" the own row of `others` is zero: nothing of w_i comes back through it."""
    seen = jg.ConcaveGame(
        lambda p, w, others: p * jnp.sum(others * jnp.arange(1.0, 4.0)[:, None]), jnp.ones(3), 2, coupling="profile"
    )
    W = np.array([[1.0, 0.0], [0.5, 0.5], [0.2, 0.8]])
    np.testing.assert_allclose(seen.utilities(jnp.asarray(W)), [2 + 3, 1 + 3, 1 + 2], rtol=1e-14)
    assert not np.any(seen.marginals(jnp.asarray(W)))


def test_one_agent_meets_no_one():
    for coupling in ("mean", "profile"):
        game = jg.ConcaveGame(lambda p, w, others: p * jnp.sum(others) + w[0], jnp.ones(1), 2, coupling=coupling)
        assert float(game.utilities(jnp.asarray([[0.3, 0.7]]))[0]) == pytest.approx(0.3)


@pytest.mark.parametrize("name", ["directed_network", "isolated_agent", "quadratic_agents_network", "concave_network"])
def test_sparse_and_dense_networks_agree(name):
    entry = zoo.GAMES[name]()
    W = jnp.asarray(profiles(entry.spec.shape)[0])
    dense, sparse = entry.game(), entry.game(sparse=True)
    np.testing.assert_allclose(sparse.marginals(W), dense.marginals(W), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(sparse.utilities(W), dense.utilities(W), rtol=1e-13, atol=1e-14)


def test_attributes_and_replace():
    spec = ref.random_alignment(np.random.default_rng(5), N, D).replace(appeal=np.arange(3.0))
    game = zoo.to_game(spec, as_given=True)
    assert game.appeal.shape == (N, D)  # broadcast
    np.testing.assert_allclose(game.spread, np.diag(spec.kernel))
    np.testing.assert_allclose(game.reach, np.full(N, 1 / N))
    assert (game.diversity_form, game.consistency_metric) == ("pairwise", "response")
    changed = game.replace(attractiveness=2.0, diversity_form="centroid")
    W = profiles((N, D))[0]
    wanted = spec.replace(attractiveness=2.0, diversity_form="centroid")
    np.testing.assert_allclose(changed.marginals(jnp.asarray(W)), -wanted.game_map(W), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(game.marginals(jnp.asarray(W)), -spec.game_map(W), rtol=1e-12, atol=1e-13)  # left alone
    # what the caller left out follows the new arguments: the default spread is the diagonal of the *new* kernel
    kernel = 2 * spec.kernel
    moved = game.replace(kernel=jnp.asarray(kernel))
    np.testing.assert_allclose(
        moved.marginals(jnp.asarray(W)), -spec.replace(kernel=kernel).game_map(W), rtol=1e-12, atol=1e-13
    )


def test_replace_keeps_what_was_given():
    rng = np.random.default_rng(6)
    spec = ref.random_alignment(rng, N, D, spread=np.full(D, 9.0), reach=rng.dirichlet(np.ones(N)))
    game = zoo.to_game(spec).replace(kernel=jnp.asarray(0.5 * spec.kernel))
    np.testing.assert_allclose(game.spread, spec.spread)
    np.testing.assert_allclose(game.reach, spec.reach, rtol=1e-14)
    quadratic = zoo.to_game(SPECS["scalar-nash"]).replace(curvature=2.0)
    W = profiles((N, D))[0]
    twin = ref.Quadratic(SPECS["scalar-nash"].linear, 2.0, SPECS["scalar-nash"].coupling)
    np.testing.assert_allclose(quadratic.marginals(jnp.asarray(W)), -twin.game_map(W), rtol=1e-12)
    concave = zoo.GAMES["concave_mean"]()
    doubled = concave.game().replace(params=zoo.to_game(concave.spec.scaled(2.0)).params)
    np.testing.assert_allclose(doubled.marginals(jnp.asarray(W)), -2 * concave.spec.game_map(W), rtol=1e-12)


def test_replace_rejects_unknown_names():
    with pytest.raises((ValueError, TypeError), match="attractivness"):
        zoo.GAMES["common_weights"]().game().replace(attractivness=1.0)


def sizes(jaxpr):
    """Sizes of all arrays in a jaxpr and in those inside it."""
    for equation in jaxpr.eqns:
        yield from (int(np.prod(v.aval.shape)) for v in equation.outvars if hasattr(v.aval, "shape"))
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


def crowd(kind, n, groups):
    rng = np.random.default_rng(7)
    if kind == "alignment":
        return zoo.to_game(ref.random_alignment(rng, n, groups))
    if kind == "concave":
        params = dict(
            linear=jnp.zeros((n, groups)),
            curvature=jnp.ones((n, groups, groups)),
            B=jnp.ones((n, groups, groups)),
            scale=jnp.ones(n),
        )
        return jg.ConcaveGame(zoo.linear_quadratic, params, groups)
    return zoo.to_game(ref.random_mean_field(rng, n, groups))


@pytest.mark.parametrize("kind", ["alignment", "quadratic", "concave"])
@pytest.mark.parametrize("method", ["marginals", "utilities"])
def test_mean_field_cost_is_linear_in_agents(kind, method):
    """No n × n array anywhere: the largest intermediate of n = 1000 is a few (n, D, D) blocks, n² is 60 times that."""
    n, groups = 1000, 4
    game = crowd(kind, n, groups)
    W = jnp.full((n, groups), 1 / groups)
    jaxpr = jax.make_jaxpr(lambda g, w: getattr(g, method)(w))(game, W)
    assert max(sizes(jaxpr.jaxpr)) <= n * groups * groups


def test_the_size_probe_sees_a_square():
    """The probe of the test above does report an n × n array, also inside a loop or a jitted function."""
    n = 1000
    square = jax.make_jaxpr(
        jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y + (x[:, None] * x[None, :]).sum(axis=1), x))
    )
    assert max(sizes(square(jnp.ones(n)).jaxpr)) == n * n


def test_sparse_network_stays_sparse():
    n, groups = 1000, 4
    weights = np.zeros((n, n))
    weights[np.arange(n), (np.arange(n) + 1) % n] = 1.0
    game = zoo.to_game(ref.random_alignment(np.random.default_rng(8), n, groups, weights=weights), sparse=True)
    jaxpr = jax.make_jaxpr(lambda g, w: g.marginals(w))(game, jnp.full((n, groups), 1 / groups))
    assert max(sizes(jaxpr.jaxpr)) <= n * groups * groups


def test_games_are_pytrees():
    for name in ("common_weights", "quadratic_scaled_nash", "directed_network", "concave_profile"):
        game = zoo.GAMES[name]().game()
        W = jnp.asarray(profiles((N, D))[0])
        leaves, structure = jax.tree.flatten(game)
        again = jax.tree.unflatten(structure, leaves)
        np.testing.assert_array_equal(again.marginals(W), game.marginals(W))
        assert jax.jit(lambda g, w: g.utilities(w))(game, W).shape == (N,)
        gradient = jax.grad(lambda g, w=W: g.utilities(w).sum(), allow_int=True)(game)
        assert jax.tree.structure(gradient) == structure


@pytest.mark.parametrize("name", ["one_agent", "two_by_two", "hundred_unknowns", "shapley", "many_equilibria"])
def test_reference_solutions_agree(name):
    """Lemke, enumeration of supports and the potential's minimiser find the same points, each by other means."""
    spec = zoo.GAMES[name]().spec
    M, q = spec.affine
    W = ref.solution(spec)
    assert ref.kkt_error(spec.game_map(W), W) < 1e-12
    if spec.shape[0] * spec.shape[1] <= 9:
        found = ref.all_equilibria(M, q, spec.shape)
        assert any(np.abs(W - V).max() < 1e-9 for V in found)
    if spec.shape[0] == 1:
        V, potential = ref.potential_minimum(M, q, spec.shape)
        assert potential(W.ravel()) <= potential(V.ravel()) + 1e-12
        np.testing.assert_allclose(W, V, atol=1e-6)


def test_kkt_error_detects_errors():
    entry = zoo.GAMES["boundary_pairwise"]()
    W = entry.solution
    assert ref.kkt_error(entry.spec.game_map(W), W) < 1e-13
    for shift in ([1e-3, -1e-3, 0], [0, 1e-3, -1e-3]):
        V = np.abs(W + np.array(shift)[None])
        V /= V.sum(axis=1, keepdims=True)
        assert ref.kkt_error(entry.spec.game_map(V), V) > 1e-4
    assert ref.kkt_error(entry.spec.game_map(W), 1.001 * W) > 1e-4  # off the simplex
