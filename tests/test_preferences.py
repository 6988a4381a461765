"""Preferences drawn from the mixture's reward: their law, and what DPO makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from jaxgame.policies.mixing import mixture_reward
from jaxgame.policies.preferences import prefer


def test_the_optimum_of_dpo_is_the_mixture(rng):
    """The DPO loss over all pairs, with preferences at their probabilities, is least at π_w, by scipy."""
    groups, reference, weights, beta = rng.dirichlet(np.ones(5), 3), rng.dirichlet(np.ones(5)), [0.2, 0.5, 0.3], 0.4
    reward = np.asarray(mixture_reward(np.log(groups.T), np.log(reference), weights, beta=beta))
    chance = 1 / (1 + np.exp(reward[None] - reward[:, None]))  # (y, y′): y preferred
    pairs = reference[:, None] * reference[None]

    def loss(logits):
        margin = beta * (logits - np.log(reference))
        return (pairs * chance * np.log1p(np.exp(margin[None] - margin[:, None]))).sum()

    found = minimize(loss, np.zeros(5), tol=1e-14).x
    np.testing.assert_allclose(np.exp(found) / np.exp(found).sum(), weights @ groups, atol=1e-4)


def test_how_often_the_first_is_preferred():
    rewards = np.tile([[0.3, -0.9], [2.0, 2.5]], (20_000, 1))
    first = np.asarray(prefer(rewards, jax.random.key(0)))
    np.testing.assert_allclose([first[::2].mean(), first[1::2].mean()], 1 / (1 + np.exp([-1.2, 0.5])), atol=0.015)
    with pytest.raises(ValueError, match=r"rewards\[1, 0\] is nan"):
        prefer(jnp.asarray([[0.0, 1.0], [np.nan, 0.0]]), jax.random.key(0))
