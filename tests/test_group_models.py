"""Text, transformers and training of group models, on a small survey, against loops and direct evaluation."""

import json
import re
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgame
from jaxgame.alignment import experiment
from jaxgame.alignment.options import align_options
from jaxgame.policies import realise, training, transformer
from jaxgame.policies.groups import (
    ResponseLoss,
    answer_law,
    answer_table,
    divergence,
    measured,
    quality,
    total_variation,
    train_groups,
)
from jaxgame.policies.questionnaire import START, Questionnaire
from jaxgame.policies.stacked import Transformers
from jaxgame.policies.transformer import Architecture
from jaxgame.surveys import Survey
from jaxgame.surveys.pooling import pooled

jg: Any = jaxgame


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """Two groups far apart, two questions, options of one and of two words."""
    path = tmp_path_factory.mktemp("survey") / "small.json"
    questions = [
        {
            "id": "a",
            "text": "How much?",
            "options": ["too much", "enough"],
            "values": [0, 1],
            "counts": [[90, 10], [20, 80]],
        },
        {
            "id": "b",
            "text": "Where?",
            "options": ["here", "over there", "nowhere"],
            "values": [0, 1, 2],
            "counts": [[5, 85, 10], [60, 20, 20]],
        },
    ]
    path.write_text(json.dumps({"name": "small", "groups": ["x", "y"], "people": [100, 100], "questions": questions}))
    return Survey.from_json(path)


@pytest.fixture(scope="module")
def asked(survey):
    return Questionnaire.of(survey)


@pytest.fixture(scope="module")
def trained(survey):
    return train_groups(survey, jax.random.key(0), steps=250)


def test_text_and_tokens(survey, asked):
    text = "Where? over there. How much? enough. Where? here."
    tokens = asked.encode(text)
    assert tokens[0] == START and asked.decode(tokens) == text and asked.reply_length == 2
    assert [asked.vocabulary[k] for k in tokens[1:4]] == ["Where?", "over", "there."]
    with pytest.raises(ValueError, match=re.escape("word 1 of the text, 'everywhere.'")):
        asked.encode("Where? everywhere.")
    answers, first = jnp.asarray([[0, 1], [1, 2]]), jnp.asarray([0, 1])
    texts = [asked.decode(row) for row in asked.responses(answers, first)]
    assert texts == ["How much? too much. Where? over there.", "Where? nowhere. How much? enough."]
    rows = np.asarray(asked.responses(answers, first))
    assert all(
        (row[np.flatnonzero(row).max() + 1 :] == START).all() and (row[1 : np.flatnonzero(row).max()] > 0).all()
        for row in rows
    )
    other = asked.without([0])
    assert other.stems == ("Where?",) and other.vocabulary == asked.vocabulary
    spending = Questionnaire.of(jg.surveys.load())
    assert spending.stems[1] == "On the environment, the country's spending is"


def test_memory_of_keys_and_values(asked):
    """Tokens one at a time, with the memory, say what the whole text says; and a model is causal."""
    models = Transformers.fresh(Architecture(len(asked.vocabulary), 8), 2, jax.random.key(1))
    tokens = np.array([0, 3, 5, 1, 2, 4], np.int32)
    forward = jax.jit(partial(transformer.forward, models.architecture))
    whole = models[1].log_probs(tokens)
    past = transformer.nothing(models.architecture, 6)
    for t in range(6):
        one, past = forward(models[1].params, jnp.asarray(tokens[t : t + 1]), past, jnp.asarray(t))
        np.testing.assert_allclose(one[0], whole[t], atol=2e-6)
    np.testing.assert_allclose(models[1].log_probs(tokens[:4]), whole[:4], atol=2e-6)
    np.testing.assert_allclose(models.group_log_probs(tokens)[1], whole, atol=2e-6)
    scores = models.scores(np.array([tokens, [0, 3, 5, 0, 0, 0]]))
    assert scores[0, 1] == pytest.approx(sum(float(whole[t - 1, tokens[t]]) for t in range(1, 6)), abs=1e-5)
    assert scores[1, 1] == pytest.approx(sum(float(whole[t - 1, tokens[t]]) for t in (1, 2)), abs=1e-5)
    assert (np.asarray(whole)[:, START] == -np.inf).all()  # never said
    with pytest.raises(ValueError, match="9 tokens is too long"):
        models[0].log_probs(np.zeros(9, np.int32))


def test_models_learn_their_groups(survey, asked, trained):
    models, everyone = trained
    found = quality(models, survey, asked)
    assert (found.models < 0.06).all() and (found.models < found.group_mean / 3).all()
    assert (found.uniform > 0.15).all()
    law = answer_law(models, asked)
    for q, question in enumerate(survey.questions):  # by hand, one reply after the other
        for option in range(len(question.options)):
            tokens = asked.encode(f"{asked.stems[q]} {asked.replies[q][option]}")
            said = models[1].log_probs(tokens)
            direct = sum(float(said[t - 1, tokens[t]]) for t in range(2, len(tokens)))
            assert law[1, q, option] == pytest.approx(np.exp(direct), rel=1e-4)
    np.testing.assert_allclose(answer_law([models[0], models[1]], asked), law, rtol=1e-4)
    everyone_law = answer_law([everyone], asked)[0]
    assert total_variation(everyone_law, law.mean(0)).mean() < 0.06
    drawn = np.asarray(everyone.sample(jax.random.key(2), 2, 4000, prompt=asked.prompts[0]))
    replied = [asked.decode(row) for row in realise.cut(asked, jnp.asarray(drawn))]
    assert np.mean([text == "enough." for text in replied]) == pytest.approx(everyone_law[0, 1], abs=0.04)
    game = measured(survey, law).game(3)
    assert game.kernel.shape == (2, 2) and game.kernel[0, 1] != survey.kernel[0, 1]


def test_mixture_of_transformers_samples_its_law(asked, trained):
    policy = jg.policies.MixturePolicy(trained[0], np.array([0.3, 0.7], np.float32))
    prompt = jnp.asarray(asked.prompts[0])
    wanted = 0.3 * answer_law(trained[0], asked)[0, 0] + 0.7 * answer_law(trained[0], asked)[1, 0]
    for by in ("response", "token"):
        drawn = policy.sample(jax.random.key(7), 2, 4000, prompt=prompt, by=by)
        enough = np.mean([asked.decode(row) == "enough." for row in realise.cut(asked, drawn)])
        assert enough == pytest.approx(wanted[1], abs=0.04)


def test_training_goes_on_where_it_was_stopped(survey, asked, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHUNK", 5)
    monkeypatch.setattr(training, "KEPT_EVERY", 1)
    start = Transformers.fresh(Architecture(len(asked.vocabulary), asked.length, 16, 2), 2, jax.random.key(0))
    answers = jnp.log(jnp.full((2, 2, 3), 1 / 3, jnp.float32))
    loss: Any = ResponseLoss(asked, 4)

    def run(checkpoint, report=lambda line: None, data=answers, loss: Any = loss):
        options: Any = dict(steps=15, learning_rate=1e-2, checkpoint=checkpoint, report=report)
        return training.train(start, loss, data, None, jax.random.key(1), **options)

    whole, losses = run(None)
    assert losses.shape == (15, 2) and losses[-1].mean() < losses[0].mean()

    def stop(line):
        if line.startswith("step 10"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "kept", stop)
    said = []
    resumed, again = run(tmp_path / "kept", said.append)
    assert [line.split(",")[0] for line in said] == ["step 15 of 15"]
    np.testing.assert_array_equal(again, losses)
    for one, other in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="checkpoint of another training"):
        run(tmp_path / "kept", data=answers + 1)
    with pytest.raises(ValueError, match="loss of model 0 is nan at step 0"):
        run(None, loss=lambda of, params, data, shared, key: jnp.log(-jnp.exp(jnp.sum(params["head"]["bias"]))))


def test_pooling():
    full = jg.surveys.load()
    three = pooled(full, {"left": full.groups[:3], "middle": full.groups[3:4], "right": full.groups[4:]})
    assert three.groups == ("left", "middle", "right") and three.people.tolist() == [656, 855, 736]
    np.testing.assert_allclose(three.counts["natenvir"][2], full.counts["natenvir"][4:].sum(0))
    np.testing.assert_allclose(three.shares[0], full.shares[:3].sum())
    for groups, words in (
        ({"left": full.groups[:3]}, "groups names 'moderate' 0 times"),
        ({"left": full.groups, "right": full.groups[:1]}, "groups names 'extremely liberal' 2 times"),
        ({"left": ["nobody"]}, "groups names 'nobody'"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            pooled(full, groups)


WEIGHTS = np.array([[0.9, 0.1], [0.35, 0.65]])


@pytest.mark.parametrize("way", ["supervised", pytest.param("distilled", marks=pytest.mark.slow), "rlhf"])
def test_single_models_become_mixtures(asked, trained, way):
    models, everyone = trained
    start = models[0]
    made = getattr(realise, way)(models, WEIGHTS, start, asked, jax.random.key(3), steps=200, replies=48)
    before = realise.fidelity(models[np.array([0, 0])], models, WEIGHTS, asked)
    after = realise.fidelity(made, models, WEIGHTS, asked)
    assert before.total_variation[1] > 0.2  # the first group's model is far from the second agent's mixture
    sampled = way == "supervised"  # its examples are draws: the noise of a step does not fade at the optimum
    assert (after.total_variation < (0.04 if sampled else 0.01)).all()
    assert after.total_variation[1] < before.total_variation[1] / (4 if sampled else 20)
    assert after.divergence.max() < (0.01 if sampled else 2e-3)


def test_realise_bad_input(asked, trained):
    models, everyone = trained
    other = Transformers.fresh(Architecture(9, 8), 1, jax.random.key(0))[0]
    for weights, start, words in (
        (np.ones((2, 3)) / 3, everyone, "weights has shape (2, 3), expected (n, 2)"),
        (np.array([[0.5, 0.6]]), everyone, "weights[0] sums to 1.1"),
        (WEIGHTS, other, "start is a model of Architecture(vocabulary=9"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            realise.distilled(models, weights, start, asked, jax.random.key(0), steps=1)


def test_distances_between_laws_count_what_is_missing():
    p, q = np.array([0.5, 0.3]), np.array([0.2, 0.7])
    assert total_variation(p, q) == pytest.approx(0.5 * (0.3 + 0.4 + 0.1))
    assert divergence(p, q) == pytest.approx(0.5 * np.log(2.5) + 0.3 * np.log(3 / 7) + 0.2 * np.log(2))


def test_stems_are_read_as_they_are_written(survey):
    first, second = survey.table.questions
    spaced = replace(first, text="How  much,\n all in all?")
    other = replace(survey, table=replace(survey.table, questions=(spaced, second)))
    asked = Questionnaire.of(other)
    assert asked.stems[0] == "How much, all in all?"
    tokens = asked.encode(f"{asked.stems[0]} too much.")
    np.testing.assert_array_equal(tokens[1:], asked.sentences[0, 0][asked.sentences[0, 0] != START])
    np.testing.assert_allclose(answer_table(other, asked), answer_table(survey, Questionnaire.of(survey)))


def test_a_survey_of_one_question_is_refused(survey, tmp_path):
    alone = replace(survey, table=replace(survey.table, questions=survey.table.questions[:1]))
    with pytest.raises(ValueError, match="small has one question, expected two or more"):
        experiment.run(align_options({}), alone, tmp_path)
    assert not list(tmp_path.iterdir())
