"""Newton on the D-dimensional fixed point of the aggregate, whatever the number of agents (theory §6)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import struct
from jax import Array, lax

from jaxgame import simplex
from jaxgame.games import is_aggregative
from jaxgame.games.affine import AffineMap
from jaxgame.solvers.newton import Newton, own_diagonal, solve_on

RESPONSE_STEPS = 8


@struct.dataclass
class AggregativeNewton(Newton):
    """Newton for games in which agents meet only through S = Σ reach_j w_j: faces from best responses to S.

    Every agent responds to the aggregate (in closed form where its curvature is diagonal), the responses fix the faces, and
    on these the aggregate solves a D × D system. O(n D²) a step for scalar and diagonal curvature, O(n D³) for matrices;
    never n × n. Raises ValueError before the start for a game on a network or with pairwise couplings.
    """

    def check(self, game: Any) -> None:
        if not is_aggregative(game):
            raise ValueError(
                "AggregativeNewton needs agents that meet through a mean (MeanField, the default coupling of AlignmentGame, or a "
                "ConcaveGame with coupling 'mean'); use Newton, or no solver argument"
            )

    def trial(self, affine: AffineMap, base: Array) -> tuple[Array, Array]:
        met = affine.linear - affine.others.apply(base)
        mixture = best_response(affine, met, simplex.project(base))
        face = mixture > 0
        return solve_on(affine, face, mixture), face


def best_response(affine: AffineMap, linear: Array, start: Array) -> Array:
    """Approximate maximisers of linear_i·w − ½ wᵀ M_i w on the simplex, (n, D): water-filling, exact for diagonal blocks.

    The rest of a block is treated as fixed and updated a few times; the Newton step corrects what is left.
    """
    diagonal = own_diagonal(affine)

    def body(_, mixture: Array) -> Array:
        return simplex.waterfill(linear - affine.own.apply(mixture) + diagonal * mixture, diagonal)

    return body(0, start) if affine.own.is_diagonal else lax.fori_loop(0, RESPONSE_STEPS, body, start)
