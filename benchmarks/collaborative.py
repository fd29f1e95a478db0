"""Who chose what beside the language model: how should it be read, and what is it worth?

    python benchmarks/collaborative.py --data PREPARED [--data ...] [--out results/FILE.json]
    python benchmarks/collaborative.py --data PREPARED [--data ...] --levels [--out RESULT.json]
    python benchmarks/collaborative.py --data PREPARED --adapter base_spirit [--adapter ...] \
        [--users 500] [--validation-users 150] [--interactions RAW] --out RESULT.json

Without an adapter: NDCG@10 on warm validation users of vectors of each window, share of the other
order, width and half-life of a history, and of singular vectors of users and items, by themselves
and with popularity, the seconds they take, and the means over the domains.

With `--levels`: popularity, words and who chose what in weights that one half of the validation
users of known and of new items choose, NDCG@10 on the other half of each, with new items as they
are and on the level of known ones.

With adapters: test users ranked by each model, and by none, with popularity and words beside it in
weights that validation users choose, and with who chose what too; the difference is paired, and so
are those from no model and from the adapters named before, which say what each model is worth
beside the other parts. Cold targets also among cold items alone, where whoever tells new items from
old wins nothing; cold ones in weights of warm users; both kinds in weights that validation users of
both kinds choose together; and the same with new items on the level of known ones, which is how
`recommend` and the service rank. There the share of the first places that new items hold is told.
"""

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.decomposition import TruncatedSVD

from arguments import asked_backbone, backbone_arguments
from paper_table import raw_interactions
from program import program
from provenance import environment, machine, write_result
from reccocktail.backbone import Backbone
from reccocktail.baselines.collaborative import interactions
from reccocktail.data.candidates import cold_candidates
from reccocktail.data.domain import Domain, sample_rows
from reccocktail.errors import RunError
from reccocktail.evaluation.metrics import FloatArray, mean_in_words, per_user, ranks, summarise
from reccocktail.evaluation.placing import Placing
from reccocktail.evaluation.significance import paired_bootstrap
from reccocktail.progress import track
from reccocktail.ranking.additions import Beside
from reccocktail.ranking.collaborative import vectors_of
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.prior import popularity_prior
from reccocktail.ranking.scoring import Catalogue, ItemVectors, encode, positive_columns
from reccocktail.ranking.space import cosines, of_histories, unit
from reccocktail.recipe import PromptSettings
from reccocktail.schema import CANDIDATES, HISTORY, SCENARIOS, Scenario
from reccocktail.spirits import resolve
from reccocktail.storage import sha256_file
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import model_sha256, ranker_of, scoring
from spreads import gap_in_words

DIMENSIONS, WINDOWS, BACKWARDS = (64, 128), (3, 5, 10, 20), (0.0, 0.3, 1.0)
HALF_LIVES = (1.0, 2.0, None)
PURE = "users by items, 64 wide"
Floats = NDArray[np.float32]
Both = tuple[Floats, Floats]
NOTHING = "no model"
AS_THEY_ARE, LEVELLED = "as they are", "levelled"
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


def settings_of(domain: Domain, users: int) -> dict[str, Any]:
    """NDCG@10 on warm validation users of each way to make vectors, alone and with popularity."""
    rows = sample_rows(domain.rows("valid_warm"), users, seed=0)
    histories, candidates = domain.numbers(rows, HISTORY), domain.numbers(rows, CANDIDATES)
    positive, prior = positive_columns(rows), popularity_prior(domain.train_counts())
    read = PromptSettings().max_history
    recent = [history[-read:] for history in histories]
    training = domain.numbers(domain.train(), HISTORY)
    nothing = [np.zeros(len(row)) for row in candidates]
    found: dict[str, Any] = {}

    def judge(name: str, both: Both, half_life: float | None, seconds: float) -> None:
        chosen, before = both
        scores = cosines(chosen, of_histories(before, recent, half_life), candidates)
        beside = Beside(candidates, prior, collaborative=scores)
        together = beside.add(nothing, beside.choose(nothing, positive)[0])
        found[name] = {
            "alone": ndcg(scores, positive),
            "with popularity": ndcg(together, positive),
            "seconds": seconds,
        }

    for way in itertools.product(DIMENSIONS, WINDOWS, BACKWARDS):
        began = time.perf_counter()
        both = vectors_of(training, len(domain.titles), *way)
        spent = time.perf_counter() - began
        for half_life in HALF_LIVES:
            judge(name_of(*way, half_life), both, half_life, spent)
    began = time.perf_counter()
    alike = pure_svd(training, len(domain.titles))
    judge(PURE, (alike, alike), None, time.perf_counter() - began)
    return {"users": rows.height, "ways": found}


def pure_svd(histories: Sequence[Sequence[int]], items: int) -> Floats:
    """Unit vectors (items, 64) by users and items alone (PureSVD), as a control.

    Users and items are scaled by the root of their counts; centred.
    """
    matrix = interactions(histories, items)
    counts = np.bincount(matrix.indices, minlength=items)
    busy = np.repeat(np.diff(matrix.indptr), np.diff(matrix.indptr))
    matrix.data = (1 / np.sqrt(busy * counts[matrix.indices])).astype(np.float32)
    space = TruncatedSVD(min(64, *matrix.shape), n_iter=3, random_state=0).fit(matrix)
    vectors = (space.components_.T * space.singular_values_).astype(np.float32)
    vectors -= vectors[counts > 0].mean(axis=0)
    vectors[counts == 0] = 0
    return unit(vectors)


def ndcg(scores: Sequence[FloatArray], positive: NDArray[np.int64]) -> float:
    """Mean NDCG@10 of rows."""
    return float(per_user(ranks(scores, positive))["ndcg@10"].mean())


def name_of(dimensions: int, window: int, backward: float, half_life: float | None) -> str:
    """One way to make and to read vectors, in words."""
    memory = "no half-life" if half_life is None else f"half-life {half_life:g}"
    return f"{dimensions} wide, window {window}, backward {backward:g}, {memory}"


def choose_settings(domains: Sequence[Domain], users: int) -> dict[str, Any]:
    """The first part: every domain's figures, and their means, the best first."""
    of = {d.name: settings_of(d, users) for d in track(domains, "Ways to read who chose what")}
    ways = next(iter(of.values()))["ways"]
    means = {
        way: {
            view: float(np.mean([found["ways"][way][view] for found in of.values()]))
            for view in ways[way]
        }
        for way in ways
    }
    best = sorted(means, key=lambda way: -means[way]["with popularity"])
    table = Table("way", "alone", "with popularity", "seconds")
    for way in best:
        *qualities, spent = means[way].values()
        table.add_row(way, *(f"{value:.4f}" for value in qualities), f"{spent:.1f}")
    Console().print(table)
    return {"domains": of, "means": {way: means[way] for way in best}}


def levels_of(domain: Domain, users: int) -> dict[str, Any]:
    """NDCG@10 on validation users with new items as they are and levelled; no model."""
    tables = {s: sample_rows(domain.rows(f"valid_{s}"), users, seed=0) for s in SCENARIOS}
    judged = {s: rows[rows.height // 2 :] for s, rows in tables.items()}
    choosing = pl.concat([rows[: rows.height // 2] for rows in tables.values()])
    chosen_by: dict[Scenario, pl.DataFrame] = dict.fromkeys(SCENARIOS, choosing)
    read = PromptSettings().max_history
    placing = Placing(domain, judged, chosen_by, read, words=True, collaborative=True)
    found: dict[str, Any] = {}
    for scenario, rows in judged.items():
        views = {}
        first = {}
        for view, level in ((AS_THEY_ARE, False), (LEVELLED, True)):
            beside = replace(placing, level=level)
            _, scores = beside.placed(scenario, _zeros(rows), _zeros(choosing))
            views[view] = per_user(ranks(scores, positive_columns(rows)))
            first[view] = new_first(domain, rows, scores)
        found[scenario] = {
            **{view: summarise(values) for view, values in views.items()},
            "new_first": first,
            "gain": paired_bootstrap(views[LEVELLED], views[AS_THEY_ARE]),
        }
    return found


def choose_levels(domains: Sequence[Domain], users: int) -> dict[str, Any]:
    """Every domain's `levels_of`, and the means over domains."""
    of = {d.name: levels_of(d, users) for d in track(domains, "Levels of new items")}
    means: dict[str, Any] = {}
    table = Table("domain", "scenario", AS_THEY_ARE, LEVELLED, "gain", "new first")
    for scenario in SCENARIOS:
        for name, found in of.items():
            here = found[scenario]
            values = (f"{here[view]['ndcg@10']:.3f}" for view in (AS_THEY_ARE, LEVELLED))
            firsts = " -> ".join(f"{share:.2f}" for share in here["new_first"].values())
            table.add_row(name, scenario, *values, _gap(here["gain"]), firsts)
        means[scenario] = {
            view: float(np.mean([found[scenario][view]["ndcg@10"] for found in of.values()]))
            for view in (AS_THEY_ARE, LEVELLED)
        }
        table.add_row("mean", scenario, *(f"{value:.3f}" for value in means[scenario].values()))
    Console(width=150).print(table)
    return {"domains": of, "means": means}


def _zeros(rows: pl.DataFrame) -> list[FloatArray]:
    """Scores of no model."""
    return [np.zeros(len(row)) for row in rows[CANDIDATES].to_list()]


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
    """The second part, for one domain: each table's models with and without it."""
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


def new_first(domain: Domain, rows: pl.DataFrame, scores: Sequence[FloatArray]) -> float:
    """Share of the first places that items hold which nobody has touched."""
    new = domain.untouched()
    numbers = domain.numbers(rows, CANDIDATES)
    firsts = [items[int(row.argmax())] for items, row in zip(numbers, scores, strict=True)]
    return float(new[firsts].mean())


def scores_of(
    domain: Domain,
    adapter: Adapter | None,
    backbone: Backbone,
    test: dict[str, pl.DataFrame],
    valid: dict[Scenario, pl.DataFrame],
) -> tuple[dict[str, list[FloatArray]], dict[Scenario, list[FloatArray]]]:
    """Logits of each row's candidates by table and by scenario; without an adapter, zeros."""
    if adapter is None:
        return {t: _zeros(rows) for t, rows in test.items()}, {
            s: _zeros(rows) for s, rows in valid.items()
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
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--adapter", type=Path, action="append", default=[])
    asked.add_argument("--levels", action="store_true", help="what levelling new items brings")
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
    if not args.adapter:
        result = (choose_levels if args.levels else choose_settings)(domains, args.users)
        if args.out:
            result["data"] = {domain.name: domain.sha256 for domain in domains}
            write_result(args.out, result | machine(torch.device("cpu")))
        return
    adapters = [Adapter.load(resolve(path)) for path in args.adapter]
    if len({adapter.name for adapter in adapters}) < len(adapters):
        raise RunError("Two adapters have one name; rename a folder.")
    backbone = asked_backbone(args, adapters[0].card.recipe)
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
