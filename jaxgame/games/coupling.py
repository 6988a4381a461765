"""How agents meet: through a mean, along a network, or pair by pair (theory §2, design §3).

A coupling is checked against a game's size when the game is built; then it tells what each agent meets, what the
agent's marginals lose by meeting it, and the affine form of both for solvers.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.experimental.sparse import BCOO

from jaxgame import _checks
from jaxgame._pytree import assign, pytree
from jaxgame.games.affine import Blocks, Edges, Full, averaged, column, per_agent
from jaxgame.games.members import Members, Rows
from jaxgame.games.rows import Factor, Table, by_row, rows
from jaxgame.linalg import dot


@pytree(static=("atomic", "include_self"))
class MeanField:
    """Agent i meets sensitivity_i · B S, S = Σ_j reach_j w_j (without j = i if not `include_self`).

    B (D, D); sensitivity scalar or (n,), any sign; reach (n,) ≥ 0 summing to 1, uniform by default.
    multiplicity (n,) ≥ 1, default 1: row i of the game stands for so many identical agents, who play alike and have
    reach_i together; one of them has reach_i / multiplicity_i. reach is then by default multiplicity over its sum, as
    it is when the game is built.
    atomic=True (Nash): an agent counts its own effect on S; it matters only with include_self. atomic=False (Wardrop):
    the agent takes S as given, and its marginals are not the gradient of its utility.
    """

    B: Any
    sensitivity: Any = 1.0
    reach: Any = None
    atomic: bool = True
    include_self: bool = True
    multiplicity: Any = None

    def __init__(
        self,
        B: Any,
        *,
        sensitivity: Any = 1.0,
        reach: Any = None,
        atomic: bool = True,
        include_self: bool = True,
        multiplicity: Any = None,
    ):
        dtype = _checks.float_dtype(B, sensitivity, reach, multiplicity)
        B = _checks.array("B", B, dtype, ("D", "D"))
        if B.shape[0] != B.shape[1]:
            raise ValueError(f"B has shape {B.shape}, expected a square matrix (D, D)")
        if not (isinstance(atomic, bool) and isinstance(include_self, bool)):
            raise ValueError(f"atomic and include_self must be True or False, got {atomic!r} and {include_self!r}")
        sensitivity = _checks.array("sensitivity", sensitivity, dtype, (), ("n",))
        if reach is not None:
            reach = _checks.shares("reach", _checks.array("reach", reach, dtype, ("n",)), reach)
        if multiplicity is not None:
            multiplicity = _checks.array("multiplicity", multiplicity, dtype, ("n",))
            _checks.at_least_one("multiplicity", multiplicity)
        assign(
            self,
            B=B,
            sensitivity=sensitivity,
            reach=reach,
            atomic=atomic,
            include_self=include_self,
            multiplicity=multiplicity,
        )

    @property
    def arrays(self):
        return self.B, self.sensitivity, self.reach, self.multiplicity

    @property
    def share(self) -> Array:
        """The part of S that one agent of each row makes, (n,). Of a sized mean field."""
        return self.reach if self.multiplicity is None else self.reach / self.multiplicity

    def sized(self, n: int, n_groups: int, dtype) -> MeanField:
        _checks.array("coupling.B", self.B, dtype, (n_groups, n_groups))
        _checks.array("coupling.sensitivity", self.sensitivity, dtype, (), (n,))
        multiplicity = self.multiplicity
        if multiplicity is not None:
            multiplicity = _checks.array("coupling.multiplicity", multiplicity, dtype, (n,))
        if self.reach is not None:
            reach = _checks.array("coupling.reach", self.reach, dtype, (n,))
        else:
            reach = jnp.full(n, 1 / n, dtype) if multiplicity is None else multiplicity / multiplicity.sum()
        return MeanField(
            jnp.asarray(self.B, dtype),
            sensitivity=jnp.asarray(self.sensitivity, dtype),
            reach=reach,
            atomic=self.atomic,
            include_self=self.include_self,
            multiplicity=multiplicity,
        )

    def meets(self, profile: Array) -> Array:
        weight = column(self.sensitivity)
        met = weight * jnp.broadcast_to((self.B * averaged(self.reach, profile)[None]).sum(1), profile.shape)
        return met if self.include_self else met - weight * self.share[:, None] * dot(profile, self.B.T)

    def slope(self, profile: Array) -> Array:
        met = self.meets(profile)
        if self.atomic and self.include_self:
            return met + column(self.sensitivity) * self.share[:, None] * dot(profile, self.B)
        return met

    def members(self, linear: Array, curvature: Blocks, rows: Rows, reach: Array | None = None) -> Members:
        """Agents of a game with this coupling, given their (b, D) linear utilities and their curvature.

        reach (b,): theirs in a larger population.
        """
        weight = rows(self.reach) if reach is None else reach
        sensitivity = rows(per_agent(self.sensitivity, self.reach.shape[0]))
        share = None if self.multiplicity is None else weight / rows(self.multiplicity)
        alone = weight if share is None else share
        own = matrix = None
        if not self.include_self:
            own, matrix = -sensitivity * alone, self.B
        elif self.atomic:
            own, matrix = sensitivity * alone, self.B.T
        held = self.include_self and not self.atomic
        return Members(linear, curvature, own, matrix, sensitivity, self.B, weight, None, held, share)


@pytree()
class Network:
    """Agent i meets Σ_j weights_ij B w_j; weights (n, n) dense or BCOO with a zero diagonal, B (D, D), default
    identity. The entries of a BCOO are sorted by row and column.
    """

    weights: Any
    B: Any
    rows: Any  # the layout of a BCOO for products

    def __init__(self, weights: Any, B: Any = None):
        dtype = _checks.float_dtype(weights, B)
        sparse = isinstance(weights, BCOO)
        weights = cast(weights, dtype) if sparse else _checks.array("weights", weights, dtype, ("n", "n"))
        if weights.shape[0] != weights.shape[1]:
            raise ValueError(f"weights has shape {weights.shape}, expected a square matrix (n, n)")
        _checks.network("weights", weights, weights.shape[0])
        B = None if B is None else _checks.array("B", B, dtype, ("D", "D"))
        weights = by_row(weights) if sparse else weights
        assign(self, weights=weights, B=B, rows=rows(weights) if sparse else None)

    @property
    def factor(self) -> Factor | Table:
        """The weights for products."""
        return Table(self.weights) if self.rows is None else self.rows.factor(self.weights.data)

    @property
    def arrays(self):
        return self.weights, self.B

    def sized(self, n: int, n_groups: int, dtype) -> Network:
        if self.weights.shape != (n, n):
            raise ValueError(f"coupling.weights has shape {self.weights.shape}, expected ({n}, {n})")
        B = None if self.B is None else _checks.array("coupling.B", self.B, dtype, (n_groups, n_groups))
        return Network(cast(self.weights, dtype), B)

    def meets(self, profile: Array) -> Array:
        met = self.factor @ profile
        return met if self.B is None else dot(met, self.B.T)

    slope = meets

    def affine(self, own: Blocks) -> tuple[Blocks, Edges]:
        return own, Edges(jnp.ones(self.weights.shape[0], self.weights.dtype), self.weights, self.factor, self.B)


@pytree()
class Dense:
    """Agent i meets Σ_{j≠i} B_ij w_j; B (n, n, D, D). The blocks B_ii are not used."""

    B: Any

    def __post_init__(self):
        B = _checks.array("B", self.B, _checks.float_dtype(self.B), ("n", "n", "D", "D"))
        if B.shape[0] != B.shape[1] or B.shape[2] != B.shape[3]:
            raise ValueError(f"B has shape {B.shape}, expected (n, n, D, D)")
        agents = jnp.arange(B.shape[0])
        assign(self, B=B.at[agents, agents].set(0))

    @property
    def arrays(self):
        return (self.B,)

    def sized(self, n: int, n_groups: int, dtype) -> Dense:
        return Dense(_checks.array("coupling.B", self.B, dtype, (n, n, n_groups, n_groups)))

    def meets(self, profile: Array) -> Array:
        return Full(self.B).apply(profile)

    slope = meets

    def affine(self, own: Blocks) -> tuple[Blocks, Full]:
        return own, Full(self.B)


def cast(weights: Any, dtype) -> Any:
    """Network weights in another dtype."""
    if not isinstance(weights, BCOO):
        return jnp.asarray(weights, dtype)
    return BCOO(
        (jnp.asarray(weights.data, dtype), weights.indices),
        shape=weights.shape,
        indices_sorted=weights.indices_sorted,
        unique_indices=weights.unique_indices,
    )
