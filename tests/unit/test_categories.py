"""Several categories in one cell: written to be read again, and read as catalogues are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reccocktail.data.categories import divided, join, split

NAMES = st.text("abC ,;&", min_size=1).filter(str.strip)


@given(st.lists(NAMES, max_size=4))
def test_what_is_joined_is_split_again(names):
    kept = list({name.strip().casefold(): name.strip() for name in reversed(names)}.values())
    assert split(join(names)) == kept[::-1]


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("Action|Sci-Fi", ["Action", "Sci-Fi"]),
        ("Chinese, Restaurants", ["Chinese", "Restaurants"]),
        ("Tea; Pots", ["Tea", "Pots"]),
        ("Clothing, Shoes & Jewelry|Hats", ["Clothing, Shoes & Jewelry", "Hats"]),
        ("Sky|SKY|| sky ", ["Sky"]),
        (" | ", []),
        ("", []),
        (None, []),
    ],
)
def test_cells_of_all_kinds_of_catalogues(cell, names):
    assert split(cell) == names


def test_no_category_is_no_cell():
    assert join([]) is None and join([" "]) is None


def test_spaces_divide_where_every_word_stands_alone():
    words = ["Comedy", "Drama", "Film-Noir"]
    lists = ["Comedy Drama", "Drama Film-Noir", "Comedy Film-Noir", "Comedy Drama Film-Noir"]
    found = divided([*words, *lists, None, ""])
    assert [split(cell) for cell in found] == [
        *([word] for word in words), *(cell.split() for cell in lists), [], [],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "cells",
    [
        ["Hair Care", "Skin Care", "Hair", "Skin"],
        ["Red", "Wine", "Red Wine"],
        ["Comedy Drama", "Drama Comedy", "Drama|Comedy", "Comedy", "Drama"],
        [None, ""],
        [],
    ],
)
def test_other_cells_stay_as_they_are(cells):
    assert divided(cells) == cells
