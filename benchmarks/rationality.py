"""Rationality and exclusion: whom do more rational agents leave out?

Logit responses of agents on the map of a survey, from ϱ = 0 (uniform) to ϱ = ∞ (Nash), theory §9. That agents which
reason more are more rational in this sense is a modelling choice of this project, and no measurement. Writes
rationality.json, .md, .png and .svg, and phase-rationality.png and .svg, a map over rationality and attractiveness.
"""

from __future__ import annotations

import argparse
import pathlib

import common
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import jaxgame as jg
from jaxgame.report.figures import phase
from jaxgame.report.figures.style import save

SURVEY, AGENTS, ATTRACTIVENESS, TOLERANCE = "gss2018-ideology", 10, 0.6, 1e-3
TABLE = (0.0, 10.0, 30.0, 100.0, 300.0, 1000.0, np.inf)
CURVE = np.geomspace(1, 1e4, 81)
MAP = {"log_rationality": np.linspace(0.0, 4.0, 41), "attractiveness": np.linspace(0.0, 1.2, 41)}
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#000000", "#E69F00", "#D55E00", "#CC79A7")


def population(survey: jg.surveys.Survey):
    return survey.game(AGENTS, attractiveness=ATTRACTIVENESS)


def along(game, rationality) -> jg.Equilibrium:
    """Equilibria, one a rationality."""
    found = jg.solve_many(jax.vmap(lambda r: jg.with_rationality(game, r))(jnp.asarray(rationality)))
    if not np.asarray(found.converged).all():
        raise RuntimeError(str(found.message))
    return found


def draw(shares: np.ndarray, groups: tuple[str, ...], stem: pathlib.Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for name, share, colour in zip(groups, shares.T, COLOURS, strict=True):
        axis.loglog(CURVE, share, color=colour, label=name)
    axis.axhline(TOLERANCE, color="#767676", lw=0.8, ls="--")
    axis.text(CURVE[0], TOLERANCE * 1.1, "excluded below", fontsize=7, color="#767676", va="bottom")
    axis.set(xlabel="rationality ϱ", ylabel="largest share that any agent gives", ylim=(1e-6, 1))
    axis.set_title("Our modelling choice: reasoning as rationality of logit responses", fontsize=8, loc="left")
    axis.legend(frameon=False, fontsize=7, loc="lower left")
    common.save_figure(figure, stem)


def mapped(survey: jg.surveys.Survey, folder: pathlib.Path) -> dict[str, int]:
    """The phase diagram; agents are alike, so that two of them play as any number does (theory §3.1)."""
    game = survey.game(2)

    def build(log_rationality, attractiveness):
        return jg.with_rationality(game.replace(attractiveness=attractiveness), 10**log_rationality)

    found = jg.sweep(build, MAP, tolerance=TOLERANCE, groups=survey.groups)
    edges = jg.boundaries(build, found)
    title = f"Some group is left out in {100 * found.excluded.any(-1).mean():.0f} % of this map"
    note = f"{survey.source}; agents alike, γ = 1, δ = 0. Rationality as a model of reasoning is our modelling choice."
    labels = {"log_rationality": "rationality, log₁₀ ϱ", "attractiveness": "attractiveness, α/γ"}
    save(phase.draw(found, title, note, edges.segments, labels), folder, "phase-rationality")
    return {
        "points": found.status.size,
        "converged": int(found.converged.sum()),
        "unique": int(found.unique.sum()),
        "crossings": sum(len(points) for points in edges.crossings),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, default=common.RESULTS)
    output = parser.parse_args().output
    jax.config.update("jax_enable_x64", True)
    survey = jg.surveys.load(SURVEY)
    game = population(survey)
    listed, drawn = along(game, TABLE), along(game, CURVE)
    out = np.asarray(jg.excluded(listed, tolerance=TOLERANCE))
    records = [
        dict(rationality=str(r), representation=np.asarray(s).tolist(), excluded=int(x.sum()), residual=float(e))
        for r, s, x, e in zip(TABLE, listed.representation, out, listed.residual, strict=True)
    ]
    environment = common.environment("jaxlib")
    lines = [
        "# Rationality and exclusion",
        "",
        *common.prose(
            f"Representation at the logit-response equilibrium of {AGENTS} agents on `{SURVEY}`, attractiveness",
            f"{ATTRACTIVENESS}, by rationality ϱ (0: uniform, ∞: Nash); excluded: no agent gives a group more than",
            f"{TOLERANCE:g}. float64. Reading ϱ as how much agents reason is a modelling choice of this project.",
        ),
        "",
        common.described(environment),
        "",
        *common.table(
            ["ϱ", *survey.groups, "excluded"],
            [
                ["∞" if r["rationality"] == "inf" else f"{float(r['rationality']):g}"]
                + [f"{s:.3f}" for s in r["representation"]]
                + [str(r["excluded"])]
                for r in records
            ],
        ),
        "",
    ]
    diagram = mapped(survey, output)
    lines += common.prose(
        f"The map over rationality and attractiveness has {diagram['points']:,} points:",
        f"{diagram['converged']:,} converged, {diagram['unique']:,} proved unique;",
        f"{diagram['crossings']} crossings of its edges by bisection.",
    )
    common.write_json(output / "rationality.json", dict(environment=environment, records=records, map=diagram))
    common.write(output / "rationality.md", "\n".join(lines))
    draw(np.asarray(drawn.profile).max(1), survey.groups, output / "rationality")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
