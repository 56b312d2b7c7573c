"""What capacity announces: units, their beds and the holds on them. Stream `unit-<id>`."""

from datetime import datetime
from enum import StrEnum

import msgspec

from events.vocabulary import Beds, BlockReason, Freshness, Identifier, UnitProfile


class CapacityEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """A fact about one unit."""

    unit_id: Identifier


class HoldRefusal(StrEnum):
    """Why beds could not be held."""

    UNKNOWN_UNIT = "unknown_unit"
    NOT_ENOUGH_BEDS = "not_enough_beds"
    ALREADY_RELEASED = "already_released"
    ALREADY_OVER = "already_over"


class FirmRefusal(StrEnum):
    """Why a hold could not be made firm."""

    HOLD_EXPIRED = "hold_expired"
    HOLD_RELEASED = "hold_released"
    UNKNOWN_HOLD = "unknown_hold"


class ReportRefusal(StrEnum):
    """Why a staff report changed nothing."""

    UNKNOWN_UNIT = "unknown_unit"
    STALE_REVISION = "stale_revision"
    CLAIMED_BEDS_TYPED_AWAY = "claimed_beds_typed_away"
    ALREADY_REGISTERED = "already_registered"
    UNKNOWN_COUNTRY = "unknown_country"
    PROFILE_DOES_NOT_FIT = "profile_does_not_fit"
    NOT_YOUR_SHELTER = "not_your_shelter"


class UnitRegistered(CapacityEvent, frozen=True, kw_only=True, tag="capacity.unit.registered.v1"):
    profile: UnitProfile
    beds: Beds


class CapacityReported(CapacityEvent, frozen=True, kw_only=True, tag="capacity.unit.reported.v1"):
    """Absolute state of every bed that nobody holds: bed numbers, so that a hold can name the bed it takes."""

    beds: Beds
    free: tuple[int, ...]
    blocked: tuple[int, ...] = ()
    blocked_because: BlockReason | None = None
    blocked_until: datetime | None = None


class CapacityConfirmed(CapacityEvent, frozen=True, kw_only=True, tag="capacity.unit.confirmed.v1"):
    """Nothing changed: the last report is true again, as of now."""


class ReportRefused(CapacityEvent, frozen=True, kw_only=True, tag="capacity.unit.report_refused.v1"):
    command_id: Identifier
    reason: ReportRefusal
    revision: int
    """The revision the unit has now; the reporter saw another one."""


class UnitStandingChanged(CapacityEvent, frozen=True, kw_only=True, tag="capacity.unit.standing_changed.v1"):
    """Where the unit stands after what just happened, in counts: all that others need to know about its beds.

    `beds` = free + held + occupied + blocked + taken; taken is by people Haven did not place.
    """

    beds: Beds
    free: Beds
    held: Beds
    occupied: Beds
    blocked: Beds
    taken: Beds
    revision: int
    """What a staff report must have seen."""


class FreshnessChanged(CapacityEvent, frozen=True, kw_only=True, tag="capacity.unit.freshness_changed.v1"):
    freshness: Freshness


class HoldPlaced(CapacityEvent, frozen=True, kw_only=True, tag="capacity.hold.placed.v1"):
    hold_id: Identifier
    request_id: Identifier
    beds: tuple[int, ...]
    until: datetime


class HoldRefused(CapacityEvent, frozen=True, kw_only=True, tag="capacity.hold.refused.v1"):
    hold_id: Identifier
    request_id: Identifier
    reason: HoldRefusal


class HoldReleased(CapacityEvent, frozen=True, kw_only=True, tag="capacity.hold.released.v1"):
    """The beds are free again. Of a hold never placed, this is the tombstone that refuses it for ever."""

    hold_id: Identifier
    request_id: Identifier


class HoldExpired(CapacityEvent, frozen=True, kw_only=True, tag="capacity.hold.expired.v1"):
    hold_id: Identifier
    request_id: Identifier


class HoldMadeFirm(CapacityEvent, frozen=True, kw_only=True, tag="capacity.hold.made_firm.v1"):
    """The hold no longer expires: both countries signed."""

    hold_id: Identifier
    request_id: Identifier


class FirmHoldRefused(CapacityEvent, frozen=True, kw_only=True, tag="capacity.hold.firming_refused.v1"):
    hold_id: Identifier
    request_id: Identifier
    reason: FirmRefusal


class BedsOccupied(CapacityEvent, frozen=True, kw_only=True, tag="capacity.beds.occupied.v1"):
    hold_id: Identifier
    request_id: Identifier


class BedsVacated(CapacityEvent, frozen=True, kw_only=True, tag="capacity.beds.vacated.v1"):
    """The household left. The beds stay blocked (turnover) until staff report them free: free means ready now."""

    hold_id: Identifier
    request_id: Identifier


CapacityContract = (
    UnitRegistered
    | CapacityReported
    | CapacityConfirmed
    | ReportRefused
    | UnitStandingChanged
    | FreshnessChanged
    | HoldPlaced
    | HoldRefused
    | HoldReleased
    | HoldExpired
    | HoldMadeFirm
    | FirmHoldRefused
    | BedsOccupied
    | BedsVacated
)
"""Everything capacity's log may hold."""
