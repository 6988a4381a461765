"""Mixtures estimated from responses, against the conditions of the maximum, scipy, closed forms and planted truth."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxgame as jg


def responses(rng, weights, size, options=30, concentration=0.5):
    """(N, D) log-probabilities of responses drawn from a mixture of random groups."""
    tables = rng.dirichlet(np.full(options, concentration), size=len(weights))
    drawn = rng.choice(options, p=weights @ tables, size=size)
    return np.log(tables[:, drawn].T)


def log_likelihood(log_probs, weights):
    """Σ log Σ_d w_d p_d, shifted by rows."""
    top = log_probs.max(1, keepdims=True)
    return float((np.log(np.exp(log_probs - top) @ weights) + top[:, 0]).sum())


@pytest.mark.parametrize(("size", "n_groups"), [(1, 3), (40, 2), (300, 5), (3000, 9), (20, 30)])
def test_conditions_of_the_maximum(rng, size, n_groups):
    weights = rng.dirichlet(np.full(n_groups, 0.5))
    log_probs = responses(rng, weights, size)
    found = jg.policies.estimate_mixture(log_probs)
    w = np.asarray(found.weights)
    assert abs(w.sum() - 1) < 1e-14 and (w >= 0).all()
    slope = (np.exp(log_probs) / (np.exp(log_probs) @ w)[:, None]).mean(0)
    assert np.abs(slope[w > 0] - 1).max() < 1e-11
    assert (slope[w == 0] < 1 + 1e-11).all()
    assert abs(float(found.log_likelihood) - log_likelihood(log_probs, w)) < 1e-9 * size


def test_agrees_with_scipy(rng):
    log_probs = responses(rng, np.array([0.5, 0.3, 0.0, 0.2]), 200)
    other = scipy.optimize.minimize(
        lambda w: -log_likelihood(log_probs, w),
        np.full(4, 0.25),
        method="SLSQP",
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    found = jg.policies.estimate_mixture(log_probs)
    assert np.abs(np.asarray(found.weights) - other.x).max() < 1e-5
    assert float(found.log_likelihood) >= -other.fun - 1e-9


def test_a_response_that_one_group_alone_gives(n=3000, n_groups=5):
    """A step that leaves out the group on the way would be the last: a slope of 1e18 says nothing of where to go."""
    rng = np.random.default_rng(113)
    answers = np.exp(np.cumsum(0.35 * rng.normal(size=(n_groups, 10, 3)), 0))  # neighbours say nearly the same
    answers /= answers.sum(-1, keepdims=True)
    group = rng.choice(n_groups, size=n, p=[0.02, 0.05, 0.1, 0.7, 0.13])
    said = (rng.random((n, 10, 1)) > np.cumsum(answers[group], -1)).sum(-1)
    log_probs = np.log(answers)[:, np.arange(10), said].sum(-1).T
    rng.integers(n)
    log_probs[np.flatnonzero(group == 0)[0], 1:] -= 50
    found = jg.policies.estimate_mixture(log_probs)
    assert float(found.optimality) <= 1e-12
    likelihood, weights = np.exp(log_probs - log_probs.max(1, keepdims=True)), np.full(n_groups, 1 / n_groups)
    for _ in range(5000):  # EM, slow and sure
        weights = weights * (likelihood / (likelihood @ weights)[:, None]).mean(0)
    np.testing.assert_allclose(found.weights, weights, atol=1e-4)
    assert abs(float(found.weights[0]) - 0.02) <= 3 * float(found.standard_errors[0])


def test_standard_errors_are_those_of_the_information(rng):
    log_probs = responses(rng, np.array([0.4, 0.35, 0.25]), 2000)
    found = jg.policies.estimate_mixture(log_probs)
    w = np.asarray(found.weights)
    # The Hessian in (w_0, w_1) by differences, w_2 being what is left.
    h = 1e-4

    def at(a, b):
        return log_likelihood(log_probs, w + np.array([a, b, -a - b]))

    hessian = np.array(
        [
            [at(h, 0) - 2 * at(0, 0) + at(-h, 0), (at(h, h) - at(h, -h) - at(-h, h) + at(-h, -h)) / 4],
            [(at(h, h) - at(h, -h) - at(-h, h) + at(-h, -h)) / 4, at(0, h) - 2 * at(0, 0) + at(0, -h)],
        ]
    )
    inverse = np.linalg.inv(-hessian / h**2)
    expected = np.sqrt([inverse[0, 0], inverse[1, 1], inverse.sum()])
    assert np.allclose(found.standard_errors, expected, rtol=1e-4)
    assert np.allclose(np.diag(np.asarray(found.covariance)), expected**2, rtol=2e-4)
    assert np.allclose(np.asarray(found.covariance).sum(1), 0, atol=1e-12)


def test_interval_of_two_groups(rng):
    """With two groups the profile likelihood is the likelihood: its ends by scipy."""
    log_probs = responses(rng, np.array([0.9, 0.1]), 300)
    found = jg.policies.estimate_mixture(log_probs)
    w = float(found.weights[0])

    def short(x):
        return log_likelihood(log_probs, np.array([x, 1 - x])) - float(found.log_likelihood) + 1.959964**2 / 2

    wanted = scipy.optimize.brentq(short, 0.01, w, full_output=False)
    assert isinstance(wanted, float)
    assert abs(float(found.lower[0]) - wanted) < 1e-3 * float(found.standard_errors[0])
    assert abs(float(found.upper[1]) + float(found.lower[0]) - 1) < 2e-3 * float(found.standard_errors[0])


def test_limit_of_an_excluded_group():
    """Group 1 says only "b", and "b" is never heard: N responses of probability (1 − w) each."""
    n = 50
    found = jg.policies.estimate_mixture(np.tile([[0.0, -np.inf]], (n, 1)))
    assert np.asarray(found.weights).tolist() == [1.0, 0.0]
    limit = 1 - np.exp(-(1.959964**2) / (2 * n))
    assert abs(float(found.upper[1]) - limit) < 1e-4
    assert abs(float(found.standard_errors[1]) - limit / 1.959964) < 1e-4
    assert "Group 1: excluded" in found.message


@pytest.mark.parametrize("weights", [(0.5, 0.3, 0.15, 0.05), (0.7, 0.3, 0.0, 0.0), (0.45, 0.45, 0.09, 0.01)])
def test_calibrated_on_planted_mixtures(rng, weights):
    """Over many samples: errors are as large as reported, intervals hold, and no estimate is 3.5 errors off."""
    weights = np.asarray(weights)
    tables = rng.dirichlet(np.full(25, 0.5), size=len(weights))
    score, inside = [], []
    for _ in range(150):
        drawn = rng.choice(25, p=weights @ tables, size=400)
        found = jg.policies.estimate_mixture(np.log(tables[:, drawn].T))
        score.append((np.asarray(found.weights) - weights) / np.asarray(found.standard_errors))
        inside.append((np.asarray(found.lower) <= weights + 1e-12) & (weights <= np.asarray(found.upper) + 1e-12))
    score, inside = np.asarray(score), np.asarray(inside)
    large = weights > 0.04
    assert 0.8 < score[:, large].std() < 1.12
    assert abs(score[:, large].mean()) < 0.2
    assert (inside.mean(0) > 0.9).all()
    assert inside.mean() > 0.93
    assert (np.abs(score) < 3.5).mean() > 0.995


def test_groups_that_cannot_be_told_apart(rng):
    log_probs = responses(rng, np.array([0.6, 0.4]), 500)[:, [0, 1, 1]]
    found = jg.policies.estimate_mixture(log_probs, groups=["left", "right", "twin"])
    assert np.asarray(found.identified).tolist() == [True, False, False]
    assert np.isnan(np.asarray(found.standard_errors)).tolist() == [False, True, True]
    assert found.directions.shape == (1, 3)
    assert "cannot tell" in found.message and "right" in found.message and "twin" in found.message
    alone = jg.policies.estimate_mixture(log_probs[:, :2])
    assert abs(float(found.weights[0] - alone.weights[0])) < 1e-9
    # How the rest is split is anybody's guess, and the intervals say so.
    assert float(found.lower[1]) == 0 and float(found.upper[1]) > float(alone.weights[1])


def test_few_responses_identify_little(rng):
    found = jg.policies.estimate_mixture(responses(rng, np.array([0.5, 0.5]), 3, concentration=200.0))
    assert not np.asarray(found.identified).any()


def test_scale_and_impossible_responses(rng):
    log_probs = responses(rng, np.array([0.5, 0.3, 0.2]), 200)
    shifted = log_probs + rng.normal(size=(200, 1)) * 3000
    a, b = (np.asarray(jg.policies.estimate_mixture(x).weights) for x in (log_probs, shifted))
    assert np.abs(a - b).max() < 1e-8  # what rounding of the shifted numbers leaves
    log_probs[:5] = [[-4000.0, -9000.0, -np.inf]]
    found = jg.policies.estimate_mixture(log_probs)
    assert np.isfinite(found.weights).all() and float(found.weights[0]) > 5 / 200


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (np.zeros((0, 3)), "shape"),
        (np.zeros(3), "shape"),
        (np.array([[0.0, np.nan]]), r"\[0, 1\] is nan"),
        (np.array([[0.0, 1.0], [np.inf, 0.0]]), r"\[1, 0\] is inf"),
        (np.array([[0.0, 1.0], [-np.inf, -np.inf]]), r"\[1\] is −inf for every group"),
        ([["a", "b"]], "numbers"),
    ],
)
def test_bad_input(bad, says):
    with pytest.raises(ValueError, match=says):
        jg.policies.estimate_mixture(bad)
    with pytest.raises(ValueError, match="groups has 1 names"):
        jg.policies.estimate_mixture(np.zeros((2, 3)), groups=["one"])


@pytest.mark.float32
def test_precision_follows_the_input(rng):
    log_probs = responses(rng, np.array([0.5, 0.3, 0.2]), 500)
    found = jg.policies.estimate_mixture(jnp.asarray(log_probs, "float32"))
    assert found.weights.dtype == found.standard_errors.dtype == found.upper.dtype == jnp.float32
    exact = jg.policies.estimate_mixture(log_probs)
    assert np.abs(np.asarray(found.weights) - np.asarray(exact.weights)).max() < 1e-5
