"""One target of `few_shot.py`: whom every cell is judged on, and what models score there."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cells import SHEET_FILE, finished, precision_facts, write_cell
from few_shot_report import cell_metrics
from reccocktail.backbone import Backbone
from reccocktail.baselines.text_similarity import TextSimilarity
from reccocktail.data.domain import Domain
from reccocktail.evaluation.metrics import FloatArray, ranks
from reccocktail.evaluation.placing import InLogits
from reccocktail.evaluation.results import PREDICTIONS_FILE, prediction_rows
from reccocktail.ranking import build
from reccocktail.ranking.additions import Beside
from reccocktail.ranking.prior import popularity_prior
from reccocktail.ranking.scoring import Catalogue, ItemVectors, encode, positive_columns
from reccocktail.recipe import Recipe
from reccocktail.schema import USER, Scenario
from reccocktail.storage import atomic_file, read_json, sha256_json
from reccocktail.training.adapter import Adapter, Lora
from reccocktail.training.model import model_sha256, scoring
from study import judged_rows

FILES = {"test": PREDICTIONS_FILE, "valid": "validation.parquet"}

TF_IDF = "half-life by validation users, in logits"
"""How text similarity is read: part of every cell, for its ranks are."""

Cell = tuple[float, int | None]
"""Share of the training users and seed, which a share of none has not."""

Scores = dict[str, list[FloatArray]]
"""Table (such as `test_warm`) -> scores of each row's candidates, by text alone."""


@dataclass(frozen=True)
class Sizes:
    """How long is trained, and on how many users is looked at what."""

    epochs: float
    minutes: float | None
    steps: int | None
    users: int
    validation_users: int
    adaptation_users: int


class Target:
    """One target domain: the rows that every cell is judged on, and the models' scores on them."""

    def __init__(
        self,
        domain: Domain,
        base: Adapter,
        backbone: Backbone,
        recipe: Recipe,
        sizes: Sizes,
        any_precision: bool = False,
    ) -> None:
        """Draw the rows: the same in every cell, without the users that cocktails adapt to.

        `any_precision` takes finished cells of other precisions than the backbone's as they are.
        """
        self.domain, self.base, self.backbone = domain, base, backbone
        self.recipe, self.sizes, self.any_precision = recipe, sizes, any_precision
        ranker = build(backbone, recipe)
        self.catalogue = Catalogue.of(domain, ranker)
        self.scenarios, self.rows = judged_rows(
            domain, sizes.users, sizes.validation_users, sizes.adaptation_users
        )

    def is_finished(self, folder: Path, cell: Cell) -> bool:
        """Whether a cell was made before.

        Raises:
            RunError: `folder` holds one of other settings or data.
        """
        file = folder / SHEET_FILE
        precision = read_json(file)["precision"] if self.any_precision and file.exists() else None
        return finished(file, self.identity(cell, precision)) is not None

    def identity(self, cell: Cell, precision: str | None = None) -> str:
        """Hash of all that decides a cell that is made in `precision`, or the backbone's."""
        share, seed = cell
        which: tuple[object, ...] = (share, seed) if share else ("zero",)
        return sha256_json(
            [
                self.domain.sha256,
                self.base.sha256,
                self.backbone.fingerprint.sha256,
                self.recipe.sha256,
                asdict(self.sizes),
                *which,
                *precision_facts(self.backbone, precision).values(),
                TF_IDF,
            ]
        )

    def with_users(self, ranks: pl.DataFrame) -> pl.DataFrame:
        """Ranks that lack the users, who stand in the order of the test rows, with them."""
        parts = [
            part.insert_column(0, self.rows[f"test_{scenario}"][USER])
            for (_, scenario), part in ranks.group_by("model", "scenario", maintain_order=True)
        ]
        return pl.concat(parts)

    def scores(self, lora: Lora | None, scenarios: Sequence[Scenario], label: str) -> Scores:
        """Text scores of one model on the test and validation rows of the scenarios."""
        items = ItemVectors(self.catalogue, model_sha256(self.backbone, lora))
        names = [f"{part}_{s}" for s in scenarios for part in ("test", "valid")]
        tables = [self.rows[name] for name in names]
        with scoring(self.backbone, lora) as model:
            vectors = encode(model, items, self.catalogue, tables, label)
        return {
            name: found.scores(self.catalogue.ranker, self.catalogue.candidates(rows))
            for name, rows, found in zip(names, tables, vectors, strict=True)
        }

    def similarity(self) -> Scores:
        """TF-IDF's on all rows, in logits."""
        made = TextSimilarity().fit(self.domain)
        found: Scores = {}
        for scenario in self.scenarios:
            test, valid = f"test_{scenario}", f"valid_{scenario}"
            scaled = InLogits(made, self.rows[valid])
            found |= {test: scaled.scores(self.rows[test]), valid: scaled.valid}
        return found

    def placed(
        self, scores: Scores, counts: NDArray[np.int64], scenario: Scenario
    ) -> tuple[float, dict[str, Any]]:
        """Ranks on the test rows, by text alone and with the prior that validation rows choose.

        Returns:
            The prior's weight, and the columns of the ranks.
        """
        prior = popularity_prior(counts)
        test, valid = self.rows[f"test_{scenario}"], self.rows[f"valid_{scenario}"]
        beside_valid, beside_test = (
            Beside(self.catalogue.candidates(rows), prior) for rows in (valid, test)
        )
        known = scores[f"valid_{scenario}"]
        weights, _ = beside_valid.choose(known, positive_columns(valid))
        text, places = scores[f"test_{scenario}"], positive_columns(test)
        together = beside_test.add(text, weights)
        found = {"rank": ranks(text, places), "rank_with_prior": ranks(together, places)}
        return weights.prior, {USER: test[USER], **found}


def keep_cell(
    target: Target,
    out: Path,
    scores: dict[str, Scores],
    counts: NDArray[np.int64],
    sheet: dict[str, Any],
) -> None:
    """Write predictions by text alone, and then the cell with ranks and metrics.

    `counts` are the training interactions of each item that the prior may know.
    """
    placed = []
    weights: dict[str, dict[str, float]] = {}
    for name, tables in scores.items():
        for scenario in target.scenarios:
            if f"test_{scenario}" in tables:
                weight, found = target.placed(tables, counts, scenario)
                weights.setdefault(name, {})[scenario] = weight
                labels = {"model": pl.lit(name), "scenario": pl.lit(scenario)}
                placed.append(pl.DataFrame(found).with_columns(**labels))
    out.mkdir(parents=True, exist_ok=True)
    for part, file in FILES.items():
        frame = pl.concat(
            prediction_rows(
                name, scenario, target.rows[f"{part}_{scenario}"], tables[f"{part}_{scenario}"]
            )
            for name, tables in scores.items()
            for scenario in target.scenarios
            if f"{part}_{scenario}" in tables
        )
        with atomic_file(out / file) as temporary:
            frame.write_parquet(temporary)
    ranked = pl.concat(placed)
    more = {
        "precision": target.backbone.precision,
        "prior_weight": weights,
        "models": cell_metrics(ranked),
    }
    write_cell(out, ranked, sheet | more)


def read_scores(folder: Path, model: str) -> Scores:
    """The scores of one model that `write_cell` kept."""
    found: Scores = {}
    for part, file in FILES.items():
        kept = pl.read_parquet(folder / file).filter(pl.col("model") == model)
        for (scenario,), rows in kept.group_by("scenario", maintain_order=True):
            found[f"{part}_{scenario}"] = [row.to_numpy() for row in rows["scores"]]
    return found
