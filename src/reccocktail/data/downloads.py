"""Files behind URLs: downloaded with a checksum where one is published, unzipped where needed."""

import logging
import os
import shutil
import zipfile
from pathlib import Path

import pooch
import requests

from reccocktail.data.registry import Download
from reccocktail.errors import FetchError
from reccocktail.progress import Advance, bar

CHUNK_BYTES = 1 << 20
MEGABYTE = 1_000_000
TIMEOUT_SECONDS = 60
# Servers that label .gz files with a content encoding would otherwise hand them over unpacked.
HEADERS = {"Accept-Encoding": "identity"}


class _Bar:
    """What pooch asks of a progress bar, shown through ours in megabytes."""

    def __init__(self, advance: Advance, label: str) -> None:
        self.advance = advance
        self.label = label
        self.total = 0

    def update(self, count: int) -> None:
        size = f" of {self.total / MEGABYTE:.0f}" if self.total else ""
        self.advance(count / MEGABYTE, f"{self.label} (MB{size})")

    def reset(self) -> None:
        """Pooch resets to fill the bar at the end; ours is full by then."""
        self.total = 0
        self.advance = lambda steps=1, label=None: None

    def close(self) -> None:
        """Nothing to close: the surrounding block does it."""


def download(what: Download, folder: Path, unpacked: Path) -> None:
    """Download one file into `folder` and put it, or what it holds, into `unpacked`.

    A file that is already in `folder` with the right checksum is not downloaded again. The file
    appears under its name only when it is whole.

    Raises:
        FetchError: not reachable, not there, cut off, wrong checksum, or a file missing in the
            archive.
    """
    pooch.get_logger().setLevel(logging.ERROR)
    try:
        with bar(f"Downloading {what.name} (MB)", None) as advance:
            downloader = pooch.HTTPDownloader(
                progressbar=_Bar(advance, f"Downloading {what.name}"),
                chunk_size=CHUNK_BYTES,
                timeout=TIMEOUT_SECONDS,
                headers=HEADERS,
            )
            path = Path(
                pooch.retrieve(
                    what.url, what.checksum, fname=what.name, path=folder, downloader=downloader
                )
            )
    except requests.HTTPError as error:
        answer = (
            f"{error.response.status_code} {error.response.reason}"
            if error.response is not None
            else "an error"
        )
        raise FetchError(
            f"{what.url} answered {answer}; "
            "the file may have moved: look at the publisher's page and report the new address."
        ) from error
    except requests.RequestException as error:
        raise FetchError(
            f"{what.url} could not be downloaded ({_reason(error)}); check the network and run "
            f"the command again."
        ) from error
    except ValueError as error:  # Pooch's word for a checksum that differs.
        raise FetchError(
            f"{what.url} does not match its published checksum {what.checksum}: the download is "
            f"damaged or the file "
            "was changed; run the command again, and report it if it happens twice."
        ) from error
    if what.unzip:
        _unzip(path, what, unpacked)
    else:
        link_or_copy(path, unpacked / what.name)


def link_or_copy(source: Path, target: Path) -> None:
    """Give the file a second name, or copy it where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _unzip(path: Path, what: Download, folder: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            # By file name, so that a folder's name in the archive does not matter (ml-10M100K in
            # ml-10m.zip).
            members = {
                info.filename.rsplit("/", 1)[-1]: info
                for info in archive.infolist()
                if not info.is_dir()
            }
            for name in what.unzip:
                if name not in members:
                    raise FetchError(
                        f"{what.name} does not hold {name}; delete {path} and fetch it again."
                    )
                with archive.open(members[name]) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target, CHUNK_BYTES)
    except zipfile.BadZipFile as error:
        raise FetchError(
            f"{path} is not a whole zip archive ({error}); delete it and fetch it again."
        ) from error


def _reason(error: Exception) -> str:
    """Kind of failure, without the library's nested text."""
    kinds = {
        requests.Timeout: "no answer in time",  # before connection errors, of which it may be one
        requests.exceptions.ChunkedEncodingError: "cut off",
        requests.ConnectionError: "no connection",
    }
    return next(
        (text for kind, text in kinds.items() if isinstance(error, kind)), type(error).__name__
    )
