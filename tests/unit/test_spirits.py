"""Base spirits that ship: what is written, how names find it, and that rounding changes little."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.torch import load_file

from reccocktail import spirits
from reccocktail.errors import AdapterError, DataError, RunError
from reccocktail.evaluation.evaluate import evaluate
from reccocktail.evaluation.settings import EvaluationSettings
from reccocktail.pipeline import familiar
from reccocktail.ranking import readout as readouts
from reccocktail.recipe import Recipe
from reccocktail.training.adapter import Adapter
from reccocktail.training.schedule import Length
from reccocktail.training.trainer import train
from tests.adapters import pico_recipe, random_adapter, save
from tests.benches import benchmark_modules
from tests.domains import taste_domain
from tests.helpers import one_sentence
from tests.pico import pico_backbone

with benchmark_modules() as find:
    program = find("ship")
ship = program.ship

REPOSITORY = Path(__file__).parents[2]
TERMS = {"wide": "none, it is made up"}


@pytest.fixture(scope="module")
def backbone():
    """A pico backbone that says it came in a wheel, as one that others can have."""
    backbone = pico_backbone()
    backbone.fingerprint = backbone.fingerprint.model_copy(
        update={"source": "wheel", "name": "SmolLM2-135M"}
    )
    return backbone


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    """A source, and a target that shares its first two tastes."""
    folder = tmp_path_factory.mktemp("domains")
    return (
        taste_domain(folder, name="wide", users=60, seed=3),
        taste_domain(folder, name="narrow", tastes=2, users=50),
    )


@pytest.fixture(scope="module")
def trained(backbone, domains, tmp_path_factory):
    """A base spirit as `train` leaves it, with its log beside it."""
    out = tmp_path_factory.mktemp("trained") / "base"
    recipe = pico_recipe("smollm2-135m", validations=2)
    train("base", [domains[0]], backbone, recipe, out, Length(steps=4))
    return out


@pytest.fixture(scope="module")
def root(trained, domains, tmp_path_factory):
    root = tmp_path_factory.mktemp("spirits")
    figures = {
        "wide": {
            "base_spirit": {"warm": {"n": 50, "ndcg@10": 0.4321, "ci95": {"ndcg@10": [0.4, 0.5]}}}
        }
    }
    ship(trained, domains[:1], domains[1:], figures=figures, licences=TERMS, root=root)
    return root


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the trained base spirit whose card may be changed."""

    def make(**changes):
        folder = tmp_path / "run" / "base"
        shutil.copytree(trained.parent, folder.parent)
        card = json.loads((folder / "adapter.json").read_text())
        for key, value in changes.items():
            part = card
            *path, last = key.split("__")
            for name in path:
                part = part[name]
            part[last] = value
        (folder / "adapter.json").write_text(json.dumps(card))
        return folder

    return make


# -- what is shipped --------------------------------------------------------------------------


def test_a_shipped_folder_is_an_adapter_in_float16_with_its_history(root, trained, domains):
    folder = root / "smollm2-135m" / "dense" / "base_spirit"
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "adapter.json", "README.md",
        "spirit.json", "recipe.json",
    }  # fmt: skip
    tensors = load_file(folder / "adapter_model.safetensors")
    assert {str(t.dtype) for t in tensors.values()} == {"torch.float16"}
    before, after = Adapter.load(trained), Adapter.load(folder)
    assert after.card == before.card and after.name == "base_spirit"
    facts = json.loads((folder / "spirit.json").read_text())
    assert facts["sha256"] == after.sha256 != facts["sha256_before_float16"] == before.sha256
    assert facts["steps"] == 4 and facts["minutes"] >= 0
    (only,) = facts["rounds"]
    assert len(only["validations"]) == 2 and only["sha256"] == after.sha256
    (wide,) = facts["data"]
    shared = set(domains[0].titles) & set(domains[1].titles)
    assert (
        wide["left_out"] == {"narrow": len(shared)} and wide["left_out_in_all"] == len(shared) > 0
    )
    assert wide["prepared_with"]["min_count"] == 2
    assert Recipe.load(folder / "recipe.json") == before.card.recipe


def test_the_card_tells_all(root, domains):
    card = (root / "smollm2-135m" / "dense" / "base_spirit" / "README.md").read_text()
    facts = json.loads((root / "smollm2-135m/dense/base_spirit/spirit.json").read_text())
    for text in (
        facts["sha256"],
        f"| wide | {domains[0].train().height} | {len(domains[0].item_ids)} | ",
        f"| {facts['data'][0]['left_out']['narrow']} | {TERMS['wide']} |",
        "0.432 [0.400, 0.500]",
        "--recipe recipe.json --data wide --exclude-titles-of narrow --steps 4",
        f" {facts['rounds'][0]['validations'][-1]['ndcg@10/wide']:.3f} |",
    ):
        assert text in card, text


def test_domains_stand_in_the_order_of_the_training(backbone, domains, tmp_path):
    run = tmp_path / "base"
    train("base", [domains[1], domains[0]], backbone, pico_recipe(), run, Length(steps=1))
    terms = TERMS | {"narrow": "none"}
    out = ship(run, domains, [], licences=terms, root=tmp_path / "spirits")
    facts = json.loads((out / "spirit.json").read_text())
    assert [domain["name"] for domain in facts["data"]] == ["narrow", "wide"]
    assert "--data narrow --data wide" in (out / "README.md").read_text()


def test_a_next_round_keeps_what_is_known_of_the_former(root, backbone, domains, trained, tmp_path):
    root = shutil.copytree(root, tmp_path / "spirits")
    first = Adapter.load(root / "smollm2-135m/dense/base_spirit")
    run = tmp_path / "next"
    recipe = pico_recipe("smollm2-135m", validations=1, seed=1)
    train("base", domains[:1], backbone, recipe, run, Length(steps=3), initial=first)
    for _ in range(2):  # the second time the former round is found behind the one that ships
        out = ship(run, domains[:1], domains[1:], licences=TERMS, root=root)
        facts = json.loads((out / "spirit.json").read_text())
        assert [part["steps"] for part in facts["rounds"]] == [4, 3] and facts["steps"] == 7
        assert facts["rounds"][0]["sha256"] == first.sha256 != facts["sha256"]
    assert Recipe.load(out / "recipe_1.json") == first.card.recipe
    assert Recipe.load(out / "recipe.json") == recipe
    card = (out / "README.md").read_text()
    for text in ("7 steps in", "in 2 rounds", "--steps 4 --out round_1", "step 7 |",
                 "--recipe recipe.json --data wide --exclude-titles-of narrow --steps 3 "
                 "--init round_1 --out base_spirit"):  # fmt: skip
        assert text in card, text


def test_a_next_round_of_what_does_not_ship_is_refused(backbone, domains, trained, tmp_path):
    run = tmp_path / "next"
    first = Adapter.load(trained)
    recipe = pico_recipe("smollm2-135m", seed=1)
    train("base", domains[:1], backbone, recipe, run, Length(steps=1), initial=first)
    with pytest.raises(AdapterError, match="ship that one first"):
        ship(run, domains[:1], domains[1:], licences=TERMS, root=tmp_path / "spirits")


def test_shipping_again_writes_the_same_bytes(root, trained, domains, tmp_path):
    again = ship(trained, domains[:1], domains[1:], licences=TERMS, root=tmp_path)
    once = {path.name: path.read_bytes() for path in again.iterdir()}
    ship(trained, domains[:1], domains[1:], licences=TERMS, root=tmp_path)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == once
    tensors = "smollm2-135m/dense/base_spirit/adapter_model.safetensors"
    assert (root / tensors).read_bytes() == once["adapter_model.safetensors"]
    assert [p.name for p in (again.parent).iterdir()] == ["base_spirit"]
    unaudited = ship(trained, domains[:1], [], licences=TERMS, root=tmp_path)
    assert "No target was audited" in (unaudited / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"role": "ingredient"}, "only a base spirit"),
        ({"backbone__source": "folder"}, "others do not have"),
        ({"recipe__prompt__template": "mine.yaml"}, "mine.yaml"),
        ({"readout_sha256": "of a file of mine"}, "dense.readout: auto"),
    ],
)
def test_what_others_cannot_use_is_refused(copy, domains, tmp_path, changes, what):
    with pytest.raises(AdapterError, match=what) as error:
        ship(copy(**changes), domains[:1], domains[1:], licences=TERMS, root=tmp_path / "spirits")
    one_sentence(error.value)
    assert not (tmp_path / "spirits").exists()


def test_a_missing_note_log_or_domain_and_a_large_adapter_are_refused(
    copy, domains, tmp_path, monkeypatch
):
    root, folder = tmp_path / "spirits", copy()
    with pytest.raises(DataError, match="No licence note is known for 'wide'") as error:
        ship(folder, domains[:1], [], root=root)
    one_sentence(error.value)
    with pytest.raises(DataError, match="differ in narrow, wide") as error:
        ship(folder, domains[1:], [], licences=TERMS, root=root)
    one_sentence(error.value)
    monkeypatch.setattr(program, "LIMIT_BYTES", 1000)
    with pytest.raises(AdapterError, match="lower rank") as error:
        ship(folder, domains[:1], [], licences=TERMS, root=root)
    one_sentence(error.value)
    (folder.with_name("base.training") / "log.jsonl").unlink()
    with pytest.raises(RunError, match="no log"):
        ship(folder, domains[:1], [], licences=TERMS, root=root)
    assert not root.exists()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("amazon14_books", "Amazon"), ("completejourney_grocery", "Complete Journey"),
        ("fresh", "Complete Journey"), ("food_recipes", "Food.com"), ("yelp", "Yelp"),
    ],
)  # fmt: skip
def test_known_sources_have_their_terms(name, word):
    assert word in program._licence(name, {})
    assert program._licence(name, {name: "mine"}) == "mine"


def test_float16_changes_scores_only_slightly(backbone, domains, trained, tmp_path):
    """On an update as large as a trained one; the rounded adapter keeps its hash when reloaded."""
    target = domains[1]
    full = random_adapter(backbone, target, "full", "base", scale=0.1, recipe=pico_recipe())
    rounded = {m: f._replace(a=f.a.half(), b=f.b.half()) for m, f in full.lora.items()}
    half = Adapter("half", rounded, full.card)
    folders = [save(full, tmp_path), save(half, tmp_path)]
    pair = [(Adapter.load(folder), folder) for folder in folders]
    assert pair[1][0].sha256 == half.sha256 != full.sha256
    settings = EvaluationSettings(users=20, validation_users=0, prior=False, full_catalogue=False)
    evaluate(target, pair, backbone, tmp_path / "e", scenarios=("warm",), settings=settings)
    rows = pl.read_parquet(tmp_path / "e" / "predictions.parquet")
    scores = {
        name: np.array(rows.filter(model=name)["scores"].to_list())
        for name in ("backbone", "full", "half")
    }
    moved = np.abs(scores["full"] - scores["backbone"]).mean()
    rounding = np.abs(scores["half"] - scores["full"])
    assert 0 < rounding.max() < 0.05 and rounding.mean() < 0.01 * moved


# -- names ------------------------------------------------------------------------------------


def test_names_find_shipped_spirits(root, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = root / "smollm2-135m" / "dense" / "base_spirit"
    assert spirits.resolve("base_spirit", root) == folder == spirits.default(root)
    assert spirits.resolve(Path("smollm2-135m/dense"), root) == folder
    assert spirits.resolve(trained, root) == trained
    assert [spirit.name for spirit in spirits.shipped(root)] == ["smollm2-135m/dense"]
    (spirit,) = spirits.shipped(root)
    assert spirit.bytes == (folder / "adapter_model.safetensors").stat().st_size
    shutil.copytree(trained, tmp_path / "base_spirit")
    assert spirits.resolve("base_spirit", root) == Path("base_spirit")  # a folder wins


def test_several_spirits_are_told_apart(root, tmp_path):
    several = tmp_path / "spirits"
    shutil.copytree(root, several)
    shutil.copytree(several / "smollm2-135m", several / "qwen3-0.6b")
    assert spirits.folder("Qwen/Qwen3-0.6B", "dense", several) == spirits.resolve(
        "qwen3-0.6b/dense", several
    )
    assert spirits.resolve("base_spirit", several).parts[-3] == "smollm2-135m"
    with pytest.raises(
        AdapterError, match=r"\(shipped: base_spirit, qwen3-0.6b/dense, smollm2-135m/dense\)"
    ):
        spirits.resolve("qwen3-0.6b", several)
    shutil.rmtree(several / "smollm2-135m")
    assert spirits.default(several) is None
    with pytest.raises(AdapterError, match=r"\(shipped: qwen3-0.6b/dense\)") as error:
        spirits.resolve("base_spirit", several)
    one_sentence(error.value)


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "../dense", "/nowhere/at/all", "base_spirit"])
def test_an_unknown_name_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AdapterError, match=r"\(shipped: none\)") as error:
        spirits.resolve(name, tmp_path / "none")
    assert name in one_sentence(error.value)


def test_a_card_tells_whether_a_domain_is_new(backbone, domains):
    wide, narrow = domains
    card = random_adapter(backbone, wide, "base_spirit", "base").card
    assert familiar(card, narrow) is None
    assert "trained on wide" in one_sentence(familiar(card, wide))
    other = card.data[0].model_copy(update={"name": "shop_narrow", "sha256": "0"})
    assert "shop_narrow" in one_sentence(
        familiar(card.model_copy(update={"data": (other,)}), narrow)
    )
    other = other.model_copy(update={"name": "unnarrow"})
    assert familiar(card.model_copy(update={"data": (other,)}), narrow) is None


# -- the package ------------------------------------------------------------------------------


def test_wheel_and_sdist_take_the_tensors_along(root, tmp_path):
    """By the build backend's own list of files, although Git ignores other weights."""
    wheel = pytest.importorskip("hatchling.builders.wheel")
    sdist = pytest.importorskip("hatchling.builders.sdist")
    for name in ("pyproject.toml", ".gitignore", "README.md", "LICENSE"):
        if not (REPOSITORY / name).exists():
            pytest.skip(f"{name} is not there")
        shutil.copy(REPOSITORY / name, tmp_path)
    package = tmp_path / "src" / "reccocktail"
    shutil.copytree(root, package / "spirits")
    (package / "__init__.py").touch()
    (package / "stray.safetensors").touch()
    (package / "ranking" / "readouts").mkdir(parents=True)
    (package / "ranking" / "readouts" / "some.safetensors").touch()
    inside = "reccocktail/spirits/smollm2-135m/dense/base_spirit/"
    for builder, prefix in (
        (wheel.WheelBuilder(str(tmp_path)), inside),
        (sdist.SdistBuilder(str(tmp_path)), "src/" + inside),
    ):
        files = {f.distribution_path for f in builder.recurse_included_files()}
        assert {prefix + "adapter_model.safetensors", prefix + "README.md"} <= files
        readout = prefix.partition("reccocktail/")[0] + "reccocktail/ranking/readouts/"
        assert readout + "some.safetensors" in files
        assert not any("stray" in name for name in files)


def test_git_keeps_the_tensors():
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a clone")

    def ignored(name):
        asked = subprocess.run(["git", "check-ignore", "-q", name], cwd=REPOSITORY, check=False)
        return asked.returncode == 0

    place = "src/reccocktail/spirits/smollm2-135m/dense/base_spirit"
    assert not ignored(f"{place}/adapter_model.safetensors")
    assert not ignored("src/reccocktail/ranking/readouts/smollm2-135m.safetensors")
    assert ignored("src/reccocktail/adapter_model.safetensors")


def test_every_spirit_of_this_package_is_whole():
    for spirit in spirits.shipped():
        facts = json.loads((spirit.path / "spirit.json").read_text())
        assert spirit.adapter.card.role == "base" and spirit.adapter.name == "base_spirit"
        assert facts["sha256"] == spirit.adapter.sha256
        readout = readouts.shipped(spirit.adapter.card.backbone.sha256)
        assert spirit.adapter.card.readout_sha256 == (readout.sha256 if readout else None)
        assert spirit.bytes <= program.LIMIT_BYTES
        card = spirit.adapter.card
        assert spirit.path == spirits.folder(card.backbone.name, card.recipe.ranker)
        assert card.backbone.source in ("wheel", "hub")
        for domain in card.data:
            assert f"| {domain.name} |" in (spirit.path / "README.md").read_text()
