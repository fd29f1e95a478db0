"""Vectors kept on disk, each file named by a hash of all that decides what is in it.

So a file is never stale; what is damaged is forgotten and computed again.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from reccocktail.storage import atomic_file, cache_dir, sha256_json

CACHE_BYTES = 2 * 2**30  # on disk


def place(decides: object) -> Path:
    """File of the vectors that `decides` (anything that JSON can say) makes."""
    return cache_dir() / "vectors" / f"{sha256_json(decides)}.safetensors"


def read(file: Path) -> dict[str, Tensor] | None:
    """Tensors by name, or None where there are none."""
    if not file.exists():
        return None
    try:
        found: dict[str, Tensor] = load_file(file)
    except SafetensorError:
        file.unlink(missing_ok=True)
        return None
    return found


def write(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Keep tensors, and forget the files that were written first beyond `CACHE_BYTES`."""
    with atomic_file(file) as temporary:
        save_file(dict(tensors), temporary)
    files = sorted(
        file.parent.glob("*.safetensors"), key=lambda one: one.stat().st_mtime, reverse=True
    )
    total = 0
    for one in files:
        total += one.stat().st_size
        if total > CACHE_BYTES:
            one.unlink(missing_ok=True)
