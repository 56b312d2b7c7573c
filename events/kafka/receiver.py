"""Taking messages from Kafka so that each counts once, in stream order, and none is skipped, whoever brings it.

What was taken is remembered in the service's own database, in the transaction of its effects: which version of each
stream (the inbox) and up to which offset of each partition (a cursor). The group's committed offsets are never trusted:
Faust acknowledges what failed, and what it drops in a rebalance (docs/adr/0018). A message that arrives beyond the next
offset shows that some were skipped; they are fetched and taken first.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime

from kafka.errors import KafkaError

from events.envelope import Event
from events.kafka import dead_letters
from events.kafka.dead_letters import DeadLetter, dead_letter
from events.kafka.history import History, HistoryCutShort, Place
from events.kafka.wire import Malformed, Message, to_event
from events.log.engines import is_database_trouble
from events.log.inbox import Consumer, Incoming, ParkReason
from events.log.store import Writing

logger = logging.getLogger(__name__)

HANGS = "hangs"
MALFORMED = "malformed"
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0


class Stopping(Exception):
    """The process is told to stop while a message waits for its database: it stays unacknowledged."""


class Receiver:
    """Takes the messages of the topics one consumer follows. Safe for use from several threads and processes at once."""

    def __init__(
        self, consumer: Consumer, history: History, clock: Callable[[], datetime], topic_ids: dict[str, str]
    ) -> None:
        self.consumer = consumer
        self.stopping = threading.Event()
        self.problem = ""
        """Why the message at hand cannot be taken yet; empty when nothing keeps it."""
        self.handling: Incoming | None = None
        """The event whose handler runs now, for the watchdog."""
        self.topic_ids = topic_ids
        self._history = history
        self._clock = clock
        self._taken: dict[str, int] = {}
        self._message = threading.local()
        self._handle = consumer.handle
        consumer.handle = self._watched
        consumer.on_parked = self._write_down
        with consumer.log.engine.connect() as connection:
            known = dead_letters.kept(connection, consumer.name)
        self._hung = {letter.event_id for letter in known if letter.reason == HANGS}

    def receive(self, message: Message) -> None:
        """Takes one message, however long the database or the broker keep it waiting. Never raises for what the message
        is or does: that becomes a dead letter. Raises Stopping when the process ends meanwhile."""
        pause = FIRST_PAUSE_SECONDS
        while not self.stopping.is_set():
            try:
                self._fetch_skipped(message)
                self._take([message])
                self.problem = ""
                return
            except Exception as failure:
                if not (is_database_trouble(failure) or isinstance(failure, KafkaError | HistoryCutShort)):
                    raise
                self.problem = type(failure).__name__
                logger.warning(
                    "waiting consumer=%s topic=%s partition=%d offset=%d error=%s",
                    self.consumer.name,
                    message.topic,
                    message.partition,
                    message.offset,
                    type(failure).__name__,
                )
            self.stopping.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        raise Stopping

    def position(self, place: Place) -> int:
        """The offset of the last message taken from a partition, whichever process took it; -1 before the first."""
        return self.consumer.position(self._key(place)) - 1

    def catch_up(self, place: Place, end: int) -> int:
        """Takes everything of a partition before offset `end` that was not taken; how many messages that was."""
        fetched = 0
        for batch in self._history.read(place, self.position(place) + 1, end):
            self._take(batch)
            fetched += len(batch)
            if self.stopping.is_set():
                break
        return fetched

    def retry_due(self) -> int:
        """Tries again what failed and is due for it; how many dead letters that settled."""
        log, now = self.consumer.log, self._clock()
        with log.engine.connect() as connection:
            due = dead_letters.due(connection, self.consumer.name, now)
        return sum(self._retry(letter, now) for letter in due)

    def replay(self, letter: DeadLetter) -> bool:
        """Tries once more what was given up; whether it is settled. Only events can be replayed."""
        self._hung.discard(letter.event_id)
        return letter.is_event and self._retry(letter, self._clock())

    def gave_up_on_hanging(self) -> None:
        """Writes down that the handler at work now does not come back, past its open transaction; for the watchdog, right
        before it ends the process."""
        message, incoming = self._last_message, self.handling
        if incoming is None:
            return
        letter = dead_letter(self.consumer.name, message, incoming, HANGS, "", self._clock(), retry=False)
        with self.consumer.log.engine.begin() as connection:
            dead_letters.keep(Writing(self.consumer.log, connection), letter)

    def _fetch_skipped(self, message: Message) -> None:
        place = (message.topic, message.partition)
        if message.offset <= self._taken.get(self._key(place), -1) + 1:
            return
        known = self.position(place)
        if message.offset > known + 1:
            fetched = self.catch_up(place, message.offset)
            logger.warning("fetched what was skipped consumer=%s count=%d", self.consumer.name, fetched)

    def _take(self, messages: Sequence[Message]) -> None:
        """Takes a run of messages of one partition in one transaction, or, when one of them fails, one by one."""
        try:
            self._take_together(messages)
        except Exception as failure:
            if is_database_trouble(failure):
                raise
            for message in messages:
                self._take_alone(message)

    def _take_together(self, messages: Sequence[Message]) -> None:
        with self.consumer.log.writing() as tx:
            for message in messages:
                self._take_one(tx, message)
        self._remember(messages[-1])

    def _take_alone(self, message: Message) -> None:
        try:
            self._take_together([message])
        except Exception as failure:
            if is_database_trouble(failure):
                raise
            logger.error("set aside consumer=%s error=%s", self.consumer.name, type(failure).__name__)
            with self.consumer.log.writing() as tx:
                self._set_aside(tx, message, to_event(message), type(failure).__name__)
            self._remember(message)

    def _take_one(self, tx: Writing, message: Message) -> None:
        self._message.at_hand, self._message.error = message, ""
        self._last_message = message
        event_id = ""
        try:
            incoming = to_event(message)
            event_id = incoming.id
            if event_id in self._hung:
                self.consumer.set_aside(tx, incoming)
            else:
                self.consumer.take(tx, incoming)
        except Malformed as malformed:
            letter = dead_letter(
                self.consumer.name, message, None, MALFORMED, malformed.reason, self._clock(), retry=False
            )
            dead_letters.keep(tx, letter)
        self._move_cursor(tx, message, event_id)

    def _set_aside(self, tx: Writing, message: Message, incoming: Incoming, error: str) -> None:
        self._message.at_hand, self._message.error = message, error
        self.consumer.set_aside(tx, incoming)
        self._move_cursor(tx, message, incoming.id)

    def _move_cursor(self, tx: Writing, message: Message, event_id: str) -> None:
        # Positions count from 1, offsets from 0.
        self.consumer.move_cursor(tx, self._key((message.topic, message.partition)), message.offset + 1, event_id)

    def _remember(self, message: Message) -> None:
        key = self._key((message.topic, message.partition))
        self._taken[key] = max(self._taken.get(key, -1), message.offset)

    def _write_down(self, tx: Writing, incoming: Incoming, reason: ParkReason) -> None:
        """An event set aside for good, or until it is tried again, becomes a dead letter in the same transaction."""
        if reason in {ParkReason.EARLY, ParkReason.BEHIND} or incoming.id in self._hung:
            return
        retry = reason is ParkReason.FAILED
        message, error = self._message.at_hand, self._message.error
        letter = dead_letter(self.consumer.name, message, incoming, reason, error, self._clock(), retry=retry)
        dead_letters.keep(tx, letter)

    def _retry(self, letter: DeadLetter, now: datetime) -> bool:
        self._message.error = ""
        log = self.consumer.log
        try:
            while self.consumer.retry_next(letter.source, letter.stream):
                pass
        except Exception as failure:
            if is_database_trouble(failure):
                raise
            with log.writing() as tx:
                dead_letters.failed_again(tx, letter, type(failure).__name__, now)
            return False
        if any(
            parked.stream == letter.stream and parked.version <= letter.version for parked in self.consumer.parked()
        ):
            return False  # something before it on the stream waits
        with log.writing() as tx:
            dead_letters.settled(tx, [letter])
        return True

    def _watched(self, tx: Writing, event: Event) -> None:
        self.handling = event
        try:
            self._handle(tx, event)
        finally:
            self.handling = None

    def _key(self, place: Place) -> str:
        """Under which a partition's cursor is kept: a topic that was made anew is another topic."""
        topic, partition = place
        return f"{self.topic_ids[topic]}/{partition}"
