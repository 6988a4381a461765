"""The certified bound on what an agent can gain, and the concavity that it rests on (theory §1)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jaxgame.games import linearise
from jaxgame.games.affine import Blocks


def gaps(game: Any, profile: Array, marginals: Array, concave: Array) -> Array:
    """max_d g_id − ⟨g_i, w_i⟩ ≥ the gain of agent i's best response, (n,); ∞ where the utility is not concave."""
    slack = marginals.max(1, keepdims=True) - marginals
    return jnp.where(concave, (profile * slack).sum(1), jnp.inf)


def concave_agents(game: Any, profile: Array) -> Array:
    """Whether each agent's utility is concave on the simplex, (n,) bool; for utilities that are not quadratic: at `profile`.

    Up to rounding: an eigenvalue above −10·D·eps of the largest counts as zero.
    """
    own = linearise(game, profile).own_curvature()
    shape = profile.shape
    floor = -10 * shape[1] * jnp.finfo(profile.dtype).eps
    if own.dense is not None:
        return _exact(own, shape, floor)
    # Weyl's inequality settles most games with one eigenvalue problem a matrix instead of one an agent.
    lowest = jnp.broadcast_to(own.diagonal.min(1), shape[:1])
    size = jnp.broadcast_to(jnp.abs(own.diagonal).max(1), shape[:1])
    for coefficient, matrix in own.terms:
        values = _tangent_eigenvalues(matrix)
        lowest = lowest + jnp.where(coefficient > 0, coefficient * values[0], coefficient * values[-1])
        size = size + jnp.abs(coefficient) * jnp.abs(values).max()
    enough = lowest >= floor * size
    return lax.cond(enough.all(), lambda: enough, lambda: _exact(own, shape, floor))


def _exact(own: Blocks, shape: tuple[int, int], floor: float) -> Array:
    values = _tangent_eigenvalues(own.matrices(*shape))
    return values[:, 0] >= floor * jnp.abs(values).max(1)


def _tangent_eigenvalues(matrix: Array) -> Array:
    """Eigenvalues of the symmetric part of (…, D, D) on the tangent space, ascending; a zero stands for the direction 1."""
    symmetric = (matrix + jnp.swapaxes(matrix, -1, -2)) / 2
    centred = symmetric - symmetric.mean(-1, keepdims=True)
    centred = centred - centred.mean(-2, keepdims=True)
    return jnp.linalg.eigvalsh(centred)
