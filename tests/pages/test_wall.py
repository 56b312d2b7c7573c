"""A wall that nobody touches: it stays for a whole duty, and whoever walks up to it can do nothing with it."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from services.gateway.pages.sessions import IDLE, LONGEST
from tests.gateway.world import HOST, ORIGIN, POLICE, World
from tests.pages.reader import Reader, words


class LaterOn:
    """Real time, which the sessions live by."""

    def __init__(self) -> None:
        self.passed = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.passed


@pytest.fixture
def later(world: World, monkeypatch: pytest.MonkeyPatch) -> LaterOn:
    later = LaterOn()
    monkeypatch.setattr(world.node.sessions, "_now", later)
    return later


def a_wall(world: World) -> Reader:
    reader = Reader(world, ORIGIN)
    answer = reader.send("/board/wall")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/board?wall=1")
    return reader


def test_a_wall_is_not_locked_and_ends_with_the_duty(world: World, later: LaterOn) -> None:
    wall = a_wall(world)
    later.passed = LONGEST - timedelta(minutes=1)
    assert wall.get("/board?wall=1").status_code == 200
    later.passed = LONGEST + timedelta(minutes=1)
    assert wall.get("/board?wall=1").status_code == 303


def test_a_page_that_loads_itself_keeps_nobody_signed_in(world: World, later: LaterOn) -> None:
    for path, headers in (("/board", {"HX-Request": "true"}), ("/board?wall=1", {})):
        reader = Reader(world, ORIGIN)
        for _ in range(3):
            later.passed += IDLE / 2 + timedelta(seconds=1)
            answer = reader.get(path, headers=headers)
        assert answer.status_code in (204, 303), path


def test_a_wall_leads_nowhere_but_to_a_sign_in_that_asks_for_the_password(world: World) -> None:
    request_id = world.open()
    wall = a_wall(world)
    for path in ("/board", f"/requests/{request_id}", "/sessions", "/asks"):
        answer = wall.get(path)
        assert answer.status_code == 303, path
        assert parse_qs(urlsplit(answer.headers["Location"]).query)["max_age"] == ["0"], path
    assert wall.send(f"/requests/{request_id}/withdrawal", reason="danger_passed").status_code == 303
    assert world.view(request_id)["stage"] != "withdrawn"
    assert wall.get("/").status_code == 200, "whoever opens the first page is nobody"


def test_a_wall_shows_no_way_to_anything(world: World) -> None:
    request_id = world.open()
    said = a_wall(world).get("/board?wall=1").get_data(as_text=True)
    assert request_id not in said.replace(f"case-{request_id}", "")
    assert 'href="/sessions"' not in said
    assert 'href="/asks"' not in said
    assert "Sign in to do something" in said


def test_a_wall_listens(world: World) -> None:
    wall = a_wall(world)
    answer = wall.client.get("/live", base_url=world.node.settings.url, buffered=False)
    assert answer.mimetype == "text/event-stream"
    answer.close()


def test_what_a_wall_shows_is_written_down_and_only_when_it_changes(world: World) -> None:
    wall = a_wall(world)
    part = wall.get("/board?wall=1", headers={"HX-Request": "true"}).get_data(as_text=True)
    assert 'hx-trigger="moved from:#live"' in part, "nothing loads it but that something moved"


def test_who_put_it_there_is_signed_out_everywhere_with_it(world: World) -> None:
    wall = a_wall(world)
    world.node.sessions.end_all(ORIGIN.person)
    assert wall.get("/board?wall=1").status_code == 303


@pytest.mark.parametrize("who", [POLICE])
def test_only_a_focal_point_has_a_wall(world: World, who) -> None:
    assert Reader(world, who).send("/board/wall").status_code == 403
    assert "Board" in words(Reader(world, HOST).get("/board?wall=1"))
