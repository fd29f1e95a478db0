"""The room where domains change: plugged in, removed, given items, mixed, restored.

Changes of one domain wait for each other. Each is on disk before it is published to the room where
requests are answered; that is the one way between the two. Back come only the latest histories,
which a mix looks at.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import polars as pl

from reccocktail.backbone import Backbone
from reccocktail.data.domain import Domain
from reccocktail.errors import AdapterError, RecCocktailError, RunError
from reccocktail.serving.answering import Answering
from reccocktail.serving.batching import ClosedError
from reccocktail.serving.items import NewItem, fresh_items
from reccocktail.serving.limits import ConflictError, Limits, MixStatus
from reccocktail.serving.logs import unexpected, warn
from reccocktail.serving.remix import MixRequest, remix
from reccocktail.serving.served import Served, build
from reccocktail.serving.store import Record, Store
from reccocktail.serving.weights import Models
from reccocktail.training.adapter import Adapter


class Changing:
    """Changes the domains of a service, and remembers how over a restart."""

    def __init__(
        self,
        answering: Answering,
        backbone: Backbone,
        models: Models,
        limits: Limits,
        store: Store | None,
    ) -> None:
        """Publish to `answering`; without a store only the calling program plugs domains in."""
        self._answering, self._backbone, self._models = answering, backbone, models
        self._limits, self._store = limits, store
        self._locks: dict[str, threading.RLock] = {}
        self._mixes: dict[str, MixStatus] = {}
        self._mixing = threading.Lock()  # one search at a time: it takes the memory of a backbone
        self._guard = threading.Lock()
        self._closed = False

    def require_store(self) -> Store:
        """The state folder, without which requests change nothing.

        Raises:
            ConflictError: there is none.
        """
        if self._store is None:
            raise ConflictError(
                "Changes must survive a restart and this service has no folder for them; "
                "start it with --state."
            )
        return self._store

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
        names = self._store.names() if self._store else []
        remembered = [n for n in names if n not in given and self._answering.find(n) is None]
        for name in (*given, *remembered):
            try:
                if name in given:
                    self.plug(name, *given[name])
                elif (record := self.require_store().record(name)) is not None:
                    self.plug(name, record.data, record.adapters[0])
            except RecCocktailError as error:
                self._answering.unavailable(name, str(error))
                failed(name, error)
            except Exception as error:  # a kind of damage that no reader of its files expects
                unexpected(error, domain=name)
                damaged = RunError(f"Its files are damaged ({type(error).__name__}); see the log.")
                self._answering.unavailable(name, str(damaged))
                failed(name, damaged)

    def plug(self, name: str, data: Path, adapter: Path) -> Served:
        """Serve a domain, in place of one of the same name if there is one.

        If the state folder remembers the same folder and adapter, by path and by hash, the
        cocktails that were mixed since are taken up; items that were added to the name always are.

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
            served = len(self._answering.domains())
            if self._answering.find(name) is None and served >= self._limits.domains:
                raise ConflictError(
                    f"{served} domains are served, the most allowed; remove one first."
                )
            record = self._with_mixes(name, Record(data, (adapter,)))
            added = self._store.items(name) if self._store else None
            state = self._build(name, record, added)
            self._require_open()  # still: closed, the state folder may be another's by now
            if self._store:
                self._store.write_record(name, _hashed(record, state))
            return self._answering.publish(state)

    def remove(self, name: str) -> None:
        """Serve a domain no more and forget what was added to it.

        Raises:
            UnknownDomainError: there is none of that name.
            ConflictError: there is no state folder.
        """
        store = self.require_store()
        with self._change(name):
            self._require_known(name)
            store.remove(name)
            self._answering.withdraw(name)
            with self._guard:  # a mix that ends now may be writing how it went
                self._mixes.pop(name, None)

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
        store = self.require_store()
        with self._change(name):
            state = self._answering.domain(name)
            fresh = fresh_items(state, items)
            if state.added.height + fresh.height > self._limits.added_items:
                raise ConflictError(
                    f"{name} takes {self._limits.added_items:,} added items at most; "
                    "prepare its folder anew with them."
                )
            if fresh.height:
                grown = state.with_items(fresh, self._models)
                store.write_items(name, grown.added)
                self._answering.publish(grown)
            return fresh.height

    # -- mixing -------------------------------------------------------------------------------

    def start_mix(self, name: str, request: MixRequest) -> MixStatus:
        """Mix in the background; the cocktail takes its place when it is done.

        Raises:
            UnknownDomainError: there is none of that name.
            ConflictError: a mix is running or cannot start, or there is no state folder.
        """
        store = self.require_store()
        with self._change(name):
            state = self._answering.domain(name)
            with self._guard:  # whoever was told that a mix ended can start the next one
                if not self._mixing.acquire(blocking=False):
                    raise ConflictError("A mix is running; wait for its end.")
            started = time.time()
            running = self._mixes[name] = MixStatus("running", started=started)
            try:
                thread = threading.Thread(
                    target=self._mix,
                    args=(store, state, request, store.next_mix(name), started),
                    name="mix",
                    daemon=True,
                )
                thread.start()
            except Exception as error:  # then no thread is there to free the lock
                refused = ConflictError(f"The mix cannot start ({error}); try again later.")
                self._end_mix(name, MixStatus("failed", str(refused), None, started, time.time()))
                raise refused from error
            return running

    def mix_status(self, name: str) -> MixStatus:
        """How the last mix of a domain went.

        Raises:
            UnknownDomainError: there is none of that name.
        """
        self._answering.domain(name)
        return self._mixes.get(name, MixStatus())

    def revert(self, name: str) -> Served:
        """Go back to the adapter before the last mix.

        A domain whose last cocktail is damaged comes back this way.

        Raises:
            UnknownDomainError: there is none of that name.
            ConflictError: there was no mix, or there is no state folder.
        """
        store = self.require_store()
        with self._change(name):
            self._require_known(name)
            record = store.record(name)
            if record is None or len(record.adapters) < 2:
                raise ConflictError(f"{name} was not mixed here; there is nothing to go back to.")
            record = replace(record, adapters=record.adapters[:-1])
            former = self._build(name, record, store.items(name))
            store.write_record(name, _hashed(record, former))
            return self._answering.publish(former)

    def _mix(
        self, store: Store, state: Served, request: MixRequest, out: Path, started: float
    ) -> None:
        name = state.name
        status, message, adapter = "failed", "", None
        try:
            recent = self._answering.recent(name)
            cocktail = remix(state, request, recent, self._backbone, out)
            # Encoded before the domain is locked: items can be added meanwhile.
            record = Record(state.domain.path, (out,))
            mixed = self._build(name, record, state.added)
            store.keep_mix(out)
            with self._change(name):
                now = self._answering.find(name)
                former = store.record(name)
                if self._closed or now is None or former is None or now.serial != state.serial:
                    status, message = "dropped", "the domain was changed or removed meanwhile"
                else:
                    since = now.added[state.added.height :]
                    mixed = mixed.with_items(since, self._models)
                    store.write_record(name, replace(former, adapters=(*former.adapters, out)))
                    self._answering.publish(mixed)
                    status, adapter = "done", cocktail.name
        except RecCocktailError as error:
            message = str(error)
        except Exception as error:  # a thread has nobody else to tell
            unexpected(error, domain=name)
            message = f"{type(error).__name__}: {error}"
        finally:
            # After the end of the service the folder may be another's; the next start tidies up.
            with suppress(RecCocktailError, OSError), self._change(name):
                store.mix_ended(out)
            self._end_mix(name, MixStatus(status, message, adapter, started, time.time()))

    def _end_mix(self, name: str, ended: MixStatus) -> None:
        """Say how a mix went and let the next one start, at once."""
        with self._guard:
            if self._answering.find(name) is not None:
                self._mixes[name] = ended
            self._mixing.release()

    # -- helpers ------------------------------------------------------------------------------

    def close(self) -> None:
        """Change nothing more. A mix that runs is dropped."""
        with self._guard:
            self._closed = True

    @contextmanager
    def _change(self, name: str) -> Iterator[None]:
        """Keep other changes of the domain waiting."""
        self._require_open()
        with self._guard:
            lock = self._locks.setdefault(name, threading.RLock())
        with lock:
            yield

    def _require_open(self) -> None:
        with self._guard:
            if self._closed:
                raise ClosedError

    def _build(self, name: str, record: Record, added: pl.DataFrame | None) -> Served:
        folder = record.adapters[-1]
        return build(name, record.data, folder, self._backbone, self._models, added)

    def _with_mixes(self, name: str, record: Record) -> Record:
        """The record with the mixes that were made since the same was plugged in, if any were.

        Paths do not tell: a nightly training puts another adapter in the place of the last one.
        """
        former = self._store.record(name) if self._store else None
        if former is None or not (mixes := len(former.adapters) - 1):
            return record
        if _places(former) != _places(record):
            warn(
                f"{name}: another prepared folder or adapter is plugged in than it was mixed with; "
                f"its mixes ({mixes}) are dropped.",
                domain=name,
                mixes=mixes,
            )
            return record
        data, adapter = Domain.load(record.data).sha256, former.adapter_sha256
        with suppress(AdapterError):  # one that cannot be read is no other; the mixes go without
            adapter = Adapter.load(record.adapters[0]).sha256
        pairs = {
            f"prepared folder {record.data}": (former.data_sha256, data),
            f"adapter {record.adapters[0]}": (former.adapter_sha256, adapter),
        }
        others = [what for what, (before, now) in pairs.items() if before not in (None, now)]
        if others:
            warn(
                f"{name}: the {' and the '.join(others)} changed since it was mixed here; its "
                f"mixes ({mixes}) are dropped.",
                domain=name,
                mixes=mixes,
            )
            return record
        return replace(former, data_sha256=data, adapter_sha256=adapter)

    def _require_known(self, name: str) -> None:
        """Refuse a name that is neither served nor should be."""
        if name not in self._answering.failed:
            self._answering.domain(name)


def _places(record: Record) -> tuple[Path, Path]:
    """Prepared folder and adapter that were plugged in, however their paths are spelled."""
    return record.data.resolve(), record.adapters[0].resolve()


def _hashed(record: Record, state: Served) -> Record:
    """The record of what was plugged in, with its hashes; beside mixes they are those of before."""
    if len(record.adapters) > 1:
        return record
    return replace(record, data_sha256=state.domain.sha256, adapter_sha256=state.update_sha256)
