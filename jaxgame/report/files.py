"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

LAST = "report.json"  # its presence says that the other files belong to it


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A temporary folder inside `out` (made if need be), whose files replace those in `out` at the end, a rename each.

    If the body raises, `out` is left as it was. OSError where `out` cannot be written.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    folder = out / f".unfinished-{secrets.token_hex(8)}"  # known before it is made, so that nothing is left behind
    try:
        folder.mkdir(parents=True)
        yield folder
        with _uninterrupted():
            for path in sorted(folder.iterdir(), key=lambda path: path.name == LAST):
                os.replace(path, out / path.name)
        made = []
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for empty in made:
            with suppress(OSError):
                empty.rmdir()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits: some new files beside some old ones would be neither study. Only the main thread is interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = []
    before = signal.signal(signal.SIGINT, lambda *_: caught.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        raise KeyboardInterrupt


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Standard JSON: arrays as lists, ∞ and NaN as null."""
    path.write_text(json.dumps(plain(data), ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def plain(x: Any) -> Any:
    """As lists, dicts and numbers that standard JSON can hold."""
    if isinstance(x, dict):
        return {str(key): plain(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [plain(value) for value in x]
    if hasattr(x, "tolist"):  # arrays of NumPy and JAX, and their scalars
        return plain(np.asarray(x).tolist())
    if isinstance(x, float) and not math.isfinite(x):
        return None
    return x
