"""Objectives of `steer`: functions of an equilibrium, and factories of them.

`steer` minimises. `distance`, `gini`, `shortfall` are ills, and objectives as they are; `coverage`, `welfare`,
`minimum_representation`, `nash_welfare` are goods, and become objectives by `minus`. All are differentiable (piecewise,
where a formula has a maximum or an absolute value) and take one equilibrium with representation S (D,).

Factories return pytrees that are functions: their numbers are leaves, and other numbers compile nothing anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from jaxgame import _checks
from jaxgame.linalg import dot

Objective = Callable[[Any], Array]


def minus(good: Objective) -> Objective:
    """The objective that is least where `good` is greatest: −good."""
    return Partial(_negative, good if isinstance(good, Partial) else Partial(good))


def welfare(equilibrium: Any) -> Array:
    """Σ_i U_i, the sum of the agents' utilities: a good, in units of utility."""
    return equilibrium.game.utilities(equilibrium.profile).sum()


def distance(target: Any) -> Objective:
    """½ ‖S − target‖²: an ill. target (D,) shares, or any representation wished for."""
    return Partial(_distance, _checks.array("target", target, _checks.float_dtype(target), ("D",)))


def shortfall(floor: Any) -> Objective:
    """½ Σ_d max(0, floor_d − S_d)²: an ill, 0 where every group reaches its floor; floor scalar or (D,).

    It approaches 0 from above, so for a goal S ≥ floor ask for a little more than the floor here.
    """
    return Partial(_shortfall, _floor(floor))


def coverage(floor: Any, *, width: float = 0.01) -> Objective:
    """The share of groups above a floor, softly: mean_d sigmoid((S_d − floor_d) / width), a good from 0 to 1.

    floor scalar or (D,). The count itself has no derivative; width is the range of S over which a group counts in
    part, and width → 0 is the count. Raises ValueError unless width > 0.
    """
    if not float(width) > 0:
        raise ValueError(f"width is {width}, expected a number > 0")
    return Partial(_coverage, _floor(floor), jnp.asarray(width, _checks.float_dtype(floor)))


def minimum_representation(shares: Any = None) -> Objective:
    """min_d S_d, or min_d S_d / share_d relative to population shares (D,) > 0: a good."""
    return Partial(_minimum, _shares(shares))


def nash_welfare(shares: Any = None, *, smoothing: float = 1e-3) -> Objective:
    """Σ_d share_d log(S_d + smoothing), shares 1/D unless given (D,): a good.

    The product form of fairness between groups; `smoothing` > 0 keeps it finite where a group is excluded, and only
    there does it matter much. Raises ValueError unless it is positive.
    """
    if not float(smoothing) > 0:
        raise ValueError(f"smoothing is {smoothing}, expected a number > 0: the logarithm of an excluded group's share")
    shares = _shares(shares)
    return Partial(_nash_welfare, shares, jnp.asarray(smoothing, _checks.float_dtype(shares)))


def gini(shares: Any = None) -> Objective:
    """The Gini coefficient of representation per head: ½ Σ_de p_d p_e |r_d − r_e| with r_d = S_d / p_d; an ill.

    0 where every group is shown in proportion to its share p_d of the population, (D,) > 0, default 1/D; at most
    1 − min_d p_d, where the smallest group is all that is shown.
    """
    return Partial(_gini, _shares(shares))


def _floor(floor: Any) -> Array:
    return _checks.array("floor", floor, _checks.float_dtype(floor), (), ("D",))


def _shares(shares: Any) -> Array | None:
    if shares is None:
        return None
    shares = _checks.shares("shares", _checks.array("shares", shares, _checks.float_dtype(shares), ("D",)), shares)
    if _checks.concrete(shares) and (shares == 0).any():
        raise ValueError(f"shares[{int((shares == 0).argmax())}] is 0, expected every group to have people")
    return shares


def _like(numbers: Array, shown: Array) -> Array:
    if numbers.shape not in ((), shown.shape):
        raise ValueError(f"an objective made for groups of shape {numbers.shape} met a representation {shown.shape}")
    return numbers.astype(shown.dtype)


def _proportions(shares: Array | None, shown: Array) -> Array:
    return jnp.full_like(shown, 1 / shown.shape[0]) if shares is None else _like(shares, shown)


def _negative(good: Objective, equilibrium: Any) -> Array:
    return -good(equilibrium)


def _distance(target: Array, equilibrium: Any) -> Array:
    shown = equilibrium.representation
    return ((shown - _like(target, shown)) ** 2).sum() / 2


def _shortfall(floor: Array, equilibrium: Any) -> Array:
    shown = equilibrium.representation
    return (jnp.maximum(_like(floor, shown) - shown, 0) ** 2).sum() / 2


def _coverage(floor: Array, width: Array, equilibrium: Any) -> Array:
    shown = equilibrium.representation
    return jax.nn.sigmoid((shown - _like(floor, shown)) / width.astype(shown.dtype)).mean()


def _minimum(shares: Array | None, equilibrium: Any) -> Array:
    shown = equilibrium.representation
    return (shown if shares is None else shown / _like(shares, shown)).min()


def _nash_welfare(shares: Array | None, smoothing: Array, equilibrium: Any) -> Array:
    shown = equilibrium.representation
    return dot(_proportions(shares, shown), jnp.log(shown + smoothing.astype(shown.dtype)))


def _gini(shares: Array | None, equilibrium: Any) -> Array:
    shown = equilibrium.representation
    p = _proportions(shares, shown)
    apart = jnp.abs(p[None, :] * shown[:, None] - p[:, None] * shown[None, :])  # p_d p_e |r_d − r_e|
    return apart.sum() / 2
