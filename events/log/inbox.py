"""Consuming each event of another log exactly once, in stream order, whatever the transport does.

The inbox remembers, per consumer and stream, the last version handled. That memory, the effects of handling and (when
following by position) the cursor commit in one transaction of the consumer's own database. So a second copy is a no-op,
a crash between any two commits repeats nothing and skips nothing, and an event that comes early waits for the one before.

What cannot be handled is parked with its reason, together with everything after it on the same stream; other streams
go on. `retry_parked` takes them up again in order, after an upgrade or a repair.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any

import msgspec
import sqlalchemy as sa

from events.envelope import Event, UnreadableEvent, decode, encode, wire_name
from events.log.engines import is_database_trouble, reading
from events.log.schema import cursors, inbox, parked
from events.log.store import EventLog, Writing

logger = logging.getLogger(__name__)

Incoming = Event | UnreadableEvent


class Delivery(StrEnum):
    HANDLED = "handled"
    DUPLICATE = "duplicate"
    PARKED = "parked"


class ParkReason(StrEnum):
    EARLY = "early"
    """An earlier event of the stream has not arrived yet; handled by itself as soon as it has."""
    UNREADABLE = "unreadable"
    """Written by a newer release."""
    FAILED = "failed"
    """Handling it raised, again and again, or did not come back."""
    FORKED = "forked"
    """Another event than the one handled under this version: the source went back to a backup. A person decides."""
    BEHIND = "behind"
    """Something before it on the stream is parked."""


class ParkedEvent(msgspec.Struct, frozen=True, kw_only=True):
    source: str
    stream: str
    version: int
    reason: ParkReason


# What is remembered of many streams at once: a run of messages touches several, and each statement is a round trip.
_RECALL = """
    SELECT s.source, s.stream, i.version, i.event_id,
           (SELECT min(p.version) FROM parked p
            WHERE p.consumer = {consumer} AND p.source = s.source AND p.stream = s.stream)
    FROM s LEFT JOIN inbox i ON i.consumer = {consumer} AND i.source = s.source AND i.stream = s.stream
"""
# Not by way of JSON on SQLite: it ends a name at a zero byte.
_RECALL_SQLITE = "WITH s(source, stream) AS (VALUES {values}) " + _RECALL.format(consumer="?1")
_RECALL_POSTGRESQL = "WITH s AS (SELECT * FROM unnest(%(sources)b::text[], %(streams)b::text[]) AS s(source, stream)) "
_RECALL_POSTGRESQL += _RECALL.format(consumer="%(consumer)s")
_REMEMBER = sa.text(
    "INSERT INTO inbox (consumer, source, stream, version, event_id) "
    "VALUES (:consumer, :source, :stream, :version, :event_id) "
    "ON CONFLICT (consumer, source, stream) DO UPDATE SET version = excluded.version, event_id = excluded.event_id"
)
_CURSOR = sa.text("SELECT position, event_id FROM cursors WHERE consumer = :consumer AND source = :source")
_CURSORS = sa.text("SELECT source, position FROM cursors WHERE consumer = :consumer")
_MOVE_CURSOR = sa.text(
    "INSERT INTO cursors (consumer, source, position, event_id) VALUES (:consumer, :source, :position, :event_id) "
    "ON CONFLICT (consumer, source) DO UPDATE SET position = excluded.position, event_id = excluded.event_id "
    "WHERE cursors.position < excluded.position"
)
_ADVANCE_CURSOR = sa.text(
    "UPDATE cursors SET position = :position, event_id = :event_id "
    "WHERE consumer = :consumer AND source = :source AND position >= :start AND position < :position"
)
_RESET_CURSOR = sa.text(
    "UPDATE cursors SET position = 0, event_id = '' WHERE consumer = :consumer AND source = :source"
)
_PARK = sa.text(
    "INSERT INTO parked (consumer, source, stream, version, reason, record) "
    "VALUES (:consumer, :source, :stream, :version, :reason, :record) "
    "ON CONFLICT (consumer, source, stream, version) DO NOTHING"
)
_FIRST_PARKED = sa.text(
    "SELECT version, reason, record FROM parked "
    "WHERE consumer = :consumer AND source = :source AND stream = :stream ORDER BY version LIMIT 1"
)
_UNPARK = sa.text(
    "DELETE FROM parked WHERE consumer = :consumer AND source = :source AND stream = :stream AND version = :version"
)
_MARK_FAILED = sa.text(
    "UPDATE parked SET reason = 'failed' "
    "WHERE consumer = :consumer AND source = :source AND stream = :stream AND version = :version"
)
_ALL_PARKED = sa.text(
    "SELECT source, stream, version, reason FROM parked WHERE consumer = :consumer ORDER BY source, stream, version"
)


@dataclass
class _Memory:
    """What a consumer knows of one stream: the event handled last, and the first that is parked."""

    source: str
    stream: str
    version: int
    event_id: str
    first_parked: int | None
    changed: bool = False

    def handled(self, event: Event) -> None:
        self.version, self.event_id, self.changed = event.version, event.id, True


class Consumer:
    """One named reader of other logs, with what it does about each event.

    `handle` runs inside the write transaction of the consumer's own log and must do everything through it. Exceptions
    roll everything back, the memory of having seen the event included. `on_parked` is told, in that transaction, of every
    event that is set aside, and of the type of error when that is why. `acts_on` names what it does something about, None
    for everything: the rest may wait for company, and is handed to `handle` all the same.
    """

    def __init__(
        self,
        name: str,
        log: EventLog,
        handle: Callable[[Writing, Event], None],
        acts_on: Iterable[type] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.handle = handle
        self.acts_on = None if acts_on is None else frozenset(map(wire_name, acts_on))
        self.on_parked: Callable[[Writing, Incoming, ParkReason, str], None] = lambda *_what: None

    def position(self, source: str) -> int:
        """Where this consumer stands in `source`'s log, when it follows by position."""
        return self.bookmark(source)[0]

    def positions(self) -> dict[str, int]:
        """The same of every source it has begun with."""
        with reading(self.log.engine) as connection:
            return {row.source: row.position for row in connection.execute(_CURSORS, {"consumer": self.name})}

    def bookmark(self, source: str) -> tuple[int, str]:
        """The position and the id of the event last taken from `source`; (0, "") before the first."""
        with reading(self.log.engine) as connection:
            row = connection.execute(_CURSOR, {"consumer": self.name, "source": source}).first()
        return (0, "") if row is None else (int(row.position), row.event_id)

    def deliver(self, incoming: Incoming, position: int | None = None) -> Delivery:
        """Handles one event, once. Raises whatever handling raised, with nothing changed."""
        return self.deliver_batch([(position, incoming)])[0]

    def deliver_batch(self, batch: Sequence[tuple[int | None, Incoming]]) -> list[Delivery]:
        """Handles a run of events of one source in one transaction: all of them count, or none."""
        with self.log.writing() as tx:
            deliveries = self.take_run(tx, [incoming for _, incoming in batch])
            position, last = batch[-1]
            if position is not None:
                self.move_cursor(tx, last.source, position, last.id)
        return deliveries

    def park_failed(self, incoming: Incoming, position: int | None = None) -> None:
        """Sets an event aside whose handling keeps failing, so that other streams go on."""
        with self.log.writing() as tx:
            self.set_aside(tx, incoming)
            if position is not None:
                self.move_cursor(tx, incoming.source, position, incoming.id)

    def set_aside(self, tx: Writing, incoming: Incoming, error: str = "") -> None:
        """Parks an event as failed, unless somebody has handled it since."""
        if incoming.version > self._last(tx, incoming.source, incoming.stream):
            self._park(tx, incoming, ParkReason.FAILED, error)

    def forget(self, tx: Writing) -> None:
        """Starts over: for a consumer whose every effect is dropped in the same transaction and built again."""
        for memory in (inbox, parked, cursors):
            tx.connection.execute(sa.delete(memory).where(memory.c.consumer == self.name))

    def parked(self) -> list[ParkedEvent]:
        with reading(self.log.engine) as connection:
            rows = connection.execute(_ALL_PARKED, {"consumer": self.name}).all()
        return [ParkedEvent(source=row[0], stream=row[1], version=row[2], reason=ParkReason(row[3])) for row in rows]

    def retry_parked(self) -> int:
        """Takes every parked stream up again, in order, until an event still cannot be read or handled: from there the
        stream stays parked (`parked` shows it). Returns how many were handled."""
        handled = 0
        for source, stream in sorted({(p.source, p.stream) for p in self.parked()}):
            try:
                while self.retry_next(source, stream):
                    handled += 1
            except Exception as failure:
                if is_database_trouble(failure):
                    raise
                # It stays parked; the other streams have their turn.
                logger.error("still failing consumer=%s stream=%s error=%s", self.name, stream, type(failure).__name__)
        return handled

    def retry_next(self, source: str, stream: str) -> bool:
        """Takes up the first parked event of one stream; False when there is none whose turn it is. Raises what handling
        it raised."""
        with self.log.writing() as tx:
            event = self.next_parked(tx, source, stream)
            if event is None:
                return False
            self._take_up(tx, event)
        return True

    def try_parked(self, tx: Writing, event: Event) -> bool:
        """Takes up what `next_parked` gave; whether it was handled. Otherwise it stays parked, as failed, and has changed
        nothing else. Raises only when the database failed."""
        try:
            with tx.attempt():
                self._take_up(tx, event)
        except Exception as failure:
            if is_database_trouble(failure):
                raise
            key = self._key(event.source, event.stream) | {"version": event.version}
            tx.connection.execute(_MARK_FAILED, key)
            self.on_parked(tx, event, ParkReason.FAILED, type(failure).__name__)
            return False
        return True

    def next_parked(self, tx: Writing, source: str, stream: str, *reasons: ParkReason) -> Event | None:
        """The first parked event of a stream, if this release reads it and its turn has come; None if not, or if it is
        parked for none of `reasons`."""
        first = self._first_parked(tx, source, stream)
        if first is None or first.version != self._last(tx, source, stream) + 1:
            return None
        if reasons and first.reason not in reasons:
            return None
        event = decode(first.record)
        return None if isinstance(event, UnreadableEvent) else event

    def move_cursor(self, tx: Writing, source: str, position: int, event_id: str) -> None:
        """Remembers having taken everything of `source` up to `position`; never back, so a straggler's word is void."""
        tx.connection.execute(
            _MOVE_CURSOR,
            {"consumer": self.name, "source": source, "position": position, "event_id": event_id},
        )

    def advance_cursors(self, tx: Writing, runs: Mapping[str, tuple[int, int, str]]) -> None:
        """The same for a transport that may skip: having taken, of a source, from a start up to a position, where this event
        stands, counts only if everything before that start was taken too."""
        taken = [
            {"consumer": self.name, "source": source, "start": start, "position": position, "event_id": event_id}
            for source, (start, position, event_id) in runs.items()
        ]
        if tx.connection.execute(_ADVANCE_CURSOR, taken).rowcount < len(taken):
            for run in taken:
                if run["start"] == 0:  # perhaps the first that was ever taken of it
                    tx.connection.execute(_MOVE_CURSOR, run)

    def reset_cursor(self, source: str) -> None:
        """Takes everything of `source` again from the start; what was handled changes nothing a second time."""
        with self.log.writing() as tx:
            tx.connection.execute(_RESET_CURSOR, {"consumer": self.name, "source": source})

    def take_run(self, tx: Writing, run: Sequence[Incoming]) -> list[Delivery]:
        """Handles a run of events in the caller's transaction: each once, in the order of its stream, or not yet. Raises what
        handling raised; the transaction must not commit then, for nothing of the run was remembered."""
        memories = self._recall(tx, dict.fromkeys((incoming.source, incoming.stream) for incoming in run))
        deliveries = [self._take(tx, memories[incoming.source, incoming.stream], incoming) for incoming in run]
        self._remember(tx, memories.values())
        return deliveries

    def _take(self, tx: Writing, memory: _Memory, incoming: Incoming) -> Delivery:
        if incoming.version == memory.version and incoming.id != memory.event_id:
            return self._park_behind(tx, memory, incoming, ParkReason.FORKED)
        if incoming.version <= memory.version:
            return Delivery.DUPLICATE
        first, following = memory.first_parked, memory.version + 1
        if incoming.version > following:
            waits_for_arrival = first is None or first > following
            return self._park_behind(tx, memory, incoming, ParkReason.EARLY if waits_for_arrival else ParkReason.BEHIND)
        if isinstance(incoming, UnreadableEvent):
            return self._park_behind(tx, memory, incoming, ParkReason.UNREADABLE)
        if first is not None and first <= incoming.version:
            return self._park_behind(tx, memory, incoming, ParkReason.BEHIND)
        self.handle(tx, incoming)
        memory.handled(incoming)
        if first is not None:
            self._take_up_early(tx, memory)
        return Delivery.HANDLED

    def _park_behind(self, tx: Writing, memory: _Memory, incoming: Incoming, reason: ParkReason) -> Delivery:
        self._park(tx, incoming, reason)
        memory.first_parked = min(memory.first_parked or incoming.version, incoming.version)
        return Delivery.PARKED

    def _take_up_early(self, tx: Writing, memory: _Memory) -> None:
        """Handles what had come too early and is next now. One that fails is set aside and undoes nothing before it."""
        self._remember(tx, [memory])
        source, stream = memory.source, memory.stream
        while event := self.next_parked(tx, source, stream, ParkReason.EARLY):
            if not self.try_parked(tx, event):
                break
            memory.handled(event)
        first = self._first_parked(tx, source, stream)
        memory.first_parked = first.version if first else None

    def _take_up(self, tx: Writing, event: Event) -> None:
        tx.connection.execute(_UNPARK, self._key(event.source, event.stream) | {"version": event.version})
        self.handle(tx, event)
        tx.connection.execute(
            _REMEMBER, self._key(event.source, event.stream) | {"version": event.version, "event_id": event.id}
        )

    def _key(self, source: str, stream: str) -> dict[str, Any]:
        return {"consumer": self.name, "source": source, "stream": stream}

    def _recall(self, tx: Writing, streams: Iterable[tuple[str, str]]) -> dict[tuple[str, str], _Memory]:
        wanted = list(streams)
        if tx.connection.dialect.name == "sqlite":
            values = ", ".join(f"(?{2 * n + 2}, ?{2 * n + 3})" for n in range(len(wanted)))
            statement = _RECALL_SQLITE.format(values=values)
            rows = tx.connection.exec_driver_sql(statement, (self.name, *chain.from_iterable(wanted)))
        else:
            sources, names = zip(*wanted, strict=True)
            known = {"consumer": self.name, "sources": list(sources), "streams": list(names)}
            rows = tx.connection.exec_driver_sql(_RECALL_POSTGRESQL, known)
        return {
            (source, stream): _Memory(source, stream, version or 0, event_id or "", first_parked)
            for source, stream, version, event_id, first_parked in rows
        }

    def _remember(self, tx: Writing, memories: Iterable[_Memory]) -> None:
        changed = [memory for memory in memories if memory.changed]
        if changed:
            values = [
                self._key(memory.source, memory.stream) | {"version": memory.version, "event_id": memory.event_id}
                for memory in changed
            ]
            tx.connection.execute(_REMEMBER, values)
        for memory in changed:
            memory.changed = False

    def _last(self, tx: Writing, source: str, stream: str) -> int:
        return self._recall(tx, [(source, stream)])[source, stream].version

    def _first_parked(self, tx: Writing, source: str, stream: str) -> sa.Row[Any] | None:
        return tx.connection.execute(_FIRST_PARKED, self._key(source, stream)).first()

    def _park(self, tx: Writing, incoming: Incoming, reason: ParkReason, error: str = "") -> None:
        tx.connection.execute(
            _PARK,
            {
                "consumer": self.name,
                "source": incoming.source,
                "stream": incoming.stream,
                "version": incoming.version,
                "reason": reason,
                "record": incoming.record if isinstance(incoming, UnreadableEvent) else encode(incoming),
            },
        )
        self.on_parked(tx, incoming, reason, error)
