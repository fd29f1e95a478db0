"""How a mix at run time ends: what is said of it, what it leaves on disk, and who may come next."""

import threading
import time

import pytest

from reccocktail.serving import changing
from reccocktail.serving.query import Query
from reccocktail.serving.remix import MixRequest
from reccocktail.serving.store import StateError, Store


@pytest.fixture
def domains(tmp_path):
    """Where the state folder keeps its domains."""
    return tmp_path / "state" / "domains"


@pytest.fixture
def service(here, domains):
    service = here.service(domains.parent)
    for history in here.tastes.rows("test_warm")["history"].to_list()[:30]:
        service.answering.recommend("tastes", Query(history))
    yield service
    service.close()


@pytest.fixture
def request_(here):
    return MixRequest((here.adapters["one"], here.adapters["two"]), coefficients=(0.5, 0.5))


def ended(service):
    """Wait until the next mix may start."""
    assert service.changing._mixing.acquire(timeout=30)
    service.changing._mixing.release()


def amid(monkeypatch, happens):
    """Let something happen while a mix searches, before it writes its folder."""
    real = changing.remix
    monkeypatch.setattr(changing, "remix", lambda *a: (happens(), real(*a))[1])


def folders(domains):
    return sorted(path.name for path in domains.glob("*/mixes/*"))


def test_a_mix_of_a_removed_domain_leaves_nothing(service, domains, monkeypatch, request_):
    amid(monkeypatch, lambda: service.changing.remove("tastes"))
    service.changing.start_mix("tastes", request_)
    ended(service)
    assert list(domains.iterdir()) == []
    assert service.changing._mixes == {}


def test_a_mix_of_a_replaced_domain_leaves_no_folder(service, here, domains, monkeypatch, request_):
    replace = (here.tastes.path, here.adapters["three"])
    amid(monkeypatch, lambda: service.changing.plug("tastes", *replace))
    service.changing.start_mix("tastes", request_)
    ended(service)
    assert service.changing.mix_status("tastes").status == "dropped"
    assert folders(domains) == [] and (domains / "tastes" / "domain.json").is_file()


def test_a_failed_mix_leaves_no_folder(service, domains, monkeypatch, request_):
    def full(*_):
        raise StateError("Cannot keep it: no space; free space.")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "keep_mix", full)
        service.changing.start_mix("tastes", request_)
        ended(service)
    status = service.changing.mix_status("tastes")
    assert (status.status, status.message[:14]) == ("failed", "Cannot keep it")
    assert folders(domains) == []
    service.changing.start_mix("tastes", request_)
    ended(service)
    assert service.changing.mix_status("tastes").adapter == "mix-0001"
    assert folders(domains) == ["mix-0001"]


def test_a_mix_that_the_record_names_stays(service, here, domains, monkeypatch, request_):
    """The write may be refused after the rename, when the folder is forced to the disk."""
    real = Store.write_record

    def refused(*arguments):
        real(*arguments)
        raise StateError("Cannot write it: input/output error; free space.")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_record", refused)
        service.changing.start_mix("tastes", request_)
        ended(service)
    assert service.changing.mix_status("tastes").status == "failed"
    assert folders(domains) == ["mix-0001"]
    service.close()
    again = here.service(domains.parent)
    assert again.answering.domain("tastes").adapter.name == "mix-0001"
    again.close()


def test_a_mix_after_the_end_touches_nothing(service, here, domains, monkeypatch, request_):
    gate, reached = threading.Event(), threading.Event()
    amid(monkeypatch, lambda: (reached.set(), gate.wait(10)))
    service.changing.start_mix("tastes", request_)
    assert reached.wait(10)
    service.close()
    gate.set()
    ended(service)
    assert folders(domains) == ["mix-0001"]  # the folder may be another service's by now
    here.service(domains.parent).close()
    assert folders(domains) == []


def test_the_next_mix_starts_only_when_the_end_is_told(service, here, monkeypatch):
    told, lock = [], service.changing._mixing

    class Watched:
        acquire = lock.acquire

        def release(self):
            told.append(service.changing._mixes["tastes"].status)
            lock.release()

    monkeypatch.setattr(service.changing, "_mixing", Watched())
    service.changing.start_mix("tastes", MixRequest((here.root, here.root)))
    while not told:
        time.sleep(0.01)
    assert told == ["failed"]


def test_who_reads_that_a_mix_ended_can_start_the_next_one(service, here):
    request = MixRequest((here.root, here.root))  # no adapters, so that they end at once
    for _ in range(50):
        service.changing.start_mix("tastes", request)
        while service.changing.mix_status("tastes").status == "running":
            pass
