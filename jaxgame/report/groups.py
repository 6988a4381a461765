"""Where groups stand by what they answer, and which of them the sample cannot tell apart."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import chdtrc

from jaxgame.surveys import Survey

INDISTINCT = 0.01  # groups count as different only below this p-value


@dataclasses.dataclass(frozen=True)
class Map:
    """The first two principal coordinates (classical MDS) of the groups' mean responses.

    What a mixture w of groups answers on average is at w @ positions, exactly (theory, introduction).
    """

    positions: np.ndarray  # (D, 2)
    explained: np.ndarray  # (2,) shares of the variation
    centre: np.ndarray  # (F,)
    axes: np.ndarray  # (2, F)

    def place(self, features: np.ndarray) -> np.ndarray:
        """(…, 2) of other responses (…, F) on the same map."""
        return (features - self.centre) @ self.axes.T


def features(survey: Survey, kernel: str) -> Array:
    """(D, F) mean responses: mean answers for the Gaussian kernel; one-hot answers, whose Gram matrix is `match`."""
    if kernel == "gaussian":
        return survey.mean_answers
    tables = [survey.answers[question.id] for question in survey.questions]
    return jnp.concatenate(tables, axis=-1) / math.sqrt(len(tables))


def draw_map(responses: np.ndarray) -> Map:
    """The map of (D, F) mean responses, with the first group on the left and the most deviant one on top."""
    centre = responses.mean(0)
    _, sizes, axes = np.linalg.svd(responses - centre, full_matrices=False)
    sizes, axes = np.append(sizes, 0.0)[:2], np.vstack([axes, np.zeros_like(axes[:1])])[:2]
    positions = (responses - centre) @ axes.T
    farthest = positions[np.abs(positions[:, 1]).argmax(), 1]
    signs = np.where(np.array([-positions[0, 0], farthest]) < 0, -1.0, 1.0)
    total = ((responses - centre) ** 2).sum()
    return Map(positions * signs, sizes**2 / total if total > 0 else np.zeros(2), centre, axes * signs[:, None])


def indistinct(survey: Survey) -> list[tuple[int, int]]:
    """Pairs of groups whose answers the sample cannot tell apart: χ² test of homogeneity over all questions, p > 1 %.

    Counts are scaled to effective sample sizes. Questions count as independent; one respondent's answers are not
    quite, so a pair just past the threshold is no proof of a difference either.
    """
    n_groups = len(survey.groups)
    statistic, freedom = np.zeros((n_groups, n_groups)), np.zeros((n_groups, n_groups))
    for question in survey.questions:
        counts = np.asarray(question.counts, float)
        sizes = np.asarray(question.effective, float)
        counts = counts * (sizes / counts.sum(1))[:, None]
        both = counts[:, None] + counts[None]
        expected = both * (sizes[:, None] / (sizes[:, None] + sizes[None]))[:, :, None]
        given = both > 0
        excess = np.where(given, (counts[:, None] - expected) ** 2 / np.where(given, expected, 1), 0).sum(2)
        statistic += excess + excess.T
        freedom += given.sum(2) - 1
    p_values = chdtrc(np.maximum(freedom, 1), statistic)
    return [(d, e) for d in range(n_groups) for e in range(d + 1, n_groups) if p_values[d, e] > INDISTINCT]
