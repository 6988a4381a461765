"""Agents that learn, on the plane of mixtures in which they move most."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from jaxgame.dynamics import Simulation
from jaxgame.report.figures.style import BLACK, BLUE, GREY, ORANGE, PALE, VERMILLION, new, styled
from jaxgame.report.text import percent

MOST = 60  # agents drawn
FAINT = 0.12  # length of an arrow, of the longest, below which the plane says nothing about a group


def draw(simulation: Simulation, groups: Sequence[str], title: str, note: str) -> Figure:
    """The figure: every agent's way from ring to dot, the mean's in bold, the equilibrium as crosses, groups as names.

    The plane is that of the first two principal components of all mixtures on the way: of all planes it shows most of
    what happens. groups: names of the vertices.
    """
    with styled():
        return _draw(simulation, groups, title, note)


def principal_plane(profiles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre (D,), axes (2, D) and shares (2,) of the variation of mixtures (…, D)."""
    rows = profiles.reshape(-1, profiles.shape[-1])
    centre = rows.mean(0)
    values, vectors = np.linalg.eigh((rows - centre).T @ (rows - centre))
    axes, sizes = vectors.T[::-1], np.maximum(values[::-1], 0)
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    if len(axes) < 2:
        axes, sizes = np.vstack([axes, np.zeros_like(axes)]), np.append(sizes, 0)
    total = sizes.sum()
    return centre, axes[:2], sizes[:2] / total if total > 0 else np.zeros(2)


def _draw(simulation: Simulation, groups: Sequence[str], title: str, note: str) -> Figure:
    chosen = np.unique(np.linspace(0, simulation.profiles.shape[1] - 1, MOST).astype(int))
    profiles = np.asarray(simulation.profiles[:, chosen], float)
    goal = np.asarray(simulation.equilibrium.profile, float)[chosen]
    mean = np.asarray(simulation.representations, float)
    centre, axes, explained = principal_plane(np.concatenate([profiles.reshape(-1, profiles.shape[-1]), goal]))
    ways, ends, middle = ((x - centre) @ axes.T for x in (profiles, goal, mean))
    figure = new(3.75, title, note)
    plot = figure.subplots()
    plot.plot(ways[:, :, 0], ways[:, :, 1], color=BLUE, lw=0.5, alpha=0.6)
    plot.plot(*ways[0].T, "o", mfc="white", mec=GREY, ms=3.5, mew=0.7, ls="", label="start", zorder=3)
    plot.plot(*ways[-1].T, "o", color=BLUE, ms=3, ls="", label=f"after {len(ways) - 1} rounds", zorder=4)
    plot.plot(*ends.T, "x", color=VERMILLION, ms=5, mew=1, ls="", label="equilibrium", zorder=5)
    plot.plot(*middle.T, color=ORANGE, lw=1.6, label="representation", zorder=4)
    shown = np.concatenate([ways.reshape(-1, 2), ends])
    middle_of, half = (shown.max(0) + shown.min(0)) / 2, 0.62 * np.ptp(shown, axis=0).max() or 0.5
    # Vertices are far away: arrows towards them, as long as that much of a step that way shows on the plane.
    arms = (np.eye(len(centre)) - centre) @ axes.T
    arms = arms / (np.linalg.norm(arms, axis=1).max() or 1.0)
    halo = [withStroke(linewidth=1.6, foreground="white")]
    for name, arm in zip(groups, arms, strict=True):
        if np.linalg.norm(arm) < FAINT:
            continue
        tip = middle_of + 0.75 * half * arm
        plot.annotate("", tip, middle_of, arrowprops=dict(arrowstyle="->", lw=0.6, color=PALE), zorder=0)
        side, rise = np.where(np.abs(arm) > 0.3 * np.linalg.norm(arm), np.sign(arm), 0).astype(int)
        plot.text(
            float(tip[0]), float(tip[1]), textwrap.fill(name, 12),
            fontsize=5.5, color=BLACK, path_effects=halo, zorder=6, linespacing=0.95,
            ha=("right", "center", "left")[side + 1], va=("top", "center", "bottom")[rise + 1],
        )  # fmt: skip
    plot.plot([], [], color=PALE, lw=0.8, label="towards a group")
    plot.set_xlim(middle_of[0] - half, middle_of[0] + half)
    plot.set_ylim(middle_of[1] - half, middle_of[1] + half)
    plot.set_aspect("equal")
    plot.set_xlabel(f"first principal direction ({percent(explained[0])} of the movement)")
    plot.set_ylabel(f"second ({percent(explained[1])})")
    plot.legend(loc="upper center", bbox_to_anchor=(0.46, -0.14), ncols=3, columnspacing=1.0, handletextpad=0.4)
    return figure
