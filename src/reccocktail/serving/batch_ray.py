"""Chunks of a batch on Ray Data: every worker loads the model once and writes its own files."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from reccocktail.errors import RunError
from reccocktail.serving.batch import ChunkWriter, Job


class Worker:
    """One process with the model in memory; Ray Data calls it with chunk numbers."""

    def __init__(self, job: Job, threads: int) -> None:
        """Load what `ChunkWriter` loads."""
        torch.set_num_threads(threads)
        self._writer = ChunkWriter(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Write the chunks `number`; a chunk that Ray tries again is written again, the same."""
        return {"rows": np.array([self._writer.write(int(n)) for n in batch["number"]])}


def run(
    job: Job, numbers: Sequence[int], address: str | None, workers: int | None
) -> Iterator[int]:
    """Write chunks; yields the users of each as it is done.

    The folders of the job, and those of a local backbone, must be the same on every machine.

    Args:
        job: what to do.
        numbers: of the chunks.
        address: of a cluster; None for RAY_ADDRESS, or a Ray of this machine.
        workers: processes; None for one a GPU, or one a machine.

    Raises:
        RunError: Ray is not installed, the cluster is not there, or a worker failed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise RunError(
            "--engine ray needs Ray; install it with `pip install reccocktail[ray]`."
        ) from error
    if not numbers:
        return
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(
                address=address, include_dashboard=False, log_to_driver=False, logging_level=40
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(f"No Ray cluster answers ({reason}); check --address.") from error
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        total = ray.cluster_resources()
        gpus = int(total.get("GPU", 0))
        machines = len(ray.nodes())
        count = min(workers or gpus or machines, len(numbers))
        # One core stays free for Ray's own work.
        threads = max(1, int(total.get("CPU", 1) - 1) // count)
        blocks = ray.data.from_items([{"number": number} for number in numbers])
        done = blocks.repartition(len(numbers)).map_batches(
            Worker,
            fn_constructor_args=(job, threads),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=threads if total.get("CPU", 1) > 1 else 0.5,
            num_gpus=1 if gpus else 0,
        )
        for row in done.iter_rows():
            yield int(row["rows"])
    except ray.exceptions.RayError as error:
        reason = _reason(error)
        raise RunError(
            f"A Ray worker failed ({reason}); finished files are kept, run the command again."
        ) from error
    finally:
        if ours:
            ray.shutdown()


def _reason(error: Exception) -> str:
    """Our own sentence, if a worker ended with one, else the last line of its traceback."""
    text = str(error).strip()
    ours = re.findall(r"reccocktail\.errors\.\w+: (.+?)\.?$", text, re.MULTILINE)
    return str(ours[-1]) if ours else text.splitlines()[-1]
