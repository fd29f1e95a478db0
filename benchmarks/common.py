"""What the benchmarks share: clocks, spreads, memory, finished cells, and the machine."""

import argparse
import contextlib
import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from reccocktail.backbone import DTYPES, Backbone, load_backbone
from reccocktail.data.domain import Domain
from reccocktail.environment import commit, hardware, versions
from reccocktail.errors import RecCocktailError, RunError
from reccocktail.evaluation.metrics import FloatArray, distinct_rows, resampled_means
from reccocktail.precision import PRECISIONS
from reccocktail.progress import say
from reccocktail.recipe import Recipe
from reccocktail.storage import read_json
from reccocktail.training.batches import DomainWindows


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of `work`, in seconds, until the device has finished it."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest of a few measurements."""
    return {
        "median": float(np.median(values)),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
        "n": len(values),
    }


def range_text(found: Mapping[str, float], digits: int = 2) -> str:
    """`spread` in words: median [least, greatest]."""
    median, low, high = (f"{found[part]:.{digits}f}" for part in ("median", "min", "max"))
    return f"{median} [{low}, {high}]"


def ratio_of_pairs(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float]:
    """Median ratio of measurements made side by side, with its 95 % bootstrap interval."""
    ratios = np.asarray(numerators) / np.asarray(denominators)
    drawn = np.random.default_rng(0).integers(0, len(ratios), size=(2000, len(ratios)))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def ratio_of_means(
    numerators: FloatArray, denominators: FloatArray, resamples: int = 10_000
) -> dict[str, float | None]:
    """Ratio of two means over the same users, with its 95 % interval from resampled users.

    A bound is None where the denominator's resampled mean is 0.
    """
    values, counts = distinct_rows({"above": numerators, "below": denominators})
    draws = np.concatenate(list(resampled_means(values, counts, resamples, seed=0)))
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = numerators.mean() / denominators.mean()
        # An actual draw, because nothing lies between a number and infinity.
        bounds = np.nanquantile(draws[:, 0] / draws[:, 1], (0.025, 0.975), method="nearest")
    named = zip(("ratio", "low", "high"), (observed, *bounds), strict=True)
    return {name: float(value) if np.isfinite(value) else None for name, value in named}


def finished(file: Path, identity: str | dict[str, Any]) -> dict[str, Any] | None:
    """What a finished cell wrote, or None if the cell is still to be done.

    Args:
        file: the cell's sheet.
        identity: all that decides a cell, as a hash, or by name so that a refusal can say what is
            another.

    Raises:
        RunError: the cell was made with other settings or data.
    """
    if not file.exists():
        return None
    found: dict[str, Any] = read_json(file)
    former = found["identity"]
    if former != identity:
        names = "settings or data"
        if isinstance(identity, dict) and isinstance(former, dict):
            every = [name for name in (former | identity) if former.get(name) != identity.get(name)]
            names = f"settings or data ({', '.join(every)})"
        raise RunError(
            f"{file.parent} was made with other {names}; give the same ones, or another --out."
        )
    return found


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


def windows_of(windows: DomainWindows, order: list[int], targets: int) -> list[int]:
    """Take window numbers off the end of `order` until they hold so many targets."""
    chosen: list[int] = []
    held = 0
    while order and held < targets:
        chosen.append(order.pop())
        held += len(windows.windows[chosen[-1]]) - 1
    return chosen


def environment(backbone: Backbone, domain: Domain) -> dict[str, Any]:
    """What a result must say about where it came from, without any path of the machine."""
    return {
        "commit": commit(),
        "versions": versions(),
        "hardware": {
            **hardware(backbone.device),
            # A load well above the run's own threads means that others used the cores too.
            "load_average_at_start": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        },
        "backbone": {
            "sha256": backbone.fingerprint.sha256,
            "architecture": backbone.fingerprint.architecture,
            "hidden_size": backbone.fingerprint.hidden_size,
            "layers": backbone.fingerprint.layers,
            "parameters": sum(p.numel() for p in backbone.model.parameters()),
            "dtype": str(backbone.model.dtype).removeprefix("torch."),
            "precision": backbone.precision,
        },
        "data": {"name": domain.name, "sha256": domain.sha256, "items": len(domain.item_ids)},
    }


def study_parser(doc: str | None) -> argparse.ArgumentParser:
    """What studies of a base spirit on target domains all ask for."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", type=Path, action="append", required=True)
    parser.add_argument("--base", type=Path, required=True, help="the base spirit's folder or name")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def recipe_argument(parser: argparse.ArgumentParser) -> None:
    """`--recipe`, for studies that train a target's adapters."""
    parser.add_argument(
        "--recipe", type=Path, help="how they are trained, if not as the base spirit was"
    )


def precision_argument(parser: argparse.ArgumentParser) -> None:
    """`--precision` of scores; trainings on a CPU take no notice of it."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of the scores; auto takes bfloat16 where the hardware multiplies it",
    )


def backbone_arguments(parser: argparse.ArgumentParser) -> None:
    """Where and how the backbone of a study is loaded, see `asked_backbone`."""
    parser.add_argument("--backbone", help="where the backbone is, if not where it was")
    parser.add_argument("--device")
    parser.add_argument(
        "--dtype",
        choices=tuple(DTYPES),
        help="of the weights; chosen by hardware if left out. Mixes of near coefficients differ by "
        "less than bfloat16 holds: give float32 with --precision auto on a GPU",
    )
    precision_argument(parser)


def asked_backbone(args: argparse.Namespace, recipe: Recipe) -> Backbone:
    """The backbone of a recipe, as `backbone_arguments` ask for it."""
    return load_backbone(
        args.backbone or recipe.backbone,
        device=args.device,
        dtype=args.dtype,
        precision=args.precision,
    )


def precision_facts(backbone: Backbone) -> dict[str, str]:
    """What the precision adds to a cell's identity: nothing where it is that of the weights.

    Cells from before there was a choice keep their identity.
    """
    return {"precision": backbone.precision} if backbone.autocast else {}


def program(main: Callable[[], None]) -> None:
    """Run a benchmark as a command: what the user can mend is one sentence and exit code 2."""
    try:
        main()
    except RecCocktailError as error:
        say(f"Error: {error}")
        sys.exit(2)
