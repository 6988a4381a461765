"""The linear system behind every step: what `factorise` returns satisfies it, multipliers included."""

import jax.numpy as jnp
import numpy as np
import pytest
import zoo

from jaxgame.games import linearise
from jaxgame.solvers import kkt

NAMES = ["heterogeneous_pairwise", "quadratic_scalar_nash", "quadratic_scaled_nash", "directed_network", "concave_mean"]


@pytest.mark.parametrize("name", NAMES)
def test_system_is_satisfied(name, rng):
    """(J x)_id + θ_id x_id + μ_i = rhs_id on the face, x = 0 off it, Σ_d x_id = total_i; J by matrix products."""
    game = zoo.GAMES[name]().game()
    n, D = game.n_agents, game.n_groups
    affine = linearise(game, jnp.full((n, D), 1 / D))
    face = rng.random((n, D)) < 0.6
    face[np.arange(n), rng.integers(0, D, n)] = True
    theta, rhs, total = 0.1 + rng.random((n, D)), rng.normal(size=(n, D)), rng.normal(size=n)
    solve = kkt.factorise(affine, jnp.asarray(theta), jnp.asarray(face))
    x, mu = (np.asarray(part) for part in solve(jnp.asarray(rhs), jnp.asarray(total)))
    left = np.asarray(affine.apply(jnp.asarray(x))) + theta * x + mu[:, None] - rhs
    size = np.abs(np.asarray(affine.apply(jnp.asarray(x)))).max() + np.abs(rhs).max()
    assert np.abs(left[face]).max() < 1e-12 * size
    assert (x[~face] == 0).all()
    np.testing.assert_allclose(x.sum(1), total, atol=1e-12)
