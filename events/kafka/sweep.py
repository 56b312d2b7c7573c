"""The rounds a worker makes beside what Faust brings it: what was left lying, what is due again, what hangs.

Faust is how messages come fast; the sweep is why they come at all. Every second it compares, for every partition, the end
of the topic with what this service has taken, whichever process was to take it. A partition that has stood still since the
round before, with messages waiting, is read here: after a rebalance, beside a frozen or killed worker, when the group's
coordinator is gone. Taking the same message twice is harmless, so nobody has to be asked first.
"""

import logging
import os
import threading
from collections.abc import Callable, Sequence

from kafka.admin import KafkaAdminClient

from events.kafka.connection import Broker
from events.kafka.history import History, Place
from events.kafka.receiver import Receiver
from events.kafka.topics import Layout

logger = logging.getLogger(__name__)

ROUND_SECONDS = 1.0
HANGING_AFTER = 10
"""Seconds a handler may work on one event: a decision takes milliseconds, the database ends a statement after five."""
EXIT_HANGING = 75
"""Exit status (EX_TEMPFAIL) of a process ended because a handler did not come back; it is to be started again."""


class Sweep:
    """Rounds over the partitions of the topics that some receivers of one process follow."""

    def __init__(self, receivers: Sequence[Receiver], broker: Broker, layout: Layout, client_id: str) -> None:
        self._receivers = receivers
        self._broker = broker
        self._layout = layout
        self._client_id = client_id
        self._history = History(broker, client_id)
        self._admin: KafkaAdminClient | None = None
        self._stood_at: dict[tuple[str, Place], int] = {}
        self.lag: dict[tuple[str, str], int] = {}
        """Messages not taken yet, by consumer and topic, as of the last round."""
        self.problem = ""
        """Why the last round failed; empty when it did not."""

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(ROUND_SECONDS):
            try:
                self.round()
                self.problem = ""
            except Exception as failure:  # noqa: BLE001 - the rounds must outlive whatever the broker or a bug does
                self.problem = type(failure).__name__
                logger.warning("sweep failed client=%s error=%s", self._client_id, self.problem)
                self._forget_clients()
        self._forget_clients()

    def round(self) -> int:
        """One look at every partition, and the dead letters that are due; how many messages it took."""
        self._notice_new_topics()
        topics = list(self._receivers[0].topic_ids)
        places = [(topic, partition) for topic in topics for partition in range(self._layout.wanted()[topic])]
        ends = self._history.ends(places)
        taken = 0
        for receiver in self._receivers:
            lag = dict.fromkeys(topics, 0)
            for place, end in ends.items():
                position = receiver.position(place)
                lag[place[0]] += max(0, end - 1 - position)
                taken += self._look_at(receiver, place, position, end)
            self.lag |= {(receiver.consumer.name, topic): count for topic, count in lag.items()}
            taken += receiver.retry_due()
        return taken

    def _look_at(self, receiver: Receiver, place: Place, position: int, end: int) -> int:
        key = (receiver.consumer.name, place)
        if position + 1 >= end:
            self._stood_at.pop(key, None)
            return 0
        if self._stood_at.get(key) != position:
            self._stood_at[key] = position  # it moved since the last round: somebody is at it
            return 0
        taken = receiver.catch_up(place, end)
        logger.warning("took what was left consumer=%s topic=%s partition=%d count=%d", key[0], *place, taken)
        return taken

    def _notice_new_topics(self) -> None:
        """A cluster that was lost and made anew has topics of the same name and other offsets."""
        if self._admin is None:
            self._admin = self._broker.admin(self._client_id)
        asked = list(self._receivers[0].topic_ids)
        found = {topic["name"]: str(topic["topic_id"]) for topic in self._admin.describe_topics(asked)}
        for receiver in self._receivers:
            receiver.topic_ids |= {topic: found[topic] for topic in asked if topic in found}

    def _forget_clients(self) -> None:
        self._history.close()
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.close()


class Watchdog:
    """Ends the process when a handler does not come back: a thread cannot be stopped, and this one holds the log's lock.

    It counts its own ticks: a process that was frozen as a whole and goes on has lost no time of its own."""

    def __init__(self, receivers: Sequence[Receiver], end: Callable[[int], None] = os._exit) -> None:
        self._receivers = receivers
        self._end = end
        self._since: dict[int, tuple[str, int]] = {}

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(1.0):
            self.tick()

    def tick(self) -> None:
        for number, receiver in enumerate(self._receivers):
            event = receiver.handling
            event_id = event.id if event else ""
            known, ticks = self._since.get(number, ("", 0))
            self._since[number] = (event_id, ticks + 1 if event_id and event_id == known else 0)
            if self._since[number][1] >= HANGING_AFTER:
                logger.critical("handler hangs consumer=%s event=%s", receiver.consumer.name, event_id)
                try:
                    receiver.gave_up_on_hanging()
                except Exception as failure:  # noqa: BLE001 - written down or not, the process must end
                    logger.error("could not write down what hangs error=%s", type(failure).__name__)
                self._end(EXIT_HANGING)
