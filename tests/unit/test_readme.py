"""What the README tells people to type exists: commands parse, make targets are there."""

import re
import shlex
from pathlib import Path

import pytest
from cyclopts import CycloptsError

from reccocktail.cli import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^(`{3,})(?:bash|sh|shell|console)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)


def commands(text):
    """Argument lists of the lines in a document's shell blocks, continued lines joined."""
    found = []
    for _, block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # VARIABLE=value before it
                words = words[1:]
            if words:
                found.append(words)
    return found


def ours(program):
    return [words[1:] for words in commands(README) if words[0] == program]


def makefile_targets():
    text = (ROOT / "Makefile").read_text()
    return set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))


def test_the_reader_of_blocks_reads():
    text = "```bash\nX=1 make a B=2  # why\n\nreccocktail x \\\n  --y 'a; b'\n```\n```\nno\n```\n"
    assert commands(text) == [["make", "a", "B=2"], ["reccocktail", "x", "--y", "a; b"]]


def test_the_readme_shows_the_main_commands():
    shown = {words[0] for words in ours("reccocktail")}
    assert {"data", "train", "mix", "evaluate", "recommend", "report"} <= shown
    assert ["quickstart"] in ours("make")


@pytest.mark.parametrize("words", ours("reccocktail"), ids=lambda words: " ".join(words)[:60])
def test_every_command_of_the_readme_parses(words):
    command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    assert command.__module__.rpartition(".")[0] == "reccocktail.cli"
    assert bound.arguments or not words[1:]


@pytest.mark.parametrize("words", ours("make"), ids=" ".join)
def test_every_make_target_of_the_readme_exists(words):
    targets = [word for word in words if "=" not in word and not word.startswith("-")]
    assert targets and set(targets) <= makefile_targets()


def test_every_named_file_exists():
    linked = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", README)
    assert "CONTRIBUTING.md" in linked
    for name in linked:
        assert (ROOT / name).exists(), name


def test_inline_commands_exist():
    """`reccocktail data list` in running text names a command, too."""
    for text in re.findall(r"`reccocktail ([a-z][a-z -]*?)`", README):
        named, _, left = app.parse_commands(text.split())
        assert list(named) == text.split() and not left


@pytest.mark.parametrize(
    ("words", "what"),
    [("report e --out r.html --flavour mild", "flavour"), ("stir --out x", "stir")],
)
def test_a_wrong_command_would_be_seen(words, what):
    with pytest.raises(CycloptsError, match=what):
        app.parse_args(words.split(), exit_on_error=False, print_error=False)
