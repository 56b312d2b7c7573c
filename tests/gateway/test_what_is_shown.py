"""Which fields each role sees at each stage, and what must never be in any answer to it.

The lists are written out here once more, on purpose.
"""

import re

import pytest

from events.vocabulary import Role, Stage
from services.gateway.access import FIELDS_OF_ROLE
from tests.gateway.world import (
    ABROAD,
    AUDITOR,
    CALLBACK,
    COLLEAGUE,
    ESCORT,
    GUARDIAN,
    HOST,
    HOST_GUARDIAN,
    NEIGHBOUR,
    ORIGIN,
    OTHER_HOST,
    POLICE,
    PREFIX,
    RECEIVING,
    RENDEZVOUS,
    STEPS,
    Json,
    Who,
    World,
    is_problem,
)

BASICS = "request_id revision stage opened_at changed_at owner next_steps deadline"
NEEDS = "urgency household needs languages"
SHOWN = {
    Role.REFERRER: f"{BASICS} {NEEDS} owner_country danger_country danger_zones consents region_of_stay "
    "third_country_national reflection_started_on reflection_ends_on reflection host_country journey refusal",
    Role.COORDINATOR: f"{BASICS} {NEEDS} owner_country danger_country danger_zones consents region_of_stay "
    "third_country_national reflection_started_on reflection_ends_on reflection host_country journey refusal referrer_organisation "
    "shortlist asks proposal signatures missed_deadlines",
    Role.GUARDIAN: f"{BASICS} {NEEDS} owner_country danger_country consents reflection_ends_on reflection host_country",
    Role.SHELTER: f"{BASICS} {NEEDS} asks",
    Role.ESCORT: f"{BASICS} owner_country host_country journey",
}
STAGES = (
    Stage.ASKED,
    Stage.OFFERED,
    Stage.PROPOSED,
    Stage.COUNTERSIGNED,
    Stage.CONFIRMED,
    Stage.DEPARTED,
    Stage.ASTRAY,
    Stage.ARRIVED,
    Stage.ENDED,
    Stage.UNMET_NEED,
    Stage.WITHDRAWN,
    Stage.ERASED,
)


def test_roles_that_are_shown_no_request_have_no_list() -> None:
    assert FIELDS_OF_ROLE[Role.AUDITOR] == FIELDS_OF_ROLE[Role.SYSTEM] == ()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.attack(43)
def test_each_role_is_shown_exactly_its_fields(world: World, stage: Stage) -> None:
    request_id = world.bring_to(stage)
    listeners = [POLICE, COLLEAGUE, ORIGIN, HOST, OTHER_HOST, RECEIVING, NEIGHBOUR, ABROAD, ESCORT]
    for who in listeners:
        answer = world.read(who, request_id)
        if answer.status_code == 404:
            continue
        expected = set(SHOWN[who.role].split())
        if who in (HOST, OTHER_HOST):
            expected.remove("shortlist")
        if who == RECEIVING and stage in (Stage.DEPARTED, Stage.ASTRAY, Stage.ARRIVED, Stage.ENDED):
            expected.add("journey")
        assert answer.json is not None
        assert answer.json.keys() == expected, who
        shown = {name: value for name, value in answer.json.items() if name not in ("reflection", "shortlist")}
        listed = [one for one in pages(world, who) if one["request_id"] == request_id]
        assert listed == [shown], "the list says the same as the request itself, but for what it says of every unit"


def pages(world: World, who: Who) -> list[Json]:
    return world.done(world.get(who, "/relocation-requests?limit=100"))["requests"]


def test_the_guardians_of_a_minor_are_shown_their_fields(world: World) -> None:
    request_id = world.open(household={"children_12_to_17": 1})
    for who in (GUARDIAN, HOST_GUARDIAN):
        assert world.done(world.read(who, request_id)).keys() == set(SHOWN[Role.GUARDIAN].split())


def test_a_received_request_shows_no_more_than_an_opened_one(world: World) -> None:
    key = world.new_key()
    sent = world.send(
        POLICE,
        "POST",
        "/api/v1/relocation-requests",
        json={"urgency": "standard", "danger_country": "BE", "household": {"men": 1}, "callback": CALLBACK},
        headers={"Idempotency-Key": key},
    )
    path = f"/api/v1/relocation-requests/{world.received(sent)}"
    for who in (POLICE, ORIGIN):
        shown = world.send(who, "GET", path).json
        assert shown["stage"] == "received"
        assert shown.keys() <= set(SHOWN[who.role].split())


# What each may know of the journey, the proposal and the asks


def test_only_escort_and_coordinators_learn_who_drives(world: World) -> None:
    request_id = world.bring_to(Stage.DEPARTED)
    for who, keys in (
        (ESCORT, {"escort", "arrival_due"}),
        (ORIGIN, {"escort", "arrival_due"}),
        (HOST, {"escort", "arrival_due"}),
    ):
        assert world.done(world.read(who, request_id))["journey"].keys() == keys
    for who in (POLICE, RECEIVING):
        assert world.done(world.read(who, request_id))["journey"].keys() == {"arrival_due"}


def test_a_shelter_sees_its_own_question_only(world: World) -> None:
    request_id = world.bring_to(Stage.OFFERED)
    for who in (RECEIVING, NEIGHBOUR, ABROAD):
        asks = world.done(world.read(who, request_id))["asks"].values()
        assert {ask["shelter_id"] for ask in asks} == {who.organisation}
    assert len(world.done(world.read(ORIGIN, request_id))["asks"]) == 3


@pytest.mark.attack(38, 43)
def test_a_country_that_is_asked_learns_nothing_of_the_other_one(world: World) -> None:
    """In both directions, from the question to a signature, a refusal and everything in between."""
    begun = len(world.answers)
    request_id = world.bring_to(Stage.OFFERED)
    world.done(world.say_yes(request_id, ABROAD))
    everything_is_read(world, request_id)
    world.done(world.propose(request_id, ABROAD))
    everything_is_read(world, request_id)
    refusal = {"proposal_hash": world.view(request_id)["proposal"]["hash"], "refusal": "papers_missing"}
    world.done(world.act(OTHER_HOST, request_id, "countersignature", refusal))
    everything_is_read(world, request_id)
    for shelter in (NEIGHBOUR, RECEIVING):  # whoever is asked again
        open_ask = [a for a in world.view(request_id)["asks"].values() if a["shelter_id"] == shelter.organisation][-1]
        if open_ask["state"] == "open":
            world.done(world.say_yes(request_id, shelter))
            world.done(world.propose(request_id, shelter))
            break
    everything_is_read(world, request_id)
    world.done(world.countersign(request_id))
    everything_is_read(world, request_id)
    told = world.answers[begun:]
    assert mentions(told, HOST, "LU", "lu-", "Luxembourg") == []
    assert mentions(told, OTHER_HOST, "NL", "nl-") == []
    assert mentions(told, ORIGIN, "LU"), "whoever may know is told: the search finds something"


def everything_is_read(world: World, request_id: str) -> None:
    for who in (POLICE, ORIGIN, HOST, OTHER_HOST, RECEIVING, NEIGHBOUR, ABROAD, ESCORT):
        for part in ("", "/timeline", "/shortlist"):
            world.read(who, request_id, part)
        world.get(who, "/relocation-requests?limit=1")
        world.get(who, "/asks")


def mentions(answers: list, who: Who, *words: str) -> list[str]:
    """Where an answer to `who` has one of the words; shelters' own consents name countries and are left out."""
    found = []
    for answer in answers:
        if answer.who == who:
            said = re.sub(rb'"(placement|transport)/[A-Z]{2}/', b'"', answer.content).decode()
            found += [f"{answer.method} {answer.path}: {word}" for word in words if word in said]
    return found


def test_moments_are_shown_in_utc_whatever_offset_they_were_sent_in(world: World) -> None:
    request_id = world.bring_to(Stage.CONFIRMED)
    due = (world.now.replace(microsecond=0)).isoformat().replace("+00:00", "-05:00")
    body = {"escort": "synthetic.be-escort-1", "arrival_due": due, "steps": "synthetic"}
    world.done(world.act(ORIGIN, request_id, "journey", body))
    world.done(world.consent(request_id))
    shown = world.done(world.read(ORIGIN, request_id))
    assert shown["journey"]["arrival_due"][11:13] == f"{(world.now.hour + 5) % 24:02}"
    assert shown["deadline"] == shown["journey"]["arrival_due"]


# Everything that left the node during whole stories


@pytest.fixture(scope="module")
def told(world: World) -> list:
    """Every answer to everybody in a few stories that go through every stage, with many refusals on the way."""
    begun = len(world.answers)
    for stage in STAGES:
        request_id = world.bring_to(stage)
        everything_is_read(world, request_id)
        everybody_tries = (POLICE, ORIGIN, HOST, RECEIVING, ESCORT) if stage in MANY_ARE_REFUSED else ()
        for who in everybody_tries:
            for what, body in REFUSED.items():
                world.act(who, request_id, what, body)
            for field, reason in (
                ("callback", "call_back"),
                ("rendezvous", "prepare_handover"),
                ("journey", "drive_journey"),
            ):
                world.disclose(who, request_id, field, reason)
        world.done(world.get(AUDITOR, f"/audit/events?case={request_id}&limit=100", Haven_Purpose="self_monitoring"))
    return world.answers[begun:]


MANY_ARE_REFUSED = {Stage.OFFERED, Stage.PROPOSED, Stage.CONFIRMED, Stage.DEPARTED, Stage.ENDED}
REFUSED: dict[str, Json] = {
    "proposal": {"ask_id": "0" * 32},
    "countersignature": {"proposal_hash": "0" * 64},
    "consent": {"scope": "transport", "country": "NL", "given": True, "by": "guardian"},
}


@pytest.mark.attack(40)
def test_sealed_texts_are_in_disclosures_and_nowhere_else(told: list) -> None:
    for word in (CALLBACK, RENDEZVOUS, STEPS, "PLOVER", "CURLEW", "DUNLIN"):
        hits = [answer for answer in told if word.encode() in answer.content]
        assert hits, "each was disclosed to somebody"
        assert all(answer.is_disclosure for answer in hits)
        assert AUDITOR not in {answer.who for answer in hits}


def test_no_answer_has_ciphertext_in_it(told: list) -> None:
    assert not [answer.path for answer in told if b'"box"' in answer.content or b"key_id" in answer.content]


@pytest.mark.attack(39)
def test_a_referrer_never_learns_which_shelter(told: list) -> None:
    ours = [answer for answer in told if answer.who in (POLICE, COLLEAGUE)]
    assert len(ours) > 100
    assert not [a.path for a in ours if b"shelter-" in a.content or b"-u1" in a.content or b"ask_id" in a.content]


def test_a_shelter_never_learns_where_the_danger_is(told: list) -> None:
    theirs = [answer for answer in told if answer.who in (RECEIVING, NEIGHBOUR, ABROAD)]
    assert len(theirs) > 100
    assert not [answer.content for answer in theirs if re.search(rb'"BE\w*"|"be-|danger', answer.content)]


def test_an_escort_learns_the_journey_only(told: list) -> None:
    theirs = [answer for answer in told if answer.who == ESCORT]
    assert [answer for answer in theirs if answer.status == 200]
    assert not [a.path for a in theirs if re.search(rb'shelter-|"household"|women|danger|ask_id|signature', a.content)]


@pytest.mark.attack(64)
def test_no_answer_says_a_name_of_a_class_a_file_or_a_table(told: list) -> None:
    assert not [
        answer.path for answer in told if re.search(rb"Traceback|\.py|sqlite|SELECT|msgspec|services\.", answer.content)
    ]


def test_the_open_ones_are_all_that_are_not_over(world: World) -> None:
    at = {stage: world.bring_to(stage) for stage in STAGES}
    over = {at[stage] for stage in (Stage.ENDED, Stage.WITHDRAWN, Stage.ERASED)}

    def listed(more: str) -> set[str]:
        answer = world.get(ORIGIN, f"/relocation-requests?limit=100{more}")
        return {one["request_id"] for one in answer.json["requests"]} & set(at.values())

    assert listed("") == listed("&open=false") == set(at.values())
    assert listed("&open=true") == set(at.values()) - over
    assert is_problem(world.get(ORIGIN, "/relocation-requests?open=1"), 400)["field"] == "open"


def test_the_next_page_of_the_open_ones_holds_open_ones_alone(world: World) -> None:
    wanted: list[str] = []
    world.later(seconds=1)
    for stage in (Stage.ASKED, Stage.WITHDRAWN, Stage.OFFERED, Stage.ENDED, Stage.ASKED):
        request_id = world.bring_to(stage)
        world.later(seconds=1)
        if stage in (Stage.ASKED, Stage.OFFERED):
            wanted.insert(0, request_id)
    found, path = [], "/relocation-requests?open=true&limit=1"
    while path and len(found) < len(wanted):
        answer = world.get(POLICE, path)
        found += [one["request_id"] for one in answer.json["requests"]]
        link = re.match(rf"<{PREFIX}(\S+)>", answer.headers.get("Link", ""))
        path = link[1] if link else ""
    assert found == wanted


# One ask


def test_an_ask_says_of_whom_it_is_and_where_it_stands_and_no_more(world: World) -> None:
    request_id = world.bring_to(Stage.ASKED)
    ask_id = world.ask_to(request_id, RECEIVING)
    [waiting] = [one for one in world.get(RECEIVING, "/asks").json["asks"] if one["ask_id"] == ask_id]
    alone = world.get(RECEIVING, f"/asks/{ask_id}").json
    assert alone == waiting | {name: alone[name] for name in ("stage", "owner", "next_steps")}
    assert world.get(HOST, f"/asks/{ask_id}").json.keys() >= alone.keys()
    world.done(world.say_yes(request_id))
    assert world.get(RECEIVING, f"/asks/{ask_id}").json["state"] == "accepted"


def test_an_ask_is_known_for_as_long_as_its_request_is_and_to_nobody_else(world: World) -> None:
    request_id = world.bring_to(Stage.OFFERED)
    mine, theirs = (world.ask_to(request_id, shelter) for shelter in (RECEIVING, NEIGHBOUR))
    assert world.get(RECEIVING, f"/asks/{mine}").status_code == 200
    for who, ask_id in ((RECEIVING, theirs), (ABROAD, mine), (OTHER_HOST, mine), (RECEIVING, "nobody-was-asked")):
        is_problem(world.get(who, f"/asks/{ask_id}"), 404)
    world.done(world.propose(request_id))
    is_problem(world.get(NEIGHBOUR, f"/asks/{theirs}"), 404)


# What was answered


def answered(world: World, who: Who, path: str = "/asks?answered=true&limit=1") -> list[list[tuple[str, str]]]:
    """Ask and state of every ask on every page, page by page."""
    pages = []
    while path:
        answer = world.get(who, path)
        pages.append([(one["ask_id"], one["state"]) for one in answer.json["asks"]])
        link = re.match(rf"<{PREFIX}(\S+)>", answer.headers.get("Link", ""))
        path = link[1] if link else ""
    return pages


def test_what_was_answered_is_listed_page_by_page_the_newest_request_first(world: World) -> None:
    before = answered(world, RECEIVING)
    wanted = []
    for stage in (Stage.ENDED, Stage.ASKED, Stage.OFFERED, Stage.WITHDRAWN):
        world.later(seconds=1)
        request_id = world.bring_to(stage)
        if stage in (Stage.ENDED, Stage.OFFERED):
            wanted.insert(0, [(world.ask_to(request_id, RECEIVING), "accepted")])
    assert answered(world, RECEIVING)[: len(wanted)] == wanted
    assert len(answered(world, RECEIVING)) == len([page for page in before if page]) + len(wanted)


def test_a_page_of_what_was_answered_reads_no_more_than_it_shows(world: World) -> None:
    """There is more of it every day, and whatever is read is an entry in the trail of its case."""
    for _ in "12":
        world.bring_to(Stage.OFFERED)
    begun = world.log.head()
    [shown] = world.get(RECEIVING, "/asks?answered=true&limit=1").json["asks"]
    [read] = [one.data for one in world.appended_since(begun)]
    assert read.subjects == (shown["request_id"],)
    assert shown["stage"] == Stage.OFFERED


def test_what_was_answered_is_shown_to_whoever_may_know_of_it_alone(world: World) -> None:
    request_id = world.bring_to(Stage.OFFERED)
    mine, theirs = (world.ask_to(request_id, shelter) for shelter in (RECEIVING, NEIGHBOUR))
    assert mine in str(answered(world, RECEIVING))
    assert mine in str(answered(world, HOST))
    for who in (NEIGHBOUR, ABROAD, OTHER_HOST):
        assert mine not in str(answered(world, who))
    no = {"accept": False, "decline": "no_space"}
    world.done(world.ask(NEIGHBOUR, "POST", f"/asks/{theirs}/answer", no))
    assert theirs not in str(answered(world, NEIGHBOUR))
    assert theirs not in str(answered(world, RECEIVING))


@pytest.mark.parametrize("query", ["answered=perhaps", "limit=1", "cursor=WyJhIiwiYiJd", "answered=true&limit=0"])
def test_a_list_of_asks_that_cannot_be_given_is_refused(world: World, query: str) -> None:
    assert is_problem(world.get(RECEIVING, f"/asks?{query}"), 400)["field"] in ("answered", "limit", "cursor")
