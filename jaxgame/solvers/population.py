"""One pass over a population: what all agents answer to an aggregate, a block of agents at a time (theory §6).

A block stays in cache, sums are kept an agent's place in the block each and compensated, and nothing but the answer
itself is as large as the population.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array, lax

from jaxgame import linalg
from jaxgame._pytree import pytree
from jaxgame.games.affine import AffineMap, Blocks
from jaxgame.games.members import Members, Rows
from jaxgame.linalg import dot
from jaxgame.solvers import parts, sizes
from jaxgame.solvers.columns import agents_last, over_groups, tree
from jaxgame.solvers.reply import to_aggregate
from jaxgame.solvers.respond import is_closed, nearby, respond

LANES = 128
CHUNK = 1024  # agents whose mixtures are added up one by one
RUN = 8  # neighbours that are sampled together: whole cache lines


@pytree()
class Answer:
    """What a population answers to an aggregate S.

    total: Σ weight_i w_i; shown: Σ reach_i w_i; error, slip, gap: of the worst agent, as of `Response`; spread: the
    largest marginal at the uniform profile, centred; slope: −∂total/∂(B S), (D, D), where asked for, agents' own shares
    of S left out.
    """

    total: Array
    shown: Array
    error: Array
    slip: Array
    gap: Array
    spread: Array
    slope: Array | None = None


def block_size(n: int, n_groups: int, dtype: Any, most: int) -> int:
    """Agents at a time, of whom a (D, b) array is of so many bytes at most."""
    return min(n, max(most // (jnp.dtype(dtype).itemsize * n_groups) // LANES * LANES, LANES))


def answer(
    game: Any,
    aggregate: Array,
    profile: Array | None,
    tol: Array,
    *,
    spread: Array,
    write: Array,
    first: Array | bool = False,
    slope: bool = False,
    axis: str | None = None,
) -> tuple[Answer, Any]:
    """All agents' responses to S (D,) up to tol.

    profile (n, D): where to put them, and for matrix curvature near them for a start; closed forms are kept only if
    `write`; what is there does not matter the `first` time. None: to be put nowhere. spread: as of an answer before, or
    negative if unknown. axis: over which the agents are spread.
    """
    n, n_groups = game.n_agents, game.n_groups
    dtype = aggregate.dtype
    one = game.members(lambda x: x[:1])
    closed, felt = is_closed(one), (_unlike(one.B) * aggregate[None]).sum(1)
    # Few enough to stay in cache; of those with matrices, enough for the late ones to fill lots.
    size = block_size(n, n_groups, dtype, sizes.sizes().formulas if closed else sizes.sizes().matrices)

    def block(k: Array, carry: tuple) -> tuple:
        total, shown, slopes, (*bounds, most), profile = carry
        # The last block overlaps the one before; what is there for the second time has no weight.
        start = jnp.minimum(k * size, n - size)
        fresh = start + jnp.arange(size) >= k * size
        rows = functools.partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=size)
        members = game.members(rows)
        members, linear = _centred(members, agents_last(members.linear))
        target = linear - members.sensitivity[None] * felt[:, None]
        near = None
        if not closed and profile is not None:
            near = lax.cond(first, lambda: nearby(members, target), lambda: agents_last(rows(profile)))
        found = respond(members, target, near, tol)
        mixture = found.mixture
        weight = jnp.where(fresh, members.weight, 0)
        total = _added(total, _weighed(mixture, weight))
        if slope:
            slopes = slopes + to_aggregate(members.replace(own=None, matrix=None), mixture.T, weight)
        if members.reach is not None:
            shown = _added(shown, _weighed(mixture, jnp.where(fresh, members.reach, 0)))
        put = functools.partial(_put, start)
        if profile is not None:
            profile = (
                lax.cond(write, put, lambda profile, _: profile, profile, mixture) if closed else put(profile, mixture)
            )
        most = lax.cond(spread < 0, lambda: jnp.maximum(most, _spread(members, linear)), lambda: most)
        worst = map(jnp.maximum, bounds, (found.error, found.slip, found.gap))
        return total, shown, slopes, (*worst, most), profile

    zero, least = jnp.zeros(n_groups, dtype), jnp.zeros(size, dtype)
    slopes = jnp.zeros((n_groups, n_groups), dtype) if slope else None
    start = (zero, zero), (zero, zero), slopes, (least, least, least, jnp.maximum(least, spread)), profile
    total, shown, slopes, worst, profile = lax.fori_loop(0, -(-n // size), block, start)
    sums = (total[0] + total[1], *(() if one.reach is None else (shown[0] + shown[1],)))
    sums, worst = parts.total(sums, axis), parts.largest(tuple(x.max() for x in worst), axis)
    slopes = None if slopes is None else parts.total(slopes, axis)
    return Answer(sums[0], sums[-1], *worst, slope=slopes), profile


def _centred(members: Members, linear: Array) -> tuple[Members, Array]:
    """Members and their linear part (D, b), less what they add to the marginals of all groups alike: it moves no
    mixture, but its rounding would.
    """
    curvature, linear = members.curvature, linear - over_groups(jnp.maximum, linear)[None]
    for coefficient, matrix in curvature.terms:
        linear = linear - coefficient[None] * _unlike(matrix).mean(1)[:, None]
    terms = tuple((coefficient, linalg.tangent(matrix)) for coefficient, matrix in curvature.terms)
    curvature = Blocks(curvature.diagonal, terms, curvature.dense)
    matrix = None if members.matrix is None else _unlike(members.matrix)
    return members.replace(curvature=curvature, matrix=matrix, B=_unlike(members.B)), linear


def _unlike(matrix: Array) -> Array:
    return matrix - matrix.mean(0, keepdims=True)


def _put(start: Array, profile: Array, mixture: Array) -> Array:
    return lax.dynamic_update_slice_in_dim(profile, mixture.T, start, 0)


def _spread(members: Members, linear: Array) -> Array:
    """The largest marginal at the uniform profile, centred, (b,)."""
    blocks = members.curvature
    parts = [(members.sensitivity, members.B), *blocks.terms]
    if members.own is not None and members.matrix is not None:
        parts.append((members.own, members.matrix))
    share = 1 / linear.shape[0]
    # Row by row: what all agents share is a number a group.
    rows = [row - share * d for row, d in zip(linear, jnp.broadcast_to(blocks.diagonal, linear.T.shape).T, strict=True)]
    for coefficient, matrix in parts:
        rows = [row - coefficient * felt for row, felt in zip(rows, share * matrix.sum(1), strict=True)]
    if blocks.dense is not None:
        rows = [row - share * total for row, total in zip(rows, agents_last(blocks.dense.sum(2)), strict=True)]
    mean = share * over_groups(jnp.add, rows)
    return over_groups(jnp.maximum, [jnp.abs(row - mean) for row in rows])


def _weighed(mixture: Array, weight: Array) -> Array:
    """Σ weight w, (D,), in chunks: a core's product adds all terms one by one, and loses two digits."""
    if not sizes.on_cores():
        return (mixture * weight[None]).sum(1)
    count = weight.shape[0]
    parts = [dot(mixture[:, k : k + CHUNK], weight[k : k + CHUNK]) for k in range(0, count, CHUNK)]
    return tree(jnp.add, parts)


def _added(total: tuple[Array, Array], x: Array) -> tuple[Array, Array]:
    """A sum and its rounding error, with one more term (Kahan)."""
    high, low = total
    term = x + low
    new = high + term
    return new, term - (new - high)


@pytree()
class Sample:
    """Agents that stand for a population: runs of neighbours at even distances, their weights scaled to all."""

    chosen: Any  # Members
    replace: ClassVar[Callable[..., Any]]

    @property
    def n_agents(self) -> int:
        return self.chosen.linear.shape[0]

    @property
    def n_groups(self) -> int:
        return self.chosen.linear.shape[1]

    def members(self, rows: Rows) -> Members:
        return self.chosen.rows(rows)

    def affine(self) -> AffineMap:
        return self.chosen.affine()


def holds(game: Any, condition: Callable[[Any], Array]) -> Array:
    """Whether a condition (b,) on a `Sample` holds for all agents of a game, those of a block at a time."""
    n = game.n_agents
    size = min(n, sizes.sizes().glances)

    def block(k: Array, so_far: Array) -> Array:
        rows = functools.partial(lax.dynamic_slice_in_dim, start_index=jnp.minimum(k * size, n - size), slice_size=size)
        return so_far & condition(Sample(game.members(rows))).all()

    return lax.fori_loop(0, -(-n // size), block, jnp.ones((), bool))


def sample(game: Any, size: int, axis: str | None = None) -> Sample:
    """All agents, where there are no more than `size`. axis: over which they are spread; each part samples its own."""
    n = game.n_agents
    if n <= size:
        return Sample(game.members(lambda x: x))
    runs = size // RUN
    every = n // runs

    def rows(x: Array) -> Array:
        picked = x[: runs * every].reshape(runs, every, *x.shape[1:])[:, :RUN]
        return picked.reshape(runs * RUN, *x.shape[1:])

    members = game.members(rows)
    return Sample(members.replace(weight=for_all(members.weight, axis)))


def for_all(weight: Array, axis: str | None = None) -> Array:
    """Weights (b,) of agents that stand for all: those of all have the sum 1. Alike where these have none."""
    have, alike = parts.total((weight.sum(), jnp.ones_like(weight).sum()), axis)
    return jnp.where(have > 0, weight / jnp.where(have > 0, have, 1), 1 / alike)
