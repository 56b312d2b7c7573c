"""Whoever asks for too much is stopped, the others are not, and the focal points are told."""

import itertools
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from services.gateway import limits
from services.gateway.limits import AT_ONCE, STREAMS_AT_ONCE, Buckets, Limits
from services.gateway.principals import Principal
from services.gateway.problems import Problem
from tests.gateway.world import COLLEAGUE, HOST, ORIGIN, OTHER_POLICE, POLICE, PREFIX, Json, World, is_problem
from tests.pages.reader import Reader, words

BEDS = 30
HOUSEHOLD: Json = {"women": 10}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path, requests_per_minute=40, beds_at_once=BEDS)
    time = itertools.count()  # a thousandth of a second for each look at the clock, however slow the machine
    monkeypatch.setattr(limits, "monotonic", lambda: next(time) / 1000)
    yield world
    world.node.stop()


def send_opening(world: World, who: Any = POLICE, key: str = "") -> Any:
    body = {"urgency": "urgent", "danger_country": "BE", "household": HOUSEHOLD, "callback": "synthetic"}
    headers = {"Idempotency-Key": key or world.new_key()}
    return world.send(who, "POST", f"{PREFIX}/relocation-requests", json=body, headers=headers)


@pytest.mark.attack(60, 61)
def test_whoever_walks_through_ids_is_stopped_and_nobody_else(world: World) -> None:
    answers = [world.send(POLICE, "GET", f"{PREFIX}/relocation-requests/{n:032x}") for n in range(60)]
    assert {answer.status_code for answer in answers[:40]} == {404}
    problem = is_problem(answers[-1], 429)
    assert problem["type"].endswith("/too-many-requests")
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    assert world.send(COLLEAGUE, "GET", f"{PREFIX}/relocation-requests").status_code == 200


def test_a_page_that_asks_too_often_says_so_in_words(world: World) -> None:
    reader = Reader(world, POLICE)
    answers = [reader.get("/requests") for _ in range(60)]
    assert answers[0].status_code == 200
    assert answers[-1].status_code == 429
    assert "Too much was asked for" in words(answers[-1])


@pytest.mark.attack(58, 60)
def test_an_organisation_that_hoards_beds_is_stopped_whoever_sends_it_and_its_country_is_told(
    world: World,
) -> None:
    before = world.heads()["gateway"]
    for who in (POLICE, COLLEAGUE, POLICE):
        assert send_opening(world, who).status_code == 202
    kept = world.heads()["gateway"]
    assert kept == before + 3
    refused = send_opening(world, COLLEAGUE)
    assert is_problem(refused, 429)["type"].endswith("/too-many-beds")
    assert "focal point" in refused.json["detail"]
    assert world.heads()["gateway"] == kept, "nothing of it is kept"
    assert send_opening(world, OTHER_POLICE).status_code == 202
    assert send_opening(world, ORIGIN).status_code == 202, "the focal point can open what cannot wait"
    [told] = world.send(ORIGIN, "GET", f"{PREFIX}/alerts").json["asks_for_too_many"]
    assert (told["organisation"], told["country"], told["times"]) == (POLICE.organisation, "BE", 1)
    assert world.send(HOST, "GET", f"{PREFIX}/alerts").json["asks_for_too_many"] == []
    assert f"Phone {POLICE.organisation}: it asked for more beds" in words(Reader(world, ORIGIN).get("/board"))
    assert "more beds than one organisation may" not in words(Reader(world, HOST).get("/board"))
    world.now += timedelta(hours=25)
    assert send_opening(world).status_code == 202
    assert world.send(ORIGIN, "GET", f"{PREFIX}/alerts").json["asks_for_too_many"] == []


def test_a_repeated_request_takes_no_more_beds(world: World) -> None:
    answers = [send_opening(world, key="the-same-intent") for _ in range(10)]
    assert {answer.status_code for answer in answers} == {202}
    assert send_opening(world).status_code == send_opening(world).status_code == 202


def test_what_could_not_be_kept_takes_no_beds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise OperationalError("INSERT", None, OSError("database or disk is full"))

    with monkeypatch.context() as broken:
        broken.setattr(world.log, "writing", fails)
        assert {send_opening(world).status_code for _ in range(10)} == {503}
    assert [send_opening(world).status_code for _ in range(3)] == [202] * 3


def test_a_page_that_asks_for_too_many_beds_keeps_what_was_typed_and_says_whom_to_phone(world: World) -> None:
    for _ in range(3):
        send_opening(world)
    reader = Reader(world, POLICE)
    html = reader.get("/requests/new").get_data(as_text=True)
    command = html.partition('name="command" value="')[2].partition('"')[0]
    answer = reader.send(
        "/requests/new", command=command, urgency="urgent", danger_country="BE", women="3", callback="synthetic desk 7"
    )
    assert answer.status_code == 429
    assert "Phone the focal point" in words(answer)


# One at a time


@pytest.fixture
def police(world: World) -> Principal:
    return world.node.gateway.verifier.principal(world.token(POLICE))


@pytest.mark.attack(61)
def test_one_person_cannot_keep_every_thread_or_every_stream_busy(police: Principal) -> None:
    few = Limits(requests_per_minute=1000)
    with_all = [few.request_of(police) for _ in range(AT_ONCE)]
    for one in with_all:
        one.__enter__()
    with pytest.raises(Problem), few.request_of(police):
        pass
    with_all.pop().__exit__(None, None, None)
    with few.request_of(police):
        pass
    streams = [few.stream_of(police) for _ in range(STREAMS_AT_ONCE)]
    for one in streams:
        one.__enter__()
    with pytest.raises(Problem) as refused, few.stream_of(police):
        pass
    assert refused.value.code == "too-many-streams"


def test_what_ends_in_an_error_is_not_under_way_any_more(police: Principal) -> None:
    few = Limits(requests_per_minute=1000)
    for _ in range(AT_ONCE + 1):
        with pytest.raises(ZeroDivisionError), few.request_of(police):
            raise ZeroDivisionError


def test_of_many_at_once_as_many_get_through_as_may(police: Principal) -> None:
    now = datetime(2026, 11, 26, tzinfo=UTC)
    few, through = Limits(beds_at_once=10, now=lambda: now), []

    def ask() -> None:
        with few.beds_for(police) as take:
            try:
                take(1)
            except Problem:
                return
            through.append(1)

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(through) == 10
    assert few.stopped("BE")[0].times == 40


# The bucket


@pytest.mark.parametrize(("later", "granted"), [(0, False), (5.9, False), (6.1, True), (600, True), (-600, False)])
def test_a_bucket_fills_again_with_time_and_never_by_a_clock_set_back(later: float, granted: bool) -> None:
    bucket = Buckets(10, 60)
    assert not any(bucket.take("a", 1000) for _ in range(10))
    wait = bucket.take("a", 1000 + later)
    assert (wait == 0) is granted
    assert granted or 0 < wait <= 6


def test_the_memory_of_a_bucket_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MANY", 100)
    bucket = Buckets(10, 1)
    for number in range(1000):
        bucket.take(f"person-{number}", float(number))
    assert len(bucket._left) <= 101


def test_without_a_limit_nothing_is_counted(police: Principal) -> None:
    assert not any(Buckets(0, 60).take("a", 0) for _ in range(1000))
    unlimited = Limits()
    for _ in range(1000):
        with unlimited.request_of(police), unlimited.beds_for(police) as take:
            take(100)
