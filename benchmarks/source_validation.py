"""What base spirits know of the domains they were trained on: their validation users.

    python benchmarks/source_validation.py --data PREPARED [--data ...] --adapter NAME=FOLDER \
        [--adapter ...] --out results/source_validation.json

Mean NDCG@10 of warm validation users of each domain, of every adapter and the bare backbone, as a
training validates; no figure of a test user. Differences are of the first adapter, over domains.
Resumable: adapters that stand in the file are taken as they are.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from arguments import asked_backbone, backbone_arguments
from cells import require_alike
from program import program
from provenance import backbone_of, environment, write_result
from reccocktail.data.domain import Domain
from reccocktail.errors import RunError
from reccocktail.evaluation.significance import paired_bootstrap
from reccocktail.ranking.scoring import Catalogue
from reccocktail.spirits import resolve
from reccocktail.storage import read_json
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import ranker_of, scoring
from reccocktail.training.validation import Validation
from spreads import gap_in_words

MEASURE = "ndcg@10"
BARE = "backbone"


def decides(result: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides the figures of a file, by name, as far as the file says it."""
    users, seed, *data = result["identity"]
    return {"users": users, "seed": seed, "data": data, **backbone_of(result)}


def differences(found: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> dict[str, Any]:
    """The first adapter less each other one, with intervals over the domains."""
    values = {
        model: {MEASURE: np.array([of[f"{MEASURE}/{name}"] for name in names])}
        for model, of in found.items()
    }
    first, *others = values
    return {other: paired_bootstrap(values[first], values[other])[MEASURE] for other in others}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--adapter", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--users", type=int, default=256, help="of a domain, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    backbone_arguments(parser)
    args = parser.parse_args(arguments)
    adapters: dict[str, Adapter] = {}
    for given in args.adapter:
        name, separator, folder = given.partition("=")
        if not separator:
            raise RunError(f"--adapter is NAME=FOLDER, not '{given}'.")
        adapters[name] = Adapter.load(resolve(Path(folder)))
    first = next(iter(adapters.values()))
    backbone = asked_backbone(args, first.card.recipe)
    ranker = ranker_of(first.card, backbone)
    domains = [Domain.load(path) for path in args.data]
    validation = Validation([Catalogue.of(d, ranker) for d in domains], args.users, args.seed)
    identity = [args.users, args.seed, *(domain.sha256 for domain in domains)]
    about = environment(backbone, domains[0])
    about["data"] = [{"name": d.name, "sha256": d.sha256} for d in domains]
    result = read_json(args.out) if args.out.exists() else {"identity": identity, "models": {}}
    require_alike(args.out, decides(result), decides({"identity": identity, **about}))
    found = result["models"]
    models: dict[str, Adapter | None] = {**adapters, BARE: None}
    for name, adapter in models.items():
        sha256 = adapter.sha256 if adapter else None
        if name not in found or found[name]["sha256"] != sha256:
            with scoring(backbone, adapter.lora if adapter else None) as model:
                found[name] = {"sha256": sha256, **validation(model)}
            result |= about
            write_result(args.out, result)
    result["minus"] = differences({name: found[name] for name in models}, [d.name for d in domains])
    write_result(args.out, result)
    table = Table("domain", *models)
    for name in [*(f"{MEASURE}/{d.name}" for d in domains), MEASURE]:
        table.add_row(name, *(f"{found[model][name]:.3f}" for model in models))
    Console().print(table)
    for other, gap in result["minus"].items():
        Console().print(f"less {other}: {gap_in_words(gap)}")


if __name__ == "__main__":
    program(main)
