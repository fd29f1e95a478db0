"""The room where requests are answered: places, batches, and the domains as they are now.

Every domain is a `Served`, which never changes. Whoever changes one publishes another in its place;
a request keeps the one it began with. Nothing here knows where domains come from, and no request
waits for a change.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from reccocktail.backbone import Backbone
from reccocktail.serving.batching import Batcher, ClosedError, OverloadedError
from reccocktail.serving.limits import (
    Limits,
    TimedOutError,
    UnavailableError,
    UnknownDomainError,
)
from reccocktail.serving.positions import Positions
from reccocktail.serving.query import Answer, Ask, Query, rank, resolve
from reccocktail.serving.served import Served
from reccocktail.serving.user_vectors import UserVectors
from reccocktail.serving.weights import Models

RECENT_HISTORIES = 1000  # of each domain, for a later mix; in memory only


class Answering:
    """Answers the users of all published domains."""

    def __init__(
        self,
        backbone: Backbone,
        models: Models,
        limits: Limits,
        parents: Callable[[str], Iterable[Path]],
    ) -> None:
        """Start with no domains.

        Args:
            backbone: the one language model.
            models: its copies with merged adapters.
            limits: see `Limits`.
            parents: adapter folders that a domain's cocktail may have been mixed from, beside
                those of the published domains.
        """
        self.limits = limits
        self.users = UserVectors(models, backbone.device, limits.cached_users)
        self.positions = Positions(backbone, models, self._adapter_folders)
        self._parents = parents
        self._domains: dict[str, Served] = {}
        self._failed: dict[str, str] = {}
        self._recent: dict[str, deque[tuple[str, ...]]] = {}
        self._guard = threading.Lock()
        self._under_way = 0
        self._closed = False
        self._batcher: Batcher[Served, Ask, Answer] = Batcher(
            self._answer, limit=limits.queue, batch=limits.batch, linger=limits.linger
        )

    # -- requests -----------------------------------------------------------------------------

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Hold one of the places for requests.

        Raises:
            OverloadedError: all are taken.
            ClosedError: the service is shutting down.
        """
        with self._guard:
            if self._closed:
                raise ClosedError
            if self._under_way >= self.limits.queue:
                raise OverloadedError(self._batcher.retry_after())
            self._under_way += 1
        try:
            yield
        finally:
            with self._guard:
                self._under_way -= 1

    def deadline(self) -> float:
        """When a request that comes now must be answered, by `time.monotonic`."""
        return time.monotonic() + self.limits.timeout

    def submit(self, name: str, query: Query, deadline: float) -> "Future[Answer]":
        """Queue a request; the caller holds a place (`admitted`).

        Raises:
            TimedOutError: titles took until the deadline to be compared with the catalogue.
            UnknownDomainError, DataError: see `resolve`.
            PreparingError: the mix that is asked for is not ready yet, see `Positions.at`.
            OverloadedError, ClosedError: see `Batcher.submit`.
        """
        state = self.domain(name)
        if query.coefficients is not None:
            state = self.positions.at(state, query.coefficients)

        def in_time() -> None:
            if time.monotonic() > deadline:
                raise TimedOutError(self.limits.timeout)

        ask = resolve(state, query, in_time)
        own = query.candidates is None and query.coefficients is None
        if own and not query.history_titles:
            recent = self._recent.get(name)
            if recent is not None:  # removed since the line above
                recent.append(tuple(query.history))
        return self._batcher.submit(state, ask, deadline, self.users.cost(state, ask.history))

    def recommend(self, name: str, query: Query) -> Answer:
        """Ask and wait.

        Raises:
            TimedOutError: it took too long.
            RecCocktailError: see `admitted` and `submit`.
        """
        with self.admitted():
            deadline = self.deadline()
            future = self.submit(name, query, deadline)
            try:
                return future.result(max(0.0, deadline - time.monotonic()))
            except TimeoutError as error:
                future.cancel()
                raise TimedOutError(self.limits.timeout) from error

    def _answer(self, state: Served, asks: Sequence[Ask]) -> list[Answer]:
        """One batch: user vectors, then one matrix product."""
        return rank(state, asks, self.users.of(state, [ask.history for ask in asks]))

    # -- what is there ------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return self._batcher.alive

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._batcher.waiting

    @property
    def batches(self) -> tuple[int, int]:
        """Batches so far, and the requests in them."""
        return self._batcher.batches, self._batcher.jobs

    def find(self, name: str) -> Served | None:
        """A domain as it is at this moment, if it is published."""
        return self._domains.get(name)

    def domain(self, name: str) -> Served:
        """A domain as it is at this moment.

        Raises:
            UnavailableError: it could not be plugged in at the start.
            UnknownDomainError: there is none of that name.
        """
        found = self.find(name)
        if found is not None:
            return found
        reason = self._failed.get(name)
        raise UnknownDomainError(name) if reason is None else UnavailableError(name, reason)

    def domains(self) -> list[Served]:
        """All domains, by name."""
        known = self._domains.copy()  # others come and go meanwhile
        return [known[name] for name in sorted(known)]

    @property
    def failed(self) -> dict[str, str]:
        """Domains that could not be plugged in at the start, and why."""
        return self._failed.copy()

    def recent(self, name: str) -> list[tuple[str, ...]]:
        """The latest histories (item ids) that a published domain was asked for, the last last."""
        return list(self._recent.get(name, ()))

    # -- the door: what the room of changes may do here -----------------------------------------

    def publish(self, state: Served) -> Served:
        """Answer with this state from now on.

        Of another catalogue, whose ids may be the same, the histories so far tell nothing.
        """
        former = self._domains.get(state.name)
        if former is None or _catalogue(former) != _catalogue(state):
            self._recent[state.name] = deque(maxlen=RECENT_HISTORIES)
        self._domains[state.name] = state
        self._failed.pop(state.name, None)
        return state

    def withdraw(self, name: str) -> None:
        """Answer for a domain no more, and forget who asked."""
        self._domains.pop(name, None)
        self._failed.pop(name, None)
        self._recent.pop(name, None)

    def unavailable(self, name: str, reason: str) -> None:
        """Answer all requests for a domain that cannot be had with the reason."""
        self._failed[name] = reason

    def close(self) -> None:
        """Answer what waits, then stop."""
        with self._guard:
            self._closed = True
        self.positions.close()
        self._batcher.close()

    def _adapter_folders(self, name: str) -> list[Path]:
        """Where the parents of a domain's cocktail may lie."""
        served = [state.adapter_folder for state in self.domains()]
        return [*self._parents(name), *served]


def _catalogue(state: Served) -> tuple[str, Path]:
    """What tells one catalogue from another; prepared anew in its place it is the same."""
    return state.domain.name, state.domain.path
