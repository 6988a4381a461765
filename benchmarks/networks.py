"""Equilibria of large networks: time, memory and error of `solve` and of a gradient through it.

    python benchmarks/networks.py [--quick] [--limit 120] [--output FOLDER]

Strongly monotone games of 10⁵ agents on 10⁶ directed edges, 16 groups: quadratic ones with all kinds of curvature, and
alignment games; networks of even in-degrees, of in-degrees and popularities with a power law, and rings of near
neighbours, where what one agent does reaches the others slowly. And games of n·D = 4000 without structure, and small
sparse ones, on both sides of the size up to which elimination is there to fall back on.

Success is a natural residual of at most 1e-10 (1e-6 in float32), which numpy and scipy compute from the game's data
with their own Lipschitz constant. The gradient is that of ⟨u, S⟩, u random, in every array of the game; its error is
that of its product with a random direction in the linear terms against a central difference. Memory is what XLA
allocates for temporaries and results (`memory_analysis`), in multiples of the game's arrays and in profiles. The peer
is the same semismooth Newton in numpy, with scipy's GMRES on products with scipy's sparse matrix.

Writes networks.json and networks.md, after every game.
"""

import argparse
import pathlib
import time
from collections.abc import Callable
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sparse
from jax.experimental.sparse import BCOO
from scipy.sparse.linalg import LinearOperator, gmres

import jaxgame as jg

STEP = 1e-7  # of the central difference
D = 16


def edges(kind: str, n: int, m: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Who meets whom: (rows, columns), without repetitions."""
    if kind == "even":
        rows, columns = np.repeat(np.arange(n), m // n), rng.integers(0, n, n * (m // n))
    elif kind == "power law":
        degree, popularity = rng.pareto(1.2, n) + 1, rng.pareto(1.2, n) + 0.01
        degree = np.maximum(1, np.minimum(degree, n / 4) * m / degree.sum()).astype(int)
        rows = np.repeat(np.arange(n), degree)
        columns = rng.choice(n, len(rows), p=popularity / popularity.sum())
    elif kind == "symmetric":
        rows, columns = rng.integers(0, n, (2, m // 2))
        rows, columns = np.append(rows, columns), np.append(columns, rows)
    else:
        near = np.append(np.arange(-(m // n // 2), 0), np.arange(1, m // n // 2 + 1))
        rows, columns = np.repeat(np.arange(n), len(near)), ((np.arange(n)[:, None] + near) % n).ravel()
    keys = np.unique(rows[rows != columns] * n + columns[rows != columns])
    return keys // n, keys % n


class Problem:
    """A game, and its game map F(W) = own(W) + scale · (A W) B' − linear (up to multiples of 1) in numpy."""

    def __init__(self, name: str, kind: str, n: int, m: int, dtype: Any, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.label, self.n, self.dtype = f"{name}, {kind}{', float32' if dtype == np.float32 else ''}", n, dtype
        rows, columns = edges(kind, n, m, rng)
        degree = np.bincount(rows, minlength=n)
        data = 1 / np.sqrt(degree[rows] * degree[columns]) if kind == "symmetric" else 1 / degree[rows]
        self.A = sparse.csr_matrix((data, (rows, columns)), shape=(n, n))
        at = jnp.asarray(np.stack([rows, columns], 1))
        network = BCOO((jnp.asarray(data, dtype), at), shape=(n, n), indices_sorted=True, unique_indices=True)
        self.scale = np.ones(n)
        what, _, kappa = name.rpartition(" κ=")
        self.game = (self.alignment if what.startswith("alignment") else self.quadratic)(
            what, float(kappa), network, rng
        )

    def quadratic(self, what: str, kappa: float, network: BCOO, rng: np.random.Generator) -> jg.QuadraticGame:
        n, low = self.n, 3 / kappa
        q, Q = rng.uniform(1, 2, n), spectrum(low, rng)
        S = rng.normal(size=(D, D))
        turn = (S - S.T) / np.linalg.norm(S - S.T, 2)
        # As much as the own curvature, or all of it, of what others do: in its symmetric part, and in its rotation.
        size = low / np.sqrt(abs(self.A).sum(0).max())
        B = size * (spectrum(0.1, rng) / 2 + (0 if what.endswith("symmetric") else 1) * turn / 3)
        spread = 0.3
        if what.startswith("imitation"):
            q, B, spread = np.ones(n), -(1 - 2 / kappa) * np.eye(D), 0.05
            curvature, self.own = 1.0, lambda w: w
        elif what.startswith("scalar"):
            B, spread = B / low * (1 - 1 / kappa), 0.5
            curvature, self.own = jnp.asarray(q, self.dtype), lambda w: q[:, None] * w
        elif what.startswith("diagonal"):
            h = np.exp(rng.uniform(np.log(low), 0, (n, D)))
            curvature, self.own = jg.Diagonal(jnp.asarray(h, self.dtype)), lambda w: h * w
        elif what.startswith("scaled"):
            curvature = jg.Scaled(jnp.asarray(q, self.dtype), jnp.asarray(Q, self.dtype))
            self.own = lambda w: q[:, None] * (w @ Q)
        else:
            X = rng.normal(size=(n, D, D))
            C = X @ np.swapaxes(X, 1, 2) / (4 * D) + low * np.eye(D)
            curvature, self.own = jnp.asarray(C, self.dtype), lambda w: np.einsum("ide,ie->id", C, w)
        self.B, self.linear = B, spread * rng.normal(size=(n, D))
        coupling = jg.Network(network, jnp.asarray(B, self.dtype))
        return jg.QuadraticGame(jnp.asarray(self.linear, self.dtype), curvature, coupling=coupling)

    def alignment(self, what: str, kappa: float, network: BCOO, rng: np.random.Generator) -> jg.AlignmentGame:
        n, K = self.n, spectrum(1 / kappa, rng)
        t, a = rng.dirichlet(np.full(D, 0.5), n), 0.3 * rng.normal(size=(n, D))
        alpha, gamma, delta = rng.uniform(0.2, 1, n), rng.uniform(1, 2, n), rng.uniform(0, 0.5, n)
        metric = np.eye(D) if "mixture" in what else K
        centroid = "centroid" in what
        less = delta[:, None] if centroid else 0.0
        self.own = lambda w: gamma[:, None] * (w @ metric) - less * (w @ K)
        self.B, self.scale = K, delta
        self.linear = alpha[:, None] * a + gamma[:, None] * (t @ metric)
        self.linear += 0 if centroid else delta[:, None] * np.diag(K) / 2
        arrays = [jnp.asarray(x, self.dtype) for x in (t, K, a, alpha, gamma, delta)]
        return jg.AlignmentGame(
            *arrays[:3],
            attractiveness=arrays[3],
            consistency=arrays[4],
            diversity=arrays[5],
            diversity_form="centroid" if centroid else "pairwise",
            consistency_metric="mixture" if "mixture" in what else "response",
            coupling=jg.Network(network),
        )

    def jacobian(self, w: np.ndarray) -> np.ndarray:
        return self.own(w) + self.scale[:, None] * ((self.A @ w) @ self.B.T)

    def sigma(self) -> float:
        """max(‖J‖, spread of the marginals at the uniform profile), ‖J‖ from below; once."""
        if not hasattr(self, "_sigma"):
            x = np.random.default_rng(0).normal(size=(self.n, D))
            norm = 0.0
            for _ in range(20):  # of J itself, whose powers grow at most as fast as its norm
                x = x - x.mean(1, keepdims=True)
                y = self.jacobian(x / np.linalg.norm(x))
                x, norm = y, max(norm, float(np.linalg.norm(y - y.mean(1, keepdims=True))))
            F = self.jacobian(np.full((self.n, D), 1 / D)) - self.linear
            self._sigma = max(norm, float(np.abs(F - F.mean(1, keepdims=True)).max()))
        return self._sigma

    def residual(self, w: np.ndarray) -> float:
        w = np.asarray(w, np.float64)
        return float(np.abs(w - projected(w - (self.jacobian(w) - self.linear) / self.sigma())).max())


class Unstructured:
    """A game of n·D = 4000 whose Jacobian is a full matrix: pairwise couplings, or utilities of a profile."""

    def __init__(self, what: str, n: int = 250):
        rng = np.random.default_rng(0)
        self.label, self.n = f"{what}, (250, 16)", n
        blocks = rng.normal(size=(n, n, D, D)) / (4 * np.sqrt(n * D))
        blocks[np.arange(n), np.arange(n)] = 0
        self.linear = rng.normal(size=(n, D))
        self.blocks = blocks
        if what == "Dense":
            coupling = jg.Dense(jnp.asarray(blocks))
            self.game: Any = jg.QuadraticGame(jnp.asarray(self.linear), 1.0, coupling=coupling)
        else:
            params = (jnp.asarray(self.linear), jnp.asarray(np.swapaxes(blocks, 1, 2)))  # (n, D, n, D)
            self.game = jg.ConcaveGame(profile_utility, params, D, coupling="profile")

    def residual(self, w: np.ndarray) -> float:
        F = w + np.einsum("ijde,je->id", self.blocks, w) - self.linear
        return float(np.abs(w - projected(w - F / 2)).max())


def profile_utility(params: Any, mixture: Any, others: Any) -> Any:
    linear, blocks = params
    return linear @ mixture - mixture @ mixture / 2 - mixture @ jnp.einsum("dje,je->d", blocks, others)


def spectrum(low: float, rng: np.random.Generator) -> np.ndarray:
    """A symmetric matrix with eigenvalues from `low` to 1."""
    basis, _ = np.linalg.qr(rng.normal(size=(D, D)))
    matrix = (basis * np.geomspace(low, 1, D)) @ basis.T
    return (matrix + matrix.T) / 2


def projected(x: np.ndarray) -> np.ndarray:
    """On the simplex, by sorting."""
    ordered = -np.sort(-x, 1)
    level = (np.cumsum(ordered, 1) - 1) / np.arange(1, x.shape[1] + 1)
    count = (ordered > level).sum(1)
    return np.maximum(x - level[np.arange(len(x)), count - 1][:, None], 0)


def peer(problem: Problem, tol: float, limit: float) -> tuple[np.ndarray, int]:
    """Semismooth Newton: faces of a projected step, scipy's GMRES on them. Unpreconditioned, 30 vectors."""
    w, end, steps = np.full((problem.n, D), 1 / D), time.perf_counter() + limit, 0
    while problem.residual(w) > tol and time.perf_counter() < end:
        F = problem.jacobian(w) - problem.linear
        face = projected(w - F / problem.sigma()) > 0
        count = face.sum(1, keepdims=True)

        def tangent(x: np.ndarray, face: np.ndarray = face, count: np.ndarray = count) -> np.ndarray:
            x = x.reshape(face.shape)
            return np.where(face, x - np.where(face, x, 0).sum(1, keepdims=True) / count, 0)

        start = np.where(face, w, 0) / np.where(face, w, 0).sum(1, keepdims=True) if (w[face] > 0).any() else w
        rhs = tangent(problem.linear - problem.jacobian(start)).ravel()

        def product(x: np.ndarray, tangent: Callable[..., np.ndarray] = tangent) -> np.ndarray:
            if time.perf_counter() > end:
                raise TimeoutError
            inner = tangent(x)
            return (tangent(problem.jacobian(inner)) + x.reshape(inner.shape) - inner).ravel()

        try:
            operator = LinearOperator((rhs.size,) * 2, product, dtype=float)  # pyright: ignore[reportCallIssue]
            change, _ = gmres(operator, rhs, rtol=1e-4, restart=30, maxiter=30)
        except TimeoutError:
            break
        w, steps = projected(np.where(face, start + change.reshape(w.shape), -np.inf)), steps + 1
    return w, steps


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[[], Any], int, float]:
    """The function on its arguments, the bytes that XLA allocates for it, and the seconds of compilation."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    took = time.perf_counter() - start
    memory: Any = program.memory_analysis()
    return lambda: program(*arguments), memory.temp_size_in_bytes + memory.output_size_in_bytes, took


def measure(problem: Any, limit: float, gradient: bool, rival: bool) -> dict[str, Any]:
    game = problem.game
    single = game.marginals(jnp.full((problem.n, D), 1 / D, jax.tree.leaves(game)[0].dtype)).dtype == jnp.float32
    tol = 1e-6 if single else 1e-10
    own = sum(leaf.nbytes for leaf in jax.tree.leaves(game))
    shape = dict(profile=problem.n * D * (4 if single else 8))
    cold, first = common.seconds(lambda: jg.solve(game))
    warm = [common.seconds(lambda: jg.solve(game))[0] for _ in range(2)]
    residual = problem.residual(np.asarray(first.profile, np.float64))
    out = {
        "label": problem.label,
        "success": residual <= tol and bool(first.converged),
        "residual": residual,
        "own_residual": float(first.residual),
        "steps": int(first.steps),
        "zeros": float((np.asarray(first.profile) == 0).mean()),
        "cold": cold,
        "seconds": float(np.median(warm)),
        "game_bytes": own,
        "profile_bytes": shape["profile"],
    }
    if gradient:
        u = jnp.asarray(np.random.default_rng(1).normal(size=D), first.profile.dtype)

        def value(game: Any) -> jax.Array:
            return u @ jg.solve(game).representation

        def slope(game: Any) -> Any:
            return jax.value_and_grad(value, allow_int=True)(game)

        run, bytes_of_gradient, _ = compiled(slope, game)
        alone, bytes_of_solve, _ = compiled(lambda game: jg.solve(game).profile, game)
        times = common.interleaved({"solve": alone, "gradient": run}, 0, least=2)
        (_, grad), took = run(), {name: min(seen) for name, seen in times.items()}
        lever = "linear" if isinstance(game, jg.QuadraticGame) else "appeal"
        base = np.asarray(getattr(game, lever), np.float64)
        v = np.random.default_rng(2).normal(size=base.shape)
        predicted = float((np.asarray(getattr(grad, lever), np.float64) * v).sum())
        ends = [float(value(game.replace(**{lever: jnp.asarray(base + s * STEP * v)}))) for s in (1, -1)]
        difference = (ends[0] - ends[1]) / (2 * STEP)
        out |= {
            "gradient_seconds": took["gradient"],
            "overhead": took["gradient"] / took["solve"] - 1,
            "solve_memory": bytes_of_solve / own,
            "solve_profiles": bytes_of_solve / shape["profile"],
            "gradient_memory": bytes_of_gradient / own,
            "gradient_profiles": bytes_of_gradient / shape["profile"],
            "gradient_error": abs(predicted - difference) / abs(difference),
        }
    if rival:
        start = time.perf_counter()
        w, steps = peer(problem, tol, limit)
        out["peer"] = {
            "seconds": time.perf_counter() - start,
            "residual": problem.residual(w),
            "success": problem.residual(w) <= tol,
            "steps": steps,
        }
    return out


def text(report: dict[str, Any]) -> str:
    lines = ["# Large networks", ""]
    lines += common.prose(
        "Written by `benchmarks/networks.py`, which says what is compared.",
        common.described(report["environment"]) + ".",
        "Times: warm (median of two), first call with compilation in brackets. Memory in multiples of the game's",
        "arrays, and in profiles. Bold: missed.",
    )
    header = ["game", "solve", "steps", "zeros", "residual", "memory of the solve", "value and gradient"]
    header += ["overhead", "its memory", "its error", "scipy"]
    rows = []
    for case in report["cases"]:
        verdict = f"{case['residual']:.0e}" if case["success"] else f"**{case['residual']:.0e}**"
        cells = [
            case["label"],
            f"{case['seconds']:.2f} s ({case['cold']:.0f})",
            case["steps"],
            f"{case['zeros']:.2f}",
            verdict,
        ]
        if "overhead" in case:
            cells += [
                f"{case['solve_memory']:.1f} ×, {case['solve_profiles']:.0f}",
                f"{case['gradient_seconds']:.2f} s",
            ]
            cells += [f"{100 * case['overhead']:+.0f} %"]
            cells += [
                f"{case['gradient_memory']:.1f} ×, {case['gradient_profiles']:.0f}",
                f"{case['gradient_error']:.0e}",
            ]
        else:
            cells += ["", "", "", "", ""]
        rival = case.get("peer")
        failed = "" if rival is None or rival["success"] else f" **({rival['residual']:.0e})**"
        cells.append("" if rival is None else f"{rival['seconds']:.1f} s{failed}")
        rows.append(cells)
    return "\n".join([*lines, "", *common.table(header, rows)]) + "\n"


CASES = [
    # name, network, float32, gradient, peer
    ("scalar κ=10", "even", False, True, True),
    ("alignment response pairwise κ=1000", "even", False, False, True),
    ("scaled κ=1000", "even", False, False, False),
    ("imitation κ=1000", "symmetric", False, False, True),
    ("scalar symmetric κ=10", "symmetric", False, False, False),
    ("scalar κ=10", "power law", False, False, False),
    ("scaled κ=10", "power law", False, False, False),
    ("imitation κ=1000", "near neighbours", False, False, False),
    ("diagonal κ=1000", "even", False, False, False),
    ("agents κ=10", "even", False, False, False),
    ("alignment mixture centroid κ=10", "even", False, False, False),
    ("scalar κ=10", "even", True, False, False),
    ("alignment response pairwise κ=10", "even", True, False, False),
]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time, memory and error of equilibria of large networks.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the agents and edges")
    parser.add_argument("--limit", type=float, default=60, help="seconds that the peer may take for a game")
    parser.add_argument("--output", type=pathlib.Path, default=common.RESULTS)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    n = 10**4 if arguments.quick else 10**5
    cases: list[dict[str, Any]] = []
    report = {"environment": common.environment("scipy", "numpy"), "agents": n, "edges": 10 * n, "cases": cases}

    def add(problem: Any, gradient: bool = False, rival: bool = False) -> None:
        cases.append(measure(problem, arguments.limit, gradient, rival))
        print(cases[-1], flush=True)
        common.write_json(arguments.output / "networks.json", report)
        common.write(arguments.output / "networks.md", text(report))
        jax.clear_caches()

    for name, kind, single, gradient, rival in CASES:
        add(Problem(name, kind, n, 10 * n, np.float32 if single else np.float64), gradient, rival)

    for what in ("Dense", "ConcaveGame of profiles"):
        add(Unstructured(what))
    for agents in (64, 250, 300):
        problem = Problem("scaled κ=1000", "even", agents, 10 * agents, np.float64)
        problem.label += f", ({agents}, 16)"
        add(problem)


if __name__ == "__main__":
    main()
