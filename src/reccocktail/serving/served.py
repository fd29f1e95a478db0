"""A domain as it is served: its catalogue, an adapter's vectors of it, and what was added since.

A `Served` never changes. What changes a domain makes another one, which takes its place at once;
requests that began with the old one finish with it.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reccocktail.backbone import Backbone
from reccocktail.data.categories import divided, split
from reccocktail.data.domain import Domain
from reccocktail.errors import AdapterError, RunError
from reccocktail.mixing.sheet import load_sheet
from reccocktail.prompting.encoding import TokenIds
from reccocktail.ranking.dense import DenseRanker
from reccocktail.schema import CATEGORIES, ITEM, TITLE
from reccocktail.serving.catalogue import Behind, encode_catalogue
from reccocktail.serving.index import EXACT_ITEMS
from reccocktail.serving.logs import warn
from reccocktail.serving.lookup import TitleLookup
from reccocktail.serving.neighbours import Neighbours
from reccocktail.serving.weights import Models
from reccocktail.training.adapter import Adapter, Lora
from reccocktail.training.model import check_compatible, model_sha256, ranker_of

ADDED_SCHEMA = {ITEM: pl.String(), TITLE: pl.String(), CATEGORIES: pl.String()}
_serials = itertools.count(1)


class Rows:
    """Vectors that are only ever added to; views of the rows so far stay as they are."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        """Take vectors (items, d)."""
        self._buffer, self._used = vectors, len(vectors)

    def view(self) -> NDArray[np.float32]:
        """All rows so far (items, d)."""
        return self._buffer[: self._used]

    def extend(self, more: NDArray[np.float32], at: int) -> None:
        """Write rows from number `at` on, behind all rows that are in use.

        Room is doubled when it runs out. Rows that stood there belong to items that were given up.
        """
        needed = at + len(more)
        if needed > len(self._buffer):
            larger = np.empty((max(needed, 2 * at), more.shape[1]), dtype=np.float32)
            larger[:at] = self._buffer[:at]
            self._buffer = larger
        self._buffer[at:needed] = more
        self._used = needed


@dataclass(frozen=True, eq=False)
class Served:
    """One domain with one adapter, ready to rank.

    Attributes:
        name: what requests call it.
        domain: the prepared folder.
        adapter: its weights and card.
        adapter_folder: where it lies.
        ranker: reads titles as the adapter learned to.
        update_sha256: hash of the adapter's update: the name of its model.
        serial: new with every adapter or folder, the same after items were added: what cached user
            vectors are kept under.
        tokens: title tokens of every item.
        ids: of every item, the added ones last.
        titles: the same.
        index: item id -> number.
        lookup: finds titles.
        rows: item vectors, shared with the states before and after.
        prior: (items,) weighted popularity prior, and the level of new items.
        behind: what stands behind the model's vectors.
        new: (items,) whether nobody touched the item in training.
        cells: (items,) the categories of each item in one string, for `data.categories.split`.
        categories: category in lower case -> item numbers.
        added: items added at run time (`ADDED_SCHEMA`).
        cocktail: `cocktail.json`, if the adapter is one.
        neighbours: graph of the items, shared as `rows` are; None where all items are looked at.
    """

    name: str
    domain: Domain
    adapter: Adapter
    adapter_folder: Path
    ranker: DenseRanker
    update_sha256: str
    serial: int
    tokens: list[TokenIds]
    ids: list[str]
    titles: list[str]
    index: dict[str, int]
    lookup: TitleLookup
    rows: Rows
    vectors: NDArray[np.float32]
    prior: NDArray[np.float32]
    behind: Behind
    new: NDArray[np.bool_]
    cells: list[str | None]
    categories: dict[str, NDArray[np.int64]]
    added: pl.DataFrame
    cocktail: dict[str, Any] | None = field(default=None)
    neighbours: Neighbours | None = field(default=None)

    @property
    def lora(self) -> Lora:
        """The update."""
        return self.adapter.lora

    def with_items(self, items: pl.DataFrame, models: Models) -> "Served":
        """The same with more items, encoded now. Only one caller at a time.

        Args:
            items: `ADDED_SCHEMA`, ids that are not in the catalogue, clean titles.
            models: where the adapter's model is had from.
        """
        if not items.height:
            return self
        titles = items[TITLE].to_list()
        tokens = self.ranker.titles(titles)
        model = models.of(self.update_sha256, self.lora)
        device = next(model.parameters()).device
        first = len(self.ids)
        vectors = self.ranker.item_vectors(model, tokens, device).numpy()
        vectors = self.behind.items(vectors, titles)
        prior = np.full(len(titles), self.behind.levelling.levels.shift, dtype=np.float32)
        self.rows.extend(vectors, first)
        if self.neighbours is not None:
            self.neighbours.extend(vectors, prior, first)
        ids = [*self.ids, *items[ITEM].to_list()]
        every = [*self.titles, *titles]
        numbers = range(first, len(ids))
        categories = dict(self.categories)
        cells = _cells(items)
        for category, more in _by_category(cells, first).items():
            categories[category] = np.concatenate([categories.get(category, more[:0]), more])
        return replace(
            self,
            tokens=[*self.tokens, *tokens],
            ids=ids,
            titles=every,
            index=self.index | {ids[number]: number for number in numbers},
            lookup=self.lookup.extended(ids, every),
            vectors=self.rows.view(),
            prior=np.concatenate([self.prior, prior]),
            new=np.concatenate([self.new, np.ones(len(titles), dtype=np.bool_)]),
            cells=[*self.cells, *cells],
            categories=categories,
            added=pl.concat([self.added, items]),
        )

    def with_neighbours(self) -> "Served":
        """The same with a graph of its items, if they are more than are looked at for each request.

        Where `usearch` is not installed, all items are looked at all the same.
        """
        if len(self.ids) <= EXACT_ITEMS:
            return self
        try:
            graph = Neighbours(self.vectors, self.prior, self.ranker.temperature)
        except RunError as error:
            what = f"{self.name}: every item is looked at. {error}"
            warn(what, domain=self.name, items=len(self.ids))
            return self
        return replace(self, neighbours=graph)


def build(
    name: str,
    folder: Path,
    adapter_folder: Path,
    backbone: Backbone,
    models: Models,
    added: pl.DataFrame | None = None,
) -> Served:
    """Load a prepared folder and an adapter, and encode what no cache holds.

    Args:
        name: what requests call the domain.
        folder: prepared folder.
        adapter_folder: adapter of the `dense` ranker on `backbone`.
        backbone: the language model.
        models: of the service.
        added: items added at run time, which come last; those whose ids the folder holds by now
            give way to it.

    Raises:
        DataError, AdapterError: the folders are damaged or do not fit the backbone.
    """
    domain = Domain.load(folder)
    adapter = Adapter.load(adapter_folder)
    sheet = load_sheet(adapter_folder)
    served = encoded(name, domain, adapter, adapter_folder, backbone, models)
    served = replace(served, cocktail=sheet)
    if added is not None:
        served = served.with_items(added.filter(~pl.col(ITEM).is_in(domain.item_ids)), models)
    return served.with_neighbours()


def encoded(
    name: str,
    domain: Domain,
    adapter: Adapter,
    adapter_folder: Path,
    backbone: Backbone,
    models: Models,
    tick: Callable[[int], object] = int,
) -> Served:
    """A domain as an adapter in memory reads it; `tick` is told of every n items encoded.

    Raises:
        AdapterError: the adapter does not fit the backbone or cannot rank a catalogue.
    """
    check_compatible([adapter], backbone)
    ranker = ranker_of(adapter.card, backbone)
    if not isinstance(ranker, DenseRanker):
        raise AdapterError(
            f"'{adapter.name}' was trained for ranker {adapter.card.recipe.ranker}, which cannot "
            "rank a whole catalogue at once; serve an adapter of ranker dense."
        )
    update = adapter.sha256
    model = models.of(update, adapter.lora)
    identity = model_sha256(backbone, adapter.lora)
    catalogue = encode_catalogue(model, domain, ranker, identity, tick=tick)
    catalogue.behind.learn()
    rows = Rows(catalogue.vectors)
    cells = divided(_cells(domain.items))
    return Served(
        name=name,
        domain=domain,
        adapter=adapter,
        adapter_folder=adapter_folder,
        ranker=ranker,
        update_sha256=update,
        serial=next(_serials),
        tokens=catalogue.tokens,
        ids=domain.item_ids,
        titles=domain.titles,
        index=domain.index,
        lookup=TitleLookup(name, domain.item_ids, domain.titles),
        rows=rows,
        vectors=rows.view(),
        prior=catalogue.prior.astype(np.float32),
        behind=catalogue.behind,
        new=domain.untouched(),
        cells=cells,
        categories=_by_category(cells, 0),
        added=pl.DataFrame(schema=ADDED_SCHEMA),
    )


def _cells(items: pl.DataFrame) -> list[str | None]:
    return items[CATEGORIES].to_list() if CATEGORIES in items.columns else [None] * items.height


def _by_category(cells: Sequence[str | None], first: int) -> dict[str, NDArray[np.int64]]:
    """Item numbers, from `first`, of each category; a cell may hold several (``Action|Comedy``)."""
    found: dict[str, list[int]] = {}
    for number, cell in enumerate(cells, first):
        for category in split(cell):
            found.setdefault(category.casefold(), []).append(number)
    return {category: np.array(numbers, dtype=np.int64) for category, numbers in found.items()}


def describe(state: Served) -> Mapping[str, Any]:
    """What can be told of a domain."""
    return {
        "name": state.name,
        "items": len(state.ids),
        "added_items": state.added.height,
        "new_items": int(state.new.sum()),
        "categories": len(state.categories),
        "adapter": state.adapter.name,
        "role": state.adapter.card.role,
        "trained_on": [data.name for data in state.adapter.card.data],
        "max_history": state.ranker.prompt.max_history,
    }
