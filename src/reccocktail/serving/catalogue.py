"""A domain's catalogue as one model reads it: item vectors, weighed words, weighed popularity.

Whoever recommends from a whole catalogue has it from here; vectors and weights are kept on disk.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reccocktail.data.domain import Domain, sample_rows
from reccocktail.prompting.encoding import TokenIds
from reccocktail.ranking.additions import WORDS_WEIGHTS, Weights, choose
from reccocktail.ranking.base import Model, Ranker
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.lexical import Words, of_histories
from reccocktail.ranking.prior import WEIGHTS, popularity_prior
from reccocktail.ranking.scoring import Catalogue, ItemVectors, encode, positive_columns, score
from reccocktail.storage import cache_dir, read_json, sha256_json, write_json

_WEIGHING_USERS = 64


@dataclass(frozen=True)
class EncodedCatalogue:
    """What ranking a whole catalogue takes.

    A score is `vectors @ user / temperature + prior`.

    Attributes:
        tokens: title tokens of every item.
        vectors: (items, d + w): unit vectors of the model, and behind them those of the words.
        prior: (items,) weighted popularity prior; 0 for items without interactions.
        words: makes the part behind.
    """

    tokens: list[TokenIds]
    vectors: NDArray[np.float32]
    prior: NDArray[np.float64]
    words: "WordsBehind"


@dataclass(frozen=True)
class WordsBehind:
    """Words as numbers behind a model's vectors, so that one product weighs both.

    Users and items carry the root of the weight, so that items that are near one another are near
    for a graph of items too.

    Attributes:
        of: the catalogue's; None where words do not count.
        length: of a vector of words, at least 0.
        max_history: items of a history that are read, the last ones.
    """

    of: Words | None
    length: float
    max_history: int

    @property
    def width(self) -> int:
        """Numbers behind a model's vector."""
        return self.of.width if self.of else 0

    def items(self, vectors: NDArray[np.float32], titles: Sequence[str]) -> NDArray[np.float32]:
        """A model's vectors (items, d) of titles with their words behind, (items, d + w)."""
        return self.behind(vectors, self.of.lexicon.vectors(titles)) if self.of else vectors

    def learn(self) -> None:
        """Learn what vectors of new titles take, so that the first of them need not wait."""
        if self.of:
            _ = self.of.lexicon

    def users(
        self,
        vectors: NDArray[np.float32],
        histories: Sequence[Sequence[int]],
        items: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """A model's vectors (users, d) of histories with their words behind, (users, d + w).

        Args:
            vectors: of the model.
            histories: item numbers, oldest first.
            items: (items, d + w) vectors of the catalogue.
        """
        if not self.width:
            return vectors
        recent = [history[-self.max_history :] for history in histories]
        return self.behind(vectors, of_histories(items[:, -self.width :], recent))

    def behind(
        self, vectors: NDArray[np.float32], words: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Vectors (n, d) with unit vectors of words (n, w) behind, scaled to `length`."""
        return np.concatenate([vectors, np.float32(self.length) * words], axis=1)


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
    weights = weigh(model, catalogue, identity)
    length = math.sqrt(weights.words * ranker.temperature)
    tokens, vectors = catalogue.tokens, items.all().numpy()
    if new_titles:
        new = ranker.titles(new_titles)
        tokens = [*tokens, *new]
        vectors = np.concatenate([vectors, ranker.item_vectors(model, new, device).numpy()])
    words = WordsBehind(None, 0.0, ranker.prompt.max_history)
    if length:
        known = catalogue.words.extended(new_titles)
        words = WordsBehind(known, length, ranker.prompt.max_history)
        vectors = words.behind(vectors, known.items)
    prior = weights.prior * prior_with_new(domain, len(new_titles))
    return EncodedCatalogue(tokens, np.ascontiguousarray(vectors, dtype=np.float32), prior, words)


def weigh(model: Model, catalogue: Catalogue[Ranker], identity: str) -> Weights:
    """Weights of popularity and words on a few validation users, remembered in the cache.

    Args:
        model: adapted or bare backbone.
        catalogue: the domain, for the ranker.
        identity: `model_sha256` of the model.
    """
    domain = catalogue.domain
    rows: pl.DataFrame = sample_rows(domain.rows("valid_warm"), _WEIGHING_USERS, seed=0)
    if not rows.height:
        return Weights()
    grids = [WEIGHTS, WORDS_WEIGHTS, _WEIGHING_USERS]
    ranker = catalogue.ranker
    scores = [
        ranker.template_sha256, ranker.readout_sha256, ranker.prompt.model_dump(), ranker.settings
    ]  # fmt: skip
    key = sha256_json([identity, domain.sha256, "prior and words", scores, grids])
    file = cache_dir() / "priors" / f"{key}.json"
    if file.exists():
        found = read_json(file)
        return Weights(float(found["prior"]), float(found["words"]))
    (scored,) = score(
        model, catalogue, [rows], "Weighing popularity and words", model_sha256=identity,
        entropy=False,
    )  # fmt: skip
    candidates = catalogue.candidates(rows)
    weights = choose(
        scored.scores,
        candidates,
        positive_columns(rows),
        popularity_prior(domain.train_counts()),
        catalogue.words.scores(catalogue.history_items(rows), candidates),
    )
    write_json(file, {"prior": weights.prior, "words": weights.words, "users": rows.height})
    return weights


def prior_with_new(domain: Domain, new: int) -> NDArray[np.float64]:
    """Popularity prior (items + new,) of the catalogue and of new items behind it."""
    return popularity_prior(np.concatenate([domain.train_counts(), np.zeros(new, dtype=np.int64)]))
