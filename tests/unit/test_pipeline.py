"""The whole run on a pico backbone: every folder, nothing twice, on where it stopped."""

import json
from dataclasses import replace

import pytest

from reccocktail import pipeline
from reccocktail.errors import AdapterError, DataError, RunError
from reccocktail.evaluation.results import read_metrics
from reccocktail.evaluation.settings import EvaluationSettings
from reccocktail.mixing.measure import MixSettings
from reccocktail.pipeline import Plan, run_pipeline
from reccocktail.recipe import LoraSettings, PromptSettings, Recipe
from reccocktail.storage import read_json, write_json
from reccocktail.training.adapter import Adapter
from reccocktail.training.loop import AdapterTrainer
from tests.adapters import pico_recipe, random_adapter, save
from tests.domains import taste_domain
from tests.helpers import changed, one_sentence
from tests.pico import pico_backbone

PLAN = Plan(
    base={"steps": 3},
    ingredient={"steps": 3},
    mix=MixSettings(users=5, validation_users=6, refinements=0, grid=(0.0, 0.5, 1.0)),
    evaluation=EvaluationSettings(users=15, validation_users=6),
)
FOLDERS = ("base_spirit", "ingredient", "average", "cocktail_warm", "cocktail_cold")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A source that shares all titles of two tastes with the target, and has two tastes more."""
    folder = tmp_path_factory.mktemp("sources")
    return [taste_domain(folder, name="wide", users=60, seed=3)]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return taste_domain(tmp_path_factory.mktemp("target"), name="narrow", tastes=2, users=50)


@pytest.fixture(scope="module")
def backbone():
    return pico_backbone()


@pytest.fixture
def run(sources, target, backbone, tmp_path):
    """Run the pipeline into one folder; settings may be changed."""

    def go(*, recipe=None, plan=PLAN, data=sources, out=tmp_path / "run"):
        return run_pipeline(data, target, backbone, recipe or pico_recipe(), plan, out)

    go.out = tmp_path / "run"
    return go


@pytest.fixture
def no_work(monkeypatch):
    """From now on every step of work is an error."""

    def forbid():
        def never(*_, **__):
            raise AssertionError("a finished step was done again")

        monkeypatch.setattr(AdapterTrainer, "train", never)
        monkeypatch.setattr(pipeline, "mix", never)
        monkeypatch.setattr(pipeline, "evaluate", never)

    return forbid


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_leaves_all_behind(run):
    metrics = run()
    for name in FOLDERS:
        adapter = Adapter.load(run.out / name)
        assert adapter.name == name
    roles = [Adapter.load(run.out / name).card.role for name in FOLDERS]
    assert roles == ["base", "ingredient", "cocktail", "cocktail", "cocktail"]
    for scenario in ("warm", "cold"):
        sheet = json.loads((run.out / f"cocktail_{scenario}" / "cocktail.json").read_text())
        assert sheet["scenario"] == scenario
        assert [a["name"] for a in sheet["adapters"]] == ["base_spirit", "ingredient"]
    average = json.loads((run.out / "average" / "cocktail.json").read_text())
    assert average["coefficients"] == {"all": [0.5, 0.5]}
    assert list(metrics["models"]) == ["popularity", "backbone", *FOLDERS]
    assert metrics == read_metrics(run.out / "evaluation")
    steps = json.loads((run.out / "evaluation" / "run.json").read_text())["seconds"]
    assert {"train base spirit", "train ingredient", "average", "mix warm", "mix cold",
            "evaluate"} <= set(steps)  # fmt: skip
    assert all(seconds >= 0 for seconds in steps.values())
    page = (run.out / "report.html").read_text()
    assert "<html" in page and "cocktail_cold" in page and "narrow" in page


def test_shared_titles_are_left_out_of_the_base_spirit(run, sources, target, backbone, monkeypatch):
    seen = {}

    def watching(role, domains, *_, exclude=None, **__):
        seen[role] = exclude
        raise RuntimeError

    monkeypatch.setattr(pipeline, "train", watching)
    with pytest.raises(RuntimeError):
        run()
    titles = dict(zip(sources[0].item_ids, sources[0].titles, strict=True))
    shared = {item for item, title in titles.items() if title in set(target.titles)}
    assert seen["base"] == {"wide": frozenset(shared)}
    assert 0 < len(shared) < len(titles)


def test_without_validation_users_entropy_is_not_calibrated(run, target, sources, tmp_path):
    """A small domain may have no labelled cold users; its cold cocktail is mixed all the same."""
    bare = changed(target, tmp_path / "bare", valid_cold=lambda rows: rows.head(0))
    plan = replace(PLAN, mix=replace(PLAN.mix, objective="calibrated"))
    run_pipeline(sources, bare, pico_backbone(), pico_recipe(), plan, run.out)
    sheets = {s: read_json(run.out / f"cocktail_{s}" / "cocktail.json") for s in ("warm", "cold")}
    assert sheets["warm"]["objective"] == "calibrated" and sheets["cold"]["objective"] == "entropy"


def test_a_second_call_does_nothing(run, no_work):
    first = run()
    before = files(run.out)
    no_work()
    assert run() == first
    after = files(run.out)
    assert set(after) == set(before)
    # Only the clock of the steps, which looked and found nothing to do, went on.
    assert {str(name) for name in before if after[name] != before[name]} <= {"pipeline.json"}


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"identity": "x"}'])
def test_a_damaged_state_is_said(run, content):
    run.out.mkdir(parents=True, exist_ok=True)
    (run.out / "pipeline.json").write_text(content)
    with pytest.raises(RunError, match=r"pipeline.json cannot be read or is damaged; delete") as e:
        run()
    one_sentence(e.value)


@pytest.mark.parametrize("change", ["recipe", "plan", "data"])
def test_other_settings_are_refused(run, target, no_work, change):
    run()
    no_work()
    other = {
        "recipe": {"recipe": pico_recipe(seed=4)},
        "plan": {"plan": replace(PLAN, base={"steps": 4})},
        "data": {"data": [target]},
    }[change]
    with pytest.raises(RunError, match="other data or settings") as error:
        run(**other)
    one_sentence(error.value)


def test_an_interrupted_run_goes_on(run, monkeypatch):
    calls = []
    mix, training = pipeline.mix, AdapterTrainer.train

    def mixing(pair, backbone, domain, scenario, *rest, **named):
        calls.append(f"mix {scenario}")
        if calls == ["train", "train", "mix warm", "mix cold"]:
            raise KeyboardInterrupt
        return mix(pair, backbone, domain, scenario, *rest, **named)

    def counted(*args, **named):
        calls.append("train")
        return training(*args, **named)

    monkeypatch.setattr(pipeline, "mix", mixing)
    monkeypatch.setattr(AdapterTrainer, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert not (run.out / "cocktail_cold").exists() and not (run.out / "evaluation").exists()
    warm = files(run.out / "cocktail_warm")
    calls.clear()
    metrics = run()
    assert calls == ["mix cold", "mix warm"]  # the second one is the average
    assert files(run.out / "cocktail_warm") == warm
    assert list(metrics["models"]) == ["popularity", "backbone", *FOLDERS]
    assert (run.out / "report.html").exists()


def test_stopped_and_straight_runs_give_the_same_figures(run, tmp_path, monkeypatch):
    straight = run(out=tmp_path / "straight")
    evaluate = pipeline.evaluate

    def stops(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "evaluate", stops)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr(pipeline, "evaluate", evaluate)
    assert run() == straight
    seconds = json.loads((run.out / "pipeline.json").read_text())["seconds"]
    assert {"train base spirit", "mix cold", "evaluate"} <= set(seconds)


def test_a_backbone_that_changed_is_refused(sources, target, run, no_work):
    run()
    no_work()
    with pytest.raises(RunError, match="other data or settings"):
        run_pipeline(sources, target, pico_backbone(seed=5), pico_recipe(), PLAN, run.out)


# -- with a base spirit that is there already --------------------------------------------------

GIVEN = replace(PLAN, base={})


def finished(folder, backbone, domain, name="a_base", **changes):
    """A base spirit with a recipe of its own, in a folder of another name."""
    recipe = pico_recipe().model_copy(
        update={
            "prompt": PromptSettings(max_history=3),
            "lora": LoraSettings(rank=3, alpha=6.0),
        }
    )
    adapter = random_adapter(backbone, domain, name, "base", recipe=recipe)
    return save(replace(adapter, card=adapter.card.model_copy(update=changes)), folder)


def test_a_finished_base_spirit_is_taken_as_it_is(
    sources, target, backbone, run, tmp_path, monkeypatch, capfd
):
    base = finished(tmp_path, backbone, sources[0])
    before = files(base)
    monkeypatch.setattr(pipeline, "overlapping_items", None)  # no audit: it has been trained
    metrics = run(data=base, plan=GIVEN, recipe=Recipe(training=pico_recipe().training))
    assert files(base) == before and not (run.out / "base_spirit").exists()
    assert list(metrics["models"]) == ["popularity", "backbone", *FOLDERS]
    ingredient = Adapter.load(run.out / "ingredient").card.recipe
    theirs = Adapter.load(base).card.recipe
    assert ingredient == theirs.model_copy(update={"training": pico_recipe().training})
    sheet = json.loads((run.out / "cocktail_cold" / "cocktail.json").read_text())
    assert [a["name"] for a in sheet["adapters"]] == ["base_spirit", "ingredient"]
    assert sheet["adapters"][0]["sha256"] == Adapter.load(base).sha256
    facts = json.loads((run.out / "evaluation" / "run.json").read_text())
    assert facts["models"]["base_spirit"]["kind"] == "base" and facts["notes"] == []
    assert "train base spirit" not in facts["seconds"]
    assert "new domain" not in capfd.readouterr().err


def test_the_report_says_if_the_base_spirit_knows_the_target(
    target, backbone, run, tmp_path, capfd
):
    run(data=finished(tmp_path, backbone, target), plan=GIVEN)
    (note,) = json.loads((run.out / "evaluation" / "run.json").read_text())["notes"]
    assert note == pipeline.familiar(Adapter.load(tmp_path / "a_base").card, target)
    assert "narrow is not a new domain" in one_sentence(note)
    assert note in " ".join(capfd.readouterr().err.split())
    assert note in (run.out / "report.html").read_text()


def test_another_base_spirit_is_refused(sources, backbone, run, tmp_path, no_work):
    """One for another backbone before any work, and a changed one in the place of the first."""
    stranger = pico_backbone(seed=5)
    no_work()
    with pytest.raises(
        AdapterError, match=r"on backbone 'pico-llama-5'.* on 'pico-llama-0'"
    ) as error:
        run(data=finished(tmp_path, stranger, sources[0], "stranger"), plan=GIVEN)
    assert "'base_spirit'" in one_sentence(error.value) and not run.out.exists()
    with pytest.raises(AssertionError, match="done again"):  # training begins
        run(data=finished(tmp_path, backbone, sources[0]), plan=GIVEN)
    with pytest.raises(RunError, match="other data or settings"):
        run(data=sources, plan=GIVEN)


def test_what_was_made_of_a_former_ingredient_is_made_anew(run, monkeypatch):
    run()
    before, exact = files(run.out), pipeline.train

    def otherwise(role, *args, **named):
        found = exact(role, *args, **named)
        if role == "ingredient":
            doubled = {name: f._replace(b=2 * f.b) for name, f in found.lora.items()}
            replace(found, lora=doubled).save(run.out / "ingredient", "")
        return Adapter.load(run.out / found.name)

    monkeypatch.setattr(pipeline, "train", otherwise)
    run()
    after = files(run.out)
    made = [f"{name}/cocktail.json" for name in FOLDERS[2:]]
    changed_now = {str(name) for name in before if before[name] != after[name]}
    assert {*made, "evaluation/metrics.json"} <= changed_now


def test_notes_survive_an_interruption(run):
    """Between the evaluation and what the pipeline adds to its run.json."""
    run()
    file = run.out / "evaluation" / "run.json"
    whole = read_json(file)
    write_json(file, {key: value for key, value in whole.items() if key != "notes"})
    run()
    assert read_json(file)["notes"] == whole["notes"] == []
    assert "mix warm" in read_json(file)["seconds"]


def test_a_target_without_users_is_refused_before_any_work(
    target, sources, backbone, tmp_path, no_work
):
    bare = changed(
        target, tmp_path / "bare", **dict.fromkeys(("test_warm", "test_cold"), lambda r: r.head(1))
    )
    with pytest.raises(DataError, match="nobody"):
        run_pipeline(sources, bare, backbone, pico_recipe(), PLAN, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_scenario_without_users_is_left_out(run, target, sources, backbone, tmp_path):
    bare = changed(target, tmp_path / "bare", test_cold=lambda rows: rows.head(1))
    metrics = run_pipeline(sources, bare, backbone, pico_recipe(), PLAN, run.out)
    assert "cocktail_cold" not in metrics["models"] and not (run.out / "cocktail_cold").exists()
    assert "cocktail_warm" in metrics["models"] and (run.out / "report.html").is_file()
