"""The coordinators' alerts where each service has a schema of its own: counted by the database, seen without its tables."""

from collections.abc import Iterator

import pytest
from sqlalchemy.exc import ProgrammingError

from events.kafka import dead_letters
from events.kafka.dead_letters import DeadLetter
from services.gateway.alert_routes import SetAside, set_aside_on_postgresql
from tests.real.postgresql_database import Database, a_database, a_server

pytestmark = pytest.mark.real


@pytest.fixture
def database() -> Iterator[Database]:
    with a_server() as server, a_database(server) as database:
        yield database


def a_letter(letter_id: str, given_up_at: str | None, reason: str = "failed") -> DeadLetter:
    return DeadLetter(
        id=letter_id,
        consumer="placement",
        topic="haven.gateway",
        partition=0,
        position=1,
        reason=reason,
        first_at="2026-11-25T12:00:00+00:00",
        retry_at=None if given_up_at else "2026-11-25T12:00:01+00:00",
        given_up_at=given_up_at,
    )


def test_what_was_given_up_is_counted_by_service_and_reason_and_nothing_more_is_seen(database: Database) -> None:
    placement, capacity = database.engine("haven_placement"), database.engine("haven_capacity")
    with placement.begin() as connection:
        dead_letters.keep(connection, a_letter("one", "2026-11-25T12:05:00+00:00"))
        dead_letters.keep(connection, a_letter("two", "2026-11-25T12:03:00+00:00"))
        dead_letters.keep(connection, a_letter("three", None))
    with capacity.begin() as connection:
        dead_letters.keep(connection, a_letter("four", "2026-11-25T12:04:00+00:00", "forked"))
    gateway = database.engine("haven_gateway")
    assert set_aside_on_postgresql(gateway)() == [
        SetAside(service="capacity", reason="forked", count=1, since="2026-11-25T12:04:00+00:00"),
        SetAside(service="placement", reason="failed", count=2, since="2026-11-25T12:03:00+00:00"),
    ]
    with pytest.raises(ProgrammingError, match="permission denied"), gateway.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM placement.dead_letters")
    with placement.begin() as connection:
        dead_letters.settle(connection, "one")
        dead_letters.settle(connection, "two")
    assert [alert.service for alert in set_aside_on_postgresql(gateway)()] == ["capacity"]
