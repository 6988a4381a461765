"""Games measured from logs: planted truth, formulas, and errors that name the line."""

import csv
import json

import jax.numpy as jnp
import numpy as np
import pytest

import jaxgame as jg

GROUPS = ("left", "middle", "right")
SHARES = np.array([0.3, 0.5, 0.2])
SAID = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]])  # by group, to each of the prompts
PROMPTS = ("tax", "war", "bread")
MIXTURES = {"ann": np.array([0.6, 0.3, 0.1]), "bob": np.array([0.0, 0.2, 0.8])}
VALUE = {"yes": 1.0, "maybe": 0.5, "no": 0.0}  # how engaging each answer is
ANSWERS = tuple(VALUE)


def tables():
    """p_d(answer | prompt), (prompts, groups, answers)."""
    return np.stack([np.roll(SAID, k, 1) for k in range(len(PROMPTS))])


def records(rng, references=400, responses=400, engagement=False):
    rows = []
    for prompt, table in zip(PROMPTS, tables(), strict=True):
        for group, law in zip(GROUPS, table, strict=True):
            rows += [dict(prompt=prompt, response=x, group=group) for x in rng.choice(ANSWERS, references, p=law)]
        for agent, weights in MIXTURES.items():
            rows += [
                dict(prompt=prompt, response=x, agent=agent) for x in rng.choice(ANSWERS, responses, p=weights @ table)
            ]
    if engagement:
        for row in rows:
            row["engagement"] = VALUE[row["response"]] + 0.1 * rng.normal()
    return rows


def close(value, error, truth, times=4.0):
    return (np.abs(np.asarray(value) - truth) <= times * np.asarray(error) + 1e-12).all()


def test_planted_game(rng):
    found = jg.policies.measure(records(rng), SHARES, draws=60)
    kernel = np.einsum("qdo,qeo->de", tables(), tables()) / len(PROMPTS)
    assert found.groups == GROUPS and found.agents == ("ann", "bob") and found.left_out == 0
    assert close(found.kernel, found.errors["kernel"], kernel)
    assert close(found.appeal, found.errors["appeal"], kernel @ SHARES)
    assert np.asarray(found.spread).tolist() == [1, 1, 1]
    for i, (estimate, truth) in enumerate(zip(found.estimates, MIXTURES.values(), strict=True)):
        assert close(found.mixtures[i], np.maximum(found.errors["mixtures"][i], estimate.standard_errors), truth)
        assert np.allclose(estimate.weights, found.mixtures[i], atol=1e-10)
    game = found.game(attractiveness=0.2, diversity=0.1)
    assert bool(jg.solve(game).converged)
    many = jg.solve_many(found.games(attractiveness=0.2, diversity=0.1))
    assert many.profile.shape == (60, 2, 3) and np.asarray(many.converged).all()
    assert np.allclose(game.targets, found.mixtures, atol=1e-12)


def test_errors_are_calibrated():
    """Bootstrap errors against the scatter over fresh logs."""
    mixtures, kernels, reported = [], [], []
    for seed in range(25):
        found = jg.policies.measure(records(np.random.default_rng(seed), 200, 150), SHARES, draws=40)
        mixtures.append(found.mixtures[0])
        kernels.append(found.kernel)
        reported.append([found.errors["mixtures"][0].max(), found.errors["kernel"].max()])
    actual = np.array([np.std(mixtures, 0, ddof=1).max(), np.std(kernels, 0, ddof=1).max()])
    ratio = np.mean(reported, 0) / actual
    assert (0.6 < ratio).all() and (ratio < 1.6).all()


def test_appeal_from_engagement(rng):
    """a_d = E_{p_d}[engagement], from the groups' own responses and, by reweighting, from an agent's."""
    truth = np.einsum("qdo,o->d", tables(), list(VALUE.values())) / len(PROMPTS)
    rows = records(rng, engagement=True)
    for row in rows:
        if row.get("agent") == "bob":
            row.pop("engagement")
    found = jg.policies.measure(rows, draws=60)
    assert found.appeal.shape == (2, 3)
    assert close(found.appeal, found.errors["appeal"], truth)
    own = [row for row in rows if row.get("group")]
    alone = jg.policies.measure(own, draws=20)
    assert alone.appeal.shape == (3,) and close(alone.appeal, alone.errors["appeal"], truth)
    assert np.allclose(found.appeal[1], alone.appeal)  # bob's audience left no trace
    with pytest.raises(ValueError, match="targets is missing"):
        alone.game()
    assert alone.game(targets=np.tile(SHARES, (4, 1))).n_agents == 4


def test_embeddings(rng):
    """K = ΦΦᵀ and v = E‖x‖² of a planted embedding, as an array and as a function."""
    rows = records(rng, 300, 50)
    places = {answer: x for answer, x in zip(ANSWERS, rng.normal(size=(3, 5)), strict=True)}
    embedding = np.stack([places[row["response"]] for row in rows])
    found = jg.policies.measure(rows, SHARES, embedding=embedding, draws=30)
    means = np.einsum("qdo,om->qdm", tables(), np.stack(list(places.values())))
    squares = np.einsum("qdo,o->d", tables(), [x @ x for x in places.values()]) / len(PROMPTS)
    assert close(found.kernel, found.errors["kernel"], np.einsum("qdm,qem->de", means, means) / len(PROMPTS))
    assert close(found.spread, found.errors["spread"], squares)
    again = jg.policies.measure(rows, SHARES, embedding=lambda texts: np.stack([places[x] for x in texts]), draws=2)
    assert np.allclose(again.kernel, found.kernel)
    assert bool(jg.solve(found.game(attractiveness=0.1)).converged)


def test_scores_of_models_and_known_groups(rng):
    rows = records(rng)

    def score(prompts, responses):
        at = [(PROMPTS.index(p), ANSWERS.index(r)) for p, r in zip(prompts, responses, strict=True)]
        return np.log(np.stack([tables()[q, :, o] for q, o in at]))

    found = jg.policies.measure(rows, SHARES, score=score, draws=30)
    mine = [k for k, row in enumerate(rows) if row.get("agent") == "ann"]
    exact = jg.policies.estimate_mixture(
        score(*zip(*((rows[k]["prompt"], rows[k]["response"]) for k in mine), strict=True))
    )
    assert np.allclose(found.mixtures[0], exact.weights, atol=1e-9)
    labelled = [dict(row, group="left") if row.get("agent") == "bob" else row for row in rows]
    assert np.allclose(jg.policies.measure(labelled, SHARES, score=score, draws=2).mixtures[1], [1, 0, 0])


def test_interview_of_models(rng):
    """Models of two tokens, measured through what they say."""

    class Biased:
        def __init__(self, share):
            self.share = share

        def log_probs(self, tokens):
            return jnp.broadcast_to(jnp.log(jnp.asarray([self.share, 1 - self.share])), (len(tokens), 2))

    log = jg.policies.interview(
        [Biased(0.9), Biased(0.2)], {"q": jnp.asarray([0])}, groups=["a", "b"], responses=300, length=1
    )
    assert len(log) == 600
    found = jg.policies.measure(log, np.array([0.5, 0.5]), draws=40)
    assert close(found.kernel, found.errors["kernel"], [[0.82, 0.26], [0.26, 0.68]])


def test_files_say_the_same(rng, tmp_path):
    rows = records(rng, 20, 20, engagement=True)
    lines, table = tmp_path / "log.jsonl", tmp_path / "log.csv"
    lines.write_text("\n".join(json.dumps(row | {"other": [1]}) for row in rows) + "\n\n")
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["agent", "prompt", "response", "group", "engagement"], restval="")
        writer.writeheader()
        writer.writerows(rows)
    found = [jg.policies.measure(source, draws=3) for source in (rows, lines, str(table), jg.policies.Log.of(rows))]
    for other in found[1:]:
        for name in ("mixtures", "kernel", "appeal"):
            assert np.array_equal(getattr(found[0], name), getattr(other, name))
            assert np.array_equal(found[0].draws[name], other.draws[name])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '{"prompt": "p", "response": "r", "group": "a"}\n{"prompt": "p"}',
            r"log.jsonl, line 2: 'response' is missing",
        ),
        ('\n{"prompt": "p", "response": 3, "group": "a"}', r"line 2: 'response' is 3, expected a text"),
        ('{"prompt": "p", "response": "r"}', r"line 1: has neither an agent nor a group"),
        ('{"prompt": "p", "response": "r", "group": "a", "engagement": "high"}', r"line 1: 'engagement' is 'high'"),
        ('{"prompt": "p", "response": "r", "group": "a", "engagement": NaN}', r"line 1: 'engagement' is nan"),
        ("[1, 2]", r"line 1: expected an object"),
        ("{", r"line 1: not JSON"),
        ("", "has no responses"),
    ],
)
def test_errors_name_the_line(tmp_path, text, says):
    path = tmp_path / "log.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        jg.policies.measure(path, SHARES)


def test_errors_of_tables_and_arguments(rng, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("prompt,answer\np,r\n")
    with pytest.raises(ValueError, match="line 1: the header lacks the column 'response'"):
        jg.policies.measure(path)
    path.write_text('prompt,response,group\np,"r\nr",a\np,r\n')
    with pytest.raises(ValueError, match="line 4: not as many cells"):
        jg.policies.measure(path)
    with pytest.raises(ValueError, match=r"\.jsonl or \.csv"):
        jg.policies.measure(tmp_path / "log.txt")
    rows = records(rng, 5, 5)
    with pytest.raises(ValueError, match="audience is missing"):
        jg.policies.measure(rows)
    with pytest.raises(ValueError, match="groups has 'up'"):
        jg.policies.measure(rows, SHARES, groups=["left", "up"])
    with pytest.raises(ValueError, match=r"score has shape \(3, 3\)"):
        jg.policies.measure(rows, SHARES, score=np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"embedding\[0, 1\] is nan"):
        jg.policies.measure(rows, SHARES, embedding=np.where(np.arange(2) == 1, np.nan, np.zeros((len(rows), 2))))
    apart = [dict(prompt=g, response="r", group=g) for g in "ab"]
    with pytest.raises(ValueError, match="no prompt has responses of all groups"):
        jg.policies.measure(apart, np.full(2, 0.5))
    extra = [*rows, dict(prompt="new", response="yes", agent="ann")]
    assert jg.policies.measure(extra, SHARES, draws=2).left_out == 1
    with pytest.raises(ValueError, match="agent 'eve' answered no prompt"):
        jg.policies.measure([*rows, dict(prompt="new", response="yes", agent="eve")], SHARES)
    with pytest.raises(ValueError, match="draws is 1"):
        jg.policies.measure(rows, SHARES, draws=1)


@pytest.mark.float32
def test_single_precision(rng):
    found = jg.policies.measure(records(rng, 30, 30), SHARES, draws=3, dtype=jnp.float32)
    assert found.kernel.dtype == found.mixtures.dtype == found.draws["appeal"].dtype == jnp.float32
    assert jg.solve(found.game()).profile.dtype == jnp.float32


def test_engagement_with_one_reference_response(rng):
    """Each draw keeps what tells the appeal of a group, however little of it there is."""
    rows = records(rng, 20, 5)
    for group in GROUPS:
        next(row for row in rows if row.get("group") == group)["engagement"] = 1.0
    found = jg.policies.measure(rows, draws=20)
    np.testing.assert_array_equal(found.appeal, np.ones(3))


def test_impossible_responses_and_priors(rng):
    rows = [*records(rng, 20, 5), dict(prompt="tax", response="perhaps", agent="ann")]
    with pytest.raises(ValueError, match="records: response 'perhaps' to 'tax' has probability 0 in every group"):
        jg.policies.measure(rows, SHARES, prior=0, draws=2)
    assert np.isfinite(jg.policies.measure(rows, SHARES, draws=2).mixtures).all()
    for prior in (-1, np.nan, np.inf):
        with pytest.raises(ValueError, match="prior is"):
            jg.policies.measure(rows, SHARES, prior=prior)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"prompt,response,group\np,r,a\np,\xff,a\n", r"a\.csv, line 3: not UTF-8"),
        ("a.jsonl", b'\n{"prompt": "\xff"}', r"a\.jsonl, line 2: not UTF-8"),
        ("a.csv", b'prompt,"resp"onse,group\n', r"a\.csv, line 1: not CSV"),
        ("a.csv", b"prompt,response,group\np," + b"r" * 200_000 + b",a\n", r"a\.csv, line 2: not CSV"),
        (
            "a.jsonl",
            b'{"prompt": "p", "response": "r", "group": "a", "engagement": 1' + b"0" * 400 + b"}",
            r"a\.jsonl, line 1: 'engagement' is 10",
        ),
        ("a.jsonl", b'{"engagement": ' + b"1" * 5000 + b"}", r"a\.jsonl, line 1: not JSON"),
    ],
)
def test_broken_files_name_the_line(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says):
        jg.policies.Log.read(tmp_path / name)


def test_byte_order_mark(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfprompt,response,group\r\np,"r\r\ns",a\r\n')
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "p", "response": "r", "group": "a"}')
    assert jg.policies.Log.read(tmp_path / "a.csv").response.tolist() == ["r\r\ns"]
    assert jg.policies.Log.read(tmp_path / "a.jsonl").prompt.tolist() == ["p"]
