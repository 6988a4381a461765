"""The policy that is a mixture of group models, exactly (theory §8)."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame import _checks
from jaxgame._pytree import Carried
from jaxgame.policies.mixing import log_mixture, mixture_weights
from jaxgame.policies.model import ModelGroup, group_log_probs, models_of, sample, token_scores, tokens_of, traceable

MIXINGS = ("linear", "geometric")


@jax.tree_util.register_pytree_node_class
class MixturePolicy:
    """π_w, a language model made of D others.

    models: D of them (`LanguageModel`), or a `ModelGroup`. weights: (D,) on the simplex; everything below is
    differentiable in them, at zero too.

    mixing: "linear", the convex combination π_w(y|x) = Σ_d w_d p_d(y|x) of whole responses. Its law of the next token
    is Σ_d ω_d p_d(v), with ω_d ∝ w_d p_d(what has been said since the prompt), by Bayes; with fixed weights it would be
    another policy.
    "geometric": the next token ∝ Π_d p_d(v)^{w_d}, renormalised at each token; −∞ everywhere if no token is possible in
    all groups. Beware: the policy ∝ Π_d p_d(y)^{w_d} over whole responses, which is the RLHF optimum for the reward
    Σ_d w_d r_d, is a third one, and has no law token by token that could be decoded.

    Raises ValueError for weights off the simplex, models that are none, and, once asked, models whose vocabularies
    differ, log-probabilities that are NaN, and tokens outside the vocabulary.
    """

    models: Any
    weights: Array
    mixing: Literal["linear", "geometric"]

    def __init__(self, models: Any, weights: Any, *, mixing: Literal["linear", "geometric"] = "linear"):
        if mixing not in MIXINGS:
            raise ValueError(f"mixing is {mixing!r}, expected one of {MIXINGS}")
        self.models, self.mixing = models_of(models), mixing
        self.weights = mixture_weights(weights, len(self.models), _checks.float_dtype(weights))

    def log_probs(self, tokens: Any) -> Array:
        """(T, V): the mixture as a model itself, all tokens after the first one being its own."""
        return self.next_log_probs(tokens)

    def next_log_probs(self, tokens: Any, *, start: int = 1) -> Array:
        """(T, V): log-probability of each next token after each position of tokens (T,).

        The weights are updated by tokens[start:] only; tokens[:start] is the prompt, to which all groups respond with
        their given weights.
        """
        tokens = tokens_of(tokens)
        log_probs, weights = self._asked(tokens)
        return self._next(log_probs, weights, tokens, _start(start, tokens))

    def log_prob(self, tokens: Any, *, start: int = 1) -> Array:
        """log π_w(tokens[start:] | tokens[:start]), a scalar."""
        tokens = tokens_of(tokens)
        start = _start(start, tokens)
        log_probs, weights = self._asked(tokens)
        if self.mixing == "geometric":
            return jnp.sum(token_scores(self._next(log_probs, weights, tokens, start), tokens)[start:])
        return log_mixture(jnp.sum(token_scores(log_probs, tokens)[:, start:], -1), weights)

    def sample(self, key: Array, length: int, n: int, *, prompt: Any, by: str | None = None) -> Array:
        """(n, length) new tokens after the prompt (P,), P ≥ 1.

        by: "response", each response from one group drawn with the weights, or "token", token by token with the updated
        weights. Both draw from the same law; the first is the default. Under jit, and for "geometric" mixing, there is
        only the second.
        """
        prompt = tokens_of(prompt, "prompt")
        for name, size in (("length", length), ("n", n)):
            if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
                raise ValueError(f"{name} is {size!r}, expected a whole number ≥ 1")
        if _checks.concrete(prompt):
            self._asked(prompt)  # raises what a compiled program could not
        which, own = jax.random.split(key)  # a tracer under jit, even of a key that is none
        whole = self.mixing == "linear" and all(map(_checks.concrete, (which, self.weights, prompt)))
        allowed = ("response", "token") if whole else ("token",)
        by = allowed[0] if by is None else by
        if by not in allowed:
            raise ValueError(
                f"by is {by!r}, expected one of {allowed} with {self.mixing} mixing, and 'token' under jit"
            )
        if by == "token":
            return self._by_token(key, int(length), int(n), prompt)
        groups = jax.random.categorical(which, jnp.log(self.weights), shape=(int(n),))
        return self._by_response(own, groups, int(length), prompt)

    def _by_token(self, key: Array, length: int, n: int, prompt: Array) -> Array:
        start, size = prompt.shape[0], prompt.shape[0] + length
        if not traceable(self.log_probs, size):
            return sample(
                lambda tokens: self.next_log_probs(tokens, start=start), key, length, n, prompt=prompt, compiled=False
            )
        if _is_tree(self.models):
            return _drawn(self, key, prompt, length=length, n=n)
        # Models that are no pytrees are compiled in, and may have changed since they were last.
        return _draw(self, key, prompt, length=length, n=n)

    def _by_response(self, key: Array, groups: Array, length: int, prompt: Array) -> Array:
        if isinstance(self.models, ModelGroup):
            return self.models.sample_groups(key, groups, length, prompt=prompt)
        rows = np.zeros((len(groups), length), prompt.dtype)
        for d, model in enumerate(self.models):
            mine = np.flatnonzero(np.asarray(groups) == d)
            if len(mine):
                alone = MixturePolicy([model], np.ones(1, self.weights.dtype))
                size = 1 << (len(mine) - 1).bit_length()  # few sizes, so few compilations
                rows[mine] = alone._by_token(jax.random.fold_in(key, d), length, size, prompt)[: len(mine)]
        return jnp.asarray(rows)

    def _asked(self, tokens: Array) -> tuple[Array, Array]:
        """What the models say (D, T, V), and the weights in the same type."""
        log_probs = group_log_probs(self.models, tokens)
        dtype = _checks.float_dtype(log_probs, self.weights)
        return log_probs.astype(dtype), self.weights.astype(dtype)

    def _next(self, log_probs: Array, weights: Array, tokens: Array, start: int) -> Array:
        spread = jnp.moveaxis(log_probs, 0, -1)  # (T, V, D)
        if self.mixing == "geometric":
            return _geometric(spread, weights[None, None])
        scores = token_scores(log_probs, tokens).T  # (T, D)
        said = jnp.cumsum(jnp.where(jnp.arange(len(tokens))[:, None] >= start, scores, jnp.zeros_like(scores)), 0)
        total = log_mixture(said, weights[None])
        possible = (total != -jnp.inf)[:, None]  # after what cannot be said, the weights are those of the start
        said, total = jnp.where(possible, said, 0), jnp.where(possible[:, 0], total, 0)
        return log_mixture(said[:, None, :] + spread, weights[None, None]) - total[:, None]

    def tree_flatten(self):
        if isinstance(self.models, ModelGroup):
            return (Carried.wrap(self.models), self.weights), (True, self.mixing)
        return (tuple(map(Carried.wrap, self.models)), self.weights), (False, self.mixing)

    @classmethod
    def tree_unflatten(cls, fixed, children):
        policy = object.__new__(cls)
        models, policy.weights = children
        whole, policy.mixing = fixed
        policy.models = models.unwrap() if whole else tuple(model.unwrap() for model in models)
        return policy

    def __repr__(self) -> str:
        return f"MixturePolicy({len(self.models)} models, weights={self.weights}, mixing={self.mixing!r})"


def _geometric(log_probs: Array, weights: Array) -> Array:
    """(T, V) from (T, V, D). A group without weight has no say, even where it calls a token impossible."""
    possible = log_probs != -jnp.inf
    ruled_out = jnp.any(~possible & (weights > 0), -1)
    mean = jnp.sum(weights * jnp.where(possible, log_probs, 0), -1)
    nothing = jnp.all(ruled_out, -1, keepdims=True)
    law = jax.nn.log_softmax(jnp.where(ruled_out & ~nothing, -jnp.inf, mean), -1)
    return jnp.where(nothing, -jnp.inf, law)


def _draw(policy: MixturePolicy, key: Array, prompt: Array, *, length: int, n: int) -> Array:
    start = prompt.shape[0]
    return sample(
        lambda tokens: policy.next_log_probs(tokens, start=start), key, length, n, prompt=prompt, compiled=True
    )


_drawn = partial(jax.jit, static_argnames=("length", "n"))(_draw)


def _is_tree(models: Any) -> bool:
    return all(
        not jax.tree_util.all_leaves((one,)) for one in ([models] if hasattr(models, "group_log_probs") else models)
    )


def _start(start: Any, tokens: Array) -> int:
    if isinstance(start, bool) or not isinstance(start, int | np.integer) or not 1 <= start <= len(tokens):
        raise ValueError(f"start is {start!r}, expected a whole number from 1 to {len(tokens)}, the length of tokens")
    return int(start)
