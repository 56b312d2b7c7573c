"""What no design on these parts can do without: durable inserts and messages through the broker, nothing decided, nothing checked."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient

from deploy.stack import Stack

PATIENCE = 120.0


class RawHops:
    """Insert, message, insert, message, insert: what no design on these parts can do without."""

    def __init__(self, database: str, bootstrap: str, prefix: str) -> None:
        self._database = database
        self._local = threading.local()
        self._topics = (f"{prefix}.1", f"{prefix}.2")
        self._bootstrap = bootstrap
        self._arrived: dict[str, float] = {}
        self._moved = threading.Condition()
        self._stop = threading.Event()
        self._producers = [self._producer() for _ in range(3)]
        ready = [threading.Event(), threading.Event()]
        self._threads = [
            threading.Thread(target=self._consume, args=(number, ready[number]), daemon=True) for number in range(2)
        ]
        for thread in self._threads:
            thread.start()
        for one in ready:
            assert one.wait(30)

    def chain(self, number: int) -> float:
        """When the third insert of one chain was durable."""
        key = f"chain-{number}-{time.perf_counter_ns()}"
        self.insert(key)
        self._send(self._producers[0], self._topics[0], key)
        return self._wait(key)

    def message(self, number: int) -> float:
        """Milliseconds from handing a message to the producer until the consumer has it; the last topic only."""
        key = f"message-{number}-{time.perf_counter_ns()}"
        began = time.perf_counter()
        self._send(self._producers[0], self._topics[1], key)
        return (self._wait(key) - began) * 1000

    def insert(self, key: str) -> None:
        if not hasattr(self._local, "connection"):
            self._local.connection = psycopg.connect(self._database, autocommit=True)
        self._local.connection.execute("INSERT INTO raw (key, body) VALUES (%s, %s)", (key, "x" * 300), prepare=True)

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)
        for producer in self._producers:
            producer.close(timeout=1)

    def _wait(self, key: str) -> float:
        with self._moved:
            assert self._moved.wait_for(lambda: key in self._arrived, PATIENCE)
        return self._arrived[key]

    def _consume(self, number: int, ready: threading.Event) -> None:
        consumer = KafkaConsumer(
            self._topics[number],
            bootstrap_servers=self._bootstrap,
            group_id=None,
            auto_offset_reset="latest",
            fetch_max_wait_ms=100,
        )
        consumer.poll(timeout_ms=500)
        consumer.seek_to_end()
        for place in consumer.assignment():
            consumer.position(place)
        ready.set()
        while not self._stop.is_set():
            for records in consumer.poll(timeout_ms=100).values():
                for record in records:
                    self._take(number, record.key.decode())
        consumer.close()

    def _take(self, number: int, key: str) -> None:
        if key.startswith("message-"):
            self._note(key)
            return
        self.insert(f"{key}-{number}")
        if number == 0:
            self._send(self._producers[1], self._topics[1], key)
        else:
            self._note(key)

    def _note(self, key: str) -> None:
        with self._moved:
            self._arrived[key] = time.perf_counter()
            self._moved.notify_all()

    def _producer(self) -> Any:
        return KafkaProducer(bootstrap_servers=self._bootstrap, acks="all", linger_ms=0)

    @staticmethod
    def _send(producer: Any, topic: str, key: str) -> None:
        producer.send(topic, b"x" * 300, key.encode()).get(timeout=30)


@contextmanager
def raw_hops(stack: Stack) -> Iterator[RawHops]:
    """The hops through a database and topics of their own on the servers of a runtime."""
    admin_url = stack.administrator.url
    name = f"raw{time.time_ns()}"
    admin = KafkaAdminClient(bootstrap_servers=stack.kafka.bootstrap)
    topics = {f"{name}.{number}": {"num_partitions": 1, "replication_factor": 1} for number in (1, 2)}
    admin.create_topics(topics, wait_for_metadata=True)
    with psycopg.connect(plain(admin_url), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    database = plain(admin_url.set(database=name))
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE raw (position bigint GENERATED ALWAYS AS IDENTITY, key text UNIQUE, body text)"
        )
    hops = RawHops(database, stack.kafka.bootstrap, name)
    try:
        yield hops
    finally:
        hops.close()
        admin.delete_topics(list(topics))
        admin.close()


def plain(url: sa.URL) -> str:
    """A URL as psycopg takes it, with its password."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)
