"""What we rely on of Faust, and what we defend against: a version that behaves differently must fail here first."""

import asyncio
import pickle
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import faust
import pytest
from kafka.admin import KafkaAdminClient

from events.kafka import worker
from events.kafka.connection import Broker
from events.kafka.receiver import Receiver, Stopping
from events.kafka.wire import Message
from events.kafka.worker import EXIT_UNEXPECTED, bring, faust_app
from tests.events.drafts import an_event
from tests.real.kafka_worker import World

pytestmark = pytest.mark.real


class _EveryTopic(dict[str, str]):
    def __contains__(self, _topic: object) -> bool:
        return True


class Taker(Receiver):
    """Stands where a receiver stands: writes down what it is given, and does about it what the test wants."""

    def __init__(self, does: Callable[[Message], None] = lambda _message: None) -> None:
        self.stopping = threading.Event()
        self.taken: list[Message] = []
        self.runs: list[int] = []
        self.does = does
        self.topic_ids = _EveryTopic()

    def is_pressing(self, message: Message) -> bool:
        return True

    def receive(self, messages: Sequence[Message]) -> None:
        self.runs.append(len(messages))
        for message in messages:
            self.does(message)
            self.taken.append(message)


@pytest.fixture
def world(kafka: str, topic_prefix: str, tmp_path: Path) -> Iterator[World]:
    world = World(kafka, f"sqlite:///{tmp_path}/placement.db", topic_prefix, tmp_path, partitions=1)
    yield world
    world.close()


class Rig:
    def __init__(self, world: World) -> None:
        self.world = world
        self.ended: list[int] = []

    def app(self, *takers: Taker, name: str = "one") -> faust.App:
        return faust_app(
            group=self.world.setup.group,
            worker_name=f"{self.world.setup.group}.{name}",
            broker=self.world.broker,
            topics=[self.world.topic()],
            receivers=takers,
            folder=Path(self.world.setup.folder) / "faust",
            end=self.ended.append,
        )

    def committed(self) -> int | None:
        """The offset the group would go on from."""
        admin = KafkaAdminClient(bootstrap_servers=self.world.setup.kafka)
        try:
            offsets = admin.list_group_offsets(self.world.setup.group)
        finally:
            admin.close()
        found = {(tp.topic, tp.partition): it.offset for tp, it in _of_group(offsets, self.world.setup.group).items()}
        return found.get((self.world.topic(), 0))

    def say(self, count: int) -> None:
        self.world.say(*(an_event("a", version) for version in range(1, count + 1)))


def _of_group(offsets: Any, group: str) -> Any:
    return offsets.get(group, offsets)


@pytest.fixture
def rig(world: World, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A worker that takes one message at a time, so that a test knows which were acknowledged."""
    monkeypatch.setattr(worker, "MOST_AT_ONCE", 1)
    return Rig(world)


@asynccontextmanager
async def running(app: faust.App) -> AsyncIterator[faust.App]:
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


async def until(condition: Callable[[], object], seconds: float = 40) -> None:
    async def wait() -> None:
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.05)

    await asyncio.wait_for(wait(), seconds)


def in_a_loop(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())


def test_the_version_is_the_one_these_tests_were_written_for() -> None:
    assert faust.__version__ == "0.15.3"


# What we defend against


def test_a_plain_agent_that_raises_acknowledges_what_it_did_not_do(rig: Rig) -> None:
    """Were this ever different, `noack` and this whole module could be thought about anew."""
    tried: list[int] = []

    async def test() -> None:
        app = rig.app()
        app.agents.clear()  # ours

        @app.agent(app.topic(rig.world.topic(), value_type=bytes, value_serializer="raw"), name="plain")
        async def plain(stream: Any) -> None:
            async for event in stream.events():
                tried.append(event.message.offset)
                if event.message.offset == 1:
                    raise ValueError

        rig.say(4)
        async with running(app):
            await until(lambda: rig.committed() == 4)

    in_a_loop(test)
    assert tried == [0, 1, 2, 3]


# What we rely on


def test_only_what_was_taken_is_committed_and_within_seconds(rig: Rig) -> None:
    let = threading.Event()

    def stop_at_two(message: Message) -> None:
        if message.offset == 2:
            assert let.wait(60)

    taker = Taker(stop_at_two)

    async def test() -> None:
        rig.say(5)
        async with running(rig.app(taker)) as app:
            assert app.conf.broker_commit_interval == 1.0
            await until(lambda: rig.committed() == 2, 20)
            await asyncio.sleep(2.5)  # two more commits
            assert await asyncio.to_thread(rig.committed) == 2
            let.set()
            await until(lambda: rig.committed() == 5, 20)

    in_a_loop(test)
    assert [message.offset for message in taker.taken] == [0, 1, 2, 3, 4]
    assert rig.ended == []


def test_a_message_at_hand_when_the_process_stops_is_not_acknowledged(rig: Rig) -> None:
    let = threading.Event()
    reached = threading.Event()

    def hold(message: Message) -> None:
        if message.offset == 1:
            reached.set()
            assert let.wait(60)

    async def test() -> None:
        rig.say(3)
        async with running(rig.app(Taker(hold))):
            await until(reached.is_set)
        let.set()

    in_a_loop(test)
    assert rig.committed() == 1


def test_a_receiver_that_stops_leaves_its_message_unacknowledged(rig: Rig) -> None:
    def stop(message: Message) -> None:
        if message.offset == 1:
            raise Stopping

    async def test() -> None:
        rig.say(3)
        async with running(rig.app(Taker(stop))):
            await until(lambda: rig.committed() == 1)
            await asyncio.sleep(2.5)

    in_a_loop(test)
    assert rig.committed() == 1
    assert rig.ended == []


def test_an_error_nobody_thought_of_ends_the_process_with_nothing_acknowledged(rig: Rig) -> None:
    def surprise(message: Message) -> None:
        if message.offset == 1:
            raise ZeroDivisionError

    async def test() -> None:
        rig.say(3)
        async with running(rig.app(Taker(surprise))):
            await until(lambda: rig.ended)
            await asyncio.sleep(2.5)

    in_a_loop(test)
    assert rig.ended == [EXIT_UNEXPECTED]
    assert rig.committed() == 1


def test_what_was_not_acknowledged_comes_again_to_the_next_worker(rig: Rig) -> None:
    def stop(message: Message) -> None:
        if message.offset == 2:
            raise Stopping

    taker = Taker()

    async def first() -> None:
        rig.say(4)
        async with running(rig.app(Taker(stop))):
            await until(lambda: rig.committed() == 2)

    async def second() -> None:
        async with running(rig.app(taker)):
            await until(lambda: len(taker.taken) >= 2)

    in_a_loop(first)
    in_a_loop(second)
    assert [message.offset for message in taker.taken] == [2, 3]


def test_all_receivers_have_a_message_before_it_is_acknowledged(rig: Rig) -> None:
    first, second = Taker(), Taker(lambda message: (_ for _ in ()).throw(Stopping()) if message.offset == 1 else None)

    async def test() -> None:
        rig.say(3)
        async with running(rig.app(first, second)):
            await until(lambda: len(first.taken) == 3)  # neither waits for the other
            await asyncio.sleep(2.5)

    in_a_loop(test)
    assert rig.committed() == 1


def test_all_that_waits_is_taken_at_once_and_acknowledged_together_or_not_at_all(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MOST_AT_ONCE", 100)
    let = threading.Event()
    first = threading.Event()

    def hold_the_first_and_stop_at_the_seventh(message: Message) -> None:
        if message.offset == 0:
            first.set()
            assert let.wait(60)
        if message.offset == 7:
            raise Stopping

    taker = Taker(hold_the_first_and_stop_at_the_seventh)

    async def test() -> None:
        rig.say(1)
        async with running(rig.app(taker)):
            await until(first.is_set)
            rig.world.say(*(an_event("a", version) for version in range(2, 10)))
            await asyncio.sleep(2)  # they are brought, and wait
            let.set()
            await until(lambda: rig.committed() == 1)
            await asyncio.sleep(2.5)

    in_a_loop(test)
    assert taker.runs == [1, 8]
    assert rig.committed() == 1
    assert rig.ended == []


def test_what_comes_is_what_was_sent_to_the_byte(rig: Rig) -> None:
    taker = Taker()
    sent = [
        Message(
            topic=rig.world.topic(), key=b"\xff\x00", headers={"ce_id": b"\xfe", "empty": b""}, body=b"\x80not json"
        ),
        Message(topic=rig.world.topic(), key=b"k", headers={}, body=b""),
        Message(topic=rig.world.topic(), key=b"k", headers={}, body=pickle.dumps(_Bomb())),
    ]

    async def test() -> None:
        rig.world.send(*sent)
        async with running(rig.app(taker)):
            await until(lambda: len(taker.taken) == 3)

    in_a_loop(test)
    assert [(it.key, it.headers, it.body) for it in taker.taken] == [(it.key, it.headers, it.body) for it in sent]


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("it was unpickled",))


def test_a_message_without_key_or_body_does_not_stop_the_others(rig: Rig) -> None:
    """Faust may drop it: then the sweep brings it."""
    taker = Taker()

    async def test() -> None:
        for key, value in ((b"a", None), (None, b"{}"), (b"a", b"{}")):
            rig.world.producer.send(rig.world.topic(), key=key, value=value, partition=0).get(timeout=30)
        async with running(rig.app(taker)):
            await until(lambda: taker.taken and taker.taken[-1].offset == 2)

    in_a_loop(test)
    assert rig.ended == []


def test_the_group_is_static_and_its_session_short(rig: Rig) -> None:
    async def test() -> None:
        async with running(rig.app(Taker())) as app:
            consumer = app.consumer._thread._consumer  # type: ignore[attr-defined]
            coordinator = consumer._coordinator
            await until(lambda: coordinator.generation > 0)
            assert coordinator._group_instance_id == f"{rig.world.setup.group}.one"
            assert (coordinator._session_timeout_ms, coordinator._heartbeat_interval_ms) == (8000, 2000)
            assert consumer._enable_auto_commit is False
            assert await asyncio.to_thread(_members, rig.world) == [f"{rig.world.setup.group}.one"]

    in_a_loop(test)


def _members(world: World) -> list[str]:
    admin = KafkaAdminClient(bootstrap_servers=world.setup.kafka)
    try:
        groups = admin.describe_groups([world.setup.group])
    finally:
        admin.close()
    group = groups[world.setup.group] if isinstance(groups, dict) else groups[0]
    return [member["group_instance_id"] for member in group["members"]]


def test_no_topic_is_made_and_no_port_opened(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    taker = Taker()
    listened: list[Any] = []
    listen = socket.socket.listen
    monkeypatch.setattr(
        socket.socket, "listen", lambda self, *rest: (listened.append(self.getsockname()), listen(self, *rest))
    )

    async def test() -> None:
        rig.say(2)
        async with running(rig.app(taker)) as app:
            await until(lambda: rig.committed() == 2)
            assert not app.conf.web_enabled
            assert not app.tables
            assert app.conf.key_serializer == app.conf.value_serializer == "raw"
            assert not app.conf.topic_allow_declare

    in_a_loop(test)
    admin = KafkaAdminClient(bootstrap_servers=rig.world.setup.kafka)
    mine = {topic for topic in admin.list_topics() if topic.startswith(rig.world.setup.prefix.removesuffix("haven"))}
    admin.close()
    assert mine == set(rig.world.layout.wanted())
    assert listened == []


def test_a_missing_topic_is_not_made_by_asking_for_it(rig: Rig) -> None:
    absent = rig.world.setup.prefix + ".absent"

    async def test() -> None:
        app = faust_app(
            group=rig.world.setup.group,
            worker_name="one",
            broker=rig.world.broker,
            topics=[absent],
            receivers=[Taker()],
            folder=Path(rig.world.setup.folder) / "faust",
            end=rig.ended.append,
        )
        starting = asyncio.ensure_future(app.start())
        await asyncio.sleep(3)
        starting.cancel()
        await app.stop()

    in_a_loop(test)
    admin = KafkaAdminClient(bootstrap_servers=rig.world.setup.kafka)
    assert absent not in admin.list_topics()
    admin.close()


def test_two_workers_of_one_name_fight_over_the_group_and_one_of_them_has_each_message(rig: Rig) -> None:
    """aiokafka does not end when it is fenced. It shows as rebalances without end: HAVEN_WORKER_NAME must be unique."""
    takers = [Taker(), Taker()]

    async def test() -> None:
        async with running(rig.app(takers[0])), running(rig.app(takers[1])):
            rig.say(5)
            await until(lambda: {message.offset for taker in takers for message in taker.taken} == set(range(5)))

    in_a_loop(test)
    assert rig.ended == []


def test_the_process_ends_when_faust_has_ended(rig: Rig) -> None:
    async def test() -> int:
        taker = Taker()
        app = rig.app(taker)
        working = asyncio.ensure_future(bring(app, [taker], threading.Event(), rig.ended.append))
        rig.say(1)
        await until(lambda: taker.taken)
        await app.crash(RuntimeError())
        return await asyncio.wait_for(working, 20)

    assert asyncio.run(test()) == EXIT_UNEXPECTED


def test_a_worker_told_to_stop_while_the_broker_is_away_stops(rig: Rig) -> None:
    async def test() -> int:
        app = faust_app(
            group="nobody",
            worker_name="one",
            broker=Broker(("127.0.0.1:1",)),
            topics=["haven.gateway"],
            receivers=[Taker()],
            folder=Path(rig.world.setup.folder) / "faust",
            end=rig.ended.append,
        )
        stop = threading.Event()
        working = asyncio.ensure_future(bring(app, [], stop, rig.ended.append))
        await asyncio.sleep(1)
        stop.set()
        return await asyncio.wait_for(working, 10)

    assert asyncio.run(test()) in {0, EXIT_UNEXPECTED}


def test_a_receiver_is_brought_the_topics_it_follows_and_no_others(rig: Rig) -> None:
    follows, does_not = Taker(), Taker()
    does_not.topic_ids = {rig.world.topic("placement"): "id"}

    async def test() -> None:
        async with running(rig.app(follows, does_not)):
            rig.say(3)
            await until(lambda: rig.committed() == 3)

    in_a_loop(test)
    assert [message.offset for message in follows.taken] == [0, 1, 2]
    assert does_not.runs == []
