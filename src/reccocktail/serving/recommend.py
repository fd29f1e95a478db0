"""Top-k from the whole catalogue, for a user or for titles typed by hand. No HTTP, no printing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from rapidfuzz import fuzz, process, utils

from reccocktail.backbone import Backbone
from reccocktail.data.domain import Domain
from reccocktail.data.titles import title_key
from reccocktail.errors import DataError
from reccocktail.mixing.measure import check_compatible
from reccocktail.prompting.encoding import TokenIds
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.prior import choose_weight, popularity_prior
from reccocktail.ranking.scoring import Catalogue, ItemVectors, encode, positive_columns
from reccocktail.schema import HISTORY, USER
from reccocktail.storage import cache_dir, read_json, sha256_json, write_json
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import merged, model_sha256
from reccocktail.training.validation import sample_rows

_MATCH_FLOOR = (
    60.0  # below this similarity (0 to 100) a typed title is taken as not in the catalogue
)
_PRIOR_USERS = 64


@dataclass(frozen=True)
class Match:
    """A title typed by hand and the item it was taken for; `similarity` in [0, 100]."""

    typed: str
    item_id: str
    title: str
    similarity: float


@dataclass(frozen=True)
class Recommendation:
    """One place of a ranking; `new` marks an item without training interactions."""

    rank: int
    item_id: str
    title: str
    score: float
    new: bool


class Recommender:
    """One adapter on one domain's catalogue; item vectors are computed once and cached."""

    def __init__(
        self, domain: Domain, adapter: Adapter, backbone: Backbone, new_titles: Sequence[str] = ()
    ) -> None:
        """Encode what is not cached.

        Args:
            domain: prepared domain.
            adapter: trained on `backbone`.
            backbone: the language model.
            new_titles: titles of items that nobody has touched yet; they are ranked with the rest.

        Raises:
            AdapterError: the adapter belongs to another backbone.
        """
        check_compatible([adapter], backbone)
        recipe = adapter.card.recipe
        self._domain, self._adapter, self._backbone = domain, adapter, backbone
        self._ranker = DenseRanker(backbone.tokenizer, recipe.prompt, recipe.dense)
        self._catalogue = Catalogue.of(domain, self._ranker)
        self._items = ItemVectors(self._catalogue, model_sha256(backbone, adapter.lora))
        new = [title for title in new_titles if title.strip()]
        tokens = self._ranker.encoder.titles(new)
        with merged(backbone.model, adapter.lora) as model:
            encode(
                model,
                self._items,
                self._catalogue,
                [],
                "Reading the catalogue",
                whole_catalogue=True,
            )
            added = self._ranker.item_vectors(model, tokens, backbone.device)
            weight = self._prior_weight(model)
        vectors = self._items.all().numpy()
        self._vectors = np.concatenate([vectors, added.numpy()]) if new else vectors
        counts = np.concatenate([domain.train_counts(), np.zeros(len(new), dtype=np.int64)])
        self._prior = weight * popularity_prior(counts)
        self._ids = [*domain.item_ids, *(f"new:{number + 1}" for number in range(len(new)))]
        self._titles = [*domain.titles, *new]
        self._new = counts == 0

    def history_of(self, user: str) -> list[str]:
        """Item ids of a user's history: all that comes before the held-out test item.

        Raises:
            DataError: the domain has no such user.
        """
        for rows in (self._domain.rows("test_warm"), self._domain.train()):
            found = rows.filter(pl.col(USER) == user)
            if found.height:
                return list(found[HISTORY][0])
        raise DataError(
            f"{self._domain.name} has no user '{user}'; "
            "give one of its user ids, or --history with titles."
        )

    def match(self, typed: Sequence[str]) -> list[Match]:
        """Find each typed title in the catalogue: exactly, else the most similar one.

        Raises:
            DataError: nothing typed, or a title that resembles none of the catalogue.
        """
        wanted = [title.strip() for title in typed if title.strip()]
        if not wanted:
            raise DataError("The history is empty; give at least one title, separated by ';'.")
        exact = {
            title_key(title): place
            for place, title in reversed(list(enumerate(self._domain.titles)))
        }
        matches = []
        for title in wanted:
            place, similarity = exact.get(title_key(title)), 100.0
            if place is None:
                found = process.extractOne(
                    title, self._domain.titles, scorer=fuzz.WRatio, processor=utils.default_process
                )
                if found is None or found[1] < _MATCH_FLOOR:
                    raise DataError(
                        f"No title of {self._domain.name} resembles '{title}'; check its spelling."
                    )
                _, similarity, place = found
            matches.append(
                Match(
                    title,
                    self._domain.item_ids[place],
                    self._domain.titles[place],
                    round(similarity, 1),
                )
            )
        return matches

    def recommend(self, history: Sequence[str], k: int = 10) -> list[Recommendation]:
        """The k best items that the history does not hold.

        Args:
            history: item ids, oldest first, at least one.
            k: how many, at least 1.

        Raises:
            DataError: empty history, unknown item, or k below 1.
        """
        if not history:
            raise DataError("The history is empty; give at least one item.")
        if k < 1:
            raise DataError(f"-k must be at least 1, not {k}.")
        index = self._domain.index
        unknown = [item for item in history if item not in index]
        if unknown:
            raise DataError(f"{self._domain.name} has no item '{unknown[0]}'; check the id.")
        seen = [index[item] for item in history]
        tokens: list[TokenIds] = [self._catalogue.tokens[item] for item in seen]
        with merged(self._backbone.model, self._adapter.lora) as model:
            user = self._ranker.user_vectors(model, [tokens], self._backbone.device)[0].numpy()
        scores = self._vectors @ user / self._ranker.dense.temperature + self._prior
        scores[seen] = -np.inf
        best = np.argsort(-scores, kind="stable")[: min(k, len(scores) - len(set(seen)))]
        return [
            Recommendation(
                place + 1, self._ids[i], self._titles[i], float(scores[i]), bool(self._new[i])
            )
            for place, i in enumerate(best.tolist())
        ]

    def _prior_weight(self, model: object) -> float:
        """Weight of the popularity prior on a few validation users, remembered in the cache."""
        rows = sample_rows(self._domain.rows("valid_warm"), _PRIOR_USERS, seed=0)
        if not rows.height:
            return 0.0
        key = sha256_json(
            [model_sha256(self._backbone, self._adapter.lora), self._domain.sha256, "prior"]
        )
        file = cache_dir() / "priors" / f"{key}.json"
        if file.exists():
            return float(read_json(file)["weight"])
        label = "Weighing popularity"
        vectors = encode(model, self._items, self._catalogue, [rows], label)[0]  # type: ignore[arg-type]
        candidates = self._catalogue.candidates(rows)
        scores = vectors.scores(self._ranker, candidates)
        prior = popularity_prior(self._domain.train_counts())
        weight = choose_weight(scores, candidates, positive_columns(rows), prior)
        write_json(file, {"weight": weight, "users": rows.height})
        return weight
