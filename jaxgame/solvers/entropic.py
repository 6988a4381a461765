"""The response of an agent that likes entropy, near what it plays: between softmax and projection (theory §3.4–5).

    r = argmax_v ⟨b, v⟩ − ½ h ‖v‖² + τ H(v)  over the simplex,    h v_d + τ log v_d = b_d − μ.

τ → 0 is water-filling, h → 0 the softmax. With u = (h/τ) v it reads u_d + log u_d = y_d − c, so u = ω(y − c), Wright's
omega function, and c is the root of one convex decreasing equation a row.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

LEVEL_STEPS = 60


def response(b: Array, h: Array, tau: Array) -> Array:
    """r for rows b (n, D), h > 0 and τ > 0 (n, 1): positive until it underflows, sum 1 to rounding, at any τ/h."""
    ratio = h / tau
    y = b / tau
    y = y - y.max(1, keepdims=True)
    eps = 4 * jnp.finfo(b.dtype).eps

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        level, step, count = carry
        return (step > eps * jnp.maximum(jnp.abs(level), 1)).any() & (count < LEVEL_STEPS)

    def newton(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        """From below, where it never oversteps."""
        level, _, count = carry
        u = omega(y - level)
        step = (u.sum(1, keepdims=True) - ratio) / (u / (1 + u)).sum(1, keepdims=True)
        return level + step, step, count + 1

    start = -(ratio + jnp.log(ratio))  # at which the largest entry alone makes up the sum
    level, _, _ = lax.while_loop(unfinished, newton, (start, jnp.full_like(start, jnp.inf), jnp.zeros((), int)))
    u = omega(y - level)
    return u / u.sum(1, keepdims=True)


def omega(y: Array) -> Array:
    """Wright's omega function, the root u > 0 of u + log u = y, to rounding (Fritsch, Shafer & Crowley 1973)."""
    large, near, small = y > 1, jnp.abs(y - 1) <= 3, y < -50
    high = jnp.where(large, y, 2)
    u = jnp.where(large, high - jnp.log(high) * high / (1 + high), jnp.exp(jnp.minimum(y, 1)))
    u = jnp.where(near, 1 + (y - 1) / 2 + (y - 1) ** 2 / 16, u)
    at = jnp.where(small, 1, u)
    for _ in range(2):
        left = y - at - jnp.log(at)
        bend = (1 + at) * (1 + at + 2 * left / 3)
        at = at * (1 + left / (1 + at) * (bend - left / 2) / (bend - left))
    return jnp.where(small, u, at)
