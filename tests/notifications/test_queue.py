"""The queue on both kinds of store: nothing twice, nothing lost, and nobody's claim for ever."""

import re
import threading
from collections import Counter
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from services.gateway.read_model import waits
from services.gateway.ringing import UNRUNG, rings
from services.migrate import FILES
from services.notifications.queue import CLAIM, REMEMBERED, RingQueue, Row
from services.notifications.rules import GAP, GAPS, Message
from tests.notifications.waiting import NOON, a_wait, begin, end

SECOND = timedelta(seconds=1)


@pytest.fixture
def queue(engine: sa.Engine) -> RingQueue:
    return RingQueue(engine)


def a_row(wait_id: str = "w-1", number: int = 1, message: Message = Message.ASKED, **changes: str | bool) -> Row:
    said = {"organisation": "nl-shelter-01", "channel": "phone", "pressing": True} | changes
    return Row(wait_id=wait_id, number=number, message=message, **said)  # type: ignore[arg-type]


def plan(queue: RingQueue, *rows: Row, at: datetime = NOON) -> None:
    queue.plan([(row, at) for row in rows], [])


def claimed(queue: RingQueue, at: datetime = NOON) -> list[Row]:
    return sorted(
        (row for rows in queue.claim(at, at).values() for row in rows), key=lambda row: (row.wait_id, row.number)
    )


def test_what_is_planned_twice_is_there_once(engine: sa.Engine, queue: RingQueue) -> None:
    begin(engine, a_wait())
    for _ in range(3):
        plan(queue, a_row())
    assert claimed(queue) == [a_row()]
    assert queue.standing().waiting == 1


def test_what_is_claimed_is_nobody_elses_until_the_claim_runs_out(engine: sa.Engine, queue: RingQueue) -> None:
    begin(engine, a_wait())
    plan(queue, a_row())
    another = RingQueue(engine)
    assert claimed(queue) == [a_row()]
    assert claimed(another, NOON + CLAIM - SECOND) == []
    # Whoever claimed it died before it was written down that it was sent: it may ring twice, and never not at all.
    assert claimed(another, NOON + CLAIM) == [a_row()]


def test_what_was_sent_is_sent_no_more(engine: sa.Engine, queue: RingQueue) -> None:
    begin(engine, a_wait())
    plan(queue, a_row())
    queue.sent(claimed(queue), NOON)
    assert claimed(queue, NOON + timedelta(days=1)) == []
    plan(queue, a_row())
    assert claimed(queue, NOON + timedelta(days=1)) == []


def test_a_failure_that_is_told_late_undoes_no_success(engine: sa.Engine, queue: RingQueue) -> None:
    begin(engine, a_wait())
    plan(queue, a_row())
    queue.sent(claimed(queue), NOON)
    queue.failed({a_row(): None}, NOON)
    assert claimed(queue, NOON + timedelta(days=1)) == []
    assert queue.standing().failed == 0


def test_what_failed_is_tried_again_when_it_is_time_and_counts_its_tries(engine: sa.Engine, queue: RingQueue) -> None:
    begin(engine, a_wait())
    plan(queue, a_row())
    (row,) = claimed(queue)
    queue.failed({row: NOON + 15 * SECOND}, NOON)
    assert claimed(queue, NOON + 14 * SECOND) == []
    (again,) = claimed(queue, NOON + 15 * SECOND)
    assert again.tries == 1
    queue.failed({again: None}, NOON + 15 * SECOND)
    assert claimed(queue, NOON + timedelta(days=1)) == []
    assert queue.unrung() == {"w-1": NOON + 15 * SECOND}
    assert queue.standing().failed == 1


def test_what_waits_no_more_is_not_sent(engine: sa.Engine, queue: RingQueue) -> None:
    begin(engine, a_wait("w-1"), a_wait("w-2"))
    plan(queue, a_row("w-1"), a_row("w-2"))
    end(engine, "w-1")
    assert claimed(queue) == [a_row("w-2")]


def test_what_says_the_same_to_the_same_channel_is_one_message(engine: sa.Engine, queue: RingQueue) -> None:
    begin(engine, *(a_wait(f"w-{number}") for number in range(5)))
    rows = [a_row(f"w-{number}") for number in range(3)]
    plan(queue, *rows, a_row("w-3", channel="mailbox"), a_row("w-4", message=Message.PLACES, pressing=False))
    found = queue.claim(NOON, NOON)
    assert found["nl-shelter-01", "phone", Message.ASKED] == rows
    assert len(found) == 2
    # Something else for the same phone is the next message.
    assert list(queue.claim(NOON, NOON)) == [("nl-shelter-01", "phone", Message.PLACES)]


@pytest.mark.parametrize("message", [Message.ASKED, Message.PLACES])
def test_the_same_is_not_said_again_too_soon_and_then_at_a_time_that_is_allowed(
    engine: sa.Engine, queue: RingQueue, message: Message
) -> None:
    begin(engine, a_wait("w-1"), a_wait("w-2"))
    plan(queue, a_row("w-1", message=message))
    queue.sent(claimed(queue), NOON)
    plan(queue, a_row("w-2", message=message))
    soon, quiet = GAPS.get(message, GAP), timedelta(hours=3)
    assert queue.claim(NOON + SECOND, NOON + SECOND, (), lambda _row, moment: moment + quiet) == {}
    assert claimed(queue, NOON + soon + quiet - SECOND) == []
    assert claimed(queue, NOON + soon + quiet) == [a_row("w-2", message=message)]


def test_many_that_have_to_wait_keep_nobody_elses_message(engine: sa.Engine, queue: RingQueue) -> None:
    begin(engine, *(a_wait(f"w-{number}") for number in range(1000)))
    plan(queue, a_row("w-0", message=Message.PLACES, pressing=False))
    queue.sent(claimed(queue), NOON)
    plan(queue, *(a_row(f"w-{n}", message=Message.PLACES, pressing=False) for n in range(1, 999)))
    plan(queue, a_row("w-999", pressing=False), at=NOON + SECOND)
    found = [row for _ in range(4) for row in claimed(queue, NOON + 2 * SECOND)]
    assert [row.wait_id for row in found] == ["w-999"]


def test_a_busy_channel_keeps_no_other(engine: sa.Engine, queue: RingQueue) -> None:
    begin(engine, a_wait())
    plan(queue, a_row(), a_row(channel="mailbox"))
    assert list(queue.claim(NOON, NOON, [("nl-shelter-01", "phone")])) == [("nl-shelter-01", "mailbox", Message.ASKED)]


def test_no_more_is_taken_than_can_be_sent_at_once(engine: sa.Engine, queue: RingQueue) -> None:
    begin(engine, *(a_wait(f"w-{number}") for number in range(10)))
    plan(queue, *(a_row(f"w-{number}", organisation=f"o-{number % 5}") for number in range(10)))
    found = queue.claim(NOON, NOON, most=3)
    assert {len(rows) for rows in found.values()} == {2}
    assert len(found) == 3
    assert len(queue.claim(NOON, NOON)) == 2


def test_a_kind_of_a_newer_release_stops_nobody(engine: sa.Engine, queue: RingQueue) -> None:
    begin(engine, a_wait("w-1"), a_wait("w-2"))
    with engine.begin() as connection:
        connection.execute(sa.update(waits).where(waits.c.wait_id == "w-2").values(kind="novelty"))
    assert [wait.wait_id for wait in queue.waits()] == ["w-1"]


def test_an_ask_is_unrung_only_when_every_channel_has_failed(engine: sa.Engine, queue: RingQueue) -> None:
    begin(engine, a_wait())
    plan(queue, a_row(), a_row(channel="mailbox"))
    phone, mailbox = sorted(claimed(queue), key=lambda row: row.channel, reverse=True)
    queue.failed({phone: None}, NOON)
    assert queue.unrung() == {}
    queue.sent([mailbox], NOON)
    assert queue.unrung() == {}


def test_the_board_goes_by_the_same_condition_on_postgresql() -> None:
    """There it reads a view: the rows themselves say who was rung where."""
    rights = (FILES / "rights.sql").read_text().replace("gateway.", "")
    view = re.search(r"CREATE OR REPLACE VIEW unrung AS(.*?);", rights, re.DOTALL)
    assert view
    assert "".join(view[1].split()) == "".join(UNRUNG.split())


def test_with_nobody_to_ring_it_is_unrung_at_once_and_until_somebody_is_named(
    engine: sa.Engine, queue: RingQueue
) -> None:
    begin(engine, a_wait())
    queue.plan([], [(a_row(organisation="", channel=""), NOON)])
    assert queue.unrung() == {"w-1": NOON}
    assert (queue.standing().nobody, queue.standing().failed) == (1, 0)
    plan(queue, a_row())
    assert queue.unrung() == {}
    assert claimed(queue) == [a_row()]


def test_what_presses_goes_first(engine: sa.Engine, queue: RingQueue) -> None:
    begin(engine, a_wait("w-1"), a_wait("w-2"))
    plan(queue, a_row("w-1", pressing=False, organisation="b"))
    plan(queue, a_row("w-2", organisation="a"), at=NOON + SECOND)
    assert [post[0] for post in queue.claim(NOON + 2 * SECOND, NOON)] == ["a", "b"]


def test_two_that_look_at_once_never_take_the_same(engine: sa.Engine) -> None:
    """Each ring for another organisation, so that nothing else keeps two processes from sending it."""
    begin(engine, *(a_wait(f"w-{number}") for number in range(300)))
    rows = [a_row(f"w-{number}", organisation=f"o-{number}") for number in range(300)]
    plan(RingQueue(engine), *rows)
    taken: list[Row] = []
    start = threading.Barrier(4)

    def look() -> None:
        queue = RingQueue(engine)
        start.wait()
        for _ in range(8):
            taken.extend(row for found in queue.claim(NOON, NOON).values() for row in found)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert Counter(taken) == Counter(rows)


def test_old_rings_are_forgotten_once_nothing_waits_for_them(engine: sa.Engine, queue: RingQueue) -> None:
    begin(engine, a_wait("w-1"), a_wait("w-2"))
    plan(queue, a_row("w-1"), a_row("w-2"))
    queue.sent(claimed(queue), NOON)
    end(engine, "w-1")

    def kept() -> set[str]:
        with engine.connect() as connection:
            return set(connection.scalars(sa.select(rings.c.wait_id)))

    queue.forget_old(NOON + REMEMBERED)
    assert kept() == {"w-1", "w-2"}
    queue.forget_old(NOON + REMEMBERED + SECOND)
    assert kept() == {"w-2"}


def test_how_long_the_oldest_has_waited_is_known(engine: sa.Engine, queue: RingQueue) -> None:
    assert queue.standing().oldest is None
    begin(engine, a_wait())
    plan(queue, a_row(), at=NOON)
    assert (queue.standing().waiting, queue.standing().oldest) == (1, NOON)
