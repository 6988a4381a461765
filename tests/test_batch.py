"""solve_many: the answers of one solve a game, whatever the others in the batch need."""

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
import zoo
from jax.experimental.sparse import BCOO

import jaxgame as jg
from jaxgame import batch
from jaxgame._pytree import pytree
from jaxgame.solvers import Newton
from jaxgame.solvers.lanes import in_blocks, listed

BLOCK = 2  # and 5 to 8 games in most tests, so that they share a program
FIELDS = ("profile", "representation", "residual", "gap", "signed", "multipliers")


def stacked(specs, dtype: Any = np.float64) -> Any:
    """One game whose arrays carry a batch axis."""
    return jax.tree.map(lambda *x: jnp.stack(x), *[zoo.to_game(spec, dtype) for spec in specs])


def mixed(rng, size=7, n=4, D=3):
    """Conditions from 2 to 1e8, and games without any curvature of their own, which are merely monotone."""
    specs = [ref.random_mean_field(rng, n, D, kappa, symmetric=False) for kappa in np.geomspace(2, 1e8, size)]
    for spec in specs[::3]:
        spec.curvature.Q[:] = 0
        skew = rng.normal(size=(D, D))
        spec.coupling.B[:] = skew - skew.T
    return specs


def alignments(rng, size=6):
    return [ref.random_alignment(rng, 4, 3, attractiveness=a) for a in np.linspace(0.1, 1.2, size)]


def networks(rng, size=5):
    return [ref.random_alignment(rng, 4, 3, weights=ref.random_network(rng, 4)) for _ in range(size)]


@pytest.mark.parametrize("make", [alignments, mixed, pytest.param(networks, marks=pytest.mark.slow)])
def test_every_game_as_if_alone(make, rng):
    specs = make(rng)
    games = stacked(specs)
    found = jg.solve_many(games, batch_size=BLOCK)
    assert found.profile.shape == (len(specs), *specs[0].shape) and found.converged.all()
    for k, spec in enumerate(specs):
        alone = jg.solve(jax.tree.map(lambda x, k=k: x[k], games))
        W = np.asarray(found.profile[k])
        assert ref.kkt_error(spec.game_map(W), W, zoo.sigma(spec)) < 1e-9
        if make is not mixed:
            np.testing.assert_allclose(W, ref.solution(spec), atol=1e-8)
        for field in FIELDS:
            np.testing.assert_allclose(getattr(found, field)[k], getattr(alone, field), atol=1e-9, err_msg=field)
        assert int(found.status[k]) == int(alone.status) and int(found.steps[k]) == int(alone.steps)
        assert int(found.evaluations[k]) == int(alone.evaluations)


def test_what_is_reported_about_a_batch(rng):
    """Structure and shapes of `vmap` over `solve`, and a sentence a game."""
    games = stacked(alignments(rng))
    found, reference = jg.solve_many(games, batch_size=BLOCK), jax.eval_shape(jax.vmap(jg.solve), games)
    assert jax.tree.structure(found) == jax.tree.structure(reference)
    for mine, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True):
        assert mine.shape == wanted.shape and mine.dtype == wanted.dtype
    assert all(message.startswith("Converged") for message in np.asarray(found.message))
    assert found.stats["margin"].shape == (6,)


@pytest.mark.parametrize("made_by", ["vmap", "stack"])
def test_sparse_networks(made_by, rng):
    """Weights that are the same in all games, as `vmap` leaves them, and stacked ones."""
    n, D = 4, 3
    weights, linear = BCOO.fromdense(jnp.asarray(ref.random_network(rng, n))), jnp.asarray(rng.normal(size=(5, n, D)))

    def build(linear):
        return jg.QuadraticGame(linear, 2.0, coupling=jg.Network(weights))

    if made_by == "vmap":
        games = jax.vmap(build)(linear)
    else:
        games = jax.tree.map(lambda *x: jnp.stack(x), *map(build, linear))
    found = jg.solve_many(games, batch_size=BLOCK)
    assert found.converged.all()
    for profile, one in zip(found.profile, linear, strict=True):
        np.testing.assert_allclose(profile, jg.solve(build(one)).profile, atol=1e-12)
    if made_by == "stack":  # what the other tests have of the other kind
        inside = jax.jit(lambda games: jg.solve_many(games).profile)(games)
        np.testing.assert_allclose(inside, found.profile, atol=1e-12)


@pytest.mark.parametrize("solver", ["ProjectedGradient", pytest.param("Newton", marks=pytest.mark.slow)])
def test_chunks_blocks_and_solvers(solver, rng, monkeypatch):
    """Neither how the batch is cut nor the last, shorter part shows in the answer."""
    specs = alignments(rng, 11)
    games, chosen = stacked(specs), getattr(jg, solver)()
    whole = jg.solve_many(games, chosen)
    seen = []
    monkeypatch.setattr(batch, "CHUNK", 1)
    parts = jg.solve_many(games, chosen, batch_size=4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 11), (8, 11), (11, 11)]
    for k, spec in enumerate(specs):
        np.testing.assert_allclose(whole.profile[k], ref.solution(spec), atol=1e-8)
    for field in (*FIELDS, "status", "steps"):
        np.testing.assert_allclose(getattr(parts, field), getattr(whole, field), atol=1e-12, err_msg=field)


def test_an_interrupt_ends_it(rng):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jg.solve_many(stacked(alignments(rng)), batch_size=BLOCK, progress=stop)


@pytest.mark.parametrize("solver", [None, pytest.param("ProjectedGradient", marks=pytest.mark.slow)])
def test_failed_games_are_visible_and_alone(solver, rng):
    """NaN in one game, no time for another: both say so, in numbers and words; the others do not notice."""
    specs = alignments(rng)
    specs[4] = specs[4].replace(attractiveness=np.full(4, 30.0))
    games = stacked(specs)
    appeal = games.appeal.at[2, 1, 0].set(jnp.nan)
    games = jax.tree.map(lambda leaf: appeal if leaf is games.appeal else leaf, games)
    found = jg.solve_many(games, None if solver is None else getattr(jg, solver)(), batch_size=BLOCK)
    assert found.converged.tolist() == [k != 2 for k in range(6)] and int(found.status[2]) == 2
    assert not np.isfinite(found.gap[2]) and "not finite" in found.message[2]
    for k in (0, 1, 3, 4, 5):
        np.testing.assert_allclose(found.profile[k], ref.solution(specs[k]), atol=1e-8)
    assert np.isfinite(np.asarray(found.profile)).all()


def test_steps_run_out_for_some(rng):
    specs = [ref.random_mean_field(rng, 4, 3, kappa) for kappa in (2.0, 1e6, 3.0, 2.5, 1.5)]
    found = jg.solve_many(stacked(specs), jg.ProjectedGradient(), max_steps=400, batch_size=BLOCK)
    assert found.converged.tolist() == [k != 1 for k in range(5)] and int(found.status[1]) == 1
    assert int(found.steps[1]) == 400 and int(found.steps[0]) < 400
    assert "out of steps" in found.message[1]


def test_first_order_steps_only_where_newton_gave_up(rng, monkeypatch):
    """Newton may make no step; games whose start is the equilibrium need none."""
    monkeypatch.setattr(Newton, "max_steps", 0)
    n, D = 6, 4
    uniform = np.full((n, D), 1 / D)

    def made(attractiveness, targets):
        appeal = rng.normal(size=(n, D))
        return ref.Alignment(
            kernel=np.eye(D) + 0.1, targets=targets, appeal=appeal, attractiveness=attractiveness, diversity=0.0
        )

    specs = [made(0.0, uniform), *(made(0.5, rng.dirichlet(np.ones(D), n)) for _ in range(3)), made(0.0, uniform)]
    found = jg.solve_many(stacked(specs), batch_size=2)
    assert found.converged.all() and (np.asarray(found.steps) > 0).tolist() == [False, True, True, True, False]
    for k, spec in enumerate(specs):
        np.testing.assert_allclose(found.profile[k], ref.solution(spec), atol=1e-8)
        np.testing.assert_allclose(found.representation[k], ref.solution(spec).mean(0), atol=1e-8)
    assert (np.asarray(found.gap) < 1e-8).all()


def test_starts(rng):
    """A start for all, or one each: at the equilibrium there is nothing to do."""
    specs = alignments(rng, 5)
    games = stacked(specs)
    solver = jg.ProjectedGradient()
    exact = jnp.asarray(np.stack([ref.solution(spec) for spec in specs]))
    again = jg.solve_many(games, solver, init=exact, batch_size=BLOCK)
    assert np.asarray(again.steps).max() == 0
    common = jg.solve_many(games, solver, init=exact[0], batch_size=BLOCK)
    assert int(common.steps[0]) == 0 and np.asarray(common.steps[1:]).min() > 0
    np.testing.assert_allclose(common.profile, exact, atol=1e-8)


class Box:
    n_agents, n_groups = 2, 2


def test_bad_input(rng):
    games = stacked(alignments(rng, 3))
    alone = zoo.to_game(alignments(rng, 1)[0])
    uneven = jax.tree.map(lambda leaf: leaf[:2] if leaf is games.kernel else leaf, games)
    with pytest.raises(ValueError, match=r"games\.kernel has shape \(2, 3, 3\), expected a leading axis of 3 games"):
        jg.solve_many(uneven)
    with pytest.raises(ValueError, match=r"games\.kernel has shape \(3, 3\), expected a leading axis of 4 games"):
        jg.solve_many(alone)
    square = zoo.to_game(ref.random_alignment(rng, 3, 3))
    square = square.replace(attractiveness=jnp.ones(3), consistency=jnp.ones(3), diversity=jnp.zeros(3))
    with pytest.raises(ValueError, match="no batch of games: without the leading axis of 3"):
        jg.solve_many(square)
    with pytest.raises(ValueError, match="expected a leading axis of at least one games"):
        jg.solve_many(jax.tree.map(lambda leaf: leaf[:0], games))
    with pytest.raises(ValueError, match="a game with batched arrays"):
        jg.solve_many(Box())
    with pytest.raises(ValueError, match="a game with batched arrays"):
        jg.solve_many([])
    sizes: list[Any] = [0, 2.0, True]
    for size in sizes:
        with pytest.raises(ValueError, match=f"batch_size is {size}, expected a positive integer"):
            jg.solve_many(games, batch_size=size)
    with pytest.raises(ValueError, match=r"init\[1, 2\] sums to 0.9"):
        jg.solve_many(games, init=jnp.full((3, 4, 3), 1 / 3).at[1, 2, 0].add(-0.1))
    with pytest.raises(ValueError, match=r"init has shape \(2, 4, 3\), expected \(4, 3\) or \(3, 4, 3\)"):
        jg.solve_many(games, init=jnp.full((2, 4, 3), 1 / 3))
    with pytest.raises(ValueError, match="tol is -1"):
        jg.solve_many(games, tol=-1)
    with pytest.raises(ValueError, match="max_steps is 1.5"):
        jg.solve_many(games, max_steps=1.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="solver is the class Newton"):
        jg.solve_many(games, jg.Newton)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="AggregativeNewton needs agents that meet through a mean"):
        jg.solve_many(stacked(networks(rng, 2)), jg.AggregativeNewton())


def test_new_numbers_compile_nothing(rng, caplog):
    def compiled(size):
        games = stacked([ref.random_alignment(rng, 5, 3) for _ in range(size)])
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
            assert jg.solve_many(games, batch_size=2).converged.all()
        return [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]

    assert any("_solved" in message for message in compiled(7))
    assert not compiled(7)
    assert not any("_solved" in message for message in compiled(8))


def test_within_transformations(rng):
    """Within jit and grad it is vmap over solve."""
    games = stacked(alignments(rng, 2))
    direction = jnp.asarray(rng.normal(size=(2, 3)))

    def value(appeal, solve):
        batch = jax.tree.map(lambda leaf: appeal if leaf is games.appeal else leaf, games)
        return (solve(batch).representation * direction).sum()

    mine = jax.jit(jax.value_and_grad(lambda appeal: value(appeal, jg.solve_many)))(games.appeal)
    wanted = jax.jit(jax.value_and_grad(lambda appeal: value(appeal, jax.vmap(jg.solve))))(games.appeal)
    for a, b in zip(mine, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    assert np.abs(np.asarray(mine[1])).max() > 1e-3


@pytest.mark.float32
def test_single_precision(rng):
    specs = alignments(rng, 5)
    found = jg.solve_many(stacked(specs, np.float32), batch_size=2)
    assert found.converged.all()
    for field in (*FIELDS, "tol"):
        assert getattr(found, field).dtype == np.float32
    for k, spec in enumerate(specs):
        np.testing.assert_allclose(found.profile[k], ref.solution(spec), atol=2e-4)


@pytest.mark.float32
def test_blocks_write_where_they_should(dtype):
    """Only the listed lanes are touched, in blocks that do not divide their number."""
    mask = np.array([True, False, True, True, False, True, True])
    index = listed(jnp.asarray(mask))
    assert index.tolist() == [0, 2, 3, 5, 6, 7, 7]
    values = jnp.arange(7, dtype=dtype)
    for block in (1, 2, 3, 4):
        out = in_blocks(lambda x: (x**2, x > 3), (values,), index, block)
        np.testing.assert_array_equal(out[0], np.where(mask, np.arange(7) ** 2, 0).astype(dtype))
        np.testing.assert_array_equal(out[1], mask & (np.arange(7) > 3))
        kept = in_blocks(lambda now, x: now + x, (values,), index, block, 1 + values)
        np.testing.assert_array_equal(kept, np.where(mask, 1 + 2 * np.arange(7), 1 + np.arange(7)))


WORK = []


@pytree()
class Countdown:
    profile: jax.Array
    left: jax.Array

    @property
    def residual(self):
        return jnp.asarray(self.left, self.profile.dtype)


class Waits(Newton):
    """Takes as many steps as the game's appeal says, and counts what is computed, in vain or not."""

    stall = 10**6

    def init(self, game: Any, profile: Any) -> Any:
        return Countdown(profile, jnp.abs(game.appeal[0, 0]))

    def step(self, game: Any, state: Any) -> Any:
        jax.debug.callback(lambda left: WORK.append(float(left)), state.left)
        return Countdown(state.profile, state.left - 1)


def test_little_is_computed_in_vain(rng):
    """A few slow games among many quick ones: of all steps computed, seven in ten or more are steps of a game."""
    specs = [ref.random_alignment(rng, 2, 2) for _ in range(64)]
    games = stacked(specs)
    needed = np.where(np.arange(64) % 16 == 5, 40, 1 + np.arange(64) % 3)
    appeal = games.appeal.at[:, 0, 0].set(jnp.asarray(needed, float))
    games = jax.tree.map(lambda leaf: appeal if leaf is games.appeal else leaf, games)
    WORK.clear()
    found = jg.solve_many(games, Waits(), batch_size=4)
    jax.effects_barrier()
    assert found.steps.tolist() == needed.tolist()
    assert needed.sum() / len(WORK) >= 0.7
    WORK.clear()
    jax.vmap(lambda game: jg.solve(game, Waits()))(games)
    jax.effects_barrier()
    assert needed.sum() / len(WORK) < 0.2
