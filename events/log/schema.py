"""The tables of a service's own database: its log, and what it remembers of the logs it follows.

A service either makes its tables itself (embedded), or finds those that `haven migrate` made and checks their version.
"""

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


class SchemaMismatch(Exception):
    """The tables are not those this release works with. The process must not start; the message says what to do.

    SchemaMismatch
     +-- SchemaMissing    there are none, or this role may not see them
     +-- SchemaOutdated   of an earlier release
     +-- SchemaNewer      of a later release
    """


class SchemaMissing(SchemaMismatch):
    def __init__(self, schema: str) -> None:
        super().__init__(f"schema {schema} has no tables of Haven for this role; run `haven migrate`")


class SchemaOutdated(SchemaMismatch):
    def __init__(self, schema: str, found: int, wanted: int) -> None:
        super().__init__(f"schema {schema} is at version {found}, this release needs {wanted}; run `haven migrate`")


class SchemaNewer(SchemaMismatch):
    def __init__(self, schema: str, found: int, wanted: int) -> None:
        super().__init__(
            f"schema {schema} is at version {found}, this release knows {wanted}: it is older than the database; "
            "upgrade Haven"
        )


def verify_version(engine: sa.Engine, wanted: int) -> None:
    """Checks that `haven migrate` brought the schema an engine works in to version `wanted`; needs no right but to read.
    Raises SchemaMissing, SchemaOutdated or SchemaNewer."""
    with engine.connect() as connection:
        schema, table = connection.exec_driver_sql(
            "SELECT coalesce(current_schema(), ''), to_regclass('schema_version')"
        ).one()
        found = connection.scalar(sa.text("SELECT max(version) FROM schema_version")) if table else None
    if found is None:
        raise SchemaMissing(schema)
    if found < wanted:
        raise SchemaOutdated(schema, found, wanted)
    if found > wanted:
        raise SchemaNewer(schema, found, wanted)
