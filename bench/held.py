"""From a request's acknowledgement to its bed on hold, in the embedded node with its real threads, files and HTTP."""

import base64
import json
import socket
import tempfile
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

import waitress
from msgspec.structs import replace

from bench.row import Row, percentile
from events.vocabulary import Freshness
from services.config import Settings
from services.gateway.read_model import AVAILABILITY
from services.node import Node
from simulation.inventory import synthetic_inventory

REQUESTS = 60
OPENED = {
    "urgency": "urgent",
    "danger_country": "BE",
    "household": {"women": 1},
    "languages": ["en"],
    "consented_countries": ["NL"],
    "callback": "synthetic callback for a benchmark",
}


def measure() -> list[Row]:
    """Request to bed held, and the raw cost of the hops it cannot avoid, in one run."""
    with tempfile.TemporaryDirectory(prefix="haven-bench-") as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        node = Node(Settings(data_dir=Path(folder), port=port, requests_per_minute=0, beds_at_once=0))
        # Enough free beds that every request finds one: the latency of a hold is measured, not that of an unmet need.
        node.inventory = tuple(
            replace(unit, beds=100, free=100, blocked=0, blocked_because=None)
            for unit in synthetic_inventory(2026, node.core.reference)
        )
        server = waitress.create_server(node.app, host="127.0.0.1", port=port, threads=8, ident="")
        threading.Thread(target=server.run, daemon=True).start()
        node.start()
        try:
            return _rows(node, port)
        finally:
            server.close()
            node.stop()


def _rows(node: Node, port: int) -> list[Row]:
    while node.ready():
        time.sleep(0.05)
    assert any(unit["freshness"] == Freshness.FRESH for unit in node.core.read_model.units([AVAILABILITY]))
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    token = _token(node, connection)
    held, acknowledged, hops = [], [], []
    for number in range(REQUESTS):
        hops.append(_three_commits(node, number))
        acknowledgement, until_held = _open_and_wait(node, connection, token, number)
        acknowledged.append(acknowledgement)
        held.append(until_held)
        time.sleep(0.02)
    floor = percentile(hops, 50)
    rows = [
        Row(name="embedded: request acknowledged, p50", value=percentile(acknowledged, 50), unit="ms"),
        Row(name="embedded: request acknowledged, p99", value=percentile(acknowledged, 99), unit="ms"),
    ]
    for percent in (50, 99):
        value = percentile(held, percent)
        rows.append(
            Row(
                name=f"embedded: request to bed held, p{percent}",
                value=value,
                unit="ms",
                anchor="three commits in three logs (p50)",
                anchor_value=floor,
                ratio=round(value / floor, 2),
                goal="<= 100 ms" if percent == 99 else "",
            )
        )
    return rows


def _open_and_wait(node: Node, connection: HTTPConnection, token: str, number: int) -> tuple[float, float]:
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Idempotency-Key": f"benchmark-{number:06d}",
    }
    began = time.perf_counter()
    connection.request("POST", "/api/v1/relocation-requests", json.dumps(OPENED), headers)
    response = connection.getresponse()
    answered = json.loads(response.read())
    acknowledged = time.perf_counter()
    assert response.status == 202, answered
    claimed = "SELECT count(*) FROM events WHERE type = 'capacity.hold.placed.v1' AND record LIKE ?"
    with node.core.capacity_log.engine.connect() as reader:
        while not reader.exec_driver_sql(claimed, (f'%"{answered["request_id"]}"%',)).scalar():
            reader.rollback()
            time.sleep(0.0005)
    return (acknowledged - began) * 1000, (time.perf_counter() - began) * 1000


def _three_commits(node: Node, number: int) -> float:
    """What durability alone costs: one small durable commit in each of the three databases."""
    began = time.perf_counter()
    for log in node.core.logs.values():
        with log.writing() as tx:
            tx.connection.exec_driver_sql(
                "INSERT INTO timers (stream, due_at) VALUES ('bench', ?) "
                "ON CONFLICT (stream) DO UPDATE SET due_at = excluded.due_at",
                (f"9999-{number}",),
            )
    return (time.perf_counter() - began) * 1000


def _token(node: Node, connection: HTTPConnection) -> str:
    who = "be-police-antwerp-1"
    basic = base64.b64encode(f"{who}:{node.logins[who]}".encode()).decode()
    connection.request(
        "POST",
        "/oauth/token",
        "grant_type=client_credentials",
        {"Authorization": f"Basic {basic}", "Content-Type": "application/x-www-form-urlencoded"},
    )
    return str(json.loads(connection.getresponse().read())["access_token"])
