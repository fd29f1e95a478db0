import pytest

from reccocktail.errors import RecipeError
from reccocktail.prompting.template import DenseTemplate, load

FIELDS = {"history_prefix": "H ", "separator": " , ", "item_prefix": "I ", "item_suffix": " ."}


def test_the_shipped_template_loads():
    template = load("titles", DenseTemplate)
    assert template.separator == "\n"
    assert template.item_prefix


def test_a_file_of_ones_own_loads(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("".join(f'{key}: "{value}"\n' for key, value in FIELDS.items()))
    assert load(str(path), DenseTemplate) == DenseTemplate(**FIELDS)


def test_every_word_changes_the_hash():
    hashes = {DenseTemplate(**FIELDS).sha256}
    hashes |= {DenseTemplate(**FIELDS | {key: value + "x"}).sha256 for key, value in FIELDS.items()}
    assert len(hashes) == 1 + len(FIELDS)


@pytest.mark.parametrize(
    "content",
    [b"", b"history_prefix: x\n", b"- a\n", b"a: [", b"\xff\xfe\x00\x01", b"separator: 3\n"],
    ids=["empty", "lacking", "list", "broken", "binary", "number"],
)
def test_a_template_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"mine\.yaml"):
        load(str(path), DenseTemplate)


def test_an_unknown_field_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    values = FIELDS | {"greeting": "x"}
    path.write_text("".join(f'{key}: "{value}"\n' for key, value in values.items()))
    with pytest.raises(RecipeError, match="greeting"):
        load(str(path), DenseTemplate)


def test_a_template_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="No prompt template 'nonsense'"):
        load("nonsense", DenseTemplate)
    with pytest.raises(RecipeError, match="No prompt template"):
        load(str(tmp_path), DenseTemplate)
