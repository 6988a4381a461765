"""The linear system behind every step: what `factorise` returns satisfies it, multipliers included."""

import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import jaxgame as jg
from jaxgame.games import linearise
from jaxgame.solvers import kkt, own_blocks

NAMES = ["heterogeneous_pairwise", "quadratic_scalar_nash", "quadratic_scaled_nash", "directed_network", "concave_mean"]


@pytest.mark.parametrize("name", NAMES)
def test_system_is_satisfied(name, rng):
    game = zoo.GAMES[name]().game()
    assert_satisfied(game, rng.random((game.n_agents, game.n_groups)) < 0.6, rng)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("curvature", ["scaled", "dense"])
def test_faces_of_all_sizes_in_several_blocks(curvature, kept, monkeypatch, rng):
    """Blocks of small faces are inverted at less than D, in another order of the agents."""
    monkeypatch.setattr(own_blocks, "KEPT", 2**25 if kept else 0)
    n, D = 300, 9
    matrices = rng.normal(size=(n, D, D))
    matrices = np.eye(D) + matrices @ np.swapaxes(matrices, 1, 2)
    own = jg.Scaled(rng.uniform(0.5, 2, n), matrices[0]) if curvature == "scaled" else matrices
    game = jg.QuadraticGame(
        rng.normal(size=(n, D)), own, coupling=jg.MeanField(np.eye(D) + rng.normal(size=(D, D)) / 9)
    )
    assert_satisfied(game, rng.random((n, D)) < rng.random((n, 1)), rng)


def assert_satisfied(game, face, rng):
    """(J x)_id + θ_id x_id + μ_i = rhs_id on the face, x = 0 off it, Σ_d x_id = total_i; J by matrix products."""
    n, D = face.shape
    affine = linearise(game, jnp.full((n, D), 1 / D))
    face[np.arange(n), rng.integers(0, D, n)] = True
    theta, rhs, total = 0.1 + rng.random((n, D)), rng.normal(size=(n, D)), rng.normal(size=n)
    solve = kkt.factorise(affine, jnp.asarray(theta), jnp.asarray(face))
    x, mu = (np.asarray(part) for part in solve(jnp.asarray(rhs), jnp.asarray(total)))
    left = np.asarray(affine.apply(jnp.asarray(x))) + theta * x + mu[:, None] - rhs
    size = np.abs(np.asarray(affine.apply(jnp.asarray(x)))).max() + np.abs(rhs).max()
    assert np.abs(left[face]).max() < 1e-12 * size
    assert (x[~face] == 0).all()
    np.testing.assert_allclose(x.sum(1), total, atol=1e-12)
