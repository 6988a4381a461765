"""Large populations with utilities of their own that meet through the mean of the others (theory §6).

As in `settle`: quasi-Newton steps on the D numbers S = Σ w_j / n, begun on a sample. What an agent answers to S is
found by Newton: a quadratic programme on the simplex a step, which is as long as the utility rises. A block of agents
at a time, so that curvatures are never all there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxgame import linalg, simplex
from jaxgame._pytree import pytree
from jaxgame.certificate.gap import NUDGE, semidefinite
from jaxgame.games.affine import AffineMap, Aggregate, Blocks, averaged
from jaxgame.games.concave import ConcaveGame, exact
from jaxgame.games.members import Members
from jaxgame.linalg import einsum
from jaxgame.solvers import parts, settle
from jaxgame.solvers.blocked import mapped
from jaxgame.solvers.own_blocks import own_blocks
from jaxgame.solvers.respond import respond
from jaxgame.solvers.scale import Scale, lipschitz
from jaxgame.solvers.settle import SHORTEST, SLOW, Settled
from jaxgame.solvers.sizes import sizes

ROUNDS = 30  # of Newton steps of one block; what has not settled by then shows in the residual


def is_crowd(game: Any) -> bool:
    """Whether a game is a large population of concave utilities that meet through a mean."""
    if not (isinstance(game, ConcaveGame) and game.meeting == "mean" and game.n_agents > 1):
        return False
    return game.n_agents * game.n_groups >= settle.POPULOUS


@pytree(static=("utility", "population"))
class Agents:
    """Some agents of such a game, of a population of so many."""

    utility: Callable
    params: Any  # with a leading axis of agents
    population: int

    def others(self, aggregate: Array, mixture: Array) -> Array:
        return (self.population * aggregate[None] - mixture) / (self.population - 1)

    def utilities(self, mixture: Array, others: Array) -> Array:
        return jax.vmap(self.utility)(self.params, mixture, others)

    def marginals(self, mixture: Array, others: Array) -> Array:
        return jax.vmap(jax.grad(self.utility, argnums=1))(self.params, mixture, others)

    def curvature(self, mixture: Array, others: Array, of: int = 1) -> Array:
        """−∂²U/∂w∂w, or with of=2 −∂²U/∂w∂others, (b, D, D)."""
        slope = jax.grad(self.utility, argnums=1)
        return -jax.vmap(jax.jacfwd(slope, argnums=of))(self.params, mixture, others)

    def affine(self, aggregate: Array, mixture: Array, sampled: int) -> AffineMap:
        """Linearised at mixtures that meet an aggregate; of so many agents who stand for all, none for a share of it
        itself.
        """
        others = self.others(aggregate, mixture)
        own, cross = self.curvature(mixture, others), self.curvature(mixture, others, of=2)
        ones = jnp.ones(len(mixture), mixture.dtype)
        met = Aggregate(ones, None, ones / sampled, cross)
        return AffineMap(jnp.zeros_like(mixture), Blocks(jnp.zeros((1, 1), own.dtype), (), own), met)


def settle_crowd(
    game: Any, start: Array, tol: Array, max_steps: Array, record: int = 0, axis: str | None = None
) -> Settled:
    """From an aggregate (D,), as `settle`. Residual and gap are those of the profile that is returned; the scale of the
    residual is that of the sample and of all agents' marginals.
    """
    here = game if axis is None else game.game
    n, n_groups, dtype = game.n_agents, game.n_groups, start.dtype
    population = n * parts.count(axis)
    everyone = Agents(exact(here.utility), here.params, population)
    few = jnp.linspace(0, n - 1, min(n, settle.LEAST // parts.count(axis))).astype(int)
    sampled = Agents(exact(here.utility), jax.tree.map(lambda x: x[few], here.params), population)
    uniform = jnp.full((len(few), n_groups), 1 / n_groups, dtype)
    of_sample = len(few) * parts.count(axis)

    def mean(profile: Array, agents: int) -> Array:
        return parts.total(averaged(jnp.full(len(profile), 1 / agents, dtype), profile), axis)

    def answered(point: Array, near: Array, fine: Array) -> tuple[Array, Array, Array]:
        near = responses(sampled, point, near, fine)
        affine = sampled.affine(point, near, of_sample)
        assert isinstance(affine.others, Aggregate)
        slope = own_blocks(affine, jnp.zeros_like(near), near > 0).to_aggregate(affine.others)
        inverse = linalg.inverse(jnp.eye(n_groups, dtype=dtype) + parts.total(slope, axis))
        return mean(near, of_sample), inverse, near

    scale = _scale(everyone, sampled.affine(uniform[0], uniform, len(few)), uniform[0], axis)
    search = settle.of_sample(answered, uniform, start, of_sample)

    def again(carry: tuple) -> tuple:
        search, profile, *_, history = carry
        profile = responses(everyone, search.point, profile, settle.precision(search.length * search.miss))
        total = mean(profile, population)
        left, gain, floor = _judged(everyone, scale, total, profile, axis)
        if record:
            history = history.at[search.steps].set(left, mode="drop")
        return search.tried(total, None), profile, left, gain, floor, history

    def unfinished(carry: tuple) -> Array:
        search, _, left, _, floor, _ = carry
        good = left <= jnp.maximum(tol, floor)
        slow = (search.gain > SLOW) | (search.length < 1)
        done = (left <= jnp.maximum(0.01 * tol, floor)) | (good & slow)
        return ~done & (search.steps < max_steps) & (search.length > SHORTEST)

    far = jnp.full((), jnp.inf, dtype)
    begin = search, jnp.full((n, n_groups), 1 / n_groups, dtype), far, far, 0 * far, jnp.full(record, jnp.nan, dtype)
    search, profile, left, gain, floor, history = lax.while_loop(unfinished, again, begin)
    total = mean(profile, population)
    bent = mapped(lambda part: ~_concave(part[0], part[1], total), (everyone, profile), sizes().lot).any()
    return Settled(
        profile=profile,
        representation=total,
        residual=left,
        gap=jnp.where(parts.largest(bent, axis) | ~(gain < far), far, gain),
        floor=floor,
        passes=search.steps,
        done=left <= jnp.maximum(tol, floor),
        history=history,
    )


def responses(agents: Agents, aggregate: Array, near: Array, tol: Array) -> Array:
    """What agents answer to an aggregate (D,), (n, D), from mixtures near it, up to about tol."""
    return mapped(lambda part: _answers(part[0], part[1], aggregate, tol), (agents, near), sizes().lot)


def _answers(agents: Agents, start: Array, aggregate: Array, tol: Array) -> Array:
    n, n_groups = start.shape
    eps = jnp.finfo(start.dtype).eps
    zero, ones = jnp.zeros((n_groups, n_groups), start.dtype), jnp.ones(n, start.dtype)

    def newton(mixture: Array) -> Array:
        others = agents.others(aggregate, mixture)
        slope, own = agents.marginals(mixture, others), agents.curvature(mixture, others)
        own = (own + jnp.swapaxes(own, 1, 2)) / 2
        linear = slope + einsum("bde,be->bd", own, mixture)
        blocks = Blocks(jnp.zeros((1, 1), start.dtype), (), own)
        model = Members(linear, blocks, None, None, ones, zero, ones, None)
        ahead = respond(model, linear.T, mixture.T, tol).mixture.T - mixture
        return mixture + _length(mixture, ahead, slope, others)[:, None] * ahead

    def _length(mixture: Array, ahead: Array, slope: Array, others: Array) -> Array:
        """The longest of 1, ½, ¼, … by which the utility rises, up to rounding, to where it has a slope."""
        now, promised = agents.utilities(mixture, others), (slope * ahead).sum(1)

        def falls(length: Array) -> Array:
            point = mixture + length[:, None] * ahead
            enough = now + 1e-4 * length * promised - 8 * eps * (jnp.abs(now) + 1)
            fine = (agents.utilities(point, others) >= enough) & jnp.isfinite(agents.marginals(point, others)).all(1)
            return ~fine & (length > SHORTEST)

        def shorter(length: Array) -> Array:
            return jnp.where(falls(length), length / 2, length)

        return lax.while_loop(lambda length: falls(length).any(), shorter, ones)

    def again(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        mixture, _, k = carry
        new = newton(mixture)
        return new, jnp.abs(new - mixture).max(), k + 1

    # A Newton step squares what is missing.
    far = jnp.full((), jnp.inf, start.dtype)
    carry = start, far, jnp.zeros((), int)
    return lax.while_loop(lambda carry: (carry[1] ** 2 > tol) & (carry[2] < ROUNDS), again, carry)[0]


def _scale(everyone: Agents, affine: AffineMap, uniform: Array, axis: str | None) -> Scale:
    """σ at the uniform profile: the Lipschitz constant of a sample, and the marginals of all."""

    def spread(part: tuple[Agents, Array]) -> Array:
        agents, here = part
        mixture = jnp.broadcast_to(uniform, (len(here), len(uniform)))
        marginals = agents.marginals(mixture, agents.others(uniform, mixture))
        return jnp.abs(simplex.project_tangent(marginals)).max(1)

    here = jnp.zeros(len(jax.tree.leaves(everyone.params)[0]))
    sigma = jnp.maximum(lipschitz(affine), mapped(spread, (everyone, here), sizes().lot).max())
    own = linalg.frobenius(jnp.asarray(affine.own.dense)).max()
    sigma, own = parts.largest((sigma, own), axis)
    return Scale(jnp.where(sigma > 0, sigma, 1), own)


def _judged(
    everyone: Agents, scale: Scale, aggregate: Array, profile: Array, axis: str | None
) -> tuple[Array, Array, Array]:
    """The natural residual of a profile, what an agent gains at most, and the residual that rounding leaves."""

    def judged(part: tuple[Agents, Array]) -> tuple[Array, Array, Array]:
        agents, mixture = part
        marginals = agents.marginals(mixture, agents.others(aggregate, mixture))
        left = jnp.abs(mixture - simplex.project(mixture + marginals / scale.sigma)).max(1)
        gain = (mixture * (marginals.max(1, keepdims=True) - marginals)).sum(1)
        return left, gain, jnp.abs(simplex.project_tangent(marginals)).max(1)

    worst = tuple(x.max() for x in mapped(judged, (everyone, profile), sizes().lot))
    left, gain, centred = parts.largest(worst, axis)
    floor = 8 * jnp.finfo(left.dtype).eps * (1 + (scale.curvature + centred) / scale.sigma)
    return left, gain, floor


def _concave(agents: Agents, mixture: Array, aggregate: Array) -> Array:
    """As `certificate.gap.concave_agents`, of some agents."""
    mixture = (mixture + NUDGE / mixture.shape[1]) / (1 + NUDGE)
    own = agents.curvature(mixture, agents.others(aggregate, mixture))
    return semidefinite(Blocks(jnp.zeros((1, 1), own.dtype), (), own), linalg.frobenius(own), mixture.shape[1])
