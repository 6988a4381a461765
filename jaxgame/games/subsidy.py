"""A game with additions to the marginal utilities: what agents play when a platform pays for what they represent."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jaxgame import _checks
from jaxgame._pytree import assign, pytree
from jaxgame.games.affine import AffineMap
from jaxgame.games.concave import ConcaveGame
from jaxgame.games.members import Members
from jaxgame.games.protocol import dtype_of
from jaxgame.games.rational import Rational
from jaxgame.linalg import dot

# What solvers may ask of a game beyond the protocol, and an addition does not change.
_STRUCTURE = ("reach", "multiplicity", "is_aggregative", "meeting")


def subsidised(game: Any, addition: Any) -> Any:
    """The game with utilities U_i + ⟨addition_i, w_i⟩; addition (n, D), or (D,) for all agents, in utility per unit of
    mixture.

    Keeps the structure that solvers exploit. Raises ValueError for an addition of another shape.
    """
    if isinstance(game, ConcaveGame):
        params = {"game": game.params, "addition": _checked(game, addition)}
        return ConcaveGame(_with_addition(game.utility), params, game.n_groups, coupling=game.coupling)
    if isinstance(game, Rational):
        return game.replace(game=subsidised(game.game, addition))
    return Subsidised(game, addition)


@pytree()
class Subsidised:
    """See `subsidised`, which also knows the games that need no wrapper."""

    game: Any
    addition: Any
    replace: ClassVar[Callable[..., Any]]

    def __post_init__(self):
        assign(self, addition=_checked(self.game, self.addition))

    @property
    def n_agents(self) -> int:
        return self.game.n_agents

    @property
    def n_groups(self) -> int:
        return self.game.n_groups

    def utilities(self, profile: Array) -> Array:
        """U_i, (n,)."""
        return self.game.utilities(profile) + (self.addition * profile).sum(-1)

    def marginals(self, profile: Array) -> Array:
        """g_i = ∂U_i/∂w_i, (n, D)."""
        return self.game.marginals(profile) + self.addition

    def __getattr__(self, name: str) -> Any:
        if name in _STRUCTURE:
            return getattr(self.game, name)
        if name == "affine":
            inner = self.game.affine
            return lambda: _added(inner(), self.addition)
        if name == "members":
            some = self.game.members
            return lambda rows, population=None: _added(some(rows, population), rows(self.addition))
        if name == "linearise":
            expand = self.game.linearise
            return lambda profile: _added(expand(profile), self.addition)
        raise AttributeError(name)


def _added(part: AffineMap | Members, addition: Array) -> Any:
    return part.replace(linear=part.linear + addition)


def _checked(game: Any, addition: Any) -> Array:
    shape = (game.n_agents, game.n_groups)
    return jnp.broadcast_to(_checks.array("addition", addition, dtype_of(game), shape, shape[1:]), shape)


@functools.lru_cache
def _with_addition(utility: Callable) -> Callable:
    """One function a utility, so that games that differ in numbers share what is compiled."""

    def with_addition(params, mixture, others):
        return utility(params["game"], mixture, others) + dot(params["addition"], mixture)

    return with_addition
