"""What should a pass over a population take on this device, and what does it?

    python benchmarks/roofline.py [--agents 1000000] [--groups 16] [--devices 256] [--output FOLDER]

Measured: the bandwidth of a read and of a write into fresh memory; within what is the size of a block of a pass, the
bandwidth of reads and writes and the rate of elementwise operations. What a pass over a block moves between its kernels
and computes is what the compiler counts in its own program. Predicted is the time that the slowest of memory, block and
arithmetic alone would take, and the sum of all, between which a device lies that overlaps them more or less. Then the
same for 8·10⁹ agents on many devices like this one, with what they send. Runs on whatever device JAX finds. Writes
roofline.json and roofline.md.
"""

import argparse
import pathlib
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import jaxgame as jg
from jaxgame.solvers.population import answer, block_size
from jaxgame.solvers.sizes import on_cores, sizes

EVERYONE = 8_000_000_000
REPEATS = 7
CHAIN = 64  # dependent multiplications and additions in a kernel: enough that nothing but they take time
WAYS = dict(wardrop="takes S as given", nash="counts its own share of S")


def best(function: Any) -> float:
    """Seconds of the fastest warm call."""
    common.seconds(function)
    return min(common.seconds(function)[0] for _ in range(REPEATS))


def device(dtype: np.dtype, n_groups: int) -> dict[str, float]:
    """Bytes a second read, and written into fresh memory; in a block, bytes a second and operations a second."""
    size = 2**26 if on_cores() else 2**31
    x = jnp.ones(size // dtype.itemsize, dtype)
    read = best(lambda: jax.jit(jnp.sum)(x))
    fresh = best(lambda: jax.jit(lambda x: 2 * x + 1)(x))
    agents = block_size(EVERYONE, n_groups, dtype, sizes().formulas)
    block, rounds = x[: agents * n_groups], 1600 if on_cores() else 50

    def moved(x: Array) -> Array:
        return x * 0.999 + 0.001

    def chained(x: Array) -> Array:
        for _ in range(CHAIN):
            x = moved(x)
        return x

    @jax.jit
    def streamed(x: Array) -> Array:
        return lax.fori_loop(0, rounds, lambda _, x: moved(x), x)

    @jax.jit
    def worked(x: Array) -> Array:
        return lax.fori_loop(0, rounds, lambda _, x: chained(x), x)

    return dict(
        read=size / read,
        write=size / max(fresh - read, read / 4),
        block=2 * block.nbytes * rounds / best(lambda: streamed(block)),
        operations=2 * CHAIN * len(block) * rounds / best(lambda: worked(block)),
    )


def population(way: str, n: int, n_groups: int, dtype: np.dtype) -> jg.QuadraticGame:
    linear = jax.random.normal(jax.random.key(0), (n, n_groups), dtype)
    q = jax.random.uniform(jax.random.key(1), (n,), dtype, 0.5, 1.5)
    return jg.QuadraticGame(linear, q, coupling=jg.MeanField(np.eye(n_groups, dtype=dtype), atomic=way == "nash"))


def one_pass(game: jg.QuadraticGame, last: bool) -> Any:
    """What all agents answer to the uniform aggregate, written if it is the last pass."""
    n, n_groups = game.n_agents, game.n_groups
    dtype = game.linear.dtype
    known = jnp.ones((), dtype)
    profile = lax.empty((n, n_groups), dtype) if last else None
    aggregate = jnp.full(n_groups, 1 / n_groups, dtype)
    return answer(game, aggregate, profile, known * 1e-6, spread=known, write=jnp.asarray(last))


def counted(way: str, n_groups: int, dtype: np.dtype, last: bool) -> dict[str, float]:
    """Bytes moved between kernels and operations a number of the data, as compiled for one block."""
    n = block_size(EVERYONE, n_groups, dtype, sizes().formulas)
    game = jax.eval_shape(lambda: population(way, n, n_groups, dtype))
    costs = jax.jit(one_pass, static_argnums=1).lower(game, last).compile().cost_analysis()
    if not costs:
        raise SystemExit(f"{jax.default_backend()} does not count what a program moves and computes")
    return dict(moved=costs["bytes accessed"] / (n * n_groups), operations=costs["flops"] / (n * n_groups))


def predicted(
    rates: dict[str, float], costs: dict[str, float], n: float, n_groups: int, itemsize: int, last: bool
) -> tuple[float, float]:
    """Seconds of a pass if memory, block and arithmetic overlap, and if they do not."""
    numbers = n * n_groups
    parts = (
        numbers * itemsize * (1 / rates["read"] + last / rates["write"]),
        numbers * max(costs["moved"] - (1 + last) * itemsize, 0) / rates["block"],
        numbers * costs["operations"] / rates["operations"],
    )
    return max(parts), sum(parts)


def measured(way: str, n: int, n_groups: int, dtype: np.dtype, last: bool) -> float:
    game, run = population(way, n, n_groups, dtype), jax.jit(one_pass, static_argnums=1)
    return best(lambda: run(game, last))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=1_000_000)
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--devices", type=int, default=256, help="of the projection to 8·10⁹ agents")
    parser.add_argument("--output", type=pathlib.Path, default=common.RESULTS)
    options = parser.parse_args()
    dtype = np.dtype(np.float32)
    environment, rates = common.environment("jaxlib"), device(dtype, options.groups)
    rows, records, passes = [], [], []
    share = EVERYONE / options.devices
    for way, does in WAYS.items():
        for last in (False, True):
            costs = counted(way, options.groups, dtype, last)
            low, high = predicted(rates, costs, options.agents, options.groups, dtype.itemsize, last)
            took = measured(way, options.agents, options.groups, dtype, last)
            records.append(dict(way=way, last=last, overlapped=low, in_turn=high, measured=took) | costs)
            what = f"{does}; last, writes the profile" if last else does
            times = [f"{1e3 * t:.2f}" for t in (low, high, took)]
            rows.append([what, *(f"{costs[x]:.0f}" for x in ("moved", "operations")), *times, f"{took / high:.2f}"])
            passes.append(predicted(rates, costs, share, options.groups, dtype.itemsize, last))
    low, high = (middle + end for middle, end in zip(*passes[2:], strict=True))
    sent = (options.groups + 4) * dtype.itemsize
    memory = share * dtype.itemsize * (2 * options.groups + 1) / 2**30
    lines = [
        "# Roofline",
        "",
        common.described(environment),
        "",
        *common.prose(
            f"Read {rates['read'] / 1e9:.1f} GB/s, written into fresh memory {rates['write'] / 1e9:.1f} GB/s; in a",
            f"block read and written {rates['block'] / 1e9:.1f} GB/s, elementwise {rates['operations'] / 1e9:.1f}",
            "Gop/s. Bytes moved between kernels and operations are a number of the data. Milliseconds, float32,",
            f"{options.agents:,} agents, D = {options.groups}, scalar curvature:",
        ),
        "",
        *common.table(
            ["an agent", "bytes", "operations", "overlapped", "in turn", "measured", "measured / in turn"], rows
        ),
        "",
        *common.prose(
            f"8·10⁹ agents on {options.devices} devices like this one: {share:,.0f} agents and {memory:.1f} GiB of",
            f"data and profile each, {low:.3g} to {high:.3g} s for two passes (Nash). A pass sends one all-reduce of",
            f"D + 4 numbers, {sent} bytes a device whatever n is, {sent * options.devices / 1024:.0f} KiB in all;",
            f"a step on the sample that comes first D² more ({options.groups**2 * dtype.itemsize} bytes). The latency",
            "of a few all-reduces, not their volume, is what a mesh adds.",
        ),
        "",
    ]
    common.write_json(
        options.output / "roofline.json",
        dict(environment=environment, rates=rates, n=options.agents, groups=options.groups, passes=records),
    )
    common.write(options.output / "roofline.md", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
