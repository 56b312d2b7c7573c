"""What a page costs while a hundred streams are open, and how long a change takes to reach them.

The server is a process of its own (the embedded node), or the whole distributed runtime; who looks and who listens is here. Both
phases have the same load: a request opened every second, which every listener hears of. The pages are asked for one after the
other, by somebody who has signed in; a line is timed from the moment its request was acknowledged, which is after its commit.
"""

import base64
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from bench.held import OPENED
from bench.row import Row, percentile
from deploy.stack import UNLIMITED
from services.sign_in_client import Browser, walk_through

STREAMS = 100
PAGES = 150
WARM_UP = 20
POLICE, COORDINATOR = "be-police-antwerp-1", "be-coordinator-1"
SETTLES_IN = 3.0


def measure() -> list[Row]:
    """The rows of the embedded node; about two minutes."""
    with _node() as (url, logins):
        return rows("embedded", url, url, logins)


def rows(runtime: str, url: str, stream_url: str, logins: dict[str, str]) -> list[Row]:
    """The rows of what serves at `url`, with its streams at `stream_url`."""
    people = People(url, logins)
    board = people.signed_in(COORDINATOR)
    for _ in range(WARM_UP):
        board()
    with _opening(people):
        before = [board() for _ in range(PAGES)]
    tokens = [people.token(POLICE), people.token(COORDINATOR)]
    with Listeners(stream_url, [tokens[number % 2] for number in range(STREAMS)]) as listeners:
        with _opening(people) as acknowledged:
            beside = [board() for _ in range(PAGES)]
        time.sleep(SETTLES_IN)
        waits = listeners.waits_after(acknowledged)
        assert len(waits) == len(acknowledged) * STREAMS, f"{len(waits)} lines of {len(acknowledged)} to {STREAMS}"
    quiet, busy = percentile(before, 95), percentile(beside, 95)
    return [
        Row(
            name=f"{runtime}: the board with {STREAMS} open streams, p95",
            value=round(busy, 1),
            unit="ms",
            anchor="the same without a stream",
            anchor_value=round(quiet, 1),
            ratio=round(busy / quiet, 2),
            goal="<= 150 ms",
        ),
        Row(
            name=f"{runtime}: acknowledged to the line on {STREAMS} streams, p50",
            value=percentile(waits, 50),
            unit="ms",
        ),
        Row(
            name=f"{runtime}: acknowledged to the line on {STREAMS} streams, p99",
            value=percentile(waits, 99),
            unit="ms",
            goal="<= 1000 ms",
        ),
    ]


class People:
    """Those who look, and those who ask."""

    def __init__(self, url: str, logins: dict[str, str]) -> None:
        self.url = url
        self._logins = logins
        self._local = threading.local()
        self._police = self.token(POLICE)

    def token(self, who: str) -> str:
        basic = base64.b64encode(f"{who}:{self._logins[who]}".encode()).decode()
        form = {"Authorization": f"Basic {basic}", "Content-Type": "application/x-www-form-urlencoded"}
        status, answered = self._send("POST", "/oauth/token", "grant_type=client_credentials", form)
        assert status == 200, answered
        return str(json.loads(answered)["access_token"])

    def signed_in(self, who: str) -> Callable[[], float]:
        """Loads the board as somebody who is signed in; how long that took, in milliseconds."""
        browser, back = Browser(), f"{self.url}/signed-in"
        sent_to = browser.send(f"{self.url}/board").location
        assert sent_to is not None, "the board is open to all"
        said = walk_through(browser, sent_to, back, who, self._logins[who])
        browser.send(f"{back}?{urlencode(said)}")
        headers = {"Cookie": browser.cookies("/board"), "Accept": "text/html"}

        def load() -> float:
            began = time.perf_counter()
            status, page = self._send("GET", "/board", None, headers)
            took = (time.perf_counter() - began) * 1000
            assert status == 200, f"the board answers {status}"
            assert b'id="board"' in page
            return took

        return load

    def open(self) -> str:
        """A request, acknowledged and not waited for."""
        headers = {
            "Authorization": f"Bearer {self._police}",
            "Content-Type": "application/json",
            "Idempotency-Key": f"benchmark-{time.perf_counter_ns()}",
        }
        status, answered = self._send("POST", "/api/v1/relocation-requests", json.dumps(OPENED), headers)
        assert status == 202, answered
        return str(json.loads(answered)["request_id"])

    def _send(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> tuple[int, bytes]:
        if not hasattr(self._local, "connection"):
            place = urlsplit(self.url)
            self._local.connection = HTTPConnection(str(place.hostname), place.port, timeout=30)
        self._local.connection.request(method, path, body, headers)
        response = self._local.connection.getresponse()
        return response.status, response.read()


@contextmanager
def _opening(people: People) -> Iterator[dict[str, float]]:
    """A request every second; the moments at which they were acknowledged."""
    acknowledged: dict[str, float] = {}
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            request_id = people.open()
            acknowledged[request_id] = time.perf_counter()
            stop.wait(1.0)

    opening = threading.Thread(target=run)
    opening.start()
    try:
        yield acknowledged
    finally:
        stop.set()
        opening.join()


class Listeners:
    """Streams that are open at once, read by one thread, with the moment at which each first heard of each request."""

    def __init__(self, url: str, tokens: list[str]) -> None:
        self._url = urlsplit(url)
        self._tokens = tokens
        self._sockets = selectors.DefaultSelector()
        self._heard: list[dict[str, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        for number, token in enumerate(self._tokens):
            stream = socket.create_connection((str(self._url.hostname), self._url.port or 80), timeout=30)
            stream.sendall(
                f"GET /api/v1/stream HTTP/1.1\r\nHost: {self._url.netloc}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
            )
            opening = b""
            while b"retry:" not in opening:
                opening += stream.recv(4096)
                assert opening.startswith(b"HTTP/1.1 200"), opening[:200]
            stream.setblocking(False)
            self._heard.append({})
            self._sockets.register(stream, selectors.EVENT_READ, (number, bytearray()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for key in tuple(self._sockets.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]

    def waits_after(self, acknowledged: dict[str, float]) -> list[float]:
        """From each acknowledgement to each listener's first line about it, in milliseconds."""
        return [
            (heard[request_id] - moment) * 1000
            for heard in self._heard
            for request_id, moment in acknowledged.items()
            if request_id in heard
        ]

    def _run(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._sockets.select(0.1):
                self._take(key)

    def _take(self, key: Any) -> None:
        number, unread = key.data
        said = key.fileobj.recv(65536)
        assert said, "a stream ended"
        now = time.perf_counter()
        unread += said
        while (end := unread.find(b"\n")) >= 0:
            line = bytes(unread[:end])
            del unread[: end + 1]
            if line.startswith(b"data: {"):
                self._heard[number].setdefault(json.loads(line[6:]).get("id", ""), now)


@contextmanager
def _node() -> Iterator[tuple[str, dict[str, str]]]:
    """An embedded node as a process of its own, and its logins."""
    folder = Path(tempfile.mkdtemp(prefix="haven-bench-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ours = {name: value for name, value in os.environ.items() if not name.startswith("HAVEN_")}
    told = {"HAVEN_DATA_DIR": str(folder / "data"), "HAVEN_PORT": str(port), "HAVEN_SCENE": "none", **UNLIMITED}
    program = [sys.executable, "-c", "from services.cli import main; main()", "run"]
    node = subprocess.Popen(program, env=ours | told, stdout=subprocess.DEVNULL)  # noqa: S603 - our own
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url)
        yield url, json.loads((folder / "data" / "demo-logins.json").read_text())
    finally:
        node.terminate()
        node.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(url: str) -> None:
    ends = time.monotonic() + 120
    while time.monotonic() < ends:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):  # noqa: S310 - our own address
                return
        except (OSError, urllib.error.HTTPError):
            time.sleep(0.2)
    raise TimeoutError("the node is not ready after two minutes")
