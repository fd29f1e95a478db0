"""How long `prepare` takes and how much memory it needs, at three sizes.

Usage: python benchmarks/prepare_speed.py [--out results/prepare_speed.json]

Draws a domain with a popular head and a long tail (seeded), writes it as Parquet and prepares it.
Drawing and preparing are processes of their own, so that the peak memory is the preparation's.
Prints one row a size.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from program import program

SIZES = (250_000, 500_000, 1_000_000)
MEAN_LENGTH = 12


def draw(interactions: int, folder: Path) -> None:
    """Write raw tables with about `interactions` interactions; items grow with users."""
    rng = np.random.default_rng(0)
    users = interactions // MEAN_LENGTH
    items = users // 3
    user = np.repeat(np.arange(users), 1 + rng.poisson(MEAN_LENGTH - 1, users))
    # A power law with exponent 0.6: the popularity of real catalogues, roughly.
    item = (items * rng.random(len(user)) ** 2.5).astype(np.int64)
    order = rng.permutation(len(user))[:interactions]
    pl.DataFrame(
        {
            "user_id": [f"user-{number:08d}" for number in user[order]],
            "item_id": [f"B{number:09d}" for number in item[order]],
            "timestamp": rng.integers(1_300_000_000, 1_400_000_000, len(order)) // 86_400 * 86_400,
        }
    ).write_parquet(folder / "interactions.parquet")
    pl.DataFrame(
        {
            "item_id": [f"B{number:09d}" for number in range(items)],
            "title": [f"Product {number} &amp; its accessories, 12 oz" for number in range(items)],
        }
    ).write_parquet(folder / "items.parquet")


def measure(folder: Path) -> None:
    """Prepare the tables in `folder` and print seconds and memory as JSON."""
    from reccocktail.data.prepare import prepare

    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    start = time.perf_counter()
    domain = prepare(
        folder / "interactions.parquet", folder / "items.parquet", "benchmark", folder / "prepared"
    )
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    last = domain.manifest["counts"][-1]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "peak_memory_bytes": peak,
                "memory_before_bytes": before,
                "kept": {key: last[key] for key in ("users", "items", "interactions")},
                "rows": domain.manifest["rows"],
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--draw", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.draw:
        draw(arguments.draw, arguments.measure)
        return
    if arguments.measure:
        measure(arguments.measure)
        return
    results = []
    print("interactions      kept  seconds  peak MB  MB at start")
    for size in SIZES:
        with tempfile.TemporaryDirectory() as name:
            # Linux keeps the peak of the process that starts another: this one must stay small.
            command = [sys.executable, __file__, "--measure", name]
            subprocess.run([*command, "--draw", str(size)], check=True)
            run = subprocess.run(command, check=True, capture_output=True)
        result = {"interactions": size} | json.loads(run.stdout)
        results.append(result)
        peak, start = (result[key] / 1e6 for key in ("peak_memory_bytes", "memory_before_bytes"))
        kept, seconds = result["kept"]["interactions"], result["seconds"]
        print(f"{size:>12,} {kept:>9,} {seconds:>8.2f} {peak:>8.0f} {start:>12.0f}")
    if arguments.out:
        import torch  # not before, see above

        from provenance import machine, write_result

        write_result(arguments.out, {**machine(torch.device("cpu")), "runs": results})


if __name__ == "__main__":
    program(main)
