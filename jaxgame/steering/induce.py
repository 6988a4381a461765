"""The cheapest change of appeal or of targets that makes a wanted profile an equilibrium (theory §5)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax import Array

from jaxgame import _checks, simplex
from jaxgame.certificate.certify import Certificate, certify
from jaxgame.games import dtype_of
from jaxgame.solvers.scale import measure
from jaxgame.solving import solve
from jaxgame.steering import agent_lever
from jaxgame.steering import quadratic_program as qp
from jaxgame.steering.agent_lever import AgentLever
from jaxgame.steering.complementarity import Program
from jaxgame.steering.supports import Search, support


@dataclasses.dataclass(frozen=True)
class Inducement:
    """A change and the profile that it makes an equilibrium.

    change (n, D). profile (n, D): the wanted one where `success`, else the nearest inducible one that was found.
    certificate: of `profile` in the changed game. cost: the norm of the change. message: sentences. Other equilibria of
    the changed game are excluded only by `certificate.unique`.
    """

    change: Array
    profile: Array
    certificate: Certificate
    cost: float
    success: bool
    message: str


def induce(game: Any, profile: Any, *, lever: str = "appeal", weights: Any = None) -> Array:
    """The cheapest change Δ (n, D) that makes `profile` (n, D) an equilibrium.

    lever "appeal": appeal + Δ (`QuadraticGame`: linear + Δ; other games without appeal: an addition to the marginal
    utilities), in closed form by one sort an agent (theory §5). lever "targets" (`AlignmentGame`): targets + Δ, which
    stay on the simplex, by one small quadratic program an agent. Cheapest in Σ weights Δ², weights (n, D) or (D,)
    positive, default ones. In games whose utilities are not concave the profile becomes a stationary one. Shares within
    the rounding of a sum count as zero.

    lever "appeal" composes with jit and vmap; there an agent that no appeal can move gets NaN.

    Raises ValueError for a profile that is none, a lever that the game does not have, and where there is no such
    change, naming the agent: attractiveness 0, or targets that would leave the simplex (`inducement` then has the
    nearest profile that can be induced).
    """
    agent_lever.check(game, lever)
    profile = _checked(game, profile)
    if lever == "appeal":
        return _appeal(game, profile, agent_lever.norm_weights(game, weights))
    found = _by_targets(game, profile, AgentLever.of(game, lever, weights))
    if not found.success:
        raise ValueError(found.message)
    return found.change


def inducement(game: Any, profile: Any, *, lever: str = "appeal", weights: Any = None) -> Inducement:
    """The change of `induce` with its certificate.

    Where no change of targets makes `profile` an equilibrium: `success` is False, and the change is for the profile
    nearest to it (least squares over the whole profile, all agents together) that targets can make one. Its support is
    searched for as in `per_agent.floor_by_agent`: it is the nearest of all where the message says so, else one to which
    supports that differ little have nothing nearer. Among the changes for that profile it takes the cheapest, up to
    what a weight of 1e-6 on the cost decides.

    Raises ValueError as `induce` does, but for profiles that targets cannot induce.
    """
    agent_lever.check(game, lever)
    profile = _checked(game, profile)
    described = AgentLever.of(game, lever, weights)
    if lever == "targets":
        return _by_targets(game, profile, described)
    change = _appeal(game, profile, agent_lever.norm_weights(game, weights))
    return _certified(game, lever, described, change, profile, True, "The profile is an equilibrium after the change.")


def _checked(game: Any, profile: Any) -> Array:
    dtype = dtype_of(game)
    value = _checks.array("profile", profile, dtype, (game.n_agents, game.n_groups))
    return _checks.shares("profile", value, profile)


def _certified(game, lever: str, described: AgentLever, change, profile, success: bool, message: str) -> Inducement:
    certificate = certify(agent_lever.changed(game, lever, change), profile)
    cost = described.cost(np.asarray(change, np.float64))
    return Inducement(change, profile, certificate, cost, success, f"{message} {certificate.message}")


def _appeal(game: Any, profile: Array, weights: Array) -> Array:
    """The closed form; ValueError, or NaN where traced, for agents that would have to move and cannot."""
    strength = agent_lever.appeal_strength(game)[:, None]
    moved = cheapest_addition(game.marginals(profile), simplex.face(profile), weights)
    dtype = profile.dtype
    # Without attractiveness an agent must be in equilibrium already, to the precision at which `solve` calls it so.
    rounding = (1e-6 if jnp.finfo(dtype).bits <= 32 else 1e-10) * measure(game, dtype).sigma
    stuck = (strength[:, 0] <= 0) & (jnp.abs(moved).max(1) > rounding)
    if _checks.concrete(stuck) and (bad := np.asarray(stuck)).any():
        agent = int(bad.argmax())
        raise ValueError(
            f"attractiveness[{agent}] is 0, so no change of appeal moves agent {agent}, and its row of the profile is "
            "no best response to the others"
        )
    change = jnp.where(strength > 0, moved / jnp.where(strength > 0, strength, 1), 0)
    return jnp.where(stuck[:, None], jnp.nan, change)


def cheapest_addition(marginals: Array, face: Array, weights: Array) -> Array:
    """The addition to the marginal utilities (n, D) of least Σ weights Δ² that levels them on the face, at μ, and
    nowhere above it: μ − g on the face, min(μ − g, 0) off it.

    The best μ is the mean of g over the face and the groups off it with g > μ. Taking these in by falling g, the mean
    rises as long as they lie above it: so μ is the largest of the running means.
    """
    inside = jnp.where(face, weights, 0)
    total = inside.sum(1, keepdims=True)
    marginals = marginals - (inside * marginals).sum(1, keepdims=True) / total  # the mean over the face is 0
    order = jnp.argsort(jnp.where(face, -jnp.inf, marginals), axis=1, descending=True)
    outside = jnp.take_along_axis(jnp.where(face, 0, weights), order, 1)
    sums = jnp.cumsum(outside * jnp.take_along_axis(marginals, order, 1), 1)
    means = sums / (total + jnp.cumsum(outside, 1))
    level = jnp.maximum(means.max(1, keepdims=True), 0) - marginals
    return jnp.where(face, level, jnp.minimum(level, 0))


def _by_targets(game: Any, profile: Array, lever: AgentLever) -> Inducement:
    dtype = profile.dtype
    sigma = float(measure(game, dtype).sigma)
    slope = np.asarray(game.marginals(profile), np.float64)
    slope = (slope - slope.mean(1, keepdims=True)) / sigma
    face = np.asarray(simplex.face(profile))
    rows = [_one_agent(lever, i, slope[i], face[i], sigma) for i in range(game.n_agents)]
    blocked = [i for i, row in enumerate(rows) if row is None]
    if not blocked:
        change = jnp.asarray(np.array(rows), dtype)
        message = "The profile is an equilibrium after the change."
        return _certified(game, "targets", lever, change, profile, True, message)
    change, nearest, complete = _nearest(game, profile, lever)
    away = np.linalg.norm(np.asarray(nearest - profile, np.float64), axis=1)
    kind = "which a complete search proves" if complete else "at least among those with a similar support"
    message = (
        f"No targets on the simplex make the wanted mixture of agent {blocked[0]} a best response"
        f"{f' (nor that of {len(blocked) - 1} other agents)' if blocked[1:] else ''}. The nearest profile that targets "
        f"can induce, {kind}, is at the distance {np.linalg.norm(away):.6g} ({away[blocked[0]]:.6g} for agent "
        f"{blocked[0]}); `inducement` has it, with the change."
    )
    return _certified(game, "targets", lever, change, nearest, False, message)


def _one_agent(lever: AgentLever, i: int, slope: np.ndarray, face: np.ndarray, sigma: float) -> np.ndarray | None:
    """Δt_i (D,) by a quadratic program in (Δt_i, μ); None where there is none."""
    assert lever.targets is not None
    n_groups = len(slope)
    level, whole = -np.ones((n_groups, 1)), np.ones((1, n_groups))
    effect = lever.strength[i] / sigma * lever.metric
    matrix = sp.csr_matrix(np.block([[effect, level], [whole, 0 * level[:1]], [-np.eye(n_groups), 0 * level]]))
    bound = np.concatenate([-slope, [0.0], lever.targets[i]])
    equal = np.concatenate([face, [True], np.zeros(n_groups, bool)])
    found = qp.minimise(np.append(lever.weights[i], 0.0), np.zeros(n_groups + 1), matrix, bound, equal)
    return found.point[:n_groups] if found.solved else None


def _nearest(game: Any, profile: Array, lever: AgentLever) -> tuple[Array, Array, bool]:
    """The change and the profile nearest to `profile` that it induces; whether the search was complete."""
    program = Program(game, lever, np.zeros(game.n_groups))
    search = Search(program, program.nearest(np.asarray(profile, np.float64)))
    own = support(solve(game))  # feasible: nothing changes
    point, complete = search.best([own, np.asarray(simplex.face(profile))])
    if point is None:
        raise ValueError(
            "no equilibrium of the game and its neighbours was found; is it solvable? See solve(game).message"
        )
    mixtures = jnp.asarray(np.maximum(point.profile, 0), profile.dtype)
    return jnp.asarray(point.change, profile.dtype), mixtures / mixtures.sum(1, keepdims=True), complete
