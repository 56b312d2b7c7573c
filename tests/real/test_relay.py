"""The relay on a real broker and a real database: nothing skipped, in order, by one at a time, whatever breaks."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient

from deploy.parts import Kafka, PostgreSQL
from events.kafka import dead_letters, relay, topics
from events.kafka.connection import Broker
from events.kafka.dead_letters import DeadLetter
from events.kafka.layout import SOURCES, Layout
from events.kafka.relay import Relay, send_again
from events.kafka.wire import Message, to_event
from events.log.engines import postgresql_engine
from events.log.hints import Announcer, log_channel
from events.log.store import EventLog
from tests.events.drafts import a_draft, drafts
from tests.real.postgresql_database import Database, a_database, a_server

pytestmark = pytest.mark.real

PATIENCE = 60
SOURCE = "placement"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with a_server() as server:
        yield server


@pytest.fixture
def database(server: PostgreSQL) -> Iterator[Database]:
    with a_database(server) as database:
        yield database


@pytest.fixture
def log(database: Database) -> EventLog:
    return database.log(SOURCE)


@pytest.fixture
def layout(topic_prefix: str) -> Layout:
    return Layout(topic_prefix.rstrip("."), partitions=2, replication=1, in_sync=1, sources=(SOURCE,))


@pytest.fixture
def broker(kafka: str, layout: Layout) -> Broker:
    broker = Broker((kafka,))
    topics.create(broker, layout)
    return broker


@dataclass
class Running:
    relay: Relay
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def status(self) -> relay.LogStatus:
        (status,) = self.relay.status()
        return status


@contextmanager
def a_relay(database: Database, broker: Broker, layout: Layout, name: str = "relay-1") -> Iterator[Running]:
    engine = database.engine("haven_relay", SOURCE)
    running = Running(Relay({SOURCE: engine}, broker, layout, name))
    thread = threading.Thread(target=running.relay.run, args=(running.stop,), daemon=True)
    thread.start()
    try:
        yield running
    finally:
        running.stop.set()
        thread.join(30)
        assert not thread.is_alive(), "the relay does not stop"


def until(what: str, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)


def published(broker: Broker, topic: str) -> list[Message]:
    """Everything a topic holds now, partition by partition."""
    consumer = KafkaConsumer(**broker.kafka_python("test"), group_id=None, auto_offset_reset="earliest")
    try:
        places = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        ends, found = consumer.end_offsets(places), []
        while any(consumer.position(place) < end for place, end in ends.items()):
            for records in consumer.poll(timeout_ms=1000).values():
                found += [
                    Message(
                        topic=topic,
                        key=record.key,
                        headers=dict(record.headers),
                        body=record.value,
                        partition=record.partition,
                        offset=record.offset,
                    )
                    for record in records
                ]
        return found
    finally:
        consumer.close()


def ids(messages: list[Message]) -> list[str]:
    return [to_event(message).id for message in messages]


def test_every_event_is_published_once_and_each_stream_in_its_order(
    database: Database, log: EventLog, broker: Broker, layout: Layout
) -> None:
    topic = layout.topic(SOURCE)
    with a_relay(database, broker, layout) as running:
        writers = [
            threading.Thread(target=lambda s=f"unit-{n}": [log.append([a_draft(s)]) for _ in range(25)])  # type: ignore[misc]
            for n in range(8)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        until("all are published", lambda: running.status.position == log.head())
        assert running.status.sent_total == 200
        assert running.status.leading
        assert running.relay.ready() == {}
    events = [to_event(message) for message in published(broker, topic)]
    assert sorted(event.id for event in events) == sorted(event.id for _, event in log.read_all())
    for n in range(8):
        assert [event.version for event in events if event.stream == f"unit-{n}"] == list(range(1, 26))


def test_a_relay_that_starts_again_goes_on_where_it_was(
    database: Database, log: EventLog, broker: Broker, layout: Layout
) -> None:
    for _ in range(3):
        log.append(drafts(4))
        with a_relay(database, broker, layout) as running:
            until("all are published", lambda: running.status.position == log.head())
    assert ids(published(broker, layout.topic(SOURCE))) == [event.id for _, event in log.read_all()]


def test_what_was_sent_and_not_remembered_is_sent_again_and_nothing_is_skipped(
    database: Database, log: EventLog, broker: Broker, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append(drafts(5))

    class DiedBetween(Exception):
        pass

    send = relay._Leader._send
    died = threading.Event()

    def send_and_die_once(self: object, connection: sa.Connection, messages: object) -> None:
        send(self, connection, messages)  # type: ignore[arg-type]
        if not died.is_set():
            died.set()
            raise DiedBetween

    monkeypatch.setattr(relay._Leader, "_send", send_and_die_once)
    with a_relay(database, broker, layout) as running:
        until("all are published", lambda: running.status.position == log.head())
    assert died.is_set()
    first = [event.id for _, event in log.read_all()]
    assert ids(published(broker, layout.topic(SOURCE))) == first + first


def test_the_cursor_stays_where_it_was_while_the_broker_does_not_acknowledge(
    database: Database, log: EventLog, broker: Broker, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay._Leader, "_send", lambda *_: (_ for _ in ()).throw(relay.NotSent()))
    log.append(drafts(3))
    with a_relay(database, broker, layout) as running:
        until("it failed", lambda: running.status.failed_total > 1)
        assert running.status.position == 0
        assert running.relay.ready() == {f"log of {SOURCE}": "cannot be sent (NotSent); see that the brokers answer"}
    assert published(broker, layout.topic(SOURCE)) == []


def test_of_two_relays_one_leads_and_the_other_takes_over_when_it_is_gone(
    database: Database, log: EventLog, broker: Broker, layout: Layout
) -> None:
    with a_relay(database, broker, layout, "relay-1") as first:
        until("the first leads", lambda: first.status.leading)
        with a_relay(database, broker, layout, "relay-2") as second:
            log.append(drafts(5))
            until("all are published", lambda: first.status.position == log.head())
            assert not second.status.leading
            assert second.relay.ready() == {}, "to wait for one's turn is no trouble"
            first.stop.set()
            until("the second leads", lambda: second.status.leading)
            log.append(drafts(5, "unit-2"))
            until("all are published", lambda: second.status.position == log.head())
            assert second.status.sent_total == 5
    assert sorted(ids(published(broker, layout.topic(SOURCE)))) == sorted(event.id for _, event in log.read_all())


def test_a_leader_whose_connection_was_ended_leads_no_more(
    database: Database, log: EventLog, broker: Broker, layout: Layout
) -> None:
    with a_relay(database, broker, layout) as running:
        until("it leads", lambda: running.status.leading)
        for round_ in range(3):
            database.admin("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'haven_relay'")
            log.append(drafts(5, f"unit-{round_}"))
        until("all are published", lambda: running.status.position == log.head())
        until("it leads again", lambda: running.status.leading)
    versions: dict[str, int] = {}
    for message in published(broker, layout.topic(SOURCE)):
        event = to_event(message)
        assert event.version <= versions.get(event.stream, 0) + 1, "one was skipped"
        versions[event.stream] = max(versions.get(event.stream, 0), event.version)
    assert versions == {"unit-0": 5, "unit-1": 5, "unit-2": 5}


def test_the_server_takes_the_lock_from_a_leader_that_is_frozen(
    database: Database, log: EventLog, broker: Broker, layout: Layout
) -> None:
    frozen = database.engine("haven_relay", SOURCE).connect().execution_options(isolation_level="AUTOCOMMIT")
    frozen.exec_driver_sql("SET idle_session_timeout = '1s'")  # as a leader does, with a longer limit
    assert frozen.scalar(relay._LOCK, {"source": SOURCE})
    log.append(drafts(3))
    with a_relay(database, broker, layout) as running:
        until("the lock is free", lambda: running.status.position == log.head())
    with pytest.raises(sa.exc.OperationalError):
        frozen.scalar(relay._NEXT, {"topic": "any", "limit": 1})
    frozen.close()


def test_an_idle_leader_keeps_its_lock(
    database: Database, log: EventLog, broker: Broker, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "IDLE_LIMIT", "1s")
    with a_relay(database, broker, layout) as running:
        until("it leads", lambda: running.status.leading)
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            assert running.status.leading
            time.sleep(0.1)
        assert running.status.failed_total == 0


def test_a_hint_that_is_lost_costs_a_moment_and_no_event(
    database: Database, log: EventLog, broker: Broker, layout: Layout
) -> None:
    with a_relay(database, broker, layout) as running:  # nobody announces anything here
        until("it leads", lambda: running.status.leading)
        log.append(drafts(1))
        until("it is published", lambda: running.status.position == log.head())


def test_an_announced_commit_is_published_before_the_poll_would_find_it(
    database: Database, log: EventLog, broker: Broker, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "POLL_SECONDS", 5.0)
    announcer, stop = Announcer(log.engine, log_channel(SOURCE)), threading.Event()
    threading.Thread(target=announcer.run, args=(stop,), daemon=True).start()
    log.listeners.append(announcer)
    with a_relay(database, broker, layout) as running:
        log.append(drafts(1))
        until("the first is published", lambda: running.status.position == log.head())
        began = time.monotonic()
        for n in range(3):
            log.append(drafts(1, f"unit-{n + 2}"))
            until("it is published", lambda: running.status.position == log.head())
        assert time.monotonic() - began < 5.0, "three polls would have taken fifteen seconds"
    stop.set()


def test_a_topic_made_anew_is_filled_again_from_the_log(
    database: Database, log: EventLog, broker: Broker, layout: Layout
) -> None:
    topic = layout.topic(SOURCE)
    with a_relay(database, broker, layout) as running:
        log.append(drafts(7))
        until("all are published", lambda: running.status.position == log.head())
        admin = KafkaAdminClient(**broker.kafka_python("test"))
        admin.delete_topics([topic])
        until("the topic is gone", lambda: topic not in admin.list_topics())
        admin.close()
        topics.create(broker, layout)
        log.append(drafts(1, "unit-2"))
        until("all are there again", lambda: len(set(ids(published(broker, topic)))) == 8)
        until("and remembered", lambda: running.status.position == log.head())
        assert running.relay.ready() == {}


def test_everything_is_sent_again_when_somebody_asks_for_it(
    database: Database, log: EventLog, broker: Broker, layout: Layout
) -> None:
    log.append(drafts(3))
    with a_relay(database, broker, layout) as running:
        until("all are published", lambda: running.status.position == log.head())
        send_again({SOURCE: database.engine("haven_relay", SOURCE)})
        until("they are published again", lambda: running.status.sent_total == 6)
    assert ids(published(broker, layout.topic(SOURCE))) == 2 * [event.id for _, event in log.read_all()]


def test_a_log_restored_from_an_older_backup_is_not_published(
    database: Database, log: EventLog, broker: Broker, layout: Layout
) -> None:
    log.append(drafts(3))
    with a_relay(database, broker, layout) as running:
        until("all are published", lambda: running.status.position == log.head())
    database.admin(
        "ALTER TABLE placement.events DISABLE TRIGGER ALL",
        "DELETE FROM placement.events WHERE version = 3",
        "ALTER SEQUENCE placement.events_position_seq RESTART WITH 3",
    )
    log.append(drafts(1))  # another third event
    with a_relay(database, broker, layout) as running:
        until("it says so", lambda: running.status.problem)
        assert "restore" in running.status.problem
        assert running.status.sent_total == 0


def test_a_lost_broker_delays_and_loses_nothing(
    database: Database, log: EventLog, own_kafka: Kafka, layout: Layout
) -> None:
    broker = Broker((own_kafka.bootstrap,))
    topics.create(broker, layout)
    with a_relay(database, broker, layout) as running:
        log.append(drafts(2))
        until("two are published", lambda: running.status.position == log.head())
        own_kafka.kill()
        log.append(drafts(3, "unit-2"))
        until("it says that it cannot", running.relay.ready)
        own_kafka.start()
        until("all are published", lambda: running.status.position == log.head())
        until("it is well again", lambda: running.relay.ready() == {})
    assert set(ids(published(broker, layout.topic(SOURCE)))) == {event.id for _, event in log.read_all()}


def test_a_frozen_broker_costs_no_leadership(
    database: Database, log: EventLog, own_kafka: Kafka, layout: Layout
) -> None:
    broker = Broker((own_kafka.bootstrap,))
    topics.create(broker, layout)
    with a_relay(database, broker, layout) as running:
        log.append(drafts(1))
        until("it is published", lambda: running.status.position == log.head())
        own_kafka.pause()
        log.append(drafts(3, "unit-2"))
        until("it failed", lambda: running.status.failed_total)
        own_kafka.resume()
        until("all are published", lambda: running.status.position == log.head())
    assert set(ids(published(broker, layout.topic(SOURCE)))) == {event.id for _, event in log.read_all()}


def test_a_dead_letter_is_told_once_and_says_nothing_of_what_the_message_held(
    database: Database, log: EventLog, broker: Broker, layout: Layout
) -> None:
    letter = DeadLetter(
        id="letter-1",
        consumer="placement",
        topic="haven.gateway",
        partition=1,
        position=7,
        source="gateway",
        stream="unit-1",
        version=3,
        event_id="event-1",
        reason="failed",
        error="ValueError",
        tries=5,
        first_at="2026-11-25T12:00:00+00:00",
        retry_at=None,
        given_up_at="2026-11-25T12:01:00+00:00",
    )
    with log.writing() as tx:
        dead_letters.keep(tx.connection, letter)
    with a_relay(database, broker, layout) as running:
        until("it is told", lambda: published(broker, layout.dead_letters))
        log.append(drafts(1))
        until("another event is published", lambda: running.status.position == log.head())
    with a_relay(database, broker, layout) as running:
        until("it leads", lambda: running.status.leading)
        log.append(drafts(1, "unit-2"))
        until("all are published", lambda: running.status.position == log.head())
    (message,) = published(broker, layout.dead_letters)
    assert message.headers["ce_type"] == dead_letters.TYPE.encode()
    assert b"ValueError" in message.body
    assert set(message.headers) >= {"ce_id", "ce_source", "ce_specversion", "ce_time"}


def a_letter(number: int) -> DeadLetter:
    return DeadLetter(
        id=f"letter-{number}",
        consumer="placement",
        topic="haven.gateway",
        partition=1,
        position=number,
        reason="malformed",
        first_at="2026-11-25T12:00:00+00:00",
        given_up_at="2026-11-25T12:01:00+00:00",
    )


def test_many_dead_letters_are_told_batch_by_batch_and_hold_no_event_up(
    database: Database, log: EventLog, broker: Broker, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "BATCH", 4)
    monkeypatch.setattr(relay, "LOOK_FOR_DEAD_LETTERS_SECONDS", 0.0)
    sizes = []
    send = relay._Leader._send

    def counted(self: object, connection: sa.Connection, messages: list[Message]) -> None:
        sizes.append(len(messages))
        send(self, connection, messages)  # type: ignore[arg-type]

    monkeypatch.setattr(relay._Leader, "_send", counted)
    with log.writing() as tx:
        for number in range(10):
            dead_letters.keep(tx.connection, a_letter(number))
    with a_relay(database, broker, layout):
        until("all are told", lambda: len(published(broker, layout.dead_letters)) == 10)
    assert max(sizes) == 4


def test_a_dead_letter_that_is_tried_again_while_it_is_told_is_told_again_when_it_is_given_up_again(
    database: Database, log: EventLog, broker: Broker, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = relay._Leader._send
    replayed = threading.Event()

    def replay_once(self: object, connection: sa.Connection, messages: object) -> None:
        send(self, connection, messages)  # type: ignore[arg-type]
        if not replayed.is_set():
            with log.writing() as tx:
                dead_letters.replay(tx.connection, "letter-1", datetime.now(UTC))
            replayed.set()

    monkeypatch.setattr(relay._Leader, "_send", replay_once)
    with log.writing() as tx:
        dead_letters.keep(tx.connection, a_letter(1))
    with a_relay(database, broker, layout):
        until("somebody had it tried again", replayed.is_set)
        with log.writing() as tx:
            dead_letters.give_up(tx.connection, a_letter(1), datetime.now(UTC))
        until("it is told again", lambda: len(published(broker, layout.dead_letters)) == 2)


def test_sending_again_counts_also_while_a_batch_is_under_way(
    database: Database, log: EventLog, broker: Broker, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = relay._Leader._send
    batches: list[int] = []

    def forget_at_the_second(self: object, connection: sa.Connection, messages: list[Message]) -> None:
        send(self, connection, messages)  # type: ignore[arg-type]
        batches.append(len(messages))
        if len(batches) == 2:
            send_again({SOURCE: database.engine("haven_relay", SOURCE)})

    monkeypatch.setattr(relay._Leader, "_send", forget_at_the_second)
    with a_relay(database, broker, layout) as running:
        log.append(drafts(2))
        until("two are published", lambda: running.status.position == log.head())
        log.append(drafts(3, "unit-2"))
        until("all are published again", lambda: sum(batches) == 10 and running.status.position == log.head())


def test_a_relay_outlives_a_producer_that_has_messages_under_way(
    database: Database, log: EventLog, own_kafka: Kafka, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer with messages under way does not let itself be closed, and leaves its thread behind."""
    broker = Broker((own_kafka.bootstrap,))
    topics.create(broker, layout)
    with a_relay(database, broker, layout) as running:
        log.append(drafts(1))
        until("it is published", lambda: running.status.position == log.head())
        senders = {thread for thread in threading.enumerate() if thread.name.startswith(f"relay-1-{SOURCE}")}
        assert senders
        monkeypatch.setattr(relay, "DELIVERY_SECONDS", 0)  # of the relay alone: this producer has ten
        own_kafka.pause()
        log.append(drafts(3, "unit-2"))
        until("it failed", lambda: running.status.failed_total)
        monkeypatch.undo()
        own_kafka.resume()
        until("all are published", lambda: running.status.position == log.head())
        until("the first producer is gone", lambda: not any(thread.is_alive() for thread in senders))
        until("it is well", lambda: running.relay.ready() == {})


def test_a_relay_that_is_told_to_stop_waits_for_no_broker(
    database: Database, log: EventLog, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "DELIVERY_SECONDS", 1)
    looking, go_on = threading.Event(), threading.Event()

    def hangs(*_: object) -> None:
        looking.set()
        go_on.wait(PATIENCE)

    monkeypatch.setattr(topics, "check", hangs)
    stopping = threading.Event()
    one = Relay({SOURCE: database.engine("haven_relay", SOURCE)}, Broker(("127.0.0.1:1",)), layout, "relay-1")
    thread = threading.Thread(target=one.run, args=(stopping,), daemon=True)
    thread.start()
    assert looking.wait(PATIENCE)
    stopping.set()
    thread.join(PATIENCE / 2)
    assert not thread.is_alive()
    go_on.set()


def test_two_relays_that_are_watched_leave_the_operator_connections(
    database: Database, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many connections the role has is said in deploy/postgres/roles.sql."""
    monkeypatch.setattr(topics, "check", lambda *_: {})
    stop, relays = threading.Event(), []
    for name in ("relay-1", "relay-2", "haven"):
        engines = {source: postgresql_engine(database.url("haven_relay"), source) for source in SOURCES}
        relays.append((engines, Relay(engines, Broker(("127.0.0.1:1",)), layout, name)))
    (_, first), (_, second), (operator, _) = relays
    threads = [threading.Thread(target=one.run, args=(stop,), daemon=True) for one in (first, second)]
    for thread in threads:
        thread.start()
    until("the first two look", lambda: not (first.problem or second.problem))
    until("somebody leads each log", lambda: sum(it.leading for it in [*first.status(), *second.status()]) == 3)
    assert second.status()
    send_again(operator)
    assert first.ready() | second.ready() == {}
    stop.set()
    for thread in threads:
        thread.join(30)
    for engines, _ in relays:
        for engine in engines.values():
            engine.dispose()


def test_a_batch_is_bounded_in_bytes_and_still_moves(
    database: Database, log: EventLog, broker: Broker, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "BATCH_BYTES", 100)  # less than one event
    sizes: list[int] = []
    send = relay._Leader._send
    monkeypatch.setattr(
        relay._Leader,
        "_send",
        lambda self, connection, messages: (sizes.append(len(messages)), send(self, connection, messages)),
    )
    log.append(drafts(5))
    with a_relay(database, broker, layout) as running:
        until("all are published", lambda: running.status.position == log.head())
    assert sizes == [1] * 5
    assert ids(published(broker, layout.topic(SOURCE))) == [event.id for _, event in log.read_all()]
