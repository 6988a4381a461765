"""The game map of a quadratic game, or a game's map linearised at a profile: F(W) = J W − linear.

J has the two parts that every solver exploits: what an agent's own mixture does to its own marginals (`Blocks`) and
what the mixtures of all agents do to them (`Aggregate`, `Edges`, `Full`). Nothing here is n × n unless the game is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.sparse import BCOO

from jaxgame._pytree import pytree
from jaxgame.games.rows import Factor, Table, factor, transposed
from jaxgame.linalg import dot, einsum

CHUNK = 1024  # agents that are averaged before all are


def column(x: Array) -> Array:
    """A scalar, or an (n,) array as a column that multiplies (n, D)."""
    return x if x.ndim == 0 else x[:, None]


def per_agent(x: Array, n: int) -> Array:
    return jnp.broadcast_to(x, (n,))


def averaged(weights: Array, profile: Array) -> Array:
    """Σ_i weights_i w_i, (D,): many agents in two stages, or rounding would add up over all of them."""
    n = weights.shape[0]
    if n < 2 * CHUNK:
        return dot(weights, profile)
    count = n // CHUNK
    head = count * CHUNK
    parts = einsum("km,kmd->kd", weights[:head].reshape(count, CHUNK), profile[:head].reshape(count, CHUNK, -1))
    return parts.sum(0) + dot(weights[head:], profile[head:])


@pytree()
class Blocks:
    """Own blocks M_i = diag(h_i) + Σ_k c_ik Q_k + N_i, kept in parts so that a shared matrix stays one matrix."""

    diagonal: Array  # (1 or n, 1 or D)
    terms: tuple[tuple[Array, Array], ...] = ()  # pairs: coefficients (n,), matrix (D, D)
    dense: Array | None = None  # (n, D, D)

    @property
    def is_diagonal(self) -> bool:
        return not self.terms and self.dense is None

    def apply(self, mixtures: Array) -> Array:
        """M_i w_i for every agent, (n, D)."""
        out = self.diagonal * mixtures
        for coefficient, matrix in self.terms:
            out = out + coefficient[:, None] * dot(mixtures, matrix.T)
        if self.dense is not None:
            out = out + einsum("ide,ie->id", self.dense, mixtures)
        return out

    def matrices(self, n: int, n_groups: int) -> Array:
        """All blocks, (n, D, D)."""
        out = (
            jnp.broadcast_to(self.diagonal, (n, n_groups))[:, :, None]
            * jnp.eye(n_groups, dtype=self.diagonal.dtype)[None]
        )
        for coefficient, matrix in self.terms:
            out = out + coefficient[:, None, None] * matrix[None]
        return out if self.dense is None else out + self.dense

    def agents(self, n: int, n_groups: int) -> Any:
        """What tells the agents' blocks apart, with a leading axis of agents; `block` makes a block of an entry."""
        return (
            jnp.broadcast_to(self.diagonal, (n, n_groups)),
            [coefficient for coefficient, _ in self.terms],
            self.dense,
        )

    def of(self, agents: Any) -> Blocks:
        """The blocks of some agents, from their entries of `agents`."""
        diagonal, coefficients, dense = agents
        return Blocks(diagonal, tuple(zip(coefficients, (matrix for _, matrix in self.terms), strict=True)), dense)

    def block(self, agent: Any) -> Array:
        """One agent's block (D, D), from its entry of `agents`."""
        diagonal, coefficients, dense = agent
        out = jnp.diag(diagonal)
        for coefficient, (_, matrix) in zip(coefficients, self.terms, strict=True):
            out = out + coefficient * matrix
        return out if dense is None else out + dense

    def rows(self, rows: Callable[[Array], Array]) -> Blocks:
        """The blocks of the agents whose rows of arrays `rows` picks."""
        diagonal = self.diagonal if self.diagonal.shape[0] == 1 else rows(self.diagonal)
        terms = tuple((rows(coefficient), matrix) for coefficient, matrix in self.terms)
        return Blocks(diagonal, terms, None if self.dense is None else rows(self.dense))

    @property
    def T(self) -> Blocks:
        dense = None if self.dense is None else jnp.swapaxes(self.dense, 1, 2)
        return Blocks(self.diagonal, tuple((coefficient, matrix.T) for coefficient, matrix in self.terms), dense)

    def scaled(self, factor: Array) -> Blocks:
        terms = tuple((coefficient * factor, matrix) for coefficient, matrix in self.terms)
        return Blocks(self.diagonal * factor, terms, None if self.dense is None else self.dense * factor)


@pytree(static=("held",))
class Aggregate:
    """Every agent meets L_i S with S = Σ_j reach_j w_j: rank D. L_i = sensitivity_i · B, or `left[i]` where B is None.

    `held`: agents take S as given (Wardrop), so that their own part of S is no part of their utility's curvature.
    `share`: an agent's own part of S, where that is not all of its row's.
    """

    sensitivity: Array  # (n,)
    B: Array | None  # (D, D)
    reach: Array  # (n,)
    left: Array | None = None  # (n, D, D)
    held: bool = False
    share: Array | None = None  # (n,)

    @property
    def own(self) -> Array:
        """The part of S that an agent's own mixture makes, (n,)."""
        return self.reach if self.share is None else self.share

    def apply(self, mixtures: Array) -> Array:
        return self.spread(averaged(self.reach, mixtures))

    def spread(self, aggregate: Array) -> Array:
        """What each agent meets at the aggregate S (D,): (n, D)."""
        if self.B is None:
            assert self.left is not None
            return einsum("ide,e->id", self.left, aggregate)
        # Not `@`: a sum is one kernel with what uses it.
        return self.sensitivity[:, None] * (self.B * aggregate[None]).sum(1)[None]

    def columns(self) -> Array:
        """L_i, (n, D, D)."""
        return (
            self.sensitivity[:, None, None] * self.B[None]
            if self.left is None and self.B is not None
            else jnp.asarray(self.left)
        )

    def dense(self, n: int, n_groups: int) -> Array:
        return self.columns()[:, :, None, :] * self.reach[None, None, :, None]

    @property
    def T(self) -> Aggregate:
        """Agents then meet reach_i · Bᵀ Σ_j sensitivity_j w_j."""
        assert self.B is not None
        return Aggregate(self.reach, self.B.T, self.sensitivity)

    def scaled(self, factor: Array) -> Aggregate:
        left = None if self.left is None else self.left * factor
        return Aggregate(self.sensitivity * factor, self.B, self.reach, left, self.held, self.share)


@pytree(static=("sent",))
class Edges:
    """Agent i meets L_i Σ_j weights_ij w_j with L_i = scale_i · B, or `left[i]`; weights dense, or BCOO sorted by rows.

    `sent`: Σ_j weights_ij L_j w_j instead.
    """

    scale: Array  # (n,)
    weights: Any  # (n, n)
    factor: Factor | Table  # the same for products
    B: Array | None  # (D, D); None with left None: identity
    left: Array | None = None  # (n, D, D)
    sent: bool = False

    def apply(self, mixtures: Array) -> Array:
        return self.factor @ self._felt(mixtures) if self.sent else self._felt(self.factor @ mixtures)

    def _felt(self, met: Array) -> Array:
        """L_i of what is met, (n, D)."""
        if self.left is not None:
            return einsum("ide,ie->id", self.left, met)
        return self.scale[:, None] * (met if self.B is None else dot(met, self.B.T))

    @property
    def T(self) -> Edges:
        B = None if self.B is None else self.B.T
        left = None if self.left is None else jnp.swapaxes(self.left, 1, 2)
        weights = transposed(self.weights)
        return Edges(self.scale, weights, factor(weights), B, left, not self.sent)

    def dense(self, n: int, n_groups: int) -> Array:
        weights = self.weights.todense() if isinstance(self.weights, BCOO) else self.weights
        if self.left is not None:
            left = self.left
        else:
            matrix = jnp.eye(n_groups, dtype=self.scale.dtype) if self.B is None else self.B
            left = self.scale[:, None, None] * matrix[None]
        left = jnp.swapaxes(left, 0, 1)[None] if self.sent else left[:, :, None]  # to (i, d, j, e)
        return left * weights[:, None, :, None]

    def scaled(self, by: Array) -> Edges:
        left = None if self.left is None else self.left * by
        return Edges(self.scale * by, self.weights, self.factor, self.B, left, self.sent)


@pytree()
class Full:
    """Agent i meets Σ_j B_ij w_j with B (n, n, D, D) and no self blocks."""

    B: Array

    def apply(self, mixtures: Array) -> Array:
        # As a contraction it would be transposed first, which takes four times as long.
        return (self.B * mixtures[None, :, None, :]).sum((1, 3))

    @property
    def T(self) -> Full:
        return Full(jnp.swapaxes(jnp.swapaxes(self.B, 0, 1), 2, 3))

    def dense(self, n: int, n_groups: int) -> Array:
        return jnp.swapaxes(self.B, 1, 2)

    def scaled(self, factor: Array) -> Full:
        return Full(self.B * factor)


@pytree()
class AffineMap:
    """F(W) = own(W) + others(W) − linear; a matrix is never formed unless `dense` is called."""

    linear: Array  # (n, D)
    own: Blocks
    others: Aggregate | Edges | Full
    replace: ClassVar[Callable[..., Any]]

    @property
    def is_aggregative(self) -> bool:
        return isinstance(self.others, Aggregate)

    def apply(self, mixtures: Array) -> Array:
        """J W, (n, D)."""
        return self.own.apply(mixtures) + self.others.apply(mixtures)

    def __call__(self, mixtures: Array) -> Array:
        return self.apply(mixtures) - self.linear

    @property
    def T(self) -> AffineMap:
        """Jᵀ; of agents that meet through one matrix, if they meet through a mean."""
        return AffineMap(self.linear, self.own.T, self.others.T)

    def dense(self) -> Array:
        """J as (n·D, n·D)."""
        n, n_groups = self.linear.shape
        agents = jnp.arange(n)
        jacobian = self.others.dense(n, n_groups).at[agents, :, agents, :].add(self.own.matrices(n, n_groups))
        return jacobian.reshape(n * n_groups, n * n_groups)

    def own_curvature(self) -> Blocks:
        """−∂²U_i/∂w_i² for every agent: the own blocks with what the agent's own mixture does through the aggregate."""
        others = self.others
        if not isinstance(others, Aggregate) or others.held:
            return self.own
        if others.B is None:
            return Blocks(
                self.own.diagonal,
                self.own.terms,
                others.own[:, None, None] * others.columns() + jnp.asarray(self.own.dense),
            )
        # Coefficients of one and the same matrix are summed, so that an excluded own part cancels exactly.
        merged = {id(others.B): (others.own * others.sensitivity, others.B)}
        for coefficient, matrix in self.own.terms:
            known = merged.get(id(matrix))
            merged[id(matrix)] = (coefficient if known is None else coefficient + known[0], matrix)
        return Blocks(self.own.diagonal, tuple(merged.values()), self.own.dense)

    def scaled(self, factor: Array) -> AffineMap:
        """The map of the game whose utilities are all multiplied by a positive factor."""
        return AffineMap(self.linear * factor, self.own.scaled(factor), self.others.scaled(factor))


def transposed_apply(affine: AffineMap) -> Callable[[Array], Array]:
    """x ↦ Jᵀ x. JAX's transpose of a product by rows would scatter all edges; by the network's columns it gathers."""
    if isinstance(affine.others, Edges):
        return affine.T.apply
    transpose = jax.linear_transpose(affine.apply, affine.linear)
    return lambda x: transpose(x)[0]
