"""The real parts themselves: nothing unchecked is run, what was promised to the disk is kept, and nothing is left behind."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import psycopg
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import KafkaError, TopicAuthorizationFailedError

from deploy import process as deploy_process
from deploy.artifacts import PartUnavailable, WrongContent, kafka_jars
from deploy.parts import Kafka, Keycloak, PostgreSQL
from deploy.process import Part, PartFailed

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[2]
PARTS = [sys.executable, "-m", "deploy.parts"]


class Mirror(ThreadingHTTPServer):
    """A Maven repository with the jars of this machine's cache. Breaks off the first answer for a path in `cut`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(MirrorHandler, directory=str(folder)))
        self.folder = folder
        self.requests: Counter[str] = Counter()
        self.cut: set[str] = set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class MirrorHandler(SimpleHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        self.server.requests[self.path] += 1
        if Path(self.path).name in self.server.cut and self.server.requests[self.path] == 1:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"half a jar")
            return
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Says nothing: the test asks `requests`."""


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_part) -> Iterator[Mirror]:
    """The only repository there is, and an empty cache."""
    folder = tmp_path / "mirror"
    try:
        jars = kafka_jars()
    except PartUnavailable as failure:
        without_part("kafka", failure)
    shutil.copytree(Path(os.path.commonpath(jars)), folder)
    server = Mirror(folder)
    threading.Thread(target=server.serve_forever).start()
    monkeypatch.setenv("HAVEN_PARTS_MAVEN", server.url)
    monkeypatch.setenv("HAVEN_PARTS_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()


def only(folder: Path, name: str) -> Path:
    (file,) = folder.rglob(name)
    return file


def test_a_jar_altered_in_the_cache_is_refused_and_removed(mirror: Mirror, tmp_path: Path) -> None:
    kafka_jars()
    jar = only(tmp_path / "cache", "kafka-clients-*.jar")
    jar.write_bytes(jar.read_bytes() + b" ")

    with pytest.raises(WrongContent, match="altered"):
        kafka_jars()

    assert not jar.exists()
    kafka_jars()
    assert jar.exists()


def test_a_repository_that_serves_another_jar_is_not_believed(mirror: Mirror, tmp_path: Path) -> None:
    only(mirror.folder, "kafka-clients-*.jar").write_bytes(b"another jar")

    with pytest.raises(WrongContent, match="do not use that repository"):
        kafka_jars()

    assert [
        file.name for file in (tmp_path / "cache").rglob("*") if re.search(r"kafka-clients|download", file.name)
    ] == ["kafka-clients"]


def test_a_broken_download_is_tried_again(mirror: Mirror) -> None:
    jar = only(mirror.folder, "kafka-clients-*.jar")
    mirror.cut.add(jar.name)
    kafka_jars()
    assert mirror.requests[f"/{jar.relative_to(mirror.folder)}"] == 2


def test_two_processes_that_fetch_at_once_both_have_everything_and_download_it_once(mirror: Mirror) -> None:
    both = [subprocess.Popen([*PARTS, "fetch", "kafka"], cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert set(mirror.requests.values()) == {1}
    assert len(mirror.requests) == len(kafka_jars())


def remember(part: Part, what: str) -> None:
    if isinstance(part, Kafka):
        with KafkaProducer(**part.client(), acks="all") as producer:
            producer.send("kept", what.encode()).get(30)
    else:
        with psycopg.connect(plain(part)) as connection:
            connection.execute("INSERT INTO kept VALUES (%s)", [what])


def remembered(part: Part) -> list[str]:
    if isinstance(part, Kafka):
        with KafkaConsumer(**part.client(), auto_offset_reset="earliest", consumer_timeout_ms=10_000) as consumer:
            partition = TopicPartition("kept", 0)
            consumer.assign([partition])
            last = consumer.end_offsets([partition])[partition]
            return [next(consumer).value.decode() for _ in range(last)]
    with psycopg.connect(plain(part)) as connection:
        return [what for (what,) in connection.execute("SELECT what FROM kept")]


def prepare(part: Part) -> None:
    if isinstance(part, Kafka):
        admin = KafkaAdminClient(**part.client())
        admin.create_topics([NewTopic("kept", 1, 1)])
        admin.close()
    else:
        with psycopg.connect(plain(part)) as connection:
            connection.execute("CREATE TABLE kept (what text)")


def plain(part: Part) -> str:
    assert isinstance(part, PostgreSQL)
    return part.url.replace("+psycopg", "")


@pytest.fixture(params=[Kafka, PostgreSQL], ids=["kafka", "postgresql"])
def own(request: pytest.FixtureRequest, own_part) -> Part:
    part = own_part(request.param)
    prepare(part)
    return part


def test_what_was_acknowledged_outlives_a_crash_at_the_same_address(own: Part) -> None:
    address = own.address()
    for life in ("first", "second"):
        remember(own, life)
        own.kill()
        assert not own.running
        own.start()
    assert remembered(own) == ["first", "second"]
    assert own.address() == address
    assert type(own)(own.folder).address() == address


def test_an_orderly_stop_keeps_everything(own: Part) -> None:
    remember(own, "before")
    own.stop()
    own.start()
    assert remembered(own) == ["before"]


def test_a_wiped_part_comes_back_empty_at_the_same_address(own: Kafka | PostgreSQL) -> None:
    address = own.address()
    remember(own, "lost")
    own.wipe()
    own.start()
    prepare(own)
    assert remembered(own) == []
    assert own.address() == address


def test_a_paused_part_answers_nobody_until_it_is_resumed(own: Part) -> None:
    answer: list[list[str]] = []
    asking = threading.Thread(target=lambda: answer.append(remembered(own)))
    remember(own, "before")
    own.pause()
    asking.start()
    asking.join(2)
    assert answer == []
    own.resume()
    asking.join(30)
    assert answer == [["before"]]


def test_a_paused_part_can_be_stopped_in_order(own: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "kill", lambda: pytest.fail("it had to be killed"))
    own.pause()
    own.stop()
    assert not own.running


def test_two_cannot_run_in_one_folder(own: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(own), "stop_timeout", 0.2)
    with pytest.raises(PartFailed, match="in use"):
        type(own)(own.folder).start()
    assert own.running


def test_a_part_that_cannot_start_says_what_its_log_says(own_part) -> None:
    with pytest.raises(PartFailed, match="no_such_setting"):
        own_part(lambda folder: PostgreSQL(folder, settings={"no_such_setting": "1"}))
    with pytest.raises(PartFailed, match=r"log\.retention\.ms"):
        own_part(lambda folder: Kafka(folder, settings={"log.retention.ms": "many"}))


def test_a_cluster_may_be_given_any_id(own_part, monkeypatch: pytest.MonkeyPatch) -> None:
    # One in sixty-four begins with a dash once it is written in base64, and was taken for an option.
    monkeypatch.setattr("uuid.uuid4", lambda: uuid.UUID(int=0xF8 << 120))
    assert own_part(Kafka).running


def processes_in(folder: Path) -> list[str]:
    """The command lines of all processes that work in a folder or were told of it."""
    found = []
    for process in psutil.process_iter(["cwd", "cmdline"]):
        told = " ".join(process.info["cmdline"] or [])
        if str(folder) in told or (process.info["cwd"] or "").startswith(str(folder)):
            found.append(told)
    return found


def soon_none_in(folder: Path) -> bool:
    deadline = time.monotonic() + 15
    while (left := processes_in(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left == []


@pytest.fixture
def supervisor(tmp_path_factory: pytest.TempPathFactory, mirror: Mirror) -> Iterator[tuple]:
    """`deploy.parts start` with Kafka and PostgreSQL, another process whose end is to be its own, and its folder."""
    folder = Path(tempfile.mkdtemp(prefix="haven-supervised-"))
    owner = subprocess.Popen(["sleep", "300"])
    command = [*PARTS, "start", "kafka", "postgresql", "--folder", folder, "--owner", str(owner.pid)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    addresses = json.loads(process.stdout.readline())
    psycopg.connect(addresses["postgresql"]["url"].replace("+psycopg", "")).close()
    KafkaAdminClient(bootstrap_servers=addresses["kafka"]["bootstrap"]).close()
    assert len(processes_in(folder)) > 2
    yield process, owner, folder
    for each in (process, owner):
        each.kill()
        each.wait()
    process.stdout.close()
    assert soon_none_in(folder)
    shutil.rmtree(folder)


def test_nothing_is_left_when_who_started_the_parts_is_killed(supervisor) -> None:
    process, _, folder = supervisor
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert soon_none_in(folder)


def test_nothing_is_left_when_the_owner_is_killed(supervisor) -> None:
    process, owner, folder = supervisor
    owner.kill()
    owner.wait()
    assert process.wait(30) == 0
    assert soon_none_in(folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_the_parts_stop_in_order(supervisor, number: signal.Signals) -> None:
    process, _, folder = supervisor
    process.send_signal(number)
    assert process.wait(30) == 0
    assert processes_in(folder) == []
    assert "database system is shut down" in (folder / "postgresql" / "log").read_text()


def test_a_part_lost_by_itself_ends_the_others_with_an_error(supervisor) -> None:
    process, _, folder = supervisor
    (postmaster,) = [child for child in psutil.Process(process.pid).children() if "postgres" in child.name()]
    postmaster.kill()
    assert process.wait(30) == 1
    assert soon_none_in(folder)


@pytest.fixture
def secured(own_part) -> Kafka:
    return own_part(partial(Kafka, principals=["gateway"]))


def test_a_secured_broker_lets_the_admin_in_and_gives_others_nothing_they_were_not_given(secured: Kafka) -> None:
    prepare(secured)
    remember(secured, "by the admin")
    assert remembered(secured) == ["by the admin"]
    with (
        KafkaProducer(**secured.client("gateway"), max_block_ms=10_000) as producer,
        pytest.raises(TopicAuthorizationFailedError),
    ):
        producer.send("kept", b"by the gateway").get(10)


@pytest.mark.parametrize(
    "wrong",
    [{"sasl_plain_password": "wrong"}, {"security_protocol": "PLAINTEXT"}, {"security_protocol": "SASL_PLAINTEXT"}],
    ids=["wrong password", "no log-in", "log-in without TLS"],
)
def test_a_secured_broker_refuses(secured: Kafka, wrong: dict[str, str]) -> None:
    with pytest.raises(KafkaError):
        KafkaAdminClient(**{**secured.client(), **wrong}, bootstrap_timeout_ms=3_000)


def test_between_itself_a_secured_broker_asks_for_a_certificate(secured: Kafka) -> None:
    ports = json.loads((secured.folder / "ports.json").read_text())
    for listener in ("internal", "controller"):
        stranger = {"bootstrap_servers": f"127.0.0.1:{ports[listener]}", "security_protocol": "SSL"}
        with pytest.raises(KafkaError):
            KafkaAdminClient(**stranger, ssl_cafile=str(secured.ca_file), bootstrap_timeout_ms=3_000)


def test_no_password_is_readable_by_another_user(secured: Kafka, own_postgresql: PostgreSQL) -> None:
    passwords = [secured.password("admin"), secured.password("gateway"), own_postgresql.password_file.read_text()]
    assert len(set(passwords)) == 3
    for part in (secured, own_postgresql):
        for file in part.folder.rglob("*"):
            if file.is_file() and any(password.encode() in file.read_bytes() for password in passwords):
                assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        assert not any(password in line for password in passwords for line in processes_in(part.folder))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_keycloak_has_the_realm_it_was_given_and_keeps_it(own_part, tmp_path: Path) -> None:
    realm = tmp_path / "realm.json"
    realm.write_text(json.dumps({"realm": "synthetic", "enabled": True, "displayName": "${SHOWN_AS}"}))
    keycloak = own_part(lambda folder: Keycloak(folder, realm, {"SHOWN_AS": "A realm for tests"}))
    discovery = f"{keycloak.url}/realms/synthetic/.well-known/openid-configuration"
    before = json.load(urllib.request.urlopen(discovery))
    assert before["issuer"] == f"{keycloak.url}/realms/synthetic"
    keys = json.load(urllib.request.urlopen(before["jwks_uri"]))
    keycloak.stop()
    keycloak.start()
    assert json.load(urllib.request.urlopen(before["jwks_uri"])) == keys


def run_tests_without_parts(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    nothing = {"HAVEN_PARTS_CACHE": str(tmp_path / "empty"), "HAVEN_PARTS_MAVEN": "http://127.0.0.1:9", "CI": ""}
    test = f"{Path(__file__)}::test_every_test_has_its_own_topics_on_one_broker"
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", test],
        env={**os.environ, **nothing, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_part_that_cannot_be_had_is_missed_out_loud(tmp_path: Path) -> None:
    ran = run_tests_without_parts(tmp_path)
    assert ran.returncode == 0
    assert "KAFKA WAS NOT TESTED" in ran.stdout
    assert "2 tests skipped. Skipped: no kafka: http://127.0.0.1:9" in ran.stdout
    assert "HAVEN_TEST_KAFKA" in ran.stdout


def test_in_continuous_integration_it_is_a_failure(tmp_path: Path) -> None:
    ran = run_tests_without_parts(tmp_path, CI="true")
    assert ran.returncode == 1
    assert "no kafka" in ran.stdout


@pytest.mark.parametrize("turn", [1, 2])
def test_every_test_has_its_own_topics_on_one_broker(kafka: str, topic_prefix: str, turn: int) -> None:
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    assert [topic for topic in admin.list_topics() if topic.startswith(topic_prefix)] == []
    admin.create_topics([NewTopic(f"{topic_prefix}requests", 1, 1)])
    admin.wait_for_topics([f"{topic_prefix}requests"])  # made is not yet known
    assert [topic for topic in admin.list_topics() if topic.startswith(topic_prefix)] == [f"{topic_prefix}requests"]
    admin.close()


def test_no_two_ports_of_a_part_are_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = ("client", "internal", "controller")
    monkeypatch.setattr(deploy_process, "PORTS", range(61_000, 61_012))
    for number in range(20):
        ports = deploy_process._lasting_ports(tmp_path / f"{number}.json", names)
        assert len(set(ports.values())) == 3
        assert deploy_process._lasting_ports(tmp_path / f"{number}.json", names) == ports
    monkeypatch.setattr(deploy_process, "PORTS", range(61_000, 61_002))
    with pytest.raises(PartFailed, match="no 3 ports"):
        deploy_process._lasting_ports(tmp_path / "none.json", names)
