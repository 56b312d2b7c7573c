"""A browser that loses its line: what it still shows, what it keeps and from whom, what it sends afterwards, and how far a page
that lives can be trusted. The line is really cut."""

import itertools
import json
import re
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from services.api_client import Client, Json
from tests.journeys.process import RunningNode, free_port
from tests.real.pages.scene import Scene
from tests.real.pages.visitor import LANGUAGES, People, findings, picture, too_wide

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

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


@pytest.fixture(scope="module")
def line() -> Line:
    return Line()


@pytest.fixture(scope="module")
def node(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with NodeBehindALine(tmp_path_factory.mktemp("node"), line) as node:
        yield node


@pytest.fixture(scope="module")
def logins(node: RunningNode) -> dict[str, str]:
    return dict(json.loads(node.logins.read_text()))


@pytest.fixture(scope="module")
def people(browser: Any, line: Line, logins: dict[str, str]) -> People:
    return People(browser, line.url, logins)


@pytest.fixture(scope="module")
def scene(line: Line, logins: dict[str, str]) -> Scene:
    scene = Scene(Client(line.url, logins))
    before = None
    while before != (before := unit_of(scene)["revision"]):
        time.sleep(3)  # the scene that a new node opens on still asks shelters
    return scene


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


CACHED = """async () => {
    const found = {};
    for (const name of await caches.keys())
        for (const asked of await (await caches.open(name)).keys())
            found[asked.url] = await (await caches.match(asked)).text();
    return found;
}"""
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


def reports(node: RunningNode, unit: Json) -> int:
    """How often anybody said what is free in it, as its own log has it."""
    with closing(sqlite3.connect(f"file:{node.data_dir / 'capacity.sqlite'}?mode=ro", uri=True)) as log:
        counted = log.execute(
            "SELECT count(*) FROM events WHERE type = 'capacity.unit.reported.v1' AND stream = ?",
            [f"unit-{unit['unit_id']}"],
        )
        return int(counted.fetchone()[0])


def name_of(unit: Json) -> str:
    return str(unit["unit_id"]).removeprefix(f"{unit['shelter_id']}-")


def say_free(page: Any, free: int) -> None:
    page.fill("#free-1", str(free))
    page.locator("form[data-keep]:has(#free-1) > button").click()


def another(unit: Json) -> int:
    """A number of free beds that the unit does not have now, and could."""
    free, taken = int(unit["free"]), int(unit["taken"])
    return free - 1 if free else free + min(1, taken)


# What stays


def test_without_a_line_there_is_a_page_in_each_language_that_says_so_and_it_goes_by_itself(
    people: People, line: Line
) -> None:
    with ExitStack() as visits:
        pages = {language: visits.enter_context(people.visit(STAFF, language)) for language in LANGUAGES}
        for page in pages.values():
            page.goto("/places")
            wait_for_the_worker(page)
        with cut(line, *pages.values()):
            for language, page in pages.items():
                page.goto("/asks")
                assert page.locator("[data-offline]").count() == 1
                assert page.locator("html").get_attribute("lang") == language
                assert page.locator("a[href='tel:112']").count() == 3
                assert "aven" not in page.inner_text("body")
                assert page.evaluate("document.fonts.check('16px \"Atkinson Hyperlegible Next\"')")
                assert findings(page) == []
                assert too_wide(page) == []
                picture(page, f"no-line-{language}")
        for page in pages.values():
            page.wait_for_selector("header", timeout=20_000)
            assert page.url.endswith("/asks")


def test_nothing_of_what_was_seen_stays_in_the_browser(people: People, line: Line) -> None:
    with people.visit(STAFF, anew=True) as page:
        for path in ("/places", "/asks", "/requests", "/sessions", "/places"):
            page.goto(path)
            wait_for_the_worker(page)
        token = page.locator("input[name=csrf]").first.input_value()
        found = page.evaluate(CACHED)
        paths = {re.sub(r"^https?://[^/]+|\?.*$", "", address) for address in found}
        assert {path for path in paths if not path.startswith("/static/")} == {"/offline/en"}
        for text in found.values():
            assert SHELTER not in text
            assert token not in text
        assert kept(page) == []
        assert page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])") == "[{},{}]"


def test_the_worker_does_not_lend_the_cookie_to_another_site(people: People, line: Line) -> None:
    """What a worker fetches counts as asked for by its own site; so it must not fetch pages, and never a form."""
    other = "http://elsewhere.example/"
    with people.visit(STAFF, anew=True) as page:
        page.seen.away_to = other
        page.goto("/sessions")
        wait_for_the_worker(page)
        url = page.url.removesuffix("/sessions")
        body = (
            f'<a href="{url}/sessions">there</a><form method="post" action="{url}/sign-out"><button>out</button></form>'
        )
        page.route(
            f"{other}**",
            lambda route: route.fulfill(status=200, content_type="text/html", body=f"<link rel=icon href=data:>{body}"),
        )
        page.goto(other)
        page.click("a")
        page.wait_for_url("**/oauth/authorize**")
        page.goto(other)
        page.seen.expected = 403
        page.click("button")
        page.wait_for_url("**/sign-out")
        page.seen.expected = 0
        page.goto("/sessions")
        assert page.locator("form[action='/sign-out']").count() == 1, "still signed in"


def test_a_new_release_replaces_the_shell_and_the_language_of_the_page_is_that_of_the_worker(
    people: People, line: Line
) -> None:
    with people.visit(STAFF, "nl") as page:
        page.goto("/sessions")
        wait_for_the_worker(page)
        before = page.evaluate("caches.keys()")
        page.goto("/language/fr?to=/sessions")
        wait_for_the_worker(page)
        (after,) = page.evaluate("caches.keys()")
        assert after not in before
        with cut(line, page):
            page.goto("/asks")
            assert page.locator("html").get_attribute("lang") == "fr"


# Numbers that wait


def test_a_number_waits_for_the_line_says_so_and_is_sent_once(
    people: People, line: Line, scene: Scene, node: RunningNode
) -> None:
    before = unit_of(scene)
    said = reports(node, before)
    free = another(before)
    with people.visit(STAFF, anew=True) as page:
        page.goto("/places")
        with cut(line, page):
            say_free(page, free)
            waiting = page.locator(
                "#kept", has_text=f"Not sent yet: unit {name_of(before)} has {free} free. It will be sent"
            )
            waiting.wait_for()
            assert findings(page) == []
            assert too_wide(page) == []
            picture(page, "places-not-sent-yet")
            say_free(page, free)  # once more, out of impatience
            page.wait_for_timeout(500)
            (one,) = kept(page)
            assert SHELTER not in json.dumps(one)
            assert name_of(before) not in one[2]
        page.locator(".govuk-notification-banner", has_text=f"unit {name_of(before)} has {free} free").wait_for(
            timeout=20_000
        )
        picture(page, "places-sent-later")
        assert unit_of(scene)["free"] == free
        assert reports(node, before) == said + 1
        assert kept(page) == []


def test_nothing_changed_waits_for_the_line_too(people: People, line: Line, scene: Scene) -> None:
    before = unit_of(scene)
    with people.visit(STAFF) as page:
        page.goto("/places")
        with cut(line, page):
            page.locator(".govuk-button--start").click()
            page.locator("#kept", has_text="Not sent yet: nothing changed.").wait_for()
        page.locator(".govuk-notification-banner", has_text="nothing changed").wait_for(timeout=20_000)
        assert unit_of(scene)["reported_at"] > before["reported_at"]


def test_who_types_on_keeps_what_is_typed_when_the_number_goes(people: People, line: Line, scene: Scene) -> None:
    free = another(unit_of(scene))
    with people.visit(STAFF) as page:
        page.goto("/places")
        with cut(line, page):
            say_free(page, free)
            page.locator("#kept", has_text="Not sent yet").wait_for()
            page.locator("details summary").first.click()
            page.fill("#blocked-1", "17")
        page.locator("#kept", has_text=re.compile(r"Saved \d\d:\d\d: unit")).wait_for(timeout=20_000)
        assert page.input_value("#blocked-1") == "17"
        assert unit_of(scene)["free"] == free


def test_a_number_that_somebody_overtook_is_shown_beside_theirs(people: People, line: Line, scene: Scene) -> None:
    before = unit_of(scene)
    with people.visit(STAFF) as page:
        page.goto("/places")
        path = f"/shelters/{SHELTER}/units/{before['unit_id']}/capacity"
        seen = scene.send(STAFF, "GET", path)
        theirs = {"beds": before["beds"], "free": 0}
        scene.send(STAFF, "PUT", path, theirs, If_Match=seen.headers["etag"])
        with cut(line, page):
            say_free(page, another(before))
            page.locator("#kept", has_text="Not sent yet").wait_for()
        page.locator("#kept", has_text="Something moved meanwhile").wait_for(timeout=30_000)
        assert findings(page) == []
        picture(page, "places-overtaken")
        assert unit_of(scene)["free"] == 0, "nothing is overwritten"
        page.seen.expected = 412
        page.get_by_role("button", name="Compare").click()
        page.locator("table", has_text="What you sent").wait_for()
        picture(page, "places-conflict-of-a-kept-number")
        assert kept(page) == []
        page.get_by_role("button", name="Save what I sent").click()
        page.locator(".govuk-notification-banner").wait_for()
        assert unit_of(scene)["free"] == another(before)


def test_a_number_outlives_its_session_and_is_nobody_elses(people: People, line: Line, scene: Scene) -> None:
    before = unit_of(scene)
    free = another(before)
    with people.visit(STAFF, anew=True) as page:
        page.goto("/places")
        with people.visit(STAFF, anew=True) as other:
            other.goto("/sessions")
            other.locator("form:has(input[value=all]) button").click()  # signed out everywhere, on another device
            other.wait_for_load_state()
        people._kept.clear()
        with cut(line, page):
            say_free(page, free)
            page.locator("#kept", has_text="Not sent yet").wait_for()
        page.locator("#kept", has_text="You have to sign in again first").wait_for(timeout=30_000)
        assert findings(page) == []
        picture(page, "places-sign-in-first")
        assert unit_of(scene)["revision"] == before["revision"]

        # Somebody else signs in on the same device: nothing is shown to them, nothing is sent as them.
        people.sign_in(page, NEIGHBOUR)
        page.goto("/places")
        page.wait_for_timeout(1_500)
        assert page.locator("#kept").inner_text() == ""
        assert len(kept(page)) == 1
        assert unit_of(scene)["revision"] == before["revision"]

        page.context.clear_cookies(name="haven")
        people.sign_in(page, STAFF)
        page.goto("/places")
        page.locator("#kept", has_text=f"has {free} free. It is kept for an hour").wait_for()
        assert findings(page) == []
        picture(page, "places-kept-over-a-sign-in")
        assert unit_of(scene)["revision"] == before["revision"], "not by itself"
        page.get_by_role("button", name="Send it now").click()
        page.locator(".govuk-notification-banner", has_text=f"{free} free").wait_for()
        assert unit_of(scene)["free"] == free
        assert kept(page) == []


def test_a_number_older_than_an_hour_is_forgotten(people: People, line: Line, scene: Scene) -> None:
    before = unit_of(scene)
    with people.visit(STAFF) as page:
        page.goto("/places")
        with cut(line, page):
            say_free(page, another(before))
            page.locator("#kept", has_text="Not sent yet").wait_for()
            page.context.route("**/places", lambda route: route.abort("internetdisconnected"))
        page.evaluate("const real = Date.now; Date.now = () => real() + 3_700_000")
        page.locator("#kept", has_text="It waited for an hour and is forgotten").wait_for(timeout=20_000)
        page.context.unroute("**/places")
        assert kept(page) == []
        assert unit_of(scene)["revision"] == before["revision"]
        forgive(page)


@pytest.mark.parametrize("how", ["/exit", "/sign-out"])
@pytest.mark.parametrize("has_line", [True, False], ids=["with a line", "without"])
def test_whoever_leaves_leaves_nothing_behind(people: People, line: Line, how: str, has_line: bool) -> None:
    with people.visit(STAFF, anew=True) as page:
        page.seen.away_to = "https://www.meteo.be/"
        page.context.route(
            "https://www.meteo.be/**",
            lambda route: route.fulfill(status=200, content_type="text/html", body="<link rel=icon href=data:>sun"),
        )
        page.goto("/places")
        wait_for_the_worker(page)
        with cut(line, page):
            say_free(page, 0)
            page.locator("#kept", has_text="Not sent yet").wait_for()
            assert len(kept(page)) == 1
            page.context.route("**/places", lambda route: route.abort("internetdisconnected"))
            if not has_line:
                page.locator(f"form[action='{how}'] button").click()
                page.wait_for_timeout(1_500)
        if has_line:
            page.locator(f"form[action='{how}'] button").click()
            page.wait_for_timeout(1_500)
        page.context.unroute("**/places")
        page.goto("/healthz")  # of the same site, and without any script of ours
        # The worker does it, which outlives the page and may take a moment.
        until(page, "caches.keys().then(all => !all.length)")
        until(page, "indexedDB.databases().then(all => !all.length)")
        until(page, "navigator.serviceWorker.getRegistrations().then(all => !all.length)")
        forgive(page)


# How far a page can be trusted


def test_a_page_that_lives_says_so_says_when_it_does_not_and_catches_up(people: People, line: Line) -> None:
    with people.visit(COORDINATOR, viewport={"width": 1280, "height": 900}) as page, people.visit(POLICE) as police:
        page.goto("/board")
        state = page.locator("[data-live-state]")
        assert state.inner_text() == "Live"
        with cut(line, page):
            page.locator("#live[data-condition=again]").wait_for(timeout=15_000)
            assert state.inner_text() == "Reconnecting"
            page.locator("#live[data-condition=stale]").wait_for(timeout=60_000)
            said = re.fullmatch(r"Not updated since (\d\d:\d\d)", state.inner_text())
            assert said
            assert findings(page) == []
            picture(page, "board-not-updated")
        case = open_a_case(police)
        page.locator(f"#case-{case}").wait_for(timeout=60_000)
        page.locator("#live[data-condition=live]").wait_for()
        assert page.locator("[data-live-said]").inner_text() != ""


def test_a_page_that_lives_can_be_paused(people: People, line: Line) -> None:
    with people.visit(COORDINATOR) as page, people.visit(POLICE) as police:
        page.goto("/board")
        page.wait_for_timeout(1_000)
        page.get_by_role("button", name="Pause").click()
        assert page.locator("[data-live-state]").inner_text().startswith("Paused. Not updated since ")
        case = open_a_case(police)
        page.wait_for_timeout(4_000)
        assert page.locator(f"#case-{case}").count() == 0
        assert findings(page) == []
        page.get_by_role("button", name="Go on").click()
        page.locator(f"#case-{case}").wait_for(timeout=10_000)
        assert page.locator("[data-live-state]").inner_text() == "Live"


def test_what_is_said_aloud_is_said_at_most_every_thirty_seconds(people: People, line: Line) -> None:
    with people.visit(STAFF) as page:
        page.goto("/asks")
        page.wait_for_timeout(500)
        page.evaluate("""() => {
            window.spoken = [];
            const place = document.querySelector("[data-live-said]");
            new MutationObserver(() => window.spoken.push([Date.now(), place.textContent])).observe(place, {childList: true, characterData: true, subtree: true});
        }""")
        for _ in range(3):
            with cut(line, page):
                page.wait_for_timeout(7_000)
            page.wait_for_timeout(5_000)
        times = [at for at, _ in page.evaluate("window.spoken")]
        assert all(later - earlier >= 29_000 for earlier, later in itertools.pairwise(times)), times


def test_a_page_with_a_form_says_that_it_changed_and_moves_nothing(people: People, line: Line, scene: Scene) -> None:
    with people.visit(STAFF) as page, people.visit(STAFF, anew=True) as colleague:
        page.goto("/places")
        page.fill("#free-1", "3")
        colleague.goto("/places")
        colleague.locator(".govuk-button--start").click()
        colleague.locator(".govuk-notification-banner").wait_for()
        page.locator("[data-live-changed]", has_text="Something here has changed").wait_for(timeout=15_000)
        assert page.input_value("#free-1") == "3"
        assert findings(page) == []
        assert too_wide(page) == []
        picture(page, "places-changed")


def open_a_case(police: Any) -> str:
    police.goto("/requests/new")
    police.select_option("#region", "BE21")
    police.fill("#women", "1")
    police.check("input[name=consented_countries][value=NL]")
    police.fill("#callback", "synthetic: ask the desk for the night officer")
    police.click("main form button")
    police.wait_for_url("**/requests/*")
    return str(police.url.rpartition("/")[2])
