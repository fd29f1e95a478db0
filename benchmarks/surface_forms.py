"""Does a title written behind a space, in quotes or without its year count for its item?

    python benchmarks/surface_forms.py --data PREPARED [--data PREPARED ...] \
        [--adapter GENERATE ...] --users 200 --out RUN

The `generate` ranker's likelihood of each title as it is taught against that of all its forms
(`generate.forms: several`), for the bare backbone and for adapters: NDCG and seconds a user, warm
test users, 30 candidates. Each model, way and domain is kept in RUN as it ends; the same command
goes on. Writes surface_forms.json into --out.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

from arguments import asked_backbone, backbone_arguments
from cells import finished
from program import program
from provenance import environment, write_result
from reccocktail.backbone import Backbone
from reccocktail.data.domain import Domain, sample_rows
from reccocktail.evaluation.metrics import per_user, ranks, summarise
from reccocktail.evaluation.significance import paired_bootstrap
from reccocktail.ranking import build
from reccocktail.ranking.scoring import Catalogue, positive_columns, score
from reccocktail.recipe import Recipe
from reccocktail.storage import sha256_json, write_json
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import scoring

WAYS = ("one", "several")
SHOWN = ("ndcg@1", "ndcg@10")


def with_forms(recipe: Recipe, forms: str) -> Recipe:
    """The recipe, with what counts as a title in an answer."""
    return recipe.model_copy(
        update={"generate": recipe.generate.model_copy(update={"forms": forms})}
    )


def measure(
    backbone: Backbone,
    adapter: Adapter | None,
    recipe: Recipe,
    domain: Domain,
    rows: pl.DataFrame,
    file: Path,
) -> dict[str, Any]:
    """Ranks of one model's positives and seconds a user, read from `file` if it is that cell's."""
    parts = [domain.sha256, backbone.fingerprint.sha256, adapter.sha256 if adapter else None]
    identity = sha256_json([*parts, recipe.sha256, rows.height, backbone.precision])
    if cell := finished(file, identity):
        return cell
    catalogue = Catalogue.of(domain, build(backbone, recipe))
    started = time.monotonic()
    with scoring(backbone, adapter.lora if adapter else None) as model:
        (found,) = score(model, catalogue, [rows], file.stem, entropy=False)
    seconds = (time.monotonic() - started) / rows.height
    places = ranks(found.scores, positive_columns(rows)).tolist()
    cell = {"identity": identity, "ranks": places, "seconds_a_user": seconds}
    write_json(file, cell)
    return cell


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--adapter", type=Path, action="append", default=[])
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True)
    backbone_arguments(parser)
    args = parser.parse_args(arguments)
    adapters = {path.name: Adapter.load(path) for path in args.adapter}
    for name, made in adapters.items():
        if made.card.recipe.ranker != "generate":
            parser.error(f"{name} is an adapter of the ranker {made.card.recipe.ranker}")
    known = next((a.card.recipe for a in adapters.values()), Recipe(ranker="generate"))
    backbone = asked_backbone(args, known)
    result: dict[str, Any] = {"settings": {"users": args.users, "scenario": "warm"}}
    for path in args.data:
        domain = Domain.load(path)
        rows = sample_rows(domain.rows("test_warm"), args.users, seed=0)
        models: dict[str, Any] = {}
        for name, adapter in {"backbone": None, **adapters}.items():
            recipe = adapter.card.recipe if adapter else known
            cells = {
                way: measure(
                    backbone,
                    adapter,
                    with_forms(recipe, way),
                    domain,
                    rows,
                    args.out / domain.name / f"{name}-{way}.json",
                )
                for way in WAYS
            }
            values = {way: per_user(np.array(cell["ranks"])) for way, cell in cells.items()}
            models[name] = {
                **{way: summarise(found) for way, found in values.items()},
                "several less one": paired_bootstrap(values["several"], values["one"]),
                "seconds_a_user": {way: cell["seconds_a_user"] for way, cell in cells.items()},
            }
            gap = models[name]["several less one"]["ndcg@10"]
            Console().print(f"{domain.name}, {name}: {gap}", markup=False, soft_wrap=True)
        result |= environment(backbone, domain)
        result.setdefault("domains", {})[domain.name] = {"sha256": domain.sha256, "models": models}
        write_result(args.out / "surface_forms.json", result)


if __name__ == "__main__":
    program(main)
