"""Equilibria that are formulas (theory §3): no iteration, and verified before they are returned.

Every formula is read off the affine game map F(W) = J W − linear, so it holds for alignment games (both forms of
diversity, both metrics) and quadratic games alike. The first that applies is used:

1. *separable*: agents that meet no one, or a symmetric population, whose curvature is diagonal on the simplex:
   water-filling, exact at the boundary too (§3.4). With two groups every curvature is (§3.3, the clip).
2. *symmetric population*: one D × D system for the common mixture (§3.1).
3. *one curvature and one sensitivity*, meeting through a mean: a D × D system for the mean, and one for what the
   agents differ in (§3.2).
4. any quadratic game: one linear solve for the interior, or for a given support (§3.6).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxgame import _checks, linalg, simplex
from jaxgame._pytree import pytree
from jaxgame.certificate.gap import concave_agents, gaps
from jaxgame.equilibrium import Equilibrium
from jaxgame.games import dtype_of, is_quadratic, representation
from jaxgame.games.affine import AffineMap, Aggregate, Blocks, Edges, Full
from jaxgame.linalg import dot
from jaxgame.solvers import kkt
from jaxgame.solvers.loop import CONVERGED, NONFINITE, STALLED
from jaxgame.solvers.scale import measure

PIVOTED = 1024  # n·D up to which a mean field is solved by one LU with pivoting: for any definiteness, in milliseconds


def closed_form(game: Any, *, support: Any = None) -> Equilibrium:
    """The equilibrium of a quadratic game by a formula of theory §3, with its residual and gap.

    support: (n, D) bool, which groups each agent represents; the equilibrium on it is one linear solve. Default: the
    formula that finds the support itself where there is one (separable games and symmetric populations, two groups),
    else the interior, where everyone represents everyone. An interior point beyond the uniqueness boundary (theory §2)
    is returned like any other: while utilities are concave it is an equilibrium.

    Composes with jit, vmap and grad (the certificate is not differentiated). There the conditions below cannot be
    raised: `converged` is False where one fails.

    Raises ValueError for a game that is not quadratic, a support of the wrong shape or with an empty row, a utility
    that is not concave, singular optimality conditions, and, naming agent and group, for a negative share on the
    support or a marginal utility off it that is above the multiplier.
    """
    if not is_quadratic(game):
        raise ValueError(f"closed_form needs a quadratic game, got {type(game).__name__}; use solve(game)")
    if support is not None:
        support = _checked_support(support, game.n_agents, game.n_groups)
    opaque = jax.tree_util.treedef_is_leaf(jax.tree.structure(game))  # a user's game that is no pytree: without jit
    found = (_evaluate if opaque else _compiled)(game, support)
    if _checks.concrete(found.residual):
        _raise(found, "full" if support is None else "given")
    return Equilibrium(
        game,
        profile=found.profile,
        representation=found.representation,
        residual=found.residual,
        gap=found.gap,
        converged=found.status == CONVERGED,
        status=found.status,
        steps=jnp.zeros((), int),
        evaluations=jnp.ones((), int),
        tol=found.tol,
    )


@pytree()
class _Found:
    """A formula's answer, and what was found when it was verified."""

    profile: Array
    representation: Array
    residual: Array
    gap: Array
    status: Array
    tol: Array
    point: Array  # (n, D) before rounding errors were projected away
    face: Array  # (n, D) bool: the support that the formula assumed
    excess: Array  # (n, D): marginal utility above the multiplier, off the face
    failing: Array  # (n, D) bool: a negative share on the face, or an excess off it
    concave: Array  # (n,)
    singular: Array  # ()


def _evaluate(game: Any, support: Array | None) -> _Found:
    affine: AffineMap = game.affine()
    if support is None:
        point, face, singular = _formula(affine)
    else:
        point, singular = stationary(affine, support)
        face = support
    profile = simplex.project(point)
    # The certificate is not differentiated: eigenvalues that coincide would turn its unused derivative into NaN.
    held, at, exact = jax.tree.map(_held, (game, profile, point))
    dtype = dtype_of(game)
    scale = measure(held, dtype)
    marginals = held.marginals(at)
    tol = jnp.asarray(1e-6 if jnp.finfo(dtype).bits <= 32 else 1e-10, dtype)
    residual = scale.residual(at, marginals)
    close = residual <= jnp.maximum(tol, scale.floor(marginals))
    slopes = held.marginals(exact)
    count = jnp.maximum(face.sum(1), 1).astype(dtype)
    excess = jnp.where(face, 0, slopes - (jnp.where(face, slopes, 0).sum(1) / count)[:, None])
    # Where the projected point is an equilibrium to tolerance, a sign that is wrong by rounding only is no failure.
    limit = jnp.where(close, jnp.sqrt(jnp.finfo(dtype).eps), tol)
    failing = jnp.where(face, -exact, excess / scale.sigma) > limit
    concave = concave_agents(held, at)
    finite = jnp.isfinite(residual)
    sound = close & concave.all() & ~singular & ~failing.any()
    gap = gaps(held, at, marginals, concave).max()
    return _Found(
        profile=profile,
        representation=representation(game, profile),
        residual=jnp.where(finite, residual, jnp.inf),
        gap=jnp.where(finite, gap, jnp.inf),
        status=jnp.where(sound, CONVERGED, jnp.where(finite, STALLED, NONFINITE)),
        tol=tol,
        point=exact,
        face=face,
        excess=excess,
        failing=failing,
        concave=concave,
        singular=singular,
    )


_compiled = jax.jit(_evaluate)


def _held(leaf: Any) -> Any:
    return lax.stop_gradient(leaf) if isinstance(leaf, Array) else leaf


def stationary(affine: AffineMap, face: Array) -> tuple[Array, Array]:
    """The point (n, D) that is optimal on faces (n, D) bool, by one linear solve, and whether the system is singular.

    Entries may be negative. One refinement removes the rounding of the elimination.
    """
    # How a generic direction is stretched by J and by its inverse tells the condition, up to bad luck of measure zero.
    generic = simplex.project_face(linalg.generic(face.shape, affine.linear.dtype), face)
    size = jnp.abs(simplex.project_face(affine.apply(generic), face)).max()
    unit = affine.scaled(1 / jnp.where(size > 0, size, 1))
    if isinstance(unit.others, Aggregate) and face.size <= PIVOTED:
        unit = AffineMap(unit.linear, unit.own, Full(jnp.swapaxes(unit.others.dense(*face.shape), 1, 2)))
    solve = kkt.factorise(unit, jnp.zeros_like(unit.linear), face)
    total = jnp.ones(face.shape[0], unit.linear.dtype)

    def left(x: Array) -> Array:
        return simplex.project_face(unit.linear - unit.apply(x), face)

    wanted = jnp.stack([simplex.project_face(unit.linear, face), generic])
    (x, stretched), _ = jax.vmap(solve)(wanted, jnp.stack([total, jnp.zeros_like(total)]))
    x = x + solve(left(x), total - x.sum(1))[0]
    eps = jnp.finfo(x.dtype).eps
    solved = jnp.abs(left(x)).max() < jnp.sqrt(eps) * (1 + jnp.abs(x).max())
    return x, ~(solved & (jnp.abs(stretched).max() < 0.01 / eps))


def one_agent(matrix: Array, linear: Array) -> AffineMap:
    """The map w ↦ matrix·w − linear of a single agent."""
    nothing = jnp.zeros((1, 1, *matrix.shape), matrix.dtype)
    return AffineMap(linear[None], Blocks(jnp.zeros((1, 1), matrix.dtype), (), matrix[None]), Full(nothing))


def _formula(affine: AffineMap) -> tuple[Array, Array, Array]:
    """The point, the face it assumes and whether its equations are singular, by the first formula that applies."""
    linear, others = affine.linear, affine.others
    n, n_groups = linear.shape
    everyone = jnp.ones(linear.shape, bool)
    if n_groups == 1:
        return jnp.ones_like(linear), everyone, jnp.zeros((), bool)
    own = affine.own.matrices(n, n_groups)
    # What all agents together do to the marginals of each when they play the same mixture, (n, D, D).
    units = jnp.eye(n_groups, dtype=linear.dtype)
    met = jax.vmap(lambda unit: others.apply(jnp.broadcast_to(unit, linear.shape)), out_axes=2)(units)
    total = own + met
    symmetric = _alike(total) & _alike(simplex.project_tangent(linear), jnp.abs(linear).max())
    curvature, shift, diagonal = separable(total)
    filling = (symmetric | ~_meets(others)) & (diagonal & (curvature > 0).all(-1)).all()

    def fill() -> tuple[Array, Array, Array]:
        # Where this branch is not taken it may still be evaluated, so it must not divide by what is not positive.
        w = simplex.waterfill(linear - shift, jnp.where(curvature > 0, curvature, 1))
        return w, w > 0, jnp.zeros((), bool)

    # Where all respond alike, the (weighted) mean of the agents solves a problem of one agent's size.
    mean_field = isinstance(others, Aggregate) and others.B is not None
    if isinstance(others, Aggregate) and others.B is not None:
        matrix, mean_linear = own[0] + others.sensitivity[0] * others.B, dot(others.reach, linear)
        common = symmetric | (_alike(own) & _alike(others.sensitivity))
    else:
        matrix, mean_linear, common = total[0], linear[0], symmetric

    def through_the_mean() -> tuple[Array, Array, Array]:
        mean, singular = stationary(one_agent(matrix, mean_linear), everyone[:1])

        def consensus() -> tuple[Array, Array, Array]:
            return jnp.broadcast_to(mean, linear.shape), everyone, singular

        def deviations() -> tuple[Array, Array, Array]:
            alone = linear - dot(matrix - own[0], mean[0])[None]
            rows, worse = jax.vmap(lambda row: stationary(one_agent(own[0], row), everyone[:1]))(alone)
            return rows[:, 0], everyone, singular | worse.any()

        return lax.cond(symmetric, consensus, deviations) if mean_field else consensus()

    def interior() -> tuple[Array, Array, Array]:
        w, singular = stationary(affine, everyone)
        return w, everyone, singular

    return lax.cond(filling, fill, lambda: lax.cond(common, through_the_mean, interior))


def separable(matrices: Array) -> tuple[Array, Array, Array]:
    """h (…, D), c (…, D) and whether M = diag(h) + c 1ᵀ + 1 eᵀ for some e, for matrices M (…, D, D), D ≥ 2.

    On the simplex such a curvature is diagonal: M w = h w + c up to a multiple of 1. With two groups every M is of this
    form (the one with h_1 = h_2 is taken), with three every symmetric one.
    """
    n_groups = matrices.shape[-1]
    along = jnp.diagonal(matrices, axis1=-2, axis2=-1)
    rows, columns = matrices.sum(-1) - along, matrices.sum(-2) - along
    if n_groups == 2:
        h = jnp.broadcast_to((along - rows).sum(-1, keepdims=True) / 2, along.shape)
        c = jnp.stack([rows[..., 0], rows.sum(-1) - along[..., 0] + h[..., 0]], -1)
        return h, c, jnp.ones(h.shape[:-1], bool)
    mean = rows.sum(-1, keepdims=True) / (2 * (n_groups - 1))
    c = (columns + (n_groups - 1) * rows - n_groups * mean) / (n_groups * (n_groups - 2))
    e = (rows + (n_groups - 1) * columns - n_groups * mean) / (n_groups * (n_groups - 2))
    off = jnp.where(jnp.eye(n_groups, dtype=bool), 0, matrices - c[..., :, None] - e[..., None, :])
    size = jnp.abs(matrices).max((-2, -1))
    return along - c - e, c, jnp.abs(off).max((-2, -1)) <= 16 * jnp.finfo(matrices.dtype).eps * size


def _alike(x: Array, size: Array | None = None) -> Array:
    """Whether x is the same for all agents (leading axis), up to rounding of numbers of that size."""
    size = jnp.abs(x).max() if size is None else size
    return jnp.abs(x - x[:1]).max() <= 32 * jnp.finfo(x.dtype).eps * size


def _meets(others: Aggregate | Edges | Full) -> Array:
    """Whether an agent's mixture may enter another's marginals."""
    if isinstance(others, Full):
        return (others.B != 0).any()
    if isinstance(others, Aggregate):
        return (others.columns() != 0).any()
    if others.left is not None:
        return (others.left != 0).any()
    return (others.scale != 0).any() & (True if others.B is None else (others.B != 0).any())


def _checked_support(support: Any, n: int, n_groups: int) -> Array:
    support = jnp.asarray(support)
    if support.dtype != bool or support.shape != (n, n_groups):
        found = f"{support.dtype} of shape {support.shape}"
        raise ValueError(f"support is {found}, expected bool of shape ({n}, {n_groups})")
    if _checks.concrete(support) and not (rows := np.asarray(support).any(1)).all():
        raise ValueError(f"support[{int(np.argmin(rows))}] is empty, expected at least one group for every agent")
    return support


def _raise(found: _Found, which: str) -> None:
    """ValueError naming the first condition that fails."""
    concave, failing = np.asarray(found.concave), np.asarray(found.failing)
    if not concave.all():
        raise ValueError(
            f"closed_form: the utility of agent {int(np.argmin(concave))} is not concave, so a stationary point is no "
            "equilibrium; with diversity_form='centroid' concavity needs consistency ≥ diversity (theory §2)"
        )
    if found.singular:
        raise ValueError(
            f"closed_form: the optimality conditions on the {which} support are singular: no strong concavity, as with "
            "consistency 0, groups that the kernel cannot tell apart, or diversity at the uniqueness boundary (theory "
            "§2); use solve(game)"
        )
    if failing.any():
        agent, group = (int(k) for k in np.argwhere(failing)[0])
        hint = "pass the support, or use solve(game)" if which == "full" else "use solve(game)"
        if np.asarray(found.face)[agent, group]:
            value = np.asarray(found.point)[agent, group]
            what = f"agent {agent}'s share of group {group} is {value:.6g}, expected ≥ 0"
        else:
            value = np.asarray(found.excess)[agent, group]
            what = f"agent {agent}'s marginal utility of group {group} is {value:.6g} above the multiplier"
        raise ValueError(f"closed_form: on the {which} support {what}; {hint}")
