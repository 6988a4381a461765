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
from jaxgame.steering.plan import Plan

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
    """One number of a plan that is changed."""

    name: str
    index: tuple[int, tuple[int, ...]]  # which leaf of theta, and where in it
    before: float
    after: float

    @property
    def change(self) -> float:
        return self.after - self.before


def guidance(plan: Plan, groups: Sequence[str] | None = None, rows: int = 5) -> str:
    """What to change, what it costs, what becomes of every group, what a point more would cost, and what the largest of
    the changes does alone.

    groups: the names of the D groups; rows: how many of the changes are spelt out, largest first. One solve, for the
    last of these. A plan for scenarios shows the mean over them. Raises ValueError for a wrong number of names.
    """
    n_groups = plan.equilibrium.profile.shape[-1]
    names = [f"group {d}" for d in range(n_groups)] if groups is None else list(groups)
    if len(names) != n_groups:
        raise ValueError(f"groups has {len(names)} names, expected {n_groups}")
    found = levers(plan, names)
    parts = [
        "This plan works." if plan.success else "This plan does NOT do what was asked.",
        *_changes(plan, found, rows),
        *_costs(plan),
        *_effects(plan, names),
        *_alone(plan, found, names),
        plan.message,
    ]
    return "\n".join(parts)


def levers(plan: Plan, names: Sequence[str]) -> list[Lever]:
    """The numbers that the plan changes, largest change first."""
    after = jax.tree_util.tree_flatten_with_path(plan.theta)[0]
    before = jax.tree.leaves(plan.baseline)
    found = []
    for k, ((path, new), old) in enumerate(zip(after, before, strict=True)):
        new, old = np.asarray(new, float), np.asarray(old, float)
        label = jax.tree_util.keystr(path).strip(".[]'\"") if path else ""
        for index in zip(*np.nonzero(new != old), strict=True):
            at = tuple(int(i) for i in index)
            found.append(Lever(_named(label, at, new.shape, names), (k, at), float(old[at]), float(new[at])))
        if new.ndim == 0 and new != old:
            found.append(Lever(label or "lever", (k, ()), float(old), float(new)))
    return sorted(found, key=lambda lever: -abs(lever.change))


def _named(label: str, index: tuple[int, ...], shape: tuple[int, ...], names: Sequence[str]) -> str:
    """A number's name: its last axis counts groups where it is as long as there are groups."""
    if shape and shape[-1] == len(names):
        where = [names[index[-1]], *(f"agent {i}" for i in index[:-1])]
    else:
        where = [str(list(index))]
    return ", ".join([label, *where] if label else where)


def _changes(plan: Plan, found: list[Lever], rows: int) -> list[str]:
    if not found:
        return ["Nothing has to change."]
    lines = [f"{WHAT[plan.lever]}:"]
    width = max(len(lever.name) for lever in found[:rows])
    for lever in found[:rows]:
        ends = "" if lever.before == 0 else f"  ({lever.before:.4g} → {lever.after:.4g})"
        lines.append(f"  {lever.name:<{width}}  {lever.change:+.4g}{ends}")
    if rest := found[rows:]:
        lines.append(f"  and {len(rest)} smaller changes, up to {abs(rest[0].change):.3g} (plan.theta has all)")
    return lines


def _costs(plan: Plan) -> list[str]:
    cost = COST.get(plan.lever, "The norm of the change is {:.4g}.")
    if "norm" in plan.details and plan.cost == plan.details["norm"]:
        cost = "The norm of the change is {:.4g}."
    lines = [cost.format(plan.cost)]
    point = plan.details.get("next_point")
    if point is not None:
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


def _alone(plan: Plan, found: list[Lever], names: Sequence[str]) -> list[str]:
    if len(found) < 2 or plan.rebuild is None:
        return []
    top = found[0]
    only = solve(plan.rebuild(_only(plan, top)))
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
    """The levers as they were, but for one number."""
    leaves, structure = jax.tree.flatten(plan.baseline)
    which, at = lever.index
    leaves[which] = jnp.asarray(leaves[which]).at[at].set(lever.after)
    return jax.tree.unflatten(structure, leaves)


def _shown(equilibrium: Equilibrium) -> np.ndarray:
    """The representation (D,), of scenarios the mean."""
    shown = np.asarray(equilibrium.representation, float)
    return shown.reshape(-1, shown.shape[-1]).mean(0)
