"""The main job: from a survey to an equilibrium, its proof, who is left out, and how sure the survey lets us be."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxgame import solvers
from jaxgame._pytree import pytree
from jaxgame.certificate.certify import Certificate, certify
from jaxgame.config import StudyOptions
from jaxgame.equilibrium import Equilibrium
from jaxgame.exclusion import critical_ratios, excluded, inclusion_price
from jaxgame.games import AlignmentGame
from jaxgame.neighbourhood import ALIKE, Neighbourhood, explore
from jaxgame.report.groups import Map, draw_map, features, indistinct
from jaxgame.solvers.loop import CONVERGED, Loop
from jaxgame.solvers.scale import measure, uniform
from jaxgame.solving import default_solver, solve
from jaxgame.steering.floor import Charge, concluded
from jaxgame.steering.plan import Plan
from jaxgame.surveys import Survey, load

COMPARED = ("ProjectedGradient", "Extragradient", "OptimisticGradient", "GoldenRatio", "AcceleratedGradient")
INTERVAL = (0.05, 0.95)  # what is shown of the posterior draws
Begin = Callable[[str], None]  # told what starts now
CURVE_NUMBERS = 400_000_000  # entries that the compared solvers may write, a solver
CURVE_STEPS = (50, 2000)
FLOOR = 0.5  # of a group's population share: what the study's plan brings every group to


@dataclasses.dataclass(frozen=True)
class Curve:
    """A solver's natural residual after so many evaluations of the marginals."""

    solver: str
    evaluations: np.ndarray
    residuals: np.ndarray
    converged: bool


@dataclasses.dataclass(frozen=True)
class Draws:
    """Everything that the survey decides, once a posterior draw of its tables: arrays with a leading axis of draws."""

    shares: np.ndarray
    representation: np.ndarray
    excluded: np.ndarray
    price: np.ndarray
    critical: np.ndarray | None  # without the draws in which it does not exist
    positions: np.ndarray  # (draws, D, 2) on the axes of `Map`
    after: np.ndarray | None  # representation under the plan; None without one
    unconverged: int

    @property
    def reached(self) -> np.ndarray:
        """Where a group has FLOOR of its share under the plan, (draws, D)."""
        assert self.after is not None
        return self.after >= FLOOR * self.shares


@dataclasses.dataclass(frozen=True)
class Study:
    """Options, what they led to, and how long it took (seconds)."""

    options: StudyOptions
    survey: Survey
    game: AlignmentGame
    equilibrium: Equilibrium
    certificate: Certificate
    excluded: np.ndarray  # (D,)
    price: np.ndarray  # (D,)
    critical: np.ndarray | None  # (D,), None where it does not exist
    why_not_critical: str
    plan: Plan | None  # one addition to everyone's appeal, by which every group has FLOOR of its share
    why_no_plan: str
    draws: Draws
    curves: list[Curve]
    alike: list[tuple[int, int]]  # pairs of groups that the survey cannot tell apart
    map: Map
    around: Neighbourhood
    timings: dict[str, float]

    @property
    def ratio(self) -> float:
        """α/γ."""
        return self.options.attractiveness / self.options.consistency

    @property
    def certified(self) -> bool:
        """Converged, with a finite bound on what any agent could gain."""
        return bool(self.equilibrium.converged) and math.isfinite(float(self.equilibrium.gap))


@dataclasses.dataclass(frozen=True)
class Design:
    """What is compiled in. Numbers are arguments of the compiled functions, so that one compilation serves them all."""

    agents: int
    kernel: str
    diversity_form: str
    metric: str
    solver: str
    heterogeneous: bool


def load_survey(options: StudyOptions) -> Survey:
    """The survey that the options name. Raises ValueError or OSError where no study can be made of it."""
    dtype = jnp.dtype(options.precision)
    if options.survey.endswith(".csv"):
        if options.group is None or options.questions is None:
            raise ValueError(f"{options.survey}: a CSV needs --group COLUMN and --questions COLUMN,COLUMN,…")
        questions = options.questions
        if isinstance(questions, dict):
            questions = {name: None if form == "unordered" else form for name, form in questions.items()}
        given: dict[str, Any] = dict(weight=options.weight, groups=options.groups, missing=options.missing)
        given = {name: value for name, value in given.items() if value is not None}
        survey = Survey.from_csv(options.survey, options.group, questions, dtype=dtype, **given)
    else:
        for name in ("group", "questions", "weight", "groups", "missing"):
            if getattr(options, name) is not None:
                raise ValueError(f"{name} is for a survey in a .csv file, and the survey is {options.survey!r}")
        survey = load(options.survey, dtype=dtype)
    jax.eval_shape(
        partial(_build, design=_design(options)), survey, _levels(options, survey)
    )  # raises as the game would
    return survey


def run(options: StudyOptions, survey: Survey, begin: Begin = lambda stage: None) -> Study:
    """The study of a survey; `begin` is told of every step as it starts."""
    timings: dict[str, float] = {}

    @contextmanager
    def stage(name: str, text: str) -> Iterator[None]:
        begin(text)
        start = time.perf_counter()
        yield
        timings[name] = time.perf_counter() - start

    design, levels = _design(options), _levels(options, survey)
    with stage("solve", f"solving the game of {options.agents} agents"):
        answer = _solve(survey, levels, design=design)
        equilibrium = jax.block_until_ready(answer.equilibrium)
        game = equilibrium.game
    with stage("certify", "certifying the equilibrium"):
        certificate = jax.block_until_ready(certify(game, equilibrium.profile))
    with stage("exclusion", "following the groups until they fall out"):
        critical, why_not = None, ""
        try:
            critical = _critical(survey, levels, design)
        except ValueError as error:
            why_not = str(error)
    with stage("plan", f"looking for what brings every group to {FLOOR:.0%} of its share"):
        plan, why_no_plan = None, ""
        try:
            plan = _plan(survey, levels, design, equilibrium)
        except ValueError as error:
            why_no_plan = str(error)
    with stage("map", "mapping the groups"):
        chart = draw_map(np.asarray(answer.features, float))
        alike = indistinct(survey)
    with stage("around", "looking at other levels"):
        few = options.model_copy(update={"agents": min(options.agents, ALIKE)})
        around = explore(options, survey, game if design.heterogeneous else game_of(few, survey), critical)
    with stage("draws", f"solving {options.draws} posterior draws of the survey"):
        draws = _draws(survey, options, design, levels, chart, critical is not None, plan, begin)
    with stage("solvers", "comparing solvers"):
        curves = [_own_curve(equilibrium, options.solver), *_compared(game, options.solver)]
    return Study(
        options=options,
        survey=survey,
        game=game,
        equilibrium=equilibrium,
        certificate=certificate,
        excluded=np.asarray(answer.excluded),
        price=np.asarray(answer.price),
        critical=critical,
        why_not_critical=why_not,
        plan=plan,
        why_no_plan=why_no_plan,
        draws=draws,
        curves=curves,
        alike=alike,
        map=chart,
        around=around,
        timings=timings,
    )


def _design(options: StudyOptions) -> Design:
    metric, heterogeneous = options.metric, options.heterogeneity > 0
    return Design(options.agents, options.kernel, options.diversity_form, metric, options.solver, heterogeneous)


def _levels(options: StudyOptions, survey: Survey) -> dict[str, Array]:
    dtype = jnp.dtype(options.precision)
    names = ("attractiveness", "consistency", "diversity", "heterogeneity")
    return {name: jnp.asarray(getattr(options, name), dtype) for name in names} | {
        "seed": jnp.asarray(options.seed, jnp.uint32),
        "addition": jnp.zeros(len(survey.groups), dtype),  # to everyone's appeal
    }


def game_of(options: StudyOptions, survey: Survey) -> AlignmentGame:
    """The game that the options make of a survey."""
    return _build(survey, _levels(options, survey), design=_design(options))


def map_of(options: StudyOptions, survey: Survey) -> Map:
    """Where the groups of a survey stand."""
    return draw_map(np.asarray(features(survey, options.kernel), float))


def _build(survey: Survey, levels: dict[str, Array], *, design: Design) -> AlignmentGame:
    targets = survey.shares
    if design.heterogeneous:
        # Var t_d = h · share_d (1 − share_d): h → 1 is an agent that was aligned to one group alone.
        concentration = targets * (1 / levels["heterogeneity"] - 1)
        key = jax.random.key(levels["seed"])
        targets = jax.random.dirichlet(key, concentration, (design.agents,), targets.dtype)
    game = survey.game(
        design.agents,
        kernel=design.kernel,
        targets=targets,
        attractiveness=levels["attractiveness"],
        consistency=levels["consistency"],
        diversity=levels["diversity"],
        diversity_form=design.diversity_form,
        consistency_metric=design.metric,
    )
    return game.replace(appeal=game.appeal + levels["addition"][None])


def _solver(name: str) -> Any:
    return None if name == "auto" else getattr(solvers, name)()


@pytree()
class _Answer:
    """What one solve is asked for."""

    equilibrium: Equilibrium
    excluded: Array
    price: Array
    features: Array


def _solve(survey: Survey, levels: dict[str, Array], *, design: Design) -> _Answer:
    game = _built(survey, levels, design=design)
    # Outside jit, where the fallback is compiled only if it is needed.
    equilibrium = solve(game, _solver(design.solver), history=True)
    return _Answer(equilibrium, *_described(survey, game, equilibrium.profile, design=design))


_built = partial(jax.jit, static_argnames="design")(_build)


@partial(jax.jit, static_argnames="design")
def _described(survey: Survey, game: AlignmentGame, profile: Array, *, design: Design) -> tuple[Array, Array, Array]:
    return excluded(profile), inclusion_price(game, profile), features(survey, design.kernel)


def _critical(survey: Survey, levels: dict[str, Array], design: Design) -> np.ndarray:
    """Critical ratios (D,) where every agent is aligned to the population shares. ValueError where they do not exist.

    What such a population does does not depend on how many agents it has, so long as they meet someone (theory §3.1).
    """
    pair = dataclasses.replace(design, agents=min(design.agents, 2), heterogeneous=False)
    ratios = np.asarray(critical_ratios(_built(survey, levels, design=pair)))
    if np.isnan(ratios).any():
        raise ValueError("too many groups come and go as attractiveness grows to follow them all")
    return ratios


@partial(jax.jit, static_argnames="design")
def _floored(survey: Survey, levels: dict[str, Array], *, design: Design) -> Equilibrium:
    charge = Charge(_build(survey, levels, design=design), "common", levels["attractiveness"] * jnp.ones(design.agents))
    return solve(charge.game, bounds=charge.bounds(FLOOR * survey.shares))


def _plan(survey: Survey, levels: dict[str, Array], design: Design, before: Equilibrium) -> Plan:
    """`steer_to_floor` with lever "common", by the program that solved the survey itself. ValueError where there is no
    such lever.
    """
    charge = Charge.of(before.game, "common", "complementarity")
    found = _floored(survey, levels, design=design)
    prices = jnp.asarray(found.prices)
    after = _solve(survey, levels | {"addition": prices}, design=design).equilibrium
    return concluded(charge, FLOOR * survey.shares, found, prices, before, after)


def _draws(
    survey: Survey,
    options: StudyOptions,
    design: Design,
    levels: dict[str, Array],
    chart: Map,
    with_critical: bool,
    plan: Plan | None,
    begin: Begin,
) -> Draws:
    """One solve a draw, by the program that solved the survey itself.

    Not one `vmap`: that would be a second program to compile, which takes longer than all solves together, and memory
    would grow with the draws.
    """
    drawn = jax.device_get(survey.posterior(options.seed, options.draws))
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    unconverged = 0
    for k in range(options.draws):
        begin(f"solving draw {k + 1} of {options.draws} from the survey's posterior")
        one = jax.tree.map(lambda leaf, k=k: leaf[k], drawn)
        answer = _solve(one, levels, design=design)
        unconverged += not bool(answer.equilibrium.converged)
        found["representation"].append(np.asarray(answer.equilibrium.representation))
        found["excluded"].append(np.asarray(answer.excluded))
        found["price"].append(np.asarray(answer.price))
        found["features"].append(np.asarray(answer.features, float))
        if plan is not None:
            helped = _solve(one, levels | {"addition": plan.theta}, design=design).equilibrium
            unconverged += not bool(helped.converged)
            found["after"].append(np.asarray(helped.representation))
        if with_critical:
            with suppress(ValueError):  # a draw in which there are no critical ratios
                found["critical"].append(_critical(one, levels, design))
    stacked = {name: np.stack(rows) for name, rows in found.items()}
    return Draws(
        shares=np.asarray(drawn.shares),
        representation=stacked["representation"],
        excluded=stacked["excluded"],
        price=stacked["price"],
        critical=stacked.get("critical"),
        positions=chart.place(stacked["features"]),
        after=stacked.get("after"),
        unconverged=unconverged,
    )


def _own_curve(equilibrium: Equilibrium, solver: str) -> Curve:
    """The curve of the solve itself; it counts evaluations in total, so they are spread evenly over its steps."""
    steps = int(equilibrium.steps)
    history = np.asarray(equilibrium.history)[:steps]
    evaluations = 1 + np.arange(1, len(history) + 1) * (int(equilibrium.evaluations) - 1) / max(steps, 1)
    name = type(default_solver(equilibrium.game)).__name__ if solver == "auto" else solver
    return Curve(name, evaluations, history, bool(equilibrium.converged))


def _compared(game: AlignmentGame, own: str) -> list[Curve]:
    dtype = game.kernel.dtype
    steps = int(np.clip(CURVE_NUMBERS // (game.n_agents * game.n_groups), *CURVE_STEPS))
    tol = jnp.asarray(1e-10 if jnp.finfo(dtype).bits > 32 else 1e-6, dtype)
    curves = []
    for name in COMPARED:
        solver = getattr(solvers, name)()
        try:
            if hasattr(solver, "check"):
                solver.check(game)
        except ValueError:
            continue  # it cannot treat this game
        if name != own:
            residuals, made, evaluations, converged = jax.device_get(_curve(game, tol, solver=solver, steps=steps))
            a_step = (int(evaluations) - 1) / max(int(made), 1)
            curves.append(Curve(name, 1 + np.arange(1, made + 1) * a_step, residuals[:made], bool(converged)))
    return curves


@partial(jax.jit, static_argnames=("solver", "steps"))
def _curve(game: AlignmentGame, tol: Array, *, solver: Any, steps: int) -> tuple[Array, ...]:
    start = uniform(game, tol.dtype)
    scale = measure(game, tol.dtype)
    end = Loop(game, solver, scale, tol, jnp.asarray(steps), patience=steps, record=steps).run(start)
    assert end.evaluations is not None
    return end.history, end.steps, end.evaluations, end.status == CONVERGED
