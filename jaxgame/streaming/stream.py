"""A population as a source of blocks of agents, checked as they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgame import _checks
from jaxgame.config import suggestion
from jaxgame.streaming.form import KINDS, OPTIONS, SHARES, UNSIGNED, Form, small_game

BLOCK_AGENTS = 2**17
RUN = 64  # neighbours that are sampled together: a page of a file
SAMPLED_BLOCKS = 16  # from which a sample is drawn, where only whole blocks can be had

Rows = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Stream:
    """n agents of a mean-field `QuadraticGame` or of an `AlignmentGame`, of whom a block at a time is in memory.

    kind: "quadratic" or "alignment". n_agents: how many. read(start, stop): what agents start … stop − 1 do not share,
    a dict of arrays with a row an agent, all float32 or all float64; the same numbers whenever it is asked. shared:
    what all agents share. Names are those of the files of `jaxgame solve`:

    * quadratic: linear (b, D); curvature: a number or (D, D), or (b,), (b, D, D) by agent; or `curvature.diagonal` (D,)
      or (b, D); or `curvature.scale` (b,) with `curvature.matrix` (D, D); `coupling.B` (D, D); optional
      `coupling.sensitivity`, a number or (b,), `coupling.reach` (b,), `coupling.atomic`, `coupling.include_self`.
    * alignment: targets (b, D); kernel (D, D); appeal (D,) or (b, D); optional attractiveness, consistency, diversity,
      numbers or (b,); reach (b,); spread (D,); diversity_form, consistency_metric.

    block_agents: agents read at a time, the same for all blocks but a shorter last one; memory is a few times theirs.
    anywhere: whether `read` may be asked for any range, so that a sample takes few reads; else only for whole blocks.
    stamp: what changes when the data does (times and sizes of files), for resuming. groups: D names.

    The first block is read at once. Raises ValueError, naming the array, for wrong names, shapes or dtypes, and for
    what the constructors of the games refuse; values of agents, there and later, by block, array and agent.
    """

    kind: str
    n_agents: int
    read: Callable[[int, int], Mapping[str, Any]]
    shared: Mapping[str, Any]
    block_agents: int = BLOCK_AGENTS
    anywhere: bool = False
    stamp: str = ""
    groups: tuple[str, ...] | None = None
    form: Form = field(init=False, repr=False)
    numbers: dict[str, np.ndarray] = field(init=False, repr=False)  # shared
    rows: dict[str, tuple[int, ...]] = field(init=False, repr=False)  # shapes of an agent's part of every array
    dtype: np.dtype = field(init=False)
    n_groups: int = field(init=False)

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, expected {' or '.join(map(repr, KINDS))}")
        for name in ("n_agents", "block_agents"):
            if (value := getattr(self, name)) < 1 or value != int(value):
                raise ValueError(f"{name} is {value}, expected a whole number of agents")
        object.__setattr__(self, "block_agents", min(int(self.block_agents), int(self.n_agents)))
        first = {name: np.asarray(x) for name, x in self.read(0, self.block_agents).items()}
        both = [name for name in first if name in self.shared]
        if both:
            raise ValueError(f"{both[0]} is given both as shared and by agent")
        for name in (*first, *self.shared):
            if name not in KINDS[self.kind]:
                raise ValueError(f"{name} is not a part of this game; {suggestion(name, KINDS[self.kind])}")
        main = "linear" if self.kind == "quadratic" else "targets"
        if main not in first or first[main].ndim != 2 or first[main].shape[1] == 0:
            raise ValueError(f"{main} is missing or is not (agents, groups)")
        dtype = first[main].dtype
        if dtype not in (np.float32, np.float64):
            raise ValueError(f"{main} holds {dtype}, expected float32 or float64")
        if jnp.zeros((), dtype).dtype != dtype:
            raise ValueError(f"{main} holds {dtype}, for which JAX needs jax_enable_x64")
        options = tuple(sorted((name, self.shared[name]) for name in OPTIONS if name in self.shared))
        numbers = {
            name: np.asarray(_checks.array(name, x, dtype)) for name, x in self.shared.items() if name not in OPTIONS
        }
        object.__setattr__(self, "form", Form(self.kind, int(self.n_agents), options))
        object.__setattr__(self, "numbers", numbers)
        object.__setattr__(self, "rows", {name: x.shape[1:] for name, x in first.items()})
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "n_groups", first[main].shape[1])
        if self.groups is not None and len(self.groups) != self.n_groups:
            raise ValueError(f"groups has {len(self.groups)} names, expected {self.n_groups}")
        self._check(0, 0, self.block_agents, first)
        # What is shared, and shapes, are checked once, by the constructor of a game of a few of the agents.
        small_game(self.form, self.numbers, {name: x[:2] for name, x in first.items()})

    @property
    def n_blocks(self) -> int:
        return -(-self.n_agents // self.block_agents)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the groups: "group 0", … where none were given."""
        return self.groups or tuple(f"group {d}" for d in range(self.n_groups))

    def block(self, k: int) -> Rows:
        """Agents of block k, checked. ValueError naming block, array and agent."""
        start = k * self.block_agents
        stop = min(start + self.block_agents, self.n_agents)
        rows = {name: np.ascontiguousarray(x) for name, x in self.read(start, stop).items()}
        self._check(k, start, stop, rows)
        return rows

    def sample(self, size: int) -> Rows:
        """About `size` agents at even distances; all, where there are no more."""
        if self.n_agents <= size:
            parts = [self.block(k) for k in range(self.n_blocks)]
        elif self.anywhere:
            starts = np.linspace(0, self.n_agents - RUN, max(size // RUN, 1)).astype(int)
            parts = [dict(self.read(start, start + RUN)) for start in starts.tolist()]
        else:
            chosen = np.unique(np.linspace(0, self.n_blocks - 1, SAMPLED_BLOCKS).astype(int)).tolist()
            every = max(1, len(chosen) * self.block_agents // size)
            parts = [{name: x[::every] for name, x in self.block(k).items()} for k in chosen]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.rows}

    def _check(self, k: int, start: int, stop: int, rows: Rows) -> None:
        where = f"block {k} (agents {start:,} to {stop - 1:,})"
        if set(rows) != set(self.rows):
            raise ValueError(f"{where} has the arrays {sorted(rows)}, expected {sorted(self.rows)}")
        for name, x in rows.items():
            if x.dtype != self.dtype:
                raise ValueError(f"{where}: {name} holds {x.dtype}, expected {self.dtype}")
            if x.shape != (stop - start, *self.rows[name]):
                expected = (stop - start, *self.rows[name])
                raise ValueError(f"{where}: {name} has shape {x.shape}, cut short or misshaped; expected {expected}")
            self._refuse(where, name, start, x, ~np.isfinite(x), "a finite number")
            if name in UNSIGNED:
                self._refuse(where, name, start, x, x < 0, "a number ≥ 0")
            if name in SHARES:
                tolerance = _checks.row_tolerance(self.dtype)
                total = x @ np.ones(x.shape[1], x.dtype)
                self._refuse(where, f"the sum of {name}", start, total, np.abs(total - 1) > tolerance, "1")
            if name == "curvature" and x.ndim == 3:
                limit = 10 * x.shape[1] * np.finfo(x.dtype).eps * np.abs(x).max(initial=0)
                skew = np.abs(x - np.swapaxes(x, 1, 2))
                self._refuse(where, name, start, x, skew > limit, "a symmetric matrix")

    def _refuse(self, where: str, name: str, start: int, x: np.ndarray, bad: np.ndarray, expected: str) -> None:
        if bad.any():
            at = tuple(np.argwhere(bad)[0].tolist())
            raise ValueError(f"{where}: {name}{[start + at[0], *at[1:]]} is {x[at]}, expected {expected}")
