"""The live stream: ids of what moved, to those who may know of it, without a gap."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from events.vocabulary import Stage
from services.gateway import stream
from services.gateway.routing import Gateway
from services.gateway.tokens import LONGEST_LIFETIME
from tests.gateway.world import (
    ABROAD,
    AUDITOR,
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
SHIPPED = stream.LONGEST_STREAM_SECONDS


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.0)
    monkeypatch.setattr(stream, "LONGEST_STREAM_SECONDS", 5.0)


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
        assert next(lines) == b"retry: 2000\n\n"
        assert next(lines) == b": still here\n\n"


def test_without_a_last_id_it_begins_now(world: World) -> None:
    before = world.bring_to(Stage.ASKED)
    with listen(world, POLICE) as answer:
        after = world.open()
        ids = {data["id"] for _, data in told(answer)}
    assert after in ids
    assert before not in ids


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


@pytest.mark.parametrize("last", ["", "-1", "1.5", "x", "9" * 40, "٣", "1 2", "999999999999999"])
def test_a_last_id_that_was_never_given_begins_now(world: World, last: str) -> None:
    world.bring_to(Stage.ASKED)
    with world.send(POLICE, "GET", STREAM, environ_overrides={"HTTP_LAST_EVENT_ID": last}, buffered=False) as answer:
        request_id = world.open()
        assert {data["id"] for _, data in told(answer)} == {request_id}


# Places


def free_places() -> int:
    return stream._open_streams._value


def test_every_way_a_stream_ends_gives_its_place_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before, listeners = free_places(), len(world.log.listeners)
    with listen(world, POLICE) as answer:
        next(iter(answer.response))
        assert free_places() == before - 1
        assert len(world.log.listeners) == listeners + 1
    with listen(world, POLICE):
        pass  # nobody read a line
    world.send(POLICE, "HEAD", STREAM).close()
    with monkeypatch.context() as full:
        full.setattr(world.log, "append", disk_is_full)
        is_problem(world.send(POLICE, "GET", STREAM), 503)
    assert free_places() == before
    assert len(world.log.listeners) == listeners


def disk_is_full(*_: object, **__: object) -> Any:
    raise OperationalError("INSERT", None, OSError("database or disk is full"))


def test_when_every_place_is_taken_the_next_is_told_to_come_back(world: World) -> None:
    taken = [listen(world, POLICE) for _ in range(free_places())]
    begun = world.heads()
    refused = world.send(POLICE, "GET", STREAM)
    assert is_problem(refused, 503)["type"].endswith("/too-many-streams")
    assert int(refused.headers["Retry-After"]) > 0
    assert world.heads() == begun
    taken.pop().close()
    with listen(world, ORIGIN) as answer:
        assert answer.status_code == 200
    for answer in taken:
        answer.close()


def test_a_stream_ends_before_its_token_does(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LONGEST_STREAM_SECONDS", 0.0)
    with listen(world, POLICE) as answer:
        assert list(answer.response) == [b"retry: 2000\n\n"]


def test_a_server_that_stops_need_not_wait_for_its_listeners(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 60.0)
    monkeypatch.setattr(stream, "LONGEST_STREAM_SECONDS", 60.0)
    call_of = world.node.app.view_functions["api.live_stream"]
    gateway = next(cell.cell_contents for cell in call_of.__closure__ if isinstance(cell.cell_contents, Gateway))
    with listen(world, POLICE) as answer:
        lines = iter(answer.response)
        assert next(lines) == b"retry: 2000\n\n"
        threading.Timer(0.2, gateway.hang_up).start()
        assert list(lines) == []
    gateway.closing.clear()


def test_a_stream_lives_no_longer_than_a_token() -> None:
    assert LONGEST_LIFETIME.total_seconds() > SHIPPED
