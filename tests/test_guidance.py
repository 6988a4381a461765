"""The words of a plan: every number in them from the plan's own arrays or the reference solver."""

# Arguments that are wrong on purpose.
# pyright: reportArgumentType=false

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import zoo

import jaxgame as jg
from jaxgame.steering import objectives
from jaxgame.steering.guidance import levers

NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def population():
    spec = ref.random_alignment(np.random.default_rng(3), 4, 3, attractiveness=2.0, consistency=1.5)
    return spec, zoo.to_game(spec)


@pytest.fixture(scope="module")
def moved(population):
    return jg.steer_to_floor(population[1], 0.2, lever="targets")


def test_targets_move_between_groups_one_agent_at_a_time(population, moved):
    spec, _ = population
    change = np.asarray(moved.theta)
    text = moved.guidance(NAMES, rows=1)
    top = int(np.abs(change).max(1).argmax())
    gains = np.where(np.abs(change[top]) > 1e-6, change[top], 0)
    assert f"  agent {top}  {gains[gains > 0].sum():.4g} from " in text
    line = next(line for line in text.splitlines() if line.startswith(f"  agent {top}"))
    left, right = line.split(" from ")[1].split(" to ")
    for d, name in enumerate(NAMES):
        assert (name in left) == (gains[d] < 0) and (name in right) == (gains[d] > 0)
    alone = np.zeros_like(change)
    alone[top] = change[top]
    shown = spec.representation(ref.solution(spec.replace(targets=spec.targets + alone)))
    short = [NAMES[d] for d in np.flatnonzero(shown < 0.2 - 1e-6)]
    said = f"still below their floor: {', '.join(short)}" if short else "all groups reach their floor"
    assert f"The largest change alone (agent {top}): {said}." in text


def test_rounding_is_no_change(moved):
    noise = np.zeros(moved.theta.shape)
    noise[0] = [1e-19, -1e-19, 0]
    noise[1] = [0.1, -0.1, 1e-18]
    found = levers(dataclasses.replace(moved, theta=jnp.asarray(noise)), NAMES)
    assert [lever.name for lever in found] == ["agent 1"]
    assert levers(dataclasses.replace(moved, theta=jnp.asarray(1e-19 * noise)), NAMES) == []


def test_numbers_without_an_axis(population):
    spec, game = population

    def build(theta):
        return game.replace(attractiveness=theta["alpha"], diversity=theta["delta"])

    start = {"alpha": jnp.asarray(2.0), "delta": jnp.asarray(0.2)}
    plan = jg.steer(build, start, objective=objectives.shortfall(0.2), max_steps=30)
    text = plan.guidance(NAMES)
    alpha = float(plan.theta["alpha"])
    assert f"alpha  {alpha - 2:+.4g}  (2 → {alpha:.4g})" in text
    top = max(levers(plan, NAMES), key=lambda lever: abs(lever.change))
    field = {"alpha": "attractiveness", "delta": "diversity"}[top.name]
    only = dict(attractiveness=2.0, diversity=0.2) | {field: top.after}
    shown = spec.representation(ref.solution(spec.replace(**only)))
    before = np.asarray(plan.before.representation)
    change = np.abs(shown - before)
    said = [f"{name} would go from {x:.2%} to {y:.2%}." for name, x, y in zip(NAMES, before, shown, strict=True)]
    most = [said[d] for d in np.flatnonzero(change > change.max() - 1e-9)]  # with three groups two may move alike
    assert any(f"alone ({top.name}): {words}" in text for words in most)


def test_levers_of_which_one_alone_makes_no_game(moved):
    """Entries of targets as levers of their own: the constructor refuses one entry without the others."""
    game = moved.before.game
    plan = dataclasses.replace(
        moved,
        lever="theta",
        theta=jnp.asarray(moved.equilibrium.game.targets),
        baseline=game.targets,
        rebuild=lambda targets: game.replace(targets=targets),
    )
    with pytest.raises(ValueError, match="sums to"):
        plan.rebuild(game.targets.at[0, 0].set(0.9))
    assert "alone" not in plan.guidance(NAMES)


def test_what_is_not_promised(moved):
    """A failed plan is offered no further point; one that meets its goal unproved is not called a failure."""
    failed = dataclasses.replace(moved, success=False, details=moved.details | {"next_point": np.inf})
    assert failed.guidance().startswith("This plan does NOT do what was asked.")
    assert "One more percentage point" not in failed.guidance()
    still = dataclasses.replace(failed, theta=0 * moved.theta)
    assert "The levers are as they were." in still.guidance() and "Nothing has to change" not in still.guidance()
    for agrees in (True, False):
        details = moved.details | {"goal_met": True, "verification": SimpleNamespace(agrees=agrees)}
        met = dataclasses.replace(moved, success=False, details=details)
        assert ("does NOT do" in met.guidance()) != agrees


@pytest.mark.parametrize("rows", [0, "x", True, 2.0])
def test_bad_rows(moved, rows):
    with pytest.raises(ValueError, match="rows is .*, expected a positive integer"):
        moved.guidance(rows=rows)
