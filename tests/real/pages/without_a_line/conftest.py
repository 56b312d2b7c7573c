"""One node behind a line for all of these tests."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from services.api_client import Client
from tests.journeys.process import RunningNode
from tests.real.pages.scene import Scene
from tests.real.pages.visitor import People
from tests.real.pages.without_a_line.line import Line, NodeBehindALine, unit_of


@pytest.fixture(scope="package")
def line() -> Line:
    return Line()


@pytest.fixture(scope="package")
def node(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with NodeBehindALine(tmp_path_factory.mktemp("node"), line) as node:
        yield node


@pytest.fixture(scope="package")
def logins(node: RunningNode) -> dict[str, str]:
    return dict(json.loads(node.logins.read_text()))


@pytest.fixture(scope="module")
def people(browser: Any, line: Line, logins: dict[str, str]) -> People:
    return People(browser, line.url, logins)


@pytest.fixture(scope="package")
def scene(line: Line, logins: dict[str, str]) -> Scene:
    scene = Scene(Client(line.url, logins))
    before = None
    while before != (before := unit_of(scene)["revision"]):
        time.sleep(3)  # the scene that a new node opens on still asks shelters
    return scene
