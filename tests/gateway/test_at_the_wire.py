"""What arrives as bytes: the server as it really serves, and whoever speaks to it with a socket of their own."""

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from services.gateway.bodies import LARGEST_BODY
from services.serving import LARGEST_REQUEST, server_of
from tests.gateway.world import POLICE, PREFIX, World

HELD_OPEN = 150
"""More than the server of the library would keep: then it takes nobody else."""
LIST = f"{PREFIX}/relocation-requests"


@dataclass
class Served:
    """A server, and every path that reached the application behind it."""

    port: int
    token: str
    reached: list[str] = field(default_factory=list)

    def say(self, data: bytes, *, patience: float = 5.0) -> bytes:
        """Everything the server answers to these bytes, until it hangs up or says no more."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=patience) as line:
            answered = b""
            try:
                line.sendall(data)
                line.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it has heard enough
            try:
                while piece := line.recv(65_536):
                    answered += piece
            except OSError:
                pass
            return answered

    def statuses(self, data: bytes) -> list[int]:
        return [int(line.split()[1]) for line in self.say(data).split(b"\r\n") if line.startswith(b"HTTP/1.")]


@pytest.fixture(scope="module")
def served(world: World) -> Iterator[Served]:
    reached: list[str] = []

    def remembering(environ: Any, start_response: Any) -> Any:
        reached.append(environ["PATH_INFO"])
        return world.node.app(environ, start_response)

    server = server_of(remembering, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield Served(server.effective_port, world.token(POLICE), reached)
    server.close()
    thread.join(10)


@pytest.fixture(autouse=True)
def nothing_changes(world: World, served: Served) -> Iterator[None]:
    before = world.heads()
    served.reached.clear()
    yield
    assert world.heads() == before
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200, "it still serves"
    connection.close()


HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"POST " + LIST.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n"
CHUNKED = b"0\r\n\r\n"
SMUGGLED = {
    "length and chunks": b"Content-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED + HIDDEN,
    "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n1e\r\n" + HIDDEN + b"\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 36\r\n\r\n" + HIDDEN,
    "two lengths in one": b"Content-Length: 0, 36\r\n\r\n" + HIDDEN,
    "a length with a sign": b"Content-Length: +0\r\n\r\n" + HIDDEN,
    "a length below zero": b"Content-Length: -1\r\n\r\n" + HIDDEN,
    "a length in hexadecimal": b"Content-Length: 0x0\r\n\r\n" + HIDDEN,
    "a length with an underscore": b"Content-Length: 0_0\r\n\r\n" + HIDDEN,
    "a space before the colon": b"Content-Length : 36\r\n\r\n" + HIDDEN,
    "another encoding": b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKED + HIDDEN,
    "two encodings": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + CHUNKED + HIDDEN,
    "an encoding behind a control": b"Transfer-Encoding: \x0bchunked\r\n\r\n" + CHUNKED + HIDDEN,
    "a folded header": b"Transfer-Encoding:\r\n chunked\r\n\r\n" + CHUNKED + HIDDEN,
    "a header that ends in a line feed": b"X: y\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED + HIDDEN,
    "a header with a carriage return": b"X: y\rTransfer-Encoding: chunked\r\n\r\n" + CHUNKED + HIDDEN,
    "a header with NUL": b"X: y\0\r\n\r\n" + HIDDEN,
    "a header without a name": b": y\r\n\r\n" + HIDDEN,
    "a chunk of no size": b"Transfer-Encoding: chunked\r\n\r\n\r\n" + HIDDEN,
    "a chunk of a negative size": b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + HIDDEN,
    "a chunk with an underscore": b"Transfer-Encoding: chunked\r\n\r\n0_0\r\n\r\n" + HIDDEN,
    "a chunk that ends elsewhere": b"Transfer-Encoding: chunked\r\n\r\n2\r\nabXY0\r\n\r\n" + HIDDEN,
}


@pytest.mark.attack(53)
@pytest.mark.parametrize("how", SMUGGLED)
def test_no_request_hides_in_another(served: Served, how: str) -> None:
    statuses = served.statuses(HEAD + SMUGGLED[how])
    assert len(statuses) == 1
    assert 400 <= statuses[0] < 600
    assert "/smuggled" not in served.reached


@pytest.mark.attack(53)
def test_a_server_on_every_address_of_a_name_is_as_strict(world: World) -> None:
    server = server_of(world.node.app, "localhost", 0)
    channels = {
        one.channel_class.parser_class.__name__
        for one in getattr(server, "map", {0: server}).values()
        if hasattr(one, "channel_class")
    }
    server.close()
    assert channels == {"_Parser"}


@pytest.mark.attack(48)
@pytest.mark.parametrize(
    ("what", "headers", "status"),
    [
        ("10^5 headers", b"".join(b"X-%d: y\r\n" % n for n in range(100_000)), 431),
        ("one header of a megabyte", b"X: " + b"y" * 1_000_000 + b"\r\n", 431),
        ("a body of a terabyte", b"Content-Length: 1000000000000\r\n", 413),
        ("a body of 10^60 bytes", b"Content-Length: 1" + b"0" * 60 + b"\r\n", 413),
    ],
)
def test_what_is_too_large_is_refused_without_being_read(
    served: Served, what: str, headers: bytes, status: int
) -> None:
    begun = time.monotonic()
    statuses = served.statuses(HEAD + headers + b"\r\n")
    assert statuses in ([status], []), what  # none: it hung up on somebody who was still sending
    assert served.reached == []
    assert time.monotonic() - begun < 10


@pytest.mark.attack(48)
def test_a_body_in_chunks_without_end_is_cut_off(served: Served) -> None:
    endless = b"Transfer-Encoding: chunked\r\n\r\n" + (b"2000\r\n" + b"x" * 0x2000 + b"\r\n") * (
        2 * LARGEST_REQUEST // 0x2000
    )
    assert served.statuses(HEAD + endless) in ([413], [])
    assert served.reached == []


@pytest.mark.attack(48)
def test_what_the_server_lets_through_the_application_still_measures(served: Served) -> None:
    body = b" " * (LARGEST_BODY + 1)
    lines = [
        b"Authorization: Bearer " + served.token.encode(),
        b"Content-Type: application/json",
        b"Idempotency-Key: synthetic-key-of-the-wire",
        b"Content-Length: %d" % len(body),
    ]
    assert served.statuses(HEAD + b"\r\n".join(lines) + b"\r\n\r\n" + body) == [413]
    assert len(served.reached) == 1


@pytest.mark.attack(48)
def test_whoever_only_begins_to_ask_keeps_nobody_else_out(served: Served) -> None:
    with ExitStack() as lines:
        for _ in range(HELD_OPEN):
            line = lines.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=5))
            line.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()


@pytest.mark.attack(51, 64)
@pytest.mark.parametrize(
    "host", [b"", b"Host: evil.example\r\n", b"Host: 127.0.0.1.\r\n", b"Host: a\r\nHost: b\r\n", b"Host: \r\n"]
)
@pytest.mark.parametrize("path", [b"/", b"/sign-in", b"/requests", b"/nowhere", LIST.encode()])
def test_a_host_that_is_not_ours_gets_into_no_answer(served: Served, host: bytes, path: bytes) -> None:
    answered = served.say(b"GET " + path + b" HTTP/1.1\r\n" + host + b"X-Forwarded-Host: evil.example\r\n\r\n")
    assert answered.startswith(b"HTTP/1.1 ")
    assert b"evil" not in answered
    assert b"127.0.0.1.:" not in answered
    assert b"cache-control: no-store" in answered.lower() or answered.startswith(b"HTTP/1.1 400")


@pytest.mark.attack(51)
@pytest.mark.parametrize(
    "target", [b"http://evil.example/healthz", b"//evil.example/healthz", b"*", b"evil.example:443", b"", b"\\healthz"]
)
def test_a_target_that_is_no_path_of_ours_leads_nowhere(served: Served, target: bytes) -> None:
    answered = served.say(b"GET " + target + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert b"evil" not in answered
    assert b"Location" not in answered


@pytest.mark.attack(51)
@pytest.mark.parametrize(
    "line",
    [
        b"GET /healthz",
        b"GET  /healthz  HTTP/1.1",
        b"get /healthz HTTP/1.1",
        b"GET /healthz HTTP/9.9",
        b"\x16\x03\x01\x02",
        b"PRI * HTTP/2.0",
    ],
)
def test_what_is_not_http_1_breaks_nothing(served: Served, line: bytes) -> None:
    answered = served.say(line + b"\r\n\r\n", patience=2)
    assert b"Traceback" not in answered
    assert b"500" not in answered.split(b"\r\n")[0]


@pytest.mark.attack(16)
def test_a_header_that_must_be_there_once_and_is_there_twice_lets_nobody_in(served: Served) -> None:
    good = b"Authorization: Bearer " + served.token.encode() + b"\r\n"
    for twice in (good + b"Authorization: Bearer x.y.z\r\n", b"Authorization: Bearer x.y.z\r\n" + good, good + good):
        assert served.statuses(b"GET " + LIST.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n" + twice + b"\r\n") == [401]


@pytest.mark.attack(64, 65)
def test_the_server_does_not_say_what_it_is(served: Served) -> None:
    for data in (
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"nonsense\r\n\r\n",
        HEAD + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
    ):
        head = served.say(data).partition(b"\r\n\r\n")[0].lower()
        assert b"waitress" not in head
        assert b"python" not in head
