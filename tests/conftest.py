"""What every test gets: no network, a cache folder of its own, and one thread for torch."""

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before any import of the hub's client, which reads it once; child processes inherit it too.
os.environ["HF_HUB_OFFLINE"] = "1"
# A busy machine is slow, and that is no failure; fifty examples keep the whole suite short.
settings.register_profile("suite", deadline=None, max_examples=50)
settings.load_profile("suite")
USERS_CACHE = os.environ.get("RECCOCKTAIL_CACHE")


class NetworkBlockedError(OSError):
    """A test tried to leave this machine."""


def _is_local(host: str | bytes | None) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(name).split("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Refuse every connection and name look-up that is not for this machine."""
    connect, connect_ex, look_up = (
        socket.socket.connect,
        socket.socket.connect_ex,
        socket.getaddrinfo,
    )

    def check(own: socket.socket, address: Any) -> None:
        if own.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
            raise NetworkBlockedError(f"Tests run offline; refused a connection to {address[0]}.")

    def guarded(own: socket.socket, address: Any) -> None:
        check(own, address)
        connect(own, address)

    def guarded_ex(own: socket.socket, address: Any) -> int:
        check(own, address)
        return connect_ex(own, address)

    def guarded_look_up(host: Any, *rest: Any, **named: Any) -> Any:
        if not _is_local(host):
            raise NetworkBlockedError(f"Tests run offline; refused to look up {host}.")
        return look_up(host, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        patch.setattr(socket.socket, "connect_ex", guarded_ex)
        patch.setattr(socket, "getaddrinfo", guarded_look_up)
        yield


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, so that no test sees what another one or the user has fetched."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("RECCOCKTAIL_CACHE", str(folder))
    return folder


@pytest.fixture
def users_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own cache folder, for slow tests; skips where SmolLM2 was never fetched."""
    folder = Path(USERS_CACHE) if USERS_CACHE else Path.home() / ".cache" / "reccocktail"
    if not (folder / "data" / "smollm2-135m").is_dir():
        pytest.skip(
            "SmolLM2 is not in the cache; `reccocktail data fetch smollm2-135m` puts it there"
        )
    monkeypatch.setenv("RECCOCKTAIL_CACHE", str(folder))
    return folder
