"""An adapter as a folder for other programs: a uniform PEFT LoRA, merged weights, or a GGUF file.

Every export is one folder, whole or absent, with `export.json` (where it came from, and the wording
that its prompts need) and a README for whoever finds it.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from reccocktail import __version__
from reccocktail.backbone import DTYPES, Backbone, quiet_transformers
from reccocktail.errors import AdapterError
from reccocktail.export.gguf import GGUF_TYPES, GgufType, require_exportable, write_gguf
from reccocktail.prompting.template import DenseTemplate, InstructionTemplate, Template, load
from reccocktail.ranking.readout import Readout, load_readout, score_temperature
from reccocktail.recipe import Recipe
from reccocktail.storage import atomic_dir, read_json, require_replaceable, write_json
from reccocktail.training.adapter import Adapter, Card, Factors, Lora
from reccocktail.training.model import merged

Format = Literal["peft", "merged", "gguf"]
MARK = "export.json"
GGUF_FILE = "model.gguf"
READOUT_FILE = "readout.safetensors"
SHARD_SIZE = "5GB"
_MARK_KEYS = ("format", "adapter_sha256", "card")
# Tokenizers choose their files' names themselves.
_FILES = (
    "*.json",
    "*.safetensors",
    "*.gguf",
    "*.jinja",
    "*.model",
    "merges.txt",
    "vocab.txt",
    "README.md",
)
_LIBRARIES = ("gguf", "peft", "safetensors", "torch", "transformers")


def export_peft(adapter: Adapter, out: Path, dtype: str = "float32") -> None:
    """Write a stock PEFT folder of one rank and one alpha, which servers load as well as `peft`.

    vLLM's loader reads `r` and `lora_alpha` and no patterns, so a LoRA with several ranks or
    scalings (a cocktail by module, say) is padded with zero rows to the largest rank and its
    scaling goes into B; the update stays the same.

    Args:
        adapter: any adapter.
        out: folder to write; an earlier export there is replaced.
        dtype: of the tensors: float32, bfloat16 or float16.

    Raises:
        AdapterError: unknown dtype.
        RunError: see `require_export_dir`.
    """
    kind = _torch_dtype(dtype)
    require_export_dir(out)
    lora = {
        name: Factors(a.to(kind), b.to(kind), scaling)
        for name, (a, b, scaling) in uniform(adapter.lora).items()
    }
    rank = max(factors.a.shape[0] for factors in lora.values())
    readme = _readme(
        adapter,
        f"A LoRA of rank {rank} in {dtype}: `peft.PeftModel.from_pretrained(backbone, folder)`.",
        f"vLLM: `--enable-lora --max-lora-rank N` with the first N of 8, 16, 32, 64, 128, 256, 320 "
        f"and 512 that is at least {rank}.",
    )
    plain = replace(adapter, lora=lora)
    _write(out, lambda folder: plain.save(folder, readme), adapter, "peft", dtype, readme)


def export_merged(adapter: Adapter, backbone: Backbone, out: Path, dtype: str = "float32") -> None:
    """Write the backbone with the adapter in its weights, as stock `transformers` folder.

    Args:
        adapter: made on `backbone`.
        backbone: best loaded in float32, so that the sum is rounded once; it is left as it was.
        out: folder to write; an earlier export there is replaced.
        dtype: of the weights: float32, bfloat16 or float16.

    Raises:
        AdapterError: unknown dtype, the adapter belongs to another backbone, or see
            `require_own_head`.
        RunError: see `require_export_dir`.
    """
    kind = _torch_dtype(dtype)
    backbone.fingerprint.require_match(adapter.card.backbone, adapter.name)
    require_own_head(backbone, adapter.lora)
    require_export_dir(out)
    readme = _readme(
        adapter,
        f"The backbone with the adapter in its weights, in {dtype}: "
        "`AutoModelForCausalLM.from_pretrained(folder)`, `AutoTokenizer.from_pretrained(folder)`.",
    )

    def write(folder: Path) -> None:
        with (
            merged(backbone.model, adapter.lora) as model,
            quiet_transformers(),
            _valid_generation(model),
        ):
            state = _cast(model.state_dict(), kind)
            model.save_pretrained(folder, state_dict=state, max_shard_size=SHARD_SIZE)
        backbone.tokenizer.save_pretrained(folder)
        config = read_json(folder / "config.json")
        write_json(folder / "config.json", config | {"dtype": dtype})

    _write(out, write, adapter, "merged", dtype, readme)


def export_gguf(
    adapter: Adapter, backbone: Backbone, out: Path, dtype: GgufType = "float16"
) -> None:
    """Write the backbone with the adapter in its weights as one GGUF file for llama.cpp.

    Args:
        adapter: made on `backbone`.
        backbone: best loaded in float32; of an architecture of `gguf.ARCHITECTURES`; left as it
            was.
        out: folder to write; an earlier export there is replaced.
        dtype: of the weight matrices: float32, float16, bfloat16 or q8_0; vectors stay float32.

    Raises:
        AdapterError: unknown dtype, the adapter belongs to another backbone, or see
            `require_own_head`.
        BackboneError: the architecture or the tokenizer cannot be written here.
        RunError: see `require_export_dir`.
    """
    if dtype not in GGUF_TYPES:
        raise AdapterError(f"Unknown dtype '{dtype}'; choose one of {', '.join(GGUF_TYPES)}.")
    backbone.fingerprint.require_match(adapter.card.backbone, adapter.name)
    require_own_head(backbone, adapter.lora)
    require_exportable(backbone)
    require_export_dir(out)
    # The file holds the layers that are read and no others, so that its vectors are the adapter's.
    depth = adapter.card.recipe.dense.depth
    readme = _readme(
        replace(adapter, card=_read_whole(adapter.card)),
        f"The backbone with the adapter in its weights, in {dtype}: "
        f"`llama-server -m {GGUF_FILE} --embeddings --pooling {_pooling(adapter)}` gives hidden "
        f"states, `llama-cli -m {GGUF_FILE}` generates.",
    )

    def write(folder: Path) -> None:
        with merged(backbone.model, adapter.lora):
            write_gguf(backbone, folder / GGUF_FILE, dtype, adapter.name, depth)

    _write(out, write, adapter, "gguf", dtype, readme)


@contextmanager
def _valid_generation(model: PreTrainedModel) -> Iterator[None]:
    """Let a model be saved whose settings of sampling stand there without `do_sample`.

    `transformers` loads them with a warning and refuses to save them.
    """
    former = model.generation_config
    if former is not None:
        try:
            former.validate(strict=True)
        except ValueError:
            model.generation_config = copy.deepcopy(former)
            model.generation_config.do_sample = True
    try:
        yield
    finally:
        model.generation_config = former


def _read_whole(card: Card) -> Card:
    """A card for a file that holds no layer above the recipe's depth."""
    dense = card.recipe.dense.model_copy(update={"depth": None})
    recipe = card.recipe.model_copy(update={"dense": dense})
    return card.model_copy(update={"recipe": recipe})


def require_own_head(backbone: Backbone, lora: Lora) -> None:
    """Refuse to write a head that is tied to the embeddings and carries a LoRA: a file has one.

    Raises:
        AdapterError: so it is.
    """
    model = backbone.model
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    if tied and any(module is head for name, module in model.named_modules() if name in lora):
        raise AdapterError(
            f"The adapter changes the vocabulary's head, whose weight {backbone.name} shares with "
            "its embeddings; export it as peft."
        )


def require_export_dir(path: Path) -> None:
    """Refuse a folder to export to, before any work: an export replaces the whole folder.

    Raises:
        RunError: the folder holds other files than an export's, `path` is a file, or the file
            system refuses.
    """
    require_replaceable(path, "an export", MARK, _MARK_KEYS, _FILES)


def uniform(lora: Lora) -> Lora:
    """The same update with one rank and one scaling for all modules.

    Tensors are left as they are where that is so already.
    """
    rank = max(factors.a.shape[0] for factors in lora.values())
    if len({(factors.a.shape[0], factors.scaling) for factors in lora.values()}) == 1:
        return lora
    padded: dict[str, Factors] = {}
    for name, (a, b, scaling) in lora.items():
        more = rank - a.shape[0]
        padded[name] = Factors(pad(a, (0, 0, 0, more)), pad(b * scaling, (0, more)), 1.0)
    return padded


def _torch_dtype(dtype: str) -> torch.dtype:
    if dtype not in DTYPES:
        raise AdapterError(f"Unknown dtype '{dtype}'; choose one of {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def _cast(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors in a dtype; those that share memory (tied embeddings) still do."""
    done: dict[tuple[int, torch.Size], Tensor] = {}
    for tensor in state.values():
        key = (tensor.data_ptr(), tensor.shape)
        if key not in done:
            done[key] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return {name: done[(tensor.data_ptr(), tensor.shape)] for name, tensor in state.items()}


def _write(
    out: Path,
    write: Callable[[Path], None],
    adapter: Adapter,
    kind: Format,
    dtype: str,
    readme: str,
) -> None:
    origin, readout = _origin(adapter, kind, dtype), _readout(adapter)
    with atomic_dir(out) as folder:
        write(folder)
        if readout is not None:
            readout.save(folder / READOUT_FILE)
        write_json(folder / MARK, origin)
        (folder / "README.md").write_text(readme, encoding="utf-8")


def _origin(adapter: Adapter, kind: Format, dtype: str) -> dict[str, Any]:
    """Content of `export.json`: enough to know the model and to build its prompts elsewhere."""
    recipe = adapter.card.recipe
    template: type[Template] = DenseTemplate if recipe.packed else InstructionTemplate
    return {
        "format": kind,
        "dtype": dtype,
        "adapter": adapter.name,
        "adapter_sha256": adapter.sha256,
        "card": adapter.card.model_dump(mode="json"),
        "wording": load(recipe.template, template, adapter.card.wording).model_dump(),
        "temperature": _temperature(adapter) if recipe.ranker == "dense" else None,
        "version": __version__,
        "libraries": {name: version(name) for name in _LIBRARIES},
    }


def _readme(adapter: Adapter, *lines: str) -> str:
    card = adapter.card
    text = [
        f"# {adapter.name}",
        f"Exported by reccocktail {__version__} from a {card.role} on {card.backbone.summary()}.",
        *lines,
    ]
    text.append(_scoring(adapter) if card.recipe.ranker == "dense" else _reading(card.recipe))
    return "\n\n".join(text) + "\n"


def _reading(recipe: Recipe) -> str:
    """How an adapter reads that has no vectors."""
    what = {
        "title": "the mean log-probability, behind the history's titles, of the tokens of its own "
        f"and of the separator, over {recipe.title.temperature}",
        "generate": "the log-probability of its title as the answer to a prompt with candidates",
        "choice": "the logit of its letter behind a prompt with candidates",
    }
    return (
        f"An item's score is {what[recipe.ranker]}. The texts around titles are `wording` in "
        f"{MARK}; a title is cut at {recipe.prompt.title_tokens} tokens, a history at its last "
        f"{recipe.prompt.max_history} items."
    )


def _pooling(adapter: Adapter) -> str:
    """llama.cpp's name for the states that the adapter reads; its own mean is another one."""
    return "last" if adapter.card.recipe.dense.pooling == "last" else "none"


def _scoring(adapter: Adapter) -> str:
    """How to score with the exported files alone."""
    recipe = adapter.card.recipe
    state = "state of the last token"
    if recipe.dense.pooling == "mean":
        state = "mean of the unit states of all tokens behind the prefix, scaled to length 1"
    depth = f" Only the lowest {recipe.dense.depth} layers are run." if recipe.dense.depth else ""
    text = (
        "A score is the product of a history's and an item's vector over "
        f"{_temperature(adapter)}. A vector is the {state}, the final norm applied, scaled to "
        f"length 1.{depth} The texts around titles are `wording` in {MARK}; a title is cut at "
        f"{recipe.prompt.title_tokens} tokens, a history at its last "
        f"{recipe.prompt.max_history} items."
    )
    if (readout := _readout(adapter)) is None:
        return text
    return text + (
        f" Behind it stands a fixed readout, {READOUT_FILE}: with s that vector and w the mean of "
        "the unit input embeddings of the tokens behind the prefix, scaled to length 1, take "
        "unit((s - states.users) @ states.matrix) and unit((w - words.users) @ words.matrix) for a "
        "history, the same with states.items and words.items for an item; the vector is the first, "
        f"with {readout.weight} times the second behind it, scaled to length 1."
    )


def _readout(adapter: Adapter) -> Readout | None:
    """The readout that a dense adapter was trained with.

    Raises:
        AdapterError: it is another one by now.
    """
    card = adapter.card
    if card.recipe.ranker != "dense" or card.readout_sha256 is None:
        return None
    readout = load_readout(card.recipe.dense.readout, card.backbone)
    if readout is None or readout.sha256 != card.readout_sha256:
        raise AdapterError(
            f"The readout of '{adapter.name}' is not the one that it was trained with; "
            "give the former file back, or train again."
        )
    return readout


def _temperature(adapter: Adapter) -> float:
    return score_temperature(adapter.card.recipe.dense, _readout(adapter))
