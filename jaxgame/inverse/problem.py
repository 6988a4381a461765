"""Residuals of observed mixtures, and their derivatives, as functions of a vector of parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgame import _checks
from jaxgame.games import dtype_of
from jaxgame.games.rational import Rational, with_rationality
from jaxgame.inverse.identify import Parameters
from jaxgame.solvers.scale import measure
from jaxgame.solving import solve

ROUNDS = 2000  # at most, of the fixed point for the variances of closed rows


class Problem:
    """Residuals and their derivatives, in units of the noise, as functions of the flattened parameters."""

    def __init__(self, build: Callable[..., Any], parameters: Parameters, observed: Any, settings: Any, noise: Any):
        self.build, self.parameters = build, parameters
        self.dtype = _checks.float_dtype(observed)
        observed = np.asarray(_checks.array("observed", observed, self.dtype), np.float64)
        if observed.ndim not in (2, 3):
            raise ValueError(f"observed has shape {observed.shape}, expected (n, D) or (k, n, D)")
        self.shape, self.repeats = observed.shape, settings is None
        self.observed = observed if observed.ndim == 3 else observed[None]
        self.settings = None if settings is None else _settings(settings, observed)
        self.weights = _weights(noise, observed.shape).reshape(self.observed.shape)
        self.known = not isinstance(noise, str)
        if self.known:
            seen = self.weights[self.weights > 0]
            self.sigma = float(np.sqrt(np.mean(1 / seen**2))) if seen.size else np.nan
            whole = (self.weights > 0).all(-1) & (self.observed.shape[-1] > 1) & self.closed()
            self.weights[whole] = _of_closed_rows(self.weights[whole])
        self._check(self.tree(parameters.vector))

    def closed(self) -> np.ndarray:
        """(k, n) which observed rows sum to 1."""
        return np.abs(self.observed.sum(-1) - 1) <= _checks.row_tolerance(self.dtype)

    def tree(self, vector: np.ndarray) -> Any:
        return self.parameters.tree(vector)

    def profiles(self, vector: np.ndarray, rationality: float | None = None) -> np.ndarray:
        """(k, n, D); NaN where no equilibrium was found."""
        found = _profiles(self.build, self.tree(vector), self.settings, rationality)
        return np.broadcast_to(np.asarray(found, np.float64), self.observed.shape)

    def size(self, vector: np.ndarray) -> float:
        """σ of the game: what rationality is measured against."""
        return float(_size(self.build, self.tree(vector), self.settings))

    def residual(self, vector: np.ndarray, rationality: float | None = None) -> np.ndarray:
        """(N,) in units of the noise, 0 where nothing was observed."""
        return (self.weights * (self.profiles(vector, rationality) - self.observed)).ravel()

    def jacobian(self, vector: np.ndarray, rationality: float | None = None) -> np.ndarray:
        """(N, p) of the residual; 0 for what has no derivative."""
        slopes = _slopes(self.build, self.tree(vector), self.settings, rationality)
        columns = [np.asarray(slope, np.float64).reshape(*np.shape(slope)[:3], -1) for slope in jax.tree.leaves(slopes)]
        dense = np.concatenate(columns, -1)
        dense = np.broadcast_to(dense, (*self.observed.shape, dense.shape[-1]))
        dense = self.weights[..., None] * np.where(np.isfinite(dense), dense, 0)
        return dense.reshape(-1, dense.shape[-1])

    def _check(self, theta: Any) -> None:
        setting = None if self.settings is None else jax.tree.map(lambda leaf: leaf[0], self.settings)
        game = _game(self.build, theta, setting)
        if (game.n_agents, game.n_groups) != self.observed.shape[1:]:
            raise ValueError(
                f"observed has shape {self.shape}, expected mixtures of shape {(game.n_agents, game.n_groups)}, as "
                "build(theta) has agents and groups"
            )


def _settings(settings: Any, observed: np.ndarray) -> Any:
    leaves = jax.tree.leaves(settings)
    if observed.ndim != 3:
        raise ValueError(f"observed has shape {observed.shape}, expected (k, n, D), one entry for each of k settings")
    for leaf in leaves:
        if np.ndim(leaf) == 0 or len(leaf) != len(observed):
            raise ValueError(f"settings has a leaf of shape {np.shape(leaf)}, expected a leading axis {len(observed)}")
    if not leaves:
        raise ValueError("settings has no numbers; leave it out if there is one setting")
    return jax.tree.map(jnp.asarray, settings)


def _weights(noise: Any, shape: tuple[int, ...]) -> np.ndarray:
    """1 / standard error; 0 where nothing was observed."""
    if isinstance(noise, str):
        if noise != "gaussian":
            raise ValueError(f"noise is {noise!r}, expected 'gaussian' or an array of standard errors like observed")
        return np.ones(shape)
    errors = np.asarray(noise, np.float64)
    if errors.shape != shape:
        raise ValueError(f"noise has shape {errors.shape}, expected that of observed, {shape}")
    if (bad := ~np.isnan(errors) & ~(errors > 0)).any() or np.isinf(errors).any():
        at = tuple(np.argwhere(bad | np.isinf(errors))[0])
        raise ValueError(f"noise{[int(i) for i in at]} is {errors[at]}, expected a positive number or NaN")
    return np.where(np.isnan(errors), 0, 1 / np.where(np.isnan(errors), 1, errors))


def _of_closed_rows(weights: np.ndarray) -> np.ndarray:
    """Weights (N, D) of the squares in rows that sum to 1, from 1 / the standard errors of their shares.

    The D shares have D − 1 degrees of freedom. Their covariance is taken to be diag(a) − aaᵀ/Σa, that of independent
    numbers with variances a given their sum (of counts: a_d = p_d/M), with a such that its diagonal is what was given.
    On differences that sum to 0 its inverse is diag(1/a).
    """
    groups, variance = weights.shape[1], weights**-2
    even = variance * groups / (groups - 1)
    a = even
    for _ in range(ROUNDS):
        with np.errstate(divide="ignore", invalid="ignore"):  # where there is no solution
            a, last = variance / (1 - a / a.sum(-1, keepdims=True)), a
        if np.allclose(a, last, rtol=1e-10, atol=0, equal_nan=True):
            break
    with np.errstate(invalid="ignore"):
        reached = a * (1 - a / a.sum(-1, keepdims=True))
    # Standard errors that no such covariance has, as of one share alone, are only scaled.
    fits = np.isclose(reached, variance, rtol=1e-3, atol=0).all(-1, keepdims=True)
    return np.where(fits, a, even) ** -0.5


def _game(build: Callable[..., Any], theta: Any, setting: Any) -> Any:
    return build(theta) if setting is None else build(theta, setting)


def _shown(build: Callable[..., Any], theta: Any, settings: Any, rationality: Any) -> Any:
    """Equilibrium mixtures in all settings, (k, n, D); (1, n, D) without settings."""

    def one(setting: Any) -> Any:
        game = _game(build, theta, setting)
        if rationality is not None and not isinstance(game, Rational):
            game = with_rationality(game, rationality)
        found = solve(game)
        return jnp.where(found.converged, found.profile, jnp.nan)

    return one(None)[None] if settings is None else jax.lax.map(one, settings)


@functools.partial(jax.jit, static_argnums=0)
def _size(build: Callable[..., Any], theta: Any, settings: Any) -> Any:
    """The largest σ (theory §1) of the games in all settings."""

    def one(setting: Any) -> Any:
        game = _game(build, theta, setting)
        return measure(game, dtype_of(game)).sigma

    return one(None) if settings is None else jax.lax.map(one, settings).max()


@functools.partial(jax.jit, static_argnums=0)
def _profiles(build: Callable[..., Any], theta: Any, settings: Any, rationality: Any) -> Any:
    return _shown(build, theta, settings, rationality)


@functools.partial(jax.jit, static_argnums=0)
def _slopes(build: Callable[..., Any], theta: Any, settings: Any, rationality: Any) -> Any:
    return jax.jacfwd(lambda theta: _shown(build, theta, settings, rationality))(theta)
