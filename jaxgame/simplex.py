"""Geometry of mixtures: projection, tangent space, faces, water-filling and the entropic step.

Every function works along one `axis` of length D (the groups) and treats all other axes as a batch. Floating inputs
keep their dtype; integers are promoted to the default float.

Projection and water-filling (theory §3.4) have one unknown a row, the level mu with sum_d max(b_d - mu, 0) / h_d = 1.
Sorting the row is the textbook way and, with XLA's sort, nearly all of the cost. Here instead:

* D <= 32: the sort is unrolled into a fixed network of compare-and-swap over the D columns, which XLA fuses into one
  vectorised loop over the batch. There is no data-dependent loop, so it is exact in one pass and cheap under vmap.
* D > 32: Newton's method on that convex, piecewise linear equation, from below, in a `while_loop` that ends when the
  support no longer changes (at most D steps, in practice four to eight). A step is one or two reductions over the row.

Both are fastest along the last axis. `benchmarks/projection.py` has the measurements.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

_NETWORK_LIMIT = 32  # measured on CPU: beyond it the network spills registers and its compilation takes seconds


@functools.partial(jax.jit, static_argnames="axis")
def project(x: ArrayLike, axis: int = -1) -> Array:
    """Euclidean projection on the simplex {w >= 0, sum w = 1} along `axis`; any batch, same shape and dtype.

    Entries are >= 0 and |sum - 1| <= 4 eps sqrt(D) at every magnitude of `x`. An entry -inf gets weight 0. A row with a
    NaN or +inf, or with nothing but -inf, has no projection and becomes NaN as a whole; other rows are unaffected.

    The derivative is the face projection diag(1_A) - 1_A 1_A'/|A| (theory §6), A the support of the result. An entry
    exactly at the threshold has weight 0 and counts as off the face: of the elements of the generalised Jacobian at
    such a tie, the one that keeps zeros at zero. Second derivatives are 0.

    Raises ValueError if `x` is a scalar, `axis` is out of range, or has length 0.
    """
    x = _floating(x)
    return _project(x, _checked_axis(x, axis))


@functools.partial(jax.jit, static_argnames="axis")
def waterfill(linear: ArrayLike, curvature: ArrayLike, axis: int = -1) -> Array:
    """Maximiser of b.w - sum_d h_d w_d^2 / 2 on the simplex along `axis`: w_d = max(b_d - mu, 0) / h_d (theory §3.4).

    `linear` b has any batch shape; `curvature` h > 0 is a scalar, one value a group (D,), or an array with as many axes
    as `linear` that broadcasts to it. Same shape and dtype as `linear`, and feasible as in `project`, which is h = 1,
    at every magnitude of b and h. A row with a NaN, b = +inf or h <= 0 becomes NaN as a whole. `multiplier` gives mu.

    Differentiable in both arguments on the face of the result: dw = (v - mean of v) / h with v = db - w dh and the mean
    weighted by 1/h over the face; an entry exactly at the threshold counts as off the face.

    Raises ValueError if the shapes do not fit or `axis` is not a nonempty axis of `linear`.
    """
    b = _floating(linear)
    axis = _checked_axis(b, axis)
    h = _curvature_like(curvature, b, axis)
    return _waterfill(b, h, axis)


def multiplier(linear: ArrayLike, curvature: ArrayLike, weights: ArrayLike, axis: int = -1) -> Array:
    """The multiplier mu of the constraint sum w = 1 at the solution `weights` of `waterfill`; `axis` is summed out.

    It is the marginal utility b_d - h_d w_d that all groups on the support share. `multiplier(x, 1.0, project(x))` is
    the threshold of the projection. Arguments and errors as in `waterfill`.
    """
    b = _floating(linear)
    axis = _checked_axis(b, axis)
    h = _curvature_like(curvature, b, axis)
    weights = jnp.asarray(weights)
    on = weights > 0
    # Averaged about a point of the support, so that large b do not cancel.
    top = jnp.max(jnp.where(on, b, -jnp.inf), axis, keepdims=True)
    u = jnp.where(on, 1 / h, 0)
    gap = jnp.where(on, (b - top) - h * weights, 0)
    return jnp.squeeze(top, axis) + jnp.sum(u * gap, axis) / jnp.sum(u, axis)


def project_tangent(x: ArrayLike, axis: int = -1) -> Array:
    """Projection on the tangent space {v : sum v = 0} of the simplex along `axis`: removes the mean."""
    x = _floating(x)
    return x - jnp.mean(x, _checked_axis(x, axis), keepdims=True)


def project_face(x: ArrayLike, face: ArrayLike, axis: int = -1) -> Array:
    """Projection on the tangent of a face, {v : v = 0 off the face, sum v = 0}; an empty face gives 0.

    `face` is boolean and broadcasts to the shape of `x`. Values of `x` off the face are ignored, NaN and inf included.
    """
    x = _floating(x)
    axis = _checked_axis(x, axis)
    face = jnp.broadcast_to(face, x.shape)
    size = jnp.maximum(jnp.sum(face.astype(x.dtype), axis, keepdims=True), 1)
    mean = jnp.sum(jnp.where(face, x, 0), axis, keepdims=True) / size
    return jnp.where(face, x - mean, 0)


def face(w: ArrayLike, axis: int = -1, *, tolerance: float | None = None) -> Array:
    """Boolean support of mixtures: the entries above `tolerance`, by default 4 eps sqrt(D) (the rounding of a sum)."""
    w = _floating(w)
    rounding = 4 * float(jnp.finfo(w.dtype).eps) * w.shape[_checked_axis(w, axis)] ** 0.5
    return w > (rounding if tolerance is None else tolerance)


def entropic_step(w: ArrayLike, direction: ArrayLike, axis: int = -1) -> Array:
    """The entropic mirror step w exp(direction) / sum, the maximiser of direction.v - KL(v, w) over mixtures v.

    `direction` has the shape and dtype of `w`. Computed in log space, so nothing overflows; zeros of `w` stay zero.
    From the uniform mixture it is the logit response (theory §3.5).
    """
    w = _floating(w)
    off = w <= 0
    logits = jnp.where(off, -jnp.inf, jnp.log(jnp.where(off, 1, w)) + direction)
    return jax.nn.softmax(logits, _checked_axis(w, axis))


def _floating(x: ArrayLike) -> Array:
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))


def _checked_axis(x: Array, axis: int) -> int:
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis {axis} is not an axis of an array of shape {x.shape}")
    if x.shape[axis] == 0:
        raise ValueError(f"axis {axis} of an array of shape {x.shape} is empty: a mixture needs at least one group")
    return axis % x.ndim


def _curvature_like(curvature: ArrayLike, b: Array, axis: int) -> Array:
    """The curvature with as many axes as b; its length along `axis` is 1 or D."""
    h = jnp.asarray(curvature, b.dtype)
    if h.ndim == 1 and b.ndim > 1:
        h = jnp.expand_dims(h, [k for k in range(b.ndim) if k != axis])
    elif h.ndim == 0:
        h = h.reshape((1,) * b.ndim)
    if h.ndim != b.ndim or any(k not in (1, n) for k, n in zip(h.shape, b.shape, strict=True)):
        raise ValueError(
            f"curvature of shape {jnp.shape(curvature)} does not fit linear of shape {b.shape} along axis {axis}: "
            "expected a scalar, one value a group, or an array with as many axes that broadcasts to it"
        )
    return h


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _project(x: Array, axis: int) -> Array:
    if x.shape[axis] > _NETWORK_LIMIT:
        return jnp.moveaxis(_newton(_rows(x, axis), None), -1, axis)
    return _project_network(x, axis)


@_project.defjvp
def _project_jvp(axis: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    w = _project(primals[0], axis)
    return w, _face_tangent(w, jnp.sign(w), tangents[0], axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _waterfill(b: Array, h: Array, axis: int) -> Array:
    h = jnp.where(h > 0, h, jnp.nan)
    if h.shape[axis] == 1:  # alike for all groups: the projection of b / h, shifted first to keep the quotient accurate
        return _project((b - jnp.max(b, axis, keepdims=True)) / h, axis)
    u = 1 / h
    if b.shape[axis] > _NETWORK_LIMIT:
        return jnp.moveaxis(_newton(_rows(b, axis), _rows(u, axis)), -1, axis)
    return _waterfill_network(b, u, axis)


@_waterfill.defjvp
def _waterfill_jvp(axis: int, primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    b, h = primals
    w = _waterfill(b, h, axis)
    return w, _face_tangent(w, jnp.sign(w) / h, tangents[0] - w * tangents[1], axis)


def _face_tangent(w: Array, u: Array, v: Array, axis: int) -> Array:
    """u (v - mean of v) on the face of w, the mean weighted by u, which is 0 off the face; a NaN row stays NaN."""
    on = w != 0
    mean = jnp.sum(jnp.where(on, u * v, 0), axis, keepdims=True) / jnp.sum(u, axis, keepdims=True)
    return jnp.where(on, u * (v - mean), 0)


# Small D: a sorting network over columns -----------------------------------------------------------------------------
#
# `where(a < b, ...)` rather than `maximum` throughout: it compiles to one machine instruction, and as a swap it never
# loses a NaN. XLA repeats cheap elementwise work in every consumer but keeps the result of a division; so what comes
# out of the network ends in one, or the network would run once more for every use.


@functools.cache
def _network(size: int) -> tuple[tuple[int, int], ...]:
    """Comparators (i, j), i < j, of Batcher's odd-even merge sort."""
    pairs = []
    merged = 1
    while merged < size:
        step = merged
        while step:
            for start in range(step % merged, size - step, 2 * step):
                for i in range(start, min(start + step, size - step)):
                    if i // (2 * merged) == (i + step) // (2 * merged):
                        pairs.append((i, i + step))
            step //= 2
        merged *= 2
    return tuple(pairs)


def _columns(x: Array, axis: int) -> list[Array]:
    return [lax.slice_in_dim(x, d, d + 1, axis=axis) for d in range(x.shape[axis])]


def _tree_sum(terms: list[Array]) -> Array:
    while len(terms) > 1:
        terms = [a + b for a, b in zip(terms[::2], terms[1::2], strict=False)] + terms[len(terms) & ~1 :]
    return terms[0]


def _positive(x: Array) -> Array:
    return jnp.where(x < 0, 0, x)  # unlike x > 0, keeps a NaN


def _project_network(x: Array, axis: int) -> Array:
    columns = _columns(x, axis)
    ordered = list(columns)
    for i, j in _network(len(ordered)):
        swap = ordered[i] < ordered[j]
        ordered[i], ordered[j] = jnp.where(swap, ordered[j], ordered[i]), jnp.where(swap, ordered[i], ordered[j])
    top = ordered[0]
    sum_all = sum_on = jnp.full_like(top, -1)
    size = jnp.ones_like(top)
    for k, column in enumerate(ordered[1:], 1):
        gap = column - top
        off = k * gap <= sum_all  # gap is not above the threshold sum_all / k of the k largest
        sum_all = sum_all + gap
        sum_on = jnp.where(off, sum_on, sum_all)
        size = jnp.where(off, size, k + 1)
    threshold = sum_on / size
    if axis != x.ndim - 1:  # along the last axis, finding it again once a row is cheaper than storing it
        top = top / jnp.sign(1 + (top - top))  # divided by 1, only to be kept
    scale = 1 / _tree_sum([_positive((column - top) - threshold) for column in columns])
    return _positive((x - top) - threshold) * scale


def _waterfill_network(b: Array, u: Array, axis: int) -> Array:
    columns = list(zip(_columns(b, axis), _columns(u, axis), strict=True))
    ordered = list(columns)
    for i, j in _network(len(ordered)):
        (bi, ui), (bj, uj) = ordered[i], ordered[j]
        swap = bi < bj
        ordered[i] = jnp.where(swap, bj, bi), jnp.where(swap, uj, ui)
        ordered[j] = jnp.where(swap, bi, bj), jnp.where(swap, ui, uj)
    # fill_all is the weight handed out once the level has sunk to this column: a sum of nonnegative terms, accurate to
    # rounding at every magnitude. For the same reason the level is kept as a pivot, the last column it sank to, and the
    # drop below it.
    last, slope_all = ordered[0]
    slope, fill_all = slope_all, jnp.zeros_like(last)
    fill, pivot = fill_all, last
    for column, weight in ordered[1:]:
        fill_all = fill_all + slope_all * (last - column)
        last, slope_all = column, slope_all + weight
        on = fill_all < 1
        fill, slope = jnp.where(on, fill_all, fill), jnp.where(on, slope_all, slope)
        pivot = jnp.where(on, column, pivot)
    drop = (1 - fill) / slope
    pivot = pivot / jnp.sign(slope)  # divided by 1, only to be kept
    scale = 1 / _tree_sum([_positive((column - pivot) + drop) * weight for column, weight in columns])
    return _positive((b - pivot) + drop) * u * scale


# Large D: Newton on rows ---------------------------------------------------------------------------------------------


def _rows(x: Array, axis: int) -> Array:
    """x with `axis` last, in memory as well: a reduction over a leading axis is several times slower on XLA's CPU."""
    if axis == x.ndim - 1:
        return x
    x = jnp.moveaxis(x, axis, -1)
    return lax.optimization_barrier(x.reshape(-1)).reshape(x.shape)


def _newton(b: Array, u: Array | None) -> Array:
    """Weights of waterfill with inverse curvature u (None: ones), by Newton's method from below.

    The level is a sum high + low of two floats (low below an ulp of high), so that b - level is accurate to rounding
    relative to itself, whatever the magnitudes.
    """
    eps = float(jnp.finfo(b.dtype).eps)
    slack = min(2 * b.shape[-1] * eps, 0.25)  # bounds the rounding of one step

    def masses(level: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        above = (b - level[0]) - level[1]
        on = above > 0
        if u is None:
            total, count = _sum_and_count(above, on)
            return total, count.astype(b.dtype), count
        total, count = _sum_and_count(above * u, on)
        slope, again = _sum_and_count(u, on)
        return total, slope, count + again  # a count unused would become a plain, slower sum

    def unfinished(state: Any) -> Array:
        _, (_, _, count), (total_before, count_before) = state
        return (total_before > 2) | (count < count_before)

    def step(state: Any) -> Any:
        (high, low), (total, slope, count), _ = state
        # From afar a step stops short by its own rounding error: past the root the support could be empty.
        excess = jnp.where(total > 2, total * (1 - slack), total) - 1
        # A finished row rests, so that its result does not depend on the other rows.
        level = _two_sum(high, low + jnp.where(unfinished(state), excess / slope, 0))
        return level, masses(level), (total, count)

    if u is None:
        start = _two_sum(jnp.max(b, -1, keepdims=True), -1)
    else:  # the highest level at which one group alone would be filled, less its rounding error
        bound = jnp.max(b - 1 / u, -1, keepdims=True)
        start = bound, -jnp.minimum(eps * jnp.abs(bound), 1 / jnp.min(u, -1, keepdims=True))
    first = masses(start)
    level, (total, _, _), _ = lax.while_loop(
        lambda state: jnp.any(unfinished(state)), step, (start, first, (first[0], first[2] + 1))
    )
    weights = _positive((b - level[0]) - level[1])
    return (weights if u is None else weights * u) / total


def _sum_and_count(x: Array, on: Array) -> tuple[Array, Array]:
    """The sum of x where on, and how many are on, in one reduction: several times faster than two on XLA's CPU."""
    zeros = np.zeros((), x.dtype), np.zeros((), np.int32)
    total, count = lax.reduce(
        (jnp.where(on, x, 0), on.astype(np.int32)), zeros, lambda a, b: (a[0] + b[0], a[1] + b[1]), (x.ndim - 1,)
    )
    return jnp.expand_dims(total, -1), jnp.expand_dims(count, -1)


def _two_sum(a: Array, b: ArrayLike) -> tuple[Array, Array]:
    """a + b as a rounded sum and its exact error (Knuth)."""
    total = a + b
    rest = total - a
    return total, (a - (total - rest)) + (b - rest)
