"""Sweeps: against one solve a point, honest about what fails or is not unique, resumed to the same file."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

import jaxgame as jg
from jaxgame.certificate.certify import prove_unique
from jaxgame.certificate.uniqueness import is_monotone
from jaxgame.maps import store
from jaxgame.maps.routes import branch_routes, main_route

N, D = 4, 3


@pytest.fixture(scope="module")
def build():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(D, D))
    kernel, targets, appeal = X @ X.T / D + 0.1 * np.eye(D), rng.dirichlet(np.ones(D), N), rng.normal(size=(N, D))
    dtype = jnp.zeros(()).dtype

    def build(attractiveness, diversity):
        arrays = (jnp.asarray(x, dtype) for x in (targets, kernel, appeal))
        return jg.AlignmentGame(*arrays, attractiveness=attractiveness, diversity=diversity)

    return build


AXES = {"attractiveness": np.linspace(0, 0.5, 5), "diversity": np.linspace(-0.5, 6, 19)}


@pytest.fixture(scope="module")
def swept(build):
    return jg.sweep(build, AXES, groups=["a", "b", "c"])


@pytest.mark.float32
def test_every_point_is_the_equilibrium_that_one_solve_finds(build, dtype):
    axes = {"attractiveness": np.linspace(0, 0.5, 5), "diversity": np.linspace(-0.3, 1, 19)}
    found = jg.sweep(build, axes)
    assert found.representation.shape == found.excluded.shape == (5, 19, D)
    assert found.representation.dtype == found.residual.dtype == dtype
    assert found.unique.all() and (found.disagreement == 0).all() and (found.status == 0).all()
    slack = 1e-9 if dtype == np.float64 else 1e-4
    for k in range(0, 95, 7):
        i, j = np.unravel_index(k, (5, 19))
        game = build(axes["attractiveness"][i], axes["diversity"][j])
        alone = jg.solve(game)
        np.testing.assert_allclose(found.representation[i, j], alone.representation, atol=slack)
        np.testing.assert_allclose(found.signed[i, j], np.asarray(alone.signed).max(0), atol=10 * slack)
        assert found.exploitability[i, j] <= 100 * slack
        np.testing.assert_array_equal(found.excluded[i, j], jg.excluded(alone))
    assert (found.signed < 0).any() and (found.signed > 0).any()


@pytest.mark.float32
@pytest.mark.parametrize("form", ["pairwise", "centroid"])
@pytest.mark.parametrize("metric", ["response", "mixture"])
def test_proofs_of_uniqueness_agree_with_the_certificate(form, metric, dtype):
    rng = np.random.default_rng(5)
    agreed = []
    prove = jax.jit(lambda game: is_monotone(game.affine()))
    for trial in range(24):
        X = rng.normal(size=(4, 4))
        delta = rng.uniform(-1, 2) if trial % 3 else rng.uniform(0.05, 1.5, 5)
        targets, kernel = (np.asarray(x, dtype) for x in (rng.dirichlet(np.ones(4), 5), X @ X.T + 0.1 * np.eye(4)))
        delta = np.asarray(delta, dtype)
        none = np.zeros(4, dtype)
        game = jg.AlignmentGame(targets, kernel, none, diversity=delta, diversity_form=form, consistency_metric=metric)
        weights, proved = prove_unique(game)
        ours = bool(prove(game))
        assert proved or not ours  # never claimed without a proof
        agreed.append(proved == ours)
    assert np.mean(agreed) >= 0.85  # the certificate tries more weights


def test_a_game_that_is_not_monotone_is_not_proved_to_be(rng):
    own, meet = jnp.eye(2)[None] * jnp.ones((6, 1, 1)), jnp.eye(2)
    for sensitivity, unique in ((-0.5, True), (-0.999, True), (-1.001, False), (-4.0, False)):
        coupling = jg.MeanField(meet, sensitivity=sensitivity, atomic=False)
        game = jg.QuadraticGame(jnp.zeros((6, 2)), own, coupling=coupling)
        assert bool(is_monotone(game.affine())) == unique


def test_routes_visit_every_point_once_and_warm_only_where_it_is_safe(rng):
    for shape in ((5,), (3, 40), (2, 3, 17)):
        unique = rng.random(shape) < 0.7
        route = main_route(shape, unique.reshape(-1))
        visited = np.bincount(route.points[route.counts], minlength=unique.size)
        assert (visited == 1).all()
        assert unique.reshape(-1)[route.points[route.warm]].all()
        for part in route.split(4):
            assert len(part.points) <= 4
        parts = [part.points[part.counts] for part in route.split(4)]
        assert sorted(np.concatenate(parts)) == list(range(unique.size))
        for other in branch_routes(shape, unique.reshape(-1), 2):
            seen = other.points[other.counts]
            assert sorted(seen) == sorted(np.flatnonzero(~unique))
            if other.kind.startswith("axis"):  # neighbours along that axis, unless padding repeats the last
                index = np.array(np.unravel_index(other.points, shape))
                moves = np.abs(np.diff(index, axis=-1))
                axis = int(other.kind.split()[1])
                assert (np.delete(moves, axis, 0) == 0).all() and (moves[axis] <= 1).all()


def test_where_several_equilibria_exist_the_sweep_says_so():
    # Two agents that love to differ: with strong diversity each may take either group.
    def build(diversity):
        return jg.AlignmentGame(jnp.full((2, 2), 0.5), jnp.eye(2), jnp.zeros(2), diversity=diversity)

    def tilted(diversity, appeal):
        game = build(diversity)
        return game.replace(appeal=jnp.stack([appeal, -appeal]), reach=jnp.asarray([0.9, 0.1]))

    found = jg.sweep(tilted, {"diversity": np.linspace(0.1, 3, 7), "appeal": np.array([0.0, 0.01])})
    strong = np.asarray(found.axes["diversity"]) > 1.0
    assert found.unique[~strong].all() and not found.unique[strong].any()
    assert (found.disagreement[~strong] == 0).all()
    # γ < δ: one agent at each end, two ways round; with reach 0.9 and 0.1 the representations are far apart.
    assert (found.disagreement[np.asarray(found.axes["diversity"]) > 1.6] > 0.3).all()
    assert "not proved to be the only one" in found.message and "others were found" in found.message
    quick = jg.sweep(build, {"diversity": np.linspace(0.1, 3, 7)}, starts=None)
    assert np.isnan(quick.disagreement[~quick.unique]).all()
    assert "others were not looked for" in quick.message and "found" not in quick.message
    # Without the tilt all equilibria are represented alike, ½ and ½, by agents in the middle or at the ends.
    alike = jg.sweep(build, {"diversity": np.linspace(0.1, 3, 7)})
    np.testing.assert_allclose(alike.representation, 0.5, atol=1e-6)
    assert (alike.disagreement[alike.axes["diversity"] > 1.6] > 0.3).all() and "others were found" in alike.message


def test_a_failed_point_is_visible_and_spoils_no_other():
    def build(scale, shift):
        linear = jnp.where(scale > 0.55, jnp.nan, shift) * jnp.arange(3.0)[None] * jnp.ones((4, 1))
        return jg.QuadraticGame(linear, 1.0, coupling=jg.MeanField(0.1 * jnp.eye(3)))

    found = jg.sweep(build, {"shift": np.linspace(0, 1, 3), "scale": np.linspace(0, 1, 6)})
    bad = np.asarray(found.axes["scale"]) > 0.55
    assert np.isnan(found.representation[:, bad]).all() and (found.status[:, bad] == 2).all()
    assert not found.excluded[:, bad].any()
    assert np.isfinite(found.representation[:, ~bad]).all() and (found.status[:, ~bad] == 0).all()
    assert "9 failed (9 not finite)" in found.message


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"attractiveness": [0, 1], "loyalty": [0, 1]}, "axis 'loyalty' is no parameter of build"),
        ({"attractiveness": [0, 1]}, "build needs 'diversity'"),
        ({"attractiveness": [0.0], "diversity": [0, 1]}, "'attractiveness' has 1 point, expected at least two"),
        ({"attractiveness": [0, np.nan], "diversity": [0, 1]}, r"'attractiveness'\[1\] is nan"),
        (
            {"attractiveness": [0, 2, 1], "diversity": [0, 1]},
            r"'attractiveness'\[2\] is 1 after 2, expected increasing",
        ),
        ({"attractiveness": [[0, 1]], "diversity": [0, 1]}, r"has shape \(1, 2\)"),
        ({"attractiveness": np.arange(1e6), "diversity": np.arange(1e6)}, r"1,000,000,000,000 points .*TB"),
        ({"attractiveness": ["a", "b"], "diversity": [0, 1]}, "'attractiveness': expected numbers"),
        ({"attractiveness": [0, 1 + 1j], "diversity": [0, 1]}, "'attractiveness': expected numbers.*complex"),
        ({}, "expected a dict"),
    ],
)
def test_bad_axes_are_named(build, axes, words):
    with pytest.raises(ValueError, match=words):
        jg.sweep(build, axes)


def test_selection_by_name(swept):
    one = swept.sel(attractiveness=0.26)
    assert list(one.axes) == ["diversity"] and one.shape == (19,)
    np.testing.assert_array_equal(one.representation, swept.representation[2])
    two = swept.sel(diversity=slice(0, 1), attractiveness=[0, 0.5])
    inside = (AXES["diversity"] >= 0) & (AXES["diversity"] <= 1)
    np.testing.assert_array_equal(two.residual, swept.residual[[0, 4]][:, inside])
    point = swept.sel(attractiveness=0, diversity=6)
    assert point.shape == () and point.representation.shape == (D,) and "1 point, 1 of them" in point.message
    with pytest.raises(ValueError, match="'loyalty' is no axis"):
        swept.sel(loyalty=1)
    with pytest.raises(ValueError, match="within the axis"):
        swept.sel(attractiveness=0.7)


def test_saved_and_loaded_it_is_the_same(swept, tmp_path):
    swept.save(tmp_path / "a")
    again = jg.Sweep.load(tmp_path / "a")
    assert list(again.axes) == list(swept.axes) and again.groups == ("a", "b", "c")
    for name in ("representation", "signed", "residual", "status", "unique", "disagreement"):
        np.testing.assert_array_equal(getattr(again, name), getattr(swept, name))
    with np.load(tmp_path / "a") as file:
        assert "largest signed share" in json.loads(str(file["meta"]))["arrays"]["signed"]
    (tmp_path / "b").write_bytes(b"PK\x03\x04 no")
    np.savez(tmp_path / "c.npz", x=1)
    for name in ("b", "c.npz"):
        with pytest.raises(ValueError, match=r"no saved sweep|pickled"):
            jg.Sweep.load(tmp_path / name)


def test_xarray_has_the_names(swept):
    data = swept.to_xarray()
    assert isinstance(data, xarray.Dataset) and data.representation.dims == ("attractiveness", "diversity", "group")
    assert (
        float(data.representation.sel(attractiveness=0, group="b", method=None).isel(diversity=0))
        == swept.representation[0, 0, 1]
    )


def test_without_xarray_the_error_says_what_to_install(swept, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match="pip install xarray"):
        swept.to_xarray()


def test_an_interrupted_sweep_goes_on_where_it_was(build, tmp_path, swept):
    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jg.sweep(build, AXES, groups=["a", "b", "c"], out=tmp_path, progress=stop)
    kept = list((tmp_path / store.UNFINISHED).glob("*.npz"))
    assert kept and not (tmp_path / "sweep.npz").exists()
    with pytest.raises(ValueError, match="parts of another sweep"):
        jg.sweep(build, {**AXES, "diversity": np.linspace(0, 1, 19)}, out=tmp_path)
    kept[0].write_bytes(b"damaged")
    seen = []
    jg.sweep(build, AXES, groups=["a", "b", "c"], out=tmp_path, progress=lambda *at: seen.append(at))
    whole = jg.Sweep.load(tmp_path / "sweep.npz")
    np.testing.assert_array_equal(whole.representation, swept.representation)
    assert not (tmp_path / store.UNFINISHED).exists() and seen[-1][0] == seen[-1][1]
    again = jg.sweep(build, AXES, groups=["a", "b", "c"], out=tmp_path, progress=lambda *_: pytest.fail("solved anew"))
    np.testing.assert_array_equal(again.representation, swept.representation)


SCRIPT = """
import sys
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
import jaxgame as jg
from jaxgame.maps import follow
follow.LANES = 8
rng = np.random.default_rng(0)
T, A = rng.dirichlet(np.ones(4), 6), rng.normal(size=(6, 4))
build = lambda appeal, diversity: jg.AlignmentGame(T, np.eye(4) + 0.2, A * appeal, diversity=diversity)
axes = {"appeal": np.linspace(0, 1, 40), "diversity": np.linspace(0, 0.5, 40)}
report = lambda done, total: print(done, total, flush=True)
print(jg.sweep(build, axes, out=sys.argv[1], progress=report).message)
"""


@pytest.mark.slow
def test_killed_in_the_middle_it_ends_in_the_same_file(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)

    def run(folder, kill):
        command = [sys.executable, "script.py", folder]
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                done = line.split()[0]
                if kill and done.isdigit() and int(done) > 200:
                    process.send_signal(signal.SIGKILL)
                    break
            process.stdout.read()
        return process.returncode

    assert run("whole", kill=False) == 0
    assert run("killed", kill=True) == -signal.SIGKILL
    parts = list((tmp_path / "killed" / store.UNFINISHED).glob("main-*.npz"))
    assert parts and not (tmp_path / "killed" / "sweep.npz").exists()
    newest = max(path.stat().st_mtime_ns for path in parts)
    time.sleep(0.01)
    assert run("killed", kill=False) == 0
    assert (tmp_path / "killed" / "sweep.npz").stat().st_mtime_ns > newest
    assert (tmp_path / "killed" / "sweep.npz").read_bytes() == (tmp_path / "whole" / "sweep.npz").read_bytes()


@pytest.mark.slow
def test_other_kinds_of_games(rng):
    # A network, where nothing is aggregative, and utilities that are not quadratic.
    weights = np.array([[0, 1, 0], [0.5, 0, 0.5], [0, 1, 0]])
    linear = rng.normal(size=(3, 3))
    network = lambda a: jg.QuadraticGame(a * linear, 1.0, coupling=jg.Network(weights, 0.3 * np.eye(3)))  # noqa: E731
    found = jg.sweep(network, {"a": np.linspace(0, 1, 4)})
    assert found.unique.all() and found.converged.all()
    for a, shown in zip(found.axes["a"], found.representation, strict=True):
        np.testing.assert_allclose(shown, jg.solve(network(a)).representation, atol=1e-9)

    def utility(params, mixture, others):
        return params @ mixture - 0.5 * (mixture**2).sum() - 0.1 * (mixture**4).sum()

    concave = lambda a: jg.ConcaveGame(utility, a * linear, 3)  # noqa: E731
    found = jg.sweep(concave, {"a": np.linspace(0, 1, 3)}, starts=1)
    assert not found.unique.any() and (found.disagreement < 1e-6).all()
