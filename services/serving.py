"""Serving a WSGI application until the process is told to stop."""

import errno
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import waitress
from flask import Flask
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import BaseWSGIServer

from services.gateway.stream import MOST_STREAMS

REQUEST_THREADS = 16
LARGEST_REQUEST = 128 * 1024
"""Bytes of a body the server reads at all; what a form or a document may have is less."""
CONNECTIONS = 500
"""Open at once. Whoever opens many and says nothing keeps the others out only beyond that, and for a minute."""


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


class _Channel(HTTPChannel):  # type: ignore[misc]
    parser_class = _Parser


def server_of(app: Callable[..., Any], host: str, port: int) -> Any:
    """A server that listens and does not serve yet. Raises CannotListen."""
    try:
        server = waitress.create_server(
            app,
            host=host,
            port=port,
            threads=REQUEST_THREADS + MOST_STREAMS,
            ident="",
            send_bytes=1,  # the live stream must leave at once, not when a buffer is full
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


def serve(app: Flask, host: str, port: int, *, started: Callable[[], None], hang_up: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT, then ends the live streams with `hang_up` and returns. `started` is called once it
    listens. Raises CannotListen."""
    try:
        server = waitress.create_server(
            app,
            host=host,
            port=port,
            threads=REQUEST_THREADS + MOST_STREAMS,
            ident="",
            send_bytes=1,  # the live stream must leave at once, not when a buffer is full
            max_request_header_size=32 * 1024,
            max_request_body_size=128 * 1024,
            channel_timeout=60,
            connection_limit=CONNECTIONS,
            asyncore_use_poll=True,  # select() takes no file above 1024
            channel_request_lookahead=1,  # or it is not noticed that whoever listened to a stream has left
        )
    except OSError as failure:
        raise CannotListen(host, port, failure) from None

    def stop(_signal: int, _frame: FrameType | None) -> None:
        # In a thread of its own: this handler may have interrupted the very lock that waking a listener takes.
        threading.Thread(target=hang_up, daemon=True).start()
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        started()
        server.run()
    finally:
        server.close()
