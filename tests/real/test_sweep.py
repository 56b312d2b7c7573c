"""What Faust does not bring is fetched: every message of every partition is taken, whatever becomes of the topics."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.structs import TopicPartition

from events.envelope import Event, encode
from events.kafka import connection, sweep, topics
from events.kafka.connection import Broker, BrokerUnreachable
from events.kafka.dead_letters import CUT_SHORT
from events.kafka.history import History, HistoryCutShort
from events.kafka.wire import to_message
from tests.events.drafts import an_event
from tests.real.kafka_worker import Service, World, a_producer, each_once_in_order, streams, wait_for

pytestmark = pytest.mark.real


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, kafka: str, topic_prefix: str, tmp_path: Path) -> Iterator[World]:
    database = f"sqlite:///{tmp_path}/placement.db"
    if request.param == "postgresql":
        database = request.getfixturevalue("postgres_url")
    world = World(kafka, database, topic_prefix, tmp_path)
    yield world
    world.close()


@pytest.fixture
def service(world: World) -> Iterator[Service]:
    service = world.service()
    yield service
    service.close()


def settle(service: Service, rounds: int = 30) -> None:
    """Makes rounds until nothing is left."""
    for _ in range(rounds):
        service.sweep.round()
        if not any(service.sweep.lag.values()):
            return
    raise AssertionError(f"left behind: {service.sweep.lag}")


def test_everything_that_nobody_brings_is_taken_once_and_in_order(world: World, service: Service) -> None:
    world.say(*streams(20, 15))
    settle(service)
    assert each_once_in_order(world.seen(), 20, 15)
    assert world.cursor_total() == 300
    assert service.sweep.round() == 0


def test_a_partition_that_moves_is_left_to_who_moves_it(world: World, service: Service) -> None:
    world.say(*streams(6, 2))
    assert service.sweep.round() == 0
    assert service.sweep.lag == {("placement", world.topic()): 12}
    other = world.service()
    for partition in range(2):
        place = (world.topic(), partition)
        end = other.history.ends([place])[place]
        if end:
            other.receiver.receive(other.history.read(place, 0, end)[:1])
    assert service.sweep.round() == 0
    assert service.sweep.round() > 0
    other.close()


def test_what_waits_for_company_is_left_to_who_brings_it(
    world: World, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker takes it a moment after the round saw it waiting, on a partition where nothing else moves."""
    world.say(an_event("s-0", 1))
    service.sweep.round()
    other = world.service()

    def meanwhile(_seconds: float) -> None:
        for partition in range(2):
            place = (world.topic(), partition)
            if end := other.history.ends([place])[place]:
                other.receiver.receive(other.history.read(place, 0, end))

    monkeypatch.setattr(sweep, "time", SimpleNamespace(sleep=meanwhile))
    assert service.sweep.round() == 0
    assert world.seen() == [("s-0", 1)]
    other.close()


def test_topics_made_anew_are_read_from_their_start(world: World, service: Service) -> None:
    world.say(*streams(4, 5))
    settle(service)
    world.remake_topics()
    world.say(*streams(4, 6))
    settle(service)
    settle(service)
    assert each_once_in_order(world.seen(), 4, 6)
    assert service.sweep.problem == ""


def test_while_topics_are_away_nothing_is_done_and_nothing_forgotten(world: World, service: Service) -> None:
    world.say(*streams(4, 2))
    settle(service)
    known = dict(service.receiver.topic_ids)
    admin = KafkaAdminClient(bootstrap_servers=world.setup.kafka)
    admin.delete_topics([world.topic()])
    admin.close()
    with pytest.raises(KafkaError):
        service.sweep.round()
    assert service.receiver.topic_ids == known
    topics.create(world.broker, world.layout)
    world.say(*streams(4, 3))

    def settled() -> bool:
        with suppress(KafkaError):  # the client needs a moment to hear of it
            settle(service)
        return each_once_in_order(world.seen(), 4, 3)

    wait_for(settled)


def test_a_topic_that_lost_its_beginning_goes_on_and_a_person_looks(world: World, service: Service) -> None:
    world.say(*(an_event("a", n) for n in range(1, 7)))
    partition = next(p for p in range(2) if service.history.ends([(world.topic(), p)])[world.topic(), p])
    place = (world.topic(), partition)
    admin = KafkaAdminClient(bootstrap_servers=world.setup.kafka)
    admin.delete_records({TopicPartition(*place): 4})
    admin.close()
    with pytest.raises(HistoryCutShort):
        service.history.read(place, 0, 6)
    settle(service)
    [letter] = world.letters()
    assert (letter.reason, letter.partition, letter.position, letter.tries) == (CUT_SHORT, partition, 0, 4)
    assert world.seen() == []
    world.say(*(an_event("a", n) for n in range(1, 7)))  # `haven topics rebuild`
    settle(service)
    assert world.seen() == [("a", n) for n in range(1, 7)]


def test_a_process_that_starts_notices_that_its_topic_went_back(world: World, service: Service) -> None:
    world.say(an_event("a", 1), an_event("a", 2), an_event("a", 3))
    settle(service)
    with (
        world.log.writing() as tx
    ):  # as if the topic, and not this service, came from an older backup and was written on
        tx.connection.exec_driver_sql("UPDATE cursors SET event_id = 'what was there before'")
        tx.connection.exec_driver_sql("DELETE FROM inbox")
    again = world.service()
    settle(again)
    settle(again)
    assert world.seen() == [("a", 1), ("a", 2), ("a", 3)] * 2
    again.close()


def test_partitions_that_were_added_are_read_too(world: World, service: Service) -> None:
    world.say(*streams(6, 1))
    settle(service)
    admin = KafkaAdminClient(bootstrap_servers=world.setup.kafka)
    admin.create_partitions({world.topic(): 3})
    admin.close()
    world.producer.close()
    world.producer = a_producer(world.setup.kafka)  # one that knows them
    world.send(to_message(world.topic(), encode(an_event("new", 1))), partition=2)

    def handled() -> bool:
        with suppress(KafkaError):  # the client made before does not know them
            service.sweep.round()
        return ("new", 1) in world.seen()

    wait_for(handled)


def test_dead_letters_are_tried_again_while_the_broker_is_away(
    world: World, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REACH_SECONDS", 1)
    fails = iter([True])

    def once(_event: Event) -> None:
        if next(fails, False):
            raise ValueError

    service.fails = once
    world.say(an_event("a", 1))
    service.sweep.round()
    service.sweep.round()
    assert [letter.retry_at is not None for letter in world.letters()] == [True]
    service.sweep._broker = Broker(("127.0.0.1:1",))
    service.sweep._forget_clients()

    def settled() -> bool:
        with suppress(BrokerUnreachable):
            service.sweep.round()
        return world.letters() == []

    wait_for(settled, 60)
    assert world.seen() == [("a", 1)]


def test_history_gives_what_is_asked_for(world: World, service: Service) -> None:
    messages = [to_message(world.topic(), encode(an_event("a", n))) for n in range(1, 8)]
    world.send(*messages, partition=1)
    place = (world.topic(), 1)
    assert service.history.ends([place]) == {place: 7}
    assert [message.offset for message in service.history.read(place, 2, 5)] == [2, 3, 4]
    [first] = service.history.read(place, 0, 1)
    assert (first.key, first.body, first.headers) == (messages[0].key, messages[0].body, messages[0].headers)


def test_history_starts_anew_after_its_client_failed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(world.broker, "test")
    place = (world.topic(), 0)
    assert history.ends([place]) == {place: 0}
    broken = history._consumer
    monkeypatch.setattr(broken, "end_offsets", _raise)
    with pytest.raises(OSError, match="broken"):
        history.ends([place])
    assert history.ends([place]) == {place: 0}
    assert history._consumer is not broken
    history.close()


def _raise(*_arguments: object) -> None:
    raise OSError("broken")


@pytest.mark.parametrize("failure", [KafkaTimeoutError, ZeroDivisionError])
def test_one_failing_partition_keeps_nothing_from_the_others(
    world: World, service: Service, monkeypatch: pytest.MonkeyPatch, failure: type[Exception]
) -> None:
    read: Callable[..., object] = service.history.read

    def fail_on_the_first(place: tuple[str, int], start: int, end: int) -> object:
        if place[1] == 0:
            raise failure
        return read(place, start, end)

    monkeypatch.setattr(service.history, "read", fail_on_the_first)
    world.say(*streams(8, 2))
    service.sweep.round()
    assert service.sweep.round() > 0
    assert service.sweep.problem == failure.__name__
    monkeypatch.undo()
    settle(service)
    assert service.sweep.problem == ""
    assert each_once_in_order(world.seen(), 8, 2)
