"""The service as a process of its own: it starts, is killed at any moment, and stops cleanly."""

import itertools
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest

from reccocktail.cli import app
from reccocktail.errors import RecipeError
from reccocktail.serving.run import parse_domains, serve
from tests.helpers import one_sentence
from tests.serving import kitchen

ROOT = Path(__file__).parents[2]
KEY = "a-key-for-changes-0123"
# The pico backbone cannot be named on the command line: the same start, with a model in memory.
PROGRAM = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.pico import pico_backbone
from reccocktail.serving.keys import Keys
from reccocktail.serving.run import Serving, serve
data, adapter, state, port = sys.argv[1:]
settings = Serving(port=int(port), state=Path(state), keys=Keys(admin="a-key-for-changes-0123"))
serve(pico_backbone(), {"tastes": (Path(data), Path(adapter))}, settings)
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return kitchen(tmp_path_factory.mktemp("kitchen"))


class Process:
    """A service that runs in another process."""

    def __init__(self, here, state):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        arguments = [str(here.tastes.path), str(here.adapters["one"]), str(state), str(self.port)]
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(1200):
            try:
                if self.call("GET", "/readyz")[0] == 200:
                    return
            except OSError:
                assert self.process.poll() is None, self.process.stderr.read()
                time.sleep(0.1)
        raise AssertionError("the service does not start")

    def call(self, method, path, body=None):
        """Status and JSON of an answer; OSError where there is none."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json", "X-API-Key": KEY},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def add(self, *names):
        """Upload items of these ids."""
        items = [{"item_id": name, "title": f"red moon {name[-1]}"} for name in names]
        return self.call("PUT", "/v1/domains/tastes/items", {"items": items})[0]

    def end(self, sign):
        """Send a signal, wait, and give what was logged."""
        self.process.send_signal(sign)
        _, log = self.process.communicate(timeout=30)
        return log


def test_what_was_acknowledged_outlives_a_kill_at_any_moment(here, tmp_path):
    """Uploads of ten items, one after the other, until kill -9 strikes somewhere in one.

    The second life finds all of them, and ends cleanly.
    """
    service = Process(here, tmp_path / "state")
    known, unsure = set(), set()
    wait = random.uniform(0.3, 0.9)
    kill = f"import os, time; time.sleep({wait}); os.kill({service.process.pid}, {SIGKILL:d})"
    killer = subprocess.Popen([sys.executable, "-S", "-c", kill])
    with pytest.raises((OSError, HTTPException)):
        for upload in itertools.count():
            unsure = {f"{upload}-{n}" for n in range(10)}
            assert service.add(*unsure) == 200
            known |= unsure
    killer.wait()
    service.process.communicate(timeout=60)

    service = Process(here, tmp_path / "state")
    (domain,) = service.call("GET", "/v1/domains")[1]["domains"]
    last = unsure - known
    assert domain["added_items"] in (len(known), len(known | last))  # whole uploads only
    if known:
        body = {"history": ["i1"], "candidates": sorted(known)}
        status, found = service.call("POST", "/v1/domains/tastes/rank", body)
        assert status == 200 and {item["item_id"] for item in found["items"]} == known
    assert service.add(*last) == 200  # the client tries again, whatever became of it
    (domain,) = service.call("GET", "/v1/domains")[1]["domains"]
    assert domain["added_items"] == len(known | last)
    assert service.call("GET", "/nothing%0Ahere")[0] == 404

    log = service.end(SIGTERM)
    assert service.process.returncode in (0, -SIGTERM)
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    messages = [line["message"] for line in lines]
    assert messages[0] == "start" and messages.count("request") >= 4
    assert "Traceback" not in log


def test_domains_on_the_command_line():
    found = parse_domains(["a=x/y:z", "b=C:/d:smollm2-135m/dense"])
    assert found == {"a": (Path("x/y"), "z"), "b": (Path("C:/d"), "smollm2-135m/dense")}
    for bad in (["a"], ["a=b"], ["=b:c"], ["a=:c"], ["a=b:"], ["a=b:c", "a=d:e"]):
        with pytest.raises(RecipeError) as error:
            parse_domains(bad)
        one_sentence(error.value)


def test_names_that_fit_no_address_are_refused(here):
    for name in ("a/b", "", "-a", "a b", "a\n"):
        with pytest.raises(RecipeError) as error:
            serve(here.backbone, {name: (here.tastes.path, here.adapters["one"])})
        one_sentence(error.value)


def test_the_command_parses():
    words = "serve --domain shop=data/shop:cocktail --port 8000 --state s --root r".split()
    command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    assert command.__name__ == "serve" and bound.arguments["domain"] == ["shop=data/shop:cocktail"]
