"""Blocks on their way from a source to the device, one ahead of the one that is worked on."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np

from jaxgame.streaming.form import REACH
from jaxgame.streaming.stream import Stream


class Block(NamedTuple):
    """A block on the device, filled up with its last agent to the size of all; how many are meant, and sums of their
    weights in S and in the representation.
    """

    rows: dict
    count: np.ndarray
    mass: float
    shown_mass: float


def load(stream: Stream, k: int) -> Block:
    rows = stream.block(k)
    count = min(stream.block_agents, stream.n_agents - k * stream.block_agents)
    uniform = count * float(stream.dtype.type(1 / stream.n_agents))
    reach = rows.get(REACH[stream.kind])
    shown = uniform if reach is None else float(reach.sum(dtype=np.float64))
    missing = stream.block_agents - count
    if missing:
        rows = {name: np.concatenate([x, np.repeat(x[-1:], missing, 0)]) for name, x in rows.items()}
    # In an alignment game agents meet the plain mean, whatever their reach.
    return Block(jax.device_put(rows), np.asarray(count), uniform if stream.kind == "alignment" else shown, shown)


def read_ahead(stream: Stream, start: int = 0) -> Generator[Block, None, None]:
    """Blocks start, start + 1, …: while one is worked on, the next one is read. None, where all were had before."""
    if start == stream.n_blocks:
        return
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(load, stream, start)
        for k in range(start, stream.n_blocks):
            block = coming.result()
            if k + 1 < stream.n_blocks:
                coming = reader.submit(load, stream, k + 1)
            yield block
