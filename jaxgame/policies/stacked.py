"""D small transformers with stacked parameters: one program asks, draws from and scores all of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame._pytree import pytree
from jaxgame.policies import transformer
from jaxgame.policies.model import token_scores, tokens_of
from jaxgame.policies.questionnaire import START
from jaxgame.policies.transformer import Architecture, Memory

BATCH = 2048  # sequences drawn or scored by one call of a program
PART = 64  # of them at once: what fits into a processor's cache


@pytree(static=("architecture",))
class Transformer:
    """One model (`LanguageModel`): its parameters, a nested dict of float32 arrays."""

    params: Any
    architecture: Architecture

    def log_probs(self, tokens: Any) -> Array:
        """(T, V) next-token log-probabilities after each of the tokens (T,)."""
        tokens = tokens_of(tokens)
        _fits(self.architecture, tokens.shape[0])
        return _log_probs(self.params, tokens, of=self.architecture)

    def sample(self, key: Array, length: int, n: int, *, prompt: Any) -> Array:
        """(n, length) new tokens after the prompt (P,)."""
        prompt = tokens_of(prompt, "prompt")
        _fits(self.architecture, prompt.shape[0] + length)
        return _draw(self.params, jax.random.split(key, n), prompt, of=self.architecture, length=length)


@pytree(static=("architecture",))
class Transformers:
    """D models (`ModelGroup`): parameters with a leading axis D. `models[d]` is one, `len(models)` is D."""

    params: Any
    architecture: Architecture

    @classmethod
    def fresh(cls, architecture: Architecture, n: int, key: Array) -> Transformers:
        """n models with random parameters."""
        return cls(_initial(jax.random.split(key, n), of=architecture), architecture)

    def __len__(self) -> int:
        return jax.tree.leaves(self.params)[0].shape[0]

    def __getitem__(self, d: Any) -> Any:
        """Model d, or for an array of numbers, those models. IndexError for a number out of range."""
        if isinstance(d, int | np.integer) and not -len(self) <= d < len(self):
            raise IndexError(f"model {d} of {len(self)}")  # JAX would take the last
        part = jax.tree.map(lambda leaf: leaf[d], self.params)
        return Transformer(part, self.architecture) if np.ndim(d) == 0 else Transformers(part, self.architecture)

    def __iter__(self) -> Iterator[Transformer]:
        return (self[d] for d in range(len(self)))

    def group_log_probs(self, tokens: Any) -> Array:
        """(D, T, V) next-token log-probabilities after each of the tokens (T,)."""
        tokens = tokens_of(tokens)
        _fits(self.architecture, tokens.shape[0])
        return jax.vmap(lambda params: _log_probs(params, tokens, of=self.architecture))(self.params)

    def sample_groups(self, key: Array, groups: Any, length: int, *, prompt: Any) -> Array:
        """(n, length) new tokens after the prompt (P,), row k from model groups[k]."""
        groups, prompt = np.asarray(groups), tokens_of(prompt, "prompt")
        rows = np.zeros((len(groups), length), prompt.dtype)
        for d in range(len(self)):
            mine = np.flatnonzero(groups == d)
            size = min(BATCH, 1 << max(len(mine) - 1, 0).bit_length())  # few sizes, so few compilations
            for begin in range(0, len(mine), size):
                key, now = jax.random.split(key)
                some = mine[begin : begin + size]
                rows[some] = self[d].sample(now, length, size, prompt=prompt)[: len(some)]
        return jnp.asarray(rows)

    def scores(self, sequences: Any, *, start: int = 1) -> np.ndarray:
        """(N, D) log p_d(sequence[start:] | sequence[:start]) of sequences (N, T), filled up with start tokens."""
        sequences = np.asarray(sequences)
        _fits(self.architecture, sequences.shape[1])
        size = min(BATCH, 1 << max(len(sequences) - 1, 0).bit_length())
        found = []
        for begin in range(0, len(sequences), size):
            some = sequences[begin : begin + size]
            full = np.concatenate([some, np.zeros((size - len(some), some.shape[1]), some.dtype)])
            found.append(np.asarray(_scores(self.params, full, of=self.architecture, start=start))[: len(some)])
        return np.concatenate(found) if found else np.zeros((0, len(self)), np.float32)


def _fits(of: Architecture, length: int) -> None:
    if length > of.length:
        raise ValueError(f"a text of {length} tokens is too long for a model of texts of at most {of.length}")


@partial(jax.jit, static_argnames="of")
def _initial(keys: Array, *, of: Architecture) -> Any:
    return jax.vmap(partial(transformer.initial, of))(keys)


_log_probs = partial(jax.jit, static_argnames="of")(
    lambda params, tokens, *, of: transformer.log_probs(of, params, tokens)
)


@partial(jax.jit, static_argnames=("of", "length"))
def _draw(params: Any, keys: Array, prompt: Array, *, of: Architecture, length: int) -> Array:
    return jax.lax.map(lambda key: draw(of, params, key, prompt, length)[0], keys, batch_size=PART)


def draw(of: Architecture, params: Any, key: Array, prompt: Array, length: int) -> tuple[Array, Array]:
    """(length,) new tokens after the prompt (P,), each attending to keys and values that are kept, and their
    log-probabilities.
    """
    size = prompt.shape[0]
    law, past = transformer.forward(of, params, prompt, transformer.nothing(of, size + length), jnp.asarray(0))

    def step(carry: tuple[Array, Memory], t: Array) -> tuple[tuple[Array, Memory], tuple[Array, Array]]:
        law, past = carry
        token = jax.random.categorical(jax.random.fold_in(key, t), law).astype(prompt.dtype)
        after, past = transformer.forward(of, params, token[None], past, t)
        return (after[0], past), (token, law[token])

    return jax.lax.scan(step, (law[-1], past), jnp.arange(size, size + length))[1]


@partial(jax.jit, static_argnames=("of", "start"))
def _scores(params: Any, sequences: Array, *, of: Architecture, start: int) -> Array:
    def one(params: Any, tokens: Array) -> Array:
        said = token_scores(transformer.log_probs(of, params, tokens), tokens)
        return jnp.sum(jnp.where(tokens != START, said, jnp.zeros_like(said))[start:])

    return jax.lax.map(lambda tokens: jax.vmap(lambda params: one(params, tokens))(params), sequences, batch_size=PART)
