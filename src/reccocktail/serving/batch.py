"""Top-k for every user of a table: numbered files, each written once, resumable at any moment."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from reccocktail.backbone import choose_device, choose_dtype, load_backbone
from reccocktail.data.domain import Domain
from reccocktail.errors import AdapterError, RecipeError, RunError
from reccocktail.precision import choose_precision
from reccocktail.progress import bar, say
from reccocktail.schema import HISTORY, USER, Precision, count
from reccocktail.serving.stages import Retrieval
from reccocktail.serving.users import UserTable
from reccocktail.storage import (
    atomic_file,
    read_json,
    require_dir,
    sha256_file,
    sha256_json,
    write_json,
)
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import check_compatible

Engine = Literal["local", "ray"]
MANIFEST = "manifest.json"
FORMAT = 1
CHUNK = 4096  # users a file
SCHEMA = {USER: pl.String(), "items": pl.List(pl.String()), "scores": pl.List(pl.Float32())}


@dataclass(frozen=True)
class Job:
    """All that a process needs to write any chunk; it travels to other machines.

    Attributes:
        data: prepared folder.
        adapter: adapter folder of the dense ranker.
        users: see `UserTable`.
        out: folder of the output.
        k: items a user.
        chunk: users a file.
        latest: see `UserTable`.
        backbone: name of the adapter's backbone.
        device: see `load_backbone`.
        dtype: see `load_backbone`.
        precision: see `choose_precision`.
    """

    data: Path
    adapter: Path
    users: Path
    out: Path
    k: int = 10
    chunk: int = CHUNK
    latest: bool = False
    backbone: str | None = None
    device: str | None = None
    dtype: str | None = None
    precision: Precision = "float32"

    def file(self, number: int) -> Path:
        """Output file of a chunk."""
        return self.out / f"part-{number:06d}.parquet"

    def is_whole(self, number: int, users: int, sha256: str | None) -> bool:
        """Whether a chunk's file is what was written, for all that can be told.

        Args:
            number: of the chunk.
            users: in the table.
            sha256: of the file when the run ended; None if it did not, or without the file.
        """
        file = self.file(number)
        if sha256 is not None and sha256_file(file) != sha256:
            return False
        try:  # a hash too may have been taken of a damaged file
            table = pl.read_parquet(file, glob=False)
        except (OSError, pl.exceptions.PolarsError):
            return False
        rows = min(self.chunk, users - number * self.chunk)
        return dict(table.schema) == SCHEMA and table.height == rows


class ChunkWriter:
    """Computes and writes chunks of one job; the model stays in memory."""

    def __init__(self, job: Job) -> None:
        """Load domain, adapter and backbone, and encode what is not cached.

        Raises:
            AdapterError: the adapter belongs to another backbone, or its ranker reads candidates.
        """
        adapter = _adapter(job)
        name = job.backbone or adapter.card.recipe.backbone
        backbone = load_backbone(name, device=job.device, dtype=job.dtype, precision=job.precision)
        check_compatible([adapter], backbone)
        self._job, self._domain = job, Domain.load(job.data)
        self._users = UserTable(job.users, self._domain, job.latest)
        self._retrieval = Retrieval(self._domain, adapter, backbone, ())

    def write(self, number: int, tick: Callable[[int], object] = int) -> int:
        """Write a chunk's file, whole or not at all.

        Args:
            number: of the chunk.
            tick: told of every n users done.

        Returns:
            Users in it.
        """
        job, names = self._job, self._domain.item_ids
        rows = self._users.rows(number * job.chunk, job.chunk)
        seen = self._domain.numbers(rows, HISTORY)
        ids, scores = self._retrieval.best(seen, min(job.k, len(names)), tick)
        table = pl.DataFrame(
            {
                USER: rows[USER],
                "items": [[names[item] for item in row if item >= 0] for row in ids.tolist()],
                "scores": [row[np.isfinite(row)].tolist() for row in scores],
            },
            schema=SCHEMA,
        )
        with atomic_file(job.file(number)) as temporary:
            table.write_parquet(temporary)
        return table.height


def batch(
    job: Job, engine: Engine = "local", *, address: str | None = None, workers: int | None = None
) -> dict[str, Any]:
    """Write the k best items of every user of a table, in the table's order.

    `part-000000.parquet` and so on hold `user_id`, `items` and `scores` (logits, best first), none
    of them an item of the user's history. Files that are there are not computed again, unless they
    are damaged.

    Args:
        job: what to do.
        engine: this process, or Ray Data.
        address: of a Ray cluster; None for the variable RAY_ADDRESS, or a Ray of this machine.
        workers: processes of Ray; None for one a GPU, or one a machine.

    Returns:
        The manifest: settings, counts, and the SHA-256 of every file.

    Raises:
        DataError: a row of the table cannot be served; see `UserTable.check`.
        RunError: the folder holds other files, or a run with other inputs; or Ray is missing.
        RecipeError: k, chunk or workers is below 1, or address or workers are given without Ray.
        AdapterError: see `ChunkWriter`.
        BackboneError: see `load_backbone`.
    """
    for flag, value in (
        ("-k", job.k),
        ("--chunk", job.chunk),
        ("--workers", 1 if workers is None else workers),
    ):
        if value < 1:
            raise RecipeError(f"{flag} must be at least 1, not {value}.")
    if engine != "ray" and (address is not None or workers is not None):
        raise RecipeError("--address and --workers are for Ray; give --engine ray with them.")
    job = _settled(job)
    adapter, domain = _adapter(job), Domain.load(job.data)
    users = UserTable(job.users, domain, job.latest)
    settings = _settings(job, adapter, domain)
    chunks = -(-users.height // job.chunk)
    manifest = {"format": FORMAT, "settings": settings, "users": users.height, "chunks": chunks}
    if (former := _former(job.out)) is not None:
        _require_same(former["settings"], settings, job.out)
    else:
        users.check()
        write_json(job.out / MANIFEST, manifest)
    for left in job.out.glob(".part-*.tmp"):  # of a run that was killed
        left.unlink(missing_ok=True)
    known = former.get("outputs") if former else None
    hashes = known if isinstance(known, dict) else {}
    there = [number for number in range(chunks) if job.file(number).is_file()]
    damaged = [
        number
        for number in there
        if not job.is_whole(number, users.height, hashes.get(job.file(number).name))
    ]
    missing = sorted({*range(chunks)}.difference(there).union(damaged))
    if former and hashes and not missing:
        say(f"{job.out}: finished before, taken as it is.")
        return former
    if damaged:
        names = ", ".join(job.file(number).name for number in damaged[:5])
        more = ", ..." if len(damaged) > 5 else ""
        say(f"{job.out}: {count(len(damaged), 'damaged file')} computed again ({names}{more}).")
    if len(missing) < chunks:
        say(f"{job.out}: {chunks - len(missing)} of {chunks} files are there, going on.")
    with bar("Recommending", users.height) as advance:
        advance(min(users.height, (chunks - len(missing)) * job.chunk))
        if engine == "ray":
            from reccocktail.serving.batch_ray import run

            for rows in run(job, missing, address, workers):
                advance(rows)
        elif missing:
            writer = ChunkWriter(job)
            for number in missing:
                writer.write(number, advance)
    outputs = {job.file(number).name: sha256_file(job.file(number)) for number in range(chunks)}
    write_json(job.out / MANIFEST, manifest | {"outputs": outputs})
    return manifest | {"outputs": outputs}


def _adapter(job: Job) -> Adapter:
    adapter = Adapter.load(job.adapter)
    ranker = adapter.card.recipe.ranker
    if ranker != "dense":
        raise AdapterError(
            f"'{adapter.name}' is of the ranker {ranker}, which reads candidates in its prompt; "
            "a batch ranks whole catalogues, so give an adapter of the ranker dense."
        )
    return adapter


def _settings(job: Job, adapter: Adapter, domain: Domain) -> dict[str, Any]:
    """What decides the content of the files."""
    return {
        "users file": sha256_file(job.users),
        "data": domain.sha256,
        "adapter": sha256_json([adapter.sha256, adapter.card.model_dump(mode="json")]),
        "k": job.k,
        "chunk": job.chunk,
        "latest": job.latest,
        "dtype": job.dtype,
        "precision": job.precision,
    }


def _settled(job: Job) -> Job:
    """The job with no dtype and precision left open, so that all workers and later runs agree."""
    device = choose_device(job.device)
    weights = choose_dtype(job.dtype, device)
    chosen, precision = choose_precision(job.precision, device, weights), job.precision
    if precision == "auto":
        precision = "bfloat16" if chosen else "float32"
    return replace(job, dtype=str(weights).removeprefix("torch."), precision=precision)


def _former(out: Path) -> dict[str, Any] | None:
    """The manifest of a run that began here."""
    require_dir(out)
    if (out / MANIFEST).is_file():
        found = read_json(out / MANIFEST)
        settings = found.get("settings") if isinstance(found, dict) else None
        if isinstance(settings, dict) and "users file" in settings:
            return dict(found)
    if out.is_dir() and any(out.iterdir()):
        raise RunError(f"{out} holds other files than a batch's; choose another folder.")
    return None


def _require_same(former: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    former = {"precision": "float32", "latest": False, **former}  # before there were others
    if former.get("dtype") is None:  # left to each run's device once
        former["dtype"] = now["dtype"]
    changed = [name for name, value in now.items() if former.get(name) != value]
    if changed:
        raise RunError(
            f"The batch in {out} was begun with another {' and '.join(changed)}; "
            "give the same again, or choose another folder."
        )
