"""Agents of bounded rationality: every game as one of logit responses (theory §9).

What rationality does to exclusion is this project's modelling choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame import _checks
from jaxgame._pytree import assign, pytree
from jaxgame.games.affine import AffineMap, Aggregate, Blocks, Edges, Full, per_agent
from jaxgame.games.protocol import dtype_of, linearise


def with_rationality(game: Any, rationality: Any) -> Rational:
    """The game of the same agents with rationality ϱ: each maximises U_i + H(w_i)/ϱ_i, H the entropy (theory §9).

    rationality: ϱ ≥ 0, scalar or (n,), data like any other (differentiable, sweepable). At ϱ = 0 an agent plays the
    uniform mixture whatever the game; at ϱ = ∞ it plays its Nash strategy; in between w_i = softmax(ϱ_i g_i⁰(W)), g⁰
    the marginals of `game`, all positive. (Shares below the smallest number of the precision are that number.)

    `solve`, `certify`, `solve_many`, derivatives and `excluded` take it as any game; an equilibrium's `residual` is
    max |w − softmax(ϱ g⁰)|, for agents whose softmax rounding would blur max |w − r| with r the entropic response to
    g⁰ that stays near w (the natural residual for ϱ = ∞). Shared bounds and solvers that project are refused.

    Raises ValueError for a negative or NaN ϱ, a wrong shape, and a game that has a rationality already.
    """
    if isinstance(game, Rational):
        raise ValueError("game has a rationality already, expected one without: game.replace(rationality=…) changes it")
    return Rational(game, rationality)


@pytree()
class Rational:
    """See `with_rationality`. game: that of unbounded rationality; rationality ϱ: scalar or (n,)."""

    game: Any
    rationality: Any
    replace: ClassVar[Callable[..., Any]]

    def __post_init__(self):
        dtype, n = dtype_of(self.game), self.game.n_agents
        try:
            rationality = jnp.asarray(self.rationality, dtype)
        except (TypeError, ValueError) as error:
            raise ValueError(f"rationality: expected a number or (n,) numbers ({error})") from None
        if rationality.shape not in ((), (n,)):
            raise ValueError(f"rationality has shape {rationality.shape}, expected () or ({n},)")
        if _checks.concrete(rationality) and (bad := ~(np.asarray(rationality) >= 0)).any():
            where = f"[{int(bad.argmax())}]" if bad.ndim else ""
            raise ValueError(f"rationality{where} is {np.asarray(rationality)[bad][0]}, expected a number ≥ 0, or ∞")
        assign(self, rationality=rationality)

    @property
    def n_agents(self) -> int:
        return self.game.n_agents

    @property
    def n_groups(self) -> int:
        return self.game.n_groups

    @property
    def reach(self) -> Array | None:
        """Weights of the representation, (n,); None: uniform."""
        return getattr(self.game, "reach", None)

    @property
    def rationalities(self) -> Array:
        """ϱ of every agent, (n,)."""
        return per_agent(self.rationality, self.n_agents)

    @property
    def temperatures(self) -> Array:
        """What multiplies entropies, (n,): 1/ϱ; 1 for an agent with ϱ = 0, whose utility is its entropy alone."""
        return 1 / jnp.where(self.rationalities > 0, self.rationalities, 1)

    def utilities(self, profile: Array) -> Array:
        """U_i + H(w_i)/ϱ_i, (n,); H(w_i) where ϱ_i = 0."""
        positive = jnp.where(profile > 0, profile, 1)
        entropy = -(positive * jnp.log(positive)).sum(-1)
        entropy = jnp.where(self.temperatures > 0, self.temperatures * entropy, 0)
        return jnp.where(self.rationalities > 0, self.game.utilities(profile), 0) + entropy

    def marginals(self, profile: Array) -> Array:
        """g_i⁰ − (log w_i + 1)/ϱ_i, (n, D), the first term 0 where ϱ_i = 0; finite in the interior only."""
        own = jnp.where(self.rationalities[:, None] > 0, self.game.marginals(profile), 0)
        return own - self._entropic(profile, lambda w: jnp.log(w) + 1)

    def linearise(self, profile: Array) -> AffineMap:
        """The first-order expansion of the game map at an interior profile."""
        affine = self._curved(linearise(self.game, profile), self._entropic(profile, lambda w: 1 / w))
        return affine.replace(linear=affine.apply(profile) + self.marginals(profile))

    def flattest(self, profile: Array) -> AffineMap:
        """With the least curvature that the entropies have anywhere: Σ v²/w ≥ ‖v‖₁² ≥ 2‖v‖² for Σv = 0."""
        return self._curved(linearise(self.game, profile), jnp.full_like(profile, 2) * self.temperatures[:, None])

    def _curved(self, affine: AffineMap, curvature: Array) -> AffineMap:
        """With what entropies add to own curvatures, and without the game for agents with ϱ = 0."""
        plays = jnp.where(self.rationalities > 0, jnp.ones_like(self.rationalities), 0)
        own, others = affine.own, affine.others

        def felt(x: Array | None) -> Array | None:
            return None if x is None else x * plays.reshape(-1, *[1] * (x.ndim - 1))

        terms = tuple((plays * coefficient, matrix) for coefficient, matrix in own.terms)
        own = Blocks(own.diagonal * plays[:, None] + curvature, terms, felt(own.dense))
        if isinstance(others, Aggregate):
            others = Aggregate(plays * others.sensitivity, others.B, others.reach, felt(others.left), others.held)
        elif isinstance(others, Edges):
            others = Edges(
                plays * others.scale, others.weights, others.factor, others.B, felt(others.left), others.sent
            )
        else:
            others = Full(plays[:, None, None, None] * others.B)
        return AffineMap(affine.linear * plays[:, None], own, others)

    def _entropic(self, profile: Array, function: Callable[[Array], Array]) -> Array:
        """Times the temperatures; 0 for agents without entropy, whatever their mixture."""
        temperatures = self.temperatures[:, None]
        on = temperatures > 0
        return jnp.where(on, temperatures * function(jnp.where(on, profile, 1)), 0)
