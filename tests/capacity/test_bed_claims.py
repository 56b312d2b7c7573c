"""The promise "no bed is held twice", with every check of the application switched off."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from events.capacity import HoldPlaced
from events.envelope import Event, system_actor
from events.gateway import RegisterUnit, ReportCapacity
from events.log.store import EventLog
from events.placement import HoldRequested
from events.vocabulary import Group, UnitProfile
from reference import load
from services.capacity.domain.unit import UnitDecider
from services.capacity.worker import CapacityWorker, bed_claims

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)


def an_event(number: int, source: str, stream: str, data: object) -> Event:
    return Event(
        id=f"event-{source}-{stream}-{number}",
        source=source,
        stream=stream,
        version=number,
        time=NOW,
        actor=system_actor(source),
        correlation_id="c",
        causation_id="c",
        data=data,
    )


@pytest.fixture
def worker(log: EventLog) -> CapacityWorker:
    worker = CapacityWorker(log, load(), lambda: NOW)
    profile = UnitProfile(unit_id="u1", shelter_id="s1", country="NL", region="NL32", accepts=(Group.WOMEN,))
    worker.consumer.deliver(an_event(1, "gateway", "unit-u1", RegisterUnit(unit_id="u1", profile=profile, beds=2)))
    report = ReportCapacity(unit_id="u1", revision_seen=1, beds=2, free=2)
    worker.consumer.deliver(an_event(2, "gateway", "unit-u1", report))
    return worker


def a_hold(request: str) -> Event:
    wanted = HoldRequested(
        request_id=request,
        hold_id=f"hold-{request}",
        unit_id="u1",
        shelter_id="s1",
        country="NL",
        beds=1,
        until=NOW + timedelta(hours=2),
    )
    return an_event(1, "placement", f"relocation_request-{request}", wanted)


def always_bed_one(_decider: UnitDecider, _unit: object, message: HoldRequested, _context: object) -> list[HoldPlaced]:
    """A decider whose every check is gone: it gives bed 1 to whoever asks."""
    return [
        HoldPlaced(unit_id="u1", hold_id=message.hold_id, request_id=message.request_id, beds=(1,), until=message.until)
    ]


@pytest.mark.attack(58)
def test_the_database_alone_refuses_a_second_hold_on_a_bed(
    worker: CapacityWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UnitDecider, "decide", always_bed_one)
    worker.consumer.deliver(a_hold("first"))
    before = worker.log.head()

    with pytest.raises(IntegrityError):
        worker.consumer.deliver(a_hold("second"))

    assert worker.log.head() == before, "the event of the second hold must be gone with the claim that was refused"
    with worker.log.engine.connect() as connection:
        claims = connection.execute(sa.select(bed_claims.c.bed, bed_claims.c.hold_id)).all()
    assert claims == [(1, "hold-first")]


def test_without_the_constraint_the_same_bed_would_be_held_twice(
    worker: CapacityWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proves that the test above tests the constraint and nothing else."""
    with worker.log.engine.begin() as connection:
        bed_claims.drop(connection)
        connection.exec_driver_sql("CREATE TABLE bed_claims (unit_id TEXT, bed INTEGER, hold_id TEXT)")
    monkeypatch.setattr(UnitDecider, "decide", always_bed_one)
    worker.consumer.deliver(a_hold("first"))
    worker.consumer.deliver(a_hold("second"))
    with worker.log.engine.connect() as connection:
        assert len(connection.execute(sa.select(bed_claims.c.hold_id)).all()) == 2
