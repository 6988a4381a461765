"""Bad arguments: a ValueError at construction that names the argument and the first offender, never a wrong answer."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import zoo
from jax.experimental.sparse import BCOO

import jaxgame

jg: Any = jaxgame  # what follows is wrong on purpose: no type checker needs to say so
N, D = 7, 5  # no index below is 7 or 5: an index in a message is not the shape


def good():
    rng = np.random.default_rng(1)
    return dict(targets=rng.dirichlet(np.ones(D), N), kernel=ref.random_kernel(rng, D), appeal=rng.normal(size=(N, D)))


def alignment(**changes):
    return jg.AlignmentGame(
        **{k: jnp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in (good() | changes).items()}
    )


def quadratic(linear=None, curvature: Any = 1.0, coupling=None, **mean_field):
    coupling = jg.MeanField(np.eye(D), **mean_field) if coupling is None else coupling
    return jg.QuadraticGame(np.zeros((N, D)) if linear is None else linear, curvature, coupling=coupling)


def changed(array, index, value):
    array = np.array(array, float)
    array[index] = value
    return array


def ring():
    weights = np.zeros((N, N))
    weights[np.arange(N), (np.arange(N) + 1) % N] = 1.0
    return weights


def network_row(i, value):
    weights = ring()
    weights[i] *= value
    return weights


def sparse(weights):
    return BCOO.fromdense(jnp.asarray(weights))


ones, square, shares, blocks = np.ones(N), np.eye(D), np.full(N, 1 / N), np.tile(np.eye(D), (N, 1, 1))

# what is called, the argument that the message must name, the index that it must hold (None: no one entry is to blame)
CASES = {
    "targets off the simplex": (lambda: alignment(targets=changed(good()["targets"], (3, 2), 2.0)), "targets", (3,)),
    "targets negative": (lambda: alignment(targets=changed(good()["targets"], (3, 2), -0.1)), "targets", (3, 2)),
    "targets NaN": (lambda: alignment(targets=changed(good()["targets"], (3, 2), np.nan)), "targets", (3, 2)),
    "targets 1-D": (lambda: alignment(targets=np.full(D, 1 / D)), "targets", None),
    "targets 3-D": (lambda: alignment(targets=np.full((2, N, D), 1 / D)), "targets", None),
    "targets empty": (lambda: alignment(targets=np.zeros((0, D))), "targets", None),
    "kernel shape": (lambda: alignment(kernel=np.eye(D + 1)), "kernel", None),
    "kernel not square": (lambda: alignment(kernel=np.ones((D, D + 1))), "kernel", None),
    "kernel asymmetric": (lambda: alignment(kernel=changed(square, (1, 3), 0.5)), "kernel", (1, 3)),
    "kernel indefinite": (lambda: alignment(kernel=changed(square, (2, 2), -0.5)), "kernel", None),
    "kernel infinite": (lambda: alignment(kernel=changed(square, (4, 4), np.inf)), "kernel", (4, 4)),
    "appeal shape": (lambda: alignment(appeal=np.zeros((N, D + 1))), "appeal", None),
    "appeal infinite": (lambda: alignment(appeal=changed(good()["appeal"], (4, 1), -np.inf)), "appeal", (4, 1)),
    "appeal shared NaN": (lambda: alignment(appeal=changed(np.zeros(D), 3, np.nan)), "appeal", (3,)),
    "attractiveness negative": (lambda: alignment(attractiveness=changed(ones, 4, -1.0)), "attractiveness", (4,)),
    "attractiveness shape": (lambda: alignment(attractiveness=np.ones(N + 1)), "attractiveness", None),
    "attractiveness NaN": (lambda: alignment(attractiveness=float("nan")), "attractiveness", None),
    "consistency negative": (lambda: alignment(consistency=-1.0), "consistency", None),
    "consistency column": (lambda: alignment(consistency=np.ones((N, 1))), "consistency", None),
    "diversity NaN": (lambda: alignment(diversity=changed(ones, 6, np.nan)), "diversity", (6,)),
    "diversity_form": (lambda: alignment(diversity_form="pair"), "diversity_form", None),
    "consistency_metric": (lambda: alignment(consistency_metric="euclid"), "consistency_metric", None),
    "spread below the kernel": (lambda: alignment(spread=changed(np.full(D, 9.0), 2, 0.0)), "spread", (2,)),
    "spread shape": (lambda: alignment(spread=np.ones(N)), "spread", None),
    "reach negative": (lambda: alignment(reach=changed(changed(shares, 2, -1 / N), 1, 3 / N)), "reach", (2,)),
    "reach sum": (lambda: alignment(reach=np.full(N, 0.1)), "reach", None),
    "reach shape": (lambda: alignment(reach=np.ones(3) / 3), "reach", None),
    "network row sum": (lambda: alignment(coupling=jg.Network(network_row(4, 0.5))), "weights", (4,)),
    "network row sum, sparse": (lambda: alignment(coupling=jg.Network(sparse(network_row(4, 0.5)))), "weights", (4,)),
    "network negative": (
        lambda: alignment(coupling=jg.Network(changed(changed(ring(), (2, 4), -0.5), (2, 3), 1.5))),
        "weights",
        (2, 4),
    ),
    "network shape": (lambda: alignment(coupling=jg.Network(np.zeros((3, 3)))), "weights", None),
    "network with a matrix": (lambda: alignment(coupling=jg.Network(ring(), np.eye(D))), "B", None),
    "network diagonal": (lambda: jg.Network(changed(ring(), (4, 4), 0.5)), "weights", (4, 4)),
    "network diagonal, sparse": (lambda: jg.Network(sparse(changed(ring(), (4, 4), 0.5))), "weights", (4, 4)),
    "network not square": (lambda: jg.Network(np.zeros((3, 4))), "weights", None),
    "network NaN": (lambda: jg.Network(changed(ring(), (2, 6), np.nan)), "weights", (2, 6)),
    "network NaN, sparse": (lambda: jg.Network(sparse(changed(ring(), (2, 3), np.nan))), "weights", None),
    "alignment with a mean field": (lambda: alignment(coupling=jg.MeanField(np.eye(D))), "coupling", None),
    "linear shape": (lambda: quadratic(linear=np.zeros(D)), "linear", None),
    "linear NaN": (lambda: quadratic(linear=changed(np.zeros((N, D)), (6, 4), np.nan)), "linear", (6, 4)),
    "curvature shape": (lambda: quadratic(curvature=np.ones(N + 2)), "curvature", None),
    "curvature rows": (lambda: quadratic(curvature=np.ones((N, D))), "curvature", None),
    "curvature asymmetric": (lambda: quadratic(curvature=changed(square, (1, 3), 0.5)), "curvature", (1, 3)),
    "curvature one asymmetric": (lambda: quadratic(curvature=changed(blocks, (4, 1, 3), 0.5)), "curvature", (4, 1, 3)),
    "curvature infinite": (lambda: quadratic(curvature=changed(ones, 2, np.inf)), "curvature", (2,)),
    "diagonal shape": (lambda: quadratic(curvature=jg.Diagonal(np.ones(N))), "h", None),
    "diagonal NaN": (lambda: quadratic(curvature=jg.Diagonal(changed(np.ones(D), 3, np.nan))), "h", (3,)),
    "scaled q shape": (lambda: quadratic(curvature=jg.Scaled(np.ones(D), np.eye(D))), "q", None),
    "scaled Q asymmetric": (lambda: jg.Scaled(ones, changed(square, (0, 4), 0.5)), "Q", (0, 4)),
    "mean field B": (lambda: quadratic(coupling=jg.MeanField(np.eye(D + 1))), "B", None),
    "mean field B NaN": (lambda: jg.MeanField(changed(square, (3, 1), np.nan)), "B", (3, 1)),
    "mean field reach sum": (lambda: quadratic(reach=np.full(N, 0.2)), "reach", None),
    "mean field reach negative": (
        lambda: quadratic(reach=changed(changed(shares, 3, -1 / N), 1, 3 / N)),
        "reach",
        (3,),
    ),
    "mean field sensitivity": (lambda: quadratic(sensitivity=np.ones(N + 1)), "sensitivity", None),
    "mean field sensitivity NaN": (lambda: quadratic(sensitivity=changed(ones, 3, np.nan)), "sensitivity", (3,)),
    "network B": (lambda: quadratic(coupling=jg.Network(ring(), np.eye(D + 1))), "B", None),
    "dense shape": (lambda: quadratic(coupling=jg.Dense(np.zeros((N, N, D, D + 1)))), "B", None),
    "dense size": (lambda: quadratic(coupling=jg.Dense(np.zeros((N + 1, N + 1, D, D)))), "B", None),
    "dense NaN": (lambda: jg.Dense(changed(np.zeros((N, N, D, D)), (2, 6, 1, 3), np.nan)), "B", (2, 6, 1, 3)),
    "quadratic coupling": (lambda: quadratic(coupling="mean"), "coupling", None),
    "concave coupling": (lambda: jg.ConcaveGame(zoo.cubic, dict(scale=ones), D, coupling="crowd"), "coupling", None),
    "concave params": (
        lambda: jg.ConcaveGame(lambda p, w, o: p[0][0] * w[0] * p[1], (np.ones((N, 2)), np.ones(3)), D),
        "params",
        None,
    ),
    "concave params NaN": (
        lambda: jg.ConcaveGame(lambda p, w, o: p * w[0], changed(ones, 3, np.nan), D),
        "params",
        (3,),
    ),
    "concave vector": (lambda: jg.ConcaveGame(lambda p, w, o: p * w, ones, D), "utility", None),
    "concave network": (
        lambda: jg.ConcaveGame(lambda p, w, o: p * w[0], ones, D, coupling=jg.Network(network_row(4, 0.5))),
        "weights",
        (4,),
    ),
    "concave n_groups": (lambda: jg.ConcaveGame(lambda p, w, o: p * w[0], ones, 0), "n_groups", None),
    "init shape": (lambda: jg.solve(alignment(), init=jnp.full((N, D + 1), 1 / 6)), "init", None),
    "init NaN": (lambda: jg.solve(alignment(), init=changed(good()["targets"], (3, 2), np.nan)), "init", (3, 2)),
    "tol": (lambda: jg.solve(alignment(), tol=-1.0), "tol", None),
    "tol NaN": (lambda: jg.solve(alignment(), tol=float("nan")), "tol", None),
    "max_steps": (lambda: jg.solve(alignment(), max_steps=-1), "max_steps", None),
    "history": (lambda: jg.solve(alignment(), history="yes"), "history", None),
    "solver class, not object": (lambda: jg.solve(alignment(), jg.Newton), "solver", None),
    "solver by name": (lambda: jg.solve(alignment(), "newton"), "solver", None),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_argument(case):
    call, argument, index = CASES[case]
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert re.search(rf"(?<![A-Za-z]){argument}(?![A-Za-z])", message), message
    assert re.search(r"expected|must", message), message
    if index is not None:
        assert all(re.search(rf"(?<![\d.]){k}(?![\d.])", message) for k in index), message


def test_good_arguments_pass():
    """What the cases above change one thing of is fine itself, and so is the contract's slack."""
    alignment()
    quadratic()
    alignment(coupling=jg.Network(ring()))
    alignment(coupling=jg.Network(sparse(ring())))
    alignment(targets=good()["targets"] * (1 + 5e-9), kernel=np.zeros((D, D)), diversity=-1.0)
    alignment(kernel=square + 1e-15 * np.arange(D)[None, :])
    quadratic(curvature=-1.0)  # not concave: reported, no error
    alignment(coupling=jg.Network(network_row(4, 0.0)))  # meets no one


def test_rows_are_renormalised():
    game = alignment(targets=good()["targets"] * (1 + 5e-9))
    np.testing.assert_allclose(game.targets.sum(axis=1), 1, atol=4e-16)


def test_row_tolerance_is_that_of_the_dtype():
    with pytest.raises(ValueError, match="targets"):
        alignment(targets=good()["targets"] * (1 + 1e-6))
    single = {k: jnp.asarray(v, jnp.float32) for k, v in good().items()}
    single["targets"] = single["targets"] * jnp.float32(1 + 1e-5)
    assert jg.AlignmentGame(**single).targets.dtype == jnp.float32


def test_misspelt_options_are_errors():
    with pytest.raises(TypeError, match="diversty"):
        jg.AlignmentGame(**good(), diversty=1.0)
    with pytest.raises(TypeError, match="max_step"):
        jg.solve(alignment(), max_step=10)


def test_tracers_are_checked_for_shape_only():
    """Under jit values are unknown: bad ones pass (and give a status), a wrong shape still raises."""
    parts = {k: jnp.asarray(v) for k, v in good().items()}
    build = jax.jit(lambda appeal: jg.AlignmentGame(parts["targets"], parts["kernel"], appeal).appeal)
    assert np.isnan(build(jnp.full((N, D), jnp.nan))).all()
    with pytest.raises(ValueError, match="appeal"):
        build(jnp.zeros((N, D + 1)))


def test_closing_over_a_tracer_says_what_to_do():
    """A utility that closes over a traced number either works or is refused with a pointer to `params`."""

    @jax.jit
    def share(x):
        return jg.solve(jg.ConcaveGame(lambda p, w, o: p * x * w[0] - 0.5 * w @ w, jnp.ones(2), 3)).representation

    try:
        found = share(0.3)
    except Exception as error:  # noqa: BLE001  the type is JAX's business; the words are ours
        assert "params" in str(error)
    else:
        np.testing.assert_allclose(found, ref.project(np.array([0.3, 0, 0])), atol=1e-8)
