"""Bugs put in on purpose: what the campaign's verdict is worth is what it catches.

Each is a small change to functions of one kind of process, made inside it by `faults.wrapped`, and names the checks of which
at least one must find it.
"""

# ruff: noqa: PLC0415 - a process loads what its own bug changes, and no client of a broker for another's
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from events.capacity import HoldPlaced
from events.envelope import derived_id
from events.gateway import Command
from events.log import decider
from events.log.inbox import _REMEMBER as REMEMBER
from events.log.inbox import Consumer, Delivery

NO_BED_TWICE = "no bed has two claims"
IN_THE_LOG = "every acknowledged command is in the log"
ONCE_IN_THE_LOG = "every intent is in the log once"
ANSWERED_AS_BEFORE = "a repeated intent is answered as the first time"
ONE_OUTCOME = "every command has one outcome"
ONE_ANSWER = "every hold has one answer"
TAKES_EFFECT_ONCE = "a cause takes effect once"
CLAIMS_AS_EVENTS = "the claims table says what the events say"
NOTHING_PARKED = "nothing is parked"
NOTHING_GIVEN_UP = "no message is given up"
DEAD_LETTER_WRITTEN = "what is no event becomes a dead letter"
DEAD_LETTER_TOLD = "every dead letter is told of"
AT_THE_END = "every consumer is at the end of its topics"
SERVICES_AGREE = "invariant I11 services_agree"
AS_REBUILT = "the read model is what a rebuild makes"


@dataclass(frozen=True)
class Bug:
    """`kind` of process it is in, and the checks of which at least one must find it."""

    kind: str
    install: Callable[[], None]
    caught_by: tuple[str, ...]


def one_in(number: int, name: str) -> bool:
    """The same answer for the same name in every process."""
    return zlib.crc32(name.encode()) % number == 0


def change(owner: Any, name: str, made: Any) -> None:
    """Puts something else where a class or module has `name`."""
    assert hasattr(owner, name), f"there is no {name} any more: the bug must be put in another way"
    setattr(owner, name, made)


def claims_without_a_constraint() -> None:
    """Capacity gives the first beds, free or not, and the claims table takes a second claim on a bed."""
    from services.capacity import worker
    from services.capacity.domain import unit

    place = unit._place_hold

    def anywhere(*arguments: Any) -> Any:
        return [
            msgspec.structs.replace(said, beds=tuple(range(1, len(said.beds) + 1)))
            if isinstance(said, HoldPlaced)
            else said
            for said in place(*arguments)
        ]

    change(unit, "_place_hold", anywhere)
    change(worker, "_CLAIM", postgresql.insert(worker.bed_claims).on_conflict_do_nothing())


def claim_not_given_back() -> None:
    """Capacity releases a hold and leaves its row in the claims table."""
    from services.capacity import worker

    worker._GIVE_BACK = sa.delete(worker.bed_claims).where(
        sa.false(), worker.bed_claims.c.hold_id == sa.bindparam("the_hold")
    )


def acknowledged_before_the_commit() -> None:
    """The gateway answers at once and writes the command half a second later."""
    from services.gateway.intake import Accepted, Intake

    accept = Intake.accept

    def hasty(intake: Intake, intent: Any, subject: str, commands: Any, **named: Any) -> Accepted:
        intent_id = intake.intent_id(intent)
        count = len(commands(lambda place: derived_id(intent_id, place)))
        later = threading.Timer(0.5, accept, [intake, intent, subject, commands], named)
        later.daemon = True
        later.start()
        ids = tuple(derived_id(intent_id, place) for place in range(count))
        return Accepted(ids, subject, intake._clock().isoformat())

    change(Intake, "accept", hasty)


def keys_forgotten() -> None:
    """The gateway remembers no key, and its ids are random: every repetition is a new command."""
    from services.gateway import intake

    change(intake.Intake, "_recall", lambda *_: None)
    change(intake, "derived_id", lambda *_: str(uuid4()))
    change(intake, "sa", _WithoutInsert())


class _WithoutInsert:
    """SQLAlchemy, but what is inserted under a key that is there already is left alone."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sa, name)

    @staticmethod
    def insert(table: sa.Table) -> Any:
        return postgresql.insert(table).on_conflict_do_nothing()


def cursor_before_flush() -> None:
    """The relay moves its cursor and sends afterwards."""
    from events.kafka import relay

    send = relay._Leader._send

    def hasty(leader: Any, connection: Any, messages: Any) -> None:
        if messages[0].topic == leader._topic:
            event_id = messages[-1].headers["ce_id"].decode()
            position = connection.scalar(sa.text("SELECT position FROM events WHERE id = :id"), {"id": event_id})
            before = connection.execute(relay._NEXT, {"topic": leader._topic_id(), "limit": 1}).one().before
            leader._move(connection, leader._topic_id(), before, position, event_id)
            time.sleep(0.4)
        send(leader, connection, messages)

    change(relay._Leader, "_send", hasty)


def event_not_published() -> None:
    """The relay leaves out one event in fifteen."""
    from events.kafka.relay import _Leader

    send = _Leader._send

    def forgetful(leader: Any, connection: Any, messages: Any) -> None:
        send(leader, connection, [it for it in messages if not one_in(15, it.headers["ce_id"].decode())])

    change(_Leader, "_send", forgetful)


def exception_swallowed() -> None:
    """A handler fails now and then, and somebody has put a `try ... except: pass` around it."""
    begin = Consumer.__init__

    def swallowing(consumer: Consumer, name: str, log: Any, handle: Any, acts_on: Any = None) -> None:
        begin(consumer, name, log, lambda tx, event: None if one_in(10, event.id) else handle(tx, event), acts_on)

    change(Consumer, "__init__", swallowing)


def inbox_forgets() -> None:
    """A consumer handles whatever comes, also what it has handled."""

    def take(consumer: Consumer, tx: Any, memory: Any, incoming: Any) -> Delivery:
        consumer.handle(tx, incoming)
        memory.handled(incoming)
        return Delivery.HANDLED

    change(Consumer, "_take", take)


def inbox_forgets_and_ids_are_random() -> None:
    """The same, and the log cannot know the second copy of an effect."""
    inbox_forgets()
    change(decider, "derived_id", lambda *_: str(uuid4()))


def remembered_before_handled() -> None:
    """That an event was handled is committed by itself, before its effects are."""
    take = Consumer._take

    def in_two_transactions(consumer: Consumer, tx: Any, memory: Any, incoming: Any) -> Delivery:
        known = consumer._key(incoming.source, incoming.stream)
        with consumer.log.engine.begin() as connection:
            connection.execute(REMEMBER, known | {"version": incoming.version, "event_id": incoming.id})
        if isinstance(getattr(incoming, "data", None), Command):  # what is missed for certain, should it be lost
            time.sleep(0.3)  # a few of them a second: whoever is killed is most likely here
        return take(consumer, tx, memory, incoming)

    change(Consumer, "_take", in_two_transactions)


def _never_sweeps() -> None:
    from events.kafka.sweep import Sweep

    def nothing(sweep: Sweep) -> int:
        sweep.rounds += 1
        return 0

    change(Sweep, "round", nothing)


def skipped_and_not_swept() -> None:
    """Faust leaves out one message in fifteen, as it does in a rebalance, and nothing looks for what was left."""
    from events.kafka.receiver import Receiver

    receive = Receiver.receive

    def forgetful(receiver: Receiver, messages: Any) -> None:
        receive(receiver, [it for it in messages if not one_in(15, it.headers["ce_id"].decode())])

    change(Receiver, "receive", forgetful)
    _never_sweeps()


def acknowledged_to_kafka_before_the_commit() -> None:
    """A message counts as taken before it is taken, and nothing looks for what was left."""
    from events.kafka import worker
    from events.kafka.receiver import Receiver

    message_of, receive = worker._message, Receiver.receive

    def hasty(event: Any) -> Any:
        event.ack()
        return message_of(event)

    def slow(receiver: Receiver, messages: Any) -> None:
        time.sleep(2.0)  # longer than until Faust tells Kafka
        receive(receiver, messages)

    change(worker, "_message", hasty)
    change(Receiver, "receive", slow)
    _never_sweeps()


def dead_letters_not_written() -> None:
    """What cannot be handled is left out without a word."""
    from events.kafka import dead_letters

    change(dead_letters, "keep", lambda *_: None)


def dead_letters_not_told() -> None:
    """The relay writes down that it told of a dead letter, and tells nobody."""
    from events.kafka import dead_letters
    from events.kafka.relay import BATCH, _Leader

    def silent(leader: Any, connection: Any) -> None:
        leader._mark_told(connection, dead_letters.unpublished(connection, BATCH))

    change(_Leader, "_tell_of_dead_letters", silent)


def view_not_written() -> None:
    """The projection loses one change in ten."""
    from services.gateway import projection, views

    view_of_request = views.view_of_request

    def forgetful(view: Any, event: Any) -> Any:
        return None if view is not None and one_in(10, event.id) else view_of_request(view, event)

    change(projection, "view_of_request", forgetful)


LEFT_OUT = (ONE_OUTCOME, ONE_ANSWER, NOTHING_PARKED)

BUGS: Mapping[str, Bug] = {
    "claims without a constraint": Bug("capacity", claims_without_a_constraint, (NO_BED_TWICE,)),
    "claim not given back": Bug("capacity", claim_not_given_back, (CLAIMS_AS_EVENTS,)),
    "acknowledged before the commit": Bug("gateway", acknowledged_before_the_commit, (IN_THE_LOG,)),
    "keys forgotten": Bug("gateway", keys_forgotten, (ANSWERED_AS_BEFORE, ONCE_IN_THE_LOG)),
    "cursor moved before the flush": Bug("relay", cursor_before_flush, LEFT_OUT),
    "event not published": Bug("relay", event_not_published, LEFT_OUT),
    "exception swallowed": Bug("placement", exception_swallowed, (ONE_OUTCOME,)),
    # The derived ids refuse the second copy of every event; what placement remembers of the units has no such guard.
    "inbox forgets": Bug("placement", inbox_forgets, (SERVICES_AGREE, NOTHING_GIVEN_UP)),
    "inbox forgets, ids are random": Bug(
        "placement", inbox_forgets_and_ids_are_random, (ONE_OUTCOME, TAKES_EFFECT_ONCE)
    ),
    # What is lost may be a message of a unit, which leaves placement believing something old.
    "remembered before it was handled": Bug(
        "placement", remembered_before_handled, (ONE_OUTCOME, ONE_ANSWER, SERVICES_AGREE)
    ),
    "skipped by Faust, not swept": Bug("capacity", skipped_and_not_swept, (*LEFT_OUT, AT_THE_END)),
    "acknowledged to Kafka before the commit": Bug(
        "capacity", acknowledged_to_kafka_before_the_commit, (*LEFT_OUT, AT_THE_END)
    ),
    "dead letters not written": Bug("placement", dead_letters_not_written, (DEAD_LETTER_WRITTEN,)),
    "dead letters not told": Bug("relay", dead_letters_not_told, (DEAD_LETTER_TOLD,)),
    "change missing in the read model": Bug("projection", view_not_written, (AS_REBUILT,)),
}
