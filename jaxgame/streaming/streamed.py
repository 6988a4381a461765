"""The equilibrium of a streamed population: D numbers, their proof, and every mixture on demand."""

from __future__ import annotations

import os
import secrets
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from jaxgame.streaming.passes import mixtures
from jaxgame.streaming.progress import Report
from jaxgame.streaming.reading import Block, load, read_ahead
from jaxgame.streaming.stream import Stream


@dataclass(frozen=True, eq=False)
class Streamed:
    """What `solve_stream` found; of every agent the mixture can be had, by block, and none is kept.

    aggregate (D,): what all mixtures answer to, up to `precision`. representation (D,): what they show together.
    residual: bound on the natural residual of all agents, scale-free (theory §1). gap: bound on what any agent can
    gain, in units of utility, ∞ if an agent's utility is not concave. passes over all agents; history: the residual
    after each of the first hundred.
    """

    stream: Stream
    aggregate: np.ndarray
    precision: np.ndarray
    representation: np.ndarray
    residual: float
    gap: float
    converged: bool
    passes: int
    tol: float
    history: np.ndarray

    @property
    def message(self) -> str:
        """What happened, in a sentence or two, with what to try next."""
        proof = f"natural residual at most {self.residual:.1e}"
        passes = f"{self.passes} pass" + ("es" if self.passes != 1 else "")
        if self.converged:
            gain = (
                f"no agent gains more than {self.gap:.1e}"
                if np.isfinite(self.gap)
                else "an agent's utility is not concave, so nothing bounds what it could gain"
            )
            return f"Converged in {passes} over {self.stream.n_agents:,} agents: {proof}; {gain}."
        if not np.isfinite(self.residual):
            return f"Not finite after {passes}: look for curvature that is zero, or numbers near the largest there are."
        return (
            f"Not converged in {passes}: {proof}, wanted {self.tol:.1e}. If the residuals (`history`) still fall, "
            "raise max_passes; if not, the game may not be monotone: solve a few thousand of its agents with `solve`, "
            "and `certify` that."
        )

    def profile_block(self, k: int) -> np.ndarray:
        """The mixtures of the agents of block k, (b, D)."""
        return self._mixtures(load(self.stream, k))

    def _mixtures(self, block: Block) -> np.ndarray:
        form, shared = self.stream.form, self.stream.numbers
        return np.asarray(mixtures(form, shared, block.rows, self.aggregate, self.precision))[: int(block.count)]

    def write_profile(self, path: str | Path, report: Report = lambda doing, done: None) -> None:
        """All mixtures as a .npy file (n, D), which appears when it is whole. OSError where it cannot be written."""
        path, stream = Path(path), self.stream
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            with open(unfinished, "wb") as file:
                shape = (stream.n_agents, stream.n_groups)
                header = dict(descr=npy.dtype_to_descr(stream.dtype), fortran_order=False, shape=shape)
                npy.write_array_header_1_0(file, header)
                with closing(read_ahead(stream)) as blocks:
                    for k, block in enumerate(blocks):
                        file.write(self._mixtures(block).tobytes())
                        report("writing mixtures", k + 1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
