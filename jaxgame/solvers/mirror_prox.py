"""Mirror-prox with the entropic (KL) geometry (Nemirovski 2004; theory §6)."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jaxgame import simplex
from jaxgame._pytree import pytree
from jaxgame.solvers.first_order import initial_slope


@pytree()
class MirrorState:
    profile: Array
    marginals: Array
    step_size: Array


@pytree()
class MirrorProx:
    """Multiplicative steps: v ∝ w exp(η g(w)), then w ∝ w exp(η g(v)). Two evaluations a step.

    η grows while the prox inequality holds and is halved, the step refused, where it does not. Mixtures stay positive
    until they underflow: made for interior equilibria, large D and logit responses.
    """

    evaluations_per_step: ClassVar[int] = 2

    def init(self, game: Any, profile: Array) -> MirrorState:
        # A face of the start can never be left by a multiplicative step.
        inside = 0.999 * profile + 0.001 / profile.shape[1]
        return MirrorState(inside, game.marginals(inside), 1 / initial_slope(game, inside).L)

    def step(self, game: Any, state: MirrorState) -> MirrorState:
        ahead = simplex.entropic_step(state.profile, state.step_size * state.marginals)
        beyond = game.marginals(ahead)
        profile = simplex.entropic_step(state.profile, state.step_size * beyond)
        gain = state.step_size * ((state.marginals - beyond) * (ahead - profile)).sum()
        room = _divergence(ahead, state.profile) + _divergence(profile, ahead)
        # Near the solution both sides are rounding: the test can neither refuse a step there nor lengthen it.
        rounding = jnp.finfo(room.dtype).eps
        accept = gain <= jnp.maximum(room, 4 * rounding)
        growth = jnp.where(room > 1e4 * rounding, 1.1, 1)
        profile = jnp.where(accept, profile, state.profile)
        marginals = jnp.where(accept, game.marginals(profile), state.marginals)
        return MirrorState(profile, marginals, state.step_size * jnp.where(accept, growth, 0.5))


def _divergence(w: Array, v: Array) -> Array:
    """KL(w, v) summed over agents; v may not vanish where w does not."""
    positive = w > 0
    return jnp.where(positive, w * jnp.log(jnp.where(positive, w / jnp.where(v > 0, v, 1), 1)), 0).sum()
