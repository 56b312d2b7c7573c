"""The pictures of the README show what is there: each is of a page of the scene, and its text is what that page says now.

`make pictures` takes them anew, in Chromium, on a clock that stands still, and writes down beside them what they say. Otherwise
nothing is written: a page that has changed since fails here, and so does a picture that nobody took this way.
"""

import hashlib
import json
import os
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from services.config import Settings
from services.first_look import LedNode, make_scene
from services.gateway.pages.sessions import Session
from services.gateway.principals import SCOPES_OF_ROLE, Account, Principal
from services.serving import server_of
from simulation.scene.stories import STORIES
from tests.journeys.process import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
PICTURES = ROOT / "docs/pictures"
SAID = PICTURES / "said.json"
"""What each picture says, and the digest of its file."""
TAKE = os.environ.get("HAVEN_TEST_PICTURES") == "take"
MOMENT = datetime(2026, 11, 26, 14, 5, tzinfo=UTC)
LARGEST = 150 * 1024
WALL, DESK, PHONE = (1600, 1040), (1200, 760), (390, 760)


class Picture(NamedTuple):
    """One page as somebody sees it. `path` may name the newest case of a story."""

    name: str
    who: str
    path: str
    story: str
    size: tuple[int, int]
    at: str = "body"
    """What is at the top of the picture."""
    scale: float = 1.0

    @property
    def pixels(self) -> tuple[int, ...]:
        return tuple(int(length * self.scale) for length in self.size)


TAKEN = (
    Picture("board", "be-coordinator-1", "/board", "", WALL, ".haven-board", scale=0.75),
    Picture("shortlist", "be-coordinator-1", "/requests/{case}/shortlist", "an offer from Luxembourg", DESK, "main h2"),
    Picture("ask", "{shelter}", "/asks/{ask}", "mother and child, one shelter said no", PHONE, "main form"),
    Picture("case", "be-police-antwerp-1", "/requests/{case}", "a journey under way", PHONE, "main h1"),
)
NAMES = [picture.name for picture in TAKEN]


class Pictured(NamedTuple):
    """The scene, served on a clock that stands still."""

    led: LedNode
    url: str

    def cookie(self, account: Account) -> str:
        now = datetime.now(UTC)
        principal = Principal(
            person=account.person,
            role=account.role,
            organisation=account.organisation,
            country=account.country,
            scopes=SCOPES_OF_ROLE[account.role],
            client_id="haven-pages",
            token_id="picture",
            issued_at=now,
            authenticated_at=now,
            acr="",
            confirmation=None,
        )
        session = Session(csrf="picture", principal=principal, checked_at=int(now.timestamp()))
        return self.led.node.sessions.begin(session)

    def led_to(self, picture: Picture) -> tuple[Account, str]:
        """Who looks, and at which address."""
        views = self.led.core.read_model.requests([f"coordinator:{code}" for code in ("BE", "NL", "LU")], None, 100)
        story = next((story for story in STORIES if story.name == picture.story), None)
        case = next(
            (view for view in views if story is not None and story.is_told_by(view)), {"request_id": "", "asks": {}}
        )
        asks = sorted((ask for ask in case["asks"].values() if ask["state"] == "open"), key=lambda ask: ask["ask_id"])
        names = {"case": case["request_id"]}
        if asks:
            names |= {"ask": asks[0]["ask_id"], "shelter": f"{asks[0]['shelter_id']}-staff"}
        who = picture.who.format(**names)
        account = next(account for account in self.led.node.accounts if account.username == who)
        return account, picture.path.format(**names)


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pictured]:
    port = free_port()
    settings = Settings(data_dir=tmp_path_factory.mktemp("pictured") / "data", port=port)
    assert make_scene(settings, lambda: MOMENT, random_bytes=Random(2026).randbytes)
    led = LedNode(settings, MOMENT)
    server, feed, stopped = server_of(led.node.app, "127.0.0.1", port), led.node.gateway.feed, threading.Event()
    for target in (server.run, lambda: feed.run(stopped)):
        threading.Thread(target=target, daemon=True).start()
    yield Pictured(led, settings.url)
    feed.hang_up()
    stopped.set()
    server.task_dispatcher.shutdown()
    server.close()
    led.node.stop()


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--font-render-hinting=none"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@contextmanager
def looked_at(browser: Any, pictured: Pictured, picture: Picture, *, with_scripts: bool) -> Iterator[Any]:
    account, path = pictured.led_to(picture)
    width, height = picture.size
    context = browser.new_context(
        base_url=pictured.url,
        viewport={"width": width, "height": height},
        device_scale_factor=picture.scale,
        locale="en-GB",
        timezone_id="Europe/Brussels",
        java_script_enabled=with_scripts,
        reduced_motion="reduce",
        service_workers="block",
    )
    context.add_cookies([{"name": "haven", "value": pictured.cookie(account), "url": pictured.url}])
    page = context.new_page()
    if with_scripts:
        page.clock.set_fixed_time(MOMENT)
    try:
        assert page.goto(path).status == 200, path
        yield page
    finally:
        context.close()


def text_of(page: Any) -> list[str]:
    """What the page says, line by line."""
    lines = page.locator("main").inner_text().splitlines()
    return [line for line in (re.sub(r"\s+", " ", line).strip() for line in lines) if line]


def take(browser: Any, pictured: Pictured, picture: Picture) -> dict[str, Any]:
    file = PICTURES / f"{picture.name}.png"
    with looked_at(browser, pictured, picture, with_scripts=True) as page:
        page.evaluate("document.fonts.ready")
        page.wait_for_timeout(1_000)  # until the board says that it is live
        page.locator(picture.at).first.evaluate("part => window.scrollTo(0, part.getBoundingClientRect().top - 48)")
        page.screenshot(path=file, animations="disabled", caret="hide")
    with looked_at(browser, pictured, picture, with_scripts=False) as page:
        return {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "text": text_of(page)}


@pytest.mark.skipif(not TAKE, reason="pictures are taken with `make pictures`")
def test_take_the_pictures(browser: Any, pictured: Pictured) -> None:
    PICTURES.mkdir(exist_ok=True)
    said = {picture.name: take(browser, pictured, picture) for picture in TAKEN}
    SAID.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")


def said() -> dict[str, Any]:
    return dict(json.loads(SAID.read_text()))


@pytest.mark.parametrize("picture", TAKEN, ids=NAMES)
def test_a_picture_says_what_its_page_says_now(browser: Any, pictured: Pictured, picture: Picture) -> None:
    with looked_at(browser, pictured, picture, with_scripts=False) as page:
        now, then = text_of(page), said()[picture.name]["text"]
        # The words count: where a line ends is a matter of style.
        assert " ".join(now) == " ".join(then), "the page has changed: run `make pictures`, and look at them"


@pytest.mark.parametrize("picture", TAKEN, ids=NAMES)
def test_a_picture_is_the_one_that_was_taken_and_not_too_large(picture: Picture) -> None:
    content = (PICTURES / f"{picture.name}.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", content[16:24]) == picture.pixels
    assert len(content) <= LARGEST
    assert hashlib.sha256(content).hexdigest() == said()[picture.name]["sha256"]


def test_the_readme_shows_every_picture_and_says_what_is_on_it() -> None:
    shown = dict(
        re.findall(r'<img src="docs/pictures/([\w-]+)\.png"[^>]* alt="([^"]{20,})"', (ROOT / "README.md").read_text())
    )
    assert sorted(shown) == sorted(NAMES)
    assert sorted(path.stem for path in PICTURES.glob("*.png")) == sorted(NAMES)
