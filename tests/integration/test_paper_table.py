"""The paper's tables at pico size: whole, resumable, honest about labels."""

import gc
import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from importlib import import_module as bench
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from reccocktail.backbone import load_backbone
from reccocktail.data.candidates import cold_candidates
from reccocktail.data.domain import Domain
from reccocktail.data.prepare import prepare
from reccocktail.errors import RunError
from reccocktail.evaluation.controls import CONTROLS
from reccocktail.evaluation.evaluate import evaluate
from reccocktail.evaluation.metrics import per_user, ranks
from reccocktail.evaluation.results import prediction_ranks
from reccocktail.evaluation.settings import EvaluationSettings
from reccocktail.mixing.arithmetic import combine
from reccocktail.ranking.scoring import Catalogue, positive_columns, score
from reccocktail.training.adapter import Adapter
from reccocktail.training.model import merged, ranker_of
from reccocktail.training.schedule import Length
from reccocktail.training.trainer import train
from tests.adapters import pico_recipe
from tests.benches import benchmark_modules
from tests.domains import taste_domain, write_raw
from tests.helpers import one_sentence
from tests.pico import pico_model, pico_tokenizer

ROOT = Path(__file__).parents[2]
SMALL = "--steps 4 --seeds 2 --users 30 --validation-users 12 --adaptation-users 10".split()
SLOW = {"sasrec", "gru4rec", "sentence-encoder", "bpr"}


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    """The benchmarks' modules, found and forgotten again; no time for exact peaks of memory."""
    with pytest.MonkeyPatch.context() as patch, benchmark_modules():
        patch.setattr(gc, "collect", lambda *_: 0)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("table")
    pico_model().save_pretrained(place / "backbone")
    pico_tokenizer().save_pretrained(place / "backbone")
    taste_domain(place)
    raw, items = write_raw(place / "other-raw", tastes=2, users=60)
    darker = pl.read_parquet(items).with_columns(("dark " + pl.col("title")).alias("title"))
    darker.write_parquet(items)  # titles that the target does not have
    other = prepare(raw, items, "other", place / "other", min_count=2)
    # A rate at which few steps make adapters that differ.
    recipe = pico_recipe(str(place / "backbone"), validations=0, learning_rate=0.03)
    backbone = load_backbone(recipe.backbone, device="cpu")
    train("base", [other], backbone, recipe, place / "spirit", Length(steps=6))
    return place


def arguments(folder, out, *more):
    places = ["--target", folder / "tastes", "--base", folder / "spirit", "--out", out]
    return [*map(str, places), "--device", "cpu", *SMALL, *more]


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory):
    """All rows but the slow baselines, two seeds."""
    out = tmp_path_factory.mktemp("run")
    rows = [name for name in bench("table_rows").BY_NAME if name not in SLOW]
    more = ["--rows", *rows, "--source", str(folder / "other")]
    more += ["--interactions", str(folder / "tastes-raw" / "interactions.parquet")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECCOCKTAIL_CACHE", str(out.with_name("cache")))
        bench("paper_table").main(arguments(folder, out, *more))
    return out, more, json.loads((out / "paper_table.json").read_text())


def test_every_row_is_judged_on_the_same_users(done, folder):
    out, _, result = done
    target = result["targets"]["tastes"]
    assert set(target["tables"]) == {"warm", "cold", "cold-only"}
    users = {}
    for file in out.glob("tastes/*/*/*/ranks.parquet"):
        users.setdefault(file.parent.name, set()).add(tuple(pl.read_parquet(file)["user_id"]))
    assert all(len(found) == 1 for found in users.values())
    assert users["cold"] == users["cold-only"]
    scored = {user for found in users.values() for user in next(iter(found))}
    sheets = [json.loads(f.read_text()) for f in out.glob("tastes/seed-*/cocktail*.json")
              if "cost" not in f.name]  # fmt: skip
    assert len(sheets) == 2 * 2 * 3
    for sheet in sheets:
        assert scored.isdisjoint(sheet["adaptation"]["user_ids"])
        assert sheet["seconds"] > 0
    by_name = bench("table_rows").BY_NAME
    for table in target["tables"].values():
        assert table["users"] == 30 and not target["skipped"]
        for view in table["views"].values():
            assert set(view["rows"]) == set(by_name) - SLOW
            for name, row in view["rows"].items():
                assert row["seeds"] == (2 if by_name[name].seeded else 1)
                assert row["n"] == 30
                for metric in ("ndcg@1", "ndcg@3", "ndcg@10", "mrr"):
                    low, high = row["ci95"][metric]
                    assert low - 1e-9 <= row[metric] <= high + 1e-9
    assert str(folder) not in (out / "paper_table.json").read_text()


@pytest.mark.parametrize("words", [False, True])
def test_figures_are_those_of_evaluate(done, folder, tmp_path, words):
    """Models and controls of seed 0 against the project's own evaluation of the same users."""
    out, _, _ = done
    domain, backbone = Domain.load(folder / "tastes"), load_backbone(str(folder / "backbone"))
    place = out / "tastes" / "seed-0"
    base, own = folder / "spirit", place / "ingredient"
    adapters = [(Adapter.load(path), path) for path in (base, own, place / "second_round")]
    other = Adapter.load(out / "tastes" / "seed-1" / "second_round")
    both = combine([adapters[2][0].lora, other.lora], torch.tensor([0.5, 0.5]))
    adapters.append((replace(other, name="second_soup", lora=both), tmp_path))
    sizes = EvaluationSettings(validation_users=12, words=words, full_catalogue=False)
    column = "rank_with_words" if words else "rank_with_prior"
    evaluate(domain, adapters, backbone, tmp_path, baselines=["popularity", "text-similarity"],
             settings=sizes)  # fmt: skip
    controls = [name for name in CONTROLS if name not in ("validation", "oracle")]
    evaluate(domain, adapters[:2], backbone, tmp_path / "c", controls=controls, settings=sizes)
    kept = pl.concat(pl.read_parquet(p / "predictions.parquet") for p in (tmp_path, tmp_path / "c"))
    ours = {"spirit": "base_spirit", "random": "random_average"}
    for (model, scenario), rows in kept.group_by("model", "scenario"):
        row = bench("table_rows").BY_NAME[ours.get(model, model)]
        part = "seed-0" if row.seeded else "every-seed"
        found = pl.read_parquet(out / "tastes" / row.name / part / scenario / "ranks.parquet")
        theirs = rows.unique("user_id", maintain_order=True)
        theirs = theirs.with_columns(rank=pl.Series(prediction_ranks(theirs)))
        both = found.join(theirs.select("user_id", "rank"), on="user_id")
        assert both.height == 30
        view = "rank" if model == "popularity" else column  # nothing stands beside itself
        assert both[view].to_list() == both["rank_right"].to_list(), (model, scenario)


def test_cocktails_and_their_coefficients(done):
    out, _, result = done
    cells = result["targets"]["tastes"]["tables"]["warm"]["cells"]
    for number in (0, 1):
        chosen = {name: cells[name][number]["chosen"] for name in ("cocktail", "random", "oracle")}
        assert chosen["random"]["coefficients"] == chosen["cocktail"]["coefficients"]
        assert chosen["oracle"]["uses_test_labels"] is True
        sheet = json.loads((out / "tastes" / f"seed-{number}" / "cocktail_warm.json").read_text())
        grid = [p for p in sheet["curve"] if p["coefficients"][0] in (0, 0.25, 0.5, 0.75, 1)]
        for name, by in (("validation", "log_loss"), ("cocktail_calibrated", "calibrated_entropy")):
            best = min(grid, key=lambda point, by=by: point[by])
            assert cells[name][number]["chosen"]["coefficients"] == best["coefficients"]
        assert cells["cocktail_layer"][number]["chosen"]["groups"] == 2
        longs = ("ingredient", "second_round", "woven")
        assert [cells[name][number]["chosen"]["steps"] for name in longs] == [4, 4, 4]
        assert cells["joint"][number]["chosen"] == {"steps": 4 + 6, "sources": 1}
        joint = Adapter.load(out / "tastes" / f"seed-{number}" / "joint").card
        assert joint.recipe.training.domain_shares == {"tastes": pytest.approx(4 / 10)}
    spirit = out / "tastes" / "seed-1" / "second_round"
    assert Adapter.load(spirit).card.initial_sha256 == result["base_spirit"]["sha256"]
    woven = Adapter.load(out / "tastes" / "seed-1" / "woven").card
    assert (woven.initial_sha256, woven.beside_sha256) == (None, result["base_spirit"]["sha256"])
    # Neighbouring seeds make one soup, which costs both trainings.
    for number in (0, 1):
        assert cells["soup"][number]["chosen"]["of seeds"] == [0, 1]
        costs = [cells["second_round"][n]["cost"]["train_seconds"] for n in (0, 1)]
        assert cells["second_soup"][number]["cost"]["train_seconds"] == pytest.approx(sum(costs))
    # Seeds differ where they should.
    first, second = (out / "tastes" / "dare" / f"seed-{n}" / "warm" for n in (0, 1))
    assert not pl.read_parquet(first / "ranks.parquet").equals(
        pl.read_parquet(second / "ranks.parquet")
    )


def test_the_oracle_is_the_best_of_its_grid_and_never_bold(done):
    _, _, result = done
    for table in result["targets"]["tastes"]["tables"].values():
        for view in table["views"].values():
            oracle = view["rows"]["oracle"]["ndcg@10"]
            for name in ("base_spirit", "ingredient", "average"):
                assert oracle >= view["rows"][name]["ndcg@10"] - 1e-12
            assert all("oracle" not in best for best in view["best"].values())
            assert all("oracle" not in (e["row"], e["against"]) for e in view["paired"])


def test_noise_is_compared_with_what_it_stands_for(done):
    out, _, result = done
    for table in result["targets"]["tastes"]["tables"].values():
        for view in table["views"].values():
            (noise,) = (e for e in view["against_average"] if e["row"] == "random_average")
            gap = view["rows"]["random_average"]["ndcg@10"] - view["rows"]["average"]["ndcg@10"]
            assert noise["ndcg@10"]["difference"] == pytest.approx(gap)
            assert noise["against"] == "average"
    assert (
        "against noise in its place: random_average less average has NDCG@10"
        in (out / "paper_table.md").read_text()
    )


def test_cold_only_negatives_are_cold(done, folder):
    out, _, result = done
    domain = Domain.load(folder / "tastes")
    cold = set(domain.items.filter(pl.col("split") == "test_cold")["item_id"])
    found = result["targets"]["tastes"]["cold_only"]
    assert found["cold_items"] == len(cold) and found["asked"] == 29
    assert 0 < found["negatives"] < len(cold)
    assert (
        result["targets"]["tastes"]["tables"]["cold-only"]["candidates"] == 1 + found["negatives"]
    )
    # Popularity has nothing to say of cold items: it is last among them.
    rows = result["targets"]["tastes"]["tables"]["cold-only"]["views"]["with prior"]["rows"]
    assert rows["popularity"]["mrr"] == pytest.approx(1 / (1 + found["negatives"]))
    # The prior is 0 for every cold item.
    for file in out.glob("tastes/*/*/cold-only/ranks.parquet"):
        if "oracle" not in str(file):
            kept = pl.read_parquet(file)
            assert kept["rank"].equals(kept["rank_with_prior"], check_names=False)
    text = (out / "paper_table.md").read_text()
    assert "29 were asked for" in text and "without the raw interactions" not in text


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "hr", "img", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_pages_say_it_all(done):
    out, _, result = done
    text, page = ((out / f"paper_table.{kind}").read_text() for kind in ("md", "html"))
    for name in bench("table_rows").BY_NAME:
        assert f"`{name}`: " in text
    assert "oracle (uses test labels)" in text and "### Costs" in text
    row = result["targets"]["tastes"]["tables"]["warm"]["views"]["with prior"]["rows"]["ingredient"]
    assert f"{row['ndcg@1']:.3f} [" in text or f"{row['ndcg@1']:.3f}** [" in text
    parser = _Tags()
    parser.feed(page)
    assert not parser.open
    assert not {tag for tag, _ in parser.tags} & {"script", "link", "img", "iframe"}
    assert (out / "paper_table_tastes.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_run_goes_on(done, folder, tmp_path, monkeypatch):
    """Stopped at a cell, then whole: the same figures; and finished cells are taken as they are."""
    _, _, whole = done
    table_bench, paper_table = bench("table_bench"), bench("paper_table")
    names = ["base_spirit", "ingredient", "average", "cocktail"]
    more = ["--rows", *names, "--cold-negatives", "all"]
    judged = []
    judge = table_bench.Bench.judge

    def stops(self, row):
        if row == "cocktail" and self.seed == 1:
            raise KeyboardInterrupt
        judged.append((row, self.seed))
        return judge(self, row)

    monkeypatch.setattr(table_bench.Bench, "judge", stops)
    with pytest.raises(KeyboardInterrupt):
        paper_table.main(arguments(folder, tmp_path, *more))

    def counts(self, row):
        judged.append((row, self.seed))
        return judge(self, row)

    monkeypatch.setattr(table_bench.Bench, "judge", counts)
    paper_table.main(arguments(folder, tmp_path, *more))
    assert len(judged) == len(set(judged)) == 4 + 3
    assert judged[-1] == ("cocktail", 1)
    again = json.loads((tmp_path / "paper_table.json").read_text())["targets"]["tastes"]["tables"]
    assert set(again) == {"warm", "cold"}
    for table, found in again.items():
        for view, kept in found["views"].items():
            theirs = whole["targets"]["tastes"]["tables"][table]["views"][view]["rows"]
            assert kept["rows"] == {name: theirs[name] for name in kept["rows"]}
    monkeypatch.setattr(table_bench.Bench, "judge", None)
    paper_table.main(arguments(folder, tmp_path, *more))
    with pytest.raises(RunError, match=r"\(users\)") as error:
        paper_table.main(arguments(folder, tmp_path, *more, "--users", "20"))
    one_sentence(error.value)


def test_seeds_are_made_side_by_side_and_counted_together(done, folder, tmp_path):
    _, _, whole = done
    more = ["--rows", "base_spirit", "ingredient", "--cold-negatives", "all"]
    main = bench("paper_table").main
    for seed in ("1", "0"):
        main(arguments(folder, tmp_path, *more, "--seeds", "1", "--first-seed", seed))
    main(arguments(folder, tmp_path, *more))
    found = json.loads((tmp_path / "paper_table.json").read_text())["targets"]["tastes"]["tables"]
    for table, theirs in whole["targets"]["tastes"]["tables"].items():
        if table in found:
            for view, kept in found[table]["views"].items():
                rows = theirs["views"][view]["rows"]
                assert kept["rows"] == {name: rows[name] for name in kept["rows"]}


def test_a_target_is_trained_as_its_own_recipe_says(folder, tmp_path):
    base = Adapter.load(folder / "spirit")
    file = tmp_path / "recipe.yaml"
    own = base.card.recipe
    training = own.training.model_copy(update={"targets_per_batch": 8})
    own.model_copy(update={"training": training}).save(file)
    study, table = bench("study"), bench("table_bench")
    found = study.target_recipe(base, file)
    assert found.training.targets_per_batch == 8
    assert found.model_copy(update={"training": own.training}) == own
    assert study.target_recipe(base, None) == own
    # Joint training shows as many examples as both, in steps of the base spirit's recipe.
    card = base.card.model_copy(update={"recipe": found, "steps": 4})
    share = 4 * 8 / own.training.targets_per_batch
    ingredient = Adapter("i", base.lora, card)
    assert table._joint_steps(ingredient, base) == 6 + np.ceil(share)
    shares = table._joint_recipe("tastes", ingredient, base).training.domain_shares
    assert shares == {"tastes": pytest.approx(share / (6 + share))}
    # A base spirit's own shares are kept among the sources.
    training = own.training.model_copy(update={"domain_shares": {"x": 0.5}})
    recipe = own.model_copy(update={"training": training})
    fixed = Adapter("b", base.lora, base.card.model_copy(update={"recipe": recipe}))
    shares = table._joint_recipe("tastes", ingredient, fixed).training.domain_shares
    assert shares["x"] == pytest.approx(0.5 * 6 / (6 + share))
    own.model_copy(update={"lora": own.lora.model_copy(update={"rank": 3})}).save(file)
    with pytest.raises(RunError, match="in lora;") as error:
        study.target_recipe(base, file)
    one_sentence(error.value)


def test_what_is_missing_is_left_out_and_said(folder, tmp_path, monkeypatch):
    """A sentence encoder is a download; asked for by name, its absence is an error."""
    paper_table, by_name = bench("paper_table"), bench("table_rows").BY_NAME
    monkeypatch.setattr(paper_table, "ROWS", [by_name["popularity"], by_name["sentence-encoder"]])

    def absent(name, *args, **options):
        if name == "sentence-encoder":
            raise RunError("The encoder is not here; fetch it.")
        return make(name, *args, **options)

    table_bench = bench("table_bench")
    make = table_bench.make_baseline
    monkeypatch.setattr(table_bench, "make_baseline", absent)
    paper_table.main(arguments(folder, tmp_path))
    found = json.loads((tmp_path / "paper_table.json").read_text())["targets"]["tastes"]
    assert found["skipped"] == {"sentence-encoder": "The encoder is not here; fetch it."}
    assert set(found["tables"]["warm"]["costs"]) == {"popularity"}
    assert found["cold_only"]["interactions"] is None
    text = (tmp_path / "paper_table.md").read_text()
    assert "Left out: sentence-encoder" in text and "without the raw interactions" in text
    with pytest.raises(RunError, match="not here"):
        paper_table.main(arguments(folder, tmp_path, "--rows", "sentence-encoder"))


def test_what_the_user_can_mend_is_one_sentence_and_exit_2(capsys):
    def fails():
        raise RunError("The folder is missing; make it.")

    with pytest.raises(SystemExit) as stopped:
        bench("program").program(fails)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.strip() == "Error: The folder is missing; make it."


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--rows", "placebo"], "no row 'placebo'"),
        (["--rows", "joint"], "--source"),
        (["--ranker", "choice"], "ranks by dense"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--interactions", "nowhere.csv"], "does not exist"),
    ],
)
def test_refusals(folder, tmp_path, more, what):
    with pytest.raises(RunError, match=what) as error:
        bench("paper_table").main(arguments(folder, tmp_path, *more))
    one_sentence(error.value)


def test_another_file_of_interactions_is_refused(folder, tmp_path):
    other = str(folder / "other-raw" / "interactions.parquet")
    with pytest.raises(RunError, match="any target was prepared from") as error:
        bench("paper_table").main(arguments(folder, tmp_path, "--interactions", other))
    one_sentence(error.value)


# -- marks ------------------------------------------------------------------------------------


def _cells(placed):
    """Cells of constructed ranks, one seed."""
    sheet = {"users": 400, "candidates": 30, "seed": 0, "chosen": {}, "prior_weight": 0.0,
             "weights_with_words": None, "metrics": {}, "commit": None,
             "cost": {"train_seconds": 1.0, "mix_seconds": 0.0, "users_per_second": 5.0,
                      "peak_memory_bytes": None}}  # fmt: skip
    return {
        name: [(sheet, pl.DataFrame(dict.fromkeys(bench("table_target").VIEWS.values(), r)))]
        for name, r in placed.items()
    }


def test_marks_and_bold_of_a_constructed_case():
    report = bench("table_report")
    rng = np.random.default_rng(0)
    own = rng.integers(0, 30, 400)
    placed = {
        "popularity": np.clip(own + 3, 0, 29),
        "text-similarity": np.full(400, 29),
        "base_spirit": np.clip(own + 8, 0, 29),
        "ingredient": own,
        "cocktail": np.maximum(own - 2, 0),  # better for all
        "average": own,  # the same
        "ties": np.clip(own + 10, 0, 29),  # worse for all
        "oracle": np.zeros(400, dtype=np.int64),
    }
    found = report.summary(_cells(placed), [str(n) for n in range(400)])
    view = found["views"]["text alone"]
    assert view["references"] == {
        "better single adapter": "ingredient",
        "best baseline": "popularity",
    }
    assert report.marks(view, "cocktail", "ndcg@10") == "↑a ↑b"
    assert report.marks(view, "average", "ndcg@10") == "↑b"
    assert report.marks(view, "ties", "ndcg@10") == "↓a ↓b"
    assert report.marks(view, "ingredient", "ndcg@10") == "↑b"  # it is no reference to itself
    assert report.marks(view, "oracle", "ndcg@10") == ""
    assert view["best"]["ndcg@10"] == ["cocktail"]
    expected = per_user(placed["cocktail"])["ndcg@10"].mean()
    assert view["rows"]["cocktail"]["ndcg@10"] == pytest.approx(expected)
    table = report.markdown_table("amazon14_beauty", "warm", view)
    line = next(row for row in table.splitlines() if row.startswith("| cocktail"))
    assert "**" in line and line.endswith("| 0.413 | 0.435 |")  # the paper's figures of Beauty
    assert "**" not in next(row for row in table.splitlines() if "oracle" in row)
    assert "| TALLRec |" in table and "0.335" in table
    # The paper has no cold-only table, and other domains none at all.
    for place in (("amazon14_beauty", "cold-only"), ("shop", "warm")):
        assert "paper" not in report.markdown_table(*place, view)


def test_a_small_difference_among_many_rows_is_not_marked():
    """One of many comparisons with p a little below 0.05: Holm takes the mark away."""
    report = bench("table_report")
    names = [row.name for row in bench("table_rows").ROWS if row.kind == "model"]
    own = np.full(400, 5)

    def moved(up, down):
        return np.repeat([4, 6, 5], [up, down, 400 - up - down])

    noisy = {name: moved(30, 40) for name in names} | {names[0]: moved(48, 38)}
    values = {n: report._metrics(r)[:, None] for n, r in (noisy | {"ingredient": own}).items()}
    targets = [str(n) for n in range(400)]
    entries = report.compare(
        values, {name: [0] for name in values}, "ingredient", report.SINGLE, targets
    )
    raw = [e["ndcg@10"]["p"] for e in entries]
    assert 0.005 < min(raw) < 0.05
    assert all(e["ndcg@10"]["p_holm"] >= e["ndcg@10"]["p"] for e in entries)
    assert min(e["ndcg@10"]["p_holm"] for e in entries) > 0.05


def test_a_mix_of_one_seed_is_compared_with_that_seed_s_ingredient():
    """Else a lucky seed of the ingredient would count as the mix's gain."""
    report = bench("table_report")
    rng = np.random.default_rng(0)
    of_seed = [report._metrics(rng.integers(0, 9, 200)) for _ in range(3)]
    values = {
        "ingredient": np.stack(of_seed, axis=1),
        "ties": of_seed[1][:, None],  # made of the second ingredient, and no better
        "sasrec": of_seed[1][:, None],
    }
    seeds = {"ingredient": [0, 1, 2], "ties": [1], "sasrec": [1]}
    found = report.compare(values, seeds, "ingredient", report.SINGLE, [str(n) for n in range(200)])
    gaps = {entry["row"]: entry["ndcg@10"]["difference"] for entry in found}
    assert gaps["ties"] == 0
    own, all_of_them = of_seed[1][:, 2].mean(), values["ingredient"][:, :, 2].mean()
    assert gaps["sasrec"] == pytest.approx(own - all_of_them) and abs(gaps["sasrec"]) > 1e-3


def test_seeds_that_disagree_leave_a_difference_unsure():
    """Users alone would swear to it: each seed moves all of them alike."""
    report = bench("table_report")
    own = np.full((200, 3, 4), 0.5)
    moved = own + np.array([0.06, -0.02, 0.01])[None, :, None]
    values = {"ingredient": own, "ties": moved, "sasrec": moved[:, :1]}
    seeds = {"ingredient": [0, 1, 2], "ties": [0, 1, 2], "sasrec": [0]}
    found = report.compare(values, seeds, "ingredient", report.SINGLE, [str(n) for n in range(200)])
    gaps = {entry["row"]: entry["ndcg@10"] for entry in found}
    assert gaps["ties"]["difference"] == pytest.approx(0.05 / 3)
    for interval in ("ci95", "ci95_items"):
        assert gaps["ties"][interval] == pytest.approx([-0.02, 0.06])
    assert gaps["ties"]["p"] > 0.05
    # One seed says nothing of its luck.
    assert gaps["sasrec"]["ci95"] == pytest.approx([0.06, 0.06])


def test_pairs_of_seeds_move_together():
    report = bench("table_report")
    rng = np.random.default_rng(0)
    own = rng.random((100, 1, 4)) + np.array([0.0, 0.3, -0.3])[None, :, None]
    values = {"ingredient": own, "ties": own + 0.01}
    found = report.compare(
        values,
        {"ingredient": [0, 1, 2], "ties": [0, 1, 2]},
        "ingredient",
        report.SINGLE,
        ["a", "b"] * 50,
    )
    assert found[0]["ndcg@10"]["ci95"] == pytest.approx([0.01, 0.01])


def test_published_tables_are_made_again_with_a_row_of_another_run(done, folder, tmp_path, capsys):
    """No adapter is needed; the run's own row takes the place of the published one."""
    out, _, result = done
    results, run = tmp_path / "results", tmp_path / "run"
    bench("publish").main([str(out), "--command", "python it", "--out", str(results)])
    again = [str(run), "--published", str(results), "--target", str(folder / "tastes")]
    main = bench("table_again").main
    views = result["targets"]["tastes"]["tables"]["warm"]["views"]
    entry = views["text alone"]["paired"][-1]
    kept = tmp_path / "differences.json"
    pairs = ["--compare", entry["row"], entry["against"]]
    main([*again, *pairs, "--differences", str(kept)])
    told = " ".join(capsys.readouterr().err.split())
    gap, low = entry["ndcg@10"]["difference"], entry["ndcg@10"]["ci95"][0]
    pair = f"{entry['row']} less {entry['against']}"
    assert f"tastes, warm, text alone: {pair} {gap:+.3f} [{low:+.3f}, " in told
    assert f"tastes, cold, with prior: {pair} " in told
    gaps = json.loads(kept.read_text())["targets"]["tastes"]
    assert gaps["warm"][pair]["text alone"]["difference"] == entry["ndcg@10"]["difference"]
    assert gaps["warm"][pair]["text alone"]["ci95_items"] == entry["ndcg@10"]["ci95_items"]
    made = json.loads((run / "paper_table.json").read_text())
    assert made["targets"] == result["targets"]
    assert made["settings"] == result["settings"] and made["figures_made_anew"]["versions"]
    # What a call that was stopped had not taken yet, the next one takes.
    shutil.rmtree(sorted((run / "tastes" / "ingredient").glob("seed-*/warm"))[-1])
    main(again)
    assert json.loads((run / "paper_table.json").read_text())["targets"] == result["targets"]
    # Another popularity: the target last for everybody.
    place = run / "tastes" / "popularity" / "every-seed" / "warm"
    ranks = pl.read_parquet(place / "ranks.parquet")
    worst = ranks.with_columns(pl.col(pl.UInt16, pl.Int64) * 0 + 11)
    bench("cells").write_cell(place, worst, json.loads((place / "cell.json").read_text()))
    main(again)
    made = json.loads((run / "paper_table.json").read_text())
    for view in made["targets"]["tastes"]["tables"]["warm"]["views"].values():
        assert view["rows"]["popularity"]["ndcg@10"] == 0
    sheet = json.loads((place / "cell.json").read_text())
    sheet["identity"]["users"] = 7
    (place / "cell.json").write_text(json.dumps(sheet))
    with pytest.raises(RunError, match="users") as error:
        main(again)
    one_sentence(error.value)
    other = json.loads((results / "tastes.json").read_text())
    other["targets"]["tastes"]["data"]["sha256"] = "f" * 64
    (results / "tastes.json").write_text(json.dumps(other))
    with pytest.raises(RunError, match="not prepared as it was") as error:
        main(again)
    one_sentence(error.value)


# -- the README's table -----------------------------------------------------------------------


def test_a_run_is_published_and_the_readme_filled(done, tmp_path):
    out, _, result = done
    readme_table = bench("readme_table")
    results = tmp_path / "results"
    bench("publish").main([str(out), "--command", "python it", "--out", str(results)])
    file = results / "tastes.json"
    assert json.loads(file.read_text()) == result | {"command": "python it"}
    other = json.loads(file.read_text().replace("tastes", "wishes"))
    (results / "wishes.json").write_text(json.dumps(other))
    readme, page = tmp_path / "README.md", tmp_path / "tables.md"
    picture = tmp_path / "gaps.png"
    flags = ["--results", str(results), "--readme", str(readme), "--page", str(page)]
    flags += ["--picture", str(picture)]
    readme.write_text("# Title\n\nNo markers.\n")
    with pytest.raises(RunError, match="paper_table:start") as error:
        readme_table.main(flags)
    one_sentence(error.value)
    readme.write_text(f"# Title\n\n{readme_table.START}\nold\n{readme_table.END}\n\nThe end.\n")
    with pytest.raises(RunError, match="something else") as error:
        readme_table.main([*flags, "--check"])
    one_sentence(error.value)
    readme_table.main(flags)
    text = readme.read_text()
    assert text.startswith("# Title\n\n") and text.endswith("\n\nThe end.\n")
    row = result["targets"]["tastes"]["tables"]["cold"]["views"]["with prior"]["rows"]["cocktail"]
    line = next(line for line in text.splitlines() if line.startswith("| cocktail |"))
    assert "\nold\n" not in text and f"{row['ndcg@10']:.3f}" in line.split("|")[3]
    columns = "| tastes, warm | tastes, cold | wishes, warm | wishes, cold |"
    assert columns in text and "(uses test labels)" in text
    assert "](gaps.png)" in text and picture.read_bytes().startswith(b"\x89PNG")
    full = page.read_text()
    assert "wishes was made by `python it`." in full and f"{row['ndcg@3']:.3f}" in full
    readme_table.main([*flags, "--check"])
    picture.unlink()
    page.write_text("something else")
    with pytest.raises(RunError, match=r"tables\.md says something else"):
        readme_table.main([*flags, "--check"])
    assert not picture.exists()
    readme_table.main(flags)
    assert readme.read_text() == text and picture.exists()


def test_a_published_run_goes_on_elsewhere(done, folder, tmp_path, monkeypatch, capsys):
    """From the published cells alone: the same tables, and nothing is judged again."""
    out, more, result = done
    results = tmp_path / "results"
    bench("publish").main([str(out), "--command", "python it", "--out", str(results)])
    kept = pl.read_parquet(results / "tastes.parquet")
    assert "user_id" not in kept.columns and kept.height == len(list(out.glob("*/*/*/*/cell.json")))
    more = [*more, "--published", str(results)]
    paper_table = bench("paper_table")
    with monkeypatch.context() as patch:
        patch.setattr(bench("table_bench").Bench, "judge", None)
        paper_table.main(arguments(folder, tmp_path / "run", *more))
        # Of another budget only what knows no adapter: the baselines.
        names = [*more[more.index("--interactions") :], "--steps", "6"]
        names += ["--rows", "popularity", "text-similarity"]
        longer = arguments(folder, tmp_path / "longer", *names)
        paper_table.main(longer)
    shown = json.loads((tmp_path / "longer" / "paper_table.json").read_text())["targets"]["tastes"]
    assert "ingredient" not in shown["tables"]["warm"]["costs"]
    assert "popularity" in shown["tables"]["warm"]["costs"]
    again = json.loads((tmp_path / "run" / "paper_table.json").read_text())
    assert again["targets"] == result["targets"]
    capsys.readouterr()
    short = ["--rows", "popularity", "--users", "20", "--published", str(results)]
    paper_table.main(arguments(folder, tmp_path / "smaller", *short))
    assert "took 0 published cells" in capsys.readouterr().err
    (found,) = (tmp_path / "smaller" / "tastes" / "popularity").glob("*/warm/ranks.parquet")
    assert pl.read_parquet(found).height == 20


def test_the_picture_has_every_row_once_and_the_wider_interval():
    def entry(row, difference, users, items, kind="better single adapter"):
        gap = {"difference": difference, "ci95": users, "ci95_items": items}
        return {"row": row, "kind": kind, "ndcg@10": gap}

    paired = [
        entry("average", -0.02, [-0.03, -0.01], [-0.05, 0.01]),
        entry("popularity", -0.5, [-0.6, -0.4], [-0.6, -0.4]),
        entry("average", 0.1, [0.0, 0.2], [0.0, 0.2], kind="best baseline"),
    ]
    view = {"paired": paired, "references": {"better single adapter": "ingredient"}}
    tables = {table: {"views": {"with prior": view}} for table in ("warm", "cold")}
    rows = ["popularity", "ties", "average"]
    figure = bench("table_figure").gaps_figure({"shop": {"tables": tables}}, "with prior", rows)
    (panel,) = figure.axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["popularity", "average"]
    assert "less ingredient's" in panel.get_title(loc="left")
    drawn = [line.get_xdata() for line in panel.lines]
    assert sum(list(x) == [-0.05, 0.01] for x in drawn) == 2  # warm and cold
    assert sum(list(x) == [-0.26] for x in drawn) == 2  # further out: an arrow at the edge


def test_the_readme_says_what_the_results_say():
    bench("readme_table").main(["--check"])


# -- rankers that read candidates -------------------------------------------------------------


def test_prompted_rankers_read_each_set_of_candidates(folder, tmp_path):
    """Their scores depend on the other candidates, so nothing may be shared between tables."""
    domain = Domain.load(folder / "tastes")
    recipe = pico_recipe(str(folder / "backbone"), validations=0).model_copy(
        update={"ranker": "generate"}
    )
    backbone = load_backbone(recipe.backbone, device="cpu")
    train("base", [domain], backbone, recipe, tmp_path / "chooser", Length(steps=1))
    places = [
        "--target",
        folder / "tastes",
        "--base",
        tmp_path / "chooser",
        "--out",
        tmp_path / "r",
    ]
    sizes = "--steps 1 --seeds 1 --users 6 --validation-users 4 --adaptation-users 4".split()
    more = ["--rows", "backbone", "base_spirit", "--ranker", "generate", "--device", "cpu"]
    bench("paper_table").main([*map(str, places), *sizes, *more])
    spirit = Adapter.load(tmp_path / "chooser")
    ranker = ranker_of(spirit.card, backbone)
    found = {}
    for table in ("cold", "cold-only"):
        cell = tmp_path / "r" / "tastes" / "base_spirit" / "every-seed" / table
        found[table] = pl.read_parquet(cell / "ranks.parquet")
        users = found[table]["user_id"].to_list()
        rows = domain.rows("test_cold").filter(pl.col("user_id").is_in(users))
        rows = cold_candidates(domain, rows) if table == "cold-only" else rows
        with merged(backbone.model, spirit.lora) as model:
            (scored,) = score(model, Catalogue.of(domain, ranker), [rows], "check")
        expected = ranks(scored.scores, positive_columns(rows))
        assert found[table]["rank"].to_list() == expected.tolist()
    assert found["cold"]["user_id"].equals(found["cold-only"]["user_id"])
    assert not found["cold"]["rank"].equals(found["cold-only"]["rank"])
