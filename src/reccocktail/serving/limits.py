"""What a service takes on, how a mix goes, and what it answers when it cannot."""

from dataclasses import dataclass

from reccocktail.errors import RecipeError, RunError

MAX_BODY = 4 * 2**20  # bytes of a request's body


class UnknownDomainError(RunError):
    """No domain of that name is served."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no domain '{name}' here; GET /v1/domains lists them.")


class UnavailableError(RunError):
    """A domain that should be served and cannot be; the others are."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"The domain '{name}' cannot be served: {reason}")


class ConflictError(RunError):
    """The request does not fit what the service holds or does at the moment."""


class TimedOutError(RunError):
    """A request took longer than it may."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The answer took more than {seconds:g} s; try again later.")


@dataclass(frozen=True)
class Limits:
    """What one service takes on.

    Attributes:
        queue: requests under way or waiting; more are turned away.
        batch: requests that share one pass.
        linger: how long the first of a batch waits for company, seconds.
        timeout: how long a request may take, seconds.
        cached_users: user vectors kept.
        model_bytes: copies of weights kept for domains, see `Models`.
        domains: domains at most.
        added_items: items that may be added to one domain.
    """

    queue: int = 256
    batch: int = 32
    linger: float = 0.003
    timeout: float = 10.0
    cached_users: int = 10_000
    model_bytes: int = 4 * 2**30
    domains: int = 64
    added_items: int = 1_000_000

    def __post_init__(self) -> None:
        """Refuse limits under which nothing is answered.

        Raises:
            RecipeError: one of them is too low.
        """
        if min(self.queue, self.batch) < 1 or not 0 < self.timeout < float("inf"):
            raise RecipeError("Queue and batch must be at least 1 and the timeout above 0.")


@dataclass(frozen=True)
class MixStatus:
    """The last mix of a domain: `idle`, `running`, `done`, `failed` or `dropped`, and why."""

    status: str = "idle"
    message: str = ""
    adapter: str | None = None
    started: float | None = None
    finished: float | None = None
