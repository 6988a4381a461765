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

from jaxgame.bounds import checked_floor, missed_by_rounding
from jaxgame.certificate.certify import certify
from jaxgame.equilibrium import Equilibrium
from jaxgame.games import dtype_of, is_quadratic
from jaxgame.solving import solve
from jaxgame.steering import agent_lever
from jaxgame.steering.agent_lever import AgentLever, changed
from jaxgame.steering.complementarity import Point, Program
from jaxgame.steering.plan import NOTICED, Plan
from jaxgame.steering.supports import Search, support

PULLS = 40  # common changes tried on the way to a start
FIRST_PULL, LONGER = 1 / 64, 1.5
BATCHES = 50  # in which agents are given a group as their target


def floor_by_agent(game: Any, floor: Any, *, lever: str, weights: Any = None, complete: bool | None = None) -> Plan:
    """The cheapest change Δ (n, D) of the agents' "appeal" or "targets" with which every group d has a representation
    of at least floor_d; floor scalar or (D,).

    Cheapest in the norm √Σ weights Δ², weights (n, D) or (D,) positive, default ones; it is the plan's `cost`. What is
    found is a stationary point; up to n·D = 128 one that no flip of a pair of agent and group in the support improves,
    up to n·D = 36 also none of two pairs that share an agent or a group. complete=True searches all supports, by branch
    and bound, exponential in n·D at worst; default: where n·D ≤ 16; False: never.

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
    floors = checked_floor(game, floor)
    plan = _Plan(game, lever, AgentLever.of(game, lever, weights), floors, solve(game))
    if bool(plan.before.converged) and not plan.misses(plan.before):
        return plan.without_change()
    return plan.concluded(plan.found(complete))


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
        starts = list(self._starts(program.sigma))
        search = Search(program, program.cheapest())
        everything = search.at(starts[0])
        upper = self.described.cost(everything.change) if np.isfinite(everything.value) else np.inf
        point, proved = search.best(starts, complete)
        costs = [program.cost(value) for value in search.along]
        if point is not None:
            return _Found(point, True, proved, upper, search.tried, costs)
        nearest = Search(program, program.least_shortfall())
        point, _ = nearest.best([*starts, support(self.before)], complete)
        reaches = point is not None and float((program.floor - program.reach @ point.profile).max()) <= self.rounding
        return _Found(point, reaches, proved and not reaches, upper, search.tried + nearest.tried, [])

    def _starts(self, sigma: float) -> Iterator[np.ndarray]:
        """Supports that may be near the optimum's: everything; what is represented, with what is to be; and that of an
        equilibrium with the floors, or near them.
        """
        yield np.ones(self.before.profile.shape, bool)
        yield support(self.before) | np.asarray(self.before.representation < self.floors)
        reached, pulled = self._under_common_pull(sigma)
        yield pulled
        if self.lever == "targets" and not reached:
            yield self._divided()

    def _under_common_pull(self, sigma: float) -> tuple[bool, np.ndarray]:
        """The support of the equilibrium once everyone is drawn to the groups below their floor, by turns further until
        none is left; of the one that missed least where that does not happen.
        """
        pull, found = np.zeros(self.game.n_groups), []
        for _ in range(PULLS):
            after = solve(changed(self.game, self.lever, self.described.common(pull, sigma)))
            shortfall = self._shortfall(after)
            found.append((float(shortfall.sum()), support(after)))
            if not (bool(after.converged) and self.misses(after)):
                break
            pull = np.where(shortfall > self.rounding, np.maximum(LONGER * pull, FIRST_PULL), pull)
        missing, best = min(found, key=lambda pair: pair[0])
        return missing <= self.rounding, best

    def _divided(self) -> np.ndarray:
        """The support of the equilibrium once agents, those nearest to it first, have the group that misses its floor
        most as their whole target, until none is missed or no agent is left; of the one that missed least.
        """
        change, free, found = np.zeros(self.before.profile.shape), np.ones(self.game.n_agents, bool), []
        batch = -(-self.game.n_agents // BATCHES)
        while True:
            after = solve(changed(self.game, self.lever, change))
            shortfall = self._shortfall(after)
            found.append((float(shortfall.sum()), support(after)))
            if not (bool(after.converged) and self.misses(after) and free.any()):
                return min(found, key=lambda pair: pair[0])[1]
            group = int(shortfall.argmax())
            near = np.where(free, np.asarray(after.signed)[:, group], -np.inf)
            given = np.argsort(-near)[: min(batch, int(free.sum()))]
            change[given] = np.eye(self.game.n_groups)[group] - np.asarray(self.game.targets)[given]
            free[given] = False

    def without_change(self) -> Plan:
        theta = jnp.zeros_like(self.before.profile)
        message = "Every group is at its floor or above as the game is: no change is needed."
        known = dict(upper_bound=0.0, supports_tried=0, globally_optimal=True, planned=np.asarray(self.before.profile))
        return self._plan(theta, self.before, [0.0], True, message, known)

    def concluded(self, found: _Found) -> Plan:
        """The plan, judged by an ordinary solve of the changed game."""
        point = found.point
        change = np.zeros(self.before.profile.shape) if point is None else point.change
        theta = jnp.asarray(change, dtype_of(self.game))
        after = solve(changed(self.game, self.lever, theta))
        held = bool(after.converged) and not self.misses(after)
        known = dict(
            upper_bound=found.upper,
            supports_tried=found.tried,
            globally_optimal=found.reaches and found.proved,
            planned=None if point is None else np.maximum(point.profile, 0),
        )
        return self._plan(theta, after, found.costs, found.reaches and held, self._message(found, after, held), known)

    def _plan(self, theta: Array, after: Equilibrium, costs: list[float], success: bool, message: str, known) -> Plan:
        game, lever = self.game, self.lever
        return Plan(
            theta=theta,
            equilibrium=after,
            before=self.before,
            history={"cost": np.asarray(costs)},
            certificate=certify(after.game, after.profile),
            success=success,
            message=message,
            cost=self.described.cost(np.asarray(theta, np.float64)),
            lever=lever,
            baseline=jnp.zeros_like(theta),
            rebuild=lambda change: changed(game, lever, change),
            details=known | dict(floor=np.asarray(self.floors), shortfall=self._shortfall(after)),
        )

    @property
    def rounding(self) -> float:
        return missed_by_rounding(self.floors.dtype)

    def misses(self, after: Equilibrium) -> bool:
        """Whether a group is below its floor by more than rounding."""
        return bool((self._shortfall(after) > self.rounding).any())

    def _shortfall(self, after: Equilibrium) -> np.ndarray:
        shown = np.asarray(after.representation, np.float64)
        return np.maximum(np.asarray(self.floors, np.float64) - shown, 0)

    def _message(self, found: _Found, after: Equilibrium, held: bool) -> str:
        if found.point is None:
            return "No plan: no support gave a solvable program. Is the game itself solvable? See solve(game).message."
        shortfall = self._shortfall(after)
        shown = ", ".join(f"{share:.4g}" for share in np.asarray(after.representation))
        if not found.reaches:
            none = (
                f"no change of the agents' {self.lever} reaches the floors (proved by a complete search)"
                if found.proved
                else f"no change of the agents' {self.lever} was found that reaches the floors"
            )
            return (
                f"No plan: {none}. The nearest that was found shows the "
                f"groups as {shown}; in total {shortfall.sum():.4g} is missing."
            )
        if not bool(after.converged):
            return f"No plan: the changed game could not be solved. {after.message}"
        if not held:
            groups = np.flatnonzero(shortfall > self.rounding).tolist()
            return (
                f"No plan: an ordinary solve of the changed game leaves groups {groups} below their floor, by up to "
                f"{shortfall.max():.3g}. The planned profile is an equilibrium, but not the one that was found: the "
                "changed game has several, or is too ill-conditioned for its precision."
            )
        size = np.abs(found.point.change).max(1)
        moved = int((size > NOTICED * size.max()).sum())
        kind = (
            "A complete search of the supports proves it the cheapest"
            if found.proved
            else "It is a stationary point; cheaper changes with another support are not excluded"
        )
        return (
            f"Every group is at its floor or above after a change of the {self.lever} of {moved} of "
            f"{self.game.n_agents} agents, as an ordinary solve of the changed game confirms. {kind}."
        )
