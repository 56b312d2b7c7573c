"""From a request to its bed on hold through the distributed runtime: real PostgreSQL, real Kafka, Faust workers, relay.

Beside it, in the same run and at the same rate, the raw cost of the hops it cannot avoid: a durable insert, a message through
the broker, a durable insert, a message, a durable insert; nothing decided, nothing checked.
"""

import base64
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import psycopg
import sqlalchemy as sa
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from msgspec.structs import replace

from bench import live
from bench.held import OPENED
from bench.row import Row, percentile
from deploy.stack import UNLIMITED, Stack
from events.log.hints import log_channel
from events.vocabulary import Group, Track, UnitProfile
from reference import load
from simulation.inventory import SyntheticUnit, synthetic_inventory

RATES = ((1, 30), (5, 20), (20, 20))
"""Requests a second, and for how many seconds."""
WORKERS = (1, 2, 4)
BACKLOG = 300
HISTORIES = (1_000, 100_000, 1_000_000)
SENDERS = 16
PATIENCE = 120.0
BEDS = 200
COPIES = 4
"""As many units fit a request as there are in all the Benelux, and each has more beds than any has: none may run out."""
WHO = "be-police-antwerp-1"


def measure() -> list[Row]:
    """All rows; about five minutes."""
    return list(rows_as_measured())


def rows_as_measured() -> Iterator[Row]:
    """The same, each when it is known."""
    # Not below a folder of this user alone: under root PostgreSQL runs as somebody else.
    folder = tempfile.mkdtemp(prefix="haven-bench-")
    try:
        counts = {"placement": 1, "capacity": 1}
        with Stack(folder, secure=False, counts=counts, inventory=_many_beds(), more=UNLIMITED) as stack:
            for part in (_raw_append, _held_at_rates, _live, _throughput, _history):
                yield from part(stack)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _many_beds() -> Sequence[SyntheticUnit]:
    """Enough free beds that every request finds one: the latency of a hold is measured, not that of an unmet need."""
    fitting = [unit for unit in synthetic_inventory(2026, load()) if _fits(unit.profile)]
    return [
        replace(
            unit,
            profile=replace(unit.profile, unit_id=f"{unit.profile.unit_id}-{copy}"),
            beds=BEDS,
            free=BEDS,
            blocked=0,
            blocked_because=None,
        )
        for copy in range(COPIES)
        for unit in fitting
    ]


def _fits(profile: UnitProfile) -> bool:
    return profile.track is Track.ADULT and Group.WOMEN in profile.accepts and profile.open_at_night


def _raw_append(stack: Stack) -> list[Row]:
    with _raw_hops(stack) as hops:
        samples = []
        for number in range(300):
            began = time.perf_counter()
            hops.insert(f"append-{number}")
            samples.append((time.perf_counter() - began) * 1000)
        through = [hops.message(number) for number in range(200)]
    return [
        Row(name="raw: one durable insert, p50", value=percentile(samples, 50), unit="ms"),
        Row(name="raw: one durable insert, p99", value=percentile(samples, 99), unit="ms"),
        Row(name="raw: produced to consumed, p50", value=percentile(through, 50), unit="ms"),
        Row(name="raw: produced to consumed, p99", value=percentile(through, 99), unit="ms"),
    ]


def _held_at_rates(stack: Stack) -> list[Row]:
    rows = []
    for rate, seconds in RATES:
        with _raw_hops(stack) as hops:
            raw = at_rate(rate, seconds, hops.chain)
        held = Held(stack)
        ours = held.at_rate(rate, seconds)
        for percent in (50, 99):
            value, floor = percentile(ours, percent), percentile(raw, percent)
            rows.append(
                Row(
                    name=f"distributed: request to bed held at {rate}/s, p{percent}",
                    value=round(value, 1),
                    unit="ms",
                    anchor=f"the raw hops at {rate}/s, p{percent}",
                    anchor_value=round(floor, 1),
                    ratio=round(value / floor, 2),
                    goal="<= 2 x" if percent == 99 else "",
                )
            )
        if rate == RATES[-1][0]:
            worst = round(percentile(ours, 99), 1)
            rows.append(Row(name=f"distributed: the same at {rate}/s, p99", value=worst, unit="ms", goal="<= 100 ms"))
    return rows


def _live(stack: Stack) -> list[Row]:
    logins = json.loads((stack.data / "demo-logins.json").read_text())
    return live.rows("distributed", stack.url, stack.stream_url, logins)


def _throughput(stack: Stack) -> list[Row]:
    """Requests to beds held when a backlog waits, by how many workers of each kind share the work."""
    rows, first = [], 0.0
    for count in WORKERS:
        for kind in ("placement", "capacity"):
            stack.scale(kind, 0)
        held = Held(stack)
        held.open_many(BACKLOG)
        for kind in ("placement", "capacity"):
            stack.scale(kind, count)
        moments = sorted(held.all_held(BACKLOG))
        rate = (len(moments) - 1) / (moments[-1] - moments[0])
        first = first or rate
        rows.append(
            Row(
                name=f"distributed: backlog of {BACKLOG} requests, {count} workers of each kind",
                value=round(rate, 1),
                unit="requests/s",
                anchor="one worker of each kind",
                anchor_value=round(first, 1),
                ratio=round(rate / first, 2),
            )
        )
    for kind in ("placement", "capacity"):
        stack.scale(kind, 1)
    return rows


def _history(stack: Stack) -> list[Row]:
    """What a request costs when much has happened before it."""
    rows, first, there = [], 0.0, 0
    Held(stack).at_rate(1, 2)  # every log has been published once: its cursor is there to be moved
    stack.settle()
    for size in HISTORIES:
        _remember(stack, there, size)
        there = size
        value = percentile(Held(stack).at_rate(5, 10), 50)
        first = first or value
        rows.append(
            Row(
                name=f"distributed: request to bed held, p50, after {size:,} events",
                value=round(value, 1),
                unit="ms",
                anchor=f"after {HISTORIES[0]:,} events",
                anchor_value=round(first, 1),
                ratio=round(value / first, 2),
                goal="<= 1.5 x",
            )
        )
    return rows


def _remember(stack: Stack, first: int, last: int) -> None:
    """Puts events nobody acts on into every log, as many as would be there, with what their consumers remember of them."""
    stack.scale("relay", 0)
    consumers = {"gateway": "gateway.read_model", "placement": "placement", "capacity": "capacity"}
    with stack.administrator.connect() as connection:
        for schema, consumer in consumers.items():
            connection.exec_driver_sql(
                f"INSERT INTO {schema}.events (id, stream, version, type, record) "  # noqa: S608 - names of our own
                "SELECT 'history-' || i, 'history-' || (i / 10), mod(i, 10) + 1, 'gateway.record.consulted.v1', "
                "repeat('{', 300) FROM generate_series(%s::bigint, %s::bigint) AS i",
                (first, last - 1),
            )
            connection.exec_driver_sql(
                f"UPDATE {schema}.relay_cursors SET position = e.position, event_id = e.id "  # noqa: S608
                f"FROM (SELECT position, id FROM {schema}.events ORDER BY position DESC LIMIT 1) AS e"
            )
            connection.exec_driver_sql(
                f"INSERT INTO {schema}.inbox (consumer, source, stream, version, event_id) "  # noqa: S608
                "SELECT %s, 'gateway', 'history-' || i, 10, 'history' FROM generate_series(%s::bigint, %s::bigint) AS i",
                (consumer, first // 10, last // 10 - 1),
            )
            connection.exec_driver_sql(f"ANALYZE {schema}.events")
    stack.scale("relay", 1)


def at_rate(rate: float, seconds: float, work: Callable[[int], float]) -> list[float]:
    """Milliseconds of each piece of work, begun at its own moment whatever the others take; counted from that moment."""
    began = time.perf_counter()

    def one(number: int) -> float:
        due = began + number / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        return (work(number) - due) * 1000

    with ThreadPoolExecutor(SENDERS) as senders:
        return list(senders.map(one, range(int(rate * seconds))))


# Haven


@dataclass
class Held:
    """Opens requests through the gateway, and notices when a bed is on hold for each."""

    stack: Stack
    _moments: dict[str, float] = field(default_factory=dict)
    _moved: threading.Condition = field(default_factory=threading.Condition)
    _local: threading.local = field(default_factory=threading.local)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        logins = json.loads((self.stack.data / "demo-logins.json").read_text())
        self._basic = base64.b64encode(f"{WHO}:{logins[WHO]}".encode()).decode()
        self._token = self._new_token()
        listening = threading.Event()
        threading.Thread(target=self._watch, args=(listening,), daemon=True).start()
        assert listening.wait(10)

    def at_rate(self, rate: float, seconds: float) -> list[float]:
        try:
            return at_rate(rate, seconds, lambda _number: self._held(self._open()))
        finally:
            self._stop.set()

    def open_many(self, count: int) -> None:
        with ThreadPoolExecutor(SENDERS) as senders:
            for _ in senders.map(lambda _number: self._open(), range(count)):
                pass

    def all_held(self, count: int) -> list[float]:
        """The moments at which each request had a bed on hold."""
        ends = time.monotonic() + PATIENCE
        while len(self._moments) < count:
            assert time.monotonic() < ends, f"{len(self._moments)} of {count} have a bed"
            time.sleep(0.05)
        self._stop.set()
        return list(self._moments.values())

    def _open(self) -> str:
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/json",
            "Idempotency-Key": f"benchmark-{time.perf_counter_ns()}-{threading.get_ident()}",
        }
        connection = self._connection()
        while True:
            connection.request("POST", "/api/v1/relocation-requests", json.dumps(OPENED), headers)
            response = connection.getresponse()
            answered = json.loads(response.read())
            if response.status == 202:
                return str(answered["request_id"])
            # Too much at once for a time limit of the database: the same again, as any client would.
            assert response.status == 503, answered
            time.sleep(0.1)

    def _held(self, request_id: str) -> float:
        with self._moved:
            assert self._moved.wait_for(lambda: request_id in self._moments, PATIENCE), f"no bed for {request_id}"
        return self._moments[request_id]

    def _connection(self) -> HTTPConnection:
        if not hasattr(self._local, "connection"):
            place = urlsplit(self.stack.url)
            self._local.connection = HTTPConnection(str(place.hostname), place.port, timeout=30)
        connection: HTTPConnection = self._local.connection
        return connection

    def _new_token(self) -> str:
        connection = self._connection()
        form = {"Authorization": f"Basic {self._basic}", "Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/oauth/token", "grant_type=client_credentials", form)
        return str(json.loads(connection.getresponse().read())["access_token"])

    def _watch(self, listening: threading.Event) -> None:
        """Notes when each request has its first bed on hold, as anybody sees it who looks at capacity's log."""
        with psycopg.connect(_plain(self.stack.administrator.url), autocommit=True) as connection:
            connection.execute(f'LISTEN "{log_channel("capacity")}"')
            last = connection.execute("SELECT coalesce(max(position), 0) FROM capacity.events").fetchone()
            position = last[0] if last else 0
            listening.set()
            while not self._stop.is_set():
                for _ in connection.notifies(timeout=0.05, stop_after=1):
                    pass
                found = connection.execute(
                    "SELECT position, record::json -> 'data' ->> 'request_id', type FROM capacity.events "
                    "WHERE position > %s ORDER BY position",
                    (position,),
                ).fetchall()
                now = time.perf_counter()
                position = found[-1][0] if found else position
                with self._moved:
                    for _, request_id, kind in found:
                        if kind == "capacity.hold.placed.v1":
                            self._moments.setdefault(request_id, now)
                    self._moved.notify_all()


# The raw hops


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
def _raw_hops(stack: Stack) -> Iterator[RawHops]:
    admin_url = stack.administrator.url
    name = f"raw{time.time_ns()}"
    admin = KafkaAdminClient(bootstrap_servers=stack.kafka.bootstrap)
    topics = {f"{name}.{number}": {"num_partitions": 1, "replication_factor": 1} for number in (1, 2)}
    admin.create_topics(topics, wait_for_metadata=True)
    with psycopg.connect(_plain(admin_url), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    database = _plain(admin_url.set(database=name))
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


def _plain(url: sa.URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def main() -> None:
    """The distributed rows alone."""
    for row in rows_as_measured():
        print(row.name, row.value, row.unit, row.anchor_value, row.ratio, row.goal, flush=True)


if __name__ == "__main__":
    main()
