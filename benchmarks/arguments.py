"""Arguments that several programs take, and the backbone that they ask for."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reccocktail.backbone import DTYPES, Backbone, load_backbone
from reccocktail.errors import RunError
from reccocktail.precision import PRECISIONS
from reccocktail.recipe import Recipe
from reccocktail.spirits import resolve
from reccocktail.training.adapter import Adapter


def study_parser(doc: str | None) -> argparse.ArgumentParser:
    """What studies of a base spirit on target domains all ask for."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", type=Path, action="append", required=True)
    parser.add_argument("--base", type=Path, required=True, help="the base spirit's folder or name")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def recipe_argument(parser: argparse.ArgumentParser) -> None:
    """`--recipe`, for studies that train a target's adapters."""
    parser.add_argument(
        "--recipe", type=Path, help="how they are trained, if not as the base spirit was"
    )


def precision_argument(parser: argparse.ArgumentParser) -> None:
    """`--precision` of scores; trainings on a CPU take no notice of it."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of the scores; auto takes bfloat16 where the hardware multiplies it",
    )


def backbone_arguments(parser: argparse.ArgumentParser) -> None:
    """Where and how the backbone of a study is loaded, see `asked_backbone`."""
    parser.add_argument("--backbone", help="where the backbone is, if not where it was")
    parser.add_argument("--device")
    parser.add_argument(
        "--dtype",
        choices=tuple(DTYPES),
        help="of the weights; chosen by hardware if left out. Mixes of near coefficients differ by "
        "less than bfloat16 holds: give float32 with --precision auto on a GPU",
    )
    precision_argument(parser)


def asked_backbone(args: argparse.Namespace, recipe: Recipe) -> Backbone:
    """The backbone of a recipe, as `backbone_arguments` ask for it."""
    return load_backbone(
        args.backbone or recipe.backbone,
        device=args.device,
        dtype=args.dtype,
        precision=args.precision,
    )


def named_adapters(given: Sequence[str]) -> dict[str, Adapter]:
    """Adapters by the names of `--adapter NAME=FOLDER`; a folder may be the name of a spirit.

    Raises:
        RunError: another form, or a name twice.
        AdapterError: one is missing or damaged.
    """
    found: dict[str, Adapter] = {}
    for entry in given:
        name, separator, folder = entry.partition("=")
        if not separator:
            raise RunError(f"--adapter is NAME=FOLDER, not '{entry}'.")
        if name in found:
            raise RunError(f"Two adapters are called '{name}'; give each a name of its own.")
        found[name] = Adapter.load(resolve(Path(folder)))
    return found
