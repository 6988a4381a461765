"""Models of Hugging Face on a survey: taught what a group answers, asked for their exact law, aligned by GRPO.

Needs the extra `jaxgame[rlhf]`.
"""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxgame.policies.huggingface import HuggingFaceModel
from jaxgame.policies.questionnaire import Questionnaire
from jaxgame.policies.trl import MixtureReward, grpo_options

Report = Callable[[str], None]


@dataclass(frozen=True)
class Tokenized:
    """A questionnaire in tokens of a model: prompts, one a question; replies, one an option, each ending in EOS."""

    prompts: list[list[int]]
    replies: list[list[list[int]]]

    @classmethod
    def of(cls, questionnaire: Questionnaire, tokenizer: Any) -> Tokenized:
        def tokens(text: str) -> list[int]:
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])

        # Space first: so a word in the middle of a text is tokenized.
        replies = [[[*tokens(f" {text}"), tokenizer.eos_token_id] for text in texts] for texts in questionnaire.replies]
        return cls([list(tokenizer(stem)["input_ids"]) for stem in questionnaire.stems], replies)

    @property
    def longest(self) -> int:
        """Tokens of the longest reply."""
        return max(len(reply) for replies in self.replies for reply in replies)


def teach(
    model: Any,
    asked: Tokenized,
    answers: np.ndarray,
    *,
    steps: int,
    learning_rate: float,
    batch: int = 32,
    seed: int = 0,
    report: Report = lambda line: None,
) -> list[float]:
    """Maximum likelihood of replies drawn from answers (Q, options) to questions drawn evenly; AdamW with a linear
    schedule on the parameters that require a gradient. Changes the model; returns its losses. ValueError if one is not
    finite.
    """
    import torch

    draw = np.random.default_rng(seed)
    wanted = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(wanted, lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / steps)
    losses = []
    model.train()
    for step in range(steps):
        questions = draw.integers(len(asked.prompts), size=batch)
        options = [draw.choice(len(asked.replies[q]), p=_law(answers[q], len(asked.replies[q]))) for q in questions]
        rows = [(asked.prompts[q], asked.replies[q][o]) for q, o in zip(questions, options, strict=True)]
        width = max(len(p) + len(r) for p, r in rows)
        tokens, labels = np.zeros((batch, width), np.int64), np.full((batch, width), -100)
        mask = np.zeros_like(tokens)
        for k, (p, r) in enumerate(rows):
            tokens[k, : len(p) + len(r)], mask[k, : len(p) + len(r)] = [*p, *r], 1
            labels[k, len(p) : len(p) + len(r)] = r
        logits = model(input_ids=torch.as_tensor(tokens), attention_mask=torch.as_tensor(mask)).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), torch.as_tensor(labels[:, 1:]).flatten(), reduction="sum"
        )
        loss = loss / batch
        losses.append(loss.item())
        if not np.isfinite(losses[-1]):
            raise ValueError(f"teaching: the loss is {losses[-1]} at step {step}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        report(f"step {step + 1} of {steps}, loss {losses[-1]:.3f}")
    model.eval()
    return losses


def _law(row: np.ndarray, options: int) -> np.ndarray:
    return row[:options] / row[:options].sum()


def reply_law(model: HuggingFaceModel, asked: Tokenized) -> np.ndarray:
    """(Q, options) probability of each reply to each question: exact, and short of 1 by what is no answer."""
    law = np.zeros((len(asked.prompts), max(map(len, asked.replies))))
    for q, (prompt, replies) in enumerate(zip(asked.prompts, asked.replies, strict=True)):
        law[q, : len(replies)] = np.exp(model.scores([prompt] * len(replies), replies))
    return law


def grpo(
    start: Path,
    tokenizer: Any,
    reward: MixtureReward,
    prompts: Sequence[str],
    *,
    steps: int,
    generations: int,
    batch: int,
    length: int,
    learning_rate: float,
    folder: Path,
    seed: int = 0,
    adapter: Any = None,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[Any, list[dict[str, float]]]:
    """The model in the folder `start`, aligned by TRL's GRPO with the reward; and what the trainer logged.

    generations: completions a prompt, `batch` of them in all a step, of at most `length` tokens. adapter: a LoraConfig,
    to train that alone. folder: for what the trainer writes. report: is told of each step. ValueError if a reward or
    loss is not finite.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Reporting(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "reward" in (logs or {}):
                report(f"step {state.global_step} of {steps}, reward {float(logs['reward']):.3f}")

    config = GRPOConfig(
        output_dir=str(folder),
        max_steps=steps,
        num_generations=generations,
        per_device_train_batch_size=batch,
        max_completion_length=length,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        seed=seed,
        **grpo_options(reward.beta),
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(start),
        reward_funcs=reward,  # pyright: ignore[reportArgumentType]  (a list of floats is one of optional floats)
        args=config,
        train_dataset=Dataset.from_dict({"prompt": list(prompts)}),
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[Reporting()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    logs = [row for row in trainer.state.log_history if "reward" in row]
    for step, row in enumerate(logs):
        if not np.isfinite(row["reward"]) or not np.isfinite(row.get("loss", 0.0)):
            raise ValueError(f"GRPO: at step {step} the reward is {row['reward']}, the loss {row.get('loss')}")
    return trainer.model, logs
