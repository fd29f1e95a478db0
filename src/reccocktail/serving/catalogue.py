"""A domain's catalogue as one model reads it: item vectors, and what is weighed beside them.

Whoever recommends from a whole catalogue has it from here; vectors and weights are kept on disk.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reccocktail.data.domain import Domain
from reccocktail.errors import RunError
from reccocktail.prompting.encoding import TokenIds
from reccocktail.ranking.additions import (
    COLLABORATIVE_WEIGHTS,
    WEIGHING_USERS,
    WORDS_WEIGHTS,
    Weights,
    weighing_rows,
)
from reccocktail.ranking.base import Model, Ranker
from reccocktail.ranking.collaborative import WAY
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.newcomers import Levelling, Levels
from reccocktail.ranking.prior import WEIGHTS, popularity_prior
from reccocktail.ranking.scoring import Catalogue, ItemVectors, encode, positive_columns, score
from reccocktail.ranking.space import ItemSpace
from reccocktail.storage import cache_dir, read_json, sha256_json, write_json


@dataclass(frozen=True)
class EncodedCatalogue:
    """What ranking a whole catalogue takes.

    A score is `vectors @ user / temperature + prior`.

    Attributes:
        tokens: title tokens of every item.
        vectors: (items, d + w): unit vectors of the model, and behind them those of other spaces;
            those of new items are brought to the level of known ones (`ranking.newcomers`).
        prior: (items,) weighted popularity prior; for items without interactions the shift of their
            level.
        behind: makes what is behind.
    """

    tokens: list[TokenIds]
    vectors: NDArray[np.float32]
    prior: NDArray[np.float64]
    behind: "Behind"


class Part(NamedTuple):
    """A space beside a model's, and the length that its weight gives to unit vectors."""

    space: ItemSpace
    length: float


@dataclass(frozen=True)
class Behind:
    """Other spaces as numbers behind a model's vectors, so that one product weighs them all.

    Users and items carry the root of each weight, so that items that are near one another are near
    for a graph of items too.

    Attributes:
        parts: in their order; without those that do not count.
        max_history: items of a history that are read, the last ones.
        levelling: of new items.
    """

    parts: tuple[Part, ...]
    max_history: int
    levelling: Levelling

    def items(self, vectors: NDArray[np.float32], titles: Sequence[str]) -> NDArray[np.float32]:
        """A model's vectors (items, d) of new titles with the parts behind, (items, d + w)."""
        behind = with_parts(vectors, self.parts, [part.space.new(titles) for part in self.parts])
        return self.levelling.raised(behind)

    def learn(self) -> None:
        """Learn what vectors of new titles take, so that the first of them need not wait."""
        for part in self.parts:
            part.space.learn()

    def users(
        self,
        vectors: NDArray[np.float32],
        histories: Sequence[Sequence[int]],
        items: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """A model's vectors (users, d) of histories with the parts behind, (users, d + w).

        Args:
            vectors: of the model.
            histories: item numbers, oldest first.
            items: (items, d + w) vectors of the catalogue.
        """
        recent = [history[-self.max_history :] for history in histories]
        if not self.parts:
            return vectors
        read = np.unique([item for history in recent for item in history]).astype(np.int64)
        place = {item: row for row, item in enumerate(read.tolist())}
        rows = self.levelling.former(items[read], read)
        renumbered = [[place[item] for item in history] for history in recent]
        start = vectors.shape[1]
        found = []
        for part in self.parts:
            end = start + part.space.width
            found.append(part.space.histories(rows[:, start:end], renumbered))
            start = end
        return with_parts(vectors, self.parts, found)


def with_parts(
    vectors: NDArray[np.float32], parts: Sequence[Part], others: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Vectors (n, d) with those of parts (n, w of each) behind in their lengths."""
    scaled = [np.float32(p.length) * o for p, o in zip(parts, others, strict=True)]
    return np.concatenate([vectors, *scaled], axis=1) if scaled else vectors


def encode_catalogue(
    model: Model,
    domain: Domain,
    ranker: DenseRanker,
    identity: str,
    new_titles: Sequence[str] = (),
    tick: Callable[[int], object] | None = None,
) -> EncodedCatalogue:
    """Compute what no cache holds.

    Args:
        model: adapted or bare backbone.
        domain: prepared domain.
        ranker: reads titles as the model learned to.
        identity: `model_sha256` of the model.
        new_titles: titles of items behind the catalogue that nobody has touched yet; their vectors
            are not kept.
        tick: told of every n items of the catalogue encoded; None shows a progress bar.
    """
    device = next(model.parameters()).device
    catalogue = Catalogue.of(domain, ranker)
    items = ItemVectors(catalogue, identity)
    if tick is None:
        encode(model, items, catalogue, [], "Reading the catalogue", whole_catalogue=True)
    else:
        items.add(model, items.missing(range(len(catalogue.tokens))), device, tick)
    weights, levels = weigh(model, catalogue, identity, level=True)
    tokens, vectors = catalogue.tokens, items.all().numpy()
    if new_titles:
        new = ranker.titles(new_titles)
        tokens = [*tokens, *new]
        vectors = np.concatenate([vectors, ranker.item_vectors(model, new, device).numpy()])
    parts = tuple(
        Part(space.extended(new_titles), math.sqrt(weight * ranker.temperature))
        for weight, space in catalogue.spaces.weighed(weights)
    )
    vectors = with_parts(vectors, parts, [part.space.items for part in parts])
    known = np.concatenate([~domain.untouched(), np.zeros(len(new_titles), dtype=np.bool_)])
    levelling = Levelling.of(levels, vectors, known)
    vectors[~known] = levelling.raised(vectors[~known])
    prior = weights.prior * prior_with_new(domain, len(new_titles))
    prior[~known] += levelling.levels.shift
    behind = Behind(parts, ranker.prompt.max_history, levelling)
    return EncodedCatalogue(tokens, vectors, prior, behind)


def weigh(
    model: Model, catalogue: Catalogue[Ranker], identity: str, level: bool
) -> tuple[Weights, Levels]:
    """Weights of what stands beside a model by `weighing_rows`, remembered in the cache.

    Args:
        model: adapted or bare backbone.
        catalogue: the domain, for the ranker.
        identity: `model_sha256` of the model.
        level: bring new items to the level of known ones.

    Returns:
        The weights, and what brings new items to that level in them.
    """
    domain = catalogue.domain
    rows = weighing_rows(domain)
    if not rows.height:
        return Weights(), Levels()
    grids = [WEIGHTS, WORDS_WEIGHTS, COLLABORATIVE_WEIGHTS, WAY, WEIGHING_USERS]
    ranker = catalogue.ranker
    scores = [
        ranker.template_sha256, ranker.readout_sha256, ranker.prompt.model_dump(), ranker.settings
    ]  # fmt: skip
    which = "prior, words and collaborative of both scenarios"
    key = sha256_json([identity, domain.sha256, which, scores, grids, level])
    file = cache_dir() / "priors" / f"{key}.json"
    if file.exists():
        with suppress(RunError, KeyError, TypeError):  # what is damaged is made again
            found = read_json(file)
            return Weights(**found["weights"]), Levels(**found["levels"])
    (scored,) = score(
        model, catalogue, [rows], "Weighing what stands beside the model", model_sha256=identity,
        entropy=False,
    )  # fmt: skip
    beside = catalogue.spaces.beside(rows, level=level)
    weights, levels = beside.choose(scored.scores, positive_columns(rows))
    found = {"weights": asdict(weights), "levels": asdict(levels), "users": rows.height}
    write_json(file, found)
    return weights, levels


def prior_with_new(domain: Domain, new: int) -> NDArray[np.float64]:
    """Popularity prior (items + new,) of the catalogue and of new items behind it."""
    return popularity_prior(np.concatenate([domain.train_counts(), np.zeros(new, dtype=np.int64)]))
