"""Floors on the representation: the plan that brings every group to its floor, by one of four levers (theory §5)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame.bounds import Bounds, checked_floor
from jaxgame.certificate.certify import certify, unique_under_bounds
from jaxgame.equilibrium import Equilibrium
from jaxgame.games import AlignmentGame, dtype_of, reach_of, subsidised
from jaxgame.games.affine import per_agent
from jaxgame.solving import solve
from jaxgame.steering.least_norm import least_norm
from jaxgame.steering.plan import Plan

LEVERS = ("price", "common", "appeal", "targets")
MINIMISED = ("complementarity", "norm")
POINT = 0.01  # of representation


def steer_to_floor(
    game: Any, floor: Any, *, lever: str = "price", minimise: str = "complementarity", weights: Any = None
) -> Plan:
    """The change of a game that brings the representation of every group to its floor (scalar or (D,)).

    lever "price": a price λ (D,) paid to every agent per unit of representation, ⟨λ, reach_i w_i⟩; cost is the payment
    ⟨λ, S⟩. "common": one addition λ (D,) to everyone's appeal (of a game that is no `AlignmentGame`: to everyone's
    marginal utilities); cost is its norm. Both are one variational equilibrium with the floors as shared bounds: no
    bilevel problem, at any number of agents. λ is complementary: zero except for groups held at their floor, and unique
    for these where the agents' rows, weighted by reach_i / exposure_i, are strongly monotone and the floors sum to less
    than 1. minimise="norm" looks for the λ of least Euclidean norm instead, of any sign, which may pay for a
    neighbouring group or charge for one: a descent from the complementary one, to a local minimum; cost is the norm.

    "appeal", "targets": one change an agent, (n, D), of least norm (`per_agent.floor_by_agent`; quadratic games);
    weights (n, D) or (D,) on its squares.

    Returns a Plan whose `theta` is the change; success: an ordinary solve of the changed game finds every group at its
    floor. Raises ValueError for floors that no representation reaches, an unknown lever or option, and a lever that the
    game does not have.
    """
    if lever not in LEVERS:
        raise ValueError(f"lever is {lever!r}, expected one of {LEVERS}")
    if minimise not in MINIMISED:
        raise ValueError(f"minimise is {minimise!r}, expected one of {MINIMISED}")
    floor = checked_floor(game, floor)
    if lever in ("appeal", "targets"):
        if minimise != "complementarity":
            raise ValueError(f"minimise is {minimise!r}; it is for the levers 'price' and 'common'")
        from jaxgame.steering.per_agent import floor_by_agent  # only here is the quadratic programming solver needed

        return floor_by_agent(game, floor, lever=lever, weights=weights)
    if weights is not None:
        raise ValueError(f"weights are for the levers 'appeal' and 'targets', and the lever is {lever!r}")
    return _by_price(Charge.of(game, lever, minimise), floor)


@dataclasses.dataclass(frozen=True)
class Charge:
    """A lever that enters everyone's marginal utilities as prices do: exposure_i λ (theory §5)."""

    game: Any
    lever: str
    exposure: Array  # (n,)
    minimise: str = "complementarity"

    @classmethod
    def of(cls, game: Any, lever: str, minimise: str) -> Charge:
        """Raises ValueError for a common change of appeal that no agent feels."""
        reach = reach_of(game, dtype_of(game))
        if lever == "price":
            return cls(game, lever, reach, minimise)
        if not isinstance(game, AlignmentGame):
            return cls(game, lever, jnp.ones_like(reach), minimise)
        exposure = per_agent(game.attractiveness, game.n_agents)
        if not bool((exposure > 0).any()):
            raise ValueError("lever 'common' changes appeal, and the attractiveness of every agent is 0; use 'price'")
        return cls(game, lever, exposure, minimise)

    def bounds(self, floor: Array) -> Bounds:
        return Bounds(lower=floor, exposure=self.exposure)

    def changed(self, prices: Array) -> Any:
        """The game under the lever."""
        if self.lever == "common" and isinstance(self.game, AlignmentGame):
            return self.game.replace(appeal=self.game.appeal + prices[None])
        return subsidised(self.game, self.exposure[:, None] * prices[None])

    def cost(self, prices: Array, representation: Array) -> float:
        """The payment for a complementary price, else the norm."""
        if self.lever == "price" and self.minimise == "complementarity":
            return float(prices @ representation)
        return float(jnp.linalg.norm(prices))

    def least(self, floor: Array, found: Equilibrium) -> tuple[Array, list[float]]:
        """The prices wanted, from the variational equilibrium, and their norms on the way."""
        prices = jnp.asarray(found.prices)
        if self.minimise == "norm" and bool(found.converged):
            return least_norm(self.game, self.bounds(floor), prices)
        return prices, [float(jnp.linalg.norm(prices))]


def _by_price(charge: Charge, floor: Array) -> Plan:
    found = solve(charge.game, bounds=charge.bounds(floor))
    prices, norms = charge.least(floor, found)
    after = solve(charge.changed(prices))
    plan = concluded(charge, floor, found, prices, solve(charge.game), after)
    return dataclasses.replace(
        plan,
        history={"norm": np.asarray(norms)},
        details=plan.details | {"next_point": _next_point(charge, floor, found, plan)},
    )


def concluded(
    charge: Charge, floor: Array, found: Equilibrium, prices: Array, before: Equilibrium, after: Equilibrium
) -> Plan:
    """The plan that charges `prices`, judged by `after`, an ordinary solve of the changed game."""
    reached = np.asarray(after.representation) >= np.asarray(floor) - _slack(floor)
    success = bool(found.converged) and bool(after.converged) and bool(reached.all())
    norm = float(jnp.linalg.norm(prices))
    return Plan(
        theta=prices,
        equilibrium=after,
        before=before,
        history={"norm": np.asarray([norm])},
        certificate=certify(after.game, after.profile),
        success=success,
        message=_message(charge, found, after, reached),
        cost=charge.cost(prices, after.representation),
        lever=charge.lever,
        baseline=jnp.zeros_like(prices),
        rebuild=charge.changed,
        details=dict(floor=np.asarray(floor), payment=float(prices @ after.representation), norm=norm),
    )


def _next_point(charge: Charge, floor: Array, found: Equilibrium, plan: Plan) -> float:
    """What another POINT for every group held at its floor adds to the cost; ∞ where it cannot be had."""
    raised = jnp.where(jnp.asarray(found.prices) > 0, floor + POINT, floor)
    if not plan.success or float(raised.sum()) > 1:
        return np.inf
    again = solve(charge.game, bounds=charge.bounds(raised))
    prices, _ = charge.least(raised, again)
    return charge.cost(prices, again.representation) - plan.cost if bool(again.converged) else np.inf


def _slack(floor: Array) -> float:
    """By how much a floor may be missed for rounding."""
    return float(jnp.finfo(floor.dtype).eps) ** 0.5 / 10


def _message(charge: Charge, found: Equilibrium, after: Equilibrium, reached: np.ndarray) -> str:
    groups = np.flatnonzero(~reached).tolist()
    unique = _unique(charge)
    if not bool(found.converged):
        return f"No plan: the equilibrium under floors was not found. {found.message} {unique}"
    if not bool(after.converged):
        return f"No plan: the changed game could not be solved. {after.message} {unique}"
    if groups:
        return (
            f"No plan: an ordinary solve of the changed game leaves groups {groups} below their floor; it has other "
            f"equilibria than the one that the prices were made for. {unique}"
        )
    what = "a price per unit of representation" if charge.lever == "price" else "one addition to everyone's appeal"
    kind = "zero except for groups held at their floor"
    if charge.minimise == "norm":
        kind = "of least norm, at least among those near it"
    return (
        f"Every group is at its floor or above by {what}, as an ordinary solve of the changed game confirms. It is "
        f"{kind}. {unique}"
    )


def _unique(charge: Charge) -> str:
    if unique_under_bounds(charge.game, charge.exposure):
        rows = "The agents' conditions, weighted by reach over exposure, are strongly monotone"
        return f"{rows}: no other complementary prices exist (where the floors sum to less than 1)."
    return (
        "The agents' conditions, weighted by reach over exposure, are not proved to be monotone: other prices and "
        "other equilibria may exist, and the interior point had no guarantee to find one."
    )
