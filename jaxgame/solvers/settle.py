"""Newton on the D numbers through which a large population meets: the whole solve takes a few passes (theory §6).

S is an equilibrium's aggregate where Σ weight_i R_i(S) = S. A sample of the agents is solved first, and stands for all
where directions are concerned: its Jacobian is wrong by what sampling is, which costs a per cent of every step's gain
and saves the n·D² work. What is accepted is judged on all agents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array, lax

from jaxgame import linalg
from jaxgame._pytree import pytree
from jaxgame.games import is_aggregative
from jaxgame.linalg import dot
from jaxgame.solvers.parts import count, largest
from jaxgame.solvers.population import Answer, answer, sample
from jaxgame.solvers.respond import is_closed
from jaxgame.solvers.scale import norms

POPULOUS = 2**16  # numbers n·D
CROWDED = 64  # agents a group: for fewer it would take longer to compile than it ever gains
SAMPLE_STEPS = 40
SLOW = 0.1  # ratio of misses that is not worth a pass
SHORTEST = 2.0**-20  # of a Newton step
PASSES = 50  # that are worth it: what takes more is left to other solvers
LEAST = 4096  # agents that are sampled
SHARE, PART = 8, 16  # where their responses are formulas: one agent in 8, of more than
ENOUGH = 100_000  # one in 16, which leaves two passes to 1e-6
DEAR, MOST = 32, 2**15  # where they are not: one in 32, up to so many


@pytree()
class Search:
    """A damped quasi-Newton iteration on S. `base`: the best aggregate so far; away: Σ weight R(base) − base."""

    base: Array
    away: Array
    miss: Array  # largest entry of away
    inverse: Array  # of I + the Jacobian of −ΣR, as far as known
    length: Array  # of the step from the base to the next point to try
    point: Array
    gain: Array  # the last ratio of misses
    steps: Array

    def tried(self, total: Array, inverse: Array | None) -> Search:
        """With what the point to try turned out to be; `inverse`: there, or None to learn from the step (Broyden)."""
        away = total - self.point
        miss = jnp.abs(away).max()
        if inverse is None:
            inverse = self._learnt(away)
        better = miss < (1 - 1e-4 * self.length) * self.miss
        base, kept = jnp.where(better, self.point, self.base), jnp.where(better, away, self.away)
        # What is not finite at one point is so at all: no use in a shorter step.
        length = jnp.where(better, 1, jnp.where(jnp.isfinite(miss), self.length / 2, 0))
        return Search(
            base=base,
            away=kept,
            miss=jnp.where(better, miss, self.miss),
            inverse=inverse,
            length=length,
            point=base + length * (inverse * kept[None]).sum(1),
            gain=jnp.where(better & jnp.isfinite(self.miss), miss / self.miss, self.gain),
            steps=self.steps + 1,
        )

    def _learnt(self, away: Array) -> Array:
        step = self.point - self.base
        expected = (self.inverse * (self.away - away)[None]).sum(1)
        row = (step[:, None] * self.inverse).sum(0)
        scale = (step * expected).sum()
        known = jnp.isfinite(self.miss) & (jnp.abs(scale) > 0)
        change = (step - expected)[:, None] * (row / jnp.where(known, scale, 1))[None]
        return jnp.where(known & jnp.isfinite(change).all(), self.inverse + change, self.inverse)


def begin(point: Array, inverse: Array, gain: float) -> Search:
    far, zero = jnp.full((), jnp.inf, point.dtype), jnp.zeros_like(point)
    return Search(point, zero, far, inverse, jnp.ones_like(far), point, jnp.full_like(far, gain), jnp.zeros((), int))


@pytree()
class Proof:
    """What the last pass proves of the profile that answers to its point."""

    representation: Array
    residual: Array  # bound on the natural residual
    gap: Array  # bound on what an agent can gain, where its utility is concave
    floor: Array  # the residual that rounding alone leaves
    spread: Array
    written: Array
    history: Array  # the residuals of all passes


@pytree()
class Ground:
    """What bounds at any aggregate rest on: of all agents."""

    lipschitz: Array  # at least the game map's constant L
    own: Array  # largest own curvature
    pull: Array  # largest sensitivity
    B: Array

    def pulled(self, miss: Array) -> Array:
        """How much marginals differ, at most, between two aggregates."""
        felt = (self.B * miss[None]).sum(1)
        return self.pull * (felt.max() - felt.min())


@pytree()
class Settled:
    """The profile that answers to an aggregate near its own, and what that proves (`Proof`)."""

    profile: Array
    representation: Array
    residual: Array
    gap: Array
    floor: Array
    passes: Array
    done: Array
    history: Array
    replace: ClassVar[Callable[..., Any]]


def is_populous(game: Any) -> bool:
    """Whether a game is quadratic, aggregative and so large that passes over its agents are what counts."""
    if not (hasattr(game, "members") and is_aggregative(game)):
        return False
    return game.n_agents * game.n_groups >= POPULOUS and game.n_agents >= CROWDED * game.n_groups


def settle(game: Any, start: Array, tol: Array, max_steps: Array, record: int = 0, axis: str | None = None) -> Settled:
    """From an aggregate (D,), until the residual is at most a hundredth of tol, or at rounding.

    max_steps: passes over the population, `PASSES` at most. record: how many residuals to keep (static). axis: over
    which the agents are spread, where the game is a `Part`.
    """
    n, n_groups, dtype = game.n_agents, game.n_groups, start.dtype
    one = game.members(lambda x: x[:1])
    closed = is_closed(one)
    lipschitz, own = norms(game.affine(), axis)
    pull = largest(jnp.abs(game.members(lambda x: x).sensitivity).max(), axis)
    ground = Ground(lipschitz, own, pull, one.B)
    max_steps = jnp.minimum(max_steps, PASSES)

    def of_all(search: Search, profile: Array, proof: Proof) -> tuple[Search, Array, Proof]:
        # The profile is written if this pass is likely to be the last one.
        write, fine = ahead(search, proof, tol, max_steps)
        first = search.steps == 0
        found, profile = answer(
            game, search.point, profile, fine, spread=proof.spread, write=write, first=first, axis=axis
        )
        proof = proven(ground, search, proof, found, write | (not closed))
        return search.tried(found.total, None), profile, proof

    search = of_members(sample(game, sample_size(n, closed, count(axis)), axis), start, axis)
    proof = unproven(start, record)
    profile = lax.empty((n, n_groups), dtype)
    search, profile, proof = lax.while_loop(
        lambda carry: unfinished(carry[0], carry[2], tol, max_steps),
        lambda carry: of_all(*carry),
        (search, profile, proof),
    )
    return Settled(
        profile=profile,
        representation=proof.representation,
        residual=proof.residual,
        gap=proof.gap,
        floor=proof.floor,
        passes=search.steps,
        done=within(proof, tol),
        history=proof.history,
    )


def sample_size(n: int, closed: bool, parts: int = 1) -> int:
    """How many of the n agents that each of so many parts holds are sampled."""
    some = min(n // SHARE, max(ENOUGH // parts, n // PART)) if closed else min(n // DEAR, MOST // parts)
    return max(-(-LEAST // parts), some)


def of_members(few: Any, start: Array, axis: str | None = None) -> Search:
    """Where to begin on all agents: Newton on a few of a sample of them, from an aggregate (D,); one step on the rest
    of it.
    """
    fewer = sample(few, LEAST // count(axis), axis)
    search = of_sample(*_sampled(fewer, axis), start, fewer.n_agents * count(axis))
    if fewer.n_agents == few.n_agents:
        return search
    respond, near = _sampled(few, axis)
    answered, inverse, _ = respond(search.point, near, precision(search.gain))
    return ready(search.tried(answered, inverse), few.n_agents * count(axis))


Respond = Callable[[Array, Any, Array], tuple[Array, Array, Any]]


def _sampled(few: Any, axis: str | None) -> tuple[Respond, Array | None]:
    """How a sample responds, and the mixtures to begin near, as for `of_sample`."""
    n, n_groups, dtype = few.n_agents, few.n_groups, few.chosen.linear.dtype
    near = None if is_closed(few.chosen) else jnp.full((n, n_groups), 1 / n_groups, dtype)
    always, known, identity = jnp.ones((), bool), jnp.ones((), dtype), jnp.eye(n_groups, dtype=dtype)

    def respond(point: Array, near: Array | None, fine: Array) -> tuple[Array, Array, Array | None]:
        found, near = answer(few, point, near, fine, spread=known, write=always, slope=True, axis=axis)
        assert found.slope is not None
        return found.total, linalg.inverse(identity + dot(found.slope, few.chosen.B)), near

    return respond, near


def of_sample(respond: Respond, near: Any, start: Array, sampled: int) -> Search:
    """Where to begin on all agents: Newton on a sample of so many, from an aggregate (D,).

    respond(point, mixtures near the answer, precision) -> (what their mixtures add up to, the inverse of I less the
    Jacobian of that, these).
    """

    def step(search: Search, near: Any) -> tuple[Search, Any, Array]:
        answered, inverse, near = respond(search.point, near, precision(search.length * search.miss))
        search = search.tried(answered, inverse)
        settled = search.miss <= 0.1 / sampled**0.5
        return search, near, settled | (search.steps >= SAMPLE_STEPS) | (search.length < SHORTEST)

    search = begin(start, jnp.eye(len(start), dtype=start.dtype), 1.0)
    unsettled = jnp.zeros((), bool)
    search, *_ = lax.while_loop(lambda carry: ~carry[-1], lambda carry: step(*carry[:-1]), (search, near, unsettled))
    return ready(search, sampled)


def ready(search: Search, sampled: int) -> Search:
    """For all agents, after a search on so many."""
    return begin(search.point, search.inverse, 0.5 / sampled**0.5)


def precision(miss: Array) -> Array:
    """To which responses are needed: the natural residual of an agent is its error over its condition number."""
    return jnp.clip(5e-5 * miss, 2 * jnp.finfo(miss.dtype).eps, 5e-4)


def ahead(search: Search, proof: Proof, tol: Array, max_steps: Array) -> tuple[Array, Array]:
    """Of the next pass: whether it is likely to be the last one, and the precision of its responses."""
    last = (proof.residual * search.gain <= jnp.maximum(tol, proof.floor)) | (search.steps + 1 >= max_steps)
    return last, precision(jnp.where(last, 0, search.length * search.miss))


def unproven(start: Array, record: int) -> Proof:
    """Before the first pass."""
    far, zero = jnp.full((), jnp.inf, start.dtype), jnp.zeros((), start.dtype)
    never = jnp.zeros((), bool)
    return Proof(start, far, far, zero, zero - 1, never, jnp.full(record, jnp.nan, start.dtype))


def proven(ground: Ground, search: Search, before: Proof, found: Answer, written: Array) -> Proof:
    """What a pass at the point of a search proves, by what it found."""
    sigma = jnp.maximum(ground.lipschitz, found.spread)
    moved = ground.pulled(found.total - search.point)
    eps = jnp.finfo(sigma.dtype).eps
    # Mixtures and their sums are themselves rounded.
    residual = found.error + (found.slip + moved) / sigma + 2 * eps
    history = before.history
    return Proof(
        representation=found.shown,
        residual=residual,
        gap=found.gap + moved,
        floor=8 * eps * (1 + (ground.own + found.spread) / sigma),
        spread=found.spread,
        written=written,
        history=history.at[search.steps].set(residual, mode="drop") if history.shape[0] else history,
    )


def within(proof: Proof, tol: Array) -> Array:
    return proof.written & (proof.residual <= jnp.maximum(tol, proof.floor))


def unfinished(search: Search, proof: Proof, tol: Array, max_steps: Array) -> Array:
    # Past tol, or at rounding above it, only as long as a pass gains much.
    slow = (search.gain > SLOW) | (search.length < 1)
    enough = within(proof, 0.01 * tol) & (proof.residual <= tol)
    done = enough | (within(proof, tol) & slow)
    return ~done & (search.steps < max_steps) & (search.length > SHORTEST)
