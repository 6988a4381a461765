"""From a survey to text and back: what the theory predicts of a population, and what its text says of it (theory §8).

The survey's groups become language models; the game is measured from what these say; its equilibrium predicts every
agent's mixture; each agent's policy is realised, as the mixture itself and as single models; text is drawn from them,
and the mixture is estimated from the text. Then the population is steered, and all of it is done again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgame.alignment import society
from jaxgame.alignment.options import AlignOptions
from jaxgame.alignment.text import Texts, asked, kept, spoken
from jaxgame.equilibrium import Equilibrium
from jaxgame.exclusion import excluded
from jaxgame.games import AlignmentGame
from jaxgame.policies import realise
from jaxgame.policies.estimate import MixtureEstimate, estimate_mixture
from jaxgame.policies.groups import STEPS, Quality, answer_law, measured, quality, train_groups
from jaxgame.policies.questionnaire import Questionnaire
from jaxgame.policies.realise import Fidelity
from jaxgame.policies.stacked import Transformer, Transformers
from jaxgame.steering.floor import steer_to_floor
from jaxgame.steering.plan import Plan
from jaxgame.surveys import Survey

WAYS = ("distilled", "rlhf")
PILOT = 2000  # responses that tell how many are needed
HELD_OUT = 4  # questions of which the models of a second training know nothing
Begin = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the text of one agent's policy says of its mixture, and how surely."""

    estimate: MixtureEstimate
    bound: np.ndarray  # (D,) Cramér–Rao: the least standard errors that so many responses can have
    examples: list[str]


@dataclasses.dataclass(frozen=True)
class Realised:
    """Single models that were taught to be the agents' mixtures, in one way."""

    start: Fidelity
    fidelity: Fidelity
    readings: list[Reading]
    limits: np.ndarray  # (n, D) what their text would say of them if there were no end of it


@dataclasses.dataclass(frozen=True)
class Round:
    """A population: what was predicted of it, and what its text says."""

    game: AlignmentGame
    equilibrium: Equilibrium
    weights: np.ndarray  # (n, D)
    excluded: np.ndarray  # (D,)
    mixtures: list[Reading]
    shown: Reading  # the text of all agents together, each by its reach: the representation
    realised: dict[str, Realised]

    @property
    def representation(self) -> np.ndarray:
        """(D,) as predicted."""
        return society.representation(self.weights, self.game)


@dataclasses.dataclass(frozen=True)
class Alignment:
    """The whole experiment."""

    options: AlignOptions
    survey: Survey
    questionnaire: Questionnaire
    quality: Quality
    held_out: Quality
    before: Round
    plan: Plan
    floor: np.ndarray  # (D,)
    after: Round
    timings: dict[str, float]


def run(options: AlignOptions, survey: Survey, work: Path, begin: Begin = lambda stage: None) -> Alignment:
    """The experiment on a survey. work: a folder in which what is done is kept, so that a run that was stopped goes on
    from there. begin: told of every step as it starts. Raises ValueError.
    """
    timings: dict[str, float] = {}

    @contextmanager
    def stage(name: str, text: str) -> Iterator[Begin]:
        begin(text)
        start = time.perf_counter()
        yield lambda line: begin(f"{text}: {line}")
        timings[name] = time.perf_counter() - start

    work = work / digest(options, survey)
    keys = iter(jax.random.split(jax.random.key(options.seed), 8))
    asked_of = Questionnaire.of(survey)
    if len(asked_of.stems) < 2:
        raise ValueError(f"{survey.name} has one question, expected two or more: one is held out of a second training")
    with stage("group models", f"training models of {len(survey.groups)} groups") as report:
        models, everyone = train_groups(
            survey, next(keys), steps=options.steps or STEPS, checkpoint=work / "groups", report=report
        )
        known = quality(models, survey, asked_of)
    with stage("held-out questions", "training models that are not told of some questions") as report:
        held_out = _held_out(survey, asked_of, next(keys), options, work, report)
    law = answer_law(models, asked_of)
    game = society.population(measured(survey, law), options)
    world = _World(options, asked_of, models, everyone, law, work)
    with stage("before", "the population as it is") as report:
        before = world.round("before", game, next(keys), report)
    with stage("plan", "looking for what brings every group to its floor"):
        floor = options.floor * np.asarray(survey.shares)
        plan = steer_to_floor(game, floor, lever="common")
        if not plan.success:
            raise ValueError(f"no plan brings every group to its floor: {plan.message}")
    with stage("after", "the population after the plan") as report:
        steered = game.replace(appeal=game.appeal + plan.theta[None])
        after = world.round("after", steered, next(keys), report)
    return Alignment(options, survey, asked_of, known, held_out, before, plan, floor, after, timings)


@dataclasses.dataclass(frozen=True)
class _World:
    """What stays the same before and after the plan."""

    options: AlignOptions
    questionnaire: Questionnaire
    models: Transformers
    everyone: Transformer
    law: np.ndarray  # (D, Q, options)
    work: Path

    def round(self, name: str, game: AlignmentGame, key: Any, report: Begin) -> Round:
        found = society.predicted(game)
        weights = society.profile_of(found)
        of_text, of_models = jax.random.split(key)
        texts, bounds = [], []
        for i, w in enumerate(weights):
            said = report_prefix(report, f"agent {i + 1} of {len(weights)}")
            text, bound = self._mixture(f"{name}-mixture-{i}", w, jax.random.fold_in(of_text, i), said)
            texts.append(text)
            bounds.append(bound)
        report("reading the text")
        mixtures = [_reading(text, bound) for text, bound in zip(texts, bounds, strict=True)]
        together = society.together([text.scores for text in texts], game)
        shown = _reading(Texts(together, np.array([])), society.bound(together, society.representation(weights, game)))
        realised = {}
        for k, way in enumerate(WAYS):
            realised[way] = self._realised(name, way, weights, jax.random.fold_in(of_models, k), report)
        gone = np.asarray(excluded(jnp.asarray(weights)))
        return Round(game, found, weights, gone, mixtures, shown, realised)

    def _mixture(self, name: str, weights: np.ndarray, key: Any, report: Begin) -> tuple[Texts, np.ndarray]:
        """From responses to all questions, as many as the standard error that is asked for takes."""
        pilot_key, key = jax.random.split(key)
        draw = lambda key, n: spoken(self.models, weights, self.questionnaire, key, n, report)  # noqa: E731
        pilot = kept(self.work / f"{name}-pilot.npz", lambda: draw(pilot_key, PILOT))
        least = society.bound(pilot.scores, weights)
        needed = int(np.ceil((least.max() / self.options.standard_error) ** 2))
        n = min(max(needed, PILOT), self.options.responses)
        return kept(self.work / f"{name}.npz", lambda: draw(key, n)), least

    def _realised(self, name: str, way: str, weights: np.ndarray, key: Any, report: Begin) -> Realised:
        teach, speak = jax.random.split(key)
        students = getattr(realise, way)(
            self.models,
            weights,
            self.everyone,
            self.questionnaire,
            teach,
            steps=self.options.student_steps,
            checkpoint=self.work / f"{name}-{way}",
            report=report_prefix(report, f"{way} models"),
        )
        start = Transformers(jax.tree.map(lambda leaf: leaf[None], self.everyone.params), self.models.architecture)
        said, readings = answer_law(students, self.questionnaire), []
        for i in range(len(weights)):
            text = kept(
                self.work / f"{name}-{way}-{i}.npz",
                lambda i=i: asked(
                    students[i], self.models, self.questionnaire, jax.random.fold_in(speak, i), self.options.answers
                ),
            )
            readings.append(_reading(text, society.answer_bound(self.law, weights[i])))
        begun = [realise.fidelity(start, self.models, w[None], self.questionnaire) for w in weights]
        return Realised(
            start=Fidelity(*(np.concatenate(x) for x in zip(*map(dataclasses.astuple, begun), strict=True))),
            fidelity=realise.fidelity(students, self.models, weights, self.questionnaire),
            readings=readings,
            limits=np.stack([society.limit(one, self.law) for one in said]),
        )


def _reading(text: Texts, least: np.ndarray) -> Reading:
    return Reading(estimate_mixture(text.scores), least / np.sqrt(len(text.scores)), list(text.examples))


def _held_out(
    survey: Survey, questionnaire: Questionnaire, key: Any, options: AlignOptions, work: Path, report: Begin
) -> Quality:
    """How well models answer questions that they were not trained on; evenly spaced ones, a fourth at most."""
    n = len(questionnaire.stems)
    out = np.unique(np.linspace(0, n - 1, min(HELD_OUT, max(1, n // 4)) + 2).astype(int)[1:-1]).tolist()
    known = questionnaire.without(out)
    models, _ = train_groups(
        survey,
        key,
        questionnaire=known,
        steps=max(1, (options.steps or STEPS) // 2),
        checkpoint=work / "held-out",
        report=report,
    )
    rest = questionnaire.without([q for q in range(n) if q not in out])
    return quality(models, survey, rest)


def report_prefix(report: Begin, prefix: str) -> Begin:
    """Reports of a part."""
    return lambda line: report(f"{prefix}, {line}")


def digest(options: AlignOptions, survey: Survey, *constants: float) -> str:
    """Tells experiments apart; a name for a folder."""
    words = json.dumps([options.model_dump(), repr(survey.table), *constants], sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:12]
