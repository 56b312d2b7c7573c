"""The rounds a worker makes beside what Faust brings it: what was left lying, what is due again, what hangs.

Faust is how messages come fast; the sweep is why they come at all. Every second it compares, for every partition, the end
of the topic with what this service has taken, whichever process was to take it. A partition that has stood still since the
round before and a moment more, with messages waiting, is read here: after a rebalance, beside a frozen or killed worker, when
the group's coordinator is gone. Taking the same message twice is harmless, so nobody has to be asked first.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from kafka.admin import KafkaAdminClient
from kafka.errors import for_code

from events.kafka.connection import Broker
from events.kafka.history import History, Place
from events.kafka.receiver import COMPANY_SECONDS, AtWork, Receiver, Stopping
from events.log.engines import is_database_trouble, reading

logger = logging.getLogger(__name__)

ROUND_SECONDS = 1.0
LET_BE_SECONDS = COMPANY_SECONDS + 0.1
"""How much longer what stands still is let be: it may only have waited for company, in this process or another."""
HANGING_AFTER = 8
"""Seconds a handler may work on one event while its database answers. A decision takes milliseconds, a statement is ended
after five seconds, and after ten without one the server gives the log's lock to others (deploy/postgres/roles.sql)."""
PROMPT_SECONDS = 1.0
EXIT_HANGING = 75
"""Exit status (EX_TEMPFAIL) of a process ended because a handler did not come back; it is to be started again."""


class Sweep:
    """Rounds over the partitions of the topics that the receivers of one process follow, each its own."""

    def __init__(self, receivers: Sequence[Receiver], broker: Broker, client_id: str) -> None:
        self._receivers = receivers
        self._broker = broker
        self._client_id = client_id
        self._topics = sorted({topic for receiver in receivers for topic in receiver.topic_ids})
        self._history = History(broker, client_id)
        self._admin: KafkaAdminClient | None = None
        self._stood_at: dict[tuple[str, Place], int] = {}
        self._known: set[tuple[str, Place, str]] = set()
        self.lag: dict[tuple[str, str], int] = {}
        """Messages not taken yet, by consumer and topic, as of the last round."""
        self.problem = ""
        """Why the last round failed; empty when it did not."""
        self.rounds = 0
        """Rounds made: before the first nobody knows what is missing."""

    def run(self, stop: threading.Event) -> None:
        """Makes rounds until `stop` is set: whatever the broker, the database or a bug does, another one follows."""
        fresh = True
        while not stop.wait(ROUND_SECONDS):
            try:
                if fresh:
                    for receiver in self._receivers:
                        receiver.retry_after_start()
                    fresh = False
                self.round()
            except Stopping:
                break
            except Exception as failure:  # noqa: BLE001 - see above
                self._note(failure)
                self._forget_clients()
                self._known.clear()  # a cluster that comes back may come back from a backup
        self._forget_clients()

    def round(self) -> int:
        """The dead letters that are due, and one look at every partition; how many messages it took.

        What fails in one partition or for one dead letter keeps nothing from the others; `problem` says it."""
        failures: list[Exception] = []
        taken = sum(self._retry_due(receiver, failures) for receiver in self._receivers)
        places = self._places()
        # The positions first: what is taken meanwhile must not look as if the topic had lost it.
        positions = {
            (receiver, place): position
            for receiver in self._receivers
            for place, position in receiver.learn_positions(places).items()
        }
        ends = self._history.ends(places)
        lag = {(receiver.consumer.name, topic): 0 for receiver in self._receivers for topic in receiver.topic_ids}
        still = []
        for (receiver, place), position in positions.items():
            lag[receiver.consumer.name, place[0]] += max(0, ends[place] - position)
            with _each_by_itself(failures):
                if self._stands_still(receiver, place, position, ends[place]):
                    still.append((receiver, place))
        if still:
            time.sleep(LET_BE_SECONDS)
        for receiver, place in still:
            with _each_by_itself(failures):
                taken += self._take_what_was_left(receiver, place, ends[place])
        self.lag = lag
        self.problem = ""
        self.rounds += 1
        for one in failures:
            self._note(one)
        return taken

    def _stands_still(self, receiver: Receiver, place: Place, position: int, end: int) -> bool:
        """Whether messages wait in a partition on which nobody has moved since the round before."""
        seen = (receiver.consumer.name, place, receiver.topic_ids[place[0]])
        fresh = seen not in self._known
        if fresh or position > end:
            if not receiver.stands_in(self._history, place, end):
                logger.error("partition went back, taking it again topic=%s partition=%d", *place)
                receiver.start_over(place)
                position = 0
            self._known.add(seen)
        key = (receiver.consumer.name, place)
        stood = self._stood_at.get(key) == position
        self._stood_at[key] = position
        return stood and position < end

    def _take_what_was_left(self, receiver: Receiver, place: Place, end: int) -> int:
        if taken := receiver.catch_up(self._history, place, end):
            name = receiver.consumer.name
            logger.warning("took what was left consumer=%s topic=%s partition=%d count=%d", name, *place, taken)
        return taken

    def _retry_due(self, receiver: Receiver, failures: list[Exception]) -> int:
        receiver.look_for_hanging()
        settled = 0
        for letter in receiver.due():
            with _each_by_itself(failures):
                settled += receiver.retry(self._history, letter)
        return settled

    def _places(self) -> list[Place]:
        """Every partition there is now. A cluster that was lost and made anew has topics of the same name, another id and
        other offsets."""
        if self._admin is None:
            self._admin = self._broker.admin(self._client_id)
        places = []
        for topic in self._admin.describe_topics(self._topics):
            if topic["error_code"]:
                raise for_code(topic["error_code"])
            for receiver in self._receivers:
                if topic["name"] in receiver.topic_ids:
                    receiver.topic_ids[topic["name"]] = str(topic["topic_id"])
            places += [(topic["name"], partition["partition_index"]) for partition in topic["partitions"]]
        return places

    def _note(self, failure: Exception) -> None:
        self.problem = type(failure).__name__
        logger.warning("sweep failed client=%s error=%s", self._client_id, self.problem)

    def _forget_clients(self) -> None:
        self._history.close()
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.close()


@contextmanager
def _each_by_itself(failures: list[Exception]) -> Iterator[None]:
    """What fails here keeps nothing from the others, unless nothing can be done now."""
    try:
        yield
    except Exception as failure:
        if is_database_trouble(failure) or isinstance(failure, Stopping):
            raise
        failures.append(failure)


class Watchdog:
    """Ends the process when a handler does not come back: a thread cannot be stopped, and this one holds the log's lock.

    It counts its own ticks, and only those in which the database answers: a process that was frozen as a whole, and a
    handler that waits for a frozen database, have lost no time of their own."""

    def __init__(self, receivers: Sequence[Receiver], end: Callable[[int], None] = os._exit) -> None:
        self._receivers = receivers
        self._end = end
        self._ticks: dict[int, tuple[AtWork | None, int]] = {}

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(1.0):
            self.tick()

    def tick(self) -> None:
        for number, receiver in enumerate(self._receivers):
            work = receiver.at_work
            known, ticks = self._ticks.get(number, (None, 0))
            if work is None or work is not known:
                self._ticks[number] = (work, 0)
                continue
            ticks += _answers(receiver.consumer.log.engine)
            self._ticks[number] = (work, ticks)
            if ticks >= HANGING_AFTER:
                logger.critical("handler hangs consumer=%s event=%s", receiver.consumer.name, work.event.id)
                try:
                    receiver.gave_up_on(work)
                except Exception as failure:  # noqa: BLE001 - written down or not, the process must end
                    logger.error("could not write down what hangs error=%s", type(failure).__name__)
                self._end(EXIT_HANGING)


def _answers(engine: sa.Engine) -> bool:
    asked = time.monotonic()
    try:
        with reading(engine) as connection:
            connection.exec_driver_sql("SELECT 1")
    except sa.exc.SQLAlchemyError:
        return False
    return time.monotonic() - asked < PROMPT_SECONDS
