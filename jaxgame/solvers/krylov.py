"""Linear systems of which only products are known, by BiCGStab(2) with a preconditioner.

Sleijpen & Fokkema, BiCGstab(l) for linear equations involving unsymmetric matrices with complex spectrum, ETNA 1
(1993). Eight vectors whatever the number of steps, where GMRES carries one a step; and, with steps that minimise over
two directions, at ease with the complex eigenvalues of games that rotate, where BiCGStab is not.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from jaxgame._pytree import pytree

Linear = Callable[[Array], Array]
MOST_CYCLES = 100  # of four products each, before it starts over
PATIENCE = 25  # cycles without a new best residual


@pytree()
class _Search:
    x: Array
    residual: Array
    direction: Array
    rho: Array
    alpha: Array
    omega: Array
    best: Array  # x of the least residual, whose size is
    least: Array
    misses: Array
    cycles: Array


def solve(operator: Linear, precondition: Linear, rhs: Array, precision: float | Array) -> tuple[Array, Array]:
    """x with ‖M⁻¹(rhs − A x)‖ ≤ precision · ‖M⁻¹ rhs‖ for A = `operator` and M⁻¹ = `precondition`, or the best found;
    and whether it is.

    Starts over from the true residual where rounding has parted the recursive one from it. Zero where the right-hand
    side is or nothing better is found, NaN where it is not finite.
    """
    size = _norm(precondition(rhs))
    goal = precision * size

    def unfinished(carry: tuple[Array, ...]) -> Array:
        _, _, left, before = carry
        return (left > goal) & (left < before / 2)

    def body(carry: tuple[Array, ...]) -> tuple[Array, ...]:
        x, residual, left, _ = carry
        ahead = x + _search(lambda v: precondition(operator(v)), residual, goal)
        new = precondition(rhs - operator(ahead))
        better = _norm(new) < left
        return jnp.where(better, ahead, x), jnp.where(better, new, residual), jnp.minimum(_norm(new), left), left

    begin = jnp.zeros_like(rhs), precondition(rhs), size, jnp.full_like(size, jnp.inf)
    x, _, left, _ = lax.while_loop(unfinished, body, begin)
    return jnp.where(jnp.isfinite(left), x, jnp.nan), left <= goal


def _search(operator: Linear, rhs: Array, goal: Array) -> Array:
    """x whose recursive residual is at most `goal`, or the best before the search broke down or stopped."""

    def unfinished(now: _Search) -> Array:
        return (now.least > goal) & (now.misses < PATIENCE) & (now.cycles < MOST_CYCLES)

    def body(now: _Search) -> _Search:
        # Two steps of BiCG, of which the second leaves residuals r0, r1 = A r0, r2 = A r1 and directions u0, u1, u2.
        r0 = now.residual
        rho = _dot(r0, rhs)
        u0 = r0 + _ratio(now.alpha * rho, now.omega * now.rho) * now.direction
        u1 = operator(u0)
        alpha = _ratio(rho, _dot(u1, rhs))
        r0 = r0 - alpha * u1
        r1 = operator(r0)
        x = now.x + alpha * u0
        before, rho = rho, _dot(r1, rhs)
        beta = _ratio(alpha * rho, before)
        u0, u1 = r0 - beta * u0, r1 - beta * u1
        u2 = operator(u1)
        alpha = _ratio(rho, _dot(u2, rhs))
        r0, r1 = r0 - alpha * u1, r1 - alpha * u2
        r2 = operator(r1)
        x = x + alpha * u0
        # The least residual r0 − a r1 − b r2.
        r11, r12, r22, r01, r02 = _dot(r1, r1), _dot(r1, r2), _dot(r2, r2), _dot(r0, r1), _dot(r0, r2)
        determinant = r11 * r22 - r12**2
        b = _ratio(r02 * r11 - r01 * r12, determinant)
        a = _ratio(r01 - b * r12, r11)
        x = x + a * r0 + b * r1
        r0, u0 = r0 - a * r1 - b * r2, u0 - a * u1 - b * u2
        left = _norm(r0)
        better = left < now.least
        return _Search(
            x=x,
            residual=r0,
            direction=u0,
            rho=rho,
            alpha=alpha,
            omega=b,
            best=jnp.where(better, x, now.best),
            least=jnp.where(better, left, now.least),
            misses=jnp.where(better, 0, jnp.where(jnp.isfinite(left), now.misses + 1, PATIENCE)),
            cycles=now.cycles + 1,
        )

    zero, one, none = jnp.zeros_like(rhs), jnp.ones((), rhs.dtype), jnp.zeros((), int)
    start = _Search(zero, rhs, zero, one, one, one, zero, _norm(rhs), none, none)
    return lax.while_loop(unfinished, body, start).best


def _dot(x: Array, y: Array) -> Array:
    return (x * y).sum()


def _norm(x: Array) -> Array:
    return jnp.sqrt(_dot(x, x))


def _ratio(x: Array, y: Array) -> Array:
    return x / jnp.where(y == 0, 1, y)
