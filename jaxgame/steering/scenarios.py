"""Scenarios: what is uncertain about a population, and how a plan weighs it (robust steering)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame.equilibrium import Equilibrium
from jaxgame.linalg import dot


@dataclasses.dataclass(frozen=True)
class CVaR:
    """Conditional value at risk: the mean of the worst 1 − level of the scenarios, all equally likely.

    The minimum over t of t + mean(max(v − t, 0)) / (1 − level) (Rockafellar & Uryasev 2000) in closed form: the
    scenario at the edge counts in part. level 0 is the mean, 1 the worst case. Raises ValueError for a level outside
    [0, 1].
    """

    level: float

    def __post_init__(self) -> None:
        if not 0 <= self.level <= 1:
            raise ValueError(f"the level of CVaR is {self.level}, expected a number from 0 (mean) to 1 (worst case)")

    def __call__(self, values: Array) -> Array:
        """The risk of (B,) objective values, a scalar."""
        return weighted(values, self.weights(values.shape[0]))

    def weights(self, count: int) -> np.ndarray:
        """What the worst, the second worst, … of so many values count, (count,)."""
        tail = (1 - self.level) * count
        return np.clip(tail - np.arange(count), 0, 1) / tail if tail > 0 else np.eye(1, count)[0]


def weighted(values: Array, weights: Any) -> Array:
    """Σ weights_k · (k-th largest of the values), a scalar."""
    return dot(jnp.sort(values, descending=True), jnp.asarray(weights, values.dtype))


def risk_measure(risk: Any) -> CVaR:
    """A risk measure by name: "mean", "worst", ("cvar", level), or a `CVaR`."""
    if isinstance(risk, CVaR):
        return risk
    if isinstance(risk, str) and risk in ("mean", "worst"):
        return CVaR(0.0 if risk == "mean" else 1.0)
    if isinstance(risk, (tuple, list)) and len(risk) == 2 and risk[0] == "cvar":
        return CVaR(float(risk[1]))
    raise ValueError(f"risk is {risk!r}, expected 'mean', 'worst', ('cvar', level) or a CVaR")


def scenario_count(name: str, scenarios: Any) -> int:
    """The length of the leading axis that all leaves share. Raises ValueError where they do not."""
    leaves = jax.tree.leaves(scenarios)
    if not leaves:
        raise ValueError(f"{name} has no arrays, expected a pytree whose leaves share a leading axis of scenarios")
    sizes = [np.shape(leaf)[:1] for leaf in leaves]
    if sizes[0] == () or sizes[0] == (0,) or any(size != sizes[0] for size in sizes):
        shapes = [np.shape(leaf) for leaf in leaves]
        raise ValueError(f"{name} has leaves of shapes {shapes}, expected one leading axis of scenarios, not empty")
    return sizes[0][0]


def same_kind(scenarios: Any, fresh: Any) -> None:
    """Raises ValueError unless fresh scenarios are made like those that the plan was made with."""
    scenario_count("fresh", fresh)
    kinds = [
        (jax.tree.structure(tree), [np.shape(leaf)[1:] for leaf in jax.tree.leaves(tree)])
        for tree in (scenarios, fresh)
    ]
    if kinds[0] != kinds[1]:
        raise ValueError("fresh must have the structure and, but for the number of scenarios, the shapes of scenarios")


def one(batch: Any, index: int) -> Any:
    """One entry of a batch: a scenario, or its equilibrium."""
    return jax.tree.map(lambda leaf: leaf[index], batch)


def holds(goal: Callable[[Equilibrium], Any], equilibria: Equilibrium) -> np.ndarray:
    """In which scenarios the goal holds, (B,) bool; never where there is no equilibrium."""
    converged = np.asarray(equilibria.converged)
    return np.array([ok and met(goal, one(equilibria, k)) for k, ok in enumerate(converged)])


def met(goal: Callable[[Equilibrium], Any], equilibrium: Equilibrium) -> bool:
    """The goal's verdict. Raises ValueError if it is not one truth value."""
    verdict = goal(equilibrium)
    if np.size(verdict) != 1:
        raise ValueError(f"goal returns an array of shape {np.shape(verdict)}, expected one truth value")
    return bool(np.reshape(np.asarray(verdict), ()))


@dataclasses.dataclass(frozen=True)
class Robustness:
    """How a plan fares in scenarios that it was not made with.

    fraction: of the scenarios in which the goal holds; standard_error: of the share in all such scenarios, the
    standard deviation of its posterior under a uniform prior (positive even where the fraction is 0 or 1).
    scenarios: how many; unconverged: in how many no equilibrium was found (the goal counts as missed).
    """

    fraction: float
    standard_error: float
    scenarios: int
    unconverged: int

    def __str__(self) -> str:
        lost = f", {self.unconverged} without an equilibrium" if self.unconverged else ""
        share = f"{self.fraction:.1%} (standard error {self.standard_error:.1%})"
        return f"In {share} of {self.scenarios} fresh scenarios the goal holds{lost}."


def robustness(goal: Callable[[Equilibrium], Any], equilibria: Equilibrium) -> Robustness:
    """Count fresh scenarios."""
    verdicts = holds(goal, equilibria)
    count, hits = len(verdicts), int(verdicts.sum())
    centre = (hits + 1) / (count + 2)
    error = math.sqrt(centre * (1 - centre) / (count + 3))
    return Robustness(hits / count, error, count, int((~np.asarray(equilibria.converged)).sum()))
