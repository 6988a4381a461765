"""What `steer` minimises: objective(equilibrium) + cost of the levers, with its derivative through the equilibrium."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame._pytree import Carried, pytree
from jaxgame.equilibrium import Equilibrium
from jaxgame.games import dtype_of, representation
from jaxgame.solvers.scale import measure, uniform
from jaxgame.solving import solve
from jaxgame.steering.barrier import smoothed
from jaxgame.steering.scenarios import CVaR, one, scenario_count, weighted


@dataclasses.dataclass(frozen=True)
class Merit:
    """What is minimised at the moment, and its name in the plan's history.

    "gradient": objective + cost, exactly. "signed": plus Σ weights·ν over the groups that agents leave out, ν_id how
    far group d is from entry in agent i's mixture (theory §4): it agrees with the objective where the groups with
    weights are represented, and has a derivative where they are not. "barrier": objective + cost at the equilibrium
    smoothed with a temperature.
    """

    phase: str = "gradient"
    weights: Any = None
    temperature: float | None = None


EXACT = Merit()


@dataclasses.dataclass(frozen=True, eq=False)
class Point:
    """Levers as one vector, and what they lead to."""

    theta: np.ndarray  # (k,) float64, exactly representable in the levers' own types
    value: float  # of the merit
    gradient: np.ndarray  # (k,) of the merit
    objective: float
    cost: float
    equilibrium: Equilibrium  # with scenarios: a batch
    appetite: Array  # like the profile: what the objective would gain per unit of mixture moved to a group
    usable: bool  # every equilibrium converged, everything finite

    @property
    def total(self) -> float:
        """objective + cost."""
        return self.objective + self.cost


class Levers:
    """A pytree of float arrays as one vector. Raises ValueError for a theta that is none."""

    def __init__(self, theta: Any):
        keyed, self.structure = jax.tree_util.tree_flatten_with_path(theta)
        if not keyed:
            raise ValueError("theta has no arrays, expected a pytree with at least one array of floats")
        self.leaves = []
        for path, leaf in keyed:
            name = f"theta{jax.tree_util.keystr(path)}"
            try:
                leaf = jnp.asarray(leaf)
            except (TypeError, ValueError):
                raise ValueError(f"{name} is {leaf!r}, expected an array of floats") from None
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise ValueError(f"{name} has dtype {leaf.dtype}, expected floats")
            if not np.isfinite(np.asarray(leaf)).all():
                raise ValueError(f"{name} is not finite, expected finite numbers to start from")
            self.leaves.append(leaf)

    @property
    def dtype(self) -> Any:
        """The coarsest dtype among the leaves: what rounding to expect."""
        return min((leaf.dtype for leaf in self.leaves), key=lambda dtype: jnp.finfo(dtype).bits)

    @property
    def start(self) -> np.ndarray:
        """The levers as they were given."""
        return self._joined(self.leaves)

    def pack(self, theta: Any, name: str = "theta") -> np.ndarray:
        """The vector of a pytree. Raises ValueError, naming where it comes from, if it is not like theta."""
        leaves, structure = jax.tree.flatten(theta)
        wanted = [leaf.shape for leaf in self.leaves]
        if structure != self.structure or [np.shape(leaf) for leaf in leaves] != wanted:
            raise ValueError(f"{name} has structure {structure} and shapes {[np.shape(x) for x in leaves]}, expected "
                             f"those of theta: {self.structure} and {wanted}")  # fmt: skip
        return self._joined(leaves)

    def unpack(self, vector: np.ndarray) -> Any:
        """The pytree of a vector, in the leaves' dtypes."""
        bounds = np.cumsum([leaf.size for leaf in self.leaves])[:-1]
        parts = zip(np.split(vector, bounds), self.leaves, strict=True)
        return jax.tree.unflatten(self.structure, [jnp.asarray(p.reshape(x.shape), x.dtype) for p, x in parts])

    @staticmethod
    def _joined(leaves: Any) -> np.ndarray:
        return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves])


@pytree()
class Aims:
    """The user's functions on their way into jit: the same functions compile once, whatever the numbers."""

    build: Carried
    objective: Carried
    cost: Carried
    scenarios: Any
    risk: Any  # weights of the scenarios from the worst to the best, (B,)

    def games(self, theta: Any) -> Any:
        """The game, or the batch of games of all scenarios."""
        build = self.build.unwrap()
        if self.scenarios is None:
            return build(theta)
        return jax.vmap(lambda scenario: build(theta, scenario))(self.scenarios)

    def each(self, function: Callable) -> Callable:
        """The function, for all scenarios where there are any."""
        return function if self.scenarios is None else jax.vmap(function)

    def assess(self, equilibrium: Equilibrium) -> Array:
        """The objective, over scenarios its risk. Raises ValueError if it is no floating scalar."""

        def objective(one: Equilibrium) -> Array:
            return scalar("objective", self.objective.unwrap()(one), one.profile.dtype)

        values = self.each(objective)(equilibrium)
        return values if self.scenarios is None else weighted(values, self.risk)

    def price(self, theta: Any, dtype: Any) -> Array:
        """The cost of the levers. Raises ValueError if it is no floating scalar."""
        return scalar("cost", self.cost.unwrap()(theta), dtype)


def scalar(name: str, value: Any, dtype: Any) -> Array:
    """The value of a user's function as a scalar. Raises ValueError if it is none."""
    if not hasattr(value, "dtype") and not isinstance(value, (int, float)):
        raise ValueError(f"{name} returns {type(value).__name__}, expected a floating scalar")
    value = jnp.asarray(value)
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"{name} returns {value.dtype} of shape {value.shape}, expected a floating scalar")
    return value.astype(dtype)


def free(theta: Any) -> float:
    """No cost at all."""
    return 0.0


class Problem:
    """objective + cost as a function of a vector of levers, and the projection on what levers are allowed."""

    def __init__(
        self,
        build: Callable,
        theta: Any,
        objective: Callable,
        cost: Callable | None = None,
        constraint: Callable | None = None,
        scenarios: Any = None,
        risk: CVaR | None = None,
    ):
        self.levers = Levers(theta)
        self.build = build
        self.constraint = None if constraint is None else jax.jit(constraint)
        self.scenarios = None if scenarios is None else jax.tree.map(jnp.asarray, scenarios)
        count = None if scenarios is None else scenario_count("scenarios", scenarios)
        weights = None if count is None else jnp.asarray((risk or CVaR(0.0)).weights(count))
        carried = Carried.wrap(free if cost is None else cost)
        self.aims = Aims(Carried.wrap(build), Carried.wrap(objective), carried, self.scenarios, weights)
        first = self.game(theta)
        if not all(hasattr(first, name) for name in ("n_agents", "n_groups", "marginals")):
            raise ValueError(f"build returns {type(first).__name__}, expected a game, as AlignmentGame(…)")
        self.start = uniform(first, dtype_of(first))
        if count is not None:
            self.start = jnp.broadcast_to(self.start, (count, *self.start.shape))
        self.sigma = _sigma(self.aims, self.levers.unpack(self.levers.start))

    def game(self, theta: Any) -> Any:
        """The game, or that of the first scenario; outside jit, so that its constructor sees values and may refuse them
        by a ValueError.
        """
        return self.build(theta) if self.scenarios is None else self.build(theta, one(self.scenarios, 0))

    def evaluate(self, vector: np.ndarray, start: Array | None = None, merit: Merit = EXACT) -> Point:
        """The merit of levers, its gradient, and the equilibrium, found from the profile `start`."""
        theta = self.levers.unpack(vector)
        start = self.start if start is None else start
        weights = jnp.zeros_like(self.start) if merit.weights is None else merit.weights
        temperature = None if merit.temperature is None else jnp.asarray(merit.temperature, start.dtype) * self.sigma
        out = _evaluated(self.aims, theta, start, weights, temperature)
        value, objective, cost = (float(x) for x in out[:3])
        equilibrium, gradient, appetite = out[3:]
        slope = self.levers.pack(gradient)
        usable = bool(jnp.all(equilibrium.converged)) and np.isfinite(value) and bool(np.isfinite(slope).all())
        return Point(self.levers.pack(theta), value, slope, objective, cost, equilibrium, appetite, usable)

    def project(self, vector: np.ndarray) -> np.ndarray:
        """The nearest levers that the constraint allows. Raises ValueError if it returns anything but levers."""
        if self.constraint is None:
            return vector
        with jax.numpy_dtype_promotion("standard"):  # optax's projections need it
            allowed = self.constraint(self.levers.unpack(vector))
        allowed = self.levers.pack(allowed, "what constraint returns")
        if not np.isfinite(allowed).all():
            raise ValueError("constraint returns levers that are not finite: what it projects on may be empty")
        return allowed

    def signed(self, point: Point) -> np.ndarray:
        """Signed representation of every agent in units of mixture: w, or −ν over the game's own scale (theory §4)."""
        signed = point.equilibrium.signed
        scale = self.sigma[..., None, None] if signed.ndim > 2 else self.sigma
        return np.asarray(jnp.where(signed < 0, signed / scale, signed))

    def appetite(self, point: Point) -> Array:
        """What the objective would gain from groups that are left out, per unit of ν."""
        left_out = jnp.where(point.equilibrium.signed < 0, point.appetite, 0)
        return left_out / (self.sigma[..., None, None] if left_out.ndim > 2 else self.sigma)


@jax.jit
def _sigma(aims: Aims, theta: Any) -> Array:
    """The natural scale of utilities, one a scenario."""
    return aims.each(lambda game: measure(game, dtype_of(game)).sigma)(aims.games(theta))


@jax.jit
def _evaluated(aims: Aims, theta: Any, start: Array, weights: Array, temperature: Array | None) -> tuple:
    """Merit, objective, cost, equilibrium, gradient, appetite."""

    def found(game: Any, start: Array, temperature: Array | None) -> Equilibrium:
        return solve(game, init=start) if temperature is None else smoothed(game, temperature, start)

    def merit(theta: Any) -> tuple[Array, tuple]:
        games = aims.games(theta)
        equilibrium = aims.each(found)(games, start, temperature)
        objective, cost = aims.assess(equilibrium), aims.price(theta, start.dtype)
        left_out = jnp.maximum(-equilibrium.signed, 0)
        return objective + cost + (weights * left_out).sum(), (objective, cost, equilibrium)

    (value, parts), gradient = jax.value_and_grad(merit, has_aux=True)(theta)
    return value, *parts, gradient, _appetite(aims, parts[2])


def _appetite(aims: Aims, equilibrium: Equilibrium) -> Array:
    """By how much the objective falls, if at all, as an agent moves a unit of mixture to a group.

    Of the objective alone: whether agents would move does not matter here.
    """

    def moved(profile: Array) -> Array:
        shown = aims.each(representation)(equilibrium.game, profile)
        return aims.assess(equilibrium.replace(profile=profile, representation=shown))

    slope = jax.grad(moved)(equilibrium.profile)
    gain = (slope * equilibrium.profile).sum(-1, keepdims=True) - slope
    return jnp.where(jnp.isfinite(gain) & (gain > 0), gain, 0)
