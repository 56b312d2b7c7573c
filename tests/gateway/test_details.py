"""What is learnt later, over HTTP: by whom, seen by whom, once, and never over what somebody else has said meanwhile."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from events.envelope import Event, decode
from events.gateway import RecordDetails
from events.placement import DetailsRecorded
from events.vocabulary import Role, Stage
from services.gateway.access import FIELDS_OF_ROLE
from services.gateway.views import view_of_request
from services.gateway.waits import waits_of_request
from tests.gateway.test_intents import at_once, post
from tests.gateway.world import (
    COLLEAGUE,
    FOREIGN_POLICE,
    GUARDIAN,
    HOST,
    MISSING,
    ORIGIN,
    OTHER_POLICE,
    POLICE,
    PREFIX,
    RECEIVING,
    Json,
    Who,
    World,
    is_problem,
)
from tests.placement.test_details import BEFORE_DETAILS

NOT_KNOWN: Json = {"third_country_national": None, "reflection_started_on": None, "region_of_stay": None}
LEARNT: Json = {"third_country_national": True, "reflection_started_on": "2026-11-20", "region_of_stay": "BE23"}


def learn(world: World, who: Who, request_id: str, seen: int = 0, /, **said: Any) -> Any:
    return world.act(who, request_id, "details", {"version_seen": seen, **NOT_KNOWN, **said})


def known(world: World, who: Who, request_id: str) -> Json:
    shown = world.done(world.read(who, request_id))
    return {name: shown.get(name) for name in NOT_KNOWN}


def test_it_is_added_and_shown_to_whoever_may_know_it(world: World) -> None:
    request_id = world.open()
    answer = world.done(learn(world, POLICE, request_id, **LEARNT))
    assert {name: answer[name] for name in LEARNT} == LEARNT
    assert answer["reflection_ends_on"] == "2027-01-04"
    assert answer["reflection"]["ends_on"] == "2027-01-04"
    assert answer["details"] == {"version": 1, "at": answer["changed_at"], "role": "referrer", "country": "BE"}
    for who in (COLLEAGUE, ORIGIN, HOST):
        assert known(world, who, request_id) == LEARNT
    assert known(world, RECEIVING, request_id) == NOT_KNOWN
    assert "details" not in world.done(world.read(RECEIVING, request_id))


def test_only_who_sees_what_is_known_sees_whose_word_it_is() -> None:
    assert {role for role, fields in FIELDS_OF_ROLE.items() if "details" in fields} == {
        role for role, fields in FIELDS_OF_ROLE.items() if set(NOT_KNOWN) <= set(fields)
    }


@pytest.mark.parametrize("who", [OTHER_POLICE, FOREIGN_POLICE, replace(HOST, country="LU")], ids=lambda w: w.person)
def test_a_stranger_is_told_what_nobody_is_told_of_a_case_that_is_none(world: World, who: Who) -> None:
    request_id = world.bring_to(Stage.CONFIRMED, **LEARNT)
    begun = world.heads()
    guesses = [learn(world, who, one, **said) for one in (request_id, MISSING) for said in (LEARNT, NOT_KNOWN)]
    assert len({(answer.status_code, answer.data) for answer in guesses}) == 1
    is_problem(guesses[0], 404)
    assert world.heads() == begun


def test_the_focal_point_that_is_asked_may_look_and_not_write(world: World) -> None:
    request_id = world.bring_to(Stage.PROPOSED)
    problem = is_problem(learn(world, HOST, request_id, **LEARNT), 403)
    assert problem["type"].endswith("/not-your-organisation")
    assert known(world, ORIGIN, request_id) == NOT_KNOWN


def test_all_of_it_is_said_every_time(world: World) -> None:
    """A field left out would forget what somebody knew, and nobody would have wanted it."""
    request_id = world.open(**LEARNT)
    for name in ("version_seen", *NOT_KNOWN):
        body = {"version_seen": 0, **LEARNT, "region_of_stay": "BE10"}
        del body[name]
        problem = is_problem(world.act(POLICE, request_id, "details", body), 400)
        assert (problem["field"], problem["rule"]) == (name, "required")
    assert known(world, POLICE, request_id) == LEARNT


@pytest.mark.parametrize(
    ("field", "value"),
    [("reflection_started_on", "2026-11-24"), ("reflection_started_on", "9999-12-31"), ("region_of_stay", "BE99")],
)
def test_what_cannot_be_at_the_opening_cannot_be_later(world: World, field: str, value: str) -> None:
    request_id, begun = world.open(), world.log.head()
    assert is_problem(learn(world, POLICE, request_id, **{field: value}), 400)["field"] == field
    assert not [event for event in world.appended_since(begun) if isinstance(event.data, RecordDetails)]


def test_whoever_looked_before_somebody_else_wrote_overwrites_nothing(world: World) -> None:
    request_id = world.open()
    world.done(learn(world, POLICE, request_id, **LEARNT))
    problem = is_problem(learn(world, ORIGIN, request_id, region_of_stay="BE10"), 409)
    assert problem["type"].endswith("/details-changed")
    assert problem["stage"] == Stage.ASKED
    assert known(world, ORIGIN, request_id) == LEARNT
    corrected = {**LEARNT, "region_of_stay": "BE10"}
    assert world.done(learn(world, ORIGIN, request_id, 1, **corrected))["details"]["role"] == "coordinator"
    assert known(world, POLICE, request_id) == corrected


def test_of_two_at_once_one_is_recorded_and_the_other_told(world: World) -> None:
    request_id = world.open()
    bodies = [{"version_seen": 0, **NOT_KNOWN, "region_of_stay": region} for region in ("BE10", "BE23")]
    keys, people = (world.new_key(), world.new_key()), (POLICE, ORIGIN)
    path = f"{PREFIX}/relocation-requests/{request_id}/details"
    for who in people:
        world.token(who)
    at_once(lambda n: post(world, people[n], path, bodies[n], keys[n]), 2)
    world.core.settle()
    answers = [
        world.act(who, request_id, "details", body, Idempotency_Key=key)
        for who, body, key in zip(people, bodies, keys, strict=True)
    ]
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    stream = world.core.placement_log.read_stream(f"relocation_request-{request_id}")
    assert len([event for event in stream if isinstance(event.data, DetailsRecorded)]) == 1


def test_a_second_tap_is_the_first_one_also_under_another_key(world: World) -> None:
    request_id, key = world.open(), world.new_key()
    said = {"version_seen": 0, **LEARNT}
    for again in (key, key, world.new_key()):
        shown = world.done(world.act(POLICE, request_id, "details", said, Idempotency_Key=again))
        assert shown["details"]["version"] == 1


def test_what_was_changed_is_in_the_timeline_as_far_as_each_may_know_it(world: World) -> None:
    request_id = world.open(household={"children_12_to_17": 1}, region_of_stay="BE34")
    world.done(learn(world, POLICE, request_id, **LEARNT))
    learnt = {}
    for who in (POLICE, ORIGIN, GUARDIAN):
        events = world.done(world.read(who, request_id, "/timeline"))["events"]
        (change,) = [event for event in events if event["type"].endswith("details_recorded.v1")]
        assert change["verb"] == "collection"
        learnt[who.role] = {name: change["detail"][name] for name in ("known", "before")}
        assert who is ORIGIN or "version" not in change["detail"]
    assert learnt[Role.REFERRER] == learnt[Role.COORDINATOR]
    assert learnt[Role.COORDINATOR]["known"] == {**LEARNT, "reflection_ends_on": "2027-01-04"}
    assert learnt[Role.COORDINATOR]["before"]["region_of_stay"] == "BE34"
    assert learnt[Role.GUARDIAN] == {
        "known": {"reflection_ends_on": "2027-01-04"},
        "before": {"reflection_ends_on": None},
    }


def test_it_rings_nobody(world: World) -> None:
    request_id = world.bring_to(Stage.PROPOSED)
    before = waits_of_request(world.view(request_id))
    world.done(learn(world, POLICE, request_id, **LEARNT))
    assert waits_of_request(world.view(request_id)) == before != frozenset()


def test_once_the_request_is_over_it_stays_as_it_was(world: World) -> None:
    for stage in (Stage.ENDED, Stage.WITHDRAWN, Stage.ERASED):
        request_id = world.bring_to(stage)
        assert is_problem(learn(world, POLICE, request_id, **LEARNT), 409)["type"].endswith("/wrong-stage")
        assert known(world, POLICE, request_id) == NOT_KNOWN


# After an upgrade


def replayed(lines: list[Json]) -> Json | None:
    view = None
    for line in lines:
        event = decode(json.dumps(line))
        assert isinstance(event, Event)
        view = view_of_request(view, event)
    return view


def test_a_request_of_the_release_before_is_shown_as_it_was_to_the_byte() -> None:
    said = json.loads(Path(BEFORE_DETAILS).read_text())
    assert json.dumps(replayed(said["events"])) == json.dumps(said["view"])


def test_a_row_that_the_release_before_wrote_takes_in_what_is_learnt_now() -> None:
    said = json.loads(Path(BEFORE_DETAILS).read_text())
    golden = Path(__file__).parents[2] / "events/golden/placement.relocation_request.details_recorded.v1.json"
    learnt = decode(golden.read_text())
    assert isinstance(learnt, Event)
    view = view_of_request(said["view"], learnt)
    assert view is not None
    assert view["region_of_stay"] == "BE21"
    assert view["details"]["version"] == 2
