"""An equilibrium followed exactly while the game's linear term moves along a line: parametric pivoting (theory §3.6).

For F(W; s) = J (W − centre) − (linear + s·slope) with J strongly monotone, the equilibrium is piecewise affine in s. On
one piece the support is fixed and a linear solve gives position and velocity; the piece ends where a share or a
multiplier reaches zero (Cottle, Pang & Stone 1992). What happens next is a small complementarity problem in the
velocities of the groups whose share and multiplier are both zero. It is solved by pivoting at the least index that has
the wrong sign, which ends for every strongly monotone J (its Schur complements are P-matrices; Murty 1974). So several
events at once, and groups that only touch zero, need no special treatment.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jaxgame import simplex
from jaxgame._pytree import pytree
from jaxgame.games.affine import AffineMap
from jaxgame.solvers import kkt


@pytree()
class Line:
    """Games along a line, in units in which ‖J‖ and max |slope| are about 1.

    affine: J and `linear`; slope (n, D); centre (n, D) rows summing to 1, near the path: what is solved for is the
    difference from it, so a path that passes through the centre does so without rounding.
    """

    affine: AffineMap
    slope: Array
    centre: Array


@pytree()
class Corner:
    """A stand on the path: the parameter, the face, and what is undecided."""

    at: Array  # ()
    face: Array  # (n, D) bool: free to move
    tied: Array  # (n, D) bool: share and multiplier both zero, on the face or off it
    emptied: Array  # (n, D) bool: shares that reached zero in the step that led here
    over: Array  # () bool: the end, or nothing more happens before it


@pytree()
class Piece:
    """The affine piece on a face: shares w and multipliers ν (zero off and on the face), and their velocities."""

    w: Array
    nu: Array
    dw: Array
    dnu: Array


def start(at: Array, face: Array) -> Corner:
    """On the path at a parameter where the face is known and every share on it positive."""
    nothing = jnp.zeros_like(face)
    return Corner(at, face, nothing, nothing, jnp.zeros((), bool))


def piece(line: Line, face: Array, at: Array) -> Piece:
    """Position and velocity at parameter `at` if the face is the support, by one factorisation."""
    affine, centre = line.affine, line.centre
    solve = kkt.factorise(affine, jnp.zeros_like(centre), face)
    off = jnp.where(face, 0, centre)
    linear = affine.linear + at * line.slope
    # Multiples of 1 are left to the multipliers, where they cost no precision.
    wanted = [simplex.project_face(linear + affine.apply(off), face), simplex.project_face(line.slope, face)]
    missing = 1 - (centre - off).sum(1)
    (shift, dw), _ = jax.vmap(solve)(jnp.stack(wanted), jnp.stack([missing, jnp.zeros_like(missing)]))
    w = jnp.where(face, centre + shift, 0)
    return Piece(w, _slack(affine.apply(w - centre) - linear, face), dw, _slack(affine.apply(dw) - line.slope, face))


def advance(line: Line, corner: Corner, end: Array, tolerance: Array) -> Corner:
    """One pivot at the same parameter, or the way to the next event or the end.

    tolerance: shares and multipliers up to it count as zero, and so do velocities relative to the fastest.
    """
    face, tied = corner.face, corner.tied
    here = piece(line, face, corner.at)
    value, pace = jnp.where(face, here.w, here.nu), jnp.where(face, here.dw, here.dnu)
    noise = tolerance * jnp.maximum(jnp.abs(here.dw).max(), jnp.abs(line.slope).max())
    falling = pace < -noise
    wrong = (tied & falling).reshape(-1)
    pivoting = wrong.any()
    pivot = (jnp.arange(wrong.size) == jnp.argmax(wrong)).reshape(face.shape) & pivoting
    candidates = falling & ~tied
    lengths = jnp.where(candidates, jnp.maximum(value, 0) / jnp.where(candidates, -pace, 1), jnp.inf)
    shortest = lengths.min()
    over = ~pivoting & ~(shortest < end - corner.at)
    step = jnp.minimum(shortest, end - corner.at)
    step = jnp.where(pivoting | ~jnp.isfinite(step), 0, step)
    reached = ~pivoting & ((value + step * pace <= tolerance) | (lengths <= step))
    return Corner(
        at=corner.at + step,
        face=face ^ pivot,
        tied=jnp.where(pivoting, tied, reached),
        emptied=face & candidates & reached,
        over=over,
    )


def _slack(slope: Array, face: Array) -> Array:
    """F + μ off the face, with μ such that it vanishes on the face."""
    count = jnp.maximum(face.sum(1, keepdims=True), 1).astype(slope.dtype)
    return jnp.where(face, 0, slope - jnp.where(face, slope, 0).sum(1, keepdims=True) / count)
