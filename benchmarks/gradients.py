"""What the gradient through an equilibrium costs, in time and memory, and how wrong it is.

    python benchmarks/gradients.py [--quick] [--timeout 20] [--budget 3] [--output FOLDER]

The games of peers.py. The gradient of the scalar ⟨u, S⟩, u random and S the mean mixture, in the linear terms a (n, D),
by: jaxgame; jaxopt's implicit differentiation of Anderson acceleration, with its default linear solver and with GMRES
to 1e-10, and of accelerated projected gradient (`sym` only); reverse-mode differentiation of unrolled projected
gradient steps; central differences of jaxgame's solve. Everyone solves to the same residual as in peers.py, in float64,
compiled. The error is the largest of all entries, relative to the largest entry of the gradient that numpy computes
from the active faces by a refined linear solve. Central differences are taken in a few entries, their time is that of
2·n·D solves. Memory is what XLA allocates for temporaries and results (`memory_analysis` of the compiled function; the
arguments come on top), in multiples of the game's arrays; it is exact, and independent of what else runs.

Writes gradients.json and gradients.md, after every game. Needs the extra `bench`: pip install -e .[bench]
"""

import argparse
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import common
import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import peers
from jax import Array
from jaxopt.linear_solve import solve_gmres, solve_normal_cg
from peers import Case, Run

import jaxgame as jg

SMALL = [(10, 8, 10), (10, 8, 1000), (100, 16, 10), (100, 16, 1000)]
LARGE = [(1000, 16, 10), (10**4, 16, 10), (10**5, 16, 10)]
GOALS = {"error": 1e-9, "overhead": 1.0, "memory": 2.0}
UNROLLED_BYTES = 4e9  # what unrolling may store
DIFFERENCES, STEP = 8, 1e-5


class Objective:
    """⟨u, S⟩ on one game, and its gradient in a, by numpy."""

    def __init__(self, case: Case):
        self.case = case
        self.u = np.random.default_rng([1, *case.shape]).normal(size=case.size)
        self.profile = np.asarray(jg.solve(case.game).profile)
        self.residual = case.residual(self.profile)
        self.gradient = adjoint(case, self.profile > 0, np.tile(self.u / case.n, (case.n, 1)))

    def __call__(self, profile: Array) -> Array:
        return jnp.asarray(self.u) @ profile.mean(0)

    def error(self, gradient: np.ndarray) -> float:
        return float(np.abs(gradient - self.gradient).max() / np.abs(self.gradient).max())


def adjoint(case: Case, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """y with P Jᵀ y = P v on the tangent space of the faces, J w = q_i Q w_i + B Σ_{j≠i} w_j: dense, agent by agent.

    Through the sum over agents, as y_i = G_i (v_i − Bᵀ Σ_j y_j), and refined on the whole system.
    """
    count = face.sum(1)

    def tangent(x: np.ndarray) -> np.ndarray:
        return np.where(face, x - (np.where(face, x, 0).sum(1) / count)[:, None], 0)

    P = face[:, :, None] * (np.eye(case.size) - 1 / count[:, None, None]) * face[:, None, :]
    own = P @ (case.q[:, None, None] * case.Q - case.B.T) @ P + np.eye(case.size) - P
    G = P @ np.linalg.solve(own, P)
    shared = np.eye(case.size) + G.sum(0) @ case.B.T

    def apply(y: np.ndarray) -> np.ndarray:
        return tangent(case.q[:, None] * (y @ case.Q) - y @ case.B + y.sum(0) @ case.B)

    def solve(v: np.ndarray) -> np.ndarray:
        alone = np.einsum("ide,ie->id", G, v)
        total = np.linalg.solve(shared, alone.sum(0))
        return np.einsum("ide,ie->id", G, v - total @ case.B)

    y = np.zeros(case.shape)
    for _ in range(3):
        y = y + solve(tangent(weights) - apply(y))
    return y


# The methods: each takes (case, objective, seconds allowed) and returns the solve (the profile) and the gradient (the
# value and the slope in a), compiled.


class Compiled:
    """A function with its arguments, compiled; and what XLA allocates to run it."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.program = jax.jit(function).lower(*arguments).compile()
        self.run: Run = functools.partial(self.program, *arguments)
        memory: Any = self.program.memory_analysis()
        self.bytes = memory.temp_size_in_bytes + memory.output_size_in_bytes


Method = tuple[Compiled, Compiled]


def differentiated(solve: Callable[..., Array], objective: Objective, *arguments: Any) -> Method:
    value = jax.value_and_grad(lambda *data: objective(solve(*data)))
    return Compiled(solve, *arguments), Compiled(value, *arguments)


def jaxgame(case: Case, objective: Objective, limit: float) -> Method:
    return differentiated(lambda a, game: jg.solve(game.replace(linear=a)).profile, objective, case.data[0], case.game)


def jaxgame_all(case: Case, objective: Objective, limit: float) -> Method:
    """The gradient in every array of the game."""

    def gradient(game: jg.QuadraticGame) -> tuple[Array, Array, Any]:
        value, slope = jax.value_and_grad(lambda game: objective(jg.solve(game).profile))(game)
        return value, slope.linear, [leaf for leaf in jax.tree.leaves(slope) if leaf is not slope.linear]

    return Compiled(lambda game: jg.solve(game).profile, case.game), Compiled(gradient, case.game)


def anderson(case: Case, objective: Objective, limit: float, linear_solve: Any) -> Method:
    solver = jaxopt.AndersonAcceleration(
        peers.jax_step,
        history_size=5,
        ridge=1e-30,
        tol=1e-8 / case.L,
        maxiter=peers.iterations(case, limit / 2),
        implicit_diff_solve=linear_solve,
    )
    return differentiated(lambda *data: solver.run(case.uniform, data).params, objective, *case.data)


def fista(case: Case, objective: Objective, limit: float) -> Method:
    solver = jaxopt.ProjectedGradient(
        lambda w, data: data[4] * peers.jax_potential(w, data),
        lambda w, _: jax.vmap(peers.projection_simplex)(w),
        stepsize=1.0,
        tol=1e-9 / case.L,
        maxiter=peers.iterations(case, limit),
    )
    return differentiated(lambda *data: solver.run(case.uniform, None, data).params, objective, *case.data)


def unrolled(case: Case, objective: Objective, limit: float) -> Method:
    """As many projected gradient steps as the residual takes; backwards they take some four times as long."""
    steps, most = 16, peers.iterations(case, limit / 5)
    while case.residual(np.asarray(stepped(case.uniform, case.data, steps))) > peers.TARGET:
        steps *= 2
        if (stored := 4 * steps * case.uniform.nbytes) > UNROLLED_BYTES:
            raise MemoryError(f"{steps} steps store about {stored / 1e9:.0f} GB")
        if steps > most:
            raise TimeoutError(f"{steps} steps take more than {limit:g} s")
    return differentiated(lambda *data: stepped(case.uniform, data, steps), objective, *case.data)


@functools.partial(jax.jit, static_argnames="steps")
def stepped(start: Array, data: tuple[Array, ...], steps: int) -> Array:
    return jax.lax.scan(lambda w, _: (peers.jax_step(w, data), None), start, None, length=steps)[0]


METHODS: dict[str, Callable[[Case, Objective, float], Method]] = {
    "jaxgame": jaxgame,
    "jaxgame, all arrays": jaxgame_all,
    "jaxopt Anderson, default": functools.partial(anderson, linear_solve=solve_normal_cg),
    "jaxopt Anderson, GMRES": functools.partial(anderson, linear_solve=functools.partial(solve_gmres, tol=1e-10)),
    "jaxopt ProjectedGradient": fista,
    "unrolled": unrolled,
}


def why_not(name: str, case: Case, known: dict[str, dict[str, Any]], limit: float) -> str | None:
    """Why a method is not run; `known`: its results on the last smaller game of this kind and κ."""
    if name == "jaxopt ProjectedGradient" and case.kind != "sym":
        return "needs a potential"
    before = known.get(name)
    if before is None:
        return None
    if not before["success"]:
        return "failed on a smaller game"
    expected = before["seconds"] * case.n * case.size / before["unknowns"]
    return f"{expected:.0f} s expected" if expected > limit else None


def differences(case: Case, objective: Objective, solve: Compiled) -> float:
    """The error of central differences of jaxgame's solve, from a few entries."""
    a, rng = np.asarray(case.data[0]), np.random.default_rng(0)
    entries = np.argwhere(objective.profile > 0)
    worst = 0.0
    for i, d in entries[rng.permutation(len(entries))[:DIFFERENCES]]:
        ends = []
        for move in (STEP, -STEP):
            moved = np.array(a)
            moved[i, d] += move
            ends.append(float(objective(solve.program(jnp.asarray(moved), case.game))))
        worst = max(worst, abs((ends[0] - ends[1]) / (2 * STEP) - objective.gradient[i, d]))
    return worst / float(np.abs(objective.gradient).max())


def measure(case: Case, known: dict[str, dict[str, Any]], limit: float, budget: float) -> dict[str, Any]:
    objective = Objective(case)
    own = sum(leaf.nbytes for leaf in jax.tree.leaves(case.game))
    results: dict[str, dict[str, Any]] = {}
    runs: dict[str, Run] = {}
    methods: dict[str, Method] = {}
    for name, prepare in METHODS.items():
        if reason := why_not(name, case, known, limit):
            results[name] = {"success": False, "skipped": reason}
            continue
        try:
            methods[name] = solve, gradient = prepare(case, objective, limit)
            residual = case.residual(np.asarray(solve.run()))
            results[name] = {
                "success": residual <= peers.TARGET,
                "residual": peers.finite(residual),
                "wrong_by": peers.finite(objective.error(np.asarray(gradient.run()[1]))),
                "memory": gradient.bytes / own,
                "memory_of_solve": solve.bytes / own,
            }
            runs[f"{name}: solve"], runs[f"{name}: gradient"] = solve.run, gradient.run
        except Exception as failure:  # a method's failure is a result
            results[name] = {"success": False, "error": f"{type(failure).__name__}: {str(failure)[:200]}"}
        print(f"    {name}: {results[name]}", flush=True)
    times = {name: float(np.median(seen)) for name, seen in common.interleaved(runs, budget).items()}
    for name in methods:
        took, alone = times[f"{name}: gradient"], times[f"{name}: solve"]
        results[name] |= {"seconds": took, "solve_seconds": alone, "overhead": took / alone - 1}
    for name, result in results.items():
        if "skipped" not in result:
            known[name] = {"unknowns": case.n * case.size, **result}
    alone, solves = results["jaxgame"]["solve_seconds"], 2 * case.n * case.size
    results["central differences"] = {
        "success": True,
        "wrong_by": differences(case, objective, methods["jaxgame"][0]),
        "seconds": solves * alone,
        "solve_seconds": alone,
        "overhead": solves,
    }
    return {
        "kind": case.kind,
        "shape": case.shape,
        "kappa": case.kappa,
        "zeros": float((objective.profile == 0).mean()),
        "residual": objective.residual,
        "bytes": own,
        "results": results,
    }


def cell(result: dict[str, Any]) -> str:
    """Time of value and gradient, overhead on the solve, memory, error."""
    if "skipped" in result:
        return "–" if result["skipped"] == "needs a potential" else f"– ({result['skipped']})"
    if "error" in result:
        return f"**{result['error'].partition(':')[2].strip() or 'error'}**"
    wrong = "**not finite**" if result["wrong_by"] is None else f"{result['wrong_by']:.0e}"
    memory = f", {result['memory']:.3g} ×" if "memory" in result else ""
    failed = "" if result["success"] else f", **residual {result['residual']:.0e}**"
    return f"{peers.duration(result['seconds'])}, {100 * result['overhead']:+.0f} %{memory}, {wrong}{failed}"


def verdict(case: dict[str, Any]) -> list[str]:
    """jaxgame's figures beside the goals."""
    ours, everything = case["results"]["jaxgame"], case["results"]["jaxgame, all arrays"]

    def judged(value: float | None, goal: float, text: str) -> str:
        return text if value is not None and value <= goal else f"**{text}**"

    return [
        peers.label(case),
        peers.duration(ours["solve_seconds"]),
        judged(ours["wrong_by"], GOALS["error"], f"{ours['wrong_by']:.0e}"),
        judged(ours["overhead"], GOALS["overhead"], f"{ours['overhead']:.2f}"),
        judged(everything["overhead"], GOALS["overhead"], f"{everything['overhead']:.2f}"),
        judged(ours["memory"], GOALS["memory"], f"{ours['memory']:.1f}"),
        f"{ours['memory_of_solve']:.1f}",
    ]


def text(report: dict[str, Any]) -> str:
    lines = ["# The gradient through an equilibrium", ""]
    lines += common.prose(
        "Written by `benchmarks/gradients.py`, which says what is compared.",
        common.described(report["environment"]) + ".",
    )
    lines += [""]
    lines += common.prose(
        f"jaxgame beside its goals: error ≤ {GOALS['error']:g}, gradient ≤ {GOALS['overhead']:g} × the solve (value",
        "and gradient, less the solve, over the solve), temporaries and results of value and gradient, as XLA",
        f"allocates them, ≤ {GOALS['memory']:g} × the game's arrays. Bold: missed.",
    )
    header = ["game", "solve", "error", "overhead", "overhead, all arrays", "memory", "memory of the solve"]
    lines += ["", *common.table(header, [verdict(case) for case in report["cases"]]), ""]
    lines += common.prose(
        "All methods: time of value and gradient, overhead on the method's own solve, memory, error. Medians of warm",
        "calls by turns in one process.",
    )
    names = [*METHODS, "central differences"]
    rows = [[peers.label(case), *(cell(case["results"][name]) for name in names)] for case in report["cases"]]
    lines += ["", *common.table(["game", *names], rows)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost and error of the gradient through an equilibrium.")
    parser.add_argument("--quick", action="store_true", help="up to a hundred agents")
    parser.add_argument("--timeout", type=float, default=20, help="seconds a method may take for one game")
    parser.add_argument("--budget", type=float, default=3, help="seconds of timing a game, beyond one call of everyone")
    parser.add_argument("--output", type=pathlib.Path, default=common.RESULTS)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    cases: list[dict[str, Any]] = []
    report = {
        "environment": common.environment("jaxopt", "numpy"),
        "goals": GOALS,
        "timeout": arguments.timeout,
        "cases": cases,
    }
    for kind in ("sym", "nonsym"):
        known: dict[float, dict[str, dict[str, Any]]] = {}
        for n, size, kappa in SMALL if arguments.quick else SMALL + LARGE:
            print(f"{kind}, ({n}, {size}), κ = {kappa}", flush=True)
            case = Case(kind, n, size, kappa)
            cases.append(measure(case, known.setdefault(kappa, {}), arguments.timeout, arguments.budget))
            # After every game: nothing is lost when a long run is stopped.
            common.write_json(arguments.output / "gradients.json", report)
            common.write(arguments.output / "gradients.md", text(report))
    print(text(report))


if __name__ == "__main__":
    main()
