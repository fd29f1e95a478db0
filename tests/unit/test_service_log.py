"""Errors that nobody foresaw, in threads with nobody to tell: the log says where they came from."""

import time

from reccocktail.mixing.cocktail import mix
from reccocktail.mixing.measure import MixSettings
from reccocktail.serving import changing, positions
from reccocktail.serving.plugging import Plugging
from reccocktail.serving.positions import PreparingError
from reccocktail.serving.query import Query
from reccocktail.serving.remix import MixRequest
from reccocktail.training.adapter import Adapter


def broken(*_):
    raise KeyError("odd")


def the_one(caplog):
    """The one error that was logged."""
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    return record


def test_of_a_mix(service, here, monkeypatch, caplog):
    monkeypatch.setattr(changing, "remix", broken)
    request = MixRequest((here.adapters["one"], here.adapters["two"]))
    service.changing.start_mix("tastes", request)
    while (status := service.changing.mix_status("tastes")).status == "running":
        time.sleep(0.01)
    assert (status.status, status.message) == ("failed", "KeyError: 'odd'")
    assert "in broken" in caplog.text and the_one(caplog).fields == {"domain": "tastes"}
    caplog.clear()
    monkeypatch.undo()
    service.changing.start_mix("tastes", request)
    while (status := service.changing.mix_status("tastes")).status == "running":
        time.sleep(0.01)
    assert "needs 20" in status.message and not caplog.records  # foreseen


def test_of_a_position(service, here, monkeypatch, caplog):
    parents = [Adapter.load(here.adapters[name]) for name in ("one", "two")]
    folder = here.root / "mixed"
    mix(parents, here.backbone, here.tastes, "warm", folder, MixSettings(users=10), (0.3, 0.7))
    service.changing.plug("mixed", here.tastes.path, folder)
    monkeypatch.setattr(positions, "encoded", broken)
    while True:
        try:
            service.answering.recommend("mixed", Query(["i1"], coefficients=(0.5, 0.5)))
        except PreparingError:
            time.sleep(0.01)
        except Exception as error:
            assert "KeyError" in str(error)
            break
    assert "in broken" in caplog.text and the_one(caplog).fields == {"domain": "mixed"}


def test_of_a_plug_in(service, here, monkeypatch, caplog):
    plugging = Plugging(service.changing)
    with monkeypatch.context() as patch:
        patch.setattr(changing, "build", broken)
        assert isinstance(
            plugging.start("second", here.small.path, here.adapters["two"]).exception(10), KeyError
        )
        while "second" not in plugging.failed:
            time.sleep(0.01)
    assert plugging.failed == {"second": "KeyError: 'odd'"}
    assert "in broken" in caplog.text and the_one(caplog).fields == {"domain": "second"}
    caplog.clear()
    plugging.start("third", here.small.path, here.small.path).exception(10)
    while "third" not in plugging.failed:
        time.sleep(0.01)
    assert not caplog.records  # foreseen
    plugging.close()
