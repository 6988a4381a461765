"""A large population on all devices of all processes: time a pass, and what is sent.

scripts/launch -n 2 benchmarks/sharded.py --agents 1000000; without the launcher, in one process.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxgame as jg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=1_000_000, help="rounded up to a multiple of the devices")
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--double", action="store_true", help="float64 rather than float32")
    parser.add_argument("--repeats", type=int, default=5, help="warm solves, of which the median counts")
    options = parser.parse_args()
    jg.connect()
    jax.config.update("jax_enable_x64", options.double)

    devices, groups = jax.device_count(), options.groups
    n = -(-options.agents // devices) * devices
    mesh = jax.make_mesh((devices,), ("agents",), axis_types=(AxisType.Auto,))

    # Every device draws its own agents, the same however many devices there are; no process sees them all.
    def drawn(key: int, *shape: int) -> jax.Array:
        draw = jax.jit(
            lambda: jax.random.normal(jax.random.key(key), shape), out_shardings=NamedSharding(mesh, P("agents"))
        )
        return draw()

    curvature = jnp.exp(drawn(1, n) / 4)
    game = jg.shard(jg.QuadraticGame(drawn(0, n, groups), curvature, coupling=jg.MeanField(jnp.eye(groups))), mesh)
    times = []
    for _ in range(options.repeats + 1):
        start = time.perf_counter()
        found = jax.block_until_ready(jg.solve(game))
        times.append(time.perf_counter() - start)
    first, *warm = times
    message = found.message  # asks all processes
    if jax.process_index():
        return
    passes, seconds = int(found.steps), sorted(warm)[len(warm) // 2]
    numbers = groups + 3  # one sum over the agents, and three maxima
    size = numbers * found.profile.dtype.itemsize
    print(f"{n:,} agents, {groups} groups, {found.profile.dtype}; {devices} devices in {jax.process_count()} processes")
    print(message)
    print(f"solve {seconds:.3f} s (first, with compilation, {first:.1f} s), {1000 * seconds / passes:.1f} ms a pass")
    print(f"sent: {numbers} numbers = {size} bytes a pass and device, {groups**2} more a step on the sample")
    print(f"a gather of the profile would be {found.profile.nbytes:,} bytes")


if __name__ == "__main__":
    main()
