"""Lock files: one process at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reccocktail.storage import writing

try:
    import fcntl
except ImportError:  # Windows; there nothing is locked
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock file `path` for the block, so that one process at a time runs it.

    The file stays, empty. Where the system has no locks (Windows, some network file systems), the
    block runs without.

    Args:
        path: the file; its folder is made.
        waiting: called if another process holds the lock, before waiting for it; it may raise
            instead.

    Yields:
        Whether another process held it first.

    Raises:
        RunError: the file system refuses the file.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("w")
    with stream:
        waited = False
        if fcntl is not None:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waited = True
                waiting()
                fcntl.flock(stream, fcntl.LOCK_EX)
            except OSError:
                pass
        try:
            yield waited
        finally:
            if fcntl is not None:  # closing is not enough where a child process has the file too
                with suppress(OSError):
                    fcntl.flock(stream, fcntl.LOCK_UN)
