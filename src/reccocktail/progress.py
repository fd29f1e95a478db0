"""One way to show that long work moves: a rich progress bar on standard error."""

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")

console = Console(stderr=True, markup=False, emoji=False)  # names and paths are shown as they are


class Advance(Protocol):
    """Callable that moves a bar by `steps` and may change its label."""

    def __call__(self, steps: float = 1, label: str | None = None) -> None:
        """Move the bar."""
        ...


@contextmanager
def bar(label: str, total: float | None) -> Iterator[Advance]:
    """Show a bar for `total` steps while the block runs; yields the function that advances it."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=not console.is_terminal) as progress:
        task = progress.add_task(label, total=total)

        def advance(steps: float = 1, label: str | None = None) -> None:
            progress.update(task, advance=steps, description=label)

        yield advance


def track(sequence: Iterable[T], label: str, total: float | None = None) -> Iterator[T]:
    """Iterate over `sequence` behind a bar."""
    if total is None and isinstance(sequence, Sized):
        total = len(sequence)
    with bar(label, total) as advance:
        for element in sequence:
            yield element
            advance()


def say(message: str) -> None:
    """Print one line for the person at the terminal, on standard error: output stays clean."""
    console.print(message, highlight=False)
