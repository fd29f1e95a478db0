"""What a result must say about where it was made: versions, commit, hardware, memory."""

import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from reccocktail import __version__

_PACKAGES = ("torch", "transformers", "peft", "polars", "numpy", "scipy")
_GIT_SECONDS = 5


def versions() -> dict[str, str]:
    """Versions of this package, of Python, and of the libraries that decide a result."""
    found = {"reccocktail": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def commit(file: Path | None = None) -> str | None:
    """Commit of the source tree that runs; a `+` says that tracked files differ from it.

    Args:
        file: a source file; this one if left out.

    Returns:
        None where `file` is under no version control, such as in an installed package (which may
        well lie inside the repository of another project).
    """
    file = (file or Path(__file__)).resolve()
    try:
        if _git(file.parent, "ls-files", "--error-unmatch", file.name).returncode:
            return None
        head = _git(file.parent, "rev-parse", "HEAD")
        if head.returncode:
            return None
        changed = _git(file.parent, "diff", "--quiet", "HEAD").returncode
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=_GIT_SECONDS,
        check=False,
    )


def hardware(device: torch.device) -> dict[str, Any]:
    """The device by type and name, and the machine around it."""
    processor = _processor()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor
    return {
        "device": device.type,
        "name": name,
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }


def _processor() -> str:
    """The processor's name: Linux keeps it in a file, other systems tell it to `platform`."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory() -> int | None:
    """Peak resident memory of this process in bytes; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
