"""Serving a WSGI application until the process is told to stop.

waitress, with two things added: it refuses what a proxy may read otherwise, and a live stream gives its thread back. The
connection stays with the server, and whoever has something to say writes to it (services/gateway/feed.py).
"""

import errno
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import waitress
from flask import Flask
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import BaseWSGIServer
from waitress.task import WSGITask

from services.gateway.feed import MOST_STREAMS, Feed, Listener
from services.gateway.stream import TAKE_OVER

REQUEST_THREADS = 32
"""Some wait, for up to half a minute, for what becomes of a command (`Prefer: wait`)."""
LARGEST_REQUEST = 128 * 1024
"""Bytes of a body the server reads at all; what a form or a document may have is less."""
CONNECTIONS = MOST_STREAMS + 500
"""Open at once. Whoever opens many and says nothing keeps the others out only beyond that, and for a minute."""
MOST_UNSENT = 64 * 1024
"""Bytes that a listener may be behind; then it has to come back, and goes on where it was."""


_REMEDIES = {
    errno.EADDRINUSE: "is taken. Stop what uses it, or set HAVEN_PORT to another port.",
    errno.EACCES: "is for the administrator alone. Set HAVEN_PORT to 1024 or more.",
    errno.EADDRNOTAVAIL: "cannot be had: this machine has no such address. Correct HAVEN_HOST.",
}


class CannotListen(Exception):
    def __init__(self, host: str, port: int, failure: OSError) -> None:
        remedy = _REMEDIES.get(
            failure.errno or 0, f"cannot be had ({failure.strerror}). Correct HAVEN_HOST or HAVEN_PORT."
        )
        super().__init__(f"Port {port} on {host} {remedy}")


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    """Refuses what a proxy in front may read otherwise than we do, and the library lets pass: where one request ends and the next
    begins must not be a matter of opinion (RFC 9112, 5.2 and 6.1)."""

    def parse_header(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        if b"\r\n " in header_plus or b"\r\n\t" in header_plus:
            raise ParsingError("Header lines must not be folded")
        if self.chunked and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("A length or chunks, not both")


class _Client:
    """The connection of a stream, as the feed writes to it."""

    def __init__(self, channel: Any, *, is_chunked: bool) -> None:
        self._channel = channel
        self._is_chunked = is_chunked

    @property
    def is_open(self) -> bool:
        return bool(self._channel.connected)

    def send(self, data: bytes) -> bool:
        if self._channel.total_outbufs_len > MOST_UNSENT:
            return False
        try:
            self._channel.write_soon(b"%x\r\n%s\r\n" % (len(data), data) if self._is_chunked else data)
        except ClientDisconnected:
            return False
        return True

    def close(self) -> None:
        with suppress(OSError):  # the server may be gone before its streams
            if self._channel.total_outbufs_len:
                self._channel.will_close = True  # who does not read would never let the rest out
            else:
                if self._is_chunked and self.is_open:
                    self.send(b"")  # the chunk that says: this is the end
                self._channel.close_when_flushed = True
            self._channel.server.pull_trigger()


class _Task(WSGITask):  # type: ignore[misc]
    """One request. The application may keep its connection for a stream; the thread goes on to the next request."""

    kept: Listener | None = None

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[TAKE_OVER] = lambda listener: setattr(self, "kept", listener)
        return environ

    def service(self) -> None:
        try:
            super().service()
        except BaseException:
            if self.kept is not None:
                self.kept.close()
            raise

    def finish(self) -> None:
        if self.kept is None:
            super().finish()
            return
        self.close_on_finish = False
        self.channel.is_kept = True
        self.kept.start(_Client(self.channel, is_chunked=self.chunked_response))


class _Channel(HTTPChannel):  # type: ignore[misc]
    parser_class = _Parser
    task_class = _Task
    is_kept = False

    def received(self, data: bytes) -> bool:
        if self.is_kept:  # a stream is the last thing on its connection: there is no next request
            self.will_close = True
            return False
        return bool(super().received(data))

    def _flush_some(self, do_close: bool = True) -> bool:
        # The library takes no lock when no request is under way; of a stream another thread may be writing just then.
        with self.outbuf_lock:
            return bool(super()._flush_some(do_close))


def server_of(app: Callable[..., Any], host: str, port: int) -> Any:
    """A server that listens and does not serve yet. Raises CannotListen."""
    try:
        server = waitress.create_server(
            app,
            host=host,
            port=port,
            threads=REQUEST_THREADS,
            ident="",
            send_bytes=1,  # a line of a stream must leave at once, not when a buffer is full
            max_request_header_size=32 * 1024,
            max_request_body_size=LARGEST_REQUEST,
            channel_timeout=60,
            connection_limit=CONNECTIONS,
            asyncore_use_poll=True,  # select() takes no file above 1024
        )
    except OSError as failure:
        raise CannotListen(host, port, failure) from None
    for listening in (server, *getattr(server, "map", {}).values()):  # one for each address of a name
        if isinstance(listening, BaseWSGIServer):
            listening.channel_class = _Channel
    return server


def serve(app: Flask, host: str, port: int, feed: Feed, *, started: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT, then ends the live streams and returns. `started` is called once it listens. Raises
    CannotListen."""
    server = server_of(app, host, port)
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        # In a thread of its own: this handler may have interrupted the very lock that waking a listener takes.
        threading.Thread(target=feed.hang_up, daemon=True).start()
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        started()
        threading.Thread(target=feed.run, args=(stopped,), name="streams", daemon=True).start()
        server.run()
    finally:
        feed.hang_up()
        stopped.set()
        server.close()
