"""A domain's catalogue as one model reads it: item vectors and the weighed popularity prior.

Whoever recommends from a whole catalogue has it from here; vectors and weights are kept on disk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reccocktail.data.domain import Domain
from reccocktail.prompting.encoding import TokenIds
from reccocktail.ranking.base import Model, Ranker
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.prior import choose_weight, popularity_prior
from reccocktail.ranking.scoring import Catalogue, ItemVectors, encode, positive_columns, score
from reccocktail.storage import cache_dir, read_json, sha256_json, write_json
from reccocktail.training.validation import sample_rows

_PRIOR_USERS = 64


@dataclass(frozen=True)
class EncodedCatalogue:
    """What ranking a whole catalogue takes.

    A score is `vectors @ user / temperature + prior`.

    Attributes:
        tokens: title tokens of every item.
        vectors: (items, d) unit vectors.
        prior: (items,) weighted popularity prior; 0 for items without interactions.
    """

    tokens: list[TokenIds]
    vectors: NDArray[np.float32]
    prior: NDArray[np.float64]


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
    weight = prior_weight(model, catalogue, identity)
    tokens, vectors = catalogue.tokens, items.all().numpy()
    if new_titles:
        new = ranker.titles(new_titles)
        tokens = [*tokens, *new]
        vectors = np.concatenate([vectors, ranker.item_vectors(model, new, device).numpy()])
    prior = weight * prior_with_new(domain, len(new_titles))
    return EncodedCatalogue(tokens, np.ascontiguousarray(vectors, dtype=np.float32), prior)


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


def prior_with_new(domain: Domain, new: int) -> NDArray[np.float64]:
    """Popularity prior (items + new,) of the catalogue and of new items behind it."""
    return popularity_prior(np.concatenate([domain.train_counts(), np.zeros(new, dtype=np.int64)]))
