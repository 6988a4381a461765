"""Semismooth Newton on the natural map, globalised by an interior-point sequence (theory §6).

A step guesses the face of every agent and solves the linear optimality conditions on it (`kkt`): finite for quadratic
games, locally quadratic otherwise. Guessing can cycle. When the residual stops falling, the step moves instead along
the central path w∘ν = τ of the same complementarity problem, which converges for every monotone game however badly
conditioned, and tries the face that each of its points suggests.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxgame import linalg, simplex
from jaxgame._pytree import pytree
from jaxgame.games import is_quadratic, linearise
from jaxgame.games.affine import AffineMap
from jaxgame.solvers import kkt
from jaxgame.solvers.scale import Scale, measure

PRECISION = 1e-2  # of the two solves of a step where they are iterative; the next step sees to the rest
FINE = 1e-4  # in a search, where steps that are not exact lead nowhere
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


@pytree()
class Newton:
    """Semismooth Newton for any game whose Jacobian can be had; with an exact finish on quadratic games.

    Linear algebra: through the aggregate where agents meet through a mean (O(n D³) a step, nothing n × n), dense LU
    up to n·D = 256, products with the network beyond (`krylov`), only as exactly as the step asks; up to n·D = 4096
    dense LU ((n·D)² numbers) where these do not get there.
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

    def guess(self, affine: AffineMap, base: Array, residual: Array) -> tuple[Array, Array]:
        """The faces that a base and its natural residual suggest; and the point that the solve on them starts from.

        Best responses to the others where the solve on the faces is iterative, and so dear: they take far fewer faces.
        With diagonal curvature they are what the natural map suggests. A residual of ∞ asks for anything that costs
        little.
        """
        if not kkt.is_iterative(affine) or affine.own.is_diagonal:
            return natural_face(affine, base), base
        from jaxgame.solvers.aggregative_newton import response_guess  # which builds on this file

        return response_guess(affine, base, residual)

    def step(self, game: Any, state: NewtonState) -> NewtonState:
        """One factorisation: a trial of faces or, in a search, every other time, a step along the central path."""
        searching = state.misses >= PATIENCE
        inside = searching & (state.misses % 2 == 0)
        base = jnp.where(searching, state.interior.mixture, state.point)
        affine = linearise(game, base).scaled(1 / state.scale.sigma)
        # A step along the path uses no guess: any will do, at no cost.
        face, centre = self.guess(affine, base, jnp.where(inside, jnp.inf, state.residual))
        faces, path = FaceStep(affine, face, centre), PathStep(affine, state.interior)
        theta = jnp.where(inside, path.theta, faces.theta)
        solve = kkt.factorise(affine, theta, face | inside, jnp.where(searching, FINE, PRECISION))

        def either(of_path: tuple[Array, Array], of_faces: tuple[Array, Array]) -> tuple[Array, Array]:
            return solve(*(jnp.where(inside, a, b) for a, b in zip(of_path, of_faces, strict=True)))

        first, mu = either(path.predictor(), faces.first())
        second, multipliers = either(path.corrector(first), faces.refinement(faces.start + first, mu))
        interior = path.advanced(first, second, multipliers)
        interior = jax.tree.map(lambda new, old: jnp.where(inside, new, old), interior, state.interior)
        point = jnp.where(inside, interior.mixture, faces.start + first + second)
        profile = project_on(point, face | inside)
        marginals = game.marginals(profile)
        residual = state.scale.residual(profile, marginals)
        usable = jnp.isfinite(point).all() & jnp.isfinite(marginals).all()
        better = usable & (residual < 0.99 * state.best)
        if not is_quadratic(game):
            point = profile  # a utility need not be defined outside the simplex
        misses = jnp.where(better & ~searching, 0, state.misses + 1)
        return NewtonState(
            profile=jnp.where(usable, profile, state.profile),
            marginals=jnp.where(usable, marginals, state.marginals),
            residual=jnp.where(usable, residual, state.residual),
            point=jnp.where(usable, point, state.point),
            best=jnp.where(better, residual, state.best),
            misses=jnp.where(usable | searching, misses, PATIENCE),
            interior=interior,
            scale=state.scale,
            evaluations=state.evaluations + 1,
        )


def natural_face(affine: AffineMap, base: Array) -> Array:
    """The support of the best response when others, and the own block off its diagonal, stay as they are at `base`."""
    diagonal = own_diagonal(affine)
    return simplex.waterfill(diagonal * base - affine(base), diagonal) > 0


@pytree()
class FaceStep:
    """The point that is optimal on given faces: a linear solve and its refinement; entries may be negative.

    A vanishing proximal term towards `centre`, in proportion to each agent's stakes, picks a point where a face holds
    many; the refinement, against the true system, removes its bias and the rounding of the elimination.
    """

    affine: AffineMap
    face: Array
    centre: Array

    @property
    def theta(self) -> Array:
        return jnp.broadcast_to(proximity(self.centre.dtype) * stakes(self.affine), self.centre.shape)

    @property
    def start(self) -> Array:
        return jnp.where(self.face, self.centre, 0)

    def first(self) -> tuple[Array, Array]:
        """The system for the way there from `start`."""
        return self.affine.linear - self.affine.apply(self.start), 1 - self.start.sum(1)

    def refinement(self, x: Array, mu: Array) -> tuple[Array, Array]:
        # With μ taken off it is small: else its rounding, over the proximal weight, would spoil singular faces.
        return self.affine.linear - self.affine.apply(x) - mu[:, None], 1 - x.sum(1)


def proximity(dtype: Any) -> Array:
    """The weight of a vanishing proximal term, in units of the scaled game."""
    return 1e-2 * jnp.sqrt(jnp.finfo(dtype).eps)


def solve_on(affine: AffineMap, face: Array, centre: Array) -> Array:
    """The point that is optimal on given faces (`FaceStep`)."""
    step = FaceStep(affine, face, centre)
    solve = kkt.factorise(affine, step.theta, face)
    change, mu = solve(*step.first())
    x = step.start + change
    correction, _ = solve(*step.refinement(x, mu))
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
    return jnp.maximum(jnp.abs(diagonal), 1e-3 * jnp.abs(diagonal).max(1, keepdims=True) + 1e-6 * stakes(affine))


def stakes(affine: AffineMap) -> Array:
    """How large the utilities of every agent are in a scaled game, (n, 1), at most 1.

    Multiplying one agent's utility by a constant changes no equilibrium, and should not change how well it is found.
    """
    felt = affine.apply(simplex.project_tangent(linalg.generic(affine.linear.shape, affine.linear.dtype)))
    size = jnp.maximum(jnp.abs(simplex.project_tangent(felt)), jnp.abs(simplex.project_tangent(affine.linear)))
    size = size.max(1, keepdims=True)
    return jnp.where(size > jnp.finfo(size.dtype).tiny, jnp.minimum(size, 1), 1)


def start_interior(game: Any, scale: Scale, profile: Array) -> Interior:
    """The uniform profile, dual feasible."""
    mixture = jnp.full_like(profile, 1 / profile.shape[1])
    slope = -game.marginals(mixture) / scale.sigma
    lowest = slope.min(1)
    return Interior(mixture, slope - lowest[:, None] + 1, 1 - lowest)


@pytree()
class PathStep:
    """A predictor and corrector step (Mehrotra 1992) of the central path; stays where it is if it would not be
    finite.
    """

    affine: AffineMap
    now: Interior

    @property
    def theta(self) -> Array:
        return self.now.dual / self.now.mixture

    def predictor(self) -> tuple[Array, Array]:
        return self._towards(jnp.zeros_like(self.now.mixture))

    def corrector(self, predicted: Array) -> tuple[Array, Array]:
        return self._towards(self._target(predicted))

    def advanced(self, predicted: Array, dw: Array, dmu: Array) -> Interior:
        """The next point, from the solutions of both systems."""
        w, dual, mu = self.now.mixture, self.now.dual, self.now.mu
        dd = self._dual_change(self._target(predicted), dw)
        length = jnp.minimum(1, 0.995 * jnp.minimum(longest(w, dw), longest(dual, dd)))
        ahead = Interior(w + length * dw, dual + length * dd, mu + length * dmu)
        tiny = jnp.finfo(w.dtype).tiny ** 0.5
        sound = (ahead.mixture > tiny).all() & (ahead.dual > tiny).all()  # false for NaN, too
        sound = sound & jnp.isfinite(ahead.mixture).all() & jnp.isfinite(ahead.dual).all()
        return jax.tree.map(lambda new, old: jnp.where(sound, new, old), ahead, self.now)

    def _target(self, dw: Array) -> Array:
        """w∘ν to aim at: central where the predictor got stuck, and corrected for its second-order error."""
        w, dual = self.now.mixture, self.now.dual
        dd = self._dual_change(jnp.zeros_like(w), dw)
        length = jnp.minimum(longest(w, dw), longest(dual, dd))
        gap = (w * dual).mean()
        predicted = ((w + length * dw) * (dual + length * dd)).mean()
        return jnp.clip(predicted / gap, 0, 1) ** 3 * gap - dw * dd

    def _dual_change(self, target: Array, dw: Array) -> Array:
        return (target - self.now.dual * (self.now.mixture + dw)) / self.now.mixture

    def _towards(self, target: Array) -> tuple[Array, Array]:
        """The system whose solution leads to w∘ν = target."""
        stationarity = self.affine(self.now.mixture) + self.now.mu[:, None]  # = ν on the path
        return target / self.now.mixture - stationarity, 1 - self.now.mixture.sum(1)


def longest(x: Array, dx: Array) -> Array:
    """The largest step ≤ 1.5 that keeps x + t·dx ≥ 0."""
    return jnp.minimum(jnp.where(dx < 0, -x / jnp.where(dx < 0, dx, -1), 1.5).min(), 1.5)
