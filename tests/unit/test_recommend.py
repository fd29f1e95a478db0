"""Recommendations from the whole catalogue: fitting, never what is known, new items too."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from reccocktail.errors import AdapterError, DataError, RecipeError, RunError
from reccocktail.evaluation.evaluate import evaluate
from reccocktail.evaluation.settings import EvaluationSettings
from reccocktail.ranking import additions, build
from reccocktail.ranking.additions import COLLABORATIVE_WEIGHTS, WORDS_WEIGHTS, Beside, Weights
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.newcomers import Levels
from reccocktail.ranking.prior import WEIGHTS, popularity_prior
from reccocktail.ranking.scoring import Catalogue, ItemVectors, encode
from reccocktail.recipe import ChoiceSettings, GenerateSettings, LoraSettings
from reccocktail.schema import EVALUATION_TABLES
from reccocktail.serving import catalogue as module
from reccocktail.serving.lookup import TitleLookup
from reccocktail.serving.recommend import Recommender
from reccocktail.storage import read_json
from reccocktail.training.model import merged, model_sha256
from reccocktail.training.schedule import Length
from reccocktail.training.trainer import train
from tests.adapters import pico_recipe, random_adapter
from tests.domains import TASTES, taste_domain, taste_of
from tests.helpers import changed, one_sentence
from tests.pico import pico_backbone


@pytest.fixture(scope="module")
def backbone():
    return pico_backbone()


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return taste_domain(tmp_path_factory.mktemp("domain"), users=120)


@pytest.fixture(scope="module")
def learned(backbone, domain, tmp_path_factory):
    """An ingredient that has learned to read tastes."""
    out = tmp_path_factory.mktemp("trained") / "ingredient"
    recipe = pico_recipe(backbone.name, learning_rate=1e-2, validations=0)
    recipe = recipe.model_copy(update={"lora": LoraSettings(rank=8, alpha=16.0)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECCOCKTAIL_CACHE", str(out.with_name("cache")))
        return train("ingredient", [domain], backbone, recipe, out, Length(steps=80))


@pytest.fixture
def recommender(domain, learned, backbone):
    return Recommender(domain, learned, backbone)


@pytest.fixture(scope="module")
def plain(backbone, domain):
    """An adapter that changes nothing: the bare backbone."""
    return random_adapter(backbone, domain, "plain", scale=0.0)


# -- what comes out ---------------------------------------------------------------------------


def test_a_learned_taste_is_recommended(recommender, domain):
    rows = domain.rows("test_warm")
    hits = []
    for history in rows["history"].to_list()[:12]:
        taste = taste_of(domain.titles[domain.index[history[0]]])
        hits += [taste_of(place.title) == taste for place in recommender.recommend(history, 5)]
    assert np.mean(hits) > 0.8  # by chance 0.25


def test_places_are_in_order_and_whole(recommender, domain):
    history = domain.rows("test_warm")["history"][0].to_list()
    places = recommender.recommend(history, 20)
    assert [place.rank for place in places] == list(range(1, 21))
    assert len({place.item_id for place in places}) == 20
    scores = [place.score for place in places]
    assert scores == sorted(scores, reverse=True)
    for place in places:
        assert domain.titles[domain.index[place.item_id]] == place.title
    assert recommender.recommend(history, 3) == places[:3]


def test_history_is_never_recommended(recommender, domain):
    for history in domain.rows("test_warm")["history"].to_list()[:6]:
        everything = recommender.recommend(history, 10**6)
        ids = {place.item_id for place in everything}
        assert ids == set(domain.item_ids) - set(history)


def test_items_without_interactions_are_flagged(recommender, domain):
    places = recommender.recommend(domain.item_ids[:1], 10**6)
    new = {place.item_id for place in places if place.new}
    counts = dict(zip(domain.item_ids, domain.train_counts().tolist(), strict=True))
    assert new == {item for item, count in counts.items() if not count} - {domain.item_ids[0]}
    cold = set(domain.items.filter(pl.col("split") != "warm")["item_id"])
    assert cold and cold - {domain.item_ids[0]} <= new


def test_scores_are_those_of_the_evaluation(domain, learned, backbone):
    """The model, and what stands beside it in weights that validation users choose."""
    recommender = Recommender(domain, learned, backbone)
    rows = domain.rows("test_warm").head(1)
    recipe = learned.card.recipe
    ranker = DenseRanker(backbone.tokenizer, recipe.prompt, recipe.dense)
    catalogue = Catalogue.of(domain, ranker)
    items = ItemVectors(catalogue)
    with merged(backbone.model, learned.lora) as model:
        vectors = encode(model, items, catalogue, [rows], "Scoring", whole_catalogue=True)[0]
    text = ranker.logits(vectors.users, items.all()).double().numpy()[0]
    prior = popularity_prior(domain.train_counts())
    place = recommender.recommend(rows["history"][0].to_list(), 10**6)
    found = {domain.index[p.item_id]: p.score for p in place}
    spaces = (catalogue.spaces.words, catalogue.spaces.collaborative)
    cosines = [space.catalogue(catalogue.history_items(rows))[0] for space in spaces]
    parts = np.stack([prior, *cosines], axis=1)
    new = domain.train_counts() == 0
    known, fresh = ([item for item in found if new[item] == kind] for kind in (False, True))
    off = np.array([found[item] for item in known]) - text[known]
    weights, *_ = np.linalg.lstsq(parts[known], off)
    assert parts[known] @ weights == pytest.approx(off, abs=1e-3)
    assert weights[2] > 1, "who chose what does not count, so it is not tested"
    choices_of = (WEIGHTS, WORDS_WEIGHTS, COLLABORATIVE_WEIGHTS)
    for weight, choices in zip(weights, choices_of, strict=True):
        assert min(abs(weight - choice) for choice in choices) < 1e-2
    # New items are brought to the level of known ones.
    whole = text + parts @ weights
    mean = whole[~new].mean()
    spread, shift = np.polyfit(whole[fresh] - mean, [found[item] - mean for item in fresh], 1)
    _, levels = module.weigh(
        backbone.model, catalogue, model_sha256(backbone, learned.lora), level=True
    )
    assert (spread, shift) == pytest.approx((levels.spread, levels.shift), abs=2e-2)
    change = max(abs(levels.spread - 1), abs(levels.shift))
    assert change > 0.1, "nothing is changed, so nothing is tested"
    expected = mean + levels.spread * (whole[fresh] - mean) + levels.shift
    assert [found[item] for item in fresh] == pytest.approx(expected, abs=2e-2)


def test_judged_as_served_scores_are_those_that_are_recommended(
    domain, learned, backbone, tmp_path
):
    """In the weights and levels that are served, of both scenarios' candidates."""
    settings = EvaluationSettings(users=5, as_served=True)
    out = tmp_path / "e"
    pair = [(learned, tmp_path / learned.name)]
    evaluate(domain, pair, backbone, out, baselines=["popularity"], settings=settings)
    run = read_json(out / "run.json")["models"][learned.name]
    assert run["levels"]["warm"] == run["levels"]["cold"] and run["levels"]["warm"]["spread"] != 1
    assert run["collaborative_weight"]["warm"] == run["collaborative_weight"]["cold"] > 0
    recommender = Recommender(domain, learned, backbone)
    table = pl.read_parquet(out / "predictions.parquet").filter(pl.col("model") == learned.name)
    assert table.height == 10
    for scenario, user, candidates, scores in table.select(
        "scenario", "user_id", "candidates", "scores"
    ).iter_rows():
        rows = domain.rows(f"test_{scenario}").filter(pl.col("user_id") == user)
        served = recommender.recommend(rows["history"][0].to_list(), 10**6)
        score = {place.item_id: place.score for place in served}
        assert scores == pytest.approx([score[item] for item in candidates], abs=1e-3)


def test_what_is_not_served_is_not_judged_so(domain, learned, backbone, tmp_path):
    settings = EvaluationSettings(users=5, as_served=True)
    pair, out = [(learned, tmp_path / learned.name)], tmp_path / "e"
    with pytest.raises(RecipeError, match="Popularity is part") as refused:
        evaluate(domain, pair, backbone, out, settings=replace(settings, prior=False))
    one_sentence(refused.value)
    with pytest.raises(RunError, match="Controls are no models to be served") as refused:
        evaluate(domain, pair, backbone, out, controls=["average"], settings=settings)
    one_sentence(refused.value)
    recipe = pico_recipe().model_copy(update={"ranker": "generate"})
    with pytest.raises(RunError, match="rank by vectors") as refused:
        evaluate(domain, [], backbone, out, settings=settings, recipe=recipe)
    one_sentence(refused.value)


# -- new items --------------------------------------------------------------------------------


def test_a_title_without_interactions_can_be_first(domain, learned, backbone, monkeypatch):
    none = Weights(), Levels()
    monkeypatch.setattr(Beside, "choose", lambda *_: none)  # by the model alone
    new = [f"{one} {two}" for nouns in TASTES for one in nouns for two in nouns if one != two]
    assert not set(new) & set(domain.titles)
    recommender = Recommender(domain, learned, backbone, new)
    first, right = [], []
    for history in domain.rows("test_warm")["history"].to_list()[:40]:
        taste = taste_of(domain.titles[domain.index[history[0]]])
        places = recommender.recommend(history, 3)
        first.append(places[0].new and places[0].item_id.startswith("new:"))
        right += [taste_of(place.title) == taste for place in places if place.title in new]
    assert sum(first) >= 5
    assert np.mean(right) > 0.8


def test_a_new_title_scores_as_its_words_do(domain, plain, backbone, monkeypatch):
    """Identical in text to the best item, which is known: it takes that item's place."""
    monkeypatch.setattr(Beside, "choose", lambda *_: (Weights(), Levels()))
    history = domain.rows("test_warm")["history"][0].to_list()
    best = Recommender(domain, plain, backbone).recommend(history, 1)[0]
    twin = Recommender(domain, plain, backbone, [best.title])
    one, two = twin.recommend(history, 2)
    assert {one.item_id, two.item_id} == {best.item_id, "new:1"}
    assert one.score == pytest.approx(two.score, abs=1e-4) == pytest.approx(best.score, abs=1e-4)
    assert two.title == best.title and (one.new or two.new)
    everything = twin.recommend(history, 10**6)
    assert sum(place.item_id.startswith("new:") for place in everything) == 1
    for blank in ("  ", "<br>\u200b"):
        with pytest.raises(DataError, match="nothing readable") as error:
            Recommender(domain, plain, backbone, [best.title, blank])
        one_sentence(error.value)


def test_a_new_title_is_cleaned_as_a_catalogues_is(domain, plain, backbone):
    history = domain.rows("test_warm")["history"][0].to_list()
    given = ["Red &amp; <b>black</b>\n tea"]
    everything = Recommender(domain, plain, backbone, given).recommend(history, 10**6)
    assert [p.title for p in everything if p.item_id.startswith("new:")] == ["Red & black tea"]


# -- who is asked for -------------------------------------------------------------------------


def test_history_of_a_user(recommender, domain):
    for user, history in domain.histories().rows()[:3]:
        assert recommender.history_of(user) == history


def test_history_of_a_user_who_only_trains(domain, learned, backbone, tmp_path):
    user, history = domain.train().select("user_id", "history").row(0)
    others = dict.fromkeys(EVALUATION_TABLES, lambda rows: rows.filter(pl.col("user_id") != user))
    without = changed(domain, tmp_path / "d", **others)
    assert Recommender(without, learned, backbone).history_of(user) == history


def test_typed_titles_are_matched(recommender, domain):
    typed = ["red apple", "  GREEN   Bread! ", "blak tea", "red apple"]
    matches = recommender.match([*typed, " ", ""])
    assert [match.title for match in matches] == [
        "red apple",
        "green bread",
        "black tea",
        "red apple",
    ]
    assert [match.typed for match in matches] == [title.strip() for title in typed]
    assert [match.similarity == 100.0 for match in matches] == [True, True, False, True]
    assert 50 <= matches[2].similarity < 100
    for match in matches:
        assert domain.titles[domain.index[match.item_id]] == match.title
    assert recommender.recommend([match.item_id for match in matches], 2)


FILMS = [
    "The Matrix (1999)",
    "Father of the Bride Part II (1995)",
    "Pulp Fiction (1994)",
    "Toy Story (1995)",
    "Star Wars: Episode IV - A New Hope (1977)",
    "Heat (1995)",
    "Organizer; Clutch",
    "Clutch",
    "An Alan Smithee Film: Burn Hollywood Burn (1997)",
]


@pytest.mark.parametrize(
    ("typed", "title"),
    [
        ("matrix, the movie", FILMS[0]),
        ("pulp fiction film", FILMS[2]),
        ("toy story two", FILMS[3]),
        ("star wars episode 4", FILMS[4]),
        ("mtrix", FILMS[0]),
        ("heat", FILMS[5]),
    ],
)
def test_one_shared_word_does_not_decide(typed, title):
    lookup = TitleLookup("films", [str(place) for place in range(len(FILMS))], FILMS)
    assert lookup.match([typed])[0].title == title


def test_of_titles_that_read_alike_the_one_that_is_spelled_so_is_meant():
    lookup = TitleLookup("teas", ["a", "b"], ["dup tea", "Dup Tea"])
    assert [lookup.match([typed])[0].item_id for typed in ("dup tea", "Dup Tea", "DUP TEA")] == [
        "a", "b", "a"
    ]  # fmt: skip
    longer = lookup.extended(["a", "b", "c", "d"], ["dup tea", "Dup Tea", "DUP TEA", "Dup Tea"])
    assert [longer.match([typed])[0].item_id for typed in ("DUP TEA", "Dup Tea", "DUP tea")] == [
        "c", "b", "a"
    ]  # fmt: skip


def test_search_knows_no_accents():
    lookup = TitleLookup("films", ["a", "b"], ["Amélie (2001)", "Pokémon: Mewtwo"])
    assert [lookup.search(text, 5) for text in ("amelie", "AMÉLIE", "pokemon mew")] == [
        [0],
        [0],
        [1],
    ]


@pytest.mark.parametrize("typed", ["\N{GRINNING FACE}", "$$", "!!!"])
def test_titles_without_letters_do_not_resemble_one_another(typed):
    lookup = TitleLookup("films", ["a", "b"], ["Heat", "???"])
    with pytest.raises(DataError, match="No title of films resembles"):
        lookup.match([typed])
    assert lookup.match(["???"])[0].item_id == "b"


@pytest.mark.parametrize(
    ("text", "titles"),
    [
        ("Organizer; Clutch", ["Organizer; Clutch"]),
        ("heat; organizer;  clutch ;Clutch;", ["heat", "organizer;  clutch", "Clutch", ""]),
        ("Clutch; Organizer", ["Clutch", "Organizer"]),
        ("Toy; Story (1995)", ["Toy", "Story (1995)"]),
        ("a;b", ["a", "b"]),
        ("", [""]),
    ],
)
def test_titles_with_semicolons_stay_whole(text, titles):
    lookup = TitleLookup("films", [str(place) for place in range(len(FILMS))], FILMS)
    assert lookup.split(text) == titles


def test_a_title_of_signs_is_no_part_of_the_one_beside_it():
    """Keys hold letters alone, unless there are none: three titles read as two of them do."""
    titles = ["Organizer; Clutch", "\N{GRINNING FACE}", "Up; \N{GRINNING FACE}", "Tea; Pot;", "Up"]
    lookup = TitleLookup("films", list("abcde"), titles)
    for text, ids in [
        ("organizer; clutch; \N{GRINNING FACE}", "ab"),
        ("\N{GRINNING FACE}; Organizer; Clutch;", "ba"),
        ("Up; \N{GRINNING FACE}", "c"),
        ("Up; Up; \N{GRINNING FACE}", "ec"),
        ("Tea; Pot; Up", "de"),
        ("tea; pot", "d"),
        ("Tea; Pot;", "d"),
    ]:
        assert "".join(match.item_id for match in lookup.match(lookup.split(text))) == ids, text
    assert TitleLookup("none", [], []).split("a; b") == ["a", "b"]


@pytest.mark.parametrize(
    ("ask", "what"),
    [
        (lambda r: r.history_of("nobody"), "no user 'nobody'"),
        (lambda r: r.match([]), "history is empty"),
        (lambda r: r.match(["  ", ""]), "history is empty"),
        (lambda r: r.match(["red apple", "zxqv wkjh"]), "resembles 'zxqv wkjh'"),
        (lambda r: r.match(["!?"]), "resembles '!\\?'"),
        (lambda r: r.recommend([]), "history is empty"),
        (lambda r: r.recommend(["i1"], 0), "-k must be at least 1, not 0"),
        (lambda r: r.recommend(["i1"], -3), "-k must be at least 1, not -3"),
        (lambda r: r.recommend(["i1", "none"]), "no item 'none'"),
    ],
)
def test_bad_questions_get_one_sentence(recommender, ask, what):
    with pytest.raises(DataError, match=what) as error:
        ask(recommender)
    one_sentence(error.value)


def test_an_adapter_of_another_backbone_is_refused(domain, plain):
    with pytest.raises(AdapterError, match="was trained on backbone") as error:
        Recommender(domain, plain, pico_backbone(seed=9))
    one_sentence(error.value)


# -- cache ------------------------------------------------------------------------------------


def test_a_second_recommender_reads_the_cache(domain, learned, backbone, monkeypatch):
    history = domain.rows("test_warm")["history"][0].to_list()
    first = Recommender(domain, learned, backbone).recommend(history)
    rows = []
    real = DenseRanker.item_vectors

    def counting(self, model, titles, *rest):
        rows.append(len(titles))
        return real(self, model, titles, *rest)

    monkeypatch.setattr(DenseRanker, "item_vectors", counting)
    assert Recommender(domain, learned, backbone).recommend(history) == first
    assert sum(rows) == 0
    # Another adapter has vectors of its own.
    other = random_adapter(backbone, domain, "other", seed=4)
    assert Recommender(domain, other, backbone).recommend(history) != first
    assert sum(rows) == len(domain.item_ids)


def test_weights_are_remembered_for_what_they_were_chosen_for(domain, plain, backbone, monkeypatch):
    """Same weights of the model: rankers with other settings, and other grids, choose anew."""
    few = [SimpleNamespace(scores=[])]
    numbers = itertools.count(1)
    monkeypatch.setattr(module, "score", lambda *_, **__: few)
    monkeypatch.setattr(
        Beside,
        "choose",
        lambda *_: (Weights(prior=float(next(numbers))), Levels(2.0, 1.0)),
    )

    def weights(level=True, **settings):
        ranker = build(backbone, plain.card.recipe.model_copy(update=settings))
        catalogue = Catalogue.of(domain, ranker)
        found, levels = module.weigh(backbone.model, catalogue, "a model", level)
        assert levels == Levels(2.0, 1.0)
        return found.prior

    asked = [
        {},
        {"ranker": "generate"},
        {"ranker": "generate", "generate": GenerateSettings(length="mean")},
        {"ranker": "choice"},
        {"ranker": "choice", "choice": ChoiceSettings(orders=2)},
        {"level": False},
    ]
    for _ in range(2):
        assert [weights(**settings) for settings in asked] == [1, 2, 3, 4, 5, 6]
    monkeypatch.setattr(module, "WORDS_WEIGHTS", (0.0, 3.0))
    assert weights() == 7


@pytest.mark.parametrize("damaged", ["", "{}", '{"weights": {"price": 1}, "levels": {}}'])
def test_remembered_weights_that_are_damaged_are_chosen_again(
    domain, plain, backbone, monkeypatch, tmp_path, damaged
):
    monkeypatch.setenv("RECCOCKTAIL_CACHE", str(tmp_path / "cache"))
    catalogue = Catalogue.of(domain, build(backbone, plain.card.recipe))
    first = module.weigh(backbone.model, catalogue, "a model", True)
    (file,) = (tmp_path / "cache" / "priors").iterdir()
    whole = file.read_text()
    file.write_text(damaged)
    assert module.weigh(backbone.model, catalogue, "a model", True) == first
    assert file.read_text() == whole


def test_weights_are_chosen_by_who_took_known_and_who_took_new_items(
    domain, plain, backbone, tmp_path, monkeypatch
):
    warm, cold = (domain.rows(f"valid_{scenario}") for scenario in ("warm", "cold"))
    monkeypatch.setattr(additions, "WEIGHING_USERS", 5)
    asked = []

    def choosing(self, scores, positive):
        asked.append([row[place] for row, place in zip(self.candidates, positive, strict=True)])
        return Weights(), Levels()

    monkeypatch.setattr(Beside, "choose", choosing)
    one = changed(domain, tmp_path / "one", valid_cold=lambda rows: rows.head(0))
    for number, of in enumerate((domain, one)):
        ranker = build(backbone, plain.card.recipe)
        module.weigh(backbone.model, Catalogue.of(of, ranker), f"model {number}", level=True)
    ids = [{domain.item_ids[item] for item in targets} for targets in asked]
    assert [len(targets) for targets in asked] == [10, 5]
    assert ids[0] & set(cold["target"]) and ids[0] & set(warm["target"])
    assert ids[1] <= set(warm["target"])


def test_another_reading_of_titles_is_not_confused(domain, plain, backbone, monkeypatch):
    """Same weights, other prompt settings: no vector comes from the other's cache."""
    none = Weights(), Levels()
    monkeypatch.setattr(Beside, "choose", lambda *_: none)  # by the model alone
    history = domain.rows("test_warm")["history"][0].to_list()
    Recommender(domain, plain, backbone).recommend(history)
    recipe = plain.card.recipe
    short = recipe.model_copy(
        update={"prompt": recipe.prompt.model_copy(update={"title_tokens": 1})}
    )
    brief = replace(plain, card=plain.card.model_copy(update={"recipe": short}))
    with_both = Recommender(domain, brief, backbone).recommend(history, 10**6)
    cold = domain.items.filter(pl.col("split") != "warm")["title"].to_list()
    by_colour = {}
    for place in with_both:
        if place.title in cold:  # no prior: titles cut to their colour score alike
            by_colour.setdefault(place.title.split()[0], []).append(place.score)
    shared = [scores for scores in by_colour.values() if len(scores) > 1]
    assert shared and all(max(s) - min(s) < 1e-4 for s in shared)
