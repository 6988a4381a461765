"""Where a run stands, on disk: written whole, the last two kept, and given only to the run it is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

KEPT = 2  # should the last one be damaged


class Checkpoint:
    """A folder of checkpoints, by orbax; each replaces the one before the last.

    mark: what tells this run from others, text by name; kind: what they are, as in "population".
    """

    def __init__(self, folder: str | Path, mark: dict[str, str], kind: str):
        # Here: importing it takes a second, and only those who ask for checkpoints need it.
        import orbax.checkpoint as orbax

        self.folder, self.mark, self.kind, self.args = Path(folder).resolve(), mark, kind, orbax.args
        options = orbax.CheckpointManagerOptions(
            max_to_keep=KEPT, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self.manager = orbax.CheckpointManager(
            self.folder, options=options, item_names=(kind, "state"), item_handlers=None
        )

    def restore(self, like: Any) -> Any:
        """The last state that can be read, a tree like `like`; None where there is none.

        ValueError for one of another run, or if none can be read.
        """
        failures = []
        for step in sorted(self.manager.all_steps(), reverse=True):
            try:
                asked = self.args.Composite(**{self.kind: self.args.JsonRestore()})
                mark = self.manager.restore(step, args=asked)[self.kind]
                if mark == self.mark:
                    asked = self.args.Composite(state=self.args.StandardRestore(_named(like)))
                    state = self.manager.restore(step, args=asked)["state"]
                    return jax.tree.unflatten(
                        jax.tree.structure(like),
                        [np.asarray(state[name], old.dtype) for name, old in _named(like).items()],
                    )
            except Exception as error:  # whatever orbax, and what it stands on, make of a damaged file
                failures.append(f"{step}: {error}".splitlines()[0])
                continue
            other = [name for name in self.mark if not isinstance(mark, dict) or mark.get(name) != self.mark[name]]
            raise ValueError(
                f"{self.folder} is a checkpoint of another {self.kind} ({', '.join(other)} differ); name another "
                "folder, or delete this one to start anew"
            )
        if failures:
            raise ValueError(
                f"{self.folder}: no checkpoint can be read ({'; '.join(failures)}); delete the folder to start anew"
            )
        return None

    def save(self, state: Any) -> None:
        step = (self.manager.latest_step() or 0) + 1
        mark = {self.kind: self.args.JsonSave(self.mark)}
        parts = self.args.Composite(**mark, state=self.args.StandardSave(_named(state)))
        self.manager.save(step, args=parts, force=True)

    def close(self) -> None:
        self.manager.close()


def _named(state: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree, on the host, by their paths."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}
