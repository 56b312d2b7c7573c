"""The append-only log of one service, on SQLite or PostgreSQL.

Position order is commit order on both: SQLite has one writer; on PostgreSQL every append takes one advisory lock before
its first position is drawn and keeps it until commit. Without it, a reader that follows by position would step over a
row whose transaction commits late and lose it for ever (docs/adr/0003).
"""

import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from events.envelope import Event, UnreadableEvent, decode, decode_many, encode, type_of

metadata = sa.MetaData()

events = sa.Table(
    "events",
    metadata,
    sa.Column(
        "position",
        sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
        sa.Identity(always=True),
        primary_key=True,
    ),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("stream", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.UniqueConstraint("stream", "version", name="one_event_per_stream_version"),
    sa.UniqueConstraint("id", name="one_event_per_id"),
    sa.CheckConstraint("version > 0", name="versions_start_at_one"),
)

inbox = sa.Table(
    "inbox",
    metadata,
    sa.Column("consumer", sa.Text, primary_key=True),
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("stream", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)

parked = sa.Table(
    "parked",
    metadata,
    sa.Column("consumer", sa.Text, primary_key=True),
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("stream", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
)

cursors = sa.Table(
    "cursors",
    metadata,
    sa.Column("consumer", sa.Text, primary_key=True),
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
)

timers = sa.Table(
    "timers",
    metadata,
    sa.Column("stream", sa.Text, primary_key=True),
    sa.Column("due_at", sa.Text, nullable=False, index=True),
)

_APPEND_ONLY_SQLITE = (
    "CREATE TRIGGER IF NOT EXISTS events_are_never_changed BEFORE UPDATE ON events "
    "BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END",
    "CREATE TRIGGER IF NOT EXISTS events_are_never_removed BEFORE DELETE ON events "
    "BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END",
)

_APPEND_POSTGRESQL = sa.text(
    """
    WITH ordered AS MATERIALIZED (SELECT pg_advisory_xact_lock(:lock))
    INSERT INTO events (id, stream, version, type, record)
    SELECT d.id, d.stream, d.version, d.type, d.record
    FROM ordered, unnest(CAST(:ids AS text[]), CAST(:streams AS text[]), CAST(:versions AS int[]),
                         CAST(:types AS text[]), CAST(:records AS text[]))
         WITH ORDINALITY AS d(id, stream, version, type, record, n)
    WHERE NOT EXISTS (
        SELECT 1 FROM unnest(CAST(:after_streams AS text[]), CAST(:after_versions AS int[])) AS a(stream, version)
        WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.stream = a.stream AND e.version = a.version))
    ORDER BY d.n
    """
)


@dataclass(frozen=True)
class Exact:
    """The stream must be at this version now; 0 means it must not exist yet."""

    version: int


class AnyVersion:
    """Append after whatever is there."""


NO_STREAM = Exact(0)
ANY_VERSION = AnyVersion()
Expected = Exact | AnyVersion


class LogError(Exception):
    """Root of what the log refuses.

    LogError
     +-- StreamConflict   somebody else appended first: read the stream again and decide again
     +-- DuplicateEvent   this very event is in the log already: nothing more to do
    """


class StreamConflict(LogError):
    def __init__(self, streams: Iterable[str]) -> None:
        self.streams = tuple(streams)
        super().__init__(f"another append came first on {', '.join(self.streams)}; read again and decide again")


class DuplicateEvent(LogError):
    def __init__(self, event_ids: Iterable[str]) -> None:
        self.event_ids = tuple(event_ids)
        super().__init__(f"already in the log: {', '.join(self.event_ids)}")


@dataclass
class Writing:
    """One write transaction on a service's database: everything in it commits together or not at all."""

    log: "EventLog"
    connection: sa.Connection
    after_commit: list[Callable[[], None]] = field(default_factory=list)

    def append(
        self, drafts: Sequence[Event], expected: Expected | Mapping[str, Expected] = ANY_VERSION
    ) -> tuple[Event, ...]:
        """Appends in order, giving each draft its stream version. Raises StreamConflict or DuplicateEvent."""
        appended = self.log._versioned(drafts, expected, self.stream_version)
        self.log._insert(self.connection, appended)
        return appended

    def stream_version(self, stream: str) -> int:
        """Version of the last event of `stream`, 0 if there is none."""
        return int(self.connection.scalar(_STREAM_VERSION, {"stream": stream}))

    def read_stream(self, stream: str, after: int = 0) -> list[Event]:
        return _read_stream(self.connection, stream, after)


_STREAM_VERSION = sa.text("SELECT coalesce(max(version), 0) FROM events WHERE stream = :stream")
_READ_STREAM = sa.text("SELECT record FROM events WHERE stream = :stream AND version > :after ORDER BY version")
_READ_ALL = sa.text("SELECT position, record FROM events WHERE position > :after ORDER BY position LIMIT :limit")
_FIND = sa.text("SELECT record FROM events WHERE id = :id")
_HEAD = sa.text("SELECT coalesce(max(position), 0) FROM events")


class EventLog:
    """The log of one service and the transaction everything of that service commits in.

    `source` names the service; it is also the key of the advisory lock on PostgreSQL. Safe for use from many threads.
    """

    def __init__(self, engine: sa.Engine, source: str) -> None:
        self.engine = engine
        self.source = source
        self._on_sqlite = engine.dialect.name == "sqlite"
        self._lock_key = zlib.crc32(source.encode())
        # SQLite's own busy wait sleeps up to 100 ms between tries; queueing here hands the one writer over at once.
        self._one_writer: threading.Lock | None = threading.Lock() if self._on_sqlite else None
        self.listeners: list[Callable[[], None]] = []
        """Called after every commit in this process: a hint to look, never the truth."""

    def create_schema(self, *extra: sa.MetaData) -> None:
        """Creates what is missing; needs the owner's rights on PostgreSQL."""
        with self.writing() as tx:
            for tables in (metadata, *extra):
                tables.create_all(tx.connection)
            if self._on_sqlite:
                for trigger in _APPEND_ONLY_SQLITE:
                    tx.connection.exec_driver_sql(trigger)

    def grant_service_role(self, role: str) -> None:
        """PostgreSQL: gives `role` what the service may do. History can be added to and read, never changed."""
        quoted = self.engine.dialect.identifier_preparer.quote(role)
        with self.engine.begin() as connection:
            tables = set(sa.inspect(connection).get_table_names())
            connection.exec_driver_sql(f"REVOKE ALL ON events FROM {quoted}, PUBLIC")
            connection.exec_driver_sql(f"GRANT SELECT, INSERT ON events TO {quoted}")
            for table in sorted(tables - {"events"}):
                connection.exec_driver_sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {quoted}")

    @contextmanager
    def writing(self) -> Iterator[Writing]:
        """The one write transaction at a time on this log: whatever is read in it cannot change before it commits."""
        if self._one_writer:
            self._one_writer.acquire()
        try:
            with self.engine.connect().execution_options(haven_writes=True) as connection, connection.begin():
                if not self._on_sqlite:
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({self._lock_key})")
                tx = Writing(self, connection)
                yield tx
        finally:
            if self._one_writer:
                self._one_writer.release()
        self._committed(tx.after_commit)

    def _committed(self, after_commit: Iterable[Callable[[], None]] = ()) -> None:
        for tell in (*after_commit, *self.listeners):
            tell()

    def append(
        self, drafts: Sequence[Event], expected: Expected | Mapping[str, Expected] = ANY_VERSION
    ) -> tuple[Event, ...]:
        """Appends in a transaction of its own; durable when it returns. One round trip on PostgreSQL when every
        expected version is exact. Raises StreamConflict or DuplicateEvent."""
        if self._on_sqlite or not _all_exact(drafts, expected):
            with self.writing() as tx:
                return tx.append(drafts, expected)
        appended = self._versioned(drafts, expected, lambda _: -1)
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            self._insert(connection, appended)
        self._committed()
        return appended

    def _versioned(
        self,
        drafts: Sequence[Event],
        expected: Expected | Mapping[str, Expected],
        current_version: Callable[[str], int],
    ) -> tuple[Event, ...]:
        last: dict[str, int] = {}
        appended = []
        for draft in drafts:
            if draft.stream not in last:
                last[draft.stream] = _starting_version(draft.stream, expected, current_version)
            last[draft.stream] += 1
            appended.append(msgspec.structs.replace(draft, version=last[draft.stream], source=self.source))
        return tuple(appended)

    def _insert(self, connection: sa.Connection, appended: Sequence[Event]) -> None:
        if not appended:
            return
        try:
            if self._on_sqlite:
                connection.exec_driver_sql(
                    "INSERT INTO events (id, stream, version, type, record) VALUES (?, ?, ?, ?, ?)",
                    [(e.id, e.stream, e.version, type_of(e), encode(e)) for e in appended],
                )
                return
            firsts: dict[str, int] = {}
            for event in appended:
                firsts.setdefault(event.stream, event.version)
            after = {stream: version - 1 for stream, version in firsts.items() if version > 1}
            inserted = connection.execute(
                _APPEND_POSTGRESQL,
                {
                    "lock": self._lock_key,
                    "ids": [e.id for e in appended],
                    "streams": [e.stream for e in appended],
                    "versions": [e.version for e in appended],
                    "types": [type_of(e) for e in appended],
                    "records": [encode(e) for e in appended],
                    "after_streams": list(after),
                    "after_versions": list(after.values()),
                },
            ).rowcount
        except IntegrityError as refused:
            if _names_event_id(refused):
                raise DuplicateEvent(e.id for e in appended) from None
            raise StreamConflict({e.stream: None for e in appended}) from None
        if inserted != len(appended):
            raise StreamConflict(after)

    def read_stream(self, stream: str, after: int = 0) -> list[Event]:
        """Events of one stream in version order. Raises `msgspec.ValidationError` if one is of a newer release."""
        with self.engine.connect() as connection:
            return _read_stream(connection, stream, after)

    def read_all(self, after: int = 0, limit: int = 500) -> list[tuple[int, Event | UnreadableEvent]]:
        """Events of every stream by position, which is commit order; positions ascend but may have gaps."""
        with self.engine.connect() as connection:
            rows = connection.execute(_READ_ALL, {"after": after, "limit": limit}).all()
        try:
            return list(zip([row[0] for row in rows], decode_many([row[1] for row in rows]), strict=True))
        except msgspec.ValidationError:
            return [(row[0], decode(row[1])) for row in rows]

    def find(self, event_id: str) -> Event | UnreadableEvent | None:
        with self.engine.connect() as connection:
            record = connection.scalar(_FIND, {"id": event_id})
        return None if record is None else decode(record)

    def head(self) -> int:
        """Position of the last event, 0 when empty."""
        with self.engine.connect() as connection:
            return int(connection.scalar(_HEAD))


def _read_stream(connection: sa.Connection, stream: str, after: int) -> list[Event]:
    return decode_many(list(connection.scalars(_READ_STREAM, {"stream": stream, "after": after})))


def _expected_of(stream: str, expected: Expected | Mapping[str, Expected]) -> Expected:
    return expected.get(stream, ANY_VERSION) if isinstance(expected, Mapping) else expected


def _all_exact(drafts: Sequence[Event], expected: Expected | Mapping[str, Expected]) -> bool:
    return all(isinstance(_expected_of(draft.stream, expected), Exact) for draft in drafts)


def _starting_version(
    stream: str, expected: Expected | Mapping[str, Expected], current_version: Callable[[str], int]
) -> int:
    wanted = _expected_of(stream, expected)
    current = current_version(stream)
    if isinstance(wanted, AnyVersion):
        return current
    if current not in (wanted.version, -1):
        raise StreamConflict([stream])
    return wanted.version


def _names_event_id(refused: IntegrityError) -> bool:
    message = str(refused.orig)
    return "one_event_per_id" in message or "events.id" in message


def sqlite_engine(path: str) -> sa.Engine:
    """An engine on one SQLite file (or `:memory:`) with the settings the log's promises need.

    WAL with `synchronous=FULL`: a commit is on disk before it returns. `BEGIN IMMEDIATE` for writers, because a deferred
    transaction that upgrades fails at once with BUSY whatever the time-out.
    """
    in_memory = path == ":memory:"
    engine = sa.create_engine(
        "sqlite://" if in_memory else f"sqlite:///{path}",
        connect_args={"check_same_thread": False, "timeout": 30},
        poolclass=sa.StaticPool if in_memory else sa.QueuePool,
        **({} if in_memory else {"pool_size": 8, "max_overflow": 64}),
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection, _record):  # type: ignore[no-untyped-def]
        connection.isolation_level = None  # pysqlite would open deferred transactions of its own
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(
            "BEGIN IMMEDIATE" if connection.get_execution_options().get("haven_writes") else "BEGIN"
        )

    return engine


def postgresql_engine(url: str) -> sa.Engine:
    """An engine on PostgreSQL; a dead connection is noticed before it is used."""
    return sa.create_engine(url, pool_pre_ping=False, pool_size=8, max_overflow=64)
