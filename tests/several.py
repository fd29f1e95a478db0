"""What `tests/unit/test_processes.py` trains, alone and in several processes.

As a program (`-m tests.several DOMAIN OUT CASE ...`) it trains the named cases, and each process
leaves its findings in `OUT/CASE.PROCESS.json`.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch

from reccocktail.cli import main
from reccocktail.data.domain import Domain
from reccocktail.errors import FollowedError, RunError
from reccocktail.launcher import rank
from reccocktail.recipe import LoraSettings, PromptSettings, Recipe, TrainingSettings
from reccocktail.storage import write_json
from reccocktail.training import schedule
from reccocktail.training.loop import RankerModule
from reccocktail.training.schedule import Length
from reccocktail.training.trainer import train
from tests.helpers import TickingTime
from tests.pico import LETTERS, pico_backbone

STEPS = 6


def recipe(ranker="dense", dropout=0.0, **training):
    """Everything that can differ between processes, but for dropout, which does differ."""
    values = {
        "learning_rate": 5e-3,
        "targets_per_batch": 32,
        "validation_users": 6,
        "validations": 2,
        "int8": False,
        "checkpoint_minutes": 1e-9,
    }
    return Recipe(
        backbone="pico",
        ranker=ranker,
        prompt=PromptSettings(max_history=4, cutoff=400),
        lora=LoraSettings(rank=2, alpha=4.0, dropout=dropout),
        training=TrainingSettings(**values | training),
    )


# Seven windows a step: four for the first process, three for the second.
ODD = recipe(bank=10, targets_per_batch=28)
RECIPES = {
    "dense": ODD,
    "int8": recipe(int8=True),
    # One window a step: the second process has none of its own, and the bank has the negatives.
    "narrow": recipe(targets_per_batch=2, bank=20),
    "title": recipe("title", targets_per_batch=28),
    "lonely": recipe("title", targets_per_batch=2),
    # Three passes for two processes.
    "choice": recipe("choice", prompts_per_batch=5, prompts_per_pass=2),
    "generate": recipe("generate", prompts_per_batch=4, prompts_per_pass=2),
    "clock": recipe(dropout=0.1, validations=0),
    "cut": ODD,
    "dying": ODD,
}
"""By case."""


def stop_at(calls, stop):
    """Have a batch's loss call `stop` after a number of calls; gives back what it was."""
    loss = RankerModule.forward
    left = [calls]

    def counting(self, **batch):
        left[0] -= 1
        if left[0] < 0:
            stop()
        return loss(self, **batch)

    RankerModule.forward = counting
    return loss


def interrupt():
    raise KeyboardInterrupt


def run(case, domain, out, *, resume=False, length=None) -> dict[str, Any]:
    """Train a case to `out` / case."""
    length = length or Length(steps=STEPS)
    backbone = pico_backbone(more=LETTERS)
    adapter = train(
        "ingredient", [domain], backbone, RECIPES[case], out / case, length, resume=resume
    )
    return {"sha256": adapter.sha256, "steps": adapter.card.steps}


def by_the_clock(domain, out):
    """Every process has a clock of its own pace."""
    schedule.time, time = TickingTime(0.25 * (1 + rank())), schedule.time
    try:
        return run("clock", domain, out, length=Length(minutes=0.1))
    finally:
        schedule.time = time


def cut_and_resumed(domain, out):
    """Interrupted in its fourth step, refused without `resume`, resumed."""
    loss = stop_at(3, interrupt)
    try:
        run("cut", domain, out)
    except KeyboardInterrupt:
        interrupted = not (out / "cut").exists()
    RankerModule.forward = loss
    try:
        run("cut", domain, out)
    except (RunError, FollowedError) as error:
        refused = type(error).__name__
    return run("cut", domain, out, resume=True) | {"interrupted": interrupted, "refused": refused}


def dying(domain, out):
    """The second process is gone in its third step, without a word."""
    stop_at(2, lambda: os._exit(1) if rank() == 1 else None)
    return run("dying", domain, out)


def command(domain, out):
    """The command line, on the backbone in the folder `pico`."""
    words = ["train", "--role", "ingredient", "--data", str(domain.path), "--device", "cpu"]
    main([*words, "--out", str(out / "command"), "--backbone", str(out / "pico"), "--steps", "2"])
    return {}


PROGRAMS = {
    "clock": by_the_clock,
    "cut": cut_and_resumed,
    "dying": dying,
    "command": command,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    path, folder, *cases = sys.argv[1:]
    for name in cases:
        here = Domain.load(Path(path)), Path(folder)
        try:
            found = PROGRAMS[name](*here) if name in PROGRAMS else run(name, *here)
        except RunError as error:
            found = {"error": str(error)}
        write_json(Path(folder) / f"{name}.{rank()}.json", found)
