"""How near one model comes to a mixture: three ways in JAX, and TRL's GRPO with the mixture's reward, over seeds.

    python benchmarks/fidelity.py [--seeds 5] [--trl]

Three groups pooled from gss2018-ideology, small transformers; each way starts from the model of one group and is taught
the mixture of the other two, half and half. Total variation and KL(mixture ‖ model), means over 18 questions, by
enumeration of the replies. --trl needs the extra rlhf; its models are other transformers of about the same size, in
torch.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import common
import jax
import numpy as np

from jaxgame.alignment.options import AlignOptions, people
from jaxgame.policies import realise
from jaxgame.policies.groups import answer_table, divergence, total_variation, train_groups
from jaxgame.policies.questionnaire import Questionnaire

WEIGHTS = np.array([0.0, 0.5, 0.5])
START = 0  # the liberals' model
TRL_STEPS, TRL_RATE = 300, 3e-3
RESULTS = common.RESULTS / "fidelity.json"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--trl", action="store_true")
    given = options.parse_args()
    survey = people(AlignOptions())
    asked = Questionnaire.of(survey)
    made = in_torch(survey, asked, given.seeds) if given.trl else in_jax(survey, asked, given.seeds)
    kept = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = [one for one in kept if one["way"] not in {new["way"] for new in made}] + made
    packages = ("flax", "optax", *(("torch", "trl", "transformers") if given.trl else ()))
    record = common.environment(*packages)
    common.write_json(RESULTS, {"environment": record, "rows": rows})
    common.write(RESULTS.with_suffix(".md"), "\n".join(report(rows, record)) + "\n")


def report(rows: list[dict], record: dict) -> list[str]:
    cells = []
    for way in dict.fromkeys(one["way"] for one in rows):
        mine = [one for one in rows if one["way"] == way]
        span = {name: [one[name] for one in mine] for name in mine[0] if name != "way"}
        cells.append([
            way, len(mine), f"{np.mean(span['tv_before']):.4f}",
            f"{min(span['tv_after']):.5f} – {max(span['tv_after']):.5f}", f"{min(span['fall']):.1f}",
            f"{np.mean(span['kl_before']):.4f}", f"{min(span['kl_after']):.6f} – {max(span['kl_after']):.6f}",
            f"{np.mean(span['seconds']):.0f}",
        ])  # fmt: skip
    header = ["way", "seeds", "total variation before", "after", "least fall", "KL before", "after", "seconds a seed"]
    words = "Total variation and KL(mixture ‖ model) of the replies to a question, means over 18 questions, exact."
    return [*common.table(header, cells), "", *common.prose(words, common.described(record) + ".")]


def in_jax(survey, asked, seeds: int) -> list[dict]:
    models, _ = train_groups(survey, jax.random.key(0), steps=600)
    weights = np.tile(WEIGHTS, (seeds, 1))  # all seeds at once
    start = realise.fidelity(models[np.array([START])], models, WEIGHTS[None], asked)
    rows = []
    for way in ("supervised", "distilled", "rlhf"):
        clock = time.perf_counter()
        made = getattr(realise, way)(models, weights, models[START], asked, jax.random.key(1))
        seconds = (time.perf_counter() - clock) / seeds
        found = realise.fidelity(made, models, weights, asked)
        for seed, (tv, kl) in enumerate(zip(found.total_variation, found.divergence, strict=True)):
            rows.append(row(way, seed, start.total_variation[0], tv, start.divergence[0], kl, seconds))
    return rows


def row(way, seed, tv_before, tv_after, kl_before, kl_after, seconds) -> dict:
    return dict(
        way=way, seed=seed, tv_before=float(tv_before), tv_after=float(tv_after), fall=float(tv_before / tv_after),
        kl_before=float(kl_before), kl_after=float(kl_after), seconds=float(seconds),
    )  # fmt: skip


def in_torch(survey, asked, seeds: int) -> list[dict]:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from jaxgame.alignment import language
    from jaxgame.policies.huggingface import HuggingFaceModel, HuggingFaceModels
    from jaxgame.policies.trl import MixtureReward

    torch.set_num_threads(1)
    words = sorted({w for text in (*asked.stems, *sum(asked.replies, ())) for w in text.split()})
    vocabulary = {text: k for k, text in enumerate(["<pad>", "</s>", "<unk>", *words])}
    by_word = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    by_word.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=by_word, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    taught, truth = language.Tokenized.of(asked, tokenizer), answer_table(survey, asked)
    groups = []
    for d in range(len(truth)):
        torch.manual_seed(d)
        config = LlamaConfig(
            vocab_size=len(vocabulary), hidden_size=32, intermediate_size=96, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=32, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        )  # fmt: skip
        groups.append(LlamaForCausalLM(config))
        language.teach(groups[d], taught, truth[d], steps=600, learning_rate=5e-3, batch=64, seed=d)
    together, reference = HuggingFaceModels(groups), HuggingFaceModel(groups[START])
    wanted = np.einsum("d,dqo->qo", WEIGHTS, np.stack([language.reply_law(one, taught) for one in together]))
    before, rows = language.reply_law(reference, taught), []
    with tempfile.TemporaryDirectory() as folder:
        groups[START].save_pretrained(Path(folder) / "start")
        reward = MixtureReward(together, reference, WEIGHTS, tokenizer)
        for seed in range(seeds):
            clock = time.perf_counter()
            policy, _ = language.grpo(
                Path(folder) / "start", tokenizer, reward, asked.stems, steps=TRL_STEPS, generations=8, batch=144,
                length=taught.longest, learning_rate=TRL_RATE, folder=Path(folder) / "out", seed=seed,
            )  # fmt: skip
            seconds = time.perf_counter() - clock
            after = language.reply_law(HuggingFaceModel(policy), taught)
            near = [total_variation(x, wanted).mean() for x in (before, after)]
            apart = [divergence(wanted, x).mean() for x in (before, after)]
            rows.append(row("TRL GRPO", seed, *near, *apart, seconds))
    return rows


if __name__ == "__main__":
    main()
