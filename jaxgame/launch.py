"""`python -m jaxgame.launch`: one computation by several processes, started, watched and ended together."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time

GRACE = 5.0  # seconds to end in, before a process is killed

EPILOG = """\
The script calls jaxgame.connect() before it makes its first array; from then on jax.devices() are those of all
processes, and jaxgame.shard(game) spreads a game over them. Every process runs the same script to the end. Each is told
by its environment: JAX_COORDINATOR_ADDRESS, JAXGAME_PROCESSES, JAXGAME_PROCESS.

  scripts/launch -n 4 benchmarks/sharded.py --agents 1000000

On several hosts, run it on each, with the address of the first and a port that is free there; for two hosts with four
processes each:

  first host:   scripts/launch -n 4 --total 8 --first 0 --coordinator first.host:12355 script.py
  second host:  scripts/launch -n 4 --total 8 --first 4 --coordinator first.host:12355 script.py

If a process fails, the others here are ended, and its exit code is the launcher's; the other hosts notice within two
minutes. Ctrl-C goes to all processes; a second one kills them.
"""


def main(arguments: list[str] | None = None) -> int:
    """Start, watch, end; the first exit code that is not zero (128 + the number of a signal), or zero."""
    parser = argparse.ArgumentParser(
        "scripts/launch",
        description="Run a Python script in several processes that compute together (jax.distributed).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-n", "--processes", type=int, required=True, metavar="N", help="how many to start here")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0; default: a free port of this host")
    parser.add_argument("--total", type=int, metavar="M", help="how many there are on all hosts; default: N")
    parser.add_argument("--first", type=int, default=0, metavar="K", help="number of the first one here; default: 0")
    parser.add_argument("script", help="to run; what follows are its arguments")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    total = options.processes if options.total is None else options.total
    if options.processes < 1:
        parser.error(f"-n is {options.processes}, expected at least 1")
    if options.first < 0 or options.first + options.processes > total:
        last = options.first + options.processes - 1
        parser.error(f"--first {options.first} and -n {options.processes} make process {last}, of --total {total}")
    if total > options.processes and options.coordinator is None:
        parser.error("--total above -n means several hosts: they need the same --coordinator HOST:PORT")
    shared = os.environ | dict(
        JAX_COORDINATOR_ADDRESS=options.coordinator or f"127.0.0.1:{_free_port()}",
        JAXGAME_PROCESSES=str(total),
        PYTHONUNBUFFERED="1",
    )
    command = [sys.executable, options.script, *options.arguments]
    return _run([(rank, shared | dict(JAXGAME_PROCESS=str(rank))) for rank in _ranks(options)], command)


def _ranks(options: argparse.Namespace) -> range:
    return range(options.first, options.first + options.processes)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run(ranks: list[tuple[int, dict[str, str]]], command: list[str]) -> int:
    running: list[subprocess.Popen[str]] = []
    stops: list[int] = []

    def stop(number: int, _: object) -> None:
        # In sessions of their own, the processes do not hear the terminal.
        stops.append(number)
        _send(running, number if len(stops) == 1 else signal.SIGKILL)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    printers = []
    try:
        for rank, environment in ranks:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            running.append(process)
            printers.append(threading.Thread(target=_print, args=(rank, process), daemon=True))
            printers[-1].start()
        code = _watch(running)
    finally:
        _end(running)
        for number, handler in before.items():
            signal.signal(number, handler)
    for printer in printers:
        printer.join(GRACE)
    return 128 + stops[0] if stops else code


def _print(rank: int, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            # One write a line, or lines of several processes would mix.
            sys.stdout.write(f"[{rank}] {line.rstrip()}\n")
            sys.stdout.flush()


def _watch(running: list[subprocess.Popen[str]]) -> int:
    """Until one fails or all are through."""
    while True:
        codes = [process.poll() for process in running]
        if failed := [code for code in codes if code]:
            return failed[0] if failed[0] > 0 else 128 - failed[0]
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.05)


def _end(running: list[subprocess.Popen[str]]) -> None:
    _send(running, signal.SIGTERM)
    limit = time.monotonic() + GRACE
    for process in running:
        try:
            process.wait(max(0.0, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _send(running: list[subprocess.Popen[str]], number: int) -> None:
    for process in running:
        if process.poll() is None:
            process.send_signal(number)


if __name__ == "__main__":
    sys.exit(main())
