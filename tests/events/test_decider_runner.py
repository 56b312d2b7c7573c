"""The one loop of every service: load, fold, decide, follow up, append, set the timer."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from events.envelope import Contract, Event, derived_id, system_actor
from events.gateway import RecordConsulted
from events.log import decider as decider_module
from events.log.decider import Context, Decided, DeciderRunner, EndlessFollowUp, TimePassed
from events.log.errors import DuplicateEvent, NestedWrite
from events.log.inbox import Consumer, Delivery
from events.log.store import EventLog, Writing
from events.vocabulary import Role
from tests.events.drafts import NOON, a_draft, an_event

ROUND = timedelta(minutes=10)


@dataclass(frozen=True)
class Tally:
    count: int = 0
    wanted: int = 0
    """What the follow-up brings `count` to."""
    due: datetime | None = None


class TallyDecider:
    """Counts. `add` adds one, `want:n` lets the follow-up add until there are n, `alarm` asks for a round of time."""

    service = "placement"
    initial = Tally()

    def evolve(self, state: Tally, event: Event) -> Tally:
        word, _, number = event.data.resource.partition(":")
        match word:
            case "want":
                return Tally(state.count, int(number), state.due)
            case "alarm":
                return Tally(state.count, state.wanted, event.time + ROUND)
            case "rang":
                return Tally(state.count, state.wanted, None)
            case _:
                return Tally(state.count + 1, state.wanted, state.due)

    def decide(self, state: Tally, message: Any, context: Context) -> Sequence[Contract]:
        if isinstance(message, TimePassed):
            rings = state.due is not None and state.due <= context.now
            return [RecordConsulted(resource="rang")] if rings else []
        return [] if message.resource == "nothing" else [message]

    def follow_up(self, state: Tally, context: Context) -> Sequence[Contract]:
        return [RecordConsulted(resource="more")] if state.count < state.wanted else []

    def due(self, state: Tally) -> datetime | None:
        return state.due


@pytest.fixture
def runner(log: EventLog) -> DeciderRunner[Tally]:
    return DeciderRunner(log, TallyDecider())


def say(runner: DeciderRunner[Tally], word: str, cause: str = "", stream: str = "tally-1", now: datetime = NOON) -> Any:
    with runner.log.writing() as tx:
        return runner.react(tx, stream, cause_of(word, cause), now=now)


def cause_of(word: str, cause: str = "") -> Event:
    return a_draft("command-1", word, cause)


def state_of(runner: DeciderRunner[Tally], stream: str = "tally-1") -> Tally:
    with runner.log.writing() as tx:
        return runner.state(tx, stream)


def folded(log: EventLog, stream: str = "tally-1") -> Tally:
    state = TallyDecider.initial
    for event in log.read_stream(stream):
        state = TallyDecider().evolve(state, event)
    return state


def test_what_was_decided_is_appended_and_remembered(runner: DeciderRunner[Tally]) -> None:
    assert say(runner, "add").state.count == 1
    assert say(runner, "add").state.count == 2
    assert [event.version for event in runner.log.read_stream("tally-1")] == [1, 2]
    assert state_of(runner) == folded(runner.log)


def test_events_carry_who_and_why(runner: DeciderRunner[Tally]) -> None:
    from_gateway = an_event("command-1", 1, "gateway")
    with runner.log.writing() as tx:
        (event,) = runner.react(tx, "tally-1", from_gateway, now=NOON).events
    assert event.actor == from_gateway.actor
    assert (event.causation_id, event.correlation_id) == (from_gateway.id, from_gateway.correlation_id)
    with runner.log.writing() as tx:
        (event,) = runner.react(tx, "tally-1", an_event("unit-1", 1, "capacity"), now=NOON).events
    assert event.actor == system_actor("placement")
    assert event.actor.role is Role.SYSTEM


def test_the_follow_up_goes_on_until_nothing_is_missing(runner: DeciderRunner[Tally]) -> None:
    decided = say(runner, "want:5")
    assert decided.state.count == 5
    assert len(decided.events) == 6
    assert {event.actor for event in decided.events[1:]} == {system_actor("placement")}
    assert say(runner, "nothing").events == ()


def test_a_step_that_was_lost_comes_back_with_the_next_event(runner: DeciderRunner[Tally]) -> None:
    runner.log.append([a_draft("tally-1", "want:3")])  # as if the follow-up had been lost
    assert say(runner, "nothing").state.count == 3


def test_a_follow_up_that_never_rests_is_stopped_before_it_fills_the_log(
    runner: DeciderRunner[Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decider_module, "MOST_FOLLOW_UPS", 20)
    with pytest.raises(EndlessFollowUp):
        say(runner, "want:1000")
    assert runner.log.head() == 0
    assert say(runner, "want:19").state.count == 19


# The cache


def test_the_cache_never_holds_a_state_that_was_rolled_back(runner: DeciderRunner[Tally]) -> None:
    say(runner, "add")
    with pytest.raises(RuntimeError), runner.log.writing() as tx:  # noqa: PT012 - it is the transaction that must raise
        runner.react(tx, "tally-1", cause_of("add"), now=NOON)
        assert runner.state(tx, "tally-1").count >= 1
        raise RuntimeError
    assert state_of(runner).count == 1
    assert say(runner, "add").state.count == 2
    assert folded(runner.log).count == 2


def test_two_decisions_in_one_transaction_build_on_each_other(runner: DeciderRunner[Tally]) -> None:
    say(runner, "add")
    with runner.log.writing() as tx:
        runner.react(tx, "tally-1", cause_of("add"), now=NOON)
        assert runner.react(tx, "tally-1", cause_of("add"), now=NOON).state.count == 3
    assert state_of(runner) == folded(runner.log)
    assert [event.version for event in runner.log.read_stream("tally-1")] == [1, 2, 3]


def test_what_somebody_else_appended_is_seen(runner: DeciderRunner[Tally]) -> None:
    say(runner, "add")
    runner.log.append([a_draft("tally-1", "add")])
    assert say(runner, "add").state.count == 3


def test_a_restart_folds_to_the_same_state(runner: DeciderRunner[Tally]) -> None:
    say(runner, "want:4")
    say(runner, "alarm")
    restarted = DeciderRunner(runner.log, TallyDecider())
    assert state_of(restarted) == state_of(runner)


def test_a_full_cache_forgets_and_reads_again(runner: DeciderRunner[Tally], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decider_module, "STATES_KEPT", 2)
    for _ in range(3):
        for stream in ("tally-1", "tally-2", "tally-3"):
            say(runner, "add", stream=stream)
    assert len(runner._states) == 2
    assert [state_of(runner, f"tally-{n}").count for n in (1, 2, 3)] == [3, 3, 3]


def test_threads_never_decide_about_a_stale_state(runner: DeciderRunner[Tally]) -> None:
    def work() -> None:
        for _ in range(15):
            say(runner, "add")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert state_of(runner) == folded(runner.log) == Tally(count=60)


# Handling twice


def test_handling_a_cause_twice_is_refused_even_when_the_inbox_forgot_it(runner: DeciderRunner[Tally]) -> None:
    consumer = Consumer("c", runner.log, lambda tx, event: runner.react(tx, "tally-1", event, now=NOON) and None)
    event = an_event("command-1", 1)
    assert consumer.deliver(event) is Delivery.HANDLED
    with runner.log.writing() as tx:
        tx.connection.exec_driver_sql("DELETE FROM inbox")
    with pytest.raises(DuplicateEvent):
        consumer.deliver(event)
    assert folded(runner.log).count == 1
    assert state_of(runner).count == 1


def test_the_same_cause_gives_the_same_ids_on_every_node() -> None:
    assert derived_id("cause", "unit-1", 0) == derived_id("cause", "unit-1", 0)
    assert (
        len({derived_id("cause", "unit-1", 0), derived_id("cause", "unit-1", 1), derived_id("cause", "unit-2", 0)}) == 3
    )


def test_one_cause_can_concern_two_streams(runner: DeciderRunner[Tally]) -> None:
    with runner.log.writing() as tx:
        for stream in ("tally-1", "tally-2"):
            runner.react(tx, stream, cause_of("add", "cause-1"), now=NOON)
    assert (folded(runner.log, "tally-1").count, folded(runner.log, "tally-2").count) == (1, 1)


# Many decisions, one transaction


def test_what_a_burst_decided_is_appended_at_once_in_the_order_of_the_decisions(runner: DeciderRunner[Tally]) -> None:
    statements: list[str] = []
    sa.event.listen(runner.log.engine, "before_cursor_execute", lambda *it: statements.append(it[2]))
    with runner.log.writing() as tx:
        for stream in ("tally-1", "tally-2", "tally-1"):
            runner.react(tx, stream, cause_of("want:1" if stream == "tally-2" else "add"), now=NOON)
    assert sum("INSERT INTO events" in statement for statement in statements) == 1
    appended = [(event.stream, event.version) for _, event in runner.log.read_all()]
    assert appended == [("tally-1", 1), ("tally-2", 1), ("tally-2", 2), ("tally-1", 2)]
    assert state_of(runner) == folded(runner.log)


def test_what_an_attempt_decided_and_gave_up_is_forgotten_and_what_came_before_it_is_not(
    runner: DeciderRunner[Tally],
) -> None:
    with runner.log.writing() as tx:
        runner.react(tx, "tally-1", cause_of("add"), now=NOON)
        with pytest.raises(RuntimeError), tx.attempt():  # noqa: PT012 - it is the attempt that must raise
            runner.react(tx, "tally-1", cause_of("want:9"), now=NOON)
            raise RuntimeError
        assert runner.state(tx, "tally-1").count == 1
        assert runner.react(tx, "tally-1", cause_of("add"), now=NOON).state.count == 2
    assert state_of(runner) == folded(runner.log) == Tally(count=2)


def test_a_decision_that_fails_half_way_leaves_nothing_behind_it(
    runner: DeciderRunner[Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decider_module, "MOST_FOLLOW_UPS", 5)
    with runner.log.writing() as tx:
        runner.react(tx, "tally-1", cause_of("add"), now=NOON)
        with pytest.raises(EndlessFollowUp):
            runner.react(tx, "tally-1", cause_of("want:100"), now=NOON)
    assert state_of(runner) == folded(runner.log) == Tally(count=1)


# Side tables


def test_side_tables_are_told_inside_the_transaction(log: EventLog) -> None:
    told: list[tuple[int, int]] = []

    def remember(tx: Writing, decided: Sequence[Decided[Tally]]) -> None:
        with pytest.raises(NestedWrite):
            log.append([])
        told.extend((one.state.count, tx.stream_version("tally-1")) for one in decided)

    say(DeciderRunner(log, TallyDecider(), remember), "want:2")
    assert told == [(2, 3)]


# Timers


def timers(log: EventLog) -> list[str]:
    with log.engine.connect() as connection:
        return list(connection.scalars(sa.text("SELECT stream FROM timers ORDER BY stream")))


def test_a_timer_is_set_fires_once_and_is_cleared(runner: DeciderRunner[Tally]) -> None:
    say(runner, "alarm")
    assert runner.next_due() == NOON + ROUND
    assert not runner.pass_time(NOON + ROUND - timedelta(microseconds=1))
    assert runner.pass_time(NOON + ROUND)
    assert timers(runner.log) == []
    assert runner.next_due() is None
    assert not runner.pass_time(NOON + 10 * ROUND)
    assert [event.data.resource for event in runner.log.read_stream("tally-1")] == ["alarm", "rang"]


def test_a_timer_that_is_overtaken_moves(runner: DeciderRunner[Tally]) -> None:
    say(runner, "alarm")
    say(runner, "alarm", now=NOON + ROUND / 2)
    assert runner.next_due() == NOON + ROUND * 1.5
    assert timers(runner.log) == ["tally-1"]


def test_many_timers_fire_earliest_first(runner: DeciderRunner[Tally]) -> None:
    for n in (3, 1, 2):
        say(runner, "alarm", stream=f"tally-{n}", now=NOON + n * timedelta(minutes=1))
    assert runner.due(NOON + timedelta(minutes=12)) == ["tally-1", "tally-2"]
    assert runner.due(NOON + timedelta(hours=1), limit=2) == ["tally-1", "tally-2"]
    assert runner.pass_time(NOON + timedelta(hours=1))
    assert timers(runner.log) == []


def test_a_timer_set_in_a_transaction_that_fails_is_not_set(runner: DeciderRunner[Tally]) -> None:
    with pytest.raises(RuntimeError), runner.log.writing() as tx:  # noqa: PT012 - it is the transaction that must raise
        runner.react(tx, "tally-1", cause_of("alarm"), now=NOON)
        raise RuntimeError
    assert timers(runner.log) == []


def test_a_woken_stream_that_has_nothing_to_do_goes_back_to_sleep(runner: DeciderRunner[Tally]) -> None:
    say(runner, "alarm")
    with runner.log.writing() as tx:
        runner.wake(tx, "tally-1", NOON)
    assert runner.pass_time(NOON)
    assert runner.next_due() == NOON + ROUND


def test_who_is_woken_while_its_timer_is_set_does_not_sleep_until_then(runner: DeciderRunner[Tally]) -> None:
    with runner.log.writing() as tx:
        runner.wake(tx, "tally-1", NOON)
        runner.wake(tx, "tally-1", NOON + ROUND / 2)
        runner.react(tx, "tally-1", cause_of("alarm"), now=NOON)
    assert runner.next_due() == NOON


def test_who_lets_time_pass_hears_of_what_was_woken_once_it_is_committed(runner: DeciderRunner[Tally]) -> None:
    with pytest.raises(RuntimeError), runner.log.writing() as tx:  # noqa: PT012 - it is the transaction that must raise
        runner.wake(tx, "tally-1", NOON)
        raise RuntimeError
    assert not runner.woken.is_set()
    with runner.log.writing() as tx:
        runner.wake(tx, "tally-1", NOON)
        assert not runner.woken.is_set()  # nobody would see it yet
    assert runner.woken.is_set()


def test_a_timer_that_never_clears_does_not_keep_the_others_from_firing(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stuck(TallyDecider):
        def decide(self, state: Tally, message: Any, context: Context) -> Sequence[Contract]:
            return [] if isinstance(message, TimePassed) else super().decide(state, message, context)

    runner = DeciderRunner(log, Stuck())
    say(runner, "alarm")
    assert runner.pass_time(NOON + ROUND)
    assert runner.due(NOON + ROUND) == []
    assert runner.due(NOON + ROUND + timedelta(minutes=1)) == ["tally-1"]


@pytest.mark.parametrize("broken", ["decide", "evolve"])
def test_one_stream_that_cannot_decide_does_not_keep_the_time_of_the_others_from_passing(
    log: EventLog, broken: str
) -> None:
    class Broken(TallyDecider):
        def fail(self, stream_is_broken: bool) -> None:
            if stream_is_broken:
                raise ValueError

        def decide(self, state: Tally, message: Any, context: Context) -> Sequence[Contract]:
            self.fail(broken == "decide" and isinstance(message, TimePassed) and state.count == 7)
            return super().decide(state, message, context)

        def evolve(self, state: Tally, event: Event) -> Tally:
            self.fail(broken == "evolve" and event.data.resource == "rang" and state.count == 7)
            return super().evolve(state, event)

    runner = DeciderRunner(log, Broken())
    say(runner, "want:7", stream="tally-1")
    for stream in ("tally-1", "tally-2"):
        say(runner, "alarm", stream=stream)
    assert runner.pass_time(NOON + ROUND)
    assert folded(log, "tally-2").due is None
    assert runner.due(NOON + ROUND) == []
    assert folded(log, "tally-1").due is not None
    assert runner.due(NOON + ROUND + timedelta(minutes=1)) == ["tally-1"]


def test_two_nodes_that_let_the_same_time_pass_do_it_once(durable_log: EventLog) -> None:
    one = DeciderRunner(durable_log, TallyDecider())
    other = DeciderRunner(durable_log, TallyDecider())
    say(one, "alarm")
    state_of(other)
    assert one.pass_time(NOON + ROUND)
    assert not other.pass_time(NOON + ROUND)
    assert [event.data.resource for event in durable_log.read_stream("tally-1")] == ["alarm", "rang"]
