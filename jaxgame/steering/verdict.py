"""What a search ends with: another solver's word on its result, a certificate, and what to say."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame._pytree import Carried
from jaxgame.certificate.certify import Certificate, certify
from jaxgame.equilibrium import Equilibrium
from jaxgame.solvers import GoldenRatio, MirrorProx, OptimisticGradient
from jaxgame.solvers.logit_newton import LogitNewton
from jaxgame.solving import default_solver, solve
from jaxgame.steering.problem import Aims, Point, Problem, scalar
from jaxgame.steering.scenarios import one
from jaxgame.steering.search import Proof, Search

WORK = 200_000_000  # mixture entries that the first-order solver may go through
STEPS = (500, 20_000)


def _another(solver: Any) -> Any:
    """A first-order solver of the same games."""
    if isinstance(solver, LogitNewton):
        return MirrorProx()
    return OptimisticGradient() if isinstance(solver, GoldenRatio) else GoldenRatio()


@dataclasses.dataclass(frozen=True)
class Verification:
    """A fresh solve of the game that a plan leads to, knowing nothing of the search.

    equilibrium: the fresh one, or the search's own where nothing else was found; solver: what found it; distance: the
    largest difference in representation from the search's; agrees: neither that nor the objective differs by more than
    rounding explains; problem: why not, in a sentence.
    """

    equilibrium: Equilibrium
    solver: str
    distance: float
    agrees: bool
    problem: str


def verify(problem: Problem, point: Point) -> Verification:
    """Solve afresh by a first-order method from the uniform profile; where that is too slow, by the default solver from
    a random profile.
    """
    theta = problem.levers.unpack(point.theta)
    own = point.equilibrium
    try:
        game = problem.game(theta)
    except ValueError as error:
        return Verification(own, "", np.inf, False, f"The game's constructor refuses these levers: {error}.")
    first = _another(default_solver(game))
    steps = int(np.clip(WORK // problem.start.size, *STEPS))
    fresh = _fresh(problem.aims, theta, Carried.wrap(first), problem.start, jnp.asarray(steps))
    name = type(first).__name__
    if not bool(jnp.all(fresh.converged)):
        name = f"{type(default_solver(game)).__name__} from a random profile"
        drawn = np.random.default_rng(0).dirichlet(np.ones(game.n_groups), problem.start.shape[:-1])
        fresh = solve_anew(problem, theta, jnp.asarray(drawn, problem.start.dtype))
    if not bool(jnp.all(fresh.converged)):
        return Verification(own, name, np.inf, False, "A fresh solve did not converge.")
    distance = float(jnp.abs(fresh.representation - own.representation).max())
    objective = float(problem.aims.assess(fresh))
    apart = float(jnp.finfo(problem.start.dtype).eps) ** 0.4
    if distance <= apart and abs(objective - point.objective) <= apart * max(1.0, abs(point.objective)):
        return Verification(fresh, name, distance, True, "")
    where = f"A fresh solve by {name} finds another equilibrium (representation differs by {distance:.3g}, objective"
    return Verification(fresh, name, distance, False, f"{where} {objective:.6g} for {point.objective:.6g}).")


def solve_anew(problem: Problem, theta: Any, start: Array) -> Equilibrium:
    """The equilibrium, or those of all scenarios, by the default solver."""
    return _fresh(problem.aims, theta, None, start, None)


@jax.jit
def _fresh(aims: Aims, theta: Any, solver: Carried | None, start: Array, max_steps: Array | None) -> Equilibrium:
    chosen = None if solver is None else solver.unwrap()
    return aims.each(lambda game, start: solve(game, chosen, init=start, max_steps=max_steps))(aims.games(theta), start)


def certified(problem: Problem, equilibrium: Equilibrium) -> tuple[Certificate, int | None]:
    """The certificate of an equilibrium; with scenarios, of the worst of them, and which that is."""
    if problem.scenarios is None:
        return certify(equilibrium.game, equilibrium.profile), None
    objective = problem.aims.objective.unwrap()
    values = jax.vmap(lambda e: scalar("objective", objective(e), e.profile.dtype))(equilibrium)
    worst = int(jnp.argmax(values))
    alone = one(equilibrium, worst)
    return certify(alone.game, alone.profile), worst


def explain(
    search: Search,
    point: Point,
    proof: Proof | None,
    ended: str,
    verification: Verification,
    certificate: Certificate,
    reached: bool,
) -> str:
    """The plan's message."""
    parts = [_end(search, point, proof, ended), *_road(search)]
    if search.goal is not None:
        parts.append("The goal is met." if reached else _missed(search, point))
    if verification.agrees:
        parts.append(f"Verified by a fresh solve with {verification.solver}: representation differs by at most "
                     f"{verification.distance:.2g}.")  # fmt: skip
    else:
        parts.append(f"Not verified. {verification.problem}")
    return " ".join([*parts, certificate.message])


def _end(search: Search, point: Point, proof: Proof | None, ended: str) -> str:
    steps = f"{len(search.rows)} steps, {search.evaluations} solves with their derivatives"
    if ended == "interrupted":
        return f"Interrupted after {steps}: this is the best so far; steer(…, resume=plan) goes on."
    if ended == "no equilibrium":
        return "No search: the game has no equilibrium that was found at the levers that steering starts from."
    if ended == "no derivative":
        return (
            "No search: the derivative of objective + cost is not finite at the levers that steering starts from, as "
            "that of a norm at 0, or of an equilibrium whose optimality conditions are singular. Start elsewhere, or "
            "smooth the function."
        )
    if proof is None and ended in ("steps", "evaluations"):
        allowed = f"The evaluation budget ran out: max_steps {search.max_steps} allows {search.max_evaluations} solves"
        spent = "Out of steps" if ended == "steps" else allowed
        return f"{spent} ({steps}) before the levers were stationary: raise max_steps, or steer(…, resume=plan)."
    if proof is None or not proof.stationary:
        return f"Stopped after {steps}: no descent is found, but the levers are not proved to be stationary."
    if proof.measure == 0 and proof.gradients == 1:
        constrained = search.problem.constraint is not None and point.gradient.any()
        what = "no move that the constraint allows leads down" if constrained else "the gradient vanishes"
        return f"Stationary after {steps}: {what}."
    within = f"within {proof.radius:.1g} of the levers' scale"
    if proof.smooth:
        return f"Stationary after {steps}: the gradient is {proof.measure:.1g} of the largest one {within}."
    return (
        f"Stationary after {steps}, at a kink: a convex combination of {proof.gradients} gradients {within} nearly "
        f"vanishes (Clarke), it is {proof.measure:.1g} of the largest of them."
    )


def _road(search: Search) -> list[str]:
    phases = [row[5] for row in search.rows]
    ways = {"signed": "signed representation", "barrier": "barrier continuation"}
    used = [f"{ways[phase]} ({phases.count(phase)} steps)" for phase in ways if phase in phases]
    parts = [f"Gradients of the objective alone did not suffice; also followed: {', '.join(used)}."] if used else []
    if search.failures:
        parts.append(f"{search.failures} trials led to levers without an equilibrium or a finite objective, and were "
                     "taken back.")  # fmt: skip
    return parts


def _missed(search: Search, point: Point) -> str:
    nearest = f"objective {point.objective:.6g} at a cost of {point.cost:.6g}"
    if search.problem.scenarios is not None:
        return f"The goal is not met in enough of the scenarios; the nearest that was found has {nearest}."
    return (
        f"The goal is not met; the nearest that was found has {nearest}. It may be out of reach of these levers, or "
        "the objective may weigh too little against the cost."
    )
