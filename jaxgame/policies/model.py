"""What a language model is to jaxgame, and how many of them are asked at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame import _checks
from jaxgame.policies.mixing import not_log_probs


@runtime_checkable
class LanguageModel(Protocol):
    """Anything with this one method.

    The model must be causal: row t depends on tokens[: t + 1] alone. tokens[0] is a start token (BOS, or the last token
    of a prompt), conditioned on and never scored. A model that is a pytree and traceable by JAX is compiled into
    programs; any other is called a sequence at a time.
    """

    def log_probs(self, tokens: Array) -> Array:
        """tokens (T,) int -> (T, V): log-probability of each next token after each position."""
        ...


@runtime_checkable
class ModelGroup(Protocol):
    """D models that can be asked at once; `len`, and the D models by index, besides."""

    def __len__(self) -> int: ...

    def group_log_probs(self, tokens: Array) -> Array:
        """tokens (T,) -> (D, T, V)."""
        ...

    def sample_groups(self, key: Array, groups: Any, length: int, *, prompt: Any) -> Array:
        """(n, length) new tokens after the prompt (P,), row k from model groups[k]."""
        ...


def tokens_of(tokens: Any, name: str = "tokens") -> Array:
    """tokens as an array (T,), T ≥ 1, of whole numbers ≥ 0. Raises ValueError, naming them."""
    try:
        array = jnp.asarray(tokens)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected whole numbers, got {type(tokens).__name__} ({error})") from None
    if array.ndim != 1 or not array.size or not jnp.issubdtype(array.dtype, jnp.integer):
        expected = "expected (T,) whole numbers, T ≥ 1: the first token is conditioned on"
        raise ValueError(f"{name} has shape {array.shape} and type {array.dtype}, {expected}")
    _checks.nonnegative(name, array)
    return array


def group_log_probs(models: Any, tokens: Array) -> Array:
    """(D, T, V) next-token log-probabilities of each model. Raises ValueError naming the model at fault."""
    if isinstance(models, ModelGroup):
        every = jnp.asarray(models.group_log_probs(tokens))
        expected = (len(models), tokens.shape[0])
        if every.ndim != 3 or every.shape[:2] != expected:
            raise ValueError(f"group_log_probs has shape {every.shape}, expected ({expected[0]}, {expected[1]}, V)")
        _in_vocabulary(tokens, every.shape[2])
        not_log_probs("group_log_probs", every)
        return every
    found = [jnp.asarray(model.log_probs(tokens)) for model in models]
    for d, one in enumerate(found):
        if one.ndim != 2 or one.shape[0] != tokens.shape[0]:
            raise ValueError(f"models[{d}].log_probs has shape {one.shape}, expected ({tokens.shape[0]}, V)")
        if one.shape != found[0].shape:
            raise ValueError(
                f"models[{d}] has a vocabulary of {one.shape[1]} tokens, models[0] one of {found[0].shape[1]}: a "
                "mixture needs models that share their vocabulary"
            )
        not_log_probs(f"models[{d}].log_probs", one)
    _in_vocabulary(tokens, found[0].shape[1])
    return jnp.stack([one.astype(_checks.float_dtype(*found)) for one in found])


def _in_vocabulary(tokens: Array, size: int) -> None:
    if _checks.concrete(tokens) and (bad := np.asarray(tokens) >= size).any():
        t = int(np.argmax(bad))
        raise ValueError(f"tokens[{t}] is {int(tokens[t])}, expected less than the vocabulary's size, {size}")


def traceable(function: Callable[[Array], Array], length: int) -> bool:
    """Whether JAX can trace a model's function of tokens (T,)."""
    try:
        jax.eval_shape(function, jax.ShapeDtypeStruct((length,), jnp.int32))
    except Exception:  # whatever a model makes of a tracer; called with numbers it will say what is wrong, if anything
        return False
    return True


def token_scores(log_probs: Array, tokens: Array) -> Array:
    """(…, T, V) -> (…, T): log-probability of tokens[t] given those before it; 0 for tokens[0]."""
    following = jnp.take_along_axis(
        log_probs[..., :-1, :], tokens[1:].reshape((1,) * (log_probs.ndim - 2) + (-1, 1)), -1
    )
    return jnp.concatenate([jnp.zeros_like(log_probs[..., :1, 0]), following[..., 0]], -1)


def sample(
    next_log_probs: Callable[[Array], Array], key: Array, length: int, n: int, *, prompt: Array, compiled: bool
) -> Array:
    """(n, length) tokens drawn one by one. next_log_probs: tokens (T,) -> (T, V), asked anew for every token.

    compiled: the function can be traced; then all sequences are drawn at once, on a buffer of the final length.
    """
    start = prompt.shape[0]
    if not compiled:
        return _sample_eagerly(next_log_probs, key, length, n, prompt)
    room = jnp.concatenate([prompt, jnp.zeros(length, prompt.dtype)])

    def one(key: Array) -> Array:
        def draw(tokens: Array, t: Array) -> tuple[Array, None]:
            token = jax.random.categorical(jax.random.fold_in(key, t), next_log_probs(tokens)[t - 1])
            return tokens.at[t].set(token.astype(tokens.dtype)), None

        return jax.lax.scan(draw, room, jnp.arange(start, start + length))[0][start:]

    return jax.vmap(one)(jax.random.split(key, n))


def _sample_eagerly(next_log_probs: Callable[[Array], Array], key: Array, length: int, n: int, prompt: Array) -> Array:
    rows = []
    for row in jax.random.split(key, n):
        tokens = prompt
        for t in range(prompt.shape[0], prompt.shape[0] + length):
            token = jax.random.categorical(jax.random.fold_in(row, t), next_log_probs(tokens)[-1])
            tokens = jnp.append(tokens, token.astype(tokens.dtype))
        rows.append(tokens[prompt.shape[0] :])
    return jnp.stack(rows)


def models_of(models: Any) -> Sequence[Any]:
    """A ModelGroup as it is, a sequence of models as a tuple. Raises ValueError for anything else, or for none."""
    if isinstance(models, ModelGroup):
        return models  # pyright: ignore[reportReturnType]
    try:
        found = tuple(models)
    except TypeError:
        raise ValueError(f"models is {type(models).__name__}, expected a sequence of models") from None
    if not found:
        raise ValueError("models is empty, expected at least one")
    for d, model in enumerate(found):
        if not isinstance(model, LanguageModel):
            raise ValueError(f"models[{d}] is {type(model).__name__}, which has no method log_probs(tokens)")
    return found
