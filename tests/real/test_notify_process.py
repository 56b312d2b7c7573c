"""`haven notify` as it is deployed: its own process, its own role, a real gateway; killed and started again."""

import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

import services.node
from deploy.stack import HavenProcess
from services import cli
from services.gateway.read_model import ReadModel, moment_key
from tests.gateway import world as worlds
from tests.gateway.world import CALLBACK, HOST, RECEIVING, World
from tests.notifications.receivers import Gateway, a_gateway
from tests.real.postgresql_database import PASSWORDS, Database, DeployedCore, a_database, a_server

pytestmark = [pytest.mark.real, pytest.mark.slow]

URL = "https://haven.example"


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with a_server() as server, a_database(server) as database:
        yield database


@pytest.fixture(scope="module")
def world(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worlds, "START", datetime.now(UTC))  # the process has the real clock
        patch.setattr(
            services.node, "Core", lambda _engine, _keys, reference, clock: DeployedCore(database, reference, clock)
        )
        world = World(tmp_path_factory.mktemp("node"))
    yield world
    world.node.stop()


@pytest.fixture
def shelter() -> Iterator[Gateway]:
    with a_gateway() as gateway:
        yield gateway


@pytest.fixture
def coordinator() -> Iterator[Gateway]:
    with a_gateway() as gateway:
        yield gateway


@pytest.fixture
def settings(database: Database, shelter: Gateway, coordinator: Gateway, tmp_path: Path) -> dict[str, str]:
    url = database.url()
    for name, text in (
        ("haven_notifier_password", PASSWORDS["haven_notifier"]),
        (
            "notify-file",
            f"""
            [organisations.nl-shelter-01]
            role = "shelter"
            country = "NL"
            language = "nl"
            channels = {{ desk = "{shelter.address}" }}
            [organisations.nl-coordinator]
            role = "coordinator"
            country = "NL"
            language = "fr"
            channels = {{ duty = "{coordinator.address}" }}
            """,
        ),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    return {
        "HAVEN_DATABASE": f"postgresql://{url.host}:{url.port}/{url.database}",
        "HAVEN_SECRETS_DIR": str(tmp_path),
        "HAVEN_DATA_DIR": str(tmp_path),
        "HAVEN_PUBLIC_URL": URL,
        "HAVEN_NOTIFY_FILE": "notify-file",
    }


def until(what: str, is_so: Callable[[], object], seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends, what
        time.sleep(0.05)


def run_out(database: Database, sooner: timedelta) -> None:
    """Lets what is claimed run out so much sooner: claims go by the world's clock, which no test sets."""
    with database.engine().begin() as connection:
        claims = connection.exec_driver_sql(
            "SELECT DISTINCT claimed_until FROM gateway.rings WHERE claimed_until <> ''"
        )
        for until in claims.scalars().all():
            connection.execute(
                sa.text("UPDATE gateway.rings SET claimed_until = :sooner WHERE claimed_until = :until"),
                {"until": until, "sooner": moment_key(datetime.fromisoformat(until) - sooner)},
            )


def read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return str(answer.read().decode())


def test_a_shelter_is_rung_through_kills_and_nothing_is_said_of_the_case(
    world: World, database: Database, settings: dict[str, str], shelter: Gateway, coordinator: Gateway, tmp_path: Path
) -> None:
    process = HavenProcess(tmp_path / "notify", "notify", settings)
    with process:
        until("it says that it looks", lambda: world.done(world.get(HOST, "/call-list"))["people_are_rung"])
        shelter.hold.set()  # the gateway takes the message, and the process dies before it hears so
        request_id = world.open()
        until("the shelter's gateway is asked", lambda: shelter.asked)
        process.kill()
    run_out(database, timedelta(seconds=50))
    shelter.hold.clear()
    shelter.release.set()
    # Nobody is named for the neighbour: the focal point is rung, and finds it on its list.
    with process:
        until("the focal point is rung", lambda: coordinator.texts, 60)
        calls = world.done(world.get(HOST, "/call-list"))["calls"]
        assert {(call["shelter_id"], call["reason"]) for call in calls} >= {("nl-shelter-02", "not_rung")}
        # What the dead process had claimed is sent once its claim has run out.
        until("the shelter is rung again", lambda: shelter.asked >= 2, 180)
        until("it is counted", lambda: "haven_messages_sent_total" in read(f"{process.operations_url}/metrics"))
        metrics = read(f"{process.operations_url}/metrics")
        world.done(world.say_yes(request_id))
        world.done(world.withdraw(request_id))
    assert set(shelter.texts) == {f"Er wacht iets op u. {URL}/asks"}
    assert all(text.endswith(f" {URL}/board") for text in coordinator.texts)
    log = (tmp_path / "notify" / "log").read_text()
    sent = b"".join(shelter.raw + coordinator.raw).decode()
    for said in (log, metrics, sent.replace("Basic ", "")):
        for secret in (request_id, CALLBACK, "women", "BE21", "nl-shelter-02", "urgent"):
            assert secret not in said
    for secret in ("CURLEW-77", "127.0.0.1", "/hook", "wacht"):
        assert secret not in log + metrics.replace("process_", "")
    assert re.search(r'haven_messages_sent_total\{message="asked"\} [1-9]', metrics)


def test_the_role_that_rings_sees_no_case_even_when_it_asks(world: World, database: Database) -> None:
    world.bring_to(worlds.Stage.ASKED)
    engine = database.engine("haven_notifier")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM waits").scalar_one() > 0
    for table in ("requests", "request_parties", "asks", "units", "trail", "changes", "events", "page_sessions"):
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"), engine.connect() as connection:
            connection.exec_driver_sql(f"SELECT * FROM {table}")


def test_a_rebuild_pauses_the_ringing_and_ends_where_it_was(world: World, database: Database) -> None:
    world.bring_to(worlds.Stage.PROPOSED)
    log = world.core.projection.log
    logs = {name: world.core.followers[2].sources[name] for name in ("gateway", "placement", "capacity")}
    seen: list[list[str]] = []
    catch_up = world.core.projection.catch_up

    def look_in_between(*arguments: object) -> None:
        with log.engine.connect() as connection:
            seen.append(list(connection.exec_driver_sql("SELECT what FROM ringing ORDER BY what").scalars()))
        catch_up(*arguments)  # type: ignore[arg-type]

    world.core.projection.catch_up = look_in_between  # type: ignore[method-assign]
    before, after = world.core.projection.rebuild(logs)
    assert before == after == ReadModel(log.engine).digest()
    assert ["paused" in what for what in seen] == [False, True]
    with log.engine.connect() as connection:
        assert "paused" not in connection.exec_driver_sql("SELECT what FROM ringing").scalars().all()


def test_an_operator_can_send_a_test(
    settings: dict[str, str], shelter: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    told = CliRunner().invoke(cli.app, ["notify", "--test", "nl-shelter-01"])
    assert (told.exit_code, told.stdout) == (0, "desk: taken; see that it arrived\n")
    assert shelter.texts == [f"Dit is een test. Er wacht niets op u. {URL}/"]
    shelter.answers = 503
    told = CliRunner().invoke(cli.app, ["notify", "--test", "nl-shelter-01"])
    assert (told.exit_code, told.stdout) == (1, "desk: NOT TAKEN (Refused)\n")
    told = CliRunner().invoke(cli.app, ["notify", "--test", RECEIVING.organisation + "x"])
    assert told.exit_code == 2
    assert "nl-shelter-01, nl-coordinator" in told.output


@pytest.mark.parametrize("missing", ["HAVEN_PUBLIC_URL", "HAVEN_NOTIFY_FILE"])
def test_it_does_not_start_without_what_it_needs(
    settings: dict[str, str], missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        if name != missing:
            monkeypatch.setenv(name, value)
    told = CliRunner().invoke(cli.app, ["notify"])
    assert told.exit_code == 2
    assert f"{missing}: is missing" in told.output
