"""The service as a process of its own: it starts, is killed at any moment, and stops cleanly."""

import itertools
import json
import random
import socket
import subprocess
import sys
from http.client import HTTPException
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest

from reccocktail.cli import app
from reccocktail.errors import RecipeError, RunError
from reccocktail.serving.run import Serving, page_address, parse_domains, require_free, serve
from tests.helpers import one_sentence
from tests.service_process import Process


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
    windows = parse_domains([r"shop=C:\data\shop:C:\cocktail", r"a=C:\d:own"])
    assert windows["shop"] == (Path(r"C:\data\shop"), r"C:\cocktail")
    assert windows["a"] == (Path(r"C:\d"), "own")
    for bad in (["a"], ["a=b"], ["=b:c"], ["a=:c"], ["a=b:"], ["a=b:c", "a=d:e"]):
        with pytest.raises(RecipeError) as error:
            parse_domains(bad)
        one_sentence(error.value)


def test_names_that_fit_no_address_are_refused(here):
    for name in ("a/b", "", "-a", "a b", "a\n"):
        with pytest.raises(RecipeError) as error:
            serve(here.backbone, {name: (here.tastes.path, here.adapters["one"])})
        one_sentence(error.value)


def test_a_taken_address_is_refused_before_anything_is_encoded(here, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(RunError, match=rf"Cannot listen at 127.0.0.1:{port} \(") as error:
            serve(
                here.backbone,
                {"tastes": (here.tastes.path, here.adapters["one"])},
                Serving(port=port),
            )
    one_sentence(error.value)
    assert "Plugging in" not in capsys.readouterr().err
    require_free("127.0.0.1", port)  # its owner is gone
    with pytest.raises(RunError, match=r"Cannot listen at no\.such\.host\.invalid:80") as error:
        require_free("no.such.host.invalid", 80)
    one_sentence(error.value)


def test_a_host_that_no_name_service_takes_is_refused(monkeypatch):
    def encoded(host, *more, **named):
        host.encode("idna")

    monkeypatch.setattr(socket, "getaddrinfo", encoded)
    with pytest.raises(RunError, match="no such host") as error:
        require_free("x" * 70, 80)
    one_sentence(error.value)


def test_where_the_page_is():
    assert page_address("127.0.0.1", 8000) == "http://127.0.0.1:8000/"
    assert page_address("0.0.0.0", 80) == "http://127.0.0.1:80/"
    assert page_address("::", 80) == page_address("::1", 80) == "http://[::1]:80/"


def test_the_command_parses():
    words = "serve --domain shop=data/shop:cocktail --port 8000 --state s --root r".split()
    command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    assert command.__name__ == "serve" and bound.arguments["domain"] == ["shop=data/shop:cocktail"]
