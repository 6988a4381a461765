"""What lies around a study's population: who is left out at other levels, and what a small change of one does."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgame.config import StudyOptions
from jaxgame.games import AlignmentGame
from jaxgame.maps import Boundaries, Sweep, boundaries, sweep
from jaxgame.steering.sensitivity import Sensitivity, sensitivity
from jaxgame.surveys import Survey

POINTS = (41, 25)  # of the diagram, along attractiveness and diversity
ALIKE = 20  # agents that stand for any number who are all alike: their equilibrium is that of each (theory §3.1)
LARGEST = 16_384  # agents × groups up to which agents who differ are solved at all these points
LEVELS = ("attractiveness", "consistency", "diversity")


@dataclasses.dataclass(frozen=True)
class Neighbourhood:
    """diagram, edges: over attractiveness and diversity; derivatives: in the levels and in every group's appeal to all
    agents; agents: how many were solved for. What does not exist is None, and `missing` (name -> why) says why.
    """

    agents: int
    diagram: Sweep | None = None
    edges: Boundaries | None = None
    derivatives: Sensitivity | None = None
    missing: dict[str, str] = dataclasses.field(default_factory=dict)


def explore(options: StudyOptions, survey: Survey, game: AlignmentGame, critical: np.ndarray | None) -> Neighbourhood:
    """The neighbourhood of a study's game, which may have fewer agents where all are alike. critical: the critical
    ratios, where they exist.
    """
    if game.n_agents * game.n_groups > LARGEST:
        why = (
            f"{game.n_agents:,} agents who differ are too many to be solved at {POINTS[0] * POINTS[1]:,} points for "
            "every study; jaxgame sweep does it"
        )
        return Neighbourhood(game.n_agents, missing={"diagram": why, "derivatives": why})
    dtype = np.dtype(game.kernel.dtype)
    axes = {
        "attractiveness": _axis(0.0, _reach(options, critical), POINTS[0], options.attractiveness),
        "diversity": _axis(min(0.0, 2 * options.diversity), _spread(options), POINTS[1], options.diversity),
    }
    axes = {name: axis.astype(dtype) for name, axis in axes.items()}

    def build(**levels: Any) -> AlignmentGame:
        return game.replace(**levels)

    diagram = sweep(build, axes, starts=None, groups=survey.groups)  # no search for others where not unique: it is long
    edges = boundaries(build, diagram)
    levels = {name: jnp.asarray(getattr(options, name), dtype) for name in LEVELS}
    try:
        derivatives = sensitivity(
            lambda theta: game.replace(**theta["levels"], appeal=game.appeal + theta["appeal"][None]),
            {"levels": levels, "appeal": jnp.zeros(game.n_groups, dtype)},
        )
    except ArithmeticError as error:
        return Neighbourhood(game.n_agents, diagram, edges, missing={"derivatives": str(error)})
    return Neighbourhood(game.n_agents, diagram, edges, derivatives)


def _axis(low: float, high: float, points: int, value: float) -> np.ndarray:
    """From low to high, evenly but for the point that makes room for the population's own value."""
    axis = np.linspace(low, high, points)
    if value not in axis:
        axis[1 + np.abs(axis[1:-1] - value).argmin()] = value
    return axis


def _reach(options: StudyOptions, critical: np.ndarray | None) -> float:
    """Attractiveness up to which to look: twice the population's, or past the ratios of half the groups."""
    past = 0.0
    if critical is not None and np.isfinite(critical).any():
        ratios = np.sort(critical[np.isfinite(critical)])
        past = 1.3 * float(ratios[(len(ratios) - 1) // 2]) * options.consistency
    return max(2 * options.attractiveness, past, 0.1 * options.consistency)


def _spread(options: StudyOptions) -> float:
    """Diversity up to which to look: where large populations still have one equilibrium, or twice the population's."""
    return max(2 * options.diversity, 0.9 * options.consistency)
