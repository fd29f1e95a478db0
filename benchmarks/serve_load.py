"""Load on the HTTP service, from a second process on the loopback interface.

    python benchmarks/serve_load.py --data PREPARED --adapter ADAPTER --out results/serve_load.json

For every --data, the service is started as a user would start it, and clients that wait for each
answer ask it for a while: 1, 8 and 32 of them, with histories that were never asked for (every one
is read by the model) and with the same few again (user vectors come from the cache). Then 4 times
as many clients as the service has places for (overload), 10,000 requests with histories of one
title while the service's memory is watched, new items while clients ask, and with --plug-in
another domain while clients ask.
"""

import argparse
import http.client
import json
import os
import random
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from program import program
from provenance import machine, write_result
from reccocktail.data.domain import Domain
from reccocktail.errors import RunError
from reccocktail.progress import say

NAME = "domain"
QUEUE = 32
NEW_ITEMS = 1000
HISTORY_LENGTH = 8
Ask = Callable[[], bytes]


@dataclass
class Load:
    """What clients saw: seconds of each answered request, and how often each status came."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    wall: float = 0.0

    def summary(self) -> dict[str, Any]:
        """Requests a second and latencies of the answers 200, in milliseconds."""
        answered = self.statuses[200]
        found: dict[str, Any] = {
            "answered": answered,
            "statuses": {str(status): n for status, n in sorted(self.statuses.items())},
            "broken_connections": self.broken,
            "requests_per_second": answered / self.wall,
        }
        if self.seconds:
            for percent in (50, 95, 99):
                found[f"p{percent}_ms"] = 1000 * float(np.percentile(self.seconds, percent))
        return found


class Server:
    """The service in a process of its own."""

    def __init__(self, data: Path, arguments: argparse.Namespace, state: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.key = secrets.token_hex(16)
        command = [sys.executable, "-m", "reccocktail.cli", "serve", "--port", str(self.port)]
        command += ["--domain", f"{NAME}={data}:{arguments.adapter}", "--state", str(state)]
        command += ["--queue", str(QUEUE)]
        command += ["--backbone", arguments.backbone] if arguments.backbone else []
        command += ["--dtype", arguments.dtype] if arguments.dtype else []
        command += ["--root", str(root(arguments))] if arguments.plug_in else []
        self._log = (state.parent / "log").open("w")
        environment = os.environ | {"RECCOCKTAIL_ADMIN_KEY": self.key}
        self.process = subprocess.Popen(command, env=environment, stderr=self._log)
        while not self._ready():
            if self.process.poll() is not None:
                self._log.close()
                raise RunError(f"The service did not start: {(state.parent / 'log').read_text()}")
            time.sleep(0.2)

    def _ready(self) -> bool:
        try:
            return self.request("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            headers = {"Content-Type": "application/json", "X-API-Key": self.key}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def memory(self) -> int | None:
        """Resident memory of the process, bytes; None where the system does not tell."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return None
        found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
        return int(found[1]) * 1024 if found else None

    def counters(self) -> dict[str, float]:
        """What the service says of its batches and its cache."""
        text = self.request("GET", "/metrics")[1].decode()
        names = ("batches", "batched_requests", "user_cache_hits", "user_cache_misses")
        return {
            name: float(re.findall(rf"^reccocktail_{name}_total (\S+)", text, re.MULTILINE)[0])
            for name in names
        }

    def end(self) -> None:
        """Stop it."""
        self.process.terminate()
        self.process.wait(60)
        self._log.close()


def clients(server: Server, number: int, ask: Ask, until: Callable[[int], bool]) -> Load:
    """Let clients ask, each waiting for its answer, until `until(requests so far)` is false."""
    load, lock = Load(), threading.Lock()
    count = iter(range(sys.maxsize))
    path = f"/v1/domains/{NAME}/recommend"

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        while until(next(count)):
            started = time.perf_counter()
            try:
                connection.request("POST", path, ask(), {"Content-Type": "application/json"})
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                with lock:
                    load.broken += 1
                continue
            with lock:
                load.statuses[response.status] += 1
                if response.status == 200:
                    load.seconds.append(time.perf_counter() - started)
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(number)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.wall = time.perf_counter() - started
    return load


def for_seconds(seconds: float) -> Callable[[int], bool]:
    """Ask for so long."""
    end = time.monotonic() + seconds
    return lambda _: time.monotonic() < end


def fresh(domain: Domain, seed: int, length: int = HISTORY_LENGTH) -> Ask:
    """Histories drawn at random: hardly one comes twice."""
    rng, ids = random.Random(seed), domain.item_ids
    size = min(length, len(ids) - 1)
    return lambda: json.dumps({"history": rng.sample(ids, size), "k": 10}).encode()


def repeated(domain: Domain, seed: int) -> Ask:
    """The same hundred histories again and again."""
    source = fresh(domain, seed)
    again = [source() for _ in range(100)]
    rng = random.Random(seed)
    return lambda: rng.choice(again)


@contextmanager
def running(data: Path, arguments: argparse.Namespace) -> Iterator[Server]:
    """A service for the time of the block."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(data, arguments, Path(folder) / "state")
        try:
            yield server
        finally:
            server.end()


def asked_meanwhile(
    server: Server, domain: Domain, seed: int, seconds: float, work: Callable[[], None]
) -> Load:
    """Do something while eight clients ask; they begin `seconds` before it, a second at most."""
    load = Load()

    def asking() -> None:
        nonlocal load
        load = clients(server, 8, fresh(domain, seed), lambda _: not done.is_set())

    done = threading.Event()
    thread = threading.Thread(target=asking)
    thread.start()
    time.sleep(min(1.0, seconds))
    try:
        work()
    finally:
        done.set()
        thread.join()
    return load


def uploads(server: Server, domain: Domain, seconds: float) -> dict[str, Any]:
    """New items in chunks while eight clients ask."""
    rng = random.Random(7)
    took: list[float] = []
    statuses: list[int] = []

    def upload() -> None:
        for start in range(0, NEW_ITEMS, 100):
            items = [
                {"item_id": f"new-{n}", "title": rng.choice(domain.titles)}
                for n in range(start, start + 100)
            ]
            body = json.dumps({"items": items}).encode()
            began = time.perf_counter()
            statuses.append(server.request("PUT", f"/v1/domains/{NAME}/items", body)[0])
            took.append(time.perf_counter() - began)

    load = asked_meanwhile(server, domain, 5, seconds, upload)
    body = json.dumps({"history": domain.item_ids[:2], "k": 10, "new_only": True}).encode()
    found = json.loads(server.request("POST", f"/v1/domains/{NAME}/recommend", body)[1])["items"]
    return {
        "items": NEW_ITEMS,
        "failed_uploads": sum(status != 200 for status in statuses),
        "seconds_per_100_items": {"median": float(np.median(took)), "max": max(took)},
        "requests_meanwhile": load.summary(),
        "new_items_in_a_top_10_of_new_items": sum(i["item_id"].startswith("new-") for i in found),
    }


def root(arguments: argparse.Namespace) -> Path:
    """The folder below which the domain to be plugged in and its adapter lie."""
    folders = [arguments.plug_in.absolute().parent]
    if Path(arguments.adapter).exists():
        folders.append(Path(arguments.adapter).absolute().parent)
    return Path(os.path.commonpath(folders))


def plug_in(server: Server, domain: Domain, arguments: argparse.Namespace) -> dict[str, Any]:
    """Another domain, plugged in while eight clients ask the first one."""
    below = root(arguments)
    adapter = Path(arguments.adapter)
    named = str(adapter.absolute().relative_to(below)) if adapter.exists() else arguments.adapter
    other = Domain.load(arguments.plug_in)
    where = str(arguments.plug_in.absolute().relative_to(below))
    body = json.dumps({"data": where, "adapter": named}).encode()
    status, took = 0, 0.0

    def plug() -> None:
        nonlocal status, took
        began = time.perf_counter()
        status = server.request("PUT", "/v1/domains/other?wait=100", body)[0]
        took = time.perf_counter() - began

    load = asked_meanwhile(server, domain, 6, arguments.seconds, plug)
    asked = json.dumps({"history": other.item_ids[:2], "k": 10}).encode()
    answer = server.request("POST", "/v1/domains/other/recommend", asked)
    return {
        "items": len(other.item_ids),
        "status": status,
        "seconds": took,
        "requests_meanwhile": load.summary(),
        "recommended_afterwards": len(json.loads(answer[1])["items"]),
    }


def memory(server: Server, domain: Domain, requests: int) -> dict[str, Any]:
    """Resident memory after every tenth of many requests, whose histories are short."""
    ask = fresh(domain, 11, length=1)
    clients(server, 8, ask, lambda number: number < requests // 10)  # caches fill, pools warm up
    resident = [server.memory()]
    for _ in range(10):
        clients(server, 8, ask, lambda number: number < requests // 10)
        resident.append(server.memory())
    known = [size for size in resident if size is not None]
    growth = known[-1] - known[0] if known else None
    return {"requests": requests, "resident_bytes": resident, "growth_bytes": growth}


def measure(data: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """All cells of one domain."""
    domain = Domain.load(data)
    found: dict[str, Any] = {
        "data": {"name": domain.name, "sha256": domain.sha256, "items": len(domain.item_ids)}
    }
    with running(data, arguments) as server:
        clients(server, 1, fresh(domain, 1), for_seconds(min(2.0, arguments.seconds)))
        for kind, histories in (("fresh", fresh), ("repeated", repeated)):
            for number in arguments.clients:
                say(f"{domain.name}: {number} clients, {kind} histories ...")
                before = server.counters()
                load = clients(
                    server, number, histories(domain, number), for_seconds(arguments.seconds)
                )
                after = server.counters()
                passes = max(1.0, after["batches"] - before["batches"])
                found[f"{kind}/{number}"] = load.summary() | {
                    "requests_per_batch": (after["batched_requests"] - before["batched_requests"])
                    / passes
                }
        say(f"{domain.name}: overload ...")
        load = clients(server, 4 * QUEUE, fresh(domain, 3), for_seconds(arguments.seconds))
        found["overload"] = load.summary() | {"clients": 4 * QUEUE, "places": QUEUE}
        say(f"{domain.name}: memory over {arguments.requests:,} requests ...")
        found["memory"] = memory(server, domain, arguments.requests)
        say(f"{domain.name}: new items under load ...")
        found["uploads"] = uploads(server, domain, arguments.seconds)
        if arguments.plug_in:
            say(f"{domain.name}: another domain under load ...")
            found["plug_in"] = plug_in(server, domain, arguments)
    return found


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--adapter", required=True, help="adapter folder or shipped base spirit")
    parser.add_argument("--backbone")
    parser.add_argument("--dtype", help="of the service's weights")
    parser.add_argument("--plug-in", type=Path, help="prepared folder to plug in under load")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each cell")
    parser.add_argument("--requests", type=int, default=10_000, help="of the memory cell")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(words)
    result = {
        **machine(torch.device("cpu")),
        "seconds_per_cell": arguments.seconds,
        "dtype": arguments.dtype or "float32",
        "domains": [measure(data, arguments) for data in arguments.data],
    }
    write_result(arguments.out, result)
    say(f"Written: {arguments.out}")


if __name__ == "__main__":
    program(main)
