"""certify: constants against numpy, best responses against brute force, and proofs that are never wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import scipy.optimize
import scipy.special
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.sparse import BCOO

import jaxgame as jg
from jaxgame.certificate import spectrum as spectra
from jaxgame.certificate.best_response import maximise_any_quadratic, maximise_quadratic

QUADRATIC = [name for name in zoo.GAMES if not isinstance(zoo.GAMES[name]().spec, zoo.Concave)]
# one game of each structure: curvature forms, couplings, diversity forms and metrics
CERTIFIED = (
    "boundary_pairwise",
    "boundary_pairwise_mixture",
    "boundary_centroid",
    "boundary_centroid_mixture",
    "directed_network",
    "isolated_agent",
    "quadratic_scalar_nash",
    "quadratic_agents_nash",
    "quadratic_diagonals_nash",
    "quadratic_scaled_nash",
    "quadratic_agents_wardrop",
    "quadratic_scalar_others",
    "quadratic_agents_network",
    "quadratic_agents_dense",
    "insensitive_agents",
    "zero_kernel",
)


def draw(rng, shape):
    """A profile with some zeros."""
    W = rng.dirichlet(np.full(shape[1], 0.7), shape[0])
    W = np.where(W < 0.05, 0.0, W)
    return W / W.sum(axis=1, keepdims=True)


def alone(spec, W, i):
    """v -> U_i(v, the others as in W), for Wardrop mean fields with the aggregate as in W."""
    c = getattr(spec, "coupling", None)
    if isinstance(c, ref.MeanField) and c.include_self and not c.atomic:
        met = np.broadcast_to(c.sensitivity, (len(W),))[i] * c.B @ spec.representation(W)
        return lambda v: (spec.linear[i] - met) @ v - 0.5 * v @ spec._curvature(i) @ v
    return lambda v: spec.utilities(np.where(np.arange(len(W))[:, None] == i, v, W))[i]


def quadratic_of(utility, D):
    """(C, b, U(0)) of a quadratic function, from its values."""
    E, U0 = np.eye(D), utility(np.zeros(D))
    C = -np.array([[utility(a + b) - utility(a) - utility(b) + U0 for b in E] for a in E])
    return C, np.array([utility(e) - U0 for e in E]) + np.diag(C) / 2, U0


def best_gain(utility, w):
    """The exact gain by enumerating supports: on each the stationary point, if it is a mixture."""
    D = len(w)
    C, b, _ = quadratic_of(utility, D)
    values = [0.0]
    for bits in range(1, 2**D):
        S = np.flatnonzero([(bits >> d) & 1 for d in range(D)])
        A = np.block([[C[np.ix_(S, S)], np.ones((len(S), 1))], [np.ones((1, len(S))), np.zeros((1, 1))]])
        v = np.zeros(D)
        v[S] = np.linalg.lstsq(A, np.append(b[S], 1.0), rcond=1e-13)[0][:-1]
        if v.min() > -1e-12 and abs(v.sum() - 1) < 1e-9:
            values.append((b - C @ w) @ (v - w) - 0.5 * (v - w) @ C @ (v - w))
    return max(values)


def linear_bound(spec, W, i):
    F = spec.game_map(W)[i]
    return W[i] @ F - F.min()


# --- constants ------------------------------------------------------------------------------------
@pytest.mark.parametrize("limit", [spectra.DENSE_LIMIT, 0], ids=["dense", "structured"])
def test_constants_of_the_zoo(limit, monkeypatch):
    """c and L are eigenvalues of a Jacobian probed in numpy; the safe sides are on the safe side."""
    monkeypatch.setattr(spectra, "DENSE_LIMIT", limit)
    for name in QUADRATIC:
        entry = zoo.GAMES[name]()
        n, D = entry.spec.shape
        if D == 1:
            continue
        affine = entry.game().affine()
        if limit == 0 and not affine.is_aggregative:
            continue  # Lanczos has a test of its own
        c, L = ref.constants(entry.spec.affine[0], entry.spec.shape)
        found = spectra.spectrum(affine, np.ones(n), dtype=np.float64)
        assert found.proved
        np.testing.assert_allclose([found.monotonicity, found.lipschitz], [c, L], atol=1e-11 * L, err_msg=name)
        rounding = 1e-15 * L
        assert found.monotonicity - 1e-9 * L <= found.lower <= c + rounding, name
        assert found.lipschitz + 1e-9 * L >= found.upper >= L - rounding, name


@pytest.mark.parametrize("form", ["pairwise", "centroid"])
@pytest.mark.parametrize("metric", ["response", "mixture"])
@pytest.mark.parametrize("delta", [0.35, -0.45])
def test_table_of_the_theory(form, metric, delta, rng):
    """Theory §2: eigenvalues on the consensus and the disagreement modes, for small and for large populations."""
    gamma, D = 1.3, 4
    K = ref.random_kernel(rng, D)
    Z = ref.tangent_basis(D)
    k = np.linalg.eigvalsh(Z.T @ K @ Z)
    q = k if metric == "response" else np.ones(D - 1)
    for n in (2, 5, 3000):
        if form == "pairwise":
            eigenvalues = np.concatenate([gamma * q + delta * k, gamma * q - delta * k / (n - 1)])
        else:
            eigenvalues = np.concatenate([gamma * q, gamma * q - delta * k * n / (n - 1)])
        game = jg.AlignmentGame(
            rng.dirichlet(np.ones(D), n),
            K,
            rng.normal(size=D),
            consistency=gamma,
            diversity=delta,
            diversity_form=form,
            consistency_metric=metric,
        )
        c, L = eigenvalues.min(), np.abs(eigenvalues).max()
        found = spectra.spectrum(game.affine(), np.ones(n), dtype=np.float64)
        np.testing.assert_allclose([found.monotonicity, found.lipschitz], [c, L], atol=1e-11 * L)
        assert found.proved and found.lower <= c and found.upper >= L and (found.lower > 0) == (c > 0)
        if n == 5:
            certificate = jg.certify(game, np.full((n, D), 1 / D))
            assert float(certificate.monotonicity) == found.monotonicity and not certificate.numerical
            assert certificate.unique is bool(c > 0) and not certificate.local


@pytest.mark.parametrize("condition", [1e3, 1e8])
def test_large_populations_of_unlike_agents(condition, rng):
    """The structured path against the matrix of all agents in one eigendirection of the kernel, where it is n × n."""
    n, D = 400, 5
    V = np.linalg.qr(rng.normal(size=(D, D)))[0]
    V[:, 0] = 1 / np.sqrt(D)
    V = np.linalg.qr(V)[0]  # the first eigenvector is 1, the others span the tangent space
    values = np.append(1.0, np.geomspace(1 / condition, 1.0, D - 1))
    K = V @ np.diag(values) @ V.T
    gamma, delta = rng.uniform(0.5, 2.0, n), rng.uniform(-0.6, 0.6, n)
    game = jg.AlignmentGame(
        rng.dirichlet(np.ones(D), n), (K + K.T) / 2, rng.normal(size=D), consistency=gamma, diversity=delta
    )
    found = spectra.spectrum(game.affine(), np.ones(n), dtype=np.float64)
    M = np.diag(gamma) + delta[:, None] * (1 - np.eye(n)) / (n - 1)
    low, high = np.linalg.eigvalsh((M + M.T) / 2)[0], np.linalg.norm(M, 2)
    assert found.proved
    np.testing.assert_allclose(found.monotonicity, min(low * values[1:]), rtol=1e-6, atol=1e-14)
    np.testing.assert_allclose(found.lipschitz, high, rtol=1e-11)


def test_lanczos_stays_on_the_safe_side(rng):
    """On a network too large for one dense matrix the bounds enclose the truth, and the values are close to it."""
    n, D = 300, 5
    weights = rng.uniform(size=(n, n)) * (rng.uniform(size=(n, n)) < 0.02) * (1 - np.eye(n))
    weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
    gamma, delta, K = rng.uniform(1.0, 2.0, n), rng.uniform(0.0, 0.5, n), ref.random_kernel(rng, D)
    coupling = jg.Network(BCOO.fromdense(jnp.asarray(weights)))
    game = jg.AlignmentGame(
        rng.dirichlet(np.ones(D), n), K, rng.normal(size=D), consistency=gamma, diversity=delta, coupling=coupling
    )
    # J is a Kronecker product: an n × n matrix an eigenvalue of the kernel
    k = np.linalg.eigvalsh(ref.tangent_basis(D).T @ K @ ref.tangent_basis(D))
    M = np.diag(gamma) + delta[:, None] * weights
    low, high = np.linalg.eigvalsh((M + M.T) / 2)[0] * k[0], np.linalg.norm(M, 2) * k[-1]
    found = spectra.spectrum(game.affine(), np.ones(n), dtype=np.float64)
    assert not found.proved
    assert found.lower < low < found.monotonicity + 1e-9 and found.lipschitz - 1e-9 < high < found.upper
    np.testing.assert_allclose([found.monotonicity, found.lipschitz], [low, high], rtol=1e-3)
    certificate = jg.certify(game, np.full((n, D), 1 / D))
    assert certificate.numerical and "numerically" in certificate.message
    assert certificate.unique is (found.lower > 0)


# --- best responses -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CERTIFIED)
def test_exploitability_is_the_gain_of_a_best_response(name, rng):
    """Against the enumeration of supports in numpy, from utilities; the gap is the linear bound, and is one."""
    entry = zoo.GAMES[name]()
    spec, game = entry.spec, entry.game()
    n = spec.shape[0]
    for W in (draw(rng, spec.shape), draw(rng, spec.shape), entry.solution):
        found = jg.certify(game, W)
        exact = [best_gain(alone(spec, W, i), W[i]) for i in range(n)]
        gap = [linear_bound(spec, W, i) for i in range(n)]
        np.testing.assert_allclose(found.exploitability, exact, atol=1e-12 * max(1, max(gap)))
        np.testing.assert_allclose(found.gap, gap, atol=1e-13 * np.abs(spec.game_map(W)).max())
        assert bool((found.exploitability <= found.gap).all()) and float(found.exploitability.min()) >= 0
        assert found.concave and bool(found.exact.all()) and bool(found.concave_agents.all())
    assert found.distance == np.inf or float(found.distance) < 1e-10
    assert float(found.exploitability.max()) < 1e-14


def test_exploitability_against_slsqp(rng):
    """A second opinion that knows nothing of supports, D = 6."""
    spec = ref.random_alignment(rng, 5, 6, diversity_form="centroid", diversity=rng.uniform(-0.5, 0.9, 5))
    W = draw(rng, spec.shape)
    found = np.asarray(jg.certify(zoo.to_game(spec), W).exploitability)
    for i in range(5):
        utility = alone(spec, W, i)
        best = scipy.optimize.minimize(
            lambda v, u=utility: -u(v),
            np.full(6, 1 / 6),
            method="SLSQP",
            bounds=[(0, 1)] * 6,
            constraints=[{"type": "eq", "fun": lambda v: v.sum() - 1}],
            options={"ftol": 1e-14, "maxiter": 300},
        )
        np.testing.assert_allclose(found[i], -best.fun - utility(W[i]), atol=1e-7)


def test_small_gains_are_accurate_relative_to_themselves(rng):
    """Near an equilibrium the difference of two utilities would be nothing but rounding."""
    entry = zoo.GAMES["boundary_pairwise"]()
    spec, exact = entry.spec, entry.solution
    W = 0.5 * (exact + exact[:, [1, 0, 2]]) * 1e-7 + (1 - 1e-7) * exact
    W = W / W.sum(axis=1, keepdims=True)
    found = np.asarray(jg.certify(entry.game(), W).exploitability)
    expected = np.array([best_gain(alone(spec, W, i), W[i]) for i in range(4)])
    assert 0 < expected.max() < 1e-6
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-14)


@pytest.mark.parametrize("kind", ["definite", "singular", "zero", "ill-conditioned", "twins"])
def test_convex_programmes_on_the_simplex(kind, rng):
    """Batches of the quadratic programme against the enumeration of faces, degenerate matrices included."""
    n, D = 60, 5
    X = rng.normal(size=(n, D, D if kind != "singular" else 2))
    C, g = X @ np.swapaxes(X, 1, 2), 2 * rng.normal(size=(n, D))
    if kind == "zero":
        C = 0 * C
    elif kind == "ill-conditioned":
        V = np.linalg.qr(X)[0]
        C = V @ (np.geomspace(1e-8, 1, D)[:, None] * np.swapaxes(V, 1, 2))
    elif kind == "twins":
        C[:, 1], g[:, 1] = C[:, 0], g[:, 0]
        C[:, :, 1] = C[:, :, 0]
    w = np.array([draw(rng, (1, D))[0] for _ in range(n)])
    gain, left = jax.vmap(maximise_quadratic)(jnp.asarray(C), jnp.asarray(g), jnp.asarray(w))
    for i in range(n):

        def utility(v, i=i):
            return (g[i] + C[i] @ w[i]) @ v - 0.5 * v @ C[i] @ v

        np.testing.assert_allclose(gain[i], best_gain(utility, w[i]), atol=1e-12 * max(1, np.abs(C[i]).max()))
    assert float(left.max()) < 1e-12 * max(1, np.abs(C).max())


def test_utilities_that_are_not_concave(rng):
    """No bound, but the exact maximum all the same: against a fine grid of the simplex."""
    n, D, step = 4, 3, 1 / 200
    spec = ref.random_alignment(rng, n, D, diversity_form="centroid", consistency=0.5, diversity=rng.uniform(0.8, 2, n))
    W = draw(rng, (n, D))
    found = jg.certify(zoo.to_game(spec), W)
    assert not found.concave and not bool(found.concave_agents.any()) and not found.unique
    assert np.isinf(np.asarray(found.gap)).all() and float(found.distance) == np.inf and bool(found.exact.all())
    assert "not concave" in found.message
    grid = np.array(
        [[a, b, 1 - a - b] for a in np.arange(0, 1 + step / 2, step) for b in np.arange(0, 1 - a + step / 2, step)]
    )
    for i in range(n):
        C, b, U0 = quadratic_of(alone(spec, W, i), D)
        gains = grid @ b - 0.5 * ((grid @ C) * grid).sum(axis=1) + U0 - alone(spec, W, i)(W[i])
        best = float(found.exploitability[i])
        assert (
            gains.max() - 1e-12 <= best <= gains.max() + np.abs(C).max() * (2 * step) ** 2 + 2 * np.abs(b).max() * step
        )
        np.testing.assert_allclose(best, best_gain(alone(spec, W, i), W[i]), atol=1e-12)


def test_many_groups_without_concavity(rng):
    """Too many faces to try: an honest lower bound, at least as good as the best vertex."""
    n, D = 2, 14
    spec = ref.random_alignment(rng, n, D, diversity_form="centroid", consistency=0.5, diversity=1.5)
    W = rng.dirichlet(np.ones(D), n)
    found = jg.certify(zoo.to_game(spec), W)
    assert not bool(found.exact.any()) and "best one found" in found.message
    for i in range(n):
        utility = alone(spec, W, i)
        assert float(found.exploitability[i]) >= max(utility(e) for e in np.eye(D)) - utility(W[i]) - 1e-12


def test_enumeration_agrees_with_the_interior_point(rng):
    """On concave problems both find the same gain."""
    for D in (1, 2, 4):
        X = rng.normal(size=(D, D))
        C, g, w = X @ X.T, rng.normal(size=D), rng.dirichlet(np.ones(D))
        gain, exact = maximise_any_quadratic(C, g, w)
        assert exact
        np.testing.assert_allclose(maximise_quadratic(*map(jnp.asarray, (C, g, w)))[0], gain, atol=1e-12)


# --- utilities that are not quadratic -------------------------------------------------------------
def concave_game(name):
    entry = zoo.GAMES[name]()
    return entry.spec, entry.game(), entry.solution


def softmax_gain(params, W, i, others):
    """Closed form: max_v ⟨b, v⟩ + τ H(v) = τ log Σ exp(b / τ)."""
    b, tau = params["linear"][i] - params["B"][i] @ others, params["temperature"][i]
    here = b @ W[i] + tau * scipy.special.entr(W[i]).sum()
    return params["scale"][i] * (tau * scipy.special.logsumexp(b / tau) - here)


@pytest.mark.parametrize("boundary", [False, True], ids=["interior", "boundary"])
def test_entropic_best_responses(boundary, rng):
    """Marginals are infinite where a group has no weight: the gap is, too, but the gain has a closed form."""
    spec, game, _ = concave_game("quantal_response")
    n, D = spec.shape
    W = draw(rng, spec.shape) if boundary else 0.9 * rng.dirichlet(np.ones(D), n) + 0.1 / D
    assert boundary == bool((W == 0).any())
    found = jg.certify(game, W)
    others = [(W.sum(axis=0) - W[i]) / (n - 1) for i in range(n)]
    expected = [softmax_gain(spec.params, W, i, others[i]) for i in range(n)]
    np.testing.assert_allclose(found.exploitability, expected, rtol=1e-9)
    infinite = (W == 0).any(axis=1)
    assert np.array_equal(np.isinf(np.asarray(found.gap)), infinite) and bool(found.exact.all())
    assert found.concave and found.local and not found.unique and float(found.distance) == np.inf
    assert (float(found.residual) == np.inf) == boundary


@pytest.mark.parametrize("name", ["cubic_cost", "shifted_logarithm", "concave_network", "concave_profile"])
def test_concave_best_responses(name, rng):
    """Against SLSQP on the utility with the others held fixed."""
    spec, game, exact = concave_game(name)
    n, D = spec.shape
    W = 0.9 * rng.dirichlet(np.ones(D), n) + 0.1 / D
    found = jg.certify(game, W)
    assert found.concave and bool(found.exact.all()) and found.local
    utilities, marginals = jax.jit(game.utilities), jax.jit(game.marginals)
    for i in range(n):

        def replaced(v, i=i):
            return jnp.asarray(np.where(np.arange(n)[:, None] == i, v, W))

        best = scipy.optimize.minimize(
            lambda v, i=i: -float(utilities(replaced(v, i))[i]),
            np.full(D, 1 / D),
            jac=lambda v, i=i: -np.asarray(marginals(replaced(v, i))[i]),
            method="SLSQP",
            bounds=[(0, 1)] * D,
            constraints=[{"type": "eq", "fun": lambda v: v.sum() - 1}],
            options={"ftol": 1e-15, "maxiter": 300},
        )
        expected = -best.fun - float(utilities(jnp.asarray(W))[i])
        np.testing.assert_allclose(found.exploitability[i], expected, rtol=1e-6, atol=1e-9)
    if exact is not None:
        assert float(jg.certify(game, exact).exploitability.max()) < 1e-12 * spec.params["scale"].max()


class Opaque:
    """The protocol and nothing else, around a quadratic game."""

    def __init__(self, game):
        self.game, self.n_agents, self.n_groups = game, game.n_agents, game.n_groups

    def utilities(self, profile):
        return self.game.utilities(profile)

    def marginals(self, profile):
        return self.game.marginals(profile)


def test_a_game_of_the_users_own(rng):
    """Only utilities and marginals are known: the same numbers, but nothing proved without constants from the user."""
    entry = zoo.GAMES["boundary_pairwise"]()
    game, W = entry.game(), draw(rng, entry.spec.shape)
    known, found = jg.certify(game, W), jg.certify(Opaque(game), W)
    np.testing.assert_allclose(found.exploitability, known.exploitability, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.gap, known.gap, rtol=1e-12)
    np.testing.assert_allclose(found.monotonicity, known.monotonicity, rtol=1e-10)
    assert found.local and not found.unique and float(found.distance) == np.inf and "at this profile" in found.message
    c, L = ref.constants(entry.spec.affine[0], entry.spec.shape)
    told = jg.certify(Opaque(game), W, monotonicity=0.9 * c, lipschitz=1.1 * L)
    truth = np.linalg.norm(W - entry.solution)
    assert told.unique and not told.local
    assert truth <= float(told.distance) <= 10 * L / c * truth
    assert truth <= float(jg.certify(Opaque(game), W, monotonicity=0.9 * c).distance) < np.inf


# --- proofs ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["boundary_pairwise", "directed_network", "condition_10_nonsymmetric"])
def test_error_bound(name, rng):
    """Never below the distance to the known equilibrium, and of its order where the game is well conditioned."""
    entry = zoo.GAMES[name]()
    spec, game = entry.spec, entry.game()
    c, L = ref.constants(spec.affine[0], spec.shape)
    for size in (0.0, 1e-12, 1e-8, 1e-4, 1e-1, 1.0):
        for _ in range(4):
            W = (1 - size) * entry.solution + size * draw(rng, spec.shape)
            W = W / W.sum(axis=1, keepdims=True)
            truth, bound = np.linalg.norm(W - entry.solution), float(jg.certify(game, W).distance)
            assert truth <= bound
            if size >= 1e-8:
                assert bound <= 10 * (1 + L / c) * truth


def test_error_bound_at_an_interior_profile(rng):
    """Where no constraint is active the bound is the norm of the map over c, which is attained."""
    spec = ref.Quadratic(0.1 * rng.normal(size=(3, 4)), 2.0, ref.MeanField(np.zeros((4, 4))))
    W = np.array([ref.project(b / 2) for b in spec.linear])
    V = W + 1e-3 * rng.normal(size=W.shape)
    V = V / V.sum(axis=1, keepdims=True)
    truth = np.linalg.norm(V - W)
    assert truth <= float(jg.certify(zoo.to_game(spec), V).distance) <= 1.01 * truth


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_the_unit_of_utility_is_irrelevant(scale, rng):
    for name in ("boundary_pairwise", "quadratic_agents_nash", "strong_conformism", "convex_utilities"):
        entry = zoo.GAMES[name]()
        W = draw(rng, entry.spec.shape)
        one, other = jg.certify(entry.game(), W), jg.certify(zoo.to_game(entry.spec.scaled(scale)), W)
        for field in ("residual", "distance", "weights"):
            np.testing.assert_allclose(getattr(other, field), getattr(one, field), rtol=1e-9, err_msg=field)
        for field in ("exploitability", "gap", "monotonicity", "lipschitz"):
            np.testing.assert_allclose(getattr(other, field) / scale, getattr(one, field), rtol=1e-9, err_msg=field)
        assert (one.unique, one.concave) == (other.unique, other.concave)
        assert float(one.residual) > 1e-3


def test_residual_is_that_of_the_theory(rng):
    """σ with the exact L, in numpy."""
    for name in ("boundary_centroid", "quadratic_agents_network", "zero_kernel"):
        spec = zoo.GAMES[name]().spec
        W = draw(rng, spec.shape)
        sigma = ref.scale(spec.game_map, spec.shape, ref.constants(spec.affine[0], spec.shape)[1])
        expected = ref.residual(spec.game_map(W), W, sigma)
        np.testing.assert_allclose(jg.certify(zoo.to_game(spec), W).residual, expected, rtol=1e-11)


def test_rosens_weights_prove_more(rng):
    """Unequal δ_i: not monotone as it is, strongly monotone with weights, which numpy confirms; one equilibrium."""
    delta = np.array([0.02, 0.03, 2.4, 0.02, 0.05, 0.04])
    spec = ref.random_alignment(rng, 6, 2, consistency=0.5, diversity=delta, attractiveness=0.3)
    M = spec.affine[0]
    found = jg.certify(zoo.to_game(spec), ref.vi_solution(*spec.affine, spec.shape))
    assert ref.constants(M, spec.shape)[0] < 0 and float(found.monotonicity) < 0
    assert found.unique and found.concave and float(found.distance) == np.inf
    weights = np.asarray(found.weights)
    assert weights.min() > 0 and weights.max() > weights.min() and "Rosen" in found.message
    assert ref.constants(np.repeat(weights, 2)[:, None] * M, spec.shape)[0] > 0
    assert len(ref.all_equilibria(*spec.affine, spec.shape)) == 1


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_a_proof_of_uniqueness_is_never_wrong(seed, network):
    """In tiny games all equilibria can be enumerated: where one is proved there is one; the weights are a proof."""
    rng = np.random.default_rng(seed)
    n, D = 3, 2
    options = dict(weights=ref.random_network(rng, n)) if network else {}
    spec = ref.random_alignment(
        rng, n, D, diversity=rng.uniform(-2, 2, n), consistency=rng.uniform(0.1, 1.5, n), attractiveness=0.3, **options
    )
    found = jg.certify(zoo.to_game(spec), np.full((n, D), 1 / D))
    weights = np.asarray(found.weights)
    c = ref.constants(np.repeat(weights, D)[:, None] * spec.affine[0], spec.shape)[0]
    assert found.unique is bool(c > 0) or abs(c) < 1e-12
    if found.unique:
        assert len(ref.all_equilibria(*spec.affine, spec.shape)) == 1
    else:
        assert np.array_equal(weights, np.ones(n))


@pytest.mark.parametrize(
    "name", ["many_equilibria", "strong_conformism", "coordination", "identical_groups", "nothing_at_all"]
)
def test_several_equilibria_are_never_called_unique(name):
    entry = zoo.GAMES[name]()
    found = jg.certify(entry.game(), np.full(entry.spec.shape, 1 / entry.spec.shape[1]))
    assert not found.unique and float(found.distance) == np.inf and "not proved" in found.message


@pytest.mark.parametrize("name", ["matching_pennies", "rock_paper_scissors"])
def test_merely_monotone_games_prove_nothing(name):
    """Their smallest eigenvalue is zero: rounding must not turn it into a proof."""
    entry = zoo.GAMES[name]()
    for scale in (1.0, 1e-7, 3e5):
        found = jg.certify(zoo.to_game(entry.spec.scaled(scale)), entry.solution)
        assert not found.unique and found.concave and float(found.distance) == np.inf
        assert abs(float(found.monotonicity)) <= 1e-14 * float(found.lipschitz)


def test_at_the_boundary_of_uniqueness(rng):
    """γ = δ/(n − 1): c is zero but for rounding; a hair to either side it is not."""
    n, D = 4, 3
    K, T = ref.random_kernel(rng, D), rng.dirichlet(np.ones(D), n)
    for gamma, expected in ((1.0, False), (1.0 + 1e-9, True), (1.0 - 1e-9, False)):
        game = jg.AlignmentGame(T, K, np.zeros(D), consistency=gamma, diversity=3.0)
        assert jg.certify(game, T).unique is expected


def test_one_agent_and_one_group():
    for name, unique in (("one_agent", True), ("one_group", True), ("one_agent_one_group", True)):
        entry = zoo.GAMES[name]()
        found = jg.certify(entry.game(), entry.solution)
        assert found.unique is unique and found.concave
        assert float(found.exploitability.max()) < 1e-14
        if entry.spec.shape[1] == 1:
            assert float(found.monotonicity) == np.inf
            assert [float(x) for x in (found.lipschitz, found.distance, found.residual)] == [0, 0, 0]
    linear = jg.QuadraticGame(np.array([[1.0, 0.0]]), 0.0, coupling=jg.MeanField(np.zeros((2, 2))))
    assert not jg.certify(linear, np.array([[1.0, 0.0]])).unique


# --- the interface --------------------------------------------------------------------------------
def test_an_equilibrium_is_as_good_as_its_profile():
    game = zoo.GAMES["boundary_pairwise"]().game()
    equilibrium = jg.solve(game)
    one, other = jg.certify(game, equilibrium), jg.certify(game, np.asarray(equilibrium.profile))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
    assert isinstance(one, jg.Certificate) and one.unique is True and one.concave is True
    assert float(one.residual) < 1e-14 and "unique" in one.message and "within" in one.message


def test_messages_of_solve_admit_what_is_not_proved():
    assert "Not proved" not in jg.solve(zoo.GAMES["boundary_pairwise"]().game()).message
    for name in ("strong_conformism", "cubic_cost"):
        assert "Not proved to be the only equilibrium" in jg.solve(zoo.GAMES[name]().game()).message


def test_bad_arguments(rng):
    game = zoo.GAMES["boundary_pairwise"]().game()
    W = np.full((4, 3), 1 / 3)
    with pytest.raises(ValueError, match=r"profile has shape \(3, 3\)"):
        jg.certify(game, W[:3])
    with pytest.raises(ValueError, match=r"profile\[1\] sums to"):
        jg.certify(game, W + 0.1 * np.eye(4)[:, [1]])
    with pytest.raises(ValueError, match=r"profile\[2, 0\] is -0.5"):
        jg.certify(game, np.where(np.arange(4)[:, None] == 2, [-0.5, 1.0, 0.5], W))
    with pytest.raises(ValueError, match=r"profile\[0, 0\] is nan"):
        jg.certify(game, W * np.nan)
    with pytest.raises(ValueError, match="concrete"):
        jax.jit(lambda w: jg.certify(game, w).residual)(W)
    with pytest.raises(ValueError, match="concrete"):
        jax.jit(lambda g: jg.certify(g, W).residual)(game)
    c, L = (float(x) for x in ref.constants(zoo.GAMES["boundary_pairwise"]().spec.affine[0], (4, 3)))
    for bad in (1.1 * c, np.nan, np.inf):
        with pytest.raises(ValueError, match="monotonicity is"):
            jg.certify(game, W, monotonicity=bad)
    for bad in (0.9 * L, 0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="lipschitz is"):
            jg.certify(game, W, lipschitz=bad)


@pytest.mark.float32
@pytest.mark.parametrize(
    "name", ["boundary_pairwise", "quadratic_diagonals_nash", "directed_network", "convex_utilities"]
)
def test_precision_of_the_game(name, dtype, rng):
    """The dtype of the game throughout; numbers and bounds as good as it allows."""
    entry = zoo.GAMES[name]()
    spec, game = entry.spec, entry.game(dtype)
    eps = float(np.finfo(dtype).eps)
    c, L = ref.constants(spec.affine[0], spec.shape)
    W = draw(rng, spec.shape).astype(dtype)
    for profile in [W] if entry.solution is None else [W, entry.solution.astype(dtype)]:
        found = jg.certify(game, profile)
        for field in ("residual", "exploitability", "gap", "monotonicity", "lipschitz", "distance", "weights"):
            assert getattr(found, field).dtype == dtype, field
        np.testing.assert_allclose([found.monotonicity, found.lipschitz], [c, L], atol=50 * eps * L)
        wide = profile.astype(float)
        wide = wide / wide.sum(axis=1, keepdims=True)
        expected = [best_gain(alone(spec, wide, i), wide[i]) for i in range(len(W))]
        stakes = np.abs(spec.game_map(wide)).max()
        np.testing.assert_allclose(found.exploitability, expected, atol=100 * eps * stakes)
        assert bool((found.exploitability <= found.gap).all())
        assert found.unique is entry.unique and bool(found.exact.all())
        if entry.unique:
            assert np.linalg.norm(wide - entry.solution) <= float(found.distance)
    if entry.unique:
        assert float(found.distance) < 1e4 * eps * L / c


@pytest.mark.float32
def test_a_curvature_that_cancels_is_not_negative(dtype, rng):
    """γ_i = 0: linear utilities, whatever rounding leaves of the own part of the mean."""
    for n in (3, 7, 10):
        game = jg.AlignmentGame(
            jnp.asarray(rng.dirichlet(np.ones(3), n), dtype),
            jnp.asarray(ref.random_kernel(rng, 3), dtype),
            jnp.asarray(rng.normal(size=(n, 3)), dtype),
            consistency=0.0,
            diversity=jnp.asarray(rng.uniform(0.1, 0.9, n), dtype),
        )
        W = draw(rng, (n, 3)).astype(dtype)
        found = jg.certify(game, W)
        slack = np.asarray(game.marginals(jnp.asarray(W)))
        slack = slack.max(axis=1, keepdims=True) - slack
        assert found.concave and bool(found.exact.all())
        np.testing.assert_allclose(found.exploitability, (W * slack).sum(axis=1), rtol=100 * float(np.finfo(dtype).eps))


def without_curvature(value, mixture, others):
    return value @ mixture


@pytest.mark.float32
@pytest.mark.parametrize("kind", ["concave", "quadratic"])
def test_linear_utilities_are_concave(kind, dtype, rng):
    """A curvature that is zero throughout: the best response is the best group."""
    value, W = jnp.asarray(rng.normal(size=(4, 3)), dtype), draw(rng, (4, 3)).astype(dtype)
    if kind == "concave":
        game = jg.ConcaveGame(without_curvature, value, 3)
    else:
        game = jg.QuadraticGame(value, jnp.zeros((4, 3, 3), dtype), coupling=jg.MeanField(jnp.zeros((3, 3), dtype)))
    found = jg.certify(game, W)
    gain = np.asarray(value).max(axis=1) - (np.asarray(value) * W).sum(axis=1)
    assert found.concave
    np.testing.assert_allclose(found.gap, gain, rtol=100 * float(np.finfo(dtype).eps))
    np.testing.assert_allclose(found.exploitability, gain, rtol=1e4 * float(np.finfo(dtype).eps))


@pytest.mark.slow
def test_a_hundred_thousand_agents(rng):
    """Through the aggregate, without anything n × n: constants by formula, gains of some agents by enumeration."""
    n, D = 100_000, 8
    spec = ref.Alignment(
        rng.dirichlet(np.ones(D), n), ref.random_kernel(rng, D), rng.normal(size=(n, D)), 0.5, 1.0, 0.3
    )
    W = rng.dirichlet(np.ones(D), n)
    found = jg.certify(zoo.to_game(spec), W)
    k = np.linalg.eigvalsh(ref.tangent_basis(D).T @ spec.kernel @ ref.tangent_basis(D))
    np.testing.assert_allclose(found.monotonicity, (1 - 0.3 / (n - 1)) * k[0], rtol=1e-11)
    np.testing.assert_allclose(found.lipschitz, 1.3 * k[-1], rtol=1e-11)
    assert found.unique and not found.numerical and bool(found.exact.all())
    total = W.sum(axis=0)
    for i in rng.integers(n, size=5):
        # the utility with the others' mean as a number, so that n does not matter
        seen = (total - W[i]) / (n - 1)
        pair = ref.Alignment(
            spec.targets[[i, i]],
            spec.kernel,
            spec.appeal[[i, i]],
            0.5,
            1.0,
            0.3,
            weights=np.array([[0, 1.0], [1.0, 0]]),
        )
        utility = alone(pair, np.array([W[i], seen]), 0)
        np.testing.assert_allclose(found.exploitability[i], best_gain(utility, W[i]), atol=1e-11)
