"""Work on a population a block of agents at a time. Trees of arrays have a leading axis of agents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax


def summed(function: Callable[[Any], Array], agents: Any, size: int) -> Array:
    """The sum of `function` over blocks of `size` agents, of which it returns the sum itself."""
    n = _count(agents)
    if n <= size:
        return function(agents)

    def block(start: Array | int) -> Array:
        return function(_block(agents, start, size))

    first = function(jax.tree.map(lambda x: x[n - n % size :], agents)) if n % size else block(n - size)
    whole = n // size if n % size else n // size - 1
    return lax.fori_loop(0, whole, lambda k, total: total + block(k * size), first)


def mapped(function: Callable[[Any], Any], agents: Any, size: int) -> Any:
    """`function` of agents, `size` at a time: what it holds meanwhile stays in cache."""
    n = _count(agents)
    if n <= size:
        return function(agents)

    def put(k: Array, out: Any) -> Any:
        # The last block overlaps the one before: a shorter one would be compiled besides, and joined by a copy.
        start = jnp.minimum(k * size, n - size)
        block = function(_block(agents, start, size))
        return jax.tree.map(lambda x, y: lax.dynamic_update_slice_in_dim(x, y, start, 0), out, block)

    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[:size], agents))
    out = jax.tree.map(lambda x: jnp.zeros((n, *x.shape[1:]), x.dtype), shapes)
    return lax.fori_loop(0, -(-n // size), put, out)


def _count(agents: Any) -> int:
    return jax.tree.leaves(agents)[0].shape[0]


def _block(agents: Any, start: Array | int, size: int) -> Any:
    return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, size), agents)
