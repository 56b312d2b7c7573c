"""What is not for somebody and what is not there cannot be told apart: neither by what is said, nor by the work it takes.

Time itself is not measured: on a busy machine it says anything. The statements that the database is given, and the events that are read
for them, are what takes the time.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from events.log import store
from events.vocabulary import Role, Stage
from services.gateway.pages import PAGES
from services.gateway.routing import Rule
from tests.gateway.test_every_route_is_guarded import ABOUT_A_REQUEST, attempt, name_of
from tests.gateway.world import (
    ABROAD,
    ESCORT,
    HOME,
    HOST,
    MISSING,
    NEIGHBOUR,
    OTHER_HOST,
    OTHER_POLICE,
    PREFIX,
    RECEIVING,
    World,
)
from tests.pages.reader import Reader

READ = "an event is read"
STRANGERS = (OTHER_POLICE, OTHER_HOST, HOST, HOME, ESCORT)


@pytest.fixture
def work(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """What the gateway's database was asked for, and how often an event was read, since the last time."""
    done: list[str] = []

    def remember(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        done.append(statement)

    def counted(record: str) -> Any:
        done.append(READ)
        return decode(record)

    def counted_each(records: Any) -> Any:
        done.extend([READ] * len(records))
        return decode_many(records)

    decode, decode_many = store.decode, store.decode_many
    monkeypatch.setattr(store, "decode", counted)
    monkeypatch.setattr(store, "decode_many", counted_each)
    engine = world.log.engine
    sa.event.listen(engine, "before_cursor_execute", remember)

    def taken() -> list[str]:
        now = list(done)
        done.clear()
        return now

    yield taken
    sa.event.remove(engine, "before_cursor_execute", remember)


@pytest.fixture(scope="module")
def theirs(world: World) -> str:
    return world.bring_to(Stage.WITHDRAWN)


@pytest.mark.attack(44)
@pytest.mark.parametrize("rule", ABOUT_A_REQUEST, ids=name_of)
def test_a_route_does_the_same_work_for_a_case_of_others_and_for_none(
    world: World, rule: Rule, theirs: str, work: Callable[[], list[str]]
) -> None:
    for who in STRANGERS:
        if who.role not in rule.roles:
            continue
        attempt(world, rule, who, MISSING)  # whatever is done the first time only
        work()
        missing = attempt(world, rule, who, MISSING)
        for_missing = work()
        foreign = attempt(world, rule, who, theirs)
        assert foreign.status_code == missing.status_code == 404, (name_of(rule), who.organisation)
        assert foreign.data == missing.data
        assert sorted(foreign.headers) == sorted(missing.headers)
        for_foreign = work()
        assert [one for one in for_foreign if one != READ] == for_missing
        assert for_foreign.count(READ) <= 1, "to see whether it is theirs"


@pytest.mark.attack(38, 44)
def test_an_ask_of_others_takes_the_work_of_none(world: World, work: Callable[[], list[str]]) -> None:
    request_id = world.bring_to(Stage.OFFERED)
    theirs = world.ask_to(request_id, RECEIVING)
    no = {"accept": False, "decline": "no_space"}
    for who in (NEIGHBOUR, ABROAD, HOME, OTHER_HOST):
        said = {}
        for ask_id in (MISSING, theirs, MISSING, theirs):  # whatever is done the first time only is done then
            work()
            answers = [world.send(who, "GET", f"{PREFIX}/asks/{ask_id}")]
            if who.role is Role.SHELTER:
                key = {"Idempotency-Key": world.new_key()}
                answers.append(world.send(who, "POST", f"{PREFIX}/asks/{ask_id}/answer", json=no, headers=key))
            assert {answer.status_code for answer in answers} == {404}, who.organisation
            said[ask_id] = [answer.data for answer in answers], work()
        assert said[theirs] == said[MISSING], who.organisation


@pytest.mark.attack(44)
def test_a_page_says_the_same_of_a_case_of_others_and_of_none(world: World, theirs: str) -> None:
    tried = 0
    for who, page in itertools.product(STRANGERS, PAGES):
        if page.method != "GET" or "<request_id>" not in page.path or who.role not in page.roles:
            continue
        reader = Reader(world, who)
        said = [
            (answer.status_code, answer.get_data(as_text=True).replace(one, "ID").replace(nonce(answer), "NONCE"))
            for one in (theirs, MISSING)
            for answer in [reader.get(page.path.replace("<request_id>", one))]
        ]
        assert said[0][0] == 404, (page.path, who.organisation)
        assert said[0] == said[1], (page.path, who.organisation)
        tried += 1
    assert tried > 10


def nonce(answer: Any) -> str:
    return str(answer.headers["Content-Security-Policy"].partition("'nonce-")[2].partition("'")[0])
