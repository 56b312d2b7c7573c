"""The map of regions in a browser: it moves by itself, and whoever stands on a tile keeps standing there."""

from tests.real.pages.scene import HOST, Scene
from tests.real.pages.visitor import People, must_be_sound

STAFF = "nl-shelter-01-staff"


def test_the_map_shows_a_report_by_itself(people: People, scene: Scene) -> None:
    unit = scene.send(STAFF, "GET", "/shelters/nl-shelter-01/units").body["units"][0]
    capacity = f"/shelters/nl-shelter-01/units/{unit['unit_id']}/capacity"
    with people.visit(HOST) as page:
        page.goto("/regions")
        page.locator("[data-live-state]", has_text="Live").wait_for()
        page.evaluate("document.body.dataset.loaded = 'once'")
        tile = page.locator(f".haven-tilemap__tile[href='#{unit['region']}']")
        before = tile.locator(".haven-tilemap__number").text_content()
        tile.focus()
        seen = scene.send(STAFF, "GET", capacity)
        more = {"beds": seen.body["beds"] + 7, "free": seen.body["free"] + 7}
        scene.send(STAFF, "PUT", capacity, more, If_Match=seen.headers["etag"])
        page.wait_for_function(
            "([tile, before]) => tile.querySelector('.haven-tilemap__number').textContent !== before",
            arg=[tile.element_handle(), before],
            timeout=5_000,
        )
        assert page.evaluate("document.body.dataset.loaded") == "once", "by itself, not by loading the page again"
        assert page.evaluate("document.activeElement.getAttribute('href')") == f"#{unit['region']}"
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == f"#{unit['region']}"
        assert page.locator(f"tr#{unit['region']}").is_visible()
        must_be_sound(page, "the map after a change")
