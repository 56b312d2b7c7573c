"""No page without its rule: signed in, in one of its roles, and nothing changed by a form from elsewhere."""

import re
from collections.abc import Sequence

import pytest
from werkzeug.test import TestResponse

from events.vocabulary import Role
from services.gateway.pages import MENUS, PAGES
from services.gateway.pages.frame import Page
from tests.gateway.world import AUDITOR, ESCORT, GUARDIAN, ORIGIN, POLICE, RECEIVING, Who, World
from tests.pages.reader import Reader, words

OPEN_TO_ALL = {
    "pages.static",
    "pages.entrance.start",
    "pages.entrance.sign_in",
    "pages.entrance.signed_in",
    "pages.entrance.sign_out",
    "pages.entrance.leave_fast",
    "pages.entrance.choose",
    "pages.help.phone_numbers",
    "pages.help.accessibility",
    "pages.offline.manifest",
    "pages.offline.worker",
    "pages.offline.offline",
    "pages.paper.sheets",
    "pages.docs.api",
    "pages.docs.document",
    "pages.docs.event",
    "pages.docs.events",
    "pages.docs.problem",
    "pages.docs.problems",
}
SOMEBODY: dict[Role, Who] = {
    Role.REFERRER: POLICE,
    Role.SHELTER: RECEIVING,
    Role.COORDINATOR: ORIGIN,
    Role.GUARDIAN: GUARDIAN,
    Role.ESCORT: ESCORT,
    Role.AUDITOR: AUDITOR,
}


def for_each(pages: Sequence[Page]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=lambda page: f"{page.method} {page.path}")


EVERY_PAGE = for_each(PAGES)
EVERY_FORM = for_each([page for page in PAGES if page.method == "POST"])
EVERY_PAGE_WITH_AN_END = for_each([page for page in PAGES if page.path != "/live"])  # tests/pages/test_live.py


@pytest.fixture
def readers(world: World) -> dict[Role, Reader]:
    return {role: Reader(world, who) for role, who in SOMEBODY.items()}


def address(page: Page) -> str:
    """One that exists nowhere: ids are made up."""
    return re.sub(r"<[^>]+>", "made-up-1", page.path)


def opened(reader: Reader, page: Page, **fields: str) -> TestResponse:
    return reader.get(address(page)) if page.method == "GET" else reader.send(address(page), **fields)


@pytest.mark.attack(65)
def test_every_address_is_a_page_or_open_to_all_on_purpose(world: World) -> None:
    served = {rule.endpoint: rule for rule in world.node.app.url_map.iter_rules() if rule.endpoint.startswith("pages.")}
    assert served.keys() >= OPEN_TO_ALL
    guarded = {
        (method, rule.rule)
        for endpoint, rule in served.items()
        if endpoint not in OPEN_TO_ALL
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert guarded == {(page.method, page.path) for page in PAGES}


@EVERY_PAGE
@pytest.mark.attack(1)
def test_a_stranger_is_sent_to_sign_in(world: World, page: Page) -> None:
    heads = world.heads()
    client = world.node.app.test_client()
    answer = client.open(address(page), method=page.method, base_url=world.node.settings.url)
    assert answer.status_code == 303
    assert answer.headers["Location"].startswith(f"{world.node.settings.url}/oauth/authorize?")
    assert world.heads() == heads


@EVERY_PAGE
@pytest.mark.attack(41)
def test_the_wrong_role_is_told_so_and_changes_nothing(world: World, readers: dict[Role, Reader], page: Page) -> None:
    for role, reader in readers.items():
        if role in page.roles:
            continue
        heads = world.heads()
        answer = opened(reader, page)
        assert answer.status_code == 403, role
        assert "Your role cannot do this" in words(answer)
        assert world.heads() == heads


@EVERY_FORM
@pytest.mark.attack(37)
def test_a_form_without_the_token_of_its_session_changes_nothing(
    world: World, readers: dict[Role, Reader], page: Page
) -> None:
    for role in page.roles:
        heads = world.heads()
        answer = opened(readers[role], page, csrf="forged")
        assert answer.status_code == 403
        assert "too old" in words(answer)
        assert world.heads() == heads


@EVERY_PAGE_WITH_AN_END
def test_what_does_not_exist_is_no_error_of_ours(readers: dict[Role, Reader], page: Page) -> None:
    for role in page.roles:
        answer = opened(readers[role], page, which="made-up")
        assert answer.status_code < 500, (role, words(answer))
        if answer.status_code != 303:
            assert "<h1" in answer.get_data(as_text=True)


def test_every_page_in_a_menu_is_there_for_that_role(readers: dict[Role, Reader]) -> None:
    for role, menu in MENUS.items():
        for path, _ in menu:
            assert readers[role].get(path).status_code == 200, (role, path)


def test_the_first_page_of_every_role_is_there(readers: dict[Role, Reader]) -> None:
    for role, reader in readers.items():
        assert reader.follow(reader.get("/")).status_code == 200, role
