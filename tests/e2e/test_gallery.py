from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from tests.e2e.site import HOSTILE, Site

pytestmark = pytest.mark.programs

CARD = "#grid .card:not(.blank)"
GRAPHQL = "**/graphql"
FIRST_LOADED = "() => document.querySelector('#grid .card img')?.naturalWidth > 0"


def search(page: Page, query: str) -> None:
    """Types a query, sends it, and waits for its pictures."""
    page.fill("#query", query)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"\?q="))
    expect(page.locator("#status")).to_contain_text("ms")
    expect(page.locator("#grid")).to_have_attribute("aria-busy", "false")


def titles(page: Page) -> list[str]:
    """The captions of the pictures shown, best first."""
    return page.locator(f"{CARD} .title").all_inner_texts()


def ids(page: Page) -> list[str]:
    """The ids of the pictures shown, best first."""
    found: list[str] = page.locator(CARD).evaluate_all("cards => cards.map(card => card.dataset.id)")
    return found


def asked(page: Page) -> dict[str, list[str]]:
    """What the address asks for."""
    return parse_qs(urlsplit(page.url).query)


def scroll_to_end(page: Page) -> None:
    """Scrolls down as long as more pictures come."""
    page.wait_for_function(
        "() => { scrollTo(0, document.body.scrollHeight); return !document.getElementById('end').hidden }"
    )


def refuse(code: str, **extensions: object) -> Callable[[Route], None]:
    """An answer that carries this error."""
    errors = [{"message": f"The server says {code}.", "extensions": {"code": code, **extensions}}]
    return lambda route: route.fulfill(json={"data": None, "errors": errors})


# ---------------------------------------------------------------- finding


def test_a_query_shows_the_right_pictures_first(page: Page, site: Site):
    """Words find the pictures whose captions say them, with score, latency and total."""
    page.goto(site.url)
    search(page, "a red boat at night")
    assert titles(page)[0] == "a red boat at night"
    scores = [float(text) for text in page.locator(f"{CARD} .score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    expect(page.locator("#status")).to_contain_text(re.compile(r"\d+ pictures.*\d ms"))
    expect(page).to_have_title("a red boat at night · Sightline")


def test_thumbnails_are_shown_with_words_for_those_who_cannot_see_them(page: Page, site: Site):
    """Every picture in sight has loaded, has its size, and its caption as alternative text."""
    page.goto(f"{site.url}/?q=yellow+flower")
    image = page.locator(f"{CARD} img").first
    expect(image).to_have_attribute("alt", re.compile("a yellow flower"))
    expect(image).to_have_attribute("width", re.compile(r"^\d+$"))
    page.wait_for_function(FIRST_LOADED)


def test_an_answer_from_the_cache_says_so(page: Page, site: Site):
    """The second time, the same search is marked as cached."""
    page.goto(f"{site.url}/?q=a+purple+car+remembered")
    expect(page.locator("#status")).to_contain_text("ms")
    page.reload()
    expect(page.locator("#status")).to_contain_text("cached")


def test_the_first_page_offers_examples_with_their_pictures(page: Page, site: Site):
    """Before anything is typed there are queries to click, each with the picture it finds."""
    page.goto(site.url)
    expect(page.locator("#query")).to_be_focused()
    expect(page.locator(".sample img")).to_have_count(8)
    page.locator(".sample", has_text="a red boat at night").click()
    expect(page.locator(CARD).first).to_contain_text("a red boat at night")
    assert asked(page) == {"q": ["a red boat at night"]}


def test_categories_narrow_the_answer(page: Page, site: Site):
    """A category's chip leaves only its pictures, as many as the chip says, and two add up."""
    page.goto(f"{site.url}/?q=red")
    chip = page.locator("#categories .chip", has_text="animals")
    chip.click()
    expect(chip).to_have_attribute("aria-pressed", "true")
    count = int(chip.locator(".count").inner_text())
    expect(page.locator("#status")).to_contain_text(f"{count} pictures")
    assert asked(page)["category"] == ["animals"]
    assert all(re.search("dog|cat", title) for title in titles(page))
    page.locator("#categories .chip", has_text="plants").click()
    expect(page).to_have_url(re.compile("category=animals&category=plants"))


def test_more_like_this_searches_with_the_picture(page: Page, site: Site):
    """A picture's neighbours come, its chip can be taken away, and words can be added to it."""
    page.goto(f"{site.url}/?q=green+tree")
    card = page.locator(CARD, has_text="a green tree at night").first
    like = card.get_attribute("data-id")
    card.hover()
    card.get_by_role("button", name="More like this").click()
    expect(page.locator("#like .chip")).to_be_visible()
    expect(page).to_have_url(re.compile(f"like={like}"))
    expect(page.locator("#grid")).to_have_attribute("aria-busy", "false")
    assert all(re.search("green|tree", title) for title in titles(page)[:5])
    page.fill("#query", "day")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"q=day&like={like}"))
    page.locator("#like .chip").click()
    expect(page.locator("#like")).to_be_hidden()
    assert asked(page) == {"q": ["day"]}


def test_scrolling_goes_on_to_the_end_without_duplicates(page: Page, site: Site):
    """Page after page comes while one scrolls, until every picture was shown exactly once."""
    page.goto(f"{site.url}/?q=boat")
    scroll_to_end(page)
    shown = Counter(ids(page))
    assert set(shown.values()) == {1}
    expect(page.locator("#status")).to_contain_text(f"{len(shown)} picture")


def test_a_search_that_finds_nothing_says_what_to_do(page: Page, site: Site):
    """An empty answer offers every category, and that brings the pictures."""
    page.goto(f"{site.url}/?q=red&category=submarines")
    expect(page.locator("#nothing")).to_be_visible()
    page.get_by_role("button", name="All categories").click()
    expect(page.locator(CARD).first).to_be_visible()
    assert asked(page) == {"q": ["red"]}


# ---------------------------------------------------------------- the address


def test_back_and_forward_go_through_the_searches(page: Page, site: Site):
    """The browser's own buttons lead from search to search, box and pictures alike."""
    page.goto(site.url)
    search(page, "red car")
    search(page, "blue dog")
    page.go_back()
    expect(page.locator("#query")).to_have_value("red car")
    expect(page.locator(CARD).first).to_contain_text("red car")
    page.go_back()
    expect(page.locator("#welcome")).to_be_visible()
    page.go_forward()
    expect(page.locator(CARD).first).to_contain_text("red car")


def test_a_reload_keeps_everything(page: Page, site: Site):
    """Query, categories and example picture come back from the address alone."""
    page.goto(f"{site.url}/?q=white+car")
    like = page.locator(CARD).first.get_attribute("data-id")
    page.goto(f"{site.url}/?q=night&category=vehicles&like={like}")
    expect(page.locator("#like .chip")).to_be_visible()
    before = ids(page)
    page.reload()
    expect(page.locator("#query")).to_have_value("night")
    expect(page.locator("#like .chip")).to_be_visible()
    expect(page.locator("#categories .chip[aria-pressed=true]")).to_have_count(1)
    assert ids(page)[: len(before)] == before[: len(ids(page))]


# ---------------------------------------------------------------- the large view


def test_a_picture_opens_large_with_what_is_known_about_it(page: Page, site: Site):
    """The dialog names the picture and its metadata, goes on with the arrows, and closes with Escape."""
    page.goto(f"{site.url}/?q=pink+cat+at+night")
    page.locator(f"{CARD} .open").first.click()
    viewer = page.locator("#viewer")
    expect(viewer).to_be_visible()
    expect(viewer.locator("h2")).to_have_text("a pink cat at night")
    expect(viewer.locator("dl")).to_contain_text("kind cat, color pink")
    expect(viewer.get_by_role("button", name="Previous")).to_be_disabled()
    page.keyboard.press("ArrowRight")
    expect(viewer.locator("h2")).to_have_text(titles(page)[1])
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(page.locator(f"{CARD} .open").nth(1)).to_be_focused()


def test_the_large_view_leads_on_past_the_loaded_pictures(page: Page, site: Site):
    """Going on at the last loaded picture loads the next page."""
    page.goto(f"{site.url}/?q=red")
    page.locator(f"{CARD} .open").first.click()
    for _ in range(60):
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("button", name="Next picture")).to_be_enabled()
    expect(page.locator("#viewer dl")).to_contain_text("number 61")


def test_more_like_this_works_from_the_large_view(page: Page, site: Site):
    """The dialog closes and the search begins."""
    page.goto(f"{site.url}/?q=red")
    page.locator(f"{CARD} .open").first.click()
    page.locator("#viewer .like").click()
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator("#like .chip")).to_be_visible()


# ---------------------------------------------------------------- keyboard, sight, size


def test_everything_works_with_the_keyboard_alone(page: Page, site: Site):
    """Slash, words, Enter, arrows, Enter, Escape, Tab: search, move, open, close, more like this."""
    page.goto(f"{site.url}/?q=dog")
    expect(page.locator(CARD).first).to_be_visible()
    page.locator("footer a").focus()
    page.keyboard.press("/")
    expect(page.locator("#query")).to_be_focused()
    page.keyboard.type("orange flower")
    page.keyboard.press("Enter")
    expect(page.locator(CARD).first).to_contain_text("orange flower")
    page.keyboard.press("ArrowDown")
    opens = page.locator(f"{CARD} .open")
    expect(opens.nth(0)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(opens.nth(1)).to_be_focused()
    page.keyboard.press("ArrowDown")
    columns = page.evaluate("getComputedStyle(document.getElementById('grid')).gridTemplateColumns.split(' ').length")
    expect(opens.nth(1 + columns)).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    page.keyboard.press("Escape")
    expect(opens.nth(1 + columns)).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#like .chip")).to_be_visible()
    expect(opens.nth(0)).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.locator("#query")).to_be_focused()


def test_escape_clears_the_box(page: Page, site: Site):
    """One key empties what was typed."""
    page.goto(site.url)
    page.fill("#query", "something")
    page.keyboard.press("Escape")
    expect(page.locator("#query")).to_have_value("")


def test_only_one_picture_is_a_tab_stop(page: Page, site: Site):
    """Tab passes the grid in two steps, the picture and its button, however many pictures there are."""
    page.goto(f"{site.url}/?q=dog")
    expect(page.locator(CARD).first).to_be_visible()
    expect(page.locator("#grid [tabindex='0']")).to_have_count(2)


def test_a_screen_reader_is_told_the_outcome(page: Page, site: Site):
    """The line with the total is a live region."""
    page.goto(f"{site.url}/?q=dog")
    expect(page.get_by_role("status")).to_contain_text("pictures")


@pytest.mark.parametrize("address", ["/", "/?q=red+boat", "/?q=red&category=submarines"])
def test_nothing_is_wider_than_a_narrow_phone(visit: Callable[..., Page], site: Site, address: str):
    """At 360 pixels there is no sideways scrolling, with and without a picture open."""
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page.goto(site.url + address)
    expect(page.locator(f"{CARD}:visible, .sample img:visible, #nothing h2:visible").first).to_be_visible()
    width = "Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
    assert page.evaluate(width) == 360
    if page.locator(CARD).count():
        page.locator(f"{CARD} .open").first.tap()
        expect(page.locator("#viewer h2")).to_be_visible()
        assert page.evaluate("document.getElementById('viewer').scrollWidth") <= 360


CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (color) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgba(color).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (rgba(color)[3] === 255) return color;
    }
    return "white";
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const says = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!says || !element.checkVisibility() || element.closest(".card .like")) continue;
    const [a, b] = [luminance(getComputedStyle(element).color), luminance(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${element.className || element.tagName}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(visit: Callable[..., Page], site: Site, scheme: str):
    """The page follows the system's scheme, and all text on it has a contrast of at least 4.5 to 1."""
    page = visit(color_scheme=scheme)
    page.goto(f"{site.url}/?q=red+boat&category=vehicles")
    expect(page.locator(CARD).first).to_be_visible()
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 128) == (scheme == "dark")
    assert page.evaluate(CONTRAST) == []
    page.locator(f"{CARD} .open").first.click()
    assert page.evaluate(CONTRAST) == []
    page.goto(site.url)
    expect(page.locator(".sample img").first).to_be_visible()
    assert page.evaluate(CONTRAST) == []


def test_nothing_moves_for_those_who_want_it_still(visit: Callable[..., Page], site: Site):
    """With reduced motion no element animates or glides."""
    page = visit(reduced_motion="reduce")
    page.goto(f"{site.url}/?q=red")
    card = page.locator(f"{CARD} .open").first
    card.hover()
    assert card.evaluate("card => getComputedStyle(card).transform") == "none"
    assert card.evaluate("card => getComputedStyle(card).transitionProperty") == "none"


def test_nothing_jumps_while_pictures_load(page: Page, site: Site):
    """From the first paint to the last thumbnail the layout stays where it was."""
    page.add_init_script(
        "window.shift = 0; const add = (list) => list.getEntries().forEach((entry) => { window.shift += entry.value });"
        "new PerformanceObserver(add).observe({ type: 'layout-shift', buffered: true })"
    )
    page.goto(f"{site.url}/?q=red")
    page.wait_for_function(FIRST_LOADED)
    assert page.evaluate("window.shift") < 0.1


# ---------------------------------------------------------------- when things go wrong


def test_a_server_that_goes_away_is_said_and_tried_again(page: Page, site: Site, forgive: Callable[[], None]):
    """Without a server the page says so and keeps the words; once it is back, trying again finds the pictures."""
    page.goto(site.url)
    expect(page.locator("#health")).to_have_attribute("data-health", "healthy")
    site.stop()
    try:
        page.fill("#query", "brown dog")
        page.keyboard.press("Enter")
        expect(page.locator("#failure")).to_contain_text("be reached")
        expect(page.locator("#health")).to_have_attribute("data-health", "down")
    finally:
        site.start()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(CARD).first).to_contain_text("brown dog")
    expect(page.locator("#failure")).to_be_hidden()
    forgive()


def test_the_servers_own_words_are_shown(page: Page, site: Site):
    """An error of the server appears with its message."""
    page.goto(f"{site.url}/?q={'a' * 600}")
    expect(page.locator("#failure")).to_contain_text("512")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()


def test_an_overloaded_server_is_asked_again_by_itself(page: Page, site: Site):
    """The page waits as long as the server says and then shows the pictures."""
    page.goto(site.url)
    expect(page.locator(".sample img").first).to_be_visible()
    page.route(GRAPHQL, refuse("OVERLOADED", retryAfterMs=300), times=2)
    page.fill("#query", "black cat")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("busy")
    expect(page.locator(CARD).first).to_contain_text("black cat")


def test_a_stale_cursor_begins_again(page: Page, site: Site):
    """When the index changed under the pages, the search starts over and comes to its end without duplicates."""
    starts: list[bool] = []

    def change(route: Route) -> None:
        variables = json.loads(route.request.post_data or "{}")["variables"]
        if "first" not in variables:
            route.continue_()
            return
        starts.append(variables["after"] is None)
        if starts == [True, False]:
            refuse("CURSOR_STALE")(route)
        else:
            route.continue_()

    page.route(GRAPHQL, change)
    page.goto(f"{site.url}/?q=car")
    scroll_to_end(page)
    assert starts[:4] == [True, False, True, False]
    assert set(Counter(ids(page)).values()) == {1}
    expect(page.locator("#status")).to_contain_text(f"{len(ids(page))} picture")


def test_a_search_that_is_overtaken_is_ended(page: Page, site: Site):
    """The request of a search that another replaced is aborted, and its late answer never shown."""
    page.goto(site.url)
    expect(page.locator(".sample img").first).to_be_visible()
    aborted: list[str] = []
    page.on("requestfailed", lambda request: aborted.append(request.post_data or ""))

    def hold(route: Route) -> None:
        if "slow" not in (route.request.post_data or ""):
            route.continue_()

    page.route(GRAPHQL, hold)
    page.fill("#query", "slow red")
    page.keyboard.press("Enter")
    search(page, "blue boat")
    assert titles(page)[0].startswith("a blue boat")
    assert len(aborted) == 1
    assert "slow red" in aborted[0]


def test_hostile_names_and_captions_stay_text(page: Page, site: Site):
    """Markup in a file name, caption, category or query is shown as it is written and never runs."""
    page.goto(f"{site.url}/?q=hostile&category={HOSTILE}")
    expect(page.locator(CARD).first).to_contain_text("<img src=x onerror=")
    page.locator(f"{CARD} .open").first.click()
    expect(page.locator("#viewer dl")).to_contain_text("<svg onload=")
    page.locator("#viewer .like").click()
    expect(page.locator("#like .chip")).to_be_visible()
    page.goto(
        f"{site.url}/?q=<img src=x onerror='window.pwned=1'>&like=<b>&category=</button><script>window.pwned=1</script>"
    )
    expect(page.locator("#failure")).to_be_visible()
    assert page.evaluate("window.pwned") is None
    assert page.locator("#grid script, #viewer script, .chip script, .card b").count() == 0
