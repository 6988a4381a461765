"""Work on a population a block of agents at a time. Trees of arrays have a leading axis of agents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax


def summed(function: Callable[[Any], Array], agents: Any, size: int) -> Array:
    """The sum of `function` over blocks of `size` agents, of which it returns the sum itself."""
    blocks, rest = _split(agents, size)
    total = function(rest)
    if blocks is None:
        return total
    return lax.scan(lambda total, block: (total + function(block), None), total, blocks)[0]


def mapped(function: Callable[[Any], Any], agents: Any, size: int) -> Any:
    """`function` of agents, `size` at a time: what it holds meanwhile stays in cache."""
    blocks, rest = _split(agents, size)
    if blocks is None:
        return function(rest)
    first = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), lax.map(function, blocks))
    if not len(jax.tree.leaves(rest)[0]):
        return first
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, function(rest))


def _split(agents: Any, size: int) -> tuple[Any, Any]:
    """Whole blocks of agents (None where there is none), and the rest."""
    n = jax.tree.leaves(agents)[0].shape[0]
    whole = n - n % size
    rest = jax.tree.map(lambda x: x[whole:], agents)
    if not whole:
        return None, rest
    return jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), agents), rest
