"""Agents that learn: does a population get to its equilibrium, how fast, and does it stay there? (theory §1, §6)

A round takes every agent's mixture to the next by one rule, and rounds are one `lax.scan`. Rules:

    best-response   everyone answers what the others did in the last round, best
    sequential      the same one agent after the other, each to what those before have just done
    gradient        projected gradient play, w ← Π(w + step g)
    replicator      w ← w exp(step g) / Σ: the discrete replicator, which keeps zeros zero
    logit           w ← (1 − step) w + step softmax((g + noise ξ) / temperature), ξ normal
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxgame import _checks, simplex
from jaxgame._pytree import Carried
from jaxgame.certificate.exploitability import position
from jaxgame.certificate.gap import concave_agents
from jaxgame.certificate.multiplicity import stability
from jaxgame.equilibrium import Equilibrium
from jaxgame.games import dtype_of, is_quadratic, linearise, representation
from jaxgame.games.affine import AffineMap
from jaxgame.solvers.aggregative_newton import best_response
from jaxgame.solvers.scale import measure, uniform
from jaxgame.solving import solve

RULES = ("best-response", "sequential", "gradient", "replicator", "logit")
ANSWERING = ("best-response", "sequential")
MOST = 2**27  # bytes of a record
NEAR = 1e-3  # largest difference of a share from the equilibrium that counts as having got there
LARGEST = 600  # n·D up to which the derivative of a round is formed
LONGEST = 200  # period that is looked for
RETURNED = 1e-3  # of the largest change in a period: by how much it may miss where it began


@dataclasses.dataclass(frozen=True, eq=False)
class Simulation:
    """What a population did, round by round.

    profiles (rounds + 1, n, D), representations (rounds + 1, D), changes (rounds,): largest change of a share;
    equilibrium: that of the game; distances (rounds + 1,): largest difference of a share from it.
    converged: shares no longer change; period: of a cycle that the last rounds repeat, 0 without one.
    arrival: the first round from which on all shares are within 1e-3 of the equilibrium, None if that never lasts.
    radius: spectral radius of the round's derivative at the point of rest (the equilibrium where there is none), on the
    tangent space: below 1 it attracts; NaN for large games. growth, stability: of `equilibrium`, not
    of another point of rest, where everyone follows their marginal utilities in continuous time, as in `probe`: −1
    unstable, 0 undetermined, 1 stable.
    """

    rule: str
    profiles: np.ndarray
    representations: np.ndarray
    changes: np.ndarray
    equilibrium: Equilibrium
    distances: np.ndarray
    converged: bool
    period: int
    arrival: int | None
    radius: float
    growth: float
    stability: int

    @property
    def message(self) -> str:
        """Where it ended, in sentences."""
        rounds = len(self.changes)
        if self.converged:
            end = f"At rest after {rounds} rounds of {self.rule}"
        elif self.period:
            end = f"A cycle of {self.period} rounds of {self.rule}, the last of {rounds}"
        else:
            end = f"Still moving after {rounds} rounds of {self.rule} (last change {self.changes[-1]:.2g})"
        far = float(self.distances[-1])
        near = f", within {far:.2g} of the equilibrium" if far <= NEAR else f", {far:.2g} away from the equilibrium"
        there = f", near which it is from round {self.arrival} on." if self.arrival is not None else "."
        parts = [end + near + there]
        if np.isfinite(self.radius):
            verdict = "attracts" if self.radius < 1 else "does not attract"
            compared = "equilibrium" if bool(self.equilibrium.converged) else "profile that it is compared with"
            point = "point of rest" if self.converged else compared
            parts.append(f"The {point} {verdict} (spectral radius of a round {self.radius:.4g}).")
        if not bool(self.equilibrium.converged):
            parts.append(f"What it is compared with is no equilibrium: {self.equilibrium.message}")
        else:
            kinds = {1: "stable", -1: "unstable", 0: "of undetermined stability"}
            parts.append(
                "The equilibrium that it is compared with is "
                f"{kinds[self.stability]} where agents follow their marginal utilities continuously."
            )
        return " ".join(parts)


def simulate(
    game: Any,
    rule: str = "best-response",
    *,
    rounds: int = 500,
    init: Any = None,
    step: float | None = None,
    temperature: float | None = None,
    noise: float = 0.0,
    seed: int = 0,
    tolerance: float | None = None,
) -> Simulation:
    """Let agents learn for some rounds by one of the rules `best-response`, `sequential`, `gradient`, `replicator`,
    `logit` (see the module), and compare with the equilibrium.

    init: (n, D), default uniform. step: default 1/σ for gradient and replicator, σ the game's scale, and 1 for logit.
    temperature: of logit, in units of utility, default σ/100. noise: standard deviation of what is added to marginal
    utilities in logit, `seed` its key. tolerance: change of shares that counts as rest, default eps^(5/8).

    Raises ValueError for an unknown rule, options that are not the rule's or make no sense, best responses in a game
    that is not quadratic or whose utilities are not concave, and a record that takes more than 128 MiB.
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}, expected one of {RULES}")
    dtype, shape = dtype_of(game), (game.n_agents, game.n_groups)
    rounds = _rounds(rounds, shape, dtype)
    start = uniform(game, dtype)
    if init is not None:
        start = _checks.shares("init", _checks.array("init", init, dtype, shape), init)
    if rule in ANSWERING:
        if step is not None:
            raise ValueError(f"step is {step}, which {rule} does not have")
        if not is_quadratic(game):
            raise ValueError(f"{rule} needs a quadratic game; gradient, replicator and logit take any")
        if not (flat := np.asarray(concave_agents(game, start))).all():
            raise ValueError(f"{rule} needs concave utilities, and that of agent {int(np.argmin(flat))} is not")
    if rule != "logit" and (temperature is not None or noise):
        raise ValueError(f"temperature and noise are for logit, and the rule is {rule}")
    sigma = float(measure(game, dtype).sigma)
    numbers = dict(
        step=(1.0 if rule == "logit" else 1 / sigma) if step is None else step,
        temperature=sigma / 100 if temperature is None else temperature,
    )
    for name, value in numbers.items():
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}, expected a positive number")
    if rule == "logit" and numbers["step"] > 1:
        raise ValueError(f"step is {step}, expected at most 1 for logit: it is the share of the answer in a round")
    if tolerance is not None and not (np.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance is {tolerance}, expected a number ≥ 0")
    if not (np.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise is {noise}, expected a number ≥ 0")
    levels = {name: jnp.asarray(value, dtype) for name, value in (numbers | {"noise": noise}).items()}
    carried = Carried.wrap(game)
    keys = jax.random.split(jax.random.key(seed), rounds)
    profiles = np.asarray(_play(carried, start, keys, levels, rule))
    profiles = np.concatenate([np.asarray(start)[None], profiles])
    if not np.isfinite(profiles).all():
        raise ValueError(f"{rule}: marginal utilities are not finite on the way; another init, or a smaller step")
    still = float(jnp.finfo(dtype).eps) ** 0.625 if tolerance is None else float(tolerance)
    equilibrium = solve(game)
    changes = np.abs(np.diff(profiles, axis=0)).max((1, 2))
    distances = np.abs(profiles - np.asarray(equilibrium.profile)[None]).max((1, 2))
    converged = bool(changes[-1] <= still)
    period = 0 if converged else _period(profiles)
    away = np.flatnonzero(distances > NEAR)
    arrival = 0 if not away.size else int(away[-1]) + 1
    rest = jnp.asarray(profiles[-1]) if converged else equilibrium.profile
    growth, verdict = stability(position(game, equilibrium.profile), measure(game, dtype), 1e3 * still)
    return Simulation(
        rule=rule,
        profiles=profiles,
        representations=np.asarray(jax.vmap(lambda profile: representation(game, profile))(jnp.asarray(profiles))),
        changes=changes,
        equilibrium=equilibrium,
        distances=distances,
        converged=converged,
        period=period,
        arrival=arrival if arrival <= rounds else None,
        radius=_radius(carried, rest, keys[0], levels | {"noise": jnp.zeros((), dtype)}, rule),
        growth=growth,
        stability=verdict,
    )


def _rounds(rounds: Any, shape: tuple[int, int], dtype: Any) -> int:
    if isinstance(rounds, bool) or not isinstance(rounds, (int, np.integer)) or rounds < 2:
        raise ValueError(f"rounds is {rounds!r}, expected an integer ≥ 2")
    size = int(rounds) * shape[0] * shape[1] * jnp.dtype(dtype).itemsize
    if size > MOST:
        raise ValueError(
            f"{rounds:,} rounds of {shape[0]:,} agents × {shape[1]} groups take {size / 2**20:,.0f} MiB, expected at "
            f"most {MOST // 2**20}: fewer rounds, going on from the last profile"
        )
    return int(rounds)


@functools.partial(jax.jit, static_argnames="rule")
def _play(carried: Carried, start: Array, keys: Array, levels: dict[str, Array], rule: str) -> Array:
    """Profiles after each round, (rounds, n, D)."""

    def round_(profile: Array, key: Array) -> tuple[Array, Array]:
        ahead = _round(carried.unwrap(), profile, key, levels, rule)
        return ahead, ahead

    return lax.scan(round_, start, keys)[1]


def _round(game: Any, profile: Array, key: Array, levels: dict[str, Array], rule: str) -> Array:
    if rule == "best-response":
        return _answers(game, profile)
    if rule == "sequential":
        return _one_by_one(game, profile)
    marginals = game.marginals(profile)
    if rule == "gradient":
        return simplex.project(profile + levels["step"] * marginals)
    if rule == "replicator":
        return simplex.entropic_step(profile, levels["step"] * marginals)
    shaken = marginals + levels["noise"] * jax.random.normal(key, marginals.shape, marginals.dtype)
    return (1 - levels["step"]) * profile + levels["step"] * jax.nn.softmax(shaken / levels["temperature"], -1)


def _answers(game: Any, profile: Array) -> Array:
    """Everyone's best response to the others at a profile."""
    alone = _alone(linearise(game, profile))
    return _best(alone, game.marginals(profile) + alone.own.apply(profile), profile)


def _one_by_one(game: Any, profile: Array) -> Array:
    alone = _alone(linearise(game, profile))
    agents = alone.own.agents(*profile.shape)

    def turn(profile: Array, i: Array) -> tuple[Array, None]:
        linear = game.marginals(profile) + alone.own.apply(profile)
        mine = jax.tree.map(lambda x: x[i][None], agents)
        single = alone.replace(own=alone.own.of(mine), linear=linear[i][None])
        return profile.at[i].set(_best(single, linear[i][None], profile[i][None])[0]), None

    return lax.scan(turn, profile, jnp.arange(profile.shape[0]))[0]


def _alone(affine: AffineMap) -> AffineMap:
    """With everything that an agent's own mixture does to its utility in its own block."""
    return affine.replace(own=affine.own_curvature())


def _best(alone: AffineMap, linear: Array, start: Array) -> Array:
    eps = float(jnp.finfo(start.dtype).eps)
    if alone.own.is_diagonal:
        least = eps * jnp.abs(simplex.project_tangent(linear)).max(1, keepdims=True) + float(
            jnp.finfo(start.dtype).tiny
        )
        return simplex.waterfill(linear, jnp.maximum(jnp.broadcast_to(alone.own.diagonal, linear.shape), least))
    return best_response(alone, linear, start, jnp.asarray(4 * eps, start.dtype))


def _period(profiles: np.ndarray) -> int:
    """The shortest period that the last rounds repeat, twice over; 0 without one.

    What a period comes back to differs by far less than its rounds do: else it is a slow way to rest.
    """
    for period in range(2, min(LONGEST, (len(profiles) - 1) // 2) + 1):
        last, before = profiles[-period:], profiles[-2 * period : -period]
        if np.abs(last - before).max() <= RETURNED * np.abs(np.diff(last, axis=0)).max():
            return period
    return 0


def _radius(carried: Carried, profile: Array, key: Array, levels: dict[str, Array], rule: str) -> float:
    """Of the derivative of a round between profiles."""
    if profile.size > LARGEST:
        return float("nan")
    derivative = np.asarray(_slope(carried, profile, key, levels, rule), float).reshape(profile.size, profile.size)
    n, D = profile.shape
    centre = np.kron(np.eye(n), np.eye(D) - 1 / D)
    return float(np.abs(np.linalg.eigvals(derivative @ centre)).max())


@functools.partial(jax.jit, static_argnames="rule")
def _slope(carried: Carried, profile: Array, key: Array, levels: dict[str, Array], rule: str) -> Array:
    """(n, D, n, D). Best responses are found by iteration, which has another derivative than they: by differences,
    which are exact where they are affine.
    """

    def round_(at: Array) -> Array:
        game = carried.unwrap()
        if rule != "replicator":
            return _round(game, at, key, levels, rule)
        # The same numbers with the derivative of what invades: logarithms of zeros have none.
        g = levels["step"] * game.marginals(at)
        top = lax.stop_gradient(jnp.where(profile > 0, g, -jnp.inf).max(-1, keepdims=True))
        largest = 0.5 * float(np.log(float(jnp.finfo(g.dtype).max)))  # of an invader's growth, which may overflow
        x = at * jnp.exp(jnp.minimum(g - top, largest))
        return x / x.sum(-1, keepdims=True)

    if rule not in ANSWERING:
        return jax.jacfwd(round_)(profile)
    step = jnp.finfo(profile.dtype).eps ** (1 / 3)
    units = jnp.eye(profile.size, dtype=profile.dtype).reshape(-1, *profile.shape) * step
    columns = lax.map(lambda unit: (round_(profile + unit) - round_(profile - unit)) / (2 * step), units)
    return jnp.moveaxis(columns, 0, -1).reshape(*profile.shape, *profile.shape)
