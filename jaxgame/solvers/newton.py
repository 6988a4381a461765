"""Semismooth Newton on the natural map, globalised by an interior-point sequence (theory §6).

A step guesses the face of every agent and solves the linear optimality conditions on it (`kkt`): finite for quadratic
games, locally quadratic otherwise. Guessing can cycle. When the residual stops falling, the step moves instead along the
central path w∘ν = τ of the same complementarity problem, which converges for every monotone game however badly
conditioned, and tries the face that each of its points suggests.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import struct
from jax import Array, lax

from jaxgame import simplex
from jaxgame._pytree import pytree
from jaxgame.games import is_quadratic, linearise
from jaxgame.games.affine import AffineMap
from jaxgame.solvers import kkt
from jaxgame.solvers.scale import Scale, measure


PATIENCE = 4  # trials without a new best before the search along the central path begins


@pytree()
class Interior:
    """A point near the central path of the scaled game: mixtures w > 0, multipliers ν > 0 and μ."""

    mixture: Array
    dual: Array
    mu: Array


@pytree()
class NewtonState:
    profile: Array
    marginals: Array
    point: Array  # the last Newton point before projection: complementary on its face, possibly outside the simplex
    residual: Array
    best: Array  # lowest residual so far
    misses: Array  # trials in a row without a new best
    interior: Interior
    scale: Scale
    evaluations: Array


@struct.dataclass
class Newton:
    """Semismooth Newton for any game whose Jacobian can be had; with an exact finish on quadratic games.

    Linear algebra: through the aggregate where agents meet through a mean (O(n D³) a step, nothing n × n), dense LU up to
    n·D = 4096 ((n·D)² numbers), matrix-free GMRES beyond.
    """

    max_steps: ClassVar[int] = 200
    stall: ClassVar[int] = 40

    def init(self, game: Any, profile: Array) -> NewtonState:
        scale = measure(game, profile.dtype)
        marginals = game.marginals(profile)
        residual = scale.residual(profile, marginals)
        return NewtonState(
            profile=profile,
            marginals=marginals,
            residual=residual,
            point=profile,
            best=residual,
            misses=jnp.zeros((), int),
            interior=start_interior(game, scale, profile),
            scale=scale,
            evaluations=jnp.ones((), int),
        )

    def trial(self, affine: AffineMap, base: Array) -> tuple[Array, Array]:
        """The Newton point from `base` and its faces: optimality on the faces that `base` suggests."""
        face = natural_face(affine, base)
        return solve_on(affine, face, base), face

    def step(self, game: Any, state: NewtonState) -> NewtonState:
        searching = state.misses >= PATIENCE
        interior = lax.cond(searching, lambda s: interior_step(game, s.scale, s.interior), lambda s: s.interior, state)
        base = jnp.where(searching, interior.mixture, state.point)
        point, face = self.trial(linearise(game, base).scaled(1 / state.scale.sigma), base)
        # Every other step of a search offers the interior point itself: it gets there, if only to its own accuracy.
        inside = searching & (state.misses % 2 == 1)
        point = jnp.where(inside, interior.mixture, point)
        profile = project_on(point, face | inside)
        marginals = game.marginals(profile)
        residual = state.scale.residual(profile, marginals)
        usable = jnp.isfinite(point).all() & jnp.isfinite(marginals).all()
        better = usable & (residual < 0.99 * state.best)
        if not is_quadratic(game):
            point = profile  # a utility need not be defined outside the simplex
        return NewtonState(
            profile=jnp.where(usable, profile, state.profile),
            marginals=jnp.where(usable, marginals, state.marginals),
            residual=jnp.where(usable, residual, state.residual),
            point=jnp.where(usable, point, state.point),
            best=jnp.where(better, residual, state.best),
            misses=jnp.where(better & ~searching, 0, jnp.where(usable, state.misses + 1, jnp.maximum(state.misses + 1, PATIENCE))),
            interior=interior,
            scale=state.scale,
            evaluations=state.evaluations + jnp.where(searching, 2, 1),
        )


def natural_face(affine: AffineMap, base: Array) -> Array:
    """The support of the best response when others, and the own block off its diagonal, stay as they are at `base`."""
    diagonal = own_diagonal(affine)
    return simplex.waterfill(diagonal * base - affine(base), diagonal) > 0


def solve_on(affine: AffineMap, face: Array, centre: Array) -> Array:
    """The point that is optimal on given faces, by one linear solve; entries may be negative.

    A vanishing proximal term towards `centre` picks a point where a face holds many.
    """
    eps = jnp.finfo(centre.dtype).eps
    proximity = jnp.sqrt(eps) * 1e-2
    theta = jnp.full_like(centre, proximity)
    rhs = affine.linear + proximity * centre
    total = jnp.ones(centre.shape[0], centre.dtype)
    solve = kkt.factorise(affine, theta, face)
    x, _ = solve(rhs, total)
    # One refinement against the true system removes the proximal bias and the rounding of the elimination.
    left = affine.linear - affine.apply(x)
    correction, _ = solve(left, total - x.sum(1))
    return x + correction


def project_on(point: Array, face: Array) -> Array:
    """The mixtures of the faces nearest to a point: exactly zero off the faces."""
    return simplex.project(jnp.where(face, point, -jnp.inf))


def own_diagonal(affine: AffineMap) -> Array:
    """The diagonals of the own blocks, (n, D), kept positive."""
    diagonal = jnp.broadcast_to(affine.own.diagonal, affine.linear.shape)
    for coefficient, matrix in affine.own.terms:
        diagonal = diagonal + coefficient[:, None] * jnp.diagonal(matrix)[None]
    if affine.own.dense is not None:
        diagonal = diagonal + jnp.diagonal(affine.own.dense, axis1=1, axis2=2)
    return jnp.maximum(jnp.abs(diagonal), 1e-3 * jnp.abs(diagonal).max(1, keepdims=True) + 1e-6)


def start_interior(game: Any, scale: Scale, profile: Array) -> Interior:
    """The uniform profile, dual feasible."""
    mixture = jnp.full_like(profile, 1 / profile.shape[1])
    slope = -game.marginals(mixture) / scale.sigma
    lowest = slope.min(1)
    return Interior(mixture, slope - lowest[:, None] + 1, 1 - lowest)


def interior_step(game: Any, scale: Scale, now: Interior) -> Interior:
    """A predictor and corrector step (Mehrotra 1992) of the central path; stays where it is if a step is not finite."""
    affine = linearise(game, now.mixture).scaled(1 / scale.sigma)
    w, dual = now.mixture, now.dual
    stationarity = affine(w) + now.mu[:, None]  # = ν on the path
    short = 1 - w.sum(1)
    solve = kkt.factorise(affine, dual / w, jnp.ones_like(w, bool))

    def direction(target: Array) -> tuple[Array, Array, Array]:
        """Towards w∘ν = target."""
        dw, dmu = solve(target / w - stationarity, short)
        return dw, (target - dual * (w + dw)) / w, dmu

    gap = (w * dual).mean()
    dw, dd, _ = direction(jnp.zeros_like(w))
    length = jnp.minimum(_longest(w, dw), _longest(dual, dd))
    predicted = ((w + length * dw) * (dual + length * dd)).mean()
    centring = jnp.clip(predicted / gap, 0, 1) ** 3
    dw, dd, dmu = direction(centring * gap - dw * dd)
    length = jnp.minimum(1, 0.995 * jnp.minimum(_longest(w, dw), _longest(dual, dd)))
    ahead = Interior(w + length * dw, dual + length * dd, now.mu + length * dmu)
    tiny = jnp.finfo(w.dtype).tiny ** 0.5
    sound = jnp.isfinite(ahead.mixture).all() & jnp.isfinite(ahead.dual).all()
    sound = sound & (ahead.mixture > tiny).all() & (ahead.dual > tiny).all()
    return Interior(
        jnp.where(sound, ahead.mixture, w), jnp.where(sound, ahead.dual, dual), jnp.where(sound, ahead.mu, now.mu)
    )


def _longest(x: Array, dx: Array) -> Array:
    """The largest step ≤ 1.5 that keeps x + t·dx ≥ 0."""
    return jnp.minimum(jnp.where(dx < 0, -x / jnp.where(dx < 0, dx, -1), 1.5).min(), 1.5)
