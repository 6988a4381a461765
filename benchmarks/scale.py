"""Large populations: how many reads and writes of the data does an equilibrium cost?

Every case runs in a process of its own, so that its peak memory is its own. Within it the unit, one read and write of
the population's (n, D) array into a fresh output (jitted 2 x + 1), and the solve take turns. With several devices, one
a core, the agents are spread over them. Writes scale.json, .md, .png and .svg.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import pathlib
import threading
import time
from typing import Any

import common
import jax
import matplotlib
import numpy as np

import jaxgame as jg

GROUPS = 16
METRICS = ("scalar wardrop", "scalar nash", "scaled nash", "response", "mixture")
RESIDUAL = {"float32": 1e-5, "float64": 1e-9}  # with unit step, in float64: what counts as solved


def population(kind: str, n: int, n_groups: int, dtype: Any) -> Any:
    """Two thirds of the weights are zero at equilibrium."""
    rng = np.random.default_rng(n + n_groups)
    linear = rng.standard_normal((n, n_groups), dtype=dtype)
    q = rng.uniform(0.5, 1.5, n).astype(dtype)
    if kind in ("response", "mixture"):
        distance = np.arange(n_groups)[:, None] - np.arange(n_groups)
        return jg.AlignmentGame(
            rng.dirichlet(np.full(n_groups, 0.3), n).astype(dtype),
            np.exp(-(distance**2) / 8).astype(dtype),
            linear,
            attractiveness=0.3,
            consistency=q,
            diversity=0.3,
            consistency_metric=kind,
        )
    B = rng.normal(size=(n_groups, n_groups))
    coupling = jg.MeanField((B @ B.T / n_groups).astype(dtype), atomic=not kind.endswith("wardrop"))
    if kind.startswith("scalar"):
        return jg.QuadraticGame(linear, q, coupling=coupling)
    basis = np.linalg.qr(rng.normal(size=(n_groups, n_groups)))[0]
    matrix = (basis * np.geomspace(1, 10, n_groups)) @ basis.T
    return jg.QuadraticGame(3 * linear, jg.Scaled(q, ((matrix + matrix.T) / 2).astype(dtype)), coupling=coupling)


def residual(game: Any, profile: Any) -> float:
    """The natural residual with unit step of 20,000 agents, in float64 and numpy, at the aggregate of all."""
    w, count = np.asarray(profile), len(profile)
    affine = game.affine()
    S = np.zeros(w.shape[1])
    reach = np.asarray(affine.others.reach, np.float64)
    for k in range(0, len(w), 100_000):
        S += reach[k : k + 100_000] @ w[k : k + 100_000].astype(np.float64)
    some = np.linspace(0, len(w) - 1, min(len(w), 20_000)).astype(int)

    def rows(x: Any) -> Any:
        return np.asarray(x[some] if x.shape[0] == count else x, np.float64)

    w = w[some].astype(np.float64)
    w /= w.sum(1, keepdims=True)
    total = rows(affine.own.diagonal) * w
    for coefficient, matrix in affine.own.terms:
        total = total + rows(coefficient)[:, None] * (w @ np.asarray(matrix, np.float64).T)
    felt = np.asarray(affine.others.B, np.float64) @ S
    ahead = w + rows(affine.linear) - total - rows(affine.others.sensitivity)[:, None] * felt
    ordered = -np.sort(-ahead, 1)
    levels = (np.cumsum(ordered, 1) - 1) / np.arange(1, w.shape[1] + 1)
    level = levels[np.arange(len(w)), (ordered > levels).sum(1) - 1]
    return float(np.abs(w - np.maximum(ahead - level[:, None], 0)).max())


class Peak:
    """The most memory a process has held, resident, while this is open: bytes above what it held at the start."""

    def __enter__(self) -> Peak:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what was freed but kept would hide what is taken
        self.start, self.most, self.open = self.now(), 0, True
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    @staticmethod
    def now() -> int:
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096

    def watch(self) -> None:
        while self.open:
            self.most = max(self.most, self.now() - self.start)
            time.sleep(0.002)

    def __exit__(self, *_: Any) -> None:
        self.open = False
        self.thread.join()


def held(game: Any, data: int) -> float:
    """Bytes of the data and what a warm solve adds at its peak."""
    statistics = jax.devices()[0].memory_stats()
    if statistics:  # an accelerator's own: the most since the process began, which was a solve
        return statistics["peak_bytes_in_use"]
    with Peak() as peak:
        jax.block_until_ready(jg.solve(game))
    return data + peak.most


def measured(kind: str, n: int, n_groups: int, precision: str, devices: int, repeats: int) -> dict[str, Any]:
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_enable_x64", precision == "float64")
    game = population(kind, n, n_groups, np.dtype(precision))
    x = game.targets if kind in ("response", "mixture") else game.linear
    game = jax.block_until_ready(game if devices == 1 else jg.shard(game))
    data = sum(leaf.nbytes for leaf in jax.tree.leaves(game))
    unit = jax.jit(lambda x: 2 * x + 1)
    cold, found = common.seconds(lambda: jg.solve(game))
    record: dict[str, Any] = dict(
        kind=kind,
        n=n,
        groups=n_groups,
        precision=precision,
        devices=devices,
        converged=bool(found.converged),
        passes=int(found.steps),
        bound=float(found.residual),
        gap=float(found.gap),
        residual=residual(game, found.profile),
        excluded=float((found.profile <= 0).mean()),
        cold=cold,
    )
    record["success"] = record["converged"] and record["residual"] <= RESIDUAL[precision] * (
        3 if "scaled" in kind else 1
    )
    del found
    kept = n * n_groups * np.dtype(precision).itemsize
    record["memory"] = held(game, data) / (data + kept)
    common.seconds(lambda: unit(x))
    units, times = [], []
    for _ in range(repeats):
        units.append(common.seconds(lambda: unit(x))[0])
        times.append(common.seconds(lambda: jg.solve(game))[0])
    return record | dict(
        unit=min(units), seconds=float(np.median(times)), ratio=float(np.median(times)) / min(units), units=units
    )


def cases(quick: bool) -> list[tuple[str, int, int, str, int]]:
    """The most telling first: the report is written after every case."""
    if jax.default_backend() != "cpu":
        sizes = {"scalar wardrop": (6, 7, 8), "scalar nash": (6, 7, 8)} | {kind: (7,) for kind in METRICS[2:]}
        out = [(kind, 10**size, GROUPS, "float32", 1) for kind in METRICS for size in sizes[kind]]
        out.append(("scalar nash", 10**7, GROUPS, "float64", 1))
        return [case for case in out if not quick or case[1] <= 10**6]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    million, ten = 1_000_000, 10_000_000
    out = [(kind, million, GROUPS, "float32", devices) for kind in METRICS for devices in sorted({1, cores})]
    out += [(kind, ten, GROUPS, "float32", devices) for kind in METRICS[:2] for devices in sorted({1, cores})]
    out += [(kind, million, GROUPS, "float64", 1) for kind in METRICS]
    out += [("scalar nash", n, GROUPS, "float32", 1) for n in (300_000, 3_000_000)]
    out = [] if quick else out
    small = (100_000, 10_000, 1000)
    out += [(kind, n, GROUPS, precision, 1) for n in small for precision in RESIDUAL for kind in METRICS]
    return out if quick else out + [("scalar nash", million, n_groups, "float32", 1) for n_groups in (4, 8, 32, 64)]


def draw(records: list[dict[str, Any]], stem: pathlib.Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    precisions = [precision for precision in RESIDUAL if any(r["precision"] == precision for r in records)]
    size = 1 + 4.5 * len(precisions), 4
    figure, axes = plt.subplots(1, len(precisions), figsize=size, layout="constrained", sharey=True, squeeze=False)
    axes = axes[0]
    colours = dict(zip(METRICS, ("#0072B2", "#56B4E9", "#D55E00", "#009E73", "#CC79A7"), strict=True))
    markers = dict(zip(METRICS, "osD^v", strict=True))
    for axis, precision in zip(axes, precisions, strict=True):
        for kind in METRICS:
            chosen = kind, precision, GROUPS, 1
            shown = [r for r in records if (r["kind"], r["precision"], r["groups"], r["devices"]) == chosen]
            shown.sort(key=lambda r: r["n"])
            axis.loglog(
                [r["n"] for r in shown],
                [r["seconds"] / r["n"] * 1e6 for r in shown],
                marker=markers[kind],
                color=colours[kind],
                label=kind,
            )
        axis.set(title=precision, xlabel="agents")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("time to a certified equilibrium, µs an agent")
    axes[0].legend(frameon=False)
    common.save_figure(figure, stem)


def report(records: list[dict[str, Any]], environment: dict[str, Any], output: pathlib.Path) -> None:
    header = [
        "population",
        "precision",
        "n",
        "D",
        "devices",
        "× read + write",
        "s",
        "passes",
        "residual",
        "bound",
        "memory",
        "cold s",
        "",
    ]
    rows = [
        [
            r["kind"],
            r["precision"],
            f"{r['n']:,}",
            r["groups"],
            r["devices"],
            f"{r['ratio']:.1f}",
            f"{r['seconds']:.3g}",
            r["passes"],
            f"{r['residual']:.0e}",
            f"{r['bound']:.0e}",
            f"{r['memory']:.2f}",
            f"{r['cold']:.1f}",
            "solved" if r["success"] else "FAILED",
        ]
        for r in records
    ]
    lines = [
        "# Large populations",
        "",
        *common.prose(
            "× read + write: the solve as a multiple of jitted 2 x + 1 on the (n, D) data, in one process by turns;",
            "below 10⁶ agents the data is in cache and the unit next to nothing. residual: natural, unit step, float64",
            "and numpy, 20,000 agents at the aggregate of all. bound: what `solve` proves, scale-free. memory: data",
            "and what a warm solve adds at its peak, over data and profile. devices: over which agents are spread.",
        ),
        "",
        common.described(environment),
        "",
        *common.table(header, rows),
        "",
    ]
    common.write_json(output / "scale.json", dict(environment=environment, records=records))
    common.write(output / "scale.md", "\n".join(lines))
    draw(records, output / "scale")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to 100,000 agents")
    parser.add_argument("--output", type=pathlib.Path, default=common.RESULTS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        kind, n, n_groups, precision, devices = json.loads(options.case)
        print(json.dumps(measured(kind, n, n_groups, precision, devices, 3 if n > 1_000_000 else 7)))
        return
    # An accelerator's memory is for the processes of the cases.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    environment = common.environment("jaxlib")
    common.in_processes(__file__, cases(options.quick), lambda records: report(records, environment, options.output))
    print((options.output / "scale.md").read_text())


if __name__ == "__main__":
    main()
