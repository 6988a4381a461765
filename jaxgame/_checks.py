"""Validation of constructor arguments: each error names the argument, the first offender and what was expected.

Values are checked only where they are concrete; of a tracer or a placeholder only the shape is known.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental.sparse import BCOO


def concrete(x: Any) -> bool:
    """Whether the values of x can be looked at now: no tracer, and no array that other processes hold parts of."""
    if isinstance(x, jax.Array):
        return not isinstance(x, Tracer) and (x.is_fully_addressable or x.is_fully_replicated)
    return isinstance(x, (np.ndarray, np.generic, int, float))


def float_dtype(*arguments: Any):
    """The floating dtype that arrays among the arguments agree on; scalars follow the arrays.

    float32 arrays stay float32 under x64; integers count as JAX's default float.
    """
    default = jnp.zeros(()).dtype
    found = None
    for leaf in jax.tree.leaves(arguments, is_leaf=lambda x: isinstance(x, BCOO)):
        leaf = leaf.data if isinstance(leaf, BCOO) else leaf  # its indices are no data
        if np.ndim(leaf) == 0:
            continue
        dtype = np.dtype(leaf.dtype) if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
        if not jnp.issubdtype(dtype, jnp.floating):
            dtype = default
        found = dtype if found is None else np.promote_types(found, dtype)
    return jnp.zeros((), default if found is None else min(found, _widest(), key=lambda d: np.dtype(d).itemsize)).dtype


def _widest():
    return np.dtype(np.float64 if jax.config.jax_enable_x64 else np.float32)  # pyright: ignore[reportAttributeAccessIssue]


def array(name: str, x: Any, dtype, *shapes: tuple[Any, ...]) -> jax.Array:
    """x as an array of `dtype` with one of the `shapes`; strings in a shape are free sizes (`"n"`), printed as they
    are.

    Finite where concrete. Raises ValueError otherwise.
    """
    try:
        value = jnp.asarray(x, dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected an array of numbers, got {type(x).__name__} ({error})") from None
    if shapes and not any(_fits(value.shape, shape) for shape in shapes):
        wanted = " or ".join(
            "(" + ", ".join(str(size) for size in shape) + ("," if len(shape) == 1 else "") + ")" for shape in shapes
        )
        raise ValueError(f"{name} has shape {value.shape}, expected {wanted}")
    finite(name, value)
    return value


def _fits(actual: tuple[int, ...], shape: tuple[Any, ...]) -> bool:
    return len(actual) == len(shape) and all(
        isinstance(want, str) or have == want for have, want in zip(actual, shape, strict=True)
    )


def _first(bad: np.ndarray) -> str:
    """The first True of `bad` as `[i, j]`; empty for a scalar."""
    index = np.argwhere(bad)[0]
    return str([int(k) for k in index]) if index.size else ""


def _require(name: str, x: jax.Array, bad: np.ndarray, expected: str) -> None:
    if bad.any():
        index = np.argwhere(bad)[0]
        raise ValueError(f"{name}{_first(bad)} is {np.asarray(x)[tuple(index)]}, expected {expected}")


def finite(name: str, x: jax.Array) -> None:
    if concrete(x):
        _require(name, x, ~np.isfinite(np.asarray(x)), "a finite number")


def nonnegative(name: str, x: jax.Array) -> None:
    if concrete(x):
        _require(name, x, np.asarray(x) < 0, "a number ≥ 0")


def at_least_one(name: str, x: jax.Array) -> None:
    if concrete(x):
        _require(name, x, np.asarray(x) < 1, "a number ≥ 1")


def row_tolerance(dtype) -> float:
    """How far a row of shares may sum from 1."""
    return 1e-4 if jnp.finfo(dtype).bits <= 32 else 1e-8


def shares(name: str, x: jax.Array, given: Any = None) -> jax.Array:
    """Rows (last axis) on the simplex to the precision of `given` (default x), renormalised to rounding."""
    tolerance = row_tolerance(float_dtype(x if given is None else given))
    if concrete(x):
        nonnegative(name, x)
        rows = np.asarray(x)
        total = rows.sum(-1, dtype=np.float64)
        bad = np.abs(total - 1) > tolerance
        if bad.any():
            row = _first(bad)
            value = total[tuple(np.argwhere(bad)[0])]
            raise ValueError(f"{name}{row} sums to {value:.10g}, expected 1 (within {tolerance:g})")
    return x / jnp.sum(x, -1, keepdims=True)


def symmetric(name: str, x: jax.Array) -> None:
    """Symmetric over the last two axes up to 10·D·eps·‖x‖."""
    if concrete(x) and x.size:
        value = np.asarray(x)
        skew = np.abs(value - np.swapaxes(value, -1, -2))
        limit = 10 * value.shape[-1] * float(jnp.finfo(x.dtype).eps) * np.abs(value).max(initial=0.0)
        _require(name, x, skew > limit, f"a symmetric matrix (differs from its transpose by up to {skew.max():.3g})")


def positive_semidefinite(name: str, x: jax.Array) -> None:
    """No eigenvalue of the symmetric (D, D) matrix below −10·D·eps·‖x‖."""
    symmetric(name, x)
    if concrete(x) and x.size:
        values = np.linalg.eigvalsh(np.asarray(x, np.float64))
        limit = 10 * x.shape[-1] * float(jnp.finfo(x.dtype).eps) * np.abs(values).max(initial=0.0)
        if values[0] < -limit:
            raise ValueError(f"{name} has the eigenvalue {values[0]:.6g}, expected a positive semidefinite matrix")


def network(name: str, weights: Any, n: int) -> None:
    """(n, n) weights, dense or BCOO, with a zero diagonal."""
    if isinstance(weights, BCOO):
        if weights.shape != (n, n) or weights.n_batch or weights.n_dense:
            raise ValueError(f"{name} has shape {weights.shape}, expected ({n}, {n}) as an unbatched BCOO matrix")
        finite(f"{name}.data", weights.data)
        if concrete(weights.indices) and concrete(weights.data):
            rows, columns = np.asarray(weights.indices).T
            bad = (rows == columns) & (rows < n) & (np.asarray(weights.data) != 0)
            if bad.any():
                raise ValueError(
                    f"{name}[{rows[bad][0]}, {rows[bad][0]}] is nonzero, expected 0: no agent meets itself"
                )
    elif concrete(weights):
        bad = np.diag(np.asarray(weights)) != 0
        if bad.any():
            i = int(np.argmax(bad))
            raise ValueError(f"{name}[{i}, {i}] is {np.asarray(weights)[i, i]}, expected 0: no agent meets itself")


def averaging(name: str, weights: Any) -> None:
    """Rows that are averages (≥ 0, sum 1) or empty (sum 0: the agent meets no one)."""
    data = weights.data if isinstance(weights, BCOO) else weights
    nonnegative(name if data is weights else f"{name}.data", data)
    if concrete(data):
        if isinstance(weights, BCOO):
            rows = np.asarray(weights.indices)[:, 0]
            kept = rows < weights.shape[0]
            total = np.bincount(rows[kept], np.asarray(data, np.float64)[kept], minlength=weights.shape[0])
        else:
            total = np.asarray(data).sum(-1, dtype=np.float64)
        tolerance = row_tolerance(data.dtype)
        bad = (np.abs(total - 1) > tolerance) & (np.abs(total) > tolerance)
        if bad.any():
            i = int(np.argmax(bad))
            raise ValueError(
                f"{name}: row {i} sums to {total[i]:.10g}, expected 1, or 0 for an agent that meets no one"
            )
