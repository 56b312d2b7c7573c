"""What changes on an open board without anything moving: time passes, and whoever rings falls silent. Time runs sixty times as fast;
the browser is deaf to all that moves, so that nothing but the clock and the beats of the stream can bring the board up to date."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.journeys.process import RunningNode
from tests.real.pages.conftest import WalkedNode
from tests.real.pages.scene import HOST, Scene
from tests.real.pages.visitor import People

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

SPEED = 60
"""Twenty minutes are twenty seconds."""
PATIENCE = 45_000
"""Twenty seconds, or two beats; and what a loaded machine takes."""
DEAF = """
const listen = EventSource.prototype.addEventListener;
EventSource.prototype.addEventListener = function (name, hear) {
    listen.call(this, name, (event) => name === "moved" && globalThis.isDeaf ? undefined : hear(event));
};
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with WalkedNode(tmp_path_factory.mktemp("node"), speed=SPEED) as node:
        yield node


@pytest.fixture(params=["/board", "/board?wall=1"])
def deaf(people: People, scene: Scene, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A board that has just shown a new case, and hears of nothing that moves from then on."""
    with people.visit(HOST) as page:
        page.add_init_script(DEAF)
        page.goto(request.param)
        page.locator("#live[data-condition=live]").wait_for()
        case = scene.opened()
        page.locator(f"#case-{case}").wait_for(timeout=PATIENCE)
        page.evaluate("document.body.dataset.loaded = 'once'; globalThis.isDeaf = true")
        yield page
        assert page.evaluate("document.body.dataset.loaded") == "once", "by itself, not by loading the page again"


def ringing(node: RunningNode, *, is_on: bool) -> None:
    """Somebody who rings people has just looked whom; or nobody ever did."""
    with closing(sqlite3.connect(node.data_dir / "gateway.sqlite", timeout=20)) as database, database:
        database.execute("DELETE FROM ringing")
        if is_on:
            database.execute("INSERT INTO ringing VALUES ('looked_at', ?)", [datetime.now(UTC).isoformat()])


def test_a_shelter_that_stays_silent_is_put_on_the_call_list_by_time_alone(deaf: Any, node: RunningNode) -> None:
    if "wall" in deaf.url:
        call = deaf.get_by_text("to make")
        ringing(node, is_on=True)
        call.wait_for(state="detached", timeout=PATIENCE)
    else:
        assert "It does not answer" not in deaf.locator("#standing").inner_text()
        call = deaf.locator("section[aria-labelledby=calls]", has_text="It does not answer")
    call.wait_for(timeout=PATIENCE)


def test_a_board_says_by_itself_whether_people_are_rung(people: People, node: RunningNode) -> None:
    with people.visit(HOST) as page:
        ringing(node, is_on=False)
        page.add_init_script(f"{DEAF} globalThis.isDeaf = true")
        page.goto("/board")
        nobody = page.get_by_text("Haven rings nobody at the moment")
        nobody.wait_for()
        ringing(node, is_on=True)
        nobody.wait_for(state="detached", timeout=PATIENCE)
        ringing(node, is_on=False)
        nobody.wait_for(timeout=PATIENCE)
