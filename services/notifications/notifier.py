"""Looks at what waits, rings whom the operator's file names, and keeps what became of it.

Nothing here remembers what has to be done: what waits is in the read model, what was rung is in the queue. So it may be stopped,
killed or started twice at any moment; whatever was answered meanwhile is rung for no more.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

from reference import Clocks
from services.gateway.pages.words_of_messages import message_text
from services.gateway.waits import Wait, WaitKind
from services.notifications.addresses import Organisation
from services.notifications.channels import SEND_SECONDS, Channel, NotTaken
from services.notifications.queue import Post, RingQueue, Row
from services.notifications.rules import Message, Ring, next_try, not_before, page_of, rings_of

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
SAY_EVERY = timedelta(seconds=15)
FORGET_EVERY = timedelta(hours=1)
LATE = timedelta(minutes=5)
"""So long may a message wait that could have been sent; after that something is wrong here."""
MOST_AT_ONCE = 16
"""Messages on their way at the same time: a hundred dead gateways must not be a hundred threads."""
STOP_SECONDS = 5.0

Clock = Callable[[], datetime]


class Notifier:
    """Rings people for what waits in one database. `clock` is the one deadlines are set by, `real_time` the world's."""

    def __init__(
        self,
        queue: RingQueue,
        organisations: Mapping[str, Organisation],
        clocks: Clocks,
        url: str,
        clock: Clock,
        real_time: Clock,
    ) -> None:
        self.queue = queue
        self.organisations = organisations
        self.sent_messages: dict[Message, int] = dict.fromkeys(Message, 0)
        self.failed_tries: dict[Message, int] = dict.fromkeys(Message, 0)
        self.problem = ""
        """Why nobody is rung now; empty when people are."""
        self._clocks = clocks
        self._url = url
        self.clock = clock
        self._real_time = real_time
        self._planned: set[tuple[str, int]] = set()
        """What this process has planned, by wait and number: to ask the queue once and not at every look."""
        self._seen: set[str] = set()
        self._guard = threading.Lock()
        self._on_their_way: set[tuple[str, str]] = set()
        self._said_at = self._forgot_at = datetime.min.replace(tzinfo=UTC)

    def run(self, stop: threading.Event) -> None:
        """Works until `stop` is set. A failure is logged and tried again: the loop itself never ends."""
        while not stop.is_set():
            try:
                self.step()
            except Exception as failure:  # noqa: BLE001 - the next round may find the database again
                self.problem = f"the queue cannot be used ({type(failure).__name__}); see that the database answers"
                logger.error("ringing failed error=%s", type(failure).__name__)
            stop.wait(LOOK_SECONDS)
        self.settle(STOP_SECONDS)

    def step(self) -> None:
        """One look at what waits, and one message to every channel that has one to get."""
        if self.queue.is_paused():
            self.problem = "the read model is not whole; run `haven rebuild`"
            return
        self.plan()
        self.send_what_is_due()
        self.problem = ""
        self._now_and_then()

    def settle(self, seconds: float) -> None:
        """Waits for messages that are on their way; what takes longer is sent again by whoever comes next."""
        ends = time.monotonic() + seconds
        while self._on_their_way and time.monotonic() < ends:
            time.sleep(0.01)

    def ready(self) -> dict[str, str]:
        """Why people are not rung as they should be; empty when they are."""
        if self.problem:
            return {"notifications": self.problem}
        oldest = self.queue.standing().oldest
        if oldest is not None and self.clock() - oldest > LATE:
            return {"notifications": "a message has waited for five minutes; see which channel fails in the log"}
        return {}

    # whom to ring

    def plan(self) -> None:
        """Keeps every ring that is due and was not kept yet."""
        now = self.clock()
        waits, unrung = self.queue.waits(), self.queue.unrung()
        # What waits at two looks is true: a projection that catches up goes in no time through what is long answered.
        seen_before, self._seen = self._seen, {wait.wait_id for wait in waits}
        waits = [wait for wait in waits if wait.wait_id in seen_before]
        self._planned = {(wait_id, number) for wait_id, number in self._planned if wait_id in self._seen}
        rows: list[tuple[Row, datetime]] = []
        nobody: list[tuple[Row, datetime]] = []
        for wait in waits:
            since = unrung.get(wait.wait_id) if wait.kind is WaitKind.ASK else None
            for ring in rings_of(wait, self._clocks, now, since):
                if (wait.wait_id, ring.number) in self._planned:
                    continue
                kept = list(self._rows(wait, ring, now))
                rows += kept
                if not kept:
                    nobody.append((_row(wait, ring, "", ""), now))
        self.queue.plan(rows, nobody)
        self._planned |= {(row.wait_id, row.number) for row, _ in (*rows, *nobody)}
        if nobody:
            logger.warning("nobody to ring count=%d", len(nobody))

    def _rows(self, wait: Wait, ring: Ring, now: datetime) -> Iterator[tuple[Row, datetime]]:
        for organisation in self.organisations.values():
            if organisation.party == ring.party:
                for channel in organisation.channels:
                    row = _row(wait, ring, organisation.name, channel)
                    yield row, self._allowed(row, max(now, ring.due))

    def _allowed(self, row: Row, moment: datetime) -> datetime:
        organisation = self.organisations.get(row.organisation)
        return not_before(moment, organisation.quiet if organisation else None, pressing=row.pressing)

    # ringing

    def send_what_is_due(self) -> None:
        """Starts a thread for each message to send; a channel gets one at a time."""
        with self._guard:
            busy = set(self._on_their_way)
        if len(busy) >= MOST_AT_ONCE:
            return
        for (name, channel, message), rows in self.queue.claim(
            self.clock(), self._real_time(), busy, self._allowed, MOST_AT_ONCE - len(busy)
        ).items():
            post = (name, channel, message)
            organisation = self.organisations.get(name)
            if organisation is None or channel not in organisation.channels:
                self._not_taken(post, rows, "Gone", give_up=True)
                continue
            with self._guard:
                self._on_their_way.add((name, channel))
            threading.Thread(target=self._send, args=(post, rows, organisation), name="ring", daemon=True).start()

    def _send(self, post: Post, rows: list[Row], organisation: Organisation) -> None:
        name, channel, message = post
        try:
            ring_now(organisation, organisation.channels[channel], message, self._url)
            with self._guard:
                self.sent_messages[message] += 1
            self.queue.sent(rows, self.clock())
        except NotTaken as refused:
            self._not_taken(post, rows, str(refused))
        except Exception as failure:  # noqa: BLE001 - not written down, so the claim runs out and it is sent again
            logger.error("ring not written down error=%s", type(failure).__name__)
        finally:
            with self._guard:
                self._on_their_way.discard((name, channel))

    def _not_taken(self, post: Post, rows: list[Row], why: str, *, give_up: bool = False) -> None:
        organisation, channel, message = post
        with self._guard:
            self.failed_tries[message] += 1
        now = self.clock()
        again: dict[Row, datetime | None] = {}
        for row in rows:
            moment = None if give_up else next_try(row.tries + 1, now, pressing=row.pressing)
            again[row] = None if moment is None else self._allowed(row, moment)
        self.queue.failed(again, now)
        logger.warning("ring not taken channel=%s error=%s", f"{organisation}.{channel}", why)

    def _now_and_then(self) -> None:
        at = self._real_time()
        # Also when the machine's clock went back.
        if not timedelta() <= at - self._said_at < SAY_EVERY:
            self.queue.say_that_somebody_looks(at)
            self._said_at = at
        if not timedelta() <= at - self._forgot_at < FORGET_EVERY:
            self.queue.forget_old(self.clock())
            self._forgot_at = at


def ring_now(
    organisation: Organisation, channel: Channel, message: Message, url: str, seconds: float = SEND_SECONDS
) -> None:
    """Sends one message to one channel of an organisation. Raises NotTaken."""
    link = url + page_of(message, organisation.role)
    channel.send(message_text(message, organisation.language, link), seconds)


def _row(wait: Wait, ring: Ring, organisation: str, channel: str) -> Row:
    return Row(wait.wait_id, ring.number, organisation, channel, ring.message, wait.pressing)
