"""The folder of a run, `<out>.training`: who holds it, what it says of itself, its checkpoints."""

import math
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import SAFE_WEIGHTS_NAME

from reccocktail.errors import RunError
from reccocktail.locks import locked
from reccocktail.progress import say
from reccocktail.storage import read_json, read_object, write_json
from reccocktail.training.adapter import Adapter

FINISHED = "finished"
_RUN_FILE = "run.json"
_LOCK_FILE = "lock"
_CLOCK_FILE = "clock.json"
_SEAL_FILE = "files.json"
# What every checkpoint holds; the state is what Trainer writes last.
_FILES = (SAFE_WEIGHTS_NAME, OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME)


@contextmanager
def hold(run_folder: Path) -> Iterator[None]:
    """Keep other trainings out of the folder, which is made, for the time of the block.

    Two at once would write one log, and load checkpoints that the other deletes.

    Raises:
        RunError: another training is at work there, or the file system refuses.
    """

    def refuse() -> None:
        raise RunError(
            f"Another training writes to {run_folder}; wait for its end or choose another --out."
        )

    with locked(run_folder / _LOCK_FILE, refuse):
        yield


def write_record(run_folder: Path, record: dict[str, Any]) -> None:
    """Write what decides whether a later run may go on: `identity`, `finished` and more."""
    write_json(run_folder / _RUN_FILE, record)


def require_written(run_folder: Path, adapter: Adapter, out: Path) -> None:
    """Refuse an adapter that is not the one that a finished run wrote to `out`.

    Raises:
        RunError: it is another. Records of before the hash was kept say nothing.
    """
    if _read_record(run_folder).get("adapter_sha256", adapter.sha256) != adapter.sha256:
        raise RunError(
            f"{out} holds another adapter than the one that {run_folder} tells of; "
            "delete that folder to train anew, or choose another --out."
        )


def starting_point(run_folder: Path, out: Path, identity: str, resume: bool) -> str | None:
    """The checkpoint to go on from, `FINISHED` for a run that needs nothing more, or None.

    Raises:
        RunError: an unfinished run lies there and `resume` is off, it is another run, or its record
            is damaged.
    """
    if not (run_folder / _RUN_FILE).exists():
        return None
    former = _read_record(run_folder)
    if former["finished"] and (not resume or not out.exists()):
        # Those that an interrupted end left: a later run must not go on from them.
        remove_checkpoints(run_folder)
        return None
    if not resume:
        raise RunError(
            f"An unfinished run lies in {run_folder}; "
            "add --resume to go on with it, or delete the folder."
        )
    if former["identity"] != identity:
        raise RunError(
            f"The run in {run_folder} was made with other settings or data; "
            f"give the same ones, or delete the folder to start anew."
        )
    return FINISHED if former["finished"] else _last_whole_checkpoint(run_folder, out.name)


def remove_checkpoints(run_folder: Path) -> None:
    """Delete all checkpoints of a run that needs them no more."""
    for folder in run_folder.glob("checkpoint-*"):
        shutil.rmtree(folder, ignore_errors=True)


def seal(checkpoint: Path) -> None:
    """Note the files of a checkpoint and their sizes, once all are written."""
    sizes = {file.name: file.stat().st_size for file in sorted(checkpoint.iterdir())}
    sizes.pop(_SEAL_FILE, None)
    write_json(checkpoint / _SEAL_FILE, sizes)


def write_seconds(checkpoint: Path, seconds: float) -> None:
    """Write how long a run has trained."""
    write_json(checkpoint / _CLOCK_FILE, {"seconds": seconds})


def read_seconds(checkpoint: Path) -> float:
    """How long a run had trained at a checkpoint.

    Raises:
        RunError: the file is missing or damaged.
    """
    found = read_json(checkpoint / _CLOCK_FILE)
    seconds = found.get("seconds") if isinstance(found, dict) else None
    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise RunError(
            f"{checkpoint / _CLOCK_FILE} is damaged; delete {checkpoint.parent} to start anew."
        )
    return float(seconds)


def _read_record(run_folder: Path) -> dict[str, Any]:
    way_out = f"delete {run_folder} to start anew"
    return read_object(run_folder / _RUN_FILE, ("identity", "finished"), way_out)


def _last_whole_checkpoint(run_folder: Path, name: str) -> str | None:
    """The last checkpoint of which nothing is missing; what follows it is deleted."""
    damaged = False
    while last := get_last_checkpoint(str(run_folder)):  # type: ignore[no-untyped-call]
        checkpoint = Path(last)
        if _is_whole(checkpoint):
            return str(checkpoint)
        damaged = True
        say(f"{name}: {checkpoint.name} is not whole and is passed over.")
        shutil.rmtree(checkpoint)
    if damaged:
        say(f"{name}: no whole checkpoint is left; the run starts anew.")
    return None


def _is_whole(checkpoint: Path) -> bool:
    """Whether all files of a checkpoint are there, as long as they were, and readable."""
    # Without a seal it is of an earlier version, or the process ended between the two.
    sizes: Any = dict.fromkeys(_FILES)
    try:
        if (checkpoint / _SEAL_FILE).exists():
            sizes = read_json(checkpoint / _SEAL_FILE)
        read_seconds(checkpoint)
        return isinstance(sizes, dict) and all(
            size in (None, (checkpoint / file).stat().st_size) and _is_readable(checkpoint / file)
            for file, size in sizes.items()
        )
    except (RunError, OSError, SafetensorError, zipfile.BadZipFile):
        return False


def _is_readable(file: Path) -> bool:
    """Whether a file can be read to its end; what says no more than that raises."""
    if file.suffix == ".json":
        read_json(file)
    elif file.suffix == ".safetensors":
        with safe_open(file, "pt"):  # compares the length with what the header says
            pass
    elif file.suffix in (".pt", ".pth"):  # written by torch.save: a ZIP with a sum for each part
        with zipfile.ZipFile(file) as parts:
            return parts.testzip() is None
    return True
