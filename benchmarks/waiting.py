"""What does it cost that a core is taken, and how should threads wait for each other?

    python benchmarks/waiting.py --data PREPARED [--rounds 3] [--out results/waiting.json]

Threads that share a matrix product wait for the slowest one. `active` is the OpenMP runtime's
default, which spins for some milliseconds; `passive` sleeps (`OMP_WAIT_POLICY=passive`). Training
steps in int8 of `step_speed.py`, each run a process of its own, in turns: alone, and beside as many
processes that do nothing but compute as half of the cores. Ratios are those of a round, their
median and spread over the rounds.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from program import program
from provenance import write_result
from reccocktail.progress import bar
from reccocktail.storage import read_json
from spreads import range_text, spread

POLICIES = {"active": None, "passive": "PASSIVE"}
_BUSY = "while True: pass"


@contextmanager
def neighbours(number: int) -> Iterator[None]:
    """So many processes at work on nothing."""
    at_work = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(number)]
    try:
        yield
    finally:
        for process in at_work:
            process.kill()
            process.wait()


def step_speed(policy: str | None, arguments: Sequence[str], out: Path) -> dict[str, Any]:
    """The result of one run of `step_speed.py` under a policy of waiting."""
    variables = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    variables |= {"OMP_WAIT_POLICY": policy} if policy else {}
    file = Path(__file__).with_name("step_speed.py")
    command = [sys.executable, str(file), *arguments, "--out", str(out)]
    subprocess.run(command, env=variables, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = read_json(out)
    return found


def measure(arguments: Sequence[str], rounds: int, busy: Sequence[int]) -> dict[str, Any]:
    """Tokens a second, by neighbours and policy, and where they were measured."""
    rates: dict[int, dict[str, list[float]]] = {n: {p: [] for p in POLICIES} for n in busy}
    found: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        bar("Training in turns", rounds * len(busy) * len(POLICIES)) as advance,
    ):
        for number in range(rounds):
            # Whoever goes first meets a colder machine: the turns change.
            names = list(POLICIES) if number % 2 == 0 else list(POLICIES)[::-1]
            for count in busy:
                for name in names:
                    with neighbours(count):
                        found = step_speed(POLICIES[name], arguments, Path(folder) / "one.json")
                    (one,) = found["variants"].values()
                    rates[count][name].append(one["tokens_per_second"])
                    advance(1)
    kept = {k: v for k, v in found.items() if k not in ("variants", "rounds")}
    return kept | {
        "rounds": rounds,
        "beside": {
            str(count): {
                "tokens_per_second": by_policy,
                "passive_times_active": spread(
                    [p / a for p, a in zip(by_policy["passive"], by_policy["active"], strict=True)]
                ),
            }
            for count, by_policy in rates.items()
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=6, help="of a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--targets", type=int, default=32, help="of a step")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    own = ["--data", str(args.data), "--backbone", args.backbone, "--device", "cpu"]
    own += ["--variant", "int8", "--steps", str(args.steps), "--rounds", "1", "--warm-up", "1"]
    own += ["--targets", str(args.targets)]
    busy = sorted({0, (os.cpu_count() or 1) // 2})
    result = measure(own, args.rounds, busy)
    table = Table("processes beside it", "active", "passive", "passive / active")
    for count, found in result["beside"].items():
        rates = found["tokens_per_second"]
        table.add_row(
            count,
            *(f"{spread(rates[name])['median']:.0f}" for name in POLICIES),
            range_text(found["passive_times_active"]),
        )
    Console().print(table)
    if args.out:
        write_result(args.out, result)


if __name__ == "__main__":
    program(main)
