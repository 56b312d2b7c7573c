"""There are connections to PostgreSQL for every process that may run, also while each is being replaced."""

import math
import re
from pathlib import Path

import pytest
import yaml

from events.log.engines import sqlite_engine
from services.config import read_settings
from services.connections import AT_ONCE, HEADROOM, POOLS, engine_of, most_of
from services.migrate import ROLES
from tests.gateway.conftest import one_connection_for_each_thread

ROOT = Path(__file__).resolve().parent.parent.parent
POSTGRES = ROOT / "deploy/postgres"
LIMITS = {
    role: int(limit)
    for role, limit in re.findall(
        r"^ +\('(haven_\w+)', +'\w*', +(\d+),", (POSTGRES / "roles.sql").read_text(), re.MULTILINE
    )
}
SETTINGS = dict(re.findall(r"^(\w+) = (\d+)\b", (POSTGRES / "postgresql.conf").read_text(), re.MULTILINE))
OF_PROCESSES = sorted({pool.role for pools in POOLS.values() for pool in pools.values()})
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
PEOPLE = {"haven_migrator", "haven_auditor"}
"""Who comes by hand, one at a time."""


def test_every_role_has_a_limit() -> None:
    assert LIMITS.keys() == set(ROLES)
    assert set(ROLES) - set(OF_PROCESSES) == PEOPLE
    assert {LIMITS[role] for role in PEOPLE} == {4}


@pytest.mark.parametrize("role", OF_PROCESSES)
def test_a_role_may_hold_what_its_processes_may(role: str) -> None:
    together = AT_ONCE * sum(most_of(kind, role) for kind in POOLS)
    assert LIMITS[role] == math.ceil(together * HEADROOM)


def test_the_server_has_room_for_every_role_at_its_limit_and_for_its_administrator() -> None:
    places = int(SETTINGS["max_connections"]) - int(SETTINGS["superuser_reserved_connections"])
    assert sum(LIMITS.values()) <= places
    assert int(SETTINGS["superuser_reserved_connections"]) >= 3


def test_operators_are_told_the_same() -> None:
    told = (ROOT / "docs/operations.md").read_text()
    rows = re.findall(r"^\| (\w+) \| `(haven_\w+)` \| (\d+) \| (\d+) \|$", told, re.MULTILINE)
    assert rows == [
        (kind, role, str(most_of(kind, role)), str(LIMITS[role]))
        for kind, pools in POOLS.items()
        for role in dict.fromkeys(pool.role for pool in pools.values())
    ]
    assert f"they are {sum(LIMITS.values())} of the server's {SETTINGS['max_connections']}" in told


def test_every_process_of_the_map_can_be_doubled_and_then_replaced_one_beside_the_other() -> None:
    kinds = {name: service for name, service in SERVICES.items() if service.get("command", [""])[1:2] == [name]}
    assert POOLS.keys() <= kinds.keys()
    for kind in POOLS:
        assert max(2, kinds[kind].get("scale", 1)) * 2 <= AT_ONCE, kind
    in_turn = re.findall(r"server-template (\w+) (\d+) ", (ROOT / "deploy/proxy/haproxy.cfg").read_text())
    assert dict(in_turn) == {kind: str(AT_ONCE) for kind in ("gateway", "stream")}


@pytest.mark.parametrize("kind", POOLS)
def test_a_process_holds_no_more_than_it_may_and_shows_its_name(kind: str, tmp_path: Path) -> None:
    for purpose, pool in POOLS[kind].items():
        secret = tmp_path / f"{pool.role}_password"
        secret.write_text("for-tests-only")
        secret.chmod(0o600)
        settings = read_settings(
            {
                "HAVEN_DATABASE": "postgresql://127.0.0.1:1/haven?sslmode=disable",
                "HAVEN_SECRETS_DIR": str(tmp_path),
                "HAVEN_WORKER_NAME": "a-host.of-ours",
            }
        )
        engine = engine_of(settings, kind, purpose)
        assert (engine.pool.size(), engine.pool._max_overflow) == (pool.most, 0)  # type: ignore[attr-defined]
        assert re.fullmatch(rf"haven {kind} \d+ a-host\.of-ours", str(engine.url.query["application_name"]))
        assert engine.url.username == pool.role


def test_the_watch_over_the_gateway_sees_a_second_connection(tmp_path: Path) -> None:
    engine = sqlite_engine(f"{tmp_path / 'log.sqlite'}")
    with one_connection_for_each_thread():
        for _ in range(2):
            engine.connect().close()
    with pytest.raises(AssertionError), one_connection_for_each_thread(), engine.connect(), engine.connect():
        pass
