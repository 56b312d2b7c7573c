"""Whom a focal point phones: as a table of asks, through the API, and on the board."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from reference import load
from services.gateway.call_list import CallReason, calls_to_make, next_call_at
from services.gateway.pages.board import calls_shown
from services.gateway.read_model import moment_key
from services.gateway.ringing import Ringing
from services.gateway.waits import ask_wait_id
from tests.gateway.world import HOST, NEIGHBOUR, ORIGIN, OTHER_HOST, RECEIVING, START, World
from tests.pages.reader import Reader, words

CLOCKS = load().clocks
RUNG = Ringing(is_on=True)
SILENT = Ringing()
UNRUNG = Ringing(is_on=True, unrung=frozenset({ask_wait_id("a-1")}))
CALL = CLOCKS.call_after_minutes


def a_view(urgency: str = "urgent", state: str = "open", country: str = "NL", **changes: Any) -> dict[str, Any]:
    ask = {
        "ask_id": "a-1",
        "shelter_id": f"{country.lower()}-shelter-01",
        "country": country,
        "asked_at": moment_key(START),
        "deadline": moment_key(START + timedelta(minutes=30)),
        "state": state,
    }
    return {"request_id": "r-1", "urgency": urgency, "opened_at": moment_key(START), "asks": {"a-1": ask}} | changes


def reason(view: dict[str, Any], ringing: Ringing, minutes: float, country: str = "NL") -> CallReason | None:
    found = calls_to_make([view], country, CLOCKS, START + timedelta(minutes=minutes), ringing)
    return found[0].reason if found else None


@pytest.mark.parametrize(
    ("urgency", "ringing", "minutes", "expected"),
    [
        ("urgent", RUNG, 0, None),
        ("urgent", RUNG, CALL - 0.01, None),
        ("urgent", RUNG, CALL, CallReason.UNANSWERED),
        ("urgent", UNRUNG, 0, CallReason.NOT_RUNG),
        ("urgent", UNRUNG, CALL, CallReason.NOT_RUNG),
        ("urgent", SILENT, 0, CallReason.NOBODY_IS_RUNG),
        ("urgent", SILENT, CALL, CallReason.UNANSWERED),
        ("standard", RUNG, 400, None),
        ("standard", SILENT, 400, None),
        ("standard", UNRUNG, 0, CallReason.NOT_RUNG),
    ],
)
def test_who_is_silent_or_out_of_reach_is_phoned(
    urgency: str, ringing: Ringing, minutes: float, expected: CallReason | None
) -> None:
    assert reason(a_view(urgency), ringing, minutes) == expected


@pytest.mark.parametrize("state", ["accepted", "declined", "expired", "closed"])
def test_who_has_answered_is_not(state: str) -> None:
    assert reason(a_view(state=state), UNRUNG, 60) is None


def test_a_shelter_is_phoned_by_the_focal_point_of_its_country_and_the_other_knows() -> None:
    views = [a_view(country="LU"), a_view(request_id="r-2")]
    late = START + timedelta(minutes=CALL)
    assert [(call.country, call.ours) for call in calls_to_make(views, "NL", CLOCKS, late, RUNG)] == [
        ("NL", True),
        ("LU", False),
    ]


def test_an_ask_of_an_older_release_counts_from_when_its_request_was_opened() -> None:
    view = a_view()
    view["asks"]["a-1"].pop("asked_at")
    assert reason(view, RUNG, CALL) is CallReason.UNANSWERED


@pytest.mark.parametrize(
    ("view", "minutes", "expected"),
    [
        (a_view(), 0, CALL),
        (a_view(), CALL - 0.01, CALL),
        (a_view(), CALL, None),
        (a_view("standard"), 0, None),
        (a_view(state="declined"), 0, None),
    ],
)
def test_when_the_list_changes_by_time_alone_is_known_before(
    view: dict[str, Any], minutes: float, expected: int | None
) -> None:
    said = next_call_at([view], CLOCKS, START + timedelta(minutes=minutes))
    assert said == (None if expected is None else START + timedelta(minutes=expected))


def test_the_list_says_when_to_look_again_and_then_there_is_something_to_see() -> None:
    views = [a_view(), a_view(opened_at=moment_key(START - timedelta(minutes=5)))]
    views[1]["asks"]["a-1"].pop("asked_at")
    now, seen = START, [0]
    while (following := next_call_at(views, CLOCKS, now)) is not None:
        now = following
        seen.append(len(calls_to_make(views, "NL", CLOCKS, now, RUNG)))
    assert seen == [0, 1, 2]


# Through the API


def on_list(world: World, who: Any) -> dict[str, str]:
    answer = world.done(world.get(who, "/call-list"))
    return {call["shelter_id"]: call["reason"] for call in answer["calls"]}


@pytest.fixture
def rung(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    object.__setattr__(world.node.gateway, "ringing", lambda: RUNG)
    monkeypatch.setattr(world, "now", world.now)


def test_without_anybody_who_rings_an_urgent_ask_is_on_the_list_at_once(world: World) -> None:
    assert world.done(world.get(HOST, "/call-list"))["people_are_rung"] is False
    request_id = world.open()
    assert on_list(world, HOST) == {
        "nl-shelter-01": "nobody_is_rung",
        "nl-shelter-02": "nobody_is_rung",
    }
    assert on_list(world, OTHER_HOST) == {"lu-shelter-01": "nobody_is_rung"}
    assert on_list(world, ORIGIN) == on_list(world, HOST) | on_list(world, OTHER_HOST)
    world.done(world.withdraw(request_id))
    assert on_list(world, HOST) == {}


@pytest.mark.usefixtures("rung")
def test_a_shelter_that_answers_leaves_the_list(world: World) -> None:
    request_id = world.open()
    assert on_list(world, HOST) == {}
    assert datetime.fromisoformat(world.done(world.get(HOST, "/call-list"))["next_at"]) == world.now + timedelta(
        minutes=CALL
    )
    world.later(minutes=CALL)
    assert on_list(world, HOST) == {"nl-shelter-01": "unanswered", "nl-shelter-02": "unanswered"}
    assert world.done(world.get(HOST, "/call-list"))["next_at"] is None
    body = {"accept": False, "decline": "no_space"}
    world.ask(NEIGHBOUR, "POST", f"/asks/{world.ask_to(request_id, NEIGHBOUR)}/answer", body)
    assert "nl-shelter-02" not in on_list(world, HOST)
    world.done(world.say_yes(request_id))
    assert on_list(world, HOST).keys().isdisjoint({RECEIVING.organisation})
    world.done(world.withdraw(request_id))


# On the board


def board_of(world: World, who: Any, path: str = "/board") -> str:
    return words(Reader(world, who).get(path))


def test_one_shelter_is_phoned_once_for_a_case_whichever_of_its_units_were_asked() -> None:
    call = {"request_id": "a" * 32, "shelter_id": "nl-shelter-01", "country": "NL", "ours": True, "deadline": "first"}
    another = {**call, "shelter_id": "nl-shelter-02"}
    other_case = {**call, "request_id": "b" * 32}
    ours, abroad = calls_shown([call, {**call, "deadline": "second"}, another, other_case])
    assert [(one["shelter_id"], one["request_id"][0], one["deadline"]) for one in ours] == [
        ("nl-shelter-01", "a", "first"),
        ("nl-shelter-02", "a", "first"),
        ("nl-shelter-01", "b", "first"),
    ]
    assert abroad == []


@pytest.mark.usefixtures("rung")
def test_the_board_shows_whom_to_phone_and_since_when_they_are_silent(world: World) -> None:
    request_id = world.open()
    code = f"{request_id[:4]}-{request_id[4:8]}".upper()
    assert "Calls to make" not in board_of(world, HOST)
    asked = f"Asked: {world.now + timedelta(hours=1):%d/%m/%Y, %H:%M}."
    world.later(minutes=CALL + 2)
    shown = board_of(world, HOST)
    assert f"Phone nl-shelter-01: Case {code} . {asked} It does not answer." in shown
    deadline = datetime.fromisoformat(world.view(request_id)["asks"][world.ask_to(request_id, RECEIVING)]["deadline"])
    assert f"Haven asks elsewhere after {deadline + timedelta(hours=1):%H:%M}." in shown
    abroad = board_of(world, ORIGIN)
    assert "nl-shelter" not in abroad
    assert f"Netherlands: Case {code} . {asked}" in abroad
    assert "2 calls to make" in board_of(world, HOST, "/board?wall=1")
    world.done(world.withdraw(request_id))
    assert "Calls to make" not in board_of(world, HOST)


def test_the_board_says_when_nobody_is_rung(world: World) -> None:
    object.__setattr__(world.node.gateway, "ringing", lambda: SILENT)
    assert "Haven rings nobody at the moment" in board_of(world, HOST)
