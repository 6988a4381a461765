"""MixturePolicy against enumeration of every response over a tiny vocabulary, in NumPy."""

import itertools
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgame

jg: Any = jaxgame
V, L, D = 3, 3, 4  # tokens, length of a response, groups
BOS = 0
RESPONSES = np.array(list(itertools.product(range(V), repeat=L)))


@jax.tree_util.register_pytree_node_class
class Table:
    """A model whose next token depends on the position and on the sum of all tokens so far: not a Markov chain."""

    def __init__(self, table):
        self.table = table  # (positions, V, V)

    def log_probs(self, tokens):
        state = jnp.cumsum(tokens) % V
        return jnp.asarray(self.table)[jnp.arange(tokens.shape[0]), state]

    def tree_flatten(self):
        return (self.table,), None

    @classmethod
    def tree_unflatten(cls, fixed, children):
        return cls(*children)


class Numpy:
    """The same, but NumPy alone: JAX cannot trace it."""

    def __init__(self, table):
        self.table = np.asarray(table)

    def log_probs(self, tokens):
        return self.table[np.arange(len(tokens)), np.cumsum(np.asarray(tokens)) % V]


@pytest.fixture
def tables(rng, dtype):
    logits = rng.normal(size=(D, L + 4, V, V)) * 1.5
    return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(dtype)


@pytest.fixture
def weights(dtype):
    return np.array([0.4, 0.25, 0.0, 0.35], dtype)


def steps(table, tokens):
    """Log-probability of each token after the first, given those before it; by a loop."""
    return np.array([table[t - 1, sum(tokens[:t]) % V, tokens[t]] for t in range(1, len(tokens))])


def mixture(tables, weights, tokens, start):
    """π_w(tokens[start:] | tokens[:start]) as it is defined."""
    return sum(w * np.exp(steps(table, tokens)[start - 1 :].sum()) for w, table in zip(weights, tables, strict=True))


@pytest.mark.float32
@pytest.mark.parametrize("prompt", [[BOS], [BOS, 2, 1]])
@pytest.mark.parametrize("kind", [Table, Numpy])
def test_sequence_law_by_enumeration(tables, weights, dtype, prompt, kind):
    policy = jg.policies.MixturePolicy([kind(table) for table in tables], weights)
    total, close = 0.0, 1e-12 if dtype == np.float64 else 1e-5
    for response in RESPONSES:
        tokens = [*prompt, *map(int, response)]
        log_prob = policy.log_prob(jnp.asarray(tokens), start=len(prompt))
        assert log_prob.shape == () and log_prob.dtype == dtype
        assert float(jnp.exp(log_prob)) == pytest.approx(mixture(tables, weights, tokens, len(prompt)), rel=1e2 * close)
        total += float(jnp.exp(log_prob))
        law = policy.next_log_probs(jnp.asarray(tokens), start=len(prompt))
        assert law.shape == (len(tokens), V) and law.dtype == dtype
        one_by_one = sum(law[t - 1, tokens[t]] for t in range(len(prompt), len(tokens)))
        assert float(one_by_one) == pytest.approx(float(log_prob), abs=100 * close)
        np.testing.assert_allclose(np.exp(np.asarray(law)).sum(-1), 1, atol=20 * close)
    assert total == pytest.approx(1, abs=20 * close)


def test_weights_are_updated_after_the_prompt_only(tables, weights):
    tokens = jnp.asarray([BOS, 2, 1, 0, 2])
    law = np.asarray(jg.policies.MixturePolicy([*map(Table, tables)], weights).next_log_probs(tokens, start=3))
    for t in range(5):
        said = [np.exp(steps(table, np.asarray(tokens)[: t + 1])[2:].sum()) for table in tables]
        posterior = weights * said / (weights @ said)
        state = int(tokens[: t + 1].sum()) % V
        np.testing.assert_allclose(np.exp(law[t]), posterior @ np.exp(tables[:, t, state]), rtol=1e-12)


def test_fixed_weights_at_each_token_are_another_policy(tables, weights):
    policy = jg.policies.MixturePolicy([*map(Table, tables)], weights)
    fixed, exact = np.zeros(len(RESPONSES)), np.zeros(len(RESPONSES))
    for k, response in enumerate(RESPONSES):
        tokens = [BOS, *map(int, response)]
        exact[k] = np.exp(policy.log_prob(jnp.asarray(tokens)))
        each = np.stack([np.exp(steps(table, tokens)) for table in tables])
        fixed[k] = np.prod(weights @ each)
    assert fixed.sum() == pytest.approx(1)
    assert 0.5 * np.abs(fixed - exact).sum() > 0.02


@pytest.mark.float32
@pytest.mark.parametrize("mixing", ["linear", "geometric"])
def test_gradient_in_the_weights_against_differences(tables, weights, dtype, mixing):
    models, tokens = [*map(Table, tables)], jnp.asarray([BOS, 1, 2, 0])

    def value(w):
        return jg.policies.MixturePolicy(models, w, mixing=mixing).log_prob(tokens)

    direction = np.array([-0.5, 0.2, 0.4, -0.1], dtype)  # into the group without weight: only forwards
    gradient = np.asarray(jax.grad(value)(jnp.asarray(weights)))
    assert gradient.dtype == dtype and np.isfinite(gradient).all()
    step = 1e-6 if dtype == np.float64 else 1e-2
    numeric = (float(value(weights + dtype.type(step) * direction)) - float(value(weights))) / step
    assert gradient @ direction == pytest.approx(numeric, rel=1e-4 if dtype == np.float64 else 0.05)
    jitted = jax.jit(jax.grad(value))(jnp.asarray(weights))
    np.testing.assert_allclose(jitted, gradient, rtol=1e-5)


@pytest.mark.parametrize("mixing", ["linear", "geometric"])
def test_a_group_without_weight_does_no_harm(tables, weights, mixing):
    impossible = tables.copy()
    impossible[2, :, :, 0] = -np.inf
    tokens = jnp.asarray([BOS, 0, 1, 2])

    def value(w, table):
        policy = jg.policies.MixturePolicy([*map(Table, [tables[0], tables[1], table, tables[3]])], w, mixing=mixing)
        return policy.log_prob(tokens)

    without = jg.policies.MixturePolicy([Table(tables[d]) for d in (0, 1, 3)], weights[[0, 1, 3]], mixing=mixing)
    assert float(value(weights, impossible[2])) == pytest.approx(float(without.log_prob(tokens)), rel=1e-12)
    for gradient in jax.grad(value, (0, 1))(jnp.asarray(weights), jnp.asarray(impossible[2])):
        assert np.isfinite(np.asarray(gradient)).all()
    # A group that is far likelier, and has no weight: nothing overflows.
    likely, rare = np.zeros((2, L + 4, V, V), np.float32), np.full((L + 4, V, V), -60.0, np.float32)
    rare[..., 2] = 0
    tiny = jg.policies.MixturePolicy([Table(rare), Table(likely[0])], np.array([1.0, 0.0], np.float32))
    slope = jax.grad(lambda w: jg.policies.MixturePolicy(tiny.models, w).log_prob(jnp.asarray([0, 0, 0, 0])))
    assert np.isfinite(slope(tiny.weights)).all() and float(tiny.log_prob(jnp.asarray([0, 0, 0, 0]))) == -180


def test_what_no_group_can_say(tables, weights):
    never = tables.copy()
    never[:, 0, :, 0] = -np.inf
    policy = jg.policies.MixturePolicy([*map(Table, never)], weights)
    tokens = jnp.asarray([BOS, 0, 1])
    assert float(policy.log_prob(tokens)) == -np.inf
    assert not np.isnan(np.asarray(policy.next_log_probs(tokens))).any()
    gradient = jax.grad(lambda w: jg.policies.MixturePolicy(policy.models, w).log_prob(tokens))(policy.weights)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("kind", [Table, pytest.param(Numpy, marks=pytest.mark.slow)])
@pytest.mark.parametrize("by", ["response", "token"])
def test_samples_follow_the_law(tables, weights, kind, by):
    n, prompt = (20_000, [BOS, 1]) if kind is Table else (250, [BOS, 1])
    policy = jg.policies.MixturePolicy([*map(kind, tables)], weights)
    drawn = np.asarray(policy.sample(jax.random.key(3), L, n, prompt=jnp.asarray(prompt), by=by))
    assert drawn.shape == (n, L) and drawn.dtype == jnp.asarray(prompt).dtype
    exact = np.array([mixture(tables, weights, [*prompt, *map(int, y)], 2) for y in RESPONSES])
    seen = np.bincount(drawn @ V ** np.arange(L)[::-1], minlength=len(RESPONSES))
    statistic = ((seen - n * exact) ** 2 / (n * exact)).sum()  # χ² with 26 degrees of freedom
    assert statistic < 54  # exceeded by one seed in a thousand


def test_both_ways_of_drawing_agree_between_compiled_and_plain_models(tables, weights):
    prompt, key = jnp.asarray([BOS]), jax.random.key(5)
    drawn = [
        jg.policies.MixturePolicy([*map(kind, tables)], weights).sample(key, L, 20, prompt=prompt, by="token")
        for kind in (Table, Numpy)
    ]
    np.testing.assert_array_equal(*drawn)
    policy = jg.policies.MixturePolicy([*map(Table, tables)], weights)
    jitted = jax.jit(lambda policy, key: policy.sample(key, L, 20, prompt=prompt))(policy, key)
    np.testing.assert_array_equal(jitted, drawn[0])


def test_geometric_is_the_renormalised_product(tables, weights):
    policy = jg.policies.MixturePolicy([*map(Table, tables)], weights, mixing="geometric")
    tokens = jnp.asarray([BOS, 2, 0])
    law = np.exp(np.asarray(policy.next_log_probs(tokens)))
    for t in range(3):
        product = np.prod(np.exp(tables[:, t, int(tokens[: t + 1].sum()) % V]) ** weights[:, None], 0)
        np.testing.assert_allclose(law[t], product / product.sum(), rtol=1e-12)
    total = sum(np.exp(policy.log_prob(jnp.asarray([BOS, *map(int, y)]))) for y in RESPONSES)
    assert total == pytest.approx(1)


def test_a_mixture_of_mixtures_is_a_mixture(tables, weights):
    models = [*map(Table, tables)]
    inner = jg.policies.MixturePolicy(models[:2], np.array([0.3, 0.7]))
    outer = jg.policies.MixturePolicy([inner, models[3]], np.array([0.6, 0.4]))
    flat = jg.policies.MixturePolicy([models[0], models[1], models[3]], np.array([0.18, 0.42, 0.4]))
    tokens = jnp.asarray([BOS, 2, 2, 1])
    assert float(outer.log_prob(tokens)) == pytest.approx(float(flat.log_prob(tokens)), rel=1e-12)


@pytest.mark.float32
def test_rewards_make_the_mixture_the_optimum(rng, dtype):
    """π ∝ π_ref exp(r/β) is π_w, from group log-probabilities and from group reward models."""
    groups = rng.dirichlet(np.ones(6), D).astype(dtype)
    reference, weights, beta = rng.dirichlet(np.ones(6)).astype(dtype), np.array([0.5, 0.0, 0.3, 0.2], dtype), 0.7
    tilted = [
        jg.policies.mixture_reward(np.log(groups.T), np.log(reference), weights, beta=beta),
    ]
    rewards = dtype.type(beta) * np.log(groups.T / reference[:, None]) + np.array([1.0, -2.0, 0.5, 3.0], dtype)[None]
    log_z = np.log(np.einsum("y,yd->d", reference, np.exp(rewards / dtype.type(beta))))
    tilted.append(jg.policies.group_reward(rewards, log_z, weights, beta=beta))
    for reward in tilted:
        assert reward.shape == (6,) and reward.dtype == dtype
        optimum = reference * np.exp(np.asarray(reward) / beta)
        np.testing.assert_allclose(optimum, weights @ groups, rtol=1e-4 if dtype == np.float32 else 1e-12)
    seen = rng.choice(6, size=200_000, p=reference.astype(float) / reference.astype(float).sum())
    np.testing.assert_allclose(jg.policies.log_partition(rewards[seen], beta=beta), log_z, atol=0.1)


MODELS = [Table(np.log(np.full((5, V, V), 1 / V)))] * 2
SMALLER = Table(np.log(np.full((5, V, 2), 0.5)))
NOT_FINITE = Table(np.full((5, V, V), np.nan))


def policy(models=MODELS, weights=(0.5, 0.5), **options):
    return jg.policies.MixturePolicy(models, weights, **options)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: policy(weights=[0.5, 0.6]), "weights sums to 1.1"),
        (lambda: policy(weights=[1.5, -0.5]), r"weights\[1\] is -0.5"),
        (lambda: policy(weights=[1.0]), r"weights has shape \(1,\), expected \(2,\)"),
        (lambda: policy(weights=[np.nan, 1.0]), r"weights\[0\] is nan"),
        (lambda: policy(models=[]), "models is empty"),
        (lambda: policy(models=[MODELS[0], "text"]), r"models\[1\] is str"),
        (lambda: policy(models=3), "models is int"),
        (lambda: policy(mixing="product"), "mixing is 'product'"),
        (lambda: policy([MODELS[0], SMALLER]).log_prob(jnp.asarray([0, 1])), r"models\[1\] has a vocabulary of 2"),
        (
            lambda: policy([MODELS[0], NOT_FINITE]).log_prob(jnp.asarray([0, 1])),
            r"models\[1\].log_probs\[0, 0\] is nan",
        ),
        (lambda: policy().log_prob(jnp.asarray([0, 7])), r"tokens\[1\] is 7"),
        (lambda: policy().log_prob(jnp.asarray([0.0, 1.0])), "tokens has shape"),
        (lambda: policy().log_prob(jnp.asarray([0, 1]), start=0), "start is 0"),
        (lambda: policy().next_log_probs(jnp.asarray([0, 1]), start=3), "start is 3"),
        (lambda: policy().sample(jax.random.key(0), 0, 2, prompt=jnp.asarray([0])), "length is 0"),
        (lambda: policy().sample(jax.random.key(0), 2, 2, prompt=jnp.zeros(0, int)), "prompt has shape"),
        (lambda: policy().sample(jax.random.key(0), 2, 2, prompt=jnp.asarray([0]), by="word"), "by is 'word'"),
        (lambda: jg.policies.mixture_reward(np.zeros((5, 2)), np.zeros(4), [0.5, 0.5]), "reference_log_prob has shape"),
        (lambda: jg.policies.mixture_reward(np.zeros((5, 2)), np.zeros(5), [0.5, 0.6]), "weights sums to 1.1"),
        (lambda: jg.policies.mixture_reward(np.zeros((5, 2)), np.zeros(5), [0.5, 0.5], beta=0.0), "beta is 0"),
        (
            lambda: jg.policies.mixture_reward(np.full((5, 2), -np.inf), np.zeros(5), [0.5, 0.5]),
            r"reward\[0\] is -inf",
        ),
        (
            lambda: jg.policies.mixture_reward(np.full((5, 2), np.nan), np.zeros(5), [0.5, 0.5]),
            r"group_log_probs\[0, 0\]",
        ),
        (lambda: jg.policies.log_partition(np.zeros((0, 2))), "rewards has no rows"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words if "\\" in words else re.escape(words)):
        call()


def test_importing_imports_no_torch():
    code = "import sys, jaxgame, jaxgame.policies.trl, jaxgame.policies.huggingface, jaxgame.alignment.experiment\n"
    code += "print([name for name in ('torch', 'transformers', 'trl', 'peft') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nan_shows():
    log_probs = jnp.log(jnp.array([[0.2, 0.3], [0.0, 0.0], [0.5, 0.5]])).at[2, 0].set(jnp.nan)
    found = np.asarray(jg.policies.mixing.log_mixture(log_probs, jnp.array([[0.5, 0.5]])))
    np.testing.assert_allclose(found, [np.log(0.25), -np.inf, np.nan], rtol=1e-6)
    slope = jax.grad(lambda w: jg.policies.mixing.log_mixture(log_probs[0], w))(jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(slope, [1, 1.5], rtol=1e-6)
    with pytest.raises(ValueError, match=r"rewards / beta\[0\] is inf"):
        jg.policies.group_reward(np.array([1e200, 0.0]), np.zeros(2), np.array([0.5, 0.5]), beta=1e-200)


def test_groups_of_models_are_checked():
    from jaxgame.policies.stacked import Transformers
    from jaxgame.policies.transformer import Architecture

    models = Transformers.fresh(Architecture(vocabulary=5, length=6, width=8, layers=1, heads=2), 2, jax.random.key(0))
    policy = jg.policies.MixturePolicy(models, np.array([0.5, 0.5], np.float32))
    for d, model in enumerate(models):
        np.testing.assert_allclose(model.log_probs([0, 3]), models.group_log_probs([0, 3])[d], rtol=1e-5)
    assert len(list(models)) == 2
    for outside in (2, -3):
        with pytest.raises(IndexError):
            models[outside]
    with pytest.raises(ValueError, match=r"tokens\[1\] is 9999"):
        policy.log_prob([0, 9999])
    with pytest.raises(ValueError, match=r"tokens\[1\] is 9999"):
        policy.sample(jax.random.key(0), 2, 3, prompt=[0, 9999])
    broken = Transformers(jax.tree.map(lambda leaf: leaf * jnp.nan, models.params), models.architecture)
    with pytest.raises(ValueError, match="is nan, expected a log-probability"):
        jg.policies.MixturePolicy(broken, policy.weights).sample(jax.random.key(0), 2, 3, prompt=[0])


def test_drawing_asks_the_models_first(tables, weights):
    other = Table(np.log(np.full((L + 4, V, V + 1), 1 / (V + 1), tables.dtype)))
    policy = jg.policies.MixturePolicy([Table(tables[0]), other], weights[[0, 3]] / 0.75)
    with pytest.raises(ValueError, match="share their vocabulary"):
        policy.sample(jax.random.key(0), L, 4, prompt=[BOS])
    good = jg.policies.MixturePolicy([Table(t) for t in tables], weights)
    drawn = jax.jit(lambda prompt: good.sample(jax.random.key(0), L, 4, prompt=prompt))(jnp.array([BOS]))
    np.testing.assert_array_equal(drawn, good.sample(jax.random.key(0), L, 4, prompt=[BOS], by="token"))
