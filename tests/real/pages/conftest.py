"""One node and one browser for each module of tests of the pages, and the people who use them."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from services.api_client import Client
from tests.journeys.process import RunningNode
from tests.real.pages.scene import Scene
from tests.real.pages.visitor import People


class WalkedNode(RunningNode):
    """A test opens more pages in a minute, and asks for more beds, than anybody may."""

    @property
    def settings(self) -> dict[str, object]:
        return super().settings | {"requests_per_minute": 0, "beds_at_once": 0}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with WalkedNode(tmp_path_factory.mktemp("node"), speed=1) as node:
        yield node


@pytest.fixture(scope="module")
def logins(node: RunningNode) -> dict[str, str]:
    return dict(json.loads(node.logins.read_text()))


# Not for the session: while it is open its event loop is this thread's, and a test of the same worker can start none of its own.
@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def people(browser: Any, node: RunningNode) -> People:
    return People.of(browser, node)


@pytest.fixture(scope="module")
def scene(node: RunningNode, logins: dict[str, str]) -> Scene:
    return Scene(Client(node.url, logins))
