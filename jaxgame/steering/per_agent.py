"""Floors on the representation by one change an agent, of least norm (theory §5).

The minimum over changes Δ and the equilibria they induce is a quadratic program with complementarity constraints
(`complementarity`). Asked to make every pair of agent and group indifferent it is a convex QP, an upper bound; from
there and from other supports, pivots lead to stationary points, and in small games branch and bound to the optimum
(`supports`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame import _checks
from jaxgame.bounds import Bounds
from jaxgame.certificate.certify import certify
from jaxgame.equilibrium import Equilibrium, solve
from jaxgame.games import dtype_of, is_quadratic
from jaxgame.steering import agent_lever
from jaxgame.steering.agent_lever import AgentLever, changed
from jaxgame.steering.complementarity import Point, Program
from jaxgame.steering.plan import Plan
from jaxgame.steering.supports import Search, support

PULLS = 40  # common changes tried on the way to a start
FIRST_PULL, LONGER = 1 / 64, 1.5


def floor_by_agent(game: Any, floor: Any, *, lever: str, weights: Any = None, complete: bool | None = None) -> Plan:
    """The cheapest change Δ (n, D) of the agents' "appeal" or "targets" with which every group d has a representation
    of at least floor_d; floor scalar or (D,).

    Cheapest in the norm √Σ weights Δ², weights (n, D) or (D,) positive, default ones; it is the plan's `cost`. What is
    found is a stationary point that no flip of a single pair of agent and group in the support improves (the latter up
    to n·D = 128). complete=True searches all supports, by branch and bound, exponential in n·D at worst; default: where
    n·D ≤ 16; False: never.

    Plan.theta is Δ, `equilibrium` an ordinary solve of the changed game, `success` that it converged and has the
    floors. Where no change is found that reaches the floors, success is False and the plan is the one with the least
    total shortfall that was found. history: "cost" along the refinements. details: "upper_bound", cost of the convex QP
    (∞ where it is infeasible); "supports_tried", quadratic programs solved; "globally_optimal", whether a complete
    search proves it, up to a relative error of 1e-6; "planned" (n, D), the profile that the plan aims at; "shortfall"
    (D,), what it lacks.

    Raises ValueError for floors that are negative or sum to more than 1, weights that are not positive, a lever that
    the game does not have, and games that are not quadratic (`steer` treats these).
    """
    agent_lever.check(game, lever)
    if not is_quadratic(game):
        raise ValueError(
            f"lever={lever!r} needs a quadratic game, got {type(game).__name__}; use steer(build, theta, …), or "
            "lever='price' or 'common'"
        )
    floors = _floors(game, floor)
    described = AgentLever.of(game, lever, weights)
    before = solve(game)
    if bool(before.converged) and bool((before.representation >= floors).all()):
        return _nothing_to_do(game, lever, before, floors)
    plan = _Plan(game, lever, described, floors, before)
    return plan.concluded(plan.found(complete))


def _floors(game: Any, floor: Any) -> Array:
    dtype, n_groups = dtype_of(game), game.n_groups
    value = _checks.array("floor", floor, dtype, (), (n_groups,))
    _checks.nonnegative("floor", value)
    value = jnp.broadcast_to(value, (n_groups,))
    if (total := float(np.asarray(value, np.float64).sum())) > 1 + _checks.row_tolerance(dtype):
        raise ValueError(f"floor sums to {total:.10g}, expected at most 1: representation is shared among the groups")
    return value


def _nothing_to_do(game: Any, lever: str, before: Equilibrium, floors: Array) -> Plan:
    return Plan(
        theta=jnp.zeros((game.n_agents, game.n_groups), dtype_of(game)),
        equilibrium=before,
        before=before,
        history={"cost": np.zeros(1)},
        certificate=certify(game, before.profile),
        success=True,
        message="Every group is at its floor or above as the game is: no change is needed.",
        cost=0.0,
        lever=lever,
        details=dict(
            floor=np.asarray(floors),
            upper_bound=0.0,
            supports_tried=0,
            globally_optimal=True,
            planned=np.asarray(before.profile),
            shortfall=np.zeros(game.n_groups),
        ),
    )


@dataclasses.dataclass(frozen=True)
class _Found:
    """The point that was found, and what is known of it."""

    point: Point | None
    reaches: bool
    proved: bool
    upper: float
    tried: int
    costs: list[float]


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A plan in the making."""

    game: Any
    lever: str
    described: AgentLever
    floors: Array
    before: Equilibrium

    def found(self, complete: bool | None) -> _Found:
        """The cheapest point at the floors; where there is none, the one with the least shortfall."""
        program = Program(self.game, self.described, np.asarray(self.floors, np.float64))
        starts = list(self._starts())
        search = Search(program, program.cheapest())
        everything = search.at(starts[0])
        upper = self.described.cost(everything.change) if np.isfinite(everything.value) else np.inf
        point, proved = search.best(starts, complete)
        costs = [program.cost(value) for value in search.along]
        if point is not None:
            return _Found(point, True, proved, upper, search.tried, costs)
        nearest = Search(program, program.least_shortfall())
        point, _ = nearest.best([*starts, support(self.before)], complete)
        return _Found(point, False, proved, upper, search.tried + nearest.tried, [])

    def _starts(self) -> Iterator[np.ndarray]:
        """Supports that may be near the optimum's: everything; what is represented, with what is to be; and those of
        equilibria with the floors under a common change.
        """
        yield np.ones(self.before.profile.shape, bool)
        yield support(self.before) | np.asarray(self.before.representation < self.floors)
        if (agreed := self._under_common_prices()) is not None:
            yield agreed
        if self.lever == "targets" and (pulled := self._under_common_pull()) is not None:
            yield pulled

    def _under_common_prices(self) -> np.ndarray | None:
        """The support of the variational equilibrium in which one addition to everyone's appeal holds the floors."""
        exposure = agent_lever.appeal_strength(self.game)
        priced = solve(self.game, bounds=Bounds(lower=self.floors, exposure=exposure))
        return support(priced) if bool(priced.converged) else None

    def _under_common_pull(self) -> np.ndarray | None:
        """The support of the equilibrium once all targets are drawn to the groups below their floor, by turns further
        until none is left.
        """
        assert self.described.targets is not None
        targets, pull = self.described.targets, np.zeros(self.game.n_groups)
        for _ in range(PULLS):
            after = solve(changed(self.game, "targets", (targets + pull) / (1 + pull.sum()) - targets))
            short = np.asarray(after.representation < self.floors)
            if not bool(after.converged):
                return None
            if not short.any():
                return support(after)
            pull = np.where(short, np.maximum(LONGER * pull, FIRST_PULL), pull)
        return None

    def concluded(self, found: _Found) -> Plan:
        """The plan, judged by an ordinary solve of the changed game."""
        game, point = self.game, found.point
        shape = (game.n_agents, game.n_groups)
        change = np.zeros(shape) if point is None else point.change
        theta = jnp.asarray(change, dtype_of(game))
        after = solve(changed(game, self.lever, theta))
        floors = np.asarray(self.floors, np.float64)
        shortfall = np.maximum(floors - np.asarray(after.representation, np.float64), 0)
        held = bool(after.converged) and float(shortfall.max()) <= float(jnp.finfo(theta.dtype).eps) ** 0.5 / 10
        return Plan(
            theta=theta,
            equilibrium=after,
            before=self.before,
            history={"cost": np.asarray(found.costs)},
            certificate=certify(after.game, after.profile),
            success=found.reaches and held,
            message=self._message(found, after, held, shortfall),
            cost=self.described.cost(np.asarray(theta, np.float64)),
            lever=self.lever,
            baseline=jnp.zeros_like(theta),
            rebuild=lambda change: changed(game, self.lever, change),
            details=dict(
                floor=np.asarray(self.floors),
                upper_bound=found.upper,
                supports_tried=found.tried,
                globally_optimal=found.reaches and found.proved,
                planned=None if point is None else np.maximum(point.profile, 0),
                shortfall=shortfall,
            ),
        )

    def _message(self, found: _Found, after: Equilibrium, held: bool, shortfall: np.ndarray) -> str:
        if found.point is None:
            return "No plan: no support gave a solvable program. Is the game itself solvable? See solve(game).message."
        shown = ", ".join(f"{share:.4g}" for share in np.asarray(after.representation))
        if not found.reaches:
            none = "no change of" if found.proved else "no change was found of"
            return (
                f"No plan: {none} the agents' {self.lever} reaches the floors"
                f"{' (proved by a complete search)' if found.proved else ''}. The nearest that was found shows the "
                f"groups as {shown}; in total {shortfall.sum():.4g} is missing."
            )
        if not bool(after.converged):
            return f"No plan: the changed game could not be solved. {after.message}"
        if not held:
            groups = np.flatnonzero(shortfall > 0).tolist()
            return (
                f"No plan: an ordinary solve of the changed game leaves groups {groups} below their floor, by up to "
                f"{shortfall.max():.3g}. The planned profile is an equilibrium, but not the one that was found: the "
                "changed game has several, or is too ill-conditioned for its precision."
            )
        moved = int((np.abs(found.point.change).max(1) > 0).sum())
        kind = (
            "a complete search of the supports proves it the cheapest"
            if found.proved
            else ("a stationary point; cheaper changes with another support are not excluded")
        )
        return (
            f"Every group is at its floor or above after a change of the {self.lever} of {moved} of "
            f"{self.game.n_agents} agents, as an ordinary solve of the changed game confirms. It is {kind}."
        )
