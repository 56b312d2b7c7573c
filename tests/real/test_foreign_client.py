"""Somebody else's client (librdkafka) reads our topics from a real broker, and knows nothing but the published document.

Only the producing half of this file may use ours: `Reader` gets the document as JSON and the brokers' address, as an outsider
would.
"""

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import referencing
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka import Message as Received
from jsonschema import Draft7Validator, FormatChecker
from kafka import KafkaProducer

from events.asyncapi import GOLDEN, text
from events.kafka import topics
from events.kafka.connection import Broker
from events.kafka.dead_letters import DeadLetter
from events.kafka.layout import Layout
from events.kafka.relay import Relay
from events.kafka.wire import to_message

pytestmark = pytest.mark.real

PATIENCE = 60
RECORDS = {file.stem: file.read_text().rstrip("\n") for file in sorted(GOLDEN.iterdir())}
KEYS = [f"relocation_request-{number}" for number in range(60)] + ["unit-é", "x", "stream-1"]


class Reader:
    """An outsider: what it knows of the topics it has from the document."""

    def __init__(self, document: str, brokers: str) -> None:
        self.document = json.loads(document)
        self.brokers = brokers
        whole = referencing.Resource.from_contents(self.document, referencing.jsonschema.DRAFT7)
        self.registry = referencing.Registry().with_resource("urn:document", whole)

    def topics(self) -> list[str]:
        return [channel["address"] for channel in self.document["channels"].values()]

    def messages_of(self, topic: str) -> dict[str, Any]:
        (channel,) = (c for c in self.document["channels"].values() if c["address"] == topic)
        return {name: self.follow(reference) for name, reference in channel["messages"].items()}

    def follow(self, reference: dict[str, str]) -> Any:
        there = self.document
        for step in reference["$ref"].removeprefix("#/").split("/"):
            there = there[step]
        return there

    def problems(self, schema: dict[str, Any], content: object) -> list[str]:
        absolute = json.loads(json.dumps(schema).replace('"#/', '"urn:document#/'))
        validator = Draft7Validator(absolute, registry=self.registry, format_checker=FormatChecker())
        return [error.message for error in validator.iter_errors(content)]

    def read(self, count: int) -> list[Received]:
        """The first messages of all topics, as they come."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.brokers,
                "group.id": f"outsider-{uuid.uuid4()}",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
            }
        )
        consumer.subscribe(self.topics())
        received: list[Received] = []
        ends = time.monotonic() + PATIENCE
        try:
            while len(received) < count and time.monotonic() < ends:
                message = consumer.poll(0.5)
                if message is None or (message.error() and message.error().code() == KafkaError._PARTITION_EOF):
                    continue
                assert message.error() is None, message.error()
                received.append(message)
        finally:
            consumer.close()
        return received

    def what_is_wrong_with(self, message: Received) -> list[str]:
        headers = {name: value.decode() for name, value in message.headers() or []}
        described = self.messages_of(message.topic()).get(headers.get("ce_type", ""))
        if described is None:
            return [f"{message.topic()} has no message {headers.get('ce_type')}"]
        problems = self.problems(described["headers"], headers)
        problems += self.problems(described["payload"], json.loads(message.value()))
        problems += self.problems(described["bindings"]["kafka"]["key"], message.key().decode())
        if "ce_subject" in headers and message.key().decode() != headers["ce_subject"]:
            problems.append("the key is not the stream")
        return problems

    def partitioner(self, topic: str) -> str:
        (channel,) = (c for c in self.document["channels"].values() if c["address"] == topic)
        return str(channel["x-partitioner"])


@pytest.fixture
def layout(topic_prefix: str) -> Layout:
    return Layout(topic_prefix + "haven", partitions=5, replication=1, in_sync=1)


@pytest.fixture
def broker(kafka: str, layout: Layout) -> Broker:
    """A broker with our topics."""
    broker = Broker((kafka,))
    topics.create(broker, layout)
    return broker


@pytest.fixture
def producer(broker: Broker) -> Iterator[KafkaProducer]:
    producer = KafkaProducer(**broker.kafka_python("test"), enable_idempotence=True, acks="all")
    yield producer
    producer.close()


@pytest.fixture
def reader(broker: Broker, layout: Layout) -> Reader:
    return Reader(text(layout), broker.addresses)


def publish(producer: KafkaProducer, layout: Layout, record: str) -> None:
    message = to_message(layout.topic(msgspec.json.decode(record)["source"]), record)
    producer.send(message.topic, message.body, message.key, list(message.headers.items()))


def test_an_outsider_reads_every_event_we_publish_and_finds_it_as_described(
    producer: KafkaProducer, reader: Reader, layout: Layout
) -> None:
    for record in RECORDS.values():
        publish(producer, layout, record)
    producer.flush(timeout=PATIENCE)
    received = reader.read(len(RECORDS))
    assert {problem for message in received for problem in reader.what_is_wrong_with(message)} == set()
    told = {dict(message.headers())["ce_type"].decode(): message for message in received}
    assert set(told) == set(RECORDS)
    for name, message in told.items():
        record = json.loads(RECORDS[name])
        assert json.loads(message.value()) == record["data"]
        assert message.topic() == layout.topic(record["source"])


def test_an_outsider_reads_of_dead_letters_too(broker: Broker, reader: Reader, layout: Layout) -> None:
    letter = DeadLetter(
        id="letter-1", consumer="placement", topic=layout.topic("gateway"), partition=2, position=7, source="gateway",
        stream="relocation_request-1", version=3, event_id="event-1", reason="failed", error="KeyError", tries=5,
        first_at="2026-11-23T12:00:00.000000Z", retry_at=None, given_up_at="2026-11-23T12:00:09.000000Z",
    )  # fmt: skip
    (leader,) = Relay({"placement": None}, broker, layout, "test.relay")._leaders
    leader._send(None, [leader._letter(letter)])
    leader._drop_producer()
    (received,) = reader.read(1)
    assert received.topic() == layout.dead_letters
    assert reader.what_is_wrong_with(received) == []


def test_an_outsider_notices_what_is_not_as_described(producer: KafkaProducer, reader: Reader, layout: Layout) -> None:
    record = json.loads(RECORDS["placement.ask.made.v1"])
    del record["data"]["ask_id"]
    publish(producer, layout, json.dumps(record))
    publish(producer, layout, RECORDS["placement.ask.made.v1"].replace("ask.made.v1", "ask.made.v9"))
    producer.flush(timeout=PATIENCE)
    wrong = [reader.what_is_wrong_with(message) for message in reader.read(2)]
    assert sorted(len(problems) for problems in wrong) == [1, 1]


def test_an_outsider_finds_the_partition_of_a_stream_where_we_put_it(
    producer: KafkaProducer, reader: Reader, layout: Layout
) -> None:
    topic = layout.topic("capacity")
    ours = {key: producer.send(topic, b"{}", key.encode()) for key in KEYS}
    producer.flush(timeout=PATIENCE)
    theirs: dict[str, int] = {}

    def put(error: KafkaError | None, message: Received) -> None:
        assert error is None, error
        theirs[message.key().decode()] = message.partition()

    outsider = Producer({"bootstrap.servers": reader.brokers, "partitioner": reader.partitioner(topic)})
    for key in KEYS:
        outsider.produce(topic, b"{}", key.encode(), on_delivery=put)
    assert outsider.flush(PATIENCE) == 0
    assert theirs == {key: sent.get(timeout=1).partition for key, sent in ours.items()}
    assert len(set(theirs.values())) == layout.partitions
