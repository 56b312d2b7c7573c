"""A real node that is killed, started again, stopped, and started where it must not be."""

import errno
import json
import os
import random
import socket
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
import waitress
from flask import Flask

from events.envelope import Event
from events.log.engines import sqlite_engine
from events.log.store import EventLog
from events.placement import ArrivalRecorded
from reference import load
from services.api_client import Client
from services.capacity.domain.unit import UnitDecider
from services.placement.domain.relocation_request import RelocationRequestDecider
from services.seeding import OtherUnitsHere, seed
from services.serving import CannotListen, server_of
from simulation.invariants import audit
from simulation.inventory import synthetic_inventory
from tests.events.drafts import NOON
from tests.journeys.process import HAVEN, RunningNode, environment, free_port, haven

LEAST_KILLS = 5


@pytest.mark.slow
def test_the_demo_goes_on_while_its_node_is_killed_again_and_again(tmp_path: Path) -> None:
    rng = random.Random(20261123)
    kills = 0
    # Slower than the demo's own node, so that the hold has not run out before the killing is over.
    with RunningNode(tmp_path, speed=400) as node:
        arguments = ["demo", "--url", node.url, "--data-dir", str(node.data_dir)]
        story = subprocess.Popen(
            [*HAVEN, *arguments], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            while story.poll() is None:
                time.sleep(rng.uniform(0.05, 1.5))
                if story.poll() is None and kills < 2 * LEAST_KILLS:
                    node.kill()
                    kills += 1
                    node.start()
            told = story.stdout.read() if story.stdout else ""
        finally:
            story.kill()
            story.wait()
        assert story.returncode == 0, told
        assert "Arrived in NL" in told
        assert kills >= LEAST_KILLS
        assert node.stop() == 0
    assert invariants_hold(node.data_dir) == 1
    rebuilt = haven("rebuild", **node.settings)
    assert rebuilt.returncode == 0, rebuilt.stdout + rebuilt.stderr
    assert "Equal to the byte" in rebuilt.stdout


def invariants_hold(data_dir: Path) -> int:
    """Everything the logs and the claims table say is as it must be, whatever happened. Returns how many have arrived."""
    logs = {name: EventLog(sqlite_engine(str(data_dir / f"{name}.sqlite")), name) for name in SERVICES}
    whole = {name: [event for _, event in log.read_all(limit=100_000)] for name, log in logs.items()}
    reference = load()
    rhythms = {code: country.rhythm for code, country in reference.countries.items()}
    deciders = {"placement": RelocationRequestDecider(), "capacity": UnitDecider(rhythms)}
    checker = audit(reference, deciders, whole)
    with sqlite3.connect(data_dir / "capacity.sqlite") as capacity:
        checker.claims_are(capacity.execute("SELECT unit_id, bed, hold_id FROM bed_claims"))
    with sqlite3.connect(data_dir / "gateway.sqlite") as gateway:
        assert gateway.execute("SELECT count(*) FROM parked").fetchone() == (0,)
        kept = gateway.execute("SELECT command_ids FROM idempotency").fetchall()
    acknowledged = [command_id for (ids,) in kept for command_id in ids.strip("[]").replace('"', "").split(",")]
    assert acknowledged
    checker.acknowledged(acknowledged)
    return sum(isinstance(event, Event) and isinstance(event.data, ArrivalRecorded) for event in whole["placement"])


SERVICES = ("gateway", "capacity", "placement")


# Starting and stopping


def test_a_node_that_is_told_to_stop_stops_at_once_and_well(tmp_path: Path) -> None:
    with RunningNode(tmp_path) as node:
        begun = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - begun < 5
        assert "Stopped." in node.output.read_text()


def test_an_open_live_stream_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with RunningNode(tmp_path) as node:
        client = Client(node.url, json.loads(node.logins.read_text()))
        listening = client._stream("be-coordinator-1", "")
        assert next(listening).startswith("retry: ")
        begun = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - begun < 5
        assert "still running" not in node.output.read_text()


def test_a_taken_port_is_refused_with_its_remedy(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = haven("run", data_dir=tmp_path / "data", port=taken.getsockname()[1])
    assert_refused(refused, "HAVEN_PORT")


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EADDRINUSE, "Stop what uses it"),
        (errno.EACCES, "Set HAVEN_PORT to 1024 or more"),
        (errno.EADDRNOTAVAIL, "Correct HAVEN_HOST"),
        (errno.EAFNOSUPPORT, "Correct HAVEN_HOST or HAVEN_PORT"),
    ],
)
def test_a_port_that_cannot_be_had_says_why(code: int, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_named: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(waitress, "create_server", refuse)
    with pytest.raises(CannotListen, match=remedy):
        server_of(Flask("node"), "127.0.0.1", 80)


def test_synthetic_shelters_are_not_put_beside_others(durable_log: EventLog) -> None:
    inventory = synthetic_inventory(1, load())
    seed(durable_log, inventory, NOON)
    head = durable_log.head()
    with pytest.raises(OtherUnitsHere, match="1 units"):
        seed(durable_log, inventory[1:], NOON)
    seed(durable_log, inventory, NOON)
    assert durable_log.head() == head


def test_a_taken_data_directory_is_refused_and_the_first_node_goes_on(tmp_path: Path) -> None:
    with RunningNode(tmp_path) as node:
        assert_refused(haven("run", data_dir=node.data_dir, port=free_port()), "HAVEN_DATA_DIR")
        assert_refused(haven("rebuild", data_dir=node.data_dir), "HAVEN_DATA_DIR")
        node.wait_until_ready()


def test_a_node_that_was_killed_leaves_its_data_directory_free(tmp_path: Path) -> None:
    with RunningNode(tmp_path) as node:
        node.kill()
        node.start()
        assert node.stop() == 0


@pytest.mark.parametrize(
    ("setting", "value", "remedy"),
    [
        ("host", "0.0.0.0", "HAVEN_HOST: demo sign-in serves this machine only"),
        ("host", "192.0.2.1", "HAVEN_HOST: demo sign-in serves this machine only"),
        ("issuer", "https://sign-in.example", "remove the issuer setting"),
        ("database", "postgresql://somewhere/haven", "HAVEN_DATABASE: is for the distributed runtime"),
        ("kafka", "somewhere:9092", "HAVEN_KAFKA: is for the distributed runtime"),
        ("operations_port", "9100", "HAVEN_OPERATIONS_PORT: is for the distributed runtime"),
        ("otlp_endpoint", "http://somewhere:4318", "HAVEN_OTLP_ENDPOINT: is for the distributed runtime"),
        ("colour", "green", "HAVEN_COLOUR: is not a setting of Haven"),
        ("port", "eighty", "HAVEN_PORT: must be a whole number"),
        ("port", "70000", "HAVEN_PORT: must be a whole number"),
        ("exercise_speed", "-1", "HAVEN_EXERCISE_SPEED: must be a whole number"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_with_its_remedy(
    tmp_path: Path, setting: str, value: str, remedy: str
) -> None:
    refused = haven("run", **{"data_dir": tmp_path / "data", "port": free_port(), setting: value})
    assert_refused(refused, remedy)
    assert value not in refused.stderr


def test_nobody_is_rung_for_what_synthetic_people_do(tmp_path: Path) -> None:
    refused = haven(
        "run", data_dir=tmp_path / "data", port=free_port(), scene="living", notify_file=tmp_path / "notify.toml"
    )
    assert_refused(refused, "HAVEN_SCENE: would ring people day and night")
    assert not (tmp_path / "data").exists()


def assert_refused(refused: subprocess.CompletedProcess[str], remedy: str) -> None:
    assert refused.returncode == 2, refused
    assert remedy in refused.stderr
    assert "Traceback" not in refused.stderr
    assert refused.stdout == ""
