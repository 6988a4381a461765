"""What tests/test_sharding.py runs in processes of its own, with as many devices as they are told: cases by name."""

import re
import sys
import warnings

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxgame as jg
from jaxgame import solving
from jaxgame._pytree import Carried
from jaxgame.games import subsidised
from jaxgame.moves import moves
from jaxgame.solvers.crowd import is_crowd
from jaxgame.solvers.parts import mesh_of
from jaxgame.solvers.settle import is_populous

N, D = 20_000, 6


def games(n=N):
    """The same in every process."""
    rng = np.random.default_rng(7)
    linear = rng.normal(size=(n, D))
    B = rng.normal(size=(D, D))
    B = (B @ B.T + B - B.T) / D
    Q = np.eye(D) + np.outer(np.arange(D), np.arange(D)) / D**2
    kernel = np.exp(-np.abs(np.arange(D)[:, None] - np.arange(D)))
    targets, reach = rng.dirichlet(np.ones(D), n), rng.dirichlet(np.ones(n))
    scalar = jg.QuadraticGame(linear, 0.8, coupling=jg.MeanField(B, sensitivity=0.9))
    return {
        "scalar": scalar,
        "paid": subsidised(scalar, rng.normal(size=(n, D))),
        "scaled": jg.QuadraticGame(
            linear, jg.Scaled(rng.uniform(0.5, 1.5, n), Q), coupling=jg.MeanField(B, sensitivity=rng.uniform(0, 1, n))
        ),
        "alignment": jg.AlignmentGame(
            targets,
            kernel,
            linear,
            attractiveness=rng.uniform(0.1, 0.3, n),
            diversity=0.25,
            consistency_metric="mixture",
            reach=reach,
        ),
    }


def collectives(text):
    """Of a compiled program: name, and how many numbers, the largest."""
    found = re.findall(r"= (.*?) (all-\w+|collective-permute|reduce-scatter)(?:-start)?\(", text)
    sizes = [
        [np.prod([int(x) for x in dims.split(",") if x]) for dims in re.findall(r"\[([\d,]*)\]", shape)]
        for shape, _ in found
    ]
    return [(name, int(max(size))) for (_, name), size in zip(found, sizes, strict=True)]


def lowered(game, tol):
    return solving._settled.lower(Carried.wrap(game), None, tol, 100, 0)  # pyright: ignore[reportAttributeAccessIssue]


def one_process(name):
    """A solve on all devices with one on one device, and what is sent."""
    game = games()[name]
    spread = jg.shard(game)
    alone, found = jg.solve(game), jg.solve(spread)
    assert alone.converged and found.converged
    parts = NamedSharding(spread.reach.sharding.mesh, P("agents"))
    assert found.profile.sharding.is_equivalent_to(parts, 2)
    assert {shard.data.shape for shard in found.profile.addressable_shards} == {(N // 8, D)}
    assert found.representation.is_fully_replicated and found.residual.is_fully_replicated
    for field in ("profile", "representation"):
        np.testing.assert_allclose(getattr(found, field), getattr(alone, field), rtol=0, atol=1e-11)
    assert found.gap <= 1e-9
    single = jax.tree.map(lambda x: x.astype(np.float32), spread)
    fields = lowered(single, 1e-6).out_info[0]
    assert {x.dtype for x in fields.values() if x is not None and x.dtype.kind == "f"} == {np.dtype(np.float32)}
    sent = collectives(lowered(spread, 1e-10).compile().as_text())
    assert sent and all(kind == "all-reduce" and size <= D * D for kind, size in sent), sent


def saturating(p, mixture, others):
    return p["a"] @ mixture - 0.5 * (p["q"] * mixture) @ mixture - (mixture**4).sum() - 0.6 * mixture @ others


def crowd():
    """Utilities of the user's own: a solve, and a derivative of it, on all devices with those on one."""
    rng = np.random.default_rng(8)
    params = dict(a=2 * rng.normal(size=(N, D)), q=rng.uniform(0.5, 1.5, (N, D)))
    game = jg.ConcaveGame(saturating, params, D)
    spread = jg.shard(game)
    assert is_crowd(game) and mesh_of(spread) is not None
    alone, found = jg.solve(game), jg.solve(spread)
    assert alone.converged and found.converged
    assert {shard.data.shape for shard in found.profile.addressable_shards} == {(N // 8, D)}
    assert found.representation.is_fully_replicated and found.residual.is_fully_replicated
    for field in ("profile", "representation"):
        np.testing.assert_allclose(getattr(found, field), getattr(alone, field), rtol=0, atol=1e-11)
    np.testing.assert_allclose(jg.certify(spread, found).gap.max(), found.gap, rtol=0, atol=1e-13)
    # What all devices hold is the sample's Jacobian and what adds up to it.
    sent = collectives(lowered(spread, 1e-10).compile().as_text())
    assert sent and all(kind == "all-reduce" and size <= D * D for kind, size in sent), sent
    few = jg.ConcaveGame(saturating, jax.tree.map(lambda x: x[:512], params), D)
    one, other = (jax.grad(lambda game: jg.solve(game).representation[0])(x).params for x in (few, jg.shard(few)))
    for name in params:
        np.testing.assert_allclose(other[name], one[name], rtol=0, atol=1e-12)


def derivatives(name):
    """In every array of a game as on one device, from parts that stay where they are."""
    game = games()[name]
    spread = jg.shard(game)

    def shown(game):
        found = jg.solve(game)
        return found.representation[0] + 10 * found.profile[1, 2]

    assert is_populous(game) and mesh_of(spread) is not None
    alone, found = jax.grad(shown)(game), jax.grad(shown)(spread)
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-11 * np.abs(one).max())
    direction = jax.tree.map(lambda x: np.cos(np.arange(x.size)).reshape(x.shape), game)
    one, other = (jax.jvp(shown, (x,), (direction,))[1] for x in (game, spread))
    np.testing.assert_allclose(other, one, rtol=1e-9)
    out = jg.solve(spread)
    arguments = Carried.wrap(spread), Carried.wrap(spread), None, None
    fields = {key: getattr(out, key) for key in ("profile", "converged", "prices")}
    tangents = moves.lower(*arguments, fields, False)  # pyright: ignore[reportAttributeAccessIssue]
    sent = collectives(tangents.compile().as_text())
    assert sent and all(kind == "all-reduce" and size <= 2 * D * D for kind, size in sent), sent


def steering():
    """Prices that bring every group to a floor."""
    game = games(2_000)["scalar"]
    alone, found = (jg.steer_to_floor(x, 0.1, lever="price") for x in (game, jg.shard(game)))
    assert alone.success and found.success
    np.testing.assert_allclose(found.theta, alone.theta, rtol=0, atol=1e-8)


def transformations():
    """Under jit the mesh is known from the arrays' types."""
    game = games()["scalar"]
    spread = jg.shard(game)
    alone, found = jg.solve(game), jax.jit(jg.solve)(spread)
    assert found.converged
    np.testing.assert_allclose(found.profile, alone.profile, rtol=0, atol=1e-11)
    explicit = jax.make_mesh((8,), ("agents",), axis_types=(AxisType.Explicit,))
    linear = jax.device_put(game.linear, NamedSharding(explicit, P("agents")))
    game = jg.QuadraticGame(linear, 0.8, coupling=jg.MeanField(np.asarray(game.coupling.B), sensitivity=0.9))
    refused("expected axes of type Auto", lambda: jg.solve(game))
    np.testing.assert_allclose(jg.solve(jg.shard(game, explicit)).profile, alone.profile, rtol=0, atol=1e-11)
    refused("expected a multiple of the 8 devices", lambda: jg.shard(games(N + 1)["scalar"]))


def refused(why, call):
    try:
        call()
    except ValueError as error:
        assert why in str(error), error
    else:
        raise AssertionError(f"no error: {why}")


def many_processes():
    """Every process makes its own agents; what all of them find is what one finds alone."""
    game = games()["alignment"]
    n, rank, count = game.n_agents, jax.process_index(), jax.process_count()
    mine = slice(rank * n // count, (rank + 1) * n // count)
    mesh = jax.make_mesh((jax.device_count(),), ("agents",), axis_types=(AxisType.Auto,))
    parts = NamedSharding(mesh, P("agents"))

    def made(x):
        return jax.make_array_from_process_local_data(parts, np.asarray(x)[mine])

    spread = jg.AlignmentGame(
        made(game.targets),
        np.asarray(game.kernel),
        made(game.appeal),
        attractiveness=made(game.attractiveness),
        diversity=0.25,
        consistency_metric="mixture",
        reach=made(game.reach),
    )
    found, alone = jg.solve(jg.shard(spread, mesh)), jg.solve(game)
    assert found.converged and found.profile.sharding.is_equivalent_to(parts, 2)
    assert found.message.startswith("Converged")
    np.testing.assert_allclose(found.representation, alone.representation, rtol=0, atol=1e-11)
    (local,) = found.profile.addressable_shards
    np.testing.assert_allclose(local.data, np.asarray(alone.profile)[mine], rtol=0, atol=1e-11)
    # A game that every process has whole.
    whole = jg.solve(jg.shard(game, mesh))
    np.testing.assert_allclose(whole.representation, alone.representation, rtol=0, atol=1e-11)
    print("process", rank, "of", count, "ok")


if __name__ == "__main__":
    warnings.simplefilter("error")
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jg.connect()
    globals()[sys.argv[1]](*sys.argv[2:])
    print(sys.argv[-1], "ok")
