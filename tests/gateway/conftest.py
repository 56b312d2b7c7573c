"""One node per test module."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from tests.gateway.world import World


@contextmanager
def one_connection_for_each_thread() -> Iterator[None]:
    """Fails when a thread took a second connection of a pool it already had one of: on PostgreSQL, where pools are small
    (services/connections.py), all threads could come to wait for each other like that."""
    holding = threading.local()
    second: list[str] = []

    def held() -> Counter[int]:
        if not hasattr(holding, "pools"):
            holding.pools = Counter()
        return holding.pools  # type: ignore[no-any-return]

    def taken(_driver: Any, record: Any, _proxy: Any) -> None:
        pool = id(record._ConnectionRecord__pool)
        held()[pool] += 1
        if held()[pool] > 1:
            second.append(threading.current_thread().name)

    def given_back(_driver: Any, record: Any) -> None:
        held()[id(record._ConnectionRecord__pool)] -= 1

    watched = {"checkout": taken, "checkin": given_back}
    for what, listener in watched.items():
        sa.event.listen(sa.Pool, what, listener)
    try:
        yield
    finally:
        for what, listener in watched.items():
            sa.event.remove(sa.Pool, what, listener)
    assert second == []


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with one_connection_for_each_thread():
        world = World(tmp_path_factory.mktemp("node"))
        yield world
        world.node.stop()
