"""The auditor's page, and the pages that are open to everybody."""

import re
from html import unescape

import pytest
from werkzeug.test import TestResponse

from events.gateway import RecordConsulted
from events.vocabulary import Stage
from services.gateway.audit_export import MEDIA_TYPES, Format
from services.gateway.pages.language import translations
from services.gateway.pages.words import TABLES
from tests.gateway.world import AUDITOR, ORIGIN, POLICE, RECEIVING, RENDEZVOUS, World
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


def entries_on(page: TestResponse) -> list[str]:
    return re.findall(r'<p class="haven-record" lang="en">([^<]+)</p>', page.get_data(as_text=True))


def test_the_newest_entry_comes_first_and_each_page_goes_on_where_the_last_one_ended(
    world: World, auditor: Reader
) -> None:
    for _ in range(3):
        world.later(seconds=1)
        world.open()
    asked = {"purpose": "lawfulness_check", "organisation": POLICE.organisation}
    first = auditor.get("/audit", query_string=asked)
    oldest = auditor.get("/audit", query_string=asked | {"order": "oldest"})
    moments = re.findall(r'<time datetime="([^"]+)"', first.get_data(as_text=True))
    assert moments == sorted(moments, reverse=True)
    assert "The newest first" in words(first)
    assert "The oldest first" in words(oldest)
    world.later(seconds=1)
    world.open()  # what comes meanwhile moves nothing on the pages that follow
    page, seen = first, entries_on(first)
    while link := re.search(r'href="(/audit\?[^"]*cursor=[^"]+)">Earlier entries', page.get_data(as_text=True)):
        page = auditor.get(unescape(link[1]))
        assert "Back to the newest entries" in words(page)
        seen += entries_on(page)
    assert len(seen) == len(set(seen))
    assert set(seen[-15:]) == set(entries_on(oldest))
    assert entries_on(auditor.get("/audit", query_string=asked))[0] not in seen


def test_a_disclosure_says_who_was_told_what_and_why_and_never_the_thing_itself(world: World, auditor: Reader) -> None:
    request_id = world.bring_to(Stage.CONFIRMED)
    world.done(world.disclose(ORIGIN, request_id, "rendezvous", "prepare_handover"))
    asked = {"purpose": "lawfulness_check", "case": request_id, "verb": "disclosure"}
    page = auditor.get("/audit", query_string=asked)
    said = words(page)
    assert f"Who was told: {ORIGIN.person}" in said
    assert "What: Where the household is handed over" in said
    assert "Why: To prepare the hand-over" in said
    assert f"Who was told: shelter {RECEIVING.organisation}" in said
    assert "Why: To say whether it can take them in" in said
    assert RENDEZVOUS not in page.get_data(as_text=True)
    assert "Only what somebody was told" not in said
    everything = words(auditor.get("/audit", query_string=asked | {"verb": ""}))
    assert "Only what somebody was told" in everything


def test_a_sentence_goes_on_with_the_reason_in_the_readers_language(world: World) -> None:
    request_id = world.open()
    world.done(world.withdraw(request_id))
    for language in ("nl", "fr", "de", "en"):
        reader = Reader(world, AUDITOR, language)
        reason = translations(language).ugettext(TABLES["WithdrawalReason"]["danger_passed"])
        page = reader.get("/audit", query_string={"purpose": "lawfulness_check", "case": request_id, "paper": "yes"})
        assert reason in unescape(page.get_data(as_text=True))


def test_the_entry_of_a_read_says_what_it_was_narrowed_to(world: World, auditor: Reader) -> None:
    asked = {"purpose": "lawfulness_check", "actor": POLICE.person, "verb": "disclosure", "day": "2026-11-23"}
    auditor.get("/audit", query_string=asked)
    world.later(seconds=1)
    said = words(auditor.get("/audit", query_string={"purpose": "lawfulness_check", "actor": AUDITOR.person}))
    assert f"Person: {POLICE.person}; {TABLES['Verb']['disclosure']}; from " in said


def test_one_press_leads_from_an_entry_to_its_case_its_person_and_its_organisation(
    world: World, auditor: Reader
) -> None:
    request_id = world.open()
    page = auditor.get("/audit", query_string={"purpose": "lawfulness_check", "actor": POLICE.person, "day": ""})
    for name, value in (("case", request_id), ("organisation", POLICE.organisation)):
        link = re.search(rf'href="(/audit\?[^"]*{name}={re.escape(value)}[^"]*)"', page.get_data(as_text=True))
        assert link, name
        narrowed = auditor.get(unescape(link[1]))
        assert narrowed.status_code == 200
        assert "purpose=lawfulness_check" in link[1]


def test_the_link_of_a_case_leads_an_auditor_to_its_trail(world: World, auditor: Reader) -> None:
    request_id = world.open()
    before = world.log.head()
    form = auditor.follow(auditor.get(f"/requests/{request_id}"))
    assert f'value="{request_id}"' in form.get_data(as_text=True)
    assert world.log.head() == before, "nothing is read before a purpose is chosen"


@pytest.mark.parametrize("form", Format)
def test_what_is_shown_is_taken_along_as_a_file(world: World, auditor: Reader, form: Format) -> None:
    request_id = world.bring_to(Stage.ARRIVED)
    world.later(seconds=1)
    asked = {"purpose": "criminal_proceedings", "case": request_id}
    html = auditor.get("/audit", query_string=asked).get_data(as_text=True)
    link = re.search(rf'href="(/audit/export\?[^"]*format={form})"', html)
    assert link
    head = world.log.head()
    answer = auditor.get(unescape(link[1]))
    assert answer.status_code == 200
    assert answer.mimetype == MEDIA_TYPES[form].partition(";")[0]
    assert answer.headers["Content-Disposition"].startswith("attachment; ")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.get_data(as_text=True).count("placement.relocation_request.opened.v1") == 1
    (noted,) = [event.data for event in world.appended_since(head)]
    assert isinstance(noted, RecordConsulted)
    assert (noted.resource, noted.purpose) == ("export", "criminal_proceedings")


@pytest.mark.parametrize(
    "query",
    [{"purpose": ""}, {"purpose": "curiosity"}, {"format": "xlsx"}, {"day": "yesterday"}, {"day": "9999-12-31"}],
)
def test_a_file_that_cannot_be_made_is_a_page_that_says_so(
    world: World, auditor: Reader, query: dict[str, str]
) -> None:
    head = world.log.head()
    answer = auditor.get("/audit/export", query_string={"purpose": "lawfulness_check", "format": "csv"} | query)
    assert answer.status_code == 400
    assert "One field is not filled in as it should be" in words(answer)
    assert world.log.head() == head


def test_paper_holds_more_and_says_what_was_asked(world: World, auditor: Reader) -> None:
    asked = {"purpose": "lawfulness_check", "organisation": POLICE.organisation}
    screen, paper = (auditor.get("/audit", query_string=asked | more) for more in ({}, {"paper": "yes"}))
    assert len(screen.data) < 30_000
    shown = [page.get_data(as_text=True).count("haven-timeline__item") for page in (screen, paper)]
    assert shown[0] == 15 < shown[1]
    said = words(paper)
    assert f"Organisation: {POLICE.organisation} Printed: " in said
    assert AUDITOR.person in said


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
