"""The gateway's tests once more, on PostgreSQL as it is deployed: every process under its own role, rows guarded by the
database. Nothing that a route may show or do is refused, and nothing else changes."""

from collections.abc import Iterator

import pytest

import services.node
from tests.gateway.world import World
from tests.real.postgresql_database import DeployedCore, a_database, a_server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "gateway_on_postgresql" in item.nodeid:
            item.add_marker(pytest.mark.real)
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with a_server() as server, a_database(server) as database:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                services.node,
                "Core",
                lambda _engine, _keys, reference, clock: DeployedCore(database, reference, clock),
            )
            world = World(tmp_path_factory.mktemp("node"))
        yield world
        world.node.stop()
