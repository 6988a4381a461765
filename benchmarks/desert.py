"""Out of the gradient desert: steering from populations that exclude groups, where gradients do not show the way.

    python benchmarks/desert.py [--games 100] [--output FOLDER]

writes desert.json and desert.md to FOLDER (benchmarks/results). A game is drawn from its seed: a population in which
every group reaches half its population share (so that the goal is known to be in reach), then its levers, the common
appeal (D,) or the targets (n, D), are changed until at least one group is excluded. From there three methods minimise
½ Σ max(0, 1.01·floor − S)² with at most 300 steps each: `steer`; its quasi-Newton descent on the exact gradient, but
without its ways out of the desert; and plain projected gradient descent with backtracking. A method succeeds where a
fresh solve at its levers shows every group at its floor.
"""

import argparse
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import RESULTS, described, environment, prose, table, write, write_json
from jax.tree_util import Partial

import jaxgame as jg
from jaxgame.steering.descent import minimise
from jaxgame.steering.objectives import shortfall
from jaxgame.steering.problem import Problem
from jaxgame.steering.search import OutOfSteps, Search
from jaxgame.steering.steer import steer

SHAPES = ((6, 4), (10, 6), (16, 8))
LEVERS = ("appeal", "targets")
MAX_STEPS = 300
MARGIN = 1.01  # of the floor: the objective approaches what it asks for from below


def with_appeal(game: Any, appeal: jax.Array) -> Any:
    return game.replace(appeal=appeal)


def with_targets(game: Any, targets: jax.Array) -> Any:
    return game.replace(targets=targets)


BUILD = {"appeal": with_appeal, "targets": with_targets}
CONSTRAINT = {"appeal": None, "targets": jg.simplex.project}


def draw(seed: int) -> tuple[Any, str, jax.Array, np.ndarray]:
    """A game that excludes a group, the name of its lever and where it stands, and the floors (D,)."""
    rng = np.random.default_rng([20260206, seed])
    n, n_groups = SHAPES[seed % len(SHAPES)]
    lever = LEVERS[seed // len(SHAPES) % len(LEVERS)]
    while True:
        features = rng.normal(size=(n_groups, 3))
        distance = ((features[:, None] - features[None]) ** 2).sum(-1)
        shares = rng.dirichlet(np.full(n_groups, 4.0))
        targets = rng.dirichlet(100 * shares, n)
        game = jg.AlignmentGame(
            jnp.asarray(targets),
            jnp.asarray(0.9 * np.exp(-distance / np.median(distance[distance > 0])) + 0.1 * np.eye(n_groups)),
            jnp.asarray(0.02 * rng.normal(size=n_groups)),
            attractiveness=jnp.asarray(rng.uniform(0.3, 1.5, n)),
            consistency=jnp.asarray(rng.uniform(0.5, 1.5, n)),
            diversity=jnp.asarray(np.full(n, rng.uniform(0, 0.2))),
            spread=jnp.ones(n_groups),
            reach=jnp.asarray(rng.dirichlet(np.full(n, 3.0))),
        )
        floors = shares / 2
        if not reached(jg.solve(game), MARGIN * floors):
            continue
        if lever == "appeal":
            start = rng.uniform(0.3, 1) * rng.normal(size=n_groups)
        else:
            left_out = rng.permutation(n_groups)[: rng.integers(1, n_groups // 2 + 1)]
            start = rng.dirichlet(4 * shares, n)
            start[:, left_out] = 0
            start /= start.sum(1, keepdims=True)
        before = jg.solve(BUILD[lever](game, jnp.asarray(start)))
        if bool(jg.excluded(before).any()):
            return game, lever, jnp.asarray(start), floors


def reached(equilibrium: Any, floors: np.ndarray) -> bool:
    return bool(equilibrium.converged) and bool((np.asarray(equilibrium.representation) >= floors).all())


def plain(problem: Problem) -> np.ndarray:
    """Projected gradient descent: the step doubles after a success and is halved until there is one."""
    point = problem.evaluate(problem.levers.start)
    length = 1.0
    for _ in range(MAX_STEPS):
        for _ in range(40):
            theta = problem.project(point.theta - length * point.gradient)
            move = theta - point.theta
            trial = problem.evaluate(theta, point.equilibrium.profile)
            if trial.usable and trial.value <= point.value + 1e-4 * point.gradient @ move:
                break
            length /= 2
        else:
            break
        if not move.any():
            break
        point, length = trial, 2 * length
    return point.theta


def without_ways_out(problem: Problem) -> np.ndarray:
    """The descent of `steer` on the exact gradient, to a stationary point."""
    point = problem.evaluate(problem.levers.start)
    search = Search(problem, point, MAX_STEPS)
    try:
        return minimise(search, point)[0].theta
    except OutOfSteps:
        return search.best.theta


def case(seed: int) -> dict[str, Any]:
    """One game, all methods."""
    game, lever, start, floors = draw(seed)
    build, constraint = Partial(BUILD[lever], game), CONSTRAINT[lever]
    objective = shortfall(MARGIN * floors)
    begin = time.perf_counter()
    plan = steer(
        build,
        start,
        objective=objective,
        constraint=constraint,
        goal=lambda equilibrium: reached(equilibrium, floors),
        max_steps=MAX_STEPS,
    )
    seconds = time.perf_counter() - begin
    problem = Problem(build, start, objective, None, constraint)

    def arrives(theta: np.ndarray) -> bool:
        return reached(jg.solve(build(problem.levers.unpack(theta))), floors)

    return {
        "seed": seed,
        "shape": [game.n_agents, game.n_groups],
        "lever": lever,
        "excluded": int(jg.excluded(plan.before).sum()),
        "steer": reached(plan.equilibrium, floors),
        "success": plan.success,
        "steps": len(plan.history["total"]),
        "phases": plan.details["phases"],
        "solves": plan.details["evaluations"],
        "seconds": seconds,
        "without_ways_out": arrives(without_ways_out(problem)),
        "plain": arrives(plain(problem)),
        "message": plan.message,
    }


def summary(cases: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "games": len(cases),
        "steer": sum(c["steer"] for c in cases),
        "proved": sum(c["success"] for c in cases),
        "without_ways_out": sum(c["without_ways_out"] for c in cases),
        "plain": sum(c["plain"] for c in cases),
        "signed": sum(c["phases"]["signed"] > 0 for c in cases),
        "barrier": sum(c["phases"]["barrier"] > 0 for c in cases),
        "median_solves": float(np.median([c["solves"] for c in cases])),
        "most_solves": max(c["solves"] for c in cases),
    }


def markdown(report: dict[str, Any]) -> str:
    rows = []
    for name, of in report["summary"].items():
        solves = f"{of['median_solves']:.0f} ({of['most_solves']})"
        ways = f"{of['signed']}, {of['barrier']}"
        rows.append([name, of["games"], of["steer"], of["proved"], of["without_ways_out"], of["plain"], ways, solves])
    header = ["levers", "games", "steer", "of these proved", "same descent, exact gradient only", "plain gradient"]
    header += ["used signed, barrier", "solves of steer: median (most)"]
    lines = [
        "# Out of the gradient desert",
        "",
        f"Written by `benchmarks/desert.py`. {described(report['environment'])}.",
        "",
        *prose(
            "Random alignment games (generator and seeds in the script) whose start excludes at least one group, and",
            "in which every group is known to be able to reach its floor, half its population share. Counted: games",
            "in which a fresh solve shows every group at its floor, after at most 300 steps of each method.",
        ),
        "",
        *table(header, rows),
    ]
    missed = [c for c in report["cases"] if not c["steer"]]
    lines += ["", "Missed by `steer`: " + (", ".join(f"seed {c['seed']}" for c in missed) or "none") + "."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Steering out of the gradient desert.")
    parser.add_argument("--games", type=int, default=100)
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    cases = []
    for seed in range(arguments.games):
        cases.append(case(seed))
        c = cases[-1]
        print(seed, c["lever"], c["shape"], c["steer"], c["success"], c["without_ways_out"], c["plain"], c["phases"],
              c["solves"], f"{c['seconds']:.1f} s", flush=True)  # fmt: skip
    by_lever = {lever: [c for c in cases if c["lever"] == lever] for lever in LEVERS}
    report = {
        "environment": environment("optax"),
        "summary": {name: summary(group) for name, group in [*by_lever.items(), ("both", cases)] if group},
        "cases": cases,
    }
    write_json(arguments.output / "desert.json", report)
    write(arguments.output / "desert.md", markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
