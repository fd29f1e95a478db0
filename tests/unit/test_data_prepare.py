"""Whole preparations: promises checked from the raw rows, apart from the package's own code."""

import errno
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reccocktail.data.domain import Domain
from reccocktail.data.ingest import _first_rows
from reccocktail.data.overlap import overlap, overlapping_items
from reccocktail.data.prepare import prepare
from reccocktail.errors import DataError
from reccocktail.schema import EVALUATION_TABLES, ITEM, TITLE, validate
from reccocktail.storage import write_json
from tests.helpers import changed, one_sentence


def raw_tables(folder: Path, seed=0, users=60, items=40, mean=14, days=30, repeats=True):
    """A random domain: popularity by rank, tied times, repeated pairs, rows in no order."""
    rng = np.random.default_rng(seed)
    weight = 1 / (5 + np.arange(items))
    rows = []
    for user in range(users):
        many = min(items - 12, 4 + int(rng.poisson(mean - 4)))
        chosen = rng.choice(items, size=many, replace=False, p=weight / weight.sum())
        chosen = np.r_[chosen, chosen[:2]] if repeats else chosen
        rows += [(f"u{user}", f"i{item:02d}", int(rng.integers(days))) for item in chosen]
    rows = [rows[n] for n in rng.permutation(len(rows))]
    folder.mkdir(parents=True, exist_ok=True)
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    events.write_parquet(folder / "interactions.parquet")
    catalogue = pl.DataFrame(
        {
            "item_id": [f"i{n:02d}" for n in range(items)],
            "title": [f"Item &amp; {n // 2}" for n in range(items)],
        }
    )
    catalogue.write_parquet(folder / "items.parquet")
    return events


def run(folder: Path, out="out", **settings):
    settings = {"min_count": 3, "cold_fraction": 0.2, "negatives": 9} | settings
    return prepare(
        folder / "interactions.parquet", folder / "items.parquet", "toy", folder / out, **settings
    )


def test_a_user_who_touched_nearly_everything_is_left_out_and_the_others_stay(tmp_path, capsys):
    events = raw_tables(tmp_path)
    usual = run(tmp_path)
    bot = pl.DataFrame({"item_id": [f"i{n:02d}" for n in range(38)], "timestamp": range(38)})
    bot = bot.select(pl.lit("bot").alias("user_id"), "item_id", pl.col("timestamp").cast(pl.Int64))
    pl.concat([events, bot]).write_parquet(tmp_path / "interactions.parquet")
    domain = run(tmp_path, out="with-bot")
    skipped = domain.manifest["skipped"]
    assert skipped["test_warm: fewer than 9 items never touched"] == 1
    assert "1 of " in capsys.readouterr().err
    for table in EVALUATION_TABLES:
        rows = domain.rows(table)
        assert "bot" not in rows["user_id"] and rows["candidates"].list.len().unique().item() == 10
    assert "bot" in domain.train()["user_id"]
    assert not any("never touched" in reason for reason in usual.manifest["skipped"])
    check_promises(domain, pl.concat([events, bot]), 9)


def test_a_test_item_that_only_a_heavy_users_validation_knew_is_left_out(tmp_path):
    """Z's last item is known by a validation row alone, of a user who touched nearly everything."""
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{i:02d}", t) for u in range(20) for t, i in enumerate(rng.permutation(9))]
    heavy = [*range(9, 36), 39, 38]
    rows += [("heavy", f"i{item:02d}", time) for time, item in enumerate(heavy)]
    rows += [("z", f"i{item:02d}", time) for time, item in enumerate((0, 1, 2, 39))]
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    events.write_parquet(tmp_path / "interactions.parquet")
    items = [f"i{n:02d}" for n in range(40)]
    titles = pl.DataFrame({"item_id": items, "title": [f"Thing {item}" for item in items]})
    titles.write_parquet(tmp_path / "items.parquet")
    domain = run(tmp_path, min_count=1, cold_fraction=0.0, negatives=15)
    assert "heavy" not in domain.rows("valid_warm")["user_id"]
    known = set(domain.train()["history"].explode()) | set(domain.rows("valid_warm")["target"])
    known |= set(domain.rows("valid_warm")["history"].explode())
    assert set(domain.rows("test_warm")["target"]) <= known
    assert "z" not in domain.rows("test_warm")["user_id"]
    reason = "test_warm: target in no training or validation row"
    assert domain.manifest["skipped"][reason] >= 1


def check_promises(domain: Domain, events: pl.DataFrame, negatives: int):
    touched = {u: set(i) for u, i in events.group_by("user_id").agg("item_id").iter_rows()}
    moment = {}
    for place, (user, item, time) in enumerate(events.iter_rows()):
        moment[user, item] = min(moment.get((user, item), (10**9, 0)), (time, place))
    kind = dict(domain.items.select("item_id", "split").iter_rows())
    tables = {name: domain.rows(name) for name in EVALUATION_TABLES}
    train_items = {i for h in domain.train()["history"] for i in h}
    valid_items = set()
    for name in ("valid_warm", "valid_cold"):
        valid_items |= {i for h in tables[name]["history"] for i in h} | set(tables[name]["target"])
    for name, table in tables.items():
        validate(table, "evaluation", name)
        for user, history, target, candidates in table.iter_rows():
            assert len(candidates) == negatives + 1
            assert not (set(candidates) - {target}) & touched[user]
            assert set(candidates) <= set(kind)
            steps = [moment[user, i] for i in [*history, target]]
            assert steps == sorted(steps)
            assert all(kind[i] == "warm" for i in history)
            assert kind[target] == ("warm" if name.endswith("warm") else name)
            if name.startswith("valid"):
                assert "test_cold" not in {kind[i] for i in candidates}
    assert all(kind[i] == "warm" for i in train_items)
    assert set(tables["test_warm"]["target"]) <= train_items | valid_items
    assert not set(tables["test_cold"]["target"]) & (train_items | valid_items)
    assert not set(tables["valid_cold"]["target"]) & train_items
    test_target = dict(tables["test_warm"].select("user_id", "target").iter_rows())
    for name in ("valid_warm", "valid_cold"):
        for user, history, target, _ in tables[name].iter_rows():
            assert test_target.get(user) not in {*history, target}
    return tables


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.1, 0.3]), st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_leave_one_out_keeps_every_promise(tmp_path_factory, seed, cold, least):
    folder = tmp_path_factory.mktemp("domain")
    events = raw_tables(folder, seed)
    domain = run(folder, min_count=least, cold_fraction=cold, seed=seed)
    tables = check_promises(domain, events, 9)
    assert tables["test_warm"].height > 30
    assert (tables["test_cold"].height > 0) is (cold > 0)
    kept = {i for i in domain.item_ids}
    counts = domain.manifest["counts"]
    assert counts[0] == {
        "step": "raw",
        "users": 60,
        "items": events["item_id"].n_unique(),
        "interactions": events.height,
    }
    assert [c["step"] for c in counts][1:4] == [
        "items with a row",
        "items with a title",
        "first of repeated (user, item)",
    ]
    assert counts[3]["interactions"] == events.unique(["user_id", "item_id"]).height
    assert counts[-1]["items"] == len(kept)
    # The k-core holds: every kept item has enough distinct users among the kept users' pairs.
    per_item = (
        events.filter(pl.col("item_id").is_in(list(kept)))
        .unique(["user_id", "item_id"])
        .group_by("item_id")
        .len()
    )
    assert per_item["len"].min() >= least


@given(st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_global_time_keeps_every_promise(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("domain")
    events = raw_tables(folder, seed, days=400, mean=12)
    domain = run(folder, split="global-time", seed=seed, negatives=5)
    tables = check_promises(domain, events, 5)
    assert tables["test_warm"].height > 5
    times = {(u, i): t for u, i, t in events.sort("timestamp", descending=True).iter_rows()}
    latest_train = max(times[u, i] for u, h in domain.train().iter_rows() for i in h)
    valid = [
        times[u, t]
        for name in ("valid_warm", "valid_cold")
        for u, t in tables[name].select("user_id", "target").iter_rows()
    ]
    test = [
        times[u, t]
        for name in ("test_warm", "test_cold")
        for u, t in tables[name].select("user_id", "target").iter_rows()
    ]
    assert latest_train < min(valid)
    assert max(valid) < min(test)


def test_same_call_same_bytes_other_seed_other_bytes(tmp_path):
    raw_tables(tmp_path)
    one, two, other = run(tmp_path, "one"), run(tmp_path, "two"), run(tmp_path, "other", seed=1)
    names = sorted(path.name for path in one.path.iterdir())
    assert names == sorted(
        [
            "manifest.json",
            "items.parquet",
            "train.parquet",
            *(f"{t}.parquet" for t in EVALUATION_TABLES),
        ]
    )
    for name in names:
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes(), name
    assert one.sha256 == two.sha256 != other.sha256
    assert str(tmp_path) not in (one.path / "manifest.json").read_text()
    # Fewer negatives change the candidates and nothing else.
    fewer = run(tmp_path, "fewer", negatives=4)
    for table in EVALUATION_TABLES:
        assert fewer.rows(table).drop("candidates").equals(one.rows(table).drop("candidates"))


def test_the_seed_draws_cold_items_and_candidates(tmp_path):
    raw_tables(tmp_path)
    one, other = (run(tmp_path, f"cold{seed}", seed=seed) for seed in (0, 1))
    assert one.items["item_id"].equals(other.items["item_id"])
    assert not one.items["split"].equals(other.items["split"])
    one, other = (run(tmp_path, f"warm{seed}", seed=seed, cold_fraction=0.0) for seed in (0, 1))
    for table in ("valid_warm", "test_warm"):
        rows, others = one.rows(table), other.rows(table)
        assert rows.drop("candidates").equals(others.drop("candidates"))
        assert not rows["candidates"].list.sort().equals(others["candidates"].list.sort())


def test_no_time_column_means_file_order(tmp_path, capsys):
    events = raw_tables(tmp_path, repeats=False)
    events.drop("timestamp").write_parquet(tmp_path / "interactions.parquet")
    domain = run(tmp_path)
    ordered = {
        u: i for u, i in events.group_by("user_id", maintain_order=True).agg("item_id").iter_rows()
    }
    for user, history, target, _ in domain.rows("test_warm").iter_rows():
        places = [ordered[user].index(i) for i in [*history, target]]
        assert places == sorted(places)
    assert "no time column" in (said := " ".join(capsys.readouterr().err.split()))
    assert "columns: user_id, item_id" in said and "name it with --time-column" in said
    with pytest.raises(DataError, match="needs timestamps"):
        run(tmp_path, split="global-time")


def test_settings_that_a_split_does_not_read_are_named(tmp_path, capsys):
    raw_tables(tmp_path)
    run(tmp_path, "one", valid_from=0.5)
    assert "--valid-from means nothing for the leave-one-out split" in capsys.readouterr().err
    run(tmp_path, "two", split="global-time", cold_fraction=0.2)
    assert "--cold-fraction means nothing for the global-time split" in capsys.readouterr().err
    run(tmp_path, "three", split="global-time", valid_from=0.7, cold_fraction=0.1)
    assert "means nothing" not in capsys.readouterr().err


@pytest.mark.parametrize("start", [0, 1])
def test_positions_within_users_are_no_times(tmp_path, start):
    events = raw_tables(tmp_path, repeats=False)
    place = pl.int_range(pl.len()).over("user_id") + start
    events.with_columns(timestamp=place).write_parquet(tmp_path / "interactions.parquet")
    with pytest.raises(DataError, match="positions within each user"):
        run(tmp_path, split="global-time")
    run(tmp_path)
    one = events.with_columns(timestamp=pl.lit(7))
    one.write_parquet(tmp_path / "interactions.parquet")
    with pytest.raises(DataError, match="do not cut time") as error:
        run(tmp_path, split="global-time")
    assert one_sentence(error.value).endswith("; use --split leave-one-out.")
    # The same numbers with gaps are times: days since the first one, say.
    events.with_columns(timestamp=place * 3).write_parquet(tmp_path / "interactions.parquet")
    run(tmp_path, split="global-time", negatives=5)
    # So are they if a few users' are: positions have none.
    few = pl.when(pl.col("user_id").is_in(["u0", "u1"])).then(place * 3).otherwise(place)
    events.with_columns(timestamp=few).write_parquet(tmp_path / "interactions.parquet")
    run(tmp_path, split="global-time", negatives=5)


def test_duplicate_titles_stay_items_of_their_own_and_are_counted(tmp_path):
    raw_tables(tmp_path)
    domain = run(tmp_path, min_count=1)
    assert len(domain.item_ids) > len(set(domain.titles))
    assert domain.manifest["titles"]["duplicate titles kept"] == len(domain.item_ids) - len(
        set(domain.titles)
    )
    assert domain.manifest["titles"]["changed by cleaning"] == 40
    assert domain.titles[0] == "Item & 0"


def test_items_without_a_title_are_dropped_or_shown_by_id(tmp_path):
    events = raw_tables(tmp_path)
    items = pl.read_parquet(tmp_path / "items.parquet").with_columns(
        title=pl.when(pl.col("item_id") == "i00").then(None).otherwise("title")
    )
    items = items.with_columns(
        title=pl.when(pl.col("item_id") == "i01").then(pl.lit(" <br> ")).otherwise("title")
    )
    items.write_parquet(tmp_path / "items.parquet")
    dropped = run(tmp_path, min_count=1)
    assert not {"i00", "i01"} & set(dropped.item_ids)
    assert dropped.manifest["titles"]["missing"] == 2
    lost = events.filter(pl.col("item_id").is_in(["i00", "i01"])).height
    counts = {c["step"]: c["interactions"] for c in dropped.manifest["counts"]}
    assert counts["items with a row"] - counts["items with a title"] == lost
    kept = run(tmp_path, "kept", min_count=1, missing_titles="id")
    assert kept.titles[kept.index["i00"]] == "i00"


def test_low_ratings_are_no_positives_but_still_touched(tmp_path):
    events = raw_tables(tmp_path, repeats=False)
    rated = events.with_columns(
        rating=pl.Series(np.random.default_rng(1).integers(1, 6, events.height))
    )
    rated.write_parquet(tmp_path / "interactions.parquet")
    domain = run(tmp_path, min_rating=3, negatives=5)
    liked = set(rated.filter(pl.col("rating") >= 3).select("user_id", "item_id").iter_rows())
    check_promises(domain, events, 5)
    for user, history in domain.train().iter_rows():
        assert all((user, item) in liked for item in history)
    counts = {c["step"]: c["interactions"] for c in domain.manifest["counts"]}
    assert counts["rating at least 3"] == len(liked)
    with_commas = rated.with_columns(rating=pl.format("{},5", "rating"))
    with_commas.write_parquet(tmp_path / "interactions.parquet")
    run(tmp_path)  # nobody asks for ratings
    with pytest.raises(DataError, match=r"no numbers \(rows 1, 2, .*, such as '[1-5],5'\)"):
        run(tmp_path, min_rating=3)
    events.write_parquet(tmp_path / "interactions.parquet")
    with pytest.raises(DataError, match=r"no rating column.*--rating-column"):
        run(tmp_path, min_rating=3)


def test_interactions_of_unknown_items_are_dropped_unless_they_are_most(tmp_path, capsys):
    events = raw_tables(tmp_path)
    items = pl.read_parquet(tmp_path / "items.parquet")
    items.filter(pl.col("item_id") != "i03").write_parquet(tmp_path / "items.parquet")
    domain = run(tmp_path)
    counts = [c["interactions"] for c in domain.manifest["counts"]]
    left_out = events.filter(pl.col("item_id") == "i03").height
    assert counts[0] - counts[1] == left_out > 1
    said = one_sentence(" ".join(capsys.readouterr().err.split()))
    assert said == (
        f"{left_out} of {events.height} interactions are with items that the table of items lacks "
        "(such as 'i03'), and are left out."
    )
    one = events.head(1).with_columns(item_id=pl.lit("i99"))
    pl.concat([events, one]).write_parquet(tmp_path / "interactions.parquet")
    items.write_parquet(tmp_path / "items.parquet")
    run(tmp_path)
    said = one_sentence(" ".join(capsys.readouterr().err.split()))
    assert said.startswith(f"1 of {events.height + 1} interactions is with an item that")
    events.write_parquet(tmp_path / "interactions.parquet")
    run(tmp_path)
    assert not capsys.readouterr().err
    items.with_columns(item_id="x" + pl.col("item_id")).write_parquet(tmp_path / "items.parquet")
    with pytest.raises(DataError, match=r"items that the table of items does not have.*same ids"):
        run(tmp_path)


def test_repeated_rows_in_the_table_of_items_keep_the_first(tmp_path):
    raw_tables(tmp_path)
    items = pl.read_parquet(tmp_path / "items.parquet")
    pl.concat([items, items.with_columns(title=pl.lit("later"))]).write_parquet(
        tmp_path / "items.parquet"
    )
    domain = run(tmp_path)
    assert "later" not in domain.titles
    assert domain.manifest["titles"]["rows with a repeated item id left out"] == 40


def test_a_repeated_item_has_its_first_title_that_is_not_blank(tmp_path):
    raw_tables(tmp_path)
    items = pl.read_parquet(tmp_path / "items.parquet")
    blank = items.with_columns(title=pl.Series([None, " "] * 20))
    other = items.with_columns(title=pl.lit("Another"))
    pl.concat([blank, items, other]).write_parquet(tmp_path / "items.parquet")
    domain = run(tmp_path)
    titles = dict(items.iter_rows())
    kept = dict(zip(domain.item_ids, domain.titles, strict=True))
    assert kept and all(title == titles[item].replace("&amp;", "&") for item, title in kept.items())


@pytest.mark.parametrize("table", ["interactions", "items"])
def test_ids_may_have_an_uncommon_name_in_one_table(tmp_path, table):
    raw_tables(tmp_path)
    wanted = run(tmp_path).manifest["outputs"]
    file = tmp_path / f"{table}.parquet"
    pl.read_parquet(file).rename({"item_id": "code"}).write_parquet(file)
    with pytest.raises(DataError, match="--item-column"):
        run(tmp_path, "none")
    assert run(tmp_path, "named", item_column="code").manifest["outputs"] == wanted
    with pytest.raises(DataError, match="no column 'wrong'"):
        run(tmp_path, "none", item_column="wrong")


def test_without_any_title_titles_are_asked_for(tmp_path):
    raw_tables(tmp_path)
    items = pl.read_parquet(tmp_path / "items.parquet")
    items.with_columns(title=pl.lit("  ")).write_parquet(tmp_path / "items.parquet")
    with pytest.raises(DataError, match="--missing-titles id") as error:
        run(tmp_path)
    one_sentence(error.value)
    assert run(tmp_path, missing_titles="id").titles


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_count": 0}, "Min-count is 0 and must be at least 1"),
        ({"min_count": 50}, "No user and item with 50 interactions.*lower --min-count"),
        ({"cold_fraction": 0.7}, "between 0 and 0.5"),
        ({"cold_fraction": -0.1}, "between 0 and 0.5"),
        ({"cold_fraction": 0.01}, "raise --cold-fraction"),
        ({"negatives": 0}, "Negatives is 0"),
        ({"negatives": 39}, "use --negatives [0-9]+ or fewer"),
        ({"seed": -1}, "Seed is -1"),
        ({"split": "random"}, "leave-one-out or global-time"),
        ({"missing_titles": "guess"}, "drop or id"),
        (
            {"split": "global-time", "valid_from": 0.9, "test_from": 0.8},
            "0 < valid-from < test-from < 1",
        ),
        (
            {"user_column": "nobody"},
            "no column 'nobody' \\(columns found: user_id, item_id, timestamp\\)",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(tmp_path, settings, message):
    raw_tables(tmp_path)
    with pytest.raises(DataError, match=message) as error:
        run(tmp_path, **settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_users_too_short_to_split_are_refused(tmp_path):
    pl.DataFrame({"user": ["a", "b"], "item": ["x", "y"]}).write_csv(tmp_path / "interactions.csv")
    pl.DataFrame({"item": ["x", "y"], "title": ["X", "Y"]}).write_csv(tmp_path / "items.csv")
    with pytest.raises(DataError, match="No user has two items to train on"):
        prepare(
            tmp_path / "interactions.csv",
            tmp_path / "items.csv",
            "t",
            tmp_path / "out",
            min_count=1,
            cold_fraction=0,
        )


def test_name_and_out_cannot_do_harm(tmp_path):
    raw_tables(tmp_path)
    files = (tmp_path / "interactions.parquet", tmp_path / "items.parquet")
    with pytest.raises(DataError, match="without slashes"):
        prepare(*files, "a/b", tmp_path / "out")
    with pytest.raises(DataError, match="holds the input files"):
        prepare(*files, "toy", tmp_path)
    assert files[0].is_file()
    first = run(tmp_path)
    assert run(tmp_path, seed=5).sha256 != first.sha256  # a prepared folder is replaced as a whole


@pytest.mark.parametrize(
    ("manifest", "files"),
    [
        ({"name": "my web app"}, []),
        ({"format": 1, "settings": {}, "files": {}}, ["part-00000.parquet"]),  # a batch's
        (None, ["thesis.docx"]),
        ("ours", ["thesis.docx"]),
        ("ours", ["src/a.py"]),
    ],
)
def test_a_folder_with_other_files_is_never_replaced(tmp_path, manifest, files):
    raw_tables(tmp_path)
    out = tmp_path / "out"
    if manifest == "ours":
        run(tmp_path)
    elif manifest:
        write_json(out / "manifest.json", manifest)
    for file in files:
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        (out / file).write_text("precious")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(DataError, match="other files than a prepared folder's") as error:
        run(tmp_path)
    one_sentence(error.value)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize("file", ["manifest.json", "train.parquet"])
def test_files_that_may_not_be_read_are_named(tmp_path, monkeypatch, file):
    raw_tables(tmp_path)
    made = run(tmp_path)
    plain = Path.open

    def refused(self, *args, **options):
        if self.name == file:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return plain(self, *args, **options)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(DataError, match=f"{file} cannot be read; check who may") as error:
        Domain.load(made.path)
    one_sentence(error.value)


def test_load_gives_back_what_was_prepared_and_names_damage(tmp_path):
    raw_tables(tmp_path)
    made = run(tmp_path)
    domain = Domain.load(made.path)
    assert domain.name == "toy"
    assert [domain.index[i] for i in domain.item_ids] == list(range(domain.items.height))
    counts = dict.fromkeys(domain.item_ids, 0)
    for history in domain.train()["history"]:
        for item in history:
            counts[item] += 1
    assert domain.train_counts().tolist() == list(counts.values())
    assert domain.train_counts().dtype == np.int64
    assert domain.train_counts().sum() == domain.manifest["train_interactions"]
    cold = domain.items["split"].to_numpy() != "warm"
    assert cold.any()
    assert not domain.train_counts()[cold].any()
    with pytest.raises(DataError, match="no table 'train'"):
        domain.rows("train")
    with pytest.raises(DataError, match="does not exist"):
        Domain.load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not a prepared folder"):
        Domain.load(tmp_path)
    manifest = made.path / "manifest.json"
    text = manifest.read_text()
    for content, message in (
        (text[:50], "damaged"),
        ("[]", "damaged"),
        (json.dumps(json.loads(text) | {"name": 5}), "damaged"),
        (json.dumps(json.loads(text) | {"format": 99}), "format 99"),
    ):
        manifest.write_text(content)
        with pytest.raises(DataError, match=message):
            Domain.load(made.path)
    manifest.write_text(text)
    domain.train().head(3).write_parquet(made.path / "train.parquet")
    with pytest.raises(DataError, match="not the file that its manifest describes"):
        Domain.load(made.path)
    (made.path / "train.parquet").unlink()
    with pytest.raises(DataError, match=r"lacks train.parquet"):
        Domain.load(made.path)


def test_tables_that_break_a_promise_are_named(tmp_path):
    raw_tables(tmp_path)
    made = run(tmp_path)
    first = pl.int_range(pl.len()) == 0
    no_history = pl.when(first).then(pl.lit([], dtype=pl.List(pl.String))).otherwise("history")
    elsewhere = pl.when(first).then(pl.lit("elsewhere")).otherwise("target")
    broken = changed(
        made,
        tmp_path / "broken",
        train=lambda rows: rows.with_columns(history=no_history),
        test_warm=lambda rows: rows.with_columns(target=elsewhere),
    )
    with pytest.raises(DataError, match=r"train\.parquet: 'history' is empty in 1 row \(row 1\)"):
        broken.train()
    with pytest.raises(DataError, match=r"test_warm\.parquet: 'target' is not among 'candidates'"):
        broken.rows("test_warm")
    assert broken.rows("test_cold").equals(made.rows("test_cold"))


def test_overlap_counts_and_names_items_with_the_same_title(tmp_path):
    raw_tables(tmp_path / "a")
    raw_tables(tmp_path / "b", seed=1)
    items = pl.read_parquet(tmp_path / "b" / "items.parquet")
    numbers = items["title"].str.extract(r"(\d+)$").cast(pl.Int64)
    # Titles 0 to 4 (two items each) are the same but for their spelling, the others are not.
    items = items.with_columns(
        pl.Series("title", [f"ITEM - {n}!" if n < 5 else f"Thing {n}" for n in numbers]),
        item_id="b" + pl.col("item_id"),
    )
    items.write_parquet(tmp_path / "b" / "items.parquet")
    events = pl.read_parquet(tmp_path / "b" / "interactions.parquet")
    events.with_columns(item_id="b" + pl.col("item_id")).write_parquet(
        tmp_path / "b" / "interactions.parquet"
    )
    one, two = run(tmp_path / "a", min_count=1), run(tmp_path / "b", min_count=1)
    assert one.items.height == two.items.height == 40
    row = overlap([one, two]).row(0, named=True)
    assert row == {
        "first": "toy",
        "second": "toy",
        "first_items": 10,
        "second_items": 10,
        "first_share": 0.25,
        "second_share": 0.25,
        "shared_titles": 5,
    }
    assert overlapping_items(two, [one]) == [f"bi{n:02d}" for n in range(10)]
    assert overlapping_items(one, []) == []
    assert overlap([one]).height == 0


def test_the_first_title_that_can_be_read_is_an_items_title():
    """A tag or a word for nothing is no title, though it is not blank."""
    items = pl.DataFrame(
        {ITEM: ["a", "a", "b", "b", "c"], TITLE: ["<br>", "Real", " null ", "B", "C"]}
    )
    assert _first_rows(items).rows() == [("a", "Real"), ("b", "B"), ("c", "C")]
