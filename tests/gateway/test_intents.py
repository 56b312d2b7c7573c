"""An intent is kept once, answered honestly, and readable from the moment it was acknowledged."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from sqlalchemy.exc import DataError, OperationalError

from events.gateway import OpenRelocationRequest, ProposePlacement, ReportCapacity
from events.placement import PlacementProposed
from events.vocabulary import Stage
from services.gateway.intake import KEPT_FOR, Accepted, Intake
from tests.gateway.world import (
    AN_OPENING,
    COLLEAGUE,
    ESCORT,
    GUARDIAN,
    HOST,
    NEIGHBOUR,
    ORIGIN,
    OTHER_POLICE,
    POLICE,
    PREFIX,
    RECEIVING,
    SAME_PERSON,
    Json,
    Who,
    World,
    is_problem,
    somebody,
)

OPEN = f"{PREFIX}/relocation-requests"
WITHDRAWAL = {"reason": "danger_passed"}


def post(world: World, who: Who, path: str, body: Json, key: str) -> Any:
    """One POST on which nobody works yet."""
    return world.send(who, "POST", path, json=body, headers={"Idempotency-Key": key})


def commands(world: World, kind: type, since: int) -> list[Any]:
    return [event for event in world.appended_since(since) if isinstance(event.data, kind)]


# The same key again


def test_the_same_request_under_the_same_key_is_answered_the_same_and_kept_once(world: World) -> None:
    key, begun = world.new_key(), world.log.head()
    first = post(world, POLICE, OPEN, AN_OPENING, key)
    again = post(world, POLICE, OPEN, AN_OPENING, key)
    assert first.status_code == again.status_code == 202
    assert first.data == again.data
    assert first.headers["Location"] == again.headers["Location"]
    world.core.settle()
    assert post(world, POLICE, OPEN, AN_OPENING, f'"{key}"').data == first.data, "as a structured field string too"
    assert len(commands(world, OpenRelocationRequest, begun)) == 1


@pytest.mark.attack(57)
def test_a_key_used_for_something_else_is_refused(world: World) -> None:
    key = world.new_key()
    request_id = world.received(post(world, POLICE, OPEN, AN_OPENING, key))
    world.core.settle()
    before = world.heads()
    for other in ({"urgency": "standard"}, {"callback": "synthetic, another one"}, {"household": {"women": 2}}):
        refused = post(world, POLICE, OPEN, AN_OPENING | other, key)
        assert is_problem(refused, 422)["type"].endswith("/idempotency-key-used")
    assert world.heads() == before
    assert post(world, POLICE, f"{OPEN}/{request_id}/withdrawal", WITHDRAWAL, key).status_code == 202, "another route"


@pytest.mark.attack(57)
def test_the_same_key_of_another_person_role_or_organisation_is_another_key(world: World) -> None:
    key = world.new_key()
    same_person_elsewhere = replace(ORIGIN, person=POLICE.person)
    people = (POLICE, COLLEAGUE, OTHER_POLICE, ORIGIN, same_person_elsewhere)
    opened = [world.received(post(world, who, OPEN, AN_OPENING, key)) for who in people]
    assert len(set(opened)) == len(people)


@pytest.mark.attack(60)
def test_ids_cannot_be_worked_out_from_what_was_sent(world: World, tmp_path: Path) -> None:
    elsewhere = World(tmp_path)
    key = world.new_key()
    here, there = (one.received(post(one, POLICE, OPEN, AN_OPENING, key)) for one in (world, elsewhere))
    elsewhere.node.stop()
    assert here != there


def test_once_the_memory_of_a_key_is_gone_a_repeat_can_do_nothing(world: World) -> None:
    key = world.new_key()
    request_id = world.received(post(world, POLICE, OPEN, AN_OPENING, key))
    world.core.settle()
    withdrawn = post(world, POLICE, f"{OPEN}/{request_id}/withdrawal", WITHDRAWAL, key)
    world.core.settle()
    world.core.intake.forget_old_keys(world.now + KEPT_FOR)
    assert post(world, POLICE, OPEN, AN_OPENING, key).status_code == 202, "48 hours are not over yet"
    world.core.intake.forget_old_keys(world.now + KEPT_FOR + timedelta(seconds=1))
    before = world.heads()
    for path, body in ((OPEN, AN_OPENING), (f"{OPEN}/{request_id}/withdrawal", WITHDRAWAL)):
        refused = post(world, POLICE, path, body, key)
        assert is_problem(refused, 422)["type"].endswith("/idempotency-key-used")
    assert withdrawn.status_code == 202
    assert world.heads() == before


def test_a_refusal_is_repeated_too(world: World) -> None:
    request_id, key = world.bring_to(Stage.ASKED), world.new_key()
    path = f"/relocation-requests/{request_id}/arrival"
    first = world.ask(RECEIVING, "POST", path, {"outcome": "arrived"}, Idempotency_Key=key)
    begun = world.heads()["placement"]
    again = world.ask(RECEIVING, "POST", path, {"outcome": "arrived"}, Idempotency_Key=key)
    assert first.status_code == again.status_code == 403
    assert first.data == again.data
    assert world.heads()["placement"] == begun


# At once


def at_once(work: Callable[[int], Any], times: int) -> list[Any]:
    begin = threading.Barrier(min(times, 16))

    def one(number: int) -> Any:
        if number < begin.parties:
            begin.wait(timeout=20)
        return work(number)

    with ThreadPoolExecutor(begin.parties) as pool:
        return list(pool.map(one, range(times)))


@pytest.mark.attack(57)
def test_fifty_taps_at_once_open_one_request(world: World) -> None:
    key, begun = world.new_key(), world.log.head()
    world.token(POLICE)
    answers = at_once(lambda _: post(world, POLICE, OPEN, AN_OPENING, key), 50)
    assert Counter(answer.status_code for answer in answers) == {202: 50}
    assert len({answer.data for answer in answers}) == 1
    assert len(commands(world, OpenRelocationRequest, begun)) == 1


def test_fifty_taps_at_once_on_a_request_that_is_there_are_one_command(world: World) -> None:
    request_id, key, begun = world.bring_to(Stage.OFFERED), world.new_key(), world.log.head()
    body = {"ask_id": world.ask_to(request_id, RECEIVING), "override": "travel"}
    answers = at_once(lambda _: post(world, ORIGIN, f"{OPEN}/{request_id}/proposal", body, key), 50)
    assert Counter(answer.status_code for answer in answers) == {202: 50}
    assert len(commands(world, ProposePlacement, begun)) == 1


def test_taps_at_once_under_one_key_that_say_different_things_are_kept_once(world: World) -> None:
    key, begun = world.new_key(), world.log.head()
    bodies = [AN_OPENING | {"household": {"women": 1 + number % 2}} for number in range(20)]
    answers = at_once(lambda number: post(world, POLICE, OPEN, bodies[number], key), 20)
    assert Counter(answer.status_code for answer in answers) == {202: 10, 422: 10}
    assert len(commands(world, OpenRelocationRequest, begun)) == 1


@pytest.mark.attack(59)
def test_of_two_people_who_propose_at_once_one_signs(world: World) -> None:
    request_id, other = world.bring_to(Stage.OFFERED), replace(ORIGIN, person="synthetic.be-coordinator-2")
    world.token(other)
    body = {"ask_id": world.ask_to(request_id, RECEIVING), "override": "travel"}
    keys = world.new_key(), world.new_key()
    at_once(lambda n: post(world, (ORIGIN, other)[n], f"{OPEN}/{request_id}/proposal", body, keys[n]), 2)
    world.core.settle()
    stream = world.core.placement_log.read_stream(f"relocation_request-{request_id}")
    assert len([event for event in stream if isinstance(event.data, PlacementProposed)]) == 1
    outcomes = [
        world.ask(who, "POST", f"/relocation-requests/{request_id}/proposal", body, Idempotency_Key=key)
        for who, key in zip((ORIGIN, other), keys, strict=True)
    ]
    assert sorted(outcome.status_code for outcome in outcomes) == [200, 409]


# When writing fails


def test_what_could_not_be_written_down_was_not_accepted_and_can_be_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, before = world.new_key(), world.heads()
    with monkeypatch.context() as full:
        full.setattr(world.log, "_insert", disk_is_full)
        refused = post(world, POLICE, OPEN, AN_OPENING, key)
        assert is_problem(refused, 503)["type"].endswith("/not-recorded")
        assert refused.headers["Retry-After"]
    assert world.heads() == before
    assert post(world, POLICE, OPEN, AN_OPENING, key).status_code == 202
    assert world.heads()["gateway"] == before["gateway"] + 1


def disk_is_full(*_: object) -> None:
    raise OperationalError("INSERT", None, OSError("database or disk is full"))


def test_what_the_database_refuses_as_wrong_is_our_mistake_and_no_promise_that_waiting_helps(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_long(*_: object) -> None:
        raise DataError("INSERT", None, ValueError("a value the table cannot hold"))

    before = world.heads()
    with monkeypatch.context() as refuses:
        refuses.setattr(world.log, "_insert", too_long)
        refused = post(world, POLICE, OPEN, AN_OPENING, world.new_key())
    assert is_problem(refused, 500)["type"].endswith("/unexpected")
    assert "Retry-After" not in refused.headers
    assert world.heads() == before


def test_dying_after_the_commit_and_before_the_answer_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, begun = world.new_key(), world.log.head()

    def dies(*_: object, **__: object) -> None:
        raise RuntimeError("the process is gone")

    with monkeypatch.context() as crash:
        crash.setattr("services.gateway.request_routes.received", dies)
        is_problem(post(world, POLICE, OPEN, AN_OPENING, key), 500)
    answer = post(world, POLICE, OPEN, AN_OPENING, key)
    (kept,) = commands(world, OpenRelocationRequest, begun)
    assert world.received(answer) == kept.data.request_id


def test_a_report_sent_twice_is_one_report(world: World) -> None:
    path = f"{PREFIX}/shelters/{NEIGHBOUR.organisation}/units/{NEIGHBOUR.organisation}-u1/capacity"
    seen, begun = world.send(NEIGHBOUR, "GET", path), world.log.head()
    report = {"beds": 200, "free": 149}
    sent = [
        world.send(NEIGHBOUR, "PUT", path, json=report, headers={"If-Match": seen.headers["ETag"]}) for _ in range(2)
    ]
    assert [answer.status_code for answer in sent] == [202, 202]
    assert sent[0].data == sent[1].data
    assert len(commands(world, ReportCapacity, begun)) == 1


def test_a_report_sent_again_after_it_counted_has_its_answer(world: World) -> None:
    path = f"{PREFIX}/shelters/{NEIGHBOUR.organisation}/units/{NEIGHBOUR.organisation}-u1/capacity"
    world.core.settle()
    seen, begun = world.send(NEIGHBOUR, "GET", path), world.log.head()

    def sent(who: Who, free: int, **more: str) -> Any:
        return world.send(who, "PUT", path, json={"beds": 200, "free": free}, headers={"If-Match": tag, **more})

    tag = seen.headers["ETag"]
    first = sent(NEIGHBOUR, 147)
    assert first.status_code == 202
    world.core.settle()
    assert sent(NEIGHBOUR, 147).data == first.data, "as it was answered, for a client that does not wait"
    waited = sent(NEIGHBOUR, 147, Prefer="wait=20")
    assert (waited.status_code, waited.json["free"]) == (200, 147)
    assert waited.headers["ETag"] not in {tag, None}
    for who, free in ((NEIGHBOUR, 146), (replace(NEIGHBOUR, person="nl-shelter-colleague"), 147)):
        refused = sent(who, free)
        assert is_problem(refused, 412)["type"].endswith("/stale-revision")
        assert refused.headers["ETag"] == waited.headers["ETag"]
    assert len(commands(world, ReportCapacity, begun)) == 1


def test_a_report_that_was_refused_is_refused_again_however_often_it_is_sent(world: World) -> None:
    world.done(world.ask(POLICE, "POST", "/relocation-requests", AN_OPENING))
    world.core.settle()
    path = f"{PREFIX}/shelters/{RECEIVING.organisation}/units/{RECEIVING.organisation}-u1/capacity"
    seen, begun = world.send(RECEIVING, "GET", path), world.log.head()
    assert seen.json["held"]
    headers = {"If-Match": seen.headers["ETag"], "Prefer": "wait=20"}
    typed_away = {"beds": seen.json["held"] - 1, "free": 0}
    for _ in range(2):
        refused = world.send(RECEIVING, "PUT", path, json=typed_away, headers=headers)
        assert is_problem(refused, 409)["type"].endswith("/claimed-beds-typed-away")
    assert len(commands(world, ReportCapacity, begun)) == 1


# Reading what one has just written


def test_right_after_the_acknowledgement_the_request_is_there_as_received(world: World) -> None:
    request_id = world.received(post(world, POLICE, OPEN, AN_OPENING, world.new_key()))
    path = f"{OPEN}/{request_id}"
    for who in (POLICE, COLLEAGUE, ORIGIN):
        answer = world.send(who, "GET", path)
        assert answer.status_code == 200
        assert answer.json["stage"] == "received"
        assert answer.headers["ETag"] == '"0"'
    for stranger in (OTHER_POLICE, HOST, RECEIVING, GUARDIAN, ESCORT, SAME_PERSON):
        is_problem(world.send(stranger, "GET", path), 404)
    assert post(world, POLICE, f"{path}/withdrawal", WITHDRAWAL, world.new_key()).status_code == 202


def test_a_request_that_is_opened_between_two_looks_is_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    request_id = world.received(post(world, POLICE, OPEN, AN_OPENING, world.new_key()))
    look = world.node.gateway.log.find

    def settle_and_look(event_id: str) -> Any:
        world.core.settle()
        return look(event_id)

    monkeypatch.setattr(world.node.gateway.log, "find", settle_and_look)
    answer = world.send(POLICE, "GET", f"{OPEN}/{request_id}")
    assert answer.status_code == 200
    assert answer.json["stage"] == "asked"


def test_a_reload_never_goes_backwards(world: World) -> None:
    request_id = world.received(post(world, POLICE, OPEN, AN_OPENING, world.new_key()))
    revisions, stages = [], []
    for _ in range(12):
        shown = world.send(POLICE, "GET", f"{OPEN}/{request_id}").json
        revisions.append(shown["revision"])
        stages.append(shown["stage"])
        for follower in world.core.followers:
            follower.step()
            revisions.append(world.send(ORIGIN, "GET", f"{OPEN}/{request_id}").json["revision"])
    assert revisions == sorted(revisions)
    assert revisions[0] == 0
    assert stages[0] == "received"
    assert stages[-1] == "asked"


def test_what_is_refused_at_the_door_is_told_with_its_reason(world: World) -> None:
    answer = world.ask(
        POLICE, "POST", "/relocation-requests", AN_OPENING | {"danger_zones": [{"code": "NL"}, {"code": "LU"}]}
    )
    shown = world.done(answer)
    assert (shown["stage"], shown["refusal"]) == ("refused", "no_country_left")


@pytest.mark.parametrize(
    "prefer", ["wait=5", "respond-async, wait=5", "wait=5, respond-async", "handling=lenient; wait=5"]
)
def test_whoever_prefers_to_wait_is_told_the_outcome(world: World, prefer: str) -> None:
    opened = world.ask(POLICE, "POST", "/relocation-requests", AN_OPENING, Prefer=prefer)
    assert opened.status_code == 201
    assert opened.json["stage"] in ("asked", "shortlisted", "opened")
    request_id = opened.json["request_id"]
    assert opened.headers["Location"] == f"{OPEN}/{request_id}"
    assert world.act(POLICE, request_id, "withdrawal", WITHDRAWAL, Prefer=prefer).status_code == 200


@pytest.mark.parametrize("prefer", ["", "wait=0", "wait=", "wait=x", "waiting=5", "wait=-5", "await=5", "wait=1000"])
def test_whoever_does_not_is_told_that_it_was_received(world: World, prefer: str) -> None:
    answer = world.send(
        POLICE, "POST", OPEN, json=AN_OPENING, headers={"Idempotency-Key": world.new_key(), "Prefer": prefer}
    )
    assert answer.status_code == 202
    assert answer.json.keys() == {"status", "command_ids", "received_at", "request_id"}


# What cannot be done now


SAYS_NO: list[tuple[str, Who, Stage, Json, int, str]] = [
    ("withdrawal", POLICE, Stage.ARRIVED, WITHDRAWAL, 409, "wrong-stage"),
    ("consent", POLICE, Stage.ENDED, {"scope": "transport", "country": "NL", "given": True, "by": "household"}, 409, "wrong-stage"),
    ("consent", POLICE, Stage.ASKED, {"scope": "placement", "country": "NL", "given": True, "by": "guardian"}, 403, "wrong-role"),
    ("proposal", replace(ORIGIN, person="synthetic.be-coordinator-2"), Stage.CONFIRMED, {}, 409, "wrong-stage"),
    ("proposal", ORIGIN, Stage.ASKED, {}, 409, "not-offered"),
    ("proposal", HOST, Stage.OFFERED, {}, 403, "not-your-country"),
    ("countersignature", HOST, Stage.CONFIRMED, {"proposal_hash": "0" * 64}, 409, "wrong-stage"),
    ("countersignature", HOST, Stage.PROPOSED, {"proposal_hash": "0" * 64}, 409, "proposal-changed"),
    ("countersignature", SAME_PERSON, Stage.PROPOSED, {"proposal_hash": "0" * 64}, 403, "same-person"),
    ("journey", ORIGIN, Stage.ASKED, {"escort": "e", "arrival_due": "2026-11-29T12:00:00Z", "steps": "synthetic"}, 409, "wrong-stage"),
    ("journey", ORIGIN, Stage.CONFIRMED, {"escort": "e", "arrival_due": "2026-11-20T12:00:00Z", "steps": "synthetic"}, 409, "arrival-due-in-past"),
    ("departure", POLICE, Stage.ASKED, {}, 409, "wrong-stage"),
    ("arrival", RECEIVING, Stage.CONFIRMED, {"outcome": "not_arrived"}, 409, "wrong-stage"),
    ("end", RECEIVING, Stage.CONFIRMED, {"reason": "moved_on"}, 409, "wrong-stage"),
    ("disclosures", RECEIVING, Stage.OFFERED, {"field": "rendezvous", "reason": "receive_household"}, 403, "not-entitled"),
    ("disclosures", ORIGIN, Stage.OFFERED, {"field": "rendezvous", "reason": "prepare_handover"}, 409, "wrong-stage"),
    ("disclosures", POLICE, Stage.ENDED, {"field": "callback", "reason": "call_back"}, 409, "wrong-stage"),
    ("disclosures", POLICE, Stage.ASKED, {"field": "callback", "reason": "drive_journey"}, 400, "reason-does-not-fit"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "who", "stage", "body", "status", "code"), SAYS_NO)
@pytest.mark.attack(59)
def test_what_cannot_be_done_now_is_refused_with_stage_and_next_steps(
    world: World, what: str, who: Who, stage: Stage, body: Json, status: int, code: str
) -> None:
    request_id = world.bring_to(stage)
    if what == "proposal":
        body = {"ask_id": world.ask_to(request_id, RECEIVING), "override": "travel"}
    if what == "disclosures":
        body = body | {"recipient": who.person}
    problem = is_problem(world.act(who, request_id, what, body), status)
    assert problem["type"].endswith(f"/{code}")
    assert problem["stage"] == stage
    assert problem["next_steps"] == world.view(request_id)["next_steps"]
    assert world.view(request_id)["stage"] == stage


def test_a_second_tap_under_a_new_key_changes_nothing_and_is_no_error(world: World) -> None:
    request_id = world.bring_to(Stage.PROPOSED)
    assert world.propose(request_id).status_code == 200
    assert len(world.view(request_id)["signatures"]) == 1


# With the services at work


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A node whose threads run."""
    world = World(tmp_path_factory.mktemp("working"))
    del world.core.intake.wait_for_outcomes  # type: ignore[method-assign]  # back to waiting for the threads
    world.node.start()
    yield world
    world.node.stop()


def test_waiting_ends_as_soon_as_the_services_have_decided(working: World) -> None:
    def opened(number: int) -> Any:
        headers = {"Idempotency-Key": f"working-{number}", "Prefer": "wait=20"}
        return working.send(POLICE, "POST", OPEN, json=AN_OPENING, headers=headers)

    working.token(POLICE)
    answers = at_once(opened, 12)
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json["request_id"] for answer in answers}) == 12
    request_id = answers[0].json["request_id"]
    headers = {"Idempotency-Key": "working-end", "Prefer": "wait=20"}
    ended = working.send(POLICE, "POST", f"{OPEN}/{request_id}/arrival", json={"outcome": "arrived"}, headers=headers)
    is_problem(ended, 403)
    withdrawn = working.send(POLICE, "POST", f"{OPEN}/{request_id}/withdrawal", json=WITHDRAWAL, headers=headers)
    assert withdrawn.json["stage"] == "withdrawn"


def test_with_nobody_at_work_waiting_ends_in_received(tmp_path: Path) -> None:
    world = World(tmp_path)
    del world.core.intake.wait_for_outcomes  # type: ignore[method-assign]
    headers = {"Idempotency-Key": world.new_key(), "Prefer": "wait=1"}
    answer = world.send(POLICE, "POST", OPEN, json=AN_OPENING, headers=headers)
    assert answer.status_code == 202
    units = [{"unit_id": f"{RECEIVING.organisation}-u1", "revision_seen": 1}]
    path = f"{PREFIX}/shelters/{RECEIVING.organisation}/capacity-confirmations"
    assert world.send(RECEIVING, "POST", path, json={"units": units}, headers=headers).status_code == 202
    world.node.stop()


def test_many_commands_wait_together_and_not_one_after_the_other(world: World) -> None:
    nobody_works = Intake(world.log, world.core.keys, world.core.read_model, world.node.clock)
    accepted = Accepted(tuple(f"command-{number}" for number in range(50)), "nothing", "")
    begun = monotonic()
    assert nobody_works.wait_for_outcomes(accepted, 0.2) == [None] * 50
    assert monotonic() - begun < 2


@pytest.mark.attack(57)
def test_a_stranger_cannot_use_anothers_key_to_read(world: World) -> None:
    key = world.new_key()
    request_id = world.received(post(world, POLICE, OPEN, AN_OPENING, key))
    stranger = somebody(POLICE.role, "BE", "be-labour-inspectorate", 7)
    assert world.received(post(world, stranger, OPEN, AN_OPENING, key)) != request_id
