"""What a solve tells while it runs: pass, blocks, rate and time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str, int], None]  # what is being done, and blocks done


@contextmanager
def shown(n_blocks: int, wanted: bool) -> Iterator[Report]:
    """A bar on a terminal's stderr, where there is one and it is wanted."""
    if not wanted:
        yield lambda doing, done: None
        return
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TextColumn("{task.completed}/{task.total} blocks"),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, progress.TaskID] = {}

        def report(doing: str, done: int) -> None:
            if doing not in tasks:
                for old in tasks.values():
                    bar.remove_task(old)
                tasks.clear()
                tasks[doing] = bar.add_task(doing, total=n_blocks, completed=done, rate="")
            speed = next(task.speed for task in bar.tasks if task.id == tasks[doing])
            bar.update(tasks[doing], completed=done, rate=f"{speed:.1f} a second" if speed else "")

        yield report
