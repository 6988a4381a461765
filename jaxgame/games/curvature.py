"""Shapes of an agent's own curvature C_i in U_i = linear_i·w_i − ½ w_iᵀ C_i w_i − …"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxgame import _checks
from jaxgame._pytree import assign, pytree
from jaxgame.games.affine import Blocks


@pytree()
class Diagonal:
    """C_i = diag(h) with h (D,), or diag(h_i) with h (n, D)."""

    h: Any

    def __post_init__(self):
        h = _checks.array("h", self.h, _checks.float_dtype(self.h), ("D",), ("n", "D"))
        assign(self, h=h)


@pytree()
class Scaled:
    """C_i = q_i Q with q (n,) and Q (D, D) symmetric: one matrix for all agents."""

    q: Any
    Q: Any

    def __post_init__(self):
        dtype = _checks.float_dtype(self.q, self.Q)
        q = _checks.array("q", self.q, dtype, ("n",))
        Q = _checks.array("Q", self.Q, dtype, ("D", "D"))
        if Q.shape[0] != Q.shape[1]:
            raise ValueError(f"Q has shape {Q.shape}, expected a square matrix (D, D)")
        _checks.symmetric("Q", Q)
        assign(self, q=q, Q=Q)


def checked(curvature: Any, n: int, n_groups: int, dtype) -> Any:
    """The curvature argument of a game of n agents and D groups, as arrays of one dtype. ValueError where it does not
    fit.
    """
    if isinstance(curvature, Diagonal):
        h = _checks.array("curvature.h", curvature.h, dtype, (n_groups,), (n, n_groups))
        return Diagonal(h)
    if isinstance(curvature, Scaled):
        return Scaled(
            _checks.array("curvature.q", curvature.q, dtype, (n,)),
            _checks.array("curvature.Q", curvature.Q, dtype, (n_groups, n_groups)),
        )
    value = _checks.array("curvature", curvature, dtype, (), (n,), (n_groups, n_groups), (n, n_groups, n_groups))
    if value.ndim >= 2:
        _checks.symmetric("curvature", value)
    return value


def blocks(curvature: Any, n: int) -> Blocks:
    """The curvature as own blocks."""
    if isinstance(curvature, Diagonal):
        return Blocks(jnp.atleast_2d(curvature.h))
    if isinstance(curvature, Scaled):
        return Blocks(_zero(curvature.q), ((curvature.q, curvature.Q),))
    if curvature.ndim == 3:
        return Blocks(_zero(curvature), (), curvature)
    if curvature.ndim == 2:
        return Blocks(_zero(curvature), ((jnp.ones(n, curvature.dtype), curvature),))
    return Blocks(curvature.reshape(-1, 1))


def _zero(like: Array) -> Array:
    return jnp.zeros((1, 1), like.dtype)
