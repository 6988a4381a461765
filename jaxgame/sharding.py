"""Games on many devices, of one process or of many (theory §6)."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding

from jaxgame.games import is_aggregative
from jaxgame.solvers.parts import AXIS, spec

G = TypeVar("G")


def shard(game: G, mesh: Mesh | None = None) -> G:
    """The same game with its agents spread over the devices of a mesh, for `solve` and all that takes a game.

    game: QuadraticGame, AlignmentGame or ConcaveGame whose agents meet through a mean. mesh: with an axis "agents",
    whose size divides the number of agents; default: all devices of all processes. Arrays with an entry an agent are
    split along it, the others are on every device. `solve` then returns a profile (n, D) that is split alike, and all
    else on every device. The mesh is used with axes of type Auto, whatever types it has. `solve` knows it from arrays'
    types, also under `jit`.

    With several processes (`jax.distributed`) every process calls this with the same game. Arrays that no process could
    hold alone are made with `jax.make_array_from_process_local_data` beforehand; what they hold is not checked when the
    game is built, for no process sees all of it.

    Raises ValueError for other games, a mesh without that axis, and a number of agents that it does not divide.
    """
    if not is_aggregative(game):
        raise ValueError(
            f"game is {type(game).__name__}, expected a QuadraticGame, AlignmentGame or ConcaveGame whose agents meet "
            "through a mean"
        )
    if mesh is None:
        mesh = jax.make_mesh((jax.device_count(),), (AXIS,))
    if AXIS not in mesh.axis_names:
        raise ValueError(f'mesh has the axes {mesh.axis_names}, expected one named "{AXIS}"')
    n, parts = game.n_agents, mesh.shape[AXIS]  # pyright: ignore[reportAttributeAccessIssue]
    if n % parts:
        raise ValueError(f"game has {n} agents, expected a multiple of the {parts} devices along the mesh's {AXIS!r}")
    # Explicit axes would make sharding a part of every type, and every line of the library say how it goes on.
    mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))

    def placed(path: tuple, leaf: Any) -> Any:
        sharding = NamedSharding(mesh, spec(path, leaf))
        if isinstance(leaf, Tracer) or not leaf.is_fully_addressable or sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        # device_put would send the array around to compare what the processes have.
        values = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: values[index])

    return jax.tree.map_with_path(placed, game)


def connect() -> None:
    """Connect this process with the others of one computation, as `scripts/launch` started them; alone, do nothing.

    Before the first array is made. Reads JAX_COORDINATOR_ADDRESS (host:port of process 0), JAXGAME_PROCESSES (how many)
    and JAXGAME_PROCESS (which one this is). CPUs talk through gloo. On a cluster that JAX knows by itself (Slurm, Open
    MPI, Cloud TPU) call `jax.distributed.initialize()` instead.

    Raises ValueError where only some of these are set, or they are no such numbers.
    """
    names = "JAX_COORDINATOR_ADDRESS", "JAXGAME_PROCESSES", "JAXGAME_PROCESS"
    address, *numbers = given = [os.environ.get(name, "") for name in names]
    if not any(numbers):
        return
    if not all(given) or not all(number.isdecimal() for number in numbers):
        told = ", ".join(f"{name}={value!r}" for name, value in zip(names, given, strict=True))
        raise ValueError(f"the environment has {told}, expected host:port, a number of processes, and one below it")
    processes, process = map(int, numbers)
    if process >= processes:
        raise ValueError(f"JAXGAME_PROCESS is {process}, expected a number below JAXGAME_PROCESSES, {processes}")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, processes, process)
