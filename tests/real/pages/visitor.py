"""Somebody at the pages with a real browser, and what must be true of every page they see."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import axe_playwright_python

from tests.journeys.process import RunningNode

WIDTHS = (320, 390, 1280)
LANGUAGES = ("nl", "fr", "de", "en")
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
SCREENSHOTS = os.environ.get("HAVEN_TEST_SCREENSHOTS", "")
"""A folder to put a picture of each page into; none if empty."""
THEIRS = ".swagger-ui"
"""The one part of a page that is not ours. What it says stands in the documents that the same page links."""
HEADING = f"h1:not({THEIRS} h1)"
SIGNED_IN_FOR = 480.0
"""Seconds after which a kept session may have been idle for too long."""


class Seen:
    """What a browser met on the way: everything in `errors` is a failure."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.errors: list[str] = []
        self.addresses: list[str] = []
        self.away_to = ""
        self.expected = 0
        """A status that this page is meant to have."""

    def watch(self, page: Any) -> None:
        page.on(
            "console",
            lambda message: self._note(
                message.type in ("error", "warning"), f"console: {message.text} {message.location}"
            ),
        )
        page.on("pageerror", lambda error: self._note(True, f"error: {error}"))
        page.on("request", self._asked)
        page.on("response", lambda answer: self._note(answer.status >= 400, f"{answer.status}: {answer.url}"))

    def _asked(self, asked: Any) -> None:
        self.addresses.append(asked.url)
        away = self.away_to and asked.url.startswith(self.away_to)
        self._note(not asked.url.startswith((self.url, "data:", "blob:")) and not away, f"foreign request: {asked.url}")

    def _note(self, wrong: bool, what: str) -> None:
        # Chromium says in the console too that a page had a status of 400 or more.
        refused = str(self.expected)
        expected = self.expected and (what.startswith(f"{refused}: ") or f"with a status of {refused}" in what)
        if wrong and not expected:
            self.errors.append(what)


@dataclass
class People:
    """Everybody who has a login. Each signs in once and comes back with the same session."""

    browser: Any
    url: str
    logins: dict[str, str]
    _kept: dict[str, tuple[float, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, browser: Any, node: RunningNode) -> Self:
        return cls(browser, node.url, json.loads(node.logins.read_text()))

    @contextmanager
    def visit(self, who: str = "", language: str = "en", *, anew: bool = False, **settings: Any) -> Iterator[Any]:
        """A page of `who`'s own browser; of a stranger's if empty. `anew`: with a session of its own."""
        state = None if anew or not who else self._session_of(who)
        with self._page(language, storage_state=state, **settings) as (page, seen):
            if anew:
                self.sign_in(page, who)
            page.seen = seen
            yield page
            assert not seen.errors, "\n".join(seen.errors)

    def sign_in(self, page: Any, who: str) -> None:
        page.goto("/sign-in")
        page.locator("#username").fill(who)
        page.locator("#password").fill(self.logins[who])
        page.locator("main button").click()
        page.wait_for_url(lambda address: "/oauth/" not in address and "/signed-in" not in address)

    @contextmanager
    def _page(self, language: str, **settings: Any) -> Iterator[tuple[Any, Seen]]:
        settings = {"viewport": {"width": 390, "height": 850}} | settings
        context = self.browser.new_context(base_url=self.url, **settings)
        context.add_cookies([{"name": "haven-language", "value": language, "url": self.url, "httpOnly": True}])
        seen = Seen(self.url)
        page = context.new_page()
        seen.watch(page)
        try:
            yield page, seen
        finally:
            context.close()

    def _session_of(self, who: str) -> Any:
        since, state = self._kept.get(who, (0.0, None))
        if state is None or time.monotonic() - since > SIGNED_IN_FOR:
            with self._page("en") as (page, _):
                self.sign_in(page, who)
                state = page.context.storage_state()
        self._kept[who] = (time.monotonic(), state)
        return state


def findings(page: Any, *, without: tuple[str, ...] = ()) -> list[str]:
    """What axe finds on the page, by rule and place."""
    page.evaluate(AXE)  # by the debugger: the page's own policy lets no foreign script in
    rules = {name: {"enabled": False} for name in without}
    # What passed is long, and nobody reads it: to gather it and to hand it over would take most of the time.
    options = {"runOnly": RULES, "rules": rules, "resultTypes": ["violations"]}
    violations = page.evaluate(
        "([what, options]) => axe.run(what, options).then(found => found.violations)", [{"exclude": [THEIRS]}, options]
    )
    return [f"{one['id']}: {node['target']}" for one in violations for node in one["nodes"]]


def too_wide(page: Any) -> list[str]:
    """At which widths the page would have to be moved sideways, and by how much."""
    wrong = []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 850})
        if (more := page.evaluate("document.documentElement.scrollWidth - window.innerWidth")) > 0:
            wrong.append(f"{more} px at {width}")
    page.set_viewport_size({"width": 390, "height": 850})
    return wrong


def must_be_sound(page: Any, what: str, *, without: tuple[str, ...] = ()) -> None:
    """What holds for every page in every state: axe has nothing to say, it has one heading, and is never too wide."""
    assert page.locator(HEADING).count() == 1, what
    found, wide = findings(page, without=without), too_wide(page)
    assert not found, f"{what}: {found}"
    assert not wide, f"{what}: {wide}"
    picture(page, what)


def must_be_out(page: Any, url: str) -> None:
    """The session ends: an exit leaves the page at once, and does not wait for that."""
    for _ in range(40):
        page.goto(f"{url}/sessions")
        if "/oauth/authorize" in page.url:
            return
        page.wait_for_timeout(250)
    raise AssertionError("whoever has left is still signed in")


def picture(page: Any, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png", full_page=True)
