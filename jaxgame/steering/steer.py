"""steer(): change what you can of a population so that its equilibrium becomes what you want."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optax

from jaxgame.equilibrium import Equilibrium
from jaxgame.steering.descent import minimise, optimise
from jaxgame.steering.desert import cross
from jaxgame.steering.plan import Plan
from jaxgame.steering.problem import Point, Problem
from jaxgame.steering.scenarios import holds, met, risk_measure, robustness, same_kind
from jaxgame.steering.search import OutOfSteps, Proof, Search, Ticker
from jaxgame.steering.verdict import certified, explain, solve_anew, verify


def steer(
    build: Callable[..., Any],
    theta: Any,
    *,
    objective: Callable[[Equilibrium], Any],
    cost: Callable[[Any], Any] | None = None,
    constraint: Callable[[Any], Any] | None = None,
    goal: Callable[[Equilibrium], Any] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    max_steps: int = 300,
    scenarios: Any = None,
    risk: Any = "mean",
    confidence: float = 1.0,
    fresh: Any = None,
    resume: Plan | None = None,
) -> Plan:
    """Minimise objective(equilibrium of build(theta)) + cost(theta) over levers theta, a pytree of float arrays.

    build(theta) -> game; objective(equilibrium) -> scalar (see `steering.objectives`); cost(theta) -> scalar;
    constraint(theta) -> theta, the projection on a convex set of allowed levers (as in optax.projections);
    goal(equilibrium) -> bool. All but goal are JAX functions; the same functions compile once. Numbers that change from
    call to call belong in theta, in scenarios, or in a callable pytree (`jax.tree_util.Partial`).

    The derivative is the implicit one, every solve starts from the equilibrium of the last. By default
    projected quasi-Newton steps, and at kinks convex combinations of gradients (`steering.quasi_newton`,
    `steering.stationarity`): nothing to tune, and nothing depends on the units of levers or objective. With
    `optimizer`, any of optax that needs no more than gradients, its steps come first (at most four fifths of
    max_steps), each followed by the projection; the default method finishes and proves. Where groups are left out and
    gradients of representation vanish, signed representation and barrier continuation lead on (`steering.desert`).
    The result is a stationary point; nothing says that it is the best one.

    scenarios: a pytree whose leaves share a leading axis; then build(theta, scenario) -> game, the objective is that
    of one scenario, its risk over scenarios, all equally likely, is minimised: "mean", "worst", ("cvar", level) or a
    `CVaR`. The plan's equilibria are batches, its certificate is the worst scenario's, and the goal counts as met
    where it holds in at least `confidence` of the scenarios. fresh: more scenarios, which only test the plan:
    details["robustness"] has the fraction in which the goal holds.

    max_steps: accepted steps, of all phases. resume: a plan to go on from, with as many steps; theta is what it
    started from. Ctrl-C ends the search with the best plan so far.

    The plan's success: the levers are stationary, a fresh solve by another solver finds the same equilibrium, and the
    goal is met. Otherwise the message says what is missing. details: "goal_met" (None without a goal), "stationarity"
    (a `Proof`, or None), "verification", "phases" (steps of each), "evaluations", "failures", "optimizer_state"; with
    scenarios "scenario" (the one that is certified), with fresh ones "robustness".

    Solving inexactly along the way would not pay: with 100 agents and 7 groups, started from the equilibrium of the
    last step, the default solver takes the same two Newton steps to a residual of 1e-3 as to 1e-15, and value and
    gradient the same 2.4 ms.

    Raises ValueError for a theta that is no pytree of floats, a build that returns no game, functions that return no
    floating scalar (or no levers), an objective that is not finite to begin with, a constraint that returns NaN, an
    optimizer that is none of optax, scenarios that do not fit.
    """
    _check_kinds(build, objective, cost, constraint, goal, optimizer, resume)
    if isinstance(max_steps, bool) or not isinstance(max_steps, (int, np.integer)) or max_steps < 0:
        raise ValueError(f"max_steps is {max_steps!r}, expected an integer ≥ 0")
    if not 0 < confidence <= 1:
        raise ValueError(f"confidence is {confidence}, expected a fraction of the scenarios, above 0 and at most 1")
    if fresh is not None:
        if scenarios is None or goal is None:
            raise ValueError("fresh scenarios test in how many of them the goal holds: give scenarios and a goal, too")
        same_kind(scenarios, fresh)
    problem = Problem(build, theta, objective, cost, constraint, scenarios, risk_measure(risk))
    as_it_was = problem.evaluate(problem.levers.start)
    if resume is None:
        start, before = problem.levers.start, as_it_was.equilibrium
    else:
        start, before = problem.levers.pack(resume.theta, "the theta of the plan to resume"), resume.before
    allowed = problem.project(start)
    point = as_it_was if np.array_equal(allowed, problem.levers.start) else problem.evaluate(allowed)
    converged = bool(np.all(point.equilibrium.converged))
    if converged and not np.isfinite(point.total):
        which = f"objective is {point.objective}, cost {point.cost}"
        raise ValueError(f"{which} at the levers that steering starts from, expected finite numbers")
    with Ticker(int(max_steps)) as progress:
        search = Search(problem, point, int(max_steps), goal=goal, required=confidence, progress=progress)
        if resume is not None:
            search.size = float(np.linalg.norm(start - search.origin))
        point, proof, ended, state = _searched(search, point, optimizer, resume)
    verification = verify(problem, point)
    certificate, worst = certified(problem, verification.equilibrium)
    if ended == "interrupted":  # maybe by the goal itself
        reached = search.known(point)
    else:
        reached = goal is not None and _reached(problem, goal, verification.equilibrium, confidence)
    stationary = proof is not None and proof.stationary and ended != "interrupted"
    details = {
        "goal_met": None if goal is None else reached,
        "stationarity": proof,
        "verification": verification,
        "phases": {phase: [row[5] for row in search.rows].count(phase) for phase in ("gradient", "signed", "barrier")},
        "evaluations": search.evaluations,
        "failures": search.failures,
        "optimizer_state": state,
    }
    message = explain(search, point, proof, ended, verification, certificate, reached)
    if worst is not None:
        details["scenario"] = worst
    if fresh is not None and goal is not None:
        there = problem.levers.unpack(point.theta)
        test = Problem(build, there, objective, cost, scenarios=fresh)
        details["robustness"] = robustness(goal, solve_anew(test, there, test.start))
        message = f"{message} {details['robustness']}"
    history = search.history()
    if resume is not None:
        history = {name: np.concatenate([resume.history[name], column]) for name, column in history.items()}
    return Plan(
        theta=problem.levers.unpack(point.theta),
        equilibrium=verification.equilibrium,
        before=before,
        history=history,
        certificate=certificate,
        success=stationary and verification.agrees and (goal is None or reached),
        message=message,
        cost=point.cost,
        lever="theta",
        baseline=theta,
        rebuild=build if scenarios is None else None,
        details=details,
    )


def _check_kinds(build, objective, cost, constraint, goal, optimizer, resume) -> None:
    """ValueError for arguments of the wrong kind."""
    functions = {"build": build, "objective": objective, "cost": cost, "constraint": constraint, "goal": goal}
    for name, value in functions.items():
        needed = name in ("build", "objective")
        if not callable(value) and (needed or value is not None):
            raise ValueError(f"{name} is {value!r}, expected a function{'' if needed else ' or None'}")
    if optimizer is not None and not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise ValueError(f"optimizer is {optimizer!r}, expected an optax.GradientTransformation, as optax.adam(0.1)")
    if resume is not None and not isinstance(resume, Plan):
        raise ValueError(f"resume is {resume!r}, expected the plan that an earlier steer returned")


def _searched(
    search: Search, point: Point, optimizer: optax.GradientTransformation | None, resume: Plan | None
) -> tuple[Point, Proof | None, str, Any]:
    """The best point, its proof if it has one, how the search ended, and the optimiser's state."""
    state = None if resume is None else resume.details.get("optimizer_state")
    proof = None
    if not point.usable:
        # The value is finite where the equilibrium is (`steer` has checked), so it is its derivative that is not.
        solved = bool(np.all(point.equilibrium.converged))
        return point, None, "no derivative" if solved else "no equilibrium", state
    try:
        if optimizer is not None:
            point, state = optimise(search, point, optimizer, state)
        point, proof = cross(search, *minimise(search, point))
        ended = "done"
    except OutOfSteps:
        ended = "steps" if len(search.rows) >= search.max_steps else "evaluations"
    except KeyboardInterrupt:
        ended = "interrupted"
    if search.proven is not None and not search.better(search.best, search.proven[0]):
        return *search.proven, ended, state
    return search.best, None if ended != "done" else proof, ended, state


def _reached(problem: Problem, goal: Callable, equilibrium: Equilibrium, confidence: float) -> bool:
    if problem.scenarios is None:
        return bool(equilibrium.converged) and met(goal, equilibrium)
    return bool(holds(goal, equilibrium).mean() >= confidence)
