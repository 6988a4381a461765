"""A population on many devices: each holds its part of the agents, and they exchange sums and maxima (theory §6).

Under `jit` alone a loop over blocks of agents would gather the whole population on every device. So the loop runs on
each part by itself, in `shard_map`, and says where it needs all agents: `total`, `largest`. On one device the axis is
None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array, lax
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from jaxgame._pytree import pytree
from jaxgame.games.members import Members, Rows

AXIS = "agents"  # of a mesh

# Arrays that have an entry an agent, by the name of the field, where they have so many axes.
PER_AGENT = dict(
    linear=(2,),
    targets=(2,),
    appeal=(2,),
    addition=(2,),
    attractiveness=(1,),
    consistency=(1,),
    diversity=(1,),
    sensitivity=(1,),
    reach=(1,),
    multiplicity=(1,),
    curvature=(1, 3),
    h=(2,),  # Diagonal
    q=(1,),  # Scaled
)


def total(x: Any, axis: str | None) -> Any:
    """The sum over all parts, of arrays in a tree."""
    return x if axis is None else lax.psum(x, axis)


def largest(x: Any, axis: str | None) -> Any:
    """The maximum over all parts, of arrays in a tree."""
    return x if axis is None else lax.pmax(x, axis)


def average(x: Any, axis: str | None) -> Any:
    """The mean over all parts, of arrays in a tree."""
    return x if axis is None else lax.pmean(x, axis)


def count(axis: str | None) -> int:
    """How many parts there are."""
    return 1 if axis is None else lax.axis_size(axis)


@pytree(static=("population",))
class Part:
    """Those agents of a mean-field game that one device holds, of a population of so many."""

    game: Any
    population: int

    @property
    def n_agents(self) -> int:
        return self.game.n_agents

    @property
    def n_groups(self) -> int:
        return self.game.n_groups

    def members(self, rows: Rows) -> Members:
        return self.game.members(rows, self.population)

    def affine(self) -> Any:
        return self.members(lambda x: x).affine()

    def cut(self, rows: Rows) -> Part:
        """Some of these agents: `rows` of all arrays that have an entry an agent."""
        n = self.n_agents

        def some(path: tuple, leaf: Array) -> Array:
            return rows(leaf) if spec(path, leaf) == P(AXIS) and leaf.shape[0] == n else leaf

        return Part(jax.tree.map_with_path(some, self.game), self.population)


def part_of(game: Any) -> Part:
    """A game as the part that holds all its agents, if it is no part yet."""
    return game if isinstance(game, Part) else Part(game, game.n_agents)


def on_parts(
    function: Callable[..., tuple[Any, Any]], games: tuple[Any, ...], spread: tuple[Array, ...] = (), *shared: Array
) -> tuple[Any, Any]:
    """function(*parts, axis, *spread, *shared) -> (what has a leading axis of agents, what is alike everywhere), on all
    parts of games of one kind and size. `spread`: arrays with a leading axis of agents; shared: alike everywhere.

    On one device the games themselves are the parts.
    """
    mesh = mesh_of(games[0])
    if mesh is None:
        return function(*games, None, *spread, *shared)
    population = games[0].n_agents
    specs = (
        tuple(jax.tree.map_with_path(spec, game) for game in games),
        tuple(P(AXIS) for _ in spread),
        tuple(P() for _ in shared),
    )

    def here(games: tuple[Any, ...], spread: tuple[Array, ...], shared: tuple[Array, ...]) -> tuple[Any, Any]:
        return function(*(Part(game, population) for game in games), AXIS, *spread, *shared)

    run = jax.shard_map(here, mesh=mesh, in_specs=specs, out_specs=(P(AXIS), P()), check_vma=False)
    return run(games, spread, shared)


def mesh_of(game: Any) -> AbstractMesh | None:
    """The mesh with an axis "agents" on which arrays of the game lie, also under jit; None if it does not part them.

    Raises ValueError where the axis is of type Explicit: its arrays must go through `jaxgame.shard`.
    """
    for leaf in jax.tree.leaves(game):
        sharding = jax.typeof(leaf).sharding
        mesh = sharding.mesh
        kind = dict(zip(mesh.axis_names, mesh.axis_types, strict=True)).get(AXIS)
        if kind == AxisType.Explicit and AXIS in sharding.spec:
            raise ValueError(
                f"game lies on {mesh}, expected axes of type Auto; jaxgame.shard(game, mesh) puts it on such a mesh"
            )
        if kind == AxisType.Auto:
            parts = mesh.shape[AXIS]
            return mesh if parts > 1 and game.n_agents % parts == 0 else None
    return None


def spec(path: tuple, leaf: Array) -> P:
    """How an array of a game is spread over a mesh, by its path in the game."""
    name = path[0].name if path[0].name == "params" else path[-1].name  # a tree of the user's
    return P(AXIS) if name == "params" or leaf.ndim in PER_AGENT.get(name, ()) else P()
