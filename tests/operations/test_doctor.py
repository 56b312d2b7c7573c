"""What the doctor finds wrong with an installation, the remedy it names, and that it always comes to an end."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from events.kafka.connection import Broker
from events.kafka.layout import Layout
from events.key_file import load_or_create_key_file
from services.config import Settings
from services.operations import doctor
from services.operations.doctor import Finding, examine
from services.operations.installation import checks

SECRET = "PLOVER-41"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Somebody accepts there and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_every_finding_that_is_not_well_names_a_remedy_and_a_reason() -> None:
    assert Finding("disk", False, "full", "make room").reason == "full; make room"
    found = [Finding("disk", False, "full", "make room"), Finding("kafka", True, "answers")]
    assert doctor.reasons(found) == {"disk": "full; make room"}


# Examining


def test_checks_are_made_beside_each_other_and_told_in_their_order() -> None:
    both = threading.Barrier(2, timeout=20)

    def check(name: str) -> list[Finding]:
        both.wait()
        return [Finding(name, True, "well")]

    found = examine({"b": lambda: check("b"), "a": lambda: check("a")}, 20)
    assert [finding.name for finding in found] == ["b", "a"]
    assert all(finding.ok for finding in found)


def test_a_check_that_hangs_is_a_finding_after_its_time() -> None:
    go_on = threading.Event()
    began = time.monotonic()
    finding = only(examine({"issuer": lambda: [] if go_on.wait(60) else [Finding("late", True, "")]}, 0.05))
    go_on.set()
    assert time.monotonic() - began < 20
    assert not finding.ok
    assert finding.name == "issuer"
    assert finding.remedy


def test_a_check_that_raises_is_a_finding_without_what_it_said() -> None:
    def fall_ill() -> list[Finding]:
        raise KeyError(SECRET)

    finding = only(examine({"disk": fall_ill}, 5))
    assert not finding.ok
    assert "KeyError" in finding.finding
    assert SECRET not in str(finding)


def test_nothing_to_examine_is_nothing_found() -> None:
    assert examine({}) == []


# Settings and files


def test_settings_are_shown_without_what_is_secret_in_them() -> None:
    settings = Settings(
        database=f"postgresql://haven:{SECRET}@db:5432/haven", otlp_endpoint=f"http://me:{SECRET}@c:4318"
    )
    shown = doctor.redacted(settings)
    assert set(shown) == {f"HAVEN_{name.upper()}" for name in Settings.__struct_fields__}
    assert shown["HAVEN_DATABASE"] == "postgresql://…@db:5432/haven"
    assert SECRET not in str(shown)
    assert shown["HAVEN_SECRETS_DIR"] == str(settings.secrets_dir), "where secrets lie is no secret"


def test_a_setting_that_is_called_a_secret_is_not_shown() -> None:
    class Other(msgspec.Struct):
        api_token: str = SECRET
        client_secret: str = ""

    assert doctor.redacted(Other()) == {"HAVEN_API_TOKEN": "(set, not shown)", "HAVEN_CLIENT_SECRET": ""}


@pytest.mark.parametrize(("mode", "ok"), [(0o600, True), (0o400, True), (0o640, True), (0o644, False), (0o660, False)])
def test_a_secret_that_others_may_read_or_change_is_found(tmp_path: Path, mode: int, ok: bool) -> None:
    path = tmp_path / "haven_gateway_password"
    path.write_text(SECRET)
    path.chmod(mode)
    finding = only(doctor.private_files([path, tmp_path / "nothing"]))
    assert finding.ok is ok
    assert ok or finding.remedy == f"run: chmod 600 {path}"
    assert SECRET not in str(finding)


@pytest.mark.skipif(os.getuid() != 0, reason="only the administrator can give a file away")
def test_a_secret_that_belongs_to_somebody_else_is_found(tmp_path: Path) -> None:
    path = tmp_path / "key-file"
    path.write_text(SECRET)
    path.chmod(0o600)
    os.chown(path, 12345, -1)
    finding = only(doctor.private_files([path]))
    assert not finding.ok
    assert "chown" in finding.remedy


def test_a_key_file_is_read_and_its_keys_are_not_told(tmp_path: Path) -> None:
    path = tmp_path / "key-file"
    keys = load_or_create_key_file(path)
    finding = only(doctor.key_file(path))
    assert finding.ok
    assert keys.current in finding.finding
    assert path.read_text().split()[-1] not in str(finding)


@pytest.mark.parametrize("content", [None, "haven-key-file 1\nnot a key\n", ""])
def test_a_key_file_that_cannot_be_used_is_found(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "key-file"
    if content is not None:
        path.write_text(content)
        path.chmod(0o600)
    finding = only(doctor.key_file(path))
    assert not finding.ok
    assert str(path) in finding.finding
    assert finding.remedy


def test_a_disk_is_full_before_nothing_is_left_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "not" / "made" / "yet"
    assert str(tmp_path) in only(doctor.disk(missing)).finding
    sizes = {"total": 100 << 30, "used": 0, "free": 50 << 30}
    usage = type("Usage", (), sizes)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: usage)
    assert only(doctor.disk(tmp_path)).ok
    usage.free = 4 << 30
    assert not only(doctor.disk(tmp_path)).ok, "less than a twentieth"
    usage.total, usage.free = 2 << 30, 1 << 29
    assert not only(doctor.disk(tmp_path)).ok, "less than a gibibyte"
    usage.total, usage.free = 16 << 20, 15 << 20
    scratch = only(doctor.disk(tmp_path, scratch=True))
    assert (scratch.ok, scratch.finding) == (True, f"15.0 MiB of 16.0 MiB free at {tmp_path}"), (
        "memory, as the map has it"
    )
    usage.free = 3 << 20
    assert not only(doctor.disk(tmp_path, scratch=True)).ok


# Peers


def url(port: int) -> sa.URL:
    return sa.URL.create("postgresql+psycopg", "haven_gateway", SECRET, "127.0.0.1", port, "haven")


def test_a_database_that_is_not_there_is_found(closed_port: int) -> None:
    finding = only(doctor.database(url(closed_port), 1))
    assert not finding.ok
    assert f"127.0.0.1:{closed_port}" in finding.finding
    assert "HAVEN_DATABASE" in finding.remedy
    assert SECRET not in str(finding)


def test_a_database_that_says_nothing_is_found_within_a_bounded_time(silent_port: int) -> None:
    began = time.monotonic()
    finding = only(examine({"database": lambda: doctor.database(url(silent_port), 1)}))
    assert time.monotonic() - began < 30
    assert not finding.ok
    assert finding.remedy
    assert SECRET not in str(finding)


def test_a_broker_that_is_not_there_is_found(closed_port: int) -> None:
    broker = Broker((f"127.0.0.1:{closed_port}",), "haven_placement", SECRET)
    finding = only(doctor.kafka(broker, Layout()))
    assert not finding.ok
    assert "HAVEN_KAFKA" in finding.remedy
    assert SECRET not in str(finding)


def test_a_broker_that_says_nothing_is_found_within_a_bounded_time(silent_port: int) -> None:
    broker = Broker((f"127.0.0.1:{silent_port}",))
    began = time.monotonic()
    finding = only(examine({"kafka": lambda: doctor.kafka(broker, Layout())}))
    assert time.monotonic() - began < 30
    assert not finding.ok
    assert finding.remedy


@pytest.mark.parametrize("address", ["ftp://sign-in.example", "http://sign-in.example", "https://me:x@sign-in.example"])
def test_an_issuer_that_could_be_anybody_is_found(address: str) -> None:
    finding = only(doctor.issuer(address))
    assert not finding.ok
    assert "HAVEN_ISSUER" in finding.reason


def test_an_issuer_that_is_not_there_or_says_nothing_is_found(closed_port: int, silent_port: int) -> None:
    began = time.monotonic()
    for port in (closed_port, silent_port):
        finding = only(doctor.issuer(f"http://127.0.0.1:{port}/realms/haven"))
        assert not finding.ok
        assert "HAVEN_ISSUER" in finding.remedy
    assert time.monotonic() - began < 30


# What an installation needs


def installed(tmp_path: Path, *secrets: str, **settings: str) -> Settings:
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o700)
    for name in secrets:
        (folder / name).write_text(SECRET)
        (folder / name).chmod(0o600)
    return Settings(secrets_dir=folder, data_dir=tmp_path / "data", **settings)


def test_an_embedded_node_has_neither_database_nor_broker_to_examine(tmp_path: Path) -> None:
    settings = installed(tmp_path)
    assert set(checks(settings, 1)) == {"disk", "files"}
    settings.data_dir.mkdir()
    load_or_create_key_file(settings.data_dir / "key-file")
    assert set(checks(settings, 1)) == {"disk", "files", "key file"}
    assert all(finding.ok for finding in examine(checks(settings, 1)) if finding.name != "file data")


def test_a_process_is_examined_under_every_role_it_has_a_password_for(tmp_path: Path, closed_port: int) -> None:
    settings = installed(
        tmp_path,
        "haven_placement_password",
        "haven_placement_kafka_password",
        "haven_eraser_password",
        database=f"postgresql://127.0.0.1:{closed_port}/haven",
        kafka=f"127.0.0.1:{closed_port}",
        kafka_ca_file=str(tmp_path / "ca.pem"),
        issuer=f"http://127.0.0.1:{closed_port}",
    )
    wanted = checks(settings, 1)
    assert set(wanted) == {
        "database as haven_eraser",
        "database as haven_placement",
        "disk",
        "files",
        "issuer",
        "kafka as haven_placement",
    }
    bad = {finding.name: finding for finding in examine(wanted) if not finding.ok}
    assert set(bad) == {"database as haven_eraser", "database as haven_placement", "issuer", "kafka as haven_placement"}
    assert all(finding.remedy for finding in bad.values())
    assert SECRET not in str(bad)


def test_a_stream_has_no_key_file_and_nothing_is_wrong_with_it(tmp_path: Path, closed_port: int) -> None:
    peers = {"database": f"postgresql://127.0.0.1:{closed_port}/haven", "issuer": f"http://127.0.0.1:{closed_port}"}
    settings = installed(tmp_path, "haven_gateway_password", **peers)
    wanted = checks(settings, 1)
    assert "sign-in to pages" not in wanted
    stream = only(examine({"key file": wanted["key file"]}))
    assert stream.ok
    assert "haven stream" in stream.finding
    (settings.secrets_dir / "pages_client_secret").write_text(SECRET)
    gateway = only(examine({"key file": checks(settings, 1)["key file"]}))
    assert not gateway.ok
    assert "haven keys create" in gateway.remedy


@pytest.mark.parametrize(("secret", "said"), [(None, "cannot be read"), ("", "is empty"), ("\n", "is empty")])
def test_a_gateway_whose_pages_cannot_sign_anybody_in_is_found(
    tmp_path: Path, closed_port: int, secret: str | None, said: str
) -> None:
    peers = {"database": f"postgresql://127.0.0.1:{closed_port}/haven", "issuer": f"http://127.0.0.1:{closed_port}"}
    settings = installed(tmp_path, "haven_gateway_password", "key-file", **peers)
    path = settings.secret_file("pages_client_secret")
    if secret is not None:
        path.write_text(secret)
        path.chmod(0o600)
    check = {"sign-in to pages": checks(settings, 1)["sign-in to pages"]}
    (bad,) = examine(check)
    assert (bad.ok, "pages_client_secret" in bad.remedy, said in bad.remedy) == (False, True, True)
    path.write_text(SECRET)
    path.chmod(0o600)
    (good,) = examine(check)
    assert good.ok
    assert SECRET not in str(good)


def test_a_doctor_without_any_password_says_that_it_can_examine_nothing(tmp_path: Path) -> None:
    settings = installed(tmp_path, database="postgresql://127.0.0.1/haven", kafka="127.0.0.1:1", kafka_ca_file="ca.pem")
    bad = [finding for finding in examine(checks(settings, 1)) if not finding.ok]
    assert [finding.name for finding in bad] == ["database", "kafka"]
    assert all("HAVEN_SECRETS_DIR" in finding.remedy for finding in bad)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"database": "postgresql://me:PLOVER-41@127.0.0.1/haven"}, "HAVEN_DATABASE"),
        ({"database": "mysql://127.0.0.1/haven"}, "HAVEN_DATABASE"),
        ({"kafka": "kafka.example:9092"}, "HAVEN_KAFKA_CA_FILE"),
        ({"kafka": "127.0.0.1"}, "HAVEN_KAFKA"),
    ],
)
def test_a_setting_that_cannot_be_used_is_a_finding(tmp_path: Path, settings: dict[str, str], name: str) -> None:
    found = examine(checks(installed(tmp_path, "haven_placement_password", **settings), 1))
    (bad,) = [finding for finding in found if not finding.ok]
    assert bad.finding == name
    assert bad.remedy
    assert SECRET not in str(bad)
