"""Poison on a real broker: it delays nobody but its own stream, ends as a dead letter, and a replay settles it."""

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from kafka import KafkaProducer
from kafka.errors import MessageSizeTooLargeError

from events.envelope import Event, encode
from events.kafka import dead_letters
from events.kafka.dead_letters import MALFORMED, TRIES
from events.kafka.wire import LARGEST_BODY, Message, to_message
from events.log.inbox import ParkReason
from tests.events.drafts import an_event
from tests.real.kafka_worker import Service, World, now, streams, wait_for

pytestmark = pytest.mark.real


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, kafka: str, topic_prefix: str, tmp_path: Path) -> Iterator[World]:
    database = f"sqlite:///{tmp_path}/placement.db"
    if request.param == "postgresql":
        database = request.getfixturevalue("postgres_url")
    world = World(kafka, database, topic_prefix, tmp_path, partitions=1)
    yield world
    world.close()


@pytest.fixture
def service(world: World) -> Iterator[Service]:
    service = world.service()
    yield service
    service.close()


def message(world: World, event: Event, body: bytes | None = None, **headers: bytes) -> Message:
    said = to_message(world.topic(), encode(event))
    return msgspec.structs.replace(said, body=said.body if body is None else body, headers=said.headers | headers)


def newer(world: World, event: Event) -> Message:
    return message(world, event, b'{"type":"gateway.telepathy.v7"}', ce_type=b"gateway.telepathy.v7")


def rounds_until(service: Service, condition) -> None:
    def after_a_round() -> bool:
        service.sweep.round()
        return bool(condition())

    wait_for(after_a_round, 60)


def test_every_kind_of_poison_delays_its_own_stream_alone(
    world: World, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "FIRST_PAUSE", dead_letters.FIRST_PAUSE / 5)
    failing = {"always": 10**6, "thrice": 3}

    def fail(event: Event) -> None:
        if event.version == 1 and failing.get(event.stream, 0) > 0:
            failing[event.stream] -= 1
            raise ValueError

    service.fails = fail
    poison = {
        "headers": message(world, an_event("headers", 1), ce_streamversion=b"one"),
        "source": message(world, an_event("source", 1), ce_source=b"/haven/capacity"),
        "size": message(world, an_event("size", 1), b'{"type":"x","s":"' + b"x" * LARGEST_BODY + b'"}'),
        "newer": newer(world, an_event("newer", 1)),
        "always": message(world, an_event("always", 1)),
        "thrice": message(world, an_event("thrice", 1)),
    }
    forked = msgspec.structs.replace(an_event("forked", 1), id="another-history")
    world.say(an_event("forked", 1))
    world.send(*poison.values(), message(world, forked))
    followers = [an_event(stream, 2) for stream in (*poison, "forked")]
    others = streams(5, 3)
    random.Random(3).shuffle(followers)
    world.say(*others[:5], *followers, *others[5:])
    rounds_until(
        service, lambda: all(letter.given_up_at for letter in world.letters()) and ("thrice", 2) in world.seen()
    )

    handled = [(stream, version) for stream, version in world.seen() if not stream.startswith("s-")]
    assert handled == [("forked", 1), ("thrice", 1), ("thrice", 2)]
    assert len(world.seen()) == 3 + 15
    assert sorted((letter.reason, letter.error, letter.tries) for letter in world.letters()) == [
        (ParkReason.FAILED, "ValueError", TRIES),
        (ParkReason.FORKED, "", 1),
        (MALFORMED, "source does not own the topic", 1),
        (MALFORMED, "too large", 1),
        (MALFORMED, "without a readable ce_streamversion header", 1),
        (ParkReason.UNREADABLE, "", 1),
    ]
    assert world.cursor_total() == 1 + 7 + 7 + 15
    assert service.sweep.lag == {("placement", world.topic()): 0}

    failing.clear()
    for _ in range(2):
        for letter in world.letters():
            with world.log.writing() as tx:
                dead_letters.replay(tx.connection, letter.id, now())
    rounds_until(service, lambda: ("always", 2) in world.seen() and all(it.given_up_at for it in world.letters()))
    assert [one for one in world.seen() if one[0] == "always"] == [("always", 1), ("always", 2)]
    assert {letter.reason for letter in world.letters()} == {"forked", MALFORMED, "unreadable"}
    assert len(world.seen()) == 3 + 15 + 2


def test_ten_megabytes_never_reach_the_topic(world: World, service: Service) -> None:
    """The client refuses them; one that would not is refused by the broker, and is of no use afterwards."""
    for most in (LARGEST_BODY + 64 * 1024, 20 << 20):
        producer = KafkaProducer(bootstrap_servers=world.setup.kafka, max_request_size=most)
        with pytest.raises(MessageSizeTooLargeError):
            producer.send(world.topic(), key=b"a", value=b"x" * (10 << 20)).get(timeout=30)
        producer.close(timeout=5)
    world.say(an_event("a", 1))
    rounds_until(service, lambda: world.seen() == [("a", 1)])


def test_the_largest_body_is_handled(world: World, service: Service) -> None:
    event = an_event("a", 1)
    room = LARGEST_BODY - len(to_message(world.topic(), encode(event)).body)
    padded = to_message(world.topic(), encode(event))
    world.send(msgspec.structs.replace(padded, body=padded.body[:-1] + b" " * room + b"}"))
    rounds_until(service, lambda: world.seen() == [("a", 1)])
    assert world.letters() == []


@pytest.mark.slow
def test_a_running_worker_sets_poison_aside_and_settles_it_when_asked(world: World) -> None:
    process = world.start()
    world.send(newer(world, an_event("newer", 1)), message(world, an_event("bad", 1), ce_id=b""))
    world.say(*streams(3, 3))
    wait_for(lambda: len(world.seen()) == 9 and len(world.letters()) == 2)
    unreadable = next(letter for letter in world.letters() if letter.is_event)
    with world.log.writing() as tx:  # the upgrade
        tx.connection.exec_driver_sql("DELETE FROM parked")
    with world.log.writing() as tx:
        dead_letters.replay(tx.connection, unreadable.id, now())
    wait_for(lambda: len(world.letters()) == 1)
    assert process.poll() is None
    assert "bad" not in world.output()
