"""The best an agent can do alone: its greatest utility over the simplex, all other mixtures held fixed (theory §1).

Functions of one agent; `exploitability` maps them over the agents.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxgame import linalg, simplex
from jaxgame.linalg import dot

INTERIOR_STEPS = 60
SHORTER = (1.0, 0.5, 0.2, 0.05, 0.01)  # step lengths to choose from where the utility is not quadratic
ENUMERATED = 2**12  # faces an agent that are tried one by one before the search becomes a local one
CLIMB_STEPS = 500

Map = Callable[[Array], Array]


def shortfall(slope: Array, mixture: Array) -> Array:
    """max_d g_d − ⟨g, v⟩ ≥ 0: by how much at most a concave utility with marginals g at v can still grow."""
    return (mixture * (slope.max() - slope)).sum()


def maximise_quadratic(curvature: Array, slope: Array, start: Array) -> tuple[Array, Array]:
    """The gain max_v ⟨g, v − w⟩ − ½ (v − w)ᵀ C (v − w) over the simplex, C (D, D) ⪰ 0 on the tangent space.

    Returns the gain of a v and the shortfall of that v, which bounds what the gain misses. An interior point, then one
    linear solve on the support that it shows. No cancellation: the gain is accurate relative to itself.
    """
    n_groups = slope.shape[0]
    centre = jnp.eye(n_groups, dtype=slope.dtype) - 1 / n_groups
    C, g = dot(dot(centre, curvature + curvature.T), centre) / 2, slope - slope.mean()
    size = jnp.maximum(jnp.abs(C).max(), jnp.abs(g).max())
    size = jnp.where(size > 0, size, 1)
    C, g = C / size, g / size
    b = g + dot(C, start)

    def missed(v: Array) -> Array:
        left = shortfall(b - dot(C, v), v)
        return jnp.where(jnp.isfinite(left), left, jnp.inf)

    # Near an equilibrium the support of the start is that of the answer.
    near = simplex.project(_on_face(C, b, start > 0))
    done = missed(near) <= 8 * n_groups * jnp.finfo(b.dtype).eps
    mixture, dual = _central_path(lambda v: b - dot(C, v), lambda _: C, n_groups, b.dtype, lengths=(1.0,), done=done)
    face = mixture >= jnp.minimum(dual, mixture.max())
    candidates = jnp.stack([start, near, simplex.project(_on_face(C, b, face)), simplex.project(mixture)])
    left = jax.vmap(missed)(candidates)
    best = candidates[jnp.argmin(left)]
    move = best - start
    # Where nothing is better than the start to rounding, the start itself is the answer.
    gain = shortfall(g, start) - shortfall(g, best) - dot(move, dot(C, move)) / 2
    return size * gain, size * left.min()


def maximise_concave(utility: Map, slope: Map, start: Array) -> tuple[Array, Array]:
    """The gain max_v U(v) − U(w) of a concave utility with gradient `slope` over the simplex, by an interior point.

    Returns the gain of a v and the shortfall of that v, as `maximise_quadratic`. `slope` is evaluated at the start and
    inside the simplex only.
    """
    n_groups = start.shape[0]
    uniform = jnp.full_like(start, 1 / n_groups)
    curvature = jax.jacfwd(lambda v: -slope(v))
    g, C = slope(uniform), curvature(uniform)
    size = jnp.maximum(jnp.abs(C - C.mean()).max(), jnp.abs(g - g.mean()).max())
    size = jnp.where(size > 0, size, 1)
    mixture, _ = _central_path(
        lambda v: slope(v) / size, lambda v: curvature(v) / size, n_groups, start.dtype, lengths=SHORTER
    )
    mixture = simplex.project(mixture)
    left = shortfall(slope(mixture), mixture)
    left = jnp.where(jnp.isfinite(left), left, jnp.inf)
    # A concave utility grows by at least low, at most high along the move; near an optimum that is less than rounding.
    before, after = utility(start), utility(mixture)
    at_start = shortfall(slope(start), start)
    low = shortfall(slope(mixture), start) - left
    high = at_start - shortfall(slope(start), mixture)
    high = jnp.where(jnp.isfinite(high), high, jnp.inf)
    flat = high - low <= 1e3 * jnp.finfo(start.dtype).eps * jnp.maximum(jnp.abs(before), jnp.abs(after))
    gain = jnp.where(flat, (low + high) / 2, jnp.clip(after - before, low, high))
    # Where nothing is better than the start to rounding, the start itself is the answer.
    stay = gain <= 0
    return jnp.where(stay, 0, gain), jnp.where(stay, jnp.minimum(at_start, left - gain), left)


def _central_path(
    slope: Map, curvature: Map, n_groups: int, dtype: Any, *, lengths: tuple[float, ...], done: Array | bool = False
) -> tuple[Array, Array]:
    """Mixture v and multipliers z ≥ 0 with v∘z at rounding, for a slope and curvature of size one (Mehrotra 1992).

    Of several `lengths` of a step the one with the least error of the optimality conditions is taken. Nothing happens
    where it is `done`.
    """
    eps = jnp.finfo(dtype).eps
    fractions = jnp.asarray(lengths, dtype)
    ones = jnp.ones(n_groups, dtype)

    def error(v: Array, z: Array, mu: Array) -> Array:
        return jnp.abs(mu - slope(v) - z).max() + dot(v, z)

    def unfinished(state) -> Array:
        v, z, _, left, steps, sound = state
        return sound & (steps < INTERIOR_STEPS) & ((dot(v, z) > n_groups * eps / 32) | (left > 64 * n_groups * eps))

    def body(state):
        v, z, mu, _, steps, _ = state
        C = curvature(v)
        # The multiple of 11ᵀ moves μ alone, and makes the matrix definite where C is so on the tangent space only.
        lift = 1 + 2 * jnp.maximum(-C.mean(), 0)
        inverse = linalg.inverse_positive(C + jnp.diag(z / v) + lift)
        flat = dot(inverse, ones)
        stationarity, short = mu - slope(v), 1 - v.sum()

        def direction(target: Array) -> tuple[Array, Array, Array]:
            """Towards v∘z = target."""
            raw = dot(inverse, target / v - stationarity)
            dmu = (raw.sum() - short) / flat.sum()
            dv = raw - dmu * flat
            return dv, (target - z * (v + dv)) / v, dmu - lift * short

        gap = (v * z).mean()
        dv, dz, _ = direction(jnp.zeros_like(v))
        predicted = ((v + _longest(v, dv) * dv) * (z + _longest(z, dz) * dz)).mean()
        dv, dz, dmu = direction(jnp.clip(predicted / gap, 0, 1) ** 3 * gap - dv * dz)
        length = 0.995 * jnp.minimum(_longest(v, dv), _longest(z, dz)) * fractions
        trials = jax.vmap(lambda t: (v + t * dv, z + t * dz, mu + t * dmu))(length)
        errors = jax.vmap(error)(*trials)
        best = jnp.argmin(jnp.where(jnp.isnan(errors), jnp.inf, errors))
        ahead = [x[best] for x in trials]
        sound = jnp.isfinite(errors[best]) & (ahead[0] > 0).all() & (ahead[1] > 0).all()
        kept = [jnp.where(sound, new, old) for new, old in zip(ahead, (v, z, mu), strict=True)]
        return *kept, errors[best], steps + 1, sound

    v = ones / n_groups
    fall = -slope(v)
    far, sound = jnp.asarray(jnp.inf, dtype), ~jnp.asarray(done)
    start = v, fall - fall.min() + 1, 1 - fall.min(), far, jnp.zeros((), int), sound
    v, z, *_ = lax.while_loop(unfinished, body, start)
    return v, z


def _longest(x: Array, dx: Array) -> Array:
    """The largest step ≤ 1 that keeps x + t·dx ≥ 0."""
    return jnp.minimum(jnp.where(dx < 0, -x / jnp.where(dx < 0, dx, -1), 1).min(), 1)


def _on_face(C: Array, b: Array, face: Array) -> Array:
    """The stationary point on a face: C v = b − μ1 there, Σ v = 1; not finite where the face holds none or many."""
    both = face[:, None] & face[None, :]
    on = jnp.where(face, jnp.ones_like(b), 0)
    inverse = linalg.inverse_positive(jnp.where(both, C + 1, 0) + jnp.diag(1 - on))
    flat = on * dot(inverse, on)

    def solve(rhs: Array, total: Array | float) -> Array:
        raw = on * dot(inverse, on * rhs)
        return raw - (raw.sum() - total) / flat.sum() * flat

    v = solve(b, 1.0)
    return v + solve(b - dot(C, v), 1 - v.sum())


def maximise_any_quadratic(curvature: np.ndarray, slope: np.ndarray, start: np.ndarray) -> tuple[float, bool]:
    """The gain max_v ⟨g, v − w⟩ − ½ (v − w)ᵀ C (v − w) over the simplex for any symmetric C; and whether that is exact.

    The maximum is stationary on some face on which the system is nonsingular, so that trying every face finds it. Above
    `ENUMERATED` faces: the best of the vertices and of gradient ascents from near them, a lower bound.
    """
    n_groups = len(start)
    centre = np.eye(n_groups) - 1 / n_groups
    C, g = centre @ (curvature + curvature.T) @ centre / 2, slope - slope.mean()
    size = max(np.abs(C).max(), np.abs(g).max()) or 1.0
    C, g = C / size, g / size
    b = g + C @ start
    enumerated = 2**n_groups <= ENUMERATED
    found = np.concatenate([np.eye(n_groups), _stationary(C, b) if enumerated else _climb(C, b)])
    move = found - start
    gains = move @ g - ((move @ C) * move).sum(1) / 2
    return float(size * max(gains.max(), 0.0)), enumerated


def _stationary(C: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The points of the simplex that are stationary on a face of two or more groups, up to rounding."""
    n_groups = len(b)
    found = [np.zeros((0, n_groups))]
    for count in range(2, n_groups + 1):
        faces = np.array(list(itertools.combinations(range(n_groups), count)))
        # Far below the rounding of an answer, but it keeps LAPACK from refusing a singular face.
        jitter = np.diag(np.linspace(1, 2, count)) * 1e-14
        matrices = C[faces[:, :, None], faces[:, None, :]] + 1 + jitter
        rhs = np.stack([b[faces], np.ones_like(b[faces])], -1)
        raw, flat = np.moveaxis(np.linalg.solve(matrices, rhs), -1, 0)
        with np.errstate(all="ignore"):
            inside = raw - ((raw.sum(1) - 1) / flat.sum(1))[:, None] * flat
        good = np.isfinite(inside).all(1) & (inside.min(1) >= -1e-12)
        points = np.zeros((int(good.sum()), n_groups))
        np.put_along_axis(points, faces[good], np.maximum(inside[good], 0), 1)
        found.append(points / points.sum(1, keepdims=True))
    return np.concatenate(found)


def _climb(C: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where projected gradient ascents from near every vertex, and from the centre, end."""
    n_groups = len(b)
    start = np.concatenate([0.9 * np.eye(n_groups) + 0.1 / n_groups, np.full((1, n_groups), 1 / n_groups)])
    points = jnp.asarray(start)
    matrix, target = jnp.asarray(C, points.dtype), jnp.asarray(b, points.dtype)
    step = 1 / max(float(np.linalg.norm(C, 2)), 1e-3)

    def ascend(_, v: Array) -> Array:
        return simplex.project(v + step * (target[None] - dot(v, matrix)))

    return np.asarray(lax.fori_loop(0, CLIMB_STEPS, ascend, points), np.float64)
