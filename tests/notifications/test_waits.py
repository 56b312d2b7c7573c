"""Who waits for whom at each stage of a request, through the real services; and that a row says nothing else."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from events.vocabulary import Freshness, Role, Stage, Step
from services.gateway.read_model import AVAILABILITY, moment_key, waits
from services.gateway.views import parties_of
from services.gateway.waits import Wait, WaitKind, ask_wait_id, waits_of_request, waits_of_unit
from tests.gateway.world import A_MINOR, CALLBACK, RECEIVING, RENDEZVOUS, STEPS, World

Told = set[tuple[WaitKind, str, bool]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("node"))
    yield world
    world.node.stop()


def waiting(world: World, request_id: str) -> frozenset[Wait]:
    return waits_of_request(world.view(request_id))


def told(found: frozenset[Wait]) -> Told:
    return {(wait.kind, wait.party, wait.pressing) for wait in found}


def a_step(*parties: str, pressing: bool = True) -> Told:
    return {(WaitKind.STEP, party, pressing) for party in parties}


ASKED = {(WaitKind.ASK, f"shelter:{shelter}", True) for shelter in ("nl-shelter-01", "nl-shelter-02", "lu-shelter-01")}
SCENES: list[tuple[Stage, dict[str, Any], Told]] = [
    (Stage.ASKED, {"consented_countries": ["NL", "LU"]}, ASKED),
    (Stage.OFFERED, {}, a_step("coordinator:BE")),
    (Stage.OFFERED, {"urgency": "standard"}, a_step("coordinator:BE", pressing=False)),
    (Stage.UNMET_NEED, {}, a_step("coordinator:BE")),
    (Stage.PROPOSED, {}, a_step("coordinator:NL")),
    (Stage.COUNTERSIGNED, {}, a_step("coordinator:BE")),
    (Stage.CONFIRMED, {}, a_step("coordinator:BE")),
    (Stage.DEPARTED, {}, set()),
    (Stage.ARRIVED, {}, set()),
    (Stage.ENDED, {}, set()),
    (Stage.REFUSED, {}, set()),
    (Stage.WITHDRAWN, {}, set()),
    (Stage.ERASED, {}, set()),
]


@pytest.mark.parametrize(("stage", "changes", "who"), SCENES)
def test_a_request_waits_for_whoever_must_act(world: World, stage: Stage, changes: dict[str, Any], who: Told) -> None:
    request_id = world.bring_to(stage, **changes)
    found = told(waiting(world, request_id))
    # While it is offered, shelters that have not answered are still asked.
    assert {one for one in found if one[0] is not WaitKind.ASK or stage is Stage.ASKED} == who


def test_a_guardian_is_rung_for_a_consent_that_is_theirs(world: World) -> None:
    request_id = world.bring_to(Stage.ASKED, **A_MINOR, consented_countries=[])
    view = world.view(request_id) | {
        "asks": {},
        "owner": Role.GUARDIAN,
        "owner_country": "BE",
        "next_steps": [Step.RECORD_GUARDIAN_CONSENT],
    }
    assert told(waits_of_request(view)) == a_step("guardian:BE")


def test_an_ask_escalates_to_the_focal_point_of_the_shelters_country(world: World) -> None:
    request_id = world.bring_to(Stage.ASKED, consented_countries=["NL", "LU"])
    found = {wait.party: wait for wait in waiting(world, request_id)}
    assert found["shelter:nl-shelter-01"].escalates_to == "coordinator:NL"
    assert found["shelter:lu-shelter-01"].escalates_to == "coordinator:LU"
    assert found["shelter:nl-shelter-01"].since == moment_key(world.now)
    assert found["shelter:nl-shelter-01"].wait_id == ask_wait_id(world.ask_to(request_id, RECEIVING))


def test_both_focal_points_hear_of_a_missed_deadline_each_time(world: World) -> None:
    request_id = world.bring_to(Stage.PROPOSED)
    before = waiting(world, request_id)
    world.later(minutes=61)
    once = waiting(world, request_id)
    assert told(once) == a_step("coordinator:BE", "coordinator:NL")
    world.later(minutes=121)
    twice = waiting(world, request_id)
    # The hold ran out by then: the proposal lapsed, which both who signed are told.
    assert len({wait.wait_id for wait in (*before, *once, *twice)}) == len(before) + len(once) + len(twice)


def test_a_household_that_is_missing_wakes_people_whatever_the_urgency(world: World) -> None:
    request_id = world.bring_to(Stage.ASTRAY, urgency="standard")
    assert told(waiting(world, request_id)) == a_step("coordinator:BE")


def test_an_overdue_arrival_wakes_people_too(world: World) -> None:
    request_id = world.bring_to(Stage.DEPARTED, urgency="standard")
    world.later(hours=8)
    assert (WaitKind.STEP, "coordinator:BE", True) in told(waiting(world, request_id))


def test_whoever_signed_is_told_when_the_hold_ran_out(world: World) -> None:
    """DESIGN: countersigned as the hold expires. The signatures bind nobody any more, and both signers are told."""
    request_id = world.bring_to(Stage.COUNTERSIGNED)
    world.later(hours=3)
    changed = {wait.party for wait in waiting(world, request_id) if wait.kind is WaitKind.CHANGE}
    assert changed == {"coordinator:BE", "coordinator:NL"}
    world.done(world.withdraw(request_id))
    assert waiting(world, request_id) == frozenset()


def test_nobody_is_told_who_may_not_know_of_the_request_but_who_has_signed_it(world: World) -> None:
    for request in world.core.read_model.requests(["coordinator:BE"], None, 1000):
        for wait in waits_of_request(request):
            assert wait.kind is WaitKind.CHANGE or wait.party in parties_of(request)


# Units


def a_unit(**changes: Any) -> dict[str, Any]:
    return {
        "unit_id": "u-1",
        "shelter_id": "nl-shelter-01",
        "reported_at": "2026-11-23T12:00:00.000000Z",
        "freshness": Freshness.OVERDUE,
    } | changes


@pytest.mark.parametrize(
    ("freshness", "waits"),
    [
        (Freshness.FRESH, False),
        (Freshness.AGEING, False),
        (Freshness.OVERDUE, True),
        (Freshness.NOT_REPORTED, True),
    ],
)
def test_a_shelter_is_asked_to_confirm_what_is_overdue(freshness: Freshness, waits: bool) -> None:
    found = told(waits_of_unit(a_unit(freshness=freshness)))
    assert found == ({(WaitKind.PLACES, "shelter:nl-shelter-01", False)} if waits else set())


def test_a_unit_that_was_never_reported_waits_for_nobody() -> None:
    assert waits_of_unit(a_unit(freshness=Freshness.NOT_REPORTED, reported_at=None)) == frozenset()
    assert waits_of_unit(None) == frozenset()


def test_a_report_ends_it_and_the_next_time_is_another(tmp_path: Any) -> None:
    world = World(tmp_path)

    def overdue() -> set[str]:
        with world.log.engine.connect() as connection:
            return set(connection.scalars(sa.select(waits.c.wait_id).where(waits.c.party == "shelter:nl-shelter-01")))

    assert overdue() == set()
    world.later(days=2)
    first = overdue()
    assert len(first) == 1
    (unit,) = world.core.read_model.units([AVAILABILITY], "nl-shelter-01")
    body = {"units": [{"unit_id": unit["unit_id"], "revision_seen": unit["revision"]}]}
    answer = world.ask(RECEIVING, "POST", "/shelters/nl-shelter-01/capacity-confirmations", body)
    assert answer.status_code in (200, 202), answer.json
    assert overdue() == set()
    world.later(days=2)
    assert len(overdue()) == 1
    assert overdue().isdisjoint(first)
    world.node.stop()


# The rows


def test_the_rows_are_what_the_views_say(world: World) -> None:
    world.bring_to(Stage.ASKED)
    world.bring_to(Stage.PROPOSED)
    said = {
        wait.wait_id
        for request in world.core.read_model.requests(["coordinator:BE"], None, 1000)
        for wait in waits_of_request(request)
    } | {wait.wait_id for unit in world.core.read_model.units([AVAILABILITY]) for wait in waits_of_unit(unit)}
    with world.log.engine.connect() as connection:
        assert set(connection.scalars(sa.select(waits.c.wait_id))) == said
    assert len(said) > 5


def test_a_row_says_who_and_since_when_and_nothing_of_a_case(world: World) -> None:
    request_id = world.bring_to(Stage.PROPOSED)
    view = world.view(request_id)
    with world.log.engine.connect() as connection:
        rows = connection.execute(sa.select(waits)).all()
    text = str(rows)
    for secret in (request_id, *view["asks"], view["proposal"]["hash"], "women", CALLBACK, RENDEZVOUS, STEPS, "BE21"):
        assert secret not in text
    assert {column.name for column in waits.c} == {"wait_id", "kind", "party", "pressing", "since", "escalates_to"}


def test_what_was_asked_before_this_release_still_folds(world: World) -> None:
    """Views of an older release lack the moments; a rebuild gives them. Nothing stops until then."""
    request_id = world.bring_to(Stage.ASKED)
    old = world.view(request_id)
    for name in ("step_since", "lapsed"):
        old.pop(name)
    for ask in old["asks"].values():
        ask.pop("asked_at")
    assert told(waits_of_request(old)) == told(waiting(world, request_id))
