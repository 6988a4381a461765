"""The certified bound on what an agent can gain, and the concavity that it rests on (theory §1)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jaxgame import linalg
from jaxgame.games import is_quadratic, linearise
from jaxgame.games.affine import AffineMap, Aggregate, Blocks
from jaxgame.games.rational import Rational

NUDGE = 1e-4
BATCH = 1024  # agents whose curvature is spelt out at a time


def gaps(game: Any, profile: Array, marginals: Array, concave: Array) -> Array:
    """max_d g_id − ⟨g_i, w_i⟩ ≥ the gain of agent i's best response, (n,); ∞ where the utility is not concave."""
    slack = marginals.max(1, keepdims=True) - marginals
    bound = (profile * slack).sum(1)
    return jnp.where(concave & ~jnp.isnan(bound), bound, jnp.inf)


def concave_agents(game: Any, profile: Array) -> Array:
    """Whether each agent's utility is concave on the simplex, (n,) bool; near `profile` only if it is not quadratic.

    Up to rounding: an eigenvalue above −10·D·eps of the parts that the curvature is made of counts as zero.
    """
    return semidefinite(*own_curvature(game, profile), profile.shape[1])


def semidefinite(own: Blocks, size: Array, n_groups: int) -> Array:
    """Whether each of n blocks is positive semidefinite, (n,) bool, up to the rounding of parts of a size (n,)."""
    n = size.shape[0]
    rounding = 10 * n_groups * jnp.finfo(size.dtype).eps

    def every_agent() -> Array:
        def one(agent: Any) -> Array:
            return linalg.is_positive_semidefinite(own.block(agent[0]), agent[1])

        return lax.map(one, (own.agents(n, n_groups), rounding * size), batch_size=BATCH)

    if own.dense is not None:
        return every_agent()
    least = jnp.broadcast_to(own.diagonal.min(1), (n,))
    if not own.terms:
        return least >= -rounding * size
    coefficients = [jnp.broadcast_to(coefficient, (n,)) for coefficient, _ in own.terms]
    matrices = jnp.stack([matrix for _, matrix in own.terms])
    norms = linalg.frobenius(matrices)

    def enough(harmless: list[Any]) -> Array:
        losses = [
            jnp.where(none, 0, jnp.abs(c) * norm) for none, c, norm in zip(harmless, coefficients, norms, strict=True)
        ]
        return sum(losses, -least) <= rounding * size

    # Weyl's inequality settles most games with one elimination a matrix, or none, instead of one an agent.
    def by_matrix() -> Array:
        both = jnp.stack([matrices, -matrices])
        upward, downward = linalg.is_positive_semidefinite(both, jnp.broadcast_to(rounding * norms, both.shape[:2]))
        settled = enough(
            [(c >= 0) & up | (c <= 0) & down for c, up, down in zip(coefficients, upward, downward, strict=True)]
        )
        return lax.cond(settled.all(), lambda: settled, every_agent)

    settled = enough([False] * len(coefficients))
    return lax.cond(settled.all(), lambda: settled, by_matrix)


def own_curvature(game: Any, profile: Array) -> tuple[Blocks, Array]:
    """−∂²U_i/∂w_i² of every agent, and the size (n,) of the parts that it is a sum of, with which its rounding scales.

    Coefficients that are nothing but the rounding of parts that cancel are zero.
    """
    if not is_quadratic(game):  # curvature may be infinite at the boundary itself
        profile = (profile + NUDGE / profile.shape[1]) / (1 + NUDGE)
    affine = game.flattest(profile) if isinstance(game, Rational) else linearise(game, profile)
    own = affine.own_curvature()
    size = size_of(affine)
    tiny = 8 * jnp.finfo(profile.dtype).eps * size
    terms = [(jnp.where(jnp.abs(c) * linalg.frobenius(matrix) <= tiny, 0, c), matrix) for c, matrix in own.terms]
    return Blocks(own.diagonal, tuple(terms), own.dense), size


def size_of(affine: AffineMap) -> Array:
    """Of the parts of every agent's own curvature, added up, (n,)."""
    own, others = affine.own, affine.others
    size = jnp.broadcast_to(jnp.abs(own.diagonal).max(1), affine.linear.shape[:1])
    for coefficient, matrix in own.terms:
        size = size + jnp.abs(coefficient) * linalg.frobenius(matrix)
    if own.dense is not None:
        size = size + linalg.frobenius(own.dense)
    if isinstance(others, Aggregate) and not others.held:
        if others.B is None:
            felt = linalg.frobenius(others.columns())
        else:
            felt = jnp.abs(others.sensitivity) * linalg.frobenius(others.B)
        size = size + others.own * felt
    return size
