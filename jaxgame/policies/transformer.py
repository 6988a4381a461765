"""A small causal transformer in flax."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

START = 0  # the token that starts a text, and fills it up after its end; never said and never scored
Memory = tuple[Array, ...]  # keys and values of a text so far, an array a layer


@dataclass(frozen=True)
class Architecture:
    """What is compiled in: sizes of vocabulary V, of the longest text, and of the network."""

    vocabulary: int
    length: int
    width: int = 64
    heads: int = 4
    layers: int = 2

    def __post_init__(self) -> None:
        for name in ("vocabulary", "length", "width", "heads", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a whole number ≥ 1")
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}, expected a multiple of heads, {self.heads}")


class Block(nnx.Module):
    """Attention and a feed-forward network, each after a layer norm and added to what comes in."""

    def __init__(self, of: Architecture, rngs: nnx.Rngs):
        size, self.heads = of.width, of.heads
        self.before_attention, self.before_feed = nnx.LayerNorm(size, rngs=rngs), nnx.LayerNorm(size, rngs=rngs)
        self.ask = nnx.Linear(size, 3 * size, use_bias=False, rngs=rngs)
        self.tell = nnx.Linear(size, size, use_bias=False, rngs=rngs)
        self.widen, self.narrow = nnx.Linear(size, 4 * size, rngs=rngs), nnx.Linear(4 * size, size, rngs=rngs)

    def __call__(self, x: Array, past: Array, at: Array) -> tuple[Array, Array]:
        """x (S, width) at positions at … at + S − 1; past (2, T, heads, size): keys and values, filled up to here."""
        asked = self.ask(self.before_attention(x)).reshape(x.shape[0], 3, self.heads, -1)
        query, new = asked[:, 0], jnp.moveaxis(asked[:, 1:], 1, 0)
        past = jax.lax.dynamic_update_slice(past, new, (0, at, 0, 0))
        scores = jnp.einsum("shd,thd->hst", query, past[0]) * query.shape[-1] ** -0.5
        seen = jnp.arange(past.shape[1])[None] <= at + jnp.arange(x.shape[0])[:, None]
        attention = jax.nn.softmax(jnp.where(seen[None], scores, -1e9), -1)
        x = x + self.tell(jnp.einsum("hst,thd->shd", attention, past[1]).reshape(x.shape))
        return x + self.narrow(jax.nn.gelu(self.widen(self.before_feed(x)))), past


class Transformer(nnx.Module):
    """Tokens (S,) at some position, and what came before them, to log-probabilities (S, V) of the next token.

    The start token is never said: a text that held it would be another one once it is written down.
    """

    def __init__(self, of: Architecture, rngs: nnx.Rngs):
        self.of = of
        self.tokens = nnx.Embed(of.vocabulary, of.width, rngs=rngs)
        self.positions = nnx.Embed(of.length, of.width, rngs=rngs)
        self.blocks = nnx.List([Block(of, rngs) for _ in range(of.layers)])
        self.last = nnx.LayerNorm(of.width, rngs=rngs)
        self.head = nnx.Linear(of.width, of.vocabulary, rngs=rngs)

    def __call__(self, tokens: Array, past: Memory, at: Array) -> tuple[Array, Memory]:
        x = self.tokens(tokens) + self.positions(at + jnp.arange(tokens.shape[0]))
        kept = []
        for block, one in zip(self.blocks, past, strict=True):
            x, one = block(x, one, at)
            kept.append(one)
        said = jnp.arange(self.of.vocabulary) != START
        return jax.nn.log_softmax(jnp.where(said[None], self.head(self.last(x)), -jnp.inf), -1), tuple(kept)


@lru_cache(maxsize=32)
def _structure(of: Architecture) -> Any:
    """The module without numbers."""
    return nnx.split(nnx.eval_shape(lambda: Transformer(of, nnx.Rngs(0))))[0]


def initial(of: Architecture, key: Array) -> Any:
    """Parameters of a fresh transformer, a nested dict of float32 arrays."""
    return nnx.to_pure_dict(nnx.split(Transformer(of, nnx.Rngs(key)))[1])


def nothing(of: Architecture, length: int) -> Memory:
    """The memory of a text that has not begun, with room for so many tokens."""
    return (jnp.zeros((2, length, of.heads, of.width // of.heads), jnp.float32),) * of.layers


def forward(of: Architecture, params: Any, tokens: Array, past: Memory, at: Array) -> tuple[Array, Memory]:
    """Log-probabilities (S, V) after each of the tokens (S,) at positions `at` …, and the memory with them added."""
    return nnx.merge(_structure(of), params)(tokens, past, at)


def log_probs(of: Architecture, params: Any, tokens: Array) -> Array:
    """(T, V) after each of the tokens (T,)."""
    return forward(of, params, tokens, nothing(of, tokens.shape[0]), jnp.asarray(0))[0]
