"""Games along a line in their parameters: whether their data are affine in it, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame import homotopy
from jaxgame._pytree import pytree
from jaxgame.certificate.certify import prove_unique
from jaxgame.certificate.spectrum import spectrum
from jaxgame.games import dtype_of, is_quadratic, reach_of
from jaxgame.games.affine import AffineMap
from jaxgame.homotopy import Corner, Line, Piece
from jaxgame.linalg import einsum
from jaxgame.solving import solve


@pytree()
class Family:
    """Games whose map is J W − linear − Σ_k x_k slope_k, scaled to ‖J‖ ≈ 1; `sigma`: by how much.

    slopes (p, n, D); start (n, D): the equilibrium at x = 0; reach (n,); tolerance: shares and multipliers up to it
    count as zero.
    """

    affine: AffineMap
    slopes: Array
    start: Array
    reach: Array
    sigma: Array
    tolerance: Array

    def line(self, origin: Array, direction: Array) -> Line:
        """Along origin + t·direction, origin and direction (p,)."""
        # What is solved for is the way from the centre, which loses no digits near it.
        linear = self.affine.linear + einsum("k,kid->id", origin, self.slopes) - self.affine.apply(self.start)
        return Line(self.affine.replace(linear=linear), einsum("k,kid->id", direction, self.slopes), self.start)


def family(name: str, build: Callable[..., Any], corners: np.ndarray) -> Family:
    """The games `build(*x)` for x near the segment, triangle, … of `corners` (p + 1, p), in coordinates from the first.

    Coordinates are 0 at the first corner and the k-th unit vector at the k-th other. Raises ValueError, naming what
    does not hold, unless the games are quadratic, one J and one reach serve them all, J is proved to have one
    equilibrium, and the linear terms are affine in x.
    """
    if not callable(build):
        raise ValueError(f"build is {build!r}, expected a function of the parameter that returns a game")
    games = [build(*map(float, x)) for x in corners]
    for game in games:
        if not is_quadratic(game):
            raise ValueError(f"{name} needs quadratic games, build returned {type(game).__name__}")
    maps = [game.affine() for game in games]
    dtype = dtype_of(games[0])
    slack = float(jnp.finfo(dtype).eps) ** 0.5
    # Between the corners at points that no symmetry of a nonlinear family would hide.
    p = len(corners) - 1
    golden = 0.6180339887498949
    insides = [np.full(p, 1 / (p + 1)), *(golden ** (1 + np.arange(p)) / (1 + p) * k for k in (1, 0.5))]
    if p == 2:  # and in the far half of the box
        insides += [np.ones(p), np.array([0.83, 0.71])]
    for inside in insides:
        x = corners[0] + inside @ (corners[1:] - corners[0])
        game = build(*map(float, x))
        between = game.affine()
        _same_jacobian(name, x, maps[0], between, slack)
        _same_reach(name, x, games[0], game, slack)
        weights = np.concatenate([[1 - inside.sum()], inside])
        mixed = sum(w * np.asarray(one.linear, np.float64) for w, one in zip(weights, maps, strict=True))
        _same(f"{name} needs a linear term that is affine in the parameter", x, mixed, between.linear, slack)
    for x, game, one in zip(corners, games, maps, strict=True):
        _same_jacobian(name, x, maps[0], one, slack)
        _same_reach(name, x, games[0], game, slack)
    if not prove_unique(games[0])[1]:
        raise ValueError(
            f"{name} needs a strongly monotone game, and this one is not proved to have one equilibrium (see certify); "
            "follow it by sweep"
        )
    found = solve(games[0])
    if not bool(found.converged):
        raise ValueError(f"{name}: no equilibrium was found at {_at(corners[0])}: {found.message}")
    n = games[0].n_agents
    shape = spectrum(maps[0], np.ones(n), dtype=dtype)
    sigma = shape.lipschitz if shape.lipschitz > 0 else 1.0
    condition = sigma / shape.monotonicity if shape.monotonicity > 0 else np.inf
    affine = maps[0].scaled(jnp.asarray(1 / sigma, dtype))
    slopes = jnp.stack([(one.linear - maps[0].linear) / jnp.asarray(sigma, dtype) for one in maps[1:]])
    # Rounding moves shares by up to eps times the condition number; so little counts as nothing.
    eps = float(jnp.finfo(dtype).eps)
    tolerance = float(np.clip(16 * eps * condition, 64 * eps, eps**0.5))
    return Family(
        affine,
        slopes,
        found.profile,
        reach_of(games[0], dtype),
        jnp.asarray(sigma, dtype),
        jnp.asarray(tolerance, dtype),
    )


@jax.jit
def start_corner(family: Family) -> Corner:
    """The stand at the first corner: the face of its equilibrium, and what is neither represented nor short of it."""
    w, tolerance = family.start, family.tolerance
    slope = family.affine(w)
    slack = slope - slope.min(1, keepdims=True)
    face = w > tolerance
    corner = homotopy.start(jnp.zeros((), w.dtype), face)
    return Corner(corner.at, face, ~face & (slack <= tolerance), jnp.zeros_like(face), corner.over)


@jax.jit
def piece_on(line: Line, face: Array, at: Array) -> Piece:
    return homotopy.piece(line, face, at)


@jax.jit
def settle(line: Line, corner: Corner, end: Array, tolerance: Array) -> tuple[Corner, Array]:
    """Pivots at one parameter until the face is that of the piece ahead; and whether that came to an end."""

    def pivoting(carry: tuple[Corner, Array, Array]) -> Array:
        _, done, k = carry
        return ~done & (k < 100 * (corner.face.size + 1))

    def body(carry: tuple[Corner, Array, Array]) -> tuple[Corner, Array, Array]:
        now, _, k = carry
        ahead = homotopy.advance(line, now, end, tolerance)
        still = (ahead.face != now.face).any()
        return jax.tree.map(lambda new, old: jnp.where(still, new, old), ahead, now), ~still, k + 1

    start = corner, jnp.zeros((), bool), jnp.zeros((), int)
    settled, done, _ = jax.lax.while_loop(pivoting, body, start)
    return settled, done


@jax.jit
def onward(line: Line, corner: Corner, end: Array, tolerance: Array) -> Corner:
    """From a settled face to the next event or the end."""
    return homotopy.advance(line, corner, end, tolerance)


def _same(claim: str, x: np.ndarray, expected: Any, actual: Any, slack: float) -> None:
    expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    size = max(np.abs(expected).max(initial=0), np.abs(actual).max(initial=0))
    apart = np.abs(expected - actual)
    if not apart.max(initial=0) <= slack * size:
        index = [int(k) for k in np.unravel_index(int(np.argmax(apart)), apart.shape)]
        raise ValueError(f"{claim}; at {_at(x)} its entry {index} is off by {apart.max():.3g}")


def _same_jacobian(name: str, x: np.ndarray, first: AffineMap, other: AffineMap, slack: float) -> None:
    claim = (
        f"{name} needs curvature and coupling that do not depend on the parameter (γ, δ and the kernel are for sweep)"
    )
    parts = [jax.tree.leaves((one.own, one.others)) for one in (first, other)]
    if len(parts[0]) != len(parts[1]):
        raise ValueError(f"{claim}; at {_at(x)} the game has another form")
    for a, b in zip(*parts, strict=True):
        if np.shape(a) != np.shape(b):
            raise ValueError(f"{claim}; at {_at(x)} it has shape {np.shape(b)} instead of {np.shape(a)}")
        _same(claim, x, a, b, slack)


def _same_reach(name: str, x: np.ndarray, first: Any, other: Any, slack: float) -> None:
    a, b = (reach_of(game, dtype_of(first)) for game in (first, other))
    if a.shape != b.shape:
        raise ValueError(f"{name} needs games of one shape; at {_at(x)} there are {len(b)} agents instead of {len(a)}")
    _same(f"{name} needs a reach that does not depend on the parameter", x, a, b, slack)


def _at(x: np.ndarray) -> str:
    return ", ".join(f"{value:.6g}" for value in x)
