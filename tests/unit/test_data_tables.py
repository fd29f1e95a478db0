import gzip
import io
import json
from datetime import UTC, date, datetime, time, timedelta

import polars as pl
import pytest

from reccocktail.data.columns import as_interactions, as_items, find_column, in_time_order
from reccocktail.data.tables import read_table
from reccocktail.errors import DataError
from reccocktail.schema import ITEM, RATING, TIME, TITLE, USER, validate
from tests.helpers import one_sentence

ROWS = [("u1", "007", 30, 'Say "hi", all'), ("u2", "7", 10, "Plain"), ("u1", "8", 20, "Ünïcode")]


def write(path, rows=ROWS):
    names = ["user_id", "item_id", "timestamp", "title"]
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    if kind == "parquet":
        content = io.BytesIO()
        pl.DataFrame(rows, schema=names, orient="row").write_parquet(content)
        return packed(path, content.getvalue())
    if kind in ("jsonl", "ndjson", "json"):
        text = "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)
    elif kind in ("inter", "item"):
        header = "user_id:token\titem_id:token\ttimestamp:float\ttitle:token_seq\n"
        text = header + "".join("\t".join(map(str, row)) + "\n" for row in rows)
    else:
        separator = "," if kind == "csv" else "\t"
        text = pl.DataFrame(rows, schema=names, orient="row").write_csv(separator=separator)
    return packed(path, text.encode())


def packed(path, content):
    path.write_bytes(gzip.compress(content, mtime=0) if path.name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize(
    "name",
    [f"a.{end}" for end in "parquet csv tsv jsonl ndjson json inter item".split()]
    + [f"a.{end}.gz" for end in "parquet csv tsv jsonl inter".split()],
)
def test_every_format_gives_the_same_tables(tmp_path, name):
    table = read_table(write(tmp_path / name))
    events = as_interactions(table, name)
    assert events.select(USER, ITEM, TIME).rows() == [row[:3] for row in ROWS]
    assert as_items(table, name).select(ITEM, TITLE).rows() == [(row[1], row[3]) for row in ROWS]


def test_common_names_of_columns_are_known():
    events = as_interactions(pl.DataFrame({"visitor_id": ["1"], "SKU": ["a"], "ts": [3]}), "x")
    assert events.select(USER, ITEM, TIME).rows() == [("1", "a", 3)]
    items = as_items(pl.DataFrame({"id": ["a"], "Product Name": ["A"]}), "y")
    assert items.select(ITEM, TITLE).rows() == [("a", "A")]


def test_atomic_files_know_no_quotes(tmp_path):
    path = tmp_path / "a.item"
    path.write_text('item_id:token\tmovie_title:token\n1\t"Crocodile" Dundee\n2\t"Open\n')
    assert as_items(read_table(path), path.name)[TITLE].to_list() == ['"Crocodile" Dundee', '"Open']


@pytest.mark.parametrize(
    ("lines", "titles"),
    [
        (
            ['1\t"Open 10', "2\tPlain", '3\t`A 12"', "4\tLast"],
            ['"Open 10', "Plain", '`A 12"', "Last"],
        ),
        (['1\t"Say ""hi"""', "2\tPlain"], ['Say "hi"', "Plain"]),
        (['1\t"Two', 'lines"', "2\tPlain"], ["Two\nlines", "Plain"]),
        (['1\t"Crocodile" Dundee', "2\tPlain"], ['"Crocodile" Dundee', "Plain"]),
    ],
)
def test_quotes_of_a_tsv_swallow_no_rows(tmp_path, lines, titles):
    path = tmp_path / "items.tsv"
    path.write_text("\n".join(["item_id\ttitle", *lines]) + "\n")
    assert as_items(read_table(path), path.name)[TITLE].to_list() == titles


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_csv_with_other_separators_is_read(tmp_path, mark):
    """As spreadsheets write it where the comma is for decimals."""
    path = tmp_path / "a.csv"
    lines = ["\ufeffuser_id;item_id;timestamp;title", 'u1;007;30;"Salt; pepper, chili"', "u2;7;10;"]
    path.write_text("\r\n".join(line.replace(";", mark) for line in lines), encoding="utf-8")
    table = read_table(path)
    assert as_interactions(table, "a").rows() == [("u1", "007", 30), ("u2", "7", 10)]
    assert as_items(table, "a")[TITLE].to_list() == [f"Salt{mark} pepper, chili", None]


@pytest.mark.parametrize(
    ("text", "columns", "row"),
    [
        ("Kunde;Artikel;Betrag, EUR\nu;1;2,50\n", ["Kunde", "Artikel", "Betrag, EUR"], "u|1|2,50"),
        ("Artikel;Titel, kurz\n1;Tee\n2;a, b\n3;c\n", ["Artikel", "Titel, kurz"], "1|Tee"),
        ("id,a;b\n1,x\n2,y;z\n3,z\n", ["id", "a;b"], "1|x"),
        ('id\t"a, b, c"\n1\tx\n', ["id", "a, b, c"], "1|x"),
        ("id,kinds (a;b;c)\n1,a\n2,b;c\n", ["id", "kinds (a;b;c)"], "1|a"),
        ("id,a;b\n", ["id", "a;b"], None),
        ('id,title\n1,"Salt; pepper; chili"\n', ["id", "title"], "1|Salt; pepper; chili"),
        ("sep=;\r\nid;a,b,c\r\n1;x\r\n", ["id", "a,b,c"], "1|x"),
        ('\ufeff"sep=\t"\nid\ta\n1\tx\n', ["id", "a"], "1|x"),
        ("SEP=|\nid|a\n1|x\n", ["id", "a"], "1|x"),
        ("sep=,\nid,a\n1,x\n", ["id", "a"], "1|x"),
    ],
)
def test_the_separator_of_a_csv_is_what_its_cells_have_between_them(tmp_path, text, columns, row):
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8")
    if row is None:
        with pytest.raises(DataError, match="has no rows"):
            read_table(path)
    else:
        table = read_table(path)
        assert table.columns == columns
        assert "|".join(table.row(0)) == row


@pytest.mark.parametrize(
    ("columns", "user", "item", "time"),
    [
        (["reviewerID", "asin", "unixReviewTime"], "reviewerID", "asin", "unixReviewTime"),
        (["asin", "user_id", "parent_asin", "timestamp"], "user_id", "parent_asin", "timestamp"),
        (["userId", "movieId", "rating", "timestamp"], "userId", "movieId", "timestamp"),
        (["User ID", "Business-ID", "date"], "User ID", "Business-ID", "date"),
        (
            ["user_id:token", "item_id:token", "timestamp:float"],
            "user_id:token",
            "item_id:token",
            "timestamp:float",
        ),
    ],
)
def test_common_names_are_found(columns, user, item, time):
    frame = pl.DataFrame({column: ["1"] for column in columns})
    assert [find_column(frame, wanted, None, "x") for wanted in (USER, ITEM, TIME)] == [
        user,
        item,
        time,
    ]


def test_a_bare_id_is_the_items_only_in_a_table_of_items():
    frame = pl.DataFrame({"id": [5], "app_name": ["Game"]})
    assert as_items(frame, "games").rows() == [("5", "Game")]
    with pytest.raises(DataError, match="no item column"):
        as_interactions(pl.DataFrame({"id": [5], "user": [1]}), "x.csv")


def test_columns_given_by_name_win():
    frame = pl.DataFrame({"user_id": ["a"], "who": ["b"], "item": ["i"]})
    assert as_interactions(frame, "x", user_column="who")[USER].to_list() == ["b"]


def test_ids_are_text_whatever_they_were():
    frame = pl.DataFrame({"user": [1.0, None, 3.0], "item": [1, 2, 3]})
    with pytest.raises(DataError, match="'user' is empty in 1 row \\(row 2\\); fill the cells or"):
        as_interactions(frame, "x")
    assert as_interactions(frame.drop_nulls(), "x").rows() == [("1", "1"), ("3", "3")]
    holes = pl.DataFrame({"user": [1.0, float("nan")], "item": [b"a", "Ü".encode()]})
    with pytest.raises(DataError, match="'user' is empty in 1 row \\(row 2\\); fill the cells or"):
        as_interactions(holes, "x")
    given = pl.DataFrame({"user": ["u"], "code": [""], "name": ["n"], "id": ["i"]})
    for read in (as_interactions, as_items):
        with pytest.raises(DataError, match=r"'code' is empty in 1 row \(row 1\); fill") as error:
            read(given, "x.csv", item_column="code")
        one_sentence(error.value)
    assert as_interactions(holes.with_columns(user=1.0), "x").rows() == [("1", "a"), ("1", "Ü")]


@pytest.mark.parametrize(
    ("times", "ordered"),
    [
        (["2020-01-02", "2020-01-01"], [1, 0]),
        (["2020-01-01T10:00:00Z", "2020-01-01T09:00:00Z"], [1, 0]),
        (["12 31, 2013", "01 1, 2014"], [0, 1]),
        (["1e9", "999"], [1, 0]),
        (["10", "9"], [1, 0]),
        (
            ["2009-11-24T00:00:00+02:00", "2009-11-24 01:00:00 +0200", "2009-11-23 22:30Z"],
            [0, 2, 1],
        ),
        (["2009-11-24 01:00:00.5+0100", "2009-11-24T00:00+00", "2009-11-23 23:59 UTC"], [2, 1, 0]),
        (["2020-01-02", "2020-01-01 10:00:00", "2020-01-02T00:00:01", "2020/01/01"], [3, 1, 0, 2]),
        (["3 5,2024", "0001-01-01", "4/3/2024", "2024-3-3 9:30", "05/03/2024 Z"], [1, 3, 2, 0, 4]),
    ],
)
def test_times_as_text_are_ordered_as_times(times, ordered):
    items = [str(i) for i in range(len(times))]
    frame = pl.DataFrame({"user": ["u"] * len(times), "item": items, "time": times})
    assert in_time_order(as_interactions(frame, "x"))[ITEM].to_list() == [str(i) for i in ordered]


@pytest.mark.parametrize(
    "times",
    [
        [0, 1, 2],
        [0, 1_577_836_800, 1_577_836_801],  # zero where the time is not known
        [20091124, 20100101],
        [1_577_836_800_000, 1_577_836_800_001],
    ],
)
def test_numbers_that_grow_with_time_are_left_as_they_are(times):
    frame = pl.DataFrame({"user": ["u"] * len(times), "item": ["i"] * len(times), "time": times})
    for column in (pl.col("time"), pl.col("time").cast(pl.Float64), pl.col("time").cast(str)):
        assert as_interactions(frame.with_columns(column), "x")[TIME].to_list() == times


def test_time_order_keeps_users_by_first_appearance_and_ties_in_place():
    frame = pl.DataFrame(
        {USER: ["b", "a", "b", "a", "b"], ITEM: list("vwxyz"), TIME: [5, 1, 5, 1, 4]}
    )
    assert "".join(in_time_order(frame)[ITEM]) == "zvxwy"


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        (
            "t.csv",
            "item_id,title\n1,Tea\n2,Tea, green\n3,Pot\n",
            "line 3 has 3 cells, the header 2",
        ),
        ("t.csv", "item_id;title\n1;Tea\n2;Tea; green\n3;Pot\n", "line 3 has 3 cells"),
        ("t.csv", "sep=;\nitem_id;title\n1;Tea\n2;Tea; green\n3;Pot\n", "line 4 has 3 cells"),
    ],
)
def test_a_line_with_too_many_cells_is_named(tmp_path, name, text, what):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=what) as error:
        read_table(tmp_path / name)
    assert "double quotes" in one_sentence(error.value)


def test_a_quote_without_its_other_half_is_named(tmp_path):
    rows = "".join(f'{number},7" record {number}\n' for number in range(30))
    (tmp_path / "t.csv").write_text(f"item_id,title\n{rows}")
    try:
        found = read_table(tmp_path / "t.csv")
    except DataError as error:
        assert "line 2 holds a quote" in one_sentence(error)
    else:  # readers differ in what they forgive
        assert found.height == 30


@pytest.mark.parametrize("lines", [3, 12_000])
def test_records_are_no_titles(tmp_path, lines):
    rows = [{"item_id": f"i{n}", "title": {"en": f"t{n}"}, "rank": n} for n in range(lines)]
    rows[-1]["rank"] = "last"
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="'title' holds records") as error:
        as_items(read_table(path), path.name)
    one_sentence(error.value)


def test_lists_of_categories_become_text(tmp_path):
    frame = pl.DataFrame(
        {"asin": ["a"], "title": ["t"], "categories": [[["Beauty", "Hair"], ["Beauty"]]]}
    )
    assert as_items(frame, "x")["categories"].to_list() == ["Beauty|Hair"]


def test_empty_places_in_lists_of_categories_are_no_category():
    frame = pl.DataFrame(
        {"asin": list("abc"), "title": list("xyz"), "categories": [["Tea", None], [None], []]}
    )
    assert as_items(frame, "x")["categories"].to_list() == ["Tea", None, None]


def test_json_lines_whose_types_change_late_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [{"user": 1, "item": i, "time": i} for i in range(10_050)] + [
        {"user": "x", "item": "y", "time": 3}
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    events = as_interactions(read_table(path), path.name)
    assert events.height == 10_051
    assert events.row(-1) == ("x", "y", 3)


def test_json_lines_whose_columns_come_late_keep_them(tmp_path):
    path = tmp_path / "items.jsonl"
    early = [{"item_id": f"i{n}"} for n in range(12_000)]
    late = [{"item_id": "late", "title": "Late", "categories": ["a", "b"]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*early, *late]))
    assert as_items(read_table(path), path.name).row(-1) == ("late", "Late", "a|b")


def test_half_a_character_in_json_is_a_question_mark(tmp_path):
    """As in a title that was cut through an emoji; here a type that changes has it read slowly."""
    path = tmp_path / "items.jsonl"
    lines = [
        '{"item_id": 1, "title": "Lamp \\ud83d"}',
        '{"item_id": "b", "title": ["Cup \\uDE00"]}',
    ]
    path.write_text("\n".join(lines))
    assert read_table(path)["title"].to_list() == [["Lamp ?"], ["Cup ?"]]


def test_lists_stay_lists_where_a_type_changes_late(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [{"user": n, "history": ["a, b", 3], "deep": [["a"], ["b"]]} for n in range(10_050)]
    lines += [{"user": "x", "history": None}, {"user": "y", "history": "c", "more": {"k": [1]}}]
    path.write_text("\n".join(map(json.dumps, lines)))
    table = read_table(path)
    assert table["user"].to_list() == [*map(str, range(10_050)), "x", "y"]
    assert table["history"].tail(3).to_list() == [["a, b", "3"], None, ["c"]]
    assert table.schema["deep"] == pl.List(pl.String)
    assert table["deep"].to_list()[0] == ["a", "b"]
    assert isinstance(table.schema["more"], pl.Struct)  # which is refused where text is needed


# A header and then no block of any kind: not the error of a file that was cut off.
DAMAGED_GZIP = gzip.compress(b"", mtime=0)[:10] + b"\xff" * 20


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "does not exist"),
        ("a.xlsx", b"x", "unknown format"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"user,item\n", "has no rows"),
        ("a.parquet", b"PAR1 no", "cannot be read"),
        ("a.csv.gz", b"not gzip", "cannot be read"),
        ("a.csv.gz", gzip.compress(b"user,item\n1,2\n" * 99, mtime=0)[:-9], "cannot be read"),
        ("a.csv.gz", DAMAGED_GZIP, "cannot be read"),
        ("a.jsonl", b'{"user": 1}\n{"user": ' + b"[" * 99_999 + b"\n", "line 2 is not JSON"),
        ("a.csv", "user,item\nJosé,1\n".encode("latin-1"), "save it as UTF-8"),
        ("a.csv", "user,item\nJosé,1\n".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        ("a.tsv", "user\titem\nJosé\t1\n".encode("utf-16-le"), "UTF-16 text; save it as UTF-8"),
        (
            "a.jsonl.gz",
            gzip.compress('{"user": 1}\n'.encode("utf-16-be"), mtime=0),
            "UTF-16 text; save",
        ),
        ("a.jsonl", b'{"user": 1}\n{"user": \n', "line 2 is not JSON"),
        ("a.jsonl", b'{"user": 1}\n[2]\n', "line 2 is not a JSON object"),
        ("a.json", b'[{"user": 1}]', "one JSON array"),
    ],
)
def test_unusable_files_are_named_in_one_sentence(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_table(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_columns_name_what_was_found_and_the_flag():
    with pytest.raises(
        DataError, match=r"no user column \(columns found: foo, item\).*--user-column"
    ):
        as_interactions(pl.DataFrame({"foo": [1], "item": [2]}), "x.csv")
    with pytest.raises(DataError, match=r"no column 'bar' \(columns found: foo, item\); name"):
        as_interactions(pl.DataFrame({"foo": [1], "item": [2]}), "x.csv", user_column="bar")
    with pytest.raises(DataError, match=r"no title column.*--title-column"):
        as_items(pl.DataFrame({"item": [2]}), "x.csv")
    with pytest.raises(DataError, match=r"several columns for the user .*user_id, userId"):
        as_interactions(pl.DataFrame({"user_id": [1], "userId": [1], "item": [2]}), "x.csv")
    twice = pl.DataFrame({"item": [1], "title": ["t"], "Genres": ["g"], "genres": ["h"]})
    with pytest.raises(DataError, match=r"several columns .*Genres, genres\); rename all"):
        as_items(twice, "x.csv")


def test_the_day_comes_first_between_slashes():
    frame = pl.DataFrame({"user": ["u"], "item": ["i"], "date": ["05/03/2024"]})
    wanted = datetime(2024, 3, 5, tzinfo=UTC).timestamp() * 1e6
    assert as_interactions(frame, "x")["timestamp"].to_list() == [wanted]


def test_times_that_are_no_times_name_their_rows():
    frame = pl.DataFrame({"user": ["u"] * 3, "item": ["i"] * 3, "time": ["1", "soon", "3"]})
    with pytest.raises(DataError, match="neither numbers nor dates \\(row 2, such as 'soon'\\)"):
        as_interactions(frame, "x")
    with pytest.raises(DataError, match="'time' is empty in 1 row \\(row 1\\); fill"):
        as_interactions(
            pl.DataFrame(
                {"user": ["u"], "item": ["i"], "time": [None]}, schema_overrides={"time": pl.Int64}
            ),
            "x",
        )


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        ("user", [1e20, 2.0], r"numbers beyond 64 bits \(row 1, such as '1e\+20'\)"),
        ("user", [1.0, float("inf")], r"numbers beyond 64 bits \(row 2, such as 'inf'\)"),
        ("user", [b"a", b"\xff"], r"what is no text \(Binary\).*UTF-8"),
        ("time", [time(12, 3)] * 2, r"neither numbers nor dates \(Time\).*--time-column"),
        ("time", [timedelta(1)] * 2, r"neither numbers nor dates \(Duration.*--time-column"),
        ("time", [[1], [2]], r"neither numbers nor dates \(List\(Int64\)\)"),
        ("time", pl.Series([1, 2**63 + 5], dtype=pl.UInt64), r"beyond 64 bits \(row 2, such as"),
        ("time", ["2020-01-02T10:00:00", "soon"], r"nor dates \(row 2, such as 'soon'\); write"),
        ("time", ["2020-01-02T10:00:00", "2020-13-01"], r"nor dates \(row 2, such as '2020-13-01'"),
        ("time", ["05-03-24", "06-03-24"], r"nor dates \(rows 1, 2, .* write .* YYYY-MM-DD"),
        ("time", ["05/03/2024", "05/03/24"], r"nor dates \(row 2, such as '05/03/24'\)"),
        ("time", ["2024/03/05", "24/03/05"], r"nor dates \(row 2, such as '24/03/05'\)"),
        ("time", ["03 5, 2024", "03 5, 24"], r"nor dates \(row 2, such as '03 5, 24'\)"),
        ("time", ["24-3-5 10:00:00.1234", "24-3-5 10:00 +0100"], r"nor dates \(rows 1, 2, "),
        (
            "time",
            [1_577_836_800_000, 1_577_836_800],
            r"in milliseconds among .* seconds \(row 1, ",
        ),
        ("time", ["1577836800", "1577836800000000"], r"in microseconds among .* seconds \(row 2, "),
        ("time", [1.5778368e9, 1.5778368e18], r"in nanoseconds among times in seconds \(row 2, "),
        ("time", ["nan", "3"], r"neither numbers nor dates \(row 1, such as 'nan'\)"),
        ("time", ["2020-01-02", "1577836800"], r"numbers among dates \(row 2, such as '15778"),
        ("rating", ["5", "4,5"], r"ratings that are no numbers \(row 2, such as '4,5'\)"),
        ("rating", ["good", "bad"], r"ratings that are no numbers \(rows 1, 2, such as 'good'\)"),
        ("rating", [[4, 5], [3]], r"ratings that are no numbers \(List\(Int64\)\)"),
    ],
)
def test_cells_that_cannot_be_used_are_named_in_one_sentence(column, cells, message):
    frame = pl.DataFrame({"user": ["u", "v"], "item": ["i", "j"]}).with_columns(
        pl.Series(column, cells)
    )
    with pytest.raises(DataError, match=message) as error:
        as_interactions(frame, "x.parquet")
    assert f"x.parquet: '{column}' holds" in one_sentence(error.value)


def test_ratings_are_numbers_or_missing_and_only_read_when_asked_for():
    rows = {"user": ["u"] * 4, "item": ["i"] * 4, "rating": [" 4.5", "", None, "3"]}
    events = as_interactions(pl.DataFrame(rows), "x")
    assert events[RATING].to_list() == [4.5, None, None, 3.0]
    likes = as_interactions(pl.DataFrame(rows | {"rating": [True, False, None, True]}), "x")
    assert likes[RATING].to_list() == [1.0, 0.0, None, 1.0]
    films = pl.DataFrame(rows | {"rating": ["PG-13", "R", "G", "G"]})
    assert as_interactions(films, "x", rated=False).columns == [USER, ITEM]


def test_dates_are_times_whatever_stands_beside_them():
    frame = pl.DataFrame({"user": ["u"], "item": ["i"], "date": [date(1970, 1, 2)]})
    frame = frame.with_columns(time=pl.lit(time(12, 3)))
    assert as_interactions(frame, "x", time_column="date")[TIME].to_list() == [86_400_000_000]


@pytest.mark.parametrize(
    ("clock", "day"),
    [
        (["0930", "1430", "0800"], ["2024-03-05", "2024-03-05", "2024-03-06"]),
        ([930, 1430, 800], ["2024-03-05", "2024-03-05", "2024-03-06"]),
        ([930.0, 1430.0, None], [date(2024, 3, 5), date(2024, 3, 5), date(2024, 3, 6)]),
        ([time(9, 30), time(14), time(8)], [datetime(2024, 3, 5)] * 2 + [datetime(2024, 3, 6)]),
        (["9:30", "14:00:01", "8:00"], ["05/03/2024", "2024-03-05", "06/03/2024"]),
        (["10:00 AM", "2:30 PM", ""], ["2024-03-05", "2024-03-05", "2024-03-06"]),
        ([93000, 143000, 80000], ["2024-03-05T09:30", "2024-03-05T14:30", "2024-03-06T08:00"]),
        ([9, 14, 8], [1_709_631_000, 1_709_649_000, 1_709_712_000]),
    ],
)
def test_a_time_of_day_is_no_order_across_days(clock, day, capsys):
    """As shops export them: the clock stands in a column of its own beside the date."""
    order = [2, 1, 0]
    frame = pl.DataFrame(
        {
            "user": ["u"] * 3,
            "item": ["a", "b", "c"],
            "Date": pl.Series(day, strict=False),
            "Time": pl.Series(clock, strict=False),
        }
    )[order]
    assert in_time_order(as_interactions(frame, "sales.csv"))[ITEM].to_list() == ["a", "b", "c"]
    said = one_sentence(" ".join(capsys.readouterr().err.split()))
    assert said.startswith("sales.csv has several time columns (Time, Date) and 'Date' is read")
    joined = all("T" not in str(cell) and not isinstance(cell, int) for cell in day)
    assert ("with the times of day of 'Time'" in said) == joined
    assert said.endswith("name another with --time-column.")
    # Asked for, it is read alone.
    if not isinstance(clock[0], time) and ":" not in str(clock[0]) and None not in clock:
        alone = in_time_order(as_interactions(frame, "sales.csv", time_column="Time"))
        assert alone[ITEM].to_list() == ["c", "a", "b"]
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("times", "beside", "read"),
    [
        ({"timestamp": [3, 1, 2]}, {"date": ["2024-03-01", "2024-03-02", "2024-03-03"]}, None),
        ({"time": [1_709_631_000, 9, 10]}, {"date": ["2024-03-01"] * 3}, None),
        ({"time": [930, 800, 830]}, {"ts": [1, 2, 3]}, None),
        ({"time": [930, 800, 830]}, {"date": ["soon"] * 3}, None),
        ({"time": [930, 800, 830]}, {"date": [""] * 3}, None),
        ({"time": [930, 800, 830]}, {"ts": [1, 2, 3], "date": ["2024-03-01"] * 3}, "date"),
    ],
)
def test_of_several_time_columns_the_one_read_is_named(times, beside, read, capsys):
    frame = pl.DataFrame({"user": ["u"] * 3, "item": ["a", "b", "c"]} | beside | times)
    (name,) = times
    events = as_interactions(frame, "x")
    assert in_time_order(events)[ITEM].to_list() == ["b", "c", "a"]
    assert read is not None or events[TIME].to_list() == times[name]
    assert f"and '{read or name}' is read" in " ".join(capsys.readouterr().err.split())


def test_dates_with_holes_beside_a_time_of_day_are_named():
    rows = {"user": ["u"] * 2, "item": ["a", "b"], "time": ["9:30", "8:00"]}
    with pytest.raises(DataError, match="'date' is empty in 1 row \\(row 2\\); fill"):
        as_interactions(pl.DataFrame(rows | {"date": ["2024-03-05", ""]}), "x")
    with pytest.raises(DataError, match=r"'time' holds times that are neither .*--time-column"):
        as_interactions(pl.DataFrame(rows | {"date": ["soon", "later"]}), "x")


GOOD = {"user_id": ["u"], "history": [["a", "b"]], "target": ["c"], "candidates": [["c", "d"]]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": ["x"]}, "'target' is not among 'candidates'"),
        ({"history": [[]]}, "'history' is empty"),
        ({"history": [["c"]]}, "'target' occurs in 'history'"),
        ({"candidates": [["c", "d", "d"]]}, "holds an item twice"),
        ({"user_id": [""]}, "'user_id' is empty"),
        ({"user_id": [3]}, "must hold String"),
    ],
)
def test_validate_evaluation_rows(change, message):
    types = {"history": pl.List(pl.String), "candidates": pl.List(pl.String)}
    assert validate(pl.DataFrame(GOOD), "evaluation", "t").height == 1
    with pytest.raises(DataError, match=message):
        validate(pl.DataFrame(GOOD | change, schema_overrides=types), "evaluation", "t")


def test_validate_catalogue_and_the_first_five_rows():
    frame = pl.DataFrame({"item_id": list("abcdefg"), "title": [""] * 7, "split": ["warm"] * 7})
    with pytest.raises(
        DataError, match=r"'title' is empty in 7 rows \(rows 1, 2, 3, 4, 5, \.\.\.\)"
    ):
        validate(frame, "catalogue", "t")
    with pytest.raises(DataError, match="'split' is none of"):
        validate(frame.with_columns(title=pl.lit("x"), split=pl.lit("hot")), "catalogue", "t")
    with pytest.raises(DataError, match="'item_id' is repeated"):
        validate(frame.with_columns(title=pl.lit("x"), item_id=pl.lit("x")), "catalogue", "t")
    with pytest.raises(DataError, match="no column 'split'"):
        validate(frame.drop("split"), "catalogue", "t")
