"""The one loop around every solver: stopping, finiteness, best-so-far, history, status.

A solver is any object with

    init(game, profile (n, D)) -> state      and      step(game, state) -> state

where a state is a pytree of arrays that is the profile itself or carries it as the attribute `profile` (or, for a
tuple, as its first element). A state may also carry `marginals` and the natural `residual` at its profile, which
saves the loop computing them, `evaluations`, how many times it has evaluated marginals, and `prices`, which are kept
with the best profile. Solvers contain no loop over steps, no stopping and no jit.

Optional on the solver: `check(game)` raises ValueError before the start for a game that it cannot treat; `max_steps`,
its default; `stall`, the steps without progress after which to give up; `evaluations_per_step`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import jax.numpy as jnp
from jax import Array, lax

from jaxgame._pytree import pytree
from jaxgame.solvers.scale import Scale

CONVERGED, MAX_STEPS, NONFINITE, STALLED = range(4)


class Solver(Protocol):
    """The public solver protocol; see the module's docstring."""

    def init(self, game: Any, profile: Array) -> Any: ...

    def step(self, game: Any, state: Any) -> Any: ...


@pytree()
class Progress:
    """What the loop carries; the best profile is what it returns."""

    state: Any
    profile: Array
    marginals: Array
    prices: Array | None
    residual: Array
    status: Array
    steps: Array
    replace: ClassVar[Callable[..., Any]]
    since: Array  # steps since the best profile
    evaluations: Any  # of the marginals, known at the end
    history: Array  # (max_steps,) with NaN where no step was made, or (0,)


def profile_of(state: Any) -> Any:
    """The profile that a solver's state stands for."""
    if hasattr(state, "profile"):
        return state.profile
    if isinstance(state, dict) and "profile" in state:
        return state["profile"]
    if isinstance(state, (tuple, list)):
        return state[0]
    if hasattr(state, "ndim"):
        return state
    raise ValueError(
        f"solver state {type(state).__name__} has no profile: make it the profile, or give it the attribute `profile`"
    )


@dataclasses.dataclass(frozen=True)
class Loop:
    """Until the natural residual is at most tol (or at rounding), max_steps, or nothing finite is left.

    In parts, so that a batch of games can be taken through it together (`jaxgame.batch`).

    `patience`: steps without a new best residual after which the solver counts as stalled.
    `record`: how many residuals to keep (static). `finish`: past tol, go on as long as every step lowers the
    residual, down to rounding (static); for Newton steps, which reach it at once.
    """

    game: Any
    solver: Solver
    scale: Scale
    tol: Array
    max_steps: Array
    patience: int
    record: int = 0
    finish: bool = False

    def run(self, profile: Array) -> Progress:
        return self.end(lax.while_loop(self.unfinished, self.advance, self.start(profile)))

    def start(self, profile: Array) -> Progress:
        state = self.solver.init(self.game, profile)
        here, marginals, residual = self._observe(state)
        return Progress(
            state=state,
            profile=here,
            marginals=marginals,
            prices=getattr(state, "prices", None),
            residual=jnp.where(jnp.isfinite(residual), residual, jnp.inf),
            status=jnp.where(jnp.isfinite(residual), self._verdict(marginals, residual, True), NONFINITE),
            steps=jnp.zeros((), int),
            since=jnp.zeros((), int),
            evaluations=None,
            history=jnp.full(self.record, jnp.nan, profile.dtype),
        )

    def unfinished(self, now: Progress) -> Array:
        return (now.status < 0) & (now.steps < self.max_steps)

    def advance(self, now: Progress) -> Progress:
        """One step."""
        state = self.solver.step(self.game, now.state)
        here, marginals, residual = self._observe(state)
        finite = jnp.isfinite(residual)
        better = finite & (residual < now.residual)
        since = jnp.where(better, 0, now.since + 1)
        best, marginals = jnp.where(better, residual, now.residual), jnp.where(better, marginals, now.marginals)
        status = self._verdict(marginals, best, better)
        status = jnp.where(status == CONVERGED, status, jnp.where(since > self.patience, STALLED, -1))
        status = jnp.where(finite | (status == CONVERGED), status, NONFINITE)
        prices = None if now.prices is None else jnp.where(better, state.prices, now.prices)
        return Progress(
            state=state,
            profile=jnp.where(better, here, now.profile),
            marginals=marginals,
            prices=prices,
            residual=best,
            status=status,
            steps=now.steps + 1,
            since=since,
            evaluations=None,
            history=now.history.at[now.steps].set(residual, mode="drop") if self.record else now.history,
        )

    def end(self, now: Progress) -> Progress:
        """The verdict on what is finished, or out of steps."""
        reached = now.residual <= jnp.maximum(self.tol, self.scale.floor(now.marginals))
        per_step = getattr(self.solver, "evaluations_per_step", 1)
        return now.replace(
            status=jnp.where(now.status < 0, jnp.where(reached, CONVERGED, MAX_STEPS), now.status),
            state=None,
            evaluations=getattr(now.state, "evaluations", now.steps * per_step + 1),
        )

    def _observe(self, state: Any) -> tuple[Array, Array, Array]:
        here = profile_of(state)
        marginals = getattr(state, "marginals", None)
        marginals = self.game.marginals(here) if marginals is None else marginals
        residual = getattr(state, "residual", None)
        residual = self.scale.residual(here, marginals) if residual is None else residual
        return here, marginals, jnp.where(jnp.isfinite(marginals).all(), residual, jnp.nan)

    def _verdict(self, marginals: Array, residual: Array, better: Array | bool) -> Array:
        floor = self.scale.floor(marginals)
        done = residual <= jnp.maximum(self.tol, floor)
        if self.finish:
            done = done & ((residual <= floor) | ~jnp.asarray(better))
        return jnp.where(done, CONVERGED, -1)
