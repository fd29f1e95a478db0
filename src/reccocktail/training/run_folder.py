"""The folder of a run, `<out>.training`: who holds it, what it says of itself, its checkpoints."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from reccocktail.errors import RunError
from reccocktail.storage import locked, read_json, write_json

FINISHED = "finished"
_RUN_FILE = "run.json"
_LOCK_FILE = "lock"


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


def starting_point(run_folder: Path, out: Path, identity: str, resume: bool) -> str | None:
    """The checkpoint to go on from, `FINISHED` for a run that needs nothing more, or None.

    Raises:
        RunError: an unfinished run lies there and `resume` is off, or it is another run.
    """
    if not (run_folder / _RUN_FILE).exists():
        return None
    former = read_json(run_folder / _RUN_FILE)
    if former["finished"] and (not resume or not out.exists()):
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
    return FINISHED if former["finished"] else _last_whole_checkpoint(run_folder)


def _last_whole_checkpoint(run_folder: Path) -> str | None:
    """The last checkpoint that was written to its end; what follows it is deleted."""
    while True:
        last = get_last_checkpoint(str(run_folder))  # type: ignore[no-untyped-call]
        # The state is the file that Trainer writes last.
        if last is None or (Path(last) / TRAINER_STATE_NAME).is_file():
            return None if last is None else str(last)
        shutil.rmtree(last)
