"""What a page is called: the tab and a screen reader say it first, and of a form that was not taken they say so before anything else."""

import re
from pathlib import Path
from uuid import uuid4

import pytest
from werkzeug.test import TestResponse

from events.vocabulary import Stage
from services.gateway.pages.language import LANGUAGES, translations
from tests.gateway.world import AUDITOR, ORIGIN, POLICE, RECEIVING, SAME_PERSON, World
from tests.pages.reader import Reader
from tests.pages.test_places import forms

TEMPLATES = Path(__file__).resolve().parent.parent.parent / "services/gateway/templates"
SPOKEN = [language.code for language in LANGUAGES]


def title_of(page: TestResponse) -> str:
    found = re.search(r"<title>([^<]+)</title>", page.get_data(as_text=True))
    assert found
    return found[1]


def forms_not_taken(world: World, language: str) -> list[TestResponse]:
    """One of each kind of form, sent with something missing."""
    asked, offered = world.bring_to(Stage.ASKED), world.bring_to(Stage.OFFERED)
    police, staff, origin, both, auditor = (
        Reader(world, who, language) for who in (POLICE, RECEIVING, ORIGIN, SAME_PERSON, AUDITOR)
    )
    key = uuid4().hex
    places = next(form for form in forms(staff.get("/places")).values() if "blocked_because" in form)
    proposed = world.bring_to(Stage.PROPOSED)
    signed = world.view(proposed)["proposal"]["hash"]
    return [
        police.send("/requests/new", command=key),
        police.send(f"/requests/{asked}/withdrawal", command=key),
        staff.send(f"/asks/{world.ask_to(asked, RECEIVING)}", command=key),
        staff.send(f"/asks/{world.ask_to(offered, RECEIVING)}", command=key, answer="no"),
        staff.send("/places", **places | {"blocked": "2", "blocked_because": ""}),
        both.send(f"/requests/{proposed}/signature", command=key, decision="sign", proposal_hash=signed),
        origin.send(f"/requests/{offered}/disclosures", command=key),
        auditor.get("/audit", query_string={"purpose": "lawfulness_check", "day": "yesterday"}),
    ]


@pytest.mark.parametrize("language", SPOKEN)
def test_the_title_of_a_form_that_was_not_taken_begins_with_error(world: World, language: str) -> None:
    error = translations(language).ugettext("Error:")
    for page in forms_not_taken(world, language):
        assert page.status_code >= 400
        assert title_of(page).startswith(f"{error} "), title_of(page)
        assert title_of(page).endswith(" - Haven")
        assert "govuk-error-summary" in page.get_data(as_text=True)


def test_no_page_says_error_where_nothing_is_wrong(world: World) -> None:
    for who, path in ((POLICE, "/requests/new"), (RECEIVING, "/places"), (AUDITOR, "/audit"), (RECEIVING, "/asks")):
        assert "Error" not in title_of(Reader(world, who).get(path))


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.html")), ids=lambda path: path.name)
def test_what_a_page_shows_as_wrong_is_what_its_title_knows_of(template: Path) -> None:
    """The frame reads `wrong`; a page that shows more than that says for itself when its title begins with the error."""
    text = template.read_text()
    if "govuk-error-summary__title" in text and template.name != "requests_parts.html":
        assert "{% block error %}" in text
    assert "error_summary(" not in text.replace("error_summary(wrong)", "")
