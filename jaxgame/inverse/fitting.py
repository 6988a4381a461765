"""fit(): the game behind observed mixtures, by maximum likelihood through the implicit derivative (theory §8)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from jaxgame._pytree import pytree
from jaxgame.inverse import squares
from jaxgame.inverse.identify import Parameters, null_space, sentences
from jaxgame.inverse.problem import Problem
from jaxgame.inverse.squares import Minimum

SMOOTH = (2.0, 6.0, 20.0, 60.0)  # rationality, in units of 1/σ, through which a search that got stuck begins anew
AXES = 10  # parameters up to which information is averaged over the ellipsoid of one standard error
STARTS = 3  # other starts that are looked at where the search got stuck
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
    known standard errors, such as `estimate_mixture` gives (NaN: not observed). Those of a row that is observed whole
    and sums to 1 are taken to be marginal, of shares that are correlated because of that sum, as counts are. Maximum
    likelihood is then least squares: Levenberg–Marquardt through the implicit derivative of the equilibrium. Shares
    that are exactly 0 and predicted to be count as no observation of the noise. Where the search ends at a kink (a
    group about to be excluded), or with every group in question excluded, it begins anew from other starts and from the
    smooth game of logit responses, and the best is kept.

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
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(f"theta has a leaf of type {jnp.result_type(leaf)}, expected floats")
        if not np.isfinite(np.asarray(leaf)).all():
            raise ValueError("theta has a number that is not finite, expected finite numbers to start from")
    return Parameters(jax.tree.map(jnp.asarray, theta))


def _search(problem: Problem) -> Minimum:
    """The best of the local minima that were found."""
    eps, start = float(jnp.finfo(problem.dtype).eps), problem.parameters.vector
    best = squares.minimise(problem.residual, problem.jacobian, start, eps)
    if best is not None and (best.stationary or _is_exact(problem, best)) and np.any(best.jacobian):
        return best
    units, random = problem.parameters.units(start), np.random.default_rng(0)
    guesses = [_through_smooth_games(problem, start, eps)]
    guesses += [start * np.exp(x) + 0.1 * units * y for x, y in random.normal(size=(STARTS, 2, len(start)))]
    found = [best] if best is not None else []
    for guess in guesses:
        if (other := squares.minimise(problem.residual, problem.jacobian, guess, eps)) is not None:
            found.append(other)
    if not found:
        raise ValueError(
            "theta: no equilibrium of build(theta) was found at the start or near it; solve(build(theta)).message says "
            "why"
        )
    best = min(found, key=lambda minimum: minimum.squares)
    if best.stationary or _is_exact(problem, best):
        return best
    return squares.descend_kinks(problem.residual, problem.jacobian, best, 0.05 * units)


def _through_smooth_games(problem: Problem, theta: np.ndarray, eps: float) -> np.ndarray:
    """Fits of logit responses, rougher agents first: nothing is excluded, and every derivative leads somewhere."""
    for level in SMOOTH:
        rationality = level / problem.size(theta)
        residual = functools.partial(problem.residual, rationality=rationality)
        jacobian = functools.partial(problem.jacobian, rationality=rationality)
        found = squares.minimise(residual, jacobian, theta, eps)
        theta = theta if found is None else found.theta
    return theta


def _is_exact(problem: Problem, minimum: Minimum) -> bool:
    """Whether what is left is rounding."""
    size = np.linalg.norm(problem.weights)
    return minimum.squares**0.5 <= 1e3 * float(jnp.finfo(problem.dtype).eps) * size


def _judged(problem: Problem, found: Minimum) -> Fit:
    parameters, dtype = problem.parameters, problem.dtype
    # Never below those of the start: a parameter that is estimated to be next to 0 has an effect all the same.
    units = np.maximum(parameters.units(found.theta), parameters.units(parameters.vector))
    scaled = found.jacobian * units
    rms = np.sqrt(np.mean(problem.weights**2))
    flat = null_space(scaled / rms, float(jnp.finfo(dtype).eps) ** 0.45)
    known = _complement(flat, len(units))
    predicted = problem.profiles(found.theta)
    degrees = _informative(problem, predicted) - len(known)
    variance = 1.0 if problem.known else (found.squares / degrees if degrees > 0 else np.nan)
    covariance = units[:, None] * _covariance(problem, found, known, units, variance) * units[None]
    identified = (flat**2).sum(0) < 1e-6
    errors = np.where(identified, np.sqrt(np.diag(covariance)), np.nan)
    p_value = _lack_of_fit(problem, found, predicted, degrees, len(known))
    words = tuple(sentences(parameters, found.theta, flat, units))
    sigma = problem.sigma if problem.known else variance**0.5
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


def _covariance(problem: Problem, found: Minimum, known: np.ndarray, units: np.ndarray, variance: float) -> np.ndarray:
    """The inverse of the Fisher information on what is known, (p, p) in units.

    Of its mean over the estimate and the ends of the main axes of the ellipsoid of one standard error: where a kink is
    within the noise, what the data tell differs from side to side.
    """

    def inverse(information: np.ndarray) -> np.ndarray:
        return known.T @ np.linalg.pinv(information, hermitian=True) @ known * variance

    def information(jacobian: np.ndarray) -> np.ndarray:
        inner = (jacobian * units) @ known.T
        return inner.T @ inner

    at = [information(found.jacobian)]
    if len(units) <= AXES and np.isfinite(variance):
        values, axes = np.linalg.eigh(inverse(at[0]))
        for value, axis in zip(values, axes.T, strict=True):
            reach = min(max(value, 0.0) ** 0.5, 0.5)
            at += [information(problem.jacobian(found.theta + s * reach * units * axis)) for s in (-1, 1) if reach > 0]
    return inverse(np.mean(at, 0))


def _complement(directions: np.ndarray, size: int) -> np.ndarray:
    """Orthonormal rows that span what the directions do not."""
    if not len(directions):
        return np.eye(size)
    return np.linalg.svd(directions)[2][len(directions) :]


def _informative(problem: Problem, predicted: np.ndarray) -> int:
    """How many independent numbers were observed: in a row on the simplex one less than its groups."""
    seen = (problem.weights > 0) & ~((problem.observed == 0) & (predicted == 0))
    return int(seen.sum() - (problem.closed() & (seen.sum(-1) > 0) & (problem.weights > 0).all(-1)).sum())


def _lack_of_fit(problem: Problem, found: Minimum, predicted: np.ndarray, degrees: int, rank: int) -> float:
    """The p-value of the equilibrium, NaN where nothing is known of the noise."""
    if problem.known:
        return float(scipy.special.chdtrc(degrees, found.squares)) if degrees > 0 else np.nan
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
    return float(scipy.special.fdtrc(left, free, ratio))


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
