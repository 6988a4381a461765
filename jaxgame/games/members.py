"""Some agents of a quadratic game that meet through an aggregate, cut from the game without a copy of the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from jax import Array

from jaxgame._pytree import pytree
from jaxgame.games.affine import AffineMap, Aggregate, Blocks

Rows = Callable[[Array], Array]  # some rows of an array with a leading axis of agents


@pytree(static=("held",))
class Members:
    """F_i(w, S) = M_i w + own_i O w + sensitivity_i B S − linear_i for b agents, S = Σ_j weight_j w_j over all agents.

    M_i is an agent's own curvature; own_i O (D, D) the part that its own share of S adds, small where agents are many.
    `reach`: weights of the representation where they differ from those of S. `held`: agents take S as given (Wardrop).
    `share`: as of `Aggregate`.
    """

    linear: Array  # (b, D)
    curvature: Blocks
    own: Array | None  # (b,)
    matrix: Array | None  # O
    sensitivity: Array  # (b,)
    B: Array  # (D, D)
    weight: Array  # (b,)
    reach: Array | None
    held: bool = False
    share: Array | None = None  # (b,)
    replace: ClassVar[Callable[..., Any]]

    def rows(self, rows: Rows) -> Members:
        """Some of them."""
        own, reach, share = (None if x is None else rows(x) for x in (self.own, self.reach, self.share))
        linear, sensitivity, weight = rows(self.linear), rows(self.sensitivity), rows(self.weight)
        curvature = self.curvature.rows(rows)
        return Members(linear, curvature, own, self.matrix, sensitivity, self.B, weight, reach, self.held, share)

    def affine(self) -> AffineMap:
        """The game map of these agents by themselves."""
        blocks = self.curvature
        if self.own is not None and self.matrix is not None:
            blocks = Blocks(blocks.diagonal, (*blocks.terms, (self.own, self.matrix)), blocks.dense)
        aggregate = Aggregate(self.sensitivity, self.B, self.weight, None, self.held, self.share)
        return AffineMap(self.linear, blocks, aggregate)
