"""The variational equilibrium under shared bounds on the representation, by an interior point (theory §5).

One complementarity problem in mixtures and prices: every agent's conditions with the prices added to its marginals,
and for every bounded row of M S a price that is zero unless the bound is met. A step follows the central path of the
whole problem (Mehrotra 1992); then the faces and the binding bounds that the point suggests are tried by one linear
solve, which ends the search exactly once they are right.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxgame._pytree import pytree
from jaxgame.bounds import Bounds
from jaxgame.games import linearise, reach_of, representation
from jaxgame.games.affine import AffineMap
from jaxgame.linalg import dot
from jaxgame.solvers import kkt
from jaxgame.solvers.newton import longest, project_on, proximity, stakes
from jaxgame.solvers.scale import Scale, measure

REFINEMENTS = 4  # of a point on its faces; where these hold many, elimination loses digits that each wins back
SIGNS = (1.0, -1.0)  # of the lower and the upper side: sign·(M S − limit) ≥ 0


@pytree()
class Central:
    """A point near the central path: mixtures w and multipliers ν (n, D), μ (n,); slacks and prices (2, p) of the lower
    and the upper side, prices 0 where there is no bound.
    """

    mixture: Array
    dual: Array
    mu: Array
    slack: Array
    price: Array


@pytree()
class BoundedState:
    profile: Array
    prices: Array  # (p,): of the lower side less of the upper, in utility
    marginals: Array  # with the prices
    residual: Array
    central: Central
    scale: Scale
    evaluations: Array


@pytree()
class BoundedNewton:
    """What `solve` uses for `bounds`; a solver like the others, for any game whose Jacobian fits in memory."""

    bounds: Bounds  # sized

    max_steps: ClassVar[int] = 200
    stall: ClassVar[int] = 40

    def init(self, game: Any, profile: Array) -> BoundedState:
        scale = measure(game, profile.dtype)
        problem = _Problem.of(game, self.bounds, scale, profile)
        mixture = jnp.full_like(profile, 1 / profile.shape[1])
        fall = -game.marginals(mixture) / scale.sigma
        lowest = fall.min(1)
        central = Central(
            mixture=mixture,
            dual=fall - lowest[:, None] + 1,
            mu=1 - lowest,
            slack=jnp.maximum(problem.room(mixture), 0.1),
            price=jnp.where(problem.bounded, jnp.ones_like(problem.limits), 0),
        )
        return self._judged(game, scale, central, profile, jnp.zeros_like(self.bounds.lower), jnp.ones((), int))

    def step(self, game: Any, state: BoundedState) -> BoundedState:
        scale = state.scale
        central = _Problem.of(game, self.bounds, scale, state.central.mixture).advanced(state.central)
        problem = _Problem.of(game, self.bounds, scale, central.mixture)
        face = central.mixture >= jnp.minimum(central.dual, central.mixture.max(1, keepdims=True))
        point, net = problem.on_face(central, face)
        usable = jnp.isfinite(point).all() & jnp.isfinite(net).all()
        profile = jnp.where(usable, project_on(point, face), central.mixture)
        prices = jnp.where(usable, net, (problem.signs * central.price).sum(0))
        # Where nothing satisfies the bounds prices grow without limit, and rounding with them until any residual counts
        # as rounding.
        sober = jnp.abs(prices).max() <= jnp.finfo(prices.dtype).eps ** -0.4
        profile = jnp.where(sober, profile, state.profile)
        prices = jnp.where(sober, prices * scale.sigma / problem.unit, state.prices)
        return self._judged(game, scale, central, profile, prices, state.evaluations + 2)

    def _judged(
        self, game: Any, scale: Scale, central: Central, profile: Array, prices: Array, evaluations: Array
    ) -> BoundedState:
        marginals = game.marginals(profile) + self.bounds.priced(prices)
        off = bound_residual(game, self.bounds, scale, profile, prices)
        residual = jnp.maximum(scale.residual(profile, marginals), off)
        return BoundedState(profile, prices, marginals, residual, central, scale, evaluations)


def bound_residual(game: Any, bounds: Bounds, scale: Scale, profile: Array, prices: Array) -> Array:
    """The largest |min(room, price)| over the sides of all bounds, prices in the unit of mixtures."""
    unit = _unit(bounds)
    signs = jnp.asarray(SIGNS, profile.dtype)[:, None]
    room = signs * (dot(bounds.matrix, representation(game, profile))[None] - bounds.limits())
    price = jnp.maximum(signs * prices[None], 0) * unit / scale.sigma
    return jnp.abs(jnp.minimum(room, price)).max()


def _unit(bounds: Bounds) -> Array:
    """The largest exposure: prices times it are marginal utilities."""
    largest = bounds.exposure.max()
    return jnp.where(largest > 0, largest, 1)


@pytree()
class _Problem:
    """The complementarity problem linearised at a profile, in units in which utilities and prices are about 1."""

    affine: AffineMap
    exposure: Array
    reach: Array
    matrix: Array
    limits: Array  # (2, p), finite
    bounded: Array  # (2, p) bool
    unit: Array

    @classmethod
    def of(cls, game: Any, bounds: Bounds, scale: Scale, at: Array) -> _Problem:
        limits, unit = bounds.limits(), _unit(bounds)
        bounded = jnp.isfinite(limits)
        return cls(
            affine=linearise(game, at).scaled(1 / scale.sigma),
            exposure=bounds.exposure / unit,
            reach=reach_of(game, at.dtype),
            matrix=bounds.matrix,
            limits=jnp.where(bounded, limits, 0),
            bounded=bounded,
            unit=unit,
        )

    @property
    def signs(self) -> Array:
        return jnp.asarray(SIGNS, self.matrix.dtype)[:, None]

    def shown(self, mixture: Array) -> Array:
        """M S, (p,)."""
        return dot(self.matrix, dot(self.reach, mixture))

    def room(self, mixture: Array) -> Array:
        """How far M S is inside each bound, (2, p); 1 where there is none."""
        return jnp.where(self.bounded, self.signs * (self.shown(mixture)[None] - self.limits), 1)

    def priced(self, net: Array) -> Array:
        return self.exposure[:, None] * dot(net, self.matrix)[None]

    def advanced(self, now: Central) -> Central:
        """The next point of the central path; the same one if it would not be finite."""
        stiffness = jnp.where(self.bounded, now.price / now.slack, 0).sum(0)
        soft = stiffness > 0
        theta = 1 / jnp.where(soft, stiffness, 1)
        everyone = jnp.ones_like(now.mixture, bool)
        factor = kkt.factorise(self.affine, now.dual / now.mixture, everyone)
        rows = jnp.where(soft[:, None], self.matrix, 0)
        solve = kkt.bordered(factor, self.exposure, self.reach, rows, theta)
        net = (self.signs * now.price).sum(0)
        stationarity = self.affine(now.mixture) + now.mu[:, None] - self.priced(net)
        lack = self.room(now.mixture) - now.slack

        def towards(target: Array, side: Array) -> Central:
            """The change that leads to w∘ν = target and slack∘price = side."""
            pull = (side - now.price * (now.slack + lack)) / now.slack
            pull = (self.signs * jnp.where(self.bounded, pull, 0)).sum(0)
            rhs = target / now.mixture - stationarity
            dw, dmu, _ = solve(rhs, 1 - now.mixture.sum(1), jnp.where(soft, pull * theta, 0))
            moved = self.signs * self.shown(dw)[None]
            dslack = jnp.where(self.bounded, moved + lack, 0)
            dprice = jnp.where(self.bounded, (side - now.price * (now.slack + dslack)) / now.slack, 0)
            return Central(dw, (target - now.dual * (now.mixture + dw)) / now.mixture, dmu, dslack, dprice)

        def length(change: Central) -> Array:
            pairs = (now.mixture, change.mixture), (now.dual, change.dual), (now.slack, change.slack)
            return jnp.stack([longest(x, dx) for x, dx in (*pairs, (now.price, change.price))]).min()

        count = now.mixture.size + self.bounded.astype(now.mixture.dtype).sum()

        def gap(point: Central) -> Array:
            return ((point.mixture * point.dual).sum() + (point.slack * point.price).sum()) / count

        nothing = jnp.zeros_like(now.mixture), jnp.zeros_like(now.slack)
        first = towards(*nothing)
        predicted = gap(_moved(now, first, length(first)))
        aim = jnp.clip(predicted / gap(now), 0, 1) ** 3 * gap(now)
        change = towards(aim - first.mixture * first.dual, aim - first.slack * first.price)
        ahead = _moved(now, change, jnp.minimum(1, 0.995 * length(change)))
        tiny = jnp.finfo(now.mixture.dtype).tiny ** 0.5
        inside = [ahead.mixture, ahead.dual, ahead.slack, jnp.where(self.bounded, ahead.price, 1)]
        sound = jnp.stack([(jnp.isfinite(x) & (x > tiny)).all() for x in inside]).all()
        return jax.tree.map(lambda new, old: jnp.where(sound, new, old), ahead, now)

    def on_face(self, now: Central, face: Array) -> tuple[Array, Array]:
        """The point and the net prices (p,) that are optimal on faces, where bounds with price above slack are met.

        As `newton.FaceStep`: a vanishing proximal term, and a refinement that removes its bias.
        """
        net = (self.signs * now.price).sum(0)
        side = jnp.where(net >= 0, 0, 1)
        columns = jnp.arange(side.shape[0])
        binding = self.bounded[side, columns] & (now.price[side, columns] > now.slack[side, columns])
        limit = jnp.where(binding, self.limits[side, columns], 0)
        rows = jnp.where(binding[:, None], self.matrix, 0)
        small = proximity(now.mixture.dtype)
        own = jnp.broadcast_to(small * stakes(self.affine), now.mixture.shape)
        factor = kkt.factorise(self.affine, own, face)
        solve = kkt.bordered(factor, self.exposure, self.reach, rows, jnp.where(binding, small, 1))
        start = jnp.where(binding, net, 0)
        found = solve(
            self.affine.linear + own * now.mixture,
            jnp.ones_like(now.mu),
            limit + jnp.where(binding, small * start, 0),
        )

        def refined(_: int, found: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            x, mu, prices = found
            # Less what the multipliers level, so that all of it is small: its rounding is divided by the proximal term.
            left = self.affine.linear - self.affine.apply(x) + self.priced(prices) - mu[:, None]
            dx, dmu, dprices = solve(left, 1 - x.sum(1), limit - dot(rows, dot(self.reach, x)))
            return x + dx, mu + dmu, prices + jnp.where(binding, dprices, 0)

        x, _, prices = jax.lax.fori_loop(0, REFINEMENTS, refined, found)
        return x, prices


def _moved(point: Central, change: Central, length: Array) -> Central:
    return jax.tree.map(lambda x, dx: x + length * dx, point, change)
