"""Large populations through their aggregate: sampled, in blocks, in a few passes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref

import jaxgame as jg
from jaxgame import simplex, solving
from jaxgame.games import subsidised
from jaxgame.solvers import population, reply, respond, settle, sizes
from jaxgame.solvers.columns import waterfill
from jaxgame.solvers.scale import measure
from jaxgame.solvers.shared_kernel import SharedKernel, has_shared_kernel


@pytest.fixture
def small(monkeypatch):
    """Populations are large from one number on, of several blocks, and sampled."""
    monkeypatch.setattr(settle, "POPULOUS", 1)
    monkeypatch.setattr(settle, "CROWDED", 1)
    monkeypatch.setattr(settle, "LEAST", 64)
    monkeypatch.setattr(settle, "SHARE", 4)
    monkeypatch.setattr(
        sizes, "CORES", dataclasses.replace(sizes.CORES, formulas=1, matrices=1, derivatives=1, lot=40, last=40)
    )
    jax.clear_caches()
    yield
    jax.clear_caches()


def spectral(rng, n_groups, condition):
    basis = np.linalg.qr(rng.normal(size=(n_groups, n_groups)))[0]
    matrix = (basis * np.geomspace(1, condition, n_groups)) @ basis.T
    return (matrix + matrix.T) / 2


def populations(rng, n, n_groups, dtype):
    """Of every curvature and way to meet: name, game."""
    linear = rng.normal(size=(n, n_groups))
    q = rng.uniform(0.5, 1.5, n)
    B = rng.normal(size=(n_groups, n_groups))
    B = (B @ B.T + B - B.T) / n_groups
    reach = rng.dirichlet(np.ones(n) * 5)
    matrices = np.stack([spectral(rng, n_groups, 8) for _ in range(n)])
    curvatures = {
        "scalar": 0.8,
        "per agent": q,
        "diagonal": jg.Diagonal(rng.uniform(0.5, 2, (n, n_groups))),
        "shared diagonal": jg.Diagonal(rng.uniform(0.5, 2, n_groups)),
        "scaled": jg.Scaled(q, spectral(rng, n_groups, 30)),
        "shared": spectral(rng, n_groups, 10),
        "matrices": matrices,
    }
    meetings = {
        "nash": dict(),
        "wardrop": dict(atomic=False, reach=reach, sensitivity=rng.uniform(0, 1, n)),
        "others": dict(include_self=False, sensitivity=0.7),
    }

    def cast(x):
        return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), x)

    for kind, curvature in curvatures.items():
        for meeting, options in meetings.items():
            options = {k: v if isinstance(v, bool) else cast(v) for k, v in options.items()}
            coupling = jg.MeanField(cast(B), **options)
            yield f"{kind}, {meeting}", jg.QuadraticGame(cast(linear), cast(curvature), coupling=coupling)
    kernel = np.exp(-((np.arange(n_groups)[:, None] - np.arange(n_groups)) ** 2) / 2)
    for metric in ("response", "mixture"):
        for form in ("pairwise", "centroid"):
            yield (
                f"alignment, {metric}, {form}",
                jg.AlignmentGame(
                    cast(rng.dirichlet(np.ones(n_groups), n)),
                    cast(kernel),
                    cast(rng.normal(size=(n, n_groups))),
                    attractiveness=cast(rng.uniform(0.1, 0.3, n)),
                    consistency=1.0,
                    diversity=0.25,
                    diversity_form=form,
                    consistency_metric=metric,
                    reach=cast(reach),
                ),
            )


NAMES = [name for name, _ in populations(np.random.default_rng(0), 3, 2, np.float64)]
USUAL = {
    "scalar, others",
    "per agent, nash",
    "diagonal, wardrop",
    "scaled, nash",
    "matrices, wardrop",
    "alignment, response, pairwise",
    "alignment, mixture, pairwise",
}


def residual(game, profile):
    """The natural residual with unit step, in float64 and numpy."""
    w = np.asarray(profile, np.float64)
    affine = jax.tree.map(lambda x: np.asarray(x, np.float64), game.affine())
    total = affine.own.diagonal * w
    for coefficient, matrix in affine.own.terms:
        total = total + coefficient[:, None] * (w @ matrix.T)
    if affine.own.dense is not None:
        total = total + np.einsum("ide,ie->id", affine.own.dense, w)
    total = total + affine.others.sensitivity[:, None] * (affine.others.B @ (affine.others.reach @ w))
    ahead = w + affine.linear - total
    ordered = -np.sort(-ahead, 1)
    levels = (np.cumsum(ordered, 1) - 1) / np.arange(1, w.shape[1] + 1)
    count = (ordered > levels).sum(1)
    level = levels[np.arange(len(w)), count - 1]
    return np.abs(w - np.maximum(ahead - level[:, None], 0)).max()


@pytest.mark.float32
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in USUAL else pytest.mark.slow) for name in NAMES]
)
def test_population_is_in_equilibrium(name, small, rng, dtype):
    game = dict(populations(rng, 700, 6, dtype))[name]
    assert settle.is_populous(game)
    found = jg.solve(game)
    assert bool(found.converged), found.message
    assert found.profile.dtype == dtype
    size = max(1.0, float(measure(game, dtype).sigma))  # the tolerance is scale-free, this residual has unit step
    assert residual(game, found.profile) <= (1e-11 * size if dtype == np.float64 else 2e-5)
    assert float(jnp.abs(found.profile.sum(1) - 1).max()) <= 4 * np.finfo(dtype).eps * 6**0.5
    assert float(found.profile.min()) >= 0
    reach = np.asarray(found.game.reach if found.game.reach is not None else game.coupling.reach, np.float64)
    shown = reach @ np.asarray(found.profile, np.float64)
    np.testing.assert_allclose(found.representation, shown, atol=20 * np.finfo(dtype).eps)
    if dtype == np.float64:
        # Steps on whole profiles, a solver that has nothing in common with it.
        dense = jg.solve(game, jg.Newton())
        np.testing.assert_allclose(found.profile, dense.profile, atol=1e-10)
        # Bounds, not estimates.
        assert (
            float(found.residual)
            >= float(measure(game, dtype).residual(found.profile, game.marginals(found.profile))) - 1e-15
        )
        assert float(found.gap) >= float(jg.certify(game, found).exploitability.max()) - 1e-14


@pytest.mark.parametrize("name", ["per agent, nash", "alignment, response, pairwise"])
def test_population_in_the_blocks_of_an_accelerator(name, small, rng, monkeypatch):
    """Sums by themselves, large lots, and late agents together until few are left."""
    monkeypatch.setattr(sizes, "on_cores", lambda: False)
    few = dataclasses.replace(sizes.ACCELERATOR, formulas=2**14, matrices=2**14, lot=128, last=16, inverses=50)
    monkeypatch.setattr(sizes, "ACCELERATOR", few)
    game = dict(populations(rng, 700, 6, np.float64))[name]
    found = jg.solve(game)
    assert bool(found.converged), found.message
    np.testing.assert_allclose(found.profile, jg.solve(game, jg.Newton()).profile, atol=1e-10)


def test_population_takes_few_passes(rng):
    """Sampling errors are a few per cent of a step; a repeated solve compiles nothing."""
    n, n_groups = 40_000, 8
    game = jg.QuadraticGame(
        rng.normal(size=(n, n_groups)), rng.uniform(0.5, 1.5, n), coupling=jg.MeanField(np.eye(n_groups))
    )
    found = jg.solve(game, history=True)
    assert bool(found.converged)
    assert 2 <= int(found.steps) <= 6
    assert found.history is not None
    assert found.history.shape == (int(found.steps),)
    assert found.history[-1] == found.residual
    assert residual(game, found.profile) <= 1e-10
    jg.solve(game)
    before = solving._settled._cache_size()  # pyright: ignore[reportAttributeAccessIssue]
    again = jg.solve(game.replace(linear=game.linear + 0.1 * rng.normal(size=(1, n_groups))))
    assert bool(again.converged)
    assert solving._settled._cache_size() == before  # pyright: ignore[reportAttributeAccessIssue]
    none = jg.solve(game, max_steps=0)
    assert int(none.steps) == 0 and not bool(none.converged)
    np.testing.assert_allclose(none.profile, 1 / n_groups)
    few = jg.solve(game, max_steps=1)
    assert not bool(few.converged) and int(few.status) == 1 and int(few.steps) == 1
    np.testing.assert_allclose(few.profile.sum(1), 1, atol=1e-14)


def test_population_under_transformations(small, rng):
    game = dict(populations(rng, 300, 4, np.float64))["per agent, nash"]
    assert isinstance(game, jg.QuadraticGame)
    expected = jg.solve(game)
    jitted = jax.jit(jg.solve)(game)
    np.testing.assert_allclose(jitted.profile, expected.profile, atol=1e-12)
    games = jax.vmap(lambda shift: game.replace(linear=game.linear + shift[None]))(jnp.asarray(rng.normal(size=(3, 4))))
    batch = jax.vmap(jg.solve)(games)
    for k in range(3):
        alone = jg.solve(jax.tree.map(lambda x, k=k: x[k], games))
        np.testing.assert_allclose(batch.profile[k], alone.profile, atol=1e-10)


@pytest.mark.parametrize(
    "name",
    [
        "per agent, nash",
        "diagonal, wardrop",
        pytest.param("alignment, mixture, pairwise", marks=pytest.mark.slow),
        pytest.param("scaled, others", marks=pytest.mark.slow),
        pytest.param("matrices, nash", marks=pytest.mark.slow),
        pytest.param("shared, wardrop", marks=pytest.mark.slow),
    ],
)
def test_population_has_a_derivative(name, small, rng):
    """In every leaf against finite differences; forward and reverse agree, on blocks of 128 and a shorter last one."""
    game = dict(populations(rng, 300, 4, np.float64))[name]
    leaves, structure = jax.tree.flatten(game)
    directions = [jnp.where(leaf != 0, rng.normal(size=leaf.shape), 0) for leaf in leaves]
    towards = jnp.asarray(rng.normal(size=(300, 4)))

    def scalar(leaves):
        found = jg.solve(jax.tree.unflatten(structure, leaves), tol=1e-13)
        return found.representation[0] + (towards * found.profile).sum() / 300

    gradient = jax.grad(scalar)(leaves)
    for k, direction in enumerate(directions):
        if leaves[k].ndim == 2 and leaves[k].shape == (4, 4):
            direction = direction + direction.T
        along = [jnp.zeros_like(leaf) for leaf in leaves]
        along[k] = direction
        slope = jax.jvp(scalar, (leaves,), (along,))[1]
        np.testing.assert_allclose((gradient[k] * direction).sum(), slope, rtol=1e-9, atol=1e-14)
        step = 1e-6

        def moved(s, k=k, direction=direction):
            return scalar([leaf + s * direction if j == k else leaf for j, leaf in enumerate(leaves)])

        np.testing.assert_allclose(slope, (moved(step) - moved(-step)) / (2 * step), rtol=1e-5, atol=3e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["per agent, nash", "diagonal, wardrop", "scaled, others"])
def test_population_has_a_second_derivative(name, small, rng):
    """Of the representation in what is linear and in the coupling, against differences of the first."""
    game = dict(populations(rng, 300, 4, np.float64))[name]
    assert isinstance(game, jg.QuadraticGame)
    direction = rng.normal(size=game.linear.shape)

    def shown(s, t):
        coupling = game.coupling.replace(B=game.coupling.B * (1 + t))
        moved = game.replace(linear=game.linear * (1 + 0.3 * t) + s * direction, coupling=coupling)
        return jg.solve(moved, tol=1e-13).representation[0]

    slope = jax.grad(shown)
    forward = jax.jvp(lambda t: slope(0.0, t), (0.0,), (1.0,))[1]
    np.testing.assert_allclose(forward, (slope(0.0, 1e-6) - slope(0.0, -1e-6)) / 2e-6, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(slope, argnums=1)(0.0, 0.0), forward, rtol=1e-10)


def with_large_agent(game, B=None):
    """Of which one agent's own share of what agents meet is more than its curvature."""
    reach = np.concatenate([[0.7], np.full(299, 0.3 / 299)])
    coupling = game.coupling.replace(reach=reach, sensitivity=4.0)
    return game.replace(coupling=coupling if B is None else coupling.replace(B=B))


def hard(name, rng):
    """Populations whose agents are large to themselves, or have no other curvature."""
    games = dict(populations(rng, 300, 4, np.float64))
    part = rng.normal(size=(4, 4))
    turning = part @ part.T / 4 + part - part.T
    if name == "concave by the own share":
        return jg.QuadraticGame(
            0.01 * rng.normal(size=(300, 4)), -0.001, coupling=jg.MeanField(part @ part.T + 3 * np.eye(4))
        )
    if name == "some without curvature":
        linear, q = rng.normal(size=(300, 4)), rng.uniform(0.5, 1.5, 300)
        q[3] = 0
        return jg.QuadraticGame(linear, q, coupling=jg.MeanField(part @ part.T / 4 + np.eye(4)))
    return with_large_agent(games[name.removesuffix(" that turns")], turning if "turns" in name else None)


@pytest.mark.parametrize(
    "name",
    [
        "concave by the own share",
        "scaled, others",
        pytest.param("per agent, nash", marks=pytest.mark.slow),
        pytest.param("scaled, nash", marks=pytest.mark.slow),
        pytest.param("some without curvature", marks=pytest.mark.slow),
        pytest.param("per agent, nash that turns", marks=pytest.mark.slow),
        pytest.param("scaled, nash that turns", marks=pytest.mark.slow),
    ],
)
def test_derivative_where_the_own_share_is_large(name, small, rng):
    """The reference is the Jacobian of all agents."""
    game = hard(name, rng)
    reach = np.broadcast_to(1 / 300 if game.coupling.reach is None else np.asarray(game.coupling.reach), 300)

    def scalar(linear):
        found = jg.solve(game.replace(linear=linear))
        return found.representation[0] + found.profile[0, 1] + found.profile[5, 2]

    found = jg.solve(game)
    assert bool(found.converged)
    profile = np.asarray(found.profile)
    jacobian, on = np.asarray(game.affine().dense()), (profile > 0).reshape(-1)
    n, n_groups = profile.shape
    sums = np.kron(np.eye(n), np.ones((n_groups, 1)))[on]
    face = np.block([[jacobian[np.ix_(on, on)], sums], [sums.T, np.zeros((n, n))]])
    direction = rng.normal(size=profile.shape)
    move = np.zeros(profile.size)
    move[on] = np.linalg.solve(face, np.concatenate([direction.reshape(-1)[on], np.zeros(n)]))[: on.sum()]
    move = move.reshape(profile.shape)
    expected = (reach @ move)[0] + move[0, 1] + move[5, 2]
    gradient = jax.jit(jax.grad(scalar))(game.linear)
    np.testing.assert_allclose((gradient * direction).sum(), expected, rtol=1e-8)


@pytest.mark.float32
def test_small_derivatives_keep_their_digits(small, rng, dtype):
    """Squares of what is handed back would underflow in single precision."""
    game = dict(populations(rng, 300, 4, dtype))["scaled, nash"]
    assert isinstance(game, jg.QuadraticGame)
    some = jnp.asarray(rng.normal(size=game.linear.shape), dtype)

    def shown(linear, size):
        return size * jg.solve(game.replace(linear=linear)).representation[0]

    plain, tiny = (jax.grad(shown)(game.linear, jnp.asarray(size, dtype)) / size for size in (1.0, 1e-20))
    np.testing.assert_allclose((tiny * some).sum(), (plain * some).sum(), rtol=1e-4)


@pytest.mark.parametrize("kind", ["kernel of their own", "kernel they meet in"])
def test_one_kernel_is_answered_face_by_face(kind, rng):
    """As the inverses of all agents add up to, but for the square of own shares of another matrix."""
    n, n_groups = 4096, 5
    linear, q = rng.normal(size=(n, n_groups)), rng.uniform(0.5, 1.5, n)
    game = jg.QuadraticGame(
        linear, jg.Scaled(q, spectral(rng, n_groups, 20)), coupling=jg.MeanField(rng.normal(size=(n_groups, n_groups)))
    )
    members = game.members(lambda x: x).replace(reach=jnp.asarray(rng.dirichlet(np.ones(n))))
    members = members.replace(own=30 * members.own)  # enough to tell whether they count
    if kind == "kernel they meet in":
        members = members.replace(matrix=members.curvature.terms[0][1])
    mixture = jnp.asarray(simplex.project(linear))
    assert has_shared_kernel(members) == (kind == "kernel they meet in")  # in double precision
    every = SharedKernel(members)
    *found, left_out = every.to_aggregate(every.tally(members, mixture))
    without = SharedKernel(members.replace(own=None, matrix=None))
    plain = without.to_aggregate(without.tally(members.replace(own=None, matrix=None), mixture))[0]
    assert (left_out == 0) == (kind == "kernel they meet in") and left_out < 0.05
    for some, weight in zip(found, (members.weight, members.reach), strict=True):
        exact = reply.to_aggregate(members, mixture, weight)
        off = np.abs(some - exact).max() / np.abs(exact).max()
        assert off <= max(left_out, 1e-13)
        assert np.abs(plain - reply.to_aggregate(members, mixture, members.weight)).max() > 1e-3 * np.abs(plain).max()
    # Of another kind.
    bent = members.replace(curvature=members.curvature.replace(diagonal=jnp.ones((1, 1))))
    other = SharedKernel(bent)
    assert np.isinf(other.to_aggregate(other.tally(bent, mixture))[2])


def test_second_derivatives_with_one_kernel(small, rng):
    """Forward and backward through what is found face by face, where some play one group alone."""
    n, n_groups = 200, 3
    linear, B = jnp.asarray(rng.normal(size=(n, n_groups))), jnp.asarray(rng.normal(size=(n_groups, n_groups)))
    Q, weights = jnp.asarray(spectral(rng, n_groups, 5)), jnp.asarray(rng.normal(size=n_groups))

    def value(t):
        game = jg.QuadraticGame(linear, Q * (1 + t), coupling=jg.MeanField(B @ B.T * (1 - t), atomic=False))
        return weights @ jg.solve(game).representation

    slope, h = jax.jit(jax.grad(value)), 1e-5
    assert (jg.solve(jg.QuadraticGame(linear, Q, coupling=jg.MeanField(B @ B.T, atomic=False))).profile == 1).any()
    numerical = (slope(h) - slope(-h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(jax.grad(value))(0.0), numerical, rtol=1e-5)
    np.testing.assert_allclose(jax.jvp(jax.grad(value), (0.0,), (1.0,))[1], numerical, rtol=1e-5)


@pytest.mark.float32
@pytest.mark.parametrize("n_groups", [3, 14])
def test_many_on_one_face_are_added_up_to_rounding(n_groups):
    """In single precision: one by one, equal numbers would be off by more than 1e-4, and by all from 2^25 on."""
    n = 2**20
    game = jg.QuadraticGame(
        jnp.zeros((n, n_groups), np.float32),
        jnp.eye(n_groups, dtype=np.float32),
        coupling=jg.MeanField(jnp.eye(n_groups, dtype=np.float32), sensitivity=0.3, atomic=False),
    )
    members = game.members(lambda x: x)
    table = SharedKernel(members).tally(members, jnp.full((n, n_groups), 1 / n_groups, np.float32))
    np.testing.assert_allclose(table[-1], 0.3, rtol=1e-6)
    assert not table[:-1].any()


def test_tiny_shares_are_told_by_some_agents(rng, monkeypatch):
    """What own shares add to how the aggregate answers, by one agent in 16, next to all of them."""
    linear, q = rng.normal(size=(4096, 5)), rng.uniform(0.5, 1.5, 4096)
    game = jg.QuadraticGame(linear, q, coupling=jg.MeanField(rng.normal(size=(5, 5))))
    members = game.members(lambda x: x)
    mixture = jnp.asarray(simplex.project(linear))

    def answers(tiny, members):
        monkeypatch.setattr(reply, "TINY", tiny)
        return reply.to_aggregate(members, mixture, members.weight)

    all_of_them, some = answers(0, members), answers(1e30, members)
    added = jnp.abs(all_of_them - answers(0, members.replace(own=None, matrix=None))).max()
    off = jnp.abs(some - all_of_them).max()
    assert 0 < float(off) <= 0.5 * float(added)  # of one block: the errors of many average out


def test_failed_population_has_no_derivative(small, rng):
    game = dict(populations(rng, 300, 4, np.float64))["diagonal, wardrop"]
    gradient = jax.jit(jax.grad(lambda game: jg.solve(game, max_steps=1, tol=1e-15).representation[0]))(game)
    for leaf in jax.tree.leaves(gradient):
        assert np.isnan(leaf).all()


def test_population_that_is_paid(small, rng):
    """An addition to utilities is one to what is linear in them."""
    game = dict(populations(rng, 300, 4, np.float64))["scalar, nash"]
    assert isinstance(game, jg.QuadraticGame)
    addition = rng.normal(size=4)
    paid = jg.solve(subsidised(game, addition))
    expected = jg.solve(game.replace(linear=game.linear + addition[None]))
    np.testing.assert_allclose(paid.profile, expected.profile, atol=1e-11)


def test_population_that_is_not_monotone_is_left_to_other_solvers(small, rng):
    """Where the passes end without a proof, the solver of profiles takes over, and says what it found."""
    n = 200
    B = -3 * np.eye(4)
    game = jg.QuadraticGame(rng.normal(size=(n, 4)), 1.0, coupling=jg.MeanField(B))
    found = jg.solve(game)
    assert bool(found.converged) == (residual(game, found.profile) <= 1e-8)


def test_an_agent_that_is_not_concave_is_left_to_other_solvers(small, rng):
    """Formulas would fill groups of negative curvature with negative weights, and call it an equilibrium."""
    h, linear = rng.uniform(0.5, 2, (300, 4)), rng.normal(size=(300, 4))
    h[7], linear[7] = [2.39, -1.65, 2.80, 2.90], [-4.88, 0.46, 0.91, -0.19]
    game = jg.QuadraticGame(linear, jg.Diagonal(h), coupling=jg.MeanField(0.3 * np.eye(4)))
    found = jg.solve(game)
    assert found.profile.min() >= 0 and np.isinf(found.gap)
    assert bool(found.converged) == (residual(game, found.profile) <= 1e-8)


@pytest.mark.parametrize("curvature", [1.0, "scaled"])
def test_what_is_alike_for_all_groups_costs_no_digits(curvature, small, rng):
    """Marginals of 10⁵ round by .01 in single precision, their differences do not."""
    B = np.round(rng.normal(size=(4, 4)), 2)
    if curvature == "scaled":
        curvature = jg.Scaled(np.ones(600), np.diag([1.0, 2.0, 3.0, 4.0]) + 2.0**17)
    plain = np.round(rng.normal(size=(600, 4)), 1)
    alone, found = (
        jg.solve(
            jax.tree.map(
                lambda x: jnp.asarray(x, np.float32),
                jg.QuadraticGame(plain + offset, curvature, coupling=jg.MeanField(B + offset)),
            )
        )
        for offset in (0, 2**17)
    )
    assert found.converged and found.residual <= 3e-6
    # The data themselves are rounded, to 1/64.
    np.testing.assert_allclose(found.profile, alone.profile, atol=0.03)
    exact = jax.tree.map(lambda x: jnp.asarray(x, np.float64), found.game)
    profile = jnp.asarray(found.profile, np.float64)
    profile = profile / profile.sum(1, keepdims=True)
    assert residual(exact, profile) <= 2e-5
    assert float(found.gap) >= jg.certify(exact, profile).exploitability.max() - 1e-6


@pytest.mark.float32
@pytest.mark.parametrize("size", [1e-18, 1e18])
@pytest.mark.parametrize("kind", ["scalar, nash", "scaled, nash", "matrices, nash"])
def test_utilities_of_any_size(kind, size, small, rng, dtype):
    """Multiplying all of them by a number changes no equilibrium, and squares of marginals overflow."""
    game = dict(populations(rng, 300, 4, dtype))[kind]
    assert isinstance(game, jg.QuadraticGame)

    def times(x):
        return jnp.asarray(size, dtype) * x

    curvature = game.curvature
    curvature = jg.Scaled(times(curvature.q), curvature.Q) if isinstance(curvature, jg.Scaled) else times(curvature)
    coupling = game.coupling.replace(B=times(game.coupling.B))
    found = jg.solve(game.replace(linear=times(game.linear), curvature=curvature, coupling=coupling))
    assert found.converged, found.message
    atol = 1e-9 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(found.profile, jg.solve(game).profile, atol=atol)
    assert 0 <= float(found.gap) <= 1e-4 * size


def test_a_sample_that_the_representation_leaves_out(small, rng):
    """Reach of two agents alone, whom it need not hold."""
    reach = np.zeros(600)
    reach[[401, 403]] = 0.5
    meeting = jg.MeanField(0.3 * np.eye(4), reach=reach)
    game = jg.QuadraticGame(rng.normal(size=(600, 4)), 1.0, coupling=meeting)
    sampled = population.sample(game, 64)
    np.testing.assert_allclose(sampled.chosen.weight, 1 / 64)  # none of its own
    assert np.isfinite(settle.of_members(sampled, jnp.full(4, 0.25)).point).all()
    found = jg.solve(game)
    assert found.converged and residual(game, found.profile) <= 1e-10


@pytest.mark.float32
def test_responses_on_ill_conditioned_faces_end_at_rounding(rng):
    """In single precision: conjugate gradients that go on in what is rounding lead far, round after round."""
    n, n_groups = 4096, 16
    kernel = np.exp(-((np.arange(n_groups)[:, None] - np.arange(n_groups)) ** 2) / 8)
    arrays = rng.dirichlet(np.full(n_groups, 0.3), n), kernel, rng.normal(size=(n, n_groups))
    weights = dict(attractiveness=0.3, consistency=rng.uniform(0.5, 1.5, n), diversity=0.3)
    game = jg.AlignmentGame(
        *(jnp.asarray(x, np.float32) for x in arrays), **{k: jnp.asarray(x, np.float32) for k, x in weights.items()}
    )
    members = game.members(lambda x: x)
    members, linear = population._centred(members, members.linear.T)
    finest = jnp.asarray(2 * np.finfo(np.float32).eps, np.float32)  # that is ever asked for
    found = respond.respond(members, linear, None, finest)

    # How far a gradient step, in double precision, moves each.
    size, w = respond.majoriser(members.curvature, n), np.asarray(found.mixture, float)
    w = w / w.sum(0)
    ((consistency, K),) = members.curvature.terms
    felt = np.asarray(consistency, float) * (np.asarray(K, float) @ w)
    felt = felt + np.asarray(members.own, float) * (np.asarray(members.matrix, float) @ w)
    ahead = w + (np.asarray(linear, float) - felt) / np.asarray(size, float)
    moved = np.linalg.norm(np.stack([ref.project(x) for x in ahead.T], 1) - w, axis=0)
    assert moved.max() < 1e-6 and found.error.max() < 1e-6


def test_waterfill_is_the_maximiser(rng, dtype):
    """KKT conditions, for agents whose supports need many trials, and at every magnitude."""
    for magnitude in (1e-3, 1.0, 1e4):
        linear = magnitude * np.sort(rng.exponential(size=(50, 33)), 1).cumsum(1).T[::-1]
        for h in (np.full((1, 50), 0.7), rng.uniform(0.1, 3, (33, 50))):
            w, off, _ = (np.asarray(x) for x in waterfill(jnp.asarray(linear, dtype), jnp.asarray(h, dtype)))
            assert np.abs(w.sum(0) - 1).max() <= 1e-6 if dtype == np.float32 else 1e-14
            slope = linear - h * w
            top = np.where(w > 0, slope, -np.inf).max(0)
            noise = 100 * np.finfo(dtype).eps * (magnitude * 33 + 3)
            assert (np.abs(np.where(w > 0, slope - top, 0)) <= noise).all()
            assert (slope <= top + noise).all()
            assert off.max() <= 1e-3
    nan, _, _ = waterfill(jnp.asarray([[np.nan, 1.0], [0.0, 2.0]], dtype), jnp.ones((1, 2), dtype))
    assert np.isnan(nan[:, 0]).all() and np.isfinite(nan[:, 1]).all()
