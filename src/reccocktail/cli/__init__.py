"""The command line: one command, one typed function; no algorithm lives here."""

import sys

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
    try:
        if processes() > 1 and words[:1] != ["train"]:
            raise RecipeError("Only `train` runs in several processes; start this one alone.")
        app(words, exit_on_error=False, print_error=False)
    except FollowedError:  # the first process tells it
        sys.exit(BAD_INPUT)
    except (RecCocktailError, cyclopts.CycloptsError) as error:
        who = "reccocktail" if is_first() else f"reccocktail (process {rank()})"
        _tell(f"{who}: {error}")
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        if is_first():
            _tell(f"Interrupted. {_way_on(words)}")
        sys.exit(INTERRUPTED)


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
