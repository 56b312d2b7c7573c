"""How a board keeps up with what moves: the last change is always on it soon, however the changes fall, and it asks no more often
than at its pace. When it asks is timed in the page itself: a busy browser sends a fetch later than it was asked to."""

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest

from tests.real.pages.scene import ORIGIN, Scene
from tests.real.pages.visitor import People

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

APART = 2_000
"""Milliseconds between two fetches (frontend/live.js)."""
CLOCK = 5
"""The browser's clock and its timers may differ by so much."""
SOON = 7_000
"""Less than three seconds where nothing else runs; before ten, when a board that waits in vain asks once more (frontend/live.js)."""
QUIET = 3.0
"""Seconds after which nothing is under way any more."""
STAFF = "nl-shelter-01-staff"


class Beds:
    """One shelter that says again and again how many beds it has free."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        shelter = STAFF.removesuffix("-staff")
        unit = scene.send(STAFF, "GET", f"/shelters/{shelter}/units").body["units"][0]
        self._path = f"/shelters/{shelter}/units/{unit['unit_id']}/capacity"
        self.free = self._seen().body["free"]

    def _seen(self) -> Any:
        return self._scene.send(STAFF, "GET", self._path)

    def fewer(self) -> None:
        seen = self._seen()
        self.free = seen.body["free"] - 1
        report = {"beds": seen.body["beds"], "free": self.free}
        self._scene.send(STAFF, "PUT", self._path, report, If_Match=seen.headers["etag"])


class OpenBoard:
    """A board that is never loaded again."""

    def __init__(self, page: Any) -> None:
        self._page = page
        page.goto("/board")
        page.evaluate(
            """globalThis.asked = []; document.addEventListener("moved", () => asked.push(Date.now()), true)"""
        )
        page.locator("#live[data-condition=live]").wait_for()
        self._cell = page.locator("section[aria-labelledby=capacity] tr", has_text="Netherlands").locator("td").first
        self.rest()

    def free(self) -> int:
        return int(self._cell.inner_text())

    def rest(self) -> None:
        """Until nothing is under way."""
        ends = time.monotonic() + 30
        count = -1
        while count != (count := len(self.fetches())):
            assert time.monotonic() < ends
            self._page.wait_for_timeout(QUIET * 1000)

    def comes_to(self, free: int) -> None:
        self._cell.filter(has_text=str(free)).wait_for(timeout=SOON)

    def fetches(self) -> list[int]:
        """When it asked for what stands now, in the browser's milliseconds."""
        return list(self._page.evaluate("asked"))

    def keeps_pace(self) -> None:
        gaps = [after - before for before, after in pairwise(self.fetches())]
        assert all(gap >= APART - CLOCK for gap in gaps), gaps


@pytest.fixture
def page(people: People) -> Iterator[Any]:
    with people.visit(ORIGIN) as page:
        yield page


@pytest.mark.parametrize(
    "pauses",
    [(0, 0, 0, 0), (0.4, 0.4, 0.4), (0.9, 0.9), (1.3,), (1.9,), (2.1, 0.1), (0.1, 2.1, 0.1, 1.8, 0.1)],
    ids=str,
)
def test_the_last_of_several_changes_is_on_the_board_soon_however_they_fall(
    page: Any, scene: Scene, pauses: Sequence[float]
) -> None:
    beds, board = Beds(scene), OpenBoard(page)
    shown, had = board.free(), beds.free
    before = len(board.fetches())
    beds.fewer()
    for pause in pauses:
        time.sleep(pause)
        beds.fewer()
    board.comes_to(shown - (had - beds.free))
    assert had - beds.free == len(pauses) + 1
    board.rest()
    assert board.free() == shown - (had - beds.free), "and it stays"
    board.keeps_pace()
    assert len(board.fetches()) > before


def test_what_moves_while_an_answer_is_on_its_way_is_asked_for_again(page: Any, scene: Scene) -> None:
    beds, board = Beds(scene), OpenBoard(page)
    shown, had = board.free(), beds.free
    overtaken: list[int] = []

    def overtake(route: Any) -> None:
        """The answer is made, then something moves and is heard of, and only then does the answer arrive."""
        answer = route.fetch()
        if not overtaken:
            beds.fewer()
            overtaken.append(beds.free)
            time.sleep(1.5 * APART / 1000)  # it is heard meanwhile, and the pace is over
        route.fulfill(response=answer)

    page.route("**/board", overtake)
    beds.fewer()
    page.wait_for_timeout(2 * APART)
    assert overtaken
    board.comes_to(shown - (had - beds.free))
    board.keeps_pace()
