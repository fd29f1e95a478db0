"""The two stages of a recommendation: vectors over the whole catalogue, a prompt over a few items.

Item numbers here are rows of the catalogue, with new items behind it.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from reccocktail.backbone import Backbone
from reccocktail.data.domain import Domain
from reccocktail.errors import AdapterError
from reccocktail.ranking import build
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.scoring import Catalogue
from reccocktail.recipe import PromptSettings, Recipe
from reccocktail.serving.catalogue import encode_catalogue, prior_with_new, weigh
from reccocktail.serving.index import ScoreIndex
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import model_sha256, ranker_of, scoring


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
        with scoring(backbone, self._lora) as model:
            identity = model_sha256(backbone, self._lora)
            catalogue = encode_catalogue(model, domain, ranker, identity, new_titles)
        self._tokens, self._vectors = catalogue.tokens, catalogue.vectors
        self._behind = catalogue.behind
        self._prior = catalogue.prior

    def scores(self, history: Sequence[int]) -> NDArray[np.float64]:
        """Scores (items,) of all items for a history of numbers, with what is weighed beside."""
        (user,) = self._users([history])
        found: NDArray[np.float64] = self._vectors @ user / self._ranker.temperature + self._prior
        return found

    def scores_of(
        self, histories: Sequence[Sequence[int]], items: Sequence[int]
    ) -> NDArray[np.float64]:
        """Scores (histories, items) of some items."""
        users = self._users(histories).astype(np.float64)
        few = np.asarray(items, dtype=np.int64)
        found: NDArray[np.float64] = users @ self._vectors[few].T.astype(np.float64)
        return found / self._ranker.temperature + self._prior[few]

    def best(
        self,
        histories: Sequence[Sequence[int]],
        k: int,
        tick: Callable[[int], object] = int,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k best items that each history does not hold.

        Args:
            histories: item numbers, oldest first, at least one each.
            k: how many.
            tick: told of every n histories read.

        Returns:
            Item numbers and scores, both (histories, k); see `ScoreIndex.search`.
        """
        return self._index.search(self._users(histories, tick), k, histories)

    def _users(
        self, histories: Sequence[Sequence[int]], tick: Callable[[int], object] = int
    ) -> NDArray[np.float32]:
        """Vectors (histories, d + w) of histories of item numbers."""
        rows = [[self._tokens[item] for item in history] for history in histories]
        with scoring(self._backbone, self._lora) as model:
            found = self._ranker.user_vectors(model, rows, self._backbone.device, tick).numpy()
        return self._behind.users(found, histories, self._vectors)

    @cached_property
    def _index(self) -> ScoreIndex:
        return ScoreIndex(self._vectors, self._prior, self._ranker.temperature)


class Reranking:
    """Scores of a few items by a ranker that reads them in the prompt."""

    def __init__(
        self, domain: Domain, adapter: Adapter, backbone: Backbone, new_titles: Sequence[str]
    ) -> None:
        """Tokenise the catalogue, and weigh what stands beside the model unless the cache knows.

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
            # In a short list of the best the known ones say nothing of a user's mean score.
            weights, _ = weigh(model, catalogue, model_sha256(backbone, self._lora), level=False)
        self._prior = weights.prior * prior_with_new(domain, len(new_titles))
        self._beside = [
            (weight, space.extended(new_titles))
            for weight, space in catalogue.spaces.weighed(weights)
        ]

    def scores(self, history: Sequence[int], items: Sequence[int]) -> NDArray[np.float64]:
        """Scores (items,) of some items; see `scores_of`."""
        found: NDArray[np.float64] = self.scores_of([history], items)[0]
        return found

    @torch.no_grad()
    def scores_of(
        self, histories: Sequence[Sequence[int]], items: Sequence[int]
    ) -> NDArray[np.float64]:
        """Scores (histories, items) of some items.

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
                found = self._ranker.scores(model, on_device)[0].cpu().double().numpy()
                rows.append(found[columns])
        chosen: NDArray[np.float64] = np.stack(rows) + self._prior[np.asarray(items)]
        for weight, space in self._beside:
            chosen += weight * np.stack(space.scores(histories, [items] * len(histories)))
        return chosen
