"""What work costs: seconds, peak memory, and the bytes of tensors."""

import contextlib
import ctypes
import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of `work`, in seconds, until the device has finished it."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def tensor_bytes(tensors: Sequence[torch.Tensor]) -> int:
    """Bytes of storage behind tensors; storage that several of them share counts once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def module_tensors(model: nn.Module) -> list[torch.Tensor]:
    """All parameters and buffers of a model."""
    return [*model.parameters(), *model.buffers()]


class PeakMemory:
    """Peak memory while the block runs, bytes: the device's on CUDA, else resident memory.

    Resident memory can only be asked for a part of a process's life on Linux; `bytes` stays None
    elsewhere.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.bytes: int | None = None

    def __enter__(self) -> "PeakMemory":
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return self
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # what was freed before must not count
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        except OSError:
            self._device = torch.device("meta")  # nothing to be read afterwards
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device)
        elif self._device.type == "cpu":
            self.bytes = _status_bytes("VmHWM")


def _status_bytes(key: str) -> int | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None
