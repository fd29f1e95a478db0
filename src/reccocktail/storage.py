"""Files that are whole or absent: atomic writes, hashes, and the cache folder."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from reccocktail.errors import RecCocktailError, RunError
from reccocktail.temporary import beside, let_go, make_own, remove_left

CACHE_VARIABLE = "RECCOCKTAIL_CACHE"
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_NO_ACCESS = frozenset({errno.EACCES, errno.EPERM})
# What the two renames of a replaced folder meet while another process replaces the same one.
_RACED = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT})
_RACES = 50
_RACE_SECONDS = 0.01
# What torch.save says where a file takes less than it was given; the system's reason is lost.
_TORCH_ERROR = re.compile(r"unexpected pos \d+ vs \d+|PytorchStreamWriter failed writing")
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")
# What polars says where the last bytes of a Parquet file, its footer, find no place.
_PARQUET_ERROR = re.compile(r"Invalid thrift: transport error")


def cache_dir() -> Path:
    """Folder for downloads and derived files: `$RECCOCKTAIL_CACHE`, or `~/.cache/reccocktail`.

    Raises:
        RunError: the file system refuses the folder, or there is no home and no such variable.
    """
    base = _cache_place()
    with writing(base):
        base.mkdir(parents=True, exist_ok=True)
    return base


def _cache_place() -> Path:
    chosen = os.environ.get(CACHE_VARIABLE)
    try:
        return Path(chosen) if chosen else Path.home() / ".cache" / "reccocktail"
    except RuntimeError as error:
        raise RunError(f"There is no home folder; set {CACHE_VARIABLE} to a folder.") from error


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
    place = path.resolve()  # a link stays, and what it leads to is written
    temporary = beside(place)
    try:
        with writing(path):
            place.parent.mkdir(parents=True, exist_ok=True)
        with writing(path, temporary):
            yield temporary
        with writing(path):
            _open_to_others([temporary])
            os.replace(temporary, place)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` and move it into place when the block succeeds.

    A folder that stood at `path` is replaced as a whole, never mixed with the new files, and comes
    back if anything, an interrupt included, keeps the new one from taking its place.

    Of several processes that replace one folder at the same time, the last one's stays. Temporary
    folders of processes that were killed are removed.

    Raises:
        RunError: as for `atomic_file`, `path` is a file or the folder that the process is in, or
            another process keeps writing there.
    """
    _require_elsewhere(path)
    place = path.resolve()  # a link stays, and the folder that it leads to is replaced
    temporary = beside(place)
    old = temporary.with_suffix(".old")
    lock = None
    try:
        require_dir(path)
        with writing(path):
            lock = make_own(temporary)
        remove_left(place, temporary)
        with writing(path, temporary):
            yield temporary
        with writing(path):
            _open_to_others([file for file in temporary.rglob("*") if file.is_file()])
            _move_into_place(temporary, place, old)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not place.exists():  # stopped between the two renames
            with suppress(OSError):
                os.replace(old, place)
        if place.exists():
            shutil.rmtree(old, ignore_errors=True)
        let_go(lock)


def _require_elsewhere(path: Path) -> None:
    """Refuse to replace the folder that the process is in: it would stay in the deleted one."""
    if Path.cwd().is_relative_to(path.resolve()):
        raise RunError(
            f"{path} is the folder that the command runs in, or holds it, and would be replaced; "
            "choose another folder."
        )


def _open_to_others(files: Iterable[Path]) -> None:
    """Who may read any new file may read these: safetensors shuts its own to all but the owner."""
    shut = [file for file in files if not stat.S_IMODE(file.stat().st_mode) & 0o077]
    if not shut:
        return
    probe = shut[0].with_name(f".{uuid.uuid4().hex[:8]}")
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for file in shut:
        file.chmod(mode)


def _move_into_place(temporary: Path, path: Path, old: Path) -> None:
    """Put the folder `temporary` at `path`; what stood there goes to `old`."""
    for race in range(_RACES):
        try:
            if path.exists():
                os.replace(path, old)
            os.replace(temporary, path)
            return
        except OSError as error:
            if error.errno not in _RACED or not temporary.exists():
                raise
            if race == _RACES - 1:
                raise RunError(
                    f"Cannot write {path}: another process writes there too; wait for its end or "
                    "choose another folder."
                ) from error
            if path.exists():  # the other's folder, whole, is newer than what we moved away
                shutil.rmtree(old, ignore_errors=True)
            time.sleep(_RACE_SECONDS)


def require_dir(path: Path) -> None:
    """Refuse a folder to write before any work is done for it; its parent is made.

    Raises:
        RunError: `path` is a file or lies below one, or nothing can be written there.
    """
    with writing(path):
        place = path.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists() and not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        # Only a write tells what the file system allows, and to whom.
        for folder in (place.parent, place):
            if folder.is_dir():
                tempfile.TemporaryFile(dir=folder).close()


def require_unmarked(path: Path, what: str) -> None:
    """Refuse, before any work, a folder that is of another kind, to put files beside others in it.

    Args:
        path: the folder.
        what: what is written there, such as "an evaluation", for the message.

    Raises:
        RunError: it is an adapter, a prepared folder or a batch's output, or as for `require_dir`.
    """
    require_dir(path)
    for mark in ("adapter.json", "adapter_config.json", "manifest.json"):
        if (path / mark).exists():
            raise RunError(f"{path} holds {mark}, which is not {what}'s; choose another folder.")


def require_replaceable(
    path: Path,
    what: str,
    mark: str,
    keys: Iterable[str],
    files: Iterable[str],
    error: type[RecCocktailError] = RunError,
) -> None:
    """Refuse, before any work, a folder whose replacement would delete files that are not ours.

    A folder may be replaced if it is absent or empty, or if its `mark` is one of ours and no other
    files than `files` lie in it, at any depth.

    Args:
        path: the folder that is to be written as a whole.
        what: what is written there, such as "a prepared folder", for the message.
        mark: name of the JSON file that every such folder holds.
        keys: the keys that tell our mark from another program's file of that name.
        files: patterns (as in `fnmatch`, but `*` stays within a folder) of the other files of such
            a folder, relative to it.
        error: what to raise for a folder with other files.

    Raises:
        RunError: `path` is a file or lies below one, the process is in it, or the file system
            refuses.
        error: the folder holds other files; one of them is named.
    """
    _require_elsewhere(path)
    require_dir(path)
    ours = (mark, *files) if _has_keys(path / mark, set(keys)) else ()
    for file in path.rglob("*") if path.is_dir() else ():
        name = file.relative_to(path).as_posix()
        if file.is_dir() and not file.is_symlink():
            continue
        if not any(
            fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for pattern in ours
        ):
            raise error(
                f"{path} holds other files than {what}'s (such as {name}), which would be deleted; "
                "choose another folder."
            )


def _has_keys(file: Path, keys: set[str]) -> bool:
    """Whether a file is a JSON object with these keys."""
    try:
        found = read_json(file)
    except RunError:
        return False
    return isinstance(found, dict) and keys <= set(found)


@contextmanager
def writing(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Report a refused write of `path` as one sentence.

    Args:
        path: what is written.
        temporary: set while the caller's own code runs. Most of its errors are not ours to explain;
            those are that concern this path, or a disk that takes no more.

    Raises:
        RunError: the file system refused the write.
    """
    try:
        yield
    except RecCocktailError:
        raise
    except Exception as error:
        reason = _refusal(error, temporary)
        if reason is None:
            raise
        if isinstance(error, IsADirectoryError):
            raise RunError(f"Cannot write {path}: it is a folder; give a file's name.") from error
        if isinstance(error, FileExistsError | NotADirectoryError):
            problem = f"Cannot write {path}: a file stands where a folder is needed"
            raise RunError(f"{problem}; choose another folder.") from error
        way_out = "choose another folder"
        with suppress(RunError):
            if path.is_relative_to(_cache_place()):
                way_out = f"set {CACHE_VARIABLE} to a folder that can be written"
        raise RunError(f"Cannot write {path}: {reason}; free space or {way_out}.") from error


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
        if isinstance(error, RuntimeError) and _TORCH_ERROR.search(str(error)):
            number = errno.ENOSPC
        if temporary is not None and _PARQUET_ERROR.search(str(error)):
            number = errno.ENOSPC
    if number in _NO_SPACE or (number in _NO_ACCESS and where is None):
        return os.strerror(number)
    return None  # such as a file elsewhere that cannot be read


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. Non-finite numbers are refused."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """`value` as `write_json` writes it."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RunError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path} does not exist; check the folder's path.") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"{path} cannot be read ({reason}); check who may read it.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{path} is not a readable JSON file ({error}); make it again.") from error


def read_object(path: Path, keys: Iterable[str], way_out: str) -> dict[str, Any]:
    """Content of a JSON file that must be an object with these keys.

    Raises:
        RunError: it cannot be read or is something else; ends with `way_out`, what to do.
    """
    try:
        found = read_json(path)
    except RunError as error:
        if isinstance(error.__cause__, PermissionError):
            raise
        found = None
    if not isinstance(found, dict) or not set(keys) <= set(found):
        raise RunError(f"{path} cannot be read or is damaged; {way_out}.")
    return found
