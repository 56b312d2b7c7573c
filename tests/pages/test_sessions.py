"""Who is signed in at the pages: only the cookie opens a session, and a session ends when it should."""

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from events.log.engines import sqlite_engine
from services.gateway.pages.sessions import IDLE, LOCKED_FOR, LONGEST, Session, Sessions, session_id_of
from services.gateway.principals import Principal
from tests.gateway.world import HOST, POLICE, World

NOW = datetime(2026, 11, 26, 3, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(tmp_path: Path, clock: Clock) -> Sessions:
    sessions = Sessions(sqlite_engine(str(tmp_path / "sessions.sqlite")), clock)
    sessions.create_schema()
    return sessions


@pytest.fixture(scope="module")
def police(world: World) -> Principal:
    return world.node.gateway.verifier.principal(world.token(POLICE))


@pytest.mark.attack(36)
def test_only_its_cookie_opens_a_session(sessions: Sessions, police: Principal) -> None:
    cookie = sessions.begin(Session(csrf="c", principal=police))
    found = sessions.find(cookie)
    assert found is not None
    assert found.principal == police
    for other in (cookie[:-1], cookie + "x", "", session_id_of(cookie), "\udcff", "a" * 10_000):
        assert sessions.find(other) is None


def test_the_database_says_nothing_of_what_a_session_holds(
    sessions: Sessions, police: Principal, tmp_path: Path
) -> None:
    sessions.begin(Session(csrf="form-token", principal=police, id_token="canary-id"))
    held = (tmp_path / "sessions.sqlite").read_bytes() + (tmp_path / "sessions.sqlite-wal").read_bytes()
    for secret in (b"form-token", b"canary", police.token_id.encode()):
        assert secret not in held


def test_what_somebody_changed_in_the_database_opens_nothing(
    sessions: Sessions, police: Principal, tmp_path: Path
) -> None:
    one, other = (sessions.begin(Session(csrf=csrf, principal=police)) for csrf in "ab")
    with sqlite3.connect(tmp_path / "sessions.sqlite") as database:
        [(sealed,)] = database.execute(
            "SELECT sealed FROM page_sessions WHERE session_id = ?", (session_id_of(other),)
        ).fetchall()
        database.execute("UPDATE page_sessions SET sealed = ? WHERE session_id = ?", (sealed, session_id_of(one)))
    assert sessions.find(one) is None
    assert sessions.find(other) is not None


@pytest.mark.parametrize(("passes", "is_there"), [(IDLE - timedelta(seconds=1), True), (IDLE, False)])
@pytest.mark.attack(36)
def test_a_page_that_nobody_touches_is_locked(
    sessions: Sessions, clock: Clock, police: Principal, passes: timedelta, is_there: bool
) -> None:
    cookie = sessions.begin(Session(csrf="c", principal=police))
    clock.now += passes
    assert (sessions.find(cookie) is not None) is is_there


def test_a_locked_session_says_for_an_hour_whose_it_was_and_an_ended_one_says_nothing(
    sessions: Sessions, clock: Clock, police: Principal
) -> None:
    cookie, ended = (sessions.begin(Session(csrf="c", principal=police)) for _ in range(2))
    sessions.end(ended)
    clock.now += IDLE + LOCKED_FOR - timedelta(seconds=1)
    sessions.forget_ended()
    assert sessions.find(cookie) is None
    assert sessions.of(police.person) == []
    locked = sessions.locked(cookie)
    assert locked is not None
    assert locked.principal == police
    assert sessions.locked(ended) is None
    clock.now += timedelta(seconds=1)
    assert sessions.locked(cookie) is None
    sessions.forget_ended()
    clock.now -= LOCKED_FOR
    assert sessions.locked(cookie) is not None, "to the second"
    clock.now += LOCKED_FOR + timedelta(seconds=1)
    sessions.forget_ended()
    clock.now -= LOCKED_FOR
    assert sessions.locked(cookie) is None


def test_whoever_goes_on_working_stays_signed_in_until_the_duty_is_over(
    sessions: Sessions, clock: Clock, police: Principal
) -> None:
    cookie = sessions.begin(Session(csrf="c", principal=police))
    ends = NOW + LONGEST
    while clock.now + timedelta(minutes=10) < ends:
        clock.now += timedelta(minutes=10)
        assert sessions.find(cookie) is not None
    clock.now = ends
    assert sessions.find(cookie) is None
    sessions.forget_ended()
    assert sessions.of(police.person) == []


def test_somebody_sees_and_ends_their_own_sessions_and_nobody_elses(
    sessions: Sessions, world: World, police: Principal
) -> None:
    host = world.node.gateway.verifier.principal(world.token(HOST))
    mine, mine_too = (sessions.begin(Session(csrf="c", principal=police)) for _ in range(2))
    theirs = sessions.begin(Session(csrf="c", principal=host))
    assert {one.session_id for one in sessions.of(police.person)} == {session_id_of(mine), session_id_of(mine_too)}
    sessions.end_one(police.person, session_id_of(theirs))
    assert sessions.find(theirs) is not None
    sessions.end_one(police.person, session_id_of(mine))
    assert sessions.find(mine) is None
    sessions.end_all(police.person)
    assert sessions.find(mine_too) is None
    assert sessions.find(theirs) is not None


def test_a_session_shows_nothing_in_a_traceback(police: Principal) -> None:
    assert repr(Session(csrf="c", principal=police, id_token="i")) == "Session()"
