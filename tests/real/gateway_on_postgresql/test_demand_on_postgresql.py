"""What is counted of each request, on PostgreSQL as it is deployed: the gateway is told sums and can read no row."""

import pytest
from sqlalchemy.exc import ProgrammingError

from events.vocabulary import Stage
from services.gateway.demand import published_from
from tests.gateway.world import ORIGIN, World


@pytest.fixture(scope="module")
def counted(world: World) -> World:
    for stage in (Stage.CONFIRMED, Stage.CONFIRMED, Stage.UNMET_NEED, Stage.ERASED):
        world.bring_to(stage)
    return world


def test_the_database_adds_up(counted: World) -> None:
    rows = counted.core.read_model.counted(2026)
    assert sorted((one.country, one.host, one.missing, requests) for one, requests in rows) == [
        ("BE", "", "nothing", 1),
        ("BE", "", "support", 1),
        ("BE", "NL", "nothing", 2),
    ]
    assert counted.core.read_model.counted(2025) == []


def test_the_gateway_can_read_no_row(counted: World) -> None:
    with counted.core.gateway_log.engine.connect() as connection:
        for statement in ("SELECT * FROM demand", "DELETE FROM demand"):
            with pytest.raises(ProgrammingError) as failure:
                connection.exec_driver_sql(statement)
            assert failure.value.orig.sqlstate == "42501"
            connection.rollback()


def test_the_figures_are_out_in_february(counted: World) -> None:
    counted.now = published_from(2026)
    counted.core.settle()
    told = counted.done(counted.get(ORIGIN, "/demand"))
    assert told["year"] == 2026
    assert [one["requests"] for one in told["countries"]] == [None, None, None]
