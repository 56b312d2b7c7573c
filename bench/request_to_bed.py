"""Requests opened through the gateway of the distributed runtime, and the moment at which a bed is on hold for each."""

import base64
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection
from urllib.parse import urlsplit

import psycopg

from bench.held import OPENED
from bench.pace import SENDERS, at_rate
from bench.raw_hops import plain
from deploy.stack import Stack
from events.log.hints import log_channel

PATIENCE = 120.0
WHO = "be-police-antwerp-1"


@dataclass
class Held:
    """Opens requests through the gateway, and notices when a bed is on hold for each."""

    stack: Stack
    _moments: dict[str, float] = field(default_factory=dict)
    _moved: threading.Condition = field(default_factory=threading.Condition)
    _local: threading.local = field(default_factory=threading.local)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        logins = json.loads((self.stack.data / "demo-logins.json").read_text())
        self._basic = base64.b64encode(f"{WHO}:{logins[WHO]}".encode()).decode()
        self._token = self._new_token()
        listening = threading.Event()
        threading.Thread(target=self._watch, args=(listening,), daemon=True).start()
        assert listening.wait(10)

    def at_rate(self, rate: float, seconds: float) -> list[float]:
        try:
            return at_rate(rate, seconds, lambda _number: self._held(self._open()))
        finally:
            self._stop.set()

    def open_many(self, count: int) -> None:
        with ThreadPoolExecutor(SENDERS) as senders:
            for _ in senders.map(lambda _number: self._open(), range(count)):
                pass

    def all_held(self, count: int) -> list[float]:
        """The moments at which each request had a bed on hold."""
        ends = time.monotonic() + PATIENCE
        while len(self._moments) < count:
            assert time.monotonic() < ends, f"{len(self._moments)} of {count} have a bed"
            time.sleep(0.05)
        self._stop.set()
        return list(self._moments.values())

    def _open(self) -> str:
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/json",
            "Idempotency-Key": f"benchmark-{time.perf_counter_ns()}-{threading.get_ident()}",
        }
        connection = self._connection()
        while True:
            connection.request("POST", "/api/v1/relocation-requests", json.dumps(OPENED), headers)
            response = connection.getresponse()
            answered = json.loads(response.read())
            if response.status == 202:
                return str(answered["request_id"])
            # Too much at once for a time limit of the database: the same again, as any client would.
            assert response.status == 503, answered
            time.sleep(0.1)

    def _held(self, request_id: str) -> float:
        with self._moved:
            assert self._moved.wait_for(lambda: request_id in self._moments, PATIENCE), f"no bed for {request_id}"
        return self._moments[request_id]

    def _connection(self) -> HTTPConnection:
        if not hasattr(self._local, "connection"):
            place = urlsplit(self.stack.url)
            self._local.connection = HTTPConnection(str(place.hostname), place.port, timeout=30)
        connection: HTTPConnection = self._local.connection
        return connection

    def _new_token(self) -> str:
        connection = self._connection()
        form = {"Authorization": f"Basic {self._basic}", "Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/oauth/token", "grant_type=client_credentials", form)
        return str(json.loads(connection.getresponse().read())["access_token"])

    def _watch(self, listening: threading.Event) -> None:
        """Notes when each request has its first bed on hold, as anybody sees it who looks at capacity's log."""
        with psycopg.connect(plain(self.stack.administrator.url), autocommit=True) as connection:
            connection.execute(f'LISTEN "{log_channel("capacity")}"')
            last = connection.execute("SELECT coalesce(max(position), 0) FROM capacity.events").fetchone()
            position = last[0] if last else 0
            listening.set()
            while not self._stop.is_set():
                for _ in connection.notifies(timeout=0.05, stop_after=1):
                    pass
                found = connection.execute(
                    "SELECT position, record::json -> 'data' ->> 'request_id', type FROM capacity.events "
                    "WHERE position > %s ORDER BY position",
                    (position,),
                ).fetchall()
                now = time.perf_counter()
                position = found[-1][0] if found else position
                with self._moved:
                    for _, request_id, kind in found:
                        if kind == "capacity.hold.placed.v1":
                            self._moments.setdefault(request_id, now)
                    self._moved.notify_all()
