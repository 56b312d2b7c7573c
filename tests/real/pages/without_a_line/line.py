"""A line between browsers and a node that can really be cut, and what the pages keep in a browser meanwhile."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from services.api_client import Json
from tests.journeys.process import RunningNode, free_port
from tests.real.pages.scene import Scene

SHELTER = "nl-shelter-01"
STAFF = f"{SHELTER}-staff"
NEIGHBOUR = "nl-shelter-02-staff"
COORDINATOR = "be-coordinator-1"
POLICE = "be-police-antwerp-1"


class Line:
    """What is between the browsers and the node; it can be cut: nobody is there any more, and what was open breaks."""

    def __init__(self) -> None:
        self.port = free_port()
        self.node = 0
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.mend()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        listener, self._listener = self._listener, None
        assert listener
        for one in (listener, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                browser, _ = listener.accept()
                try:
                    node = socket.create_connection(("127.0.0.1", self.node))
                except OSError:  # it is still starting
                    browser.close()
                    continue
                if self._listener is not listener:  # cut meanwhile
                    browser.close()
                    node.close()
                    return
                self._open |= {browser, node}
                for source, sink in ((browser, node), (node, browser)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while said := source.recv(65536):
                sink.sendall(said)
        for one in (source, sink):
            self._open.discard(one)
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class NodeBehindALine(RunningNode):
    def __init__(self, folder: Path, line: Line) -> None:
        super().__init__(folder, speed=1)
        self.line = line
        line.node = self.port

    @property
    def url(self) -> str:
        return self.line.url

    @property
    def settings(self) -> dict[str, object]:
        return super().settings | {"public_url": self.url}


@contextmanager
def cut(line: Line, *pages: Any) -> Iterator[None]:
    """No line. What the browsers say of that is no failure; whatever else they say is one."""
    line.cut()
    try:
        yield
    finally:
        line.mend()
    pages[0].wait_for_timeout(300)
    forgive(*pages)


def forgive(*pages: Any) -> None:
    for page in pages:
        no_line = ("net::ERR_", "An unknown error occurred when fetching the script")
        page.seen.errors[:] = [one for one in page.seen.errors if not any(what in one for what in no_line)]


def until(page: Any, expression: str) -> None:
    """Waits until it is true. Playwright's own way takes a promise for an answer, whatever it promises."""
    ends = time.monotonic() + 30
    while not page.evaluate(expression):
        assert time.monotonic() < ends, expression
        page.wait_for_timeout(100)


def wait_for_the_worker(page: Any) -> None:
    """Until the worker of the page's language, and no other, is there for the next page."""
    code = page.locator("html").get_attribute("lang")
    until(
        page,
        "navigator.serviceWorker.getRegistration().then(found => found?.active?.state === 'activated'"
        f" && !found.installing && found.active.scriptURL.endsWith('/worker.{code}.js'))",
    )


KEPT = """() => new Promise((resolve, reject) => {
    const asked = indexedDB.open("kept");
    asked.onerror = () => reject(asked.error);
    asked.onsuccess = () => {
        const database = asked.result;
        if (!database.objectStoreNames.length) { database.close(); indexedDB.deleteDatabase("kept"); return resolve([]); }
        const all = database.transaction("entries").objectStore("entries").getAll();
        all.onsuccess = () => {
            database.close();
            resolve(all.result.map(one => [one.id, one.at, new TextDecoder("latin1").decode(one.sealed)]));
        };
    };
})"""


def kept(page: Any) -> list[list[Any]]:
    return list(page.evaluate(KEPT))


def unit_of(scene: Scene) -> Json:
    """The shelter's first unit, as a program of its own sees it."""
    units = scene.send(STAFF, "GET", f"/shelters/{SHELTER}/units").body["units"]
    return dict(min(units, key=lambda unit: str(unit["unit_id"])))
