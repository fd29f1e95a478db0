import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from reccocktail.errors import AdapterError, RecCocktailError, RecipeError
from reccocktail.mixing.arithmetic import combine
from reccocktail.ranking.base import hidden_states
from reccocktail.recipe import DenseSettings, LoraSettings, Recipe
from reccocktail.training.adapter import (
    CARD_FILE,
    CONFIG_FILE,
    TENSORS_FILE,
    Adapter,
    Card,
    DataCard,
    Factors,
    load_lora,
)
from reccocktail.training.model import attach, check_shapes, merged, new_peft_model, tensors_of
from tests.helpers import one_sentence
from tests.pico import pico_backbone, pico_model

IDS = torch.arange(5, 25).reshape(2, 10)
TARGETS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def backbone(family):
    return pico_backbone(family)


def random_lora(model, *, seed=0, targets=TARGETS, rank=2, alpha=8.0, mixed=False):
    """LoRA tensors for a model; `mixed` gives every module a rank and an alpha of its own."""
    generator = torch.Generator().manual_seed(seed)
    lora = {}
    for number, (name, module) in enumerate(
        (n, m) for n, m in model.named_modules() if n.endswith(targets)
    ):
        outputs, inputs = module.weight.shape
        r = 1 + number % 4 if mixed else rank
        scaling = alpha * (1 + number % 3) / r**0.5 if mixed else alpha / r
        lora[name] = Factors(
            torch.randn(r, inputs, generator=generator) * 0.1,
            torch.randn(outputs, r, generator=generator) * 0.1,
            scaling,
        )
    assert lora
    return lora


def adapter_on(backbone, lora, name="mine", **fields):
    card = Card(
        role="ingredient",
        backbone=backbone.fingerprint,
        recipe=Recipe(backbone=backbone.name),
        template_sha256="0" * 64,
        data=(DataCard(name="d", sha256="1" * 64, users=3, items=4),),
        **fields,
    )
    return Adapter(name, lora, card)


@pytest.fixture
def saved(tmp_path, backbone):
    """A sound adapter folder."""
    adapter_on(backbone, random_lora(backbone.model)).save(tmp_path / "mine", "# Card\n")
    return tmp_path / "mine"


@torch.no_grad()
def states(model):
    return hidden_states(model, IDS)


def assert_same_lora(one, other):
    assert sorted(one) == sorted(other)
    for module, (a, b, scaling) in one.items():
        assert torch.equal(other[module].a, a) and torch.equal(other[module].b, b)
        assert other[module].scaling == pytest.approx(scaling, rel=1e-12)


# -- round trips ------------------------------------------------------------------------------


@pytest.mark.parametrize("mixed", [False, True])
def test_saved_and_loaded_is_the_same(tmp_path, backbone, mixed):
    adapter = adapter_on(backbone, random_lora(backbone.model, mixed=mixed), steps=7)
    adapter.save(tmp_path / "mine", "# Card\n", {"cocktail.json": {"format": 1}})
    loaded = Adapter.load(tmp_path / "mine")
    assert_same_lora(adapter.lora, loaded.lora)
    assert loaded.name == "mine"
    assert loaded.card == adapter.card
    assert (tmp_path / "mine" / "README.md").read_text() == "# Card\n"
    assert json.loads((tmp_path / "mine" / "cocktail.json").read_text()) == {"format": 1}
    if not mixed:
        assert loaded.sha256 == adapter.sha256


def test_saved_twice_is_the_same_bytes(tmp_path, backbone):
    adapter = adapter_on(backbone, random_lora(backbone.model, mixed=True))
    for place in ("one", "two"):
        adapter.save(tmp_path / place, "# Card\n")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_saving_replaces_the_whole_folder(tmp_path, backbone, saved):
    adapter_on(backbone, random_lora(backbone.model)).save(saved, "", {"old.json": 1})
    adapter_on(backbone, random_lora(backbone.model, seed=1)).save(saved, "")
    assert not (saved / "old.json").exists()
    assert sorted(path.name for path in saved.parent.iterdir()) == ["mine"]


@given(st.integers(1, 64), st.floats(0.1, 512), st.booleans())
def test_any_scaling_survives_its_way_through_alpha(rank, alpha, rslora):
    from reccocktail.training.adapter import lora_config

    scaling = alpha / rank**0.5 if rslora else alpha / rank
    lora = {
        "m.q": Factors(torch.zeros(rank, 2), torch.zeros(2, rank), scaling),
        "m.v": Factors(torch.zeros(2, 2), torch.zeros(2, 2), 1.0),
    }
    config = lora_config(lora)
    alphas = config.alpha_pattern
    found = alphas.get(r"m\.q", config.lora_alpha) / config.rank_pattern.get(r"m\.q", config.r)
    assert found == pytest.approx(scaling, rel=1e-12)


def test_the_hash_is_of_the_update(backbone):
    lora = random_lora(backbone.model)
    adapter = adapter_on(backbone, lora)
    assert adapter_on(backbone, dict(reversed(lora.items())), "other").sha256 == adapter.sha256
    name = next(iter(lora))
    for changed in (
        lora[name]._replace(scaling=lora[name].scaling * 1.001),
        lora[name]._replace(a=lora[name].a.flip(0)),
    ):
        assert adapter_on(backbone, lora | {name: changed}).sha256 != adapter.sha256
    assert adapter_on(backbone, {name: lora[name]}).sha256 != adapter.sha256


# -- the same function with stock PEFT, attached, and merged ------------------------------------


@pytest.mark.parametrize("kind", ["plain", "mixed", "some modules", "delta", "factor", "svd"])
def test_stock_peft_attached_and_merged_agree(tmp_path, family, backbone, kind):
    model = backbone.model
    lora = random_lora(model, mixed=kind != "plain")
    if kind == "some modules":
        lora = dict(list(lora.items())[::2])
    elif kind in ("delta", "factor", "svd"):
        other = random_lora(model, seed=1, targets=TARGETS[1:], rank=3)
        lora = combine([lora, other], torch.tensor([0.6, 0.4]), kind)
    with merged(model, lora):
        wanted = states(model)
    adapter_on(backbone, lora).save(tmp_path / "mine", "")

    stock = PeftModel.from_pretrained(pico_model(family), tmp_path / "mine").eval()
    torch.testing.assert_close(states(stock.get_base_model()), wanted, atol=1e-4, rtol=0)
    ours = attach(pico_model(family), Adapter.load(tmp_path / "mine").lora)
    torch.testing.assert_close(states(ours.get_base_model()), wanted, atol=1e-4, rtol=0)
    assert not ours.training
    assert_same_lora(lora, tensors_of(ours))
    assert (wanted - states(model)).abs().max() > 0.1  # the update does something


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_made_by_stock_peft_is_read(tmp_path, family, backbone, rslora):
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["q_proj", "down_proj"],
        rank_pattern={"down_proj": 3, "layers.0.self_attn.q_proj": 2},
        alpha_pattern={"layers.1.mlp.down_proj": 12},
        use_rslora=rslora,
        init_lora_weights=False,
    )
    stock = get_peft_model(pico_model(family), config).eval()
    stock.save_pretrained(tmp_path / "stock")
    lora = load_lora(tmp_path / "stock")
    assert_same_lora(lora, tensors_of(stock))
    root = 0.5 if rslora else 1
    assert lora["model.layers.0.self_attn.q_proj"].scaling == pytest.approx(6 / 2**root)
    assert lora["model.layers.1.mlp.down_proj"].scaling == pytest.approx(12 / 3**root)
    with merged(backbone.model, lora):
        torch.testing.assert_close(
            states(backbone.model), states(stock.get_base_model()), atol=1e-4, rtol=0
        )


def test_merged_gives_the_weights_back_bit_for_bit(backbone):
    model, lora = backbone.model, random_lora(backbone.model, alpha=1e4)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    def unchanged():
        return all(torch.equal(before[n], w) for n, w in model.state_dict().items())

    with merged(model, lora) as inside:
        assert inside is model
        assert not unchanged()
    assert unchanged()
    with pytest.raises(KeyboardInterrupt), merged(model, lora):
        raise KeyboardInterrupt
    assert unchanged()
    with merged(model, None):
        assert unchanged()


def test_a_head_that_is_tied_to_the_embeddings_changes_alone(backbone):
    """As with stock PEFT: the update belongs to the head, not to what words go in as."""
    model = backbone.model
    if model.lm_head.weight is not model.get_input_embeddings().weight:
        pytest.skip("this family's head is its own")
    outputs, inputs = model.lm_head.weight.shape
    factors = Factors(torch.randn(2, inputs) * 0.3, torch.randn(outputs, 2) * 0.3, 1.0)
    before = states(model)
    with torch.no_grad():
        stock = attach(model, {"lm_head": factors})
        wanted = stock(input_ids=IDS).logits
        stock.unload()
    with merged(model, {"lm_head": factors}), torch.no_grad():
        torch.testing.assert_close(model(input_ids=IDS).logits, wanted, atol=1e-4, rtol=0)
        assert torch.equal(states(model), before)
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_merged_refuses_before_it_touches_a_weight(backbone):
    lora = random_lora(backbone.model)
    last = list(lora)[-1]
    lora[last] = lora[last]._replace(a=torch.zeros(2, 999))
    before = {name: weight.clone() for name, weight in backbone.model.state_dict().items()}
    with pytest.raises(AdapterError, match=last), merged(backbone.model, lora):
        pytest.fail("a LoRA that does not fit was merged")
    assert all(torch.equal(before[n], w) for n, w in backbone.model.state_dict().items())


def test_another_backbone_is_refused(backbone):
    lora = random_lora(backbone.model)
    for wrong in (
        {"model.layers.7.self_attn.q_proj": next(iter(lora.values()))},
        {"model.norm": next(iter(lora.values()))},
        {name: f._replace(b=f.b[:-1]) for name, f in lora.items()},
    ):
        for use in (attach, check_shapes):
            with pytest.raises(AdapterError, match="does not fit this backbone"):
                use(backbone.model, wrong)
    assert not any("lora" in name for name, _ in backbone.model.named_modules())


# -- fresh adapters ---------------------------------------------------------------------------


def test_a_fresh_adapter_changes_nothing_and_is_seeded(family):
    def fresh(init_seed, seed=0):
        torch.manual_seed(seed)
        recipe = Recipe(lora=LoraSettings(rank=3, alpha=6.0, init_seed=init_seed))
        return new_peft_model(pico_backbone(family), recipe)

    bare = pico_backbone(family).model
    one = fresh(0)
    torch.testing.assert_close(states(one.get_base_model()), states(bare))
    lora = tensors_of(one)
    assert len(lora) == 2 * 7  # layers x linear modules, the vocabulary head left out
    assert all(f.scaling == 2.0 and f.a.shape[0] == 3 for f in lora.values())
    assert all(f.a.any() and not f.b.any() for f in lora.values())
    assert_same_lora(lora, tensors_of(fresh(0, seed=99)))
    assert not torch.equal(next(iter(lora.values())).a, next(iter(tensors_of(fresh(1)).values())).a)
    trainable = {name for name, weight in one.named_parameters() if weight.requires_grad}
    assert trainable and all("lora_" in name for name in trainable)


def test_making_an_adapter_leaves_the_global_seed_alone(family):
    backbone = pico_backbone(family)
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    new_peft_model(backbone, Recipe())
    assert torch.equal(torch.rand(2), wanted)


def test_target_modules_that_are_not_there(backbone):
    recipe = Recipe(lora=LoraSettings(target_modules=("nonsense",)))
    with pytest.raises(AdapterError, match="nonsense"):
        new_peft_model(backbone, recipe)
    assert not hasattr(backbone.model, "peft_config")


def test_layers_of_gpt2_carry_adapters_too(tmp_path):
    """They keep their weights the other way round."""
    backbone = pico_backbone("gpt2")
    before = {name: weight.clone() for name, weight in backbone.model.state_dict().items()}
    trained = new_peft_model(backbone, Recipe())
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    lora = tensors_of(trained)
    unmerged = states(trained.eval().get_base_model())
    trained.unload()
    adapter_on(backbone, lora).save(tmp_path / "mine", "")
    bare = states(backbone.model)
    with merged(backbone.model, load_lora(tmp_path / "mine")) as model:
        assert not torch.allclose(states(model), bare, atol=1e-2)
        torch.testing.assert_close(states(model), unmerged, atol=1e-4, rtol=0)
    assert all(torch.equal(before[n], w) for n, w in backbone.model.state_dict().items())
    shallow = Recipe().model_copy(update={"dense": DenseSettings(depth=1)})
    with pytest.raises(RecipeError, match=r"leave dense\.depth out"):
        new_peft_model(backbone, shallow)


@pytest.mark.parametrize("names", [("embed_tokens",), ("q_proj", "embed_tokens"), ("lm_head",)])
def test_modules_that_could_not_be_kept_or_trained_are_refused(backbone, names):
    recipe = Recipe(lora=LoraSettings(target_modules=names))
    with pytest.raises(AdapterError, match=rf"names .*{names[-1]}., which .* leave it out"):
        new_peft_model(backbone, recipe)
    assert not hasattr(backbone.model, "peft_config")
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


# -- what is refused --------------------------------------------------------------------------


def edit_config(folder, **values):
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "lora_only"}, "biases"),
        ({"bias": "all"}, "biases"),
        ({"lora_bias": True}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [1]}, "trainable tokens"),
        ({"layer_replication": [[0, 2]]}, "layer replication"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"use_qalora": True}, "QA-LoRA"),
        ({"alora_invocation_tokens": [1]}, "activated"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"init_lora_weights": "loftq"}, "loftq"),
        ({"init_lora_weights": "corda"}, "corda"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"lora_alpha": "much"}, "lora_alpha"),
        ({"lora_alpha": 0}, "lora_alpha"),
        ({"lora_alpha": float("inf")}, "lora_alpha"),
        ({"alpha_pattern": ["x"]}, "damaged"),
        ({"rank_pattern": ["x"]}, "damaged"),
        ({"rank_pattern": {"layers.0.(": 2}}, "damaged"),
        ({"alpha_pattern": {"*": 3}}, "damaged"),
        ({"lora_alpha": True}, "lora_alpha True"),
        ({"r": 3}, "the rank 3 and its tensors have"),
        ({"r": None}, "the rank None"),
    ],
)
def test_other_kinds_of_adapters_are_refused(saved, values, names):
    edit_config(saved, **values)
    with pytest.raises(AdapterError, match=names):
        Adapter.load(saved)


def test_a_rank_of_nothing_is_refused(saved):
    tensors = load_file(saved / TENSORS_FILE)
    for name, tensor in tensors.items():
        tensors[name] = (tensor[:0] if "lora_A" in name else tensor[:, :0]).contiguous()
    save_file(tensors, saved / TENSORS_FILE)
    with pytest.raises(AdapterError, match="do not fit"):
        Adapter.load(saved)


def test_the_first_that_loads(saved, tmp_path):
    assert Adapter.first_of([tmp_path / "gone", saved]).name == saved.name
    assert Adapter.first_of([tmp_path / "gone"]) is None


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva", "orthogonal"])
def test_starts_that_leave_the_backbone_alone_are_read(saved, start):
    edit_config(saved, init_lora_weights=start)
    assert Adapter.load(saved).lora


@pytest.mark.parametrize("kind", ["dora", "bias", "modules_to_save"])
def test_real_adapters_of_other_kinds_are_refused(tmp_path, family, kind):
    config = LoraConfig(
        r=2,
        target_modules=["q_proj", "v_proj"],
        use_dora=kind == "dora",
        bias="all" if kind == "bias" else "none",
        modules_to_save=["lm_head"] if kind == "modules_to_save" else None,
    )
    get_peft_model(pico_model(family), config).save_pretrained(tmp_path / "other")
    for load in (load_lora, Adapter.load):
        with pytest.raises(AdapterError, match="cannot be mixed") as error:
            load(tmp_path / "other")
        one_sentence(error.value)


@pytest.mark.parametrize("name", [CARD_FILE, CONFIG_FILE, TENSORS_FILE])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(AdapterError, match=name):
        Adapter.load(saved)


def test_what_a_card_lacks_is_named(saved):
    (saved / CARD_FILE).write_text("{}")
    with pytest.raises(AdapterError, match=r"\(role: Field required\)") as error:
        Adapter.load(saved)
    one_sentence(error.value)


def test_a_missing_folder(tmp_path):
    with pytest.raises(AdapterError, match="none"):
        Adapter.load(tmp_path / "none")


@pytest.mark.parametrize("name", [CARD_FILE, CONFIG_FILE, TENSORS_FILE])
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"{}", b"\xff\xfe\x00\x01" * 9, None])
def test_damaged_files_are_refused(saved, name, content):
    path = saved / name
    path.write_bytes(path.read_bytes()[:-3] if content is None else content)
    with pytest.raises(RecCocktailError, match="mine"):
        Adapter.load(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(saved, value):
    tensors = load_file(saved / TENSORS_FILE)
    name = sorted(tensors)[3]
    tensors[name][0, 0] = value
    save_file(tensors, saved / TENSORS_FILE)
    with pytest.raises(AdapterError, match=f"{name}.*not finite"):
        Adapter.load(saved)


def drop(tensors, name):
    del tensors[name]


def widen(tensors, name):
    tensors[name] = torch.zeros(9, 9)


def flatten(tensors, name):
    tensors[name] = torch.zeros(4)


def make_convolution(tensors, name):
    tensors[name] = tensors[name][:, :, None, None]


def rename(tensors, name):
    tensors[name.replace("lora_B", "lora_embedding_B")] = tensors.pop(name)


@pytest.mark.parametrize("change", [drop, widen, flatten, make_convolution, rename])
def test_factors_that_do_not_fit_are_refused(saved, change):
    tensors = load_file(saved / TENSORS_FILE)
    name = next(n for n in sorted(tensors) if "lora_B" in n)
    change(tensors, name)
    save_file(tensors, saved / TENSORS_FILE)
    with pytest.raises(
        AdapterError, match=name.removesuffix(".lora_B.weight").split("model.", 2)[2]
    ):
        Adapter.load(saved)


def test_an_adapter_without_tensors_is_refused(saved):
    save_file({}, saved / TENSORS_FILE)
    with pytest.raises(AdapterError, match="no LoRA tensors"):
        Adapter.load(saved)


def test_half_precision_is_read_in_full(saved):
    tensors = {n: t.to(torch.bfloat16) for n, t in load_file(saved / TENSORS_FILE).items()}
    save_file(tensors, saved / TENSORS_FILE)
    lora = Adapter.load(saved).lora
    assert all(f.a.dtype == f.b.dtype == torch.float32 for f in lora.values())


def test_notes_beside_an_adapter_are_not_deleted_with_it(backbone, saved):
    (saved / "thesis.docx").write_bytes(b"three years")
    with pytest.raises(AdapterError, match=r"such as thesis\.docx") as error:
        adapter_on(backbone, random_lora(backbone.model)).save(saved, "")
    one_sentence(error.value)
    assert (saved / "thesis.docx").exists()
