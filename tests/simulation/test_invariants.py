"""The checker itself: a true history passes, and each kind of lie about it is found."""

from collections.abc import Callable, Mapping
from datetime import date, timedelta
from functools import cache
from typing import Any

import msgspec
import pytest

from events.capacity import (
    CapacityReported,
    HoldMadeFirm,
    HoldPlaced,
    HoldReleased,
    UnitRegistered,
    UnitStandingChanged,
)
from events.envelope import Event, decode, encode
from events.gateway import CountersignPlacement, RecordDetails, RequestDisclosure
from events.placement import (
    AskAccepted,
    ConsentRecorded,
    DepartureRecorded,
    Details,
    DetailsRecorded,
    DisclosureGranted,
    HoldRequested,
    NextStepSet,
    PlacementConfirmed,
    PlacementCountersigned,
    PlacementProposed,
    RelocationRequestOpened,
)
from events.vocabulary import DisclosureReason, Freshness, Household, Role, SealedField, Stage, Urgency
from simulation.invariants import Checker, Invariant, InvariantViolated, audit, causally
from simulation.world import PATIENCE, World, reference

Logs = Mapping[str, list[Event]]


@cache
def story() -> World:
    """One household's whole way, and a second question that is still open."""
    world = World(0, embedded=True)
    people = world.people
    people.add_unit("NL", "NL32", beds=1)
    people.add_unit("LU", "LU00", beds=2)
    for number in (1, 2):
        opening = people.any_opening(
            request_id=f"r{number}",
            urgency=Urgency.URGENT,
            danger_country="BE",
            danger_zones=(),
            household=Household(women=1),
            needs=(),
            consented_countries=("NL", "LU"),
        )
        people.open(opening, people.referrer("BE"))
        world.settle()
    callback = RequestDisclosure(
        request_id="r1",
        disclosure_id="d1",
        field=SealedField.CALLBACK,
        reason=DisclosureReason.CALL_BACK,
        recipient=people.referrer("BE").person,
    )
    world.submit(callback, people.referrer("BE"))
    for version, began in enumerate((date(2026, 11, 20), date(2026, 11, 19))):
        details = RecordDetails(
            request_id="r1",
            version_seen=version,
            third_country_national=True,
            reflection_started_on=began,
            region_of_stay="BE23",
        )
        world.submit(details, people.referrer("BE"))
        world.settle()
    people.bring("r1", Stage.ENDED)
    return world


def history() -> Logs:
    world = story()
    return {
        source: [event for event in world.read(source) if isinstance(event, Event)]
        for source in ("gateway", "capacity", "placement")
    }


def check(logs: Logs) -> Checker:
    return audit(reference(), story().checker.deciders, logs)


def retold(logs: Logs, kind: type, change: Callable[[Event], Event], number: int = 0) -> Logs:
    """The same history, but for the n-th event of one kind."""
    told = {source: list(log) for source, log in logs.items()}
    places = [
        (source, n) for source, log in told.items() for n, event in enumerate(log) if isinstance(event.data, kind)
    ]
    source, n = places[number]
    told[source][n] = change(told[source][n])
    return told


def saying(**changes: Any) -> Callable[[Event], Event]:
    return lambda event: msgspec.structs.replace(event, data=msgspec.structs.replace(event.data, **changes))


def at(delay: timedelta) -> Callable[[Event], Event]:
    return lambda event: msgspec.structs.replace(event, time=event.time + delay)


def by(**changes: Any) -> Callable[[Event], Event]:
    return lambda event: msgspec.structs.replace(event, actor=msgspec.structs.replace(event.actor, **changes))


def test_a_true_history_passes() -> None:
    checker = check(history())
    assert checker.states.items() == story().checker.states.items()
    assert {invariant for invariant, times in checker.checked.items() if times} >= {
        Invariant.ONE_CLAIM_PER_BED,
        Invariant.STREAMS_ARE_GAPLESS,
        Invariant.EFFECTS_ONCE,
        Invariant.ONLY_THE_ENTITLED,
    }


LEARNT = Details(
    third_country_national=True,
    reflection_started_on=date(2026, 11, 20),
    reflection_ends_on=date(2027, 1, 4),
    region_of_stay="BE23",
)

LIES: list[tuple[type, Callable[[Event], Event], Invariant]] = [
    (HoldPlaced, saying(beds=(7,)), Invariant.ONE_CLAIM_PER_BED),
    (HoldPlaced, saying(hold_id="another"), Invariant.EFFECTS_ONCE),
    (CapacityReported, saying(free=(1, 2, 3)), Invariant.ONE_CLAIM_PER_BED),
    (UnitStandingChanged, saying(free=5), Invariant.SERVICES_AGREE),
    (HoldMadeFirm, at(timedelta(days=1)), Invariant.NOTHING_AFTER_EXPIRY),
    (HoldRequested, saying(beds=2), Invariant.ONLY_THE_ENTITLED),
    (AskAccepted, saying(ask_id="another"), Invariant.NOTHING_AFTER_EXPIRY),
    (AskAccepted, by(organisation="another"), Invariant.ONLY_THE_ENTITLED),
    (PlacementProposed, saying(proposal_hash="0" * 64), Invariant.ONLY_THE_ENTITLED),
    (PlacementProposed, by(role=Role.SYSTEM), Invariant.ONLY_THE_ENTITLED),
    (PlacementCountersigned, saying(proposal_hash="0" * 64), Invariant.ONLY_THE_ENTITLED),
    (CountersignPlacement, saying(proposal="0" * 64), Invariant.ONLY_THE_ENTITLED),
    (PlacementConfirmed, saying(shelter_id="another"), Invariant.ONLY_THE_ENTITLED),
    (DetailsRecorded, by(organisation="another"), Invariant.ONLY_THE_ENTITLED),
    (DetailsRecorded, by(role=Role.SHELTER), Invariant.ONLY_THE_ENTITLED),
    (DetailsRecorded, saying(version=2), Invariant.EFFECTS_ONCE),
    (DetailsRecorded, saying(before=LEARNT), Invariant.EFFECTS_ONCE),
    (DetailsRecorded, saying(known=msgspec.structs.replace(LEARNT, region_of_stay="BE10")), Invariant.EFFECTS_ONCE),
    (DetailsRecorded, saying(known=msgspec.structs.replace(LEARNT, reflection_ends_on=None)), Invariant.EFFECTS_ONCE),
    (RecordDetails, saying(version_seen=1), Invariant.EFFECTS_ONCE),
    (ConsentRecorded, saying(country="BE"), Invariant.ONLY_THE_ENTITLED),
    (DepartureRecorded, by(role=Role.SYSTEM), Invariant.ONLY_THE_ENTITLED),
    (DisclosureGranted, saying(recipient="another"), Invariant.ONLY_THE_ENTITLED),
    (DisclosureGranted, saying(field=SealedField.JOURNEY), Invariant.NOTHING_AFTER_EXPIRY),
    (DisclosureGranted, at(timedelta(hours=-1)), Invariant.NOTHING_AFTER_EXPIRY),
    (RelocationRequestOpened, saying(danger_country="NL"), Invariant.ONLY_THE_ENTITLED),
    (NextStepSet, saying(steps=()), Invariant.NOTHING_LOST),
]


@pytest.mark.parametrize(("kind", "lie", "invariant"), LIES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_lie_about_one_event_is_found(kind: type, lie: Callable[[Event], Event], invariant: Invariant) -> None:
    with pytest.raises(InvariantViolated) as found:
        check(retold(history(), kind, lie))
    assert found.value.invariant is invariant


def replaced(old: str, new: str) -> Logs:
    """The history with one word for another everywhere, as if it had always been so."""
    told = {}
    for source, log in history().items():
        events = [decode(encode(event).replace(old, new)) for event in log]
        told[source] = [event for event in events if isinstance(event, Event)]
    return told


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("coordinator-HOST-1", "coordinator-BE-1"),
        ("coordinator-BE-1", "referrer-BE-1"),
        ('"age_status":"adult"', '"age_status":"presumed_minor"'),
        ('"track":"adult"', '"track":"child"'),
        ('"region":"NL32"', '"region":"BE21","country":"BE"'),
    ],
)
def test_who_signed_and_where_they_go_is_checked_against_the_rules(old: str, new: str) -> None:
    host = next(
        event.data.host_country for event in history()["placement"] if isinstance(event.data, PlacementConfirmed)
    )
    with pytest.raises(InvariantViolated) as found:
        check(replaced(old.replace("HOST", host), new))
    assert found.value.invariant is Invariant.ONLY_THE_ENTITLED


def test_a_gap_is_found() -> None:
    logs = history()
    with pytest.raises(InvariantViolated) as found:
        check({**logs, "placement": [event for event in logs["placement"] if event.version != 3]})
    assert found.value.invariant is Invariant.STREAMS_ARE_GAPLESS


def test_the_same_event_twice_is_found() -> None:
    logs = history()
    twice = msgspec.structs.replace(logs["capacity"][-1], version=logs["capacity"][-1].version + 1)
    with pytest.raises(InvariantViolated) as found:
        check({**logs, "capacity": [*logs["capacity"], twice]})
    assert found.value.invariant is Invariant.EFFECTS_ONCE


def test_a_cause_that_takes_effect_again_later_is_found() -> None:
    logs = history()
    last, stream = logs["placement"][-1], [e for e in logs["placement"] if e.stream == logs["placement"][-1].stream]
    again = msgspec.structs.replace(stream[0], id="again", version=last.version + 1)
    with pytest.raises(InvariantViolated) as found:
        check({**logs, "placement": [*logs["placement"], again]})
    assert found.value.invariant is Invariant.EFFECTS_ONCE


def test_an_effect_without_a_cause_is_found() -> None:
    logs = retold(history(), HoldPlaced, lambda event: msgspec.structs.replace(event, causation_id="nobody"))
    with pytest.raises(InvariantViolated) as found:
        check(logs)
    assert found.value.invariant is Invariant.EFFECTS_ONCE


def test_an_effect_before_its_cause_is_no_history() -> None:
    logs = history()
    crossed = retold(
        logs, UnitRegistered, lambda event: msgspec.structs.replace(event, causation_id=logs["capacity"][-1].id)
    )
    with pytest.raises(ValueError, match="before their causes"):
        list(causally(crossed))


def test_a_hold_that_is_placed_after_its_release_is_found() -> None:
    def released(event: Event) -> Event:
        placed = event.data
        assert isinstance(placed, HoldPlaced)
        tombstone = HoldReleased(unit_id=placed.unit_id, hold_id=placed.hold_id, request_id=placed.request_id)
        return msgspec.structs.replace(event, data=tombstone)

    logs = retold(history(), HoldPlaced, released)
    stream = next(event for event in history()["capacity"] if isinstance(event.data, HoldPlaced))
    position = next(n for n, event in enumerate(logs["capacity"]) if event.id == stream.id)
    later = msgspec.structs.replace(stream, id="later", version=stream.version + 1)
    with pytest.raises(InvariantViolated) as found:
        check({**logs, "capacity": [*logs["capacity"][: position + 1], later]})
    assert found.value.invariant is Invariant.EFFECTS_ONCE


def test_a_claim_that_is_missing_from_the_table_is_found() -> None:
    checker = check(history())
    rows = [(unit, bed, hold) for unit, book in checker.units.items() for bed, hold in book.claims.items()]
    assert rows
    checker.claims_are(rows)
    with pytest.raises(InvariantViolated, match="I1"):
        checker.claims_are(rows[1:])


def test_what_was_acknowledged_must_be_there() -> None:
    checker = check(history())
    checker.acknowledged(story().acknowledged)
    with pytest.raises(InvariantViolated, match="command-lost"):
        checker.acknowledged(["command-lost"])


def test_a_state_that_is_not_the_fold_is_found() -> None:
    checker = check(history())
    state = checker.states["placement", "relocation_request-r1"]
    checker.state_is("placement", "relocation_request-r1", state)
    with pytest.raises(InvariantViolated, match="I3"):
        checker.state_is("placement", "relocation_request-r1", msgspec.structs.replace(state, stage=Stage.ASKED))


def views(checker: Checker) -> dict[str, tuple[int, Freshness]]:
    return {unit_id: (len(unit.free), unit.freshness) for unit_id, unit in checker.units.items()}


def test_a_healed_world_has_an_outcome_for_every_command() -> None:
    logs = history()
    checker = check(logs)
    checker.healed(story().now, views(checker), PATIENCE)
    unheard = msgspec.structs.replace(
        logs["gateway"][-1], id="command-unheard", version=logs["gateway"][-1].version + 1
    )
    checker.see("gateway", unheard)
    with pytest.raises(InvariantViolated, match="command-unheard"):
        checker.healed(story().now, views(checker), PATIENCE)


def test_a_healed_world_agrees_about_every_unit() -> None:
    checker = check(history())
    with pytest.raises(InvariantViolated, match="I11"):
        checker.healed(story().now, {**views(checker), "unit-1": (9, Freshness.FRESH)}, PATIENCE)


def test_a_healed_world_is_late_with_nothing() -> None:
    checker = check(history())
    with pytest.raises(InvariantViolated) as found:
        checker.healed(story().now + timedelta(days=3), views(checker), PATIENCE)
    assert found.value.invariant in (Invariant.NOTHING_AFTER_EXPIRY, Invariant.NOTHING_LOST)


def test_a_violation_says_how_to_find_it_again() -> None:
    violated = InvariantViolated(Invariant.EFFECTS_ONCE, 7, 42, "the detail")
    assert str(violated) == "I5 effects_once: the detail (seed 7, step 42)"
    assert (violated.seed, violated.step, violated.detail) == (7, 42, "the detail")
