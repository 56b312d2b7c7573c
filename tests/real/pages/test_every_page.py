"""Every page of every role: at three widths, in four languages, with JavaScript and without; and what axe does not look at."""

import pytest

from events.vocabulary import Role
from tests.real.pages.checks import everything_wrong
from tests.real.pages.scene import A_CHILD, AUDITOR, ESCORT, GUARDIAN, HOST, ORIGIN, POLICE, Scene
from tests.real.pages.tour import Tour, pages_for, tour_of
from tests.real.pages.visitor import HEADING, LANGUAGES, People, must_be_sound, too_wide

pytestmark = pytest.mark.timeout(400)

PEOPLE = {
    POLICE: Role.REFERRER,
    ORIGIN: Role.COORDINATOR,
    HOST: Role.COORDINATOR,
    "receiving shelter": Role.SHELTER,
    "asked shelter": Role.SHELTER,
    GUARDIAN: Role.GUARDIAN,
    ESCORT: Role.ESCORT,
    AUDITOR: Role.AUDITOR,
}
BEYOND_LINKS = {
    AUDITOR: ("/audit?purpose=lawfulness_check", "/audit?purpose=lawfulness_check&verb=disclosure"),
    ORIGIN: ("/board?wall=1",),
}
"""What a form leads to."""
NOT_LINKED = {Role.AUDITOR: {"/audit/export", "/requests/*"}}
"""A document; and where the link of a colleague leads an auditor on to the trail."""


class Stage:
    """A case at every stage, and each person's tour of the pages."""

    def __init__(self, scene: Scene, people: People) -> None:
        self._people = people
        self._tours: dict[str, Tour] = {}
        asked, receiving = scene.opened(), scene.planned()
        scene.offered()
        scene.proposed()
        scene.confirmed()
        scene.departed()
        scene.arrived()
        scene.act(POLICE, scene.opened(), "withdrawal", {"reason": "opened_by_mistake"})
        scene.opened(**A_CHILD)
        why = {"field": "rendezvous", "reason": "drive_journey", "recipient": f"synthetic.{ESCORT}"}
        scene.act(ESCORT, receiving.case, "disclosures", why)
        shelter = scene.asks(asked)[0]["shelter_id"]
        self._names = {"receiving shelter": receiving.staff, "asked shelter": f"{shelter}-staff"}

    def name_of(self, who: str) -> str:
        return self._names.get(who, who)

    def tour(self, who: str) -> Tour:
        if who not in self._tours:
            with self._people.visit(self.name_of(who)) as page:
                self._tours[who] = tour_of(page, ("/", *BEYOND_LINKS.get(who, ())))
        return self._tours[who]

    def first_of_each(self, who: str) -> list[str]:
        return [addresses[0] for addresses in self.tour(who).values()]


@pytest.fixture(scope="module")
def stage(scene: Scene, people: People) -> Stage:
    return Stage(scene, people)


@pytest.mark.parametrize("who", PEOPLE)
def test_every_page_is_sound_in_every_language(stage: Stage, people: People, who: str) -> None:
    for place, language in enumerate(LANGUAGES):
        with people.visit(stage.name_of(who), language) as page:
            # The first language sees every page at every stage, the others one of each kind.
            every = [address for kind in stage.tour(who).values() for address in kind]
            for address in stage.first_of_each(who) if place else every:
                page.goto(address)
                where = f"{PEOPLE[who]}{address.partition('?')[0].replace('/', '-')}-{language}"
                assert page.locator("html").get_attribute("lang") == language, where
                # Contrast does not depend on the language, and takes axe longer than all the rest.
                must_be_sound(page, where, without=("color-contrast",) if place else ())


@pytest.mark.parametrize("who", PEOPLE)
def test_every_page_is_there_without_javascript(stage: Stage, people: People, who: str) -> None:
    for language in LANGUAGES:
        with people.visit(stage.name_of(who), language, java_script_enabled=False) as page:
            for address in stage.first_of_each(who):
                page.goto(address)
                where = f"{address} in {language}"
                assert page.locator("html").get_attribute("lang") == language, where
                assert page.locator(HEADING).count() == 1, where
                assert too_wide(page) == [], where


@pytest.mark.parametrize("who", PEOPLE)
def test_every_page_can_be_used_by_keyboard_when_spaced_zoomed_and_without_colours(
    stage: Stage, people: People, who: str
) -> None:
    # German has the longest words.
    with people.visit(stage.name_of(who), "de") as page:
        for address in stage.first_of_each(who):
            page.goto(address)
            assert everything_wrong(page) == {}, address


@pytest.mark.parametrize("role", sorted(set(PEOPLE.values())))
def test_every_page_made_for_a_role_is_linked(stage: Stage, role: Role) -> None:
    kinds = {kind.partition("?")[0] for who, its in PEOPLE.items() if its is role for kind in stage.tour(who)}
    assert pages_for(role) - kinds <= NOT_LINKED.get(role, set())
