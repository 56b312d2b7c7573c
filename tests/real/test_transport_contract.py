"""The promises of a transport, over both of them and both databases: what follows by position, and what comes over Kafka."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from events.envelope import Event, encode
from events.kafka import dead_letters
from events.kafka.wire import to_message
from events.log.engines import postgresql_engine, sqlite_engine
from events.log.follower import Follower
from events.log.inbox import Consumer, ParkReason
from events.log.store import EventLog, Writing
from tests.events.drafts import NOON, a_draft, an_event, put_newer_event
from tests.real.kafka_worker import Service, World

pytestmark = pytest.mark.real


class Crash(BaseException):
    """The process ends here."""


class Transport(ABC):
    """One service that hears another's log. `say` is that other service; `settle` lets everything come that will come."""

    consumer: Consumer
    log: EventLog

    def __init__(self) -> None:
        self.fails: Callable[[Event], None] = lambda _event: None
        self.at_commit: Callable[[], None] = lambda: None

    def handle(self, tx: Writing, event: Event) -> None:
        self.fails(event)
        tx.append([a_draft("seen", f"{event.stream}.{event.version}")])
        self.at_commit()

    def seen(self) -> list[str]:
        return [event.data.resource for event in self.log.read_stream("seen")]

    def parked(self) -> list[tuple[str, int, str]]:
        return [(it.stream, it.version, it.reason) for it in self.consumer.parked()]

    @abstractmethod
    def say(self, *events: Event) -> None: ...

    @abstractmethod
    def say_something_newer(self, stream: str, version: int) -> None: ...

    @abstractmethod
    def fork(self, stream: str) -> None:
        """The source goes back to a backup and says something else under a version that was heard."""

    @abstractmethod
    def restart(self) -> None: ...

    @abstractmethod
    def settle(self) -> None: ...

    @abstractmethod
    def retry(self) -> None:
        """What a person asks for after the repair."""

    @abstractmethod
    def problems(self) -> list[str]:
        """What a person is told of."""


class Embedded(Transport):
    def __init__(self, log: EventLog, source: EventLog) -> None:
        super().__init__()
        self.log, self.source, self.now, self.problem = log, source, NOON, ""
        self.restart()

    def restart(self) -> None:
        self.consumer = Consumer("c", self.log, self.handle)
        self.follower = Follower(self.consumer, {"gateway": self.source}, lambda: self.now)

    def say(self, *events: Event) -> None:
        for event in events:
            self.source.append([msgspec.structs.replace(event, version=0)])

    def say_something_newer(self, stream: str, version: int) -> None:
        put_newer_event(self.source, stream, version)

    def fork(self, stream: str) -> None:
        with self.source.writing() as tx:
            if tx.connection.dialect.name == "sqlite":
                tx.connection.exec_driver_sql("DROP TRIGGER events_are_never_updated")
            tx.connection.exec_driver_sql("UPDATE events SET id = 'another-history' WHERE position = 1")

    def settle(self) -> None:
        busy = True
        while busy:
            self.now += timedelta(seconds=5)
            try:
                busy = self.follower.step()
                self.problem = ""
            except Exception as failure:  # noqa: BLE001 - as Follower.run does
                self.problem, busy = type(failure).__name__, False

    def retry(self) -> None:
        self.consumer.retry_parked()

    def problems(self) -> list[str]:
        return [self.problem] if self.problem else [it.reason for it in self.consumer.parked()]


class OverKafka(Transport):
    def __init__(self, world: World) -> None:
        super().__init__()
        self.world, self.now = world, NOON
        self.service: Service | None = None
        self.restart()

    def restart(self) -> None:
        self.close()
        self.service = Service(self.world.setup, self.handle, lambda: self.now)
        self.consumer, self.log = self.service.consumer, self.service.log

    def close(self) -> None:
        if self.service is not None:
            self.service.close()

    def say(self, *events: Event) -> None:
        self.world.say(*events)

    def say_something_newer(self, stream: str, version: int) -> None:
        message = to_message(self.world.topic(), encode(an_event(stream, version)))
        kind = b"gateway.telepathy.v7"
        self.world.send(
            msgspec.structs.replace(
                message, headers=message.headers | {"ce_type": kind}, body=b'{"type":"' + kind + b'"}'
            )
        )

    def fork(self, stream: str) -> None:
        self.world.say(msgspec.structs.replace(an_event(stream, 1), id="another-history"))

    def settle(self) -> None:
        assert self.service is not None
        for _ in range(100):
            self.now += timedelta(seconds=30)
            self.service.sweep.round()
            if not any(self.service.sweep.lag.values()) and not any(letter.retry_at for letter in self._letters()):
                return
        raise AssertionError("it does not come to rest")

    def retry(self) -> None:
        for letter in self._letters():
            with self.log.writing() as tx:
                dead_letters.replay(tx.connection, letter.id, self.now)
        self.settle()

    def problems(self) -> list[str]:
        return [letter.reason for letter in self._letters() if letter.given_up_at]

    def _letters(self) -> list[dead_letters.DeadLetter]:
        with self.log.engine.connect() as connection:
            return dead_letters.kept(connection)


@pytest.fixture(params=["follower on SQLite", "follower on PostgreSQL", "Kafka and SQLite", "Kafka and PostgreSQL"])
def transport(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Transport]:
    on_postgresql = "PostgreSQL" in request.param
    url = request.getfixturevalue("postgres_url") if on_postgresql else f"sqlite:///{tmp_path}/placement.db"
    if "Kafka" in request.param:
        kafka, prefix = request.getfixturevalue("kafka"), request.getfixturevalue("topic_prefix")
        world = World(kafka, url, prefix, tmp_path)
        over_kafka = OverKafka(world)
        yield over_kafka
        over_kafka.close()
        world.close()
        return
    if on_postgresql:
        engines = [postgresql_engine(url, schema) for schema in ("placement", "gateway")]
        with engines[0].begin() as connection:
            connection.exec_driver_sql("CREATE SCHEMA placement")
            connection.exec_driver_sql("CREATE SCHEMA gateway")
    else:
        engines = [sqlite_engine(str(tmp_path / f"{name}.db")) for name in ("placement", "gateway")]
    log, source = EventLog(engines[0], "placement"), EventLog(engines[1], "gateway")
    log.create_schema()
    source.create_schema()
    yield Embedded(log, source)
    for engine in engines:
        engine.dispose()


def poison(stream: str, version: int) -> Callable[[Event], None]:
    def fail(event: Event) -> None:
        if (event.stream, event.version) == (stream, version):
            raise ValueError

    return fail


def of(transport: Transport, stream: str) -> list[str]:
    return [one for one in transport.seen() if one.startswith(f"{stream}.")]


def test_every_event_is_heard_once_and_each_stream_in_its_order(transport: Transport) -> None:
    transport.say(*(an_event(f"s-{n % 3}", n // 3 + 1) for n in range(30)))
    transport.settle()
    transport.settle()
    assert len(transport.seen()) == 30
    for n in range(3):
        assert of(transport, f"s-{n}") == [f"s-{n}.{version}" for version in range(1, 11)]
    assert transport.problems() == []


def test_who_starts_late_hears_everything_from_the_start(transport: Transport) -> None:
    transport.say(*(an_event("a", n) for n in range(1, 251)))
    transport.restart()
    transport.settle()
    assert transport.seen() == [f"a.{n}" for n in range(1, 251)]


def test_a_restart_goes_on_where_it_stopped(transport: Transport) -> None:
    transport.say(an_event("a", 1), an_event("a", 2))
    transport.settle()
    transport.restart()
    transport.settle()
    transport.say(an_event("a", 3))
    transport.settle()
    assert transport.seen() == ["a.1", "a.2", "a.3"]


def test_a_crash_inside_the_transaction_repeats_and_skips_nothing(transport: Transport) -> None:
    transport.say(*(an_event("a", n) for n in range(1, 6)))

    def crash() -> None:
        transport.at_commit = lambda: None
        raise Crash

    transport.at_commit = crash
    with pytest.raises(Crash):
        transport.settle()
    transport.restart()
    transport.settle()
    assert transport.seen() == [f"a.{n}" for n in range(1, 6)]


def test_what_was_remembered_of_the_way_may_be_lost(transport: Transport) -> None:
    transport.say(an_event("a", 1), an_event("a", 2))
    transport.settle()
    with transport.log.writing() as tx:
        tx.connection.exec_driver_sql("DELETE FROM cursors")
    transport.restart()
    transport.settle()
    transport.say(an_event("a", 3))
    transport.settle()
    assert transport.seen() == ["a.1", "a.2", "a.3"]


def test_an_event_that_came_early_waits_for_the_one_before(transport: Transport) -> None:
    transport.consumer.deliver(an_event("a", 2))  # by whatever way it overtook
    assert transport.seen() == []
    transport.say(an_event("a", 1))
    transport.settle()
    assert transport.seen() == ["a.1", "a.2"]
    transport.say(an_event("a", 2))
    transport.settle()
    assert transport.seen() == ["a.1", "a.2"]


def test_an_event_that_fails_for_a_while_is_handled_in_the_end(transport: Transport) -> None:
    failures = iter([True, True, True])

    def for_a_while(_event: Event) -> None:
        if next(failures, False):
            raise ValueError

    transport.fails = for_a_while
    transport.say(an_event("a", 1), an_event("a", 2))
    transport.settle()
    assert transport.seen() == ["a.1", "a.2"]
    assert transport.problems() == []


def test_an_event_that_always_fails_is_set_aside_and_the_others_go_on(transport: Transport) -> None:
    transport.fails = poison("a", 2)
    transport.say(*(an_event("a", n) for n in (1, 2, 3)), an_event("b", 1))
    transport.settle()
    assert sorted(transport.seen()) == ["a.1", "b.1"]
    assert transport.parked() == [("a", 2, ParkReason.FAILED), ("a", 3, ParkReason.BEHIND)]
    assert "failed" in transport.problems()
    transport.fails = lambda _event: None
    transport.retry()
    assert of(transport, "a") == ["a.1", "a.2", "a.3"]
    assert (transport.parked(), transport.problems()) == ([], [])


def test_an_event_of_a_newer_release_is_set_aside_with_its_stream(transport: Transport) -> None:
    transport.say(an_event("a", 1))
    transport.say_something_newer("a", 2)
    transport.say(an_event("a", 3), an_event("b", 1))
    transport.settle()
    assert sorted(transport.seen()) == ["a.1", "b.1"]
    assert transport.parked() == [("a", 2, ParkReason.UNREADABLE), ("a", 3, ParkReason.BEHIND)]
    assert "unreadable" in transport.problems()
    transport.retry()
    assert sorted(transport.seen()) == ["a.1", "b.1"]


def test_another_history_under_a_version_that_was_heard_is_told_and_not_followed(transport: Transport) -> None:
    transport.say(an_event("a", 1))
    transport.settle()
    transport.fork("a")
    transport.say(an_event("a", 2))
    transport.settle()
    assert transport.seen() == ["a.1"]
    assert transport.problems() in (["forked"], ["SourceWentBack"])


def test_two_that_hear_the_same_take_effect_once(transport: Transport) -> None:
    transport.say(*(an_event(f"s-{n % 3}", n // 3 + 1) for n in range(30)))
    twin = Consumer(transport.consumer.name, transport.log, transport.handle)
    thread = threading.Thread(
        target=lambda: [twin.deliver(an_event(f"s-{n % 3}", n // 3 + 1)) for n in range(30)], daemon=True
    )
    thread.start()
    transport.settle()
    thread.join()
    transport.settle()
    assert len(transport.seen()) == 30
    for n in range(3):
        assert of(transport, f"s-{n}") == [f"s-{n}.{version}" for version in range(1, 11)]
