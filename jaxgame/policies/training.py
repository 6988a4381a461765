"""Training of stacked transformers: one loop for group models, supervised learning, distillation and RLHF."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxgame.policies.transformers import Transformers

CHUNK = 25  # steps in one program, and between two reports
KEPT_EVERY = 8  # chunks
Report = Callable[[str], None]


def train(
    models: Transformers,
    loss: Callable[..., Array],
    data: Any,
    shared: Any,
    key: Array,
    *,
    steps: int,
    learning_rate: float,
    checkpoint: Path | None = None,
    report: Report = lambda line: None,
) -> tuple[Transformers, np.ndarray]:
    """The models after so many steps of AdamW with a cosine schedule, all at once, and their losses (steps, D).

    loss(architecture, params of one model, its slice of data, shared, key) -> scalar; a function of a module or a
    hashable object, compiled in. data: a tree of arrays with a leading axis D. shared: a tree that all models see.
    checkpoint: a folder in which the state is kept, and from which a run that was stopped goes on, to the same numbers.
    Raises ValueError if a loss is not finite, or where the checkpoint is of another run.
    """
    states = _begin(models.params, learning_rate=learning_rate, steps=steps)
    keeper = None
    if checkpoint is not None:
        from jaxgame.checkpoint import Checkpoint

        keeper = Checkpoint(checkpoint, _mark(models, loss, data, shared, key, steps, learning_rate), "training")
    losses = np.zeros((steps, len(models)), np.float32)
    done = 0
    state = {"params": models.params, "optimizer": states, "losses": losses, "done": np.asarray(done)}
    if keeper is not None and (found := keeper.restore(state)) is not None:
        state, done = found, int(found["done"])
    while done < steps:
        now = min(CHUNK, steps - done)
        params, optimizer, recent = _chunk(
            state["params"], state["optimizer"], data, shared, key, jnp.asarray(done),
            of=models.architecture, loss=loss, steps=now, total=steps, learning_rate=learning_rate,
        )  # fmt: skip
        recent = np.asarray(recent)
        if not np.isfinite(recent).all():
            step, d = np.argwhere(~np.isfinite(recent))[0]
            raise ValueError(f"training: the loss of model {d} is {recent[step, d]} at step {done + step}")
        losses = np.array(state["losses"])
        losses[done : done + now] = recent
        done += now
        state = {"params": params, "optimizer": optimizer, "losses": losses, "done": np.asarray(done)}
        if keeper is not None and (done == steps or done // CHUNK % KEPT_EVERY == 0):
            keeper.save(state)
        report(f"step {done} of {steps}, loss {recent[-1].mean():.4f}")
    if keeper is not None:
        keeper.close()
    return Transformers(state["params"], models.architecture), np.asarray(state["losses"])


def _optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, max(1, steps // 20), steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.99, weight_decay=1e-4))


@partial(jax.jit, static_argnames=("learning_rate", "steps"))
def _begin(params: Any, *, learning_rate: float, steps: int) -> Any:
    return jax.vmap(_optimizer(learning_rate, steps).init)(params)


@partial(jax.jit, static_argnames=("of", "loss", "steps", "total", "learning_rate"))
def _chunk(
    params: Any, state: Any, data: Any, shared: Any, key: Array, done: Array, *,
    of: Any, loss: Any, steps: int, total: int, learning_rate: float,
) -> tuple[Any, Any, Array]:  # fmt: skip
    optimizer = _optimizer(learning_rate, total)
    n = jax.tree.leaves(params)[0].shape[0]

    def one(params: Any, state: Any, data: Any, key: Array) -> tuple[Any, Any, Array]:
        value, gradient = jax.value_and_grad(lambda params: loss(of, params, data, shared, key))(params)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to the power of integers
            updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    def step(carry: tuple[Any, Any], t: Array) -> tuple[tuple[Any, Any], Array]:
        keys = jax.random.split(jax.random.fold_in(key, t), n)
        params, state, value = jax.vmap(one)(*carry, data, keys)
        return (params, state), value

    (params, state), values = jax.lax.scan(step, (params, state), done + jnp.arange(steps))
    return params, state, values


def _mark(
    models: Transformers, loss: Any, data: Any, shared: Any, key: Array, steps: int, rate: float
) -> dict[str, str]:
    """What tells one training from another."""

    def digest(tree: Any) -> str:
        sha = hashlib.sha256()
        for leaf in jax.tree.leaves(tree):
            sha.update(np.ascontiguousarray(leaf).tobytes())
        return sha.hexdigest()

    return {
        "architecture": f"{len(models)} of {models.architecture}",
        "start": digest(models.params),
        "data": digest((data, shared)),
        "training": f"{getattr(loss, '__name__', loss)}, {steps} steps, rate {rate}, key {jax.random.key_data(key)}",
    }
