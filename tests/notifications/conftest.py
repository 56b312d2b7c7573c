"""Databases with what waits and what is rung, on each kind of store in turn."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from events.log.engines import postgresql_engine, sqlite_engine
from services.gateway import read_model, ringing


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """A database that several processes share."""
    if request.param == "sqlite":
        engine = sqlite_engine(str(tmp_path / "gateway.db"))
    else:
        engine = postgresql_engine(request.getfixturevalue("postgres_url"))
    for metadata in (read_model.metadata, ringing.metadata):
        metadata.create_all(engine)
    yield engine
    engine.dispose()
