"""A population that is read from disk in blocks: time a pass, rate, peak memory, and what is proved.

    python benchmarks/stream.py [--agents 10000000] [--groups 16] [--source folder|function] [--data FOLDER]

Writes the population once (64 bytes an agent at 16 groups in single precision), solves it in a process of its own, so
that its peak memory is the solve's, and kills another one in the middle of a pass to see what resuming costs.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

CHUNK = 2**17  # agents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=10_000_000)
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--source", choices=("folder", "function"), default="folder")
    parser.add_argument("--data", type=pathlib.Path, help="where to put the population (default a temporary folder)")
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--solve", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--kill", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.solve is not None:
        solve(options)
    else:
        measure(options)


def rows_of(start: int, stop: int, n_groups: int) -> dict[str, np.ndarray]:
    """Agents with tastes and stakes of their own; cheap to draw again."""
    rng = np.random.Generator(np.random.SFC64(start))
    linear = rng.standard_normal((stop - start, n_groups), np.float32)
    return {"linear": linear, "curvature": rng.random(stop - start, np.float32) + np.float32(0.5)}


def shared_of(n_groups: int) -> dict:
    """Groups that crowd each other out, their neighbours less than themselves; not symmetric."""
    away = np.arange(n_groups)[:, None] - np.arange(n_groups)
    B = 4 * np.exp(-(away**2) / 2) + 0.3 * np.sign(away)
    return {"coupling.B": B.tolist()}


def generate(folder: pathlib.Path, n: int, n_groups: int) -> float:
    """The population on disk; seconds. Left alone if it is there already."""
    names = folder / "population.json"
    if names.exists():
        return 0.0
    needed, free = n * (n_groups + 1) * 4, shutil.disk_usage(folder).free
    if needed * 1.1 > free:
        raise SystemExit(f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} are free in {folder}")
    start = time.perf_counter()
    shapes = {"linear": (n, n_groups), "curvature": (n,)}
    files = {}
    for name, shape in shapes.items():
        files[name] = open(folder / f"{name}.npy", "wb")
        header = dict(descr="<f4", fortran_order=False, shape=shape)
        np.lib.format.write_array_header_1_0(files[name], header)
    for k in range(0, n, CHUNK):
        for name, x in rows_of(k, min(k + CHUNK, n), n_groups).items():
            x.tofile(files[name])
    for file in files.values():
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # the first pass is to come from the disk
        file.close()
    names.write_text(json.dumps({"kind": "quadratic", **shared_of(n_groups)}))
    return time.perf_counter() - start


def solve(options: argparse.Namespace) -> None:
    """In a process of its own: its measurements as JSON on stdout. With --kill, until that block of the second pass."""
    from jaxgame.streaming import Stream, open_stream, solve_stream
    from jaxgame.streaming import solve as streaming

    if options.source == "folder":
        stream = open_stream(options.solve)
    else:
        shared = shared_of(options.groups)
        n_groups = options.groups
        stream = Stream("quadratic", options.agents, lambda a, b: rows_of(a, b, n_groups), shared, block_agents=CHUNK)
    plain, ends = streaming.answered, []

    def answered(*arguments):
        if options.kill and len(ends) == stream.n_blocks + options.kill:
            os.kill(os.getpid(), 9)
        found = plain(*arguments)
        found.total.block_until_ready()
        ends.append(time.perf_counter())
        return found

    streaming.answered = answered
    start = time.perf_counter()
    found = solve_stream(stream, checkpoint=options.solve / "checkpoint", every=2 if options.kill else 10)
    seconds = time.perf_counter() - start
    passes = [ends[k : k + stream.n_blocks] for k in range(0, len(ends), stream.n_blocks)]
    print(
        json.dumps(
            dict(
                agents=stream.n_agents,
                groups=stream.n_groups,
                dtype=str(stream.dtype),
                blocks=stream.n_blocks,
                block_agents=stream.block_agents,
                seconds=seconds,
                until_first_block=ends[0] - start if ends else None,
                # Between the ends of a pass's first and last block, scaled to all of its blocks.
                seconds_a_pass=[
                    (one[-1] - one[0]) * len(one) / (len(one) - 1) for one in passes if len(one) == stream.n_blocks > 1
                ],
                answered=len(ends),
                bytes=stream.n_agents
                * sum(int(np.prod(shape)) * stream.dtype.itemsize for shape in stream.rows.values()),
                peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                converged=found.converged,
                passes=found.passes,
                residual=found.residual,
                gap=found.gap,
                history=found.history.tolist(),
                aggregate=found.aggregate.tolist(),
                message=found.message,
            )
        )
    )


def child(options: argparse.Namespace, folder: pathlib.Path, kill: int = 0) -> dict | None:
    words = ["--agents", options.agents, "--groups", options.groups, "--source", options.source]
    command = [sys.executable, __file__, "--solve", folder, "--kill", kill, *words]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, check=not kill)
    return None if kill else json.loads(done.stdout)


def measure(options: argparse.Namespace) -> None:
    import common

    with tempfile.TemporaryDirectory(dir=options.data) as scratch:
        folder = pathlib.Path(scratch)
        written = generate(folder, options.agents, options.groups) if options.source == "folder" else 0.0
        environment = common.environment("numpy", "orbax-checkpoint")
        whole = child(options, folder)
        print(whole["message"])
        shutil.rmtree(folder / "checkpoint")
        blocks = whole["blocks"]
        child(options, folder, kill=max(blocks // 2, 1))
        resumed = child(options, folder)
    same = all(whole[name] == resumed[name] for name in ("aggregate", "residual", "gap", "passes", "history"))
    lost = whole["answered"] - resumed["answered"]
    resumption = dict(killed_after=blocks + max(blocks // 2, 1), kept=lost, same_bits=same, seconds=resumed["seconds"])
    report = dict(environment=environment, source=options.source, written=written, solve=whole, resumption=resumption)
    results = options.output or common.RESULTS
    path = results / "stream.json"
    runs = json.loads(path.read_text())["runs"] if path.exists() else {}
    runs[f"{options.source}, {options.agents:,} × {options.groups}"] = report
    common.write_json(path, dict(runs=runs))
    lines = text(common, runs)
    common.write(results / "stream.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def text(common, runs: dict) -> list[str]:
    rows = []
    for name, run in sorted(runs.items(), key=lambda item: item[1]["solve"]["agents"]):
        one, again = run["solve"], run["resumption"]
        passes = one["seconds_a_pass"]
        median = float(np.median(passes)) if passes else float("nan")
        rows.append(
            [
                name,
                f"{one['bytes'] / 1e9:.2f}",
                one["passes"],
                f"{median:.1f}",
                f"{one['bytes'] / 1e6 / median:.0f}",
                f"{one['seconds']:.0f}",
                f"{one['until_first_block']:.0f}",
                f"{one['peak'] / 2**20:.0f}",
                f"{one['residual']:.1e}",
                f"{one['gap']:.1e}",
                f"{again['kept']} of {again['killed_after']}",
                "the same bits" if again["same_bits"] else "ANOTHER ANSWER",
            ]
        )
    header = ["population", "GB", "passes", "s a pass", "MB/s", "s in all", "before the first block", "peak MiB"]
    header += ["residual ≤", "gap ≤", "blocks kept by kill -9", "resumed to"]
    last = list(runs.values())[-1]
    return [
        "# Populations read in blocks",
        "",
        *common.prose(
            "Quadratic games with a mean field, single precision, curvature by agent, by `jg.solve_stream` with its",
            "defaults. A process each; peak memory is the whole process's. The second process of every population was",
            "killed with -9 in the middle of its second pass, the third one resumed.",
        ),
        "",
        *common.table(header, rows),
        "",
        common.described(last["environment"]),
    ]


if __name__ == "__main__":
    main()
