"""For how many beds an organisation has asked is the same for every gateway, on SQLite and PostgreSQL, and after a restart."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError

from events.log.engines import sqlite_engine
from services.gateway.asked_for import AskedFor, metadata
from services.gateway.limits import Limits
from services.gateway.principals import Principal
from services.gateway.problems import Problem
from tests.gateway.world import POLICE, World

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
A_DAY = timedelta(days=1)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = sqlite_engine(str(tmp_path / "asked_for.sqlite"))
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def police(world: World) -> Principal:
    return world.node.gateway.verifier.principal(world.token(POLICE))


def wait_of(store: AskedFor, beds: int, now: datetime = NOON, organisation: str = "police-1", size: int = 10) -> float:
    return store.take(organisation, "BE", beds, size, now)


@pytest.mark.attack(60)
def test_two_gateways_let_through_no_more_than_one(engine: sa.Engine, police: Principal) -> None:
    gateways = [Limits(beds_at_once=10, now=lambda: NOON, asked_for=AskedFor(engine)) for _ in range(2)]
    through = []

    def ask(gateway: Limits) -> None:
        with gateway.beds_for(police) as take:
            try:
                take(1)
            except Problem:
                return
            through.append(1)

    threads = [threading.Thread(target=ask, args=(gateways[number % 2],)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(through) == 10
    assert [gateway.stopped("BE")[0].times for gateway in gateways] == [20, 20], "each tells of what the other stopped"
    assert gateways[0].stopped("NL") == []


@pytest.mark.parametrize(
    ("later", "granted"),
    [(timedelta(0), False), (A_DAY / 10.1, False), (A_DAY / 9.9, True), (10 * A_DAY, True), (-A_DAY, False)],
)
def test_beds_come_back_over_a_day_and_never_by_a_clock_set_back(
    engine: sa.Engine, later: timedelta, granted: bool
) -> None:
    store = AskedFor(engine)
    assert not any(wait_of(store, 1) for _ in range(10))
    wait = wait_of(store, 1, NOON + later)
    assert (wait == 0) is granted
    assert granted or 0 < wait <= A_DAY.total_seconds() / 10 + 1


def test_a_clock_that_lags_behind_another_gateways_gives_nothing_back_early(engine: sa.Engine) -> None:
    ahead, behind = AskedFor(engine), AskedFor(engine)
    assert wait_of(ahead, 9, NOON + timedelta(hours=6)) == 0
    assert wait_of(behind, 1, NOON) == 0
    assert wait_of(ahead, 1, NOON + timedelta(hours=6)) > 0


def test_one_household_larger_than_all_of_it_is_let_through_when_nothing_was_taken(engine: sa.Engine) -> None:
    store = AskedFor(engine)
    assert wait_of(store, 40) == 0
    assert wait_of(store, 1) > 0
    assert wait_of(store, 1, organisation="police-2") == 0
    assert wait_of(store, 40, organisation="police-2") > 0


def test_what_was_given_back_is_there_and_no_more(engine: sa.Engine) -> None:
    store = AskedFor(engine)
    wait_of(store, 10)
    store.give_back("police-1", 4)
    assert wait_of(store, 5) > 0
    assert wait_of(store, 4) == 0
    store.give_back("police-1", 1000)
    assert wait_of(store, 10) == 0
    assert wait_of(store, 1) > 0


def test_who_was_stopped_long_ago_begins_to_count_anew(engine: sa.Engine) -> None:
    store = AskedFor(engine)
    for _ in range(3):
        wait_of(store, 8)
    assert [one.times for one in store.stopped("BE", NOON - A_DAY)] == [2]
    wait_of(store, 10, NOON + 2 * A_DAY)
    wait_of(store, 10, NOON + 2 * A_DAY)
    assert [(one.times, one.last) for one in store.stopped("BE", NOON + A_DAY)] == [(1, NOON + 2 * A_DAY)]


@pytest.mark.attack(61)
def test_what_cannot_be_counted_stops_nobody(
    engine: sa.Engine, police: Principal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A household waits; if the database is gone, its request cannot be kept either, and that says so."""

    def fails(*_: object) -> float:
        raise OperationalError("INSERT", None, OSError("database or disk is full"))

    gateway = Limits(beds_at_once=10, now=lambda: NOON, asked_for=AskedFor(engine))
    with monkeypatch.context() as broken:
        broken.setattr(AskedFor, "take", fails)
        for _ in range(30):
            with gateway.beds_for(police) as take:
                take(5)
    assert "beds were not counted" in caplog.text
    with gateway.beds_for(police) as take:
        take(10)


def test_a_mistake_of_ours_is_not_taken_for_a_database_in_trouble(
    engine: sa.Engine, police: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> float:
        raise IntegrityError("INSERT", None, Exception("NOT NULL"))

    monkeypatch.setattr(AskedFor, "take", wrong)
    with pytest.raises(IntegrityError), Limits(beds_at_once=10, asked_for=AskedFor(engine)).beds_for(police) as take:
        take(5)


def test_an_ordinary_request_writes_nothing_of_it(engine: sa.Engine, police: Principal) -> None:
    gateway, statements = Limits(600, 10, lambda: NOON, AskedFor(engine)), list[str]()
    sa.event.listen(engine, "before_cursor_execute", lambda *said: statements.append(said[2]))
    for _ in range(20):
        with gateway.request_of(police), gateway.stream_of(police):
            pass
    assert statements == []
    with gateway.beds_for(police) as take:
        take(1)
    assert len([one for one in statements if one.startswith("INSERT")]) == 1
