"""Events for tests of the log: what they say does not matter there, only where they stand."""

import uuid
from datetime import UTC, datetime

import msgspec
import sqlalchemy as sa

from events.envelope import Event, system_actor
from events.gateway import RecordConsulted
from events.log.store import EventLog

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def a_draft(stream: str = "unit-1", says: str = "list", event_id: str = "") -> Event:
    event_id = event_id or str(uuid.uuid4())
    return Event(
        id=event_id,
        source="",
        stream=stream,
        time=NOON,
        actor=system_actor("test"),
        correlation_id=event_id,
        causation_id=event_id,
        data=RecordConsulted(resource=says),
    )


def drafts(count: int, stream: str = "unit-1") -> list[Event]:
    return [a_draft(stream, str(n + 1)) for n in range(count)]


def an_event(stream: str, version: int, source: str = "gateway") -> Event:
    """An event as another service's log holds it; its id follows from its place."""
    return msgspec.structs.replace(
        a_draft(stream, str(version), f"{source}.{stream}.{version}"), source=source, version=version
    )


def put_newer_event(log: EventLog, stream: str, version: int, event_id: str = "from-the-future") -> None:
    """An event of a release after ours, as that release would have written it."""
    record = (
        f'{{"id":"{event_id}","source":"{log.source}","stream":"{stream}","version":{version},'
        '"data":{"type":"capacity.unit.teleported.v7","to":"elsewhere"}}'
    )
    with log.writing() as tx:
        tx.connection.execute(
            sa.text(
                "INSERT INTO events (id, stream, version, type, record) "
                "VALUES (:id, :stream, :version, 'capacity.unit.teleported.v7', :record)"
            ),
            {"id": event_id, "stream": stream, "version": version, "record": record},
        )
