"""Score the rows of a prepared table, or a whole catalogue, with any model and any ranker.

`score` is the one way from tables to scores. Behind it, the `dense` ranker encodes users and items
once and keeps item vectors; the others read prompts, batch by batch.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from reccocktail.data.domain import Domain
from reccocktail.progress import bar
from reccocktail.prompting.encoding import TokenIds, length_batches
from reccocktail.ranking import kept
from reccocktail.ranking.additions import Spaces
from reccocktail.ranking.base import Model, Ranker, entropy_of, pass_tokens
from reccocktail.ranking.dense import DenseRanker
from reccocktail.schema import CANDIDATES, HISTORY, TARGET

AnyRanker = TypeVar("AnyRanker", bound=Ranker, covariant=True)
RowScores = Callable[[slice], NDArray[np.float64]]
"""Scores (rows, items) of the whole catalogue for some rows of a table: of all of them at once they
would fill the memory of most machines."""


@dataclass(frozen=True)
class Catalogue(Generic[AnyRanker]):
    """A domain whose titles are tokenised for one ranker."""

    domain: Domain
    ranker: AnyRanker
    tokens: list[TokenIds]

    @classmethod
    def of(cls, domain: Domain, ranker: AnyRanker) -> "Catalogue[AnyRanker]":  # type: ignore[misc]
        """Tokenise every title once."""
        return cls(domain, ranker, ranker.titles(domain.titles))

    @cached_property
    def spaces(self) -> Spaces:
        """What can stand beside a model's scores."""
        return Spaces(self.domain, self.ranker.prompt.max_history)

    @cached_property
    def twins(self) -> NDArray[np.int64]:
        """The first item (items,) whose title is the same in tokens; most are their own."""
        first: dict[tuple[int, ...], int] = {}
        found = [first.setdefault(tuple(ids), item) for item, ids in enumerate(self.tokens)]
        return np.array(found, dtype=np.int64)

    def histories(self, rows: pl.DataFrame) -> list[list[TokenIds]]:
        """Title tokens of each row's history."""
        return [[self.tokens[item] for item in row] for row in self.history_items(rows)]

    def history_items(self, rows: pl.DataFrame) -> list[list[int]]:
        """Item numbers of each row's history."""
        return self.domain.numbers(rows, HISTORY)

    def candidates(self, rows: pl.DataFrame) -> list[list[int]]:
        """Item numbers of each row's candidates."""
        return self.domain.numbers(rows, CANDIDATES)


@dataclass(frozen=True)
class Vectors:
    """User and item vectors of one model for one table; all scores follow from them.

    Attributes:
        users: (rows, d) unit vectors.
        items: the model's item vectors.
    """

    users: Tensor
    items: "ItemVectors"

    def scores(
        self, ranker: DenseRanker, candidates: Sequence[Sequence[int]]
    ) -> list[NDArray[np.float64]]:
        """Scores of each row's candidates (item numbers), in their order.

        Items of one title tie: a product's last digits depend on its place.
        """
        found, twins = [], self.items.twins
        for user, row in zip(self.users, candidates, strict=True):
            scores = ranker.logits(user[None], self.items.of(row)).double().numpy()[0]
            _, first, back = np.unique(twins[list(row)], return_index=True, return_inverse=True)
            found.append(scores[first][back] if len(first) < len(row) else scores)
        return found


class ItemVectors:
    """One model's vectors of a catalogue's items, each computed once, kept on disk if asked."""

    def __init__(self, catalogue: Catalogue[DenseRanker], model_sha256: str | None = None) -> None:
        """Start empty, or with what the cache holds.

        Args:
            catalogue: the items.
            model_sha256: hash of backbone and update; None keeps the vectors in memory only.
        """
        self._catalogue = catalogue
        self._column: dict[int, int] = {}
        self._vectors: Tensor | None = None
        self._in_order = False  # all are there, each at its own number
        self._file: Path | None = None
        if model_sha256 is not None:
            ranker = catalogue.ranker
            reading = [ranker.dense.depth, ranker.dense.pooling, ranker.readout_sha256]
            prompt = [ranker.template.sha256, catalogue.tokens, reading]
            self._file = kept.place([model_sha256, prompt])
            if stored := kept.read(self._file):
                self._vectors = stored["vectors"]
                self._column = {item: row for row, item in enumerate(stored["items"].tolist())}

    @property
    def twins(self) -> NDArray[np.int64]:
        """See `Catalogue.twins`."""
        return self._catalogue.twins

    def missing(self, items: Iterable[int]) -> list[int]:
        """The items that have no vector yet, in ascending order, each once."""
        return sorted(set(items).difference(self._column))

    def add(
        self,
        model: Model,
        items: Sequence[int],
        device: torch.device,
        tick: Callable[[int], object],
    ) -> None:
        """Compute the vectors of items that are missing."""
        if not items:
            return
        titles = [self._catalogue.tokens[item] for item in items]
        found = self._catalogue.ranker.item_vectors(model, titles, device, tick)
        for item in items:
            self._column[item] = len(self._column)
        self._vectors = found if self._vectors is None else torch.cat([self._vectors, found])
        if self._file is not None:
            items_of_rows = torch.tensor(list(self._column))
            kept.write(self._file, {"vectors": self._vectors, "items": items_of_rows})

    def of(self, items: Sequence[int]) -> Tensor:
        """Vectors (items, d) of items that have one."""
        assert self._vectors is not None
        return self._vectors[torch.tensor([self._column[item] for item in items])]

    def all(self) -> Tensor:
        """Vectors (catalogue, d) in catalogue order; kept in it, so that there is one copy."""
        if not self._in_order:
            everything = range(len(self._catalogue.tokens))
            self._vectors = self.of(everything)
            self._column = {item: item for item in everything}
            self._in_order = True
        assert self._vectors is not None
        return self._vectors


def encode(
    model: Model,
    items: ItemVectors,
    catalogue: Catalogue[DenseRanker],
    tables: Sequence[pl.DataFrame],
    label: str,
    *,
    whole_catalogue: bool = False,
) -> list[Vectors]:
    """Encode the users of several tables, and the items that they need, behind one progress bar.

    Args:
        model: bare, adapted or merged backbone.
        items: the model's item vectors so far; gains the ones that are missing.
        catalogue: the tables' domain.
        tables: evaluation tables.
        label: text of the bar.
        whole_catalogue: encode every item, not only the candidates.
    """
    device = next(model.parameters()).device
    every: Iterable[int] = range(len(catalogue.tokens))
    candidates = (item for table in tables for row in catalogue.candidates(table) for item in row)
    needed = items.missing(every if whole_catalogue else candidates)
    with bar(label, len(needed) + sum(table.height for table in tables)) as advance:
        items.add(model, needed, device, advance)
        ranker = catalogue.ranker
        return [
            Vectors(ranker.user_vectors(model, catalogue.histories(table), device, advance), items)
            for table in tables
        ]


@dataclass(frozen=True)
class Scored:
    """What one model says of one table.

    Attributes:
        scores: each row's scores of its candidates, in their order, in units of logits.
        entropy: (rows,) the ranker's entropy of each row, nats.
        common: makes (rows, n) logits over answers that are the same for all rows: the candidates
            of all rows where the ranker has a vector for each, else the places of the candidates.
        catalogue: makes scores of the whole catalogue; None where it was not asked for or the
            ranker cannot.
    """

    scores: list[NDArray[np.float64]]
    entropy: Tensor
    common: Callable[[], Tensor]
    catalogue: RowScores | None = None


def score(
    model: Model,
    catalogue: Catalogue[Ranker],
    tables: Sequence[pl.DataFrame],
    label: str,
    *,
    model_sha256: str | None = None,
    whole_catalogue: bool = False,
    entropy: bool = True,
) -> list[Scored]:
    """Score the candidates of every row, with any ranker, behind one progress bar.

    Args:
        model: bare, adapted or merged backbone.
        catalogue: the tables' domain, for the ranker.
        tables: evaluation tables.
        label: text of the bar.
        model_sha256: identity of the model, under which vectors are kept on disk; None keeps none.
        whole_catalogue: score every item too, where the ranker can.
        entropy: False leaves `Scored.entropy` NaN where it would cost further passes.
    """
    ranker = catalogue.ranker
    if isinstance(ranker, DenseRanker):
        dense = Catalogue(catalogue.domain, ranker, catalogue.tokens)
        items = ItemVectors(dense, model_sha256)
        encoded = encode(model, items, dense, tables, label, whole_catalogue=whole_catalogue)
        return [
            _from_vectors(vectors, dense, rows, whole_catalogue)
            for vectors, rows in zip(encoded, tables, strict=True)
        ]
    with bar(label, sum(table.height for table in tables)) as advance:
        return [_from_prompts(model, catalogue, rows, entropy, advance) for rows in tables]


def _from_vectors(
    vectors: Vectors, catalogue: Catalogue[DenseRanker], rows: pl.DataFrame, whole: bool
) -> Scored:
    ranker, candidates = catalogue.ranker, catalogue.candidates(rows)
    scores = vectors.scores(ranker, candidates)
    shared = sorted({item for row in candidates for item in row})

    def common() -> Tensor:
        if not shared:
            return torch.empty(0, 0)
        return ranker.logits(vectors.users, vectors.items.of(shared))

    def of_rows(part: slice) -> NDArray[np.float64]:
        every = vectors.items.all()
        found: NDArray[np.float64] = ranker.logits(vectors.users[part], every).double().numpy()
        return found if distinct else found[:, twins]

    twins = catalogue.twins
    distinct = bool((twins == np.arange(len(twins))).all())
    return Scored(
        scores,
        entropy_of(torch.from_numpy(np.stack(scores))) if scores else torch.empty(0),
        common,
        of_rows if whole else None,
    )


@torch.no_grad()
def _from_prompts(
    model: Model,
    catalogue: Catalogue[Ranker],
    rows: pl.DataFrame,
    with_entropy: bool,
    advance: Callable[[int], object],
) -> Scored:
    ranker, tokens = catalogue.ranker, catalogue.tokens
    device = next(model.parameters()).device
    histories, candidates = catalogue.histories(rows), catalogue.candidates(rows)
    lengths = [
        sum(len(title) for title in history) + sum(len(tokens[item]) for item in row)
        for history, row in zip(histories, candidates, strict=True)
    ]
    scores: list[NDArray[np.float64]] = [np.empty(0)] * len(candidates)
    entropies = torch.full((len(candidates),), float("nan"))
    for numbers in length_batches(lengths, pass_tokens(model)):
        batch = ranker.ranking_batch(
            [histories[row] for row in numbers], [candidates[row] for row in numbers], tokens
        )
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        if with_entropy:
            found, nats = ranker.scores_and_entropy(model, batch)
            entropies[torch.tensor(numbers)] = nats.float().cpu()
        else:
            found = ranker.scores(model, batch)
        for row, values in zip(numbers, found.cpu().double().numpy(), strict=True):
            scores[row] = values[: len(candidates[row])]
        advance(len(numbers))
    places = min((len(row) for row in scores), default=0)
    common = np.stack([row[:places] for row in scores]) if scores else np.empty((0, 0))
    return Scored(scores, entropies, lambda: torch.from_numpy(common))


def positive_columns(rows: pl.DataFrame) -> NDArray[np.int64]:
    """Place of the target among each row's candidates, (rows,)."""
    pairs = zip(rows[TARGET].to_list(), rows[CANDIDATES].to_list(), strict=True)
    return np.array([candidates.index(target) for target, candidates in pairs], dtype=np.int64)
