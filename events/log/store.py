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
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from events.envelope import LARGEST_RECORD, Event, UnreadableEvent, decode, decode_many, encode, type_of
from events.log.engines import is_database_trouble, reading, violates
from events.log.errors import DuplicateEvent, EventTooLarge, LogError, NestedWrite, StreamConflict
from events.log.schema import APPEND_ONLY_SQLITE, metadata, verify_version

_INSERT_SQLITE = "INSERT INTO events (id, stream, version, type, record) VALUES (?, ?, ?, ?, ?)"
# Binary (%b) arrays: as text, psycopg escapes every quote of every document in Python, four times the cost of it all.
_INSERT_POSTGRESQL = """
    WITH ordered AS MATERIALIZED (SELECT pg_advisory_xact_lock(%s))
    INSERT INTO events (id, stream, version, type, record)
    SELECT d.id, d.stream, d.version, d.type, d.record
    FROM ordered, unnest(%b::text[], %b::text[], %b::int[], %b::text[], %b::text[])
         WITH ORDINALITY AS d(id, stream, version, type, record, n)
    WHERE NOT EXISTS (
        SELECT 1 FROM unnest(%b::text[], %b::int[]) AS a(stream, version)
        WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.stream = a.stream AND e.version = a.version))
    ORDER BY d.n
"""
# A maximum per stream is one step down the index; GROUP BY would walk every version of every stream.
_STREAM_VERSIONS = "SELECT s.value, (SELECT max(version) FROM events WHERE stream = s.value) FROM "
_STREAM_VERSIONS_SQLITE = _STREAM_VERSIONS + "json_each(?) AS s"
_STREAM_VERSIONS_POSTGRESQL = _STREAM_VERSIONS + "unnest(%b::text[]) AS s(value)"


@dataclass(frozen=True)
class Exact:
    """The stream must be at this version now; 0 means it must not exist yet."""

    version: int


class AnyVersion:
    """Append after whatever is there."""


NO_STREAM = Exact(0)
ANY_VERSION = AnyVersion()
Expected = Exact | AnyVersion


@dataclass
class Writing:
    """One write transaction on a service's database: everything in it commits together or not at all."""

    log: "EventLog"
    connection: sa.Connection
    after_commit: list[Callable[[], None]] = field(default_factory=list)
    put_off: dict[str, Any] = field(default_factory=dict)
    """By whom: what is written once for many events of this transaction, right before it commits, by its `write(tx)`."""
    refused: LogError | None = None

    def append(
        self, drafts: Sequence[Event], expected: Expected | Mapping[str, Expected] = ANY_VERSION
    ) -> tuple[Event, ...]:
        """Appends in order, giving each draft its stream version. Raises StreamConflict or DuplicateEvent, after which
        the transaction cannot commit any more, even if somebody swallows the refusal."""
        try:
            if self.log._writers_key != self.log._lock_key:
                self.log._lock(self.connection, self.log._lock_key)
            current = None
            if not self.log._insert_checks(drafts, expected):
                current = self.stream_versions(draft.stream for draft in drafts)
            appended = self.log._versioned(drafts, expected, current)
            self.log._insert(self.connection, appended)
        except LogError as refused:
            self.refused = refused
            raise
        self.after_commit.append(lambda: self.log._tell_of(appended))
        return appended

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """What is done inside counts for nothing if it raises; the transaction itself can go on."""
        self.settle()
        told_before = len(self.after_commit)
        try:
            with self.connection.begin_nested():
                yield
                self.settle()
        except BaseException:
            self.refused = None
            self.put_off.clear()
            del self.after_commit[told_before:]
            raise

    def settle(self) -> None:
        """Writes what was put off."""
        due, self.put_off = self.put_off, {}
        for one in due.values():
            one.write(self)

    def stream_version(self, stream: str) -> int:
        """Version of the last event of `stream`, 0 if there is none."""
        return self.stream_versions([stream])[stream]

    def stream_versions(self, streams: Iterable[str]) -> dict[str, int]:
        """The same for many streams at once."""
        return self.log._stream_versions(self.connection, list(dict.fromkeys(streams)))

    def read_stream(self, stream: str, after: int = 0) -> list[Event]:
        return _read_stream(self.connection, stream, after)


@dataclass(eq=False)
class _Append:
    """One caller of `EventLog.append` waiting for its commit."""

    drafts: Sequence[Event]
    expected: Expected | Mapping[str, Expected]
    turn: threading.Event = field(default_factory=threading.Event)
    """Set when it is settled, or when it is first in the queue and has to commit for everybody."""
    appended: tuple[Event, ...] | None = None
    refused: Exception | None = None

    @property
    def settled(self) -> bool:
        return self.appended is not None or self.refused is not None


_READ_STREAM = sa.text("SELECT record FROM events WHERE stream = :stream AND version > :after ORDER BY version")
_READ_ALL = sa.text("SELECT position, record FROM events WHERE position > :after ORDER BY position LIMIT :limit")
_FIND = sa.text("SELECT record FROM events WHERE id = :id")
_ID_AT = sa.text("SELECT id FROM events WHERE position = :position")
_HEAD = sa.text("SELECT coalesce(max(position), 0) FROM events")


class EventLog:
    """The log of one service and the transaction everything of that service commits in.

    `source` names the service; it is also the key of the advisory lock on PostgreSQL. `migrated_to` is the schema version
    this release needs where `haven migrate` makes the tables; without it the log makes its own. `writers` names another lock
    for transactions that mostly write beside the log: they let in one at a time of their own kind, and keep no append of
    others waiting unless they append themselves. Safe for use from many threads.
    """

    def __init__(
        self, engine: sa.Engine, source: str, migrated_to: int | None = None, writers: str | None = None
    ) -> None:
        self.engine = engine
        self.source = source
        self._migrated_to = migrated_to
        self._on_sqlite = engine.dialect.name == "sqlite"
        self._lock_key = zlib.crc32(source.encode())
        self._writers_key = zlib.crc32((writers or source).encode())
        self._write_engine = engine.execution_options(haven_writes=True)
        self._autocommit_engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        # The database lets one writer in at a time. Queueing for that here costs no connection, hands over at once
        # (SQLite's own busy wait sleeps up to 100 ms between tries) and lets a queue of appends share one commit.
        self._one_writer = threading.Lock()
        self._writing_thread: int | None = None
        self.keeps_out: sa.Connection | None = None  # events/log/alone.py
        self._queue: list[_Append] = []
        self._queue_guard = threading.Lock()
        self.listeners: list[Callable[[], None]] = []
        """Called after every commit in this process: a hint to look, never the truth."""
        self.observers: list[Callable[[Sequence[Event]], None]] = []
        """Told, after the commit and in the thread that wrote, what one append brought; for metrics and traces, which are
        never the truth either. They must not raise: what they are told of has happened."""

    def create_schema(self, *extra: sa.MetaData) -> None:
        """Creates what is missing; needs the owner's rights on PostgreSQL. Where `haven migrate` makes the tables it only
        checks that they are of this release, and raises SchemaMismatch if not."""
        if self._migrated_to is not None:
            self.verify_schema(self._migrated_to)
            return
        with self.writing() as tx:
            for tables in (metadata, *extra):
                tables.create_all(tx.connection)
            if self._on_sqlite:
                for change in ("UPDATE", "DELETE"):
                    tx.connection.exec_driver_sql(APPEND_ONLY_SQLITE.format(change=change))

    def verify_schema(self, version: int) -> None:
        """Raises SchemaMismatch unless `haven migrate` brought this log's schema to `version`. Needs no right but to read."""
        verify_version(self.engine, version)

    @contextmanager
    def writing(self) -> Iterator[Writing]:
        """The one write transaction at a time on this log: whatever is read in it cannot change before it commits.

        Raises NestedWrite when this thread is in one already."""
        with self._alone(), self._transaction() as tx:
            yield tx
        self._committed(tx.after_commit)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._refuse_nested_write()
        with self._one_writer:
            self._writing_thread = threading.get_ident()
            try:
                yield
            finally:
                self._writing_thread = None

    def _refuse_nested_write(self) -> None:
        if self._writing_thread == threading.get_ident():
            raise NestedWrite(self.source)

    @contextmanager
    def _transaction(self) -> Iterator[Writing]:
        with self._write_engine.begin() as connection:
            if self.keeps_out is None:
                self._lock(connection, self._writers_key)
            else:
                self.keeps_out.exec_driver_sql("SELECT")  # fails if its session is gone, and with it the lock
            tx = Writing(self, connection)
            yield tx
            tx.settle()
            # After a refusal SQLite would commit half an append, and PostgreSQL would turn COMMIT into ROLLBACK silently.
            if tx.refused:
                raise tx.refused

    def _lock(self, connection: sa.Connection, key: int) -> None:
        if not self._on_sqlite:
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (key,))

    def _committed(self, after_commit: Iterable[Callable[[], None]] = ()) -> None:
        for tell in (*after_commit, *self.listeners):
            tell()

    def _tell_of(self, appended: Sequence[Event]) -> None:
        for observe in self.observers if appended else ():
            observe(appended)

    def append(
        self, drafts: Sequence[Event], expected: Expected | Mapping[str, Expected] = ANY_VERSION
    ) -> tuple[Event, ...]:
        """Appends in a transaction of its own; durable when it returns. One round trip on PostgreSQL when every
        expected version is exact. Raises StreamConflict, DuplicateEvent or NestedWrite."""
        self._refuse_nested_write()
        mine = _Append(drafts, expected)
        with self._queue_guard:
            self._queue.append(mine)
            leads = self._queue[0] is mine
        try:
            if not leads:
                mine.turn.wait()
            if not mine.settled:
                with self._alone():
                    # Whoever queued up meanwhile comes along: one transaction, one wait for the disk.
                    with self._queue_guard:
                        group = tuple(self._queue)
                    self._commit(group)
        finally:  # even when interrupted: the next in the queue must be told that it leads
            self._leave_queue(mine)
        if mine.appended is None:
            raise mine.refused or AssertionError("an append is either done or refused")
        self._tell_of(mine.appended)
        self._committed()
        return mine.appended

    def _leave_queue(self, mine: _Append) -> None:
        with self._queue_guard:
            leaving = [one for one in self._queue if one is mine or one.settled]
            self._queue = [one for one in self._queue if one not in leaving]
            told = [*leaving, *self._queue[:1]]
        for one in told:
            one.turn.set()

    def _commit(self, group: Sequence[_Append]) -> None:
        try:
            if self._needs_no_reading(group):
                with self._autocommit_engine.connect() as connection:
                    appended = self._append_all(connection, group, None)
            else:
                with self._transaction() as tx:
                    current = tx.stream_versions(draft.stream for one in group for draft in one.drafts)
                    appended = self._append_all(tx.connection, group, current)
        except Exception as refused:  # noqa: BLE001 - raised again in the thread of the append it belongs to
            if len(group) == 1 or is_database_trouble(refused):
                # A connection that breaks at COMMIT leaves open whether it took place: a second try could tell somebody
                # that their event was refused when it is in the log.
                for one in group:
                    one.refused = refused
                return
            for one in group:  # nothing is in the log yet; find whose fault it was
                self._commit([one])
            return
        for one, done in zip(group, appended, strict=True):
            one.appended = done

    def _needs_no_reading(self, group: Sequence[_Append]) -> bool:
        """On PostgreSQL, when all expect an exact version and none builds on another: one statement says it all."""
        touched = [{draft.stream for draft in one.drafts} for one in group]
        return sum(map(len, touched)) == len(set().union(*touched)) and all(
            self._insert_checks(one.drafts, one.expected) for one in group
        )

    def _insert_checks(self, drafts: Sequence[Event], expected: Expected | Mapping[str, Expected]) -> bool:
        """Whether the insert itself refuses what does not follow on the versions expected."""
        return not self._on_sqlite and all(isinstance(_expected_of(d.stream, expected), Exact) for d in drafts)

    def _append_all(
        self, connection: sa.Connection, group: Sequence[_Append], current: dict[str, int] | None
    ) -> list[tuple[Event, ...]]:
        appended = []
        for one in group:
            versioned = self._versioned(one.drafts, one.expected, current)
            if current is not None:
                current.update((event.stream, event.version) for event in versioned)
            appended.append(versioned)
        self._insert(connection, [event for versioned in appended for event in versioned])
        return appended

    def _versioned(
        self,
        drafts: Sequence[Event],
        expected: Expected | Mapping[str, Expected],
        current: Mapping[str, int] | None,
    ) -> tuple[Event, ...]:
        """Gives each draft its version. Without `current` versions the insert itself has to check them."""
        last: dict[str, int] = {}
        appended = []
        for draft in drafts:
            if draft.stream not in last:
                last[draft.stream] = _starting_version(draft.stream, expected, current)
            last[draft.stream] += 1
            appended.append(msgspec.structs.replace(draft, version=last[draft.stream], source=self.source))
        return tuple(appended)

    def _stream_versions(self, connection: sa.Connection, streams: list[str]) -> dict[str, int]:
        if self._on_sqlite:
            rows = connection.exec_driver_sql(_STREAM_VERSIONS_SQLITE, (msgspec.json.encode(streams).decode(),))
        else:
            rows = connection.exec_driver_sql(_STREAM_VERSIONS_POSTGRESQL, (streams,))
        return {stream: version or 0 for stream, version in rows}

    def _insert(self, connection: sa.Connection, appended: Sequence[Event]) -> None:
        if not appended:
            return
        rows = [(e.id, e.stream, e.version, type_of(e), encode(e)) for e in appended]
        for event, (*_, record) in zip(appended, rows, strict=True):
            # A character takes four bytes at the most: only what comes near is counted.
            if 4 * len(record) > LARGEST_RECORD and (size := len(record.encode())) > LARGEST_RECORD:
                raise EventTooLarge(event, size)
        if self._on_sqlite:
            self._insert_or_refuse(connection, _INSERT_SQLITE, rows, appended)
            return
        # The event before the first of each stream must be there: a version further on would leave a gap.
        before: dict[str, int] = {}
        for event in appended:
            before.setdefault(event.stream, event.version - 1)
        before = {stream: version for stream, version in before.items() if version > 0}
        columns = [list(column) for column in zip(*rows, strict=True)]
        parameters = (self._lock_key, *columns, list(before), list(before.values()))
        if self._insert_or_refuse(connection, _INSERT_POSTGRESQL, parameters, appended) != len(appended):
            raise StreamConflict(before)

    def _insert_or_refuse(
        self, connection: sa.Connection, statement: str, parameters: Any, appended: Sequence[Event]
    ) -> int:
        try:
            return connection.exec_driver_sql(statement, parameters).rowcount
        except IntegrityError as refused:
            if violates(refused, "one_event_per_id", "events.id"):
                raise DuplicateEvent(e.id for e in appended) from None
            raise StreamConflict(e.stream for e in appended) from None

    def read_stream(self, stream: str, after: int = 0) -> list[Event]:
        """Events of one stream in version order. Raises `msgspec.ValidationError` if one is of a newer release."""
        with reading(self.engine) as connection:
            return _read_stream(connection, stream, after)

    def read_all(self, after: int = 0, limit: int = 500) -> list[tuple[int, Event | UnreadableEvent]]:
        """Events of every stream by position, which is commit order; positions ascend but may have gaps."""
        with reading(self.engine) as connection:
            rows = connection.execute(_READ_ALL, {"after": after, "limit": limit}).all()
        try:
            return list(zip([row[0] for row in rows], decode_many([row[1] for row in rows]), strict=True))
        except msgspec.ValidationError:
            return [(row[0], decode(row[1])) for row in rows]

    def find(self, event_id: str) -> Event | UnreadableEvent | None:
        with reading(self.engine) as connection:
            record = connection.scalar(_FIND, {"id": event_id})
        return None if record is None else decode(record)

    def id_at(self, position: int) -> str | None:
        """Id of the event at `position`; None if there is none."""
        with reading(self.engine) as connection:
            found: str | None = connection.scalar(_ID_AT, {"position": position})
        return found

    def head(self) -> int:
        """Position of the last event, 0 when empty."""
        with reading(self.engine) as connection:
            return int(connection.scalar(_HEAD))


def _read_stream(connection: sa.Connection, stream: str, after: int) -> list[Event]:
    rows = connection.execute(_READ_STREAM, {"stream": stream, "after": after}).all()
    return decode_many([row[0] for row in rows])


def _expected_of(stream: str, expected: Expected | Mapping[str, Expected]) -> Expected:
    return expected.get(stream, ANY_VERSION) if isinstance(expected, Mapping) else expected


def _starting_version(
    stream: str, expected: Expected | Mapping[str, Expected], current: Mapping[str, int] | None
) -> int:
    match _expected_of(stream, expected):
        case Exact(version) if current is None or current[stream] == version:
            return version
        case AnyVersion() if current is not None:
            return current[stream]
    raise StreamConflict([stream])
