"""The service without HTTP: one backbone, any number of domains, many users at once."""

from collections.abc import Sequence
from pathlib import Path

from reccocktail.backbone import Backbone
from reccocktail.serving.answering import Answering
from reccocktail.serving.changing import Changing
from reccocktail.serving.limits import Limits
from reccocktail.serving.paths import Allowed
from reccocktail.serving.store import Store
from reccocktail.serving.weights import Models


class Service:
    """Two rooms: one answers the users of many domains, the other changes the domains.

    Attributes:
        limits: see `Limits`.
        allowed: where folders named in requests may lie; None refuses all.
        models: the backbone with the adapters that are in use.
        answering: takes requests.
        changing: takes changes, and publishes what comes of them to `answering`.
    """

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
        self.limits, self.allowed = limits or Limits(), allowed
        self.models = Models(backbone, self.limits.model_bytes)
        self._store = Store(state) if state else None
        self._adapters = tuple(adapters)
        self.answering = Answering(backbone, self.models, self.limits, self._parents)
        self.changing = Changing(self.answering, backbone, self.models, self.limits, self._store)

    def close(self) -> None:
        """Answer what waits, then stop. A mix that runs is dropped."""
        self.changing.close()
        self.answering.close()
        if self._store:
            self._store.close()

    def _parents(self, name: str) -> list[Path]:
        """Adapter folders that a domain's cocktail may have been mixed from."""
        record = self._store.record(name) if self._store else None
        return [*(record.adapters if record else ()), *self._adapters]
