"""Floors on the representation: the plan that brings every group to its floor, by one of four levers (theory §5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxgame.bounds import Bounds, checked_floor, missed_by_rounding
from jaxgame.certificate.certify import certify, unique_under_bounds
from jaxgame.equilibrium import Equilibrium
from jaxgame.games import AlignmentGame, dtype_of, share_of, subsidised
from jaxgame.games.affine import per_agent
from jaxgame.linalg import dot
from jaxgame.solving import solve
from jaxgame.steering.least_norm import least_norm
from jaxgame.steering.least_price import least_price
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
    than 1; where they sum to 1 all groups are held, a constant in λ changes nothing, and the plan has the least λ ≥ 0
    of those for the same equilibrium. minimise="norm" looks for the λ of least Euclidean norm instead, of any sign,
    which may pay for a neighbouring group or charge for one: a descent from the complementary one, to a local minimum;
    cost is the norm.

    "appeal", "targets": one change an agent, (n, D), of least norm (`per_agent.floor_by_agent`; quadratic games);
    weights (n, D) or (D,) on its squares.

    Returns a Plan whose `theta` is the change; success: an ordinary solve of the changed game finds every group at its
    floor. Works on the host, outside jit, vmap and grad. Raises ValueError inside them, for floors that no
    representation reaches (those that sum to more than 1 by rounding alone are scaled down), an unknown lever or
    option, and a lever that the game does not have.
    """
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((game, floor, weights))):
        raise ValueError(
            "steer_to_floor works outside jit, vmap and grad, and game, floor or weights are traced; within them, "
            "solve(game, bounds=Bounds(lower=floor)).prices is the price that brings every group to its floor"
        )
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
        share = share_of(game, dtype_of(game))
        if lever == "price":
            return cls(game, lever, share, minimise)
        if not isinstance(game, AlignmentGame):
            return cls(game, lever, jnp.ones_like(share), minimise)
        exposure = per_agent(game.attractiveness, game.n_agents)
        if not bool((exposure > 0).any()):
            raise ValueError("lever 'common' changes appeal, and the attractiveness of every agent is 0; use 'price'")
        return cls(game, lever, exposure, minimise)

    def bounds(self, floor: Array) -> Bounds:
        return Bounds(lower=floor, exposure=self.exposure)

    def under(self, floor: Array) -> Equilibrium:
        """The variational equilibrium."""
        found = solve(self.game, bounds=self.bounds(floor))
        if bool(found.converged) or not _no_choice(floor):
            return found
        # Nothing lies between such floors, not even rounding. One of them follows from the others, the one that takes
        # the least price; without it there is an interior again.
        rest = floor.at[jnp.argmin(jnp.asarray(found.prices))].set(0)
        again = solve(self.game, bounds=self.bounds(rest))
        return again if bool(again.converged) else found

    def changed(self, prices: Array) -> Any:
        """The game under the lever."""
        if self.lever == "common" and isinstance(self.game, AlignmentGame):
            return self.game.replace(appeal=self.game.appeal + prices[None])
        return subsidised(self.game, self.exposure[:, None] * prices[None])

    def cost(self, prices: Array, representation: Array) -> float:
        """The payment for a complementary price, else the norm."""
        if self.lever == "price" and self.minimise == "complementarity":
            return float(dot(prices, representation))
        return float(jnp.linalg.norm(prices))

    def wanted(self, floor: Array, found: Equilibrium) -> Iterator[Priced]:
        """The prices wanted, from the variational equilibrium; then others, for where an ordinary solve of the changed
        game finds another equilibrium than theirs.
        """
        prices = jnp.asarray(found.prices)
        if self.minimise == "norm" and bool(found.converged):
            yield Priced(*least_norm(self.game, self.bounds(floor), prices))
            return
        if bool(found.converged) and _no_choice(floor):
            least = least_price(self.game, self.exposure, found)
            yield Priced(least, [float(jnp.linalg.norm(least))], least=True)
        yield Priced(prices, [float(jnp.linalg.norm(prices))])


@dataclasses.dataclass(frozen=True)
class Priced:
    """Prices, the norms on the way to them, and whether they are the least of those that leave no choice."""

    prices: Array
    norms: list[float]
    least: bool = False


def _no_choice(floor: Array) -> bool:
    """Whether only one representation has the floors."""
    return float(floor.sum()) >= 1 - missed_by_rounding(floor.dtype)


def _by_price(charge: Charge, floor: Array) -> Plan:
    found, before = charge.under(floor), solve(charge.game)
    for priced in charge.wanted(floor, found):
        after = solve(charge.changed(priced.prices))
        plan = concluded(charge, floor, found, priced.prices, before, after, least=priced.least)
        plan = dataclasses.replace(plan, history={"norm": np.asarray(priced.norms)})
        if plan.success:
            break
    return dataclasses.replace(plan, details=plan.details | {"next_point": _next_point(charge, floor, found, plan)})


def concluded(
    charge: Charge,
    floor: Array,
    found: Equilibrium,
    prices: Array,
    before: Equilibrium,
    after: Equilibrium,
    *,
    least: bool = False,
) -> Plan:
    """The plan that charges `prices`, judged by `after`, an ordinary solve of the changed game; least: see `Priced`."""
    reached = np.asarray(after.representation) >= np.asarray(floor) - missed_by_rounding(floor.dtype)
    success = bool(found.converged) and bool(after.converged) and bool(reached.all())
    norm = float(jnp.linalg.norm(prices))
    return Plan(
        theta=prices,
        equilibrium=after,
        before=before,
        history={"norm": np.asarray([norm])},
        certificate=certify(after.game, after.profile),
        success=success,
        message=_message(charge, found, prices, after, reached, least),
        cost=charge.cost(prices, after.representation),
        lever=charge.lever,
        baseline=jnp.zeros_like(prices),
        rebuild=charge.changed,
        details=dict(floor=np.asarray(floor), payment=float(dot(prices, after.representation)), norm=norm),
    )


def _next_point(charge: Charge, floor: Array, found: Equilibrium, plan: Plan) -> float:
    """What another POINT for every group held at its floor adds to the cost; ∞ where it cannot be had, NaN where it was
    not found.
    """
    raised = jnp.where(jnp.asarray(found.prices) > 0, floor + POINT, floor)
    if not plan.success or float(raised.sum()) > 1:
        return np.inf
    again = charge.under(raised)
    priced = next(charge.wanted(raised, again))
    return charge.cost(priced.prices, again.representation) - plan.cost if bool(again.converged) else np.nan


def _message(
    charge: Charge, found: Equilibrium, prices: Array, after: Equilibrium, reached: np.ndarray, least: bool
) -> str:
    groups = np.flatnonzero(~reached).tolist()
    monotone, unique = _unique(charge, least)
    if not bool(found.converged):
        return f"No plan: the equilibrium under floors was not found. {found.message}{'' if monotone else f' {unique}'}"
    if not bool(after.converged):
        return f"No plan: the changed game could not be solved. {after.message} {unique}"
    if groups:
        return (
            f"No plan: an ordinary solve of the changed game leaves groups {groups} below their floor; it has other "
            f"equilibria than the one that the prices were made for. {unique}"
        )
    if not bool(prices.any()):
        return f"Every group is at its floor or above as the game is: no change is needed. {unique}"
    what = "a price per unit of representation" if charge.lever == "price" else "one addition to everyone's appeal"
    kind = "zero except for groups held at their floor"
    if least:
        kind = "the least of those for this equilibrium: the floors sum to 1, and a constant more would change nothing"
    if charge.minimise == "norm":
        kind = "of least norm, at least among those near it"
    return (
        f"Every group is at its floor or above by {what}, as an ordinary solve of the changed game confirms. It is "
        f"{kind}. {unique}"
    )


def _unique(charge: Charge, least: bool) -> tuple[bool, str]:
    """Whether the conditions are proved to be monotone, and what follows."""
    if not unique_under_bounds(charge.game, charge.exposure):
        return False, (
            "The agents' conditions, weighted by reach over exposure, are not proved to be monotone: other prices and "
            "other equilibria may exist, and the interior point had no guarantee to find one."
        )
    rows = "The agents' conditions, weighted by reach over exposure, are strongly monotone"
    if charge.minimise == "norm":
        return True, f"{rows}: the changed game has no other equilibrium."
    if least:
        return True, f"{rows}: no complementary prices for these floors are lower."
    return True, f"{rows}: no other complementary prices exist (where the floors sum to less than 1)."
