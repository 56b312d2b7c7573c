"""What a service could not handle: remembered in its own database until it was handled after all.

A dead letter says where the message lies and why it was set aside, never what it holds: the message itself stays in its
topic, and an event also in the `parked` table, where its stream waits for it. The relay tells `haven.dead-letters`.
"""

from datetime import datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa

from events.log.decider import timestamp
from events.log.schema import parked

metadata = sa.MetaData()

dead_letters = sa.Table(
    "dead_letters",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("consumer", sa.Text, nullable=False),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("partition", sa.Integer, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("stream", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("first_at", sa.Text, nullable=False),
    sa.Column("retry_at", sa.Text, index=True),
    sa.Column("given_up_at", sa.Text),
    sa.Column("published_at", sa.Text),
    comment="retry_at set: tried again by itself. given_up_at set: a person has to look.",
)

TRIES = 5
FIRST_PAUSE = timedelta(milliseconds=200)

TYPE = "haven.dead_letter.given_up.v1"
"""Of the message that tells of one."""
HANGS = "hangs"
"""The handler did not come back; the process was ended for it."""
MALFORMED = "malformed"
"""No event of ours, or none that can be stored; `error` says which rule it breaks."""
CUT_SHORT = "cut short"
"""Not a message but messages that the topic no longer holds: from `position` on, as many as `tries`."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One message set aside. `source`, `stream`, `version` and `event_id` are empty for one that was no event; `position`,
    its offset, is -1 for an event that had been parked before it failed. `error` is the name of a type, or a rule."""

    id: str
    consumer: str
    topic: str
    partition: int
    position: int
    source: str = ""
    stream: str = ""
    version: int = 0
    event_id: str = ""
    reason: str
    error: str = ""
    tries: int = 1
    first_at: str
    retry_at: str | None = None
    given_up_at: str | None = None
    published_at: str | None = None

    @property
    def is_event(self) -> bool:
        return self.version > 0


class NoSuchDeadLetter(LookupError):
    def __init__(self, letter_id: str) -> None:
        super().__init__(f"there is no dead letter {letter_id} here: it was settled, or is another service's")


class StreamWaits(Exception):
    """An event cannot be dismissed: everything behind it on its stream waits for it."""

    def __init__(self, letter: DeadLetter) -> None:
        super().__init__(
            f"dead letter {letter.id} is an event, and its stream waits for it: repair the cause and replay it"
        )


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What may be shown of a parked event: who decided when and what kind of thing; of what it says, nothing."""

    id: str
    source: str
    stream: str
    version: int
    type: str
    reason: str
    time: str = ""
    correlation_id: str = ""
    causation_id: str = ""


class _Data(msgspec.Struct, frozen=True):
    type: str = ""


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    id: str = ""
    time: str = ""
    correlation_id: str = ""
    causation_id: str = ""
    data: _Data = _Data()


# What the workers do


def keep(connection: sa.Connection, letter: DeadLetter) -> None:
    """Remembers a message that is set aside until a person looks; a second time changes nothing."""
    if _one(connection, letter.id) is None:
        connection.execute(sa.insert(dead_letters), msgspec.structs.asdict(letter))


def failed(connection: sa.Connection, letter: DeadLetter, now: datetime) -> None:
    """Remembers one more try in vain: a longer pause each time and, after `TRIES`, nothing more by itself."""
    before = _one(connection, letter.id)
    tries = before.tries + 1 if before else 1
    given_up = tries >= TRIES
    retry_at = None if given_up else timestamp(now + FIRST_PAUSE * 4 ** (tries - 1))
    given_up_at = timestamp(now) if given_up else None
    if before is None:
        keep(connection, msgspec.structs.replace(letter, retry_at=retry_at, given_up_at=given_up_at))
    else:
        _change(
            connection,
            letter.id,
            reason=letter.reason,
            error=letter.error,
            tries=tries,
            retry_at=retry_at,
            given_up_at=given_up_at,
        )


def give_up(connection: sa.Connection, letter: DeadLetter, now: datetime) -> None:
    """Remembers that no further try is made by itself."""
    keep(connection, letter)
    _change(connection, letter.id, reason=letter.reason, retry_at=None, given_up_at=timestamp(now))


def settle(connection: sa.Connection, letter_id: str) -> None:
    """Forgets what was handled after all."""
    connection.execute(sa.delete(dead_letters).where(dead_letters.c.id == letter_id))


def due(connection: sa.Connection, consumer: str, now: datetime) -> list[DeadLetter]:
    """Those whose next try is due."""
    return _read(connection, (dead_letters.c.consumer == consumer) & (dead_letters.c.retry_at <= timestamp(now)))


def is_due(connection: sa.Connection, letter: DeadLetter) -> bool:
    """Whether that try is still to be made: nobody was quicker."""
    now = _one(connection, letter.id)
    return now is not None and now.retry_at == letter.retry_at


def retry_after_start(connection: sa.Connection, consumer: str, now: datetime) -> None:
    """One try more for what an earlier release could not read or handle; never for what hangs, or needs a decision."""
    connection.execute(
        sa.update(dead_letters)
        .where(dead_letters.c.consumer == consumer, dead_letters.c.given_up_at.is_not(None))
        .where(dead_letters.c.reason.in_(["unreadable", "failed", MALFORMED]))
        .values(retry_at=timestamp(now))
    )


def hanging(connection: sa.Connection, consumer: str) -> frozenset[str]:
    """Ids of the events that must not be handled again before somebody asks for it."""
    condition = (
        (dead_letters.c.consumer == consumer) & (dead_letters.c.reason == HANGS) & dead_letters.c.retry_at.is_(None)
    )
    return frozenset(connection.scalars(sa.select(dead_letters.c.event_id).where(condition)))


def unpublished(connection: sa.Connection, limit: int | None = None) -> list[DeadLetter]:
    """Those given up that the relay has not told of yet, the oldest first."""
    return _read(connection, dead_letters.c.given_up_at.is_not(None) & dead_letters.c.published_at.is_(None), limit)


# What a person does: `haven dead-letters`


def kept(connection: sa.Connection, consumer: str | None = None) -> list[DeadLetter]:
    """All there are, the oldest first; of one consumer, or of all that share the database."""
    return _read(connection, sa.true() if consumer is None else dead_letters.c.consumer == consumer)


def find(connection: sa.Connection, letter_id: str) -> DeadLetter:
    """Raises NoSuchDeadLetter."""
    letter = _one(connection, letter_id)
    if letter is None:
        raise NoSuchDeadLetter(letter_id)
    return letter


def waiting(connection: sa.Connection, letter: DeadLetter) -> list[Envelope]:
    """The event itself and what waits behind it on its stream, in order: envelopes alone."""
    rows = connection.execute(
        sa.select(parked.c.version, parked.c.reason, parked.c.record)
        .where(parked.c.consumer == letter.consumer, parked.c.source == letter.source)
        .where(parked.c.stream == letter.stream, parked.c.version >= letter.version)
        .order_by(parked.c.version)
    )
    return [_envelope(letter, row) for row in rows]


def replay(connection: sa.Connection, letter_id: str, now: datetime) -> DeadLetter:
    """Asks the workers to try it again, with as many tries as at first; they do so within seconds, and settle it with
    everything behind it if the cause is repaired. Asking twice is harmless. Raises NoSuchDeadLetter."""
    letter = find(connection, letter_id)
    _change(connection, letter_id, tries=0, retry_at=timestamp(now), given_up_at=None, published_at=None)
    return letter


def dismiss(connection: sa.Connection, letter_id: str) -> DeadLetter:
    """Forgets what nobody waits for: a message that never was an event. Raises NoSuchDeadLetter, or StreamWaits."""
    letter = find(connection, letter_id)
    if letter.is_event:
        raise StreamWaits(letter)
    settle(connection, letter_id)
    return letter


def _envelope(letter: DeadLetter, row: Any) -> Envelope:
    try:
        record = msgspec.json.decode(row.record, type=_Record)
    except msgspec.ValidationError:
        record = _Record()  # of a release that writes envelopes otherwise
    return Envelope(
        id=record.id,
        source=letter.source,
        stream=letter.stream,
        version=row.version,
        type=record.data.type,
        reason=row.reason,
        time=record.time,
        correlation_id=record.correlation_id,
        causation_id=record.causation_id,
    )


def _change(connection: sa.Connection, letter_id: str, **values: object) -> None:
    connection.execute(sa.update(dead_letters).where(dead_letters.c.id == letter_id).values(**values))


def _one(connection: sa.Connection, letter_id: str) -> DeadLetter | None:
    found = _read(connection, dead_letters.c.id == letter_id)
    return found[0] if found else None


def _read(connection: sa.Connection, condition: sa.ColumnElement[bool], limit: int | None = None) -> list[DeadLetter]:
    query = sa.select(dead_letters).where(condition).order_by(dead_letters.c.first_at, dead_letters.c.id).limit(limit)
    return [DeadLetter(**row._mapping) for row in connection.execute(query)]
