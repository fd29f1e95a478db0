"""Write a causal language model and its tokenizer as a GGUF file that llama.cpp loads.

The names of tensors come from the `gguf` package; what is done here is what the format leaves to
the writer: the hyperparameters of each architecture, the order of the rows of Q and K (llama.cpp
rotates neighbouring pairs in the Llama architecture, `transformers` the two halves of a head), and
the kind of byte-level BPE.
"""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import gguf
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from reccocktail.backbone import Backbone
from reccocktail.errors import BackboneError

GgufType = Literal["float16", "float32", "bfloat16", "q8_0"]
GGUF_TYPES: tuple[GgufType, ...] = get_args(GgufType)
_TYPES = {
    "float32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "float16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bfloat16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}


class Architecture(NamedTuple):
    """How llama.cpp names an architecture, and whether the rows of Q and K change order."""

    arch: gguf.MODEL_ARCH
    permuted: bool


ARCHITECTURES = {
    "llama": Architecture(gguf.MODEL_ARCH.LLAMA, True),
    "qwen2": Architecture(gguf.MODEL_ARCH.QWEN2, False),
    "qwen3": Architecture(gguf.MODEL_ARCH.QWEN3, False),
}
"""`model_type` of `transformers` -> architecture; each is compared with llama.cpp by a test."""

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    _CONTRACTIONS + r"\p{N}{1,3}" + _REST: "llama-bpe",
    _CONTRACTIONS + r"\p{N}" + _REST: "qwen2",
}
"""Regular expression of a tokenizer's first split -> llama.cpp's name of the same rule."""


def require_exportable(backbone: Backbone) -> None:
    """Refuse a backbone that `write_gguf` cannot write.

    Raises:
        BackboneError: its architecture, a variant of it, or its tokenizer is not one of those that
            are known here; the sentence says what to run instead.
    """
    config = backbone.model.config
    way_out = (
        "export it with --format merged and run llama.cpp's convert_hf_to_gguf.py on that folder."
    )
    if config.model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise BackboneError(
            f"GGUF files are written for the architectures {known}, and '{backbone.name}' is "
            f"{config.model_type}; {way_out}"
        )
    rope = config.rope_parameters.get("rope_type", "default")
    ropes = ("default", "llama3", "linear") if config.model_type == "llama" else ("default",)
    odd = (
        f"the RoPE variant {rope}" if rope not in ropes else
        f"the activation {config.hidden_act}" if config.hidden_act != "silu" else
        "a sliding window" if getattr(config, "use_sliding_window", False) else
        None
    )  # fmt: skip
    if odd:
        raise BackboneError(f"'{backbone.name}' has {odd}, which is not written here; {way_out}")
    if pre_tokenizer(backbone.tokenizer) is None:
        raise BackboneError(
            f"The tokenizer of '{backbone.name}' is no byte-level BPE of a kind known here; "
            f"{way_out}"
        )


def write_gguf(
    backbone: Backbone, file: Path, dtype: GgufType, name: str, depth: int | None = None
) -> None:
    """Write model and tokenizer to one file.

    Args:
        backbone: one that `require_exportable` lets pass; its weights are written as they are now.
        file: file to write.
        dtype: of the weight matrices; those whose rows are no multiple of 32 stay float16 under
            q8_0. Vectors are float32.
        name: the model's name in the file.
        depth: lowest layers to write, the final norm behind them; None writes all.
    """
    config = backbone.model.config
    layers = depth or config.num_hidden_layers
    architecture = ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[architecture.arch])
    try:
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(name)
        writer.add_file_type(_TYPES[dtype][1])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_hyperparameters(writer, config, layers, backbone.fingerprint.vocab_size)
        _add_tokenizer(writer, backbone.tokenizer, backbone.fingerprint.vocab_size)
        names = gguf.get_tensor_name_map(architecture.arch, layers)
        for parameter, tensor in _tensors(backbone, layers):
            target = names.get_name(parameter, try_suffixes=(".weight", ".bias"))
            if target is None:
                raise BackboneError(
                    f"'{backbone.name}' has the weights '{parameter}', for which GGUF has no name; "
                    "export it with --format merged and run llama.cpp's convert_hf_to_gguf.py."
                )
            if architecture.permuted:
                tensor = _paired(parameter, tensor, config)
            data, kind = _stored(tensor, dtype)
            writer.add_tensor(target, data, raw_dtype=kind)
        factors = _rope_factors(backbone)
        if factors is not None:
            writer.add_tensor("rope_freqs.weight", factors)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _tensors(backbone: Backbone, layers: int) -> list[tuple[str, Tensor]]:
    """Weights by name up to a layer, a tied output layer left out: llama.cpp ties it again."""
    config = backbone.model.config
    above = range(layers, config.num_hidden_layers)
    left_out = tuple(f"model.layers.{number}." for number in above)
    if config.tie_word_embeddings:
        left_out += ("lm_head.weight",)
    state = backbone.model.state_dict()
    return [(key, value) for key, value in state.items() if not key.startswith(left_out)]


def _stored(tensor: Tensor, dtype: GgufType) -> tuple[Any, gguf.GGMLQuantizationType]:
    """A tensor's bytes in the file, and their type."""
    data = tensor.detach().float().cpu().contiguous().numpy()
    kind = _TYPES[dtype][0] if tensor.ndim == 2 else gguf.GGMLQuantizationType.F32
    if kind is gguf.GGMLQuantizationType.Q8_0 and data.shape[-1] % 32:
        kind = gguf.GGMLQuantizationType.F16
    return gguf.quants.quantize(data, kind), kind


def _paired(name: str, tensor: Tensor, config: Any) -> Tensor:
    """Rows of Q and K so that the two numbers that RoPE turns together stand side by side."""
    if ".q_proj." in name:
        heads = config.num_attention_heads
    elif ".k_proj." in name:
        heads = config.num_key_value_heads
    else:
        return tensor
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


def _rope_factors(backbone: Backbone) -> Any:
    """What each frequency of plain RoPE is divided by, (head / 2,); None where nothing is."""
    config = backbone.model.config
    actual = backbone.model.get_decoder().rotary_emb.inv_freq.detach().float().cpu()  # type: ignore[no-untyped-call]
    size = _head_size(config)
    plain = config.rope_parameters["rope_theta"] ** -(torch.arange(0, size, 2).float() / size)
    factors = plain / actual
    return None if torch.allclose(factors, torch.ones_like(factors), rtol=1e-4) else factors.numpy()


def _head_size(config: Any) -> int:
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def _add_hyperparameters(writer: gguf.GGUFWriter, config: Any, layers: int, rows: int) -> None:
    size = _head_size(config)
    writer.add_block_count(layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(rows)


def pre_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """llama.cpp's name of the rule that cuts text before BPE; None if it is none of the known."""
    parts = _description(tokenizer)
    if parts is None or parts["model"]["type"] != "BPE":
        return None
    if (parts.get("normalizer") or {}).get("type", "NFC") != "NFC":
        return None
    rule = parts.get("pre_tokenizer") or {}
    steps = rule.get("pretokenizers", [rule])
    kinds = [step.get("type") for step in steps]
    if not kinds or kinds[-1] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    if kinds == ["ByteLevel"] and steps[0].get("use_regex"):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[1].get("use_regex"):
        return "smollm" if steps[0].get("individual_digits") else None
    if kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex"):
        return _SPLITS.get(steps[0]["pattern"].get("Regex"))
    return None


def _description(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """Content of tokenizer.json; None for a tokenizer that has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None else dict(json.loads(backend.to_str()))


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    parts, rule = _description(tokenizer), pre_tokenizer(tokenizer)
    assert parts is not None and rule is not None
    tokens = [f"[PAD{number}]" for number in range(rows)]
    kinds = [int(gguf.TokenType.UNUSED)] * rows
    for token, number in parts["model"]["vocab"].items():
        tokens[number], kinds[number] = token, int(gguf.TokenType.NORMAL)
    for added in parts["added_tokens"]:
        if added["id"] >= rows:  # a token that the model has no embedding for
            continue
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], kinds[added["id"]] = added["content"], int(kind)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = parts["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    for role in ("bos", "eos", "unk", "pad"):
        number = getattr(tokenizer, f"{role}_token_id")
        if number is not None and number < rows:
            getattr(writer, f"add_{role}_token_id")(number)
    sample = tokenizer("a")["input_ids"]
    assert isinstance(sample, list)
    writer.add_add_bos_token(bool(sample) and sample[0] == tokenizer.bos_token_id)
    writer.add_add_space_prefix(False)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


__all__ = ["ARCHITECTURES", "GGUF_TYPES", "GgufType", "require_exportable", "write_gguf"]
