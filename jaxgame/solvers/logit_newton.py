"""Newton's method for logit-response equilibria, from rough agents to rational ones (theory §9).

At temperature τ the equilibrium is the fixed point of the entropic response w = r(h w − F(w)) (`entropic`). A step
solves the linear optimality conditions (J + τ/w) dw + μ1 = −F − τ log w and responds to where they lead: large shares
move as in Newton's method on mixtures, small ones in their logarithm, so that nothing is lost when a share is 1e-300.
Temperatures start at the size of the game and fall, every time the residual is small, to those asked for; at τ = 0
the method is semismooth Newton. Where a temperature's steps do not converge, extragradient steps (entropic
responses, too) come in between.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array, lax

from jaxgame._pytree import pytree
from jaxgame.games import linearise
from jaxgame.games.affine import AffineMap
from jaxgame.games.rational import Rational
from jaxgame.solvers import kkt
from jaxgame.solvers.entropic import response
from jaxgame.solvers.newton import own_diagonal
from jaxgame.solvers.scale import LogitScale, measure

COOLING = 0.1  # what temperatures are multiplied by
COOL_ENOUGH = 1e-2  # the residual at which they are
PATIENCE = 3  # Newton steps without a better residual before the search begins
SEARCH_STEPS = 8
SOFTEST = 0.03  # hold of agents without much curvature of their own, in units of L


@pytree()
class LogitState:
    profile: Array
    marginals: Array
    base: Array  # what the mixtures are responses to
    temperature: Array  # (n, 1), now; of the scaled game
    anchor: Array  # the base of the least residual at these temperatures
    best: Array  # that residual
    misses: Array  # steps in a row that have not lowered it
    stiff: Array  # (n, 1): how strongly responses are held where they are
    scale: LogitScale
    evaluations: Array


@pytree()
class LogitNewton:
    """For games `with_rationality`, of any ϱ; chosen by `solve`. The linear algebra is that of `Newton`."""

    max_steps: ClassVar[int] = 400
    stall: ClassVar[int] = 120

    def check(self, game: Any) -> None:
        """Raises ValueError for a game of another kind, or one whose Jacobian does not fit in memory."""
        if not isinstance(game, Rational):
            raise ValueError(
                f"LogitNewton solves games with a rationality, got {type(game).__name__}; see with_rationality"
            )
        if not kkt.is_tractable(game.game):
            raise ValueError(
                f"a game with a rationality needs a Jacobian that fits in memory: at most {kkt.DENSE_LIMIT} mixture "
                "entries where agents meet neither through a mean nor along a network"
            )

    def init(self, game: Rational, profile: Array) -> LogitState:
        scale = measure(game, profile.dtype)
        assert isinstance(scale, LogitScale)
        affine = linearise(game.game, profile).scaled(1 / scale.sigma)
        temperature = jnp.maximum(scale.temperature, 1)
        stiff = jnp.maximum(own_diagonal(affine).max(1, keepdims=True), SOFTEST)
        base = stiff * profile - affine(profile)
        shown, marginals = played(game, profile)
        return LogitState(
            profile=shown,
            marginals=marginals,
            base=base,
            temperature=temperature,
            anchor=base,
            best=jnp.full((), jnp.inf, profile.dtype),
            misses=jnp.zeros((), int),
            stiff=stiff,
            scale=scale,
            evaluations=jnp.ones((), int),
        )

    def step(self, game: Rational, state: LogitState) -> LogitState:
        sigma, now, stiff = state.scale.sigma, state.temperature, state.stiff
        searching = state.misses >= PATIENCE
        uphill = searching & (state.misses % 2 == 1)
        here = response(jnp.where(searching, state.anchor, state.base), stiff, now)

        def slope(mixtures: Array) -> Array:
            return game.game.marginals(mixtures) / sigma

        def newton() -> Array:
            return _newton(linearise(game.game, here).scaled(1 / sigma), here, stiff, now)

        base = lax.cond(uphill, lambda: _search(slope, here, stiff, now), newton)
        base = jnp.where(jnp.isfinite(base).all(), base, state.anchor)
        ahead = response(base, stiff, now)
        left = jnp.abs(ahead - response(stiff * ahead + slope(ahead), stiff, now)).max()
        better = left < 0.9 * state.best
        cool = left < COOL_ENOUGH
        colder = jnp.where(cool, jnp.maximum(state.scale.temperature, COOLING * now), now)
        fell = (colder < now).any()
        # A search goes on from where it is; Newton's points are kept only where they are better.
        anchor = jnp.where(better | uphill, base, state.anchor)
        misses = jnp.where((better & ~uphill) | fell, 0, state.misses + 1)
        profile, marginals = played(game, jnp.where(fell, response(base, stiff, colder), ahead))
        return LogitState(
            profile=profile,
            marginals=marginals,
            base=base,
            temperature=colder,
            anchor=anchor,
            best=jnp.where(fell, jnp.inf, jnp.where(better | uphill, left, state.best)),
            misses=misses,
            stiff=stiff,
            scale=state.scale,
            evaluations=state.evaluations + jnp.where(uphill, 2 * SEARCH_STEPS, 1) + 2,
        )


def played(game: Rational, mixtures: Array) -> tuple[Array, Array]:
    """The profile and its marginals: positive for agents with entropy, also where shares have underflowed."""
    tiny = jnp.where(game.temperatures > 0, 8 * jnp.finfo(mixtures.dtype).tiny, 0)  # normal, also when renormalised
    profile = jnp.maximum(mixtures, tiny[:, None])
    return profile, game.marginals(profile)


def represented(mixtures: Array) -> Array:
    """The groups whose shares others can feel; the rest would only spoil a linear system."""
    return mixtures >= 1e-8 * jnp.finfo(mixtures.dtype).eps * mixtures.max(1, keepdims=True)


def _newton(affine: AffineMap, here: Array, stiff: Array, temperature: Array) -> Array:
    """What to respond to at the solution of the linearised conditions."""
    face = represented(here)
    inside = jnp.where(face, here, 1)
    solve = kkt.factorise(affine, temperature / inside, face)
    move, _ = solve(jnp.where(face, -affine(here) - temperature * jnp.log(inside), 0), 1 - here.sum(1))
    point = here + jnp.where(face, move, 0)
    return stiff * point - affine(point)


def _search(slope: Any, here: Array, stiff: Array, temperature: Array) -> Array:
    """What to respond to after extragradient steps (Korpelevich 1976); the scaled game map is 1-Lipschitz."""
    hold = jnp.full_like(temperature, 2)

    def body(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        here, _ = carry
        trial = response(hold * here + slope(here), hold, temperature)
        base = hold * here + slope(trial)
        return response(base, hold, temperature), base

    here, base = lax.fori_loop(0, SEARCH_STEPS, body, (here, here))
    return base + (stiff - hold) * here
