"""A plan in words and numbers that a person can act on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgame.equilibrium import Equilibrium
from jaxgame.solving import solve
from jaxgame.steering.plan import NOTICED, Plan

WHAT = {
    "price": "Pay every agent, per unit of representation (a negative number is a charge)",
    "common": "Add to every agent's appeal",
    "appeal": "Add to the appeal of single agents",
    "targets": "Move the alignment targets of single agents",
    "theta": "Change the levers",
}
COST = {"price": "It costs {:.4g} in payments, in units of utility.", "theta": "The cost of these levers is {:.4g}."}


@dataclasses.dataclass(frozen=True)
class Lever:
    """One thing that a plan changes: a number, or the alignment targets of an agent, (D,), which change together."""

    name: str
    index: tuple[int, tuple[int, ...]]  # which leaf of theta, and where in it
    before: Any
    after: Any

    @property
    def change(self) -> Any:
        return self.after - self.before

    @property
    def size(self) -> float:
        return float(np.abs(self.change).max())


def guidance(plan: Plan, groups: Sequence[str] | None = None, rows: int = 5) -> str:
    """What to change, what it costs, what becomes of every group, what a point more would cost, and what the largest of
    the changes does alone (where the game can be built with that change alone).

    groups: the names of the D groups; rows: how many of the changes are spelt out, largest first. One solve, for the
    last of these. A plan for scenarios shows the mean over them. Raises ValueError for a wrong number of names, and for
    rows that are no positive integer.
    """
    n_groups = plan.equilibrium.profile.shape[-1]
    names = [f"group {d}" for d in range(n_groups)] if groups is None else list(groups)
    if len(names) != n_groups:
        raise ValueError(f"groups has {len(names)} names, expected {n_groups}")
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise ValueError(f"rows is {rows!r}, expected a positive integer")
    found = levers(plan, names)
    parts = [
        verdict(plan),
        *_changes(plan, found, names, rows),
        *costs(plan, found),
        *_effects(plan, names),
        *alone(plan, found, names),
        plan.message,
    ]
    return "\n".join(parts)


def verdict(plan: Plan) -> str:
    """Whether the plan works, in a sentence."""
    if plan.success:
        return "This plan works."
    if plan.details.get("goal_met") and plan.details["verification"].agrees:
        return "This plan meets the goal; that no small change of it is better is not proved."
    return "This plan does NOT do what was asked."


def levers(plan: Plan, names: Sequence[str]) -> list[Lever]:
    """What the plan changes by more than rounding, largest change first."""
    found = _moved_targets(plan) if plan.lever == "targets" else _changed_numbers(plan, names)
    return sorted(found, key=lambda lever: -lever.size)


def _moved_targets(plan: Plan) -> list[Lever]:
    """The agents whose targets change: a row on the simplex cannot be changed in one entry."""
    change, old = np.asarray(plan.theta, float), np.asarray(plan.before.game.targets, float)
    noticed = _noticed(old, old + change, plan.theta.dtype).any(1)
    return [Lever(f"agent {i}", (0, (i,)), old[i], old[i] + change[i]) for i in np.flatnonzero(noticed).tolist()]


def _changed_numbers(plan: Plan, names: Sequence[str]) -> list[Lever]:
    after = jax.tree_util.tree_flatten_with_path(plan.theta)[0]
    before = jax.tree.leaves(plan.baseline)
    found = []
    for k, ((path, leaf), old) in enumerate(zip(after, before, strict=True)):
        new, old = np.asarray(leaf, float), np.asarray(old, float)
        label = jax.tree_util.keystr(path).strip(".[]'\"") if path else ""
        for index in np.argwhere(_noticed(old, new, jnp.asarray(leaf).dtype)):
            at = tuple(int(i) for i in index)
            found.append(Lever(_named(label, at, new.shape, names), (k, at), float(old[at]), float(new[at])))
    return found


def _noticed(old: np.ndarray, new: np.ndarray, dtype: Any) -> np.ndarray:
    """Which numbers of an array change by more than rounding."""
    change = np.abs(new - old)
    rounding = 10 * float(jnp.finfo(dtype).eps) * max(np.abs(old).max(initial=0), np.abs(new).max(initial=0))
    return change > max(NOTICED * change.max(initial=0), rounding)


def _named(label: str, index: tuple[int, ...], shape: tuple[int, ...], names: Sequence[str]) -> str:
    """A number's name: its last axis counts groups where it is as long as there are groups."""
    if not shape:
        return label or "lever"
    if shape[-1] == len(names):
        where = [names[index[-1]], *(f"agent {i}" for i in index[:-1])]
    else:
        where = [str(list(index))]
    return ", ".join([label, *where] if label else where)


def _changes(plan: Plan, found: list[Lever], names: Sequence[str], rows: int) -> list[str]:
    if not found:
        return ["Nothing has to change." if plan.success else "The levers are as they were."]
    lines = [f"{WHAT[plan.lever]}:"]
    width = max(len(lever.name) for lever in found[:rows])
    lines += [f"  {lever.name:<{width}}  {said(lever, names)}" for lever in found[:rows]]
    if rest := found[rows:]:
        lines.append(f"  and {len(rest)} smaller changes, up to {rest[0].size:.3g} (plan.theta has all)")
    return lines


def said(lever: Lever, names: Sequence[str]) -> str:
    """A change in numbers; of targets as a transfer between groups."""
    if np.ndim(lever.change) == 0:
        ends = "" if lever.before == 0 else f"  ({lever.before:.4g} → {lever.after:.4g})"
        return f"{lever.change:+.4g}{ends}"
    gains = np.where(np.abs(lever.change) > NOTICED * lever.size, lever.change, 0)

    def listed(amounts: np.ndarray) -> str:
        some = np.flatnonzero(amounts > 0).tolist()
        return ", ".join(names[d] + (f" ({amounts[d]:.4g})" if len(some) > 1 else "") for d in some)

    return f"{gains[gains > 0].sum():.4g} from {listed(-gains)} to {listed(gains)}"


def costs(plan: Plan, found: list[Lever]) -> list[str]:
    """What the changes cost, and a point more, in sentences."""
    cost = COST.get(plan.lever, "The norm of the change is {:.4g}.")
    if "norm" in plan.details and plan.cost == plan.details["norm"]:
        cost = "The norm of the change is {:.4g}."
    lines = [cost.format(plan.cost)]
    point = plan.details.get("next_point")
    if point is not None and plan.success and found:
        more = f"adds {point:.3g} to that" if np.isfinite(point) else "cannot be had"
        lines.append(f"One more percentage point for every group held at its floor {more}.")
    if (robust := plan.details.get("robustness")) is not None:
        lines.append(str(robust))
    return lines


def _effects(plan: Plan, names: Sequence[str]) -> list[str]:
    before, after = _shown(plan.before), _shown(plan.equilibrium)
    floor = plan.details.get("floor")
    width = max(len(name) for name in [*names, "group"])
    lines = [f"{'group':<{width}}  before %  after %" + ("" if floor is None else "  floor %")]
    for d, name in enumerate(names):
        line = f"{name:<{width}}  {100 * before[d]:8.2f}  {100 * after[d]:7.2f}"
        lines.append(line if floor is None else f"{line}  {100 * float(floor[d]):7.2f}")
    return lines


def alone(plan: Plan, found: list[Lever], names: Sequence[str]) -> list[str]:
    """What the largest of several changes does by itself: a sentence, or none; one solve."""
    if len(found) < 2 or plan.rebuild is None:
        return []
    top = found[0]
    try:
        only = solve(plan.rebuild(_only(plan, top)))
    except ValueError:  # levers that belong together, of which one alone makes no game
        return []
    if not bool(only.converged):
        return []
    shown, floor = _shown(only), plan.details.get("floor")
    if floor is None:
        d = int(np.argmax(np.abs(shown - _shown(plan.before))))
        moved = f"{names[d]} would go from {_shown(plan.before)[d]:.2%} to {shown[d]:.2%}"
        return [f"The largest change alone ({top.name}): {moved}."]
    short = [names[int(d)] for d in np.flatnonzero(shown < np.asarray(floor) - 1e-6)]
    left = f"still below their floor: {', '.join(short)}" if short else "all groups reach their floor"
    return [f"The largest change alone ({top.name}): {left}."]


def _only(plan: Plan, lever: Lever) -> Any:
    """The levers as they were, but for one."""
    leaves, structure = jax.tree.flatten(plan.baseline)
    which, at = lever.index
    leaves[which] = jnp.asarray(leaves[which]).at[at].set(jnp.asarray(jax.tree.leaves(plan.theta)[which])[at])
    return jax.tree.unflatten(structure, leaves)


def _shown(equilibrium: Equilibrium) -> np.ndarray:
    """The representation (D,), of scenarios the mean."""
    shown = np.asarray(equilibrium.representation, float)
    return shown.reshape(-1, shown.shape[-1]).mean(0)
