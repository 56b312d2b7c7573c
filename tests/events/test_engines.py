"""What counts as the database's own trouble on SQLite (PostgreSQL's is in tests/real/test_postgresql_failures.py), and reading."""

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from events.log.engines import is_database_trouble, postgresql_engine, reading, sqlite_engine
from events.log.store import EventLog
from tests.events.drafts import a_draft, drafts


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    log = EventLog(sqlite_engine(str(tmp_path / "log.db")), "placement")
    log.create_schema()
    log.append(drafts(1))
    return log


def failure_of(log: EventLog, statement: str = "INSERT INTO timers VALUES ('unit-1', '2026')") -> DBAPIError:
    with pytest.raises(DBAPIError) as failure, log.writing() as tx:
        tx.connection.exec_driver_sql(statement)
    return failure.value


def test_a_full_disk_is_and_what_was_acknowledged_stays(log: EventLog) -> None:
    def no_room(connection: sqlite3.Connection, *_: object) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")

    sa.event.listen(log.engine, "checkout", no_room)
    with pytest.raises(DBAPIError, match="full") as failure:
        log.append([a_draft(says="x" * 100_000)])
    assert is_database_trouble(failure.value)
    assert len(log.read_all()) == 1


def test_a_file_that_may_not_be_written_is(log: EventLog) -> None:
    sa.event.listen(log.engine, "checkout", lambda connection, *_: connection.execute("PRAGMA query_only = ON"))
    assert is_database_trouble(failure_of(log))


def test_a_damaged_file_is(log: EventLog, tmp_path: Path) -> None:
    log.engine.dispose()
    file = tmp_path / "log.db"
    file.write_bytes(b"no database" * 1000)
    with pytest.raises(DBAPIError) as failure:
        EventLog(sqlite_engine(str(file)), "placement").head()
    assert is_database_trouble(failure.value)


def test_a_writer_that_never_ends_is(log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("events.log.engines.LOCK_SECONDS", 0.1)
    other = EventLog(sqlite_engine(str(tmp_path / "log.db")), "placement")
    with log.writing(), pytest.raises(DBAPIError, match="locked") as failure:
        other.append(drafts(1))
    assert is_database_trouble(failure.value)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO timers VALUES ('unit-1', NULL)",
        "UPDATE events SET version = 0",
        "INSERT INTO events (id, stream, version, type, record) VALUES ('x', 'x', 0, 'x', 'x')",
    ],
)
def test_what_a_table_does_not_allow_is_not(log: EventLog, statement: str) -> None:
    assert not is_database_trouble(failure_of(log, statement))


@pytest.mark.parametrize("failure", [ValueError("x"), OSError("disk"), sa.exc.InvalidRequestError("x")], ids=repr)
def test_what_did_not_come_from_the_database_is_not(failure: Exception) -> None:
    assert not is_database_trouble(failure)


def prepared_beside(how_to_read: Callable[[sa.Engine], AbstractContextManager[sa.Connection]], url: str) -> bool:
    """Whether a statement that is written again and again stays prepared when others read on the same connection."""
    engine = postgresql_engine(url, connections=1)
    try:
        for _ in range(10):
            with engine.begin() as connection:
                connection.exec_driver_sql("SELECT 'a write'")
            with how_to_read(engine) as connection:
                connection.exec_driver_sql("SELECT 'a read'")
        with engine.begin() as connection:
            known = connection.exec_driver_sql("SELECT statement FROM pg_prepared_statements").scalars().all()
    finally:
        engine.dispose()
    return "SELECT 'a write'" in known


def test_who_reads_does_not_make_the_connection_forget_what_it_prepared(postgres_url: str) -> None:
    assert prepared_beside(reading, postgres_url)
    assert not prepared_beside(sa.Engine.connect, postgres_url), "psycopg forgets no more; is `reading` needed still?"
