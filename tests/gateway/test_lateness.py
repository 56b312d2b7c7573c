"""Whoever looks at what stands still is told that it does; whoever sends something is not sent away."""

import threading
from collections.abc import Iterator

import pytest

from events.vocabulary import Stage
from services.gateway.lateness import SAMPLED_EVERY, WORTH_A_WORD, Lateness
from tests.gateway.world import POLICE, PREFIX, World, is_problem
from tests.pages.reader import Reader, words


class Seconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seconds]:
    seconds = Seconds()
    world.core.settle()
    late = Lateness(world.core.read_model, world.log, seconds)
    monkeypatch.setitem(world.node.gateway.__dict__, "lateness", late)
    monkeypatch.setattr(world.node.gateway.feed, "_lateness", late)
    yield seconds
    world.log.observers.remove(late._appended)
    world.core.settle()


def read_something(world: World) -> None:
    """A read is written down in the gateway's log, and nothing brings that to the projection until the world settles."""
    assert world.send(POLICE, "GET", f"{PREFIX}/relocation-requests").status_code == 200


def test_what_is_shown_at_once_is_never_late(world: World, seconds: Seconds) -> None:
    world.bring_to(Stage.ASKED)
    world.core.settle()
    seconds.now = 10 * WORTH_A_WORD
    assert world.node.gateway.lateness.seconds() == 0


def test_a_moment_is_not_worth_a_word_and_two_minutes_are(world: World, seconds: Seconds) -> None:
    late = world.node.gateway.lateness
    assert world.send(None, "GET", "/readyz").json == {"status": "ready"}
    read_something(world)
    seconds.now = WORTH_A_WORD - 1
    assert late.seconds() == 0
    seconds.now = WORTH_A_WORD + 5
    assert late.seconds() == WORTH_A_WORD + 5
    answer = world.send(None, "GET", "/readyz")
    assert answer.status_code == 200
    assert answer.json["status"] == "ready"
    assert f"{WORTH_A_WORD + 5:.0f} s behind" in answer.json["notes"]["read model"]
    assert "What is shown here is 2 minutes old" in words(Reader(world, POLICE).get("/requests"))
    world.core.settle()
    seconds.now += 5
    assert late.seconds() == 0
    assert "notes" not in world.send(None, "GET", "/readyz").json


def test_one_event_that_was_set_aside_is_not_everything_that_stands_still(world: World, seconds: Seconds) -> None:
    late = world.node.gateway.lateness
    read_something(world)
    never_shown = late._waiting[0]
    world.core.settle()
    late._waiting[0] = (never_shown[0], "an-event-that-was-parked")
    seconds.now = SAMPLED_EVERY
    read_something(world)
    world.core.settle()
    seconds.now = 2 * WORTH_A_WORD
    assert late.seconds() == 0


def test_nothing_is_live_while_what_is_shown_stands_still(world: World, seconds: Seconds) -> None:
    feed = world.node.gateway.feed
    stream = world.send(POLICE, "GET", f"{PREFIX}/stream", buffered=False)
    (listener,) = feed._open
    listener.start(gone := Gone())
    seconds.now = WORTH_A_WORD + 5
    stop = threading.Event()
    stop.is_set = iter([False, True]).__next__  # type: ignore[method-assign]
    feed.run(stop)
    assert not gone.is_open
    assert is_problem(world.send(POLICE, "GET", f"{PREFIX}/stream"), 503)["type"].endswith("/nothing-live")
    stream.close()
    world.core.settle()
    seconds.now += 5
    world.send(POLICE, "GET", f"{PREFIX}/stream", buffered=False).close()


class Gone:
    """A connection."""

    is_open = True

    def send(self, _data: bytes) -> bool:
        return True

    def close(self) -> None:
        self.is_open = False
