"""What a service must remember over a restart, in a folder of its own.

    STATE/domains/NAME/domain.json      prepared folder and adapters: the one plugged in first,
                                        the current one last; hashes of what was plugged in
    STATE/domains/NAME/items.parquet    items added at run time
    STATE/domains/NAME/mixes/mix-NNNN/   cocktails mixed at run time

Each file is written whole, forced to the disk and renamed into place before a change is
acknowledged: a kill at any moment leaves the state before it or after it.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from reccocktail.errors import RunError
from reccocktail.locks import locked
from reccocktail.serving.served import ADDED_SCHEMA
from reccocktail.storage import atomic_file, read_json, require_dir, writing

RECORD, ITEMS, MIXES = "domain.json", "items.parquet", "mixes"
ADAPTERS_KEPT = 5
_REMOVED = ".removed-"


class StateError(RunError):
    """The state folder takes no changes at the moment."""


@dataclass(frozen=True)
class Record:
    """Where a domain comes from.

    Attributes:
        data: prepared folder.
        adapters: adapter folders, the one that was plugged in first, the current one last; the
            ones before can be gone back to.
        data_sha256: hash of the prepared folder (`Domain.sha256`); None before it was kept.
        adapter_sha256: hash of the adapter that was plugged in (`Adapter.sha256`); None as well.
    """

    data: Path
    adapters: tuple[Path, ...]
    data_sha256: str | None = None
    adapter_sha256: str | None = None


class Store:
    """The state folder of one service."""

    def __init__(self, root: Path) -> None:
        """Open or make the folder.

        Raises:
            RunError: it cannot be written, or another service uses it.
        """
        self.root = root.resolve()  # however it is spelled: mixes are known by their folders
        self._domains = self.root / "domains"
        require_dir(self._domains)
        with writing(self._domains):
            self._domains.mkdir(exist_ok=True)

        def refuse() -> None:
            raise RunError(f"Another service uses {root}; give this one its own --state.")

        self._lock = ExitStack()
        self._lock.enter_context(locked(self.root / "lock", refuse))
        self._unfinished: set[Path] = set()
        for leftover in self._domains.glob(f"{_REMOVED}*"):  # a removal was interrupted
            shutil.rmtree(leftover, ignore_errors=True)
        for pattern in ("*/.*.tmp", f"*/{MIXES}/.*.tmp"):  # a write was
            for leftover in self._domains.glob(pattern):
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another service use the folder."""
        self._lock.close()

    def names(self) -> list[str]:
        """Names of the domains that are remembered."""
        return sorted(file.parent.name for file in self._domains.glob(f"*/{RECORD}"))

    def record(self, name: str) -> Record | None:
        """Where a domain comes from; None if it is not remembered.

        Raises:
            RunError: its file is damaged.
        """
        file = self._domains / name / RECORD
        if not file.is_file():
            return None
        found = read_json(file)
        try:
            first, *mixed = map(Path, found["adapters"])
            return Record(
                Path(found["data"]),
                # By name: the folder may have been moved, or restored elsewhere.
                (first, *(file.parent / MIXES / path.name for path in mixed)),
                found.get("data_sha256"),
                found.get("adapter_sha256"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{file} is damaged; remove it and plug the domain in again.") from error

    def write_record(self, name: str, record: Record) -> Record:
        """Remember where a domain comes from: the adapter plugged in and the last few mixes.

        Mixes that the record names no longer are removed from the disk.

        Returns:
            What is remembered.

        Raises:
            StateError: the write was refused.
        """
        # A start that plugs in the first one again must find it, or it would undo every mix.
        first, *mixed = record.adapters
        record = replace(record, adapters=(first, *mixed[-(ADAPTERS_KEPT - 1) :]))
        value = {
            "format": 1,
            "data": str(record.data),
            "adapters": [*map(str, record.adapters)],
            "data_sha256": record.data_sha256,
            "adapter_sha256": record.adapter_sha256,
        }
        with _durable(self._domains / name / RECORD) as temporary:
            temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        mixes = self._domains / name / MIXES
        for folder in mixes.glob("mix-*"):
            if folder not in record.adapters and folder not in self._unfinished:
                shutil.rmtree(folder, ignore_errors=True)
        return record

    def items(self, name: str) -> pl.DataFrame:
        """Items added to a domain at run time.

        Raises:
            RunError: the file is damaged.
        """
        file = self._domains / name / ITEMS
        if not file.is_file():
            return pl.DataFrame(schema=ADDED_SCHEMA)
        try:
            return pl.read_parquet(file, glob=False).select(
                pl.col(column).cast(dtype) for column, dtype in ADDED_SCHEMA.items()
            )
        except (OSError, pl.exceptions.PolarsError) as error:
            raise RunError(f"{file} is damaged; restore it, or remove it to go without.") from error

    def write_items(self, name: str, items: pl.DataFrame) -> None:
        """Remember all added items of a domain (`ADDED_SCHEMA`).

        Raises:
            StateError: the write was refused.
        """
        with _durable(self._domains / name / ITEMS) as temporary:
            items.write_parquet(temporary)

    def next_mix(self, name: str) -> Path:
        """A folder for a new cocktail of a domain; it is kept until `mix_ended`."""
        mixes = self._domains / name / MIXES
        endings = [path.name.removeprefix("mix-") for path in mixes.glob("mix-*")]
        last = max((int(ending) for ending in endings if ending.isdigit()), default=0)
        folder = mixes / f"mix-{last + 1:04d}"
        self._unfinished.add(folder)
        return folder

    def keep_mix(self, folder: Path) -> None:
        """Force a cocktail to the disk, before a record names it.

        Raises:
            StateError: the disk refuses.
        """
        with _refused(folder):
            for path in (*folder.rglob("*"), folder, folder.parent):
                _sync(path)

    def mix_ended(self, folder: Path) -> None:
        """A cocktail is in the domain's record by now, or will never be; then it is removed.

        The caller keeps other changes of the domain waiting.

        Raises:
            RunError: the record is damaged; the cocktail stays.
        """
        self._unfinished.discard(folder)
        mixes, domain = folder.parents[:2]
        record = self.record(domain.name)
        if record is None or folder not in record.adapters:
            shutil.rmtree(folder, ignore_errors=True)
            for emptied in (mixes, domain):  # the domain itself may be gone
                with suppress(OSError):  # there is more in it
                    emptied.rmdir()

    def remove(self, name: str) -> None:
        """Forget a domain, its added items and its cocktails.

        Raises:
            StateError: the write was refused; all stays.
        """
        folder = self._domains / name
        if folder.exists():
            grave = self._domains / f"{_REMOVED}{uuid.uuid4().hex[:8]}"
            with _refused(self._domains):
                os.replace(folder, grave)  # at once; what follows may be interrupted
                _sync(self._domains)
            shutil.rmtree(grave, ignore_errors=True)


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Say of a write below the state folder that was refused what it was."""
    try:
        with writing(path):
            yield
    except RunError as error:
        raise StateError(str(error)) from error


@contextmanager
def _durable(path: Path) -> Iterator[Path]:
    """`atomic_file` that also survives a loss of power once it has returned."""
    with _refused(path):
        with atomic_file(path) as temporary:
            yield temporary
            _sync(temporary)
        _sync(path.parent)


def _sync(path: Path) -> None:
    # Windows opens no folders, and syncs no file that is open for reading alone.
    flags = os.O_RDWR if os.name == "nt" else os.O_RDONLY
    with suppress(PermissionError):
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
