"""What the benchmark scripts share: interleaved timing, a record of the environment, and files written whole."""

import json
import os
import pathlib
import platform
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import jax
from rich.progress import Progress

RESULTS = pathlib.Path(__file__).parent / "results"


def environment(*packages: str) -> dict[str, Any]:
    """What a reader needs to judge the numbers: the machine, how busy it was, and versions."""
    return {
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in ("jax", *packages)},
    }


def described(record: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in record.items())


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Time of one call, until its result is there; and the result."""
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    return time.perf_counter() - start, result


def interleaved(functions: dict[str, Callable[[], Any]], budget: float, least: int = 3) -> dict[str, list[float]]:
    """Times of warm calls, by turns in one process, so that what else runs on the machine strikes all alike.

    Everyone is called once; further rounds leave out those who have had `least` calls and their share of the budget
    (seconds), or whose next call would not fit into what is left of it.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + budget

    def due(seen: list[float]) -> bool:
        fits = not seen or min(seen) < end - time.perf_counter()
        return fits and (len(seen) < least or sum(seen) < budget / len(functions))

    while names := [name for name, seen in times.items() if due(seen)]:
        for name in names:
            times[name].append(seconds(functions[name])[0])
    return times


def in_processes(script: str, cases: Sequence[Any], report: Callable[[list[dict[str, Any]]], None]) -> None:
    """`script --case CASE` (JSON) in a process of its own for every case: the last line that each prints is its record.

    report: is given all records so far, after every case.
    """
    records: list[dict[str, Any]] = []
    with Progress() as progress:
        bar = progress.add_task("cases", total=len(cases))
        for case in cases:
            progress.update(bar, description=", ".join(f"{x:,}" if isinstance(x, int) else str(x) for x in case))
            command = [sys.executable, script, "--case", json.dumps(case)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{case} failed:\n{done.stderr}")
            records.append(json.loads(done.stdout.splitlines()[-1]))
            report(records)
            progress.advance(bar)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of a markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def prose(*sentences: str) -> list[str]:
    """Lines of a paragraph of markdown."""
    return textwrap.wrap(" ".join(sentences), 118)


def write(path: pathlib.Path, text: str) -> None:
    """Write a file under a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def write_json(path: pathlib.Path, report: dict[str, Any]) -> None:
    write(path, json.dumps(report, indent=1, allow_nan=False) + "\n")


def save_figure(figure: Any, stem: pathlib.Path) -> None:
    """The figure as PNG and SVG; it is closed."""
    from matplotlib import pyplot

    stem.parent.mkdir(parents=True, exist_ok=True)
    for kind in ("png", "svg"):
        temporary = stem.with_name(f"{stem.name}.tmp.{kind}")
        figure.savefig(temporary, dpi=160, metadata={"Date": None} if kind == "svg" else None)
        temporary.replace(stem.with_name(f"{stem.name}.{kind}"))
    pyplot.close(figure)
