"""Running deciders: load, fold, decide, follow up, append, set the timer. The only loop of its kind in Haven.

A decider is pure (Chassaing's pattern): `decide(state, input, context)` says what happens, `evolve(state, event)` says
what that makes of the state. `follow_up(state, context)` is the process manager: it looks at the state alone and says
what must happen next by itself, again and again until nothing is missing. Being level-triggered it cannot forget: a step
that was lost to a crash or a bug is missing still, and the next event brings it back.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import sqlalchemy as sa

from events.envelope import Contract, Event, derived_id, system_actor
from events.log.engines import is_database_trouble, reading
from events.log.store import EventLog, Exact, Writing
from events.vocabulary import Actor

logger = logging.getLogger(__name__)

S = TypeVar("S")


@dataclass(frozen=True)
class TimePassed:
    """The input a timer gives: whatever was due by `Context.now` is due."""


@dataclass(frozen=True)
class Context:
    """What a decision may know beside the state: who, when and why. `now` comes from the owner's clock."""

    now: datetime
    actor: Actor
    cause_id: str
    facts: Any
    """Service-specific reference facts (reference data, a view of the units)."""

    def new_id(self, *parts: object) -> str:
        """The same id for the same thing, however often its cause is handled."""
        return derived_id(self.cause_id, *parts)


class Decider(Protocol[S]):
    """The pure part of a service."""

    service: str
    initial: S

    def evolve(self, state: S, event: Event) -> S:
        """The state after `event`. Never refuses, never reads a clock: the event's own time counts."""

    def decide(self, state: S, message: Any, context: Context) -> Sequence[Contract]:
        """What `message` (a command, another service's event, or TimePassed) makes happen."""

    def follow_up(self, state: S, context: Context) -> Sequence[Contract]:
        """What must happen next by itself; nothing when nothing is missing."""

    def due(self, state: S) -> datetime | None:
        """When time alone will make something happen next."""


class EndlessFollowUp(Exception):
    """A follow-up that never comes to rest: a bug, stopped before it fills the log."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        super().__init__(f"the follow-up of {stream} does not come to rest")


_SET_TIMER = sa.text(
    "INSERT INTO timers (stream, due_at) VALUES (:stream, :due_at) "
    "ON CONFLICT (stream) DO UPDATE SET due_at = excluded.due_at"
)
_WAKE = sa.text(
    "INSERT INTO timers (stream, due_at) VALUES (:stream, :due_at) ON CONFLICT (stream) DO UPDATE SET due_at = "
    "CASE WHEN timers.due_at < excluded.due_at THEN timers.due_at ELSE excluded.due_at END"
)
_CLEAR_TIMER = sa.text("DELETE FROM timers WHERE stream = :stream")
_DUE = sa.text("SELECT stream FROM timers WHERE due_at <= :now ORDER BY due_at, stream LIMIT :limit")
_NEXT = sa.text("SELECT min(due_at) FROM timers")

MOST_FOLLOW_UPS = 200
STATES_KEPT = 4096
UNEXPECTED_PAUSE = timedelta(minutes=1)


def timestamp(moment: datetime) -> str:
    """Sortable text of a UTC moment, the same on both databases."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def time_cause(stream: str, version: int) -> str:
    """The id that stands for the passing of time as the cause of what follows `version` of a stream."""
    return derived_id(stream, version, "time")


@dataclass(frozen=True)
class Decided(Generic[S]):
    """What was decided about one stream: its version and state before, the state now, and the events between them."""

    stream: str
    version: int
    before: S
    state: S
    events: tuple[Event, ...] = ()


@dataclass
class _Unwritten(Generic[S]):
    """What a transaction has decided and not written yet: the decisions of a burst are written at once, when it ends."""

    runner: "DeciderRunner[S]"
    decided: dict[str, Decided[S]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    """Of all streams, in the order of the decisions."""
    fired: dict[str, datetime] = field(default_factory=dict)
    """The streams whose timers let time pass, and when."""
    woken: dict[str, datetime] = field(default_factory=dict)

    def write(self, tx: Writing) -> None:
        self.runner._write(tx, self)


class DeciderRunner(Generic[S]):
    """Runs one decider over the streams of one log.

    What a transaction decides is written when it ends, or when it is settled before. `appended` is told then, inside the
    transaction, what was decided about each stream that got events: the place for side tables that must commit with them (bed
    claims, views).
    """

    def __init__(
        self,
        log: EventLog,
        decider: Decider[S],
        appended: Callable[[Writing, Sequence[Decided[S]]], None] = lambda _tx, _decided: None,
    ) -> None:
        self.log = log
        self.decider = decider
        self._appended = appended
        self._states: OrderedDict[str, tuple[int, S]] = OrderedDict()
        self._guard = threading.Lock()
        self.woken = threading.Event()
        """Set when something here became due at once; for whoever lets time pass, as a hint not to wait for the next look."""

    def run(
        self,
        tx: Writing,
        stream: str,
        message: Any,
        *,
        now: datetime,
        actor: Actor,
        cause_id: str,
        correlation_id: str,
        facts: Any,
    ) -> Decided[S]:
        """Decides once about `message`; what follows is appended with the caller's transaction."""
        begun = self._load(tx, stream)
        version, state = begun.version + len(begun.events), begun.state
        context = Context(now=now, actor=actor, cause_id=cause_id, facts=facts)
        drafts: list[Event] = []

        def emit(contracts: Sequence[Contract], by: Actor) -> None:
            nonlocal state
            for contract in contracts:
                draft = Event(
                    id=derived_id(cause_id, stream, len(drafts)),
                    source=self.log.source,
                    stream=stream,
                    version=version + len(drafts) + 1,
                    time=now,
                    actor=by,
                    correlation_id=correlation_id,
                    causation_id=cause_id,
                    data=contract,
                )
                drafts.append(draft)
                state = self.decider.evolve(state, draft)

        emit(self.decider.decide(state, message, context), actor)
        itself = system_actor(self.decider.service)
        for _ in range(MOST_FOLLOW_UPS):
            step = self.decider.follow_up(state, context)
            if not step:
                break
            emit(step, itself)
        else:
            raise EndlessFollowUp(stream)
        unwritten = self._unwritten(tx)
        unwritten.decided[stream] = replace(begun, state=state, events=(*begun.events, *drafts))
        unwritten.events += drafts
        if isinstance(message, TimePassed):
            unwritten.fired[stream] = now
        return Decided(stream, version, begun.state, state, tuple(drafts))

    def react(self, tx: Writing, stream: str, event: Event, *, now: datetime, facts: Any = None) -> Decided[S]:
        """Decides about an event of another log: a person's command keeps its actor, anything else is the system's."""
        return self.run(
            tx,
            stream,
            event.data,
            now=now,
            actor=event.actor if event.source == "gateway" else system_actor(self.decider.service),
            cause_id=event.id,
            correlation_id=event.correlation_id,
            facts=facts,
        )

    def pass_time(self, now: datetime, facts: Callable[[Writing], Any] = lambda _tx: None) -> bool:
        """Lets every stream decide whose timer is due, each in a transaction of its own; True when there was one.

        A stream whose decision raises is logged, by id only, and tried again later: it must not keep the others waiting.
        """
        streams = self.due(now)
        for stream in streams:
            try:
                self._let_time_pass(stream, now, facts)
            except Exception as failure:
                if is_database_trouble(failure):
                    raise
                # Whatever one stream does, the other timers must go on.
                logger.error("timer failed stream=%s error=%s", stream, type(failure).__name__)
                with self.log.writing() as tx:
                    later = {"stream": stream, "due_at": timestamp(now + UNEXPECTED_PAUSE)}
                    tx.connection.execute(_SET_TIMER, later)
        return bool(streams)

    def _let_time_pass(self, stream: str, now: datetime, facts: Callable[[Writing], Any]) -> None:
        with self.log.writing() as tx:
            self.run(
                tx,
                stream,
                TimePassed(),
                now=now,
                actor=system_actor(self.decider.service),
                cause_id=time_cause(stream, tx.stream_version(stream)),
                correlation_id=stream.partition("-")[2],
                facts=facts(tx),
            )

    def state(self, tx: Writing, stream: str) -> S:
        return self._load(tx, stream).state

    def due(self, now: datetime, limit: int = 100) -> list[str]:
        """Streams for which time alone makes something happen by `now`."""
        with reading(self.log.engine) as connection:
            return list(connection.scalars(_DUE, {"now": timestamp(now), "limit": limit}))

    def next_due(self) -> datetime | None:
        with reading(self.log.engine) as connection:
            due_at = connection.scalar(_NEXT)
        return datetime.fromisoformat(due_at) if due_at else None

    def wake(self, tx: Writing, stream: str, now: datetime) -> None:
        """Makes the stream due by `now`, or earlier if it is already: something it waits for may have happened."""
        woken = self._unwritten(tx).woken
        woken[stream] = min(now, woken.get(stream, now))
        tx.after_commit.append(self.woken.set)

    def _unwritten(self, tx: Writing) -> _Unwritten[S]:
        unwritten = tx.put_off.setdefault(self.log.source, _Unwritten(self))
        assert isinstance(unwritten, _Unwritten)
        return unwritten

    def _load(self, tx: Writing, stream: str) -> Decided[S]:
        """Where a stream stands in this transaction."""
        if (decided := self._unwritten(tx).decided.get(stream)) is not None:
            return decided
        with self._guard:
            version, state = self._states.get(stream, (0, self.decider.initial))
        for event in tx.read_stream(stream, after=version):
            state = self.decider.evolve(state, event)
            version = event.version
        return Decided(stream, version, state, state)

    def _write(self, tx: Writing, unwritten: _Unwritten[S]) -> None:
        grown = [one for one in unwritten.decided.values() if one.events]
        if grown:
            tx.append(unwritten.events, {one.stream: Exact(one.version) for one in grown})
        self._set_timers(tx, unwritten)
        if grown:
            self._appended(tx, grown)
        tx.after_commit += [partial(self._keep, one) for one in unwritten.decided.values()]

    def _keep(self, decided: Decided[S]) -> None:
        # Only after the commit: a rolled-back state in here would decide about things that never happened.
        stream, version = decided.stream, decided.version + len(decided.events)
        with self._guard:
            if version >= self._states.get(stream, (0,))[0]:
                self._states[stream] = (version, decided.state)
                self._states.move_to_end(stream)
            while len(self._states) > STATES_KEPT:
                self._states.popitem(last=False)

    def _set_timers(self, tx: Writing, unwritten: _Unwritten[S]) -> None:
        to_set, to_clear = [], []
        for stream, decided in unwritten.decided.items():
            due_at, fired_at = self.decider.due(decided.state), unwritten.fired.get(stream)
            due_before = self.decider.due(decided.before) if decided.version else None
            if fired_at is None and (due_at == due_before or not decided.events):
                continue
            if due_at is None:
                to_clear.append({"stream": stream})
                continue
            if fired_at is not None and due_at <= fired_at:
                # A timer that fired and changed nothing would fire for ever; pause it so that the others get their turn.
                due_at = fired_at + UNEXPECTED_PAUSE
            to_set.append({"stream": stream, "due_at": timestamp(due_at)})
        # Woken last: who was woken in this transaction must not sleep until the time of a timer that was set in it.
        to_wake = [{"stream": stream, "due_at": timestamp(now)} for stream, now in unwritten.woken.items()]
        for statement, timers in ((_CLEAR_TIMER, to_clear), (_SET_TIMER, to_set), (_WAKE, to_wake)):
            if timers:
                tx.connection.execute(statement, timers)
