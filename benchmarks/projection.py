"""Time and accuracy of `jaxgame.simplex` against optax's projection (a sort under vmap).

    python benchmarks/projection.py [--output FOLDER]

writes projection.json and projection.md to FOLDER (benchmarks/results). The unit is one read and write of the same
array into a fresh output, jitted `2 * x + 1`. All candidates of a row of the table take turns in one process and the
best time of each counts, so that what matters is the ratio, not the seconds. From some size on (it depends on the
allocator) the unit is mostly the page faults of its fresh output, which every candidate pays as well. Every answer is
checked against a float64 sort.
"""

import argparse
import functools
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax.projections
from jax import lax

from jaxgame import simplex

BATCHES = [
    (10**6, 4),
    (10**6, 8),
    (10**6, 16),
    (10**5, 16),
    (10**5, 32),
    (10**5, 64),
    (10**4, 128),
    (1000, 1024),
    (500, 4096),
]
TINY = [(10, 8), (100, 16), (1000, 32)]
TINY_CALLS = 1000
SECONDS_EACH = 0.6

Candidate = Callable[[jax.Array], jax.Array]


def unit(x: jax.Array) -> jax.Array:
    return 2 * x + 1


def mixed_curvature(size: int) -> np.ndarray:
    return 1.0 + np.arange(size) % 3


def waterfill(x: jax.Array) -> jax.Array:
    return simplex.waterfill(x, mixed_curvature(x.shape[-1]))


def leading_axis(x: jax.Array) -> jax.Array:
    """The same mixtures stored as columns: takes and returns (D, n)."""
    return simplex.project(x, axis=0)


CANDIDATES: dict[str, Candidate] = {
    "project": simplex.project,
    "project under vmap": jax.vmap(simplex.project),
    "optax under vmap": jax.vmap(optax.projections.projection_simplex),
    "waterfill": waterfill,
    "project, axis 0": leading_axis,
}


def best_times(functions: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """The best of interleaved repeats in seconds, after two calls to compile and warm up."""
    for function in functions.values():
        jax.block_until_ready(function())
        jax.block_until_ready(function())
    times: dict[str, list[float]] = {name: [] for name in functions}
    running = set(functions)
    while running:
        for name in [name for name in functions if name in running]:
            start = time.perf_counter()
            jax.block_until_ready(functions[name]())
            times[name].append(time.perf_counter() - start)
            if len(times[name]) >= 3 and sum(times[name]) > SECONDS_EACH:
                running.remove(name)
    return {name: min(values) for name, values in times.items()}


def sorted_solution(linear: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    b, u = linear.astype(np.float64), 1 / curvature
    b -= b.max(-1, keepdims=True)
    order = np.argsort(-b, axis=-1)
    y, u = np.take_along_axis(b, order, -1), u[order]
    level = ((np.cumsum(y * u, -1) - 1) / np.cumsum(u, -1)).max(-1, keepdims=True)
    return np.maximum(b - level, 0) / curvature


def errors(name: str, w: np.ndarray, x: np.ndarray) -> dict[str, float]:
    """Distance to the float64 sort and infeasibility, of the first 1000 rows, in units of the input's eps."""
    size = x.shape[-1]
    eps = np.finfo(x.dtype).eps
    expected = sorted_solution(x, mixed_curvature(size) if name == "waterfill" else np.ones(size))
    w = w.astype(np.float64)
    return {
        "error_eps": float(abs(w - expected).max() / eps),
        "sum_error_eps": float(abs(w.sum(-1) - 1).max() / eps),
        "negative": bool((w < 0).any()),
    }


def batch_case(shape: tuple[int, int], dtype: type, level: float = 0.0) -> dict[str, Any]:
    x = jnp.asarray(level + np.random.default_rng(0).normal(size=shape), dtype)
    columns = jnp.array(x.T)
    inputs = {name: columns if name == "project, axis 0" else x for name in [*CANDIDATES, "unit"]}
    jitted = {name: jax.jit(function) for name, function in {**CANDIDATES, "unit": unit}.items()}
    times = best_times({name: functools.partial(function, inputs[name]) for name, function in jitted.items()})
    results = {}
    for name in CANDIDATES:
        w = np.asarray(jitted[name](inputs[name]))
        rows = (w.T if name == "project, axis 0" else w)[:1000]
        results[name] = {"seconds": times[name], "units": times[name] / times["unit"]}
        results[name] |= errors(name, rows, np.asarray(x[:1000])) | {"dtype": str(w.dtype)}
    return {
        "shape": shape,
        "dtype": np.dtype(dtype).name,
        "level": level,
        "unit_seconds": times["unit"],
        "results": results,
    }


def tiny_case(shape: tuple[int, int], dtype: type) -> dict[str, Any]:
    """Microseconds a call inside a jitted loop, as in a solver."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)

    def repeated(function: Candidate) -> Callable[[jax.Array], jax.Array]:
        return jax.jit(lambda x: lax.fori_loop(0, TINY_CALLS, lambda _, w: function(0.5 * w + x), x))

    names = ["project", "optax under vmap", "waterfill"]
    loops = {name: repeated(function) for name, function in [*((n, CANDIDATES[n]) for n in names), ("unit", unit)]}
    cold = {}
    for name, loop in loops.items():
        start = time.perf_counter()
        jax.block_until_ready(loop(x))
        cold[name] = time.perf_counter() - start
    times = best_times({name: functools.partial(loop, x) for name, loop in loops.items()})
    results = {n: {"microseconds": 1e6 * times[n] / TINY_CALLS, "cold_seconds": cold[n]} for n in loops}
    return {"shape": shape, "dtype": np.dtype(dtype).name, "results": results}


def table(report: dict[str, Any]) -> str:
    names = list(CANDIDATES)
    lines = [
        "# Simplex projection",
        "",
        "Written by `benchmarks/projection.py`. "
        + ", ".join(f"{k} {v}" for k, v in report["environment"].items())
        + ".",
        "",
        "Multiples of one read and write of the array (jitted `2 * x + 1`), best of interleaved repeats. In brackets",
        "the largest error of a weight against a float64 sort, in eps of the dtype.",
        "",
        f"| shape, dtype, level | unit, ms | {' | '.join(names)} |",
        "| --- |" + " --- |" * (len(names) + 1),
    ]
    for case in report["batches"]:
        cells = [f"{case['results'][n]['units']:.1f} ({case['results'][n]['error_eps']:.1g})" for n in names]
        label = f"{tuple(case['shape'])}, {case['dtype']}, {case['level']:g}"
        lines.append(f"| {label} | {1e3 * case['unit_seconds']:.2f} | {' | '.join(cells)} |")
    names = list(report["tiny"][0]["results"])
    lines += [
        "",
        "Microseconds a call inside a jitted loop; in brackets seconds of the first call, compilation included.",
        "",
        f"| shape, dtype | {' | '.join(names)} |",
        "| --- |" + " --- |" * len(names),
    ]
    for case in report["tiny"]:
        cells = [f"{r['microseconds']:.2f} ({r['cold_seconds']:.1f})" for r in (case["results"][n] for n in names)]
        lines.append(f"| {tuple(case['shape'])}, {case['dtype']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write(path: pathlib.Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and accuracy of the simplex projection.")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results")
    folder = parser.parse_args().output
    report: dict[str, Any] = {"batches": [], "tiny": []}
    # float32 with x64 off, as its users run it: with x64 on, optax returns float64 for it.
    for dtype in (np.float32, np.float64):
        jax.config.update("jax_enable_x64", dtype == np.float64)
        for shape in BATCHES:
            report["batches"].append(batch_case(shape, dtype))
        report["batches"].append(batch_case((10**5, 16), dtype, level=1e5))
        for shape in TINY:
            report["tiny"].append(tiny_case(shape, dtype))
    report["environment"] = {
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "optax": optax.__version__,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "projection.json", json.dumps(report, indent=1) + "\n")
    write(folder / "projection.md", table(report))
    print(table(report))


if __name__ == "__main__":
    main()
