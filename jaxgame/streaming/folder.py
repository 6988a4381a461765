"""A population on disk: a folder with `population.json` and a .npy file for every array that has a row an agent.

`population.json` holds what all agents share, numbers as nested lists, under the names of `Stream`:

    {"kind": "quadratic", "curvature": 1.0, "coupling.B": [[0.5, 0.1], [0.1, 0.5]], "groups": ["left", "right"]}

and beside it `linear.npy` (n, D), perhaps `coupling.sensitivity.npy` (n,), … as `numpy.save` or
`numpy.lib.format.open_memmap` write them: float32 or float64, C order, all of one dtype and length.

Blocks are read from the files, not mapped into memory: pages of a map count as the process's own memory, and a file
that shrinks under a map kills the process where a read only comes short.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from jaxgame.streaming.stream import Rows, Stream

POPULATION = "population.json"
BLOCK_BYTES = 2**24  # of all arrays


@dataclass(frozen=True)
class _File:
    """A .npy file, by its header."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int

    @classmethod
    def open(cls, path: Path) -> _File:
        with open(path, "rb") as file:
            try:
                version = npy.read_magic(file)
                read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, by_columns, dtype = read_header(file)
            except ValueError as error:
                raise ValueError(f"{path} is not an npy array ({str(error).splitlines()[0]})") from None
            offset = file.tell()
        if dtype not in (np.float32, np.float64) or not dtype.isnative or not shape or (by_columns and len(shape) > 1):
            raise ValueError(
                f"{path} holds {dtype} {shape}{' by columns' if by_columns else ''}, expected float32 or float64 in C "
                "order with a row an agent"
            )
        promised, held = dtype.itemsize * math.prod(shape), path.stat().st_size - offset
        if held != promised:
            raise ValueError(
                f"{path} is cut short or damaged: {held:,} bytes of data, its header promises {promised:,}"
            )
        return cls(path, shape, dtype, offset)

    def read(self, start: int, stop: int) -> np.ndarray:
        row = math.prod(self.shape[1:])
        offset = self.offset + start * row * self.dtype.itemsize
        flat = np.fromfile(self.path, self.dtype, (stop - start) * row, offset=offset)
        if flat.size != (stop - start) * row:
            raise ValueError(f"{self.path} is cut short: it ends within agents {start:,} to {stop - 1:,}")
        return flat.reshape(stop - start, *self.shape[1:])


def open_stream(folder: str | Path, *, block_agents: int | None = None) -> Stream:
    """The population in a folder (`population.json` and .npy files: see `jaxgame.streaming.folder`).

    block_agents: how many are read at a time; default 16 MiB of them. All headers are read, and the sizes of the files
    compared with them, before anything else. Raises ValueError naming the file, array or agent that is wrong; OSError
    for a file that cannot be read.
    """
    folder = Path(folder)
    shared = _read_json(folder / POPULATION)
    kind, groups = shared.pop("kind", None), shared.pop("groups", None)
    files = {path.name.removesuffix(".npy"): _File.open(path) for path in sorted(folder.glob("*.npy"))}
    if not files:
        raise ValueError(f"{folder}: expected a .npy file for every array that has a row an agent")
    first = next(iter(files.values()))
    for file in files.values():
        if file.shape[0] != first.shape[0]:
            raise ValueError(
                f"{file.path} has {file.shape[0]:,} rows, {first.path.name} {first.shape[0]:,}; expected a row an agent"
            )

    def read(start: int, stop: int) -> Rows:
        return {name: file.read(start, stop) for name, file in files.items()}

    row = sum(math.prod(file.shape[1:]) * file.dtype.itemsize for file in files.values())
    size = 2 ** int(math.log2(max(BLOCK_BYTES // row, 1))) if block_agents is None else block_agents
    states = [(name, file.path.stat()) for name, file in files.items()]
    stamp = "; ".join(f"{name} {state.st_size} bytes of {state.st_mtime_ns}" for name, state in states)
    names = None if groups is None else tuple(map(str, groups))
    try:
        return Stream(kind, first.shape[0], read, shared, block_agents=size, anywhere=True, stamp=stamp, groups=names)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        shared = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error})") from None
    if not isinstance(shared, dict):
        raise ValueError(f"{path} holds {type(shared).__name__}, expected names and values in braces")
    return shared
