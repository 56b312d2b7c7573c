"""One node and one browser for all tests of the pages that a worker runs, and the people who use them."""

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


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with WalkedNode(tmp_path_factory.mktemp("node"), speed=1) as node:
        yield node


@pytest.fixture(scope="session")
def logins(node: RunningNode) -> dict[str, str]:
    return dict(json.loads(node.logins.read_text()))


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def people(browser: Any, node: RunningNode) -> People:
    return People.of(browser, node)


@pytest.fixture(scope="session")
def scene(node: RunningNode, logins: dict[str, str]) -> Scene:
    return Scene(Client(node.url, logins))
