"""How many agents, or games, go together, by what computes: measured, benchmarks/README.md.

A core is fast on what stays in its cache. An accelerator starts a kernel an operation and a block, which takes as long
as some megabytes: it is fast on blocks that make up for that.
"""

from __future__ import annotations

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Bytes of a (D, b) array of a block: formulas, where responses are formulas; matrices, where they are iterated;
    derivatives, of either kind.

    Agents at a time: lot, that iterate together until most are settled; last, until all are; responses, that iterate
    until the last one has its own; inverses, each of which has a matrix inverted; glances, of whom a few numbers are
    looked at. lanes: games of a batch that are iterated together; on an accelerator a guess.
    """

    formulas: int
    matrices: int
    derivatives: int
    lot: int
    last: int
    responses: int
    inverses: int
    glances: int
    lanes: int


CORES = Sizes(
    formulas=2**17,
    matrices=2**20,
    derivatives=2**19,
    lot=512,
    last=512,
    responses=1024,
    inverses=128,
    glances=2**18,
    lanes=4,
)
ACCELERATOR = Sizes(
    formulas=2**26,
    matrices=2**26,
    derivatives=2**26,
    lot=2**17,
    last=2**12,
    responses=2**15,
    inverses=2**15,
    glances=2**22,
    lanes=4096,
)


def on_cores() -> bool:
    """Whether a CPU computes, where nothing else is asked for."""
    return jax.default_backend() == "cpu"


def sizes() -> Sizes:
    return CORES if on_cores() else ACCELERATOR
