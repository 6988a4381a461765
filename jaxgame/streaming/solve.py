"""The solve of a population that does not fit in memory: passes over its blocks, resumed where it was stopped.

What is solved, and what a pass proves, is as for a large population in memory (`solvers.settle`, theory §6); only sums
over blocks are kept here, in double precision.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgame.checkpoint import Checkpoint
from jaxgame.solvers.settle import ahead, unfinished, within
from jaxgame.streaming import checkpoint as checkpoints
from jaxgame.streaming.passes import answered, blank_search, facts
from jaxgame.streaming.progress import Report, shown
from jaxgame.streaming.reading import read_ahead
from jaxgame.streaming.state import State, advanced, begun, unsearched
from jaxgame.streaming.stream import Stream
from jaxgame.streaming.streamed import Streamed

MAX_PASSES = 50
EVERY = 10.0  # seconds between two checkpoints


def solve_stream(
    stream: Stream,
    *,
    tol: float | None = None,
    max_passes: int = MAX_PASSES,
    checkpoint: str | Path | None = None,
    every: float = EVERY,
    profile: str | Path | None = None,
    progress: bool = False,
) -> Streamed:
    """Find the equilibrium of a population that is read in blocks, in memory that does not grow with it.

    A sample is solved first; each pass then answers to one aggregate, and proves by how much that is off. Matrix
    curvature costs more than in memory, since no agent's mixture is kept from pass to pass.

    stream: `Stream(…)` or `open_stream(folder)`. tol: on the scale-free natural residual (theory §1), default 1e-10 in
    float64 and 1e-6 in float32. max_passes: over all agents. checkpoint: a folder, made if need be, to note there every
    `every` seconds and after every pass how far the solve is; a solve that was stopped, by whatever, goes on from there
    when it is called again, to the same answer bit by bit. profile: a .npy file to write all mixtures (n, D) to, under
    a temporary name until it is whole; one more pass. progress: a bar, if stderr is a terminal.

    Does not raise for a failed solve: look at `converged` and `message`. Raises ValueError for arguments that make no
    sense, for a block that is cut short, not finite or off the simplex (by block, array and agent), and for a
    checkpoint of another population; OSError where files cannot be read or written; KeyboardInterrupt, with how to go
    on, when stopped.
    """
    if tol is None:
        tol = 1e-6 if stream.dtype == np.float32 else 1e-10
    if not tol > 0:
        raise ValueError(f"tol is {tol}, expected a positive number")
    if max_passes < 1 or max_passes != int(max_passes):
        raise ValueError(f"max_passes is {max_passes}, expected an integer ≥ 1")
    with (
        nullcontext() if checkpoint is None else closing(checkpoints.checkpoint(checkpoint, stream)) as keeper,
        shown(stream.n_blocks, progress) as report,
    ):
        run = _Run(stream, jnp.asarray(tol, stream.dtype), int(max_passes), keeper, every, report)
        with run.kept():
            run.finish()
        found = _streamed(run)
        if profile is not None:
            found.write_profile(profile, report)
    return found


class _Run:
    """A solve under way."""

    def __init__(
        self, stream: Stream, tol: Any, max_passes: int, keeper: Checkpoint | None, every: float, report: Report
    ):
        self.stream, self.tol, self.keeper, self.every, self.report = stream, tol, keeper, every, report
        self.max_passes = jnp.asarray(max_passes, int)
        report("solving a sample", 0)
        self.state = self._resumed() or begun(stream)
        self.saved_at = time.monotonic()

    def _resumed(self) -> State | None:
        if self.keeper is None:
            return None
        like = jax.tree.map(np.asarray, unsearched(self.stream, blank_search(self.stream)))
        return self.keeper.restore(like)

    def finish(self) -> None:
        while unfinished(self.state.search, self.state.proof, self.tol, self.max_passes):
            self._pass()
            self._save()

    def _pass(self) -> None:
        stream, search, proof = self.stream, self.state.search, self.state.proof
        _, fine = ahead(search, proof, self.tol, self.max_passes)
        first = int(search.steps) == 0
        doing = f"pass {int(search.steps) + 1}" + ("" if first else f", residual {float(proof.residual):.1e}")
        arguments = stream.form, stream.numbers
        with closing(read_ahead(stream, int(self.state.tally.next))) as blocks:
            for rows, count, mass, shown_mass in blocks:
                found = answered(*arguments, rows, count, search.point, fine, proof.spread)
                known = facts(*arguments, rows, count) if first else None
                tally = self.state.tally.plus(found, known, mass, shown_mass)
                self.state = self.state.replace(tally=tally)
                self.report(doing, int(tally.next))
                if time.monotonic() - self.saved_at > self.every:
                    self._save()
        self.state = advanced(stream, self.state, fine)

    def _save(self) -> None:
        if self.keeper is not None:
            self.keeper.save(self.state)
            self.saved_at = time.monotonic()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Neither Ctrl-C nor a block that is wrong loses anything."""
        try:
            yield
        except Exception:
            self._save()
            raise
        except KeyboardInterrupt:
            self._save()
            where = f"stopped in pass {int(self.state.search.steps) + 1} after {int(self.state.tally.next)} blocks"
            more = "without a checkpoint" if self.keeper is None else "the same call goes on from there"
            raise KeyboardInterrupt(f"{where}; {more}") from None


def _streamed(run: _Run) -> Streamed:
    state, passes = run.state, int(run.state.search.steps)
    proof = state.proof
    return Streamed(
        stream=run.stream,
        aggregate=np.asarray(state.aggregate),
        precision=np.asarray(state.precision),
        representation=np.asarray(proof.representation),
        residual=float(proof.residual),
        gap=float(proof.gap) if bool(state.tally.concave) else np.inf,
        converged=bool(within(proof, run.tol)),
        passes=passes,
        tol=float(run.tol),
        history=np.asarray(proof.history)[:passes],
    )
