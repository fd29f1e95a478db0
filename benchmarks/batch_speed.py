"""Unit costs of a batch, here and on Ray, and what they make of 100 million users.

Usage: python benchmarks/batch_speed.py --data PREPARED --adapter ADAPTER [--users N] [--out FILE]

The users are the domain's own, repeated in order until there are enough. Loading (model and
catalogue, its vectors cached by a first run) is timed apart from writing files. Ray's time is wall
time with its start. Both engines' files are compared byte by byte.
"""

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from rich.console import Console

from arguments import precision_argument
from program import program
from provenance import machine, write_result
from reccocktail.backbone import choose_device
from reccocktail.data.domain import Domain
from reccocktail.schema import USER
from reccocktail.serving.batch import ChunkWriter, Job, batch
from reccocktail.spirits import resolve
from reccocktail.storage import sha256_file
from spreads import spread

PLAN = 100_000_000  # users


def measure(job: Job, users: int, folder: Path, ray: bool) -> dict[str, Any]:
    """Time the local engine file by file, and Ray as a whole."""
    domain = Domain.load(job.data)
    own = domain.rows("test_warm")[USER].to_list()
    repeated = (own * (1 + users // len(own)))[:users]
    pl.DataFrame({USER: repeated}).write_parquet(folder / "users.parquet")
    job = replace(job, users=folder / "users.parquet", out=folder / "local")
    ChunkWriter(job)  # fills the cache
    started = time.perf_counter()
    writer = ChunkWriter(job)
    loading = time.perf_counter() - started
    job.out.mkdir()
    costs = []
    for number in range(-(-users // job.chunk)):
        started = time.perf_counter()
        rows = writer.write(number)
        costs.append((time.perf_counter() - started) / rows)
    files = sorted(job.out.glob("part-*"))
    size = sum(file.stat().st_size for file in files) / users
    per_user = spread(costs)
    found: dict[str, Any] = {
        "users": users,
        "items": len(domain.item_ids),
        "local": {"loading_seconds": loading, "seconds_a_user": per_user, "bytes_a_user": size},
        "plan": {
            "users": PLAN,
            "machine_hours": PLAN * per_user["median"] / 3600,
            "output_gb": PLAN * size / 1e9,
        },
    }
    if ray:
        other = replace(job, out=folder / "ray")
        started = time.perf_counter()
        manifest = batch(other, "ray")
        found["ray"] = {
            "wall_seconds": time.perf_counter() - started,
            "same_files": manifest["outputs"] == {f.name: sha256_file(f) for f in files},
        }
    return found


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--chunk", type=int, default=500)
    parser.add_argument("--backbone")
    parser.add_argument("--device")
    precision_argument(parser)
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    job = Job(
        data=options.data.absolute(),
        adapter=resolve(options.adapter).absolute(),
        users=Path(),
        out=Path(),
        chunk=options.chunk,
        backbone=options.backbone,
        device=options.device,
        precision=options.precision,
    )
    ray = not options.no_ray and importlib.util.find_spec("ray") is not None
    about = machine(choose_device(options.device))
    with tempfile.TemporaryDirectory() as folder:
        found = measure(job, options.users, Path(folder), ray)
    local, plan = found["local"], found["plan"]
    console = Console()
    console.print(
        f"{1 / local['seconds_a_user']['median']:.1f} users a second, "
        f"{local['bytes_a_user']:.0f} bytes a user, loading {local['loading_seconds']:.1f} s; "
        f"100 million users: {plan['machine_hours']:,.0f} hours of this machine, "
        f"{plan['output_gb']:,.0f} GB"
    )
    if "ray" in found:
        console.print(
            f"Ray: {found['ray']['wall_seconds']:.1f} s with its start; "
            f"same files: {found['ray']['same_files']}"
        )
    result = found | {
        "settings": {
            "k": job.k,
            "chunk": job.chunk,
            "threads": torch.get_num_threads(),
            "precision": job.precision,
        },
        "data_sha256": Domain.load(job.data).sha256,
        **about,
    }
    if options.out:
        write_result(options.out, result)
    return result


if __name__ == "__main__":
    program(main)
