"""The distributed runtime as its operator meets it: what a process says when something is wrong, and the commands that help.

One runtime on real Kafka (TLS, access rules) and PostgreSQL serves all of these; each process that is given something wrong is
one more, started and ended by its test.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from deploy.artifacts import PartUnavailable
from deploy.private import private_file
from deploy.process import PartFailed
from deploy.stack import HavenProcess, Stack
from services.api_client import Client
from services.demo import ORIGIN, POLICE
from tests.notifications.receivers import a_gateway

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]

PATIENCE = 60
RUNG_WITH = ("Somebody does not answer. Please look at the calls to make.", "Something waits for you.")
AN_OPENING = {
    "urgency": "urgent",
    "danger_country": "BE",
    "household": {"women": 1},
    "languages": ["en"],
    "consented_countries": ["NL"],
    "callback": "synthetic callback: code WREN-12",
}


def running(without_part, **how: Any) -> Iterator[Stack]:
    """A runtime for the tests of one module."""
    folder = tempfile.mkdtemp(prefix="haven-runtime-")
    stack = Stack(folder, **how)
    try:
        stack.start()
    except PartUnavailable as failure:
        without_part("kafka", failure)
    yield stack
    stack.stop()
    shutil.rmtree(folder, ignore_errors=True)


def client_of(stack: Stack) -> Client:
    return Client(stack.url, json.loads((stack.data / "demo-logins.json").read_text()))


@pytest.fixture(scope="module")
def stack(without_part) -> Iterator[Stack]:
    yield from running(without_part)


@pytest.fixture
def client(stack: Stack) -> Client:
    return client_of(stack)


def haven(stack: Stack, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """One command, as the operator of this runtime gives it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HAVEN_")}
    program = [sys.executable, "-c", "from services.cli import main; main()", *arguments]
    return subprocess.run(
        program, env={**kept, **stack.environment, **settings}, capture_output=True, text=True, timeout=90, check=False
    )


def until(what: str, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)


@contextmanager
def one_more(stack: Stack, kind: str, **settings: str) -> Iterator[HavenProcess]:
    """One more process, which may never become ready."""
    process = HavenProcess(stack.folder / f"{kind}-wrong", kind, {**stack.environment, **settings})
    process.start_timeout = 0.2  # type: ignore[misc]
    process._wait_until_it_answers = lambda _process: None  # type: ignore[method-assign]
    process.start()
    try:
        yield process
    finally:
        process.kill()
        shutil.rmtree(process.folder)


def reasons(process: HavenProcess) -> str:
    """What its /readyz says; empty while it does not answer, or when it is ready."""
    try:
        with urllib.request.urlopen(f"{process.operations_url}/readyz", timeout=10):
            return ""
    except urllib.error.HTTPError as answer:
        return answer.read().decode()
    except OSError:
        return ""


def test_a_request_gets_its_bed_and_every_process_is_ready(stack: Stack, client: Client) -> None:
    opened = client.send(POLICE, "POST", "/api/v1/relocation-requests", AN_OPENING, Prefer="wait=20")
    path = f"/api/v1/relocation-requests/{opened.body['request_id']}"
    until("a shelter is asked", lambda: client.send(ORIGIN, "GET", path).body.get("asks"))
    assert {name: reasons(process) for name, process in stack.processes.items()} == dict.fromkeys(stack.processes, "")
    assert all(process._answers() for process in stack.processes.values())


def test_right_after_the_acknowledgement_the_request_is_there(stack: Stack, client: Client) -> None:
    """DESIGN race 5: never 404, and a reload never goes backwards."""
    opened = client.send(POLICE, "POST", "/api/v1/relocation-requests", AN_OPENING)
    path = f"/api/v1/relocation-requests/{opened.body['request_id']}"
    revisions = []
    for _ in range(40):
        read = client.send(POLICE, "GET", path)
        assert read.status == 200
        revisions.append(read.body.get("revision", 0))
        time.sleep(0.02)
    assert revisions == sorted(revisions)


def test_a_focal_point_is_rung_for_a_shelter_that_nothing_reaches(stack: Stack, client: Client) -> None:
    with a_gateway() as phone:
        named = "".join(
            f"""
            [organisations.{country.lower()}-coordinator]
            role = "coordinator"
            country = "{country}"
            language = "en"
            channels = {{ duty = "{phone.address}" }}
            """
            for country in ("BE", "NL", "LU")
        )
        private_file(stack.secrets / "notify-file", named)
        stack.scale("notify", 2)
        until("somebody looks", lambda: client.send(ORIGIN, "GET", "/api/v1/call-list").body["people_are_rung"])
        client.send(POLICE, "POST", "/api/v1/relocation-requests", AN_OPENING, Prefer="wait=20")

        def why() -> set[str]:
            return {call["reason"] for call in client.send(ORIGIN, "GET", "/api/v1/call-list").body["calls"]}

        until("nothing reached the shelters that were asked", lambda: why() == {"not_rung"})
        until("their focal point is rung", lambda: phone.texts)
        assert all(reasons(process) == "" for process in stack.of("notify"))
        stack.scale("notify", 0)
    assert all(text.partition(" http")[0] in RUNG_WITH for text in phone.texts)


def test_an_unreachable_broker_is_named_and_the_process_waits_for_it(stack: Stack) -> None:
    with one_more(stack, "placement", HAVEN_KAFKA="127.0.0.1:1") as process:
        until("it says so", lambda: "no Kafka broker answers at 127.0.0.1:1" in reasons(process))
        assert "HAVEN_KAFKA" in reasons(process)
        assert process.running


def test_a_wrong_password_for_kafka_is_named_with_its_file(stack: Stack, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    shutil.copytree(stack.secrets, secrets)
    (secrets / "haven_capacity_kafka_password").write_text("wrong-" * 6)
    with one_more(stack, "capacity", HAVEN_SECRETS_DIR=str(secrets)) as process:
        until("it says so", lambda: "haven_capacity_kafka_password" in reasons(process))
        assert "wrong-wrong" not in process.log.read_text() + reasons(process)


def test_missing_topics_and_too_few_partitions_are_named_with_the_remedy(stack: Stack) -> None:
    with one_more(stack, "placement", HAVEN_KAFKA_PREFIX="elsewhere") as process:
        until("it says so", lambda: "elsewhere.gateway" in reasons(process))
        assert "haven topics create" in reasons(process)
    with one_more(stack, "placement", HAVEN_KAFKA_PARTITIONS="50") as process:
        until("it says so", lambda: "HAVEN_KAFKA_PARTITIONS" in reasons(process))


@pytest.mark.parametrize("kind", ["placement", "projection", "relay", "gateway"])
def test_a_database_that_is_not_there_is_named_or_waited_for(stack: Stack, kind: str) -> None:
    with one_more(stack, kind, HAVEN_DATABASE="postgresql://127.0.0.1:1/haven") as process:
        until("it says so", lambda: "database cannot be used" in (reasons(process) + process.log.read_text()).lower())


@pytest.mark.parametrize(
    ("kind", "settings", "remedy"),
    [
        ("placement", {"HAVEN_DATABASE": ""}, "HAVEN_DATABASE: is missing"),
        ("placement", {"HAVEN_DATABASE": "postgresql://somebody@127.0.0.1/haven"}, "must name no user"),
        ("relay", {"HAVEN_KAFKA": ""}, "HAVEN_KAFKA: is missing"),
        ("capacity", {"HAVEN_KAFKA_CA_FILE": "", "HAVEN_KAFKA": "192.0.2.1:9092"}, "HAVEN_KAFKA_CA_FILE"),
        ("capacity", {"HAVEN_SECRETS_DIR": "/nowhere"}, "HAVEN_SECRETS_DIR"),
        ("gateway", {"HAVEN_HOST": "0.0.0.0"}, "demo sign-in serves this machine only"),
        ("gateway", {"HAVEN_ISSUER": "http://sign-in.example"}, "HAVEN_ISSUER"),
        ("gateway", {"HAVEN_DPOP": "never"}, "HAVEN_DPOP"),
        ("placement", {"HAVEN_KAFKA_IN_SYNC": "2"}, "HAVEN_KAFKA_IN_SYNC"),
        ("placement", {"HAVEN_NONSENSE": "1"}, "is not a setting"),
    ],
)
def test_a_wrong_setting_ends_a_process_at_once_with_the_remedy(
    stack: Stack, kind: str, settings: dict[str, str], remedy: str
) -> None:
    ended = haven(stack, kind, **settings)
    assert ended.returncode == 2
    assert remedy in ended.stderr
    assert "Traceback" not in ended.stderr


def test_tables_of_another_release_end_a_process_at_once(stack: Stack) -> None:
    with stack.administrator.connect() as connection:
        connection.exec_driver_sql("INSERT INTO capacity.schema_version (version) VALUES (99)")
        try:
            ended = haven(stack, "capacity")
        finally:
            connection.exec_driver_sql("DELETE FROM capacity.schema_version WHERE version = 99")
    assert ended.returncode == 2
    assert "upgrade Haven" in ended.stderr


def test_the_doctor_finds_nothing_wrong_and_names_what_is(stack: Stack) -> None:
    well = haven(stack, "doctor")
    assert well.returncode == 0, well.stdout
    assert "Nothing wrong found." in well.stdout
    for file in stack.secrets.iterdir():
        assert file.read_text().strip() not in well.stdout
    ill = haven(stack, "doctor", HAVEN_KAFKA="127.0.0.1:1")
    assert ill.returncode == 2
    assert "127.0.0.1:1" in ill.stdout


def test_a_message_that_is_none_of_ours_is_set_aside_told_and_dismissed(stack: Stack, client: Client) -> None:
    producer = KafkaProducer(**stack.kafka.client())
    producer.send("haven.gateway", b"not an event", b"unit-1").get(timeout=30)
    producer.close()
    until("the board says so", lambda: client.send(ORIGIN, "GET", "/api/v1/alerts").body["set_aside"])
    listed = haven(stack, "dead-letters", "list")
    letters = [line.split()[0] for line in listed.stdout.splitlines() if "malformed" in line]
    assert len(letters) >= 2, "placement and capacity follow that topic, and so does the read model"
    shown = haven(stack, "dead-letters", "show", letters[0])
    assert "haven.gateway" in shown.stdout
    assert "not an event" not in shown.stdout + listed.stdout
    for letter in letters:
        assert haven(stack, "dead-letters", "dismiss", letter).returncode == 0
    until("the board is clear", lambda: not client.send(ORIGIN, "GET", "/api/v1/alerts").body["set_aside"])
    assert haven(stack, "dead-letters", "dismiss", letters[0]).returncode == 2


def test_a_revoked_person_is_refused_at_once(stack: Stack, client: Client) -> None:
    who = "nl-police-rotterdam-1"
    assert client.send(who, "GET", "/api/v1/relocation-requests").status == 200
    token = client._token(who)
    assert haven(stack, "revoke", f"synthetic.{who}").returncode == 0
    refused = client._once("GET", "/api/v1/relocation-requests", None, {"Authorization": f"Bearer {token}"})
    assert refused.status == 401


FOLLOWED = {
    "placement": ("placement", ("gateway", "capacity")),
    "capacity": ("capacity", ("gateway", "placement")),
    "gateway.read_model": ("gateway", ("gateway", "placement", "capacity")),
}
"""Each consumer: the schema of its memory, and the logs it follows."""


def test_everything_sent_again_changes_nothing(stack: Stack) -> None:
    def heads() -> dict[str, int]:
        with stack.administrator.connect() as connection:
            return {
                name: connection.exec_driver_sql(f"SELECT count(*) FROM {name}.events").scalar_one()
                for name in ("gateway", "placement", "capacity")
            }

    def sent() -> dict[str, int]:
        """Messages in each topic."""
        found = {}
        reader = KafkaConsumer(**stack.kafka.client(), group_id=None)
        for name in heads():
            topic = stack.settings.layout.topic(name)
            places = [TopicPartition(topic, number) for number in reader.partitions_for_topic(topic)]
            found[name] = sum(reader.end_offsets(places).values())
        reader.close()
        return found

    def taken() -> dict[str, int]:
        """Messages that each consumer has taken, of all it follows."""
        with stack.administrator.connect() as connection:
            return {
                consumer: connection.exec_driver_sql(
                    f"SELECT coalesce(sum(position), 0) FROM {schema}.cursors WHERE consumer = %s AND source LIKE '%%/%%'",
                    (consumer,),
                ).scalar_one()
                for consumer, (schema, _) in FOLLOWED.items()
            }

    stack.settle()
    stack.scale("relay", 0)
    before, there = heads(), sent()
    assert haven(stack, "topics", "rebuild").returncode == 0
    stack.scale("relay", 1)
    again = {name: there[name] + count for name, count in before.items()}
    until("all are sent again", lambda: sent() == again)
    everything = {consumer: sum(again[name] for name in follows) for consumer, (_, follows) in FOLLOWED.items()}
    until("everybody has taken them", lambda: taken() == everything)
    assert heads() == before


def test_the_read_model_equals_one_built_anew(stack: Stack) -> None:
    stack.settle()
    stack.scale("projection", 0)
    rebuilt = haven(stack, "rebuild")
    assert rebuilt.returncode == 0, rebuilt.stdout + rebuilt.stderr
    assert "Equal to the byte." in rebuilt.stdout
    stack.scale("projection", 1)
    stack.settle()


def test_a_process_that_was_told_to_stop_ends_well(stack: Stack) -> None:
    for kind in ("placement", "relay", "gateway", "projection", "capacity"):
        (process,) = stack.of(kind)
        child = process._process
        assert child is not None
        process.stop()
        assert child.returncode == 0, f"{kind}: {process.log.read_text()[-500:]}"
        process.start()
    stack.settle()


def test_a_part_that_does_not_answer_is_a_clear_failure(stack: Stack) -> None:
    process = HavenProcess(stack.folder / "nothing", "no-such-command", stack.environment)
    with pytest.raises(PartFailed, match="no-such-command"):
        process.start()
