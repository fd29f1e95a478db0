"""The two stages of a recommendation: vectors over the whole catalogue, a prompt over a few items.

Item numbers here are rows of the catalogue, with new items behind it.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from reccocktail.backbone import Backbone
from reccocktail.data.domain import Domain
from reccocktail.errors import AdapterError
from reccocktail.ranking import build
from reccocktail.ranking.base import Model, Ranker
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.prior import choose_weight, popularity_prior
from reccocktail.ranking.scoring import Catalogue, ItemVectors, encode, positive_columns, score
from reccocktail.recipe import PromptSettings, Recipe
from reccocktail.serving.index import Index
from reccocktail.storage import cache_dir, read_json, sha256_json, write_json
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import model_sha256, ranker_of, scoring
from reccocktail.training.validation import sample_rows

_PRIOR_USERS = 64


class Retrieval:
    """Dense scores of every item; item vectors are computed once and cached."""

    def __init__(
        self,
        domain: Domain,
        adapter: Adapter | None,
        backbone: Backbone,
        new_titles: Sequence[str],
        prompt: PromptSettings | None = None,
    ) -> None:
        """Encode what is not cached.

        Args:
            domain: prepared domain.
            adapter: of the dense ranker; None for the bare backbone with default settings.
            backbone: the language model.
            new_titles: titles of items behind the catalogue.
            prompt: truncation of titles and histories for the bare backbone.

        Raises:
            AdapterError: the adapter is of another ranker.
        """
        if adapter is None:
            ranker = build(backbone, Recipe(prompt=prompt or PromptSettings()))
        else:
            ranker = ranker_of(adapter.card, backbone)
        if not isinstance(ranker, DenseRanker):
            assert adapter is not None
            raise AdapterError(
                f"'{adapter.name}' was trained for ranker {adapter.card.recipe.ranker} and cannot "
                "retrieve from the catalogue; give an adapter of ranker dense as --retriever."
            )
        self._ranker, self._backbone = ranker, backbone
        self._lora = adapter.lora if adapter else None
        catalogue = Catalogue.of(domain, ranker)
        items = ItemVectors(catalogue, model_sha256(backbone, self._lora))
        self._tokens = [*catalogue.tokens, *ranker.titles(new_titles)]
        with scoring(backbone, self._lora) as model:
            encode(model, items, catalogue, [], "Reading the catalogue", whole_catalogue=True)
            added = ranker.item_vectors(
                model, self._tokens[len(catalogue.tokens) :], backbone.device
            )
            weight = prior_weight(model, catalogue, model_sha256(backbone, self._lora))
        vectors: NDArray[np.float32] = items.all().numpy()
        self._vectors: NDArray[np.float32] = (
            np.concatenate([vectors, added.numpy()]) if new_titles else vectors
        )
        self._prior = weight * _prior_with_new(domain, len(new_titles))

    def scores(self, history: Sequence[int]) -> NDArray[np.float64]:
        """Scores (items,) of all items for a history of item numbers, popularity included."""
        tokens = [self._tokens[item] for item in history]
        with scoring(self._backbone, self._lora) as model:
            user = self._ranker.user_vectors(model, [tokens], self._backbone.device)[0].numpy()
        found: NDArray[np.float64] = self._vectors @ user / self._ranker.temperature + self._prior
        return found

    def scores_of(
        self, histories: Sequence[Sequence[int]], items: Sequence[int]
    ) -> NDArray[np.float64]:
        """Scores (histories, items) of some items, popularity included."""
        rows = [[self._tokens[item] for item in history] for history in histories]
        with scoring(self._backbone, self._lora) as model:
            users = self._ranker.user_vectors(model, rows, self._backbone.device).double().numpy()
        few = np.asarray(items, dtype=np.int64)
        found: NDArray[np.float64] = users @ self._vectors[few].T.astype(np.float64)
        return found / self._ranker.temperature + self._prior[few]

    def best(
        self,
        histories: Sequence[Sequence[int]],
        k: int,
        tick: Callable[[int], object] = int,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k best items that each history does not hold, popularity included.

        Args:
            histories: item numbers, oldest first, at least one each.
            k: how many.
            tick: told of every n histories read.

        Returns:
            Item numbers and scores, both (histories, k); see `Index.search`.
        """
        rows = [[self._tokens[item] for item in history] for history in histories]
        with scoring(self._backbone, self._lora) as model:
            users = self._ranker.user_vectors(model, rows, self._backbone.device, tick).numpy()
        scaled = (users / self._ranker.temperature).astype(np.float32)
        queries = _with_column(scaled, np.ones(len(users)))
        return self._index.search(queries, k, histories)

    @cached_property
    def _index(self) -> Index:
        # One more number in each vector carries the prior, so that a product is a whole score.
        return Index.build(_with_column(self._vectors, self._prior))


def _with_column(vectors: NDArray[np.float32], column: NDArray[np.float64]) -> NDArray[np.float32]:
    more = column.astype(np.float32)[:, None]
    return np.concatenate([vectors, more], axis=1)


class Reranking:
    """Scores of a few items by a ranker that reads them in the prompt."""

    def __init__(
        self, domain: Domain, adapter: Adapter, backbone: Backbone, new_titles: Sequence[str]
    ) -> None:
        """Tokenise the catalogue, and weigh popularity unless the cache knows.

        Args:
            domain: prepared domain.
            adapter: of a ranker that reads candidates.
            backbone: the language model.
            new_titles: titles of items behind the catalogue.
        """
        self._ranker = ranker_of(adapter.card, backbone)
        self._backbone, self._lora = backbone, adapter.lora
        catalogue = Catalogue.of(domain, self._ranker)
        self._tokens = [*catalogue.tokens, *self._ranker.titles(new_titles)]
        with scoring(backbone, self._lora) as model:
            weight = prior_weight(model, catalogue, model_sha256(backbone, self._lora))
        self._prior = weight * _prior_with_new(domain, len(new_titles))

    def scores(self, history: Sequence[int], items: Sequence[int]) -> NDArray[np.float64]:
        """Scores (items,) of some items, popularity included; see `scores_of`."""
        found: NDArray[np.float64] = self.scores_of([history], items)[0]
        return found

    @torch.no_grad()
    def scores_of(
        self, histories: Sequence[Sequence[int]], items: Sequence[int]
    ) -> NDArray[np.float64]:
        """Scores (histories, items) of some items, popularity included.

        The order in which they are given is not shown to the model: it may tell who is the best.
        """
        shown = np.random.default_rng(len(items)).permutation(np.sort(np.asarray(items)))
        place = {item: column for column, item in enumerate(shown.tolist())}
        columns = [place[item] for item in items]
        rows: list[NDArray[np.float64]] = []
        with scoring(self._backbone, self._lora) as model:
            for history in histories:  # one prompt at a time: it may be long
                batch = self._ranker.ranking_batch(
                    [[self._tokens[item] for item in history]], [shown.tolist()], self._tokens
                )
                on_device = {name: t.to(self._backbone.device) for name, t in batch.items()}
                found = self._ranker.scores(model, on_device)[0].double().cpu().numpy()
                rows.append(found[columns])
        chosen: NDArray[np.float64] = np.stack(rows) + self._prior[np.asarray(items)]
        return chosen


def prior_weight(model: Model, catalogue: Catalogue[Ranker], identity: str) -> float:
    """Weight of the popularity prior on a few validation users, remembered in the cache.

    Args:
        model: adapted or bare backbone.
        catalogue: the domain, for the ranker.
        identity: `model_sha256` of the model.
    """
    domain = catalogue.domain
    rows: pl.DataFrame = sample_rows(domain.rows("valid_warm"), _PRIOR_USERS, seed=0)
    if not rows.height:
        return 0.0
    ranker = catalogue.ranker
    reading: list[object] = [
        ranker.template_sha256,
        ranker.readout_sha256,
        ranker.prompt.model_dump(),
    ]
    if isinstance(ranker, DenseRanker):
        reading += [ranker.dense.model_dump(), ranker.temperature]
    key = sha256_json([identity, domain.sha256, "prior", reading])
    file = cache_dir() / "priors" / f"{key}.json"
    if file.exists():
        return float(read_json(file)["weight"])
    (found,) = score(
        model, catalogue, [rows], "Weighing popularity", model_sha256=identity, entropy=False
    )
    candidates = catalogue.candidates(rows)
    prior = popularity_prior(domain.train_counts())
    weight = choose_weight(found.scores, candidates, positive_columns(rows), prior)
    write_json(file, {"weight": weight, "users": rows.height})
    return weight


def _prior_with_new(domain: Domain, new: int) -> NDArray[np.float64]:
    return popularity_prior(np.concatenate([domain.train_counts(), np.zeros(new, dtype=np.int64)]))
