"""What a game is, and what solvers may ask of one."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array

from jaxgame.games.affine import AffineMap, Blocks, Full, averaged
from jaxgame.linalg import einsum


@runtime_checkable
class Game(Protocol):
    """n agents choose mixtures over D groups. Everything else a solver can use is structure found on the object:

    `affine() -> AffineMap` (the game map is affine: a quadratic game), `linearise(profile) -> AffineMap` (its
    first-order expansion without forming a dense Jacobian), `reach` (n,), weights of the representation,
    `multiplicity` (n,), how many identical agents each row stands for, `is_aggregative`, whether agents meet only
    through an aggregate.
    """

    @property
    def n_agents(self) -> int: ...

    @property
    def n_groups(self) -> int: ...

    def utilities(self, profile: Array) -> Array: ...

    def marginals(self, profile: Array) -> Array: ...


def is_quadratic(game: Any) -> bool:
    """Whether the game map is affine in the profile."""
    return hasattr(game, "affine")


def is_aggregative(game: Any) -> bool:
    """Whether agents meet only through an aggregate of D numbers."""
    return getattr(game, "is_aggregative", False)


def linearise(game: Any, profile: Array) -> AffineMap:
    """The game map as an affine map: exact for quadratic games, else the first-order expansion at `profile`."""
    if is_quadratic(game):
        return game.affine()
    if hasattr(game, "linearise"):
        return game.linearise(profile)
    jacobian = -jax.jacfwd(game.marginals)(profile)  # (n, D, n, D)
    n = profile.shape[0]
    agents = jnp.arange(n)
    own = jacobian[agents, :, agents, :]
    cross = jnp.swapaxes(jacobian, 1, 2).at[agents, agents].set(0)
    linear = einsum("idje,je->id", jacobian, profile) + game.marginals(profile)
    return AffineMap(linear, Blocks(jnp.zeros((1, 1), profile.dtype), (), own), Full(cross))


def reach_of(game: Any, dtype: Any) -> Array:
    """The weights of the agents in the representation, (n,): uniform unless the game has its own."""
    reach = getattr(game, "reach", None)
    return jnp.full(game.n_agents, 1 / game.n_agents, dtype) if reach is None else reach


def share_of(game: Any, dtype: Any) -> Array:
    """What one agent of each row adds to the representation, (n,): reach, but where a row stands for several."""
    reach, multiplicity = reach_of(game, dtype), getattr(game, "multiplicity", None)
    return reach if multiplicity is None else reach / multiplicity


def representation(game: Any, profile: Array) -> Array:
    """S = Σ_i reach_i w_i, (D,): what the audience is shown."""
    return averaged(reach_of(game, profile.dtype), profile)


def dtype_of(game: Any) -> Any:
    """The floating dtype a game computes in."""
    shape = (game.n_agents, game.n_groups)
    for leaf in jax.tree.leaves(game):
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating) and jnp.ndim(leaf):
            return leaf.dtype
    return jax.eval_shape(game.marginals, jax.ShapeDtypeStruct(shape, jnp.zeros(()).dtype)).dtype
