"""Who read what is written down before anybody is answered; what is disclosed is written down before it is opened; what is
erased is gone, and the trail of it is not (LED 2016/680 art. 25, GDPR art. 17).
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from events.envelope import Event
from events.gateway import FieldDisclosed, KeyDestroyed, RecordConsulted, RequestDisclosure
from events.sealing import SealContext, Unreadable
from events.vocabulary import SealedField, Stage
from services.gateway.api import RULES
from tests.gateway.world import (
    AUDITOR,
    CALLBACK,
    COLLEAGUE,
    ESCORT,
    HOST,
    ORIGIN,
    OTHER_ESCORT,
    POLICE,
    PREFIX,
    RECEIVING,
    RENDEZVOUS,
    STEPS,
    Who,
    World,
    is_problem,
)


def consulted(world: World, since: int) -> list[tuple[str, tuple[str, ...], str]]:
    """Resource, subjects and reader of every consultation written down since."""
    return [
        (event.data.resource, event.data.subjects, event.actor.person)
        for event in world.appended_since(since)
        if isinstance(event.data, RecordConsulted)
    ]


READS: list[tuple[str, str, str, Who]] = [
    ("/relocation-requests", "list", "read_everything", POLICE),
    ("/relocation-requests/{request_id}", "relocation_request", "this", POLICE),
    ("/relocation-requests/{request_id}", "relocation_request", "this", COLLEAGUE),
    ("/relocation-requests/{request_id}", "relocation_request", "this", HOST),
    ("/relocation-requests/{request_id}", "relocation_request", "this", RECEIVING),
    ("/relocation-requests/{request_id}/timeline", "timeline", "this", ORIGIN),
    ("/relocation-requests/{request_id}/shortlist", "shortlist", "this", ORIGIN),
    ("/asks", "asks", "read_everything", RECEIVING),
    ("/asks?answered=true", "answered_asks", "read_everything", RECEIVING),
    ("/asks/{ask_id}", "ask", "this", RECEIVING),
    ("/call-list", "call_list", "read_everything", HOST),
    ("/audit/events?case={request_id}", "trail", "this", AUDITOR),
    ("/audit/events", "trail", "nobody", AUDITOR),
    ("/audit/export?format=jsonl&case={request_id}", "export", "this", AUDITOR),
    ("/audit/export?format=csv", "export", "nobody", AUDITOR),
    ("/demand", "demand", "nobody", ORIGIN),
    ("/demand", "demand", "nobody", AUDITOR),
    ("/stream", "stream", "nobody", POLICE),
]
NOT_ABOUT_ANYBODY = {
    "/shelters/{shelter_id}/units",
    "/shelters/{shelter_id}/units/{unit_id}/capacity",
    "/availability",
    "/alerts",
}


def test_every_read_route_about_people_is_in_this_list() -> None:
    listed = {path.partition("?")[0] for path, *_ in READS}
    assert {rule.path for rule in RULES if rule.method == "GET"} == listed | NOT_ABOUT_ANYBODY


def the_path(world: World, path: str, request_id: str) -> str:
    return path.format(request_id=request_id, ask_id=world.ask_to(request_id, RECEIVING))


@pytest.mark.parametrize(("path", "resource", "about", "who"), READS)
def test_a_read_is_written_down_with_who_read_and_about_whom(
    world: World, path: str, resource: str, about: str, who: Who
) -> None:
    request_id = world.bring_to(Stage.OFFERED if "answered" in path else Stage.ASKED)
    begun = world.log.head()
    answer = world.send(who, "GET", PREFIX + the_path(world, path, request_id), headers=PURPOSE)
    assert answer.status_code == 200
    ((said, subjects, reader),) = consulted(world, begun)
    assert (said, reader) == (resource, who.person)
    if about == "read_everything":
        shown = next(answer.json[name] for name in ("requests", "asks", "calls") if name in answer.json)
        assert set(subjects) == {one["request_id"] for one in shown}
        assert request_id in subjects
    else:
        assert subjects == ((request_id,) if about == "this" else ())
    answer.close()


PURPOSE = {"Haven-Purpose": "lawfulness_check"}


@pytest.mark.parametrize(("path", "resource", "about", "who"), READS)
def test_what_cannot_be_written_down_is_not_shown(
    world: World, monkeypatch: pytest.MonkeyPatch, path: str, resource: str, about: str, who: Who
) -> None:
    request_id = world.bring_to(Stage.ASKED)
    monkeypatch.setattr(world.log, "append", disk_is_full)
    answer = world.send(who, "GET", PREFIX + the_path(world, path, request_id), headers=PURPOSE)
    assert is_problem(answer, 503)["type"].endswith("/not-recorded")
    assert request_id.encode() not in answer.data
    assert answer.headers["Retry-After"]


def disk_is_full(*_: object, **__: object) -> Any:
    raise OperationalError("INSERT", None, OSError("database or disk is full"))


def test_the_auditor_says_why_and_it_is_kept(world: World) -> None:
    begun = world.log.head()
    world.get(AUDITOR, "/audit/events", Haven_Purpose="criminal_proceedings")
    (read,) = world.appended_since(begun)
    assert isinstance(read.data, RecordConsulted)
    assert read.data.purpose == "criminal_proceedings"


def test_reading_what_is_not_there_or_not_theirs_is_no_consultation(world: World) -> None:
    request_id, begun = world.bring_to(Stage.WITHDRAWN), world.log.head()
    for who in (HOST, RECEIVING, ESCORT):
        is_problem(world.read(who, request_id), 404)
    assert world.appended_since(begun) == []


# Disclosure


FIELDS = [
    ("callback", "call_back", POLICE, CALLBACK),
    ("callback", "prepare_handover", HOST, CALLBACK),
    ("rendezvous", "drive_journey", ESCORT, RENDEZVOUS),
    ("rendezvous", "receive_household", RECEIVING, RENDEZVOUS),
    ("journey", "drive_journey", ESCORT, STEPS),
    ("journey", "receive_household", HOST, STEPS),
]


@pytest.mark.parametrize(("field", "reason", "who", "text"), FIELDS)
def test_a_sealed_field_is_opened_for_its_recipient_and_written_down(
    world: World, field: str, reason: str, who: Who, text: str
) -> None:
    request_id, begun = world.bring_to(Stage.DEPARTED), world.log.head()
    shown = world.done(world.disclose(who, request_id, field, reason))
    assert (shown["value"], shown["recipient"], shown["field"]) == (text, who.person, field)
    assert datetime.fromisoformat(shown["expires_at"]) == world.now + timedelta(minutes=15)
    asked, disclosed = world.appended_since(begun)
    assert isinstance(asked.data, RequestDisclosure)
    assert isinstance(disclosed.data, FieldDisclosed)
    assert (disclosed.data.field, disclosed.data.reason, disclosed.data.recipient) == (field, reason, who.person)
    assert disclosed.actor.person == who.person


@pytest.mark.attack(40)
def test_nothing_is_opened_that_is_not_written_down_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    request_id, key = world.bring_to(Stage.DEPARTED), world.new_key()
    opened: list[str] = []
    unseal = world.core.keys.unseal

    def watched(*arguments: Any) -> Any:
        opened.append("opened")
        return unseal(*arguments)

    monkeypatch.setattr(world.core.keys, "unseal", watched)
    with monkeypatch.context() as full:
        full.setattr(world.log, "append", disk_is_full)
        refused = world.disclose(ESCORT, request_id, Idempotency_Key=key)
        is_problem(refused, 503)
    assert opened == []
    begun = world.log.head()
    assert world.done(world.disclose(ESCORT, request_id, Idempotency_Key=key))["value"] == RENDEZVOUS
    assert opened == ["opened"]
    assert [type(event.data) for event in world.appended_since(begun)] == [FieldDisclosed]


def test_every_answer_that_shows_it_again_is_an_event_again(world: World) -> None:
    request_id, key = world.bring_to(Stage.DEPARTED), world.new_key()
    begun = world.log.head()
    shown = [world.done(world.disclose(ESCORT, request_id, Idempotency_Key=key)) for _ in range(3)]
    assert shown[0] == shown[1] == shown[2]
    assert [type(event.data) for event in world.appended_since(begun)] == [RequestDisclosure, *[FieldDisclosed] * 3]


def test_after_a_quarter_of_an_hour_it_must_be_asked_for_again(world: World) -> None:
    request_id, key = world.bring_to(Stage.DEPARTED), world.new_key()
    world.done(world.disclose(ESCORT, request_id, Idempotency_Key=key))
    world.later(minutes=14, seconds=59)
    world.done(world.disclose(ESCORT, request_id, Idempotency_Key=key))
    world.later(seconds=1)
    begun = world.log.head()
    expired = is_problem(world.disclose(ESCORT, request_id, Idempotency_Key=key), 410)
    assert expired["type"].endswith("/disclosure-expired")
    assert world.appended_since(begun) == []
    assert world.done(world.disclose(ESCORT, request_id))["value"] == RENDEZVOUS


@pytest.mark.attack(40)
def test_nobody_asks_for_somebody_else(world: World) -> None:
    request_id, begun = world.bring_to(Stage.DEPARTED), world.log.head()
    body = {"field": "rendezvous", "reason": "drive_journey", "recipient": ORIGIN.person}
    problem = is_problem(world.act(ESCORT, request_id, "disclosures", body), 403)
    assert problem["type"].endswith("/not-the-recipient")
    assert not [event for event in world.appended_since(begun) if isinstance(event.data, FieldDisclosed)]


def test_a_disclosure_that_is_not_decided_yet_shows_nothing_and_can_be_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id, key = world.bring_to(Stage.DEPARTED), world.new_key()
    with monkeypatch.context() as nobody_works:
        nobody_works.setattr(world.core.intake, "wait_for_outcomes", lambda accepted, _: [None])
        assert is_problem(world.disclose(ESCORT, request_id, Idempotency_Key=key), 503)["type"].endswith(
            "/not-decided-yet"
        )
    assert world.done(world.disclose(ESCORT, request_id, Idempotency_Key=key))["value"] == RENDEZVOUS


# Erasure


def kept_about(world: World, request_id: str) -> list[Event]:
    return world.log.read_stream(f"relocation_request-{request_id}")


def test_erasing_destroys_the_key_and_leaves_the_trail(world: World) -> None:
    request_id = world.bring_to(Stage.ENDED)
    before = kept_about(world, request_id)
    assert world.done(world.erase(request_id))["status"] == "erased"
    assert kept_about(world, request_id)[: len(before)] == before
    assert isinstance(kept_about(world, request_id)[-1].data, KeyDestroyed)
    sealed = [(event, name) for event in before for name in SEALED if getattr(event.data, name, None) is not None]
    assert {name for _, name in sealed} == set(SEALED)
    for event, name in sealed:
        context = SealContext(
            stream=event.stream, type=type(event.data).__struct_config__.tag, event_id=event.id, field=SEALED[name]
        )
        assert isinstance(world.core.keys.unseal(getattr(event.data, name), context), Unreadable)
    trail = world.done(world.get(AUDITOR, f"/audit/events?case={request_id}&limit=100", **AUDITED))["events"]
    assert {event.id for event in before} <= {entry["event_id"] for entry in trail}
    assert world.view(request_id)["stage"] == "erased"


AUDITED = {"Haven_Purpose": "lawfulness_check"}
SEALED = {"callback": SealedField.CALLBACK, "rendezvous": SealedField.RENDEZVOUS, "steps": SealedField.JOURNEY}


def test_what_was_erased_is_disclosed_to_nobody(world: World) -> None:
    request_id, key = world.bring_to(Stage.ASKED), world.new_key()
    world.done(world.disclose(POLICE, request_id, "callback", "call_back", Idempotency_Key=key))
    world.done(world.erase(request_id))
    begun = world.log.head()
    for again in ({"Idempotency_Key": key}, {}):
        answer = world.disclose(POLICE, request_id, "callback", "call_back", **again)
        assert is_problem(answer, 410)["type"].endswith("/erased")
    assert world.appended_since(begun) == []


def test_what_was_granted_and_then_erased_stays_shut(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key goes between the grant and the opening."""
    request_id = world.bring_to(Stage.ASKED)
    find = world.log.find

    def erased_meanwhile(event_id: str) -> Any:
        world.core.eraser.keys.destroy(request_id)
        return find(event_id)

    monkeypatch.setattr(world.log, "find", erased_meanwhile)
    answer = world.disclose(POLICE, request_id, "callback", "call_back")
    assert is_problem(answer, 410)["type"].endswith("/erased")


def test_nothing_can_be_sealed_for_a_household_that_was_erased(world: World) -> None:
    request_id = world.bring_to(Stage.WITHDRAWN)
    world.done(world.erase(request_id))
    begun = world.heads()
    assert is_problem(world.plan_journey(request_id), 410)["type"].endswith("/erased")
    assert world.heads() == begun


def test_the_memory_of_what_was_sent_goes_with_the_household_and_the_order_to_erase_stays(world: World) -> None:
    request_id, key, other = world.bring_to(Stage.WITHDRAWN), world.new_key(), world.bring_to(Stage.ASKED)
    remembered = "SELECT count(*) FROM idempotency WHERE subject = :subject"

    def count(subject: str) -> int:
        with world.log.engine.connect() as connection:
            return int(connection.scalar(sa.text(remembered), {"subject": subject}))

    assert count(request_id) > 1
    body = {"request_id": request_id}
    first = world.ask(AUDITOR, "POST", "/erasures", body, Idempotency_Key=key)
    assert count(request_id) == 1
    assert count(other) == 1
    again = world.ask(AUDITOR, "POST", "/erasures", body, Idempotency_Key=key)
    assert (first.status_code, first.data) == (again.status_code, again.data)


def test_a_second_erasure_changes_nothing(world: World) -> None:
    request_id = world.bring_to(Stage.ERASED)
    destroyed = [event for event in kept_about(world, request_id) if isinstance(event.data, KeyDestroyed)]
    assert world.done(world.erase(request_id))["status"] == "erased"
    assert [event for event in kept_about(world, request_id) if isinstance(event.data, KeyDestroyed)] == destroyed


@pytest.mark.parametrize("stage", [Stage.DEPARTED, Stage.ARRIVED, Stage.ASTRAY])
def test_nobody_is_erased_while_under_way_or_in_the_house(world: World, stage: Stage) -> None:
    request_id = world.bring_to(stage)
    assert is_problem(world.erase(request_id), 409)["stage"] == stage
    world.done(world.disclose(ORIGIN, request_id, "callback", "call_back"))


def test_a_request_that_was_refused_at_the_door_can_be_erased(world: World) -> None:
    request_id = world.bring_to(Stage.REFUSED)
    world.done(world.erase(request_id))
    assert world.view(request_id)["stage"] == "erased"


def test_what_nobody_ever_opened_cannot_be_erased(world: World) -> None:
    begun = world.heads()
    is_problem(world.erase("0" * 32), 404)
    assert world.heads() == begun


# The trail


def every_page(world: World, query: str = "", limit: int = 20) -> list[dict[str, Any]]:
    path, entries = f"/audit/events?limit={limit}{query}", []
    while path:
        answer = world.get(AUDITOR, path, **AUDITED)
        entries += world.done(answer)["events"]
        link = answer.headers.get("Link", "")
        path = link.partition(">")[0].removeprefix(f"<{PREFIX}") if link else ""
    return entries


def test_the_trail_has_every_event_of_every_service_once_and_in_order(world: World) -> None:
    request_id = world.bring_to(Stage.ARRIVED)
    everything = {event.id: event for log in world.core.logs.values() for _, event in log.read_all(limit=100_000)}
    entries = every_page(world)
    ids = [entry["event_id"] for entry in entries]
    assert len(set(ids)) == len(ids)
    assert everything.keys() <= set(ids)
    assert [entry["time"] for entry in entries] == sorted(entry["time"] for entry in entries)
    places: dict[tuple[str, str], int] = {}
    for entry in entries:
        stream = entry["source"], entry["stream"]
        assert entry["version"] == places.get(stream, 0) + 1
        places[stream] = entry["version"]
    assert {entry["source"] for entry in entries} == {"gateway", "placement", "capacity"}
    assert {entry["verb"] for entry in entries if entry["case_id"] == request_id} >= {"collection", "alteration"}


def test_the_trail_is_read_from_its_end_too_and_is_the_same(world: World) -> None:
    request_id = world.bring_to(Stage.ARRIVED)
    in_order, backwards = (
        [entry["event_id"] for entry in every_page(world, query, limit=7) if entry["actor"]["role"] != "auditor"]
        for query in (f"&case={request_id}", f"&case={request_id}&order=newest")
    )
    assert len(in_order) > 20, "several pages"
    assert backwards == in_order[::-1]
    is_problem(world.get(AUDITOR, "/audit/events?order=best", **AUDITED), 400)


def test_reading_the_trail_is_in_the_trail(world: World) -> None:
    first = every_page(world, limit=100)
    second = every_page(world, limit=100)
    added = [entry for entry in second if entry["event_id"] not in {one["event_id"] for one in first}]
    assert {entry["type"] for entry in added} == {"gateway.record.consulted.v1"}
    assert {entry["detail"]["purpose"] for entry in added} == {"lawfulness_check"}
    assert {entry["actor"]["person"] for entry in added} == {AUDITOR.person}


FILTERS: list[tuple[str, Callable[[dict[str, Any]], bool]]] = [
    ("&actor=synthetic.nl-coordinator-1", lambda entry: entry["actor"]["person"] == "synthetic.nl-coordinator-1"),
    ("&organisation=nl-shelter-01", lambda entry: entry["actor"]["organisation"] == "nl-shelter-01"),
    ("&verb=combination", lambda entry: entry["verb"] == "combination"),
    ("&verb=disclosure&organisation=haven.placement", lambda entry: entry["type"] == "placement.ask.made.v1"),
    ("&since=2026-11-23T14:00:00%2B01:00", lambda entry: entry["time"] >= "2026-11-23T13:00:00"),
    ("&until=2026-11-23T14:00:00%2B01:00", lambda entry: entry["time"] < "2026-11-23T13:00:00"),
]


@pytest.mark.parametrize(("query", "belongs"), FILTERS)
def test_every_filter_of_the_trail_narrows_it(world: World, query: str, belongs: Callable[[Any], bool]) -> None:
    world.later(hours=2)
    world.bring_to(Stage.CONFIRMED)
    found = every_page(world, query, limit=3 if "verb" in query else 50)
    assert found
    assert all(map(belongs, found))
    # What the search itself adds may belong or not; of the rest it must be all.
    rest = [entry for entry in every_page(world, limit=100) if belongs(entry) and entry["actor"]["role"] != "auditor"]
    assert [entry for entry in found if entry["actor"]["role"] != "auditor"] == rest


def test_a_case_is_its_own_trail(world: World) -> None:
    request_id = world.bring_to(Stage.CONFIRMED)
    entries = every_page(world, f"&case={request_id}")
    assert {entry["case_id"] for entry in entries} == {request_id}
    assert {entry["source"] for entry in entries} == {"gateway", "placement", "capacity"}


@pytest.mark.attack(47)
def test_no_cursor_leads_around_the_roles(world: World) -> None:
    link = world.get(AUDITOR, "/audit/events?limit=1", **AUDITED).headers["Link"]
    path = link.partition(">")[0].removeprefix("<")
    for who in (POLICE, ORIGIN, RECEIVING):
        is_problem(world.send(who, "GET", path, headers=PURPOSE), 403)


@pytest.mark.attack(47)
def test_a_page_of_one_list_leads_nowhere_in_another(world: World) -> None:
    for _ in range(2):
        world.bring_to(Stage.ASKED)
    link = world.get(ORIGIN, "/relocation-requests?limit=1").headers["Link"]
    path = link.partition(">")[0].removeprefix("<")
    assert world.send(OTHER_ESCORT, "GET", path).json == {"requests": []}
