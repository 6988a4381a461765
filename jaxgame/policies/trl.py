"""The mixture as a reward for the trainers of TRL (GRPO, RLOO), and as preferences for DPO.

Needs the extra `jaxgame[rlhf]`; importing this module imports none of it.
"""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgame.policies.huggingface import HuggingFaceModel, HuggingFaceModels
from jaxgame.policies.mixing import mixture_reward, mixture_weights
from jaxgame.policies.preferences import prefer


class MixtureReward:
    """A reward function for `reward_funcs` of a GRPO or RLOO trainer: r_w = β (log π_w − log π_ref) (theory §8).

    groups: the group models, D of them. reference: the model that training begins with, from which the trainer measures
    its KL penalty. weights: (D,) on the simplex. tokenizer: the trainer's. beta: the trainer's. Its optimum is π_w only
    if the trainer neither rescales rewards nor divides by lengths: make its configuration of `grpo_options(beta)`.

    Prompts are texts, or lists of messages where the tokenizer has a chat template. A tokenizer that adds no start
    token wants it in the prompt. Raises ValueError for weights off the simplex, models or tokenizers whose vocabularies
    differ, and a reward that is not finite.
    """

    def __init__(
        self, groups: HuggingFaceModels, reference: HuggingFaceModel, weights: Any, tokenizer: Any, *, beta: float = 1.0
    ):
        self.groups, self.reference, self.tokenizer, self.beta = groups, reference, tokenizer, beta
        self.weights = mixture_weights(weights, len(groups), jnp.zeros(()).dtype)
        self.__name__ = "mixture_reward"  # by which trainers log it
        if reference.vocabulary != groups[0].vocabulary:
            sizes = f"{reference.vocabulary} tokens, the groups {groups[0].vocabulary}"
            raise ValueError(f"reference has a vocabulary of {sizes}: the rewards would compare different things")
        if len(tokenizer) > reference.vocabulary:
            raise ValueError(f"tokenizer has {len(tokenizer)} tokens, the models {reference.vocabulary}")

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Sequence[Any], **_: Any
    ) -> list[float]:
        """A reward a completion, of its tokens `completion_ids`; what else a trainer passes is of no interest."""
        given = [self.prompt_tokens(prompt) for prompt in prompts]
        said = [np.asarray(ids).tolist() for ids in completion_ids]
        return np.asarray(self.of_tokens(given, said)).tolist()

    def of_tokens(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> jax.Array:
        """(N,) rewards of responses as tokens."""
        scores, reference = self.groups.scores(prompts, responses), self.reference.scores(prompts, responses)
        return mixture_reward(scores, reference, self.weights, beta=self.beta)

    def prompt_tokens(self, prompt: Any) -> list[int]:
        """As the trainer tokenizes it."""
        if isinstance(prompt, str):
            return list(self.tokenizer(prompt)["input_ids"])
        text = self.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def grpo_options(beta: float = 1.0) -> dict[str, Any]:
    """Options of `GRPOConfig` with which the optimum is that of E r − β KL(π ‖ π_ref), and no other."""
    return dict(beta=beta, scale_rewards="none", loss_type="dr_grpo", temperature=1.0, top_p=1.0, top_k=0, report_to=[])


def preference_dataset(
    prompts: Sequence[str], pairs: Sequence[tuple[str, str]], reward: MixtureReward, key: Any
) -> Any:
    """A dataset (prompt, chosen, rejected) for a DPO trainer with the reward's β.

    pairs: two responses to each prompt, drawn from the reference. Which is preferred is drawn (`prefer`), so that the
    optimum of DPO is π_w. Responses are tokenized alone, as they stand.
    """
    from datasets import Dataset

    if len(prompts) != len(pairs):
        raise ValueError(f"there are {len(prompts)} prompts and {len(pairs)} pairs of responses")
    given = [reward.prompt_tokens(prompt) for prompt in prompts]
    tokens = [[reward.tokenizer(pair[k], add_special_tokens=False)["input_ids"] for pair in pairs] for k in (0, 1)]
    rewards = jnp.stack([reward.of_tokens(given, said) for said in tokens], 1)
    first = np.asarray(prefer(rewards, key))
    rows = [
        {"prompt": prompt, "chosen": pair[0 if wins else 1], "rejected": pair[1 if wins else 0]}
        for prompt, pair, wins in zip(prompts, pairs, first, strict=True)
    ]
    return Dataset.from_list(rows)
