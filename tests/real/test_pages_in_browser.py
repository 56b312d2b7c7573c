"""The pages in a real browser: no error, no foreign request, nothing that axe finds, at three widths, in four languages, with
JavaScript and without."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import axe_playwright_python
import pytest

from events.vocabulary import Stage
from services.api_client import Client
from services.gateway.pages.language import translations
from services.gateway.pages.words import TABLES
from tests.journeys.process import RunningNode

ROLES = ("be-police-antwerp-1", "nl-shelter-01-staff", "be-coordinator-1", "be-auditor-1")
WIDTHS = (320, 390, 1280)
LANGUAGES = ("nl", "fr", "de", "en")
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
SCREENSHOTS = os.environ.get("HAVEN_TEST_SCREENSHOTS", "")
"""A folder to put a picture of each page of the story into; none if empty."""
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


class Seen:
    """What a browser met on the way: everything in it is a failure."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.errors: list[str] = []
        self.away_to = ""

    def watch(self, page: Any) -> None:
        page.on("console", lambda message: self._note(message.type in ("error", "warning"), f"console: {message.text}"))
        page.on("pageerror", lambda error: self._note(True, f"error: {error}"))
        page.on("request", lambda asked: self._note(not self._ours(asked.url), f"foreign request: {asked.url}"))
        page.on("response", lambda answer: self._note(answer.status >= 400, f"{answer.status}: {answer.url}"))

    def _ours(self, address: str) -> bool:
        return address.startswith((self.url, "data:", "blob:")) or bool(
            self.away_to and address.startswith(self.away_to)
        )

    def _note(self, wrong: bool, what: str) -> None:
        if wrong:
            self.errors.append(what)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with RunningNode(tmp_path_factory.mktemp("node"), speed=1) as node:
        yield node


@pytest.fixture(scope="module")
def logins(node: RunningNode) -> dict[str, str]:
    return dict(json.loads(node.logins.read_text()))


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@contextmanager
def a_page(browser: Any, node: RunningNode, **settings: Any) -> Iterator[tuple[Any, Seen]]:
    context = browser.new_context(base_url=node.url, **settings)
    seen = Seen(node.url)
    page = context.new_page()
    seen.watch(page)
    try:
        yield page, seen
    finally:
        context.close()
    assert seen.errors == []


def sign_in(page: Any, logins: dict[str, str], username: str) -> None:
    page.goto("/sign-in")
    page.locator("#username").fill(username)
    page.locator("#password").fill(logins[username])
    page.locator("main button").click()
    page.wait_for_url(lambda address: "/oauth/" not in address and "/signed-in" not in address)


def findings(page: Any) -> list[str]:
    """What axe finds on the page, by rule and place."""
    page.evaluate(AXE)  # by the debugger: the page's own policy lets no foreign script in
    result = page.evaluate("rules => axe.run({runOnly: rules})", RULES)
    return [f"{one['id']}: {node['target']}" for one in result["violations"] for node in one["nodes"]]


def pages_of(page: Any) -> list[str]:
    """The pages in the menu of whoever is signed in."""
    links = page.locator("nav .haven-identity-bar__pages a, nav[data-pages] a").all()
    return [str(link.get_attribute("href")) for link in links]


@pytest.mark.parametrize("username", ROLES)
def test_every_page_of_a_role_is_sound_at_every_width_in_every_language(
    browser: Any, node: RunningNode, logins: dict[str, str], username: str
) -> None:
    with a_page(browser, node, locale="en-GB") as (page, seen):
        sign_in(page, logins, username)
        addresses = [*pages_of(page), "/sessions", "/help", "/accessibility"]
        for language in LANGUAGES:
            page.goto(f"/language/{language}?to=/sessions")
            for address in addresses:
                page.goto(address)
                assert page.locator("html").get_attribute("lang") == language
                assert page.locator("h1").count() == 1, address
                assert findings(page) == [], address
                for width in WIDTHS:
                    page.set_viewport_size({"width": width, "height": 800})
                    overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                    assert overflow <= 0, f"{address} at {width} in {language} is {overflow} px too wide"
        assert seen.errors == []


@pytest.mark.parametrize("username", ROLES)
def test_every_page_works_without_javascript(
    browser: Any, node: RunningNode, logins: dict[str, str], username: str
) -> None:
    with a_page(browser, node, java_script_enabled=False, viewport={"width": 390, "height": 800}) as (page, _):
        sign_in(page, logins, username)
        for address in [*pages_of(page), "/sessions"]:
            page.goto(address)
            assert page.locator("h1").count() == 1, address
        page.locator("form[action='/sign-out'] button").click()
        page.wait_for_url(node.url + "/")
        assert page.locator("a[href='/sign-in']").is_visible()


def test_the_exit_leaves_nothing_to_go_back_to(browser: Any, node: RunningNode, logins: dict[str, str]) -> None:
    with a_page(browser, node) as (page, seen):
        seen.away_to = "https://www.meteo.be/"
        page.route("https://www.meteo.be/**", lambda route: route.fulfill(status=200, body="sunny"))
        sign_in(page, logins, ROLES[0])
        page.goto("/sessions")
        page.locator("form[action='/exit'] button").click()
        page.wait_for_url("https://www.meteo.be/**")
        page.goto(f"{node.url}/sessions")
        assert "/oauth/authorize" in page.url


def test_nothing_of_a_sign_in_stays_in_the_browser(browser: Any, node: RunningNode, logins: dict[str, str]) -> None:
    with a_page(browser, node) as (page, _):
        sign_in(page, logins, ROLES[0])
        kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        assert kept == '[{},{},""]'
        cookies = {cookie["name"]: cookie for cookie in page.context.cookies()}
        assert cookies["haven"]["httpOnly"]
        assert cookies["haven"]["sameSite"] == "Strict"
        for cookie in cookies.values():
            assert "." not in cookie["value"], "no token: those have three parts"


def looked_at(page: Any, name: str) -> None:
    """One page of the story, as it is on a phone and on a desk."""
    assert findings(page) == [], name
    assert page.locator("h1").count() == 1, name
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 850})
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0, f"{name} at {width} is {overflow} px too wide"
    if SCREENSHOTS:
        page.set_viewport_size({"width": 390, "height": 850})
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png", full_page=True)


def a_new_request(police: Any) -> str:
    """The path of a case that was opened on a phone just now."""
    police.goto("/requests/new")
    looked_at(police, "new-request")
    police.select_option("#region", "BE21")
    police.fill("#women", "1")
    police.check("input[name=consented_countries][value=NL]")
    police.fill("#callback", "synthetic: ask the desk for the night officer")
    police.click("main form button")
    police.wait_for_url("**/requests/*")
    case = urlsplit(police.url).path
    looked_at(police, "case")
    assert "night officer" not in police.content()
    return case


def test_a_household_is_placed_abroad_through_the_pages_of_four_people(
    browser: Any, node: RunningNode, logins: dict[str, str]
) -> None:
    with ExitStack() as people:

        def signed_in(username: str) -> Any:
            page, _ = people.enter_context(a_page(browser, node))
            sign_in(page, logins, username)
            page.goto("/language/nl?to=/sessions")
            return page

        police, origin = signed_in("be-police-antwerp-1"), signed_in("be-coordinator-1")
        case = a_new_request(police)
        origin.goto("/board")
        looked_at(origin, "board")
        assert origin.locator(f"#case-{case.rpartition('/')[2]}").count() == 1
        origin.goto(f"{case}/shortlist")
        looked_at(origin, "shortlist")

        # Who was asked is nobody's to guess: the first Dutch shelter with an ask in its inbox answers.
        for username in sorted(name for name in logins if name.startswith("nl-shelter-") and name.endswith("-staff")):
            shelter = signed_in(username)
            shelter.goto("/asks")
            if ask := shelter.locator("main a[href^='/asks/']").all():
                break
        looked_at(shelter, "asks")
        answer_page = str(ask[0].get_attribute("href"))
        shelter.goto(answer_page)
        looked_at(shelter, "ask")
        shelter.check("input[type=radio][value=yes]")
        shelter.fill("#rendezvous", "synthetic: the desk of the station")
        shelter.click("main form button")
        shelter.wait_for_load_state()
        looked_at(shelter, "answered")
        shelter.goto("/places")
        looked_at(shelter, "places")

        origin.goto(f"{case}/proposal?ask={answer_page.rpartition('/')[2]}")
        looked_at(origin, "proposal")
        origin.click("main form button")
        origin.wait_for_url(f"**{case}/signature")
        looked_at(origin, "proposed")

        host = signed_in("nl-coordinator-1")
        host.goto(f"{case}/signature")
        looked_at(host, "signature")
        host.locator("form:has(input[value=sign]) button").click()
        host.wait_for_load_state()
        looked_at(host, "signed")

        origin.goto(f"{case}/journey")
        looked_at(origin, "journey")
        for part in ("", "/timeline", "/consent", "/disclosures", "/withdrawal"):
            police.goto(case + part)
            looked_at(police, f"case{part.replace('/', '-')}-later")
        police.goto(case)
        assert translations("nl").ugettext(TABLES["Stage"][Stage.CONFIRMED]) in police.content()


def test_the_board_shows_a_new_request_by_itself(browser: Any, node: RunningNode, logins: dict[str, str]) -> None:
    with a_page(browser, node) as (board, _), a_page(browser, node) as (police, _):
        sign_in(board, logins, "be-coordinator-1")
        sign_in(police, logins, "be-police-antwerp-1")
        board.goto("/board")
        board.wait_for_timeout(500)
        board.evaluate("document.body.dataset.loaded = 'once'")
        case = a_new_request(police)
        row = board.locator(f"#case-{case.rpartition('/')[2]}")
        row.wait_for(timeout=5_000)
        assert board.evaluate("document.body.dataset.loaded") == "once", "by itself, not by loading the page again"
        assert findings(board) == []


def test_the_map_of_regions_shows_a_report_by_itself(browser: Any, node: RunningNode, logins: dict[str, str]) -> None:
    """Whoever stands on a tile keeps standing there."""
    shelter = Client(node.url, logins)
    unit = shelter.send("nl-shelter-01-staff", "GET", "/api/v1/shelters/nl-shelter-01/units").body["units"][0]
    with a_page(browser, node) as (page, _):
        sign_in(page, logins, "nl-coordinator-1")
        page.goto("/regions")
        page.wait_for_timeout(500)
        page.evaluate("document.body.dataset.loaded = 'once'")
        tile = page.locator(f".haven-tilemap__tile[href='#{unit['region']}']")
        before = tile.locator(".haven-tilemap__number").text_content()
        tile.focus()
        capacity = f"/api/v1/shelters/nl-shelter-01/units/{unit['unit_id']}/capacity"
        more = {"beds": unit["beds"] + 7, "free": unit["free"] + 7, "blocked": unit["blocked"]}
        if unit["blocked"]:
            more |= {"blocked_because": unit["blocked_because"]}
        seen = f'"{unit["revision"]}"'
        told = shelter.send("nl-shelter-01-staff", "PUT", capacity, more, If_Match=seen, Prefer="wait=10")
        assert told.status == 200, told.body
        page.wait_for_function(
            "([tile, before]) => tile.querySelector('.haven-tilemap__number').textContent !== before",
            arg=[tile.element_handle(), before],
            timeout=5_000,
        )
        assert page.evaluate("document.body.dataset.loaded") == "once", "by itself, not by loading the page again"
        assert page.evaluate("document.activeElement.getAttribute('href')") == f"#{unit['region']}"
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == f"#{unit['region']}"
        assert page.locator(f"tr#{unit['region']}").is_visible()
        assert findings(page) == []


@pytest.mark.timeout(120)
def test_a_board_whose_session_has_ended_does_not_stand_there_as_if_it_lived(
    browser: Any, node: RunningNode, logins: dict[str, str]
) -> None:
    with a_page(browser, node) as (board, _):
        sign_in(board, logins, "be-coordinator-1")
        board.goto("/board")
        board.wait_for_timeout(500)
        other = board.context.new_page()
        other.goto("/sessions")
        other.locator("form[action='/sign-out'] button").click()
        board.wait_for_url("**/oauth/authorize**", timeout=30_000)


@pytest.mark.parametrize(
    "path", ["/docs", "/docs/events", "/docs/events/placement.placement.proposed.v1", "/docs/problems"]
)
def test_what_a_program_is_told_is_shown_by_us_alone(browser: Any, node: RunningNode, path: str) -> None:
    with a_page(browser, node) as (page, _):
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 850})
            page.goto(path, wait_until="networkidle")
            overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert overflow <= 0, f"{path} at {width} is {overflow} px too wide"
        shown_by_another = page.locator("#api-docs")  # the accessibility page says what it lacks
        if shown_by_another.count():
            page.locator("#operations-erasures-order_erasure").click()
            page.locator("#operations-erasures-order_erasure .opblock-body").get_by_text("request_id").first.wait_for()
            assert page.get_by_role("button", name="Try it out").count() == 0
            assert page.get_by_role("button", name="Authorize").count() == 0
            shown_by_another.evaluate("it => it.remove()")
        assert findings(page) == []
