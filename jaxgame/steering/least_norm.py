"""The lever of least norm under floors: not the complementary one (theory §5)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import nnls

from jaxgame._pytree import Carried
from jaxgame.bounds import Bounds
from jaxgame.games import subsidised
from jaxgame.solving import solve

MOST_STEPS = 50
SHORTEST = 1e-3  # fraction of a step


def least_norm(game: Any, bounds: Bounds, prices: Array) -> tuple[Array, list[float]]:
    """A common lever θ (D,) of least Euclidean norm, at least locally, with which the floors hold; and the norms on the
    way there.

    θ enters the marginals as prices do, and S(θ) is piecewise affine in quadratic games: a step minimises the norm on
    the present piece, a least-distance problem (Lawson & Hanson 1974, ch. 23). What the step then misses of the floors
    a variational equilibrium makes up for, so that every θ on the way does what it should, and the norm falls.
    """
    carried = Carried.wrap(game)
    # A constant moves no one.
    best = prices - prices.mean()
    norms = [float(jnp.linalg.norm(prices)), float(jnp.linalg.norm(best))]
    floor = np.asarray(bounds.lower, np.float64)
    for _ in range(MOST_STEPS):
        here, slope = (np.asarray(x, np.float64) for x in _shown(carried, bounds, best))
        if not (np.isfinite(here).all() and np.isfinite(slope).all()):
            break
        aim = _nearest(slope, floor - here + slope @ np.asarray(best, np.float64))
        fraction = 1.0
        while aim is not None and fraction >= SHORTEST:
            ahead, sound = _repaired(carried, bounds, best + fraction * (jnp.asarray(aim, best.dtype) - best))
            ahead = ahead - ahead.mean()
            norm = float(jnp.linalg.norm(ahead))
            if bool(sound) and norm < norms[-1] * (1 - 1e-3 * fraction):
                break
            fraction /= 4
        if aim is None or fraction < SHORTEST:
            break
        best = ahead
        norms.append(norm)
    return best, norms


@jax.jit
def _repaired(carried: Carried, bounds: Bounds, theta: Array) -> tuple[Array, Array]:
    """θ with the complementary prices that are still missing, and whether they were found."""
    found = solve(_with(carried, bounds, theta), bounds=bounds)
    return theta + jnp.asarray(found.prices), found.converged


@jax.jit
def _shown(carried: Carried, bounds: Bounds, theta: Array) -> tuple[Array, Array]:
    """S(θ) (D,) and its Jacobian (D, D)."""

    def representation(theta: Array) -> tuple[Array, Array]:
        shown = solve(_with(carried, bounds, theta)).representation
        return shown, shown

    slope, shown = jax.jacrev(representation, has_aux=True)(theta)
    return shown, slope


def _with(carried: Carried, bounds: Bounds, theta: Array) -> Any:
    return subsidised(carried.unwrap(), bounds.exposure[:, None] * theta[None])


def _nearest(slope: np.ndarray, least: np.ndarray) -> np.ndarray | None:
    """The x of least norm with slope·x ≥ least, by nonnegative least squares; None where there is none."""
    size = np.abs(least).max()
    if size == 0:
        return np.zeros(slope.shape[1])
    system = np.vstack([slope.T, least[None] / size])
    wanted = np.append(np.zeros(slope.shape[1]), 1.0)
    try:
        dual, left = nnls(system, wanted)
    except RuntimeError:  # too many iterations
        return None
    residual = system @ dual - wanted
    return None if left < 1e-12 else -size * residual[:-1] / residual[-1]
