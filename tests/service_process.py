"""A service in a process of its own, to be killed: as the command starts it, on a pico backbone."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.ports import free_port

ROOT = Path(__file__).parents[1]
KEY = "a-key-for-changes-0123"
# The pico backbone cannot be named on the command line: the same start, with a model in memory.
# Where the file `strike` names a file or folder, the process kills itself when that one has been
# written and is to be renamed into place.
PROGRAM = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.pico import pico_backbone
from reccocktail.serving.keys import Keys
from reccocktail.serving.run import Serving, serve
data, adapter, root, state, port = sys.argv[1:]
strike, replace = Path(state + ".strike"), os.replace
def striking(source, target):
    if strike.is_file() and Path(target).match(strike.read_text()):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = striking
settings = Serving(
    port=int(port), state=Path(state), root=Path(root), keys=Keys(admin="a-key-for-changes-0123")
)
serve(pico_backbone(), {"tastes": (Path(data), Path(adapter))}, settings)
"""


class Process:
    """A service that runs in another process."""

    def __init__(self, here, state):
        self.port = free_port()
        arguments = [here.tastes.path, here.adapters["one"], here.root, state, self.port]
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, arguments)],
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
