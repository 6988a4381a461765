"""The derivative of a large population's equilibrium through its aggregate (theory §7): passes over blocks of agents.

At fixed faces dw_i = G_i (dg_i − sensitivity_i B dS), G_i the agent's own response on its face (`solvers.reply`) and
dg_i what changes in its marginals besides S; dS = Σ (weight_i dw_i + dweight_i w_i) is a system of D equations. Nothing
but tangents that are asked for is as large as the population.

Transpositions are plain here, unlike in `columns`: under a transposed scan XLA's CPU compiler (jax 0.10.2) lays out
wrongly what a layout constraint asks for, and the numbers come out wrong.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxgame import linalg
from jaxgame.games.affine import averaged
from jaxgame.games.members import Members
from jaxgame.implicit import Linear, Solver
from jaxgame.solvers import krylov
from jaxgame.solvers.faces import product
from jaxgame.solvers.parts import largest, total
from jaxgame.solvers.population import block_size
from jaxgame.solvers.reply import own_part, reply, to_aggregate
from jaxgame.solvers.respond import is_closed


def tangent(
    game: Any, change: Any, profile: Array, valid: Array, solver: Callable[..., Array], axis: str | None = None
) -> tuple[Array, Array]:
    """Tangents of the profile (n, D) and of the representation (D,), times `valid`.

    solver(operator, rhs, forward, backward) solves a D × D system and knows what to do where it is singular. axis: over
    which the agents are spread, where the game and its change are a `Part` each.
    """
    members, changes = jax.jvp(lambda game: game.members(lambda x: x), (game,), (change,))
    aggregate = total(averaged(members.weight, profile), axis)
    size = _even(profile.shape[0], block_size(profile.shape[0], profile.shape[1], profile.dtype))
    blocks = functools.partial(_over_blocks, members, profile, size)
    responses, shares = total(_replies(members, profile, size), axis)

    @jax.checkpoint
    def alone(here: Members, moved: Members, mixture: Array) -> tuple[Array, Array]:
        """What a block adds to dS, and to the change of the representation, with S as it is."""
        move = valid * _moved(here, moved, mixture, aggregate, jnp.zeros_like(aggregate))
        to_aggregate = move @ here.weight + mixture @ moved.weight
        if here.reach is None or moved.reach is None:
            return to_aggregate, to_aggregate
        return to_aggregate, move @ here.reach + mixture @ moved.reach

    def add(sums: tuple, part: tuple) -> tuple[tuple, None]:
        return jax.tree.map(jnp.add, sums, part), None

    zero = jnp.zeros_like(aggregate)
    raised, shown = total(blocks(changes, alone, add, (zero, zero))[0], axis)

    def answered(x: Array) -> tuple[Array, Array]:
        """Σ weight_i and Σ reach_i of what agents answer to a change x of B S, one by one."""

        def block(here: Members, _: None, mixture: Array) -> tuple[Array, Array]:
            move = reply(here, here.sensitivity[None] * x[:, None], mixture)
            return move @ here.weight, move @ (here.weight if here.reach is None else here.reach)

        return total(blocks(None, block, add, (zero, zero))[0], axis)

    def known(x: Array) -> tuple[Array, Array]:
        """The same, as far as responses are known."""
        return (responses * x[None]).sum(1), (shares * x[None]).sum(1)

    if not is_closed(members) or members.own is None:
        exact, answer = None, known
    else:
        exact = largest(own_part(members), axis) ** 2 <= 4 * jnp.finfo(zero.dtype).eps

        def answer(x: Array) -> tuple[Array, Array]:
            return lax.cond(exact, known, answered, x)

    inverse = linalg.inverse(jnp.eye(len(zero), dtype=zero.dtype) + responses @ members.B)
    shift = solver(
        lambda x: x + answer((members.B * x[None]).sum(1))[0],
        raised - answer(changes.B @ aggregate)[0],
        _near(inverse, exact),
        _near(inverse.T, exact),
    )
    felt = (members.B * shift[None]).sum(1) + changes.B @ aggregate
    shown = shift if members.reach is None else shown - answer(felt)[1]

    @jax.checkpoint
    def everyone(here: Members, moved: Members, mixture: Array) -> Array:
        return (valid * _moved(here, moved, mixture, aggregate, felt)).T

    _, moves = blocks(changes, everyone, lambda carry, part: (carry, part), None)
    return moves, shown


def _near(inverse: Array, exact: Array | None) -> Solver:
    """By an inverse that is exact, always (None) or where `exact` says so, and else near enough to lead to it."""

    def direct(rhs: Array) -> Array:
        return (inverse * rhs[None]).sum(1)

    def approximate(operator: Linear, rhs: Array) -> Array:
        if exact is None:
            return direct(rhs)
        precision = 100 * float(jnp.finfo(rhs.dtype).eps)
        return lax.cond(exact, direct, lambda rhs: krylov.solve(operator, direct, rhs, precision), rhs)

    return Solver(approximate)


def _even(n: int, size: int) -> int:
    """A block size up to `size` that leaves no rest of n, which would cost a copy of all; unless none is near."""
    return next((k for k in range(size, size // 2, -1) if n % k == 0), size)


def _moved(here: Members, moved: Members, mixture: Array, aggregate: Array, felt: Array) -> Array:
    """dw (D, b) of a block: its own changes, and `felt` = d(B S) (D,) besides."""

    def slope(part: Members) -> Array:
        met = (here.B * aggregate[None]).sum(1)
        return part.linear.T - product(part.affine().own)(mixture) - part.sensitivity[None] * met[:, None]

    _, changed = jax.jvp(slope, (here,), (moved,))
    return reply(here, changed - here.sensitivity[None] * felt[:, None], mixture)


def _replies(members: Members, profile: Array, size: int) -> tuple[Array, Array]:
    """Σ weight_i sensitivity_i G_i and Σ reach_i sensitivity_i G_i, (D, D)."""
    n, n_groups = profile.shape

    def block(k: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        start = jnp.minimum(k * size, n - size)
        fresh = start + jnp.arange(size) >= k * size
        rows = functools.partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=size)
        here, mixture = members.rows(rows), rows(profile)
        weights = [here.weight] if here.reach is None else [here.weight, here.reach]
        more = [to_aggregate(here, mixture, jnp.where(fresh, weight, 0)) for weight in weights]
        return sums[0] + more[0], sums[1] + more[-1]

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
