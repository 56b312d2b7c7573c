"""What a browser that has nothing yet has to load for a page, counted by the browser itself on the line."""

from pathlib import Path
from typing import Any

import pytest

from tests.real.pages.scene import Scene
from tests.real.pages.visitor import People

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

MOST = 60_000
PAGES = {
    "be-police-antwerp-1": ("/requests/new", "/requests", "case", "case/timeline", "case/consent", "/help"),
    "nl-shelter-01-staff": ("/places", "/asks", "/requests"),
    "be-coordinator-1": (
        *("/board", "/board?wall=1", "/regions", "/requests", "/asks"),
        *("case", "case/shortlist", "case/timeline", "case/disclosures"),
    ),
    "be-auditor-1": ("/audit", "/audit?purpose=lawfulness_check", "/sessions"),
    "": ("/", "/help", "/help/paper", "/accessibility", "/docs/problems"),
}
"""But for the view of the API, which is for programmers."""
ROOT = Path(__file__).resolve().parents[3]
WORDS = (*ROOT.glob("services/gateway/locale/*.po"), *ROOT.glob("services/gateway/templates/*.html"))


SAID = """async ([letters, weight]) => {
    const line = document.createElement("p");
    line.id = "said";
    line.className = "govuk-body";
    line.textContent = letters;
    line.style.fontWeight = weight;
    document.querySelector("main").append(line);
    await document.fonts.ready;
    const files = performance.getEntriesByType("resource").map(({ name }) => name.match(/next-(.*)\\.woff2/)?.[1]);
    return files.filter(Boolean);
}"""


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
        assert total < MOST, sizes


@pytest.mark.parametrize("weight", [400, 700])
def test_every_letter_of_every_language_is_of_the_one_font_that_is_loaded(people: People, weight: int) -> None:
    written = {letter for file in WORDS for letter in file.read_text() if letter.isprintable() and letter != " "}
    assert {*"éëçßÄ“„«»"} <= written
    letters = "".join(sorted(written | {*"œŒ€…—"}))
    with people.visit() as page:
        page.goto("/")
        said = page.evaluate(SAID, [letters, weight])
        network = page.context.new_cdp_session(page)
        network.send("DOM.enable")
        network.send("CSS.enable")
        root = network.send("DOM.getDocument")["root"]["nodeId"]
        node = network.send("DOM.querySelector", {"nodeId": root, "selector": "#said"})["nodeId"]
        fonts = network.send("CSS.getPlatformFontsForNode", {"nodeId": node})["fonts"]
        assert [(font["familyName"], font["isCustomFont"]) for font in fonts] == [
            ("Atkinson Hyperlegible Next", True)
        ], fonts
        assert sum(font["glyphCount"] for font in fonts) >= len(letters)
        assert said == ["latin"]
