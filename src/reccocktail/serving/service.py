"""The service without HTTP: one backbone, any number of domains, many users at once.

Every domain is a `Served`, which never changes; what changes a domain (items, another adapter)
makes a new one and puts it in the old one's place. A request keeps the one it began with. Changes
of one domain wait for each other; requests wait for no change.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from reccocktail.backbone import Backbone
from reccocktail.errors import RecCocktailError, RunError
from reccocktail.serving.batching import Batcher, ClosedError, OverloadedError
from reccocktail.serving.items import NewItem, fresh_items
from reccocktail.serving.limits import (
    ConflictError,
    Limits,
    MixStatus,
    TimedOutError,
    UnavailableError,
    UnknownDomainError,
)
from reccocktail.serving.logs import LOGGER
from reccocktail.serving.paths import Allowed
from reccocktail.serving.positions import Positions
from reccocktail.serving.query import Answer, Ask, Query, rank, resolve
from reccocktail.serving.remix import MixRequest, remix
from reccocktail.serving.served import Served, build
from reccocktail.serving.store import Record, Store
from reccocktail.serving.user_vectors import UserVectors
from reccocktail.serving.weights import Models

RECENT_HISTORIES = 1000  # of each domain, for a later mix; in memory only


class Service:
    """Recommendations for the users of many domains."""

    def __init__(
        self,
        backbone: Backbone,
        limits: Limits | None = None,
        *,
        state: Path | None = None,
        allowed: Allowed | None = None,
        adapters: Sequence[Path] = (),
    ) -> None:
        """Start with no domains.

        Args:
            backbone: the one language model.
            limits: see `Limits`.
            state: folder for what must survive a restart; without it nothing can be changed but
                domains plugged in by the calling program.
            allowed: where folders named in requests may lie; None refuses all.
            adapters: folders that a cocktail may have been mixed from, beside those that lie with
                the served ones.

        Raises:
            RunError: the state folder cannot be used.
        """
        self.backbone, self.limits = backbone, limits or Limits()
        self.allowed = allowed
        self.models = Models(backbone.model, self.limits.model_bytes)
        self.users = UserVectors(self.models, backbone.device, self.limits.cached_users)
        self.positions = Positions(backbone, self.models, self._adapter_folders)
        self._adapters = tuple(adapters)
        self._store = Store(state) if state else None
        self._domains: dict[str, Served] = {}
        self._failed: dict[str, str] = {}
        self._changing: dict[str, threading.RLock] = {}
        self._recent: dict[str, deque[tuple[str, ...]]] = {}
        self._mixes: dict[str, MixStatus] = {}
        self._mixing = threading.Lock()  # one search at a time: it takes the memory of a backbone
        self._guard = threading.Lock()
        self._under_way = 0
        self._closed = False
        self._batcher: Batcher[Served, Ask, Answer] = Batcher(
            self._answer,
            limit=self.limits.queue,
            batch=self.limits.batch,
            linger=self.limits.linger,
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

    def submit(self, name: str, query: Query) -> "Future[Answer]":
        """Queue a request; the caller holds a place (`admitted`).

        Raises:
            UnknownDomainError, DataError: see `resolve`.
            PreparingError: the mix that is asked for is not ready yet, see `Positions.at`.
            OverloadedError, ClosedError: see `Batcher.submit`.
        """
        deadline = time.monotonic() + self.limits.timeout
        state = self.domain(name)
        if query.coefficients is not None:
            state = self.positions.at(state, query.coefficients)
        ask = resolve(state, query)
        own = query.candidates is None and query.coefficients is None
        if own and not query.history_titles:
            recent = self._recent.get(name)
            if recent is not None:  # removed since the line above
                recent.append(tuple(query.history))
        return self._batcher.submit(state, ask, deadline)

    def recommend(self, name: str, query: Query) -> Answer:
        """Ask and wait.

        Raises:
            TimedOutError: it took too long.
            RecCocktailError: see `admitted` and `submit`.
        """
        with self.admitted():
            future = self.submit(name, query)
            try:
                return future.result(self.limits.timeout)
            except (TimeoutError, CancelledError) as error:
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

    def domain(self, name: str) -> Served:
        """A domain as it is at this moment.

        Raises:
            UnavailableError: it could not be plugged in at the start.
            UnknownDomainError: there is none of that name.
        """
        found = self._domains.get(name)
        if found is not None:
            return found
        reason = self._failed.get(name)
        raise UnknownDomainError(name) if reason is None else UnavailableError(name, reason)

    def domains(self) -> list[Served]:
        """All domains, by name."""
        return [self._domains[name] for name in sorted(self._domains.copy())]

    @property
    def failed(self) -> dict[str, str]:
        """Domains that could not be plugged in at the start, and why."""
        return self._failed.copy()

    # -- domains come and go ------------------------------------------------------------------

    def restore(
        self,
        failed: Callable[[str, RecCocktailError], object],
        domains: Mapping[str, tuple[Path, Path]] | None = None,
    ) -> None:
        """Plug in what is given and what the state folder remembers, so far as it can be had.

        Until it is plugged in anew, one that cannot be had answers every request with the reason.

        Args:
            failed: told of each domain that cannot be had; the others are served.
            domains: name -> prepared folder and adapter folder.
        """
        given = domains or {}
        remembered = [name for name in self._remembered() if name not in {*given, *self._domains}]
        for name in (*given, *remembered):
            try:
                if name in given:
                    self.plug(name, *given[name])
                elif (record := self._require_store().record(name)) is not None:
                    self.plug(name, record.data, record.adapters[0])
            except RecCocktailError as error:
                self._failed[name] = str(error)
                failed(name, error)
            except Exception as error:  # a kind of damage that no reader of its files expects
                LOGGER.error("unexpected error", exc_info=error)
                damaged = RunError(f"Its files are damaged ({type(error).__name__}); see the log.")
                self._failed[name] = str(damaged)
                failed(name, damaged)

    def plug(self, name: str, data: Path, adapter: Path) -> Served:
        """Serve a domain, in place of one of the same name if there is one.

        If the state folder remembers the same folder and adapter, the cocktails that were mixed
        since are taken up; items that were added to the name always are.

        Args:
            name: what requests call it.
            data: prepared folder.
            adapter: adapter folder.

        Raises:
            DataError, AdapterError: see `served.build`.
            ConflictError: too many domains.
        """
        data, adapter = data.absolute(), adapter.absolute()
        with self._change(name):
            if name not in self._domains and len(self._domains) >= self.limits.domains:
                raise ConflictError(
                    f"{len(self._domains)} domains are served, the most allowed; remove one first."
                )
            former = self._store.record(name) if self._store else None
            record = Record(data, (adapter,))
            if former and former.data == data and former.adapters[0] == adapter:
                record = former
            added = self._store.items(name) if self._store else None
            state = self._build(name, record, added)
            if self._store:
                self._store.write_record(name, record)
            return self._publish(state)

    def remove(self, name: str) -> None:
        """Serve a domain no more and forget what was added to it.

        Raises:
            UnknownDomainError: there is none of that name.
            ConflictError: there is no state folder.
        """
        store = self._require_store()
        with self._change(name):
            if name not in self._failed:
                self.domain(name)
            store.remove(name)
            for table in (self._domains, self._failed, self._recent, self._mixes):
                table.pop(name, None)

    def add_items(self, name: str, items: Sequence[NewItem]) -> int:
        """Add items, which can be recommended at once and after a restart.

        Items that are there already, with the same title, are left as they are.

        Returns:
            How many were not there yet.

        Raises:
            UnknownDomainError, DataError: an id twice, or a title without a readable letter.
            ConflictError: an id that is there with another title, too many items, or no state
                folder.
        """
        store = self._require_store()
        with self._change(name):
            state = self.domain(name)
            fresh = fresh_items(state, items)
            if state.added.height + fresh.height > self.limits.added_items:
                raise ConflictError(
                    f"{name} takes {self.limits.added_items:,} added items at most; "
                    "prepare its folder anew with them."
                )
            if fresh.height:
                grown = state.with_items(fresh, self.models)
                store.write_items(name, grown.added)
                self._publish(grown)
            return fresh.height

    # -- mixing -------------------------------------------------------------------------------

    def start_mix(self, name: str, request: MixRequest) -> MixStatus:
        """Mix in the background; the cocktail takes its place when it is done.

        Raises:
            UnknownDomainError: there is none of that name.
            ConflictError: a mix is running, or there is no state folder.
        """
        store = self._require_store()
        with self._change(name):
            state = self.domain(name)
            if not self._mixing.acquire(blocking=False):
                raise ConflictError("A mix is running; wait for its end.")
            out = store.next_mix(name)
            running = self._mixes[name] = MixStatus("running", started=time.time())
        thread = threading.Thread(
            target=self._mix, args=(store, state, request, out), name="mix", daemon=True
        )
        thread.start()
        return running

    def mix_status(self, name: str) -> MixStatus:
        """How the last mix of a domain went.

        Raises:
            UnknownDomainError: there is none of that name.
        """
        self.domain(name)
        return self._mixes.get(name, MixStatus())

    def revert(self, name: str) -> Served:
        """Go back to the adapter before the last mix.

        A domain whose last cocktail is damaged comes back this way.

        Raises:
            UnknownDomainError: there is none of that name.
            ConflictError: there was no mix, or there is no state folder.
        """
        store = self._require_store()
        with self._change(name):
            if name not in self._failed:
                self.domain(name)
            record = store.record(name)
            if record is None or len(record.adapters) < 2:
                raise ConflictError(f"{name} was not mixed here; there is nothing to go back to.")
            record = Record(record.data, record.adapters[:-1])
            former = self._build(name, record, store.items(name))
            store.write_record(name, record)
            return self._publish(former)

    def _mix(self, store: Store, state: Served, request: MixRequest, out: Path) -> None:
        name, started = state.name, self._mixes[state.name].started
        try:
            cocktail = remix(state, request, list(self._recent[name]), self.backbone, out)
            # Encoded before the domain is locked: items can be added meanwhile.
            record = Record(state.domain.path, (out,))
            mixed = self._build(name, record, state.added)
            store.keep_mix(out)
            with self._change(name):
                now = self._domains.get(name)
                former = store.record(name)
                if self._closed or now is None or former is None or now.serial != state.serial:
                    status, message = "dropped", "the domain was changed or removed meanwhile"
                else:
                    since = now.added[state.added.height :]
                    mixed = mixed.with_items(since, self.models)
                    store.write_record(name, Record(former.data, (*former.adapters, out)))
                    self._publish(mixed)
                    status, message = "done", ""
            adapter = cocktail.name if status == "done" else None
            done = MixStatus(status, message, adapter, started, time.time())
        except RecCocktailError as error:
            done = MixStatus("failed", str(error), None, started, time.time())
        except Exception as error:  # a thread has nobody else to tell
            done = MixStatus(
                "failed", f"{type(error).__name__}: {error}", None, started, time.time()
            )
        finally:
            store.mix_ended(out)
            self._mixing.release()
        if name in self._domains:
            self._mixes[name] = done

    # -- the end ------------------------------------------------------------------------------

    def close(self) -> None:
        """Answer what waits, then stop. A mix that runs is dropped."""
        with self._guard:
            self._closed = True
        self.positions.close()
        self._batcher.close()
        if self._store:
            self._store.close()

    # -- helpers ------------------------------------------------------------------------------

    @contextmanager
    def _change(self, name: str) -> Iterator[None]:
        """Keep other changes of the domain waiting."""
        with self._guard:
            if self._closed:
                raise ClosedError
            lock = self._changing.setdefault(name, threading.RLock())
        with lock:
            yield

    def _build(self, name: str, record: Record, added: pl.DataFrame | None) -> Served:
        return build(name, record.data, record.adapters[-1], self.backbone, self.models, added)

    def _publish(self, state: Served) -> Served:
        self._recent.setdefault(state.name, deque(maxlen=RECENT_HISTORIES))
        self._domains[state.name] = state
        self._failed.pop(state.name, None)
        return state

    def _adapter_folders(self, name: str) -> list[Path]:
        """Where the parents of a domain's cocktail may lie."""
        record = self._store.record(name) if self._store else None
        served = [state.adapter_folder for state in self.domains()]
        return [*(record.adapters if record else ()), *self._adapters, *served]

    def _remembered(self) -> list[str]:
        return self._store.names() if self._store else []

    def _require_store(self) -> Store:
        if self._store is None:
            raise ConflictError(
                "Changes must survive a restart and this service has no folder for them; "
                "start it with --state."
            )
        return self._store
