"""Whole stories through the pages of the people they are about, all of whom have their browsers open at the same time."""

from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest

from events.vocabulary import Stage
from services.gateway.pages.language import ZONE, translations
from services.gateway.pages.words import TABLES
from tests.real.pages.scene import A_CHILD, AUDITOR, ESCORT, GUARDIAN, HOST, ORIGIN, POLICE, Scene
from tests.real.pages.visitor import People, must_be_sound

pytestmark = pytest.mark.timeout(240)

PATIENCE = 10_000
"""Milliseconds that a page may take to show by itself what somebody else did: a loaded machine, not the goal of a second."""


class Board:
    """A focal point's board, which stays open and is never loaded again."""

    def __init__(self, page: Any) -> None:
        self.page = page
        page.goto("/board")
        page.locator("#live[data-condition=live]").wait_for()
        page.evaluate("document.body.dataset.loaded = 'once'")

    def shows(self, case: str, lane: str) -> None:
        """The case comes to this lane by itself."""
        self.page.locator(f"section:has(#lane-{lane}) #case-{case}").wait_for(timeout=PATIENCE)
        assert self.page.evaluate("document.body.dataset.loaded") == "once", "by itself, not by loading the page again"

    def offers(self, case: str, address: str) -> None:
        """What can be done with the case next is a link in its row, by itself."""
        self.page.locator(f"#case-{case} a[href^='/requests/{case}{address}']").wait_for(timeout=PATIENCE)


def stage_in_dutch(stage: Stage) -> str:
    return str(translations("nl").ugettext(TABLES["Stage"][stage]))


def done(page: Any) -> None:
    """The page says what was just done."""
    page.locator(".govuk-notification-banner[role=alert]").wait_for()


def opens_a_case(police: Any) -> str:
    police.goto("/requests/new")
    police.select_option("#region", "BE21")
    police.fill("#women", "1")
    police.check("input[name=consented_countries][value=NL]")
    police.fill("#callback", "synthetic: ask the desk for the night officer")
    police.click("main form > button")
    police.wait_for_url(lambda address: not address.endswith("/new"))
    assert "night officer" not in police.content()
    must_be_sound(police, "story, case")
    return urlsplit(police.url).path.rpartition("/")[2]


def says_yes(shelter: Any, ask: str) -> None:
    shelter.goto(f"/asks/{ask}")
    must_be_sound(shelter, "story, ask")
    shelter.check("input[type=radio][value=yes]")
    shelter.fill("#rendezvous", "synthetic: the desk of the station")
    shelter.click("main form > button")
    done(shelter)
    must_be_sound(shelter, "story, answered")


def proposes(origin: Any, case: str) -> None:
    origin.goto(f"/requests/{case}/shortlist")
    must_be_sound(origin, "story, shortlist")
    origin.click("main a[href*='/proposal?ask=']")
    must_be_sound(origin, "story, proposal")
    origin.click("main form button")
    origin.wait_for_url("**/signature")
    must_be_sound(origin, "story, proposed")


def signs(host: Any, case: str) -> None:
    host.goto(f"/requests/{case}/signature")
    must_be_sound(host, "story, signature")
    host.click("#sign")
    done(host)
    must_be_sound(host, "story, signed")


def plans(origin: Any, case: str) -> None:
    due = datetime.now(ZONE) + timedelta(hours=8)
    origin.goto(f"/requests/{case}/journey")
    origin.fill("#escort", f"synthetic.{ESCORT}")
    origin.fill("#arrival_day", due.strftime("%Y-%m-%d"))
    origin.fill("#arrival_time", due.strftime("%H:%M"))
    origin.fill("#steps", "synthetic: by the side door")
    origin.click("main form button")
    done(origin)
    must_be_sound(origin, "story, journey planned")


def records_their_word(police: Any, case: str) -> None:
    police.goto(f"/requests/{case}")
    assert stage_in_dutch(Stage.CONFIRMED) in police.content()
    police.click("main a[href$='/consent']")
    police.check("input[name=scope][value=transport]")
    police.check("input[name=country][value=NL]")
    police.check("input[name=given][value=yes]")
    police.click("main form button")
    done(police)


def drives(escort: Any, case: str) -> None:
    escort.goto("/requests")
    escort.click(f"main a[href='/requests/{case}']")
    must_be_sound(escort, "story, escort's case")
    escort.goto(f"/requests/{case}/disclosures")
    escort.check("input[name=field][value=rendezvous]")
    escort.check("input[name=reason][value=drive_journey]")
    with escort.expect_navigation():
        escort.click("main form button")
    assert "the desk of the station" in escort.locator("main").inner_text()
    escort.goto(f"/requests/{case}/departure")
    escort.click("main form button")
    done(escort)


def receives(shelter: Any, case: str) -> None:
    shelter.goto(f"/requests/{case}/arrival")
    shelter.check("input[name=outcome][value=arrived]")
    shelter.click("main form button")
    done(shelter)


def checks_the_trail(auditor: Any, case: str) -> None:
    auditor.goto("/audit")
    auditor.select_option("#purpose", "lawfulness_check")
    auditor.fill("#case", case)
    auditor.select_option("#verb", "disclosure")
    with auditor.expect_navigation():
        auditor.click("main form button")
    assert f"synthetic.{ESCORT}" in auditor.locator("main").inner_text(), "who opened what was sealed"
    assert "the desk of the station" not in auditor.content()
    must_be_sound(auditor, "story, trail")


def test_a_household_is_placed_abroad_while_both_countries_watch_their_boards(people: People, scene: Scene) -> None:
    with ExitStack() as everybody:

        def comes(who: str) -> Any:
            return everybody.enter_context(people.visit(who, "nl"))

        police, origin, host = comes(POLICE), comes(ORIGIN), comes(HOST)
        here, there = Board(comes(ORIGIN)), Board(comes(HOST))

        case = opens_a_case(police)
        here.shows(case, "shelters")
        there.shows(case, "shelters")

        ask = next(
            one for one in scene.asks(case) if one["country"] == "NL"
        )  # a bed of Luxembourg may be asked for too
        shelter = comes(f"{ask['shelter_id']}-staff")
        says_yes(shelter, ask["ask_id"])
        here.shows(case, "choice")
        there.shows(case, "signature")

        proposes(origin, case)
        there.offers(case, "/signature")
        signs(host, case)
        scene.until(case, "the bed is certain", "confirmed")
        here.offers(case, "/journey")
        plans(origin, case)
        records_their_word(police, case)
        drives(comes(ESCORT), case)
        here.shows(case, "under-way")
        there.shows(case, "under-way")

        receives(shelter, case)
        police.goto(f"/requests/{case}")
        assert stage_in_dutch(Stage.ARRIVED) in police.content()
        must_be_sound(police, "story, arrived")
        must_be_sound(here.page, "story, board")
        checks_the_trail(comes(AUDITOR), case)


def test_a_child_goes_nowhere_without_its_guardians_word(people: People, scene: Scene) -> None:
    offer = scene.proposed(**A_CHILD)
    signature = {"proposal_hash": scene.view(offer.case)["proposal"]["hash"]}
    scene.act(HOST, offer.case, "countersignature", signature)
    with people.visit(GUARDIAN, "fr") as guardian, people.visit(ORIGIN, "fr") as origin:
        board = Board(origin)
        board.shows(offer.case, "consent-and-journey")
        assert scene.view(offer.case)["stage"] == "countersigned"
        guardian.goto("/requests")
        guardian.click(f"main a[href='/requests/{offer.case}']")
        must_be_sound(guardian, "story, guardian's case")
        guardian.click("main .govuk-task-list a[href$='/consent']")
        guardian.check("input[name=scope][value=placement]")
        guardian.check("input[name=country][value=NL]")
        guardian.check("input[name=given][value=yes]")
        must_be_sound(guardian, "story, guardian's word")
        guardian.click("main form button")
        done(guardian)
        scene.until(offer.case, "the bed is certain", "confirmed")
        board.offers(offer.case, "/journey")


def test_what_moves_elsewhere_is_said_on_an_open_page(people: People, scene: Scene) -> None:
    case = scene.opened()
    with people.visit(POLICE, "de") as police:
        police.goto(f"/requests/{case}")
        police.locator("#live[data-condition=live]").wait_for()
        changed = police.locator("[data-live-changed]")
        assert not changed.is_visible()
        scene.offered(case)
        changed.wait_for(state="visible", timeout=PATIENCE)
        must_be_sound(police, "case, something has moved")


@pytest.mark.timeout(120)
def test_a_board_whose_session_has_ended_does_not_stand_there_as_if_it_lived(people: People) -> None:
    with people.visit(ORIGIN, anew=True) as page:
        Board(page)
        other = page.context.new_page()
        other.goto("/sessions")
        other.locator("form[action='/sign-out'] button").click()
        page.wait_for_url("**/oauth/authorize**", timeout=30_000)
