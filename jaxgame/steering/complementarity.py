"""Changes of a quadratic game together with the equilibria they induce: a program with complementarity constraints.

Unknown are the profile W, a change Δ of every agent's lever and the multipliers μ (theory §5):

    s_id = μ_i − g_id(W) − (L_i Δ_i)_d ≥ 0,   w_id ≥ 0,   w_id s_id = 0,   Σ_d w_id = 1,   reach·W ≥ floor − shortfall.

A pattern says of a pair (agent, group) that it is on (s = 0, w may be positive) or off (w = 0, s may be positive). On a
pattern that decides every pair the program is a convex QP; without the complementarity of undecided pairs it is a
relaxation. Patterns only choose which rows of one matrix are equations.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from jaxgame.games import dtype_of, reach_of
from jaxgame.games.affine import AffineMap, Aggregate, Edges
from jaxgame.solvers.scale import measure
from jaxgame.steering import quadratic_program as qp
from jaxgame.steering.agent_lever import AgentLever

TIE_BREAK = 1e-6  # weight of the cost where another objective comes first


@dataclasses.dataclass(frozen=True)
class Goal:
    """What to minimise: ½ Σ curvature x² + linear·x + constant; `exact`: without shortfall."""

    curvature: np.ndarray
    linear: np.ndarray
    constant: float
    exact: bool


@dataclasses.dataclass(frozen=True)
class Point:
    """The optimum of a pattern: profile (n, D), change Δ (n, D), value of the goal (∞: there is none).

    on (n, D): the pattern. entering (n, D): the multiplier of w ≥ 0, leaving (n, D): that of s ≥ 0; they have a sign
    where the constraint is no equation. slack (n, D): s. status: see `quadratic_program`.
    """

    on: np.ndarray
    profile: np.ndarray
    change: np.ndarray
    slack: np.ndarray
    entering: np.ndarray
    leaving: np.ndarray
    value: float
    status: str


class Program:
    """See the module's page. floor (D,) or zeros. Utilities are divided by the game's scale, so that every number in
    the program is of order one whatever their units.
    """

    def __init__(self, game: Any, lever: AgentLever, floor: np.ndarray):
        self.lever, self.shape = lever, (game.n_agents, game.n_groups)
        self.floor, self.bounded = floor, np.flatnonzero(floor > 0)
        sigma = float(measure(game, dtype_of(game)).sigma)
        self.affine: AffineMap = game.affine()
        self.sigma = sigma
        self.reach = np.asarray(reach_of(game, dtype_of(game)), np.float64)
        moves = lever.strength > 0
        # A change is measured by what it does: where it acts at full strength, one unit adds σ to a marginal utility.
        per_unit = sigma / np.where(moves, lever.strength, 1) if lever.targets is None else np.ones(self.shape[0])
        self.unit = np.where(moves, per_unit, 0)[:, None]
        weights = lever.weights * self.unit**2
        self.cost_unit = float(weights[moves].mean()) if moves.any() else 1.0
        self.weights = np.where(moves[:, None], weights / self.cost_unit, 1)

    @cached_property
    def layout(self) -> dict[str, slice]:
        """Where the unknowns are: profile, change, multipliers μ, aggregate, shortfall."""
        n, n_groups = self.shape
        aggregate = n_groups if isinstance(self.affine.others, Aggregate) else 0
        sizes = dict(profile=n * n_groups, change=n * n_groups, level=n, aggregate=aggregate)
        return _slices(sizes | dict(shortfall=len(self.bounded)))

    @cached_property
    def rows(self) -> dict[str, tuple[sp.csr_matrix, np.ndarray]]:
        """Blocks of rows, matrix and bound each: matrix x ≤ bound, or = where a pattern or the model says so."""
        n, n_groups = self.shape
        pairs, bounded = sp.eye(n * n_groups), sp.eye(len(self.bounded))
        sums = sp.kron(sp.eye(n), np.ones((1, n_groups)))
        linear = np.asarray(self.affine.linear, np.float64)
        linear = (linear - linear.mean(1, keepdims=True)) / self.sigma
        effect = sp.kron(sp.diags(self.lever.strength * self.unit[:, 0] / self.sigma), self.lever.metric)
        shown = sp.kron(self.reach[None], np.eye(n_groups)[self.bounded])
        rows = {
            "profile": (self._block(profile=-pairs), np.zeros(n * n_groups)),
            "marginal": (self._block(change=effect, level=-sums.T, **self._negative_jacobian()), -linear.ravel()),
            "shortfall": (self._block(shortfall=-bounded), np.zeros(len(self.bounded))),
            "floor": (self._block(profile=-shown, shortfall=-bounded), -self.floor[self.bounded]),
            "mixture": (self._block(profile=sums), np.ones(n)),
        }
        if isinstance(self.affine.others, Aggregate):
            mean = sp.kron(np.asarray(self.affine.others.reach, np.float64)[None], sp.eye(n_groups))
            rows["aggregate"] = (self._block(profile=mean, aggregate=-sp.eye(n_groups)), np.zeros(n_groups))
        if self.lever.targets is not None:
            rows["kept"] = (self._block(change=sums), np.zeros(n))
            rows["targets"] = (self._block(change=-pairs), self.lever.targets.ravel())
        return rows

    def _block(self, **blocks: Any) -> sp.csr_matrix:
        """Rows with blocks of columns at the places of their unknowns."""
        height = next(iter(blocks.values())).shape[0]
        sizes = {name: part.stop - part.start for name, part in self.layout.items()}
        return sp.csr_matrix(
            sp.hstack([blocks.get(name, sp.csr_matrix((height, size))) for name, size in sizes.items()])
        )

    def _negative_jacobian(self) -> dict[str, Any]:
        """What the profile, and the aggregate of it, add to the marginal utilities."""
        n, n_groups = self.shape
        own = sp.block_diag(list(np.asarray(self.affine.own.matrices(n, n_groups), np.float64)))
        others = self.affine.others
        if isinstance(others, Aggregate):
            columns = np.asarray(others.columns(), np.float64).reshape(n * n_groups, n_groups)
            return {"profile": -own / self.sigma, "aggregate": -columns / self.sigma}
        if isinstance(others, Edges) and others.left is None:
            weights = others.weights
            weights = sp.csr_matrix(np.asarray(weights.todense() if hasattr(weights, "todense") else weights))
            matrix = np.eye(n_groups) if others.B is None else np.asarray(others.B, np.float64)
            met = sp.kron(sp.diags(np.asarray(others.scale, np.float64)) @ weights.astype(np.float64), matrix)
        else:
            met = sp.csr_matrix(np.asarray(others.dense(n, n_groups), np.float64).reshape(n * n_groups, -1))
        return {"profile": -(own + met) / self.sigma}

    @cached_property
    def _stacked(self) -> tuple[sp.csr_matrix, np.ndarray, dict[str, slice]]:
        matrix = sp.csr_matrix(sp.vstack([block for block, _ in self.rows.values()]))
        bound = np.concatenate([bound for _, bound in self.rows.values()])
        return matrix, bound, _slices({name: len(bound) for name, (_, bound) in self.rows.items()})

    def cheapest(self) -> Goal:
        """The least change under which the floors hold."""
        return self._goal(cost=1.0)

    def cost(self, value: float) -> float:
        """The norm of the change at a value of `cheapest`."""
        return float(np.sqrt(2 * max(value, 0) * self.cost_unit))

    def least_shortfall(self) -> Goal:
        """The representation that comes nearest to the floors: the least total shortfall."""
        return self._goal(cost=TIE_BREAK, shortfall=1.0)

    def nearest(self, profile: np.ndarray) -> Goal:
        """The profile nearest to a given one (least squares)."""
        return self._goal(cost=TIE_BREAK, towards=profile)

    def _goal(self, *, cost: float, shortfall: float = 0.0, towards: np.ndarray | None = None) -> Goal:
        curvature, linear = np.zeros((2, self.layout["shortfall"].stop))
        curvature[self.layout["change"]] = cost * self.weights.ravel()
        linear[self.layout["shortfall"]] = shortfall
        constant = 0.0
        if towards is not None:
            curvature[self.layout["profile"]] = 1
            linear[self.layout["profile"]] = -towards.ravel()
            constant = float((towards**2).sum() / 2)
        return Goal(curvature, linear, constant, shortfall == 0)

    def solve(self, goal: Goal, on: np.ndarray, off: np.ndarray | None = None) -> Point:
        """The optimum on a pattern; off (n, D) default ~on: fewer pairs leave the rest undecided, a relaxation."""
        off = ~on if off is None else off
        matrix, bound, rows = self._stacked
        equal = np.zeros(len(bound), bool)
        equal[rows["profile"]], equal[rows["marginal"]] = off.ravel(), on.ravel()
        equal[rows["shortfall"]] = goal.exact
        for name in ("mixture", "aggregate", "kept"):
            if name in rows:
                equal[rows[name]] = True
        found = qp.minimise(goal.curvature, goal.linear, matrix, bound, equal)
        profile, change = (found.point[self.layout[name]].reshape(self.shape) for name in ("profile", "change"))
        return Point(
            on=on,
            profile=profile,
            change=change * self.unit,
            slack=found.slack[rows["marginal"]].reshape(self.shape),
            entering=found.multipliers[rows["profile"]].reshape(self.shape),
            leaving=found.multipliers[rows["marginal"]].reshape(self.shape),
            value=found.value + goal.constant if found.solved else np.inf,
            status=found.status,
        )


def _slices(sizes: dict[str, int]) -> dict[str, slice]:
    ends = np.cumsum(list(sizes.values()))
    return {name: slice(int(end) - size, int(end)) for (name, size), end in zip(sizes.items(), ends, strict=True)}
