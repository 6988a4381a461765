"""Many small games at once: how much of the work is useful, and how many games a second.

    python benchmarks/batches.py [--games 100000] [--quick] [--output FOLDER]

Games of 20 agents and 7 groups, a batch of mixed difficulty. Half are quadratic: condition numbers 10 to 1000 (80 %),
nearly degenerate (1e6 to 1e10; 10 %), merely monotone (9 %), and beyond hope (1 %: not monotone, or with NaN). Half are
alignment games over a grid of attractiveness and diversity, an eighth of all games for each metric and form of
diversity; some of them are not concave. Compared: `solve_many`; `jax.vmap(solve)` and a Python loop over `solve`, on
samples, since they would take hours; jaxopt's fixed-point iteration and Anderson acceleration under `vmap`, on samples.

Success is a natural residual (step 1/L, largest entry) of at most 1e-8 by numpy, outside the timing. Lane efficiency is
useful over computed lane-steps, counted. Weighted by time: the same games, each copied as often as lanes go together,
take their time with every game among its copies, which wastes nothing; over the time with all of them shuffled. Times
are CPU seconds of the process, of warm calls, in float64: pin it to one core (taskset -c 1), and it does not matter
what else the machine does.

Writes batches.json and batches.md, after every family. Needs the extra `bench`: pip install -e .[bench]
"""

import argparse
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import common
import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
from jaxopt.projection import projection_simplex
from peers import duration

import jaxgame as jg
from jaxgame import batch
from jaxgame.solvers.sizes import sizes

N, SIZE = 20, 7
TARGET = 1e-8
GOALS = {"efficiency": 0.7, "games a second on one core": 6250}
SAMPLE = 512  # games of a family for what is slow
COPIES = 8  # of each of these, for the efficiency by time
KINDS = ("conditioned", "nearly degenerate", "merely monotone", "hopeless")


class Family:
    """Games F_i = q_i Q w_i + B s̄_i − a_i, s̄_i the mean of the others; `game` as a batch of jaxgame's."""

    def __init__(self, name: str, game: Any, data: tuple[np.ndarray, ...], kind: np.ndarray | None = None):
        self.name, self.game, self.kind = name, game, kind
        q, Q, B, a = data
        finite = np.nan_to_num
        self.L = q.max(1) * np.linalg.norm(finite(Q), 2, (1, 2)) + np.linalg.norm(finite(B), 2, (1, 2)) * N / (N - 1)
        self.data = (q, Q, B, a, 1 / self.L)

    def __len__(self) -> int:
        return len(self.L)

    def some(self, index: np.ndarray) -> tuple[Any, tuple[jax.Array, ...]]:
        return jax.tree.map(lambda x: x[index], self.game), tuple(jnp.asarray(x[index]) for x in self.data)

    def solved(self, profile: np.ndarray, index: np.ndarray | slice = slice(None)) -> np.ndarray:
        q, Q, B, a, step = (x[index] for x in self.data)
        others = (profile.sum(1, keepdims=True) - profile) / (N - 1)
        slope = q[:, :, None] * (profile @ Q) + others @ B.swapaxes(1, 2) - a
        residual = np.abs(profile - projected(profile - step[:, None, None] * slope)).max((1, 2))
        return residual <= TARGET  # false for NaN


def projected(x: np.ndarray) -> np.ndarray:
    ordered = -np.sort(-x, -1)
    level = ((np.cumsum(ordered, -1) - 1) / np.arange(1, SIZE + 1)).max(-1, keepdims=True)
    return np.maximum(x - level, 0)


def quadratic(rng: np.random.Generator, count: int) -> Family:
    kind = rng.choice(4, count, p=[0.8, 0.1, 0.09, 0.01])
    basis = np.linalg.qr(rng.normal(size=(count, SIZE, SIZE)))[0]
    kappa = 10 ** np.where(kind == 1, rng.uniform(6, 10, count), rng.uniform(1, 3, count))
    values = kappa[:, None] ** (np.arange(SIZE) / (SIZE - 1) - 1) * np.minimum(kappa, 1000)[:, None]
    values[kind == 2] = 0
    values[kind == 3, 0] *= -30
    Q = np.einsum("bde,be,bfe->bdf", basis, values, basis)
    C = rng.normal(size=(count, SIZE, SIZE))
    C = C @ C.swapaxes(1, 2)
    skew = rng.normal(size=(count, SIZE, SIZE))
    skew = skew - skew.swapaxes(1, 2)
    C, skew = (x / np.linalg.norm(x, 2, (1, 2))[:, None, None] for x in (C, skew))
    B = 2 * (np.where(kind == 2, 0, 1)[:, None, None] * C + np.where(kind == 3, 8, 1)[:, None, None] * skew)
    q = rng.uniform(0.5, 1.5, (count, N))
    a = rng.normal(size=(count, N, SIZE)) * np.where(kind == 2, 0.3, np.sqrt(np.minimum(kappa, 1000)))[:, None, None]
    a[np.flatnonzero(kind == 3)[::2], 3, 2] = np.nan

    def build(a: jax.Array, q: jax.Array, Q: jax.Array, B: jax.Array) -> jg.QuadraticGame:
        return jg.QuadraticGame(a, jg.Scaled(q, Q), coupling=jg.MeanField(B, include_self=False))

    Q = (Q + Q.swapaxes(1, 2)) / 2
    game = jax.vmap(build)(*map(jnp.asarray, (a, q, Q, B)))
    return Family("quadratic", game, (q, Q, B * (N - 1) / N, a), kind)


def alignment(rng: np.random.Generator, count: int, form: str, metric: str) -> Family:
    side = int(np.ceil(count**0.5))
    alpha, delta = np.meshgrid(np.logspace(-1.5, 1, side), np.linspace(-0.8, 1.5, side), indexing="ij")
    alpha, delta = alpha.ravel()[:count], delta.ravel()[:count]
    points = rng.normal(size=(SIZE, 5))
    K = np.exp(-((points[:, None] - points[None]) ** 2).sum(-1) / 4)
    targets, appeal = rng.dirichlet(np.ones(SIZE), N), rng.normal(size=(N, SIZE))
    shared = tuple(map(jnp.asarray, (targets, K, appeal)))

    def build(alpha: jax.Array, delta: jax.Array) -> jg.AlignmentGame:
        options = dict(diversity_form=form, consistency_metric=metric)
        return jg.AlignmentGame(*shared, attractiveness=alpha, diversity=delta, **options)

    game = jax.vmap(build)(jnp.asarray(alpha), jnp.asarray(delta))
    own = K if metric == "response" else np.eye(SIZE)
    alpha, delta = alpha[:, None, None], delta[:, None, None]
    a = targets @ own + alpha * appeal + (delta * np.diag(K) / 2 if form == "pairwise" else 0)
    Q = own - (0 if form == "pairwise" else delta * K) + 0 * delta
    return Family(f"{form}, {metric}", game, (np.ones((count, N)), Q, delta * K, a))


# The peers, each (data) -> profiles, under vmap.


def step(w: jax.Array, data: tuple[jax.Array, ...]) -> jax.Array:
    q, Q, B, a, size = data
    others = (w.sum(0)[None] - w) / (N - 1)
    return jax.vmap(projection_simplex)(w - size * (q[:, None] * (w @ Q) + others @ B.T - a))


UNIFORM = np.full((N, SIZE), 1 / SIZE)
ANDERSON = jaxopt.AndersonAcceleration(step, history_size=5, ridge=1e-30, tol=1e-9, maxiter=1000)
FIXED_POINT = jaxopt.FixedPointIteration(step, tol=1e-9, maxiter=5000)
PEERS: dict[str, Callable[..., Any]] = {
    "jaxopt Anderson, vmap": jax.jit(jax.vmap(lambda *data: ANDERSON.run(jnp.asarray(UNIFORM), data).params)),
    "jaxopt FixedPointIteration, vmap": jax.jit(jax.vmap(lambda *d: FIXED_POINT.run(jnp.asarray(UNIFORM), d).params)),
}
plain_vmap = jax.jit(jax.vmap(jg.solve))


def computed(steps: np.ndarray, block: int, length: int) -> int:
    """Lane-steps that blocks of lanes in rounds of `length` steps compute, for games that need so many."""
    total, done = 0, 0
    while (left := steps[steps > done]).size:
        rounds = np.minimum(left - done, length)
        rounds = np.concatenate([rounds, np.zeros(-len(rounds) % block, int)])
        total += block * int(rounds.reshape(-1, block).max(1).sum())
        done += length
    return total


def efficiency(newton: np.ndarray, first_order: np.ndarray, chunk: int) -> dict[str, float]:
    """Useful over computed lane-steps: of `solve_many`, and of one while_loop under vmap."""
    block, useful = sizes().lanes, int(newton.sum() + first_order.sum())
    ours = 0
    for first in range(0, len(newton), chunk):
        part = slice(first, first + chunk)
        ours += computed(newton[part], block, 1) + computed(first_order[part], block, batch.FIRST_ORDER_ROUND)
    return {
        "solve_many": useful / ours,
        "vmap": useful / (len(newton) * int(newton.max() + first_order.max())),
    }


def seconds_of(function: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of one call, and its result."""
    start = time.process_time()
    result = jax.block_until_ready(function())
    return time.process_time() - start, result


def typical(function: Callable[[], Any], budget: float = 10) -> float:
    """The median of three calls, fewer where they take long."""
    times: list[float] = []
    while len(times) < 3 and sum(times) < budget:
        times.append(seconds_of(function)[0])
    return float(np.median(times))


def measure(family: Family, rng: np.random.Generator) -> dict[str, Any]:
    count = len(family)
    chosen = rng.permutation(count)[:8192]
    part = family.some(chosen)[0]
    newton = np.asarray(jg.solve_many(part, jg.AggregativeNewton()).steps)
    steps = np.asarray(jg.solve_many(part).steps)
    seconds, found = seconds_of(lambda: jg.solve_many(family.game))
    status, right = np.asarray(found.status), family.solved(np.asarray(found.profile))
    lane = jax.tree.map(lambda x: x[0], family.game)
    chunk = batch._chunk(family.game, count, sizes().lanes, (lane.n_agents, lane.n_groups), jnp.float64)
    # The same games, alike together and shuffled.
    few = rng.permutation(count)[:SAMPLE]
    alike = np.repeat(few, COPIES)
    shuffled = rng.permutation(alike)
    together, apart = family.some(alike)[0], family.some(shuffled)[0]
    jg.solve_many(together)
    ideal, mixed = typical(lambda: jg.solve_many(together)), typical(lambda: jg.solve_many(apart))
    results: dict[str, dict[str, Any]] = {
        "solve_many": {"rate": count / seconds, "success": float(right.mean()), "seconds": seconds}
    }

    def listed(name: str, function: Callable[[], Any], profile: Callable[[Any], Any]) -> float:
        good = family.solved(np.asarray(profile(function())), few)
        took = typical(function)
        # solve_many on the same games, COPIES times.
        ratio = COPIES * took / mixed
        results[name] = {"rate": len(few) / took, "success": float(good.mean()), "ratio": ratio}
        print(f"    {name}: {results[name]}", flush=True)
        return took

    print(f"    solve_many: {results['solve_many']}", flush=True)
    game, data = family.some(few)
    alone = [jax.tree.map(lambda x, k=k: x[k], game) for k in range(len(few))]
    listed("loop over solve", lambda: [jg.solve(each).profile for each in alone], np.stack)
    slow = listed("vmap(solve)", lambda: plain_vmap(game), lambda found: found.profile)
    for name, peer in PEERS.items():
        listed(name, functools.partial(peer, *data), lambda out: out)
    by_kind = {}
    if family.kind is not None:
        for k, name in enumerate(KINDS):
            mine = family.kind == k
            by_kind[name] = {
                "games": int(mine.sum()),
                "success": float(right[mine].mean()),
                "status": np.bincount(status[mine], minlength=4).tolist(),
                "steps": np.quantile(newton[family.kind[chosen] == k], [0.5, 0.9, 1]).tolist(),
            }
    return {
        "family": family.name,
        "games": count,
        "results": results,
        "status": np.bincount(status, minlength=4).tolist(),
        "honest": float((right == (status == 0)).mean()),
        "steps": {"mean": float(newton.mean()), "max": int(newton.max())},
        "first_order_steps": float((steps - newton).mean()),
        "efficiency": efficiency(newton, steps - newton, chunk),
        "efficiency_by_time": {"solve_many": ideal / mixed, "vmap": ideal / COPIES / slow},
        "kinds": by_kind,
        "chunk": chunk,
    }


def text(report: dict[str, Any]) -> str:
    cases = report["families"]
    lines = ["# Many games at once", ""]
    lines += common.prose(
        "Written by `benchmarks/batches.py`, which says what is compared.",
        common.described(report["environment"]) + ".",
        f"Blocks of {report['block']} games. CPU seconds on one core. Bold: goal missed.",
    )
    goal = GOALS["efficiency"]

    def judged(value: float, least: float, shown: str) -> str:
        return shown if value >= least else f"**{shown}**"

    rows = []
    for case in cases:
        counted, timed = case["efficiency"], case["efficiency_by_time"]
        rows.append(
            [
                case["family"],
                f"{case['steps']['mean']:.1f}, {case['steps']['max']}",
                f"{100 * counted['vmap']:.2g} %",
                judged(counted["solve_many"], goal, f"{100 * counted['solve_many']:.0f} %"),
                f"{100 * timed['vmap']:.2g} %",
                judged(timed["solve_many"], goal, f"{100 * timed['solve_many']:.0f} %"),
            ]
        )
    header = ["games", "Newton steps: mean, most", "vmap: lane-steps", "solve_many", "vmap: by time", "solve_many"]
    lines += ["", "Lane efficiency, useful over computed:", "", *common.table(header, rows), ""]
    lines += common.prose(
        "Games a second, and the share that succeeds: `solve_many` on all games, the others on a sample of",
        f"{report['sample']} a family, with their time as a multiple of `solve_many`'s for the same games. The goal is",
        f"{GOALS['games a second on one core']} a second on one core.",
    )
    names = list(cases[0]["results"])
    rows = []
    for case in cases:
        ours = case["results"]["solve_many"]["rate"]
        row = [f"{case['family']} ({case['games']})"]
        for name in names:
            result = case["results"][name]
            shown = f"{result['rate']:.4g}/s"
            if name == "solve_many":
                shown = judged(ours, GOALS["games a second on one core"], shown)
            ratio = "" if name == "solve_many" else f", {result['ratio']:.3g} ×"
            row.append(f"{shown}{ratio}, {100 * result['success']:.1f} %")
        rows.append(row)
    lines += ["", *common.table(["games", *names], rows), ""]
    total = sum(case["games"] for case in cases)
    seconds = sum(case["results"]["solve_many"]["seconds"] for case in cases)
    agree = sum(case["honest"] * case["games"] for case in cases) / total
    lines += common.prose(
        f"All {total} games: {duration(seconds)}, {total / seconds:.0f} a second. The status (converged or not) agrees",
        f"with the residual by numpy in {100 * agree:.3f} % of them. Status converged, out of steps, not finite,",
        "stalled, by family: " + "; ".join(f"{case['family']} {case['status']}" for case in cases) + ".",
    )
    kinds = [[name, *numbers.values()] for case in cases for name, numbers in case["kinds"].items()]
    header = ["quadratic", "games", "success", "status", "Newton steps: median, 90 %, most"]
    lines += ["", *common.table(header, kinds)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Many small games at once.")
    parser.add_argument("--games", type=int, default=100_000)
    parser.add_argument("--quick", action="store_true", help="4000 games")
    parser.add_argument("--output", type=pathlib.Path, default=common.RESULTS)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    count = 4000 if arguments.quick else arguments.games
    families: list[dict[str, Any]] = []
    report = {
        "environment": common.environment("jaxopt", "numpy"),
        "goals": GOALS,
        "block": sizes().lanes,
        "sample": SAMPLE,
        "families": families,
    }
    makers = [functools.partial(quadratic, count=count // 2)]
    for form in ("pairwise", "centroid"):
        for metric in ("response", "mixture"):
            makers.append(functools.partial(alignment, count=count // 8, form=form, metric=metric))
    for make in makers:
        rng = np.random.default_rng(0)
        family = make(rng)
        print(f"{family.name}, {len(family)} games", flush=True)
        start = time.perf_counter()
        families.append(measure(family, rng))
        print(f"    {duration(time.perf_counter() - start)}", flush=True)
        # After every family: nothing is lost when a long run is stopped.
        common.write_json(arguments.output / "batches.json", report)
        common.write(arguments.output / "batches.md", text(report))
    print(text(report))


if __name__ == "__main__":
    main()
