"""Reading a topic by offset, outside any consumer group: what a group did not bring can be fetched here."""

import threading
from collections.abc import Iterator
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from events.kafka.connection import Broker
from events.kafka.wire import Message

READ_SECONDS = 10
Place = tuple[str, int]
"""Topic and partition."""


class HistoryCutShort(Exception):
    """A topic no longer holds what it held: something deleted messages, or the topic itself."""

    def __init__(self, topic: str, partition: int, offset: int) -> None:
        super().__init__(
            f"{topic}/{partition} does not give the message at offset {offset}; the relay sends everything again once "
            "it notices, or `haven topics rebuild` makes it"
        )


class History:
    """One client of its own; safe for use from several threads, one at a time."""

    def __init__(self, broker: Broker, client_id: str) -> None:
        self._broker = broker
        self._client_id = client_id
        self._consumer: Any = None
        self._guard = threading.Lock()

    def ends(self, places: list[Place]) -> dict[Place, int]:
        """For each partition the offset the next message will get."""
        with self._guard, self._fresh_after_failure():
            ends = self._client().end_offsets([TopicPartition(*place) for place in places])
        return {(place.topic, place.partition): end for place, end in ends.items()}

    def read(self, place: Place, start: int, end: int) -> Iterator[list[Message]]:
        """The messages from offset `start` to before `end`, in batches. Raises HistoryCutShort, or what the client
        raised."""
        while start < end:
            with self._guard, self._fresh_after_failure():
                batch = self._batch(place, start, end)
            if not batch or batch[0].offset != start:
                raise HistoryCutShort(*place, start)
            yield batch
            start = batch[-1].offset + 1

    def close(self) -> None:
        with self._guard:
            self._drop()

    def _batch(self, place: Place, start: int, end: int) -> list[Message]:
        client, partition = self._client(), TopicPartition(*place)
        client.assign([partition])
        client.seek(partition, start)
        records = client.poll(timeout_ms=READ_SECONDS * 1000, max_records=min(end - start, 200)).get(partition, [])
        return [
            Message(
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                key=record.key or b"",
                headers=dict(record.headers),
                body=record.value or b"",
            )
            for record in records
            if record.offset < end
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

    def _fresh_after_failure(self) -> "_FreshAfterFailure":
        return _FreshAfterFailure(self)

    def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close(timeout_ms=1000)


class _FreshAfterFailure:
    """A client that failed is thrown away: whatever state it is in, the next one starts anew."""

    def __init__(self, history: History) -> None:
        self._history = history

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        if kind is not None and issubclass(kind, KafkaError | OSError | ValueError | AssertionError):
            self._history._drop()
