"""Whether Haven rings people at the moment, and whom it could not: kept by whoever rings (services/notifications), read by the
board, so that a focal point phones in time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import sqlalchemy as sa

from events.log.engines import reading

metadata = sa.MetaData()

rings = sa.Table(
    "rings",
    metadata,
    sa.Column("wait_id", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("organisation", sa.Text, primary_key=True),
    sa.Column("channel", sa.Text, primary_key=True),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("pressing", sa.Integer, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("next_try_at", sa.Text, nullable=False, index=True),
    sa.Column("claimed_until", sa.Text),
    sa.Column("sent_at", sa.Text),
    sa.Column("failed_at", sa.Text),
    comment="What is to be sent to which channel of which organisation, and what became of it. An empty channel: there is "
    "none to ring.",
)

ringing = sa.Table(
    "ringing",
    metadata,
    sa.Column("what", sa.Text, primary_key=True),
    sa.Column("at", sa.Text, nullable=False),
    comment="looked_at: when somebody last looked whom to ring. paused: nobody is rung, because the read model is not whole.",
)

SILENT_AFTER = timedelta(seconds=90)
"""Whoever rings says every few seconds that it looks; this long without a word, and nobody is rung."""

FIRST_CALL = 3
"""Of an ask, rings from this number on go to the focal point, those before it to the shelter."""

UNREACHED = f"""
    SELECT wait_id, max(failed_at) AS since FROM rings WHERE number < {FIRST_CALL}
    GROUP BY wait_id HAVING count(sent_at) = 0 AND count(failed_at) = count(*)
"""  # noqa: S608 - a number of ours
"""Waits whose party nothing could reach, and since when that is certain: for whoever rings."""

UNRUNG = f"""
    SELECT u.wait_id FROM ({UNREACHED}) AS u JOIN waits w ON w.wait_id = u.wait_id WHERE w.kind = 'ask'
"""  # noqa: S608
"""Asks among them. On PostgreSQL the gateway reads it as a view: it may not see `rings` (services/migrations/rights.sql)."""


@dataclass(frozen=True)
class Ringing:
    """What a focal point has to know of the ringing."""

    is_on: bool = False
    """Whether people are rung at all."""
    unrung: frozenset[str] = field(default_factory=frozenset)
    """Waits of asks whose shelter nothing could reach."""


AskAboutRinging = Callable[[], Ringing]


def ringing_in(engine: sa.Engine, real_time: Callable[[], datetime]) -> AskAboutRinging:
    """Reads it where the read model is. `real_time` is the clock of whoever rings, also in an exercise."""
    unrung = sa.text(UNRUNG if engine.dialect.name == "sqlite" else "SELECT wait_id FROM unrung")
    looked_at = sa.select(ringing.c.at).where(ringing.c.what == "looked_at")

    def ask() -> Ringing:
        with reading(engine) as connection:
            at = connection.scalar(looked_at)
            if at is None or real_time() - datetime.fromisoformat(at) >= SILENT_AFTER:
                return Ringing()
            return Ringing(is_on=True, unrung=frozenset(connection.scalars(unrung)))

    return ask


def pause_ringing(connection: sa.Connection) -> None:
    """From now on nobody is rung."""
    resume_ringing(connection)
    connection.execute(sa.insert(ringing), {"what": "paused", "at": ""})


def resume_ringing(connection: sa.Connection) -> None:
    connection.execute(sa.delete(ringing).where(ringing.c.what == "paused"))
