"""What the commands share: the applications they register with, the terminal, common options."""

from typing import Literal

import cyclopts
from rich.console import Console

from reccocktail import __version__

LoadIn = Literal["4bit"]
Precision = Literal["float32", "bfloat16", "auto"]

app = cyclopts.App(
    name="reccocktail",
    help="Recommend with a cocktail of two LoRA adapters on one frozen language model.",
    version=__version__,
    suppress_keyboard_interrupt=False,  # `main` answers it
)
data_app = cyclopts.App(name="data", help="Get and prepare recommendation data.")
app.command(data_app)
output = Console()


def quantization_of(load_in: LoadIn | None) -> Literal["nf4"] | None:
    """The recipe's name of what `--load-in` asks for."""
    return "nf4" if load_in else None


def print_metrics(metrics: dict[str, object]) -> None:
    """One table a scenario."""
    from reccocktail.evaluation.results import scenarios_of, terminal_table

    for scenario in scenarios_of(metrics):
        output.print(terminal_table(metrics, scenario))
