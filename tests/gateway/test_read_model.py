"""What is shown follows from the logs alone: rebuilt, or read in any other order, it is the same to the byte."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from events.capacity import UnitRegistered
from events.envelope import Event, UnreadableEvent, system_actor
from events.log.engines import sqlite_engine
from events.log.store import EventLog
from events.vocabulary import Stage
from services.gateway.projection import Projection
from services.gateway.read_model import AVAILABILITY, TABLES, ReadModel
from services.gateway.views import view_of_unit
from tests.gateway.world import ABROAD, GUARDIAN, HOST, INVENTORY, ORIGIN, POLICE, RECEIVING, World

Logs = dict[str, list[tuple[int, Event | UnreadableEvent]]]


@pytest.fixture(scope="module")
def stories(world: World) -> World:
    """A world in which everything has happened at least once."""
    for stage in (Stage.ENDED, Stage.ASTRAY, Stage.UNMET_NEED, Stage.REFUSED, Stage.WITHDRAWN, Stage.ERASED):
        world.bring_to(stage)
    world.done(world.erase(world.bring_to(Stage.REFUSED)))
    minor = world.open(household={"children_12_to_17": 1, "age_status": "presumed_minor"})
    yes = {"scope": "placement", "country": "NL", "given": True, "by": "guardian"}
    world.done(world.act(GUARDIAN, minor, "consent", yes))
    both = world.bring_to(Stage.OFFERED)
    world.done(world.say_yes(both, ABROAD))
    world.done(world.propose(both, ABROAD))
    world.later(hours=2, minutes=1)  # holds run out, proposals lapse, questions are asked again
    waiting = world.bring_to(Stage.CONFIRMED)
    world.done(world.consent(waiting, "placement", given=False))
    unit = f"/shelters/{RECEIVING.organisation}/units/{RECEIVING.organisation}-u1/capacity"
    seen = world.get(RECEIVING, unit)
    report = {
        "beds": 200,
        "free": 10,
        "blocked": 3,
        "blocked_because": "repair",
        "blocked_until": "2026-11-24T12:00:00+01:00",
    }
    world.done(world.ask(RECEIVING, "PUT", unit, report, If_Match=seen.headers["ETag"]))
    for who in (POLICE, ORIGIN, HOST, RECEIVING):
        world.get(who, "/relocation-requests")
    world.later(days=3)
    return world


@pytest.fixture(scope="module")
def logs(stories: World) -> Logs:
    return {source: log.read_all(limit=100_000) for source, log in stories.core.logs.items()}


def test_a_rebuild_gives_the_same_bytes(stories: World) -> None:
    before, after = stories.core.projection.rebuild(stories.core.logs)
    assert before == after
    assert stories.core.projection.rebuild(stories.core.logs) == (after, after)


def test_two_rebuilt_models_that_differ_have_different_digests(stories: World) -> None:
    """Every table counts, or a rebuild could not tell that it had gone wrong."""
    digest = stories.core.read_model.digest()
    for table in TABLES:
        for change in (
            f"UPDATE {table.name} SET {text_column(table)} = {text_column(table)} || ' '",
            f"DELETE FROM {table.name}",
        ):
            with stories.log.writing() as tx:
                tx.connection.execute(sa.text(change))
            before, after = stories.core.projection.rebuild(stories.core.logs)
            assert before != digest, change
            assert after == digest, change


def text_column(table: sa.Table) -> str:
    return [column.name for column in table.columns if isinstance(column.type, sa.Text)][-1]


def test_a_rebuild_destroys_and_appends_nothing(stories: World) -> None:
    heads = stories.heads()
    stories.core.projection.rebuild(stories.core.logs)
    stories.core.settle()
    assert stories.heads() == heads


def test_a_rebuild_that_was_interrupted_goes_on_where_it_was(stories: World, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = stories.core.read_model.digest()
    with monkeypatch.context() as dies:
        dies.setattr(stories.core.projection, "catch_up", lambda *_: None)
        stories.core.projection.rebuild(stories.core.logs)
    assert stories.core.read_model.digest() != digest
    stories.core.settle()
    assert stories.core.read_model.digest() == digest


# Any order


@st.composite
def interleavings(draw: st.DrawFn, sizes: dict[str, int]) -> list[tuple[str, int]]:
    """Runs of the three logs in some order: from which log, and how many events come next."""
    left, order = dict(sizes), []
    while any(left.values()):
        source = draw(st.sampled_from(sorted(source for source, count in left.items() if count)))
        size = draw(st.integers(1, max(1, left[source] // 2) if left[source] > 60 else left[source]))
        order.append((source, size))
        left[source] -= size
    return order


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_in_whatever_order_the_logs_are_read_the_model_is_the_same(
    stories: World, logs: Logs, data: st.DataObject
) -> None:
    order = data.draw(interleavings({source: len(events) for source, events in logs.items()}))
    rest = {source: iter(events) for source, events in logs.items()}
    assert (
        digest_of((next(rest[source]) for _ in range(size)) for source, size in order)
        == stories.core.read_model.digest()
    )


def digest_of(runs: Iterator[Any]) -> str:
    """The digest of a new read model that was given these runs, one after the other."""
    engine = sqlite_engine(":memory:")
    log = EventLog(engine, "gateway")
    log.create_schema()
    projection = Projection(log)
    for run in runs:
        projection.consumer.deliver_batch(list(run))
    digest = ReadModel(engine).digest()
    engine.dispose()
    return digest


def test_one_log_after_the_other_or_all_twice_is_the_same_too(stories: World, logs: Logs) -> None:
    digest = stories.core.read_model.digest()
    for order in (("capacity", "placement", "gateway"), ("placement", "gateway", "capacity")):
        assert digest_of(logs[source] for source in order) == digest
        assert digest_of(logs[source] for source in (*order, *order)) == digest


def test_with_one_event_less_it_is_not(stories: World, logs: Logs) -> None:
    digest = stories.core.read_model.digest()
    for source in logs:
        assert digest_of(logs[s][:-1] if s == source else logs[s] for s in logs) != digest


# What it says


def test_every_beds_of_a_unit_are_somewhere(stories: World) -> None:
    for unit in stories.core.read_model.units([AVAILABILITY]):
        parts = ("free", "held", "occupied", "blocked", "taken")
        assert unit["beds"] == sum(unit[part] for part in parts), unit["unit_id"]


def test_the_view_is_where_placement_is(stories: World) -> None:
    for view in stories.core.read_model.requests(["coordinator:BE"], None, 1000):
        stream = f"relocation_request-{view['request_id']}"
        with stories.core.placement_log.writing() as tx:
            state = stories.core.placement.runner.state(tx, stream)
            assert view["revision"] == tx.stream_version(stream)
        assert view["stage"] == state.stage
        assert {ask_id: ask["state"] for ask_id, ask in view["asks"].items()} == {
            ask_id: ask.stage for ask_id, ask in state.asks.items()
        }
        assert (view["proposal"] or {}).get("hash", "") == state.proposal_hash


def test_a_registered_unit_is_shown_before_its_first_report(world: World) -> None:
    profile = msgspec.structs.replace(INVENTORY[0].profile, unit_id="new")
    event = Event(
        id="event-1",
        source="capacity",
        stream="unit-new",
        version=1,
        time=world.now,
        actor=system_actor("capacity"),
        correlation_id="event-1",
        causation_id="event-1",
        data=UnitRegistered(unit_id="new", profile=profile, beds=4),
    )
    view = view_of_unit(None, event)
    assert view is not None
    assert view.keys() == world.core.read_model.units([AVAILABILITY])[0].keys()
    assert (view["beds"], view["free"], view["freshness"]) == (4, 0, "not_reported")


def test_beds_of_a_household_that_left_are_shown_as_being_made_ready(tmp_path: Path) -> None:
    world = World(tmp_path)
    unit = world.view(world.bring_to(Stage.ENDED))["proposal"]["unit_id"]
    shown = world.done(world.get(RECEIVING, f"/shelters/{RECEIVING.organisation}/units/{unit}/capacity"))
    assert (shown["blocked"], shown["blocked_because"]) == (1, "turnover")
    world.node.stop()


LISTS: dict[str, Callable[[ReadModel], object]] = {
    "requests": lambda model: model.requests(["referrer:be-police-antwerp"], None, 20),
    "open requests": lambda model: model.requests(["referrer:be-police-antwerp"], None, 20, only_open=True),
    "open asks": lambda model: model.requests_with_open_asks(["shelter:nl-shelter-01"]),
    "answered asks": lambda model: model.requests_with_answered_asks(
        ["shelter:nl-shelter-01"], None, 20, shelter_id="nl-shelter-01"
    ),
    "one ask": lambda model: model.request_with_ask("ask", ["shelter:nl-shelter-01"]),
}


@pytest.mark.parametrize("name", LISTS)
def test_no_list_goes_through_all_there_ever_was(tmp_path: Path, name: str) -> None:
    """What is asked for every few seconds finds its rows by an index, however many cases have ended."""
    engine = sqlite_engine(tmp_path / "model.db")
    TABLES[0].metadata.create_all(engine)
    asked: list[tuple[str, Any]] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *it: asked.append((it[2], it[3])))
    LISTS[name](ReadModel(engine))
    [(query, values)] = [(query, values) for query, values in asked if "requests" in query]
    with engine.connect() as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values)]
    assert not [step for step in plan if step.startswith("SCAN") and step != "SCAN asks USING INDEX ix_asks_open"], plan
