import pytest
from hypothesis import given
from hypothesis import strategies as st

from reccocktail.data.titles import clean_title, clean_titles, title_key

PIECES = st.sampled_from(
    [
        "&amp;",
        "&",
        "amp;",
        "<b>",
        "</",
        ">",
        "<",
        "\x00",
        "\n",
        "\u200b",
        "é",
        "e\u0301",
        " ",
        "#",
        "x",
    ]
)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("Tom &amp;amp; Jerry", "Tom & Jerry"),
        ("L&#39;Or&eacute;al", "L'Oréal"),
        ("&lt;b&gt;Bold&lt;/b&gt;  Tea", "Bold Tea"),
        ('Soap<br/>with <a href="x">link</a>', "Soap with link"),
        ("two\nlines\r\nand\ttab", "two lines and tab"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("\u202eturned\u202c", "turned"),
        ("I <3 U", "I <3 U"),
        ("5 < 6 > 2", "5 < 6 > 2"),
        ("e\u0301t\u00e9", "\u00e9t\u00e9"),
        ("東京物語", "東京物語"),
        ("9", "9"),
        ("NaN", ""),
        ("   ", ""),
        ("<br>", ""),
        (None, ""),
    ],
)
def test_clean_title(raw, clean):
    assert clean_title(raw) == clean


@given(st.one_of(st.text(), st.lists(PIECES, max_size=8).map("".join)))
def test_cleaning_a_clean_title_changes_nothing_and_leaves_one_line(raw):
    clean = clean_title(raw)
    assert clean_title(clean) == clean
    assert clean == " ".join(clean.split())
    assert len(clean.splitlines()) <= 1


def test_titles_stay_in_order():
    assert clean_titles(["b&amp;", None, "a"]) == ["b&", "", "a"]


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("Amélie: The Movie!", "AMELIE  the movie", True),
        ("Shampoo, 12 oz", "Shampoo 12 Oz.", True),
        ("Shampoo, 12 oz", "Shampoo, 16 oz", False),
        ("!!!", "???", False),
        ("नमस्ते", "नमसते", False),
        ("किताब", "कीताब", False),
        ("กิน", "กัน", False),
        ("किताब: एक", "किताब एक!", True),
        ("I ❤\ufe0f tea", "I ❤ tea", True),
    ],
)
def test_title_key(one, two, same):
    assert (title_key(one) == title_key(two)) is same
