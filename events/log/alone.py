"""Having what lies beside a log alone, for longer than a transaction lasts: for a rebuild."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import OperationalError

from events.log.errors import OthersWrite
from events.log.store import EventLog

_TOOK_TOO_LONG = ("55P03", "57014")
"""The server's limit on waiting for a lock, or on a statement, was reached."""


@contextmanager
def without_others(log: EventLog) -> Iterator[None]:
    """Keeps every other process from writing under the lock that the log's `writers` names. Theirs fail meanwhile as with a database
    that is busy, and are tried again. On SQLite nothing is to do: one process has the files.

    Raises OthersWrite when somebody else keeps us out, or holds on for longer than a lock is waited for."""
    if log.engine.dialect.name == "sqlite":
        yield
        return
    assert log._writers_key != log._lock_key, "appends take that lock too, in sessions of their own"
    with log.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        try:
            connection.exec_driver_sql("SELECT pg_advisory_lock(%s)", (log._writers_key,))
        except OperationalError as refused:
            if getattr(refused.orig, "sqlstate", None) not in _TOOK_TOO_LONG:
                raise
            raise OthersWrite(log.source) from None
        log.keeps_out = connection
        try:
            yield
        finally:
            log.keeps_out = None
            connection.invalidate()  # the lock ends with its session, whatever state that is in
