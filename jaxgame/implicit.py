"""The derivative of an equilibrium, from its optimality conditions alone (theory §7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.tree_util import Partial

from jaxgame import simplex
from jaxgame._pytree import pytree
from jaxgame.bounds import Bounds
from jaxgame.games import linearise, reach_of, representation
from jaxgame.games.affine import AffineMap, Aggregate
from jaxgame.linalg import dot
from jaxgame.solvers import kkt, krylov
from jaxgame.solvers.own_blocks import own_blocks

Linear = Callable[[Array], Array]
Approximate = Callable[[Linear, Array], Array]  # (operator, right-hand side) -> solution


class Solver(NamedTuple):
    """Of a linear system, to be checked."""

    approximate: Approximate
    operator: Linear | None = None  # in place of the one that JAX hands on


def tangent(
    game: Any, change: Any, bounds: Bounds | None, bounds_change: Any, profile: Array, prices: Array | None, loud: bool
) -> tuple[Array, Array | None]:
    """(dW, dλ) for tangents of the game and of its sized bounds: P J dW = −P dF on the tangent of the active faces.

    Knows nothing of the solver. Bounds at a price hold with equality. At a kink (w_id = ν_id = 0, or a bound met at no
    price) the group counts as off the face and the bound as none: an element of the conservative Jacobian (Bolte et
    al. 2021). NaN where the linear solve fails, as in games that are singular on the face; with `loud`, and if no
    entry of a batch succeeds, a FloatingPointError (which JAX wraps in an error of its own).
    """
    affine, reach = linearise(game, profile) if kkt.is_tractable(game) else None, reach_of(game, profile.dtype)
    at = _Conditions(game, profile, bounds, prices, affine, reach if bounds is None else bounds.exposure, reach)

    def slopes(game: Any, bounds: Bounds | None) -> Array:
        """Of the marginals, and what is missing to the binding bounds."""
        marginals = game.marginals(profile)
        if bounds is None or prices is None:
            return marginals
        limit = jnp.where(prices > 0, bounds.lower, bounds.upper)
        missing = limit - dot(bounds.matrix, representation(game, profile))
        return at.join(marginals + bounds.priced(prices), jnp.where(at.binding, missing, 0))

    _, rhs = jax.jvp(slopes, (game, bounds), (change, bounds_change))
    rhs = rhs + 0 * total((change, bounds_change), rhs.dtype)
    forward, backward = at.solvers(rhs)
    moved = solved(at.operator, at.restricted(rhs), forward, backward, loud=loud)
    x, charged = at.split(moved)
    return x, None if bounds is None else charged


def solved(operator: Linear, rhs: Array, forward: Solver, backward: Solver, *, loud: bool) -> Array:
    """The solution of operator(x) = rhs by approximate solvers of it and of its transpose, both checked; NaN where they
    fail, or with `loud` a FloatingPointError.
    """
    return lax.custom_linear_solve(operator, rhs, _checked(forward, loud), _checked(backward, loud))


def total(tangents: Any, dtype: Any) -> Array:
    """The sum over all leaves. Zero times it, added to what depends on them, is nothing, but transposed it leads NaN to
    every leaf: on the other ways back there are selections, which transpose to 0 and would hide a failed solve.
    """
    moving = [x for x in jax.tree.leaves(tangents) if jnp.issubdtype(x.dtype, jnp.floating)]
    return sum((x.sum().astype(dtype) for x in moving), jnp.zeros((), dtype))


@pytree()
class _Conditions:
    """The linear system for a move of the profile (n, D) and, with bounds, of their prices: one vector (n·D + p,).

    On the tangent space of the faces, and the identity off it and for bounds without a price, so that it is as regular
    as the game is.
    """

    game: Any
    profile: Array
    bounds: Bounds | None
    prices: Array | None
    affine: AffineMap | None  # the Jacobian in structured form; None: only its products are taken
    exposure: Array  # (n,) of the agents to the prices
    reach: Array  # (n,) of the agents in what the bounds are on

    @property
    def face(self) -> Array:
        return self.profile > 0

    @property
    def binding(self) -> Array:
        return jnp.zeros((0,), bool) if self.prices is None else self.prices != 0

    def join(self, x: Array, price: Array) -> Array:
        return x if self.bounds is None else jnp.concatenate([x.reshape(-1), price])

    def split(self, move: Array) -> tuple[Array, Array]:
        if self.bounds is None:
            return move, jnp.zeros((0,), move.dtype)
        return move[: self.profile.size].reshape(self.profile.shape), move[self.profile.size :]

    def restricted(self, move: Array) -> Array:
        x, price = self.split(move)
        return self.join(simplex.project_face(x, self.face), price)

    def operator(self, move: Array) -> Array:
        x, price = self.split(move)
        inner = simplex.project_face(x, self.face)
        if self.affine is None:
            out = -jax.jvp(self.game.marginals, (self.profile,), (inner,))[1]
        else:
            out = self.affine.apply(inner)
        if self.bounds is not None:
            paid = dot(jnp.where(self.binding, price, 0), self.bounds.matrix)
            out = out - self.exposure[:, None] * paid[None]
            price = jnp.where(self.binding, dot(self.bounds.matrix, dot(self.reach, inner)), price)
        return self.join(simplex.project_face(out, self.face) + (x - inner), price)

    @property
    def T(self) -> _Conditions:
        """With the transpose for operator."""
        affine = None if self.affine is None else self.affine.T
        return _Conditions(self.game, self.profile, self.bounds, self.prices, affine, -self.reach, -self.exposure)

    def solvers(self, like: Array) -> tuple[Solver, Solver]:
        """Of systems with the operator and with its transpose."""
        affine = self.affine
        if affine is None:
            return _krylov(), _krylov()
        if kkt.is_iterative(affine):
            return self.iterative(), self.T.iterative()
        still = jnp.zeros_like(self.profile)
        inverse = self.inverse(kkt.factorise(affine, still, self.face))
        if isinstance(affine.others, Aggregate) and affine.others.B is not None:
            # A system of the same kind; transposing the solve would keep the responses of all agents.
            backward = self.T.inverse(kkt.factorise(affine.T, still, self.face))
        else:
            backward = transposed(inverse, like)
        return direct(inverse), direct(backward)

    def iterative(self) -> Solver:
        """By products; with the own operator, as JAX's transpose of one for sparse networks scatters."""
        affine, still = self.affine, jnp.zeros_like(self.profile)
        assert affine is not None
        own = self.inverse(own_blocks(affine, still, self.face).solve)
        if not kkt.is_affordable(affine):
            return _krylov(self.operator, own)

        def mended(found: Array, x: Array, rhs: Array) -> Array:
            return kkt.or_eliminated(found, x, Partial(_eliminated, self, rhs))

        return _krylov(self.operator, own, mended)

    def inverse(self, factor: kkt.Solve) -> Linear:
        """The inverse of the operator, exact where `factor` is."""
        still = jnp.zeros_like(self.profile[:, 0])
        if self.bounds is None:

            def solve(inner: Array, price: Array) -> tuple[Array, Array]:
                return factor(inner, still)[0], price
        else:
            rows = jnp.where(self.binding[:, None], self.bounds.matrix, 0)
            free = jnp.where(self.binding, jnp.zeros_like(self.bounds.lower), 1)
            bordered = kkt.bordered(factor, self.exposure, self.reach, rows, free)

            def solve(inner: Array, price: Array) -> tuple[Array, Array]:
                out, _, charged = bordered(inner, still, jnp.where(self.binding, price, 0))
                return out, jnp.where(self.binding, charged, price)

        def inverse(move: Array) -> Array:
            x, price = self.split(move)
            inner = simplex.project_face(x, self.face)
            out, price = solve(inner, price)
            return self.join(out + (x - inner), price)

        return inverse


def transposed(inverse: Linear, like: Array) -> Linear:
    transpose = jax.linear_transpose(inverse, like)
    return lambda move: transpose(move)[0]


def direct(inverse: Linear) -> Solver:
    """By the inverse itself."""
    return Solver(lambda operator, rhs: inverse(rhs))


def _eliminated(conditions: _Conditions, rhs: Array) -> Array:
    affine = conditions.affine
    assert affine is not None
    return conditions.inverse(kkt.factorise(affine, jnp.zeros_like(conditions.profile), conditions.face))(rhs)


def _krylov(
    operator: Linear | None = None,
    precondition: Linear | None = None,
    mended: Callable[[Array, Array, Array], Array] = lambda found, x, rhs: x,
) -> Solver:
    """How well it did is judged by what it leaves, as for all; mended(whether it is found, the solution, right-hand
    side) is what to make of it.
    """

    def approximate(operator: Linear, rhs: Array) -> Array:
        precision = 100 * float(jnp.finfo(rhs.dtype).eps)
        x, found = krylov.solve(operator, precondition or (lambda x: x), rhs, precision)
        return mended(found, x, rhs)

    return Solver(approximate, operator)


def _checked(solver: Solver, loud: bool) -> Approximate:
    """With a refinement if rounding asks for one, and a verdict on what is then left of the right-hand side."""

    def solve(operator: Linear, rhs: Array) -> Array:
        operator = solver.operator or operator

        def refined(carry: tuple[Array, Array]) -> tuple[Array, Array]:
            found, left = carry
            found = found + solver.approximate(operator, left)
            return found, rhs - operator(found)

        eps, size = jnp.finfo(rhs.dtype).eps, jnp.linalg.norm(rhs)
        found = solver.approximate(operator, rhs)
        carry = found, rhs - operator(found)
        exact = jnp.linalg.norm(carry[1]) <= 100 * eps * size
        found, left = lax.cond(exact, lambda carry: carry, refined, carry)
        solved = jnp.linalg.norm(left) <= eps**0.4 * size
        if loud:
            fine = solved | ~jnp.isfinite(size)  # what is NaN to begin with, as where a solve failed, is no news
            fine = jax.pure_callback(_raise, jax.ShapeDtypeStruct((), bool), fine, vmap_method="expand_dims")
            solved = solved & fine
        return jnp.where(solved, found, jnp.nan)

    return solve


def _raise(fine: Any) -> Any:
    # np.any would call the array's own method: a computation within one, which may wait for it for ever.
    if not np.asarray(fine).any():
        raise FloatingPointError(
            "the equilibrium has no derivative here: its optimality conditions are singular on the active faces, as "
            "where groups are alike to an agent; certify(game, profile) tells whether the game is strongly monotone"
        )
    return fine
