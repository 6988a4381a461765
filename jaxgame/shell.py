"""What all commands share: exit codes, errors in one line, interrupts, the terminal, and JAX as a command wants it."""

from __future__ import annotations

import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
_interrupts: list[int] = []  # since the command began


def complain(line: str) -> None:
    """One line on stderr."""
    typer.echo(f"jaxgame: {' '.join(line.split())}", err=True)


@contextmanager
def bad_input(*kinds: type[Exception]) -> Iterator[None]:
    """Errors of these kinds end the command in one line."""
    try:
        yield
    except kinds as error:
        told = isinstance(error, OSError) and error.filename is not None and error.strerror
        complain(f"{error.filename}: {error.strerror}" if told else str(error))  # pyright: ignore[reportAttributeAccessIssue]
        raise typer.Exit(BAD_INPUT) from None


def console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A function that shows on a terminal what is being done, and for how long."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task("starting", total=None)

        def begin(text: str) -> None:
            heed_interrupts()
            shown.update(task, description=text)

        yield begin
    heed_interrupts()


def heed_interrupts() -> None:
    """Raise KeyboardInterrupt if one was raised and lost: Python drops those in finalizers and weakref callbacks."""
    if _interrupts:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interrupts.append(number)
    signal.default_int_handler(number, frame)


def run_command(app: Callable[[], Any]) -> None:
    """Run `app` as a program of its own: Ctrl-C ends it, at the latest where its next stage begins."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            # Out of the middle of a compilation, taking JAX down in order lasts until that ends, and can crash.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        raise


def file_name(name: str) -> str:
    """A survey's name as the name of a folder, and nothing else."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "survey"


def prepare_jax() -> None:
    """float64, and a cache of compiled programs, which saves most of the time of a second run."""
    import jax

    jax.config.update("jax_enable_x64", True)
    # Two runs at once may meet in the cache, one reading what the other has half written; JAX then compiles.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache entry")
    if jax.config.jax_compilation_cache_dir is not None or "JAX_COMPILATION_CACHE_DIR" in os.environ:  # pyright: ignore[reportAttributeAccessIssue]
        return
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxgame"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
