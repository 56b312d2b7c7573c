"""Workers as processes: killed, frozen, stopped, added and taken away, every event takes effect once, in stream order."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from events.kafka import dead_letters
from events.kafka.dead_letters import HANGS
from events.kafka.sweep import EXIT_HANGING
from tests.events.drafts import an_event
from tests.real.kafka_worker import World, each_once_in_order, now, streams, wait_for

# Many processes on few cores: under load a worker needs ten seconds to start.
pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def world(kafka: str, topic_prefix: str, tmp_path: Path, postgres_url: str) -> Iterator[World]:
    world = World(kafka, postgres_url, topic_prefix, tmp_path)
    yield world
    world.close()


class Load:
    """Events said at a steady rate while the workers live through something."""

    def __init__(self, world: World, streams: int = 10, per_second: float = 40) -> None:
        self.world, self.streams, self.versions = world, streams, 0
        self._pause = 1 / per_second
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_failure: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            for n in range(self.streams):
                self.world.say(an_event(f"s-{n}", self.versions + 1))
                self._stop.wait(self._pause)
            self.versions += 1


def everything_was_handled(world: World, load: Load) -> None:
    wait_for(lambda: len(world.seen()) >= load.streams * load.versions, 40)
    assert each_once_in_order(world.seen(), load.streams, load.versions)
    assert world.letters() == []


def test_a_killed_worker_that_starts_again_handles_its_next_event_within_seconds(world: World) -> None:
    """Without the sweep, so that it is the static membership alone that is measured: Faust's default is 60 s, ours was 2 s on
    a machine with nothing else to do."""
    world.start(sweeps=False)
    took = []
    for version in range(1, 5):
        world.say(an_event("a", version), an_event("b", version))
        took.append(wait_for(lambda: len(world.seen()) == 2 * version))  # noqa: B023
        process = world.processes[-1]
        process.kill()
        process.wait()
        world.start(sweeps=False)
    print("seconds from start to first event:", [round(seconds, 1) for seconds in took[1:]])
    assert max(took[1:]) < 40
    assert each_once_in_order([("s-" + str("ab".index(s)), v) for s, v in world.seen()], 2, 4)


def test_the_work_of_a_worker_that_never_comes_back_goes_on_within_seconds(world: World) -> None:
    world.start(name="one")
    world.start(name="two")
    world.say(*streams(10, 2))
    wait_for(lambda: len(world.seen()) == 20)
    world.processes[0].kill()
    world.processes[0].wait()
    world.say(*(an_event(f"s-{n}", 3) for n in range(10)))
    print("seconds until others took over:", round(wait_for(lambda: len(world.seen()) == 30), 1))
    assert each_once_in_order(world.seen(), 10, 3)


def test_a_worker_alone_goes_on_without_the_group(world: World) -> None:
    """The sweep is why messages come at all."""
    world.start(takes_from_faust=False)
    world.say(*streams(10, 5))
    wait_for(lambda: len(world.seen()) == 50)
    assert each_once_in_order(world.seen(), 10, 5)


def test_a_worker_told_to_stop_ends_within_seconds_and_loses_nothing(world: World) -> None:
    with Load(world) as load:
        process = world.start()
        for _ in range(2):
            there = len(world.seen())
            wait_for(lambda: len(world.seen()) > there + 20)  # noqa: B023
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            print("seconds to stop:", round(time.monotonic() - began, 1))
            assert time.monotonic() - began < 12
            process = world.start()
    everything_was_handled(world, load)


def test_a_frozen_worker_that_thaws_beyond_its_session_doubles_nothing(world: World) -> None:
    with Load(world) as load:
        frozen = world.start(name="one")
        world.start(name="two")
        wait_for(lambda: world.by("one") and world.by("two"), 60)
        frozen.send_signal(signal.SIGSTOP)
        there = len(world.seen())
        began = time.monotonic()
        wait_for(lambda: len(world.seen()) > there + 40, 60)
        wait_for(lambda: time.monotonic() - began > 12)  # beyond the session, and beyond the patience of the database
        frozen.send_signal(signal.SIGCONT)
        wait_for(lambda: load.versions * load.streams - len(world.seen()) < 40, 60)
    everything_was_handled(world, load)
    assert frozen.poll() is None


def test_workers_come_and_go_under_load_and_every_event_is_handled_once_in_order(world: World) -> None:
    with Load(world) as load:
        world.start(name="one")
        wait_for(lambda: len(world.seen()) > 20, 60)
        others = [world.start(name="two"), world.start(name="three")]
        there = len(world.seen())
        wait_for(lambda: len(world.seen()) > there + 150, 60)
        others[0].kill()
        others[1].send_signal(signal.SIGTERM)
        there = len(world.seen())
        wait_for(lambda: len(world.seen()) > there + 150, 60)
    everything_was_handled(world, load)


@pytest.mark.parametrize("where", ["before commit", "after commit", "after acknowledgement"])
def test_a_worker_that_dies_at_a_named_point_repeats_and_skips_nothing(world: World, where: str) -> None:
    world.say(*streams(4, 10))
    assert world.start(dies=where).wait(60) == 99
    again = world.start()
    wait_for(lambda: len(world.seen()) >= 40)
    world.say(*(an_event(f"s-{n}", 11) for n in range(4)))
    wait_for(lambda: len(world.seen()) >= 44)
    assert each_once_in_order(world.seen(), 4, 11)
    assert again.poll() is None


def test_every_message_many_times_over_to_two_workers_takes_effect_once(world: World) -> None:
    world.start(name="one")
    world.start(name="two", takes_from_faust=False)
    for event in streams(6, 8):
        world.say(*[event] * 3)
    world.say(*streams(6, 8))
    wait_for(lambda: world.cursor_total() == 6 * 8 * 4, 60)
    assert each_once_in_order(world.seen(), 6, 8)


def test_a_handler_that_hangs_ends_the_process_and_after_the_restart_only_its_stream_waits(world: World) -> None:
    hanging = an_event("a", 2)
    process = world.start(hangs_on=hanging.id)
    world.say(an_event("a", 1), hanging, an_event("a", 3), an_event("b", 1))
    assert process.wait(60) == EXIT_HANGING
    [letter] = world.letters()
    assert (letter.reason, letter.event_id, letter.given_up_at is not None) == (HANGS, hanging.id, True)
    world.start(hangs_on=hanging.id)
    wait_for(lambda: ("b", 1) in world.seen())
    assert world.seen().count(("a", 1)) == 1
    assert ("a", 2) not in world.seen()
    (Path(world.setup.folder) / hanging.id).touch()  # the repair
    with world.log.writing() as tx:
        dead_letters.replay(tx.connection, letter.id, now())
    wait_for(lambda: ("a", 3) in world.seen())
    assert [one for one in world.seen() if one[0] == "a"] == [("a", 1), ("a", 2), ("a", 3)]
    wait_for(lambda: world.letters() == [])


def test_a_database_that_is_frozen_ends_no_worker_and_loses_nothing(
    kafka, topic_prefix, tmp_path, own_postgresql
) -> None:
    world = World(kafka, own_postgresql.url, topic_prefix, tmp_path)
    process = world.start()
    with Load(world, per_second=20) as load:
        wait_for(lambda: len(world.seen()) > 20, 60)
        own_postgresql.pause()
        time.sleep(25)  # the fault itself: longer than a session, a statement and the watchdog's patience
        own_postgresql.resume()
        there = len(world.seen())
        wait_for(lambda: len(world.seen()) > there + 40, 60)
    everything_was_handled(world, load)
    assert process.poll() is None
    world.close()
