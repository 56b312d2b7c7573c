"""Asks: a shelter says yes or no in time, and is told what stands when it was not the first or not in time."""

import re
from datetime import datetime, timedelta
from html import unescape
from typing import Any

import pytest
from werkzeug.test import TestResponse

from events.envelope import Event
from events.gateway import RecordConsulted
from events.vocabulary import AcceptCondition, DeclineReason, Stage
from services.gateway import problems
from services.gateway.pages import asks as pages_of_asks
from services.gateway.pages.sessions import KeptForm
from tests.gateway.world import (
    ABROAD,
    HOST,
    MISSING,
    NEIGHBOUR,
    OTHER_HOST,
    POLICE,
    RECEIVING,
    RENDEZVOUS,
    Who,
    World,
)
from tests.pages.reader import Reader, words

YES = {"answer": "yes", "condition": "", "rendezvous": RENDEZVOUS}
NO = {"answer": "no", "decline": "not_staffed"}


def command(page: TestResponse) -> str:
    found = re.search(r'name="command" value="([0-9a-f]{32})"', page.get_data(as_text=True))
    assert found, words(page)
    return found[1]


def code(request_id: str) -> str:
    return f"{request_id[:4]}-{request_id[4:8]}".upper()


def unavailable(*_: Any, **__: Any) -> None:
    raise problems.Problem(503, "not-recorded", "synthetic", next_action="synthetic")


@pytest.fixture
def staff(world: World) -> Reader:
    return Reader(world, RECEIVING)


@pytest.fixture
def asked(world: World) -> tuple[str, str]:
    """A request that waits for the receiving shelter, and the address of the question."""
    request_id = world.bring_to(Stage.ASKED, household={"women": 2})
    return request_id, f"/asks/{world.ask_to(request_id, RECEIVING)}"


def send(staff: Reader, address: str, **answer: Any) -> TestResponse:
    return staff.send(address, command=command(staff.get(address)), **answer)


def ask_of(world: World, request_id: str, who: Who = RECEIVING) -> Any:
    return world.view(request_id)["asks"][world.ask_to(request_id, who)]


def test_the_inbox_shows_the_soonest_first_and_what_a_shelter_may_know(
    world: World, staff: Reader, asked: tuple[str, str]
) -> None:
    later = world.open(urgency="standard", household={"women": 1, "children_under_6": 1}, languages=["nl", "fr"])
    page = staff.get("/asks")
    said = words(page)
    assert said.index(code(asked[0])) < said.index(code(later))
    assert "2 women" in said
    assert "1 woman, 1 child under 6" in said
    assert "In danger now" in said
    assert "Dutch, French" in said
    deadline = ask_of(world, asked[0])["deadline"]
    assert re.search(rf'<time class="haven-clock" datetime="{deadline}" data-clock', page.get_data(as_text=True))
    for hidden in ("Belgium", "BE21", "police"):
        assert hidden not in said.partition("Sign out")[2]
    world.done(world.withdraw(later))
    world.done(world.withdraw(asked[0]))


def test_a_focal_point_reads_the_asks_of_its_country_and_cannot_answer(world: World, asked: tuple[str, str]) -> None:
    host = Reader(world, HOST)
    page = host.get("/asks")
    assert page.status_code == 200
    assert code(asked[0]) in words(page)
    assert "nl-shelter-01" in words(page)
    assert asked[1] not in page.get_data(as_text=True)
    assert host.get(asked[1]).status_code == 403
    assert host.send(asked[1], **NO).status_code == 403
    assert "nl-shelter" not in words(Reader(world, OTHER_HOST).get("/asks"))
    assert Reader(world, POLICE).get("/asks").status_code == 403
    world.done(world.withdraw(asked[0]))


@pytest.mark.attack(38)
def test_another_shelters_ask_is_not_there(world: World, asked: tuple[str, str]) -> None:
    stranger = Reader(world, ABROAD)
    unknown = stranger.get(f"/asks/{MISSING}")
    foreign = stranger.get(asked[1])
    assert unknown.status_code == foreign.status_code == 404
    assert words(unknown).replace(MISSING, "") == words(foreign).replace(asked[1].rpartition("/")[2], "")
    assert stranger.send(asked[1], command="c" * 32, **NO).status_code == 404
    assert stranger.send("/asks/..%2Frelocation-requests%3F", command="c" * 32, **NO).status_code == 404
    assert ask_of(world, asked[0])["state"] == "open"
    world.done(world.withdraw(asked[0]))


def test_the_page_says_that_yes_holds_the_bed_and_what_happens_next(
    world: World, staff: Reader, asked: tuple[str, str]
) -> None:
    page = staff.get(asked[1])
    said = words(page)
    assert page.status_code == 200
    assert "2 beds in unit u1 are held for them while you decide." in said
    assert "Nobody comes before both have signed." in said
    assert all(f'value="{one}"' in page.get_data(as_text=True) for one in (*AcceptCondition, *DeclineReason))
    world.done(world.withdraw(asked[0]))


def test_a_yes_with_a_condition_holds_the_beds(world: World, staff: Reader, asked: tuple[str, str]) -> None:
    sent = send(staff, asked[1], **YES | {"condition": "interpreter_arranged"})
    assert sent.headers["Location"] == asked[1]
    page = staff.follow(sent)
    assert re.search(r"Saved \d\d:\d\d: your yes. The beds stay held.", words(page))
    assert "An interpreter is arranged" in words(page)
    assert ask_of(world, asked[0])["condition"] == "interpreter_arranged"
    assert world.view(asked[0])["stage"] == Stage.OFFERED
    inbox = words(staff.get("/asks"))
    assert inbox.index("Answered asks") < inbox.index(code(asked[0]))
    for answer in (page, staff.get("/asks"), staff.get(asked[1])):
        assert RENDEZVOUS not in words(answer)
    world.done(world.withdraw(asked[0]))


def test_what_was_answered_is_shown_the_newest_first_and_no_page_reads_all_of_it(
    world: World, staff: Reader, asked: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages_of_asks, "ANSWERED_AT_ONCE", "1")
    send(staff, asked[1], **YES)
    world.later(seconds=1)
    newer = world.bring_to(Stage.OFFERED)
    begun = world.log.head()
    page = staff.get("/asks")
    assert code(newer) in words(page)
    assert code(asked[0]) not in words(page)
    read = [one.data.subjects for one in world.appended_since(begun) if isinstance(one.data, RecordConsulted)]
    assert (newer,) in read
    assert not any(asked[0] in subjects for subjects in read)
    older = re.search(r'href="(/asks\?answered=[^"]+)"', page.get_data(as_text=True))
    assert older
    page = staff.get(unescape(older[1]))
    assert code(asked[0]) in words(page)
    assert code(newer) not in words(page)
    assert '<details class="govuk-details" open>' in page.get_data(as_text=True)
    for request_id in (asked[0], newer):
        world.done(world.withdraw(request_id))


def test_two_taps_are_one_answer(world: World, staff: Reader, asked: tuple[str, str]) -> None:
    key = command(staff.get(asked[1]))
    head = world.log.head()
    first, second = (staff.send(asked[1], command=key, **YES) for _ in "12")
    assert first.headers["Location"] == second.headers["Location"] == asked[1]
    assert len([one for one in world.appended_since(head) if type(one.data).__name__ == "AnswerAsk"]) == 1
    again = send(staff, asked[1], **YES)
    assert again.headers["Location"] == asked[1]
    assert "You said yes" in words(staff.get(asked[1]))
    world.done(world.withdraw(asked[0]))


def test_a_no_frees_the_beds_and_shows_nothing_more_of_the_household(
    world: World, staff: Reader, asked: tuple[str, str]
) -> None:
    key = command(staff.get(asked[1]))
    page = staff.follow(staff.send(asked[1], command=key, **NO | {"rendezvous": RENDEZVOUS}))
    assert re.search(r"your no. The beds are free again.", words(page))
    assert code(asked[0]) not in words(page)
    assert ask_of(world, asked[0])["decline"] == "not_staffed"
    gone = staff.get(asked[1])
    assert gone.status_code == 404
    assert "it no longer stands" in words(gone)
    twice = staff.follow(staff.send(asked[1], command=key, **NO))
    assert "Your no is recorded" in words(twice)
    assert RENDEZVOUS.encode() not in b"".join(repr(event).encode() for _, event in world.log.read_all(0, 100_000))
    world.done(world.withdraw(asked[0]))


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        ({}, "answer"),
        ({"answer": "perhaps"}, "answer"),
        ({"answer": "no", "condition": "nights_limited"}, "decline"),
        ({"answer": "no", "decline": "because"}, "decline"),
        ({"answer": "yes", "condition": "nights_limited"}, "rendezvous"),
        ({"answer": "yes", "condition": "nights_limited", "rendezvous": "x" * 1001}, "rendezvous"),
        ({"answer": "yes", "condition": "perhaps", "rendezvous": RENDEZVOUS}, "condition"),
    ],
)
def test_what_is_missing_is_said_at_its_field_and_what_was_chosen_is_kept(
    world: World, staff: Reader, asked: tuple[str, str], answer: dict[str, str], field: str
) -> None:
    shown = send(staff, asked[1], **answer)
    page = shown.get_data(as_text=True)
    assert shown.status_code == 400
    assert "There is a problem" in page
    assert f'href="#{field}"' in page
    assert f'id="{field}"' in page
    for name in ("answer", "condition"):
        if answer.get(name) not in (None, "perhaps"):
            assert re.search(rf'name="{name}" type="radio" value="{answer[name]}"[^>]* checked', page)
    assert RENDEZVOUS not in page
    assert ask_of(world, asked[0])["state"] == "open"
    world.done(world.withdraw(asked[0]))


def test_an_answer_that_was_changed_after_it_was_sent_is_not_taken_for_the_first(
    world: World, staff: Reader, asked: tuple[str, str]
) -> None:
    key = command(staff.get(asked[1]))
    staff.send(asked[1], command=key, **YES)
    shown = staff.send(asked[1], command=key, **NO)
    assert shown.status_code == 422
    assert "You said yes" in words(shown)
    assert ask_of(world, asked[0])["state"] == "accepted"
    world.done(world.withdraw(asked[0]))


def test_a_yes_can_be_taken_back_until_a_focal_point_signs(world: World, staff: Reader, asked: tuple[str, str]) -> None:
    send(staff, asked[1], **YES)
    assert "Take your yes back" in words(staff.get(asked[1]))
    unsaid = send(staff, asked[1], answer="no")
    assert unsaid.status_code == 400
    assert 'href="#decline"' in unsaid.get_data(as_text=True)
    page = staff.follow(send(staff, asked[1], answer="no", decline="no_space"))
    assert "The beds are free again." in words(page)
    assert ask_of(world, asked[0])["state"] == "declined"
    world.done(world.withdraw(asked[0]))


def test_a_no_after_a_signature_is_recorded_and_the_yes_stands(
    world: World, staff: Reader, asked: tuple[str, str]
) -> None:
    send(staff, asked[1], **YES)
    key = command(staff.get(asked[1]))
    world.done(world.propose(asked[0]))
    page = staff.follow(staff.send(asked[1], command=key, **NO))
    assert "Your no came too late" in words(page)
    assert "your yes stands" in words(page)
    assert "Take your yes back" not in words(page)
    assert world.view(asked[0])["stage"] == Stage.PROPOSED
    world.done(world.withdraw(asked[0]))


@pytest.mark.parametrize("what", ["expired", "withdrawn"])
@pytest.mark.parametrize(("answer", "says"), [(YES, "Your yes came too late"), (NO, "Your no is recorded")])
def test_an_answer_to_what_no_longer_stands_is_recorded_and_harmless(
    world: World, staff: Reader, asked: tuple[str, str], what: str, answer: dict[str, str], says: str
) -> None:
    key = command(staff.get(asked[1]))
    if what == "expired":
        world.later(hours=3)
    else:
        world.done(world.withdraw(asked[0]))
    before = ask_of(world, asked[0])["state"]
    page = staff.follow(staff.send(asked[1], command=key, **answer))
    assert page.status_code == 200
    assert says in words(page)
    assert "It is recorded" in words(page) or "is recorded" in words(page)
    assert "No bed is held" in words(page) or "no bed is held" in words(page)
    assert says not in words(staff.get("/asks"))
    assert ask_of(world, asked[0])["state"] == before
    assert staff.get(asked[1]).status_code == 404
    said = [one for _, one in world.core.logs["placement"].read_all(0, 100_000) if isinstance(one, Event)]
    assert "LateAnswerRecorded" in {type(one.data).__name__ for one in said if one.stream.endswith(asked[0])}
    if what == "expired":
        world.done(world.withdraw(asked[0]))


@pytest.mark.attack(59)
def test_an_answer_in_the_moment_after_the_deadline_is_too_late(
    world: World, staff: Reader, asked: tuple[str, str]
) -> None:
    key = command(staff.get(asked[1]))
    world.now = datetime.fromisoformat(ask_of(world, asked[0])["deadline"]) + timedelta(seconds=1)
    page = staff.follow(staff.send(asked[1], command=key, **NO))
    assert "changes nothing more" in words(page)
    assert ask_of(world, asked[0])["state"] == "expired"
    world.done(world.withdraw(asked[0]))


def test_an_answer_that_is_not_decided_yet_is_said_to_be_received(
    world: World, staff: Reader, asked: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = command(staff.get(asked[1]))
    with monkeypatch.context() as patch:
        patch.setattr(world.core.intake, "wait_for_outcomes", lambda *_: [None])
        page = staff.follow(staff.send(asked[1], command=key, **YES))
    assert "was received, and is not decided yet" in words(page)
    assert ask_of(world, asked[0])["state"] == "accepted"
    world.done(world.withdraw(asked[0]))


def test_an_answer_that_may_have_been_kept_is_sent_again_under_the_same_command(
    world: World, staff: Reader, asked: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = command(staff.get(asked[1]))
    with monkeypatch.context() as patch:
        patch.setattr(world.core.intake, "accept", unavailable)
        shown = staff.send(asked[1], command=key, **YES)
    assert shown.status_code == 503
    assert "This was not recorded" in words(shown)
    assert command(shown) == key
    assert command(staff.send(asked[1], command=key, answer="no")) != key
    world.done(world.withdraw(asked[0]))


def test_what_was_chosen_before_a_new_sign_in_is_shown_again_without_the_place(
    world: World, staff: Reader, asked: tuple[str, str]
) -> None:
    session = world.node.sessions.find(staff.cookie)
    assert session is not None
    fields = tuple((YES | {"condition": "nights_limited"}).items())
    session.kept = KeptForm(path=asked[1], fields=fields, person=RECEIVING.person)
    world.node.sessions.keep(staff.cookie, session)
    page = staff.get(asked[1]).get_data(as_text=True)
    assert re.search(r'name="condition" type="radio" value="nights_limited"[^>]* checked', page)
    assert RENDEZVOUS not in page
    assert ask_of(world, asked[0])["state"] == "open"
    world.done(world.withdraw(asked[0]))


def test_every_link_of_every_page_leads_somewhere(world: World, staff: Reader, asked: tuple[str, str]) -> None:
    pages = [staff.get("/asks"), staff.get(asked[1]), send(staff, asked[1], answer="no")]
    send(staff, asked[1], **YES)
    host = Reader(world, HOST)
    for reader, seen in ((staff, [*pages, staff.get("/asks"), staff.get(asked[1])]), (host, [host.get("/asks")])):
        own = {address for page in seen for address in re.findall(r'href="(/[^"#]*)"', page.get_data(as_text=True))}
        for address in sorted(own):
            assert reader.get(unescape(address), follow_redirects=True).status_code == 200, address
    gone = staff.get(f"/asks/{MISSING}").get_data(as_text=True).partition("<main")[2].partition("</main")[0]
    assert re.findall(r'href="([^"]+)"', gone) == ["/asks"]
    world.done(world.withdraw(asked[0]))


def test_the_neighbour_who_is_asked_too_sees_only_its_own_question(world: World, asked: tuple[str, str]) -> None:
    neighbour = Reader(world, NEIGHBOUR)
    page = neighbour.get("/asks").get_data(as_text=True)
    assert asked[1] not in page
    assert "nl-shelter-01" not in page
    world.done(world.withdraw(asked[0]))
