"""sweep(): the equilibrium on a grid of any named parameters, in chunks that are finished one by one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgame import _checks
from jaxgame.maps.axes import checked, sized
from jaxgame.maps.follow import Follower, Interrupted
from jaxgame.maps.result import Sweep
from jaxgame.maps.routes import Route, branch_routes, main_route
from jaxgame.maps.store import Folder, Memory, digest
from jaxgame.solvers import Solver

FILE = "sweep.npz"
Report = Callable[[int, int], None]
SUMMED = ("representation", "signed", "residual", "exploitability", "status", "steps")


def sweep(
    build: Callable[..., Any],
    axes: Mapping[str, Any],
    *,
    solver: Solver | None = None,
    tol: float | None = None,
    max_steps: int | None = None,
    tolerance: float = 1e-3,
    starts: int | None = 3,
    groups: Any = (),
    out: str | Path | None = None,
    progress: bool | Report = False,
    limit: int = 2**33,
) -> Sweep:
    """The equilibrium of `build(**point)` at every point of the grid that the axes span.

    build: the names of the axes as keyword arguments -> a game; traced once, so of games of one kind and shape, with
    numbers in arrays. axes: name -> increasing values (N,), N ≥ 2. solver, tol, max_steps: as in `solve`. tolerance:
    largest share of an excluded group. groups: their names, kept with the result. limit: bytes that results may take.

    Points are solved many at a time, most of them from a neighbour's solution, on all devices, on a CPU on all cores.
    Where the equilibrium is not proved to be unique a point is solved from the uniform profile, and also along every
    axis in both directions and from `starts` other profiles, in which agents first follow their marginal utilities for
    a while: `disagreement` says how far apart these answers are. starts=None leaves that out.

    out: a folder for sweep.npz (see `Sweep.save`). What is finished is kept there on the way, and the same call goes
    on from it after Ctrl-C or a crash, to the same file. progress: True for a bar on a terminal, or a function called
    as progress(points done, points in all), in which an exception ends the sweep.

    Raises ValueError for axes that are none (with the size where they are too large), for what `solve` raises it, or a
    folder with parts of another sweep; OSError where it cannot be written.
    """
    axes = checked(build, axes)
    starts_more = _counted("starts", starts) if starts is not None else 0
    tolerance = float(_checks.array("tolerance", tolerance, np.float64 if _wide() else np.float32, ()))
    if tolerance < 0:
        raise ValueError(f"tolerance is {tolerance}, expected a number ≥ 0")
    follower = Follower(build, axes, solver, tol, max_steps, starts_more)
    D = follower.game.n_groups
    groups = tuple(str(name) for name in groups)
    if groups and len(groups) != D:
        raise ValueError(f"groups has {len(groups)} names, expected {D}")
    sized(axes, (2 * D + 4) * np.dtype(follower.dtype).itemsize + 8, limit)
    mark = _mark(follower, axes, (solver, tol, max_steps, tolerance, starts, groups))
    if out is not None and (known := _finished(Path(out) / FILE, mark)) is not None:
        return known
    store = Memory() if out is None else Folder(Path(out), mark)
    if "unique" not in store:
        store.write("unique", {"unique": follower.unique()})
    unique = store.read("unique")["unique"]
    routes = [main_route(follower.shape, unique)]
    if starts is not None:
        routes += branch_routes(follower.shape, unique, starts_more)
    parts = {
        f"{route.kind.replace(' ', '-')}-{k:05d}": part
        for route in routes
        for k, part in enumerate(route.split(follower.lanes))
    }
    with _shown(progress) as report:
        _run(follower, parts, store, report)
    found = _assembled(follower, parts, store, unique, starts is not None)
    result = Sweep(axes, **found, tolerance=tolerance, groups=groups, about=_about(follower, mark, starts is not None))
    if out is not None:
        result.save(Path(out) / FILE)
    store.close()
    return result


def _run(follower: Follower, parts: dict[str, Route], store: Any, report: Report) -> None:
    """Every part that is not there yet, some at a time."""
    total = sum(int(route.counts.sum()) for route in parts.values())
    left = {name: route for name, route in parts.items() if name not in store}
    done = total - sum(int(route.counts.sum()) for route in left.values())
    report(done, total)
    stop, lock = threading.Event(), threading.Lock()
    devices = jax.local_devices()
    workers = _cores() if len(devices) == 1 and devices[0].platform == "cpu" else len(devices)
    workers = workers if follower.shares_cores or devices[0].platform != "cpu" else 1

    def told(count: int) -> None:
        nonlocal done
        with lock:
            done += count

    def one(k: int, name: str, route: Route) -> None:
        with jax.default_device(devices[k % len(devices)]):
            store.write(name, follower.follow(route, stop, told))

    with ThreadPoolExecutor(max(1, min(workers, len(left)))) as pool:
        waiting = {pool.submit(one, k, name, route) for k, (name, route) in enumerate(left.items())}
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                report(done, total)
        except BaseException as error:
            stop.set()
            for future in waiting:
                future.cancel()
            if isinstance(error, Interrupted):
                raise KeyboardInterrupt from None
            raise


def _assembled(
    follower: Follower, parts: dict[str, Route], store: Any, unique: np.ndarray, explored: bool
) -> dict[str, np.ndarray]:
    """The arrays over the grid from those of the parts."""
    size, D = unique.size, follower.game.n_groups
    whole: dict[str, np.ndarray] = {}
    for name, route in parts.items():
        if route.kind != "main":
            continue
        part = store.read(name)
        at = route.points[route.counts]
        for key in SUMMED:
            array = whole.setdefault(key, np.zeros((size, *part[key].shape[2:]), part[key].dtype))
            array[at] = part[key][route.counts]
    shown = whole["representation"]
    apart = np.where(unique, 0, np.nan).astype(shown.dtype)
    if explored:
        for name, route in parts.items():
            if route.kind == "main":
                continue
            at = route.points[route.counts]
            other = {key: array[route.counts] for key, array in store.read(name).items()}
            apart[at] = np.fmax(apart[at], np.abs(other["representation"] - shown[at]).max(-1))
            # Two may be represented alike and differ in who represents whom.
            most, there = (np.maximum(x, 0) for x in (other["signed"], whole["signed"][at]))
            apart[at] = np.fmax(apart[at], np.abs(most - there).max(-1))
    whole |= {"unique": unique, "disagreement": apart}
    return {key: array.reshape(*follower.shape, *((D,) if array.ndim == 2 else ())) for key, array in whole.items()}


def _mark(follower: Follower, axes: dict[str, np.ndarray], options: Any) -> dict[str, str]:
    """What tells a sweep from another."""
    from jaxgame.report.write import version

    return {
        "axes": digest(list(axes.values())) + " " + " ".join(axes),
        "games": digest(follower.sample()),
        "kind": f"{type(follower.game).__name__} {follower.game.n_agents} × {follower.game.n_groups} {follower.dtype}",
        "options": " ".join(type(x).__name__ if hasattr(x, "step") else repr(x) for x in options),
        "versions": f"jaxgame {version()}, jax {jax.__version__}, {jax.default_backend()}",
    }


def _about(follower: Follower, mark: dict[str, str], explored: bool) -> dict[str, Any]:
    kind = type(follower.game).__name__
    return {"game": kind, "agents": int(follower.game.n_agents), "explored": explored, "mark": mark}


def _finished(file: Path, mark: dict[str, str]) -> Sweep | None:
    """The sweep that is in a file already, if it is the one that is asked for."""
    try:
        known = Sweep.load(file)
    except (OSError, ValueError):
        return None
    return known if known.about.get("mark") == mark else None


@contextmanager
def _shown(progress: bool | Report) -> Iterator[Report]:
    if callable(progress):
        yield progress
        return
    if not progress:
        yield lambda done, total: None
        return
    from rich import progress as bars
    from rich.console import Console

    console = Console(stderr=True)
    columns = (
        bars.TextColumn("solving"),
        bars.BarColumn(),
        bars.TextColumn("{task.completed:,.0f}/{task.total:,.0f} points"),
        bars.TextColumn("{task.fields[rate]}"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, rate="")

        def report(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:,.0f} a second" if speed else "")

        yield report


def _counted(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise ValueError(f"{name} is {value!r}, expected an integer ≥ 0, or None")
    return int(value)


def _wide() -> bool:
    return bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
