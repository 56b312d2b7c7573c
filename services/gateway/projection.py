"""Events of all three services in, rows of the read model out. Reads no clock and decides nothing.

Each row follows from one stream alone: a request's view from placement's events about it, a unit's from capacity's, a
line of the trail from its event.
"""

from collections.abc import Mapping

import msgspec
import sqlalchemy as sa

from events import capacity as c
from events import gateway as g
from events import placement as p
from events.envelope import Event, type_of
from events.log.engines import lift_time_limit
from events.log.inbox import Consumer
from events.log.store import EventLog, Writing
from events.vocabulary import Verb
from services.gateway.read_model import (
    SOURCE_ORDER,
    TABLES,
    Json,
    ReadModel,
    changes_metadata,
    metadata,
    moment_key,
    trail_subjects,
)
from services.gateway.views import parties_of, plain, view_of_request, view_of_unit

CONSUMER = "gateway.read_model"

_VERBS: dict[type, Verb] = {
    g.OpenRelocationRequest: Verb.COLLECTION,
    p.RelocationRequestOpened: Verb.COLLECTION,
    g.RecordConsulted: Verb.CONSULTATION,
    g.FieldDisclosed: Verb.DISCLOSURE,
    p.DisclosureGranted: Verb.DISCLOSURE,
    p.ShelterAsked: Verb.DISCLOSURE,
    p.ShortlistDrawn: Verb.COMBINATION,
    g.EraseHousehold: Verb.ERASURE,
    p.HouseholdErased: Verb.ERASURE,
    g.KeyDestroyed: Verb.ERASURE,
}
"""LED 2016/680 art. 25 verb of each kind of event; everything else alters. Asking a shelter tells it of a household."""


class Projection:
    """The gateway's consumer that keeps the read model."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.consumer = Consumer(CONSUMER, log, self.handle)
        log.create_schema(metadata, changes_metadata)

    def handle(self, tx: Writing, event: Event) -> None:
        """Writes what `event` says into every table that shows it."""
        _write_trail(tx, event)
        data = event.data
        if isinstance(data, p.PlacementEvent):
            self._project_request(tx, event, data)
        elif isinstance(data, c.CapacityEvent):
            self._project_unit(tx, event, data)

    def rebuild(self, sources: Mapping[str, EventLog]) -> tuple[str, str]:
        """Drops the read model and builds it again from the logs; returns the digests before and after, which differ only
        if it had gone wrong. Interrupted, it goes on where it was, as the consumer does after any stop."""
        before = ReadModel(self.log.engine).digest()
        with self.log.writing() as tx:
            lift_time_limit(tx.connection)
            for table in TABLES:
                tx.connection.execute(sa.delete(table))
            self.consumer.forget(tx)
        self.catch_up(sources)
        return before, ReadModel(self.log.engine).digest()

    def catch_up(self, sources: Mapping[str, EventLog]) -> None:
        """Takes in everything the logs hold and this consumer has not seen."""
        for source, log in sources.items():
            while batch := log.read_all(after=self.consumer.position(source)):
                self.consumer.deliver_batch(batch)

    def _project_request(self, tx: Writing, event: Event, data: p.PlacementEvent) -> None:
        key = {"request_id": data.request_id}
        stored = tx.connection.scalar(sa.text("SELECT view FROM requests WHERE request_id = :request_id"), key)
        known: Json | None = msgspec.json.decode(stored) if stored else None
        view = view_of_request(known, event)
        if view is None:
            return
        tx.connection.execute(
            sa.text(
                "INSERT INTO requests (request_id, opened_at, revision, view) "
                "VALUES (:request_id, :opened_at, :revision, :view) ON CONFLICT (request_id) "
                "DO UPDATE SET revision = excluded.revision, view = excluded.view"
            ),
            {
                **key,
                "opened_at": view["opened_at"],
                "revision": event.version,
                "view": msgspec.json.encode(view).decode(),
            },
        )
        asked_before = known["asks"] if known else {}
        for ask_id, ask in view["asks"].items():
            if ask != asked_before.get(ask_id):
                tx.connection.execute(
                    sa.text(
                        "INSERT INTO asks (ask_id, request_id, shelter_id, state) "
                        "VALUES (:ask_id, :request_id, :shelter_id, :state) "
                        "ON CONFLICT (ask_id) DO UPDATE SET state = excluded.state"
                    ),
                    {**key, "ask_id": ask_id, "shelter_id": ask["shelter_id"], "state": ask["state"]},
                )
        before, now = parties_of(known), parties_of(view)
        for party in sorted(before - now):
            tx.connection.execute(
                sa.text("DELETE FROM request_parties WHERE request_id = :request_id AND party = :party"),
                {**key, "party": party},
            )
        for party in sorted(now - before):
            tx.connection.execute(
                sa.text("INSERT INTO request_parties (request_id, party) VALUES (:request_id, :party)"),
                {**key, "party": party},
            )
        # Also to who no longer knows of it: that is what they have to hear.
        _announce(tx, "relocation_request", data.request_id, event.version, before | now)

    def _project_unit(self, tx: Writing, event: Event, data: c.CapacityEvent) -> None:
        key = {"unit_id": data.unit_id}
        stored = tx.connection.scalar(sa.text("SELECT view FROM units WHERE unit_id = :unit_id"), key)
        view = view_of_unit(msgspec.json.decode(stored) if stored else None, event)
        if view is None:
            return
        tx.connection.execute(
            sa.text(
                "INSERT INTO units (unit_id, shelter_id, view) VALUES (:unit_id, :shelter_id, :view) "
                "ON CONFLICT (unit_id) DO UPDATE SET view = excluded.view"
            ),
            {**key, "shelter_id": view["shelter_id"], "view": msgspec.json.encode(view).decode()},
        )
        _announce(tx, "unit", data.unit_id, event.version, {f"shelter:{view['shelter_id']}"})


def _announce(tx: Writing, kind: str, subject: str, revision: int, parties: set[str]) -> None:
    tx.connection.execute(
        sa.text("INSERT INTO changes (kind, subject, revision, parties) VALUES (:kind, :subject, :revision, :parties)"),
        {
            "kind": kind,
            "subject": subject,
            "revision": revision,
            "parties": msgspec.json.encode(sorted(parties)).decode(),
        },
    )


def _write_trail(tx: Writing, event: Event) -> None:
    detail = plain(event.data)
    if len(subjects := _subjects(event.data)) > 1:
        rows = [{"case_id": subject, "event_id": event.id} for subject in sorted(set(subjects))]
        tx.connection.execute(sa.insert(trail_subjects), rows)
    tx.connection.execute(
        sa.text(
            "INSERT INTO trail (moment, source_order, stream, version, event_id, source, type, verb, case_id, person, "
            "role, organisation, country, correlation_id, causation_id, detail) VALUES (:moment, :source_order, "
            ":stream, :version, :event_id, :source, :type, :verb, :case_id, :person, :role, :organisation, :country, "
            ":correlation_id, :causation_id, :detail)"
        ),
        {
            "moment": moment_key(event.time),
            "source_order": SOURCE_ORDER[event.source],
            "stream": event.stream,
            "version": event.version,
            "event_id": event.id,
            "source": event.source,
            "type": type_of(event),
            "verb": _VERBS.get(type(event.data), Verb.ALTERATION),
            "case_id": getattr(event.data, "request_id", None) or _only_subject(event.data),
            "person": event.actor.person,
            "role": event.actor.role,
            "organisation": event.actor.organisation,
            "country": event.actor.country,
            "correlation_id": event.correlation_id,
            "causation_id": event.causation_id,
            "detail": msgspec.json.encode(detail).decode(),
        },
    )


def _only_subject(data: object) -> str | None:
    subjects = _subjects(data)
    return subjects[0] if len(subjects) == 1 else None


def _subjects(data: object) -> tuple[str, ...]:
    return data.subjects if isinstance(data, g.RecordConsulted) else ()
