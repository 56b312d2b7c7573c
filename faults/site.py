"""The runtime under load, a supervisor that starts again what died, and the measure of how long the dead were missed."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import sqlalchemy as sa
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from deploy.process import Command, PartFailed
from deploy.stack import UNLIMITED, HavenProcess, Stack
from events.kafka.history import Place
from faults.client import Client, Journal, NoAnswer
from faults.load import Load
from faults.wrapped import CrashFile

SPEED = 300
"""An unanswered question of thirty minutes runs out in six seconds, an urgent hold of two hours in twenty-four."""
RECOVERY_SECONDS = 90.0
"""After this long without any effect a fault counts as not recovered from."""
SUPERVISOR_SECONDS = 0.3
POISON = b"faults.poison"
"""Key of the messages that are no events."""


class Wrapped(HavenProcess):
    """One of Haven's processes, started through `faults.wrapped`."""

    def __init__(self, folder: Path, kind: str, environment: Mapping[str, str]) -> None:
        super().__init__(folder, kind, environment)
        self.crash = CrashFile(self.folder / "crash")
        self.bug = ""
        """Of `faults.bugs`, from its next start on."""
        self.hands = threading.Lock()
        """Held by who breaks it: the supervisor leaves it alone."""
        self.restarts = 0

    def _prepare(self) -> Command:
        command = super()._prepare()
        program = [command.arguments[0], "-m", "faults.wrapped", self.crash.path, self.bug, self.kind]
        return Command(program, command.folder, environment=command.environment)

    def start_again(self) -> None:
        """As a supervisor does: at once, and again if it ends while it starts. Raises PartFailed."""
        for last in (False, False, True):
            try:
                self.start()
                return
            except PartFailed:
                if last:
                    raise


class BreakableStack(Stack):
    """The whole runtime, of processes that can be broken."""

    def start_processes(self) -> None:
        for kind, count in self.counts.items():
            for number in range(1, count + 1):
                name = f"{kind}-{number}"
                self.processes[name] = Wrapped(self.folder / name, kind, self.environment)
        with ThreadPoolExecutor(len(self.processes)) as pool:
            for _ in pool.map(self._running.enter_context, self.processes.values()):
                pass

    def wrapped(self, kind: str = "") -> list[Wrapped]:
        """The processes of one kind, or all."""
        return [it for it in self.processes.values() if isinstance(it, Wrapped) and kind in ("", it.kind)]


@dataclass
class Recovery:
    """How long it took from a fault to the first effect, end to end, of a request acknowledged after it: the read model shows
    that a bed is held and its shelter asked."""

    seconds: list[float] = field(default_factory=list)
    never: int = 0
    without_bed: int = 0
    """Requests that were decided, but for which no bed was free: another was opened."""


class Site:
    """One installation, its people and its journal."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        rate: float,
        counts: Mapping[str, int] | None = None,
    ) -> None:
        more = {"HAVEN_EXERCISE_SPEED": str(SPEED), "HAVEN_DPOP": "offered", **UNLIMITED}
        self.stack = BreakableStack(folder, secure=False, counts=counts, more=more)
        self.rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self.seed = seed
        self.rate = rate
        self.recovery = Recovery()
        self.poison: set[tuple[str, int, int]] = set()
        """Where a message lies that is no event: topic, partition, offset."""
        self.old_poison: set[tuple[str, int, int]] = set()
        """The same in a cluster that is gone."""
        self._stop = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        # Autocommit and no pool, like the administrator's, but many may look at once.
        self.database = sa.create_engine(
            self.stack.administrator.url,
            pool_size=12,
            pool_pre_ping=True,
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": 3},
        )

    def __enter__(self) -> Self:
        self.stack.start()
        logins = json.loads((self.stack.data / "demo-logins.json").read_text())
        self.journal = Journal(self.stack.folder / "journal")
        self.client = Client(lambda: [it.url for it in self.stack.of("gateway")], logins, self.journal)
        self.load = Load(self.client, self.database, seed=self.seed, rate=self.rate)
        self._supervisor.start()
        self.load.report_every_bed()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._supervisor.join()
        self.journal.close()
        self.database.dispose()
        self.stack.stop()

    def bring_in(self, bug: str, kind: str) -> None:
        """A bad release: the processes of a kind are started again with a bug in them."""
        for process in self.stack.wrapped(kind):
            with self.in_hand(process):
                process.stop()
                process.bug = bug
                process.start_again()

    @contextmanager
    def in_hand(self, process: Wrapped) -> Iterator[Wrapped]:
        """A process to break, which the supervisor leaves alone meanwhile."""
        with process.hands:
            yield process

    @contextmanager
    def felt(self) -> Iterator[None]:
        """From here on the fault is felt: measures until the first effect of a request acknowledged after it."""
        begun = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            measured = pool.submit(self._first_effect, begun)
            yield
        measured.result()

    def calm_down(self, seconds: float) -> None:
        """People finish what is open, then everything that was said is heard by everybody. Raises PartFailed or NoAnswer."""
        self.load.close_everything(seconds)
        self.stack.settle(seconds)

    def places(self) -> dict[Place, int]:
        """Every partition of the three logs' topics, and where it ends."""
        consumer = KafkaConsumer(**self.stack.kafka.client(), group_id=None)
        try:
            layout = self.stack.settings.layout
            places = [
                TopicPartition(layout.topic(source), partition)
                for source in layout.sources
                for partition in range(layout.partitions)
            ]
            return {(place.topic, place.partition): end for place, end in consumer.end_offsets(places).items()}
        finally:
            consumer.close()

    def told(self) -> set[str]:
        """Ids of the dead letters that Kafka holds."""
        place = TopicPartition(self.stack.settings.layout.dead_letters, 0)
        consumer = KafkaConsumer(**self.stack.kafka.client(), group_id=None)
        try:
            consumer.assign([place])
            consumer.seek_to_beginning()
            end, ids = consumer.end_offsets([place])[place], set()
            while consumer.position(place) < end:
                for record in consumer.poll(timeout_ms=1000).get(place, ()):
                    ids.add(dict(record.headers)["ce_id"].decode())
            return ids
        finally:
            consumer.close()

    def spoil(self, source: str) -> None:
        """Puts a message into a log's topic that is no event."""
        producer = KafkaProducer(**self.stack.kafka.client(), acks="all")
        try:
            sent = producer.send(self.stack.settings.layout.topic(source), b"{", POISON).get(timeout=20)
        finally:
            producer.close()
        self.poison.add((sent.topic, sent.partition, sent.offset))

    def _first_effect(self, begun: float) -> None:
        ends = begun + RECOVERY_SECONDS
        while time.monotonic() < ends:
            try:
                request_id = self.load.open_request(urgent=True)
            except NoAnswer:
                continue
            stage = self._until_decided(request_id, ends)
            if stage == "held":
                self.recovery.seconds.append(time.monotonic() - begun)
                return
            self.recovery.without_bed += stage != ""
        self.recovery.never += 1

    def _until_decided(self, request_id: str, ends: float) -> str:
        query = sa.text(
            "SELECT view::jsonb ->> 'stage', view::jsonb ->> 'asks' <> '{}' FROM gateway.requests WHERE request_id = :id"
        )
        while time.monotonic() < ends:
            with suppress(sa.exc.SQLAlchemyError), self.database.connect() as connection:
                for stage, asked in connection.execute(query, {"id": request_id}):
                    if asked:
                        return "held"
                    if stage in ("unmet_need", "withdrawn", "erased"):
                        return str(stage)
            time.sleep(0.02)
        return ""

    def _supervise(self) -> None:
        while not self._stop.wait(SUPERVISOR_SECONDS):
            for process in self.stack.wrapped():
                if process.hands.acquire(blocking=False):
                    try:
                        self._see_to(process)
                    finally:
                        process.hands.release()

    def _see_to(self, process: Wrapped) -> None:
        if not (process.running or self._stop.is_set()):
            process.restarts += 1
            with suppress(PartFailed):
                process.start()

    @property
    def ended_by_themselves(self) -> Counter[str]:
        """Processes that the supervisor had to start again."""
        return Counter({it.kind: it.restarts for it in self.stack.wrapped() if it.restarts})


Strike = Callable[[Site], None]
"""Breaks something once and heals it."""
