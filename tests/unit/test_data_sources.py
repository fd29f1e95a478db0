"""Every reader on a few lines in the true form of its source."""

import gzip
import json
from datetime import datetime

import polars as pl
import pytest

from reccocktail.data.sources import convert, read_source
from reccocktail.data.sources.amazon import read_amazon
from reccocktail.data.sources.complete_journey import product_title, read_complete_journey
from reccocktail.data.sources.movielens import article_first, read_movielens
from reccocktail.data.sources.steam import read_libraries, read_steam
from reccocktail.errors import DataError
from reccocktail.schema import CATEGORIES, ITEM, RATING, TIME, TITLE, USER


def put(path, lines, encoding="utf-8"):
    content = "".join(line + "\n" for line in lines).encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_movielens_dat(tmp_path):
    put(
        tmp_path / "ratings.dat",
        ["1::1193::5::978300760", "1::661::3.5::978302109", "2::1193::4::978298413"],
    )
    put(
        tmp_path / "movies.dat",
        [
            "1193::One Flew Over the Cuckoo's Nest (1975)::Drama",
            "661::City of Lost Children, The (Cité, La) (1995)::Adventure|Sci-Fi",
        ],
        "latin-1",
    )
    events, items = read_source(tmp_path, "movielens")[""]
    assert events.select(USER, ITEM, TIME, RATING).rows()[1] == ("1", "661", 978302109, 3.5)
    assert events.height == 3
    assert items.rows() == [
        ("1193", "One Flew Over the Cuckoo's Nest (1975)", "Drama"),
        ("661", "The City of Lost Children (Cité, La) (1995)", "Adventure, Sci-Fi"),
    ]
    put(tmp_path / "movies.dat", ["661::Cité (1995)::Drama"])  # 10M is UTF-8
    assert read_source(tmp_path, "movielens")[""][1][TITLE].to_list() == ["Cité (1995)"]


def test_titles_may_hold_characters_that_unicode_calls_line_ends(tmp_path):
    put(tmp_path / "ratings.dat", ["1::1::5::978300760"])
    titles = ["Wait\x85 (1995)", "Two\u2028Lines (1996)"]
    lines = [f"{n}::{title}::Drama\r" for n, title in enumerate(titles)]
    put(tmp_path / "movies.dat", lines)
    items = read_source(tmp_path, "movielens")[""][1]
    assert items[TITLE].to_list() == titles and items[CATEGORIES].to_list() == ["Drama"] * 2


def test_movielens_csv(tmp_path):
    put(tmp_path / "ratings.csv", ["userId,movieId,rating,timestamp", "1,11,4.0,964982703"])
    put(
        tmp_path / "movies.csv",
        [
            "movieId,title,genres",
            '11,"American President, The (1995)",Comedy|Romance',
            '12,"""Great Performances"" Cats (1998)",(no genres listed)',
        ],
    )
    events, items = read_source(tmp_path, "movielens")[""]
    assert events.select(USER, ITEM, RATING, TIME).rows() == [("1", "11", 4.0, 964982703)]
    assert items.rows() == [
        ("11", "The American President (1995)", "Comedy, Romance"),
        ("12", '"Great Performances" Cats (1998)', None),
    ]


def test_movielens_100k(tmp_path):
    put(tmp_path / "u.data", ["196\t242\t3\t881250949"])
    put(
        tmp_path / "u.item", ["242|Kolya (1996)|24-Jan-1997||http://us.imdb.com/M|0|0|1"], "latin-1"
    )
    events, items = read_source(tmp_path, "movielens")[""]
    assert events.select(USER, ITEM, TIME).rows() == [("196", "242", 881250949)]
    assert items.rows() == [("242", "Kolya (1996)")]


@pytest.mark.parametrize(
    ("raw", "title"),
    [
        ("Matrix, The (1999)", "The Matrix (1999)"),
        ("Affair, L' (1990)", "L'Affair (1990)"),
        ("Good, the Bad and the Ugly, The (1966)", "The Good, the Bad and the Ugly (1966)"),
        ("Me, Myself & Irene (2000)", "Me, Myself & Irene (2000)"),
        ("Birdcage, The", "The Birdcage"),
        ("Theremin (1993)", "Theremin (1993)"),
    ],
)
def test_article_first(raw, title):
    assert article_first(raw) == title


REVIEW_2014 = {
    "reviewerID": "A1YJEY40YUW4SE",
    "asin": "7806397051",
    "reviewerName": "Andrea",
    "helpful": [3, 4],
    "reviewText": "Very oily",
    "overall": 1.0,
    "unixReviewTime": 1391040000,
    "reviewTime": "01 30, 2014",
}
REVIEW_2018 = {
    "overall": 5.0,
    "verified": True,
    "reviewerID": "A3J",
    "asin": "B00006L9LC",
    "unixReviewTime": 1474848000,
    "style": {"Size:": " 7.0 oz"},
}
REVIEW_2023 = {
    "rating": 4.0,
    "title": "Nice",
    "images": [],
    "asin": "B00VAR",
    "parent_asin": "B00PARENT",
    "user_id": "AGK",
    "timestamp": 1588687728923,
    "verified_purchase": True,
}


def test_amazon_2014(tmp_path):
    put(tmp_path / "reviews_Beauty_5.json.gz", [json.dumps(REVIEW_2014)])
    put(
        tmp_path / "meta_Beauty.json.gz",
        [
            "{'asin': '7806397051', 'description': \"It's 'so' good\", "
            "'title': \"WAWO's 15 Color\", 'price': 23.27, 'related': {'also_bought': ['B1']}, "
            "'categories': [['Beauty', 'Makeup'], ['Beauty', 'Gifts']]}",
            "{'asin': 'B000UNUSED', 'title': 'Other', 'categories': [['Beauty']]}",
        ],
    )
    events, items = read_source(tmp_path, "amazon")[""]
    assert events.select(USER, ITEM, TIME, RATING).rows() == [
        ("A1YJEY40YUW4SE", "7806397051", 1391040000, 1.0)
    ]
    assert items.rows() == [("7806397051", "WAWO's 15 Color", "Beauty|Makeup|Gifts")]


def test_amazon_2018(tmp_path):
    reviews = put(
        tmp_path / "All_Beauty_5.json.gz",
        [json.dumps(REVIEW_2018), json.dumps(REVIEW_2018 | {"asin": "B0JS"})],
    )
    put(
        tmp_path / "meta_All_Beauty.json.gz",
        [
            json.dumps(
                {
                    "category": [],
                    "title": "Citre Shine &amp; Go",
                    "also_buy": ["B0JS"],
                    "asin": "B00006L9LC",
                }
            ),
            json.dumps(
                {
                    "category": ["Hair"],
                    "title": "var aPageStart = (new Date()).getTime();",
                    "asin": "B0JS",
                }
            ),
        ],
    )
    events, items = read_amazon(reviews, tmp_path / "meta_All_Beauty.json.gz")
    assert events[ITEM].to_list() == ["B00006L9LC", "B0JS"]
    assert items.rows() == [("B00006L9LC", "Citre Shine &amp; Go", None), ("B0JS", None, "Hair")]


def test_half_a_character_is_a_question_mark(tmp_path):
    reviews = put(tmp_path / "All_Beauty_5.json.gz", [json.dumps(REVIEW_2018)])
    cut = {"asin": "B00006L9LC", "title": "Lamp \ud83d", "category": ["Bright \ude00"]}
    put(tmp_path / "meta_All_Beauty.json.gz", [json.dumps(cut)])
    _, items = read_amazon(reviews, tmp_path / "meta_All_Beauty.json.gz")
    assert items.rows() == [("B00006L9LC", "Lamp ?", "Bright ?")]


def test_amazon_2023_uses_the_parent_product_and_its_own_title(tmp_path):
    put(tmp_path / "All_Beauty.jsonl.gz", [json.dumps(REVIEW_2023)])
    meta = {
        "main_category": "All Beauty",
        "title": "Shea Butter",
        "categories": ["Body", "Butter"],
        "parent_asin": "B00PARENT",
        "bought_together": None,
    }
    put(
        tmp_path / "meta_All_Beauty.jsonl.gz",
        [json.dumps(meta), json.dumps(meta | {"parent_asin": "OTHER"})],
    )
    events, items = read_source(tmp_path, "amazon")[""]
    assert events.select(USER, ITEM, TIME, RATING).rows() == [
        ("AGK", "B00PARENT", 1588687728923, 4.0)
    ]
    assert items.rows() == [("B00PARENT", "Shea Butter", "Body|Butter")]


def test_literals_are_parsed_and_never_run(tmp_path):
    reviews = put(tmp_path / "reviews.json", [json.dumps(REVIEW_2014)])
    target = tmp_path / "ran"
    meta = put(
        tmp_path / "meta_x.json", [f"{{'asin': '7806397051', 'title': open({str(target)!r}, 'w')}}"]
    )
    with pytest.raises(
        DataError, match=r"meta_x.json: line 1 is neither JSON nor a Python literal"
    ):
        read_amazon(reviews, meta)
    assert not target.exists()
    put(meta, ["(" * 5000])
    with pytest.raises(DataError, match="neither JSON nor a Python literal"):
        read_amazon(reviews, meta)


def test_broken_reviews_name_the_line(tmp_path):
    meta = put(tmp_path / "meta_x.json", ["{'asin': 'a', 'title': 't'}"])
    reviews = put(tmp_path / "reviews.json", [json.dumps(REVIEW_2014), json.dumps({"asin": "x"})])
    with pytest.raises(
        DataError, match=r"reviews.json: line 2 has no field 'reviewerID' \(fields found: asin\)"
    ):
        read_amazon(reviews, meta)
    packed = put(tmp_path / "reviews.json.gz", [json.dumps(REVIEW_2014)] * 50)
    packed.write_bytes(packed.read_bytes()[:-12])
    with pytest.raises(DataError, match=r"reviews.json.gz cannot be read"):
        read_amazon(packed, meta)
    packed.write_bytes(gzip.compress(b"")[:10] + b"\xff" * 20)  # a header, and no block behind it
    with pytest.raises(DataError, match=r"reviews.json.gz cannot be read"):
        read_amazon(packed, meta)
    put(reviews, ["[1]"])
    with pytest.raises(DataError, match="line 1 is not a record"):
        read_amazon(reviews, meta)


@pytest.mark.parametrize("value", ["2014-01-01", [1], 2**63, 1e30, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["unixReviewTime", "overall"])
def test_reviews_with_what_is_no_number_name_the_line(tmp_path, name, value):
    meta = put(tmp_path / "meta_x.json", ["{'asin': '7806397051', 'title': 't'}"])
    lines = [json.dumps(REVIEW_2014), json.dumps(REVIEW_2014 | {name: value})]
    reviews = put(tmp_path / "reviews.json", lines)
    with pytest.raises(DataError, match=rf"line 2 has '.*' for '{name}', which is no number"):
        read_amazon(reviews, meta)
    put(reviews, [json.dumps(REVIEW_2014 | {"unixReviewTime": "1391040000", "overall": 4})])
    assert read_amazon(reviews, meta)[0].select(TIME, RATING).rows() == [(1391040000, 4.0)]


def test_steam(tmp_path):
    put(
        tmp_path / "steam_reviews.json.gz",
        [
            "{u'username': u'Chaos Syren', u'hours': u'0.1', u'products': 41, "
            "u'product_id': u'725280', u'page_order': 0, u'date': u'2017-12-17', "
            "u'text': u'This would not be \"acceptable\"', u'early_access': False, u'page': 1}",
            "{u'username': u'Bob', u'product_id': u'328100', u'date': u'1970-01-02', u'text': u''}",
        ],
    )
    put(
        tmp_path / "steam_games.json.gz",
        [
            "{u'publisher': u'Kotoshiro', u'genres': [u'Action', u'Indie'], "
            "u'app_name': u'Lost Summoner Kitty', u'title': u'Lost Summoner Kitty', "
            "u'id': u'725280'}",
            "{u'app_name': u'Rogue', u'tags': [u'RPG'], u'id': u'328100'}",
            "{u'url': u'http://store.example.com/', u'app_name': u'No id'}",
        ],
    )
    events, items = read_source(tmp_path, "steam")[""]
    assert events.rows() == [("Chaos Syren", "725280", 1513468800), ("Bob", "328100", 86_400)]
    assert items.rows() == [
        ("725280", "Lost Summoner Kitty", "Action|Indie"),
        ("328100", "Rogue", "RPG"),
    ]
    put(
        tmp_path / "steam_reviews.json.gz",
        ["{'username': 'x', 'product_id': '1', 'date': 'yesterday'}"],
    )
    with pytest.raises(DataError, match="line 1 has the date 'yesterday'"):
        read_steam(tmp_path / "steam_reviews.json.gz", tmp_path / "steam_games.json.gz")


def test_steam_libraries(tmp_path):
    put(
        tmp_path / "australian_users_items.json.gz",
        [
            "{'user_id': '76561197970982479', 'items_count': 2, 'steam_id': '7', "
            "'items': [{'item_id': '10', 'item_name': 'Counter-Strike', 'playtime_forever': 6}, "
            "{'item_id': '20', 'item_name': \"Team's Fortress\", 'playtime_forever': 0}]}",
        ],
    )
    events, items = read_source(tmp_path, "steam")[""]
    assert events.rows() == [("76561197970982479", "10"), ("76561197970982479", "20")]
    assert items.rows() == [("10", "Counter-Strike"), ("20", "Team's Fortress")]


def test_recbole_films(tmp_path):
    put(
        tmp_path / "ml.inter",
        [
            "user_id:token\titem_id:token\trating:float\ttimestamp:float",
            "1m_1\tMatrix, The (1999)\t5\t978300760",
        ],
    )
    put(
        tmp_path / "ml.item",
        [
            "item_id:token\tmovie_title:token\trelease_year:float\tgenre:token",
            "Matrix, The (1999)\tMatrix, The\t1999\tAction Sci-Fi",
        ],
    )
    events, items = read_source(tmp_path, "recbole")[""]
    assert events.select(USER, ITEM, TIME, RATING).rows() == [
        ("1m_1", "Matrix, The (1999)", 978300760, 5.0)
    ]
    assert items.rows() == [("Matrix, The (1999)", "The Matrix (1999)", "Action Sci-Fi")]


def complete_journey_files(tmp_path):
    moment = datetime(2017, 1, 1, 12)
    rows = [
        (1, 11, moment.replace(hour=15)),
        (1, 10, moment),
        (1, 12, moment.replace(hour=13)),
        (2, 20, moment),
        (2, 30, moment),
        (2, 99, moment),
    ]
    bought = pl.DataFrame(
        rows,
        schema={
            "household_id": pl.Int64,
            "product_id": pl.Int64,
            "transaction_timestamp": pl.Datetime("ns"),
        },
        orient="row",
    )
    bought.write_parquet(tmp_path / "transactions.parquet")
    goods = [
        (10, "GROCERY", "National", "FRZN ICE", "ICE - CRUSHED/CUBED", "22 LB"),
        (11, "GROCERY", "National", "FRZN ICE", "ICE - CRUSHED/CUBED", "22 LB"),  # the same again
        (12, "GROCERY", "Private", "BREAD", "BREAD:ITALIAN/FRENCH", None),
        (20, "COSMETICS", "National", "MAKEUP", "MAYBELLINE", None),
        (30, "PRODUCE", "National", "APPLES", "APPLES GALA (BULK&BAG", None),
        (99, "FUEL", "National", "GAS", "GAS", None),
    ]
    names = [
        "product_id",
        "department",
        "brand",
        "product_category",
        "product_type",
        "package_size",
    ]
    pl.DataFrame(goods, schema=names, orient="row").write_parquet(tmp_path / "products.parquet")


def test_complete_journey(tmp_path):
    complete_journey_files(tmp_path)
    domains = read_source(tmp_path, "complete_journey")
    assert list(domains) == ["grocery", "drug_gm", "fresh"]
    events, items = domains["grocery"]
    assert events.select(USER, ITEM).rows() == [("1", "10"), ("1", "12")]
    assert events[TIME].to_list() == [1483272000, 1483275600]
    assert items.rows() == [
        ("10", "Ice - Crushed/Cubed (Frozen Ice), national brand, 22 lb", "GROCERY > FRZN ICE"),
        ("12", "Bread: Italian/French (Bread), store brand", "GROCERY > BREAD"),
    ]
    assert domains["fresh"][1][TITLE].to_list() == [
        "Apples Gala (Bulk&Bag) (Apples), national brand"
    ]
    assert domains["drug_gm"][0].select(USER, ITEM).rows() == [("2", "20")]
    pl.DataFrame({"product_id": [1]}).write_parquet(tmp_path / "products.parquet")
    with pytest.raises(DataError, match=r"products.parquet lacks the column"):
        read_complete_journey(tmp_path / "transactions.parquet", tmp_path / "products.parquet")


def test_product_titles():
    assert product_title("SHAMPOO", "SHAMPOO", "National", None) == "Shampoo, national brand"
    assert product_title("SS  SOUP", "SOUP", None, " 12 OZ ") == "Single Serve Soup (Soup), 12 oz"


def test_convert_writes_tables_in_time_order(tmp_path):
    put(tmp_path / "ratings.dat", ["2::10::5::30", "1::10::3::20", "2::11::4::10"])
    put(tmp_path / "movies.dat", ["10::A (1990)::Drama", "11::B (1991)::Drama"])
    (folder,) = convert(tmp_path, "movielens", tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == [
        "interactions.parquet",
        "items.parquet",
    ]
    assert pl.read_parquet(folder / "interactions.parquet").select(USER, ITEM).rows() == [
        ("2", "11"),
        ("2", "10"),
        ("1", "10"),
    ]
    complete_journey_files(tmp_path)
    folders = convert(tmp_path, "complete_journey", tmp_path / "three")
    assert [f.name for f in folders] == ["grocery", "drug_gm", "fresh"]
    assert pl.read_parquet(folders[2] / "items.parquet").columns == [ITEM, TITLE, CATEGORIES]


@pytest.mark.parametrize("kind", ["movielens", "amazon", "steam", "recbole", "complete_journey"])
def test_a_folder_without_the_files_is_named(tmp_path, kind):
    with pytest.raises(DataError, match=r"holds no|cannot be read"):
        read_source(tmp_path, kind)


def test_unknown_reader_and_missing_folder(tmp_path):
    with pytest.raises(DataError, match="no reader 'netflix'; choose one of movielens"):
        read_source(tmp_path, "netflix")
    with pytest.raises(DataError, match="is not a folder"):
        read_source(tmp_path / "x", "movielens")


@pytest.mark.parametrize(
    ("ratings", "movies", "message"),
    [
        ("1::2::3", "1::A::B", "3 fields a line"),
        ("1::2::good::4", "1::A::B", "no MovieLens file of ratings"),
        ("1::2::3::4", "1::A", r"movies.dat: line 1 has 2 field\(s\) and must have 3"),
    ],
)
def test_broken_movielens(tmp_path, ratings, movies, message):
    with pytest.raises(DataError, match=message):
        read_movielens(
            put(tmp_path / "ratings.dat", [ratings]), put(tmp_path / "movies.dat", [movies])
        )


def test_ratings_of_another_form_are_refused(tmp_path):
    (tmp_path / "ratings.txt").write_text("1::1::5::1")
    (tmp_path / "movies.dat").write_text("1::A (1999)::B")
    with pytest.raises(DataError, match=r"ratings.txt is no MovieLens file of ratings; give"):
        read_movielens(tmp_path / "ratings.txt", tmp_path / "movies.dat")


def test_steam_titles_cut_through_a_character_are_mended(tmp_path):
    owned = {"user_id": "u", "items": [{"item_id": "1", "item_name": "Half \ud83d"}]}
    put(tmp_path / "libraries.json", [json.dumps(owned)])
    _, items = read_libraries(tmp_path / "libraries.json")
    assert items.rows() == [("1", "Half ?")]
