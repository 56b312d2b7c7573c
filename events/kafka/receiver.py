"""Taking messages from Kafka so that each counts once, in stream order, and none is skipped, whoever brings it.

What was taken is remembered in the service's own database, in the transaction of its effects: which version of each
stream (the inbox) and up to which offset of each partition everything was taken (a cursor). The group's committed offsets
are never trusted: Faust acknowledges what failed, and what it drops in a rebalance (docs/adr/0018). A message that arrives
beyond the cursor is taken all the same and leaves the cursor where it is; the sweep fetches what is missing.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import msgspec

from events.envelope import CONTRACTS, Event, derived_id
from events.kafka import dead_letters
from events.kafka.dead_letters import CUT_SHORT, HANGS, MALFORMED, TRIES, DeadLetter
from events.kafka.history import History, HistoryCutShort, Place
from events.kafka.wire import Malformed, Message, to_event
from events.log.decider import timestamp
from events.log.engines import is_database_trouble, reading
from events.log.inbox import Consumer, Incoming, ParkReason
from events.log.store import Writing

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0
LONG_WAIT_SECONDS = 1.0
COMPANY_SECONDS = 0.25
"""How long a message that its receiver only has to remember having seen waits for others: it goes along with them, and costs no
transaction of its own."""


class Stopping(Exception):
    """The process is told to stop while a message waits for its database: it stays unacknowledged."""


class Hanging(Exception):
    """The handler of this event did not come back once; it is not called again before somebody asks for it."""


@dataclass(frozen=True, eq=False)
class AtWork:
    """One run of a handler. Another run, also for the same event, is another object."""

    event: Event
    place: Place
    offset: int


class _AtHand:
    """Where the events that are being taken came from."""

    def __init__(self) -> None:
        self._offsets: dict[str, int] = {}
        self._places: dict[tuple[str, str], Place] = {}

    def add(self, incoming: Incoming, place: Place, offset: int) -> None:
        self._offsets.setdefault(incoming.id, offset)
        self._places[incoming.source, incoming.stream] = place

    def where(self, incoming: Incoming) -> tuple[Place, int]:
        """The partition, and the offset: -1 for what came earlier and had to wait."""
        return self._places[incoming.source, incoming.stream], self._offsets.get(incoming.id, -1)


class Receiver:
    """Takes the messages of the topics one consumer follows. Safe for use from several threads and processes at once: the
    write transaction of the consumer's log lets one in at a time."""

    def __init__(self, consumer: Consumer, clock: Callable[[], datetime], topic_ids: Mapping[str, str]) -> None:
        self.consumer = consumer
        self.stopping = threading.Event()
        self.problem = ""
        """Why the message at hand cannot be taken yet; empty when nothing keeps it."""
        self.at_work: AtWork | None = None
        """The handler that runs now, for the watchdog."""
        self.topic_ids = dict(topic_ids)
        self._clock = clock
        self._known: dict[str, int] = {}
        # Both change only inside the write transaction.
        self._at_hand = _AtHand()
        self._hanging: frozenset[str] = frozenset()
        self._handle = consumer.handle
        consumer.handle = self._watched
        consumer.on_parked = self._write_down

    def is_pressing(self, message: Message) -> bool:
        """Whether the consumer does something about such a message, as far as its header says; what nobody knows is pressing."""
        acts_on, says = self.consumer.acts_on, message.headers.get("ce_type", b"").decode(errors="replace")
        return acts_on is None or says in acts_on or says not in CONTRACTS

    def receive(self, messages: Sequence[Message]) -> None:
        """Takes what is waiting, in its order, however long the database keeps it waiting. Never raises for what a message is
        or does: that becomes a dead letter. Raises Stopping when the process ends meanwhile."""
        # A group that forgot its offsets starts at the first message; if this is wrong, the sweep finds out.
        waiting = [it for it in messages if it.offset >= self._known.get(self._key((it.topic, it.partition)), 0)]
        pause, tries = FIRST_PAUSE_SECONDS, 0
        while waiting and not self.stopping.is_set():
            try:
                self.take(waiting, set_aside=tries >= TRIES)
                self.problem = ""
                return
            except Exception as failure:
                if not is_database_trouble(failure):
                    raise
                self.problem, tries = type(failure).__name__, tries + 1
                logger.warning(
                    "waiting consumer=%s topic=%s partition=%d offset=%d error=%s",
                    self.consumer.name,
                    waiting[0].topic,
                    waiting[0].partition,
                    waiting[0].offset,
                    self.problem,
                )
            self.stopping.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            if len(waiting) > 1:  # one of them may be what the trouble is about
                for message in waiting:
                    self.receive([message])
                return
        if waiting:
            raise Stopping

    def take(self, messages: Sequence[Message], *, set_aside: bool = False) -> None:
        """Takes a run of messages, of each partition in its order, in one transaction or, when one of them fails, one by one.
        Raises only for trouble of the database, with nothing changed.

        `set_aside` is for what met trouble again and again: if the database is well enough to write that down, it is the
        handler whose statements always run out of time."""
        try:
            self._take_together(messages)
        except Exception as failure:
            if is_database_trouble(failure) and not set_aside:
                raise
            if len(messages) == 1:
                self._set_aside(messages[0], type(failure).__name__)
                return
            for message in messages:
                self.take([message])

    def position(self, place: Place) -> int:
        """The offset up to which everything of a partition was taken, whichever process took it."""
        return self.consumer.position(self._key(place))

    def learn_positions(self, places: Iterable[Place]) -> dict[Place, int]:
        """The same of those it follows, and remembers them: what lies before need not be taken again when somebody brings it."""
        positions = self.consumer.positions()
        learnt = {place: positions.get(self._key(place), 0) for place in places if place[0] in self.topic_ids}
        self._known.update((self._key(place), position) for place, position in learnt.items())
        return learnt

    def catch_up(self, history: History, place: Place, end: int) -> int:
        """Takes what nobody has taken before offset `end`, asking before each batch how far others have come; how many
        messages that was. Raises KafkaError, or Stopping."""
        taken = 0
        while (start := self.position(place)) < end and not self.stopping.is_set():
            try:
                batch = history.read(place, start, end)
            except HistoryCutShort as cut:
                logger.critical("messages are gone topic=%s partition=%d error=%s", *place, type(cut).__name__)
                self._skip_what_is_gone(place, start, cut.first)
                continue
            try:
                self.take(batch)
                taken += len(batch)
            except Exception as failure:
                if not is_database_trouble(failure):
                    raise
                self.receive(batch[:1])  # waits for the database
        return taken

    def stands_in(self, history: History, place: Place, end: int) -> bool:
        """Whether a partition that ends at `end` still holds, where the cursor stands, what was taken there. The same topic
        restored from a backup holds less, or other things. Raises KafkaError."""
        position, event_id = self.consumer.bookmark(self._key(place))
        if position > end:
            return False
        if not event_id:
            return True
        try:
            last = history.read(place, position - 1, position)[0]
        except HistoryCutShort:
            return True  # it lost its beginning, and what comes next will show whether that matters
        return last.headers.get("ce_id") == event_id.encode()

    def start_over(self, place: Place) -> None:
        """Takes a partition from its first message: it is not the one the cursor was kept for."""
        self.consumer.reset_cursor(self._key(place))

    def look_for_hanging(self) -> None:
        """Learns what other processes were ended for."""
        with reading(self.consumer.log.engine) as connection:
            self._hanging = dead_letters.hanging(connection, self.consumer.name)

    def due(self) -> list[DeadLetter]:
        """The dead letters whose next try is due."""
        with reading(self.consumer.log.engine) as connection:
            return dead_letters.due(connection, self.consumer.name, self._clock())

    def retry(self, history: History, letter: DeadLetter) -> bool:
        """Tries again what was set aside, and what waits behind it; whether the dead letter is settled. Raises KafkaError
        for one whose message cannot be read now."""
        if not letter.is_event:
            return self._retry_message(history, letter)
        self.look_for_hanging()
        try:
            if not self._retry_first(letter):
                return False
        except Exception as failure:
            if not is_database_trouble(failure):
                raise
            with self._writing() as tx:  # counts, unless the database cannot even write that down
                again = msgspec.structs.replace(letter, reason=ParkReason.FAILED, error=type(failure).__name__)
                dead_letters.failed(tx.connection, again, self._clock())
            return False
        while self._retry_next(letter):
            pass
        return True

    def retry_after_start(self) -> None:
        """Has everything tried once more that an earlier release may have failed at."""
        with self._writing() as tx:
            dead_letters.retry_after_start(tx.connection, self.consumer.name, self._clock())

    def gave_up_on(self, work: AtWork) -> None:
        """Writes down that a handler does not come back, past its open transaction; for the watchdog, right before it ends
        the process."""
        letter = self._letter(work.place, work.offset, work.event, HANGS, "")
        with self.consumer.log.engine.begin() as connection:
            dead_letters.give_up(connection, letter, self._clock())

    def _retry_message(self, history: History, letter: DeadLetter) -> bool:
        """Reads again what was no event, or what was gone: perhaps this release can, or it was sent again."""
        place = (letter.topic, letter.partition)
        try:
            readable = [
                message
                for message in history.read(place, letter.position, letter.position + 1)
                if not isinstance(_read(message), Malformed)
            ]
        except HistoryCutShort:
            readable = []
        if readable:
            self.take(readable)
        with self._writing() as tx:
            if readable:
                dead_letters.settle(tx.connection, letter.id)
            else:
                dead_letters.give_up(tx.connection, letter, self._clock())
        return bool(readable)

    def _skip_what_is_gone(self, place: Place, start: int, first: int) -> None:
        """Goes on at offset `first` of a partition that lost what was before, and has a person look: it can be sent again
        from the logs, and streams that miss something wait for it."""
        letter = self._letter(place, start, None, CUT_SHORT, "")
        with self._writing() as tx:
            dead_letters.keep(tx.connection, msgspec.structs.replace(letter, tries=first - start))
            self.consumer.move_cursor(tx, self._key(place), first, "")

    def _take_together(self, messages: Sequence[Message]) -> None:
        read = [(message, _read(message)) for message in messages]
        with self._writing() as tx:
            self._advance(tx, read)
            for message, incoming in read:
                if isinstance(incoming, Malformed):
                    self._keep_malformed(tx, message, incoming.reason)
            events = self._take_in_hand(read)
            if events:
                self.consumer.take_run(tx, events)

    def _take_in_hand(self, read: Sequence[tuple[Message, Incoming | Malformed]]) -> list[Incoming]:
        self._at_hand = _AtHand()
        events = []
        for message, incoming in read:
            if not isinstance(incoming, Malformed):
                self._at_hand.add(incoming, (message.topic, message.partition), message.offset)
                events.append(incoming)
        return events

    def _set_aside(self, message: Message, error: str) -> None:
        logger.error("set aside consumer=%s error=%s", self.consumer.name, error)
        read = [(message, _read(message))]
        try:
            with self._writing() as tx:
                self._advance(tx, read)
                for incoming in self._take_in_hand(read):
                    self.consumer.set_aside(tx, incoming, error)
        except Exception as failure:
            if is_database_trouble(failure):
                raise
            # What it calls itself is what the database refuses: a zero byte, a number out of range, a name without end.
            malformed = Malformed("cannot be stored")
            with self._writing() as tx:
                self._advance(tx, [(message, malformed)])
                self._keep_malformed(tx, message, malformed.reason)

    def _keep_malformed(self, tx: Writing, message: Message, reason: str) -> None:
        letter = self._letter((message.topic, message.partition), message.offset, None, MALFORMED, reason)
        dead_letters.keep(tx.connection, letter)

    def _advance(self, tx: Writing, read: Sequence[tuple[Message, Incoming | Malformed]]) -> None:
        """Moves the cursor of each partition over what was read of it, if all of that follows on."""
        runs: dict[str, tuple[int, int, str]] = {}
        for message, incoming in read:
            key = self._key((message.topic, message.partition))
            start, end, _ = runs.get(key, (message.offset, message.offset, ""))
            if message.offset == end:
                runs[key] = start, end + 1, "" if isinstance(incoming, Malformed) else incoming.id
        self.consumer.advance_cursors(tx, runs)

    def _retry_first(self, letter: DeadLetter) -> bool:
        with self._writing() as tx:
            if not dead_letters.is_due(tx.connection, letter):
                return False
            event = self.consumer.next_parked(tx, letter.source, letter.stream)
            if event is None or event.id != letter.event_id:
                waits = [it.version for it in dead_letters.waiting(tx.connection, letter)][:1] == [letter.version]
                if waits:  # for a release that reads it, for a person, or for something before it
                    dead_letters.give_up(tx.connection, letter, self._clock())
                else:
                    dead_letters.settle(tx.connection, letter.id)
                return not waits
            return self._try(tx, letter, event)

    def _retry_next(self, letter: DeadLetter) -> bool:
        with self._writing() as tx:
            event = self.consumer.next_parked(tx, letter.source, letter.stream)
            return event is not None and self._try(tx, letter, event)

    def _try(self, tx: Writing, letter: DeadLetter, event: Event) -> bool:
        at = letter.position if event.id == letter.event_id else -1
        self._at_hand = _AtHand()
        self._at_hand.add(event, (letter.topic, letter.partition), at)
        handled = self.consumer.try_parked(tx, event)
        if handled:
            dead_letters.settle(tx.connection, self._letter_id(event.id))
        return handled

    def _watched(self, tx: Writing, event: Event) -> None:
        if event.id in self._hanging:
            raise Hanging
        place, offset = self._at_hand.where(event)
        self.at_work = AtWork(event, place, offset)
        try:
            self._handle(tx, event)
        finally:
            self.at_work = None

    def _write_down(self, tx: Writing, incoming: Incoming, reason: ParkReason, error: str) -> None:
        """An event set aside for good, or until it is tried again, becomes a dead letter in the same transaction."""
        if reason in {ParkReason.EARLY, ParkReason.BEHIND} or incoming.id in self._hanging:
            return
        letter = self._letter(*self._at_hand.where(incoming), incoming, reason, error)
        if reason is ParkReason.FAILED:
            dead_letters.failed(tx.connection, letter, self._clock())
        else:
            dead_letters.keep(tx.connection, letter)

    def _letter(self, place: Place, offset: int, incoming: Incoming | None, reason: str, error: str) -> DeadLetter:
        now = timestamp(self._clock())
        return DeadLetter(
            id=self._letter_id(incoming.id if incoming else f"{self._key(place)}/{offset}"),
            consumer=self.consumer.name,
            topic=place[0],
            partition=place[1],
            position=offset,
            source=incoming.source if incoming else "",
            stream=incoming.stream if incoming else "",
            version=incoming.version if incoming else 0,
            event_id=incoming.id if incoming else "",
            reason=reason,
            error=error,
            first_at=now,
            given_up_at=now,
        )

    def _letter_id(self, what: str) -> str:
        """The same however often the message comes, and whatever becomes of it."""
        return derived_id(what, "dead-letter", self.consumer.name)

    @contextmanager
    def _writing(self) -> Iterator[Writing]:
        asked = time.monotonic()
        with self.consumer.log.writing() as tx:
            if time.monotonic() - asked > LONG_WAIT_SECONDS:
                # Whoever held the lock for so long may have been ended for it, just now.
                self._hanging = dead_letters.hanging(tx.connection, self.consumer.name)
            yield tx

    def _key(self, place: Place) -> str:
        """Under which a partition's cursor is kept: a topic that was made anew is another topic."""
        topic, partition = place
        return f"{self.topic_ids[topic]}/{partition}"


def _read(message: Message) -> Incoming | Malformed:
    try:
        return to_event(message)
    except Malformed as malformed:
        return malformed
