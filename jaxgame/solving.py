"""solve(): the one entry point. It chooses a solver, runs it, falls back on another, and knows the derivative."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from jaxgame import _checks
from jaxgame._pytree import Carried
from jaxgame.bounds import Bounds
from jaxgame.certificate.gap import concave_agents, gaps
from jaxgame.equilibrium import Equilibrium
from jaxgame.games import dtype_of, is_aggregative, linearise, representation, share_of
from jaxgame.games.affine import AffineMap
from jaxgame.games.rational import Rational
from jaxgame.linalg import dot
from jaxgame.moves import moves
from jaxgame.solvers import (
    AcceleratedGradient,
    AggregativeNewton,
    Extragradient,
    GoldenRatio,
    Newton,
    OptimisticGradient,
    ProjectedGradient,
    Solver,
)
from jaxgame.solvers.bounded_newton import BoundedNewton
from jaxgame.solvers.crowd import is_crowd, settle_crowd
from jaxgame.solvers.kkt import DENSE_LIMIT, is_tractable
from jaxgame.solvers.logit_newton import LogitNewton
from jaxgame.solvers.loop import CONVERGED, MAX_STEPS, NONFINITE, STALLED, Loop, Progress
from jaxgame.solvers.newton import natural_face, project_on, solve_on
from jaxgame.solvers.parts import largest, on_parts
from jaxgame.solvers.population import holds
from jaxgame.solvers.scale import Scale, measure, uniform
from jaxgame.solvers.settle import is_populous, settle

POLISH_ROUNDS = 3
FIRST_ORDER_STEPS = 100_000
FIRST_ORDER_STALL = 5_000
RESCUE_STEPS = FIRST_ORDER_STEPS // 5
PROJECTING = (
    AcceleratedGradient,
    AggregativeNewton,
    Extragradient,
    GoldenRatio,
    Newton,
    OptimisticGradient,
    ProjectedGradient,
)


def solve(
    game: Any,
    solver: Solver | None = None,
    *,
    tol: float | Array | None = None,
    max_steps: int | Array | None = None,
    init: Array | None = None,
    bounds: Bounds | None = None,
    history: bool = False,
) -> Equilibrium:
    """Find a Nash equilibrium of a game (the Wardrop equilibrium of a mean field with atomic=False).

    game: any object with the `Game` protocol. solver: default chosen from the structure of the game, with a fallback;
    or one of jaxgame's, or any object with `init` and `step` (see `solvers.loop`). tol: on the scale-free natural
    residual of theory §1, default 1e-10 in float64 and 1e-6 in float32; below what rounding allows the verdict is
    judged against rounding. max_steps: of the solver, default its own. init: (n, D) start, default uniform; where the
    equilibrium is not unique the result depends on it. bounds: floors and caps on the representation that all agents
    share; the variational equilibrium with its prices (theory §5), by an interior point, so without a `solver`.
    history: keep the residual of every step.

    Composes with jit, vmap, grad, jvp: an implicit derivative in every array leaf of the game and of the bounds, zero
    in init, NaN if the solve failed. Where the optimality conditions are singular it is NaN under jit, and outside it a
    FloatingPointError, which JAX hands on within a ValueError or runtime error of its own. At a kink it is an element
    of the conservative Jacobian; the `margin` of `stats` tells how far one is. One compilation serves all games of one
    shape. Quadratic games are polished on their support to rounding, but for what the fallback finds, which is as good
    as tol. Never raises for a failed solve: look at `converged`, `status` and `message`.

    Raises ValueError for a solver that cannot treat the game, an init, tol or max_steps that make no sense, or bounds
    that no representation satisfies.
    """
    dtype = dtype_of(game)
    shape = (game.n_agents, game.n_groups)
    if bounds is not None:
        solver, bounds = _bounded_solver(game, solver, bounds)
    chosen = default_solver(game) if solver is None else solver
    check_solver(chosen, game)
    tol, max_steps = numbers(chosen, dtype, tol, max_steps)
    start = None
    if init is not None:
        start = _checks.shares("init", _checks.array("init", init, dtype, shape), init)
    record = 0
    if not isinstance(history, bool):
        raise ValueError(f"history is {history!r}, expected True or False")
    if history:
        if not _checks.concrete(max_steps):
            raise ValueError("history=True needs a max_steps that is known when the solve is compiled")
        record = int(max_steps or 0)
    arguments = Carried.wrap(game), Carried.wrap(chosen), start, tol, max_steps, bounds
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arguments))
    # Where nothing is traced there is nothing to differentiate, and dispatch is several times faster.
    rescue = solver is None and may_rescue(chosen)
    out = (_differentiable if traced else _found)(*arguments, rescue, record)
    equilibrium = Equilibrium(game, **out)
    if history and _checks.concrete(equilibrium.steps):
        made = int(equilibrium.steps) if equilibrium.steps.ndim == 0 else record
        equilibrium = equilibrium.replace(history=out["history"][..., :made])
    return equilibrium


def check_solver(solver: Any, game: Any) -> None:
    """Raises ValueError for what is no solver, or none for this game."""
    if not (hasattr(solver, "init") and hasattr(solver, "step")):
        raise ValueError(
            f"solver must have init(game, profile) and step(game, state), got {solver!r}; an instance, not a class?"
        )
    if isinstance(solver, type):
        raise ValueError(f"solver is the class {solver.__name__}, expected an instance: {solver.__name__}()")
    if isinstance(game, Rational) and isinstance(solver, PROJECTING):
        raise ValueError(
            f"solver is {type(solver).__name__}, expected none, or one that stays inside the simplex (MirrorProx): the "
            "marginals of a game with a rationality are infinite at the boundary"
        )
    if check := getattr(solver, "check", None):
        check(game)


def numbers(solver: Any, dtype: Any, tol: Any, max_steps: Any) -> tuple[Any, Any]:
    """tol and max_steps with their defaults. Raises ValueError where they make no sense."""
    if tol is None:
        tol = 1e-6 if jnp.finfo(dtype).bits <= 32 else 1e-10
    elif _checks.concrete(tol) and not float(tol) > 0:
        raise ValueError(f"tol is {tol}, expected a positive number")
    if max_steps is None:
        max_steps = getattr(solver, "max_steps", FIRST_ORDER_STEPS)
    elif _checks.concrete(max_steps) and not (0 <= float(max_steps) < np.inf and float(max_steps) == int(max_steps)):
        raise ValueError(f"max_steps is {max_steps}, expected an integer ≥ 0")
    return tol, max_steps


def default_solver(game: Any) -> Solver:
    """The best solver that the structure of a game allows."""
    if isinstance(game, Rational):
        return LogitNewton()
    if is_aggregative(game):
        return AggregativeNewton()
    return Newton() if is_tractable(game) else GoldenRatio()


def may_rescue(solver: Solver) -> bool:
    """Whether first-order steps may take over from a solver: none from their own kind, or where entropies matter."""
    return not isinstance(solver, GoldenRatio | LogitNewton)


def _bounded_solver(game: Any, solver: Solver | None, bounds: Any) -> tuple[BoundedNewton, Bounds]:
    if not isinstance(bounds, Bounds):
        raise ValueError(f"bounds must be a Bounds, got {type(bounds).__name__}")
    if isinstance(game, Rational):
        raise ValueError(
            "bounds are not offered for games with a rationality: pay prices of the game without one, subsidised(game, "
            "…), or steer its logit responses with steer(…)"
        )
    if solver is not None:
        raise ValueError(
            f"solver is {type(solver).__name__}, expected none with bounds: only the interior point handles prices; to "
            "check its answer by another solver, solve the game with the prices paid, games.subsidised(game, …)"
        )
    if not is_tractable(game):
        raise ValueError(
            f"bounds need a Jacobian that fits in memory: at most {DENSE_LIMIT} mixture entries where agents meet "
            "neither through a mean nor along a network"
        )
    bounds = bounds.sized(game.n_agents, game.n_groups, share_of(game, dtype_of(game)))
    return BoundedNewton(bounds), bounds


def _found(game, solver, start, tol, max_steps, bounds, rescue: bool, record: int) -> dict[str, Any]:
    """The fields of an equilibrium; with `rescue`, by first-order steps where the solver gave up."""
    large = is_populous(game.unwrap()) or is_crowd(game.unwrap())
    if bounds is None and isinstance(solver.unwrap(), AggregativeNewton) and large:
        settled, gave_up = _settled(game, start, tol, max_steps, record)

        def anew() -> dict[str, Any]:
            return _stepwise(game, solver, start, tol, max_steps, bounds, rescue, record)

        if _checks.concrete(gave_up):
            return anew() if gave_up else settled
        return lax.cond(gave_up, anew, lambda: settled)
    return _stepwise(game, solver, start, tol, max_steps, bounds, rescue, record)


@functools.partial(jax.jit, static_argnums=4)
def _settled(carried_game: Carried, start, tol, max_steps, record: int) -> tuple[dict[str, Any], Array]:
    """Of a large population, through its aggregate; and whether that failed for want of convergence."""
    game = carried_game.unwrap()
    dtype = dtype_of(game)
    crowd = is_crowd(game)
    if start is None:
        aggregate = jnp.full(game.n_groups, 1 / game.n_groups, dtype)
    else:
        aggregate = representation(game, start) if crowd else dot(game.affine().others.reach, start)
    tol, max_steps = jnp.asarray(tol, dtype), jnp.asarray(max_steps, int)

    def settled(part: Any, axis: str | None, *arguments: Array) -> tuple[Array, Any]:
        found = (settle_crowd if crowd else settle)(part, *arguments, record=record, axis=axis)
        if not crowd:
            concave = ~largest(~holds(part, lambda some: concave_agents(some, some.chosen.linear)), axis)
            found = found.replace(gap=jnp.where(concave, found.gap, jnp.inf))
        return found.profile, found.replace(profile=None)

    profile, found = on_parts(settled, (game,), (), aggregate, tol, max_steps)
    out_of_steps = found.passes >= max_steps
    fields = dict(
        profile=profile,
        representation=found.representation,
        residual=found.residual,
        gap=found.gap,
        converged=found.done,
        status=jnp.where(found.done, CONVERGED, MAX_STEPS),
        steps=found.passes,
        evaluations=found.passes,
        tol=tol,
        history=found.history if record else None,
        bounds=None,
        prices=None,
    )
    # Without a single pass there is no profile.
    return fields, ~found.done & (~out_of_steps | (found.passes == 0))


def _stepwise(game, solver, start, tol, max_steps, bounds, rescue: bool, record: int) -> dict[str, Any]:
    """By the steps of a solver on profiles."""
    first, gave_up = _attempt(game, solver, start, tol, max_steps, bounds, record)
    if not rescue:
        return first
    # Compiled only where it is needed, unless what is needed is known only when it runs.
    if _checks.concrete(gave_up):
        return _rescued(game, first) if gave_up else first
    return certified(game, lax.cond(gave_up, lambda: _continued(game, first, gave_up), lambda: first))


@functools.partial(jax.jit, static_argnums=6)
def _attempt(
    carried_game: Carried, carried_solver: Carried, start, tol, max_steps, bounds, record: int
) -> tuple[dict[str, Any], Array]:
    """By one solver; and whether it stopped although it might have gone on."""
    game, solver = carried_game.unwrap(), carried_solver.unwrap()
    start = uniform(game, dtype_of(game)) if start is None else start
    loop = looped(game, solver, tol, max_steps, record)
    return concluded(loop, loop.run(start), bounds)


def looped(game: Any, solver: Any, tol: Any, max_steps: Any, record: int = 0, scale: Scale | None = None) -> Loop:
    """The loop in which `solve` runs a solver."""
    dtype = dtype_of(game)
    tol, max_steps = jnp.asarray(tol, dtype), jnp.asarray(max_steps, int)
    scale = measure(game, dtype) if scale is None else scale
    stall = getattr(solver, "stall", FIRST_ORDER_STALL)
    return Loop(
        game, solver, scale, tol, max_steps, stall, record, isinstance(solver, Newton | BoundedNewton | LogitNewton)
    )


def concluded(loop: Loop, found: Progress, bounds: Any = None) -> tuple[dict[str, Any], Array]:
    """The fields of an equilibrium, polished and certified; and whether first-order steps might go on."""
    game = loop.game
    profile, marginals, residual, evaluations = found.profile, found.marginals, found.residual, found.evaluations
    if is_tractable(game) and not loop.finish and not isinstance(game, Rational):
        profile, marginals, residual, extra = _polish(game, found, loop.scale)
        evaluations = evaluations + extra
    fields = dict(
        profile=profile,
        representation=representation(game, profile),
        residual=residual,
        gap=_gap(game, profile, marginals, found.status),
        converged=found.status == CONVERGED,
        status=found.status,
        steps=found.steps,
        evaluations=evaluations,
        tol=loop.tol,
        history=found.history if loop.record else None,
        bounds=bounds,
        prices=found.prices,
    )
    out_of_steps = (found.status == MAX_STEPS) & (found.steps >= Newton.max_steps)
    return fields, (found.status == STALLED) | (found.status == NONFINITE) | out_of_steps


@jax.jit
def _rescued(game: Carried, first: dict[str, Any]) -> dict[str, Any]:
    return certified(game, _continued(game, first, jnp.ones((), bool)))


def _continued(carried_game: Carried, first: dict[str, Any], gave_up: Array) -> dict[str, Any]:
    """First-order steps from the best profile, where Newton gave up; still to be certified."""
    # No steps for the lanes of a batch that need none.
    loop = rescue_loop(carried_game, first["tol"], jnp.where(gave_up, RESCUE_STEPS, 0))
    return improved(first, loop.run(first["profile"]), gave_up)


def rescue_loop(carried_game: Carried, tol: Any, max_steps: Any, scale: Scale | None = None) -> Loop:
    """The loop of the first-order steps that take over where Newton gave up."""
    return looped(carried_game.unwrap(), GoldenRatio(), tol, max_steps, scale=scale)


def improved(first: dict[str, Any], again: Progress, gave_up: Array) -> dict[str, Any]:
    """What was found first, with what further steps have found where the first gave up."""
    better = gave_up & (again.residual < first["residual"])
    return first | dict(
        profile=jnp.where(better, again.profile, first["profile"]),
        residual=jnp.where(better, again.residual, first["residual"]),
        status=jnp.where(better & (again.status == CONVERGED), CONVERGED, first["status"]),
        steps=first["steps"] + again.steps,
        evaluations=first["evaluations"] + jnp.where(gave_up, again.evaluations, 0),
    )


def certified(carried_game: Carried, found: dict[str, Any]) -> dict[str, Any]:
    """With what follows from the profile and the status."""
    game, profile, status = carried_game.unwrap(), found["profile"], found["status"]
    return found | dict(
        representation=representation(game, profile),
        gap=_gap(game, profile, game.marginals(profile), status),
        converged=status == CONVERGED,
    )


def _gap(game: Any, profile: Array, marginals: Array, status: Array) -> Array:
    gap = gaps(game, profile, marginals, concave_agents(game, profile)).max()
    return jnp.where((status == NONFINITE) | jnp.isnan(gap), jnp.inf, gap)


_differentiable = jax.custom_jvp(_found, nondiff_argnums=(6, 7))


@_differentiable.defjvp
def _found_jvp(rescue: bool, record: int, primals: tuple, tangents: tuple) -> tuple[dict, dict]:
    """The implicit derivative; the start, the solver and the tolerance do not move an equilibrium."""
    out = _differentiable(*primals, rescue, record)
    loud = _checks.concrete(~jnp.zeros((), bool))  # no jit around this, so that an error can be raised
    game, _, _, _, _, bounds = primals
    return out, moves(game, tangents[0], bounds, tangents[5], out, loud)


def _polish(game: Any, found: Progress, scale: Scale) -> tuple[Array, Array, Array, Array]:
    """Newton steps on the support that was found, kept while they lower the residual."""

    def unfinished(carry) -> Array:
        _, _, residual, rounds, improved = carry
        tiny = jnp.finfo(residual.dtype).eps
        return improved & (rounds < POLISH_ROUNDS) & (residual > tiny)

    def body(carry):
        profile, marginals, residual, rounds, _ = carry
        affine: AffineMap = linearise(game, profile).scaled(1 / scale.sigma)
        face = natural_face(affine, profile)
        candidate = project_on(solve_on(affine, face, profile), face)
        slope = game.marginals(candidate)
        left = scale.residual(candidate, slope)
        better = (left < residual) & jnp.isfinite(slope).all()
        return (
            jnp.where(better, candidate, profile),
            jnp.where(better, slope, marginals),
            jnp.where(better, left, residual),
            rounds + 1,
            better & (left < residual / 2),
        )

    begin = (found.profile, found.marginals, found.residual, jnp.zeros((), int), found.status == CONVERGED)
    profile, marginals, residual, rounds, _ = lax.while_loop(unfinished, body, begin)
    return profile, marginals, residual, rounds
