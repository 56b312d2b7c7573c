"""Engines with the settings the log's promises need, and what counts as the database's own trouble."""

import select
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

LOCK_SECONDS = 30
"""How long a writer on SQLite waits for another process's transaction before it gives up with an OperationalError."""


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


ANSWER_SECONDS = 10
"""How long PostgreSQL may say nothing: a server at work answers or gives up within its role's limit of five seconds."""
CONNECTIONS = 16
"""For whoever runs now and then; what each process may hold is in services/connections.py."""


def postgresql_engine(
    url: str | sa.URL,
    schema: str | None = None,
    answer_within: float | None = ANSWER_SECONDS,
    *,
    connections: int = CONNECTIONS,
) -> sa.Engine:
    """An engine on PostgreSQL, in `schema` or wherever the role's own search path leads, with as many `connections` at the most:
    each is made when it is needed first, and stays.

    How long a statement, a lock and an idle transaction may last is said by the server, per role
    (deploy/postgres/roles.sql). A dead connection is noticed before it is used, a dead network within 20 seconds, a server
    that is frozen after `answer_within` seconds; None waits for ever, for work that nobody waits for.
    """
    url = sa.make_url(url)
    options = [str(url.query["options"])] if "options" in url.query else []
    options += [f"-c search_path={schema}"] if schema else []
    engine = sa.create_engine(
        url,
        connect_args={
            "connect_timeout": 5,
            "keepalives_idle": 10,
            "keepalives_interval": 3,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
            **({"options": " ".join(options)} if options else {}),
        },
        # Under a stricter level the snapshot would be older than the lock, and every decision would be about the past.
        isolation_level="READ COMMITTED",
        pool_size=connections,
        max_overflow=0,
        pool_timeout=5,
        hide_parameters=True,
    )

    @sa.event.listens_for(engine, "do_connect")
    def _connect(_dialect, _record, arguments, named):  # type: ignore[no-untyped-def]
        # Here and not at the top: the embedded node never loads the driver.
        from events.log.impatience import ImpatientConnection  # noqa: PLC0415

        connection = ImpatientConnection.connect(*arguments, **named)
        connection.answer_within = answer_within
        return connection

    @sa.event.listens_for(engine, "checkout")
    def _refuse_dead(connection, record, _proxy):  # type: ignore[no-untyped-def]
        # A server that went away leaves its farewell unread on the socket. Looking there costs a microsecond; the pool's
        # own ping costs a round trip, a third of an append. (`poll`: `select` fails for the 1024th open file.)
        if "used" in record.info and (connection.closed or _has_something_to_say(connection.fileno())):
            raise sa.exc.DisconnectionError
        record.info["used"] = True

    return engine


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection for whoever only reads.

    On PostgreSQL every statement is by itself. A transaction would show no more, since each statement sees what is committed when
    it begins, and costs two round trips; and with its ROLLBACK psycopg forgets all that it had prepared on that connection.
    """
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="AUTOCOMMIT")
        yield connection


def lift_time_limit(connection: sa.Connection) -> None:
    """Lets the statements of this transaction take as long as they need: for a rebuild, never while somebody waits."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.connection.driver_connection.answer_within = None  # type: ignore[union-attr]
        connection.detach()  # never back into the pool: its next user is in a hurry


def _has_something_to_say(file_descriptor: int) -> bool:
    look = select.poll()
    look.register(file_descriptor, select.POLLIN)
    return bool(look.poll(0))


_TROUBLE_CLASSES = ("08", "28", "3D", "3F", "40", "53", "57", "58", "XX")
_TROUBLE_STATES = ("25006", "25P03", "25P04", "42501", "42703", "42P01", "55006", "55P03")


def is_database_trouble(failure: BaseException) -> bool:
    """Whether the database failed, not what was asked of it: nobody is to blame an event or a client for it, and the same
    try may succeed later. After it a commit is in doubt: it may have taken place.

    By SQLSTATE (PostgreSQL manual, appendix A): connection and authorisation (08, 28), a database or schema that is not
    there (3D, 3F), serialisation and deadlock (40), out of disk, memory or connections (53), shutdown and cancelled by a
    time limit (57), input and output (58), corruption (XX); read-only after a failover (25006), idle or whole transaction
    over its limit (25P03, 25P04), locked (55P03, 55006), and a right, column or table that is missing (42501, 42703, 42P01):
    the database was not migrated. Whatever is left (an index entry too long, a value out of range) is the input's fault.
    """
    if isinstance(failure, sa.exc.TimeoutError | sa.exc.DisconnectionError):
        return True  # of the pool: all connections are in use, or dead
    if not isinstance(failure, sa.exc.DBAPIError):
        return False
    state = getattr(failure.orig, "sqlstate", None)
    if state is not None:
        return state.startswith(_TROUBLE_CLASSES) or state in _TROUBLE_STATES
    # No state: SQLite, or a connection that could not be made or broke. A plain DatabaseError is SQLite's word for a file
    # that is damaged.
    return isinstance(failure, sa.exc.OperationalError | sa.exc.InterfaceError) or type(failure) is sa.exc.DatabaseError


def violates(refused: sa.exc.IntegrityError, constraint: str, column: str) -> bool:
    """Whether this constraint was violated: by its name on PostgreSQL, by its one column on SQLite."""
    # Not a search in the whole message: PostgreSQL quotes the key in it, and a stream may be called anything.
    diagnosis = getattr(refused.orig, "diag", None)
    if diagnosis is not None:
        return bool(diagnosis.constraint_name == constraint)
    return str(refused.orig).endswith(f" {column}")
