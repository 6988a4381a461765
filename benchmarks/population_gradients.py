"""Gradients of large populations: what does one cost beside the solve, in time and memory, and how wrong is it?

The gradient of a scalar of the representation in all arrays of the game, of the populations of `scale.py`, a process
each. The error is that of a directional derivative against central differences of solves in float64. Writes
population_gradients.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
from typing import Any

import common
import jax
import numpy as np
import scale

import jaxgame as jg

MILLION = 1_000_000
STEP = 1e-7  # of the differences


def measured(kind: str, n: int, precision: str, devices: int, repeats: int) -> dict[str, Any]:
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_enable_x64", precision == "float64")
    game = scale.population(kind, n, scale.GROUPS, np.dtype(precision))
    game = jax.block_until_ready(game if devices == 1 else jg.shard(game))
    data = sum(leaf.nbytes for leaf in jax.tree.leaves(game))
    towards = np.linspace(-1, 1, game.n_groups, dtype=precision)

    def shown(game: Any) -> Any:
        return jg.solve(game).representation @ towards

    def gradient() -> Any:
        return jax.value_and_grad(shown)(game)

    jax.block_until_ready(jg.solve(game))
    with scale.Peak() as alone:
        jax.block_until_ready(jg.solve(game))
    cold, (_, slopes) = common.seconds(gradient)
    with scale.Peak() as both:
        jax.block_until_ready(gradient())
    times = [(common.seconds(lambda: jg.solve(game))[0], common.seconds(gradient)[0]) for _ in range(repeats)]
    return dict(
        kind=kind,
        n=n,
        precision=precision,
        devices=devices,
        cold=cold,
        solve=float(np.median([solve for solve, _ in times])),
        overhead=float(np.median([whole / solve - 1 for solve, whole in times])),
        memory=(data + both.most) / (data + alone.most),
        error=error(game, slopes, towards) if precision == "float64" else None,
    )


def error(game: Any, slopes: Any, towards: np.ndarray) -> float:
    """Relative, of the derivative in a direction that changes every array by as much as its size."""
    direction = jax.tree.map(lambda x: np.cos(np.arange(x.size)).reshape(x.shape) * np.asarray(x), game)

    def shown(step: float) -> float:
        moved = jax.tree.map(lambda x, d: x + step * d, game, direction)
        return float(np.asarray(jg.solve(moved, tol=1e-13).representation) @ towards)

    found = sum(
        float((np.asarray(x) * d).sum()) for x, d in zip(*map(jax.tree.leaves, (slopes, direction)), strict=True)
    )
    return abs(found - (shown(STEP) - shown(-STEP)) / (2 * STEP)) / abs(found)


def report(records: list[dict[str, Any]], environment: dict[str, Any], output: pathlib.Path) -> None:
    header = ["population", "precision", "n", "devices", "solve s", "gradient", "its memory", "cold s", "error"]
    rows = [
        [
            r["kind"],
            r["precision"],
            f"{r['n']:,}",
            r["devices"],
            f"{r['solve']:.3g}",
            f"+{r['overhead']:.2f} ×",
            f"{r['memory']:.2f} ×",
            f"{r['cold']:.1f}",
            "" if r["error"] is None else f"{r['error']:.0e}",
        ]
        for r in records
    ]
    lines = [
        "# Gradients of large populations",
        "",
        *common.prose(
            "gradient: of a scalar of the representation in all arrays of the game, time beyond the solve, over the",
            "solve's. its memory: data and what is added at the peak, over the same of a solve. cold: the first one,",
            "with compilation. error: relative, of a directional derivative, against central differences.",
        ),
        "",
        common.described(environment),
        "",
        *common.table(header, rows),
        "",
    ]
    common.write_json(output / "population_gradients.json", dict(environment=environment, records=records))
    common.write(output / "population_gradients.md", "\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=MILLION)
    parser.add_argument("--output", type=pathlib.Path, default=common.RESULTS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measured(*json.loads(options.case), repeats=5)))
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    n, kinds = options.agents, scale.METRICS
    todo = [(kind, n, "float32", devices) for kind in kinds for devices in sorted({1, cores})]
    todo += [(kind, n // 10, "float64", 1) for kind in kinds]
    environment = common.environment("jaxlib")
    common.in_processes(__file__, todo, lambda records: report(records, environment, options.output))
    print((options.output / "population_gradients.md").read_text())


if __name__ == "__main__":
    main()
