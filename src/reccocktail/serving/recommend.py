"""Top-k from the whole catalogue, for a user or for titles typed by hand. No HTTP, no printing."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reccocktail.backbone import Backbone
from reccocktail.data.domain import Domain
from reccocktail.data.titles import clean_titles
from reccocktail.errors import AdapterError, DataError
from reccocktail.ranking.explanation import Reason
from reccocktail.schema import HISTORY, USER
from reccocktail.serving.explain import Explanation, Influence, ScoreMany, Writer, leave_one_out
from reccocktail.serving.index import best
from reccocktail.serving.lookup import Match, TitleLookup
from reccocktail.serving.stages import Reranking, Retrieval
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import check_compatible

RETRIEVED = 30  # items that a ranker with candidates in its prompt is shown, as in training


@dataclass(frozen=True)
class Recommendation:
    """One place of a ranking; `new` marks an item without training interactions."""

    rank: int
    item_id: str
    title: str
    score: float
    new: bool


def history_of(domain: Domain, user: str, latest: bool = False) -> list[str]:
    """Item ids of a user's history (see `Domain.histories`, or `latest_histories`).

    Raises:
        DataError: the domain has no such user.
    """
    every = domain.latest_histories() if latest else domain.histories()
    found = every.filter(pl.col(USER) == user)
    if found.height:
        return list(found[HISTORY][0])
    raise DataError(
        f"{domain.name} has no user '{user}'; give one of its user ids, or --history with titles."
    )


def require_k(k: int) -> None:
    """Refuse to recommend nothing.

    Raises:
        DataError: k is below 1.
    """
    if k < 1:
        raise DataError(f"-k must be at least 1, not {k}.")


class Recommender:
    """One adapter on one domain's catalogue.

    An adapter of the `dense` ranker ranks the whole catalogue. One of a ranker that reads
    candidates in the prompt ranks the `RETRIEVED` items that dense vectors find: those of a dense
    adapter, or of the bare backbone.
    """

    def __init__(
        self,
        domain: Domain,
        adapter: Adapter,
        backbone: Backbone,
        new_titles: Sequence[str] = (),
        retriever: Adapter | None = None,
    ) -> None:
        """Encode what is not cached.

        Args:
            domain: prepared domain.
            adapter: trained on `backbone`.
            backbone: the language model.
            new_titles: titles of items that nobody has touched yet; they are cleaned as those of a
                catalogue are, and ranked with the rest.
            retriever: dense adapter that finds the candidates for one of another ranker.

        Raises:
            AdapterError: an adapter belongs to another backbone, or the retriever cannot retrieve.
            DataError: a new title holds nothing readable.
        """
        check_compatible([adapter], backbone)
        if retriever is not None:
            check_compatible([retriever], backbone)
        self._domain, self._adapter, self._backbone = domain, adapter, backbone
        self._lookup = TitleLookup.of(domain)
        new = clean_titles(new_titles)
        if not all(new):
            raise DataError("A new item's title holds nothing readable; give it as people see it.")
        recipe = adapter.card.recipe
        self._max_history = recipe.prompt.max_history
        if recipe.ranker == "dense":
            if retriever is not None:
                raise AdapterError(
                    f"'{adapter.name}' ranks the whole catalogue itself; leave --retriever out."
                )
            self._retrieval = Retrieval(domain, adapter, backbone, new)
            self._reranking = None
        else:
            self._retrieval = Retrieval(domain, retriever, backbone, new, recipe.prompt)
            self._reranking = Reranking(domain, adapter, backbone, new)
        self._ids = [*domain.item_ids, *(f"new:{number + 1}" for number in range(len(new)))]
        self._titles = [*domain.titles, *new]
        self._new = np.concatenate([domain.untouched(), np.ones(len(new), dtype=np.bool_)])

    def history_of(self, user: str, latest: bool = False) -> list[str]:
        """See the function of the same name."""
        return history_of(self._domain, user, latest)

    def split(self, text: str) -> list[str]:
        """Titles between semicolons (see `TitleLookup.split`)."""
        return self._lookup.split(text)

    def match(self, typed: Sequence[str]) -> list[Match]:
        """Find each typed title in the catalogue: exactly, else the most similar one.

        Raises:
            DataError: nothing typed, or a title that resembles none of the catalogue.
        """
        return self._lookup.match(typed)

    def recommend(self, history: Sequence[str], k: int = 10) -> list[Recommendation]:
        """The k best items that the history does not hold.

        Args:
            history: item ids, oldest first, at least one.
            k: how many, at least 1.

        Raises:
            DataError: empty history, unknown item, k below 1, or more than a prompt ranks.
        """
        seen = self._numbers(history)
        require_k(k)
        if self._reranking is not None and k > RETRIEVED:
            raise DataError(f"This ranker ranks {RETRIEVED} retrieved items; lower -k from {k}.")
        scores = self._unseen(seen)
        if self._reranking is not None:
            few = best(scores, RETRIEVED).tolist()
            scores = np.full(len(scores), -np.inf)
            if few:
                scores[few] = self._reranking.scores(seen, few)
        return [
            Recommendation(
                place + 1, self._ids[i], self._titles[i], float(scores[i]), bool(self._new[i])
            )
            for place, i in enumerate(best(scores, k).tolist())
        ]

    def titles_of(self, items: Sequence[str]) -> list[str]:
        """Titles of items of the catalogue, by their ids."""
        return [self._titles[number] for number in self._numbers(items)]

    @property
    def writes(self) -> bool:
        """Whether the adapter was trained to write, and so gives reasons in words."""
        return self._adapter.card.recipe.ranker == "generate"

    @cached_property
    def writer(self) -> Writer:
        """Writes the reasons; for an adapter that `writes`."""
        return Writer(self._adapter, self._backbone, self._domain.titles)

    def explain(
        self, history: Sequence[str], places: Sequence[Recommendation]
    ) -> list[Explanation]:
        """Why each item of a ranking is in it.

        Args:
            history: item ids, oldest first, for which the ranking was made.
            places: of `recommend`.

        Raises:
            DataError: empty history or unknown item.
        """
        seen = self._numbers(history)
        number = {item: place for place, item in enumerate(self._ids)}
        items = [number[place.item_id] for place in places]
        score_many: ScoreMany = self._retrieval.scores_of
        if self._reranking is not None:
            score_many = self._among_the_shortlist(seen)
        kinds, changes = leave_one_out(seen, items, score_many, self._max_history)
        reasons: Sequence[Reason | None] = [None] * len(items)
        if self.writes:
            titles = [self._titles[item] for item in seen]
            reasons = self.writer.reasons(titles, [place.title for place in places])
        found = []
        for column, reason in enumerate(reasons):
            order = np.argsort(-changes[:, column], kind="stable").tolist()
            influences = tuple(
                Influence(
                    self._ids[kinds[row]], self._titles[kinds[row]], float(changes[row, column])
                )
                for row in order
            )
            found.append(Explanation(influences, reason))
        return found

    def _numbers(self, history: Sequence[str]) -> list[int]:
        if not history:
            raise DataError("The history is empty; give at least one item.")
        index = self._domain.index
        unknown = [item for item in history if item not in index]
        if unknown:
            raise DataError(f"{self._domain.name} has no item '{unknown[0]}'; check the id.")
        return [index[item] for item in history]

    def _unseen(self, seen: Sequence[int]) -> NDArray[np.float64]:
        """Scores of retrieval (items,), -inf for what the history holds."""
        scores = self._retrieval.scores(seen)
        scores[list(seen)] = -np.inf
        return scores

    def _among_the_shortlist(self, seen: Sequence[int]) -> ScoreMany:
        """Scores of the prompt's ranker, its candidates those of the whole history."""
        assert self._reranking is not None
        few = best(self._unseen(seen), RETRIEVED).tolist()
        reranking = self._reranking

        def score_many(
            histories: Sequence[Sequence[int]], items: Sequence[int]
        ) -> NDArray[np.float64]:
            columns = [few.index(item) for item in items]
            found: NDArray[np.float64] = reranking.scores_of(histories, few)[:, columns]
            return found

        return score_many
