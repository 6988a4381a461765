"""Large populations of concave utilities that meet through a mean: in blocks, in a few passes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgame as jg
from jaxgame import solving
from jaxgame.solvers import crowd, settle, sizes

N, D = 300, 4


@pytest.fixture
def small(monkeypatch):
    """Populations are large from one number on, of several blocks, and sampled."""
    monkeypatch.setattr(settle, "POPULOUS", 1)
    monkeypatch.setattr(settle, "LEAST", 64)
    monkeypatch.setattr(sizes, "CORES", dataclasses.replace(sizes.CORES, lot=40, last=40))
    jax.clear_caches()
    yield
    jax.clear_caches()


def saturating(p, mixture, others):
    """Attention that saturates, a crowd that costs, and effort that grows steeply."""
    return p["a"] @ mixture - p["q"] * jnp.exp(2 * mixture).sum() - 0.5 * mixture @ others - (mixture**4).sum()


def convex(p, mixture, others):
    return p["a"] @ mixture + (p["q"] + 4) * (mixture**2).sum() - mixture @ others


def exploring(p, mixture, others):
    """Infinitely steep at the boundary, where its value is finite."""
    return p["a"] @ mixture + 2 * jax.scipy.special.entr(mixture).sum() - mixture @ others


def bilinear(p, mixture, others):
    """Agents that have no curvature of their own, but for what is added."""
    return p["a"] @ mixture - mixture @ others - 0.5 * p["q"] * (mixture**2).sum()


def population(rng, dtype, utility=saturating):
    params = dict(a=3 * rng.normal(size=(N, D)), q=rng.uniform(0.2, 0.6, N))
    return jg.ConcaveGame(utility, jax.tree.map(lambda x: np.asarray(x, dtype), params), D)


def residual(game, profile):
    """The natural residual with unit step, in float64 and numpy."""
    w = np.asarray(profile, np.float64)
    a, q = (np.asarray(game.params[name], np.float64) for name in "aq")
    others = (w.sum(0) - w) / (N - 1)
    ahead = w + a - 2 * q[:, None] * np.exp(2 * w) - 0.5 * others - 4 * w**3
    ordered = -np.sort(-ahead, 1)
    levels = (np.cumsum(ordered, 1) - 1) / np.arange(1, D + 1)
    level = levels[np.arange(N), (ordered > levels).sum(1) - 1]
    return np.abs(w - np.maximum(ahead - level[:, None], 0)).max()


@pytest.mark.float32
def test_crowd(small, rng, dtype):
    game = population(rng, dtype)
    assert crowd.is_crowd(game)
    found = jg.solve(game, history=True)
    assert bool(found.converged), found.message
    assert found.profile.dtype == dtype
    assert residual(game, found.profile) <= (1e-10 if dtype == np.float64 else 3e-5)
    assert found.history is not None and found.history[-1] == found.residual
    assert 2 <= int(found.steps) <= 8
    np.testing.assert_allclose(found.representation, found.profile.mean(0), atol=20 * np.finfo(dtype).eps)
    assert 0.2 < float((found.profile == 0).mean()) < 0.8
    if dtype == np.float64:
        # Steps on whole profiles, a solver that has nothing in common with it.
        dense = jg.solve(game, jg.Newton())
        np.testing.assert_allclose(found.profile, dense.profile, atol=1e-10)
        assert float(found.gap) <= 1e-8
        np.testing.assert_allclose(found.gap, jg.certify(game, found).gap.max(), atol=1e-13)


@pytest.mark.parametrize("utility", [exploring, bilinear])
def test_crowd_needs_no_other_solver(utility, small, rng, monkeypatch):
    monkeypatch.setattr(solving, "_stepwise", lambda *_: pytest.fail("another solver took over"))
    found = jg.solve(population(rng, np.float64, utility))
    assert bool(found.converged), found.message
    if utility is exploring:  # the equilibrium is a softmax of what agents meet
        a, w = np.asarray(found.game.params["a"]), np.asarray(found.profile)
        scores = (a - (w.sum(0) - w) / (N - 1)) / 2
        soft = np.exp(scores - scores.max(1, keepdims=True))
        np.testing.assert_allclose(w, soft / soft.sum(1, keepdims=True), atol=1e-9)


def test_crowd_has_a_derivative(small, rng):
    game = population(rng, np.float64)
    direction = rng.normal(size=(N, D))

    def shown(a):
        return jg.solve(game.replace(params=game.params | dict(a=a)), tol=1e-13).representation[0]

    a, step = game.params["a"], 1e-5
    slope = (shown(a + step * direction) - shown(a - step * direction)) / (2 * step)
    np.testing.assert_allclose((jax.grad(shown)(a) * direction).sum(), slope, rtol=1e-5)


def test_crowd_starts_and_stops_where_it_is_told(small, rng):
    game = population(rng, np.float64)
    found = jg.solve(game)
    near = jg.solve(game, init=found.profile)
    assert bool(near.converged)
    np.testing.assert_allclose(near.profile, found.profile, atol=1e-10)
    few = jg.solve(game, max_steps=1)
    assert not bool(few.converged) and int(few.status) == 1 and int(few.steps) == 1
    np.testing.assert_allclose(few.profile.sum(1), 1, atol=1e-14)
    jitted = jax.jit(jg.solve)(game)
    np.testing.assert_allclose(jitted.profile, found.profile, atol=1e-12)


def test_crowd_of_convex_utilities_is_certified_by_no_gap(small, rng):
    """Best responses are vertices; that no one gains more than the slopes say is not proved."""
    found = jg.solve(population(rng, np.float64, convex), max_steps=20)
    assert not np.isfinite(found.gap)
