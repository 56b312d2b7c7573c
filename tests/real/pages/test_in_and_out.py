"""What stays of a sign-in in the browser, and what of an exit: nothing."""

from tests.real.pages.scene import POLICE
from tests.real.pages.visitor import People, must_be_out, must_be_sound

WEATHER = "https://www.meteo.be/"


def test_the_exit_leaves_nothing_to_go_back_to(people: People) -> None:
    with people.visit(POLICE, anew=True) as page:
        page.seen.away_to = WEATHER
        page.route(f"{WEATHER}**", lambda route: route.fulfill(status=200, body="sunny"))
        page.goto("/sessions")
        page.locator("form[action='/exit'] button").click()
        page.wait_for_url(f"{WEATHER}**")
        must_be_out(page, people.url)


def test_a_page_that_the_browser_keeps_in_its_memory_is_put_away_unseen_and_asked_for_anew(people: People) -> None:
    # Browsers that are driven by a program keep none: they are told what one that does would tell.
    with people.visit(POLICE) as page:
        page.goto("/requests")
        page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}))")
        assert not page.locator("main h1").is_visible()
        with page.expect_navigation():
            page.evaluate("setTimeout(() => dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true})))")
        page.locator("main h1").wait_for()


def test_the_exit_works_without_javascript(people: People) -> None:
    with people.visit(POLICE, anew=True, java_script_enabled=False) as page:
        page.seen.away_to = WEATHER
        page.route(f"{WEATHER}**", lambda route: route.fulfill(status=200, body="sunny"))
        page.goto("/requests")
        page.locator("form[action='/exit'] button").click()
        page.wait_for_url(f"{WEATHER}**")
        must_be_out(page, people.url)


def test_signing_out_works_without_javascript(people: People) -> None:
    with people.visit(POLICE, anew=True, java_script_enabled=False) as page:
        page.goto("/sessions")
        page.locator("form[action='/sign-out'] button").click()
        page.wait_for_url(f"{people.url}/")
        assert page.locator("a[href='/sign-in']").first.is_visible()


def test_nothing_of_a_sign_in_stays_in_the_browser(people: People) -> None:
    with people.visit(POLICE, anew=True) as page:
        kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        assert kept == '[{},{},""]'
        cookies = {cookie["name"]: cookie for cookie in page.context.cookies()}
        assert cookies["haven"]["httpOnly"]
        assert cookies["haven"]["sameSite"] == "Strict"
        for name in cookies.keys() - {"haven-language"}:
            assert "." not in cookies[name]["value"], "no token: those have three parts"


def test_the_exit_can_be_taken_by_pressing_shift_three_times_only(people: People) -> None:
    with people.visit(POLICE) as page:
        page.goto("/requests")
        status = page.locator("form.haven-exit [role=status]")
        page.keyboard.press("Shift")
        two = status.inner_text().strip()
        page.keyboard.press("Shift")
        assert two
        assert status.inner_text().strip() not in ("", two)
        page.keyboard.type("A")  # a capital letter is no wish to leave
        page.keyboard.press("Shift")
        page.keyboard.press("Shift")
        assert page.url.endswith("/requests")
        must_be_sound(page, "exit, one press left")
