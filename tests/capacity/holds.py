"""What placement says about one hold on two beds, and units to which it was said."""

from datetime import timedelta

from events.capacity import UnitStandingChanged
from events.placement import (
    ArrivalRecorded,
    FirmHoldRequested,
    HoldReleaseRequested,
    HoldRequested,
    PlacementEnded,
)
from events.vocabulary import ArrivalOutcome, EndingReason
from tests import builders as a
from tests.spec import Story

TWO_HOURS = timedelta(hours=2)


def wanted(beds: int = 2, hold_id: str = "hold-1", request_id: str = a.REQUEST, lasts: timedelta = TWO_HOURS):
    return HoldRequested(
        request_id=request_id,
        hold_id=hold_id,
        unit_id="u1",
        shelter_id="shelter-u1",
        country="NL",
        beds=beds,
        until=a.MONDAY_NOON + lasts,
    )


def ids(hold_id: str = "hold-1", request_id: str = a.REQUEST) -> dict[str, str]:
    return {"unit_id": "u1", "hold_id": hold_id, "request_id": request_id}


def release(hold_id: str = "hold-1") -> HoldReleaseRequested:
    return HoldReleaseRequested(**ids(hold_id))


def firming(hold_id: str = "hold-1") -> FirmHoldRequested:
    return FirmHoldRequested(**ids(hold_id))


def arrived(outcome: ArrivalOutcome = ArrivalOutcome.ARRIVED) -> ArrivalRecorded:
    return ArrivalRecorded(**ids(), outcome=outcome)


def ended() -> PlacementEnded:
    return PlacementEnded(**ids(), reason=EndingReason.MOVED_ON)


def held(beds: int = 4, household: int = 2) -> Story:
    return a.a_unit_with_beds(beds).when(wanted(household))


def firm() -> Story:
    return held().when(firming())


def occupied() -> Story:
    return firm().when(arrived())


def standing(story: Story) -> tuple[int, int, int, int, int]:
    """Free, held, occupied, blocked, taken."""
    now: UnitStandingChanged = story.state.announced
    return now.free, now.held, now.occupied, now.blocked, now.taken
