"""Every command in every stage by everybody: one table, decided row by row.

A new stage, role or command has no cell here and fails until somebody decides what it means.
"""

from collections.abc import Callable
from functools import cache

import pytest

from events.gateway import (
    AnswerAsk,
    Command,
    ConfirmCapacity,
    CountersignPlacement,
    EndPlacement,
    EraseHousehold,
    PlanJourney,
    ProposePlacement,
    RecordArrival,
    RecordDeparture,
    RecordDetails,
    RegisterUnit,
    ReportCapacity,
    RequestDisclosure,
    WithdrawRequest,
)
from events.placement import (
    CommandHadNoEffect,
    CommandRefused,
    Refusal,
)
from events.vocabulary import (
    Actor,
    ArrivalOutcome,
    DisclosureReason,
    EndingReason,
    Role,
    SealedField,
    Stage,
    WithdrawalReason,
)
from tests import builders as a
from tests.spec import Story

PEOPLE = {
    "referrer": a.a_referrer("referrer-BE-2"),
    "shelter": a.shelter_staff("u1"),
    "origin": a.a_coordinator("BE", "coordinator-BE-2"),
    "host": a.a_coordinator("NL", "coordinator-NL-2"),
    "guardian": a.a_guardian(),
    "escort": a.an_escort(),
    "auditor": a.an_auditor(),
}
"""Everybody whom the request concerns at all: colleagues of those who acted before, but the escort, who is one person."""

STAGES = [stage for stage in Stage if stage is not Stage.OPENED]
"""Nothing rests in `opened`: the shortlist is drawn in the same breath."""


def ask_id(story: Story) -> str:
    return next(iter(story.state.asks), "nobody-was-asked")


COMMANDS: dict[str, Callable[[Story, Actor], Command]] = {
    "open": lambda story, by: a.an_opening(),
    "withdraw": lambda story, by: WithdrawRequest(request_id=a.REQUEST, reason=WithdrawalReason.CONTACT_LOST),
    "consent": lambda story, by: a.consent(country="LU", by="guardian" if by.role is Role.GUARDIAN else "household"),
    "learn": lambda story, by: RecordDetails(
        request_id=a.REQUEST,
        version_seen=story.state.details_version,
        third_country_national=True,
        reflection_started_on=None,
        region_of_stay=None,
    ),
    "answer": lambda story, by: AnswerAsk(request_id=a.REQUEST, ask_id=ask_id(story), rendezvous=a.SEALED),
    "propose": lambda story, by: ProposePlacement(request_id=a.REQUEST, ask_id=ask_id(story)),
    "countersign": lambda story, by: CountersignPlacement(request_id=a.REQUEST, proposal=story.state.proposal_hash),
    "plan": lambda story, by: PlanJourney(
        request_id=a.REQUEST, escort="escort-1", arrival_due=story.now.replace(year=2027), steps=a.SEALED
    ),
    "depart": lambda story, by: RecordDeparture(request_id=a.REQUEST),
    "arrive": lambda story, by: RecordArrival(request_id=a.REQUEST, outcome=ArrivalOutcome.ARRIVED),
    "lost": lambda story, by: RecordArrival(request_id=a.REQUEST, outcome=ArrivalOutcome.NOT_ARRIVED),
    "end": lambda story, by: EndPlacement(request_id=a.REQUEST, reason=EndingReason.RETURNED),
    "disclose": lambda story, by: RequestDisclosure(
        request_id=a.REQUEST,
        disclosure_id="disclosure-1",
        field=SealedField.RENDEZVOUS,
        reason=DisclosureReason.PREPARE_HANDOVER,
        recipient=by.person,
    ),
    "erase": lambda story, by: EraseHousehold(request_id=a.REQUEST),
}

MARKS = {
    "yes": "done",
    "same": "it was so already",
    "unknown": Refusal.UNKNOWN_REQUEST,
    "opened": Refusal.ALREADY_OPENED,
    "stage": Refusal.WRONG_STAGE,
    "org": Refusal.NOT_YOUR_ORGANISATION,
    "country": Refusal.NOT_YOUR_COUNTRY,
    "role": Refusal.WRONG_ROLE,
    "ask": Refusal.UNKNOWN_ASK,
    "offer": Refusal.NOT_OFFERED,
    "changed": Refusal.PROPOSAL_CHANGED,
    "entitled": Refusal.NOT_ENTITLED,
    "erased": Refusal.ERASED,
}

TABLE = """
    referrer shelter  origin   host     guardian escort   auditor
open
    yes      role     yes      yes      role     role     role     | received
    opened   opened   opened   opened   opened   opened   opened   | shortlisted asked offered proposed countersigned
    opened   opened   opened   opened   opened   opened   opened   | consented confirmed departed arrived astray
    opened   opened   opened   opened   opened   opened   opened   | ended unmet_need refused withdrawn erased
withdraw
    unknown  unknown  unknown  unknown  unknown  unknown  unknown  | received refused
    yes      org      yes      org      org      org      org      | shortlisted asked offered proposed countersigned
    yes      org      yes      org      org      org      org      | consented confirmed unmet_need
    stage    org      stage    org      org      org      org      | departed arrived astray ended erased
    same     same     same     same     same     same     same     | withdrawn
consent
    unknown  unknown  unknown  unknown  unknown  unknown  unknown  | received refused
    yes      org      yes      org      role     org      org      | shortlisted asked offered proposed countersigned
    yes      org      yes      org      role     org      org      | consented unmet_need
    yes      yes      yes      org      role     org      org      | confirmed departed arrived astray
    stage    stage    stage    stage    stage    stage    stage    | ended withdrawn erased
learn
    unknown  unknown  unknown  unknown  unknown  unknown  unknown  | received refused
    yes      org      yes      org      org      org      org      | shortlisted asked offered proposed countersigned
    yes      org      yes      org      org      org      org      | consented confirmed unmet_need departed arrived astray
    stage    org      stage    org      org      org      org      | ended withdrawn erased
answer
    unknown  unknown  unknown  unknown  unknown  unknown  unknown  | received refused
    ask      ask      ask      ask      ask      ask      ask      | shortlisted unmet_need withdrawn erased
    role     yes      role     role     role     role     role     | asked
    role     same     role     role     role     role     role     | offered proposed countersigned consented
    role     same     role     role     role     role     role     | confirmed departed arrived astray ended
propose
    unknown  unknown  unknown  unknown  unknown  unknown  unknown  | received refused
    role     role     ask      country  role     role     role     | shortlisted unmet_need withdrawn erased
    role     role     offer    country  role     role     role     | asked
    role     role     yes      country  role     role     role     | offered
    role     role     stage    country  role     role     role     | proposed countersigned consented confirmed
    role     role     stage    country  role     role     role     | departed arrived astray ended
countersign
    unknown  unknown  unknown  unknown  unknown  unknown  unknown  | received refused
    stage    stage    stage    stage    stage    stage    stage    | shortlisted countersigned consented confirmed
    stage    stage    stage    stage    stage    stage    stage    | departed arrived astray ended unmet_need
    stage    stage    stage    stage    stage    stage    stage    | withdrawn erased
    changed  changed  changed  changed  changed  changed  changed  | asked offered
    role     role     country  yes      role     role     role     | proposed
plan
    unknown  unknown  unknown  unknown  unknown  unknown  unknown  | received refused
    country  country  stage    country  country  country  country  | shortlisted asked offered proposed countersigned
    country  country  stage    country  country  country  country  | consented departed arrived astray ended
    country  country  stage    country  country  country  country  | unmet_need withdrawn erased
    country  country  yes      country  country  country  country  | confirmed
depart
    unknown  unknown  unknown  unknown  unknown  unknown  unknown  | received refused
    stage    org      stage    org      org      org      org      | shortlisted asked offered proposed countersigned
    stage    org      stage    org      org      org      org      | consented confirmed unmet_need withdrawn erased
    same     org      same     org      org      same     org      | departed arrived astray
    stage    org      stage    org      org      stage    org      | ended
arrive
    unknown  unknown  unknown  unknown  unknown  unknown  unknown  | received refused
    org      org      org      org      org      org      org      | shortlisted asked offered unmet_need withdrawn
    org      org      org      org      org      org      org      | erased
    org      org      org      stage    org      org      org      | proposed countersigned consented
    org      yes      org      yes      org      org      org      | confirmed departed astray
    org      same     org      same     org      org      org      | arrived
    org      stage    org      stage    org      org      org      | ended
lost
    unknown  unknown  unknown  unknown  unknown  unknown  unknown  | received refused
    org      org      stage    org      org      org      org      | shortlisted asked offered unmet_need withdrawn
    org      org      stage    org      org      org      org      | erased
    org      org      stage    stage    org      org      org      | proposed countersigned consented
    org      stage    stage    stage    org      org      org      | confirmed
    org      yes      yes      yes      org      yes      org      | departed
    org      stage    stage    stage    org      stage    org      | arrived astray ended
end
    unknown  unknown  unknown  unknown  unknown  unknown  unknown  | received refused
    org      org      org      org      org      org      org      | shortlisted asked offered unmet_need withdrawn
    org      org      org      org      org      org      org      | erased
    org      org      org      stage    org      org      org      | proposed countersigned consented
    org      stage    org      stage    org      org      org      | confirmed departed
    org      yes      org      yes      org      org      org      | arrived
    org      yes      yes      yes      org      org      org      | astray
    same     same     same     same     same     same     same     | ended
disclose
    unknown  unknown  unknown  unknown  unknown  unknown  unknown  | received refused
    stage    entitled stage    entitled entitled entitled entitled | shortlisted asked offered unmet_need withdrawn
    stage    entitled stage    stage    entitled entitled entitled | proposed countersigned consented
    yes      yes      yes      yes      entitled entitled entitled | confirmed
    yes      yes      yes      yes      entitled yes      entitled | departed astray
    stage    stage    stage    stage    entitled stage    entitled | arrived ended
    erased   erased   erased   erased   erased   erased   erased   | erased
erase
    unknown  unknown  unknown  unknown  unknown  unknown  unknown  | received
    role     role     role     role     role     role     yes      | shortlisted asked offered proposed countersigned
    role     role     role     role     role     role     yes      | consented confirmed ended unmet_need refused
    role     role     role     role     role     role     yes      | withdrawn
    role     role     role     role     role     role     stage    | departed arrived astray
    same     same     same     same     same     same     same     | erased
"""
"""What happens, by command; each line holds for the stages at its end. Whom the gateway lets in at all (scopes) comes on top."""


@cache
def decided() -> dict[tuple[str, str, Stage], str]:
    """(command, who, stage) to mark."""
    head, *lines = TABLE.strip().splitlines()
    cells: dict[tuple[str, str, Stage], str] = {}
    command = ""
    for line in lines:
        marks, bar, stages = line.partition("|")
        if not bar:
            command = line.strip()
            continue
        for who, mark in zip(head.split(), marks.split(), strict=True):
            cells |= {(command, who, Stage(stage)): mark for stage in stages.split()}
    return cells


def outcome(story: Story) -> str:
    """The mark of what the last step made happen."""
    first = story.events[0]
    match first:
        case CommandRefused(reason=reason):
            return next((mark for mark, meaning in MARKS.items() if meaning is reason), reason)
        case CommandHadNoEffect():
            return "same"
        case _:
            return "yes"


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("who", PEOPLE)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_in_every_stage_by_everybody_has_one_decided_outcome(
    command: str, who: str, stage: Stage
) -> None:
    story = a.a_request_that_is(stage)
    before = story.state
    story.when(COMMANDS[command](story, PEOPLE[who]), by=PEOPLE[who])
    found = outcome(story)
    assert found == decided().get((command, who, stage)), f"{command} by {who} while {stage}: {MARKS.get(found)}"
    if found != "yes":
        assert story.state == before


def test_the_table_speaks_of_every_command_that_is_about_a_request() -> None:
    about_units = {RegisterUnit, ReportCapacity, ConfirmCapacity}
    story = a.a_request_that_is(Stage.OFFERED)
    assert {type(make(story, a.a_referrer())) for make in COMMANDS.values()} == set(
        Command.__subclasses__()
    ) - about_units


def test_the_table_speaks_of_every_role_but_the_timers() -> None:
    assert {person.role for person in PEOPLE.values()} == set(Role) - {Role.SYSTEM}


def test_a_stranger_of_every_role_can_do_nothing_in_any_stage() -> None:
    """Another organisation of another country: what a stolen account elsewhere could reach."""
    done = []
    for stage in STAGES:
        for command, make in COMMANDS.items():
            if command in ("open", "erase"):
                continue  # anybody who refers may open; every inspectorate may order an erasure
            for role in Role:
                stranger = a.a_person(role, "LU", "somewhere-else")
                story = a.a_request_that_is(stage)
                story.when(make(story, stranger), by=stranger)
                if outcome(story) == "yes":
                    done.append((stage, command, role))
    assert done == []
