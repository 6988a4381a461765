"""Gradient evaluations of every first-order solver against the condition number, beside what theory promises.

    python benchmarks/first_order.py [--seeds 3] [--quick] [--output FOLDER]

Random games of 20 agents and 8 groups whose Jacobian on the tangent space has norm L = 1 and a given condition number
κ = L/c, and whose equilibrium is known because the game is built around it; more than half of its weights are zero. Two
kinds: `potential` (symmetric Jacobian) and `rotational` (c times the identity plus a skew part, the worst kind of
non-symmetric game). Counted are evaluations of the marginals until the natural residual is 1e-9, at most 2e5;
Newton-type solvers count factorisations instead and are listed apart. Writes first_order.json, .md, .png and .svg.
"""

import argparse
import pathlib
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

import jaxgame as jg

AGENTS, GROUPS = 20, 8
TOL = 1e-9
CAP = 200_000
ENOUGH = 10_000  # evaluations after which one game has to do for a condition number
OUT_OF_STEPS = 1  # Equilibrium.status
KAPPAS = [2.0, 5.0, 10.0, 19.7, 50.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0]
KINDS = ["potential", "rotational"]
REFERENCE_KAPPA = 19.7
# theory §6: one other random game with κ = 19.7
REFERENCE_COUNTS = {"ProjectedGradient": 9719, "Extragradient": 1182, "OptimisticGradient": 882, "GoldenRatio": 738}

SOLVERS = {
    "ProjectedGradient": jg.ProjectedGradient(),
    "AcceleratedGradient": jg.AcceleratedGradient(),
    "Extragradient": jg.Extragradient(),
    "OptimisticGradient": jg.OptimisticGradient(),
    "GoldenRatio": jg.GoldenRatio(),
    "MirrorProx": jg.MirrorProx(),
}
START_EVALUATIONS = {"GoldenRatio": 2}  # of init; else 1
# Exponent of κ in theory §6.
THEORY = {
    "potential": {"ProjectedGradient": 1.0, "AcceleratedGradient": 0.5},
    "rotational": {"ProjectedGradient": 2.0},
}
STYLE = {  # Okabe and Ito's colours, with a marker each: told apart without colour, too
    "ProjectedGradient": ("#D55E00", "o"),
    "AcceleratedGradient": ("#CC79A7", "D"),
    "Extragradient": ("#0072B2", "s"),
    "OptimisticGradient": ("#009E73", "^"),
    "GoldenRatio": ("#E69F00", "v"),
    "MirrorProx": ("#56B4E9", "X"),
}


def theory_exponent(kind: str, name: str) -> float | None:
    return None if name == "MirrorProx" else THEORY[kind].get(name, 1.0)


class Problem:
    """A game whose Jacobian has norm 1 and condition number kappa, built around its only equilibrium."""

    def __init__(self, kind: str, kappa: float, seed: int, interior: bool = False):
        rng = np.random.default_rng([seed, KINDS.index(kind)])
        n, size = AGENTS, GROUPS
        self.profile = np.zeros((n, size))
        for i in range(n):
            on = rng.choice(size, size if interior else rng.integers(2, 5), replace=False)
            self.profile[i, on] = rng.dirichlet(np.full(on.size, 5.0))
        multipliers = np.where(self.profile > 0, 0, rng.uniform(0.02, 0.2, size=(n, size)))
        tangent = np.kron(np.eye(n), np.linalg.svd(np.ones((1, size)))[2][1:].T)  # basis of the tangent space
        inner = symmetric(tangent, self.profile, kappa, rng) if kind == "potential" else rotation(n, size, kappa, rng)
        self.jacobian = tangent @ inner @ tangent.T
        self.linear = (self.jacobian @ self.profile.ravel()).reshape(n, size) - multipliers
        blocks = self.jacobian.reshape(n, size, n, size).swapaxes(1, 2).copy()
        own = blocks[np.arange(n), np.arange(n)]
        curvature = (own + own.swapaxes(1, 2)) / 2
        coupling = jg.Dense(jnp.asarray(blocks))
        self.game = jg.QuadraticGame(jnp.asarray(self.linear), jnp.asarray(curvature), coupling=coupling)

    def residual(self, profile: np.ndarray) -> float:
        """The natural residual at step 1/L = 1, in numpy."""
        slope = (self.jacobian @ profile.ravel()).reshape(profile.shape) - self.linear
        return float(np.abs(profile - sorted_projection(profile - slope)).max())


def symmetric(tangent: np.ndarray, profile: np.ndarray, kappa: float, rng: np.random.Generator) -> np.ndarray:
    """Eigenvalues from 1/kappa to 1, evenly in log, both along the equilibrium's faces and across them.

    Without this the slowest directions of a random matrix lead off the faces, and solvers never meet them.
    """
    free = tangent.T @ (tangent * (profile.ravel() > 0)[:, None])
    values, vectors = np.linalg.eigh(free)
    along = values > 1 - 1e-9
    out = np.zeros_like(free)
    for basis in (vectors[:, along], vectors[:, ~along]):
        if dim := basis.shape[1]:
            basis = basis @ np.linalg.qr(rng.normal(size=(dim, dim)))[0]
            out += basis * np.logspace(-np.log10(kappa), 0, dim) @ basis.T
    return (out + out.T) / 2


def rotation(n: int, size: int, kappa: float, rng: np.random.Generator) -> np.ndarray:
    """c I + K with K skew: the norm is the square root of c² + ‖K‖²."""
    dim = n * (size - 1)
    skew = rng.normal(size=(dim, dim))
    skew[np.kron(np.eye(n), np.ones((size - 1, size - 1))) > 0] = 0  # an agent's own block is a Hessian
    skew -= skew.T
    return (np.eye(dim) + np.sqrt(kappa**2 - 1) / np.linalg.norm(skew, 2) * skew) / kappa


def sorted_projection(x: np.ndarray) -> np.ndarray:
    ordered = -np.sort(-x, 1)
    level = ((np.cumsum(ordered, 1) - 1) / np.arange(1, x.shape[1] + 1)).max(1, keepdims=True)
    return np.maximum(x - level, 0)


class Counted:
    """A game that counts, on the host, how often its marginals are evaluated while a solver runs."""

    calls = 0

    def __init__(self, game: Any):
        self.inner = game

    n_agents = property(lambda self: self.inner.n_agents)
    n_groups = property(lambda self: self.inner.n_groups)

    def affine(self) -> Any:
        return self.inner.affine()

    def utilities(self, profile: jax.Array) -> jax.Array:
        return self.inner.utilities(profile)

    def marginals(self, profile: jax.Array) -> jax.Array:
        jax.debug.callback(self._count)
        return self.inner.marginals(profile)

    @staticmethod
    def _count() -> None:
        Counted.calls += 1


jax.tree_util.register_pytree_node(Counted, lambda c: ((c.inner,), None), lambda _, children: Counted(children[0]))


def count(name: str, problem: Problem) -> dict[str, Any]:
    """Evaluations until the residual of the solver's own iterate, before any polishing, is at most TOL."""
    solver = SOLVERS[name]
    per_step = getattr(solver, "evaluations_per_step", 1)
    end = jg.solve(problem.game, solver, tol=TOL, max_steps=CAP // per_step, history=True)
    history = np.asarray(end.history)
    hits = np.flatnonzero(history <= TOL)
    reached = bool(hits.size)
    start = START_EVALUATIONS.get(name, 1)
    profile = np.asarray(end.profile)
    return {
        "reached": reached,
        "evaluations": int(start + per_step * (hits[0] + 1)) if reached else None,
        "steps": int(end.steps),
        "evaluations_reported": int(end.evaluations),
        "best_residual": float(history.min()),
        "status": int(end.status),
        # of the polished profile: that the solve found the equilibrium that the game was built around
        "residual_numpy": problem.residual(profile),
        "error": float(np.abs(profile - problem.profile).max()),
    }


def sweep(kind: str, kappas: list[float], seeds: int) -> list[dict[str, Any]]:
    points = []
    for name in SOLVERS:
        if name == "AcceleratedGradient" and kind != "potential":
            continue
        given_up = False
        for kappa in kappas:
            runs = []
            for seed in range(0 if given_up else seeds):
                runs.append(count(name, Problem(kind, kappa, seed)))
                given_up = runs[-1]["status"] == OUT_OF_STEPS  # larger κ would only spend the same 2e5 evaluations
                if given_up or runs[-1]["evaluations_reported"] > ENOUGH:
                    break
            reached = bool(runs) and all(run["reached"] for run in runs)
            median = float(np.median([run["evaluations"] for run in runs])) if reached else None
            points.append({"kind": kind, "solver": name, "kappa": kappa, "evaluations": median, "runs": runs})
            print(f"{kind:11}{name:20}κ = {kappa:<8g}", describe(points[-1]), flush=True)
    return points


def describe(point: dict[str, Any]) -> str:
    if point["evaluations"] is not None:
        return f"{point['evaluations']:.0f}"
    if not point["runs"]:
        return "not tried"
    return f"not reached ({max(run['best_residual'] for run in point['runs']):.1e})"


def reference(seeds: int) -> list[dict[str, Any]]:
    """Rotational games with the condition number of theory's example, the equilibrium on the boundary or inside."""
    rows = []
    for name in SOLVERS:
        if name == "AcceleratedGradient":
            continue  # needs a potential
        boundary = [count(name, Problem("rotational", REFERENCE_KAPPA, seed)) for seed in range(seeds)]
        inside = [count(name, Problem("rotational", REFERENCE_KAPPA, seed, interior=True)) for seed in range(seeds)]
        steps = min(boundary[0]["steps"], 2000)
        Counted.calls = 0
        counted = jg.solve(
            Counted(Problem("rotational", REFERENCE_KAPPA, 0).game), SOLVERS[name], tol=TOL, max_steps=steps
        )  # pyright: ignore[reportArgumentType]
        jax.block_until_ready(counted.profile)
        jax.effects_barrier()
        rows.append(
            {
                "solver": name,
                "theory_example": REFERENCE_COUNTS.get(name),
                "boundary": boundary,
                "interior": inside,
                "counter": {"steps": steps, "calls": Counted.calls, "reported": int(counted.evaluations)},
            }
        )
        print("reference  ", name, spread(boundary), "inside", spread(inside), flush=True)
    return rows


def newton_steps(kappas: list[float]) -> list[dict[str, Any]]:
    """Steps (factorisations) of the Newton-type solvers, to the default tolerance or to rounding."""
    rows = []
    for kind in KINDS:
        for kappa in kappas:
            problem = Problem(kind, kappa, 0)
            end = jg.solve(problem.game, jg.Newton())
            error = float(np.abs(np.asarray(end.profile) - problem.profile).max())
            rows.append({"solver": "Newton", "kind": kind, "kappa": kappa, "steps": int(end.steps), "error": error})
    rng = np.random.default_rng(0)
    for kind in KINDS:
        for kappa in kappas:
            game = mean_field(kind, kappa, rng)
            end = jg.solve(game, jg.AggregativeNewton())
            row = {
                "solver": "AggregativeNewton",
                "kind": f"{kind}, mean field",
                "kappa": kappa,
                "steps": int(end.steps),
            }
            rows.append(row | {"error": float(end.residual)})
    return rows


def mean_field(kind: str, kappa: float, rng: np.random.Generator) -> jg.QuadraticGame:
    """Own curvature with condition number κ, or a mean field that rotates with norm κ."""
    orthogonal = np.linalg.qr(rng.normal(size=(GROUPS, GROUPS)))[0]
    coupling = orthogonal * np.logspace(-1, 0, GROUPS) @ orthogonal.T
    spectrum = np.logspace(0, np.log10(kappa), GROUPS)
    if kind == "rotational":
        coupling, spectrum = orthogonal - orthogonal.T, np.ones(GROUPS)
        coupling *= kappa / np.linalg.norm(coupling, 2)
    curvature = orthogonal * spectrum @ orthogonal.T
    linear = rng.normal(size=(AGENTS, GROUPS)) * np.sqrt(kappa)
    return jg.QuadraticGame(
        jnp.asarray(linear),
        jnp.asarray((curvature + curvature.T) / 2),
        coupling=jg.MeanField(coupling, include_self=False),
    )


def slopes(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fitted exponents of κ, from κ = 10 on, where at least three points are."""
    fits = []
    for kind in KINDS:
        for name in SOLVERS:
            rows = [
                p for p in points if p["kind"] == kind and p["solver"] == name and p["evaluations"] and p["kappa"] >= 10
            ]
            if len(rows) >= 3:
                exponent = np.polyfit(np.log([p["kappa"] for p in rows]), np.log([p["evaluations"] for p in rows]), 1)[
                    0
                ]
                fits.append(
                    {"kind": kind, "solver": name, "fitted": float(exponent), "theory": theory_exponent(kind, name)}
                )
    return fits


def figure(points: list[dict[str, Any]], stem: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "jaxgame"
    canvas, axes = plt.subplots(1, 2, figsize=(12, 4.8), sharey=True)
    canvas.subplots_adjust(left=0.07, right=0.8, bottom=0.12, top=0.92, wspace=0.08)
    for ax, kind in zip(axes, KINDS, strict=True):
        for name, (colour, marker) in STYLE.items():
            mine = [p for p in points if p["kind"] == kind and p["solver"] == name]
            done = [p for p in mine if p["evaluations"]]
            x, y = [p["kappa"] for p in done], [p["evaluations"] for p in done]
            ax.plot(x, y, color=colour, marker=marker, label=name)
            failed = [p["kappa"] for p in mine if p["runs"] and not p["evaluations"]]
            ax.plot(failed, [CAP] * len(failed), color=colour, marker=marker, mfc="white", ls="none", clip_on=False)
        for exponent, label in [(0.5, "√κ"), (1.0, "κ")] if kind == "potential" else [(1.0, "κ"), (2.0, "κ²")]:
            x = np.array([2.0, 2 * min(4e3, (0.5 * CAP / 15) ** (1 / exponent))])
            y = 15 * (x / 2) ** exponent
            ax.plot(x, y, color="0.55", ls="--", lw=1, zorder=0)
            ax.annotate(f"∝ {label}", (x[1], y[1]), xytext=(3, -2), textcoords="offset points", color="0.35")
        ax.axhline(CAP, color="0.8", lw=0.8, zorder=0)
        ax.set(xscale="log", yscale="log", xlim=(1.6, 1.6e4), ylim=(10, 1.3 * CAP))
        ax.set(xlabel="condition number κ = L/c", title=f"{kind} games")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(f"gradient evaluations to residual {TOL:g}")
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    canvas.legend(handles.values(), handles.keys(), frameon=False, loc="center right", title="hollow: not reached")
    common.save_figure(canvas, stem)
    plt.close(canvas)


def text(report: dict[str, Any]) -> str:
    points, kappas = report["points"], report["kappas"]
    columns = [f"{kappa:g}" for kappa in kappas]
    lines = ["# Gradient evaluations against the condition number", ""]
    lines += common.prose(
        f"Written by `benchmarks/first_order.py`. {common.described(report['environment'])}.",
    )
    lines += [""]
    lines += common.prose(
        f"Evaluations until the natural residual (theory §1) of the solver's own iterate is {TOL:g}, before any",
        f"polishing; median of {report['seeds']} random games of {AGENTS} agents and {GROUPS} groups with a known",
        f"equilibrium, most of whose weights are zero; only one from {ENOUGH:.0e} evaluations on. At most {CAP:.0e}",
        "evaluations; where a solver runs out of them or stalls, the worst best residual is in brackets, and after",
        "running out larger κ are not tried (–). AcceleratedGradient needs a potential. Not counted: the Jacobian",
        "products of the power methods that measure the game before the first step.",
    )
    for kind in KINDS:
        rows = []
        for name in SOLVERS:
            mine = {p["kappa"]: p for p in points if p["kind"] == kind and p["solver"] == name}
            if mine:
                rows.append([name, *(describe(mine[kappa]).replace("not tried", "–") for kappa in kappas)])
        lines += ["", f"## {kind.capitalize()} games", "", *common.table(["κ", *columns], rows)]
    rows = [
        [f["kind"], f["solver"], f"{f['fitted']:.2f}", "" if f["theory"] is None else f"{f['theory']:g}"]
        for f in report["slopes"]
    ]
    lines += ["", "## Exponent of κ", ""]
    lines += ["Fitted from κ = 10 on, where three points are reached, and theory's (§6).", ""]
    lines += common.table(["games", "solver", "fitted", "theory"], rows)
    lines += ["", f"## Random games like theory's example, κ = {REFERENCE_KAPPA}", ""]
    lines += common.prose(
        "Rotational games of the size and condition number of theory's example, but other games and, for",
        "projected gradient, other steps (co-coercivity as measured, not c/L²). The range over seeds. Last",
        "column: calls of `marginals` counted on the host during one solve of the first game (at most 2000",
        "steps), beside what `Equilibrium.evaluations` reports.",
    )
    rows = []
    for row in report["reference"]:
        counter = row["counter"]
        cells = [spread(row["boundary"]), spread(row["interior"]), f"{counter['calls']} / {counter['reported']}"]
        rows.append([row["solver"], row["theory_example"] or "", *cells])
    lines += ["", *common.table(["solver", "theory's example", "boundary", "interior", "calls / reported"], rows)]
    lines += ["", "## Newton-type solvers: steps, a factorisation each", ""]
    lines += common.prose(
        "Steps to rounding; the largest error of a weight in brackets. AggregativeNewton treats mean fields only,",
        "so its games are others: own curvature with condition number κ (potential), or a coupling that rotates",
        "with norm κ; there the natural residual is in brackets.",
    )
    groups = dict.fromkeys((row["solver"], row["kind"]) for row in report["newton"])
    rows = []
    for solver, kind in groups:
        mine = {row["kappa"]: row for row in report["newton"] if (row["solver"], row["kind"]) == (solver, kind)}
        rows.append([f"{solver}, {kind}", *(f"{mine[k]['steps']} ({mine[k]['error']:.0e})" for k in kappas)])
    lines += ["", *common.table(["κ", *columns], rows)]
    return "\n".join(lines) + "\n"


def spread(runs: list[dict[str, Any]]) -> str:
    reached = sorted(run["evaluations"] for run in runs if run["reached"])
    failed = [f"not reached ({run['best_residual']:.0e})" for run in runs if not run["reached"]]
    span = [f"{reached[0]}–{reached[-1]}" if len(reached) > 1 else str(reached[0])] if reached else []
    return ", ".join(span + sorted(set(failed)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Gradient evaluations against the condition number.")
    parser.add_argument("--seeds", type=int, default=3, help="games a condition number; the median counts")
    parser.add_argument("--quick", action="store_true", help="one game each, κ up to 100")
    parser.add_argument("--output", type=pathlib.Path, default=common.RESULTS)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    seeds = 1 if arguments.quick else arguments.seeds
    kappas = [kappa for kappa in KAPPAS if kappa <= 100] if arguments.quick else KAPPAS
    points = [point for kind in KINDS for point in sweep(kind, kappas, seeds)]
    report = {
        "environment": common.environment("numpy"),
        "agents": AGENTS,
        "groups": GROUPS,
        "tol": TOL,
        "cap": CAP,
        "seeds": seeds,
        "kappas": kappas,
        "points": points,
        "slopes": slopes(points),
        "reference": reference(seeds),
        "newton": newton_steps(kappas),
    }
    common.write_json(arguments.output / "first_order.json", report)
    common.write(arguments.output / "first_order.md", text(report))
    figure(points, arguments.output / "first_order")
    print(text(report))


if __name__ == "__main__":
    main()
