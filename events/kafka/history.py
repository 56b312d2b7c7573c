"""Reading a topic by offset, outside any consumer group: what a group did not bring can be fetched here."""

import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaTimeoutError, OffsetOutOfRangeError, UnknownTopicOrPartitionError

from events.kafka.connection import Broker
from events.kafka.wire import Message

READ_SECONDS = 5
BATCH = 100
Place = tuple[str, int]
"""Topic and partition."""
T = TypeVar("T")


class HistoryCutShort(Exception):
    """A topic no longer holds the message at `offset`: its retention, or a person, deleted what is before `first`."""

    def __init__(self, place: Place, offset: int, first: int) -> None:
        self.first = first
        super().__init__(f"{place[0]}/{place[1]} begins at offset {first} and no longer holds {offset}")


class History:
    """One client of its own; safe for use from several threads, one at a time."""

    def __init__(self, broker: Broker, client_id: str) -> None:
        self._broker = broker
        self._client_id = client_id
        self._consumer: Any = None
        self._guard = threading.Lock()

    def ends(self, places: Iterable[Place]) -> dict[Place, int]:
        """For each partition the offset its next message will get. Raises what the client raised."""
        partitions = [TopicPartition(*place) for place in places]
        try:
            ends = self._ask(lambda client: client.end_offsets(partitions))
        except KeyError:  # a partition that was added since the client was made; the next client knows it
            raise UnknownTopicOrPartitionError from None
        return {(place.topic, place.partition): end for place, end in ends.items()}

    def read(self, place: Place, start: int, end: int) -> list[Message]:
        """Some messages of a partition, beginning with offset `start`, none at or beyond `end`, which it has reached.

        Raises HistoryCutShort, KafkaTimeoutError when the broker gives nothing in time, or what the client raised."""
        return self._ask(lambda client: self._batch(client, place, start, end))

    def close(self) -> None:
        with self._guard:
            self._drop()

    def _ask(self, question: Callable[[Any], T]) -> T:
        with self._guard:
            try:
                return question(self._client())
            except HistoryCutShort:
                raise
            except BaseException:
                self._drop()  # whatever state it is in, the next one starts anew
                raise

    def _batch(self, client: Any, place: Place, start: int, end: int) -> list[Message]:
        partition = TopicPartition(*place)
        client.assign([partition])
        client.seek(partition, start)
        wanted = min(end - start, BATCH)
        try:
            records = client.poll(timeout_ms=READ_SECONDS * 1000, max_records=wanted).get(partition, [])
        except OffsetOutOfRangeError:
            records = []
        if not records or records[0].offset != start:
            first = client.beginning_offsets([partition])[partition]
            if first > start:
                raise HistoryCutShort(place, start, first)
            raise KafkaTimeoutError(f"{place[0]}/{place[1]} does not give offset {start}")
        return [
            Message(
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                key=record.key or b"",
                headers={name: value or b"" for name, value in record.headers},
                body=record.value or b"",
            )
            for record in records
        ]

    def _client(self) -> Any:
        if self._consumer is None:
            self._consumer = KafkaConsumer(
                **self._broker.kafka_python(self._client_id),
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                allow_auto_create_topics=False,
                fetch_max_wait_ms=100,
            )
        return self._consumer

    def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close(timeout_ms=1000)
