import json
from pathlib import Path

import pytest

from reccocktail.training.log import LOG_FILE, RunLog, read_log


def test_rows_come_back_in_order(tmp_path):
    log = RunLog(tmp_path / "run")
    log.write(1, {"loss": 2.5})
    log.write(2, {"loss": 2.25, "ndcg@10": 0.5})
    log.close()
    assert read_log(tmp_path / "run") == [
        {"step": 1, "loss": 2.5},
        {"step": 2, "loss": 2.25, "ndcg@10": 0.5},
    ]


def test_rows_can_be_read_while_the_run_goes_on(tmp_path):
    log = RunLog(tmp_path)
    log.write(1, {"loss": 2.5})
    assert len(read_log(tmp_path)) == 1
    log.close()


def test_a_new_run_starts_an_empty_log(tmp_path):
    for _ in range(2):
        log = RunLog(tmp_path)
        log.write(1, {"loss": 1.0})
        log.close()
    assert len(read_log(tmp_path)) == 1


def test_a_resumed_run_drops_what_came_after_the_checkpoint(tmp_path):
    log = RunLog(tmp_path)
    for step in range(1, 6):
        log.write(step, {"loss": float(step)})
    log.close()
    again = RunLog(tmp_path, resumed_step=3)
    again.write(4, {"loss": 40.0})
    again.close()
    assert [row["loss"] for row in read_log(tmp_path)] == [1.0, 2.0, 3.0, 40.0]


def test_a_line_cut_short_is_left_out(tmp_path):
    (tmp_path / LOG_FILE).write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo')
    assert read_log(tmp_path) == [{"step": 1, "loss": 2.0}]
    log = RunLog(tmp_path, resumed_step=1)
    log.write(2, {"loss": 1.0})
    log.close()
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2]


@pytest.mark.parametrize("damage", [b"\xff\xfe\n", b"[]\n", b"7\n", b'{"loss": 1.0}\n', b"\0\0"])
def test_a_damaged_log_counts_as_far_as_it_is_whole(tmp_path, damage):
    row = {"step": 1, "loss": 2.0}
    (tmp_path / LOG_FILE).write_bytes(json.dumps(row).encode() + b"\n" + damage)
    assert read_log(tmp_path) == [row]
    RunLog(tmp_path, resumed_step=1).close()
    assert read_log(tmp_path) == [row]


def test_no_log_is_an_empty_log(tmp_path):
    assert read_log(tmp_path) == []


def test_tensorboard_gets_the_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path)
    log.write(1, {"loss": 2.5})
    log.write(2, {"loss": 2.0})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 2.5), (2, 2.0)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_is_told_where_the_row_was_written(tmp_path, monkeypatch):
    """Not by another thread, later."""
    log = RunLog(tmp_path)
    monkeypatch.setattr(log._board._records, "_writer", open("/dev/full", "wb", buffering=0))
    with pytest.raises(OSError, match="No space left"):
        log.write(1, {"loss": 2.5})
