"""GGUF files: dequantised once into a safetensors folder in the cache, loaded from there."""

import contextlib
import io
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from reccocktail.errors import BackboneError
from reccocktail.fingerprint import cached_sha256, weight_files
from reccocktail.progress import say
from reccocktail.storage import atomic_dir, cache_dir

MAGIC = b"GGUF"
# Marks that `transformers` leaves on a dequantised model and that would make the saved copy look
# quantised.
QUANTIZATION_MARKS = ("hf_quantizer", "quantization_method", "is_quantized")


def converted_folder(file: Path) -> tuple[Path, str]:
    """Folder with the dequantised float32 model and tokenizer, and the SHA-256 of the GGUF file.

    The first call converts (20 s and 0.7 GB of disk for 135M parameters); later calls find the
    folder.

    Raises:
        BackboneError: the file is missing, no GGUF file, or of an architecture that cannot be read.
        RunError: the cache folder cannot be written.
    """
    if not file.is_file():
        raise BackboneError(f"{file} does not exist; check the path of the GGUF file.")
    with file.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise BackboneError(
                f"{file} is not a GGUF file; download it again or give a safetensors folder."
            )
    sha256 = cached_sha256(file)
    folder = cache_dir() / "backbones" / sha256
    if not _is_whole(folder):
        say(f"Converting {file.name} to safetensors (once; about 20 s for 135M parameters) ...")
        with atomic_dir(folder) as temporary:
            _convert(file, temporary)
    return folder, sha256


def _is_whole(folder: Path) -> bool:
    if not (folder / "config.json").is_file():
        return False
    try:
        return bool(weight_files(folder))
    except BackboneError:
        return False


def _convert(file: Path, folder: Path) -> None:
    try:
        # `transformers` shows a bar of its own here that none of its settings turns off.
        with contextlib.redirect_stderr(io.StringIO()):
            model = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=torch.float32
            )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (
        Exception
    ) as error:  # Damaged or unknown files fail in as many ways as there are readers.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackboneError(
            f"{file} cannot be dequantised ({reason}); give a safetensors folder instead."
        ) from error
    model.config.__dict__.pop("quantization_config", None)
    for mark in QUANTIZATION_MARKS:
        model.__dict__.pop(mark, None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
