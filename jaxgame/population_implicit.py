"""The derivative of a large population's equilibrium through its aggregate (theory §7): passes over blocks of agents.

At fixed faces dw_i = G_i (dg_i − sensitivity_i B dS), G_i the agent's own response on its face (`solvers.reply`) and
dg_i what changes in its marginals besides S; dS = Σ (weight_i dw_i + dweight_i w_i) is a system of D equations. Nothing
but tangents that are asked for is as large as the population.

Agents are rows here, unlike in `columns`: of what is handed on, formulas need row sums alone. And under a transposed
scan XLA's CPU compiler (jax 0.10.2) lays out wrongly what a layout constraint asks for: the numbers come out wrong.
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
from jaxgame.linalg import dot
from jaxgame.solvers.parts import Part, average, part_of, total
from jaxgame.solvers.population import block_size
from jaxgame.solvers.reply import MODEST, reply, to_aggregate
from jaxgame.solvers.respond import is_closed
from jaxgame.solvers.shared_kernel import SharedKernel, has_shared_kernel
from jaxgame.solvers.sizes import sizes


def tangent(
    game: Any, change: Any, profile: Array, valid: Array, solver: Callable[..., Array], axis: str | None = None
) -> tuple[Array, Array]:
    """Tangents of the profile (n, D) and of the representation (D,), times `valid`.

    solver(operator, rhs, forward, backward) solves a D × D system and knows what to do where it is singular. axis: over
    which the agents are spread, where the game and its change are a `Part` each.
    """
    members, changes = jax.jvp(lambda game: game.members(lambda x: x[:1]), (game,), (change,))
    n, n_groups = profile.shape
    size = _even(n, block_size(n, n_groups, profile.dtype, sizes().derivatives))
    blocks = functools.partial(_over_blocks, part_of(game), profile, size)
    zero, square = jnp.zeros(n_groups, profile.dtype), jnp.zeros((n_groups, n_groups), profile.dtype)

    # In double precision, where first order is too little of large shares of S, passes make up for the rest.
    repaired = is_closed(members) and members.own is not None and jnp.finfo(zero.dtype).bits > 32
    most = MODEST if repaired else float(jnp.finfo(zero.dtype).eps) ** 0.5

    def replies(here: Members, _: None, mixture: Array) -> tuple[tuple[Array, Array, Array], None]:
        """S, Σ weight_i sensitivity_i G_i and Σ reach_i sensitivity_i G_i."""
        first = to_aggregate(here, mixture, here.weight, most)
        other = first if here.reach is None else to_aggregate(here, mixture, here.reach, most)
        return (averaged(here.weight, mixture), first, other), None

    def one_by_one() -> tuple[Array, Array, Array]:
        return blocks(None, replies, (zero, square, square))[0]

    def by_faces() -> tuple[Array, Array, Array]:
        every = SharedKernel(game.members(lambda x: x))

        def tallied(here: Members, _: None, mixture: Array) -> tuple[tuple[Array, Array], None]:
            return (averaged(here.weight, mixture), every.tally(here, mixture)), None

        aggregate, table = blocks(None, tallied, (zero, every.none()))[0]
        *found, left_out = every.to_aggregate(table)
        enough = left_out <= jnp.finfo(zero.dtype).eps
        return lax.cond(enough, lambda: (aggregate, *found), one_by_one)

    change = part_of(change)
    answers = by_faces if has_shared_kernel(game.members(lambda x: x[:1])) else one_by_one
    aggregate, responses, shares = total(answers(), axis)

    def alone(here: Members, moved: Members, mixture: Array) -> tuple[tuple[Array, Array], None]:
        """What a block adds to dS, and to the change of the representation, with S as it is."""
        move = valid * _moved(here, moved, mixture, aggregate, jnp.zeros_like(aggregate))
        more = dot(here.weight, move) + dot(moved.weight, mixture)
        if here.reach is None or moved.reach is None:
            return (more, more), None
        return (more, dot(here.reach, move) + dot(moved.reach, mixture)), None

    raised, shown = total(blocks(change, alone, (zero, zero))[0], axis)

    def of_these(x: Array) -> tuple[Array, Array]:
        """Σ weight_i and Σ reach_i of what the agents here answer to a change x of B S, one by one."""

        def block(here: Members, _: None, mixture: Array) -> tuple[tuple[Array, Array], None]:
            move = reply(here, here.sensitivity[:, None] * x[None], mixture)
            return (dot(here.weight, move), dot(here.weight if here.reach is None else here.reach, move)), None

        return blocks(None, block, (zero, zero))[0]

    def answered(x: Array) -> tuple[Array, Array]:
        return total(of_these(x), axis)

    def known(x: Array) -> tuple[Array, Array]:
        """The same of all agents, as far as responses are known."""
        return (responses * x[None]).sum(1), (shares * x[None]).sum(1)

    def turned(x: Array) -> Array:
        """The transpose of the operator: JAX's own would leave to each part what all have to add up."""
        (back,) = jax.linear_transpose(lambda x: of_these(x)[0], x)(x)
        return x + dot(members.B.T, total(back, axis))

    answer = answered if repaired else known
    inverse = linalg.inverse(jnp.eye(len(zero), dtype=zero.dtype) + dot(responses, members.B))
    shift = solver(
        lambda x: x + answer((members.B * x[None]).sum(1))[0],
        valid * (raised - answer(dot(changes.B, aggregate))[0]),
        _near(inverse),
        _near(inverse.T, turned if repaired else None),
    )
    # Nothing, but on the way back, where each part comes with its own: the transposed system is that of all.
    shift = average(shift, axis)
    felt = (members.B * shift[None]).sum(1) + dot(changes.B, aggregate)
    shown = shift if members.reach is None else valid * (shown - answer(felt)[1])

    def everyone(here: Members, moved: Members, mixture: Array) -> tuple[tuple[()], Array]:
        return (), valid * _moved(here, moved, mixture, aggregate, felt)

    return blocks(change, everyone, ())[1], shown


def _near(inverse: Array, operator: Linear | None = None) -> Solver:
    """By conjugate residuals (GCR) with an inverse that is one but for small parts: exact after as many steps as there
    are groups, after one or two where these are tiny. One product a step, and the operator may be a pass.
    """

    def approximate(operator: Linear, rhs: Array) -> Array:
        most = jnp.abs(rhs).max()
        most = jnp.where(most > 0, most, 1)
        rhs = rhs / most  # squares of what is small would be nothing
        enough = 10 * jnp.finfo(rhs.dtype).eps * jnp.linalg.norm(rhs)

        def unfinished(carry: tuple[Array, ...]) -> Array:
            _, left, _, _, k = carry
            return (jnp.linalg.norm(left) > enough) & (k < len(rhs))

        def step(carry: tuple[Array, ...]) -> tuple[Array, ...]:
            x, left, directions, images, k = carry
            ahead = (inverse * left[None]).sum(1)
            image = operator(ahead)
            known = (images * image[None]).sum(1)
            ahead = ahead - (known[:, None] * directions).sum(0)
            image = image - (known[:, None] * images).sum(0)
            size = jnp.linalg.norm(image)
            ahead, image = ahead / size, image / size
            gain = (image * left).sum()
            return x + gain * ahead, left - gain * image, directions.at[k].set(ahead), images.at[k].set(image), k + 1

        none = jnp.zeros((len(rhs), len(rhs)), rhs.dtype)
        begin = jnp.zeros_like(rhs), rhs, none, none, jnp.zeros((), int)
        return most * lax.while_loop(unfinished, step, begin)[0]

    return Solver(approximate, operator)


def _even(n: int, size: int) -> int:
    """A block size up to `size` that leaves no rest of n, which would cost a copy of all; unless none is near."""
    return next((k for k in range(size, size // 2, -1) if n % k == 0), size)


def _moved(here: Members, moved: Members, mixture: Array, aggregate: Array, felt: Array) -> Array:
    """dw (b, D) of a block: its own changes, and `felt` = d(B S) (D,) besides."""

    def slope(part: Members) -> Array:
        met = (here.B * aggregate[None]).sum(1)
        return part.linear - part.affine().own.apply(mixture) - part.sensitivity[:, None] * met[None]

    _, changed = jax.jvp(slope, (here,), (moved,))
    return reply(here, changed - here.sensitivity[:, None] * felt[None], mixture)


def _over_blocks(
    part: Part, profile: Array, size: int, change: Part | None, function: Any, start: Any
) -> tuple[Any, Any]:
    """function(members, their changes, mixtures (b, D)) of all blocks -> (what is added up, from `start` on; what is
    stacked).

    Changes travel as scanned arrays, whose transpose is in place. The rest is looked up, and for the way back looked up
    again: what is known of a block would be kept otherwise, and that is the population once more.
    """
    n = profile.shape[0]
    whole = n // size * size
    moving: list[Array] = []
    if change is not None:
        change.cut(lambda x: moving.append(x) or x)

    @functools.partial(jax.checkpoint, static_argnums=1)
    def block(k: Array, count: int, moved: list[Array]) -> tuple[Any, Any]:
        rows = functools.partial(lax.dynamic_slice_in_dim, start_index=k, slice_size=count)
        here = part.cut(rows)
        if change is None:
            return function(_everyone(here), None, rows(profile))
        left = iter(moved)
        return function(*jax.jvp(_everyone, (here,), (change.cut(lambda _: next(left)),)), rows(profile))

    def add(sums: Any, scanned: tuple[Array, list[Array]]) -> tuple[Any, Any]:
        more, out = block(scanned[0], size, scanned[1])
        return jax.tree.map(jnp.add, sums, more), out

    stacked = [x[:whole].reshape(-1, size, *x.shape[1:]) for x in moving]
    sums, out = lax.scan(add, start, (jnp.arange(0, whole, size), stacked))
    out = None if out is None else out.reshape(whole, -1)
    if whole < n:
        more, rest = block(jnp.asarray(whole), n - whole, [x[whole:] for x in moving])
        sums = jax.tree.map(jnp.add, sums, more)
        out = None if out is None else jnp.concatenate([out, rest])
    return sums, out


def _everyone(part: Part) -> Members:
    return part.members(lambda x: x)
