"""A worker on a real broker, for the tests: a service whose only effect is a row for each event it handled.

`python -m tests.real.kafka_worker '<Setup as JSON>'` runs one as a process of its own, with the faults it is told of.
"""

import asyncio
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import sqlalchemy as sa
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from events.envelope import Event, encode
from events.kafka import dead_letters, topics, worker
from events.kafka.connection import Broker
from events.kafka.layout import Layout
from events.kafka.receiver import Receiver
from events.kafka.sweep import Sweep, Watchdog
from events.kafka.wire import Message, to_message
from events.kafka.worker import faust_app
from events.log.engines import postgresql_engine, sqlite_engine
from events.log.inbox import Consumer
from events.log.store import EventLog, Writing
from tests.events.drafts import an_event

ROOT = Path(__file__).resolve().parents[2]

seen = sa.Table(
    "seen",
    sa.MetaData(),
    # No uniqueness: what took effect twice must show.
    sa.Column("place", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("consumer", sa.Text),
    sa.Column("stream", sa.Text),
    sa.Column("version", sa.Integer),
    sa.Column("by", sa.Text),
    sa.Column("at", sa.Float),
)


class Setup(msgspec.Struct, kw_only=True):
    """Where a worker works, and which faults it has."""

    kafka: str
    database: str
    prefix: str
    group: str
    folder: str
    name: str = "one"
    sources: tuple[str, ...] = ("gateway",)
    partitions: int = 2
    sweeps: bool = True
    takes_from_faust: bool = True
    hangs_on: str = ""
    """Id of an event whose handler does not come back, unless a file of that name lies in `folder`."""
    dies: str = ""
    """`before commit`, `after commit`, or `after acknowledgement`: at the tenth message."""
    handling_seconds: float = 0.0


def layout_of(setup: Setup) -> Layout:
    return Layout(
        prefix=setup.prefix,
        partitions=setup.partitions,
        replication=1,
        in_sync=1,
        sources=tuple(setup.sources),
    )


def open_log(url: str) -> EventLog:
    # A log's lock that a frozen process holds is given to others, as deploy/postgres/roles.sql has it.
    engine = (
        sqlite_engine(url.removeprefix("sqlite:///"))
        if url.startswith("sqlite")
        else postgresql_engine(
            sa.make_url(url).update_query_dict(
                {"options": "-c idle_in_transaction_session_timeout=10s -c lock_timeout=4s -c statement_timeout=5s"}
            )
        )
    )
    return EventLog(engine, "placement")


def now() -> datetime:
    return datetime.now(UTC)


class Service:
    """A log, one consumer, and what both make of a topic: in this process or another."""

    def __init__(
        self,
        setup: Setup,
        handle: Callable[[Writing, Event], None] | None = None,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self.setup = setup
        self.layout = layout_of(setup)
        self.broker = Broker((setup.kafka,))
        self.log = open_log(setup.database)
        self.fails: Callable[[Event], None] = lambda _event: None
        self.consumer = Consumer("placement", self.log, handle or self.handle)
        ids = topics.check(self.broker, self.layout)
        self.receiver = Receiver(
            self.consumer, clock, {self.layout.topic(s): ids[self.layout.topic(s)] for s in setup.sources}
        )
        self.sweep = Sweep([self.receiver], self.broker, f"{setup.name}.sweep")
        self.history = self.sweep._history

    def handle(self, tx: Writing, event: Event) -> None:
        self.fails(event)
        tx.connection.execute(
            seen.insert().values(
                consumer=self.consumer.name,
                stream=event.stream,
                version=event.version,
                by=self.setup.name,
                at=time.time(),
            )
        )

    def close(self) -> None:
        self.receiver.stopping.set()
        self.sweep._forget_clients()
        self.log.engine.dispose()


class World:
    """Topics of this test's own, a database, and hands to produce with."""

    def __init__(self, kafka: str, database: str, prefix: str, folder: Path, **changes: object) -> None:
        setup = Setup(
            kafka=kafka,
            database=database,
            prefix=prefix + "haven",
            group=prefix + "placement",
            folder=str(folder),
        )
        self.setup = msgspec.structs.replace(setup, **changes)
        self.layout = layout_of(self.setup)
        self.broker = Broker((kafka,))
        self.log = open_log(database)
        self.log.create_schema(dead_letters.metadata, seen.metadata)
        topics.create(self.broker, self.layout)
        self.producer = a_producer(kafka)
        self.processes: list[subprocess.Popen[bytes]] = []

    def topic(self, source: str = "gateway") -> str:
        return self.layout.topic(source)

    def say(self, *events: Event) -> None:
        self.send(*(to_message(self.topic(event.source), encode(event)) for event in events))

    def send(self, *messages: Message, partition: int | None = None) -> None:
        sent = [
            self.producer.send(m.topic, key=m.key, value=m.body, headers=list(m.headers.items()), partition=partition)
            for m in messages
        ]
        self.producer.flush(timeout=30)
        for one in sent:
            one.get(timeout=30)

    def service(self, **changes: object) -> Service:
        return Service(self.changed(**changes))

    def changed(self, **changes: object) -> Setup:
        return msgspec.structs.replace(self.setup, **changes)

    def start(self, **changes: object) -> subprocess.Popen[bytes]:
        setup = self.changed(**changes)
        with (Path(setup.folder) / f"{setup.name}.log").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.real.kafka_worker", msgspec.json.encode(setup).decode()],
                cwd=ROOT,
                stdout=output,
                stderr=output,
            )
        self.processes.append(process)
        return process

    def seen(self) -> list[tuple[str, int]]:
        """What was handled, in the order it was handled in."""
        with self.log.engine.connect() as connection:
            rows = connection.execute(sa.select(seen.c.stream, seen.c.version).order_by(seen.c.place)).all()
        return [(row.stream, row.version) for row in rows]

    def by(self, worker: str) -> list[tuple[str, int]]:
        with self.log.engine.connect() as connection:
            rows = connection.execute(sa.select(seen.c.stream, seen.c.version).where(seen.c.by == worker)).all()
        return [(row.stream, row.version) for row in rows]

    def letters(self) -> list[dead_letters.DeadLetter]:
        with self.log.engine.connect() as connection:
            return dead_letters.kept(connection)

    def cursor_total(self) -> int:
        with self.log.engine.connect() as connection:
            return int(connection.scalar(sa.text("SELECT coalesce(sum(position), 0) FROM cursors")))

    def output(self, name: str = "one") -> str:
        return (Path(self.setup.folder) / f"{name}.log").read_text()

    def remake_topics(self) -> None:
        admin = KafkaAdminClient(bootstrap_servers=self.setup.kafka)
        try:
            admin.delete_topics(list(self.layout.wanted()))
            wait_for(lambda: not set(self.layout.wanted()) & set(admin.list_topics()), 30)
        finally:
            admin.close()
        topics.create(self.broker, self.layout)

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self.producer.close(timeout=5)
        admin = KafkaAdminClient(bootstrap_servers=self.setup.kafka)
        try:
            admin.delete_topics(list(self.layout.wanted()))
        finally:
            admin.close()
        self.log.engine.dispose()


def streams(count: int, versions: int) -> list[Event]:
    """Events of `count` streams, `versions` of each, interleaved as a log would hold them."""
    return [an_event(f"s-{n}", version) for version in range(1, versions + 1) for n in range(count)]


def each_once_in_order(handled: list[tuple[str, int]], count: int, versions: int) -> bool:
    """Whether every event of `streams` took effect exactly once, each stream in its order."""
    by_stream: dict[str, list[int]] = {}
    for stream, version in handled:
        by_stream.setdefault(stream, []).append(version)
    return by_stream == {f"s-{n}": list(range(1, versions + 1)) for n in range(count)}


def wait_for(condition: Callable[[], object], seconds: float = 30) -> float:
    """How long it took for `condition` to become true. Raises AssertionError when it does not."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"not within {seconds} s")
        time.sleep(0.02)
    return time.monotonic() - began


def a_producer(kafka: str) -> KafkaProducer:
    return KafkaProducer(bootstrap_servers=kafka, acks="all", linger_ms=0, max_request_size=20 << 20)


# The process


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    setup = msgspec.json.decode(sys.argv[1], type=Setup)
    service = Service(setup)
    service.fails = lambda event: _misbehave(setup, event)
    _die_where_told(setup, service)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    rounds = [service.sweep.run] if setup.sweeps else []
    for work in (*rounds, Watchdog([service.receiver]).run):
        threading.Thread(target=work, args=(stop,), daemon=True).start()
    if not setup.takes_from_faust:
        stop.wait()
        service.close()
        return
    app = faust_app(
        group=setup.group,
        worker_name=f"{setup.group}.{setup.name}",
        broker=service.broker,
        topics=[service.layout.topic(source) for source in setup.sources],
        receivers=[service.receiver],
        folder=Path(setup.folder) / f"faust-{setup.name}",
    )
    status = asyncio.run(worker.bring(app, [service.receiver], stop))
    sys.exit(status)


def _misbehave(setup: Setup, event: Event) -> None:
    if setup.handling_seconds:
        time.sleep(setup.handling_seconds)
    if event.id == setup.hangs_on and not (Path(setup.folder) / event.id).exists():
        threading.Event().wait()


def _die_where_told(setup: Setup, service: Service) -> None:
    """Ends the process, as kill -9 would, at the tenth message and at a named point."""
    count: Iterator[int] = itertools.count(1)

    def die(messages: Sequence[object] = (None,)) -> None:
        for _ in messages:
            if next(count) == 10:
                os._exit(99)

    take_together, receive = service.receiver._take_together, service.receiver.receive
    match setup.dies:
        case "before commit":
            service.fails = lambda _event: die()
        case "after commit":

            def take_and_die(messages: Sequence[Message]) -> None:
                take_together(messages)
                die(messages)

            service.receiver._take_together = take_and_die
        case "after acknowledgement":

            def receive_and_die(messages: Sequence[Message]) -> None:
                die(messages)  # those before were acknowledged
                receive(messages)

            service.receiver.receive = receive_and_die


if __name__ == "__main__":
    main()
