"""Domains plugged in while the service runs: in the background, one after the other."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from reccocktail.errors import RecCocktailError
from reccocktail.serving.changing import Changing
from reccocktail.serving.limits import ConflictError
from reccocktail.serving.logs import unexpected
from reccocktail.serving.served import Served


class Plugging:
    """Plug-ins under way, and why others failed."""

    def __init__(self, changing: Changing) -> None:
        """Plug in through this room."""
        self._changing = changing
        self._worker = ThreadPoolExecutor(1, "plugging")
        self._loading: dict[str, Future[Served]] = {}
        self.failed: dict[str, str] = {}

    @property
    def loading(self) -> list[str]:
        """Names under way."""
        return sorted(name for name, plug in self._loading.copy().items() if not plug.done())

    def start(self, name: str, data: Path, adapter: Path) -> "Future[Served]":
        """Plug a domain in; the future tells when it is ready, or why it cannot be.

        Raises:
            ConflictError: the name is being plugged in, or there is no state folder.
        """
        self._changing.require_store()
        if name in self.loading:
            raise ConflictError(f"'{name}' is being plugged in; wait for its end.")
        self.forget(name)
        future = self._worker.submit(self._changing.plug, name, data, adapter)
        self._loading[name] = future
        future.add_done_callback(lambda done: self._ended(name, done))
        return future

    def forget(self, name: str) -> bool:
        """Drop why a plug-in failed; whether one had."""
        return self.failed.pop(name, None) is not None

    def close(self) -> None:
        """Start no more."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _ended(self, name: str, plug: "Future[Served]") -> None:
        self._loading.pop(name, None)
        error = None if plug.cancelled() else plug.exception()
        if isinstance(error, RecCocktailError):
            self.failed[name] = str(error)
        elif error is not None:
            unexpected(error, domain=name)
            self.failed[name] = f"{type(error).__name__}: {error}"
