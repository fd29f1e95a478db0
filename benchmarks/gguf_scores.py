"""Does llama.cpp give a cocktail's scores from an exported GGUF file, and what does each type cost?

    python benchmarks/gguf_scores.py --adapter COCKTAIL --data PREPARED [--users 20] \
        [--out results/gguf_scores.json]

Test users and their candidates as token ids, read by llama.cpp itself (`xllamacpp`) out of an
export in each type, against this package's scores in float32 on the CPU: size of the file,
differences of scores, and agreement of the ten best, by text alone. Fails if float32 is off by
more than `--tolerance`. For `dense` adapters that read the last token's state, without a readout.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from agreement import agreement, score_difference
from llama_cpp import LlamaCpp
from program import program
from provenance import environment, write_result
from reccocktail.backbone import Backbone, load_backbone
from reccocktail.data.domain import Domain, sample_rows
from reccocktail.errors import RunError
from reccocktail.evaluation.metrics import FloatArray
from reccocktail.export.folders import GGUF_FILE, export_gguf
from reccocktail.export.gguf import GGUF_TYPES
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.scoring import Catalogue, score
from reccocktail.schema import SCENARIOS
from reccocktail.spirits import resolve
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import merged, ranker_of


def exported_scores(
    catalogue: Catalogue[DenseRanker], rows: pl.DataFrame, file: Path, label: str
) -> list[FloatArray]:
    """Scores (candidates,) of each user from the exported file alone."""
    ranker = catalogue.ranker
    encoder = ranker.encoder
    candidates = catalogue.candidates(rows)
    items = sorted({item for row in candidates for item in row})
    sequences = [encoder.item(catalogue.tokens[item]) for item in items]
    sequences += [encoder.history(ranker.recent(titles))[0] for titles in catalogue.histories(rows)]
    read = LlamaCpp(file, longest=max(map(len, sequences)) + 8).vectors(sequences, label)
    place = {item: row for row, item in enumerate(items)}
    users = read[len(items) :]
    return [
        read[[place[item] for item in row]] @ user / ranker.temperature
        for row, user in zip(candidates, users, strict=True)
    ]


def measure(
    adapter: Adapter, backbone: Backbone, domain: Domain, rows: pl.DataFrame
) -> dict[str, Any]:
    """Each type's file against this package's scores."""
    ranker = ranker_of(adapter.card, backbone)
    dense = adapter.card.recipe.dense
    plain = isinstance(ranker, DenseRanker) and dense.pooling == "last" and not dense.depth
    if not plain or ranker.readout is not None:
        raise RunError(
            f"{adapter.name} is no dense adapter that reads the last token's state of the whole "
            "model as it is; give another one."
        )
    catalogue = Catalogue.of(domain, ranker)
    with merged(backbone.model, adapter.lora) as model:
        ours = score(model, catalogue, [rows], "This package", entropy=False)[0].scores
    found = {}
    for dtype in GGUF_TYPES:
        with TemporaryDirectory() as folder:
            export_gguf(adapter, backbone, Path(folder) / "out", dtype)
            file = Path(folder) / "out" / GGUF_FILE
            theirs = exported_scores(catalogue, rows, file, f"llama.cpp, {dtype}")
            found[dtype] = {
                "bytes": file.stat().st_size,
                "score_difference": score_difference(ours, theirs),
                "top_10": agreement(ours, theirs),
            }
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapter", type=Path, required=True, help="folder or shipped name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scenario", choices=SCENARIOS, default="warm")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--tolerance", type=float, default=1e-3, help="logits; for float32")
    parser.add_argument("--backbone", help="where the backbone is, if not where it was")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    adapter, domain = Adapter.load(resolve(args.adapter)), Domain.load(args.data)
    name = args.backbone or adapter.card.recipe.backbone
    backbone = load_backbone(name, device="cpu", dtype="float32")
    rows = sample_rows(domain.rows(f"test_{args.scenario}"), args.users, args.seed)
    types = measure(adapter, backbone, domain, rows)
    agree = types["float32"]["score_difference"]["largest"] <= args.tolerance
    if args.out:
        about = {"users": rows.height, "scenario": args.scenario, "seed": args.seed}
        about |= {"adapter_sha256": adapter.sha256, "tolerance": args.tolerance, "agree": agree}
        write_result(args.out, {**about, "types": types, **environment(backbone, domain)})
    table = Table("type", "file", "largest difference", "mean", "ten best shared", "same first")
    for dtype, found in types.items():
        apart, top = found["score_difference"], found["top_10"]
        shares = f"{top['shared']:.1%}", f"{top['same_first']:.0%}"
        size = f"{found['bytes'] / 1e6:.0f} MB"
        table.add_row(dtype, size, f"{apart['largest']:.1e}", f"{apart['mean']:.1e}", *shares)
    Console().print(table)
    if not agree:
        print("FAILED: llama.cpp does not give this package's scores.", file=sys.stderr)
    return 0 if agree else 1


if __name__ == "__main__":
    program(lambda: sys.exit(main()))
