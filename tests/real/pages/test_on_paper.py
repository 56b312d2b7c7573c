"""What comes out of a printer: sheets for when nothing works, and a case without anything that leads to anybody."""

import re
from typing import Any

import pytest

from tests.real.pages.scene import Scene
from tests.real.pages.visitor import LANGUAGES, People, picture

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

A4 = {"width": 794, "height": 1123}


def printed(page: Any, name: str) -> str:
    """What is read on paper."""
    page.emulate_media(media="print")
    page.set_viewport_size(A4)
    picture(page, name)
    return str(page.inner_text("body"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_sheet_is_one_page(people: People, language: str) -> None:
    with people.visit("", language) as page:
        page.goto("/help/paper")
        paper = page.pdf(format="A4", margin=dict.fromkeys(("top", "bottom", "left", "right"), "1.5cm"))
        assert len(re.findall(rb"/Type\s*/Page[^s]", paper)) == 3
        said = printed(page, f"paper-{language}")
        for number in ("112", "101", "113"):
            assert number in said
        assert page.locator("nav:visible, form:visible, button:visible, main a:visible").count() == 0


def test_a_case_on_paper_names_nobody_and_leads_nowhere(people: People, scene: Scene) -> None:
    offer = scene.confirmed()
    with people.visit("be-coordinator-1") as page:
        page.goto(f"/requests/{offer.case}")
        said = printed(page, "case-on-paper")
        assert offer.case[:4].upper() in said
        assert "Destroy this sheet" in said
        for kept_back in (offer.shelter, offer.case, "be-coordinator", "night officer", "http"):
            assert kept_back not in said
        assert (
            page.locator("main a:not(.govuk-task-list__link):visible, button:visible, time[data-clock]:visible").count()
            == 0
        )
