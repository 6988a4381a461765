"""Projection, water-filling, tangent spaces and the entropic step, against sorts and optimisers in NumPy and SciPy."""

import itertools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxgame import simplex

DTYPES = [np.float32, np.float64]
# One of the network (1-32) and one of Newton's method (above) at least, powers of two and others.
SIZES = [1, 2, 3, 7, 8, 32, 33, 100]


def sorted_solution(linear: np.ndarray, curvature: np.ndarray | float = 1.0) -> np.ndarray:
    """Water-filling along the last axis by the textbook sort, in extended precision."""
    b = np.asarray(linear, np.longdouble)
    h = np.broadcast_to(np.asarray(curvature, np.longdouble), b.shape)
    out = np.empty_like(b)
    for row in np.ndindex(b.shape[:-1]):
        top = b[row].max()
        order = np.argsort(-b[row], kind="stable")
        y, u = b[row][order] - top, 1 / h[row][order]
        finite = np.isfinite(y)
        levels = (np.cumsum(np.where(finite, y * u, 0)) - 1) / np.cumsum(u)
        last = np.flatnonzero(finite & (y > levels))[-1]
        # Once more around the last entry on the support, so that the reference itself does not cancel.
        pivot = y[last]
        drop = (1 - ((y - pivot) * u)[: last + 1].sum()) / u[: last + 1].sum()
        out[row] = np.maximum((b[row] - top - pivot) + drop, 0) / h[row]
    return out


def assert_feasible(w: jax.Array, dtype: type) -> None:
    assert w.dtype == dtype
    exact = np.asarray(w, np.longdouble)
    assert (exact >= 0).all()
    size = w.shape[-1]
    assert (abs(exact.sum(-1) - 1) <= 4 * np.finfo(dtype).eps * np.sqrt(size)).all()


# Projection ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_project_equals_the_sort_at_every_magnitude(size: int, dtype: type, rng: np.random.Generator) -> None:
    for level, scale in itertools.product([0, 1, -1e7, 1e30], [1e-30, 1e-3, 0.1, 1, 100, 1e30]):
        x = (level + scale * rng.normal(size=(20, size))).astype(dtype)
        w = simplex.project(x)
        assert_feasible(w, dtype)
        np.testing.assert_allclose(
            w, sorted_solution(x), rtol=0, atol=4 * np.finfo(dtype).eps, err_msg=f"{level} {scale}"
        )


@pytest.mark.parametrize("size", [1, 2, 3])
def test_project_minimises_the_distance_on_a_grid_of_the_simplex(size: int, rng: np.random.Generator) -> None:
    steps = 60
    grid = np.array([p for p in itertools.product(range(steps + 1), repeat=size) if sum(p) == steps]) / steps
    for x in rng.normal(size=(50, size)):
        w = np.asarray(simplex.project(x))
        nearest = ((grid - x) ** 2).sum(-1).min()
        # The projection beats every grid point, and by no more than the spacing of the grid explains.
        assert ((w - x) ** 2).sum() <= nearest + 1e-14
        assert np.sqrt(nearest) - np.linalg.norm(w - x) <= np.sqrt(size) / steps


@hypothesis.given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 5, 16, 33])),
        elements=st.floats(-(2.0**120), 2.0**120, width=32),
    )
)
def test_project_satisfies_the_optimality_conditions(x: np.ndarray) -> None:
    w = simplex.project(x)
    assert_feasible(w, x.dtype.type)
    # <x - w, v - w> <= 0 for every vertex v: the largest x_d - w_d is attained wherever w_d > 0.
    top = x.max(-1, keepdims=True).astype(np.longdouble)
    slack = (x - top) - np.asarray(w, np.longdouble)
    slack = slack - slack.max(-1, keepdims=True)
    assert (np.where(np.asarray(w) > 0, -slack, 0) <= 8 * np.finfo(x.dtype).eps).all()


@pytest.mark.parametrize("size", [1, 2, 31, 33, 4095])
@pytest.mark.parametrize("value", [0.0, -7.25, 1e30])
def test_identical_entries_share_equally(size: int, value: float) -> None:
    for dtype in DTYPES:
        w = simplex.project(np.full((2, size), value, dtype))
        assert_feasible(w, dtype)
        np.testing.assert_allclose(w, 1 / size, rtol=4 * np.finfo(dtype).eps * np.sqrt(size))


@pytest.mark.parametrize("size", [40, 300])
def test_newton_on_rows_that_take_many_steps(size: int) -> None:
    """Gaps and curvatures that grow geometrically: every step drops only part of the support."""
    k = np.arange(size)
    x = np.stack([-k / size, -np.logspace(-12, 0, size), -1 + 1.1**-k, -((k / size) ** 8), -np.sqrt(k / size)])
    w = simplex.project(x)
    assert_feasible(w, np.float64)
    np.testing.assert_allclose(w, sorted_solution(x), rtol=0, atol=1e-15)
    for h in (np.logspace(0, 16, size), np.logspace(8, -8, size)):
        w = simplex.waterfill(x * h[::-1], h)
        assert_feasible(w, np.float64)
        np.testing.assert_allclose(w, sorted_solution(x * h[::-1], h), rtol=0, atol=2e-15)


@pytest.mark.parametrize("size", [6, 40])
def test_every_axis_and_batch_shape(size: int, rng: np.random.Generator) -> None:
    x = rng.normal(size=(4, 3, size))
    expected = np.asarray(sorted_solution(x), float)
    for axis in range(-3, 3):
        moved = np.moveaxis(x, -1, axis)
        w = simplex.project(moved, axis)
        assert w.shape == moved.shape
        np.testing.assert_allclose(np.moveaxis(w, axis, -1), expected, atol=1e-15)
    np.testing.assert_allclose(simplex.project(x[0, 0]), expected[0, 0], atol=1e-15)
    np.testing.assert_allclose(jax.vmap(simplex.project)(x), expected, atol=1e-15)
    np.testing.assert_allclose(
        jax.vmap(lambda rows: simplex.project(rows, 1), 2, 2)(np.moveaxis(x, -1, 1)),
        np.moveaxis(expected, -1, 1),
        atol=1e-15,
    )
    assert simplex.project(np.zeros((0, size))).shape == (0, size)
    assert simplex.project(np.zeros((size, 0, 2), np.float32), 0).shape == (size, 0, 2)


def test_integers_become_the_default_float() -> None:
    w = simplex.project(np.array([[3, 1, 3], [0, 0, 9]]))
    assert w.dtype == np.float64
    np.testing.assert_array_equal(w, [[0.5, 0, 0.5], [0, 0, 1]])
    assert simplex.project(jnp.zeros(3, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("size", [2, 3, 20, 50])
@pytest.mark.parametrize("project", [simplex.project, lambda x: simplex.waterfill(x, np.ones(x.shape[-1]))])
def test_infinities_and_nans_stay_in_their_row(size: int, project, rng: np.random.Generator) -> None:
    x = rng.normal(size=(6, size))
    clean = np.asarray(project(x))
    for place in range(min(size, 5)):
        bad = x.copy()
        bad[0, place] = -np.inf
        bad[1, place] = np.nan
        bad[2, place] = np.inf
        bad[3] = -np.inf
        bad[4] = np.nan
        w = np.asarray(project(bad))
        np.testing.assert_allclose(w[0], sorted_solution(bad[:1])[0], atol=1e-15)
        assert w[0, place] == 0
        assert np.isnan(w[1:5]).all()
        np.testing.assert_array_equal(w[5], clean[5])
        tangent = jax.jvp(project, (bad,), (np.ones_like(bad),))[1]
        assert np.isnan(tangent[1:5]).all() and np.isfinite(tangent[np.array([0, 5])]).all()


@pytest.mark.parametrize("x, axis", [(np.float64(1.0), -1), (np.zeros((3, 0)), -1), (np.zeros((3, 2)), 2)])
def test_shapes_without_a_simplex_are_refused(x: np.ndarray, axis: int) -> None:
    for function in (simplex.project, simplex.project_tangent, lambda x, axis: simplex.waterfill(x, 1.0, axis)):
        with pytest.raises(ValueError, match="axis"):
            function(x, axis)


# Derivatives ---------------------------------------------------------------------------------------------------------


def central_difference(function, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """The Jacobian of a function of a vector, differences in float64."""
    shifts = step * np.eye(x.size)
    ahead, behind = jax.jit(jax.vmap(function))(np.concatenate([x + shifts, x - shifts])).reshape(2, x.size, -1)
    return ((ahead - behind) / (2 * step)).T.reshape(*jax.eval_shape(function, x).shape, x.size)


@pytest.mark.parametrize("size", [1, 5, 40])
def test_derivative_of_the_projection(size: int, rng: np.random.Generator) -> None:
    forward, reverse = jax.jit(jax.jacfwd(simplex.project)), jax.jit(jax.jacrev(simplex.project))
    hessian = jax.jit(jax.hessian(lambda x: (simplex.project(x) ** 3).sum()))
    for scale in (0.02, 0.3, 2.0):
        x = scale * rng.normal(size=size)
        w = np.asarray(sorted_solution(x[None])[0], float)
        on = (w > 0).astype(float)
        face = np.diag(on) - np.outer(on, on) / on.sum()
        np.testing.assert_allclose(forward(x), face, atol=1e-15)
        np.testing.assert_allclose(reverse(x), face, atol=1e-15)
        np.testing.assert_allclose(central_difference(simplex.project, x), face, atol=1e-9)
        # The second derivative of the projection is zero: what is left is that of the cube.
        np.testing.assert_allclose(hessian(x), face @ np.diag(6 * w) @ face, atol=1e-14)


def test_derivatives_compose_with_vmap_jit_and_axis(rng: np.random.Generator) -> None:
    x, v = rng.normal(size=(2, 7, 5))
    one = np.stack([jax.jvp(simplex.project, (a,), (b,))[1] for a, b in zip(x, v, strict=True)])
    batch = jax.jit(lambda x, v: jax.jvp(simplex.project, (x,), (v,))[1])(x, v)
    np.testing.assert_allclose(batch, one, atol=1e-15)
    np.testing.assert_allclose(jax.vmap(lambda x, v: jax.jvp(simplex.project, (x,), (v,))[1])(x, v), one, atol=1e-15)
    by_row = jax.vmap(jax.grad(lambda x, v: (simplex.project(x) * v).sum()))(x, v)
    np.testing.assert_allclose(by_row, one, atol=1e-15)  # the face projection is symmetric
    over_columns = jax.grad(lambda x: (simplex.project(x, 0) * v.T).sum())(x.T)
    np.testing.assert_allclose(over_columns, one.T, atol=1e-15)
    assert jax.grad(lambda x: simplex.project(x)[0])(np.array([1, 2, 3], np.float32)).dtype == np.float32


def test_at_a_tie_the_zero_entry_is_off_the_face() -> None:
    x = np.array([1.0, 0.0, -3.0])  # threshold 0: the second entry is exactly at it
    np.testing.assert_array_equal(simplex.project(x), [1, 0, 0])
    np.testing.assert_array_equal(jax.jacfwd(simplex.project)(x), np.zeros((3, 3)))


# Water-filling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_waterfill_equals_the_sort_at_every_magnitude(size: int, dtype: type, rng: np.random.Generator) -> None:
    for level, scale, spread in itertools.product([0, 1, 1e8], [1e-8, 1, 1e8], [0, 1, 8]):
        b = (level + scale * rng.normal(size=(10, size))).astype(dtype)
        for centre in (-8, 0, 8) if spread < 8 else (0,):
            h = (10.0 ** (centre + spread * rng.uniform(-1, 1, size=(10, size)))).astype(dtype)
            w = simplex.waterfill(b, h)
            assert_feasible(w, dtype)
            np.testing.assert_allclose(w, sorted_solution(b, h), rtol=0, atol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("size", [1, 8, 50])
def test_waterfill_takes_every_shape_of_curvature(size: int, rng: np.random.Generator) -> None:
    b = rng.normal(size=(4, 6, size))
    group = rng.uniform(0.5, 2, size=size)
    agent = rng.uniform(0.5, 2, size=(4, 6, 1))
    for curvature, full in [(2.0, 2.0), (np.float64(0.3), 0.3), (group, group), (agent, agent), (agent * group,) * 2]:
        w = simplex.waterfill(b, curvature)
        np.testing.assert_allclose(w, sorted_solution(b, full), atol=1e-14)
        mu = simplex.multiplier(b, curvature, w)
        assert mu.shape == (4, 6)
        # KKT: the marginal utility is mu on the support and no more elsewhere.
        excess = b - full * np.asarray(w) - np.asarray(mu)[..., None]
        assert (excess <= 1e-13).all() and (abs(np.where(np.asarray(w) > 0, excess, 0)) <= 1e-13).all()
    moved = simplex.waterfill(np.moveaxis(b, -1, 0), group, 0)
    np.testing.assert_allclose(np.moveaxis(moved, 0, -1), sorted_solution(b, group), atol=1e-14)
    if size > 1:
        with pytest.raises(ValueError, match="curvature of shape"):
            simplex.waterfill(b, np.ones(size + 1))
        with pytest.raises(ValueError, match="curvature of shape"):
            simplex.waterfill(b, np.ones((6, size)))


def test_waterfill_maximises_the_quadratic(rng: np.random.Generator) -> None:
    """Against a general solver of constrained problems."""
    for size in (2, 3, 6):
        b, h = 2 * rng.normal(size=size), rng.uniform(0.5, 3, size=size)
        found = scipy.optimize.minimize(
            lambda w, b=b, h=h: 0.5 * (h * w**2).sum() - b @ w,
            np.full(size, 1 / size),
            jac=lambda w, b=b, h=h: h * w - b,
            bounds=[(0, None)] * size,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-15},
        )
        np.testing.assert_allclose(simplex.waterfill(b, h), found.x, atol=1e-6)


@pytest.mark.parametrize("size", [4, 40])
def test_derivatives_of_waterfill(size: int, rng: np.random.Generator) -> None:
    def outputs(data: jax.Array) -> jax.Array:
        b, h = data[:size], data[size:]
        w = simplex.waterfill(b, h)
        curved = jax.grad(lambda h: (simplex.waterfill(b, h) ** 2).sum())(h)  # for second derivatives
        return jnp.concatenate([w, simplex.multiplier(b, h, w)[None], curved])

    b = 0.3 * rng.normal(size=size)
    alike = lambda h: simplex.waterfill(b, h)  # noqa: E731, one curvature for all groups
    for function, at in [(outputs, np.concatenate([b, rng.uniform(0.5, 2, size=size)])), (alike, np.array([0.7]))]:
        expected = central_difference(function, at)
        np.testing.assert_allclose(jax.jit(jax.jacfwd(function))(at), expected, atol=1e-7)
        np.testing.assert_allclose(jax.jit(jax.jacrev(function))(at), expected, atol=1e-7)


@pytest.mark.parametrize("size", [3, 50])
def test_waterfill_refuses_curvature_that_is_not_positive(size: int) -> None:
    h = np.ones((4, size))
    h[0, -1], h[1, 0], h[2, 1] = 0.0, -1.0, np.nan
    w = np.asarray(simplex.waterfill(np.zeros((4, size)), h))
    assert np.isnan(w[:3]).all()
    np.testing.assert_allclose(w[3], 1 / size, rtol=1e-14)
    assert np.isnan(np.asarray(simplex.waterfill(np.zeros((4, size)), -1.0))).all()


# Tangent spaces, faces, the entropic step ----------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_tangent_and_face_projections_are_orthogonal_projections(axis: int, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(2, 4, 5, 6))
    on = rng.uniform(size=x.shape) < 0.5
    index = np.moveaxis(on, axis, -1)
    index[0, 0] = False  # an empty face
    on = np.moveaxis(index, -1, axis)
    for apply, support in [
        (lambda x: simplex.project_tangent(x, axis), np.ones_like(on)),
        (lambda x: simplex.project_face(x, on, axis), on),
    ]:
        p, q = np.asarray(apply(x)), np.asarray(apply(y))
        assert (p[~support] == 0).all()
        np.testing.assert_allclose(p.sum(axis), 0, atol=1e-14)
        np.testing.assert_allclose(((x - p) * q).sum(axis), 0, atol=1e-14)  # the rest is orthogonal to the range
    np.testing.assert_allclose(
        simplex.project_face(x, np.ones_like(on), axis), simplex.project_tangent(x, axis), atol=1e-14
    )


def test_project_face_ignores_what_is_off_the_face() -> None:
    x = np.array([np.nan, 1, 4, np.inf], np.float32)
    v = simplex.project_face(x, np.array([False, True, True, False]))
    assert v.dtype == np.float32
    np.testing.assert_array_equal(v, [0, -1.5, 1.5, 0])
    assert simplex.project_tangent(x[1:3]).dtype == np.float32


def test_face_is_the_support_up_to_rounding() -> None:
    w = np.array([[0.5, 0.5 - 1e-16, 1e-16], [0.0, 0.999, 1e-3]])
    np.testing.assert_array_equal(simplex.face(w), [[True, True, False], [False, True, True]])
    np.testing.assert_array_equal(simplex.face(w, tolerance=0.01), [[True, True, False], [False, True, False]])
    np.testing.assert_array_equal(simplex.face(w.T, 0), np.asarray(simplex.face(w)).T)
    # In float32 the default is coarser.
    assert not simplex.face(np.array([1.0, 3e-7], np.float32))[1] and simplex.face(np.array([1.0, 3e-7], np.float64))[1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_entropic_step(dtype: type, rng: np.random.Generator) -> None:
    w = rng.dirichlet(np.ones(6), size=10)
    w[:, 2] = 0
    w = (w / w.sum(-1, keepdims=True)).astype(dtype)
    direction = rng.normal(size=w.shape).astype(dtype)
    expected = np.asarray(w, np.longdouble) * np.exp(np.asarray(direction, np.longdouble))
    v = simplex.entropic_step(w, direction)
    assert_feasible(v, dtype)
    np.testing.assert_allclose(v, expected / expected.sum(-1, keepdims=True), rtol=40 * np.finfo(dtype).eps)
    assert (np.asarray(v)[:, 2] == 0).all()
    np.testing.assert_array_equal(simplex.entropic_step(w.T, direction.T, 0), v.T)
    far = simplex.entropic_step(w, (1e30 * direction).astype(dtype))  # exp would overflow
    best = np.where(w > 0, direction, -np.inf).argmax(-1)
    np.testing.assert_array_equal(far, np.eye(6)[best])
    # Optimality: the gradient of <direction, v> - KL(v, w) is constant on the support.
    marginal = direction[:, :2] - np.log(np.asarray(v)[:, :2] / w[:, :2])
    np.testing.assert_allclose(marginal[:, 0], marginal[:, 1], atol=40 * np.finfo(dtype).eps)


def test_entropic_step_does_not_hide_a_nan_and_differentiates_at_zeros() -> None:
    w = np.array([[np.nan, 0.5, 0.5], [0.0, 0.5, 0.5]])
    v = np.asarray(simplex.entropic_step(w, np.zeros_like(w)))
    assert np.isnan(v[0]).all() and (v[1] == w[1]).all()
    step = lambda d: simplex.entropic_step(np.array([0.0, 0.4, 0.6]), d)  # noqa: E731
    at = np.array([3.0, 0.2, -0.5])
    np.testing.assert_allclose(jax.jacrev(step)(at), central_difference(step, at), atol=1e-9)


# Compilation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 64])
def test_nothing_is_sorted(size: int) -> None:
    x = np.zeros((3, size))
    for function in (simplex.project, lambda x: simplex.waterfill(x, np.arange(1.0, size + 1))):
        program = jax.jit(jax.grad(lambda x, f=function: (f(x) ** 2).sum())).lower(x).as_text()
        assert "sort" not in program and "top_k" not in program
        assert ("while" in program) == (size > 32)


def test_a_second_call_does_not_trace_again(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []
    check = simplex._checked_axis
    monkeypatch.setattr(simplex, "_checked_axis", lambda x, axis: traced.append(x.shape) or check(x, axis))
    for seed in range(3):
        w = simplex.project(np.full((4, 19), float(seed)))
        simplex.waterfill(w, np.full(19, 1.0 + seed))
    assert traced == [(4, 19), (4, 19)]
