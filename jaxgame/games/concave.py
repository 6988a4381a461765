"""Games whose utilities are the user's own concave JAX functions (design §3)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxgame import _checks
from jaxgame._pytree import assign, pytree
from jaxgame.games.affine import AffineMap, Aggregate, Blocks, Edges, Full, averaged
from jaxgame.games.coupling import Network


@functools.lru_cache
def exact(utility: Callable) -> Callable:
    """A utility whose products are in full precision on every device, and those of its derivatives, but for a backward
    rule of its own (`jax.custom_vjp`).
    """

    @functools.wraps(utility)
    def in_full(*arguments: Any) -> Array:
        with jax.default_matmul_precision("highest"):
            return utility(*arguments)

    return in_full


@pytree(static=("utility", "n_groups", "meeting"))
class ConcaveGame:
    """U_i = utility(params_i, w_i, others_i), concave in w_i; marginals and curvature by autodiff.

    utility(params_i, mixture (D,), others) -> scalar: a pure JAX function. Numbers belong in `params`, not in its
    closure: the function is part of what is compiled, params are data (differentiable, sweepable). Its products are in
    full precision on every device, unless they ask for another.
    params: pytree of arrays with leading axis n. n_groups: D.
    coupling "mean": others (D,) is the mean of the other agents; a `Network` with averaging rows and no B: the network
    average (D,), zeros for an agent that meets no one; "profile": (n, D), the profile with the agent's own row zero.

    Raises ValueError where params have no common leading axis, the utility is no scalar, or the coupling is unknown.
    """

    utility: Callable
    params: Any
    n_groups: int
    meeting: str
    network: Any
    replace: ClassVar[Callable[..., Any]]

    def __init__(self, utility, params, n_groups, *, coupling="mean"):
        if not callable(utility) or not isinstance(utility, Hashable):
            raise ValueError(
                "utility must be a hashable function (params_i, mixture, others) -> scalar, got "
                f"{type(utility).__name__}"
            )
        if not isinstance(n_groups, int) or n_groups < 1:
            raise ValueError(f"n_groups is {n_groups!r}, expected a positive integer")
        dtype = _checks.float_dtype(params)
        leaves, structure = jax.tree.flatten(params)
        if not leaves:
            raise ValueError("params has no arrays, expected at least one with leading axis n, the number of agents")
        cast = []
        for k, leaf in enumerate(leaves):
            leaf = jnp.asarray(leaf)
            if leaf.ndim == 0 or leaf.shape[0] != jnp.shape(leaves[0])[0] or leaf.shape[0] == 0:
                raise ValueError(
                    f"params leaf {k} has shape {leaf.shape}, expected the leading axis n of every leaf to agree"
                )
            if jnp.issubdtype(leaf.dtype, jnp.floating):
                leaf = jnp.asarray(leaf, dtype)
                _checks.finite(f"params leaf {k}", leaf)
            cast.append(leaf)
        n = cast[0].shape[0]
        network = None
        if isinstance(coupling, Network):
            network = coupling.sized(n, n_groups, dtype)
            if network.B is not None:
                raise ValueError("coupling.B is set, expected None: in a ConcaveGame the utility says how agents meet")
            _checks.averaging("coupling.weights", network.weights)
        elif coupling not in ("mean", "profile"):
            raise ValueError(f"coupling is {coupling!r}, expected 'mean', 'profile' or a Network")
        assign(
            self,
            utility=utility,
            params=jax.tree.unflatten(structure, cast),
            n_groups=n_groups,
            meeting=coupling if isinstance(coupling, str) else "network",
            network=network,
        )
        self._check_utility(dtype)

    def _check_utility(self, dtype):
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), self.params)
        mixture = jax.ShapeDtypeStruct((self.n_groups,), dtype)
        others = jax.ShapeDtypeStruct((self.n_agents, self.n_groups), dtype) if self.meeting == "profile" else mixture
        out = jax.eval_shape(self.utility, one, mixture, others)
        if getattr(out, "shape", None) != () or not jnp.issubdtype(out.dtype, jnp.floating):
            raise ValueError(f"utility returns {out}, expected a floating scalar")

    @property
    def coupling(self) -> Any:
        return self.meeting if self.network is None else self.network

    @property
    def is_aggregative(self) -> bool:
        """Whether agents meet only through a mean."""
        return self.meeting == "mean"

    @property
    def n_agents(self) -> int:
        return jax.tree.leaves(self.params)[0].shape[0]

    def others(self, profile: Array) -> Array:
        """What each agent meets: (n, D), or (n, n, D) for coupling "profile"."""
        n = self.n_agents
        if self.network is not None:
            return self.network.factor @ profile
        if self.meeting == "profile":
            return jnp.where(jnp.eye(n, dtype=bool)[:, :, None], 0, profile[None])
        if n == 1:
            return jnp.zeros_like(profile)
        total = averaged(jnp.ones(n, profile.dtype), profile)
        return (total[None] - profile) / (n - 1)

    def utilities(self, profile: Array) -> Array:
        """U_i, (n,)."""
        return jax.vmap(exact(self.utility))(self.params, profile, self.others(profile))

    def marginals(self, profile: Array) -> Array:
        """g_i = ∂U_i/∂w_i, (n, D)."""
        return jax.vmap(jax.grad(exact(self.utility), argnums=1))(self.params, profile, self.others(profile))

    def linearise(self, profile: Array) -> AffineMap:
        """The game map's first-order expansion at a profile, in the structure of the coupling."""
        n = self.n_agents
        slope = jax.grad(exact(self.utility), argnums=1)
        own_slope, cross_slope = jax.jacfwd(slope, argnums=1), jax.jacfwd(slope, argnums=2)
        others = self.others(profile)
        own = -jax.vmap(own_slope)(self.params, profile, others)
        cross = -jax.vmap(cross_slope)(self.params, profile, others)
        zero = jnp.zeros((1, 1), own.dtype)
        ones = jnp.ones(n, own.dtype)
        if self.meeting == "profile":
            jacobian = jnp.swapaxes(cross, 1, 2)  # (n, D, n, D) -> (n, n, D, D)
            agents = jnp.arange(n)
            parts = Blocks(zero, (), own), Full(jacobian.at[agents, agents].set(0))
        elif self.network is not None:
            parts = Blocks(zero, (), own), Edges(ones, self.network.weights, self.network.factor, None, cross)
        else:
            share = 1 / max(n - 1, 1) if n > 1 else 0.0
            parts = Blocks(zero, (), own - share * cross), Aggregate(ones, None, ones / n, n * share * cross)
        jacobian = AffineMap(jnp.zeros_like(profile), *parts)
        return AffineMap(jacobian.apply(profile) + self.marginals(profile), *parts)
