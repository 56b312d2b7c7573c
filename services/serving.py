"""Serving a WSGI application until the process is told to stop."""

import errno
import signal
import threading
from collections.abc import Callable
from types import FrameType

import waitress
from flask import Flask

from services.gateway.stream import MOST_STREAMS

REQUEST_THREADS = 16


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
