"""Pages in their less happy states: what was wrong, what is empty, old, gone, refused, or changed while somebody looked."""

import itertools
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from services.gateway.pages.sessions import session_id_of
from tests.journeys.process import RunningNode
from tests.real.pages.checks import everything_wrong
from tests.real.pages.scene import AUDITOR, ESCORT, HOST, ORIGIN, POLICE, SAME_PERSON, Scene
from tests.real.pages.visitor import LANGUAGES, People, must_be_sound

_languages = itertools.cycle(LANGUAGES)


@pytest.fixture
def language() -> str:
    """Each state in one of the four."""
    return next(_languages)


@pytest.fixture
def police(people: People, language: str) -> Iterator[Any]:
    with people.visit(POLICE, language) as page:
        yield page


@pytest.fixture
def origin(people: People, language: str) -> Iterator[Any]:
    with people.visit(ORIGIN, language) as page:
        yield page


@pytest.fixture
def host(people: People, language: str) -> Iterator[Any]:
    with people.visit(HOST, language) as page:
        yield page


def send(page: Any, form: str, status: int = 200) -> None:
    """Sends a form of the page, which is meant to be answered with this status."""
    page.seen.expected = status
    with page.expect_navigation():
        page.locator(f"main {form} button:not(.haven-stepper__button)").first.click()


def says_what_is_wrong(page: Any, what: str, at: str = "") -> None:
    """A summary of errors that has the focus, and whose links lead into the form; nothing of it is in the address."""
    assert page.evaluate("document.activeElement.matches('.govuk-error-summary')"), what
    assert "?" not in page.url, what
    must_be_sound(page, what)
    assert everything_wrong(page) == {}, what
    links = page.locator(".govuk-error-summary a[href^='#']")
    for place in range(links.count()):
        link = links.nth(place)
        target = link.get_attribute("href")[1:]
        link.click()
        focused = page.evaluate("document.activeElement.id")
        assert focused == target, f"{what}: {target} is not what has the focus, but {focused}"
    if at:
        assert page.locator(f".govuk-error-summary a[href='#{at}']").count() == 1, what


def test_a_new_request_says_what_is_wrong_and_keeps_the_rest(police: Any) -> None:
    police.goto("/requests/new")
    police.select_option("#region", "BE21")
    police.fill("#women", "no")
    police.fill("#children_under_6", "2")
    police.check("input[name=languages][value=ar]")
    police.fill("#callback", "synthetic: at the desk")
    send(police, "form", 400)
    says_what_is_wrong(police, "new request, wrong", "women")
    assert police.locator("#region").input_value() == "BE21"
    assert police.locator("#women").input_value() == "no"
    assert police.locator("#children_under_6").input_value() == "2"
    assert police.locator("input[name=languages][value=ar]").is_checked()
    assert police.locator("#callback").input_value() == "", "what is sealed is in no page"


@pytest.mark.parametrize("part", ["consent", "withdrawal", "disclosures"])
def test_a_step_without_an_answer_says_so(police: Any, scene: Scene, part: str) -> None:
    case = scene.opened()
    police.goto(f"/requests/{case}/{part}")
    must_be_sound(police, part)
    send(police, "form", 400)
    says_what_is_wrong(police, f"{part}, wrong")


def test_what_was_learnt_later_says_what_is_wrong_and_who_else_wrote(police: Any, scene: Scene) -> None:
    case = scene.opened()
    police.goto(f"/requests/{case}")
    police.click("main .govuk-task-list a[href$='/details#region_of_stay']")
    must_be_sound(police, "details")
    assert police.evaluate("location.hash") == "#region_of_stay"
    police.check("input[name=third_country_national][value=yes]")
    police.fill("#reflection_started_on", "2199-01-01")
    send(police, "form", 400)
    says_what_is_wrong(police, "details, wrong", "reflection_started_on")
    assert police.locator("input[name=third_country_national][value=yes]").is_checked()
    theirs = {"third_country_national": None, "reflection_started_on": None, "region_of_stay": "BE10"}
    scene.act(ORIGIN, case, "details", {"version_seen": 0, **theirs})
    police.fill("#reflection_started_on", "")
    send(police, "form", 409)
    says_what_is_wrong(police, "details, both versions", "both")
    assert scene.view(case)["third_country_national"] is None
    assert police.locator("#region_of_stay").input_value() == "BE10"
    send(police, "form")
    assert police.locator(".govuk-notification-banner[role=alert]").count() == 1
    must_be_sound(police, "case, with what was learnt")
    stands = scene.view(case)
    assert (stands["third_country_national"], stands["region_of_stay"]) == (True, "BE10")


def test_an_arrival_and_an_end_without_an_answer_say_so(people: People, scene: Scene, language: str) -> None:
    offer = scene.departed()
    with people.visit(offer.staff, language) as shelter:
        for part in ("arrival", "end"):
            shelter.seen.expected = 0
            shelter.goto(f"/requests/{offer.case}/{part}")
            must_be_sound(shelter, part)
            send(shelter, "form", 400)
            says_what_is_wrong(shelter, f"{part}, wrong")
            scene.act(offer.staff, offer.case, "arrival", {"outcome": "arrived"}) if part == "arrival" else None


def test_a_journey_without_a_day_says_so(origin: Any, scene: Scene) -> None:
    case = scene.confirmed().case
    origin.goto(f"/requests/{case}/journey")
    origin.fill("#escort", f"synthetic.{ESCORT}")
    origin.fill("#steps", "synthetic: by the side door")
    send(origin, "form", 400)
    says_what_is_wrong(origin, "journey, wrong", "arrival_day")
    assert origin.locator("#escort").input_value() == f"synthetic.{ESCORT}"
    assert origin.locator("#steps").input_value() == ""


def test_an_answer_without_yes_or_place_says_so(people: People, scene: Scene, language: str) -> None:
    case = scene.opened()
    ask = scene.ask_of_host(case)
    with people.visit(f"{ask['shelter_id']}-staff", language) as shelter:
        shelter.goto(f"/asks/{ask['ask_id']}")
        send(shelter, "form", 400)
        says_what_is_wrong(shelter, "ask, wrong", "answer")
        shelter.check("input[type=radio][value=yes]")
        send(shelter, "form", 400)
        says_what_is_wrong(shelter, "ask, yes without a place", "rendezvous")
        assert shelter.locator("input[type=radio][value=yes]").is_checked()


def test_a_question_that_no_longer_stands_is_gone(people: People, scene: Scene, language: str) -> None:
    case = scene.opened()
    ask = scene.ask_of_host(case)
    with people.visit(f"{ask['shelter_id']}-staff", language) as shelter:
        shelter.goto(f"/asks/{ask['ask_id']}")
        scene.act(POLICE, case, "withdrawal", {"reason": "opened_by_mistake"})
        shelter.check("input[type=radio][value=yes]")
        shelter.fill("#rendezvous", "synthetic: at the station")
        send(shelter, "form", 404)
        must_be_sound(shelter, "a question that is gone, answered")
        shelter.seen.expected = 404
        shelter.goto(f"/asks/{ask['ask_id']}")
        must_be_sound(shelter, "a question that is gone")


def test_a_no_is_answered_with_what_it_did(people: People, scene: Scene, language: str) -> None:
    offer = scene.offered()
    with people.visit(offer.staff, language) as shelter:
        shelter.goto(f"/asks/{offer.ask}")
        must_be_sound(shelter, "a yes that stands")
        shelter.locator("main details summary").last.click()
        shelter.locator("input[name=decline]").first.check()
        send(shelter, "form")
        assert shelter.locator(".govuk-notification-banner[role=alert]").count() == 1
        must_be_sound(shelter, "a yes that was taken back")


def test_two_colleagues_see_both_values_and_who_said_so(people: People, scene: Scene, language: str) -> None:
    staff = scene.offered().staff
    with people.visit(staff, language) as mine, people.visit(staff, language) as theirs:
        mine.goto("/places")
        theirs.goto("/places")
        theirs.fill("#free-1", "41")
        send(theirs, "section form:has(#free-1)")
        assert theirs.locator(".govuk-notification-banner[role=alert]").count() == 1
        must_be_sound(theirs, "places, saved, with a way to undo")
        mine.fill("#free-1", "37")
        send(mine, "section form:has(#free-1)", 412)
        says_what_is_wrong(mine, "places, both values", "both-1")
        both = mine.locator("#both-1").inner_text()
        assert "41" in both
        assert "37" in both
        assert mine.locator("#free-1").input_value() == "37"

        theirs.goto("/places")
        theirs.fill("#free-1", "900")
        theirs.evaluate("document.querySelector('#free-1').form.noValidate = true")
        send(theirs, "section form:has(#free-1)", 400)
        says_what_is_wrong(theirs, "places, wrong", "free-1")
        assert theirs.locator("#free-1").input_value() == "900"


def test_a_signature_by_whoever_signed_first_says_who_may_sign(people: People, scene: Scene, language: str) -> None:
    case = scene.proposed().case
    with people.visit(SAME_PERSON, "en") as page:
        page.goto(f"/requests/{case}/signature")
        assert page.locator("#sign").count() == 0
        said = page.locator("main").inner_text()
        assert "The second signature must be somebody else's" in said
        assert (
            "The focal point of the Netherlands: somebody else than whoever signed first, and nobody who referred"
            in said
        )
        must_be_sound(page, "signature, already given")
    with people.visit("nl-coordinator-2", language) as page:
        page.goto(f"/requests/{case}/signature")
        send(page, "form:has(input[value=refuse])", 400)
        says_what_is_wrong(page, "refusal without a reason", "refusal")


def test_a_signature_of_the_wrong_country_says_whose_it_is(origin: Any, scene: Scene) -> None:
    case = scene.proposed().case
    origin.goto(f"/requests/{case}/signature")
    assert origin.locator("#sign").count() == 0
    must_be_sound(origin, "signature, of another country")


def test_a_proposal_that_changed_shows_what_it_was_and_what_it_is(host: Any, scene: Scene) -> None:
    offer = scene.proposed()
    host.goto(f"/requests/{offer.case}/signature")
    refusal = {"proposal_hash": scene.view(offer.case)["proposal"]["hash"], "refusal": "unit_unsuitable"}
    scene.act("nl-coordinator-2", offer.case, "countersignature", refusal)
    scene.until(offer.case, "another shelter is asked", "asked")
    again = scene.offered(offer.case)
    scene.act(ORIGIN, offer.case, "proposal", {"ask_id": again.ask, "override": "household_preference"})
    send(host, "form:has(#sign)", 409)
    says_what_is_wrong(host, "proposal, changed")
    assert host.locator("table tbody tr").count() >= 1
    assert host.locator("#sign").count() == 1, "what stands now can be signed"


@pytest.mark.parametrize(
    ("who", "address"),
    [
        ("lu-police-esch-1", "/requests"),
        ("lu-escort-1", "/requests"),
        ("lu-youth-protection-1", "/requests"),
        ("lu-coordinator-1", "/board"),
        ("lu-coordinator-1", "/asks"),
        (AUDITOR, "/audit?purpose=lawfulness_check&case=none"),
    ],
)
def test_nothing_to_do_is_said_too(people: People, language: str, who: str, address: str) -> None:
    with people.visit(who, language) as page:
        page.goto(address)
        must_be_sound(page, f"{who}{address}".replace("/", "-").partition("?")[0])


@pytest.mark.parametrize(
    ("who", "address", "status"),
    [
        (POLICE, "/board", 403),
        (AUDITOR, "/requests", 403),
        (POLICE, "/requests/00000000000000000000000000000000", 404),
        (POLICE, "/nowhere", 404),
        ("", "/nowhere", 404),
    ],
)
def test_a_page_that_is_not_yours_or_nowhere_says_what_to_do(
    people: People, language: str, who: str, address: str, status: int
) -> None:
    with people.visit(who, language) as page:
        page.seen.expected = status
        assert page.goto(address).status == status
        must_be_sound(page, f"{status}{address}".replace("/", "-"))
        assert page.locator("main a[href='/']").count() == 1


def test_what_cannot_be_done_now_is_said(origin: Any, scene: Scene) -> None:
    case = scene.opened()
    origin.seen.expected = 409
    for part in ("departure", "proposal?ask=none"):
        assert origin.goto(f"/requests/{case}/{part}").status == 409
        must_be_sound(origin, f"not now, {part.partition('?')[0]}")


def test_what_is_sealed_is_shown_once(people: People, scene: Scene, language: str) -> None:
    offer = scene.planned()
    with people.visit(ESCORT, language) as page:
        page.goto(f"/requests/{offer.case}/disclosures")
        page.check("input[name=field][value=rendezvous]")
        page.check("input[name=reason][value=drive_journey]")
        send(page, "form")
        assert "the desk of the station" in page.locator("main").inner_text()
        assert "station" not in page.url + page.title()
        must_be_sound(page, "sealed, opened")


def test_a_form_from_before_another_sign_in_is_too_old(people: People, language: str) -> None:
    with people.visit(POLICE, language, anew=True) as page:
        page.goto("/requests/new")
        page.fill("#callback", "synthetic: at the desk")
        other = page.context.new_page()
        other.goto("/sessions")
        other.locator("form[action='/sign-out'] button").click()
        other.wait_for_url(f"{people.url}/")
        people.sign_in(other, POLICE)
        other.close()
        send(page, "form", 403)
        must_be_sound(page, "form, too old")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_sign_in_that_fails_says_why(people: People, language: str) -> None:
    who = f"nobody-{language}"
    with people.visit("", language) as page:
        page.goto("/sign-in")
        must_be_sound(page, f"sign-in-{language}")
        for attempt in range(6):
            page.seen.expected = 429 if attempt == 5 else 403
            page.fill("#username", who)
            page.fill("#password", "synthetic-wrong")
            with page.expect_navigation():
                page.locator("main button").click()
        must_be_sound(page, f"sign-in-too-many-{language}")
        assert page.locator("[role=alert]").count() == 1


def test_a_form_that_was_left_open_for_too_long_is_there_after_signing_in(
    people: People, node: RunningNode, language: str
) -> None:
    with people.visit(POLICE, language, anew=True) as page:
        page.goto("/requests/new")
        page.select_option("#region", "BE23")
        page.fill("#men", "1")
        page.check("input[name=consented_countries][value=LU]")
        page.fill("#callback", "synthetic: at the desk")
        leave_idle(page, node)
        page.locator("main form button").click()
        page.wait_for_url("**/oauth/authorize**")
        assert "desk" not in page.url
        page.fill("#username", POLICE)
        page.fill("#password", people.logins[POLICE])
        page.locator("main button").click()
        page.wait_for_url("**/requests/new")
        must_be_sound(page, "new request, kept over a sign-in")
        assert page.locator("#region").input_value() == "BE23"
        assert page.locator("#men").input_value() == "1"
        assert page.locator("input[name=consented_countries][value=LU]").is_checked()
        assert page.locator("#callback").input_value() == "", "what is sealed is written once more"
        page.fill("#callback", "synthetic: at the desk")
        page.locator("main form button").click()
        page.wait_for_url(lambda address: not address.endswith("/new"))
        must_be_sound(page, "case, just opened")


def leave_idle(page: Any, node: RunningNode) -> None:
    """As if nobody had touched this browser's pages for twenty minutes."""
    cookies = {cookie["name"]: cookie["value"] for cookie in page.context.cookies()}
    for file in node.data_dir.rglob("*.sqlite"):
        with sqlite3.connect(file, timeout=10) as database:
            if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'page_sessions'").fetchone():
                of_this = (session_id_of(cookies["haven"]),)
                database.execute("UPDATE page_sessions SET seen_at = seen_at - 1200 WHERE session_id = ?", of_this)
                return
    raise AssertionError("no database has sessions")


def test_old_numbers_are_called_old(browser: Any, tmp_path: Any, language: str) -> None:
    # A day and a half in seven seconds: every report of the inventory is overdue by then.
    with RunningNode(tmp_path, speed=20_000) as fast:
        people = People.of(browser, fast)
        with people.visit("nl-shelter-01-staff", language) as page:
            page.wait_for_timeout(7_000)
            page.goto("/places")
            assert page.locator(".haven-age--overdue").count() >= 1
            must_be_sound(page, "places, overdue")
            page.locator("main form button").first.click()
            page.locator(".govuk-notification-banner[role=alert]").wait_for()
            must_be_sound(page, "places, nothing changed")
