"""New items on the level of known ones, without any model: what does levelling bring?

    python benchmarks/newcomers.py --data PREPARED [--data ...] [--users 500] [--out RESULT.json]

Popularity, words and who chose what in weights that one half of the validation users of known and
of new items choose, NDCG@10 on the other half of each, with new items as they are and on the level
of known ones; and the share of the first places that new items hold.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from program import program
from reccocktail.data.domain import Domain, sample_rows
from reccocktail.evaluation.metrics import FloatArray, per_user, ranks, summarise
from reccocktail.evaluation.placing import Placing
from reccocktail.evaluation.significance import paired_bootstrap
from reccocktail.progress import track
from reccocktail.ranking.scoring import positive_columns
from reccocktail.recipe import PromptSettings
from reccocktail.schema import CANDIDATES, SCENARIOS, Scenario
from spreads import gap_in_words
from study import study_without_model

AS_THEY_ARE, LEVELLED = "as they are", "levelled"


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
            _, scores = beside.placed(scenario, no_scores(rows), no_scores(choosing))
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
            table.add_row(name, scenario, *values, gap_in_words(here["gain"]["ndcg@10"]), firsts)
        means[scenario] = {
            view: float(np.mean([found[scenario][view]["ndcg@10"] for found in of.values()]))
            for view in (AS_THEY_ARE, LEVELLED)
        }
        table.add_row("mean", scenario, *(f"{value:.3f}" for value in means[scenario].values()))
    Console(width=150).print(table)
    return {"domains": of, "means": means}


def no_scores(rows: pl.DataFrame) -> list[FloatArray]:
    """Scores of no model."""
    return [np.zeros(len(row)) for row in rows[CANDIDATES].to_list()]


def new_first(domain: Domain, rows: pl.DataFrame, scores: Sequence[FloatArray]) -> float:
    """Share of the first places that items hold which nobody has touched."""
    new = domain.untouched()
    numbers = domain.numbers(rows, CANDIDATES)
    firsts = [items[int(row.argmax())] for items, row in zip(numbers, scores, strict=True)]
    return float(new[firsts].mean())


def main(arguments: Sequence[str] | None = None) -> None:
    study_without_model(__doc__, choose_levels, arguments)


if __name__ == "__main__":
    program(main)
