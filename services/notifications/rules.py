"""Who is rung when: pure, from what waits and what became of earlier rings.

A *ring* is one message for one party about one wait. It is told by its number: a first ring, a second one for an urgent ask,
and from `FIRST_CALL` on the focal point's.
"""

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from events.vocabulary import Role
from reference import Clocks
from services.gateway.ringing import FIRST_CALL
from services.gateway.waits import Wait, WaitKind

NEWS_LASTS = timedelta(days=1)
"""A signature that lapsed is news for so long; nobody is rung for it after that."""
FIRST_RETRY_SECONDS, LONGEST_RETRY = 15, timedelta(hours=1)
TRIES_PRESSING, TRIES_OTHERWISE = 6, 14
"""About eight minutes, within the time of an urgent ask; and about six hours, an outage of a mail server."""


class Message(StrEnum):
    """All that is ever said; the words are in services/gateway/pages/words_of_messages.py."""

    ASKED = "asked"
    WAITING = "waiting"
    CHANGED = "changed"
    PLACES = "places"
    CALL = "call"
    TEST = "test"


_MESSAGE_OF = {
    WaitKind.ASK: Message.ASKED,
    WaitKind.STEP: Message.WAITING,
    WaitKind.CHANGE: Message.CHANGED,
    WaitKind.PLACES: Message.PLACES,
}

GAPS = {Message.PLACES: timedelta(hours=20)}
GAP = timedelta(minutes=1)
"""Between two of the same messages to one channel: they say the same, and the page shows everything at once. A shelter with ten
units is asked once a day to confirm them."""


@dataclass(frozen=True)
class Ring:
    number: int
    party: str
    message: Message
    due: datetime


def rings_of(wait: Wait, clocks: Clocks, now: datetime, unrung_since: datetime | None) -> list[Ring]:
    """Every ring that is due `now`. `unrung_since`: since when it is certain that nothing reaches the party of this ask."""
    since = datetime.fromisoformat(wait.since)
    if wait.kind is WaitKind.CHANGE and now - since > NEWS_LASTS:
        return []
    rings = [Ring(1, wait.party, _MESSAGE_OF[wait.kind], since)]
    if wait.kind is WaitKind.ASK:
        if wait.pressing:
            again = since + timedelta(minutes=clocks.ring_again_minutes)
            rings.append(Ring(2, wait.party, Message.ASKED, again))
        calls = [since + timedelta(minutes=clocks.call_after_minutes)] if wait.pressing else []
        calls += [unrung_since] if unrung_since else []
        if calls and wait.escalates_to:
            rings.append(Ring(FIRST_CALL, wait.escalates_to, Message.CALL, min(calls)))
    return [ring for ring in rings if ring.due <= now]


@dataclass(frozen=True)
class Quiet:
    """The hours in which an organisation is rung only for what presses, on its own wall clock. They may go over midnight."""

    begins: time
    ends: time
    zone: ZoneInfo

    def until(self, moment: datetime) -> datetime:
        """`moment` itself if it is not quiet then; else when the quiet ends."""
        local = moment.astimezone(self.zone)
        at = local.time().replace(fold=0)
        over_midnight = self.begins > self.ends
        has_begun, has_ended = self.begins <= at, self.ends <= at
        if not ((has_begun or not has_ended) if over_midnight else (has_begun and not has_ended)):
            return moment
        # In the night the clock goes back the same time comes twice; whichever is next.
        ends = (
            datetime.combine(local.date() + timedelta(days=day), self.ends, self.zone).replace(fold=fold)
            for day in (0, 1)
            for fold in (0, 1)
        )
        return min(end for end in (one.astimezone(moment.tzinfo) for one in ends) if end > moment)


def not_before(moment: datetime, quiet: Quiet | None, *, pressing: bool) -> datetime:
    """When a message may be sent at the earliest: what presses is what quiet hours are interrupted for."""
    return moment if pressing or quiet is None else quiet.until(moment)


def next_try(tries: int, now: datetime, *, pressing: bool) -> datetime | None:
    """When to try again after so many tries have failed; None when it is given up."""
    if tries >= (TRIES_PRESSING if pressing else TRIES_OTHERWISE):
        return None
    return now + min(timedelta(seconds=FIRST_RETRY_SECONDS << (tries - 1)), LONGEST_RETRY)


def page_of(message: Message, role: Role) -> str:
    """The page a message leads to. Without an id: whoever reads it over a shoulder learns nothing."""
    match message:
        case Message.ASKED:
            return "/asks"
        case Message.PLACES:
            return "/places"
        case Message.TEST:
            return "/"
    return "/board" if role is Role.COORDINATOR else "/requests"
