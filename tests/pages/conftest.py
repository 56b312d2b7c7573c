"""One node per test module."""

from collections.abc import Iterator

import pytest

from tests.gateway.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("node"))
    yield world
    world.node.stop()
