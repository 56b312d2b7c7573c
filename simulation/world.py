"""The whole of Haven in one thread, repeatable from one number.

Every service runs its real code on an in-memory database; what is simulated is everything around it: people, clocks, the
transport between the logs, and death. After every step the invariants are checked; at the end the world heals and must
come to rest (the method of FoundationDB and TigerBeetle: safety under faults, then liveness without).
"""

import hashlib
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any, Protocol

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from events.envelope import Event, UnreadableEvent, encode, type_of
from events.gateway import Command, ConfirmCapacity, RegisterUnit, ReportCapacity
from events.log.decider import DeciderRunner
from events.log.engines import sqlite_engine
from events.log.errors import DuplicateEvent
from events.log.follower import Follower
from events.log.inbox import Consumer, Delivery
from events.log.store import EventLog, Writing
from events.vocabulary import Actor, Freshness, UnitProfile
from reference import Reference, load
from services.capacity.worker import CapacityWorker, bed_claims
from services.placement.domain.matching import UnitFacts
from services.placement.domain.request import Request
from services.placement.worker import PlacementWorker, unit_views
from simulation.invariants import Checker, Invariant, InvariantViolated, audit, causally
from simulation.scenarios import People

IN_CAUSAL_ORDER = ("gateway", "capacity", "placement")
START = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
MOST_SKEW = timedelta(minutes=5)
PATIENCE = timedelta(minutes=2)
"""How much later than due a timer may be once the world has healed."""
MOST_ROUNDS = 400
"""After so many rounds without rest, the system does not come to rest."""


class Crash(BaseException):
    """The process dies here. No handler of Haven's may catch it: nobody catches a power cut."""


class Point(StrEnum):
    """Where a process can be hit."""

    BEFORE = "before the transaction"
    INSIDE = "inside the transaction"
    AT_COMMIT = "at the commit"
    AFTER = "after the commit, before anybody heard of it"


class Mishap:
    """Hits one database's next transaction at one point: with death, or with an error the process lives through."""

    def __init__(self, log: EventLog) -> None:
        self.point: Point | None = None
        self.is_dead = False
        self._fatal = True
        self._statements = 0
        sa.event.listen(log.engine, "before_cursor_execute", self._statement)
        sa.event.listen(log.engine, "commit", lambda _connection: self._in_transaction(Point.AT_COMMIT))
        log.listeners.append(lambda: self._outside(Point.AFTER))

    def arm(self, point: Point, *, fatal: bool = True, statements: int = 0) -> None:
        """`statements` is how many statements a hit inside the transaction still lets through."""
        self.point, self._fatal, self._statements = point, fatal, statements

    def before(self) -> None:
        self._outside(Point.BEFORE)

    def clear(self) -> None:
        """No mishap waits, and whoever comes next is alive."""
        self.point, self.is_dead = None, False

    def _statement(self, connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if not (self.point or self.is_dead) or statement.startswith("BEGIN"):
            return  # at its beginning nothing has happened yet: the same as before the transaction
        if not connection.get_execution_options().get("haven_writes"):
            return
        if self.point is Point.INSIDE and self._statements:
            self._statements -= 1
        else:
            self._in_transaction(Point.INSIDE)

    def _in_transaction(self, point: Point) -> None:
        # In here death must be an error that lasts: for a BaseException SQLAlchemy drops the connection, and with it
        # the database in memory. Whatever the dying process still tries fails as well, so nothing of it is kept.
        if self.point is point:
            self.point, self.is_dead = None, self._fatal
        elif not self.is_dead:
            return
        raise OperationalError("simulated", None, OSError("database or disk is full"))

    def _outside(self, point: Point) -> None:
        if self.point is point:
            self.point = None
            raise Crash(point)


class Service(Protocol):
    """What the world needs of a service: any consumer of other logs that may also act when time passes."""

    consumer: Consumer
    runner: DeciderRunner[Any]

    def pass_time(self, now: datetime) -> bool: ...


@dataclass(frozen=True)
class Part:
    """One service of the system. To simulate another consumer, add its part to `PARTS`."""

    name: str
    sources: tuple[str, ...]
    build: Callable[[EventLog, Reference, Callable[[], datetime]], Service]


PARTS = (
    Part("capacity", ("gateway", "placement"), CapacityWorker),
    Part("placement", ("gateway", "capacity"), PlacementWorker),
)


class Transport(Protocol):
    """Brings other logs to one service. `work` does a bounded piece of it and says whether there was anything to do."""

    def work(self) -> bool: ...

    def crash(self) -> None:
        """Forgets what only memory held."""


class ByPosition:
    """The embedded transport as it is: a `Follower` that also lets time pass."""

    def __init__(self, node: "Node", sources: dict[str, EventLog]) -> None:
        self._node, self._sources = node, sources
        self.crash()

    def crash(self) -> None:
        node = self._node
        heard = list(node.log.listeners), [list(log.listeners) for log in self._sources.values()]
        self._follower = Follower(node.service.consumer, self._sources, node.clock, node.service.pass_time)
        self._up_to_date: list[int] | None = None
        # The world asks for each round itself; a hint to look would keep every dead follower in the log's list.
        node.log.listeners[:] = heard[0]
        for log, listeners in zip(self._sources.values(), heard[1], strict=True):
            log.listeners[:] = listeners

    def work(self) -> bool:
        heads = self._node.heads()
        if heads == self._up_to_date:  # there is nothing to read: the timers are all that is left of the round
            return self._node.service.pass_time(self._node.clock())
        busy = self._follower.step()
        self._up_to_date = heads if not busy and self._follower.lag() == 0 else None
        return busy


class Broker:
    """At-least-once, as bad as it may be: duplicates, delays, any order, and an offset that lags behind.

    What was fetched and not yet delivered is memory; only the offsets survive a crash, and everything after them comes
    again.
    """

    def __init__(self, node: "Node", sources: dict[str, EventLog], world: "World") -> None:
        self._node, self._sources, self._world = node, sources, world
        self._rng, self._tally = world.rng, world.tally
        self._offsets = {source: node.service.consumer.position(source) for source in sources}
        self._in_flight: dict[str, list[tuple[int, Event | UnreadableEvent]]] = {}
        self._clogged: dict[str, int] = {}
        self.crash()

    def crash(self) -> None:
        self._fetched = dict(self._offsets)
        self._in_flight = {source: [] for source in self._sources}

    def work(self) -> bool:
        busy = False
        for source in self._sources:
            busy |= self._deliver(source)
        if self._world.is_calm or self._rng.random() < 0.6:
            busy |= self._node.service.pass_time(self._node.clock())
        return busy

    def _deliver(self, source: str) -> bool:
        rng, waiting = self._rng, self._in_flight[source]
        if not self._world.is_calm:
            if self._clogged.get(source, 0) > 0:
                self._clogged[source] -= 1
                return False
            if rng.random() < 0.02:
                self._clogged[source] = rng.randrange(1, 8)
        if len(waiting) < 12 and self._fetched[source] < self._node.head(source):
            fetched = self._sources[source].read_all(after=self._fetched[source], limit=24)
            if fetched:
                waiting += fetched
                self._fetched[source] = fetched[-1][0]
        if not waiting:
            return False
        batch = self._choose(waiting)
        deliveries = self._node.service.consumer.deliver_batch([(None, event) for _, event in batch])
        self._tally["duplicates"] += deliveries.count(Delivery.DUPLICATE)
        self._tally["parked early"] += deliveries.count(Delivery.PARKED)
        for delivered in batch:
            if self._world.is_calm or rng.random() >= 0.05:  # else the broker sends it again later
                waiting.remove(delivered)
        if self._world.is_calm or rng.random() < 0.4:
            self._offsets[source] = min((position for position, _ in waiting), default=self._fetched[source] + 1) - 1
        return True

    def _choose(self, waiting: list[tuple[int, Event | UnreadableEvent]]) -> list[tuple[int, Event | UnreadableEvent]]:
        if self._world.is_calm:
            return list(waiting)
        size = min(len(waiting), self._rng.choice((1, 1, 3, 8)))
        if self._rng.random() < 0.7:
            return waiting[:size]
        self._tally["reordered"] += 1
        return self._rng.sample(waiting, size)


class Node:
    """One running service: its log outlives it, its clock is its own."""

    def __init__(self, part: Part, log: EventLog, world: "World") -> None:
        self.part, self.log, self._world = part, log, world
        self.skew = timedelta()
        self.mishap = Mishap(log)
        self.service = self._build()
        self.transport: Transport

    def clock(self) -> datetime:
        return self._world.now + self.skew

    def head(self, source: str) -> int:
        """Position of the last event in a log: the world sees every commit, so nobody needs to ask the database."""
        return self._world.seen.get(source, 0)

    def heads(self) -> list[int]:
        """The same for every log the service follows."""
        return [self.head(source) for source in self.part.sources]

    def _build(self) -> Service:
        return self.part.build(self.log, self._world.reference, self.clock)

    def crash(self) -> None:
        """The process is gone with everything in its memory; another one starts on the same database."""
        self.mishap.clear()
        self.service = self._build()
        self.transport.crash()


@cache
def reference() -> Reference:
    """Haven's reference data, read once for all worlds."""
    return load()


@dataclass(frozen=True)
class Snapshot:
    """A world at rest, from which other worlds can go on: the databases, the units and the time."""

    databases: dict[str, bytes]
    units: dict[str, UnitProfile]
    now: datetime


MORNINGS = 24


@cache
def morning(number: int) -> Snapshot:
    """One of a few beginnings, in which units are registered, reported and known: each costs as much as twenty steps."""
    world = World(number, embedded=True)
    world.people.settle_in()
    world.settle()
    return world.snapshot()


def _sqlite(log: EventLog) -> sqlite3.Connection:
    connection = log.engine.raw_connection().driver_connection
    assert isinstance(connection, sqlite3.Connection)
    return connection


class World:
    """Haven under one scheduler. The same seed and the same calls give the same logs, byte for byte.

    `embedded` worlds use the embedded transport alone; the others draw one for each service.
    """

    def __init__(
        self, seed: int, *, parts: Iterable[Part] = PARTS, start: "Snapshot | None" = None, embedded: bool = False
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.reference = reference()
        self.now = START
        self.is_calm = False
        """While it is, the transport does nobody any harm."""
        self.tally: Counter[str] = Counter()
        self.types: Counter[str] = Counter()
        self.stages: set[str] = set()
        self.seen: dict[str, int] = {}
        self._dirty: dict[str, None] = {}
        self.logs = {name: EventLog(sqlite_engine(":memory:"), name) for name in ("gateway", *(p.name for p in parts))}
        for source, log in self.logs.items():
            if start is not None:
                _sqlite(log).deserialize(start.databases[source])
            # First in line: what was committed is seen even if the process dies right after.
            log.listeners.append(lambda source=source: self._dirty.setdefault(source))  # type: ignore[misc]
        self.gateway = self.logs["gateway"]
        self.gateway.create_schema()
        self.gateway_mishap = Mishap(self.gateway)
        self.gateway_skew = timedelta()
        self.nodes = [Node(part, self.logs[part.name], self) for part in parts]
        for node in self.nodes:
            sources = {source: self.logs[source] for source in node.part.sources}
            if embedded or self.rng.random() < 0.5:
                node.transport = ByPosition(node, sources)
            else:
                node.transport = Broker(node, sources, self)
        deciders = {node.part.name: node.service.runner.decider for node in self.nodes}
        self.checker = Checker(self.reference, deciders, seed=seed)
        self.people = People(self, self.rng)
        if start is not None:
            self.people.know(start.units)
            self.now = start.now
        for source, event in causally({source: self.read(source) for source in IN_CAUSAL_ORDER}):
            self._see(source, event)
        self.seen = {source: log.head() for source, log in self.logs.items()}
        self.acknowledged = dict.fromkeys(event.id for event in self.read("gateway"))
        self._commands = len(self.acknowledged)

    # What people see and do

    def requests(self) -> dict[str, Request]:
        """Every request as its own log tells it."""
        return {
            stream.partition("-")[2]: state
            for (source, stream), state in self.checker.states.items()
            if source == "placement"
        }

    def submit(self, command: Command, actor: Actor, command_id: str | None = None) -> str:
        """A command reaches the gateway and is acknowledged. A client that got no answer asks again with the same id."""
        if command_id is None:
            self._commands += 1
            command_id = f"command-{self._commands}"
        subject: str = getattr(command, "unit_id", None) or command.request_id  # type: ignore[attr-defined]
        about_units = isinstance(command, RegisterUnit | ReportCapacity | ConfirmCapacity)
        event = Event(
            id=command_id,
            source="gateway",
            stream=f"{'unit' if about_units else 'relocation_request'}-{subject}",
            time=self.now + self.gateway_skew,
            actor=actor,
            correlation_id=subject,
            causation_id=command_id,
            data=command,  # type: ignore[arg-type]
        )
        while command_id not in self.acknowledged:
            try:
                self.gateway_mishap.before()
                self.gateway.append([event])
                self.acknowledged[command_id] = None
            except DuplicateEvent:
                self.acknowledged[command_id] = None
            except (Crash, OperationalError):
                self.tally["gateway failures"] += 1
                self.gateway_mishap.clear()
            self.look()
        self.tally["commands"] += 1
        return command_id

    def submit_again(self, command_id: str) -> None:
        """The same command, sent twice by its client."""
        event = self.gateway.find(command_id)
        assert isinstance(event, Event)
        try:
            self.gateway.append([msgspec.structs.replace(event, version=0)])
        except DuplicateEvent:
            self.tally["commands sent twice"] += 1
        except (Crash, OperationalError):
            self.gateway_mishap.clear()
        else:
            self.checker.violated(Invariant.EFFECTS_ONCE, "the log took a command twice:", command_id)

    # Steps

    def step(self) -> None:
        """One moment: time passes, somebody does something, something breaks, the services get some of their turns."""
        self.checker.step += 1
        self._pass_time()
        for _ in range(self.rng.choice((0, 1, 1, 2))):
            self.people.act()
        self.jostle(self.rng.choice((1, 2, 3)))

    def jostle(self, turns: int) -> None:
        """Something breaks, perhaps, and some services get a turn, in any order."""
        self._break_something()
        for node in self.rng.choices(self.nodes, k=turns):
            self.work(node)

    def work(self, node: Node) -> bool:
        """Gives one service a turn, and sees what came of it."""
        try:
            node.mishap.before()
            return node.transport.work()
        except (Crash, OperationalError) as hit:
            if isinstance(hit, Crash) or node.mishap.is_dead:
                self.tally["crashes"] += 1
                node.crash()
            else:
                self.tally["database failures"] += 1
        except InvariantViolated:
            raise
        except Exception as failure:
            failure.add_note(f"seed {self.seed}, step {self.checker.step}, in {node.part.name}")
            raise InvariantViolated(
                Invariant.NOTHING_LOST, self.seed, self.checker.step, f"{node.part.name} raised {failure!r}"
            ) from failure
        finally:
            self.look()
        return True

    def look(self) -> None:
        """Checks whatever was committed since the last look."""
        for source in list(self._dirty):
            streams: dict[str, None] = {}
            for position, event in self.logs[source].read_all(after=self.seen.get(source, 0), limit=100_000):
                self.seen[source] = position
                self._see(source, event)
                streams[event.stream] = None
            self.checker.rest()
            self._compare(source, streams)
        self._dirty.clear()

    def _see(self, source: str, event: Event | UnreadableEvent) -> None:
        self.checker.see(source, event)
        if isinstance(event, Event):
            self.types[type_of(event)] += 1
        if source == "placement":
            self.stages.add(self.checker.states[source, event.stream].stage)

    def _compare(self, source: str, streams: Iterable[str]) -> None:
        for node in self.nodes:
            if node.part.name != source:
                continue
            with node.log.engine.connect() as connection:
                reading = Writing(node.log, connection)
                for stream in streams:
                    self.checker.state_is(source, stream, node.service.runner.state(reading, stream))
                if source == "capacity":
                    columns = bed_claims.c.unit_id, bed_claims.c.bed, bed_claims.c.hold_id
                    self.checker.claims_are((row[0], row[1], row[2]) for row in connection.execute(sa.select(*columns)))

    def _pass_time(self) -> None:
        rng = self.rng
        luck = rng.random()
        if luck < 0.9:
            self.now += timedelta(minutes=rng.randrange(12))
        elif luck < 0.98:
            self.now += timedelta(minutes=rng.randrange(30, 180))
        else:
            self.now += timedelta(hours=rng.randrange(6, 80))
            self.tally["long jumps"] += 1
        if rng.random() < 0.05:
            # A clock is set right, or wrong: it jumps by minutes, backwards too.
            skew = rng.uniform(-1, 1) * MOST_SKEW
            if (n := rng.randrange(len(self.nodes) + 1)) == len(self.nodes):
                self.gateway_skew = skew
            else:
                self.nodes[n].skew = skew
            self.tally["clock jumps"] += 1

    def _break_something(self) -> None:
        rng = self.rng
        luck = rng.random()
        if luck < 0.16:
            mishap = rng.choice([node.mishap for node in self.nodes] + [self.gateway_mishap])
            point = rng.choice(list(Point))
            mishap.arm(point, fatal=rng.random() < 0.7, statements=rng.randrange(12))
        elif luck < 0.18:
            self.tally["power cuts"] += 1
            for node in self.nodes:
                node.crash()

    # Healing

    def heal(self) -> None:
        """The end of every run: the world calms down; then time passes, and people close what they can."""
        self.people.finish_saying()
        self.calm_down()
        self.now += timedelta(hours=3)
        self.calm_down()
        self.people.close_everything()
        self.calm_down()
        self.people.check_closed()
        audited = audit(
            self.reference,
            self.checker.deciders,
            {source: self.read(source) for source in IN_CAUSAL_ORDER},
            seed=self.seed,
        )
        for (source, stream), state in audited.states.items():
            self.checker.state_is(source, stream, state)
        self.checker.checked += audited.checked

    def calm_down(self) -> None:
        """Clocks agree, everything is delivered, every timer has its turn; then all must be well."""
        self.checker.step += 1
        self.gateway_skew = timedelta()
        for node in self.nodes:
            node.skew = timedelta()
        if self.tally["clock jumps"]:
            self.now += MOST_SKEW  # a clock that was ahead has set timers ahead
        self.settle()
        self.check_healed()

    def settle(self) -> None:
        """Without faults, gives everybody turns in any order until nobody has anything left to do."""
        self.gateway_mishap.clear()
        for node in self.nodes:
            node.mishap.clear()
        self.is_calm = True
        for _ in range(MOST_ROUNDS):
            busy = False
            for node in self.rng.sample(self.nodes, len(self.nodes)):
                busy |= self.work(node)
            if not busy:
                # A follower that failed waits a moment before it tries again.
                self.now += timedelta(seconds=2)
                if not sum(self.work(node) for node in self.nodes):
                    self.is_calm = False
                    return
        self.checker.violated(Invariant.NOTHING_LOST, "the system does not come to rest")

    def check_healed(self) -> None:
        """Everything that must be true once the world is at rest."""
        self.checker.acknowledged(self.acknowledged)
        for node in self.nodes:
            parked = node.service.consumer.parked()
            if parked:
                self.checker.violated(Invariant.NOTHING_LOST, node.part.name, "never handled", parked)
        self.checker.healed(self.now, self._views(), PATIENCE)

    def _views(self) -> dict[str, tuple[int, Freshness]]:
        with self.logs["placement"].engine.connect() as connection:
            rows = connection.execute(sa.select(unit_views.c.unit_id, unit_views.c.facts)).all()
        views = {}
        for unit_id, facts in rows:
            known = msgspec.json.decode(facts, type=UnitFacts)
            views[unit_id] = known.free, known.freshness
        return views

    def read(self, source: str) -> list[Event | UnreadableEvent]:
        """The whole log of one service."""
        return [event for _, event in self.logs[source].read_all(limit=1_000_000)]

    def snapshot(self) -> Snapshot:
        """This world, to go on from. It has to be an embedded one: their cursors are in the databases."""
        return Snapshot(
            {source: _sqlite(log).serialize() for source, log in self.logs.items()}, self.people.units, self.now
        )

    def digest(self) -> str:
        """SHA-256 over every log: two runs did the same if and only if it is the same."""
        records = (encode(event) for source in self.logs for event in self.read(source) if isinstance(event, Event))
        return hashlib.sha256("\n".join(records).encode()).hexdigest()

    def close(self) -> None:
        """Frees the databases; nothing can be read after."""
        for log in self.logs.values():
            log.engine.dispose()


@dataclass
class Summary:
    """What many worlds went through, so that a run shows that it exercised something."""

    seeds: int = 0
    steps: int = 0
    tally: Counter[str] = field(default_factory=Counter)
    """Commands, crashes, duplicates and whatever else the worlds counted."""
    types: Counter[str] = field(default_factory=Counter)
    """Events by type."""
    stages: set[str] = field(default_factory=set)
    """Every stage some request was in."""
    checked: Counter[str] = field(default_factory=Counter)
    """How often each invariant was checked."""

    def lines(self) -> list[str]:
        """The summary for people, one fact a line."""
        happened = {
            "requests": self.types["placement.relocation_request.opened.v1"],
            "confirmed": self.types["placement.placement.confirmed.v1"],
            "arrivals": self.types["placement.journey.arrived.v1"],
            "events": self.types.total(),
            **dict(sorted(self.tally.items())),
        }
        return [
            f"{self.seeds} seeds x {self.steps // max(self.seeds, 1)} steps",
            *(f"{name}: {number}" for name, number in happened.items()),
            *(f"{name} checked: {number}" for name, number in sorted(self.checked.items())),
        ]


def replay_command(seed: int, steps: int) -> str:
    """The command line that repeats one seed."""
    return f"haven simulate --seed {seed} --steps {steps}"


def simulate(seed: int, steps: int) -> World:
    """One world, from its first step until it has healed. Raises InvariantViolated with the command that repeats it."""
    world = World(seed, start=morning(seed % MORNINGS))
    world.now += timedelta(minutes=world.rng.randrange(6 * 60))
    try:
        for _ in range(steps):
            world.step()
        world.heal()
    except InvariantViolated as violated:
        violated.add_note(f"Repeat it with: {replay_command(seed, steps)}")
        raise
    return world


def run(seeds: Iterable[int], steps: int) -> Summary:
    """Many worlds, one after the other. Raises InvariantViolated at the first that breaks a promise."""
    summary = Summary()
    for seed in seeds:
        world = simulate(seed, steps)
        summary.seeds += 1
        summary.steps += steps
        summary.tally += world.tally
        summary.types += world.types
        summary.stages |= world.stages
        summary.checked += Counter({str(name): number for name, number in world.checker.checked.items()})
        world.close()
    return summary
