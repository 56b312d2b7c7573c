"""How much one person, and one organisation, may ask for: so that nobody walks through all there is, and nobody keeps beds from others
for households that are not there.

How often a person asks is kept in the memory of each gateway process: nothing to wait for, and no write for a read; two gateways let
through twice as much. Beds are counted for all of them in the database that the request itself goes to (`asked_for`). Addresses are not
counted: behind a proxy everybody has the same one, so that is for the proxy to do (docs/operations.md).
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import monotonic

from sqlalchemy.exc import SQLAlchemyError

from events.log.engines import is_database_trouble
from services.gateway import problems
from services.gateway.asked_for import AskedFor, Stopped
from services.gateway.principals import Principal

logger = logging.getLogger(__name__)

AT_ONCE = 12
"""Requests of one person that may be under way: whoever waits for an outcome keeps a thread busy, and there are 32."""
STREAMS_AT_ONCE = 8
"""Live streams of one person: as many tabs and telephones as anybody looks at."""
REMEMBERED = timedelta(days=1)
"""How long coordinators are told that an organisation was stopped."""
MANY = 10_000
"""Buckets of which the full ones are forgotten: they say nothing."""


@dataclass
class Buckets:
    """A bucket of `size` for each name; an empty one is full again after `refill` seconds. A size of 0 never runs out."""

    size: int
    refill: float
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)

    def take(self, name: str, now: float) -> float:
        """Takes one: 0 if there was one, else the seconds until there will be."""
        if not self.size:
            return 0.0
        before, at = self._left.get(name, (float(self.size), now))
        rate = self.size / self.refill
        left = min(self.size, before + max(0.0, now - at) * rate)
        if left < 1:
            return (1 - left) / rate
        self._left[name] = left - 1, now
        if len(self._left) > MANY:
            self._left = {one: (n, t) for one, (n, t) in self._left.items() if n + (now - t) * rate < self.size}
        return 0.0


class Limits:
    """Counts what is asked for. `now` is Haven's time, which may run faster in an exercise: holds expire by it."""

    def __init__(
        self,
        requests_per_minute: int = 0,
        beds_at_once: int = 0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        asked_for: AskedFor | None = None,
    ) -> None:
        self._requests = Buckets(requests_per_minute, 60.0)
        self._beds_at_once = beds_at_once
        self._asked_for = asked_for or AskedFor.in_memory()
        self._now = now
        self._under_way: Counter[str] = Counter()
        self._streams: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def request_of(self, principal: Principal) -> Iterator[None]:
        """Around one request. Raises Problem 429 for whoever asks more often, or more at once, than a person or a program that waits
        for its answers ever does."""
        person = principal.person
        with self._lock:
            is_too_much = bool(self._requests.size) and self._under_way[person] >= AT_ONCE
            wait = 1.0 if is_too_much else self._requests.take(person, monotonic())
            if not wait:
                self._under_way[person] += 1
        if wait:
            raise problems.Problem(
                429,
                "too-many-requests",
                "You ask too often.",
                next_action="Wait a moment, then go on.",
                headers=_wait_for(wait),
            )
        try:
            yield
        finally:
            with self._lock:
                self._under_way[person] -= 1
                if not self._under_way[person]:
                    del self._under_way[person]

    @contextmanager
    def stream_of(self, principal: Principal) -> Iterator[None]:
        """While a live stream is open: one person cannot take the places of all the others. Raises Problem 503."""
        person = principal.person
        with self._lock:
            if self._requests.size and self._streams[person] >= STREAMS_AT_ONCE:
                raise problems.too_many_streams()
            self._streams[person] += 1
        try:
            yield
        finally:
            with self._lock:
                self._streams[person] -= 1
                if not self._streams[person]:
                    del self._streams[person]

    @contextmanager
    def beds_for(self, principal: Principal) -> Iterator[Callable[[int], None]]:
        """Gives what takes beds; what was taken is given back if the request is not kept after all. It raises Problem 429 when the
        organisation has asked for more than any raid needs, and remembers that for the focal points."""
        taken = 0

        def take(beds: int) -> None:
            nonlocal taken
            if self._take_beds(principal, beds):
                taken = beds

        try:
            yield take
        except Exception:
            if taken:
                with _even_so():
                    self._asked_for.give_back(principal.organisation, taken)
            raise

    def _take_beds(self, principal: Principal, beds: int) -> bool:
        """Whether they were counted."""
        if not self._beds_at_once:
            return False
        wait = None
        with _even_so():
            wait = self._asked_for.take(
                principal.organisation, principal.country, beds, self._beds_at_once, self._now()
            )
        if wait:
            logger.warning("an organisation asks for more beds than it may")
            raise problems.Problem(
                429,
                "too-many-beds",
                "Your organisation has asked for very many beds.",
                next_action="Phone the focal point of your country: they are told of this and can open the request.",
                headers=_wait_for(wait),
            )
        return wait is not None

    def stopped(self, country: str) -> list[Stopped]:
        """Organisations of this country that were stopped within the last day."""
        if not self._beds_at_once:
            return []
        return self._asked_for.stopped(country, self._now() - REMEMBERED)


@contextmanager
def _even_so() -> Iterator[None]:
    """A limit that cannot be counted stops nobody: if the database is gone, the request fails where it is kept; if only this is in its way,
    a household is."""
    try:
        yield
    except SQLAlchemyError as failure:
        if not is_database_trouble(failure):
            raise
        logger.warning("beds were not counted error=%s", type(failure).__name__)


def _wait_for(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(int(seconds) + 1)}
