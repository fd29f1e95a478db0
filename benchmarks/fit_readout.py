"""Make the fixed readout of a backbone (`ranking/readout.py`) from several domains, without labels.

    python benchmarks/fit_readout.py --data PREPARED --data PREPARED ... \
        [--exclude-titles-of PREPARED ...] [--weight W] [--temperature T] \
        --file READOUT.safetensors --out results/fit_readout.json

The statistics come from packed training histories and their items, read by the bare backbone. The
ridges of both whitenings and the weight of the words are those that rank the next items of other
training histories best (MRR among the items of their batch, the statistics always from the other
domains); the temperature has the least log loss there. Evaluation tables are never read. What is
best for the bare backbone leaves little to a LoRA, which changes the states and not the words, so
a smaller weight and temperature can be given; the ridges are chosen all the same.
"""

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cross_entropy

from program import program
from provenance import environment, write_result
from reccocktail.backbone import Backbone, load_backbone
from reccocktail.data.domain import Domain
from reccocktail.data.overlap import overlapping_items
from reccocktail.evaluation.metrics import mean_in_words, per_user, ranks, summarise
from reccocktail.progress import bar
from reccocktail.prompting.encoding import length_batches
from reccocktail.ranking.base import embeddings, hidden_states
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.pooling import pool
from reccocktail.ranking.readout import Readout, Whitening
from reccocktail.recipe import Recipe
from reccocktail.training.batches import DomainWindows
from windows import windows_of

STATES, WORDS = "states", "words"
RIDGES = {STATES: (0.1, 0.3, 1.0, 3.0), WORDS: (0.03, 0.1, 0.3, 1.0, 3.0)}
WEIGHTS = (0.0, 0.5, 0.7, 1.0, 1.4, 2.0)
TEMPERATURES = (0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)
TOKENS = 2048  # in one forward pass


@dataclass
class Sample:
    """Some histories of a domain, read by the bare backbone.

    Attributes:
        users: part -> (places, d) unit vectors.
        items: part -> (items, d).
        wanted: (places,) column of the next item.
        known: (places, items), what the place's user touched, but for the next item.
    """

    users: dict[str, Tensor]
    items: dict[str, Tensor]
    wanted: Tensor
    known: Tensor


@torch.no_grad()
def read(
    backbone: Backbone, ranker: DenseRanker, ids: Tensor, places: Tensor, start: int
) -> dict[str, Tensor]:
    """Both parts (sequences, places, d)."""
    model = backbone.model
    hidden = hidden_states(model, ids, ranker.dense.depth)
    return {
        STATES: pool(hidden, places, start, ranker.dense.pooling),
        WORDS: pool(embeddings(model, ids), places, start, "mean"),
    }


def sample(
    backbone: Backbone, ranker: DenseRanker, windows: DomainWindows, chosen: Sequence[int]
) -> Sample:
    """Read some windows and their items."""
    batch = windows.training_batch(ranker, chosen)
    targets = batch["targets"]
    is_place = targets >= 0
    encoder = ranker.encoder
    users = read(backbone, ranker, batch["history_ids"], batch["positions"], encoder.history_start)
    numbers = batch["items"].tolist()
    items: dict[str, Tensor] = {}
    for rows in length_batches([len(windows.titles[i]) + 3 for i in numbers], TOKENS):
        encoded = encoder.items_batch([windows.titles[numbers[row]] for row in rows])
        found = read(backbone, ranker, encoded.input_ids, encoded.positions, encoder.item_start)
        for part, vectors in found.items():
            out = items.setdefault(part, torch.empty(len(numbers), vectors.shape[-1]))
            out[torch.tensor(rows)] = vectors[:, 0]
    rows, _ = is_place.nonzero(as_tuple=True)
    wanted = targets[is_place]
    known = batch["known"][rows].scatter(1, wanted[:, None], False)
    return Sample({part: found[is_place] for part, found in users.items()}, items, wanted, known)


def whitening(samples: Sequence[Sample], part: str, ridge: float) -> Whitening:
    """Statistics of several samples together."""
    users, items = (
        torch.cat([getattr(s, side)[part] for s in samples]) for side in ("users", "items")
    )
    return Whitening.of(users, items, ridge)


def cosines(fitted: dict[str, Sample], judged: dict[str, Sample]) -> dict[Any, list[Tensor]]:
    """(part, ridge) -> (places, items) of each domain, the statistics from the other domains."""
    found: dict[Any, list[Tensor]] = {}
    keys = [(part, ridge) for part, ridges in RIDGES.items() for ridge in ridges]
    for part, ridge in keys:
        for name, here in judged.items():
            others = [s for other, s in fitted.items() if other != name]
            white = whitening(others, part, ridge)
            users, items = white(here.users[part], "users"), white(here.items[part], "items")
            found.setdefault((part, ridge), []).append(users @ items.T)
    return found


def judge(scores: Sequence[Tensor], judged: Sequence[Sample]) -> dict[str, np.ndarray]:
    """MRR and NDCG@10 of every place; ties count against the next item."""
    found: dict[str, list[np.ndarray]] = {"mrr": [], "ndcg@10": []}
    for matrix, here in zip(scores, judged, strict=True):
        masked = matrix.double().masked_fill(here.known, float("-inf")).numpy()
        values = per_user(ranks(masked, here.wanted.numpy()))
        for measure, kept in found.items():
            kept.append(values[measure])
    return {measure: np.concatenate(kept) for measure, kept in found.items()}


def mixed(states: Sequence[Tensor], words: Sequence[Tensor], weight: float) -> list[Tensor]:
    """Cosines of both parts as one: what `Readout` gives for this weight of the words."""
    share = weight**2 / (1 + weight**2)
    return [(1 - share) * s + share * w for s, w in zip(states, words, strict=True)]


def log_loss(scores: Sequence[Tensor], judged: Sequence[Sample], temperature: float) -> float:
    """Mean log loss of the next items, in nats."""
    losses = [
        cross_entropy(
            (matrix / temperature).masked_fill(here.known, float("-inf")),
            here.wanted,
            reduction="none",
        )
        for matrix, here in zip(scores, judged, strict=True)
    ]
    return float(torch.cat(losses).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--exclude-titles-of", type=Path, action="append", default=[])
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--fit", type=int, default=256, help="places a domain for the statistics")
    parser.add_argument("--judge", type=int, default=160, help="places a domain for the choices")
    parser.add_argument("--weight", type=float, help="of the words, in place of the best")
    parser.add_argument("--temperature", type=float, help="in place of the best")
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    if len(args.data) < 2:
        parser.error("the choices need at least two domains")
    backbone = load_backbone(args.backbone)
    recipe = Recipe(backbone=args.backbone)
    ranker = DenseRanker(backbone.tokenizer, recipe.prompt, recipe.dense)
    domains = [Domain.load(path) for path in args.data]
    targets = [Domain.load(path) for path in args.exclude_titles_of]
    fitted: dict[str, Sample] = {}
    judged: dict[str, Sample] = {}
    with bar("Reading", 2 * len(domains)) as advance:
        for domain in domains:
            left_out = frozenset(overlapping_items(domain, targets)) if targets else frozenset()
            windows = DomainWindows.build(domain, ranker, left_out)
            order = np.random.default_rng(0).permutation(len(windows.windows)).tolist()
            for samples, places in ((judged, args.judge), (fitted, args.fit)):
                chosen = windows_of(windows, order, places)
                samples[domain.name] = sample(backbone, ranker, windows, chosen)
                advance(1)
    found = cosines(fitted, judged)
    here = list(judged.values())
    rows = {}
    for s, w, share in itertools.product(RIDGES[STATES], RIDGES[WORDS], WEIGHTS):
        scores = mixed(found[STATES, s], found[WORDS, w], share)
        rows[s, w, share] = float(judge(scores, here)["mrr"].mean())
    best = max(rows, key=lambda row: rows[row])
    weight = best[2] if args.weight is None else args.weight
    scores = mixed(found[STATES, best[0]], found[WORDS, best[1]], weight)
    losses = {t: log_loss(scores, here, t) for t in TEMPERATURES}
    least = min(losses, key=lambda t: losses[t])
    everything = list(fitted.values()) + here
    readout = Readout(
        whitening(everything, STATES, best[0]),
        whitening(everything, WORDS, best[1]),
        weight,
        least if args.temperature is None else args.temperature,
        backbone.fingerprint.sha256,
    )
    readout.save(args.file)
    plain = [s.users[STATES] @ s.items[STATES].T for s in here]
    shown = {
        "states as they are": plain,
        "words as they are": [s.users[WORDS] @ s.items[WORDS].T for s in here],
        "states whitened": found[STATES, best[0]],
        "words whitened": found[WORDS, best[1]],
        "both": scores,
    }
    machine = environment(backbone, domains[0])
    machine["data"] = [{"name": d.name, "sha256": d.sha256} for d in domains]
    result = {
        "chosen": {
            "ridge": {STATES: best[0], WORDS: best[1]},
            "weight": weight,
            "temperature": readout.temperature,
            "best_weight_of_the_bare_backbone": best[2],
            "best_temperature_of_the_bare_backbone": least,
            "sha256": Readout.load(args.file).sha256,
        },
        "vectors": {
            "users": sum(len(s.wanted) for s in everything),
            "items": sum(len(s.items[WORDS]) for s in everything),
        },
        "rows": {name: summarise(judge(matrices, here)) for name, matrices in shown.items()},
        "grid": [
            {"states_ridge": s, "words_ridge": w, "weight": share, "mrr": mrr}
            for (s, w, share), mrr in rows.items()
        ],
        "log_loss": {str(t): loss for t, loss in losses.items()},
    }
    write_result(args.out, result | machine)
    table = Table("vector", "n", "MRR", "NDCG@10")
    for name, row in result["rows"].items():
        cells = [mean_in_words(row, m) for m in ("mrr", "ndcg@10")]
        table.add_row(name, str(row["n"]), *cells)
    Console().print(table)


if __name__ == "__main__":
    program(main)
