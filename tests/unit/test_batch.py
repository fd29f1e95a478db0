"""Every user of a table gets the service's ranking, once, whatever stops the run."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from reccocktail.backbone import load_backbone
from reccocktail.errors import AdapterError, DataError, RecipeError, RunError
from reccocktail.schema import EVALUATION_TABLES
from reccocktail.serving import batch as module
from reccocktail.serving.batch import Job, batch
from reccocktail.serving.recommend import Recommender
from reccocktail.serving.users import UserTable
from reccocktail.storage import sha256_file, write_json
from reccocktail.training.adapter import Adapter
from tests.adapters import random_adapter, save
from tests.domains import taste_domain
from tests.helpers import changed, one_sentence
from tests.pico import pico_model, pico_tokenizer


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a domain, a backbone, an adapter on it, and a table of the domain's users."""
    folder = tmp_path_factory.mktemp("batch")
    domain = taste_domain(folder, users=60)
    pico_model().save_pretrained(folder / "backbone")
    pico_tokenizer().save_pretrained(folder / "backbone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECCOCKTAIL_CACHE", str(folder / "cache"))
        backbone = load_backbone(str(folder / "backbone"), device="cpu", dtype="float32")
    save(random_adapter(backbone, domain, "adapter"), folder)
    domain.rows("test_warm").select("user_id").write_parquet(folder / "users.parquet")
    return folder


@pytest.fixture
def job(place, tmp_path):
    return Job(
        data=place / "tastes",
        adapter=place / "adapter",
        users=place / "users.parquet",
        out=tmp_path / "out",
        k=5,
        chunk=7,
        device="cpu",
        dtype="float32",
    )


def table(out):
    return pl.concat([pl.read_parquet(file) for file in sorted(out.glob("part-*.parquet"))])


def contents(out):
    return {file.name: sha256_file(file) for file in out.iterdir()}


def command(job, *more):
    flags = {"data": job.data, "adapter": job.adapter, "users": job.users, "out": job.out}
    flags |= {"k": job.k, "chunk": job.chunk, "device": job.device, "dtype": job.dtype}
    parts = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    return [sys.executable, "-m", "reccocktail.cli", "batch", *parts, *more]


# -- what is written --------------------------------------------------------------------------


def test_every_user_gets_the_recommenders_ranking(job):
    manifest = batch(job)
    found, users = table(job.out), pl.read_parquet(job.users)
    assert found["user_id"].to_list() == users["user_id"].to_list()
    assert found.schema == {
        "user_id": pl.String, "items": pl.List(pl.String), "scores": pl.List(pl.Float32)
    }  # fmt: skip
    assert manifest["users"] == users.height and manifest["chunks"] == -(-users.height // 7)
    table_of = UserTable(job.users, module.Domain.load(job.data))
    domain, adapter = module.Domain.load(job.data), Adapter.load(job.adapter)
    backbone = load_backbone(adapter.card.recipe.backbone, device="cpu", dtype="float32")
    recommender = Recommender(domain, adapter, backbone)
    rows = table_of.rows(0, 100)
    for row, history in list(zip(found.iter_rows(named=True), rows["history"], strict=True))[::9]:
        places = recommender.recommend(history.to_list(), 5)
        assert row["items"] == [place.item_id for place in places]
        np.testing.assert_allclose(row["scores"], [place.score for place in places], atol=1e-3)
        assert not set(row["items"]) & set(history)


def test_the_manifest_names_every_file(job):
    manifest = batch(job)
    assert manifest == json.loads((job.out / "manifest.json").read_text())
    names = {file.name for file in job.out.iterdir()}
    assert names == {*manifest["outputs"], "manifest.json"}
    for name, sha256 in manifest["outputs"].items():
        assert sha256_file(job.out / name) == sha256


def test_histories_of_the_table_win(job, tmp_path):
    domain = module.Domain.load(job.data)
    users = pl.DataFrame(
        {
            "user_id": ["a", "u0", "b"],
            "history": [domain.item_ids[:2], domain.item_ids[5:6], domain.item_ids[9:12]],
        }
    )
    users.write_parquet(tmp_path / "own.parquet")
    users.write_ndjson(tmp_path / "own.jsonl")
    lists = users["history"].to_list()
    for name, texts, separator in (
        ("own.csv", [json.dumps(items) for items in lists], ","),
        ("own.tsv", ["; ".join(items) for items in lists], "\t"),
    ):
        text = users.with_columns(pl.Series("history", texts))
        text.write_csv(tmp_path / name, separator=separator)
    users.rename({"history": "History"}).write_parquet(tmp_path / "large.parquet")
    found = []
    for name in ("own.parquet", "own.jsonl", "own.csv", "own.tsv", "large.parquet"):
        out = tmp_path / f"out-{name}"
        batch(replace(job, users=tmp_path / name, out=out))
        found.append(table(out))
    assert found[0]["user_id"].to_list() == ["a", "u0", "b"]
    for other in found[1:]:
        assert other.equals(found[0])
    for items, history in zip(found[0]["items"], lists, strict=True):
        assert len(items) == 5 and not set(items) & set(history)


def test_users_of_training_alone_have_a_history_too(job, tmp_path):
    domain = module.Domain.load(job.data)
    only = set(domain.train()["user_id"]) - set(domain.rows("test_warm")["user_id"])
    ids = [*sorted(only)[:2], domain.train()["user_id"][0]]
    pl.DataFrame({"user_id": ids}).write_csv(tmp_path / "some.csv")
    rows = UserTable(tmp_path / "some.csv", domain).rows(0, 10)
    assert rows["user_id"].to_list() == ids and rows["history"].list.len().min() >= 1


def test_the_latest_choices_are_read_where_a_shop_asks_for_them(job, tmp_path):
    domain = module.Domain.load(job.data)
    batch(replace(job, latest=True))
    tests = domain.rows("test_warm")
    bought = dict(zip(tests["user_id"], tests["target"], strict=True))
    pairs = table(job.out).select("user_id", "items").rows()
    assert not any(bought[user] in items for user, items in pairs)
    batch(replace(job, out=tmp_path / "without"))
    assert any(
        bought[user] in items for user, items in table(tmp_path / "without")[:, :2].iter_rows()
    )
    with pytest.raises(RunError, match="latest"):
        batch(job)
    own = pl.DataFrame({"user_id": ["a"], "history": [domain.item_ids[:2]]})
    own.write_parquet(tmp_path / "own.parquet")
    with pytest.raises(DataError, match="--latest"):
        batch(replace(job, users=tmp_path / "own.parquet", out=tmp_path / "own", latest=True))


def test_more_than_there_are_is_all_there_are(job):
    batch(replace(job, k=10**12))
    domain = module.Domain.load(job.data)
    known = dict(domain.histories().rows())
    for user, items in table(job.out).select("user_id", "items").rows():
        assert set(items) == set(domain.item_ids) - set(known[user])


def test_a_prepared_folder_is_no_former_batch(job):
    with pytest.raises(RunError, match="other files than a batch's"):
        batch(replace(job, out=job.data))


@pytest.mark.parametrize(
    "columns",
    [
        {"user_id": [["u1"]]},
        {"user_id": [b"\xff\xfe"]},
        {"user_id": ["u1"], "history": [[["i1"]]]},
        {"user_id": ["u1"], "history": [[b"\xff"]]},
    ],
)
def test_ids_that_are_none_are_one_sentence(job, tmp_path, columns):
    pl.DataFrame(columns).write_parquet(tmp_path / "odd.parquet")
    with pytest.raises(DataError) as error:
        batch(replace(job, users=tmp_path / "odd.parquet"))
    one_sentence(error.value)


def test_float_ids_are_those_that_prepare_wrote(job, tmp_path):
    """A column of whole numbers with gaps reaches Parquet as floats."""
    domain = module.Domain.load(job.data)
    lists = [[1.0, 2.0], [float("nan")], [3.0]]
    frame = pl.DataFrame({"user_id": [7.0, None, float("nan")], "history": lists})
    frame.write_parquet(tmp_path / "floats.parquet")
    rows = UserTable(tmp_path / "floats.parquet", domain).rows(0, 3)
    assert rows["user_id"].to_list() == ["7", None, None]
    assert rows["history"].to_list() == [["1", "2"], [None], ["3"]]
    first = domain.item_ids[0]
    named = frame.with_columns(history=pl.Series([[first], [first], [first]]))
    named.write_parquet(tmp_path / "named.parquet")
    with pytest.raises(DataError, match=r"Row 2 of .* has no user id"):
        UserTable(tmp_path / "named.parquet", domain).check()


def test_float_ids_are_spelled_as_the_domain_spells_them(job, tmp_path):
    """Beside an id 3.5 whole ones were floats to `prepare`; a table without it means the same."""
    spelled = {
        table: lambda rows: rows.with_columns(pl.col("user_id").str.strip_prefix("u") + ".0")
        for table in ("train", *EVALUATION_TABLES)
    }
    domain = changed(module.Domain.load(job.data), tmp_path / "floats", **spelled)
    pl.DataFrame({"user_id": [1.0, 2.0, 7.5]}).write_parquet(tmp_path / "floats.parquet")
    table = UserTable(tmp_path / "floats.parquet", domain)
    found = table.rows(0, 2)
    assert found["user_id"].to_list() == ["1.0", "2.0"] and not found["history"].null_count()
    assert table.rows(0, 3)["user_id"].to_list() == ["1.0", "2.0", "7.5"]
    with pytest.raises(DataError, match=r"Row 3 of .* \(user '7\.5'\) is no user of tastes"):
        table.check()


def test_an_id_that_is_no_whole_number_changes_no_other(job, tmp_path):
    domain = module.Domain.load(job.data)
    domain = changed(
        domain,
        tmp_path / "whole",
        items=lambda rows: rows.with_columns(pl.col("item_id").str.strip_prefix("i")),
    )
    frame = pl.DataFrame({"user_id": [1.0, 3.5, 2.0], "history": [[1.0, 2.0, 3.5]] * 3})
    frame.write_parquet(tmp_path / "own.parquet")
    table = UserTable(tmp_path / "own.parquet", domain)
    rows = table.rows(0, 3)
    assert rows["history"].to_list() == [["1", "2", "3.5"]] * 3
    # In whatever slices a table is read, a user has one name.
    assert rows["user_id"].to_list() == ["1", "3.5", "2"]
    assert table.rows(2, 1)["user_id"].to_list() == ["2"]


def test_a_list_may_end_in_a_semicolon(job, tmp_path):
    (tmp_path / "own.tsv").write_text("user_id\thistory\na\ti1; i2; \n")
    rows = UserTable(tmp_path / "own.tsv", module.Domain.load(job.data)).rows(0, 1)
    assert rows["history"].to_list() == [["i1", "i2"]]


def test_more_places_than_items(job):
    batch(replace(job, k=10**4))
    lengths = table(job.out)["items"].list.len()
    domain = module.Domain.load(job.data)
    assert lengths.max() < len(domain.item_ids) and lengths.min() > len(domain.item_ids) - 10
    assert (table(job.out)["scores"].list.len() == lengths).all()


# -- going on ---------------------------------------------------------------------------------


def test_a_finished_run_is_taken_as_it_is(job, monkeypatch):
    first = batch(job)
    monkeypatch.setattr(module, "ChunkWriter", None)  # nothing may be computed
    assert batch(job) == first


def test_only_missing_files_are_computed(job, monkeypatch):
    batch(job)
    whole = contents(job.out)
    job.file(2).unlink()
    (job.out / ".part-000002.parquet.12ab34cd.tmp").write_bytes(b"half")
    written = []
    real = module.ChunkWriter.write

    def counting(self, number, tick=int):
        written.append(number)
        return real(self, number, tick)

    monkeypatch.setattr(module.ChunkWriter, "write", counting)
    batch(job)
    assert written == [2] and contents(job.out) == whole


def cut(file):
    file.write_bytes(file.read_bytes()[:200])


def scribbled(file):
    """The same table as another writer would write it: readable, and another file."""
    pl.read_parquet(file).write_parquet(file, compression="uncompressed")


def shortened(file):
    pl.read_parquet(file).head(3).write_parquet(file)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("harm", [cut, scribbled, shortened])
def test_damaged_files_are_computed_again(job, capsys, harm, finished):
    manifest = batch(job)
    whole = contents(job.out)
    if not finished:
        write_json(job.out / "manifest.json", {k: v for k, v in manifest.items() if k != "outputs"})
        job.file(1).unlink()
    harm(job.file(2))
    capsys.readouterr()
    again = batch(job)
    said = " ".join(capsys.readouterr().err.split())
    if harm is scribbled and not finished:  # nothing tells, and no user lacks anything
        assert again["outputs"]["part-000002.parquet"] == sha256_file(job.file(2))
        return
    assert "1 damaged file computed again (part-000002.parquet)" in said
    assert contents(job.out) == whole and again == manifest


def test_a_hash_taken_of_a_damaged_file_does_not_make_it_whole(job):
    manifest = batch(job)
    cut(job.file(2))
    outputs = manifest["outputs"] | {"part-000002.parquet": sha256_file(job.file(2))}
    write_json(job.out / "manifest.json", manifest | {"outputs": outputs})
    assert batch(job) == manifest


def test_kill_9_and_restart_give_the_files_of_an_undisturbed_run(job, tmp_path):
    small = replace(job, chunk=1)
    child = subprocess.Popen(command(small), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list(small.out.glob("part-*"))) < 2 and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    done = len(list(small.out.glob("part-*")))
    assert 2 <= done < pl.read_parquet(job.users).height
    assert "outputs" not in json.loads((small.out / "manifest.json").read_text())
    batch(small)
    batch(replace(small, out=tmp_path / "undisturbed"))
    assert contents(small.out) == contents(tmp_path / "undisturbed")


def test_a_run_goes_on_in_the_dtype_it_was_begun_in(job, monkeypatch):
    """Left out, the dtype is the first device's; files of another one's do not lie beside."""
    left_out = replace(job, dtype=None)
    manifest = batch(left_out)
    assert manifest["settings"]["dtype"] == "float32" and batch(job) == manifest
    begun = manifest["settings"] | {"dtype": None}  # as it was written once
    write_json(job.out / "manifest.json", manifest | {"settings": begun})
    assert batch(left_out)["outputs"] == manifest["outputs"]
    write_json(job.out / "manifest.json", manifest)
    monkeypatch.setattr(module, "choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr("reccocktail.backbone.bfloat16_is_fast", lambda _: True)
    with pytest.raises(RunError, match="another dtype;") as error:
        batch(left_out)
    one_sentence(error.value)


# -- ray --------------------------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_ray_writes_the_same_files(job, tmp_path):
    batch(job)
    other = replace(job, out=tmp_path / "ray")
    other.out.mkdir()
    for name in ("manifest.json", "part-000001.parquet"):  # and it goes on where another stopped
        (other.out / name).write_bytes((job.out / name).read_bytes())
    stopped = json.loads((other.out / "manifest.json").read_text())
    del stopped["outputs"]
    (other.out / "manifest.json").write_text(json.dumps(stopped))
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    child = subprocess.run(
        command(other, "--engine", "ray"), env=environment, capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr[-2000:]
    assert contents(other.out) == contents(job.out)


# -- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda job, folder: replace(job, k=6), "another k;"),
        (lambda job, folder: replace(job, chunk=8), "another chunk;"),
        (lambda job, folder: replace(job, users=other_users(folder)), "another users file;"),
    ],
)
def test_changed_inputs_are_refused_and_nothing_is_lost(job, tmp_path, change, what):
    batch(job)
    before = contents(job.out)
    with pytest.raises(RunError, match=what) as error:
        batch(change(job, tmp_path))
    one_sentence(error.value)
    assert contents(job.out) == before


def other_users(folder):
    pl.DataFrame({"user_id": ["u1"]}).write_csv(folder / "others.csv")
    return folder / "others.csv"


BAD = {
    "no user column (columns found: name)": {"name": ["u1"]},
    "Row 2 of users.jsonl has no user id": {"user_id": ["u1", None]},
    "Row 2 of users.jsonl (user 'nobody') is no user of tastes": {"user_id": ["u1", "nobody"]},
    "(user 'u1') has an empty history": {"user_id": ["u0", "u1"], "history": [["i1"], []]},
    "has the item 'i999'": {"user_id": ["u0", "u1"], "history": [["i1"], ["i999", "i2"]]},
    "Row 1 of users.jsonl (user 'u0') has the item 'i998'": {
        "user_id": ["u0", "u1", None],
        "history": [["i998"], [], ["i997"]],
    },
}


@pytest.mark.parametrize("what", BAD)
def test_bad_rows_are_named_before_any_work(job, tmp_path, what, monkeypatch):
    monkeypatch.setattr(module, "ChunkWriter", None)
    pl.DataFrame(BAD[what]).write_ndjson(tmp_path / "users.jsonl")
    with pytest.raises(DataError) as error:
        batch(replace(job, users=tmp_path / "users.jsonl"))
    assert what in one_sentence(error.value)
    assert not job.out.exists() or not any(job.out.iterdir())


def test_numbers_below_one_and_foreign_folders_are_refused(job, tmp_path):
    for wrong in (replace(job, k=0), replace(job, chunk=0)):
        with pytest.raises(RecipeError, match="at least 1, not 0") as error:
            batch(wrong)
        one_sentence(error.value)
    with pytest.raises(RecipeError, match="--workers must be at least 1"):
        batch(job, workers=0)
    for for_ray in ({"workers": 4}, {"address": "nowhere:1"}):
        with pytest.raises(RecipeError, match="--engine ray"):
            batch(job, **for_ray)
    job.out.mkdir()
    (job.out / "precious.txt").write_text("mine")
    with pytest.raises(RunError, match="other files than a batch's") as error:
        batch(job)
    one_sentence(error.value)
    assert [file.name for file in job.out.iterdir()] == ["precious.txt"]


def test_an_adapter_of_another_backbone_is_refused(job, place, tmp_path):
    pico_model(seed=5).save_pretrained(tmp_path / "other")
    pico_tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(AdapterError, match="was trained on backbone") as error:
        batch(replace(job, backbone=str(tmp_path / "other")))
    one_sentence(error.value)
