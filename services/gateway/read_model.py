"""What the gateway shows: tables that only the projection writes and that can be dropped and rebuilt at any time.

Every row follows from the events of one stream alone, so the order in which the three logs are read does not matter and
a rebuild gives the same bytes (`digest`).

Every read says for whom (`parties`). On PostgreSQL the database holds it to that by row-level security, whatever the query
asks for (services/migrations/rights.sql); SQLite has no such thing and serves one machine.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from events.gateway import TrailQuery
from events.log.engines import lift_time_limit, reading
from services.gateway.demand import Counted

metadata = sa.MetaData()

_OVER = "('ended', 'refused', 'withdrawn', 'erased')"
_IS_OPEN_SQLITE = sa.text(f"json_extract(view, '$.stage') NOT IN {_OVER}")
_IS_OPEN_POSTGRESQL = sa.text(f"(view::jsonb ->> 'stage') NOT IN {_OVER}")
_WAITS = sa.text("state = 'open'")
_ANSWERED = sa.text("state <> 'open'")

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("opened_at", sa.Text, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("view", sa.Text, nullable=False),
    # Of what is open there is little, of what is over more every day.
    sa.Index(
        "ix_requests_open",
        "opened_at",
        "request_id",
        sqlite_where=_IS_OPEN_SQLITE,
        postgresql_where=_IS_OPEN_POSTGRESQL,
    ),
)

request_parties = sa.Table(
    "request_parties",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("party", sa.Text, primary_key=True, index=True),
    comment="Who may know that the request exists: one row per role and organisation, country or person.",
)

asks = sa.Table(
    "asks",
    metadata,
    sa.Column("ask_id", sa.Text, primary_key=True),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("shelter_id", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    # Few wait for an answer; of the others there are more every day.
    sa.Index("ix_asks_open", "request_id", sqlite_where=_WAITS, postgresql_where=_WAITS),
    sa.Index("ix_asks_answered", "shelter_id", sqlite_where=_ANSWERED, postgresql_where=_ANSWERED),
)

units = sa.Table(
    "units",
    metadata,
    sa.Column("unit_id", sa.Text, primary_key=True),
    sa.Column("shelter_id", sa.Text, nullable=False, index=True),
    sa.Column("view", sa.Text, nullable=False),
)

trail = sa.Table(
    "trail",
    metadata,
    sa.Column("moment", sa.Text, primary_key=True),
    sa.Column("source_order", sa.Integer, primary_key=True),
    sa.Column("stream", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("event_id", sa.Text, nullable=False, unique=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("verb", sa.Text, nullable=False),
    sa.Column("case_id", sa.Text, index=True),
    sa.Column("person", sa.Text, nullable=False, index=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("organisation", sa.Text, nullable=False),
    sa.Column("country", sa.Text, nullable=False),
    sa.Column("correlation_id", sa.Text, nullable=False),
    sa.Column("causation_id", sa.Text, nullable=False, index=True),
    sa.Column("detail", sa.Text, nullable=False),
)
"""Every event of every service, sealed fields left out. Ordered by time, then cause before effect (gateway, placement,
capacity), then place in the stream."""

trail_subjects = sa.Table(
    "trail_subjects",
    metadata,
    sa.Column("case_id", sa.Text, primary_key=True),
    sa.Column("event_id", sa.Text, primary_key=True, index=True),
    comment="A read of several cases at once belongs to the trail of each of them.",
)

waits = sa.Table(
    "waits",
    metadata,
    sa.Column("wait_id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("party", sa.Text, nullable=False),
    sa.Column("pressing", sa.Integer, nullable=False),
    sa.Column("since", sa.Text, nullable=False),
    sa.Column("escalates_to", sa.Text, nullable=False),
    comment="Who waits for whom (services/gateway/waits.py): all that whoever rings people may read.",
)

demand = sa.Table(
    "demand",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    *(sa.Column(name, sa.Text, nullable=False) for name in Counted.__struct_fields__),
    comment="What is counted of each request (services/gateway/demand.py); the gateway may read sums of it alone.",
)

TABLES = (trail_subjects, requests, request_parties, asks, units, waits, demand, trail)

changes_metadata = sa.MetaData()
changes = sa.Table(
    "changes",
    changes_metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(), primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("parties", sa.Text, nullable=False),
    sqlite_autoincrement=True,
    comment="What moved, for the live stream only: ids, in the order this gateway saw them, and who knew of them before or "
    "after. Not part of the read model.",
)

Json = dict[str, Any]


RequestPosition = tuple[str, str]
"""Sort key of a request: opened_at, request_id."""

TrailPosition = tuple[str, int, str, int]
"""Sort key of a trail row: moment, source order, stream, version."""

_TRAIL_KEY = (trail.c.moment, trail.c.source_order, trail.c.stream, trail.c.version)


AVAILABILITY = "availability"
"""The party under which every unit is read, for the board of free beds that shows none of them."""


class ReadModel:
    """Queries over the gateway's tables. Who may see what is decided by the caller (`access`)."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._on_sqlite = engine.dialect.name == "sqlite"
        self._is_open = _IS_OPEN_SQLITE if self._on_sqlite else _IS_OPEN_POSTGRESQL

    @contextmanager
    def as_known_to(self, parties: Iterable[str]) -> Iterator[sa.Connection]:
        """A transaction in which no row can be read that none of `parties` may know of (not on SQLite)."""
        names = list(parties)
        if any("\n" in name for name in names):
            raise ValueError("the name of a party is one line")  # the second would be a party nobody vouched for
        with self._engine.connect() as connection:
            if not self._on_sqlite:
                # For this transaction only: the next reader on this connection starts with nothing.
                connection.exec_driver_sql("SELECT set_config('haven.parties', %s, true)", ("\n".join(names),))
            yield connection
            connection.commit()  # nothing was written; after a rollback psycopg would have to prepare everything anew

    def request(self, request_id: str, parties: Sequence[str]) -> Json | None:
        """The view of one request if one of `parties` may know of it."""
        query = (
            sa.select(requests.c.view)
            .join(request_parties, request_parties.c.request_id == requests.c.request_id)
            .where(requests.c.request_id == request_id, request_parties.c.party.in_(list(parties)))
            .limit(1)
        )
        with self.as_known_to(parties) as connection:
            view = connection.scalar(query)
        return None if view is None else _decode(view)

    def requests(
        self, parties: Sequence[str], after: RequestPosition | None, limit: int, *, only_open: bool = False
    ) -> list[Json]:
        """Views newest first, `after` the last one seen; `only_open`: of those that are not over."""
        query = sa.select(requests.c.view).where(_known_to(parties), *((self._is_open,) if only_open else ()))
        return self._newest_first(query, parties, after, limit)

    def requests_with_answered_asks(
        self, parties: Sequence[str], after: RequestPosition | None, limit: int, *, shelter_id: str | None
    ) -> list[Json]:
        """The same, of those in which this shelter, or any, was asked something that waits no longer."""
        answered = sa.select(asks.c.request_id).where(_ANSWERED)
        if shelter_id is not None:
            answered = answered.where(asks.c.shelter_id == shelter_id)
        query = sa.select(requests.c.view).where(requests.c.request_id.in_(answered), _known_to(parties))
        return self._newest_first(query, parties, after, limit)

    def _newest_first(
        self, query: sa.Select[Any], parties: Sequence[str], after: RequestPosition | None, limit: int
    ) -> list[Json]:
        query = query.order_by(requests.c.opened_at.desc(), requests.c.request_id.desc()).limit(limit)
        if after:
            query = query.where(sa.tuple_(requests.c.opened_at, requests.c.request_id) < sa.tuple_(*after))
        with self.as_known_to(parties) as connection:
            return [_decode(view) for view in connection.scalars(query)]

    def requests_with_open_asks(self, parties: Sequence[str]) -> list[Json]:
        open_asks = sa.select(asks.c.request_id).where(_WAITS)
        query = sa.select(requests.c.view).where(requests.c.request_id.in_(open_asks), _known_to(parties))
        with self.as_known_to(parties) as connection:
            return [_decode(view) for view in connection.scalars(query)]

    def request_with_ask(self, ask_id: str, parties: Sequence[str]) -> Json | None:
        """The view of the request in which this is asked, if one of `parties` may know of it."""
        asked = sa.select(asks.c.request_id).where(asks.c.ask_id == ask_id)
        query = sa.select(requests.c.view).where(requests.c.request_id.in_(asked), _known_to(parties))
        with self.as_known_to(parties) as connection:
            view = connection.scalar(query)
        return None if view is None else _decode(view)

    def request_of_ask(self, ask_id: str, shelter_id: str) -> str | None:
        query = sa.select(asks.c.request_id).where(asks.c.ask_id == ask_id, asks.c.shelter_id == shelter_id)
        with self.as_known_to([f"shelter:{shelter_id}"]) as connection:
            found: str | None = connection.scalar(query)
        return found

    def units(self, parties: Iterable[str], shelter_id: str | None = None) -> list[Json]:
        """Units of one shelter, or of all; for `[AVAILABILITY]` those of every country."""
        query = sa.select(units.c.view).order_by(units.c.unit_id)
        if shelter_id is not None:
            query = query.where(units.c.shelter_id == shelter_id)
        with self.as_known_to(parties) as connection:
            return [_decode(view) for view in connection.scalars(query)]

    def counted(self, year: int) -> list[tuple[Counted, int]]:
        """How many requests of a year were counted as what. Not on SQLite, but on PostgreSQL the database adds up: no row of a
        request can be read."""
        names = Counted.__struct_fields__
        if self._on_sqlite:
            columns = [demand.c[name] for name in names]
            sums = sa.select(*columns, sa.func.count().label("requests")).group_by(*columns).subquery()
            query = sa.select(sums)
        else:
            query = sa.select(sa.table("demand_sums", *(sa.column(name) for name in (*names, "requests"))))
        quarter = query.selected_columns["quarter"]
        query = query.where(quarter >= f"{year}Q1", quarter <= f"{year}Q4")
        with reading(self._engine) as connection:
            rows = [dict(row._mapping) for row in connection.execute(query)]
        return [(msgspec.convert({name: row[name] for name in names}, Counted), int(row["requests"])) for row in rows]

    def outcome(self, command_id: str) -> Json | None:
        """The first event another service appended because of the command: its answer. Whoever knows the id may know it."""
        query = (
            sa.select(trail.c.type, trail.c.detail, trail.c.moment)
            .where(trail.c.causation_id == command_id, trail.c.source != "gateway")
            .order_by(*_TRAIL_KEY)
            .limit(1)
        )
        with self.as_known_to([f"command:{command_id}"]) as connection:
            row = connection.execute(query).first()
        return None if row is None else {"type": row.type, "time": row.moment, **_decode(row.detail)}

    def case_timeline(self, request_id: str, parties: Iterable[str]) -> list[Json]:
        """Every event about one request, oldest first, for whoever follows it."""
        entries = self.trail(TrailQuery(case_id=request_id), None, 10_000, parties)
        return [_about_one_case(entry, request_id) for entry in entries]

    def trail(
        self,
        query: TrailQuery,
        after: TrailPosition | None,
        limit: int,
        parties: Iterable[str],
        *,
        newest_first: bool = False,
    ) -> list[Json]:
        """Entries in order, or the other way round, behind `after`."""
        order = [column.desc() for column in _TRAIL_KEY] if newest_first else _TRAIL_KEY
        select = sa.select(trail).order_by(*order).limit(limit)
        if query.case_id is not None:
            select = select.where(trail.c.event_id.in_(_events_of_case(query.case_id)))
        for column, value in (
            (trail.c.person, query.person),
            (trail.c.organisation, query.organisation),
            (trail.c.verb, query.verb),
        ):
            if value is not None:
                select = select.where(column == value)
        if query.since is not None:
            select = select.where(trail.c.moment >= moment_key(query.since))
        if query.until is not None:
            select = select.where(trail.c.moment < moment_key(query.until))
        if after is not None:
            here, there = sa.tuple_(*_TRAIL_KEY), sa.tuple_(*after)
            select = select.where(here < there if newest_first else here > there)
        with self.as_known_to(parties) as connection:
            return [_trail_entry(row) for row in connection.execute(select)]

    def shown_among(self, event_ids: Sequence[str]) -> set[str]:
        """Those of these events that the trail has, whoever may read it: nothing of them is said."""
        if not event_ids:
            return set()
        query = sa.select(trail.c.event_id).where(trail.c.event_id.in_(event_ids))
        with self.as_known_to(["auditor"]) as connection:
            return set(connection.scalars(query))

    def changes(self, after: int, until: int, parties: Iterable[str], limit: int = 200) -> Sequence[sa.Row[Any]]:
        """Changes after one and up to another. On PostgreSQL those alone that `parties` may hear of, on SQLite all."""
        query = (
            sa.select(changes).where(changes.c.seq > after, changes.c.seq <= until).order_by(changes.c.seq).limit(limit)
        )
        with self.as_known_to(parties) as connection:
            return connection.execute(query).all()

    def kept_changes(self) -> tuple[int, int]:
        """Numbers of the first change that is still known and of the last there is, whoever may hear of them."""
        kept = "SELECT (SELECT min(seq) FROM changes) AS first, (SELECT max(seq) FROM changes) AS seq"
        with reading(self._engine) as connection:
            row = connection.exec_driver_sql(kept if self._on_sqlite else "SELECT first, seq FROM last_change").one()
        last = int(row.seq or 0)
        return int(row.first or last + 1), last

    def last_change(self) -> int:
        return self.kept_changes()[1]

    def digest(self) -> str:
        """SHA-256 over every row of the read model in key order; on PostgreSQL, as whoever may see them all."""
        sum_of_all = hashlib.sha256()
        with self._engine.connect() as connection:
            lift_time_limit(connection)
            for table in TABLES:
                rows = connection.execute(sa.select(table).order_by(*table.primary_key.columns))
                for row in rows:
                    sum_of_all.update(msgspec.json.encode([str(table.name), *row]))
        return sum_of_all.hexdigest()


def _events_of_case(case_id: str) -> sa.CompoundSelect[Any]:
    # Two look-ups in an index. Written as one OR, PostgreSQL would walk the whole trail.
    about_it = sa.select(trail.c.event_id).where(trail.c.case_id == case_id)
    read_with_others = sa.select(trail_subjects.c.event_id).where(trail_subjects.c.case_id == case_id)
    return about_it.union_all(read_with_others)


def _known_to(parties: Iterable[str]) -> sa.ColumnElement[bool]:
    known = sa.select(request_parties.c.request_id).where(request_parties.c.party.in_(list(parties)))
    return requests.c.request_id.in_(known)


def moment_key(moment: datetime) -> str:
    """Sortable text of a moment: in UTC, microseconds always written out."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def trail_position(entry: Json) -> TrailPosition:
    return (entry["time"], SOURCE_ORDER[entry["source"]], entry["stream"], entry["version"])


SOURCE_ORDER = {"gateway": 0, "placement": 1, "capacity": 2}


def _about_one_case(entry: Json, request_id: str) -> Json:
    """Of a read of several cases at once, only that this one was among them; of a read of the trail, not what else the auditor
    looked for: that may be whoever reads this."""
    if "subjects" not in entry["detail"]:
        return entry
    said = {name: value for name, value in entry["detail"].items() if name != "narrowed_to"}
    return {**entry, "detail": {**said, "subjects": [request_id]}}


def _trail_entry(row: Any) -> Json:
    return {
        "time": row.moment,
        "source": row.source,
        "stream": row.stream,
        "version": row.version,
        "event_id": row.event_id,
        "type": row.type,
        "verb": row.verb,
        "case_id": row.case_id,
        "actor": {
            "person": row.person,
            "role": row.role,
            "organisation": row.organisation,
            "country": row.country,
        },
        "correlation_id": row.correlation_id,
        "causation_id": row.causation_id,
        "detail": _decode(row.detail),
    }


def _decode(document: str) -> Json:
    decoded: Json = msgspec.json.decode(document)
    return decoded
