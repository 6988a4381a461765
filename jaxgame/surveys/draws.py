"""Random draws of shares and tables, a leading axis of draws.

On the host in float64: there is nothing to differentiate, nothing to compile, and every precision sees the same draws.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def generator(seed: Any) -> np.random.Generator:
    """From an integer ≥ 0 or a concrete JAX key. ValueError for anything else."""
    try:
        is_key = isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key)
        entropy = np.asarray(jax.random.key_data(seed) if is_key else seed)
        if not np.issubdtype(entropy.dtype, np.integer):
            raise TypeError
        return np.random.default_rng(entropy.tolist())
    except (TypeError, ValueError, jax.errors.TracerArrayConversionError):
        raise ValueError(f"seed is {seed!r}, expected an integer ≥ 0 or a JAX key that is not traced") from None


def dirichlet(random: np.random.Generator, concentration: np.ndarray, draws: int) -> np.ndarray:
    """(draws, …, k) from Dirichlets with (…, k) concentrations; where a concentration is 0, so is the draw."""
    gammas = random.standard_gamma(concentration, (draws, *concentration.shape))
    return gammas / gammas.sum(-1, keepdims=True)


def multinomial(random: np.random.Generator, size: np.ndarray, frequencies: np.ndarray, draws: int) -> np.ndarray:
    """(draws, …, k) counts of (…,) trials, `size` rounded, with the (…, k) frequencies."""
    return random.multinomial(np.rint(size).astype(int), frequencies, (draws, *size.shape))
