"""Best responses of a block of agents to an aggregate held fixed, agents last in memory (theory §6).

Diagonal curvature: in closed form (`columns`). Matrices: proximal gradient steps that find the faces, conjugate
gradients on them, which end after as many steps as a face has groups (Moré & Toraldo 1991). What an agent's own share
of the aggregate adds to its curvature is small where agents are many: taken from the mixture before, and repeated.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxgame import linalg
from jaxgame._pytree import pytree
from jaxgame.games.affine import Blocks
from jaxgame.games.members import Members
from jaxgame.solvers.columns import over_groups, waterfill

ROUNDS = 60  # of one block; an agent that has not settled by then shows in the error
SHRINK, SMALL = 8, 512  # one agent in so many goes on by itself, in blocks of more than so many


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

    `start` (D, b): mixtures near them, for matrix curvature.
    """
    if is_closed(members):
        return _closed(members, linear, tol)
    assert start is not None
    return _iterated(members, linear, start, tol)


def _closed(members: Members, linear: Array, tol: Array) -> Response:
    h = members.curvature.diagonal.T
    most = over_groups(jnp.maximum, h)

    def once(linear: Array) -> Response:
        # Scaled to the sum 1, a mixture responds exactly to marginals that differ by off · h w.
        mixture, off, height = waterfill(linear, h)
        return Response(mixture, jnp.zeros_like(off), off * most, 2 * off * height)

    found = once(linear)
    if members.own is None or members.matrix is None:
        return found
    own, matrix = members.own, members.matrix
    felt = jnp.abs(own) * (matrix.max() - matrix.min())  # at most, of a move of size 1

    # A marginal that is wrong by δ moves an entry of the response by at most 2 δ / h.
    reply = 2 * felt / h.min(0)

    def unsettled(carry: tuple[Response, Array, Array]) -> Array:
        _, moved, k = carry
        return (reply * moved > tol).any() & (k < ROUNDS)

    def again(carry: tuple[Response, Array, Array]) -> tuple[Response, Array, Array]:
        now, _, k = carry
        new = once(linear - own[None] * (matrix @ now.mixture))
        return new, over_groups(jnp.add, jnp.abs(new.mixture - now.mixture)), k + 1

    found, moved, _ = lax.while_loop(unsettled, again, (found, jnp.ones_like(reply), jnp.zeros((), int)))
    return Response(found.mixture, found.error, found.slip + felt * moved, found.gap + felt * moved)


@pytree()
class _Trial:
    """A mixture (D, b) on its way, what it costs in marginal utility, and the last proximal step from it."""

    mixture: Array
    image: Array  # M w
    ahead: Array
    moved: Array  # (b,) by the proximal step: the natural residual
    gap: Array


def _iterated(members: Members, linear: Array, start: Array, tol: Array) -> Response:
    blocks, count = members.curvature, linear.shape[1]
    size = majoriser(blocks, count)

    def product(mixture: Array) -> Array:
        out = blocks.diagonal.T * mixture
        for coefficient, matrix in blocks.terms:
            out = out + coefficient[None] * (matrix @ mixture)
        return out if blocks.dense is None else out + jnp.einsum("bde,eb->db", blocks.dense, mixture)

    def target(mixture: Array) -> Array:
        """The linear part, less what the agent's own share of the aggregate costs."""
        if members.own is None or members.matrix is None:
            return linear
        return linear - members.own[None] * (members.matrix @ mixture)

    def stepped(mixture: Array, image: Array) -> _Trial:
        slope = target(mixture) - image
        ahead, _, _ = waterfill(slope + size[None] * mixture, size[None])
        moved = jnp.sqrt(over_groups(jnp.add, (ahead - mixture) ** 2))
        range_ = over_groups(jnp.maximum, slope) - over_groups(jnp.minimum, slope)
        return _Trial(mixture, image, ahead, moved, moved * (2**0.5 * size + slope.shape[0] ** 0.5 * range_))

    # Below that there is nothing but rounding.
    range_ = over_groups(jnp.maximum, linear) - over_groups(jnp.minimum, linear)
    wanted, tol = tol, tol + 8 * jnp.finfo(linear.dtype).eps * range_ / size
    few = count // SHRINK if count > SMALL else 0

    def unsettled(carry: tuple[_Trial, Array]) -> Array:
        now, k = carry
        return ((now.moved > tol).sum() > few) & (k < ROUNDS)

    def again(carry: tuple[_Trial, Array]) -> tuple[_Trial, Array]:
        now, k = carry
        goal, image = target(now.mixture), product(now.ahead)
        move, bent = _on_face(product, goal - image, now.ahead, tol * size)
        # As far as the first weight that reaches zero; or to the end, and back to the simplex: what is worth more.
        short = jnp.where(move < -now.ahead, -now.ahead / jnp.where(move < -now.ahead, move, -1), 1)
        length = over_groups(jnp.minimum, short)[None]
        near, near_image = now.ahead + length * move, image + length * bent
        far, _, _ = waterfill((now.ahead + move) * size[None], size[None])
        far_image = product(far)
        gain = far * (goal - far_image / 2) - near * (goal - near_image / 2)
        better = over_groups(jnp.add, gain)[None] > 0
        return stepped(jnp.where(better, far, near), jnp.where(better, far_image, near_image)), k + 1

    now, _ = lax.while_loop(unsettled, again, (stepped(start, product(start)), jnp.zeros((), int)))
    found = Response(now.ahead, now.moved, jnp.zeros_like(now.moved), now.gap)
    if not few:
        return found
    # The few that are left go on by themselves.
    left = jnp.nonzero(now.moved > tol, size=few, fill_value=0)[0]
    rest = _iterated(members.rows(lambda x: x[left]), linear[:, left], now.ahead[:, left], wanted)
    return jax.tree.map(lambda all, some: all.at[..., left].set(some), found, rest)


def _on_face(product: Callable[[Array], Array], slope: Array, mixture: Array, tol: Array) -> tuple[Array, Array]:
    """The move from a mixture to the best point of its face's plane, by conjugate gradients, and the move's image.

    To a per cent of where they start: the face may be the wrong one.
    """
    face = mixture > 0
    on = jnp.where(face, jnp.ones_like(mixture), 0)
    share = 1 / over_groups(jnp.add, on)

    def tangent(x: Array) -> Array:
        return jnp.where(face, x - (over_groups(jnp.add, x * on) * share)[None], 0)

    left = tangent(slope)
    begin = over_groups(jnp.add, left * left)
    enough = jnp.maximum((tol / 4) ** 2, 1e-4 * begin)

    def unsettled(carry: tuple[Array, ...]) -> Array:
        *_, square, k = carry
        return (square > enough).any() & (k < mixture.shape[0])

    def step(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        move, bent, left, ahead, square, k = carry
        image = product(ahead)
        bend = over_groups(jnp.add, ahead * image)
        length = jnp.where(bend > 0, square / jnp.where(bend > 0, bend, 1), 0)[None]
        left = left - length * tangent(image)
        new = over_groups(jnp.add, left * left)
        ratio = jnp.where(square > 0, new / jnp.where(square > 0, square, 1), 0)[None]
        return move + length * ahead, bent + length * image, left, left + ratio * ahead, new, k + 1

    zero = jnp.zeros_like(mixture)
    move, bent, *_ = lax.while_loop(unsettled, step, (zero, zero, left, left, begin, jnp.zeros((), int)))
    return move, bent


def majoriser(blocks: Blocks, n: int) -> Array:
    """An upper bound (n,) on every agent's own curvature between mixtures, whose differences are tangent; positive."""
    size = jnp.broadcast_to(jnp.abs(blocks.diagonal).max(1), (n,))
    if blocks.terms:
        norms = linalg.norm_bound(linalg.tangent(jnp.stack([matrix for _, matrix in blocks.terms])))
        for (coefficient, _), norm in zip(blocks.terms, norms, strict=True):
            size = size + jnp.abs(coefficient) * norm
    if blocks.dense is not None:
        tangent = linalg.tangent(blocks.dense)
        size = size + (jnp.einsum("bde,bdf->bef", tangent, tangent) ** 2).sum((1, 2)) ** 0.25
    return size * (1 + 1e-3) + jnp.finfo(size.dtype).tiny
