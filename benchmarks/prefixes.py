"""What does reading titles in trees save: vectors, training steps, candidates behind a prompt?

    python benchmarks/prefixes.py --data PREPARED [--data ...] [--items 800] [--rounds 3] \
        [--out results/prefixes.json]

Tokens are counted over every catalogue, one by one and in trees of several sizes. Time is measured
on stretches of each catalogue, sorted as the trees are: titles one by one and in trees of the
product's size take the same stretch in turns. So do steps of training (forward and backward, 64
targets, a fresh LoRA), and the candidates of users behind the prompt of `generate`. The ratios are
of seconds; the largest difference of vectors, losses and log-probabilities stands beside them. Bare
backbone, no cache.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from costs import seconds
from program import program
from provenance import environment, write_result
from reccocktail.backbone import Backbone, load_backbone
from reccocktail.data.domain import Domain, sample_rows
from reccocktail.errors import RunError
from reccocktail.progress import bar
from reccocktail.prompting.encoding import TokenIds, length_batches
from reccocktail.prompting.prefixes import forests
from reccocktail.ranking import build
from reccocktail.ranking.answers import lengths_of
from reccocktail.ranking.base import LARGE_PASS, Batch
from reccocktail.ranking.continuation import Context
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.generate import GenerateRanker
from reccocktail.ranking.scoring import Catalogue
from reccocktail.recipe import Recipe
from reccocktail.training.batches import DomainWindows
from reccocktail.training.model import base_model, new_peft_model
from spreads import ratio_in_words, ratio_of_pairs, spread

SIZES = (64, DenseRanker.tree_tokens, 192, 256, 512)
ONE_BY_ONE = float("inf")  # more titles than any catalogue has


def counted(ranker: DenseRanker, titles: Sequence[TokenIds]) -> dict[str, Any]:
    """Tokens that a whole catalogue costs, with padding: one by one, and in trees of each size."""
    sequences = [ranker.encoder.item(title) for title in titles]
    lengths = [len(sequence) for sequence in sequences]
    plain = sum(len(batch) * lengths[batch[-1]] for batch in length_batches(lengths, LARGE_PASS))
    trees = {
        str(size): sum(f.input_ids.numel() for f in forests(sequences, size, LARGE_PASS))
        for size in SIZES
    }
    return {"items": len(titles), "one_by_one": plain, "trees": trees}


def timed(
    backbone: Backbone, ranker: DenseRanker, titles: Sequence[TokenIds], items: int, rounds: int
) -> dict[str, Any]:
    """Seconds of stretches of a catalogue read one by one and in trees, in turns."""
    ordered = sorted(titles)
    items = min(items, len(ordered))
    starts = np.random.default_rng(0).integers(0, len(ordered) - items + 1, rounds)
    model, device = backbone.model, backbone.device
    sides: dict[str, list[float]] = {"one_by_one": [], "trees": []}
    furthest = 0.0
    ranker.item_vectors(model, ordered[:items][:100], device)  # what only the first pass pays for
    with bar("Stretches", rounds) as advance:
        for number, start in enumerate(starts.tolist()):
            stretch = ordered[start : start + items]
            found = {}

            def read(side: str, of: Sequence[TokenIds] = stretch, into: Any = found) -> None:
                ranker.tree_titles = 0 if side == "trees" else ONE_BY_ONE
                into[side] = ranker.item_vectors(model, of, device)

            for side in sorted(sides, reverse=bool(number % 2)):
                sides[side].append(seconds(lambda side=side: read(side), device))
            furthest = max(furthest, float((found["trees"] - found["one_by_one"]).abs().max()))
            advance(1)
    return {
        "items": items,
        "seconds": {side: spread(values) for side, values in sides.items()},
        "speedup": ratio_of_pairs(sides["one_by_one"], sides["trees"]),
        "largest_difference": furthest,
    }


def stepped(backbone: Backbone, domain: Domain, recipe: Recipe, rounds: int) -> dict[str, Any]:
    """Seconds of training steps whose items are read one by one and in trees, in turns."""
    ranker = build(backbone, recipe)
    assert isinstance(ranker, DenseRanker)
    windows = DomainWindows.build(domain, ranker)
    model = new_peft_model(backbone, recipe)
    sides: dict[str, list[float]] = {"one_by_one": [], "trees": []}
    losses: dict[str, list[float]] = {side: [] for side in sides}

    def step(side: str, batch: Batch) -> None:
        ranker.tree_titles = 0 if side == "trees" else ONE_BY_ONE
        loss = ranker.loss(base_model(model), batch)
        loss.backward()
        model.zero_grad()
        losses[side].append(loss.item())

    try:
        with bar("Steps", rounds + 1) as advance:
            for number in range(rounds + 1):
                windows_of_batch = windows.batch(number, recipe.training.targets_per_batch, 0)
                batch = windows.training_batch(ranker, windows_of_batch)
                for side in sorted(sides, reverse=bool(number % 2)):
                    sides[side].append(seconds(lambda s=side, b=batch: step(s, b), backbone.device))
                advance(1)
    finally:
        model.unload()
    apart = np.abs(np.subtract(losses["trees"], losses["one_by_one"])).max()
    kept = {side: values[1:] for side, values in sides.items()}  # the first step pays for set-up
    return {
        "seconds": {side: spread(values) for side, values in kept.items()},
        "speedup": ratio_of_pairs(kept["one_by_one"], kept["trees"]),
        "largest_difference_of_loss": float(apart),
    }


@torch.no_grad()
def answered(backbone: Backbone, domain: Domain, recipe: Recipe, rounds: int) -> dict[str, Any]:
    """Seconds of users' candidates, read behind the prompt one by one and in a tree, in turns."""
    ranker = build(backbone, recipe.model_copy(update={"ranker": "generate"}))
    assert isinstance(ranker, GenerateRanker)
    catalogue, device = Catalogue.of(domain, ranker), backbone.device
    rows = sample_rows(domain.rows("test_warm"), rounds + 1, seed=0)
    batch = ranker.ranking_batch(
        catalogue.histories(rows), catalogue.candidates(rows), catalogue.tokens
    )
    sides: dict[str, list[float]] = {"one_by_one": [], "trees": []}
    prompts: list[float] = []
    tokens = 0
    furthest = 0.0
    with bar("Prompts", rows.height) as advance:
        for number, (ids, answers) in enumerate(
            zip(batch["prompt_ids"], batch["answers"], strict=True)
        ):
            ids = ids[: int(lengths_of(ids))].to(device)
            paths = [path[path >= 0].tolist() for path in answers if path[0] >= 0]
            contexts: list[Context] = []
            prompts.append(
                seconds(lambda i=ids, c=contexts: c.append(Context(backbone.model, i)), device)
            )
            found: dict[str, Any] = {}
            ways = {"one_by_one": contexts[0].paths, "trees": contexts[0].tree}

            def read(side: str, of: Any = paths, by: Any = ways, into: Any = found) -> None:
                into[side] = torch.cat(by[side](of))

            for side in sorted(sides, reverse=bool(number % 2)):
                sides[side].append(seconds(lambda s=side, r=read: r(s), device))
            furthest = max(furthest, float((found["trees"] - found["one_by_one"]).abs().max()))
            tokens += len(ids)
            advance(1)
    # The first user pays for what all need.
    prompts, kept = prompts[1:], {side: values[1:] for side, values in sides.items()}
    whole = {side: np.add(prompts, values).tolist() for side, values in kept.items()}
    return {
        "users": len(prompts),
        "prompt_tokens": tokens / rows.height,
        "seconds": {"prompt": spread(prompts), **{s: spread(v) for s, v in kept.items()}},
        "speedup": ratio_of_pairs(kept["one_by_one"], kept["trees"]),
        "speedup_with_prompt": ratio_of_pairs(whole["one_by_one"], whole["trees"]),
        "largest_difference": furthest,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--backbone", default=Recipe().backbone)
    parser.add_argument("--items", type=int, default=800, help="of a stretch")
    parser.add_argument("--rounds", type=int, default=3, help="stretches and steps a catalogue")
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    if args.items < 1 or args.rounds < 1:
        raise RunError("--items and --rounds must be at least 1; raise them.")
    domains = [Domain.load(path) for path in args.data]
    recipe = Recipe(backbone=args.backbone)
    backbone = load_backbone(recipe.backbone, device=args.device)
    result: dict[str, Any] = {
        "benchmark": "prefixes",
        "settings": {"items": args.items, "rounds": args.rounds},
        "domains": {},
        **environment(backbone, domains[0]),
    }
    del result["data"]
    heads = ("domain", "items", "tokens one by one", "in trees")
    table = Table(*heads, "vectors faster", "steps faster", "candidates faster", "with prompt")
    for domain in domains:
        ranker = build(backbone, recipe)
        assert isinstance(ranker, DenseRanker)
        titles = ranker.titles(domain.titles)
        tokens = counted(ranker, titles)
        found = timed(backbone, ranker, titles, args.items, args.rounds)
        steps = stepped(backbone, domain, recipe, args.rounds)
        candidates = answered(backbone, domain, recipe, args.rounds)
        result["domains"][domain.name] = {
            "sha256": domain.sha256,
            "tokens": tokens,
            "time": found,
            "steps": steps,
            "candidates": candidates,
        }
        trees = tokens["trees"][str(DenseRanker.tree_tokens)]
        table.add_row(
            domain.name,
            f"{tokens['items']:,}",
            f"{tokens['one_by_one']:,}",
            f"{trees:,} ({trees / tokens['one_by_one']:.0%})",
            *(
                ratio_in_words(ratio)
                for ratio in (
                    found["speedup"],
                    steps["speedup"],
                    candidates["speedup"],
                    candidates["speedup_with_prompt"],
                )
            ),
        )
        if args.out:
            write_result(args.out, result)
    Console().print(table)


if __name__ == "__main__":
    program(main)
