"""Who listens, and what each is told: one reader of the changes for all live streams of a process.

An open stream is a place in a list and costs no thread: the server gives its connection away (services/serving.py), and the one
thread of `Feed.run` writes to all of them. It reads the changes once for everybody who is as far as everybody else, whatever their
number; under PostgreSQL's row-level security it reads for all of them together, and each is told what is theirs.
"""

import logging
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from events.log.store import EventLog
from events.vocabulary import Role
from services.gateway.access import parties
from services.gateway.lateness import Lateness
from services.gateway.principals import Principal
from services.gateway.read_model import ReadModel

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0
LONGEST_STREAM_SECONDS = 240.0
"""Shorter than a token lives: whoever listens longer shows a new token."""
DOUBT_SECONDS = 2.0
"""So long at most is somebody told of changes who may no longer listen: signed out, locked, revoked."""
MOST_STREAMS = 512
BATCH = 200
LOOK_SECONDS = 0.5
"""Nobody need say that something moved: after so long it is looked for anyway."""
SETTLE_SECONDS = 0.02
"""After a commit, before it is looked at: many commits are one look."""
RETRY_MILLISECONDS = (2000, 4000)
"""Spread: after a restart not all come back at once."""


class TooManyStreams(Exception):
    """No place is left in this process."""


class NothingLive(Exception):
    """The read model stands still: a stream of what moves would say that nothing does."""


class Connection(Protocol):
    """A client that a server has given away."""

    def send(self, data: bytes) -> bool:
        """Never waits; False when the client is gone, or so far behind that it has to come back."""

    @property
    def is_open(self) -> bool: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Manner:
    """How a stream says what is not a change."""

    beat: Callable[[], bytes] = lambda: b": still here\n\n"
    start_again: bytes = b"event: reload\ndata: {}\n\n"
    """What lies between is not known any more: read everything again."""
    last_word: bytes = b""
    """To whom may listen no longer."""


class Listener:
    """One open stream: who hears it, and how far. Iterating over it is for servers that give no connection away."""

    def __init__(self, feed: "Feed", principal: Principal, after: int, manner: Manner, session_id: str) -> None:
        self.principal = principal
        self.session_id = session_id
        """Of the pages; empty for a program."""
        self.parties = frozenset(parties(principal))
        self.manner = manner
        self.after = after
        self.is_over = False
        self.is_entitled_until = 0.0
        self._feed = feed
        self._when_closed: Callable[[], object] = list
        self._ends = time.monotonic() + LONGEST_STREAM_SECONDS
        self._beats = time.monotonic() + HEARTBEAT_SECONDS
        self._lines = [b"retry: %d\n\n" % random.randint(*RETRY_MILLISECONDS)]  # noqa: S311 - spreads load, guards nothing

    def __iter__(self) -> Iterator[bytes]:
        yield from self.take()
        while not self.is_over:
            news = self._feed.news
            is_more = self._feed.turn([self])
            lines = self.take()
            yield from lines
            if not lines and not is_more:
                self._feed.wait(news, min(HEARTBEAT_SECONDS, LOOK_SECONDS))

    def start(self, connection: Connection) -> None:
        """From now on what is to be said is written to this connection."""
        self._feed.take_over(self, connection)

    def when_closed(self, do: Callable[[], object]) -> None:
        """Whatever ends it, `do` is done; more than once, perhaps."""
        self._when_closed = do
        if self.is_over:
            self.left()

    def left(self) -> None:
        self._when_closed()

    def close(self) -> None:
        """Gives its place back."""
        self._feed.close(self)

    def say(self, line: bytes) -> None:
        self._lines.append(line)
        self._beats = time.monotonic() + HEARTBEAT_SECONDS

    def end(self, last_word: bytes = b"") -> None:
        """Nothing that was to be said is said, but for this."""
        self._lines = [last_word] if last_word else []
        self.is_over = True

    def take(self) -> list[bytes]:
        """What is to be said now."""
        lines, self._lines = self._lines, []
        return lines

    @property
    def has_news(self) -> bool:
        return bool(self._lines)

    def keep_time(self, now: float) -> None:
        if now >= self._ends:
            self.is_over = True
        elif now >= self._beats and not self._lines:
            self.say(self.manner.beat())

    def hears_of(self, kind: str, concerned: frozenset[str]) -> bool:
        # Every country's free beds are on a coordinator's board.
        is_free_bed = kind == "unit" and self.principal.role is Role.COORDINATOR
        return is_free_bed or not self.parties.isdisjoint(concerned)


Doubt = Callable[[Sequence[Listener]], Iterable[Listener]]
"""Those of them who may listen no longer, found in one question."""


def revoked(revoked_among: Callable[[Collection[str]], Collection[str]]) -> Doubt:
    """Those whose token, or who themselves, were revoked meanwhile (`TokenStore.revoked_among`)."""

    def doubt(listeners: Sequence[Listener]) -> Iterable[Listener]:
        subjects = {one: {one.principal.person, one.principal.token_id} for one in listeners}
        gone = set(revoked_among(set().union(*subjects.values())))
        return [one for one in listeners if subjects[one] & gone]

    return doubt


class Feed:
    """All open streams of one process."""

    def __init__(self, read_model: ReadModel, log: EventLog, lateness: Lateness) -> None:
        self.news = 0
        self.doubts: list[Doubt] = []
        self.unheard: Callable[[], str] = str
        """A mark of what boards show and no change tells of (services/gateway/pages/live.py)."""
        self.is_closing = False
        self._read_model = read_model
        self._lateness = lateness
        self._changed = threading.Condition()
        self._open: set[Listener] = set()
        self._taken: dict[Listener, Connection] = {}
        log.listeners.append(self.wake)

    def __len__(self) -> int:
        return len(self._open)

    def open(self, principal: Principal, last_id: str, manner: Manner, session_id: str = "") -> Listener:
        """A stream that goes on after `last_id`; with one that nobody can have been given it begins now. Raises TooManyStreams or
        NothingLive."""
        if self._lateness.seconds():
            raise NothingLive
        with self._changed:
            if self.is_closing or len(self._open) >= MOST_STREAMS:
                raise TooManyStreams
            listener = Listener(self, principal, 0, manner, session_id)
            self._open.add(listener)
        try:
            listener.after = self._start(listener, last_id)
        except BaseException:
            self.close(listener)
            raise
        return listener

    def _start(self, listener: Listener, last_id: str) -> int:
        first, last = self._read_model.kept_changes()
        if not (last_id.isascii() and last_id.isdigit() and len(last_id) < 16):
            return last
        # One that is still to come was given before a backup was restored; what follows one that is gone is gone too.
        if first - 1 <= int(last_id) <= last:
            return int(last_id)
        listener.say(b"id: %d\n" % last + listener.manner.start_again)
        return last

    def close(self, listener: Listener) -> None:
        """Gives a place back; again, changes nothing."""
        with self._changed:
            self._open.discard(listener)
            connection = self._taken.pop(listener, None)
            listener.is_over = True
        if connection is not None:
            connection.close()
        listener.left()

    def take_over(self, listener: Listener, connection: Connection) -> None:
        """From now on `run` writes to it."""
        with self._changed:
            if listener in self._open:
                self._taken[listener] = connection
                self._wake()
                return
        connection.close()

    def hang_up(self) -> None:
        """Ends every stream at once and takes no new one, so that a server that is told to stop need not wait for its
        listeners."""
        self.is_closing = True
        self._end_all()

    def _end_all(self) -> None:
        with self._changed:
            everybody = tuple(self._open)
            for listener in everybody:
                listener.end()
            self._wake()
        for listener in everybody:
            self.close(listener)

    def wake(self) -> None:
        """Something may have moved."""
        with self._changed:
            self._wake()

    def _wake(self) -> None:
        self.news += 1
        self._changed.notify_all()

    def wait(self, news: int, seconds: float) -> None:
        """Until something may have moved since `news`, or for so long."""
        with self._changed:
            self._changed.wait_for(lambda: self.news != news or self.is_closing, seconds)

    def run(self, stop: threading.Event) -> None:
        """Writes to all that were taken over, until `stop` is set."""
        while not stop.is_set():
            news = self.news
            with self._changed:
                taken = dict(self._taken)
            try:
                if taken and self._lateness.seconds():
                    self._end_all()
                is_more = bool(taken) and self.turn(taken)
            except Exception as failure:  # noqa: BLE001 - whatever it is: nobody may take silence for calm
                logger.warning("streams ended error=%s", type(failure).__name__)
                self._end_all()
                stop.wait(1.0)
                continue
            for listener, connection in taken.items():
                lines = b"".join(listener.take())
                if not connection.is_open or (lines and not connection.send(lines)) or listener.is_over:
                    self.close(listener)
            if not is_more:
                self.wait(news, LOOK_SECONDS)
                stop.wait(SETTLE_SECONDS)

    def turn(self, listeners: Collection[Listener]) -> bool:
        """Gives each of these what is to be said to them now; True when there is more than one reading takes. Raises what the
        database raises."""
        is_more = self._read(listeners)
        now = time.monotonic()
        self._doubt([one for one in listeners if one.has_news or now >= one.is_entitled_until], now)
        for listener in listeners:
            listener.keep_time(now)
        return is_more

    def _read(self, listeners: Collection[Listener]) -> bool:
        # Up to here at most: of what is nobody's of these, only how far it goes is known.
        _, until = self._read_model.kept_changes()
        behind: dict[int, list[Listener]] = defaultdict(list)
        for listener in listeners:
            if listener.after < until:
                behind[listener.after].append(listener)
        is_more = False
        for after, together in behind.items():
            everybody = sorted({name for listener in together for name in listener.parties})
            changes = self._read_model.changes(after, until, everybody, BATCH)
            for change in changes:
                _tell(together, change)
            is_full = len(changes) == BATCH
            is_more |= is_full
            for listener in together:
                listener.after = changes[-1].seq if is_full else until
        return is_more

    def _doubt(self, listeners: Sequence[Listener], now: float) -> None:
        if not listeners:
            return
        for doubt in self.doubts:
            for listener in doubt(listeners):
                listener.end(listener.manner.last_word)
        for listener in listeners:
            listener.is_entitled_until = now + DOUBT_SECONDS


def _tell(listeners: Iterable[Listener], change: Any) -> None:
    concerned = frozenset(msgspec.json.decode(change.parties, type=list[str]))
    said = msgspec.json.encode({"kind": change.kind, "id": change.subject, "revision": change.revision})
    line = b"id: %d\nevent: moved\ndata: %s\n\n" % (change.seq, said)
    for listener in listeners:
        if listener.hears_of(change.kind, concerned):
            listener.say(line)
