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
from jaxgame.solvers.own_blocks import own_blocks
from jaxgame.solvers.parts import count, largest, total
from jaxgame.solvers.population import answer, sample
from jaxgame.solvers.respond import is_closed
from jaxgame.solvers.scale import norms

POPULOUS = 2**16  # numbers n·D
SAMPLE_STEPS = 40
SLOW = 0.1  # ratio of misses that is not worth a pass
SHORTEST = 2.0**-20  # of a Newton step
LEAST = 4096  # agents that are sampled
SHARE = 16  # of all agents, where their responses are formulas: one in so many


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
    return hasattr(game, "members") and is_aggregative(game) and game.n_agents * game.n_groups >= POPULOUS


def settle(game: Any, start: Array, tol: Array, max_steps: Array, record: int = 0, axis: str | None = None) -> Settled:
    """From an aggregate (D,), until the residual is at most a hundredth of tol, or at rounding.

    max_steps: passes over the population. record: how many residuals to keep (static). axis: over
    which the agents are spread, where the game is a `Part`.
    """
    n, n_groups, dtype = game.n_agents, game.n_groups, start.dtype
    closed = is_closed(game.members(lambda x: x[:1]))
    least = -(-LEAST // count(axis))
    few = sample(game, max(least, n // SHARE) if closed else least, axis)
    sampled, parts = few.n_agents * count(axis), few.chosen.affine()
    lipschitz, own = norms(game.affine(), axis)
    pull, B = largest(jnp.abs(game.members(lambda x: x).sensitivity).max(), axis), few.chosen.B
    eps = jnp.finfo(dtype).eps
    always, unknown = jnp.ones((), bool), -jnp.ones((), dtype)

    def pulled(miss: Array) -> Array:
        """How much marginals differ, at most, between two aggregates."""
        felt = (B * miss[None]).sum(1)
        return pull * (felt.max() - felt.min())

    def precision(miss: Array) -> Array:
        """To which responses are needed: the natural residual of an agent is its error over its condition number."""
        return jnp.clip(1e-4 * miss, 16 * eps, 1e-3)

    def of_sample(search: Search, near: Array) -> tuple[Search, Array, Array]:
        found, near = answer(
            few, search.point, near, precision(search.length * search.miss), spread=-unknown, write=always, axis=axis
        )
        jacobian = total(own_blocks(parts, jnp.zeros_like(near), near > 0).to_aggregate(parts.others), axis)
        inverse = linalg.inverse(jnp.eye(n_groups, dtype=dtype) + jacobian)
        search = search.tried(found.total, inverse)
        settled = search.miss <= 0.1 / sampled**0.5
        return search, near, settled | (search.steps >= SAMPLE_STEPS) | (search.length < SHORTEST)

    def of_all(search: Search, profile: Array, proof: Proof) -> tuple[Search, Array, Proof]:
        # The profile is written if this pass is likely to be the last one.
        write = (proof.residual * search.gain <= jnp.maximum(tol, proof.floor)) | (search.steps + 1 >= max_steps)
        fine = precision(jnp.where(write, 0, search.length * search.miss))
        found, profile = answer(game, search.point, profile, fine, spread=proof.spread, write=write, axis=axis)
        sigma = jnp.maximum(lipschitz, found.spread)
        moved = pulled(found.total - search.point)
        residual = found.error + moved / sigma
        proof = Proof(
            representation=found.shown,
            residual=residual,
            gap=found.gap + moved,
            floor=8 * eps * (1 + (own + found.spread) / sigma),
            spread=found.spread,
            written=write | (not closed),
            history=proof.history.at[search.steps].set(residual, mode="drop") if record else proof.history,
        )
        return search.tried(found.total, None), profile, proof

    def within(proof: Proof, tol: Array) -> Array:
        return proof.written & (proof.residual <= jnp.maximum(tol, proof.floor))

    # Sample first
    near = jnp.full((few.n_agents, n_groups), 1 / n_groups, dtype)
    search = begin(start, jnp.eye(n_groups, dtype=dtype), 1.0)
    search, *_ = lax.while_loop(
        lambda carry: ~carry[-1], lambda carry: of_sample(carry[0], carry[1]), (search, near, ~always)
    )
    search = begin(search.point, search.inverse, 0.5 / sampled**0.5)

    def unfinished(carry: tuple[Search, Array, Proof]) -> Array:
        search, _, proof = carry
        # Past tol, only as long as a pass gains much.
        done = within(proof, 0.01 * tol) | (within(proof, tol) & (search.gain > SLOW))
        return ~done & (search.steps < max_steps) & (search.length > SHORTEST)

    far = jnp.full((), jnp.inf, dtype)
    proof = Proof(start, far, far, jnp.zeros((), dtype), unknown, ~always, jnp.full(record, jnp.nan, dtype))
    profile = lax.empty((n, n_groups), dtype) if closed else jnp.full((n, n_groups), 1 / n_groups, dtype)
    search, profile, proof = lax.while_loop(unfinished, lambda carry: of_all(*carry), (search, profile, proof))
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
