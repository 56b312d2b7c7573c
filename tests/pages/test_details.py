"""What is learnt later, at the pages: seen to be missing, added, put right, and never over what a colleague has written meanwhile."""

import logging
import re
from uuid import uuid4

import pytest
from werkzeug.test import TestResponse

from events.vocabulary import Stage
from services.gateway.pages.language import LANGUAGES
from services.gateway.pages.requests_details import NOT_NEEDED_NOW
from services.gateway.pages.sessions import KeptForm, Session
from tests.gateway.world import COLLEAGUE, GUARDIAN, HOST, ORIGIN, POLICE, RECEIVING, Json, Who, World
from tests.pages.reader import CSRF, Reader, words

NOTHING = {"third_country_national": "", "reflection_started_on": "", "region_of_stay": ""}
LEARNT = {"third_country_national": "yes", "reflection_started_on": "2026-11-20", "region_of_stay": "BE23"}
STANDS: Json = {"third_country_national": True, "reflection_started_on": "2026-11-20", "region_of_stay": "BE23"}
OPTIONAL = {
    "third_country_national": "Are they citizens of a country outside the European Union? Optional",
    "reflection_started_on": "When did their reflection period begin? Optional",
    "region_of_stay": "In which region are they now? Optional",
}


def record(reader: Reader, request_id: str, **fields: str) -> TestResponse:
    return reader.send(f"/requests/{request_id}/details", **{"command": uuid4().hex, "version_seen": "0"} | fields)


def form(reader: Reader, request_id: str) -> str:
    answer = reader.get(f"/requests/{request_id}/details")
    assert answer.status_code == 200, words(answer)
    return answer.get_data(as_text=True)


def sent_by(page: str) -> dict[str, str]:
    """What a browser would send of this form as it is, without JavaScript and untouched."""
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
    fields |= dict(re.findall(r'name="(reflection_started_on)" type="date" [^>]*value="([^"]*)"', page))
    for answer in re.findall(
        r'name="third_country_national" type="radio" value="(\w*)" autocomplete="off" checked', page
    ):
        fields["third_country_national"] = answer
    if 'name="region_of_stay"' in page:
        chosen = re.findall(r'<option value="(\w+)" selected', page)
        fields["region_of_stay"] = chosen[0] if chosen else ""
    return fields


def is_known(world: World, request_id: str) -> Json:
    view = world.view(request_id)
    return {name: view[name] for name in NOT_NEEDED_NOW}


def missing(reader: Reader, request_id: str) -> set[str]:
    page = words(reader.get(f"/requests/{request_id}"))
    return {name for name, text in OPTIONAL.items() if text in page}


# seen to be missing


def test_the_case_shows_what_nobody_has_said_and_where_to_say_it(world: World) -> None:
    request_id = world.open()
    for who in (POLICE, COLLEAGUE, ORIGIN):
        assert missing(Reader(world, who), request_id) == set(NOT_NEEDED_NOW)
    for who in (HOST, RECEIVING):
        assert missing(Reader(world, who), request_id) == set()
    page = Reader(world, POLICE).get(f"/requests/{request_id}").get_data(as_text=True)
    links = re.findall(rf'href="/requests/{request_id}/details#(\w+)"', page)
    assert links == list(NOT_NEEDED_NOW)
    ids = re.findall(r' id="([^"]+)"', form(Reader(world, POLICE), request_id))
    assert set(links) <= set(ids)


def test_what_is_known_or_does_not_matter_is_not_asked_for(world: World) -> None:
    police = Reader(world, POLICE)
    assert missing(police, world.open(third_country_national=False)) == {"region_of_stay"}
    assert missing(police, world.open(**STANDS)) == set()
    assert missing(police, world.bring_to(Stage.DEPARTED)) == {"third_country_national", "reflection_started_on"}
    assert missing(police, world.bring_to(Stage.WITHDRAWN)) == set()


def test_what_is_known_can_still_be_put_right(world: World) -> None:
    request_id = world.open(**STANDS)
    for who, may in ((POLICE, True), (ORIGIN, True), (HOST, False), (RECEIVING, False)):
        page = Reader(world, who).get(f"/requests/{request_id}").get_data(as_text=True)
        assert (f'href="/requests/{request_id}/details">Add or correct what is known of them' in page) is may


# added, and put right


def test_a_form_that_is_sent_as_it_is_changes_nothing(world: World) -> None:
    for said in ({}, STANDS, {"third_country_national": False}):
        request_id = world.open(**said)
        police = Reader(world, POLICE)
        before = is_known(world, request_id)
        answer = police.send(f"/requests/{request_id}/details", **sent_by(form(police, request_id)))
        assert answer.status_code == 303
        assert is_known(world, request_id) == before
        assert "details" not in world.view(request_id)


def test_what_is_added_stands_on_the_case_and_in_its_timeline(world: World) -> None:
    request_id = world.open()
    police = Reader(world, POLICE)
    filled = sent_by(form(police, request_id)) | LEARNT
    said = words(police.follow(police.send(f"/requests/{request_id}/details", **filled)))
    assert "What is known of them is recorded" in said
    for text in ("outside the European Union Yes", "Began on 20 November 2026", "Ends on 4 January 2027"):
        assert text in said
    assert "Are now in Province of East Flanders" in said
    assert missing(police, request_id) == set()
    corrected = sent_by(form(police, request_id)) | {"reflection_started_on": "2026-11-19", "region_of_stay": ""}
    assert "Ends on 3 January 2027" in words(police.follow(police.send(f"/requests/{request_id}/details", **corrected)))
    for who in (POLICE, ORIGIN, HOST):
        told = words(Reader(world, who).get(f"/requests/{request_id}/timeline"))
        assert "Citizens of a country outside the European Union: Yes (before: Not known)" in told
        assert "The reflection period began: 19 November 2026 (before: 20 November 2026)" in told
        assert "The reflection period ends: 3 January 2027 (before: 4 January 2027)" in told
        assert "Are now in: Not known (before: Province of East Flanders)" in told


def test_a_guardian_is_told_when_the_period_ends_and_nothing_else(world: World) -> None:
    request_id = world.open(household={"children_12_to_17": 1})
    record(Reader(world, POLICE), request_id, **LEARNT)
    told = words(Reader(world, GUARDIAN).get(f"/requests/{request_id}/timeline"))
    assert "The reflection period ends: 4 January 2027 (before: Not known)" in told
    assert "Flanders" not in told
    assert "European Union" not in told
    assert Reader(world, GUARDIAN).get(f"/requests/{request_id}/details").status_code == 403


def test_a_second_tap_records_it_once(world: World) -> None:
    request_id = world.open()
    police = Reader(world, POLICE)
    for command in (same := uuid4().hex, same, uuid4().hex):
        assert record(police, request_id, command=command, **LEARNT).status_code == 303
    assert world.view(request_id)["details"]["version"] == 1


def test_of_who_has_left_the_region_stays_as_it_was_said(world: World) -> None:
    request_id = world.bring_to(Stage.DEPARTED, **STANDS)
    police = Reader(world, POLICE)
    page = form(police, request_id)
    assert 'name="region_of_stay"' not in page
    filled = sent_by(page) | {"reflection_started_on": "2026-11-19"}
    assert police.send(f"/requests/{request_id}/details", **filled).status_code == 303
    assert is_known(world, request_id) == STANDS | {"reflection_started_on": "2026-11-19"}
    refused = record(police, request_id, **LEARNT | {"region_of_stay": "NL32"}, version_seen="1")
    assert refused.status_code == 409
    assert "The case is now at: " in words(refused)


# what was wrong


@pytest.mark.parametrize(
    ("changes", "at"),
    [
        ({"reflection_started_on": "2199-01-01"}, "reflection_started_on"),
        ({"reflection_started_on": "yesterday"}, "reflection_started_on"),
        ({"region_of_stay": "XX99"}, "region_of_stay"),
        ({"third_country_national": "perhaps"}, "third_country_national"),
    ],
)
def test_what_was_typed_wrong_is_kept_and_named(world: World, changes: dict[str, str], at: str) -> None:
    request_id = world.open()
    record(Reader(world, COLLEAGUE), request_id, **NOTHING | {"region_of_stay": "BE10"})
    answer = record(Reader(world, POLICE), request_id, **LEARNT | changes, version_seen="0", seen_region_of_stay="")
    page = answer.get_data(as_text=True)
    assert answer.status_code == 400
    assert f'<a href="#{at}">' in page
    assert page.count(f'id="{at}"') == 1
    assert f'id="{at}-error"' in page
    # What a colleague wrote meanwhile was not seen yet: once the mistake is corrected, both are shown.
    assert sent_by(page).items() >= {"version_seen": "0", "seen_region_of_stay": ""}.items()
    if at != "reflection_started_on":
        assert sent_by(page)["reflection_started_on"] == LEARNT["reflection_started_on"]
    assert world.view(request_id)["details"]["version"] == 1


def test_an_answer_that_is_not_there_forgets_nothing(world: World) -> None:
    request_id = world.open(**STANDS)
    police = Reader(world, POLICE)
    assert record(police, request_id, reflection_started_on="2026-11-20", region_of_stay="BE23").status_code == 400
    assert record(police, request_id, **LEARNT, version_seen="many").status_code == 400
    assert is_known(world, request_id) == STANDS


# two at once


def test_whoever_looked_before_a_colleague_wrote_sees_both_and_decides(world: World) -> None:
    request_id = world.open()
    police, origin = Reader(world, POLICE), Reader(world, ORIGIN)
    filled = sent_by(form(origin, request_id))
    assert record(police, request_id, **LEARNT).status_code == 303
    answer = origin.send(
        f"/requests/{request_id}/details", **filled | {"third_country_national": "no", "region_of_stay": "BE10"}
    )
    page, said = answer.get_data(as_text=True), words(answer)
    assert answer.status_code == 409
    assert '<a href="#both">Somebody recorded something else while you looked' in page
    assert "Nothing was overwritten" in said
    assert "Citizens of a country outside the European Union No Yes" in said
    assert "The reflection period began Not known 20 November 2026" in said
    assert "Are now in Brussels-Capital Region Province of East Flanders" in said
    assert "What stands now was recorded by Referrer, Belgium" in said
    assert is_known(world, request_id) == STANDS
    again = sent_by(page)
    assert (again["version_seen"], again["region_of_stay"], again["third_country_national"]) == ("1", "BE10", "no")
    assert again["command"] != filled["command"]
    assert origin.send(f"/requests/{request_id}/details", **again).status_code == 303
    assert is_known(world, request_id) == {
        "third_country_national": False,
        "reflection_started_on": "2026-11-20",  # of this the second person had said nothing
        "region_of_stay": "BE10",
    }
    assert "recorded by Focal point, Belgium" in words(police.get(f"/requests/{request_id}/details"))


def test_what_was_taken_back_stays_taken_back_whoever_wrote_meanwhile(world: World) -> None:
    request_id = world.open(region_of_stay="BE34", reflection_started_on="2026-11-01")
    police, origin = Reader(world, POLICE), Reader(world, ORIGIN)
    filled = sent_by(form(origin, request_id)) | {"reflection_started_on": ""}
    stands = sent_by(form(police, request_id)) | {"third_country_national": "yes"}
    assert police.send(f"/requests/{request_id}/details", **stands).status_code == 303
    again = sent_by(origin.send(f"/requests/{request_id}/details", **filled).get_data(as_text=True))
    assert origin.send(f"/requests/{request_id}/details", **again).status_code == 303
    assert is_known(world, request_id) == {
        "third_country_national": True,
        "reflection_started_on": None,
        "region_of_stay": "BE34",
    }


def test_what_was_kept_while_somebody_signed_in_again_is_compared_with_what_stands_then(world: World) -> None:
    request_id = world.open()
    path = f"/requests/{request_id}/details"
    kept = KeptForm(path=path, fields=tuple((LEARNT | {"version_seen": "0"}).items()), person=POLICE.person)
    principal = world.node.gateway.verifier.principal(world.token(POLICE))

    def back_again() -> str:
        police = Reader(world, POLICE)
        cookie = world.node.sessions.begin(Session(csrf=CSRF, principal=principal, kept=kept))
        police.client.set_cookie("haven", cookie, domain="127.0.0.1")
        return police.get(path).get_data(as_text=True)

    assert sent_by(back_again()).items() >= (LEARNT | {"version_seen": "0"}).items()
    assert 'id="both"' not in back_again()
    record(Reader(world, COLLEAGUE), request_id, **NOTHING | {"region_of_stay": "BE10"})
    page = back_again()
    assert 'id="both"' in page
    assert sent_by(page).items() >= (LEARNT | {"version_seen": "1"}).items()


# who


@pytest.mark.parametrize("stage", [Stage.ENDED, Stage.WITHDRAWN, Stage.REFUSED, Stage.ERASED])
def test_of_a_case_that_is_over_nothing_is_asked(world: World, stage: Stage) -> None:
    request_id = world.bring_to(stage)
    police = Reader(world, POLICE)
    assert police.get(f"/requests/{request_id}/details").status_code == 409
    assert record(police, request_id, **LEARNT).status_code == (404 if stage is Stage.REFUSED else 409)


@pytest.mark.parametrize("who", [HOST, RECEIVING, GUARDIAN], ids=lambda who: who.role)
def test_nobody_else_writes(world: World, who: Who) -> None:
    request_id = world.bring_to(Stage.PROPOSED)
    answer = record(Reader(world, who), request_id, **LEARNT)
    assert answer.status_code == 403
    assert is_known(world, request_id) == dict.fromkeys(NOT_NEEDED_NOW)


@pytest.mark.parametrize("language", [one.code for one in LANGUAGES])
def test_the_form_and_its_conflict_are_there_in_every_language(world: World, language: str) -> None:
    request_id = world.open()
    record(Reader(world, COLLEAGUE), request_id, **LEARNT)
    reader = Reader(world, POLICE, language)
    for answer, status in (
        (reader.get(f"/requests/{request_id}/details"), 200),
        (record(reader, request_id, **NOTHING), 409),
    ):
        page = answer.get_data(as_text=True)
        assert answer.status_code == status
        assert f'<html lang="{language}"' in page
        assert len(page) < 30_000
        ids = re.findall(r' id="([^"]+)"', page)
        assert len(ids) == len(set(ids))
        assert " style=" not in page


def test_what_was_typed_is_in_no_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Also not as a code that has no words: whoever comes back from signing in is shown what nobody has looked at yet."""
    request_id = world.open()
    record(Reader(world, COLLEAGUE), request_id, **LEARNT)
    path = f"/requests/{request_id}/details"
    fields = (("version_seen", "0"), ("region_of_stay", "KESTREL58"), ("reflection_started_on", "KESTREL58"))
    kept = KeptForm(path=path, fields=fields, person=POLICE.person)
    principal = world.node.gateway.verifier.principal(world.token(POLICE))
    police = Reader(world, POLICE)
    cookie = world.node.sessions.begin(Session(csrf=CSRF, principal=principal, kept=kept))
    police.client.set_cookie("haven", cookie, domain="127.0.0.1")
    with caplog.at_level(logging.DEBUG):
        answer = police.get(path)
    assert words(answer).count("KESTREL58") == 2
    assert "KESTREL" not in caplog.text
