"""The log of a run: JSON lines to read by program, TensorBoard to look at."""

import json
from pathlib import Path
from typing import Any

from reccocktail.storage import atomic_file

LOG_FILE = "log.jsonl"


class RunLog:
    """Appends one JSON object a line; numbers go to TensorBoard too, where it is installed."""

    def __init__(self, folder: Path, resumed_step: int = 0) -> None:
        """Open the log; of a resumed run, what was logged after the checkpoint is dropped."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / LOG_FILE
        kept = [row for row in read_log(folder) if row["step"] <= resumed_step]
        with atomic_file(self._path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        self._board = _summary_writer(folder / "tensorboard")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log values of a step (counted from 1)."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush what TensorBoard holds back."""
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


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
