"""The log of a run: JSON lines to read by program, TensorBoard to look at, trackers if asked."""

import importlib.util
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reccocktail.errors import RunError
from reccocktail.storage import atomic_file

LOG_FILE = "log.jsonl"
TRACKERS = ("mlflow", "wandb")
"""Trackers that `transformers.Trainer` reports to; each reads its own environment variables."""


def require_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that cannot be reported to.

    Raises:
        RunError: it is unknown, or its package is missing.
    """
    for name in names:
        if name not in TRACKERS:
            raise RunError(f"There is no tracker '{name}'; report to {' or '.join(TRACKERS)}.")
        if importlib.util.find_spec(name) is None:
            raise RunError(f"{name} is not installed; pip install 'reccocktail[tracking]'.")


class RunLog:
    """Appends one JSON object a line; numbers go to TensorBoard too, where it is installed."""

    def __init__(self, folder: Path, resumed_step: int = 0) -> None:
        """Open the log; of a resumed run, what was logged after the checkpoint is dropped."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / LOG_FILE
        kept = [row for row in read_log(folder) if row["step"] <= resumed_step]
        with atomic_file(self._path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        self._board = _board(folder / "tensorboard")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log values of a step (counted from 1)."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            self._board.write(step, values)

    def close(self) -> None:
        """End TensorBoard's file."""
        if self._board is not None:
            self._board.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run's log, oldest first, as far as it is whole: an interruption may cut a line."""
    path = folder / LOG_FILE
    rows = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            break
        rows.append(row)
    return rows


class _Board:
    """TensorBoard's file of a run.

    The library's own writer has a thread for it, which leaves a traceback where the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        """Start a file; raises ImportError where TensorBoard is not installed."""
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
        from tensorboard.summary.writer.record_writer import (  # type: ignore[import-untyped]
            RecordWriter,
        )
        from torch.utils.tensorboard.summary import scalar

        self._event: Any = Event
        self._scalar: Any = scalar
        folder.mkdir(parents=True, exist_ok=True)
        seconds, rest = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{os.getpid()}.{rest:09d}"
        self._records = RecordWriter((folder / name).open("wb"))
        self._write(file_version="brain.Event:2")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of a step."""
        for name, value in values.items():
            self._write(step=step, summary=self._scalar(name, value))
        self._records.flush()

    def close(self) -> None:
        """End the file."""
        self._records.close()

    def _write(self, **what: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **what).SerializeToString())


def _board(folder: Path) -> _Board | None:
    try:
        return _Board(folder)
    except ImportError:
        return None
