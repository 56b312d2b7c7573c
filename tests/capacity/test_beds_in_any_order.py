"""Whatever comes in whatever order: a bed is in one place, and time always moves on."""

from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from events.capacity import (
    BedsOccupied,
    HoldExpired,
    HoldMadeFirm,
    HoldPlaced,
    HoldReleased,
)
from events.gateway import ConfirmCapacity, ReportCapacity
from events.placement import ArrivalRecorded, FirmHoldRequested, HoldReleaseRequested, HoldRequested, PlacementEnded
from events.vocabulary import ArrivalOutcome, EndingReason
from tests import builders as a
from tests.spec import replayed

HOLDS = st.sampled_from([f"hold-{n}" for n in range(6)])


def ids(hold_id: str) -> dict[str, str]:
    return {"unit_id": "u1", "hold_id": hold_id, "request_id": f"request-of-{hold_id}"}


class BedsInAnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.story = a.a_unit_with_beds(5)

    def when(self, message) -> None:
        before = self.story.state
        self.story.when(message, by=a.shelter_staff())
        after = self.story.state
        moved = (before.free, before.blocked, before.claimed) != (after.free, after.blocked, after.claimed)
        assert after.revision > before.revision if moved else after.revision >= before.revision

    @rule(hold=HOLDS, beds=st.integers(1, 6), minutes=st.sampled_from([-1, 0, 1, 60, 600]))
    def a_hold_is_wanted(self, hold: str, beds: int, minutes: int) -> None:
        until = self.story.now + timedelta(minutes=minutes)
        self.when(HoldRequested(**ids(hold), shelter_id="shelter-u1", country="NL", beds=beds, until=until))

    @rule(hold=HOLDS)
    def a_hold_is_released(self, hold: str) -> None:
        self.when(HoldReleaseRequested(**ids(hold)))

    @rule(hold=HOLDS)
    def a_hold_is_to_be_made_firm(self, hold: str) -> None:
        self.when(FirmHoldRequested(**ids(hold)))

    @rule(hold=HOLDS, outcome=st.sampled_from(ArrivalOutcome))
    def a_household_arrives(self, hold: str, outcome: ArrivalOutcome) -> None:
        self.when(ArrivalRecorded(**ids(hold), outcome=outcome))

    @rule(hold=HOLDS)
    def a_household_leaves(self, hold: str) -> None:
        self.when(PlacementEnded(**ids(hold), reason=EndingReason.MOVED_ON))

    @rule(beds=st.integers(0, 8), free=st.integers(0, 8), blocked=st.integers(0, 3), behind=st.sampled_from([0, 0, 1]))
    def staff_report(self, beds: int, free: int, blocked: int, behind: int) -> None:
        seen = self.story.state.revision - behind
        self.when(ReportCapacity(unit_id="u1", revision_seen=seen, beds=beds, free=free, blocked=blocked))

    @rule()
    def staff_confirm(self) -> None:
        self.when(ConfirmCapacity(unit_id="u1", revision_seen=self.story.state.revision))

    @rule(minutes=st.sampled_from([1, 60, 719, 721, 3000]))
    def time_passes(self, minutes: int) -> None:
        self.story.and_time_passes(minutes=minutes)

    @rule(minutes=st.sampled_from([0, 60, 5000]))
    def a_late_timer_fires(self, minutes: int) -> None:
        self.story.a_late_timer_fires(minutes=minutes)

    @rule(minutes=st.sampled_from([1, 61, 700]))
    def nothing_runs_for_a_while(self, minutes: int) -> None:
        self.story.now += timedelta(minutes=minutes)

    @invariant()
    def a_hold_that_ran_out_was_never_made_firm_afterwards(self) -> None:
        over: set[str] = set()
        for event in self.story.history:
            match event.data:
                case HoldExpired(hold_id=hold_id) | HoldReleased(hold_id=hold_id):
                    over.add(hold_id)
                case HoldMadeFirm(hold_id=hold_id) | BedsOccupied(hold_id=hold_id) | HoldPlaced(hold_id=hold_id):
                    assert hold_id not in over

    @invariant()
    def every_hold_keeps_the_beds_it_was_given(self) -> None:
        given = {placed.hold_id: placed.beds for placed in self.story.all_of(HoldPlaced)}
        assert {h.hold_id: h.beds for h in self.story.state.holds.values() if h.beds} == given

    def teardown(self) -> None:
        assert replayed(self.story) == self.story.state


TestBedsInAnyOrder = BedsInAnyOrder.TestCase
TestBedsInAnyOrder.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
