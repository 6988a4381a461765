"""Which population a checkpoint is of."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from jaxgame.checkpoint import Checkpoint
from jaxgame.streaming.stream import Stream


def checkpoint(folder: str | Path, stream: Stream) -> Checkpoint:
    """Checkpoints of a solve of that population."""
    return Checkpoint(folder, fingerprint(stream), "population")


def fingerprint(stream: Stream) -> dict[str, str]:
    """What tells a population from another: sizes, what is shared, the first and last agent, times of files."""

    def digest(arrays: dict[str, np.ndarray]) -> str:
        sha = hashlib.sha256()
        for name in sorted(arrays):
            sha.update(f"{name} {arrays[name].shape} {arrays[name].dtype}".encode())
            sha.update(np.ascontiguousarray(arrays[name]).tobytes())
        return sha.hexdigest()

    first, last = stream.block(0), stream.block(stream.n_blocks - 1)
    return {
        "size": f"{stream.n_agents} agents, {stream.n_groups} groups, {stream.dtype}, blocks of {stream.block_agents}",
        "form": f"{stream.kind} {stream.form.options}",
        "shared values": digest(stream.numbers),
        "first agent": digest({name: x[:1] for name, x in first.items()}),
        "last agent": digest({name: x[-1:] for name, x in last.items()}),
        "files": stream.stamp,
    }
