"""The embedded transport: follows other logs by position and hands their events to one consumer.

`step` does one bounded round and says whether it did anything, so a test or a simulation can drive it; `run` repeats it
in a thread, woken by commits in this process and, should a hint be lost, by a poll.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from events.log.engines import is_database_trouble
from events.log.inbox import Consumer
from events.log.store import EventLog

logger = logging.getLogger(__name__)

BATCH = 200
TRIES = 5
POLL_SECONDS = 0.25


class SourceWentBack(Exception):
    """The source's log is not the one this consumer has followed: a backup was restored. Following on would skip events
    that were acknowledged since, so nothing more is taken until a person has decided (docs/adr/0007)."""

    def __init__(self, source: str, position: int) -> None:
        self.source = source
        super().__init__(
            f"the log of {source} holds another event at position {position} than the one taken from it; "
            "restore this service from the same backup, or rebuild it from the logs"
        )


class Follower:
    """Delivers, in position order, every event of `sources` to `consumer`, and lets time pass for its owner."""

    def __init__(
        self,
        consumer: Consumer,
        sources: Mapping[str, EventLog],
        clock: Callable[[], datetime],
        pass_time: Callable[[datetime], bool] = lambda _now: False,
    ) -> None:
        self.consumer = consumer
        self.sources = sources
        self._clock = clock
        self._pass_time = pass_time
        self._wake = threading.Event()
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, datetime] = {}
        self.problem = ""
        """Why the last round failed; empty when it did not."""
        for log in {*sources.values(), consumer.log}:
            log.listeners.append(self._wake.set)

    def step(self) -> bool:
        """One round over every source and the timers; True when something was done."""
        did = False
        for source in self.sources:
            did |= self._follow(source)
        return self._pass_time(self._clock()) or did

    def run(self, stop: threading.Event) -> None:
        """Works until `stop` is set. A failure is logged with ids only and tried again: the loop itself never ends."""
        while not stop.is_set():
            self._wake.clear()
            try:
                busy = self.step()
                self.problem = ""
            except Exception as failure:  # noqa: BLE001 - the loop must outlive a full disk or a bug in a timer
                self.problem = str(failure) if isinstance(failure, SourceWentBack) else type(failure).__name__
                logger.error("round failed consumer=%s error=%s", self.consumer.name, type(failure).__name__)
                stop.wait(1.0)
                continue
            if not busy:
                self._wake.wait(POLL_SECONDS)

    def stop(self) -> None:
        self._wake.set()

    def lag(self) -> int:
        """Events this consumer has not taken yet, over all sources."""
        return sum(log.head() - self.consumer.position(source) for source, log in self.sources.items())

    def _follow(self, source: str) -> bool:
        not_before = self._not_before.get(source)
        if not_before is not None and self._clock() < not_before:
            return False
        position, event_id = self.consumer.bookmark(source)
        if position and self.sources[source].id_at(position) != event_id:
            raise SourceWentBack(source, position)
        batch = self.sources[source].read_all(after=position, limit=BATCH)
        if not batch:
            return False
        try:
            self.consumer.deliver_batch(batch)
        except Exception:  # noqa: BLE001 - one of them fails: find it by delivering one by one
            self._deliver_singly(source, batch)
        return True

    def _deliver_singly(self, source: str, batch: list) -> None:  # type: ignore[type-arg]
        for position, incoming in batch:
            try:
                self.consumer.deliver(incoming, position)
                self._failures.pop(source, None)
            except Exception as failure:
                if is_database_trouble(failure):
                    raise  # not this event's fault: nothing to park
                # After a few tries it is parked, so that other streams go on.
                failures = self._failures[source] = self._failures.get(source, 0) + 1
                logger.error(
                    "handling failed consumer=%s event=%s try=%d error=%s",
                    self.consumer.name,
                    incoming.id,
                    failures,
                    type(failure).__name__,
                )
                if failures < TRIES:
                    self._not_before[source] = self._clock() + timedelta(milliseconds=50 * 2**failures)
                    return
                self._failures.pop(source, None)
                self.consumer.park_failed(incoming, position)
