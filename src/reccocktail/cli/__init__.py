"""The command line: one command, one typed function; no algorithm lives here."""

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import cyclopts
from rich.console import Console

# Importing a module of commands registers them.
from reccocktail.cli import adapters, data, judging, recommending  # noqa: F401
from reccocktail.cli.shared import app, data_app
from reccocktail.errors import FollowedError, RecCocktailError, RecipeError
from reccocktail.launcher import is_first, processes, rank

__all__ = ["BAD_INPUT", "INTERRUPTED", "app", "data_app", "main"]

BAD_INPUT, INTERRUPTED = 2, 130


def main(arguments: list[str] | None = None) -> None:
    """Run a command; what the user can mend ends with one sentence and exit code 2."""
    words = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # a file's code page on Windows lacks most letters
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            stream.reconfigure(encoding="utf-8", errors=stream.errors)
    try:
        with _ending_as_interrupted(words):
            _run(words)
    except KeyboardInterrupt:
        if is_first():
            _tell(f"Interrupted. {_way_on(words)}")
        sys.exit(INTERRUPTED)


def _run(words: list[str]) -> None:
    try:
        if processes() > 1 and words[:1] != ["train"]:
            raise RecipeError("Only `train` runs in several processes; start this one alone.")
        for word in words:
            if word != word.encode(errors="replace").decode():
                raise RecipeError(f"{word!a} is no UTF-8 text; give it another name.")
        app(words, exit_on_error=False, print_error=False)
    except FollowedError:  # the first process tells it
        sys.exit(BAD_INPUT)
    except (RecCocktailError, cyclopts.CycloptsError) as error:
        who = "reccocktail" if is_first() else f"reccocktail (process {rank()})"
        _tell(f"{who}: {error}")
        sys.exit(BAD_INPUT)
    except (OSError, RuntimeError) as error:
        if (sentence := _of_a_path(error)) is None:
            raise
        _tell(f"reccocktail: {sentence}")
        sys.exit(BAD_INPUT)


def _of_a_path(error: OSError | RuntimeError) -> str | None:
    """The sentence about a path that no command could look at; None for any other error."""
    if isinstance(error, RuntimeError):  # of `Path.resolve` before Python 3.13
        return f"{error}; check the path." if str(error).startswith("Symlink loop") else None
    if isinstance(error.filename, str | os.PathLike):
        return f"{error.filename} cannot be used ({error.strerror}); check the path."
    try:
        os.getcwd()
    except FileNotFoundError:
        return "The folder that the command runs in is gone; change to another one."
    return None


@contextmanager
def _ending_as_interrupted(words: list[str]) -> Iterator[None]:
    """Have SIGTERM end a command as Ctrl-C does: what is half-written is cleared away.

    Not a service, which ends by itself, nor one of several processes, which their launcher ends.
    """
    ours = threading.current_thread() is threading.main_thread() and processes() == 1
    if not ours or words[:1] == ["serve"] or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a worker inherits the handler
            os._exit(128 + number)
        if not callable(signal.getsignal(signal.SIGINT)):  # a shell's background job ignores it
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _tell(sentence: str) -> None:
    """One sentence on standard error; the paths and names in it as they are."""
    console = Console(stderr=True, soft_wrap=True, markup=False, emoji=False, highlight=False)
    console.print(sentence)


def _way_on(words: list[str]) -> str:
    """What an interrupted command leaves, and how to go on."""
    if words[:1] == ["train"]:
        return "Run the command again with --resume to go on from the last checkpoint, if any."
    if words[:1] in (["quickstart"], ["batch"]) or words[:2] == ["data", "fetch"]:
        return "Finished steps are kept; run the command again to go on."
    return "Nothing is left half-written; run the command again to start anew."
