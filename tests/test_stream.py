"""Populations that are read in blocks: the same answers as in memory, and nothing lost when something breaks."""

import json
import os
import shutil
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import jaxgame as jg
from jaxgame.cli import app
from jaxgame.solvers.scale import measure
from jaxgame.streaming import passes
from jaxgame.streaming import solve as streaming

N, D, BLOCK = 30_000, 6, 1024
BLOCKS = -(-N // BLOCK)


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(5)
    return {
        "linear": rng.normal(size=(N, D)),
        "curvature": rng.uniform(0.5, 1.5, N),
        "coupling.sensitivity": rng.uniform(0.2, 1, N),
        "coupling.reach": rng.dirichlet(np.ones(N) * 5),
    }


@pytest.fixture(scope="module")
def shared():
    B = np.random.default_rng(6).normal(size=(D, D))
    return {"coupling.B": (B @ B.T + B - B.T) / D}


@pytest.fixture(scope="module")
def written(arrays, shared, tmp_path_factory):
    """A folder that nobody changes."""
    return write(tmp_path_factory.mktemp("population"), "quadratic", arrays, shared)


@pytest.fixture(scope="module")
def whole(written):
    """The answer of a solve that nothing disturbs."""
    return jg.solve_stream(jg.open_stream(written, block_agents=BLOCK))


def write(folder, kind, arrays, shared):
    for name, x in arrays.items():
        np.save(folder / f"{name}.npy", x)
    plain = {name: np.asarray(x).tolist() for name, x in shared.items()}
    (folder / "population.json").write_text(json.dumps({"kind": kind, **plain}))
    return folder


def profile_of(found):
    return np.concatenate([found.profile_block(k) for k in range(found.stream.n_blocks)])


def same(found, other):
    assert np.array_equal(found.aggregate, other.aggregate)
    assert np.array_equal(found.representation, other.representation)
    assert (found.residual, found.gap, found.passes) == (other.residual, other.gap, other.passes)
    assert np.array_equal(found.history, other.history)


def interrupting(monkeypatch, call, error):
    """The answer to one block is an error, once."""
    plain, calls = streaming.answered, iter(range(10**6))

    def answered(*arguments):
        if next(calls) == call:
            raise error
        return plain(*arguments)

    monkeypatch.setattr(streaming, "answered", answered)


def test_same_answer_as_in_memory(arrays, shared, whole, tmp_path):
    coupling = jg.MeanField(
        shared["coupling.B"], sensitivity=arrays["coupling.sensitivity"], reach=arrays["coupling.reach"]
    )
    expected = jg.solve(jg.QuadraticGame(arrays["linear"], arrays["curvature"], coupling=coupling))
    assert whole.converged and whole.residual <= 1e-10, whole.message
    np.testing.assert_allclose(whole.representation, expected.representation, atol=1e-10)
    whole.write_profile(tmp_path / "out" / "profile.npy")
    profile = np.load(tmp_path / "out" / "profile.npy")
    np.testing.assert_allclose(profile, expected.profile, atol=1e-10)
    assert np.array_equal(profile[BLOCK * (BLOCKS - 1) :], whole.profile_block(BLOCKS - 1))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["profile.npy"]
    # Bounds, not estimates.
    proof = jg.certify(expected.game, profile)
    assert whole.gap >= float(proof.exploitability.max()) - 1e-14
    assert whole.residual >= float(proof.residual) - 1e-15
    assert 2 <= whole.passes <= 6 and len(whole.history) == whole.passes


def test_blocks_from_a_function(rng):
    """Whole blocks only, of matrix curvature, with a reach that is not what agents meet."""
    n, block = 3000, 700
    kernel = np.exp(-((np.arange(4)[:, None] - np.arange(4)) ** 2) / 2)
    parts = {
        "targets": rng.dirichlet(np.ones(4), n),
        "appeal": rng.normal(size=(n, 4)),
        "attractiveness": rng.uniform(0.1, 0.3, n),
        "reach": rng.dirichlet(np.ones(n) * 5),
    }
    game = jg.AlignmentGame(parts["targets"], kernel, parts["appeal"], diversity=0.25, **dict(list(parts.items())[2:]))
    expected = jg.solve(game, jg.Newton())

    def read(start, stop):
        assert start % block == 0 and stop in (start + block, n)
        return {name: x[start:stop] for name, x in parts.items()}

    stream = jg.Stream("alignment", n, read, {"kernel": kernel, "diversity": 0.25}, block_agents=block)
    found = jg.solve_stream(stream)
    assert found.converged, found.message
    np.testing.assert_allclose(found.representation, expected.representation, atol=1e-10)
    np.testing.assert_allclose(profile_of(found), expected.profile, atol=1e-9)


@pytest.mark.slow
@pytest.mark.float32
def test_single_precision_adds_up(dtype):
    """Sums over blocks are in double precision: a million agents are shown as well as one."""
    n, block = 2**20, 2**17

    def read(start, stop):
        return {"linear": np.random.default_rng(start).normal(size=(stop - start, 4)).astype(np.float32)}

    shared = {"curvature": 1.0, "coupling.B": np.eye(4)}
    found = jg.solve_stream(jg.Stream("quadratic", n, read, shared, block_agents=block))
    assert found.converged and found.residual <= 1e-6, found.message
    assert found.representation.dtype == np.float32 and found.profile_block(0).dtype == np.float32
    profile = profile_of(found)
    shown = profile.sum(0, dtype=np.float64) / n
    np.testing.assert_allclose(found.representation, shown, atol=2e-8)
    if dtype == np.float64:
        # What single precision proves is so in double precision.
        linear = np.concatenate([read(start, start + block)["linear"] for start in range(0, n, block)])
        game = jg.QuadraticGame(linear.astype(dtype), 1.0, coupling=jg.MeanField(np.eye(4)))
        profile = jnp.asarray(profile, dtype)
        assert float(measure(game, dtype).residual(profile, game.marginals(profile))) <= found.residual


KILLED = """
import os, signal, sys
import jax
jax.config.update("jax_enable_x64", True)
from jaxgame.streaming import open_stream, solve, solve_stream
plain, calls = solve.answered, iter(range(10**6))
def answered(*arguments):
    if next(calls) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(*arguments)
solve.answered = answered
solve_stream(open_stream(sys.argv[1], block_agents=1024), checkpoint=sys.argv[2], every=0)
"""


def test_killed_in_the_middle_of_a_pass(written, whole, tmp_path, monkeypatch):
    call = BLOCKS + 17
    process = subprocess.run([sys.executable, "-c", KILLED, written, tmp_path / "at", str(call)], capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    plain, done = streaming.answered, []
    monkeypatch.setattr(streaming, "answered", lambda *arguments: done.append(0) or plain(*arguments))
    stream = jg.open_stream(written, block_agents=BLOCK)
    same(jg.solve_stream(stream, checkpoint=tmp_path / "at"), whole)
    assert len(done) == whole.passes * BLOCKS - call
    same(jg.solve_stream(stream, checkpoint=tmp_path / "at"), whole)  # at once
    assert len(done) == whole.passes * BLOCKS - call


def test_interrupted(written, whole, tmp_path, monkeypatch):
    stream = jg.open_stream(written, block_agents=BLOCK)
    interrupting(monkeypatch, BLOCKS + 9, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt, match="pass 2 after 9 blocks; the same call goes on"):
        jg.solve_stream(stream, checkpoint=tmp_path)
    monkeypatch.setattr(streaming, "advanced", lambda *arguments: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match=f"pass 2 after {BLOCKS} blocks"):
        jg.solve_stream(stream, checkpoint=tmp_path)
    monkeypatch.undo()
    same(jg.solve_stream(stream, checkpoint=tmp_path), whole)


def test_out_of_passes(written, whole, tmp_path):
    """It goes on when more are allowed."""
    stream = jg.open_stream(written, block_agents=BLOCK)
    first = jg.solve_stream(stream, max_passes=1, checkpoint=tmp_path)
    assert not first.converged and first.passes == 1 and "raise max_passes" in first.message
    found = jg.solve_stream(stream, checkpoint=tmp_path)
    assert found.converged and found.passes == whole.passes
    np.testing.assert_allclose(found.representation, whole.representation, atol=1e-12)


def test_damaged_checkpoint(written, whole, tmp_path, monkeypatch):
    """The one before is taken; if none is left, that is said."""
    stream = jg.open_stream(written, block_agents=BLOCK)
    interrupting(monkeypatch, BLOCKS + 9, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        jg.solve_stream(stream, checkpoint=tmp_path)
    steps = sorted((path for path in tmp_path.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    assert len(steps) == 2
    damage(steps[-1])
    same(jg.solve_stream(stream, checkpoint=tmp_path), whole)
    for path in tmp_path.iterdir():
        damage(path)
    with pytest.raises(ValueError, match="no checkpoint can be read"):
        jg.solve_stream(stream, checkpoint=tmp_path)


def damage(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)


def test_checkpoint_of_another_population(written, shared, arrays, tmp_path):
    def stream(**changes):
        parts = {**arrays, **changes}
        return jg.Stream("quadratic", N, lambda a, b: {k: x[a:b] for k, x in parts.items()}, shared, block_agents=BLOCK)

    jg.solve_stream(stream(), max_passes=1, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"of another population \(first agent differ"):
        jg.solve_stream(stream(linear=arrays["linear"] + 1e-9 * np.eye(N, D)), checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"of another population \(files differ"):
        jg.solve_stream(jg.open_stream(written, block_agents=BLOCK), checkpoint=tmp_path)


def test_not_a_number_in_a_block(arrays, shared, whole, tmp_path):
    """Named; and if the next time it is read well, nothing was lost."""
    linear = arrays["linear"].copy()
    linear[17 * BLOCK + 5, 2] = np.nan
    visits = iter(range(10**6))

    def read(start, stop):
        rows = {name: x[start:stop] for name, x in arrays.items()}
        # In the second pass.
        if start == 17 * BLOCK and next(visits) == 1:
            rows["linear"] = linear[start:stop]
        return rows

    stream = jg.Stream("quadratic", N, read, shared, block_agents=BLOCK, anywhere=True)
    with pytest.raises(ValueError, match=r"block 17 \(agents 17,408 to 18,431\): linear\[17413, 2\] is nan"):
        jg.solve_stream(stream, checkpoint=tmp_path)
    same(jg.solve_stream(stream, checkpoint=tmp_path), whole)


def test_files_that_are_wrong(arrays, shared, written, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(written, folder)
    os.truncate(folder / "linear.npy", (folder / "linear.npy").stat().st_size - 8)
    with pytest.raises(ValueError, match="linear.npy is cut short"):
        jg.open_stream(folder)
    shutil.copy(written / "linear.npy", folder)
    stream = jg.open_stream(folder, block_agents=BLOCK)
    os.truncate(folder / "curvature.npy", 8 * 18 * BLOCK)
    with pytest.raises(ValueError, match="curvature.npy is cut short: it ends within agents 17,408 to 18,431"):
        stream.block(17)
    np.save(folder / "curvature.npy", arrays["curvature"][:-1])
    with pytest.raises(ValueError, match="rows"):
        jg.open_stream(folder)
    np.save(folder / "curvature.npy", np.arange(N))
    with pytest.raises(ValueError, match="int64"):
        jg.open_stream(folder)
    (folder / "curvature.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="not an npy array"):
        jg.open_stream(folder)
    (folder / "curvature.npy").unlink()
    with pytest.raises(ValueError, match="curvature is given by"):
        jg.open_stream(folder)
    (folder / "population.json").write_text('{"kind": "quadratic", ')
    with pytest.raises(ValueError, match="not JSON"):
        jg.open_stream(folder)


def test_arguments_that_are_wrong(arrays, shared):
    def stream(kind="quadratic", common=shared, **changes):
        parts = {**arrays, **changes}
        return jg.Stream(kind, 100, lambda a, b: {k: x[a:b] for k, x in parts.items()}, common)

    with pytest.raises(ValueError, match="kind is 'other'"):
        stream("other")
    with pytest.raises(ValueError, match="did you mean"):
        stream(lineal=arrays["linear"])
    with pytest.raises(ValueError, match="both as shared and by agent"):
        stream(common={**shared, "curvature": 1.0})
    with pytest.raises(ValueError, match="coupling.B is missing"):
        stream(common={})
    with pytest.raises(ValueError, match=r"coupling.reach\[0\] is -"):
        stream(**{"coupling.reach": -arrays["coupling.reach"]})
    with pytest.raises(ValueError, match="tol is 0"):
        jg.solve_stream(stream(), tol=0)
    targets = np.full((100, 2), 0.5)
    targets[7, 0] = 0.6
    with pytest.raises(ValueError, match=r"block 0 .*: the sum of targets\[7\] is 1.1"):
        jg.Stream("alignment", 100, lambda a, b: {"targets": targets[a:b]}, {"kernel": np.eye(2), "appeal": [0, 1.0]})


def test_command(written, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    words = ["stream", str(written), "--block", str(BLOCK), "--checkpoint", str(tmp_path / "at")]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out"), "--profile"])
    assert result.exit_code == 0 and whole.message in " ".join(result.output.split())
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["equilibrium"]["residual"] == whole.residual
    assert np.load(tmp_path / "out" / "profile.npy", mmap_mode="r").shape == (N, D)
    assert CliRunner().invoke(app, ["stream", str(tmp_path)]).exit_code == 2
    help = CliRunner().invoke(app, ["stream", "--help"]).output
    assert "population.json" in help and "the same command goes on from there" in " ".join(help.split())


PEAK = """
import resource, sys
from jaxgame.streaming import open_stream, solve_stream
assert solve_stream(open_stream(sys.argv[1])).converged
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow(tmp_path):
    peaks = []
    for n in (2**20, 2**23):
        folder = tmp_path / str(n)
        folder.mkdir()
        linear = np.lib.format.open_memmap(folder / "linear.npy", "w+", np.float32, (n, 8))
        for k in range(0, n, 2**18):
            linear[k : k + 2**18] = np.random.default_rng(k).normal(size=(2**18, 8))
        del linear
        write(folder, "quadratic", {}, {"curvature": 1.0, "coupling.B": np.eye(8)})
        done = subprocess.run([sys.executable, "-c", PEAK, folder], capture_output=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 50 and peaks[1] < 1024, peaks


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mixtures_are_those_of_the_pass(dtype):
    """Rough answers to ill-conditioned curvature depend on where they begin; what a pass proves is of its own."""
    rng = np.random.default_rng(7)
    basis = np.linalg.qr(rng.normal(size=(BLOCK, D, D)))[0]
    curvature = np.einsum("nde,e,nfe->ndf", basis, np.geomspace(1, 1e-3, D), basis)
    rows = {"linear": 0.3 * rng.normal(size=(BLOCK, D)), "curvature": (curvature + np.swapaxes(curvature, 1, 2)) / 2}
    rows = {name: x.astype(dtype) for name, x in rows.items()}
    stream = jg.Stream("quadratic", BLOCK, lambda i, j: {k: x[i:j] for k, x in rows.items()}, {"coupling.B": np.eye(D)})
    aggregate, tol = np.full(D, 1 / D, dtype), np.asarray(1e-2, dtype)
    block = (stream.form, stream.numbers, rows)
    found = passes.answered(*block, np.asarray(BLOCK), aggregate, tol, np.asarray(-1, dtype))
    profile = np.asarray(passes.mixtures(*block, aggregate, tol))
    np.testing.assert_allclose(profile.mean(0), found.total, atol=20 * np.finfo(dtype).eps)


def test_a_sample_without_reach():
    """The representation is that of two agents, whom no sample holds."""
    rng = np.random.default_rng(8)
    reach = np.zeros(N)
    reach[[811, 813]] = 0.5
    rows = {"linear": rng.normal(size=(N, D)), "curvature": np.ones(N), "coupling.reach": reach}
    stream = jg.Stream(
        "quadratic", N, lambda i, j: {k: x[i:j] for k, x in rows.items()}, {"coupling.B": 0.3 * np.eye(D)}, BLOCK
    )
    found = jg.solve_stream(stream)
    assert found.converged, found.message
    shown = np.concatenate([found.profile_block(k) for k in range(BLOCKS)])[[811, 813]].mean(0)
    np.testing.assert_allclose(found.representation, shown, atol=1e-10)
