"""Best responses of a block of agents to an aggregate held fixed, agents last in memory (theory §6).

Diagonal curvature: in closed form (`columns`). Matrices: proximal gradient steps that find the faces, conjugate
gradients on them, which end after as many steps as a face has groups (Moré & Toraldo 1991). What an agent's own share
of the aggregate adds to its curvature is small where agents are many: taken from the mixture before, and repeated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxgame import linalg
from jaxgame._pytree import pytree
from jaxgame.games.affine import Blocks
from jaxgame.games.members import Members
from jaxgame.linalg import dot
from jaxgame.solvers.columns import Basin, over_groups, waterfill
from jaxgame.solvers.faces import Product, advance, inner, product, projection
from jaxgame.solvers.sizes import sizes

FACE_STEPS = 2, 4  # of conjugate gradients in a round, roughly and else: the face may be the wrong one
ROUGH = 1e-4  # the precision from which on few will do
ROUNDS = 60  # of one block; an agent that has not settled by then shows in the error
BEGIN = 0.3  # measured, benchmarks/README.md
SHRINK = 8  # which part of a lot goes on with those of other lots


@pytree()
class Response:
    """Mixtures (D, b), and bounds (b,) at the aggregate they respond to: on the natural residual with step 1/σ, on how
    far marginals (their range) are from those that the mixtures respond to exactly, σ times what that adds to the
    residual, and on what an agent could still gain.
    """

    mixture: Array
    error: Array
    slip: Array
    gap: Array


def is_closed(members: Members) -> bool:
    """Whether responses are formulas, so that nothing is gained by knowing them roughly beforehand."""
    return members.curvature.is_diagonal


def respond(members: Members, linear: Array, start: Array | None, tol: Array) -> Response:
    """Responses to a given linear part (D, b), less what is met, until no mixture is more than tol off.

    `start` (D, b): mixtures near them, for matrix curvature; None where none are known.
    """
    if is_closed(members):
        return _closed(members, linear, tol)
    return _iterated(members, linear, nearby(members, linear) if start is None else start, tol)


def nearby(members: Members, linear: Array) -> Array:
    """Mixtures (D, b) to begin with, on faces of about the right size: what curvature alike in all directions, a part
    of the largest, would answer.
    """
    return waterfill(linear, BEGIN * majoriser(members.curvature, linear.shape[1])[None])[0]


def _closed(members: Members, linear: Array, tol: Array) -> Response:
    h = members.curvature.diagonal.T
    h = jnp.where(h > 0, h, jnp.nan)  # water-filling would fill what there is none of
    most = over_groups(jnp.maximum, h)

    def once(linear: Array, height: Array | None = None) -> tuple[Response, Array]:
        # Scaled to the sum 1, a mixture responds exactly to marginals that differ by off · h w.
        mixture, off, height = waterfill(linear, h, height)
        return Response(mixture, jnp.zeros_like(off), off * most, 2 * off * height), height

    if members.own is None or members.matrix is None:
        return once(linear)[0]
    own, matrix = members.own, members.matrix
    felt = jnp.abs(own) * (matrix.max() - matrix.min())  # at most, of a move of size 1

    # A marginal that is wrong by δ moves an entry of the response by at most 2 δ / h.
    reply = 2 * felt / h.min(0)

    def target(mixture: Array) -> Array:
        return linear - own[None] * dot(matrix, mixture)

    def moved(new: Array, old: Array) -> Array:
        return over_groups(jnp.add, jnp.abs(new - old))

    def unsettled(carry: tuple[Response, Array, Array, Array]) -> Array:
        *_, moved, k = carry
        return (reply * moved > tol).any() & (k < ROUNDS)

    def again(carry: tuple[Response, Array, Array, Array]) -> tuple[Response, Array, Array, Array]:
        now, height, _, k = carry
        new, height = once(target(now.mixture), height)
        return new, height, moved(new.mixture, now.mixture), k + 1

    def with_share() -> tuple[Response, Array, Array]:
        # By a mixture that need not be exact.
        basin = Basin(linear, h)
        height = basin.rough()
        rough = basin.mixture(-height)
        found, height = once(target(rough), height)
        return found, height, moved(found.mixture, rough)

    counts = (reply > tol).any()
    begin = lax.cond(counts, with_share, lambda: (*once(linear), jnp.ones_like(reply)))
    found, _, off, _ = lax.while_loop(unsettled, again, (*begin, jnp.ones((), int)))
    return Response(found.mixture, found.error, found.slip + felt * off, found.gap + felt * off)


def _iterated(members: Members, linear: Array, start: Array, tol: Array) -> Response:
    """Lot by lot until few are left in each, and these by themselves."""
    count, known = linear.shape[1], sizes()
    if count <= known.last:
        return _settled(members, linear, start, tol, 0)[0]
    together = min(count, known.lot)
    lots, few = -(-count // together), together // SHRINK

    def lot(k: Array, found: tuple[Response, Array]) -> tuple[Response, Array]:
        # The last lot overlaps the one before.
        first = jnp.minimum(k * together, count - together)
        part = functools.partial(lax.dynamic_slice_in_dim, start_index=first, slice_size=together)
        columns = functools.partial(part, axis=1)
        new = _settled(members.rows(part), columns(linear), columns(start), tol, few)
        put = functools.partial(lax.dynamic_update_slice_in_dim, start_index=first, axis=-1)
        return jax.tree.map(put, found, new)

    none = jnp.zeros(count, linear.dtype)
    found, late = lax.fori_loop(0, lots, lot, (Response(jnp.zeros_like(linear), none, none, none), none > 0))
    left = jnp.nonzero(late, size=lots * few, fill_value=0)[0]
    rest = _iterated(members.rows(lambda x: x[left]), linear[:, left], found.mixture[:, left], tol)
    return jax.tree.map(lambda all, some: all.at[..., left].set(some), found, rest)


@pytree()
class _Trial:
    """Where a proximal step leads (D, b)."""

    mixture: Array
    image: Array  # M of it
    moved: Array  # (b,) by the step: the natural residual of where it began
    gap: Array


def _settled(members: Members, linear: Array, start: Array, tol: Array, few: int) -> tuple[Response, Array]:
    """Rounds until no more than `few` agents are late; and who they are.

    In units of every agent's largest curvature: squares of marginals might overflow, or vanish.
    """
    size = majoriser(members.curvature, linear.shape[1])
    linear, apply = linear / size[None], product(_over(members.curvature, size))
    share = None if members.own is None else members.own / size

    def target(mixture: Array) -> Array:
        """The linear part, less what the agent's own share of the aggregate costs."""
        if share is None or members.matrix is None:
            return linear
        return linear - share[None] * dot(members.matrix, mixture)

    def stepped(mixture: Array, image: Array) -> _Trial:
        slope = target(mixture) - image
        ahead, _, _ = waterfill(slope + mixture, jnp.ones((1, 1), slope.dtype))
        step = ahead - mixture
        away = jnp.sqrt(inner(step, step))
        range_ = over_groups(jnp.maximum, slope) - over_groups(jnp.minimum, slope)
        return _Trial(ahead, apply(ahead), away, away * (2**0.5 + slope.shape[0] ** 0.5 * range_))

    # Below that there is nothing but rounding.
    noise = jnp.finfo(linear.dtype).eps * (over_groups(jnp.maximum, linear) - over_groups(jnp.minimum, linear))
    rough, tol = tol >= ROUGH, tol + noise

    def improved(steps: int) -> Callable[[_Trial], tuple[Array, Array]]:
        return lambda now: _improved(apply, target(now.mixture), now.mixture, now.image, noise, steps)

    def advanced(now: _Trial) -> tuple[Array, Array]:
        if few:
            return lax.cond(rough, *map(improved, FACE_STEPS), now)
        # The last ones are those whose faces are large and ill-conditioned.
        return improved(linear.shape[0])(now)

    def unsettled(carry: tuple[_Trial, Array]) -> Array:
        now, k = carry
        return ((now.moved > tol).sum() > few) & (k < ROUNDS)

    def again(carry: tuple[_Trial, Array]) -> tuple[_Trial, Array]:
        now, k = carry
        return stepped(*advanced(now)), k + 1

    now, _ = lax.while_loop(unsettled, again, (stepped(start, apply(start)), jnp.zeros((), int)))
    return Response(now.mixture, now.moved, jnp.zeros_like(now.moved), size * now.gap), now.moved > tol


def _over(blocks: Blocks, size: Array) -> Blocks:
    """Blocks, each over its size (b,)."""
    terms = tuple((coefficient / size, matrix) for coefficient, matrix in blocks.terms)
    dense = None if blocks.dense is None else blocks.dense / size[:, None, None]
    return Blocks(blocks.diagonal / size[:, None], terms, dense)


def _improved(
    apply: Product, linear: Array, mixture: Array, image: Array, noise: Array, steps: int
) -> tuple[Array, Array]:
    """A mixture that is better than another by some conjugate gradients on its face, and its image.

    As far as the first weight that reaches zero, or to the end and back to the simplex: what is worth more, if it is
    worth anything, as where there is nothing but rounding left to gain.
    """
    tangent = projection(mixture)
    slope = tangent(linear - image)
    move = advance(apply, tangent, slope, noise, steps)
    bent = apply(move)
    short = [jnp.where(m < -w, w / jnp.where(m < -w, -m, 1), 1) for m, w in zip(move, mixture, strict=True)]
    length = over_groups(jnp.minimum, short)[None]
    far = jnp.maximum(mixture + move, 0)
    far = far * (1 / over_groups(jnp.add, far))[None]
    far_image = apply(far)
    # Gains by differences: utilities themselves would round them away.
    ahead, near = far - mixture, length * move
    by_far, by_near = inner(ahead, slope - (far_image - image) / 2), inner(near, slope - length * bent / 2)
    better, gains = (by_far > by_near)[None], (jnp.maximum(by_far, by_near) > 0)[None]
    near, near_image = jnp.where(gains, mixture + near, mixture), jnp.where(gains, image + length * bent, image)
    return jnp.where(gains & better, far, near), jnp.where(gains & better, far_image, near_image)


def majoriser(blocks: Blocks, n: int) -> Array:
    """An upper bound (n,) on every agent's own curvature between mixtures, whose differences are tangent; positive."""
    size = jnp.broadcast_to(jnp.abs(blocks.diagonal).max(1), (n,))
    if blocks.terms:
        norms = linalg.norm_bound(linalg.tangent(jnp.stack([matrix for _, matrix in blocks.terms])))
        for (coefficient, _), norm in zip(blocks.terms, norms, strict=True):
            size = size + jnp.abs(coefficient) * norm
    if blocks.dense is not None:
        size = size + linalg.quick_norm_bound(linalg.tangent(blocks.dense))
    return size * (1 + 1e-3) + jnp.finfo(size.dtype).tiny
