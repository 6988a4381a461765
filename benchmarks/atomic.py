"""Atomic and non-atomic: how far is the Nash equilibrium of n agents from the one that takes the aggregate as given?

The same agents play twice, counting their own effect on the aggregate (Nash) or not (Wardrop). The distance of the two
representations falls as 1/n (theory §6). Writes atomic.json, .md, .png and .svg.
"""

from __future__ import annotations

import argparse
import pathlib

import common
import jax
import matplotlib
import numpy as np
from rich.progress import track

import jaxgame as jg

GROUPS, SEEDS = 16, 10
SIZES = (4, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)


def distance(n: int, seed: int) -> float:
    """The largest difference between the two representations of a population."""
    rng = np.random.default_rng(seed)
    B = rng.normal(size=(GROUPS, GROUPS))
    B = B @ B.T / GROUPS
    linear, curvature = rng.normal(size=(n, GROUPS)), rng.uniform(0.5, 1.5, n)
    shown = []
    for atomic in (True, False):
        found = jg.solve(jg.QuadraticGame(linear, curvature, coupling=jg.MeanField(B, atomic=atomic)))
        if not found.converged:
            raise RuntimeError(f"{n} agents, seed {seed}, atomic={atomic}: {found.message}")
        shown.append(np.asarray(found.representation))
    return float(np.abs(shown[0] - shown[1]).max())


def draw(records: list[dict], stem: pathlib.Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.5, 4), layout="constrained")
    sizes = np.array([r["n"] for r in records])
    median = np.array([r["median"] for r in records])
    axis.fill_between(sizes, [r["least"] for r in records], [r["most"] for r in records], color="#56B4E9", alpha=0.3)
    axis.loglog(sizes, median, "o-", color="#0072B2", label=f"median of {SEEDS} populations, and all of them")
    axis.loglog(sizes, median[-1] * sizes[-1] / sizes, "k--", lw=1, label="1 / n")
    axis.set(xlabel="agents", ylabel="largest difference in representation")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    common.save_figure(figure, stem)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, default=common.RESULTS)
    output = parser.parse_args().output
    jax.config.update("jax_enable_x64", True)
    records = []
    for n in track(SIZES, "populations"):
        found = [distance(n, seed) for seed in range(SEEDS)]
        records.append(dict(n=n, least=min(found), median=float(np.median(found)), most=max(found)))
    tail = [r for r in records if r["n"] >= 100]
    slope = float(np.polyfit(np.log([r["n"] for r in tail]), np.log([r["median"] for r in tail]), 1)[0])
    environment = common.environment("jaxlib")
    rows = [[f"{r['n']:,}", *(f"{r[k]:.2e}" for k in ("least", "median", "most"))] for r in records]
    lines = [
        "# Atomic and non-atomic equilibria",
        "",
        *common.prose(
            f"Largest difference between the representations of Nash and Wardrop, {SEEDS} populations of {GROUPS}",
            f"groups each, float64. From 100 agents on it falls as n to the power {slope:.3f}.",
        ),
        "",
        common.described(environment),
        "",
        *common.table(["n", "least", "median", "most"], rows),
        "",
    ]
    common.write_json(output / "atomic.json", dict(environment=environment, slope=slope, records=records))
    common.write(output / "atomic.md", "\n".join(lines))
    draw(records, output / "atomic")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
