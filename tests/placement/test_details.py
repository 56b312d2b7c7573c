"""What need not be known at the opening can be said later, and put right; every change says what it changed."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.envelope import Event, decode
from events.gateway import RecordDetails
from events.placement import (
    CommandHadNoEffect,
    Details,
    DetailsRecorded,
    PlacementCountersigned,
    Refusal,
    RelocationRequestOpened,
)
from events.vocabulary import Actor, Stage
from services.placement.domain.process import PlacementFacts
from services.placement.domain.relocation_request import RelocationRequestDecider
from services.placement.domain.request import evolve
from tests import builders as a
from tests.spec import Story

NOTHING = Details(third_country_national=None, reflection_started_on=None, reflection_ends_on=None, region_of_stay=None)
BEFORE_DETAILS = Path(__file__).parents[1] / "gateway" / "request_before_details.json"
"""A request as the release before wrote it down, with what it made of it."""
NOVEMBER = date(2026, 11, 20)
OPEN_STAGES = [
    stage
    for stage in Stage
    if stage not in (Stage.RECEIVED, Stage.OPENED, Stage.REFUSED, Stage.WITHDRAWN, Stage.ENDED, Stage.ERASED)
]


def learn(story: Story, seen: int | None = None, by: Actor | None = None, **said: Any) -> Story:
    """Records details; what is not named is not known."""
    nothing = {"third_country_national": None, "reflection_started_on": None, "region_of_stay": None}
    version = story.state.details_version if seen is None else seen
    command = RecordDetails(request_id=a.REQUEST, version_seen=version, **{**nothing, **said})
    return story.when(command, by=by or a.a_referrer())


def recorded(version: int, before: Details = NOTHING, **known: Any) -> DetailsRecorded:
    return DetailsRecorded(
        request_id=a.REQUEST, version=version, known=msgspec.structs.replace(NOTHING, **known), before=before
    )


def test_what_was_learnt_later_stands_as_if_it_had_been_said_at_the_opening() -> None:
    said = {"third_country_national": True, "reflection_started_on": NOVEMBER, "region_of_stay": "BE23"}
    later = learn(a.a_relocation_request(), **said)
    at_once = a.a_relocation_request(**said)
    assert msgspec.structs.replace(later.state.opened, sealed_callback="") == msgspec.structs.replace(
        at_once.state.opened, sealed_callback=""
    )
    later.then(recorded(1, **said, reflection_ends_on=date(2027, 1, 4)))  # Belgium: 45 days


@pytest.mark.parametrize(("country", "ends_on"), [("BE", date(2027, 1, 4)), ("NL", date(2027, 2, 20))])
def test_the_period_ends_by_the_rules_of_the_country_they_are_in_danger_in(country: str, ends_on: date) -> None:
    story = a.a_relocation_request(danger_country=country)
    learn(story, reflection_started_on=NOVEMBER, by=a.a_coordinator(country))
    assert story.the_last(DetailsRecorded).known.reflection_ends_on == ends_on


def test_a_corrected_start_moves_the_end_and_says_what_was_before() -> None:
    story = a.a_relocation_request(reflection_started_on=date(2026, 11, 2))
    learn(story, reflection_started_on=NOVEMBER)
    (change,) = story.events
    assert (change.before.reflection_started_on, change.before.reflection_ends_on) == (
        date(2026, 11, 2),
        date(2026, 12, 17),
    )
    assert (change.known.reflection_started_on, change.known.reflection_ends_on) == (NOVEMBER, date(2027, 1, 4))


def test_a_start_that_was_none_is_taken_back_with_its_end() -> None:
    story = learn(a.a_relocation_request(reflection_started_on=NOVEMBER))
    assert story.state.opened.reflection_started_on is None
    assert story.state.opened.reflection_ends_on is None
    assert story.the_last(RelocationRequestOpened).reflection_started_on == NOVEMBER, "what was said stays said"


def test_rules_that_change_later_move_no_end_that_was_worked_out_before() -> None:
    story = a.a_relocation_request(reflection_started_on=NOVEMBER)
    belgium = a.REFERENCE.countries["BE"]
    longer = msgspec.structs.replace(
        belgium, reflection=msgspec.structs.replace(belgium.reflection, length=belgium.reflection.length + 30)
    )
    reference = msgspec.structs.replace(a.REFERENCE, countries={**a.REFERENCE.countries, "BE": longer})
    story.facts = PlacementFacts(reference=reference, units=a.three_units)
    learn(story, reflection_started_on=NOVEMBER, region_of_stay="BE23")
    assert story.the_last(DetailsRecorded).known.reflection_ends_on == date(2027, 1, 4)
    learn(story, reflection_started_on=date(2026, 11, 21), region_of_stay="BE23")
    assert story.the_last(DetailsRecorded).known.reflection_ends_on == date(2027, 2, 4)


def test_the_same_again_changes_nothing_whatever_was_seen() -> None:
    story = learn(a.a_relocation_request(), region_of_stay="BE23")
    for seen in (0, 1, 7):
        learn(story, seen, region_of_stay="BE23").then_events(CommandHadNoEffect)
    assert story.state.details_version == 1


def test_of_two_who_looked_at_the_same_the_second_is_told() -> None:
    story = a.a_relocation_request()
    learn(story, 0, region_of_stay="BE23")
    learn(story, 0, third_country_national=True, by=a.a_coordinator("BE")).refused(Refusal.DETAILS_CHANGED)
    assert story.state.opened.region_of_stay == "BE23"
    learn(story, 1, third_country_national=True, region_of_stay="BE23", by=a.a_coordinator("BE"))
    assert (story.state.details_version, story.state.opened.third_country_national) == (2, True)


def test_nobody_can_have_seen_what_is_still_to_come() -> None:
    learn(a.a_relocation_request(), 1, region_of_stay="BE23").refused(Refusal.DETAILS_CHANGED)


@pytest.mark.parametrize("by", [a.a_coordinator("NL"), a.shelter_staff("u1"), a.a_guardian(), a.an_escort()])
def test_a_guess_of_somebody_else_is_told_nothing_also_if_it_is_right(by: Actor) -> None:
    story = a.a_request_that_is(Stage.CONFIRMED, third_country_national=True)
    learn(story, third_country_national=True, by=by).refused(Refusal.NOT_YOUR_ORGANISATION)
    learn(story, third_country_national=False, by=by).refused(Refusal.NOT_YOUR_ORGANISATION)


def test_a_colleague_takes_over_at_shift_change_and_another_desk_does_not() -> None:
    story = a.a_relocation_request()
    learn(story, region_of_stay="BE23", by=a.a_referrer("referrer-BE-2")).then_events(DetailsRecorded)
    learn(story, region_of_stay="BE10", by=a.a_referrer("x", "labour-BE")).refused(Refusal.NOT_YOUR_ORGANISATION)


@pytest.mark.parametrize("stage", OPEN_STAGES)
def test_it_moves_nothing_else_wherever_the_request_stands(stage: Stage) -> None:
    """No stage, no question, no bed, no next step, no deadline: nobody is rung, and nobody has to do anything again."""
    story = a.a_request_that_is(stage)
    before = story.state
    learn(story, third_country_national=True, reflection_started_on=NOVEMBER).then_events(DetailsRecorded)
    after = msgspec.structs.replace(story.state, opened=before.opened, details_version=0)
    assert after == before


@pytest.mark.parametrize("stage", [Stage.PROPOSED, Stage.COUNTERSIGNED])
def test_what_was_signed_still_binds(stage: Stage) -> None:
    story = a.a_request_that_is(stage)
    shown = story.state.proposal_hash
    learn(story, third_country_national=True, reflection_started_on=NOVEMBER, region_of_stay="BE23")
    assert story.state.proposal_hash == shown
    if stage is Stage.PROPOSED:
        a.countersigned(story).then_among_others(PlacementCountersigned(request_id=a.REQUEST, proposal_hash=shown))
    assert a.made_firm(a.consented(story)).state.stage is Stage.CONFIRMED


def test_no_signature_is_about_them() -> None:
    signed = {field.name for field in msgspec.structs.fields(type(a.a_request_that_is(Stage.PROPOSED).state.proposal))}
    assert not signed & {field.name for field in msgspec.structs.fields(Details)}


@pytest.mark.parametrize("stage", [Stage.DEPARTED, Stage.ASTRAY, Stage.ARRIVED])
def test_of_who_has_left_it_is_not_said_where_they_are(stage: Stage) -> None:
    story = a.a_request_that_is(stage, region_of_stay="BE23")
    learn(story, region_of_stay="NL32").refused(Refusal.WRONG_STAGE)
    learn(story, region_of_stay=None).refused(Refusal.WRONG_STAGE)
    learn(story, region_of_stay="BE23", third_country_national=True).then_events(DetailsRecorded)


def test_the_units_are_ranked_the_same_whatever_is_learnt() -> None:
    """No rule of matching uses it: a region nearer to one shelter brings no household there."""
    drawn = []
    for region in ("BE23", "BE34", None):
        story = a.a_relocation_request(a.a_unit("full", free=0))
        learn(story, third_country_national=region is None, region_of_stay=region)
        a.units_are_now(story, *a.three_units())
        story.a_late_timer_fires(hours=5)
        drawn.append(story.state.shortlist)
    assert drawn[0] == drawn[1] == drawn[2]


def test_a_request_of_the_release_before_is_read_as_it_was() -> None:
    said = json.loads(BEFORE_DETAILS.read_text())
    state = RelocationRequestDecider.initial
    for line in said["events"]:
        event = decode(json.dumps(line))
        assert isinstance(event, Event)
        state = evolve(state, event)
    now = msgspec.to_builtins(state, str_keys=True)
    assert now.pop("details_version") == 0
    assert json.loads(msgspec.json.encode(now)) == said["state"]
