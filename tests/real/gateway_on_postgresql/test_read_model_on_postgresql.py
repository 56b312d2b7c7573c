"""What rebuilds the read model sees all three logs and every row, and has it alone; who shows it sees none without saying for whom."""

import threading
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from events.log.alone import without_others
from events.log.engines import is_database_trouble, postgresql_engine
from events.log.errors import OthersWrite
from events.log.store import EventLog
from events.vocabulary import Stage
from services.gateway.projection import Projection, projection_log
from services.gateway.read_model import ReadModel
from services.migrate import latest
from tests.gateway.world import World

Logs = dict[str, EventLog]
TAKEN_FROM_KAFKA = "id-of-a-topic/3"


@pytest.fixture
def logs(world: World) -> Iterator[Logs]:
    url = world.core.projection.log.engine.url
    logs = {name: EventLog(postgresql_engine(url, name), name) for name in ("gateway", "placement", "capacity")}
    yield logs
    for log in logs.values():
        log.engine.dispose()


@pytest.fixture
def operators(world: World) -> Iterator[Projection]:
    """The projection of `haven rebuild`, as in another process than the worker's (`world.core.projection`)."""
    log = projection_log(postgresql_engine(world.core.projection.log.engine.url), latest())
    yield Projection(log)
    log.engine.dispose()


def test_the_projection_builds_the_read_model_again_from_all_three_logs(world: World, logs: Logs) -> None:
    world.bring_to(Stage.ENDED)
    before, after = world.core.projection.rebuild(logs)
    assert before == after
    rows = "SELECT count(*) FROM requests"
    with world.core.projection.log.engine.connect() as its_own:
        assert its_own.exec_driver_sql(rows).scalar_one() > 0
    with world.core.gateway_log.engine.connect() as whoever_shows_it:
        assert whoever_shows_it.exec_driver_sql(rows).scalar_one() == 0


def test_a_worker_waits_while_the_read_model_is_rebuilt_and_goes_on_after_it(
    world: World, logs: Logs, operators: Projection, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.bring_to(Stage.ASKED)
    log, catch_up, failures = world.core.projection.log, operators.catch_up, []

    def somebody_writes_meanwhile(*arguments: object) -> None:
        with pytest.raises(sa.exc.OperationalError) as failure, log.writing():
            raise AssertionError("a worker wrote into a read model that is half there")
        failures.append(failure.value)
        catch_up(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(operators, "catch_up", somebody_writes_meanwhile)
    before, after = operators.rebuild(logs)
    assert before == after
    assert len(failures) == 2
    assert all(map(is_database_trouble, failures)), "a worker tries that again, and gives up on no message for it"
    with log.writing() as tx:
        tx.connection.exec_driver_sql("SELECT 1")


def test_people_and_workers_go_on_while_it_is_rebuilt_and_nothing_is_lost_or_differs(
    world: World, logs: Logs, operators: Projection
) -> None:
    (follower,) = [one for one in world.core.followers if one.consumer is world.core.projection.consumer]
    done, told = threading.Event(), []

    def work() -> None:
        while not done.is_set():
            try:
                follower.step()
            except Exception as failure:  # noqa: BLE001 - each is looked at below
                told.append(is_database_trouble(failure))
            time.sleep(0.01)

    worker = threading.Thread(target=work)
    worker.start()
    digests = []
    try:
        for _ in range(3):
            world.bring_to(Stage.OFFERED)
            digests.append(operators.rebuild(logs))
    finally:
        done.set()
        worker.join(30)
    assert all(before == after for before, after in digests)
    assert all(told)
    world.core.settle()
    assert world.core.projection.consumer.parked() == []
    now = ReadModel(operators.log.engine).digest()
    assert operators.rebuild(logs) == (now, now)


def test_what_was_taken_from_kafka_need_not_be_read_again(world: World, logs: Logs, operators: Projection) -> None:
    with world.core.projection.log.writing() as tx:
        world.core.projection.consumer.move_cursor(tx, TAKEN_FROM_KAFKA, 41, "event-41")
    operators.rebuild(logs)
    assert world.core.projection.consumer.bookmark(TAKEN_FROM_KAFKA) == (41, "event-41")


def test_a_rebuild_that_died_leaves_no_worker_believing_that_all_was_taken(
    world: World, logs: Logs, operators: Projection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.core.projection.log.writing() as tx:
        world.core.projection.consumer.move_cursor(tx, TAKEN_FROM_KAFKA, 42, "event-42")
    catch_up, calls = operators.catch_up, iter(range(2))

    def dies_after_the_rows_are_gone(*arguments: object) -> None:
        if next(calls):
            raise KeyboardInterrupt
        catch_up(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(operators, "catch_up", dies_after_the_rows_are_gone)
    with pytest.raises(KeyboardInterrupt):
        operators.rebuild(logs)
    assert world.core.projection.consumer.bookmark(TAKEN_FROM_KAFKA) == (0, "")
    world.core.settle()  # whoever follows by position takes everything again by itself
    monkeypatch.undo()
    now = ReadModel(operators.log.engine).digest()
    assert operators.rebuild(logs) == (now, now)


def test_two_rebuilds_at_once_are_refused_in_words(world: World, logs: Logs, operators: Projection) -> None:
    now = ReadModel(operators.log.engine).digest()
    with without_others(world.core.projection.log), pytest.raises(OthersWrite, match="in another process's hands"):
        operators.rebuild(logs)
    assert ReadModel(operators.log.engine).digest() == now, "nothing was dropped"
    assert operators.rebuild(logs) == (now, now)


def test_a_rebuild_whose_lock_is_gone_writes_nothing_more(
    world: World, logs: Logs, operators: Projection, monkeypatch: pytest.MonkeyPatch
) -> None:
    catch_up = operators.catch_up
    taken = iter(range(2))

    def loses_its_session(*arguments: object) -> None:
        catch_up(*arguments)  # type: ignore[arg-type]
        if next(taken) == 0:
            holder = operators.log.keeps_out
            assert holder is not None
            pid = holder.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            with operators.log.engine.connect() as connection:  # a role may end sessions of its own
                connection.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")

    now = ReadModel(operators.log.engine).digest()
    monkeypatch.setattr(operators, "catch_up", loses_its_session)
    with pytest.raises(sa.exc.OperationalError):
        operators.rebuild(logs)
    assert ReadModel(operators.log.engine).digest() == now, "the rows are still there: workers may write again"
    with world.core.projection.log.writing() as tx:
        tx.connection.exec_driver_sql("SELECT 1")
