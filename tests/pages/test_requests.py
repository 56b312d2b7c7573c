"""A request at the pages: opened in a minute, followed, and every step of it taken by whoever may take it."""

import itertools
import logging
import re
from html import unescape
from uuid import uuid4

import pytest
from werkzeug.test import TestResponse

from events.vocabulary import Stage
from services.gateway import problems
from services.gateway.pages.language import LANGUAGES
from services.gateway.pages.requests_acts import REASONS
from services.gateway.pages.requests_details import NOT_NEEDED_NOW
from services.gateway.pages.requests_opening import ALSO_SPOKEN, MOST_SPOKEN
from services.gateway.pages.sessions import KeptForm, Session
from services.placement.domain.policies import DISCLOSURE_REASONS
from tests.gateway.world import (
    A_MINOR,
    AUDITOR,
    CALLBACK,
    ESCORT,
    FOREIGN_POLICE,
    GUARDIAN,
    HOST,
    NEIGHBOUR,
    ORIGIN,
    OTHER_ESCORT,
    OTHER_POLICE,
    POLICE,
    RECEIVING,
    RENDEZVOUS,
    STEPS,
    Who,
    World,
)
from tests.pages.reader import CSRF, Reader, words

SAFE_NUMBER = "synthetic: ask the desk for KESTREL-58"
MINUTE = {
    "urgency": "urgent",
    "danger_country": "BE",
    "region": "BE21",
    "women": "1",
    "children_under_6": "2",
    "languages": "en",
    "consented_countries": "NL",
    "callback": SAFE_NUMBER,
}


@pytest.fixture(scope="module")
def confirmed(world: World) -> str:
    """A request that both countries have signed, with its journey planned and agreed to."""
    request_id = world.bring_to(Stage.CONFIRMED)
    world.done(world.plan_journey(request_id))
    world.done(world.consent(request_id))
    return request_id


def send(reader: Reader, path: str, **fields: str | list[str]) -> TestResponse:
    return reader.send(path, **{"command": uuid4().hex} | fields)


def html(answer: TestResponse) -> str:
    return answer.get_data(as_text=True)


def main_part(answer: TestResponse) -> str:
    """What belongs to the page and not to the frame around it."""
    return html(answer).partition("Sign out</button>")[2].partition("<footer")[0]


def links(answer: TestResponse) -> list[str]:
    return [unescape(link) for link in re.findall(r'href="(/[^"]*)"', main_part(answer))]


def opened(reader: Reader, **changes: str | list[str]) -> str:
    answer = send(reader, "/requests/new", **MINUTE | changes)
    assert answer.status_code == 303, words(answer)
    return answer.headers["Location"].removeprefix("/requests/")


# the minute


def test_the_urgent_request_asks_seven_things_and_only_one_in_words(world: World) -> None:
    page = html(Reader(world, POLICE).get("/requests/new"))
    form = page.partition('action="/requests/new"')[2].partition("</form>")[0]
    now, _, later = form.partition("<details")
    now += later.partition("</details>")[2]
    groups = now.count("<fieldset") + now.count("<textarea")
    assert groups <= 7
    assert form.count("<textarea") == 1
    assert form.count("required") == 1
    assert 'value="urgent" autocomplete="off" checked' in form
    assert form.count('inputmode="numeric"') == 5
    assert set(re.findall(r'<(?:input|select|textarea)[^>]*name="(\w+)"', form)) == {
        *("csrf", "command", "urgency", "danger_country", "region", "women", "men", "minor", "needs", "languages"),
        *("children_under_6", "children_6_to_11", "children_12_to_17", "language", "consented_countries", "callback"),
        *NOT_NEEDED_NOW,
    }
    assert not any(f'name="{name}"' in now for name in NOT_NEEDED_NOW)
    assert "sealed at once" in words(Reader(world, POLICE).get("/requests/new"))
    assert len(page) < 30_000


def test_every_field_has_a_label_and_no_memory(world: World) -> None:
    form = html(Reader(world, POLICE).get("/requests/new")).partition('action="/requests/new"')[2]
    for field in re.findall(r"<(?:input|select|textarea)[^>]*>", form.partition("</form>")[0]):
        if 'type="hidden"' in field:
            continue
        name = re.search(r'id="([^"]+)"', field)
        assert name, field
        assert form.count(f'for="{name[1]}"') == 1, field
        assert 'autocomplete="off"' in field, field


def test_what_most_need_takes_few_taps(world: World) -> None:
    """Choices that are not the default, each one tap (a list is two), a tap into each field to type in, and the button."""
    taps = {"region": 2, "women": 1, "children_under_6": 1, "languages": 1, "consented_countries": 1, "callback": 1}
    asked = {name: MINUTE[name] for name in taps}
    form = html(Reader(world, POLICE).get("/requests/new"))
    assert all(f'name="{name}"' in form for name in asked)
    assert sum(taps.values()) + 1 <= 14
    assert (
        send(Reader(world, POLICE), "/requests/new", urgency="urgent", danger_country="BE", **asked).status_code == 303
    )


def test_a_request_is_opened_and_its_case_is_there_in_the_same_second(world: World) -> None:
    police = Reader(world, POLICE)
    answer = send(police, "/requests/new", **MINUTE | {"language": "so", "needs": ["pets", "infant_care"]})
    case = police.follow(answer)
    request_id = answer.headers["Location"].removeprefix("/requests/")
    said = words(case)
    assert f"Case {request_id[:4].upper()}-{request_id[4:8].upper()}" in said
    assert "Your request is recorded" in said
    assert "1 woman, 2 children under 6" in said
    assert "English, Somali" in said
    assert "Province of Antwerp and its neighbours" in said
    assert "phone 112" in said
    view = world.view(request_id)
    assert view["danger_zones"] == [{"code": "BE21", "with_neighbours": True}]
    assert view["household"]["women"] == 1
    assert view["languages"] == ["en", "so"]
    assert view["needs"] == ["pets", "infant_care"]


def test_a_form_that_is_sent_twice_opens_one_request(world: World) -> None:
    police = Reader(world, POLICE)
    page = html(police.get("/requests/new"))
    found = re.search(r'name="command" value="(\w{32})"', page)
    assert found
    first, second = (police.send("/requests/new", **MINUTE | {"command": found[1]}) for _ in range(2))
    assert first.headers["Location"] == second.headers["Location"]
    assert f'value="{found[1]}"' not in html(police.get("/requests/new"))


def test_a_request_that_is_not_decided_yet_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    police = Reader(world, POLICE)
    with monkeypatch.context() as patched:
        patched.setattr(world.core.intake, "wait_for_outcomes", lambda accepted, _s: [None] * len(accepted.command_ids))
        patched.setattr(world.core, "settle", lambda: None)
        answer = send(police, "/requests/new", **MINUTE)
        case = police.follow(answer)
        assert "not decided yet" in words(case)
        assert f'href="{answer.headers["Location"]}">Look again' in html(case)
    world.core.settle()
    assert "not decided yet" not in words(police.get(answer.headers["Location"]))


@pytest.mark.parametrize(
    ("changes", "at", "said"),
    [
        ({"women": "", "men": "", "children_under_6": ""}, "women", "at least one"),
        ({"women": "many"}, "women", "a number from 0 to 40"),
        ({"men": "41"}, "men", "a number from 0 to 40"),
        ({"men": "-1"}, "men", "a number from 0 to 40"),
        ({"men": "٣"}, "men", "a number from 0 to 40"),
        ({"consented_countries": ["NL", "BE"]}, "consented_countries", "Belgium, where they are in danger"),
        ({"region": "XX99"}, "danger_country", "from the lists"),
        ({"danger_country": "XX"}, "danger_country", "from the lists"),
        ({"urgency": ""}, "urgency", "whether it is urgent"),
        ({"callback": " "}, "callback", "a safe way"),
        ({"callback": "x" * 1001}, "callback", "a safe way"),
        ({"callback": "\u202e"}, "callback", "a safe way"),
        ({"needs": "yacht"}, "needs", "from the list"),
        ({"language": "<b>"}, "languages", "from the list"),
        ({"reflection_started_on": "2199-01-01"}, "reflection_started_on", "today at the latest"),
        ({"reflection_started_on": "yesterday"}, "reflection_started_on", "today at the latest"),
        ({"region_of_stay": "XX99"}, "region_of_stay", "from the list"),
    ],
)
def test_what_was_typed_wrong_is_kept_and_named(
    world: World, changes: dict[str, str | list[str]], at: str, said: str
) -> None:
    police = Reader(world, POLICE)
    sent = {"callback": SAFE_NUMBER, "minor": "yes", "men": "3"} | changes
    answer = send(police, "/requests/new", **MINUTE | sent)
    page = html(answer)
    assert answer.status_code == 400
    assert "There is a problem" in words(answer)
    assert re.search(rf'<a href="#{at}">[^<]*{said}', page), words(answer)
    assert page.count(f'id="{at}"') == 1
    assert f'id="{at}-error"' in page
    assert re.search(r'id="minor"[^>]* checked', page)
    if "region" not in changes:
        assert '<option value="BE21" selected>' in page
    if sent["men"] in ("3", "41", "-1"):
        assert (
            f'name="men" type="text" inputmode="numeric" maxlength="2" autocomplete="off" value="{sent["men"]}"' in page
        )
    assert "KESTREL" not in page
    assert "type it once more" in page


def test_what_can_wait_is_folded_away_and_shown_to_whoever_may_know_it(world: World) -> None:
    police = Reader(world, POLICE)
    assert '<details class="govuk-details">' in html(police.get("/requests/new"))
    more = {"third_country_national": "yes", "reflection_started_on": "2026-11-20", "region_of_stay": "BE23"}
    case = send(police, "/requests/new", **MINUTE | more).headers["Location"]
    told = ("Are now in Province of East Flanders", "outside the European Union Yes", "Began on 20 November 2026")
    for who, sees in ((POLICE, True), (ORIGIN, True), (HOST, True), (RECEIVING, False)):
        page = words(Reader(world, who).get(case))
        assert [said in page for said in told] == [sees] * 3, (who, page)
    mistaken = send(police, "/requests/new", **MINUTE | more | {"women": "many"})
    assert '<details class="govuk-details" open>' in html(mistaken)
    assert '<option value="BE23" selected>' in html(mistaken)
    assert 'type="date" autocomplete="off" value="2026-11-20"' in html(mistaken)


def test_whoever_has_no_reflection_period_is_shown_none(world: World) -> None:
    police = Reader(world, POLICE)
    case = send(police, "/requests/new", **MINUTE | {"third_country_national": "no"}).headers["Location"]
    page = words(police.get(case))
    assert "outside the European Union No" in page
    assert "Reflection period" not in page


def test_a_focal_point_opens_requests_for_its_own_country_only(world: World) -> None:
    host = Reader(world, HOST)
    form = html(host.get("/requests/new")).partition('id="danger_country"')[2].partition("</select>")[0]
    assert re.findall(r'<option value="(\w\w)"', form) == ["NL"]
    answer = send(host, "/requests/new", **MINUTE)
    assert answer.status_code == 403
    assert '<a href="#danger_country">You open requests for your own country' in html(answer)
    case = host.follow(send(host, "/requests/new", **MINUTE | {"danger_country": "NL", "consented_countries": "BE"}))
    assert "Case " in words(case)


@pytest.mark.parametrize("who", [RECEIVING, GUARDIAN, ESCORT, AUDITOR], ids=lambda who: who.role)
def test_nobody_else_opens_one(world: World, who: Who) -> None:
    reader = Reader(world, who)
    assert reader.get("/requests/new").status_code == 403
    assert send(reader, "/requests/new", **MINUTE).status_code == 403


def test_what_may_reach_the_household_is_in_no_page_address_or_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    police = Reader(world, POLICE)
    with caplog.at_level(logging.DEBUG):
        refused = send(police, "/requests/new", **MINUTE | {"women": "", "children_under_6": ""})
        answer = send(police, "/requests/new", **MINUTE)
        where = answer.headers["Location"]
        pages = [refused, police.follow(answer), police.get("/requests")]
        pages += [police.get(f"{where}{part}") for part in ("/timeline", "/disclosures", "/consent", "/withdrawal")]
    for page in pages:
        assert "KESTREL" not in html(page)
        assert "KESTREL" not in str(page.headers)
    assert "KESTREL" not in where
    assert "KESTREL" not in caplog.text


def test_every_language_on_the_form_has_a_name_in_every_language() -> None:
    from babel import Locale

    assert not set(ALSO_SPOKEN) & set(MOST_SPOKEN)
    assert len(set(ALSO_SPOKEN)) == len(ALSO_SPOKEN)
    for language in LANGUAGES:
        names = Locale.parse(language.locale).languages
        assert [code for code in (*MOST_SPOKEN, *ALSO_SPOKEN) if code not in names] == []


def test_what_was_sent_before_signing_in_again_is_filled_in_but_for_what_is_sealed(world: World) -> None:
    police = Reader(world, POLICE)
    fields = tuple((name, value) for name, value in (MINUTE | {"men": "4"}).items())
    kept = KeptForm(
        path="/requests/new", fields=(*fields, ("needs", "pets"), ("needs", "infant_care")), person=POLICE.person
    )
    cookie = world.node.sessions.begin(
        Session(csrf=CSRF, principal=world.node.gateway.verifier.principal(world.token(POLICE)), kept=kept)
    )
    police.client.set_cookie("haven", cookie, domain="127.0.0.1")
    page = html(police.get("/requests/new"))
    assert re.search(r'name="men"[^>]* value="4"', page)
    for need in ("pets", "infant_care"):
        assert re.search(rf'value="{need}"[^>]* checked', page)
    assert "KESTREL" not in page
    assert re.search(r'name="men"[^>]* value=""', html(Reader(world, POLICE).get("/requests/new")))


def test_a_form_that_was_changed_after_it_was_sent_is_not_taken_for_the_first(world: World) -> None:
    police = Reader(world, POLICE)
    command = uuid4().hex
    assert police.send("/requests/new", **MINUTE | {"command": command}).status_code == 303
    changed = police.send("/requests/new", **MINUTE | {"command": command, "women": "2"})
    assert changed.status_code == 422
    assert "sent before" in words(changed)
    assert f'value="{command}"' not in html(changed)


def test_what_may_have_been_recorded_keeps_its_command(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_broken(*_: object, **__: object) -> None:
        raise problems.Problem(503, "not-recorded", "Not recorded.", next_action="Phone.")

    police = Reader(world, POLICE)
    command = uuid4().hex
    with monkeypatch.context() as patched:
        patched.setattr(world.core.intake, "accept", is_broken)
        answer = police.send("/requests/new", **MINUTE | {"command": command})
    assert answer.status_code == 503
    assert "phone the focal point" in words(answer)
    assert f'name="command" value="{command}"' in html(answer)


# the list


def test_everybody_sees_the_cases_they_may_know_and_no_other(world: World, confirmed: str) -> None:
    code = f"{confirmed[:4]}-{confirmed[4:8]}".upper()
    for who in (POLICE, ORIGIN, HOST, ESCORT, RECEIVING):
        listed = Reader(world, who).get("/requests")
        assert listed.status_code == 200
        assert code in words(listed), who
        assert '<time class="haven-clock" datetime="20' in html(listed)
    for who in (OTHER_POLICE, FOREIGN_POLICE, GUARDIAN, OTHER_ESCORT, NEIGHBOUR):
        assert code not in words(Reader(world, who).get("/requests")), who


@pytest.mark.parametrize(
    ("who", "said"),
    [
        (OTHER_POLICE, "make a new request"),
        (GUARDIAN, "no case of a presumed minor"),
        (OTHER_ESCORT, "no journey for you"),
        (NEIGHBOUR, "Keep the number of your free beds true"),
    ],
    ids=lambda one: getattr(one, "role", ""),
)
def test_an_empty_list_says_what_to_do(tmp_path_factory: pytest.TempPathFactory, who: Who, said: str) -> None:
    world = World(tmp_path_factory.mktemp("empty"))
    try:
        assert said in words(Reader(world, who).get("/requests"))
    finally:
        world.node.stop()


def test_an_auditor_has_no_cases(world: World) -> None:
    assert Reader(world, AUDITOR).get("/requests").status_code == 403


def test_a_long_list_goes_on_page_by_page(world: World) -> None:
    reader = Reader(world, FOREIGN_POLICE)
    codes = set()
    for _ in range(21):
        answer = send(
            reader, "/requests/new", **MINUTE | {"danger_country": "NL", "region": "", "consented_countries": "BE"}
        )
        codes.add(answer.headers["Location"])
    first = reader.get("/requests")
    [older] = [link for link in links(first) if "cursor=" in link]
    second = reader.get(older)
    shown = [{link for link in links(page) if link in codes} for page in (first, second)]
    assert [len(one) for one in shown] == [20, 1]
    assert shown[0] | shown[1] == codes
    assert "/requests" in links(second)
    assert "cursor=" not in "".join(links(second))
    assert reader.get("/requests?cursor=made-up").status_code == 400


# the case


def test_each_role_sees_its_part_of_the_case(world: World, confirmed: str) -> None:
    said = {
        who: words(Reader(world, who).get(f"/requests/{confirmed}"))
        for who in (POLICE, ORIGIN, HOST, ESCORT, RECEIVING)
    }
    assert all("Agreed, and the bed is certain" in text for text in said.values())
    assert "Never to be placed in Belgium" in said[POLICE]
    assert "Never to be placed in" not in said[RECEIVING]
    assert "Belgium" not in said[RECEIVING].replace("Belgium,", "")
    assert "1 woman" in said[RECEIVING]
    assert "1 woman" not in said[ESCORT]
    assert "To arrive by" in said[ESCORT]
    assert "What they agreed to" in said[ORIGIN]
    assert "Consent" not in said[ESCORT]
    for text in said.values():
        assert "nl-shelter" not in text.replace("Shelter, nl-shelter-01, Netherlands", "")
        for secret in (CALLBACK, RENDEZVOUS, STEPS):
            assert secret not in text


@pytest.mark.attack(38)
def test_a_case_that_is_not_yours_is_not_there(world: World, confirmed: str) -> None:
    for who in (OTHER_POLICE, NEIGHBOUR, OTHER_ESCORT, GUARDIAN):
        reader = Reader(world, who)
        assert reader.get(f"/requests/{confirmed}").status_code == 404
        assert reader.get(f"/requests/{'0' * 32}").status_code == 404
    led = Reader(world, AUDITOR).get(f"/requests/{confirmed}")  # what an auditor may see of a case is its trail
    assert (led.status_code, led.headers["Location"]) == (303, f"/audit?case={confirmed}")
    for hostile in ("a%3Flimit=1", "..%2e", "%00", "%C3%A9", "a%23b"):
        assert Reader(world, POLICE).get(f"/requests/{hostile}").status_code == 404


@pytest.mark.parametrize("who", [POLICE, ORIGIN, HOST, ESCORT, RECEIVING], ids=lambda who: who.organisation)
def test_every_link_leads_somewhere(world: World, confirmed: str, who: Who) -> None:
    reader = Reader(world, who)
    seen, waiting = set(), ["/requests", f"/requests/{confirmed}"]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        answer = reader.get(path)
        assert answer.status_code == 200, (path, words(answer))
        if path.startswith(("/requests?", "/requests/" + confirmed)) or path in ("/requests", "/requests/new"):
            waiting += [link for link in links(answer) if link not in seen and link not in waiting]
    assert f"/requests/{confirmed}/disclosures" in seen


@pytest.mark.parametrize(("stage", "ticks"), [(Stage.ASKED, True), (Stage.ARRIVED, False)])
def test_a_deadline_that_is_months_away_is_not_counted_down_in_hours(world: World, stage: Stage, ticks: bool) -> None:
    page = Reader(world, ORIGIN).get(f"/requests/{world.bring_to(stage)}").text
    (shown,) = re.findall(r'<time class="haven-clock"([^>]*)>([^<]*)</time>', page)
    assert ("data-clock" in shown[0]) is ticks
    assert ("month" in shown[1]) is not ticks


@pytest.mark.parametrize(
    "stage",
    [stage for stage in Stage if stage not in (Stage.RECEIVED, Stage.OPENED, Stage.SHORTLISTED, Stage.CONSENTED)],
)
def test_a_case_can_be_looked_at_wherever_it_stands(world: World, stage: Stage) -> None:
    request_id = world.bring_to(stage)
    for who in (POLICE, ORIGIN, HOST, RECEIVING):
        answer = Reader(world, who).get(f"/requests/{request_id}")
        if who in (HOST, RECEIVING) and answer.status_code == 404:
            continue
        assert answer.status_code == 200, words(answer)
        for link in links(answer):
            assert Reader(world, who).get(link).status_code == 200, (who.role, link)
    assert Reader(world, POLICE).get(f"/requests/{request_id}/timeline").status_code == 200
    assert Reader(world, ORIGIN).get(f"/requests/{request_id}/timeline").status_code == 200


WHO_MAY = {
    "": (POLICE, ORIGIN, HOST, ESCORT, RECEIVING),
    "timeline": (POLICE, ORIGIN, HOST),
    "details": (POLICE, ORIGIN),
    "consent": (POLICE, ORIGIN, RECEIVING),
    "departure": (POLICE, ORIGIN, ESCORT),
    "arrival": (HOST, RECEIVING),
    "end": (),
    "disclosures": (POLICE, ORIGIN, HOST, ESCORT, RECEIVING),
    "withdrawal": (POLICE, ORIGIN),
}
"""Of a confirmed request whose journey is planned."""


@pytest.mark.parametrize("part", WHO_MAY)
def test_every_page_is_for_whoever_can_use_it_now(world: World, confirmed: str, part: str) -> None:
    path = f"/requests/{confirmed}/{part}".rstrip("/")
    for who in (POLICE, ORIGIN, HOST, ESCORT, RECEIVING, GUARDIAN, AUDITOR, OTHER_POLICE, NEIGHBOUR, OTHER_ESCORT):
        answer = Reader(world, who).get(path)
        if who in WHO_MAY[part]:
            assert answer.status_code == 200, who
        elif who is AUDITOR and not part:
            assert answer.status_code == 303  # to the trail
        else:
            assert answer.status_code in (403, 404, 409), who
            assert "<form method" not in main_part(answer)


@pytest.mark.parametrize("language", [one.code for one in LANGUAGES])
def test_pages_are_there_in_every_language(world: World, confirmed: str, language: str) -> None:
    reader = Reader(world, ORIGIN, language)
    for path in (
        "/requests",
        "/requests/new",
        *(f"/requests/{confirmed}{part}" for part in ("", "/timeline", "/consent")),
    ):
        answer = reader.get(path)
        assert answer.status_code == 200
        assert f'<html lang="{language}"' in html(answer)


def test_headings_are_in_order(world: World, confirmed: str) -> None:
    for path in (
        "/requests",
        "/requests/new",
        *(f"/requests/{confirmed}{part}" for part in ("", "/timeline", "/consent")),
    ):
        page = main_part(Reader(world, ORIGIN).get(path))
        levels = [int(level) for level in re.findall(r"<h(\d)", page)]
        assert levels.count(1) == 1, path
        assert levels[0] == 1, path
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), path
        assert " style=" not in page
        assert '=""' not in page.replace('value=""', "")
        ids = re.findall(r' id="([^"]+)"', page)
        assert len(ids) == len(set(ids)), path


# the steps


def test_a_consent_is_recorded_and_taken_back(world: World) -> None:
    request_id = world.open()
    police = Reader(world, POLICE)
    said = {"scope": "placement", "country": "LU"}
    case = police.follow(send(police, f"/requests/{request_id}/consent", **said, given="yes"))
    assert "Their word is recorded" in words(case)
    assert world.view(request_id)["consents"]["placement/LU/household"] is True
    case = police.follow(send(police, f"/requests/{request_id}/consent", **said, given="no"))
    assert "No, or withdrawn" in words(case)
    assert world.view(request_id)["consents"]["placement/LU/household"] is False


def test_a_guardian_gives_the_guardians_word(world: World) -> None:
    request_id = world.open(**A_MINOR)
    guardian = Reader(world, GUARDIAN)
    case = guardian.follow(
        send(guardian, f"/requests/{request_id}/consent", scope="placement", country="NL", given="yes")
    )
    assert "1 child of 12 to 17" in words(case)
    assert world.view(request_id)["consents"]["placement/NL/guardian"] is True
    assert guardian.get(f"/requests/{request_id}/timeline").status_code == 200
    for part in ("withdrawal", "departure", "arrival", "end", "disclosures"):
        assert guardian.get(f"/requests/{request_id}/{part}").status_code == 403


@pytest.mark.parametrize("missing", ["scope", "country", "given"])
def test_a_consent_without_an_answer_keeps_the_others(world: World, confirmed: str, missing: str) -> None:
    police = Reader(world, POLICE)
    said = {"scope": "transport", "country": "LU", "given": "no"} | {missing: ""}
    answer = send(police, f"/requests/{confirmed}/consent", **said)
    assert answer.status_code == 400
    assert f'<a href="#{missing}">Choose an answer' in html(answer)
    for value in filter(None, said.values()):
        assert re.search(rf'value="{value}"[^>]* checked', html(answer)), value


def test_withdrawing_has_a_page_and_a_reason_of_its_own(world: World) -> None:
    request_id = world.open()
    police = Reader(world, POLICE)
    path = f"/requests/{request_id}/withdrawal"
    assert path in links(police.get(f"/requests/{request_id}"))
    page = police.get(path)
    assert "cannot be undone" in words(page)
    assert world.view(request_id)["stage"] != Stage.WITHDRAWN
    refused = send(police, path)
    assert refused.status_code == 400
    assert '<a href="#reason">' in html(refused)
    case = police.follow(send(police, path, reason="danger_passed"))
    assert "The request is withdrawn" in words(case)
    assert world.view(request_id)["stage"] == Stage.WITHDRAWN
    assert "cannot do this now" in words(police.get(path))
    too_late = send(police, f"/requests/{request_id}/departure")
    assert too_late.status_code == 409
    assert "The case is now at: Withdrawn" in words(too_late)


def test_another_country_withdraws_nothing(world: World) -> None:
    request_id = world.bring_to(Stage.OFFERED)
    host = Reader(world, HOST)
    path = f"/requests/{request_id}/withdrawal"
    assert path not in links(host.get(f"/requests/{request_id}"))
    assert host.get(path).status_code == 409
    assert send(host, path, reason="danger_passed").status_code == 403
    assert world.view(request_id)["stage"] == Stage.OFFERED


def test_the_journey_from_departure_to_the_end(world: World) -> None:
    request_id = world.bring_to(Stage.CONFIRMED)
    world.done(world.plan_journey(request_id))
    case = f"/requests/{request_id}"
    escort, shelter = Reader(world, ESCORT), Reader(world, RECEIVING)
    refused = send(escort, f"{case}/departure")
    assert refused.status_code == 409
    assert "The household has not consented to the journey" in words(refused)
    world.done(world.consent(request_id))
    assert "The departure is recorded" in words(escort.follow(send(escort, f"{case}/departure")))
    assert world.view(request_id)["stage"] == Stage.DEPARTED
    assert 'value="arrived"' not in html(escort.get(f"{case}/arrival"))
    assert 'value="not_arrived"' in html(escort.get(f"{case}/arrival"))
    assert f"{case}/arrival" in links(shelter.get(case))
    assert "recorded" in words(shelter.follow(send(shelter, f"{case}/arrival", outcome="arrived")))
    assert world.view(request_id)["stage"] == Stage.ARRIVED
    assert Reader(world, POLICE).get(f"{case}/departure").status_code == 409
    assert f"{case}/end" in links(shelter.get(case))
    assert "end of the stay" in words(shelter.follow(send(shelter, f"{case}/end", reason="moved_on")))
    assert world.view(request_id)["stage"] == Stage.ENDED


def test_whoever_did_not_come_is_looked_for(world: World) -> None:
    request_id = world.bring_to(Stage.DEPARTED)
    shelter, origin = Reader(world, RECEIVING), Reader(world, ORIGIN)
    case = f"/requests/{request_id}"
    shelter.follow(send(shelter, f"{case}/arrival", outcome="not_arrived"))
    assert world.view(request_id)["stage"] == Stage.ASTRAY
    page = origin.get(case)
    assert f"{case}/disclosures" in links(page)
    assert f"{case}/end" in links(page)
    assert f"{case}/arrival" not in links(page)
    assert "the shelter or the focal point of the host country" not in words(page)
    world.later(hours=2)
    assert re.search(r"\d deadlines? missed", words(origin.get(case)))


def test_what_was_done_twice_by_one_command_is_done_once(world: World) -> None:
    request_id = world.open()
    police = Reader(world, POLICE)
    fields = {"scope": "placement", "country": "LU", "given": "yes", "command": uuid4().hex}
    for _ in range(2):
        assert police.send(f"/requests/{request_id}/consent", **fields).status_code == 303
    page = police.get(f"/requests/{request_id}/timeline")
    assert words(page).count("Consent was given.") == 1


def test_a_step_that_is_not_decided_yet_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    request_id = world.open()
    police = Reader(world, POLICE)
    with monkeypatch.context() as patched:
        patched.setattr(world.core.intake, "wait_for_outcomes", lambda accepted, _s: [None] * len(accepted.command_ids))
        answer = send(police, f"/requests/{request_id}/withdrawal", reason="danger_passed")
    assert "not decided yet" in words(police.follow(answer))


def test_focal_points_find_the_shortlist_and_the_signature(world: World) -> None:
    asked, proposed = (world.bring_to(stage) for stage in (Stage.ASKED, Stage.PROPOSED))
    origin, host, police = (Reader(world, who) for who in (ORIGIN, HOST, POLICE))
    assert f"/requests/{asked}/shortlist" in links(origin.get(f"/requests/{asked}"))
    assert f"/requests/{proposed}/signature" in links(host.get(f"/requests/{proposed}"))
    assert f"/requests/{proposed}/signature" in links(origin.get(f"/requests/{proposed}"))
    for request_id in (asked, proposed):
        assert not [link for link in links(police.get(f"/requests/{request_id}")) if "sh" in link.rpartition("/")[2]]


def test_a_shelter_answers_from_the_case(world: World) -> None:
    request_id = world.bring_to(Stage.ASKED)
    shelter = Reader(world, RECEIVING)
    assert f"/asks/{world.ask_to(request_id, RECEIVING)}" in links(shelter.get(f"/requests/{request_id}"))


# what is sealed


@pytest.mark.parametrize(
    ("who", "field", "reason", "value"),
    [
        (POLICE, "callback", "call_back", CALLBACK),
        (POLICE, "rendezvous", "prepare_handover", RENDEZVOUS),
        (ORIGIN, "journey", "overdue_arrival", STEPS),
        (HOST, "rendezvous", "receive_household", RENDEZVOUS),
        (ESCORT, "journey", "drive_journey", STEPS),
        (RECEIVING, "callback", "prepare_handover", CALLBACK),
    ],
)
def test_a_sealed_field_is_shown_once_to_whoever_needs_it(
    world: World, confirmed: str, who: Who, field: str, reason: str, value: str
) -> None:
    reader = Reader(world, who)
    path = f"/requests/{confirmed}/disclosures"
    choice = reader.get(path)
    assert "written down" in words(choice)
    assert value not in html(choice)
    shown = send(reader, path, field=field, reason=reason)
    assert shown.status_code == 200
    assert value in words(shown)
    assert shown.headers["Cache-Control"] == "no-store"
    assert value not in html(reader.get(path))
    assert value not in html(reader.get(f"/requests/{confirmed}"))


def test_a_reason_must_fit_and_be_given(world: World, confirmed: str) -> None:
    police = Reader(world, POLICE)
    path = f"/requests/{confirmed}/disclosures"
    unfit = send(police, path, field="callback", reason="drive_journey")
    assert unfit.status_code == 400
    assert '<a href="#reason">This reason does not justify' in html(unfit)
    assert re.search(r'value="callback"[^>]* checked', html(unfit))
    assert '<a href="#field">' in html(send(police, path, reason="call_back"))
    assert '<a href="#reason">' in html(send(police, path, field="callback"))


@pytest.mark.attack(40)
def test_what_may_not_be_opened_yet_is_not_offered_and_not_opened(world: World) -> None:
    request_id = world.bring_to(Stage.OFFERED)
    path = f"/requests/{request_id}/disclosures"
    shelter, police = Reader(world, RECEIVING), Reader(world, POLICE)
    assert shelter.get(path).status_code == 409
    refused = send(shelter, path, field="callback", reason="prepare_handover")
    assert refused.status_code == 403
    assert CALLBACK not in html(refused)
    assert 'value="callback"' in html(police.get(path))
    assert 'value="rendezvous"' not in html(police.get(path))
    assert Reader(world, GUARDIAN).get(path).status_code == 403
    assert Reader(world, OTHER_POLICE).get(path).status_code == 404


def test_the_reasons_on_the_page_are_those_of_the_rule() -> None:
    assert {field: frozenset(reasons) for field, reasons in REASONS.items()} == DISCLOSURE_REASONS


# what happened


def test_the_timeline_tells_what_happened_and_who_looked(world: World) -> None:
    request_id = world.open()
    Reader(world, ORIGIN).get(f"/requests/{request_id}")
    for who in (POLICE, ORIGIN):
        answer = Reader(world, who).get(f"/requests/{request_id}/timeline")
        said = words(answer)
        assert "The request was" in said
        assert "Focal point, Belgium" in said
        assert re.search(r"Who looked: \d+ times?", said)
        assert '<time datetime="2026-11-2' in html(answer)
        assert not re.search(r"(placement|gateway|capacity)\.\w+", said)
    assert "Focal point, Belgium" in words(Reader(world, POLICE).get(f"/requests/{request_id}/timeline"))
    for who in (RECEIVING, ESCORT):
        assert Reader(world, who).get(f"/requests/{request_id}/timeline").status_code == 403
