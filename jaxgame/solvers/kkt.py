"""The one linear system behind Newton steps, interior-point steps, supports and derivatives.

Given an affine game map with Jacobian J, a diagonal θ ≥ 0 and faces A (one an agent), find x and multipliers μ with

    (J x)_id + θ_id x_id + μ_i = rhs_id  for d in A_i,    x_id = 0 off A_i,    Σ_d x_id = total_i.

`factorise` does the work once and returns a function of (rhs, total): through the D × D Schur complement of the
aggregate where agents meet through one (never n × n), as one bordered LU where the game is small, else matrix-free,
with the LU to fall back on as long as it is affordable.
`bordered` adds shared constraints on the aggregate and their prices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import lu_factor, lu_solve
from jax.tree_util import Partial

from jaxgame import linalg
from jaxgame.games import is_aggregative, is_quadratic
from jaxgame.games.affine import AffineMap, Aggregate
from jaxgame.linalg import dot
from jaxgame.solvers import krylov
from jaxgame.solvers.own_blocks import Solve, own_blocks

DENSE_LIMIT = 4096  # n·D up to which a dense LU is affordable: at most 4097² × 8 B = 134 MB, and seconds
FEW = 256  # n·D up to which it beats iterations


def is_tractable(game: Any) -> bool:
    """Whether the system of a game takes memory that grows with the game, or little."""
    if is_quadratic(game) or is_aggregative(game) or getattr(game, "meeting", None) == "network":
        return True
    return game.n_agents * game.n_groups <= DENSE_LIMIT


def factorise(affine: AffineMap, theta: Array, face: Array, precision: float | Array | None = None) -> Solve:
    """Factor the system for θ (n, D) and faces (n, D) bool, none empty; returns (rhs (n, D), total (n,)) -> (x, μ).

    precision: how much of what the agents' own blocks leave may be left by iterations, default what rounding allows,
    and none where an elimination is affordable.
    """
    if isinstance(affine.others, Aggregate):
        return _aggregative(affine, affine.others, theta, face)
    if not is_iterative(affine) or (precision is None and is_affordable(affine)):
        return _dense(affine, theta, face)
    return _krylov(affine, theta, face, precision)


def is_iterative(affine: AffineMap) -> bool:
    """Whether iterations are the way to solve the system."""
    return not affine.is_aggregative and (affine.linear.size > FEW or not is_affordable(affine))


def is_affordable(affine: AffineMap) -> bool:
    """Whether the system of a game that is not aggregative may be eliminated."""
    return affine.linear.size <= DENSE_LIMIT


def bordered(
    solve: Solve, exposure: Array, reach: Array, matrix: Array, theta: Array
) -> Callable[[Array, Array, Array], tuple[Array, Array, Array]]:
    """With prices π (p,) of constraints on S = Σ reach_i x_i besides: (rhs, total, target (p,)) -> (x, μ, π) with

        (J x)_i + θ_i x_i + μ_i 1 − exposure_i matrixᵀπ = rhs_i,      matrix S + theta π = target,

    for matrix (p, D), theta (p,) ≥ 0 and a factorised `solve`. A row of zeros with theta 1 and target 0 has price 0.
    """
    still = jnp.zeros_like(exposure)

    def priced(prices: Array) -> Array:
        return exposure[:, None] * dot(prices, matrix)[None]

    # One row after the other: all at once would take p populations of memory.
    answers = jax.lax.map(lambda row: dot(matrix, dot(reach, solve(exposure[:, None] * row[None], still)[0])), matrix)
    inverse = linalg.inverse(answers.T + jnp.diag(theta))

    def full(rhs: Array, total: Array, target: Array) -> tuple[Array, Array, Array]:
        alone, _ = solve(rhs, total)
        prices = dot(inverse, target - dot(matrix, dot(reach, alone)))
        return *solve(rhs + priced(prices), total), prices

    return full


def _aggregative(affine: AffineMap, others: Aggregate, theta: Array, face: Array) -> Solve:
    """x_i = p_i − G_i L_i S with G_i the agent's own response on its face; S solves a D × D system."""
    own = own_blocks(affine, theta, face)
    inverse = linalg.inverse(jnp.eye(theta.shape[1], dtype=theta.dtype) + own.to_aggregate(others))

    def solve(rhs: Array, total: Array) -> tuple[Array, Array]:
        alone, _ = own.solve(rhs, total)
        aggregate = (inverse * dot(others.reach, alone)[None]).sum(1)
        return own.solve(rhs - others.spread(aggregate), total)

    return solve


def _dense(affine: AffineMap, theta: Array, face: Array) -> Solve:
    n, n_groups = theta.shape
    size = n * n_groups
    mask = face.reshape(size)
    jacobian = jnp.where(mask[:, None] & mask[None, :], affine.dense(), 0)
    jacobian = jacobian + jnp.diag(jnp.where(mask, theta.reshape(size), 1))
    border = (jnp.arange(size)[:, None] // n_groups == jnp.arange(n)[None, :]) & mask[:, None]
    border = jnp.asarray(border, theta.dtype)
    factor = lu_factor(jnp.block([[jacobian, border], [border.T, jnp.zeros((n, n), theta.dtype)]]))

    def solve(rhs: Array, total: Array) -> tuple[Array, Array]:
        out = lu_solve(factor, jnp.concatenate([jnp.where(face, rhs, 0).reshape(size), total]))
        return out[:size].reshape(n, n_groups), out[size:]

    return solve


def _eliminated(affine: AffineMap, theta: Array, face: Array, rhs: Array, total: Array) -> tuple[Array, Array]:
    return _dense(affine, theta, face)(rhs, total)


@jax.custom_batching.sequential_vmap
def or_eliminated(found: Array, out: Any, eliminated: Partial) -> Any:
    """What iterations left, if they `found` it. In a batch one by one: else all would be eliminated, and at a time
    (`linalg`).
    """
    return jax.lax.cond(found, lambda: out, eliminated)


def _krylov(affine: AffineMap, theta: Array, face: Array, precision: float | Array | None) -> Solve:
    """On the tangent space of the faces, preconditioned by every agent's own block."""
    own = own_blocks(affine, theta, face).solve
    count = face.astype(theta.dtype).sum(1)
    zero = jnp.zeros(theta.shape[0], theta.dtype)
    precision = 10 * float(jnp.finfo(theta.dtype).eps) if precision is None else precision

    def tangent(x: Array) -> Array:
        mean = jnp.where(face, x, 0).sum(1) / count
        return jnp.where(face, x - mean[:, None], 0)

    def operator(x: Array) -> Array:
        return affine.apply(x) + theta * x

    def solve(rhs: Array, total: Array) -> tuple[Array, Array]:
        start, _ = own(rhs, total)
        left = rhs - operator(start)
        more, found = krylov.solve(operator, lambda x: own(x, zero)[0], left, precision)
        x = start + tangent(more)
        left = jnp.where(face, rhs - operator(x), 0)
        out = x, left.sum(1) / count
        if not is_affordable(affine):
            return out
        return or_eliminated(found, out, Partial(_eliminated, affine, theta, face, rhs, total))

    return solve
