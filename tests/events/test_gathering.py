"""How long a message waits for company before its receiver takes it: no broker and no clock needed."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from msgspec.structs import replace

from events.envelope import encode
from events.gateway import RecordConsulted
from events.kafka import worker
from events.kafka.receiver import Receiver
from events.kafka.wire import Message, to_message
from events.kafka.worker import MOST_AT_ONCE, _Brought, _Waiting
from events.log.engines import sqlite_engine
from events.log.inbox import Consumer
from events.log.store import EventLog
from events.placement import HouseholdErased
from tests.events.drafts import NOON, an_event

TOPIC = "haven.gateway"
MESSAGE = to_message(TOPIC, encode(an_event("s", 1)))
PATIENCE = 20


class Acked:
    """Stands for Faust's event."""

    def __init__(self) -> None:
        self.times = 0

    def ack(self) -> None:
        self.times += 1


def receiver(acts_on: list[type] | None) -> Receiver:
    log = EventLog(sqlite_engine(":memory:"), "capacity")
    return Receiver(Consumer("c", log, lambda *_: None, acts_on), lambda: NOON, {TOPIC: "first"})


def brought(message: Message = MESSAGE, takers: int = 1) -> _Brought:
    return _Brought(Acked(), message, takers)


def run(of: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(of(), PATIENCE))


async def nothing_comes(coming: asyncio.Future[list[_Brought]]) -> None:
    for _ in range(100):
        await asyncio.sleep(0)
    assert not coming.done()


@pytest.fixture(autouse=True)
def _without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "COMPANY_SECONDS", 10 * PATIENCE)


@pytest.mark.parametrize("acts_on", [None, [RecordConsulted]])
def test_what_somebody_acts_on_is_taken_at_once(acts_on: list[type] | None) -> None:
    async def story() -> None:
        waiting = _Waiting(receiver(acts_on), 0)
        await waiting.add(first := brought())
        assert await waiting.next_run() == [first]

    run(story)


def test_what_nobody_acts_on_goes_along_in_its_order() -> None:
    pressing = replace(an_event("s", 3), data=HouseholdErased(request_id="r-1"))

    async def story() -> None:
        waiting = _Waiting(receiver([HouseholdErased]), 0)
        await waiting.add(first := brought())
        coming = asyncio.ensure_future(waiting.next_run())
        await waiting.add(second := brought())
        await nothing_comes(coming)
        await waiting.add(third := brought(to_message(TOPIC, encode(pressing))))
        assert await coming == [first, second, third]

    run(story)


def test_what_nobody_acts_on_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "COMPANY_SECONDS", 0.01)

    async def story() -> None:
        waiting = _Waiting(receiver([HouseholdErased]), 0)
        await waiting.add(first := brought())
        assert await waiting.next_run() == [first]

    run(story)


def test_a_full_queue_waits_for_nothing() -> None:
    """A history of which nobody acts on anything is read as fast as any other."""

    async def story() -> None:
        waiting = _Waiting(receiver([HouseholdErased]), 0)
        for _ in range(MOST_AT_ONCE):
            await waiting.add(brought())
        assert len(await waiting.next_run()) == MOST_AT_ONCE

    run(story)


def test_what_comes_while_a_run_is_taken_is_as_pressing_as_it_was() -> None:
    async def story() -> None:
        waiting = _Waiting(receiver(None), 0)
        await waiting.add(brought())
        await waiting.next_run()
        await waiting.add(second := brought())
        assert await waiting.next_run() == [second]
        coming = asyncio.ensure_future(waiting.next_run())
        await nothing_comes(coming)
        coming.cancel()

    run(story)


@pytest.mark.parametrize("header", [b"gateway.unit.praise.v9", b"\xff", b""])
def test_what_this_release_does_not_know_is_pressing(header: bytes) -> None:
    unknown = Message(topic=TOPIC, key=b"s", headers={"ce_type": header}, body=b"{}")
    assert receiver([HouseholdErased]).is_pressing(unknown)


def test_it_is_acknowledged_when_the_last_receiver_has_taken_it() -> None:
    both = brought(takers=2)
    both.taken()
    assert both.event.times == 0
    both.taken()
    assert both.event.times == 1
