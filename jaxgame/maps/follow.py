"""Games along a route, many lanes at a time: built, solved from where the route says, and summed up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame.batch import solve_many
from jaxgame.certificate.certify import prove_unique
from jaxgame.certificate.multiplicity import initial_profiles, settled
from jaxgame.certificate.uniqueness import is_monotone
from jaxgame.equilibrium import signed
from jaxgame.games import dtype_of, is_aggregative, is_quadratic
from jaxgame.maps.axes import points
from jaxgame.maps.routes import Route
from jaxgame.solvers import Solver
from jaxgame.solvers.scale import measure, uniform

LANES = 1024  # games that are handed to `solve_many` at a time: measured, see benchmarks/sweep.py
MEMORY = 2**27  # bytes that these games and their profiles may take
BLOCK = 16  # games that are iterated together
SETTLING = 100  # steps in which agents follow their marginal utilities before a further start is solved from


class Interrupted(Exception):
    """The route was given up because another thread asked for it."""


class Follower:
    """A family of games and how they are to be solved. Programs are compiled once for all routes of one width."""

    def __init__(
        self,
        build: Callable[..., Any],
        axes: dict[str, np.ndarray],
        solver: Solver | None,
        tol: float | None,
        max_steps: int | None,
        starts: int,
    ):
        self.axes, self.solver, self.tol, self.max_steps = axes, solver, tol, max_steps
        self.shape = tuple(len(axis) for axis in axes.values())
        self.one = lambda point: build(**point)
        point = {name: jax.ShapeDtypeStruct((), jnp.asarray(axis[:1]).dtype) for name, axis in axes.items()}
        self.game = jax.eval_shape(self.one, point)
        if not hasattr(self.game, "marginals"):
            raise ValueError(f"build returns {type(self.game).__name__}, expected a game")
        self.dtype, n, D = dtype_of(self.game), self.game.n_agents, self.game.n_groups
        self.profiles = initial_profiles(n, D, 1 + D + starts, 0)[[0, *range(1 + D, 1 + D + starts)]]
        own = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.game))
        own += 16 * n * D * jnp.dtype(self.dtype).itemsize
        self.lanes = int(np.clip(MEMORY // own, 1, LANES))
        self.build = jax.jit(jax.vmap(self.one))
        self._peak = jax.jit(jax.vmap(lambda game, profile: signed(game, profile).max(0)))
        self._start = jax.jit(jax.vmap(self._calm, in_axes=(0, None)))

    @property
    def shares_cores(self) -> bool:
        """Whether several threads may solve at once: no LAPACK, of which two batched calls may wait for ever."""
        return is_aggregative(self.game)

    def games(self, flat: np.ndarray) -> Any:
        return self.build({name: jnp.asarray(value) for name, value in points(self.axes, flat).items()})

    def peaks(self, values: dict[str, np.ndarray]) -> np.ndarray:
        """Largest signed share of each group over the agents, (m, D), at points that need not lie on the grid.

        NaN where no equilibrium is found.
        """
        count, found = len(next(iter(values.values()))), []
        lanes = min(self.lanes, 1 << max(count - 1, 0).bit_length())
        for first in range(0, count, lanes):
            some = np.minimum(np.arange(first, first + lanes), count - 1)  # of one width, compiled once
            dtypes = {name: jax.dtypes.canonicalize_dtype(axis.dtype) for name, axis in self.axes.items()}
            games = self.build({name: jnp.asarray(x[some], dtypes[name]) for name, x in values.items()})
            answer = solve_many(games, self.solver, tol=self.tol, max_steps=self.max_steps, batch_size=BLOCK)
            sound = np.asarray(answer.converged)[:, None]
            found.append(np.where(sound, self._peak(games, answer.profile), np.nan))
        return np.concatenate(found)[:count]

    def _calm(self, game: Any, start: Array) -> Array:
        return settled(game, start, measure(game, start.dtype), SETTLING)

    def follow(self, route: Route, stop: threading.Event, told: Callable[[int], None]) -> dict[str, np.ndarray]:
        """What `Sweep` holds of the points of a route, (lanes, steps, …); `told` of the lanes after every step.

        Raises Interrupted where `stop` is set.
        """
        lanes, steps = route.points.shape
        even = np.broadcast_to(self.profiles[0].astype(self.dtype), (lanes, *self.profiles.shape[1:]))
        profile, sound, found = even, np.zeros(lanes, bool), []
        for t in range(steps):
            if stop.is_set():
                raise Interrupted
            games = self.games(route.points[:, t])
            cold = even
            if route.start:
                cold = np.asarray(self._start(games, jnp.asarray(self.profiles[route.start], self.dtype)))
            init = np.where((route.warm[:, t] & sound)[:, None, None], profile, cold)
            answer = solve_many(
                games, self.solver, tol=self.tol, max_steps=self.max_steps, init=jnp.asarray(init), batch_size=BLOCK
            )
            profile, status = np.asarray(answer.profile), np.asarray(answer.status)
            sound = np.isfinite(profile).all((1, 2)) & (status == 0)
            failed = ~sound[:, None]
            found.append(
                dict(
                    # What is no equilibrium is not shown as one.
                    representation=np.where(failed, np.nan, answer.representation),
                    signed=np.where(failed, np.nan, self._peak(games, answer.profile)),
                    residual=np.asarray(answer.residual),
                    exploitability=np.asarray(answer.gap),
                    status=status.astype(np.int8),
                    steps=np.asarray(answer.steps, np.int32),
                )
            )
            told(int(route.counts[:, t].sum()))
        return {name: np.stack([step[name] for step in found], 1) for name in found[0]}

    def unique(self) -> np.ndarray:
        """Where the equilibrium is proved to be unique, (points,) bool: once for all games with the same Jacobian."""
        if not is_quadratic(_rational(self.game)):
            return np.zeros(int(np.prod(self.shape)), bool)
        names = [name for name in self.axes if self._bends(name)]
        axes = {name: axis if name in names else axis[:1] for name, axis in self.axes.items()}
        shape = tuple(len(axis) for axis in axes.values())
        flat = np.arange(int(np.prod(shape)))
        proved = []
        if is_aggregative(_rational(self.game)):
            prove = jax.jit(jax.vmap(lambda point: is_monotone(_rational(self.one(point)).affine())))
            lanes = min(self.lanes, len(flat))
            for first in range(0, len(flat), lanes):
                some = np.minimum(np.arange(first, first + lanes), len(flat) - 1)
                proved.append(np.asarray(prove({name: jnp.asarray(x) for name, x in points(axes, some).items()})))
        else:
            build = jax.jit(self.one)
            for k in flat:
                point = {name: jnp.asarray(x[0]) for name, x in points(axes, np.array([k])).items()}
                proved.append(np.array([prove_unique(_rational(build(point)))[1]]))
        found = np.concatenate(proved)[: len(flat)].reshape(shape)
        return np.broadcast_to(found, self.shape).reshape(-1)

    def _bends(self, name: str) -> bool:
        """Whether the Jacobian of the game map depends on an axis, as far as the traced program shows."""
        return depends(lambda point: _jacobian(self.one(point)), self.axes, name)

    def sample(self) -> list[np.ndarray]:
        """Numbers that tell one family of games from another: a few games, and their marginals at two profiles."""
        flat = np.unique(np.linspace(0, int(np.prod(self.shape)) - 1, 9).astype(int))
        games = self.games(flat)
        tilted = self.profiles[0] * np.linspace(0.5, 1.5, self.profiles.shape[2])
        start = jnp.asarray(tilted / tilted.sum(1, keepdims=True), self.dtype)
        slopes = jax.jit(jax.vmap(lambda game: (game.marginals(uniform(game, self.dtype)), game.marginals(start))))
        return [np.asarray(leaf) for leaf in jax.tree.leaves((games, slopes(games)))]


def depends(function: Callable[[dict[str, Any]], Any], axes: dict[str, np.ndarray], name: str) -> bool:
    """Whether what a function of a point returns may change along one axis."""
    in_axes = {other: 0 if other == name else None for other in axes}
    point = {
        other: jax.ShapeDtypeStruct((2,) if other == name else (), jnp.asarray(axis[:1]).dtype)
        for other, axis in axes.items()
    }
    try:
        # An output that changes along the axis cannot be without one.
        jax.eval_shape(jax.vmap(function, in_axes=(in_axes,), out_axes=None), point)
    except ValueError:
        return True
    return False


def _rational(game: Any) -> Any:
    """The game itself, or that of agents of unbounded rationality: entropies are concave, and a game that is strongly
    monotone without them is so with them.
    """
    return game.game if hasattr(game, "rationality") else game


def _jacobian(game: Any) -> Any:
    affine = _rational(game).affine()
    return affine.own, affine.others
