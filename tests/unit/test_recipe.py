import pytest
from hypothesis import given
from hypothesis import strategies as st

from reccocktail.errors import RecipeError
from reccocktail.recipe import LoraSettings, Recipe, TrainingSettings
from tests.helpers import one_sentence


def test_one_name_of_a_module_is_a_list_of_one():
    assert LoraSettings(target_modules="q_proj").target_modules == ("q_proj",)
    assert LoraSettings(target_modules="all-linear").target_modules == "all-linear"


def test_saved_and_loaded_is_the_same(tmp_path):
    recipe = Recipe(
        backbone="some/model",
        lora=LoraSettings(rank=4, target_modules=("q_proj", "v_proj")),
        training=TrainingSettings(learning_rate=3e-5),
    )
    recipe.save(tmp_path / "deep" / "recipe.yaml")
    loaded = Recipe.load(tmp_path / "deep" / "recipe.yaml")
    assert loaded == recipe
    assert loaded.sha256 == recipe.sha256


def test_settings_left_out_keep_their_defaults(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("lora:\n  rank: 8\n")
    assert Recipe.load(path) == Recipe(lora=LoraSettings(rank=8))
    path.write_text("# only a comment\n")
    assert Recipe.load(path) == Recipe()


@given(
    st.integers(1, 512), st.floats(1e-6, 1.0), st.one_of(st.just("all-linear"), st.text(min_size=1))
)
def test_every_setting_changes_the_hash(rank, rate, target):
    default = Recipe()
    changed = Recipe(
        lora=LoraSettings(rank=rank, target_modules=target),
        training=TrainingSettings(learning_rate=rate),
    )
    assert (changed.sha256 == default.sha256) == (changed == default)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("lora: {ranks: 8}", "lora.ranks"),
        ("lora: {rank: 0}", "lora.rank"),
        ("lora: {rank: many}", "lora.rank"),
        ("lora: {dropout: 1.0}", "lora.dropout"),
        ("dense: {temperature: 0}", "dense.temperature"),
        ("dense: {sampling_correction: 1.5}", "dense.sampling_correction"),
        ("training: {targets_per_batch: 1}", "training.targets_per_batch"),
        ("training: {seed: 2147483648}", "training.seed"),
        ("lora: {init_seed: -1}", "lora.init_seed"),
        ("prompt: {max_history: 0}", "prompt.max_history"),
        ("ranker: best", "ranker"),
        ("bakcbone: x", "bakcbone"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(tmp_path, text, names):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=rf"'{names}' in .*mine\.yaml"):
        Recipe.load(path)


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"lora: [unclosed", b"\xff\xfe\x00", b"word"])
def test_what_is_no_mapping_is_refused(tmp_path, content):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"mine\.yaml"):
        Recipe.load(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="Cannot read the recipe"):
        Recipe.load(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="Cannot read the recipe"):
        Recipe.load(tmp_path)


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Recipe().lora.rank = 3


def test_an_unknown_setting_is_told_where_all_are(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("lora: {rnk: 3}")
    with pytest.raises(RecipeError, match=r"'lora\.rnk' in .*recipes/default\.yaml") as error:
        Recipe.load(path)
    one_sentence(error.value)
