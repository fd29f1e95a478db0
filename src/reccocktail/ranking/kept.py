"""Vectors kept on disk, each file named by a hash of all that decides what is in it.

So a file is never stale; what is damaged is forgotten and computed again.
"""

from collections.abc import Mapping
from contextlib import suppress
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
    try:
        found: dict[str, Tensor] = load_file(file)
    except FileNotFoundError:
        return None
    except SafetensorError:
        file.unlink(missing_ok=True)
        return None
    return found


def write(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Keep tensors, and forget the files that were written first beyond `CACHE_BYTES`."""
    with atomic_file(file) as temporary:
        save_file(dict(tensors), temporary)
    found = []
    for one in file.parent.glob("*.safetensors"):
        with suppress(FileNotFoundError):  # another process forgets files too
            status = one.stat()
            found.append((status.st_mtime, status.st_size, one))
    total = 0
    for _, size, one in sorted(found, reverse=True):
        total += size
        if total > CACHE_BYTES:
            one.unlink(missing_ok=True)
