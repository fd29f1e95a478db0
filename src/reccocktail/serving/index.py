"""The k best items by inner product: an exact matrix product, or a graph beyond a million items."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reccocktail.errors import RunError

EXACT_ITEMS = 1_000_000
"""Up to so many items all are looked at."""
_BLOCK_BYTES = 128 * 2**20  # of scores held at a time
_EXPANSION = 256  # least number of candidates that a search in the graph looks at
_LINKS, _BUILD_EXPANSION = 16, 128

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]


def best(scores: NDArray[np.floating[Any]], k: int) -> Ids:
    """Places of the k highest scores, best first; of equals, the first. -inf is none of them."""
    if k < len(scores):
        bar = np.partition(scores, -k)[-k]
        near = np.flatnonzero(scores >= bar)
    else:
        near = np.arange(len(scores))
    near = near[np.isfinite(scores[near])]
    order: Ids = near[np.argsort(-scores[near], kind="stable")[:k]]
    return order


class Index:
    """Vectors (N, d) numbered from 0 in the order in which they came.

    Searched by one matrix product, or in an HNSW graph (Malkov and Yashunin, 2018) of the `usearch`
    package, whose finds are scored exactly. Its recall is measured by `benchmarks/index.py`.
    Searching exactly is safe from several threads; adding, and searching a graph, needs the
    caller's lock.
    """

    def __init__(self, vectors: Vectors, exact: bool) -> None:
        """Index vectors.

        Args:
            vectors: (N, d) float32; they need not have length 1.
            exact: True for the matrix product, False for the graph.

        Raises:
            RunError: the graph is needed and `usearch` is not installed.
        """
        width = vectors.shape[1]
        self._matrix: Vectors | None = np.empty((0, width), dtype=np.float32) if exact else None
        self._graph: Any = None if exact else _empty_graph(width)
        self._append(vectors, threads=0)  # all cores: it takes half an hour for a million

    def __len__(self) -> int:
        """Number of vectors."""
        return len(self._graph if self._matrix is None else self._matrix)

    @property
    def exact(self) -> bool:
        """Whether every search looks at every item."""
        return self._matrix is not None

    def add(self, vectors: Vectors) -> None:
        """Append vectors (n, d); they are found from the next search on."""
        # Items put in side by side do not see one another, and twins get lost.
        self._append(vectors, threads=1)

    def _append(self, vectors: Vectors, threads: int) -> None:
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if self._matrix is not None:
            held = self._matrix
            self._matrix = np.concatenate([held, vectors]) if len(held) else vectors
            return
        numbers = np.arange(len(self._graph), len(self._graph) + len(vectors))
        self._graph.add(numbers, vectors, threads=threads)

    def search(
        self, queries: Vectors, k: int, exclude: Sequence[Sequence[int]] | None = None
    ) -> tuple[Ids, Vectors]:
        """The k items with the largest inner products; of equals, the lower number first.

        Args:
            queries: (Q, d) float32.
            k: at least 1.
            exclude: item numbers that each query must not find, (Q,) lists.

        Returns:
            Item numbers (Q, k) and products (Q, k), largest first; -1 and -inf where a query has
            fewer than k items left.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        banned: Sequence[Sequence[int]] = exclude if exclude is not None else [()] * len(queries)
        if len(banned) != len(queries):
            raise ValueError(f"{len(queries)} queries and {len(banned)} lists to exclude")
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        find = self._find_exact if self.exact else self._find_in_graph
        rows = max(1, _BLOCK_BYTES // (4 * max(1, len(self))))
        for start in range(0, len(queries), rows):
            part = slice(start, start + rows)
            found = find(queries[part], k, banned[part])
            for row, (items, products) in enumerate(found, start):
                ids[row, : len(items)], scores[row, : len(items)] = items, products
        return ids, scores

    def _find_exact(
        self, queries: Vectors, k: int, banned: Sequence[Sequence[int]]
    ) -> list[tuple[Ids, Vectors]]:
        assert self._matrix is not None
        products = queries @ self._matrix.T
        found = []
        for row, without in zip(products, banned, strict=True):
            row[list(without)] = -np.inf
            places = best(row, k)
            found.append((places, row[places]))
        return found

    def neighbours(self, query: Vectors, wanted: int) -> Ids:
        """About the `wanted` items with the largest products of one query (d,), ascending.

        For a graph; one search at a time.
        """
        assert self._graph is not None
        wanted = min(wanted, len(self._graph))
        # Set anew each time: what one query finds does not depend on those before it.
        self._graph.expansion_search = max(_EXPANSION, 2 * wanted)
        keys: Ids = self._graph.search(query, wanted, threads=1).keys.astype(np.int64)
        return np.sort(keys)

    def _find_in_graph(
        self, queries: Vectors, k: int, banned: Sequence[Sequence[int]]
    ) -> list[tuple[Ids, Vectors]]:
        found = []
        for query, without in zip(queries, banned, strict=True):
            keys = self.neighbours(query, k + len(without))
            keys = keys[~np.isin(keys, list(without))]
            near = self._graph.get(keys) if len(keys) else []
            products = np.array([vector @ query for vector in near], dtype=np.float32)
            places = best(products, k)
            found.append((keys[places], products[places]))
        return found


class ScoreIndex:
    """Items by whole scores, `vectors @ user / temperature + prior`: text and popularity.

    One more number in each vector carries the prior, so that a product is a score.
    """

    def __init__(
        self,
        vectors: Vectors,
        prior: NDArray[np.floating[Any]],
        temperature: float,
        exact: bool | None = None,
    ) -> None:
        """Index items.

        Args:
            vectors: (N, d) of any lengths.
            prior: (N,) weighted popularity prior.
            temperature: of the ranker.
            exact: see `Index`; None for True up to `EXACT_ITEMS` items.

        Raises:
            RunError: see `Index`.
        """
        if exact is None:
            exact = len(vectors) <= EXACT_ITEMS
        self._temperature = temperature
        # A graph links items with large products among themselves. Those must be near in text, so
        # the prior is brought to the scale of cosines; as it is, items of like popularity would be
        # linked, and searches would miss much of what they should find.
        self._scale = 1.0 if exact else temperature
        self._index = Index(self._rows(vectors, prior), exact)

    def __len__(self) -> int:
        """Number of items."""
        return len(self._index)

    def add(self, vectors: Vectors, prior: NDArray[np.floating[Any]]) -> None:
        """Append items; see `Index.add`."""
        self._index.add(self._rows(vectors, prior))

    def search(
        self, users: Vectors, k: int, exclude: Sequence[Sequence[int]] | None = None
    ) -> tuple[Ids, Vectors]:
        """The k items with the highest scores for each user (Q, d), and these; see `Index.search`.

        Returns:
            Item numbers and scores, both (Q, k).
        """
        return self._index.search(self._queries(users), k, exclude)

    def neighbours(self, user: Vectors, wanted: int) -> Ids:
        """About the `wanted` best items of one user (d,), ascending; see `Index.neighbours`."""
        return self._index.neighbours(self._queries(user[None])[0], wanted)

    def _rows(self, vectors: Vectors, prior: NDArray[np.floating[Any]]) -> Vectors:
        column = (self._scale * prior).astype(np.float32)[:, None]
        return np.concatenate([vectors, column], axis=1)

    def _queries(self, users: Vectors) -> Vectors:
        scaled = (users / self._temperature).astype(np.float32)
        column = np.full((len(scaled), 1), 1 / self._scale, dtype=np.float32)
        return np.concatenate([scaled, column], axis=1)


def _empty_graph(width: int) -> Any:
    try:
        from usearch.index import Index as Graph
    except ImportError as error:
        raise RunError(
            f"A catalogue of more than {EXACT_ITEMS:,} items needs the usearch package; "
            "install it with `pip install reccocktail[ann]`."
        ) from error
    return Graph(
        ndim=width,
        metric="ip",
        dtype="f32",
        connectivity=_LINKS,
        expansion_add=_BUILD_EXPANSION,
        expansion_search=_EXPANSION,
    )
