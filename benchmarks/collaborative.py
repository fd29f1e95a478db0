"""Who chose what beside the language model: what is it worth?

    python benchmarks/collaborative.py --data PREPARED [--data ...] --adapter base_spirit \
        [--adapter ...] [--users 500] [--validation-users 150] [--interactions RAW] \
        --out RESULT.json

Test users ranked by each model, and by none, with popularity and words beside it in weights that
validation users choose, and with who chose what too; the difference is paired, and so are those
from no model and from the adapters named before, which say what each model is worth beside the
other parts. Cold targets also among cold items alone, where whoever tells new items from old wins
nothing; cold ones in weights of warm users; both kinds in weights that validation users of both
kinds choose together; and the same with new items on the level of known ones, which is how
`recommend` and the service rank. There the share of the first places that new items hold is told.

How it is read was chosen by `collaborative_settings.py`, and the level of new items judged by
`newcomers.py`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from arguments import asked_backbone, backbone_arguments
from newcomers import new_first, no_scores
from paper_table import raw_interactions
from program import program
from provenance import environment, write_result
from reccocktail.backbone import Backbone
from reccocktail.data.candidates import cold_candidates
from reccocktail.data.domain import Domain, sample_rows
from reccocktail.errors import RunError
from reccocktail.evaluation.metrics import FloatArray, mean_in_words, per_user, ranks, summarise
from reccocktail.evaluation.placing import Placing
from reccocktail.evaluation.significance import paired_bootstrap
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.scoring import Catalogue, ItemVectors, encode, positive_columns
from reccocktail.schema import SCENARIOS, Scenario
from reccocktail.spirits import resolve
from reccocktail.storage import sha256_file
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import model_sha256, ranker_of, scoring
from spreads import gap_in_words
from study import require_judgeable

NOTHING = "no model"
WITHOUT, WITH = "popularity and words", "and who chose what"
COLD_ONLY = "cold among cold"
COLD_WARM = "cold, weights of warm users"
WARM_BOTH, COLD_BOTH = "warm, weights of both", "cold, weights of both"
WARM_LEVEL, COLD_LEVEL = "warm, weights of both, levelled", "cold, weights of both, levelled"
TABLES: dict[str, Scenario] = {
    "warm": "warm",
    "cold": "cold",
    COLD_ONLY: "cold",
    COLD_WARM: "cold",
    WARM_BOTH: "warm",
    COLD_BOTH: "cold",
    WARM_LEVEL: "warm",
    COLD_LEVEL: "cold",
}
WEIGHED_BY: dict[str, tuple[Scenario, ...]] = {
    COLD_WARM: ("warm",),
    **dict.fromkeys((WARM_BOTH, COLD_BOTH, WARM_LEVEL, COLD_LEVEL), SCENARIOS),
}
"""Whose validation rows choose the weights, where they are not those of the table's scenario."""


def tables_of(
    domain: Domain, users: int, validation_users: int, interactions: pl.DataFrame | None
) -> tuple[dict[str, pl.DataFrame], dict[Scenario, pl.DataFrame]]:
    """Test rows of each table, and validation rows of each scenario; tables of nobody are none."""
    test: dict[str, pl.DataFrame] = {}
    for table, scenario in TABLES.items():
        rows = sample_rows(domain.rows(f"test_{scenario}"), users, seed=0)
        if rows.height > 2 and (table != COLD_WARM or "warm" in test):
            cold = table == COLD_ONLY
            test[table] = (
                cold_candidates(domain, rows, seed=0, interactions=interactions) if cold else rows
            )
    scenarios = {TABLES[table] for table in test}
    valid = {s: sample_rows(domain.rows(f"valid_{s}"), validation_users, seed=0) for s in scenarios}
    return test, valid


def worth(
    domain: Domain,
    adapters: Sequence[Adapter],
    backbone: Backbone,
    test: dict[str, pl.DataFrame],
    valid: dict[Scenario, pl.DataFrame],
) -> dict[str, Any]:
    """Each table's models of one domain with and without it."""
    found: dict[str, Any] = {table: {} for table in test}
    # Table -> model -> view -> metrics of each user.
    before: dict[str, dict[str, dict[str, dict[str, FloatArray]]]] = {table: {} for table in test}
    read = adapters[0].card.recipe.prompt.max_history
    for adapter in (None, *adapters):
        of_test, of_valid = scores_of(domain, adapter, backbone, test, valid)
        for table, rows in test.items():
            scenario = TABLES[table]
            whose = [one for one in WEIGHED_BY.get(table, (scenario,)) if one in valid]
            chosen_by = {scenario: pl.concat([valid[one] for one in whose])}
            known = [row for one in whose for row in of_valid[one]]
            level = table in (WARM_LEVEL, COLD_LEVEL)
            placing = Placing(domain, {scenario: rows}, chosen_by, read, words=True, level=level)
            views: dict[str, dict[str, FloatArray]] = {}
            chosen: dict[str, Any] = {}
            first: dict[str, float] = {}
            for view, who in ((WITHOUT, False), (WITH, True)):
                beside = replace(placing, collaborative=who)
                placed, scores = beside.placed(scenario, of_test[table], known)
                views[view] = per_user(ranks(scores, positive_columns(rows)))
                chosen[view] = asdict(placed.weights)
                first[view] = new_first(domain, rows, scores)
            name = adapter.name if adapter else NOTHING
            found[table][name] = {
                **{view: summarise(values) for view, values in views.items()},
                "weights": chosen,
                "new_first": first,
                "gain": paired_bootstrap(views[WITH], views[WITHOUT]),
                "over": {
                    other: {view: paired_bootstrap(views[view], of[view]) for view in views}
                    for other, of in before[table].items()
                },
            }
            before[table][name] = views
    return found


def scores_of(
    domain: Domain,
    adapter: Adapter | None,
    backbone: Backbone,
    test: dict[str, pl.DataFrame],
    valid: dict[Scenario, pl.DataFrame],
) -> tuple[dict[str, list[FloatArray]], dict[Scenario, list[FloatArray]]]:
    """Logits of each row's candidates by table and by scenario; without an adapter, zeros."""
    if adapter is None:
        return {t: no_scores(rows) for t, rows in test.items()}, {
            s: no_scores(rows) for s, rows in valid.items()
        }
    ranker = ranker_of(adapter.card, backbone)
    if not isinstance(ranker, DenseRanker):
        raise RunError(f"'{adapter.name}' does not rank by vectors; give one of ranker dense.")
    catalogue = Catalogue.of(domain, ranker)
    items = ItemVectors(catalogue, model_sha256(backbone, adapter.lora))
    # Tables of the same users are read once.
    read = [test[s] for s in valid] + list(valid.values())
    with scoring(backbone, adapter.lora) as model:
        label = f"{domain.name}: {adapter.name}"
        encoded = encode(model, items, catalogue, read, label, whole_catalogue=True)
    testers, validators = (
        dict(zip(valid, part, strict=True))
        for part in (encoded[: len(valid)], encoded[len(valid) :])
    )
    return {
        table: testers[TABLES[table]].scores(ranker, catalogue.candidates(rows))
        for table, rows in test.items()
    }, {
        scenario: validators[scenario].scores(ranker, catalogue.candidates(rows))
        for scenario, rows in valid.items()
    }


def show(domain: str, found: dict[str, Any]) -> None:
    """Print one domain's tables."""
    table = Table("table", "model", f"NDCG@10, {WITHOUT}", WITH, "gain", "over", title=domain)
    for name, models in found.items():
        for model, values in models.items():
            views = (values[view] for view in (WITHOUT, WITH))
            table.add_row(
                f"{name} ({values[WITH]['n']:,})",
                model,
                *(mean_in_words(found, "ndcg@10") for found in views),
                _gap(values["gain"]),
                "\n".join(f"{o}: {_gap(v[WITH])}" for o, v in values["over"].items()),
            )
    Console(width=180).print(table)


def _gap(found: dict[str, Any]) -> str:
    """A paired difference of NDCG@10 in words."""
    return gap_in_words(found["ndcg@10"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--adapter", type=Path, action="append", required=True)
    parser.add_argument("--users", type=int, default=500, help="at most so many a table")
    parser.add_argument("--validation-users", type=int, default=150)
    parser.add_argument("--interactions", type=Path, action="append", default=[],
                        help="a domain's raw interactions, for exact cold negatives")  # fmt: skip
    backbone_arguments(parser)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    if min(args.users, args.validation_users) < 3:
        raise RunError("--users and --validation-users must be at least 3; raise them.")
    domains = [Domain.load(path) for path in args.data]
    adapters = [Adapter.load(resolve(path)) for path in args.adapter]
    if len({adapter.name for adapter in adapters}) < len(adapters):
        raise RunError("Two adapters have one name; rename a folder.")
    backbone = asked_backbone(args, adapters[0].card.recipe)
    require_judgeable(adapters, backbone)
    files = {file: sha256_file(file) for file in args.interactions}
    targets: dict[str, Any] = {}
    for domain in domains:
        raw = raw_interactions(files, domain)
        test, valid = tables_of(domain, args.users, args.validation_users, raw[1] if raw else None)
        facts = environment(backbone, domain)
        tables = worth(domain, adapters, backbone, test, valid)
        targets[domain.name] = {"data": facts.pop("data"), "tables": tables}
        show(domain.name, tables)
        if args.out:
            about = {
                "targets": targets,
                "validation_users": args.validation_users,
                "adapters": {a.name: {"sha256": a.sha256, "steps": a.card.steps} for a in adapters},
            }
            write_result(args.out, about | facts)


if __name__ == "__main__":
    program(main)
