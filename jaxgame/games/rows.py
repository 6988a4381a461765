"""Products with a sparse network, by rows.

A product of XLA's BCOO writes every edge's term to memory and scatters it. Here an agent's first edges lie side by
side, so that their terms are summed as they are gathered, in one loop over the agents; what agents with more edges
have beyond is cut into chunks of the same width, and only the chunks' sums are scattered. Shapes depend on the numbers
of agents and edges alone, so that one program serves all networks of a size, however skewed its degrees.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental.sparse import BCOO

from jaxgame import _checks
from jaxgame._pytree import pytree
from jaxgame.linalg import dot

WIDEST = 16  # edges side by side: all are one kernel


@pytree()
class Slots:
    """Edges side by side, (places, width): whom they meet, and which they are; empty ones are beyond the last."""

    columns: Array
    edges: Array

    def values(self, data: Array) -> Array:
        return data.at[self.edges].get(mode="fill", fill_value=0)

    def sums(self, values: Array, x: Array) -> Array:
        out = jnp.zeros((values.shape[0], x.shape[1]), x.dtype)
        for s in range(values.shape[1]):
            out = out + values[:, s, None] * x.at[self.columns[:, s]].get(mode="promise_in_bounds")
        return out


@pytree()
class Rows:
    """The layout of a sparse (n, n) matrix: a place for the first edges of every agent, and one a chunk of others."""

    first: Slots
    rest: Slots
    agent: Array  # (chunks,)
    any_rest: Array

    def factor(self, data: Array) -> Factor:
        # Left to itself XLA finds the values of an agent's edges anew for each of the groups.
        values = lax.optimization_barrier((self.first.values(data), self.rest.values(data)))
        return Factor(self, *values)


@pytree()
class Factor:
    """A sparse matrix (n, n) for products with (n, D)."""

    rows: Rows
    first: Array
    rest: Array

    def __matmul__(self, x: Array) -> Array:
        rows = self.rows
        out = rows.first.sums(self.first, x)

        def with_rest() -> Array:
            sums = rows.rest.sums(self.rest, x)
            return out.at[rows.agent].add(sums, indices_are_sorted=True, mode="promise_in_bounds")

        return lax.cond(rows.any_rest, with_rest, lambda: out)


@pytree()
class Table:
    """A dense matrix (n, n) for the same products."""

    weights: Array

    def __matmul__(self, x: Array) -> Array:
        return dot(self.weights, x)


@jax.jit
def rows(weights: BCOO) -> Rows:
    """The layout of a network sorted by rows."""
    n, n_edges = weights.shape[0], weights.nse
    width = min(-(-n_edges // n), WIDEST)
    agent_of_edge, columns = (x.astype(jnp.int32) for x in weights.indices.T)
    # Edges that pad the network have rows beyond the last.
    degree = jnp.zeros(n, jnp.int32).at[agent_of_edge].add(1, indices_are_sorted=True, mode="drop")
    stop = jnp.cumsum(degree)
    start = stop - degree

    def slots(start: Array, stop: Array) -> Slots:
        edges = start[:, None] + jnp.arange(width, dtype=jnp.int32)[None]
        column = columns.at[edges].get(mode="fill", fill_value=n)
        here = (edges < stop[:, None]) & (column < n)
        return Slots(jnp.where(here, column, 0), jnp.where(here, edges, n_edges))

    chunks = -(-jnp.maximum(degree - width, 0) // max(width, 1))
    ends = jnp.cumsum(chunks)
    places = jnp.arange(n_edges // max(width, 1), dtype=jnp.int32)  # d − width edges make at most d / width chunks
    marks = jnp.zeros(places.shape, jnp.int32).at[ends].add(1, indices_are_sorted=True, mode="drop")
    agent = jnp.minimum(jnp.cumsum(marks), n - 1)
    begin = start[agent] + width * (1 + places - (ends - chunks)[agent])
    taken = places < ends[-1]
    return Rows(slots(start, stop), slots(begin, jnp.where(taken, stop[agent], 0)), agent, ends[-1] > 0)


def by_row(weights: BCOO) -> BCOO:
    """The same matrix with its edges sorted by row and column."""
    if not _checks.concrete(weights.indices):
        return weights if weights.indices_sorted else weights.sort_indices()
    row, column = np.asarray(weights.indices, np.int64).T
    place = row * (weights.shape[1] + 1) + column  # padding edges have n for row and column
    data, indices = weights.data, weights.indices
    if (np.diff(place) < 0).any():
        order = np.argsort(place, kind="stable")
        data, indices = data[order], indices[order]
    unique = weights.unique_indices
    return BCOO((data, indices), shape=weights.shape, indices_sorted=True, unique_indices=unique)


def transposed(weights: Any) -> Any:
    """The transpose of a network, dense or BCOO sorted by rows, which stays so."""
    if not isinstance(weights, BCOO):
        return weights.T
    order = jnp.argsort(weights.indices[:, 1])
    return BCOO((weights.data[order], weights.indices[order][:, ::-1]), shape=weights.shape, indices_sorted=True)


def factor(weights: Any) -> Factor | Table:
    """A network, dense or BCOO sorted by rows, for products."""
    return rows(weights).factor(weights.data) if isinstance(weights, BCOO) else Table(weights)
