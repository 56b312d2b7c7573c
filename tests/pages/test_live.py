"""The live stream of the pages: opened by the cookie, and it says ids alone."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.gateway.world import AUDITOR, ORIGIN, World
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
