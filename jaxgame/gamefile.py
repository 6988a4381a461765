"""A game of the user's own, from a file.

Two forms, one set of names: those of the constructors `AlignmentGame` and `QuadraticGame`.

* `game.toml`: numbers inline as nested lists, or the path of a `.npy` or `.csv` file beside it.
* `game.npz`: the same names as arrays; what is a table in TOML has a dot in its name (`coupling.B`). Texts and truth
  values are arrays with one element. Pickled objects are refused.

    kind = "alignment"             # targets (n, D), kernel (D, D), appeal (n, D) or (D,); optional attractiveness,
    targets = "targets.csv"        # consistency, diversity, diversity_form, consistency_metric, spread, reach,
    kernel = [[1, 0.2], [0.2, 1]]  # multiplicity, and a network: [coupling] with weights (n, n) or edges
    appeal = [0.3, 0.1]

    kind = "quadratic"             # linear (n, D), and
    linear = "linear.npy"          # curvature: a number, (n,), (D, D) or (n, D, D); or a table:
    curvature = 1.0                # [curvature] with diagonal (D,) or (n, D), or with scale (n,) and matrix (D, D)
    [coupling]
    kind = "mean-field"            # B (D, D); optional sensitivity, reach, multiplicity, atomic, include_self
    B = [[0.5, 0], [0, 0.5]]       # or "network": weights (n, n) or edges, optional B; or "dense": B (n, n, D, D)

`edges` is (m, 3), a row i, j, weight for "i meets j", for networks too large for an (n, n) matrix. `groups`, a list of
D names, is optional everywhere. Precision is that of the arrays; inline numbers and CSV files are float64.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, NoReturn

import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO
from numpy.lib import format as npy

from jaxgame.config import read_toml, suggestion
from jaxgame.games import AlignmentGame, Dense, Diagonal, MeanField, Network, QuadraticGame, Scaled

LIMIT = 1 << 30  # bytes that the arrays of one file may take


def load(path: Path, *, limit: int = LIMIT) -> tuple[AlignmentGame | QuadraticGame, tuple[str, ...]]:
    """The game in a `.npz` or `.toml` file, and the names of its groups ("group 0", … where the file gives none).

    limit: bytes that all arrays together may take, checked on their headers before anything is allocated.
    Raises ValueError, one line, naming the file and the entry that is wrong; OSError for a file that cannot be read.
    """
    if path.suffix == ".npz":
        entries = _nested(_read_npz(path, _Budget(limit)), path)
    elif path.suffix == ".toml":
        entries = _read_toml(path, _Budget(limit))
    else:
        raise ValueError(f"{path}: expected a file that ends in .npz or .toml")
    top = _Table(str(path), entries)
    kind = top.text("kind", ("alignment", "quadratic"))
    names = top.pop("groups") if top.has("groups") else None
    try:
        game = _alignment(top) if kind == "alignment" else _quadratic(top)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(str(path)) else f"{path}: {message}") from None
    return game, _names(path, names, game.n_groups)


def _alignment(top: _Table) -> AlignmentGame:
    required = {name: top.numbers(name) for name in ("targets", "kernel", "appeal")}
    levels = ("attractiveness", "consistency", "diversity", "spread", "reach", "multiplicity")
    optional: dict[str, Any] = {name: top.numbers(name) for name in levels if top.has(name)}
    optional |= {name: top.text(name) for name in ("diversity_form", "consistency_metric") if top.has(name)}
    if top.has("coupling"):
        coupling = top.table("coupling")
        coupling.text("kind", ("network",), default="network")
        optional["coupling"] = _network(coupling, len(np.atleast_1d(required["targets"])), {})
        coupling.end()
    top.end()
    return AlignmentGame(**required, **optional)


def _quadratic(top: _Table) -> QuadraticGame:
    linear = top.numbers("linear")
    if isinstance(top.get("curvature"), dict):
        table = top.table("curvature")
        if table.has("diagonal"):
            curvature = Diagonal(table.numbers("diagonal"))
        else:
            curvature = Scaled(table.numbers("scale"), table.numbers("matrix"))
        table.end()
    else:
        curvature = top.numbers("curvature")
    table = top.table("coupling")
    kind = table.text("kind", ("mean-field", "network", "dense"))
    if kind == "mean-field":
        numbers = ("sensitivity", "reach", "multiplicity")
        options: dict[str, Any] = {name: table.numbers(name) for name in numbers if table.has(name)}
        options |= {name: table.truth(name) for name in ("atomic", "include_self") if table.has(name)}
        coupling = MeanField(table.numbers("B"), **options)
    elif kind == "network":
        coupling = _network(table, len(np.atleast_1d(linear)), {"B": table.numbers("B")} if table.has("B") else {})
    else:
        coupling = Dense(table.numbers("B"))
    table.end()
    top.end()
    return QuadraticGame(linear, curvature, coupling=coupling)


def _network(table: _Table, n: int, options: dict[str, Any]) -> Network:
    if not table.has("edges"):
        return Network(table.numbers("weights"), **options)
    edges = table.numbers("edges")
    if edges.ndim != 2 or edges.shape[1] != 3:
        raise ValueError(f"{table.where}edges has shape {edges.shape}, expected (m, 3): rows of i, j, weight")
    ends = edges[:, :2]
    wrong = (ends < 0) | (ends >= n) | (ends != np.floor(ends))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"{table.where}edges[{row}, {column}] is {ends[row, column]}, expected an agent from 0 to {n - 1}"
        )
    return Network(BCOO((jnp.asarray(edges[:, 2]), jnp.asarray(ends.astype(int))), shape=(n, n)), **options)


def _names(path: Path, names: Any, n_groups: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"group {d}" for d in range(n_groups))
    names = names.tolist() if isinstance(names, np.ndarray) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) != n_groups:
        raise ValueError(f"{path}: groups is {names!r}, expected a list of {n_groups} names")
    return tuple(names)


class _Table(dict):
    """Entries of a file that are taken one by one; `end` complains about what nobody asked for."""

    def __init__(self, where: str, entries: dict[str, Any], prefix: str = ""):
        super().__init__(entries)
        self.where, self.known = f"{where}: {prefix}", []

    def _take(self, name: str) -> Any:
        self.known.append(name)
        if name not in self:
            raise ValueError(f"{self.where}{name} is missing")
        return self.pop(name)

    def has(self, name: str) -> bool:
        self.known.append(name)
        return name in self

    def numbers(self, name: str) -> np.ndarray:
        value = self._take(name)
        try:
            array = value if isinstance(value, np.ndarray) else np.asarray(value)
        except ValueError:
            raise ValueError(f"{self.where}{name} has rows of different lengths") from None
        if array.dtype.kind not in "iuf" or array.dtype.itemsize not in (1, 2, 4, 8) or array.dtype == np.float16:
            raise ValueError(f"{self.where}{name} holds {array.dtype}, expected float32, float64 or whole numbers")
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def text(self, name: str, choices: tuple[str, ...] = (), default: str | None = None) -> str:
        value = default if default is not None and name not in self else _scalar(self._take(name))
        if not isinstance(value, str) or (choices and value not in choices):
            raise ValueError(f"{self.where}{name} is {value!r}, expected {' or '.join(map(repr, choices)) or 'a text'}")
        return value

    def truth(self, name: str) -> bool:
        value = _scalar(self._take(name))
        if not isinstance(value, bool):
            raise ValueError(f"{self.where}{name} is {value!r}, expected true or false")
        return value

    def table(self, name: str) -> _Table:
        value = self._take(name)
        if not isinstance(value, dict):
            raise ValueError(
                f"{self.where}{name} is {type(value).__name__}, expected a table ([{name}], or {name}.… in npz)"
            )
        return _Table(self.where.rstrip(": "), value, f"{name}.")

    def end(self) -> None:
        for name in self:
            raise ValueError(f"{self.where}{name} is not used here; {suggestion(name, dict.fromkeys(self.known))}")


def _scalar(value: Any) -> Any:
    return value.item() if isinstance(value, np.ndarray) and value.size == 1 else value


class _Budget:
    """Bytes that may still be allocated."""

    def __init__(self, limit: int):
        self.limit = self.left = limit

    def spend(self, where: str, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ValueError(
                f"{where}: more than the limit of {self.limit:,} bytes in all; raise --limit if that is meant"
            )


def _read_npz(path: Path, budget: _Budget) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                with archive.open(info) as file:
                    _check_header(f"{path}: {info.filename}", file, info.file_size, budget)
            arrays = {}
            for info in archive.infolist():
                with archive.open(info) as file:
                    arrays[info.filename.removesuffix(".npy")] = npy.read_array(file, allow_pickle=False)
            return arrays
    # NotImplementedError and RuntimeError: what zipfile raises for an unknown compression and for an encrypted member.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path}: not a whole npz file ({error})") from None


def _read_npy(path: Path, budget: _Budget) -> np.ndarray:
    with open(path, "rb") as file:
        _check_header(str(path), file, path.stat().st_size, budget)
        file.seek(0)
        return npy.read_array(file, allow_pickle=False)


def _check_header(where: str, file: IO[bytes], size: int, budget: _Budget) -> None:
    """Read only the header: no pickle, a size within the budget, and as many bytes behind it as it promises."""
    try:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"format version {version}")
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(file)
    except ValueError as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{where} is not an npy array ({first})") from None
    if dtype.hasobject:
        raise ValueError(f"{where} holds pickled Python objects, expected numbers or text (pickles can run code)")
    promised = dtype.itemsize * math.prod(shape)
    budget.spend(where, promised)
    if (held := size - file.tell()) != promised:
        raise ValueError(f"{where} is cut short or damaged: {held:,} bytes of data, its header promises {promised:,}")


def _nested(flat: dict[str, np.ndarray], path: Path) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, array in flat.items():
        table, _, entry = name.rpartition(".")
        place = nested.setdefault(table, {}) if table else nested
        if not isinstance(place, dict):
            raise ValueError(f"{path}: both {table} and {name} are given")
        place[entry] = array
    return nested


def _read_toml(path: Path, budget: _Budget) -> dict[str, Any]:
    budget.spend(str(path), path.stat().st_size)
    return _resolved(read_toml(path), path.parent, budget)


def _resolved(data: dict[str, Any], folder: Path, budget: _Budget) -> dict[str, Any]:
    """With the arrays in place of the names of files; inline numbers as float64."""
    resolved: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            value = _resolved(value, folder, budget)
        elif isinstance(value, str) and value.endswith(".npy"):
            value = _read_npy(folder / value, budget)
        elif isinstance(value, str) and value.endswith(".csv"):
            value = _read_csv(folder / value, budget)
        resolved[name] = value
    return resolved


def _read_csv(path: Path, budget: _Budget) -> np.ndarray:
    """Numbers, commas, no header; one column is a vector."""
    size = path.stat().st_size
    budget.spend(str(path), 8 * (size // 2 + 1))  # a number and its comma take two bytes or more
    if size == 0:
        _fail_csv(path, "it is empty")
    try:
        table = np.loadtxt(path, delimiter=",", ndmin=2, encoding="utf-8-sig")
    except (ValueError, UnicodeDecodeError) as error:
        _fail_csv(path, str(error).splitlines()[0])
    return table[:, 0] if table.shape[1] == 1 else table


def _fail_csv(path: Path, reason: str) -> NoReturn:
    raise ValueError(f"{path}: expected rows of numbers separated by commas, without a header ({reason})")
