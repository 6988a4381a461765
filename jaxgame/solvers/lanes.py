"""Many loops at once, none of which waits for the slowest.

A `while_loop` under `vmap` runs every lane until the last one ends. Here the lanes that are not finished are listed
anew after every round of steps, and only they are taken on, a block at a time: nothing is computed in vain but what
fills up the last block, and loops within a step, which last as long as the block's slowest. All shapes are fixed, so
that one program serves whatever the lanes need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxgame.solvers.loop import Loop, Progress
from jaxgame.solvers.scale import Scale


def run_lanes(
    loop_of: Callable[[Any, Scale | None], Loop],
    start_of: Callable[[Any], Array],
    finish: Callable[[Any, Scale, Progress], Any],
    lanes: Any,
    chosen: Array,
    block: int,
    length: int,
) -> Any:
    """`finish(lane, scale, end of its loop)` for the chosen of L lanes, with a leading axis of L; zeros for the others.

    `loop_of(lane, scale)` is the loop of a lane, which measures its scale if given none; `start_of(lane)` its start;
    `lanes` a tree with a leading axis of L; `chosen` (L,) bool. `block`: lanes that go together; `length`: steps
    between two looks at what is finished (static).
    """

    def begin(lane: Any) -> tuple[Scale, Progress]:
        loop = loop_of(lane, None)
        return loop.scale, loop.start(start_of(lane))

    def advance(now: Progress, lane: Any, scale: Scale) -> Progress:
        loop = loop_of(lane, scale)
        if length == 1:
            return loop.advance(now)
        last = now.steps + length
        return lax.while_loop(lambda now: loop.unfinished(now) & (now.steps < last), loop.advance, now)

    def rest(now: Progress) -> Array:
        unfinished = jax.vmap(lambda lane, scale, now: loop_of(lane, scale).unfinished(now))
        return listed(chosen & unfinished(lanes, scale, now))

    everyone = listed(chosen)
    scale, start = in_blocks(begin, (lanes,), everyone, block)
    size = len(chosen)

    def round_(carry: tuple[Progress, Array]) -> tuple[Progress, Array]:
        now, left = carry
        now = in_blocks(advance, (lanes, scale), left, block, now)
        return now, rest(now)

    end, _ = lax.while_loop(lambda carry: carry[1][0] < size, round_, (start, rest(start)))
    return in_blocks(
        lambda lane, scale, now: finish(lane, scale, loop_of(lane, scale).end(now)),
        (lanes, scale, end),
        everyone,
        block,
    )


def listed(mask: Array) -> Array:
    """The indices where a mask (L,) is true, followed by Ls."""
    return jnp.nonzero(mask, size=len(mask), fill_value=len(mask))[0]


def in_blocks(function: Callable[..., Any], arguments: Any, index: Array, block: int, now: Any = None) -> Any:
    """`function` of the lanes that `index` (see `listed`) names, in their places among zeros.

    With `now`, in their places in it: it is then also the function's first argument, and is updated in place.
    """
    size = len(index)
    out = now
    if now is None:
        one = jax.eval_shape(function, *jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), arguments))
        out = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), one)

    def step(k: Array, out: Any) -> Any:
        here = index.at[k * block + jnp.arange(block)].get(mode="fill", fill_value=size)
        read = arguments if now is None else (out, *arguments)
        new = jax.vmap(function)(*jax.tree.map(lambda x: x.at[here].get(mode="clip"), read))
        return jax.tree.map(lambda x, y: x.at[here].set(y, mode="drop"), out, new)

    count = (index < size).sum()
    return lax.fori_loop(0, -(-count // block), step, out)
