"""Exports give the same numbers elsewhere: in stock PEFT, stock transformers and llama.cpp."""

import json
from dataclasses import replace
from types import SimpleNamespace

import gguf
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tokenizers import pre_tokenizers
from torch.nn.functional import cosine_similarity, normalize
from transformers import AutoModelForCausalLM, AutoTokenizer

from reccocktail.cli import main
from reccocktail.errors import AdapterError, BackboneError, RunError
from reccocktail.export.folders import export_gguf, export_merged, export_peft
from reccocktail.export.gguf import pre_tokenizer
from reccocktail.ranking.base import hidden_states
from reccocktail.ranking.readout import Readout, Whitening
from reccocktail.training.adapter import Adapter, Factors
from reccocktail.training.model import merged, ranker_of
from tests.adapters import random_adapter, save
from tests.benches import benchmark_modules
from tests.byte_level import byte_backbone, byte_tokenizer
from tests.helpers import one_sentence
from tests.pico import CHAT_TEMPLATE, HIDDEN, pico_backbone

TEXT = "the red apple 12 queen, old tea"
DOMAIN = SimpleNamespace(name="d", sha256="0" * 64)


@pytest.fixture(scope="module")
def backbone():
    return pico_backbone()


@pytest.fixture
def adapter(backbone):
    return random_adapter(backbone, DOMAIN, "cocktail", "cocktail")


@pytest.fixture
def uneven(adapter):
    """Other ranks and scalings in one adapter, as a mix by module leaves them."""
    lora = dict(adapter.lora)
    first, second, *_ = lora
    a, b, _ = lora[first]
    lora[first] = Factors(a[:1], b[:, :1], 0.7)
    lora[second] = Factors(*lora[second][:2], 3.0)
    return Adapter("uneven", lora, adapter.card)


def ids(backbone):
    return torch.tensor([backbone.tokenizer(TEXT)["input_ids"]])


def logits(backbone, adapter):
    with merged(backbone.model, adapter.lora) as model, torch.no_grad():
        return model(ids(backbone)).logits


# -- peft -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adapter", "uneven"])
def test_stock_peft_computes_the_same(kind, backbone, tmp_path, request):
    adapter = request.getfixturevalue(kind)
    export_peft(adapter, tmp_path / "out")
    fresh = pico_backbone()
    peft_model = PeftModel.from_pretrained(fresh.model, tmp_path / "out")
    with torch.no_grad():
        found = peft_model(ids(backbone)).logits
    torch.testing.assert_close(found, logits(backbone, adapter), atol=1e-4, rtol=1e-4)
    assert (found - logits(backbone, Adapter("bare", {}, adapter.card))).abs().max() > 0.1
    assert Adapter.load(tmp_path / "out").card == adapter.card


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_peft_folder_meets_vllms_layout(uneven, tmp_path, dtype):
    """vLLM reads r, lora_alpha and a list of modules; patterns it would pass over in silence."""
    export_peft(uneven, tmp_path / "out", dtype)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["r"] == 2
    assert config["lora_alpha"] / config["r"] == 1.0
    assert not config["rank_pattern"] and not config["alpha_pattern"]
    assert config["bias"] == "none" and not config["modules_to_save"] and not config["use_dora"]
    assert config["target_modules"] == sorted(uneven.lora)
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert set(tensors) == {
        f"base_model.model.{module}.lora_{factor}.weight"
        for module in uneven.lora
        for factor in "AB"
    }
    for name, tensor in tensors.items():
        assert tensor.dtype == getattr(torch, dtype)
        assert tensor.shape[0 if "lora_A" in name else 1] == 2
    assert "--max-lora-rank" in (tmp_path / "out" / "README.md").read_text()


def test_an_even_adapter_keeps_its_tensors(adapter, tmp_path):
    export_peft(adapter, tmp_path / "out")
    assert Adapter.load(tmp_path / "out").sha256 == adapter.sha256


# -- merged -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 0.1)])
def test_stock_transformers_loads_merged_weights(backbone, adapter, tmp_path, dtype, tolerance):
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    export_merged(adapter, backbone, tmp_path / "out", dtype)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == getattr(torch, dtype)
    with torch.no_grad():
        found = model(ids(backbone)).logits.float()
    assert (found - logits(backbone, adapter)).abs().max() < tolerance * 5
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer(TEXT)["input_ids"] == backbone.tokenizer(TEXT)["input_ids"]
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert (tmp_path / "out" / "generation_config.json").is_file()
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert "lm_head.weight" not in weights  # tied, kept once
    for name, tensor in backbone.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_an_export_tells_its_origin_and_wording(backbone, adapter, tmp_path):
    export_merged(adapter, backbone, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "export.json").read_text())
    assert told["adapter_sha256"] == adapter.sha256 and told["card"]["role"] == "cocktail"
    assert told["wording"]["history_prefix"] and told["libraries"]["transformers"]
    assert "scaled to length 1" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("ranker", "field"),
    [("title", "history_prefix"), ("generate", "before_candidates"), ("choice", "after_label")],
)
def test_an_export_of_another_ranker_tells_its_wording_too(adapter, ranker, field, tmp_path):
    recipe = adapter.card.recipe.model_copy(update={"ranker": ranker})
    other = replace(adapter, card=adapter.card.model_copy(update={"recipe": recipe}))
    export_peft(other, tmp_path / "out")
    assert field in json.loads((tmp_path / "out" / "export.json").read_text())["wording"]
    assert "An item's score is" in (tmp_path / "out" / "README.md").read_text()


def test_settings_of_sampling_that_contradict_each_other_are_saved(adapter, tmp_path):
    """Published chat models have a temperature without `do_sample`; loading only warns."""
    backbone = pico_backbone()
    generation = backbone.model.generation_config
    generation.do_sample, generation.temperature = False, 0.6
    export_merged(adapter, backbone, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (told["do_sample"], told["temperature"]) == (True, 0.6)
    assert backbone.model.generation_config.do_sample is False


def test_a_readout_travels_with_the_export(backbone, adapter, tmp_path):
    """The vectors can be computed from the exported files and the README's formula alone."""
    generator = torch.Generator().manual_seed(0)
    some = [torch.randn(40, HIDDEN, generator=generator) for _ in range(4)]
    parts = [Whitening.of(normalize(u), normalize(i), 0.1) for u, i in (some[:2], some[2:])]
    Readout(*parts, 0.7, 0.09, backbone.fingerprint.sha256).save(tmp_path / "readout")
    recipe = adapter.card.recipe
    dense = recipe.dense.model_copy(update={"readout": str(tmp_path / "readout")})
    card = {
        "recipe": recipe.model_copy(update={"dense": dense}),
        "readout_sha256": Readout.load(tmp_path / "readout").sha256,
    }
    own = Adapter("own", adapter.lora, adapter.card.model_copy(update=card))
    export_merged(own, backbone, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "export.json").read_text())
    assert told["temperature"] == 0.09
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "readout.safetensors" in readme and "0.7 times" in readme

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    numbers = {k: v.float() for k, v in load_file(tmp_path / "out" / "readout.safetensors").items()}
    words = told["wording"]
    prefix = tokenizer(words["item_prefix"], add_special_tokens=False)["input_ids"]
    rest = [*tokenizer("red apple")["input_ids"]]
    rest += tokenizer(words["item_suffix"], add_special_tokens=False)["input_ids"]
    row = torch.tensor([[*prefix, *rest]])
    with torch.no_grad():
        state = normalize(model.get_decoder()(row).last_hidden_state[0, -1], dim=-1)
        unit = normalize(model.get_input_embeddings()(row)[0, len(prefix) :], dim=-1)
    word = normalize(unit.mean(dim=0), dim=-1)
    halves = [
        normalize((part - numbers[f"{name}.items"]) @ numbers[f"{name}.matrix"], dim=-1)
        for name, part in (("states", state), ("words", word))
    ]
    by_hand = normalize(torch.cat([halves[0], 0.7 * halves[1]]), dim=-1)
    ranker = ranker_of(own.card, backbone)
    with merged(backbone.model, own.lora) as whole:
        ours = ranker.item_vectors(whole, ranker.titles(["red apple"]), backbone.device)[0]
    torch.testing.assert_close(ours, by_hand, atol=1e-4, rtol=1e-4)


# -- gguf -------------------------------------------------------------------------------------


def llama_cpp(file, inputs):
    """Hidden states (inputs, width) of each input's last token, by llama.cpp itself."""
    pytest.importorskip("xllamacpp")
    with benchmark_modules() as find:
        read = find("llama_cpp").LlamaCpp(file, 256, unit=False).vectors(inputs, "llama.cpp")
    return torch.from_numpy(read).float()


def states(backbone, adapter, sequences):
    with merged(backbone.model, adapter.lora) as model, torch.no_grad():
        return torch.stack([hidden_states(model, torch.tensor([s]))[0, -1] for s in sequences])


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
VARIANTS = {
    "llama": ("llama", {}),
    "llama-untied": ("llama", {"tie_word_embeddings": False}),
    "llama-rope": ("llama", {"rope_parameters": LLAMA3}),
    "llama-bias": ("llama", {"attention_bias": True}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_llama_cpp_computes_the_same_states(variant, tmp_path):
    family, settings = VARIANTS[variant]
    backbone = byte_backbone(family, **settings)
    adapter = random_adapter(backbone, DOMAIN, "cocktail")
    export_gguf(adapter, backbone, tmp_path / "out", "float32")
    tokens = backbone.tokenizer(TEXT)["input_ids"]
    sequences = [tokens, tokens[:5], tokens * 4]
    want = states(backbone, adapter, sequences)
    found = llama_cpp(tmp_path / "out" / "model.gguf", sequences)
    torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4)
    bare = states(backbone, Adapter("bare", {}, adapter.card), sequences)
    assert (found - bare).abs().max() > 0.1


@pytest.mark.parametrize(
    ("dtype", "cosine"), [("float16", 0.99999), ("bfloat16", 0.9999), ("q8_0", 0.999)]
)
def test_llama_cpp_is_within_the_quantisations_tolerance(dtype, cosine, tmp_path):
    backbone = byte_backbone()
    adapter = random_adapter(backbone, DOMAIN, "cocktail")
    export_gguf(adapter, backbone, tmp_path / "out", dtype)
    tokens = backbone.tokenizer(TEXT)["input_ids"]
    sequences = [tokens, tokens[:5], tokens[3:]]
    found = llama_cpp(tmp_path / "out" / "model.gguf", sequences)
    assert cosine_similarity(found, states(backbone, adapter, sequences)).min() > cosine


SPLITS = {
    "gpt-2": None,
    "smollm": [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ],
}


@pytest.mark.parametrize("rule", SPLITS)
def test_llama_cpp_reads_text_as_the_tokenizer_does(rule, tmp_path):
    backbone = byte_backbone(tokenizer=byte_tokenizer(SPLITS[rule]))
    assert pre_tokenizer(backbone.tokenizer) == rule
    adapter = random_adapter(backbone, DOMAIN, "cocktail")
    export_gguf(adapter, backbone, tmp_path / "out", "float32")
    texts = [TEXT, "Soap & oil's 12 12 12kit", "tea\n coffee  (1234) é"]
    sequences = [backbone.tokenizer(text)["input_ids"] for text in texts]
    found = llama_cpp(tmp_path / "out" / "model.gguf", texts)
    want = states(backbone, adapter, sequences)
    torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4)


def test_the_two_rules_differ_on_digits():
    one, two = (byte_tokenizer(steps)("12 12")["input_ids"] for steps in SPLITS.values())
    assert one != two


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_transformers_reads_the_gguf_file_back(family, tmp_path):
    backbone = byte_backbone(family)
    adapter = random_adapter(backbone, DOMAIN, "cocktail")
    export_gguf(adapter, backbone, tmp_path / "out", "float32")
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", gguf_file="model.gguf", dtype=torch.float32
    )
    with torch.no_grad():
        found = model(ids(backbone)).logits
    torch.testing.assert_close(found, logits(backbone, adapter), atol=1e-5, rtol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file="model.gguf")
    assert tokenizer(TEXT)["input_ids"] == backbone.tokenizer(TEXT)["input_ids"]
    assert tokenizer.chat_template == CHAT_TEMPLATE


# -- what is refused --------------------------------------------------------------------------


def test_other_architectures_are_told_the_command(tmp_path):
    backbone = byte_backbone("gemma3")
    with pytest.raises(BackboneError, match=r"gemma3.*convert_hf_to_gguf.py") as error:
        export_gguf(random_adapter(backbone, DOMAIN, "a"), backbone, tmp_path / "out")
    one_sentence(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"hidden_act": "gelu"}, "activation gelu"),
        ({"rope_parameters": LLAMA3 | {"rope_type": "dynamic"}}, "RoPE variant dynamic"),
    ],
)
def test_variants_that_the_file_would_not_tell_are_refused(settings, what, tmp_path):
    backbone = byte_backbone(**settings)
    with pytest.raises(BackboneError, match=what) as error:
        export_gguf(random_adapter(backbone, DOMAIN, "a"), backbone, tmp_path / "out")
    one_sentence(error.value)


def test_layers_that_are_not_read_are_not_in_the_file(tmp_path):
    """Programs know no depth: the file's last state must be the one that is scored."""
    backbone = byte_backbone()
    deep = random_adapter(backbone, DOMAIN, "cocktail")
    recipe = deep.card.recipe
    dense = recipe.dense.model_copy(update={"depth": 1})
    card = deep.card.model_copy(update={"recipe": recipe.model_copy(update={"dense": dense})})
    adapter = replace(deep, card=card)
    export_gguf(adapter, backbone, tmp_path / "out", "float32")
    assert "lowest" not in (tmp_path / "out" / "README.md").read_text()
    reader = gguf.GGUFReader(tmp_path / "out" / "model.gguf")
    assert reader.fields["llama.block_count"].contents() == 1
    assert not [t.name for t in reader.tensors if t.name.startswith("blk.1.")]
    sequence = backbone.tokenizer(TEXT)["input_ids"]
    with merged(backbone.model, adapter.lora) as model, torch.no_grad():
        want = hidden_states(model, torch.tensor([sequence]), depth=1)[0, -1:]
    found = llama_cpp(tmp_path / "out" / "model.gguf", [sequence])
    torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4)


def test_tokens_that_the_model_does_not_know_are_left_out(tmp_path):
    """A [PAD] may have been added to the tokenizer alone."""
    backbone = byte_backbone()
    rows = backbone.fingerprint.vocab_size
    backbone.tokenizer.add_tokens([f"more{number}" for number in range(rows)])
    backbone.tokenizer.add_special_tokens({"pad_token": "[LATE]"})
    export_gguf(random_adapter(backbone, DOMAIN, "mine"), backbone, tmp_path / "out", "float32")
    fields = gguf.GGUFReader(tmp_path / "out" / "model.gguf").fields
    assert len(fields["tokenizer.ggml.tokens"].contents()) == rows
    assert "tokenizer.ggml.padding_token_id" not in fields


def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused(backbone, adapter, tmp_path):
    with pytest.raises(BackboneError, match="no byte-level BPE") as error:
        export_gguf(adapter, backbone, tmp_path / "out")
    one_sentence(error.value)


def test_foreign_files_are_never_replaced(backbone, adapter, tmp_path):
    source = save(adapter, tmp_path)
    for write in (
        lambda out: export_peft(adapter, out),
        lambda out: export_merged(adapter, backbone, out),
    ):
        with pytest.raises(RunError, match="other files than an export's") as error:
            write(source)
        one_sentence(error.value)
    assert Adapter.load(source).sha256 == adapter.sha256
    export_merged(adapter, backbone, tmp_path / "out")
    export_peft(adapter, tmp_path / "out")  # an earlier export makes way
    assert not (tmp_path / "out" / "model.safetensors").exists()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"other files .* \(such as notes\.txt\)"):
        export_peft(adapter, tmp_path / "out")


def test_wrong_dtypes_and_backbones_are_refused(backbone, adapter, tmp_path):
    for write in (
        lambda: export_peft(adapter, tmp_path / "out", "q8_0"),
        lambda: export_merged(adapter, backbone, tmp_path / "out", "int4"),
        lambda: export_gguf(adapter, byte_backbone(), tmp_path / "out", "int4"),
        lambda: export_merged(adapter, pico_backbone(seed=3), tmp_path / "out"),
    ):
        with pytest.raises(AdapterError) as error:
            write()
        one_sentence(error.value)
    assert not (tmp_path / "out").exists()


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(["export", *map(str, arguments)])
    return stop.value.code


def test_the_command(adapter, tmp_path, capsys):
    source, out = save(adapter, tmp_path), tmp_path / "out"
    assert run("--adapter", source, "--format", "peft", "--out", out) == 0
    assert "Export:" in capsys.readouterr().out
    assert Adapter.load(out).sha256 == adapter.sha256
    # An exported folder is an adapter too, and would be gone.
    assert run("--adapter", out, "--format", "peft", "--dtype", "float16", "--out", out) == 2
    assert "would be replaced" in one_sentence(capsys.readouterr().err)
    assert Adapter.load(out).sha256 == adapter.sha256
    nowhere = ("--backbone", tmp_path / "nowhere")
    assert run("--adapter", source, "--format", "gguf", "--out", tmp_path / "x", *nowhere) == 2


@pytest.mark.parametrize("write", [export_merged, export_gguf])
def test_a_changed_head_that_is_tied_fits_no_merged_file(write, tmp_path):
    backbone = pico_backbone()
    outputs, inputs = backbone.model.lm_head.weight.shape
    head = {"lm_head": Factors(torch.ones(2, inputs), torch.ones(outputs, 2), 1.0)}
    adapter = replace(random_adapter(backbone, DOMAIN, "mine"), lora=head)
    with pytest.raises(
        AdapterError, match="shares with its embeddings; export it as peft"
    ) as error:
        write(adapter, backbone, tmp_path / "out")
    one_sentence(error.value)
    assert not (tmp_path / "out").exists()
