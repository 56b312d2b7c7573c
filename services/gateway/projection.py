"""Events of all three services in, rows of the read model out. Reads no clock and decides nothing.

Each row follows from one stream alone: a request's view from placement's events about it, a unit's from capacity's, a
line of the trail from its event.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import msgspec
import sqlalchemy as sa

from events import capacity as c
from events import gateway as g
from events import placement as p
from events.envelope import Event, type_of
from events.log.alone import without_others
from events.log.engines import lift_time_limit
from events.log.inbox import Consumer
from events.log.store import EventLog, Writing
from events.vocabulary import Verb
from services.gateway.read_model import (
    SOURCE_ORDER,
    TABLES,
    Json,
    ReadModel,
    changes,
    changes_metadata,
    metadata,
    moment_key,
    trail_subjects,
)
from services.gateway.ringing import metadata as ringing_metadata
from services.gateway.ringing import pause_ringing, resume_ringing
from services.gateway.views import parties_of, plain, view_of_request, view_of_unit
from services.gateway.waits import Wait, waits_of_request, waits_of_unit

CONSUMER = "gateway.read_model"
KEPT_CHANGES = 100_000
"""So far back a live stream can be taken up again: days of the busiest year."""

_VERBS: dict[type, Verb] = {
    g.OpenRelocationRequest: Verb.COLLECTION,
    p.RelocationRequestOpened: Verb.COLLECTION,
    g.RecordDetails: Verb.COLLECTION,
    p.DetailsRecorded: Verb.COLLECTION,
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


_VIEW_OF_REQUEST = sa.text("SELECT view FROM requests WHERE request_id = :name")
_KEEP_REQUEST = sa.text(
    "INSERT INTO requests (request_id, opened_at, revision, view) "
    "VALUES (:request_id, :opened_at, :revision, :view) ON CONFLICT (request_id) "
    "DO UPDATE SET revision = excluded.revision, view = excluded.view"
)
_KEEP_ASK = sa.text(
    "INSERT INTO asks (ask_id, request_id, shelter_id, state) "
    "VALUES (:ask_id, :request_id, :shelter_id, :state) "
    "ON CONFLICT (ask_id) DO UPDATE SET state = excluded.state"
)
_FORGET_PARTY = sa.text("DELETE FROM request_parties WHERE request_id = :request_id AND party = :party")
_KEEP_PARTY = sa.text("INSERT INTO request_parties (request_id, party) VALUES (:request_id, :party)")
_VIEW_OF_UNIT = sa.text("SELECT view FROM units WHERE unit_id = :name")
_KEEP_UNIT = sa.text(
    "INSERT INTO units (unit_id, shelter_id, view) VALUES (:unit_id, :shelter_id, :view) "
    "ON CONFLICT (unit_id) DO UPDATE SET view = excluded.view"
)
_FORGET_WAIT = sa.text("DELETE FROM waits WHERE wait_id = :wait_id")
_KEEP_WAIT = sa.text(
    "INSERT INTO waits (wait_id, kind, party, pressing, since, escalates_to) "
    "VALUES (:wait_id, :kind, :party, :pressing, :since, :escalates_to) "
    "ON CONFLICT (wait_id) DO UPDATE SET pressing = excluded.pressing, since = excluded.since"
)
_COUNT = sa.text(
    "INSERT INTO demand (request_id, quarter, country, region, host, waited, missing) "
    "VALUES (:request_id, :quarter, :country, :region, :host, :waited, :missing) ON CONFLICT (request_id) "
    "DO UPDATE SET host = excluded.host, waited = excluded.waited, missing = excluded.missing"
)
_ANNOUNCE = sa.text(
    "INSERT INTO changes (kind, subject, revision, parties) VALUES (:kind, :subject, :revision, :parties)"
)
_KEEP_SUBJECT = sa.insert(trail_subjects)
_KEEP_LINE = sa.text(
    "INSERT INTO trail (moment, source_order, stream, version, event_id, source, type, verb, case_id, person, "
    "role, organisation, country, correlation_id, causation_id, detail) VALUES (:moment, :source_order, "
    ":stream, :version, :event_id, :source, :type, :verb, :case_id, :person, :role, :organisation, :country, "
    ":correlation_id, :causation_id, :detail)"
)


def projection_log(engine: sa.Engine, migrated_to: int | None = None) -> EventLog:
    """The gateway's log for the projection: it writes rows beside the log, and what people send must not wait for those."""
    return EventLog(engine, "gateway", migrated_to, writers=CONSUMER)


class Projection:
    """The gateway's consumer that keeps the read model."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.consumer = Consumer(CONSUMER, log, self.handle)
        log.create_schema(metadata, changes_metadata, ringing_metadata)

    def handle(self, tx: Writing, event: Event) -> None:
        """Folds what `event` says into every row that shows it; written when the transaction ends."""
        run = tx.put_off.setdefault(CONSUMER, _Run())
        assert isinstance(run, _Run)
        run.add_line(event)
        data = event.data
        if isinstance(data, p.PlacementEvent):
            run.show_request(tx, event, data)
        elif isinstance(data, c.CapacityEvent):
            run.show_unit(tx, event, data)

    def forget_changes(self, keep: int = KEPT_CHANGES) -> None:
        """Drops what moved long ago: whoever comes back from before reads everything again."""
        with self.log.writing() as tx:
            last = sa.select(sa.func.max(changes.c.seq)).scalar_subquery()
            tx.connection.execute(sa.delete(changes).where(changes.c.seq <= last - keep))

    def rebuild(self, sources: Mapping[str, EventLog]) -> tuple[str, str]:
        """Drops the read model and builds it again from the logs; returns the digests before and after, which differ only
        if it had gone wrong. Interrupted, it goes on where it was, as the consumer does after any stop.

        Projection workers wait meanwhile, and what is appended meanwhile is theirs: both digests are of what the logs held at the
        start. Nobody is rung until it is finished: on the way it goes once more through everything that ever waited. Raises
        OthersWrite when another rebuild is under way."""
        with without_others(self.log):
            heads = {source: log.head() for source, log in sources.items()}
            self.catch_up(sources, heads)
            before = ReadModel(self.log.engine).digest()
            places = {name: self.consumer.bookmark(name) for name in self.consumer.positions() if name not in sources}
            with self.log.writing() as tx:
                lift_time_limit(tx.connection)
                for table in TABLES:
                    tx.connection.execute(sa.delete(table))
                self.consumer.forget(tx)
                pause_ringing(tx.connection)
            self.catch_up(sources, heads)
            with self.log.writing() as tx:
                resume_ringing(tx.connection)
                # All that was taken from Kafka is in again: no worker need read its topics from their beginning.
                for name, (position, event_id) in places.items():
                    self.consumer.move_cursor(tx, name, position, event_id)
            return before, ReadModel(self.log.engine).digest()

    def catch_up(self, sources: Mapping[str, EventLog], heads: Mapping[str, int]) -> None:
        """Takes in everything the logs hold up to these positions and this consumer has not seen."""
        for source, log in sources.items():
            while batch := [
                (position, event)
                for position, event in log.read_all(after=self.consumer.position(source))
                if position <= heads[source]
            ]:
                self.consumer.deliver_batch(batch)


@dataclass
class _Shown:
    """One request or unit: what its row says, and what it is to say."""

    stored: Json | None
    view: Json | None
    revision: int = 0
    parties: set[str] = field(default_factory=set)
    """All who are to hear that it moved; also who no longer knows of it: that is what they have to hear."""


@dataclass
class _Run:
    """What the events of one transaction say. A request is asked, offered and proposed in a burst: its row is read and written
    once for all of that, and whoever watches is told once."""

    lines: list[Json] = field(default_factory=list)
    subjects: list[Json] = field(default_factory=list)
    requests: dict[str, _Shown] = field(default_factory=dict)
    units: dict[str, _Shown] = field(default_factory=dict)

    def add_line(self, event: Event) -> None:
        self.lines.append(_line(event))
        if len(subjects := set(_subjects(event.data))) > 1:
            self.subjects += [{"case_id": subject, "event_id": event.id} for subject in sorted(subjects)]

    def show_request(self, tx: Writing, event: Event, data: p.PlacementEvent) -> None:
        shown = _known(tx, self.requests, _VIEW_OF_REQUEST, data.request_id)
        view = view_of_request(shown.view, event)
        if view is not None:
            shown.parties |= parties_of(shown.view) | parties_of(view)
            shown.view, shown.revision = view, event.version

    def show_unit(self, tx: Writing, event: Event, data: c.CapacityEvent) -> None:
        shown = _known(tx, self.units, _VIEW_OF_UNIT, data.unit_id)
        view = view_of_unit(shown.view, event)
        if view is not None:
            shown.parties.add(f"shelter:{view['shelter_id']}")
            shown.view, shown.revision = view, event.version

    def write(self, tx: Writing) -> None:
        requests = {name: shown for name, shown in self.requests.items() if shown.revision}
        units = {name: shown for name, shown in self.units.items() if shown.revision}
        _write(tx, _KEEP_LINE, self.lines)
        _write(tx, _KEEP_SUBJECT, self.subjects)
        _write(tx, _KEEP_REQUEST, [_request_row(name, shown) for name, shown in requests.items()])
        _write(tx, _KEEP_ASK, [row for name, shown in requests.items() for row in _ask_rows(name, shown)])
        _write(tx, _COUNT, [row for name, shown in requests.items() for row in _counted_rows(name, shown)])
        for statement, parties in ((_FORGET_PARTY, _no_longer_parties), (_KEEP_PARTY, _new_parties)):
            rows = [
                {"request_id": name, "party": party} for name, shown in requests.items() for party in parties(shown)
            ]
            _write(tx, statement, rows)
        _write(tx, _KEEP_UNIT, [_unit_row(name, shown) for name, shown in units.items()])
        for waits_of, all_shown in ((waits_of_request, requests), (waits_of_unit, units)):
            _write_waits(tx, [(waits_of(shown.stored), waits_of(shown.view)) for shown in all_shown.values()])
        moved = (("relocation_request", requests), ("unit", units))
        _write(tx, _ANNOUNCE, [_change(kind, *one) for kind, all_shown in moved for one in all_shown.items()])


def _known(tx: Writing, shown: dict[str, _Shown], query: sa.TextClause, name: str) -> _Shown:
    if name not in shown:
        stored = tx.connection.scalar(query, {"name": name})
        view: Json | None = msgspec.json.decode(stored) if stored else None
        shown[name] = _Shown(view, view)
    return shown[name]


def _write(tx: Writing, statement: sa.Executable, rows: Sequence[Json]) -> None:
    if rows:
        tx.connection.execute(statement, rows)


def _request_row(name: str, shown: _Shown) -> Json:
    assert shown.view is not None
    return {
        "request_id": name,
        "opened_at": shown.view["opened_at"],
        "revision": shown.revision,
        "view": msgspec.json.encode(shown.view).decode(),
    }


def _ask_rows(name: str, shown: _Shown) -> list[Json]:
    assert shown.view is not None
    before = shown.stored["asks"] if shown.stored else {}
    return [
        {"request_id": name, "ask_id": ask_id, "shelter_id": ask["shelter_id"], "state": ask["state"]}
        for ask_id, ask in shown.view["asks"].items()
        if ask != before.get(ask_id)
    ]


def _counted_rows(name: str, shown: _Shown) -> list[Json]:
    assert shown.view is not None
    counted = shown.view.get("counted")  # none for a view from before requests were counted, until the next rebuild
    before = shown.stored.get("counted") if shown.stored else None
    return [{"request_id": name, **counted}] if counted and counted != before else []


def _no_longer_parties(shown: _Shown) -> list[str]:
    return sorted(parties_of(shown.stored) - parties_of(shown.view))


def _new_parties(shown: _Shown) -> list[str]:
    return sorted(parties_of(shown.view) - parties_of(shown.stored))


def _unit_row(name: str, shown: _Shown) -> Json:
    assert shown.view is not None
    return {
        "unit_id": name,
        "shelter_id": shown.view["shelter_id"],
        "view": msgspec.json.encode(shown.view).decode(),
    }


def _write_waits(tx: Writing, moved: Sequence[tuple[frozenset[Wait], frozenset[Wait]]]) -> None:
    """What no longer waits goes with the event that ended it: nobody is rung for it any more."""
    ended = {wait.wait_id for before, _ in moved for wait in before} - {
        wait.wait_id for _, now in moved for wait in now
    }
    begun = sorted((wait for before, now in moved for wait in now - before), key=lambda wait: wait.wait_id)
    _write(tx, _FORGET_WAIT, [{"wait_id": wait_id} for wait_id in sorted(ended)])
    _write(tx, _KEEP_WAIT, [{**asdict(wait), "pressing": int(wait.pressing)} for wait in begun])


def _change(kind: str, name: str, shown: _Shown) -> Json:
    parties = msgspec.json.encode(sorted(shown.parties)).decode()
    return {"kind": kind, "subject": name, "revision": shown.revision, "parties": parties}


def _line(event: Event) -> Json:
    return {
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
        "detail": msgspec.json.encode(plain(event.data)).decode(),
    }


def _only_subject(data: object) -> str | None:
    subjects = _subjects(data)
    return subjects[0] if len(subjects) == 1 else None


def _subjects(data: object) -> tuple[str, ...]:
    return data.subjects if isinstance(data, g.RecordConsulted) else ()
