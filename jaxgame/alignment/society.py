"""The game of the experiment: who the agents are, what they play, and how many responses it takes to see it."""

from __future__ import annotations

import numpy as np

from jaxgame.alignment.options import AlignOptions
from jaxgame.equilibrium import Equilibrium
from jaxgame.exclusion import excluded
from jaxgame.games import AlignmentGame
from jaxgame.solving import solve
from jaxgame.surveys import Survey

BEYOND = 1.1  # times the attractiveness at which the first group is left out
LARGEST = 100.0


def population(survey: Survey, options: AlignOptions) -> AlignmentGame:
    """The first agent is aligned to everyone; the others lean, by `lean`, to groups of the second half of the list,
    whose voice the others therefore are. attractiveness: that of the options, or just beyond where a group is excluded.
    """
    D, shares = len(survey.groups), np.asarray(survey.shares)
    leaning = np.zeros((options.agents, D))
    favourites = np.round(np.linspace(D // 2, D - 1, options.agents - 1)).astype(int)
    leaning[np.arange(1, options.agents), favourites] = options.lean
    targets = (1 - leaning.sum(1, keepdims=True)) * shares + leaning
    game = survey.game(
        options.agents,
        targets=targets,
        attractiveness=0.0 if options.attractiveness is None else options.attractiveness,
        consistency=options.consistency,
        diversity=options.diversity,
    )
    return game if options.attractiveness is not None else _beyond_exclusion(game)


def _beyond_exclusion(game: AlignmentGame) -> AlignmentGame:
    alpha = 0.01
    while alpha < LARGEST:
        if excluded(solve(game.replace(attractiveness=alpha))).any():
            return game.replace(attractiveness=BEYOND * alpha)
        alpha *= 1.05
    raise ValueError(f"no group is excluded up to an attractiveness of {LARGEST:g}; choose one with --attractiveness")


def predicted(game: AlignmentGame) -> Equilibrium:
    """The equilibrium. ValueError where it is not found."""
    found = solve(game)
    if not bool(found.converged):
        raise ValueError(f"the game of the group models has no equilibrium that was found: {found.message}")
    return found


def bound(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(D,) standard errors that one response would give: the Cramér–Rao bound at the weights, over √N for N.

    scores (N, D): log p_d of responses drawn with the weights.
    """
    likelihood = np.exp(scores - scores.max(1, keepdims=True))
    ratio = likelihood / (likelihood @ weights)[:, None]
    return _least(ratio.T @ ratio / len(ratio))


def answer_bound(law: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The same for answers to single questions, each asked equally often, exactly; law (D, Q, options)."""
    groups = law.reshape(len(law), -1)
    mixed = weights @ groups
    there = mixed > 0
    return _least((groups[:, there] / mixed[there]) @ groups[:, there].T / law.shape[1])


def _least(information: np.ndarray) -> np.ndarray:
    """(D,) standard errors of weights that sum to 1, from the information (D, D) of one response."""
    basis = np.linalg.svd(np.ones((1, len(information))))[2][1:].T
    return np.sqrt(np.diag(basis @ np.linalg.inv(basis.T @ information @ basis) @ basis.T))


def together(scores: list[np.ndarray], game: AlignmentGame) -> np.ndarray:
    """Rows of each agent's, (N_i, D) each, as many as its reach: what an audience of all of them is shown."""
    reach = np.asarray(game.reach, float)
    total = min(len(rows) / r for rows, r in zip(scores, reach, strict=True) if r > 0)
    return np.concatenate([rows[: round(total * r)] for rows, r in zip(scores, reach, strict=True)])


def limit(said: np.ndarray, law: np.ndarray, steps: int = 20_000) -> np.ndarray:
    """(D,) what the estimate tends to with ever more answers from a model that says `said` (Q, options), where the
    groups say `law` (D, Q, options): maximum likelihood by expectation-maximisation.
    """
    mass, groups = said.reshape(-1), law.reshape(len(law), -1)
    there = mass > 0
    mass, groups = mass[there] / mass.sum(), groups[:, there]
    weights = np.full(len(law), 1 / len(law))
    for _ in range(steps):
        weights = weights * (groups @ (mass / (weights @ groups)))
        weights /= weights.sum()
    return weights


def profile_of(equilibrium: Equilibrium) -> np.ndarray:
    """(n, D), rows on the simplex exactly."""
    rows = np.clip(np.asarray(equilibrium.profile, float), 0, None)
    return rows / rows.sum(1, keepdims=True)


def representation(weights: np.ndarray, game: AlignmentGame) -> np.ndarray:
    """(D,) of weights (n, D), by the agents' reach."""
    return np.asarray(game.reach, float) @ weights
