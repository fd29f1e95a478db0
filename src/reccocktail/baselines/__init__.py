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
_TAKES_MODEL, _TAKES_BACKBONE = "sentence-encoder", "backbone-similarity"
_TAKES_SEED = frozenset({"item-knn", "bpr", "sasrec", "gru4rec"})


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
"""Name on the command line -> class; `make_baseline` makes one."""


def baseline_name(text: str) -> str:
    """Name of the baseline in ``NAME`` or ``sentence-encoder=MODEL``.

    Raises:
        RunError: there is no such baseline, or it takes no model.
    """
    name, equals, model = text.partition("=")
    if name not in BASELINES:
        raise RunError(f"No baseline '{name}'; choose from {', '.join(sorted(BASELINES))}.")
    if equals and name != _TAKES_MODEL:
        raise RunError(f"The {name} baseline takes no model; write --baseline {name}.")
    if equals and not model:
        raise RunError(f"--baseline {text} names no model; write a hub id or a folder after '='.")
    return name


def make_baseline(text: str, backbone: "Backbone | None" = None, *, seed: int = 0) -> "Baseline":
    """An unfitted baseline.

    Args:
        text: ``NAME``, or ``sentence-encoder=MODEL`` with a hub id or folder.
        backbone: for the baseline that reads one.
        seed: for the baselines that draw anything; the others give one model.

    Raises:
        RunError: there is no such baseline, it takes no model, or its package or backbone is
            missing.
    """
    name = baseline_name(text)
    arguments: list[Any] = []
    if name == _TAKES_MODEL and "=" in text:
        arguments.append(text.partition("=")[2])
    if name == _TAKES_BACKBONE:
        if backbone is None:
            raise RunError(f"The {name} baseline reads a backbone; give --backbone or --adapter.")
        arguments.append(backbone)
    options = {"seed": seed} if name in _TAKES_SEED else {}
    return BASELINES[name](*arguments, **options)


__all__ = ["BASELINES", "baseline_name", "make_baseline"]
