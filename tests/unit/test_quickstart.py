"""The quickstart on tiny raw files of the true layout and a pico backbone: to the report, once."""

import shlex
import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from reccocktail import pipeline, quickstart, spirits
from reccocktail.budget import TOKENS_PER_SECOND, Share
from reccocktail.data.domain import Domain
from reccocktail.data.prepare import prepare
from reccocktail.data.sources import convert
from reccocktail.errors import DataError, RecipeError, RunError
from reccocktail.quickstart import DEPARTMENTS, TARGETS, default_out, page_command
from reccocktail.quickstart import quickstart as start
from reccocktail.serving.schemas import require_name
from reccocktail.training.adapter import Adapter
from reccocktail.training.loop import AdapterTrainer
from tests.adapters import pico_recipe, random_adapter, save
from tests.domains import write_raw
from tests.helpers import one_sentence
from tests.pico import WORDS, pico_backbone

BRIEF = Share(base=0.004, ingredient=0.004)  # of 2 minutes: half a second each
NOUNS = [word for word in WORDS if word.isalpha() and len(word) > 3]
ITEMS, USERS, LENGTH = 60, 40, 12
PLACES = {"grocery": "GROCERY", "drug_gm": "DRUG GM", "fresh": "PRODUCE"}


def films(raw, folder):
    """MovieLens-1M as RecBole's wheel holds it."""
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    titles = [f"{NOUNS[i % 50]} {NOUNS[(7 * i + i // 50) % 50]}" for i in range(ITEMS)]
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(USERS):
        for time, item in enumerate(rng.choice(ITEMS, LENGTH, replace=False).tolist()):
            lines.append(f"{user}\t{titles[item]} {item}\t4.0\t{978300000 + 60 * time}.0")
    (raw / "ml-1m.inter").write_text("\n".join(lines) + "\n")
    lines = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    lines += [f"{title} {i}\t{title} {i}\t{1950 + i % 50}\tDrama" for i, title in enumerate(titles)]
    (raw / "ml-1m.item").write_text("\n".join(lines) + "\n")
    convert(raw, "recbole", folder)


def groceries(raw, folder):
    """Complete Journey as its wheel holds it."""
    raw.mkdir(parents=True)
    rng = np.random.default_rng(1)
    goods, bought = [], []
    for place, department in enumerate(PLACES.values()):
        numbers = [1000 * place + i for i in range(ITEMS)]
        goods += [
            (
                n,
                department,
                "National",
                NOUNS[n % 50].upper(),
                NOUNS[n // 50 % 50].upper(),
                f"{n} OZ",
            )
            for n in numbers
        ]
        start = datetime(2017, 1, 1)
        for user in range(USERS):
            for hour, n in enumerate(rng.choice(numbers, LENGTH, replace=False).tolist()):
                bought.append((str(user), n, start + timedelta(hours=hour)))
    pl.DataFrame(
        goods,
        schema=["product_id", "department", "brand", "product_category", "product_type",
                "package_size"],
        orient="row",
    ).write_parquet(raw / "products.parquet")  # fmt: skip
    pl.DataFrame(
        bought, schema=["household_id", "product_id", "transaction_timestamp"], orient="row"
    ).write_parquet(raw / "transactions.parquet")
    convert(raw, "complete_journey", folder)


def run(out, minutes=None, share=None, **named):
    """The quickstart of an installation that ships no base spirit, unless `root` says otherwise."""
    return start(out, minutes, share, **({"root": out / "no-spirits"} | named))


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fetched")
    films(folder / "raw-films", folder / "movielens-1m")
    groceries(folder / "raw-goods", folder / "complete-journey")
    return folder


@pytest.fixture
def offline(monkeypatch, fetched):
    """`fetch` gives the tiny files, `load_backbone` the pico backbone; both note the names.

    Every machine reads as fast as the one that the minutes are meant for.
    """
    asked = []

    def fetch(name, out=None):
        asked.append(name)
        return fetched / name

    def load(name, precision):
        assert precision == "auto"  # the page, which finds the vectors again, is started so too
        asked.append(name)
        return pico_backbone()

    monkeypatch.setattr(quickstart, "fetch", fetch)
    monkeypatch.setattr(quickstart, "load_backbone", load)
    monkeypatch.setattr(quickstart, "tokens_per_second", lambda *_: TOKENS_PER_SECOND)
    return asked


def test_quickstart_goes_to_the_report_and_a_second_one_does_nothing(
    offline, tmp_path, monkeypatch, capfd
):
    out = tmp_path / "quickstart"
    metrics = run(out, 2, BRIEF)
    said = " ".join(capfd.readouterr().err.split())
    assert "downloads about 140 MB" in said
    assert "reads 1,000 tokens a second: about 2 minutes in all" in said
    assert "MovieLens-1M" in said and "research" in said  # what it fetches, and its licence
    assert set(offline) == {"movielens-1m", "complete-journey", "smollm2-135m"}
    assert (out / "report.html").stat().st_size > 10_000
    assert list(metrics["models"]) == [
        "popularity", "backbone", "base_spirit", "ingredient", "average", "cocktail_warm",
        "cocktail_cold",
    ]  # fmt: skip
    base = Adapter.load(out / "base_spirit").card
    assert [data.name for data in base.data] == list(DEPARTMENTS)
    assert [d.name for d in Adapter.load(out / "ingredient").card.data] == ["movielens-1m"]
    target = Domain.load(out / "data" / "movielens-1m")
    assert target.titles[0].endswith(")")  # films carry their year
    for cell in metrics["models"]["cocktail_warm"].values():
        assert cell["n"] > 0
    name, _, rest = (
        page_command(out, "films")
        .removeprefix("reccocktail serve --precision auto --domain ")
        .partition("=")
    )
    data, _, adapter = rest.partition(":")
    assert name == "films" and Domain.load(Path(data)).sha256 == target.sha256
    assert Adapter.load(Path(adapter)).card.role == "cocktail"
    before = {
        path: path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != "pipeline.json"
    }

    def never(*_, **__):
        raise AssertionError("a finished step was done again")

    monkeypatch.setattr(quickstart, "prepare", never)
    monkeypatch.setattr(quickstart, "tokens_per_second", never)
    monkeypatch.setattr(AdapterTrainer, "train", never)
    monkeypatch.setattr(pipeline, "mix", never)
    monkeypatch.setattr(pipeline, "evaluate", never)
    assert run(out, 2, BRIEF) == metrics
    assert all(path.read_bytes() == content for path, content in before.items())


def test_an_interrupted_quickstart_goes_on(offline, tmp_path, monkeypatch):
    out = tmp_path / "quickstart"
    prepared = []
    prepare = quickstart.prepare

    def preparing(interactions, items, name, folder, **named):
        prepared.append(name)
        if prepared == ["movielens-1m", "grocery", "drug_gm"]:
            raise KeyboardInterrupt
        return prepare(interactions, items, name, folder, **named)

    monkeypatch.setattr(quickstart, "prepare", preparing)
    monkeypatch.setattr(quickstart, "run_pipeline", lambda *a: [d.name for d in a[0]])
    with pytest.raises(KeyboardInterrupt):
        run(out, 2, BRIEF)
    assert sorted(path.name for path in (out / "data").iterdir()) == ["grocery", "movielens-1m"]
    prepared.clear()
    assert run(out, 2, BRIEF) == list(DEPARTMENTS)
    assert prepared == ["drug_gm", "fresh"]


@pytest.mark.parametrize("minutes", [0, -5, 1.9, float("nan"), float("inf")])
def test_too_few_minutes_are_refused_before_any_download(offline, tmp_path, minutes):
    with pytest.raises(RecipeError, match="at least 2 minutes") as error:
        run(tmp_path / "quickstart", minutes)
    one_sentence(error.value)
    assert offline == [] and not (tmp_path / "quickstart").exists()


def test_a_folder_of_another_kind_is_refused_before_any_download(offline, tmp_path):
    (tmp_path / "adapter.json").write_text("{}")
    with pytest.raises(RunError, match="which is not a quickstart's") as refused:
        start(tmp_path)
    one_sentence(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.json"]


def test_more_minutes_buy_longer_training_and_more_users(offline, tmp_path, monkeypatch):
    plans = []
    monkeypatch.setattr(quickstart, "run_pipeline", lambda *a: plans.append(a[4]) or {})
    for minutes in (2, 12, 60):
        run(tmp_path / "quickstart", minutes)
    for shorter, longer in pairwise(plans):
        assert shorter.base["minutes"] < longer.base["minutes"]
        assert shorter.ingredient["minutes"] < longer.ingredient["minutes"]
        assert shorter.evaluation.users < longer.evaluation.users
    for minutes, plan in zip((2, 12, 60), plans, strict=True):
        assert plan.base["minutes"] + plan.ingredient["minutes"] < minutes


# -- with a shipped base spirit ---------------------------------------------------------------


@pytest.fixture
def root(offline, fetched, tmp_path, monkeypatch):
    """An installation that ships a base spirit, trained on the grocery department and more."""
    few = replace(TARGETS["groceries"], min_count=5)  # no tiny item is bought by many
    monkeypatch.setitem(TARGETS, "groceries", few)
    raw = fetched / "complete-journey" / "grocery"
    domain = quickstart.prepare(
        raw / "interactions.parquet", raw / "items.parquet", "cj_grocery", tmp_path / "seen"
    )
    adapter = random_adapter(
        pico_backbone(), domain, "base_spirit", "base", recipe=pico_recipe("smollm2-135m")
    )
    place = spirits.folder("smollm2-135m", "dense", tmp_path / "spirits")
    save(adapter, place.parent)
    return tmp_path / "spirits"


def models_of(metrics):
    return [name for name in metrics["models"] if name not in ("popularity", "backbone")]


def test_a_shipped_base_spirit_saves_its_training(root, offline, tmp_path, capfd):
    out = tmp_path / "out"
    metrics = run(out, 2, Share(base=0.0, ingredient=0.004), root=root)
    said = " ".join(capfd.readouterr().err.split())
    assert "the base spirit that ships with the package, an ingredient from films" in said
    assert "downloads about 110 MB" in said and "complete-journey" not in offline
    assert "not a new domain" not in said
    assert models_of(metrics) == [
        "base_spirit", "ingredient", "average", "cocktail_warm", "cocktail_cold"
    ]  # fmt: skip
    assert not (out / "base_spirit").exists() and (out / "report.html").exists()
    ingredient = Adapter.load(out / "ingredient").card
    assert ingredient.recipe.prompt == pico_recipe().prompt
    assert [path.name for path in (out / "data").iterdir()] == ["movielens-1m"]


def test_groceries_are_said_to_be_known_to_the_base_spirit(root, offline, tmp_path, capfd):
    out = tmp_path / "out"
    run(out, 2, Share(base=0.0, ingredient=0.004), domain="groceries", root=root)
    said = " ".join(capfd.readouterr().err.split())
    assert "trained on cj_grocery, by its card: grocery is not a new domain" in said
    assert "grocery is not a new domain" in (out / "report.html").read_text()
    assert "movielens-1m" not in offline


def test_groceries_without_a_shipped_base_spirit_come_with_one_from_films(
    offline, tmp_path, monkeypatch
):
    monkeypatch.setitem(TARGETS, "groceries", replace(TARGETS["groceries"], min_count=5))
    monkeypatch.setattr(quickstart, "run_pipeline", lambda *a: [[d.name for d in a[0]], a[1].name])
    assert run(tmp_path / "out", 2, domain="groceries") == [["movielens-1m"], "grocery"]


def test_two_tables_of_ones_own_are_a_domain(root, tmp_path, capfd):
    folder = tmp_path / "my shop"
    interactions, _ = write_raw(folder, tastes=2, users=60)
    pl.read_parquet(interactions).write_csv(folder / "interactions.csv")
    interactions.unlink()
    out = tmp_path / "out"
    metrics = run(out, 2, Share(base=0.0, ingredient=0.004), domain=str(folder), root=root)
    assert models_of(metrics)[0] == "base_spirit"
    assert Domain.load(out / "data" / "my shop").name == "my shop"
    said = " ".join(capfd.readouterr().err.split())
    assert "an ingredient from my shop" in said and "downloads about 90 MB" in said

    shutil.copy(folder / "interactions.csv", folder / "interactions.tsv")
    with pytest.raises(DataError, match=r"one file interactions\.\* .* and holds 2") as error:
        run(out, 2, domain=str(folder), root=root)
    one_sentence(error.value)
    with pytest.raises(DataError, match="neither films nor groceries nor a folder") as error:
        run(out, 2, domain="flowers", root=root)
    one_sentence(error.value)


def test_a_prepared_folder_is_a_domain_too(root, tmp_path, monkeypatch):
    """What the usual settings leave nothing of is prepared with others first."""
    tables = tmp_path / "shop"
    write_raw(tables, tastes=1, users=3)
    with pytest.raises(DataError, match="reccocktail data prepare") as error:
        run(tmp_path / "out", 2, domain=str(tables), root=root)
    one_sentence(error.value)
    folder = tmp_path / "prepared"
    prepare(
        tables / "interactions.parquet",
        tables / "items.parquet",
        "shop",
        folder,
        min_count=1,
        negatives=3,
    )
    monkeypatch.setattr(quickstart, "run_pipeline", lambda *a: a[1].path)
    assert run(tmp_path / "out", 2, domain=str(folder), root=root) == folder
    assert f"prepared={folder}:" in page_command(tmp_path / "out", str(folder))


def test_how_long_it_takes_if_nothing_is_said(root, tmp_path, monkeypatch):
    plans = []
    monkeypatch.setattr(quickstart, "run_pipeline", lambda *a: plans.append(a[4]) or {})
    run(tmp_path / "with", root=root)
    run(tmp_path / "without")
    assert plans[0].base == {} and plans[0].ingredient == {"minutes": pytest.approx(0.35 * 12)}
    assert plans[1].base == plans[1].ingredient == {"minutes": pytest.approx(0.2 * 12)}


@pytest.mark.parametrize(
    ("pace", "times"), [(4000.0, 1.0), (1000.0, 1.0), (800.0, 1.25), (100.0, 1.75)]
)
def test_a_slow_machine_takes_longer_unless_it_is_told(root, tmp_path, monkeypatch, pace, times):
    plans = []
    monkeypatch.setattr(quickstart, "run_pipeline", lambda *a: plans.append(a[4]) or {})
    monkeypatch.setattr(quickstart, "tokens_per_second", lambda *_: pace)
    run(tmp_path / "out", root=root)
    run(tmp_path / "out", 12, root=root)
    assert plans[0].ingredient == {"minutes": pytest.approx(0.35 * 12 * times)}
    assert plans[1].ingredient == {"minutes": pytest.approx(0.35 * 12)}
    assert plans[1].evaluation.users <= plans[0].evaluation.users


@pytest.mark.parametrize("content", ["{}", "[]", '{"tokens_per_second": "many"}', "{"])
def test_a_damaged_pace_is_said(tmp_path, content):
    (tmp_path / quickstart.PACE).write_text(content)
    with pytest.raises(RunError, match=rf"{quickstart.PACE} .*; delete it, and") as error:
        quickstart._pace(tmp_path, None, None)
    one_sentence(error.value)


def test_the_pace_of_a_run_is_measured_once(root, tmp_path, monkeypatch):
    plans, paces = [], iter([800.0, 400.0])
    monkeypatch.setattr(quickstart, "run_pipeline", lambda *a: plans.append(a[4]) or {})
    monkeypatch.setattr(quickstart, "tokens_per_second", lambda *_: next(paces))
    for folder in ("out", "out", "other"):
        run(tmp_path / folder, root=root)
    assert plans[0] == plans[1] != plans[2]


def test_every_domain_has_a_folder_of_its_own(tmp_path):
    outs = [default_out(name).as_posix() for name in ("films", "groceries", str(tmp_path / "a b"))]
    assert outs == ["runs/quickstart", "runs/quickstart-groceries", "runs/quickstart-a b"]


def test_other_tables_in_a_folder_of_the_same_name_are_refused(root, tmp_path):
    out, share = tmp_path / "out", Share(base=0.0, ingredient=0.004)
    for shop, seed in (("one", 0), ("two", 1)):
        write_raw(tmp_path / shop / "data", tastes=2, users=60, seed=seed)
    run(out, 2, share, domain=str(tmp_path / "one" / "data"), root=root)
    with pytest.raises(RunError, match="holds a run on other tables") as error:
        run(out, 2, share, domain=str(tmp_path / "two" / "data"), root=root)
    one_sentence(error.value)


def test_the_command_of_the_page_can_be_pasted(tmp_path):
    words = shlex.split(page_command(tmp_path / "my runs", str(tmp_path / "my shop")))
    place = f"{tmp_path}/my runs/data/my shop:{tmp_path}/my runs/cocktail_warm"
    assert words[-1] == f"my-shop={place}"


@pytest.mark.parametrize(
    ("folder", "name"),
    [("日本", "domain"), ("_shop", "shop"), (".hidden", "hidden"), ("a" * 70, "a" * 64)],
)
def test_the_command_of_the_page_names_what_can_be_served(folder, name, tmp_path):
    words = shlex.split(page_command(tmp_path, str(tmp_path / folder)))
    served = words[-1].partition("=")[0]
    require_name(served)
    assert served == name
