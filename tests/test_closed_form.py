"""Closed forms against formulas of theory §3 evaluated in numpy, and against the optimality conditions."""

import numpy as np
import pytest

import jaxgame as jg


def kernel(rng, n_groups):
    X = rng.normal(size=(n_groups, n_groups))
    return X @ X.T / n_groups + 0.5 * np.eye(n_groups)


def tangent_solution(K, x):
    """c_K(x) of theory §3 through a basis of the tangent space."""
    Z = np.linalg.svd(np.ones((1, len(K))))[2][1:].T
    return Z @ np.linalg.solve(Z.T @ K @ Z, Z.T @ x)


def interior(rng, n, n_groups, **options):
    targets = 0.9 / n_groups + 0.1 * rng.dirichlet(np.ones(n_groups), size=n)
    return jg.AlignmentGame(
        targets, kernel(rng, n_groups), 0.05 * rng.normal(size=(n, n_groups)), attractiveness=0.4, **options
    )


@pytest.mark.parametrize("form", ["pairwise", "centroid"])
def test_heterogeneous_interior_population(rng, form):
    n, n_groups, gamma, delta = 6, 4, 1.3, 0.2
    game = interior(rng, n, n_groups, consistency=gamma, diversity=delta, diversity_form=form)
    K, T, A = (np.asarray(x) for x in (game.kernel, game.targets, game.appeal))
    found = np.asarray(jg.closed_form(game).profile)
    if form == "centroid":
        mean = T.mean(0) + 0.4 / gamma * tangent_solution(K, A.mean(0))
        scale = gamma - delta * n / (n - 1)
    else:
        Z = np.linalg.svd(np.ones((1, n_groups)))[2][1:].T
        right = gamma * K @ T.mean(0) + 0.4 * A.mean(0) + delta / 2 * np.diag(K)
        flat = np.full(n_groups, 1 / n_groups)
        right = right - (gamma + delta) * K @ flat
        mean = flat + Z @ np.linalg.solve((gamma + delta) * Z.T @ K @ Z, Z.T @ right)
        scale = gamma - delta / (n - 1)
    apart = np.array(
        [gamma * (t - T.mean(0)) + 0.4 * tangent_solution(K, a - A.mean(0)) for t, a in zip(T, A, strict=True)]
    )
    np.testing.assert_allclose(found, mean + apart / scale, atol=1e-12)


@pytest.mark.parametrize("appeal", [0.1, 3.0])
def test_two_groups_up_to_the_boundary(appeal):
    rho, alpha, gamma, delta, t = 0.3, 0.7, 1.1, 0.4, np.array([0.6, 0.4])
    game = jg.AlignmentGame(
        np.tile(t, (5, 1)),
        np.array([[1, rho], [rho, 1]]),
        np.array([appeal, 0.0]),
        attractiveness=alpha,
        consistency=gamma,
        diversity=delta,
        consistency_metric="mixture",
    )
    expected = np.clip(0.5 + (gamma * (t[0] - t[1]) + alpha * appeal) / (2 * (gamma + delta * (1 - rho))), 0, 1)
    np.testing.assert_allclose(np.asarray(jg.closed_form(game).profile)[:, 0], expected, atol=1e-13)


def test_interior_that_is_none_names_agent_and_group(rng):
    game = interior(rng, 4, 3, diversity=0.3).replace(appeal=np.array([50.0, 0.0, -50.0]))
    with pytest.raises(ValueError, match=r"agent \d.*group \d|group \d.*agent \d"):
        jg.closed_form(game)


def test_support_by_one_linear_solve(rng):
    game = interior(rng, 4, 3).replace(appeal=rng.normal(size=(4, 3)))
    equilibrium = jg.solve(game)
    again = jg.closed_form(game, support=np.asarray(equilibrium.profile) > 0)
    np.testing.assert_allclose(again.profile, equilibrium.profile, atol=1e-12)
    marginals = np.asarray(game.marginals(again.profile))
    assert (np.asarray(again.profile) * (marginals.max(1, keepdims=True) - marginals)).max() < 1e-12
    with pytest.raises(ValueError):
        jg.closed_form(game, support=np.asarray(equilibrium.profile) == np.asarray(equilibrium.profile).max(1)[:, None])
