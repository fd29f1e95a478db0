"""What is asked of a served domain, and the answer: histories in, ranked items out.

Every item that may be recommended is looked at, but in catalogues that have a graph (see
`Neighbours`): there those near the user are, if enough of them may be recommended.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reccocktail.data.categories import split
from reccocktail.errors import DataError
from reccocktail.serving.index import best
from reccocktail.serving.lookup import Match
from reccocktail.serving.served import Served

SCORES_AT_ONCE = 2**25  # users x items of one matrix product: 128 MiB in float32
FEW = 10_000  # so many items are looked at rather than searched for in a graph
_SPARE = 2  # times more neighbours than a filter lets through on average
_WIDEST = 1 / 200  # of a catalogue; rather than search for more, all items are looked at


@dataclass(frozen=True)
class Query:
    """A request, as it comes.

    Attributes:
        history: item ids, oldest first; or else
        history_titles: titles, each taken for the most similar item.
        k: how many items; None for all (of the candidates).
        exclude_seen: leave out what the history holds.
        candidates: item ids to rank; None for the whole catalogue.
        categories: only items of at least one of these; empty for all.
        new_only: only items that nobody touched in training.
        coefficients: mix the cocktail's adapters like this; None asks the cocktail itself.
    """

    history: Sequence[str] = ()
    history_titles: Sequence[str] = ()
    k: int | None = 10
    exclude_seen: bool = True
    candidates: Sequence[str] | None = None
    categories: Sequence[str] = ()
    new_only: bool = False
    coefficients: Sequence[float] | None = None


@dataclass(frozen=True)
class Ask:
    """A request in item numbers of the state that it began with.

    Attributes:
        history: oldest first.
        matches: one for each typed title.
        k: how many items; None for all.
        excluded: items that must not be recommended.
        candidates: what may be, without `excluded`; None for the whole catalogue.
        filtered: the candidates are all that filters let through, ascending, and were not named.
    """

    history: tuple[int, ...]
    matches: tuple[Match, ...]
    k: int | None
    excluded: tuple[int, ...]
    candidates: NDArray[np.int64] | None
    filtered: bool


@dataclass(frozen=True)
class Place:
    """One place of a ranking; `rank` from 1, `score` in logits, `new`: untouched in training."""

    rank: int
    item_id: str
    title: str
    score: float
    new: bool
    categories: list[str]


@dataclass(frozen=True)
class Answer:
    """A ranking, with what typed titles were taken for.

    Attributes:
        adapter: name of the adapter that ranked.
        places: best first.
        matches: one for each typed title.
    """

    adapter: str
    places: list[Place]
    matches: tuple[Match, ...] = ()


def resolve(state: Served, query: Query, in_time: Callable[[], object] = lambda: None) -> Ask:
    """Turn ids and titles into item numbers.

    Args:
        state: the domain.
        query: what is asked.
        in_time: called again and again; raises once there is no time left.

    Raises:
        DataError: an empty or doubly given history, an unknown id, title or category.
    """
    matches: tuple[Match, ...] = ()
    ids = query.history
    if bool(query.history) == bool(query.history_titles):
        raise DataError("Give history (item ids) or history_titles, one of the two, not empty.")
    if query.history_titles:
        matches = tuple(state.lookup.match(query.history_titles, in_time))
        ids = [match.item_id for match in matches]
    if query.k is not None and query.k < 1:
        raise DataError(f"k must be at least 1, not {query.k}.")
    history = _numbers(state, ids)
    chosen = None
    if query.candidates is not None:
        if not query.candidates:
            raise DataError("The candidates are empty; give at least one, or leave them out.")
        unique = list(dict.fromkeys(_numbers(state, query.candidates)))
        chosen = np.array(unique, dtype=np.int64)
    if query.categories:
        allowed = _of_categories(state, query.categories)
        chosen = allowed if chosen is None else chosen[np.isin(chosen, allowed)]
    if query.new_only:
        chosen = np.flatnonzero(state.new) if chosen is None else chosen[state.new[chosen]]
    excluded = tuple(dict.fromkeys(history)) if query.exclude_seen else ()
    if chosen is not None and excluded:
        chosen = chosen[~np.isin(chosen, excluded)]
    filtered = chosen is not None and query.candidates is None
    return Ask(tuple(history), matches, query.k, excluded, chosen, filtered)


def rank(state: Served, asks: Sequence[Ask], users: NDArray[np.float32]) -> list[Answer]:
    """The best items of each request.

    Args:
        state: the domain.
        asks: requests.
        users: (asks, d + w) of their histories, as `Behind.users` gives them.
    """
    temperature = state.ranker.temperature
    answers: dict[int, Answer] = {}
    pools = [_pool(state, ask, user) for ask, user in zip(asks, users, strict=True)]
    whole = [number for number, pool in enumerate(pools) if pool is None]
    step = max(1, SCORES_AT_ONCE // len(state.ids))
    for start in range(0, len(whole), step):
        some = whole[start : start + step]
        scores = users[some] @ state.vectors.T / temperature + state.prior  # (users, items)
        for row, number in zip(scores, some, strict=True):
            ask = asks[number]
            row[list(ask.excluded)] = -np.inf
            found = best(row, ask.k or len(row))
            answers[number] = _answer(state, ask, found, row[found])
    for number, (ask, chosen) in enumerate(zip(asks, pools, strict=True)):
        if chosen is not None:
            row = state.vectors[chosen] @ users[number] / temperature + state.prior[chosen]
            found = best(row, ask.k or len(row))
            answers[number] = _answer(state, ask, chosen[found], row[found])
    return [answers[number] for number in range(len(asks))]


def _pool(state: Served, ask: Ask, user: NDArray[np.float32]) -> NDArray[np.int64] | None:
    """The items to look at, among which are the k best; None for the whole catalogue."""
    chosen, graph, items = ask.candidates, state.neighbours, len(state.ids)
    if graph is None or ask.k is None or (chosen is not None and not ask.filtered):
        return chosen
    allowed = items if chosen is None else len(chosen)
    if allowed <= FEW:
        return chosen
    spare = 1.0 if chosen is None else _SPARE * items / allowed
    wanted = math.ceil(ask.k * spare) + len(ask.excluded)
    if wanted > _WIDEST * items:
        return chosen
    near = graph.of(user, wanted, items)
    near = near[~np.isin(near, ask.excluded)]
    if chosen is not None:
        near = near[np.isin(near, chosen, assume_unique=True)]
    return near if len(near) >= ask.k else chosen


def _answer(
    state: Served, ask: Ask, items: NDArray[np.int64], scores: NDArray[np.float32]
) -> Answer:
    places = [
        Place(
            place,
            state.ids[i],
            state.titles[i],
            round(float(score), 6),
            bool(state.new[i]),
            split(state.cells[i]),
        )
        for place, (i, score) in enumerate(zip(items.tolist(), scores, strict=True), 1)
    ]
    return Answer(state.adapter.name, places, ask.matches)


def _numbers(state: Served, ids: Sequence[str]) -> list[int]:
    found = [state.index.get(item) for item in ids]
    for item, number in zip(ids, found, strict=True):
        if number is None:
            raise DataError(f"{state.name} has no item '{item}'; check the id.")
    return [number for number in found if number is not None]


def _of_categories(state: Served, categories: Sequence[str]) -> NDArray[np.int64]:
    found = []
    for category in categories:
        numbers = state.categories.get(category.strip().casefold())
        if numbers is None:
            raise DataError(f"{state.name} has no category '{category}'; check its spelling.")
        found.append(numbers)
    return np.unique(np.concatenate(found))
