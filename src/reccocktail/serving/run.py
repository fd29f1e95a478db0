"""Start the HTTP service: from folders to a listening process."""

import errno
import gc
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reccocktail import progress
from reccocktail.backbone import Backbone
from reccocktail.errors import RecCocktailError, RecipeError, RunError
from reccocktail.progress import say
from reccocktail.serving.keys import Keys
from reccocktail.serving.limits import MAX_BODY, Limits
from reccocktail.serving.paths import Allowed
from reccocktail.serving.service import Service

GRACE_SECONDS = 15
# The adapter may begin with a drive of Windows, whose colon is no separator.
_FOLDERS = re.compile(r"(?P<data>.+?):(?P<adapter>(?:[A-Za-z]:\\)?[^:]+)")


@dataclass(frozen=True)
class Serving:
    """How a service runs.

    Attributes:
        host: address to listen at.
        port: 0 takes a free one.
        state: folder for what must survive a restart.
        root: folder below which folders named in requests may lie; None refuses all.
        names: adapters that requests may name without a path.
        keys: who may ask and change.
        limits: see `Limits`.
        max_body: bytes of a request's body.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    state: Path | None = None
    root: Path | None = None
    names: Mapping[str, Path] = field(default_factory=dict)
    keys: Keys = field(default_factory=Keys)
    limits: Limits = field(default_factory=Limits)
    max_body: int = MAX_BODY

    def __post_init__(self) -> None:
        """Refuse a port that is none.

        Raises:
            RecipeError: so it is.
        """
        if not 0 <= self.port <= 65535:
            raise RecipeError(f"{self.port} is no port; give --port a number from 0 to 65535.")


def parse_domains(values: Sequence[str]) -> dict[str, tuple[Path, str]]:
    """`NAME=DIR:ADAPTER` values by name.

    Raises:
        RecipeError: one is not of this form, or a name comes twice.
    """
    found: dict[str, tuple[Path, str]] = {}
    for value in values:
        name, equals, rest = value.partition("=")
        parts = _FOLDERS.fullmatch(rest)
        if not (name and equals and parts):
            raise RecipeError(f"'{value}' is not of the form NAME=DIR:ADAPTER.")
        if name in found:
            raise RecipeError(f"The domain '{name}' is given twice; give each a name of its own.")
        found[name] = Path(parts["data"]), parts["adapter"]
    return found


def require_free(host: str, port: int) -> None:
    """Refuse an address that is taken before minutes of encoding are spent on it.

    Raises:
        RunError: another process listens there, or it may not be listened at.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                if sys.platform != "win32":  # there it would bind beside another one
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
    except UnicodeError as error:
        raise _cannot_listen(host, port, "no such host") from error
    except OSError as error:
        # A name of several addresses is served where one of them is this machine's.
        if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise _cannot_listen(host, port, error.strerror) from error


def _cannot_listen(host: str, port: int, reason: str | None = None) -> RunError:
    why = f" ({reason})" if reason else ""
    return RunError(f"Cannot listen at {host}:{port}{why}; choose another --host or --port.")


def page_address(host: str, port: int) -> str:
    """Where a browser on this machine finds the page."""
    here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    return f"http://{here.get(host, f'[{host}]' if ':' in host else host)}:{port}/"


SWITCH_SECONDS = 0.0005
"""How long a thread may keep the interpreter from the others. A pass of the model asks for it many
hundred times, and each time would wait up to 5 ms (Python's default) behind busy requests."""


def serve(
    backbone: Backbone, domains: Mapping[str, tuple[Path, Path]], settings: Serving | None = None
) -> None:
    """Plug the domains in, listen, and return when the process is asked to stop.

    Args:
        backbone: the language model.
        domains: name -> prepared folder and adapter folder.
        settings: see `Serving`.

    Raises:
        RunError: the packages of the extra `serve` are missing, the address is taken, a name is
            wrong, or the state folder cannot be used.
        RecCocktailError: none of `domains` can be served. One that cannot, beside others, is said
            and answers its requests with the reason.
    """
    try:
        import uvicorn

        from reccocktail.serving.app import create_app
        from reccocktail.serving.logs import event, log_json
        from reccocktail.serving.schemas import require_name
    except ImportError as error:
        raise RunError(
            f"The service needs {error.name}; install it with `pip install reccocktail[serve]`."
        ) from error
    settings = settings or Serving()
    for name in domains:
        require_name(name)
    require_free(settings.host, settings.port)
    allowed = Allowed(settings.root, settings.names) if settings.root else None
    service = Service(
        backbone,
        settings.limits,
        state=settings.state,
        allowed=allowed,
        adapters=list(settings.names.values()),
    )
    say(f"Plugging in {', '.join(domains) or 'what the state folder remembers'} ...")
    errors: list[RecCocktailError] = []

    def failed(name: str, error: RecCocktailError) -> None:
        say(f"{name} cannot be served: {error}")
        errors.append(error)

    service.changing.restore(failed, domains)
    if errors and not service.answering.domains():
        service.close()
        raise errors[0]
    app = create_app(service, settings.keys, max_body=settings.max_body)
    if settings.port:
        say(f"The page is at {page_address(settings.host, settings.port)}; Ctrl+C stops.")
    log_json()
    progress.console.quiet = True  # from here on, standard error is for log lines
    event("start", domains=[state.name for state in service.answering.domains()])
    switch = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.freeze()  # what is loaded stays; the collector need not walk it again
    config = uvicorn.Config(
        app,
        settings.host,
        settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    try:
        uvicorn.Server(config).run()
    except SystemExit as error:  # uvicorn logged why it cannot listen
        raise _cannot_listen(settings.host, settings.port) from error
    finally:
        sys.setswitchinterval(switch)
        progress.console.quiet = False
