"""The derivative of a large population's equilibrium through its aggregate (theory §7): passes over blocks of agents.

At fixed faces dw_i = G_i (dg_i − sensitivity_i B dS), G_i the agent's own response on its face and dg_i what changes
in its marginals besides S; dS = Σ (weight_i dw_i + dweight_i w_i) is a system of D equations. Nothing but tangents that
are asked for is as large as the population.

Transpositions are plain here, unlike in `columns`: under a transposed scan XLA's CPU compiler (jax 0.10.2) lays out
wrongly what a layout constraint asks for, and the numbers come out wrong.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxgame import _checks, linalg
from jaxgame.games.affine import averaged
from jaxgame.games.members import Members
from jaxgame.implicit import direct
from jaxgame.solvers.columns import over_groups, tree
from jaxgame.solvers.parts import total
from jaxgame.solvers.population import block_size
from jaxgame.solvers.respond import is_closed
from jaxgame.solvers.settle import is_populous

FEW = 0.02  # how much an agent's own share of S may add to its curvature


def corrections(game: Any) -> int | None:
    """How many rounds of corrections for what an agent's own share of S adds give the derivative of a game to rounding;
    None for games to be left to `implicit`: no large population with diagonal curvature, an agent that is large itself,
    or no numbers to tell by.
    """
    if not (is_populous(game) and is_closed(game.members(lambda x: x[:1]))):
        return None
    if game.members(lambda x: x[:1]).own is None:
        return 0
    ratio = _own_part(game)
    if not _checks.concrete(ratio) or not float(ratio) <= FEW:
        return None
    return max(1, math.ceil(math.log(float(jnp.finfo(ratio.dtype).eps)) / math.log(max(float(ratio), 1e-16))) - 1)


@jax.jit
def _own_part(game: Any) -> Array:
    members = game.members(lambda x: x)
    size = jnp.abs(members.own) * jnp.linalg.norm(members.matrix)
    return (size / members.curvature.diagonal.min(1)).max()


def tangent(
    game: Any, change: Any, profile: Array, valid: Array, rounds: int, solver: Any, axis: str | None = None
) -> tuple[Array, Array]:
    """Tangents of the profile (n, D) and of the representation (D,), times `valid`, with so many `corrections`.

    solver(operator, rhs, forward, backward) solves a D × D system and knows what to do where it is singular. axis: over
    which the agents are spread, where the game and its change are a `Part` each.
    """
    members, changes = jax.jvp(lambda game: game.members(lambda x: x), (game,), (change,))
    aggregate = total(averaged(members.weight, profile), axis)
    size = _even(profile.shape[0], block_size(profile.shape[0], profile.shape[1], profile.dtype))
    blocks = functools.partial(_over_blocks, members, profile, size)
    responses, shares = total(_to_aggregate(members, profile, size), axis)

    @jax.checkpoint
    def alone(here: Members, moved: Members, mixture: Array) -> tuple[Array, Array]:
        """What a block adds to dS, and to the change of the representation, with S as it is."""
        move = valid * _moved(here, moved, mixture, aggregate, jnp.zeros_like(aggregate), rounds)
        to_aggregate = move @ here.weight + mixture @ moved.weight
        if here.reach is None or moved.reach is None:
            return to_aggregate, to_aggregate
        return to_aggregate, move @ here.reach + mixture @ moved.reach

    def add(sums: tuple, part: tuple) -> tuple[tuple, None]:
        return jax.tree.map(jnp.add, sums, part), None

    zero = jnp.zeros_like(aggregate)
    raised, shown = total(blocks(changes, alone, add, (zero, zero))[0], axis)
    matrix = jnp.eye(len(zero), dtype=zero.dtype) + responses @ members.B
    inverse = linalg.inverse(matrix)

    def answered(x: Array) -> tuple[Array, Array]:
        """Σ weight_i and Σ reach_i of what agents answer to a change x of B S, their own shares of S counted."""
        if not rounds:
            return (responses * x[None]).sum(1), (shares * x[None]).sum(1)

        def block(here: Members, _: None, mixture: Array) -> tuple[Array, Array]:
            move = _respond(here, mixture, here.sensitivity[None] * x[:, None], rounds)
            return move @ here.weight, move @ (here.weight if here.reach is None else here.reach)

        return total(blocks(None, block, add, (zero, zero))[0], axis)

    def near(rhs: Array) -> Array:
        return solver(
            lambda x: (matrix * x[None]).sum(1),
            rhs,
            direct(lambda x: (inverse * x[None]).sum(1)),
            direct(lambda x: (inverse.T * x[None]).sum(1)),
        )

    rhs = raised - answered(changes.B @ aggregate)[0]
    shift = near(rhs)
    for _ in range(rounds):
        shift = shift + near(rhs - shift - answered((members.B * shift[None]).sum(1))[0])
    felt = (members.B * shift[None]).sum(1) + changes.B @ aggregate
    shown = shift if members.reach is None else shown - answered(felt)[1]

    @jax.checkpoint
    def everyone(here: Members, moved: Members, mixture: Array) -> Array:
        return (valid * _moved(here, moved, mixture, aggregate, felt, rounds)).T

    _, moves = blocks(changes, everyone, lambda carry, part: (carry, part), None)
    return moves, shown


def _even(n: int, size: int) -> int:
    """A block size up to `size` that leaves no rest of n, which would cost a copy of all; unless none is near."""
    return next((k for k in range(size, size // 2, -1) if n % k == 0), size)


def _moved(here: Members, moved: Members, mixture: Array, aggregate: Array, felt: Array, rounds: int) -> Array:
    """dw (D, b) of a block: its own changes, and `felt` = d(B S) (D,) besides."""

    def slope(part: Members) -> Array:
        blocks = part.curvature
        out = part.linear.T - blocks.diagonal.T * mixture
        if part.own is not None and part.matrix is not None:
            out = out - part.own[None] * (part.matrix @ mixture)
        return out - part.sensitivity[None] * (here.B * aggregate[None]).sum(1)[:, None]

    _, changed = jax.jvp(slope, (here,), (moved,))
    return _respond(here, mixture, changed - here.sensitivity[None] * felt[:, None], rounds)


def _respond(here: Members, mixture: Array, rhs: Array, rounds: int) -> Array:
    """G_i applied to (D, b)."""
    u = jnp.where(mixture > 0, 1 / jnp.broadcast_to(here.curvature.diagonal.T, mixture.shape), 0)
    mass = tree(jnp.add, u)

    def alone(rhs: Array) -> Array:
        return u * (rhs - (tree(jnp.add, u * rhs) / mass)[None])

    move = alone(rhs)
    for _ in range(rounds):
        assert here.own is not None and here.matrix is not None
        move = alone(rhs - here.own[None] * (here.matrix @ move))
    return move


def _to_aggregate(members: Members, profile: Array, size: int) -> tuple[Array, Array]:
    """Σ weight_i sensitivity_i G_i and Σ reach_i sensitivity_i G_i, (D, D), but for the agents' own shares of S."""
    n, n_groups = profile.shape

    def block(k: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        start = jnp.minimum(k * size, n - size)
        fresh = start + jnp.arange(size) >= k * size
        rows = functools.partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=size)
        here, mixture = members.rows(rows), rows(profile).T
        u = jnp.where(mixture > 0, 1 / jnp.broadcast_to(here.curvature.diagonal.T, mixture.shape), 0)
        share = 1 / over_groups(jnp.add, u)

        def answer(weight: Array) -> Array:
            strength = (jnp.where(fresh, weight, 0) * here.sensitivity)[None]
            return jnp.diag((strength * u).sum(1)) - (strength * share[None] * u) @ u.T

        first = sums[0] + answer(here.weight)
        return first, first if here.reach is None else sums[1] + answer(here.reach)

    zero = jnp.zeros((n_groups, n_groups), profile.dtype)
    return lax.fori_loop(0, -(-n // size), block, (zero, zero))


def _over_blocks(
    members: Members, profile: Array, size: int, changes: Members | None, function: Any, join: Any, start: Any
) -> tuple[Any, Any]:
    """Fold `join` over function(members, their changes, mixtures (D, b)) of all blocks; what it hands out is stacked.

    Changes travel as scanned arrays, whose transpose is in place; the rest is looked up.
    """
    n = profile.shape[0]
    whole = n // size * size
    moving: list[Array] = []
    if changes is not None:
        changes.rows(lambda x: moving.append(x) or x)

    def part(k: Array, count: int, moved: list[Array]) -> Any:
        rows = functools.partial(lax.dynamic_slice_in_dim, start_index=k, slice_size=count)
        left = iter(moved)
        change = None if changes is None else changes.rows(lambda _: next(left))
        return function(members.rows(rows), change, rows(profile).T)

    def step(carry: Any, scanned: tuple[Array, list[Array]]) -> tuple[Any, Any]:
        return join(carry, part(scanned[0], size, scanned[1]))

    stacked = [x[:whole].reshape(-1, size, *x.shape[1:]) for x in moving]
    carry, out = lax.scan(step, start, (jnp.arange(0, whole, size), stacked))
    out = None if out is None else out.reshape(whole, -1)
    if whole < n:
        carry, rest = join(carry, part(jnp.asarray(whole), n - whole, [x[whole:] for x in moving]))
        out = None if out is None else jnp.concatenate([out, rest])
    return carry, out
