"""The live stream: ids of what moved, to those who may know of it, without a gap."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from events.vocabulary import Stage
from services.gateway import feed
from services.gateway.limits import STREAMS_AT_ONCE, Limits
from services.gateway.stream import TAKE_OVER
from services.gateway.tokens import LONGEST_LIFETIME
from tests.gateway.world import (
    ABROAD,
    AUDITOR,
    COLLEAGUE,
    ESCORT,
    HOST,
    NEIGHBOUR,
    ORIGIN,
    OTHER_HOST,
    OTHER_POLICE,
    POLICE,
    PREFIX,
    RECEIVING,
    Who,
    World,
    is_problem,
)

STREAM = f"{PREFIX}/stream"
SHIPPED = feed.LONGEST_STREAM_SECONDS


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "HEARTBEAT_SECONDS", 0.0)
    monkeypatch.setattr(feed, "LONGEST_STREAM_SECONDS", 5.0)


def listen(world: World, who: Who, last: str | None = None) -> Any:
    headers = {} if last is None else {"Last-Event-ID": last}
    return world.send(who, "GET", STREAM, headers=headers, buffered=False)


def told(answer: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Everything said until there is nothing more to say."""
    for chunk in answer.response:
        if chunk.startswith(b": "):
            return
        if chunk.startswith(b"id: "):
            number, event, data = chunk.decode().strip().split("\n")
            assert event == "event: moved"
            yield int(number.removeprefix("id: ")), json.loads(data.removeprefix("data: "))


def about(world: World, who: Who, after: int) -> set[str]:
    with listen(world, who, str(after)) as answer:
        return {data["id"] for _, data in told(answer)}


def test_a_stream_begins_by_saying_how_soon_to_come_back(world: World) -> None:
    with listen(world, POLICE) as answer:
        assert answer.status_code == 200
        assert answer.content_type == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-store"
        lines = iter(answer.response)
        said, milliseconds = next(lines).split()
        assert said == b"retry:"
        assert 2000 <= int(milliseconds) <= 4000
        assert next(lines) == b": still here\n\n"


def test_without_a_last_id_it_begins_now(world: World) -> None:
    before = world.bring_to(Stage.ASKED)
    with listen(world, POLICE) as answer:
        after = world.open()
        ids = {data["id"] for _, data in told(answer)}
    assert after in ids
    assert before not in ids


@pytest.mark.attack(38)
def test_everybody_hears_of_what_is_theirs_and_of_nothing_else(world: World) -> None:
    begun = world.core.read_model.last_change()
    asked, departed = world.bring_to(Stage.ASKED), world.bring_to(Stage.DEPARTED)
    elsewhere = world.open(OTHER_POLICE)
    units = {f"{who.organisation}-u1" for who in (RECEIVING, NEIGHBOUR, ABROAD)}
    requests = {asked, departed, elsewhere}
    assert about(world, POLICE, begun) == {asked, departed}
    assert about(world, OTHER_POLICE, begun) == {elsewhere}
    assert about(world, ORIGIN, begun) == requests | units
    assert about(world, HOST, begun) == requests | units
    assert about(world, OTHER_HOST, begun) == requests | units
    assert about(world, RECEIVING, begun) == requests | {f"{RECEIVING.organisation}-u1"}
    assert about(world, ABROAD, begun) == requests | {f"{ABROAD.organisation}-u1"}
    assert about(world, ESCORT, begun) == {departed}
    is_problem(world.send(AUDITOR, "GET", STREAM), 403)


def test_a_change_says_its_kind_its_id_and_its_revision_and_no_more(world: World) -> None:
    begun = world.core.read_model.last_change()
    request_id = world.bring_to(Stage.ASKED)
    with listen(world, ORIGIN, str(begun)) as answer:
        changes = list(told(answer))
    assert all(data.keys() == {"kind", "id", "revision"} for _, data in changes)
    assert {data["kind"] for _, data in changes} == {"relocation_request", "unit"}
    revisions = [data["revision"] for _, data in changes if data["id"] == request_id]
    assert revisions == sorted(revisions)
    assert revisions[-1] == world.view(request_id)["revision"]


@pytest.mark.attack(46)
def test_whoever_no_longer_knows_of_it_hears_that_it_moved_once_more(world: World) -> None:
    """A question that is closed must disappear from the page of the shelter that was asked."""
    request_id = world.bring_to(Stage.OFFERED)
    begun = world.core.read_model.last_change()
    world.done(world.propose(request_id))
    assert about(world, NEIGHBOUR, begun) >= {request_id}
    is_problem(world.read(NEIGHBOUR, request_id), 404)
    begun = world.core.read_model.last_change()
    world.done(world.countersign(request_id))
    assert request_id not in about(world, NEIGHBOUR, begun)


def test_whoever_comes_back_misses_nothing_and_hears_nothing_twice(world: World) -> None:
    begun = world.core.read_model.last_change()
    for _ in range(3):
        world.bring_to(Stage.ASKED)
    with listen(world, POLICE, str(begun)) as answer:
        whole = list(told(answer))
    assert len(whole) > 5
    for number in range(len(whole)):
        last = begun if number == 0 else whole[number - 1][0]
        with listen(world, POLICE, str(last)) as answer:
            assert list(told(answer)) == whole[number:]


@pytest.mark.parametrize("last", ["", "-1", "1.5", "x", "9" * 40, "٣", "1 2"])
def test_a_last_id_that_was_never_given_begins_now(world: World, last: str) -> None:
    world.bring_to(Stage.ASKED)
    with world.send(POLICE, "GET", STREAM, environ_overrides={"HTTP_LAST_EVENT_ID": last}, buffered=False) as answer:
        request_id = world.open()
        assert {data["id"] for _, data in told(answer)} == {request_id}


@pytest.mark.parametrize("gone_to", ["before the first that is kept", "before a backup was restored"])
def test_whoever_comes_back_from_where_nothing_is_known_is_told_to_read_everything_again(
    world: World, gone_to: str
) -> None:
    first = world.core.read_model.last_change()
    world.bring_to(Stage.ASKED)
    last = world.core.read_model.last_change()
    if gone_to == "before the first that is kept":
        came_back_with = first - 1
        world.core.projection.forget_changes(keep=last - first)
    else:
        came_back_with = last + 1
    with listen(world, POLICE, str(came_back_with)) as answer:
        lines = iter(answer.response)
        assert next(lines).startswith(b"retry: ")
        assert next(lines) == b"id: %d\nevent: reload\ndata: {}\n\n" % last
        assert list(told(answer)) == []
    assert about(world, POLICE, first), "who was as far as that still misses nothing"


def test_of_what_moved_so_much_is_kept_and_no_more(world: World) -> None:
    world.bring_to(Stage.ASKED)
    world.core.projection.forget_changes(keep=3)
    first, last = world.core.read_model.kept_changes()
    assert last - first == 2
    world.core.projection.forget_changes()
    assert world.core.read_model.kept_changes() == (first, last)


# One reader for all


class Client:
    """A connection that a server has given away."""

    def __init__(self) -> None:
        self.heard = b""
        self.is_open = True
        self.is_stuck = False

    def send(self, data: bytes) -> bool:
        self.heard += b"" if self.is_stuck else data
        return not self.is_stuck

    def close(self) -> None:
        self.is_open = False

    def ids(self) -> list[int]:
        return [int(line[4:]) for line in self.heard.splitlines() if line.startswith(b"id: ")]


class Listening:
    """A feed whose rounds a test makes one by one."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.feed = world.node.gateway.feed

    def __call__(self, who: Who, last: str = "") -> Client:
        client = Client()
        environ: dict[str, Any] = {TAKE_OVER: lambda listener: listener.start(client)}
        headers = {"Last-Event-ID": last} if last else {}
        answer = self.world.send(who, "GET", STREAM, headers=headers, environ_overrides=environ)
        assert answer.status_code == 200
        client.heard = answer.data
        return client

    def round(self) -> None:
        stop = threading.Event()
        stop.wait = lambda _seconds=None: True  # type: ignore[method-assign,assignment]
        stop.is_set = iter([False, True]).__next__  # type: ignore[method-assign]
        self.feed.run(stop)


@pytest.fixture
def listening(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listening]:
    monkeypatch.setattr(feed, "LONGEST_STREAM_SECONDS", 60.0)
    listening = Listening(world)
    yield listening
    listening.feed._end_all()
    assert len(listening.feed) == 0
    assert not world.node.gateway.limits._streams


def test_whoever_listens_to_the_same_is_read_for_once(
    world: World, listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody = [POLICE, OTHER_POLICE, ORIGIN, HOST, RECEIVING, NEIGHBOUR, ABROAD]
    clients = [(who, listening(who)) for who in everybody for _ in range(5)]
    begun = world.core.read_model.last_change()
    asked, readings = world.bring_to(Stage.ASKED), []
    read = world.core.read_model.changes
    monkeypatch.setattr(world.core.read_model, "changes", lambda *a: readings.append(a) or read(*a))
    listening.round()
    assert len(readings) == 1
    for who, client in clients:
        with listen(world, who, str(begun)) as answer:
            assert client.ids() == [number for number, _ in told(answer)], who
        assert (asked.encode() in client.heard) is (who != OTHER_POLICE)


def test_whoever_comes_back_catches_up_with_the_others(world: World, listening: Listening) -> None:
    begun = world.core.read_model.last_change()
    there = listening(POLICE)
    world.bring_to(Stage.DEPARTED)
    back = listening(POLICE, str(begun))
    listening.round()
    world.bring_to(Stage.ASKED)
    listening.round()
    assert back.ids() == there.ids()
    assert len(set(back.ids())) == len(back.ids()) > 5


def test_more_than_one_reading_takes_is_told_in_several(
    world: World, listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = world.core.read_model.last_change()
    client = listening(POLICE)
    world.bring_to(Stage.DEPARTED)
    with monkeypatch.context() as small:
        small.setattr(feed, "BATCH", 2)
        for _ in range(world.core.read_model.last_change() - begun):
            listening.round()
    with listen(world, POLICE, str(begun)) as answer:
        assert client.ids() == [number for number, _ in told(answer)]


def test_whoever_does_not_keep_up_is_cut_off_and_goes_on_where_they_were(world: World, listening: Listening) -> None:
    client, other = listening(POLICE), listening(POLICE)
    world.bring_to(Stage.ASKED)
    listening.round()
    client.is_stuck = True
    world.bring_to(Stage.ASKED)
    listening.round()
    assert not client.is_open
    assert other.is_open
    again = listening(POLICE, str(client.ids()[-1]))
    listening.round()
    assert client.ids() + again.ids() == other.ids()


def test_a_client_that_went_away_leaves_its_place(listening: Listening) -> None:
    client = listening(POLICE)
    client.is_open = False
    listening.round()
    assert len(listening.feed) == 0


def test_a_stream_is_kept_open_by_a_word_now_and_then(listening: Listening) -> None:
    client = listening(POLICE)
    listening.round()
    assert client.heard.endswith(b": still here\n\n")
    assert client.is_open


def test_whoever_is_revoked_hears_nothing_more(world: World, listening: Listening) -> None:
    client, other = listening(COLLEAGUE), listening(POLICE)
    world.node._token_store.revoke(COLLEAGUE.person, datetime.now(UTC) + timedelta(seconds=2))
    request_id = world.open()
    listening.round()
    assert request_id.encode() in other.heard
    assert request_id.encode() not in client.heard
    assert not client.is_open


def test_when_the_database_is_away_nobody_takes_silence_for_calm(
    world: World, listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [listening(who) for who in (POLICE, ORIGIN)]
    with monkeypatch.context() as away:
        away.setattr(world.core.read_model, "kept_changes", disk_is_full)
        listening.round()
    assert not any(client.is_open for client in clients)
    assert listening(POLICE).is_open


# Places


def free_places(world: World) -> int:
    return feed.MOST_STREAMS - len(world.node.gateway.feed)


def test_every_way_a_stream_ends_gives_its_place_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = free_places(world)
    with listen(world, POLICE) as answer:
        next(iter(answer.response))
        assert free_places(world) == before - 1
    with listen(world, POLICE):
        pass  # nobody read a line
    world.send(POLICE, "HEAD", STREAM).close()
    with monkeypatch.context() as full:
        full.setattr(world.log, "append", disk_is_full)
        is_problem(world.send(POLICE, "GET", STREAM), 503)
    with monkeypatch.context() as full:
        full.setattr(world.core.read_model, "kept_changes", disk_is_full)
        is_problem(world.send(POLICE, "GET", STREAM), 503)
    assert free_places(world) == before


def disk_is_full(*_: object, **__: object) -> Any:
    raise OperationalError("INSERT", None, OSError("database or disk is full"))


def test_when_every_place_is_taken_the_next_is_told_to_come_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MOST_STREAMS", 3)
    taken = [listen(world, who) for who in (POLICE, ORIGIN, HOST)]
    begun = world.heads()
    refused = world.send(RECEIVING, "GET", STREAM)
    assert is_problem(refused, 503)["type"].endswith("/too-many-streams")
    assert int(refused.headers["Retry-After"]) > 0
    assert world.heads() == begun
    taken.pop().close()
    with listen(world, RECEIVING) as answer:
        assert answer.status_code == 200
    for answer in taken:
        answer.close()


def test_one_person_cannot_take_the_places_of_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(world.node.gateway.__dict__, "limits", Limits(requests_per_minute=10_000))
    taken = [listen(world, POLICE) for _ in range(STREAMS_AT_ONCE)]
    assert is_problem(world.send(POLICE, "GET", STREAM), 503)["type"].endswith("/too-many-streams")
    with listen(world, OTHER_POLICE) as answer:
        assert answer.status_code == 200
    taken.pop().close()
    with listen(world, POLICE) as answer:
        assert answer.status_code == 200
    for answer in taken:
        answer.close()


def test_a_stream_ends_before_its_token_does(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "LONGEST_STREAM_SECONDS", 0.0)
    with listen(world, POLICE) as answer:
        assert [line.split()[0] for line in answer.response] == [b"retry:"]


def test_a_server_that_stops_need_not_wait_for_its_listeners(
    world: World, listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "HEARTBEAT_SECONDS", 60.0)
    monkeypatch.setattr(feed, "LOOK_SECONDS", 60.0)
    client = listening(ORIGIN)
    with listen(world, POLICE) as answer:
        lines = iter(answer.response)
        assert next(lines).startswith(b"retry: ")
        threading.Timer(0.2, listening.feed.hang_up).start()
        assert list(lines) == []
    assert not client.is_open
    is_problem(world.send(POLICE, "GET", STREAM), 503)
    listening.feed.is_closing = False


def test_a_stream_lives_no_longer_than_a_token() -> None:
    assert LONGEST_LIFETIME.total_seconds() > SHIPPED
