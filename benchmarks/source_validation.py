"""What base spirits know of the domains they were trained on: their validation users.

    python benchmarks/source_validation.py --data PREPARED [--data ...] --adapter NAME=FOLDER \
        [--adapter ...] --out results/source_validation.json

NDCG@10 of warm validation users of each domain, of every adapter and the bare backbone, as a
training validates, with intervals over users; no figure of a test user. Differences are of the
first adapter, user by user in each domain and over the domains' means. Resumable: ranks that stand
in the file are taken as they are.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from arguments import asked_backbone, backbone_arguments, named_adapters
from cells import require_alike
from program import program
from provenance import backbone_of, environment, write_result
from reccocktail.data.domain import Domain
from reccocktail.evaluation.metrics import FloatArray, mean_in_words, per_user, summarise
from reccocktail.evaluation.significance import paired_bootstrap
from reccocktail.ranking.scoring import Catalogue
from reccocktail.storage import read_json
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import check_compatible, ranker_of, scoring
from reccocktail.training.validation import Validation
from spreads import gap_in_words
from study import require_judgeable

MEASURE = "ndcg@10"
BARE = "backbone"


def decides(result: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides the figures of a file, by name, as far as the file says it."""
    users, seed, *data = result["identity"]
    reading = {"reading": result["reading"]} if "reading" in result else {}
    return {"users": users, "seed": seed, "data": data, **reading, **backbone_of(result)}


def values_of(ranks: Mapping[str, Sequence[int]]) -> dict[str, dict[str, FloatArray]]:
    """The users' NDCG@10 of each domain."""
    return {name: {MEASURE: per_user(places)[MEASURE]} for name, places in ranks.items()}


def means_of(values: Mapping[str, Mapping[str, FloatArray]]) -> dict[str, FloatArray]:
    """The mean of each domain, as a table of domains in place of users."""
    return {MEASURE: np.array([of[MEASURE].mean() for of in values.values()])}


def figures(models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means of each domain, and what the first model has over the others, with intervals."""
    values = {name: values_of(found["ranks"]) for name, found in models.items()}
    first, *others = values
    return {
        "domains": {
            domain: {model: summarise(of[domain]) for model, of in values.items()}
            for domain in values[first]
        },
        "means": {model: summarise(means_of(of)) for model, of in values.items()},
        "minus": {
            other: paired_bootstrap(means_of(values[first]), means_of(values[other]))[MEASURE]
            for other in others
        },
        "minus_by_domain": {
            other: {
                domain: paired_bootstrap(of, values[other][domain])[MEASURE]
                for domain, of in values[first].items()
            }
            for other in others
        },
    }


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
    adapters = named_adapters(args.adapter)
    first = next(iter(adapters.values()))
    if BARE in adapters:
        parser.error(f"'{BARE}' is the bare model; call the adapter otherwise")
    backbone = asked_backbone(args, first.card.recipe)
    require_judgeable([*adapters.values()], backbone)
    check_compatible([*adapters.values()], backbone)  # one ranker reads for all
    ranker = ranker_of(first.card, backbone)
    domains = [Domain.load(path) for path in args.data]
    validation = Validation([Catalogue.of(d, ranker) for d in domains], args.users, args.seed)
    identity = [args.users, args.seed, *(domain.sha256 for domain in domains)]
    about = environment(backbone, domains[0])
    about["data"] = [{"name": d.name, "sha256": d.sha256} for d in domains]
    about["reading"] = first.card.reading()
    result = read_json(args.out) if args.out.exists() else {"identity": identity, "models": {}}
    require_alike(args.out, decides(result), decides({"identity": identity, **about}))
    found = result["models"]
    models: dict[str, Adapter | None] = {**adapters, BARE: None}
    for name, adapter in models.items():
        sha256 = adapter.sha256 if adapter else None
        known = found.get(name, {})
        # Files of before ranks were kept have means alone.
        if "ranks" not in known or known["sha256"] != sha256:
            with scoring(backbone, adapter.lora if adapter else None) as model:
                ranks = validation.ranks(model)
            found[name] = {
                "sha256": sha256,
                "ranks": {domain: places.tolist() for domain, places in ranks.items()},
            }
            result |= about
            write_result(args.out, result)
    result |= figures({name: found[name] for name in models})
    write_result(args.out, result)
    table = Table("domain", *models)
    for domain, of in [*result["domains"].items(), ("mean", result["means"])]:
        table.add_row(domain, *(mean_in_words(of[model], MEASURE) for model in models))
    Console().print(table)
    for other, gap in result["minus"].items():
        Console().print(f"less {other}: {gap_in_words(gap)}")


if __name__ == "__main__":
    program(main)
