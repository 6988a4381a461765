"""solve(): the one entry point, and the equilibrium that it returns with its proof."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxgame import _checks
from jaxgame._pytree import pytree
from jaxgame.bounds import Bounds
from jaxgame.certificate.gap import concave_agents, gaps
from jaxgame.games import dtype_of, is_aggregative, linearise, reach_of, representation
from jaxgame.games.affine import AffineMap
from jaxgame.implicit import tangent
from jaxgame.solvers import AggregativeNewton, GoldenRatio, Newton, Solver
from jaxgame.solvers.bounded_newton import BoundedNewton
from jaxgame.solvers.kkt import DENSE_LIMIT, is_tractable
from jaxgame.solvers.loop import CONVERGED, MAX_STEPS, NONFINITE, STALLED, Progress, run
from jaxgame.solvers.newton import natural_face, project_on, solve_on
from jaxgame.solvers.scale import Scale, measure, uniform

POLISH_ROUNDS = 3
FIRST_ORDER_STEPS = 100_000
FIRST_ORDER_STALL = 5_000


@pytree()
class Equilibrium:
    """A profile with its proof; a pytree, so that `vmap` over `solve` gives a batch of them.

    profile (n, D); representation (D,); residual: natural residual, scale-free (theory §1); gap: certified bound on
    what any agent can gain by a unilateral change, in units of utility, ∞ if an agent's utility is not concave;
    converged; status: 0 converged, 1 out of steps, 2 not finite, 3 stalled; steps; history: the residual after each
    step, where asked for; bounds, prices (p,): where shared bounds were asked for, these and their prices, ≥ 0 at a
    floor and ≤ 0 at a cap. Residual, gap, multipliers and `signed` are then those of the game with the prices paid.

    On demand: `signed` (n, D), `multipliers` (n,), `message`, `stats`.
    """

    game: Any
    profile: Array
    representation: Array
    residual: Array
    gap: Array
    converged: Array
    status: Array
    steps: Array
    evaluations: Array
    tol: Array
    history: Array | None = None
    bounds: Any = None
    prices: Any = None
    replace: ClassVar[Callable[..., Any]]

    @property
    def multipliers(self) -> Array:
        """μ_i: the marginal utility of what agent i represents, (n,)."""
        return self._unbatched(lambda *at: paid_marginals(*at).max(-1))

    @property
    def signed(self) -> Array:
        """Signed representation w − ν, ν_id = μ_i − g_id where w_id = 0 (theory §4), (n, D)."""
        return self._unbatched(signed)

    @property
    def stats(self) -> dict[str, Any]:
        """steps, evaluations (of the marginals), margin: min over (i, d) of max(w, ν); 0 at a kink of the equilibrium
        map.
        """
        margin = self._unbatched(lambda *at: jnp.abs(signed(*at)).min())
        return dict(steps=self.steps, evaluations=self.evaluations, margin=margin)

    @property
    def message(self) -> Any:
        """What happened, in a sentence or two, with what to try next; an array of messages for a batch."""
        from jaxgame.certificate.message import describe

        batch = np.shape(self.status)
        if not batch:
            return describe(self)
        out = np.empty(batch, object)
        for index in np.ndindex(batch):
            out[index] = describe(jax.tree.map(lambda leaf, at=index: leaf[at], self))
        return out

    def _unbatched(self, function: Any) -> Array:
        """Of the game, the profile, and what is paid."""
        for _ in range(self.profile.ndim - 2):
            function = jax.vmap(function)
        return function(self.game, self.profile, self.bounds, self.prices)


def paid_marginals(game: Any, profile: Array, bounds: Bounds | None = None, prices: Array | None = None) -> Array:
    """The marginal utilities with the prices of bounds paid, (n, D)."""
    marginals = game.marginals(profile)
    return marginals if bounds is None or prices is None else marginals + bounds.priced(prices)


def signed(game: Any, profile: Array, bounds: Bounds | None = None, prices: Array | None = None) -> Array:
    """w where represented, −ν where not: how far a group is from entry, in units of utility per unit of mixture."""
    marginals = paid_marginals(game, profile, bounds, prices)
    slack = marginals.max(-1, keepdims=True) - marginals
    # A solver that never reaches zero leaves a trace of an excluded group: that is no representation.
    trace = (profile < jnp.sqrt(jnp.finfo(profile.dtype).eps)) & (slack > profile)
    return jnp.where((profile > 0) & ~trace, profile, -slack)


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
    shape. Quadratic games are polished on their support to rounding. Never raises for a failed solve: look at
    `converged`, `status` and `message`.

    Raises ValueError for a solver that cannot treat the game, an init, tol or max_steps that make no sense, or bounds
    that no representation satisfies.
    """
    dtype = dtype_of(game)
    shape = (game.n_agents, game.n_groups)
    if bounds is not None:
        solver, bounds = _bounded_solver(game, solver, bounds)
    chosen = default_solver(game) if solver is None else solver
    if not (hasattr(chosen, "init") and hasattr(chosen, "step")):
        raise ValueError(
            f"solver must have init(game, profile) and step(game, state), got {chosen!r}; an instance, not a class?"
        )
    if isinstance(chosen, type):
        raise ValueError(f"solver is the class {chosen.__name__}, expected an instance: {chosen.__name__}()")
    if check := getattr(chosen, "check", None):
        check(game)
    if tol is None:
        tol = 1e-6 if jnp.finfo(dtype).bits <= 32 else 1e-10
    elif _checks.concrete(tol) and not float(tol) > 0:
        raise ValueError(f"tol is {tol}, expected a positive number")
    default_steps = getattr(chosen, "max_steps", FIRST_ORDER_STEPS)
    if max_steps is None:
        max_steps = default_steps
    elif _checks.concrete(max_steps) and not (0 <= float(max_steps) < np.inf and float(max_steps) == int(max_steps)):
        raise ValueError(f"max_steps is {max_steps}, expected an integer ≥ 0")
    start = None
    if init is not None:
        start = _checks.shares("init", _checks.array("init", init, dtype, shape), init)
    record = 0
    if history:
        if not _checks.concrete(max_steps):
            raise ValueError("history=True needs a max_steps that is known when the solve is compiled")
        record = int(max_steps or 0)
    out = _solve(
        _Carried.wrap(game),
        _Carried.wrap(chosen),
        start,
        tol,
        max_steps,
        bounds,
        solver is None,
        _checks.concrete(~jnp.zeros((), bool)),  # whether there is no jit around this, and an error can be raised
        record,
    )
    equilibrium = Equilibrium(game, **out)
    if history and _checks.concrete(equilibrium.steps):
        made = int(equilibrium.steps) if equilibrium.steps.ndim == 0 else record
        equilibrium = equilibrium.replace(history=out["history"][..., :made])
    return equilibrium


def default_solver(game: Any) -> Solver:
    """The best solver that the structure of a game allows."""
    if is_aggregative(game):
        return AggregativeNewton()
    return Newton() if is_tractable(game) else GoldenRatio()


def _bounded_solver(game: Any, solver: Solver | None, bounds: Any) -> tuple[BoundedNewton, Bounds]:
    if not isinstance(bounds, Bounds):
        raise ValueError(f"bounds must be a Bounds, got {type(bounds).__name__}")
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
    bounds = bounds.sized(game.n_agents, game.n_groups, reach_of(game, dtype_of(game)))
    return BoundedNewton(bounds), bounds


@functools.partial(jax.custom_jvp, nondiff_argnums=(6, 7, 8))
def _found(
    carried_game, carried_solver, start, tol, max_steps, bounds, rescue: bool, loud: bool, record: int
) -> dict[str, Any]:
    game, solver = carried_game.unwrap(), carried_solver.unwrap()
    dtype = dtype_of(game)
    start = uniform(game, dtype) if start is None else start
    tol, max_steps = jnp.asarray(tol, dtype), jnp.asarray(max_steps, int)
    scale = measure(game, dtype)
    finish = isinstance(solver, Newton | BoundedNewton)
    stall = getattr(solver, "stall", FIRST_ORDER_STALL)
    found = run(game, solver, start, scale, tol=tol, max_steps=max_steps, patience=stall, record=record, finish=finish)
    steps, evaluations = found.steps, found.evaluations
    if rescue and not isinstance(solver, GoldenRatio):
        again = _rescue(game, found, scale, tol, max_steps)
        steps, evaluations = steps + again.steps, evaluations + again.evaluations
        found = again.replace(history=found.history)
    profile, marginals, residual = found.profile, found.marginals, found.residual
    if is_tractable(game) and not finish:
        profile, marginals, residual, extra = _polish(game, found, scale)
        evaluations = evaluations + extra
    failed = found.status == NONFINITE
    gap = gaps(game, profile, marginals, concave_agents(game, profile)).max()
    return dict(
        profile=profile,
        representation=representation(game, profile),
        residual=residual,
        gap=jnp.where(failed | jnp.isnan(gap), jnp.inf, gap),
        converged=found.status == CONVERGED,
        status=found.status,
        steps=steps,
        evaluations=evaluations,
        tol=tol,
        history=found.history if record else None,
        bounds=bounds,
        prices=found.prices,
    )


@_found.defjvp
def _found_jvp(rescue: bool, loud: bool, record: int, primals: tuple, tangents: tuple) -> tuple[dict, dict]:
    """The implicit derivative; the start, the solver and the tolerance do not move an equilibrium."""
    out = _found(*primals, rescue, loud, record)
    game, change = primals[0].unwrap(), tangents[0].unwrap()
    bounds, bounds_change, profile = primals[5], tangents[5], out["profile"]
    moved, charged = tangent(game, change, bounds, bounds_change, profile, out["prices"], loud)
    # No derivative of what is no equilibrium. A product: the transpose of a selection would be zero where it failed.
    valid = jnp.where(out["converged"], jnp.ones((), profile.dtype), jnp.nan)
    moved, charged = jax.tree.map(lambda x: valid * x, (moved, charged))
    _, shown = jax.jvp(representation, (game, profile), (change, moved))
    still = jax.tree.map(_no_tangent, out)
    return out, still | dict(profile=moved, representation=shown, bounds=bounds_change, prices=charged)


_solve = jax.jit(_found, static_argnums=(6, 7, 8))


def _no_tangent(x: Array) -> Any:
    return jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.floating) else np.zeros(x.shape, jax.dtypes.float0)


def _rescue(game: Any, found: Progress, scale: Scale, tol: Array, max_steps: Array) -> Progress:
    """First-order steps from the best profile, where Newton gave up before max_steps was spent."""
    gave_up = (
        (found.status == STALLED)
        | (found.status == NONFINITE)
        | (found.status == MAX_STEPS) & (found.steps >= Newton.max_steps)
    )
    budget = jnp.where(gave_up, FIRST_ORDER_STEPS // 5, 0)
    again = run(game, GoldenRatio(), found.profile, scale, tol=tol, max_steps=budget, patience=FIRST_ORDER_STALL)
    better = gave_up & (again.residual < found.residual)
    status = jnp.where(gave_up & (again.status == CONVERGED), CONVERGED, found.status)
    return again.replace(
        profile=jnp.where(better, again.profile, found.profile),
        marginals=jnp.where(better, again.marginals, found.marginals),
        residual=jnp.where(better, again.residual, found.residual),
        status=status,
        evaluations=jnp.where(gave_up, again.evaluations, 0),
    )


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


@jax.tree_util.register_pytree_node_class
class _Carried:
    """A game or solver on its way into jit: a pytree travels as one, any other object by identity.

    With its class beside it: JAX takes dataclasses of different classes and equal fields for the same tree, and one
    solver could run the other's program.
    """

    def __init__(self, tree: Any, opaque: Any, kind: Any):
        self.tree, self.opaque, self.kind = tree, opaque, kind

    @classmethod
    def wrap(cls, x: Any) -> _Carried:
        return cls(None, x, None) if jax.tree_util.all_leaves((x,)) else cls(x, None, type(x))

    def unwrap(self) -> Any:
        return self.tree if self.opaque is None else self.opaque

    def tree_flatten(self):
        return (self.tree,), (self.opaque, self.kind)

    @classmethod
    def tree_unflatten(cls, fixed, children):
        return cls(children[0], *fixed)
