"""Populations on many devices, in processes of their own: what is found, and what is sent."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxgame as jg
from jaxgame import launch
from jaxgame.solvers import parts

HERE = Path(__file__).parent
WORKER = str(HERE / "sharding_worker.py")


def run(*command, devices=1):
    flags = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}"
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | dict(XLA_FLAGS=flags, PYTHONPATH=path, JAX_PLATFORMS="cpu")
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["scalar", "paid", "alignment", pytest.param("scaled", marks=pytest.mark.slow)])
def test_eight_devices_agree_with_one_and_gather_nothing(name):
    assert f"{name} ok" in run(WORKER, "one_process", name, devices=8)


@pytest.mark.parametrize("name", ["scalar", pytest.param("alignment", marks=pytest.mark.slow)])
def test_derivatives_on_eight_devices(name):
    assert f"{name} ok" in run(WORKER, "derivatives", name, devices=8)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["crowd", "steering", "transformations"])
def test_on_eight_devices(case):
    assert f"{case} ok" in run(WORKER, case, devices=8)


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_agree_with_one(count):
    """Through the launcher, each with its own part of the population."""
    printed = run("-m", "jaxgame.launch", "-n", str(count), WORKER, "many_processes")
    assert all(f"[{rank}] process {rank} of {count} ok" in printed for rank in range(count))


def test_arrays_of_agents_are_known_by_name():
    """Those whose shape follows the number of agents, for every way to build a game."""
    for n, n_groups in ((6, 3), (4, 4)):
        rng = np.random.default_rng(0)
        linear, square, reach = rng.normal(size=(n, n_groups)), np.eye(n_groups), np.full(n, 1 / n)
        coupling = jg.MeanField(square, sensitivity=reach)
        curvatures = {
            0.5: 0,
            "agents": reach,
            "shared": square,
            "all": np.stack([square] * n),
            "diagonal": jg.Diagonal(np.ones(n_groups)),
            "diagonals": jg.Diagonal(np.ones((n, n_groups))),
            "scaled": jg.Scaled(reach, square),
        }
        games = [jg.QuadraticGame(linear, curvature, coupling=coupling) for curvature in curvatures.values()]
        targets = rng.dirichlet(np.ones(n_groups), n)
        games += [
            jg.AlignmentGame(targets, square, np.ones(n_groups)),
            jg.AlignmentGame(targets, square, linear, attractiveness=reach, consistency=reach, diversity=reach),
        ]
        of_agents = ("linear", "targets", "appeal", "sensitivity", "reach", "q")
        for kind, game in zip([*curvatures, "alignment", "alignments"], games, strict=True):
            for path, leaf in jax.tree.leaves_with_path(game):
                name = path[-1].name
                expected = (
                    name in of_agents
                    or name in ("attractiveness", "consistency", "diversity")
                    and kind == "alignments"
                    or name == "curvature"
                    and kind in ("agents", "all")
                    or name == "h"
                    and kind == "diagonals"
                )
                assert (parts.spec(path, leaf) == parts.P("agents")) == expected, (kind, name)


def test_shard_says_what_it_cannot_do():
    game = jg.QuadraticGame(np.zeros((3, 2)), 1.0, coupling=jg.Network(np.zeros((3, 3))))
    with pytest.raises(ValueError, match="game is QuadraticGame, expected .* meet through a mean"):
        jg.shard(game)
    game = jg.QuadraticGame(np.zeros((3, 2)), 1.0, coupling=jg.MeanField(np.eye(2)))
    with pytest.raises(ValueError, match=r"mesh has the axes \('x',\), expected one named \"agents\""):
        jg.shard(game, jax.make_mesh((1,), ("x",)))
    assert jg.shard(game).linear.sharding.spec == parts.P("agents")


def test_connect_reads_the_environment(monkeypatch):
    jg.connect()  # alone
    monkeypatch.setenv("JAXGAME_PROCESSES", "2")
    with pytest.raises(ValueError, match="expected host:port"):
        jg.connect()
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("JAXGAME_PROCESS", "2")
    with pytest.raises(ValueError, match="JAXGAME_PROCESS is 2, expected a number below"):
        jg.connect()


def test_launcher(tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys; print(os.environ['JAXGAME_PROCESS'], os.environ['JAXGAME_PROCESSES'], *sys.argv)"
    )
    assert launch.main(["-n", "2", str(script), "-n", "x"]) == 0
    several = ["-n", "1", "--total", "3", "--first", "2", "--coordinator", "host:1", str(script)]
    assert launch.main(several) == 0
    lines = sorted(capsys.readouterr().out.splitlines())
    assert lines == [f"[0] 0 2 {script} -n x", f"[1] 1 2 {script} -n x", f"[2] 2 3 {script}"]
    # One fails, the other would sleep on.
    script.write_text("import os, sys, time\nif os.environ['JAXGAME_PROCESS'] == '1': sys.exit(7)\ntime.sleep(60)")
    begin = time.monotonic()
    assert launch.main(["-n", "2", str(script)]) == 7
    assert time.monotonic() - begin < 30
    script.write_text("import os; os.abort()")
    assert launch.main(["-n", "1", str(script)]) == 128 + signal.SIGABRT
    for wrong in (["-n", "0", "x"], ["-n", "2", "--first", "1", "x"], ["-n", "1", "--total", "2", "x"]):
        with pytest.raises(SystemExit, match="2"):
            launch.main(wrong)


def test_launcher_hands_on_an_interrupt(tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib, sys, time\n"
        "try:\n"
        "    pathlib.Path(sys.argv[1], os.environ['JAXGAME_PROCESS']).touch()\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )

    def interrupt():
        while not all((tmp_path / rank).exists() for rank in "01"):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert launch.main(["-n", "2", str(script), str(tmp_path)]) == 128 + signal.SIGINT
    printed = capsys.readouterr().out
    assert "[0] interrupted" in printed and "[1] interrupted" in printed
