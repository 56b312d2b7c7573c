"""What a browser that has nothing yet has to load for a page, counted by the browser itself on the line."""

from typing import Any

import pytest

from tests.real.pages.scene import Scene
from tests.real.pages.visitor import People

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

MOST = 60_000
BOARD = 70_000
"""The board alone brings htmx along (15 KB), to change under somebody's eyes without moving what they read; it is read at a desk."""
PAGES = {
    "be-police-antwerp-1": ("/requests/new", "/requests", "case", "/help"),
    "nl-shelter-01-staff": ("/places", "/asks", "/requests"),
    "be-coordinator-1": ("/board", "/requests", "/asks", "case", "case/shortlist"),
    "be-auditor-1": ("/audit", "/sessions"),
    "": ("/", "/help", "/help/paper"),
}


def loaded(page: Any, path: str) -> dict[str, int]:
    """Bytes on the line by address, headers and all."""
    network = page.context.new_cdp_session(page)
    addresses: dict[str, str] = {}
    sizes: dict[str, int] = {}
    network.on(
        "Network.requestWillBeSent", lambda event: addresses.setdefault(event["requestId"], event["request"]["url"])
    )
    network.on(
        "Network.loadingFinished",
        lambda event: sizes.__setitem__(addresses.get(event["requestId"], "?"), int(event["encodedDataLength"])),
    )
    network.send("Network.enable")
    network.send("Network.clearBrowserCache")
    page.goto(path)
    page.wait_for_load_state("load")
    page.wait_for_timeout(500)
    network.detach()
    return sizes


@pytest.mark.parametrize(("who", "path"), [(who, path) for who, paths in PAGES.items() for path in paths])
def test_a_page_is_there_with_little_even_the_first_time(people: People, scene: Scene, who: str, path: str) -> None:
    address = path.replace("case", f"/requests/{scene.opened()}") if path.startswith("case") else path
    with people.visit(who, "de") as page:
        page.goto("about:blank")
        sizes = loaded(page, address)
        assert any("/static/haven.css" in one for one in sizes), "counted cold"
        total = sum(size for one, size in sizes.items() if "/live" not in one)
        assert total < (BOARD if path == "/board" else MOST), sizes
