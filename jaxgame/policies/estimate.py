"""Which mixture wrote these responses? Maximum likelihood over the simplex, with honest uncertainty (theory §8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from scipy.optimize import brentq

from jaxgame import _checks
from jaxgame._pytree import pytree
from jaxgame.policies import likelihood as mixture

CRITICAL = 1.959963984540054  # of a standard normal: 95 % between its two signs
WIDEST = 2**0.5 / (2 * CRITICAL)  # a standard error at which a 95 % interval is as long as the simplex
SINGULAR = 1e-10  # of the information, relative
PRECISE = 1e-3  # ends of intervals, in standard errors


@pytree(static=("groups", "responses"))
class MixtureEstimate:
    """The mixture of groups that best explains N responses, and how sure the data are of it.

    weights (D,): the maximum likelihood, exactly 0 where a group is excluded.
    standard_errors (D,): from the observed information on the groups that are represented. Where some group is
        excluded, not less than the longer side of the 95 % interval over 1.96: an excluded group's is its upper limit
        over 1.96. NaN where the likelihood is flat.
    lower, upper (D,): 95 % intervals by profile likelihood, within [0, 1]; of an excluded group lower is 0 and upper
        a limit that holds with probability .95 or more.
    covariance (D, D): of the weights on the face of the represented groups, for sums of weights; zero off it.
    identified (D,) bool: False for groups that the responses hardly tell from others: they take part in a direction
        along which the 95 % interval is longer than the simplex. Such weights should not be interpreted.
    directions (k, D): these directions, orthonormal, each with sum 0.
    optimality: by how much the conditions of the maximum fail (0 up to rounding); times N a bound on the
        log-likelihood that is missing.
    """

    weights: Any
    standard_errors: Any
    lower: Any
    upper: Any
    covariance: Any
    identified: Any
    directions: Any
    log_likelihood: Any
    optimality: Any
    groups: tuple[str, ...]
    responses: int

    @property
    def message(self) -> str:
        """What is known, and what is not, in sentences."""
        out = [
            f"Group {name}: excluded, at most {float(high):.3g} (95 %)."
            for name, weight, high in zip(self.groups, self.weights, self.upper, strict=True)
            if not float(weight) > 0
        ]
        for direction in np.asarray(self.directions):
            large = np.abs(direction) > np.abs(direction).max() / 2
            one, other = (
                " and ".join(name for name, on in zip(self.groups, large & (sign * direction > 0), strict=True) if on)
                for sign in (1, -1)
            )
            out.append(f"The {self.responses} responses cannot tell {one or 'nothing'} from {other or 'the rest'}.")
        return " ".join(out) or f"All {len(self.groups)} groups are represented and told apart."


def estimate_mixture(group_log_probs: Any, *, groups: Sequence[str] | None = None) -> MixtureEstimate:
    """Estimate the weights of a mixture Σ_d w_d p_d from responses drawn from it.

    group_log_probs (N, D): log p_d(response), −∞ for what a group never says; a constant added to a row changes
    nothing. groups: D names for messages, default 0, 1, …. Responses are taken as independent.

    The likelihood is concave in w and its maximum is found to rounding (`likelihood`). On the host, so outside jit.
    Raises ValueError for no responses, an array that is not (N, D), NaN or +∞, and a response to which every group
    gives probability 0.
    """
    log_probs, dtype = _checked(group_log_probs)
    n_groups = log_probs.shape[1]
    names = tuple(str(d) for d in range(n_groups)) if groups is None else tuple(str(name) for name in groups)
    if len(names) != n_groups:
        raise ValueError(f"groups has {len(names)} names, expected {n_groups}, one a column of group_log_probs")
    likelihood = mixture.scaled(log_probs)
    weights = mixture.maximum(likelihood)
    covariance, errors = _information(likelihood, weights)
    lower, upper = _intervals(likelihood, weights, errors)
    if not weights.all():
        errors = np.maximum(errors, np.maximum(upper - weights, weights - lower) / CRITICAL)
    directions = _directions(likelihood, weights)
    constant = log_probs.max(1).sum()
    return MixtureEstimate(
        *(jnp.asarray(x, dtype) for x in (weights, errors, lower, upper, covariance)),
        identified=jnp.asarray((directions**2).sum(0) < 1e-2),
        directions=jnp.asarray(directions, dtype),
        log_likelihood=jnp.asarray(mixture.log_likelihood(likelihood, weights) + constant, dtype),
        optimality=jnp.asarray(mixture.optimality(likelihood, weights), dtype),
        groups=names,
        responses=len(likelihood),
    )


def _checked(group_log_probs: Any) -> tuple[np.ndarray, Any]:
    if isinstance(group_log_probs, Tracer):
        raise ValueError("group_log_probs is traced, expected concrete values: call estimate_mixture outside jit")
    dtype = _checks.float_dtype(group_log_probs)
    try:
        log_probs = np.asarray(group_log_probs, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"group_log_probs: expected an array of numbers ({error})") from None
    if log_probs.ndim != 2 or 0 in log_probs.shape:
        raise ValueError(
            f"group_log_probs has shape {log_probs.shape}, expected (N, D) with at least one response and one group"
        )
    bad = np.isnan(log_probs) | (log_probs == np.inf)
    if bad.any():
        k, d = np.argwhere(bad)[0]
        raise ValueError(f"group_log_probs[{k}, {d}] is {log_probs[k, d]}, expected a log-probability (−inf for none)")
    never = (log_probs == -np.inf).all(1)
    if never.any():
        raise ValueError(
            f"group_log_probs[{int(never.argmax())}] is −inf for every group: no mixture of them gives this response"
        )
    return log_probs, dtype


def _tangent(size: int) -> np.ndarray:
    """An orthonormal basis (size, size − 1) of the directions with sum 0."""
    return np.linalg.svd(np.ones((1, size)))[2][1:].T


def _information(likelihood: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Covariance (D, D) and standard errors (D,) from the observed information on the face of the weights."""
    face = np.flatnonzero(weights)
    shares = mixture.responsibilities(likelihood[:, face], weights[face])
    basis = _tangent(len(face))
    values, vectors = np.linalg.eigh(basis.T @ (shares.T @ shares) @ basis)
    flat = values <= SINGULAR * np.trace(shares.T @ shares)
    moves = basis @ vectors
    known = moves[:, ~flat]
    covariance = np.zeros((len(weights), len(weights)))
    covariance[np.ix_(face, face)] = (known / values[~flat]) @ known.T
    errors = np.sqrt(np.diag(covariance))
    errors[face[(moves[:, flat] ** 2).sum(1) > SINGULAR]] = np.nan
    return covariance, errors


def _directions(likelihood: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Orthonormal directions between all groups along which a 95 % interval is longer than the simplex, (k, D)."""
    shares = mixture.responsibilities(likelihood, weights)
    basis = _tangent(len(weights))
    values, vectors = np.linalg.eigh(basis.T @ (shares.T @ shares) @ basis)
    return (basis @ vectors[:, values * WIDEST**2 < 1]).T


def _intervals(likelihood: np.ndarray, weights: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the likelihood that is left, with the other weights at their best, is 1.92 below its maximum."""
    n_groups = len(weights)
    if n_groups == 1:
        return np.ones(1), np.ones(1)
    top = mixture.log_likelihood(likelihood, weights)
    lower, upper = np.zeros(n_groups), np.ones(n_groups)
    for d in range(n_groups):
        profile = _Profile(likelihood, weights, d, top)
        guess = CRITICAL * errors[d] if errors[d] > 0 else 1 / len(likelihood) ** 0.5
        upper[d] = profile.end(weights[d], 1.0, guess)
        lower[d] = profile.end(weights[d], 0.0, guess)
    return lower, upper


class _Profile:
    """The signed root of the likelihood ratio of one weight: close to a straight line, of slope 1 a standard error."""

    def __init__(self, likelihood: np.ndarray, weights: np.ndarray, group: int, top: float):
        self.own, self.others = likelihood[:, group], np.delete(likelihood, group, 1)
        self.start = np.delete(weights, group)
        self.top = top

    def root(self, share: float) -> float:
        """√(2 (ℓ − ℓ(share))) − 1.96."""
        left = (1 - share) * self.others + share * self.own[:, None]
        if not left.any(1).all():
            return np.inf
        total = self.start.sum()
        best = mixture.maximum(left, self.start / total if total > 0 else None)
        return (2 * max(self.top - mixture.log_likelihood(left, best), 0.0)) ** 0.5 - CRITICAL

    def end(self, weight: float, limit: float, guess: float) -> float:
        """Where the root crosses 0 between the estimate and a limit; the limit if it does not."""
        if weight == limit:
            return limit
        near, ahead = weight, guess
        while True:
            far = min(weight + ahead, limit) if limit > weight else max(weight - ahead, limit)
            if (value := self.root(far)) >= 0:
                break
            if far == limit:
                return limit
            near, ahead = far, 1.5 * ahead
        while not np.isfinite(value):  # a response that no other group gives
            middle = (near + far) / 2
            if (at := self.root(middle)) < 0:
                near = middle
            else:
                far, value = middle, at
            if abs(far - near) < PRECISE * guess:
                return far
        return float(brentq(self.root, near, far, xtol=PRECISE * max(guess, 1e-12)))  # pyright: ignore[reportArgumentType]
