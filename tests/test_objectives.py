"""Objectives of steering: their formulas by hand, their derivatives, and risk over scenarios."""

# Stand-ins for equilibria and problems, and arguments that are wrong on purpose.
# pyright: reportArgumentType=false, reportCallIssue=false

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from scipy.optimize import minimize_scalar

import jaxgame as jg
from jaxgame.steering import objectives, scenarios

SHOWN = np.array([0.45, 0.3, 0.22, 0.03])
SHARES = np.array([0.4, 0.3, 0.2, 0.1])


@struct.dataclass
class Found:
    """As much of a batch of equilibria as a goal may look at here."""

    representation: jax.Array
    converged: jax.Array


def of(objective, shown, dtype=np.float64):
    """An objective of the representation alone."""
    return objective(SimpleNamespace(representation=jnp.asarray(shown, dtype)))


def gini_by_head(shown, people):
    """The Gini coefficient of a population with a share of S_d / people_d for each head of group d."""
    heads = np.repeat(shown / people, people)
    return np.abs(heads[:, None] - heads[None]).mean() / (2 * heads.mean())


BY_HAND = {
    "distance": (objectives.distance(SHARES), 0.5 * (0.05**2 + 0.02**2 + 0.07**2)),
    "shortfall": (objectives.shortfall(0.25), 0.5 * (0.03**2 + 0.22**2)),
    "shortfall, floors": (objectives.shortfall([0.5, 0.1, 0.1, 0.1]), 0.5 * (0.05**2 + 0.07**2)),
    "minimum": (objectives.minimum_representation(), 0.03),
    "minimum, relative": (objectives.minimum_representation(SHARES), 0.3),
    "nash": (objectives.nash_welfare(smoothing=1e-9), np.log(SHOWN).mean()),
    "nash, shares": (objectives.nash_welfare(SHARES, smoothing=0.01), SHARES @ np.log(SHOWN + 0.01)),
    "gini": (objectives.gini(), gini_by_head(SHOWN, np.array([1, 1, 1, 1]))),
    "gini, shares": (objectives.gini(SHARES), gini_by_head(SHOWN, np.array([4, 3, 2, 1]))),
    "coverage": (objectives.coverage(0.25, width=1e-6), 0.5),
    "coverage, soft": (objectives.coverage(0.22, width=0.05), (1 / (1 + np.exp((0.22 - SHOWN) / 0.05))).mean()),
    "minus": (objectives.minus(objectives.minimum_representation()), -0.03),
}


@pytest.mark.float32
@pytest.mark.parametrize("name", BY_HAND)
def test_formulas(name, dtype):
    objective, wanted = BY_HAND[name]
    value = of(objective, SHOWN, dtype)
    assert value.shape == () and value.dtype == dtype
    np.testing.assert_allclose(value, wanted, rtol=1e-4 if dtype == np.float32 else 1e-7)


@pytest.mark.parametrize("name", [name for name in BY_HAND if name != "coverage"])
def test_derivatives(name):
    objective, _ = BY_HAND[name]
    slope = jax.grad(lambda shown: objective(SimpleNamespace(representation=shown)))(jnp.asarray(SHOWN))
    for d, step in enumerate(1e-6 * np.eye(4)):
        central = (of(objective, SHOWN + step) - of(objective, SHOWN - step)) / 2e-6
        np.testing.assert_allclose(slope[d], central, rtol=1e-6, atol=1e-8)


def test_extremes():
    """Proportional representation and one group alone."""
    even, alone = SHARES, np.eye(4)[3]
    assert abs(of(objectives.gini(SHARES), even)) < 1e-15
    np.testing.assert_allclose(of(objectives.gini(SHARES), alone), 1 - 0.1)
    np.testing.assert_allclose(of(objectives.minimum_representation(SHARES), even), 1)
    assert of(objectives.shortfall(SHARES), even) == 0
    assert np.isfinite(of(objectives.nash_welfare(), alone))


def test_an_excluded_group_is_missed_by_every_objective():
    """At S_d = 0 the objectives that are about fairness still have a derivative that asks for group d."""
    shown = np.array([0.5, 0.3, 0.2, 0.0])
    for good in (objectives.nash_welfare(), objectives.minimum_representation(), objectives.coverage(0.02)):
        slope = jax.grad(lambda s, good=good: good(SimpleNamespace(representation=s)))(jnp.asarray(shown))
        assert int(np.argmax(slope)) == 3 and slope[3] > 0
    slope = jax.grad(lambda s: objectives.shortfall(0.05)(SimpleNamespace(representation=s)))(jnp.asarray(shown))
    assert slope[3] < 0 and not slope[:3].any()


def test_welfare_is_the_sum_of_utilities(rng):
    n, D = 3, 4
    linear, mixtures = rng.normal(size=(n, D)), rng.dirichlet(np.ones(D), n)
    game = jg.QuadraticGame(jnp.asarray(linear), 2.0, coupling=jg.MeanField(jnp.zeros((D, D))))
    found = SimpleNamespace(game=game, profile=jnp.asarray(mixtures))
    np.testing.assert_allclose(objectives.welfare(found), (linear * mixtures).sum() - (mixtures**2).sum())
    np.testing.assert_allclose(objectives.minus(objectives.welfare)(found), -objectives.welfare(found))


def test_other_numbers_compile_nothing():
    traces = []

    @jax.jit
    def evaluate(objective, shown):
        traces.append(1)
        return objective(SimpleNamespace(representation=shown))

    for floor in (0.1, 0.2, 0.3):
        evaluate(objectives.minus(objectives.coverage(floor, width=floor)), jnp.asarray(SHOWN))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: objectives.coverage(0.1, width=0), "width"),
        (lambda: objectives.nash_welfare(smoothing=0), "smoothing"),
        (lambda: objectives.gini([0.5, 0.5, 0.0]), "shares[2]"),
        (lambda: objectives.minimum_representation([0.5, 0.6]), "sums to 1.1"),
        (lambda: objectives.distance([0.5, np.nan]), "target[1]"),
        (lambda: objectives.shortfall(np.zeros((2, 2))), "floor"),
        (lambda: of(objectives.distance([0.5, 0.5]), SHOWN), "(2,)"),
    ],
)
def test_bad_input(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert words in str(error.value)


# --- risk -----------------------------------------------------------------------------------------


@pytest.mark.float32
def test_risk_measures(rng, dtype):
    values = rng.normal(size=10).astype(dtype)
    exact = dict(rtol=1e-5 if dtype == np.float32 else 1e-12)
    named = {"mean": values.mean(), "worst": values.max()}
    for name, wanted in named.items():
        np.testing.assert_allclose(scenarios.risk_measure(name)(jnp.asarray(values)), wanted, **exact)
    tail = np.sort(values)[-3:].mean()
    np.testing.assert_allclose(scenarios.risk_measure(("cvar", 0.7))(jnp.asarray(values)), tail, **exact)


@pytest.mark.parametrize("level", [0.0, 0.33, 0.5, 0.87, 0.95])
def test_cvar_is_the_minimum_of_rockafellar_and_uryasev(rng, level):
    """The minimum over t is at one of the values, or wherever scipy finds it."""
    values = rng.normal(size=7)

    def auxiliary(t):
        return t + np.maximum(values - t, 0).mean() / (1 - level)

    wanted = min(auxiliary(t) for t in values)
    searched = minimize_scalar(auxiliary, bounds=(values.min() - 1, values.max() + 1), method="bounded").fun
    found = scenarios.CVaR(level)(jnp.asarray(values))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert found <= searched + 1e-9


def test_cvar_has_a_derivative(rng):
    values = jnp.asarray(rng.normal(size=6))
    slope = jax.grad(scenarios.CVaR(0.75))(values)
    order = np.argsort(-np.asarray(values))
    np.testing.assert_allclose(np.asarray(slope)[order], [1 / 1.5, 0.5 / 1.5, 0, 0, 0, 0], atol=1e-12)


@pytest.mark.parametrize("risk", ["median", ("cvar", 1.2), ("cvar", -0.1), ("var", 0.9), 0.9, None])
def test_unknown_risk(risk):
    with pytest.raises(ValueError, match="risk|CVaR"):
        scenarios.risk_measure(risk)


def test_robustness_counts():
    """Against the posterior of a share under a uniform prior; a scenario without an equilibrium is a miss."""
    shown = jnp.asarray([[0.2, 0.8], [0.05, 0.95], [0.3, 0.7], [0.4, 0.6]])
    found = Found(shown, jnp.asarray([True, True, True, False]))
    counted = scenarios.robustness(lambda e: e.representation.min() >= 0.1, found)
    assert counted.fraction == 0.5 and counted.scenarios == 4 and counted.unconverged == 1
    grid = np.linspace(0, 1, 200_001)
    density = grid**2 * (1 - grid) ** 2
    density /= density.sum()
    mean = density @ grid
    np.testing.assert_allclose(counted.standard_error, np.sqrt(density @ (grid - mean) ** 2), rtol=1e-6)


def test_the_goal_must_be_one_truth_value():
    with pytest.raises(ValueError, match="goal"):
        scenarios.met(lambda e: jnp.asarray([True, False]), SimpleNamespace())


def test_scenarios_must_fit():
    for bad in ({}, {"a": jnp.zeros(3), "b": jnp.zeros(4)}, jnp.zeros(()), jnp.zeros((0, 2))):
        with pytest.raises(ValueError, match="scenarios"):
            scenarios.scenario_count("scenarios", bad)
    for scenario, fresh in itertools.product([jnp.zeros((3, 2))], [jnp.zeros((3, 4)), {"a": jnp.zeros((3, 2))}]):
        with pytest.raises(ValueError, match="fresh"):
            scenarios.same_kind(scenario, fresh)
    scenarios.same_kind(jnp.zeros((3, 2)), jnp.zeros((30, 2)))
