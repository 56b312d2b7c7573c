"""The auditor's page, and the pages that are open to everybody."""

import re

import pytest

from tests.gateway.world import AUDITOR, POLICE, World
from tests.pages.reader import Reader, words


@pytest.fixture(scope="module")
def auditor(world: World) -> Reader:
    return Reader(world, AUDITOR)


def test_nothing_is_read_before_a_purpose_is_chosen(world: World, auditor: Reader) -> None:
    before = world.log.head()
    answer = auditor.get("/audit")
    assert answer.status_code == 200
    assert "haven-timeline__item" not in answer.get_data(as_text=True)
    assert world.log.head() == before


def test_the_trail_of_a_case_says_who_did_what_and_that_it_was_read(world: World, auditor: Reader) -> None:
    request_id = world.open()
    page = auditor.get("/audit", query_string={"purpose": "lawfulness_check", "case": request_id})
    assert page.status_code == 200
    said = words(page)
    assert request_id in said
    assert POLICE.organisation in said
    assert "synthetic callback" not in said.lower()
    again = words(auditor.get("/audit", query_string={"purpose": "lawfulness_check", "actor": AUDITOR.person}))
    assert AUDITOR.person in again


@pytest.mark.parametrize("query", [{"day": "yesterday"}, {"purpose": "curiosity"}, {"verb": "peek"}, {"case": "a b"}])
def test_a_question_that_cannot_be_answered_is_no_error_of_ours(auditor: Reader, query: dict[str, str]) -> None:
    answer = auditor.get("/audit", query_string={"purpose": "lawfulness_check"} | query)
    assert answer.status_code == 400


def test_a_long_trail_goes_on_with_the_next_page(world: World, auditor: Reader) -> None:
    for _ in range(4):
        world.open()
    page = auditor.get("/audit", query_string={"purpose": "lawfulness_check"})
    link = re.search(r'href="(/audit\?[^"]*cursor=[^"]+)"', page.get_data(as_text=True))
    assert link
    onward = auditor.get(link[1].replace("&amp;", "&"))
    assert onward.status_code == 200
    assert words(onward) != words(page)


def test_nobody_else_reads_the_trail(world: World) -> None:
    answer = Reader(world, POLICE).get("/audit?purpose=lawfulness_check")
    assert answer.status_code == 403
    assert "Your role cannot do this" in words(answer)


@pytest.mark.parametrize("path", ["/help", "/accessibility"])
def test_help_needs_no_sign_in(world: World, path: str) -> None:
    client = world.node.app.test_client()
    answer = client.get(path, base_url=world.node.settings.url)
    assert answer.status_code == 200
    assert "Sign out" not in words(answer)
    assert "Sign out" in words(Reader(world, POLICE).get(path))


def test_whoever_cannot_sign_in_finds_the_emergency_numbers(world: World) -> None:
    said = words(world.node.app.test_client().get("/help", base_url=world.node.settings.url))
    for country in world.node.gateway.reference.countries.values():
        for number in country.emergency:
            assert number.number in said
