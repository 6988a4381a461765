"""probe: every equilibrium of small games that numpy can enumerate, and who stays where, by following the dynamics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import zoo

import jaxgame as jg

FIELDS = ("profiles", "representations", "counts", "residuals", "gaps", "exploitability", "growth", "stability")


def conformists():
    """Three agents who like to agree, δ < 0: everyone at one group, or mixed; seven equilibria."""
    return ref.Alignment(np.tile([[0.4, 0.35, 0.25]], (3, 1)), np.eye(3), np.array([0.1, 0.0, 0.05]), 0.3, 1.0, -2.5)


def follow(spec, W, steps=20_000, step=2e-3):
    """Explicit Euler steps of ẇ = Π_T(−F(w)), the projection after each of them."""
    for _ in range(steps):
        F = spec.game_map(W)
        W = np.array([ref.project(w - step * f) for w, f in zip(W, F, strict=True)])
    return W


def match(W, among):
    distances = [np.abs(W - V).max() for V in among]
    return int(np.argmin(distances)), min(distances)


@pytest.mark.slow
def test_all_equilibria_of_a_game_of_conformists():
    """The ones that the enumeration of supports finds, no more and no less, and all unstable ones among them."""
    for spec in (conformists(), zoo.GAMES["strong_conformism"]().spec):
        M, q = spec.affine
        exact = ref.all_equilibria(M, q, spec.shape)
        found = jg.probe(zoo.to_game(spec))
        assert len(found.counts) == len(exact) > 3
        assert sorted(match(np.asarray(W), exact)[0] for W in found.profiles) == list(range(len(exact)))
        assert max(match(np.asarray(W), exact)[1] for W in found.profiles) < 1e-12
        assert bool(found.equilibria.all()) and float(found.residuals.max()) < 1e-14
        assert float(found.exploitability.max()) < 1e-14 and float(found.gaps.max()) < 1e-13
        assert int(found.counts.sum()) + found.failed == found.runs == 64
        assert bool((found.counts[:-1] >= found.counts[1:]).all())
        np.testing.assert_allclose(found.representations, found.profiles.mean(axis=1), atol=1e-15)
        text = f"{len(exact)} distinct equilibria"
        assert text in found.message and "Others may exist" in found.message


@pytest.mark.slow
def test_stability_is_what_the_dynamics_do(rng):
    """From a small push agents come back to the stable ones and end elsewhere, at a stable one, from the unstable."""
    spec = conformists()
    found = jg.probe(zoo.to_game(spec))
    profiles, stability = np.asarray(found.profiles), np.asarray(found.stability)
    assert (stability == 1).any() and (stability == -1).any() and not (stability == 0).any()
    for k, W in enumerate(profiles):
        pushed = np.array([ref.project(w) for w in W + 1e-3 * rng.normal(size=W.shape)])
        end, distance = match(follow(spec, pushed), profiles)
        assert distance < 1e-6 and stability[end] == 1
        assert (end == k) == (stability[k] == 1)


def test_growth_is_the_rate_of_the_dynamics():
    """Near an unstable interior equilibrium a push grows as exp(growth · t)."""
    B = np.zeros((2, 2, 2, 2))
    B[0, 1] = B[1, 0] = -np.eye(2)
    spec = ref.Quadratic(np.zeros((2, 2)), 0.25, ref.Dense(B))
    game, half = zoo.to_game(spec), np.full((2, 2), 0.5)
    # on the tangent, U_i = 2 x_i x_j - x_i²/4 with w_i = (½ + x_i, ½ - x_i): ẋ = ½ ∂U/∂x has eigenvalues ±1 - ¼
    found = jg.probe(game, starts=8)
    k, distance = match(half, np.asarray(found.profiles))
    assert distance < 1e-14 and int(found.stability[k]) == -1
    np.testing.assert_allclose(found.growth[k], 0.75, rtol=1e-12)
    pushed = half + 1e-6 * np.array([[1, -1], [1, -1]])
    grown = np.abs(follow(spec, pushed, steps=1000, step=1e-3) - half).max() / 1e-6
    np.testing.assert_allclose(np.log(grown), 0.75, rtol=2e-3)
    pure = [k for k in range(len(found.counts)) if float(found.growth[k]) == -np.inf]
    assert len(pure) == 2 and all(int(found.stability[k]) == 1 for k in pure)


def test_newton_finds_what_first_order_methods_leave():
    """Started next to the unstable equilibrium Newton's method ends there; extragradient steps do not."""
    spec = conformists()
    game = zoo.to_game(spec)
    found = jg.probe(game)
    unstable = np.flatnonzero(np.asarray(found.stability) == -1)
    interior = [k for k in unstable if float(found.profiles[k].min()) > 0]
    assert interior
    W = found.profiles[interior[0]]
    near = 0.999 * W + 0.001 * jnp.asarray([0.6, 0.2, 0.2])[None]
    np.testing.assert_allclose(jg.solve(game, jg.Newton(), init=near).profile, W, atol=1e-12)
    left = jg.solve(game, jg.Extragradient(), init=near, tol=1e-12).profile
    assert float(jnp.abs(left - W).max()) > 1e-2
    slow = jg.probe(game, starts=6, solver=jg.Extragradient())
    assert slow.runs == 6 and match(np.asarray(left), np.asarray(slow.profiles))[1] < 1e-6


def test_a_unique_equilibrium_is_found_once():
    entry = zoo.GAMES["boundary_pairwise"]()
    found = jg.probe(entry.game(), starts=10)
    assert found.profiles.shape == (1, 4, 3) and int(found.counts[0]) == found.runs == 20 and found.failed == 0
    np.testing.assert_allclose(found.profiles[0], entry.solution, atol=1e-12)
    assert int(found.stability[0]) == 1 and float(found.growth[0]) < 0


@pytest.mark.slow
def test_kinks():
    """Weak complementarity: stable where the map is strongly monotone around, else undetermined."""
    entry = zoo.GAMES["kink"]()
    found = jg.probe(entry.game(), starts=4)
    assert len(found.counts) == 1 and int(found.stability[0]) == 1  # curvature 1 on the larger face, too
    flat = zoo.GAMES["nothing_at_all"]()
    found = jg.probe(flat.game(), starts=5)
    assert not np.asarray(found.stability).any() and "undetermined" in found.message


def test_stationary_profiles_that_are_no_equilibria():
    """With convex utilities a vertex can be stationary while another is better: told apart by exact best responses."""
    spec = zoo.GAMES["convex_utilities"]().spec
    found = jg.probe(zoo.to_game(spec))
    assert 0 < int(found.equilibria.sum()) < len(found.counts) and "no equilibria" in found.message
    for W, is_equilibrium in zip(np.asarray(found.profiles), np.asarray(found.equilibria), strict=True):
        # utilities are convex in the own mixture: the best response is a vertex
        best = [
            max(spec.utilities(np.where(np.arange(len(W))[:, None] == i, e, W))[i] for e in np.eye(3))
            for i in range(len(W))
        ]
        assert is_equilibrium == (np.max(best - spec.utilities(W)) < 1e-9)


class Idle:
    """A solver that stays where it is."""

    def init(self, game, profile):
        return profile

    def step(self, game, state):
        return state


def test_runs_that_fail_are_counted():
    found = jg.probe(zoo.GAMES["boundary_pairwise"]().game(), starts=7, solver=Idle())
    assert found.failed == found.runs == 7 and found.profiles.shape == (0, 4, 3)
    assert all(len(getattr(found, field)) == 0 for field in FIELDS)
    assert "0 distinct equilibria" in found.message and "7 runs did not converge" in found.message


@pytest.mark.slow
def test_seeds_and_tolerance():
    """The same seed gives the same answer; with a tolerance as wide as the simplex everything is one."""
    game = zoo.to_game(conformists())
    one, same, wide = jg.probe(game, starts=9), jg.probe(game, starts=9), jg.probe(game, starts=9, tolerance=0.999)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(wide.counts) < len(one.counts)


@pytest.mark.parametrize("bad", [0, -3, 1.5, True, "many"])
def test_bad_starts(bad):
    with pytest.raises(ValueError, match="starts is"):
        jg.probe(zoo.to_game(conformists()), starts=bad)


@pytest.mark.parametrize("bad", [0.0, -1e-3, 1.0, np.nan])
def test_bad_tolerance(bad):
    with pytest.raises(ValueError, match="tolerance is"):
        jg.probe(zoo.to_game(conformists()), tolerance=bad)


@pytest.mark.float32
def test_precision(dtype):
    """All numbers in the precision of the game, and the same equilibria in single precision."""
    spec = conformists()
    found = jg.probe(zoo.to_game(spec, dtype))
    exact = ref.all_equilibria(*spec.affine, spec.shape)
    for field in ("profiles", "representations", "residuals", "gaps", "exploitability", "growth"):
        assert getattr(found, field).dtype == dtype, field
    assert len(found.counts) == len(exact)
    assert max(match(np.asarray(W, float), exact)[1] for W in found.profiles) < 1e3 * float(np.finfo(dtype).eps)
