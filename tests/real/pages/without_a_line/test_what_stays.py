"""A browser that loses its line: what it still shows, and what of all that was seen stays in it."""

import re
from contextlib import ExitStack

import pytest

from tests.real.pages.visitor import LANGUAGES, People, findings, picture, too_wide
from tests.real.pages.without_a_line.line import SHELTER, STAFF, Line, cut, kept, wait_for_the_worker

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

CACHED = """async () => {
    const found = {};
    for (const name of await caches.keys())
        for (const asked of await (await caches.open(name)).keys())
            found[asked.url] = await (await caches.match(asked)).text();
    return found;
}"""


def test_without_a_line_there_is_a_page_in_each_language_that_says_so_and_it_goes_by_itself(
    people: People, line: Line
) -> None:
    with ExitStack() as visits:
        pages = {language: visits.enter_context(people.visit(STAFF, language)) for language in LANGUAGES}
        for page in pages.values():
            page.goto("/places")
            wait_for_the_worker(page)
        with cut(line, *pages.values()):
            for language, page in pages.items():
                page.goto("/asks")
                assert page.locator("[data-offline]").count() == 1
                assert page.locator("html").get_attribute("lang") == language
                assert page.locator("a[href='tel:112']").count() == 3
                assert "aven" not in page.inner_text("body")
                assert page.evaluate("document.fonts.check('16px \"Atkinson Hyperlegible Next\"')")
                assert findings(page) == []
                assert too_wide(page) == []
                picture(page, f"no-line-{language}")
        for page in pages.values():
            page.wait_for_selector("header", timeout=20_000)
            assert page.url.endswith("/asks")


def test_nothing_of_what_was_seen_stays_in_the_browser(people: People, line: Line) -> None:
    with people.visit(STAFF, anew=True) as page:
        for path in ("/places", "/asks", "/requests", "/sessions", "/places"):
            page.goto(path)
            wait_for_the_worker(page)
        token = page.locator("input[name=csrf]").first.input_value()
        found = page.evaluate(CACHED)
        paths = {re.sub(r"^https?://[^/]+|\?.*$", "", address) for address in found}
        assert {path for path in paths if not path.startswith("/static/")} == {"/offline/en"}
        for text in found.values():
            assert SHELTER not in text
            assert token not in text
        assert kept(page) == []
        assert page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])") == "[{},{}]"


def test_the_worker_does_not_lend_the_cookie_to_another_site(people: People, line: Line) -> None:
    """What a worker fetches counts as asked for by its own site; so it must not fetch pages, and never a form."""
    other = "http://elsewhere.example/"
    with people.visit(STAFF, anew=True) as page:
        page.seen.away_to = other
        page.goto("/sessions")
        wait_for_the_worker(page)
        url = page.url.removesuffix("/sessions")
        body = (
            f'<a href="{url}/sessions">there</a><form method="post" action="{url}/sign-out"><button>out</button></form>'
        )
        page.route(
            f"{other}**",
            lambda route: route.fulfill(status=200, content_type="text/html", body=f"<link rel=icon href=data:>{body}"),
        )
        page.goto(other)
        page.click("a")
        page.wait_for_url("**/oauth/authorize**")
        page.goto(other)
        page.seen.expected = 403
        page.click("button")
        page.wait_for_url("**/sign-out")
        page.seen.expected = 0
        page.goto("/sessions")
        assert page.locator("form[action='/sign-out']").count() == 1, "still signed in"


def test_a_new_release_replaces_the_shell_and_the_language_of_the_page_is_that_of_the_worker(
    people: People, line: Line
) -> None:
    with people.visit(STAFF, "nl") as page:
        page.goto("/sessions")
        wait_for_the_worker(page)
        before = page.evaluate("caches.keys()")
        page.goto("/language/fr?to=/sessions")
        wait_for_the_worker(page)
        (after,) = page.evaluate("caches.keys()")
        assert after not in before
        with cut(line, page):
            page.goto("/asks")
            assert page.locator("html").get_attribute("lang") == "fr"
