"""Ports for processes that a test starts: none that another process may be given meanwhile."""

import itertools
import os
import socket

_EACH = 1000
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
# Below what systems hand out, and of this test process alone: a port that the system gave to a
# probe is free again before the process binds it, and another test's service may take it.
_START = 20_000 + _EACH * (_WORKER % 10)
_NEXT = itertools.cycle(range(_START, _START + _EACH))


def free_port() -> int:
    """A port of this machine that nobody listens at; each is given once, until all were."""
    for _ in range(_EACH):
        port = next(_NEXT)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("no port of this test process is free")
