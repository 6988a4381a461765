"""Maps: equilibria a second on a grid, next to other ways to fill it, and exact boundaries next to dense solves.

    python benchmarks/sweep.py [--side 500] [--quick] [--output FOLDER]

Grids of side × side games over (α/γ, δ/γ), 20 agents and 7 groups with the kernel of gss2018-ideology: agents that are
all alike, and agents with targets of their own. Timed is the whole of `jg.sweep`: building games, proving uniqueness,
solving and certifying every point. The first call compiles; the second is what is compared. Wall time depends on what
else the machine does, CPU time of the process less so; both are written down, with the load. The others, on a sample
of the same games in random order: a Python loop over `jg.solve`, `jax.vmap(jg.solve)`, jaxopt's fixed-point iteration
and Anderson acceleration under `vmap`. Success is a natural residual of at most 1e-8 by numpy, outside the timing.

Lane efficiency: useful over computed lane-steps, counted from the steps of every point in the order in which they were
solved; of `jax.vmap(jg.solve)` on the sample.

Exactness: for two surveys, every point of a 200 × 200 map against the critical ratios of its row (a formula and a
homotopy, no grid); the path of a population of different agents against 10⁴ dense solves, its exclusions against the
critical ratios where all are alike; the polygons of a map in two directions of appeal against a dense grid.

Writes sweep.json, sweep.md and the phase diagrams as PNG and SVG. Needs the extra `bench`.
"""

import argparse
import os
import pathlib
import time
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
from batches import PEERS, SIZE, Family, N, computed, plain_vmap, seconds_of, typical
from peers import duration

import jaxgame as jg
from jaxgame.maps import follow
from jaxgame.maps.routes import main_route
from jaxgame.report.figures.phase import draw
from jaxgame.report.figures.style import save

GOAL = 250_000 / 20  # equilibria a second on two idle cores
SAMPLE = 512
SURVEYS = ("gss2018-ideology", "gss2018-ideology-age")
REACH = {"gss2018-ideology": (1.0, 1.0), "gss2018-ideology-age": (1.0, 1.0)}  # of the maps: α/γ and δ/γ
LABELS = {"attractiveness": "attractiveness, α/γ", "diversity": "diversity, δ/γ"}


def population(survey: jg.surveys.Survey, alike: bool) -> jg.AlignmentGame:
    shares = np.asarray(survey.shares)
    targets = None if alike else np.random.default_rng(0).dirichlet(20 * shares, N)
    return survey.game(N, targets=targets)


def rates(name: str, game: jg.AlignmentGame, side: int) -> dict[str, Any]:
    """Of one grid."""
    axes = {"attractiveness": np.linspace(0, 1, side), "diversity": np.linspace(0, 0.9, side)}

    def build(attractiveness: Any, diversity: Any) -> jg.AlignmentGame:
        return game.replace(attractiveness=attractiveness, diversity=diversity)

    times = []
    for _ in range(2):
        wall, cpu = time.perf_counter(), time.process_time()
        found = jg.sweep(build, axes)
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    points = found.status.size
    steps = main_route(found.shape, np.ones(points, bool))
    ours = 0
    for part in steps.split(follow.LANES):
        for t in range(part.points.shape[1]):
            ours += computed(found.steps.reshape(-1)[part.points[:, t]], follow.BLOCK, 1)
    rng = np.random.default_rng(1)
    few = rng.permutation(points)[: min(SAMPLE, points)]
    alpha, delta = (axes[key][k] for key, k in zip(axes, np.unravel_index(few, found.shape), strict=True))
    sample = family(name, game, alpha, delta, jax.vmap(build)(jnp.asarray(alpha), jnp.asarray(delta)))
    whole, data = sample.some(np.arange(len(few)))
    alone = [jax.tree.map(lambda x, k=k: x[k], whole) for k in range(len(few))]
    cold = np.asarray(jg.solve_many(whole).steps)
    rivals = {
        "loop over solve": lambda: np.stack([np.asarray(jg.solve(each).profile) for each in alone]),
        "vmap(solve)": lambda: plain_vmap(whole).profile,
        **{peer: lambda run=run: run(*data) for peer, run in PEERS.items()},
    }
    others = {}
    for rival, run in rivals.items():
        good = sample.solved(np.asarray(seconds_of(run)[1]))
        others[rival] = {"rate": len(few) / typical(run), "success": float(good.mean())}
        print(f"    {rival}: {others[rival]}", flush=True)
    return {
        "name": name,
        "points": points,
        "first": {"wall": times[0][0], "cpu": times[0][1]},
        "second": {"wall": times[1][0], "cpu": times[1][1]},
        "load": os.getloadavg()[0],
        "converged": float(found.converged.mean()),
        "unique": float(found.unique.mean()),
        "residual": float(found.residual.max()),
        "exploitability": float(found.exploitability.max()),
        "steps": {"mean": float(found.steps.mean()), "most": int(found.steps.max()), "cold": float(cold.mean())},
        "efficiency": {"sweep": float(found.steps.sum() / ours), "vmap": float(cold.mean() / cold.max())},
        "others": others,
    }


def family(name: str, game: jg.AlignmentGame, alpha: np.ndarray, delta: np.ndarray, batch: Any) -> Family:
    """A sample of the grid in the form that the peers take."""
    K, targets = np.asarray(game.kernel), np.asarray(game.targets)
    alpha, delta = alpha[:, None, None], delta[:, None, None]
    a = targets @ K + alpha * np.asarray(game.appeal) + delta * np.asarray(game.spread) / 2
    return Family(name, batch, (np.ones((len(alpha), N)), K + 0 * delta, delta * K, a))


def map_of(name: str, side: int, folder: pathlib.Path) -> dict[str, Any]:
    """The phase diagram of a survey, checked point by point against the critical ratios of its row."""
    survey = jg.surveys.load(name)
    game = survey.game(N)  # alike, so that how many there are does not matter (theory §3.1)
    axes = {key: np.linspace(0, top, side) for key, top in zip(LABELS, REACH[name], strict=True)}

    def build(attractiveness: Any, diversity: Any) -> jg.AlignmentGame:
        return game.replace(attractiveness=attractiveness, diversity=diversity)

    found = jg.sweep(build, axes, tolerance=0, groups=survey.groups)
    edges = jg.boundaries(build, found)
    wrong, near, apart = 0, 0, []
    alpha = axes["attractiveness"]
    cell = alpha[1] - alpha[0]
    for j, delta in enumerate(axes["diversity"]):
        row = jg.path(lambda a, delta=delta: build(a, delta), 0.0, float(alpha[-1]))
        out = ~row.support.any(0)
        expected = np.tile(out, (side, 1))
        for s, group, kind in row.exclusions:
            expected[alpha > s, group] = kind == "leaves"
        bad = expected != found.excluded[:, j]
        events = {d: np.array([s for s, group, _ in row.exclusions if group == d]) for d in range(len(out))}
        for i, d in np.argwhere(bad):
            close = events[int(d)].size and np.abs(events[int(d)] - alpha[i]).min() <= cell
            near, wrong = near + bool(close), wrong + (not close)
        # Crossings of this row, found by bisection, against the events of the path.
        for d, points in enumerate(edges.crossings):
            here = points[points[:, 1] == delta, 0]
            here = here[(here > alpha[0]) & ~np.isin(here, alpha)]
            if here.size and events[d].size:
                apart += np.abs(events[d][:, None] - here[None]).min(0).tolist()
    count = f"{100 * found.excluded.any(-1).mean():.0f} %"
    title = f"Some group is left out in {count} of this map"
    note = f"{survey.source}; {N} agents, γ = 1; pairwise diversity, response metric."
    save(draw(found, title, note, edges.segments, LABELS), folder, f"phase-{name}")
    return {
        "survey": name,
        "points": found.status.size,
        "unique": float(found.unique.mean()),
        "misclassified beyond a cell": wrong,
        "misclassified within a cell": near,
        "boundary, largest error": max(apart, default=0.0),
        "crossings": sum(len(points) for points in edges.crossings),
    }


def exact(quick: bool) -> dict[str, Any]:
    """Paths and polygons against dense solves."""
    survey = jg.surveys.load(SURVEYS[0])
    alike, different = population(survey, True), population(survey, False).replace(diversity=0.1)
    start = time.perf_counter()
    path = jg.path(lambda s: different.replace(attractiveness=s), 0, 2)
    seconds = time.perf_counter() - start
    s = np.linspace(0, 2, 1000 if quick else 10_000)
    dense = jg.solve_many(jax.vmap(lambda s: different.replace(attractiveness=s))(jnp.asarray(s)))
    apart = np.abs(path.profile_at(s) - np.asarray(dense.profile)).max()
    edges = np.array([event.s for event in path.events])
    clear = np.abs(edges[None] - s[:, None]).min(1) > 1e-9
    support, wrong = path.support.copy(), 0
    events = iter([*path.events, None])
    event = next(events)
    for at, profile, sure in zip(s, np.asarray(dense.profile), clear, strict=True):
        while event is not None and event.s < at:
            support[event.agent, event.group] = event.kind == "enters"
            event = next(events)
        wrong += int(sure and (support != (profile > 1e-12)).any())
    ratios = np.asarray(jg.critical_ratios(alike))
    first = jg.path(lambda s: alike.replace(attractiveness=s), 0, 3).exclusions
    error = max(abs(at - ratios[group]) for at, group, _ in first)
    direction = jnp.asarray(0.1 * np.random.default_rng(2).normal(size=SIZE))
    build = lambda a, b: different.replace(attractiveness=1.0, appeal=different.appeal * a + direction * b)  # noqa: E731
    box = {"a": (0.0, 1.0), "b": (-1.0, 1.0)}
    start = time.perf_counter()
    regions = jg.regions(build, box)
    polygons = time.perf_counter() - start
    side = 100 if quick else 200
    swept = jg.sweep(build, {key: np.linspace(*ends, side) for key, ends in box.items()}, tolerance=0)
    grid = np.stack(np.meshgrid(*swept.axes.values(), indexing="ij"), -1).reshape(-1, 2)
    missed = (regions.excluded_at(grid).reshape(swept.excluded.shape) != swept.excluded).any(-1).sum()
    return {
        "path": {
            "events": len(path.events), "seconds": seconds, "solves": len(s), "largest difference": float(apart),
            "supports that differ": wrong, "against critical ratios": float(error),
        },
        "regions": {
            "polygons": len(regions.regions), "seconds": polygons, "covered": regions.covered,
            "kinds": len({region.excluded for region in regions.regions}), "points": swept.status.size,
            "misclassified": int(missed),
        },
    }  # fmt: skip


def text(report: dict[str, Any]) -> str:
    lines = ["# Maps", ""]
    lines += common.prose(
        "Written by `benchmarks/sweep.py`, which says what is compared.",
        common.described(report["environment"]) + ".",
        f"Bold: below the goal of {GOAL:,.0f} equilibria a second on two idle cores.",
    )
    rows = []
    for case in report["rates"]:
        second = case["second"]
        rate = case["points"] / second["wall"]
        shown = f"{rate:,.0f}/s"
        rows.append(
            [
                f"{case['name']} ({case['points']:,})",
                f"{duration(second['wall'])}, {shown if rate >= GOAL else f'**{shown}**'}",
                f"{case['points'] / second['cpu']:,.0f}/s",
                f"{case['load']:.1f}",
                duration(case["first"]["wall"]),
                f"{100 * case['converged']:.4g} %, {100 * case['unique']:.4g} %",
                f"{case['residual']:.2g}, {case['exploitability']:.2g}",
                f"{case['steps']['mean']:.2f}, {case['steps']['most']} ({case['steps']['cold']:.2f} cold)",
                f"{100 * case['efficiency']['sweep']:.0f} % ({100 * case['efficiency']['vmap']:.0f} %)",
            ]
        )
    header = ["grid", "wall", "a CPU second", "load", "first call", "converged, unique", "largest residual, gap",
              "steps: mean, most", "lanes (vmap)"]  # fmt: skip
    lines += ["", *common.table(header, rows), "", "Others, on a sample: games a CPU second, and how many succeed.", ""]
    names = list(report["rates"][0]["others"]) if report["rates"] else []
    rows = [
        [case["name"], *(f"{x['rate']:,.4g}/s, {100 * x['success']:.1f} %" for x in case["others"].values())]
        for case in report["rates"]
    ]
    lines += [*common.table(["grid", *names], rows), "", "Exactness:", ""]
    for case in report["maps"]:
        lines += [
            f"* `{case['survey']}`, {case['points']:,} points over (α/γ, δ/γ), all agents alike, against paths along "
            f"every row: {case['misclassified within a cell']} misclassified within a cell of a boundary, "
            f"{case['misclassified beyond a cell']} beyond; {case['crossings']:,} crossings of edges by bisection, at "
            f"most {case['boundary, largest error']:.2g} from the path's events."
        ]
    path, regions = report["exact"]["path"], report["exact"]["regions"]
    lines += [
        f"* A path of {path['events']} events (20 different agents, {duration(path['seconds'])} with compilation) "
        f"against {path['solves']:,} dense solves: profiles at most {path['largest difference']:.2g} apart, "
        f"{path['supports that differ']} supports differ; where all are alike, exclusions against critical ratios: "
        f"{path['against critical ratios']:.2g}.",
        f"* {regions['polygons']:,} polygons of {regions['kinds']} kinds in two directions of appeal "
        f"({duration(regions['seconds'])} with compilation), which cover {regions['covered']:.12f} of the box, "
        f"against {regions['points']:,} solves: {regions['misclassified']} misclassified.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Maps of the incentive space.")
    parser.add_argument("--side", type=int, default=500, help="points along each axis of the timed grids")
    parser.add_argument("--quick", action="store_true", help="smaller grids")
    parser.add_argument("--output", type=pathlib.Path, default=common.RESULTS)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    side = 60 if arguments.quick else arguments.side
    report: dict[str, Any] = {"environment": common.environment("jaxopt", "numpy"), "rates": [], "maps": []}
    survey = jg.surveys.load(SURVEYS[0])
    report["exact"] = exact(arguments.quick)
    print(report["exact"], flush=True)
    for name in SURVEYS:
        report["maps"].append(map_of(name, 50 if arguments.quick else 200, arguments.output))
        print(report["maps"][-1], flush=True)
    for name, alike in (("all alike", True), ("targets of their own", False)):
        report["rates"].append(rates(name, population(survey, alike), side))
        print(report["rates"][-1], flush=True)
        common.write_json(arguments.output / "sweep.json", report)
        common.write(arguments.output / "sweep.md", text(report))
    print(text(report))


if __name__ == "__main__":
    main()
