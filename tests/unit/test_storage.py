"""Files are whole or absent, whatever goes wrong while they are written."""

import errno
import hashlib
import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save_file

from reccocktail import locks, storage, temporary
from reccocktail.errors import DataError, FetchError, RunError
from reccocktail.locks import locked
from reccocktail.storage import (
    atomic_dir,
    atomic_file,
    cache_dir,
    read_json,
    require_replaceable,
    sha256_file,
    sha256_json,
    write_json,
)
from tests.helpers import one_sentence

FULL = OSError(errno.ENOSPC, "No space left on device")
Writer = Callable[[Path], AbstractContextManager[Path]]


class InterruptedWork(Exception):
    """Any exception of the code inside the block."""


def refuse(real: Callable[..., None], target: Path) -> Callable[..., None]:
    """`os.replace` that fails when something is to be moved to `target`, as on a full disk."""

    def replace(source: Path, destination: Path) -> None:
        if Path(destination) == target and not str(source).endswith(".old"):
            raise FULL
        real(source, destination)

    return replace


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "down" / "file.txt"
    with atomic_file(target) as temporary:
        temporary.write_text("new")
        assert not target.exists() and temporary.parent == target.parent
    assert target.read_text() == "new" and names(target.parent) == ["file.txt"]


@pytest.mark.parametrize("before", [None, "old"])
def test_a_failed_block_leaves_the_file_as_it_was(before: str | None, tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    if before is not None:
        target.write_text(before)
    with pytest.raises(InterruptedWork), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise InterruptedWork
    assert names(tmp_path) == ([] if before is None else ["file.txt"])
    assert before is None or target.read_text() == before


def test_a_full_disk_leaves_the_file_as_it_was_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    monkeypatch.setattr(os, "replace", refuse(os.replace, target))
    with (
        pytest.raises(RunError, match=r"file\.txt: No space left on device; free space"),
        atomic_file(target) as temporary,
    ):
        temporary.write_text("new")
    assert target.read_text() == "old" and names(tmp_path) == ["file.txt"]


def test_a_disk_that_fills_while_writing_is_reported_alike(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    with pytest.raises(RunError, match="No space left"), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise FULL
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_a_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(RunError, match="a file stands where a folder is needed; choose another"),
        atomic_dir(tmp_path / "file" / "x"),
    ):
        pytest.fail("the block must not run")


def test_a_file_below_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(RunError, match="a file stands where a folder is needed; choose another"),
        atomic_file(tmp_path / "file" / "x"),
    ):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("write", [atomic_file, atomic_dir])
@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/inputs/items.csv"),
        PermissionError(errno.EACCES, "Permission denied", "/inputs/items.csv"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        OSError("not a gzipped file"),
        ValueError("No space left in this sentence"),
        FetchError("the server sent: No space left on device (os error 28)"),
    ],
)
def test_what_the_block_itself_does_wrong_is_not_called_a_failed_write(
    error: Exception, write: Writer, tmp_path: Path
) -> None:
    with pytest.raises(type(error)) as caught, write(tmp_path / "out"):
        raise error
    assert caught.value is error and names(tmp_path) == []


@pytest.mark.parametrize("write", [atomic_file, atomic_dir])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded"),
        (OSError(errno.EROFS, "Read-only file system", "/mnt/x"), "Read-only file system"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (pl.exceptions.ComputeError("parquet: IO error (os error 28)"), "No space left on device"),
        (SafetensorError("while serializing (os error 28)"), "No space left on device"),
        (
            pl.exceptions.ComputeError(
                "parquet: File out of specification: Invalid thrift: transport error"
            ),
            "No space left on device",
        ),
    ],
)
def test_a_disk_that_takes_no_more_is_named_whatever_library_met_it(
    error: Exception, reason: str, write: Writer, tmp_path: Path
) -> None:
    with (
        pytest.raises(RunError, match=f"Cannot write .*out: {reason}; free space"),
        write(tmp_path / "out"),
    ):
        raise error
    assert names(tmp_path) == []


def test_an_error_at_the_temporary_path_is_a_failed_write(tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match="is a folder; give a file"),
        atomic_file(tmp_path / "x") as temporary,
    ):
        temporary.mkdir()
        try:
            temporary.write_text("x")
        finally:
            temporary.rmdir()
    with pytest.raises(RunError, match="No such file"), atomic_dir(tmp_path / "x") as temporary:
        (temporary / "missing" / "file.txt").write_text("x")
    assert names(tmp_path) == []


def test_a_file_where_a_folder_is_to_stand_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RunError, match="a file stands where"), atomic_dir(tmp_path / "out"):
        pytest.fail("the block must not run")
    assert (tmp_path / "out").read_text() == "mine" and names(tmp_path) == ["out"]


def test_files_that_a_library_shut_are_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    with atomic_dir(tmp_path / "adapter") as folder:
        (folder / "deep").mkdir()
        save_file({"a": torch.zeros(2)}, folder / "deep" / "shut.safetensors")
        (folder / "card.json").write_text("{}")
    modes = {path.stat().st_mode for path in (tmp_path / "adapter").rglob("*.*")}
    with atomic_file(tmp_path / "alone.safetensors") as file:
        save_file({"a": torch.zeros(2)}, file)
    modes.add((tmp_path / "alone.safetensors").stat().st_mode)
    assert modes == {(tmp_path / "any").stat().st_mode}
    assert names(tmp_path) == ["adapter", "alone.safetensors", "any"]


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("moved", [False, True], ids=["before the move", "after the move"])
def test_an_interrupt_at_either_rename_leaves_a_whole_folder(
    step: int, moved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old.txt").write_text("old")
    real, calls = os.replace, 0

    def replace(source: Path, destination: Path) -> None:
        nonlocal calls
        calls += 1
        if calls != step or moved:
            real(source, destination)
        if calls == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt), atomic_dir(target) as temporary:
        (temporary / "new.txt").write_text("new")
    # Only when the second rename has happened does the new folder stand.
    expected = ["new.txt"] if step == 2 and moved else ["old.txt"]
    assert names(tmp_path) == ["out"] and names(target) == expected


def test_an_old_folder_that_cannot_come_back_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old.txt").write_text("old")
    real = os.replace

    def replace(source: Path, destination: Path) -> None:
        if Path(destination) == target:
            raise FULL
        real(source, destination)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(RunError, match="No space left"), atomic_dir(target):
        pass
    (left,) = tmp_path.iterdir()
    assert names(left) == ["old.txt"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for content in ("first", "second"):
        with atomic_dir(target) as temporary:
            (temporary / f"{content}.txt").write_text(content)
            (temporary / "sub").mkdir()
    assert names(target) == ["second.txt", "sub"] and names(tmp_path) == ["out"]


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("error", [InterruptedWork(), FULL])
def test_a_failed_folder_leaves_the_old_one(before: bool, error: Exception, tmp_path: Path) -> None:
    target = tmp_path / "out"
    if before:
        target.mkdir()
        (target / "old.txt").write_text("old")
    expected = RunError if isinstance(error, OSError) else InterruptedWork
    with pytest.raises(expected), atomic_dir(target) as temporary:
        (temporary / "half.txt").write_text("half")
        raise error
    assert names(tmp_path) == (["out"] if before else [])
    assert not before or names(target) == ["old.txt"]


@pytest.mark.parametrize("before", [False, True])
def test_a_folder_that_cannot_be_moved_into_place_leaves_the_old_one(
    before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    if before:
        target.mkdir()
        (target / "old.txt").write_text("old")
    monkeypatch.setattr(os, "replace", refuse(os.replace, target))
    with pytest.raises(RunError, match="No space left"), atomic_dir(target) as temporary:
        (temporary / "new.txt").write_text("new")
    assert names(tmp_path) == (["out"] if before else [])
    assert not before or names(target) == ["old.txt"]


def others_folder(target: Path, content: str) -> None:
    target.mkdir()
    (target / content).write_text(content)


class Race:
    """A folder that others meddle with whenever it is moved away to be replaced."""

    def __init__(self, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        others_folder(target, "first")
        self.target, self.met, self._patch = target, 0, monkeypatch
        monkeypatch.setattr(storage, "_RACE_SECONDS", 0.0)

    def meet(
        self,
        times: float,
        before: Callable[[], object] = lambda: None,
        after: Callable[[], object] = lambda: None,
    ) -> None:
        real = os.replace

        def replace(source: Path, destination: Path) -> None:
            meets = Path(source) == self.target and self.met < times
            if meets:
                self.met += 1
                before()
            real(source, destination)
            if meets:
                after()

        self._patch.setattr(os, "replace", replace)


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with atomic_dir(tmp_path / "link") as folder:
        (folder / "new").write_text("new")
    (tmp_path / "file").symlink_to(tmp_path / "elsewhere" / "target")
    write_json(tmp_path / "file", 1)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").is_symlink()
    assert names(tmp_path / "elsewhere") == ["new", "target"]
    assert names(tmp_path) == ["elsewhere", "file", "link"]


@pytest.mark.parametrize("place", [".", "..", "../here"])
def test_the_folder_that_the_process_is_in_is_never_replaced(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(RunError, match="choose another folder") as error:
        require_replaceable(Path(place), "a run", "mark.json", ("a",), ("b",))
    one_sentence(error.value)
    with pytest.raises(RunError, match="would be replaced"), atomic_dir(Path(place)):
        pytest.fail("the block ran")
    assert names(tmp_path) == ["here"] and Path.cwd() == tmp_path / "here"


@pytest.fixture
def race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Race:
    return Race(tmp_path / "out", monkeypatch)


@pytest.mark.parametrize("races", [1, 3])
def test_of_two_that_replace_a_folder_at_once_the_last_one_stays(
    races: int, race: Race, tmp_path: Path
) -> None:
    target = race.target
    race.meet(races, after=lambda: others_folder(target, f"other{race.met}"))
    with atomic_dir(target) as temporary:
        (temporary / "mine").write_text("mine")
    assert race.met == races and names(target) == ["mine"] and names(tmp_path) == ["out"]


def test_a_folder_that_another_moves_away_first_is_no_error(race: Race, tmp_path: Path) -> None:
    target = race.target
    race.meet(1, before=lambda: shutil.rmtree(target))
    with atomic_dir(target) as temporary:
        (temporary / "mine").write_text("mine")
    assert race.met == 1 and names(target) == ["mine"] and names(tmp_path) == ["out"]


def test_another_who_never_stops_writing_is_named_and_leaves_nothing_over(
    race: Race, tmp_path: Path
) -> None:
    target = race.target
    race.meet(math.inf, after=lambda: others_folder(target, "other"))
    with pytest.raises(RunError, match="another process writes there") as error, atomic_dir(target):
        pass
    one_sentence(error.value)
    assert names(target) == ["other"] and names(tmp_path) == ["out"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_killed_process_left_is_removed_and_what_others_write_is_not(tmp_path: Path) -> None:
    target = tmp_path / "out"
    strangers = [".out.1234abcd.old", ".out.two.1234abcd.tmp", ".outer.1234abcd.tmp"]
    for name in strangers:
        (tmp_path / name).mkdir()
    (tmp_path / ".out.00000000.tmp").write_text("a file that is being written")
    strangers = names(tmp_path)
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with atomic_dir(target) as folder:
            (folder / "half.txt").write_text("half")
            os.write(tell, b".")
            time.sleep(60)
        os._exit(0)
    try:
        assert os.read(ready, 1) == b"."
        with atomic_dir(target) as mine, atomic_dir(target) as too:
            (mine / "whole.txt").write_text("whole")
            assert mine.is_dir() and too.is_dir()
        assert names(target) == ["whole.txt"]
        (left,) = set(names(tmp_path)) - {*strangers, "out"}
        assert names(tmp_path / left) == ["half.txt"]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with pytest.raises(InterruptedWork), atomic_dir(target):
        assert not (tmp_path / left).exists()
        raise InterruptedWork
    assert names(tmp_path) == sorted([*strangers, "out"]) and names(target) == ["whole.txt"]


def test_a_folder_that_is_taken_for_one_left_over_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may look just when it is made and not yet locked."""
    real, taken = os.open, []

    def steal(path: Path, flags: int) -> int:
        found = real(path, flags)
        if len(taken) < 2:
            taken.append(path)
            path.rmdir()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", steal)
        own = temporary.beside(tmp_path / "out")
        lock = temporary.make_own(own)
    assert len(taken) == 2 and own.is_dir() and lock is not None
    temporary.remove_left(tmp_path / "out", tmp_path)
    assert own.is_dir()
    temporary.let_go(lock)
    temporary.remove_left(tmp_path / "out", own)
    assert own.is_dir()
    temporary.remove_left(tmp_path / "out", tmp_path)
    assert not own.exists()


def test_without_locks_what_was_left_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "fcntl", None)
    (tmp_path / ".out.1234abcd.tmp").mkdir()
    with atomic_dir(tmp_path / "out") as folder:
        (folder / "a").touch()
    assert names(tmp_path) == [".out.1234abcd.tmp", "out"] and names(tmp_path / "out") == ["a"]


OURS = ("format", "outputs")
FILES = ("a.parquet", "part/*.json")


def check(folder: Path) -> None:
    require_replaceable(folder, "a study", "mark.json", OURS, FILES, DataError)


def test_a_file_in_a_folder_of_its_own_is_not_ours(tmp_path: Path) -> None:
    write_json(tmp_path / "out" / "mark.json", {"format": 1, "outputs": {}})
    write_json(tmp_path / "out" / "notes" / "mine.json", {})
    with pytest.raises(DataError, match=r"notes/mine.json"):
        require_replaceable(tmp_path / "out", "a study", "mark.json", OURS, ("*.json",), DataError)


@pytest.mark.parametrize("mark", [None, {"format": 1}, [1], {"format": 1, "outputs": {}}])
@pytest.mark.parametrize("files", [(), ("a.parquet",), ("a.parquet", "part/x.json")])
def test_only_a_folder_of_ours_with_our_files_may_be_replaced(
    files: tuple[str, ...], mark: object, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("x")
    if mark is not None:
        write_json(folder / "mark.json", mark)
    if (isinstance(mark, dict) and "outputs" in mark) or not (files or mark):
        check(folder)
        return
    with pytest.raises(DataError, match="other files than a study's") as error:
        check(folder)
    one_sentence(error.value)


@pytest.mark.parametrize("stranger", ["thesis.docx", "src/a.py", "deep/a.parquet", ".git/x", "ln"])
def test_a_file_that_is_not_ours_is_named(stranger: str, tmp_path: Path) -> None:
    write_json(tmp_path / "mark.json", dict.fromkeys(OURS, 1))
    (tmp_path / "a.parquet").write_text("x")
    (tmp_path / stranger).parent.mkdir(exist_ok=True)
    if stranger == "ln":
        (tmp_path / stranger).symlink_to(tmp_path)
    else:
        (tmp_path / stranger).write_text("mine")
    with pytest.raises(DataError, match=rf"\(such as {stranger}\), which would be deleted"):
        check(tmp_path)


def test_a_file_in_place_of_the_folder_may_not_be_replaced(tmp_path: Path) -> None:
    check(tmp_path / "deep" / "out")
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RunError, match="a file stands where"):
        check(tmp_path / "out")


def test_a_lock_lets_one_at_a_time_in(tmp_path: Path) -> None:
    lock, waits, order = tmp_path / "deep" / "x.lock", threading.Event(), []

    def second() -> None:
        with locked(lock, waits.set) as waited:
            order.append(("second", waited))

    thread = threading.Thread(target=second)
    with locked(lock, lambda: pytest.fail("nobody holds it")) as waited:
        thread.start()
        assert waits.wait(10)
        order.append(("first", waited))
    thread.join()
    assert order == [("first", False), ("second", True)]


def test_who_need_not_wait_is_let_go(tmp_path: Path) -> None:
    def refuse() -> None:
        raise InterruptedWork

    with locked(tmp_path / "x", refuse):
        with pytest.raises(InterruptedWork), locked(tmp_path / "x", refuse):
            pytest.fail("somebody holds it")
    with locked(tmp_path / "x", refuse) as waited:
        assert not waited


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_lives_on_does_not_hold_the_lock(tmp_path: Path) -> None:
    """As workers of a training do that was interrupted."""
    with locked(tmp_path / "x", lambda: None):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    try:
        with locked(tmp_path / "x", lambda: pytest.fail("nobody holds it")):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_system_without_locks_runs_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    with locked(tmp_path / "x", lambda: None), locked(tmp_path / "x", lambda: None) as waited:
        assert not waited


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"deep": [1, float("-inf")]}])
def test_numbers_that_json_does_not_know_are_refused(value: object, tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    write_json(target, {"good": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(target, value)
    assert read_json(target) == {"good": 1}


def test_json_survives_with_its_letters(tmp_path: Path) -> None:
    value = {"title": "Amélie „Ü“ 寿司", "values": [1, 2.5, None, True]}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert "寿司" in (tmp_path / "x.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", None])
def test_unreadable_json_is_named(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RunError, match=r"settings\.json"):
        read_json(file)


def test_file_hashes_are_those_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=5))
def test_the_hash_of_json_ignores_order_and_survives_writing(value: dict[str, object]) -> None:
    backwards = dict(reversed(value.items()))
    assert (
        sha256_json(value) == sha256_json(backwards) == sha256_json(json.loads(json.dumps(value)))
    )
    assert sha256_json(value) != sha256_json({**value, "one more": 1})


def test_the_cache_is_where_the_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECCOCKTAIL_CACHE", str(tmp_path / "there"))
    assert cache_dir() == tmp_path / "there" and cache_dir().is_dir()
    monkeypatch.delenv("RECCOCKTAIL_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "reccocktail"


def test_a_cache_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("RECCOCKTAIL_CACHE", str(cache))

    def read_only(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    # The folder cannot be made, or it is there and takes no file.
    writes: list[tuple[str, Callable[[], object]]] = [
        ("mkdir", cache_dir),
        ("write_bytes", lambda: write_json(cache_dir() / "hashes" / "x.json", {})),
    ]
    for method, write in writes:
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, read_only)
            with pytest.raises(RunError, match=f"{cache}.*Read-only.*RECCOCKTAIL_CACHE") as error:
                write()
            one_sentence(error.value)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", read_only)
        with pytest.raises(RunError, match="choose another folder"):
            write_json(tmp_path / "elsewhere.json", {})


def test_without_a_home_the_variable_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RECCOCKTAIL_CACHE", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(RunError, match="RECCOCKTAIL_CACHE") as error:
        cache_dir()
    one_sentence(error.value)
    with pytest.raises(RunError, match="choose another folder"), atomic_file(tmp_path / "x"):
        raise FULL
