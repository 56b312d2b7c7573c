"""What a process counts, and what is read from it when Prometheus asks: names `haven_…` with their unit.

No label is an id, a person or a free text: names of consumers, topics, logs, contracts, stages and countries, all from
closed lists of the code. What has to be asked of a database or broker is asked at scrape time, within seconds; without an
answer the value is absent and the `…_up` gauge beside it is 0, so that an old number never looks like a new one.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from events.envelope import Event, type_of
from events.kafka.dead_letters import dead_letters
from events.log.engines import reading
from events.log.inbox import Consumer
from events.log.schema import parked, timers
from events.log.store import EventLog, Writing
from services.operations.logs import WITHHELD
from services.operations.patience import Patience

SCRAPE_SECONDS = 3.0
"""How long one scrape waits for a database; Prometheus itself gives up after ten."""
HANDLING_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


def registry() -> CollectorRegistry:
    """A new registry with what every process has to say."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # when a counter began says nothing that is not in its reset
    metrics = CollectorRegistry(auto_describe=False)
    metrics.register(WITHHELD)
    return metrics


class Work:
    """What a process does, counted where it happens. A process has one, for all its logs and consumers."""

    def __init__(self, metrics: CollectorRegistry) -> None:
        self._appended = Counter(
            "haven_events_appended", "Events (of the gateway: commands) appended", ["log", "type"], registry=metrics
        )
        self._handled = Counter(
            "haven_events_handled", "Events taken from another log and committed", ["consumer"], registry=metrics
        )
        self._failed = Counter(
            "haven_handling_failures",
            "Tries to handle an event that raised and changed nothing",
            ["consumer"],
            registry=metrics,
        )
        self._seconds = Histogram(
            "haven_handling_duration_seconds",
            "How long a handler worked on one event, its commit not included",
            ["consumer"],
            buckets=HANDLING_BUCKETS,
            registry=metrics,
        )

    def watch_log(self, log: EventLog) -> None:
        """Counts what this process appends to a log."""

        def appended(events: Sequence[Event]) -> None:
            for event in events:
                self._appended.labels(log.source, type_of(event)).inc()

        log.observers.append(appended)

    def watch_consumer(self, consumer: Consumer) -> None:
        """Counts what a consumer handles, once it is committed, and what it fails at."""
        handle, name = consumer.handle, consumer.name
        handled, failed, seconds = self._handled.labels(name), self._failed.labels(name), self._seconds.labels(name)

        def counted(tx: Writing, event: Event) -> None:
            began = time.perf_counter()
            try:
                handle(tx, event)
            except Exception:
                failed.inc()
                raise
            seconds.observe(time.perf_counter() - began)
            tx.after_commit.append(handled.inc)

        consumer.handle = counted


class Asked(Collector):
    """Metrics that have to be asked for; `up` says whether they were answered."""

    def __init__(self, up: str, ask: Callable[[], list[Metric]], seconds: float = SCRAPE_SECONDS) -> None:
        self._up = up
        self._patience = Patience(ask, seconds)

    def collect(self) -> Iterator[Metric]:
        found: list[Metric] | None = None
        with suppress(
            Exception
        ):  # whatever it is: that it is not up says it, and the log of who works with it says why
            found = self._patience.answer()
        yield GaugeMetricFamily(
            self._up, "1 if what is read at scrape time was answered", value=float(found is not None)
        )
        yield from found or ()


# A worker


class Rounds(Protocol):
    """What is read of a worker's sweep (events/kafka/sweep.py)."""

    @property
    def lag(self) -> Mapping[tuple[str, str], int]: ...
    @property
    def problem(self) -> str: ...
    def round(self) -> int: ...


class Taking(Protocol):
    """What is read of a receiver (events/kafka/receiver.py)."""

    @property
    def consumer(self) -> Consumer: ...
    @property
    def problem(self) -> str: ...


def watch_worker(
    metrics: CollectorRegistry,
    sweep: Rounds,
    receivers: Sequence[Taking],
    engine: sa.Engine,
    now: Callable[[], datetime],
    *,
    has_timers: bool,
) -> None:
    """Lag, waiting, dead letters, parked events and overdue timers of one worker process.

    `engine` leads to the service's own tables, `now` is the service's clock, by which its timers run; `has_timers` is False
    for the gateway's projection, which has none and may not read any."""

    rounded_at = time.monotonic()
    make_round = sweep.round

    def timed() -> int:
        nonlocal rounded_at
        taken = make_round()
        if not sweep.problem:
            rounded_at = time.monotonic()
        return taken

    sweep.round = timed  # type: ignore[method-assign]  # the sweep itself has no use for when it was

    def in_memory() -> Iterator[Metric]:
        lag = GaugeMetricFamily(
            "haven_consumer_lag_messages", "Messages of a topic not taken yet", labels=["consumer", "topic"]
        )
        for (consumer, topic), count in dict(sweep.lag).items():
            lag.add_metric([consumer, topic], count)
        yield lag
        waiting = GaugeMetricFamily(
            "haven_consumer_waiting", "1 while a message waits for the database or the broker", labels=["consumer"]
        )
        for receiver in receivers:
            waiting.add_metric([receiver.consumer.name], float(bool(receiver.problem)))
        yield waiting
        yield GaugeMetricFamily(
            "haven_sweep_age_seconds",
            "Seconds since every partition was last looked at with success",
            value=max(0.0, time.monotonic() - rounded_at),
        )

    def in_database() -> list[Metric]:
        names = [receiver.consumer.name for receiver in receivers]
        with reading(engine) as connection:
            found = [_dead_letters(connection, names), _parked(connection, names)]
            return found + ([_overdue(connection, now())] if has_timers else [])

    metrics.register(_Read(in_memory))
    metrics.register(Asked("haven_worker_database_up", in_database))


class _Read(Collector):
    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()


def _dead_letters(connection: sa.Connection, consumers: Sequence[str]) -> Metric:
    letters = GaugeMetricFamily(
        "haven_dead_letters",
        "Messages set aside: given up until a person looks, or to be tried again",
        labels=["consumer", "state"],
    )
    given_up = sa.func.count(dead_letters.c.given_up_at)
    query = sa.select(dead_letters.c.consumer, given_up, sa.func.count()).group_by(dead_letters.c.consumer)
    counts = {consumer: (gone, of_all - gone) for consumer, gone, of_all in connection.execute(query)}
    for consumer in consumers:
        for state, count in zip(("given_up", "retrying"), counts.get(consumer, (0, 0)), strict=True):
            letters.add_metric([consumer, state], count)
    return letters


def _parked(connection: sa.Connection, consumers: Sequence[str]) -> Metric:
    waiting = GaugeMetricFamily(
        "haven_parked_events", "Events that wait, by why (glossary: ParkReason)", labels=["consumer", "reason"]
    )
    query = sa.select(parked.c.consumer, parked.c.reason, sa.func.count()).group_by(parked.c.consumer, parked.c.reason)
    for consumer, reason, count in connection.execute(query):
        if consumer in consumers:
            waiting.add_metric([consumer, reason], count)
    return waiting


def _overdue(connection: sa.Connection, now: datetime) -> Metric:
    earliest = connection.scalar(sa.select(sa.func.min(timers.c.due_at)))
    late = (now - datetime.fromisoformat(earliest)).total_seconds() if earliest else 0.0
    return GaugeMetricFamily(
        "haven_timer_overdue_seconds", "How long the earliest timer is overdue; 0 if none is", value=max(0.0, late)
    )


# The relay


class LogStatus(Protocol):
    """How far the relay of one log is, as this process sees it."""

    @property
    def source(self) -> str: ...
    @property
    def position(self) -> int:
        """Position in the log up to which everything was sent and acknowledged by the broker."""

    @property
    def head(self) -> int:
        """Position of the last event of the log."""

    @property
    def leading(self) -> bool:
        """Whether this process is the one that sends it."""

    @property
    def sent_total(self) -> int: ...
    @property
    def failed_total(self) -> int: ...
    @property
    def last_sent_at(self) -> datetime | None:
        """When the broker last acknowledged a batch, by the real clock; None before the first."""


class Relay(Protocol):
    """What is read of a relay; it may ask the database, and may raise."""

    def status(self) -> Sequence[LogStatus]: ...


def watch_relay(
    metrics: CollectorRegistry, relay: Relay, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> None:
    """Position, head and lag of each log, who leads, what was sent and what failed."""

    def read() -> list[Metric]:
        status = list(relay.status())
        families: list[GaugeMetricFamily | CounterMetricFamily] = [
            *(GaugeMetricFamily(f"haven_relay_{name}", text, labels=["log"]) for name, text in _RELAY_GAUGES.items()),
            CounterMetricFamily("haven_relay_sent", "Events sent and acknowledged by the broker", labels=["log"]),
            CounterMetricFamily("haven_relay_failures", "Batches that could not be sent", labels=["log"]),
        ]
        for log in status:
            values = (
                log.position,
                log.head,
                max(0, log.head - log.position),
                int(log.leading),
                (now() - log.last_sent_at).total_seconds() if log.last_sent_at else None,
                log.sent_total,
                log.failed_total,
            )
            for family, value in zip(families, values, strict=True):
                if value is not None:
                    family.add_metric([log.source], max(0, value))
        return [*families]

    metrics.register(Asked("haven_relay_up", read))


_RELAY_GAUGES = {
    "position": "Position in the log up to which everything was sent",
    "head_position": "Position of the log's last event",
    "lag_events": "Positions between the two; a log may have gaps",
    "leading": "1 in the process that sends this log",
    "last_sent_age_seconds": "Seconds since a batch was last acknowledged; long is well while the lag is 0",
}
