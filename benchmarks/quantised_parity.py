"""Do merged weights score as the adapter does on the four-bit backbone that it was trained on?

    python benchmarks/quantised_parity.py --adapter ADAPTER --data PREPARED --out FILE

The same users three times: the LoRA live on packed NF4 weights, as QLoRA trains it; merged into the
weights that these stand for; merged into the weights before rounding. The first two must agree
within `--tolerance`, or the command fails; how far the third is off is what the rounding costs. On
CUDA, or, to check the arithmetic, on a CPU that bitsandbytes knows.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

from agreement import agreement, score_difference
from program import program
from provenance import environment, write_result
from reccocktail.backbone import Backbone, load_backbone
from reccocktail.data.domain import Domain, sample_rows
from reccocktail.evaluation.metrics import FloatArray, per_user, ranks
from reccocktail.quantization import dequantise, quantise
from reccocktail.ranking.base import Model
from reccocktail.ranking.scoring import Catalogue, positive_columns, score
from reccocktail.spirits import resolve
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import attach, base_model, merged, ranker_of


def scores_of(backbone: Backbone, adapter: Adapter, domain: Domain, rows: pl.DataFrame) -> Any:
    """All three, by name; the backbone is left with its weights rounded and written out."""
    catalogue = Catalogue.of(domain, ranker_of(adapter.card, backbone))

    def run(model: Model, label: str) -> list[FloatArray]:
        return score(model, catalogue, [rows], label, entropy=False)[0].scores

    with merged(backbone.model, adapter.lora) as model:
        before = run(model, "Merged into full precision")
    place = backbone.device
    layers = quantise(backbone.model)
    backbone.model.to(place)  # packed on the way
    live = attach(backbone.model, adapter.lora)
    on_packed = run(base_model(live), "Live on packed weights")
    live.unload()
    assert dequantise(backbone.model) == layers
    with merged(backbone.model, adapter.lora) as model:
        into_rounded = run(model, "Merged into rounded weights")
    return {"live": on_packed, "merged": into_rounded, "full precision": before}, layers


def compare(one: Sequence[FloatArray], other: Sequence[FloatArray]) -> dict[str, float]:
    """Differences of scores, in units of logits, and users whose first item stays the same."""
    apart, top = score_difference(one, other), agreement(one, other)
    return {
        "largest": apart["largest"],
        "mean": apart["mean"],
        "same_first_item": top["same_first"],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--tolerance", type=float, default=1e-3, help="logits; for float32")
    parser.add_argument("--backbone")
    parser.add_argument("--device")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    adapter, domain = Adapter.load(resolve(args.adapter)), Domain.load(args.data)
    backbone = load_backbone(
        args.backbone or adapter.card.recipe.backbone, device=args.device, dtype=args.dtype
    )
    rows = sample_rows(domain.rows("test_warm"), args.users, seed=0)
    about = environment(backbone, domain) | {"bitsandbytes": version("bitsandbytes")}
    found, layers = scores_of(backbone, adapter, domain, rows)
    columns = positive_columns(rows)
    result = {
        "layers": layers,
        "users": rows.height,
        "tolerance": args.tolerance,
        "live_against_merged": compare(found["live"], found["merged"]),
        "rounded_against_full_precision": compare(found["merged"], found["full precision"]),
        "spread_of_scores": float(np.mean([np.std(row) for row in found["live"]])),
        "ndcg@10": {
            name: float(per_user(ranks(scores, columns))["ndcg@10"].mean())
            for name, scores in found.items()
        },
    }
    agree = result["live_against_merged"]["largest"] <= args.tolerance
    if args.out:
        write_result(
            args.out, {"adapter_sha256": adapter.sha256, **result, "agree": agree, **about}
        )
    Console().print_json(data={**result, "agree": agree})
    if not agree:
        sys.exit(1)


if __name__ == "__main__":
    program(main)
