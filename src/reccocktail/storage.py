"""Files that are whole or absent: atomic writes, hashes, and the cache folder."""

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from reccocktail.errors import RecCocktailError, RunError

CACHE_VARIABLE = "RECCOCKTAIL_CACHE"
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_NO_ACCESS = frozenset({errno.EACCES, errno.EPERM})
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")


def cache_dir() -> Path:
    """Folder for downloads and derived files: `$RECCOCKTAIL_CACHE`, or `~/.cache/reccocktail`."""
    chosen = os.environ.get(CACHE_VARIABLE)
    base = Path(chosen) if chosen else Path.home() / ".cache" / "reccocktail"
    base.mkdir(parents=True, exist_ok=True)
    return base


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value in its canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` and rename it into place when the block succeeds.

    Raises:
        RunError: the file system refused the write (full disk, no permission); `path` is as it was.
            Other errors of the block are raised as they are.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with _writing(path, temporary):
            yield temporary
        with _writing(path):
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` and move it into place when the block succeeds.

    A folder that stood at `path` is replaced as a whole, never mixed with the new files, and comes
    back if anything, an interrupt included, keeps the new one from taking its place.

    Raises:
        RunError: as for `atomic_file`, or `path` is a file.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    old = temporary.with_suffix(".old")
    try:
        require_dir(path)
        with _writing(path):
            temporary.mkdir(parents=True)
        with _writing(path, temporary):
            yield temporary
        with _writing(path):
            if path.exists():
                os.replace(path, old)
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        elif old.exists():  # stopped between the two renames
            with suppress(OSError):
                os.replace(old, path)


def require_dir(path: Path) -> None:
    """Refuse a folder to write before any work is done for it; its parent is made.

    Raises:
        RunError: `path` is a file or lies below one, or the file system refuses.
    """
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


@contextmanager
def _writing(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Report a refused write of `path` as one sentence.

    Args:
        path: what is written.
        temporary: set while the caller's own code runs. Most of its errors are not ours to explain;
            those are that concern this path, or a disk that takes no more.
    """
    try:
        yield
    except RecCocktailError:
        raise
    except Exception as error:
        reason = _refusal(error, temporary)
        if reason is None:
            raise
        raise RunError(
            f"Cannot write {path}: {reason}; free space or choose another folder."
        ) from error


def _refusal(error: Exception, temporary: Path | None) -> str | None:
    """Why the file system refused a write, or None if that is not what the error says."""
    number = where = None
    if isinstance(error, OSError):
        number = error.errno
        where = error.filename if isinstance(error.filename, str) else None
        if temporary is None or (where is not None and Path(where).is_relative_to(temporary)):
            return error.strerror or str(error)
    if number is None:
        # polars and safetensors, written in Rust, name the system's error in their text alone.
        match = _RUST_ERROR.search(str(error))
        number = int(match[1]) if match else None
    if number in _NO_SPACE or (number in _NO_ACCESS and where is None):
        return os.strerror(number)
    return None  # such as a file elsewhere that cannot be read


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. Non-finite numbers are refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RunError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path} does not exist; check the folder's path.") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{path} is not a readable JSON file ({error}); make it again.") from error
