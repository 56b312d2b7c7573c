"""Synthetic shelters come where nobody works yet, and nowhere else."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from events.log.store import EventLog
from reference import load
from services import cli, operator
from services.seeding import OtherUnitsHere, SomebodyWorksHere, seed, seed_for_trying_out
from simulation.inventory import synthetic_inventory
from tests.events.drafts import a_draft

NOW = datetime(2026, 11, 26, 3, tzinfo=UTC)
INVENTORY = synthetic_inventory(1, load())[:5]
EVERY_EVENT = 2 * len(INVENTORY)


def test_an_empty_installation_gets_them_and_a_second_time_changes_nothing(log: EventLog) -> None:
    for _ in range(2):
        seed_for_trying_out(log, INVENTORY, NOW)
        assert len(log.read_all()) == EVERY_EVENT


def test_a_seeding_that_died_half_way_is_finished(log: EventLog) -> None:
    seed(log, INVENTORY[:2], NOW)
    seed_for_trying_out(log, INVENTORY, NOW)
    assert len(log.read_all()) == EVERY_EVENT


def test_where_somebody_works_nothing_is_invented(log: EventLog) -> None:
    log.append([a_draft("relocation_request-somebodys")])
    with pytest.raises(SomebodyWorksHere, match="real households"):
        seed_for_trying_out(log, INVENTORY, NOW)
    assert len(log.read_all()) == 1


def test_where_it_was_tried_out_it_may_be_asked_for_again(log: EventLog) -> None:
    seed_for_trying_out(log, INVENTORY, NOW)
    log.append([a_draft("relocation_request-somebodys")])
    seed_for_trying_out(log, INVENTORY, NOW)  # as with every start of the map's profile demo
    assert len(log.read_all()) == EVERY_EVENT + 1


def test_a_half_seeded_installation_that_somebody_works_with_is_left_alone(log: EventLog) -> None:
    seed(log, INVENTORY[:2], NOW)
    log.append([a_draft("relocation_request-somebodys")])
    with pytest.raises(SomebodyWorksHere):
        seed_for_trying_out(log, INVENTORY, NOW)
    assert len(log.read_all()) == 2 * 2 + 1


def test_another_inventory_is_not_put_beside_the_first(log: EventLog) -> None:
    seed_for_trying_out(log, INVENTORY, NOW)
    with pytest.raises(OtherUnitsHere):
        seed_for_trying_out(log, INVENTORY[:4], NOW)
    assert len(log.read_all()) == EVERY_EVENT


@pytest.mark.parametrize("issuer", ["https://sign-in.example/realms/haven", "https://localhost.example/realms/haven"])
def test_real_people_and_invented_shelters_do_not_meet(issuer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAVEN_DATABASE", "postgresql://127.0.0.1:1/haven")
    monkeypatch.setenv("HAVEN_ISSUER", issuer)
    answer = CliRunner().invoke(cli.app, ["seed"])
    assert answer.exit_code == 2
    assert "haven seed --exercise" in answer.output
    assert "Nothing was registered" in answer.output


@pytest.mark.parametrize(
    ("issuer", "arguments"),
    [
        ("https://keycloak.localhost:8443/realms/haven", []),
        ("http://127.0.0.1:8081/realms/haven", []),
        ("", []),
        ("https://sign-in.example/realms/haven", ["--exercise"]),
    ],
)
def test_where_it_is_tried_out_or_was_said_to_be_an_exercise_they_come(
    issuer: str, arguments: list[str], log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "haven_gateway_password"
    secret.write_text("PLOVER-41")
    secret.chmod(0o600)
    monkeypatch.setenv("HAVEN_DATABASE", "postgresql://127.0.0.1:1/haven")
    monkeypatch.setenv("HAVEN_SECRETS_DIR", str(tmp_path))
    if issuer:
        monkeypatch.setenv("HAVEN_ISSUER", issuer)
    monkeypatch.setattr(operator, "postgresql_engine", lambda _url: log.engine)
    monkeypatch.setattr("services.migrate.latest", lambda: None)
    monkeypatch.setattr("simulation.inventory.synthetic_inventory", lambda *_: INVENTORY)
    answer = CliRunner().invoke(cli.app, ["seed", *arguments])
    assert (answer.exit_code, answer.output) == (0, f"{len(INVENTORY)} synthetic units are registered.\n")
    assert len(log.read_all()) == EVERY_EVENT
