"""What every log promises, on SQLite and PostgreSQL alike, and what only holds on one of them."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from events.envelope import LARGEST_RECORD, Event, UnreadableEvent, encode
from events.gateway import RecordConsulted
from events.log.engines import postgresql_engine, sqlite_engine
from events.log.store import (
    ANY_VERSION,
    NO_STREAM,
    DuplicateEvent,
    EventLog,
    EventTooLarge,
    Exact,
    NestedWrite,
    StreamConflict,
)
from tests.events.drafts import a_draft, drafts, put_newer_event


def texts(events: list[Event]) -> list[str]:
    return [event.data.resource for event in events]


def everything(log: EventLog, page: int = 500) -> list[tuple[int, Event]]:
    """Follows the log by position, as a consumer does."""
    found: list[tuple[int, Event]] = []
    while more := log.read_all(after=found[-1][0] if found else 0, limit=page):
        found += more
    return found


# Appending and reading


def test_what_is_appended_is_read_back_as_it_was(log: EventLog) -> None:
    (appended,) = log.append([a_draft()])
    assert (appended.version, appended.source) == (1, "placement")
    assert log.read_stream("unit-1") == [appended]
    assert log.find(appended.id) == appended
    assert log.find("nobody") is None


def test_an_empty_log_has_nothing_to_read(log: EventLog) -> None:
    assert log.head() == 0
    assert log.read_all() == []
    assert log.read_stream("unit-1") == []
    assert log.append([]) == ()


def test_versions_of_a_stream_count_from_one_without_gaps(log: EventLog) -> None:
    log.append(drafts(3))
    log.append(drafts(2))
    assert [event.version for event in log.read_stream("unit-1")] == [1, 2, 3, 4, 5]
    assert [event.version for event in log.read_stream("unit-1", after=3)] == [4, 5]


def test_everything_is_read_in_the_order_it_was_appended(log: EventLog) -> None:
    appended = [event for n in range(7) for event in log.append(drafts(3, f"unit-{n % 2}"))]
    found = everything(log, page=4)
    assert [event for _, event in found] == appended
    positions = [position for position, _ in found]
    assert positions == sorted(set(positions))
    assert log.head() == positions[-1]


def test_a_big_append_is_kept_whole(log: EventLog) -> None:
    appended = log.append([a_draft(f"unit-{n % 300}") for n in range(1000)])
    assert [event for _, event in everything(log)] == list(appended)


@pytest.mark.parametrize(
    "says",
    ["x" * 1_000_000, "żółć 你好 🏠 \u202e", "\x00", "{\"a\": 'b'} \\ %s %(x)s :y ? {NULL}", "\n\r\t"],
    ids=["large", "unicode", "NUL", "quotes", "control"],
)
def test_any_text_survives(log: EventLog, says: str) -> None:
    (appended,) = log.append([a_draft(says=says)], NO_STREAM)
    assert log.read_stream("unit-1") == [appended]
    assert log.read_all()[0][1] == appended


def test_a_newer_releases_event_is_handed_over_whole_in_its_place(log: EventLog) -> None:
    log.append(drafts(2))
    put_newer_event(log, "unit-2", 1)
    log.append(drafts(1))
    first, second, newer, last = (event for _, event in log.read_all())
    assert texts([first, second, last]) == ["1", "2", "1"]
    assert isinstance(newer, UnreadableEvent)
    assert (newer.stream, newer.version) == ("unit-2", 1)
    assert "teleported" in newer.record
    assert log.find("from-the-future") == newer


# Expected versions


def test_a_stream_at_the_expected_version_can_be_appended_to(log: EventLog) -> None:
    log.append(drafts(2), NO_STREAM)
    log.append(drafts(2), Exact(2))
    log.append(drafts(1), ANY_VERSION)
    assert [event.version for event in log.read_stream("unit-1")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("expected", [NO_STREAM, Exact(1), Exact(3), Exact(7)], ids=["none", "older", "next", "later"])
def test_a_stream_at_another_version_is_a_conflict_and_nothing_is_kept(log: EventLog, expected: Exact) -> None:
    log.append(drafts(2))
    with pytest.raises(StreamConflict) as conflict:
        log.append(drafts(2), expected)
    assert conflict.value.streams == ("unit-1",)
    assert len(everything(log)) == 2


def test_an_expectation_of_a_stream_that_does_not_exist_leaves_no_gap(log: EventLog) -> None:
    with pytest.raises(StreamConflict):
        log.append(drafts(1), Exact(1))
    assert everything(log) == []


def test_several_streams_are_appended_to_together_or_not_at_all(log: EventLog) -> None:
    log.append([a_draft("unit-1"), a_draft("unit-2"), a_draft("unit-1")], NO_STREAM)
    with pytest.raises(StreamConflict):
        log.append([a_draft("unit-3"), a_draft("unit-2")], {"unit-3": NO_STREAM, "unit-2": Exact(9)})
    assert log.read_stream("unit-3") == []
    log.append([a_draft("unit-3"), a_draft("unit-2"), a_draft("unit-1")], {"unit-3": NO_STREAM, "unit-2": Exact(1)})
    assert [(event.stream, event.version) for _, event in everything(log)] == [
        ("unit-1", 1),
        ("unit-2", 1),
        ("unit-1", 2),
        ("unit-3", 1),
        ("unit-2", 2),
        ("unit-1", 3),
    ]


def test_an_event_is_in_the_log_once(log: EventLog) -> None:
    log.append([a_draft("unit-1", event_id="e-1")])
    with pytest.raises(DuplicateEvent) as duplicate:
        log.append([a_draft("unit-2", event_id="e-2"), a_draft("unit-3", event_id="e-1")], NO_STREAM)
    assert duplicate.value.event_ids == ("e-2", "e-1")
    assert len(everything(log)) == 1


def test_an_event_cannot_be_in_one_append_twice(log: EventLog) -> None:
    with pytest.raises(DuplicateEvent):
        log.append([a_draft(event_id="e-1"), a_draft(event_id="e-1")])
    assert everything(log) == []


def test_a_retry_of_an_append_that_took_place_is_told_to_read_again(log: EventLog) -> None:
    retried = drafts(2)
    log.append(retried, NO_STREAM)
    with pytest.raises(StreamConflict):
        log.append(retried, NO_STREAM)


def test_a_streams_name_cannot_disguise_a_conflict_as_a_duplicate(log: EventLog) -> None:
    trap = "one_event_per_id UNIQUE constraint failed: events.id"
    log.append(drafts(1, trap))
    with pytest.raises(StreamConflict):
        log.append(drafts(1, trap), NO_STREAM)


def insert_by_hand(connection: sa.Connection, stream: str, version: int, event_id: str = "by-hand") -> None:
    connection.execute(
        sa.text("INSERT INTO events (id, stream, version, type, record) VALUES (:id, :stream, :version, 't', '{}')"),
        {"id": event_id, "stream": stream, "version": version},
    )


def test_the_database_itself_refuses_a_second_event_in_one_place(log: EventLog) -> None:
    log.append([a_draft("unit-1", event_id="e-1")])
    for stream, version, event_id in (("unit-1", 1, "e-2"), ("unit-2", 1, "e-1"), ("unit-2", 0, "e-3")):
        with pytest.raises(IntegrityError), log.writing() as tx:
            insert_by_hand(tx.connection, stream, version, event_id)
    assert len(everything(log)) == 1


def test_the_rules_of_the_log_have_names_in_the_database(log: EventLog) -> None:
    catalogue = sa.inspect(log.engine)
    unique = {rule["name"]: rule["column_names"] for rule in catalogue.get_unique_constraints("events")}
    assert unique == {"one_event_per_stream_version": ["stream", "version"], "one_event_per_id": ["id"]}
    assert "versions_start_at_one" in {rule["name"] for rule in catalogue.get_check_constraints("events")}


# Several writers


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Runs `work(0)`…`work(count - 1)` at once and raises the first failure."""
    failures: list[BaseException] = []

    def guarded(n: int) -> None:
        try:
            work(n)
        except BaseException as failure:  # noqa: BLE001 - raised again below, in the test's own thread
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(n,), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive(), "a writer hangs"
    if failures:
        raise failures[0]


def as_another_process(log: EventLog) -> EventLog:
    """Shares the database and nothing else."""
    engine = (
        sqlite_engine(log.engine.url.database or "")
        if log.engine.name == "sqlite"
        else postgresql_engine(log.engine.url.render_as_string(hide_password=False))
    )
    return EventLog(engine, log.source)


def race(logs: list[EventLog], version: int, start: threading.Barrier, outcomes: list[str], n: int) -> None:
    start.wait()
    try:
        logs[n].append([a_draft()], Exact(version))
        outcomes.append("won")
    except StreamConflict:
        outcomes.append("lost")


@pytest.mark.parametrize("processes", [1, 2])
def test_of_two_writers_with_the_same_expectation_exactly_one_wins(durable_log: EventLog, processes: int) -> None:
    logs = [durable_log, as_another_process(durable_log) if processes == 2 else durable_log]
    for version in range(25):
        outcomes: list[str] = []
        in_threads(2, partial(race, logs, version, threading.Barrier(2), outcomes))
        assert sorted(outcomes) == ["lost", "won"]
    assert [event.version for event in durable_log.read_stream("unit-1")] == list(range(1, 26))
    logs[1].engine.dispose()


def test_writers_who_do_not_care_about_the_version_all_get_their_own(log: EventLog) -> None:
    in_threads(8, lambda n: [log.append(drafts(2)) for _ in range(10)])  # type: ignore[func-returns-value]
    assert [event.version for event in log.read_stream("unit-1")] == list(range(1, 161))


def test_a_refused_append_does_not_take_the_others_in_its_queue_with_it(log: EventLog) -> None:
    """Appends that wait while somebody writes share one commit; each still gets its own answer."""
    log.append([a_draft("unit-0", event_id="taken")])
    outcomes: dict[int, str] = {}

    def append(n: int) -> None:
        try:
            match n % 4:
                case 0:
                    log.append([a_draft(f"other-{n}", event_id="taken")], NO_STREAM)
                case 1:
                    log.append([a_draft("unit-0")], Exact(7))
                case 2:
                    log.append([a_draft(f"unit-{n}")], NO_STREAM)
                case _:
                    log.append([a_draft("unit-0")])
            outcomes[n] = "appended"
        except (DuplicateEvent, StreamConflict) as refused:
            outcomes[n] = type(refused).__name__

    with log.writing():
        threads = [threading.Thread(target=append, args=(n,), daemon=True) for n in range(16)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(log._queue) == 16)
    for thread in threads:
        thread.join(30)
    expected = ["DuplicateEvent", "StreamConflict", "appended", "appended"]
    assert outcomes == {n: expected[n % 4] for n in range(16)}
    assert len(everything(log)) == 1 + 8


def wait_until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def test_appends_that_queue_share_one_commit(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[int] = []
    commit = log._commit
    monkeypatch.setattr(log, "_commit", lambda group: (commits.append(len(group)), commit(group)))
    with log.writing():
        threads = [
            threading.Thread(target=log.append, args=([a_draft(f"unit-{n}")], NO_STREAM), daemon=True) for n in range(8)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(log._queue) == 8)
    for thread in threads:
        thread.join(30)
    assert len(everything(log)) == 8
    assert commits == [8]


def test_a_broken_database_is_reported_to_every_append_in_the_queue(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a connection broke at COMMIT nobody knows whether it took place; a second try might call it refused."""
    tries: list[int] = []

    def broken(_connection: sa.Connection, appended: list[Event]) -> None:
        tries.append(len(appended))
        raise OperationalError("COMMIT", None, Exception("the connection broke"))

    monkeypatch.setattr(log, "_insert", broken)
    failed: list[OperationalError] = []

    def append(n: int) -> None:
        with pytest.raises(OperationalError) as failure:
            log.append([a_draft(f"unit-{n}")], NO_STREAM)
        failed.append(failure.value)

    with log.writing():
        threads = [threading.Thread(target=append, args=(n,), daemon=True) for n in range(5)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(log._queue) == 5)
    for thread in threads:
        thread.join(30)
    assert (len(failed), tries) == (5, [5])
    monkeypatch.undo()
    log.append([a_draft()])


# Write transactions

side_table = sa.Table("side_table", sa.MetaData(), sa.Column("word", sa.Text, primary_key=True))


@contextmanager
def writing_something(log: EventLog) -> Iterator[None]:
    with log.writing() as tx:
        tx.append(drafts(2))
        tx.connection.execute(side_table.insert().values(word="kept"))
        assert tx.stream_version("unit-1") == 2
        assert len(tx.read_stream("unit-1")) == 2
        yield


def words(log: EventLog) -> list[str]:
    with log.engine.connect() as connection:
        return list(connection.scalars(sa.select(side_table.c.word)))


def test_a_write_transaction_commits_events_and_side_tables_together(log: EventLog) -> None:
    log.create_schema(side_table.metadata)
    with writing_something(log):
        pass
    assert words(log) == ["kept"]
    assert len(everything(log)) == 2


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_write_transaction_that_fails_leaves_nothing_and_locks_nobody_out(
    log: EventLog, failure: type[BaseException]
) -> None:
    log.create_schema(side_table.metadata)
    with pytest.raises(failure), writing_something(log):
        raise failure
    assert words(log) == []
    assert everything(log) == []
    in_threads(1, lambda _: log.append(drafts(1)) and None)  # type: ignore[func-returns-value]
    assert len(everything(log)) == 1


def test_a_refusal_that_somebody_swallows_still_undoes_the_whole_transaction(log: EventLog) -> None:
    log.append([a_draft(event_id="e-1")])
    with pytest.raises(DuplicateEvent), log.writing() as tx:  # noqa: PT012 - it is the transaction that must raise
        tx.append([a_draft("unit-2")])
        with pytest.raises(DuplicateEvent):
            tx.append([a_draft("unit-3"), a_draft("unit-4", event_id="e-1")])
    assert len(everything(log)) == 1


def test_an_attempt_that_fails_is_undone_alone(log: EventLog) -> None:
    log.append([a_draft(event_id="e-1")])
    told: list[str] = []
    with log.writing() as tx:
        tx.append([a_draft("unit-2")])
        tx.after_commit.append(lambda: told.append("kept"))
        with pytest.raises(DuplicateEvent), tx.attempt():  # noqa: PT012 - it is the transaction that must raise
            tx.append([a_draft("unit-3")])
            tx.after_commit.append(lambda: told.append("undone"))
            tx.append([a_draft("unit-4", event_id="e-1")])
        with tx.attempt():
            tx.append([a_draft("unit-5")])
    assert [event.stream for _, event in everything(log)] == ["unit-1", "unit-2", "unit-5"]
    assert told == ["kept"]


def test_a_write_inside_a_write_is_refused_at_once_and_can_be_survived(log: EventLog) -> None:
    with log.writing() as tx:
        tx.append(drafts(1))
        with pytest.raises(NestedWrite):
            log.append(drafts(1, "unit-2"))
        with pytest.raises(NestedWrite), log.writing():
            pass
    log.append(drafts(1))
    assert [event.version for event in log.read_stream("unit-1")] == [1, 2]


def test_readers_never_see_what_is_not_committed(durable_log: EventLog) -> None:
    with durable_log.writing() as tx:
        tx.append(drafts(2))
        assert durable_log.read_all() == []
        assert durable_log.head() == 0
    assert len(durable_log.read_all()) == 2


def test_listeners_are_told_after_the_commit_and_only_then(log: EventLog) -> None:
    heard: list[int] = []
    log.listeners.append(lambda: heard.append(log.head()))
    log.append(drafts(1))
    with log.writing() as tx:
        tx.append(drafts(1))
        tx.after_commit.append(lambda: heard.append(100))
        assert len(heard) == 1
    assert len(heard) == 3
    assert heard[1] == 100
    assert heard[2] > heard[0]
    with pytest.raises(RuntimeError), log.writing() as tx:  # noqa: PT012 - it is the transaction that must raise
        tx.append(drafts(1))
        tx.after_commit.append(lambda: heard.append(101))
        raise RuntimeError
    assert len(heard) == 3


def test_an_error_of_the_database_does_not_repeat_what_was_being_written(log: EventLog) -> None:
    with pytest.raises(DBAPIError) as failure, log.writing() as tx:
        tx.connection.execute(sa.text("INSERT INTO nowhere (word) VALUES (:word)"), {"word": "canary"})
    assert "canary" not in str(failure.value)


# Append-only


@pytest.fixture
def sqlite_log(tmp_path: Path) -> EventLog:
    log = EventLog(sqlite_engine(str(tmp_path / "log.db")), "placement")
    log.create_schema()
    return log


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET record = '{}'",
        "UPDATE events SET position = position + 1",
        "DELETE FROM events",
        "DELETE FROM events WHERE position = 1",
        "INSERT OR REPLACE INTO events (position, id, stream, version, type, record) VALUES (1,'x','x',1,'x','x')",
        "REPLACE INTO events (id, stream, version, type, record) VALUES ('e-1', 'x', 1, 'x', 'x')",
        (
            "INSERT INTO events (id, stream, version, type, record) VALUES ('e-1', 'x', 1, 'x', 'x') "
            "ON CONFLICT (id) DO UPDATE SET record = 'x'"
        ),
    ],
)
def test_history_on_sqlite_cannot_be_changed(sqlite_log: EventLog, statement: str) -> None:
    (appended,) = sqlite_log.append([a_draft(event_id="e-1")])
    with pytest.raises(IntegrityError, match="append-only"), sqlite_log.writing() as tx:
        tx.connection.exec_driver_sql(statement)
    assert [event for _, event in everything(sqlite_log)] == [appended]


@pytest.fixture
def postgresql_log(postgres_url: str) -> Iterator[EventLog]:
    log = EventLog(postgresql_engine(postgres_url), "placement")
    log.create_schema()
    yield log
    log.engine.dispose()


# What no broker would take


def test_an_event_too_large_to_be_published_is_refused_and_changes_nothing(log: EventLog) -> None:
    log.append(drafts(1))
    room = LARGEST_RECORD - len(encode(log.read_stream("unit-1")[0]).encode())
    fits = msgspec.structs.replace(a_draft("unit-2"), data=RecordConsulted(resource="list" + "x" * (room - 3)))
    for one_more in ("x", "\N{GREEK SMALL LETTER ALPHA}" * (LARGEST_RECORD // 2)):
        too_large = msgspec.structs.replace(fits, data=RecordConsulted(resource=fits.data.resource + one_more))  # type: ignore[union-attr]
        before = everything(log)
        with pytest.raises(EventTooLarge, match="unit-2"):
            log.append([a_draft("unit-3"), too_large])
        assert everything(log) == before
    log.append([fits])


# PostgreSQL's connections


@pytest.mark.real
def test_connections_that_died_in_the_pool_are_replaced_unnoticed(postgresql_log: EventLog) -> None:
    postgresql_log.append(drafts(1))
    killer = sa.create_engine(postgresql_log.engine.url, poolclass=sa.NullPool)
    with killer.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    postgresql_log.append(drafts(1), Exact(1))
    assert len(postgresql_log.read_stream("unit-1")) == 2


@pytest.mark.real
def test_a_writer_that_hangs_elsewhere_does_not_hang_us_for_ever(postgresql_log: EventLog) -> None:
    # Deployed, every role has such a limit of its own (deploy/postgres/roles.sql).
    limited = postgresql_log.engine.url.update_query_dict({"options": "-c lock_timeout=1s"})
    impatient = EventLog(postgresql_engine(limited), "placement")
    with postgresql_log.writing(), pytest.raises(OperationalError, match="lock timeout"):
        impatient.append(drafts(1), NO_STREAM)
    impatient.append(drafts(1), NO_STREAM)
    impatient.engine.dispose()


# The gap: no reader by position ever steps over an event that commits late

WRITERS = 8


class Reader(threading.Thread):
    """Follows by position while the writers write."""

    def __init__(self, log: EventLog, expected: int) -> None:
        super().__init__(daemon=True)
        self.log = log
        self.expected = expected
        self.seen: list[str] = []
        self.written = threading.Event()

    def run(self) -> None:
        position = 0
        while len(self.seen) < self.expected:
            last_look = self.written.is_set()
            page = self.log.read_all(after=position, limit=1000)
            self.seen += [event.id for _, event in page]
            if page:
                position = page[-1][0]
            elif last_look:
                return
            else:
                time.sleep(0.001)


def write_with_delays(log: EventLog, writer: int, total: int) -> list[str]:
    """Appends `total` events in batches of mixed size, dawdling at random between insert and commit."""
    chance = random.Random(writer)
    ids: list[str] = []
    while len(ids) < total:
        size = min(chance.choice((1, 1, 5, 50, 200, 500)), total - len(ids))
        batch = [a_draft(f"writer-{writer}", event_id=f"{writer}-{len(ids) + n}") for n in range(size)]
        if chance.random() < 0.3:
            log.append(batch, Exact(len(ids)))
        else:
            with log.writing() as tx:
                tx.append(batch, Exact(len(ids)))
                time.sleep(chance.choice((0, 0, 0.001, 0.004)))
        ids += [draft.id for draft in batch]
    return ids


@pytest.mark.slow
def test_a_reader_by_position_misses_and_repeats_nothing_while_eight_writers_write(durable_log: EventLog) -> None:
    total = 50_000
    # On PostgreSQL each writer is a process of its own. On SQLite all but one share a process, because its wait between
    # processes is a nap of up to a tenth of a second.
    others = [as_another_process(durable_log) for _ in range(WRITERS if durable_log.engine.name != "sqlite" else 1)]
    reader = Reader(as_another_process(durable_log), total)
    reader.start()
    written: list[str] = []

    def write(n: int) -> None:
        written.extend(write_with_delays(others[n % len(others)] if n else durable_log, n, total // WRITERS))

    in_threads(WRITERS, write)
    reader.written.set()
    reader.join(60)
    assert len(written) == total
    assert len(reader.seen) == total
    assert set(reader.seen) == set(written)
    for log in (*others, reader.log):
        log.engine.dispose()


class WithoutTheLock(EventLog):
    """What the store would be without its advisory lock."""

    @contextmanager
    def writing(self):  # type: ignore[no-untyped-def]
        from events.log.store import Writing

        with self._write_engine.begin() as connection:
            yield Writing(self, connection)


@pytest.mark.real
def test_without_the_lock_the_reader_loses_events(postgresql_log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proves that the test above can fail: two writers, the first to draw a position commits last."""
    from events.log import store

    monkeypatch.setattr(store, "_INSERT_POSTGRESQL", store._INSERT_POSTGRESQL.replace("pg_advisory_xact_lock", "abs"))
    unlocked = [WithoutTheLock(as_another_process(postgresql_log).engine, "placement") for _ in range(2)]
    reader = Reader(postgresql_log, expected=2)
    with unlocked[0].writing() as early:
        early.append([a_draft("unit-1", event_id="commits late")])
        with unlocked[1].writing() as late:
            late.append([a_draft("unit-2", event_id="commits early")])
        reader.start()
        wait_until(lambda: bool(reader.seen))
    reader.written.set()
    reader.join(30)
    assert reader.seen == ["commits early"]
    assert len(everything(postgresql_log)) == 2
    for log in unlocked:
        log.engine.dispose()


@pytest.mark.real
def test_with_the_lock_the_second_writer_waits_for_the_first(postgresql_log: EventLog) -> None:
    """The same two writers, with it: whoever draws the earlier position is seen first."""
    other = as_another_process(postgresql_log)
    reader = Reader(as_another_process(postgresql_log), expected=2)
    reader.start()
    with postgresql_log.writing() as early:
        early.append([a_draft("unit-1", event_id="first")])
        second = threading.Thread(target=other.append, args=([a_draft("unit-2", event_id="second")], NO_STREAM))
        second.start()
        second.join(0.3)
        assert second.is_alive()
        assert reader.seen == []
    second.join(30)
    reader.join(30)
    assert reader.seen == ["first", "second"]
    for log in (other, reader.log):
        log.engine.dispose()


# Crashes

WRITE_UNTIL_KILLED = """
import sys
from events.log.store import EventLog
from events.log.engines import sqlite_engine
from tests.events.drafts import a_draft

log = EventLog(sqlite_engine(sys.argv[1]), "placement")
n = 0
while True:
    batch = [a_draft(f"unit-{n % 3}", event_id=f"{sys.argv[2]}-{n}-{k}") for k in range(1 + n % 4)]
    for event in log.append(batch):
        sys.stdout.write(event.id + "\\n")
    sys.stdout.flush()
    n += 1
"""


@pytest.mark.slow
def test_what_was_acknowledged_survives_a_kill_at_any_moment(sqlite_log: EventLog) -> None:
    path = sqlite_log.engine.url.database
    sqlite_log.engine.dispose()
    chance = random.Random(23)
    acknowledged: set[str] = set()
    for kill in range(20):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITE_UNTIL_KILLED, str(path), str(kill)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert writer.stdout
        said = [writer.stdout.readline()]  # it is at work
        time.sleep(chance.uniform(0, 0.05))
        writer.send_signal(signal.SIGKILL)
        said += writer.stdout.readlines()
        assert writer.wait(10) == -signal.SIGKILL
        acknowledged |= {line.strip() for line in said if line.endswith("\n")}
    with sqlite3.connect(str(path)) as check:
        assert check.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    found = [event for _, event in everything(sqlite_log)]
    ids = [event.id for event in found]
    assert len(ids) == len(set(ids))
    assert acknowledged <= set(ids)
    assert len(acknowledged) > 20
    for stream in {event.stream for event in found}:
        assert [event.version for event in found if event.stream == stream] == list(
            range(1, 1 + sum(event.stream == stream for event in found))
        )
    batches = {event_id.rsplit("-", 1)[0] for event_id in ids}
    for batch in batches:  # an append is there whole or not at all
        assert sum(event_id.startswith(f"{batch}-") for event_id in ids) == 1 + int(batch.split("-")[1]) % 4


def test_a_commit_on_sqlite_waits_for_the_disk(sqlite_log: EventLog) -> None:
    with sqlite_log.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_one_event_is_one_document_in_the_log(sqlite_log: EventLog) -> None:
    (appended,) = sqlite_log.append([a_draft()])
    with sqlite_log.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT record FROM events").scalar() == encode(appended)
