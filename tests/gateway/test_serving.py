"""The server as it serves: an open stream costs no thread, and whoever listens is heard of when they go."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from services.gateway.limits import Limits
from services.serving import MOST_UNSENT, REQUEST_THREADS, server_of
from tests.gateway.world import OTHER_POLICE, POLICE, PREFIX, Who, World


class Serving:
    """The node of a world, served to real connections."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.feed = world.node.gateway.feed
        self.server = server_of(world.node.app, "127.0.0.1", 0)
        self.port = int(self.server.effective_port)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self.server.asyncore.loop, kwargs={"timeout": 0.05, "map": self.server._map}),
            threading.Thread(target=self.feed.run, args=(self._stop,)),
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()
        self._clients: list[http.client.HTTPConnection] = []

    def get(self, who: Who, path: str, **headers: str) -> http.client.HTTPResponse:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        self._clients.append(client)
        client.request("GET", path, headers={"Authorization": f"Bearer {self.world.token(who)}", **headers})
        return client.getresponse()

    def listen(self, who: Who = POLICE, **headers: str) -> http.client.HTTPResponse:
        answer = self.get(who, f"{PREFIX}/stream", **headers)
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.readline().startswith(b"retry: ")
        return answer

    def close(self) -> None:
        self.feed._end_all()
        for client in self._clients:
            client.close()
        self._stop.set()
        self.feed.wake()
        self.server.close()


@pytest.fixture
def serving(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    monkeypatch.setitem(world.node.gateway.__dict__, "limits", Limits())
    serving = Serving(world)
    yield serving
    serving.close()
    serving.feed.is_closing = False


def next_change(answer: http.client.HTTPResponse) -> dict[str, object]:
    while line := answer.readline():
        if line.startswith(b"data: "):
            said: dict[str, object] = json.loads(line.removeprefix(b"data: "))
            return said
    raise AssertionError("the stream ended")


def soon(holds: Callable[[], bool]) -> bool:
    ends = time.monotonic() + 20
    while not holds():
        if time.monotonic() > ends:
            return False
        time.sleep(0.02)
    return True


def test_more_can_listen_than_there_are_threads_and_pages_are_served_meanwhile(serving: Serving) -> None:
    streams = [serving.listen() for _ in range(3 * REQUEST_THREADS)]
    assert serving.get(POLICE, f"{PREFIX}/relocation-requests").status == 200
    request_id = serving.world.open()
    assert {next_change(stream)["id"] for stream in streams} == {request_id}
    assert serving.get(POLICE, f"{PREFIX}/relocation-requests/{request_id}").status == 200


def test_whoever_goes_away_leaves_the_place_at_once(serving: Serving) -> None:
    stream = serving.listen()
    assert len(serving.feed) == 1
    stream.close()
    assert soon(lambda: len(serving.feed) == 0)


def test_whoever_says_more_on_a_stream_is_not_listened_to(serving: Serving) -> None:
    stream = serving.listen()
    stream.fp.raw._sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
    assert soon(lambda: len(serving.feed) == 0)


def test_whoever_does_not_read_is_cut_off_and_nobody_else_waits(serving: Serving) -> None:
    stuck = socket.create_connection(("127.0.0.1", serving.port), timeout=20)
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    request = (
        f"GET {PREFIX}/stream HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {serving.world.token(POLICE)}\r\n\r\n"
    )
    stuck.sendall(request.encode())
    assert soon(lambda: len(serving.feed._taken) == 1)
    other = serving.listen(OTHER_POLICE)
    (client,) = [c for one, c in serving.feed._taken.items() if one.principal.person == POLICE.person]
    assert soon(lambda: not client.send(b"x" * MOST_UNSENT))
    request_id = serving.world.open(OTHER_POLICE)
    assert next_change(other)["id"] == request_id
    serving.world.open(POLICE)
    assert soon(lambda: len(serving.feed) == 1)
    stuck.close()


def test_a_reader_who_is_only_slow_gets_every_byte_in_its_place(serving: Serving) -> None:
    """Two threads write to one connection: whoever has something to say, and the server, of what did not fit before."""
    slow = serving.listen()
    assert soon(lambda: len(serving.feed._taken) == 1)  # the answer has begun; the feed takes it over a moment later
    ((_, client),) = serving.feed._taken.items()
    said = [b"%08d" % number + b"." * (number % 997) + b"\n" for number in range(3000)]

    def say_all() -> None:
        for line in said:
            while not client.send(line):
                time.sleep(0.001)

    saying = threading.Thread(target=say_all)
    saying.start()
    assert slow.readline() == b"\n"  # the end of what opened it
    heard = []
    while len(heard) < len(said):
        line = slow.readline()
        if line[:8].isdigit():
            heard.append(line)
        time.sleep(0.0005)
    assert heard == said
    saying.join()


def test_a_server_that_stops_tells_its_listeners(serving: Serving) -> None:
    streams = [serving.listen() for _ in range(3)]
    serving.feed.hang_up()
    assert [stream.read() for stream in streams] == [b"\n"] * 3, "to the end, and nothing is broken off"
    assert serving.get(POLICE, f"{PREFIX}/stream").status == 503
