"""What a service set aside is on the coordinators' board, by how many and why, and by nothing else."""

from events.vocabulary import Role
from tests.gateway.world import AUDITOR, ESCORT, ORIGIN, POLICE, World

ALERTS = "/api/v1/alerts"


def set_aside(world: World) -> list[dict]:
    answer = world.send(ORIGIN, "GET", ALERTS)
    assert answer.status_code == 200
    return answer.json["set_aside"]


def test_nothing_is_set_aside_when_all_is_well(world: World) -> None:
    assert set_aside(world) == []


def test_an_event_of_a_newer_release_is_an_alert_until_it_is_taken_up(world: World) -> None:
    consumer = world.core.placement.consumer
    record = (
        '{"id":"from-the-future","source":"capacity","stream":"unit-x","version":1,'
        '"data":{"type":"capacity.unit.teleported.v7","to":"elsewhere"}}'
    )
    with world.core.capacity_log.writing() as tx:
        tx.connection.exec_driver_sql(
            "INSERT INTO events (id, stream, version, type, record) "
            "VALUES ('from-the-future', 'unit-x', 1, 'capacity.unit.teleported.v7', ?)",
            (record,),
        )
    world.core.settle()
    assert {"service": "placement", "reason": "unreadable", "count": 1, "since": None} in set_aside(world)
    assert "teleported" not in world.send(ORIGIN, "GET", ALERTS).text
    for log, left in ((consumer.log, ["gateway"]), (world.core.gateway_log, [])):  # the read model has its own copy
        with log.writing() as tx:
            tx.connection.exec_driver_sql("DELETE FROM parked")
        assert [alert["service"] for alert in set_aside(world)] == left


def test_what_waits_behind_another_is_counted_once(world: World) -> None:
    consumer = world.core.placement.consumer
    with consumer.log.writing() as tx:
        for version, reason in ((1, "failed"), (2, "behind"), (4, "early")):
            tx.connection.exec_driver_sql(
                "INSERT INTO parked (consumer, source, stream, version, reason, record) VALUES (?, 'gateway', 's', ?, ?, '{}')",
                (consumer.name, version, reason),
            )
    assert set_aside(world) == [{"service": "placement", "reason": "failed", "count": 1, "since": None}]
    with consumer.log.writing() as tx:
        tx.connection.exec_driver_sql("DELETE FROM parked")


def test_only_coordinators_are_told(world: World) -> None:
    for account in (POLICE, ESCORT, AUDITOR):
        assert account.role is not Role.COORDINATOR
        assert world.send(account, "GET", ALERTS).status_code == 403
    assert world.send(None, "GET", ALERTS).status_code == 401
