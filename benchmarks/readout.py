"""What does the bare backbone know of the next item, layer by layer? No training at all.

    python benchmarks/readout.py --data PREPARED --data PREPARED [...] --out results/readout.json

A text's vector is the state of its last token or the mean of its tokens' unit states, after so many
layers (0: the embeddings). Vectors are compared as they are, centred, or whitened (ZCA); mean and
covariance come from the other domains, never from the one that is judged. Packed histories of
training users judge them: each next item is ranked among the batch's items that its user never
touched. Text similarity (TF-IDF) stands beside them. Evaluation tables are never read.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from common import environment, windows_of
from reccocktail.backbone import Backbone, load_backbone
from reccocktail.baselines.text_similarity import TextSimilarity
from reccocktail.data.domain import Domain
from reccocktail.evaluation.metrics import per_user, ranks, summarise
from reccocktail.progress import bar
from reccocktail.prompting.encoding import Encoded, length_batches
from reccocktail.ranking.dense import DenseRanker
from reccocktail.recipe import Recipe
from reccocktail.schema import HISTORY
from reccocktail.storage import write_json
from reccocktail.training.batches import DomainWindows

Key = tuple[str, int]  # pooling, layer
RIDGE = 0.1  # of the mean eigenvalue, added before whitening
MEASURES = ("mrr", "ndcg@10")
TOKENS = 2048  # in one forward pass


@dataclass
class Sample:
    """Places and items of one domain.

    Attributes:
        users: key -> (places, d).
        items: key -> (items, d).
        wanted: (places,) column of the next item.
        known: (places, items), what the place's user touched, but for the next item.
        similarity: (places, items) by the `text-similarity` baseline.
    """

    users: dict[Key, Tensor]
    items: dict[Key, Tensor]
    wanted: Tensor
    known: Tensor
    similarity: Tensor


@torch.no_grad()
def states(backbone: Backbone, encoded: Encoded, start: int, layers: Sequence[int]) -> Any:
    """Unit vectors (sequences, states, d) by key."""
    decoder = backbone.model.get_decoder()
    output = decoder(input_ids=encoded.input_ids, use_cache=False, output_hidden_states=True)
    positions = encoded.positions.clamp(min=0)
    found: dict[Key, Tensor] = {}
    for layer in layers:
        hidden = output.hidden_states[layer].float()
        index = positions[:, :, None].expand(-1, -1, hidden.shape[-1])
        found["last", layer] = normalize(hidden.gather(1, index), dim=-1)
        sums = normalize(hidden, dim=-1)[:, start:].cumsum(dim=1)
        found["mean", layer] = normalize(sums.gather(1, (index - start).clamp(min=0)), dim=-1)
    return found


def sample(
    backbone: Backbone, ranker: DenseRanker, domain: Domain, places: int, layers: Sequence[int]
) -> Sample:
    """Encode one batch of a domain's packed histories and its items."""
    windows = DomainWindows.build(domain, ranker)
    order = np.random.default_rng(0).permutation(len(windows.windows)).tolist()
    chosen = windows_of(windows, order, places)
    batch = windows.training_batch(ranker, chosen)
    targets = batch["targets"]
    is_place = targets >= 0
    numbers = batch["items"].tolist()
    encoder = ranker.encoder
    users = states(
        backbone,
        Encoded(batch["history_ids"], batch["positions"]),
        encoder.history_start,
        layers,
    )
    items: dict[Key, Tensor] = {}
    for rows in length_batches([len(windows.titles[i]) + 3 for i in numbers], TOKENS):
        encoded = encoder.items_batch([windows.titles[numbers[row]] for row in rows])
        for key, found in states(backbone, encoded, encoder.item_start, layers).items():
            out = items.setdefault(key, torch.empty(len(numbers), found.shape[-1]))
            out[torch.tensor(rows)] = found[:, 0]
    rows, _ = is_place.nonzero(as_tuple=True)
    wanted = targets[is_place]
    packed = [windows.windows[number] for number in chosen]
    histories = [window[: t + 1] for window in packed for t in range(len(window) - 1)]
    ids = [[domain.item_ids[item] for item in history] for history in histories]
    similarity = TextSimilarity().fit(domain).catalogue_scores(pl.DataFrame({HISTORY: ids}))
    return Sample(
        {key: vectors[is_place] for key, vectors in users.items()},
        items,
        wanted,
        batch["known"][rows].scatter(1, wanted[:, None], False),
        torch.from_numpy(similarity[:, numbers]),
    )


def gains(scores: Tensor, wanted: Tensor, known: Tensor) -> dict[str, np.ndarray]:
    """MRR and NDCG@10 of each place; ties count against the next item."""
    masked = scores.double().masked_fill(known, float("-inf")).numpy()
    values = per_user(ranks(masked, wanted.numpy()))
    return {measure: values[measure] for measure in MEASURES}


def together(found: Sequence[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Means over the places of all domains, with intervals."""
    return summarise({m: np.concatenate([values[m] for values in found]) for m in MEASURES})


def whitening(vectors: Tensor) -> Tensor:
    """ZCA up to a rotation: (d, d) that gives `vectors` (n, d) the identity as covariance."""
    values, directions = torch.linalg.eigh(torch.cov(vectors.T.double()))
    # Vectors that are all the same have no covariance; the small term keeps them finite.
    return (directions * (values + RIDGE * values.mean() + 1e-9).rsqrt()).float()


def compare(samples: dict[str, Sample], key: Key, how: str) -> dict[str, Any]:
    """Gains over all domains; statistics for each come from the others."""
    found = []
    for name, here in samples.items():
        users, items = here.users[key], here.items[key]
        if how != "as it is":
            others = [s for other, s in samples.items() if other != name]
            all_items = torch.cat([s.items[key] for s in others])
            users = users - torch.cat([s.users[key] for s in others]).mean(dim=0)
            items = items - all_items.mean(dim=0)
            if how == "whitened":
                matrix = whitening(all_items)
                users, items = users @ matrix, items @ matrix
        scores = normalize(users, dim=-1) @ normalize(items, dim=-1).T
        found.append(gains(scores, here.wanted, here.known))
    return together(found)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--places", type=int, default=160, help="of each domain")
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 4, 8, 12, 16, 20, 25, 30])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    if len(args.data) < 2:
        parser.error("centring and whitening need at least two domains")
    backbone = load_backbone(args.backbone)
    recipe = Recipe(backbone=args.backbone)
    ranker = DenseRanker(backbone.tokenizer, recipe.prompt, recipe.dense)
    domains = [Domain.load(path) for path in args.data]
    samples: dict[str, Sample] = {}
    with bar("Reading", len(domains)) as advance:
        for domain in domains:
            samples[domain.name] = sample(backbone, ranker, domain, args.places, args.layers)
            advance(1)
    everyone = [gains(s.similarity, s.wanted, s.known) for s in samples.values()]
    rows = {TextSimilarity.name: together(everyone)}
    for pooling in ("last", "mean"):
        for layer in args.layers:
            for how in ("as it is", "centred", "whitened"):
                rows[f"{pooling}, layer {layer}, {how}"] = compare(samples, (pooling, layer), how)
    machine = environment(backbone, domains[0])
    machine["data"] = [{"name": d.name, "sha256": d.sha256} for d in domains]
    write_json(args.out, {"rows": rows, "places": args.places, **machine})
    table = Table("vector", "n", "MRR", "NDCG@10")
    for name, found in rows.items():
        cells = [
            f"{found[m]:.3f} [{found['ci95'][m][0]:.3f}, {found['ci95'][m][1]:.3f}]"
            for m in MEASURES
        ]
        table.add_row(name, str(found["n"]), *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
