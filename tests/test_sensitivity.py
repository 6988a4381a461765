"""sensitivity() against central differences of independent numpy solutions, and its table."""

from __future__ import annotations

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import zoo

from jaxgame.steering.sensitivity import Sensitivity, sensitivity

STEP = 1e-5
N, D = 4, 3


def leaving_one_out() -> ref.Alignment:
    """Nobody represents group 2; agent 3 does not represent group 0 either."""
    rng = np.random.default_rng(4)
    targets = np.array([[0.5, 0.45, 0.05], [0.4, 0.5, 0.1], [0.45, 0.5, 0.05], [0.0, 0.95, 0.05]])
    kernel = ref.random_kernel(rng, D, 0.5)
    appeal = np.array([0.2, 0.3, -0.9])
    spec = ref.Alignment(targets, kernel, appeal, np.array([0.6, 0.7, 0.6, 2.0]), np.array([1.0, 1.2, 1.4, 1.0]), 0.2)
    return zoo.spelled_out(spec)


def moved(spec: ref.Alignment, theta: dict[str, Any]) -> ref.Alignment:
    """One appeal for all agents, and one diversity."""
    return spec.replace(appeal=np.tile(theta["appeal"], (N, 1)), diversity=np.full(N, theta["diversity"]))


def build(game: Any, theta: dict[str, Any]) -> Any:
    appeal = jnp.broadcast_to(theta["appeal"], (N, D))
    return game.replace(appeal=appeal, diversity=jnp.broadcast_to(theta["diversity"], (N,)))


@functools.cache
def found(name: str | None = None) -> tuple[ref.Alignment, dict[str, Any], Sensitivity]:
    spec = zoo.spelled_out(zoo.GAMES[name]().spec) if name else leaving_one_out()
    theta = {"appeal": np.array(spec.appeal[0]), "diversity": np.array(spec.diversity[0])}
    game = zoo.to_game(spec)
    return spec, theta, sensitivity(functools.partial(build, game), jax.tree.map(jnp.asarray, theta))


def solved(spec: ref.Alignment) -> tuple[np.ndarray, np.ndarray]:
    """Representation and signed representation, by numpy."""
    W = ref.solution(spec)
    F = spec.game_map(W)
    return np.asarray(spec.representation(W)), np.where(W > 0, W, F.min(1, keepdims=True) - F)


def differences(plus: ref.Alignment, minus: ref.Alignment) -> tuple[np.ndarray, np.ndarray]:
    up, down = solved(plus), solved(minus)
    return (up[0] - down[0]) / (2 * STEP), (up[1] - down[1]) / (2 * STEP)


def test_every_lever():
    """Representation, signed representation and distance to entry, in forward mode."""
    spec, theta, got = found()
    shown, signed = solved(spec)
    assert signed[:, 2].max() < 0 < signed[:, :2].max(0).min() and signed[3, 0] < 0  # an excluded group, and a face
    np.testing.assert_allclose(got.equilibrium.representation, shown, atol=1e-12)
    np.testing.assert_array_equal(got.excluded, [False, False, True])
    assert not np.asarray(got.kinks).any()
    nearest = signed.argmax(0)
    for name, k in (("appeal", 0), ("appeal", 1), ("appeal", 2), ("diversity", ())):
        plus, minus = ({key: np.array(x) for key, x in theta.items()} for _ in range(2))
        plus[name][k] += STEP
        minus[name][k] -= STEP
        wanted, wanted_signed = differences(moved(spec, plus), moved(spec, minus))
        index = (slice(None), *([k] if name == "appeal" else []))
        np.testing.assert_allclose(got.representation[name][index], wanted, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(got.signed[name][(slice(None), *index)], wanted_signed, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(got.entry[name][index], wanted_signed[nearest, np.arange(D)], rtol=1e-6, atol=1e-9)
    assert np.abs(got.representation["appeal"][:, 2]).max() < 1e-12  # the desert: an excluded group's appeal
    assert got.entry["appeal"][2, 2] == pytest.approx(spec.attractiveness[nearest[2]])


def test_many_levers():
    """More levers than groups: reverse mode; a lever an agent, in a bare array."""
    spec, _, _ = found()
    game = zoo.to_game(spec)
    got = sensitivity(lambda appeal: game.replace(appeal=appeal), jnp.asarray(spec.appeal))
    assert got.representation.shape == (D, N, D) and got.entry.shape == (D, N, D)
    move = np.random.default_rng(2).normal(size=(N, D))
    wanted, wanted_signed = differences(
        spec.replace(appeal=spec.appeal + STEP * move), spec.replace(appeal=spec.appeal - STEP * move)
    )
    nearest = solved(spec)[1].argmax(0)
    np.testing.assert_allclose(np.tensordot(got.representation, move, 2), wanted, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(np.tensordot(got.entry, move, 2), wanted_signed[nearest, np.arange(D)], rtol=1e-6)
    assert re.search(r"^theta\[\d, \d\] ", got.table(rows=1).splitlines()[-2], re.M)


def test_agents_that_are_equally_near_share_the_entry():
    """Four agents alike: a common lever moves the mean of their distances as it does each of them."""
    spec, _, got = found("tied_appeals")
    np.testing.assert_allclose(got.nearest[:, 2], 1 / N)
    np.testing.assert_allclose(got.entry["appeal"][2], spec.attractiveness[0] * np.array([-0.5, -0.5, 1]), atol=1e-12)


# --- the table -------------------------------------------------------------------------------------
def columns(text: str) -> dict[str, list[str]]:
    """Cells by lever."""
    lines = [re.split(r" {2,}", line.strip()) for line in text.splitlines()]
    return {line[0]: line[1:] for line in lines if len(line) > 1}


def test_table():
    spec, _, got = found()
    text = got.table(["left", "middle", "right"])
    cells = columns(text)
    assert cells["lever"] == ["left", "middle", "[right]"]
    shown, signed = solved(spec)
    assert [float(x.rstrip(" %")) for x in cells["now"][:2]] == pytest.approx(100 * shown[:2], rel=5e-3)
    assert float(cells["now"][2].strip("[]")) == pytest.approx(signed[:, 2].max(), rel=5e-3)
    for name, k in (("appeal[0]", 0), ("appeal[1]", 1), ("appeal[2]", 2)):
        jacobian, entry = got.representation["appeal"][:, k], got.entry["appeal"][:, k]
        values = [float(x.strip("[]")) for x in cells[name]]
        assert values[:2] == pytest.approx(
            np.asarray(jacobian[:2]), abs=0.006 * np.abs(got.representation["appeal"]).max()
        )
        assert values[2] == pytest.approx(float(entry[2]) / 100, abs=1e-4)
    assert "excluded" in text or "no agent represents" in text
    assert "kink" not in text


def test_largest_levers_come_first():
    _, _, got = found()
    order = [name for name in columns(got.table()) if name not in ("lever", "now")]
    assert sorted(order) == ["appeal[0]", "appeal[1]", "appeal[2]", "diversity"]
    moves = {f"appeal[{k}]": np.abs(got.representation["appeal"][:2, k]).max() for k in range(D)}
    moves["diversity"] = np.abs(got.representation["diversity"][:2]).max()
    entry = {f"appeal[{k}]": abs(got.entry["appeal"][2, k]) for k in range(D)}
    entry["diversity"] = abs(got.entry["diversity"][2])
    size = {k: max(moves[k] / max(moves.values()), entry[k] / max(entry.values())) for k in moves}
    sizes = [size[name] for name in order]
    assert sizes == sorted(sizes, reverse=True)
    short = got.table(rows=2)
    assert [name for name in columns(short) if name not in ("lever", "now")] == order[:2] and "2 of 4" in short


def test_kinks_are_named():
    """Nobody wants the group that no target has, and nobody is kept from it: w = ν = 0."""
    spec, _, got = found("equal_appeals")
    at_kink = (spec.targets == 0).astype(bool)
    np.testing.assert_array_equal(got.kinks, at_kink)
    assert float(got.equilibrium.stats["margin"]) < 1e-12
    footer = got.table(["a", "b", "c"]).splitlines()[-1]
    assert footer.startswith("At a kink") and "a (1)" in footer and "c (3)" in footer and "b" not in footer[-12:]


@pytest.mark.parametrize("arguments, match", [((["a"],), "groups has 1 names"), ((None, 0), "rows is 0")])
def test_table_of_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        found()[2].table(*arguments)


# --- what fails ------------------------------------------------------------------------------------
def test_singular_game(capfd):
    """Groups that answer alike, both represented: an error, no numbers, and nothing printed."""
    with pytest.raises(ArithmeticError, match="no derivative"):
        found("identical_groups")
    assert capfd.readouterr().err == ""


def test_failed_solve():
    """Numbers that are not finite: no equilibrium, no sensitivity."""
    game = zoo.to_game(found()[0])
    with pytest.raises(ArithmeticError, match="needs an equilibrium. Failed after 0 steps"):
        sensitivity(lambda theta: jax.tree.map(lambda leaf: leaf / theta, game), jnp.zeros(()))


@pytest.mark.parametrize(
    "theta, match",
    [
        ({}, "no arrays"),
        ({"appeal": np.arange(3)}, "appeal has dtype int"),
        ({"appeal": [np.zeros(3), np.array([0.0, np.nan])]}, r"appeal\.1\[1\] is nan"),
    ],
)
def test_bad_levers(theta, match):
    with pytest.raises(ValueError, match=match):
        sensitivity(lambda theta: None, theta)


def test_the_games_own_complaints_come_through():
    game = zoo.to_game(found()[0])
    with pytest.raises(ValueError, match=r"attractiveness\[1\] is -1"):
        sensitivity(lambda alpha: game.replace(attractiveness=alpha), jnp.asarray([1.0, -1.0, 1.0, 1.0]))


@pytest.mark.slow
def test_under_jit():
    spec, theta, got = found()
    game = zoo.to_game(spec)
    inside = jax.jit(lambda theta: sensitivity(functools.partial(build, game), theta).representation)
    np.testing.assert_allclose(
        inside(jax.tree.map(jnp.asarray, theta))["appeal"], got.representation["appeal"], atol=1e-12
    )


@pytest.mark.slow
def test_float32():
    spec, theta, got = found()
    game = zoo.to_game(spec, np.float32)
    single = sensitivity(functools.partial(build, game), jax.tree.map(lambda x: jnp.asarray(x, np.float32), theta))
    for name in theta:
        assert single.representation[name].dtype == single.entry[name].dtype == np.float32
        np.testing.assert_allclose(single.representation[name], got.representation[name], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(single.entry[name], got.entry[name], rtol=1e-3, atol=1e-4)
    assert isinstance(single.table(), str)
