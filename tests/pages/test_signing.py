"""From the shortlist to the journey through the pages: who may, who may not, and what nobody signs by mistake."""

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from werkzeug.test import TestResponse

from events.gateway import CountersignPlacement, PlanJourney, ProposePlacement
from events.placement import Preference, Rule
from events.vocabulary import Stage
from services.gateway import problems
from services.gateway.pages.frame import own_path
from services.gateway.pages.journey import NoSuchMoment, moment_in_brussels
from services.gateway.pages.sessions import KeptForm, Session
from services.gateway.pages.shortlist import (
    Offer,
    failed_counts,
    near_misses,
    offers_of,
    preference_words,
    rulings_of,
    standings_of,
    would_fit_if,
)
from tests.gateway.world import (
    AUDITOR,
    ESCORT,
    GUARDIAN,
    HOST,
    MISSING,
    NEIGHBOUR,
    ORIGIN,
    OTHER_HOST,
    POLICE,
    RECEIVING,
    SAME_PERSON,
    STEPS,
    Who,
    World,
    somebody,
)
from tests.pages.reader import CSRF, Reader, words

SECOND_HOST = somebody(HOST.role, "NL", "nl-coordinator", 2)


@pytest.fixture
def origin(world: World) -> Reader:
    return Reader(world, ORIGIN)


@pytest.fixture
def host(world: World) -> Reader:
    return Reader(world, HOST)


def page_of(request_id: str, part: str) -> str:
    return f"/requests/{request_id}/{part}"


def fields_of(answer: TestResponse, decision: str = "") -> dict[str, str]:
    """The hidden fields of a page's form; of the one with this decision, where it has several."""
    page = answer.get_data(as_text=True)
    main = page[page.index("<main") : page.index("</main>")]
    for form in re.findall(r"<form.*?</form>", main, re.DOTALL):
        fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form))
        if not decision or fields.get("decision") == decision:
            return {name: unescape(value) for name, value in fields.items()}
    raise AssertionError(f"no such form: {words(answer)}")


def the_way_to_propose(answer: TestResponse) -> list[str]:
    return [unescape(way) for way in re.findall(r'href="([^"]*/proposal\?ask=[^"]*)"', answer.get_data(as_text=True))]


def propose_through_pages(origin: Reader, request_id: str, override: str = "travel") -> TestResponse:
    [way, *_] = the_way_to_propose(origin.get(page_of(request_id, "shortlist")))
    form = fields_of(origin.get(way))
    return origin.send(page_of(request_id, "proposal"), **form, override=override)


def sent_since(world: World, head: int, contract: type) -> int:
    return sum(isinstance(event.data, contract) for event in world.appended_since(head))


# The whole way


def test_two_focal_points_sign_a_placement_and_one_plans_its_journey(
    world: World, origin: Reader, host: Reader
) -> None:
    request_id = world.bring_to(Stage.OFFERED)
    shown = origin.get(page_of(request_id, "shortlist"))
    [way] = the_way_to_propose(shown)
    proposing = origin.get(way)
    said = words(proposing)
    for fact in ("1 woman", "Belgium", "Netherlands", RECEIVING.organisation, "North Holland", "First ranked"):
        assert fact in said
    assert 'name="override"' not in proposing.get_data(as_text=True)
    sent = origin.send(page_of(request_id, "proposal"), **fields_of(proposing))
    after = origin.follow(sent)
    assert "Signed and proposed" in words(after)
    assert "be-coordinator, Belgium" in words(after)
    assert "The second signature must be somebody else's" in words(after)
    assert world.view(request_id)["stage"] == Stage.PROPOSED

    signing = host.get(page_of(request_id, "signature"))
    assert "Sign this placement" in words(signing)
    signed = host.send(page_of(request_id, "signature"), **fields_of(signing, "sign"))
    assert "Both countries have signed" in words(host.follow(signed))
    assert world.view(request_id)["stage"] == Stage.CONFIRMED

    planning = origin.get(page_of(request_id, "journey"))
    planned = origin.send(page_of(request_id, "journey"), **fields_of(planning), **a_plan())
    said = words(origin.follow(planned))
    assert "The journey is planned" in said
    assert ESCORT.person in said
    assert "23/11/2026, 20:30" in said
    assert world.view(request_id)["journey"]["arrival_due"].startswith("2026-11-23T19:30")


def a_plan(**changes: str) -> dict[str, str]:
    plan = {"escort": ESCORT.person, "arrival_day": "2026-11-23", "arrival_time": "20:30", "steps": STEPS}
    return plan | changes


PAGES = ("shortlist", "proposal", "signature", "journey")


@pytest.mark.parametrize("who", [POLICE, RECEIVING, GUARDIAN, ESCORT, AUDITOR])
@pytest.mark.parametrize("part", PAGES)
def test_only_focal_points_have_these_pages(world: World, who: Who, part: str) -> None:
    request_id = world.bring_to(Stage.PROPOSED)
    reader = Reader(world, who)
    assert reader.get(page_of(request_id, part)).status_code == 403
    if part != "shortlist":
        assert reader.send(page_of(request_id, part), command=uuid4().hex).status_code == 403


@pytest.mark.parametrize("part", PAGES)
def test_a_third_country_finds_nothing(world: World, part: str) -> None:
    request_id = world.bring_to(Stage.PROPOSED)
    reader = Reader(world, OTHER_HOST)
    for asked in (request_id, MISSING, "a b", "x%3Fy", "..", "%2e%2e"):
        assert reader.get(page_of(asked, part)).status_code == 404
    if part != "shortlist":
        proposal_hash = world.view(request_id)["proposal"]["hash"]
        fields = a_plan() | {"ask_id": "x", "decision": "sign", "proposal_hash": proposal_hash}
        assert reader.send(page_of(request_id, part), command=uuid4().hex, **fields).status_code == 404
    assert world.view(request_id)["stage"] == Stage.PROPOSED


@pytest.mark.parametrize("stage", [Stage.ASKED, Stage.OFFERED, Stage.PROPOSED, Stage.CONFIRMED, Stage.DEPARTED])
def test_every_link_leads_somewhere(world: World, stage: Stage) -> None:
    request_id = world.bring_to(stage)
    for who in (ORIGIN, HOST):
        reader = Reader(world, who)
        for part in PAGES:
            answer = reader.get(page_of(request_id, part))
            if answer.status_code != 200:
                continue
            page = answer.get_data(as_text=True)
            content = page[page.index("<main") : page.index("</main>")] + "".join(
                re.findall(r'<a class="govuk-back-link"[^>]*>', page)
            )
            for link in re.findall(r'href="([^"#][^"]*)"', content):
                assert reader.get(unescape(link)).status_code == 200, link


def test_nothing_sealed_and_nobody_is_named_on_any_of_them(world: World) -> None:
    request_id = world.bring_to(Stage.CONFIRMED)
    world.done(world.plan_journey(request_id))
    for who in (ORIGIN, HOST):
        for part in PAGES:
            page = Reader(world, who).get(page_of(request_id, part)).get_data(as_text=True)
            for secret in ("PLOVER", "CURLEW", "DUNLIN", POLICE.person):
                assert secret not in page
            assert request_id not in page[page.index("<title>") : page.index("</title>")]


# The shortlist


def test_the_shortlist_says_rule_by_rule_why_and_why_not(world: World, origin: Reader) -> None:
    request_id = world.bring_to(Stage.OFFERED)
    said = words(origin.get(page_of(request_id, "shortlist")))
    ruleset = world.view(request_id)["shortlist"]["ruleset"]
    assert f"Has reported its beds: met ({Rule.CAPACITY_IS_KNOWN}, {ruleset})" in said
    assert f"Not in the country of danger: not met ({Rule.NOT_IN_DANGER_COUNTRY}, {ruleset})" in said
    assert "Behind the one before by this preference: Leaves fewer beds over" in said
    assert re.search(r"Loose fit: \d+ beds would be left over", said)
    assert "Answered yes" in said
    unmet = words(origin.get(page_of(world.bring_to(Stage.UNMET_NEED), "shortlist")))
    assert "units (Luxembourg, Netherlands) would fit if what they need can be given in another way." in unmet


def test_the_shortlist_is_for_the_country_of_danger(world: World, host: Reader) -> None:
    request_id = world.bring_to(Stage.OFFERED)
    answer = host.get(page_of(request_id, "shortlist"))
    assert answer.status_code == 403
    assert "focal point of another country" in words(answer)


def test_what_needs_no_search_any_more_cannot_be_proposed_again(world: World, origin: Reader) -> None:
    request_id = world.bring_to(Stage.OFFERED)
    [way] = the_way_to_propose(origin.get(page_of(request_id, "shortlist")))
    world.done(world.propose(request_id))
    assert not the_way_to_propose(origin.get(page_of(request_id, "shortlist")))
    answer = origin.get(way)
    assert answer.status_code == 409
    assert "This cannot be proposed now" in words(answer)


def test_a_rule_that_rests_on_a_report_is_unknown_without_one() -> None:
    failed = (Rule.CAPACITY_IS_KNOWN, Rule.KEEPS_HOUSEHOLD_TOGETHER)
    states = {ruling.rule: ruling.state for ruling in rulings_of(failed)}
    assert states.pop(Rule.CAPACITY_IS_KNOWN) == "not met"
    assert states.pop(Rule.KEEPS_HOUSEHOLD_TOGETHER) == "unknown"
    assert set(states.values()) == {"met"}
    assert len(states) == len(Rule) - 2


@pytest.mark.parametrize(
    ("failed", "rule"),
    [
        ((Rule.MEETS_NEEDS,), Rule.MEETS_NEEDS),
        ((Rule.CAPACITY_IS_KNOWN, Rule.KEEPS_HOUSEHOLD_TOGETHER), Rule.CAPACITY_IS_KNOWN),
        ((Rule.MEETS_NEEDS, Rule.OPEN_NOW), None),
        ((Rule.OUTSIDE_DANGER_ZONES,), None),
        ((Rule.NOT_IN_DANGER_COUNTRY,), None),
        ((Rule.CHILD_TRACK_FOR_PRESUMED_MINORS,), None),
        ((Rule.ADULT_TRACK_FOR_ADULTS,), None),
    ],
)
def test_nobody_is_told_to_relax_what_keeps_people_safe(failed: tuple[Rule, ...], rule: Rule | None) -> None:
    assert would_fit_if(failed) is rule


def test_reasons_are_counted_and_near_misses_named() -> None:
    rejected = [
        {"unit_id": "a", "country": "NL", "failed": ["meets_needs"]},
        {"unit_id": "b", "country": "LU", "failed": ["meets_needs"]},
        {"unit_id": "c", "country": "BE", "failed": ["not_in_danger_country", "meets_needs"]},
    ]
    assert failed_counts(rejected) == [("meets_needs", 3), ("not_in_danger_country", 1)]
    [near] = near_misses(rejected)
    assert (near.count, near.countries) == (2, ("LU", "NL"))


def a_candidate(unit_id: str, decided_by: str | None) -> dict[str, Any]:
    return {
        "unit_id": unit_id,
        "shelter_id": unit_id,
        "country": "NL",
        "region": "NL32",
        "free": 4,
        "freshness": "fresh",
        "preferences": {"freshness": 0, "languages": 0, "scarce_support_spared": 0, "tight_fit": 3, "lottery": 7},
        "decided_by": decided_by,
    }


def test_ties_are_shown_as_ties() -> None:
    candidates = [
        a_candidate("a", None),
        a_candidate("b", Preference.LOTTERY),
        a_candidate("c", Preference.TIGHT_FIT),
        a_candidate("d", Preference.LOTTERY),
        a_candidate("e", Preference.FRESHNESS),
    ]
    standings = standings_of({"candidates": candidates}, {})
    assert [(one.unit_id, one.place, one.is_tied) for one in standings] == [
        ("a", 1, True),
        ("b", 1, True),
        ("c", 3, True),
        ("d", 3, True),
        ("e", 5, False),
    ]
    assert standings_of({"candidates": []}, {}) == []


def test_preferences_are_words_and_the_lot_is_none() -> None:
    said = preference_words({"freshness": 2, "languages": 1, "scarce_support_spared": 1, "tight_fit": 2, "lottery": 9})
    assert said == (
        "Report overdue",
        "Speaks none of their languages",
        "Has 1 kind of support that they do not need",
        "Close fit: 2 beds would be left over",
    )
    assert preference_words({"tight_fit": 10})[0].startswith("Middling fit")
    assert preference_words({"tight_fit": 11})[0].startswith("Loose fit")


def test_offers_stand_in_the_order_of_the_list_and_who_is_not_on_it_comes_last() -> None:
    def ask(ask_id: str, unit_id: str, state: str = "accepted") -> dict[str, Any]:
        return {
            "ask_id": ask_id,
            "unit_id": unit_id,
            "shelter_id": "s",
            "country": "NL",
            "state": state,
            "condition": None,
        }

    asks = [ask("1", "gone"), ask("2", "b"), ask("3", "a", "declined"), ask("4", "c")]
    view = {"asks": {one["ask_id"]: one for one in asks}}
    shortlist = {"candidates": [a_candidate(unit, None) for unit in "abc"]}
    offers = offers_of(view, shortlist)
    assert [(offer.ask_id, offer.place) for offer in offers] == [("2", 1), ("4", 2), ("1", 3)]
    assert offers[2] == Offer("1", "gone", "s", "NL", "", None, 3)
    assert [offer.place for offer in offers_of(view, None)] == [1, 1, 1]


# The first signature


def with_two_offers(world: World) -> str:
    request_id = world.open()
    world.done(world.say_yes(request_id))
    world.done(world.say_yes(request_id, NEIGHBOUR))
    return request_id


def test_whoever_does_not_take_the_first_offer_says_why(world: World, origin: Reader) -> None:
    request_id = with_two_offers(world)
    first, second = the_way_to_propose(origin.get(page_of(request_id, "shortlist")))
    assert 'name="override"' not in origin.get(first).get_data(as_text=True)
    form = fields_of(origin.get(second))
    refused = origin.send(page_of(request_id, "proposal"), **form)
    assert refused.status_code == 409
    page = refused.get_data(as_text=True)
    assert 'href="#override"' in page
    assert 'id="override"' in page
    assert "There is a problem" in words(refused)
    assert world.view(request_id)["stage"] == Stage.OFFERED
    chosen = origin.send(page_of(request_id, "proposal"), **fields_of(refused), override="care_fit")
    said = words(origin.follow(chosen))
    assert "Number 2 of the offers that stand" in said
    assert "The care fits better" in said


def test_a_reason_that_is_none_is_turned_away_and_what_was_chosen_is_kept(world: World, origin: Reader) -> None:
    request_id = with_two_offers(world)
    _, second = the_way_to_propose(origin.get(page_of(request_id, "shortlist")))
    refused = origin.send(page_of(request_id, "proposal"), **fields_of(origin.get(second)), override="whim")
    assert refused.status_code == 400
    assert 'href="#override"' in refused.get_data(as_text=True)


@pytest.mark.parametrize("ask_id", ["", MISSING, "a b"])
def test_an_offer_that_nobody_made_cannot_be_proposed(world: World, origin: Reader, ask_id: str) -> None:
    request_id = world.bring_to(Stage.OFFERED)
    assert origin.get(page_of(request_id, "proposal"), query_string={"ask": ask_id}).status_code == 409
    sent = origin.send(page_of(request_id, "proposal"), command=uuid4().hex, ask_id=ask_id)
    assert sent.status_code in (400, 404)
    assert world.view(request_id)["stage"] == Stage.OFFERED


def test_the_host_cannot_propose(world: World, host: Reader) -> None:
    request_id = world.bring_to(Stage.OFFERED)
    ask_id = world.ask_to(request_id, RECEIVING)
    assert host.get(page_of(request_id, "proposal"), query_string={"ask": ask_id}).status_code == 403
    answer = host.send(page_of(request_id, "proposal"), command=uuid4().hex, ask_id=ask_id)
    assert answer.status_code == 403
    assert "Only the focal point of Belgium proposes" in words(answer)


def test_a_double_tap_proposes_once(world: World, origin: Reader) -> None:
    request_id = world.bring_to(Stage.OFFERED)
    [way] = the_way_to_propose(origin.get(page_of(request_id, "shortlist")))
    form, head = fields_of(origin.get(way)), world.log.head()
    for _ in range(2):
        assert origin.send(page_of(request_id, "proposal"), **form).status_code == 303
    assert sent_since(world, head, ProposePlacement) == 1


def test_whoever_referred_the_household_is_told_that_a_colleague_signs(world: World, origin: Reader) -> None:
    request_id = world.open(ORIGIN)
    world.done(world.say_yes(request_id))
    [way] = the_way_to_propose(origin.get(page_of(request_id, "shortlist")))
    refused = origin.send(page_of(request_id, "proposal"), **fields_of(origin.get(way)))
    assert refused.status_code == 403
    assert "Whoever referred the household cannot sign for it" in words(refused)
    assert "neither of you may have referred the household" in words(refused)
    colleague = Reader(world, somebody(ORIGIN.role, "BE", "be-coordinator", 2))
    assert colleague.send(page_of(request_id, "proposal"), **fields_of(colleague.get(way))).status_code == 303


def test_of_two_colleagues_the_second_sees_that_something_is_proposed(world: World, origin: Reader) -> None:
    request_id = with_two_offers(world)
    _, second = the_way_to_propose(origin.get(page_of(request_id, "shortlist")))
    form = fields_of(origin.get(second))
    colleague = Reader(world, somebody(ORIGIN.role, "BE", "be-coordinator", 2))
    assert propose_through_pages(colleague, request_id).status_code == 303
    late = origin.send(page_of(request_id, "proposal"), **form, override="travel")
    assert late.status_code == 409
    assert "something is proposed already" in words(late)
    assert "Waits for: Focal point, Netherlands" in words(late)
    assert world.view(request_id)["proposal"]["rank"] == 1


# The second signature


@pytest.mark.attack(57)
def test_a_double_tap_signs_once(world: World, host: Reader) -> None:
    request_id = world.bring_to(Stage.PROPOSED)
    form, head = fields_of(host.get(page_of(request_id, "signature")), "sign"), world.log.head()
    for _ in range(2):
        assert host.send(page_of(request_id, "signature"), **form).status_code == 303
    assert sent_since(world, head, CountersignPlacement) == 1


@pytest.mark.attack(45)
def test_the_same_person_in_another_role_is_told_who_may_sign(world: World) -> None:
    request_id = world.bring_to(Stage.PROPOSED)
    both = Reader(world, SAME_PERSON)
    shown = both.get(page_of(request_id, "signature"))
    assert "The second signature must be somebody else's" in words(shown)
    assert "Sign this placement" not in words(shown)
    proposal_hash = world.view(request_id)["proposal"]["hash"]
    refused = both.send(
        page_of(request_id, "signature"), command=uuid4().hex, decision="sign", proposal_hash=proposal_hash
    )
    assert refused.status_code == 403
    assert "One person cannot sign for both countries" in words(refused)
    assert "The focal point of the Netherlands: somebody else than whoever signed first" in words(refused)
    assert world.view(request_id)["stage"] == Stage.PROPOSED


def test_a_consent_of_which_nothing_was_said_since_the_opening_is_not_counted_in_answers(
    world: World, host: Reader
) -> None:
    request_id = world.bring_to(Stage.PROPOSED)
    before = words(host.get(page_of(request_id, "signature")))
    assert "Consent As it was said when the request was opened; nobody has said anything else since" in before
    world.done(world.consent(request_id, "placement"))
    assert "after 0 answers" not in before


def test_the_country_that_proposed_cannot_sign_again(world: World) -> None:
    request_id = world.bring_to(Stage.PROPOSED)
    colleague = Reader(world, somebody(ORIGIN.role, "BE", "be-coordinator", 2))
    assert "You cannot sign here: ask the focal point of the Netherlands" in words(
        colleague.get(page_of(request_id, "signature"))
    )
    proposal_hash = world.view(request_id)["proposal"]["hash"]
    refused = colleague.send(
        page_of(request_id, "signature"), command=uuid4().hex, decision="sign", proposal_hash=proposal_hash
    )
    assert refused.status_code == 403
    assert world.view(request_id)["stage"] == Stage.PROPOSED


def test_whoever_refuses_says_why_and_the_search_goes_on(world: World, host: Reader) -> None:
    request_id = world.bring_to(Stage.PROPOSED)
    form = fields_of(host.get(page_of(request_id, "signature")), "refuse")
    unsaid = host.send(page_of(request_id, "signature"), **form)
    assert unsaid.status_code == 400
    assert 'href="#refusal"' in unsaid.get_data(as_text=True)
    assert world.view(request_id)["stage"] == Stage.PROPOSED
    unknown = host.send(page_of(request_id, "signature"), **form, refusal="whim")
    assert unknown.status_code == 400
    assert world.view(request_id)["stage"] == Stage.PROPOSED
    refused = host.send(page_of(request_id, "signature"), **fields_of(unknown, "refuse"), refusal="risk_in_region")
    assert "You refused to sign" in words(host.follow(refused))
    assert world.view(request_id)["proposal"] is None


@pytest.mark.parametrize("decision", ["", "signs", "Refuse"])
def test_a_form_that_does_not_say_what_it_wants_signs_nothing(world: World, host: Reader, decision: str) -> None:
    request_id = world.bring_to(Stage.PROPOSED)
    form = fields_of(host.get(page_of(request_id, "signature")), "sign") | {"decision": decision}
    assert host.send(page_of(request_id, "signature"), **form).status_code == 400
    assert world.view(request_id)["stage"] == Stage.PROPOSED


def test_a_proposal_that_changed_meanwhile_is_shown_anew_with_what_changed(world: World, host: Reader) -> None:
    request_id = with_two_offers(world)
    world.done(world.propose(request_id))
    form = fields_of(host.get(page_of(request_id, "signature")), "sign")
    # Two minutes later a colleague refuses, another shelter says yes, and Belgium proposes that one.
    colleague = Reader(world, SECOND_HOST)
    other = fields_of(colleague.get(page_of(request_id, "signature")), "refuse")
    assert colleague.send(page_of(request_id, "signature"), **other, refusal="unit_unsuitable").status_code == 303
    answered = world.say_yes(request_id, NEIGHBOUR)
    world.done(answered)
    world.done(world.propose(request_id, NEIGHBOUR))
    stale = host.send(page_of(request_id, "signature"), **form)
    assert stale.status_code == 409
    said = words(stale)
    assert "It has changed since you were shown it" in said
    assert (
        f"{RECEIVING.organisation}, {RECEIVING.organisation}-u1 {NEIGHBOUR.organisation}, {NEIGHBOUR.organisation}-u1"
        in said
    )
    assert world.view(request_id)["stage"] == Stage.PROPOSED
    again = host.send(page_of(request_id, "signature"), **fields_of(stale, "sign"))
    assert "Both countries have signed" in words(host.follow(again))


@pytest.mark.parametrize("seen", ["", "{", "[]", '{"request_id":1}', '"\udcff"'])
@pytest.mark.attack(59)
def test_a_hash_of_something_else_signs_nothing(world: World, host: Reader, seen: str) -> None:
    request_id = world.bring_to(Stage.PROPOSED)
    form = fields_of(host.get(page_of(request_id, "signature")), "sign")
    form |= {"proposal_hash": "0" * 64, "seen": seen.encode(errors="replace").decode()}
    answer = host.send(page_of(request_id, "signature"), **form)
    assert answer.status_code == 409
    assert "It has changed since you were shown it" in words(answer)
    assert world.view(request_id)["stage"] == Stage.PROPOSED


def test_a_signature_needs_a_fresh_sign_in_and_is_confirmed_afterwards(world: World) -> None:
    request_id = world.bring_to(Stage.PROPOSED)
    reader = Reader(world, HOST)
    principal = world.node.gateway.verifier.principal(world.token(HOST))
    earlier = msgspec.structs.replace(principal, authenticated_at=datetime.now(UTC) - timedelta(minutes=6))
    world.node.sessions.keep(reader.cookie, Session(csrf=CSRF, principal=earlier))
    form = fields_of(reader.get(page_of(request_id, "signature")), "sign")
    sent_away = reader.send(page_of(request_id, "signature"), **form)
    assert sent_away.status_code == 303
    assert "/oauth/authorize?" in sent_away.headers["Location"]
    assert world.view(request_id)["stage"] == Stage.PROPOSED

    back = Reader(world, HOST)
    path = page_of(request_id, "signature")
    kept = KeptForm(path=path, fields=tuple(form.items()), person=HOST.person)
    world.node.sessions.keep(back.cookie, Session(csrf=CSRF, principal=principal, kept=kept))
    shown = back.get(path)
    assert "you were about to sign. Check what is shown, and confirm" in words(shown)
    assert world.view(request_id)["stage"] == Stage.PROPOSED
    signed = back.send(path, **fields_of(shown, "sign"))
    assert "Both countries have signed" in words(back.follow(signed))


def test_a_refusal_that_waited_for_a_sign_in_keeps_its_reason(world: World) -> None:
    request_id = world.bring_to(Stage.PROPOSED)
    reader, path = Reader(world, HOST), page_of(request_id, "signature")
    form = fields_of(reader.get(path), "refuse") | {"refusal": "papers_missing"}
    principal = world.node.gateway.verifier.principal(world.token(HOST))
    kept = KeptForm(path=path, fields=tuple(form.items()), person=HOST.person)
    world.node.sessions.keep(reader.cookie, Session(csrf=CSRF, principal=principal, kept=kept))
    shown = reader.get(path)
    assert "you were about to refuse" in words(shown)
    assert re.search(r'value="papers_missing"[^>]* checked', shown.get_data(as_text=True))
    assert "about to" not in words(reader.get(page_of(request_id, "journey")))


def test_without_a_proposal_there_is_nothing_to_sign(world: World, origin: Reader) -> None:
    request_id = world.bring_to(Stage.OFFERED)
    answer = origin.get(page_of(request_id, "signature"))
    assert answer.status_code == 200
    assert "there is nothing to sign" in words(answer)


# Whatever takes longer, or fails


def test_what_is_received_and_not_decided_is_said_to_be_so(
    world: World, origin: Reader, host: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody decides within the time that a form waits."""
    request_id = world.bring_to(Stage.OFFERED)
    monkeypatch.setattr(
        world.core.intake, "wait_for_outcomes", lambda accepted, _: [None for _ in accepted.command_ids]
    )
    [way] = the_way_to_propose(origin.get(page_of(request_id, "shortlist")))
    proposed = origin.send(page_of(request_id, "proposal"), **fields_of(origin.get(way)))
    assert "Received, and not decided yet" in words(origin.follow(proposed))
    path = page_of(request_id, "signature")
    signed = host.send(path, **fields_of(host.get(path), "sign"))
    assert "Received, and not decided yet" in words(host.follow(signed))
    path = page_of(request_id, "journey")
    planned = origin.send(path, **fields_of(origin.get(path)), **a_plan())
    assert "Received, and not decided yet" in words(origin.follow(planned))


def test_what_may_have_been_recorded_keeps_its_key_and_what_was_refused_does_not(
    world: World, host: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = world.bring_to(Stage.PROPOSED)
    path = page_of(request_id, "signature")
    form = fields_of(host.get(path), "sign")

    def fails(*_: Any, **__: Any) -> None:
        raise problems.Problem(503, "not-recorded", "Not recorded.", next_action="Send it again.")

    with monkeypatch.context() as broken:
        broken.setattr(world.core.intake, "accept", fails)
        failed = host.send(path, **form)
    assert failed.status_code == 503
    assert "This was not recorded" in words(failed)
    assert fields_of(failed, "sign")["command"] == form["command"]
    assert fields_of(failed, "refuse")["command"] != form["command"]
    refused = host.send(path, **form | {"decision": "refuse"})
    assert refused.status_code == 400
    assert form["command"] not in refused.get_data(as_text=True)


def test_whoever_signs_in_anew_comes_back_to_the_same_offer(world: World, origin: Reader) -> None:
    request_id = with_two_offers(world)
    first, second = the_way_to_propose(origin.get(page_of(request_id, "shortlist")))
    form = fields_of(origin.get(second))
    assert own_path(form["page"]) == second
    principal = world.node.gateway.verifier.principal(world.token(ORIGIN))
    fields = tuple((form | {"override": "care_fit"}).items())
    kept = KeptForm(path=page_of(request_id, "proposal"), fields=fields, person=ORIGIN.person)
    world.node.sessions.keep(origin.cookie, Session(csrf=CSRF, principal=principal, kept=kept))
    assert "You have signed in again" not in words(origin.get(first))
    shown = origin.get(second)
    assert "You have signed in again" in words(shown)
    assert re.search(r'value="care_fit"[^>]* checked', shown.get_data(as_text=True))


# The journey


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"escort": ""}, "escort"),
        ({"escort": "somebody with a name"}, "escort"),
        ({"arrival_day": ""}, "arrival_day"),
        ({"arrival_time": "25:00"}, "arrival_day"),
        ({"arrival_day": "2026-11-22"}, "arrival_day"),
        ({"arrival_day": "2031-11-22"}, "arrival_day"),
        ({"arrival_day": "0001-01-01", "arrival_time": "00:00"}, "arrival_day"),
        ({"steps": ""}, "steps"),
        ({"steps": "x" * 1001}, "steps"),
        ({"steps": "a bell \a"}, "steps"),
    ],
)
def test_a_plan_that_cannot_be_is_turned_away_and_what_was_typed_is_kept(
    world: World, origin: Reader, changes: dict[str, str], field: str
) -> None:
    request_id = world.bring_to(Stage.CONFIRMED)
    path = page_of(request_id, "journey")
    refused = origin.send(path, **fields_of(origin.get(path)), **a_plan(**changes))
    page = refused.get_data(as_text=True)
    assert refused.status_code in (400, 409)
    assert f'href="#{field}"' in page
    assert f'id="{field}"' in page
    kept = a_plan(**changes)
    assert f'value="{kept["arrival_time"]}"' in page
    assert "DUNLIN" not in page
    assert world.view(request_id)["journey"] is None


def test_steps_on_several_lines_are_as_long_as_they_look(world: World, origin: Reader) -> None:
    request_id = world.bring_to(Stage.CONFIRMED)
    path = page_of(request_id, "journey")
    lines = "\r\n".join(["a"] * 500)
    planned = origin.send(path, **fields_of(origin.get(path)), **a_plan(steps=lines))
    assert "The journey is planned" in words(origin.follow(planned))


def test_a_double_tap_plans_once(world: World, origin: Reader) -> None:
    request_id = world.bring_to(Stage.CONFIRMED)
    path = page_of(request_id, "journey")
    form, head = fields_of(origin.get(path)), world.log.head()
    for _ in range(2):
        assert origin.send(path, **form, **a_plan()).status_code == 303
    assert sent_since(world, head, PlanJourney) == 1


def test_the_host_sees_the_plan_and_does_not_make_it(world: World, host: Reader) -> None:
    request_id = world.bring_to(Stage.CONFIRMED)
    path = page_of(request_id, "journey")
    assert "The focal point of Belgium plans the journey" in words(host.get(path))
    refused = host.send(path, command=uuid4().hex, **a_plan())
    assert refused.status_code == 403
    assert world.view(request_id)["journey"] is None


def test_a_journey_is_planned_only_once_everything_is_agreed(world: World, origin: Reader) -> None:
    request_id = world.bring_to(Stage.PROPOSED)
    path = page_of(request_id, "journey")
    assert "A journey is planned once both countries have signed" in words(origin.get(path))
    assert origin.send(path, command=uuid4().hex, **a_plan()).status_code == 409


@pytest.mark.parametrize(
    ("day", "time", "moment"),
    [
        ("2026-11-23", "20:30", "2026-11-23T19:30"),
        ("2026-07-01", "20:30:00", "2026-07-01T18:30"),
        ("2026-10-25", "02:30", "2026-10-25T00:30"),
    ],
)
def test_a_day_and_a_time_are_those_of_brussels(day: str, time: str, moment: str) -> None:
    assert moment_in_brussels(day, time) == datetime.fromisoformat(moment).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("day", "time"),
    [("2026-03-29", "02:30"), ("2026-02-30", "10:00"), ("2026-11-23", ""), ("today", "10:00"), ("0001-01-01", "00:10")],
)
@pytest.mark.attack(56)
def test_a_moment_that_does_not_exist_is_none(day: str, time: str) -> None:
    with pytest.raises(NoSuchMoment):
        moment_in_brussels(day, time)
