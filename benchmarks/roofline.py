"""What should a pass over a population take on this device, and what does it?

    python benchmarks/roofline.py [--agents 1000000] [--groups 16] [--devices 256] [--output FOLDER]

Measured: the bandwidth of a read, of a write into fresh memory, and the rate of elementwise operations on what fits in
a block. A pass over n agents with scalar curvature reads n·D numbers once and works on each some fifty times; the last
one writes n·D more. Predicted is the time that the slower of the two alone would take, and the sum of both, between
which a device lies that overlaps them more or less. Then the same for 8·10⁹ agents on many devices like this one, with
what they send. Runs on whatever device JAX finds. Writes roofline.json and roofline.md.
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
from jaxgame.solvers.columns import STEPS
from jaxgame.solvers.population import BLOCK_BYTES, answer

EVERYONE = 8_000_000_000
# Elementwise operations a number: the highest, what is met, the highest again, STEPS Newton steps of four, sum, level,
# scale.
OPERATIONS = 12 + 4 * (STEPS + 1)
REPEATS = 7


def best(function: Any) -> float:
    """Seconds of the fastest warm call."""
    common.seconds(function)
    return min(common.seconds(function)[0] for _ in range(REPEATS))


def device(dtype: Any) -> dict[str, float]:
    """Bytes a second read, and written into fresh memory; elementwise operations a second in a block of a pass."""
    count = 2**26 // np.dtype(dtype).itemsize
    x = jnp.ones(count, dtype)
    read = best(lambda: jax.jit(jnp.sum)(x))
    fresh = best(lambda: jax.jit(lambda x: 2 * x + 1)(x))
    block, rounds = x[: BLOCK_BYTES[0] // np.dtype(dtype).itemsize], 1600

    @jax.jit
    def work(x: Array) -> Array:
        return lax.fori_loop(0, rounds, lambda _, x: jnp.where(x > 0.5, x * 0.999 + 0.001, x), x)

    size = count * np.dtype(dtype).itemsize
    return dict(
        read=size / read,
        write=size / max(fresh - read, read / 4),
        operations=4 * rounds * len(block) / best(lambda: work(block)),
    )


def predicted(rates: dict[str, float], n: float, n_groups: int, itemsize: int, last: bool) -> tuple[float, float]:
    """Seconds of a pass if memory and arithmetic overlap, and if they do not."""
    memory = n * n_groups * itemsize * (1 / rates["read"] + last / rates["write"])
    arithmetic = n * n_groups * OPERATIONS / rates["operations"]
    return max(memory, arithmetic), memory + arithmetic


def measured(n: int, n_groups: int, dtype: Any, last: bool) -> float:
    rng = np.random.default_rng(0)
    game = jg.QuadraticGame(
        rng.standard_normal((n, n_groups), dtype),
        rng.uniform(0.5, 1.5, n).astype(dtype),
        coupling=jg.MeanField(np.eye(n_groups, dtype=dtype), atomic=False),
    )
    aggregate, known = jnp.full(n_groups, 1 / n_groups, dtype), jnp.ones((), dtype)

    @jax.jit
    def one(game: Any) -> Any:
        profile = lax.empty((n, n_groups), dtype) if last else None
        return answer(game, aggregate, profile, known * 1e-6, spread=known, write=jnp.asarray(last))

    return best(lambda: one(game))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=1_000_000)
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--devices", type=int, default=256, help="of the projection to 8·10⁹ agents")
    parser.add_argument("--output", type=pathlib.Path, default=common.RESULTS)
    options = parser.parse_args()
    dtype = np.dtype(np.float32)
    environment, rates = common.environment("jaxlib"), device(dtype)
    rows, records = [], []
    for n in (options.agents // 10, options.agents, options.agents * 4):
        for last in (False, True):
            low, high = predicted(rates, n, options.groups, dtype.itemsize, last)
            took = measured(n, options.groups, dtype, last)
            records.append(dict(n=n, last=last, overlapped=low, in_turn=high, measured=took))
            what = "last, writes the profile" if last else "pass"
            rows.append([f"{n:,}", what, *(f"{1e3 * t:.1f}" for t in (low, high, took)), f"{took / high:.2f}"])
    share = EVERYONE / options.devices
    passes = (
        predicted(rates, share, options.groups, dtype.itemsize, False),
        predicted(rates, share, options.groups, dtype.itemsize, True),
    )
    low, high = (3 * middle + end for middle, end in zip(*passes, strict=True))
    sent = (options.groups + 4) * dtype.itemsize
    memory = share * dtype.itemsize * (2 * options.groups + 1) / 2**30
    lines = [
        "# Roofline",
        "",
        common.described(environment),
        "",
        *common.prose(
            f"Read {rates['read'] / 1e9:.1f} GB/s, written into fresh memory {rates['write'] / 1e9:.1f} GB/s,",
            f"elementwise {rates['operations'] / 1e9:.1f} Gop/s; {OPERATIONS} operations a number. Milliseconds,",
            f"float32, D = {options.groups}, scalar curvature:",
        ),
        "",
        *common.table(["n", "", "overlapped", "in turn", "measured", "measured / in turn"], rows),
        "",
        *common.prose(
            f"8·10⁹ agents on {options.devices} devices like this one: {share:,.0f} agents and {memory:.1f} GiB of",
            f"data and profile each, {low:.2f} to {high:.2f} s for four passes. A pass sends one all-reduce of D + 4",
            f"numbers, {sent} bytes a device whatever n is, {sent * options.devices / 1024:.0f} KiB in all; a step on",
            f"the sample that comes first D² more ({options.groups**2 * dtype.itemsize} bytes). The latency of a few",
            "all-reduces, not their volume, is what a mesh adds.",
        ),
        "",
    ]
    common.write_json(
        options.output / "roofline.json",
        dict(environment=environment, rates=rates, groups=options.groups, passes=records),
    )
    common.write(options.output / "roofline.md", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
