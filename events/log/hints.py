"""Telling other processes that there is something to look at, over PostgreSQL's NOTIFY.

A hint and never the truth: it may come late, twice or not at all, so whoever waits for one looks by itself all the same.
It is sent after the commit and outside of it, because a NOTIFY inside a transaction takes a lock of the whole cluster until
that transaction has committed: every append of every service would wait for every other.
"""

import logging
import threading
from collections.abc import Callable

import sqlalchemy as sa
from psycopg import sql

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0
READ_MODEL = "haven_read_model"


def log_channel(source: str) -> str:
    """The channel on which the log of a service says that it has grown."""
    return f"haven_log_{source}"


class Announcer:
    """Says on one channel that something was committed; many commits at once are one word. Call it after each commit."""

    def __init__(self, engine: sa.Engine, channel: str) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._channel = channel
        self._due = threading.Event()

    def __call__(self) -> None:
        self._due.set()

    def run(self, stop: threading.Event) -> None:
        """Announces until `stop` is set (and this is called once more)."""
        while not stop.is_set():
            try:
                with self._engine.connect() as connection:
                    self._announce(connection, stop)
            except sa.exc.SQLAlchemyError as failure:
                logger.warning("could not announce channel=%s error=%s", self._channel, type(failure).__name__)
                stop.wait(PAUSE_SECONDS)
                self._due.set()

    def _announce(self, connection: sa.Connection, stop: threading.Event) -> None:
        while not stop.is_set():
            if self._due.wait(PAUSE_SECONDS):
                self._due.clear()
                connection.exec_driver_sql("SELECT pg_notify(%s, '')", (self._channel,))


def listen(connection: sa.Connection, channel: str) -> None:
    """From now on `wait_for_hint` on this autocommitting connection hears what is said on the channel."""
    driver = connection.connection.driver_connection
    assert driver is not None
    driver.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))


def wait_for_hint(connection: sa.Connection, seconds: float) -> bool:
    """Whether something was said within that time; raises what a broken connection raises."""
    driver = connection.connection.driver_connection
    assert driver is not None
    return any(True for _ in driver.notifies(timeout=seconds, stop_after=1))


def pass_on(engine: sa.Engine, channel: str, listeners: list[Callable[[], None]], stop: threading.Event) -> None:
    """Calls every listener whenever something is said on the channel, and now and then by itself; until `stop` is set."""
    while not stop.is_set():
        try:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                listen(connection, channel)
                while not stop.is_set():
                    wait_for_hint(connection, PAUSE_SECONDS)
                    for tell in tuple(listeners):
                        tell()
        except Exception as failure:  # noqa: BLE001 - psycopg's own errors come unwrapped from here; the next try connects anew
            logger.warning("does not hear channel=%s error=%s", channel, type(failure).__name__)
            stop.wait(PAUSE_SECONDS)
