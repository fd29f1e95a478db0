"""What a cocktail costs at inference: making it, loading it, ranking with it.

    python benchmarks/inference_cost.py --data PREPARED --out results/inference_cost.json

Without --adapter (twice: base spirit, ingredient) the LoRAs are random tensors of the recipe's rank
on all linear layers: time and memory do not depend on their values.

All variants lie in memory at once, share the backbone's tensors, and answer every request in turn,
in rotating order; a ratio compares answers to the same request. `none again` is a second copy of
`none`: how far its ratio is from 1 is the noise of the measurement.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from costs import module_tensors, seconds, tensor_bytes
from program import program
from provenance import environment, write_result
from reccocktail.backbone import Backbone, load_backbone
from reccocktail.data.domain import Domain, sample_rows
from reccocktail.mixing.arithmetic import combine
from reccocktail.progress import bar
from reccocktail.prompting.encoding import TokenIds
from reccocktail.ranking import build
from reccocktail.ranking.scoring import Catalogue
from reccocktail.recipe import Recipe
from reccocktail.schema import HISTORY, Method
from reccocktail.training.adapter import Adapter, Card, Lora
from reccocktail.training.model import attach, merged, twin
from spreads import ratio_in_words, ratio_of_pairs, spread
from variants import Variant, random_lora, rank_of, variants

TOP = 10
METHODS: tuple[Method, ...] = ("delta", "factor", "svd")
HALVES = torch.tensor([0.5, 0.5])


# -- making and loading -----------------------------------------------------------------------


def lifecycle(
    backbone: Backbone, pair: Sequence[Lora], card: Card, repeats: int, advance: Callable[[], Any]
) -> dict[str, Any]:
    """Seconds of combine, save, load, attach, and of merging into the weights and out again."""
    times: dict[str, dict[str, list[float]]] = {method: {} for method in METHODS}
    sizes: dict[str, dict[str, int]] = {}

    def timed(method: Method, what: str, work: Callable[[], Any]) -> Any:
        result: list[Any] = []
        spent = seconds(lambda: result.append(work()), backbone.device)
        times[method].setdefault(what, []).append(spent)
        return result[0]

    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeats + 1):
            if number == 1:
                times = {method: {} for method in METHODS}  # the first round was the warm-up
            for method in METHODS:
                lora = timed(method, "combine", lambda method=method: combine(pair, HALVES, method))
                path = Path(folder) / method
                adapter = Adapter(method, lora, card)
                timed(method, "save", lambda a=adapter, p=path: a.save(p, "A benchmark's adapter."))
                sizes[method] = {
                    "rank": rank_of(lora),
                    "parameters": sum(f.a.numel() + f.b.numel() for f in lora.values()),
                    "folder_bytes": sum(file.stat().st_size for file in path.iterdir()),
                }
                lora = timed(method, "load", lambda path=path: Adapter.load(path)).lora
                model = twin(backbone.model)
                timed(method, "attach", lambda m=model, lora=lora: attach(m, lora))
                context = merged(backbone.model, lora)
                timed(method, "merge", context.__enter__)
                timed(method, "unmerge", lambda c=context: c.__exit__(None, None, None))
            advance()
    return {
        method: sizes[method]
        | {f"{what}_seconds": spread(values) for what, values in found.items()}
        | {
            "combine_and_reload_seconds": spread(
                [
                    sum(step)
                    for step in zip(
                        *(found[w] for w in ("combine", "save", "load", "attach")), strict=True
                    )
                ]
            )
        }
        for method, found in times.items()
    }


# -- ranking ----------------------------------------------------------------------------------


class Requests:
    """Users to be answered, each with as long a history as the prompt reads, and its candidates."""

    def __init__(self, catalogue: Catalogue, vectors: Tensor, users: int, seed: int) -> None:
        """Draw users with histories that are long enough, or the longest there are."""
        longest = catalogue.ranker.prompt.max_history
        rows = catalogue.domain.rows("test_warm")
        lengths = rows[HISTORY].list.len()
        full = rows.filter(lengths >= longest)
        if not full.height:
            full = rows.filter(lengths == lengths.max())
        rows = sample_rows(full, min(users, full.height), seed)
        self.histories = [history[-longest:] for history in catalogue.histories(rows)]
        self.candidates = catalogue.candidates(rows)
        self._catalogue, self._ranker, self._vectors = catalogue, catalogue.ranker, vectors

    def __len__(self) -> int:
        return len(self.histories)

    def cached(self, model: Any, number: int) -> Tensor:
        """One user's best items of the whole catalogue, whose vectors are there already."""
        return self._top(model, [self.histories[number]])

    def uncached(self, model: Any, number: int) -> Tensor:
        """One user's best candidates; history and candidates are encoded."""
        titles: list[TokenIds] = [self._catalogue.tokens[i] for i in self.candidates[number]]
        items = self._ranker.item_vectors(model, titles, self._vectors.device)
        user = self._ranker.user_vectors(model, [self.histories[number]], self._vectors.device)
        return self._ranker.logits(user, items).topk(min(TOP, len(titles))).indices

    def batch(self, model: Any) -> Tensor:
        """All users' best items of the whole catalogue."""
        return self._top(model, self.histories)

    def _top(self, model: Any, histories: Sequence[Sequence[TokenIds]]) -> Tensor:
        users = self._ranker.user_vectors(model, histories, self._vectors.device)
        scores = self._ranker.logits(users.to(self._vectors.device), self._vectors)
        return scores.topk(min(TOP, len(self._vectors))).indices


def ranking(
    compared: Sequence[Variant],
    work: Callable[[Any, int], object],
    requests: int,
    device: torch.device,
    advance: Callable[[], Any],
) -> dict[str, list[float]]:
    """Seconds of each variant for each request; all of them answer one before the next comes."""
    for variant in compared:  # first passes are slow: memory is handed out page by page
        work(variant.model, 0)
    times: dict[str, list[float]] = {variant.name: [] for variant in compared}
    for number in range(requests):
        shift = number % len(compared)
        for variant in [*compared[shift:], *compared[:shift]]:
            times[variant.name].append(
                seconds(lambda m=variant.model, n=number: work(m, n), device)
            )
        advance()
    return times


def latency(times: dict[str, list[float]]) -> dict[str, Any]:
    """Percentiles in seconds and the ratio to no adapter."""
    return {
        name: {
            "p50_seconds": float(np.percentile(found, 50)),
            "p95_seconds": float(np.percentile(found, 95)),
            "requests": len(found),
            "ratio_to_none": ratio_of_pairs(found, times["none"]),
        }
        for name, found in times.items()
    }


def throughput(times: dict[str, list[float]], users: int) -> dict[str, Any]:
    """Users a second over rounds and the ratio of times to no adapter."""
    return {
        name: {
            "users_per_second": spread([users / found for found in values]),
            "ratio_to_none": ratio_of_pairs(values, times["none"]),
        }
        for name, values in times.items()
    }


def measure(
    backbone: Backbone, domain: Domain, pair: Sequence[Lora], card: Card, args: argparse.Namespace
) -> dict[str, Any]:
    """All figures."""
    recipe, device = card.recipe, backbone.device
    ranker = build(backbone, recipe)
    catalogue = Catalogue.of(domain, ranker)
    # A cached catalogue costs the same whatever its vectors are, if they are as long.
    generator = torch.Generator().manual_seed(args.seed)
    one = ranker.item_vectors(backbone.model, catalogue.tokens[:1], device)
    shape = (len(domain.item_ids), one.shape[-1])
    vectors = normalize(torch.randn(shape, generator=generator), dim=-1).to(device)
    single = Requests(catalogue, vectors, args.requests, args.seed)
    many = Requests(catalogue, vectors, args.batch_users, args.seed)
    cached, uncached = args.requests, min(args.requests, args.uncached_requests)
    total = args.repeats + 1 + cached + uncached + args.rounds
    with bar("Inference cost", total) as advance:
        made = lifecycle(backbone, pair, card, args.repeats, advance)
        loras: dict[Method, Lora] = {method: combine(pair, HALVES, method) for method in METHODS}
        compared = variants(backbone, pair[0], loras)

        def of_one(answer: Callable[[Any, int], object]) -> Callable[[Any, int], object]:
            return lambda model, number: answer(model, number % len(single))

        with torch.inference_mode():
            times_cached = ranking(compared, of_one(single.cached), cached, device, advance)
            times_uncached = ranking(compared, of_one(single.uncached), uncached, device, advance)
            times_batch = ranking(
                compared, lambda model, _: many.batch(model), args.rounds, device, advance
            )
    return {
        "history_items": spread([len(history) for history in single.histories]),
        "candidates": len(single.candidates[0]),
        "catalogue_items": shape[0],
        "lifecycle": made,
        "latency_cached": latency(times_cached),
        "latency_uncached": latency(times_uncached),
        "batched": throughput(times_batch, len(many)),
        "batch_users": len(many),
        "memory": {
            "backbone_bytes": tensor_bytes(module_tensors(backbone.model)),
            "item_vectors_bytes": tensor_bytes([vectors]),
            "added_bytes": {variant.name: variant.added_bytes for variant in compared},
            # `merged()` keeps the former weights, to give them back bit for bit.
            "former_weights_bytes": _former_bytes(backbone.model, loras["delta"]),
        },
        "ranks": {variant.name: variant.rank for variant in compared},
    }


def _former_bytes(model: nn.Module, lora: Lora) -> int:
    modules = dict(model.named_modules())
    return tensor_bytes([modules[name].weight for name in lora])


def show(result: dict[str, Any]) -> None:
    print("seconds (median)   combine     save     load   attach    merge  unmerge  rank")
    for method, found in result["lifecycle"].items():
        steps = ("combine", "save", "load", "attach", "merge", "unmerge")
        row = " ".join(f"{found[f'{step}_seconds']['median']:>8.3f}" for step in steps)
        print(f"{method:<17} {row} {found['rank']:>5}")
    for kind, title in (
        ("latency_cached", "one user, catalogue cached"),
        ("latency_uncached", "one user, candidates encoded"),
    ):
        print(f"{title:<30} p50 ms   p95 ms   ratio to none (95 % interval)")
        for name, found in result[kind].items():
            ratio = found["ratio_to_none"]
            print(
                f"  {name:<26} {1e3 * found['p50_seconds']:>8.1f} "
                f"{1e3 * found['p95_seconds']:>8.1f}   {ratio_in_words(ratio, '.3f')}"
            )
    print(f"{'batched':<30} users/s           ratio of times to none        MB added")
    for name, added in result["memory"]["added_bytes"].items():
        found = result["batched"][name]
        print(
            f"  {name:<26} {found['users_per_second']['median']:>8.2f}          "
            f"{ratio_in_words(found['ratio_to_none'], '.3f')} {added / 1e6:>12.1f}"
        )
    memory = result["memory"]
    print(
        f"backbone {memory['backbone_bytes'] / 1e6:.0f} MB; merging and giving the weights back "
        f"keeps {memory['former_weights_bytes'] / 1e6:.0f} MB of former weights meanwhile"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="prepared domain")
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--device", help="cpu, cuda or mps; the best there is if left out")
    parser.add_argument(
        "--adapter", type=Path, action="append", default=[], help="twice; random LoRAs if left out"
    )
    parser.add_argument("--recipe", type=Path, help="shape of random LoRAs")
    parser.add_argument("--repeats", type=int, default=5, help="of combine, save and load")
    parser.add_argument("--requests", type=int, default=40, help="single users, catalogue cached")
    parser.add_argument("--uncached-requests", type=int, default=20)
    parser.add_argument("--batch-users", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3, help="of the batch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args(arguments)
    if len(args.adapter) not in (0, 2):
        parser.error("give --adapter twice (base spirit, ingredient) or not at all")
    backbone, domain = load_backbone(args.backbone, device=args.device), Domain.load(args.data)
    if args.adapter:
        adapters = [Adapter.load(path) for path in args.adapter]
        for adapter in adapters:
            adapter.card.backbone.require_match(backbone.fingerprint, adapter.name)
        pair, card = [adapter.lora for adapter in adapters], adapters[0].card
    else:
        recipe = Recipe.load(args.recipe) if args.recipe else Recipe()
        pair = [random_lora(backbone, recipe, args.seed + number) for number in range(2)]
        ranker = build(backbone, recipe)
        card = Card(
            role="base",
            backbone=backbone.fingerprint,
            recipe=recipe,
            template_sha256=ranker.template_sha256,
            readout_sha256=ranker.readout_sha256,
            data=(),
        )
    settings = ("repeats", "requests", "uncached_requests", "batch_users", "rounds", "seed")
    result = {
        "benchmark": "inference_cost",
        "lora": "adapters" if args.adapter else "random tensors of the recipe's shape",
        "settings": {name: getattr(args, name) for name in settings}
        | {"recipe": card.recipe.model_dump(mode="json")},
        **environment(backbone, domain),
    }
    result |= measure(backbone, domain, pair, card, args)
    show(result)
    if args.out:
        write_result(args.out, result)


if __name__ == "__main__":
    program(main)
