"""The operations port: alive, ready with reasons, and always reachable, whoever else is connected."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry, Counter

from services.operations import health
from services.operations.health import OperationsPortTaken, OperationsServer, clock_skew

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
SECRET = "PLOVER-41"

Serve = Callable[..., OperationsServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers = []

    def start(ready=dict, registry: CollectorRegistry | None = None) -> OperationsServer:
        server = OperationsServer(0, ready, registry or CollectorRegistry())
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


def get(server: OperationsServer, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def connect(server: OperationsServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has hung up; waits for it."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_a_process_that_is_alive_says_so_even_when_it_is_not_ready(serve) -> None:
    server = serve(lambda: {"database": "down"})
    status, headers, body = get(server, "/healthz")
    assert (status, json.loads(body)) == (200, {"status": "alive"})
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert "python" not in headers["server"].lower()


def test_not_ready_names_each_reason(serve) -> None:
    reasons = {"kafka": "no Kafka broker answers at k:9092; start it, or correct HAVEN_KAFKA"}
    server = serve(lambda: reasons)
    status, headers, body = get(server, "/readyz")
    assert (status, json.loads(body)) == (503, {"status": "not ready", "reasons": reasons})
    assert headers["content-type"] == "application/json"
    reasons.clear()
    status, _, body = get(server, "/readyz")
    assert (status, json.loads(body)) == (200, {"status": "ready"})


def test_a_readiness_that_fails_is_a_reason_without_its_text(serve) -> None:
    def fail() -> dict[str, str]:
        raise ValueError(SECRET)

    status, _, body = get(serve(fail), "/readyz")
    assert status == 503
    assert "ValueError" in json.loads(body)["reasons"]["readiness"]
    assert SECRET.encode() not in body


def test_a_readiness_that_hangs_is_a_reason_after_a_bounded_time(serve, monkeypatch) -> None:
    monkeypatch.setattr(health, "READY_SECONDS", 0.05)
    go_on = threading.Event()
    server = serve(lambda: {"late": ""} if not go_on.wait(30) else {})
    try:
        for _ in range(3):
            status, _, body = get(server, "/readyz")
            assert status == 503
            assert "does not answer" in json.loads(body)["reasons"]["readiness"]
        assert get(server, "/healthz")[0] == 200
    finally:
        go_on.set()


def test_metrics_are_in_prometheus_s_own_form(serve) -> None:
    registry = CollectorRegistry()
    Counter("haven_things", "Things", registry=registry).inc(3)
    status, headers, body = get(serve(registry=registry), "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    assert b"haven_things_total 3.0" in body


def test_a_head_request_has_no_body_and_other_paths_and_methods_nothing(serve) -> None:
    server = serve()
    assert get(server, "/healthz", "HEAD")[::2] == (200, b"")
    status, _, body = get(server, f"/{SECRET}")
    assert status == 404
    assert SECRET.encode() not in body
    status, _, body = get(server, "/healthz", "POST")
    assert (status, body) == (501, b"")


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /" + SECRET.encode() + b" HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"GET " + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"\0\r\n\r\n",
        b"GET\r\n\r\n",
    ],
)
def test_rubbish_is_refused_without_being_repeated_or_printed(serve, rubbish: bytes, capfd) -> None:
    server = serve()
    with connect(server) as connection:
        connection.sendall(rubbish)
        connection.shutdown(socket.SHUT_WR)
        said = b""
        try:
            while data := connection.recv(65536):
                said += data
        except ConnectionError:
            pass
    assert SECRET.encode() not in said
    assert b"x" * 100 not in said
    assert get(server, "/healthz")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_many_silent_connections_do_not_keep_a_probe_waiting(serve) -> None:
    server = serve()
    silent = [connect(server) for _ in range(health.MOST_CONNECTIONS * 2)]
    try:
        for _ in range(5):
            assert get(server, "/healthz")[0] == 200
        assert is_closed(silent[0]), "the oldest went first"
        working = [thread for thread in threading.enumerate() if "process_request_thread" in thread.name]
        deadline = time.monotonic() + 10
        while len(working) > health.MOST_CONNECTIONS and time.monotonic() < deadline:
            time.sleep(0.02)
            working = [thread for thread in threading.enumerate() if "process_request_thread" in thread.name]
        assert len(working) <= health.MOST_CONNECTIONS
    finally:
        for connection in silent:
            connection.close()


def test_whoever_drips_is_disconnected_however_diligently_they_drip(serve, monkeypatch) -> None:
    monkeypatch.setattr(health, "CONNECTION_SECONDS", 0.3)
    server = serve()
    deadline = time.monotonic() + 20
    with connect(server) as dripping:
        try:
            while time.monotonic() < deadline:
                dripping.sendall(b"G")
                time.sleep(0.05)
        except OSError:
            pass
        assert time.monotonic() < deadline, "it was never disconnected"
    assert get(server, "/healthz")[0] == 200


def test_while_nothing_answers_only_a_few_threads_wait(serve, monkeypatch) -> None:
    monkeypatch.setattr(health, "MOST_ASKING", 2)
    go_on = threading.Event()
    server = serve(lambda: {"late": ""} if not go_on.wait(30) else {})
    answers: list[bytes] = []
    waiting = [threading.Thread(target=lambda: answers.append(get(server, "/readyz")[2])) for _ in range(6)]
    for thread in waiting:
        thread.start()
    deadline = time.monotonic() + 10
    while len(answers) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [json.loads(body)["status"] for body in answers] == ["busy"] * 4
    go_on.set()
    for thread in waiting:
        thread.join(10)
    assert get(server, "/readyz")[0] == 200, "they give their places back"


def test_a_stopped_server_gives_its_port_back_and_can_be_stopped_twice(serve) -> None:
    server = serve()
    connection = connect(server)
    assert get(server, "/healthz")[0] == 200
    port = server.port
    server.stop()
    server.stop()
    assert is_closed(connection)
    again = OperationsServer(port, dict, CollectorRegistry())
    again.start()
    assert get(again, "/healthz")[0] == 200
    again.stop()


def test_a_server_that_never_started_can_be_stopped() -> None:
    OperationsServer(0, dict, CollectorRegistry()).stop()


def test_a_taken_port_is_refused_with_the_remedy(serve) -> None:
    server = serve()
    with pytest.raises(OperationsPortTaken, match=rf"HAVEN_OPERATIONS_PORT: {server.port} .* choose another"):
        OperationsServer(server.port, dict, CollectorRegistry())


# Clocks


def ticking(*moments: datetime) -> Callable[[], datetime]:
    left = list(moments)
    return lambda: left.pop(0)


@pytest.mark.parametrize("seconds", [0, 1.9, -1.9])
def test_clocks_that_are_two_seconds_apart_or_less_agree(seconds: float) -> None:
    assert clock_skew(lambda: NOW + timedelta(seconds=seconds), lambda: NOW) == ""


@pytest.mark.parametrize(("seconds", "direction"), [(2.5, "behind"), (-2.5, "ahead of"), (-86400, "ahead of")])
def test_clocks_further_apart_are_a_reason_that_names_the_remedy(seconds: float, direction: str) -> None:
    reason = clock_skew(lambda: NOW + timedelta(seconds=seconds), lambda: NOW)
    assert f"{abs(seconds):.1f} s {direction} the database's" in reason
    assert "NTP" in reason


def test_a_slow_answer_is_no_skew() -> None:
    later = NOW + timedelta(seconds=9)
    assert clock_skew(lambda: NOW + timedelta(seconds=4), ticking(NOW, later)) == ""
    assert clock_skew(lambda: NOW - timedelta(seconds=3), ticking(NOW, later)) != ""
    assert clock_skew(lambda: later + timedelta(seconds=3), ticking(NOW, later)) != ""
