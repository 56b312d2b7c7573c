"""Whoever brings a message, and however often: it takes effect once, in the order of its stream, and none is skipped."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from events.envelope import Event, encode
from events.kafka import dead_letters
from events.kafka import receiver as receiver_module
from events.kafka import sweep as sweep_module
from events.kafka.dead_letters import CUT_SHORT, HANGS, MALFORMED, TRIES, DeadLetter, NoSuchDeadLetter, StreamWaits
from events.kafka.history import History, HistoryCutShort
from events.kafka.receiver import Receiver, Stopping
from events.kafka.sweep import EXIT_HANGING, HANGING_AFTER, Watchdog
from events.kafka.wire import LARGEST_BODY, Malformed, Message, to_message
from events.log import engines
from events.log.inbox import Consumer, ParkReason
from events.log.store import EventLog, Writing
from tests.events.drafts import NOON, a_draft, an_event

TOPIC = "haven.gateway"
PLACE = (TOPIC, 0)
NOT_TO_BE_SEEN = "Wilhelmina"


class Topic(History):
    """A partition as `History` shows it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def read(self, place: tuple[str, int], start: int, end: int) -> list[Message]:
        held = [message for message in self.messages if start <= message.offset < end][:3]
        if not held or held[0].offset != start:
            raise HistoryCutShort(place, start, min(message.offset for message in self.messages))
        return held


class Service:
    """One consumer of one partition, on a real database; what it handled is in its log."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        log.create_schema(dead_letters.metadata)
        self.now = NOON
        self.offset = 0
        self.topic = Topic()
        self.fails: Callable[[Event], None] = lambda _event: None
        self.restart()

    def restart(self, topic_id: str = "first") -> None:
        self.consumer = Consumer("c", self.log, self.handle)
        self.receiver = Receiver(self.consumer, lambda: self.now, {TOPIC: topic_id})

    def another(self) -> Receiver:
        """That of another process of the same kind."""
        return Receiver(Consumer("c", self.log, self.handle), lambda: self.now, {TOPIC: "first"})

    def handle(self, tx: Writing, event: Event) -> None:
        self.fails(event)
        tx.append([a_draft("seen", f"{event.stream}.{event.version}")])

    def seen(self) -> list[str]:
        return [event.data.resource for event in self.log.read_stream("seen")]

    def message(self, event: Event, **changes: object) -> Message:
        """The next message of the partition."""
        message = to_message(TOPIC, encode(event))
        self.offset += 1
        self.topic.messages.append(msgspec.structs.replace(message, partition=0, offset=self.offset - 1, **changes))
        return self.topic.messages[-1]

    def messages(self, *events: Event) -> list[Message]:
        return [self.message(event) for event in events]

    def receive(self, *messages: Message) -> None:
        for message in messages:
            self.receiver.receive([message])

    def letters(self) -> list[DeadLetter]:
        with self.log.engine.connect() as connection:
            return dead_letters.kept(connection)

    def letter(self) -> DeadLetter:
        [letter] = self.letters()
        return letter

    def retry(self) -> int:
        return sum(self.receiver.retry(self.topic, letter) for letter in self.receiver.due())

    def let_all_tries_pass(self) -> None:
        for _ in range(TRIES):
            self.now += timedelta(minutes=5)
            self.retry()

    def replay(self, letter: DeadLetter) -> None:
        with self.log.writing() as tx:
            dead_letters.replay(tx.connection, letter.id, self.now)

    def parked(self) -> list[tuple[str, int, str]]:
        return [(it.stream, it.version, it.reason) for it in self.consumer.parked()]


@pytest.fixture
def service(durable_log: EventLog) -> Service:
    return Service(durable_log)


def poison(stream: str, version: int, error: Callable[[], Exception] = ValueError) -> Callable[[Event], None]:
    def fail(event: Event) -> None:
        if (event.stream, event.version) == (stream, version):
            raise error()

    return fail


def trouble() -> Exception:
    return OperationalError("no", None, Exception())


# Once, in order, none skipped


def test_a_message_that_comes_again_changes_nothing(service: Service) -> None:
    first, second = service.messages(an_event("a", 1), an_event("a", 2))
    service.receive(first, first, second, first, second)
    assert service.seen() == ["a.1", "a.2"]
    assert service.receiver.position(PLACE) == 2


def test_a_group_that_forgot_its_offsets_costs_no_transaction_for_what_was_taken(service: Service) -> None:
    messages = service.messages(*(an_event("a", n) for n in (1, 2, 3)))
    service.receive(*messages[:2])
    service.receiver.learn_positions([PLACE])
    taken: list[Message] = []
    service.receiver.take = lambda batch, **_named: taken.extend(batch)  # type: ignore[method-assign]
    service.receive(*messages)
    assert taken == messages[2:]


def test_what_is_wrongly_thought_to_be_taken_is_fetched(service: Service) -> None:
    messages = service.messages(an_event("a", 1), an_event("b", 1))
    service.receive(*messages)
    service.receiver.learn_positions([PLACE])
    with service.log.engine.begin() as connection:  # a standby that had not heard of the last commits
        connection.exec_driver_sql("DELETE FROM cursors")
        connection.exec_driver_sql("DELETE FROM inbox")
    service.receive(*messages)
    service.receiver.catch_up(service.topic, PLACE, 2)
    assert service.seen() == ["a.1", "b.1"] * 2


def test_a_message_beyond_the_next_is_taken_and_leaves_the_cursor(service: Service) -> None:
    first, skipped, third, fourth = service.messages(
        an_event("a", 1), an_event("b", 1), an_event("a", 2), an_event("b", 2)
    )
    service.receive(first, third, fourth)
    assert service.seen() == ["a.1", "a.2"]  # other streams do not wait for what was skipped
    assert service.receiver.position(PLACE) == 1
    service.receive(skipped)
    assert service.seen() == ["a.1", "a.2", "b.1", "b.2"]
    assert service.receiver.position(PLACE) == 2
    service.receive(third, fourth)
    assert service.receiver.position(PLACE) == 4


def test_a_batch_beyond_the_next_leaves_the_cursor(service: Service) -> None:
    messages = service.messages(*(an_event("a", n) for n in (1, 2, 3)))
    service.receiver.take(messages[1:])
    assert service.receiver.position(PLACE) == 0
    service.receiver.take(messages)
    assert (service.seen(), service.receiver.position(PLACE)) == (["a.1", "a.2", "a.3"], 3)


def test_a_straggler_moves_no_cursor_back(service: Service) -> None:
    messages = service.messages(*(an_event("a", n) for n in (1, 2, 3)))
    service.receiver.take(messages)
    other = service.another()
    other.receive(messages[:1])
    other.take(messages[:2])
    assert service.receiver.position(PLACE) == 3
    assert service.seen() == ["a.1", "a.2", "a.3"]


def test_a_database_that_went_back_makes_what_it_lost_be_taken_again(service: Service) -> None:
    first, second, third = service.messages(an_event("a", 1), an_event("b", 1), an_event("c", 1))
    service.receive(first)
    with service.log.engine.begin() as connection:  # a standby that had not heard of the last commit
        connection.exec_driver_sql("UPDATE cursors SET position = 0")
        connection.exec_driver_sql("DELETE FROM inbox")
    service.receive(second, third)
    assert service.receiver.position(PLACE) == 0


def test_every_message_many_times_over_from_two_processes_in_any_order_takes_effect_once(durable_log: EventLog) -> None:
    service = Service(durable_log)
    others = [service.another() for _ in range(2)]
    chance = random.Random(5)
    messages = service.messages(*(an_event(f"s-{n % 4}", n // 4 + 1) for n in range(40)))

    def bring(receiver: Receiver, order: list[Message]) -> None:
        for message in order:
            receiver.receive([message])

    threads = []
    for receiver in (service.receiver, *others):
        order = [message for message in messages for _ in range(chance.randint(2, 5))]
        chance.shuffle(order)
        threads.append(threading.Thread(target=bring, args=(receiver, order)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(service.seen()) == sorted(f"s-{n % 4}.{n // 4 + 1}" for n in range(40))
    for stream in range(4):
        mine = [one for one in service.seen() if one.startswith(f"s-{stream}.")]
        assert mine == [f"s-{stream}.{version}" for version in range(1, 11)]
    assert service.parked() == []
    service.receiver.take(messages)
    assert service.receiver.position(PLACE) == 40
    assert len(service.seen()) == 40


def test_a_topic_made_anew_starts_again_and_repeats_nothing(service: Service) -> None:
    service.receive(*service.messages(an_event("a", 1), an_event("a", 2)))
    service.restart(topic_id="second")
    service.offset = 0
    assert service.receiver.position(PLACE) == 0
    service.receive(*service.messages(an_event("a", 1), an_event("a", 2), an_event("a", 3)))
    assert service.seen() == ["a.1", "a.2", "a.3"]
    assert service.receiver.position(PLACE) == 3


# The database


def test_a_database_in_trouble_is_waited_for_and_no_event_is_blamed(service: Service) -> None:
    tries = 0

    def twice(_event: Event) -> None:
        nonlocal tries
        tries += 1
        if tries <= 2:
            assert service.receiver.problem == ("" if tries == 1 else "OperationalError")
            raise trouble()

    service.fails = twice
    service.receive(*service.messages(an_event("a", 1)))
    assert service.seen() == ["a.1"]
    assert (service.letters(), service.receiver.problem) == ([], "")


def test_a_process_told_to_stop_while_the_database_is_away_leaves_the_message(service: Service) -> None:
    def stop(_event: Event) -> None:
        service.receiver.stopping.set()
        raise trouble()

    service.fails = stop
    [message] = service.messages(an_event("a", 1))
    with pytest.raises(Stopping):
        service.receive(message)
    assert (service.seen(), service.receiver.position(PLACE)) == ([], 0)


def test_a_handler_whose_statements_always_run_out_of_time_is_set_aside_while_others_go_on(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver_module, "LONGEST_PAUSE_SECONDS", 0.01)
    service.fails = poison("a", 1, trouble)
    service.receive(*service.messages(an_event("a", 1), an_event("b", 1)))
    assert service.seen() == ["b.1"]
    assert (service.letter().reason, service.letter().error) == (ParkReason.FAILED, "OperationalError")
    service.let_all_tries_pass()
    assert service.letter().given_up_at
    service.fails = lambda _event: None
    service.replay(service.letter())
    assert service.retry() == 1
    assert (service.seen(), service.letters()) == (["b.1", "a.1"], [])


# What cannot be handled


def test_an_event_that_fails_is_set_aside_and_tried_again_with_growing_pauses_until_given_up(service: Service) -> None:
    service.fails = poison("a", 2)
    service.receive(*service.messages(an_event("a", 1), an_event("a", 2), an_event("a", 3), an_event("b", 1)))
    assert service.seen() == ["a.1", "b.1"]
    assert service.parked() == [("a", 2, ParkReason.FAILED), ("a", 3, ParkReason.BEHIND)]
    pauses = []
    while (letter := service.letter()).retry_at:
        pauses.append(datetime.fromisoformat(letter.retry_at) - service.now)
        assert service.retry() == 0  # not yet
        assert service.letter() == letter
        service.now = datetime.fromisoformat(letter.retry_at)
        service.retry()
    assert [pause.total_seconds() for pause in pauses] == [0.2, 0.8, 3.2, 12.8]
    assert (letter.tries, letter.reason, letter.error, letter.position) == (TRIES, "failed", "ValueError", 1)
    assert letter.given_up_at
    service.let_all_tries_pass()
    assert service.letter() == letter


def test_an_event_that_fails_for_a_while_is_handled_by_itself_with_everything_behind_it(service: Service) -> None:
    service.fails = poison("a", 1)
    service.receive(*service.messages(an_event("a", 1), an_event("a", 2), an_event("a", 3)))
    service.now += timedelta(seconds=1)
    service.retry()
    service.fails = lambda _event: None
    service.now += timedelta(seconds=5)
    assert service.retry() == 1
    assert service.seen() == ["a.1", "a.2", "a.3"]
    assert (service.letters(), service.parked()) == ([], [])


def test_what_fails_behind_a_repaired_event_gets_a_dead_letter_of_its_own(service: Service) -> None:
    service.fails = poison("a", 1)
    service.receive(*service.messages(an_event("a", 1), an_event("a", 2), an_event("a", 3)))
    service.fails = poison("a", 2)
    service.now += timedelta(seconds=1)
    assert service.retry() == 1
    assert service.seen() == ["a.1"]
    assert (service.letter().version, service.letter().tries, service.letter().position) == (2, 1, -1)
    assert service.parked() == [("a", 2, ParkReason.FAILED), ("a", 3, ParkReason.BEHIND)]
    service.fails = lambda _event: None
    service.now += timedelta(seconds=1)
    assert service.retry() == 1
    assert (service.seen(), service.letters()) == (["a.1", "a.2", "a.3"], [])


def test_an_event_that_came_early_and_fails_undoes_nothing_before_it(service: Service) -> None:
    service.fails = poison("a", 2)
    first, second = service.messages(an_event("a", 1), an_event("a", 2))
    service.receive(second, first)
    assert service.seen() == ["a.1"]
    assert (service.letter().version, service.letter().position) == (2, -1)


def test_a_failing_event_in_a_batch_keeps_nothing_from_the_others(service: Service) -> None:
    service.fails = poison("a", 2)
    service.receiver.take(service.messages(an_event("a", 1), an_event("a", 2), an_event("b", 1), an_event("a", 3)))
    assert service.seen() == ["a.1", "b.1"]
    assert service.receiver.position(PLACE) == 4
    assert service.letter().position == 1


def test_a_crash_while_something_is_set_aside_leaves_the_message_to_be_taken_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dead letter, the parked event and the cursor are one commit."""
    service.fails = poison("a", 1)
    [message] = service.messages(an_event("a", 1))
    with monkeypatch.context() as crash:
        for point in ("keep", "failed"):
            crash.setattr(dead_letters, point, lambda *_what: (_ for _ in ()).throw(SystemExit()))
        with pytest.raises(SystemExit):
            service.receive(message)
    assert (service.letters(), service.parked(), service.receiver.position(PLACE)) == ([], [], 0)
    service.receive(message)
    assert (len(service.letters()), len(service.parked()), service.receiver.position(PLACE)) == (1, 1, 1)


def test_a_redelivered_poison_message_is_not_tried_once_more(service: Service) -> None:
    tried = []

    def fail(event: Event) -> None:
        tried.append(event.id)
        raise ValueError

    service.fails = fail
    [message] = service.messages(an_event("a", 1))
    service.receive(message, message, message)
    assert len(tried) == 1


def test_two_processes_that_find_the_same_letter_due_try_it_once(service: Service) -> None:
    service.fails = poison("a", 1)
    service.receive(*service.messages(an_event("a", 1)))
    service.now += timedelta(seconds=1)
    due = service.receiver.due()
    service.receiver.retry(service.topic, due[0])
    service.receiver.retry(service.topic, due[0])
    assert service.letter().tries == 2


def newer(service: Service, stream: str, version: int) -> Message:
    message = service.message(an_event(stream, version), body=b'{"type":"gateway.telepathy.v7","said":"Wilhelmina"}')
    return msgspec.structs.replace(message, headers=message.headers | {"ce_type": b"gateway.telepathy.v7"})


def test_an_event_of_a_newer_release_waits_with_its_stream_and_is_read_after_the_upgrade(service: Service) -> None:
    waiting = newer(service, "a", 2)
    service.receive(service.message(an_event("a", 1)), waiting, *service.messages(an_event("a", 3), an_event("b", 1)))
    assert service.seen() == ["a.1", "b.1"]
    letter = service.letter()
    assert (letter.reason, letter.given_up_at is not None, letter.retry_at) == ("unreadable", True, None)
    service.receive(waiting)
    assert service.letter() == letter
    service.replay(letter)
    assert service.retry() == 0
    assert (service.letter().given_up_at is not None, service.letter().retry_at) == (True, None)
    with service.log.engine.begin() as connection:  # the upgrade: now the record can be read
        connection.execute(
            sa.text("UPDATE parked SET record = :record WHERE version = 2"), {"record": encode(an_event("a", 2))}
        )
    service.restart()
    service.receiver.retry_after_start()
    assert service.retry() == 1
    assert service.seen() == ["a.1", "b.1", "a.2", "a.3"]
    assert (service.letters(), service.parked()) == ([], [])


def test_another_event_under_a_version_that_was_handled_stops_its_stream_until_a_person_decides(
    service: Service,
) -> None:
    other = msgspec.structs.replace(an_event("a", 1), id="another-history")
    service.receive(*service.messages(an_event("a", 1), other, an_event("a", 2), an_event("b", 1)))
    assert service.seen() == ["a.1", "b.1"]
    letter = service.letter()
    assert (letter.reason, letter.event_id, letter.given_up_at is not None) == ("forked", "another-history", True)
    service.replay(letter)
    assert service.retry() == 0
    assert (service.seen(), service.letter().given_up_at is not None) == (["a.1", "b.1"], True)


MALFORMED_MESSAGES = {
    "no headers": lambda m: msgspec.structs.replace(m, headers={}),
    "no id": lambda m: msgspec.structs.replace(m, headers={k: v for k, v in m.headers.items() if k != "ce_id"}),
    "a header that is not text": lambda m: msgspec.structs.replace(m, headers=m.headers | {"ce_subject": b"\xff\xfe"}),
    "a version that is no number": lambda m: msgspec.structs.replace(m, headers=m.headers | {"ce_streamversion": b"x"}),
    "version zero": lambda m: msgspec.structs.replace(m, headers=m.headers | {"ce_streamversion": b"0"}),
    "a version no column holds": lambda m: msgspec.structs.replace(
        m, headers=m.headers | {"ce_streamversion": b"99999999999999999999"}
    ),
    "a zero byte in the stream": lambda m: msgspec.structs.replace(m, headers=m.headers | {"ce_subject": b"a\x00b"}),
    "another service's topic": lambda m: msgspec.structs.replace(
        m, headers=m.headers | {"ce_source": b"/haven/capacity"}
    ),
    "no body": lambda m: msgspec.structs.replace(m, body=b""),
    "half a body": lambda m: msgspec.structs.replace(m, body=m.body[: len(m.body) // 2]),
    "a body too large": lambda m: msgspec.structs.replace(m, body=b'"' + b"x" * LARGEST_BODY + b'"'),
    "a body nested without end": lambda m: msgspec.structs.replace(m, body=b"[" * 100_000),
}


@pytest.mark.parametrize("kind", MALFORMED_MESSAGES)
def test_what_is_no_event_of_ours_is_set_aside_once_and_for_all(kind: str, service: Service) -> None:
    bad = MALFORMED_MESSAGES[kind](service.message(an_event("bad", 1)))
    good = service.message(an_event("b", 1))
    service.receiver.take([bad, good])
    service.receive(bad)
    assert (service.seen(), service.receiver.position(PLACE)) == (["b.1"], 2)
    assert (service.letter().reason, service.letter().is_event, service.letter().position) == (MALFORMED, False, 0)
    assert service.letter().given_up_at


def test_what_the_database_refuses_to_store_is_set_aside_and_keeps_nothing_from_the_others(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*said: object) -> None:
        if any(isinstance(it, Event) and it.stream == "a" for it in said):
            raise sa.exc.DataError("no", None, Exception())

    for name in ("_take", "set_aside"):
        original = getattr(service.consumer, name)
        monkeypatch.setattr(
            service.consumer,
            name,
            lambda *said, original=original: (refuse(*said), original(*said))[1],
        )
    service.receiver.take(service.messages(an_event("a", 1), an_event("b", 1)))
    service.receive(*service.messages(an_event("a", 2), an_event("b", 2)))
    assert (service.seen(), service.receiver.position(PLACE)) == (["b.1", "b.2"], 4)
    assert [(letter.reason, letter.error, letter.is_event) for letter in service.letters()] == [
        (MALFORMED, "cannot be stored", False)
    ] * 2


def test_what_is_no_event_can_be_dismissed_and_an_event_cannot(service: Service) -> None:
    service.fails = poison("a", 1)
    service.receive(service.message(an_event("bad", 1), headers={}), service.message(an_event("a", 1)))
    bad, event = sorted(service.letters(), key=lambda letter: letter.is_event)
    with service.log.writing() as tx:
        dead_letters.dismiss(tx.connection, bad.id)
        with pytest.raises(StreamWaits):
            dead_letters.dismiss(tx.connection, event.id)
        with pytest.raises(NoSuchDeadLetter):
            dead_letters.dismiss(tx.connection, bad.id)
    assert service.letters() == [event]


def test_a_replay_asked_for_twice_is_harmless(service: Service) -> None:
    service.fails = poison("a", 1)
    service.receive(*service.messages(an_event("a", 1), an_event("a", 2)))
    service.let_all_tries_pass()
    given_up = service.letter()
    service.fails = lambda _event: None
    service.replay(given_up)
    service.replay(given_up)
    assert service.letter().given_up_at is None
    assert service.retry() == 1
    assert service.retry() == 0
    assert service.seen() == ["a.1", "a.2"]
    with pytest.raises(NoSuchDeadLetter):
        service.replay(given_up)


def test_a_replay_that_fails_again_has_all_its_tries_and_is_told_of_again(service: Service) -> None:
    service.fails = poison("a", 1)
    service.receive(*service.messages(an_event("a", 1)))
    service.let_all_tries_pass()
    with service.log.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE dead_letters SET published_at = 'told'")
        assert dead_letters.unpublished(connection) == []
    service.replay(service.letter())
    service.let_all_tries_pass()
    assert service.letter().tries == TRIES
    with service.log.engine.connect() as connection:
        assert dead_letters.unpublished(connection) == [service.letter()]


def test_a_dead_letter_shows_where_it_lies_and_who_waits_but_nothing_of_what_is_said(service: Service) -> None:
    service.fails = poison("a", 1, lambda: ValueError(NOT_TO_BE_SEEN))
    said = msgspec.structs.replace(an_event("a", 1), data=a_draft("a", NOT_TO_BE_SEEN).data)
    service.receive(service.message(said), newer(service, "a", 2), newer(service, "b", 1))
    shown = []
    for letter in service.letters():
        with service.log.engine.connect() as connection:
            shown.append(
                msgspec.json.encode(
                    [dead_letters.find(connection, letter.id), dead_letters.waiting(connection, letter)]
                )
            )
    assert NOT_TO_BE_SEEN.encode() not in b"".join(shown)
    with service.log.engine.connect() as connection:
        first = next(letter for letter in service.letters() if letter.stream == "a")
        waiting = dead_letters.waiting(connection, first)
    assert [(it.version, it.reason, it.type) for it in waiting] == [
        (1, "failed", "gateway.record.consulted.v1"),
        (2, "behind", "gateway.telepathy.v7"),
    ]
    assert waiting[0].time


def test_what_nobody_brought_is_fetched(service: Service) -> None:
    messages = service.messages(*(an_event("a", n) for n in range(1, 9)))
    service.receive(messages[0], messages[7])
    assert service.receiver.catch_up(service.topic, PLACE, 8) == 7
    assert service.seen() == [f"a.{n}" for n in range(1, 9)]
    assert service.receiver.position(PLACE) == 8
    assert service.receiver.catch_up(service.topic, PLACE, 8) == 0


def test_fetching_waits_for_a_database_in_trouble(service: Service) -> None:
    service.messages(*(an_event("a", n) for n in range(1, 6)))
    fails = iter([True, True, True])

    def for_a_while(_event: Event) -> None:
        if next(fails, False):
            raise trouble()

    service.fails = for_a_while
    service.receiver.catch_up(service.topic, PLACE, 5)
    assert service.seen() == [f"a.{n}" for n in range(1, 6)]
    assert service.letters() == []


def test_two_that_fetch_the_same_share_the_work(service: Service) -> None:
    service.messages(*(an_event("a", n) for n in range(1, 30)))
    other, counts = service.another(), []
    threads = [
        threading.Thread(target=lambda r=receiver: counts.append(r.catch_up(service.topic, PLACE, 29)))
        for receiver in (service.receiver, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert service.seen() == [f"a.{n}" for n in range(1, 30)]
    assert service.receiver.position(PLACE) == 29


def test_a_cut_topic_goes_on_where_it_begins_now_and_has_a_person_look(service: Service) -> None:
    first, *_gone = service.messages(*(an_event("a", n) for n in (1, 2, 3)))
    service.receive(first)
    service.messages(an_event("b", 1), an_event("a", 4))
    del service.topic.messages[:3]
    service.receiver.catch_up(service.topic, PLACE, 5)
    assert (service.seen(), service.receiver.position(PLACE)) == (["a.1", "b.1"], 5)
    letter = service.letter()
    assert (letter.reason, letter.position, letter.tries, letter.given_up_at is not None) == (CUT_SHORT, 1, 2, True)
    service.replay(letter)
    assert service.retry() == 0  # nobody sent it again yet
    assert service.letter().given_up_at
    service.receive(*(service.message(an_event("a", n)) for n in (2, 3)))  # sent again from the log
    assert service.seen() == ["a.1", "b.1", "a.2", "a.3", "a.4"]
    with service.log.writing() as tx:
        dead_letters.dismiss(tx.connection, letter.id)


def test_a_partition_that_holds_less_or_other_things_than_were_taken_is_taken_from_its_start(service: Service) -> None:
    service.receive(*service.messages(*(an_event("a", n) for n in (1, 2, 3))))
    assert service.receiver.stands_in(service.topic, PLACE, 3)
    assert not service.receiver.stands_in(service.topic, PLACE, 2)
    service.offset = 1
    del service.topic.messages[1:]  # restored from a backup, and written on
    service.messages(*(an_event("b", n) for n in (1, 2, 3)))
    assert not service.receiver.stands_in(service.topic, PLACE, 4)
    service.receiver.start_over(PLACE)
    service.receiver.catch_up(service.topic, PLACE, 4)
    assert service.seen() == ["a.1", "a.2", "a.3", "b.1", "b.2", "b.3"]
    assert service.receiver.stands_in(service.topic, PLACE, 4)


def test_what_was_no_event_for_an_earlier_release_is_read_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.receive(*service.messages(an_event("a", 1)))
    with monkeypatch.context() as earlier:
        earlier.setattr(receiver_module, "_read", lambda _message: Malformed("not an event"))
        service.receive(*service.messages(an_event("a", 2)))
    assert service.letter().reason == MALFORMED
    service.receiver.retry_after_start()
    assert service.retry() == 1
    assert (service.seen(), service.letters()) == (["a.1", "a.2"], [])


# What hangs


class Hang:
    """A handler that does not come back until it is let go."""

    def __init__(self, stream: str, version: int) -> None:
        self.place = (stream, version)
        self.reached, self.released = threading.Event(), threading.Event()

    def __call__(self, event: Event) -> None:
        if (event.stream, event.version) == self.place:
            self.reached.set()
            assert self.released.wait(60)
            raise SystemExit  # of the process: nothing is written down any more


def watch_until_ended(service: Service, ticks: int = HANGING_AFTER + 2) -> list[int]:
    ended: list[int] = []
    watchdog = Watchdog([service.receiver], ended.append)
    for _ in range(ticks):
        watchdog.tick()
        if ended:
            break
    return ended


@pytest.fixture
def on_postgresql(postgres_url: str) -> Iterator[Service]:
    """The watchdog writes beside the open transaction that hangs, which a SQLite file does not allow."""
    log = EventLog(engines.postgresql_engine(postgres_url), "placement")
    log.create_schema()
    yield Service(log)
    log.engine.dispose()


def hang_and_end(service: Service, hang: Hang, *messages: Message) -> list[int]:
    """What a process lives through whose handler hangs, up to its last moment."""
    service.fails = hang

    def receive() -> None:
        with suppress(SystemExit):
            for message in messages:
                service.receiver.receive([message])

    worker = threading.Thread(target=receive, daemon=True)
    worker.start()
    assert hang.reached.wait(30)
    ended = watch_until_ended(service)
    hang.released.set()
    worker.join(30)
    return ended


@pytest.mark.real
def test_what_hangs_is_written_down_and_set_aside_after_the_restart(on_postgresql: Service) -> None:
    service = on_postgresql
    messages = service.messages(an_event("a", 1), an_event("a", 2), an_event("a", 3), an_event("b", 1))
    assert hang_and_end(service, Hang("a", 2), *messages) == [EXIT_HANGING]
    assert (service.letter().reason, service.letter().version, service.letter().position) == (HANGS, 2, 1)
    service.restart()
    service.receiver.look_for_hanging()
    service.fails = lambda event: pytest.fail("called again") if event.version == 2 else None
    service.receive(*messages[1:])
    assert service.seen() == ["a.1", "b.1"]
    assert service.letter().reason == HANGS
    service.receiver.retry_after_start()
    service.let_all_tries_pass()  # never by itself
    service.fails = lambda _event: None
    service.replay(service.letter())
    assert service.retry() == 1
    assert (service.seen(), service.letters()) == (["a.1", "b.1", "a.2", "a.3"], [])


@pytest.mark.real
def test_what_hangs_again_when_replayed_is_given_up_again(on_postgresql: Service) -> None:
    service = on_postgresql
    [message] = service.messages(an_event("a", 1))
    hang_and_end(service, Hang("a", 1), message)
    service.restart()
    service.receiver.look_for_hanging()
    service.receive(message)
    service.replay(service.letter())
    hang = service.fails = Hang("a", 1)

    def retry() -> None:
        with suppress(SystemExit):
            service.retry()

    worker = threading.Thread(target=retry, daemon=True)
    worker.start()
    assert hang.reached.wait(30)
    assert watch_until_ended(service) == [EXIT_HANGING]
    hang.released.set()
    worker.join(30)
    service.restart()
    assert service.receiver.due() == []
    assert service.letter().given_up_at
    service.fails = lambda _event: None
    service.receive(*service.messages(an_event("b", 1)))
    assert service.seen() == ["b.1"]


@pytest.mark.real
def test_an_early_event_that_hangs_does_so_once(on_postgresql: Service) -> None:
    service = on_postgresql
    first, second, other = service.messages(an_event("a", 1), an_event("a", 2), an_event("b", 1))
    assert hang_and_end(service, Hang("a", 2), second, first) == [EXIT_HANGING]
    service.restart()
    service.receiver.look_for_hanging()
    service.fails = lambda event: pytest.fail("called again") if event.version == 2 else None
    service.receive(first, second, other)
    assert service.seen() == ["a.1", "b.1"]
    assert service.letter().reason == HANGS


def test_a_handler_that_is_called_again_and_again_is_not_one_that_hangs(service: Service) -> None:
    ended: list[int] = []
    watchdog = Watchdog([service.receiver], ended.append)
    tries = 0

    def look(_event: Event) -> None:
        nonlocal tries
        tries += 1
        watchdog.tick()
        if tries <= HANGING_AFTER + 3:
            raise ValueError

    service.fails = look
    service.receive(*service.messages(an_event("a", 1)))
    for _ in range(3):
        service.replay(service.letter()) if service.letters() else None
        service.let_all_tries_pass()
    assert (ended, service.seen()) == ([], ["a.1"])


def test_a_handler_that_waits_for_a_frozen_database_is_not_one_that_hangs(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "_answers", lambda _engine: False)
    watched = []
    service.fails = lambda _event: watched.append(watch_until_ended(service, 30))
    service.receive(*service.messages(an_event("a", 1)))
    assert watched == [[]]


def test_a_handler_may_work_longer_than_a_statement() -> None:
    assert HANGING_AFTER > 5
    assert HANGING_AFTER < engines.ANSWER_SECONDS
