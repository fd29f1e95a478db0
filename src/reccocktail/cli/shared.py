"""What the commands share: the applications they register with, the terminal, common options."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cyclopts
from rich.console import Console

from reccocktail import __version__
from reccocktail.schema import Precision

if TYPE_CHECKING:  # they load torch, which a command that needs none should not wait for
    from reccocktail.backbone import Backbone
    from reccocktail.training.adapter import Adapter


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
# Ids and titles may begin with a hyphen, so a flag has one of them.
Text = Annotated[str | None, cyclopts.Parameter(allow_leading_hyphen=True)]
Texts = Annotated[
    list[str] | None, cyclopts.Parameter(allow_leading_hyphen=True, consume_multiple=False)
]
LoadIn = Literal["4bit"]
Tracker = Literal["mlflow", "wandb"]


@cyclopts.Parameter(name="*")
@dataclass(frozen=True)
class Place:
    """Where the backbone of given adapters is, and how it computes."""

    backbone: Annotated[
        str | None, cyclopts.Parameter(help="where the adapters' backbone is, if not where it was.")
    ] = None
    device: Annotated[str | None, cyclopts.Parameter(help="cpu, cuda or mps.")] = None
    dtype: Annotated[str | None, cyclopts.Parameter(help="float32, bfloat16 or float16.")] = None
    precision: Annotated[
        Precision,
        cyclopts.Parameter(
            help="of products with float32 weights: bfloat16 is faster on CPUs and GPUs that "
            "multiply it, and near float32; auto takes it there. Other weights keep their dtype."
        ),
    ] = "float32"

    def load(self, usual: str, adapters: "Sequence[Adapter]" = ()) -> "Backbone":
        """The backbone, that of the recipe if no other place was given.

        Args:
            usual: where it was when the adapters were made.
            adapters: which are used on it; those that were made on otherwise rounded weights are
                said.

        Raises:
            BackboneError: see `load_backbone`.
        """
        from reccocktail.backbone import load_backbone
        from reccocktail.training.model import note_quantization

        model = load_backbone(
            self.backbone or usual,
            device=self.device,
            dtype=self.dtype,
            quantization=self._quantization,
            precision=self.precision,
        )
        note_quantization(adapters, model)
        return model

    @property
    def _quantization(self) -> Literal["nf4"] | None:
        return None


@cyclopts.Parameter(name="*")
@dataclass(frozen=True)
class Loading(Place):
    """The same, perhaps with rounded weights."""

    load_in: Annotated[
        LoadIn | None,
        cyclopts.Parameter(
            help="4bit takes the backbone's weights rounded to NF4, on which QLoRA trains; CUDA "
            "only."
        ),
    ] = None

    @property
    def _quantization(self) -> Literal["nf4"] | None:
        return quantization_of(self.load_in)


app = cyclopts.App(
    name="reccocktail",
    help="Recommend with a cocktail of two LoRA adapters on one frozen language model.",
    version=__version__,
    suppress_keyboard_interrupt=False,  # `main` answers it
    default_parameter=cyclopts.Parameter(consume_multiple=1),  # --data A B is --data A --data B
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
        output.print(terminal_table(metrics, scenario, output.width))
