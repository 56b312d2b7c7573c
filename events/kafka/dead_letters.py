"""What a service could not handle: remembered in its own database until somebody has dealt with it.

A dead letter says where the message lies and why it was set aside, never what it holds: the message itself stays in its
topic, and an event also in the `parked` table, where its stream waits for it. The relay tells `haven.dead-letters`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
import sqlalchemy as sa

from events.envelope import derived_id
from events.kafka.wire import Message
from events.log.decider import timestamp
from events.log.inbox import Incoming
from events.log.store import Writing

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


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One message set aside. `source`, `stream`, `version` and `event_id` are empty for one that was no event."""

    id: str
    consumer: str
    topic: str
    partition: int
    position: int
    source: str
    stream: str
    version: int
    event_id: str
    reason: str
    error: str
    tries: int
    first_at: str
    retry_at: str | None
    given_up_at: str | None
    published_at: str | None = None

    @property
    def is_event(self) -> bool:
        return self.version > 0


def dead_letter(
    consumer: str, message: Message, incoming: Incoming | None, reason: str, error: str, now: datetime, *, retry: bool
) -> DeadLetter:
    """The dead letter of a message, the same id however often the message comes."""
    what = incoming.id if incoming else f"{message.topic}/{message.partition}/{message.offset}"
    return DeadLetter(
        id=derived_id(what, consumer, reason),
        consumer=consumer,
        topic=message.topic,
        partition=message.partition,
        position=message.offset,
        source=incoming.source if incoming else "",
        stream=incoming.stream if incoming else "",
        version=incoming.version if incoming else 0,
        event_id=incoming.id if incoming else "",
        reason=reason,
        error=error,
        tries=1,
        first_at=timestamp(now),
        retry_at=timestamp(now + FIRST_PAUSE) if retry else None,
        given_up_at=None if retry else timestamp(now),
    )


def keep(tx: Writing, letter: DeadLetter) -> None:
    """Remembers it in the transaction that sets the message aside; a second time changes nothing."""
    exists = sa.select(dead_letters.c.id).where(dead_letters.c.id == letter.id)
    if tx.connection.scalar(exists) is None:
        tx.connection.execute(sa.insert(dead_letters), msgspec.structs.asdict(letter))


def failed_again(tx: Writing, letter: DeadLetter, error: str, now: datetime) -> None:
    """One try more was in vain: a longer pause, or, after `TRIES`, nothing more by itself."""
    tries = letter.tries + 1
    given_up = tries >= TRIES
    tx.connection.execute(
        sa.update(dead_letters)
        .where(dead_letters.c.id == letter.id)
        .values(
            tries=tries,
            error=error,
            retry_at=None if given_up else timestamp(now + FIRST_PAUSE * 4 ** (tries - 1)),
            given_up_at=timestamp(now) if given_up else None,
        )
    )


def settled(tx: Writing, letters: Sequence[DeadLetter]) -> None:
    """Forgets those that were handled after all."""
    tx.connection.execute(sa.delete(dead_letters).where(dead_letters.c.id.in_([letter.id for letter in letters])))


def due(connection: sa.Connection, consumer: str, now: datetime) -> list[DeadLetter]:
    """Those whose next try is due."""
    return _read(
        connection,
        (dead_letters.c.consumer == consumer) & (dead_letters.c.retry_at <= timestamp(now)),
    )


def kept(connection: sa.Connection, consumer: str | None = None, letter_id: str | None = None) -> list[DeadLetter]:
    """All there are, the oldest first; of one consumer, or the one with an id."""
    condition: sa.ColumnElement[bool] = sa.true()
    if consumer is not None:
        condition = condition & (dead_letters.c.consumer == consumer)
    if letter_id is not None:
        condition = condition & (dead_letters.c.id == letter_id)
    return _read(connection, condition)


def unpublished(connection: sa.Connection) -> list[DeadLetter]:
    """Those given up that the relay has not told of yet."""
    return _read(connection, dead_letters.c.given_up_at.is_not(None) & dead_letters.c.published_at.is_(None))


def _read(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[DeadLetter]:
    query = sa.select(dead_letters).where(condition).order_by(dead_letters.c.first_at, dead_letters.c.id)
    return [DeadLetter(**row._mapping) for row in connection.execute(query)]
