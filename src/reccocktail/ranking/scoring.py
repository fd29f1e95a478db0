"""Score the rows of a prepared table, or a whole catalogue, with any model and a ranker."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from reccocktail.data.domain import Domain
from reccocktail.progress import bar
from reccocktail.prompting.encoding import TokenIds
from reccocktail.ranking.base import Model
from reccocktail.ranking.dense import DenseRanker
from reccocktail.schema import CANDIDATES, HISTORY, TARGET


@dataclass(frozen=True)
class Catalogue:
    """A domain whose titles are tokenised for one ranker."""

    domain: Domain
    ranker: DenseRanker
    tokens: list[TokenIds]

    @classmethod
    def of(cls, domain: Domain, ranker: DenseRanker) -> "Catalogue":
        """Tokenise every title once."""
        return cls(domain, ranker, ranker.encoder.titles(domain.titles))

    def histories(self, rows: pl.DataFrame) -> list[list[TokenIds]]:
        """Title tokens of each row's history."""
        index, tokens = self.domain.index, self.tokens
        return [[tokens[index[item]] for item in history] for history in rows[HISTORY].to_list()]

    def candidates(self, rows: pl.DataFrame) -> list[list[int]]:
        """Item numbers of each row's candidates."""
        index = self.domain.index
        return [[index[item] for item in row] for row in rows[CANDIDATES].to_list()]


@dataclass(frozen=True)
class Vectors:
    """User and item vectors of one model for one table; all scores follow from them.

    Attributes:
        users: (rows, d) unit vectors.
        items: (distinct items, d) unit vectors.
        column: item number -> row of `items`.
    """

    users: Tensor
    items: Tensor
    column: dict[int, int]

    def scores(self, ranker: DenseRanker, candidates: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
        """Scores of each row's candidates, in their order."""
        found = []
        for user, row in zip(self.users, candidates, strict=True):
            columns = torch.tensor([self.column[item] for item in row])
            found.append(ranker.logits(user[None], self.items[columns]).double().numpy()[0])
        return found


def encode(
    model: Model,
    catalogue: Catalogue,
    tables: Sequence[pl.DataFrame],
    device: torch.device,
    label: str,
    *,
    whole_catalogue: bool = False,
) -> list[Vectors]:
    """Encode the users of several tables, and once all items that they need, behind one progress bar.

    Args:
        model: bare, adapted or merged backbone.
        catalogue: the tables' domain.
        tables: evaluation tables.
        device: where the model is.
        label: text of the bar.
        whole_catalogue: encode every item, not only the candidates.
    """
    if whole_catalogue:
        needed = list(range(len(catalogue.tokens)))
    else:
        needed = sorted({item for table in tables for row in catalogue.candidates(table) for item in row})
    with bar(label, len(needed) + sum(table.height for table in tables)) as advance:
        titles = [catalogue.tokens[item] for item in needed]
        items = catalogue.ranker.item_vectors(model, titles, device, advance)
        column = {item: row for row, item in enumerate(needed)}
        return [
            Vectors(
                catalogue.ranker.user_vectors(model, catalogue.histories(table), device, advance), items, column
            )
            for table in tables
        ]


def positive_columns(rows: pl.DataFrame) -> NDArray[np.int64]:
    """Place of the target among each row's candidates, (rows,)."""
    pairs = zip(rows[TARGET].to_list(), rows[CANDIDATES].to_list(), strict=True)
    return np.array([candidates.index(target) for target, candidates in pairs], dtype=np.int64)
