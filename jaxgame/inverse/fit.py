"""fit(): the game behind observed mixtures, by maximum likelihood through the implicit derivative (theory §8)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from jaxgame import _checks
from jaxgame._pytree import pytree
from jaxgame.games.rational import Rational, with_rationality
from jaxgame.inverse import squares
from jaxgame.inverse.identify import Parameters, null_space, sentences
from jaxgame.inverse.squares import Minimum
from jaxgame.solvers.scale import measure
from jaxgame.solving import solve

SMOOTH = 20.0  # rationality, in units of 1/σ, at which a search that got stuck begins anew: nothing is excluded there
STARTS = 6  # other starts that are looked at where the search got stuck
REJECTED = 0.01  # the p-value below which equilibrium counts as rejected


@pytree(static=("unidentified", "message"))
class Fit:
    """Parameters of a game that best explain observed mixtures.

    theta: the estimate, a pytree like the start. standard_errors: like theta, from the Fisher information; NaN where
    not identified, and where there are no more observations than parameters. identified: like theta, bool: False
    where some change of parameters that the data cannot see moves this one. covariance (p, p), of the flattened theta,
    on what is identified.
    directions (k, p): changes of the flattened theta that change nothing; unidentified: each in words.
    predicted: the equilibrium mixtures at theta, in the shape of `observed`. noise: the standard deviation of an
    observed share, estimated or (given as an array) the root mean square of what was given.
    p_value: of the data if the agents are at an equilibrium of this kind of game; NaN where that cannot be tested.
    rejected: p_value < 1 %. degrees: of freedom that are left for the noise. stationary: False where the search ended
    at a kink or got stuck. message: all this in sentences.
    """

    theta: Any
    standard_errors: Any
    identified: Any
    covariance: Any
    directions: Any
    predicted: Any
    noise: Any
    p_value: Any
    rejected: Any
    degrees: Any
    stationary: Any
    unidentified: tuple[str, ...]
    message: str


def fit(build: Callable[..., Any], theta: Any, observed: Any, *, settings: Any = None, noise: Any = "gaussian") -> Fit:
    """Estimate parameters of a game from the mixtures that its agents play.

    build(theta) -> game, or build(theta, setting) -> game with settings; differentiable, all numbers that it takes from
    theta; the same function compiles once. theta: a pytree of floats to start from. observed: mixtures (n, D), or
    (k, n, D): k observations, each in a setting of its own (`settings`, a pytree with a leading axis k) or all of
    build(theta). Rows need not be on the simplex.

    noise: "gaussian", independent with one unknown standard deviation for all shares; or an array like `observed` of
    known standard errors, such as `estimate_mixture` gives (NaN: not observed). Maximum likelihood is then least
    squares: Levenberg–Marquardt through the implicit derivative of the equilibrium. Shares that are exactly 0 and
    predicted to be count as no observation of the noise. Where the search ends at a kink (a group about to be
    excluded), or with every group in question excluded, it begins anew from other starts and from the smooth game of
    logit responses, and the best is kept.

    Standard errors are those of the Fisher information, with the noise estimated on the degrees of freedom left: exact
    for shares inside the simplex, optimistic where a group is at the brink of exclusion. Whether the agents are at an
    equilibrium at all is tested where something is known of the noise: against the scatter of repeated settings (an F
    test of lack of fit), or against given standard errors (χ²).

    Raises ValueError for a theta that is no pytree of floats, observations of the wrong shape or not finite, settings
    that do not fit, noise of another kind, and a start whose game has no equilibrium that is found.
    """
    parameters = _parameters(theta)
    problem = Problem(build, parameters, observed, settings, noise)
    found = _search(problem)
    return _judged(problem, found)


def _parameters(theta: Any) -> Parameters:
    leaves = jax.tree.leaves(theta)
    if not leaves:
        raise ValueError("theta has no numbers, expected at least one parameter")
    for leaf in leaves:
        if not np.issubdtype(np.result_type(leaf), np.floating):
            raise ValueError(f"theta has a leaf of type {np.result_type(leaf)}, expected floats")
        if not np.isfinite(np.asarray(leaf)).all():
            raise ValueError("theta has a number that is not finite, expected finite numbers to start from")
    return Parameters(jax.tree.map(jnp.asarray, theta))


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
        self._check(self.tree(parameters.vector))

    def tree(self, vector: np.ndarray) -> Any:
        return self.parameters.tree(vector)

    def profiles(self, vector: np.ndarray, rationality: float | None = None) -> np.ndarray:
        """(k, n, D); NaN where no equilibrium was found."""
        found = _profiles(self.build, self.tree(vector), self.settings, rationality)
        return np.broadcast_to(np.asarray(found, np.float64), self.observed.shape)

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


def _game(build: Callable[..., Any], theta: Any, setting: Any) -> Any:
    return build(theta) if setting is None else build(theta, setting)


def _shown(build: Callable[..., Any], theta: Any, settings: Any, rationality: Any) -> Any:
    """Equilibrium mixtures in all settings, (k, n, D); (1, n, D) without settings."""

    def one(setting: Any) -> Any:
        game = _game(build, theta, setting)
        if rationality is not None and not isinstance(game, Rational):
            game = with_rationality(game, rationality / measure(game, jnp.result_type(float)).sigma)
        found = solve(game)
        return jnp.where(found.converged, found.profile, jnp.nan)

    return one(None)[None] if settings is None else jax.vmap(one)(settings)


@functools.partial(jax.jit, static_argnums=0)
def _profiles(build: Callable[..., Any], theta: Any, settings: Any, rationality: Any) -> Any:
    return _shown(build, theta, settings, rationality)


@functools.partial(jax.jit, static_argnums=0)
def _slopes(build: Callable[..., Any], theta: Any, settings: Any, rationality: Any) -> Any:
    return jax.jacfwd(lambda theta: _shown(build, theta, settings, rationality))(theta)


def _search(problem: Problem) -> Minimum:
    """The best of the local minima that were found."""
    eps, start = float(jnp.finfo(problem.dtype).eps), problem.parameters.vector
    best = squares.minimise(problem.residual, problem.jacobian, start, eps)
    if best is not None and (best.stationary or _is_exact(problem, best)) and np.any(best.jacobian):
        return best
    units, random = problem.parameters.units(start), np.random.default_rng(0)
    smooth = (
        functools.partial(problem.residual, rationality=SMOOTH),
        functools.partial(problem.jacobian, rationality=SMOOTH),
    )
    guesses = [] if best is None else [best.theta]
    if (rough := squares.minimise(*smooth, start, eps)) is not None:
        guesses.append(rough.theta)
    guesses += [
        start * np.exp(random.normal(size=len(start))) + 0.1 * units * random.normal(size=len(start))
        for _ in range(STARTS)
    ]
    found = [best] if best is not None else []
    for guess in guesses[len(found) :]:
        if (other := squares.minimise(problem.residual, problem.jacobian, guess, eps)) is not None:
            found.append(other)
    if not found:
        raise ValueError(
            "theta: no equilibrium of build(theta) was found at the start or near it; solve(build(theta)).message says "
            "why"
        )
    return min(found, key=lambda minimum: minimum.squares)


def _is_exact(problem: Problem, minimum: Minimum) -> bool:
    """Whether what is left is rounding."""
    size = np.linalg.norm(problem.weights)
    return minimum.squares**0.5 <= 1e3 * float(jnp.finfo(problem.dtype).eps) * size


def _judged(problem: Problem, found: Minimum) -> Fit:
    parameters, dtype = problem.parameters, problem.dtype
    units = parameters.units(found.theta)
    scaled = found.jacobian * units
    rms = np.sqrt(np.mean(problem.weights**2))
    flat = null_space(scaled / rms, float(jnp.finfo(dtype).eps) ** 0.45)
    known = _complement(flat, len(units))
    predicted = problem.profiles(found.theta)
    degrees = _informative(problem, predicted) - len(known)
    variance = 1.0 if problem.known else (found.squares / degrees if degrees > 0 else np.nan)
    inner = known @ (scaled.T @ scaled) @ known.T
    covariance = units[:, None] * (known.T @ np.linalg.pinv(inner, hermitian=True) @ known) * units[None] * variance
    identified = (flat**2).sum(0) < 1e-6
    errors = np.where(identified, np.sqrt(np.diag(covariance)), np.nan)
    p_value = _lack_of_fit(problem, found, predicted, degrees, len(known))
    words = tuple(sentences(parameters, found.theta, flat))
    sigma = np.sqrt(np.mean(1 / problem.weights[problem.weights > 0] ** 2)) if problem.known else variance**0.5
    return Fit(
        theta=jax.tree.map(jnp.asarray, parameters.tree(found.theta)),
        standard_errors=jax.tree.map(jnp.asarray, parameters.tree(errors)),
        identified=jax.tree.map(jnp.asarray, parameters.tree(identified, bool)),
        covariance=jnp.asarray(covariance, dtype),
        directions=jnp.asarray(flat * units, dtype),
        predicted=jnp.asarray(predicted.reshape(problem.shape), dtype),
        noise=jnp.asarray(sigma, dtype),
        p_value=jnp.asarray(p_value, dtype),
        rejected=jnp.asarray(p_value < REJECTED),
        degrees=jnp.asarray(degrees),
        stationary=jnp.asarray(found.stationary or _is_exact(problem, found)),
        unidentified=words,
        message=_message(problem, found, words, p_value, degrees),
    )


def _complement(directions: np.ndarray, size: int) -> np.ndarray:
    """Orthonormal rows that span what the directions do not."""
    if not len(directions):
        return np.eye(size)
    return np.linalg.svd(directions)[2][len(directions) :]


def _informative(problem: Problem, predicted: np.ndarray) -> int:
    """How many independent numbers were observed: in a row on the simplex one less than its groups."""
    seen = (problem.weights > 0) & ~((problem.observed == 0) & (predicted == 0))
    closed = np.abs(problem.observed.sum(-1) - 1) <= _checks.row_tolerance(problem.dtype)
    return int(seen.sum() - (closed & (seen.sum(-1) > 0) & (problem.weights > 0).all(-1)).sum())


def _lack_of_fit(problem: Problem, found: Minimum, predicted: np.ndarray, degrees: int, rank: int) -> float:
    """The p-value of the equilibrium, NaN where nothing is known of the noise."""
    if problem.known:
        return float(scipy.stats.chi2.sf(found.squares, degrees)) if degrees > 0 else np.nan
    labels = _settings_alike(problem)
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    scatter, free = 0.0, 0
    for group in groups:
        centre = problem.observed[group].mean(0)
        scatter += float(((problem.observed[group] - centre) ** 2).sum())
        free += (len(group) - 1) * _informative(problem, predicted) // len(problem.observed)
    left = degrees - free
    if free <= 0 or left <= 0 or scatter <= 0:
        return np.nan
    ratio = max(found.squares - scatter, 0.0) / left / (scatter / free)
    return float(scipy.stats.f.sf(ratio, left, free))


def _settings_alike(problem: Problem) -> np.ndarray:
    """A label (k,) for each distinct setting."""
    count = len(problem.observed)
    if problem.settings is None:
        return np.zeros(count, int)
    rows = np.concatenate([np.asarray(leaf).reshape(count, -1) for leaf in jax.tree.leaves(problem.settings)], 1)
    return np.unique(rows, axis=0, return_inverse=True)[1].ravel()


def _message(problem: Problem, found: Minimum, words: tuple[str, ...], p_value: float, degrees: int) -> str:
    out = [f"Fitted {len(found.theta)} parameters to {problem.observed.size} shares in {found.steps} steps."]
    if not (found.stationary or _is_exact(problem, found)):
        out.append(
            "The best fit is at a kink, where a group is about to be excluded: standard errors hold on one side."
        )
    out += words
    if degrees <= 0:
        out.append("There are no more observations than parameters: the noise, and with it every error, is unknown.")
    if np.isnan(p_value):
        out.append("Whether the agents are at an equilibrium cannot be tested: repeat settings, or give their noise.")
    elif p_value < REJECTED:
        out.append(f"That the agents are at an equilibrium of such a game is rejected (p = {p_value:.2g}).")
    else:
        out.append(f"The data are compatible with an equilibrium of such a game (p = {p_value:.2g}).")
    return " ".join(out)
