"""One unit: its beds and the holds on them. Pure; the consistency boundary of every promise about a bed.

A bed is in exactly one of five places: free, blocked, taken (by somebody Haven did not place), held, or occupied.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from itertools import count, islice
from typing import Any

import msgspec
from msgspec.structs import replace

from events.capacity import (
    BedsOccupied,
    BedsVacated,
    CapacityConfirmed,
    CapacityContract,
    CapacityReported,
    FirmHoldRefused,
    FirmRefusal,
    FreshnessChanged,
    HoldExpired,
    HoldMadeFirm,
    HoldPlaced,
    HoldRefusal,
    HoldRefused,
    HoldReleased,
    ReportRefusal,
    ReportRefused,
    UnitRegistered,
    UnitStandingChanged,
)
from events.envelope import Event
from events.gateway import ConfirmCapacity, RegisterUnit, ReportCapacity
from events.log.decider import Context, TimePassed
from events.placement import (
    ArrivalRecorded,
    FirmHoldRequested,
    HoldReleaseRequested,
    HoldRequested,
    PlacementEnded,
)
from events.vocabulary import Actor, ArrivalOutcome, BlockReason, Freshness, Role, UnitProfile
from reference import Rhythm


class HoldStage(StrEnum):
    HELD = "held"
    FIRM = "firm"
    OCCUPIED = "occupied"
    OVER = "over"


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    hold_id: str
    request_id: str
    beds: tuple[int, ...]
    stage: HoldStage
    until: datetime | None
    """When it runs out by itself; a firm hold does not."""
    expired: bool = False


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    profile: UnitProfile | None = None
    beds: int = 0
    free: frozenset[int] = frozenset()
    blocked: frozenset[int] = frozenset()
    blocked_because: BlockReason | None = None
    blocked_until: datetime | None = None
    holds: dict[str, Hold] = {}
    revision: int = 0
    """Stream version of the last event that moved a bed: what a staff page must have seen."""
    reported_at: datetime | None = None
    freshness: Freshness = Freshness.NOT_REPORTED
    rhythm: Rhythm | None = None
    announced: UnitStandingChanged | None = None

    @property
    def claimed(self) -> frozenset[int]:
        """Beds that a hold or a household placed by Haven has."""
        return frozenset(b for hold in self.holds.values() if hold.stage is not HoldStage.OVER for b in hold.beds)


class UnitDecider:
    """The decider of stream `unit-<id>`."""

    service = "capacity"
    initial = Unit()

    def __init__(self, rhythms: Mapping[str, Rhythm]) -> None:
        self._rhythms = rhythms

    def decide(self, unit: Unit, message: Any, context: Context) -> Sequence[CapacityContract]:
        match message:
            case RegisterUnit():
                return _register(unit, message, context, self._rhythms)
            case ReportCapacity():
                return _report(unit, message, context)
            case ConfirmCapacity():
                return _confirm(unit, message, context)
            case HoldRequested():
                return _place_hold(unit, message, context)
            case HoldReleaseRequested():
                return _release_hold(unit, message)
            case FirmHoldRequested():
                return _make_firm(unit, message, context)
            case ArrivalRecorded():
                return _arrive(unit, message)
            case PlacementEnded():
                return _vacate(unit, message)
            case TimePassed():
                return _pass_time(unit, context)
        raise TypeError(f"capacity has no rule for {type(message).__name__}")

    def follow_up(self, unit: Unit, _context: Context) -> Sequence[CapacityContract]:
        """Announces where the unit stands, whenever that is not what was announced last."""
        standing = _standing(unit)
        return [] if standing is None or standing == unit.announced else [standing]

    def due(self, unit: Unit) -> datetime | None:
        moments = [hold.until for hold in unit.holds.values() if hold.stage is HoldStage.HELD and hold.until]
        if changes := _next_freshness(unit):
            moments.append(changes[0])
        return min(moments, default=None)

    def evolve(self, unit: Unit, event: Event) -> Unit:
        match event.data:
            case UnitRegistered(profile=profile, beds=beds):
                return replace(
                    unit, profile=profile, beds=beds, revision=event.version, rhythm=self._rhythms.get(profile.country)
                )
            case CapacityReported() as report:
                return replace(
                    unit,
                    beds=report.beds,
                    free=frozenset(report.free),
                    blocked=frozenset(report.blocked),
                    blocked_because=report.blocked_because,
                    blocked_until=report.blocked_until,
                    revision=event.version,
                    reported_at=event.time,
                    freshness=Freshness.FRESH,
                )
            case CapacityConfirmed():
                return replace(unit, reported_at=event.time, freshness=Freshness.FRESH)
            case FreshnessChanged(freshness=freshness):
                return replace(unit, freshness=freshness)
            case UnitStandingChanged() as standing:
                return replace(unit, announced=standing)
            case HoldPlaced() as placed:
                hold = Hold(
                    hold_id=placed.hold_id,
                    request_id=placed.request_id,
                    beds=placed.beds,
                    stage=HoldStage.HELD,
                    until=placed.until,
                )
                return _with_hold(unit, hold, event.version, free=unit.free - set(placed.beds))
            case HoldReleased() as released:
                return _over(unit, released.hold_id, released.request_id, event.version, expired=False)
            case HoldExpired() as expired:
                return _over(unit, expired.hold_id, expired.request_id, event.version, expired=True)
            case HoldMadeFirm(hold_id=hold_id):
                firm = replace(unit.holds[hold_id], stage=HoldStage.FIRM, until=None)
                return _with_hold(unit, firm, event.version)
            case BedsOccupied(hold_id=hold_id):
                occupied = replace(unit.holds[hold_id], stage=HoldStage.OCCUPIED)
                return _with_hold(unit, occupied, event.version)
            case BedsVacated(hold_id=hold_id):
                left = unit.holds[hold_id]
                return replace(
                    _with_hold(unit, replace(left, stage=HoldStage.OVER), event.version),
                    blocked=unit.blocked | set(left.beds),
                    blocked_because=BlockReason.TURNOVER,
                    blocked_until=None,
                )
            case _:
                return unit


def _register(
    unit: Unit, command: RegisterUnit, context: Context, rhythms: Mapping[str, Rhythm]
) -> Sequence[CapacityContract]:
    if command.profile.country not in rhythms:
        return [_refuse_report(unit, command.unit_id, context, ReportRefusal.UNKNOWN_COUNTRY)]
    profile = command.profile
    if profile.unit_id != command.unit_id or not profile.region.startswith(profile.country):
        return [_refuse_report(unit, command.unit_id, context, ReportRefusal.PROFILE_DOES_NOT_FIT)]
    if unit.profile is None:
        return [UnitRegistered(unit_id=command.unit_id, profile=command.profile, beds=command.beds)]
    return [_refuse_report(unit, command.unit_id, context, ReportRefusal.ALREADY_REGISTERED)]


def _report(unit: Unit, command: ReportCapacity, context: Context) -> Sequence[CapacityContract]:
    if refusal := _may_not_report(unit, context.actor):
        return [_refuse_report(unit, command.unit_id, context, refusal)]
    if command.revision_seen != unit.revision:
        return [_refuse_report(unit, command.unit_id, context, ReportRefusal.STALE_REVISION)]
    claimed = unit.claimed
    if command.free + command.blocked > command.beds - len(claimed):
        return [_refuse_report(unit, command.unit_id, context, ReportRefusal.CLAIMED_BEDS_TYPED_AWAY)]
    # Beds are interchangeable but for their claims: a claimed bed keeps its number, the others take what is left.
    numbers = (bed for bed in count(1) if bed not in claimed)
    return [
        CapacityReported(
            unit_id=command.unit_id,
            beds=command.beds,
            free=tuple(islice(numbers, command.free)),
            blocked=tuple(islice(numbers, command.blocked)),
            blocked_because=command.blocked_because,
            blocked_until=command.blocked_until,
        )
    ]


def _confirm(unit: Unit, command: ConfirmCapacity, context: Context) -> Sequence[CapacityContract]:
    if refusal := _may_not_report(unit, context.actor):
        return [_refuse_report(unit, command.unit_id, context, refusal)]
    if command.revision_seen != unit.revision:
        return [_refuse_report(unit, command.unit_id, context, ReportRefusal.STALE_REVISION)]
    return [CapacityConfirmed(unit_id=command.unit_id)]


def _may_not_report(unit: Unit, actor: Actor) -> ReportRefusal | None:
    """The shelter's own staff, or the process itself that seeds a new node."""
    if unit.profile is None:
        return ReportRefusal.UNKNOWN_UNIT
    own = actor.role is Role.SHELTER and actor.organisation == unit.profile.shelter_id
    return None if own or actor.role is Role.SYSTEM else ReportRefusal.NOT_YOUR_SHELTER


def _refuse_report(unit: Unit, unit_id: str, context: Context, reason: ReportRefusal) -> ReportRefused:
    return ReportRefused(unit_id=unit_id, command_id=context.cause_id, reason=reason, revision=unit.revision)


def _place_hold(unit: Unit, request: HoldRequested, context: Context) -> Sequence[CapacityContract]:
    def refused(reason: HoldRefusal) -> Sequence[CapacityContract]:
        return [
            HoldRefused(unit_id=request.unit_id, hold_id=request.hold_id, request_id=request.request_id, reason=reason)
        ]

    if known := unit.holds.get(request.hold_id):
        # Released before it was placed: the tombstone refuses it for ever. Placed already: a second copy.
        return refused(HoldRefusal.ALREADY_RELEASED) if known.stage is HoldStage.OVER else ()
    if unit.profile is None:
        return refused(HoldRefusal.UNKNOWN_UNIT)
    if request.until <= context.now:
        return refused(HoldRefusal.ALREADY_OVER)
    if len(unit.free) < request.beds:
        return refused(HoldRefusal.NOT_ENOUGH_BEDS)
    return [
        HoldPlaced(
            unit_id=request.unit_id,
            hold_id=request.hold_id,
            request_id=request.request_id,
            beds=tuple(sorted(unit.free)[: request.beds]),
            until=request.until,
        )
    ]


def _release_hold(unit: Unit, request: HoldReleaseRequested) -> Sequence[CapacityContract]:
    known = unit.holds.get(request.hold_id)
    if known is None or known.stage in (HoldStage.HELD, HoldStage.FIRM):
        return [HoldReleased(unit_id=request.unit_id, hold_id=request.hold_id, request_id=request.request_id)]
    return ()


def _make_firm(unit: Unit, request: FirmHoldRequested, context: Context) -> Sequence[CapacityContract]:
    def refused(reason: FirmRefusal) -> Sequence[CapacityContract]:
        return [
            FirmHoldRefused(
                unit_id=request.unit_id, hold_id=request.hold_id, request_id=request.request_id, reason=reason
            )
        ]

    match unit.holds.get(request.hold_id):
        case None:
            return refused(FirmRefusal.UNKNOWN_HOLD)
        case Hold(stage=HoldStage.OVER, expired=True):
            return refused(FirmRefusal.HOLD_EXPIRED)
        case Hold(stage=HoldStage.OVER):
            return refused(FirmRefusal.HOLD_RELEASED)
        case Hold(stage=HoldStage.HELD, until=until) as hold if until is not None and until <= context.now:
            # It ran out a moment ago and the timer has not come round: capacity's clock decides, here and now.
            return [
                HoldExpired(unit_id=request.unit_id, hold_id=hold.hold_id, request_id=hold.request_id),
                *refused(FirmRefusal.HOLD_EXPIRED),
            ]
        case Hold(stage=HoldStage.HELD):
            return [HoldMadeFirm(unit_id=request.unit_id, hold_id=request.hold_id, request_id=request.request_id)]
    return ()


def _arrive(unit: Unit, arrival: ArrivalRecorded) -> Sequence[CapacityContract]:
    hold = unit.holds.get(arrival.hold_id)
    if arrival.outcome is ArrivalOutcome.ARRIVED and hold is not None and hold.stage is HoldStage.FIRM:
        return [BedsOccupied(unit_id=arrival.unit_id, hold_id=hold.hold_id, request_id=hold.request_id)]
    return ()


def _vacate(unit: Unit, ended: PlacementEnded) -> Sequence[CapacityContract]:
    hold = unit.holds.get(ended.hold_id)
    if hold is not None and hold.stage is HoldStage.OCCUPIED:
        return [BedsVacated(unit_id=ended.unit_id, hold_id=hold.hold_id, request_id=hold.request_id)]
    return ()


def _pass_time(unit: Unit, context: Context) -> Sequence[CapacityContract]:
    assert unit.profile is not None, "only a registered unit has anything that time can change"
    unit_id = unit.profile.unit_id
    happened: list[CapacityContract] = [
        HoldExpired(unit_id=unit_id, hold_id=hold.hold_id, request_id=hold.request_id)
        for hold in unit.holds.values()
        if hold.stage is HoldStage.HELD and hold.until is not None and hold.until <= context.now
    ]
    reached = [freshness for moment, freshness in _freshness_changes(unit) if moment <= context.now]
    if reached and reached[-1] is not unit.freshness:
        happened.append(FreshnessChanged(unit_id=unit_id, freshness=reached[-1]))
    return happened


def _standing(unit: Unit) -> UnitStandingChanged | None:
    if unit.profile is None:
        return None
    beds_in = dict.fromkeys(HoldStage, 0)
    for hold in unit.holds.values():
        beds_in[hold.stage] += len(hold.beds)
    held = beds_in[HoldStage.HELD] + beds_in[HoldStage.FIRM]
    occupied, free, blocked = beds_in[HoldStage.OCCUPIED], len(unit.free), len(unit.blocked)
    return UnitStandingChanged(
        unit_id=unit.profile.unit_id,
        beds=unit.beds,
        free=free,
        held=held,
        occupied=occupied,
        blocked=blocked,
        taken=unit.beds - free - held - occupied - blocked,
        revision=unit.revision,
    )


def _freshness_changes(unit: Unit) -> list[tuple[datetime, Freshness]]:
    if unit.reported_at is None or unit.rhythm is None:
        return []
    return [
        (unit.reported_at + unit.rhythm.fresh, Freshness.AGEING),
        (unit.reported_at + unit.rhythm.ageing, Freshness.OVERDUE),
        (unit.reported_at + unit.rhythm.overdue, Freshness.NOT_REPORTED),
    ]


def _next_freshness(unit: Unit) -> tuple[datetime, Freshness] | None:
    order = list(Freshness)
    later = [c for c in _freshness_changes(unit) if order.index(c[1]) > order.index(unit.freshness)]
    return later[0] if later else None


def _with_hold(unit: Unit, hold: Hold, version: int, **changes: Any) -> Unit:
    return replace(unit, holds={**unit.holds, hold.hold_id: hold}, revision=version, **changes)


def _over(unit: Unit, hold_id: str, request_id: str, version: int, *, expired: bool) -> Unit:
    known = unit.holds.get(hold_id)
    if known is None:  # the tombstone of a release that overtook its hold
        tombstone = Hold(hold_id=hold_id, request_id=request_id, beds=(), stage=HoldStage.OVER, until=None)
        return replace(unit, holds={**unit.holds, hold_id: tombstone})
    over = replace(known, stage=HoldStage.OVER, expired=expired)
    return _with_hold(unit, over, version, free=unit.free | set(known.beds))
