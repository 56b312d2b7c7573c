"""What is done to the runtime: each fault one function that breaks something once and heals it, while people go on working."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from deploy.process import Part, PartFailed
from faults.site import POISON, Site, Strike, Wrapped
from faults.wrapped import Point

ZOMBIE_SECONDS = 12.0
"""Longer than a group session (8 s), a relay's idle limit (8 s) and an idle transaction (10 s) may last."""
REACHED_SECONDS = 45.0
"""How long a process is given to come by the point where it shall die."""
LATEST_PASS = 12


@dataclass(frozen=True)
class Fault:
    """One kind of fault, and how often it is done in the short and in the full form."""

    name: str
    short: int
    full: int
    strike: Strike


def is_meant(only: Iterable[re.Pattern[str]], name: str) -> bool:
    """Whether one of the patterns is found in a name."""
    return any(pattern.search(name) for pattern in only)


class PointNotReached(Exception):
    """A process did not come by the place where it was to die: nothing was tried."""


def killed_process(kind: str, site: Site) -> None:
    """`kill -9`, and at once a new process, as by a supervisor."""
    with site.in_hand(site.rng.choice(site.stack.wrapped(kind))) as process:
        process.kill()
        with site.felt():
            process.start_again()


def killed_part(part: Callable[[Site], Part], site: Site) -> None:
    """`kill -9` of PostgreSQL or Kafka, and a new start on what is on its disk."""
    it = part(site)
    it.kill()
    with site.felt():
        _start(it)


def wiped_kafka(site: Site) -> None:
    """Everything the cluster ever held is gone; an operator makes the topics again, and the relay fills them."""
    site.stack.kafka.wipe()
    site.old_poison |= site.poison
    site.poison.clear()
    with site.felt():
        _start(site.stack.kafka)
        site.stack.make_topics()


def frozen(kind: str, site: Site) -> None:
    """A process is stopped for longer than anybody waits for it, while another of its kind goes on; then it wakes up."""
    with site.in_hand(site.rng.choice(site.stack.wrapped(kind))) as process:
        process.pause()
        try:
            with site.felt():
                time.sleep(ZOMBIE_SECONDS)
        finally:
            process.resume()


def died_at(kind: str, point: Point, site: Site) -> None:
    """A process dies exactly there, at one of its next passes, and is started again. Raises PointNotReached."""
    with ExitStack() as hands:
        processes = [hands.enter_context(site.in_hand(process)) for process in site.stack.wrapped(kind)]
        nth = 1 if point in RARE else site.rng.randint(1, LATEST_PASS)
        for process in processes:
            process.crash.arm(point, nth)
        try:
            dead = _first_dead(site, processes, point)
        finally:
            for process in processes:
                process.crash.disarm()
        dead.kill()  # takes away what is left: its folder's lock, its guard
        with site.felt():
            dead.start_again()


WITH_DEAD_LETTERS = (Point.DEAD_LETTER_KEPT, Point.BEFORE_LETTER_MARKED, Point.AFTER_LETTER_MARKED)
RARE = (*WITH_DEAD_LETTERS, Point.BEFORE_KEY_DESTROYED, Point.AFTER_KEY_DESTROYED)
"""Points by which a process comes only now and then."""


def _first_dead(site: Site, processes: Sequence[Wrapped], point: Point) -> Wrapped:
    kind = processes[0].kind
    if point in WITH_DEAD_LETTERS:
        site.spoil("placement" if kind == "capacity" else "gateway")
    ends = time.monotonic() + REACHED_SECONDS
    while time.monotonic() < ends:
        for process in processes:
            if not process.running:
                return process
        time.sleep(0.02)
    raise PointNotReached(f"no {kind} came by {point} within {REACHED_SECONDS:.0f} s")


def everything_again(site: Site) -> None:
    """Every message of every log's topic is sent again, so that it is there two to five times; the last copies in any order."""
    with site.felt():
        copies = list(_messages(site))
        producer = KafkaProducer(**site.stack.kafka.client(), acks="all")
        try:
            for left in reversed(range(site.rng.randint(1, 4))):
                if not left:
                    site.rng.shuffle(copies)
                _send(site, producer, copies)
        finally:
            producer.close()


def _messages(site: Site) -> Iterator[Any]:
    consumer = KafkaConsumer(**site.stack.kafka.client(), group_id=None, auto_offset_reset="earliest")
    try:
        ends = site.places()
        places = {TopicPartition(*place): end for place, end in ends.items() if end}
        consumer.assign(list(places))
        consumer.seek_to_beginning()
        left = set(places)
        while left:
            for place, records in consumer.poll(timeout_ms=1000).items():
                yield from (record for record in records if record.offset < places[place])
            left = {place for place in left if consumer.position(place) < places[place]}
    finally:
        consumer.close()


def _send(site: Site, producer: KafkaProducer, copies: list[Any]) -> None:
    sent = [(copy, producer.send(copy.topic, copy.value, copy.key, list(copy.headers))) for copy in copies]
    for copy, future in sent:
        said = future.get(timeout=60)
        if copy.key == POISON:
            site.poison.add((said.topic, said.partition, said.offset))


def _start(part: Part) -> None:
    for last in (False, False, True):
        try:
            part.start()
            return
        except PartFailed:
            if last:
                raise


CRASH_POINTS: Mapping[str, tuple[Point, ...]] = {
    "gateway": (Point.BEFORE_COMMIT, Point.AFTER_COMMIT),
    "relay": (
        Point.BEFORE_PRODUCE,
        Point.BEFORE_FLUSH,
        Point.BEFORE_CURSOR_MOVE,
        Point.AFTER_CURSOR_MOVE,
        Point.BEFORE_LETTER_MARKED,
        Point.AFTER_LETTER_MARKED,
    ),
    "placement": (
        Point.BEFORE_COMMIT,
        Point.AFTER_COMMIT,
        Point.BEFORE_ACK,
        Point.AFTER_ACK,
        Point.DEAD_LETTER_KEPT,
    ),
    "capacity": (
        Point.BEFORE_COMMIT,
        Point.AFTER_COMMIT,
        Point.BEFORE_ACK,
        Point.AFTER_ACK,
        Point.DEAD_LETTER_KEPT,
    ),
    "projection": (
        Point.BEFORE_COMMIT,
        Point.AFTER_COMMIT,
        Point.BEFORE_ACK,
        Point.AFTER_ACK,
        Point.DEAD_LETTER_KEPT,
        Point.BEFORE_KEY_DESTROYED,
        Point.AFTER_KEY_DESTROYED,
    ),
}
"""Where each kind of process dies: before and after everything that makes something last."""

FAULTS: tuple[Fault, ...] = (
    *(
        Fault(f"kill -9 {kind}", 2, 100, partial(killed_process, kind))
        for kind in ("relay", "placement", "capacity", "projection", "gateway")
    ),
    Fault("kill -9 PostgreSQL", 1, 30, partial(killed_part, lambda site: site.stack.postgresql)),
    Fault("kill -9 Kafka", 1, 30, partial(killed_part, lambda site: site.stack.kafka)),
    *(
        Fault(f"{kind} dies {point}", 1, 20, partial(died_at, kind, point))
        for kind, points in CRASH_POINTS.items()
        for point in points
    ),
    *(Fault(f"SIGSTOP {kind}", 1, 17, partial(frozen, kind)) for kind in ("placement", "capacity", "relay")),
    *(Fault(f"SIGSTOP {kind}", 0, 10, partial(frozen, kind)) for kind in ("projection", "gateway")),
    Fault("every message 2 to 5 times", 1, 5, everything_again),
    Fault("Kafka wiped and rebuilt", 1, 5, wiped_kafka),
)
