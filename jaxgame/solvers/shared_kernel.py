"""How a population whose curvature is one matrix, times a number an agent, answers to its aggregate (theory §6).

On one face G_i = G_A / q_i: what agents add up to is a sum over the faces they play, which are far fewer than agents.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jaxgame import linalg
from jaxgame.games.affine import AffineMap, Aggregate, Blocks, averaged
from jaxgame.games.members import Members
from jaxgame.linalg import einsum
from jaxgame.solvers.own_blocks import OwnBlocks
from jaxgame.solvers.sizes import sizes

MOST = 16  # groups: there are 2^D faces to look up
APART = 1024  # sums a face that are kept of a block, at most: rounding would add up over all its agents


def has_shared_kernel(members: Members) -> bool:
    """Whether the curvature is one matrix, times a number an agent, and perhaps a diagonal that may be zero.

    Not in double precision where own shares are of another matrix, of which the first order alone is counted.
    """
    blocks, linear = members.curvature, members.linear
    if blocks.dense is not None or len(blocks.terms) != 1 or linear.shape[1] > MOST:
        return False
    alike = members.own is None or members.matrix is blocks.terms[0][1]
    return alike or jnp.finfo(linear.dtype).bits <= 32


class SharedKernel:
    """Σ weight_i sensitivity_i G_i of a population, and the same of reach where that differs, face by face."""

    def __init__(self, everyone: Members):
        self.everyone = everyone
        ((_, self.kernel),) = everyone.curvature.terms
        # As where agents meet in the metric of their own curvature: then that of one more share of it.
        self.alike = everyone.matrix is self.kernel
        self.of_reach = everyone.reach is not None

    def none(self) -> Array:
        """A tally (2^D, k) of nobody."""
        linear = self.everyone.linear
        of_shares = self._split(self.everyone)[1] is not None
        return jnp.zeros((2 ** linear.shape[1], (1 + self.of_reach) * (1 + of_shares)), linear.dtype)

    def tally(self, members: Members, mixture: Array) -> Array:
        """By face: Σ weight_i sensitivity_i / q_i, the same of reach, and both times own_i / q_i where own shares are
        of another matrix. To rounding, but in single precision where many share a few faces of 14 groups or more.
        """
        size, own = self._split(members)
        columns = [x * members.sensitivity / size for x in (members.weight, members.reach) if x is not None]
        if own is not None:
            columns += [column * own / size for column in columns]
        groups, none = jnp.arange(mixture.shape[1]), self.none()
        face = jnp.where(mixture > 0, 1 << groups[None], 0).sum(1)
        # The face that all play, if they do, by itself: of large faces few sums are kept.
        first, added = face == face[0], jnp.stack(columns, 1)
        together = averaged(first.astype(none.dtype), added)
        lanes = min(max(len(face) // len(none), 1), APART)
        apart = jnp.zeros((lanes, *none.shape), none.dtype).at[0, face[0]].set(together)
        apart = apart.at[jnp.arange(len(face)) % lanes, face].add(jnp.where(first[:, None], 0, added))
        # Left to itself XLA adds a block's agents one by one to those of all blocks before.
        return lax.optimization_barrier(apart.sum(0))

    def to_aggregate(self, table: Array) -> tuple[Array, Array, Array]:
        """Both sums, (D, D) each, by the tally of all agents; and what is left out of own shares, at most and relative
        to the rest: the square of what they add to the curvature. ∞ where the curvature is of another kind.
        """
        groups, together = jnp.arange(self.everyone.linear.shape[1]), min(sizes().inverses, len(table))
        size, share = self._split(self.everyone)
        own = None if share is None else self.everyone.matrix
        kinds = 1 + self.of_reach
        played = (table != 0).any(1)
        # A face of one group, on which nothing moves, fills up.
        faces = jnp.nonzero(played, size=-(-len(table) // together) * together, fill_value=1)[0]
        count = played.sum()

        def block(k: Array, found: Array, largest: Array) -> tuple[Array, Array]:
            here = lax.dynamic_slice_in_dim(faces, k * together, together)
            strength = jnp.where((k * together + jnp.arange(together) < count)[:, None], table[here], 0)
            answers = _answers(self.kernel, (here[:, None] >> groups[None]) % 2 == 1)
            found = found + einsum("fk,fde->kde", strength[:, :kinds], answers)
            if own is not None:
                felt = einsum("fde,eg,fgh->fdh", answers, own, answers)
                found = found - einsum("fk,fde->kde", strength[:, kinds:], felt)
            # For a verdict: its derivative is none where a face of one group answers nothing.
            return found, jnp.maximum(largest, linalg.frobenius(lax.stop_gradient(answers)).max())

        def unless_empty(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            return lax.cond(k * together < count, lambda: block(k, *carry), lambda: carry)

        begin = jnp.zeros((kinds, len(groups), len(groups)), table.dtype), jnp.zeros((), table.dtype)
        # As many rounds for all games: second derivatives go backward through them.
        found, largest = lax.fori_loop(0, len(faces) // together, unless_empty, begin)
        added = jnp.zeros_like(largest)
        if share is not None and own is not None:
            added = jnp.abs(share / size).max() * linalg.frobenius(own) * largest
        fits = (size > 0).all() & (self.everyone.curvature.diagonal == 0).all() & jnp.isfinite(found).all()
        return found[0], found[-1], jnp.where(fits, added**2, jnp.inf)

    def _split(self, members: Members) -> tuple[Array, Array | None]:
        """q_i (b,), and what of own shares is of another matrix."""
        ((size, _),) = members.curvature.terms
        size = jnp.broadcast_to(size, members.sensitivity.shape)
        if members.own is None or members.matrix is None:
            return size, None
        return (size + members.own, None) if self.alike else (size, members.own)


def _answers(kernel: Array, face: Array) -> Array:
    """G_A, (b, D, D), on faces (b, D)."""
    ones = jnp.ones(len(face), kernel.dtype)
    still = jnp.zeros(face.shape, kernel.dtype)
    alone = AffineMap(still, Blocks(still[:1, :1], ((ones, kernel),), None), Aggregate(ones, None, ones, None))
    found: Any = OwnBlocks(alone, still, face).kept
    return found.tangents()
