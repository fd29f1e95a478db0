"""Hidden names beside a place to write, and folders there that go when their process was killed."""

import os
import re
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows; there what a killed process left stays
    fcntl = None  # type: ignore[assignment]


def beside(place: Path) -> Path:
    """A hidden name of its own next to a place, which says of which one it is.

    Not the whole of a long name: file systems allow 255 bytes.
    """
    short = place.name.encode()[:200].decode(errors="ignore")
    return place.with_name(f".{short}.{uuid.uuid4().hex[:8]}.tmp")


def make_own(folder: Path) -> int | None:
    """Make a temporary folder and take its lock, for `let_go`; None where there are no locks."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder, wait=True)
        if lock is not None or folder.exists():
            return lock  # else another process took it for one left over, before it had its lock


def remove_left(place: Path, own: Path) -> None:
    """Remove the temporary folders of a place that nobody holds: their processes were killed.

    One's `own` stays in any case, and so does everything where there are no locks.
    """
    if fcntl is None:
        return
    name = re.compile(re.escape(beside(place).name[:-12]) + "[0-9a-f]{8}[.]tmp")
    with suppress(OSError):
        for folder in place.parent.iterdir():
            if not name.fullmatch(folder.name) or folder == own:
                continue
            if (lock := _lock(folder, wait=False)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                let_go(lock)


def let_go(lock: int | None) -> None:
    """Let others have a lock."""
    if lock is not None and fcntl is not None:
        with suppress(OSError):  # closing is not enough where a child process has the folder too
            fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


def _lock(folder: Path, wait: bool) -> int | None:
    """Lock a folder itself; None if it is gone or no folder, or if another holds it or none can."""
    if fcntl is None:
        return None
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if os.path.samestat(os.fstat(lock), os.lstat(folder)):  # not one that was removed meanwhile
            return lock
    except OSError:
        pass
    os.close(lock)
    return None
