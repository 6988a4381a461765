"""How an equilibrium moves with its game: the derivative that suits the game (theory §7)."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame import logit_implicit, population_implicit
from jaxgame.games import representation
from jaxgame.games.rational import Rational
from jaxgame.implicit import solved, tangent
from jaxgame.solvers.parts import mesh_of, on_parts
from jaxgame.solvers.settle import is_populous


@functools.partial(jax.jit, static_argnums=5)
def moves(carried_game, carried_change, bounds, bounds_change, out: dict[str, Any], loud: bool) -> dict[str, Any]:
    """Tangents of the fields `out` of an equilibrium, for those of the game and of its sized bounds: NaN if it failed,
    zero for fields that do not move. loud: raise FloatingPointError where the conditions are singular.
    """
    game, change, profile = carried_game.unwrap(), carried_change.unwrap(), out["profile"]
    # No derivative of what is no equilibrium. A product: the transpose of a selection would be zero where it failed.
    valid = jnp.where(out["converged"], jnp.ones((), profile.dtype), jnp.nan)
    still = jax.tree.map(_no_tangent, out)
    if bounds is None and is_populous(game):
        solver = functools.partial(solved, loud=loud and mesh_of(game) is None)

        def parts(game: Any, change: Any, axis: str | None, profile: Array, valid: Array) -> tuple[Array, Array]:
            return population_implicit.tangent(game, change, profile, valid, solver, axis)

        moved, shown = on_parts(parts, (game, change), (profile,), valid)
        return still | dict(profile=moved, representation=shown)
    if isinstance(game, Rational):
        moved, charged = logit_implicit.tangent(game, change, profile, loud), None
    else:
        moved, charged = tangent(game, change, bounds, bounds_change, profile, out["prices"], loud)
    moved, charged = jax.tree.map(lambda x: valid * x, (moved, charged))
    _, shown = jax.jvp(representation, (game, profile), (change, moved))
    return still | dict(profile=moved, representation=shown, bounds=bounds_change, prices=charged)


def _no_tangent(x: Array) -> Any:
    return jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.floating) else np.zeros(x.shape, jax.dtypes.float0)
