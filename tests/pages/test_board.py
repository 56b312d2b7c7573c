"""The board: who sees which request in which lane, and nothing that would give a household away."""

import re
from datetime import datetime, timedelta
from typing import Any

import pytest

from events.vocabulary import Role, Stage, Step
from services.gateway.alert_routes import SetAside
from services.gateway.pages.board import (
    CountryCapacity,
    Lane,
    call_first,
    capacity_by_country,
    lane_of,
    lanes_of,
    stands_until,
    troubles_of,
    way_on,
)
from services.gateway.pages.words_of_cases import case_code, clock_of, household_words
from tests.gateway.world import ESCORT, GUARDIAN, HOST, NEIGHBOUR, ORIGIN, OTHER_HOST, POLICE, RECEIVING, START, World
from tests.pages.reader import Reader, words

REQUEST_ID = "0123456789abcdef0123456789abcdef"
LANES = (
    (Stage.RECEIVED, "", Lane.SHELTERS, Lane.SHELTERS),
    (Stage.OPENED, "", Lane.SHELTERS, Lane.SHELTERS),
    (Stage.SHORTLISTED, "", Lane.SHELTERS, Lane.SHELTERS),
    (Stage.ASKED, "", Lane.SHELTERS, Lane.SHELTERS),
    (Stage.OFFERED, "BE", Lane.CHOICE, Lane.SIGNATURE),
    (Stage.PROPOSED, "NL", Lane.SIGNATURE, Lane.SIGNATURE),
    (Stage.COUNTERSIGNED, "BE", Lane.CONSENT_AND_JOURNEY, Lane.CONSENT_AND_JOURNEY),
    (Stage.CONSENTED, "", Lane.CONSENT_AND_JOURNEY, Lane.CONSENT_AND_JOURNEY),
    (Stage.CONFIRMED, "BE", Lane.CONSENT_AND_JOURNEY, Lane.CONSENT_AND_JOURNEY),
    (Stage.DEPARTED, "NL", Lane.UNDER_WAY, Lane.UNDER_WAY),
    (Stage.ARRIVED, "NL", Lane.UNDER_WAY, Lane.UNDER_WAY),
    (Stage.ASTRAY, "BE", Lane.FOLLOW_UP, Lane.FOLLOW_UP),
    (Stage.UNMET_NEED, "BE", Lane.FOLLOW_UP, Lane.FOLLOW_UP),
    (Stage.ENDED, "", None, None),
    (Stage.REFUSED, "", None, None),
    (Stage.WITHDRAWN, "", None, None),
    (Stage.ERASED, "", None, None),
)
"""Each stage, whose turn it is, and the lane in which the two countries see it."""
SOON = START + timedelta(minutes=5)


def a_view(stage: Stage, **changes: Any) -> dict[str, Any]:
    """A request as the API shows it to a focal point."""
    return {
        "request_id": REQUEST_ID,
        "stage": stage,
        "owner": Role.SYSTEM,
        "owner_country": "",
        "next_steps": [],
        "deadline": None,
        "opened_at": "2026-11-23T11:00:00.000000Z",
        "urgency": "urgent",
        "danger_country": "BE",
        "host_country": None,
        "household": {"women": 1},
        "needs": [],
        "asks": {},
        "proposal": None,
        "missed_deadlines": 0,
    } | changes


def key_of(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize(("stage", "owner_country", "at_origin", "at_host"), LANES)
def test_a_request_stands_in_the_lane_of_who_must_act(
    stage: Stage, owner_country: str, at_origin: Lane | None, at_host: Lane | None
) -> None:
    view = a_view(stage, owner_country=owner_country)
    assert lane_of(view, "BE", START) is at_origin
    assert lane_of(view, "NL", START) is at_host


def test_every_stage_has_its_place_in_that_table() -> None:
    assert {stage for stage, *_ in LANES} == set(Stage)


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage not in (Stage.ASTRAY, Stage.UNMET_NEED)])
@pytest.mark.parametrize(
    ("changes", "is_to_follow_up"),
    [
        ({"deadline": key_of(START)}, False),
        ({"deadline": key_of(START - timedelta(microseconds=1))}, True),
        ({"missed_deadlines": 1, "deadline": key_of(SOON)}, True),
        ({"next_steps": [Step.FIND_HOUSEHOLD]}, True),
        ({"next_steps": [Step.FIND_ALTERNATIVE]}, True),
        ({"next_steps": [Step.RECORD_ARRIVAL]}, False),
    ],
)
def test_whatever_is_late_or_goes_wrong_is_followed_up(
    stage: Stage, changes: dict[str, Any], is_to_follow_up: bool
) -> None:
    view = a_view(stage, **changes)
    over = stage in (Stage.ENDED, Stage.REFUSED, Stage.WITHDRAWN, Stage.ERASED)
    assert bool(troubles_of(view, START)) is is_to_follow_up
    assert (lane_of(view, "BE", START) is Lane.FOLLOW_UP) is (is_to_follow_up and not over)


@pytest.mark.parametrize(
    ("left", "clock"),
    [
        (timedelta(microseconds=-1), "past"),
        (timedelta(0), "soon"),
        (timedelta(minutes=5), "soon"),
        (timedelta(minutes=5, microseconds=1), "running"),
        (timedelta(days=1), "running"),
        (timedelta(days=1, microseconds=1), "far"),
    ],
)
def test_a_clock_says_how_pressing_it_is(left: timedelta, clock: str) -> None:
    assert clock_of(key_of(START + left), START) == clock
    assert clock_of(None, START) == "far"


def test_a_lane_is_sorted_by_deadline_and_then_by_age() -> None:
    views = [
        a_view(Stage.ASKED, request_id="none", opened_at="2026-11-23T09:00:00.000000Z"),
        a_view(Stage.ASKED, request_id="later", deadline=key_of(SOON + timedelta(minutes=1))),
        a_view(Stage.ASKED, request_id="younger", deadline=key_of(SOON), opened_at="2026-11-23T11:30:00.000000Z"),
        a_view(Stage.ASKED, request_id="older", deadline=key_of(SOON), opened_at="2026-11-23T11:00:00.000000Z"),
        a_view(Stage.WITHDRAWN, request_id="over"),
    ]
    lanes = lanes_of(views, "BE", START)
    assert [row.request_id for row in lanes[Lane.SHELTERS]] == ["older", "younger", "later", "none"]
    assert sum(len(rows) for rows in lanes.values()) == 4


@pytest.mark.parametrize(
    ("view", "country", "page"),
    [
        (a_view(Stage.ASKED, owner=Role.SHELTER, next_steps=[Step.ANSWER_ASK]), "BE", "/shortlist"),
        (a_view(Stage.ASKED, owner=Role.SHELTER, next_steps=[Step.ANSWER_ASK]), "NL", ""),
        (a_view(Stage.PROPOSED, owner=Role.COORDINATOR, owner_country="NL", proposal={"rank": 1}), "BE", "/signature"),
        (
            a_view(Stage.PROPOSED, owner=Role.COORDINATOR, owner_country="NL", next_steps=[Step.COUNTERSIGN_PLACEMENT]),
            "NL",
            "/signature",
        ),
        (
            a_view(Stage.OFFERED, owner=Role.COORDINATOR, owner_country="BE", next_steps=[Step.PROPOSE_PLACEMENT]),
            "BE",
            "/shortlist",
        ),
        (
            a_view(Stage.CONFIRMED, owner=Role.COORDINATOR, owner_country="BE", next_steps=[Step.PLAN_JOURNEY]),
            "BE",
            "/journey",
        ),
        (
            a_view(Stage.CONFIRMED, owner=Role.COORDINATOR, owner_country="BE", next_steps=[Step.PLAN_JOURNEY]),
            "NL",
            "",
        ),
        (
            a_view(Stage.UNMET_NEED, owner=Role.COORDINATOR, owner_country="BE", next_steps=[Step.FIND_ALTERNATIVE]),
            "BE",
            "/shortlist",
        ),
    ],
)
def test_each_row_leads_to_where_its_next_step_is_taken(view: dict[str, Any], country: str, page: str) -> None:
    verb, address = way_on(view, country)
    assert verb
    assert address == f"/requests/{REQUEST_ID}{page}"


def test_a_household_and_a_case_are_said_in_words() -> None:
    household = {"women": 1, "men": 2, "children_under_6": 2, "children_12_to_17": 1, "age_status": "presumed_minor"}
    said = household_words(household)
    assert said == "1 woman, 2 men, 2 children under 6, 1 child of 12 to 17, perhaps headed by a minor"
    assert household_words({}) == ""
    assert case_code(REQUEST_ID) == "0123-4567"


def test_free_beds_are_counted_by_country_and_only_our_own_regions_are_to_be_phoned() -> None:
    def row(country: str, certain: int, uncertain: int, silent: int) -> dict[str, Any]:
        return {
            "country": country,
            "region": f"{country}11",
            "track": "adult",
            "free_certain": certain,
            "free_uncertain": uncertain,
            "units": 3,
            "units_not_reported": silent,
        }

    regions = [row("NL", 1, 0, 0), row("NL", 2, 3, 0), row("BE", 4, 0, 1), row("NL", 0, 0, 2)]
    assert capacity_by_country(regions) == [CountryCapacity("BE", 4, 0, 1), CountryCapacity("NL", 3, 3, 2)]
    assert call_first(regions, "NL") == [regions[1], regions[3]]


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (None, HOUR),
        (timedelta(days=3), HOUR),
        (timedelta(days=1, minutes=10), timedelta(minutes=10)),
        (timedelta(days=1), HOUR),
        (timedelta(minutes=30), timedelta(minutes=25)),
        (timedelta(minutes=5), timedelta(minutes=5)),
        (timedelta(minutes=4), timedelta(minutes=4)),
        (timedelta(0), HOUR),
        (timedelta(minutes=-4), HOUR),
    ],
)
def test_a_board_knows_until_when_it_stands_by_itself(left: timedelta | None, expected: timedelta) -> None:
    view = a_view(Stage.ASKED, deadline=None if left is None else key_of(START + left))
    until = stands_until([a_view(Stage.ASKED), view], None, START)
    assert until - START == expected
    assert stands_until([view], START + timedelta(minutes=2), START) == START + timedelta(minutes=2)


@pytest.mark.parametrize("left", [timedelta(days=1, minutes=5), timedelta(minutes=5, seconds=20), timedelta(minutes=3)])
def test_what_a_row_says_changes_then_and_not_before(left: timedelta) -> None:
    view = a_view(Stage.ASKED, deadline=key_of(START + left))

    def said(now: datetime) -> tuple[str, tuple[str, ...], Lane | None]:
        return clock_of(view["deadline"], now), troubles_of(view, now), lane_of(view, "BE", now)

    until = stands_until([view], None, START)
    assert said(until - timedelta(seconds=1)) == said(START)
    assert said(until + timedelta(seconds=1)) != said(START)


def test_a_board_says_for_how_long_it_stands(world: World) -> None:
    request_id = world.open()
    left = datetime.fromisoformat(world.view(request_id)["deadline"]) - world.now
    for path in ("/board", "/board?wall=1"):
        for headers in ({}, {"HX-Request": "true"}):
            page = Reader(world, ORIGIN).get(path, headers=headers).get_data(as_text=True)
            stands = re.search(r'<div id="standing" data-stands-for="(\d+)" data-unheard="[0-9a-f]{12}"', page)
            assert stands
            assert 0 < int(stands[1]) <= left.total_seconds()


def links_of(page: str) -> set[str]:
    """Where the content of a page leads, without the frame's own links."""
    main = page[page.index("<main") : page.index("</main>")]
    return {link for link in re.findall(r'href="([^"]+)"', main) if not link.startswith("#")}


@pytest.mark.parametrize(
    "stage",
    [
        Stage.ASKED,
        Stage.OFFERED,
        Stage.PROPOSED,
        Stage.COUNTERSIGNED,
        Stage.CONFIRMED,
        Stage.DEPARTED,
        Stage.ARRIVED,
        Stage.ASTRAY,
    ],
)
def test_both_countries_see_a_request_on_its_way_and_every_link_leads_somewhere(world: World, stage: Stage) -> None:
    request_id = world.bring_to(stage)
    for who in (ORIGIN, HOST):
        reader = Reader(world, who)
        answer = reader.get("/board")
        page = answer.get_data(as_text=True)
        assert answer.status_code == 200
        assert f'id="case-{request_id}"' in page
        assert case_code(request_id) in words(answer)
        for link in links_of(page):
            assert reader.get(link).status_code == 200, link


def test_every_step_of_a_focal_point_leads_to_a_page_that_is_there(world: World) -> None:
    """Also in the languages of the others, and when it is overdue, or nobody fits."""
    unmet, planned, overdue = world.bring_to(Stage.UNMET_NEED), world.bring_to(Stage.CONFIRMED), world.open()
    world.done(world.plan_journey(planned))
    world.done(world.consent(planned))
    for step in (world.say_yes, world.propose, world.countersign, world.plan_journey, world.consent, world.depart):
        world.done(step(overdue))
    world.later(hours=8)
    for language in ("nl", "fr", "de", "en"):
        reader = Reader(world, ORIGIN, language)
        page = reader.get("/board").get_data(as_text=True)
        for request_id, part in ((unmet, "shortlist"), (overdue, "disclosures"), (planned, "departure")):
            assert f'href="/requests/{request_id}/{part}"' in page
            assert reader.get(f"/requests/{request_id}/{part}").status_code == 200


def test_the_board_says_what_must_be_done_and_where_a_shelter_is_to_nobody(world: World) -> None:
    request_id = world.bring_to(Stage.OFFERED, needs=[], household={"women": 1, "children_under_6": 2})
    said = words(Reader(world, ORIGIN).get("/board"))
    assert "1 woman, 2 children under 6" in said
    assert "Choose an offer and sign" in said
    assert "from Belgium to the Netherlands" in said
    page = Reader(world, ORIGIN).get("/board").get_data(as_text=True)
    assert f'href="/requests/{request_id}/shortlist"' in page
    for shelter in (RECEIVING, NEIGHBOUR):
        assert shelter.organisation not in page
    assert POLICE.person not in page
    assert "PLOVER" not in page
    assert "CURLEW" not in page


def test_a_country_that_is_no_longer_asked_sees_nothing_of_a_request(world: World) -> None:
    request_id = world.bring_to(Stage.PROPOSED)
    page = Reader(world, OTHER_HOST).get("/board").get_data(as_text=True)
    assert request_id not in page


@pytest.mark.parametrize("who", [POLICE, RECEIVING, GUARDIAN, ESCORT])
def test_only_focal_points_have_a_board(world: World, who: Any) -> None:
    assert Reader(world, who).get("/board").status_code == 403


def test_the_wall_shows_less_loads_itself_and_leads_only_back(world: World) -> None:
    request_id = world.bring_to(Stage.OFFERED, household={"women": 3})
    answer = Reader(world, ORIGIN).get("/board?wall=1")
    page = answer.get_data(as_text=True)
    assert '<meta http-equiv="refresh" content="30">' in page
    assert links_of(page) == {"/board"}
    assert case_code(request_id) in words(answer)
    assert "3 women" not in words(answer)
    assert "<form" not in page[page.index("<main") :]


def test_what_is_set_aside_is_said_with_what_to_do(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = Reader(world, ORIGIN)
    assert "Cases may stand still" not in words(origin.get("/board"))
    held = [SetAside(service="placement", reason="failed", count=2, since="2026-11-23T11:00:00+00:00")]
    monkeypatch.setitem(world.node.gateway.__dict__, "set_aside", lambda: held)
    said = words(origin.get("/board"))
    assert "2 messages are set aside in placement" in said
    assert "Phone whoever runs Haven" in said
    assert "Cases may stand still" in words(origin.get("/board?wall=1"))


def test_a_shelter_that_does_not_report_is_to_be_phoned_first(world: World) -> None:
    host = Reader(world, HOST)
    assert "Call first" not in words(host.get("/board"))
    world.later(hours=36)
    said = words(host.get("/board"))
    assert "Call first" in said
    assert "North Holland, Adult protection" in said
    assert "Antwerp, Adult" not in said


def test_no_open_request_falls_off_the_board_whatever_came_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.pages.board.PAGE_OF_REQUESTS", "1")
    lost_at_night = world.open()
    for _ in range(6):
        world.later(seconds=1)
        over = world.bring_to(Stage.WITHDRAWN)
    world.later(seconds=1)
    latest = world.open()
    page = Reader(world, ORIGIN).get("/board").get_data(as_text=True)
    assert lost_at_night in page
    assert latest in page
    assert over not in page
