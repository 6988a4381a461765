"""Levers of which every agent has its own: its appeal, or its alignment target."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame import _checks
from jaxgame.games import AlignmentGame, QuadraticGame, dtype_of, subsidised
from jaxgame.games.affine import per_agent

LEVERS = ("appeal", "targets")


@dataclasses.dataclass(frozen=True)
class AgentLever:
    """A change Δ (n, D) adds strength_i · metric Δ_i to agent i's marginal utilities; on the host, in float64.

    strength (n,) ≥ 0; metric (D, D); targets (n, D), or None: a change keeps targets + Δ on the simplex. weights (n, D)
    of the squared norm Σ weights Δ².
    """

    strength: np.ndarray
    metric: np.ndarray
    targets: np.ndarray | None
    weights: np.ndarray

    @classmethod
    def of(cls, game: Any, lever: str, weights: Any = None) -> AgentLever:
        """Raises ValueError for a lever that the game does not have, and for weights that do not fit."""
        check(game, lever)
        strength, metric, targets = appeal_strength(game), jnp.eye(game.n_groups), None
        if lever == "targets":
            strength, targets = per_agent(game.consistency, game.n_agents), game.targets
            metric = game.kernel if game.consistency_metric == "response" else metric
        arrays = (strength, metric, targets, norm_weights(game, weights))
        return cls(*(None if x is None else np.asarray(x, np.float64) for x in arrays))  # pyright: ignore[reportArgumentType]

    def common(self, pull: np.ndarray, sigma: float) -> np.ndarray:
        """The change that draws all agents alike to groups, with a force `pull` (D,) ≥ 0, in units of the scale sigma
        of marginal utilities.
        """
        if self.targets is not None:
            return (self.targets + pull) / (1 + pull.sum()) - self.targets
        top = float(self.strength.max()) or 1.0
        return np.broadcast_to(pull * sigma / top, self.weights.shape)

    def cost(self, change: np.ndarray) -> float:
        """The norm of a change, √Σ weights Δ²."""
        return float(np.sqrt((self.weights * change**2).sum()))


def check(game: Any, lever: str) -> None:
    """ValueError for a lever that there is not, or that the game does not have."""
    if lever not in LEVERS:
        raise ValueError(f"lever is {lever!r}, expected one of {LEVERS}")
    if lever == "targets" and not isinstance(game, AlignmentGame):
        raise ValueError(f"lever='targets' needs an AlignmentGame, got {type(game).__name__}; try lever='appeal'")


def appeal_strength(game: Any) -> Array:
    """What one unit of appeal adds to the marginal utilities of each agent, (n,): α_i, or 1 without attractiveness."""
    if isinstance(game, AlignmentGame):
        return per_agent(game.attractiveness, game.n_agents)
    return jnp.ones(game.n_agents, dtype_of(game))


def norm_weights(game: Any, weights: Any) -> Array:
    """Weights of the squared norm of a change as (n, D), default ones; ValueError unless positive and of that size."""
    shape = (game.n_agents, game.n_groups)
    if weights is None:
        return jnp.ones(shape, dtype_of(game))
    value = _checks.array("weights", weights, dtype_of(game), shape, shape[1:])
    if _checks.concrete(value) and (bad := ~(np.asarray(value) > 0)).any():
        index = [int(k) for k in np.argwhere(bad)[0]]
        raise ValueError(f"weights{index} is {np.asarray(value)[tuple(index)]}, expected a positive number")
    return jnp.broadcast_to(value, shape)


def changed(game: Any, lever: str, change: Any) -> Any:
    """The game after a change (n, D): of the appeal (of the linear term, or an addition to the marginal utilities,
    where a game has no appeal) or of the targets.
    """
    change = jnp.asarray(change, dtype_of(game))
    if lever == "targets":
        return game.replace(targets=jnp.maximum(game.targets + change, 0))
    if isinstance(game, AlignmentGame):
        return game.replace(appeal=game.appeal + change)
    if isinstance(game, QuadraticGame):
        return game.replace(linear=game.linear + change)
    return subsidised(game, change)
