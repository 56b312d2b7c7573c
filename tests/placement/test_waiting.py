"""Several households, one bed that comes free: who is asked for it is decided by urgency and waiting, never by an id."""

from datetime import UTC, datetime, timedelta

import pytest

from events.capacity import CapacityReported, UnitRegistered, UnitStandingChanged
from events.envelope import Event
from events.gateway import OpenRelocationRequest
from events.log.store import EventLog
from events.placement import HoldRequested, UnmetNeedRecorded
from events.vocabulary import Group, Household, Sealed, UnitProfile, Urgency
from reference import load
from services.placement.worker import PlacementWorker
from tests import builders as a

NIGHT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


class Clock:
    now = NIGHT

    def __call__(self) -> datetime:
        return self.now


def said(number: int, source: str, stream: str, data: object) -> Event:
    return Event(
        id=f"{source}-{stream}-{number}",
        source=source,
        stream=stream,
        version=number,
        time=NIGHT,
        actor=a.a_referrer(),
        correlation_id="c",
        causation_id="c",
        data=data,
    )


def opening(request_id: str, urgency: Urgency) -> Event:
    command = OpenRelocationRequest(
        request_id=request_id,
        urgency=urgency,
        danger_country="BE",
        household=Household(women=1),
        callback=Sealed(algorithm="a", key_id="k", box="b"),
    )
    return said(1, "gateway", f"relocation_request-{request_id}", command)


@pytest.mark.parametrize(
    ("first", "second", "served_first"),
    [
        (("b", Urgency.STANDARD), ("a", Urgency.STANDARD), "b"),  # who waits longest
        (("b", Urgency.STANDARD), ("a", Urgency.URGENT), "a"),  # but urgent before that
        (("a", Urgency.URGENT), ("b", Urgency.URGENT), "a"),
    ],
)
def test_a_freed_bed_is_asked_for_urgent_first_then_by_who_waits_longest(
    log: EventLog, first: tuple[str, Urgency], second: tuple[str, Urgency], served_first: str
) -> None:
    clock = Clock()
    worker = PlacementWorker(log, load(), clock)
    for request_id, urgency in (first, second):
        worker.consumer.deliver(opening(request_id, urgency))
        clock.now += timedelta(minutes=5)
    profile = UnitProfile(unit_id="u1", shelter_id="s1", country="NL", region="NL32", accepts=(Group.WOMEN,))
    standing = UnitStandingChanged(unit_id="u1", beds=1, free=1, held=0, occupied=0, blocked=0, taken=0, revision=2)
    worker.consumer.deliver(said(1, "capacity", "unit-u1", UnitRegistered(unit_id="u1", profile=profile, beds=1)))
    worker.consumer.deliver(said(2, "capacity", "unit-u1", CapacityReported(unit_id="u1", beds=1, free=(1,))))
    worker.consumer.deliver(said(3, "capacity", "unit-u1", standing))
    worker.pass_time(clock.now)
    asked = [event.data.request_id for _, event in log.read_all() if isinstance(event.data, HoldRequested)]
    assert asked[0] == served_first


def test_who_finds_no_bed_right_before_one_comes_free_is_asked_for_it_at_once(log: EventLog) -> None:
    """All of it in one transaction, in which what was decided first is not written yet when the bed comes."""
    clock = Clock()
    worker = PlacementWorker(log, load(), clock)
    profile = UnitProfile(unit_id="u1", shelter_id="s1", country="NL", region="NL32", accepts=(Group.WOMEN,))
    standing = UnitStandingChanged(unit_id="u1", beds=1, free=1, held=0, occupied=0, blocked=0, taken=0, revision=2)
    worker.consumer.deliver(said(1, "capacity", "unit-u1", UnitRegistered(unit_id="u1", profile=profile, beds=1)))
    with log.writing() as tx:
        reported = said(2, "capacity", "unit-u1", CapacityReported(unit_id="u1", beds=1, free=(1,)))
        worker.consumer.take_run(tx, [opening("a", Urgency.URGENT), reported, said(3, "capacity", "unit-u1", standing)])
    kinds = [type(event.data) for _, event in log.read_all() if isinstance(event, Event)]
    assert UnmetNeedRecorded in kinds
    assert HoldRequested not in kinds
    assert worker.pass_time(clock.now)
    assert HoldRequested in {type(event.data) for _, event in log.read_all() if isinstance(event, Event)}
