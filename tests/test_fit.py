"""The inverse game: planted parameters, closed-form errors, what is not identified, and equilibrium rejected."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxgame as jg

N, D = 6, 4
_RANDOM = np.random.default_rng(5)
_FEATURES = _RANDOM.normal(size=(D, D))
KERNEL = _FEATURES @ _FEATURES.T / D + 0.2 * np.eye(D)
TARGETS = _RANDOM.dirichlet(np.ones(D) * 5, size=N)
APPEAL = _RANDOM.normal(size=(N, D))
PLANTED = {"attractiveness": 0.1, "diversity": 0.3}


def weights(theta):
    return jg.AlignmentGame(TARGETS, KERNEL, APPEAL, **theta)


def scalar(theta):
    return jg.AlignmentGame(TARGETS, KERNEL, APPEAL, attractiveness=theta, diversity=0.3)


def appeals(theta):
    return jg.AlignmentGame(TARGETS, KERNEL, theta, attractiveness=0.1, diversity=0.2)


def in_settings(theta, setting):
    return jg.AlignmentGame(
        TARGETS, KERNEL, APPEAL, attractiveness=theta["attractiveness"] * setting, diversity=theta["diversity"]
    )


def noisy(mixtures, seed, size=0.01):
    return np.asarray(mixtures) + size * np.random.default_rng(seed).normal(size=np.shape(mixtures))


def scores(build, planted, start, count, **options):
    """(estimate − truth) / standard error over noisy copies, (count, p)."""
    mixtures = options.pop("mixtures", None)
    mixtures = jg.solve(build(planted)).profile if mixtures is None else mixtures
    out = []
    for seed in range(count):
        found = jg.fit(build, start, noisy(mixtures, seed), **options)
        pairs = zip(*(jax.tree.leaves(x) for x in (found.theta, planted, found.standard_errors)), strict=True)
        out.append(np.concatenate([np.ravel((a - b) / c) for a, b, c in pairs]))
    return np.asarray(out)


def test_exact_mixtures_give_the_parameter_back():
    observed = jg.solve(scalar(0.1)).profile
    found = jg.fit(scalar, jnp.asarray(0.5), observed)
    assert np.shape(found.theta) == np.shape(found.standard_errors) == np.shape(found.identified) == ()
    assert abs(float(found.theta) - 0.1) < 1e-9
    assert bool(found.identified) and float(found.standard_errors) < 1e-9
    assert np.abs(np.asarray(found.predicted) - np.asarray(observed)).max() < 1e-9


def test_standard_error_is_the_closed_form():
    """One interior agent: w = t + (α/γ) c_K(a) (theory §3.1), linear in α, so least squares is a formula."""
    appeal, target = APPEAL[:1] * 0.1, np.full((1, D), 1 / D)

    def alone(alpha):
        return jg.AlignmentGame(target, KERNEL, appeal, attractiveness=alpha)

    basis = np.linalg.svd(np.ones((1, D)))[2][1:].T
    slope = basis @ np.linalg.solve(basis.T @ KERNEL @ basis, basis.T @ appeal[0])
    truth = target + 0.2 * slope
    observed = np.stack([noisy(truth, seed, 0.003) for seed in range(5)])
    found = jg.fit(alone, jnp.asarray(0.1), observed)
    left = observed - target
    estimate = (left * slope).sum() / (5 * slope @ slope)
    sigma = np.sqrt(((left - estimate * slope) ** 2).sum() / (5 * D - 1))
    assert np.isclose(float(found.theta), estimate, rtol=1e-7)
    assert np.isclose(float(found.standard_errors), sigma / np.sqrt(5 * slope @ slope), rtol=1e-6)
    assert np.isclose(float(found.noise), sigma, rtol=1e-6)
    # The test of equilibrium is the textbook F test of lack of fit.
    scatter = ((observed - observed.mean(0)) ** 2).sum()
    lack = ((left - estimate * slope) ** 2).sum() - scatter
    expected = scipy.stats.f.sf(lack / (D - 1) / (scatter / (4 * D)), D - 1, 4 * D)
    assert np.isclose(float(found.p_value), expected, rtol=1e-5)


def test_planted_parameters_are_recovered():
    score = scores(weights, PLANTED, {"attractiveness": 0.3, "diversity": 0.1}, 60)
    assert ((np.abs(score) < 2).mean(0) >= 0.87).all()
    assert (0.7 < score.std(0)).all() and (score.std(0) < 1.3).all()


@pytest.mark.slow
def test_planted_parameters_are_recovered_in_a_hundred_runs():
    """Within two standard errors in nine of ten runs: weights, rationality, and appeals from several settings."""
    start = {"attractiveness": 0.3, "diversity": 0.1}
    assert ((np.abs(scores(weights, PLANTED, start, 100)) < 2).mean(0) >= 0.9).all()

    def rational(theta):
        return jg.with_rationality(weights({"attractiveness": theta["a"], "diversity": 0.3}), theta["rationality"])

    score = scores(rational, {"a": 0.2, "rationality": 12.0}, {"a": 0.1, "rationality": 4.0}, 100)
    assert ((np.abs(score) < 2).mean(0) >= 0.9).all()

    def one_appeal(theta, setting):
        # The last group's appeal is the unit of comparison: a common addition has no effect.
        appeal = jnp.concatenate([theta, jnp.zeros(1)])
        return jg.AlignmentGame(TARGETS, KERNEL, appeal, attractiveness=setting)

    settings, planted = jnp.linspace(0.05, 0.3, 4), np.array([0.3, -0.2, 0.4])
    mixtures = jax.vmap(lambda s: jg.solve(one_appeal(planted, s)).profile)(settings)
    score = scores(one_appeal, planted, np.full(3, 0.1), 100, mixtures=mixtures, settings=settings)
    assert ((np.abs(score) < 2).mean(0) >= 0.9).all()


def test_only_ratios_are_identified():
    def free(theta):
        return jg.AlignmentGame(
            TARGETS, KERNEL, APPEAL, attractiveness=theta["alpha"], consistency=theta["gamma"], diversity=theta["delta"]
        )

    planted = {"alpha": 0.1, "gamma": 1.0, "delta": 0.3}
    found = jg.fit(free, {"alpha": 0.3, "gamma": 2.0, "delta": 0.1}, jg.solve(free(planted)).profile)
    theta = {name: float(x) for name, x in found.theta.items()}
    assert abs(theta["alpha"] / theta["gamma"] - 0.1) < 1e-7 and abs(theta["delta"] / theta["gamma"] - 0.3) < 1e-7
    assert not any(bool(x) for x in jax.tree.leaves(found.identified))
    assert all(np.isnan(x) for x in jax.tree.leaves(found.standard_errors))
    assert found.unidentified == (
        "A common factor of alpha, delta and gamma has no effect: only their ratios are identified.",
    )
    assert found.directions.shape == (1, 3)
    held = jg.fit(weights, PLANTED, jg.solve(weights(PLANTED)).profile)
    assert all(bool(x) for x in jax.tree.leaves(held.identified)) and not held.unidentified


def test_appeals_are_identified_up_to_a_constant_and_where_represented():
    interior = 0.05 * APPEAL
    found = jg.fit(appeals, 0.5 * interior, jg.solve(appeals(interior)).profile)
    assert len(found.unidentified) == N
    assert found.unidentified[0].startswith("The same number added to all of theta[0]")
    centred = np.asarray(found.theta) - np.asarray(found.theta).mean(1, keepdims=True)
    assert np.abs(centred - (interior - interior.mean(1, keepdims=True))).max() < 1e-6
    assert not np.asarray(found.identified).any()
    assert "no more observations than parameters" in found.message

    def one_more(theta):
        return jg.AlignmentGame(TARGETS, KERNEL, APPEAL, attractiveness=theta["a"] + 0 * theta["idle"], diversity=0.3)

    idle = jg.fit(one_more, {"a": 0.3, "idle": 1.0}, noisy(jg.solve(scalar(0.1)).profile, 0))
    assert bool(idle.identified["a"]) and not bool(idle.identified["idle"])
    assert np.isfinite(idle.standard_errors["a"]) and np.isnan(idle.standard_errors["idle"])
    assert idle.unidentified == ("idle has no effect.",)


def test_a_start_in_the_desert_finds_the_way():
    """At α = 30 every agent represents one group, and no derivative leads away."""
    desert = jg.solve(scalar(30.0)).profile
    assert (np.asarray(desert) > 0.99).sum() == N
    found = jg.fit(scalar, jnp.asarray(30.0), jg.solve(scalar(0.1)).profile)
    assert abs(float(found.theta) - 0.1) < 1e-7


def test_equilibrium_is_rejected_when_it_is_wrong_and_seldom_otherwise():
    settings = jnp.asarray([0.5, 0.5, 1.0, 1.0, 1.5, 1.5])
    mixtures = np.asarray(jax.vmap(lambda s: jg.solve(in_settings(PLANTED, s)).profile)(settings))
    start = {"attractiveness": 0.2, "diversity": 0.2}
    values = [float(jg.fit(in_settings, start, noisy(mixtures, seed), settings=settings).p_value) for seed in range(40)]
    assert min(values) > 1e-4 and 0.25 < np.mean(values) < 0.75
    elsewhere = mixtures + noisy(np.zeros((1, N, D)), 99, 0.05)
    found = jg.fit(in_settings, start, noisy(elsewhere, 0), settings=settings)
    assert bool(found.rejected) and "rejected" in found.message
    errors = np.full(mixtures.shape, 0.01)
    known = jg.fit(in_settings, start, noisy(mixtures, 1), settings=settings, noise=errors)
    assert not bool(known.rejected) and 1e-3 < float(known.p_value) < 1
    assert bool(jg.fit(in_settings, start, noisy(elsewhere, 1), settings=settings, noise=errors).rejected)
    once = jg.fit(weights, start, noisy(mixtures[2], 0))
    assert np.isnan(once.p_value) and not bool(once.rejected) and "cannot be tested" in once.message


def test_known_noise_weighs_and_missing_shares_are_left_out():
    mixtures = np.asarray(jg.solve(weights(PLANTED)).profile)
    observed, errors = noisy(mixtures, 3), np.full(mixtures.shape, 0.01)
    observed[0], errors[0] = 17.0, np.nan
    found = jg.fit(weights, {"attractiveness": 0.2, "diversity": 0.2}, observed, noise=errors)
    assert abs(float(found.theta["attractiveness"]) - 0.1) < 4 * float(found.standard_errors["attractiveness"])
    doubled = jg.fit(weights, {"attractiveness": 0.2, "diversity": 0.2}, observed, noise=2 * errors)
    ratio = float(doubled.standard_errors["attractiveness"]) / float(found.standard_errors["attractiveness"])
    assert abs(ratio - 2) < 0.05


def test_new_observations_do_not_compile(caplog):
    mixtures = jg.solve(scalar(0.1)).profile
    jg.fit(scalar, jnp.asarray(0.2), noisy(mixtures, 0))
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        jg.fit(scalar, jnp.asarray(0.3), noisy(mixtures, 1))
    assert not [r.getMessage() for r in caplog.records if "Compiling jit(_profiles" in r.getMessage()]


def test_bad_input():
    mixtures = np.asarray(jg.solve(scalar(0.1)).profile)
    with pytest.raises(ValueError, match="theta has no numbers"):
        jg.fit(scalar, {}, mixtures)
    with pytest.raises(ValueError, match="expected floats"):
        jg.fit(scalar, 1, mixtures)
    with pytest.raises(ValueError, match="not finite"):
        jg.fit(scalar, jnp.nan, mixtures)
    with pytest.raises(ValueError, match=r"observed has shape \(24,\)"):
        jg.fit(scalar, 0.1, mixtures.ravel())
    with pytest.raises(ValueError, match=r"expected mixtures of shape \(6, 4\)"):
        jg.fit(scalar, 0.1, mixtures[:, :3])
    with pytest.raises(ValueError, match=r"observed\[0, 1\] is nan"):
        jg.fit(scalar, 0.1, np.where(np.arange(4) == 1, np.nan, mixtures))
    with pytest.raises(ValueError, match="leading axis 2"):
        jg.fit(in_settings, PLANTED, np.stack([mixtures] * 2), settings=jnp.ones(3))
    with pytest.raises(ValueError, match="noise is 'poisson'"):
        jg.fit(scalar, 0.1, mixtures, noise="poisson")
    with pytest.raises(ValueError, match=r"noise\[0, 0\] is 0"):
        jg.fit(scalar, 0.1, mixtures, noise=np.zeros(mixtures.shape))


@pytest.mark.float32
def test_single_precision():
    single = [jnp.asarray(x, "float32") for x in (TARGETS, KERNEL, APPEAL)]

    def build(theta):
        return jg.AlignmentGame(*single, attractiveness=theta, diversity=jnp.float32(0.3))

    observed = jg.solve(build(jnp.float32(0.1))).profile
    found = jg.fit(build, jnp.float32(0.3), observed)
    assert found.theta.dtype == found.standard_errors.dtype == found.predicted.dtype == jnp.float32
    assert abs(float(found.theta) - 0.1) < 1e-4 and bool(found.identified)


def test_a_parameter_that_is_zero_has_an_effect():
    observed = jg.solve(weights({"attractiveness": 0.1, "diversity": 0.0})).profile
    found = jg.fit(weights, {"attractiveness": 0.3, "diversity": 0.2}, observed)
    assert not found.unidentified and all(map(bool, found.identified.values()))
    assert all(np.isfinite(float(error)) for error in found.standard_errors.values())
    assert abs(float(found.theta["diversity"])) < 1e-6


def test_errors_of_shares_that_sum_to_one():
    """Multinomial counts: χ² has a degree of freedom less than shares in each row."""
    planted, count = {"attractiveness": 0.1, "diversity": 0.2}, 2000

    def inside(theta):
        return jg.AlignmentGame((TARGETS + 1 / D) / 2, KERNEL, 0.2 * APPEAL, **theta)

    mixtures = np.asarray(jg.solve(inside(planted)).profile)
    assert mixtures.min() > 0.03
    random, values, z = np.random.default_rng(11), [], []
    for _ in range(40):
        shares = np.stack([random.multinomial(count, row / row.sum()) for row in mixtures]) / count
        errors = np.sqrt(shares * (1 - shares) / count)
        found = jg.fit(inside, planted, shares, noise=errors)
        values.append(float(found.p_value))
        z += [(found.theta[name] - planted[name]) / found.standard_errors[name] for name in planted]
        assert np.isclose(float(found.noise), np.sqrt(np.mean(errors**2)))
    assert 0.35 < np.mean(values) < 0.65 and np.sum(np.less(values, 0.01)) <= 3
    assert 0.75 < np.std(z) < 1.25
