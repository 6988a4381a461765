"""A phase diagram: who is represented at every point of a grid, and how surely that is known."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxgame.maps.store import write_whole

SCHEMA = "jaxgame sweep 1"
ABOUT = {
    "representation": "shares of the groups in what the audience is shown; NaN where no equilibrium was found",
    "signed": "largest signed share over agents: of the mixture that represents the group most, or how far the group "
    "is from entry, in units of utility per unit of mixture, below zero; NaN where no equilibrium was found",
    "residual": "natural residual, scale-free",
    "exploitability": "certified bound on what any agent can gain by a unilateral change, in units of utility",
    "status": "0 converged, 1 out of steps, 2 not finite, 3 stalled",
    "steps": "steps of the solver",
    "unique": "whether the equilibrium is proved to be the only one",
    "disagreement": "largest difference in any group's representation, or in its largest share, between the "
    "equilibrium shown and those found from other starts and along other ways; 0 where it is unique, NaN where "
    "nothing is known",
}
BY_GROUP = ("representation", "signed")


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
    """Equilibria on a grid, as `sweep` returns them.

    axes: name -> values (N,), in the order of the arrays' axes. Arrays over the grid: representation (…, D), signed
    (…, D): the largest signed share of a group over the agents, the largest w_id where that is positive, else
    −min_i ν_id (theory §4); residual; exploitability: a certified bound on it, ∞ where a utility is not concave;
    status, 0 = converged; steps; unique: proved; disagreement: how far apart the representations, or the groups'
    largest shares, are that other starts and ways lead to, 0 where unique, NaN where not looked for. Points that failed
    are NaN in representation and signed.
    tolerance: share up to which a group counts as excluded; groups: their names; about: what was swept.

    On demand: `excluded` (…, D), `converged` (…), `message`.
    """

    axes: dict[str, np.ndarray]
    representation: np.ndarray
    signed: np.ndarray
    residual: np.ndarray
    exploitability: np.ndarray
    status: np.ndarray
    steps: np.ndarray
    unique: np.ndarray
    disagreement: np.ndarray
    tolerance: float = 1e-3
    groups: tuple[str, ...] = ()
    about: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Points along each axis."""
        return self.status.shape

    @property
    def converged(self) -> np.ndarray:
        return self.status == 0

    @property
    def excluded(self) -> np.ndarray:
        """Which groups no agent represents: max_i w_id ≤ tolerance; False where no equilibrium was found."""
        return self.signed <= self.tolerance

    @property
    def message(self) -> str:
        """What was found, and how surely, in sentences."""
        return describe(self)

    def sel(self, **where: Any) -> Sweep:
        """Points by the values of axes: a number picks the nearest point and drops the axis, an array the nearest
        points, a slice those within. Raises ValueError for an unknown axis or a value outside it.
        """
        index: list[Any] = [slice(None)] * len(self.axes)
        axes = dict(self.axes)
        for name, value in where.items():
            if name not in axes:
                raise ValueError(f"{name!r} is no axis; known are {', '.join(map(repr, self.axes))}")
            chosen = _nearest(name, self.axes[name], value)
            index[list(self.axes).index(name)] = chosen
            if np.ndim(self.axes[name][chosen]) == 0:
                del axes[name]
            else:
                axes[name] = self.axes[name][chosen]
        arrays = {}
        for name in ABOUT:
            array = getattr(self, name)
            for axis in reversed(range(len(index))):  # one at a time: two arrays would be paired up
                array = array[(slice(None),) * axis + (index[axis],)]
            arrays[name] = array
        return dataclasses.replace(self, axes=axes, **arrays)

    def save(self, path: str | Path) -> None:
        """Write everything into one file: NumPy's .npz, with a text `meta` that says what each array is.

        Any name will do; none of the file is seen before all of it is written.
        """
        meta = {
            "schema": SCHEMA,
            "axes": list(self.axes),
            "groups": list(self.groups),
            "tolerance": self.tolerance,
            "about": self.about,
            "arrays": ABOUT,
        }
        arrays = {f"axis.{name}": axis for name, axis in self.axes.items()}
        arrays |= {name: getattr(self, name) for name in ABOUT}

        def write(temporary: Path) -> None:
            with open(temporary, "wb") as file:
                np.savez_compressed(file, meta=np.array(json.dumps(meta, ensure_ascii=False)), **arrays)  # pyright: ignore[reportArgumentType]

        write_whole(Path(path), write)

    @classmethod
    def load(cls, path: str | Path) -> Sweep:
        """A sweep that `save` wrote. Raises ValueError for a file that is none, OSError for one that cannot be read."""
        try:
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                meta = json.loads(str(file["meta"]))
                if meta["schema"] != SCHEMA:
                    raise ValueError(f"{path} is a {meta['schema']}, expected a {SCHEMA}")
                axes = {name: file[f"axis.{name}"] for name in meta["axes"]}
                arrays = {name: file[name] for name in ABOUT}
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{path} is no saved sweep ({type(error).__name__}: {error})") from None
        shape = tuple(len(axis) for axis in axes.values())
        for name, array in arrays.items():
            if array.shape[: len(shape)] != shape:
                raise ValueError(f"{path}: {name} has shape {array.shape}, expected {shape} points")
        return cls(axes, **arrays, tolerance=meta["tolerance"], groups=tuple(meta["groups"]), about=meta["about"])

    def to_xarray(self) -> Any:
        """The same as an `xarray.Dataset` with named axes and groups, `excluded` among the arrays.

        Raises ImportError where xarray is not installed.
        """
        try:
            import xarray  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ImportError("to_xarray needs xarray: pip install xarray, or jaxgame[xarray]") from None
        groups = list(self.groups) or list(range(self.representation.shape[-1]))
        names = list(self.axes)
        arrays = {
            name: (names + ["group"] * (name in BY_GROUP), getattr(self, name), {"about": ABOUT[name]})
            for name in ABOUT
        }
        arrays["excluded"] = ([*names, "group"], self.excluded, {"about": f"largest share at most {self.tolerance:g}"})
        return xarray.Dataset(
            arrays, {**self.axes, "group": groups}, {"tolerance": self.tolerance, **_texts(self.about)}
        )

    def _repr_html_(self) -> str:
        from jaxgame.report.notebook import sweep_html

        return sweep_html(self)

    def __repr__(self) -> str:
        shape = " × ".join(f"{len(axis)} {name}" for name, axis in self.axes.items()) or "one point"
        return f"Sweep({shape}, {self.representation.shape[-1]} groups, {int(self.converged.sum())} converged)"


def _texts(about: dict[str, Any]) -> dict[str, str]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}


def _nearest(name: str, axis: np.ndarray, value: Any) -> Any:
    if isinstance(value, slice):
        if value.step is not None:
            raise ValueError(f"{name}: a slice of values has no step, got {value.step!r}")
        low = -np.inf if value.start is None else float(value.start)
        high = np.inf if value.stop is None else float(value.stop)
        inside = np.flatnonzero((axis >= low) & (axis <= high))
        if not inside.size:
            raise ValueError(f"{name}: no point of the axis lies in [{low:g}, {high:g}]")
        return inside
    wanted = np.asarray(value, float)
    slack = 1e-9 * max(abs(axis[0]), abs(axis[-1]))
    if wanted.ndim > 1 or not ((wanted >= axis[0] - slack) & (wanted <= axis[-1] + slack)).all():
        raise ValueError(f"{name} is {value}, expected values within the axis, [{axis[0]:g}, {axis[-1]:g}]")
    return np.abs(axis[:, None] - wanted.reshape(1, -1)).argmin(0).reshape(wanted.shape)[()]


def describe(sweep: Sweep) -> str:
    """The message of a sweep."""
    shape = " × ".join(f"{len(axis)} {name}" for name, axis in sweep.axes.items())
    total, failed = sweep.status.size, int((sweep.status != 0).sum())
    parts = [f"{total:,} point{'s' * (total != 1)}{f' ({shape})' if shape else ''}, {total - failed:,} of them solved"]
    if total > failed:
        parts[0] += f" to a natural residual of at most {sweep.residual[sweep.converged].max():.2g}"
    parts[0] += "."
    if failed:
        counts = np.bincount(sweep.status.reshape(-1), minlength=4)
        kinds = zip(("out of steps", "not finite", "stalled"), counts[1:], strict=False)
        reasons = ", ".join(f"{count:,} {kind}" for kind, count in kinds if count)
        parts.append(
            f"{failed:,} failed ({reasons}) and are NaN: raise max_steps, or look at one with solve(build(…))."
        )
    unbounded = int(np.isinf(sweep.exploitability[sweep.converged]).sum())
    if unbounded:
        parts.append(f"At {unbounded:,} an agent's utility is not concave: stationary points, not proved equilibria.")
    doubtful = int((~sweep.unique).sum())
    if not doubtful:
        parts.append("Each is proved to be the only equilibrium.")
        return " ".join(parts)
    if not sweep.about.get("explored", True):
        parts.append(
            f"At {doubtful:,} the equilibrium is not proved to be the only one, and others were not looked for."
        )
        return " ".join(parts)
    apart = np.nan_to_num(sweep.disagreement)
    several = int((apart > APART).sum())
    parts.append(
        f"At {doubtful:,} the equilibrium is not proved to be the only one; at {several:,} of these others were"
    )
    parts[-1] += f" found, with shares up to {apart.max():.2g} apart." if several else " found."
    return " ".join(parts)


APART = 1e-4  # difference between representations from which two equilibria count as two
