"""A number of free beds that could not be sent: it waits in the browser for the line, is sent once, and is nobody else's."""

import json
import re
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from services.api_client import Json
from tests.journeys.process import RunningNode
from tests.real.pages.scene import Scene
from tests.real.pages.visitor import People, findings, picture, too_wide
from tests.real.pages.without_a_line.line import (
    NEIGHBOUR,
    SHELTER,
    STAFF,
    Line,
    cut,
    forgive,
    kept,
    unit_of,
    until,
    wait_for_the_worker,
)

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]


def reports(node: RunningNode, unit: Json) -> int:
    """How often anybody said what is free in it, as its own log has it."""
    with closing(sqlite3.connect(f"file:{node.data_dir / 'capacity.sqlite'}?mode=ro", uri=True)) as log:
        counted = log.execute(
            "SELECT count(*) FROM events WHERE type = 'capacity.unit.reported.v1' AND stream = ?",
            [f"unit-{unit['unit_id']}"],
        )
        return int(counted.fetchone()[0])


def name_of(unit: Json) -> str:
    return str(unit["unit_id"]).removeprefix(f"{unit['shelter_id']}-")


def say_free(page: Any, free: int) -> None:
    page.fill("#free-1", str(free))
    page.locator("form[data-keep]:has(#free-1) > button").click()


def another(unit: Json) -> int:
    """A number of free beds that the unit does not have now, and could."""
    free, taken = int(unit["free"]), int(unit["taken"])
    return free - 1 if free else free + min(1, taken)


def test_a_number_waits_for_the_line_says_so_and_is_sent_once(
    people: People, line: Line, scene: Scene, node: RunningNode
) -> None:
    before = unit_of(scene)
    said = reports(node, before)
    free = another(before)
    with people.visit(STAFF, anew=True) as page:
        page.goto("/places")
        with cut(line, page):
            say_free(page, free)
            waiting = page.locator(
                "#kept", has_text=f"Not sent yet: unit {name_of(before)} has {free} free. It will be sent"
            )
            waiting.wait_for()
            assert findings(page) == []
            assert too_wide(page) == []
            picture(page, "places-not-sent-yet")
            say_free(page, free)  # once more, out of impatience
            page.wait_for_timeout(500)
            (one,) = kept(page)
            assert SHELTER not in json.dumps(one)
            assert name_of(before) not in one[2]
        page.locator(".govuk-notification-banner", has_text=f"unit {name_of(before)} has {free} free").wait_for(
            timeout=20_000
        )
        picture(page, "places-sent-later")
        assert unit_of(scene)["free"] == free
        assert reports(node, before) == said + 1
        assert kept(page) == []


def test_nothing_changed_waits_for_the_line_too(people: People, line: Line, scene: Scene) -> None:
    before = unit_of(scene)
    with people.visit(STAFF) as page:
        page.goto("/places")
        with cut(line, page):
            page.locator(".govuk-button--start").click()
            page.locator("#kept", has_text="Not sent yet: nothing changed.").wait_for()
        page.locator(".govuk-notification-banner", has_text="nothing changed").wait_for(timeout=20_000)
        assert unit_of(scene)["reported_at"] > before["reported_at"]


def test_who_types_on_keeps_what_is_typed_when_the_number_goes(people: People, line: Line, scene: Scene) -> None:
    free = another(unit_of(scene))
    with people.visit(STAFF) as page:
        page.goto("/places")
        with cut(line, page):
            say_free(page, free)
            page.locator("#kept", has_text="Not sent yet").wait_for()
            page.locator("details summary").first.click()
            page.fill("#blocked-1", "17")
        page.locator("#kept", has_text=re.compile(r"Saved \d\d:\d\d: unit")).wait_for(timeout=20_000)
        assert page.input_value("#blocked-1") == "17"
        assert unit_of(scene)["free"] == free


def test_a_number_that_somebody_overtook_is_shown_beside_theirs(people: People, line: Line, scene: Scene) -> None:
    before = unit_of(scene)
    with people.visit(STAFF) as page:
        page.goto("/places")
        path = f"/shelters/{SHELTER}/units/{before['unit_id']}/capacity"
        seen = scene.send(STAFF, "GET", path)
        theirs = {"beds": before["beds"], "free": 0}
        scene.send(STAFF, "PUT", path, theirs, If_Match=seen.headers["etag"])
        with cut(line, page):
            say_free(page, another(before))
            page.locator("#kept", has_text="Not sent yet").wait_for()
        page.locator("#kept", has_text="Something moved meanwhile").wait_for(timeout=30_000)
        assert findings(page) == []
        picture(page, "places-overtaken")
        assert unit_of(scene)["free"] == 0, "nothing is overwritten"
        page.seen.expected = 412
        page.get_by_role("button", name="Compare").click()
        page.locator("table", has_text="What you sent").wait_for()
        picture(page, "places-conflict-of-a-kept-number")
        assert kept(page) == []
        page.get_by_role("button", name="Save what I sent").click()
        page.locator(".govuk-notification-banner").wait_for()
        assert unit_of(scene)["free"] == another(before)


def test_a_number_outlives_its_session_and_is_nobody_elses(people: People, line: Line, scene: Scene) -> None:
    before = unit_of(scene)
    free = another(before)
    with people.visit(STAFF, anew=True) as page:
        page.goto("/places")
        with people.visit(STAFF, anew=True) as other:
            other.goto("/sessions")
            other.locator("form:has(input[value=all]) button").click()  # signed out everywhere, on another device
            other.wait_for_load_state()
        people._kept.clear()
        with cut(line, page):
            say_free(page, free)
            page.locator("#kept", has_text="Not sent yet").wait_for()
        page.locator("#kept", has_text="You have to sign in again first").wait_for(timeout=30_000)
        assert findings(page) == []
        picture(page, "places-sign-in-first")
        assert unit_of(scene)["revision"] == before["revision"]

        # Somebody else signs in on the same device: nothing is shown to them, nothing is sent as them.
        people.sign_in(page, NEIGHBOUR)
        page.goto("/places")
        page.wait_for_timeout(1_500)
        assert page.locator("#kept").inner_text() == ""
        assert len(kept(page)) == 1
        assert unit_of(scene)["revision"] == before["revision"]

        page.context.clear_cookies(name="haven")
        people.sign_in(page, STAFF)
        page.goto("/places")
        page.locator("#kept", has_text=f"has {free} free. It is kept for an hour").wait_for()
        assert findings(page) == []
        picture(page, "places-kept-over-a-sign-in")
        assert unit_of(scene)["revision"] == before["revision"], "not by itself"
        page.get_by_role("button", name="Send it now").click()
        page.locator(".govuk-notification-banner", has_text=f"{free} free").wait_for()
        assert unit_of(scene)["free"] == free
        assert kept(page) == []


def test_a_number_older_than_an_hour_is_forgotten(people: People, line: Line, scene: Scene) -> None:
    before = unit_of(scene)
    with people.visit(STAFF) as page:
        page.goto("/places")
        with cut(line, page):
            say_free(page, another(before))
            page.locator("#kept", has_text="Not sent yet").wait_for()
            page.context.route("**/places", lambda route: route.abort("internetdisconnected"))
        page.evaluate("const real = Date.now; Date.now = () => real() + 3_700_000")
        page.locator("#kept", has_text="It waited for an hour and is forgotten").wait_for(timeout=20_000)
        page.context.unroute("**/places")
        assert kept(page) == []
        assert unit_of(scene)["revision"] == before["revision"]
        forgive(page)


@pytest.mark.parametrize("how", ["/exit", "/sign-out"])
@pytest.mark.parametrize("has_line", [True, False], ids=["with a line", "without"])
def test_whoever_leaves_leaves_nothing_behind(people: People, line: Line, how: str, has_line: bool) -> None:
    with people.visit(STAFF, anew=True) as page:
        page.seen.away_to = "https://www.meteo.be/"
        page.context.route(
            "https://www.meteo.be/**",
            lambda route: route.fulfill(status=200, content_type="text/html", body="<link rel=icon href=data:>sun"),
        )
        page.goto("/places")
        wait_for_the_worker(page)
        with cut(line, page):
            say_free(page, 0)
            page.locator("#kept", has_text="Not sent yet").wait_for()
            assert len(kept(page)) == 1
            page.context.route("**/places", lambda route: route.abort("internetdisconnected"))
            if not has_line:
                page.locator(f"form[action='{how}'] button").click()
                page.wait_for_timeout(1_500)
        if has_line:
            page.locator(f"form[action='{how}'] button").click()
            page.wait_for_timeout(1_500)
        page.context.unroute("**/places")
        page.goto("/healthz")  # of the same site, and without any script of ours
        # The worker does it, which outlives the page and may take a moment.
        until(page, "caches.keys().then(all => !all.length)")
        until(page, "indexedDB.databases().then(all => !all.length)")
        until(page, "navigator.serviceWorker.getRegistrations().then(all => !all.length)")
        forgive(page)
