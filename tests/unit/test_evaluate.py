"""Evaluation folders: metrics follow from predictions, nobody is scored who lent a hand."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from reccocktail.data.prepare import prepare
from reccocktail.errors import AdapterError, RecipeError, RunError
from reccocktail.evaluation import scorer, whole
from reccocktail.evaluation.evaluate import _tables, evaluate
from reccocktail.evaluation.settings import EvaluationSettings
from reccocktail.mixing.cocktail import mix
from reccocktail.mixing.measure import MixSettings
from reccocktail.ranking.additions import COLLABORATIVE_WEIGHTS, WORDS_WEIGHTS
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.prior import WEIGHTS, popularity_prior
from reccocktail.ranking.scoring import Catalogue, ItemVectors, encode
from reccocktail.recipe import PromptSettings
from reccocktail.schema import EVALUATION_TABLES
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import merged
from tests.adapters import pico_recipe, random_adapter, save
from tests.domains import taste_domain
from tests.helpers import changed, one_sentence, other_targets, popular_targets
from tests.pico import pico_backbone

SMALL = EvaluationSettings(validation_users=12, words=True)
NO_WEIGHT = {"warm": 0.0, "cold": 0.0}
MIX = MixSettings(users=6, validation_users=6, refinements=0)
MODELS = ["popularity", "backbone", "base_spirit", "ingredient", "average", "cocktail_warm",
          "cocktail_cold"]  # fmt: skip


@pytest.fixture(scope="module")
def backbone():
    return pico_backbone()


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return taste_domain(tmp_path_factory.mktemp("domain"), users=80)


@pytest.fixture(scope="module")
def adapters(backbone, domain, tmp_path_factory):
    """Two adapters, their average and two cocktails, as `evaluate` takes them."""
    folder = tmp_path_factory.mktemp("adapters")
    pair = [
        random_adapter(backbone, domain, "base_spirit", "base", seed=1),
        random_adapter(backbone, domain, "ingredient", "ingredient", seed=2),
    ]
    paths = [save(adapter, folder) for adapter in pair]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECCOCKTAIL_CACHE", str(folder / "cache"))
        mix(pair, backbone, domain, "warm", folder / "average", MIX, (0.5, 0.5))
        for scenario in ("warm", "cold"):
            mix(pair, backbone, domain, scenario, folder / f"cocktail_{scenario}", MIX)
    paths += [folder / name for name in MODELS[4:]]
    return [(Adapter.load(path), path) for path in paths]


@pytest.fixture(scope="module")
def done(domain, backbone, adapters, tmp_path_factory):
    """A finished evaluation of everything."""
    out = tmp_path_factory.mktemp("evaluation") / "evaluation"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECCOCKTAIL_CACHE", str(out.with_name("cache")))
        evaluate(domain, adapters, backbone, out, baselines=["popularity"], settings=SMALL)
    return out


def content(out, name="metrics.json"):
    return json.loads((out / name).read_text())


def predictions(out):
    return pl.read_parquet(out / "predictions.parquet")


def adaptation_users(adapters):
    sheets = [json.loads((p / "cocktail.json").read_text()) for _, p in adapters[2:]]
    return {user for sheet in sheets for user in sheet["adaptation"]["user_ids"]}


def figures(ranks):
    """Metrics of 0-based ranks, written out again."""
    n = len(ranks)
    found = {"mrr": sum(1 / (r + 1) for r in ranks) / n}
    for k in (1, 3, 5, 10):
        found[f"hr@{k}"] = sum(r < k for r in ranks) / n
        found[f"ndcg@{k}"] = sum(1 / math.log2(r + 2) for r in ranks if r < k) / n
    return found


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("run.json", "precious"),
        ("metrics.json", '{"mine": 1}'),
        ("adapter.json", "{}"),
        ("manifest.json", "{}"),
    ],
)
def test_somebody_elses_folder_is_not_written_to(domain, tmp_path, file, text):
    out = tmp_path / "own"
    out.mkdir()
    (out / file).write_text(text)
    with pytest.raises(RunError, match="choose another folder") as refused:
        evaluate(domain, [], None, out, baselines=["popularity"], settings=SMALL)
    one_sentence(refused.value)
    assert [path.name for path in out.iterdir()] == [file]
    assert (out / file).read_text() == text


def test_an_evaluation_may_be_made_again(domain, tmp_path):
    out = tmp_path / "e"
    for _ in range(2):
        evaluate(domain, [], None, out, baselines=["popularity"], settings=SMALL)
    (out / "metrics.json").unlink()  # one that was stopped
    evaluate(domain, [], None, out, baselines=["popularity"], settings=SMALL)


# -- the folder -------------------------------------------------------------------------------


def test_metrics_follow_from_the_predictions(done):
    stated = content(done)["models"]
    groups = predictions(done).group_by("model", "scenario")
    seen = set()
    for (model, scenario), group in groups:
        ranks = []
        rows = group.select("target", "candidates", "scores").iter_rows()
        for target, candidates, scores in rows:
            place = candidates.index(target)
            assert len(candidates) == len(set(candidates)) == len(scores) == 30
            assert all(math.isfinite(score) for score in scores)
            ranks.append(sum(s >= scores[place] for j, s in enumerate(scores) if j != place))
        cell = stated[model][scenario]
        assert cell["n"] == len(ranks)
        for name, value in figures(ranks).items():
            assert cell[name] == pytest.approx(value, abs=1e-12)
            low, high = cell["ci95"][name]
            assert low - 1e-9 <= cell[name] <= high + 1e-9
        seen.add((model, scenario))
    assert seen == {(model, scenario) for model in MODELS for scenario in ("warm", "cold")}
    assert list(stated) == MODELS


def test_every_model_is_judged_on_the_same_rows(done, domain):
    table = predictions(done)
    for scenario in ("warm", "cold"):
        rows = domain.rows(f"test_{scenario}")
        truth = {row[0]: row[1:] for row in rows.select("user_id", "target", "candidates").rows()}
        users = None
        for model in MODELS:
            found = table.filter((pl.col("model") == model) & (pl.col("scenario") == scenario))
            for user, target, candidates in found.select("user_id", "target", "candidates").rows():
                assert truth[user] == (target, candidates)
            users = users or found["user_id"].to_list()
            assert found["user_id"].to_list() == users


def test_adaptation_users_are_scored_by_no_model(done, domain, adapters):
    adapted = adaptation_users(adapters)
    assert len(adapted) >= 6
    table = predictions(done)
    assert not adapted & set(table["user_id"])
    for scenario in ("warm", "cold"):
        everybody = set(domain.rows(f"test_{scenario}")["user_id"])
        scored = set(table.filter(pl.col("scenario") == scenario)["user_id"])
        assert scored == everybody - adapted


def test_a_transductive_cocktail_scores_all(domain, backbone, adapters, tmp_path):
    pair = [adapter for adapter, _ in adapters[:2]]
    path = tmp_path / "open"
    mix(pair, backbone, domain, "warm", path, replace(MIX, transductive=True))
    sheet = json.loads((path / "cocktail.json").read_text())
    assert sheet["adaptation"]["transductive"] is True and sheet["adaptation"]["user_ids"]
    evaluate(domain, [(Adapter.load(path), path)], backbone, tmp_path / "e", settings=SMALL)
    assert content(tmp_path / "e")["models"]["open"]["warm"]["n"] == domain.rows("test_warm").height


def test_whom_a_share_of_the_domain_adapted_to_is_not_scored(domain, backbone, adapters, tmp_path):
    """A domain prepared anew, or a share of it, has another hash and the same users."""
    anew = changed(domain, tmp_path / "anew", valid_warm=lambda rows: rows.head(8))
    assert anew.sha256 != domain.sha256
    evaluate(anew, adapters[-2:], backbone, tmp_path / "e", settings=SMALL)
    assert not adaptation_users(adapters) & set(predictions(tmp_path / "e")["user_id"])


def test_whom_the_same_domain_of_another_name_adapted_to_is_not_scored(domain):
    users = domain.rows("test_warm")["user_id"].to_list()
    sheet = {
        "adaptation": {"transductive": False, "user_ids": users[:5]},
        "data": {"name": "elsewhere", "sha256": domain.sha256},
    }
    scored = _tables(domain, ["warm"], [sheet], SMALL).test["warm"]
    assert scored["user_id"].to_list() == users[5:]


def test_a_cocktail_that_does_not_say_whom_it_adapted_to_is_refused(
    domain, backbone, adapters, tmp_path
):
    """Else those whom it adapted to would be scored without a word."""
    bare = tmp_path / "bare"
    shutil.copytree(adapters[-1][1], bare)
    (bare / "cocktail.json").unlink()
    with pytest.raises(AdapterError, match=r"without cocktail\.json") as error:
        evaluate(domain, [(Adapter.load(bare), bare)], backbone, tmp_path / "e", settings=SMALL)
    one_sentence(error.value)


def test_users_of_another_domain_are_not_left_out(domain, backbone, adapters, tmp_path):
    """Two domains may use the same ids for different people."""
    other = taste_domain(tmp_path, name="other", users=80, seed=5)
    evaluate(other, adapters[-2:], backbone, tmp_path / "e", settings=SMALL, scenarios=["warm"])
    cells = content(tmp_path / "e")["models"]
    assert cells["cocktail_warm"]["warm"]["n"] == other.rows("test_warm").height
    assert set(cells["backbone"]) == {"warm"}


def test_the_same_call_writes_the_same_bytes(domain, backbone, adapters, done, tmp_path):
    evaluate(domain, adapters, backbone, tmp_path, baselines=["popularity"], settings=SMALL)
    for name in ("predictions.parquet", "metrics.json", "examples.json", "cocktails.json"):
        assert (tmp_path / name).read_bytes() == (done / name).read_bytes(), name
    again = tmp_path / "again"  # and once more, with every vector in the cache
    evaluate(domain, adapters, backbone, again, baselines=["popularity"], settings=SMALL)
    for name in ("predictions.parquet", "metrics.json", "examples.json"):
        assert (again / name).read_bytes() == (done / name).read_bytes(), name


def test_the_run_says_how(done, domain, backbone):
    run = content(done, "run.json")
    assert run["data"] == {
        "name": domain.name, "sha256": domain.sha256, "items": len(domain.item_ids)
    }  # fmt: skip
    assert run["settings"]["validation_users"] == 12
    kinds = {name: model["kind"] for name, model in run["models"].items()}
    assert kinds["base_spirit"] == "base" and kinds["ingredient"] == "ingredient"
    assert kinds["backbone"] == "backbone" and kinds["cocktail_cold"] == "cocktail"
    assert all(len(run["models"][name]["sha256"]) == 64 for name in ("ingredient", "cocktail_cold"))
    assert "steps" in run["models"]["ingredient"] and "steps" not in run["models"]["backbone"]
    assert all(model["seconds"] >= 0 for model in run["models"].values())
    assert run["peak_memory_bytes"] > 1e7 and run["seconds"]["evaluate"] > 0
    assert {"torch", "transformers", "peft", "reccocktail", "python"} <= set(run["versions"])
    assert run["recipe"]["prompt"]["max_history"] == 4
    assert [sheet["name"] for sheet in content(done, "cocktails.json")] == MODELS[4:]


def test_the_reference_is_the_better_single_adapter(done):
    metrics = content(done)
    for scenario in ("warm", "cold"):
        quality = {
            m: metrics["models"][m][scenario]["ndcg@10"] for m in ("base_spirit", "ingredient")
        }
        assert metrics["reference"][scenario] == max(quality, key=quality.get)
        entries = [e for e in metrics["paired"] if e["scenario"] == scenario]
        assert {e["model"] for e in entries} == set(MODELS) - {metrics["reference"][scenario]}
        assert {e["against"] for e in entries} == {metrics["reference"][scenario]}


def test_examples_hold_no_history_and_flag_new_items(done, domain):
    splits = dict(domain.items.select("title", "split").rows())
    examples = content(done, "examples.json")
    assert {example["scenario"] for example in examples} == {"warm", "cold"}
    flags = set()
    for example in examples:
        assert list(example["models"]) == MODELS
        for shown in example["models"].values():
            scores = [item["score"] for item in shown]
            assert len(shown) == 5 and scores == sorted(scores, reverse=True)
            for item in shown:
                assert item["title"] not in example["history"]
                assert item["new"] == (splits[item["title"]] != "warm")
                flags.add(item["new"])
    assert flags == {True, False}


# -- full catalogue and prior -----------------------------------------------------------------


def catalogue_scores(domain, backbone, lora, rows, run, model, scenario):
    """Scores (rows, items): the model's, and what stands beside them in the run's weights."""
    found = run["models"][model]
    prior, words, collaborative = (
        found.get(f"{name}_weight", NO_WEIGHT)[scenario]
        for name in ("prior", "words", "collaborative")
    )
    assert prior in WEIGHTS and words in WORDS_WEIGHTS
    assert collaborative in COLLABORATIVE_WEIGHTS
    recipe = pico_recipe()
    ranker = DenseRanker(backbone.tokenizer, recipe.prompt, recipe.dense)
    catalogue = Catalogue.of(domain, ranker)
    items = ItemVectors(catalogue)
    with merged(backbone.model, lora) as model:
        vectors = encode(model, items, catalogue, [rows], "Scoring", whole_catalogue=True)[0]
    added = prior * popularity_prior(domain.train_counts())
    histories = catalogue.history_items(rows)
    for weight, space in (
        (words, catalogue.spaces.words),
        (collaborative, catalogue.spaces.collaborative),
    ):
        added = added + weight * space.catalogue(histories)
    return ranker.logits(vectors.users, items.all()).double().numpy() + added


@pytest.mark.parametrize("scenario", ["warm", "cold"])
def test_full_catalogue_ranks_agree_with_a_direct_computation(
    done, domain, backbone, adapters, scenario
):
    run = content(done, "run.json")
    scored = set(predictions(done).filter(pl.col("scenario") == scenario)["user_id"])
    rows = domain.rows(f"test_{scenario}").filter(pl.col("user_id").is_in(sorted(scored)))
    lora = adapters[1][0].lora
    scores = catalogue_scores(domain, backbone, lora, rows, run, "ingredient", scenario)
    ranks, later = [], 0
    known = {user: set(history) for user, history in domain.train().iter_rows()}
    for name in EVALUATION_TABLES:
        for user, history, target, _ in domain.rows(name).iter_rows():
            known.setdefault(user, set()).update([*history, target])
    columns = rows.select("user_id", "history", "target")
    for row, (user, history, target) in enumerate(columns.iter_rows()):
        own = scores[row, domain.index[target]]
        touched = known[user] - {target}
        later += len(touched) - len(set(history))
        rivals = [
            scores[row, place] for item, place in domain.index.items() if item not in known[user]
        ]
        ranks.append(sum(rival >= own for rival in rivals))
    # What a user chose after a target is no negative either.
    assert later > 0
    cell = content(done)["full_catalogue"]["ingredient"][scenario]
    assert cell["n"] == len(ranks)
    for name, value in figures(ranks).items():
        assert cell[name] == pytest.approx(value, abs=1e-9)


def test_scores_are_the_model_and_what_is_weighed_in(done, domain, backbone, adapters):
    run, lora = content(done, "run.json"), adapters[0][0].lora
    for scenario in ("warm", "cold"):
        table = predictions(done).filter(
            (pl.col("model") == "base_spirit") & (pl.col("scenario") == scenario)
        )
        rows = domain.rows(f"test_{scenario}").join(
            table.select("user_id"), on="user_id", how="semi", maintain_order="left"
        )
        whole = catalogue_scores(domain, backbone, lora, rows, run, "base_spirit", scenario)
        for row, (candidates, scores) in enumerate(
            table.select("candidates", "scores").iter_rows()
        ):
            places = [domain.index[item] for item in candidates]
            assert scores == pytest.approx(whole[row, places], abs=1e-4)


def test_blocks_of_rows_make_no_difference(domain, backbone, adapters, done, tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "ROWS", 7)
    evaluate(domain, adapters, backbone, tmp_path / "e", baselines=["popularity"], settings=SMALL)
    assert content(tmp_path / "e")["full_catalogue"] == content(done)["full_catalogue"]
    users = [
        [example["user_id"] for example in content(out, "examples.json")]
        for out in (tmp_path / "e", done)
    ]
    assert users[0] == users[1]


def test_no_matrix_of_all_rows_and_items_is_made(domain, backbone, adapters, tmp_path, monkeypatch):
    """It would be gigabytes for the users of a shop."""
    monkeypatch.setattr(whole, "ROWS", 7)
    sizes, exact = [], DenseRanker.logits

    def watched(self, users, items):
        sizes.append((len(users), len(items)))
        return exact(self, users, items)

    monkeypatch.setattr(DenseRanker, "logits", watched)
    evaluate(domain, adapters[:2], backbone, tmp_path / "e", settings=SMALL)
    of_the_catalogue = [rows for rows, of in sizes if of == len(domain.item_ids)]
    assert of_the_catalogue and max(rows for rows, _ in sizes) == 7


def test_an_interrupted_evaluation_leaves_no_mixture(
    domain, backbone, adapters, done, tmp_path, monkeypatch
):
    out = tmp_path / "e"
    shutil.copytree(done, out)

    def full(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(KeyboardInterrupt):
        evaluate(domain, adapters[:1], backbone, out, settings=SMALL)
    for name in ("metrics.json", "examples.json", "cocktails.json", "run.json"):
        assert content(out, name) == content(done, name)


def weights_of(out):
    return {
        model: {name: value for name, value in found.items() if name.endswith("_weight")}
        for model, found in content(out, "run.json")["models"].items()
    }


def test_weights_are_chosen_on_validation_users_only(domain, backbone, adapters, done, tmp_path):
    two = adapters[:2]
    evaluate(domain, two, backbone, tmp_path / "as_it_is", settings=SMALL)
    tests = {f"test_{scenario}": other_targets for scenario in ("warm", "cold")}
    relabelled = changed(domain, tmp_path / "d1", **tests)
    evaluate(relabelled, two, backbone, tmp_path / "wrong_tests", settings=SMALL)
    before, after = (weights_of(tmp_path / name) for name in ("as_it_is", "wrong_tests"))
    assert before == after and len(before["ingredient"]) == 2

    # Validation targets that are always the most popular candidate ask for the largest weights.
    crowd = changed(domain, tmp_path / "d2", valid_warm=popular_targets(domain))
    evaluate(crowd, two, backbone, tmp_path / "crowd", settings=SMALL)
    weights = weights_of(tmp_path / "crowd")["ingredient"]
    assert weights["prior_weight"]["warm"] > 0
    for name, found in weights.items():
        assert found["cold"] == before["ingredient"][name]["cold"]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("words", "who"), [(False, False), (True, False), (False, True)])
def test_only_what_is_asked_for_stands_beside(
    domain, backbone, adapters, tmp_path, full, words, who
):
    settings = replace(SMALL, prior=False, words=words, collaborative=who, full_catalogue=full)
    evaluate(domain, adapters[:1], backbone, tmp_path, settings=settings, scenarios=["warm"])
    for found in weights_of(tmp_path).values():
        assert found["prior_weight"] == {"warm": 0.0}
        assert ("words_weight" in found) == words
        assert ("collaborative_weight" in found) == who
    assert bool(content(tmp_path)["full_catalogue"]) == full
    table = predictions(tmp_path).filter(pl.col("model") == "base_spirit")
    run, rows = content(tmp_path, "run.json"), domain.rows("test_warm")
    lora = adapters[0][0].lora
    whole = catalogue_scores(domain, backbone, lora, rows, run, "base_spirit", "warm")
    places = [domain.index[item] for item in table["candidates"][0]]
    assert table["scores"][0].to_list() == pytest.approx(whole[0, places], abs=1e-4)


# -- choices ----------------------------------------------------------------------------------


def test_baselines_alone_need_no_backbone(domain, tmp_path):
    evaluate(domain, [], None, tmp_path, baselines=["popularity"], settings=SMALL)
    metrics = content(tmp_path)
    assert list(metrics["models"]) == ["popularity"] and metrics["reference"] == {}
    assert metrics["models"]["popularity"]["warm"]["n"] == domain.rows("test_warm").height
    # Cold items have no counts, so all tie, and ties go against the target.
    assert metrics["models"]["popularity"]["cold"]["hr@1"] == 0.0


def test_the_bare_backbone_alone(domain, backbone, tmp_path):
    evaluate(domain, [], backbone, tmp_path, settings=SMALL, recipe=pico_recipe())
    assert list(content(tmp_path)["models"]) == ["backbone"]


def test_a_number_of_users_can_be_drawn(domain, backbone, tmp_path):
    drawn = []
    for seed in (0, 0, 1):
        settings = replace(SMALL, users=10, seed=seed)
        evaluate(domain, [], None, tmp_path, baselines=["popularity"], settings=settings)
        table = predictions(tmp_path).filter(pl.col("scenario") == "warm")
        assert table.height == 10
        drawn.append(set(table["user_id"]))
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_model_that_stands_twice_is_encoded_once(
    domain, backbone, adapters, tmp_path, monkeypatch
):
    single, path = adapters[0]
    twin = tmp_path / "twin"
    mix([single, adapters[1][0]], backbone, domain, "warm", twin, MIX, (1.0, 0.0))
    calls = []
    real = scorer.score
    monkeypatch.setattr(scorer, "score", lambda *a, **k: calls.append(a[3]) or real(*a, **k))
    pairs = [(single, path), (Adapter.load(twin), twin)]
    evaluate(domain, pairs, backbone, tmp_path / "e", settings=SMALL)
    assert calls == ["Evaluating backbone", "Evaluating base_spirit"]
    table = predictions(tmp_path / "e")
    one, two = (
        table.filter(pl.col("model") == m)["scores"].to_list() for m in ("base_spirit", "twin")
    )
    assert one == two


# -- refusals ---------------------------------------------------------------------------------


def test_two_models_of_one_name_are_refused(domain, backbone, adapters, tmp_path):
    single, path = adapters[0]
    for pairs in (
        [(single, path), (replace(single), path)],
        [(replace(single, name="backbone"), path)],
    ):
        with pytest.raises(RunError, match="Two models are named") as error:
            evaluate(domain, pairs, backbone, tmp_path / "e", settings=SMALL)
        one_sentence(error.value)
    popular = replace(single, name="popularity")
    with pytest.raises(RunError, match="'popularity'"):
        evaluate(domain, [(popular, path)], backbone, tmp_path / "e", baselines=["popularity"])
    assert not (tmp_path / "e").exists()


def test_an_unknown_baseline_is_refused(domain, tmp_path):
    with pytest.raises(RunError, match=r"No baseline 'oracle'; choose from .*popularity") as error:
        evaluate(domain, [], None, tmp_path / "e", baselines=["oracle"])
    one_sentence(error.value)


def test_adapters_that_do_not_fit_are_refused(domain, backbone, adapters, tmp_path):
    foreign = random_adapter(pico_backbone(seed=7), domain, "foreign")
    longer = pico_recipe().model_copy(update={"prompt": PromptSettings(max_history=9)})
    unlike = random_adapter(backbone, domain, "unlike", recipe=longer)
    for other in (foreign, unlike):
        with pytest.raises(AdapterError, match=other.name) as error:
            evaluate(
                domain, [adapters[0], (other, tmp_path / other.name)], backbone, tmp_path / "e",
                settings=SMALL,
            )  # fmt: skip
        one_sentence(error.value)


@pytest.mark.parametrize(
    "wrong", [{"users": 0}, {"users": -1}, {"validation_users": -1}, {"seed": -1}, {"seed": 2**31}]
)
def test_numbers_out_of_range_are_refused(domain, tmp_path, wrong):
    with pytest.raises(RecipeError) as error:
        evaluate(
            domain, [], None, tmp_path / "e", baselines=["popularity"],
            settings=replace(SMALL, **wrong),
        )  # fmt: skip
    one_sentence(error.value)
    assert not (tmp_path / "e").exists()


def test_nobody_to_score_is_refused(domain, backbone, tmp_path):
    nobody = {f"test_{scenario}": lambda rows: rows.head(0) for scenario in ("warm", "cold")}
    empty = changed(domain, tmp_path / "empty", **nobody)
    with pytest.raises(RunError, match="nobody to score") as error:
        evaluate(empty, [], None, tmp_path / "e", baselines=["popularity"])
    one_sentence(error.value)


def test_a_small_catalogue_shows_only_what_a_user_never_touched(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    rows = [(f"u{u}", f"i{(u * 5 + 2 * k) % 9}", k) for u in range(60) for k in range(6)]
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(
        folder / "interactions.csv"
    )
    items = {"item_id": [f"i{n}" for n in range(9)], "title": [f"Item {n}" for n in range(9)]}
    pl.DataFrame(items).write_csv(folder / "items.csv")
    small = prepare(
        folder / "interactions.csv", folder / "items.csv", "small", tmp_path / "small",
        min_count=1, negatives=2, cold_fraction=0.25,
    )  # fmt: skip
    evaluate(small, [], None, tmp_path / "e", baselines=["popularity"])
    shown = [e["models"]["popularity"] for e in content(tmp_path / "e", "examples.json")]
    assert min(map(len, shown)) < 5


def test_a_scenario_without_users_is_left_out(domain, tmp_path):
    warm = changed(domain, tmp_path / "warm", test_cold=lambda rows: rows.head(0))
    evaluate(warm, [], None, tmp_path / "e", baselines=["popularity"])
    assert set(content(tmp_path / "e")["models"]["popularity"]) == {"warm"}


def test_a_cold_catalogue_has_no_say_for_popularity(done):
    table = predictions(done).filter(
        (pl.col("model") == "popularity") & (pl.col("scenario") == "cold")
    )
    for target, candidates, scores in table.select("target", "candidates", "scores").rows():
        assert scores[candidates.index(target)] == min(scores) == 0.0
        assert np.isfinite(scores).all()
