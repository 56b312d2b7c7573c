"""The tables of a service's own database: its log, and what it remembers of the logs it follows."""

import sqlalchemy as sa

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
    # Another event under the version last handled is another history: the source was restored from a backup.
    sa.Column("event_id", sa.Text, nullable=False),
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
    sa.Column("event_id", sa.Text, nullable=False),
)

timers = sa.Table(
    "timers",
    metadata,
    sa.Column("stream", sa.Text, primary_key=True),
    sa.Column("due_at", sa.Text, nullable=False, index=True),
)

APPEND_ONLY_SQLITE = """
    CREATE TRIGGER IF NOT EXISTS events_are_never_{change}d BEFORE {change} ON events
    BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END
"""
