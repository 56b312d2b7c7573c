"""The processes of the distributed runtime: PostgreSQL as the source of truth, Kafka as how services hear each other.

The composition root beside the embedded node's: the same workers, deciders and logs, only what delivers differs. A process
that cannot do its work yet (no broker, no database) stays and says why; one that must not run at all (a wrong setting, tables
of another release) ends at once with the remedy.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import FrameType
from typing import Any

import sqlalchemy as sa
from kafka.errors import KafkaError

from events.kafka import topics
from events.kafka.connection import BrokerProblem
from events.kafka.layout import SOURCES
from events.kafka.receiver import Receiver
from events.kafka.relay import Relay
from events.kafka.sweep import Sweep, Watchdog
from events.kafka.worker import GATHER_SECONDS, bring, faust_app
from events.key_file import KeyEncryptionKeys
from events.log.engines import is_database_trouble
from events.log.hints import READ_MODEL, Announcer, log_channel
from events.log.inbox import Consumer
from events.log.store import EventLog
from events.sealing import KeyStore
from reference import load
from services.capacity.worker import CapacityWorker
from services.clock import Clock, clock_of
from services.config import Settings
from services.connections import engine_of
from services.gateway.erasure import Eraser
from services.gateway.projection import Projection, projection_log
from services.housekeeping import keep_house
from services.migrate import latest
from services.operated import Threads, Watch
from services.operations.case_metrics import watch_read_model
from services.operations.doctor import why_no_database
from services.operations.health import clock_reasons
from services.operations.metrics import watch_relay, watch_worker
from services.operations.tracing import trace_headers
from services.placement.worker import PlacementWorker

logger = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
TIMER_SECONDS = 0.25
"""Between two looks at what is due, unless something became due at once."""
PICTURE_SECONDS = 0.04
"""How long the read model waits for more to show at once. People look at it, and nobody's bed waits for it; showing each event
by itself took more of the processor than deciding did."""
YIELDS = {"projection": 5}
"""By how much a kind of process gives way (nice) to the others where they share a machine: a bed goes before its picture."""
READY_LAG = 1000
"""Messages a consumer may be behind before its process says that it is not ready."""


@dataclass(frozen=True)
class Work:
    """What one kind of worker does: who consumes what, what time makes happen, who is told of commits."""

    log: EventLog
    consumers: tuple[tuple[Consumer, tuple[str, ...]], ...]
    """Each with the services whose logs it follows."""
    channel: str
    pass_time: Callable[[datetime], bool] | None = None
    woken: threading.Event = field(default_factory=threading.Event)
    """Set when time has something to do at once."""
    chores: tuple[Callable[[], object], ...] = ()
    """What is to be forgotten now and then."""
    gather_seconds: float = GATHER_SECONDS
    """How long a message waits for others of its transaction."""


def placement_work(settings: Settings, clock: Clock) -> Work:
    return _deciding(PlacementWorker(_log(settings, "placement"), load(), clock), "gateway", "capacity")


def capacity_work(settings: Settings, clock: Clock) -> Work:
    return _deciding(CapacityWorker(_log(settings, "capacity"), load(), clock), "gateway", "placement")


def _deciding(worker: PlacementWorker | CapacityWorker, *follows: str) -> Work:
    """The work of who decides about what it hears and about time."""
    channel = log_channel(worker.log.source)
    return Work(worker.log, ((worker.consumer, follows),), channel, worker.pass_time, worker.runner.woken)


def projection_work(settings: Settings, _clock: Clock) -> Work:
    """The read model, and the destruction of keys, under two roles: it sees every row, and opens none."""
    log = projection_log(engine_of(settings, "projection", "log"), latest())
    # Without the keys that wrap: who destroys need not be able to open.
    keys = KeyStore(engine_of(settings, "projection", "keys"), KeyEncryptionKeys({}))
    projection = Projection(log)
    consumers = ((projection.consumer, SOURCES), (Eraser(log, keys).consumer, ("placement",)))
    return Work(log, consumers, READ_MODEL, chores=(projection.forget_changes,), gather_seconds=PICTURE_SECONDS)


WORK: dict[str, Callable[[Settings, Clock], Work]] = {
    "placement": placement_work,
    "capacity": capacity_work,
    "projection": projection_work,
}


def _log(settings: Settings, source: str) -> EventLog:
    return EventLog(engine_of(settings, source, "log"), source, latest())


class Worker:
    """One worker process: Faust brings messages, the sweep fetches what Faust does not, timers let time pass."""

    def __init__(self, kind: str, settings: Settings) -> None:
        self.kind = kind
        self.settings = settings
        self.role = f"haven_{kind}"
        self.clock = clock_of(settings)
        self.broker = settings.broker(self.role)
        self.group = f"{settings.kafka_prefix}.{kind}"
        self.name = f"{self.group}.{settings.worker}"
        self.threads = Threads()
        self.waits_for = "starting"
        self.timers_problem = ""
        """Why time does not pass here now; empty when it does."""
        self.work: Work | None = None
        self.receivers: list[Receiver] = []
        self.sweep: Sweep | None = None

    @property
    def topics(self) -> list[str]:
        """The topics this kind of worker follows."""
        assert self.work is not None
        followed = {source for _, follows in self.work.consumers for source in follows}
        return [self.settings.layout.topic(source) for source in sorted(followed)]

    def run(self, watch: Watch) -> int:
        """Works until SIGTERM or SIGINT; the exit status. Raises BadSetting, SchemaMismatch and what else must stop it."""
        os.nice(YIELDS.get(self.kind, 0))
        with _told_to_stop(self.threads.stop):
            try:
                return asyncio.run(self._bring()) if self._prepare(watch) else 0
            finally:
                self.threads.join()

    def ready(self) -> dict[str, str]:
        """Why this worker does not do its work now; empty when it does."""
        if self.waits_for:
            return {"start": self.waits_for}
        assert self.sweep is not None
        assert self.work is not None
        reasons = self.threads.ended() | clock_reasons(self.work.log.engine)
        if not (self.sweep.rounds or self.sweep.problem):
            reasons["kafka"] = "has not looked at the topics yet"
        if self.sweep.problem:
            reasons["kafka"] = f"the topics cannot be read ({self.sweep.problem}); see that the brokers answer"
        if self.timers_problem:
            reasons["timers"] = f"no deadline is kept ({self.timers_problem}); see the log"
        for receiver in self.receivers:
            if receiver.problem:
                reasons[receiver.consumer.name] = f"waits for its database or broker ({receiver.problem})"
        for (consumer, topic), lag in self.sweep.lag.items():
            if lag > READY_LAG:
                reasons[f"{consumer} on {topic}"] = f"{lag} messages behind"
        return reasons

    def _prepare(self, watch: Watch) -> bool:
        """Builds everything that needs the database and the broker, however long they take to come; False if told to stop."""
        self.work = self._until_there(lambda: WORK[self.kind](self.settings, self.clock))
        if self.work is None:
            return False
        watch.log(self.work.log)
        for consumer, _ in self.work.consumers:
            watch.consumer(consumer)
        announcer = Announcer(self.work.log.engine, self.work.channel)
        if self.work.channel == READ_MODEL:
            self.work.log.listeners.append(announcer)
        else:  # who waits for a log need not hear of commits that add nothing to it
            self.work.log.observers.append(lambda _events: announcer())
        self.threads.start("announcer", announcer.run)
        if self.work.pass_time is not None:
            self.threads.start("timers", self._let_time_pass)  # a hold expires also while no broker is there
        if chores := self.work.chores:
            self.threads.start("housekeeping", lambda stop: keep_house(chores, stop))
        layout = self.settings.layout
        topic_ids = self._until_there(lambda: topics.check(self.broker, layout, self.topics))
        if topic_ids is None:
            return False
        self.receivers = [
            Receiver(consumer, self.clock, {topic: topic_ids[topic] for topic in map(layout.topic, follows)})
            for consumer, follows in self.work.consumers
        ]
        self.sweep = Sweep(self.receivers, self.broker, f"{self.name}.sweep")
        has_timers = self.work.pass_time is not None
        watch_worker(watch.metrics, self.sweep, self.receivers, self.work.log.engine, self.clock, has_timers=has_timers)
        if self.kind == "projection":
            watch_read_model(watch.metrics, self.work.log.engine, self.clock, load().countries)
        self.threads.start("sweep", self.sweep.run)
        self.threads.start("watchdog", Watchdog(self.receivers).run)
        self.waits_for = ""
        return True

    def _until_there(self, build: Callable[[], Any]) -> Any:
        while not self.threads.stop.is_set():
            try:
                return build()
            except Exception as failure:
                if isinstance(failure, BrokerProblem):
                    self.waits_for = str(failure)
                elif isinstance(failure, KafkaError):
                    self.waits_for = f"Kafka cannot be used ({type(failure).__name__}); see that the brokers answer"
                elif is_database_trouble(failure):
                    url = self.settings.database_url(self.role)
                    self.waits_for = f"the database cannot be used: {why_no_database(url, failure)}"
                else:
                    raise
                logger.warning("cannot start yet client=%s error=%s", self.group, type(failure).__name__)
            self.threads.stop.wait(RETRY_SECONDS)
        return None

    def _let_time_pass(self, stop: threading.Event) -> None:
        work = self.work
        assert work is not None
        assert work.pass_time is not None
        while not stop.is_set():
            work.woken.clear()  # before the look: what is woken meanwhile is looked at next
            try:
                busy = work.pass_time(self.clock())
                self.timers_problem = ""
            except Exception as failure:  # noqa: BLE001 - the next round may find the database again
                self.timers_problem = type(failure).__name__
                logger.warning("timers failed client=%s error=%s", self.group, type(failure).__name__)
                stop.wait(1.0)
                continue
            if not busy:
                work.woken.wait(TIMER_SECONDS)

    async def _bring(self) -> int:
        assert self.work is not None
        folder = self.settings.data_dir / "faust" / self.kind
        folder.mkdir(parents=True, exist_ok=True)
        app = faust_app(
            group=self.group,
            worker_name=self.name,
            broker=self.broker,
            topics=self.topics,
            receivers=self.receivers,
            folder=folder,
            gather_seconds=self.work.gather_seconds,
        )
        return await bring(app, self.receivers, self.threads.stop)


class RelayProcess:
    """`haven relay`: publishes all three logs. Two or more may run; the second waits for its turn."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._stop = threading.Event()
        name = f"{settings.kafka_prefix}.relay.{settings.worker}"
        broker = settings.broker("haven_relay")
        self._engines = relay_engines(settings)
        self.relay = Relay(self._engines, broker, settings.layout, name, trace_headers, why_no_database)

    def run(self, watch: Watch) -> int:
        """Publishes until SIGTERM or SIGINT; the exit status."""
        watch_relay(watch.metrics, self.relay)
        with _told_to_stop(self._stop):
            self.relay.run(self._stop)
        return 0

    def ready(self) -> dict[str, str]:
        return self.relay.ready() | clock_reasons(self._engines[SOURCES[0]])


def relay_engines(settings: Settings) -> dict[str, sa.Engine]:
    """The three logs as the relay may see them."""
    return {source: engine_of(settings, "relay", source, source) for source in SOURCES}


@contextmanager
def _told_to_stop(stop: threading.Event) -> Iterator[None]:
    def tell(_signal: int, _frame: FrameType | None) -> None:
        # In a thread of its own: this handler may have interrupted the very lock that setting the event takes.
        threading.Thread(target=stop.set, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, tell)
    yield
