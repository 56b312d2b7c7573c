"""The internal port of a process: is it alive, can it do its work, what does it count.

Nothing that comes in there is more than a path. Whoever is slow is disconnected, and whoever opens many connections loses the
oldest of them: a probe of Prometheus or the container engine always gets its turn.
"""

import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from events.log.engines import reading
from services.operations.patience import NoAnswer, Patience

logger = logging.getLogger(__name__)

CONNECTION_SECONDS = 10.0
"""After which a connection is closed, whatever it is doing."""
MOST_CONNECTIONS = 32
MOST_ASKING = 8
"""Threads that may wait for a database at one time."""
READY_SECONDS = 5.0
LARGEST_SKEW = timedelta(seconds=2)
"""Between a process's clock and the database's: deadlines are in minutes, tokens have a leeway of seconds."""

Ready = Callable[[], Mapping[str, str]]
"""Why the process cannot do its work: name to cause and remedy; empty when it can."""


class OperationsPortTaken(Exception):
    def __init__(self, host: str, port: int) -> None:
        super().__init__(
            f"HAVEN_OPERATIONS_PORT: {port} on {host} cannot be used. Stop what uses it, or choose another port; 0 means none."
        )


class OperationsServer:
    """Serves /healthz, /readyz and /metrics on a port of its own, in threads of its own.

    `port` 0 takes a free one (`port` says which). Raises OperationsPortTaken."""

    def __init__(self, port: int, ready: Ready, registry: CollectorRegistry, host: str = "127.0.0.1") -> None:
        self._pages = _Pages(ready, registry)
        try:
            self._server = _Server((host, port), self._pages)
        except OSError:
            raise OperationsPortTaken(host, port) from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="operations", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Closes the port and every connection; a second time does nothing."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(CONNECTION_SECONDS)
        self._server.server_close()
        self._server.hang_up(older_than=0.0)


class _Pages:
    def __init__(self, ready: Ready, registry: CollectorRegistry) -> None:
        self._ready = Patience(lambda: dict(ready()), READY_SECONDS)
        self._registry = registry
        self._asking = threading.BoundedSemaphore(MOST_ASKING)

    def page(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body of a path."""
        path = path.partition("?")[0]
        if path == "/healthz":
            return _json(200, {"status": "alive"})
        if path not in ("/readyz", "/metrics"):
            return _json(404, {"status": "not found", "paths": ["/healthz", "/readyz", "/metrics"]})
        if not self._asking.acquire(blocking=False):
            return _json(503, {"status": "busy", "reasons": {"operations": "too many ask at once, or nothing answers"}})
        try:
            if path == "/metrics":
                return 200, CONTENT_TYPE_LATEST, generate_latest(self._registry)
            reasons = self._reasons()
            return (
                _json(503, {"status": "not ready", "reasons": reasons}) if reasons else _json(200, {"status": "ready"})
            )
        finally:
            self._asking.release()

    def _reasons(self) -> dict[str, str]:
        try:
            return self._ready.answer()
        except NoAnswer:
            return {"readiness": f"was not known within {READY_SECONDS:g} s: the database or broker does not answer"}
        except Exception as failure:  # noqa: BLE001 - a process that cannot say how it is, is not well
            return {"readiness": f"could not be found out ({type(failure).__name__}); see the log"}


def _json(status: int, document: Mapping[str, Any]) -> tuple[int, str, bytes]:
    return status, "application/json", json.dumps(document).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], pages: _Pages) -> None:
        self.pages = pages
        self._guard = threading.Lock()
        self._open: dict[socket.socket, float] = {}  # the oldest first
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: it asks the name service who we are, and would wait for it.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open[request] = time.monotonic()
            crowded = list(self._open)[:-MOST_CONNECTIONS]
        for oldest in crowded:
            self._cut(oldest)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Twice a second, between connections."""
        self.hang_up(older_than=CONNECTION_SECONDS)

    def hang_up(self, older_than: float) -> None:
        now = time.monotonic()
        with self._guard:
            late = [request for request, since in self._open.items() if now - since >= older_than]
        for request in late:
            self._cut(request)

    def _cut(self, request: socket.socket) -> None:
        """Wakes the thread that reads or writes there; it closes the connection and ends."""
        with self._guard:
            self._open.pop(request, None)
        try:
            request.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # gone already

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - as socketserver calls it
        failure = sys.exception()
        logger.info("connection to the operations port ended early error=%s", type(failure).__name__)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = CONNECTION_SECONDS
    server_version = "Haven"
    sys_version = ""

    def do_GET(self) -> None:
        status, content_type, body = self.server.pages.page(self.path)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Without repeating what was sent."""
        self.close_connection = True
        if self.request_version != "HTTP/0.9":
            self.send_response(code, "refused")
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Probes come every few seconds."""


def database_clock(engine: sa.Engine) -> datetime:
    """What time the database has, aware."""
    with reading(engine) as connection:
        now = connection.scalar(sa.text("SELECT clock_timestamp()"))
    assert isinstance(now, datetime)
    return now


def clock_skew(ask: Callable[[], datetime], now: Callable[[], datetime]) -> str:
    """Why the clocks of this process (`now`, the real one) and of the database (`ask`) must not be used together; empty when
    they agree. The time the question took counts in their favour. Raises what asking raises."""
    before = now()
    theirs = ask()
    after = now()
    apart = max(before - theirs, theirs - after, timedelta())
    if apart <= LARGEST_SKEW:
        return ""
    direction = "ahead of" if before > theirs else "behind"
    return (
        f"this machine's clock is {apart.total_seconds():.1f} s {direction} the database's: deadlines and tokens would be "
        "judged wrongly; let NTP set the clocks of both"
    )


def clock_reasons(engine: sa.Engine, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> dict[str, str]:
    """The same as a reason of readiness; nothing when the database cannot be asked, which others say."""
    try:
        reason = clock_skew(lambda: database_clock(engine), now)
    except sa.exc.SQLAlchemyError:
        return {}
    return {"clock": reason} if reason else {}
