"""Rows that stand for several identical agents: the same equilibrium as the game with a row each."""

from typing import Any

import jax
import numpy as np
import pytest

import jaxgame as jg

COPIES = np.array([3, 1, 7, 2])


def expanded(x):
    return np.repeat(np.asarray(x), COPIES, 0)


def together(reach):
    """What a row's agents have together, of what each of them has."""
    return np.add.reduceat(reach, np.r_[0, np.cumsum(COPIES)[:-1]])


def games(rng, dtype: Any = np.float64):
    """Name, game with multiplicity, the same with a row each."""
    n, n_groups = len(COPIES), 5
    linear, h = rng.normal(size=(n, n_groups)), rng.uniform(0.5, 1.5, n)
    B = rng.normal(size=(n_groups, n_groups)) / 3
    B = B @ B.T + (B - B.T) / 2
    each = rng.uniform(0.5, 1.5, n) / (COPIES @ np.ones(n))
    each = each / (COPIES @ each)
    copies = COPIES.astype(dtype)

    def cast(tree):
        return jax.tree.map(lambda x: np.asarray(x, dtype), tree)

    meetings = {
        "nash": dict(),
        "wardrop": dict(atomic=False),
        "others": dict(include_self=False),
    }
    for name, options in meetings.items():
        for reach in (None, each):
            some, all = (
                dict(options) if reach is None else options | dict(reach=cast(x))
                for x in (COPIES * each, expanded(each))
            )
            few = jg.MeanField(cast(B), sensitivity=cast(1.3), multiplicity=copies, **some)
            many = jg.MeanField(cast(B), sensitivity=cast(1.3), **all)
            yield (
                f"{name} {'uniform' if reach is None else 'reach'}",
                jg.QuadraticGame(*cast((linear, h)), coupling=few),
                jg.QuadraticGame(*cast((expanded(linear), expanded(h))), coupling=many),
            )
    targets, appeal = rng.dirichlet(np.ones(n_groups), n), rng.normal(size=(n, n_groups))
    kernel = np.exp(-0.3 * np.abs(np.arange(n_groups)[:, None] - np.arange(n_groups)))
    for form in ("pairwise", "centroid"):
        for metric in ("response", "mixture"):
            options = dict(diversity_form=form, consistency_metric=metric)
            levels = dict(attractiveness=cast(0.3), consistency=cast(h), diversity=cast(0.3))
            yield (
                f"{form} {metric}",
                jg.AlignmentGame(*cast((targets, kernel, appeal)), **levels, **options, multiplicity=copies),
                jg.AlignmentGame(
                    *cast((expanded(targets), kernel, expanded(appeal))),
                    **(levels | dict(consistency=cast(expanded(h)))),
                    **options,
                ),
            )


NAMES = [name for name, *_ in games(np.random.default_rng(0))]


def pair(chosen, rng):
    return next((few, many) for name, few, many in games(rng) if name == chosen)


@pytest.mark.parametrize("name", NAMES)
def test_rows_with_copies_play_as_all_their_agents_do(name, rng):
    few, many = pair(name, rng)
    profile = rng.dirichlet(np.ones(few.n_groups), few.n_agents)
    for name in ("utilities", "marginals"):
        found, wanted = getattr(few, name)(profile), getattr(many, name)(expanded(profile))
        np.testing.assert_allclose(expanded(found), wanted, atol=1e-13)
    found, wanted = jg.solve(few), jg.solve(many)
    assert found.converged and wanted.converged
    np.testing.assert_allclose(expanded(found.profile), wanted.profile, atol=1e-10)
    np.testing.assert_allclose(found.representation, wanted.representation, atol=1e-10)
    judged, all = jg.certify(few, profile), jg.certify(many, expanded(profile))
    np.testing.assert_allclose(expanded(judged.exploitability), all.exploitability, atol=1e-9)
    np.testing.assert_allclose(expanded(judged.gap), all.gap, atol=1e-12)
    assert judged.concave == all.concave
    assert judged.unique and all.unique


@pytest.mark.parametrize("name", ["nash reach", "pairwise response"])
def test_derivative_of_rows_with_copies(name, rng):
    few, _ = pair(name, rng)
    levers = "appeal" if isinstance(few, jg.AlignmentGame) else "linear"
    direction, cost = rng.normal(size=(few.n_agents, few.n_groups)), rng.normal(size=few.n_groups)

    def shown(x):
        return jg.solve(few.replace(**{levers: x})).representation @ cost

    start, step = getattr(few, levers), 1e-5
    slope = (jax.grad(shown)(start) * direction).sum()
    ends = [float(shown(start + s * direction)) for s in (-step, step)]
    np.testing.assert_allclose(slope, (ends[1] - ends[0]) / (2 * step), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["others reach", "centroid mixture"])
def test_prices_are_those_of_the_agents(name, rng):
    few, many = pair(name, rng)
    start = jg.solve(few)
    floor = np.minimum(np.asarray(start.representation) + 0.03, 0.9 / few.n_groups)
    found, wanted = (jg.solve(game, bounds=jg.Bounds(lower=floor)) for game in (few, many))
    assert found.converged and wanted.converged and float(wanted.prices.max()) > 1e-3
    np.testing.assert_allclose(found.representation, wanted.representation, atol=1e-8)
    np.testing.assert_allclose(found.prices, wanted.prices, rtol=1e-6, atol=1e-7)


def test_a_million_copies_are_one_row():
    targets = np.array([[0.6, 0.4], [0.1, 0.9]])
    game = jg.AlignmentGame(targets, np.eye(2), np.zeros(2), diversity=0.2, multiplicity=np.array([1e6, 3e6]))
    # Two groups, K = I: all that is not closed form is the mean of so many others (theory §3).
    found = jg.solve(game)
    mean = np.asarray(game.multiplicity) @ np.asarray(found.profile) / 4e6
    others = (4e6 * mean - np.asarray(found.profile)) / (4e6 - 1)
    wanted = targets + 0.1 * (1 - 2 * others - (1 - 2 * others).mean(1, keepdims=True))
    np.testing.assert_allclose(found.profile, wanted, atol=1e-12)
    np.testing.assert_allclose(found.representation, mean, atol=1e-12)


@pytest.mark.float32
def test_copies_in_single_precision():
    for name, few, many in games(np.random.default_rng(1), np.float32):
        found, wanted = jg.solve(few), jg.solve(many)
        assert found.profile.dtype == np.float32
        np.testing.assert_allclose(found.representation, wanted.representation, atol=2e-5, err_msg=name)


def test_copies_that_make_no_sense():
    with pytest.raises(ValueError, match=r"multiplicity\[1\] is 0.5, expected a number ≥ 1"):
        jg.MeanField(np.eye(2), multiplicity=np.array([1, 0.5]))
    with pytest.raises(ValueError, match="coupling.multiplicity has shape"):
        jg.QuadraticGame(np.ones((3, 2)), 1.0, coupling=jg.MeanField(np.eye(2), multiplicity=np.ones(2)))
    network = jg.Network(np.array([[0, 1.0], [1, 0]]))
    with pytest.raises(ValueError, match="multiplicity is set, expected None for agents on a network"):
        jg.AlignmentGame(np.full((2, 2), 0.5), np.eye(2), np.zeros(2), coupling=network, multiplicity=np.ones(2))
