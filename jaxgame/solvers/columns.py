"""Water-filling for many agents at once, agents last in memory (theory §3.4).

With groups as rows and agents as columns every operation runs over many agents side by side; nothing is sorted. The
level μ at which Σ_d max(x_d − μ, 0) / h_d = 1 is the root of a convex, decreasing, piecewise linear function: Newton
from below needs as many steps as supports are tried, four on average for 16 groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.layout import Layout, with_layout_constraint

STEPS = 5  # after which nearly all agents are near their level; one more makes sure, and the rest goes on


def agents_last(x: Array) -> Array:
    """(b, D) -> (D, b), in memory as well: a transposition that XLA keeps a view is read by strides ever again."""
    return with_layout_constraint(x.T, Layout(major_to_minor=(0, 1)))


def tree(op: Callable[[Array, Array], Array], rows: Iterable[Array]) -> Array:
    """(D, b), or its rows, -> (b,): pair by pair, one pass for XLA; reducing a leading axis is far slower."""
    left = list(rows)
    while len(left) > 1:
        left = [op(a, b) for a, b in zip(left[::2], left[1::2], strict=False)] + left[len(left) & ~1 :]
    return left[0]


def over_groups(op: Callable[[Array, Array], Array], rows: Iterable[Array]) -> Array:
    """The same for finite entries, to be used more than once.

    Ends in a division by 1: XLA repeats in every consumer what it takes for cheap, as it does a tree, but no quotient.
    """
    found = tree(op, rows)
    return found / jnp.sign(1 + (found - found))


def folded(op: Callable[[Array, Array], Array], x: Array) -> Array:
    """The same by halves: nothing of it can be moved out of a loop, where a row each would take memory."""
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        pairs = op(x[:half], x[half : 2 * half])
        x = pairs if x.shape[0] % 2 == 0 else jnp.concatenate([pairs, x[2 * half :]])
    return x[0]


def waterfill(linear: Array, curvature: Array, height: Array | None = None) -> tuple[Array, Array, Array]:
    """Maximisers (D, b) of b·w − Σ_d h_d w_d² / 2 on the simplex, for b (D, b) and h > 0 (D or 1, b or 1).

    With how far (b,) their sums were from 1 before they were scaled to it, and the height (b,) of the best group above
    the level. NaN for an agent with a NaN, or with h = 0. height: near that one, for a start.
    """
    basin = Basin(linear, curvature)
    return basin.filled(basin.rough() if height is None else height)


class Basin:
    """What is to be filled: groups at x = b − max b, of width 1 / h each."""

    def __init__(self, linear: Array, curvature: Array) -> None:
        self.x = linear - over_groups(jnp.maximum, linear)[None]
        self.h = jnp.broadcast_to(curvature, (curvature.shape[0], self.x.shape[1]))
        self.most = over_groups(jnp.maximum, self.h)
        self.u = None if curvature.shape[0] == 1 else self.most[None] / self.h

    def raised(self, level: Array) -> Array:
        """One Newton step: to the level at which the groups above the last one would be filled.

        A row at a time, or XLA would write the selections to memory.
        """
        rows = list(zip(self.x, [None] * self.x.shape[0] if self.u is None else self.u, strict=True))
        mass = [jnp.where(row > level, row if w is None else row * w, 0) for row, w in rows]
        slope = [jnp.where(row > level, jnp.ones_like(row) if w is None else w, 0) for row, w in rows]
        return (over_groups(jnp.add, mass) - self.most) / over_groups(jnp.add, slope)

    def rough(self) -> Array:
        """Heights (b,) of the best group above a level that is at most the right one, and mostly right."""
        if self.u is None:
            level = -self.most  # the highest level at which one group alone is filled
        else:
            level = over_groups(jnp.maximum, [row - hd for row, hd in zip(self.x, self.h, strict=True)])
        for _ in range(STEPS):
            level = self.raised(level)
        return -level

    def mixture(self, level: Array, total: Array | float = 1.0) -> Array:
        """What is filled up to a level (b,), over the total."""
        above = jnp.maximum(self.x - level[None], 0)
        return (above if self.u is None else above * self.u) * (1 / (self.most * total))[None]

    def filled(self, height: Array) -> tuple[Array, Array, Array]:
        """As `waterfill`."""
        x, u = self.x, self.u
        enough = x.shape[0] * jnp.finfo(x.dtype).eps

        def total(level: Array) -> Array:
            rows = [jnp.maximum(row - level, 0) for row in x]
            filled = rows if u is None else [a * w for a, w in zip(rows, u, strict=True)]
            return over_groups(jnp.add, filled) / self.most

        def unsettled(carry: tuple[Array, ...]) -> Array:
            before, level, total, k = carry
            return ((jnp.abs(total - 1) > enough) & (level > before)).any() & (k < 2 * x.shape[0])

        def again(carry: tuple[Array, ...]) -> tuple[Array, ...]:
            _, before, _, k = carry
            above = x > before[None]
            mass = folded(jnp.add, jnp.where(above, x if u is None else x * u, 0))
            slope = folded(jnp.add, jnp.where(above, jnp.ones_like(x) if u is None else u, 0))
            level = (mass - self.most) / slope
            return before, level, total(level), k + 1

        # From wherever, one step leads below the root.
        level = self.raised(-height)
        begin = level - self.most, level, total(level), jnp.zeros((), int)
        _, level, mass, _ = lax.while_loop(unsettled, again, begin)
        return self.mixture(level, mass), jnp.abs(mass - 1), -level
