"""What an operator reads when a command cannot be done: one line with what to do, exit status 2, and no traceback."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from events.kafka import dead_letters
from events.key_file import load_or_create_key_file
from events.log.schema import metadata
from services import cli, clock, operator
from services.clock import ExerciseClock, clock_of
from services.config import read_settings


def haven(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, arguments)


def refused(result: Result) -> str:
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert len(result.output.strip().splitlines()) == 1
    return result.output


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sa.Engine:
    """In place of PostgreSQL, with nothing in it."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'database'}")
    secret = tmp_path / "haven_placement_password"
    secret.write_text("PLOVER-41")
    secret.chmod(0o600)
    monkeypatch.setenv("HAVEN_DATABASE", "postgresql://127.0.0.1:1/haven")
    monkeypatch.setenv("HAVEN_SECRETS_DIR", str(tmp_path))
    monkeypatch.setattr(operator, "postgresql_engine", lambda _url: engine)
    return engine


@pytest.mark.parametrize("command", [["list"], ["show", "x"], ["replay", "x"], ["dismiss", "x"]])
def test_a_database_that_was_not_migrated_is_said_in_one_line(database: sa.Engine, command: list[str]) -> None:
    assert database.dialect.name == "sqlite"
    assert "database cannot be used" in refused(haven("dead-letters", *command))


def test_a_dead_letter_that_is_settled_at_that_moment_is_gone(
    database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata.create_all(database)
    dead_letters.metadata.create_all(database)

    def settled(_connection: sa.Connection, letter_id: str, _now: datetime) -> None:
        raise dead_letters.NoSuchDeadLetter(letter_id)

    with database.begin() as connection:
        letter = dead_letters.DeadLetter(
            id="letter-1", consumer="placement", topic="t", partition=0, position=1, reason="malformed", first_at="x"
        )
        dead_letters.keep(connection, letter)
    monkeypatch.setattr(dead_letters, "replay", settled)
    assert "no dead letter letter-1" in refused(haven("dead-letters", "replay", "letter-1"))


def test_a_key_file_that_is_not_there_or_cannot_be_made_is_said_in_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "key-file"
    assert str(missing.parent) in refused(haven("keys", "create", str(missing)))
    assert str(missing) in refused(haven("keys", "rotate", str(missing)))


def test_the_node_does_not_start_with_a_key_file_that_others_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAVEN_DATA_DIR", str(tmp_path))
    load_or_create_key_file(tmp_path / "key-file")
    (tmp_path / "key-file").chmod(0o644)
    assert "can be read or changed by others" in refused(haven("run"))


# The clock of an exercise


def test_an_exercise_begins_in_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    settings = read_settings({"HAVEN_EXERCISE_SPEED": "300", "HAVEN_DATA_DIR": str(tmp_path / "not" / "there")})
    first, second = clock_of(settings), clock_of(settings)
    assert isinstance(first, ExerciseClock)
    assert abs(first() - second()) < timedelta(hours=1), "every process of an exercise has its time"


def test_an_exercise_does_not_go_back_when_the_machines_clock_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime(2026, 11, 25, 12, tzinfo=UTC)
    steady = clock.SteadyClock
    monkeypatch.setattr(clock, "SteadyClock", lambda: steady(lambda: now))
    time = clock_of(read_settings({"HAVEN_EXERCISE_SPEED": "300", "HAVEN_DATA_DIR": str(tmp_path)}))
    now += timedelta(minutes=1)
    before = time()
    now -= timedelta(seconds=30)
    assert time() == before
