"""The axes of a grid: named, increasing, checked before anything is built on them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def checked(build: Callable[..., Any], axes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The axes as arrays of floats. Raises ValueError naming the axis and, where there is one, the index."""
    if not isinstance(axes, Mapping) or not axes:
        raise ValueError(f"axes is {axes!r}, expected a dict of names and 1-D arrays, at least one")
    found = {str(name): _axis(str(name), values) for name, values in axes.items()}
    named(build, found)
    return found


def _axis(name: str, values: Any) -> np.ndarray:
    try:
        axis = np.asarray(values)
        if axis.dtype.kind == "c":
            raise TypeError("complex numbers have no order")
        axis = axis.astype(np.result_type(axis.dtype, np.float32) if axis.dtype.kind == "f" else np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"axis {name!r}: expected numbers, got {type(values).__name__} ({error})") from None
    if axis.ndim != 1:
        raise ValueError(f"axis {name!r} has shape {axis.shape}, expected a 1-D array")
    if len(axis) < 2:
        raise ValueError(f"axis {name!r} has {len(axis)} point{'s' * (len(axis) != 1)}, expected at least two")
    if (bad := ~np.isfinite(axis)).any():
        k = int(bad.argmax())
        raise ValueError(f"axis {name!r}[{k}] is {axis[k]}, expected a finite number")
    if (bad := np.diff(axis) <= 0).any():
        k = int(bad.argmax()) + 1
        raise ValueError(f"axis {name!r}[{k}] is {axis[k]:.6g} after {axis[k - 1]:.6g}, expected increasing values")
    return axis


def named(build: Callable[..., Any], axes: Mapping[str, Any]) -> None:
    """Raises ValueError unless the parameters of `build` are the axes."""
    if not callable(build):
        raise ValueError(f"build is {build!r}, expected a function build(**point) -> game")
    try:
        signature = inspect.signature(build)
    except (TypeError, ValueError):
        return
    parameters = signature.parameters.values()
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind == p.VAR_KEYWORD for p in parameters):
        for name in axes:
            if name not in known:
                raise ValueError(f"axis {name!r} is no parameter of build, which takes {', '.join(known) or 'none'}")
    for p in parameters:
        if p.name in known and p.default is p.empty and p.name not in axes:
            raise ValueError(f"build needs {p.name!r}, which is no axis: known are {', '.join(map(repr, axes))}")


def sized(axes: dict[str, np.ndarray], bytes_a_point: int, limit: int) -> int:
    """How many points there are. Raises ValueError, with the size, where their results would take too much memory."""
    points = math.prod(len(axis) for axis in axes.values())
    if points * bytes_a_point > limit:
        shape = " × ".join(f"{len(axis):,} {name}" for name, axis in axes.items())
        raise ValueError(
            f"axes have {points:,} points ({shape}), whose results take {_bytes(points * bytes_a_point)}, expected at "
            f"most {_bytes(limit)}: fewer points, or a larger limit"
        )
    return points


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def points(axes: dict[str, np.ndarray], flat: np.ndarray) -> dict[str, np.ndarray]:
    """The values of the axes at flat indices (C order, the last axis fastest)."""
    shape = tuple(len(axis) for axis in axes.values())
    index = np.unravel_index(flat, shape)
    return {name: axis[k] for (name, axis), k in zip(axes.items(), index, strict=True)}
