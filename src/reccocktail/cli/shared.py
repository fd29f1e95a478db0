"""What the commands share: the applications they register with, the terminal, common options."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

import cyclopts
from rich.console import Console

from reccocktail import __version__


def _whole(_: Any, tokens: Sequence[cyclopts.Token]) -> int:
    """A whole number; cyclopts would round 1.5 to 2 without a word."""
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        with suppress(ValueError):
            if float(text).is_integer():
                return int(float(text))
        raise ValueError(f"'{text}' is not a whole number.") from None


Whole = Annotated[int, cyclopts.Parameter(converter=_whole)]
MaybeWhole = Annotated[int | None, cyclopts.Parameter(converter=_whole)]
# Ids and titles may begin with a hyphen.
Text = Annotated[str | None, cyclopts.Parameter(allow_leading_hyphen=True)]
Texts = Annotated[list[str] | None, cyclopts.Parameter(allow_leading_hyphen=True)]
LoadIn = Literal["4bit"]
Precision = Literal["float32", "bfloat16", "auto"]
Tracker = Literal["mlflow", "wandb"]

app = cyclopts.App(
    name="reccocktail",
    help="Recommend with a cocktail of two LoRA adapters on one frozen language model.",
    version=__version__,
    suppress_keyboard_interrupt=False,  # `main` answers it
)
data_app = cyclopts.App(name="data", help="Get and prepare recommendation data.")
app.command(data_app)
output = Console(markup=False, emoji=False)  # titles, ids and paths are shown as they are


def quantization_of(load_in: LoadIn | None) -> Literal["nf4"] | None:
    """The recipe's name of what `--load-in` asks for."""
    return "nf4" if load_in else None


def print_metrics(metrics: dict[str, object]) -> None:
    """One table a scenario."""
    from reccocktail.evaluation.results import scenarios_of, terminal_table

    for scenario in scenarios_of(metrics):
        output.print(terminal_table(metrics, scenario))
