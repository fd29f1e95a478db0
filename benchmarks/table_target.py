"""One target of `paper_table.py`: whom every row is judged on, kept scores, and finished cells.

A *table* is what models are judged on: `warm`, `cold` (the prepared folder's candidates) and
`cold-only` (the users and targets of `cold`, all candidates cold items).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from cells import precision_facts
from few_shot_report import VIEWS as TWO_VIEWS
from few_shot_report import cell_metrics
from reccocktail.backbone import Backbone
from reccocktail.baselines.base import Baseline
from reccocktail.data.candidates import cold_candidates
from reccocktail.data.domain import Domain
from reccocktail.environment import commit, hardware, versions
from reccocktail.errors import DataError
from reccocktail.evaluation.metrics import FloatArray, ranks
from reccocktail.evaluation.placing import InLogits, Placing
from reccocktail.evaluation.scorer import Both, Scorer
from reccocktail.progress import say
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.scoring import Catalogue, Scored, positive_columns, score
from reccocktail.recipe import Recipe
from reccocktail.schema import CANDIDATES, USER, Scenario
from reccocktail.storage import atomic_file, sha256_json
from reccocktail.training.adapter import Adapter, Lora
from reccocktail.training.model import model_sha256, ranker_of, scoring
from study import judged_rows
from table_rows import BY_NAME

WARM, COLD, COLD_ONLY = "warm", "cold", "cold-only"
TABLES = (WARM, COLD, COLD_ONLY)
SCENARIO: Mapping[str, Scenario] = {WARM: "warm", COLD: "cold", COLD_ONLY: "cold"}
WORDS = "with prior and words"
VIEWS = {**TWO_VIEWS, WORDS: "rank_with_words"}
"""How rows are ranked, and the column of the ranks."""
WEIGHTS = {"prior_weight": "rank_with_prior", "weights_with_words": "rank_with_words"}
"""What a cell says of its weights, and the column that has them."""
NEGATIVES = {"all": (WARM, COLD), "cold": (WARM, COLD_ONLY), "both": TABLES}


@dataclass(frozen=True)
class Sizes:
    """How long is trained, and on how many users is looked at what."""

    minutes: float | None
    steps: int | None
    users: int
    validation_users: int
    adaptation_users: int


@dataclass
class KeptScorer(Scorer):
    """A `Scorer` whose scores lie in files named by all that decides them, with their cost.

    Attributes:
        folder: of the files.
        reading: hash of how the ranker reads.
        costs: of every model asked for since it was last emptied.
    """

    folder: Path = Path()
    reading: str = ""
    costs: list[dict[str, Any]] = field(default_factory=list)

    def scored(
        self, lora: Lora | None, scenarios: Sequence[Scenario], label: str, whole: bool
    ) -> dict[Scenario, Both]:
        """Scores by scenario; never of the whole catalogue."""
        assert not whole
        identity = model_sha256(self.backbone, lora)
        return {s: self._one(lora, identity, s, f"{label} ({s})") for s in scenarios}

    def _one(self, lora: Lora | None, identity: str, scenario: Scenario, label: str) -> Both:
        tables = [self.test[scenario], self.valid[scenario]]
        rows = [[t[USER].to_list(), t[CANDIDATES].to_list()] for t in tables]
        data = [self.catalogue.domain.sha256, rows]
        file = self.folder / f"{sha256_json([identity, self.reading, data])}.npz"
        if not file.exists():
            started = time.monotonic()
            with scoring(self.backbone, lora) as model:
                test, valid = score(model, self.catalogue, tables, label, model_sha256=identity)
            spent = [time.monotonic() - started, sum(t.height for t in tables)]
            arrays = {"test": _stacked(test), "valid": _stacked(valid), "cost": np.array(spent)}
            with atomic_file(file) as temporary, open(temporary, "wb") as stream:
                np.savez(stream, **arrays)
        with np.load(file) as kept:
            seconds, users = kept["cost"].tolist()
            self.costs.append({"scenario": scenario, "seconds": seconds, "users": users})
            return Both(_scored(kept["test"]), _scored(kept["valid"]))


def _stacked(found: Scored) -> FloatArray:
    return np.stack(found.scores) if found.scores else np.zeros((0, 1))


def _scored(scores: Sequence[FloatArray] | FloatArray) -> Scored:
    unknown = torch.full((len(scores),), float("nan"))
    return Scored(list(scores), unknown, lambda: torch.empty(0))


class Target:
    """One target domain: the rows that every cell is judged on, and the models' ranks there."""

    def __init__(
        self,
        domain: Domain,
        base: Adapter,
        recipe: Recipe,
        backbone: Backbone,
        sizes: Sizes,
        tables: Sequence[str],
        interactions: tuple[str, pl.DataFrame] | None,
        out: Path,
    ) -> None:
        """Draw the rows: the same in every cell, without the users that cocktails adapt to.

        A table that has nobody, or users without cold items to rank against, is left out.

        Args:
            domain: prepared domain.
            base: the base spirit.
            recipe: how the target's adapters are trained.
            backbone: the backbone of them all.
            sizes: see `Sizes`.
            tables: which of `TABLES` are judged.
            interactions: SHA-256 and content of the domain's raw interactions, if they are there;
                see `cold_candidates`.
            out: folder of the target's cells, adapters and scores.

        Raises:
            DataError: no table has anybody.
        """
        self.domain, self.base, self.backbone, self.out = domain, base, backbone, out
        self.recipe, self.sizes = recipe, sizes
        self.made_with = {
            "versions": versions(),
            "commit": commit(),
            "hardware": hardware(backbone.device),
            "precision": backbone.precision,
        }
        _, rows = judged_rows(domain, sizes.users, sizes.validation_users, sizes.adaptation_users)
        self.interactions = interactions[0] if interactions else None
        self.rows: dict[str, pl.DataFrame] = {}
        for table in tables:
            found = rows.get(f"test_{SCENARIO[table]}")
            try:
                if table == COLD_ONLY and found is not None:
                    known = interactions[1] if interactions else None
                    found = cold_candidates(domain, found, seed=0, interactions=known)
            except DataError as error:
                say(f"The table {table} is left out: {error}")
                continue
            if found is not None and found.height:
                self.rows[table] = found
        if not self.rows:
            raise DataError(
                f"{domain.name} has nobody to score beside the users that cocktails adapt to; "
                "prepare more data, or lower --adaptation-users."
            )
        ranker = ranker_of(base.card, backbone)
        # A dense score is of user and item alone, so one reading serves both sets of candidates.
        joined = isinstance(ranker, DenseRanker) and {COLD, COLD_ONLY} <= set(self.rows)
        parts = [tuple(self.rows)] if joined else [tuple(t for t in self.rows if t != COLD_ONLY)]
        parts += [(COLD_ONLY,)] if not joined and COLD_ONLY in self.rows else []
        catalogue = Catalogue.of(domain, ranker)
        self.boards: list[Board] = []
        for part in (p for p in parts if p):
            of: dict[Scenario, list[str]] = {}
            for table in part:
                of.setdefault(SCENARIO[table], []).append(table)
            self.boards.append(
                Board(
                    KeptScorer(
                        backbone,
                        catalogue,
                        Placing(
                            domain,
                            {s: joint(self.rows, names) for s, names in of.items()},
                            {s: rows[f"valid_{s}"] for s in of},
                            ranker.prompt.max_history,
                        ),
                        folder=out / "scores",
                        reading=sha256_json([base.card.recipe.sha256, base.card.readout_sha256]),
                    ),
                    of,
                    self.rows,
                )
            )

    def facts(self, table: str, row: str) -> dict[str, Any]:
        """All that decides a cell, beside its seed, by the name of the setting.

        Baselines know nothing of adapters, so theirs serve any base spirit, budget and precision.
        """
        found = {
            "data": self.domain.sha256,
            **{name.replace("_", "-"): value for name, value in asdict(self.sizes).items()},
            "views": list(VIEWS),
            "row": row,
            "table": table,
        }
        if BY_NAME[row].kind == "baseline":
            del found["minutes"], found["steps"]
            found["max-history"] = self.boards[0].scorer.catalogue.ranker.prompt.max_history
        else:
            found |= {
                "base spirit": self.base.sha256,
                "recipe": self.recipe.sha256,
                **precision_facts(self.backbone),
            }
        if BY_NAME[row].kind != "baseline" or row == "backbone-similarity":
            found["backbone"] = self.backbone.fingerprint.sha256
        return found | ({"interactions": self.interactions} if table == COLD_ONLY else {})

    def made_alike(self, sheet: Mapping[str, Any]) -> bool:
        """Whether a cell was made with this target's data, adapters and settings."""
        facts = self.facts(sheet["table"], sheet["row"])
        facts.setdefault("precision", None)  # where it is that of the weights
        return all(sheet["identity"].get(name) == value for name, value in facts.items())

    def baseline(self, made: Baseline) -> dict[str, dict[str, Any]]:
        """Ranks of a fitted baseline by table, with what stands beside the models' scores too."""
        found: dict[str, dict[str, Any]] = {}
        for board in self.boards:
            both: dict[Scenario, Both] = {}
            for scenario, rows in board.scorer.test.items():
                scaled = InLogits(made, board.scorer.valid[scenario])
                both[scenario] = Both(_scored(scaled.scores(rows)), _scored(scaled.valid))
            found |= board.placed(both)
        return found


@dataclass(frozen=True)
class Board:
    """A scorer, and which of its columns belong to which table.

    Attributes:
        of: scenario -> its tables, whose candidates stand side by side in the scorer's rows.
        rows: the rows of each table.
    """

    scorer: KeptScorer
    of: Mapping[Scenario, Sequence[str]]
    rows: Mapping[str, pl.DataFrame]

    def placed(self, scores: Mapping[Scenario, Both]) -> dict[str, dict[str, Any]]:
        """Table -> ranks of each view, and the weights that validation rows choose for them.

        By `prior_weight` popularity's where it stands alone, by `weights_with_words` both.
        """
        found: dict[str, dict[str, Any]] = {}
        for scenario, both in scores.items():
            placing, known = self.scorer.placing, both.valid.scores
            prior, with_prior = placing.placed(scenario, both.test.scores, known)
            wordy = replace(placing, words=True)
            words, with_words = wordy.placed(scenario, both.test.scores, known)
            views = (both.test.scores, with_prior, with_words)
            said = {
                "prior_weight": prior.weights.prior,
                "weights_with_words": asdict(words.weights),
            }
            start = 0
            for table in self.of[scenario]:
                width = self.rows[table][CANDIDATES].list.len()[0]
                columns = slice(start, start + width)
                places = positive_columns(self.rows[table])
                found[table] = said | {
                    column: ranks([row[columns] for row in scored], places)
                    for column, scored in zip(VIEWS.values(), views, strict=True)
                }
                start += width
        return found


def joint(rows: Mapping[str, pl.DataFrame], names: Sequence[str]) -> pl.DataFrame:
    """One table's rows with the candidates of all of them side by side; repeats are no harm."""
    first = rows[names[0]]
    both = [rows[name][CANDIDATES] for name in names]
    lists = pl.select(pl.concat_list(both)).to_series() if len(both) > 1 else both[0]
    return first.with_columns(lists.alias(CANDIDATES))


def cell_of(
    target: Target, table: str, found: Mapping[str, Any], sheet: dict[str, Any]
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Ranks of every user, and the sheet with metrics and where they were made, of one cell."""
    users = {USER: target.rows[table][USER]}
    frame = pl.DataFrame({**users, **{name: found[name] for name in VIEWS.values()}})
    labelled = frame.with_columns(model=pl.lit("row"), scenario=pl.lit(table))
    more = {
        "metrics": cell_metrics(labelled, VIEWS)["row"][table],
        "users": frame.height,
        "candidates": target.rows[table][CANDIDATES].list.len()[0],
        **{name: found.get(name) for name in WEIGHTS},
        **target.made_with,
    }
    return frame, sheet | more
