"""A page that lives, on a line that is cut: it says whether it is up to date, catches up, and can be paused."""

import itertools
import re
from typing import Any

import pytest

from tests.real.pages.scene import Scene
from tests.real.pages.visitor import People, findings, picture, too_wide
from tests.real.pages.without_a_line.line import COORDINATOR, POLICE, STAFF, Line, cut

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]


def test_a_page_that_lives_says_so_says_when_it_does_not_and_catches_up(people: People, line: Line) -> None:
    with people.visit(COORDINATOR, viewport={"width": 1280, "height": 900}) as page, people.visit(POLICE) as police:
        page.goto("/board")
        state = page.locator("[data-live-state]")
        assert state.inner_text() == "Live"
        with cut(line, page):
            page.locator("#live[data-condition=again]").wait_for(timeout=15_000)
            assert state.inner_text() == "Reconnecting"
            page.locator("#live[data-condition=stale]").wait_for(timeout=60_000)
            said = re.fullmatch(r"Not updated since (\d\d:\d\d)", state.inner_text())
            assert said
            assert findings(page) == []
            picture(page, "board-not-updated")
        case = open_a_case(police)
        page.locator(f"#case-{case}").wait_for(timeout=60_000)
        page.locator("#live[data-condition=live]").wait_for()
        assert page.locator("[data-live-said]").inner_text() != ""


def test_a_page_that_lives_can_be_paused(people: People, line: Line) -> None:
    with people.visit(COORDINATOR) as page, people.visit(POLICE) as police:
        page.goto("/board")
        page.wait_for_timeout(1_000)
        page.get_by_role("button", name="Pause").click()
        assert page.locator("[data-live-state]").inner_text().startswith("Paused. Not updated since ")
        case = open_a_case(police)
        page.wait_for_timeout(4_000)
        assert page.locator(f"#case-{case}").count() == 0
        assert findings(page) == []
        page.get_by_role("button", name="Go on").click()
        page.locator(f"#case-{case}").wait_for(timeout=10_000)
        assert page.locator("[data-live-state]").inner_text() == "Live"


def test_what_is_said_aloud_is_said_at_most_every_thirty_seconds(people: People, line: Line) -> None:
    with people.visit(STAFF) as page:
        page.goto("/asks")
        page.wait_for_timeout(500)
        page.evaluate("""() => {
            window.spoken = [];
            const place = document.querySelector("[data-live-said]");
            new MutationObserver(() => window.spoken.push([Date.now(), place.textContent])).observe(place, {childList: true, characterData: true, subtree: true});
        }""")
        for _ in range(3):
            with cut(line, page):
                page.wait_for_timeout(7_000)
            page.wait_for_timeout(5_000)
        times = [at for at, _ in page.evaluate("window.spoken")]
        assert all(later - earlier >= 29_000 for earlier, later in itertools.pairwise(times)), times


def test_a_page_with_a_form_says_that_it_changed_and_moves_nothing(people: People, line: Line, scene: Scene) -> None:
    with people.visit(STAFF) as page, people.visit(STAFF, anew=True) as colleague:
        page.goto("/places")
        page.fill("#free-1", "3")
        colleague.goto("/places")
        colleague.locator(".govuk-button--start").click()
        colleague.locator(".govuk-notification-banner").wait_for()
        page.locator("[data-live-changed]", has_text="Something here has changed").wait_for(timeout=15_000)
        assert page.input_value("#free-1") == "3"
        assert findings(page) == []
        assert too_wide(page) == []
        picture(page, "places-changed")


def open_a_case(police: Any) -> str:
    police.goto("/requests/new")
    police.select_option("#region", "BE21")
    police.fill("#women", "1")
    police.check("input[name=consented_countries][value=NL]")
    police.fill("#callback", "synthetic: ask the desk for the night officer")
    police.click("main form button")
    police.wait_for_url("**/requests/*")
    return str(police.url.rpartition("/")[2])
