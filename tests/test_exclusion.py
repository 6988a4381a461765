"""Who is excluded, when, and what inclusion costs: against enumeration of supports, survey numbers, n-agent solves."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgame as jg
from jaxgame import exclusion

INF = np.inf


def effective(spec):
    """(H, l0, p): the symmetric equilibrium of theory §3.1 minimises ½ wᵀHw − (l0 + α p)ᵀw on the simplex."""
    K, t, D = spec.kernel, spec.targets[0], spec.shape[1]
    Q = K if spec.consistency_metric == "response" else np.eye(D)
    H, linear = spec.consistency * Q, spec.consistency * Q @ t
    if spec.diversity_form == "pairwise":
        v = np.diag(K) if spec.spread is None else spec.spread
        H, linear = H + spec.diversity * K, linear + spec.diversity * v / 2
    return H, linear, np.broadcast_to(spec.appeal, spec.shape)[0]


def first_zeros(H, linear, appeal, tolerance=1e-10):
    """The first α ≥ 0 with w_d = 0: every support is optimal on one interval of α, found by its signs (tiny D only)."""
    D = len(appeal)
    first = np.full(D, INF)
    for size in range(1, D + 1):
        for support in itertools.combinations(range(D), size):
            on = np.isin(np.arange(D), support)
            A = list(support)
            system = np.block([[H[np.ix_(A, A)], np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]])
            at, slope = (np.linalg.solve(system, np.r_[x[A], total]) for x, total in ((linear, 1.0), (appeal, 0.0)))
            w, dw = np.zeros(D), np.zeros(D)
            w[A], dw[A] = at[:-1], slope[:-1]
            value = np.where(on, w, H @ w + at[-1] - linear)
            pace = np.where(on, dw, H @ dw + slope[-1] - appeal)
            still = np.abs(pace) <= tolerance * max(1.0, np.abs(pace).max())
            low = max([0.0, *(-value[~still & (pace > 0)] / pace[~still & (pace > 0)])])
            high = min([INF, *(-value[~still & (pace < 0)] / pace[~still & (pace < 0)])])
            if (value[still] < -tolerance).any() or low > high + 1e-9 * max(1.0, low):
                continue
            for d in range(D):
                if not on[d] or abs(w[d] + low * dw[d]) <= tolerance:
                    first[d] = min(first[d], low)
                elif not still[d] and dw[d] < 0 and -w[d] / dw[d] <= high * (1 + 1e-12) + 1e-12:
                    first[d] = min(first[d], -w[d] / dw[d])
    return first


def symmetric(kernel, target, appeal, n=3, **options):
    """A specification with all agents alike."""
    return ref.Alignment(np.tile(target, (n, 1)), np.asarray(kernel), np.asarray(appeal), **options)


def random_symmetric(rng, D, form, metric, delta, degenerate):
    K = ref.random_kernel(rng, D, 0.05)
    target, appeal = rng.dirichlet(np.ones(D)), rng.normal(size=D)
    if degenerate:  # ties: in appeals, in targets at zero, in the kernel
        appeal, target = np.round(appeal), rng.multinomial(4, np.ones(D) / D) / 4
        K = np.round(2 * K) @ np.round(2 * K) + np.eye(D)
    gamma = rng.uniform(0.3, 2.0)
    largest = np.linalg.eigvalsh(K)[-1]
    if form == "centroid":  # concave utilities
        delta = min(delta, 0.9 / (1 if metric == "response" else largest))
    else:  # a strictly concave common problem
        delta = max(delta, -0.9 / (1 if metric == "response" else largest))
    spread = np.diag(K) + rng.uniform(0, 1, D)
    options: dict[str, Any] = dict(diversity_form=form, consistency_metric=metric, spread=spread)
    return symmetric(K, target, appeal, consistency=gamma, diversity=delta * gamma, **options)


# --- critical ratios ------------------------------------------------------------------------------------------------
SURVEY = {  # published with the data: true ratios, and what the interior formula extrapolates
    (0.5, "mixture"): [0.4747, 1.3125, 13.230, INF, 12.487, 1.6379, 0.3331],
    (0.5, "response"): [0.1488, 0.4246, 0.7606, INF, 1.1373, 0.6208, 0.1002],
    (0.0, "mixture"): [0.4568, 1.3015, 12.961, INF, 12.781, 1.6407, 0.3364],
    (0.0, "response"): [0.1434, 0.4346, 0.7604, INF, 1.1247, 0.6324, 0.1004],
}
EXTRAPOLATED = {
    "mixture": [0.480, 2.016, INF, INF, INF, 2.944, 0.336],
    "response": [0.1433, 19.2, INF, INF, INF, INF, 0.1004],
}


@pytest.mark.parametrize(("prior", "metric"), SURVEY)
def test_ratios_of_the_ideology_survey(prior, metric):
    game = jg.surveys.load("gss2018-ideology", prior=prior).game(5, consistency_metric=metric)
    wanted = np.array(SURVEY[prior, metric])
    np.testing.assert_allclose(jg.critical_ratios(game), wanted, rtol=5e-4)
    spec = symmetric(np.asarray(game.kernel), np.asarray(game.targets[0]), np.asarray(game.appeal[0]))
    exact = first_zeros(*effective(spec.replace(consistency_metric=metric)))
    np.testing.assert_allclose(jg.critical_ratios(game), exact, rtol=1e-9)


@pytest.mark.parametrize("metric", EXTRAPOLATED)
def test_interior_formula_of_the_ideology_survey(metric):
    game = jg.surveys.load("gss2018-ideology", prior=0.0).game(5, consistency_metric=metric)
    found = np.asarray(jg.critical_ratios(game, interior=True))
    np.testing.assert_allclose(found, EXTRAPOLATED[metric], rtol=2e-3)
    # Only the smallest is an event of the game.
    exact = np.asarray(jg.critical_ratios(game))
    assert found.argmin() == exact.argmin()
    np.testing.assert_allclose(found.min(), exact.min(), rtol=1e-10)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    D=st.integers(2, 4),
    form=st.sampled_from(["pairwise", "centroid"]),
    metric=st.sampled_from(["response", "mixture"]),
    delta=st.floats(-0.8, 2.0).filter(lambda delta: delta == 0 or abs(delta) > 1e-6),  # smaller ones are rounding
    degenerate=st.booleans(),
)
def test_ratios_against_enumeration_of_supports(seed, D, form, metric, delta, degenerate):
    spec = random_symmetric(np.random.default_rng(seed), D, form, metric, delta, degenerate)
    wanted = first_zeros(*effective(spec)) / spec.consistency
    np.testing.assert_allclose(jg.critical_ratios(zoo.to_game(spec)), wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("form", ["pairwise", "centroid"])
@pytest.mark.parametrize("metric", ["response", "mixture"])
def test_interior_formula_against_numpy(rng, form, metric):
    spec = random_symmetric(rng, 4, form, metric, 0.4, False)
    H, linear, appeal = effective(spec)
    uniform = np.full(4, 0.25)
    start = uniform + ref.on_tangent(H, linear - H @ uniform)
    slope = ref.on_tangent(H, appeal)
    wanted = np.where(slope < 0, np.maximum(start, 0) / np.where(slope < 0, -slope, 1), INF) / spec.consistency
    np.testing.assert_allclose(jg.critical_ratios(zoo.to_game(spec), interior=True), wanted, rtol=1e-9)
    if form == "centroid":  # ρ_d = t_d / (−c_K(a)_d), K = Q
        Q = spec.kernel if metric == "response" else np.eye(4)
        c = ref.on_tangent(Q, appeal)
        np.testing.assert_allclose(wanted, np.where(c < 0, -spec.targets[0] / c, INF), rtol=1e-9)


@pytest.mark.parametrize(
    ("form", "metric", "delta"),
    [
        ("pairwise", "response", 0.5),
        ("pairwise", "mixture", -0.05),
        ("centroid", "response", 0.5),
        ("centroid", "mixture", 0.2),
    ],
)
def test_ratios_in_the_game_of_n_agents(rng, form, metric, delta):
    """Every group has a share at every α below its ratio and none just above; the solver knows nothing of the path."""
    spec = random_symmetric(rng, 4, form, metric, delta, False).replace(targets=np.tile([0.3, 0.2, 0.1, 0.4], (4, 1)))
    game = zoo.to_game(spec)
    ratios = np.asarray(jg.critical_ratios(game))
    events = ratios[np.isfinite(ratios) & (ratios > 0)]
    assert events.size >= 2
    grid = np.concatenate([np.linspace(0, 1.5 * events.max(), 200), events * (1 - 1e-6), events * (1 + 1e-6)])
    alphas = jnp.asarray(spec.consistency * grid)
    found = jax.vmap(lambda alpha: jg.solve(game.replace(attractiveness=alpha)))(alphas)
    assert found.converged.all()
    shares = np.asarray(found.profile)
    for d, ratio in enumerate(ratios):
        assert (shares[grid < ratio, :, d] > 0).all()
        just_after = np.isclose(grid, ratio * (1 + 1e-6), rtol=1e-9)
        assert (shares[just_after, :, d] <= 1e-12).all()
        assert np.isinf(ratio) or ratio == 0 or just_after.any()


def test_a_group_that_leaves_first_and_ends_up_alone():
    """Between two similar groups nearly as attractive, the most attractive group leaves first, and re-enters."""
    K = np.array([[1, 0.7, 0.2, 0], [0.7, 1, 0.7, 0], [0.2, 0.7, 1, 0], [0, 0, 0, 1]])
    spec = symmetric(K, np.array([0.3, 0.05, 0.3, 0.35]), np.array([0.96, 1, 0.96, 0]))
    game = zoo.to_game(spec)
    np.testing.assert_allclose(jg.critical_ratios(game), [5.625, 0.484375, 5.625, 0.578125], rtol=1e-12)
    shares = {
        alpha: np.asarray(jg.solve(game.replace(attractiveness=alpha)).profile[0]) for alpha in (0.4844, 3.0, 9.0)
    }
    assert shares[0.4844][1] == 0 and shares[3.0][1] > 0.4
    np.testing.assert_allclose(shares[9.0], [0, 1, 0, 0], atol=1e-12)


def test_two_groups_at_zero_at_once_and_only_one_of_them_leaves():
    K = np.array([[0.4, -0.1, 0.2, -0.3], [-0.1, 1.9, -0.9, 1.4], [0.2, -0.9, 2.4, -0.9], [-0.3, 1.4, -0.9, 1.9]])
    appeal = np.array([-1.0, -1.9, -0.9, 1.2])
    velocity = ref.on_tangent(K, appeal)
    target = np.array([0.4, -0.1 * velocity[1], -0.1 * velocity[2], 0.0])  # groups 1 and 2 reach zero at α = 0.1
    target[3] = 1 - target.sum()
    game = zoo.to_game(symmetric(K, target, appeal))
    ratios = np.asarray(jg.critical_ratios(game))
    np.testing.assert_allclose(ratios[1:3], 0.1, rtol=1e-10)
    after = np.asarray(jg.solve(game.replace(attractiveness=0.11)).profile[0])
    assert after[1] == 0 and after[2] > 1e-3
    np.testing.assert_allclose(ratios, first_zeros(*effective(symmetric(K, target, appeal))), rtol=1e-9)


@pytest.mark.parametrize("metric", ["response", "mixture"])
def test_exchangeable_groups_leave_together(metric):
    K = 0.7 * np.eye(5) + 0.3
    spec = symmetric(K, np.full(5, 0.2), np.array([1.0, 0, 0, 0, 1.0]), consistency_metric=metric)
    weight = 0.7 if metric == "response" else 1.0  # 0.2 + (α/weight)(0 − 0.4) = 0
    np.testing.assert_allclose(jg.critical_ratios(zoo.to_game(spec)), [INF, *3 * [weight / 2], INF], rtol=1e-12)


def test_untargeted_groups_are_out_from_the_start_even_where_they_enter_later():
    K = np.eye(3)
    spec = symmetric(K, np.array([0.6, 0.4, 0.0]), np.array([0.0, 0.1, 1.0]))
    ratios = np.asarray(jg.critical_ratios(zoo.to_game(spec)))
    assert ratios[2] == 0 and (ratios[:2] > 0).all()
    assert float(jg.solve(zoo.to_game(spec.replace(attractiveness=0.5))).profile[0, 2]) > 0.1


@pytest.mark.parametrize("appeal", [np.zeros(4), np.full(4, 1e3), np.full(4, 0.1 + 0.2)])
def test_equal_appeals_exclude_no_one(rng, appeal):
    spec = symmetric(ref.random_kernel(rng, 4), rng.dirichlet(np.ones(4) * 5), appeal)
    assert np.isinf(jg.critical_ratios(zoo.to_game(spec))).all()
    assert np.isinf(jg.critical_ratios(zoo.to_game(spec), interior=True)).all()


def test_one_group_is_never_excluded():
    game = jg.AlignmentGame(np.ones((3, 1)), np.eye(1), np.ones(1))
    assert np.isinf(jg.critical_ratios(game)).all()


def test_invariances(rng):
    """Units of utility and of appeal, a common appeal, the order of groups, α itself, n, reach, and how agents meet."""
    spec = random_symmetric(rng, 4, "pairwise", "mixture", 0.6, False)
    game = zoo.to_game(spec)
    ratios = np.asarray(jg.critical_ratios(game))
    assert np.isfinite(ratios).sum() >= 2

    def same(changed, factor=1.0, rtol=1e-9):
        np.testing.assert_allclose(jg.critical_ratios(zoo.to_game(changed)), factor * ratios, rtol=rtol)

    same(spec.replace(attractiveness=17.0))
    same(spec.replace(attractiveness=np.zeros(3)))
    same(spec.replace(consistency=1e-6 * spec.consistency, diversity=1e-6 * spec.diversity))
    same(spec.replace(appeal=1e8 * spec.appeal), 1e-8)
    same(spec.replace(appeal=spec.appeal + 1e4), rtol=1e-6)
    same(spec.replace(consistency=np.full(3, spec.consistency), diversity=np.full(3, spec.diversity)))
    same(spec.replace(targets=np.tile(spec.targets[:1], (7, 1))))
    same(spec.replace(reach=np.array([0.5, 0.4, 0.1])))
    same(spec.replace(weights=np.array([[0, 1, 0], [0, 0, 1], [0.3, 0.7, 0]])))
    order = [2, 0, 3, 1]
    moved = spec.replace(
        targets=spec.targets[:, order], kernel=spec.kernel[np.ix_(order, order)], appeal=spec.appeal[order]
    )
    moved = moved.replace(spread=spec.spread[order])
    np.testing.assert_allclose(jg.critical_ratios(zoo.to_game(moved)), ratios[order], rtol=1e-9)


def test_agents_that_meet_no_one_do_not_diversify(rng):
    spec = random_symmetric(rng, 4, "pairwise", "response", 0.6, False)
    alone = np.asarray(jg.critical_ratios(zoo.to_game(spec.replace(diversity=0.0))))
    nobody = zoo.to_game(spec.replace(weights=np.zeros((3, 3))))
    np.testing.assert_allclose(jg.critical_ratios(nobody), alone, rtol=1e-9)
    single = zoo.to_game(spec.replace(targets=spec.targets[:1]))
    np.testing.assert_allclose(jg.critical_ratios(single), alone, rtol=1e-9)
    assert not np.allclose(jg.critical_ratios(zoo.to_game(spec)), alone)


def test_beyond_the_uniqueness_boundary_the_symmetric_equilibrium_is_followed(rng):
    """Pairwise δ > (n − 1) γ: not unique, but the symmetric mixture just below its first event is an equilibrium."""
    spec = random_symmetric(rng, 4, "pairwise", "response", 0.0, False).replace(diversity=6.0, consistency=1.0)
    ratios = np.asarray(jg.critical_ratios(zoo.to_game(spec)))
    np.testing.assert_allclose(ratios, first_zeros(*effective(spec)), rtol=1e-8, atol=1e-10)
    H, linear, appeal = effective(spec)
    w = ref.vi_solution(H, -(linear + 0.3 * appeal), (1, 4))
    at = spec.replace(attractiveness=0.3)
    assert ref.kkt_error(at.game_map(np.tile(w, (3, 1))), np.tile(w, (3, 1))) < 1e-10


def test_batches_of_kernels_and_one_bad_entry():
    """vmap agrees with single calls; an entry without an answer is NaN and leaves the others alone."""
    survey = jg.surveys.load("gss2018-ideology")
    draws = survey.posterior(0, 6)
    bandwidths = jax.vmap(lambda s: s.kernel)(draws)
    kernels = bandwidths.at[2].set(jnp.ones((7, 7)))  # no group can be told apart

    def ratios(kernel, shares):
        return jg.critical_ratios(jg.AlignmentGame(jnp.broadcast_to(shares, (3, 7)), kernel, kernel @ shares))

    found = np.asarray(jax.jit(jax.vmap(ratios))(kernels, draws.shares))
    assert np.isnan(found[2]).all() and not np.isnan(np.delete(found, 2, axis=0)).any()
    for k in (0, 5):
        np.testing.assert_allclose(found[k], ratios(kernels[k], draws.shares[k]), rtol=1e-9)


def test_traced_games_that_fail_a_condition_are_nan():
    game = jg.AlignmentGame(np.full((2, 3), 1 / 3), np.eye(3), np.arange(3.0))
    targets = jnp.asarray([[0.3, 0.3, 0.4], [0.4, 0.3, 0.3]])
    assert np.isnan(jax.jit(lambda t: jg.critical_ratios(game.replace(targets=t)))(targets)).all()
    assert np.isnan(jax.jit(lambda g: jg.critical_ratios(game.replace(consistency=g)))(0.0)).all()
    assert not np.isnan(jax.jit(lambda g: jg.critical_ratios(game.replace(consistency=g)))(1.0)).any()


def test_too_many_pivots_give_nan_and_never_a_wrong_number(monkeypatch):
    survey = jg.surveys.load("gss2018-ideology")
    K, t = survey.kernel, survey.shares
    arguments = (K, jnp.zeros_like(t), jg.simplex.project_tangent(K @ t), t, jnp.asarray(1e-12, t.dtype))
    complete = np.asarray(exclusion._follow(*arguments))
    assert not np.isnan(complete).any()
    for pivots in (0, 1, 4):
        monkeypatch.setattr(exclusion, "PIVOTS_PER_GROUP", pivots / 8)
        part = np.asarray(exclusion._follow(*arguments))
        assert np.isnan(part).any() and (np.isnan(part) | (part == complete)).all()
    assert not np.isnan(part).all()


CONDITIONS = {
    "targets": (dict(targets=[[0.5, 0.3, 0.2], [0.5, 0.2, 0.3]]), r"targets\[1, 1\] is 0.2, for agent 0 it is 0.3"),
    "appeal": (dict(appeal=[[0.0, 1, 2], [0, 1, 3]]), r"appeal\[1, 2\] is 3.0"),
    "attractiveness": (dict(attractiveness=[1.0, 2.0]), r"attractiveness\[1\] is 2.0, for agent 0 it is 1.0"),
    "consistency": (dict(consistency=[1.0, 1.1]), r"consistency\[1\] is 1.1"),
    "diversity": (dict(diversity=[0.0, -0.1]), r"diversity\[1\] is -0.1"),
    "meeting": (dict(diversity=0.1, coupling=jg.Network([[0.0, 1.0], [0.0, 0.0]])), "agent 1 does not meet"),
    "zero": (dict(consistency=0.0), "consistency is 0"),
    "concave": (dict(diversity=1.5, diversity_form="centroid"), "not concave"),
    "concave in mixtures": (
        dict(diversity=1.5, diversity_form="centroid", consistency_metric="mixture"),
        "not concave",
    ),
    "conformism": (dict(diversity=-1.0), "curvature of 0 "),
    "strong conformism": (dict(diversity=-3.0), "curvature of -2 "),
    "conformism in mixtures": (dict(diversity=-1.5, consistency_metric="mixture"), "curvature of -0.5 "),
    "indistinguishable": (dict(kernel=np.ones((3, 3))), "cannot tell some groups apart"),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions_are_named(name):
    changes, message = CONDITIONS[name]
    arguments = dict(targets=np.full((2, 3), 1 / 3), kernel=np.eye(3), appeal=np.arange(3.0)) | changes
    with pytest.raises(ValueError, match=message):
        jg.critical_ratios(jg.AlignmentGame(**arguments))


def test_weak_conditions_pass():
    """What the conditions forbid starts beyond these: γ = δ (centroid), δ just above −γ, a network without effect."""
    T, a = np.full((2, 3), 1 / 3), np.arange(3.0)
    weak: tuple[dict[str, Any], ...] = (
        dict(diversity=1.0, diversity_form="centroid"),
        dict(diversity=-0.99),
        dict(coupling=jg.Network([[0.0, 1.0], [0.0, 0.0]])),
    )
    for options in weak:
        assert not np.isnan(jg.critical_ratios(jg.AlignmentGame(T, np.eye(3), a, **options))).any()


@pytest.mark.parametrize("name", ["quadratic_scalar_nash", "concave_mean"])
def test_other_games_have_no_ratios(name):
    with pytest.raises(ValueError, match="needs an AlignmentGame"):
        jg.critical_ratios(zoo.GAMES[name]().game())


@pytest.mark.float32
def test_ratios_keep_the_precision(dtype):
    survey = jg.surveys.load("gss2018-ideology", dtype=dtype)
    for metric in ("mixture", "response"):
        found = jg.critical_ratios(survey.game(3, consistency_metric=metric))
        assert found.dtype == dtype
        np.testing.assert_allclose(found, SURVEY[0.5, metric], rtol=1e-3)


# --- excluded and under-represented ---------------------------------------------------------------------------------
def test_excluded_means_by_everyone():
    profile = np.array([[0.999, 1e-3, 0.0, 0.0], [0.5, 0.0, 0.0, 0.5]])
    np.testing.assert_array_equal(jg.excluded(profile), [False, True, True, False])
    np.testing.assert_array_equal(jg.excluded(profile, tolerance=0.0), [False, False, True, False])
    np.testing.assert_array_equal(jg.excluded(profile, tolerance=0.6), [False, True, True, True])
    assert jg.excluded(np.stack([profile, profile[:, ::-1]])).shape == (2, 4)


def test_excluded_of_an_equilibrium_and_of_a_batch():
    spec = symmetric(np.eye(3), np.full(3, 1 / 3), np.array([1.0, 0.9, -3.0]))
    game = zoo.to_game(spec)
    np.testing.assert_array_equal(jg.excluded(jg.solve(game)), [False, False, True])
    batch = jax.vmap(lambda alpha: jg.solve(game.replace(attractiveness=alpha)))(jnp.asarray([0.0, 1.0]))
    np.testing.assert_array_equal(jg.excluded(batch), [[False] * 3, [False, False, True]])
    np.testing.assert_array_equal(jax.jit(jg.excluded)(batch), jg.excluded(batch))


def test_under_represented_weighs_by_reach():
    targets, shares = np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([0.5, 0.5])
    game = jg.AlignmentGame(targets, np.eye(2), np.zeros(2), reach=np.array([0.9, 0.1]))
    found = jg.solve(game)  # no appeal: everyone plays the own target; S = (0.82, 0.18)
    np.testing.assert_array_equal(jg.under_represented(found, shares), [False, True])
    np.testing.assert_array_equal(jg.under_represented(found, shares, threshold=0.35), [False, False])
    np.testing.assert_array_equal(jg.under_represented(found.profile, shares), [False, False])  # the mean over agents
    np.testing.assert_array_equal(jg.under_represented(found, np.array([1.0, 0.0])), [False, False])
    batch = jax.vmap(lambda r: jg.solve(game.replace(reach=r)))(jnp.asarray([[0.9, 0.1], [0.5, 0.5]]))
    np.testing.assert_array_equal(jg.under_represented(batch, shares), [[False, True], [False, False]])
    rows = np.array([[0.1, 0.9], [0.0, 1.0]])
    np.testing.assert_array_equal(jg.under_represented(batch, rows), [[False, True], [False, False]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda W: jg.excluded(W[0]), "profile has shape"),
        (lambda W: jg.excluded(W, tolerance=-0.1), "tolerance"),
        (lambda W: jg.under_represented(W, np.array([0.5, 0.4])), "shares sums to 0.9"),
        (lambda W: jg.under_represented(W, np.array([0.5, 0.3, 0.2])), "shares has shape"),
        (lambda W: jg.under_represented(W, np.array([1.5, -0.5])), r"shares\[1\] is -0.5"),
        (lambda W: jg.under_represented(W, np.array([0.5, 0.5]), threshold=-1.0), "threshold"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.full((3, 2), 0.5))


# --- the price of inclusion -----------------------------------------------------------------------------------------
def with_excluded_groups():
    """Five different agents and four groups, of which two are represented by no one."""
    rng = np.random.default_rng(8)
    linear = rng.normal(size=(5, 4)) + np.array([1.0, 1.0, -4.0, -6.0])
    coupling = ref.MeanField(0.4 * ref.random_kernel(rng, 4))
    return ref.Quadratic(linear, ref.Scaled(rng.uniform(0.5, 1.5, 5), ref.random_kernel(rng, 4, 0.5)), coupling)


def test_price_is_the_smallest_slack():
    spec = with_excluded_groups()
    found = jg.solve(zoo.to_game(spec))
    W = np.asarray(found.profile)
    F = spec.game_map(W)
    slack = np.array(
        [[f[d] - f[w > 0].mean() if w[d] == 0 else 0.0 for d in range(4)] for w, f in zip(W, F, strict=True)]
    )
    price = jg.inclusion_price(zoo.to_game(spec), found)
    np.testing.assert_allclose(price, slack.min(axis=0), atol=1e-9)
    assert (np.asarray(price[:2]) == 0).all() and (np.asarray(price[2:]) > 0.5).all()
    np.testing.assert_allclose(jg.inclusion_price(zoo.to_game(spec), W), price, atol=1e-12)


@pytest.mark.parametrize("group", [2, 3])
def test_below_the_price_a_subsidy_does_nothing_and_above_it_the_group_enters(group):
    """A common addition to the marginal utility of an excluded group, theory §4."""
    spec = with_excluded_groups()
    before = jg.solve(zoo.to_game(spec))
    price = float(jg.inclusion_price(zoo.to_game(spec), before)[group])

    def total(factor):
        linear = spec.linear + factor * price * np.eye(4)[group]
        twin = ref.Quadratic(linear, spec.curvature, spec.coupling)
        return ref.vi_solution(*twin.affine, twin.shape)

    np.testing.assert_allclose(total(1 - 1e-6), before.profile, atol=1e-10)
    shares = [total(factor)[:, group].sum() for factor in (1 + 1e-4, 1.1, 1.5)]
    assert 0 < shares[0] < shares[1] < shares[2]


@pytest.mark.slow
def test_price_of_a_batch():
    spec = symmetric(np.eye(3), np.full(3, 1 / 3), np.array([1.0, 0.9, -3.0]))
    game = zoo.to_game(spec)
    alphas = jnp.asarray([0.0, 0.5, 1.0])
    batch = jax.vmap(lambda alpha: jg.solve(game.replace(attractiveness=alpha)))(alphas)
    found = jg.inclusion_price(batch.game, batch)
    wanted = [
        jg.inclusion_price(game.replace(attractiveness=a), jg.solve(game.replace(attractiveness=a))) for a in alphas
    ]
    np.testing.assert_allclose(found, np.stack(wanted), atol=1e-10)
    assert float(found[2, 2]) > 1 and (np.asarray(found[0]) == 0).all()
    # One game for all: the price of group 2 in it at each profile.
    shared = jg.inclusion_price(game, batch)
    np.testing.assert_allclose(shared[2], found[2], atol=1e-10)
    nested = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), batch)
    np.testing.assert_allclose(jg.inclusion_price(nested.game, nested), np.stack([found, found]), atol=1e-12)


def test_price_needs_a_profile_of_the_game():
    with pytest.raises(ValueError, match=r"profile has shape \(2, 3\), expected \(…, 5, 4\)"):
        jg.inclusion_price(zoo.to_game(with_excluded_groups()), np.full((2, 3), 1 / 3))


@pytest.mark.float32
def test_exclusion_keeps_the_precision(dtype):
    spec = symmetric(np.eye(3), np.full(3, 1 / 3), np.array([1.0, 0.9, -3.0]))
    game = zoo.to_game(spec, dtype)
    found = jg.solve(game)
    price = jg.inclusion_price(game, found)
    assert price.dtype == dtype
    # On the support {0, 1}: w = ½ ± 0.05, μ = a_0 − (w_0 − ⅓) and ν = μ − (a_2 + ⅓)
    np.testing.assert_allclose(price, [0, 0, 1 - (0.55 - 1 / 3) + 3 - 1 / 3], rtol=1e-5)
    np.testing.assert_array_equal(jg.excluded(found), [False, False, True])
    np.testing.assert_array_equal(jg.under_represented(found, np.full(3, 1 / 3, dtype)), [False, False, True])
