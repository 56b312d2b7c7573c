"""Engines with the settings the log's promises need."""

import select

import sqlalchemy as sa

LOCK_SECONDS = 30
"""How long a writer waits for another process's transaction before it gives up with an OperationalError."""


def sqlite_engine(path: str) -> sa.Engine:
    """An engine on one SQLite file (or `:memory:`) with the settings the log's promises need.

    WAL with `synchronous=FULL`: a commit is on disk before it returns. `BEGIN IMMEDIATE` for writers, because a deferred
    transaction that upgrades fails at once with BUSY whatever the time-out. In memory there is one connection only, and
    whoever wants it waits until nobody else has it: reading inside a write transaction goes through that transaction.
    """
    in_memory = path == ":memory:"
    engine = sa.create_engine(
        "sqlite://" if in_memory else f"sqlite:///{path}",
        connect_args={"check_same_thread": False, "timeout": LOCK_SECONDS},
        poolclass=sa.QueuePool,
        pool_size=1 if in_memory else 8,
        max_overflow=0 if in_memory else 64,
        hide_parameters=True,  # an error travels to logs and answers; what was being written must not
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection, _record):  # type: ignore[no-untyped-def]
        connection.isolation_level = None  # pysqlite would open deferred transactions of its own
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA recursive_triggers=ON")  # without it INSERT OR REPLACE deletes past the trigger

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(
            "BEGIN IMMEDIATE" if connection.get_execution_options().get("haven_writes") else "BEGIN"
        )

    return engine


def postgresql_engine(url: str) -> sa.Engine:
    """An engine on PostgreSQL; a dead connection is noticed before it is used, a hung writer after `LOCK_SECONDS`."""
    engine = sa.create_engine(
        url,
        connect_args={"options": f"-c lock_timeout={LOCK_SECONDS}s"},
        # Under a stricter level the snapshot would be older than the lock, and every decision would be about the past.
        isolation_level="READ COMMITTED",
        pool_size=8,
        max_overflow=64,
        hide_parameters=True,
    )

    @sa.event.listens_for(engine, "checkout")
    def _refuse_dead(connection, _record, _proxy):  # type: ignore[no-untyped-def]
        # A server that went away leaves its farewell unread on the socket. Looking there costs a microsecond; the pool's
        # own ping costs a round trip, a third of an append.
        if connection.closed or select.select([connection], [], [], 0)[0]:
            raise sa.exc.DisconnectionError

    return engine
