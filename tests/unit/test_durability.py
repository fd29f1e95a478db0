"""What a service holds through kills in the midst of changes, and beside damaged domains."""

import contextlib
import json
import os
import shutil
import time
from http.client import HTTPException
from pathlib import Path
from signal import SIGKILL, SIGTERM

import polars as pl
import pytest
from fastapi.testclient import TestClient

from reccocktail.errors import RecCocktailError, RunError
from reccocktail.mixing.cocktail import mix
from reccocktail.mixing.measure import MixSettings
from reccocktail.mixing.sheet import load_sheet
from reccocktail.serving.app import create_app
from reccocktail.serving.keys import Keys
from reccocktail.serving.query import Query
from reccocktail.serving.run import serve
from reccocktail.serving.served import ADDED_SCHEMA
from reccocktail.serving.service import Service
from reccocktail.serving.store import Store
from reccocktail.training.adapter import Adapter
from tests.helpers import one_sentence
from tests.service_process import KEY, Process
from tests.serving import kitchen


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    made = kitchen(tmp_path_factory.mktemp("kitchen"))
    pair = [Adapter.load(made.adapters[name]) for name in ("one", "two")]
    mix(
        pair,
        made.backbone,
        made.small,
        "warm",
        made.root / "blend",
        MixSettings(users=4, validation_users=4),
        (0.5, 0.5),
    )
    return made


# -- kills --------------------------------------------------------------------------------------

MIX = {"adapters": ["one", "two"], "coefficients": [0.25, 0.75], "users": 5}


def ask_like_many(service, here):
    """Enough histories for a mix."""
    for history in here.tastes.rows("test_warm")["history"].to_list()[:22]:
        assert service.call("POST", "/v1/domains/tastes/recommend", {"history": history})[0] == 200


def start_mix(service):
    status, found = service.call("POST", "/v1/domains/tastes/mix", MIX)
    assert status == 202, found


def mixed(service):
    """Wait for a mix's end and give its status."""
    for _ in range(600):
        _, found = service.call("GET", "/v1/domains/tastes/mix")
        if found["status"] != "running":
            return found
        time.sleep(0.1)
    raise AssertionError("the mix does not end")


def killed(service):
    """Whether the process struck itself."""
    service.process.communicate(timeout=120)
    return service.process.returncode == -SIGKILL


def ranking(service, items):
    body = {"history": ["i1", "i2"], "candidates": items}
    status, found = service.call("POST", "/v1/domains/tastes/rank", body)
    assert status == 200, found
    return [(item["item_id"], pytest.approx(item["score"], abs=1e-5)) for item in found["items"]]


def test_a_kill_amid_a_mix_or_an_upload_loses_nothing(here, tmp_path):
    """Each life is ended at another moment, and the next one finds what was acknowledged."""
    state, strike = tmp_path / "state", tmp_path / "state.strike"
    mixes = state / "domains" / "tastes" / "mixes"
    known = [f"a-{n}" for n in range(5)]
    candidates = [*known, *here.tastes.item_ids[:20]]

    service = Process(here, state)
    ask_like_many(service, here)
    start_mix(service)
    assert service.add(*known) == 200
    done = mixed(service)
    assert (done["status"], done["adapter"]) == ("done", "mix-0001"), done
    before = ranking(service, candidates)

    def same_as_before():
        (domain,) = service.call("GET", "/v1/domains")[1]["domains"]
        assert domain["adapter"] == "mix-0001" and domain["added_items"] == len(known)
        assert ranking(service, candidates) == before
        assert service.call("GET", "/v1/domains/tastes")[1]["cocktail"]["name"] == "mix-0001"
        assert not list(state.rglob(".*.tmp"))  # nothing of what was half written is left

    # The cocktail's folder is half written; it is whole, but no record names it yet.
    for moment in ("adapter.json", "domain.json"):
        same_as_before()
        strike.write_text(moment)
        start_mix(service)
        assert killed(service), moment
        assert list(mixes.glob(".mix-0002.*.tmp")) or (mixes / "mix-0002").is_dir()
        strike.unlink()
        service = Process(here, state)
        if moment != "domain.json":
            ask_like_many(service, here)

    same_as_before()
    strike.write_text("items.parquet")
    ask_like_many(service, here)
    start_mix(service)
    with pytest.raises((OSError, HTTPException)):
        service.add("b-1", "b-2")
    assert killed(service)
    strike.unlink()

    service = Process(here, state)
    same_as_before()
    assert service.add("b-1", "b-2") == 200  # the client tries again
    ask_like_many(service, here)
    start_mix(service)
    done = mixed(service)
    assert done["status"] == "done", done
    (domain,) = service.call("GET", "/v1/domains")[1]["domains"]
    assert domain["added_items"] == len(known) + 2 and domain["adapter"] == done["adapter"]
    assert service.call("POST", "/v1/domains/tastes/mix/revert")[1]["adapter"] == "mix-0001"
    assert ranking(service, candidates) == before
    assert "Traceback" not in service.end(SIGTERM)


# -- damage -------------------------------------------------------------------------------------

DAMAGE = {
    "empty": b"",
    "cut": None,  # the first half of the file
    "bytes": b"\xff\xfe\x00\x80" * 40,
    "list": b"[]",
    "object": b"{}",
    "null": b"null",
    "text": b'"cocktail"',
}
FILES = ("adapter.json", "adapter_config.json", "adapter_model.safetensors", "cocktail.json")


def damage(folder, file, kind):
    path = folder / file
    content = path.read_bytes()
    new = content[: len(content) // 2] if DAMAGE[kind] is None else DAMAGE[kind]
    path.write_bytes(new)


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_adapter_leaves_the_other_domains(here, tmp_path, file, kind):
    """The service starts, the domain says what is wrong on every route, the others answer."""
    blend = shutil.copytree(here.root / "blend", tmp_path / "blend")
    damage(blend, file, kind)
    service = Service(here.backbone, state=tmp_path / "state")
    told = {}
    service.changing.restore(
        told.__setitem__,
        {
            "bad": (here.small.path, blend),
            "good": (here.small.path, here.adapters["two"]),
        },
    )
    assert list(told) == ["bad"]
    assert str(tmp_path) in one_sentence(told["bad"])
    headers = {"X-API-Key": KEY}
    with TestClient(create_app(service, Keys(admin=KEY)), headers=headers) as client:
        listed = client.get("/v1/domains").json()
        assert [d["name"] for d in listed["domains"]] == ["good"]
        assert listed["failed"] == {"bad": str(told["bad"])}
        asked = {"history": ["i1"]}
        assert client.post("/v1/domains/good/recommend", json=asked).status_code == 200
        for answer in (
            client.get("/v1/domains/bad"),
            client.get("/v1/domains/bad/items", params={"q": "a"}),
            client.get("/v1/domains/bad/mix"),
            client.post("/v1/domains/bad/recommend", json=asked),
            client.post("/v1/domains/bad/rank", json=asked | {"candidates": ["i1"]}),
            client.put(
                "/v1/domains/bad/items", json={"items": [{"item_id": "n", "title": "red moon"}]}
            ),
        ):
            assert answer.status_code == 503
            one_sentence(answer.json()["detail"])
        assert client.get("/readyz").status_code == 200


def test_a_damaged_domain_is_mended_or_removed(here, tmp_path):
    blend = shutil.copytree(here.root / "blend", tmp_path / "blend")
    damage(blend, "cocktail.json", "object")
    service = Service(here.backbone, state=tmp_path / "state")
    told = {}
    service.changing.restore(told.__setitem__, {"bad": (here.small.path, blend)})
    assert list(told) == list(service.answering.failed) == ["bad"]
    service.changing.plug("bad", here.small.path, here.adapters["one"])
    assert service.answering.failed == {}
    assert service.answering.recommend("bad", Query(["i1"])).adapter == "one"
    damage(here_copy := shutil.copytree(here.adapters["one"], tmp_path / "one"), FILES[0], "cut")
    service.close()
    again = Service(here.backbone, state=tmp_path / "state")
    again.changing.restore(told.__setitem__, {"bad": (here.small.path, here_copy)})
    assert "bad" in again.answering.failed
    again.changing.remove("bad")
    assert again.answering.failed == {}
    with pytest.raises(RunError, match="no domain"):
        again.answering.domain("bad")
    again.close()


def test_a_damaged_mix_can_be_undone(here, tmp_path):
    """A domain whose last cocktail is damaged comes back with the one before it."""
    state = tmp_path / "state"
    first = here.service(state)
    first.close()
    store = Store(state)
    blend = shutil.copytree(here.root / "blend", store.next_mix("tastes"))
    record = store.record("tastes")
    store.write_record("tastes", type(record)(record.data, (*record.adapters, blend)))
    store.close()
    damage(blend, "adapter_model.safetensors", "cut")
    service = Service(here.backbone, state=state)
    told = {}
    service.changing.restore(told.__setitem__)
    assert list(told) == ["tastes"]
    assert service.changing.revert("tastes").adapter.name == "one"
    assert service.answering.recommend("tastes", Query(["i1"])).adapter == "one"
    service.close()


def test_a_kind_of_damage_that_nobody_expects(here, tmp_path, monkeypatch, caplog):
    def broken(*_, **__):
        raise ZeroDivisionError

    service = Service(here.backbone, state=tmp_path / "state")
    monkeypatch.setattr("reccocktail.serving.changing.build", broken)
    told = {}
    service.changing.restore(told.__setitem__, {"bad": (here.small.path, here.adapters["one"])})
    assert "ZeroDivisionError" in one_sentence(told["bad"])
    assert "Traceback" in caplog.text
    service.close()


def test_a_start_without_any_domain_is_refused(here, tmp_path):
    blend = shutil.copytree(here.root / "blend", tmp_path / "blend")
    damage(blend, "cocktail.json", "cut")
    with pytest.raises(RecCocktailError, match=r"cocktail\.json") as error:
        serve(here.backbone, {"bad": (here.small.path, blend)})
    one_sentence(error.value)


def test_sheets(here, tmp_path):
    sheet = load_sheet(here.root / "blend")
    assert sheet["name"] == "blend"
    assert load_sheet(here.adapters["one"]) is None
    damages = [sheet | {"adaptation": wrong} for wrong in (None, {}, [])]
    damages += [{k: v for k, v in sheet.items() if k != name} for name in ("objective", "data")]
    damages += [sheet | {"data": "tastes"}, [sheet]]
    for damaged in damages:
        (tmp_path / "cocktail.json").write_text(json.dumps(damaged))
        with pytest.raises(RecCocktailError) as error:
            load_sheet(tmp_path)
        one_sentence(error.value)


def test_what_is_written_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    done, sync, rename = [], os.fsync, os.replace

    def syncing(descriptor):
        done.append(("synced", os.fstat(descriptor).st_ino))
        sync(descriptor)

    def replacing(source, target):
        done.append(("in place", os.stat(source).st_ino))
        rename(source, target)

    with contextlib.closing(Store(tmp_path / "state")) as store:
        monkeypatch.setattr(os, "fsync", syncing)
        monkeypatch.setattr(os, "replace", replacing)
        store.write_items("tastes", pl.DataFrame(schema=ADDED_SCHEMA))
    folder = tmp_path / "state" / "domains" / "tastes"
    file = (folder / "items.parquet").stat().st_ino
    assert done == [("synced", file), ("in place", file), ("synced", folder.stat().st_ino)]


def test_a_start_clears_what_a_kill_left(tmp_path):
    """Only files and folders that were never renamed into place go."""
    mixes = tmp_path / "state" / "domains" / "tastes" / "mixes"
    leftover, whole = mixes / ".mix-0002.abc.tmp", mixes / "mix-0001"
    for folder in (leftover, whole):
        folder.mkdir(parents=True)
        (folder / "adapter.json").write_text("{}")
    (mixes.parent / ".items.parquet.abc.tmp").write_text("x")
    (mixes.parent / "items.parquet").write_text("x")
    with contextlib.closing(Store(tmp_path / "state")):
        left = sorted(str(Path(p).relative_to(mixes.parent)) for p in mixes.parent.rglob("*"))
    assert left == ["items.parquet", "mixes", "mixes/mix-0001", "mixes/mix-0001/adapter.json"]
