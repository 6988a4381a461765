"""jaxgame against other solvers on the quadratic simplex game: same game, same residual, one process.

    python benchmarks/peers.py [--large] [--quick] [--timeout 20] [--budget 3] [--output FOLDER]

U_i = a_i·w_i − ½ q_i w_iᵀQ w_i − w_iᵀB Σ_{j≠i} w_j with cond Q = κ and B = (2/n)C: `sym`, C positive semidefinite of
norm 1, a potential game; `nonsym`, C plus a skew part of norm 1. a is random, at a scale at which about two thirds of
the weights of the equilibrium are zero. All start at the uniform profile, in float64, and succeed when the natural
residual (unit step, largest entry), computed by numpy outside the timing, is at most 1e-8. Peers get the loosest of a
few tolerances with which they succeed, and constants such as the Lipschitz constant for nothing; the matrices of OSQP
and Clarabel are built outside the timing. A peer that fails or runs out of time is not tried on larger games;
failures are listed beside the times. Writes peers.json and peers.md, after every game.

Needs the extra `bench`: pip install -e .[bench]
"""

import argparse
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import clarabel
import common
import jax
import jax.numpy as jnp
import jaxopt
import lineax
import numpy as np
import optimistix
import osqp
import scipy.sparse as sp
from jaxopt.projection import projection_simplex

import jaxgame as jg

TARGET = 1e-8
ZEROS = 0.65
SMALL = [(10, 8, 10), (10, 8, 1000), (100, 16, 10), (100, 16, 1000)]
MEDIUM = [(1000, 32, 10), (1000, 32, 1000), (10**5, 16, 10)]
LARGE = [(10**6, 8, 10)]
# Goals of the project: how many times faster than the best peer.
GOALS = {(10, 8): 2, (100, 16): 10, (1000, 32): 20, (10**5, 16): 50}
SWEEPS_GOAL = 40  # at 10⁶ agents: multiples of one read and write of the profile
DISPATCH_COUNTS = 1000  # up to so many agents, also time jaxgame called from inside a jitted function
DENSE_NEWTON = 1000  # largest n·D for which a peer may form its Jacobian


class Case:
    """One game, as numpy arrays, as arguments of jitted functions, and as a game of jaxgame's."""

    def __init__(self, kind: str, n: int, size: int, kappa: float, seed: int = 0):
        rng = np.random.default_rng([seed, n, size])
        self.kind, self.n, self.size, self.kappa = kind, n, size, kappa
        orthogonal = np.linalg.qr(rng.normal(size=(size, size)))[0]
        Q = orthogonal * np.logspace(0, np.log10(kappa), size) @ orthogonal.T
        self.Q = (Q + Q.T) / 2
        self.q = rng.uniform(0.5, 1.5, n)
        C = rng.normal(size=(size, size))
        C = C @ C.T / np.linalg.norm(C @ C.T, 2)
        if kind == "nonsym":
            skew = rng.normal(size=(size, size))
            C = C + (skew - skew.T) / np.linalg.norm(skew - skew.T, 2)
        self.B = 2 / n * C
        direction = rng.normal(size=(n, size))
        self.a = appeal_scale(direction, self.q, self.Q, (n - 1) / size * self.B.sum(1)) * direction
        self.L = self.q.max() * kappa + 2 * np.linalg.norm(C, 2)
        self.uniform = jnp.full((n, size), 1 / size)
        self.data = tuple(jnp.asarray(x) for x in (self.a, self.q, self.Q, self.B, 1 / self.L))
        coupling = jg.MeanField(jnp.asarray(n * self.B), include_self=False)
        self.game = jg.QuadraticGame(self.data[0], jg.Scaled(self.data[1], self.data[2]), coupling=coupling)

    @property
    def shape(self) -> tuple[int, int]:
        return self.n, self.size

    def game_map(self, w: np.ndarray) -> np.ndarray:
        return self.q[:, None] * (w @ self.Q) + (w.sum(0) - w) @ self.B.T - self.a

    def residual(self, profile: np.ndarray) -> float:
        if not (profile.shape == self.shape and np.isfinite(profile).all()):
            return float("inf")
        return float(np.abs(profile - sorted_projection(profile - self.game_map(profile))).max())


def sorted_projection(x: np.ndarray) -> np.ndarray:
    ordered = -np.sort(-x, 1)
    level = ((np.cumsum(ordered, 1) - 1) / np.arange(1, x.shape[1] + 1)).max(1, keepdims=True)
    return np.maximum(x - level, 0)


def appeal_scale(direction: np.ndarray, q: np.ndarray, Q: np.ndarray, met: np.ndarray) -> float:
    """The scale of a at which agents who meet the uniform population leave about `ZEROS` of the groups out."""
    direction, q = direction[:64], q[:64, None]
    low, high = 1e-2, 1e4
    for _ in range(12):
        scale = np.sqrt(low * high)
        linear = scale * direction - met
        w = accelerated(lambda w, b=linear: q * (w @ Q) - b, np.linalg.norm(Q, 2) * q, direction.shape, steps=500)[0]
        low, high = (scale, high) if (w == 0).mean() < ZEROS else (low, scale)
    return float(np.sqrt(low * high))


def accelerated(
    game_map: Callable[[np.ndarray], np.ndarray],
    L: Any,
    shape: tuple[int, int],
    *,
    momentum: bool = True,
    tol: float = 0.0,
    steps: int = 10**9,
    limit: float = np.inf,
) -> tuple[np.ndarray, bool]:
    """Projected gradient in numpy, with Nesterov's momentum and restart; the profile, and whether time remained."""
    w = ahead = np.full(shape, 1 / shape[1])
    t, end = 1.0, time.perf_counter() + limit
    for _ in range(steps):
        new = sorted_projection(ahead - game_map(ahead) / L)
        if np.abs((new - ahead) * L).max() <= tol:
            return new, True
        if time.perf_counter() > end:
            return new, False
        if momentum:
            up = ((ahead - new) * (new - w)).sum() > 0
            grown = (1 + np.sqrt(1 + 4 * t * t)) / 2
            ahead, t = (new, 1.0) if up else (new + (t - 1) / grown * (new - w), grown)
        else:
            ahead = new
        w = new
    return w, True


# The peers: each takes (case, tolerance, seconds allowed) and returns a function without arguments to be timed.

Run = Callable[[], Any]


def jax_map(w: jax.Array, data: tuple[jax.Array, ...]) -> jax.Array:
    a, q, Q, B, _ = data
    return q[:, None] * (w @ Q) + (w.sum(0)[None] - w) @ B.T - a


def jax_step(w: jax.Array, data: tuple[jax.Array, ...]) -> jax.Array:
    """The projected fixed-point map with step 1/L, with jaxopt's own projection."""
    return jax.vmap(projection_simplex)(w - data[4] * jax_map(w, data))


def jax_potential(w: jax.Array, data: tuple[jax.Array, ...]) -> jax.Array:
    a, q, Q, B, _ = data
    total = w.sum(0)
    own = 0.5 * (q[:, None] * (w @ Q) * w - (w @ B) * w) - a * w
    return own.sum() + 0.5 * total @ B @ total


def jax_normal_map(z: jax.Array, data: tuple[jax.Array, ...]) -> jax.Array:
    w = jax.vmap(projection_simplex)(z)
    return z - w + data[4] * jax_map(w, data)


@jax.jit
def run_anderson(start, tol, maxiter, data):
    solver = jaxopt.AndersonAcceleration(jax_step, history_size=5, ridge=1e-30, tol=tol, maxiter=maxiter)
    return solver.run(start, data).params


@jax.jit
def run_fista(start, tol, maxiter, data):
    # The potential times 1/L with step 1: jaxopt does not take a step that is an argument of a jitted function.
    solver = jaxopt.ProjectedGradient(
        lambda w, data: data[4] * jax_potential(w, data),
        lambda w, _: jax.vmap(projection_simplex)(w),
        stepsize=1.0,
        tol=tol,
        maxiter=maxiter,
    )
    return solver.run(start, None, data).params


@functools.partial(jax.jit, static_argnames="steps")
def run_fixed_point(start, tol, steps, data):
    solver = optimistix.FixedPointIteration(rtol=0.0, atol=tol, norm=optimistix.max_norm)
    return optimistix.fixed_point(jax_step, solver, start, data, max_steps=steps, throw=False).value


@functools.partial(jax.jit, static_argnames="dense")
def run_newton(start, tol, data, dense):
    linear = lineax.LU() if dense else lineax.GMRES(rtol=1e-8, atol=1e-14, restart=30, max_steps=40)
    solver = optimistix.Newton(rtol=1e-12, atol=tol, norm=optimistix.max_norm, linear_solver=linear)
    z = start - data[4] * jax_map(start, data)
    z = optimistix.root_find(jax_normal_map, solver, z, data, max_steps=50, throw=False).value
    return jax.vmap(projection_simplex)(z)


@jax.jit
def timed_step(start, data):
    return jax.lax.fori_loop(0, 5, lambda _, w: jax_step(w, data), start)


def iterations(case: Case, limit: float) -> int:
    """How many fixed-point steps fit into the time allowed; bounds the loops, which cannot be interrupted."""
    seconds = min(common.seconds(lambda: timed_step(case.uniform, case.data))[0] for _ in range(3)) / 5
    return max(int(limit / seconds), 100)


def anderson(case: Case, tol: float, limit: float) -> Run:
    # The tolerance is on the Euclidean norm of a step of length 1/L.
    maxiter = iterations(case, limit / 2)
    return lambda: run_anderson(case.uniform, tol / case.L, maxiter, case.data)


def fista(case: Case, tol: float, limit: float) -> Run:
    maxiter = iterations(case, limit)
    return lambda: run_fista(case.uniform, tol / case.L, maxiter, case.data)


def fixed_point(case: Case, tol: float, limit: float) -> Run:
    steps = 2 ** int(np.log2(iterations(case, limit)))  # a power of two, so that few values are compiled
    return lambda: run_fixed_point(case.uniform, tol / case.L, steps, case.data)


def newton(case: Case, tol: float, limit: float, dense: bool) -> Run:
    return lambda: run_newton(case.uniform, tol / case.L, case.data, dense)


def numpy_gradient(case: Case, tol: float, limit: float) -> Run:
    momentum = case.kind == "sym"
    return lambda: accelerated(case.game_map, case.L, case.shape, momentum=momentum, tol=tol, limit=limit)[0]


class QP:
    """The potential as a sparse QP in (W, S), S = Σ w_i: without S the Hessian is dense in n·D."""

    def __init__(self, case: Case):
        n, size = case.shape
        own = sp.block_diag([qi * case.Q - case.B for qi in case.q])
        self.P = sp.triu(sp.block_diag([own, case.B]), format="csc")
        self.linear = np.concatenate([-case.a.ravel(), np.zeros(size)])
        sums = sp.hstack([sp.kron(sp.eye_array(n), np.ones((1, size))), sp.csc_array((n, size))])
        total = sp.hstack([sp.kron(np.ones((1, n)), sp.eye_array(size)), -sp.eye_array(size)])
        self.equal = sp.vstack([sums, total])
        self.value = np.concatenate([np.ones(n), np.zeros(size)])
        self.lower = sp.hstack([sp.eye_array(n * size), sp.csc_array((n * size, size))])


def run_osqp(case: Case, tol: float, limit: float) -> Run:
    qp = QP(case)
    A = sp.csc_matrix(sp.vstack([qp.equal, qp.lower]))
    below = np.concatenate([qp.value, np.zeros(case.n * case.size)])
    above = np.concatenate([qp.value, np.full(case.n * case.size, np.inf)])
    settings = {"eps_abs": tol, "eps_rel": tol, "max_iter": 10**6, "time_limit": limit, "polishing": True}

    def run() -> np.ndarray:
        solver = osqp.OSQP()
        solver.setup(sp.csc_matrix(qp.P), qp.linear, A, below, above, verbose=False, **settings)
        return np.asarray(solver.solve(raise_error=False).x)[: case.n * case.size].reshape(case.shape)

    return run


def run_clarabel(case: Case, tol: float, limit: float) -> Run:
    qp = QP(case)
    A = sp.csc_matrix(sp.vstack([qp.equal, -qp.lower]))
    b = np.concatenate([qp.value, np.zeros(case.n * case.size)])
    cones = [clarabel.ZeroConeT(case.n + case.size), clarabel.NonnegativeConeT(case.n * case.size)]
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.time_limit = False, limit
    settings.equilibrate_enable = False  # with it, less accurate on these games
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tol

    def run() -> np.ndarray:
        solution = clarabel.DefaultSolver(sp.csc_matrix(qp.P), qp.linear, A, b, cones, settings).solve()
        return np.asarray(solution.x)[: case.n * case.size].reshape(case.shape)

    return run


SYM_ONLY = {"jaxopt ProjectedGradient", "OSQP", "Clarabel"}
# Tolerances from loose to tight.
PEERS: dict[str, tuple[Callable[[Case, float, float], Run], list[float]]] = {
    "jaxopt Anderson": (anderson, [3e-8, 1e-8]),
    "jaxopt ProjectedGradient": (fista, [1e-8, 1e-9, 1e-10, 1e-11]),
    "optimistix FixedPointIteration": (fixed_point, [1e-8, 3e-9]),
    "optimistix Newton, LU": (functools.partial(newton, dense=True), [1e-8, 1e-10]),
    "optimistix Newton, GMRES": (functools.partial(newton, dense=False), [1e-8, 1e-10]),
    "OSQP": (run_osqp, [1e-6, 1e-8, 1e-10]),
    "Clarabel": (run_clarabel, [1e-10, 1e-12, 1e-14, 1e-16]),
    "numpy projected gradient": (numpy_gradient, [1e-8]),
}


def solved(result: Any) -> np.ndarray:
    return np.asarray(result.profile if isinstance(result, jg.Equilibrium) else result)


def why_not(name: str, case: Case, known: dict[str, dict[str, Any]], limit: float) -> str | None:
    """Why a peer is not run on a case; `known`: its result on the last smaller game of this kind and κ."""
    if name in SYM_ONLY and case.kind != "sym":
        return "needs a potential"
    if name.endswith("LU") and case.n * case.size > DENSE_NEWTON:
        return f"Jacobian of {case.n * case.size}² numbers"
    before = known.get(name)
    if before is None:
        return None
    if not before["success"]:
        return "failed on a smaller game"
    expected = before["seconds"] * case.n * case.size / before["unknowns"]
    return f"{expected:.0f} s expected" if expected > limit else None


def qualify(name: str, case: Case, limit: float) -> tuple[Run | None, dict[str, Any]]:
    """The loosest tolerance at which a peer succeeds."""
    prepare, tolerances = PEERS[name]
    record: dict[str, Any] = {}
    for tol in tolerances:
        run = prepare(case, tol, limit)
        took, result = common.seconds(run)
        record.setdefault("first_call_seconds", took)
        profile = solved(result)
        if name in ("OSQP", "Clarabel") and np.isfinite(profile).all():
            profile = sorted_projection(profile)
        residual = case.residual(profile)
        record |= {"tolerance": tol, "residual": finite(residual), "success": residual <= TARGET}
        if record["success"]:
            return run, record
        if took > limit / 2:
            break  # out of time: a tighter tolerance would be, too
    record["seconds"] = took
    return None, record


def finite(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def measure(case: Case, known: dict[str, dict[str, Any]], limit: float, budget: float, cold: bool) -> dict[str, Any]:
    first, end = common.seconds(lambda: jg.solve(case.game))
    profile = solved(end)
    residual = case.residual(profile)
    results: dict[str, Any] = {
        "jaxgame": {
            "success": residual <= TARGET,
            "residual": finite(residual),
            "steps": int(end.steps),
            "converged": bool(end.converged),
            "first_call_seconds": first,
        },
    }
    runs: dict[str, Run] = {"jaxgame": lambda: jg.solve(case.game)}
    if case.n <= DISPATCH_COUNTS:
        inside = jax.jit(jg.solve)
        results["jaxgame, in a jit"] = {"success": case.residual(solved(inside(case.game))) <= TARGET}
        runs["jaxgame, in a jit"] = lambda: inside(case.game)
    else:
        results["jaxgame, in a jit"] = {"success": False, "skipped": "as jaxgame"}
    for name in PEERS:
        if reason := why_not(name, case, known, limit):
            results[name] = {"success": False, "skipped": reason}
            continue
        try:
            run, results[name] = qualify(name, case, limit)
        except Exception as error:  # a peer's failure is a result
            run, results[name] = None, {"success": False, "error": f"{type(error).__name__}: {str(error)[:200]}"}
        if run:
            runs[name] = run
        print(f"    {name}: {results[name]}", flush=True)
    double = jax.jit(lambda x: 2 * x + 1)
    runs["sweep"] = lambda: double(case.uniform)
    common.seconds(runs["sweep"])
    times = common.interleaved(runs, budget)
    sweep = float(np.median(times.pop("sweep")))
    for name, seen in times.items():
        results[name] |= {"seconds": float(np.median(seen)), "repeats": len(seen)}
    for name in PEERS:
        if "skipped" not in results[name]:
            known[name] = {"seconds": 0.0, "unknowns": case.n * case.size, **results[name]}
    peers = {name: results[name]["seconds"] for name in PEERS if name in times}
    times_in_jit = results["jaxgame, in a jit"].get("seconds")
    best = min(peers, key=lambda name: peers[name]) if peers else None
    return {
        "kind": case.kind,
        "shape": case.shape,
        "kappa": case.kappa,
        "zeros": float((profile == 0).mean()),
        "cold": cold,
        "sweep_seconds": sweep,
        "sweeps": results["jaxgame"]["seconds"] / sweep,
        "best_peer": best,
        "ratio": peers[best] / results["jaxgame"]["seconds"] if best else None,
        "ratio_in_jit": peers[best] / times_in_jit if best and times_in_jit else None,
        "goal": GOALS.get(case.shape),
        "results": results,
    }


def cell(result: dict[str, Any]) -> str:
    if "skipped" in result:
        return "–" if result["skipped"] == "needs a potential" else f"– ({result['skipped']})"
    if "error" in result:
        return "**error**"
    if not result["success"]:
        residual = "not finite" if result["residual"] is None else f"{result['residual']:.0e}"
        return f"**failed** ({residual}, {duration(result['seconds'])})"
    return duration(result["seconds"])


def duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def label(case: dict[str, Any]) -> str:
    return f"{case['kind']}, {tuple(case['shape'])}, κ = {case['kappa']}"


def text(report: dict[str, Any]) -> str:
    cases = report["cases"]
    lines = ["# The quadratic simplex game: jaxgame and its peers", ""]
    lines += common.prose(
        "Written by `benchmarks/peers.py`, which says what is compared.", common.described(report["environment"]) + "."
    )
    lines += [""]
    lines += common.prose(
        f"Medians of warm calls by turns in one process. Success: natural residual (unit step) ≤ {TARGET:g},",
        f"checked by numpy. Failures with the residual reached and the time spent; about {report['timeout']:g} s",
        "at most. Ratio: best successful peer / `jg.solve(game)`, in brackets / `jax.jit(jg.solve)(game)`. Sweep:",
        "one read and write of the profile into a fresh array. First call: with compilation; in brackets where a",
        "game of the same shape was solved before, so that nothing is compiled.",
    )
    lines += [""]
    rows = []
    for case in cases:
        ours = case["results"]["jaxgame"]
        ratio = "no peer succeeds" if case["ratio"] is None else f"**{case['ratio']:.2f}**"
        if case["ratio_in_jit"] is not None:
            ratio += f" ({case['ratio_in_jit']:.2f})"
        first = duration(ours["first_call_seconds"])
        rows.append(
            [
                label(case),
                cell(ours),
                f"{ours['residual']:.0e}, {ours['steps']}",
                "–" if case["best_peer"] is None else f"{case['best_peer']} {cell(case['results'][case['best_peer']])}",
                ratio,
                f"≤ {SWEEPS_GOAL} sweeps" if case["goal"] is None else f"≥ {case['goal']}",
                f"{case['sweeps']:.0f}" if case["shape"][0] > DISPATCH_COUNTS else "",
                first if case["cold"] else f"({first})",
                f"{100 * case['zeros']:.0f} %",
            ]
        )
    header = ["game", "jaxgame", "residual, steps", "best peer", "ratio", "goal", "sweeps", "first call", "zeros"]
    lines += common.table(header, rows)
    lines += ["", "All times:", ""]
    names = ["jaxgame", "jaxgame, in a jit", *PEERS]
    rows = [[label(case), *(cell(case["results"][name]) for name in names)] for case in cases]
    lines += common.table(["game", *names], rows)
    lines += ["", "First calls, in seconds, where nothing of that shape was compiled before:", ""]
    names.remove("jaxgame, in a jit")
    rows = [
        [
            label(case),
            *(f"{t:.2g}" if (t := case["results"][name].get("first_call_seconds")) else "–" for name in names),
        ]
        for case in cases
        if case["cold"]
    ]
    lines += common.table(["game", *names], rows)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="jaxgame against its peers on the quadratic simplex game.")
    parser.add_argument("--large", action="store_true", help="a million agents, too")
    parser.add_argument("--quick", action="store_true", help="up to a hundred agents")
    parser.add_argument("--timeout", type=float, default=20, help="seconds a peer may take for one game")
    parser.add_argument("--budget", type=float, default=3, help="seconds of timing a game, beyond one call of everyone")
    parser.add_argument("--output", type=pathlib.Path, default=common.RESULTS)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_enable_compilation_cache", False)  # first calls compile
    games = SMALL + ([] if arguments.quick else MEDIUM) + (LARGE if arguments.large else [])
    cases: list[dict[str, Any]] = []
    report = {
        "environment": common.environment("jaxopt", "optimistix", "lineax", "osqp", "clarabel", "numpy", "scipy"),
        "target": TARGET,
        "timeout": arguments.timeout,
        "cases": cases,
    }
    for kind in ("sym", "nonsym"):
        known: dict[float, dict[str, dict[str, Any]]] = {}
        for n, size, kappa in games:
            cold = not any(case["shape"] == (n, size) for case in cases)
            print(f"{kind}, ({n}, {size}), κ = {kappa}", flush=True)
            case = Case(kind, n, size, kappa)
            cases.append(measure(case, known.setdefault(kappa, {}), arguments.timeout, arguments.budget, cold))
            # After every game: nothing is lost when a long run is stopped.
            common.write_json(arguments.output / "peers.json", report)
            common.write(arguments.output / "peers.md", text(report))
    print(text(report))


if __name__ == "__main__":
    main()
