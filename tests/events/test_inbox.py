"""Each event of another log is handled exactly once, in stream order, whatever the transport does."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from events.envelope import Event, UnreadableEvent
from events.log import inbox
from events.log.engines import sqlite_engine
from events.log.inbox import Consumer, Delivery, ParkReason
from events.log.store import EventLog, Writing
from tests.events.drafts import a_draft, an_event

handled_by_hand = sa.Table(
    "handled", sa.MetaData(), sa.Column("consumer", sa.Text), sa.Column("event", sa.Text, primary_key=True)
)


class HandlingFailed(Exception):
    pass


class Recorder:
    """A consumer whose effects are an event in its own log and a row in a side table."""

    def __init__(self, log: EventLog, name: str = "recorder") -> None:
        log.create_schema(handled_by_hand.metadata)
        self.log = log
        self.consumer = Consumer(name, log, self.handle)
        self.before: Callable[[Event], None] = lambda _event: None
        self.after: Callable[[Event], None] = lambda _event: None

    def handle(self, tx: Writing, event: Event) -> None:
        self.before(event)
        tx.append([a_draft(f"{self.consumer.name}-effects", event.id)])
        tx.connection.execute(
            handled_by_hand.insert().values(consumer=self.consumer.name, event=f"{self.consumer.name}/{event.id}")
        )
        self.after(event)

    def effects(self) -> list[str]:
        """Ids handled, in order; the side table must agree with the log."""
        effects = [e.data.resource for e in self.log.read_stream(f"{self.consumer.name}-effects")]
        with self.log.engine.connect() as connection:
            rows = connection.scalars(
                sa.select(handled_by_hand.c.event).where(handled_by_hand.c.consumer == self.consumer.name)
            )
            assert sorted(rows) == sorted(f"{self.consumer.name}/{event_id}" for event_id in effects)
        return effects

    def deliver(self, *incoming: Event | UnreadableEvent) -> list[Delivery]:
        return [self.consumer.deliver(one) for one in incoming]

    def parked(self) -> list[tuple[str, int, str]]:
        return [(parked.stream, parked.version, parked.reason) for parked in self.consumer.parked()]


@pytest.fixture
def recorder(log: EventLog) -> Recorder:
    return Recorder(log)


def ids(stream: str, *versions: int, source: str = "gateway") -> list[str]:
    return [f"{source}.{stream}.{version}" for version in versions]


def newer(stream: str, version: int) -> UnreadableEvent:
    record = (
        f'{{"id":"newer-{stream}-{version}","source":"gateway","stream":"{stream}","version":{version},'
        '"data":{"type":"gateway.telepathy.v1"}}'
    )
    return UnreadableEvent(
        id=f"newer-{stream}-{version}", source="gateway", stream=stream, version=version, record=record
    )


def failing_on(version: int) -> Callable[[Event], None]:
    def fail(event: Event) -> None:
        if event.version == version:
            raise HandlingFailed

    return fail


def test_a_second_copy_is_a_no_op(recorder: Recorder) -> None:
    assert recorder.deliver(an_event("a", 1), an_event("a", 1), an_event("a", 2), an_event("a", 1)) == [
        Delivery.HANDLED,
        Delivery.DUPLICATE,
        Delivery.HANDLED,
        Delivery.DUPLICATE,
    ]
    assert recorder.effects() == ids("a", 1, 2)


def test_an_event_that_comes_early_waits_for_the_one_before(recorder: Recorder) -> None:
    assert recorder.deliver(an_event("a", 3), an_event("a", 2)) == [Delivery.PARKED, Delivery.PARKED]
    assert recorder.effects() == []
    assert recorder.parked() == [("a", 2, ParkReason.EARLY), ("a", 3, ParkReason.EARLY)]
    assert recorder.deliver(an_event("a", 1)) == [Delivery.HANDLED]
    assert recorder.effects() == ids("a", 1, 2, 3)
    assert recorder.parked() == []


def test_a_gap_is_waited_for_however_much_comes_after_it(recorder: Recorder) -> None:
    recorder.deliver(an_event("a", 1), an_event("a", 3), an_event("a", 5))
    assert recorder.effects() == ids("a", 1)
    recorder.deliver(an_event("a", 2))
    assert recorder.effects() == ids("a", 1, 2, 3)
    assert recorder.parked() == [("a", 5, ParkReason.EARLY)]
    recorder.deliver(an_event("a", 4))
    assert recorder.effects() == ids("a", 1, 2, 3, 4, 5)


def test_an_early_event_that_comes_twice_is_handled_once(recorder: Recorder) -> None:
    recorder.deliver(an_event("a", 2), an_event("a", 2), an_event("a", 1), an_event("a", 2))
    assert recorder.effects() == ids("a", 1, 2)


def test_what_cannot_be_read_is_parked_with_everything_behind_it_while_other_streams_go_on(recorder: Recorder) -> None:
    recorder.deliver(an_event("a", 1), newer("a", 2), an_event("a", 3), an_event("b", 1), an_event("a", 4))
    assert recorder.effects() == ids("a", 1) + ids("b", 1)
    assert recorder.parked() == [
        ("a", 2, ParkReason.UNREADABLE),
        ("a", 3, ParkReason.BEHIND),
        ("a", 4, ParkReason.BEHIND),
    ]
    assert recorder.consumer.retry_parked() == 0
    assert len(recorder.parked()) == 3


def test_after_an_upgrade_parked_streams_are_taken_up_again_in_order(recorder: Recorder) -> None:
    recorder.deliver(newer("a", 1), an_event("a", 2), an_event("a", 3), newer("b", 1), an_event("c", 1))
    # The upgrade: this release knows what the record says.
    known = an_event("a", 1)
    with recorder.log.writing() as tx:
        tx.connection.execute(
            sa.text("UPDATE parked SET record = :record WHERE stream = 'a' AND version = 1"),
            {"record": inbox.encode(known)},
        )
    assert recorder.consumer.retry_parked() == 3
    assert recorder.effects() == ids("c", 1) + ids("a", 1, 2, 3)
    assert recorder.parked() == [("b", 1, ParkReason.UNREADABLE)]
    assert recorder.deliver(an_event("a", 4)) == [Delivery.HANDLED]


def test_a_failed_event_holds_up_its_stream_only_until_it_is_retried(recorder: Recorder) -> None:
    recorder.before = failing_on(2)
    recorder.deliver(an_event("a", 1))
    with pytest.raises(HandlingFailed):
        recorder.deliver(an_event("a", 2))
    recorder.consumer.park_failed(an_event("a", 2))
    recorder.deliver(an_event("a", 3), an_event("b", 1), an_event("a", 2))
    assert recorder.effects() == ids("a", 1) + ids("b", 1)
    assert recorder.parked() == [("a", 2, ParkReason.FAILED), ("a", 3, ParkReason.BEHIND)]
    assert recorder.consumer.retry_parked() == 0
    assert len(recorder.parked()) == 2
    recorder.before = lambda _event: None
    assert recorder.consumer.retry_parked() == 2
    assert recorder.effects() == ids("a", 1) + ids("b", 1) + ids("a", 2, 3)
    assert recorder.parked() == []


def test_a_retry_that_still_fails_does_not_keep_other_parked_streams_waiting(recorder: Recorder) -> None:
    for stream in ("a", "b"):
        recorder.consumer.park_failed(an_event(stream, 1))

    def a_is_broken(event: Event) -> None:
        if event.stream == "a":
            raise HandlingFailed

    recorder.before = a_is_broken
    assert recorder.consumer.retry_parked() == 1
    assert recorder.effects() == ids("b", 1)
    assert recorder.parked() == [("a", 1, ParkReason.FAILED)]


def test_a_retry_keeps_what_it_handled_before_something_failed_again(recorder: Recorder) -> None:
    recorder.consumer.park_failed(an_event("a", 1))
    recorder.deliver(an_event("a", 2), an_event("a", 3))
    recorder.before = failing_on(2)
    assert recorder.consumer.retry_parked() == 1
    assert recorder.effects() == ids("a", 1)
    assert [version for _, version, _ in recorder.parked()] == [2, 3]


def test_an_early_event_that_then_fails_does_not_undo_the_one_it_waited_for(recorder: Recorder) -> None:
    recorder.deliver(an_event("a", 2), an_event("a", 3))
    recorder.before = failing_on(2)
    assert recorder.consumer.deliver(an_event("a", 1), position=4) is Delivery.HANDLED
    assert recorder.effects() == ids("a", 1)
    assert recorder.consumer.position("gateway") == 4
    assert recorder.parked()[0] == ("a", 2, ParkReason.FAILED)
    recorder.before = lambda _event: None
    assert recorder.consumer.retry_parked() == 2
    assert recorder.effects() == ids("a", 1, 2, 3)


def test_parking_what_another_worker_has_handled_meanwhile_changes_nothing(recorder: Recorder) -> None:
    recorder.deliver(an_event("a", 1))
    recorder.consumer.park_failed(an_event("a", 1))
    assert recorder.parked() == []
    recorder.deliver(an_event("a", 3), an_event("a", 2))
    assert recorder.effects() == ids("a", 1, 2, 3)


def test_another_event_under_the_version_last_handled_is_parked_and_holds_up_its_stream(recorder: Recorder) -> None:
    """The source was restored from a backup: what it says since is another history, and a person has to decide."""
    recorder.deliver(an_event("a", 1), an_event("a", 2))
    other = msgspec.structs.replace(an_event("a", 2), id="said-after-the-restore")
    assert recorder.deliver(other, an_event("a", 3), an_event("b", 1)) == [
        Delivery.PARKED,
        Delivery.PARKED,
        Delivery.HANDLED,
    ]
    assert recorder.parked() == [("a", 2, ParkReason.FORKED), ("a", 3, ParkReason.BEHIND)]
    assert recorder.consumer.retry_parked() == 0


# All or nothing


@pytest.mark.parametrize("moment", ["before handling", "after handling", "at the memory", "at the cursor"])
@pytest.mark.parametrize("failure", [HandlingFailed, KeyboardInterrupt])
def test_effects_memory_and_cursor_commit_together_or_not_at_all(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, moment: str, failure: type[BaseException]
) -> None:
    recorder.consumer.deliver(an_event("a", 1), position=10)

    def fail(*_: Any) -> None:
        raise failure

    class Unwritable(sa.TextClause):
        def _execute_on_connection(self, *_: Any, **__: Any) -> Any:
            raise failure

    with monkeypatch.context() as broken:
        match moment:
            case "before handling":
                broken.setattr(recorder, "before", fail)
            case "after handling":
                broken.setattr(recorder, "after", fail)
            case "at the memory":
                broken.setattr(inbox, "_REMEMBER", Unwritable(""))
            case "at the cursor":
                broken.setattr(inbox, "_MOVE_CURSOR", Unwritable(""))
        with pytest.raises(failure):
            recorder.consumer.deliver(an_event("a", 2), position=20)
    assert recorder.effects() == ids("a", 1)
    assert recorder.consumer.position("gateway") == 10
    assert recorder.parked() == []
    assert recorder.consumer.deliver(an_event("a", 2), position=20) is Delivery.HANDLED
    assert recorder.effects() == ids("a", 1, 2)
    assert recorder.consumer.position("gateway") == 20


def test_a_batch_with_one_failing_event_counts_for_nothing(recorder: Recorder) -> None:
    recorder.before = failing_on(3)
    batch = [(n, an_event("a", n)) for n in range(1, 5)]
    with pytest.raises(HandlingFailed):
        recorder.consumer.deliver_batch(batch)
    assert recorder.effects() == []
    assert recorder.consumer.position("gateway") == 0
    recorder.before = lambda _event: None
    assert recorder.consumer.deliver_batch(batch) == [Delivery.HANDLED] * 4
    assert recorder.consumer.position("gateway") == 4


def test_parking_moves_the_cursor_on(recorder: Recorder) -> None:
    recorder.consumer.deliver(newer("a", 1), position=7)
    assert recorder.consumer.position("gateway") == 7
    recorder.consumer.park_failed(an_event("b", 1), position=8)
    assert recorder.consumer.position("gateway") == 8


# Whose memory it is


def test_two_consumers_of_one_log_do_not_know_of_each_other(log: EventLog) -> None:
    one, other = Recorder(log, "one"), Recorder(log, "other")
    one.consumer.deliver(an_event("a", 1), position=5)
    other.deliver(an_event("a", 2))
    assert (one.effects(), other.effects()) == (ids("a", 1), [])
    assert (one.parked(), other.parked()) == ([], [("a", 2, ParkReason.EARLY)])
    assert (one.consumer.position("gateway"), other.consumer.position("gateway")) == (5, 0)
    other.deliver(an_event("a", 1))
    assert other.effects() == ids("a", 1, 2)


def test_streams_of_one_name_in_two_logs_are_two_streams(recorder: Recorder) -> None:
    recorder.consumer.deliver(an_event("a", 1, "gateway"), position=3)
    recorder.consumer.deliver(an_event("a", 1, "capacity"), position=9)
    recorder.deliver(an_event("a", 3, "capacity"), an_event("a", 2, "gateway"))
    assert recorder.effects() == [*ids("a", 1), *ids("a", 1, source="capacity"), *ids("a", 2)]
    assert recorder.consumer.position("gateway") == 3
    assert recorder.consumer.position("capacity") == 9


def test_the_memory_survives_a_restart(durable_log: EventLog) -> None:
    Recorder(durable_log).deliver(an_event("a", 1), an_event("a", 3))
    restarted = Recorder(EventLog(durable_log.engine, durable_log.source))
    assert restarted.deliver(an_event("a", 1), an_event("a", 2)) == [Delivery.DUPLICATE, Delivery.HANDLED]
    assert restarted.effects() == ids("a", 1, 2, 3)


# Any order


@st.composite
def deliveries(draw: st.DrawFn) -> list[list[Event]]:
    """Every event of up to three streams at least once, some more often, in any order, cut into batches."""
    lengths = draw(st.lists(st.integers(0, 6), min_size=1, max_size=3))
    sent = [an_event(f"stream-{k}", n + 1) for k, length in enumerate(lengths) for n in range(length)]
    repeated = draw(st.lists(st.sampled_from(sent), max_size=8)) if sent else []
    shuffled = draw(st.permutations(sent + repeated))
    batches, rest = [], list(shuffled)
    while rest:
        size = draw(st.integers(1, 4))
        batches.append(rest[:size])
        rest = rest[size:]
    return batches


@given(deliveries())
@settings(max_examples=150, deadline=None)
def test_any_order_with_any_repetition_is_handled_exactly_once_in_stream_order(batches: list[list[Event]]) -> None:
    log = EventLog(sqlite_engine(":memory:"), "placement")
    log.create_schema()
    recorder = Recorder(log)
    sent: dict[str, set[int]] = defaultdict(set)
    for batch in batches:
        recorder.consumer.deliver_batch([(None, event) for event in batch])
        for event in batch:
            sent[event.stream].add(event.version)
    effects = recorder.effects()
    for stream, versions in sent.items():
        in_order = ids(stream, *sorted(versions))
        assert [effect for effect in effects if effect in in_order] == in_order
    assert len(effects) == sum(map(len, sent.values()))
    assert recorder.parked() == []
    log.engine.dispose()
