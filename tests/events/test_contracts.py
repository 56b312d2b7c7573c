"""What was said once is read for ever: frozen examples of every contract, and how contracts may grow.

`events/golden/<type>.json` is one event as it lies in the log. A missing file is written by
`python -m tests.events.test_contracts`, read by a person, and never changed again.
"""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
import pytest
from msgspec.structs import replace

from events import envelope
from events.envelope import (
    CONTRACTS,
    Event,
    UnreadableEvent,
    decode,
    decode_many,
    derived_id,
    encode,
    type_of,
)
from events.gateway import Command, RecordDeparture
from events.placement import DepartureRecorded, HouseholdErased
from events.vocabulary import Actor, Role

GOLDEN = Path(__file__).resolve().parents[2] / "events" / "golden"

ACTIONS = {
    # Intents, imperative: only the gateway's log holds them.
    "gateway.relocation_request": "open withdraw record_details record_consent propose countersign plan_journey record_departure "
    "record_arrival end_placement answer_ask request_disclosure erase",
    "gateway.unit": "register report_capacity confirm_capacity",
    # Facts, past tense.
    "gateway.record": "consulted",
    "gateway.sealed_field": "disclosed",
    "gateway.household_key": "destroyed",
    "placement.relocation_request": "opened refused details_recorded withdrawn unmet_need_recorded next_step_set deadline_missed",
    "placement.shortlist": "drawn",
    "placement.hold": "requested lost release_requested firming_requested",
    "placement.ask": "made accepted declined expired closed answered_late",
    "placement.placement": "proposed countersigned countersignature_refused lapsed confirmed ended",
    "placement.consent": "recorded withdrawn",
    "placement.journey": "planned departed arrived overdue",
    "placement.disclosure": "granted",
    "placement.household": "erased",
    "placement.command": "refused had_no_effect",
    "capacity.unit": "registered reported confirmed report_refused standing_changed freshness_changed",
    "capacity.hold": "placed refused released expired made_firm firming_refused",
    "capacity.beds": "occupied vacated",
}
"""Every released name, checked by hand: a typo in one of them would be for ever."""


# Examples

WORDS = {
    "country": "NL",
    "danger_country": "BE",
    "host_country": "NL",
    "owner_country": "NL",
    "consented_countries": "NL",
    "region": "NL32",
    "region_of_stay": "BE21",
    "code": "BE21",
    "languages": "fr",
    "algorithm": "synthetic",
    "box": "c3ludGhldGlj",
    "proposal_hash": "0f" * 32,
    "units_digest": "1e" * 32,
    "command": "gateway.relocation_request.propose.v1",
    "ruleset": "2026-11",
    "resource": "timeline",
}
NUMBERS = {"beds": 4, "free": 1, "held": 1, "occupied": 1, "blocked": 1, "taken": 0, "revision": 9}
NOON = datetime(2026, 11, 23, 12, 30, 15, 250000, tzinfo=UTC)


def example(wanted: Any, name: str) -> Any:
    """A synthetic value of a field, every optional part filled: what is absent could change unseen."""
    origin, args = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        return example(args[0], name)
    if origin in (Union, UnionType):
        return example(next(arg for arg in args if arg is not NoneType), name)
    if origin is tuple:
        return (example(args[0], name),)
    if origin is dict:
        return {"freshness" if name == "preferences" else "reason": example(args[1], name)}
    if issubclass(wanted, msgspec.Struct):
        return wanted(**{f.name: example(f.type, f.name) for f in msgspec.structs.fields(wanted)})
    if issubclass(wanted, Enum):
        return next(iter(wanted))  # the first: a code list grows at its end
    if wanted is bool:
        return True
    if wanted is int:
        return NUMBERS.get(name, 2)
    if wanted is datetime:
        return NOON
    if wanted is date:
        return NOON.date()
    return WORDS.get(name, f"{name.removesuffix('_id').replace('_', '-')}-1")


def an_event(data: Any, **changes: Any) -> Event:
    event = Event(
        id="0d4cf3bc-95b5-5f11-8f06-3e1a5b2c9a01",
        source=CONTRACT_NAMES[type(data)].partition(".")[0],
        stream="stream-1",
        version=3,
        time=NOON,
        actor=Actor(person="person-1", role=Role.COORDINATOR, organisation="organisation-1", country="BE"),
        correlation_id="correlation-1",
        causation_id="causation-1",
        data=data,
    )
    return replace(event, **changes)


CONTRACT_NAMES = {contract: name for name, contract in CONTRACTS.items()}


def write_missing_examples() -> None:
    """One file for each contract that has none yet; what is there is never touched."""
    GOLDEN.mkdir(exist_ok=True)
    for name, contract in CONTRACTS.items():
        if not golden_file(name).exists():
            golden_file(name).write_text(encode(an_event(example(contract, name))) + "\n")


def golden_file(name: str) -> Path:
    return GOLDEN / f"{name}.json"


def golden(name: str) -> str:
    file = golden_file(name)
    assert file.exists(), (
        f"{name} has no frozen example: run `python -m tests.events.test_contracts`, read {file.name} and keep it for ever"
    )
    return file.read_text().rstrip("\n")


def only_as_frozen(now: Any, frozen: Any) -> Any:
    """`now` without the fields that the frozen document did not have yet."""
    if isinstance(frozen, dict) and isinstance(now, dict):
        return {key: only_as_frozen(now[key], frozen[key]) for key in now if key in frozen}
    if isinstance(frozen, list) and isinstance(now, list) and len(now) == len(frozen):
        return [only_as_frozen(mine, theirs) for mine, theirs in zip(now, frozen, strict=True)]
    return now


# Frozen examples


@pytest.mark.parametrize("name", CONTRACTS)
def test_what_was_written_once_is_read_and_written_the_same(name: str) -> None:
    record = golden(name)
    event = decode(record)
    assert isinstance(event, Event)
    assert type_of(event) == name
    written_again = msgspec.json.decode(encode(event))
    kept = only_as_frozen(written_again, msgspec.json.decode(record))
    assert msgspec.json.encode(kept).decode() == record


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_frozen_example_says_what_its_contract_means_today(name: str) -> None:
    record = golden(name)
    today = msgspec.json.decode(encode(an_event(example(CONTRACTS[name], name))))
    assert only_as_frozen(today, msgspec.json.decode(record)) == msgspec.json.decode(record)


def test_the_frozen_examples_are_read_in_one_pass_too() -> None:
    records = [golden(name) for name in CONTRACTS]
    assert decode_many(records) == [decode(record) for record in records]


def test_every_frozen_example_is_still_read_though_its_version_may_be_retired() -> None:
    for file in GOLDEN.iterdir():
        assert isinstance(decode(file.read_text()), Event), f"{file.name} was released and cannot be read any more"


# Names


def test_every_name_is_one_of_those_checked_by_hand() -> None:
    checked = {f"{subject}.{action}" for subject, actions in ACTIONS.items() for action in actions.split()}
    assert {name.rpartition(".")[0] for name in CONTRACTS} == checked


@pytest.mark.parametrize(("name", "contract"), CONTRACTS.items())
def test_every_name_says_service_subject_action_and_version(name: str, contract: type) -> None:
    assert re.fullmatch(r"(gateway|placement|capacity)\.[a-z_]+\.[a-z_]+\.v[1-9][0-9]*", name)
    assert contract.__module__ == f"events.{name.partition('.')[0]}"


def test_only_the_gateway_holds_intents() -> None:
    intents = {name for name, contract in CONTRACTS.items() if issubclass(contract, Command)}
    assert {name.split(".")[1] for name in intents} == {"relocation_request", "unit"}
    assert {name.partition(".")[0] for name in intents} == {"gateway"}


def fields_within(contract: type) -> Iterator[tuple[str, str]]:
    for field in msgspec.structs.fields(contract):
        yield contract.__name__, field.name


@pytest.mark.parametrize("contract", CONTRACTS.values())
def test_no_contract_has_a_place_for_who_somebody_is_or_where(contract: type) -> None:
    forbidden = re.compile(r"(^|_)(name|address|phone|email|street|city|latitude|longitude|birth|nationality)(_|$)")
    assert [field for field in fields_within(contract) if forbidden.search(field[1])] == []


# Growing


def changed(record: str, **fields: Any) -> str:
    """The document with other fields in its data; None removes one."""
    document = msgspec.json.decode(record)
    document["data"] = {key: value for key, value in {**document["data"], **fields}.items() if value is not None}
    return msgspec.json.encode(document).decode()


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_field_that_a_newer_release_added_is_ignored(name: str) -> None:
    assert decode(changed(golden(name), added_later="anything")) == decode(golden(name))


@pytest.mark.parametrize(
    ("name", "field"),
    [(name, field.name) for name, contract in CONTRACTS.items() for field in msgspec.structs.fields(contract)],
)
def test_a_field_an_older_release_did_not_write_reads_as_its_default_or_parks_the_event(name: str, field: str) -> None:
    older = decode(changed(golden(name), **{field: None}))
    declared = next(f for f in msgspec.structs.fields(CONTRACTS[name]) if f.name == field)
    if declared.required:
        assert isinstance(older, UnreadableEvent)
    else:
        assert isinstance(older, Event)
        assert getattr(older.data, field) == declared.default


@pytest.mark.parametrize("code", ["role", "actor"])
def test_an_actor_of_a_role_nobody_knows_yet_parks_the_event(code: str) -> None:
    document = msgspec.json.decode(golden("placement.journey.departed.v1"))
    document["actor"] = {**document["actor"], "role": "minister"} if code == "role" else {}
    assert isinstance(decode(msgspec.json.encode(document).decode()), UnreadableEvent)


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "placement.journey.departed.v2"},
        {"type": "placement.journey.teleported.v1"},
        {"request_id": 7},
        {"request_id": "x" * 81},
    ],
)
def test_what_this_release_cannot_read_is_handed_back_whole_to_be_parked(changes: dict[str, Any]) -> None:
    record = changed(golden("placement.journey.departed.v1"), **changes)
    event = decode(record)
    assert isinstance(event, UnreadableEvent)
    assert event.record == record
    assert (event.source, event.stream, event.version) == ("placement", "stream-1", 3)


@pytest.mark.parametrize("attribute", ["id", "source", "stream", "version"])
def test_without_its_attributes_nobody_can_tell_whose_event_it_is(attribute: str) -> None:
    document = msgspec.json.decode(changed(golden("placement.journey.departed.v1"), type="of.the.future"))
    del document[attribute]
    with pytest.raises(msgspec.DecodeError):
        decode(msgspec.json.encode(document).decode())


@pytest.mark.parametrize("record", ["", "{", "[]", "null", "7", '{"id":"1"}'])
def test_what_is_no_event_at_all_is_an_error(record: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(record)


def test_reading_many_stops_at_the_first_that_cannot_be_read() -> None:
    departed = golden("placement.journey.departed.v1")
    with pytest.raises(msgspec.ValidationError):
        decode_many([departed, changed(departed, type="of.the.future")])


def test_a_retired_version_is_brought_up_to_date_wherever_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "placement.journey.departed.v1"
    upcasters = {name: lambda old: HouseholdErased(request_id=old.request_id)}
    monkeypatch.setattr(envelope, "UPCASTERS", upcasters)
    record = golden(name)
    expected = an_event(HouseholdErased(request_id="request-1"))
    assert decode(record) == expected
    assert decode_many([record, record]) == [expected, expected]
    untouched = golden("placement.household.erased.v1")
    assert decode(untouched) == expected


def test_an_event_two_versions_old_is_brought_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    upcasters = {
        "gateway.relocation_request.record_departure.v1": lambda old: DepartureRecorded(request_id=old.request_id),
        "placement.journey.departed.v1": lambda old: HouseholdErased(request_id=old.request_id),
    }
    monkeypatch.setattr(envelope, "UPCASTERS", upcasters)
    record = golden("gateway.relocation_request.record_departure.v1")
    assert decode(record).data == HouseholdErased(request_id="request-1")
    assert [event.data for event in decode_many([record])] == [HouseholdErased(request_id="request-1")]


def test_the_same_cause_derives_the_same_id_and_another_another() -> None:
    assert derived_id("cause", "a", 1) == derived_id("cause", "a", 1)
    ids = {derived_id("cause"), derived_id("cause", "a"), derived_id("cause", "a", 1), derived_id("other", "a", 1)}
    assert len(ids) == 4


def test_what_was_said_is_written_the_same_every_time() -> None:
    event = an_event(RecordDeparture(request_id="request-1"))
    assert encode(event) == encode(decode(encode(event)))


def test_contracts_of_one_service_are_told_apart_by_name_alone() -> None:
    same_shape = (DepartureRecorded, HouseholdErased)
    assert {type(decode(encode(an_event(contract(request_id="r")))).data) for contract in same_shape} == set(same_shape)


if __name__ == "__main__":
    write_missing_examples()
