"""The log-probability of a convex combination, safe at zero weights and at impossible responses, and the RLHF reward
that makes it the optimum (theory §8).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame import _checks


def log_mixture(log_probs: Array, weights: Array) -> Array:
    """log Σ_d w_d exp(l_d) over the last axis (…, D), weights broadcast against it; −∞ where every l_d with w_d > 0 is.

    Differentiable in both: at w_d = 0 the derivative in w_d is p_d/π, as on its right. It is cut off where it would
    overflow, and 0 where π = 0.
    """
    supported = jnp.where(weights > 0, log_probs, -jnp.inf)
    top = jax.lax.stop_gradient(jnp.max(supported, -1, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, jnp.zeros_like(top))
    ceiling = 0.5 * float(np.log(jnp.finfo(log_probs.dtype).max))
    total = jnp.sum(weights * jnp.exp(jnp.minimum(log_probs - top, ceiling)), -1)
    gone = total == 0  # NaN is not gone: it shows
    log_total = jnp.log(jnp.where(gone, jnp.ones_like(total), total)) + top[..., 0]
    return jnp.where(gone, -jnp.inf, log_total)


def mixture_reward(group_log_probs: Any, reference_log_prob: Any, weights: Any, *, beta: Any = 1.0) -> Array:
    """r_w = β (log π_w(y) − log π_ref(y)), the reward whose KL-regularised optimum is π_w itself (theory §8).

    group_log_probs: (…, D), log p_d(y) of each response under each group's model. reference_log_prob: (…), under the
    reference that the KL penalty with weight beta > 0 is measured from. weights: (D,) on the simplex. Returns (…).
    Raises ValueError for shapes that do not fit, weights off the simplex, log-probabilities that are NaN or +∞, and a
    reward that is not finite: a response that is impossible under π_w or under the reference.
    """
    dtype = _checks.float_dtype(group_log_probs, reference_log_prob, weights)
    groups, reference = jnp.asarray(group_log_probs, dtype), jnp.asarray(reference_log_prob, dtype)
    if groups.ndim == 0 or reference.shape != groups.shape[:-1]:
        expected = f"expected {groups.shape[:-1]}, that of group_log_probs without its last axis, the groups"
        raise ValueError(f"reference_log_prob has shape {reference.shape}, {expected}")
    beta = _positive("beta", beta, dtype)
    not_log_probs("group_log_probs", groups)
    shares = mixture_weights(weights, groups.shape[-1], dtype)
    reward = beta * (log_mixture(groups, _like(shares, groups)) - reference)
    _checks.finite("reward", reward)
    return reward


def group_reward(rewards: Any, log_partition: Any, weights: Any, *, beta: Any = 1.0) -> Array:
    """r_w = β log Σ_d w_d exp(r_d/β)/Z_d: the same reward from group reward models, p_d ∝ π_ref exp(r_d/β).

    rewards: (…, D), r_d(x, y). log_partition: log Z_d(x), (…, D) or (D,); `log_partition` estimates it. weights (D,) on
    the simplex. Returns (…). Raises ValueError as `mixture_reward` does.
    """
    dtype = _checks.float_dtype(rewards, log_partition, weights)
    rewards, log_z = jnp.asarray(rewards, dtype), jnp.asarray(log_partition, dtype)
    if rewards.ndim == 0 or log_z.shape not in (rewards.shape, rewards.shape[-1:]):
        raise ValueError(f"log_partition has shape {log_z.shape}, expected {rewards.shape} or {rewards.shape[-1:]}")
    _checks.finite("rewards", rewards)
    _checks.finite("log_partition", log_z)
    beta = _positive("beta", beta, dtype)
    shares = mixture_weights(weights, rewards.shape[-1], dtype)
    scaled = rewards / beta
    _checks.finite("rewards / beta", scaled)
    return beta * log_mixture(scaled - _like(log_z, rewards), _like(shares, rewards))


def log_partition(rewards: Any, *, beta: Any = 1.0) -> Array:
    """log Z_d = log E_ref exp(r_d/β), (D,), from the rewards (N, D) of N responses of the reference to one prompt."""
    dtype = _checks.float_dtype(rewards)
    rewards = _checks.array("rewards", rewards, dtype, ("N", "D"))
    if not len(rewards):
        raise ValueError("rewards has no rows, expected those of at least one response of the reference")
    return jax.nn.logsumexp(rewards / _positive("beta", beta, dtype), 0) - float(np.log(len(rewards)))


def mixture_weights(weights: Any, groups: int, dtype: Any) -> Array:
    """weights as an array (groups,) on the simplex. Raises ValueError, naming `weights`."""
    return _checks.shares("weights", _checks.array("weights", weights, dtype, (groups,)), weights)


def not_log_probs(name: str, x: Array) -> None:
    """ValueError where x, if it can be looked at, holds NaN or +∞; −∞ says impossible."""
    if _checks.concrete(x):
        bad = np.isnan(np.asarray(x)) | np.isposinf(np.asarray(x))
        if bad.any():
            index = [int(k) for k in np.argwhere(bad)[0]]
            raise ValueError(f"{name}{index} is {np.asarray(x)[bad][0]}, expected a log-probability")


def _positive(name: str, x: Any, dtype: Any) -> Array:
    value = _checks.array(name, x, dtype, ())
    if _checks.concrete(value) and not value > 0:
        raise ValueError(f"{name} is {float(value)}, expected a number > 0")
    return value


def _like(x: Array, y: Array) -> Array:
    """x with leading axes of size 1, so that it broadcasts against y by rank."""
    return x.reshape((1,) * (y.ndim - x.ndim) + x.shape)
