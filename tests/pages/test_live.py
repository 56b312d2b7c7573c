"""The live stream of the pages: opened by the cookie, and it says ids alone."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.gateway import feed
from services.gateway.alert_routes import SetAside
from services.gateway.pages import live
from services.gateway.ringing import Ringing
from tests.gateway.world import AUDITOR, ORIGIN, POLICE, Who, World
from tests.pages.reader import Reader, words


def test_a_coordinator_hears_that_a_request_moved(world: World) -> None:
    reader = Reader(world, ORIGIN)
    answer = reader.client.get("/live", base_url=world.node.settings.url, buffered=False)
    assert answer.status_code == 200
    assert answer.mimetype == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-store"
    lines = answer.response
    assert next(lines).startswith(b"retry: ")
    request_id = world.open()
    event = next(line for line in lines if b"data:" in line).decode()
    said = json.loads(event.partition("data: ")[2])
    assert said.keys() == {"kind", "id", "revision"}
    assert said["id"] == request_id or said["kind"] == "unit"
    answer.close()


def beats(world: World, monkeypatch: pytest.MonkeyPatch, who: Who, changes: Sequence[Callable[[], None]]) -> list[Any]:
    """What the beats of a stream say at first, and after each of these changes."""
    monkeypatch.setattr(feed, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(feed, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(live, "ASKED_EVERY", 0.0)
    answer = Reader(world, who).client.get("/live", base_url=world.node.settings.url, buffered=False)
    lines = iter(answer.response)
    said = []
    for change in (lambda: None, *changes):
        change()
        line = next(line for line in lines if line.startswith(b"event: beat")).decode()
        said.append(json.loads(line.partition("data: ")[2]))
    answer.close()
    return said


def test_a_beat_marks_what_boards_show_and_no_change_tells_of(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def now(name: str, answer: object) -> Callable[[], None]:
        return lambda: monkeypatch.setitem(world.node.gateway.__dict__, name, lambda: answer)

    unrung = Ringing(is_on=True, unrung=frozenset({"one"}))
    held = [SetAside(service="placement", reason="failed", count=2)]
    changes = (
        now("ringing", Ringing(is_on=True)),
        now("ringing", unrung),
        now("set_aside", held),
        now("set_aside", []),
    )
    marks = [one["unheard"] for one in beats(world, monkeypatch, ORIGIN, changes)]
    assert len(set(marks)) == 4
    assert marks[4] == marks[2], "the same again is nothing new"
    page = Reader(world, ORIGIN).get("/board").get_data(as_text=True)
    assert f'data-unheard="{marks[4]}"' in page
    assert "one" not in marks[2]


def test_only_focal_points_are_told_that_something_is_set_aside(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert beats(world, monkeypatch, POLICE, ()) == [{}]


def test_a_mark_is_asked_for_once_for_all_who_listen() -> None:
    asked = []
    mark = live.Unheard(lambda: str(asked.append("once")))
    assert mark() == mark() == mark()
    assert asked == ["once"]


def test_an_auditor_has_no_stream(world: World) -> None:
    answer = Reader(world, AUDITOR).get("/live")
    assert answer.status_code == 403
    assert "Your role cannot do this" in words(answer)


def test_opening_the_stream_is_written_down(world: World) -> None:
    before = world.log.head()
    reader = Reader(world, ORIGIN)
    answer = reader.client.get("/live", base_url=world.node.settings.url, buffered=False)
    assert world.log.head() == before + 1
    answer.close()


def test_an_open_board_asks_for_what_stands_now_and_nothing_around_it(world: World) -> None:
    reader = Reader(world, ORIGIN)
    part = reader.get("/board", headers={"HX-Request": "true"}).get_data(as_text=True)
    assert '<div id="standing"' in part
    assert "<html" not in part
    assert "<script" not in part


def test_nothing_is_said_after_a_session_has_ended_but_that_the_page_must_look(world: World) -> None:
    reader = Reader(world, ORIGIN)
    answer = reader.client.get("/live", base_url=world.node.settings.url, buffered=False)
    lines = answer.response
    assert next(lines).startswith(b"retry: ")
    world.node.sessions.end(reader.cookie)
    world.open()
    assert list(lines) == [b"event: moved\ndata: {}\n\n"]
    answer.close()
    part = reader.get("/board", headers={"HX-Request": "true"})
    assert (part.status_code, part.headers["HX-Refresh"], part.data) == (204, "true", b"")


@pytest.mark.parametrize("why", ["nobody is signed in", "it is time to ask the issuer"])
def test_a_stream_never_leads_to_the_sign_in_but_has_the_page_load_itself(
    world: World, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    reader = Reader(world, ORIGIN)
    if why == "nobody is signed in":
        world.node.sessions.end(reader.cookie)
    else:
        monkeypatch.setattr(world.node.site.login, "asks_again", True)
        monkeypatch.setattr(world.node.site.login, "now", lambda: datetime.now(UTC) + timedelta(minutes=6))
    answer = reader.get("/live", headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer.mimetype) == (200, "text/event-stream")
    assert answer.get_data(as_text=True).endswith("event: moved\ndata: {}\n\n")
    part = reader.get("/board", headers={"HX-Request": "true"})
    assert (part.status_code, part.headers["HX-Refresh"]) == (204, "true")
