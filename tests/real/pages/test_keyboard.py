"""The whole of a placement by the keyboard alone: Tab, Enter, Space, arrows, and what is typed. Nothing is clicked or tapped."""

from typing import Any

import pytest

from tests.real.pages.scene import HOST, ORIGIN, POLICE, Offer, Scene
from tests.real.pages.visitor import People, must_be_out

pytestmark = pytest.mark.timeout(240)


class Keys:
    """Somebody who has no mouse and no touch screen, and who sees where the focus is."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def to(self, selector: str) -> None:
        """Tab after Tab until this has the focus."""
        for _ in range(300):
            if self.page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"no way to {selector} by Tab on {self.page.url}")

    def press(self, selector: str, key: str = "Enter") -> None:
        """Goes there, presses a key, and waits for the page it leads to."""
        self.to(selector)
        with self.page.expect_navigation():
            self.page.keyboard.press(key)
        self.page.wait_for_load_state()

    def write(self, selector: str, text: str) -> None:
        self.to(selector)
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(text)

    def tick(self, selector: str) -> None:
        self.to(selector)
        self.page.keyboard.press("Space")

    def choose(self, group: str, value: str) -> None:
        """A radio button: into the group by Tab, within it by the arrows."""
        self.to(f"input[type=radio][name={group}]")
        if not self.page.evaluate("document.activeElement.checked"):
            self.page.keyboard.press("Space")
        for _ in range(40):
            if self.page.evaluate("document.activeElement.value") == value:
                return
            self.page.keyboard.press("ArrowDown")
        raise AssertionError(f"no {value} in {group}")

    def pick(self, selector: str, text: str) -> None:
        """An entry of a list, by the beginning of its name."""
        self.to(selector)
        self.page.keyboard.type(text)

    def sign_in(self, who: str, password: str) -> None:
        self.page.goto("/")
        self.press("a[href='/sign-in']")
        self.write("#username", who)
        self.write("#password", password)
        self.to("main button")
        self.page.keyboard.press("Enter")
        self.page.wait_for_url(lambda address: "/oauth/" not in address and "/signed-in" not in address)


def test_a_household_is_placed_by_the_keyboard_alone(people: People, scene: Scene) -> None:
    with people.visit() as page:
        police = Keys(page)
        police.sign_in(POLICE, people.logins[POLICE])
        police.press("main a[href='/requests/new']")
        police.pick("#region", "Antwerp" if "Antwerp" in page.locator("#region").inner_text() else "Prov")
        police.write("#women", "1")
        police.tick("input[name=languages][value=en]")
        police.tick("input[name=consented_countries][value=NL]")
        police.write("#callback", "synthetic: ask the desk")
        police.press("main form > button")
        case = page.url.rpartition("/")[2]
        scene.until(case, "shelters are asked", "asked")

    ask = scene.ask_of_host(case)
    offer = Offer(case, ask["ask_id"], ask["shelter_id"])
    with people.visit() as page:
        shelter = Keys(page)
        shelter.sign_in(offer.staff, people.logins[offer.staff])
        shelter.press(f"main a[href='/asks/{offer.ask}']")
        shelter.choose("answer", "yes")
        shelter.write("#rendezvous", "synthetic: the desk of the station")
        shelter.press("main form > button")
        shelter.press("nav a[href='/places']")
        shelter.write("#free-1", "40")
        page.keyboard.press("Enter")
        page.locator(".govuk-notification-banner[role=alert]").wait_for()

    with people.visit() as page:
        origin = Keys(page)
        origin.sign_in(ORIGIN, people.logins[ORIGIN])
        origin.press(f"#case-{case} a")
        origin.press("main a[href*='/proposal?ask=']")
        origin.press("main form button")
        assert page.url.endswith("/signature")

    with people.visit() as page:
        host = Keys(page)
        host.sign_in(HOST, people.logins[HOST])
        host.press(f"#case-{case} a")
        host.press("#sign")
        scene.until(case, "both have signed", "confirmed")

        page.seen.away_to = "https://www.meteo.be/"
        page.route("https://www.meteo.be/**", lambda route: route.fulfill(status=200, body="sunny"))
        for press in range(3):
            page.keyboard.press("Shift")
            if press == 1:
                said = page.locator("form.haven-exit [role=status]").inner_text()
                assert said.strip(), "a screen reader is told how many are left"
        page.wait_for_url("https://www.meteo.be/**")
        must_be_out(page, people.url)
        page.go_back()
        page.go_back()
        assert case not in page.locator("main").inner_text()
