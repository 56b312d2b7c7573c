"""How far what is shown lies behind: from what this process appended to its line in the trail, the whole way through relay, broker
and projection. Whoever looks at a board that stands still because Kafka does must be told, and so must the operator; but what
people send is kept all the while, so it is no reason to send them away.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from events.envelope import Event
from events.log.store import EventLog
from services.gateway.read_model import ReadModel

WORTH_A_WORD = 120.0
"""Seconds: the relay and the projection may be started again meanwhile, and nobody need know."""
SAMPLED_EVERY = 5.0
LOOKED_EVERY = 2.0
MOST_SAMPLES = 1000


class Lateness:
    """Follows one event in five seconds from this log into the read model. `now` counts seconds and never goes back."""

    def __init__(self, read_model: ReadModel, log: EventLog, now: Callable[[], float] = time.monotonic) -> None:
        self._read_model = read_model
        self._now = now
        self._waiting: deque[tuple[float, str]] = deque(maxlen=MOST_SAMPLES)
        self._lock = threading.Lock()
        self._looked_at = -LOOKED_EVERY
        log.observers.append(self._appended)

    def _appended(self, events: Sequence[Event]) -> None:
        with self._lock:
            if not self._waiting or self._now() - self._waiting[-1][0] >= SAMPLED_EVERY:
                self._waiting.append((self._now(), events[-1].id))

    def seconds(self) -> float:
        """How long ago something was appended here that is not shown yet; 0 if that was a moment ago, or nothing was. What came
        before something that is shown counts no more: its stream may be parked, and an alert says that."""
        with self._lock:
            if self._now() - self._looked_at >= LOOKED_EVERY:
                self._looked_at = self._now()
                shown = self._read_model.shown_among([event_id for _, event_id in self._waiting])
                done = max(
                    (place for place, (_, event_id) in enumerate(self._waiting, 1) if event_id in shown), default=0
                )
                for _ in range(done):
                    self._waiting.popleft()
            late = self._now() - self._waiting[0][0] if self._waiting else 0.0
        return late if late >= WORTH_A_WORD else 0.0
