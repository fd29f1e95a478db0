"""Several processes that train one adapter together, as `torchrun` or `accelerate launch` starts.

The launcher says by environment variables how many there are and which one this is. Process 0, the
first, decides and writes; the others compute and follow. Alone, everything here does nothing.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from reccocktail.errors import FollowedError, RunError
from reccocktail.launcher import is_first, local_rank, processes, rank
from reccocktail.progress import console, say

TIME_LIMIT = timedelta(minutes=30)
"""How long processes wait for each other: longer than a validation or a save of the first one."""

_MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
# What PyTorch raises where another process is gone: its own classes, or one of these from gloo.
_LOST = ("gloo", "Connection closed", "Connection reset", "Broken pipe")

T = TypeVar("T")


def start(device: torch.device) -> None:
    """Join the other processes; nothing if this one is alone or has joined before.

    Args:
        device: where this process computes.

    Raises:
        RunError: a launcher or a device that is not supported, or the others cannot be reached.
    """
    for name, flag in (
        ("ACCELERATE_MIXED_PRECISION", "--mixed_precision"),
        ("ACCELERATE_DYNAMO_BACKEND", "--dynamo_backend"),
    ):
        if (asked := os.environ.get(name, "no").lower()) not in ("", "no"):
            raise RunError(
                f"The launcher asks for {flag} {asked}, which would train another adapter than the "
                f"recipe says; launch with {flag} no (--precision and training.compile decide)."
            )
    if processes() == 1:
        if any(int(os.environ.get(name, 1)) > 1 for name in _MPI_SIZES):
            raise RunError(
                "Training was started by MPI, which is not supported; start it with torchrun."
            )
        if "MASTER_ADDR" in os.environ and "ACCELERATE_USE_CPU" in os.environ:
            _say_alone()
        return
    for name, what in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")):
        if os.environ.get(name, "false").lower() == "true":
            raise RunError(
                f"Training does not run under {what}: an adapter is small and the backbone is "
                "frozen; launch with --multi_gpu alone."
            )
    if device.type not in ("cpu", "cuda"):
        raise RunError(
            f"Several processes cannot train on {device.type}; give --device cpu, or train in one."
        )
    if device.type == "cuda" and device.index != local_rank():
        raise RunError(
            f"Each process takes the GPU of its own number; give --device cuda, not {device}."
        )
    if dist.is_initialized():
        return
    console.quiet = not is_first()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=TIME_LIMIT)
    except (RuntimeError, ValueError) as error:  # an address that nobody answers, a taken port
        reason = str(error).strip().splitlines()[0]
        raise RunError(
            f"Process {rank()} cannot reach the others ({reason}); check the launcher's address "
            "and port."
        ) from error


@cache
def _say_alone() -> None:
    say(
        "This is the only process: `accelerate launch --cpu` starts no more without MPI; "
        "use torchrun for several."
    )


def stop() -> None:
    """Take leave of the other processes at the end of a run."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def together() -> Iterator[None]:
    """Say in one sentence that another process is gone, in place of PyTorch's traceback.

    Raises:
        RunError: another process ended or did not answer for `TIME_LIMIT`.
    """
    try:
        yield
    except RuntimeError as error:
        known = isinstance(error, dist.DistError) or any(word in str(error) for word in _LOST)
        if processes() == 1 or not known:
            raise
        raise RunError(
            f"Process {rank()} lost another process of this run; see what that one says, and go on "
            "with --resume."
        ) from error


@contextmanager
def first_here() -> Iterator[None]:
    """Let the first process of each machine run the block before the others: it fills caches."""
    if processes() > 1 and local_rank() != 0:
        _barrier()
    try:
        yield
    finally:
        if processes() > 1 and local_rank() == 0:
            _barrier()


def from_first(function: Callable[[], T]) -> T:
    """What a function gives in the first process, in all of them; it runs there alone.

    Args:
        function: gives a JSON value.

    Raises:
        RecCocktailError: what it raised, in the first process.
        FollowedError: the same, in the others.
    """
    if processes() == 1:
        return function()
    found: T | None = None
    raised: Exception | None = None
    if is_first():
        try:
            found = function()
        except Exception as error:
            raised = error
    told: list[Any] = json.loads(_broadcast_text(json.dumps([found, raised is not None])))
    if raised is not None:
        raise raised
    if told[1]:
        raise FollowedError("The first process stopped with an error, see there.")
    value: T = told[0]
    return value


def agree(value: float) -> float:
    """The first process's value, in all of them: what clocks say must not differ."""
    if processes() == 1:
        return value
    there = torch.tensor([value], dtype=torch.float64, device=_device())
    with together():
        dist.broadcast(there, src=0)
    return float(there)


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all processes, interleaved, with gradient.

    Shapes: (n, d) in each of p processes -> (n p, d), where row k p + r is row k of process r. The
    gradient of a process's rows is the sum over what all processes made of them.
    """
    gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return gathered.transpose(0, 1).reshape(-1, rows.shape[-1])


class _Gather(torch.autograd.Function):
    """(n, d) -> (p, n, d)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(processes())]
        dist.all_gather(parts, rows.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].contiguous().clone()
        dist.all_reduce(summed)
        return summed[rank()]


def _broadcast_text(text: str) -> str:
    """Text of the first process; as bytes, because nothing pickled is ever loaded."""
    data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(_device())
    size = int(agree(float(len(data))))
    there = data if is_first() else torch.empty(size, dtype=torch.uint8, device=_device())
    with together():
        dist.broadcast(there, src=0)
    return bytes(there.cpu().tolist()).decode()


def _barrier() -> None:
    with together():
        dist.barrier()


def _device() -> torch.device:
    nccl = dist.get_backend() == "nccl"
    return torch.device("cuda", local_rank()) if nccl else torch.device("cpu")
