"""Who is rung when, as tables: no clock, no database, no network."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.vocabulary import Role
from reference import load
from services.gateway.pages import PAGES
from services.gateway.waits import Wait, WaitKind
from services.notifications.rules import (
    FIRST_CALL,
    LONGEST_RETRY,
    NEWS_LASTS,
    TRIES_OTHERWISE,
    TRIES_PRESSING,
    Message,
    Quiet,
    next_try,
    not_before,
    page_of,
    rings_of,
)

CLOCKS = load().clocks
BRUSSELS = ZoneInfo("Europe/Brussels")
ASKED = datetime(2026, 11, 26, 2, 5, tzinfo=UTC)
AGAIN, CALL = CLOCKS.ring_again_minutes, CLOCKS.call_after_minutes
SHELTER, COORDINATOR = "shelter:nl-shelter-01", "coordinator:NL"


def a_wait(kind: WaitKind = WaitKind.ASK, *, pressing: bool = True, escalates_to: str = COORDINATOR) -> Wait:
    return Wait("w-1", kind, SHELTER, pressing, ASKED.isoformat(), escalates_to)


def rung(wait: Wait, minutes: float, unrung_after: float | None = None) -> list[tuple[int, str, Message]]:
    """What is due so many minutes after the wait began."""
    unrung = None if unrung_after is None else ASKED + timedelta(minutes=unrung_after)
    rings = rings_of(wait, CLOCKS, ASKED + timedelta(minutes=minutes), unrung)
    return [(ring.number, ring.party, ring.message) for ring in rings]


FIRST = (1, SHELTER, Message.ASKED)
SECOND = (2, SHELTER, Message.ASKED)
CALLED = (FIRST_CALL, COORDINATOR, Message.CALL)


@pytest.mark.parametrize(
    ("minutes", "unrung_after", "due"),
    [
        (0, None, [FIRST]),
        (AGAIN - 0.01, None, [FIRST]),
        (AGAIN, None, [FIRST, SECOND]),
        (CALL - 0.01, None, [FIRST, SECOND]),
        (CALL, None, [FIRST, SECOND, CALLED]),
        (600, None, [FIRST, SECOND, CALLED]),
        (1, 1, [FIRST, CALLED]),
        (8, 8, [FIRST, CALLED]),
        (25, 22, [FIRST, SECOND, CALLED]),
    ],
)
def test_an_urgent_ask_rings_rings_again_and_then_rings_the_focal_point(
    minutes: float, unrung_after: float | None, due: list[tuple[int, str, Message]]
) -> None:
    assert rung(a_wait(), minutes, unrung_after) == due


def test_an_ask_that_can_wait_rings_once_unless_nobody_hears_it() -> None:
    wait = a_wait(pressing=False)
    assert rung(wait, 600) == [FIRST]
    assert rung(wait, 600, unrung_after=300) == [FIRST, CALLED]


def test_all_three_rings_come_before_the_ask_expires() -> None:
    assert 0 < AGAIN < CALL < CLOCKS.urgent.ask_minutes


@pytest.mark.parametrize(
    ("kind", "message"),
    [(WaitKind.STEP, Message.WAITING), (WaitKind.PLACES, Message.PLACES), (WaitKind.CHANGE, Message.CHANGED)],
)
def test_whatever_else_waits_rings_once(kind: WaitKind, message: Message) -> None:
    assert rung(a_wait(kind), 600) == [(1, SHELTER, message)]


def test_news_gets_old() -> None:
    wait = a_wait(WaitKind.CHANGE)
    assert rung(wait, NEWS_LASTS / timedelta(minutes=1)) != []
    assert rung(wait, NEWS_LASTS / timedelta(minutes=1) + 1) == []


def test_nothing_is_due_before_it_began() -> None:
    assert rung(a_wait(), -1) == []


# Trying again


@pytest.mark.parametrize(
    ("pressing", "tries", "minutes"), [(True, TRIES_PRESSING, 8), (False, TRIES_OTHERWISE, 60 * 7)]
)
def test_it_is_tried_again_with_growing_pauses_and_then_given_up(pressing: bool, tries: int, minutes: int) -> None:
    moment, pauses = ASKED, []
    for number in range(1, tries):
        again = next_try(number, moment, pressing=pressing)
        assert again is not None
        pauses.append(again - moment)
        moment = again
    assert pauses == sorted(pauses)
    assert pauses[0] == timedelta(seconds=15)
    assert max(pauses) <= LONGEST_RETRY
    assert next_try(tries, moment, pressing=pressing) is None
    assert moment - ASKED < timedelta(minutes=minutes)


def test_what_presses_is_given_up_while_there_is_time_to_phone() -> None:
    moment = ASKED
    for number in range(1, TRIES_PRESSING):
        moment = next_try(number, moment, pressing=True) or moment
    assert moment - ASKED < timedelta(minutes=CALL / 2)


# Quiet hours

NIGHT = Quiet(time(22), time(7), BRUSSELS)
SIESTA = Quiet(time(13), time(15), BRUSSELS)


def local(text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BRUSSELS, fold=fold).astimezone(UTC)


@pytest.mark.parametrize(
    ("quiet", "at", "until"),
    [
        (NIGHT, "2026-11-26 21:59:59", "2026-11-26 21:59:59"),
        (NIGHT, "2026-11-26 22:00", "2026-11-27 07:00"),
        (NIGHT, "2026-11-26 23:59", "2026-11-27 07:00"),
        (NIGHT, "2026-11-27 00:00", "2026-11-27 07:00"),
        (NIGHT, "2026-11-27 06:59:59", "2026-11-27 07:00"),
        (NIGHT, "2026-11-27 07:00", "2026-11-27 07:00"),
        (SIESTA, "2026-11-27 12:59", "2026-11-27 12:59"),
        (SIESTA, "2026-11-27 13:00", "2026-11-27 15:00"),
        (SIESTA, "2026-11-27 15:00", "2026-11-27 15:00"),
        # The clock goes forward on 29 March 2026 at 02:00 and back on 25 October at 03:00: the morning stays the morning.
        (NIGHT, "2026-03-28 23:00", "2026-03-29 07:00"),
        (NIGHT, "2026-10-24 23:00", "2026-10-25 07:00"),
    ],
)
def test_quiet_hours_end_on_the_wall_clock(quiet: Quiet, at: str, until: str) -> None:
    assert quiet.until(local(at)) == local(until)


def test_an_hour_that_comes_twice_is_not_a_day() -> None:
    """Quiet until half past two, which it is twice that night."""
    short = Quiet(time(22), time(2, 30), BRUSSELS)
    assert short.until(local("2026-10-25 02:10")) == local("2026-10-25 02:30")
    assert short.until(local("2026-10-25 02:10", fold=1)) == local("2026-10-25 02:30", fold=1)


def test_an_hour_that_never_comes_still_ends() -> None:
    short = Quiet(time(22), time(2, 30), BRUSSELS)
    began = local("2026-03-29 01:59")
    assert timedelta(0) < short.until(began) - began <= timedelta(hours=1)


MINUTE = timedelta(minutes=1)
ZONES = ("Europe/Brussels", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca", "UTC")


@given(
    moment=st.integers(0, 20 * 366 * 24 * 60).map(lambda minutes: datetime(2011, 1, 1, tzinfo=UTC) + minutes * MINUTE),
    begins=st.times().map(lambda at: at.replace(second=0, microsecond=0)),
    ends=st.times().map(lambda at: at.replace(second=0, microsecond=0)),
    zone=st.sampled_from(ZONES),
)
def test_quiet_never_lasts_longer_than_a_day_and_never_goes_back(
    moment: datetime, begins: time, ends: time, zone: str
) -> None:
    if begins == ends:
        return
    until = Quiet(begins, ends, ZoneInfo(zone)).until(moment)
    assert moment <= until <= moment + timedelta(hours=50)  # a day, and the whole one that Apia left out


def test_what_presses_rings_through_quiet_hours_and_nothing_else_does() -> None:
    midnight = local("2026-11-27 00:00")
    assert not_before(midnight, NIGHT, pressing=True) == midnight
    assert not_before(midnight, NIGHT, pressing=False) == local("2026-11-27 07:00")
    assert not_before(midnight, None, pressing=False) == midnight


# What is said


@pytest.mark.parametrize(
    ("message", "role"),
    [
        (Message.ASKED, Role.SHELTER),
        (Message.PLACES, Role.SHELTER),
        (Message.WAITING, Role.SHELTER),
        (Message.WAITING, Role.COORDINATOR),
        (Message.WAITING, Role.GUARDIAN),
        (Message.CHANGED, Role.COORDINATOR),
        (Message.CALL, Role.COORDINATOR),
    ],
)
@pytest.mark.attack(63)
def test_a_link_leads_to_a_page_of_whoever_is_rung_and_names_nothing(message: Message, role: Role) -> None:
    (page,) = [page for page in PAGES if (page.method, page.path) == ("GET", page_of(message, role))]
    assert role in page.roles
    assert "<" not in page.path
