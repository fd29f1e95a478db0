"""The page in a real browser, before the real service with pico models."""

import importlib
import itertools
import os
import threading
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from reccocktail.mixing.cocktail import mix
from reccocktail.mixing.measure import MixSettings
from reccocktail.schema import TITLE
from reccocktail.serving.app import create_app
from reccocktail.serving.batching import OverloadedError
from reccocktail.serving.keys import Keys
from reccocktail.serving.positions import Positions
from reccocktail.serving.query import Query
from reccocktail.training.adapter import Adapter
from tests.browser import FLAGS, Visit, chromium, listening
from tests.helpers import changed
from tests.serving import kitchen

playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed; the extra dev has it"
)
expect = playwright.expect
expect.set_options(timeout=20_000)  # a busy machine is slow

ROOT = Path(__file__).parents[2]
KEY = "a-key-for-users-45678"
HOSTILE = "<img src=x onerror=\"document.title='hit'\"> {title} & <b>bold</b>"

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="no Chromium on the path or in $CHROMIUM"
)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


def in_roles(here, roles=("base", "ingredient")):
    """The adapters `one` and `two` as what they are to a cocktail."""
    parents = [Adapter.load(here.adapters[name]) for name in ("one", "two")]
    cards = [p.card.model_copy(update={"role": r}) for p, r in zip(parents, roles, strict=True)]
    return [replace(parent, card=card) for parent, card in zip(parents, cards, strict=True)]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The kitchen, a cocktail with a searched curve, and a catalogue of hostile titles."""
    here = kitchen(tmp_path_factory.mktemp("kitchen"))
    mix(
        in_roles(here),
        here.backbone,
        here.tastes,
        "warm",
        here.root / "mixed",
        MixSettings(users=10),
    )
    hostile = pl.Series(TITLE, [HOSTILE.format(title=title) for title in here.small.titles])
    changed(here.small, here.root / "hostile", items=lambda rows: rows.with_columns(hostile))
    return here


@pytest.fixture
def service(here, tmp_path):
    """`films` with a cocktail, `hostile` with one adapter."""
    service = here.service(tmp_path / "state")
    service.changing.remove("tastes")
    service.changing.plug("films", here.tastes.path, here.root / "mixed")
    service.changing.plug("hostile", here.root / "hostile", here.adapters["three"])
    yield service
    service.close()


@pytest.fixture
def address(service):
    with listening(create_app(service)) as address:
        yield address


@pytest.fixture
def visit(browser, address):
    """A visit that must end without an error and without a request to somebody else."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    visit = Visit(context.new_page(), address)
    yield visit
    context.close()
    assert visit.errors == [] and visit.outside == []


@pytest.fixture
def page(visit):
    return visit.page


def titles(answer):
    return [place.title for place in answer.places]


def shown(page, column="list"):
    """Titles of a list, which has settled."""
    expect(page.locator("[aria-busy]")).to_have_count(0)
    return page.locator(f"[data-column={column}] .ranking .title").all_inner_texts()


def show(visit, *items, domain="films", more=""):
    """Go to a history by its address and wait for the list."""
    query = "".join(f"&item={item}" for item in items)
    visit.page.goto(f"{visit.home}/#domain={domain}{query}{more}")
    expect(visit.page.get_by_label("Domain")).to_have_value(domain)
    if items:
        expect(visit.page.locator(".ranking").first).to_be_visible()


def known(here, count=3):
    return here.tastes.item_ids[:count]


# -- history ----------------------------------------------------------------------------------


def test_a_history_is_built_with_the_keyboard_alone(visit, page, service):
    page.goto(visit.home)
    search = page.get_by_role("combobox", name="Search titles")
    expect(page.get_by_text("Add a title or two")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Domain")).to_be_focused()
    page.keyboard.press("Tab")
    expect(search).to_be_focused()

    page.keyboard.type("red b")
    options = page.locator("#options").get_by_role("option")
    found = service.answering.domain("films").lookup.search("red b", 8)
    words = [service.answering.domain("films").titles[number] for number in found]
    expect(options.locator(".title")).to_have_text(words)
    expect(search).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(options.nth(1)).to_have_attribute("aria-selected", "true")
    expect(search).to_have_attribute("aria-activedescendant", options.nth(1).get_attribute("id"))
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")  # round the end
    expect(options.last).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    expect(page.locator(".chip .title")).to_have_text([words[-1]])
    expect(search).to_have_value("")
    expect(search).to_have_attribute("aria-expanded", "false")

    page.keyboard.type("green mo")
    page.keyboard.press("Enter")  # before the list is there
    expect(page.locator(".chip .title")).to_have_text([words[-1], "green moon"])
    page.keyboard.type("gre")
    expect(options.first).to_be_visible()
    page.keyboard.press("Escape")
    expect(options).to_have_count(0)
    expect(search).to_have_value("gre")
    page.keyboard.press("Escape")
    expect(search).to_have_value("")

    numbers = service.answering.domain("films").titles.index
    ids = [
        service.answering.domain("films").ids[numbers(title)] for title in (words[-1], "green moon")
    ]
    assert shown(page) == titles(service.answering.recommend("films", Query(ids)))
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name=f"Remove {words[-1]}")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".chip .title")).to_have_text(["green moon"])
    expect(page.get_by_role("button", name="Remove green moon")).to_be_focused()
    assert shown(page) == titles(service.answering.recommend("films", Query(ids[1:])))
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # clear all
    expect(page.locator(".chip")).to_have_count(0)
    expect(search).to_be_focused()
    expect(page.locator(".ranking")).to_have_count(0)


@pytest.mark.parametrize("late", ["**/v1/domains", "**/v1/domains/films"])
def test_who_types_before_the_domain_is_there_is_answered_when_it_is(visit, page, service, late):
    held = []
    page.route(late, lambda route: held.append(route))
    with page.expect_request(late):
        page.goto(visit.home)
    search = page.get_by_role("combobox", name="Search titles")
    search.fill("red b")
    page.wait_for_timeout(300)  # beyond the lull in typing after which the service is asked
    expect(page.locator("#options")).to_be_hidden()  # not "No title holds these words."
    held.pop().continue_()
    found = service.answering.domain("films").lookup.search("red b", 8)
    words = [service.answering.domain("films").titles[number] for number in found]
    expect(page.locator("#options .title")).to_have_text(words)
    search.press("ArrowDown")
    search.press("Enter")
    expect(page.locator(".chip .title")).to_have_text(words[:1])


def test_what_is_not_there_is_said(visit, page):
    page.goto(visit.home)
    page.get_by_role("combobox", name="Search titles").fill("zzzz")
    expect(page.locator("#options").get_by_role("option")).to_have_text(
        "No title holds these words."
    )
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".chip")).to_have_count(0)


def test_a_recommendation_joins_the_history(visit, page, here, service):
    show(visit, *known(here))
    second = shown(page)[1]
    page.get_by_role("button", name=f"Add {second} to your history").press("Enter")
    expect(page.locator(".chip .title").last).to_have_text(second)
    ids = [
        *known(here),
        service.answering.domain("films").ids[
            service.answering.domain("films").titles.index(second)
        ],
    ]
    expect(page.locator(".ranking .title").first).to_be_visible()
    expect(page.locator(".ranking .add").nth(1)).to_be_focused()
    assert shown(page) == titles(service.answering.recommend("films", Query(ids)))


def test_the_address_keeps_domain_history_mix_and_view(visit, page, here, browser):
    show(visit, *known(here))
    page.get_by_role("slider").press("Home")
    expect(page.get_by_role("status")).to_have_text("10 items, ranked by two.")
    first = shown(page)
    page.get_by_text("Side by side").click()
    expect(page.locator(".ranking")).to_have_count(3)
    context = browser.new_context()
    other = context.new_page()
    other.goto(page.url)
    expect(other.locator(".chip .title")).to_have_text(
        page.locator(".chip .title").all_inner_texts()
    )
    expect(other.locator(".ranking")).to_have_count(3)
    assert shown(other, "cocktail") == shown(other, "ingredient") == first
    context.close()


def test_an_address_that_makes_no_sense_is_survived(visit, page, here):
    show(visit, *known(here, 1), "nope", more="&mix=NaN&view=%3Cb%3E&item=" + "x" * 300)
    expect(page.get_by_role("alert")).to_contain_text("films has no item 'nope'")
    expect(page.locator(".chip")).to_have_count(1)
    assert len(shown(page)) == 10
    page.goto(f"{visit.home}/#domain=elsewhere&item=i1&mix=0.123")
    expect(page.get_by_role("alert")).to_contain_text("no domain 'elsewhere'")
    expect(page.get_by_label("Domain")).to_have_value("films")
    expect(page.locator(".chip")).to_have_count(0)


# -- ranking ----------------------------------------------------------------------------------


def test_scores_categories_and_new_items_are_shown(visit, page, here, service):
    show(visit, *known(here))
    answer = service.answering.recommend("films", Query(known(here)))
    assert shown(page) == titles(answer)
    scores = page.locator(".ranking .number").all_inner_texts()
    assert scores == [f"{place.score:.2f}" for place in answer.places]
    widths = page.locator(".ranking .fill").evaluate_all("all => all.map(one => one.style.width)")
    assert widths[0] == "100%" and len(set(widths)) > 5
    categories = page.locator(".ranking .categories").all_inner_texts()
    assert categories == [" · ".join(place.categories) for place in answer.places]
    badges = [row.locator(".badge").count() for row in page.locator(".ranking li").all()]
    assert badges == [place.new for place in answer.places] and 0 < sum(badges) < 10
    page.get_by_label("New items only").check()
    expect(page.locator(".ranking .badge")).to_have_count(10)
    new = service.answering.recommend("films", Query(known(here), new_only=True))
    assert shown(page) == titles(new)


def test_the_list_follows_the_slider(visit, page, here, service):
    show(visit, *known(here))
    slider, words = page.get_by_role("slider"), page.locator("#lambda-words")
    chosen = here_chosen(service)
    expect(words).to_contain_text("(chosen)")
    before = shown(page)
    assert before == titles(service.answering.recommend("films", Query(known(here))))
    stops = [pair[0] for pair in service.answering.positions.of(service.answering.domain("films"))]
    slider.press("Home")
    expect(words).to_have_text("two alone")
    for _ in stops[1:]:
        slider.press("ArrowRight")
    expect(words).to_contain_text("one alone")
    slider.press("ArrowLeft")
    expect(words).to_have_text("75 % one, 25 % two")
    expect(slider).to_have_attribute("aria-valuetext", "75 % one, 25 % two")
    expect(page.get_by_role("status")).to_contain_text("ranked by 0.75 one + 0.25 two")
    between = service.answering.recommend("films", Query(known(here), coefficients=(0.75, 0.25)))
    assert shown(page) == titles(between) != before
    assert "mix=0.75" in page.url and chosen != 0.75
    slider.fill("0.31")  # as the mouse sets it
    expect(words).to_have_text("25 % one, 75 % two")
    page.get_by_role("button", name="Back to the chosen mix").click()
    expect(words).to_contain_text("(chosen)")
    expect(page.get_by_role("status")).to_contain_text("ranked by mixed")
    assert shown(page) == before and "mix=" not in page.url


def here_chosen(service):
    return service.answering.domain("films").cocktail["coefficients"]["all"][0]


def test_a_mix_that_is_being_prepared_shows_how_far_it_is(visit, page, here, monkeypatch):
    real, go_on = Positions._encode, threading.Event()

    def slow(positions, key, *rest):
        positions._shares[key] = 0.37
        assert go_on.wait(60)
        return real(positions, key, *rest)

    monkeypatch.setattr(Positions, "_encode", slow)
    show(visit, *known(here))
    before = shown(page)
    page.get_by_role("slider").press("Home")
    expect(page.get_by_text("Preparing this mix: 37 %")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_have_attribute("value", "0.37")
    expect(page.get_by_role("status")).to_contain_text("Preparing this mix")
    assert page.locator(".ranking .title").all_inner_texts() == before  # still in sight
    go_on.set()
    expect(page.get_by_role("status")).to_have_text("10 items, ranked by two.")
    assert shown(page) != before
    expect(page.get_by_role("progressbar")).to_have_count(0)


def test_base_spirit_ingredient_and_cocktail_stand_side_by_side(visit, page, here, service):
    show(visit, *known(here))
    page.get_by_text("Side by side").click()
    expect(page.locator(".ranking")).to_have_count(3)
    headings = page.locator(".column h3").all_inner_texts()
    assert headings == ["Base spirit", "Ingredient", "Cocktail"]
    lists = {name: shown(page, name) for name in ("base", "ingredient", "cocktail")}
    for name, first in (("base", 1.0), ("ingredient", 0.0)):
        answer = service.answering.recommend(
            "films", Query(known(here), coefficients=(first, 1 - first))
        )
        assert lists[name] == titles(answer)
    page.get_by_role("slider").press("Home")
    page.get_by_role("slider").press("ArrowRight")
    expect(page.locator(".column").last).to_contain_text("25 % one, 75 % two")
    expect(page.get_by_role("status")).to_have_text("Three lists of 10 items.")
    own = service.answering.recommend("films", Query(known(here), coefficients=(0.25, 0.75)))
    assert shown(page, "cocktail") == titles(own)
    assert shown(page, "base") == lists["base"]
    common = set(lists["base"]) & set(lists["ingredient"]) & set(titles(own))
    marked = page.locator(".common .title").all_inner_texts()
    assert len(marked) == 3 * len(common) > 0 and set(marked) == common
    first = page.locator(".common").first
    first.get_by_role("button").focus()
    expect(page.locator(".lit .title")).to_have_text([first.locator(".title").inner_text()] * 3)
    page.get_by_label("One list").check()
    expect(page.locator(".ranking")).to_have_count(1)


def test_two_adapters_of_one_role_are_told_apart(visit, page, here, service):
    folder = here.root / "spirits"
    parents = in_roles(here, ("base", "base"))
    mix(parents, here.backbone, here.tastes, "warm", folder, MixSettings(users=10))
    service.changing.plug("films", here.tastes.path, folder)
    show(visit, *known(here))
    page.get_by_text("Side by side").click()
    expect(page.locator(".column h3")).to_have_text(["First adapter", "Second adapter", "Cocktail"])
    expect(page.get_by_role("slider")).to_have_accessible_name(
        "λ between second adapter and first adapter"
    )


def test_the_curve_is_drawn_with_its_chosen_point(visit, page, here, service):
    show(visit, *known(here))
    curve, sheet = (
        page.get_by_role("img", name="Entropy and validation"),
        service.answering.domain("films"),
    )
    points = sheet.cocktail["curve"]
    expect(curve.locator("circle.dot.objective")).to_have_count(len(points))
    expect(curve.locator("circle.dot.quality")).to_have_count(len(points))
    chosen = curve.locator("circle.chosen")
    expect(chosen).to_have_count(1)
    lowest = curve.locator("circle.dot.objective").evaluate_all(
        "all => Math.max(...all.map(one => Number(one.getAttribute('cy'))))"
    )
    assert float(chosen.get_attribute("cy")) == lowest  # entropy chose it, and y points downwards
    here_line = curve.locator("line.here")
    expect(here_line).to_have_attribute("x1", chosen.get_attribute("cx"))
    page.get_by_role("slider").press("Home")
    expect(here_line).not_to_have_attribute("x1", chosen.get_attribute("cx"))
    page.get_by_text("The curve as a table").click()
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(len(points))
    for row, point in zip(rows.all(), points, strict=True):
        expect(row.locator("td")).to_have_text(
            [f"{point['entropy']:.4f}", f"{point['validation']['ndcg@10']:.4f}"]
        )
    expect(page.locator("tr.chosen th")).to_contain_text("(chosen)")
    expect(page.locator("#mix")).to_contain_text(sheet.cocktail["agreement"])


def test_the_curve_is_that_of_the_objective(visit, page, here, service):
    """Not of plain entropy, which another objective's choice may lie at the top of."""
    parents = [Adapter.load(here.adapters[name]) for name in ("one", "two")]
    folder, settings = here.root / "calibrated", MixSettings(users=10, objective="calibrated")
    mix(parents, here.backbone, here.tastes, "warm", folder, settings)
    service.changing.plug("calibrated", here.tastes.path, folder)
    show(visit, *known(here), domain="calibrated")
    curve = page.get_by_role("img", name="Calibrated entropy and validation")
    heights = curve.locator("circle.dot.objective").evaluate_all(
        "all => all.map(one => Number(one.getAttribute('cy')))"
    )
    assert float(curve.locator("circle.chosen").get_attribute("cy")) == max(heights)
    page.get_by_text("The curve as a table").click()
    points = service.answering.domain("calibrated").cocktail["curve"]
    for row, point in zip(page.locator("tbody tr").all(), points, strict=True):
        expect(row.locator("td").first).to_have_text(f"{point['calibrated_entropy']:.4f}")


def test_a_cocktail_of_whole_adapters_is_no_place_on_the_slider(visit, page, here, service):
    """Neither the base spirit alone nor a mean: what is served is said, and the ends are others."""
    parents = [Adapter.load(here.adapters[name]) for name in ("one", "two")]
    folder = here.root / "whole"
    mix(parents, here.backbone, here.tastes, "warm", folder, MixSettings(users=10), (1.0, 1.0))
    service.changing.plug("whole", here.tastes.path, folder)
    show(visit, *known(here), domain="whole")
    words = page.locator("#lambda-words")
    expect(words).to_have_text("as it is served: 100 % of one and 100 % of two")
    own = shown(page)
    assert own == titles(service.answering.recommend("whole", Query(known(here))))
    page.get_by_role("slider").press("End")
    expect(words).to_have_text("one alone")
    expect(page.get_by_role("status")).to_contain_text("ranked by one")
    alone = service.answering.recommend("whole", Query(known(here), coefficients=(1.0, 0.0)))
    assert shown(page) == titles(alone)
    assert "mix=1" in page.url
    page.get_by_role("button", name="Back to the cocktail as it is served").click()
    expect(words).to_contain_text("as it is served")
    assert shown(page) == own


def test_one_adapter_has_no_slider_and_hostile_titles_stay_text(visit, page, service):
    page.goto(visit.home)
    page.get_by_label("Domain").select_option("hostile")
    expect(page.get_by_text("One adapter ranks here, three (ingredient)")).to_be_visible()
    for absent in ("slider", "radio", "img"):
        expect(page.get_by_role(absent)).to_have_count(0)
    page.get_by_role("combobox", name="Search titles").fill("red apple bold")
    title = service.answering.domain("hostile").titles[
        service.answering.domain("hostile").lookup.search("apple", 1)[0]
    ]
    assert title.startswith("<img")
    expect(page.locator("#options").get_by_role("option").first.locator(".title")).to_contain_text(
        "<img src=x"
    )
    page.keyboard.press("Enter")
    expect(page.locator(".chip .title")).to_contain_text("<img src=x onerror=")
    assert all(text.startswith("<img src=x") for text in shown(page))
    page.get_by_role("button", name="Add <img").first.click()
    expect(page.locator(".chip")).to_have_count(2)
    expect(page.locator("main img, main b")).to_have_count(0)
    expect(page).to_have_title("RecCocktail")


# -- errors, keys -----------------------------------------------------------------------------


def test_an_overloaded_service_is_asked_again(visit, page, here, service, monkeypatch):
    real, busy = service.answering.submit, True

    def submit(*query):
        if busy:
            raise OverloadedError(7)
        return real(*query)

    monkeypatch.setattr(service.answering, "submit", submit)
    page.goto(f"{visit.home}/#domain=films&item={known(here)[0]}")
    expect(page.get_by_role("alert").last).to_have_text(str(OverloadedError(7)))
    busy = False
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".ranking li")).to_have_count(10)
    expect(page.locator(".error")).to_have_count(0)
    visit.forgive("status of 429")


def test_a_service_that_is_gone_is_noticed_and_found_again(visit, page, here):
    show(visit, *known(here))
    page.context.set_offline(True)
    page.get_by_label("New items only").check()
    expect(page.locator(".error")).to_contain_text("The service does not answer")
    page.get_by_role("combobox", name="Search titles").fill("red")
    expect(page.locator("#notice")).to_contain_text("The service does not answer")
    page.context.set_offline(False)
    page.locator("#columns").get_by_role("button", name="Try again").click()
    expect(page.locator(".ranking .badge")).to_have_count(10)
    page.locator("#notice").get_by_role("button", name="Try again").click()
    expect(page.locator("#notice")).to_be_hidden()
    visit.forgive("ERR_INTERNET_DISCONNECTED")


def test_the_sentence_of_the_service_is_shown(visit, page, here, service):
    show(visit, *known(here))
    service.changing.remove("films")
    page.get_by_label("New items only").check()
    expect(page.locator(".error")).to_have_text(
        "There is no domain 'films' here; GET /v1/domains lists them."
    )
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)  # it would not help
    visit.forgive("status of 404")


def test_a_key_is_asked_for_and_kept_in_this_tab_only(browser, service, here):
    with listening(create_app(service, Keys(user=KEY))) as address:
        context = browser.new_context()
        visit = Visit(context.new_page(), address)
        page = visit.page
        page.goto(f"{address}/#domain=films&item={known(here)[0]}")
        form = page.locator("#key-form")
        expect(form).to_contain_text("The key is missing or wrong")
        expect(page.get_by_label("API key")).to_be_focused()
        page.keyboard.type("a-wrong-key-0123456789")
        page.keyboard.press("Enter")
        expect(page.get_by_label("API key")).to_have_value("")
        expect(form).to_be_visible()
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Continue").click()
        expect(page.locator(".ranking li")).to_have_count(10)
        expect(form).to_be_hidden()
        page.reload()
        expect(page.locator(".ranking li")).to_have_count(10)
        assert KEY not in page.url and page.evaluate("localStorage.length") == 0
        assert context.cookies() == []
        visit.forgive("status of 401")
        assert visit.errors == [] and visit.outside == []
        context.close()


def test_no_domain_is_said(browser, here, tmp_path):
    service = here.service(tmp_path / "empty")
    service.changing.remove("tastes")
    with listening(create_app(service)) as address:
        page = browser.new_page()
        page.goto(address)
        expect(page.get_by_role("alert")).to_contain_text("No domain is served yet.")
        page.close()


def test_all_that_hinders_is_said_at_once(browser, here, tmp_path):
    service = here.service(tmp_path / "hindered")
    service.changing.remove("tastes")
    for name in ("a", "b"):
        service.answering.unavailable(name, f"The adapter of {name} is damaged.")
    with listening(create_app(service)) as address:
        page = browser.new_page()
        page.goto(address)
        for sentence in ("adapter of a is", "adapter of b is", "No domain is served yet."):
            expect(page.get_by_role("alert")).to_contain_text(sentence)
        page.close()


# -- everybody --------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_in_one_direction_only(browser, address, here, scheme):
    context = browser.new_context(
        viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True
    )
    visit = Visit(context.new_page(), address)
    page = visit.page

    def check():
        widths = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert widths == [360, 360]

    page.goto(address)
    expect(page.get_by_text("Add a title or two")).to_be_visible()
    check()
    show(visit, *known(here))
    check()
    page.get_by_text("Side by side").tap()
    expect(page.locator(".ranking")).to_have_count(3)
    boxes = [one.bounding_box() for one in page.locator(".column").all()]
    assert boxes[0]["y"] < boxes[1]["y"] < boxes[2]["y"]  # stacked
    page.get_by_text("The curve as a table").tap()
    check()
    page.get_by_label("Domain").select_option("hostile")
    page.get_by_role("combobox", name="Search titles").fill("apple")
    expect(page.locator("#options").get_by_role("option").first).to_be_visible()
    check()
    page.locator("#options").get_by_role("option").first.tap()
    expect(page.locator(".ranking li")).to_have_count(10)
    check()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in dark[4:-1].split(",")) < 3 * 128) == (scheme == "dark")
    assert visit.errors == [] and visit.outside == []
    context.close()


NAMELESS = """all => all.filter(one => !(one.labels?.length || one.getAttribute('aria-label')
    || one.textContent.trim())).map(one => one.outerHTML)"""


def test_everything_has_a_name_and_its_turn(visit, page, here):
    show(visit, *known(here, 2))
    page.get_by_text("Side by side").click()
    expect(page.locator(".ranking")).to_have_count(3)
    assert page.locator("input, select, button, summary").evaluate_all(NAMELESS) == []
    assert (
        page.locator("[id]").evaluate_all(
            "all => all.map(one => one.id).filter((id, n, ids) => ids.indexOf(id) !== n)"
        )
        == []
    )
    headings = page.locator("h1, h2, h3").evaluate_all(
        "all => all.filter(one => one.offsetParent).map(one => Number(one.tagName[1]))"
    )
    assert headings[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(headings))
    page.locator("#domain").focus()
    names = []
    for _ in range(8):
        page.keyboard.press("Tab")
        names.append(
            page.evaluate(
                """() => { const one = document.activeElement;
                const ring = getComputedStyle(one.closest('.segments label') ?? one).outlineStyle;
                return ring === 'none' ? `no ring: ${one.outerHTML}`
                    : one.id || one.value || one.getAttribute('aria-label'); }"""
            )
        )
    chips = [f"Remove {title}" for title in page.locator(".chip .title").all_inner_texts()]
    first = page.locator(".ranking .title").first.inner_text()
    expected = ["search", *chips, "clear", "new-only", "compare", "lambda"]
    if page.get_by_role("button", name="Back to the chosen mix").is_hidden():
        expected.append(f"Add {first} to your history")
    assert names == expected


def test_pictures_are_taken(browser, address, tmp_path, monkeypatch, here):
    """`RECCOCKTAIL_SCREENSHOTS=DIR` keeps them."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    out = Path(os.environ.get("RECCOCKTAIL_SCREENSHOTS") or tmp_path / "img")
    words = [here.tastes.titles[number] for number in (1, 20, 77)]
    module = importlib.import_module("page_screenshots")
    files = module.shoot(browser, address, "films", words, out)
    assert [file.name for file in files] == [
        "page_desktop.png",
        "page_compare.png",
        "page_phone.png",
    ]
    for file, width in zip(files, (1280, 1280, 360), strict=True):
        head = file.read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n" and int.from_bytes(head[16:20]) == width
