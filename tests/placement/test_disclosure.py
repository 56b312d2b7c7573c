"""Who may open which sealed field, when and why: released last, to a named person, for a reason that fits."""

from datetime import timedelta

import pytest

from events.gateway import PlanJourney, RequestDisclosure
from events.placement import DisclosureGranted, Refusal
from events.vocabulary import DisclosureReason, SealedField, Stage
from tests import builders as a
from tests.spec import Story

PEOPLE = {
    "referrer": a.a_referrer("a-colleague"),
    "origin": a.a_coordinator("BE"),
    "host": a.a_coordinator("NL"),
    "shelter": a.shelter_staff("u1"),
    "escort": a.an_escort(),
    "guardian": a.a_guardian(),
    "auditor": a.an_auditor(),
    "other shelter": a.shelter_staff("u2", "LU"),
    "other country": a.a_coordinator("LU"),
    "other police": a.a_referrer("x", "police-elsewhere"),
    "other escort": a.an_escort("escort-9"),
}
FITTING = {
    SealedField.CALLBACK: DisclosureReason.CALL_BACK,
    SealedField.RENDEZVOUS: DisclosureReason.PREPARE_HANDOVER,
    SealedField.JOURNEY: DisclosureReason.DRIVE_JOURNEY,
}
ALWAYS = {stage for stage in Stage if stage not in (Stage.OPENED, Stage.RECEIVED, Stage.REFUSED)}
OPEN = ALWAYS - {Stage.ENDED, Stage.WITHDRAWN, Stage.ERASED}
ON_THE_WAY = {Stage.CONFIRMED, Stage.DEPARTED, Stage.ASTRAY}
NEVER: set[Stage] = set()

ENTITLED = {
    SealedField.CALLBACK: {
        "referrer": OPEN,
        "origin": OPEN,
        "host": ON_THE_WAY,
        "shelter": ON_THE_WAY,
        "escort": ON_THE_WAY,
    },
    SealedField.RENDEZVOUS: {
        "referrer": ON_THE_WAY,
        "origin": ON_THE_WAY,
        "host": ON_THE_WAY,
        "shelter": ON_THE_WAY,
        "escort": ON_THE_WAY,
    },
    SealedField.JOURNEY: {
        "origin": ON_THE_WAY,
        "host": ON_THE_WAY,
        "shelter": ON_THE_WAY,
        "escort": ON_THE_WAY,
    },
}
"""Field to who to when. Whoever is not named is never entitled."""


def disclosed(story: Story, by, field: SealedField, reason: DisclosureReason, recipient: str = "") -> Story:
    command = RequestDisclosure(
        request_id=a.REQUEST,
        disclosure_id="disclosure-1",
        field=field,
        reason=reason,
        recipient=recipient or by.person,
    )
    return story.when(command, by=by)


def planned(stage: Stage) -> Story:
    """A request at `stage`, its journey planned as soon as it can be."""
    story = a.a_request_that_is(stage)
    return a.journey_planned(story) if stage is Stage.CONFIRMED else story


@pytest.mark.parametrize("field", SealedField)
@pytest.mark.parametrize("who", PEOPLE)
@pytest.mark.attack(40)
def test_a_sealed_field_is_opened_only_to_those_entitled_and_only_while_they_need_it(
    who: str, field: SealedField
) -> None:
    opened = set()
    for stage in ALWAYS:
        story = disclosed(planned(stage), PEOPLE[who], field, FITTING[field])
        if isinstance(story.events[0], DisclosureGranted):
            opened.add(stage)
        else:
            assert len(story.events) == 1
            assert story.events[0].reason in (Refusal.NOT_ENTITLED, Refusal.WRONG_STAGE, Refusal.ERASED)
    assert opened == ENTITLED[field].get(who, NEVER)


R = DisclosureReason


@pytest.mark.parametrize(
    ("field", "reasons"),
    [
        (SealedField.CALLBACK, {R.CALL_BACK, R.PREPARE_HANDOVER, R.OVERDUE_ARRIVAL}),
        (SealedField.RENDEZVOUS, {R.PREPARE_HANDOVER, R.DRIVE_JOURNEY, R.RECEIVE_HOUSEHOLD, R.OVERDUE_ARRIVAL}),
        (SealedField.JOURNEY, {R.DRIVE_JOURNEY, R.RECEIVE_HOUSEHOLD, R.OVERDUE_ARRIVAL}),
    ],
)
def test_the_reason_must_fit_the_field(field: SealedField, reasons: set[DisclosureReason]) -> None:
    for reason in DisclosureReason:
        story = disclosed(a.a_request_that_is(Stage.DEPARTED), a.a_coordinator("BE"), field, reason)
        if reason in reasons:
            story.then_events(DisclosureGranted)
        else:
            story.refused(Refusal.REASON_DOES_NOT_FIT)


def test_a_disclosure_is_for_the_one_who_asks_and_ends_by_itself() -> None:
    story = disclosed(a.a_request_that_is(Stage.DEPARTED), a.an_escort(), SealedField.JOURNEY, R.DRIVE_JOURNEY)
    granted = story.the_last(DisclosureGranted)
    assert granted.recipient == a.an_escort().person
    assert granted.expires_at == story.now + timedelta(minutes=15)
    assert granted.sealed_in == story.state.journey.sealed_steps


@pytest.mark.attack(40)
def test_nobody_has_a_field_opened_for_somebody_else() -> None:
    story = a.a_request_that_is(Stage.DEPARTED)
    disclosed(story, a.a_coordinator("BE"), SealedField.JOURNEY, R.DRIVE_JOURNEY, recipient="somebody-else")
    story.refused(Refusal.NOT_THE_RECIPIENT)


def test_the_journey_of_a_placement_that_has_none_yet_cannot_be_opened() -> None:
    story = a.a_request_that_is(Stage.CONFIRMED)
    disclosed(story, a.a_coordinator("BE"), SealedField.JOURNEY, R.DRIVE_JOURNEY).refused(Refusal.NOTHING_SEALED)


def test_the_hand_over_place_is_that_of_the_shelter_that_was_chosen() -> None:
    story = a.a_request_that_is(Stage.CONFIRMED)
    disclosed(story, a.a_referrer(), SealedField.RENDEZVOUS, R.PREPARE_HANDOVER)
    assert story.the_last(DisclosureGranted).sealed_in == a.the_ask(story, "u1").sealed_rendezvous


@pytest.mark.attack(46)
def test_an_escort_who_was_replaced_sees_nothing_any_more() -> None:
    story = planned(Stage.CONFIRMED)
    due = story.now + timedelta(hours=3)
    command = PlanJourney(request_id=a.REQUEST, escort="escort-2", arrival_due=due, steps=a.SEALED)
    story.when(command, by=a.a_coordinator("BE"))
    disclosed(story, a.an_escort(), SealedField.JOURNEY, R.DRIVE_JOURNEY).refused(Refusal.NOT_ENTITLED)
    disclosed(story, a.an_escort("escort-2"), SealedField.JOURNEY, R.DRIVE_JOURNEY).then_events(DisclosureGranted)
