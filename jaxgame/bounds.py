"""Shared constraints on the representation: floors, caps, audience segments (theory §5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import linprog

from jaxgame import _checks
from jaxgame._pytree import assign, pytree
from jaxgame.games import dtype_of
from jaxgame.linalg import dot


@pytree()
class Bounds:
    """lower ≤ M S ≤ upper for the representation S (D,), at one price a row: the variational equilibrium.

    lower, upper: scalar or (p,), −∞ and ∞ for none (the default). matrix M (p, D): the segments that are bounded, one a
    row; default the groups themselves. exposure (n,) ≥ 0: how strongly a price enters the marginal utilities of each
    agent, exposure_i Mᵀλ; default the agents' reach, so that λ is paid per unit of representation. With Rosen's
    weights reach_i / exposure_i it is the same equilibrium concept in other units of utility: exposure 1 makes λ one
    common addition to everyone's marginal utility.

    Prices are unique only where the bounds leave room: where a limit is the most or least that any representation has
    (a floor of 1, a cap of 0, floors that sum to 1) or follows from other limits, the equilibrium is as it is, but its
    price is an arbitrary one of many.

    Raises ValueError naming the argument and the index: NaN, a lower limit of ∞ or an upper of −∞, lower above upper,
    wrong shapes; and where no representation satisfies the bounds, when a solve is asked for.
    """

    lower: Any
    upper: Any
    matrix: Any
    exposure: Any
    replace: ClassVar[Callable[..., Any]]

    def __init__(self, lower: Any = None, upper: Any = None, *, matrix: Any = None, exposure: Any = None):
        dtype = _checks.float_dtype(lower, upper, matrix, exposure)
        if matrix is not None:
            matrix = _checks.array("matrix", matrix, dtype, ("p", "D"))
            if not matrix.size:
                raise ValueError(f"matrix has shape {matrix.shape}, expected at least one row and one group")
        rows = "p" if matrix is None else matrix.shape[0]
        lower, upper = _limit("lower", lower, dtype, rows), _limit("upper", upper, dtype, rows)
        if lower is None and upper is None:
            raise ValueError("lower and upper are both None, expected at least one of them")
        if exposure is not None:
            exposure = _checks.array("exposure", exposure, dtype, ("n",))
            _checks.nonnegative("exposure", exposure)
        assign(self, lower=lower, upper=upper, matrix=matrix, exposure=exposure)

    def sized(self, n: int, n_groups: int, reach: Array) -> Bounds:
        """With every field an array of the game's size and dtype. Raises ValueError where they do not fit."""
        dtype = reach.dtype
        matrix = jnp.eye(n_groups, dtype=dtype) if self.matrix is None else jnp.asarray(self.matrix, dtype)
        if matrix.shape[1] != n_groups:
            raise ValueError(f"bounds.matrix has shape {matrix.shape}, expected (p, {n_groups})")
        rows = matrix.shape[0]
        limits = {}
        for name, missing in dict(lower=-jnp.inf, upper=jnp.inf).items():
            value = getattr(self, name)
            value = jnp.asarray(missing if value is None else value, dtype)
            if value.shape not in ((), (rows,)):
                raise ValueError(f"bounds.{name} has shape {value.shape}, expected () or ({rows},)")
            limits[name] = jnp.broadcast_to(value, (rows,))
        exposure = reach if self.exposure is None else jnp.asarray(self.exposure, dtype)
        if exposure.shape != (n,):
            raise ValueError(f"bounds.exposure has shape {exposure.shape}, expected ({n},)")
        out = Bounds.__new__(Bounds)  # the constructor's checks are done
        assign(out, **limits, matrix=matrix, exposure=exposure)
        _feasible(out)
        return out

    def priced(self, prices: Array) -> Array:
        """What prices λ (p,) add to the marginal utilities: exposure_i Mᵀλ, (n, D). Sized bounds only."""
        return self.exposure[:, None] * dot(prices, self.matrix)[None]

    def limits(self) -> Array:
        """(2, p): lower and upper. Sized bounds only."""
        return jnp.stack([self.lower, self.upper])


def checked_floor(game: Any, floor: Any) -> Array:
    """Floors of all groups, (D,) of the game's dtype, from a scalar or (D,); where they sum to more than 1 by rounding
    alone, scaled to sum to 1 or a little less. ValueError where they are negative or sum to more.
    """
    dtype, n_groups = dtype_of(game), game.n_groups
    value = _checks.array("floor", floor, dtype, (), (n_groups,))
    _checks.nonnegative("floor", value)
    value = jnp.broadcast_to(value, (n_groups,))
    exact = np.asarray(value, np.float64)
    if (total := float(exact.sum())) > 1 + _checks.row_tolerance(dtype):
        raise ValueError(f"floor sums to {total:.10g}, expected at most 1: representation is shared among the groups")
    if total > 1:
        value = jnp.asarray(exact * ((1 - float(jnp.finfo(dtype).eps)) / total), dtype)
    return value


def missed_by_rounding(dtype: Any) -> float:
    """By how much an equilibrium may miss a floor that it is meant to meet."""
    return float(jnp.finfo(dtype).eps) ** 0.5 / 10


def _limit(name: str, value: Any, dtype: Any, rows: Any) -> Array | None:
    if value is None:
        return None
    try:
        value = jnp.asarray(value, dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected numbers, got {type(value).__name__} ({error})") from None
    if value.ndim > 1 or value.ndim == 1 and rows not in ("p", value.shape[0]):
        raise ValueError(f"{name} has shape {value.shape}, expected () or ({rows},)")
    if _checks.concrete(value):
        none = -np.inf if name == "lower" else np.inf
        numbers = np.asarray(value)
        if (bad := np.isnan(numbers) | (numbers == -none)).any():
            index = tuple(int(k) for k in np.argwhere(bad)[0])
            where = str(list(index)) if index else ""
            raise ValueError(f"{name}{where} is {numbers[index]}, expected a number, or {none} for no limit")
    return value


def _feasible(bounds: Bounds) -> None:
    """Whether some representation satisfies concrete bounds: every S on the simplex is some profile's."""
    parts = bounds.lower, bounds.upper, bounds.matrix
    if not all(_checks.concrete(x) for x in parts):
        return
    lower, upper, matrix = (np.asarray(x, np.float64) for x in parts)
    if (bad := lower > upper).any():
        k = int(np.argmax(bad))
        raise ValueError(f"bounds.lower[{k}] is {lower[k]:.6g}, above bounds.upper[{k}] = {upper[k]:.6g}")
    # The least by which all bounds must give way together.
    rows, n_groups = matrix.shape
    give = np.ones((rows, 1))
    sides = [(np.hstack([-matrix, -give]), -lower), (np.hstack([matrix, -give]), upper)]
    A, b = (
        np.vstack([side[np.isfinite(limit)] for side, limit in sides]),
        np.hstack([x[np.isfinite(x)] for _, x in sides]),
    )
    if not len(b):
        return
    cost, simplex = np.eye(n_groups + 1)[-1], np.append(np.ones(n_groups), 0)[None]
    found = linprog(cost, A_ub=A, b_ub=b, A_eq=simplex, b_eq=[1.0])
    slack = 100 * float(jnp.finfo(bounds.matrix.dtype).eps) * (1 + np.abs(b).max() + np.abs(matrix).max())
    if found.fun > slack:
        total = lower[np.isfinite(lower)].sum()
        plain = (
            f": the floors sum to {total:.6g}, above 1"
            if np.array_equal(matrix, np.eye(n_groups)) and total > 1
            else ""
        )
        raise ValueError(
            f"bounds: no representation satisfies them{plain}; all would have to give way by {found.fun:.3g}"
        )
