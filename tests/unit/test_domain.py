"""What a prepared domain says of its users: their histories, and all that they chose."""

import shutil

import numpy as np
import polars as pl
import pytest

from reccocktail.data.domain import Domain
from reccocktail.data.prepare import prepare
from reccocktail.errors import DataError
from reccocktail.schema import EVALUATION_TABLES
from tests.domains import taste_domain


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return taste_domain(tmp_path_factory.mktemp("d"), users=90)


@pytest.fixture(scope="module")
def by_time(tmp_path_factory):
    """Split at two moments: some users have validation rows alone."""
    folder = tmp_path_factory.mktemp("t")
    rng = np.random.default_rng(0)
    rows = [
        {"user_id": f"u{user}", "item_id": f"i{item}", "timestamp": 1_500_000_000 + 1000 * moment}
        for user in range(120)
        for moment, item in zip(
            25 * user + np.sort(rng.choice(300, 8, replace=False)),
            rng.choice(90, 8, replace=False),
            strict=True,
        )
    ]
    pl.DataFrame(rows).write_parquet(folder / "interactions.parquet")
    items = [{"item_id": f"i{item}", "title": f"Thing number {item}"} for item in range(90)]
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    prepare(folder / "interactions.parquet", folder / "items.parquet", "things", folder / "out",
            split="global-time")  # fmt: skip
    return Domain.load(folder / "out")


def every(domain):
    return {name: domain.rows(name).rows(named=True) for name in EVALUATION_TABLES}


@pytest.mark.parametrize("which", ["domain", "by_time"])
def test_a_users_history_is_all_that_comes_before_a_test_item(which, request):
    domain = request.getfixturevalue(which)
    tables = every(domain)
    found = dict(domain.histories().rows())
    assert len(found) == domain.histories().height
    for user, history in found.items():
        held = [
            r for name in ("test_warm", "test_cold") for r in tables[name] if r["user_id"] == user
        ]
        if held:
            assert history == held[0]["history"]
            assert not {row["target"] for row in held} & set(history)
            continue
        known = [r["history"] for r in domain.train().rows(named=True) if r["user_id"] == user]
        for name in ("valid_warm", "valid_cold"):
            known += [[*r["history"], r["target"]] for r in tables[name] if r["user_id"] == user]
        assert history in known and len(history) == max(map(len, known))
    test = {row["user_id"] for name in ("test_warm", "test_cold") for row in tables[name]}
    train = set(domain.train()["user_id"])
    valid = {row["user_id"] for name in ("valid_warm", "valid_cold") for row in tables[name]}
    assert found.keys() == test | valid | train
    if which == "by_time":
        assert valid - test - train, "nobody has validation rows alone"


@pytest.mark.parametrize("which", ["domain", "by_time"])
def test_latest_histories_are_all_choices_in_their_order(which, request):
    """Against the interactions that the domain was prepared from."""
    domain = request.getfixturevalue(which)
    log = pl.read_parquet(next(domain.path.parent.rglob("interactions.parquet")))
    log = log.with_columns(pl.col("user_id", "item_id").cast(pl.String))
    if "timestamp" in log.columns:
        log = log.sort("timestamp", maintain_order=True)
    known = log.join(domain.touched, on=["user_id", "item_id"], how="semi", maintain_order="left")
    wanted = dict(known.group_by("user_id").agg("item_id").rows())
    found = domain.latest_histories()
    early, late = (set(domain.rows(f"{part}_cold")["target"]) for part in ("valid", "test"))

    def told_apart(history):
        """Items with the warm ones before them: of cold ones no more is known, and less of those
        of validation, whose rows hide the last warm item."""
        before = np.cumsum([item not in early | late for item in history]).tolist()
        return sorted(
            (min(n, before[-1] - 1) if item in early else n, item in early | late, item)
            for n, item in zip(before, history, strict=True)
        )

    assert found.height == len(wanted)
    for user, history in found.rows():
        assert told_apart(history) == told_apart(wanted[user])
    if which == "domain":
        assert any(history[-1] not in late and set(history) & late for history in wanted.values())


def test_touched_are_all_items_of_all_tables(domain):
    expected = {
        (row["user_id"], item)
        for rows in (domain.train().rows(named=True), *every(domain).values())
        for row in rows
        for item in (*row["history"], *([row["target"]] if "target" in row else []))
    }
    assert set(domain.touched.rows()) == expected and domain.touched.height == len(expected)


def test_counts_are_read_once_and_cannot_be_changed(domain):
    counts = domain.train_counts()
    assert counts is domain.train_counts()
    with pytest.raises(ValueError, match="read-only"):
        counts[0] = 1


def test_tables_of_a_folder_that_was_prepared_again_are_refused(tmp_path):
    """Its catalogue is in memory: rows of another one would name items that it does not have."""
    opened = taste_domain(tmp_path, users=60)
    train = opened.train()
    same = taste_domain(tmp_path, users=60)
    assert opened.train().equals(train)
    assert opened.rows("test_warm").equals(same.rows("test_warm"))
    other = taste_domain(tmp_path, users=60, tastes=5)
    for read in (opened.train, lambda: opened.rows("test_warm"), opened.latest_histories):
        with pytest.raises(DataError, match="not the folder that was opened any more; open it"):
            read()
    assert set(other.train()["user_id"]) == {f"u{user}" for user in range(60)}
    shutil.rmtree(other.path)
    with pytest.raises(DataError, match="not the folder that was opened"):
        other.train()
