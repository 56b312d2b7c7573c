"""For how many beds was asked, once more where several gateways share it: under the role of the gateway, in its table."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from events.log.engines import postgresql_engine
from tests.gateway.conftest import world
from tests.gateway.test_asked_for import *  # noqa: F403
from tests.gateway.test_asked_for import police
from tests.real.postgresql_database import Database, a_database, a_server

__all__ = ["police", "world"]

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with a_server() as server, a_database(server) as database:
        yield database


@pytest.fixture
def engine(database: Database) -> Iterator[sa.Engine]:
    engine = postgresql_engine(database.url("haven_gateway"))
    yield engine
    engine.dispose()
    database.admin("TRUNCATE gateway.asked_for")
