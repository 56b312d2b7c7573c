"""The embedded transport: every event of the followed logs reaches the consumer, whatever fails in between."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from events.envelope import Event
from events.log import follower as follower_module
from events.log.engines import sqlite_engine
from events.log.follower import TRIES, Follower
from events.log.inbox import Consumer, ParkReason
from events.log.store import EventLog, Writing
from tests.events.drafts import NOON, a_draft, drafts, put_newer_event


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


class Node:
    """Two logs, and a third service that follows both and writes down what it saw."""

    def __init__(self, log: EventLog, folder: Path) -> None:
        self.clock = Clock()
        self.log = log
        self.sources = {name: EventLog(sqlite_engine(str(folder / f"{name}.db")), name) for name in ("a", "b")}
        for source in self.sources.values():
            source.create_schema()
        self.fails: Callable[[Event], None] = lambda _event: None
        self.passes_time: Callable[[datetime], bool] = lambda _now: False
        self.restart()

    def restart(self) -> None:
        self.consumer = Consumer("c", self.log, self.handle)
        self.follower = Follower(self.consumer, self.sources, self.clock, self.let_time_pass)

    def let_time_pass(self, now: datetime) -> bool:
        return self.passes_time(now)

    def handle(self, tx: Writing, event: Event) -> None:
        self.fails(event)
        tx.append([a_draft(f"seen-{event.source}", f"{event.stream}.{event.version}")])

    def seen(self, source: str) -> list[str]:
        return [event.data.resource for event in self.log.read_stream(f"seen-{source}")]

    def settle(self) -> None:
        for _ in range(500):
            self.clock.now += timedelta(seconds=2)
            if not self.follower.step():
                return
        raise AssertionError("it does not come to rest")


@pytest.fixture
def node(log: EventLog, tmp_path: Path) -> Iterator[Node]:
    node = Node(log, tmp_path)
    yield node
    for source in node.sources.values():
        source.engine.dispose()


def poison(stream: str, version: int, error: type[Exception] = ValueError) -> Callable[[Event], None]:
    def fail(event: Event) -> None:
        if (event.stream, event.version) == (stream, version):
            raise error("no", None, Exception()) if error is OperationalError else error

    return fail


def test_every_event_of_every_source_arrives_in_its_order(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "BATCH", 3)
    for n in range(10):
        node.sources["a"].append([a_draft(f"s-{n % 2}")])
        node.sources["b"].append([a_draft("s-0")])
    node.settle()
    assert node.seen("a") == [f"s-{n % 2}.{n // 2 + 1}" for n in range(10)]
    assert node.seen("b") == [f"s-0.{n + 1}" for n in range(10)]
    assert node.follower.lag() == 0
    assert not node.follower.step()


def test_a_step_is_bounded_and_says_whether_it_did_anything(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "BATCH", 2)
    assert not node.follower.step()
    node.sources["a"].append(drafts(3))
    assert node.follower.lag() == 3
    assert node.follower.step()
    assert (len(node.seen("a")), node.follower.lag()) == (2, 1)
    assert node.follower.step()
    assert not node.follower.step()


def test_a_restart_goes_on_where_it_stopped(node: Node) -> None:
    node.sources["a"].append(drafts(3))
    node.settle()
    node.restart()
    assert not node.follower.step()
    node.sources["a"].append(drafts(1))
    node.settle()
    assert node.seen("a") == [f"unit-1.{n}" for n in (1, 2, 3, 4)]


def test_a_lost_cursor_repeats_nothing(node: Node) -> None:
    node.sources["a"].append(drafts(3))
    node.settle()
    with node.log.writing() as tx:
        tx.connection.exec_driver_sql("DELETE FROM cursors")
    node.settle()
    assert len(node.seen("a")) == 3
    assert node.follower.lag() == 0


def test_a_poison_event_is_tried_five_times_then_parked_while_others_go_on(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.fails = poison("s-1", 2)
    for stream in ("s-1", "s-1", "s-2", "s-1"):
        node.sources["a"].append([a_draft(stream)])
    node.sources["b"].append([a_draft("s-1"), a_draft("s-2")])
    node.follower.step()
    assert node.seen("a") == ["s-1.1"]
    assert node.seen("b") == ["s-1.1", "s-2.1"]  # the other log does not wait
    node.settle()
    assert node.seen("a") == ["s-1.1", "s-2.1"]
    parked = [(one.source, one.stream, one.version, one.reason) for one in node.consumer.parked()]
    assert parked == [("a", "s-1", 2, ParkReason.FAILED), ("a", "s-1", 3, ParkReason.BEHIND)]
    failures = [record for record in caplog.records if "try=" in record.message]
    assert len(failures) == TRIES
    node.fails = lambda _event: None
    assert node.consumer.retry_parked() == 2
    assert node.seen("a") == ["s-1.1", "s-2.1", "s-1.2", "s-1.3"]


def test_an_event_that_fails_for_a_while_is_handled_in_the_end(node: Node) -> None:
    tries = 0

    def twice(_event: Event) -> None:
        nonlocal tries
        tries += 1
        if tries <= 4:
            raise ValueError

    node.fails = twice
    node.sources["a"].append(drafts(1))
    node.settle()
    assert node.seen("a") == ["unit-1.1"]
    assert node.consumer.parked() == []


def test_a_failing_event_is_not_tried_again_before_its_pause_is_over(node: Node) -> None:
    node.fails = poison("unit-1", 1)
    node.sources["a"].append(drafts(1))
    assert node.follower.step()
    for _ in range(20):
        assert not node.follower.step()
    assert node.consumer.parked() == []


def test_trouble_of_the_database_is_not_the_events_fault(node: Node) -> None:
    node.fails = poison("unit-1", 1, OperationalError)
    node.sources["a"].append(drafts(1))
    for _ in range(TRIES * 2):
        node.clock.now += timedelta(seconds=2)
        with pytest.raises(OperationalError):
            node.follower.step()
    assert node.consumer.parked() == []
    assert node.follower.lag() == 1
    node.fails = lambda _event: None
    node.settle()
    assert node.seen("a") == ["unit-1.1"]


def test_a_newer_releases_event_is_parked_and_the_rest_goes_on(node: Node) -> None:
    put_newer_event(node.sources["a"], "s-1", 1)
    node.sources["a"].append([a_draft("s-2")])
    node.settle()
    assert node.seen("a") == ["s-2.1"]
    assert [one.reason for one in node.consumer.parked()] == [ParkReason.UNREADABLE]


def test_time_passes_in_every_step_even_without_events(node: Node) -> None:
    passed: list[datetime] = []

    def once(now: datetime) -> bool:
        passed.append(now)
        return len(passed) == 1

    node.passes_time = once
    assert node.follower.step()
    assert not node.follower.step()
    assert passed == [NOON, NOON]


# In a thread


@pytest.fixture
def running(node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """Polls so rarely that only the hint of a commit can be what woke it."""
    monkeypatch.setattr(follower_module, "POLL_SECONDS", 60)
    stop = threading.Event()
    thread = threading.Thread(target=node.follower.run, args=(stop,), daemon=True)
    thread.start()
    yield node
    stop.set()
    node.follower.stop()
    thread.join(10)
    assert not thread.is_alive()


def wait_for(node: Node, count: int) -> float:
    started = time.monotonic()
    while len(node.seen("a")) < count:
        assert time.monotonic() < started + 20, "it was not woken"
        time.sleep(0.002)
    return time.monotonic() - started


def test_a_commit_wakes_the_follower(running: Node) -> None:
    for n in range(5):
        running.sources["a"].append(drafts(1))
        assert wait_for(running, n + 1) < 5


def test_the_loop_outlives_a_round_that_fails(running: Node) -> None:
    def broken(_now: datetime) -> bool:
        running.passes_time = lambda _now: False
        raise OperationalError("no", None, Exception())

    running.passes_time = broken
    running.sources["a"].append(drafts(1))
    wait_for(running, 1)
    running.sources["a"].append(drafts(1))
    wait_for(running, 2)


def test_without_any_hint_the_poll_finds_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "POLL_SECONDS", 0.02)
    for source in node.sources.values():
        source.listeners.clear()
    stop = threading.Event()
    thread = threading.Thread(target=node.follower.run, args=(stop,), daemon=True)
    thread.start()
    time.sleep(0.1)
    node.sources["a"].append(drafts(1))
    wait_for(node, 1)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
