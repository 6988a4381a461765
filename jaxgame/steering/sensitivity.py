"""What a small change of each lever does to every group (theory §5, first item; the derivatives of §7)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame import _checks
from jaxgame._pytree import Carried, pytree
from jaxgame.equilibrium import Equilibrium
from jaxgame.solvers.scale import measure
from jaxgame.solving import solve

STEP = 0.01  # of a lever in the table: so many points of representation are as many units of the derivative


@pytree(static=("build",))
class Sensitivity:
    """Derivatives of an equilibrium in a pytree of levers; see `sensitivity`.

    theta: the levers. equilibrium: at theta. representation: like theta, leaves (D, …): dS/dθ. entry: like theta,
    leaves (D, …): d max_i z_id/dθ with z = w − ν the signed representation (theory §4); of a group that nobody
    represents, by how much a lever shortens the distance to entry, in utility per unit of mixture. Where several agents
    are equally near, the mean over them: weights `nearest` (n, D) with sum 1 for each group. scale: σ of theory §1,
    the unit of distances to entry.

    On demand, because it is n times larger: `signed`.
    """

    build: Callable[[Any], Any]
    theta: Any
    equilibrium: Equilibrium
    representation: Any
    entry: Any
    nearest: Array
    scale: Array
    replace: ClassVar[Callable[..., Any]]

    @functools.cached_property
    def signed(self) -> Any:
        """d(w − ν)/dθ, which does not vanish at excluded groups: like theta, leaves (n, D, …).

        Raises ArithmeticError as `sensitivity` does.
        """
        found = self.equilibrium
        return _jacobian(lambda theta: _again(self.build, theta, found).signed, self.theta, found.profile.size)

    @property
    def excluded(self) -> Array:
        """Groups that no agent represents at all, (D,) bool."""
        return self.equilibrium.signed.max(0) <= 0

    @property
    def kinks(self) -> Array:
        """Where, to rounding, an agent is about to take up or to drop a group, (n, D) bool."""
        signed = self.equilibrium.signed
        return jnp.abs(signed) <= jnp.sqrt(jnp.finfo(signed.dtype).eps) * jnp.where(signed > 0, 1, self.scale)

    def table(self, groups: Sequence[str] | None = None, rows: int = 20) -> str:
        """What each lever does to each group, as text, the largest levers first.

        groups: D names, default their numbers. rows: how many levers. In brackets, for a group that nobody represents
        and whose representation therefore does not move: `entry`. Changes of representation and of distance to entry
        count relative to the largest of their kind.

        Raises ValueError for names that are not D, or rows that are not a positive integer.
        """
        n_groups = self.equilibrium.representation.shape[0]
        names = [f"group {d}" for d in range(n_groups)] if groups is None else [str(name) for name in groups]
        if len(names) != n_groups:
            raise ValueError(f"groups has {len(names)} names, expected {n_groups}")
        if not isinstance(rows, int) or rows < 1:
            raise ValueError(f"rows is {rows!r}, expected a positive integer")
        return "\n".join([_heading(self, rows), *_aligned(_cells(self, names, rows)), *_footer(self, names)])


def sensitivity(build: Callable[[Any], Any], theta: Any) -> Sensitivity:
    """What every lever does to the representation of every group, at the equilibrium of build(theta).

    build: theta -> game, differentiable. theta: a pytree of float arrays (appeals, targets, weights …). Forward or
    reverse mode, whichever takes fewer linear solves. At a kink (`kinks`) the derivative is that of one side. Composes
    with jit and vmap, where derivatives that do not exist are NaN.

    Raises ValueError for a theta that is no pytree of float arrays; ArithmeticError where the solve fails, or where the
    equilibrium has no derivative because its optimality conditions are singular on the active faces.
    """
    theta = _levers(theta)
    found = solve(build(theta))
    if _checks.concrete(found.converged) and not found.converged:
        raise ArithmeticError(f"sensitivity needs an equilibrium. {found.message}")
    signed, dtype = found.signed, found.profile.dtype
    scale = measure(found.game, dtype).sigma
    near = jnp.asarray(signed >= signed.max(0)[None] - jnp.sqrt(jnp.finfo(dtype).eps) * scale, dtype)
    nearest = near / near.sum(0)[None]

    def shown(theta: Any) -> tuple[Array, Array]:
        moved = _again(build, theta, found)
        return moved.representation, (nearest * moved.signed).sum(0)

    representation, entry = _jacobian(shown, theta, 2 * found.representation.size)
    return Sensitivity(build, theta, found, representation, entry, nearest, scale)


def _levers(theta: Any) -> Any:
    """theta with its leaves as arrays of one dtype, numbers following the arrays. ValueError where one is not float."""
    leaves = jax.tree.leaves(theta)
    if not leaves:
        raise ValueError("theta has no arrays, expected at least one lever")
    leading = [leaf for leaf in leaves if np.ndim(leaf)] or leaves
    common = _checks.float_dtype([jnp.atleast_1d(leaf) for leaf in leading])

    def lever(path: Any, leaf: Any) -> Array:
        dtype = getattr(leaf, "dtype", None) or np.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"{_name(path)} has dtype {dtype}, expected floating numbers")
        return _checks.array(_name(path), leaf, common)

    return jax.tree_util.tree_map_with_path(lever, theta)


def _again(build: Callable[[Any], Any], theta: Any, found: Equilibrium) -> Equilibrium:
    """The equilibrium as a function of theta, about the one that was found."""
    return _from(Carried.wrap(build(theta)), found.profile)


@jax.jit
def _from(game: Carried, start: Array) -> Equilibrium:
    """Solved under jit, where a derivative that does not exist is NaN: outside it is an error that JAX prints."""
    return solve(game.unwrap(), init=start)


def _jacobian(function: Callable[[Any], Any], theta: Any, outputs: int) -> Any:
    """Like the output of the function, each leaf a pytree like theta: by columns or by rows, whichever are fewer."""
    levers = sum(leaf.size for leaf in jax.tree.leaves(theta))
    out = (jax.jacfwd if levers <= outputs else jax.jacrev)(function)(theta)
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(out)]
    if all(_checks.concrete(x) for x in finite) and not all(finite):
        raise ArithmeticError(
            "the equilibrium has no derivative in these levers: its optimality conditions are singular on the active "
            "faces, as where groups are alike to an agent, or build has none at theta; certify(game, profile) tells "
            "whether the game is strongly monotone"
        )
    return out


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".") or "theta"


def _labels(theta: Any) -> list[str]:
    """A name for every number in theta: its path and index, in the order of `_rows`."""
    return [
        _name(path) + (str(list(index)) if index else "")
        for path, leaf in jax.tree_util.tree_leaves_with_path(theta)
        for index in np.ndindex(leaf.shape)
    ]


def _rows(derivative: Any) -> np.ndarray:
    """A pytree with leaves (D, …) as (levers, D)."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(derivative)]
    return np.concatenate([leaf.reshape(len(leaf), -1).T for leaf in leaves])


def _sizes(found: Sensitivity) -> np.ndarray:
    """How large each lever is, (levers,): its largest change, relative to the largest change in that unit."""
    out, levers = np.asarray(found.excluded), len(_labels(found.theta))
    changes = np.abs(_rows(found.representation)[:, ~out]), np.abs(_rows(found.entry)[:, out])
    return np.max([np.zeros(levers), *(x.max(1) / (x.max() or 1) for x in changes if x.size)], axis=0)


def _heading(found: Sensitivity, rows: int) -> str:
    levers = len(_labels(found.theta))
    which = f"the largest {rows} of {levers} levers" if rows < levers else "largest levers first"
    return f"Change of each group's representation, in points, per {STEP:g} of a lever; {which}."


def _cells(found: Sensitivity, names: list[str], rows: int) -> list[list[str]]:
    """Header, how the groups stand, and the largest levers."""
    out, labels = np.asarray(found.excluded), _labels(found.theta)
    largest = np.argsort(-_sizes(found), kind="stable")[:rows]
    shown = np.asarray(found.equilibrium.representation)
    distance = np.asarray(found.equilibrium.signed).max(0)
    columns = []
    for d, name in enumerate(names):
        if out[d]:
            now, changes = f"{distance[d]:.3g}", _decimal(_rows(found.entry)[largest, d] * STEP)
            columns.append([f"[{cell}]" for cell in (name, now, *changes)])
        else:
            changes = _decimal(_rows(found.representation)[largest, d] * STEP * 100)
            columns.append([name, f"{100 * shown[d]:.3g} %", *changes])
    return [list(line) for line in zip(["lever", "now", *(labels[k] for k in largest)], *columns, strict=True)]


def _decimal(values: np.ndarray) -> list[str]:
    """With a sign, and three digits of the largest."""
    largest = np.abs(values).max()
    digits = max(2 - int(np.floor(np.log10(largest))), 0) if largest > 0 else 0
    return [f"{value:+.{digits}f}" for value in values]


def _aligned(lines: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))])
        for first, *rest in lines
    ]


def _footer(found: Sensitivity, names: list[str]) -> list[str]:
    lines = []
    if found.excluded.any():
        lines.append(
            "[ ]: no agent represents the group. Instead, how far the nearest agent's marginal utility of it is from "
            "entry (at 0), and by how much the lever moves that."
        )
    if (kinks := np.asarray(found.kinks)).any():
        agents = [f"{names[d]} ({kinks[:, d].sum()})" for d in np.flatnonzero(kinks.any(0))]
        lines.append(
            "At a kink: some agents are about to take up or drop a group, and the changes are those to one side; "
            f"groups (agents): {', '.join(agents)}."
        )
    return lines
