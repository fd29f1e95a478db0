"""Vectors kept on disk, each file named by a hash of all that decides what is in it.

So a file is never stale: libraries and `READERS` are part of the name. What is damaged is forgotten
and computed again.
"""

from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from reccocktail.storage import atomic_file, cache_dir, sha256_json

CACHE_BYTES = 2 * 2**30  # on disk
READERS = 1
"""Raised when the same titles and interactions are read into other vectors."""
_LIBRARIES = ("numpy", "scikit-learn", "scipy", "torch", "transformers")


def place(decides: object) -> Path:
    """File of the vectors that `decides` (anything that JSON can say) makes."""
    libraries = {name: version(name) for name in _LIBRARIES}
    return cache_dir() / "vectors" / f"{sha256_json([READERS, libraries, decides])}.safetensors"


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
