"""The rows of `paper_table.py`: what each is, and in which order they are made."""

from collections.abc import Mapping
from dataclasses import dataclass

BASE, INGREDIENT = "base_spirit", "ingredient"


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: on the command line and in files.
        kind: `baseline`, `single` (one of the two adapters), `model`, or `oracle`.
        says: what it is, for the reader of the table.
        seeded: differs between seeds; the others are made once and count for every seed.
        optional: left out, and said so, where a package or a model is missing.
    """

    name: str
    kind: str
    says: str
    seeded: bool = False
    optional: bool = False


ROWS: tuple[Row, ...] = (
    Row("popularity", "baseline", "counts of training interactions"),
    Row("item-knn", "baseline", "neighbours of the history's items, tuned", optional=True),
    Row("bpr", "baseline", "matrix factorisation, tuned", seeded=True, optional=True),
    Row("sasrec", "baseline", "full cross-entropy, tuned", seeded=True),
    Row("gru4rec", "baseline", "full cross-entropy, tuned", seeded=True),
    Row("text-similarity", "baseline", "TF-IDF of titles"),
    Row("sentence-encoder", "baseline", "titles by a sentence encoder", optional=True),
    Row("backbone-similarity", "baseline", "titles by the backbone's embeddings"),
    Row("backbone", "model", "no adapter"),
    Row(BASE, "single", "the paper's G"),
    Row(INGREDIENT, "single", "the paper's S", seeded=True),
    Row("average", "model", "the paper's WA: both updates at one half", seeded=True),
    Row("validation", "model", "coefficients by labelled validation users", True, optional=True),
    Row("cocktail", "model", "the default: `delta`, one pair, by entropy", seeded=True),
    Row(
        "cocktail_calibrated",
        "model",
        "`delta`, one pair, by entropy at the temperature that fits labelled validation users",
        seeded=True,
        optional=True,
    ),
    Row(
        "diluted",
        "model",
        "`delta`, one pair, also times .75 and .5, by labelled validation users",
        seeded=True,
        optional=True,
    ),
    Row("cocktail_factor", "model", "Eq. 7, one pair, by entropy", seeded=True),
    Row("cocktail_layer", "model", "`delta`, one pair for each layer, by entropy", seeded=True),
    Row("second_round", "model", "the base spirit trained on the target", seeded=True),
    Row("woven", "model", "base spirit and what was trained beside it, both whole", seeded=True),
    Row("joint", "model", "one adapter on the same examples of sources and target", seeded=True),
    Row("soup", "model", "the ingredients of two seeds, one half each", seeded=True),
    Row("second_soup", "model", "the second rounds of two seeds, one half each", seeded=True),
    Row("random", "model", "noise for the base spirit, cocktail's coefficients", seeded=True),
    Row("random_average", "model", "noise for the base spirit, one half", seeded=True),
    Row("ensemble", "model", "scores of both adapters averaged: double cost", seeded=True),
    Row("linear", "model", "PEFT's `linear`, one half", seeded=True),
    Row("ties", "model", "TIES, one half", seeded=True),
    Row("dare", "model", "DARE, one half", seeded=True),
    Row("oracle", "oracle", "coefficients by TEST LABELS; out of the ranking", seeded=True),
)
BY_NAME: Mapping[str, Row] = {row.name: row for row in ROWS}
WORK = (
    *("popularity", "text-similarity", "backbone", BASE, INGREDIENT, "average", "cocktail"),
    *("validation", "cocktail_calibrated", "item-knn", "bpr", "backbone-similarity"),
    *("random_average", "random", "second_round", "woven", "ensemble", "diluted"),
    *("cocktail_factor", "linear", "ties", "dare", "oracle"),
    *("sasrec", "gru4rec", "sentence-encoder", "cocktail_layer", "joint"),
    *("soup", "second_soup"),
)
"""Rows in the order in which they are made: what says most for its cost first."""
assert sorted(WORK) == sorted(BY_NAME)
