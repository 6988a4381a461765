"""The derivative of an equilibrium, from its optimality conditions alone (theory §7)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxgame.games import linearise
from jaxgame.solvers import kkt


def profile_tangent(game: Any, change: Any, profile: Array) -> Array:
    """dW (n, D) for a tangent `change` of the game: P J dW = −P dF with W held in F, on the tangent of the active
    faces.

    Knows nothing of the solver. At a kink (w_id = ν_id = 0) the group counts as off the face: an element of the
    conservative Jacobian (Bolte et al. 2021). Not finite where the game is singular on the face.
    """
    _, direct = jax.jvp(lambda g: g.marginals(profile), (game,), (change,))
    solve = kkt.factorise(linearise(game, profile), jnp.zeros_like(profile), profile > 0)
    tangent, _ = solve(direct, jnp.zeros_like(profile[:, 0]))
    return tangent
