"""What is to be sent, what was, and what could not be: rows beside the read model, on SQLite and PostgreSQL.

A row is one ring on one channel. It is sent at least once: whoever sends it claims it for a while, and writes down that it was
taken after it was. A process that dies in between leaves a claim that runs out, and the message is sent again. A claim is
written before anything is sent, so no two send the same at once. What no longer waits is sent no more.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from events.log.engines import reading
from services.gateway.read_model import moment_key
from services.gateway.read_model import waits as waits_table
from services.gateway.ringing import UNREACHED, ringing, rings
from services.gateway.waits import Wait, WaitKind
from services.notifications.rules import GAP, GAPS, Message

CLAIM = timedelta(minutes=1)
"""Longer than a message can take (channels.SEND_SECONDS), so that only a dead process's claim runs out."""
REMEMBERED = timedelta(days=7)
"""How long rings of what waits no more are kept, for whoever asks whether somebody was rung."""

_PLAN = sa.text(
    "INSERT INTO rings (wait_id, number, organisation, channel, message, pressing, tries, next_try_at, failed_at) "
    "VALUES (:wait_id, :number, :organisation, :channel, :message, :pressing, 0, :next_try_at, :failed_at) "
    "ON CONFLICT (wait_id, number, organisation, channel) DO NOTHING"
)
_SAY = sa.text(
    "INSERT INTO ringing (what, at) VALUES ('looked_at', :at) ON CONFLICT (what) DO UPDATE SET at = excluded.at"
)
_DUE = """
    SELECT r.wait_id, r.number, r.organisation, r.channel, r.message, r.pressing, r.tries
    FROM rings r JOIN waits w ON w.wait_id = r.wait_id
    WHERE r.sent_at IS NULL AND r.failed_at IS NULL AND r.next_try_at <= :now
    AND (r.claimed_until IS NULL OR r.claimed_until <= :real_now)
    ORDER BY r.pressing DESC, r.next_try_at, r.wait_id, r.number LIMIT 500
"""
_LAST_SENT = sa.text(
    "SELECT organisation, channel, message, max(sent_at) FROM rings WHERE sent_at > :since "
    "GROUP BY organisation, channel, message"
)
_OF_ROW = "WHERE wait_id = :wait_id AND number = :number AND organisation = :organisation AND channel = :channel"
_CLAIM = sa.text(f"UPDATE rings SET claimed_until = :until {_OF_ROW}")  # noqa: S608 - words of ours
_PUT_OFF = sa.text(f"UPDATE rings SET next_try_at = :at {_OF_ROW}")  # noqa: S608
_SENT = sa.text(f"UPDATE rings SET sent_at = :at, claimed_until = NULL, failed_at = NULL {_OF_ROW}")  # noqa: S608
_FAILED = sa.text(
    "UPDATE rings SET tries = :tries, next_try_at = :next_try_at, failed_at = :failed_at, claimed_until = NULL "  # noqa: S608
    f"{_OF_ROW} AND sent_at IS NULL"
)
_FORGET = sa.text(
    "DELETE FROM rings WHERE next_try_at < :before AND NOT EXISTS (SELECT 1 FROM waits w WHERE w.wait_id = rings.wait_id)"
)
_STANDING = """
    SELECT count(*) FILTER (WHERE r.sent_at IS NULL AND r.failed_at IS NULL),
           min(r.next_try_at) FILTER (WHERE r.sent_at IS NULL AND r.failed_at IS NULL),
           count(*) FILTER (WHERE r.failed_at IS NOT NULL AND r.channel <> ''),
           count(*) FILTER (WHERE r.channel = '')
    FROM rings r JOIN waits w ON w.wait_id = r.wait_id
"""


Values = dict[str, str | int | None]


@dataclass(frozen=True)
class Row:
    """One ring on one channel."""

    wait_id: str
    number: int
    organisation: str
    channel: str
    message: Message
    pressing: bool
    tries: int = 0

    @property
    def key(self) -> Values:
        return {
            "wait_id": self.wait_id,
            "number": self.number,
            "organisation": self.organisation,
            "channel": self.channel,
        }


Post = tuple[str, str, Message]
"""Organisation, channel and message: rows that agree in these are one message to whoever gets it."""


@dataclass(frozen=True)
class Standing:
    """What the queue holds of what still waits."""

    waiting: int
    oldest: datetime | None
    """Since when the message that waits longest could have been sent."""
    failed: int
    nobody: int
    """Rings for which the operator's file names nobody."""


class RingQueue:
    """The rings in one database. `now` is the clock of what waits, `real_now` the clock claims run out by."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._write_engine = engine.execution_options(haven_writes=True)
        self._one_writer = threading.Lock()
        on_sqlite = engine.dialect.name == "sqlite"
        # Another process that claims right now: what it has locked is its own.
        self._due = sa.text(_DUE if on_sqlite else f"{_DUE} FOR UPDATE OF r SKIP LOCKED")

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        # Each message is written down by its own thread; the role has few connections, and nobody is in a hurry here.
        with self._one_writer, self._write_engine.begin() as connection:
            yield connection

    def is_paused(self) -> bool:
        """Whether the read model is not whole, so that what waits may be long over."""
        with reading(self._engine) as connection:
            return bool(connection.scalar(sa.select(sa.func.count()).where(ringing.c.what == "paused")))

    def say_that_somebody_looks(self, real_now: datetime) -> None:
        with self._writing() as connection:
            connection.execute(_SAY, {"at": moment_key(real_now)})

    def waits(self) -> list[Wait]:
        """Everything that waits now."""
        with reading(self._engine) as connection:
            # A kind that a newer release has begun to write is for whoever rings in that release.
            known = waits_table.c.kind.in_(list(WaitKind))
            rows = connection.execute(sa.select(waits_table).where(known)).all()
        return [
            Wait(row.wait_id, WaitKind(row.kind), row.party, bool(row.pressing), row.since, row.escalates_to)
            for row in rows
        ]

    def unrung(self) -> dict[str, datetime]:
        """Waits whose party nothing could reach, and since when that is certain."""
        with reading(self._engine) as connection:
            return {wait_id: datetime.fromisoformat(at) for wait_id, at in connection.exec_driver_sql(UNREACHED)}

    def plan(self, rows: Iterable[tuple[Row, datetime]], nobody: Iterable[tuple[Row, datetime]]) -> None:
        """Keeps rings to be sent from a moment on, and those for which there is nobody; a second time changes nothing."""
        due: list[Values] = [{**_values(row), "next_try_at": moment_key(at), "failed_at": None} for row, at in rows]
        lost: list[Values] = [
            {**_values(row), "next_try_at": moment_key(at), "failed_at": moment_key(at)} for row, at in nobody
        ]
        if not due and not lost:
            return
        with self._writing() as connection:
            if due:
                # There was nobody before the operator's file was changed.
                connection.execute(
                    sa.delete(rings).where(
                        rings.c.channel == "", rings.c.wait_id == sa.bindparam("w"), rings.c.number == sa.bindparam("n")
                    ),
                    [{"w": row["wait_id"], "n": row["number"]} for row in due],
                )
            connection.execute(_PLAN, due + lost)

    def claim(
        self,
        now: datetime,
        real_now: datetime,
        busy: Iterable[tuple[str, str]] = (),
        allowed: Callable[[Row, datetime], datetime] = lambda _row, moment: moment,
        most: int = 100,
    ) -> dict[Post, list[Row]]:
        """Takes what is due, for `CLAIM`, as the messages it makes: `most` of them, and one for a channel that is not `busy`.
        What would say the same to a channel again too soon is put off, to a moment that is `allowed`."""
        taken = set(busy)
        with self._writing() as connection:
            found = connection.execute(self._due, {"now": moment_key(now), "real_now": moment_key(real_now)}).all()
            if not found:
                return {}
            longest = max(GAP, *GAPS.values())
            last = {
                (organisation, channel, message): datetime.fromisoformat(at)
                for organisation, channel, message, at in connection.execute(
                    _LAST_SENT, {"since": moment_key(now - longest)}
                )
            }
            claimed: dict[Post, list[Row]] = {}
            put_off = []
            for one in found:
                row = Row(one[0], one[1], one[2], one[3], Message(one[4]), bool(one[5]), one[6])
                post = (row.organisation, row.channel, row.message)
                free_from = last[post] + GAPS.get(row.message, GAP) if post in last else now
                if free_from > now:
                    put_off.append(row.key | {"at": moment_key(allowed(row, free_from))})
                elif post in claimed:
                    claimed[post].append(row)
                elif len(claimed) < most and (row.organisation, row.channel) not in taken:
                    claimed[post] = [row]
                    taken.add((row.organisation, row.channel))
            until = moment_key(real_now + CLAIM)
            keys = [row.key | {"until": until} for rows in claimed.values() for row in rows]
            for statement, values in ((_CLAIM, keys), (_PUT_OFF, put_off)):
                if values:
                    connection.execute(statement, values)
        return claimed

    def sent(self, rows: Sequence[Row], now: datetime) -> None:
        """A service took the message over."""
        with self._writing() as connection:
            connection.execute(_SENT, [row.key | {"at": moment_key(now)} for row in rows])

    def failed(self, rows: Mapping[Row, datetime | None], now: datetime) -> None:
        """It did not; each row with when it is tried again, None if it is given up."""
        values: list[Values] = [
            {
                **row.key,
                "tries": row.tries + 1,
                "next_try_at": moment_key(again or now),
                "failed_at": None if again else moment_key(now),
            }
            for row, again in rows.items()
        ]
        with self._writing() as connection:
            connection.execute(_FAILED, values)

    def forget_old(self, now: datetime) -> None:
        """Lets go of rings of what waits no more."""
        with self._writing() as connection:
            connection.execute(_FORGET, {"before": moment_key(now - REMEMBERED)})

    def standing(self) -> Standing:
        with reading(self._engine) as connection:
            waiting, oldest, failed, nobody = connection.exec_driver_sql(_STANDING).one()
        return Standing(waiting, datetime.fromisoformat(oldest) if oldest else None, failed, nobody)


def _values(row: Row) -> Values:
    return row.key | {"message": str(row.message), "pressing": int(row.pressing)}
