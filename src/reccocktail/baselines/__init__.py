"""Models to beat, behind one protocol and found by name."""

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from reccocktail.errors import RunError

if TYPE_CHECKING:
    from reccocktail.backbone import Backbone
    from reccocktail.baselines.base import Baseline

_PLACES = {
    "popularity": "popularity.Popularity",
    "text-similarity": "text_similarity.TextSimilarity",
    "backbone-similarity": "backbone_similarity.BackboneSimilarity",
    "sentence-encoder": "sentence_encoder.SentenceEncoder",
    "item-knn": "item_knn.ItemKNN",
    "bpr": "bpr.BPR",
    "sasrec": "sequential.SASRec",
    "gru4rec": "sequential.GRU4Rec",
}


class _Registry(Mapping[str, "type[Baseline]"]):
    """Imports a class when it is asked for, so that the names alone cost nothing."""

    def __getitem__(self, name: str) -> "type[Baseline]":
        module, _, attribute = _PLACES[name].partition(".")
        found: type[Baseline] = getattr(
            importlib.import_module(f"reccocktail.baselines.{module}"), attribute
        )
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)


BASELINES: Mapping[str, "type[Baseline]"] = _Registry()
"""Name on the command line -> class; a class is made without arguments, then fitted."""


def baseline_name(text: str) -> str:
    """Name of the baseline in ``NAME`` or ``NAME=MODEL``.

    Raises:
        RunError: there is no such baseline, or it takes no model.
    """
    name, equals, model = text.partition("=")
    if name not in BASELINES:
        raise RunError(f"No baseline '{name}'; choose from {', '.join(sorted(BASELINES))}.")
    if equals and (name != "sentence-encoder" or not model):
        wanted = "a model after '='" if name == "sentence-encoder" else "nothing after its name"
        raise RunError(f"--baseline {text}: {name} takes {wanted}.")
    return name


def make_baseline(text: str, backbone: "Backbone | None" = None) -> "Baseline":
    """An unfitted baseline.

    Args:
        text: ``NAME``, or ``sentence-encoder=MODEL`` with a hub id or folder.
        backbone: for the baselines that read one.

    Raises:
        RunError: there is no such baseline, it takes no model, or it lacks its backbone.
    """
    name = baseline_name(text)
    made: Any = BASELINES[name]
    if name == "sentence-encoder" and "=" in text:
        return made(text.partition("=")[2])  # type: ignore[no-any-return]
    if name == "backbone-similarity":
        return made(backbone)  # type: ignore[no-any-return]
    return made()  # type: ignore[no-any-return]


__all__ = ["BASELINES", "baseline_name", "make_baseline"]
