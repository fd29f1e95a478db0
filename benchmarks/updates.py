"""How large the updates of adapters are, and how far each two of them go the same way.

    python benchmarks/updates.py --adapter NAME=FOLDER --adapter NAME=FOLDER --out updates.json

Norms and cosines of whole updates (Frobenius, over all modules), and the norm of each even average,
as a share of the mean norm of its two: near 1 they point the same way, and at right angles equal
ones leave 0.71. No backbone is loaded and no user read.
"""

import argparse
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from arguments import named_adapters
from program import program
from provenance import machine, write_result
from reccocktail.errors import RunError
from reccocktail.mixing.arithmetic import combine, update_cosine, update_norm
from reccocktail.training.adapter import Adapter


def pair_of(first: Adapter, second: Adapter) -> dict[str, float]:
    """Cosine of two updates, and what an even average keeps of their mean norm."""
    loras = [first.lora, second.lora]
    average = update_norm(combine(loras, torch.tensor([0.5, 0.5])))
    mean = sum(map(update_norm, loras)) / 2
    return {"cosine": update_cosine(*loras), "kept_by_average": average / mean}


def measured(adapters: dict[str, Adapter]) -> dict[str, Any]:
    """The adapters by name, and each two of them."""
    return {
        "adapters": {
            name: {"sha256": a.sha256, "steps": a.card.steps, "norm": update_norm(a.lora)}
            for name, a in adapters.items()
        },
        "pairs": [
            {"of": [a, b], **pair_of(adapters[a], adapters[b])}
            for a, b in combinations(adapters, 2)
        ],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapter", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    adapters = named_adapters(args.adapter)
    if len(adapters) < 2:
        raise RunError("Give --adapter at least twice; one update is compared with another.")
    first = next(iter(adapters.values()))
    for adapter in adapters.values():
        first.card.backbone.require_match(adapter.card.backbone, adapter.name)
    found = measured(adapters)
    write_result(args.out, found | machine(torch.device("cpu")))
    table = Table("updates of", "norms", "cosine", "kept by their average")
    for pair in found["pairs"]:
        norms = " / ".join(f"{found['adapters'][name]['norm']:.1f}" for name in pair["of"])
        shares = f"{pair['cosine']:.2f}", f"{pair['kept_by_average']:.0%}"
        table.add_row(" / ".join(pair["of"]), norms, *shares)
    Console().print(table)


if __name__ == "__main__":
    program(main)
