"""What is finished of a sweep: in memory, or on disk so that it can be taken up again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import zipfile
from pathlib import Path

import numpy as np

UNFINISHED = "unfinished-sweep"
Arrays = dict[str, np.ndarray]


def digest(arrays: list[np.ndarray]) -> str:
    sha = hashlib.sha256()
    for x in arrays:
        sha.update(f"{x.shape} {x.dtype}".encode())
        sha.update(np.ascontiguousarray(x).tobytes())
    return sha.hexdigest()


class Memory:
    """Parts by name."""

    def __init__(self):
        self.parts: dict[str, Arrays] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.parts

    def write(self, name: str, part: Arrays) -> None:
        self.parts[name] = part

    def read(self, name: str) -> Arrays:
        return self.parts[name]

    def close(self) -> None:
        self.parts.clear()


class Folder:
    """The same as files, each of them whole, in a folder that says which sweep it is of.

    ValueError for a folder with parts of another sweep, OSError where it cannot be written.
    """

    def __init__(self, out: Path, mark: dict[str, str]):
        self.folder = out / UNFINISHED
        self.folder.mkdir(parents=True, exist_ok=True)
        note = self.folder / "sweep.json"
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            known = json.loads(note.read_text(encoding="utf-8"))
            if known != mark:
                other = [name for name in mark if not isinstance(known, dict) or known.get(name) != mark[name]]
                raise ValueError(
                    f"{self.folder} holds parts of another sweep ({', '.join(other)} differ); name another folder, or "
                    "delete this one to start anew"
                )
        write_whole(note, lambda path: path.write_text(json.dumps(mark, indent=1) + "\n", encoding="utf-8"))

    def __contains__(self, name: str) -> bool:
        try:
            self.read(name)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return False  # none, or not what was written: found anew
        return True

    def write(self, name: str, part: Arrays) -> None:
        write_whole(self._path(name), lambda path: _savez(path, part))

    def read(self, name: str) -> Arrays:
        with open(self._path(name), "rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    def close(self) -> None:
        """Nothing is left to be taken up."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"


def write_whole(path: Path, write) -> None:
    """Through a temporary name, so that the file is there whole or not at all, after a loss of power as well."""
    temporary = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _savez(path: Path, part: Arrays) -> None:
    with open(path, "wb") as file:
        np.savez(file, **part)  # pyright: ignore[reportArgumentType]
