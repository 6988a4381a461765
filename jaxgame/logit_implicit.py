"""The derivative of a logit-response equilibrium: a smooth fixed point, with no faces (theory §9).

With τ = 1/ϱ, (J + τ/w) dw + μ1 = dg⁰ + τ dϱ g⁰ and Σ dw = 0 for every agent. Solved in the variables dw·√(1 + τ/w),
in which it is as well conditioned as the game; shares too small for others to feel then follow one by one, so that
derivatives of their logarithms are right, too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jaxgame._pytree import pytree
from jaxgame.games import linearise
from jaxgame.games.affine import AffineMap, Aggregate
from jaxgame.games.rational import Rational
from jaxgame.implicit import Linear, direct, solved, total, transposed
from jaxgame.solvers import kkt
from jaxgame.solvers.logit_newton import represented
from jaxgame.solvers.scale import LogitScale, measure


def tangent(game: Rational, change: Rational, profile: Array, loud: bool) -> Array:
    """dW for a tangent of the game; NaN, or with `loud` an error, as `implicit.tangent`."""
    scale = measure(game, profile.dtype)
    assert isinstance(scale, LogitScale)
    temperature = scale.temperature
    marginals, rhs = jax.jvp(lambda inner: inner.marginals(profile), (game.game,), (change.game,))
    sharper = jnp.broadcast_to(change.rationality, (game.n_agents,))[:, None]
    rhs = rhs / scale.sigma + temperature * sharper * marginals + 0 * total(change, rhs.dtype)
    affine = linearise(game.game, profile).scaled(1 / scale.sigma)
    at = _Conditions(affine, profile, temperature)
    scaled = at.restricted(rhs * at.size)
    inverse = at.inverse()
    opaque = isinstance(affine.others, Aggregate) and affine.others.B is None  # agents that meet through many matrices
    backward = transposed(inverse, scaled) if opaque else at.T.inverse()
    felt = at.size * solved(at.operator, scaled, direct(inverse), direct(backward), loud=loud)
    left = rhs - affine.apply(felt)
    level = (profile * left).sum(1, keepdims=True)
    return jnp.where(at.face, felt, profile / temperature * (left - level))


@pytree()
class _Conditions:
    """The system for x = dw/s, s = 1/√(1 + τ/w), on the represented groups; the identity elsewhere."""

    affine: AffineMap
    profile: Array
    temperature: Array

    @property
    def face(self) -> Array:
        return represented(self.profile)

    @property
    def theta(self) -> Array:
        return self.temperature / jnp.where(self.face, self.profile, 1)

    @property
    def size(self) -> Array:
        return jnp.where(self.face, 1 / jnp.sqrt(1 + self.theta), 0)

    def restricted(self, x: Array) -> Array:
        """On the groups of the faces, with Σ s x = 0."""
        size = self.size
        return jnp.where(self.face, x - size * (size * x).sum(1, keepdims=True) / (size**2).sum(1, keepdims=True), 0)

    def operator(self, x: Array) -> Array:
        inner = self.restricted(x)
        move = self.size * inner
        return self.restricted(self.size * (self.affine.apply(move) + self.theta * move)) + (x - inner)

    @property
    def T(self) -> _Conditions:
        return _Conditions(self.affine.T, self.profile, self.temperature)

    def inverse(self) -> Linear:
        solve = kkt.factorise(self.affine, self.theta, self.face)
        still = jnp.zeros_like(self.profile[:, 0])
        size = jnp.where(self.face, self.size, 1)

        def inverse(x: Array) -> Array:
            inner = self.restricted(x)
            move, _ = solve(inner / size, still)
            return jnp.where(self.face, move / size, 0) + (x - inner)

        return inverse
