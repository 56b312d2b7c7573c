"""Our places: a shelter says what is free, with one tap or two, and nothing is overwritten unseen."""

import re
from html import unescape
from typing import Any

import msgspec
import pytest
from werkzeug.test import TestResponse

from events.envelope import Event, system_actor
from events.gateway import RegisterUnit
from events.log.store import ANY_VERSION
from events.vocabulary import Stage
from services.gateway import problems
from services.gateway.pages.sessions import KeptForm
from simulation.inventory import SyntheticUnit
from tests.gateway.world import HOME, HOST, INVENTORY, NEIGHBOUR, POLICE, RECEIVING, Json, Who, World, a_unit, staff_of
from tests.pages.reader import Reader, words

Form = dict[str, Any]


def forms(answer: TestResponse) -> dict[str, Form]:
    """The forms of a page, by the words of the button that sends them, with everything they would send."""
    page = answer.get_data(as_text=True)
    found = re.findall(r"<form([^>]*)>(.*?)</form>", page, re.DOTALL)
    by_id = {one[1]: inside for attributes, inside in found if (one := re.search(r'id="([\w-]+)"', attributes))}
    said: dict[str, Form] = {}
    for _, inside in found:
        for attributes, text in re.findall(r"<button([^>]*)>(.*?)</button>", inside, re.DOTALL):
            elsewhere = re.search(r'form="([\w-]+)"', attributes)
            name = " ".join(unescape(re.sub(r"<span aria-hidden.*?</span>|<[^>]+>", " ", text)).split())
            said[name] = fields(by_id[elsewhere[1]] if elsewhere else inside)
    return said


def fields(inside: str) -> Form:
    sent: Form = {}
    for tag in re.findall(r"<input[^>]+>", inside):
        name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
        if name and name[1] not in ("csrf", "seen"):
            sent[name[1]] = unescape(value[1]) if value else ""
    if seen := re.findall(r'name="seen" value="([^"]*)"', inside):
        sent["seen"] = seen
    for name, options in re.findall(r'<select[^>]*name="(\w+)"[^>]*>(.*?)</select>', inside, re.DOTALL):
        chosen = re.search(r'value="([^"]*)" selected', options)
        sent[name] = chosen[1] if chosen else ""
    return sent


def button(answer: TestResponse, beginning: str) -> Form:
    for name, form in forms(answer).items():
        if name.startswith(beginning):
            return form
    raise AssertionError(f"no button {beginning!r} among {list(forms(answer))}")


def unit_of(world: World, who: Who) -> Json:
    found: Json = world.done(world.get(who, f"/shelters/{who.organisation}/units"))["units"][0]
    return found


def reports(world: World, who: Who) -> int:
    log = world.core.logs["capacity"]
    return sum(
        isinstance(event, Event)
        and event.stream == f"unit-{who.organisation}-u1"
        and type(event.data).__name__ == "CapacityReported"
        for _, event in log.read_all(after=0, limit=100_000)
    )


def one_of_two(unit_id: str, free: int) -> SyntheticUnit:
    one = a_unit(unit_id.rpartition("-")[0], "LU00", free)
    return msgspec.structs.replace(one, profile=msgspec.structs.replace(one.profile, unit_id=unit_id))


@pytest.fixture
def staff(world: World) -> Reader:
    return Reader(world, HOME)


@pytest.mark.parametrize("who", [POLICE, HOST], ids=lambda who: who.role)
def test_only_a_shelter_has_places(world: World, who: Who) -> None:
    assert Reader(world, who).get("/places").status_code == 403
    assert Reader(world, who).send("/places", unit="be-shelter-01-u1").status_code == 403


def test_a_page_shows_its_own_units_and_their_age(world: World, staff: Reader) -> None:
    answer = staff.get("/places")
    assert answer.status_code == 200
    said = words(answer)
    assert "Unit u1" in said
    assert "Up to date" in said
    assert "The next one is due by:" in said
    assert "nl-shelter" not in answer.get_data(as_text=True)
    assert len(re.findall(r"<h1", answer.get_data(as_text=True))) == 1


def test_nothing_changed_is_the_first_button_and_one_tap(world: World, staff: Reader) -> None:
    world.later(hours=13)
    assert unit_of(world, HOME)["freshness"] == "ageing"
    page = staff.get("/places")
    free = unit_of(world, HOME)["free"]
    main = page.get_data(as_text=True).partition("<main")[2]
    assert f"Nothing changed, still {free} free" in main[: main.index("</button>")]
    done = staff.follow(staff.send("/places", **button(page, "Nothing changed")))
    assert "nothing changed." in words(done)
    assert re.search(r"Saved \d\d:\d\d", words(done))
    unit = unit_of(world, HOME)
    assert unit["freshness"] == "fresh"
    assert unit["free"] == free


def test_whoever_has_not_reported_for_a_day_is_told_first(world: World, staff: Reader) -> None:
    world.later(hours=25)
    said = words(staff.get("/places"))
    assert "The report of 1 unit is overdue" in said
    assert said.index("overdue") < said.index("Nothing changed")
    assert "The next one was due:" in said
    staff.send("/places", **button(staff.get("/places"), "Nothing changed"))
    assert "overdue" not in words(staff.get("/places"))


@pytest.mark.parametrize(("tap", "by"), [("One fewer", -1), ("One more", 1)])
def test_minus_and_plus_save_at_once_and_can_be_undone_once(world: World, staff: Reader, tap: str, by: int) -> None:
    before = unit_of(world, HOME)
    form = button(staff.get("/places"), tap)
    assert form["free"] == str(before["free"] + by)
    done = staff.follow(staff.send("/places", **form))
    assert f"unit u1 has {before['free'] + by} free." in words(done)
    assert unit_of(world, HOME)["free"] == before["free"] + by
    undo = button(done, "Undo")
    assert not [name for name in forms(staff.get("/places")) if name.startswith("Undo")]
    after_undo = staff.follow(staff.send("/places", **undo))
    assert after_undo.status_code == 200
    unit = unit_of(world, HOME)
    assert unit["free"] == before["free"]
    assert unit["revision"] > before["revision"] + 1


def test_two_taps_change_once(world: World, staff: Reader) -> None:
    before, count = unit_of(world, HOME), reports(world, HOME)
    form = button(staff.get("/places"), "One fewer")
    first, second = staff.send("/places", **form), staff.send("/places", **form)
    assert first.status_code == second.status_code == 303
    assert unit_of(world, HOME)["free"] == before["free"] - 1
    assert reports(world, HOME) == count + 1
    shown = staff.get("/places")
    assert len(re.findall(r"Saved \d\d:\d\d", words(shown))) == 1
    assert button(shown, "Undo")["free"] == str(before["free"])


def test_a_form_sent_again_after_its_values_were_changed_does_not_say_saved(world: World, staff: Reader) -> None:
    before = unit_of(world, HOME)
    form = button(staff.get("/places"), "One fewer")
    staff.send("/places", **form)
    staff.send("/places", **button(staff.get("/places"), "One more"))
    again = staff.send("/places", **form)
    assert again.status_code == 412
    assert "Nothing was overwritten" in words(again)
    assert unit_of(world, HOME)["free"] == before["free"]


def test_two_taps_on_nothing_changed_are_one(world: World, staff: Reader) -> None:
    form = button(staff.get("/places"), "Nothing changed")
    staff.send("/places", **form)
    head = world.log.head()
    assert staff.send("/places", **form).status_code == 303
    commands = [one for one in world.appended_since(head) if type(one.data).__name__ == "ConfirmCapacity"]
    assert not commands


def test_a_number_can_be_typed_and_beds_blocked_with_a_reason(world: World, staff: Reader) -> None:
    form = button(staff.get("/places"), "Save unit") | {"free": "7", "blocked": "2", "blocked_because": "repair"}
    done = staff.follow(staff.send("/places", **form))
    assert "unit u1 has 7 free." in words(done)
    assert "2: To be repaired" in words(done)
    unit = unit_of(world, HOME)
    assert (unit["free"], unit["blocked"], unit["blocked_because"]) == (7, 2, "repair")
    later = "2026-12-24T09:30"  # local time
    staff.send("/places", **button(staff.get("/places"), "Save unit") | {"blocked_until": later})
    assert unit_of(world, HOME)["blocked_until"].startswith("2026-12-24T08:30")
    assert button(staff.get("/places"), "One more")["blocked_until"] == later
    staff.send("/places", **button(staff.get("/places"), "Save unit") | {"blocked": "0"})
    assert unit_of(world, HOME)["blocked_because"] is None


@pytest.mark.parametrize(
    ("typed", "field"),
    [
        ({"free": "many"}, "free"),
        ({"free": ""}, "free"),
        ({"free": "201"}, "free"),
        ({"free": "-1"}, "free"),
        ({"free": "199", "blocked": "9", "blocked_because": "repair"}, "free"),
        ({"blocked": "2"}, "blocked_because"),
        ({"blocked": "x"}, "blocked"),
        ({"blocked": "1", "blocked_because": "repair", "blocked_until": "yesterday"}, "blocked_until"),
        ({"blocked": "1", "blocked_because": "repair", "blocked_until": "2020-01-01T10:00"}, "blocked_until"),
        ({"blocked": "1", "blocked_because": "repair", "blocked_until": "2028-01-01T10:00"}, "blocked_until"),
        ({"blocked": "1", "blocked_because": "nothing"}, "blocked_because"),
    ],
)
def test_what_is_wrong_is_said_at_its_field_and_what_was_typed_is_kept(
    world: World, staff: Reader, typed: Form, field: str
) -> None:
    before = unit_of(world, HOME)
    answer = staff.send("/places", **button(staff.get("/places"), "Save unit") | typed)
    page = answer.get_data(as_text=True)
    assert answer.status_code == 400
    assert "There is a problem" in page
    assert f'href="#{field}-1"' in page
    assert re.search(rf'id="{field}-1"[^>]*aria-describedby="{field}-hint-1 {field}-error-1"', page)
    assert f'id="{field}-error-1"' in page
    kept = button(answer, "Save unit")
    assert all(kept[name] == value for name, value in typed.items() if (name, value) != ("blocked_because", "nothing"))
    assert unit_of(world, HOME) == before


def test_two_colleagues_at_once_see_both_values_and_are_asked_once(world: World, staff: Reader) -> None:
    mine, theirs = staff.get("/places"), Reader(world, HOME).get("/places")
    before = unit_of(world, HOME)
    Reader(world, HOME).send("/places", **button(theirs, "Save unit") | {"free": "20"})
    answer = staff.send("/places", **button(mine, "Save unit") | {"free": "30"})
    assert answer.status_code == 412
    said = words(answer)
    assert "Nothing was overwritten" in said
    assert "Free 30 20" in said
    assert "reported by your shelter" in said
    assert "Leave what stands now: 20 free" in said
    assert unit_of(world, HOME)["free"] == 20
    done = staff.follow(staff.send("/places", **button(answer, "Save what I sent: 30 free")))
    assert "has 30 free" in words(done)
    assert unit_of(world, HOME)["free"] == 30
    staff.send("/places", **button(done, "Save unit") | {"free": str(before["free"])})


def test_undo_is_not_offered_over_a_change_of_somebody_else(world: World, staff: Reader) -> None:
    sent = staff.send("/places", **button(staff.get("/places"), "One fewer"))
    colleague = Reader(world, HOME)
    colleague.send("/places", **button(colleague.get("/places"), "Save unit") | {"free": "11"})
    assert not [name for name in forms(staff.follow(sent)) if name.startswith("Undo")]


def test_nothing_changed_while_something_did_is_said_and_asked_once_more(world: World, staff: Reader) -> None:
    form = button(staff.get("/places"), "Nothing changed")
    colleague = Reader(world, HOME)
    colleague.send("/places", **button(colleague.get("/places"), "Save unit") | {"free": "12"})
    answer = staff.send("/places", **form)
    assert answer.status_code == 412
    assert "What moved while you looked" in words(answer)
    assert re.search(r"u1 \d+ 12 0", words(answer))
    again = staff.send("/places", **button(answer, "Nothing changed, still 12 free"))
    assert again.status_code == 303


def test_beds_are_held_for_a_case_with_a_time_and_cannot_be_typed_away(world: World) -> None:
    staff = Reader(world, RECEIVING)
    request_id = world.bring_to(Stage.ASKED)
    ask_id = world.ask_to(request_id, RECEIVING)
    page = staff.get("/places")
    code = f"{request_id[:4]}-{request_id[4:8]}".upper()
    assert f"For case {code} , until you answer, by" in words(page)
    assert f'href="/asks/{ask_id}"' in page.get_data(as_text=True)
    deadline = world.view(request_id)["asks"][ask_id]["deadline"]
    assert f'<time datetime="{deadline}">' in page.get_data(as_text=True)
    unit = unit_of(world, RECEIVING)
    assert unit["held"] == 1
    typed = {"free": str(unit["beds"]), "blocked": "0"}
    answer = staff.send("/places", **button(page, "Save unit") | typed)
    assert answer.status_code == 409
    assert "cannot be typed away" in words(answer)
    assert f"Free {unit['beds']} {unit['free']}" in words(answer)
    assert not [name for name in forms(answer) if name.startswith("Save what I sent")]
    assert button(answer, "Save unit")["free"] == str(unit["beds"])
    assert unit_of(world, RECEIVING) == unit
    world.done(world.say_yes(request_id))
    assert f"For case {code} , while others decide, by" in words(staff.get("/places"))
    world.done(world.withdraw(request_id))
    assert code not in words(staff.get("/places"))


def test_beds_of_a_household_that_left_are_made_ready_and_then_free(world: World) -> None:
    staff = Reader(world, RECEIVING)
    world.bring_to(Stage.ENDED)
    page = staff.get("/places")
    assert "1: Being made ready" in words(page)
    form = button(page, "Save unit")
    done = staff.send("/places", **form | {"blocked": "0", "free": str(int(form["free"]) + 1)})
    assert done.status_code == 303
    assert unit_of(world, RECEIVING)["blocked"] == 0


def test_another_shelters_unit_is_not_there(world: World, staff: Reader) -> None:
    before = unit_of(world, NEIGHBOUR)
    form = button(staff.get("/places"), "One fewer")
    for unit in ("nl-shelter-02-u1", "made-up", "../../x", ""):
        assert staff.send("/places", **form | {"unit": unit}).status_code == 404
    seen = f"nl-shelter-02-u1 {before['revision']} {before['free']}"
    assert staff.send("/places", what="confirm", command="a" * 32, seen=seen).status_code == 404
    assert unit_of(world, NEIGHBOUR) == before


@pytest.mark.parametrize(
    "form",
    [
        {"what": "confirm"},
        {"what": "confirm", "seen": "be-shelter-01-u1"},
        {"what": "confirm", "seen": "be-shelter-01-u1 x y"},
        {"unit": "be-shelter-01-u1", "free": "1", "revision": "x"},
    ],
)
def test_a_form_that_is_not_ours_changes_nothing(world: World, staff: Reader, form: Form) -> None:
    before = unit_of(world, HOME)
    assert staff.send("/places", **form).status_code == 400
    assert unit_of(world, HOME) == before


def test_a_bed_that_moved_in_one_unit_does_not_keep_the_others_from_being_confirmed(world: World) -> None:
    world.core.seed([*INVENTORY, one_of_two("lu-shelter-07-u1", 4), one_of_two("lu-shelter-07-u2", 5)])
    world.core.settle()
    staff = Reader(world, staff_of("lu-shelter-07"))
    form = button(staff.get("/places"), "Nothing changed, still 9 free")
    staff.send("/places", **button(staff.get("/places"), "One more: 5 free in unit u1"))
    world.later(hours=13)
    answer = staff.send("/places", **form)
    assert answer.status_code == 412
    assert re.search(r"u1 4 5 0 Every other unit was confirmed", words(answer))
    units = world.done(world.get(staff.who, "/shelters/lu-shelter-07/units"))["units"]
    assert [unit["freshness"] for unit in units] == ["ageing", "fresh"]
    assert staff.send("/places", **button(answer, "Nothing changed, still 10 free")).status_code == 303


def test_a_unit_that_never_reported_has_nothing_to_confirm(world: World) -> None:
    profile = msgspec.structs.replace(a_unit("lu-shelter-08", "LU00", 0).profile, open_at_night=False)
    stream = f"unit-{profile.unit_id}"
    registered = Event(
        id="synthetic-registration",
        source="gateway",
        stream=stream,
        time=world.now,
        actor=system_actor("gateway"),
        correlation_id=stream,
        causation_id="synthetic-registration",
        data=RegisterUnit(unit_id=profile.unit_id, profile=profile, beds=6),
    )
    world.log.append([registered], ANY_VERSION)
    world.core.settle()
    staff = Reader(world, staff_of("lu-shelter-08"))
    page = staff.get("/places")
    assert "Not reported There is no report yet." in words(page)
    assert "Takes nobody in at night." in words(page)
    assert not [name for name in forms(page) if name.startswith("Nothing changed")]
    done = staff.follow(staff.send("/places", **button(page, "Save unit") | {"free": "2"}))
    assert "Nothing changed, still 2 free" in words(done)


def test_what_is_not_decided_yet_is_said_to_be_received(
    world: World, staff: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = staff.get("/places")
    monkeypatch.setattr(world.core.intake, "wait_for_outcomes", lambda *_: [None])
    for beginning in ("One fewer", "Nothing changed"):
        done = staff.follow(staff.send("/places", **button(page, beginning)))
        assert "Received, and not decided yet." in words(done)


def test_what_may_have_been_kept_is_sent_again_under_the_same_command(
    world: World, staff: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(*_: Any, **__: Any) -> None:
        raise problems.Problem(503, "not-recorded", "synthetic", next_action="synthetic")

    form, typed = (button(staff.get("/places"), name) for name in ("Nothing changed", "Save unit"))
    monkeypatch.setattr(world.core.intake, "accept", unavailable)
    answer = staff.send("/places", **form)
    assert answer.status_code == 503
    assert "This was not recorded" in words(answer)
    assert button(answer, "Nothing changed")["command"] == form["command"]
    answer = staff.send("/places", **typed | {"free": "44"})
    assert answer.status_code == 503
    assert button(answer, "Save unit")["free"] == "44"


def test_what_was_typed_before_a_new_sign_in_is_shown_again_and_not_sent(world: World, staff: Reader) -> None:
    form = button(staff.get("/places"), "Save unit") | {"free": "33"}
    before = unit_of(world, HOME)
    session = world.node.sessions.find(staff.cookie)
    assert session is not None
    session.kept = KeptForm(path="/places", fields=tuple(form.items()), person=HOME.person)
    world.node.sessions.keep(staff.cookie, session)
    page = staff.get("/places")
    assert button(page, "Save unit")["free"] == "33"
    assert unit_of(world, HOME) == before


def test_a_shelter_without_units_is_told_whom_to_ask(world: World) -> None:
    assert "has no unit in Haven yet" in words(Reader(world, staff_of("nl-shelter-99")).get("/places"))


def test_every_link_of_the_page_leads_somewhere(world: World) -> None:
    staff = Reader(world, RECEIVING)
    world.bring_to(Stage.ASKED)
    page = staff.get("/places")
    for address in sorted(set(re.findall(r'href="(/[^"#]*)"', page.get_data(as_text=True)))):
        answer = staff.get(unescape(address), follow_redirects=True)
        assert answer.status_code == 200, address


def test_nothing_on_the_page_is_styled_or_run_inline(staff: Reader) -> None:
    page = staff.get("/places").get_data(as_text=True)
    assert " style=" not in page
    assert " onclick=" not in page
    for name in re.findall(r'<(?:input|select)[^>]*type="(?!hidden)[^>]*id="([^"]+)"', page):
        assert f'for="{name}"' in page
