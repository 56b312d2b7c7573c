"""What is rung, again, for whom and for how long; on both kinds of store, with phones that keep what they are told."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from events.vocabulary import Role
from reference import load
from services.gateway.ringing import pause_ringing, resume_ringing, ringing, ringing_in
from services.gateway.waits import WaitKind
from services.notifications.addresses import Organisation
from services.notifications.notifier import LATE, MOST_AT_ONCE, Notifier
from services.notifications.queue import CLAIM, RingQueue, Row
from services.notifications.rules import TRIES_PRESSING
from tests.notifications.waiting import NOON, URL, Phone, a_wait, an_organisation, begin, end

WAITS = f"Something waits for you. {URL}/asks"
CALL = f"Somebody does not answer. Please look at the calls to make. {URL}/board"


class Desk:
    """A notifier on one database, a clock in the hand of the test, and an organisation on each side."""

    def __init__(self, engine: sa.Engine, *organisations: Organisation, now: datetime = NOON) -> None:
        self.engine = engine
        self.now = now
        self.organisations = organisations
        self.notifier = self.another()

    def another(self) -> Notifier:
        return Notifier(
            RingQueue(self.engine),
            {one.name: one for one in self.organisations},
            load().clocks,
            URL,
            lambda: self.now,
            lambda: self.now,
        )

    def look(self, notifier: Notifier | None = None, times: int = 2) -> None:
        """What waits at two looks is rung for."""
        for _ in range(times):
            (notifier or self.notifier).step()
            (notifier or self.notifier).settle(5)

    def later(self, **duration: float) -> None:
        """Time passes, and somebody looks every quarter of a minute."""
        until = self.now + timedelta(**duration)
        while self.now < until:
            self.now = min(until, self.now + timedelta(seconds=15))
            self.look(times=1)


@pytest.fixture
def shelter() -> Phone:
    return Phone()


@pytest.fixture
def coordinator() -> Phone:
    return Phone()


@pytest.fixture
def desk(engine: sa.Engine, shelter: Phone, coordinator: Phone) -> Desk:
    return Desk(
        engine,
        an_organisation("nl-shelter-01", Role.SHELTER, shelter, quiet="22:00-07:00"),
        an_organisation("nl-coordinator", Role.COORDINATOR, coordinator, quiet="22:00-07:00"),
    )


def test_an_urgent_ask_rings_twice_then_the_focal_point_and_an_answer_ends_it(
    desk: Desk, shelter: Phone, coordinator: Phone
) -> None:
    begin(desk.engine, a_wait())
    desk.look()
    assert (shelter.texts, coordinator.texts) == ([WAITS], [])
    desk.later(minutes=9, seconds=45)
    assert len(shelter.texts) == 1
    desk.later(minutes=1)
    assert (shelter.texts, coordinator.texts) == ([WAITS] * 2, [])
    desk.later(minutes=10)
    assert (shelter.texts, coordinator.texts) == ([WAITS] * 2, [CALL])
    end(desk.engine, "w-1")
    desk.later(hours=1)
    assert (len(shelter.texts), len(coordinator.texts)) == (2, 1)


@pytest.mark.parametrize("after", [0, 5, 15])
def test_an_answer_ends_it_at_any_time(desk: Desk, shelter: Phone, coordinator: Phone, after: int) -> None:
    begin(desk.engine, a_wait())
    desk.look()
    desk.later(minutes=after)
    end(desk.engine, "w-1")
    before = len(shelter.texts)
    desk.later(minutes=40)
    assert (len(shelter.texts), coordinator.texts) == (before, [])


def test_what_was_over_before_anybody_looked_twice_rings_nobody(desk: Desk, shelter: Phone) -> None:
    begin(desk.engine, a_wait("w-1"))
    desk.look(times=1)
    end(desk.engine, "w-1")
    begin(desk.engine, a_wait("w-2"))
    desk.look(times=1)
    end(desk.engine, "w-2")
    desk.later(minutes=5)
    assert shelter.texts == []


def test_many_asks_at_once_are_one_message_and_one_soon_after_is_the_next(desk: Desk, shelter: Phone) -> None:
    begin(desk.engine, *(a_wait(f"w-{number}") for number in range(20)))
    desk.look()
    assert shelter.texts == [WAITS]
    begin(desk.engine, a_wait("w-late", since=desk.now))
    desk.later(seconds=45)
    assert len(shelter.texts) == 1
    desk.later(seconds=30)
    assert len(shelter.texts) == 2


# Who was stopped, and started again


def test_a_start_rings_for_nothing_that_was_rung_already(desk: Desk, shelter: Phone) -> None:
    begin(desk.engine, a_wait())
    desk.look()
    desk.look(desk.another(), times=5)
    assert shelter.texts == [WAITS]


def test_whatever_happened_while_nobody_looked_rings_afterwards_once(desk: Desk, shelter: Phone) -> None:
    begin(desk.engine, a_wait("w-1", pressing=False))
    desk.now += timedelta(hours=5)
    desk.look(desk.another(), times=5)
    assert shelter.texts == [WAITS]


def test_who_dies_between_sending_and_writing_it_down_rings_twice_and_never_not_at_all(
    desk: Desk, shelter: Phone, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(desk.engine, a_wait())
    dying = desk.another()
    monkeypatch.setattr(dying.queue, "sent", dies)
    desk.look(dying)
    assert shelter.texts == [WAITS]
    desk.later(seconds=CLAIM.total_seconds() - 1)
    assert shelter.texts == [WAITS]  # nobody else sends it while it may still be on its way
    desk.later(seconds=30)
    assert shelter.texts == [WAITS] * 2
    desk.later(minutes=5)
    assert shelter.texts == [WAITS] * 2


def test_who_dies_between_claiming_and_sending_is_followed_by_who_sends(
    desk: Desk, shelter: Phone, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(desk.engine, a_wait())
    dying = desk.another()
    monkeypatch.setattr(dying, "_send", lambda *_: None)
    dying.step()
    dying.step()
    desk.later(seconds=CLAIM.total_seconds() + 30)
    assert shelter.texts == [WAITS]


def dies(*_: object) -> None:
    raise SystemError("killed")


def test_two_processes_ring_once(desk: Desk, shelter: Phone) -> None:
    begin(desk.engine, *(a_wait(f"w-{number}") for number in range(5)))
    notifiers = [desk.another() for _ in range(4)]
    start = threading.Barrier(4)

    def work(notifier: Notifier) -> None:
        start.wait()
        for _ in range(5):
            notifier.step()
            notifier.settle(5)

    threads = [threading.Thread(target=work, args=(notifier,)) for notifier in notifiers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert shelter.texts == [WAITS]


def test_a_channel_that_is_new_in_the_file_rings_for_what_still_waits(
    desk: Desk, shelter: Phone, coordinator: Phone
) -> None:
    begin(desk.engine, a_wait(party="shelter:nl-shelter-02"))
    desk.look(times=3)
    assert coordinator.texts == [CALL]
    new = Phone()
    desk.organisations = (*desk.organisations, an_organisation("nl-shelter-02", Role.SHELTER, new))
    desk.look(desk.another(), times=3)
    assert new.texts == [WAITS]
    assert (shelter.texts, coordinator.texts) == ([], [CALL])


# What fails


def test_what_fails_is_tried_again_until_it_is_taken(desk: Desk, shelter: Phone) -> None:
    shelter.fails = "Refused"
    begin(desk.engine, a_wait())
    desk.look()
    desk.later(minutes=1)
    assert (shelter.tries, shelter.texts) == (3, [])
    shelter.fails = ""
    desk.later(minutes=2)
    assert shelter.texts == [WAITS]
    assert sum(desk.notifier.failed_tries.values()) == 3
    assert desk.notifier.queue.standing().failed == 0


def test_when_nothing_reaches_the_shelter_the_focal_point_is_rung_at_once_and_the_board_knows(
    desk: Desk, shelter: Phone, coordinator: Phone, board: Callable[[], tuple[bool, frozenset[str]]]
) -> None:
    shelter.fails = "Refused"
    begin(desk.engine, a_wait())
    desk.look()
    assert board() == (True, frozenset())
    desk.later(minutes=9)
    assert shelter.tries == TRIES_PRESSING
    assert coordinator.texts == [CALL]
    assert board() == (True, frozenset({"w-1"}))
    end(desk.engine, "w-1")
    assert board() == (True, frozenset())


def test_a_shelter_without_a_channel_goes_to_the_focal_point_at_once(
    desk: Desk, coordinator: Phone, board: Callable[[], tuple[bool, frozenset[str]]]
) -> None:
    begin(desk.engine, a_wait(party="shelter:nl-shelter-02"))
    desk.look(times=3)
    assert coordinator.texts == [CALL]
    assert board() == (True, frozenset({"w-1"}))


def test_one_channel_that_fails_keeps_no_other_from_ringing(engine: sa.Engine, coordinator: Phone) -> None:
    dead, alive = Phone(), Phone()
    dead.fails = "Refused"
    desk = Desk(
        engine,
        an_organisation("nl-shelter-01", Role.SHELTER, dead, alive),
        an_organisation("nl-coordinator", Role.COORDINATOR, coordinator),
    )
    begin(engine, a_wait())
    desk.look()
    desk.later(minutes=15)
    assert alive.texts == [WAITS] * 2  # the second ring; what was taken is not sent again because another failed
    assert coordinator.texts == []


def test_a_gateway_that_hangs_keeps_nobody_elses_message(engine: sa.Engine, shelter: Phone) -> None:
    hanging = Phone()
    hanging.hangs.clear()
    desk = Desk(
        engine,
        an_organisation("nl-shelter-01", Role.SHELTER, hanging),
        an_organisation("nl-shelter-02", Role.SHELTER, shelter),
    )
    try:
        begin(engine, a_wait("w-1"))
        for _ in range(2):
            desk.notifier.step()
        begin(engine, a_wait("w-2", party="shelter:nl-shelter-02"), a_wait("w-3"))
        began = time.monotonic()
        while not shelter.texts and time.monotonic() - began < 5:
            desk.notifier.step()
            time.sleep(0.01)
        assert shelter.texts == [WAITS]
        assert (hanging.tries, hanging.most_at_once) == (1, 1)
    finally:
        hanging.hangs.set()
        desk.notifier.settle(5)


def test_a_whole_region_is_rung_a_few_at_a_time(engine: sa.Engine) -> None:
    phones = [Phone() for _ in range(60)]
    names = [f"nl-shelter-{number}" for number in range(60)]
    desk = Desk(engine, *(an_organisation(n, Role.SHELTER, phone) for n, phone in zip(names, phones, strict=True)))
    begin(engine, *(a_wait(f"w-{name}", party=f"shelter:{name}") for name in names))
    for phone in phones:
        phone.hangs.clear()
    for _ in range(4):
        desk.notifier.step()
    assert sum(phone.tries for phone in phones) == MOST_AT_ONCE
    for phone in phones:
        phone.hangs.set()
    desk.notifier.settle(5)
    desk.look(times=6)
    assert all(phone.texts == [WAITS] for phone in phones)


def test_a_channel_that_left_the_file_fails_and_is_not_waited_for(
    desk: Desk, shelter: Phone, coordinator: Phone, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(desk.engine, a_wait())
    shelter.fails = "Refused"
    desk.look()
    desk.organisations = (an_organisation("nl-coordinator", Role.COORDINATOR, coordinator),)
    desk.notifier = desk.another()
    desk.later(minutes=1)
    assert coordinator.texts == [CALL]


def test_a_failure_of_the_database_is_said_and_got_over(
    desk: Desk, shelter: Phone, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(desk.engine, a_wait())
    stop = threading.Event()
    waits = desk.notifier.queue.waits
    monkeypatch.setattr(desk.notifier.queue, "waits", dies)
    monkeypatch.setattr("services.notifications.notifier.LOOK_SECONDS", 0.01)
    thread = threading.Thread(target=desk.notifier.run, args=(stop,))
    thread.start()
    until(lambda: "SystemError" in desk.notifier.ready().get("notifications", ""))
    monkeypatch.setattr(desk.notifier.queue, "waits", waits)
    until(lambda: shelter.texts == [WAITS])
    assert desk.notifier.ready() == {}
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def until(is_so: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.01)


# Quiet hours


@pytest.fixture
def night(desk: Desk) -> Desk:
    desk.now = datetime(2026, 11, 27, 2, 5, tzinfo=UTC)  # 03:05 in Amsterdam
    return desk


def test_an_urgent_ask_rings_at_night(night: Desk, shelter: Phone) -> None:
    begin(night.engine, a_wait(since=night.now))
    night.look()
    assert shelter.texts == [WAITS]


def test_whatever_else_waits_for_the_morning_and_only_if_it_still_waits(night: Desk, shelter: Phone) -> None:
    begin(
        night.engine,
        a_wait("w-1", WaitKind.PLACES, pressing=False, since=night.now),
        a_wait("w-2", pressing=False, since=night.now),
    )
    night.later(hours=1)
    end(night.engine, "w-2")
    assert shelter.texts == []
    night.now = datetime(2026, 11, 27, 6, 0, tzinfo=UTC)
    night.look()
    assert shelter.texts == [f"Please confirm your places. {URL}/places"]


def test_a_try_that_fails_in_the_evening_goes_on_in_the_morning(desk: Desk, shelter: Phone) -> None:
    desk.now = datetime(2026, 11, 27, 20, 59, 50, tzinfo=UTC)  # ten seconds to ten
    shelter.fails = "Refused"
    begin(desk.engine, a_wait(pressing=False, since=desk.now))
    desk.look()
    desk.later(minutes=5)
    assert shelter.tries == 1
    shelter.fails = ""
    desk.now = datetime(2026, 11, 28, 6, 0, tzinfo=UTC)
    desk.look()
    assert shelter.texts == [WAITS]


# Whether people are rung at all


@pytest.fixture
def board(desk: Desk) -> Callable[[], tuple[bool, frozenset[str]]]:
    """What the board knows, where it may read the tables themselves."""
    if desk.engine.dialect.name != "sqlite":
        with desk.engine.begin() as connection:
            from services.gateway.ringing import UNRUNG

            connection.exec_driver_sql(f"CREATE OR REPLACE VIEW unrung AS {UNRUNG}")
    ask = ringing_in(desk.engine, lambda: desk.now)

    def known() -> tuple[bool, frozenset[str]]:
        found = ask()
        return found.is_on, found.unrung

    return known


def test_the_board_knows_whether_anybody_rings(desk: Desk, board: Callable[[], tuple[bool, frozenset[str]]]) -> None:
    assert board() == (False, frozenset())
    desk.look()
    assert board() == (True, frozenset())
    desk.now += timedelta(seconds=89)
    assert board()[0]
    desk.now += timedelta(seconds=1)
    assert not board()[0]


def test_while_the_read_model_is_built_anew_nobody_is_rung_and_it_is_said(desk: Desk, shelter: Phone) -> None:
    with desk.engine.begin() as connection:
        pause_ringing(connection)
    begin(desk.engine, a_wait())
    desk.look(times=4)
    assert shelter.texts == []
    assert "haven rebuild" in desk.notifier.ready()["notifications"]
    with desk.engine.connect() as connection:
        assert connection.scalars(sa.select(ringing.c.what)).all() == ["paused"]
    with desk.engine.begin() as connection:
        resume_ringing(connection)
    desk.look()
    assert shelter.texts == [WAITS]
    assert desk.notifier.ready() == {}


def test_a_message_that_waits_too_long_is_a_reason_not_to_be_ready(desk: Desk) -> None:
    begin(desk.engine, a_wait())
    desk.notifier.queue.plan([(Row("w-1", 1, "nl-shelter-01", "phone-1", "asked", True), NOON)], [])  # type: ignore[arg-type]
    desk.now += LATE
    assert desk.notifier.ready() == {}
    desk.now += timedelta(seconds=1)
    assert "five minutes" in desk.notifier.ready()["notifications"]


# What is said


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("nl", "Er wacht iets op u."),
        ("fr", "Quelque chose vous attend."),
        ("de", "Etwas wartet auf Sie."),
        ("lb", "Et waart eppes op Iech."),
    ],
)
def test_it_is_said_in_the_language_of_the_organisation(
    engine: sa.Engine, shelter: Phone, language: str, text: str
) -> None:
    desk = Desk(engine, an_organisation("nl-shelter-01", Role.SHELTER, shelter, language=language))
    begin(engine, a_wait())
    desk.look()
    assert shelter.texts == [f"{text} {URL}/asks"]


def test_a_log_line_names_a_channel_and_nothing_else(
    desk: Desk, shelter: Phone, caplog: pytest.LogCaptureFixture
) -> None:
    shelter.fails = "Refused"
    begin(desk.engine, a_wait("w-secret"), a_wait("w-2", party="shelter:nl-shelter-09"))
    with caplog.at_level(logging.DEBUG):
        desk.look(times=3)
    assert messages(caplog.records) == {
        "nobody to ring count=1",
        "ring not taken channel=nl-shelter-01.phone-1 error=Refused",
    }


def messages(records: Iterable[logging.LogRecord]) -> set[str]:
    return {record.getMessage() for record in records if record.name.startswith("services.notifications")}
