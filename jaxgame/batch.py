"""solve_many(): a batch of games, in which a game that is solved makes room for one that is not.

The host hands out chunks of games, so that memory is bounded, a batch can be interrupted, and one compilation serves
batches of all sizes; within a chunk, `solvers.lanes` takes on only what is not solved yet.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.experimental.sparse import BCOO

from jaxgame import _checks
from jaxgame._pytree import Carried
from jaxgame.equilibrium import Equilibrium
from jaxgame.games import dtype_of
from jaxgame.solvers import Newton, Solver
from jaxgame.solvers.lanes import run_lanes
from jaxgame.solvers.logit_newton import LogitNewton
from jaxgame.solvers.loop import Loop
from jaxgame.solvers.scale import uniform
from jaxgame.solvers.sizes import sizes
from jaxgame.solving import (
    RESCUE_STEPS,
    certified,
    check_solver,
    concluded,
    default_solver,
    improved,
    looped,
    may_rescue,
    numbers,
    rescue_loop,
    solve,
)

CHUNK = 2**27  # bytes that a chunk of games and what is kept of their solves may take
STATE = 16  # arrays of the size of a profile that are kept of a solve
FIRST_ORDER_ROUND = 32  # steps between two looks at what is finished; Newton's are dear, and looked at one by one


def solve_many(
    games: Any,
    solver: Solver | None = None,
    *,
    tol: float | None = None,
    max_steps: int | None = None,
    init: Array | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Equilibrium:
    """`solve` for many games of one kind and shape: what `jax.vmap(solve)` returns, in a fraction of the time.

    games: one game whose every array has a leading axis of B games, as `jax.vmap(build)(…)` returns it. solver, tol,
    max_steps: as in `solve`, for all games. init: (n, D), or (B, n, D) for a start each. batch_size: games that are
    taken on together, default by the device. progress: called as progress(done, B) after every chunk of games;
    an exception in it, or Ctrl-C, ends the solve.

    Returns an Equilibrium whose every array has a leading axis of B games: the status, steps and certificate of each.
    A game that fails, or whose numbers are not finite, leaves the others alone. One compilation serves all batches
    that are larger than a chunk (in which games are handed out, by their size: 2**27 bytes). Within jit, grad or vmap
    it is `jax.vmap(solve)`, with its derivatives.

    Raises ValueError as `solve` does, and for games that are no batch.
    """
    size, lane = _batch(_unbatched(games))
    dtype = jax.eval_shape(lambda game: uniform(game, dtype_of(game)), lane).dtype
    shape = lane.n_agents, lane.n_groups
    chosen = default_solver(lane) if solver is None else solver
    jax.eval_shape(functools.partial(_check, chosen), lane)
    tol, max_steps = numbers(chosen, dtype, tol, max_steps)
    if init is not None:
        init = _checks.shares("init", _checks.array("init", init, dtype, shape, (size, *shape)), init)
        init = jnp.broadcast_to(init, (size, *shape))
    if batch_size is None:
        batch_size = sizes().lanes
    elif isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}, expected a positive integer")
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((games, chosen, init, tol, max_steps))):

        def one(lane: Lane, start: Array | None) -> Equilibrium:
            return solve(lane.unwrap(), solver, tol=tol, max_steps=max_steps, init=start)

        return jax.vmap(one)(Lane.of(games), init)
    block = max(min(batch_size, _power_of_two(size)), 2)  # XLA copies a whole chunk to change one lane
    chunk = _chunk(games, size, block, shape, dtype)
    rescue = solver is None and may_rescue(chosen)
    found = []
    for first in range(0, size, chunk):
        count = min(chunk, size - first)
        part, starts = _part((Lane.of(games), init), first, chunk)
        fields, gave_up = _solved(part, starts, Carried.wrap(chosen), tol, max_steps, count, block)
        if rescue and np.asarray(gave_up).any():  # compiled only where it is needed
            fields = _rescued(part, fields, gave_up, block)
        found.append(jax.block_until_ready(fields))
        if progress is not None:
            progress(first + count, size)
    return Equilibrium(games, **jax.tree.map(lambda *parts: jnp.concatenate(parts)[:size], *found))


@jax.tree_util.register_pytree_node_class
class Lane:
    """Games as plain arrays: `vmap` would take the shape that sparse weights have in each of them for a batch's."""

    def __init__(self, leaves: Any, structure: Any):
        self.leaves, self.structure = leaves, structure

    @classmethod
    def of(cls, games: Any) -> Lane:
        return cls(*jax.tree.flatten(Carried.wrap(_unbatched(games))))

    def unwrap(self) -> Any:
        """The game, of one lane."""
        return jax.tree.unflatten(self.structure, self.leaves).unwrap()

    def tree_flatten(self):
        return (self.leaves,), self.structure

    @classmethod
    def tree_unflatten(cls, structure, children):
        return cls(children[0], structure)


def _unbatched(games: Any) -> Any:
    """With sparse weights of the shape they have in one game, whether `vmap` made the batch or arrays were stacked."""

    def one(x: Any) -> Any:
        if not (isinstance(x, BCOO) and len(x.shape) > x.indices.shape[-1]):
            return x
        sorted_, unique = x.indices_sorted, x.unique_indices
        build = functools.partial(BCOO, shape=x.shape[1:], indices_sorted=sorted_, unique_indices=unique)
        lane = jax.eval_shape(build, jax.tree.map(_of_lane, (x.data, x.indices)))
        return jax.tree.unflatten(jax.tree.structure(lane), (x.data, x.indices))

    return jax.tree.map(one, games, is_leaf=lambda x: isinstance(x, BCOO))


def _of_lane(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)


def _batch(games: Any) -> tuple[int, Any]:
    """How many games there are, and the shapes of one. Raises ValueError where they are no batch."""
    leaves = jax.tree_util.tree_leaves_with_path(games)
    if not leaves or leaves[0][1] is games:
        raise ValueError(f"games must be a game with batched arrays, as jax.vmap(build)(…) returns it, got {games!r}")
    size = None
    for path, leaf in leaves:
        name, shape = f"games{jax.tree_util.keystr(path)}", np.shape(leaf)
        size = shape[0] if size is None and shape else size
        if not shape or shape[0] != size or size == 0:
            raise ValueError(
                f"{name} has shape {shape}, expected a leading axis of {size or 'at least one'} games, the same for "
                "all arrays: jax.vmap(build)(…) returns such a batch"
            )
    assert size is not None
    lane = jax.tree.map(_of_lane, games)
    try:
        marginals = jax.eval_shape(lambda game: game.marginals(uniform(game, dtype_of(game))), lane)
        fits = marginals.shape == (lane.n_agents, lane.n_groups)
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(
            f"games is no batch of games: without the leading axis of {size} it fails with {error}"
        ) from None
    if not fits:
        raise ValueError(f"games is no batch of games: marginals of one of {size} have the shape {marginals.shape}")
    return size, lane


def _check(solver: Any, lane: Any) -> Array:
    check_solver(solver, lane)
    return jnp.zeros(())


def _chunk(games: Any, size: int, block: int, shape: tuple[int, int], dtype: Any) -> int:
    """How many games a call of the compiled program takes: a power of two times the block, what memory allows."""
    own = sum(leaf.nbytes for leaf in jax.tree.leaves(games)) // size
    most = max(CHUNK // (own + STATE * shape[0] * shape[1] * np.dtype(dtype).itemsize) // block, 1)
    return block * min(_power_of_two(-(-size // block)), 1 << (most.bit_length() - 1))


def _power_of_two(size: int) -> int:
    """The first that is not below."""
    return 1 << (size - 1).bit_length()


@functools.partial(jax.jit, static_argnums=2)
def _part(batch: Any, first: Any, size: int) -> Any:
    """Lanes first, first + 1, …; the last one again where there are no more."""
    return jax.tree.map(lambda x: x[jnp.minimum(first + jnp.arange(size), x.shape[0] - 1)], batch)


@functools.partial(jax.jit, static_argnums=6)
def _solved(games: Lane, starts: Any, solver: Carried, tol: Any, max_steps: Any, count: Any, block: int) -> Any:
    """The fields of the first `count` lanes; and whether each gave up."""
    one_solver = solver.unwrap()

    def loop_of(lane: Any, scale: Any) -> Loop:
        return looped(lane[0].unwrap(), one_solver, tol, max_steps, scale=scale)

    def start_of(lane: Any) -> Array:
        game, start = lane[0].unwrap(), lane[1]
        return uniform(game, dtype_of(game)) if start is None else start

    def finish(lane: Any, scale: Any, end: Any) -> Any:
        return concluded(loop_of(lane, scale), end)

    chosen = jnp.arange(len(jax.tree.leaves(games)[0])) < count
    length = 1 if isinstance(one_solver, Newton | LogitNewton) else FIRST_ORDER_ROUND
    return run_lanes(loop_of, start_of, finish, (games, starts), chosen, block, length)


@functools.partial(jax.jit, static_argnums=3)
def _rescued(games: Lane, first: dict[str, Any], gave_up: Array, block: int) -> dict[str, Any]:
    """With first-order steps where the solver gave up."""

    def loop_of(lane: Any, scale: Any) -> Loop:
        return rescue_loop(lane[0], lane[1]["tol"], RESCUE_STEPS, scale)

    def finish(lane: Any, scale: Any, end: Any) -> Any:
        return certified(lane[0], improved(lane[1], end, jnp.ones((), bool)))

    again = run_lanes(
        loop_of, lambda lane: lane[1]["profile"], finish, (games, first), gave_up, block, FIRST_ORDER_ROUND
    )
    return jax.tree.map(lambda old, new: jnp.where(gave_up.reshape(-1, *[1] * (old.ndim - 1)), new, old), first, again)
