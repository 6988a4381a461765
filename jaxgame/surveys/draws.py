"""Random draws of tables of probabilities and of counts, a leading axis of draws."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def dirichlet(key: jax.Array, concentration: jax.Array, draws: int) -> jax.Array:
    """(draws, …, k) from Dirichlets with (…, k) concentrations; where a concentration is 0, so is the draw."""
    shape = (draws, *concentration.shape)
    positive = jnp.broadcast_to(concentration > 0, shape)
    logs = jax.random.loggamma(key, jnp.where(concentration > 0, concentration, 1), shape, concentration.dtype)
    return jax.nn.softmax(jnp.where(positive, logs, -jnp.inf), axis=-1)


def multinomial(key: jax.Array, size: np.ndarray, frequencies: np.ndarray, draws: int, dtype: Any) -> jax.Array:
    """(draws, …, k) counts of (…,) trials, `size` rounded to at least 1, with the given (…, k) frequencies."""
    trials = jnp.asarray(np.broadcast_to(np.maximum(np.rint(size), 1), (draws, *size.shape)), dtype)
    probabilities = jnp.asarray(np.broadcast_to(frequencies, (draws, *frequencies.shape)), dtype)
    return jax.random.multinomial(key, trials, probabilities, dtype=dtype)
