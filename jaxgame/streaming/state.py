"""Where a solve stands between two blocks: all that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame._pytree import pytree
from jaxgame.solvers.population import Answer
from jaxgame.solvers.settle import Proof, Search, precision, unproven
from jaxgame.streaming.form import MEETING, REACH
from jaxgame.streaming.passes import concluded, first_search, ground_of
from jaxgame.streaming.stream import Stream
from jaxgame.streaming.tally import Tally, empty

RECORD = 100  # passes whose residuals are kept: not the most passes, so that a solve can go on with more of them


@pytree()
class State:
    """The search, what the last whole pass proved, the aggregate (D,) that it answered to and the precision of its
    answers, and the sums of the pass that is under way.
    """

    search: Search
    proof: Proof
    aggregate: Array
    precision: Array
    tally: Tally
    replace: ClassVar[Callable[..., Any]]


def unsearched(stream: Stream, search: Search) -> State:
    """Before the first pass."""
    return State(search, unproven(search.point, RECORD), search.point, precision(search.miss), empty(stream.n_groups))


def begun(stream: Stream) -> State:
    """After the first stage, on a sample."""
    return unsearched(stream, first_search(stream))


def advanced(stream: Stream, state: State, fine: Array) -> State:
    """After a pass whose answers had the precision `fine`. ValueError where weights do not sum to 1."""
    tally, dtype = state.tally, stream.dtype
    reach = REACH[stream.kind]
    if reach in stream.rows and abs(tally.shown_mass - 1) > (1e-4 if dtype == np.float32 else 1e-8):
        raise ValueError(f"{reach} sums to {float(tally.shown_mass):.10g} over all agents, expected 1")
    parts = (tally.total / tally.mass, tally.shown / tally.shown_mass, tally.error, tally.slip, tally.gap, tally.spread)
    found = Answer(*(jnp.asarray(part, dtype) for part in parts))
    numbers = (stream.numbers[MEETING[stream.kind]], tally.own, tally.pull, tally.squares)
    ground = ground_of(*(jnp.asarray(x, dtype) for x in numbers))
    search, proof = concluded(ground, state.search, state.proof, found)
    return State(search, proof, state.search.point, fine, tally.anew())
